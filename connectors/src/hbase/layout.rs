//! Where the columns of a table are in HBase: the row key, cells, and the marker cell.
//!
//! Invariant: each cell belongs to at most one column; every row that we write has the marker, so a row whose columns are all NULL
//! is still there.

use std::sync::Arc;

use arrow::datatypes::{Field, Schema, SchemaRef};
use thalweg_catalog::{Column, SqlType};

use super::key::{Joint, KeyCodec, Part};
use super::options::{CellEncoding, JointName, Mapped, NullMode, TableOptions};
use super::request::{ColumnName, Projection, TableName};
use super::scalar::is_scalar;
use super::value::Encoding;
use crate::error::ConnectorError;

/// Qualifier of the marker cell, in the first family.
const MARKER: &[u8] = b"_";

/// A column that is a cell.
#[derive(Debug, Clone)]
pub(super) struct CellColumn {
    /// Position in the table.
    pub(super) column: usize,
    pub(super) name: String,
    pub(super) ty: SqlType,
    pub(super) family: Vec<u8>,
    pub(super) qualifier: Vec<u8>,
    pub(super) encoding: CellEncoding,
    pub(super) not_null: bool,
}

impl CellColumn {
    fn name(&self) -> ColumnName {
        ColumnName {
            family: self.family.clone(),
            qualifier: Some(self.qualifier.clone()),
        }
    }
}

/// The mapping of a table.
#[derive(Debug, Clone)]
pub(super) struct Layout {
    pub(super) table: TableName,
    pub(super) key: KeyCodec,
    /// Positions in the table of the key's parts.
    pub(super) key_columns: Vec<usize>,
    /// In the order in which HBase keeps cells.
    pub(super) cells: Vec<CellColumn>,
    pub(super) marker_family: Vec<u8>,
    pub(super) null_mode: NullMode,
    /// All columns of the table.
    pub(super) schema: SchemaRef,
}

impl Layout {
    /// Maps the columns of a table, of which `key` are the primary key's, in its order.
    pub(super) fn new(
        columns: &[Column],
        key: &[usize],
        options: &TableOptions,
    ) -> Result<Self, ConnectorError> {
        let cells = cells(columns, key, options)?;
        // That of the column declared first: what is added to a table later does not move the marker.
        let first = cells.iter().min_by_key(|cell| cell.column);
        let marker_family = match (first, &options.family) {
            (Some(cell), _) => cell.family.clone(),
            (None, Some(family)) => family.clone().into_bytes(),
            (None, None) => return Err(no_family("the marker cell")),
        };
        let fields: Vec<Field> = columns
            .iter()
            .enumerate()
            .map(|(index, column)| {
                let nullable = !column.not_null && !key.contains(&index);
                column.ty.field(&column.name, nullable)
            })
            .collect();
        let layout = Self {
            table: options.table.clone(),
            key: key_codec(columns, key, options)?,
            key_columns: key.to_vec(),
            cells,
            marker_family,
            null_mode: options.null_mode,
            schema: Arc::new(Schema::new(fields)),
        };
        layout.check()?;
        Ok(layout)
    }

    fn check(&self) -> Result<(), ConnectorError> {
        for pair in self.cells.windows(2) {
            if let [one, other] = pair
                && (&one.family, &one.qualifier) == (&other.family, &other.qualifier)
            {
                return Err(ConnectorError::option(format!(
                    "columns \"{}\" and \"{}\" are the same cell",
                    one.name, other.name
                )));
            }
        }
        for cell in &self.cells {
            if (&cell.family[..], &cell.qualifier[..]) == self.marker() {
                return Err(ConnectorError::option_hint(
                    format!(
                        "column \"{}\" is in the place of the marker cell",
                        cell.name
                    ),
                    "Give it another qualifier than \"_\" with the option columns.",
                ));
            }
        }
        Ok(())
    }

    /// Family and qualifier of the marker cell.
    pub(super) fn marker(&self) -> (&[u8], &[u8]) {
        (&self.marker_family, MARKER)
    }

    /// The families it uses.
    pub(super) fn families(&self) -> Vec<Vec<u8>> {
        let mut families: Vec<Vec<u8>> =
            self.cells.iter().map(|cell| cell.family.clone()).collect();
        families.push(self.marker_family.clone());
        families.sort();
        families.dedup();
        families
    }

    /// Every cell a row can have.
    pub(super) fn all_cells(&self) -> Vec<ColumnName> {
        let (family, qualifier) = self.marker();
        let marker = ColumnName {
            family: family.to_vec(),
            qualifier: Some(qualifier.to_vec()),
        };
        let cells = self.cells.iter().map(CellColumn::name);
        cells.chain([marker]).collect()
    }

