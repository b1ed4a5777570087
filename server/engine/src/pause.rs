//! Jobs and sources that were told to stand still, and go on when they are told to.
//!
//! Invariant: a paused view holds, at every epoch until it goes on, what it held when it came to rest; the epoch whose inputs that is
//! of is kept apart from those at which it is seen, so that nothing in between is passed over. It comes to rest where a checkpoint
//! has it when there can be one, together with what reads it, so a restart finds it as it was. A paused sink hands nothing over.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use thalweg_catalog::Oid;

use crate::error::EngineError;
use crate::job::Job;
use crate::shared::{Shared, Stored};

/// How long a job waits for the checkpoint that has it where it comes to rest.
const PATIENCE: Duration = Duration::from_secs(15);

/// How often that checkpoint is asked for.
const ASK_AGAIN: Duration = Duration::from_millis(250);

/// Whether a job stands still.
#[derive(Debug, Default)]
pub(crate) struct Rest {
    state: Mutex<State>,
    /// It stands still, or has not caught up; true before its content is seen at an epoch that it is not of.
    away: AtomicBool,
}

#[derive(Debug, Default)]
struct State {
    /// Since when it is to stand still.
    asked: Option<Instant>,
    /// When a checkpoint was asked for last.
    awaited: Option<Instant>,
    /// It does stand still.
    still: bool,
    /// Its newest checkpoint has what it holds.
    saved: bool,
    /// The epoch of the inputs that its content is of, while others see that content at later epochs.
    stands_at: Option<u64>,
}

impl Job {
    /// True from when it was told to stand still until it is told to go on.
    pub(crate) fn is_paused(&self) -> bool {
        self.rest.state.lock().asked.is_some()
    }

    /// True when nobody steps it because it is paused.
    pub(crate) fn is_still(&self) -> bool {
        self.rest.state.lock().still
    }

    /// The epoch of the inputs that its content is of, when that is not the one at which it is seen.
    pub(crate) fn stands_at(&self) -> Option<u64> {
        self.rest.state.lock().stands_at
    }

    /// True while checkpoints have to do without it: it stands still, or has not taken in yet what came meanwhile.
    pub(crate) fn is_away(&self) -> bool {
        self.rest.away.load(Ordering::SeqCst)
    }

    /// True when it stands still and every checkpoint has what it holds.
    pub(crate) fn is_saved_at_rest(&self) -> bool {
        let rest = self.rest.state.lock();
        rest.still && rest.saved
    }

    /// Only views are read.
    fn is_read(&self) -> bool {
        self.relation.kind == "materialized view"
    }

    /// Tells it to stand still.
    fn pause(&self, shared: &Shared) {
        self.rest
            .state
            .lock()
            .asked
            .get_or_insert_with(Instant::now);
        shared.checkpoints.ask();
    }

    /// Has it go on with `epoch`: through the one before it is seen as it was.
    fn go_on(&self, epoch: u64) {
        let mut rest = self.rest.state.lock();
        rest.asked = None;
        if !rest.still {
            return;
        }
        (rest.still, rest.saved) = (false, false);
        let behind = rest.stands_at.is_some();
        self.rest.away.store(behind, Ordering::SeqCst);
        if behind {
            let mut history = self.relation.history.lock();
            history.set_live(false, epoch.saturating_sub(1));
        }
        drop(rest);
        self.retry_now();
    }

    /// It was paused before the start.
    pub(crate) fn start_still(&self) {
        let mut rest = self.rest.state.lock();
        (rest.asked, rest.still) = (Some(Instant::now()), true);
        self.rest.away.store(true, Ordering::SeqCst);
    }

    /// At a start its content was found as it was saved at this epoch.
    pub(crate) fn was_found_at(&self, epoch: u64) {
        let mut rest = self.rest.state.lock();
        if rest.still && self.is_read() {
            (rest.saved, rest.stands_at) = (true, Some(epoch));
        }
    }

