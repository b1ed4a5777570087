//! One scalar function type for every function and operator of ours: a name, its types and a kernel.
//!
//! Invariant: a `Native` is resolved, so its argument types are exact; a kernel that can fail says so in `fallible`.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef};
use datafusion::arrow::compute::can_cast_types;
use datafusion::arrow::datatypes::{DataType, FieldRef};
use datafusion::common::{DataFusionError, Result, ScalarValue};
use datafusion::logical_expr::{
    ColumnarValue, Expr, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature,
    Volatility, expr::ScalarFunction,
};
use thalweg_catalog::SqlType;

/// How a function is written in EXPLAIN.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Shape {
    /// `name(a, b)`
    Call,
    /// `a name b`
    Infix,
    /// `name a`
    Prefix,
    /// `a::type`
    Cast,
}

/// What a kernel sees of one call.
#[derive(Debug)]
pub(crate) struct Call<'a> {
    /// Arguments, scalars unexpanded.
    pub(crate) args: &'a [ColumnarValue],
    /// Their SQL types.
    pub(crate) types: &'a [SqlType],
    /// Result type.
    pub(crate) ret: &'a SqlType,
    /// Session time zone at bind time.
    pub(crate) time_zone: &'a str,
    /// Rows in the result.
    pub(crate) rows: usize,
}

impl Call<'_> {
    /// Argument `i` as an array of the call's length.
    pub(crate) fn array(&self, i: usize) -> Result<ArrayRef> {
        match self.args.get(i) {
            Some(ColumnarValue::Array(array)) => Ok(Arc::clone(array)),
            Some(ColumnarValue::Scalar(scalar)) => scalar.to_array_of_size(self.rows),
            None => Err(DataFusionError::Internal(format!(
                "argument {i} is missing"
            ))),
        }
    }
}

/// The code of a function.
pub(crate) type Kernel = fn(&Call<'_>) -> Result<ArrayRef>;

/// A resolved function of ours.
#[derive(Debug, Clone)]
pub(crate) struct Native {
    /// Name or operator symbol.
    pub(crate) name: String,
    /// How it prints.
    pub(crate) shape: Shape,
    /// Argument types.
    pub(crate) types: Vec<SqlType>,
    /// Result type.
    pub(crate) ret: SqlType,
    /// Session time zone at bind time; empty where it does not matter.
    pub(crate) time_zone: String,
    /// Whether some row can make it fail.
    pub(crate) fallible: bool,
    /// Whether two calls may differ.
    pub(crate) volatility: Volatility,
    /// Its code.
    pub(crate) kernel: Kernel,
    signature: Signature,
}

impl PartialEq for Native {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
            && self.shape == other.shape
            && self.types == other.types
            && self.ret == other.ret
            && self.time_zone == other.time_zone
    }
}

impl Eq for Native {}

impl Hash for Native {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.name.hash(state);
        self.types.hash(state);
        self.ret.hash(state);
        self.time_zone.hash(state);
    }
}

impl Native {
    pub(crate) fn new(
        name: impl Into<String>,
        types: Vec<SqlType>,
        ret: SqlType,
        kernel: Kernel,
    ) -> Native {
        let volatility = Volatility::Immutable;
        Native {
            name: name.into(),
            shape: Shape::Call,
            signature: signature(types.len(), volatility),
            types,
            ret,
            time_zone: String::new(),
            fallible: false,
            volatility,
            kernel,
        }
    }

    pub(crate) fn shape(mut self, shape: Shape) -> Native {
        self.shape = shape;
        self
    }

    pub(crate) fn fallible(mut self, fallible: bool) -> Native {
        self.fallible = fallible;
        self
    }

    pub(crate) fn in_zone(mut self, time_zone: &str) -> Native {
        self.time_zone = time_zone.to_owned();
        self
    }

    pub(crate) fn volatile(mut self, volatility: Volatility) -> Native {
        self.volatility = volatility;
        self.signature = signature(self.types.len(), volatility);
        self
    }

    /// The call of this function on `args`.
    pub(crate) fn call(self, args: Vec<Expr>) -> Expr {
        Expr::ScalarFunction(ScalarFunction::new_udf(
            Arc::new(ScalarUDF::from(self)),
            args,
        ))
    }
}

fn signature(arguments: usize, volatility: Volatility) -> Signature {
    if arguments == 0 {
        Signature::nullary(volatility)
    } else {
        Signature::user_defined(volatility)
    }
}

impl Native {
    /// The arguments in the Arrow types they were bound with, or `None` when they are. DataFusion's rules try expressions on
    /// NULLs of types of their own choosing (to turn outer joins into inner ones), and kernels downcast.
    fn held(&self, args: &[ColumnarValue]) -> Result<Option<Vec<ColumnarValue>>> {
        let agree = |(arg, ty): (&ColumnarValue, &SqlType)| arg.data_type() == ty.arrow();
        if args.iter().zip(&self.types).all(agree) {
            return Ok(None);
        }
        let mut held = Vec::with_capacity(args.len());
        for (i, arg) in args.iter().enumerate() {
            held.push(match self.types.get(i).map(SqlType::arrow) {
                Some(ty) if arg.data_type() != ty && can_cast_types(&arg.data_type(), &ty) => {
                    arg.cast_to(&ty, None)?
                }
                _ => arg.clone(),
            });
        }
        Ok(Some(held))
    }
}

impl ScalarUDFImpl for Native {
    fn name(&self) -> &str {
        &self.name
    }

    fn schema_name(&self, args: &[Expr]) -> Result<String> {
        let mut parts = Vec::with_capacity(args.len());
        for arg in args {
            parts.push(arg.schema_name().to_string());
        }
        Ok(match (self.shape, parts.as_slice()) {
            (Shape::Infix, [left, right]) => format!("({left} {} {right})", self.name),
            (Shape::Prefix, [only]) => format!("({}{only})", self.name),
            (Shape::Cast, [only]) => format!("{only}::{}", self.ret),
            _ => format!("{}({})", self.name, parts.join(", ")),
        })
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, arg_types: &[DataType]) -> Result<Vec<DataType>> {
        Ok(arg_types.to_vec())
    }

    fn return_type(&self, _arg_types: &[DataType]) -> Result<DataType> {
        Ok(self.ret.arrow())
    }

    fn return_field_from_args(&self, _args: ReturnFieldArgs) -> Result<FieldRef> {
        Ok(Arc::new(self.ret.field(&self.name, true)))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let constant = args
            .args
            .iter()
            .all(|a| matches!(a, ColumnarValue::Scalar(_)));
        let constant = constant && self.volatility != Volatility::Volatile;
        let rows = if constant { 1 } else { args.number_rows };
        let held = self.held(&args.args)?;
        let call = Call {
            args: held.as_deref().unwrap_or(&args.args),
            types: &self.types,
            ret: &self.ret,
            time_zone: &self.time_zone,
            rows,
        };
        let array = (self.kernel)(&call)?;
        if array.len() != rows {
            return Err(DataFusionError::Internal(format!(
                "function {} returned {} rows for {rows}",
                self.name,
                array.len()
            )));
        }
        if constant {
            return Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(
                &array, 0,
            )?));
        }
        Ok(ColumnarValue::Array(array))
    }
}

/// Our function behind a call, if it is one of ours.
pub(crate) fn native_of(function: &ScalarFunction) -> Option<&Native> {
    let inner: &dyn std::any::Any = function.func.inner().as_ref();
    inner.downcast_ref::<Native>()
}
