//! What the engine is doing, as plain data for system relations and metrics.
//!
//! Invariant: a status is a copy; reading it never waits for a run, and it holds no secrets, because it holds no options.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use thalweg_catalog::Oid;
use thalweg_connectors::{Epoch, EpochInfo, Offsets, SourceHealth};
use thalweg_state::{CheckpointInfo, Merged};

use crate::job::Job;
use crate::memory::{MemoryPart, parts};
use crate::scan::ScanProgress;
use crate::shared::{Shared, Stored};
use crate::source::Source;

/// Everything there is to know.
#[derive(Debug, Clone)]
pub struct EngineStatus {
    /// Newest published epoch.
    pub latest: EpochInfo,
    /// Newest epoch that is on disk.
    pub durable: Epoch,
    /// Views and sinks.
    pub jobs: Vec<JobStatus>,
    /// Declared sources.
    pub sources: Vec<SourceStatus>,
    /// Everything that holds rows.
    pub relations: Vec<RelationStatus>,
    /// Recent epochs, oldest first.
    pub epochs: Vec<EpochInfo>,
    /// Recent errors, oldest first.
    pub errors: Vec<ErrorRecord>,
    /// Estimated bytes of all relations.
    pub memory_bytes: usize,
    /// Who holds how much memory.
    pub memory: Vec<MemoryPart>,
    /// More memory is held than there may be: what can wait does.
    pub memory_full: bool,
    /// Recent checkpoints, oldest first.
    pub checkpoints: Vec<CheckpointStatus>,
    /// What merges of saved state have read and written, by level.
    pub merged: BTreeMap<u8, Merged>,
}

/// A file of an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ArchiveFile {
    /// Name of the archive.
    pub archive: String,
    /// Path below the archive's folder.
    pub path: String,
    /// Values of its partition, as `dt=2026-11-21/region=eu`.
    pub partition: Option<String>,
    /// Rows in it.
    pub rows: u64,
    /// Its length.
    pub bytes: u64,
    /// First epoch whose rows are in it.
    pub first_epoch: u64,
    /// Last epoch whose rows are in it.
    pub last_epoch: u64,
}

/// A checkpoint, made or failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckpointStatus {
    /// Counts up by one; a failed one's is tried again.
    pub number: u64,
    /// The epoch it holds.
    pub epoch: Epoch,
    /// When it began, milliseconds since the Unix epoch.
    pub started_at_ms: i64,
    /// How long it took; zero for one that was made before the start.
    pub duration: Duration,
    /// Bytes of the runs it wrote.
    pub bytes: u64,
    /// How many those are.
    pub runs: u64,
    /// Why it failed.
    pub error: Option<String>,
}

impl CheckpointStatus {
    pub(crate) fn of(info: CheckpointInfo, duration: Duration) -> Self {
        Self {
            number: info.number,
            epoch: Epoch(info.epoch),
            started_at_ms: info.started_at_ms,
            duration,
            bytes: info.bytes,
            runs: info.runs,
            error: None,
        }
    }
}

/// Where a job stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JobPhase {
    /// Its first run has not ended.
    Creating,
    /// Its sources are being read up to where they are followed.
    Backfilling,
    /// It follows its inputs.
    Running,
    /// It would follow its inputs, and its sources wait for memory.
    Held,
    /// It was told to stand still.
    Paused,
    /// It, or a source that it reads, failed and is tried again.
    Error,
}

impl JobPhase {
    /// The word shown in SQL.
    pub fn as_str(self) -> &'static str {
        match self {
            JobPhase::Creating => "CREATING",
            JobPhase::Backfilling => "BACKFILLING",
            JobPhase::Running => "RUNNING",
            JobPhase::Held => "HELD",
            JobPhase::Paused => "PAUSED",
            JobPhase::Error => "ERROR",
        }
    }
}

