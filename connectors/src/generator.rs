//! Reads sources that make their rows themselves, at a pace.
//!
//! Invariant: what is read depends on the offset and on the clock's time alone; a row is handed over no earlier than it is due.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{Array, ArrayRef, AsArray, StructArray, new_null_array};
use arrow::error::ArrowError;
use arrow::record_batch::{RecordBatch, RecordBatchOptions};

use crate::context::{Clock, Deadline};
use crate::error::ConnectorError;
use crate::format::Wanted;
use crate::source::{
    Budget, ColumnsRead, Offsets, RowPlace, SourceBatch, SourceHealth, SourceReader,
};

/// The one split of a generator.
const SPLIT: &str = "0";

/// Rows that derive from their number.
pub(crate) trait Generator: Debug + Send + Sync + 'static {
    /// Rows of one batch, however large the budget.
    const BATCH_ROWS_MAX: u64;
    /// Rows that exist at `now_us`.
    fn available(&self, now_us: i64) -> u64;
    /// The moment a row is due, microseconds since the Unix epoch; `None` when it never is.
    fn due_us(&self, row: u64) -> Option<i64>;
    /// Rows `from..from + count`.
    fn batch(&self, from: u64, count: u64) -> Result<RecordBatch, ConnectorError>;
}

/// Rows per second from a moment on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pace {
    pub(crate) per_second: u64,
    pub(crate) start_us: i64,
}

impl Pace {
    /// How many are due at `now_us`.
    pub(crate) fn due(self, now_us: i64) -> u64 {
        let elapsed_us = i128::from(now_us) - i128::from(self.start_us);
        let due = elapsed_us.max(0) * i128::from(self.per_second) / 1_000_000;
        u64::try_from(due).unwrap_or(u64::MAX)
    }

    /// When number `number`, counted from 0, is due. Rounded up: at that time it is.
    pub(crate) fn due_us(self, number: u64) -> i64 {
        let rate = i128::from(self.per_second.max(1));
        let since_us = ((i128::from(number) + 1) * 1_000_000 + rate - 1) / rate;
        i64::try_from(i128::from(self.start_us) + since_us).unwrap_or(i64::MAX)
    }
}

/// The beginning of every generator.
pub(crate) fn start() -> Offsets {
    at(0)
}

/// Its end at `now_us`.
pub(crate) fn end(generator: &impl Generator, now_us: i64) -> Offsets {
    at(generator.available(now_us))
}

fn at(offset: u64) -> Offsets {
    Offsets::from([(SPLIT.to_owned(), offset)])
}

/// An open generator.
#[derive(Debug)]
pub(crate) struct GeneratorReader<G> {
    generator: Arc<G>,
    clock: Arc<dyn Clock>,
    next: u64,
    columns: ColumnsRead,
}

impl<G: Generator> GeneratorReader<G> {
    pub(crate) fn new(generator: &Arc<G>, clock: &Arc<dyn Clock>, at: &Offsets) -> Self {
        Self {
            generator: Arc::clone(generator),
            clock: Arc::clone(clock),
            next: at.get(SPLIT).copied().unwrap_or(0),
            columns: ColumnsRead::all(),
        }
    }

    /// Waits until a row is due or the deadline passes; returns how many are.
    fn wait(&self, deadline: Deadline) -> u64 {
        loop {
            let now_us = self.clock.now_us();
            let due = self.generator.available(now_us).saturating_sub(self.next);
            let left = deadline.left();
            if due > 0 || left.is_zero() {
                return due;
            }
            let next = self.generator.due_us(self.next).map(|due_us| {
                Duration::from_micros(due_us.saturating_sub(now_us).max(1).unsigned_abs())
            });
            std::thread::sleep(next.map_or(left, |next| left.min(next)));
        }
    }
}

impl<G: Generator> SourceReader for GeneratorReader<G> {
    fn poll(&mut self, budget: Budget) -> Result<SourceBatch, ConnectorError> {
        let due = self.wait(Deadline::after(budget.time));
        let count = due.min(budget.rows as u64).min(G::BATCH_ROWS_MAX);
        let rows = self.generator.batch(self.next, count)?;
        let rows = what_is_read(&rows, &self.columns)
            .map_err(|error| ConnectorError::Internal(format!("generated batch: {error}")))?;
        let places = (self.next..self.next.saturating_add(count))
            .map(|offset| RowPlace {
                partition: 0,
                offset: i64::try_from(offset).unwrap_or(i64::MAX),
            })
            .collect();
        let mut offsets = Offsets::new();
        if count > 0 {
            self.next += count;
            offsets = at(self.next);
        }
        Ok(SourceBatch {
            rows,
            places,
            names: Default::default(),
            dead: Vec::new(),
            offsets,
            records: count,
            skipped: 0,
        })
    }

    fn read_only(&mut self, columns: &ColumnsRead) {
        self.columns = columns.clone();
    }

    fn health(&self) -> SourceHealth {
        SourceHealth::Running
    }

    fn high_watermarks(&self) -> Offsets {
        end(self.generator.as_ref(), self.clock.now_us())
    }
}

/// The rows with NULL in place of what nobody reads, as the readers of records give it.
fn what_is_read(rows: &RecordBatch, read: &ColumnsRead) -> Result<RecordBatch, ArrowError> {
    let fields = rows.schema_ref().fields().iter();
    let columns = fields.zip(rows.columns()).map(|(field, column)| {
        Ok(match read.of(field.name()) {
            Wanted::Nothing if field.is_nullable() => {
                new_null_array(field.data_type(), column.len())
            }
            Wanted::Fields(names) => fields_read(column, names)?,
            Wanted::Nothing | Wanted::Whole => Arc::clone(column),
        })
    });
    let columns = columns.collect::<Result<Vec<ArrayRef>, ArrowError>>()?;
    let options = RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
    RecordBatch::try_new_with_options(rows.schema(), columns, &options)
}

fn fields_read(column: &ArrayRef, names: &BTreeSet<String>) -> Result<ArrayRef, ArrowError> {
    let Some(whole) = column.as_struct_opt() else {
        return Ok(Arc::clone(column));
    };
    let fields = whole.fields().clone();
    let values = fields.iter().zip(whole.columns()).map(|(field, values)| {
        match names.contains(field.name()) || !field.is_nullable() {
            true => Arc::clone(values),
            false => new_null_array(field.data_type(), values.len()),
        }
    });
    let values = values.collect();
    let read = StructArray::try_new(fields, values, whole.nulls().cloned())?;
    Ok(Arc::new(read))
}
