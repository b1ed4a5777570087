//! Sums and averages that the engine keeps by weight instead of recomputing them.
//!
//! Invariant: from the same rows, whatever their order and however often they came and went, the result is the one that the
//! aggregate gives in batch.

use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, Decimal128Array, Int64Array};
use datafusion::common::{DFSchema, DataFusionError, Result};
use datafusion::logical_expr::ExprSchemable;
use datafusion::logical_expr::expr::AggregateFunction;
use thalweg_catalog::SqlType;

use super::aggregate::{Recipe, Total};
use super::cast::out_of_range;

/// `sum` or `avg` of integers or decimals.
#[derive(Debug, Clone)]
pub struct ExactTotal {
    recipe: Recipe,
}

impl ExactTotal {
    /// The total that a call computes, unless its argument is a floating-point number or it is another function.
    pub(crate) fn of(call: &AggregateFunction, input: &DFSchema) -> Option<ExactTotal> {
        let inner: &dyn std::any::Any = call.func.inner().as_ref();
        let total = inner.downcast_ref::<Total>()?;
        let fields = call.params.args.iter().map(|arg| arg.to_field(input));
        let fields = fields
            .map(|field| field.map(|(_, field)| field))
            .collect::<Result<Vec<_>>>()
            .ok()?;
        let recipe = total.recipe(&fields).ok()?;
        recipe.exact.then_some(ExactTotal { recipe })
    }

    /// The argument in the type it is added in, a 128-bit decimal.
    ///
    /// # Errors
    /// When the values are not of the type the call was planned with.
    pub fn wide(&self, values: &ArrayRef) -> Result<ArrayRef> {
        self.recipe.wide(values)
    }

    /// Results of totals: each a sum, `None` when it does not fit 128 bits, and the number of values in it. `failed` gets the
    /// error of a total that is out of range; when it returns, that total is NULL.
    ///
    /// # Errors
    /// What `failed` returns.
    pub fn results(
        &self,
        totals: impl Iterator<Item = (Option<i128>, i64)>,
        failed: &mut dyn FnMut(DataFusionError) -> Result<()>,
    ) -> Result<ArrayRef> {
        let narrow = self.recipe.ret == SqlType::Int8;
        let mut wide = Vec::new();
        let mut narrowed = Vec::new();
        for (sum, count) in totals {
            let result = (count != 0).then(|| {
                let sum = sum.ok_or_else(|| out_of_range(&self.recipe.ret))?;
                let value = self.recipe.exact_result(sum, count)?;
                if narrow && i64::try_from(value).is_err() {
                    return Err(out_of_range(&SqlType::Int8));
                }
                Ok(value)
            });
            let value = match result.transpose() {
                Ok(value) => value,
                Err(error) => {
                    failed(error)?;
                    None
                }
            };
            if narrow {
                narrowed.push(value.and_then(|value| i64::try_from(value).ok()));
            } else {
                wide.push(value);
            }
        }
        Ok(if narrow {
            Arc::new(Int64Array::from(narrowed))
        } else {
            Arc::new(Decimal128Array::from(wide).with_data_type(self.recipe.ret.arrow()))
        })
    }
}
