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

use crate::context::{Clock, ConnectorContext};
use crate::error::ConnectorError;
use crate::generator::{self, Generator, GeneratorReader, Pace};
use crate::options::Options;
use crate::source::{Offsets, SourceConnector, SourceReader};
use column::ColumnGenerator;
pub(crate) use column::checked_cast;
pub(crate) use draw::{Draw, mix};

/// Pace of a generator that says neither `rows_per_second` nor `rows`.
const DEFAULT_ROWS_PER_SECOND: u64 = 10;
/// Step of the nominal time of a generator without a pace: all rows at once, their times a millisecond apart.
const UNPACED_STEP_US: i128 = 1_000;

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
    fn pace(&self) -> Option<Pace> {
        self.rows_per_second.map(|per_second| Pace {
            per_second,
            start_us: self.created_us,
        })
    }

    /// The moment a row is due, by the pace alone.
    fn nominal_us(&self, offset: u64) -> i64 {
        match self.pace() {
            None => {
                let at_us = i128::from(self.created_us) + i128::from(offset) * UNPACED_STEP_US;
                i64::try_from(at_us).unwrap_or(i64::MAX)
            }
            Some(pace) => pace.due_us(offset),
        }
    }
}

impl Generator for Plan {
    const BATCH_ROWS_MAX: u64 = 65_536;

    fn available(&self, now_us: i64) -> u64 {
        let paced = self.pace().map_or(u64::MAX, |pace| pace.due(now_us));
        paced.min(self.rows.unwrap_or(u64::MAX))
    }

    fn due_us(&self, row: u64) -> Option<i64> {
        let finished = self.rows.is_some_and(|rows| row >= rows);
        (!finished).then(|| self.nominal_us(row))
    }

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
        Ok(generator::start())
    }

    async fn end_offsets(&self) -> Result<Offsets, ConnectorError> {
        Ok(generator::end(self.plan.as_ref(), self.clock.now_us()))
    }

    fn open(&self, at: &Offsets) -> Result<Box<dyn SourceReader>, ConnectorError> {
        Ok(Box::new(GeneratorReader::new(&self.plan, &self.clock, at)))
    }
}

#[cfg(test)]
mod tests;
