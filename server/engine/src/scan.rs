//! Reads a source between two sets of offsets, for one query or for views that begin.
//!
//! Invariant: what is handed over are the rows between the offsets, all of them and nothing else, as the live reader would have
//! given them. Views that begin together, and those that go on from one place, share one scan: records are fetched and decoded once
//! for all of them. A view that looks rows up in outside systems scans alone, because the others would wait for its answers.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use datafusion::arrow::array::BooleanArray;
use datafusion::arrow::compute::filter_record_batch;
use datafusion::arrow::error::ArrowError;
use datafusion::arrow::record_batch::RecordBatch;
use parking_lot::Mutex;
use thalweg_connectors::{
    Budget, ColumnsRead, DeadLetter, Offsets, SourceBatch, SourceHealth, SourceReader,
};

use crate::config::STACK_BYTES;
use crate::error::EngineError;
use crate::shared::Shared;
use crate::source::{LASTING, OnError, PACE_CHECK, Pace, Source, reached};

const POLL: Duration = Duration::from_millis(100);
const POLL_BYTES: usize = 8 << 20;

/// A scan waits until no other view has begun for this long; after a restart all of them begin.
const GATHER: Duration = Duration::from_millis(30);

/// Longest such wait.
const GATHER_MAX: Duration = Duration::from_secs(1);

/// Longest wait for views that are still on their way back to where the scan begins.
const RETURN_MAX: Duration = Duration::from_secs(5);

/// Batches that may wait for the slowest reader of a scan.
const QUEUE: usize = 2;

/// What an archive's progress is counted under.
const ROWS: &str = "rows";

/// What to do when nothing comes.
pub(crate) enum Patience {
    /// Fail after this long.
    Limited(Duration),
    /// Wait for what the epoch log says is there; a reader that fails is opened again where it was.
    Endless,
}

/// How far a scan is.
#[derive(Debug)]
pub(crate) struct ScanProgress {
    /// The source, for messages.
    pub(crate) label: String,
    from: Offsets,
    ends: Offsets,
    at: Mutex<Offsets>,
    /// Why it does not go on, and since when.
    obstacle: Mutex<Option<(String, Instant)>>,
    /// Some records were no rows, and are on their way into the errors relation.
    dead: AtomicBool,
}

impl ScanProgress {
    fn new(source: &Source, from: &Offsets, ends: &Offsets) -> Arc<Self> {
        Arc::new(Self {
            label: source.history.label(),
            from: from.clone(),
            ends: ends.clone(),
            at: Mutex::new(from.clone()),
            obstacle: Mutex::new(None),
            dead: AtomicBool::new(false),
        })
    }

    /// That of an archive with this many rows.
    pub(crate) fn of_rows(archive: &str, rows: u64) -> Arc<Self> {
        Arc::new(Self {
            label: format!("archive \"{archive}\""),
            from: Offsets::new(),
            ends: Offsets::from([(ROWS.to_owned(), rows)]),
            at: Mutex::default(),
            obstacle: Mutex::new(None),
            dead: AtomicBool::new(false),
        })
    }

    /// So many rows of an archive more have been read.
    pub(crate) fn count(&self, rows: usize) {
        *self.at.lock().entry(ROWS.to_owned()).or_default() += rows as u64;
    }

    /// Records read, and to be read in all.
    pub(crate) fn records(&self) -> (u64, u64) {
        let since = |offsets: &Offsets| {
            let end = |split: &String| self.ends.get(split).copied().unwrap_or(0);
            let from = |split: &String| self.from.get(split).copied().unwrap_or(0);
            offsets
                .iter()
                .map(|(split, next)| (*next).min(end(split)).saturating_sub(from(split)))
                .fold(0, u64::saturating_add)
        };
        (since(&self.at.lock()), since(&self.ends))
    }

    /// Why it does not go on, when that may last.
    pub(crate) fn obstacle(&self) -> Option<String> {
        let obstacle = self.obstacle.lock();
        obstacle.as_ref().map(|(reason, _)| reason.clone())
    }

    /// Whether that is so for a while.
    pub(crate) fn is_in_error(&self) -> bool {
        let obstacle = self.obstacle.lock();
        obstacle
            .as_ref()
            .is_some_and(|(_, since)| since.elapsed() >= LASTING)
    }

