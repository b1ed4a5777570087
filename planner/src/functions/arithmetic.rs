//! Checked arithmetic: `+ - * / %`, unary minus and the rounding functions, with Postgres' results and errors.
//!
//! Invariant: nothing wraps and nothing becomes infinite: overflow is 22003 and division by zero 22012 on every type.

use std::sync::Arc;

use datafusion::arrow::array::{
    Array, ArrayRef, ArrowPrimitiveType, AsArray, Datum, PrimitiveArray, Scalar,
};
use datafusion::arrow::compute::kernels::numeric as arrow_numeric;
use datafusion::arrow::datatypes::{
    Decimal128Type, Float32Type, Float64Type, Int16Type, Int32Type, Int64Type,
};
use datafusion::arrow::error::ArrowError;
use datafusion::common::{DataFusionError, Result};
use datafusion::logical_expr::ColumnarValue;
use thalweg_catalog::SqlType;

use super::cast::{map_primitive, out_of_range};
use super::decimal;
use super::native::{Call, Kernel, Native, Shape};
use crate::error::raise;
use crate::types::{BARE_SCALE, is_integer, numeric, scale_of};

/// The operator on two numbers of types that arithmetic already agreed on; `None` when it has none.
pub(crate) fn operator(symbol: &str, left: &SqlType, right: &SqlType) -> Option<Native> {
    let both_numeric = matches!(
        (left, right),
        (SqlType::Numeric { .. }, SqlType::Numeric { .. })
    );
    if !both_numeric && left != right {
        return None;
    }
    let (kernel, ret): (Kernel, SqlType) = if both_numeric {
        let (a, b) = (scale_of(left), scale_of(right));
        let wide = a.max(b);
        match symbol {
            "+" => (decimal_add, numeric(wide)),
            "-" => (decimal_subtract, numeric(wide)),
            // The full scale of a product would leave no room for its whole part after a few factors.
            "*" => (decimal_multiply, numeric((a + b).min(wide.max(BARE_SCALE)))),
            "/" => (decimal_divide, numeric(wide.max(BARE_SCALE))),
            "%" => (decimal_remainder, numeric(wide)),
            _ => return None,
        }
    } else {
        let float = matches!(left, SqlType::Float4 | SqlType::Float8);
        if !float && !is_integer(left) {
            return None;
        }
        let kernel: Kernel = match symbol {
            "+" => |c| binary(c, arrow_numeric::add),
            "-" => |c| binary(c, arrow_numeric::sub),
            "*" => |c| binary(c, arrow_numeric::mul),
            "/" if float => float_divide,
            "/" => |c| binary(c, arrow_numeric::div),
            "%" if !float => integer_remainder,
            _ => return None,
        };
        (kernel, left.clone())
    };
    Some(
        Native::new(symbol, vec![left.clone(), right.clone()], ret, kernel)
            .shape(Shape::Infix)
            .fallible(true),
    )
}

type ArrowOperation = fn(&dyn Datum, &dyn Datum) -> std::result::Result<ArrayRef, ArrowError>;

/// Runs an Arrow kernel with scalars unexpanded.
fn binary(call: &Call<'_>, operation: ArrowOperation) -> Result<ArrayRef> {
    let all_scalar = call
        .args
        .iter()
        .all(|a| matches!(a, ColumnarValue::Scalar(_)));
    let datum = |i: usize| -> Result<Box<dyn Datum>> {
        match &call.args[i] {
            ColumnarValue::Scalar(s) if !all_scalar => {
                Ok(Box::new(Scalar::new(s.to_array_of_size(1)?)))
            }
            _ => Ok(Box::new(call.array(i)?)),
        }
    };
    let (left, right) = (datum(0)?, datum(1)?);
    let out =
        operation(left.as_ref(), right.as_ref()).map_err(|e| arithmetic_error(e, call.ret))?;
    check_finite(&out, call)?;
    Ok(out)
}

fn arithmetic_error(error: ArrowError, ty: &SqlType) -> DataFusionError {
    match error {
        ArrowError::DivideByZero => raise("22012", "division by zero"),
        ArrowError::ArithmeticOverflow(_) => out_of_range(ty),
        other => other.into(),
    }
}

