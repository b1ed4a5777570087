//! What the worker, the jobs, the drivers and the readers share.
//!
//! Invariant: `latest` is stored after everything of that epoch is in place; so whoever reads `latest` first, and relations
//! after it, sees each epoch whole or not at all.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

use datafusion::arrow::datatypes::SchemaRef;
use parking_lot::{Condvar, Mutex, RwLock};
use thalweg_catalog::Oid;
use thalweg_connectors::{Clock, ConnectorContext, Delta, Epoch, EpochInfo};
use thalweg_planner::Planner;
use thalweg_state::{Runs, Store, disk_floor};
use tokio::sync::watch;

use crate::archive::Archive;
use crate::batch::BatchRuntime;
use crate::checkpoint::Checkpoints;
use crate::choose::Range;
use crate::chunk::RowCodec;
use crate::config::EngineConfig;
use crate::dead::DeadLog;
use crate::disk::DiskRoom;
use crate::error::EngineError;
use crate::external::External;
use crate::inbox::Inbox;
use crate::job::Job;
use crate::memory::Memory;
use crate::relation::Version;
use crate::scan::ScanProgress;
use crate::segments::History;
use crate::source::Source;
use crate::status::ErrorRecord;
use crate::steps::steps;
use crate::table::Table;

/// A relation with content: table, source history, errors relation, view, or the query of a sink.
#[derive(Debug)]
pub(crate) struct Stored {
    pub(crate) oid: Oid,
    pub(crate) name: String,
    /// Kind as users call it.
    pub(crate) kind: &'static str,
    pub(crate) codec: Arc<RowCodec>,
    /// Nobody who holds the lock asks for another relation's: two who do that in different orders wait for ever.
    pub(crate) history: Mutex<History>,
    /// Keys and constraints; tables only.
    pub(crate) table: Option<Table>,
    /// Why it is in state ERROR.
    pub(crate) failure: Mutex<Option<String>>,
    /// The source whose rows pass through it without staying.
    stream: OnceLock<Weak<Source>>,
}

impl Stored {
    pub(crate) fn new(
        oid: Oid,
        name: &str,
        kind: &'static str,
        schema: SchemaRef,
        table: Option<Table>,
    ) -> Result<Arc<Self>, EngineError> {
        let codec = Arc::new(RowCodec::new(schema)?);
        let history = History::new(Arc::clone(&codec));
        Ok(Self::with_history(oid, name, kind, codec, history, table))
    }

    /// A relation whose history has changes only.
    pub(crate) fn of_changes(
        oid: Oid,
        name: &str,
        kind: &'static str,
        schema: SchemaRef,
    ) -> Result<Arc<Self>, EngineError> {
        let codec = Arc::new(RowCodec::new(schema)?);
        let history = History::of_changes(Arc::clone(&codec));
        Ok(Self::with_history(oid, name, kind, codec, history, None))
    }

    fn with_history(
        oid: Oid,
        name: &str,
        kind: &'static str,
        codec: Arc<RowCodec>,
        history: History,
        table: Option<Table>,
    ) -> Arc<Self> {
        Arc::new(Self {
            oid,
            name: name.into(),
            kind,
            codec,
            history: Mutex::new(history),
            table,
            failure: Mutex::new(None),
            stream: OnceLock::new(),
        })
    }

    /// Says whose rows these are; once, before anyone else has the relation.
    pub(crate) fn streams(&self, source: &Arc<Source>) {
        let _ = self.stream.set(Arc::downgrade(source));
    }

    /// The source that has to be asked for rows older than the changes here.
    pub(crate) fn source(&self) -> Option<Arc<Source>> {
        self.stream.get().and_then(Weak::upgrade)
    }

    /// True when rows pass through and do not stay.
    pub(crate) fn is_stream(&self) -> bool {
        self.stream.get().is_some()
    }

    pub(crate) fn schema(&self) -> SchemaRef {
        Arc::clone(&self.codec.schema)
    }

    /// Kind and name for messages.
    pub(crate) fn label(&self) -> String {
        format!("{} \"{}\"", self.kind, self.name)
    }

    pub(crate) fn known(&self, latest: u64) -> Vec<Range> {
        self.history.lock().known(latest)
    }

    pub(crate) fn through(&self, latest: u64) -> Option<u64> {
        self.history.lock().through(latest)
    }

    pub(crate) fn at(&self, epoch: u64, latest: u64) -> Option<Arc<Version>> {
        self.history.lock().at(epoch, latest)
    }
}

