//! The type of an expression, and which types convert to which, as in Postgres.
//!
//! Invariant: after binding every expression has the Arrow type its SQL type derives, so later passes never coerce.

use datafusion::arrow::datatypes::{DataType, Field};
use datafusion::common::{DFSchema, Result, ScalarValue};
use datafusion::logical_expr::{Expr, ExprSchemable};
use thalweg_catalog::SqlType;

/// Who asks for a conversion.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Conversion {
    /// An operator or function argument.
    Implicit,
    /// A target column of INSERT or UPDATE.
    Assignment,
    /// `CAST`.
    Explicit,
}

/// Scale that bare numeric is held at.
pub(crate) const BARE_SCALE: i8 = 10;

/// Numeric without a typmod, held at `scale`.
pub(crate) fn numeric(scale: i8) -> SqlType {
    SqlType::Numeric {
        declared: None,
        held_scale: scale,
    }
}

/// The SQL type of a field, unsigned integers of window functions read as Postgres' bigint.
pub(crate) fn field_type(field: &Field) -> SqlType {
    match field.data_type() {
        DataType::UInt64 => SqlType::Int8,
        DataType::FixedSizeBinary(16) => SqlType::Uuid,
        DataType::Decimal128(_, scale) => match SqlType::from_field(field) {
            SqlType::Numeric {
                declared: Some(_), ..
            } if !field.metadata().contains_key("thalweg.type") => numeric(*scale),
            other => other,
        },
        _ => SqlType::from_field(field),
    }
}

/// True for an expression whose type its context decides.
pub(crate) fn is_unknown(expr: &Expr) -> bool {
    match expr {
        Expr::Literal(ScalarValue::Null | ScalarValue::Utf8(_), None) => true,
        Expr::Placeholder(p) => p.field.is_none(),
        Expr::Alias(alias) if alias.metadata.is_none() => is_unknown(&alias.expr),
        _ => false,
    }
}

/// The SQL type of an expression; [`SqlType::Unknown`] for untyped literals and parameters.
pub(crate) fn type_of(expr: &Expr, schema: &DFSchema) -> Result<SqlType> {
    if is_unknown(expr) {
        return Ok(SqlType::Unknown);
    }
    let (_, field) = expr.to_field(schema)?;
    Ok(field_type(&field))
}

/// Scale a numeric is held at.
pub(crate) fn scale_of(ty: &SqlType) -> i8 {
    match ty {
        SqlType::Numeric {
            declared: Some((_, scale)),
            ..
        } => *scale,
        SqlType::Numeric {
            declared: None,
            held_scale,
        } => *held_scale,
        _ => 0,
    }
}

/// Place in the numeric tower; `None` for other types.
pub(crate) fn numeric_rank(ty: &SqlType) -> Option<u8> {
    Some(match ty {
        SqlType::Int2 => 1,
        SqlType::Int4 => 2,
        SqlType::Int8 => 3,
        SqlType::Numeric { .. } => 4,
        SqlType::Float4 => 5,
        SqlType::Float8 => 6,
        _ => return None,
    })
}

/// int2, int4 or int8.
pub(crate) fn is_integer(ty: &SqlType) -> bool {
    matches!(ty, SqlType::Int2 | SqlType::Int4 | SqlType::Int8)
}

/// text and its kin.
pub(crate) fn is_text(ty: &SqlType) -> bool {
    matches!(
        ty,
        SqlType::Text
            | SqlType::Varchar(_)
            | SqlType::Char(_)
            | SqlType::Name
            | SqlType::InternalChar
    )
}

fn is_oid(ty: &SqlType) -> bool {
    matches!(ty, SqlType::Oid | SqlType::Reg(_))
}

/// The type without its typmod: what an operator sees.
pub(crate) fn base(ty: &SqlType) -> SqlType {
    match ty {
        SqlType::Varchar(_) => SqlType::Varchar(None),
        SqlType::Numeric { .. } => numeric(scale_of(ty)),
        other => other.clone(),
    }
}

