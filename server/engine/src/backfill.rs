//! Brings a view to where its inputs are by reading its sources again: when it begins, after a failure, and when it fell behind.
//!
//! Invariant: every row of a source reaches the view once, from the scan or from the changes that follow it, because both are
//! cut at the offsets of the same epoch. Nothing is published before all inputs stand at one epoch, and nobody else waits.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use thalweg_catalog::Oid;
use thalweg_connectors::{Delta, Offsets};
use tokio::sync::oneshot;

use crate::checkpoint::go_back;
use crate::choose::{Range, common, intersect, newest};
use crate::chunk::RowCodec;
use crate::create::receive;
use crate::dataflow::Dataflow;
use crate::early::Early;
use crate::error::EngineError;
use crate::history::{Attached, History};
use crate::inbox::{Command, Registration};
use crate::job::Job;
use crate::memory::Counted;
use crate::relation::Version;
use crate::run::{Outcome, positive_content};
use crate::scan::{Patience, Scan, ScanProgress, join, newest_place};
use crate::shared::{Shared, Stored};
use crate::sink_log::{EarlyRuns, insertions};
use crate::source::Source;

/// How often a view looks whether its inputs have got further, when nobody says so.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// Where the inputs of a view stand.
#[derive(Debug, Clone, Default)]
pub(crate) struct Places {
    streams: BTreeMap<Oid, StreamPlace>,
    contents: BTreeMap<Oid, Arc<Version>>,
}

/// Where an epoch ends in a source.
#[derive(Debug, Clone)]
struct StreamPlace {
    epoch: u64,
    offsets: Offsets,
}

impl Places {
    /// Where a source stands.
    pub(crate) fn of(&self, source: Oid) -> Option<&Offsets> {
        self.streams.get(&source).map(|place| &place.offsets)
    }

    /// Where the inputs stood at an epoch of an earlier run of the server.
    pub(crate) fn at(
        epoch: u64,
        streams: BTreeMap<Oid, Offsets>,
        contents: BTreeMap<Oid, Arc<Version>>,
    ) -> Self {
        let place = |(oid, offsets)| (oid, StreamPlace { epoch, offsets });
        Self {
            streams: streams.into_iter().map(place).collect(),
            contents,
        }
    }
}

impl Places {
    /// Counts the contents that stay for it.
    pub(crate) fn count(&self, counted: &mut Counted) {
        self.contents
            .values()
            .for_each(|version| version.count(counted));
    }
}

/// What turns the rows of the inputs into those of the view.
enum Stepper {
    Flow(Box<Dataflow>),
    Rows,
}

struct Backfill<'a> {
    job: &'a Job,
    shared: &'a Arc<Shared>,
    stepper: Stepper,
    places: Places,
    output: Output<'a>,
}

/// The view's changes so far.
enum Output<'a> {
    /// Of a view with state, which takes back and forth: netted as they come.
    Netted(Version),
    /// Of a view without: rows that were taken away are few.
    Listed(Vec<Delta>),
    /// Of a sink's query without state: most of them are not here any more.
    Early(Early<'a>),
}

impl Output<'_> {
    fn add(&mut self, deltas: Vec<Delta>) -> Result<(), EngineError> {
        match self {
            Output::Netted(version) => *version = version.with(&deltas)?,
            Output::Listed(list) => list.extend(deltas),
            Output::Early(early) => early.add(deltas)?,
        }
        Ok(())
    }

    fn bytes(&self) -> usize {
        match self {
            Output::Netted(version) => version.bytes(),
            Output::Listed(list) => {
                let bytes = |delta: &Delta| delta.batch.get_array_memory_size();
                list.iter().map(bytes).sum()
            }
            Output::Early(early) => early.bytes(),
        }
    }

    /// All that is in memory, and what is not.
    fn changes(
        self,
        codec: &Arc<RowCodec>,
    ) -> Result<(Vec<Delta>, Option<EarlyRuns>), EngineError> {
        let changes = match self {
            Output::Listed(list) if list.iter().all(|delta| delta.weights.all_positive()) => list,
            Output::Listed(list) => Version::empty(Arc::clone(codec)).with(&list)?.changes()?,
            Output::Netted(version) => version.changes()?,
            Output::Early(early) => return Ok(early.finish()),
        };
        Ok((changes, None))
    }
}

impl Job {
    pub(crate) fn reads_streams(&self) -> bool {
        self.inputs.iter().any(|input| input.is_stream())
    }

