//! The slice reader against the `thrift` crate's writer, and against damage.

use proptest::prelude::*;
use thrift::protocol::{
    TBinaryOutputProtocol, TCompactOutputProtocol, TFieldIdentifier, TListIdentifier,
    TMapIdentifier, TMessageIdentifier, TMessageType, TOutputProtocol, TStructIdentifier, TType,
};

use super::{Kind, MessageKind, Protocol, Reader, Span, Verdict, WireError};
use crate::hbase::reply::message_length;

/// A value of any type that a message can hold.
#[derive(Debug, Clone, PartialEq)]
enum Value {
    Bool(bool),
    I8(i8),
    I16(i16),
    I32(i32),
    I64(i64),
    Double(f64),
    Bytes(Vec<u8>),
    Struct(Vec<(i16, Value)>),
    List(Vec<i64>),
    Structs(Vec<Vec<u8>>),
    Map(Vec<(Vec<u8>, i32)>),
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        any::<bool>().prop_map(Value::Bool),
        any::<i8>().prop_map(Value::I8),
        any::<i16>().prop_map(Value::I16),
        any::<i32>().prop_map(Value::I32),
        any::<i64>().prop_map(Value::I64),
        (-1e9..1e9).prop_map(Value::Double),
        proptest::collection::vec(any::<u8>(), 0..300).prop_map(Value::Bytes),
        proptest::collection::vec(any::<i64>(), 0..20).prop_map(Value::List),
        proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..9), 0..20)
            .prop_map(Value::Structs),
        proptest::collection::vec(
            (proptest::collection::vec(any::<u8>(), 0..9), any::<i32>()),
            0..20
        )
        .prop_map(Value::Map),
    ];
    leaf.prop_recursive(4, 32, 8, |inner| {
        proptest::collection::vec((0i16..30_000, inner), 0..8).prop_map(Value::Struct)
    })
}

fn type_of(value: &Value) -> TType {
    match value {
        Value::Bool(_) => TType::Bool,
        Value::I8(_) => TType::I08,
        Value::I16(_) => TType::I16,
        Value::I32(_) => TType::I32,
        Value::I64(_) => TType::I64,
        Value::Double(_) => TType::Double,
        Value::Bytes(_) => TType::String,
        Value::Struct(_) => TType::Struct,
        Value::List(_) | Value::Structs(_) => TType::List,
        Value::Map(_) => TType::Map,
    }
}

fn write(out: &mut dyn TOutputProtocol, value: &Value) -> thrift::Result<()> {
    match value {
        Value::Bool(value) => out.write_bool(*value),
        Value::I8(value) => out.write_i8(*value),
        Value::I16(value) => out.write_i16(*value),
        Value::I32(value) => out.write_i32(*value),
        Value::I64(value) => out.write_i64(*value),
        Value::Double(value) => out.write_double(*value),
        Value::Bytes(value) => out.write_bytes(value),
        Value::Struct(fields) => write_fields(out, fields),
        Value::List(items) => {
            out.write_list_begin(&TListIdentifier::new(TType::I64, items.len() as i32))?;
            items.iter().try_for_each(|item| out.write_i64(*item))?;
            out.write_list_end()
        }
        Value::Structs(items) => {
            out.write_list_begin(&TListIdentifier::new(TType::Struct, items.len() as i32))?;
            for item in items {
                write_fields(out, &[(1, Value::Bytes(item.clone()))])?;
            }
            out.write_list_end()
        }
        Value::Map(pairs) => {
            let size = pairs.len() as i32;
            out.write_map_begin(&TMapIdentifier::new(TType::String, TType::I32, size))?;
            for (key, value) in pairs {
                out.write_bytes(key)?;
                out.write_i32(*value)?;
            }
            out.write_map_end()
        }
    }
}

fn write_fields(out: &mut dyn TOutputProtocol, fields: &[(i16, Value)]) -> thrift::Result<()> {
    out.write_struct_begin(&TStructIdentifier::new(""))?;
    for (id, value) in fields {
        out.write_field_begin(&TFieldIdentifier {
            name: None,
            field_type: type_of(value),
            id: Some(*id),
        })?;
        write(out, value)?;
        out.write_field_end()?;
    }
    out.write_field_stop()?;
    out.write_struct_end()
}

/// A reply as the `thrift` crate writes it.
fn message(protocol: Protocol, sequence: i32, fields: &[(i16, Value)]) -> Vec<u8> {
    let mut frame = Vec::new();
    {
        let (mut compact, mut binary);
        let out: &mut dyn TOutputProtocol = match protocol {
            Protocol::Compact => {
                compact = TCompactOutputProtocol::new(&mut frame);
                &mut compact
            }
            Protocol::Binary => {
                binary = TBinaryOutputProtocol::new(&mut frame, true);
                &mut binary
            }
        };
        let head = TMessageIdentifier::new("call", TMessageType::Reply, sequence);
        out.write_message_begin(&head).expect("memory");
        write_fields(out, fields).expect("memory");
        out.write_message_end().expect("memory");
    }
    frame
}

