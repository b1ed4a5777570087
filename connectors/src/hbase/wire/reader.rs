//! Reads compact and binary Thrift from a slice.
//!
//! Invariant: `at <= frame.len()`; each element of a container costs at least one byte, so no count is believed that the rest of
//! the frame cannot hold.

use super::super::limits::DEPTH_MAX;
use super::{MessageKind, Protocol, WireError};

/// Type of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::hbase) enum Kind {
    /// One bit; the compact protocol puts it into the field's head.
    Bool,
    /// 8 bits.
    I8,
    /// IEEE 754.
    Double,
    /// 16 bits.
    I16,
    /// 32 bits.
    I32,
    /// 64 bits.
    I64,
    /// Bytes or text.
    Bytes,
    /// Fields until a stop.
    Struct,
    /// Pairs.
    Map,
    /// Elements of one type.
    List,
    /// The same as a list.
    Set,
    /// 16 bytes.
    Uuid,
}

/// Head of a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::hbase) struct Field {
    /// Number in the interface.
    pub(in crate::hbase) id: i16,
    /// Type of its value.
    pub(in crate::hbase) kind: Kind,
    /// The value of a compact bool.
    value: Option<bool>,
}

impl Field {
    /// Whether its value has this type.
    pub(in crate::hbase) fn is(self, kind: Kind) -> bool {
        self.kind == kind
    }
}

/// Bytes of a frame, by position, so that what was decoded owns nothing and borrows nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(in crate::hbase) struct Span {
    start: u32,
    end: u32,
}

impl Span {
    /// The bytes in the frame that the span was read from.
    pub(in crate::hbase) fn of(self, frame: &[u8]) -> &[u8] {
        frame
            .get(self.start as usize..self.end as usize)
            .unwrap_or_default()
    }
}

/// What a visitor did with a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::hbase) enum Verdict {
    /// Its value was read.
    Read,
    /// It was left alone and is skipped.
    Skip,
}

/// A position in a frame.
#[derive(Debug)]
pub(in crate::hbase) struct Reader<'a> {
    frame: &'a [u8],
    at: usize,
    protocol: Protocol,
    depth: usize,
}

impl<'a> Reader<'a> {
    /// At the start of a frame.
    pub(in crate::hbase) fn new(frame: &'a [u8], protocol: Protocol) -> Self {
        Self {
            frame,
            at: 0,
            protocol,
            depth: 0,
        }
    }

    /// Bytes read.
    pub(in crate::hbase) fn position(&self) -> usize {
        self.at
    }

    /// Reads the head of a message: what kind it is, the name of the call, its sequence number.
    pub(in crate::hbase) fn message(&mut self) -> Result<(MessageKind, &'a [u8], i32), WireError> {
        let (code, name, sequence);
        match self.protocol {
            Protocol::Compact => {
                if self.byte()? != 0x82 {
                    return Err(WireError::WrongProtocol);
                }
                let version_and_kind = self.byte()?;
                if version_and_kind & 0x1f != 1 {
                    return Err(WireError::WrongProtocol);
                }
                code = version_and_kind >> 5;
                sequence = self.varint(5)? as u32 as i32;
                name = self.bytes()?;
            }
            Protocol::Binary => {
                let [high, low, _, kind] = self.array::<4>()?;
                if [high, low] != [0x80, 0x01] {
                    return Err(WireError::WrongProtocol);
                }
                code = kind;
                name = self.bytes()?;
                sequence = i32::from_be_bytes(self.array()?);
            }
        }
        let kind = match code {
            2 => MessageKind::Reply,
            3 => MessageKind::Exception,
            _ => return Err(WireError::WrongProtocol),
        };
        Ok((kind, name.of(self.frame), sequence))
    }

    /// Reads a structure, giving each field to `visit`, which reads its value or has it skipped.
    pub(in crate::hbase) fn structure(
        &mut self,
        mut visit: impl FnMut(&mut Self, Field) -> Result<Verdict, WireError>,
    ) -> Result<(), WireError> {
        self.enter()?;
        let mut last_id = 0;
        while let Some(field) = self.field(last_id)? {
            last_id = field.id;
            if visit(self, field)? == Verdict::Skip && field.value.is_none() {
                self.skip(field.kind)?;
            }
        }
        self.depth -= 1;
        Ok(())
    }