    /// What to ask for when these columns of the table are wanted.
    ///
    /// A row is there when it has any of its cells, and other programs write no marker. So all cells are asked for, unless a
    /// wanted one is in every row. When only keys are wanted, HBase is told to send one cell per row, without its value.
    pub(super) fn projection(&self, wanted: &[usize]) -> Projection {
        let wanted: Vec<&CellColumn> = self
            .cells
            .iter()
            .filter(|cell| wanted.contains(&cell.column))
            .collect();
        if wanted.is_empty() {
            return Projection {
                columns: self.all_cells(),
                filter: Some(super::filter::first_key_only()),
            };
        }
        let columns = match wanted.iter().any(|cell| cell.not_null) {
            true => wanted.iter().map(|cell| cell.name()).collect(),
            false => self.all_cells(),
        };
        Projection {
            columns,
            filter: None,
        }
    }
}

fn key_codec(
    columns: &[Column],
    key: &[usize],
    options: &TableOptions,
) -> Result<KeyCodec, ConnectorError> {
    let part = |index: &usize| {
        columns.get(*index).map(|column| Part {
            name: column.name.clone(),
            ty: column.ty.clone(),
        })
    };
    let joint = match options.joint.unwrap_or(match key.len() {
        0 | 1 => JointName::Single,
        _ => JointName::Ordered,
    }) {
        JointName::Single => Joint::Single(match options.encoding {
            CellEncoding::Plain(encoding) => encoding,
            CellEncoding::Json => Encoding::Text,
        }),
        JointName::Ordered => Joint::Ordered,
        JointName::Separated => Joint::Separated(options.separator),
        JointName::Fixed => Joint::Fixed,
    };
    let parts = key.iter().filter_map(part).collect();
    KeyCodec::new(parts, joint, options.salt_buckets)
        .map_err(|message| ConnectorError::ColumnType { message })
}

fn cells(
    columns: &[Column],
    key: &[usize],
    options: &TableOptions,
) -> Result<Vec<CellColumn>, ConnectorError> {
    for mapped in &options.mapped {
        let position = columns.iter().position(|one| one.name == mapped.column);
        let fault = match position {
            None => "does not exist",
            Some(position) if key.contains(&position) => "is in the row key, not in a cell",
            Some(_) => continue,
        };
        return Err(ConnectorError::option(format!(
            "column \"{}\" of option \"columns\" {fault}",
            mapped.column
        )));
    }
    let mut cells = Vec::new();
    for (index, column) in columns.iter().enumerate() {
        if !key.contains(&index) {
            cells.push(cell(index, column, options)?);
        }
    }
    cells.sort_by(|a, b| (&a.family, &a.qualifier).cmp(&(&b.family, &b.qualifier)));
    Ok(cells)
}

fn cell(
    index: usize,
    column: &Column,
    options: &TableOptions,
) -> Result<CellColumn, ConnectorError> {
    let mapped: Option<&Mapped> = options.mapped.iter().find(|one| one.column == column.name);
    let family = mapped
        .map(|mapped| &mapped.family)
        .or(options.family.as_ref());
    let family = family.ok_or_else(|| no_family(&format!("column \"{}\"", column.name)))?;
    if family.is_empty()
        || family.starts_with('.')
        || !family.chars().all(|c| c.is_ascii_graphic() && c != ':')
    {
        return Err(ConnectorError::option(format!(
            "family of column \"{}\" is no name of a column family",
            column.name
        )));
    }
    let encoding = mapped.and_then(|mapped| mapped.encoding);
    // Values of several parts have no other form.
    let encoding = match column.ty {
        // A document is its text under every encoding; only its own reader knows jsonb's spelling.
        SqlType::Json | SqlType::Jsonb => CellEncoding::Json,
        _ => encoding.unwrap_or(match is_scalar(&column.ty) {
            true => options.encoding,
            false => CellEncoding::Json,
        }),
    };
    if encoding != CellEncoding::Json && !is_scalar(&column.ty) {
        return Err(ConnectorError::ColumnType {
            message: format!(
                "column \"{}\" of type {} can only be encoded as json",
                column.name, column.ty
            ),
        });
    }
    let qualifier = mapped.map_or(&column.name, |mapped| &mapped.qualifier);
    Ok(CellColumn {
        column: index,
        name: column.name.clone(),
        ty: column.ty.clone(),
        family: family.clone().into_bytes(),
        qualifier: qualifier.clone().into_bytes(),
        encoding,
        not_null: column.not_null,
    })
}

