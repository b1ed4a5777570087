//! A consumed source: its driver thread, which offsets each epoch ends at, and how it is doing.
//!
//! Invariant: a source is followed from where it ended when reading began, or where the epoch log says; what lies before is
//! scanned for each view that needs it. Rows reach the worker in the order the reader gave them, each once per generation; a
//! generation starts at the offsets the last one delivered, and what a stopped generation still delivers is ignored.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use thalweg_catalog::{ConnectorSpec, Oid};
use thalweg_connectors::{
    Budget, ColumnsRead, ConnectorError, DeadLetter, Offsets, SourceBatch, SourceConnector,
    SourceHealth, SourceReader,
};

use crate::built::Building;
use crate::dead::Retention;
use crate::error::EngineError;
use crate::inbox::Delivery;
use crate::job::Job;
use crate::pause::Hold;
use crate::scan::Gathering;
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
    /// Recent rows, for the views that follow; they stay until every one of these has them.
    pub(crate) history: Arc<Stored>,
    pub(crate) state: Mutex<SourceState>,
    /// Keeps every row, while there are views that can only be computed from all of them.
    pub(crate) keeper: Mutex<Option<Arc<Job>>>,
    /// Whether it stands still.
    pub(crate) hold: Hold,
    /// The scans that still take readers, by where they begin.
    pub(crate) gatherings: Mutex<BTreeMap<Offsets, Gathering>>,
}

/// A source that could not be read for so long is in state ERROR; what is shorter, as a first connection, is not.
pub(crate) const LASTING: Duration = Duration::from_secs(2);

/// Where a source is.
#[derive(Debug, Default)]
pub(crate) struct SourceState {
    /// Views and sinks that read it, and what they read.
    pub(crate) consumers: BTreeMap<Oid, ColumnsRead>,
    /// What is to be built for all of them.
    pub(crate) wanted: Arc<ColumnsRead>,
    /// What the driver's reader builds.
    pub(crate) building: Option<Building>,
    pub(crate) generation: u64,
    /// Everything the driver has read, queued or not.
    pub(crate) delivered: Offsets,
    /// Everything the worker has taken over, visible or not.
    pub(crate) received: Offsets,
    /// Offsets bound to published epochs.
    pub(crate) bound: Offsets,
    /// The same for each epoch of the window at which they changed, oldest first.
    pub(crate) positions: VecDeque<(u64, Offsets)>,
    /// Where to begin to follow, which every read includes; `None` until known.
    pub(crate) target: Option<Offsets>,
    /// Why the target is not known yet.
    pub(crate) target_failure: Option<String>,
    /// It is followed, from `live_from` on.
    pub(crate) started: bool,
    pub(crate) live_from: Offsets,
    /// Records that scans have read, each as often as it was.
    pub(crate) scanned: u64,
    /// How far before `live_from` scans have counted records.
    pub(crate) counted: Offsets,
    pub(crate) high: Offsets,
    pub(crate) health: Option<SourceHealth>,
    /// Since when the reader that follows it says that it cannot read.
    pub(crate) degraded_since: Option<Instant>,
    /// Why the last reader that followed it was given up, and when the next one begins; until one reads again.
    pub(crate) given_up: Option<(String, Instant)>,
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
            _ if self.started || self.consumers.is_empty() => None,
            Some(SourceHealth::Degraded(reason)) => Some(reason),
            _ => self.target_failure.as_deref(),
        }
    }

    /// What keeps it from being read, which may end by itself.
    pub(crate) fn trouble(&self) -> Option<&str> {
        match (&self.given_up, &self.health) {
            (Some((reason, _)), _) | (None, Some(SourceHealth::Degraded(reason))) => Some(reason),
            (None, _) => self.obstacle(),
        }
    }

    /// Whether what keeps it from being read lasts: it is being tried again, or was for a while by the reader itself.
    pub(crate) fn is_in_error(&self) -> bool {
        let waits = !self.started && !self.consumers.is_empty() && self.target_failure.is_some();
        let lasts = |since: Instant| since.elapsed() >= LASTING;
        self.given_up.is_some() || waits || self.degraded_since.is_some_and(lasts)
    }

    fn set_health(&mut self, health: SourceHealth) {
        match &health {
            SourceHealth::Degraded(_) => {
                self.degraded_since.get_or_insert_with(Instant::now);
            }
            SourceHealth::Running => self.degraded_since = None,
        }
        self.health = Some(health);
    }

    /// Begins to follow at the target.
    pub(crate) fn start(&mut self, start: &Offsets, target: &Offsets) {
        let mut at = start.clone();
        for (split, end) in target {
            let here = at.entry(split.clone()).or_default();
            *here = (*here).max(*end);
        }
        self.live_from = at.clone();
        self.delivered = at.clone();
        self.received = at;
        self.started = true;
    }

    /// Everything received so far belongs to `epoch`.
    pub(crate) fn bind(&mut self, epoch: u64) {
        self.bound = self.received.clone();
        self.positions.push_back((epoch, self.bound.clone()));
    }

    /// Forgets where epochs before `horizon` ended.
    pub(crate) fn collect(&mut self, horizon: u64) {
        while self
            .positions
            .get(1)
            .is_some_and(|(epoch, _)| *epoch <= horizon)
        {
            self.positions.pop_front();
        }
    }

    /// Counts what a scan read from before `live_from`, the first time only.
    pub(crate) fn count_scanned(&mut self, batch: &SourceBatch) {
        let new = |(split, next): (&String, &u64)| {
            *next <= self.live_from.get(split).copied().unwrap_or(0)
                && *next > self.counted.get(split).copied().unwrap_or(0)
        };
        if batch.offsets.iter().any(new) {
            self.records += batch.records;
            self.skipped += batch.skipped;
            self.dead += batch.dead.len() as u64;
            self.counted.extend(batch.offsets.clone());
        }
    }
}

