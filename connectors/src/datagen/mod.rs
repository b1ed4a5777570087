//! The generator source: rows out of nothing, at a pace.
//!
//! Invariant: the row at an offset is a pure function of the source's options, its creation time and the offset, so a restart
//! at an offset continues exactly where it stopped, and two readers never disagree.

mod column;
mod draw;
mod kind;
mod natural;

use std::sync::Arc;

use arrow::datatypes::{Field, Schema, SchemaRef};
use arrow::record_batch::RecordBatch;
use async_trait::async_trait;
use thalweg_catalog::{Column, ColumnRole, ConnectorSpec, Relation};

use crate::context::{Clock, ConnectorContext, Deadline};
use crate::error::ConnectorError;
use crate::options::Options;
use crate::source::{
    Budget, Offsets, RowPlace, SourceBatch, SourceConnector, SourceHealth, SourceReader,
};
use column::ColumnGenerator;
pub(crate) use column::checked_cast;
pub(crate) use draw::{Draw, mix};

/// The one split of a generator.
const SPLIT: &str = "0";
/// Pace of a generator that says neither `rows_per_second` nor `rows`.
const DEFAULT_ROWS_PER_SECOND: u64 = 10;
/// Step of the nominal time of a generator without a pace: all rows at once, their times a millisecond apart.
const UNPACED_STEP_US: i128 = 1_000;
/// Rows of one batch, however large the budget.
const BATCH_ROWS_MAX: u64 = 65_536;

/// A declared generator.
#[derive(Debug)]
pub struct DatagenSource {
    plan: Arc<Plan>,
    clock: Arc<dyn Clock>,
}

/// Everything rows derive from.
#[derive(Debug)]
struct Plan {
    schema: SchemaRef,
    columns: Vec<ColumnGenerator>,
    rows: Option<u64>,
    rows_per_second: Option<u64>,
    created_us: i64,
}

/// What one value derives from.
#[derive(Debug, Clone, Copy)]
struct Row {
    offset: u64,
    nominal_us: i64,
}

impl DatagenSource {
    /// Checks the options against the columns.
    pub(crate) fn new(
        relation: &Relation,
        spec: &ConnectorSpec,
        context: &ConnectorContext,
    ) -> Result<Self, ConnectorError> {
        let options = Options(&spec.options);
        let rows = options.u64("rows")?;
        let rows_per_second = match options.u64("rows_per_second")? {
            Some(0) => {
                return Err(ConnectorError::option(
                    "option \"rows_per_second\" must be at least 1",
                ));
            }
            None if rows.is_none() => Some(DEFAULT_ROWS_PER_SECOND),
            given => given,
        };
        let seed = options.i64("seed")?.unwrap_or(0) as u64;
        check_field_options(&spec.options, &relation.columns)?;
        let columns = relation
            .columns
            .iter()
            .enumerate()
            .map(|(index, column)| generator(column, index, seed, options))
            .collect::<Result<Vec<_>, _>>()?;
        let plan = Plan {
            schema: Arc::new(Schema::new(
                relation.columns.iter().map(field).collect::<Vec<_>>(),
            )),
            columns,
            rows,
            rows_per_second,
            created_us: relation.created_at_ms.saturating_mul(1000),
        };
        Ok(Self {
            plan: Arc::new(plan),
            clock: Arc::clone(&context.clock),
        })
    }
}

/// A source column's Arrow field. The engine computes generated columns, so here they are NULL.
fn field(column: &Column) -> Field {
    column
        .ty
        .field(&column.name, !column.not_null || column.generated.is_some())
}

fn generator(
    column: &Column,
    index: usize,
    seed: u64,
    options: Options<'_>,
) -> Result<ColumnGenerator, ConnectorError> {
    if column.role != ColumnRole::Data {
        return Err(ConnectorError::Unsupported {
            what: format!(
                "INCLUDE column \"{}\" on connector \"datagen\"",
                column.name
            ),
            hint: "Declare it as an ordinary column; a generator has no message parts.".into(),
        });
    }
    let column_seed = draw::mix(seed ^ draw::mix(index as u64 + 1));
    ColumnGenerator::new(column, column_seed, options)
}

/// Refuses `fields.<column>.<property>` that names nothing.
fn check_field_options(
    options: &std::collections::BTreeMap<String, String>,
    columns: &[Column],
) -> Result<(), ConnectorError> {
    for name in options.keys() {
        let Some(rest) = name.strip_prefix("fields.") else {
            continue;
        };
        let (column, property) = rest.rsplit_once('.').unwrap_or((rest, ""));
        if !columns.iter().any(|candidate| candidate.name == column) {
            return Err(ConnectorError::option_hint(
                format!("option \"{name}\" names a column that does not exist"),
                format!("Write fields.<column>.kind; the source has no column \"{column}\"."),
            ));
        }
        if !kind::PROPERTIES.contains(&property) {
            return Err(ConnectorError::option_hint(
                format!("option \"{name}\" does not exist"),
                format!(
                    "Known properties of a field are {}.",
                    kind::PROPERTIES.join(", ")
                ),
            ));
        }
    }
    Ok(())
}

