//! Finds rows by their keys for lookup joins, and remembers them for a while.
//!
//! Invariant: what is given for a key is what HBase held at some moment within the time to live before the call, or during it;
//! that there is no such row is remembered like a row. The cache never holds more rows, nor more bytes, than its options say.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arrow::array::ArrayRef;
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use arrow::record_batch::{RecordBatch, RecordBatchOptions};
use arrow::row::{RowConverter, SortField};
use quick_cache::Weighter;
use quick_cache::sync::Cache;
use tokio::task::JoinSet;

use super::client::Client;
use super::gets::{Asking, Fit, batches};
use super::layout::Layout;
use super::limits::LOOKUP_ROWS_MAX;
use super::options::TableOptions;
use super::reply::Page;
use super::rows::RowsBuilder;
use super::scalar::Scalar;
use crate::context::Clock;
use crate::error::ConnectorError;

/// The wanted columns of a row as bytes that [`HbaseLookup::decode`] reads; `None` when there is no such row.
pub type FoundRow = Option<Arc<[u8]>>;

/// A row as it was.
#[derive(Debug, Clone)]
struct Held {
    row: FoundRow,
    /// When it was asked for.
    at_us: i64,
}

/// Bytes that a row is remembered with, besides its own and its key's.
const ROW_BYTES: usize = 128;

/// Weighs rows so that a cache which is bounded by bytes is bounded by rows too.
#[derive(Debug, Clone)]
struct RowWeighter {
    /// What the smallest row counts for.
    least: u64,
}

impl RowWeighter {
    fn new(rows: u64, bytes: u64) -> Self {
        Self {
            least: bytes.div_ceil(rows.max(1)),
        }
    }
}

impl Weighter<Arc<[u8]>, Held> for RowWeighter {
    fn weight(&self, key: &Arc<[u8]>, held: &Held) -> u64 {
        let row = held.row.as_ref().map_or(0, |row| row.len());
        let bytes = u64::try_from(key.len() + row + ROW_BYTES).unwrap_or(u64::MAX);
        bytes.max(self.least)
    }
}

/// What rows are asked for and kept by.
#[derive(Debug)]
struct Finding {
    asking: Asking,
    wanted: Vec<usize>,
    codec: RowConverter,
}

/// Finds rows of one table.
#[derive(Debug)]
pub struct HbaseLookup {
    finding: Arc<Finding>,
    schema: SchemaRef,
    cache: Cache<Arc<[u8]>, Held, RowWeighter>,
    ttl_us: i64,
    clock: Arc<dyn Clock>,
    asked: AtomicU64,
}