/// A view or sink.
#[derive(Debug, Clone)]
pub struct JobStatus {
    /// Its object.
    pub oid: Oid,
    /// Name of the object.
    pub name: String,
    /// `materialized view`, `sink` or `archive`.
    pub kind: &'static str,
    /// Where it stands.
    pub phase: JobPhase,
    /// Newest epoch it reflects.
    pub epoch: Option<Epoch>,
    /// Epochs it is behind.
    pub lag_epochs: u64,
    /// Milliseconds between the newest epoch and the one it reflects.
    pub lag_ms: i64,
    /// Why it is in state ERROR, or what keeps a source that it reads from being read.
    pub error: Option<String>,
    /// When it is tried again, or its source is, microseconds since the Unix epoch.
    pub retry_at_us: Option<i64>,
    /// Rows it holds.
    pub rows: i64,
    /// How it is kept up to date: `incremental` or `recompute`; `none` when it could not be started.
    pub mode: &'static str,
    /// Bytes remembered between runs beside the content, by capacity.
    pub state_bytes: usize,
    /// Runs so far, steps by the worker not counted.
    pub runs: u64,
    /// Time spent in runs.
    pub run_time: Duration,
    /// Newest epoch a sink has accepted.
    pub delivered: Option<Epoch>,
    /// Newest epoch whose changes are staged, of a sink that delivers exactly once.
    pub staged: Option<Epoch>,
    /// Bytes that are staged and not delivered yet.
    pub waiting_bytes: Option<u64>,
    /// Records read and to be read before the first result.
    pub backfill: Option<(u64, u64)>,
}

/// A source.
#[derive(Debug, Clone)]
pub struct SourceStatus {
    /// Its object.
    pub oid: Oid,
    /// Name of the object.
    pub name: String,
    /// `IDLE` when nothing reads it, `PAUSED`, `RUNNING`, `BACKFILLING`, `HELD` for want of memory or disk, `DEGRADED` when
    /// it cannot be read just now, `ERROR` when that lasts; it is tried again all the same.
    pub health: &'static str,
    /// What is wrong, or what it waits for.
    pub detail: Option<String>,
    /// Next offset per split, as of the newest epoch.
    pub offsets: Offsets,
    /// Last known end per split.
    pub high_watermarks: Offsets,
    /// Records read.
    pub records: u64,
    /// Records read for views that begin or were left behind, each as often as it was.
    pub scanned: u64,
    /// Dead letters among them.
    pub dead: u64,
    /// Tombstones among them.
    pub skipped: u64,
    /// Views and sinks that read it.
    pub consumers: Vec<Oid>,
    /// What the reader that follows it builds: `*`, or columns and fields by name.
    pub columns: String,
}

/// Something that holds rows.
#[derive(Debug, Clone)]
pub struct RelationStatus {
    /// Its object.
    pub oid: Oid,
    /// Name of the object.
    pub name: String,
    /// `table`, `source`, `materialized view`, ...
    pub kind: &'static str,
    /// Newest epoch its content is known at.
    pub epoch: Option<Epoch>,
    /// Rows.
    pub rows: i64,
    /// Estimated bytes.
    pub bytes: usize,
}

/// A row of `sys.errors`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ErrorRecord {
    /// When, microseconds since the Unix epoch.
    pub at_us: i64,
    /// The object.
    pub oid: Oid,
    /// Name of the object.
    pub name: String,
    /// Kind of the object.
    pub kind: &'static str,
    /// SQLSTATE.
    pub sqlstate: String,
    /// What happened.
    pub message: String,
    /// Epoch it happened at.
    pub epoch: Option<Epoch>,
    /// Rows it happened to; 0 when it is not about rows.
    pub rows: u64,
}

impl ErrorRecord {
    pub(crate) fn of(
        relation: &Stored,
        sqlstate: &str,
        message: String,
        at_us: i64,
        epoch: Option<u64>,
    ) -> Self {
        Self {
            at_us,
            oid: relation.oid,
            name: relation.name.clone(),
            kind: relation.kind,
            sqlstate: sqlstate.into(),
            message,
            epoch: epoch.map(Epoch),
            rows: 0,
        }
    }
}

pub(crate) fn status(shared: &Shared) -> EngineStatus {
    let latest = shared.latest_info();
    let stored: Vec<Arc<Stored>> = shared.relations.read().values().cloned().collect();
    let relations: Vec<RelationStatus> = stored
        .iter()
        .map(|relation| relation_status(relation, latest))
        .collect();
    let jobs: Vec<Arc<Job>> = shared.jobs.read().values().cloned().collect();
    let sources: Vec<Arc<Source>> = shared.sources.read().values().cloned().collect();
    let idle_jobs = stored
        .iter()
        .filter(|relation| matches!(relation.kind, "materialized view" | "sink" | "archive"))
        .filter(|relation| !jobs.iter().any(|job| job.relation.oid == relation.oid))
        .map(|relation| failed_job(relation, latest));
    let idle_sources = stored
        .iter()
        .filter(|relation| relation.kind == "source")
        .filter(|relation| !sources.iter().any(|source| source.oid == relation.oid))
        .map(|relation| failed_source(relation));
    EngineStatus {
        latest,
        durable: Epoch(shared.durable.load(Ordering::SeqCst)),
        jobs: jobs
            .iter()
            // What keeps the rows of a source is part of the source.
            .filter(|job| job.oid == job.relation.oid)
            .map(|job| job_status(shared, job, latest))
            .chain(idle_jobs)
            .collect(),
        sources: sources
            .iter()
            .map(|source| source_status(source, &jobs, shared.held_back()))
            .chain(idle_sources)
            .collect(),
        memory_bytes: relations.iter().map(|relation| relation.bytes).sum(),
        relations,
        epochs: shared.epochs.lock().iter().copied().collect(),
        errors: shared.errors.lock().iter().cloned().collect(),
        memory: parts(shared),
        memory_full: shared.memory.is_full(),
        merged: shared.checkpoints.runs.merged(),
        checkpoints: shared.checkpoints.shown(),
    }
}

