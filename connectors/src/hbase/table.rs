//! A table of HBase as a table of ours: what CREATE TABLE declares, and the reads and writes that statements make of it.
//!
//! Invariant: nothing of the table is kept here but its mapping; every read asks HBase. Timestamps given to cells never go back
//! while the process lives, so of two statements the later one wins.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use arrow::array::BooleanArray;
use arrow::compute::filter_record_batch;
use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use futures::{StreamExt, TryStreamExt, stream};
use parking_lot::Mutex;
use thalweg_catalog::Column;

use super::access::{Access, Condition, decide};
use super::client::Client;
use super::committed::{Committed, HbaseSinkPlace, versions};
use super::deliveries::Borders;
use super::error::HbaseError;
use super::filter::of_cells;
use super::gateways::{Gateways, ReplyLimits};
use super::gets::{Asking, Fit, batches};
use super::layout::Layout;
use super::limits::{
    LOOKUP_ROWS_MAX, REPLY_BYTES_LEAST, REPLY_BYTES_MAX, REPLY_PAGES_MAX, WRITES_MAX,
};
use super::lookup::HbaseLookup;
use super::options::TableOptions;
use super::read::{HbaseRows, KeyOrder, Request, read};
use super::reply::Page;
use super::request::{NewTable, Projection};
use super::rows::RowsBuilder;
use super::write::{Change, RefusedRow, Writer, Written, mutations, pass, row_key};
use crate::context::{Clock, ConnectorContext, Deadline};
use crate::error::ConnectorError;
use crate::options::Options;
use crate::store::{Step, Steps};

/// Time for DDL, which HBase does in its own time.
const DDL_TIMEOUT: Duration = Duration::from_secs(60);
/// Versions that a table is made with whose reads see whole deliveries.
const COMMITTED_VERSIONS: i32 = 10;

/// A declared HBase table.
#[derive(Debug)]
pub struct HbaseTable {
    client: Arc<Client>,
    layout: Arc<Layout>,
    options: TableOptions,
    clock: Arc<dyn Clock>,
    /// Where a test makes a delivery fail.
    steps: Option<Arc<dyn Steps>>,
    /// Timestamp of the last write, milliseconds.
    last_ms: Mutex<i64>,
    committed: Arc<Committed>,
    borders: Arc<Borders>,
}

/// How a query reads the table.
#[derive(Debug, Clone)]
pub struct HbaseScan {
    request: Request,
    exact: Vec<bool>,
    schema: SchemaRef,
    one_family: bool,
}

impl HbaseScan {
    /// For each condition that was given, whether no row needs to be checked for it again.
    pub fn exact(&self) -> &[bool] {
        &self.exact
    }

    /// Reads the rows in the order of their keys, one part after the other. `rows` are wanted first, though more may be after
    /// what comes is compared again.
    #[must_use]
    pub fn in_key_order(mut self, order: KeyOrder, rows: Option<usize>) -> Self {
        self.request.order = Some(order);
        // HBase does not read families one after the other from the end, which it may do for a filter.
        if order == KeyOrder::Descending && !self.one_family {
            self.request.filter = None;
        }
        self.request.first_rows = rows;
        self
    }

    /// Reads no more than the first rows; of use only when every condition is exact.
    #[must_use]
    pub fn at_most(mut self, rows: usize) -> Self {
        if self.exact.iter().all(|exact| *exact) {
            self.request.limit = Some(self.request.limit.map_or(rows, |limit| limit.min(rows)));
        }
        self
    }