fn no_family(what: &str) -> ConnectorError {
    ConnectorError::option_hint(
        format!("{what} has no column family"),
        "Set family = '...', or columns = 'name=family:qualifier'.",
    )
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::options::Options;
    use crate::testing::column;

    fn layout(given: &[(&str, &str)]) -> Result<Layout, ConnectorError> {
        let columns = [
            column("user_id", SqlType::Int8),
            column("day", SqlType::Date),
            column("clicks", SqlType::Int8),
            column("note", SqlType::Text),
            column("tags", SqlType::Array(Box::new(SqlType::Text))),
        ];
        let base = [
            ("thrift.servers", "gw1:9090, gw2:9090"),
            ("table", "shop:t"),
        ];
        let options: BTreeMap<String, String> = base
            .iter()
            .chain(given)
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        Layout::new(&columns, &[0, 1], &TableOptions::read(Options(&options))?)
    }

    #[test]
    fn columns_are_cells_in_the_order_of_hbase() {
        let layout = layout(&[("family", "d"), ("columns", "note = a:n#string")]).expect("good");
        let cells: Vec<String> = layout
            .cells
            .iter()
            .map(|cell| {
                let family = String::from_utf8_lossy(&cell.family);
                let qualifier = String::from_utf8_lossy(&cell.qualifier);
                format!("{} {family}:{qualifier} {:?}", cell.name, cell.encoding)
            })
            .collect();
        assert_eq!(
            cells,
            [
                "note a:n Plain(Text)",
                "clicks d:clicks Plain(Bytes)",
                "tags d:tags Json",
            ]
        );
        assert_eq!(layout.marker(), (&b"d"[..], &b"_"[..]), "beside clicks");
        assert_eq!(layout.families(), [b"a".to_vec(), b"d".to_vec()]);
        assert_eq!(layout.projection(&[3]).columns.len(), 4, "every cell");
        assert!(layout.projection(&[3]).filter.is_none());
        assert!(layout.projection(&[0, 1]).filter.is_some());
    }

    #[test]
    fn what_cannot_be_mapped_is_refused() {
        for (given, expected) in [
            (&[][..], "column \"clicks\" has no column family"),
            (
                &[("family", "a:b")],
                "family of column \"clicks\" is no name of a column family",
            ),
            (
                &[("family", "d"), ("columns", "nope=d:x")],
                "column \"nope\" of option \"columns\" does not exist",
            ),
            (
                &[("family", "d"), ("columns", "day=d:x")],
                "column \"day\" of option \"columns\" is in the row key, not in a cell",
            ),
            (
                &[("family", "d"), ("columns", "note=d:clicks")],
                "columns \"clicks\" and \"note\" are the same cell",
            ),
            (
                &[("family", "d"), ("columns", "note=d:_")],
                "column \"note\" is in the place of the marker cell",
            ),
            (
                &[("family", "d"), ("columns", "tags=d:t#bytes")],
                "column \"tags\" of type text[] can only be encoded as json",
            ),
            (
                &[("family", "d"), ("columns", "note:d")],
                "option \"columns\" cannot be read",
            ),
            (
                &[("family", "d"), ("columns", "note=d:n#utf")],
                "option \"columns\" must be 'bytes' or 'string' or 'ordered' or 'json'",
            ),
            (
                &[("family", "d"), ("key.encoding", "single")],
                "key.encoding = 'single' is for a primary key of one column",
            ),
            (
                &[("family", "d"), ("key.encoding", "hashed")],
                "option \"key.encoding\" must be 'single' or 'ordered' or 'separated' or 'fixed'",
            ),
            (
                &[("family", "d"), ("key.separator", "||")],
                "option \"key.separator\" must be one ASCII character",
            ),
            (
                &[("family", "d"), ("key.salt_buckets", "300")],
                "option \"key.salt_buckets\" must be at most 256",
            ),
            (
                &[("family", "d"), ("table", "a:b:c")],
                "option \"table\" is no name of an HBase table",
            ),
            (
                &[("family", "d"), ("thrift.servers", "gw1")],
                "option \"thrift.servers\" must be host:port, several with commas between",
            ),
            (
                &[("family", "d"), ("write.batch.bytes", "1GB")],
                "option \"write.batch.bytes\" must be between '1kB' and '64MB'",
            ),
            (
                &[
                    ("family", "d"),
                    ("create", "if-missing"),
                    ("create.ttl", "0"),
                ],
                "option \"create.ttl\" must be at least a second and at most 68 years",
            ),
            (
                &[
                    ("family", "d"),
                    ("create", "if-missing"),
                    ("create.splits", "a"),
                ],
                "option \"create.splits\" is not supported yet",
            ),
        ] {
            match layout(given) {
                Ok(_) => panic!("{given:?} was taken"),
                Err(error) => assert_eq!(error.to_string(), expected),
            }
        }
    }
}
