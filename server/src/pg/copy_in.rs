//! COPY FROM STDIN: CopyData messages to typed rows.
//!
//! Invariant: how the bytes are cut into messages does not matter; nothing is inserted unless every row was read. An error names
//! the line, and the column when it is about one value.

use bytes::{Buf, BytesMut};
use datafusion::arrow::array::ArrayRef;
use datafusion::arrow::record_batch::{RecordBatch, RecordBatchOptions};
use datafusion::common::ScalarValue;
use pgwire::messages::PgWireFrontendMessage as Message;
use pgwire::messages::copy::CopyInResponse;
use thalweg_catalog::SqlType;
use thalweg_sql::{CopyFormat, CopyHeader};

use super::connection::{Connection, Failure, contained};
use super::copy_out::{CopyLayout, SIGNATURE};
use super::decode::{ParameterContext, parameter};
use super::describe::visible;
use super::encode::{Format, Zone};
use super::error::{report, stopping, violation};
use super::frames::{Frame, encode};
use super::limits::QUOTED_CHARS_MAX;
use super::wire::{End, Interrupt, Interrupts};
use crate::frontend::{CopyIn, Report};

/// Rows of one batch.
const BATCH_ROWS: usize = 8_192;

/// Bytes that the rows of one COPY may take before they are inserted.
const COPY_BYTES_MAX: usize = 1 << 30;

/// Bytes of one row.
const ROW_BYTES_MAX: usize = 64 << 20;

/// What is wrong, and where.
#[derive(Debug)]
pub(super) struct Fault {
    pub(super) report: Report,
    pub(super) context: String,
}

/// Reads rows from bytes as they come.
pub(super) struct CopyReader<'a> {
    copy: &'a CopyIn,
    layout: CopyLayout,
    zone: &'a Zone,
    buffer: BytesMut,
    /// Bytes of `buffer` that were looked at for the end of a line, and whether the last of them are in quotes.
    scanned: usize,
    quoted: bool,
    escaped: bool,
    line: usize,
    /// The next line is the line of names, or the binary signature has not come yet.
    header: bool,
    ended: bool,
    values: Vec<Vec<ScalarValue>>,
    rows: usize,
    batches: Vec<RecordBatch>,
    /// The line of each row.
    lines: Vec<u32>,
    bytes: usize,
}

type Field = Option<Vec<u8>>;

impl<'a> CopyReader<'a> {
    pub(super) fn new(copy: &'a CopyIn, zone: &'a Zone) -> Self {
        let binary = copy.options.format == CopyFormat::Binary;
        Self {
            copy,
            layout: CopyLayout::new(&copy.options),
            zone,
            buffer: BytesMut::new(),
            scanned: 0,
            quoted: false,
            escaped: false,
            line: 0,
            header: binary || copy.options.header != CopyHeader::No,
            ended: false,
            values: vec![Vec::new(); copy.columns.len()],
            rows: 0,
            batches: Vec::new(),
            lines: Vec::new(),
            bytes: 0,
        }
    }

    /// Takes more bytes.
    pub(super) fn push(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        if self.ended {
            return Ok(());
        }
        self.buffer.extend_from_slice(bytes);
        if self.layout.format == CopyFormat::Binary {
            while !self.ended && self.binary_row()? {}
        } else {
            while !self.ended
                && let Some(end) = self.line_end()
            {
                let line = self.buffer.split_to(end);
                self.buffer.advance(1);
                self.scanned = 0;
                self.text_line(&line)?;
            }
        }
        if self.buffer.len() > ROW_BYTES_MAX {
            let message = format!("a row of COPY is longer than {ROW_BYTES_MAX} bytes");
            return Err(self.fault(report("54000", message)));
        }
        Ok(())
    }

    /// The rows and the line of each, when all bytes have come.
    pub(super) fn finish(mut self) -> Result<(Vec<RecordBatch>, Vec<u32>), Fault> {
        if self.layout.format == CopyFormat::Binary {
            if !self.ended {
                self.line += 1;
                return Err(self.fault(report("22P04", "unexpected EOF in COPY data")));
            }
        } else if !self.ended && !self.buffer.is_empty() {
            if self.quoted {
                self.line += 1;
                return Err(self.fault(report("22P04", "unterminated CSV quoted field")));
            }
            let line = std::mem::take(&mut self.buffer);
            self.text_line(&line)?;
        }
        self.close_batch()?;
        Ok((self.batches, self.lines))
    }

