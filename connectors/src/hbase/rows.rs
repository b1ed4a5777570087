//! Rows of HBase to record batches.
//!
//! Invariant: a row becomes one row of the batch, or the read fails and names the column; nothing is skipped.

use std::sync::Arc;

use arrow::array::ArrayRef;
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use arrow::record_batch::{RecordBatch, RecordBatchOptions};

use super::error::HbaseError;
use super::layout::{CellColumn, Layout};
use super::options::{CellEncoding, NullMode};
use super::reply::Row;
use super::scalar::ScalarBuilder;
use super::value;
use crate::error::ConnectorError;
use crate::format::{ColumnBuilder, JsonOptions};

/// Where a wanted column comes from.
#[derive(Debug, Clone, Copy)]
enum Origin {
    /// The key.
    Key,
    /// Cell of the layout.
    Cell(usize),
}

#[derive(Debug)]
enum Values {
    Plain(ScalarBuilder),
    Json(ColumnBuilder),
}

/// Builds batches of some columns of a table.
#[derive(Debug)]
pub(super) struct RowsBuilder {
    layout: Arc<Layout>,
    schema: SchemaRef,
    columns: Vec<(Origin, Values)>,
    /// For each part of the key, the wanted columns it goes to.
    of_part: Vec<Option<usize>>,
    rows: usize,
}

impl RowsBuilder {
    /// A builder for these columns of the table, in this order, none twice.
    pub(super) fn new(layout: &Arc<Layout>, wanted: &[usize]) -> Result<Self, ConnectorError> {
        let schema = layout.schema.project(wanted).map_err(internal)?;
        let mut columns = Vec::new();
        let mut of_part = vec![None; layout.key_columns.len()];
        for (position, column) in wanted.iter().enumerate() {
            let part = layout.key_columns.iter().position(|one| one == column);
            if let Some((part, ty)) = part.zip(part.and_then(|part| layout.key.parts().get(part))) {
                if let Some(place) = of_part.get_mut(part) {
                    *place = Some(position);
                }
                let values = Values::Plain(ScalarBuilder::new(&ty.ty));
                columns.push((Origin::Key, values));
                continue;
            }
            let cell = layout.cells.iter().position(|cell| cell.column == *column);
            let (index, cell) = cell
                .zip(cell.and_then(|index| layout.cells.get(index)))
                .ok_or_else(|| ConnectorError::Internal("a column has no place in HBase".into()))?;
            columns.push((Origin::Cell(index), builder(cell)?));
        }
        Ok(Self {
            layout: Arc::clone(layout),
            schema: Arc::new(schema),
            columns,
            of_part,
            rows: 0,
        })
    }

    /// How many rows wait for [`RowsBuilder::finish`].
    pub(super) fn len(&self) -> usize {
        self.rows
    }

    /// Appends a row. After an error the builder is of no use.
    pub(super) fn append(&mut self, row: &Row<'_>) -> Result<(), HbaseError> {
        let Some(key) = row.key() else { return Ok(()) };
        let layout = Arc::clone(&self.layout);
        let (columns, of_part) = (&mut self.columns, &self.of_part);
        let decoded = layout.key.decode(key, |part, value| {
            let place = of_part.get(part).copied().flatten();
            if let Some((_, Values::Plain(values))) = place.and_then(|at| columns.get_mut(at)) {
                values.append(Some(value));
            }
        });
        if let Err(part) = decoded {
            let part = layout.key.parts().get(part);
            return Err(HbaseError::BadValue {
                table: layout.table.text().to_owned(),
                column: part.map(|part| part.name.clone()).unwrap_or_default(),
                expected: format!(
                    "{} in a row key encoded as {}",
                    part.map(|part| part.ty.to_string()).unwrap_or_default(),
                    layout.key.describe()
                ),
            });
        }
        let mut found: Vec<Option<&[u8]>> = vec![None; layout.cells.len()];
        let mut next = 0;
        for cell in row.cells() {
            let is = |column: &CellColumn| {
                column.qualifier == cell.qualifier && column.family == cell.family
            };
            // Cells come in the order of the layout; search only where they do not.
            let at = match layout.cells.get(next).is_some_and(is) {
                true => Some(next),
                false => layout.cells.iter().position(is),
            };
            if let Some(at) = at {
                next = at + 1;
                if let Some(place) = found.get_mut(at) {
                    *place = Some(cell.value);
                }
            }
        }
        for (origin, values) in &mut self.columns {
            if let Origin::Cell(index) = *origin
                && let Some(cell) = layout.cells.get(index)
            {
                let bytes = found.get(index).copied().flatten();
                append(values, cell, bytes, &layout)?;
            }
        }
        self.rows += 1;
        Ok(())
    }

    /// The batch of the rows so far; the builder is empty afterwards.
    pub(super) fn finish(&mut self) -> Result<RecordBatch, ConnectorError> {
        let columns: Vec<ArrayRef> = self
            .columns
            .iter_mut()
            .map(|(_, values)| match values {
                Values::Plain(values) => values.finish(),
                Values::Json(values) => values.finish(),
            })
            .collect();
        let options = RecordBatchOptions::new().with_row_count(Some(self.rows));
        self.rows = 0;
        RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options)
            .map_err(internal)
    }
}

fn internal(error: ArrowError) -> ConnectorError {
    ConnectorError::Internal(format!("rows of HBase do not fit their columns: {error}"))
}

fn builder(cell: &CellColumn) -> Result<Values, ConnectorError> {
    Ok(match cell.encoding {
        CellEncoding::Plain(_) => Values::Plain(ScalarBuilder::new(&cell.ty)),
        CellEncoding::Json => {
            let options = JsonOptions::default();
            Values::Json(ColumnBuilder::new(&cell.name, &cell.ty, options)?)
        }
    })
}

fn append(
    values: &mut Values,
    cell: &CellColumn,
    bytes: Option<&[u8]>,
    layout: &Layout,
) -> Result<(), HbaseError> {
    let bytes = match (bytes, layout.null_mode) {
        (Some([]), NullMode::Empty) => None,
        (bytes, _) => bytes,
    };
    let table = || layout.table.text().to_owned();
    let missing = || HbaseError::MissingCell {
        table: table(),
        column: cell.name.clone(),
    };
    if bytes.is_none() && cell.not_null {
        return Err(missing());
    }
    let good = match (values, cell.encoding) {
        (Values::Plain(values), CellEncoding::Plain(encoding)) => match bytes {
            None => values.append(None),
            Some(bytes) => match value::decode(bytes, &cell.ty, encoding) {
                Some(value) => values.append(Some(value)),
                None => false,
            },
        },
        (Values::Json(values), _) => match bytes.map(std::str::from_utf8) {
            None => {
                values.append_null();
                true
            }
            Some(Ok(text)) => match values.append(Some(text)) {
                Ok(false) if cell.not_null => return Err(missing()),
                outcome => outcome.is_ok(),
            },
            Some(Err(_)) => false,
        },
        (Values::Plain(_), CellEncoding::Json) => false,
    };
    let encoding = match cell.encoding {
        CellEncoding::Plain(encoding) => encoding.name(),
        CellEncoding::Json => "json",
    };
    match good {
        true => Ok(()),
        false => Err(HbaseError::BadValue {
            table: table(),
            column: cell.name.clone(),
            expected: format!("{} encoded as {encoding}", cell.ty),
        }),
    }
}