impl Plan {
    /// Rows that exist at `now_us`.
    fn available(&self, now_us: i64) -> u64 {
        let paced = match self.rows_per_second {
            None => u64::MAX,
            Some(rate) => {
                let elapsed_us = i128::from(now_us) - i128::from(self.created_us);
                u64::try_from(elapsed_us.max(0) * i128::from(rate) / 1_000_000).unwrap_or(u64::MAX)
            }
        };
        paced.min(self.rows.unwrap_or(u64::MAX))
    }

    /// The moment a row is due, by the pace alone.
    fn nominal_us(&self, offset: u64) -> i64 {
        let since_us = match self.rows_per_second {
            None => i128::from(offset) * UNPACED_STEP_US,
            // Rounded up: at its nominal time a row is available.
            Some(rate) => {
                ((i128::from(offset) + 1) * 1_000_000 + i128::from(rate) - 1) / i128::from(rate)
            }
        };
        let at_us = i128::from(self.created_us) + since_us;
        i64::try_from(at_us).unwrap_or(i64::MAX)
    }

    /// Rows `from..from + count`.
    fn batch(&self, from: u64, count: u64) -> Result<RecordBatch, ConnectorError> {
        let rows: Vec<Row> = (from..from.saturating_add(count))
            .map(|offset| Row {
                offset,
                nominal_us: self.nominal_us(offset),
            })
            .collect();
        let columns = self
            .columns
            .iter()
            .map(|column| column.generate(&rows))
            .collect::<Result<Vec<_>, _>>()?;
        let options =
            arrow::record_batch::RecordBatchOptions::new().with_row_count(Some(rows.len()));
        RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options)
            .map_err(|error| ConnectorError::Internal(format!("generated batch: {error}")))
    }
}

#[async_trait]
impl SourceConnector for DatagenSource {
    async fn resolve_start(&self) -> Result<Offsets, ConnectorError> {
        Ok(Offsets::from([(SPLIT.to_owned(), 0)]))
    }

    async fn end_offsets(&self) -> Result<Offsets, ConnectorError> {
        Ok(Offsets::from([(
            SPLIT.to_owned(),
            self.plan.available(self.clock.now_us()),
        )]))
    }

    fn open(&self, at: &Offsets) -> Result<Box<dyn SourceReader>, ConnectorError> {
        Ok(Box::new(DatagenReader {
            plan: Arc::clone(&self.plan),
            clock: Arc::clone(&self.clock),
            next: at.get(SPLIT).copied().unwrap_or(0),
        }))
    }
}

/// An open generator.
#[derive(Debug)]
struct DatagenReader {
    plan: Arc<Plan>,
    clock: Arc<dyn Clock>,
    next: u64,
}

impl DatagenReader {
    fn due(&self) -> u64 {
        self.plan
            .available(self.clock.now_us())
            .saturating_sub(self.next)
    }

    /// Waits until a row is due or the deadline passes.
    fn wait(&self, deadline: Deadline) -> u64 {
        loop {
            let due = self.due();
            let left = deadline.left();
            if due > 0 || left.is_zero() {
                return due;
            }
            let finished = self.plan.rows.is_some_and(|rows| self.next >= rows);
            let until_next_us = self
                .plan
                .nominal_us(self.next)
                .saturating_sub(self.clock.now_us());
            let until_next = std::time::Duration::from_micros(until_next_us.max(1) as u64);
            std::thread::sleep(if finished { left } else { left.min(until_next) });
        }
    }
}

impl SourceReader for DatagenReader {
    fn poll(&mut self, budget: Budget) -> Result<SourceBatch, ConnectorError> {
        let due = self.wait(Deadline::after(budget.time));
        let count = due.min(budget.rows as u64).min(BATCH_ROWS_MAX);
        let rows = self.plan.batch(self.next, count)?;
        let places = (self.next..self.next.saturating_add(count))
            .map(|offset| RowPlace {
                partition: 0,
                offset: i64::try_from(offset).unwrap_or(i64::MAX),
            })
            .collect();
        let mut offsets = Offsets::new();
        if count > 0 {
            self.next += count;
            offsets.insert(SPLIT.to_owned(), self.next);
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

    fn health(&self) -> SourceHealth {
        SourceHealth::Running
    }

    fn high_watermarks(&self) -> Offsets {
        Offsets::from([(SPLIT.to_owned(), self.plan.available(self.clock.now_us()))])
    }
}

#[cfg(test)]
mod tests;