/// Everything behind an engine handle.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) config: EngineConfig,
    pub(crate) store: Arc<Store>,
    pub(crate) checkpoints: Checkpoints,
    pub(crate) planner: Arc<Planner>,
    pub(crate) clock: Arc<dyn Clock>,
    /// Runtime of the wires and connectors.
    pub(crate) wires: tokio::runtime::Handle,
    pub(crate) batch: BatchRuntime,
    pub(crate) memory: Memory,
    pub(crate) disk: DiskRoom,
    pub(crate) relations: RwLock<BTreeMap<Oid, Arc<Stored>>>,
    pub(crate) sources: RwLock<BTreeMap<Oid, Arc<Source>>>,
    /// Tables that outside systems keep.
    pub(crate) external: RwLock<BTreeMap<Oid, Arc<External>>>,
    pub(crate) archives: RwLock<BTreeMap<Oid, Arc<Archive>>>,
    /// Files of archives when they were last looked at for a list of them.
    pub(crate) archive_files: Mutex<Vec<crate::status::ArchiveFile>>,
    pub(crate) jobs: RwLock<BTreeMap<Oid, Arc<Job>>>,
    /// Errors relations by source.
    pub(crate) dead: RwLock<BTreeMap<Oid, Arc<DeadLog>>>,
    pub(crate) epochs: Mutex<VecDeque<EpochInfo>>,
    latest: AtomicU64,
    pub(crate) durable: AtomicU64,
    pub(crate) inbox: Inbox,
    pub(crate) errors: Mutex<VecDeque<ErrorRecord>>,
    pub(crate) stopping: AtomicBool,
    /// Set when the worker stopped at a broken invariant: nothing may be acknowledged after that.
    pub(crate) fatal: Mutex<Option<EngineError>>,
    /// Queries of subscriptions so far.
    pub(crate) hidden: AtomicU32,
    progress: watch::Sender<u64>,
    job_wake: (Mutex<u64>, Condvar),
}

impl Shared {
    pub(crate) fn new(
        config: EngineConfig,
        store: Arc<Store>,
        runs: Runs,
        planner: Arc<Planner>,
        clock: Arc<dyn Clock>,
        wires: tokio::runtime::Handle,
        last: EpochInfo,
    ) -> Result<Self, EngineError> {
        let batch = BatchRuntime::new(&config)?;
        Ok(Self {
            memory: Memory::new(config.memory_max, config.state_memory_max),
            disk: DiskRoom::new(disk_floor(config.disk_reserve)),
            config,
            store,
            checkpoints: Checkpoints::new(runs)?,
            planner,
            clock,
            wires,
            batch,
            relations: RwLock::default(),
            sources: RwLock::default(),
            external: RwLock::default(),
            archives: RwLock::default(),
            archive_files: Mutex::default(),
            jobs: RwLock::default(),
            dead: RwLock::default(),
            epochs: Mutex::new(VecDeque::from([last])),
            latest: AtomicU64::new(last.epoch.0),
            durable: AtomicU64::new(last.epoch.0),
            inbox: Inbox::default(),
            errors: Mutex::default(),
            stopping: AtomicBool::new(false),
            fatal: Mutex::new(None),
            hidden: AtomicU32::new(0),
            progress: watch::Sender::new(0),
            job_wake: (Mutex::new(0), Condvar::new()),
        })
    }

    /// What connectors are opened with.
    pub(crate) fn connector_context(&self) -> ConnectorContext {
        let file_root = self.config.file_root.clone();
        ConnectorContext::new(Arc::clone(&self.clock))
            .with_file_root(file_root)
            .with_installation(self.config.installation)
            .with_process(self.config.process)
            .with_writer_memory(Arc::clone(&self.memory.writers))
            .with_steps(steps(&self.config.crash_points))
    }

    /// Newest published epoch.
    pub(crate) fn latest(&self) -> u64 {
        self.latest.load(Ordering::SeqCst)
    }

    /// Newest published epoch with its time.
    pub(crate) fn latest_info(&self) -> EpochInfo {
        self.epochs.lock().back().copied().unwrap_or(EpochInfo {
            epoch: Epoch(self.latest()),
            at_ms: 0,
        })
    }

    /// Makes an epoch visible.
    pub(crate) fn publish(&self, info: EpochInfo) {
        self.epochs.lock().push_back(info);
        self.latest.store(info.epoch.0, Ordering::SeqCst);
        self.bump();
    }

    /// The epoch in the middle of the window, by the clock.
    pub(crate) fn middle_epoch(&self) -> u64 {
        let half_ms = i64::try_from(self.config.snapshot_history.as_millis() / 2);
        let half_ms = half_ms.unwrap_or(i64::MAX);
        let epochs = self.epochs.lock();
        let newest_ms = epochs.back().map_or(0, |info| info.at_ms);
        let index = epochs.partition_point(|info| info.at_ms < newest_ms.saturating_sub(half_ms));
        epochs.get(index).map_or(0, |info| info.epoch.0)
    }

    /// Wall clock of an epoch that is still in the window.
    pub(crate) fn at_ms(&self, epoch: u64) -> Option<i64> {
        let epochs = self.epochs.lock();
        let index = epochs.partition_point(|info| info.epoch.0 < epoch);
        epochs
            .get(index)
            .filter(|info| info.epoch.0 == epoch)
            .map(|info| info.at_ms)
    }

