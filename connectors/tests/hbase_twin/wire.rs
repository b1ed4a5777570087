//! Messages of the Thrift2 interface as trees of values, by the `thrift` crate's own protocol.
//!
//! Invariant: nothing of the code under test is used, so that a fault of it is not shared.

use std::collections::BTreeMap;

use thrift::protocol::{
    TCompactInputProtocol, TCompactOutputProtocol, TFieldIdentifier, TInputProtocol,
    TListIdentifier, TMessageIdentifier, TMessageType, TOutputProtocol, TStructIdentifier, TType,
};

/// What a field holds.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    Bool(bool),
    I32(i32),
    I64(i64),
    Bytes(Vec<u8>),
    List(Vec<Value>),
    Struct(Fields),
}

pub(super) type Fields = BTreeMap<i16, Value>;

impl Value {
    pub(super) fn fields(&self) -> Fields {
        match self {
            Value::Struct(fields) => fields.clone(),
            other => panic!("{other:?} is no struct"),
        }
    }

    pub(super) fn items(&self) -> &[Value] {
        match self {
            Value::List(items) => items,
            other => panic!("{other:?} is no list"),
        }
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        match self {
            Value::Bytes(bytes) => bytes.clone(),
            other => panic!("{other:?} is no binary"),
        }
    }

    pub(super) fn number(&self) -> i64 {
        match self {
            Value::I32(number) => i64::from(*number),
            Value::I64(number) => *number,
            Value::Bool(is) => i64::from(*is),
            other => panic!("{other:?} is no number"),
        }
    }
}

/// Name, sequence number and arguments of a request.
pub(super) fn request(frame: &[u8]) -> thrift::Result<(String, i32, Fields)> {
    let mut input = TCompactInputProtocol::new(frame);
    let head = input.read_message_begin()?;
    Ok((head.name, head.sequence_number, structure(&mut input)?))
}

fn structure(input: &mut dyn TInputProtocol) -> thrift::Result<Fields> {
    let mut fields = Fields::new();
    input.read_struct_begin()?;
    loop {
        let field = input.read_field_begin()?;
        if field.field_type == TType::Stop {
            break;
        }
        let value = value(input, field.field_type)?;
        input.read_field_end()?;
        fields.insert(field.id.unwrap_or(-1), value);
    }
    input.read_struct_end()?;
    Ok(fields)
}

fn value(input: &mut dyn TInputProtocol, kind: TType) -> thrift::Result<Value> {
    Ok(match kind {
        TType::Bool => Value::Bool(input.read_bool()?),
        TType::I32 => Value::I32(input.read_i32()?),
        TType::I64 => Value::I64(input.read_i64()?),
        TType::String => Value::Bytes(input.read_bytes()?),
        TType::Struct => Value::Struct(structure(input)?),
        TType::List => {
            let head = input.read_list_begin()?;
            let items = (0..head.size).map(|_| value(input, head.element_type));
            Value::List(items.collect::<thrift::Result<_>>()?)
        }
        other => panic!("{other:?} is in no request of ours"),
    })
}

/// What a gateway says of an exception that its code does not declare, with its length before it.
pub(super) fn internal_error(name: &str, sequence: i32) -> thrift::Result<Vec<u8>> {
    let mut body = Vec::new();
    {
        let mut out = TCompactOutputProtocol::new(&mut body);
        let head = TMessageIdentifier::new(name, TMessageType::Exception, sequence);
        out.write_message_begin(&head)?;
        let message = format!("Internal error processing {name}");
        let fields = Fields::from([(1, Value::Bytes(message.into_bytes())), (2, Value::I32(6))]);
        write_fields(&mut out, &fields)?;
    }
    Ok([&(body.len() as u32).to_be_bytes()[..], &body].concat())
}

/// A reply with its length before it.
pub(super) fn reply(name: &str, sequence: i32, fields: &Fields) -> thrift::Result<Vec<u8>> {
    let mut body = Vec::new();
    {
        let mut out = TCompactOutputProtocol::new(&mut body);
        let head = TMessageIdentifier::new(name, TMessageType::Reply, sequence);
        out.write_message_begin(&head)?;
        write_fields(&mut out, fields)?;
    }
    Ok([&(body.len() as u32).to_be_bytes()[..], &body].concat())
}

fn write_fields(out: &mut dyn TOutputProtocol, fields: &Fields) -> thrift::Result<()> {
    out.write_struct_begin(&TStructIdentifier::new(""))?;
    for (id, value) in fields {
        out.write_field_begin(&TFieldIdentifier {
            name: None,
            field_type: kind(value),
            id: Some(*id),
        })?;
        write_value(out, value)?;
        out.write_field_end()?;
    }
    out.write_field_stop()?;
    out.write_struct_end()
}

fn kind(value: &Value) -> TType {
    match value {
        Value::Bool(_) => TType::Bool,
        Value::I32(_) => TType::I32,
        Value::I64(_) => TType::I64,
        Value::Bytes(_) => TType::String,
        Value::List(_) => TType::List,
        Value::Struct(_) => TType::Struct,
    }
}

fn write_value(out: &mut dyn TOutputProtocol, value: &Value) -> thrift::Result<()> {
    match value {
        Value::Bool(is) => out.write_bool(*is),
        Value::I32(number) => out.write_i32(*number),
        Value::I64(number) => out.write_i64(*number),
        Value::Bytes(bytes) => out.write_bytes(bytes),
        Value::Struct(fields) => write_fields(out, fields),
        Value::List(items) => {
            let element = items.first().map_or(TType::Struct, kind);
            out.write_list_begin(&TListIdentifier::new(element, items.len() as i32))?;
            for item in items {
                write_value(out, item)?;
            }
            out.write_list_end()
        }
    }
}