    /// Shows what was found at a start from `epoch` on.
    pub(crate) fn show_at_rest(&self, shared: &Shared, epoch: u64) {
        let rest = self.rest.state.lock();
        if !rest.still || rest.stands_at.is_none() {
            return;
        }
        let mut history = self.relation.history.lock();
        let published = history.publish(epoch, Vec::new());
        history.set_live(true, epoch);
        drop(history);
        if let Err(error) = published {
            shared.fail(&self.relation, "XX000", error.to_string());
        }
    }

    /// Its content is that of the epoch at which it is seen again.
    pub(crate) fn has_caught_up(&self) {
        let mut rest = self.rest.state.lock();
        rest.stands_at = None;
        self.rest.away.store(rest.still, Ordering::SeqCst);
    }

    /// True when it is paused and must not be stepped; comes to rest when there is nothing to wait for any more.
    pub(crate) fn rests(&self, shared: &Shared) -> bool {
        let (asked, still) = {
            let rest = self.rest.state.lock();
            (rest.asked, rest.still)
        };
        let Some(asked) = asked else { return false };
        // What is under way ends first: only then it is known where that leaves it.
        if still || !self.begin_now() {
            return true;
        }
        let moves = self.moves_on(shared, asked);
        self.end();
        !moves
    }

    /// True when it has to go on to where a checkpoint waits for it. Nobody steps it meanwhile.
    fn moves_on(&self, shared: &Shared, asked: Instant) -> bool {
        let done = self.relation.through(shared.latest());
        let saves = done.is_some() && self.can_be_saved(shared);
        let moved = self.has_moved(shared);
        if saves && moved && asked.elapsed() < PATIENCE {
            self.await_checkpoint(shared);
            return done.is_some_and(|done| self.wanted_at(done).is_some());
        }
        self.come_to_rest(shared, saves && !moved);
        false
    }

    fn await_checkpoint(&self, shared: &Shared) {
        let mut rest = self.rest.state.lock();
        if rest.awaited.is_none_or(|at| at.elapsed() >= ASK_AGAIN) {
            rest.awaited = Some(Instant::now());
            shared.checkpoints.ask();
        }
    }

    /// A checkpoint has it as of `epoch`: if that is where it stands, it stays there.
    pub(crate) fn rest_where_saved(&self, shared: &Shared, epoch: u64) {
        let here = || self.relation.through(shared.latest()) == Some(epoch);
        if self.is_paused() && self.begin_now() {
            if here() {
                self.come_to_rest(shared, true);
            }
            self.end();
        }
    }

    /// Nobody steps it meanwhile.
    fn come_to_rest(&self, shared: &Shared, saved: bool) {
        let mut rest = self.rest.state.lock();
        if rest.asked.is_none() || rest.still {
            return;
        }
        (rest.still, rest.saved) = (true, saved);
        self.rest.away.store(true, Ordering::SeqCst);
        let latest = shared.latest();
        let content = match self.is_read() {
            true => self.content_of(latest, &mut rest.saved),
            false => None,
        };
        if let Some(epoch) = content {
            rest.stands_at.get_or_insert(epoch);
            self.keep_places(shared, epoch);
            self.relation.history.lock().set_live(true, latest);
            // What it holds is right as of where it stands.
            *self.relation.failure.lock() = None;
        }
        drop(rest);
        tracing::info!(job = %self.relation.name, saved, "is paused");
        shared.bump();
    }

    /// The epoch that its content is of. What is on its way back from its checkpoint is seen as it was saved.
    fn content_of(&self, latest: u64, saved: &mut bool) -> Option<u64> {
        if let Some(through) = self.relation.through(latest) {
            return Some(through);
        }
        let epoch = self.saved_at()?;
        let mut history = self.relation.history.lock();
        history.publish(latest, Vec::new()).ok()?;
        *saved = true;
        Some(epoch)
    }