    /// What HBase is asked for, for `EXPLAIN`.
    pub fn describe(&self) -> String {
        let access = match &self.request.access {
            Access::Keys(keys) => format!("{} row keys", keys.len()),
            Access::Ranges(ranges) => match &ranges[..] {
                [all] if all.start.is_empty() && all.stop.is_empty() => "all rows".to_owned(),
                ranges => format!("{} ranges of row keys", ranges.len()),
            },
        };
        let mut text = access;
        if let Some(filter) = &self.request.filter {
            let fields = self.schema.fields();
            let names = filter.columns.iter().filter_map(|at| fields.get(*at));
            let names: Vec<&str> = names.map(|field| field.name().as_str()).collect();
            text.push_str(&format!(", filtered by {}", names.join(", ")));
        }
        match self.request.order {
            Some(KeyOrder::Ascending) => text.push_str(", in key order"),
            Some(KeyOrder::Descending) => text.push_str(", last key first"),
            None => {}
        }
        if let Some(limit) = self.request.limit {
            text.push_str(&format!(", at most {limit} rows"));
        }
        text
    }
}

impl HbaseTable {
    /// A table with these columns; `key` are the positions of the primary key's, in its order. Contacts nobody.
    ///
    /// # Errors
    /// 22023 for an option that cannot work, 42804 for a column that HBase cannot hold so.
    pub fn new(
        columns: &[Column],
        key: &[usize],
        options: &BTreeMap<String, String>,
        context: &ConnectorContext,
    ) -> Result<Self, ConnectorError> {
        let options = TableOptions::read(Options(options))?;
        let layout = Layout::new(columns, key, &options)?;
        Ok(Self {
            client: client(&options, REPLY_BYTES_MAX),
            layout: Arc::new(layout),
            options,
            clock: Arc::clone(&context.clock),
            steps: context.steps.clone(),
            last_ms: Mutex::new(0),
            committed: Arc::default(),
            borders: Arc::default(),
        })
    }

    /// The same, which reads no reply of more than `bytes`: what a gateway with rows beyond the limit does to it, for tests.
    #[must_use]
    pub fn with_reply_limit(self, bytes: usize) -> Self {
        Self {
            client: client(&self.options, bytes),
            ..self
        }
    }

    /// Its columns.
    pub fn schema(&self) -> SchemaRef {
        Arc::clone(&self.layout.schema)
    }

    /// The column that says when a row was written last, which nobody can write.
    pub fn stamp_column(&self) -> Option<usize> {
        self.layout.stamp
    }

    /// Whether queries see no part of a delivery.
    pub(super) fn shows_whole_deliveries(&self) -> bool {
        self.options.committed
    }

    /// Asks HBase whether the table and its families are there, and makes them under `create = 'if-missing'`; once, at CREATE.
    ///
    /// # Errors
    /// 42P01 or 42703 for what is missing, 08001 when nobody answers.
    pub async fn check(&self) -> Result<(), ConnectorError> {
        let table = &self.layout.table;
        // A wrong address or transport is told as soon as it would be to a query; only what HBase is told to make may take longer.
        let question = Deadline::after(self.options.timeout);
        let exists = self.client.exists(table, question).await?;
        let deadline = self.ddl_deadline();
        if !exists {
            let Some(creation) = &self.options.create else {
                return Err(ConnectorError::Hbase(HbaseError::TableMissing {
                    table: table.text().to_owned(),
                }));
            };
            let new = NewTable {
                table: table.clone(),
                families: self.layout.families(),
                keeps_deleted: self.options.committed,
                versions: match self.options.committed {
                    true => creation.versions.or(Some(COMMITTED_VERSIONS)),
                    false => creation.versions,
                },
                ttl_s: creation.ttl_s,
                compression: creation.compression,
                bloom: creation.bloom,
            };
            self.client.create(&new, deadline).await?;
        }
        let found = self.client.families(table, deadline).await?;
        let families = self.layout.families();
        let there = |family: &&Vec<u8>| found.iter().any(|found| found.name == **family);
        match families.iter().find(|family| !there(family)) {
            None if self.options.committed => {
                Ok(versions(table.text(), &families, &found).map(drop)?)
            }
            None => Ok(()),
            Some(missing) => Err(ConnectorError::Hbase(HbaseError::FamilyMissing {
                table: table.text().to_owned(),
                detail: format!(
                    "There is no family \"{}\".",
                    String::from_utf8_lossy(missing)
                ),
            })),
        }
    }

