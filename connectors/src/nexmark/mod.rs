//! The Nexmark source: persons, auctions and bids of an auction house, made here.
//!
//! Invariant: the row at an offset is a pure function of the seed, the offset and, with a rate, of the source's creation time; so a
//! restart at an offset continues exactly where it stopped.

mod event;
mod text;

use std::sync::Arc;

use arrow::array::{ArrayRef, Int32Array, StructArray};
use arrow::buffer::NullBuffer;
use arrow::compute::can_cast_types;
use arrow::datatypes::{Fields, Schema, SchemaRef};
use arrow::record_batch::{RecordBatch, RecordBatchOptions};
use async_trait::async_trait;
use thalweg_catalog::{Column, ColumnRole, ConnectorSpec, Relation, SqlType};

use crate::context::{Clock, ConnectorContext};
use crate::datagen::checked_cast;
use crate::error::ConnectorError;
use crate::generator::{self, Generator, GeneratorReader, Pace};
use crate::options::Options;
use crate::source::{Offsets, SourceConnector, SourceReader};
use event::{Entity, Events};
pub use text::NexmarkText;

/// Events per second of event time without a rate; peers are compared at this figure.
const EVENTS_PER_SECOND: u64 = 10_000;
/// Event time of the first event without a rate: 2015-07-15T00:00:00Z.
const BASE_US: i64 = 1_436_918_400_000_000;

/// A declared Nexmark stream.
#[derive(Debug)]
pub struct NexmarkSource {
    plan: Arc<Plan>,
    clock: Arc<dyn Clock>,
}

#[derive(Debug)]
struct Plan {
    schema: SchemaRef,
    columns: Vec<Made>,
    events: Events,
    /// Which entity the rows are; all of them in one stream when `None`.
    only: Option<Entity>,
    /// Number of events in all, of every entity.
    count: u64,
    pace: Option<Pace>,
}

/// How a column is made.
#[derive(Debug)]
enum Made {
    EventType(SqlType),
    /// A field of the only entity.
    Field(Entity, String, SqlType),
    /// A struct with fields of one entity.
    Struct(Entity, Vec<(String, SqlType)>),
    /// A generated column: the engine computes it, so here it is NULL.
    Absent(SqlType),
}

impl NexmarkSource {
    /// Checks options and columns.
    pub(crate) fn new(
        relation: &Relation,
        spec: &ConnectorSpec,
        context: &ConnectorContext,
    ) -> Result<Self, ConnectorError> {
        let options = Options(&spec.options);
        let only = match options.text("table").unwrap_or("all") {
            "person" => Some(Entity::Person),
            "auction" => Some(Entity::Auction),
            "bid" => Some(Entity::Bid),
            _ => None,
        };
        let columns = relation.columns.iter().map(|column| made(column, only));
        let rate = options.u64("rate")?.filter(|rate| *rate > 0);
        let created_us = relation.created_at_ms.saturating_mul(1000);
        let field = |column: &Column| {
            let nullable = !column.not_null || column.generated.is_some();
            column.ty.field(&column.name, nullable)
        };
        let fields: Vec<_> = relation.columns.iter().map(field).collect();
        let plan = Plan {
            schema: Arc::new(Schema::new(fields)),
            columns: columns.collect::<Result<_, _>>()?,
            events: Events {
                seed: options.i64("seed")?.unwrap_or(0) as u64,
                base_us: if rate.is_some() { created_us } else { BASE_US },
                per_second: rate.unwrap_or(EVENTS_PER_SECOND),
            },
            only,
            count: options.u64("events")?.unwrap_or(u64::MAX),
            pace: rate.map(|per_second| Pace {
                per_second,
                start_us: created_us,
            }),
        };
        Ok(Self {
            plan: Arc::new(plan),
            clock: Arc::clone(&context.clock),
        })
    }
}

fn made(column: &Column, only: Option<Entity>) -> Result<Made, ConnectorError> {
    let ty = column.ty.clone();
    if column.generated.is_some() {
        return Ok(Made::Absent(ty));
    }
    if column.role != ColumnRole::Data {
        return Err(ConnectorError::Unsupported {
            what: format!(
                "INCLUDE column \"{}\" on connector \"nexmark\"",
                column.name
            ),
            hint: "Leave it out; a generator has no message parts.".into(),
        });
    }
    let name = column.name.as_str();
    if let Some(entity) = only {
        check(entity, name, &ty)?;
        return Ok(Made::Field(entity, name.to_owned(), ty));
    }
    if name == "event_type" && can_cast_types(&arrow::datatypes::DataType::Int32, &ty.arrow()) {
        return Ok(Made::EventType(ty));
    }
    match (Entity::of(name), ty) {
        (Some(entity), SqlType::Struct(fields)) => {
            for (name, ty) in &fields {
                check(entity, name, ty)?;
            }
            Ok(Made::Struct(entity, fields))
        }
        _ => Err(ConnectorError::option_hint(
            format!("the stream of all Nexmark events has no column \"{name}\" of this type"),
            "It has event_type int, and person, auction and bid as STRUCT<...>; table = 'bid' gives the columns of bids alone.",
        )),
    }
}