impl HbaseLookup {
    /// A lookup of at least one column.
    pub(super) fn new(
        client: Arc<Client>,
        layout: Arc<Layout>,
        wanted: &[usize],
        options: &TableOptions,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, ConnectorError> {
        let schema = Arc::new(layout.schema.project(wanted).map_err(internal)?);
        let fields = schema.fields().iter();
        let fields = fields.map(|field| SortField::new(field.data_type().clone()));
        let finding = Finding {
            codec: RowConverter::new(fields.collect()).map_err(internal)?,
            wanted: wanted.to_vec(),
            asking: Asking {
                projection: layout.projection(wanted, None),
                fit: Fit::new(LOOKUP_ROWS_MAX),
                client,
                layout,
                timeout: options.timeout,
            },
        };
        // Room is made as rows come: the option may be larger than what is ever looked up.
        let room = usize::try_from(options.cache_rows.min(1_000)).unwrap_or(1_000);
        let weighter = RowWeighter::new(options.cache_rows, options.cache_bytes);
        Ok(Self {
            finding: Arc::new(finding),
            schema,
            cache: Cache::with_weighter(room, options.cache_bytes, weighter),
            ttl_us: i64::try_from(options.cache_ttl.as_micros()).unwrap_or(i64::MAX),
            clock,
            asked: AtomicU64::new(0),
        })
    }

    /// The wanted columns.
    pub fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    /// Keys that HBase was asked for so far: what the cache saves is the rest.
    pub fn keys_asked(&self) -> u64 {
        self.asked.load(Ordering::Relaxed)
    }

    /// The row of each key; `keys` are the columns of the table's key, in its order and of its types. A key with a NULL, or one
    /// that no row key can be written for, has no row. Must be called in a tokio runtime.
    ///
    /// # Errors
    /// What keeps HBase from answering; a cell that is no value of its column.
    pub async fn rows(&self, keys: &[ArrayRef]) -> Result<Vec<FoundRow>, ConnectorError> {
        let asked_us = self.clock.now_us();
        let rows = keys.first().map_or(0, |column| column.len());
        let mut found = vec![None; rows];
        // By key: the rows that wait for it.
        let mut missing: HashMap<Vec<u8>, Vec<usize>> = HashMap::new();
        let mut key = Vec::new();
        for (row, place) in found.iter_mut().enumerate() {
            if !self.row_key(keys, row, &mut key) {
                continue;
            }
            match self.cache.get(&key[..]) {
                Some(held) if self.is_fresh(&held, asked_us) => *place = held.row,
                _ => match missing.get_mut(&key) {
                    Some(waiting) => waiting.push(row),
                    None => drop(missing.insert(key.clone(), vec![row])),
                },
            }
        }
        if missing.is_empty() {
            return Ok(found);
        }
        // In key order, so that neighbours are asked for together.
        let mut asked: Vec<Vec<u8>> = missing.keys().cloned().collect();
        asked.sort_unstable();
        for (key, row) in self.ask(asked).await? {
            for waiting in missing.get(&key).into_iter().flatten() {
                if let Some(place) = found.get_mut(*waiting) {
                    place.clone_from(&row);
                }
            }
            let at_us = asked_us;
            self.cache.insert(key.into(), Held { row, at_us });
        }
        Ok(found)
    }

    /// A clock that was set back makes what is remembered old.
    fn is_fresh(&self, held: &Held, now_us: i64) -> bool {
        (0..=self.ttl_us).contains(&now_us.saturating_sub(held.at_us))
    }

    /// Writes the row key of a row over `key`; `false` when there is none.
    fn row_key(&self, keys: &[ArrayRef], row: usize, key: &mut Vec<u8>) -> bool {
        let codec = &self.finding.asking.layout.key;
        let parts = keys.iter().zip(codec.parts());
        let mut no_null = true;
        let values = parts.map_while(|(column, part)| {
            let value = Scalar::at(column.as_ref(), row, &part.ty);
            no_null &= value.is_some();
            value
        });
        codec.encode_over(values, key).is_ok() && no_null
    }

    /// Asks for keys, several requests at once.
    async fn ask(&self, keys: Vec<Vec<u8>>) -> Result<Vec<(Vec<u8>, FoundRow)>, ConnectorError> {
        self.asked.fetch_add(keys.len() as u64, Ordering::Relaxed);
        let mut waiting =
            batches(&keys, &self.finding.asking.projection, LOOKUP_ROWS_MAX).into_iter();
        let mut under_way = JoinSet::new();
        let mut found = Vec::with_capacity(keys.len());
        loop {
            while under_way.len() < self.finding.asking.client.capacity() {
                let Some(batch) = waiting.next() else { break };
                let (finding, batch) = (Arc::clone(&self.finding), batch.to_vec());
                under_way.spawn(async move { finding.get(batch).await });
            }
            match under_way.join_next().await {
                None => return Ok(found),
                Some(Ok(part)) => found.extend(part?),
                Some(Err(lost)) => {
                    return Err(ConnectorError::Internal(format!(
                        "a lookup in HBase broke off: {lost}"
                    )));
                }
            }
        }
    }

    /// The bytes of rows, whose wanted columns these are: the opposite of [`HbaseLookup::decode`].
    ///
    /// # Errors
    /// When the columns are of another lookup.
    pub fn encode(&self, columns: &[ArrayRef]) -> Result<Vec<Arc<[u8]>>, ConnectorError> {
        let rows = self.finding.codec.convert_columns(columns);
        let rows = rows.map_err(internal)?;
        Ok(rows.iter().map(|row| Arc::from(row.data())).collect())
    }

    /// Rows from their bytes.
    ///
    /// # Errors
    /// When the bytes are of another lookup.
    pub fn decode<'a>(
        &self,
        rows: impl IntoIterator<Item = &'a [u8]>,
    ) -> Result<RecordBatch, ConnectorError> {
        let parser = self.finding.codec.parser();
        let parsed: Vec<_> = rows.into_iter().map(|bytes| parser.parse(bytes)).collect();
        let options = RecordBatchOptions::new().with_row_count(Some(parsed.len()));
        let columns = self.finding.codec.convert_rows(parsed).map_err(internal)?;
        RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options)
            .map_err(internal)
    }
}

impl Finding {
    async fn get(&self, keys: Vec<Vec<u8>>) -> Result<Vec<(Vec<u8>, FoundRow)>, ConnectorError> {
        let mut found = Vec::with_capacity(keys.len());
        let mut pages = self.asking.pages(&keys);
        while let Some(page) = pages.next().await? {
            found.extend(self.kept(&page)?);
        }
        Ok(keys.into_iter().zip(found).collect())
    }

    /// The rows of a page as they are kept.
    fn kept(&self, page: &Page) -> Result<Vec<FoundRow>, ConnectorError> {
        let mut builder = RowsBuilder::new(&self.asking.layout, &self.wanted)?;
        // Positions in the batch of those that are there.
        let mut there = Vec::with_capacity(page.len());
        for row in page.rows() {
            let before = builder.len();
            builder.append(&row)?;
            there.push((builder.len() > before).then_some(before));
        }
        let batch = builder.finish()?;
        let encoded = match batch.num_rows() {
            0 => None,
            _ => Some(
                self.codec
                    .convert_columns(batch.columns())
                    .map_err(internal)?,
            ),
        };
        let row = |at: usize| encoded.as_ref().map(|rows| Arc::from(rows.row(at).data()));
        Ok(there.into_iter().map(|at| at.and_then(row)).collect())
    }
}

fn internal(error: ArrowError) -> ConnectorError {
    ConnectorError::Internal(format!("rows of HBase cannot be kept: {error}"))
}
