//! Limits and intervals of the engine, in one place.
//!
//! Invariant: everything the engine queues, keeps or waits for is bounded by a value here.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use thalweg_catalog::Relation;
use thalweg_connectors::CommittingSink;
use thalweg_state::CrashPoints;

/// Opens the writers of exactly-once sinks in the place of their connectors, so that a test can script them.
#[derive(Clone)]
pub struct Writers(pub Arc<dyn Fn(&Relation) -> Box<dyn CommittingSink> + Send + Sync>);

impl std::fmt::Debug for Writers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Writers")
    }
}

/// Limits and intervals; [`EngineConfig::default`] is what a server runs with.
#[derive(Debug, Clone)]
pub struct EngineConfig {
    /// How far back versions of relations are kept for readers.
    pub snapshot_history: Duration,
    /// An epoch that only sources fill is closed this long after its first row.
    pub linger: Duration,
    /// An epoch is closed when it has this many source rows.
    pub epoch_rows_max: usize,
    /// An epoch is closed when it has about this many source bytes.
    pub epoch_bytes_max: usize,
    /// Epochs without table changes reach the disk at most this much later.
    pub group_fsync: Duration,
    /// Memory that everything together may use before sources are held back and new rows are refused, bytes.
    pub memory_max: usize,
    /// Memory that what one view's operators remember may use, bytes, where there would be more; the rest is on disk.
    pub state_memory_max: usize,
    /// Memory one query may use, bytes.
    pub query_memory_max: usize,
    /// Memory one recomputation of a view may use, bytes.
    pub job_memory_max: usize,
    /// Threads that run queries.
    pub query_threads: usize,
    /// Parts into which the state of a view is split, each worked on by a thread of its own.
    pub workers: usize,
    /// Recomputations that may run at once.
    pub jobs_max: usize,
    /// Views over `now()` are computed at least this often.
    pub now_interval: Duration,
    /// First wait after a failure; it doubles.
    pub backoff_min: Duration,
    /// Longest wait after failures.
    pub backoff_max: Duration,
    /// How long a new source may take to tell its end before its views start from what it has delivered.
    pub source_end_wait: Duration,
    /// Errors kept for `sys.errors`.
    pub errors_max: usize,
    /// A checkpoint is made this often, when anything has changed.
    pub checkpoint_interval: Duration,
    /// Larger runs are merged only as long as the disk of the data dir keeps this many bytes free; below an eighth of it rows wait.
    pub disk_reserve: u64,
    /// Where a test makes this process fail.
    pub crash_points: CrashPoints,
    /// Local files that sources read lie below this folder.
    pub file_root: PathBuf,
    /// Rows of one source that stay in memory for views that have not taken them; beyond that they are read again.
    pub stream_bytes_max: usize,
    /// Changes that may wait for one subscription's reader, bytes.
    pub subscription_bytes_max: usize,
    /// What a sink has to say at its beginning is handed on when it takes so many bytes.
    pub early_bytes_max: usize,
    /// Rows that an exactly-once sink delivers in one go at most.
    pub sink_part_rows_max: usize,
    /// Names this data dir in outside systems: made once, never changed.
    pub installation: [u8; 16],
    /// Names this process in outside systems: drawn anew at every start.
    pub process: [u8; 16],
    /// Opens the writers of sinks that deliver exactly once; `None` for their connectors.
    pub writers: Option<Writers>,
    /// How long `shutdown` waits for its threads.
    pub shutdown_wait: Duration,
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self {
            snapshot_history: Duration::from_secs(60),
            linger: Duration::from_millis(10),
            epoch_rows_max: 65_536,
            epoch_bytes_max: 8 << 20,
            group_fsync: Duration::from_millis(50),
            memory_max: 8 << 30,
            state_memory_max: usize::MAX,
            query_memory_max: 1 << 30,
            job_memory_max: 4 << 30,
            query_threads: 2,
            workers: std::thread::available_parallelism().map_or(1, usize::from),
            jobs_max: 16,
            now_interval: Duration::from_secs(1),
            backoff_min: Duration::from_millis(100),
            backoff_max: Duration::from_secs(30),
            source_end_wait: Duration::from_secs(5),
            errors_max: 10_000,
            checkpoint_interval: Duration::from_secs(1),
            disk_reserve: 2 << 30,
            crash_points: CrashPoints::none(),
            file_root: PathBuf::from("."),
            stream_bytes_max: 256 << 20,
            subscription_bytes_max: 32 << 20,
            early_bytes_max: 32 << 20,
            sink_part_rows_max: 262_144,
            installation: [0; 16],
            process: [0; 16],
            writers: None,
            shutdown_wait: Duration::from_secs(8),
        }
    }
}

/// Stack of every thread that plans or runs statements: expression trees are walked recursively.
pub(crate) const STACK_BYTES: usize = 16 << 20;
