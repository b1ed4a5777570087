//! Looks around in the background: which partitions exist, what they hold, whether anyone answers.
//!
//! Invariant: a survey never blocks its reader, and its number tells whether it began before or after something the reader saw.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

use parking_lot::Mutex;

use super::client::{Cluster, Extent};
use crate::error::ConnectorError;

/// Pause after a survey that failed.
const RETRY_INTERVAL: Duration = Duration::from_millis(500);
/// Least time between surveys a reader asks for.
const ASKED_INTERVAL: Duration = Duration::from_millis(100);

/// What one look around found.
#[derive(Debug)]
pub(super) struct Survey {
    /// Counts surveys by when they began.
    pub(super) number: u64,
    /// Partitions and what they hold.
    pub(super) outcome: Result<BTreeMap<i32, Extent>, ConnectorError>,
}

#[derive(Debug, Default)]
struct Shared {
    begun: AtomicU64,
    finished: AtomicU64,
    latest: Mutex<Option<Arc<Survey>>>,
}

/// Handle of the background thread, which ends some time after this is dropped.
#[derive(Debug)]
pub(super) struct Surveyor {
    ask: SyncSender<()>,
    shared: Arc<Shared>,
}

impl Surveyor {
    /// Starts looking around, at once and then every `interval`.
    pub(super) fn start(cluster: Arc<Cluster>, interval: Duration) -> Result<Self, ConnectorError> {
        let (ask, asked) = sync_channel(1);
        let shared = Arc::new(Shared::default());
        let thread_shared = Arc::clone(&shared);
        std::thread::Builder::new()
            .name("kafka-survey".into())
            .spawn(move || run(&cluster, interval, &asked, &thread_shared))
            .map_err(|error| {
                ConnectorError::Internal(format!("could not start a thread: {error}"))
            })?;
        Ok(Self { ask, shared })
    }

    /// Asks for a survey soon; does nothing when one is asked for already.
    pub(super) fn ask(&self) {
        let _ = self.ask.try_send(());
    }

    /// Number of the survey that began last; a survey with a greater number began after this call.
    pub(super) fn begun(&self) -> u64 {
        self.shared.begun.load(Ordering::SeqCst)
    }

    /// The latest survey, when it is newer than `seen`.
    pub(super) fn newer_than(&self, seen: u64) -> Option<Arc<Survey>> {
        if self.shared.finished.load(Ordering::Acquire) <= seen {
            return None;
        }
        self.shared.latest.lock().clone()
    }
}

fn run(cluster: &Cluster, interval: Duration, asked: &Receiver<()>, shared: &Shared) {
    loop {
        let number = shared.begun.fetch_add(1, Ordering::SeqCst) + 1;
        let outcome = cluster.extents();
        let pause = if outcome.is_ok() {
            interval
        } else {
            RETRY_INTERVAL.min(interval)
        };
        *shared.latest.lock() = Some(Arc::new(Survey { number, outcome }));
        shared.finished.store(number, Ordering::Release);
        match asked.recv_timeout(pause) {
            Ok(()) => std::thread::sleep(ASKED_INTERVAL),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}
