//! Writes rows: what each row means for its cells, and how cells reach HBase.
//!
//! Invariant: one operation per cell and delivery, with an explicit timestamp, so that sending any of it again changes nothing. A
//! row that HBase refuses is told apart from its neighbours, which are written.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use arrow::array::{Array, AsArray};
use arrow::record_batch::RecordBatch;
use tokio::task::JoinSet;

use super::client::Client;
use super::deliveries::{Borders, Starts, deliveries, is_large};
use super::error::HbaseError;
use super::layout::{CellColumn, Layout};
use super::limits::{BORDERS_TIMEOUT, CELL_BYTES_MAX, FAILED_ROWS_MAX, TOLD_MAX, WRITES_MAX};
use super::options::{CellEncoding, NullMode};
use super::request::{Delete, NewCell, Put, TableName};
use super::scalar::Scalar;
use super::value;
use crate::context::Deadline;
use crate::error::ConnectorError;
use crate::format::json_text;
use crate::store::{Step, Steps};

/// What happens to a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    /// It has these values from now on.
    Upsert,
    /// It is gone.
    Delete,
}

/// A row that was not written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusedRow {
    /// Its position in the batch.
    pub row: usize,
    /// Why.
    pub error: HbaseError,
}

impl RefusedRow {
    /// Once gateways are known to be well, a row that they failed over is one that HBase refuses.
    fn finally(self) -> Self {
        let error = match self.error {
            HbaseError::RowFailed { table, detail } => HbaseError::RowRefused { table, detail },
            error => error,
        };
        Self { error, ..self }
    }
}

/// Outcome of a write.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Written {
    /// Rows that are in HBase now, or gone from it.
    pub rows: usize,
    /// Rows that are at fault themselves.
    pub refused: Vec<RefusedRow>,
}

/// The operations of one row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mutation {
    /// Position in the batch.
    pub(super) row: usize,
    pub(super) put: Option<Put>,
    pub(super) delete: Option<Delete>,
}

impl Mutation {
    /// Writes cells of a row and deletes others of it, up to just before them.
    pub(super) fn replacing(
        row: usize,
        key: Vec<u8>,
        cells: Vec<NewCell>,
        gone: Vec<(Vec<u8>, Vec<u8>)>,
        timestamp: i64,
    ) -> Self {
        Self {
            row,
            delete: (!gone.is_empty()).then(|| Delete {
                row: key.clone(),
                columns: gone,
                timestamp: timestamp.saturating_sub(1),
            }),
            put: Some(Put {
                row: key,
                cells,
                timestamp,
            }),
        }
    }

    /// The row key.
    pub(super) fn key(&self) -> &[u8] {
        match (&self.put, &self.delete) {
            (Some(put), _) => &put.row,
            (None, Some(delete)) => &delete.row,
            (None, None) => &[],
        }
    }

    /// About what it takes in requests.
    pub(super) fn bytes(&self) -> usize {
        self.put.as_ref().map_or(0, Put::bytes) + self.delete.as_ref().map_or(0, Delete::bytes)
    }
}

/// The row key of a row of the table.
pub(super) fn row_key(
    layout: &Layout,
    batch: &RecordBatch,
    row: usize,
) -> Result<Vec<u8>, HbaseError> {
    let mut values = Vec::with_capacity(layout.key_columns.len());
    for (column, part) in layout.key_columns.iter().zip(layout.key.parts()) {
        let array = batch.columns().get(*column);
        match array.and_then(|array| Scalar::at(array.as_ref(), row, &part.ty)) {
            Some(value) => values.push(value),
            None => {
                return Err(HbaseError::NullKey {
                    column: part.name.clone(),
                });
            }
        }
    }
    layout.key.encode(&values)
}

