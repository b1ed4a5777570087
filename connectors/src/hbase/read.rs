//! Reads rows: by key in batches, by range in pages, in parallel over regions.
//!
//! Invariant: no state of a read is kept in a gateway. Each page starts behind the last row that came, so a gateway that dies, or
//! a region that splits or moves, loses nothing and doubles nothing.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use arrow::record_batch::RecordBatch;
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::access::Access;
use super::client::Client;
use super::committed::{Committed, View, versions};
use super::error::HbaseError;
use super::filter::CellFilter;
use super::gets::{Fit, Gets, batches};
use super::key::KeyRange;
use super::layout::Layout;
use super::limits::{BATCH_ROWS_MAX, PAGE_ROWS_FIRST, PAGE_ROWS_MAX};
use super::reply::{Page, Region, Row};
use super::request::{Projection, Scan};
use super::rows::RowsBuilder;
use crate::context::Deadline;
use crate::error::ConnectorError;

/// Scans and gets of one read that are under way at once.
const PARALLEL: usize = 4;
/// Batches that wait for the reader.
const WAITING: usize = 4;

/// An order of rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyOrder {
    /// The smallest key first.
    Ascending,
    /// The largest key first.
    Descending,
}

/// What a read asks for.
#[derive(Debug, Clone)]
pub(super) struct Request {
    /// Columns of the table, in the order of the batches.
    pub(super) wanted: Vec<usize>,
    pub(super) access: Access,
    /// What HBase leaves out of ranges.
    pub(super) filter: Option<CellFilter>,
    /// `None`: as rows come.
    pub(super) order: Option<KeyOrder>,
    /// How many rows the reader is likely to want.
    pub(super) first_rows: Option<usize>,
    /// At most this many rows are of use.
    pub(super) limit: Option<usize>,
    /// Bytes of a page of a scan.
    pub(super) page_bytes: usize,
    /// For each page or batch of keys.
    pub(super) timeout: Duration,
}

/// One part of a read.
#[derive(Debug, PartialEq, Eq)]
enum Work {
    Keys(Vec<Vec<u8>>),
    Range(KeyRange),
}

/// What is left of a range, and how many rows of it to ask for.
#[derive(Debug)]
struct Part {
    range: KeyRange,
    rows: usize,
}

/// The rows of a read, as they come. Dropping it ends the read.
#[derive(Debug)]
pub struct HbaseRows {
    batches: mpsc::Receiver<Result<RecordBatch, ConnectorError>>,
    received: Arc<AtomicU64>,
    _tasks: JoinSet<()>,
}

impl HbaseRows {
    /// The next batch; `None` after the last. After an error there is no other.
    pub async fn next(&mut self) -> Option<Result<RecordBatch, ConnectorError>> {
        self.batches.recv().await
    }

    /// Rows that HBase sent so far: what push-down saves is the rest of the table.
    pub fn rows_received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }
}

/// What the tasks of a read share.
#[derive(Debug)]
struct Shared {
    client: Arc<Client>,
    layout: Arc<Layout>,
    /// What says which deliveries are whole, when nothing else shall be seen.
    committed: Option<Arc<Committed>>,
    view: Option<View>,
    request: Request,
    projection: Projection,
    work: Mutex<VecDeque<Work>>,
    fit: Fit,
    received: Arc<AtomicU64>,
    /// Rows that were given to the reader.
    given: AtomicUsize,
    /// HBase takes too long over its filter.
    unfiltered: AtomicBool,
}

/// Begins a read. Must be called in a tokio runtime.
pub(super) fn read(
    client: Arc<Client>,
    layout: Arc<Layout>,
    committed: Option<Arc<Committed>>,
    request: Request,
) -> HbaseRows {
    let (sender, batches) = mpsc::channel(WAITING);
    let received = Arc::new(AtomicU64::new(0));
    let mut shared = Shared {
        projection: layout.projection(&request.wanted, request.filter.as_ref()),
        committed,
        view: None,
        client,
        layout,
        request,
        work: Mutex::default(),
        fit: Fit::new(BATCH_ROWS_MAX),
        received: Arc::clone(&received),
        given: AtomicUsize::new(0),
        unfiltered: AtomicBool::new(false),
    };
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        match shared.choose_view().await {
            Ok(()) => lead(Arc::new(shared), sender).await,
            // A reader that is gone needs no error.
            Err(error) => drop(sender.send(Err(error.into())).await),
        }
    });
    HbaseRows {
        batches,
        received,
        _tasks: tasks,
    }
}