    /// True when a run to `target` cannot go by the changes that are in memory.
    pub(crate) fn has_to_read(&self, target: u64) -> bool {
        if !self.reads_streams() {
            return false;
        }
        let since = match &self.stateful {
            Some(_) => self.dataflow.lock().as_ref().map(|standing| standing.epoch),
            None => self.relation.history.lock().through(target),
        };
        let here = |since: u64| {
            let kept = |input: &Arc<Stored>| since >= self.changes_after(input);
            self.inputs.iter().all(kept)
        };
        self.starts_over() || !since.is_some_and(here)
    }

    /// Later changes of an input are in memory, with everything that the view reads.
    fn changes_after(&self, input: &Stored) -> u64 {
        let columns = self.columns_read(input.oid);
        input.history.lock().changes_after_of(columns)
    }

    /// True when the view can go on by the changes that follow an epoch: all that came are in memory, and what is on its way has
    /// what the view reads.
    fn can_follow_from(&self, input: &Stored, epoch: u64) -> bool {
        let suits = |source: Arc<Source>| source.suits_from(epoch, self.columns_read(input.oid));
        epoch >= self.changes_after(input) && input.source().is_none_or(suits)
    }

    /// Where the inputs stand, for a run that the changes in memory are not enough for. Without sources the inputs' content is.
    pub(crate) fn places_to_keep(&self, shared: &Shared, epoch: u64) -> Option<Places> {
        self.reads_streams()
            .then(|| self.places_at(shared, epoch))?
    }

    /// True when where the inputs stood at `done` is known, though it is longer ago than changes are kept.
    pub(crate) fn can_read_again(&self, done: Option<u64>) -> bool {
        let stands = self.stands.lock();
        let there = stands.as_ref().map(|(epoch, _)| *epoch);
        self.reads_streams() || (there.is_some() && there == done)
    }

    /// Where the inputs stand at an epoch of the window.
    fn places_at(&self, shared: &Shared, epoch: u64) -> Option<Places> {
        let latest = shared.latest();
        let mut places = Places::default();
        for input in &self.inputs {
            match input.source() {
                Some(source) => {
                    let offsets = source.offsets_at(epoch)?;
                    let place = StreamPlace { epoch, offsets };
                    places.streams.insert(input.oid, place);
                }
                None => {
                    places.contents.insert(input.oid, input.at(epoch, latest)?);
                }
            }
        }
        Some(places)
    }

    /// Reads what is between the published content, which stands at `done`, and an epoch not before `target`. A view with state
    /// needs its `flow` for that; otherwise it is read from the start.
    pub(crate) fn read_again(
        &self,
        shared: &Arc<Shared>,
        target: u64,
        done: Option<u64>,
        flow: Option<Dataflow>,
    ) -> Result<Option<Outcome>, EngineError> {
        let _scans = Scans(self);
        tracing::trace!(view = %self.relation.name, "backfill begins");
        let (mut places, mut flow) = (None, flow);
        if !self.starts_over() && self.stateful.is_some() == flow.is_some() {
            places = done.and_then(|done| self.stood_at(shared, done));
        }
        // What its newest checkpoint has is better than what its sources still have.
        let back = match &places {
            Some(_) => None,
            None => go_back(shared, self)?,
        };
        let mut base = None;
        if let Some(back) = back {
            (places, flow) = (Some(back.places), back.flow);
            base = Some((back.epoch, back.content));
        }
        let resumed = places.is_some();
        let stepper = match (&self.stateful, flow.filter(|_| resumed)) {
            (_, Some(flow)) => Stepper::Flow(Box::new(flow)),
            (Some(root), None) => Stepper::Flow(Box::new(self.new_flow(shared, root)?)),
            (None, None) => Stepper::Rows,
        };
        let codec = &self.relation.codec;
        let output = match stepper {
            Stepper::Flow(_) => Output::Netted(Version::empty(Arc::clone(codec))),
            Stepper::Rows => Early::of(shared, self, resumed)
                .map_or_else(|| Output::Listed(Vec::new()), Output::Early),
        };
        let mut run = Backfill {
            job: self,
            shared,
            stepper,
            places: places.unwrap_or_default(),
            output,
        };
        let mut least = target;
        let visible = match resumed {
            true => run.go_on()?,
            false => run.begin()?,
        };
        least = least.max(visible);
        let Some(epoch) = run.catch_up(least)? else {
            return Ok(None);
        };
        let (changes, early) = run.output.changes(codec)?;
        let raised = match resumed && base.is_none() {
            true => self.errors.take_step(),
            false => self.errors.take_run(),
        };
        let mut since = None;
        let deltas = match base {
            Some((epoch, content)) if self.relation.history.lock().keeps_content() => {
                tracing::trace!(epoch, "changes are compared with what was published");
                self.published(shared)?.diff_to(&content.with(&changes)?)?
            }
            Some((epoch, _)) => {
                since = Some(epoch);
                changes
            }
            None if resumed => changes,
            None => self.difference(shared, changes)?,
        };
        self.record_compute_errors(shared, epoch, raised);
        let places = Some(run.places).filter(|_| self.reads_streams());
        Ok(Some(match run.stepper {
            Stepper::Flow(flow) => Outcome {
                since,
                ..self.outcome(*flow, epoch, deltas, places)
            },
            Stepper::Rows => Outcome {
                epoch,
                deltas,
                standing: None,
                places,
                since,
                early,
            },
        }))
    }