    /// Reads the elements of a list field, each by `element`, which must read the whole value.
    pub(in crate::hbase) fn list(
        &mut self,
        field: Field,
        kind: Kind,
        mut element: impl FnMut(&mut Self) -> Result<(), WireError>,
    ) -> Result<(), WireError> {
        if !matches!(field.kind, Kind::List | Kind::Set) {
            return Err(WireError::Structure);
        }
        self.enter()?;
        let (found, count) = self.list_head()?;
        if count > 0 && found != kind {
            return Err(WireError::Structure);
        }
        for _ in 0..count {
            element(self)?;
        }
        self.depth -= 1;
        Ok(())
    }

    /// The value of a bool field.
    pub(in crate::hbase) fn bool(&mut self, field: Field) -> Result<bool, WireError> {
        match (field.kind, field.value) {
            (Kind::Bool, Some(value)) => Ok(value),
            (Kind::Bool, None) => Ok(self.byte()? == 1),
            _ => Err(WireError::Structure),
        }
    }

    /// The value of an i32 field, or of an enumeration.
    pub(in crate::hbase) fn i32(&mut self, field: Field) -> Result<i32, WireError> {
        match (field.kind, self.protocol) {
            (Kind::I32, Protocol::Compact) => Ok(zigzag(u64::from(self.varint(5)? as u32)) as i32),
            (Kind::I32, Protocol::Binary) => Ok(i32::from_be_bytes(self.array()?)),
            _ => Err(WireError::Structure),
        }
    }

    /// The value of an i64 field.
    pub(in crate::hbase) fn i64(&mut self, field: Field) -> Result<i64, WireError> {
        match (field.kind, self.protocol) {
            (Kind::I64, Protocol::Compact) => Ok(zigzag(self.varint(10)?)),
            (Kind::I64, Protocol::Binary) => Ok(i64::from_be_bytes(self.array()?)),
            _ => Err(WireError::Structure),
        }
    }

    /// The value of a bytes field, by position.
    pub(in crate::hbase) fn span(&mut self, field: Field) -> Result<Span, WireError> {
        match field.kind {
            Kind::Bytes => self.bytes(),
            _ => Err(WireError::Structure),
        }
    }

    /// The value of a text field.
    pub(in crate::hbase) fn text(&mut self, field: Field) -> Result<String, WireError> {
        let bytes = self.span(field)?.of(self.frame);
        match std::str::from_utf8(bytes) {
            Ok(text) => Ok(text.to_owned()),
            Err(_) => Err(WireError::Text),
        }
    }

    /// The fields of a structure that holds bytes as fields 1 to 3 and a 64-bit number as field 4, perhaps a byte as field 6, and
    /// nothing else: how gateways write cells in the compact protocol, read at one go. `None`, and nothing is read, when the
    /// structure is another, damaged or in the binary protocol.
    pub(in crate::hbase) fn usual_cell(&mut self) -> Option<([Span; 3], i64)> {
        if self.protocol != Protocol::Compact || self.depth >= DEPTH_MAX {
            return None;
        }
        let mut at = self.at;
        let spans = [
            self.usual_bytes(&mut at)?,
            self.usual_bytes(&mut at)?,
            self.usual_bytes(&mut at)?,
        ];
        let rest = self.frame.get(at..)?;
        // The head of a field is how much further its number is, and its type.
        let (0x16, number) = rest.split_first().map(|(head, rest)| (*head, rest))? else {
            return None;
        };
        let (mut value, mut length) = (0_u64, 0_usize);
        for byte in number.iter().take(10) {
            value |= u64::from(byte & 0x7f) << (7 * length);
            length += 1;
            if byte & 0x80 == 0 {
                break;
            }
        }
        // A number that does not end in time is read again as any other would be, and refused.
        let end = match number.get(length.checked_sub(1)?..)? {
            [0..0x80, 0, ..] => at + 1 + length + 1,
            [0..0x80, 0x23, _, 0, ..] => at + 1 + length + 3,
            _ => return None,
        };
        self.at = end;
        Some((spans, zigzag(value)))
    }