/// Finds out what there is to do and has it done.
async fn lead(shared: Arc<Shared>, sender: mpsc::Sender<Result<RecordBatch, ConnectorError>>) {
    match shared.plan().await {
        Ok(work) => *shared.work.lock() = work.into(),
        Err(error) => {
            // A reader that is gone needs no error.
            let _ = sender.send(Err(error)).await;
            return;
        }
    }
    let mut workers = JoinSet::new();
    let parallel = match shared.request.order {
        Some(_) => 1,
        None => PARALLEL,
    };
    for _ in 0..parallel.min(shared.work.lock().len()) {
        workers.spawn(work(Arc::clone(&shared), sender.clone()));
    }
    // The others end when the channel does, or with this task.
    while let Some(done) = workers.join_next().await {
        let error = match done {
            Ok(Ok(())) => continue,
            Ok(Err(error)) => error,
            Err(lost) => ConnectorError::Internal(format!("a read of HBase broke off: {lost}")),
        };
        let _ = sender.send(Err(error)).await;
        return;
    }
}

/// Takes parts of the read until none are left or the reader has gone.
async fn work(
    shared: Arc<Shared>,
    sender: mpsc::Sender<Result<RecordBatch, ConnectorError>>,
) -> Result<(), ConnectorError> {
    loop {
        let Some(part) = shared.work.lock().pop_front() else {
            return Ok(());
        };
        if shared.left() == 0 {
            return Ok(());
        }
        let more = match part {
            Work::Keys(keys) => shared.get(&keys, &sender).await?,
            Work::Range(range) => shared.scan(range, &sender).await?,
        };
        if !more {
            return Ok(());
        }
    }
}

impl Shared {
    fn deadline(&self) -> Deadline {
        Deadline::after(self.request.timeout)
    }

    fn descends(&self) -> bool {
        self.request.order == Some(KeyOrder::Descending)
    }

    /// How many more rows are of use.
    fn left(&self) -> usize {
        let limit = self.request.limit.unwrap_or(usize::MAX);
        limit.saturating_sub(self.given.load(Ordering::Relaxed))
    }

    /// Finds out which deliveries the read sees.
    async fn choose_view(&mut self) -> Result<(), HbaseError> {
        let Some(committed) = &self.committed else {
            return Ok(());
        };
        let wait = self.request.timeout;
        let view = committed.view(self.layout.table.text(), wait).await?;
        self.projection.until_ms = view.until_ms;
        self.view = Some(view);
        Ok(())
    }

    /// Fails when what the read began with may be gone.
    fn still_there(&self) -> Result<(), HbaseError> {
        match (&self.committed, self.view) {
            (Some(committed), Some(view)) => committed.check(view, self.layout.table.text()),
            _ => Ok(()),
        }
    }

    /// Finds out how long cells stay, once.
    async fn learn_versions(&self) -> Result<(), ConnectorError> {
        let bounded = self.view.is_some_and(|view| view.until_ms.is_some());
        let Some(committed) = self.committed.as_ref().filter(|_| bounded) else {
            return Ok(());
        };
        let table = &self.layout.table;
        let ask = async {
            let found = self.client.families(table, self.deadline()).await?;
            versions(table.text(), &self.layout.families(), &found)
        };
        committed.versions.get_or_try_init(|| ask).await?;
        Ok(())
    }

    async fn plan(&self) -> Result<Vec<Work>, ConnectorError> {
        self.learn_versions().await?;
        let mut work = match &self.request.access {
            Access::Keys(keys) => {
                let mut keys = keys.clone();
                if self.descends() {
                    keys.reverse();
                }
                let parts = batches(&keys, &self.projection, BATCH_ROWS_MAX).into_iter();
                return Ok(parts.map(|keys| Work::Keys(keys.to_vec())).collect());
            }
            Access::Ranges(ranges) if ranges.is_empty() => return Ok(Vec::new()),
            Access::Ranges(ranges) => {
                let table = &self.layout.table;
                let regions = self.client.regions(table, self.deadline()).await?;
                by_region(ranges, &regions)
            }
        };
        if self.descends() {
            work.reverse();
        }
        Ok(work)
    }

