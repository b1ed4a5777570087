//! Which jobs are saved together, and at which epoch.
//!
//! Invariant: jobs that read each other are saved at one epoch in one transaction, or not at all. Each such group has a round of
//! its own, so one that takes long, or fails, holds up no other group and no table.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use thalweg_catalog::Oid;

use super::jobs::{Feeder, feeder, object};
use crate::job::Job;
use crate::shared::Shared;

/// How long a job that did not come to its group's epoch in time is left out.
const LEFT_OUT: Duration = Duration::from_secs(5 * 60);

/// A group of jobs on its way to an epoch.
#[derive(Debug)]
pub(super) struct Round {
    pub(super) epoch: u64,
    pub(super) jobs: Vec<Arc<Job>>,
    begun: Instant,
}

impl Round {
    fn is_whole(&self) -> bool {
        self.jobs.iter().all(|job| job.is_taken_at(self.epoch))
    }

    fn has(&self, jobs: &[Arc<Job>]) -> bool {
        let same = |(own, other): (&Arc<Job>, &Arc<Job>)| Arc::ptr_eq(own, other);
        self.jobs.len() == jobs.len() && self.jobs.iter().zip(jobs).all(same)
    }

    /// Takes the jobs that stand where they are wanted and are not running; one that runs does it at its end.
    fn take(&self, shared: &Shared) {
        for job in &self.jobs {
            if job.is_taken_at(self.epoch) {
                continue;
            }
            if job.stateful.is_none() {
                job.take(shared);
            } else if job.begin() {
                job.take(shared);
                job.end();
            }
        }
    }

    /// True when a job can no longer come to the epoch.
    fn is_missed(&self, shared: &Shared) -> bool {
        let oldest = shared.epochs.lock().front().map_or(0, |info| info.epoch.0);
        self.epoch < oldest
            || self.jobs.iter().any(|job| {
                let latest = shared.latest();
                let through = job.relation.through(latest);
                // A run that had begun before it was asked for may have passed the epoch by.
                through.is_some_and(|through| through > self.epoch)
                    && !job.is_taken_at(self.epoch)
                    && (job.stateful.is_some() || job.relation.at(self.epoch, latest).is_none())
            })
    }

    /// Has the next rounds do without those that did not come, so that the others do not wait for them again and again. Without
    /// its state a job is computed from what it reads; what a stream held may be gone then, so one that reads streams is waited for,
    /// and so is what others read.
    fn leave_out_the_late(&self) {
        let is_read = |job: &Arc<Job>| {
            let relation = &job.relation;
            let mut inputs = self.jobs.iter().flat_map(|other| &other.inputs);
            inputs.any(|input| Arc::ptr_eq(input, relation))
        };
        for job in &self.jobs {
            if job.is_taken_at(self.epoch) || job.reads_streams() || is_read(job) {
                continue;
            }
            if let Some(saving) = job.saving() {
                saving.state.lock().left_out_until = Some(Instant::now() + LEFT_OUT);
            }
        }
    }

    pub(super) fn saves(&self, job: &Arc<Job>) -> bool {
        self.jobs.iter().any(|own| Arc::ptr_eq(own, job))
    }

    pub(super) fn give_up(&self) {
        self.jobs.iter().for_each(|job| job.was_not_saved());
    }
}

/// From when on a job that cannot be saved because its sink's log is full, because it is paused, or because a table outside does not
/// answer, holds the logs of the tables that it reads.
fn note_the_held(shared: &Shared) {
    let waits = |job: &&Arc<Job>| job.is_held() || job.is_away() || job.waits_outside();
    for job in shared.jobs.read().values().filter(waits) {
        if let Some(saving) = job.saving() {
            let mut state = saving.state.lock();
            state.behind_since.get_or_insert_with(Instant::now);
        }
    }
}