/// A float result is infinite only when an operand was.
fn check_finite(out: &ArrayRef, call: &Call<'_>) -> Result<()> {
    fn infinite<T: ArrowPrimitiveType>(array: &dyn Array, test: fn(T::Native) -> bool) -> bool {
        array.as_primitive::<T>().iter().flatten().any(test)
    }
    let any = |array: &ArrayRef| match call.ret {
        SqlType::Float4 => infinite::<Float32Type>(array, f32::is_infinite),
        SqlType::Float8 => infinite::<Float64Type>(array, f64::is_infinite),
        _ => false,
    };
    if !any(out) {
        return Ok(());
    }
    let mut operands = Vec::new();
    for i in 0..call.args.len() {
        let array = call.array(i)?;
        operands.push(datafusion::arrow::compute::cast(
            &array,
            &datafusion::arrow::datatypes::DataType::Float64,
        )?);
    }
    let wide =
        datafusion::arrow::compute::cast(out, &datafusion::arrow::datatypes::DataType::Float64)?;
    let wide = wide.as_primitive::<Float64Type>();
    for i in 0..wide.len() {
        let was = operands
            .iter()
            .any(|o| o.is_valid(i) && o.as_primitive::<Float64Type>().value(i).is_infinite());
        if wide.is_valid(i) && wide.value(i).is_infinite() && !was {
            return Err(raise("22003", "value out of range: overflow"));
        }
    }
    Ok(())
}

fn float_divide(call: &Call<'_>) -> Result<ArrayRef> {
    let (dividend, divisor) = (call.array(0)?, call.array(1)?);
    let zero = |i: usize| match call.ret {
        SqlType::Float4 => divisor.as_primitive::<Float32Type>().value(i) == 0.0,
        _ => divisor.as_primitive::<Float64Type>().value(i) == 0.0,
    };
    if (0..divisor.len()).any(|i| divisor.is_valid(i) && dividend.is_valid(i) && zero(i)) {
        return Err(raise("22012", "division by zero"));
    }
    binary(call, arrow_numeric::div)
}

fn integer_remainder(call: &Call<'_>) -> Result<ArrayRef> {
    fn rem<T: ArrowPrimitiveType>(
        call: &Call<'_>,
        f: fn(T::Native, T::Native) -> Option<T::Native>,
    ) -> Result<ArrayRef> {
        let (a, b) = (call.array(0)?, call.array(1)?);
        let (a, b) = (a.as_primitive::<T>(), b.as_primitive::<T>());
        let out: PrimitiveArray<T> = datafusion::arrow::compute::try_binary(a, b, |x, y| {
            f(x, y).ok_or(ArrowError::DivideByZero)
        })
        .map_err(|e| arithmetic_error(e, call.ret))?;
        Ok(Arc::new(out))
    }
    // The smallest value modulo -1 is 0, which the plain operator would call an overflow.
    match call.ret {
        SqlType::Int2 => rem::<Int16Type>(call, |x, y| {
            if y == 0 {
                None
            } else {
                Some(x.wrapping_rem(y))
            }
        }),
        SqlType::Int4 => rem::<Int32Type>(call, |x, y| {
            if y == 0 {
                None
            } else {
                Some(x.wrapping_rem(y))
            }
        }),
        _ => rem::<Int64Type>(call, |x, y| {
            if y == 0 {
                None
            } else {
                Some(x.wrapping_rem(y))
            }
        }),
    }
}

