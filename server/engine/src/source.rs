//! A consumed source: its driver thread, where it has read to, and how it is doing.
//!
//! Invariant: rows reach the worker in the order the reader gave them, each once per generation; a generation starts at the
//! stored start or at the offsets the last one delivered, and what a stopped generation still delivers is ignored.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use thalweg_catalog::{ConnectorSpec, Oid};
use thalweg_connectors::{
    Budget, ConnectorError, Offsets, SourceConnector, SourceHealth, SourceReader,
};

use crate::dead::Retention;
use crate::inbox::Delivery;
use crate::shape::Shape;
use crate::shared::{Shared, Stored};
use crate::status::ErrorRecord;

/// How often a driver looks whether it should stop.
const STOP_CHECK: Duration = Duration::from_millis(50);

/// Dead letters of one source take at most about this many bytes, whatever their number.
const ERRORS_BYTES_MAX: usize = 256 << 20;

/// What a row that cannot be decoded does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum OnError {
    /// Goes to the errors relation.
    DeadLetter,
    /// Stops the views that read the source.
    Fail,
    /// Is counted.
    Ignore,
}

/// A declared source.
#[derive(Debug)]
pub(crate) struct Source {
    pub(crate) oid: Oid,
    pub(crate) connector: Arc<dyn SourceConnector>,
    pub(crate) start: Offsets,
    pub(crate) on_error: OnError,
    /// Rows read per second at most.
    pub(crate) rate_limit: Option<u64>,
    /// Generated columns and constraints.
    pub(crate) shape: Shape,
    /// Every row since the start, for the views; content only while something consumes it.
    pub(crate) history: Arc<Stored>,
    pub(crate) state: Mutex<SourceState>,
}

/// Where a source is.
#[derive(Debug, Default)]
pub(crate) struct SourceState {
    /// Views and sinks that read it.
    pub(crate) consumers: BTreeSet<Oid>,
    pub(crate) generation: u64,
    /// Everything the driver has read, queued or not.
    pub(crate) delivered: Offsets,
    /// Everything the worker has taken over, visible or not.
    pub(crate) received: Offsets,
    /// Offsets bound to published epochs.
    pub(crate) bound: Offsets,
    /// What must have been read before the content is readable; `None` until known.
    pub(crate) target: Option<Offsets>,
    /// Why the target is not known yet.
    pub(crate) target_failure: Option<String>,
    pub(crate) caught_up: bool,
    /// Rows read so far while catching up.
    pub(crate) held: Vec<datafusion::arrow::record_batch::RecordBatch>,
    pub(crate) high: Offsets,
    pub(crate) health: Option<SourceHealth>,
    pub(crate) records: u64,
    pub(crate) dead: u64,
    pub(crate) skipped: u64,
    pub(crate) driver: Option<JoinHandle<()>>,
    /// No thread could be started; the worker tries again.
    pub(crate) driver_failed: bool,
}

impl SourceState {
    /// What keeps a source that is not readable yet from getting there, when that is not just the amount of it.
    pub(crate) fn obstacle(&self) -> Option<&str> {
        match &self.health {
            _ if self.caught_up || self.consumers.is_empty() => None,
            Some(SourceHealth::Degraded(reason)) => Some(reason),
            _ => self.target_failure.as_deref(),
        }
    }
}

impl Source {
    /// True when nothing runs or the driver belongs to an older generation.
    fn is_stale(&self, generation: u64) -> bool {
        self.state.lock().generation != generation
    }

    /// Stops the driver without waiting for it.
    pub(crate) fn stop(&self) -> Option<JoinHandle<()>> {
        let mut state = self.state.lock();
        state.generation += 1;
        state.health = None;
        state.driver.take()
    }
}

/// Offsets as the epoch log keeps them.
pub(crate) fn encode_offsets(offsets: &Offsets) -> Vec<u8> {
    let mut out = Vec::new();
    for (split, next) in offsets {
        out.extend_from_slice(&(split.len() as u32).to_le_bytes());
        out.extend_from_slice(split.as_bytes());
        out.extend_from_slice(&next.to_le_bytes());
    }
    out
}

/// The inverse of [`encode_offsets`]; `None` for any other bytes.
pub(crate) fn decode_offsets(mut bytes: &[u8]) -> Option<Offsets> {
    let mut offsets = Offsets::new();
    while !bytes.is_empty() {
        let (len, rest) = bytes.split_first_chunk::<4>()?;
        let (split, rest) = rest.split_at_checked(u32::from_le_bytes(*len) as usize)?;
        let (next, rest) = rest.split_first_chunk::<8>()?;
        offsets.insert(
            String::from_utf8(split.to_vec()).ok()?,
            u64::from_le_bytes(*next),
        );
        bytes = rest;
    }
    Some(offsets)
}