/// What writing a row at `timestamp` means. Cells that become NULL are deleted a millisecond earlier, so that the order in which
/// the two requests arrive does not matter.
pub(super) fn mutation(
    layout: &Layout,
    batch: &RecordBatch,
    row: usize,
    change: Change,
    timestamp: i64,
) -> Result<Mutation, ConnectorError> {
    let key = row_key(layout, batch, row)?;
    let (marker_family, marker) = layout.marker();
    if change == Change::Delete {
        let cells = layout.cells.iter();
        let mut columns: Vec<_> = cells
            .map(|cell| (cell.family.clone(), cell.qualifier.clone()))
            .collect();
        columns.push((marker_family.to_vec(), marker.to_vec()));
        return Ok(Mutation {
            row,
            put: None,
            delete: Some(Delete {
                row: key,
                columns,
                timestamp,
            }),
        });
    }
    let mut cells = vec![NewCell {
        family: marker_family.to_vec(),
        qualifier: marker.to_vec(),
        value: Vec::new(),
    }];
    let mut gone = Vec::new();
    for cell in &layout.cells {
        let value = cell_value(cell, batch, row, layout.null_mode)?;
        match (value, layout.null_mode) {
            (Some(value), _) => cells.push(NewCell {
                family: cell.family.clone(),
                qualifier: cell.qualifier.clone(),
                value,
            }),
            (None, NullMode::Delete) => gone.push((cell.family.clone(), cell.qualifier.clone())),
            (None, _) => {}
        }
    }
    Ok(Mutation::replacing(row, key, cells, gone, timestamp))
}

/// The bytes of a cell; `None` for a NULL that is not written.
pub(super) fn cell_value(
    cell: &CellColumn,
    batch: &RecordBatch,
    row: usize,
    null_mode: NullMode,
) -> Result<Option<Vec<u8>>, ConnectorError> {
    let column = batch
        .columns()
        .get(cell.column)
        .ok_or_else(|| ConnectorError::Internal("a column of the table has no values".into()))?;
    let array = match cell.field {
        None => Some(column),
        // What is below a struct that is NULL is of no meaning.
        Some(_) if row >= column.len() || column.is_null(row) => None,
        Some(field) => column
            .as_struct_opt()
            .and_then(|one| one.columns().get(field)),
    };
    let Some(array) = array else {
        return Ok((null_mode == NullMode::Empty).then(Vec::new));
    };
    let value = match cell.encoding {
        CellEncoding::Json => json_text(&cell.ty, array.as_ref(), row)?.map(String::into_bytes),
        CellEncoding::Plain(encoding) => match Scalar::at(array.as_ref(), row, &cell.ty) {
            None => None,
            Some(scalar) => {
                let mut bytes = Vec::new();
                let encoded = value::encode(scalar, &cell.ty, encoding, &mut bytes);
                encoded.map_err(|detail| HbaseError::Unwritable {
                    column: cell.name.clone(),
                    encoding: encoding.name().to_owned(),
                    detail: detail.to_owned(),
                })?;
                Some(bytes)
            }
        },
    };
    match (value, null_mode) {
        (None, NullMode::Empty) => Ok(Some(Vec::new())),
        (Some(value), NullMode::Empty) if value.is_empty() => {
            Err(ConnectorError::Hbase(HbaseError::Unwritable {
                column: cell.name.clone(),
                encoding: "a cell under null.mode = 'empty'".to_owned(),
                detail: "an empty cell stands for NULL there".to_owned(),
            }))
        }
        (value, _) => Ok(value),
    }
}

/// Splits changes of a batch into mutations and rows at fault; of several changes of one key the last counts.
pub(super) fn mutations(
    layout: &Layout,
    batch: &RecordBatch,
    change: Change,
    timestamp: impl Fn(usize) -> i64,
) -> Result<(Vec<Mutation>, Vec<RefusedRow>), ConnectorError> {
    let mut by_key: BTreeMap<Vec<u8>, Mutation> = BTreeMap::new();
    let mut refused = Vec::new();
    for row in 0..batch.num_rows() {
        match mutation(layout, batch, row, change, timestamp(row)) {
            Ok(mutation) => {
                by_key.insert(mutation.key().to_vec(), mutation);
            }
            Err(ConnectorError::Hbase(error)) if error.is_of_the_row() => {
                refused.push(RefusedRow { row, error });
            }
            Err(error) => return Err(error),
        }
    }
    Ok((by_key.into_values().collect(), refused))
}

/// Fails when gateways failed over as many rows as `rows`, and took none and refused none with a reason: then it is not the rows,
/// and they are to be written later.
fn believable(written: &Written, rows: usize) -> Result<(), HbaseError> {
    let errors = || written.refused.iter().map(|refused| &refused.error);
    let failed = |error: &&HbaseError| matches!(error, HbaseError::RowFailed { .. });
    let reasoned = |error: &HbaseError| matches!(error, HbaseError::RowRefused { .. });
    let is_well = written.rows > 0 || errors().any(reasoned);
    if is_well || errors().filter(failed).count() < rows {
        return Ok(());
    }
    match errors().find(failed) {
        Some(HbaseError::RowFailed { table, detail }) => Err(HbaseError::Remote {
            table: table.clone(),
            detail: detail.clone(),
        }),
        _ => Ok(()),
    }
}

