//! array_agg that keeps the SQL type of its argument: an array of jsonb stays one.
//!
//! Invariant: everything but the result's field is DataFusion's own.

use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, FieldRef};
use datafusion::common::Result;
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::utils::AggregateOrderSensitivity;
use datafusion::logical_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, GroupsAccumulator, ReversedUDAF, Signature,
};
use thalweg_catalog::SqlType;

use crate::types::field_type;

/// DataFusion's array_agg with an array of the argument's SQL type as result.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(crate) struct Gathered {
    pub(crate) inner: Arc<AggregateUDF>,
}

impl Gathered {
    fn around(inner: AggregateUDF) -> Self {
        Self {
            inner: Arc::new(inner),
        }
    }
}

impl AggregateUDFImpl for Gathered {
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
        let array = SqlType::Array(Box::new(field_type(argument)));
        if array.arrow() != *plain.data_type() {
            return Ok(plain);
        }
        let field = plain.as_ref().clone().with_metadata(array.metadata());
        Ok(Arc::new(field))
    }

    fn accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        self.inner.accumulator(args)
    }

    fn state_fields(&self, args: StateFieldsArgs) -> Result<Vec<FieldRef>> {
        self.inner.state_fields(args)
    }

    fn groups_accumulator_supported(&self, args: AccumulatorArgs) -> bool {
        self.inner.groups_accumulator_supported(args)
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

    fn order_sensitivity(&self) -> AggregateOrderSensitivity {
        self.inner.order_sensitivity()
    }

    fn with_beneficial_ordering(
        self: Arc<Self>,
        beneficial_ordering: bool,
    ) -> Result<Option<Arc<dyn AggregateUDFImpl>>> {
        let inner = self.inner.as_ref().clone();
        let ordered = inner.with_beneficial_ordering(beneficial_ordering)?;
        Ok(ordered.map(|inner| Arc::new(Self::around(inner)) as Arc<dyn AggregateUDFImpl>))
    }

    fn reverse_expr(&self) -> ReversedUDAF {
        match self.inner.reverse_udf() {
            ReversedUDAF::Reversed(inner) => {
                ReversedUDAF::Reversed(Arc::new(AggregateUDF::from(Self { inner })))
            }
            other => other,
        }
    }

    fn supports_null_handling_clause(&self) -> bool {
        self.inner.supports_null_handling_clause()
    }
}
