//! Arrow values as Postgres sends them, in text and binary.
//!
//! Invariant: what a value looks like depends on its SQL type, the column's format and the session's TimeZone alone, and is
//! what Postgres 15 sends for the same value.

mod binary;
mod calendar;
mod number;
mod text;
mod values;

use bytes::{BufMut, BytesMut};
use datafusion::arrow::record_batch::RecordBatch;
use thalweg_catalog::SqlType;

use super::error::report;
use crate::frontend::Report;
use values::Values;

pub(super) use calendar::{EPOCH_2000_DAYS, EPOCH_2000_US, Zone, days_from_civil};

/// Largest row that is sent, as in Postgres.
const ROW_BYTES_MAX: usize = (1 << 30) - 1;

/// Format of one value on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    /// As printed.
    Text,
    /// As the type's send function gives it.
    Binary,
}

impl Format {
    /// Format of a code in Bind.
    pub(super) fn from_code(code: i16) -> Result<Self, Report> {
        match code {
            0 => Ok(Format::Text),
            1 => Ok(Format::Binary),
            code => Err(report("22023", format!("unsupported format code: {code}"))),
        }
    }

    /// Code in RowDescription.
    pub(super) fn code(self) -> i16 {
        match self {
            Format::Text => 0,
            Format::Binary => 1,
        }
    }
}

/// How one result column is sent.
#[derive(Debug, Clone)]
pub(super) struct Column {
    pub(super) ty: SqlType,
    pub(super) format: Format,
}

/// One batch, ready to be sent row by row.
pub(super) struct BatchEncoder<'a> {
    columns: Vec<(Values, Format)>,
    zone: &'a Zone,
}

impl<'a> BatchEncoder<'a> {
    /// Looks at every column once, so that sending a row decides nothing about types.
    pub(super) fn new(
        columns: &[Column],
        batch: &RecordBatch,
        zone: &'a Zone,
    ) -> Result<Self, Report> {
        if columns.len() != batch.num_columns() {
            return Err(report(
                "XX000",
                "the result has another number of columns than announced",
            ));
        }
        let columns = columns
            .iter()
            .zip(batch.columns())
            .map(|(column, array)| Ok((Values::new(array, &column.ty)?, column.format)))
            .collect::<Result<_, Report>>()?;
        Ok(Self { columns, zone })
    }

    /// Appends one DataRow message.
    pub(super) fn data_row(&self, row: usize, out: &mut BytesMut) -> Result<(), Report> {
        out.put_u8(b'D');
        let start = out.len();
        out.put_u32(0);
        out.put_u16(
            u16::try_from(self.columns.len())
                .map_err(|_| report("54011", "too many result columns"))?,
        );
        for (values, format) in &self.columns {
            put_field(out, values, row, *format, self.zone)?;
        }
        let length = out.len() - start;
        if length > ROW_BYTES_MAX {
            return Err(report("54000", "result row is too large"));
        }
        out[start..start + 4].copy_from_slice(&(length as u32).to_be_bytes());
        Ok(())
    }
}

impl BatchEncoder<'_> {
    /// Number of columns.
    pub(super) fn width(&self) -> usize {
        self.columns.len()
    }

    /// Appends one value in its column's format, without a length; false for NULL, which appends nothing.
    pub(super) fn value(
        &self,
        row: usize,
        column: usize,
        out: &mut BytesMut,
    ) -> Result<bool, Report> {
        let Some((values, format)) = self.columns.get(column) else {
            return Ok(false);
        };
        if values.is_null(row) {
            return Ok(false);
        }
        match format {
            Format::Text => text::put(out, values, row, self.zone),
            Format::Binary => binary::put(out, values, row)?,
        }
        Ok(true)
    }
}

/// Appends a length and a value, or -1 for NULL.
fn put_field(
    out: &mut BytesMut,
    values: &Values,
    row: usize,
    format: Format,
    zone: &Zone,
) -> Result<(), Report> {
    if values.is_null(row) {
        out.put_i32(-1);
        return Ok(());
    }
    let start = out.len();
    out.put_u32(0);
    match format {
        Format::Text => text::put(out, values, row, zone),
        Format::Binary => binary::put(out, values, row)?,
    }
    let length = out.len() - start - 4;
    if length > ROW_BYTES_MAX {
        return Err(report("54000", "result value is too large"));
    }
    out[start..start + 4].copy_from_slice(&(length as u32).to_be_bytes());
    Ok(())
}

#[cfg(test)]
mod tests;