/// Where a group is asked to come to: where the first of it is heading, so that one far behind is saved on its way. To the newest
/// epoch when `all` is to be saved, or none has moved since the last time.
fn meeting_of(jobs: &[Arc<Job>], shared: &Shared, all: bool) -> u64 {
    let heads: Option<Vec<u64>> = jobs.iter().map(|job| job.heads_for(shared)).collect();
    let first = heads.and_then(|heads| heads.into_iter().max());
    let saved = jobs.iter().filter_map(|job| job.saved_at()).max();
    first
        .filter(|first| !all && Some(*first) > saved)
        .unwrap_or_else(|| shared.latest())
}

/// Begins rounds where something has moved, and gives up those that cannot end any more.
pub(super) fn renew(shared: &Shared, rounds: &mut Vec<Round>, all: bool) {
    let groups = groups(shared);
    let late = shared.config.snapshot_history / 2;
    rounds.retain(|round| {
        let same = groups.iter().any(|jobs| round.has(jobs));
        let is_late = round.begun.elapsed() >= late;
        if same && is_late {
            round.leave_out_the_late();
        }
        let stays = same && !is_late && !round.is_missed(shared);
        if !stays {
            round.give_up();
        }
        stays
    });
    note_the_held(shared);
    for jobs in self::groups(shared) {
        let under_way = rounds.iter().any(|round| round.has(&jobs));
        // What is not back yet was saved at the epoch at which these were.
        let awaited = jobs
            .iter()
            .any(|job| shared.checkpoints.is_read_by_awaited(object(job)));
        if under_way || awaited || !jobs.iter().any(|job| job.has_moved(shared)) {
            continue;
        }
        let epoch = meeting_of(&jobs, shared, all);
        for job in &jobs {
            if let Some(saving) = job.saving() {
                saving.want(epoch);
                let mut state = saving.state.lock();
                state.behind_since.get_or_insert_with(Instant::now);
            }
        }
        rounds.push(Round {
            epoch,
            jobs,
            begun: Instant::now(),
        });
    }
    // Jobs that are behind may go on now, but not beyond where they are wanted.
    shared.bump();
}

/// Waits for rounds to become whole, at most `patience`, and gives those that have.
pub(super) fn gather(shared: &Shared, rounds: &mut Vec<Round>, patience: Duration) -> Vec<Round> {
    let deadline = Instant::now() + patience;
    let mut seen = 0;
    loop {
        rounds.iter().for_each(|round| round.take(shared));
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() || rounds.iter().all(Round::is_whole) || shared.is_stopping() {
            return rounds.extract_if(.., |round| round.is_whole()).collect();
        }
        seen = shared.wait_for_bump(seen, left);
    }
}

/// Jobs that can be saved, by who reads whom.
fn groups(shared: &Shared) -> Vec<Vec<Arc<Job>>> {
    let jobs: Vec<Arc<Job>> = shared.jobs.read().values().cloned().collect();
    let jobs: Vec<Arc<Job>> = jobs
        .into_iter()
        .filter(|job| job.can_be_saved(shared))
        .collect();
    // Each points to a job of its group with a smaller number, the first one to itself.
    let mut first: BTreeMap<Oid, Oid> = jobs.iter().map(|job| (job.oid, job.oid)).collect();
    fn root(first: &BTreeMap<Oid, Oid>, mut oid: Oid) -> Oid {
        while let Some(next) = first.get(&oid).filter(|next| **next != oid) {
            oid = *next;
        }
        oid
    }
    for job in &jobs {
        for input in &job.inputs {
            let Some(Feeder::Job(feeding)) = feeder(shared, job, input) else {
                continue;
            };
            let (one, other) = (root(&first, job.oid), root(&first, feeding.oid));
            first.insert(one.max(other), one.min(other));
        }
    }
    let mut groups: BTreeMap<Oid, Vec<Arc<Job>>> = BTreeMap::new();
    for job in jobs {
        groups.entry(root(&first, job.oid)).or_default().push(job);
    }
    groups.into_values().collect()
}
