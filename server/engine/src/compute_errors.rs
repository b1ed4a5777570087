//! Collects the compute errors of a view's runs: rows whose value is NULL because an expression raised.
//!
//! Invariant: an error is recorded when it is new or more frequent than in the run before, so a view that is recomputed every
//! second over one bad row has one record, not one per run. Taking a row back records nothing.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use thalweg_catalog::Report;
use thalweg_planner::ErrorSink;

/// Distinct messages of one run; the rest is counted together.
const MESSAGES_MAX: usize = 100;
const OTHERS: &str = "more rows could not be computed, for other reasons than those recorded";

thread_local! {
    static MUTED: Cell<bool> = const { Cell::new(false) };
}

/// Runs `evaluate` on this thread, for rows on their way out when `mute` is set: their errors are not recorded again.
pub(crate) fn muted<T>(mute: bool, evaluate: impl FnOnce() -> T) -> T {
    let before = MUTED.replace(mute);
    let result = evaluate();
    MUTED.set(before);
    result
}

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
        if !self.muted.load(Ordering::SeqCst) && !MUTED.get() {
            let mut current = self.current.lock();
            let key = (report.sqlstate, report.message.clone());
            // Messages contain values, so there may be one for each row.
            let full = current.len() >= MESSAGES_MAX && !current.contains_key(&key);
            let key = if full {
                ("22000", OTHERS.to_owned())
            } else {
                key
            };
            *current.entry(key).or_default() += count;
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
        // Which messages come first may differ from run to run; when they are too many, only their number tells.
        let truncated = |counts: &Counts| counts.len() > MESSAGES_MAX;
        let total = |counts: &Counts| counts.values().sum::<u64>();
        if truncated(&counts) && truncated(&previous) && total(&counts) <= total(&previous) {
            return Vec::new();
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn run(
        errors: &ComputeErrors,
        values: std::ops::Range<u64>,
    ) -> Vec<(&'static str, String, u64)> {
        for value in values {
            let report = Report {
                sqlstate: "22P02",
                message: format!("invalid input: {value}"),
                detail: None,
                hint: None,
                position: None,
            };
            errors.compute_error(&report, 1);
        }
        errors.take_run()
    }

    #[test]
    fn many_values_are_few_records() {
        let errors = ComputeErrors::default();
        let first = run(&errors, 0..5_000);
        assert_eq!(first.len(), MESSAGES_MAX + 1);
        assert_eq!(first.iter().map(|record| record.2).sum::<u64>(), 5_000);
        assert_eq!(run(&errors, 1_000..5_000), []);
    }
}
