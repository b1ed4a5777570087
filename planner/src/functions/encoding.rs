//! Bytes to text and back: `convert_from` and `convert_to`.
//!
//! Invariant: text is UTF-8 without NUL, as in Postgres; bytes that are no text are an error, never replaced.

use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, AsArray, BinaryArray};
use datafusion::common::{DataFusionError, Result};
use thalweg_catalog::SqlType;

use super::native::Native;
use super::temporal::text_rows;
use crate::error::raise;

#[derive(Debug, Clone, Copy)]
enum Encoding {
    Utf8,
    Latin1,
}

/// `UTF8`, `utf-8` and `Unicode` are one name in Postgres.
fn encoding(name: &str, role: &str) -> Result<Encoding> {
    let plain: String = name.chars().filter(|c| c.is_alphanumeric()).collect();
    match plain.to_ascii_lowercase().as_str() {
        "utf8" | "unicode" => Ok(Encoding::Utf8),
        "latin1" | "iso88591" => Ok(Encoding::Latin1),
        _ => Err(raise(
            "22023",
            format!("invalid {role} encoding name \"{name}\""),
        )),
    }
}

fn invalid(bytes: &[u8]) -> DataFusionError {
    let shown: Vec<String> = bytes.iter().map(|byte| format!("0x{byte:02x}")).collect();
    raise(
        "22021",
        format!(
            "invalid byte sequence for encoding \"UTF8\": {}",
            shown.join(" ")
        ),
    )
}

fn decoded(bytes: &[u8], encoding: Encoding) -> Result<String> {
    if bytes.contains(&0) {
        return Err(invalid(&[0]));
    }
    match encoding {
        Encoding::Latin1 => Ok(bytes.iter().copied().map(char::from).collect()),
        Encoding::Utf8 => match std::str::from_utf8(bytes) {
            Ok(text) => Ok(text.to_owned()),
            Err(error) => {
                let bad = bytes.get(error.valid_up_to()..).unwrap_or_default();
                let length = error.error_len().unwrap_or(bad.len());
                Err(invalid(bad.get(..length).unwrap_or(bad)))
            }
        },
    }
}

fn encoded(text: &str, encoding: Encoding) -> Result<Vec<u8>> {
    match encoding {
        Encoding::Utf8 => Ok(text.as_bytes().to_vec()),
        Encoding::Latin1 => text
            .chars()
            .map(|c| {
                u8::try_from(u32::from(c)).map_err(|_| {
                    raise(
                        "22P05",
                        format!("character \"{c}\" has no equivalent in encoding \"LATIN1\""),
                    )
                })
            })
            .collect(),
    }
}

/// `convert_from(bytes, encoding)`.
pub(crate) fn convert_from() -> Native {
    let types = vec![SqlType::Bytea, SqlType::Text];
    Native::new("convert_from", types, SqlType::Text, |call| {
        let (bytes, names) = (call.array(0)?, call.array(1)?);
        let (bytes, names) = (bytes.as_binary::<i32>(), names.as_string_view());
        text_rows(call.rows, |i| {
            if bytes.is_null(i) || names.is_null(i) {
                return Ok(None);
            }
            decoded(bytes.value(i), encoding(names.value(i), "source")?).map(Some)
        })
    })
    .fallible(true)
}

/// `convert_to(text, encoding)`.
pub(crate) fn convert_to() -> Native {
    let types = vec![SqlType::Text, SqlType::Text];
    Native::new("convert_to", types, SqlType::Bytea, |call| {
        let (texts, names) = (call.array(0)?, call.array(1)?);
        let (texts, names) = (texts.as_string_view(), names.as_string_view());
        let rows = (0..call.rows).map(|i| {
            if texts.is_null(i) || names.is_null(i) {
                return Ok(None);
            }
            encoded(texts.value(i), encoding(names.value(i), "destination")?).map(Some)
        });
        let rows = rows.collect::<Result<Vec<_>>>()?;
        Ok(Arc::new(rows.into_iter().collect::<BinaryArray>()) as ArrayRef)
    })
    .fallible(true)
}
