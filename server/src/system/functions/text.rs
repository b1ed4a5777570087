//! Text and array functions that catalog queries use and DataFusion does not have.
//!
//! Invariant: results are Postgres' byte for byte on the same arguments.

use datafusion::common::Result;
use thalweg_catalog::SqlType;

use super::super::names::{quote_ident, split_name};
use super::super::value::Cell;
use super::{Arguments, Definition, Returns, define, failed};

pub(super) const FUNCTIONS: &[Definition] = &[
    define("quote_ident", Returns::Text, |arguments| {
        Ok(arguments.text(0).map(|name| quote_ident(&name)).into())
    }),
    define("quote_literal", Returns::Text, |arguments| {
        Ok(display(arguments.values.first())
            .map(|text| literal(&text))
            .into())
    }),
    define("quote_nullable", Returns::Text, |arguments| {
        Ok(display(arguments.values.first())
            .map_or_else(|| "NULL".to_owned(), |text| literal(&text))
            .into())
    }),
    define("parse_ident", Returns::TextArray, |arguments| {
        let Some(text) = arguments.text(0) else {
            return Ok(Cell::Null);
        };
        match split_name(&text) {
            Some(parts) => Ok(parts.into()),
            None => Err(failed(
                "22023",
                format!("string is not a valid identifier: \"{text}\""),
            )),
        }
    }),
    define("format", Returns::Text, format),
    define("pg_size_pretty", Returns::Text, |arguments| {
        Ok(arguments.int(0).map(size_pretty).into())
    }),
    define("pg_typeof", Returns::Text, |arguments| {
        let ty = arguments
            .fields
            .first()
            .map(|field| SqlType::from_field(field));
        Ok(ty.map(|ty| ty.to_string()).into())
    }),
    define("array_lower", Returns::Int4, |arguments| {
        let one_dimension = arguments.int(1) == Some(1);
        Ok(arguments
            .list(0)
            .filter(|items| one_dimension && !items.is_empty())
            .map(|_| 1)
            .into())
    }),
    define("array_upper", Returns::Int4, |arguments| {
        let one_dimension = arguments.int(1) == Some(1);
        Ok(arguments
            .list(0)
            .filter(|items| one_dimension && !items.is_empty())
            .map(<[Cell]>::len)
            .into())
    }),
    define("json_build_object", Returns::Json, json_object),
    define("thalweg_array_or_empty", Returns::Same, |arguments| {
        Ok(Cell::List(
            arguments.list(0).map(<[Cell]>::to_vec).unwrap_or_default(),
        ))
    }),
    define("thalweg_subscripts", Returns::Int4Array, |arguments| {
        let first = arguments.int(1).unwrap_or(1);
        let Some(items) = arguments.list(0) else {
            return Ok(Cell::Null);
        };
        Ok(Cell::List(
            (first..)
                .zip(items)
                .map(|(subscript, _)| Cell::Int(subscript))
                .collect(),
        ))
    }),
    define(
        "thalweg_expand_array",
        Returns::ExpandedArray,
        |arguments| {
            let Some(items) = arguments.list(0) else {
                return Ok(Cell::Null);
            };
            let numbered = items
                .iter()
                .zip(1_i64..)
                .map(|(item, number)| Cell::Record(vec![item.clone(), number.into()]));
            Ok(Cell::List(numbered.collect()))
        },
    ),
    define("thalweg_vector_text", Returns::Text, |arguments| {
        let Some(items) = arguments.list(0) else {
            return Ok(arguments.text(0).into());
        };
        let items: Vec<String> = items
            .iter()
            .filter_map(|item| display(Some(item)))
            .collect();
        Ok(items.join(" ").into())
    }),
];

fn display(cell: Option<&Cell>) -> Option<String> {
    Some(match cell? {
        Cell::Null => return None,
        Cell::Bool(value) => if *value { "t" } else { "f" }.to_owned(),
        Cell::Int(value) => value.to_string(),
        Cell::Float(value) => value.to_string(),
        Cell::Text(value) => value.clone(),
        Cell::Record(_) => return None,
        Cell::List(items) => {
            let items: Vec<String> = items
                .iter()
                .map(|item| display(Some(item)).unwrap_or_else(|| "NULL".to_owned()))
                .collect();
            format!("{{{}}}", items.join(","))
        }
    })
}