    fn fault(&self, report: Report) -> Fault {
        Fault {
            report,
            context: format!("COPY {}, line {}", self.copy.table, self.line),
        }
    }

    fn field_fault(&self, report: Report, column: usize, value: Option<&[u8]>) -> Fault {
        let name = self
            .copy
            .columns
            .get(column)
            .map_or("", |column| &column.name);
        let shown = match value {
            None => "null input".to_owned(),
            Some(_) if self.layout.format == CopyFormat::Binary => "binary input".to_owned(),
            Some(bytes) => {
                let text: String = String::from_utf8_lossy(bytes)
                    .chars()
                    .take(QUOTED_CHARS_MAX)
                    .collect();
                format!("\"{text}\"")
            }
        };
        Fault {
            report,
            context: format!(
                "COPY {}, line {}, column {name}: {shown}",
                self.copy.table, self.line
            ),
        }
    }

    /// Position of the next line's end. A line end within quotes (CSV) or behind a backslash (text) belongs to the value.
    fn line_end(&mut self) -> Option<usize> {
        let csv = self.layout.format == CopyFormat::Csv;
        for (at, &byte) in self.buffer.iter().enumerate().skip(self.scanned) {
            if self.escaped {
                self.escaped = false;
                continue;
            }
            if csv {
                if self.quoted && byte == self.layout.escape && byte != self.layout.quote {
                    self.escaped = true;
                } else if byte == self.layout.quote {
                    self.quoted = !self.quoted;
                } else if byte == b'\n' && !self.quoted {
                    return Some(at);
                }
            } else if byte == b'\\' {
                self.escaped = true;
            } else if byte == b'\n' {
                return Some(at);
            }
        }
        self.scanned = self.buffer.len();
        None
    }

    fn text_line(&mut self, line: &[u8]) -> Result<(), Fault> {
        self.line += 1;
        if self.layout.format == CopyFormat::Csv {
            // As in Postgres, a row that runs over several lines is named by its last.
            self.line += line.iter().filter(|byte| **byte == b'\n').count();
        }
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line == b"\\." {
            self.ended = true;
            return Ok(());
        }
        let fields = match self.layout.format {
            CopyFormat::Csv => csv_fields(&self.layout, line),
            _ => Ok(text_fields(&self.layout, line)),
        };
        let fields = fields.map_err(|message| self.fault(report("22P04", message)))?;
        if self.header {
            self.header = false;
            return self.check_header(&fields);
        }
        // A table without columns has empty lines for rows.
        if self.copy.columns.is_empty() && line.is_empty() {
            return self.row(Vec::new(), Format::Text);
        }
        self.row(fields, Format::Text)
    }

    fn check_header(&self, fields: &[Field]) -> Result<(), Fault> {
        if self.copy.options.header != CopyHeader::Match {
            return Ok(());
        }
        let expected = self
            .copy
            .columns
            .iter()
            .map(|column| column.name.as_bytes());
        let found = fields
            .iter()
            .map(|field| field.as_deref().unwrap_or_default());
        if expected.eq(found) {
            return Ok(());
        }
        let mut wrong = report("22P04", "column names in the header line do not match");
        let names: Vec<&str> = self
            .copy
            .columns
            .iter()
            .map(|column| column.name.as_str())
            .collect();
        wrong.detail = Some(format!("The columns are {}.", names.join(", ")));
        Err(self.fault(wrong))
    }

