//! Operators that keep nothing: filters, projections, unions and unnests.
//!
//! Invariant: the weight of a row passes to every row that is made of it.

use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, AsArray, Int64Array};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef};
use datafusion::arrow::error::ArrowError;
use datafusion::arrow::record_batch::{RecordBatch, RecordBatchOptions};
use datafusion::common::DataFusionError;
use datafusion::datasource::memory::{DataSourceExec, MemorySourceConfig};
use datafusion::execution::TaskContext;
use datafusion::logical_expr::Unnest;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::unnest::{ListUnnest, UnnestExec};
use futures::TryStreamExt;
use thalweg_connectors::{Delta, Weights};

use super::StepContext;
use super::signs::{by_sign, filtered, weighted};
use crate::error::EngineError;

pub(super) fn filter(
    cx: &StepContext<'_>,
    predicate: &Arc<dyn PhysicalExpr>,
    input: Vec<Delta>,
) -> Result<Vec<Delta>, EngineError> {
    let mut out = Vec::with_capacity(input.len());
    for delta in input {
        let mask = cx.evaluate(predicate, &delta)?;
        out.extend(filtered(&delta, mask.as_boolean())?);
    }
    Ok(out)
}

pub(super) fn project(
    cx: &StepContext<'_>,
    exprs: &[Arc<dyn PhysicalExpr>],
    schema: &SchemaRef,
    input: Vec<Delta>,
) -> Result<Vec<Delta>, EngineError> {
    let projected = input.into_iter().map(|delta| {
        let columns = exprs
            .iter()
            .map(|expr| cx.evaluate(expr, &delta))
            .collect::<Result<Vec<_>, _>>()?;
        Ok(Delta {
            batch: batch_of(schema, columns, delta.num_rows())?,
            weights: delta.weights,
        })
    });
    projected.collect()
}

/// The rows of `input` under another schema of as many columns.
pub(super) fn renamed(schema: &SchemaRef, input: Vec<Delta>) -> Result<Vec<Delta>, EngineError> {
    let renamed = input.into_iter().map(|delta| {
        Ok(Delta {
            batch: batch_of(schema, delta.batch.columns().to_vec(), delta.num_rows())?,
            weights: delta.weights,
        })
    });
    renamed.collect()
}

/// Columns as a batch of `schema`; a column of another Arrow type is cast.
pub(super) fn batch_of(
    schema: &SchemaRef,
    columns: Vec<ArrayRef>,
    rows: usize,
) -> Result<RecordBatch, ArrowError> {
    let columns = columns
        .into_iter()
        .zip(schema.fields())
        .map(|(column, field)| {
            if column.data_type() == field.data_type() {
                Ok(column)
            } else {
                cast(&column, field.data_type())
            }
        })
        .collect::<Result<Vec<_>, _>>()?;
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    RecordBatch::try_new_with_options(Arc::clone(schema), columns, &options)
}

/// Lists spread over rows by DataFusion's operator, the weight travelling as one more column.
#[derive(Debug)]
pub(super) struct Spread {
    input: SchemaRef,
    output: SchemaRef,
    schema: SchemaRef,
    unnest: Box<Unnest>,
}

impl Spread {
    pub(super) fn new(input: &SchemaRef, output: SchemaRef, unnest: &Unnest) -> Self {
        let with_weight = |schema: &Schema| {
            let mut fields = schema.fields().to_vec();
            fields.push(Arc::new(Field::new("weight", DataType::Int64, true)));
            Arc::new(Schema::new(fields))
        };
        Self {
            input: with_weight(input),
            schema: with_weight(&output),
            output,
            unnest: Box::new(unnest.clone()),
        }
    }

    pub(super) fn step(&self, input: Vec<Delta>) -> Result<Vec<Delta>, EngineError> {
        let mut out = Vec::with_capacity(input.len());
        for delta in input {
            let weights: Int64Array = (0..delta.num_rows())
                .map(|row| delta.weights.at(row))
                .collect::<Vec<_>>()
                .into();
            let mut columns = delta.batch.columns().to_vec();
            columns.push(Arc::new(weights));
            let batch = RecordBatch::try_new(Arc::clone(&self.input), columns)?;
            for batch in self.run(batch)? {
                out.extend(self.unweighted(&batch)?);
            }
        }
        Ok(out)
    }

    fn unweighted(&self, batch: &RecordBatch) -> Result<Vec<Delta>, EngineError> {
        let width = self.output.fields().len();
        let Some(weights) = batch.columns().get(width) else {
            return Err(EngineError::internal("an unnest lost its weights"));
        };
        let weights = weights.as_primitive::<Int64Type>().values().to_vec();
        let columns = batch.columns().iter().take(width).cloned().collect();
        let rows = batch_of(&self.output, columns, batch.num_rows())?;
        Ok(match weighted(rows, weights) {
            Some(delta) if matches!(delta.weights, Weights::Each(_)) => by_sign(&delta)?,
            other => other.into_iter().collect(),
        })
    }

    fn run(&self, batch: RecordBatch) -> Result<Vec<RecordBatch>, DataFusionError> {
        let source = MemorySourceConfig::try_new(&[vec![batch]], Arc::clone(&self.input), None)?;
        let lists = self.unnest.list_type_columns.iter();
        let lists = lists.map(|(index, list)| ListUnnest {
            index_in_input_schema: *index,
            depth: list.depth,
        });
        let plan = UnnestExec::new(
            DataSourceExec::from_data_source(source),
            lists.collect(),
            self.unnest.struct_type_columns.clone(),
            Arc::clone(&self.schema),
            self.unnest.options.clone(),
        )?;
        // A scan of memory and an unnest wait for nothing.
        futures::executor::block_on(
            plan.execute(0, Arc::new(TaskContext::default()))?
                .try_collect(),
        )
    }
}