    /// Says why it does not go on, or that it does; true when that is news.
    fn meets(&self, obstacle: Option<String>) -> bool {
        let mut known = self.obstacle.lock();
        let (before, since) = match known.take() {
            Some((before, since)) => (Some(before), since),
            None => (None, Instant::now()),
        };
        let news = before != obstacle;
        *known = obstacle.map(|obstacle| (obstacle, since));
        news
    }

    /// Whether there were dead letters.
    pub(crate) fn had_dead(&self) -> bool {
        self.dead.load(Ordering::SeqCst)
    }
}

/// The records of a source from some offsets to others.
pub(crate) struct Scan<'a> {
    shared: &'a Arc<Shared>,
    source: &'a Source,
    from: Offsets,
    ends: Offsets,
    columns: ColumnsRead,
    progress: Arc<ScanProgress>,
}

impl<'a> Scan<'a> {
    pub(crate) fn new(
        shared: &'a Arc<Shared>,
        source: &'a Source,
        from: &Offsets,
        ends: &Offsets,
        columns: &ColumnsRead,
    ) -> Self {
        Self {
            shared,
            source,
            from: from.clone(),
            ends: ends.clone(),
            columns: source.columns_decoded(columns),
            progress: ScanProgress::new(source, from, ends),
        }
    }

    pub(crate) fn progress(&self) -> Arc<ScanProgress> {
        Arc::clone(&self.progress)
    }

    /// Hands the rows over until `take` wants no more or `over` says that nobody does.
    ///
    /// # Errors
    /// What the source reports, `take`'s, 23514 and 22000 for a record that the source must not pass over.
    pub(crate) fn run(
        &self,
        rows_max: usize,
        patience: &Patience,
        over: &dyn Fn() -> bool,
        take: &mut dyn FnMut(RecordBatch) -> Result<bool, EngineError>,
    ) -> Result<(), EngineError> {
        let over = || over() || self.shared.is_stopping();
        let mut at = self.from.clone();
        let mut backoff = self.shared.config.backoff_min;
        while !self.ended(&at) && !over() {
            let before = at.clone();
            let error = match self.read(&mut at, rows_max, patience, &over, take) {
                Ok(()) => return Ok(()),
                Err(Stop::Final(error)) => return Err(error),
                Err(Stop::Reader(error)) => error,
            };
            if matches!(patience, Patience::Limited(_)) {
                return Err(error);
            }
            self.progress.meets(Some(error.report().message));
            self.shared.bump();
            if at != before {
                backoff = self.shared.config.backoff_min;
            }
            let until = Instant::now() + backoff;
            while Instant::now() < until && !over() {
                std::thread::park_timeout(POLL.min(backoff));
            }
            backoff = (backoff * 2).min(self.shared.config.backoff_max);
        }
        Ok(())
    }

    fn ended(&self, at: &Offsets) -> bool {
        reached(at, &self.ends, &self.from)
    }