    /// What changes when the whole content is this.
    fn difference(&self, shared: &Shared, content: Vec<Delta>) -> Result<Vec<Delta>, EngineError> {
        let old = self.published(shared)?;
        if old.is_empty() {
            return Ok(content);
        }
        let changes = old.diff_to_content(content)?;
        // What a sink has delivered of a stream stays delivered, whatever the stream has lost.
        match self.log.get().is_some() && self.is_only_a_place() {
            true => changes.into_iter().map(insertions).collect(),
            false => Ok(changes),
        }
    }

    /// Where the inputs stood when the published content was that of `done`.
    fn stood_at(&self, shared: &Shared, done: u64) -> Option<Places> {
        let stands = self.stands.lock().clone();
        match stands.filter(|(epoch, _)| *epoch == done) {
            Some((_, places)) => Some(places),
            None => self.places_at(shared, done),
        }
    }
}

/// Forgets the scans of a job when its run ends, however it does.
struct Scans<'a>(&'a Job);

impl Drop for Scans<'_> {
    fn drop(&mut self) {
        tracing::trace!(view = %self.0.relation.name, "backfill ends");
        self.0.backfill.lock().clear();
        self.0.building_bytes.store(0, Ordering::SeqCst);
    }
}

impl Backfill<'_> {
    fn is_over(&self) -> bool {
        self.job.is_dropped() || self.shared.is_stopping()
    }

    fn feed(&mut self, changes: &BTreeMap<Oid, Vec<Delta>>) -> Result<(), EngineError> {
        let deltas = match &mut self.stepper {
            Stepper::Flow(flow) => {
                flow.step(&self.job.step_context(changes), &self.job.relation.codec)?
            }
            Stepper::Rows => self.job.apply(self.shared, changes)?,
        };
        self.output.add(deltas)?;
        if let Stepper::Flow(flow) = &self.stepper {
            self.job.note_state(flow);
        }
        let bytes = self.output.bytes();
        self.job.building_bytes.store(bytes, Ordering::SeqCst);
        Ok(())
    }

    /// Takes in what is there; returns the epoch before which not all of its dead letters are visible.
    fn begin(&mut self) -> Result<u64, EngineError> {
        let job = self.job;
        let (streams, kept): (Vec<_>, Vec<_>) =
            job.inputs.iter().partition(|input| input.is_stream());
        let mut content = BTreeMap::new();
        for input in kept {
            let version = input.history.lock().newest();
            content.insert(input.oid, positive_content(input, &version)?);
            self.places.contents.insert(input.oid, version);
        }
        // Even without rows: an aggregate over nothing has a result.
        self.feed(&content)?;
        let mut dead = false;
        let attached = Attached::of(self.shared, job)?;
        for input in streams {
            let Some(source) = input.source() else {
                continue;
            };
            let start = match &attached {
                Some(attached) => Some(attached.start(&source)),
                None => self.history_of(input.oid, &source)?,
            };
            if start.is_none() {
                self.check_whole(input.oid, &source)?;
            }
            let start = start.as_ref().unwrap_or(&source.start);
            dead |= self.scan_from(input.oid, &source, start)?;
            if let Some(attached) = &attached {
                attached.check(&source, self.places.of(input.oid))?;
            }
        }
        self.visible(dead)
    }

    /// Refuses to compute a view that had more of a source than is left of it: it would change without a reason that anybody gave.
    fn check_whole(&self, oid: Oid, source: &Source) -> Result<(), EngineError> {
        let Some(had) = self.job.had.lock().get(&oid).cloned() else {
            return Ok(());
        };
        let wait = self.shared.config.source_end_wait;
        let (label, asked) = (
            source.history.label(),
            source.connector.lost(&source.start, &had),
        );
        let asked = async { tokio::time::timeout(wait, asked).await };
        let answer = self.shared.wires.block_on(asked);
        let lost = answer
            .map_err(|_| {
                EngineError::statement(
                    "08001",
                    format!("what {label} holds is not known in time"),
                    None,
                )
            })?
            .map_err(|error| error.report())?;
        let Some(lost) = lost else {
            return Ok(());
        };
        let view = self.job.relation.label();
        let message = format!(
            "{view} has to be computed anew, and {label} does not have all of its rows any more: {lost}; DROP it and CREATE it again to have it computed from what is left"
        );
        Err(EngineError::statement("55000", message, None))
    }

    /// Takes in the archive that a source's rows begin in; tells where the source goes on. `None` when there is no archive.
    fn history_of(&mut self, oid: Oid, source: &Source) -> Result<Option<Offsets>, EngineError> {
        let Some(archive) = self.job.histories.get(&oid) else {
            return Ok(None);
        };
        let columns = self.job.columns_read(oid);
        let mut history = History::open(self.shared, source, *archive, &columns)?;
        let progress = Arc::clone(&history.progress);
        self.job.backfill.lock().push(progress);
        let (job, shared) = (self.job, self.shared);
        let over = || job.is_dropped() || shared.is_stopping();
        while let Some(rows) = history.next(&over)? {
            self.feed(&BTreeMap::from([(oid, vec![Delta::insert(rows)])]))?;
        }
        Ok(Some(history.ends))
    }

    /// Takes in what has left memory since the view stood where it does, together with the others that stand there; the same.
    fn go_on(&mut self) -> Result<u64, EngineError> {
        let job = self.job;
        let mut dead = false;
        for input in job.inputs.iter().filter(|input| input.is_stream()) {
            let place = self.places.streams.get(&input.oid).cloned();
            let (Some(source), Some(place)) = (input.source(), place) else {
                continue;
            };
            if place.epoch >= job.changes_after(input) {
                continue;
            }
            match source.newest_place() {
                Some((epoch, offsets)) if offsets == place.offsets => {
                    let here = StreamPlace { epoch, offsets };
                    self.places.streams.insert(input.oid, here);
                }
                Some(_) => dead |= self.scan_from(input.oid, &source, &place.offsets)?,
                None => {}
            }
        }
        self.visible(dead)
    }

    /// The epoch before which not all dead letters of a scan are visible.
    fn visible(&self, dead: bool) -> Result<u64, EngineError> {
        match dead {
            true => self.next_epoch(),
            false => Ok(0),
        }
    }

    /// Takes in a source up to where it is followed, together with the other views that begin there now; tells whether it had dead
    /// letters.
    fn scan_from(
        &mut self,
        oid: Oid,
        source: &Arc<Source>,
        from: &Offsets,
    ) -> Result<bool, EngineError> {
        if self.job.looks_up {
            return self.scan_alone(oid, source, from);
        }
        let scan = join(self.shared, source, from, self.job.columns_read(oid))?;
        self.job.backfill.lock().push(Arc::clone(&scan.progress));
        let (job, shared) = (self.job, self.shared);
        let over = || job.is_dropped() || shared.is_stopping();
        while let Some(rows) = scan.next(&over)? {
            self.feed(&BTreeMap::from([(oid, vec![Delta::insert(rows)])]))?;
        }
        let place = StreamPlace {
            epoch: scan.epoch,
            offsets: scan.ends.clone(),
        };
        self.places.streams.insert(oid, place);
        Ok(scan.progress.had_dead())
    }

    /// The same without others.
    fn scan_alone(
        &mut self,
        oid: Oid,
        source: &Arc<Source>,
        from: &Offsets,
    ) -> Result<bool, EngineError> {
        let (epoch, offsets) = newest_place(source)?;
        let had_dead = self.scan_between(oid, source, from, &offsets)?;
        let place = StreamPlace { epoch, offsets };
        self.places.streams.insert(oid, place);
        Ok(had_dead)
    }

    /// An epoch after everything that has been sent to the worker.
    fn next_epoch(&self) -> Result<u64, EngineError> {
        let (reply, answer) = oneshot::channel();
        self.shared.inbox.command(Command::Register {
            what: Box::new(Registration::default()),
            reply,
        })?;
        Ok(receive(self.shared, answer)??.epoch.0)
    }

    /// Brings all inputs to one epoch, not before `least`, from which their changes are in memory; `None` when that is not
    /// wanted any more.
    fn catch_up(&mut self, least: u64) -> Result<Option<u64>, EngineError> {
        let (mut seen, mut tried) = (0, None);
        while !self.is_over() {
            // What has been taken in of a source cannot be given back.
            let taken = self.places.streams.values().map(|place| place.epoch).max();
            let least = least.max(taken.unwrap_or(0));
            let latest = self.shared.latest();
            let inputs = &self.job.inputs;
            let lists: Vec<_> = inputs.iter().map(|input| input.known(latest)).collect();
            let known = common(lists.iter().map(Vec::as_slice)).unwrap_or_default();
            let newest_of = |known: &[Range]| newest(known).filter(|epoch| *epoch >= least);
            // An epoch at which a checkpoint waits for the view.
            let wanted = self.job.wanted_at(least.saturating_sub(1));
            let target = wanted
                .and_then(|wanted| newest_of(&intersect(&known, &[(0, wanted)])))
                .or_else(|| newest_of(&known));
            let Some((epoch, places)) =
                target.and_then(|epoch| Some((epoch, self.job.places_at(self.shared, epoch)?)))
            else {
                seen = self.shared.wait_for_bump(seen, LOOK_AGAIN);
                continue;
            };
            self.advance_to(places)?;
            if self.is_over() {
                // What was read last may have ended before its end.
                break;
            }
            let follows = |input: &Arc<Stored>| self.job.can_follow_from(input, epoch);
            if inputs.iter().all(follows) || wanted == Some(epoch) {
                return Ok(Some(epoch));
            }
            // What is on its way lacks something that the view reads, and will have come with a later epoch.
            if tried.replace(epoch) == Some(epoch) {
                seen = self.shared.wait_for_bump(seen, LOOK_AGAIN);
            }
        }
        Ok(None)
    }

    fn advance_to(&mut self, places: Places) -> Result<(), EngineError> {
        let mut changes = BTreeMap::new();
        for (oid, version) in &places.contents {
            if let Some(before) = self.places.contents.get(oid) {
                changes.insert(*oid, before.diff_to(version)?);
            }
        }
        let mut behind = Vec::new();
        for (oid, place) in &places.streams {
            let Some(before) = self.places.streams.get(oid) else {
                continue;
            };
            let input = self.job.inputs.iter().find(|input| input.oid == *oid);
            let here = input.and_then(|input| {
                let history = input.history.lock();
                history.delta_of(before.epoch, place.epoch, self.job.columns_read(*oid))
            });
            match here {
                Some(deltas) => drop(changes.insert(*oid, deltas)),
                None => behind.push((*oid, before.offsets.clone(), place.offsets.clone())),
            }
        }
        if changes.values().flatten().any(|delta| delta.num_rows() > 0) {
            self.feed(&changes)?;
        }
        for (oid, from, to) in behind {
            let source = self.shared.sources.read().get(&oid).cloned();
            let source = source.ok_or(EngineError::Unknown(oid))?;
            self.scan_between(oid, &source, &from, &to)?;
        }
        self.places = places;
        Ok(())
    }

    /// Takes in what a source held between two epochs, for this view alone; tells whether it had dead letters.
    fn scan_between(
        &mut self,
        oid: Oid,
        source: &Source,
        from: &Offsets,
        to: &Offsets,
    ) -> Result<bool, EngineError> {
        let (job, shared) = (self.job, self.shared);
        let scan = Scan::new(shared, source, from, to, job.columns_read(oid));
        let progress: Arc<ScanProgress> = scan.progress();
        job.backfill.lock().push(Arc::clone(&progress));
        let over = || job.is_dropped();
        let rows_max = shared.config.epoch_rows_max / 2;
        scan.run(rows_max, &Patience::Endless, &over, &mut |rows| {
            self.feed(&BTreeMap::from([(oid, vec![Delta::insert(rows)])]))?;
            Ok(true)
        })?;
        Ok(progress.had_dead())
    }
}
