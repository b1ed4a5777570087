//! COPY TO STDOUT: rows as CopyData messages in text, CSV or binary.
//!
//! Invariant: what is written, COPY FROM with the same options reads back as the same rows.

use bytes::{BufMut, BytesMut};
use pgwire::messages::copy::{CopyDone, CopyOutResponse};
use thalweg_planner::OutputColumn;
use thalweg_sql::{CopyFormat, CopyHeader, CopyOptions};

use super::connection::{Connection, Failure};
use super::encode::{BatchEncoder, Format};
use super::error::report;
use super::frames::encode;
use super::rows::{Rows, Sent};
use super::wire::{End, Interrupts};
use crate::frontend::Report;

/// First bytes of the binary format, its flags and the length of its extension.
pub(super) const SIGNATURE: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";

/// The characters and words of one COPY.
#[derive(Debug, Clone)]
pub(super) struct CopyLayout {
    pub(super) format: CopyFormat,
    pub(super) delimiter: u8,
    pub(super) quote: u8,
    pub(super) escape: u8,
    pub(super) null: Vec<u8>,
}

impl CopyLayout {
    pub(super) fn new(options: &CopyOptions) -> Self {
        let csv = options.format == CopyFormat::Csv;
        // The parser has checked that these are single bytes.
        let byte = |character: char| u8::try_from(character).unwrap_or(b'?');
        let quote = options.quote.map_or(b'"', byte);
        Self {
            format: options.format,
            delimiter: byte(options.delimiter.unwrap_or(if csv { ',' } else { '\t' })),
            quote,
            escape: options.escape.map_or(quote, byte),
            null: match (&options.null, csv) {
                (Some(null), _) => null.clone().into_bytes(),
                (None, true) => Vec::new(),
                (None, false) => b"\\N".to_vec(),
            },
        }
    }
}

/// Writes rows; keeps one value's bytes between rows.
#[derive(Debug)]
pub(super) struct CopyWriter {
    layout: CopyLayout,
    value: BytesMut,
    /// The binary signature has not been written. It shares a message with the first row, as Postgres does it and clients that
    /// take a message for a row expect it.
    unsigned: bool,
}

impl CopyWriter {
    pub(super) fn new(options: &CopyOptions) -> Self {
        Self {
            layout: CopyLayout::new(options),
            value: BytesMut::new(),
            unsigned: options.format == CopyFormat::Binary,
        }
    }

    /// Format in which values are wanted.
    pub(super) fn format(&self) -> Format {
        match self.layout.format {
            CopyFormat::Binary => Format::Binary,
            CopyFormat::Text | CopyFormat::Csv => Format::Text,
        }
    }

    /// Appends one row as one CopyData message.
    pub(super) fn put_row(
        &mut self,
        encoder: &BatchEncoder<'_>,
        row: usize,
        out: &mut BytesMut,
    ) -> Result<(), Report> {
        let start = begin(out);
        let width = encoder.width();
        if std::mem::take(&mut self.unsigned) {
            out.put_slice(SIGNATURE);
        }
        if self.layout.format == CopyFormat::Binary {
            out.put_i16(
                i16::try_from(width).map_err(|_| report("54011", "too many result columns"))?,
            );
        }
        for column in 0..width {
            self.value.clear();
            let there = encoder.value(row, column, &mut self.value)?;
            match self.layout.format {
                CopyFormat::Binary if there => {
                    let length = i32::try_from(self.value.len())
                        .map_err(|_| report("54000", "result value is too large"))?;
                    out.put_i32(length);
                    out.put_slice(&self.value);
                }
                CopyFormat::Binary => out.put_i32(-1),
                CopyFormat::Text | CopyFormat::Csv => {
                    if column > 0 {
                        out.put_u8(self.layout.delimiter);
                    }
                    self.put_value(there, width == 1, out);
                }
            }
        }
        if self.layout.format != CopyFormat::Binary {
            out.put_u8(b'\n');
        }
        end(out, start)
    }

    fn put_value(&self, there: bool, alone: bool, out: &mut BytesMut) {
        let layout = &self.layout;
        match (there, layout.format) {
            (false, _) => out.put_slice(&layout.null),
            (true, CopyFormat::Csv) => put_csv(layout, &self.value, alone, out),
            (true, _) => put_text(layout, &self.value, out),
        }
    }

    /// Appends the line of names.
    fn put_header(&self, columns: &[OutputColumn], out: &mut BytesMut) -> Result<(), Report> {
        let start = begin(out);
        for (index, column) in columns.iter().enumerate() {
            if index > 0 {
                out.put_u8(self.layout.delimiter);
            }
            let name = column.name.as_bytes();
            match self.layout.format {
                CopyFormat::Csv => put_csv(&self.layout, name, columns.len() == 1, out),
                _ => put_text(&self.layout, name, out),
            }
        }
        out.put_u8(b'\n');
        end(out, start)
    }
}