/// Whether `from` converts to `to` in the given situation.
pub(crate) fn convertible(from: &SqlType, to: &SqlType, by: Conversion) -> bool {
    use SqlType as T;
    if from == to || matches!(from, T::Unknown) {
        return true;
    }
    if let (Some(a), Some(b)) = (numeric_rank(from), numeric_rank(to)) {
        return a <= b || by >= Conversion::Assignment;
    }
    if is_text(from) && is_text(to) {
        return true;
    }
    let implicit = match (from, to) {
        (T::Date, T::Timestamp | T::Timestamptz)
        | (T::Timestamp, T::Timestamptz)
        | (T::Time, T::Interval) => true,
        (a, b)
            if (is_integer(a) || is_oid(a)) && (is_oid(b) || matches!(b, T::Int8) && is_oid(a)) =>
        {
            true
        }
        (T::Array(a), T::Array(b)) => return convertible(a, b, by),
        (T::Struct(a), T::Struct(b)) => {
            return a.len() == b.len() && a.iter().zip(b).all(|(x, y)| convertible(&x.1, &y.1, by));
        }
        _ => false,
    };
    if implicit || by == Conversion::Implicit {
        return implicit;
    }
    let assignment = is_text(to)
        || matches!(
            (from, to),
            (T::Timestamptz, T::Timestamp | T::Date | T::Time)
                | (T::Timestamp, T::Date | T::Time)
                | (T::Interval, T::Time)
                | (T::Json, T::Jsonb)
                | (T::Jsonb, T::Json)
        )
        || (is_oid(from) && matches!(to, T::Int4 | T::Int8));
    if assignment || by == Conversion::Assignment {
        return assignment;
    }
    is_text(from)
        || matches!(
            (from, to),
            (T::Bool, T::Int4) | (T::Int4, T::Bool) | (T::Int8 | T::Int2, T::Bool)
        )
        || matches!((from, to), (T::Jsonb | T::Json, b) if numeric_rank(b).is_some() || matches!(b, T::Bool))
        || matches!((from, to), (T::Text | T::Varchar(_), _))
}

/// The one type that values of all `types` take in CASE, UNION, VALUES, COALESCE, IN and ARRAY; `None` when they do not match.
pub(crate) fn unify(types: &[SqlType]) -> std::result::Result<SqlType, (SqlType, SqlType)> {
    let mut chosen: Option<SqlType> = None;
    for ty in types.iter().filter(|t| !matches!(t, SqlType::Unknown)) {
        chosen = Some(match chosen {
            None => ty.clone(),
            Some(current) => wider(&current, ty).ok_or((current, ty.clone()))?,
        });
    }
    Ok(chosen.unwrap_or(SqlType::Text))
}

fn wider(a: &SqlType, b: &SqlType) -> Option<SqlType> {
    use SqlType as T;
    if a == b {
        return Some(a.clone());
    }
    match (a, b) {
        (T::Numeric { .. }, T::Numeric { .. }) => {
            return Some(numeric(scale_of(a).max(scale_of(b))));
        }
        (T::Varchar(_), T::Varchar(_)) => return Some(T::Varchar(None)),
        (T::Array(x), T::Array(y)) => return wider(x, y).map(|w| T::Array(Box::new(w))),
        _ => {}
    }
    if is_text(a) && is_text(b) {
        return Some(T::Text);
    }
    // Postgres takes float8 when an exact and an approximate number meet.
    if let (Some(x), Some(y)) = (numeric_rank(a), numeric_rank(b)) {
        let float4 = |t: &T| matches!(t, T::Float4);
        if float4(a) || float4(b) {
            return Some(T::Float8);
        }
        let (wide, narrow) = if x >= y { (a, b) } else { (b, a) };
        return Some(match wide {
            T::Numeric { .. } => numeric(scale_of(wide).max(scale_of(narrow))),
            other => other.clone(),
        });
    }
    if convertible(a, b, Conversion::Implicit) {
        return Some(b.clone());
    }
    if convertible(b, a, Conversion::Implicit) {
        return Some(a.clone());
    }
    None
}
