//! Cuts the byte stream into messages and decodes each from exactly its own bytes.
//!
//! Invariant: a length is checked before anything is allocated for it, the layout is checked before pgwire's decoder (which
//! trusts its input) sees the bytes, and a message never reads into the next one. Whatever does not fit ends the connection
//! with 08P01; text that is not UTF-8 and statements over the size limit only fail their message.

use std::panic::{AssertUnwindSafe, catch_unwind};

use bytes::{Buf, BytesMut};
use pgwire::messages::{DecodeContext, Message, PgWireFrontendMessage, ProtocolVersion};

use super::error::{report, violation};
use super::limits::{PgLimits, SMALL_FRAME_BYTES_MAX};
use crate::frontend::Report;

/// One message of an open session.
#[derive(Debug)]
pub(super) enum Frame {
    /// A well-formed message.
    Message(PgWireFrontendMessage),
    /// A message that fails by itself; the connection goes on as after an error in a message of this type.
    Refused {
        /// Type byte.
        tag: u8,
        /// Why.
        report: Report,
    },
}

/// Cuts frames from a buffer that the socket fills.
#[derive(Debug, Default)]
pub(super) struct Splitter {
    /// Bytes of an over-long statement that are still to be read over, and what to answer then.
    skipping: Option<(usize, u8, Report)>,
}

impl Splitter {
    /// The next frame, or `None` until more bytes have come.
    ///
    /// # Errors
    /// 08P01; the connection cannot go on.
    pub(super) fn next(
        &mut self,
        buffer: &mut BytesMut,
        limits: &PgLimits,
    ) -> Result<Option<Frame>, Report> {
        if let Some((left, tag, report)) = self.skipping.take() {
            let step = left.min(buffer.len());
            buffer.advance(step);
            if step < left {
                self.skipping = Some((left - step, tag, report));
                return Ok(None);
            }
            return Ok(Some(Frame::Refused { tag, report }));
        }
        let Some(&tag) = buffer.first() else {
            return Ok(None);
        };
        let cap = length_cap(tag, limits)
            .ok_or_else(|| violation(format!("invalid frontend message type {tag}")))?;
        let Some(length) = length_at(buffer, 1) else {
            return Ok(None);
        };
        if length < 4 {
            return Err(violation("invalid message length"));
        }
        if length > cap {
            let statement = matches!(tag, b'Q' | b'P') && length <= limits.frame_bytes_max;
            if !statement {
                return Err(violation("invalid message length"));
            }
            let mut too_long = report("54000", "statement is too long");
            too_long.detail = Some(format!(
                "The message has {length} bytes, the limit is {cap} bytes."
            ));
            self.skipping = Some((length + 1, tag, too_long));
            return self.next(buffer, limits);
        }
        if buffer.len() < length + 1 {
            return Ok(None);
        }
        let frame = buffer.split_to(length + 1);
        decode(tag, frame).map(Some)
    }
}

/// Longest length field a message type may carry; `None` for a type that clients do not send.
fn length_cap(tag: u8, limits: &PgLimits) -> Option<usize> {
    match tag {
        b'Q' | b'P' => Some(limits.statement_frame_bytes_max),
        b'B' | b'd' | b'F' => Some(limits.frame_bytes_max),
        b'C' | b'D' | b'E' | b'H' | b'S' | b'X' | b'c' | b'f' => Some(SMALL_FRAME_BYTES_MAX),
        _ => None,
    }
}

fn length_at(buffer: &[u8], offset: usize) -> Option<usize> {
    let bytes = buffer.get(offset..offset + 4)?;
    Some(u32::from_be_bytes(bytes.try_into().ok()?) as usize)
}

fn decode(tag: u8, mut frame: BytesMut) -> Result<Frame, Report> {
    if tag == b'F' {
        let report = report("0A000", "the function call protocol is not supported");
        return Ok(Frame::Refused { tag, report });
    }
    match check_layout(tag, &frame[5..]) {
        Ok(()) => {}
        Err(Fault::Layout) => return Err(violation("invalid message format")),
        Err(Fault::Text(report)) => return Ok(Frame::Refused { tag, report }),
    }
    let context = session_context();
    // The layout check leaves nothing to panic on; should pgwire's decoder disagree, only this connection ends.
    match catch_unwind(AssertUnwindSafe(|| {
        PgWireFrontendMessage::decode(&mut frame, &context)
    })) {
        Ok(Ok(Some(message))) => Ok(Frame::Message(message)),
        _ => Err(violation("invalid message format")),
    }
}