    /// Reads the signature, a row or the end; false until enough bytes have come.
    fn binary_row(&mut self) -> Result<bool, Fault> {
        if self.header {
            if self.buffer.len() < SIGNATURE.len() {
                return Ok(false);
            }
            let magic = SIGNATURE.len() - 8;
            let extension = self.buffer.get(magic + 4..magic + 8).map(be_i32);
            if !self.buffer.starts_with(&SIGNATURE[..magic]) || extension != Some(0) {
                return Err(self.fault(report("22P04", "COPY file signature not recognized")));
            }
            self.buffer.advance(SIGNATURE.len());
            self.header = false;
            return Ok(true);
        }
        let Some(count) = self
            .buffer
            .get(..2)
            .map(|b| i16::from_be_bytes([b[0], b[1]]))
        else {
            return Ok(false);
        };
        if count == -1 {
            self.ended = true;
            return Ok(false);
        }
        let mut at = 2;
        let mut fields = Vec::new();
        for _ in 0..count.max(0) {
            let Some(length) = self.buffer.get(at..at + 4).map(be_i32) else {
                return Ok(false);
            };
            at += 4;
            let Ok(length) = usize::try_from(length) else {
                fields.push(None);
                continue;
            };
            let Some(bytes) = self.buffer.get(at..at.saturating_add(length)) else {
                return Ok(false);
            };
            fields.push(Some(bytes.to_vec()));
            at += length;
        }
        self.buffer.advance(at);
        self.line += 1;
        self.row(fields, Format::Binary)?;
        Ok(true)
    }

    fn row(&mut self, fields: Vec<Field>, format: Format) -> Result<(), Fault> {
        let width = self.copy.columns.len();
        if fields.len() > width {
            return Err(self.fault(report("22P04", "extra data after last expected column")));
        }
        if let Some(missing) = self.copy.columns.get(fields.len()) {
            let message = format!("missing data for column \"{}\"", missing.name);
            return Err(self.fault(report("22P04", message)));
        }
        for (index, (field, column)) in fields.iter().zip(&self.copy.columns).enumerate() {
            if field.is_none() && self.copy.not_null.get(index) == Some(&true) {
                let message = format!(
                    "null value in column \"{}\" of relation \"{}\" violates not-null constraint",
                    column.name, self.copy.table
                );
                return Err(self.field_fault(report("23502", message), index, None));
            }
            let context = ParameterContext {
                number: index + 1,
                zone: self.zone,
            };
            let value = parameter(field.as_deref(), visible(&column.ty), format, &context)
                .map_err(|report| self.field_fault(report, index, field.as_deref()))?;
            self.bytes += field.as_ref().map_or(0, Vec::len) + std::mem::size_of::<ScalarValue>();
            if let Some(values) = self.values.get_mut(index) {
                values.push(value);
            }
        }
        self.rows += 1;
        self.lines
            .push(u32::try_from(self.line).unwrap_or(u32::MAX));
        if self.bytes > COPY_BYTES_MAX {
            let mut large = report("53200", "the rows of COPY take too much memory");
            large.hint = Some("Copy in several parts.".into());
            return Err(self.fault(large));
        }
        if self.rows == BATCH_ROWS {
            self.close_batch()?;
        }
        Ok(())
    }

    fn close_batch(&mut self) -> Result<(), Fault> {
        if self.rows == 0 {
            return Ok(());
        }
        let columns = self.values.iter_mut().zip(&self.copy.columns);
        let columns: Result<Vec<ArrayRef>, _> = columns
            .map(|(values, column)| column_of(std::mem::take(values), visible(&column.ty)))
            .collect();
        let options = RecordBatchOptions::new().with_row_count(Some(self.rows));
        let schema = crate::frontend::rows::schema(&self.copy.columns);
        let batch = columns.and_then(|columns| {
            RecordBatch::try_new_with_options(schema, columns, &options)
                .map_err(|error| report("XX000", error.to_string()))
        });
        let batch = batch.map_err(|report| self.fault(report))?;
        self.rows = 0;
        self.batches.push(batch);
        Ok(())
    }
}

fn column_of(values: Vec<ScalarValue>, ty: &SqlType) -> Result<ArrayRef, Report> {
    let array =
        ScalarValue::iter_to_array(values).map_err(|error| report("XX000", error.to_string()))?;
    if *array.data_type() == ty.arrow() {
        return Ok(array);
    }
    datafusion::arrow::compute::cast(&array, &ty.arrow())
        .map_err(|error| report("XX000", error.to_string()))
}

fn be_i32(bytes: &[u8]) -> i32 {
    bytes.try_into().map_or(0, i32::from_be_bytes)
}

