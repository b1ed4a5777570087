//! How much of the disk of the data dir is free, and who waits when it is little.
//!
//! Invariant: sources stand still and statements that write rows are refused before the disk is full, so that what frees space always
//! finds some: deletions, drops, checkpoints that cut the log, merges of small runs. Who fills the disk beside us can still have a
//! write of the log fail; then everything waits for the log.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use thalweg_catalog::Report;
use thalweg_connectors::Delta;

use crate::error::EngineError;
use crate::shared::{Shared, Stored};

/// What is free, as it was when somebody looked last.
#[derive(Debug)]
pub(crate) struct DiskRoom {
    floor: u64,
    free: AtomicU64,
    low: AtomicBool,
}

impl DiskRoom {
    /// Nothing is added while less than `floor` bytes are free.
    pub(crate) fn new(floor: u64) -> Self {
        Self {
            floor,
            free: AtomicU64::new(u64::MAX),
            low: AtomicBool::new(false),
        }
    }

    pub(crate) fn is_low(&self) -> bool {
        self.low.load(Ordering::SeqCst)
    }

    /// How long until one has to look again: what is written meanwhile has to fit.
    pub(crate) fn wait(&self, closely: Duration, seldom: Duration) -> Duration {
        let free = self.free.load(Ordering::SeqCst);
        match free < self.floor.saturating_mul(4) {
            true => closely,
            false => seldom,
        }
    }

    /// Refuses a change that writes rows while there is no room for them. Rows may always be taken away.
    pub(crate) fn admit(&self, stored: &Stored, deltas: &[Delta]) -> Result<(), EngineError> {
        let adds = |delta: &Delta| (0..delta.num_rows()).any(|row| delta.weights.at(row) > 0);
        if !self.is_low() || !deltas.iter().any(adds) {
            return Ok(());
        }
        let free = self.free.load(Ordering::SeqCst);
        Err(Report {
            detail: Some(format!(
                "{free} bytes are free on the disk of the data dir, where {} have to stay free; {} would get rows.",
                self.floor,
                stored.label()
            )),
            hint: Some("Free some space; the server goes on by itself then. Rows can be deleted meanwhile.".into()),
            ..Report::new("53100", "there is no room on disk for more rows")
        }
        .into())
    }

    /// Takes over what is free now; true when that begins or ends a time without room.
    fn set(&self, free: u64) -> bool {
        self.free.store(free, Ordering::SeqCst);
        let before = self.is_low();
        let low = is_low(free, self.floor, before);
        self.low.store(low, Ordering::SeqCst);
        before != low
    }
}

/// Up to a quarter above the floor nothing changes, so that sources do not stop and go with every checkpoint.
fn is_low(free: u64, floor: u64, before: bool) -> bool {
    free < if before { floor + floor / 4 } else { floor }
}

/// Looks at the disk, and says so when its room ends or comes back.
pub(crate) fn look(shared: &Shared) {
    let room = &shared.disk;
    let free = match shared.checkpoints.runs.free_bytes() {
        Ok(free) => free,
        Err(error) => {
            tracing::debug!(%error, "free space is not known");
            return;
        }
    };
    if room.set(free) {
        let (floor, held_back) = (room.floor, room.is_low());
        let what = if held_back {
            "is nearly full"
        } else {
            "has room again"
        };
        tracing::warn!(free, floor, held_back, "the disk of the data dir {what}");
        shared.bump();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_comes_back_with_some_to_spare() {
        let room = DiskRoom::new(1_000);
        let seen =
            [5_000, 999, 1_000, 1_249, 1_250, 1_000, 0].map(|free| (room.set(free), room.is_low()));
        let wanted = [
            (false, false),
            (true, true),
            (false, true),
            (false, true),
            (true, false),
            (false, false),
            (true, true),
        ];
        assert_eq!(seen, wanted);
        let none = DiskRoom::new(0);
        assert!(!none.set(0) && !none.is_low());
    }
}