impl Source {
    /// True when nothing runs or the driver belongs to an older generation.
    fn is_stale(&self, generation: u64) -> bool {
        self.state.lock().generation != generation
    }

    /// The offsets that `epoch` ends at; `None` before the source was followed, or when that is too long ago.
    pub(crate) fn offsets_at(&self, epoch: u64) -> Option<Offsets> {
        let state = self.state.lock();
        let after = state.positions.partition_point(|(from, _)| *from <= epoch);
        let (_, offsets) = state.positions.get(after.checked_sub(1)?)?;
        Some(offsets.clone())
    }

    /// The newest epoch at which it has moved, and where that ends.
    pub(crate) fn newest_place(&self) -> Option<(u64, Offsets)> {
        self.state.lock().positions.back().cloned()
    }

    /// Stops reading; the views over the source are in state ERROR from here on.
    pub(crate) fn fail(&self, shared: &Shared, sqlstate: &str, reason: String) {
        let mut state = self.state.lock();
        state.generation += 1;
        state.health = Some(SourceHealth::Degraded(reason.clone()));
        drop(state);
        shared.fail(&self.history, sqlstate, reason);
    }

    /// What has to be decoded for readers of `columns`. A row that a constraint refuses is shown whole, whoever reads.
    pub(crate) fn columns_decoded(&self, columns: &ColumnsRead) -> ColumnsRead {
        match self.shape.reads_nothing() {
            true => columns.clone(),
            false => ColumnsRead::all(),
        }
    }

    /// Has the reader that follows the source build what those who read it now read, and no more.
    pub(crate) fn want_columns(&self, state: &mut SourceState) {
        let mut all = ColumnsRead::none();
        state.consumers.values().for_each(|read| all.join(read));
        let all = self.columns_decoded(&all);
        if *state.wanted != all {
            state.wanted = Arc::new(all);
        }
    }

    /// True when one who reads `columns`, and has all that the source gave through `epoch`, finds what it reads in every row that
    /// comes after. Of a source that has failed nothing comes.
    pub(crate) fn suits_from(&self, epoch: u64, columns: &ColumnsRead) -> bool {
        if self.history.failure.lock().is_some() {
            return true;
        }
        let Some(at) = self.offsets_at(epoch) else {
            return false;
        };
        let state = self.state.lock();
        let building = state.building.as_ref();
        building.is_none_or(|building| building.suits(columns, &at, &state.delivered))
    }

    /// Why a source that must not pass over a record stops at one.
    pub(crate) fn stopped_at(&self, letter: &DeadLetter) -> String {
        format!(
            "{} stopped at {} partition {} offset {}: {}",
            self.history.label(),
            letter.topic,
            letter.partition,
            letter.offset,
            letter.message
        )
    }

    /// What keeps the rows, made at first need.
    pub(crate) fn keeper(&self, shared: &Arc<Shared>) -> Result<Arc<Job>, EngineError> {
        let mut keeper = self.keeper.lock();
        if let Some(keeper) = keeper.as_ref() {
            return Ok(Arc::clone(keeper));
        }
        let made = Job::keeper(shared, &self.history)?;
        *keeper = Some(Arc::clone(&made));
        Ok(made)
    }

