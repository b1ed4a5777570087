//! Collects the compute errors of a view's runs: rows whose value is NULL because an expression raised.
//!
//! Invariant: an error is recorded when it is new or more frequent than in the run before, so a view that is recomputed every
//! second over one bad row has one record, not one per run. Taking a row back records nothing.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use thalweg_catalog::Report;
use thalweg_planner::ErrorSink;

type Counts = BTreeMap<(&'static str, String), u64>;

/// The errors of one view.
#[derive(Debug, Default)]
pub(crate) struct ComputeErrors {
    muted: AtomicBool,
    current: Mutex<Counts>,
    previous: Mutex<Counts>,
}

impl ErrorSink for ComputeErrors {
    fn compute_error(&self, report: &Report, count: u64) {
        if !self.muted.load(Ordering::SeqCst) {
            *self
                .current
                .lock()
                .entry((report.sqlstate, report.message.clone()))
                .or_default() += count;
        }
    }
}

impl ComputeErrors {
    /// While muted, errors are not recorded: the rows are on their way out.
    pub(crate) fn mute(&self, muted: bool) {
        self.muted.store(muted, Ordering::SeqCst);
    }

    /// Errors of the rows that one step added: `(sqlstate, message, rows)`.
    pub(crate) fn take_step(&self) -> Vec<(&'static str, String, u64)> {
        let counts = std::mem::take(&mut *self.current.lock());
        counts
            .into_iter()
            .map(|((sqlstate, message), count)| (sqlstate, message, count))
            .collect()
    }

    /// Errors of a whole recomputation that the last one did not have, or had on fewer rows.
    pub(crate) fn take_run(&self) -> Vec<(&'static str, String, u64)> {
        let counts = std::mem::take(&mut *self.current.lock());
        let mut previous = self.previous.lock();
        let fresh = counts
            .iter()
            .filter(|(key, count)| **count > previous.get(*key).copied().unwrap_or(0))
            .map(|((sqlstate, message), count)| (*sqlstate, message.clone(), *count))
            .collect();
        *previous = counts;
        fresh
    }

    /// Forgets what a failed run reported.
    pub(crate) fn discard(&self) {
        self.current.lock().clear();
    }
}
