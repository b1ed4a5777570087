//! Where the columns of a table are in HBase: the row key, cells, and the marker cell.
//!
//! Invariant: each cell belongs to at most one column; every row that we write has the marker, so a row whose columns are all NULL
//! is still there. Whatever is asked for, the cells that say whether a row is there are among it.

use std::sync::Arc;

use arrow::datatypes::{Field, Schema, SchemaRef};
use thalweg_catalog::{Column, SqlType};

use super::filter::CellFilter;
use super::key::{Joint, KeyCodec, Part};
use super::options::{CellEncoding, JointName, Mapped, NullMode, TableOptions};
use super::request::{ColumnName, Projection, TableName};
use super::scalar::is_scalar;
use super::value::Encoding;
use crate::error::ConnectorError;

/// Qualifier of the marker cell, in the first family.
const MARKER: &[u8] = b"_";

/// A column that is a cell, or a field of one that is a family.
#[derive(Debug, Clone)]
pub(super) struct CellColumn {
    /// Position in the table.
    pub(super) column: usize,
    /// Position in the struct.
    pub(super) field: Option<usize>,
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
    /// Of `cells`, the one of the NOT NULL column declared first. A row without it and without the marker is not there.
    pub(super) witness: Option<usize>,
    /// The column that says when the newest cell of a row was written.
    pub(super) stamp: Option<usize>,
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
        let stamp = stamp(columns, options)?;
        let cells = cells(columns, key, stamp, options)?;
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
        let never_null = cells.iter().enumerate().filter(|(_, cell)| cell.not_null);
        let witness = never_null.min_by_key(|(_, cell)| cell.column);
        let layout = Self {
            table: options.table.clone(),
            witness: witness.map(|(index, _)| index),
            key: key_codec(columns, key, options)?,
            key_columns: key.to_vec(),
            cells,
            marker_family,
            stamp,
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
        self.with_marker(self.cells.iter())
    }

    fn with_marker<'a>(&self, cells: impl Iterator<Item = &'a CellColumn>) -> Vec<ColumnName> {
        let (family, qualifier) = self.marker();
        let marker = ColumnName {
            family: family.to_vec(),
            qualifier: Some(qualifier.to_vec()),
        };
        cells.map(CellColumn::name).chain([marker]).collect()
    }

    /// What to ask for when these columns of the table are wanted, of the rows that pass a filter.
    ///
    /// HBase sends no row of which it has none of the cells that are asked for, and other programs write no marker. So that the
    /// same rows are there whatever is wanted, all cells are asked for, unless the witness tells. When only keys are wanted, HBase
    /// is told to send one cell per row, without its value.
    pub(super) fn projection(&self, wanted: &[usize], filter: Option<&CellFilter>) -> Projection {
        // The newest of all cells is wanted.
        let stamped = self.stamp.is_some_and(|stamp| wanted.contains(&stamp));
        let filtered = filter.map_or(&[][..], |filter| &filter.columns);
        let is_wanted =
            |cell: &CellColumn| wanted.contains(&cell.column) || filtered.contains(&cell.column);
        let filter = match self.cells.iter().any(is_wanted) || stamped {
            true => filter.map(|filter| filter.bytes.clone()),
            false => Some(super::filter::first_key_only()),
        };
        let columns = match self.witness.filter(|_| !stamped) {
            Some(witness) => {
                let cells = self.cells.iter().enumerate();
                let cells = cells.filter(|(index, cell)| *index == witness || is_wanted(cell));
                self.with_marker(cells.map(|(_, cell)| cell))
            }
            None => self.all_cells(),
        };
        Projection {
            columns,
            filter,
            until_ms: None,
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
            descending: options.descending.contains(&column.name),
        })
    };
    let parts: Vec<Part> = key.iter().filter_map(part).collect();
    for name in &options.descending {
        if parts.iter().all(|part| part.name != *name) {
            return Err(ConnectorError::option(format!(
                "column \"{name}\" of option \"key.desc\" is not in the primary key"
            )));
        }
    }
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
    if !options.descending.is_empty() && joint != Joint::Ordered {
        return Err(ConnectorError::option_hint(
            "option \"key.desc\" is for row keys that sort as their values do",
            "Set key.encoding = 'ordered'.",
        ));
    }
    KeyCodec::new(parts, joint, options.salt_buckets)
        .map_err(|message| ConnectorError::ColumnType { message })
}