    /// Reads a batch of keys. False when nobody wants more.
    async fn get(
        &self,
        keys: &[Vec<u8>],
        sender: &mpsc::Sender<Result<RecordBatch, ConnectorError>>,
    ) -> Result<bool, ConnectorError> {
        let mut pages = Gets {
            client: &self.client,
            table: &self.layout.table,
            projection: &self.projection,
            fit: &self.fit,
            timeout: self.request.timeout,
            keys,
        };
        while self.left() > 0 {
            let Some(page) = pages.next().await? else {
                break;
            };
            self.still_there()?;
            self.received.fetch_add(there(&page), Ordering::Relaxed);
            if !self.pass_on(page.rows(), sender).await? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Reads a range page by page. False when nobody wants more.
    async fn scan(
        &self,
        range: KeyRange,
        sender: &mpsc::Sender<Result<RecordBatch, ConnectorError>>,
    ) -> Result<bool, ConnectorError> {
        let rows = match self.request.first_rows {
            Some(rows) => rows.clamp(1, PAGE_ROWS_FIRST),
            None => PAGE_ROWS_FIRST,
        };
        let mut next = Some(Part { range, rows });
        let mut page = None;
        while let Some(part) = next {
            if self.left() == 0 || part.range.is_empty() {
                break;
            }
            let (scan, found) = match page.take() {
                Some(page) => page,
                None => self.page_of(&part).await?,
            };
            self.still_there()?;
            self.received.fetch_add(there(&found), Ordering::Relaxed);
            next = self.after(&part, &scan, &found);
            let inside = |row: &Row<'_>| row.key().is_some_and(|key| part.range.holds(key));
            let wanted = found.rows().filter(inside);
            // Only a read of everything is sure to want the next page; HBase finds it while this one is taken apart.
            let ahead = next.as_ref().filter(|part| !part.range.is_empty());
            let ahead = ahead.filter(|_| self.wants_all());
            let fetch = async {
                match ahead {
                    Some(part) => self.page_of(part).await.map(Some),
                    None => Ok(None),
                }
            };
            let (fetched, sent) = tokio::join!(fetch, self.pass_on(wanted, sender));
            if !sent? {
                return Ok(false);
            }
            page = fetched?;
        }
        Ok(true)
    }

    fn wants_all(&self) -> bool {
        self.request.limit.is_none() && self.request.first_rows.is_none()
    }

    /// A page of a part, of as many of its rows as a reply can hold.
    async fn page_of(&self, part: &Part) -> Result<(Scan, Page), ConnectorError> {
        let asked = part.rows.min(self.left());
        let mut scan = match self.descends() {
            false => Scan::first(&part.range, asked),
            true => Scan::last(&part.range, asked),
        };
        loop {
            match self.page(&scan).await {
                Ok(page) => return Ok((scan, page)),
                Err(HbaseError::ReplyTooLarge { .. }) if scan.rows > 1 => {
                    scan = self.half_of(part, &scan);
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// A scan of half as many rows, at least one.
    fn half_of(&self, part: &Part, scan: &Scan) -> Scan {
        match (self.descends(), scan.rows / 2) {
            (false, rows) => Scan::first(&part.range, rows),
            (true, 1) => Scan::last_one(&part.range),
            // The row that may come besides is one of them.
            (true, rows) => Scan::last(&part.range, rows - 1),
        }
    }

    /// What is left of a range after a page of it; fewer rows than asked for are its last.
    fn after(&self, part: &Part, scan: &Scan, page: &Page) -> Option<Part> {
        let last = page.last_key().filter(|_| page.len() == scan.rows)?;
        let mut range = part.range.clone();
        match self.descends() {
            false => range.start = [last, &[0]].concat(),
            true => range.stop = last.to_vec(),
        }
        Some(Part {
            range,
            rows: page_rows(page.len(), page.bytes(), self.request.page_bytes),
        })
    }

    /// One page. HBase may take too long over a filter, as when few of many rows pass it; the rest of the read does without.
    async fn page(&self, scan: &Scan) -> Result<Page, HbaseError> {
        let table = &self.layout.table;
        let plain = || Projection {
            until_ms: self.projection.until_ms,
            ..self.layout.projection(&self.request.wanted, None)
        };
        let filtered = self.request.filter.is_some() && !self.unfiltered.load(Ordering::Relaxed);
        if filtered || self.request.filter.is_none() {
            let asked = self
                .client
                .scan(table, scan, &self.projection, self.deadline());
            match asked.await {
                Err(HbaseError::Timeout { .. }) if filtered => {
                    self.unfiltered.store(true, Ordering::Relaxed);
                }
                found => return found,
            }
        }
        self.client
            .scan(table, scan, &plain(), self.deadline())
            .await
    }

    async fn pass_on<'p>(
        &self,
        rows: impl Iterator<Item = Row<'p>>,
        sender: &mpsc::Sender<Result<RecordBatch, ConnectorError>>,
    ) -> Result<bool, ConnectorError> {
        let mut builder = RowsBuilder::new(&self.layout, &self.request.wanted)?;
        let most = self.left();
        for row in rows {
            // Only those that are there count.
            if builder.len() == most {
                break;
            }
            builder.append(&row)?;
        }
        if builder.len() == 0 {
            return Ok(!sender.is_closed());
        }
        self.given.fetch_add(builder.len(), Ordering::Relaxed);
        let batch = builder.finish()?;
        Ok(sender.send(Ok(batch)).await.is_ok())
    }
}

/// Rows of a page that are in the table.
fn there(page: &Page) -> u64 {
    page.rows().filter(|row| row.key().is_some()).count() as u64
}

/// Rows of the next page, so that it has about the wanted size.
fn page_rows(rows: usize, bytes: usize, wanted_bytes: usize) -> usize {
    let fitting = wanted_bytes.saturating_mul(rows) / bytes.max(1);
    // A page is no more than four times the last: rows may grow as a scan goes on.
    fitting.min(rows.saturating_mul(4)).clamp(1, PAGE_ROWS_MAX)
}

/// Ranges cut at the borders of regions, in key order.
fn by_region(ranges: &[KeyRange], regions: &[Region]) -> Vec<Work> {
    let mut parts: Vec<KeyRange> = Vec::new();
    for range in ranges {
        let mut start = range.start.clone();
        // Only the borders matter: a list of regions that is out of date, or has a gap, costs parallelism and no rows.
        for region in regions {
            let border = &region.start;
            let inside = *border > start && (range.stop.is_empty() || *border < range.stop);
            if inside {
                let stop = border.clone();
                parts.push(KeyRange {
                    start: std::mem::replace(&mut start, border.clone()),
                    stop,
                });
            }
        }
        parts.push(KeyRange {
            start,
            stop: range.stop.clone(),
        });
    }
    parts.into_iter().map(Work::Range).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(start: &str, stop: &str) -> KeyRange {
        KeyRange {
            start: start.into(),
            stop: stop.into(),
        }
    }

    fn region(start: &str, end: &str) -> Region {
        Region {
            start: start.into(),
            end: end.into(),
        }
    }

    #[test]
    fn ranges_are_cut_at_borders_and_nothing_is_lost() {
        let regions = [region("", "d"), region("d", "m"), region("m", "")];
        let cut = |ranges: &[KeyRange]| -> Vec<KeyRange> {
            let work = by_region(ranges, &regions).into_iter();
            work.filter_map(|work| match work {
                Work::Range(range) => Some(range),
                Work::Keys(_) => None,
            })
            .collect()
        };
        assert_eq!(
            cut(&[range("", "")]),
            [range("", "d"), range("d", "m"), range("m", "")]
        );
        assert_eq!(
            cut(&[range("b", "e"), range("p", "q")]),
            [range("b", "d"), range("d", "e"), range("p", "q")]
        );
        assert_eq!(cut(&[range("d", "m")]), [range("d", "m")]);
        assert_eq!(
            by_region(&[range("a", "z")], &[]),
            [Work::Range(range("a", "z"))]
        );
    }

    #[test]
    fn a_page_from_the_end_holds_what_is_in_the_range() {
        // Every key of up to two of these bytes, as a reversed scan of HBase gives them.
        let bytes = [0u8, 1, 0x61, 0xfe, 0xff];
        let two = bytes
            .iter()
            .flat_map(|a| bytes.iter().map(|b| vec![*a, *b]));
        let mut keys: Vec<Vec<u8>> = bytes.iter().map(|a| vec![*a]).chain(two).collect();
        keys.sort();
        let ends = keys.iter().cloned().chain([Vec::new()]);
        for stop in ends.clone() {
            for start in ends.clone() {
                let range = KeyRange {
                    start,
                    stop: stop.clone(),
                };
                let scan = Scan::last(&range, keys.len());
                let sent = keys.iter().rev().filter(|key| {
                    (scan.start.is_empty() || **key <= scan.start) && **key > scan.stop
                });
                let found: Vec<_> = sent.filter(|key| range.holds(key)).collect();
                let wanted: Vec<_> = keys.iter().rev().filter(|key| range.holds(key)).collect();
                assert_eq!(found, wanted, "{range:?}");
            }
        }
    }

    #[test]
    fn pages_follow_the_size_of_rows() {
        assert_eq!(page_rows(1_000, 40_000, 4 << 20), 4_000);
        assert_eq!(page_rows(4_000, 160_000, 4 << 20), PAGE_ROWS_MAX);
        assert_eq!(page_rows(1_000, 40_000_000, 4 << 20), 104);
        assert_eq!(page_rows(1, 1 << 30, 4 << 20), 1);
    }
}
