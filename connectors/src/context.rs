//! What a connector is given from outside: the clock, the folder it may read, and the name it goes by.
//!
//! Invariant: nothing else in this crate asks the machine for the time of day; tests move time by hand.

use std::fmt::Debug;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use uuid::Uuid;

use crate::archive::WriterMemory;
use crate::store::{SteppedStore, Steps, Store};

/// A source of wall-clock time.
pub trait Clock: Send + Sync + Debug {
    /// Microseconds since the Unix epoch.
    fn now_us(&self) -> i64;
}

/// The machine's clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "this is the one place that asks")]
    fn now_us(&self) -> i64 {
        match SystemTime::now().duration_since(UNIX_EPOCH) {
            Ok(since) => i64::try_from(since.as_micros()).unwrap_or(i64::MAX),
            // A machine set to before 1970 still has an order of events.
            Err(before) => i64::try_from(before.duration().as_micros()).map_or(i64::MIN, |us| -us),
        }
    }
}

/// A clock that moves only when told to.
#[derive(Debug, Default)]
pub struct ManualClock {
    now_us: AtomicI64,
}

impl ManualClock {
    /// A clock standing at `now_us` microseconds since the Unix epoch.
    pub fn new(now_us: i64) -> Self {
        Self {
            now_us: AtomicI64::new(now_us),
        }
    }

    /// Sets the time.
    pub fn set_us(&self, now_us: i64) {
        self.now_us.store(now_us, Ordering::SeqCst);
    }

    /// Moves time forward.
    pub fn advance(&self, by: Duration) {
        let by_us = i64::try_from(by.as_micros()).unwrap_or(i64::MAX);
        self.now_us.fetch_add(by_us, Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn now_us(&self) -> i64 {
        self.now_us.load(Ordering::SeqCst)
    }
}

/// What every connector is opened with.
#[derive(Debug, Clone)]
pub struct ConnectorContext {
    /// The time of day.
    pub clock: Arc<dyn Clock>,
    /// Local files lie below this folder.
    pub file_root: PathBuf,
    /// Names this installation in outside systems: it is made once for a data dir and never changes.
    pub installation: Uuid,
    /// Names this process: no other has it, not even one over a copy of the data dir.
    pub process: Uuid,
    /// What archives may hold of files that they write.
    pub writer_memory: Arc<WriterMemory>,
    /// Where a test makes this process fail.
    pub steps: Option<Arc<dyn Steps>>,
}

impl ConnectorContext {
    /// A context with this clock, whose files lie below the working directory.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            clock,
            file_root: PathBuf::from("."),
            installation: Uuid::nil(),
            process: Uuid::nil(),
            writer_memory: Arc::default(),
            steps: None,
        }
    }

    /// The same for the installation of this name.
    #[must_use]
    pub fn with_installation(self, installation: [u8; 16]) -> Self {
        Self {
            installation: Uuid::from_bytes(installation),
            ..self
        }
    }

    /// The same for the process of this name.
    #[must_use]
    pub fn with_process(self, process: [u8; 16]) -> Self {
        Self {
            process: Uuid::from_bytes(process),
            ..self
        }
    }

    /// The same with so much memory for files that archives write.
    #[must_use]
    pub fn with_writer_memory(self, writer_memory: Arc<WriterMemory>) -> Self {
        Self {
            writer_memory,
            ..self
        }
    }

    /// The same with steps that may fail.
    #[must_use]
    pub fn with_steps(self, steps: Option<Arc<dyn Steps>>) -> Self {
        Self { steps, ..self }
    }

    /// A store whose steps fail where a test wants them to.
    pub(crate) fn stepped(&self, store: Arc<dyn Store>) -> Arc<dyn Store> {
        match &self.steps {
            None => store,
            Some(steps) => Arc::new(SteppedStore::new(store, Arc::clone(steps))),
        }
    }

    /// The same with another folder for files.
    #[must_use]
    pub fn with_file_root(self, file_root: PathBuf) -> Self {
        Self { file_root, ..self }
    }
}

/// A point in elapsed time after which a call returns with what it has. It bounds waiting only, and never decides content,
/// so it reads the machine's monotonic clock whatever [`Clock`] says.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Deadline(Instant);

impl Deadline {
    /// A deadline this far ahead.
    pub(crate) fn after(wait: Duration) -> Self {
        let now = Instant::now();
        Self(now.checked_add(wait).unwrap_or(now))
    }

    /// Time left; zero once it has passed.
    pub(crate) fn left(self) -> Duration {
        self.0.saturating_duration_since(Instant::now())
    }
}