/// The column that is mapped to `:timestamp`.
fn stamp(columns: &[Column], options: &TableOptions) -> Result<Option<usize>, ConnectorError> {
    let mut stamps = options.mapped.iter().filter(|one| one.is_stamp());
    let Some(mapped) = stamps.next() else {
        return Ok(None);
    };
    let name = &mapped.column;
    if stamps.next().is_some() {
        return Err(ConnectorError::option("only one column can be :timestamp"));
    }
    let position = columns.iter().position(|one| one.name == *name);
    match position.and_then(|at| columns.get(at)).map(|one| &one.ty) {
        // A name that is no column is told with the others.
        None | Some(SqlType::Timestamptz | SqlType::Int8) => Ok(position),
        Some(ty) => Err(ConnectorError::ColumnType {
            message: format!(
                "column \"{name}\" of type {ty} cannot be :timestamp, which is timestamp with time zone, or bigint for milliseconds"
            ),
        }),
    }
}

fn cells(
    columns: &[Column],
    key: &[usize],
    stamp: Option<usize>,
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
        if key.contains(&index) || stamp == Some(index) {
            continue;
        }
        match (family_of(column, options), &column.ty) {
            (Some(family), SqlType::Struct(fields)) => {
                for (field, (name, ty)) in fields.iter().enumerate() {
                    let place = Place {
                        family,
                        qualifier: name,
                        // It is that of the fields that have a choice.
                        encoding: mapped(column, options)
                            .and_then(|one| one.encoding)
                            .filter(|_| is_scalar(ty)),
                    };
                    let full = format!("{}.{name}", column.name);
                    let mut cell = cell(index, (&full, ty), &place, options)?;
                    cell.field = Some(field);
                    cells.push(cell);
                }
            }
            _ => {
                let found = mapped(column, options);
                let family = found.map(|one| &one.family).or(options.family.as_ref());
                let name = &column.name;
                let place = Place {
                    family: family.ok_or_else(|| no_family(&format!("column \"{name}\"")))?,
                    qualifier: found.map_or(name, |one| &one.qualifier),
                    encoding: found.and_then(|one| one.encoding),
                };
                let mut cell = cell(index, (name, &column.ty), &place, options)?;
                cell.not_null = column.not_null;
                cells.push(cell);
            }
        }
    }
    cells.sort_by(|a, b| (&a.family, &a.qualifier).cmp(&(&b.family, &b.qualifier)));
    Ok(cells)
}

fn mapped<'o>(column: &Column, options: &'o TableOptions) -> Option<&'o Mapped> {
    options.mapped.iter().find(|one| one.column == column.name)
}

/// The family that a struct is: that of `family:*`, or without any place the one of its own name.
fn family_of<'a>(column: &'a Column, options: &'a TableOptions) -> Option<&'a str> {
    match (mapped(column, options), &options.family) {
        (Some(mapped), _) => mapped.is_family().then_some(mapped.family.as_str()),
        (None, Some(_)) => None,
        (None, None) => Some(&column.name),
    }
}

/// Where a cell is.
struct Place<'a> {
    family: &'a str,
    qualifier: &'a str,
    encoding: Option<CellEncoding>,
}

