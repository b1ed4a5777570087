//! Literals: numbers, unknown-typed strings and parameters taking the type their context gives.
//!
//! Invariant: a literal of a known type is one `Expr::Literal`; nothing is left to fold later.

use datafusion::common::metadata::FieldMetadata;
use datafusion::common::{Result, ScalarValue};
use datafusion::logical_expr::Expr;
use thalweg_catalog::SqlType;

use crate::error::raise;
use crate::functions::cast::cast_scalar;
use crate::functions::decimal;
use crate::types::numeric;

/// int4, int8 or numeric, by the spelling alone.
pub(crate) fn number_type(text: &str) -> SqlType {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let whole = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    if whole && text.parse::<i32>().is_ok() {
        SqlType::Int4
    } else if whole && text.parse::<i64>().is_ok() {
        SqlType::Int8
    } else {
        numeric(decimal::literal_scale(digits))
    }
}

/// The literal a number stands for.
pub(crate) fn number(text: &str) -> Result<Expr> {
    let ty = number_type(text);
    let value = match &ty {
        SqlType::Int4 => ScalarValue::Int32(text.parse().ok()),
        SqlType::Int8 => ScalarValue::Int64(text.parse().ok()),
        other => {
            let scale = crate::types::scale_of(other);
            let value = decimal::parse(text, scale).map_err(|e| match e {
                decimal::Malformed::Range => raise("22003", "value overflows numeric format"),
                decimal::Malformed::Syntax => raise("42601", format!("invalid number \"{text}\"")),
            })?;
            ScalarValue::Decimal128(Some(value), 38, scale)
        }
    };
    Ok(typed(value, &ty))
}

/// A literal that remembers its SQL type.
pub(crate) fn typed(value: ScalarValue, ty: &SqlType) -> Expr {
    let metadata = ty.metadata();
    if metadata.is_empty() {
        return Expr::Literal(value, None);
    }
    Expr::Literal(
        value,
        Some(FieldMetadata::from(
            metadata
                .into_iter()
                .collect::<std::collections::BTreeMap<_, _>>(),
        )),
    )
}

/// A typed NULL.
pub(crate) fn null(ty: &SqlType) -> Result<Expr> {
    Ok(typed(ScalarValue::try_from(&ty.arrow())?, ty))
}

/// An untyped literal read as `ty`.
pub(crate) fn resolve(
    value: &ScalarValue,
    ty: &SqlType,
    zone: &str,
    assignment: bool,
) -> Result<Expr> {
    if value.is_null() {
        return null(ty);
    }
    Ok(typed(
        cast_scalar(value, &SqlType::Unknown, ty, zone, assignment)?,
        ty,
    ))
}
