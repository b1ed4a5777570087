//! How the values of one aggregate call are encoded, which of them matter, and what is computed from them.
//!
//! Invariant: what is computed depends on the values of a group and how often they occur, in one order, never on when they came.

use std::sync::Arc;

use datafusion::arrow::array::ArrayRef;
use datafusion::arrow::datatypes::{DataType, SchemaRef};
use datafusion::arrow::error::ArrowError;
use datafusion::arrow::row::{RowConverter, Rows, SortField};
use datafusion::common::utils::normalize_float_zero;
use datafusion::common::{DataFusionError, ScalarValue};
use datafusion::logical_expr::expr::{AggregateFunction, NullTreatment};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::aggregate::{AggregateExprBuilder, AggregateFunctionExpr};
use thalweg_planner::stream::AggregateMemory;

use super::Counted;
use crate::error::EngineError;

/// Values decoded at once.
const DECODE_ROWS: usize = 8_192;

/// Functions to which the order of their input makes no difference, and that skip NULL.
const UNORDERED: [&str; 6] = ["avg", "bool_and", "bool_or", "count", "max", "min"];

/// Functions of one argument that skip NULL, beside those.
const SKIP_NULL: [&str; 8] = [
    "sum",
    "stddev",
    "stddev_pop",
    "var",
    "var_pop",
    "var_samp",
    "stddev_samp",
    "median",
];

/// How the values of one call are encoded and what is computed from them.
#[derive(Debug)]
pub(in crate::dataflow) struct ValueCodec {
    function: AggregateFunctionExpr,
    converter: Option<RowConverter>,
    /// Columns before the arguments that only order them.
    order: usize,
    ordered: bool,
    pub(super) reading: Reading,
    skips_null: bool,
    pub(super) result: DataType,
    /// Of the values: what orders them, and the arguments.
    types: Vec<DataType>,
    pub(super) kept: Kept,
}

/// Which values of a group are worth remembering.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kept {
    /// All: any of them may be taken away.
    All,
    /// The first in the order of their bytes.
    First,
    /// The last.
    Last,
    /// The one that is the result; their bytes do not sort as the function compares.
    Result,
}

/// Which values a function needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reading {
    All,
    Distinct,
    /// The number of different values is the result.
    CountDistinct,
    /// The smallest and the largest value.
    Ends,
}

impl ValueCodec {
    pub(in crate::dataflow) fn new(
        call: &AggregateFunction,
        arguments: &[Arc<dyn PhysicalExpr>],
        input: &SchemaRef,
    ) -> Result<Self, EngineError> {
        let name = call.func.name();
        let one = arguments.len() == 1;
        let first = arguments.first().map(|argument| argument.data_type(input));
        let first = first.transpose()?;
        let sorts_as_compared = |ty: &DataType| {
            !ty.is_floating() && !ty.is_nested() && !matches!(ty, DataType::Interval(_))
        };
        let extreme = one && matches!(name, "min" | "max");
        let reading = if extreme && first.as_ref().is_some_and(sorts_as_compared) {
            Reading::Ends
        } else if call.params.distinct && one && name == "count" {
            Reading::CountDistinct
        } else if call.params.distinct {
            Reading::Distinct
        } else {
            Reading::All
        };
        // Distinct values are picked here, so the function need not look for them again.
        let function = AggregateExprBuilder::new(Arc::clone(&call.func), arguments.to_vec())
            .schema(Arc::clone(input))
            .alias("value")
            .with_ignore_nulls(call.params.null_treatment == Some(NullTreatment::IgnoreNulls))
            .build()?;
        let result = function.field().data_type().clone();
        Ok(Self {
            function,
            converter: None,
            order: 0,
            ordered: !call.params.order_by.is_empty() && !UNORDERED.contains(&name),
            reading,
            skips_null: one && (UNORDERED.contains(&name) || SKIP_NULL.contains(&name)),
            result,
            types: Vec::new(),
            kept: Kept::All,
        })
    }

    /// Remembers no more than `memory` asks for.
    pub(in crate::dataflow) fn for_memory(mut self, memory: &AggregateMemory) -> Self {
        self.kept = match (memory, self.reading) {
            (AggregateMemory::Smallest, Reading::Ends) => Kept::First,
            (AggregateMemory::Largest, Reading::Ends) => Kept::Last,
            (AggregateMemory::Smallest | AggregateMemory::Largest, _) => Kept::Result,
            _ => Kept::All,
        };
        self
    }