    /// Reads until the end, with one reader.
    fn read(
        &self,
        at: &mut Offsets,
        rows_max: usize,
        patience: &Patience,
        over: &dyn Fn() -> bool,
        take: &mut dyn FnMut(RecordBatch) -> Result<bool, EngineError>,
    ) -> Result<(), Stop> {
        let reader =
            |error: thalweg_connectors::ConnectorError| Stop::Reader(error.report().into());
        let mut records = self.source.connector.open(at).map_err(reader)?;
        records.read_only(&self.columns);
        let limit = self
            .source
            .rate_limit
            .filter(|_| matches!(patience, Patience::Endless));
        let mut pace = limit.map(Pace::new);
        let mut last_progress = Instant::now();
        while !self.ended(at) && !over() {
            let allowed = pace
                .as_mut()
                .map_or(rows_max, |pace| pace.rows(Instant::now()));
            // A query's scan is bounded by the query's own memory.
            let held = self.shared.held_back().is_some() && matches!(patience, Patience::Endless);
            if allowed == 0 || held {
                std::thread::park_timeout(PACE_CHECK);
                continue;
            }
            let budget = Budget {
                rows: rows_max.min(allowed).min(self.left(at)).max(1),
                bytes: POLL_BYTES,
                time: POLL,
            };
            let batch = records.poll(budget).map_err(reader)?;
            if let Some(pace) = &mut pace {
                pace.took(batch.records);
            }
            if batch.offsets.is_empty() {
                self.nothing_came(records.as_ref(), last_progress, patience)?;
            } else {
                last_progress = Instant::now();
                self.progress.meets(None);
            }
            let (rows, offsets) = self.rows_of(batch, patience, over)?;
            at.extend(offsets);
            *self.progress.at.lock() = at.clone();
            if rows.num_rows() > 0 && !take(rows).map_err(Stop::Final)? {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Records between `at` and the end.
    fn left(&self, at: &Offsets) -> usize {
        let left = self
            .ends
            .iter()
            .map(|(split, end)| end.saturating_sub(at.get(split).copied().unwrap_or(0)))
            .fold(0, u64::saturating_add);
        usize::try_from(left).unwrap_or(usize::MAX)
    }

    fn nothing_came(
        &self,
        records: &dyn SourceReader,
        last_progress: Instant,
        patience: &Patience,
    ) -> Result<(), Stop> {
        let obstacle = match records.health() {
            SourceHealth::Degraded(reason) => Some(reason),
            SourceHealth::Running => None,
        };
        match patience {
            Patience::Limited(wait) if last_progress.elapsed() >= *wait => {
                let message = format!("could not read {} to its end", self.source.history.label());
                let detail = obstacle.unwrap_or_else(|| "No records arrived in time.".to_string());
                Err(Stop::Final(EngineError::statement(
                    "08001",
                    message,
                    Some(detail),
                )))
            }
            Patience::Limited(_) => Ok(()),
            Patience::Endless => {
                if self.progress.meets(obstacle) {
                    self.shared.bump();
                }
                Ok(())
            }
        }
    }

    /// The rows that lie before the ends, with the source's generated columns and constraints; what is no row goes where the
    /// source says.
    fn rows_of(
        &self,
        batch: SourceBatch,
        patience: &Patience,
        over: &dyn Fn() -> bool,
    ) -> Result<(RecordBatch, Offsets), Stop> {
        let arrow = |error: ArrowError| Stop::Final(error.into());
        let endless = matches!(patience, Patience::Endless);
        let stop = |sqlstate, reason: String| {
            if endless {
                self.source.fail(self.shared, sqlstate, reason.clone());
            }
            Stop::Final(EngineError::statement(sqlstate, reason, None))
        };
        if endless {
            let mut state = self.source.state.lock();
            state.count_scanned(&batch);
            state.scanned += batch.records;
        }
        let batch = cut(batch, &self.ends).map_err(arrow)?;
        let shaped = self
            .source
            .shape
            .apply(&batch, self.shared.clock.now_us())
            .map_err(Stop::Final)?;
        if let Some(reason) = shaped.failure {
            return Err(stop("23514", reason));
        }
        let mut dead = batch.dead;
        dead.extend(shaped.dead);
        if let Some(first) = dead.first() {
            match self.source.on_error {
                OnError::Ignore => {}
                OnError::DeadLetter => {
                    self.progress.dead.store(true, Ordering::SeqCst);
                    self.bury(dead, over);
                }
                OnError::Fail => return Err(stop("22000", self.source.stopped_at(first))),
            }
        }
        Ok((shaped.rows, batch.offsets))
    }

    /// Hands dead letters to the worker, as soon as it has room for them.
    fn bury(&self, dead: Vec<DeadLetter>, over: &dyn Fn() -> bool) {
        let mut dead = dead;
        while let Err(back) = self.shared.inbox.dead(self.source.oid, dead, POLL) {
            if over() {
                return;
            }
            dead = back;
        }
    }
}

/// Why a reader was given up.
enum Stop {
    /// It failed, and another may not.
    Reader(EngineError),
    /// Another would end in the same way.
    Final(EngineError),
}

/// What lies before the ends: while one split catches up, others go on delivering.
fn cut(mut batch: SourceBatch, ends: &Offsets) -> Result<SourceBatch, ArrowError> {
    let inside = |split: &str, offset: i64| {
        ends.get(split)
            .is_some_and(|end| u64::try_from(offset).is_ok_and(|offset| offset < *end))
    };
    let before = |(split, next): (&String, &u64)| ends.get(split).is_some_and(|end| next <= end);
    if batch.offsets.iter().all(before) {
        return Ok(batch);
    }
    let keep: Vec<bool> = batch
        .places
        .iter()
        .map(|place| inside(&batch.split(*place), place.offset))
        .collect();
    if keep.iter().any(|keep| !keep) {
        let mut kept = keep.iter();
        batch.places.retain(|_| kept.next() == Some(&true));
        batch.rows = filter_record_batch(&batch.rows, &BooleanArray::from(keep))?;
    }
    let mut dead = std::mem::take(&mut batch.dead);
    dead.retain(|letter| inside(&batch.split_of(letter), letter.offset));
    batch.dead = dead;
    Ok(batch)
}

/// A scan that has not begun.
#[derive(Debug)]
pub(crate) struct Gathering {
    epoch: u64,
    progress: Arc<ScanProgress>,
    /// What its readers read, all together.
    columns: ColumnsRead,
    readers: Vec<SyncSender<Scanned>>,
    here: Arc<()>,
}

/// A batch of a shared scan, or why there is no more.
type Scanned = Result<RecordBatch, EngineError>;

/// A reader's part in a shared scan.
#[derive(Debug)]
pub(crate) struct JoinedScan {
    pub(crate) progress: Arc<ScanProgress>,
    /// The epoch that it ends at, and where that is.
    pub(crate) epoch: u64,
    pub(crate) ends: Offsets,
    rows: Receiver<Scanned>,
    _here: Arc<()>,
}

impl JoinedScan {
    /// The next batch; `None` at the end, or when `over` says that nobody wants it.
    ///
    /// # Errors
    /// Those of [`Scan::run`].
    pub(crate) fn next(&self, over: &dyn Fn() -> bool) -> Result<Option<RecordBatch>, EngineError> {
        loop {
            match self.rows.recv_timeout(POLL) {
                Ok(scanned) => return scanned.map(Some),
                Err(RecvTimeoutError::Disconnected) => return Ok(None),
                Err(RecvTimeoutError::Timeout) if over() => return Ok(None),
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }
}

/// Takes part in a scan of everything from some offsets to where the source is now. Rows have NULL in columns that none of those who
/// take part read.
///
/// # Errors
/// When no thread can be started.
pub(crate) fn join(
    shared: &Arc<Shared>,
    source: &Arc<Source>,
    from: &Offsets,
    columns: &ColumnsRead,
) -> Result<JoinedScan, EngineError> {
    let (send, rows) = sync_channel(QUEUE);
    let mut gatherings = source.gatherings.lock();
    if let Some(open) = gatherings.get_mut(from) {
        open.readers.push(send);
        open.columns.join(columns);
        return Ok(JoinedScan {
            epoch: open.epoch,
            ends: open.progress.ends.clone(),
            progress: Arc::clone(&open.progress),
            rows,
            _here: Arc::clone(&open.here),
        });
    }
    let (epoch, ends) = newest_place(source)?;
    let progress = ScanProgress::new(source, from, &ends);
    let here = Arc::new(());
    let (scanned_shared, scanned) = (Arc::clone(shared), Arc::clone(source));
    let begins = from.clone();
    std::thread::Builder::new()
        .name("thalweg-scan".into())
        .stack_size(STACK_BYTES)
        .spawn(move || scan_for_all(&scanned_shared, &scanned, begins))
        .map_err(EngineError::internal)?;
    let open = Gathering {
        epoch,
        progress: Arc::clone(&progress),
        columns: columns.clone(),
        readers: vec![send],
        here: Arc::clone(&here),
    };
    gatherings.insert(from.clone(), open);
    Ok(JoinedScan {
        epoch,
        progress,
        ends,
        rows,
        _here: here,
    })
}

/// Where a scan of everything ends now, and at which epoch that is.
pub(crate) fn newest_place(source: &Source) -> Result<(u64, Offsets), EngineError> {
    let place = source.newest_place();
    place.ok_or_else(|| {
        EngineError::internal("a source is scanned before it is known where it ends")
    })
}

/// Gives others the time to take part.
fn wait_for_readers(shared: &Shared, source: &Source, from: &Offsets) {
    let readers = || {
        let gatherings = source.gatherings.lock();
        gatherings.get(from).map_or(0, |open| open.readers.len())
    };
    let begun = Instant::now();
    let (mut before, mut now) = (0, readers());
    while !shared.is_stopping() {
        let waited = begun.elapsed();
        let come = before != now && waited < GATHER_MAX;
        if !come && (waited >= RETURN_MAX || coming(shared, source, from) <= now) {
            return;
        }
        std::thread::park_timeout(GATHER);
        (before, now) = (now, readers());
    }
}

/// Views that go on from these offsets and have not got any further.
fn coming(shared: &Shared, source: &Source, from: &Offsets) -> usize {
    let jobs: Vec<_> = shared.jobs.read().values().cloned().collect();
    let latest = shared.latest();
    let back = jobs.iter().filter(|job| !job.looks_up).filter(|job| {
        // Whoever publishes notes the place while it holds the history, so the place is let go of before the history is asked.
        let is_there = job
            .stands
            .lock()
            .as_ref()
            .is_some_and(|(_, places)| places.of(source.oid) == Some(from));
        is_there && job.relation.through(latest).is_none()
    });
    back.count() + shared.checkpoints.unclaimed_from(source.oid, from)
}

/// Runs a shared scan.
fn scan_for_all(shared: &Arc<Shared>, source: &Arc<Source>, from: Offsets) {
    wait_for_readers(shared, source, &from);
    let Some(gathered) = source.gatherings.lock().remove(&from) else {
        return;
    };
    let mut readers = gathered.readers;
    let here = gathered.here;
    let scan = Scan {
        shared,
        source,
        from,
        ends: gathered.progress.ends.clone(),
        columns: source.columns_decoded(&gathered.columns),
        progress: gathered.progress,
    };
    // A reader that has gone away is found when it is sent to; when all have, there may be nothing to send.
    let over = || Arc::strong_count(&here) == 1;
    let rows_max = shared.config.epoch_rows_max / 2;
    let mut hand_out = |rows: RecordBatch| {
        readers.retain(|reader| reader.send(Ok(rows.clone())).is_ok());
        Ok(!readers.is_empty())
    };
    // A connector that panics is a broken reader, not a broken server.
    let run = std::panic::AssertUnwindSafe(|| {
        scan.run(rows_max, &Patience::Endless, &over, &mut hand_out)
    });
    let ended = std::panic::catch_unwind(run).unwrap_or_else(|_| {
        Err(EngineError::internal(
            "the reader stopped at a broken invariant",
        ))
    });
    if let Err(error) = ended {
        for reader in &readers {
            let _ = reader.send(Err(error.clone()));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use datafusion::arrow::array::{AsArray, Int64Array};
    use datafusion::arrow::datatypes::{DataType, Field, Int64Type, Schema};
    use thalweg_connectors::RowPlace;

    use super::*;

    /// A busy split that runs ahead adds nothing beyond its end, and a split that came later adds nothing at all.
    #[test]
    fn a_scan_ends_at_the_end_of_each_split() {
        let schema = Arc::new(Schema::new(vec![Field::new("v", DataType::Int64, false)]));
        let places: Vec<RowPlace> = [(1, 7), (0, 2), (1, 8), (2, 0), (0, 3), (1, 9)]
            .map(|(partition, offset)| RowPlace { partition, offset })
            .to_vec();
        let values = Int64Array::from_iter_values(0..6);
        let batch = SourceBatch {
            rows: RecordBatch::try_new(schema, vec![Arc::new(values)]).expect("one column"),
            places,
            names: Default::default(),
            dead: Vec::new(),
            offsets: Offsets::from([("0".into(), 4), ("1".into(), 10), ("2".into(), 1)]),
            records: 6,
            skipped: 0,
        };
        let ends = Offsets::from([("0".into(), 3), ("1".into(), 9)]);
        let cut = cut(batch, &ends).expect("cuts");
        let values = cut.rows.column(0).as_primitive::<Int64Type>().values();
        assert_eq!(values.to_vec(), [0, 1, 2]);
        assert_eq!(cut.places.len(), 3);
    }
}
