//! min, max and array_agg, whose results keep the SQL type of their argument.
//!
//! Invariant: everything but the result's field is DataFusion's own, and infinities are values like others.

use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, FieldRef};
use datafusion::common::{Result, ScalarValue};
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::utils::AggregateOrderSensitivity;
use datafusion::logical_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, GroupsAccumulator, ReversedUDAF, Signature,
    StatisticsArgs,
};
use thalweg_catalog::SqlType;

use crate::types::field_type;

/// What the result is of the argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Holds {
    /// One of its values, the smallest or the largest.
    One,
    /// All of them, in an array.
    All,
}

/// DataFusion's aggregate with a result of the argument's SQL type, or an array of it.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(crate) struct OfArgument {
    pub(crate) inner: Arc<AggregateUDF>,
    pub(crate) holds: Holds,
}

impl OfArgument {
    fn around(&self, inner: Arc<AggregateUDF>) -> Self {
        let holds = self.holds;
        Self { inner, holds }
    }
}

impl AggregateUDFImpl for OfArgument {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn signature(&self) -> &Signature {
        self.inner.signature()
    }

    fn return_type(&self, arg_types: &[DataType]) -> Result<DataType> {
        self.inner.return_type(arg_types)
    }

    fn return_field(&self, arg_fields: &[FieldRef]) -> Result<FieldRef> {
        let plain = self.inner.inner().return_field(arg_fields)?;
        let Some(argument) = arg_fields.first() else {
            return Ok(plain);
        };
        let (held, metadata) = match self.holds {
            Holds::One => (argument.data_type().clone(), argument.metadata().clone()),
            Holds::All => {
                let array = SqlType::Array(Box::new(field_type(argument)));
                (array.arrow(), array.metadata())
            }
        };
        if held != *plain.data_type() {
            return Ok(plain);
        }
        let field = plain.as_ref().clone().with_metadata(metadata);
        Ok(Arc::new(field))
    }

    fn accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        self.inner.accumulator(args)
    }

    fn state_fields(&self, args: StateFieldsArgs) -> Result<Vec<FieldRef>> {
        self.inner.state_fields(args)
    }

    fn groups_accumulator_supported(&self, args: AccumulatorArgs) -> bool {
        // DataFusion's starts from the largest finite number, which an infinity does not replace.
        let starts_finite = self.holds == Holds::One
            && args
                .expr_fields
                .iter()
                .any(|field| field.data_type().is_floating());
        !starts_finite && self.inner.groups_accumulator_supported(args)
    }

    fn create_groups_accumulator(
        &self,
        args: AccumulatorArgs,
    ) -> Result<Box<dyn GroupsAccumulator>> {
        self.inner.create_groups_accumulator(args)
    }

    fn create_sliding_accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        self.inner.inner().create_sliding_accumulator(args)
    }

    fn coerce_types(&self, arg_types: &[DataType]) -> Result<Vec<DataType>> {
        self.inner.coerce_types(arg_types)
    }

    fn order_sensitivity(&self) -> AggregateOrderSensitivity {
        self.inner.order_sensitivity()
    }

    fn with_beneficial_ordering(
        self: Arc<Self>,
        beneficial_ordering: bool,
    ) -> Result<Option<Arc<dyn AggregateUDFImpl>>> {
        let inner = self.inner.as_ref().clone();
        let ordered = inner.with_beneficial_ordering(beneficial_ordering)?;
        Ok(ordered.map(|inner| Arc::new(self.around(Arc::new(inner))) as _))
    }

    fn reverse_expr(&self) -> ReversedUDAF {
        match (self.holds, self.inner.reverse_udf()) {
            (Holds::One, _) => ReversedUDAF::Identical,
            (Holds::All, ReversedUDAF::Reversed(inner)) => {
                ReversedUDAF::Reversed(Arc::new(AggregateUDF::from(self.around(inner))))
            }
            (Holds::All, other) => other,
        }
    }

    fn is_descending(&self) -> Option<bool> {
        self.inner.is_descending()
    }

    fn supports_null_handling_clause(&self) -> bool {
        self.inner.supports_null_handling_clause()
    }

    fn value_from_stats(&self, statistics_args: &StatisticsArgs) -> Option<ScalarValue> {
        self.inner.value_from_stats(statistics_args)
    }
}
