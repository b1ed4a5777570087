//! What the query of a sink gives before it has come to an epoch, handed on in parts as its sources are read.
//!
//! Invariant: memory holds a few parts, however much there is. A sink that delivers at least once gets them at once, and who reads
//! waits for it; a part of a run that fails may come again. Of a sink that delivers exactly once they are written to disk, where
//! they count from the checkpoint on that saves its job, and are rubbish when there is none.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use thalweg_connectors::Delta;

use crate::error::EngineError;
use crate::job::Job;
use crate::shared::Shared;
use crate::sink_log::{EarlyRuns, SinkLog};

/// Parts that may wait for a sink.
const PARTS_MAX: usize = 2;

/// How often one who waits looks whether anybody wants the rest.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// Rows for a sink that no epoch of its query has yet.
#[derive(Debug, Clone)]
pub(crate) struct Part {
    /// An epoch by which its sources had them.
    pub(crate) epoch: u64,
    pub(crate) changes: Vec<Delta>,
}

/// Parts on their way to a sink that takes changes.
#[derive(Debug, Default)]
pub(crate) struct Handing {
    waiting: Mutex<VecDeque<Part>>,
    taken: Condvar,
}

impl Handing {
    /// Hands a part over. Waits for room, or until `over` says that nobody wants it.
    pub(crate) fn give(&self, part: Part, over: &dyn Fn() -> bool) {
        let mut waiting = self.waiting.lock();
        while waiting.len() >= PARTS_MAX {
            if over() {
                return;
            }
            self.taken.wait_for(&mut waiting, LOOK_AGAIN);
        }
        waiting.push_back(part);
    }

    /// The oldest part, when everything through its epoch is durable.
    pub(crate) fn take(&self, durable: u64) -> Option<Part> {
        let part = self
            .waiting
            .lock()
            .pop_front_if(|part| part.epoch <= durable);
        self.taken.notify_all();
        part
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.lock().is_empty()
    }

    /// Gives up what waits: the query begins again.
    fn clear(&self) {
        self.waiting.lock().clear();
    }

    fn bytes(&self) -> usize {
        let waiting = self.waiting.lock();
        waiting.iter().map(|part| bytes_of(&part.changes)).sum()
    }
}

fn bytes_of(changes: &[Delta]) -> usize {
    let bytes = |delta: &Delta| delta.batch.get_array_memory_size();
    changes.iter().map(bytes).sum()
}

/// Where parts go.
enum Way {
    Sink(Arc<Handing>),
    Log(Arc<SinkLog>, EarlyRuns),
}

/// What the query of a sink has given so far.
pub(crate) struct Early<'a> {
    shared: &'a Arc<Shared>,
    job: &'a Job,
    way: Way,
    waiting: Vec<Delta>,
    bytes: usize,
}

impl<'a> Early<'a> {
    /// `None` for a query that may take back what it gave, or has given something that is not delivered yet. With `resumed` it
    /// goes on where it stood.
    pub(crate) fn of(shared: &'a Arc<Shared>, job: &'a Job, resumed: bool) -> Option<Self> {
        let streams = job.inputs.iter().all(|input| input.is_stream());
        if !job.linear || !streams || job.relation.history.lock().has_changes() {
            return None;
        }
        let way = match (job.handing.get(), job.log.get()) {
            (Some(handing), _) => {
                // What a run that ended has given comes before what follows it.
                if !resumed {
                    handing.clear();
                }
                Way::Sink(Arc::clone(handing))
            }
            (None, Some(log)) if job.is_only_a_place() && log.takes_early(resumed) => {
                Way::Log(Arc::clone(log), EarlyRuns::default())
            }
            _ => return None,
        };
        Some(Self {
            shared,
            job,
            way,
            waiting: Vec::new(),
            bytes: 0,
        })
    }

    /// Takes what the query gives, and hands on what is enough for a part.
    pub(crate) fn add(&mut self, deltas: Vec<Delta>) -> Result<(), EngineError> {
        self.bytes += bytes_of(&deltas);
        self.waiting.extend(deltas);
        if self.bytes < self.shared.config.early_bytes_max {
            return Ok(());
        }
        self.bytes = 0;
        let changes = std::mem::take(&mut self.waiting);
        match &mut self.way {
            Way::Log(log, early) => log.write_early(self.shared, &changes, early),
            Way::Sink(handing) => {
                let (job, shared) = (self.job, self.shared);
                let over = || job.is_dropped() || shared.is_stopping();
                let epoch = shared.latest();
                handing.give(Part { epoch, changes }, &over);
                shared.bump();
                Ok(())
            }
        }
    }

    /// Bytes in memory.
    pub(crate) fn bytes(&self) -> usize {
        let handed = match &self.way {
            Way::Sink(handing) => handing.bytes(),
            Way::Log(..) => 0,
        };
        self.bytes + handed
    }

    /// What is left for the first epoch, and what is on disk and counts with it.
    pub(crate) fn finish(self) -> (Vec<Delta>, Option<EarlyRuns>) {
        match self.way {
            Way::Sink(_) => (self.waiting, None),
            Way::Log(_, early) => (self.waiting, Some(early)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(epoch: u64) -> Part {
        Part {
            epoch,
            changes: Vec::new(),
        }
    }

    /// Parts leave in order and not before they are durable, and who gives too many waits until one is taken.
    #[test]
    fn parts_wait_for_who_takes_them() {
        let handing = Arc::new(Handing::default());
        let giving = {
            let handing = Arc::clone(&handing);
            std::thread::spawn(move || {
                (1..=20).for_each(|epoch| handing.give(part(epoch), &|| false))
            })
        };
        let mut taken = Vec::new();
        while taken.len() < 20 {
            assert!(handing.waiting.lock().len() <= PARTS_MAX);
            assert!(handing.take(taken.len() as u64).is_none(), "not durable");
            taken.extend(handing.take(u64::MAX).map(|part| part.epoch));
        }
        giving.join().expect("all are given");
        assert_eq!(taken, (1..=20).collect::<Vec<_>>());
        // Nobody waits for a sink that is gone.
        (0..5).for_each(|epoch| handing.give(part(epoch), &|| true));
        assert_eq!(handing.waiting.lock().len(), PARTS_MAX);
        handing.clear();
        assert!(handing.is_empty() && handing.take(u64::MAX).is_none());
    }
}
