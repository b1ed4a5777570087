//! The text format.
//!
//! Invariant: what is printed here, Postgres' input function of the same type reads back as the same value.

use std::fmt::Write;

use bytes::{BufMut, BytesMut};
use uuid::Uuid;

use super::calendar::{self, Zone};
use super::number;
use super::values::Values;

/// Appends a value that is not NULL.
pub(super) fn put(out: &mut BytesMut, values: &Values, row: usize, zone: &Zone) {
    match values {
        Values::Null => {}
        Values::Bool(array) => out.put_u8(if array.value(row) { b't' } else { b'f' }),
        Values::Int2(array) => display(out, array.value(row)),
        Values::Int4(array) => display(out, array.value(row)),
        Values::Int8(array) => display(out, array.value(row)),
        Values::Oid(array) => display(out, array.value(row)),
        Values::Float4(array) => display(out, number::Float4(array.value(row))),
        Values::Float8(array) => display(out, number::Float8(array.value(row))),
        Values::Numeric { array, shown } => {
            display(
                out,
                number::Decimal::new(array.value(row), array.scale(), *shown),
            );
        }
        Values::Text(array) | Values::Jsonb(array) => out.put_slice(array.value(row).as_bytes()),
        Values::Bytea(array) => hex(out, array.value(row)),
        Values::Date(array) => display(out, calendar::Date(array.value(row))),
        Values::Time(array) => display(out, calendar::Time(array.value(row))),
        Values::Timestamp(array) => display(out, calendar::Timestamp(array.value(row))),
        Values::Timestamptz(array) => display(out, calendar::Timestamptz(array.value(row), zone)),
        Values::Interval(array) => display(out, calendar::Interval::from_arrow(array.value(row))),
        Values::Uuid(array) => match Uuid::from_slice(array.value(row)) {
            Ok(uuid) => display(out, uuid.hyphenated()),
            // A column of another width cannot be a uuid; its bytes say more than nothing.
            Err(_) => hex(out, array.value(row)),
        },
        Values::List {
            array, elements, ..
        } => {
            let offsets = array.value_offsets();
            put_list(
                out,
                elements,
                offsets[row] as usize..offsets[row + 1] as usize,
                zone,
            );
        }
        Values::Record { fields, .. } => put_record(out, fields, row, zone),
    }
}

fn display(out: &mut BytesMut, value: impl std::fmt::Display) {
    // Writing to memory cannot fail.
    let _written = write!(out, "{value}");
}

fn hex(out: &mut BytesMut, bytes: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    out.reserve(2 + bytes.len() * 2);
    out.put_slice(b"\\x");
    for byte in bytes {
        out.put_u8(DIGITS[usize::from(byte >> 4)]);
        out.put_u8(DIGITS[usize::from(byte & 15)]);
    }
}

fn put_list(out: &mut BytesMut, elements: &Values, range: std::ops::Range<usize>, zone: &Zone) {
    let nested = matches!(elements, Values::List { .. });
    let mut element = BytesMut::new();
    out.put_u8(b'{');
    for (index, row) in range.enumerate() {
        if index > 0 {
            out.put_u8(b',');
        }
        if elements.is_null(row) {
            out.put_slice(b"NULL");
            continue;
        }
        if nested {
            // A dimension, not a value: its braces stay as they are.
            put(out, elements, row, zone);
            continue;
        }
        element.clear();
        put(&mut element, elements, row, zone);
        if list_quotes(&element) {
            quoted(out, &element, |out, byte| out.put_slice(&[b'\\', byte]));
        } else {
            out.put_slice(&element);
        }
    }
    out.put_u8(b'}');
}

fn put_record(out: &mut BytesMut, fields: &[(u32, Values)], row: usize, zone: &Zone) {
    let mut field = BytesMut::new();
    out.put_u8(b'(');
    for (index, (_, values)) in fields.iter().enumerate() {
        if index > 0 {
            out.put_u8(b',');
        }
        if values.is_null(row) {
            continue;
        }
        field.clear();
        put(&mut field, values, row, zone);
        if record_quotes(&field) {
            quoted(out, &field, |out, byte| out.put_slice(&[byte, byte]));
        } else {
            out.put_slice(&field);
        }
    }
    out.put_u8(b')');
}

fn quoted(out: &mut BytesMut, text: &[u8], escape: impl Fn(&mut BytesMut, u8)) {
    out.put_u8(b'"');
    for &byte in text {
        if matches!(byte, b'"' | b'\\') {
            escape(out, byte)
        } else {
            out.put_u8(byte)
        }
    }
    out.put_u8(b'"');
}

fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c)
}

fn list_quotes(text: &[u8]) -> bool {
    text.is_empty()
        || text.eq_ignore_ascii_case(b"null")
        || text
            .iter()
            .any(|&byte| matches!(byte, b'"' | b'\\' | b'{' | b'}' | b',') || is_blank(byte))
}

fn record_quotes(text: &[u8]) -> bool {
    text.is_empty()
        || text
            .iter()
            .any(|&byte| matches!(byte, b'"' | b'\\' | b'(' | b')' | b',') || is_blank(byte))
}