    /// A field of bytes whose number is one more than that of the field before it, shorter than 16 KiB.
    fn usual_bytes(&self, at: &mut usize) -> Option<Span> {
        let (length, start) = match *self.frame.get(*at..)? {
            [0x18, length @ 0..0x80, ..] => (usize::from(length), *at + 2),
            [0x18, low, high @ 0..0x80, ..] => {
                (usize::from(low & 0x7f) | usize::from(high) << 7, *at + 3)
            }
            _ => return None,
        };
        let end = start + length;
        *at = end;
        (end <= self.frame.len()).then_some(Span {
            start: u32::try_from(start).ok()?,
            end: u32::try_from(end).ok()?,
        })
    }

    /// A bytes value that is not a field, as in a list.
    pub(in crate::hbase) fn bytes(&mut self) -> Result<Span, WireError> {
        let length = match self.protocol {
            Protocol::Compact => self.varint(5)? as u32 as usize,
            Protocol::Binary => {
                usize::try_from(i32::from_be_bytes(self.array()?)).map_err(|_| WireError::Length)?
            }
        };
        self.advance(length)
    }

    /// Passes over a value.
    pub(in crate::hbase) fn skip(&mut self, kind: Kind) -> Result<(), WireError> {
        match (kind, self.protocol) {
            (Kind::Bool | Kind::I8, _) => self.advance(1)?,
            (Kind::Double, _) | (Kind::I64, Protocol::Binary) => self.advance(8)?,
            (Kind::Uuid, _) => self.advance(16)?,
            (Kind::I16, Protocol::Binary) => self.advance(2)?,
            (Kind::I32, Protocol::Binary) => self.advance(4)?,
            (Kind::I16 | Kind::I32 | Kind::I64, Protocol::Compact) => {
                self.varint(10)?;
                Span::default()
            }
            (Kind::Bytes, _) => self.bytes()?,
            (Kind::Struct, _) => return self.structure(|_, _| Ok(Verdict::Skip)),
            (Kind::List | Kind::Set, _) => {
                self.enter()?;
                let (kind, count) = self.list_head()?;
                for _ in 0..count {
                    self.skip(kind)?;
                }
                self.depth -= 1;
                Span::default()
            }
            (Kind::Map, _) => return self.skip_map(),
        };
        Ok(())
    }

    fn skip_map(&mut self) -> Result<(), WireError> {
        self.enter()?;
        let (count, kinds) = match self.protocol {
            Protocol::Compact => match self.varint(5)? as u32 {
                0 => (0, [0, 0]),
                count => {
                    let kinds = self.byte()?;
                    (count, [kinds >> 4, kinds & 0x0f])
                }
            },
            Protocol::Binary => {
                let kinds = self.array::<2>()?;
                let count = i32::from_be_bytes(self.array()?);
                (u32::try_from(count).map_err(|_| WireError::Length)?, kinds)
            }
        };
        if count > 0 {
            let [key, value] = [self.kind(kinds[0])?, self.kind(kinds[1])?];
            for _ in 0..self.believable(count)? {
                self.skip(key)?;
                self.skip(value)?;
            }
        }
        self.depth -= 1;
        Ok(())
    }

    fn list_head(&mut self) -> Result<(Kind, usize), WireError> {
        let (code, count) = match self.protocol {
            Protocol::Compact => {
                let head = self.byte()?;
                match head >> 4 {
                    15 => (head & 0x0f, self.varint(5)? as u32),
                    short => (head & 0x0f, u32::from(short)),
                }
            }
            Protocol::Binary => {
                let code = self.byte()?;
                let count = i32::from_be_bytes(self.array()?);
                (code, u32::try_from(count).map_err(|_| WireError::Length)?)
            }
        };
        // Some servers give an empty list no element type.
        if count == 0 {
            return Ok((Kind::Bool, 0));
        }
        Ok((self.kind(code)?, self.believable(count)?))
    }

