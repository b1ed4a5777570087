//! What a job does next: nothing, stand at a later epoch at which nothing has changed, or run to one.
//!
//! Invariant: no run passes by the epoch at which a checkpoint wants the job. One that is behind takes everything up to there: the
//! more rows a run has, the less a row costs, so a job that is far behind gets on the fastest that way.

use std::sync::atomic::Ordering;

use super::Job;
use crate::choose::{Range, common, intersect, newest, roundest_after};
use crate::shared::Shared;

/// What a job does next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    Idle,
    /// Nothing that it reads changed through this epoch.
    Extend(u64),
    /// Compute at this epoch.
    Run(u64),
}

impl Job {
    /// Where it stands, or will when its run ends.
    pub(crate) fn heads_for(&self, shared: &Shared) -> Option<u64> {
        let target = self.state.lock().target;
        self.relation.through(shared.latest()).max(target)
    }

    pub(super) fn next(&self, shared: &Shared) -> Next {
        let latest = shared.latest();
        let created = self.created.load(Ordering::SeqCst);
        let oldest = shared.epochs.lock().front().map_or(0, |info| info.epoch.0);
        let lists: Vec<_> = self
            .inputs
            .iter()
            .map(|input| input.known(latest))
            .collect();
        let known =
            common(lists.iter().map(Vec::as_slice)).unwrap_or_else(|| vec![(created, latest)]);
        let done = self.relation.through(latest);
        // A checkpoint waits for it at an epoch that it must not pass by.
        let wanted = done.and_then(|done| self.wanted_at(done));
        // The wall clock of epochs before the window is gone, and so are most versions.
        let after = done
            .unwrap_or(created.saturating_sub(1))
            .max(oldest.saturating_sub(1));
        let known = match wanted {
            Some(wanted) => intersect(&known, &[(0, wanted)]),
            None => known,
        };
        let target = match wanted {
            Some(_) => newest(&known).filter(|epoch| *epoch > after),
            None => self.choose(shared, &known, after),
        };
        let Some(target) = target else {
            return Next::Idle;
        };
        // What a paused view is seen at is not what it is of.
        let stands = self.stands_at().or(done);
        if let (Some(done), Some(newest)) = (stands, newest(&known)) {
            let still = |epoch| {
                self.inputs
                    .iter()
                    .all(|input| input.history.lock().unchanged(done, epoch, latest))
            };
            match [newest, target].into_iter().find(|epoch| still(*epoch)) {
                Some(epoch) if !self.uses_now => return Next::Extend(epoch),
                // Only time has passed.
                Some(_) if !self.now_due(shared) => return Next::Idle,
                _ => {}
            }
        }
        Next::Run(target)
    }

    fn choose(&self, shared: &Shared, known: &[Range], after: u64) -> Option<u64> {
        let newest = newest(known).filter(|epoch| *epoch > after);
        // What made a run fail may be gone by now, and must not be computed again. And when nothing has happened since the last
        // run began, all views that are behind can meet at the end.
        let idle = self.state.lock().last_latest == Some(shared.latest());
        if idle || self.has_failed() {
            return newest;
        }
        // A run takes its time; begun near the end of the window it would end beyond it, where no live table is known.
        let young = shared.middle_epoch().saturating_sub(1).max(after);
        roundest_after(known, young).or_else(|| roundest_after(known, after))
    }

    fn now_due(&self, shared: &Shared) -> bool {
        let state = self.state.lock();
        state
            .last_run
            .is_none_or(|last| last.elapsed() >= shared.config.now_interval.mul_f32(0.9))
    }
}
