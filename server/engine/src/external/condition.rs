//! Filters of queries as conditions that connectors know.
//!
//! Invariant: a condition holds for every row that its filter selects.

use datafusion::arrow::datatypes::{DataType, Schema};
use datafusion::common::ScalarValue;
use datafusion::logical_expr::expr::InList;
use datafusion::logical_expr::utils::split_binary;
use datafusion::logical_expr::{BinaryExpr, Expr, Like, Operator};
use thalweg_connectors::{Comparison, Condition};

/// A filter as a condition on one column, if it is one.
pub(super) fn condition(filter: &Expr, schema: &Schema) -> Option<Condition> {
    match filter {
        Expr::BinaryExpr(BinaryExpr {
            op: Operator::Or, ..
        }) => either(filter, schema),
        Expr::BinaryExpr(BinaryExpr { left, op, right }) => {
            let (column, literal, op) = match (column(left, schema), column(right, schema)) {
                (Some(column), None) => (column, right, *op),
                (None, Some(column)) => (column, left, op.swap()?),
                _ => return None,
            };
            let comparison = match op {
                Operator::Eq => Comparison::Equal,
                Operator::NotEq => Comparison::NotEqual,
                Operator::Lt => Comparison::Less,
                Operator::LtEq => Comparison::LessOrEqual,
                Operator::Gt => Comparison::Greater,
                Operator::GtEq => Comparison::GreaterOrEqual,
                _ => return None,
            };
            let value = value(literal, column, schema)?.to_array().ok()?;
            Some(Condition::Compare {
                column,
                comparison,
                value,
            })
        }
        Expr::InList(InList {
            expr,
            list,
            negated: false,
        }) => {
            let column = column(expr, schema)?;
            let values: Option<Vec<ScalarValue>> = list
                .iter()
                .map(|item| value(item, column, schema))
                .collect();
            let values = ScalarValue::iter_to_array(values?).ok()?;
            Some(Condition::In { column, values })
        }
        Expr::Like(Like {
            negated: false,
            expr,
            pattern,
            escape_char: None,
            case_insensitive: false,
        }) => {
            let column = column(expr, schema)?;
            let pattern = value(pattern, column, schema)?;
            let pattern = pattern.try_as_str().flatten()?;
            let end = pattern.find(['%', '_', '\\'])?;
            let text = pattern.get(..end).filter(|text| !text.is_empty())?;
            Some(Condition::Prefix {
                column,
                text: text.to_owned(),
            })
        }
        Expr::IsNull(expr) | Expr::IsNotNull(expr) => Some(Condition::Null {
            column: column(expr, schema)?,
            is_null: matches!(filter, Expr::IsNull(_)),
        }),
        Expr::Not(expr) => truth(expr, false, schema),
        Expr::Column(_) => truth(filter, true, schema),
        _ => None,
    }
}

/// A column of truth values by itself.
fn truth(expr: &Expr, is: bool, schema: &Schema) -> Option<Condition> {
    let column = column(expr, schema)?;
    let is_bool = schema.fields().get(column)?.data_type() == &DataType::Boolean;
    let value = ScalarValue::Boolean(Some(is)).to_array().ok()?;
    is_bool.then_some(Condition::Compare {
        column,
        comparison: Comparison::Equal,
        value,
    })
}

/// A short list of values, which is written as a disjunction of equalities.
fn either(filter: &Expr, schema: &Schema) -> Option<Condition> {
    let (mut of, mut values) = (None, Vec::new());
    for part in split_binary(filter, Operator::Or) {
        let Expr::BinaryExpr(BinaryExpr {
            left,
            op: Operator::Eq,
            right,
        }) = part
        else {
            return None;
        };
        let (at, literal) = match (column(left, schema), column(right, schema)) {
            (Some(at), None) => (at, right),
            (None, Some(at)) => (at, left),
            _ => return None,
        };
        if *of.get_or_insert(at) != at {
            return None;
        }
        values.push(value(literal, at, schema)?);
    }
    Some(Condition::In {
        column: of?,
        values: ScalarValue::iter_to_array(values).ok()?,
    })
}

fn column(expr: &Expr, schema: &Schema) -> Option<usize> {
    match expr {
        Expr::Column(column) => schema.index_of(&column.name).ok(),
        _ => None,
    }
}

/// A literal as a value of the column's type, when it is one exactly.
fn value(expr: &Expr, column: usize, schema: &Schema) -> Option<ScalarValue> {
    let Expr::Literal(literal, _) = expr else {
        return None;
    };
    let wanted = schema.fields().get(column)?.data_type();
    let cast = literal.cast_to(wanted).ok()?;
    let back = cast.cast_to(&literal.data_type()).ok()?;
    (back == *literal).then_some(cast)
}