fn literal(text: &str) -> String {
    let quoted = text.replace('\'', "''");
    if quoted.contains('\\') {
        format!(" E'{}'", quoted.replace('\\', "\\\\"))
    } else {
        format!("'{quoted}'")
    }
}

/// `format(template, ...)` with `%s`, `%I`, `%L` and `%%`.
fn format(arguments: &Arguments<'_>) -> Result<Cell> {
    let Some(template) = arguments.text(0) else {
        return Ok(Cell::Null);
    };
    let mut text = String::with_capacity(template.len());
    let mut rest = arguments.values.iter().skip(1);
    let mut chars = template.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            text.push(c);
            continue;
        }
        let specifier = chars.next();
        if specifier == Some('%') {
            text.push('%');
            continue;
        }
        let Some(value) = rest.next() else {
            return Err(failed("22023", "too few arguments for format()".to_owned()));
        };
        let value = display(Some(value));
        match specifier {
            Some('s') => text.push_str(&value.unwrap_or_default()),
            Some('I') => match value {
                Some(value) => text.push_str(&quote_ident(&value)),
                None => {
                    return Err(failed(
                        "22004",
                        "null values cannot be formatted as an SQL identifier".to_owned(),
                    ));
                }
            },
            Some('L') => {
                text.push_str(&value.map_or_else(|| "NULL".to_owned(), |value| literal(&value)))
            }
            Some(other) => {
                return Err(failed(
                    "22023",
                    format!("unrecognized format() type specifier \"{other}\""),
                ));
            }
            None => {
                return Err(failed(
                    "22023",
                    "unterminated format() type specifier".to_owned(),
                ));
            }
        }
    }
    Ok(text.into())
}

/// Bytes as Postgres rounds them: half away from zero, the next unit from 10 * 1024 on.
fn size_pretty(bytes: i64) -> String {
    const LIMIT: i64 = 10 * 1024;
    if bytes.saturating_abs() < LIMIT {
        return format!("{bytes} bytes");
    }
    // One extra bit is kept for rounding, as in Postgres.
    let mut size = bytes / 512;
    let half = |size: i64| (size + size.signum()) / 2;
    for unit in ["kB", "MB", "GB", "TB"] {
        if size.saturating_abs() < LIMIT * 2 - 1 {
            return format!("{} {unit}", half(size));
        }
        size /= 1024;
    }
    format!("{} PB", half(size))
}

fn json_object(arguments: &Arguments<'_>) -> Result<Cell> {
    if arguments.values.len() % 2 == 1 {
        return Err(failed(
            "22023",
            "argument list must have even number of elements".to_owned(),
        ));
    }
    let mut members = Vec::new();
    for pair in arguments.values.chunks_exact(2) {
        let [key, value] = pair else { continue };
        let Some(key) = display(Some(key)) else {
            return Err(failed(
                "22004",
                "null value not allowed for object key".to_owned(),
            ));
        };
        members.push(format!(
            "{} : {}",
            serde_json::Value::from(key),
            json(value)
        ));
    }
    Ok(format!("{{{}}}", members.join(", ")).into())
}

fn json(cell: &Cell) -> String {
    match cell {
        Cell::Null => "null".to_owned(),
        Cell::Bool(value) => value.to_string(),
        Cell::Int(value) => value.to_string(),
        Cell::Float(value) => value.to_string(),
        Cell::Text(value) => serde_json::Value::from(value.as_str()).to_string(),
        Cell::List(items) | Cell::Record(items) => {
            format!("[{}]", items.iter().map(json).collect::<Vec<_>>().join(","))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_print_as_in_postgres() {
        let cases: &[(i64, &str)] = &[
            (0, "0 bytes"),
            (10_239, "10239 bytes"),
            (10_240, "10 kB"),
            (16_384, "16 kB"),
            (10_485_247, "10239 kB"),
            (10_485_248, "10 MB"),
            (-10_240, "-10 kB"),
            (5_000_000_000, "4768 MB"),
        ];
        for (bytes, expected) in cases {
            assert_eq!(size_pretty(*bytes), *expected, "{bytes}");
        }
    }
}