    /// A count that the rest of the frame can hold.
    fn believable(&self, count: u32) -> Result<usize, WireError> {
        match self.frame.len() - self.at >= count as usize {
            true => Ok(count as usize),
            // On a stream the rest may be on its way.
            false => Err(WireError::Truncated),
        }
    }

    fn field(&mut self, last_id: i16) -> Result<Option<Field>, WireError> {
        let head = self.byte()?;
        match self.protocol {
            Protocol::Binary if head == 0 => Ok(None),
            Protocol::Binary => Ok(Some(Field {
                kind: self.kind(head)?,
                id: i16::from_be_bytes(self.array()?),
                value: None,
            })),
            Protocol::Compact if head & 0x0f == 0 => Ok(None),
            Protocol::Compact => {
                let id = match head >> 4 {
                    0 => zigzag(self.varint(3)?) as i16,
                    delta => last_id
                        .checked_add(i16::from(delta))
                        .ok_or(WireError::Structure)?,
                };
                let kind = self.kind(head & 0x0f)?;
                let value = (kind == Kind::Bool).then_some(head & 0x0f == 1);
                Ok(Some(Field { id, kind, value }))
            }
        }
    }

    fn kind(&self, code: u8) -> Result<Kind, WireError> {
        let kind = match (self.protocol, code) {
            (Protocol::Compact, 1 | 2) | (Protocol::Binary, 2) => Kind::Bool,
            (_, 3) => Kind::I8,
            (Protocol::Compact, 4) | (Protocol::Binary, 6) => Kind::I16,
            (Protocol::Compact, 5) | (Protocol::Binary, 8) => Kind::I32,
            (Protocol::Compact, 6) | (Protocol::Binary, 10) => Kind::I64,
            (Protocol::Compact, 7) | (Protocol::Binary, 4) => Kind::Double,
            (Protocol::Compact, 8) | (Protocol::Binary, 11) => Kind::Bytes,
            (Protocol::Compact, 9) | (Protocol::Binary, 15) => Kind::List,
            (Protocol::Compact, 10) | (Protocol::Binary, 14) => Kind::Set,
            (Protocol::Compact, 11) | (Protocol::Binary, 13) => Kind::Map,
            (Protocol::Compact, 12) | (Protocol::Binary, 12) => Kind::Struct,
            (Protocol::Compact, 13) | (Protocol::Binary, 16) => Kind::Uuid,
            _ => return Err(WireError::UnknownType),
        };
        Ok(kind)
    }

    fn enter(&mut self) -> Result<(), WireError> {
        self.depth += 1;
        match self.depth <= DEPTH_MAX {
            true => Ok(()),
            false => Err(WireError::TooDeep),
        }
    }

    fn varint(&mut self, bytes_max: usize) -> Result<u64, WireError> {
        let mut value = 0u64;
        for index in 0..bytes_max {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << (7 * index);
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(WireError::Length)
    }

    fn byte(&mut self) -> Result<u8, WireError> {
        let byte = *self.frame.get(self.at).ok_or(WireError::Truncated)?;
        self.at += 1;
        Ok(byte)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        let rest = self.frame.get(self.at..).unwrap_or_default();
        let bytes = rest.first_chunk::<N>().ok_or(WireError::Truncated)?;
        self.at += N;
        Ok(*bytes)
    }

    fn advance(&mut self, length: usize) -> Result<Span, WireError> {
        let end = self.at.checked_add(length).ok_or(WireError::Length)?;
        if end > self.frame.len() {
            return Err(WireError::Truncated);
        }
        let start = u32::try_from(self.at).map_err(|_| WireError::Length)?;
        self.at = end;
        let end = u32::try_from(end).map_err(|_| WireError::Length)?;
        Ok(Span { start, end })
    }
}

fn zigzag(value: u64) -> i64 {
    (value >> 1) as i64 ^ -((value & 1) as i64)
}
