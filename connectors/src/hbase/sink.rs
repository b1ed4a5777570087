//! Rows of a query into a table, as messages: the row key, and the cells that the row has.
//!
//! Invariant: a message says all of its row, so sending it again, or a later one of the same key after it, leaves the row of the
//! last. A row that HBase cannot hold is told apart and keeps no other row back.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::record_batch::RecordBatch;
use arrow::util::display::array_value_to_string;
use async_trait::async_trait;
use parking_lot::Mutex;

use super::error::HbaseError;
use super::layout::Layout;
use super::options::NullMode;
use super::request::{Delete, NewCell};
use super::table::HbaseTable;
use super::write::{Mutation, Refusals, RefusedRow, cell_value, row_key};
use crate::error::ConnectorError;
use crate::sink::{Form, Message, MessageSink};

/// First byte of a message's key: a row key follows, or what stands for a row that has none.
const ROW: u8 = 0;
const NO_ROW: u8 = 1;

/// The open end of `CREATE SINK ... INTO` a table of HBase with `delivery = 'at_least_once'`.
#[derive(Debug)]
pub struct HbaseSink {
    table: Arc<HbaseTable>,
    refused: Mutex<Refusals>,
}

impl HbaseSink {
    /// Contacts nobody.
    ///
    /// # Errors
    /// 22023 for a table whose queries see whole deliveries alone: cells of this sink have no timestamp in common, so nothing
    /// would tell the queries which belong to one.
    pub fn new(table: Arc<HbaseTable>) -> Result<Self, ConnectorError> {
        if table.shows_whole_deliveries() {
            let table = table.layout().table.text();
            return Err(ConnectorError::option_hint(
                format!(
                    "option \"delivery\" must be 'exactly_once' for HBase table \"{table}\" with scan.consistency = 'committed'"
                ),
                "Leave delivery out, or declare the table with scan.consistency = 'latest'.",
            ));
        }
        Ok(Self {
            table,
            refused: Mutex::default(),
        })
    }

    fn refuse(&self, error: HbaseError) {
        self.refused.lock().add(error);
    }
}

#[async_trait]
impl MessageSink for HbaseSink {
    fn form(&self) -> Form {
        Form::Upsert
    }

    async fn check(&self) -> Result<(), ConnectorError> {
        self.table.check().await
    }

    fn messages(&self, batch: &RecordBatch) -> Result<Vec<Message>, ConnectorError> {
        let rows = 0..batch.num_rows();
        rows.map(|row| message(self.table.layout(), batch, row))
            .collect()
    }

    async fn send(&mut self, messages: Vec<Message>) -> Result<(), ConnectorError> {
        let layout = Arc::clone(self.table.layout());
        let mut last: BTreeMap<Vec<u8>, Option<Vec<u8>>> = BTreeMap::new();
        for message in messages {
            match message.key.as_deref().and_then(<[u8]>::split_first) {
                Some((&ROW, key)) => drop(last.insert(key.to_vec(), message.value)),
                // It had no row before either.
                Some(_) if message.value.is_none() => {}
                _ => self.refuse(unwritable(&layout, message.value.as_deref())),
            }
        }
        let keys: Vec<Vec<u8>> = last.keys().cloned().collect();
        let stamps = self.table.stamps(&keys).await?;
        let mut mutations = Vec::with_capacity(last.len());
        for (row, ((key, cells), stamp)) in last.into_iter().zip(stamps).enumerate() {
            mutations.push(mutation(&layout, row, key, cells.as_deref(), stamp)?);
        }
        let written = self.table.writer().write(mutations, Vec::new()).await?;
        for RefusedRow { error, .. } in written.refused {
            self.refuse(error);
        }
        Ok(())
    }

    fn take_refused(&mut self) -> Vec<ConnectorError> {
        self.refused.lock().take(self.table.layout().table.text())
    }
}

/// What a row that was not even encoded was refused for.
fn unwritable(layout: &Layout, why: Option<&[u8]>) -> HbaseError {
    HbaseError::RowRefused {
        table: layout.table.text().to_owned(),
        detail: String::from_utf8_lossy(why.unwrap_or_default()).into_owned(),
    }
}

