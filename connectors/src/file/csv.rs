//! A CSV record as the JSON object of its fields, so that both formats mean the same by a type.
//!
//! Invariant: a quoted field is text as it stands; an empty field without quotes is NULL.

use thalweg_catalog::{Column, SqlType};

use crate::format::Fault;

/// Which column each field goes to; `None` for a field that no column has.
#[derive(Debug, Clone)]
pub(super) struct Header {
    fields: Vec<Option<usize>>,
}

impl Header {
    /// Columns in their order.
    pub(super) fn by_position(columns: &[&Column]) -> Self {
        Self {
            fields: (0..columns.len()).map(Some).collect(),
        }
    }

    /// Columns by the names of a header line: the exact one, else one that differs in case only.
    pub(super) fn by_name(
        record: &[u8],
        delimiter: u8,
        columns: &[&Column],
    ) -> Result<Self, Fault> {
        let fields = split(record, delimiter)?.into_iter().map(|field| {
            let name = field.text.trim_start_matches('\u{feff}').trim();
            let exact = columns.iter().position(|column| column.name == name);
            exact.or_else(|| {
                let alike = |column: &&Column| column.name.eq_ignore_ascii_case(name);
                columns.iter().position(alike)
            })
        });
        Ok(Self {
            fields: fields.collect(),
        })
    }
}

struct Field {
    text: String,
    quoted: bool,
}

/// The record as a JSON object.
pub(super) fn to_json(
    record: &[u8],
    delimiter: u8,
    header: &Header,
    columns: &[&Column],
) -> Result<Vec<u8>, Fault> {
    let fields = split(record, delimiter)?;
    if fields.len() > header.fields.len() {
        return Err(Fault::decode(format!(
            "{} fields, expected {}",
            fields.len(),
            header.fields.len()
        )));
    }
    let mut out = String::from("{");
    for (field, column) in fields.iter().zip(&header.fields) {
        let Some(column) = column.and_then(|index| columns.get(index)) else {
            continue;
        };
        if field.text.is_empty() && !field.quoted {
            continue;
        }
        if out.len() > 1 {
            out.push(',');
        }
        out.push_str(&quoted(&column.name));
        out.push(':');
        out.push_str(&value(&column.ty, field));
    }
    out.push('}');
    Ok(out.into_bytes())
}

fn quoted(text: &str) -> String {
    // Writing a string to memory cannot fail.
    serde_json::to_string(text).unwrap_or_default()
}

/// The field as JSON: as it is where the type is read from a number, a boolean or a document, else as a string.
fn value(ty: &SqlType, field: &Field) -> String {
    let text = field.text.trim();
    let is = |wanted: fn(&serde_json::Value) -> bool| {
        serde_json::from_str(text).is_ok_and(|value| wanted(&value))
    };
    let as_it_is = match ty {
        SqlType::Int2
        | SqlType::Int4
        | SqlType::Int8
        | SqlType::Oid
        | SqlType::Float4
        | SqlType::Float8
        | SqlType::Numeric { .. } => is(serde_json::Value::is_number),
        SqlType::Json | SqlType::Jsonb => is(|_| true),
        SqlType::Array(_) => is(serde_json::Value::is_array),
        SqlType::Struct(_) => is(serde_json::Value::is_object),
        SqlType::Bool => {
            return match thalweg_catalog::option::parse_bool(text) {
                Some(value) => value.to_string(),
                None => quoted(&field.text),
            };
        }
        _ => false,
    };
    if as_it_is {
        text.to_owned()
    } else {
        quoted(&field.text)
    }
}

/// The fields of a record without its line end.
fn split(record: &[u8], delimiter: u8) -> Result<Vec<Field>, Fault> {
    let text = std::str::from_utf8(record)
        .map_err(|error| Fault::decode(format!("invalid UTF-8 at byte {}", error.valid_up_to())))?;
    let delimiter = char::from(delimiter);
    let mut fields = Vec::new();
    let mut rest = text;
    loop {
        let (field, after) = match rest.strip_prefix('"') {
            Some(inside) => quoted_field(inside)?,
            None => {
                let end = rest.find(delimiter).unwrap_or(rest.len());
                let (text, after) = rest.split_at(end);
                let field = Field {
                    text: text.to_owned(),
                    quoted: false,
                };
                (field, after)
            }
        };
        fields.push(field);
        match after.strip_prefix(delimiter) {
            Some(next) => rest = next,
            None if after.is_empty() => return Ok(fields),
            None => return Err(Fault::decode("text after the closing quote of a field")),
        }
    }
}

/// A field whose opening quote is gone, and what follows its closing one.
fn quoted_field(inside: &str) -> Result<(Field, &str), Fault> {
    let mut text = String::new();
    let mut rest = inside;
    loop {
        let Some((before, after)) = rest.split_once('"') else {
            return Err(Fault::decode("a quoted field is not closed"));
        };
        text.push_str(before);
        match after.strip_prefix('"') {
            Some(next) => {
                text.push('"');
                rest = next;
            }
            None => return Ok((Field { text, quoted: true }, after)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::column;

    #[test]
    fn records_by_table() {
        let (a, b) = (column("a", SqlType::Int4), column("b", SqlType::Text));
        let columns = [&a, &b];
        let header = Header::by_position(&columns);
        for (record, expected) in [
            ("1,x", Some(r#"{"a":1,"b":"x"}"#)),
            ("1,", Some(r#"{"a":1}"#)),
            (r#"1,"""#, Some(r#"{"a":1,"b":""}"#)),
            (
                r#" 7 ," x ""y"" , z""#,
                Some(r#"{"a":7,"b":" x \"y\" , z"}"#),
            ),
            ("many,x", Some(r#"{"a":"many","b":"x"}"#)),
            ("1", Some(r#"{"a":1}"#)),
            ("1,2,3", None),
            (r#"1,"x"y"#, None),
            (r#"1,"x"#, None),
        ] {
            let json = to_json(record.as_bytes(), b',', &header, &columns).ok();
            assert_eq!(json.as_deref(), expected.map(str::as_bytes), "{record}");
        }
        let header = Header::by_name(b"\xef\xbb\xbfB;other;A", b';', &columns).expect("a header");
        let json = to_json(b"x;y;1", b';', &header, &columns).expect("a record");
        assert_eq!(json, br#"{"b":"x","a":1}"#);
    }
}
