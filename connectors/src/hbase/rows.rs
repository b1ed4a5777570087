//! Rows of HBase to record batches.
//!
//! Invariant: a row that is there becomes one row of the batch, or the read fails and names the column. Which rows are there does
//! not depend on the columns that are wanted.

use std::sync::Arc;

use arrow::array::{ArrayRef, NullBufferBuilder, StructArray};
use arrow::datatypes::{DataType, Fields, SchemaRef};
use arrow::error::ArrowError;
use arrow::record_batch::{RecordBatch, RecordBatchOptions};
use thalweg_catalog::SqlType;

use super::error::HbaseError;
use super::layout::{CellColumn, Layout};
use super::options::{CellEncoding, NullMode};
use super::reply::Row;
use super::scalar::{Scalar, ScalarBuilder};
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
    /// Cells of the layout.
    Family,
    /// The time of the newest cell.
    Stamp,
}

#[derive(Debug)]
enum Values {
    Plain(ScalarBuilder),
    Json(ColumnBuilder),
    Struct(StructBuilder),
}

/// A column that is a family: its cells, in the order of its fields.
#[derive(Debug)]
struct StructBuilder {
    fields: Fields,
    cells: Vec<(usize, Values)>,
    present: NullBufferBuilder,
    not_null: bool,
}

impl StructBuilder {
    fn new(layout: &Layout, column: usize) -> Result<Self, ConnectorError> {
        let field = layout.schema.fields().get(column);
        let fields = match field.map(|field| field.data_type()) {
            Some(DataType::Struct(fields)) => fields.clone(),
            _ => return Err(ConnectorError::Internal(NO_PLACE.into())),
        };
        let cells = layout.cells.iter().enumerate();
        let mut cells: Vec<_> = cells.filter(|(_, cell)| cell.column == column).collect();
        cells.sort_by_key(|(_, cell)| cell.field);
        let cells = cells.into_iter();
        let cells: Result<_, _> = cells
            .map(|(index, cell)| Ok::<_, ConnectorError>((index, builder(cell)?)))
            .collect();
        Ok(Self {
            fields,
            cells: cells?,
            present: NullBufferBuilder::new(0),
            not_null: field.is_some_and(|field| !field.is_nullable()),
        })
    }

    /// NULL when there is none of its cells: nothing else could be told apart from it.
    fn append<'a>(
        &mut self,
        bytes_of: impl Fn(usize) -> Option<&'a [u8]>,
        layout: &Layout,
    ) -> Result<(), HbaseError> {
        let mut any = self.not_null;
        for (index, values) in &mut self.cells {
            let bytes = bytes_of(*index);
            any |= match layout.null_mode {
                NullMode::Empty => bytes.is_some_and(|bytes| !bytes.is_empty()),
                NullMode::Delete | NullMode::Skip => bytes.is_some(),
            };
            if let Some(cell) = layout.cells.get(*index) {
                append(values, cell, bytes, layout)?;
            }
        }
        self.present.append(any);
        Ok(())
    }

    fn finish(&mut self) -> Result<ArrayRef, ConnectorError> {
        let columns = self.cells.iter_mut().map(|(_, values)| values.finish());
        let columns = columns.collect::<Result<_, _>>()?;
        let column = StructArray::try_new(self.fields.clone(), columns, self.present.finish());
        Ok(Arc::new(column.map_err(internal)?))
    }
}

impl Values {
    fn finish(&mut self) -> Result<ArrayRef, ConnectorError> {
        match self {
            Values::Plain(values) => Ok(values.finish()),
            Values::Json(values) => Ok(values.finish()),
            Values::Struct(values) => values.finish(),
        }
    }
}

const NO_PLACE: &str = "a column has no place in HBase";