fn session_context() -> DecodeContext {
    let mut context = DecodeContext::new(ProtocolVersion::PROTOCOL3_0);
    context.awaiting_frontend_ssl = false;
    context.awaiting_frontend_startup = false;
    context
}

/// Appends a message to the output.
pub(super) fn encode<M: Message>(out: &mut BytesMut, message: &M) {
    let start = out.len();
    if let Err(error) = message.encode(out) {
        // Only a message over pgwire's own length limit gets here; half a message must not reach the client.
        out.truncate(start);
        tracing::error!(%error, "could not encode a protocol message");
    }
}

/// What is wrong with a message body.
#[derive(Debug)]
enum Fault {
    Layout,
    Text(Report),
}

/// Walks over a body without keeping anything.
struct Walk<'a> {
    rest: &'a [u8],
}

impl<'a> Walk<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], Fault> {
        if count > self.rest.len() {
            return Err(Fault::Layout);
        }
        let (head, tail) = self.rest.split_at(count);
        self.rest = tail;
        Ok(head)
    }

    fn int16(&mut self) -> Result<usize, Fault> {
        let bytes = self.take(2)?;
        Ok(usize::from(u16::from_be_bytes([bytes[0], bytes[1]])))
    }

    fn text(&mut self) -> Result<(), Fault> {
        let end = self
            .rest
            .iter()
            .position(|&byte| byte == 0)
            .ok_or(Fault::Layout)?;
        let text = self.take(end + 1)?;
        check_utf8(&text[..end]).map_err(Fault::Text)
    }

    fn value(&mut self) -> Result<(), Fault> {
        let bytes = self.take(4)?;
        let length = i32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        match usize::try_from(length) {
            Ok(length) => self.take(length).map(drop),
            Err(_) if length == -1 => Ok(()),
            Err(_) => Err(Fault::Layout),
        }
    }

    fn end(&self) -> Result<(), Fault> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(Fault::Layout)
        }
    }
}

/// 22021 for bytes that are not UTF-8.
pub(super) fn check_utf8(bytes: &[u8]) -> Result<(), Report> {
    let Err(error) = std::str::from_utf8(bytes) else {
        return Ok(());
    };
    let start = error.valid_up_to();
    let end = bytes.len().min(start + error.error_len().unwrap_or(4));
    let shown: Vec<String> = bytes[start..end]
        .iter()
        .map(|byte| format!("0x{byte:02x}"))
        .collect();
    Err(report(
        "22021",
        format!(
            "invalid byte sequence for encoding \"UTF8\": {}",
            shown.join(" ")
        ),
    ))
}