/// Reads a structure back through the reader under test.
fn read(
    reader: &mut Reader<'_>,
    frame: &[u8],
    like: &[(i16, Value)],
) -> Result<Vec<(i16, Value)>, WireError> {
    let mut found = Vec::new();
    let mut expected = like.iter();
    reader.structure(|reader, field| {
        let Some((_, like)) = expected.next() else {
            return Ok(Verdict::Skip);
        };
        let value = match like {
            Value::Bool(_) => Value::Bool(reader.bool(field)?),
            Value::I32(_) => Value::I32(reader.i32(field)?),
            Value::I64(_) => Value::I64(reader.i64(field)?),
            Value::Bytes(_) => Value::Bytes(reader.span(field)?.of(frame).to_vec()),
            Value::Struct(fields) => Value::Struct(read(reader, frame, fields)?),
            Value::Structs(_) => {
                let mut items = Vec::new();
                reader.list(field, Kind::Struct, |reader| {
                    let fields = read(reader, frame, &[(1, Value::Bytes(vec![]))])?;
                    if let Some((_, Value::Bytes(item))) = fields.into_iter().next() {
                        items.push(item);
                    }
                    Ok(())
                })?;
                Value::Structs(items)
            }
            // Types that no reply of HBase uses are skipped; what comes after them tells whether that was right.
            other => {
                found.push((field.id, other.clone()));
                return Ok(Verdict::Skip);
            }
        };
        found.push((field.id, value));
        Ok(Verdict::Read)
    })?;
    Ok(found)
}

fn protocols() -> impl Strategy<Value = Protocol> {
    prop_oneof![Just(Protocol::Compact), Just(Protocol::Binary)]
}

proptest! {
    #[test]
    fn what_the_thrift_crate_writes_is_read(
        protocol in protocols(),
        sequence in any::<i32>(),
        fields in proptest::collection::vec((0i16..30_000, value()), 0..8),
    ) {
        let frame = message(protocol, sequence, &fields);
        let mut reader = Reader::new(&frame, protocol);
        let (kind, name, number) = reader.message().expect("a head");
        prop_assert_eq!((kind, name, number), (MessageKind::Reply, &b"call"[..], sequence));
        prop_assert_eq!(read(&mut reader, &frame, &fields).expect("fields"), fields);
        prop_assert_eq!(reader.position(), frame.len());
        prop_assert_eq!(message_length(&frame, protocol), Ok(Some(frame.len())));
        let mut longer = frame.clone();
        longer.extend_from_slice(b"\x82next");
        prop_assert_eq!(message_length(&longer, protocol), Ok(Some(frame.len())));
    }

    /// A stream that has not all bytes yet never looks like a whole message, nor like a broken one.
    #[test]
    fn a_part_of_a_message_asks_for_more(
        protocol in protocols(),
        fields in proptest::collection::vec((0i16..30_000, value()), 0..6),
        cut in any::<proptest::sample::Index>(),
    ) {
        let frame = message(protocol, 7, &fields);
        let part = &frame[..cut.index(frame.len())];
        prop_assert_eq!(message_length(part, protocol), Ok(None));
    }

    #[test]
    fn damage_is_an_error_and_never_a_panic(
        protocol in protocols(),
        fields in proptest::collection::vec((0i16..4, value()), 0..6),
        damage in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let mut frame = message(protocol, 7, &fields);
        for (place, byte) in damage {
            let place = place.index(frame.len());
            frame[place] = byte;
        }
        let _ = message_length(&frame, protocol);
        let _ = crate::hbase::reply::Page::decode(frame.clone(), protocol, "call", 7, 400);
    }

    #[test]
    fn noise_is_an_error_and_never_a_panic(protocol in protocols(), body in proptest::collection::vec(any::<u8>(), 0..400)) {
        let mut frame = message(protocol, 7, &[]);
        frame.pop();
        frame.extend_from_slice(&body);
        let _ = message_length(&frame, protocol);
        let _ = crate::hbase::reply::Page::decode(frame, protocol, "call", 7, 400);
        let _ = message_length(&body, protocol);
    }
}

/// A cell as reading it field by field has it, if it is one.
fn plain_cell(reader: &mut Reader<'_>) -> Result<Option<([Span; 3], i64)>, WireError> {
    let (mut spans, mut time) = ([None; 3], None);
    reader.structure(|reader, field| {
        match field.id {
            1..=3 => spans[field.id as usize - 1] = Some(reader.span(field)?),
            4 => time = Some(reader.i64(field)?),
            _ => return Ok(Verdict::Skip),
        }
        Ok(Verdict::Read)
    })?;
    let [Some(family), Some(qualifier), Some(value)] = spans else {
        return Ok(None);
    };
    Ok(time.map(|time| ([family, qualifier, value], time)))
}