/// True when `at` has reached every split of `target`.
pub(crate) fn reached(at: &Offsets, target: &Offsets, start: &Offsets) -> bool {
    target.iter().all(|(split, end)| {
        let here = at
            .get(split)
            .or_else(|| start.get(split))
            .copied()
            .unwrap_or(0);
        here >= *end
    })
}

/// `on_error`, `errors.retention` and `errors.max_rows` of a source.
pub(crate) fn error_options(spec: &ConnectorSpec) -> (OnError, Retention) {
    let on_error = match spec.options.get("on_error").map(String::as_str) {
        Some("fail") => OnError::Fail,
        Some("ignore") => OnError::Ignore,
        _ => OnError::DeadLetter,
    };
    const DAY_US: i64 = 86_400_000_000;
    let age_us = spec
        .options
        .get("errors.retention")
        .and_then(|text| interval_us(text))
        .unwrap_or(7 * DAY_US);
    let rows_max = spec
        .options
        .get("errors.max_rows")
        .and_then(|text| text.parse().ok())
        .unwrap_or(100_000);
    let retention = Retention {
        age_us,
        rows_max,
        bytes_max: ERRORS_BYTES_MAX,
    };
    (on_error, retention)
}

/// Microseconds of `7 days`, `12 hours`, `90 min`; the catalog has checked the text, an unknown unit gives `None`.
pub(crate) fn interval_us(text: &str) -> Option<i64> {
    let mut total = 0_i64;
    let mut words = text.split_whitespace();
    while let Some(word) = words.next() {
        let digits = word.len() - word.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (number, unit) = word.split_at(digits);
        let unit = if unit.is_empty() { words.next()? } else { unit };
        let factor = match unit.to_ascii_lowercase().trim_end_matches('s') {
            "m" | "millisecond" if unit.eq_ignore_ascii_case("ms") || unit.len() > 2 => 1_000,
            "" | "sec" | "second" => 1_000_000,
            "m" | "min" | "minute" => 60_000_000,
            "h" | "hour" => 3_600_000_000,
            "d" | "day" => 86_400_000_000,
            "w" | "week" => 604_800_000_000,
            _ => return None,
        };
        total = total.checked_add(number.parse::<i64>().ok()?.checked_mul(factor)?)?;
    }
    Some(total)
}

/// Starts reading for the current generation. The stored start is used, or `delivered` after a failure.
pub(crate) fn spawn_driver(shared: &Arc<Shared>, source: &Arc<Source>) {
    let mut state = source.state.lock();
    state.generation += 1;
    let generation = state.generation;
    let (shared, driven) = (Arc::clone(shared), Arc::clone(source));
    let spawned = std::thread::Builder::new()
        .name(format!("thalweg-source-{}", source.oid.0))
        .spawn(move || {
            Driver {
                shared,
                source: driven,
                generation,
            }
            .run()
        });
    match spawned {
        Ok(handle) => {
            state.driver = Some(handle);
            state.driver_failed = false;
        }
        Err(error) => {
            state.driver_failed = true;
            state.health = Some(SourceHealth::Degraded(format!(
                "could not start a thread: {error}"
            )))
        }
    }
}