fn decimals<F>(call: &Call<'_>, f: F) -> Result<ArrayRef>
where
    F: Fn(i128, i128) -> Result<i128>,
{
    let (a, b) = (call.array(0)?, call.array(1)?);
    let (a, b) = (
        a.as_primitive::<Decimal128Type>(),
        b.as_primitive::<Decimal128Type>(),
    );
    let mut values = Vec::with_capacity(a.len());
    for i in 0..a.len() {
        values.push(if a.is_valid(i) && b.is_valid(i) {
            Some(f(a.value(i), b.value(i))?)
        } else {
            None
        });
    }
    Ok(Arc::new(
        PrimitiveArray::<Decimal128Type>::from_iter(values).with_data_type(call.ret.arrow()),
    ))
}

fn overflow() -> DataFusionError {
    raise("22003", "numeric field overflow")
}

fn aligned(call: &Call<'_>, f: fn(i128, i128) -> Option<i128>) -> Result<ArrayRef> {
    let (a, b, out) = (
        scale_of(&call.types[0]),
        scale_of(&call.types[1]),
        scale_of(call.ret),
    );
    decimals(call, |x, y| {
        let x = decimal::rescale(x, a, out).ok_or_else(overflow)?;
        let y = decimal::rescale(y, b, out).ok_or_else(overflow)?;
        f(x, y)
            .filter(|v| v.abs() < decimal::LIMIT)
            .ok_or_else(overflow)
    })
}

fn decimal_add(call: &Call<'_>) -> Result<ArrayRef> {
    aligned(call, i128::checked_add)
}

fn decimal_subtract(call: &Call<'_>) -> Result<ArrayRef> {
    aligned(call, i128::checked_sub)
}

fn decimal_multiply(call: &Call<'_>) -> Result<ArrayRef> {
    let (a, b, out) = (
        scale_of(&call.types[0]),
        scale_of(&call.types[1]),
        scale_of(call.ret),
    );
    decimals(call, |x, y| {
        decimal::multiply(x, a, y, b, out).ok_or_else(overflow)
    })
}

fn decimal_divide(call: &Call<'_>) -> Result<ArrayRef> {
    let (a, b, out) = (
        scale_of(&call.types[0]),
        scale_of(&call.types[1]),
        scale_of(call.ret),
    );
    decimals(call, |x, y| {
        if y == 0 {
            return Err(raise("22012", "division by zero"));
        }
        decimal::divide(x, a, y, b, out).ok_or_else(overflow)
    })
}

fn decimal_remainder(call: &Call<'_>) -> Result<ArrayRef> {
    let (a, b, out) = (
        scale_of(&call.types[0]),
        scale_of(&call.types[1]),
        scale_of(call.ret),
    );
    decimals(call, |x, y| {
        let x = decimal::rescale(x, a, out).ok_or_else(overflow)?;
        let y = decimal::rescale(y, b, out).ok_or_else(overflow)?;
        if y == 0 {
            return Err(raise("22012", "division by zero"));
        }
        Ok(x % y)
    })
}

/// `-x`
pub(crate) fn negate(ty: &SqlType) -> Option<Native> {
    let kernel: Kernel = match ty {
        SqlType::Int2
        | SqlType::Int4
        | SqlType::Int8
        | SqlType::Float4
        | SqlType::Float8
        | SqlType::Numeric { .. }
        | SqlType::Interval => {
            |c| arrow_numeric::neg(&c.array(0)?).map_err(|e| arithmetic_error(e, c.ret))
        }
        _ => return None,
    };
    Some(
        Native::new("-", vec![ty.clone()], ty.clone(), kernel)
            .shape(Shape::Prefix)
            .fallible(is_integer(ty)),
    )
}

fn absolute(call: &Call<'_>) -> Result<ArrayRef> {
    let array = call.array(0)?;
    let arrow = call.ret.arrow();
    let bad = || out_of_range(call.ret);
    match call.ret {
        SqlType::Int2 => map_primitive::<Int16Type, Int16Type, _>(&array, &arrow, |v| {
            v.checked_abs().ok_or_else(bad)
        }),
        SqlType::Int4 => map_primitive::<Int32Type, Int32Type, _>(&array, &arrow, |v| {
            v.checked_abs().ok_or_else(bad)
        }),
        SqlType::Int8 => map_primitive::<Int64Type, Int64Type, _>(&array, &arrow, |v| {
            v.checked_abs().ok_or_else(bad)
        }),
        SqlType::Float4 => {
            map_primitive::<Float32Type, Float32Type, _>(&array, &arrow, |v| Ok(v.abs()))
        }
        SqlType::Float8 => {
            map_primitive::<Float64Type, Float64Type, _>(&array, &arrow, |v| Ok(v.abs()))
        }
        _ => map_primitive::<Decimal128Type, Decimal128Type, _>(&array, &arrow, |v| Ok(v.abs())),
    }
}

fn sign(call: &Call<'_>) -> Result<ArrayRef> {
    let array = call.array(0)?;
    let arrow = call.ret.arrow();
    if matches!(call.ret, SqlType::Float8) {
        return map_primitive::<Float64Type, Float64Type, _>(&array, &arrow, |v| {
            Ok(if v > 0.0 {
                1.0
            } else if v < 0.0 {
                -1.0
            } else {
                0.0
            })
        });
    }
    map_primitive::<Decimal128Type, Decimal128Type, _>(&array, &arrow, |v| Ok(v.signum()))
}

/// How a value loses its places.
#[derive(Clone, Copy)]
enum Rounding {
    Half,
    Truncate,
    Up,
    Down,
}

fn round_decimal(value: i128, scale: i8, places: i32, how: Rounding) -> Option<i128> {
    let drop = i32::from(scale) - places;
    if drop <= 0 {
        return Some(value);
    }
    if drop > 38 {
        return Some(0);
    }
    let unit = decimal::power(drop.unsigned_abs());
    let kept = match how {
        Rounding::Half => decimal::divide_rounded(value, unit),
        Rounding::Truncate => value / unit,
        Rounding::Up => -(-value).div_euclid(unit),
        Rounding::Down => value.div_euclid(unit),
    };
    kept.checked_mul(unit).filter(|v| v.abs() < decimal::LIMIT)
}

fn rounding(call: &Call<'_>, how: Rounding) -> Result<ArrayRef> {
    let array = call.array(0)?;
    let arrow = call.ret.arrow();
    if matches!(call.ret, SqlType::Float8) {
        return map_primitive::<Float64Type, Float64Type, _>(&array, &arrow, |v| {
            Ok(match how {
                Rounding::Half => v.round_ties_even(),
                Rounding::Truncate => v.trunc(),
                Rounding::Up => v.ceil(),
                Rounding::Down => v.floor(),
            })
        });
    }
    let (from, to) = (scale_of(&call.types[0]), scale_of(call.ret));
    let places = if call.args.len() > 1 {
        Some(call.array(1)?)
    } else {
        None
    };
    let values = array.as_primitive::<Decimal128Type>();
    let mut out = Vec::with_capacity(values.len());
    for i in 0..values.len() {
        let places = match &places {
            Some(p) if p.is_null(i) => None,
            Some(p) => Some(p.as_primitive::<Int32Type>().value(i)),
            None => Some(0),
        };
        out.push(match places {
            Some(places) if values.is_valid(i) => {
                let rounded =
                    round_decimal(values.value(i), from, places, how).ok_or_else(overflow)?;
                Some(decimal::rescale(rounded, from, to).ok_or_else(overflow)?)
            }
            _ => None,
        });
    }
    Ok(Arc::new(
        PrimitiveArray::<Decimal128Type>::from_iter(out).with_data_type(arrow),
    ))
}

/// abs, sign, round, trunc, ceil, floor over a number type that the binder has chosen; `constant_places` is round's
/// second argument when it is a literal, which fixes the result's scale.
pub(crate) fn rounding_function(
    name: &str,
    types: &[SqlType],
    constant_places: Option<i32>,
) -> Option<Native> {
    let first = types.first()?;
    let kernel: Kernel = match name {
        "abs" => absolute,
        "sign" => sign,
        "round" => |c| rounding(c, Rounding::Half),
        "trunc" => |c| rounding(c, Rounding::Truncate),
        "ceil" | "ceiling" => |c| rounding(c, Rounding::Up),
        "floor" => |c| rounding(c, Rounding::Down),
        _ => return None,
    };
    let ret = match (name, first) {
        ("round" | "trunc", SqlType::Numeric { .. }) if types.len() == 2 => match constant_places {
            Some(places) => {
                numeric(i8::try_from(places.clamp(0, i32::from(scale_of(first)))).unwrap_or(0))
            }
            None => numeric(scale_of(first)),
        },
        ("round" | "trunc" | "ceil" | "ceiling" | "floor" | "sign", SqlType::Numeric { .. }) => {
            numeric(0)
        }
        ("abs", SqlType::Numeric { .. }) => numeric(scale_of(first)),
        _ => first.clone(),
    };
    if name == "sign" && is_integer(first) {
        return None;
    }
    let fallible = name == "abs" && is_integer(first)
        || matches!(first, SqlType::Numeric { .. }) && name != "abs";
    Some(Native::new(name, types.to_vec(), ret, kernel).fallible(fallible))
}

fn bitwise(call: &Call<'_>, f: fn(i64, i64) -> i64) -> Result<ArrayRef> {
    let wide = |i: usize| -> Result<ArrayRef> {
        Ok(datafusion::arrow::compute::cast(
            &call.array(i)?,
            &datafusion::arrow::datatypes::DataType::Int64,
        )?)
    };
    let (a, b) = (wide(0)?, wide(1)?);
    let out: PrimitiveArray<Int64Type> = datafusion::arrow::compute::binary(
        a.as_primitive::<Int64Type>(),
        b.as_primitive::<Int64Type>(),
        f,
    )?;
    // Shifting an int4 drops the bits that leave it, as in Postgres.
    let arrow = call.ret.arrow();
    match call.ret {
        SqlType::Int2 => {
            map_primitive::<Int64Type, Int16Type, _>(&(Arc::new(out) as ArrayRef), &arrow, |v| {
                Ok(v as i16)
            })
        }
        SqlType::Int4 => {
            map_primitive::<Int64Type, Int32Type, _>(&(Arc::new(out) as ArrayRef), &arrow, |v| {
                Ok(v as i32)
            })
        }
        _ => Ok(Arc::new(out)),
    }
}

/// `& | # << >>` on integers.
pub(crate) fn bit_operator(symbol: &str, left: &SqlType, right: &SqlType) -> Option<Native> {
    let kernel: Kernel = match symbol {
        "&" => |c| bitwise(c, |a, b| a & b),
        "|" => |c| bitwise(c, |a, b| a | b),
        "#" => |c| bitwise(c, |a, b| a ^ b),
        "<<" => |c| bitwise(c, |a, b| a.wrapping_shl((b & 63) as u32)),
        ">>" => |c| bitwise(c, |a, b| a.wrapping_shr((b & 63) as u32)),
        _ => return None,
    };
    Some(
        Native::new(
            symbol,
            vec![left.clone(), right.clone()],
            left.clone(),
            kernel,
        )
        .shape(Shape::Infix),
    )
}

fn float_unary(call: &Call<'_>, f: impl Fn(f64) -> Result<f64>) -> Result<ArrayRef> {
    map_primitive::<Float64Type, Float64Type, _>(&call.array(0)?, &SqlType::Float8.arrow(), |v| {
        let out = f(v)?;
        if out.is_infinite() && v.is_finite() {
            return Err(raise("22003", "value out of range: overflow"));
        }
        Ok(out)
    })
}

fn logarithm(call: &Call<'_>, f: fn(f64) -> f64) -> Result<ArrayRef> {
    float_unary(call, |v| {
        if v == 0.0 {
            Err(raise("2201E", "cannot take logarithm of zero"))
        } else if v < 0.0 {
            Err(raise("2201E", "cannot take logarithm of a negative number"))
        } else {
            Ok(f(v))
        }
    })
}

fn float_power(call: &Call<'_>) -> Result<ArrayRef> {
    let (a, b) = (call.array(0)?, call.array(1)?);
    let out: PrimitiveArray<Float64Type> = datafusion::arrow::compute::try_binary(
        a.as_primitive::<Float64Type>(),
        b.as_primitive::<Float64Type>(),
        |x, y| {
            if x == 0.0 && y < 0.0 {
                return Err(ArrowError::ExternalError(Box::new(crate::error::report(
                    "2201F",
                    "zero raised to a negative power is undefined",
                ))));
            }
            if x < 0.0 && y.fract() != 0.0 {
                return Err(ArrowError::ExternalError(Box::new(crate::error::report(
                    "2201F",
                    "a negative number raised to a non-integer power yields a complex result",
                ))));
            }
            let out = x.powf(y);
            if out.is_infinite() && x.is_finite() && y.is_finite() {
                return Err(ArrowError::ArithmeticOverflow(String::new()));
            }
            Ok(out)
        },
    )
    .map_err(|e| arithmetic_error(e, call.ret))?;
    Ok(Arc::new(out))
}

/// sqrt, ln, log, exp and power over doubles.
pub(crate) fn float_function(name: &str, arguments: usize) -> Option<Native> {
    let kernel: Kernel = match (name, arguments) {
        ("sqrt", 1) => |c| {
            float_unary(c, |v| {
                if v < 0.0 {
                    Err(raise(
                        "2201F",
                        "cannot take square root of a negative number",
                    ))
                } else {
                    Ok(v.sqrt())
                }
            })
        },
        ("ln", 1) => |c| logarithm(c, f64::ln),
        ("log" | "log10", 1) => |c| logarithm(c, f64::log10),
        ("exp", 1) => |c| float_unary(c, |v| Ok(v.exp())),
        ("power" | "pow" | "^", 2) => float_power,
        _ => return None,
    };
    Some(
        Native::new(
            name,
            vec![SqlType::Float8; arguments],
            SqlType::Float8,
            kernel,
        )
        .fallible(true),
    )
}