fn check_layout(tag: u8, body: &[u8]) -> Result<(), Fault> {
    let mut walk = Walk { rest: body };
    match tag {
        b'Q' | b'f' => walk.text()?,
        b'P' => {
            walk.text()?;
            walk.text()?;
            let types = walk.int16()?;
            walk.take(types * 4)?;
        }
        b'B' => {
            walk.text()?;
            walk.text()?;
            let formats = walk.int16()?;
            walk.take(formats * 2)?;
            for _ in 0..walk.int16()? {
                walk.value()?;
            }
            let formats = walk.int16()?;
            walk.take(formats * 2)?;
        }
        b'C' | b'D' => {
            let kind = walk.take(1)?;
            if !matches!(kind[0], b'S' | b'P') {
                return Err(Fault::Layout);
            }
            walk.text()?;
        }
        b'E' => {
            walk.text()?;
            walk.take(4)?;
        }
        b'd' => return Ok(()),
        _ => {}
    }
    walk.end()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(bytes: &[u8]) -> Result<Vec<Frame>, Report> {
        let mut buffer = BytesMut::from(bytes);
        let mut splitter = Splitter::default();
        let mut frames = Vec::new();
        while let Some(frame) = splitter.next(&mut buffer, &PgLimits::default())? {
            frames.push(frame);
        }
        Ok(frames)
    }

    fn frame(tag: u8, body: &[u8]) -> Vec<u8> {
        let mut bytes = vec![tag];
        bytes.extend((body.len() as u32 + 4).to_be_bytes());
        bytes.extend(body);
        bytes
    }

    #[test]
    fn malformed_frames_are_violations() {
        let table: &[(&str, Vec<u8>)] = &[
            ("length below its own size", b"Q\0\0\0\x03".to_vec()),
            ("password after the login", frame(b'p', b"x\0")),
            ("unknown type", frame(b'~', b"")),
            (
                "zero length, which underflows in pgwire",
                b"C\0\0\0\0".to_vec(),
            ),
            ("a close without a body", frame(b'C', b"")),
            (
                "a close of neither statement nor portal",
                frame(b'C', b"Xa\0"),
            ),
            ("a query without its terminator", frame(b'Q', b"SELECT 1")),
            ("bytes behind the terminator", frame(b'Q', b"SELECT 1\0x")),
            (
                "more parameter types than bytes",
                frame(b'P', b"\0\0\xff\xff\0\0"),
            ),
            (
                "more parameters than bytes",
                frame(b'B', b"\0\0\0\0\xff\xff"),
            ),
            (
                "a parameter of length -2",
                frame(b'B', b"\0\0\0\0\0\x01\xff\xff\xff\xfe\0\0"),
            ),
            (
                "a parameter longer than the message",
                frame(b'B', b"\0\0\0\0\0\x01\0\0\0\x09ab\0\0"),
            ),
            ("a sync with a body", frame(b'S', b"x")),
            ("a close that is too long", b"C\0\xff\xff\xff".to_vec()),
            ("a bind of 3 GB", b"B\xc0\0\0\0".to_vec()),
            ("a query over every limit", b"Q\x7f\0\0\0".to_vec()),
        ];
        for (what, bytes) in table {
            match split(bytes) {
                Err(report) => assert_eq!(report.sqlstate, "08P01", "{what}"),
                Ok(frames) => panic!("{what} was accepted as {frames:?}"),
            }
        }
    }

    #[test]
    fn a_string_never_eats_the_next_frame() {
        let mut bytes = frame(b'Q', b"SELECT 1");
        bytes.extend(frame(b'Q', b"SELECT 2\0"));
        assert_eq!(split(&bytes).expect_err("no terminator").sqlstate, "08P01");
    }

    #[test]
    fn every_split_of_the_bytes_gives_the_same_frames() {
        let mut bytes = frame(b'P', b"s\0SELECT $1\0\0\x01\0\0\0\x17");
        bytes.extend(frame(b'B', b"\0s\0\0\x01\0\0\0\x01\0\0\0\x01\x31\0\0"));
        bytes.extend(frame(b'S', b""));
        for cut in 0..bytes.len() {
            let mut splitter = Splitter::default();
            let mut buffer = BytesMut::new();
            let mut seen = Vec::new();
            for part in [&bytes[..cut], &bytes[cut..]] {
                buffer.extend_from_slice(part);
                while let Some(frame) = splitter
                    .next(&mut buffer, &PgLimits::default())
                    .expect("well formed")
                {
                    seen.push(format!("{frame:?}"));
                }
            }
            assert_eq!(seen.len(), 3, "cut at {cut}");
            assert!(
                seen[1].contains("parameters: [Some(b\"1\")]"),
                "{}",
                seen[1]
            );
        }
    }

    #[test]
    fn a_long_statement_is_read_over_and_refused() {
        let limits = PgLimits {
            statement_frame_bytes_max: 100,
            ..PgLimits::default()
        };
        let mut bytes = frame(b'Q', &[b'x'; 5_000]);
        bytes.extend(frame(b'S', b""));
        let mut splitter = Splitter::default();
        let mut buffer = BytesMut::new();
        let mut seen = Vec::new();
        let mut held_max = 0;
        for part in bytes.chunks(7) {
            buffer.extend_from_slice(part);
            while let Some(frame) = splitter.next(&mut buffer, &limits).expect("well formed") {
                seen.push(frame);
            }
            held_max = held_max.max(buffer.len());
        }
        assert!(
            matches!(&seen[0], Frame::Refused { tag: b'Q', report } if report.sqlstate == "54000"),
            "{seen:?}"
        );
        assert!(matches!(
            &seen[1],
            Frame::Message(PgWireFrontendMessage::Sync(_))
        ));
        assert!(
            held_max < 20,
            "the statement was buffered: {held_max} bytes"
        );
    }

    #[test]
    fn text_that_is_not_utf8_fails_only_its_message() {
        let frames = split(&frame(b'Q', b"SELECT '\xff'\0")).expect("the connection goes on");
        match &frames[..] {
            [Frame::Refused { tag: b'Q', report }] => {
                assert_eq!(report.sqlstate, "22021");
                assert_eq!(
                    report.message,
                    "invalid byte sequence for encoding \"UTF8\": 0xff"
                );
            }
            other => panic!("{other:?}"),
        }
    }
}