fn cell_bytes() -> impl Strategy<Value = Value> {
    let length = prop_oneof![0_usize..9, 120_usize..140, 16_370_usize..16_400];
    let bytes = length.prop_flat_map(|length| proptest::collection::vec(any::<u8>(), length));
    bytes.prop_map(Value::Bytes)
}

/// The fields of a cell, now and then others.
fn cell_fields() -> impl Strategy<Value = Vec<(i16, Value)>> {
    let usual = (
        cell_bytes(),
        cell_bytes(),
        cell_bytes(),
        prop_oneof![any::<i64>(), 0_i64..1 << 42],
        proptest::option::of(any::<i8>()),
    );
    let usual = usual.prop_map(|(family, qualifier, value, time, kind)| {
        let fields = [family, qualifier, value, Value::I64(time)];
        let kind = kind.map(|kind| (6, Value::I8(kind)));
        (1..).zip(fields).chain(kind).collect()
    });
    let other = proptest::collection::vec((1_i16..8, value()), 0..6);
    prop_oneof![4 => usual, 1 => other]
}

proptest! {
    /// What is read at one go is what is read field by field, whatever was damaged; and usual cells are.
    #[test]
    fn a_cell_read_at_one_go_is_the_same(
        protocol in protocols(),
        fields in cell_fields(),
        damage in proptest::option::of((any::<proptest::sample::Index>(), any::<u8>())),
        cut in proptest::option::of(any::<proptest::sample::Index>()),
    ) {
        let mut frame = message(protocol, 7, &fields);
        let start = message(protocol, 7, &[]).len() - 1;
        if let Some((place, byte)) = damage {
            let place = start + place.index(frame.len() - start);
            frame[place] = byte;
        }
        if let Some(cut) = cut {
            frame.truncate(start + cut.index(frame.len() - start));
        }
        let at_cell = || {
            let mut reader = Reader::new(&frame, protocol);
            reader.message().expect("its head is whole");
            reader
        };
        let (mut one, mut other) = (at_cell(), at_cell());
        match one.usual_cell() {
            Some(cell) => {
                prop_assert_eq!(plain_cell(&mut other), Ok(Some(cell)));
                prop_assert_eq!(one.position(), other.position());
            }
            None => prop_assert_eq!(one.position(), start),
        }
        let is_usual = match &fields[..] {
            [
                (1, Value::Bytes(family)),
                (2, Value::Bytes(qualifier)),
                (3, Value::Bytes(value)),
                (4, Value::I64(_)),
                rest @ ..,
            ] => {
                let mut bytes = [family, qualifier, value].into_iter();
                bytes.all(|bytes| bytes.len() < 1 << 14) && matches!(rest, [] | [(6, Value::I8(_))])
            }
            _ => false,
        };
        if is_usual && protocol == Protocol::Compact && damage.is_none() && cut.is_none() {
            prop_assert_eq!(one.position(), frame.len());
        }
    }
}

#[test]
fn nesting_and_lengths_are_bounded() {
    // Field 1 of type struct, over and over.
    let mut frame = message(Protocol::Compact, 1, &[]);
    frame.pop();
    frame.extend(std::iter::repeat_n(0x1c, 1000));
    assert_eq!(
        message_length(&frame, Protocol::Compact),
        Err(WireError::TooDeep)
    );
    // A list that claims 2^31 - 1 elements.
    let mut frame = message(Protocol::Binary, 1, &[]);
    frame.pop();
    frame.extend_from_slice(&[15, 0, 0, 12, 0x7f, 0xff, 0xff, 0xff]);
    let page = crate::hbase::reply::Page::decode(frame, Protocol::Binary, "call", 1, 400);
    assert_eq!(page.map(|_| ()), Err(WireError::Truncated));
    // A row is as little as its end; more of them than were asked for are no answer.
    let mut frame = message(Protocol::Binary, 1, &[]);
    frame.pop();
    frame.extend_from_slice(&[15, 0, 0, 12, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0]);
    for (rows_max, expected) in [(5, Ok(5)), (4, Err(WireError::Structure))] {
        let frame = frame.clone();
        let page = crate::hbase::reply::Page::decode(frame, Protocol::Binary, "call", 1, rows_max);
        let rows = page.map(|page| page.map_or(0, |page| page.len()));
        assert_eq!(rows, expected);
    }
    // A string of negative length.
    let mut frame = message(Protocol::Binary, 1, &[]);
    frame.pop();
    frame.extend_from_slice(&[11, 0, 1, 0xff, 0xff, 0xff, 0xff]);
    assert_eq!(
        message_length(&frame, Protocol::Binary),
        Err(WireError::Length)
    );
}

#[test]
fn http_is_another_protocol() {
    for protocol in [Protocol::Compact, Protocol::Binary] {
        assert_eq!(
            message_length(b"HTTP/1.1 400 Bad Request\r\n", protocol),
            Err(WireError::WrongProtocol)
        );
    }
}
