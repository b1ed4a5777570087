//! Filters of queries as conditions that connectors know.
//!
//! Invariant: a condition holds for every row that its filter selects, and for no other when it is called the same.

use datafusion::arrow::datatypes::{DataType, Schema};
use datafusion::common::ScalarValue;
use datafusion::logical_expr::expr::InList;
use datafusion::logical_expr::utils::split_binary;
use datafusion::logical_expr::{BinaryExpr, Expr, Like, Operator};
use thalweg_connectors::{Comparison, Condition};

/// What is known of a filter.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) condition: Condition,
    /// The filter selects all rows that fulfil the condition.
    pub(super) same: bool,
}

/// A filter as a condition on one column, if it is one or has one for its beginning.
pub(super) fn known(filter: &Expr, schema: &Schema) -> Option<Known> {
    if let Expr::Like(Like {
        negated: false,
        expr,
        pattern,
        escape_char: None,
        case_insensitive: false,
    }) = filter
    {
        let column = column(expr, schema)?;
        let pattern = value(pattern, column, schema)?;
        return like(column, pattern.try_as_str().flatten()?);
    }
    let condition = condition(filter, schema)?;
    Some(Known {
        condition,
        same: true,
    })
}

/// `LIKE`: text without wildcards is a value, text before the only `%` a beginning. Of other patterns the text that comes first
/// leaves out what is far away, and no more.
fn like(column: usize, pattern: &str) -> Option<Known> {
    let mut text = String::new();
    let mut rest = pattern.chars();
    let whole = loop {
        match rest.next() {
            None => break true,
            // What is behind the backslash stands for itself. One that ends the pattern is for whoever applies it.
            Some('\\') => match rest.next() {
                Some(escaped) => text.push(escaped),
                None => break false,
            },
            Some('%' | '_') => break false,
            Some(other) => text.push(other),
        }
    };
    if whole {
        let value = ScalarValue::Utf8View(Some(text)).to_array().ok()?;
        let condition = Condition::Compare {
            column,
            comparison: Comparison::Equal,
            value,
        };
        return Some(Known {
            condition,
            same: true,
        });
    }
    let same = rest.as_str().is_empty() && pattern.ends_with('%');
    (!text.is_empty()).then_some(Known {
        condition: Condition::Prefix { column, text },
        same,
    })
}

/// A filter that is a condition itself.
fn condition(filter: &Expr, schema: &Schema) -> Option<Condition> {
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

#[cfg(test)]
mod tests {
    use datafusion::arrow::datatypes::Field;
    use datafusion::prelude::{col, lit};

    use super::*;

    #[test]
    fn a_pattern_is_its_beginning_only_when_nothing_follows() {
        let schema = Schema::new(vec![Field::new("k", DataType::Utf8View, false)]);
        let found = |pattern: &str| {
            let known = known(&col("k").like(lit(pattern)), &schema)?;
            let text = match known.condition {
                Condition::Prefix { text, .. } => format!("{text}..."),
                Condition::Compare { value, .. } => ScalarValue::try_from_array(&value, 0)
                    .expect("one value")
                    .to_string(),
                other => panic!("{other:?}"),
            };
            Some((text, known.same))
        };
        let expected = [
            ("a%", Some(("a...", true))),
            ("a%z", Some(("a...", false))),
            ("a%%", Some(("a...", false))),
            ("a_", Some(("a...", false))),
            ("a_c", Some(("a...", false))),
            ("a_%", Some(("a...", false))),
            ("a_c%", Some(("a...", false))),
            (r"user\_1%", Some(("user_1...", true))),
            (r"50\%%", Some(("50%...", true))),
            (r"50\%", Some(("50%", true))),
            (r"a\\%", Some((r"a\...", true))),
            (r"a\", Some(("a...", false))),
            (r"a%\", Some(("a...", false))),
            ("abc", Some(("abc", true))),
            ("", Some(("", true))),
            ("%", None),
            ("_a%", None),
        ];
        for (pattern, expected) in expected {
            let expected = expected.map(|(text, same)| (text.to_owned(), same));
            assert_eq!(found(pattern), expected, "{pattern}");
        }
    }
}