fn cell(
    index: usize,
    (name, ty): (&str, &SqlType),
    place: &Place<'_>,
    options: &TableOptions,
) -> Result<CellColumn, ConnectorError> {
    let family = place.family;
    if family.is_empty()
        || family.starts_with('.')
        || !family.chars().all(|c| c.is_ascii_graphic() && c != ':')
    {
        return Err(ConnectorError::option(format!(
            "family of column \"{name}\" is no name of a column family"
        )));
    }
    // Values of several parts have no other form.
    let encoding = match ty {
        // A document is its text under every encoding; only its own reader knows jsonb's spelling.
        SqlType::Json | SqlType::Jsonb => CellEncoding::Json,
        _ if !is_scalar(ty) => place.encoding.unwrap_or(CellEncoding::Json),
        _ => place.encoding.unwrap_or(options.encoding),
    };
    if encoding != CellEncoding::Json && !is_scalar(ty) {
        return Err(ConnectorError::ColumnType {
            message: format!("column \"{name}\" of type {ty} can only be encoded as json"),
        });
    }
    Ok(CellColumn {
        column: index,
        field: None,
        name: name.to_owned(),
        ty: ty.clone(),
        family: family.as_bytes().to_vec(),
        qualifier: place.qualifier.as_bytes().to_vec(),
        encoding,
        not_null: false,
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

    fn options(given: &[(&str, &str)]) -> Result<TableOptions, ConnectorError> {
        let base = [
            ("thrift.servers", "gw1:9090, gw2:9090"),
            ("table", "shop:t"),
        ];
        let options: BTreeMap<String, String> = base
            .iter()
            .chain(given)
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        TableOptions::read(Options(&options))
    }

    fn layout(given: &[(&str, &str)]) -> Result<Layout, ConnectorError> {
        let columns = [
            column("user_id", SqlType::Int8),
            column("day", SqlType::Date),
            column("clicks", SqlType::Int8),
            column("note", SqlType::Text),
            column("tags", SqlType::Array(Box::new(SqlType::Text))),
        ];
        Layout::new(&columns, &[0, 1], &options(given)?)
    }

    fn place(cell: &CellColumn) -> String {
        let family = String::from_utf8_lossy(&cell.family);
        let qualifier = String::from_utf8_lossy(&cell.qualifier);
        format!("{family}:{qualifier}")
    }

    #[test]
    fn columns_are_cells_in_the_order_of_hbase() {
        let layout = layout(&[("family", "d"), ("columns", "note = a:n#string")]).expect("good");
        let cells: Vec<String> = layout
            .cells
            .iter()
            .map(|cell| {
                let place = place(cell);
                format!("{} {place} {:?}", cell.name, cell.encoding)
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
        assert_eq!(layout.projection(&[3], None).columns.len(), 4, "every cell");
        assert!(layout.projection(&[3], None).filter.is_none());
        assert!(layout.projection(&[0, 1], None).filter.is_some());
    }

    #[test]
    fn few_cells_are_asked_for_where_a_column_is_never_null() {
        let never_null = |name| Column {
            not_null: true,
            ..column(name, SqlType::Text)
        };
        let columns = [
            column("k", SqlType::Text),
            column("z", SqlType::Text),
            never_null("y"),
            never_null("x"),
        ];
        let options = options(&[("family", "d")]).expect("good");
        let layout = Layout::new(&columns, &[0], &options).expect("good");
        let asked = |wanted: &[usize]| -> Vec<String> {
            let columns = layout.projection(wanted, None).columns.into_iter();
            let names = columns.map(|column| column.qualifier.unwrap_or_default());
            names
                .map(|name| String::from_utf8_lossy(&name).into_owned())
                .collect()
        };
        assert_eq!(asked(&[0]), ["y", "_"]);
        assert_eq!(asked(&[0, 1]), ["y", "z", "_"]);
        assert_eq!(asked(&[2]), ["y", "_"]);
        assert_eq!(asked(&[3]), ["x", "y", "_"], "always the same one");
    }

    #[test]
    fn a_struct_is_a_family_and_the_time_is_no_cell() {
        let fields = vec![
            ("name".to_owned(), SqlType::Text),
            ("tags".to_owned(), SqlType::Array(Box::new(SqlType::Text))),
        ];
        let columns = [
            column("id", SqlType::Int8),
            column("info", SqlType::Struct(fields.clone())),
            column("more", SqlType::Struct(fields)),
            column("at", SqlType::Timestamptz),
        ];
        let mapped = "more = m:*#string, at = :timestamp";
        let options_of = |columns| options(&[("columns", columns)]);
        let layout = Layout::new(&columns, &[0], &options_of(mapped).expect("good"));
        let layout = layout.expect("good");
        let cells: Vec<String> = layout
            .cells
            .iter()
            .map(|cell| {
                let place = place(cell);
                format!("{} {:?} {place}", cell.name, cell.field)
            })
            .collect();
        assert_eq!(
            cells,
            [
                "info.name Some(0) info:name",
                "info.tags Some(1) info:tags",
                "more.name Some(0) m:name",
                "more.tags Some(1) m:tags",
            ]
        );
        assert_eq!(
            (layout.stamp, layout.marker()),
            (Some(3), (&b"info"[..], &b"_"[..]))
        );
        assert!(layout.projection(&[0], None).filter.is_some());
        assert!(
            layout.projection(&[0, 3], None).filter.is_none(),
            "all cells"
        );
        for (wrong, expected) in [
            ("info = :timestamp", "cannot be :timestamp"),
            ("at = :timestamp, id = :timestamp", "only one column"),
            ("at = :time", "cannot be read"),
        ] {
            let found = options_of(wrong).and_then(|found| Layout::new(&columns, &[0], &found));
            let error = found.expect_err("wrong").to_string();
            assert!(error.contains(expected), "{wrong}: {error}");
        }
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
                &[("family", "d"), ("key.desc", "day, clicks")],
                "column \"clicks\" of option \"key.desc\" is not in the primary key",
            ),
            (
                &[
                    ("family", "d"),
                    ("key.desc", "day"),
                    ("key.encoding", "fixed"),
                ],
                "option \"key.desc\" is for row keys that sort as their values do",
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