    /// Decides how to read the columns `wanted` of the rows that fulfil all conditions. `limit` is of use only when every
    /// condition turns out exact.
    pub fn plan(
        &self,
        wanted: &[usize],
        conditions: &[Condition],
        limit: Option<usize>,
    ) -> HbaseScan {
        let decision = decide(&self.layout.key, &self.layout.key_columns, conditions);
        let exact = decision.exact.iter().all(|exact| *exact);
        // Of rows that are asked for by their keys few come that are not wanted.
        let filter = match &decision.access {
            Access::Ranges(_) => of_cells(&self.layout, conditions),
            Access::Keys(_) => None,
        };
        HbaseScan {
            schema: self.schema(),
            one_family: self.layout.families().len() == 1,
            request: Request {
                wanted: wanted.to_vec(),
                access: decision.access,
                filter,
                order: None,
                first_rows: None,
                limit: limit.filter(|_| exact),
                page_bytes: self.options.page_bytes,
                timeout: self.options.timeout,
            },
            exact: decision.exact,
        }
    }

    /// How the values of the leading columns of the key go as row keys ascend; of those that have no such order none.
    pub fn sorted_columns(&self) -> Vec<KeyOrder> {
        let sorted = self.layout.key.sorted_parts().iter();
        let order = sorted.map(|part| match part.descending {
            true => KeyOrder::Descending,
            false => KeyOrder::Ascending,
        });
        order.collect()
    }

    /// Looks up the columns `wanted` of rows by their keys, with a cache of its own.
    ///
    /// # Errors
    /// When a column is of a type whose values cannot be kept.
    pub fn lookup(&self, wanted: &[usize]) -> Result<HbaseLookup, ConnectorError> {
        HbaseLookup::new(
            Arc::clone(&self.client),
            Arc::clone(&self.layout),
            wanted,
            &self.options,
            Arc::clone(&self.clock),
        )
    }

    /// The rows in a gateway's reply to a scan with sequence number 0, in this table's protocol: what a read does with each page,
    /// for benchmarks.
    ///
    /// # Errors
    /// When the bytes are no such reply, or hold no values of these columns.
    pub fn decode_reply(
        &self,
        wanted: &[usize],
        frame: Vec<u8>,
    ) -> Result<RecordBatch, ConnectorError> {
        let protocol = self.options.dialect.protocol;
        let unreadable = |detail: String| HbaseError::BadReply {
            server: "given".to_owned(),
            detail,
        };
        // What asked for it is not known; a row is a byte at least.
        let rows_max = frame.len();
        let page = Page::decode(frame, protocol, "getScannerResults", 0, rows_max)
            .map_err(|error| unreadable(error.to_string()))?
            .map_err(|refusal| unreadable(format!("{refusal:?}")))?;
        let mut rows = RowsBuilder::new(&self.layout, wanted)?;
        for row in page.rows() {
            rows.append(&row)?;
        }
        rows.finish()
    }

    /// Begins to read. Must be called in a tokio runtime.
    pub fn read(&self, scan: &HbaseScan) -> HbaseRows {
        read(
            Arc::clone(&self.client),
            Arc::clone(&self.layout),
            self.options.committed.then(|| Arc::clone(&self.committed)),
            scan.request.clone(),
        )
    }

    /// Writes rows, all columns in order; a row that is there is overwritten. Must be called in a tokio runtime.
    ///
    /// # Errors
    /// What keeps HBase from taking any row; some may have been written.
    pub async fn insert(&self, rows: &RecordBatch) -> Result<Written, ConnectorError> {
        let now = self.next_ms();
        let found = mutations(&self.layout, rows, Change::Upsert, |_| now)?;
        self.writer().write(found.0, found.1).await
    }

    /// Replaces rows, also those with cells from a clock that is ahead of ours.
    ///
    /// # Errors
    /// As [`HbaseTable::insert`].
    pub async fn update(&self, rows: &RecordBatch) -> Result<Written, ConnectorError> {
        self.change(rows, Change::Upsert).await
    }