/// Splits a line of the text format and takes its escapes back.
fn text_fields(layout: &CopyLayout, line: &[u8]) -> Vec<Field> {
    let mut fields = Vec::new();
    let (mut value, mut start) = (Vec::new(), 0);
    let mut at = 0;
    loop {
        let byte = line.get(at).copied();
        match byte {
            Some(b'\\') if at + 1 < line.len() => {
                at += 1 + unescape(&line[at + 1..], &mut value);
            }
            Some(byte) if byte != layout.delimiter => {
                value.push(byte);
                at += 1;
            }
            end => {
                // NULL is recognised as it is written, before its escapes are taken back.
                let raw = &line[start..at];
                let value = std::mem::take(&mut value);
                fields.push((raw != layout.null).then_some(value));
                at += 1;
                start = at;
                if end.is_none() {
                    return fields;
                }
            }
        }
    }
}

/// The character behind a backslash; returns how many bytes it takes.
fn unescape(rest: &[u8], out: &mut Vec<u8>) -> usize {
    let digits = |from: usize, most: usize, radix: u32| {
        let digits: Vec<u32> = rest
            .iter()
            .skip(from)
            .take(most)
            .map_while(|byte| char::from(*byte).to_digit(radix))
            .collect();
        let value = digits.iter().fold(0, |value, digit| value * radix + digit);
        (digits.len(), (value & 255) as u8)
    };
    let Some(&first) = rest.first() else { return 0 };
    match first {
        b'b' => out.push(0x08),
        b'f' => out.push(0x0c),
        b'n' => out.push(b'\n'),
        b'r' => out.push(b'\r'),
        b't' => out.push(b'\t'),
        b'v' => out.push(0x0b),
        b'0'..=b'7' => {
            let (count, value) = digits(0, 3, 8);
            out.push(value);
            return count;
        }
        b'x' => {
            let (count, value) = digits(1, 2, 16);
            if count > 0 {
                out.push(value);
                return 1 + count;
            }
            out.push(b'x');
        }
        other => out.push(other),
    }
    1
}

/// Splits a line of CSV. An unquoted value that is the NULL word is NULL; a quoted one never is.
fn csv_fields(layout: &CopyLayout, line: &[u8]) -> Result<Vec<Field>, &'static str> {
    let mut fields = Vec::new();
    let (mut value, mut quoted, mut inside) = (Vec::new(), false, false);
    let mut bytes = line.iter().copied().peekable();
    loop {
        match bytes.next() {
            Some(byte) if inside => {
                let next = bytes.peek().copied();
                if byte == layout.escape
                    && next.is_some_and(|next| next == layout.quote || next == layout.escape)
                {
                    value.extend(bytes.next());
                } else if byte == layout.quote {
                    inside = false;
                } else {
                    value.push(byte);
                }
            }
            Some(byte) if byte == layout.quote => {
                inside = true;
                quoted = true;
            }
            Some(byte) if byte != layout.delimiter => value.push(byte),
            _ if inside => return Err("unterminated CSV quoted field"),
            end => {
                let value = std::mem::take(&mut value);
                fields.push((quoted || value != layout.null).then_some(value));
                quoted = false;
                if end.is_none() {
                    return Ok(fields);
                }
            }
        }
    }
}

