//! Encodes calls through the `thrift` crate's protocols.
//!
//! Invariant: writing to memory cannot fail, so a call is encoded whole or, when it is over the limit, not at all.

use thrift::protocol::{
    TBinaryOutputProtocol, TCompactOutputProtocol, TFieldIdentifier, TListIdentifier,
    TMessageIdentifier, TMessageType, TOutputProtocol, TStructIdentifier, TType,
};

use super::Protocol;

/// Encodes one call; `arguments` writes the fields of its argument structure.
pub(in crate::hbase) fn encode(
    protocol: Protocol,
    name: &str,
    sequence: i32,
    arguments: impl FnOnce(&mut Out<'_>) -> thrift::Result<()>,
) -> thrift::Result<Vec<u8>> {
    let mut frame = Vec::new();
    {
        let mut compact;
        let mut binary;
        let output: &mut dyn TOutputProtocol = match protocol {
            Protocol::Compact => {
                compact = TCompactOutputProtocol::new(&mut frame);
                &mut compact
            }
            Protocol::Binary => {
                binary = TBinaryOutputProtocol::new(&mut frame, true);
                &mut binary
            }
        };
        output.write_message_begin(&TMessageIdentifier::new(name, TMessageType::Call, sequence))?;
        Out(output).structure(arguments)?;
        output.write_message_end()?;
    }
    Ok(frame)
}

/// Writes fields, each a number in the interface and a value.
pub(in crate::hbase) struct Out<'a>(&'a mut dyn TOutputProtocol);

impl Out<'_> {
    fn field(&mut self, id: i16, kind: TType) -> thrift::Result<()> {
        self.0.write_field_begin(&TFieldIdentifier {
            name: None,
            field_type: kind,
            id: Some(id),
        })
    }

    /// A structure that is not a field, as in a list.
    pub(in crate::hbase) fn structure(
        &mut self,
        fields: impl FnOnce(&mut Out<'_>) -> thrift::Result<()>,
    ) -> thrift::Result<()> {
        self.0
            .write_struct_begin(&TStructIdentifier::new(String::new()))?;
        fields(&mut Out(self.0))?;
        self.0.write_field_stop()?;
        self.0.write_struct_end()
    }

    pub(in crate::hbase) fn bytes(&mut self, id: i16, value: &[u8]) -> thrift::Result<()> {
        self.field(id, TType::String)?;
        self.0.write_bytes(value)?;
        self.0.write_field_end()
    }

    pub(in crate::hbase) fn i32(&mut self, id: i16, value: i32) -> thrift::Result<()> {
        self.field(id, TType::I32)?;
        self.0.write_i32(value)?;
        self.0.write_field_end()
    }

    pub(in crate::hbase) fn i64(&mut self, id: i16, value: i64) -> thrift::Result<()> {
        self.field(id, TType::I64)?;
        self.0.write_i64(value)?;
        self.0.write_field_end()
    }

    pub(in crate::hbase) fn bool(&mut self, id: i16, value: bool) -> thrift::Result<()> {
        self.field(id, TType::Bool)?;
        self.0.write_bool(value)?;
        self.0.write_field_end()
    }

    pub(in crate::hbase) fn nested(
        &mut self,
        id: i16,
        fields: impl FnOnce(&mut Out<'_>) -> thrift::Result<()>,
    ) -> thrift::Result<()> {
        self.field(id, TType::Struct)?;
        self.structure(fields)?;
        self.0.write_field_end()
    }

    /// A list of structures.
    pub(in crate::hbase) fn list<T>(
        &mut self,
        id: i16,
        items: &[T],
        mut fields: impl FnMut(&mut Out<'_>, &T) -> thrift::Result<()>,
    ) -> thrift::Result<()> {
        self.field(id, TType::List)?;
        let size = list_size(items.len())?;
        self.0
            .write_list_begin(&TListIdentifier::new(TType::Struct, size))?;
        for item in items {
            self.structure(|out| fields(out, item))?;
        }
        self.0.write_list_end()?;
        self.0.write_field_end()
    }
}

fn list_size(length: usize) -> thrift::Result<i32> {
    i32::try_from(length).map_err(|_| {
        thrift::Error::Application(thrift::ApplicationError::new(
            thrift::ApplicationErrorKind::InternalError,
            "too many elements in one request",
        ))
    })
}