/// Refusals of one delivery as they are told: the first ones, and how many more there are.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    told: Vec<HbaseError>,
    more: usize,
}

impl Refusals {
    pub(super) fn add(&mut self, error: HbaseError) {
        match self.told.len() < TOLD_MAX {
            true => self.told.push(error),
            false => self.more += 1,
        }
    }

    /// All there are to tell; none afterwards.
    pub(super) fn take(&mut self, table: &str) -> Vec<ConnectorError> {
        let Refusals { mut told, more } = std::mem::take(self);
        if more > 0 {
            let table = table.to_owned();
            told.push(HbaseError::MoreRefused { table, rows: more });
        }
        told.into_iter().map(ConnectorError::Hbase).collect()
    }
}

/// What every delivery needs.
#[derive(Debug, Clone)]
pub(super) struct Writer {
    pub(super) client: Arc<Client>,
    pub(super) layout: Arc<Layout>,
    pub(super) borders: Arc<Borders>,
    pub(super) batch_bytes: usize,
    pub(super) timeout: std::time::Duration,
    /// Where a test makes a delivery fail.
    pub(super) steps: Option<Arc<dyn Steps>>,
}

/// Passes a step of a delivery into `table`.
pub(super) fn pass(
    steps: Option<&Arc<dyn Steps>>,
    step: Step,
    table: &TableName,
) -> Result<(), HbaseError> {
    let passed = steps.map_or(Ok(()), |steps| steps.pass(step));
    passed.map_err(|error| HbaseError::Remote {
        table: table.text().to_owned(),
        detail: error.to_string(),
    })
}

impl Writer {
    /// Writes mutations, several deliveries at once and those of different regions first. Of one row there is one mutation. Must be
    /// called in a tokio runtime.
    ///
    /// # Errors
    /// What keeps HBase from taking any row. Rows may have been written then, and may be written again.
    pub(super) async fn write(
        &self,
        mutations: Vec<Mutation>,
        mut refused: Vec<RefusedRow>,
    ) -> Result<Written, ConnectorError> {
        let starts = self.starts(&mutations).await;
        let waiting = deliveries(mutations, &starts, self.batch_bytes, &mut refused);
        let mut waiting = waiting.into_iter();
        let mut written = Written { rows: 0, refused };
        let mut under_way = JoinSet::new();
        loop {
            while under_way.len() < self.client.capacity().min(WRITES_MAX) {
                let Some(batch) = waiting.next() else { break };
                let writer = self.clone();
                under_way.spawn(async move { writer.deliver(batch).await });
            }
            match under_way.join_next().await {
                None => {
                    believable(&written, 2)?;
                    let refused = written.refused.into_iter().map(RefusedRow::finally);
                    written.refused = refused.collect();
                    return Ok(written);
                }
                Some(Ok(Ok(part))) => {
                    written.rows += part.rows;
                    written.refused.extend(part.refused);
                }
                Some(Ok(Err(error))) => {
                    self.borders.forget();
                    return Err(error.into());
                }
                Some(Err(lost)) => {
                    return Err(ConnectorError::Internal(format!(
                        "a write to HBase broke off: {lost}"
                    )));
                }
            }
        }
    }

    /// Where regions begin, as far as it is of use. Nobody who knows is no reason not to write.
    async fn starts(&self, mutations: &[Mutation]) -> Starts {
        if !is_large(mutations, self.batch_bytes) {
            return Starts::default();
        }
        let now = Instant::now();
        if let Some(known) = self.borders.known(now) {
            return known;
        }
        let deadline = Deadline::after(self.timeout.min(BORDERS_TIMEOUT));
        let found = self.client.regions(&self.layout.table, deadline).await;
        let starts = found
            .unwrap_or_default()
            .into_iter()
            .map(|region| region.start);
        self.borders.learned(starts.collect(), now)
    }

