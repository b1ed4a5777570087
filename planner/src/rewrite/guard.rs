//! Guards: in a view, an expression that fails on a row gives NULL there and a record, instead of failing the view.
//!
//! Invariant: a guard changes nothing for rows that do not raise, and without a sink it still gives NULL.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, new_null_array};
use datafusion::arrow::compute::concat;
use datafusion::arrow::datatypes::{DataType, FieldRef};
use datafusion::common::tree_node::Transformed;
use datafusion::common::{Result, ScalarValue};
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::{
    ColumnarValue, Expr, LogicalPlan, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF,
    ScalarUDFImpl, Signature,
};
use thalweg_sql::Report;

use crate::functions::native::{Native, Shape, native_of};

/// Where compute errors of a view go.
pub trait ErrorSink: Send + Sync {
    /// `count` rows gave NULL because of `report`.
    fn compute_error(&self, report: &Report, count: u64);
}

/// A function that gives NULL where the inner one raises.
struct Guard {
    inner: Arc<ScalarUDF>,
    signature: Signature,
    sink: Option<Arc<dyn ErrorSink>>,
}

impl std::fmt::Debug for Guard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Guard")
            .field("inner", &self.inner.name())
            .finish_non_exhaustive()
    }
}

impl PartialEq for Guard {
    fn eq(&self, other: &Self) -> bool {
        self.inner == other.inner
    }
}

impl Eq for Guard {}

impl Hash for Guard {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.inner.hash(state);
    }
}

impl Guard {
    fn new(inner: Arc<ScalarUDF>, sink: Option<Arc<dyn ErrorSink>>) -> Guard {
        let volatility = inner.signature().volatility;
        Guard {
            inner,
            signature: Signature::user_defined(volatility),
            sink,
        }
    }

    fn report(&self, report: &Report, count: u64) {
        if let Some(sink) = &self.sink {
            sink.compute_error(report, count);
        }
    }

    /// Runs row by row, NULL where a row raises.
    fn row_by_row(&self, args: &ScalarFunctionArgs) -> Result<ColumnarValue> {
        let ty = args.return_field.data_type().clone();
        let scalar = args
            .args
            .iter()
            .all(|a| matches!(a, ColumnarValue::Scalar(_)));
        let rows = if scalar { 1 } else { args.number_rows };
        let mut parts: Vec<ArrayRef> = Vec::with_capacity(rows);
        let mut last: Option<(Report, u64)> = None;
        for row in 0..rows {
            let one = ScalarFunctionArgs {
                args: args
                    .args
                    .iter()
                    .map(|a| match a {
                        ColumnarValue::Array(array) => ColumnarValue::Array(array.slice(row, 1)),
                        scalar => scalar.clone(),
                    })
                    .collect(),
                arg_fields: args.arg_fields.clone(),
                number_rows: 1,
                return_field: Arc::clone(&args.return_field),
                config_options: Arc::clone(&args.config_options),
            };
            match self
                .inner
                .invoke_with_args(one)
                .and_then(|v| v.into_array(1))
            {
                Ok(array) => parts.push(array),
                Err(error) => {
                    let report = crate::error::classify(&error);
                    // Equal neighbours are one record with a count.
                    last = Some(match last {
                        Some((before, count)) if before == report => (before, count + 1),
                        Some((before, count)) => {
                            self.report(&before, count);
                            (report, 1)
                        }
                        None => (report, 1),
                    });
                    parts.push(new_null_array(&ty, 1));
                }
            }
        }
        if let Some((report, count)) = last {
            self.report(&report, count);
        }
        if scalar {
            return Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(
                &parts[0], 0,
            )?));
        }
        if parts.is_empty() {
            return Ok(ColumnarValue::Array(new_null_array(&ty, 0)));
        }
        let refs: Vec<&dyn Array> = parts.iter().map(|p| p.as_ref()).collect();
        Ok(ColumnarValue::Array(concat(&refs)?))
    }
}

impl ScalarUDFImpl for Guard {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn schema_name(&self, args: &[Expr]) -> Result<String> {
        self.inner.schema_name(args)
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, arg_types: &[DataType]) -> Result<Vec<DataType>> {
        Ok(arg_types.to_vec())
    }

    fn return_type(&self, arg_types: &[DataType]) -> Result<DataType> {
        self.inner.return_type(arg_types)
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs) -> Result<FieldRef> {
        let field = self.inner.return_field_from_args(args)?;
        Ok(if field.is_nullable() {
            field
        } else {
            Arc::new(field.as_ref().clone().with_nullable(true))
        })
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        match self.inner.invoke_with_args(args.clone()) {
            Ok(value) => Ok(value),
            Err(_) => self.row_by_row(&args),
        }
    }
}

fn guard_of(call: &ScalarFunction) -> Option<&Guard> {
    let inner: &dyn std::any::Any = call.func.inner().as_ref();
    inner.downcast_ref::<Guard>()
}

/// The function of ours behind a call, guarded or not.
pub(crate) fn shown(call: &ScalarFunction) -> Option<&Native> {
    if let Some(native) = native_of(call) {
        return Some(native);
    }
    let guard = guard_of(call)?;
    let inner: &dyn std::any::Any = guard.inner.inner().as_ref();
    inner.downcast_ref::<Native>()
}

/// True for a shape EXPLAIN prints without parentheses of its own.
pub(crate) fn is_infix(call: &ScalarFunction) -> bool {
    shown(call).is_some_and(|n| n.shape == Shape::Infix)
}

/// Wraps everything that can fail.
pub(crate) fn apply(plan: LogicalPlan) -> Result<LogicalPlan> {
    super::expressions(plan, &|expr| {
        let Expr::ScalarFunction(call) = &expr else {
            return Ok(Transformed::no(expr));
        };
        let safe = match native_of(call) {
            Some(native) => !native.fallible,
            None => guard_of(call).is_some(),
        };
        // A function without arguments cannot fail on a row, and an empty call has no types to keep.
        if safe || call.args.is_empty() {
            return Ok(Transformed::no(expr));
        }
        let guard = Guard::new(Arc::clone(&call.func), None);
        Ok(Transformed::yes(Expr::ScalarFunction(
            ScalarFunction::new_udf(Arc::new(ScalarUDF::from(guard)), call.args.clone()),
        )))
    })
}

/// Gives every guard its sink.
pub(crate) fn bind(plan: LogicalPlan, sink: &Arc<dyn ErrorSink>) -> Result<LogicalPlan> {
    super::expressions(plan, &|expr| {
        let Expr::ScalarFunction(call) = &expr else {
            return Ok(Transformed::no(expr));
        };
        let Some(guard) = guard_of(call) else {
            return Ok(Transformed::no(expr));
        };
        let bound = Guard::new(Arc::clone(&guard.inner), Some(Arc::clone(sink)));
        Ok(Transformed::yes(Expr::ScalarFunction(
            ScalarFunction::new_udf(Arc::new(ScalarUDF::from(bound)), call.args.clone()),
        )))
    })
}
