//! What one poll collects, and how rows of Parquet files come into it.
//!
//! Invariant: a file's offset moves with the rows that were taken, whatever fails behind them.

use std::collections::BTreeMap;

use arrow::record_batch::RecordBatch;

use super::columnar::{self, GIVEN_UP, Table, TableRows, Trouble};
use super::reader::Progress;
use super::unreadable;
use crate::context::Deadline;
use crate::error::ConnectorError;
use crate::format::Fault;
use crate::source::{Budget, DeadLetter, Offsets, RowPlace};

/// Bytes of a record kept with a dead letter.
const DEAD_LETTER_BYTES_MAX: usize = 1 << 20;

/// What one poll collects.
#[derive(Default)]
pub(super) struct Gathered {
    pub(super) places: Vec<RowPlace>,
    pub(super) dead: Vec<DeadLetter>,
    pub(super) offsets: Offsets,
    pub(super) names: BTreeMap<i32, String>,
    pub(super) records: u64,
    pub(super) bytes: usize,
}

impl Gathered {
    pub(super) fn is_full(&self, budget: Budget) -> bool {
        self.records >= budget.rows as u64 || self.bytes >= budget.bytes
    }
}

/// What one poll takes from one Parquet file.
pub(super) struct Gathering<'p> {
    pub(super) name: &'p str,
    pub(super) budget: Budget,
    pub(super) deadline: Deadline,
    pub(super) now_us: i64,
    pub(super) gathered: &'p mut Gathered,
}

impl Gathering<'_> {
    /// Reads until the file or the budget ends; what was taken before a failure counts.
    pub(super) fn read(
        mut self,
        file: &mut Progress,
        rows: &mut TableRows,
    ) -> Result<(), ConnectorError> {
        let begun = file.at;
        let taken = match self.open(file, rows)? {
            Some(table) => self.take(file, table, rows),
            None => Ok(None),
        };
        if file.at > begun {
            let name = self.name.to_owned();
            self.gathered.offsets.insert(name.clone(), file.at);
            self.gathered.names.insert(file.number, name);
        }
        file.table = taken?;
        Ok(())
    }

    /// The file where it was left; `None` when there is nothing in it to read.
    fn open(
        &mut self,
        file: &mut Progress,
        rows: &TableRows,
    ) -> Result<Option<Table>, ConnectorError> {
        if let Some(table) = file.table.take() {
            return Ok(Some(table));
        }
        let problem = match Table::open(&file.found, &rows.given(), file.at) {
            Ok(table) => match file.end {
                Some(GIVEN_UP) => "it was not complete when the source was created".to_owned(),
                Some(end) if table.rows() != end => format!(
                    "it has {} rows, and had {end} when the source was created",
                    table.rows()
                ),
                _ => return Ok(Some(table)),
            },
            Err(Trouble::Io(error)) => return Err(unreadable(self.name, &error)),
            // Its writer may have begun anew since it was looked at.
            Err(Trouble::Unfinished) if file.end.is_none() => {
                file.stamp = None;
                file.seen = file.at;
                return Ok(None);
            }
            Err(Trouble::Unfinished) => "it ends without a footer".to_owned(),
            Err(Trouble::Content(reason)) => reason,
        };
        self.give_up(file, &problem);
        Ok(None)
    }

    /// Takes rows until the file or the budget ends; the table when there may be more.
    fn take(
        &mut self,
        file: &mut Progress,
        mut table: Table,
        rows: &mut TableRows,
    ) -> Result<Option<Table>, ConnectorError> {
        loop {
            let left = self.budget.rows as u64 - self.gathered.records.min(self.budget.rows as u64);
            let late = self.gathered.records > 0 && self.deadline.left().is_zero();
            if left == 0 || self.gathered.bytes >= self.budget.bytes || late {
                return Ok(Some(table));
            }
            let next = table.next(usize::try_from(left).unwrap_or(usize::MAX));
            match next.map_err(|error| unreadable(self.name, &error))? {
                columnar::Next::Rows(batch) => {
                    if let Err(problem) = self.add(file, &table, &batch, rows) {
                        self.give_up(file, &problem);
                        return Ok(None);
                    }
                }
                columnar::Next::Lost { until, reason } => {
                    let message =
                        format!("rows {} to {} cannot be read: {reason}", file.at, until - 1);
                    self.report(file.at, None, Fault::decode(message));
                    file.at = until;
                }
                columnar::Next::End => {
                    file.seen = file.seen.max(file.at);
                    return Ok(None);
                }
            }
        }
    }

    fn add(
        &mut self,
        file: &mut Progress,
        table: &Table,
        batch: &RecordBatch,
        rows: &mut TableRows,
    ) -> Result<(), String> {
        let parts = table.declared(batch);
        let mut bad = rows.append(batch.num_rows(), &parts)?;
        for row in 0..batch.num_rows() {
            let at = file.at + row as u64;
            match bad.remove(&row) {
                Some(bad) => self.report(at, bad.payload, bad.fault),
                None => self.gathered.places.push(RowPlace {
                    partition: file.number,
                    offset: i64::try_from(at).unwrap_or(i64::MAX),
                }),
            }
        }
        file.at += batch.num_rows() as u64;
        self.gathered.records += batch.num_rows() as u64;
        // What a file says about sizes is not to be trusted, and a slice counts as the whole.
        self.gathered.bytes += batch.columns().iter().map(sizes).sum::<usize>();
        Ok(())
    }

    /// A file that cannot be read is one letter, and its end is reached.
    fn give_up(&mut self, file: &mut Progress, problem: &str) {
        let message = format!("file \"{}\" cannot be read: {problem}", self.name);
        self.report(file.at, None, Fault::decode(message));
        file.table = None;
        file.at = file.end.unwrap_or(GIVEN_UP);
        file.seen = file.at;
    }

    fn report(&mut self, at: u64, payload: Option<Vec<u8>>, fault: Fault) {
        let offset = i64::try_from(at).unwrap_or(i64::MAX);
        let mut letter = letter(
            self.name,
            offset,
            payload.unwrap_or_default(),
            fault,
            self.now_us,
        );
        letter.payload = letter.payload.filter(|payload| !payload.is_empty());
        self.gathered.dead.push(letter);
        self.gathered.records += 1;
    }
}

/// About the bytes of a column's own rows.
fn sizes(column: &arrow::array::ArrayRef) -> usize {
    let data = column.to_data();
    data.get_slice_memory_size().unwrap_or(0)
}

/// A record that became no row.
pub(super) fn letter(
    name: &str,
    offset: i64,
    record: Vec<u8>,
    fault: Fault,
    now_us: i64,
) -> DeadLetter {
    let mut payload = record;
    payload.truncate(DEAD_LETTER_BYTES_MAX);
    DeadLetter {
        reason: fault.reason.as_str().to_owned(),
        message: fault.message,
        topic: name.to_owned(),
        partition: 0,
        offset,
        key: None,
        payload: Some(payload),
        headers: None,
        at_us: now_us,
    }
}