/// Builds batches of some columns of a table.
#[derive(Debug)]
pub(super) struct RowsBuilder {
    layout: Arc<Layout>,
    schema: SchemaRef,
    columns: Vec<(Origin, Values)>,
    /// For each part of the key, the wanted columns it goes to.
    of_part: Vec<Option<usize>>,
    /// Of the row that is appended, the cell of each column of the layout; kept, because it is needed for every row.
    found: Vec<Option<usize>>,
    /// Its key, spelled again; kept as well.
    again: Vec<u8>,
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
            if layout.stamp == Some(*column) {
                let field = schema.fields().get(position);
                let ty = match field.map(|field| field.data_type()) {
                    Some(DataType::Int64) => SqlType::Int8,
                    _ => SqlType::Timestamptz,
                };
                columns.push((Origin::Stamp, Values::Plain(ScalarBuilder::new(&ty))));
                continue;
            }
            let cell = layout.cells.iter().position(|cell| cell.column == *column);
            let (index, cell) = cell
                .zip(cell.and_then(|index| layout.cells.get(index)))
                .ok_or_else(|| ConnectorError::Internal(NO_PLACE.into()))?;
            columns.push(match cell.field {
                None => (Origin::Cell(index), builder(cell)?),
                Some(_) => {
                    let values = StructBuilder::new(layout, *column)?;
                    (Origin::Family, Values::Struct(values))
                }
            });
        }
        Ok(Self {
            layout: Arc::clone(layout),
            schema: Arc::new(schema),
            columns,
            of_part,
            found: Vec::new(),
            again: Vec::new(),
            rows: 0,
        })
    }

    /// How many rows wait for [`RowsBuilder::finish`].
    pub(super) fn len(&self) -> usize {
        self.rows
    }

    /// Appends a row, if it is there. After an error the builder is of no use.
    pub(super) fn append(&mut self, row: &Row<'_>) -> Result<(), HbaseError> {
        let Some(key) = row.key() else { return Ok(()) };
        let Some(newest) = self.find(row) else {
            return Ok(());
        };
        let (layout, found) = (&self.layout, &self.found);
        let (columns, of_part) = (&mut self.columns, &self.of_part);
        let decoded = layout.key.decode(key, &mut self.again, |part, value| {
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
        let bytes = |index: usize| {
            let cell = found.get(index).copied().flatten();
            cell.and_then(|at| row.value(at))
        };
        for (origin, values) in columns {
            match (*origin, values) {
                (Origin::Cell(index), values) => {
                    if let Some(cell) = layout.cells.get(index) {
                        append(values, cell, bytes(index), layout)?;
                    }
                }
                (Origin::Family, Values::Struct(values)) => values.append(bytes, layout)?,
                (Origin::Stamp, Values::Plain(values)) => append_stamp(values, newest, layout)?,
                _ => {}
            }
        }
        self.rows += 1;
        Ok(())
    }

    /// Finds the cells of a row, and the time of the newest. `None` when the row is not there: some of its cells came because they
    /// were asked for, and neither the marker nor the witness among them.
    fn find(&mut self, row: &Row<'_>) -> Option<Option<i64>> {
        let (layout, found) = (&self.layout, &mut self.found);
        found.clear();
        found.resize(layout.cells.len(), None);
        let mut is_there = layout.witness.is_none();
        let (mut next, mut newest) = (0, i64::MIN);
        let cells = row.cells();
        let any = cells.len() > 0;
        for (index, cell) in cells.enumerate() {
            newest = newest.max(cell.timestamp);
            let is = |column: &CellColumn| {
                column.qualifier == cell.qualifier && column.family == cell.family
            };
            // Cells come in the order of the layout, and the marker once; search only where they do not.
            let at = match layout.cells.get(next).is_some_and(is) {
                true => Some(next),
                false if layout.marker() == (cell.family, cell.qualifier) => {
                    is_there = true;
                    None
                }
                false => layout.cells.iter().position(is),
            };
            if let Some(at) = at {
                next = at + 1;
                is_there |= layout.witness == Some(at);
                if let Some(place) = found.get_mut(at) {
                    *place = Some(index);
                }
            }
        }
        is_there.then_some(any.then_some(newest))
    }

    /// The batch of the rows so far; the builder is empty afterwards.
    pub(super) fn finish(&mut self) -> Result<RecordBatch, ConnectorError> {
        let columns: Vec<ArrayRef> = self
            .columns
            .iter_mut()
            .map(|(_, values)| values.finish())
            .collect::<Result<_, _>>()?;
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

/// Appends the time of a row's newest cell, which is milliseconds wherever a writer has not chosen otherwise.
fn append_stamp(
    values: &mut ScalarBuilder,
    newest: Option<i64>,
    layout: &Layout,
) -> Result<(), HbaseError> {
    let value = match (&*values, newest) {
        (_, None) => None,
        (ScalarBuilder::Int8(_), Some(ms)) => Some(Scalar::Int8(ms)),
        (_, Some(ms)) => match ms.checked_mul(1000) {
            Some(us) => Some(Scalar::Timestamp(us)),
            None => {
                let name = layout.stamp.and_then(|at| layout.schema.fields().get(at));
                return Err(HbaseError::BadValue {
                    table: layout.table.text().to_owned(),
                    column: name.map(|field| field.name().clone()).unwrap_or_default(),
                    expected: "milliseconds of a timestamp with time zone".to_owned(),
                });
            }
        },
    };
    values.append(value);
    Ok(())
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
        (Values::Plain(_), CellEncoding::Json) | (Values::Struct(_), _) => false,
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
