//! Array parameters.
//!
//! Invariant: one dimension; more are refused with 0A000, not flattened.

use std::iter::Peekable;
use std::str::Chars;

use datafusion::common::ScalarValue;
use thalweg_catalog::SqlType;

use super::{null, text};
use crate::frontend::Report;
use crate::pg::encode::Zone;
use crate::pg::error::report;

/// Elements in one array parameter.
const ELEMENTS_MAX: usize = 1 << 20;

/// 0A000 for arrays of arrays.
pub(super) fn too_many_dimensions() -> Report {
    report(
        "0A000",
        "array parameters of more than one dimension are not supported",
    )
}

/// A list value of `element`s.
pub(super) fn list(values: &[ScalarValue], element: &SqlType) -> ScalarValue {
    ScalarValue::List(ScalarValue::new_list_nullable(values, &element.arrow()))
}

/// `{a,"b c",NULL}`.
pub(super) fn from_text(
    input: &str,
    element: &SqlType,
    ty: &SqlType,
    zone: &Zone,
) -> Result<ScalarValue, Report> {
    let malformed = || {
        report(
            "22P02",
            format!("malformed array literal: \"{}\"", super::shown(input)),
        )
    };
    if matches!(element, SqlType::Array(_)) {
        return Err(too_many_dimensions());
    }
    let mut chars = input.trim().chars().peekable();
    if chars.next() != Some('{') {
        return Err(malformed());
    }
    let mut values = Vec::new();
    skip_blanks(&mut chars);
    if chars.peek() == Some(&'}') {
        chars.next();
        return if chars.next().is_none() {
            Ok(list(&values, element))
        } else {
            Err(malformed())
        };
    }
    loop {
        skip_blanks(&mut chars);
        let value = match chars.peek() {
            Some('{') => return Err(too_many_dimensions()),
            Some('"') => Some(quoted(&mut chars).ok_or_else(malformed)?),
            _ => plain(&mut chars).ok_or_else(malformed)?,
        };
        if values.len() >= ELEMENTS_MAX {
            return Err(report(
                "54000",
                format!("array of type {ty} has too many elements"),
            ));
        }
        values.push(match value {
            Some(value) => text::scalar(&value, element, zone)?,
            None => null(element)?,
        });
        skip_blanks(&mut chars);
        match chars.next() {
            Some(',') => {}
            Some('}') if chars.next().is_none() => return Ok(list(&values, element)),
            _ => return Err(malformed()),
        }
    }
}

fn skip_blanks(chars: &mut Peekable<Chars<'_>>) {
    while chars.next_if(|c| c.is_ascii_whitespace()).is_some() {}
}

fn quoted(chars: &mut Peekable<Chars<'_>>) -> Option<String> {
    chars.next();
    let mut value = String::new();
    loop {
        match chars.next()? {
            '"' => return Some(value),
            '\\' => value.push(chars.next()?),
            c => value.push(c),
        }
    }
}

/// An unquoted element; `Some(None)` is NULL, `None` is malformed.
fn plain(chars: &mut Peekable<Chars<'_>>) -> Option<Option<String>> {
    let mut value = String::new();
    let mut escaped = false;
    while let Some(c) = chars.next_if(|c| !matches!(c, ',' | '}')) {
        match c {
            '{' | '"' => return None,
            '\\' => {
                escaped = true;
                value.push(chars.next()?);
            }
            c => value.push(c),
        }
    }
    let trimmed = value.trim_end();
    if trimmed.is_empty() {
        return None;
    }
    Some((escaped || !trimmed.eq_ignore_ascii_case("null")).then(|| trimmed.to_owned()))
}
