//! Array literals (`{1,2,NULL}`) read into lists.
//!
//! Invariant: a malformed literal is 22P02; nesting is bounded by the element type, never by the text.

use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, AsArray, ListArray, StringViewBuilder};
use datafusion::arrow::buffer::{NullBuffer, OffsetBuffer};
use datafusion::arrow::datatypes::DataType;
use datafusion::common::{DataFusionError, Result};
use thalweg_catalog::SqlType;

use super::cast::cast_array;
use super::temporal_text::Zone;
use crate::error::raise;

fn malformed(text: &str) -> DataFusionError {
    raise("22P02", format!("malformed array literal: \"{text}\""))
}

/// Reads every text of `array` as an array of `element`.
pub(crate) fn parse_arrays(
    array: &ArrayRef,
    element: &SqlType,
    to: &SqlType,
    zone: Zone,
    assignment: bool,
) -> Result<ArrayRef> {
    let text = array.as_string_view();
    let mut items = StringViewBuilder::new();
    let mut lengths = Vec::with_capacity(text.len());
    let mut valid = Vec::with_capacity(text.len());
    for value in text.iter() {
        valid.push(value.is_some());
        let mut count = 0;
        if let Some(value) = value {
            for item in split(value)? {
                count += 1;
                items.append_option(item);
            }
        }
        lengths.push(count);
    }
    let items: ArrayRef = Arc::new(items.finish());
    let values = cast_array(&items, &SqlType::Text, element, zone, assignment)?;
    let DataType::List(field) = to.arrow() else {
        return Err(DataFusionError::Internal(
            "an array type is not held as a list".to_owned(),
        ));
    };
    let offsets = OffsetBuffer::<i32>::from_lengths(lengths);
    Ok(Arc::new(ListArray::try_new(
        field,
        offsets,
        values,
        Some(NullBuffer::from(valid)),
    )?))
}

/// The items of one literal; inner braces stay text.
fn split(text: &str) -> Result<Vec<Option<String>>> {
    let body = text
        .trim()
        .strip_prefix('{')
        .and_then(|t| t.strip_suffix('}'))
        .ok_or_else(|| malformed(text))?;
    let mut out = Vec::new();
    if body.trim().is_empty() {
        return Ok(out);
    }
    let (mut item, mut quoted, mut in_quotes, mut depth) = (String::new(), false, false, 0usize);
    let mut chars = body.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => {
                if depth > 0 {
                    item.push(c);
                }
                item.push(chars.next().ok_or_else(|| malformed(text))?);
            }
            '"' => {
                in_quotes = !in_quotes;
                quoted = true;
                if depth > 0 {
                    item.push(c);
                }
            }
            '{' if !in_quotes => {
                depth += 1;
                item.push(c);
            }
            '}' if !in_quotes => {
                depth = depth.checked_sub(1).ok_or_else(|| malformed(text))?;
                item.push(c);
            }
            ',' if !in_quotes && depth == 0 => {
                out.push(finish(&mut item, &mut quoted, text)?);
            }
            other => item.push(other),
        }
    }
    if in_quotes || depth > 0 {
        return Err(malformed(text));
    }
    out.push(finish(&mut item, &mut quoted, text)?);
    Ok(out)
}

fn finish(item: &mut String, quoted: &mut bool, text: &str) -> Result<Option<String>> {
    let raw = std::mem::take(item);
    let was_quoted = std::mem::take(quoted);
    if was_quoted {
        return Ok(Some(if raw.starts_with('{') {
            raw
        } else {
            raw.trim_matches(' ').to_owned()
        }));
    }
    let trimmed = raw.trim();
    if trimmed.is_empty() {
        return Err(malformed(text));
    }
    Ok(if trimmed.eq_ignore_ascii_case("null") {
        None
    } else {
        Some(trimmed.to_owned())
    })
}