fn message(layout: &Layout, batch: &RecordBatch, row: usize) -> Result<Message, ConnectorError> {
    let encoded = row_key(layout, batch, row)
        .map_err(ConnectorError::Hbase)
        .and_then(|key| Ok((key, cells(layout, batch, row)?)));
    match encoded {
        Ok((key, cells)) => Ok(Message {
            key: Some([&[ROW], &key[..]].concat()),
            value: Some(cells),
        }),
        Err(ConnectorError::Hbase(error)) if error.is_of_the_row() => {
            let why = match error.detail() {
                Some(detail) => format!("{error}: {detail}"),
                None => error.to_string(),
            };
            let key = row_key(layout, batch, row).unwrap_or_else(|_| shown(batch, row).into());
            Ok(Message {
                key: Some([&[NO_ROW], &key[..]].concat()),
                value: Some(why.into_bytes()),
            })
        }
        Err(error) => Err(error),
    }
}

/// A row that has no row key, so that it is the same row each time.
fn shown(batch: &RecordBatch, row: usize) -> String {
    let values = batch.columns().iter();
    let values = values.map(|column| array_value_to_string(column, row).unwrap_or_default());
    values.collect::<Vec<_>>().join("|")
}

/// The cells of a row: number in the layout, length and bytes of each.
fn cells(layout: &Layout, batch: &RecordBatch, row: usize) -> Result<Vec<u8>, ConnectorError> {
    let mut out = Vec::new();
    for (index, cell) in (0_u32..).zip(&layout.cells) {
        if let Some(value) = cell_value(cell, batch, row, layout.null_mode)? {
            out.extend_from_slice(&index.to_le_bytes());
            out.extend_from_slice(&(value.len() as u32).to_le_bytes());
            out.extend_from_slice(&value);
        }
    }
    Ok(out)
}

/// What a message means for the cells of its row; without cells the row goes.
fn mutation(
    layout: &Layout,
    row: usize,
    key: Vec<u8>,
    cells: Option<&[u8]>,
    timestamp: i64,
) -> Result<Mutation, ConnectorError> {
    let (family, qualifier) = layout.marker();
    let name = |index: usize| {
        let cell = layout.cells.get(index);
        cell.map(|cell| (cell.family.clone(), cell.qualifier.clone()))
    };
    let Some(cells) = cells else {
        let mut columns: Vec<_> = (0..layout.cells.len()).filter_map(name).collect();
        columns.push((family.to_vec(), qualifier.to_vec()));
        let delete = Some(Delete {
            row: key,
            columns,
            timestamp,
        });
        let put = None;
        return Ok(Mutation { row, put, delete });
    };
    let mut present = parse(cells)
        .ok_or_else(|| ConnectorError::Internal("a message holds no row of HBase".into()))?;
    let mut new = vec![NewCell {
        family: family.to_vec(),
        qualifier: qualifier.to_vec(),
        value: Vec::new(),
    }];
    let mut gone = Vec::new();
    for index in 0..layout.cells.len() {
        let Some((family, qualifier)) = name(index) else {
            continue;
        };
        match present.remove(&index) {
            Some(value) => new.push(NewCell {
                family,
                qualifier,
                value: value.to_vec(),
            }),
            None if layout.null_mode == NullMode::Delete => gone.push((family, qualifier)),
            None => {}
        }
    }
    Ok(Mutation::replacing(row, key, new, gone, timestamp))
}

fn parse(mut cells: &[u8]) -> Option<BTreeMap<usize, &[u8]>> {
    let mut found = BTreeMap::new();
    while !cells.is_empty() {
        let (index, rest) = cells.split_first_chunk::<4>()?;
        let (length, rest) = rest.split_first_chunk::<4>()?;
        let length = usize::try_from(u32::from_le_bytes(*length)).ok()?;
        let (value, rest) = rest.split_at_checked(length)?;
        found.insert(usize::try_from(u32::from_le_bytes(*index)).ok()?, value);
        cells = rest;
    }
    Some(found)
}
