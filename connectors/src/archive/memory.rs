//! Memory that the writers of archives hold until a row group is written or a file is closed.
//!
//! Invariant: what a writer holds is counted until it is let go of, or the writer is gone. While all writers together hold more than
//! they may, nobody keeps more than an equal part.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What the writers of all archives may hold together, and what they do.
#[derive(Debug)]
pub struct WriterMemory {
    bytes_max: usize,
    used: AtomicUsize,
    /// Writers that hold anything.
    writers: AtomicUsize,
}

impl Default for WriterMemory {
    fn default() -> Self {
        Self::new(usize::MAX)
    }
}

impl WriterMemory {
    /// So many bytes for all writers that share this.
    pub fn new(bytes_max: usize) -> Self {
        Self {
            bytes_max,
            used: AtomicUsize::new(0),
            writers: AtomicUsize::new(0),
        }
    }

    /// Bytes that files being written hold.
    pub fn used(&self) -> usize {
        self.used.load(Ordering::SeqCst)
    }

    /// True when one that holds so many bytes has to let go of some.
    fn is_over(&self, bytes: usize) -> bool {
        let writers = self.writers.load(Ordering::SeqCst).max(1);
        self.used() > self.bytes_max && bytes > self.bytes_max / writers
    }
}

/// What one writer holds.
#[derive(Debug)]
pub(crate) struct Held {
    all: Arc<WriterMemory>,
    /// What all writers of the archive hold.
    archive: Arc<AtomicUsize>,
    files: usize,
    passing: usize,
}

impl Held {
    pub(crate) fn new(all: Arc<WriterMemory>, archive: Arc<AtomicUsize>) -> Self {
        Self {
            all,
            archive,
            files: 0,
            passing: 0,
        }
    }

    /// Files that are not closed hold so many bytes now.
    pub(crate) fn by_files(&mut self, bytes: usize) {
        change(&self.all.used, self.files, bytes);
        change(&self.archive, self.files, bytes);
        let holds = |bytes: usize| usize::from(bytes > 0);
        change(&self.all.writers, holds(self.files), holds(bytes));
        self.files = bytes;
    }

    /// So many bytes are on their way into files, and go by themselves.
    pub(crate) fn passing(&mut self, bytes: usize) {
        change(&self.archive, self.passing, bytes);
        self.passing = bytes;
    }

    /// True while files hold more than their part of what there is.
    pub(crate) fn is_over(&self) -> bool {
        self.all.is_over(self.files)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.by_files(0);
        self.passing(0);
    }
}

fn change(counter: &AtomicUsize, before: usize, after: usize) {
    match after >= before {
        true => counter.fetch_add(after - before, Ordering::SeqCst),
        false => counter.fetch_sub(before - after, Ordering::SeqCst),
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_little_keeps_it_when_others_have_much() {
        let all = Arc::new(WriterMemory::new(100));
        let archives: [Arc<AtomicUsize>; 2] = Default::default();
        let [mut one, mut two] = archives
            .each_ref()
            .map(|archive| Held::new(Arc::clone(&all), Arc::clone(archive)));
        one.by_files(90);
        assert!(!one.is_over(), "there is room");
        two.by_files(30);
        assert!(one.is_over() && !two.is_over());
        one.by_files(60);
        two.passing(1_000);
        assert!(!one.is_over(), "what passes goes by itself");
        assert_eq!(
            (all.used(), archives[1].load(Ordering::SeqCst)),
            (90, 1_030)
        );
        drop(two);
        assert_eq!((all.used(), archives[1].load(Ordering::SeqCst)), (60, 0));
        one.by_files(101);
        assert!(one.is_over(), "alone it may have everything, and no more");
    }
}