/// A source that starts for the first time shows its rows once it has read what was there when it started. Until that is known
/// nothing is shown, because nothing and all of it look alike.
async fn learn_target(shared: Arc<Shared>, source: Arc<Source>, generation: u64) {
    let mut progress = shared.subscribe();
    let mut backoff = shared.config.backoff_min;
    let gone = || shared.is_stopping() || source.is_stale(generation);
    while !gone() {
        let wait = shared.config.source_end_wait;
        let answer = tokio::time::timeout(wait, source.connector.end_offsets()).await;
        let failure = match answer {
            Ok(Ok(target)) => {
                let mut state = source.state.lock();
                if state.generation == generation {
                    state.target.get_or_insert(target);
                    state.target_failure = None;
                }
                drop(state);
                // With an empty target there is nothing to wait for; the worker finds that out at the next epoch.
                let _ = shared.inbox.tick();
                return;
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => "the end of the source is not known in time".to_string(),
        };
        source.state.lock().target_failure = Some(failure);
        shared.bump();
        let until = tokio::time::Instant::now() + backoff;
        backoff = (backoff * 2).min(shared.config.backoff_max);
        while !gone() {
            match tokio::time::timeout_at(until, progress.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return,
                Err(_) => break,
            }
        }
    }
}

/// How often a driver that has used up its pace looks again.
const PACE_CHECK: Duration = Duration::from_millis(10);

/// Rows that `source_rate_limit` leaves. What is not used within a second is lost, so a pause is not followed by a flood.
struct Pace {
    per_second: f64,
    left: f64,
    last: Option<Instant>,
}

impl Pace {
    fn new(per_second: u64) -> Self {
        Self {
            per_second: per_second as f64,
            left: 0.0,
            last: None,
        }
    }

    /// Whole rows that may be read at `now`.
    fn rows(&mut self, now: Instant) -> usize {
        let since = self
            .last
            .map_or(PACE_CHECK, |last| now.duration_since(last));
        self.last = Some(now);
        let earned = since.as_secs_f64() * self.per_second;
        self.left = (self.left + earned).min(self.per_second.max(1.0));
        self.left.max(0.0) as usize
    }

    fn took(&mut self, rows: u64) {
        self.left -= rows as f64;
    }
}

struct Driver {
    shared: Arc<Shared>,
    source: Arc<Source>,
    generation: u64,
}

impl Driver {
    fn run(&self) {
        if self.source.state.lock().target.is_none() {
            let (shared, source) = (Arc::clone(&self.shared), Arc::clone(&self.source));
            self.shared
                .wires
                .spawn(learn_target(shared, source, self.generation));
        }
        let mut backoff = self.shared.config.backoff_min;
        while !self.stopped() {
            let at = {
                let state = self.source.state.lock();
                let mut at = self.source.start.clone();
                at.extend(state.delivered.clone());
                at
            };
            let records = self.source.state.lock().records;
            // A connector that panics is a broken reader, not a broken server.
            let run = std::panic::AssertUnwindSafe(|| {
                self.source
                    .connector
                    .open(&at)
                    .and_then(|reader| self.read(reader))
            });
            let error = match std::panic::catch_unwind(run) {
                Ok(Ok(())) => return,
                Ok(Err(error)) => error.to_string(),
                Err(_) => "the reader stopped at a broken invariant".to_string(),
            };
            if self.source.state.lock().records > records {
                backoff = self.shared.config.backoff_min;
            }
            self.report(error);
            self.pause(backoff);
            backoff = (backoff * 2).min(self.shared.config.backoff_max);
        }
    }

    fn read(&self, mut reader: Box<dyn SourceReader>) -> Result<(), ConnectorError> {
        let config = &self.shared.config;
        let budget = Budget {
            rows: config.epoch_rows_max / 2,
            bytes: config.epoch_bytes_max,
            time: STOP_CHECK,
        };
        let mut pace = self.source.rate_limit.map(Pace::new);
        while !self.stopped() {
            let rows = match &mut pace {
                Some(pace) => pace.rows(Instant::now()).min(budget.rows),
                None => budget.rows,
            };
            if rows == 0 {
                std::thread::park_timeout(PACE_CHECK);
                continue;
            }
            let batch = reader.poll(Budget { rows, ..budget })?;
            if let Some(pace) = &mut pace {
                pace.took(batch.records);
            }
            let (health, high) = (reader.health(), reader.high_watermarks());
            let moved =
                !batch.offsets.is_empty() || batch.rows.num_rows() > 0 || !batch.dead.is_empty();
            {
                let mut state = self.source.state.lock();
                if state.generation != self.generation {
                    return Ok(());
                }
                state.health = Some(health);
                state.high = high;
                state.records += batch.records;
                state.skipped += batch.skipped;
                state.dead += batch.dead.len() as u64;
                state.delivered.extend(batch.offsets.clone());
            }
            if !moved {
                continue;
            }
            let mut delivery = Delivery {
                source: self.source.oid,
                generation: self.generation,
                batch,
            };
            while let Err(back) =
                self.shared
                    .inbox
                    .deliver(delivery, config.epoch_rows_max, STOP_CHECK)
            {
                if self.stopped() {
                    return Ok(());
                }
                delivery = *back;
            }
        }
        Ok(())
    }

    fn stopped(&self) -> bool {
        self.shared.is_stopping() || self.source.is_stale(self.generation)
    }

    fn report(&self, error: String) {
        let mut state = self.source.state.lock();
        if state.generation != self.generation {
            return;
        }
        state.health = Some(SourceHealth::Degraded(error.clone()));
        drop(state);
        tracing::warn!(source = %self.source.history.name, error, "source reader failed, reopening");
        self.shared.record_error(ErrorRecord::of(
            &self.source.history,
            "58030",
            error,
            self.shared.clock.now_us(),
            None,
        ));
    }

    fn pause(&self, wait: Duration) {
        let until = Instant::now() + wait;
        while !self.stopped() && Instant::now() < until {
            std::thread::park_timeout(STOP_CHECK.min(wait));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pace_is_kept_and_a_pause_is_not_made_up_for() {
        let mut pace = Pace::new(100);
        let start = Instant::now();
        let mut read = 0;
        for step in 0..200_u32 {
            let rows = pace.rows(start + Duration::from_millis(10) * step);
            pace.took(rows as u64);
            read += rows;
        }
        assert!((198..=201).contains(&read), "{read}");
        assert_eq!(pace.rows(start + Duration::from_secs(60)), 100);
        // A batch may be larger than asked for; what it took too much is waited for.
        pace.took(150);
        assert_eq!(pace.rows(start + Duration::from_millis(60_500)), 0);
        assert_eq!(pace.rows(start + Duration::from_millis(60_520)), 2);
    }
}
