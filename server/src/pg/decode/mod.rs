//! Parameters of Bind as values of their SQL types.
//!
//! Invariant: a parameter becomes a value of exactly the type Describe named for it, or the Bind fails with 22P02 (text),
//! 22P03 (binary), 22003 or 22008 (range) and says which type it was.

mod binary;
mod calendar;
mod json;
mod list;
mod number;
mod text;

use datafusion::common::ScalarValue;
use thalweg_catalog::SqlType;

use super::encode::{Format, Zone};
use super::error::report;
use super::frames::check_utf8;
use super::limits::QUOTED_CHARS_MAX;
use crate::frontend::Report;

/// What reading a parameter depends on beside its bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct ParameterContext<'a> {
    /// `n` of `$n`, for messages.
    pub(super) number: usize,
    /// The session's zone, for timestamps without an offset.
    pub(super) zone: &'a Zone,
}

/// The value of one parameter; `None` is NULL.
pub(super) fn parameter(
    value: Option<&[u8]>,
    ty: &SqlType,
    format: Format,
    context: &ParameterContext<'_>,
) -> Result<ScalarValue, Report> {
    let Some(bytes) = value else { return null(ty) };
    match format {
        Format::Text => text::scalar(utf8(bytes)?, ty, context.zone),
        Format::Binary => binary::scalar(bytes, ty, context.number),
    }
}

fn null(ty: &SqlType) -> Result<ScalarValue, Report> {
    ScalarValue::try_new_null(&ty.arrow()).map_err(|error| report("XX000", error.to_string()))
}

fn utf8(bytes: &[u8]) -> Result<&str, Report> {
    check_utf8(bytes)?;
    if bytes.contains(&0) {
        return Err(report(
            "22021",
            "invalid byte sequence for encoding \"UTF8\": 0x00",
        ));
    }
    // Checked above; an empty text is never returned for other bytes.
    Ok(std::str::from_utf8(bytes).unwrap_or_default())
}

/// User text as messages quote it: bounded, so that a parameter of megabytes does not come back.
fn shown(text: &str) -> String {
    match text.char_indices().nth(QUOTED_CHARS_MAX) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}

/// 22P02: not the text of such a value.
fn syntax(ty: &SqlType, text: &str) -> Report {
    report(
        "22P02",
        format!(
            "invalid input syntax for type {}: \"{}\"",
            bare(ty),
            shown(text)
        ),
    )
}

/// 22003: a value of such a kind, but too large.
fn range(ty: &SqlType, text: &str) -> Report {
    report(
        "22003",
        format!(
            "value \"{}\" is out of range for type {}",
            shown(text),
            bare(ty)
        ),
    )
}

/// Name of a type without its modifier.
fn bare(ty: &SqlType) -> String {
    match ty {
        SqlType::Numeric { .. } => "numeric".to_owned(),
        SqlType::Varchar(_) => "character varying".to_owned(),
        SqlType::Char(_) => "character".to_owned(),
        ty => ty.to_string(),
    }
}

#[cfg(test)]
mod tests;
