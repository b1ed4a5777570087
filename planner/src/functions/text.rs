//! Text functions that differ from DataFusion's: `||`, LIKE patterns with ESCAPE, SIMILAR TO.
//!
//! Invariant: positions count characters, from 1.

use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, AsArray, BinaryArray, PrimitiveArray};
use datafusion::arrow::datatypes::Int32Type;
use datafusion::common::Result;
use thalweg_catalog::SqlType;

use super::native::{Native, Shape};
use super::temporal::text_rows;
use crate::error::raise;

/// `a || b` on texts.
pub(crate) fn concat_operator() -> Native {
    Native::new(
        "||",
        vec![SqlType::Text, SqlType::Text],
        SqlType::Text,
        |call| {
            let (a, b) = (call.array(0)?, call.array(1)?);
            let (a, b) = (a.as_string_view(), b.as_string_view());
            text_rows(a.len(), |i| {
                Ok((a.is_valid(i) && b.is_valid(i)).then(|| {
                    let (x, y) = (a.value(i), b.value(i));
                    let mut out = String::with_capacity(x.len() + y.len());
                    out.push_str(x);
                    out.push_str(y);
                    out
                }))
            })
        },
    )
    .shape(Shape::Infix)
}

/// `a || b` on bytes.
pub(crate) fn concat_bytes() -> Native {
    let types = vec![SqlType::Bytea, SqlType::Bytea];
    Native::new("||", types, SqlType::Bytea, |call| {
        let (a, b) = (call.array(0)?, call.array(1)?);
        let (a, b) = (a.as_binary::<i32>(), b.as_binary::<i32>());
        let joined = a.iter().zip(b.iter()).map(|pair| match pair {
            (Some(x), Some(y)) => Some([x, y].concat()),
            _ => None,
        });
        Ok(Arc::new(joined.collect::<BinaryArray>()) as ArrayRef)
    })
    .shape(Shape::Infix)
}

/// A LIKE pattern whose escape character is `escape`, with backslash as escape instead.
pub(crate) fn like_with_backslash(pattern: &str, escape: &str) -> Result<String> {
    let escape = escape.chars().next();
    let mut out = String::with_capacity(pattern.len() + 4);
    let mut chars = pattern.chars();
    while let Some(c) = chars.next() {
        if Some(c) == escape {
            let next = chars
                .next()
                .ok_or_else(|| raise("22025", "LIKE pattern must not end with escape character"))?;
            out.push('\\');
            out.push(next);
        } else if c == '\\' {
            out.push_str("\\\\");
        } else {
            out.push(c);
        }
    }
    Ok(out)
}

/// `like_escape(pattern, escape)` for patterns that are not constants.
pub(crate) fn like_escape() -> Native {
    Native::new(
        "like_escape",
        vec![SqlType::Text, SqlType::Text],
        SqlType::Text,
        |call| {
            let (a, b) = (call.array(0)?, call.array(1)?);
            let (a, b) = (a.as_string_view(), b.as_string_view());
            text_rows(a.len(), |i| {
                if a.is_valid(i) && b.is_valid(i) {
                    like_with_backslash(a.value(i), b.value(i)).map(Some)
                } else {
                    Ok(None)
                }
            })
        },
    )
    .fallible(true)
}

/// The regular expression a SIMILAR TO pattern stands for.
pub(crate) fn similar_regex(pattern: &str, escape: Option<&str>) -> String {
    let escape = escape.map_or(Some('\\'), |e| e.chars().next());
    let mut out = String::from("^(?:");
    let mut chars = pattern.chars();
    while let Some(c) = chars.next() {
        if Some(c) == escape {
            if let Some(next) = chars.next() {
                out.push('\\');
                out.push(next);
            }
            continue;
        }
        match c {
            '%' => out.push_str(".*"),
            '_' => out.push('.'),
            '.' | '^' | '$' | '\\' => {
                out.push('\\');
                out.push(c);
            }
            other => out.push(other),
        }
    }
    out.push_str(")$");
    out
}