    /// Stops the driver without waiting for it.
    pub(crate) fn stop(&self) -> Option<JoinHandle<()>> {
        let mut state = self.state.lock();
        state.generation += 1;
        state.health = None;
        state.degraded_since = None;
        state.given_up = None;
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

/// A source that starts for the first time is followed from its end, and views show their rows when they have what lies before.
/// Until the end is known nothing is shown, because nothing and all of it look alike.
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
                let _ = shared.inbox.tick();
                return;
            }
            Ok(Err(error)) => reason(&error),
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

/// How often a reader that has used up its pace looks again.
pub(crate) const PACE_CHECK: Duration = Duration::from_millis(10);

/// Rows that `source_rate_limit` leaves. What is not used within a second is lost, so a pause is not followed by a flood.
pub(crate) struct Pace {
    per_second: f64,
    left: f64,
    last: Option<Instant>,
}

impl Pace {
    pub(crate) fn new(per_second: u64) -> Self {
        Self {
            per_second: per_second as f64,
            left: 0.0,
            last: None,
        }
    }

    /// Whole rows that may be read at `now`.
    pub(crate) fn rows(&mut self, now: Instant) -> usize {
        let since = self
            .last
            .map_or(PACE_CHECK, |last| now.duration_since(last));
        self.last = Some(now);
        let earned = since.as_secs_f64() * self.per_second;
        self.left = (self.left + earned).min(self.per_second.max(1.0));
        self.left.max(0.0) as usize
    }

    pub(crate) fn took(&mut self, rows: u64) {
        self.left -= rows as f64;
    }
}

/// What went wrong, in one line.
fn reason(error: &ConnectorError) -> String {
    let report = error.report();
    match report.detail {
        Some(detail) => format!("{}: {detail}", report.message),
        None => report.message,
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
        } else {
            let _ = self.shared.inbox.tick();
        }
        // The worker starts the source, because an epoch has to say where.
        let mut seen = 0;
        while !self.stopped() && !self.source.state.lock().started {
            seen = self.shared.wait_for_bump(seen, STOP_CHECK);
        }
        let mut backoff = self.shared.config.backoff_min;
        while !self.stopped() {
            if self.source.hold.holds(&self.shared) {
                seen = self.shared.wait_for_bump(seen, STOP_CHECK);
                continue;
            }
            let (at, records) = {
                let state = self.source.state.lock();
                (state.delivered.clone(), state.records)
            };
            // A connector that panics is a broken reader, not a broken server.
            let run = std::panic::AssertUnwindSafe(|| {
                self.source
                    .connector
                    .open(&at)
                    .and_then(|reader| self.read(reader))
            });
            let error = match std::panic::catch_unwind(run) {
                Ok(Ok(())) => return,
                Ok(Err(error)) => reason(&error),
                Err(_) => "the reader stopped at a broken invariant".to_string(),
            };
            if self.source.state.lock().records > records {
                backoff = self.shared.config.backoff_min;
            }
            self.report(error, Instant::now() + backoff);
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
        let mut told = None;
        while !self.stopped() {
            let columns = self.tell(reader.as_mut(), &mut told);
            let rows = match &mut pace {
                Some(pace) => pace.rows(Instant::now()).min(budget.rows),
                None => budget.rows,
            };
            if rows == 0
                || self.source.hold.holds(&self.shared)
                || self.shared.held_back().is_some()
            {
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
                if moved || health == SourceHealth::Running {
                    state.given_up = None;
                }
                state.set_health(health);
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
                columns,
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

    /// Tells the reader what to build from its next poll on, when that is not what it was told.
    fn tell(
        &self,
        reader: &mut dyn SourceReader,
        told: &mut Option<Arc<ColumnsRead>>,
    ) -> Arc<ColumnsRead> {
        let mut state = self.source.state.lock();
        let wanted = Arc::clone(&state.wanted);
        if told.as_ref().is_some_and(|told| Arc::ptr_eq(told, &wanted)) {
            return wanted;
        }
        reader.read_only(&wanted);
        if state.generation != self.generation {
            return wanted;
        }
        *told = Some(Arc::clone(&wanted));
        // Whoever has all that was delivered by now will find the rest of the new form.
        state.building = Some(Building {
            columns: Arc::clone(&wanted),
            since: state.delivered.clone(),
        });
        drop(state);
        self.shared.bump();
        wanted
    }

    fn stopped(&self) -> bool {
        self.shared.is_stopping() || self.source.is_stale(self.generation)
    }

    fn report(&self, error: String, retry_at: Instant) {
        let mut state = self.source.state.lock();
        if state.generation != self.generation {
            return;
        }
        state.health = Some(SourceHealth::Degraded(error.clone()));
        state.given_up = Some((error.clone(), retry_at));
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