/// Begins a CopyData message.
fn begin(out: &mut BytesMut) -> usize {
    out.put_u8(b'd');
    out.put_u32(0);
    out.len() - 4
}

fn end(out: &mut BytesMut, start: usize) -> Result<(), Report> {
    let length = u32::try_from(out.len() - start)
        .ok()
        .filter(|length| *length < 1 << 30)
        .ok_or_else(|| report("54000", "result row is too large"))?;
    out[start..start + 4].copy_from_slice(&length.to_be_bytes());
    Ok(())
}

fn put_text(layout: &CopyLayout, value: &[u8], out: &mut BytesMut) {
    for &byte in value {
        let escaped = match byte {
            b'\\' => b'\\',
            b'\n' => b'n',
            b'\r' => b'r',
            b'\t' => b't',
            0x08 => b'b',
            0x0b => b'v',
            0x0c => b'f',
            byte if byte == layout.delimiter => byte,
            byte => {
                out.put_u8(byte);
                continue;
            }
        };
        out.put_u8(b'\\');
        out.put_u8(escaped);
    }
}

fn put_csv(layout: &CopyLayout, value: &[u8], alone: bool, out: &mut BytesMut) {
    let special = |byte: &u8| {
        matches!(*byte, b'\n' | b'\r') || *byte == layout.delimiter || *byte == layout.quote
    };
    let quoted = value == layout.null || value.iter().any(special) || (alone && value == b"\\.");
    if !quoted {
        out.put_slice(value);
        return;
    }
    out.put_u8(layout.quote);
    for &byte in value {
        if byte == layout.quote || byte == layout.escape {
            out.put_u8(layout.escape);
        }
        out.put_u8(byte);
    }
    out.put_u8(layout.quote);
}

impl Connection<'_> {
    /// Sends the rows of COPY TO STDOUT; returns the command tag.
    pub(super) async fn copy_out(
        &mut self,
        columns: &[OutputColumn],
        stream: datafusion::execution::SendableRecordBatchStream,
        options: &CopyOptions,
        interrupts: &Interrupts,
    ) -> Result<String, Failure> {
        let writer = CopyWriter::new(options);
        let code = writer.format().code();
        let width =
            i16::try_from(columns.len()).map_err(|_| report("54011", "too many result columns"))?;
        let response = CopyOutResponse::new(i8::from(code == 1), width, vec![code; columns.len()]);
        encode(&mut self.output.buffer, &response);
        if options.header != CopyHeader::No {
            writer.put_header(columns, &mut self.output.buffer)?;
        }
        let mut rows = Rows::copied(columns, stream, writer);
        let Sent::All { tag } = self.send_rows(&mut rows, None, interrupts).await? else {
            return Err(End::Gone.into());
        };
        if options.format == CopyFormat::Binary {
            let signature = if tag == "COPY 0" { SIGNATURE } else { b"" };
            let end = [signature, &(-1_i16).to_be_bytes()].concat();
            put_data(&end, &mut self.output.buffer);
        }
        encode(&mut self.output.buffer, &CopyDone::new());
        Ok(tag)
    }
}

fn put_data(bytes: &[u8], out: &mut BytesMut) {
    out.put_u8(b'd');
    out.put_u32(bytes.len() as u32 + 4);
    out.put_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_csv_quote_what_would_be_misread() {
        let text = |value: &[u8]| {
            let mut out = BytesMut::new();
            put_text(&CopyLayout::new(&CopyOptions::default()), value, &mut out);
            String::from_utf8(out.to_vec()).expect("text")
        };
        assert_eq!(text(b"a\tb\nc\\N\r"), "a\\tb\\nc\\\\N\\r");
        let csv = |value: &[u8], alone| {
            let options = CopyOptions {
                format: CopyFormat::Csv,
                ..CopyOptions::default()
            };
            let mut out = BytesMut::new();
            put_csv(&CopyLayout::new(&options), value, alone, &mut out);
            String::from_utf8(out.to_vec()).expect("text")
        };
        assert_eq!(csv(b"plain", false), "plain");
        assert_eq!(csv(b"", false), "\"\"", "an empty text is not NULL");
        assert_eq!(csv(b"a,\"b\"\n", false), "\"a,\"\"b\"\"\n\"");
        assert_eq!(
            (csv(b"\\.", true), csv(b"\\.", false)),
            ("\"\\.\"".into(), "\\.".into())
        );
    }
}