    /// Whether the values of ORDER BY come before the arguments.
    pub(in crate::dataflow) fn is_ordered(&self) -> bool {
        self.ordered
    }

    /// With the row form of `values`: the columns of ORDER BY, if they matter, and the arguments.
    pub(in crate::dataflow) fn with_order(
        mut self,
        call: &AggregateFunction,
        values: &[Arc<dyn PhysicalExpr>],
        input: &SchemaRef,
    ) -> Result<Self, EngineError> {
        self.order = if self.ordered {
            call.params.order_by.len()
        } else {
            0
        };
        let mut fields = Vec::with_capacity(values.len());
        for (index, value) in values.iter().enumerate() {
            let ty = value.data_type(input)?;
            self.types.push(ty.clone());
            fields.push(match call.params.order_by.get(index) {
                Some(sort) if index < self.order => {
                    let options = datafusion::arrow::compute::SortOptions {
                        descending: !sort.asc,
                        nulls_first: sort.nulls_first,
                    };
                    SortField::new_with_options(ty, options)
                }
                _ => SortField::new(ty),
            });
        }
        self.converter = Some(RowConverter::new(fields)?);
        Ok(self)
    }

    pub(in crate::dataflow) fn skips_null(&self) -> bool {
        self.skips_null
    }

    pub(in crate::dataflow) fn encode(&self, values: &[ArrayRef]) -> Result<Rows, ArrowError> {
        match &self.converter {
            // Zeros of both signs are one value.
            Some(converter) if self.reading != Reading::All => {
                let values: Vec<ArrayRef> = values.iter().map(normalize_float_zero).collect();
                converter.convert_columns(&values)
            }
            Some(converter) => converter.convert_columns(values),
            None => Err(ArrowError::ComputeError("values without a row form".into())),
        }
    }

    pub(in crate::dataflow) fn types(&self) -> &[DataType] {
        &self.types
    }

    fn decode<'a>(
        &self,
        rows: impl Iterator<Item = &'a [u8]>,
    ) -> Result<Vec<ArrayRef>, ArrowError> {
        let columns = self.decode_all(rows)?;
        Ok(columns.into_iter().skip(self.order).collect())
    }

    /// Whole values: what orders them, and the arguments.
    pub(super) fn decode_all<'a>(
        &self,
        rows: impl Iterator<Item = &'a [u8]>,
    ) -> Result<Vec<ArrayRef>, ArrowError> {
        let Some(converter) = &self.converter else {
            return Err(ArrowError::ComputeError("values without a row form".into()));
        };
        let parser = converter.parser();
        converter.convert_rows(rows.map(|bytes| parser.parse(bytes)))
    }

    /// The function over the values of one group.
    pub(super) fn compute(&self, values: &Counted) -> Result<ScalarValue, DataFusionError> {
        if self.reading == Reading::CountDistinct {
            return Ok(ScalarValue::Int64(Some(values.len() as i64)));
        }
        let mut accumulator = self.function.create_accumulator()?;
        let mut feed = |rows: &mut dyn Iterator<Item = &[u8]>| -> Result<usize, DataFusionError> {
            let mut count = 0;
            let columns = self.decode(rows.take(DECODE_ROWS).inspect(|_| count += 1))?;
            if count > 0 {
                accumulator.update_batch(&columns)?;
            }
            Ok(count)
        };
        match self.reading {
            Reading::Ends => {
                let ends = [values.first_key_value(), values.last_key_value()];
                feed(&mut ends.into_iter().flatten().map(|(key, _)| key.as_ref()))?;
            }
            Reading::All => {
                let mut rows = values.iter().flat_map(|(key, count)| {
                    std::iter::repeat_n(key.as_ref(), (*count).max(0) as usize)
                });
                while feed(&mut rows)? > 0 {}
            }
            Reading::Distinct | Reading::CountDistinct => {
                let mut rows = values.keys().map(AsRef::as_ref);
                while feed(&mut rows)? > 0 {}
            }
        }
        accumulator.evaluate()
    }
}