fn relation_status(relation: &Stored, latest: EpochInfo) -> RelationStatus {
    let index = relation
        .table
        .as_ref()
        .and_then(|table| table.key.as_ref())
        .map_or(0, |key| key.bytes());
    let held_by = |relation: &Stored| {
        let history = relation.history.lock();
        (history.newest().net_rows(), history.bytes())
    };
    let (mut rows, mut bytes) = held_by(relation);
    let keeper = relation
        .source()
        .and_then(|source| source.keeper.lock().clone());
    if let Some(keeper) = keeper {
        let kept = held_by(&keeper.relation);
        (rows, bytes) = (rows + kept.0, bytes + kept.1);
    }
    RelationStatus {
        oid: relation.oid,
        name: relation.name.clone(),
        kind: relation.kind,
        epoch: relation.through(latest.epoch.0).map(Epoch),
        rows,
        bytes: bytes + index,
    }
}

fn job_status(shared: &Shared, job: &Job, latest: EpochInfo) -> JobStatus {
    let relation = &job.relation;
    let through = relation.through(latest.epoch.0);
    let error = shared
        .failure(relation.oid)
        .map(|error| error.report().detail.unwrap_or_default())
        .or_else(|| job.delivery_failure.lock().clone());
    let mut scans = Vec::new();
    shared.backfills(relation.oid, &mut scans);
    let backfill = scans
        .iter()
        .map(|scan| scan.records())
        .reduce(|a, b| (a.0 + b.0, a.1 + b.1));
    let mut roots = Vec::new();
    shared.roots(relation.oid, &mut roots);
    let sources: Vec<Arc<Source>> = {
        let all = shared.sources.read();
        roots
            .iter()
            .filter_map(|oid| all.get(oid).cloned())
            .collect()
    };
    let held = shared.held_back().is_some() && !sources.is_empty();
    let trouble = Trouble::of(&sources, &scans);
    let retry_at = match &error {
        Some(_) => job.retry_at(),
        None => trouble.retry_at,
    };
    // A paused view is seen at later epochs than the one it is of.
    let through = job.stands_at().or(through);
    let phase = match (&error, through) {
        _ if job.is_paused() => JobPhase::Paused,
        (Some(_), _) => JobPhase::Error,
        _ if trouble.lasts => JobPhase::Error,
        _ if held => JobPhase::Held,
        (None, Some(_)) => JobPhase::Running,
        (None, None) if backfill.is_some() => JobPhase::Backfilling,
        (None, None) => JobPhase::Creating,
    };
    let (runs, run_time) = job.figures();
    let reached_ms = through.and_then(|epoch| shared.at_ms(epoch));
    let delivered = job.delivered.load(Ordering::SeqCst);
    let log = job.log.get();
    JobStatus {
        oid: job.oid,
        name: relation.name.clone(),
        kind: relation.kind,
        phase,
        epoch: through.map(Epoch),
        lag_epochs: latest.epoch.0.saturating_sub(through.unwrap_or(0)),
        lag_ms: reached_ms.map_or(0, |at_ms| latest.at_ms - at_ms),
        error: error.or(trouble.reason),
        retry_at_us: retry_at.map(|at| wall_clock_us(shared, at)),
        rows: rows(job),
        mode: if job.is_incremental() {
            "incremental"
        } else {
            "recompute"
        },
        state_bytes: job.state_bytes(),
        runs,
        run_time,
        delivered: (delivered > 0).then_some(Epoch(delivered)),
        staged: log.map(|log| Epoch(log.staged_through())),
        waiting_bytes: log.map(|log| log.bytes()),
        backfill,
    }
}