    /// One delivery. When HBase refuses it because of a row, halves of it are tried, down to that row: the answer does not name
    /// the row. The larger parts come first, so that rows which can be written are before most of those that cannot.
    async fn deliver(&self, batch: Vec<Mutation>) -> Result<Written, HbaseError> {
        let mut written = Written::default();
        let mut parts = VecDeque::from([&batch[..]]);
        while let Some(part) = parts.pop_front() {
            match (self.send(part).await, part) {
                (Ok(()), _) => written.rows += part.len(),
                (Err(error), _) if !error.is_of_the_row() => return Err(error),
                (Err(error), [one]) => {
                    let (row, error) = (one.row, self.blamed(one, error).await?);
                    written.refused.push(RefusedRow { row, error });
                    believable(&written, batch.len().clamp(2, FAILED_ROWS_MAX))?;
                }
                (Err(_), part) => {
                    let (left, right) = part.split_at(part.len() / 2);
                    parts.extend([left, right]);
                }
            }
        }
        Ok(written)
    }

    /// Why a row was not written. Gateways fail over a cell beyond HBase's limit as they do when they are sick; where they find the
    /// row's place in HBase all the same, it is the cell.
    async fn blamed(&self, one: &Mutation, error: HbaseError) -> Result<HbaseError, HbaseError> {
        let bytes = one.put.as_ref().map_or(0, Put::largest_cell);
        match error {
            HbaseError::RowFailed { table, detail } if bytes > CELL_BYTES_MAX => {
                let (keys, nothing) = ([one.key().to_vec()], self.layout.projection(&[], None));
                let deadline = Deadline::after(self.timeout);
                let found = self
                    .client
                    .get(&self.layout.table, &keys, &nothing, deadline);
                found.await?;
                Ok(HbaseError::CellTooLarge {
                    table,
                    bytes,
                    detail,
                })
            }
            error => Ok(error),
        }
    }

    async fn send(&self, part: &[Mutation]) -> Result<(), HbaseError> {
        let table = &self.layout.table;
        pass(self.steps.as_ref(), Step::HbaseRequest, table)?;
        let deadline = Deadline::after(self.timeout);
        let deletes: Vec<Delete> = part.iter().filter_map(|one| one.delete.clone()).collect();
        if !deletes.is_empty() {
            self.client.delete(table, &deletes, deadline).await?;
        }
        let puts: Vec<Put> = part.iter().filter_map(|one| one.put.clone()).collect();
        if !puts.is_empty() {
            self.client.put(table, &puts, deadline).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_many_refusals_the_first_are_told_and_the_number_of_the_others() {
        let mut refusals = Refusals::default();
        for count in [3, TOLD_MAX, TOLD_MAX + 50] {
            for bytes in 0..count {
                refusals.add(HbaseError::RowTooLarge { bytes });
            }
            let told = refusals.take("t");
            assert_eq!(told.len(), count.min(TOLD_MAX + 1));
            let last = told.last().map(ToString::to_string);
            let is_count = last.as_deref() == Some("HBase table \"t\" refused 50 more rows");
            assert_eq!(is_count, count > TOLD_MAX, "{last:?}");
        }
        assert!(refusals.take("t").is_empty());
    }

    #[test]
    fn gateways_are_doubted_before_rows_are() {
        let (table, detail) = ("t".to_owned(), "Internal error".to_owned());
        let failed = HbaseError::RowFailed {
            table: table.clone(),
            detail: detail.clone(),
        };
        let reasoned = HbaseError::RowRefused { table, detail };
        let local = HbaseError::KeyLength { bytes: 0 };
        let large = HbaseError::CellTooLarge {
            table: "t".into(),
            bytes: CELL_BYTES_MAX + 1,
            detail: "Internal error".into(),
        };
        for (rows, errors, good) in [
            (0, vec![&failed, &failed], false),
            (0, vec![&failed, &failed, &local], false),
            (0, vec![&failed, &failed, &large], false),
            (0, vec![&large, &large], true),
            (0, vec![&failed, &local], true),
            (0, vec![&failed, &failed, &reasoned], true),
            (1, vec![&failed, &failed], true),
            (0, vec![&local, &local], true),
            (0, vec![], true),
        ] {
            let refused = errors.into_iter().cloned().enumerate();
            let refused = refused.map(|(row, error)| RefusedRow { row, error });
            let refused = refused.collect();
            let written = Written { rows, refused };
            assert_eq!(believable(&written, 2).is_ok(), good, "{written:?}");
        }
    }
}