fn check(entity: Entity, name: &str, ty: &SqlType) -> Result<(), ConnectorError> {
    let Some(canonical) = entity.field_type(name) else {
        return Err(ConnectorError::option_hint(
            format!("a Nexmark {} has no field \"{name}\"", entity.name()),
            format!("Its fields are {}.", entity.fields().join(", ")),
        ));
    };
    if can_cast_types(&canonical, &ty.arrow()) && !matches!(ty, SqlType::Bool | SqlType::Bytea) {
        return Ok(());
    }
    Err(ConnectorError::ColumnType {
        message: format!(
            "field \"{name}\" of a Nexmark {} cannot be of type {ty}",
            entity.name()
        ),
    })
}

impl Plan {
    /// Number of the event that is row `row`.
    fn event(&self, row: u64) -> u64 {
        self.only.map_or(row, |entity| entity.event(row))
    }

    /// Rows among the first `events` events.
    fn rows_within(&self, events: u64) -> u64 {
        self.only
            .map_or(events, |entity| entity.rows_within(events))
    }

    fn column(&self, made: &Made, events: &[u64]) -> Result<ArrayRef, arrow::error::ArrowError> {
        match made {
            Made::Absent(ty) => Ok(arrow::array::new_null_array(&ty.arrow(), events.len())),
            Made::EventType(ty) => {
                let types = events.iter().map(|event| Entity::at(*event) as i32);
                checked_cast(&Int32Array::from_iter_values(types), &ty.arrow())
            }
            Made::Field(entity, name, ty) => {
                checked_cast(&self.events.field(*entity, name, events), &ty.arrow())
            }
            Made::Struct(entity, fields) => {
                let here = events.iter().map(|event| Entity::at(*event) == *entity);
                let validity = NullBuffer::from_iter(here);
                let columns = fields.iter().map(|(name, ty)| {
                    checked_cast(&self.events.field(*entity, name, events), &ty.arrow())
                });
                let columns = columns.collect::<Result<Vec<_>, _>>()?;
                let fields: Fields = match SqlType::Struct(fields.clone()).arrow() {
                    arrow::datatypes::DataType::Struct(fields) => fields,
                    _ => Fields::empty(),
                };
                Ok(Arc::new(StructArray::try_new(
                    fields,
                    columns,
                    Some(validity),
                )?))
            }
        }
    }
}

impl Generator for Plan {
    const BATCH_ROWS_MAX: u64 = 8_192;

    fn available(&self, now_us: i64) -> u64 {
        let due = self.pace.map_or(u64::MAX, |pace| pace.due(now_us));
        self.rows_within(due.min(self.count))
    }

    fn due_us(&self, row: u64) -> Option<i64> {
        let finished = row >= self.rows_within(self.count);
        let pace = self.pace.filter(|_| !finished)?;
        Some(pace.due_us(self.event(row)))
    }

    fn batch(&self, from: u64, count: u64) -> Result<RecordBatch, ConnectorError> {
        let events: Vec<u64> = (from..from.saturating_add(count))
            .map(|row| self.event(row))
            .collect();
        let columns = self.columns.iter().map(|made| self.column(made, &events));
        let columns = columns.collect::<Result<Vec<_>, arrow::error::ArrowError>>();
        let options = RecordBatchOptions::new().with_row_count(Some(events.len()));
        columns
            .and_then(|columns| {
                RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options)
            })
            .map_err(|error| ConnectorError::Internal(format!("generated batch: {error}")))
    }
}

#[async_trait]
impl SourceConnector for NexmarkSource {
    async fn resolve_start(&self) -> Result<Offsets, ConnectorError> {
        Ok(generator::start())
    }

    async fn end_offsets(&self) -> Result<Offsets, ConnectorError> {
        if self.plan.pace.is_none() && self.plan.count == u64::MAX {
            return Err(ConnectorError::option_hint(
                "a Nexmark source without events and rate has no end",
                "Add events = ... or rate = ....",
            ));
        }
        Ok(generator::end(self.plan.as_ref(), self.clock.now_us()))
    }

    fn open(&self, at: &Offsets) -> Result<Box<dyn SourceReader>, ConnectorError> {
        Ok(Box::new(GeneratorReader::new(&self.plan, &self.clock, at)))
    }
}

#[cfg(test)]
mod tests;