    /// Replaces the rows `old` by the rows `new`, whose keys may be others. The new ones are written first: a failure in between
    /// leaves a row under both keys rather than under none.
    ///
    /// # Errors
    /// As [`HbaseTable::insert`].
    pub async fn replace(
        &self,
        old: &RecordBatch,
        new: &RecordBatch,
    ) -> Result<Written, ConnectorError> {
        let written = self.update(new).await?;
        let key = |batch: &RecordBatch, row| row_key(&self.layout, batch, row).ok();
        let kept: HashSet<Vec<u8>> = (0..new.num_rows())
            .filter_map(|row| key(new, row))
            .collect();
        let gone = |row: usize| key(old, row).is_some_and(|key| !kept.contains(&key));
        let gone: BooleanArray = (0..old.num_rows()).map(|row| Some(gone(row))).collect();
        if written.refused.is_empty() && gone.true_count() > 0 {
            let gone = filter_record_batch(old, &gone)
                .map_err(|error| ConnectorError::Internal(error.to_string()))?;
            self.delete(&gone).await?;
        }
        Ok(written)
    }

    /// Deletes rows; of `rows`, all columns in order, only the key is read. Cells that no column is mapped to stay.
    ///
    /// # Errors
    /// As [`HbaseTable::insert`].
    pub async fn delete(&self, rows: &RecordBatch) -> Result<Written, ConnectorError> {
        self.change(rows, Change::Delete).await
    }

    /// Writes rows at a timestamp that the caller keeps, so that a delivery can be repeated after a crash.
    ///
    /// # Errors
    /// As [`HbaseTable::insert`].
    pub async fn deliver(
        &self,
        upserts: &RecordBatch,
        deletes: &RecordBatch,
        timestamp_ms: i64,
    ) -> Result<Written, ConnectorError> {
        let mut written = Written::default();
        // Deletions first, and a millisecond earlier: a key in both has its row.
        for (rows, change, at) in [
            (deletes, Change::Delete, timestamp_ms.saturating_sub(1)),
            (upserts, Change::Upsert, timestamp_ms),
        ] {
            let (found, refused) = mutations(&self.layout, rows, change, |_| at)?;
            let writer = Writer {
                steps: self.steps.clone(),
                ..self.writer()
            };
            let part = writer.write(found, refused).await?;
            written.rows += part.rows;
            written.refused.extend(part.refused);
        }
        Ok(written)
    }

    async fn change(&self, rows: &RecordBatch, change: Change) -> Result<Written, ConnectorError> {
        let newest = self.newest(rows).await?;
        let now = self.next_ms();
        let at = |row: usize| {
            let newest = newest.get(row).copied().flatten();
            newest.map_or(now, |newest| now.max(newest.saturating_add(1)))
        };
        let (found, refused) = mutations(&self.layout, rows, change, at)?;
        self.writer().write(found, refused).await
    }

    /// The newest timestamp in each row's cells.
    async fn newest(&self, rows: &RecordBatch) -> Result<Vec<Option<i64>>, ConnectorError> {
        // A row without a key is refused when it is written.
        let mut keys: Vec<Vec<u8>> = Vec::new();
        let mut places: Vec<Option<usize>> = Vec::with_capacity(rows.num_rows());
        for row in 0..rows.num_rows() {
            let key = row_key(&self.layout, rows, row).ok();
            places.push(key.is_some().then_some(keys.len()));
            keys.extend(key);
        }
        let newest = self.newest_of(&keys).await?;
        let at = |place: &Option<usize>| place.and_then(|at| newest.get(at).copied().flatten());
        Ok(places.iter().map(at).collect())
    }

    /// A timestamp for each key, after those of all its cells.
    pub(super) async fn stamps(&self, keys: &[Vec<u8>]) -> Result<Vec<i64>, ConnectorError> {
        let newest = self.newest_of(keys).await?;
        let now = self.next_ms();
        let after = |newest: Option<i64>| {
            // Two apart, for what becomes NULL is deleted a millisecond before.
            newest.map_or(now, |newest| now.max(newest.saturating_add(2)))
        };
        Ok(newest.into_iter().map(after).collect())
    }

