//! The aggregate behind `(SELECT ...)` used as a value: the one row's value, NULL without rows.
//!
//! Invariant: a second row is 21000, never a silent choice between the two.

use datafusion::arrow::array::{Array, ArrayRef, AsArray};
use datafusion::arrow::datatypes::{DataType, Field, FieldRef, Int64Type};
use datafusion::common::{Result, ScalarValue};
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::{Accumulator, AggregateUDFImpl, Signature, Volatility};
use std::sync::Arc;

use crate::error::raise;

/// `thalweg_single_value(x)`.
#[derive(Debug, PartialEq, Eq, Hash)]
pub(crate) struct SingleValue {
    signature: Signature,
}

impl SingleValue {
    /// Of any type.
    pub(crate) fn new() -> SingleValue {
        SingleValue {
            signature: Signature::any(1, Volatility::Immutable),
        }
    }
}

impl AggregateUDFImpl for SingleValue {
    fn name(&self) -> &str {
        "thalweg_single_value"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, arg_types: &[DataType]) -> Result<DataType> {
        Ok(arg_types.first().cloned().unwrap_or(DataType::Null))
    }

    fn return_field(&self, arg_fields: &[FieldRef]) -> Result<FieldRef> {
        Ok(match arg_fields.first() {
            Some(field) => Arc::new(field.as_ref().clone().with_nullable(true)),
            None => Arc::new(Field::new(self.name(), DataType::Null, true)),
        })
    }

    fn accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        Ok(Box::new(Single {
            value: ScalarValue::try_from(args.return_field.data_type())?,
            rows: 0,
        }))
    }

    fn state_fields(&self, args: StateFieldsArgs) -> Result<Vec<FieldRef>> {
        let value = args.return_field.as_ref().clone();
        Ok(vec![
            Arc::new(value.with_name(format!("{}[value]", args.name))),
            Arc::new(Field::new(
                format!("{}[rows]", args.name),
                DataType::Int64,
                false,
            )),
        ])
    }
}

#[derive(Debug)]
struct Single {
    value: ScalarValue,
    rows: i64,
}

impl Single {
    fn take(&mut self, values: &ArrayRef, row: usize, rows: i64) -> Result<()> {
        self.rows = self.rows.saturating_add(rows);
        if rows > 0 {
            self.value = ScalarValue::try_from_array(values, row)?;
        }
        self.checked()
    }

    fn checked(&self) -> Result<()> {
        if self.rows > 1 {
            return Err(raise(
                "21000",
                "more than one row returned by a subquery used as an expression",
            ));
        }
        Ok(())
    }
}

impl Accumulator for Single {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        match values.first() {
            Some(column) if !column.is_empty() => {
                let rows = i64::try_from(column.len()).unwrap_or(i64::MAX);
                self.take(column, 0, rows)
            }
            _ => Ok(()),
        }
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        self.checked()?;
        Ok(self.value.clone())
    }

    fn size(&self) -> usize {
        size_of::<Self>() + self.value.size()
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        Ok(vec![
            self.value.clone(),
            ScalarValue::Int64(Some(self.rows)),
        ])
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        let [values, rows] = states else {
            return Ok(());
        };
        let rows = rows.as_primitive::<Int64Type>();
        for row in 0..values.len() {
            self.take(values, row, rows.value(row))?;
        }
        Ok(())
    }
}
