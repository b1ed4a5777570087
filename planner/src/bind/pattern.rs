//! LIKE, ILIKE, SIMILAR TO and regular expressions.
//!
//! Invariant: an escape character other than backslash never reaches DataFusion, which knows no other.

use datafusion::common::{Result, ScalarValue};
use datafusion::logical_expr::Expr;
use datafusion::logical_expr::expr::Like;
use thalweg_catalog::SqlType;

use super::binder::{Binder, Typed, no_operator};
use crate::error::raise;
use crate::functions::text;
use crate::types::is_text;

pub(crate) fn like(
    binder: &Binder,
    operands: Vec<Typed>,
    negated: bool,
    insensitive: bool,
    escape: Option<String>,
    similar: bool,
) -> Result<Expr> {
    let [subject, pattern] =
        <[Typed; 2]>::try_from(operands).map_err(|_| raise("XX000", "LIKE takes two operands"))?;
    let symbol = match (negated, insensitive) {
        (false, false) => "~~",
        (true, false) => "!~~",
        (false, true) => "~~*",
        (true, true) => "!~~*",
    };
    for ty in [&subject.1, &pattern.1] {
        if !is_text(ty) && *ty != SqlType::Unknown {
            return Err(no_operator(symbol, &subject.1, &pattern.1));
        }
    }
    let subject = binder.implicit(subject, &SqlType::Text)?;
    let pattern = binder.implicit(pattern, &SqlType::Text)?;
    if similar {
        let regex = match &pattern {
            Expr::Literal(ScalarValue::Utf8View(Some(p)), _) => {
                text::similar_regex(p, escape.as_deref())
            }
            _ => {
                return Err(raise(
                    "0A000",
                    "SIMILAR TO with a pattern that is not a constant is not supported",
                ));
            }
        };
        let op = if negated {
            datafusion::logical_expr::Operator::RegexNotMatch
        } else {
            datafusion::logical_expr::Operator::RegexMatch
        };
        return Ok(super::binder::binary(
            subject,
            op,
            Expr::Literal(ScalarValue::Utf8View(Some(regex)), None),
        ));
    }
    let pattern = match (escape, pattern) {
        (None, p) => p,
        (Some(e), p) if e == "\\" => p,
        (Some(e), Expr::Literal(ScalarValue::Utf8View(Some(p)), m)) => Expr::Literal(
            ScalarValue::Utf8View(Some(text::like_with_backslash(&p, &e)?)),
            m,
        ),
        (Some(e), p) => {
            let escape = Expr::Literal(ScalarValue::Utf8View(Some(e)), None);
            text::like_escape().call(vec![p, escape])
        }
    };
    Ok(Expr::Like(Like::new(
        negated,
        Box::new(subject),
        Box::new(pattern),
        None,
        insensitive,
    )))
}

/// A constant pattern that is no regular expression is 2201B at once.
pub(crate) fn check_regex(pattern: &Expr) -> Result<()> {
    let text = match pattern {
        Expr::Literal(ScalarValue::Utf8(Some(p)) | ScalarValue::Utf8View(Some(p)), _) => p,
        _ => return Ok(()),
    };
    let mut depth = 0i32;
    let mut escaped = false;
    let mut in_class = false;
    for c in text.chars() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '[' => in_class = true,
            ']' => in_class = false,
            '(' if !in_class => depth += 1,
            ')' if !in_class => depth -= 1,
            _ => {}
        }
        if depth < 0 {
            break;
        }
    }
    if depth != 0 {
        return Err(raise(
            "2201B",
            "invalid regular expression: parentheses () not balanced",
        ));
    }
    if in_class {
        return Err(raise(
            "2201B",
            "invalid regular expression: brackets [] not balanced",
        ));
    }
    Ok(())
}