    /// Keeps where its inputs stand at `epoch`, for when that is longer ago than they remember.
    fn keep_places(&self, shared: &Shared, epoch: u64) {
        let here = |stands: &(u64, _)| stands.0 == epoch;
        if self.stands.lock().as_ref().is_some_and(here) {
            return;
        }
        if let Some(places) = self.places_to_keep(shared, epoch) {
            *self.stands.lock() = Some((epoch, places));
        }
    }
}

/// Whether a source stands still.
#[derive(Debug, Default)]
pub(crate) struct Hold {
    asked: AtomicBool,
    /// Its driver has noticed.
    still: AtomicBool,
}

impl Hold {
    pub(crate) fn new(paused: bool) -> Self {
        Self {
            asked: AtomicBool::new(paused),
            still: AtomicBool::default(),
        }
    }

    pub(crate) fn is_paused(&self) -> bool {
        self.asked.load(Ordering::SeqCst)
    }

    fn set(&self, paused: bool) {
        self.still.store(false, Ordering::SeqCst);
        self.asked.store(paused, Ordering::SeqCst);
    }

    /// For the driver: true when it must not read.
    pub(crate) fn holds(&self, shared: &Shared) -> bool {
        let paused = self.is_paused();
        if paused && !self.still.swap(true, Ordering::SeqCst) {
            shared.bump();
        }
        paused
    }
}

fn paused(relation: &Stored) -> EngineError {
    EngineError::Paused {
        object: relation.label(),
        resume: format!(
            "ALTER {} {} RESUME",
            relation.kind.to_uppercase(),
            relation.name
        ),
    }
}

impl Shared {
    /// Tells a job or source to stand still, or to go on with `epoch`; by the worker, between two epochs.
    pub(crate) fn set_paused(&self, oid: Oid, paused: bool, epoch: u64) {
        if let Some(source) = self.sources.read().get(&oid) {
            source.hold.set(paused);
        }
        match (self.job(oid), paused) {
            (Some(job), true) => job.pause(self),
            (Some(job), false) => job.go_on(epoch),
            (None, _) => {}
        }
    }

    /// Names what keeps an object from following its sources: itself, or something under it, that is paused.
    pub(crate) fn paused(&self, oid: Oid) -> Option<EngineError> {
        if let Some(source) = self.sources.read().get(&oid) {
            return source.hold.is_paused().then(|| paused(&source.history));
        }
        let job = self.job(oid)?;
        if job.is_paused() {
            return Some(paused(&job.relation));
        }
        let mut inputs = job.inputs.iter().filter(|input| input.oid != oid);
        inputs.find_map(|input| self.paused(input.oid))
    }

    /// Names what keeps an object from getting to any later epoch: a paused sink, or a paused view without content.
    pub(crate) fn stuck(&self, oid: Oid) -> Option<EngineError> {
        let job = self.job(oid)?;
        let empty = || job.is_still() && job.relation.through(self.latest()).is_none();
        if job.is_paused() && (!job.is_read() || empty()) {
            return Some(paused(&job.relation));
        }
        let mut inputs = job.inputs.iter().filter(|input| input.oid != oid);
        inputs.find_map(|input| self.stuck(input.oid))
    }

    /// True while something that was told to stand still does not.
    fn comes_to_rest(&self, oid: Oid) -> bool {
        match self.job(oid) {
            Some(job) => job.is_paused() && !job.is_still(),
            None => self.sources.read().get(&oid).is_some_and(|source| {
                let driven = source.state.lock().driver.is_some();
                driven && source.hold.is_paused() && !source.hold.still.load(Ordering::SeqCst)
            }),
        }
    }
}

/// Returns when what was told to stand still does; after a while in any case, because a run that has begun is not broken off.
pub(crate) async fn settled(shared: &Shared, oid: Oid) {
    let until = tokio::time::Instant::now() + PATIENCE + Duration::from_secs(1);
    let mut progress = shared.subscribe();
    loop {
        progress.mark_unchanged();
        if !shared.comes_to_rest(oid) || shared.halted().is_some() {
            return;
        }
        match tokio::time::timeout_at(until, progress.changed()).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) | Err(_) => return,
        }
    }
}