    pub(crate) fn relation(&self, oid: Oid) -> Option<Arc<Stored>> {
        self.relations.read().get(&oid).cloned()
    }

    pub(crate) fn job(&self, oid: Oid) -> Option<Arc<Job>> {
        self.jobs.read().get(&oid).cloned()
    }

    /// Tells whoever waits for an epoch, a job or a source to look again.
    pub(crate) fn bump(&self) {
        self.progress
            .send_modify(|count| *count = count.wrapping_add(1));
        *self.job_wake.0.lock() += 1;
        self.job_wake.1.notify_all();
    }

    pub(crate) fn subscribe(&self) -> watch::Receiver<u64> {
        self.progress.subscribe()
    }

    /// Waits until something happened after `seen`, at most `wait`; returns the new count.
    pub(crate) fn wait_for_bump(&self, seen: u64, wait: Duration) -> u64 {
        let deadline = Instant::now() + wait;
        let mut count = self.job_wake.0.lock();
        while *count == seen && !self.is_stopping() {
            if self.job_wake.1.wait_until(&mut count, deadline).timed_out() {
                break;
            }
        }
        *count
    }

    /// Why nothing new happens any more: the worker is broken, or the engine stops.
    pub(crate) fn halted(&self) -> Option<EngineError> {
        let fatal = self.fatal.lock().clone();
        fatal.or_else(|| self.is_stopping().then_some(EngineError::Stopping))
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }

    /// Why sources stand still, if they do.
    pub(crate) fn held_back(&self) -> Option<&'static str> {
        if self.fatal.lock().is_some() {
            return Some("the server has stopped taking changes, see its log");
        }
        if self.log_fault().is_some() {
            return Some("the log cannot be written");
        }
        if self.disk.is_low() {
            return Some("the disk of the data dir is nearly full");
        }
        self.memory.is_full().then_some("memory_limit is reached")
    }

    /// Why no change can be logged for now.
    pub(crate) fn log_fault(&self) -> Option<EngineError> {
        let fault = self.inbox.fault();
        fault.or_else(|| self.store.failure().map(EngineError::from))
    }

    /// Refuses a change while none can be logged.
    pub(crate) fn admit_changes(&self) -> Result<(), EngineError> {
        self.log_fault().map_or(Ok(()), Err)
    }

    /// Refuses a change of a table while there is no room for it, in memory or on disk.
    pub(crate) fn admit(&self, stored: &Stored, deltas: &[Delta]) -> Result<(), EngineError> {
        self.admit_changes()?;
        self.disk.admit(stored, deltas)?;
        self.memory.admit(stored, deltas)
    }

    /// Why a relation cannot be read: itself or something under it is in state ERROR.
    pub(crate) fn failure(&self, oid: Oid) -> Option<EngineError> {
        let relation = self.relation(oid)?;
        if let Some(reason) = relation.failure.lock().clone() {
            return Some(EngineError::Failed {
                object: relation.label(),
                reason,
            });
        }
        let job = self.job(oid)?;
        for keeper in &job.keepers {
            if let Some(reason) = keeper.relation.failure.lock().clone() {
                let object = keeper.relation.label();
                return Some(EngineError::Failed { object, reason });
            }
        }
        // Inputs are older than their view, so this ends.
        job.inputs
            .iter()
            .filter(|input| input.oid != oid)
            .find_map(|input| self.failure(input.oid))
    }

    /// Puts a relation into state ERROR.
    pub(crate) fn fail(&self, relation: &Stored, sqlstate: &str, reason: String) {
        tracing::error!(relation = %relation.name, reason, "relation is in state ERROR");
        let at_us = self.clock.now_us();
        self.record_error(ErrorRecord::of(
            relation,
            sqlstate,
            reason.clone(),
            at_us,
            None,
        ));
        *relation.failure.lock() = Some(reason);
        self.bump();
    }

    /// What the sources under `oid` are being read for, as long as it has no content for want of it.
    pub(crate) fn backfills(&self, oid: Oid, out: &mut Vec<Arc<ScanProgress>>) {
        let Some(job) = self.job(oid) else { return };
        if job.relation.through(self.latest()).is_some() {
            return;
        }
        for job in job.keepers.iter().chain([&job]) {
            out.extend(job.backfill.lock().iter().cloned());
        }
        for input in job.inputs.iter().filter(|input| input.oid != oid) {
            self.backfills(input.oid, out);
        }
    }

    /// The relations without inputs that `oid` is computed from, itself when it is one.
    pub(crate) fn roots(&self, oid: Oid, out: &mut Vec<Oid>) {
        match self.job(oid) {
            Some(job) => job
                .inputs
                .iter()
                .for_each(|input| self.roots(input.oid, out)),
            None => {
                if !out.contains(&oid) {
                    out.push(oid);
                }
            }
        }
    }

    pub(crate) fn record_error(&self, record: ErrorRecord) {
        let mut errors = self.errors.lock();
        errors.push_back(record);
        while errors.len() > self.config.errors_max {
            errors.pop_front();
        }
    }
}