impl Connection<'_> {
    /// Reads the rows of COPY FROM STDIN and inserts them; returns the command tag.
    pub(super) async fn copy_in(
        &mut self,
        copy: &CopyIn,
        interrupts: &Interrupts,
    ) -> Result<String, Failure> {
        let code = i16::from(copy.options.format == CopyFormat::Binary);
        let width =
            i16::try_from(copy.columns.len()).map_err(|_| report("54011", "too many columns"))?;
        let response = CopyInResponse::new(code as i8, width, vec![code; copy.columns.len()]);
        encode(&mut self.output.buffer, &response);
        interrupts.guard(self.input, self.output.flush()).await??;
        let zone = Zone::named(self.backend.setting("TimeZone").as_deref().unwrap_or("UTC"));
        let mut reader = CopyReader::new(copy, &zone);
        loop {
            let pushed = match self.copy_frame(interrupts).await? {
                Some(data) => reader.push(&data),
                None => break,
            };
            pushed.map_err(|fault| self.placed(fault))?;
        }
        let (batches, lines) = reader.finish().map_err(|fault| self.placed(fault))?;
        let inserted = contained(self.backend.copy_rows(copy, batches.clone())).await?;
        let rows = match inserted {
            Ok(rows) => rows,
            Err(report) => {
                let line = match is_about_rows(&report) {
                    true => self.refused_line(copy, batches, &lines, interrupts).await,
                    false => None,
                };
                let context = match line {
                    Some(line) => format!("COPY {}, line {line}", copy.table),
                    None => format!("COPY {}", copy.table),
                };
                return Err(self.placed(Fault { report, context }).into());
            }
        };
        Ok(format!("COPY {rows}"))
    }

    /// The line of the first row that the table refuses; `None` when it is not found, or not waited for.
    async fn refused_line(
        &mut self,
        copy: &CopyIn,
        batches: Vec<RecordBatch>,
        lines: &[u32],
        interrupts: &Interrupts,
    ) -> Option<u32> {
        let search = contained(self.backend.refused_row(copy, batches));
        let row = interrupts.guard(self.input, search).await.ok()?.ok()??;
        lines.get(row).copied()
    }

    /// Keeps where the error is for its message.
    fn placed(&mut self, fault: Fault) -> Report {
        self.context = Some(fault.context);
        fault.report
    }

    /// The next bytes; `None` at their end.
    async fn copy_frame(
        &mut self,
        interrupts: &Interrupts,
    ) -> Result<Option<bytes::Bytes>, Failure> {
        loop {
            let timeout = async {
                match interrupts.deadline {
                    Some(deadline) => tokio::time::sleep_until(deadline).await,
                    None => std::future::pending().await,
                }
            };
            let frame = tokio::select! {
                biased;
                () = interrupts.cancel.cancelled() => return Err(Interrupt::Canceled.into()),
                () = interrupts.stop.cancelled() => return Err(End::Fatal(stopping()).into()),
                frame = self.input.frame(&self.limits) => frame?,
                () = timeout => return Err(Interrupt::TimedOut.into()),
            };
            return match frame {
                Frame::Message(Message::CopyData(data)) => Ok(Some(data.data)),
                Frame::Message(Message::CopyDone(_)) => Ok(None),
                Frame::Message(Message::CopyFail(fail)) => {
                    let message = format!("COPY from stdin failed: {}", fail.message);
                    Err(report("57014", message).into())
                }
                // As in Postgres, a driver may have sent these ahead.
                Frame::Message(Message::Flush(_) | Message::Sync(_)) => continue,
                Frame::Message(Message::Terminate(_)) => Err(End::Gone.into()),
                Frame::Refused { report, .. } => Err(report.into()),
                Frame::Message(_) => {
                    Err(End::Fatal(violation("unexpected message during COPY from stdin")).into())
                }
            };
        }
    }
}

/// Bad values and broken constraints; anything else does not depend on a row.
fn is_about_rows(report: &Report) -> bool {
    report.sqlstate.starts_with("22") || report.sqlstate.starts_with("23")
}

#[cfg(test)]
mod tests {
    use thalweg_sql::CopyOptions;

    use super::*;

    fn layout(format: CopyFormat) -> CopyLayout {
        CopyLayout::new(&CopyOptions {
            format,
            ..CopyOptions::default()
        })
    }

    fn shown(fields: Vec<Field>) -> Vec<Option<String>> {
        fields
            .into_iter()
            .map(|field| field.map(|bytes| String::from_utf8(bytes).expect("text")))
            .collect()
    }

    #[test]
    fn lines_are_split_as_in_postgres() {
        let some = |text: &str| Some(text.to_owned());
        let text = |line: &[u8]| shown(text_fields(&layout(CopyFormat::Text), line));
        assert_eq!(text(b"1\t\\N\t"), [some("1"), None, some("")]);
        assert_eq!(
            text(b"\\\\N\ta\\tb\\n\\101\\x41\\q"),
            [some("\\N"), some("a\tb\nAAq")]
        );
        assert_eq!(text(b""), [some("")]);
        let csv = |line: &[u8]| csv_fields(&layout(CopyFormat::Csv), line).map(shown);
        assert_eq!(
            csv(b"1,,\"\",\"a\"\"b,c\""),
            Ok(vec![some("1"), None, some(""), some("a\"b,c")])
        );
        assert_eq!(csv(b"\"a"), Err("unterminated CSV quoted field"));
        assert_eq!(csv(b"x\"y,z\"w"), Ok(vec![some("xy,zw")]));
    }
}