/// `substring(text, from [, length])`, where a negative length is 22011.
pub(crate) fn substring(with_length: bool) -> Native {
    let mut types = vec![SqlType::Text, SqlType::Int4];
    if with_length {
        types.push(SqlType::Int4);
    }
    Native::new("substring", types, SqlType::Text, |call| {
        let (text, from) = (call.array(0)?, call.array(1)?);
        let length = if call.args.len() > 2 {
            Some(call.array(2)?)
        } else {
            None
        };
        let (text, from) = (text.as_string_view(), from.as_primitive::<Int32Type>());
        text_rows(text.len(), |i| {
            if text.is_null(i) || from.is_null(i) || length.as_ref().is_some_and(|l| l.is_null(i)) {
                return Ok(None);
            }
            let start = i64::from(from.value(i));
            let end = match &length {
                Some(l) => {
                    let count = i64::from(l.as_primitive::<Int32Type>().value(i));
                    if count < 0 {
                        return Err(raise("22011", "negative substring length not allowed"));
                    }
                    start.saturating_add(count)
                }
                None => i64::MAX,
            };
            let skip = usize::try_from((start - 1).max(0)).unwrap_or(usize::MAX);
            let take = usize::try_from((end - start.max(1)).max(0)).unwrap_or(usize::MAX);
            Ok(Some(text.value(i).chars().skip(skip).take(take).collect()))
        })
    })
    .fallible(with_length)
}

/// What a boolean prints as, `t` or `f`, where a cast to text would give `true`.
pub(crate) fn bool_out() -> Native {
    Native::new("bool_out", vec![SqlType::Bool], SqlType::Text, |call| {
        let array = call.array(0)?;
        let values = array.as_boolean();
        text_rows(values.len(), |i| {
            let shown = if values.value(i) { "t" } else { "f" };
            Ok(values.is_valid(i).then(|| shown.to_owned()))
        })
    })
}

/// `length(text)` in characters.
pub(crate) fn length() -> Native {
    Native::new("length", vec![SqlType::Text], SqlType::Int4, |call| {
        let text = call.array(0)?;
        let counts = text
            .as_string_view()
            .iter()
            .map(|v| v.map(|v| i32::try_from(v.chars().count()).unwrap_or(i32::MAX)));
        Ok(Arc::new(PrimitiveArray::<Int32Type>::from_iter(counts)) as ArrayRef)
    })
}

/// `concat(...)` and `concat_ws(separator, ...)`, which skip NULLs.
pub(crate) fn concat(arguments: usize, separated: bool) -> Native {
    let name = if separated { "concat_ws" } else { "concat" };
    let native = Native::new(
        name,
        vec![SqlType::Text; arguments],
        SqlType::Text,
        |call| {
            let columns = (0..call.args.len())
                .map(|i| call.array(i))
                .collect::<Result<Vec<_>>>()?;
            text_rows(call.rows, |i| {
                let items = columns
                    .iter()
                    .filter(|c| c.is_valid(i))
                    .map(|c| c.as_string_view().value(i));
                Ok(Some(items.collect::<String>()))
            })
        },
    );
    if !separated {
        return native;
    }
    Native::new(
        name,
        vec![SqlType::Text; arguments],
        SqlType::Text,
        |call| {
            let columns = (0..call.args.len())
                .map(|i| call.array(i))
                .collect::<Result<Vec<_>>>()?;
            text_rows(call.rows, |i| {
                if columns[0].is_null(i) {
                    return Ok(None);
                }
                let items: Vec<&str> = columns[1..]
                    .iter()
                    .filter(|c| c.is_valid(i))
                    .map(|c| c.as_string_view().value(i))
                    .collect();
                Ok(Some(items.join(columns[0].as_string_view().value(i))))
            })
        },
    )
}