/// What keeps the sources of a job from being read, itself without fault.
#[derive(Default)]
struct Trouble {
    reason: Option<String>,
    /// When a reader that was given up is opened again.
    retry_at: Option<Instant>,
    /// It does not end within moments.
    lasts: bool,
}

impl Trouble {
    fn of(sources: &[Arc<Source>], scans: &[Arc<ScanProgress>]) -> Self {
        for source in sources {
            let state = source.state.lock();
            if let Some(reason) = state.trouble() {
                return Self {
                    reason: Some(reason.to_owned()),
                    retry_at: state.given_up.as_ref().map(|(_, at)| *at),
                    lasts: state.is_in_error(),
                };
            }
        }
        Self {
            reason: scans.iter().find_map(|scan| scan.obstacle()),
            retry_at: None,
            lasts: scans.iter().any(|scan| scan.is_in_error()),
        }
    }
}

/// A moment as microseconds since the Unix epoch.
fn wall_clock_us(shared: &Shared, at: Instant) -> i64 {
    let now = Instant::now();
    let micros = |time: Duration| i64::try_from(time.as_micros()).unwrap_or(i64::MAX);
    let away =
        micros(at.saturating_duration_since(now)) - micros(now.saturating_duration_since(at));
    shared.clock.now_us().saturating_add(away)
}

/// Rows of the content; where none is kept, those that were delivered.
fn rows(job: &Job) -> i64 {
    let history = job.relation.history.lock();
    match history.keeps_content() {
        true => history.newest().net_rows(),
        false => i64::try_from(job.rows_delivered.load(Ordering::SeqCst)).unwrap_or(i64::MAX),
    }
}

/// A view or sink that could not be started.
fn failed_job(relation: &Stored, latest: EpochInfo) -> JobStatus {
    JobStatus {
        oid: relation.oid,
        name: relation.name.clone(),
        kind: relation.kind,
        phase: JobPhase::Error,
        epoch: None,
        lag_epochs: latest.epoch.0,
        lag_ms: 0,
        error: relation.failure.lock().clone(),
        retry_at_us: None,
        rows: 0,
        mode: "none",
        state_bytes: 0,
        runs: 0,
        run_time: Duration::ZERO,
        delivered: None,
        staged: None,
        waiting_bytes: None,
        backfill: None,
    }
}

/// A source that could not be started.
fn failed_source(relation: &Stored) -> SourceStatus {
    SourceStatus {
        oid: relation.oid,
        name: relation.name.clone(),
        health: "ERROR",
        detail: relation.failure.lock().clone(),
        offsets: Offsets::new(),
        high_watermarks: Offsets::new(),
        records: 0,
        scanned: 0,
        dead: 0,
        skipped: 0,
        consumers: Vec::new(),
        columns: String::new(),
    }
}

fn source_status(source: &Source, jobs: &[Arc<Job>], held: Option<&str>) -> SourceStatus {
    let begins = |job: &Arc<Job>| {
        let reads = job.inputs.iter().any(|input| input.oid == source.oid);
        reads && !job.backfill.lock().is_empty()
    };
    let backfilling = jobs.iter().any(begins);
    let state = source.state.lock();
    let failure = source.history.failure.lock().clone();
    let (health, detail) = match (&failure, &state.health) {
        (Some(reason), _) => ("ERROR", Some(reason.clone())),
        (None, _) if state.is_in_error() => ("ERROR", state.trouble().map(str::to_owned)),
        (None, Some(SourceHealth::Degraded(_))) => ("DEGRADED", state.trouble().map(str::to_owned)),
        (None, _) if source.hold.is_paused() => ("PAUSED", None),
        (None, _) if state.consumers.is_empty() => ("IDLE", None),
        (None, _) if held.is_some() => ("HELD", held.map(str::to_owned)),
        (None, _) if backfilling || !state.started => ("BACKFILLING", None),
        (None, _) => ("RUNNING", None),
    };
    SourceStatus {
        oid: source.oid,
        name: source.history.name.clone(),
        health,
        detail,
        offsets: state.bound.clone(),
        high_watermarks: state.high.clone(),
        records: state.records,
        scanned: state.scanned,
        dead: state.dead,
        skipped: state.skipped,
        consumers: state.consumers.keys().copied().collect(),
        columns: state
            .building
            .as_ref()
            .map_or_else(String::new, |building| building.columns.to_string()),
    }
}