    async fn newest_of(&self, keys: &[Vec<u8>]) -> Result<Vec<Option<i64>>, ConnectorError> {
        let projection = Projection {
            columns: self.layout.all_cells(),
            ..Projection::default()
        };
        let asked: Vec<Vec<Vec<u8>>> = batches(keys, &projection, LOOKUP_ROWS_MAX)
            .into_iter()
            .map(<[_]>::to_vec)
            .collect();
        let asking = Arc::new(Asking {
            client: Arc::clone(&self.client),
            layout: Arc::clone(&self.layout),
            projection,
            fit: Fit::new(LOOKUP_ROWS_MAX),
            timeout: self.options.timeout,
        });
        let ask = |keys| {
            let asking = Arc::clone(&asking);
            async move { newest(&asking, keys).await }
        };
        let found = stream::iter(asked.into_iter().map(ask));
        let found: Vec<_> = found
            .buffered(self.client.capacity().min(WRITES_MAX))
            .try_collect()
            .await?;
        Ok(found.concat())
    }

    /// A timestamp after every earlier one: a deletion masks what is written at its own.
    fn next_ms(&self) -> i64 {
        self.committed.statement();
        let mut last = self.last_ms.lock();
        // Two apart, because NULLs are deleted a millisecond before the rest is written.
        *last = (self.clock.now_us() / 1000).max(last.saturating_add(2));
        *last
    }

    pub(super) fn layout(&self) -> &Arc<Layout> {
        &self.layout
    }

    /// Holds a place for the sink with this object number, which is to write to the table.
    pub fn sink_place(&self, sink: u32) -> HbaseSinkPlace {
        HbaseSinkPlace::new(&self.committed, sink)
    }

    /// What the sinks of this server say of their deliveries.
    pub(super) fn committed(&self) -> &Committed {
        &self.committed
    }

    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    /// Time for one request.
    pub(super) fn timeout(&self) -> Duration {
        self.options.timeout
    }

    /// When a question about a table, or the making of one, has taken too long.
    pub(super) fn ddl_deadline(&self) -> Deadline {
        Deadline::after(DDL_TIMEOUT.min(self.options.timeout * 6))
    }

    pub(super) fn writer(&self) -> Writer {
        Writer {
            client: Arc::clone(&self.client),
            layout: Arc::clone(&self.layout),
            borders: Arc::clone(&self.borders),
            batch_bytes: self.options.batch_bytes,
            timeout: self.options.timeout,
            steps: None,
        }
    }

    /// Passes a step of a delivery.
    pub(super) fn pass(&self, step: Step) -> Result<(), HbaseError> {
        pass(self.steps.as_ref(), step, &self.layout.table)
    }
}

/// The newest timestamps of rows; of one that is not there none.
async fn newest(asking: &Asking, keys: Vec<Vec<u8>>) -> Result<Vec<Option<i64>>, ConnectorError> {
    let mut newest = Vec::with_capacity(keys.len());
    let mut pages = asking.pages(&keys);
    while let Some(page) = pages.next().await? {
        newest.extend(page.rows().map(|row| {
            let stamps = row.cells().map(|cell| cell.timestamp);
            stamps.max()
        }));
    }
    Ok(newest)
}

/// A client that reads replies of at most `bytes`, and of several rows not many more than a page has.
fn client(options: &TableOptions, bytes: usize) -> Arc<Client> {
    let limits = ReplyLimits {
        any: bytes,
        rows: options
            .page_bytes
            .saturating_mul(REPLY_PAGES_MAX)
            .max(REPLY_BYTES_LEAST),
    };
    let gateways = Gateways::new(&options.servers, options.dialect, options.trust.clone());
    Arc::new(Client::new(gateways.with_limits(limits)))
}

impl Written {
    /// The first row at fault, for a statement, which has no place for others.
    pub fn first_refused(&self) -> Option<&RefusedRow> {
        self.refused.iter().min_by_key(|refused| refused.row)
    }
}
