//! The calls of HBase's Thrift2 interface (`hbase.thrift` of HBase 2.6) that we make, as data.
//!
//! Invariant: every put and delete carries an explicit timestamp, so that sending it again changes nothing.

use super::key::KeyRange;
use super::limits::ROW_KEY_BYTES_MAX;
use super::wire::{Out, Protocol, encode};

/// A column family, or one column of it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ColumnName {
    pub(super) family: Vec<u8>,
    /// `None` for the whole family.
    pub(super) qualifier: Option<Vec<u8>>,
}

/// What of a row is read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Projection {
    /// Nothing means everything.
    pub(super) columns: Vec<ColumnName>,
    /// A serialized `Filter` message of HBase.
    pub(super) filter: Option<Vec<u8>>,
    /// Only cells before this, in milliseconds.
    pub(super) until_ms: Option<i64>,
}

/// One page of a scan.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Scan {
    /// Inclusive. Empty: from the first row, or the last of a reversed scan.
    pub(super) start: Vec<u8>,
    /// Exclusive. Empty: to the last row, or the first of a reversed scan.
    pub(super) stop: Vec<u8>,
    /// At most this many rows.
    pub(super) rows: usize,
    /// From the last row to the first.
    pub(super) reversed: bool,
}

/// Bytes after the end of a key that stands for the place just before another: a row may lie behind it, and is dropped when it
/// comes.
const JUST_BEFORE: usize = 9;

impl Scan {
    /// The first page of at least `rows` rows of a range, if it has as many.
    pub(super) fn first(range: &KeyRange, rows: usize) -> Self {
        Self {
            start: range.start.clone(),
            stop: range.stop.clone(),
            rows,
            reversed: false,
        }
    }

    /// The same from the end of the range. The interface has no exclusive start and no inclusive stop: a row at either end that
    /// is not in the range may come with the others.
    pub(super) fn last(range: &KeyRange, rows: usize) -> Self {
        Self {
            start: range.stop.clone(),
            stop: before(&range.start, JUST_BEFORE),
            // The row at the start is not in the range.
            rows: rows + 1,
            reversed: true,
        }
    }

    /// The last row of the range alone, or the one just before the range when there is none. The start is the longest key there can
    /// be, so a page of several rows better begins as [`Scan::last`] does.
    pub(super) fn last_one(range: &KeyRange) -> Self {
        Self {
            start: before(&range.stop, ROW_KEY_BYTES_MAX),
            stop: before(&range.start, JUST_BEFORE),
            rows: 1,
            reversed: true,
        }
    }
}

/// A key before another, with `fill` bytes more or as long as a key may be; in the latter case none is between the two.
fn before(key: &[u8], fill: usize) -> Vec<u8> {
    let mut before = key.to_vec();
    match before.pop() {
        // Nothing is between a key and the same with a zero byte more.
        None | Some(0) => {}
        Some(byte) => {
            before.push(byte - 1);
            let length = (before.len() + fill).min(ROW_KEY_BYTES_MAX);
            before.resize(length, 0xff);
        }
    }
    before
}

/// A cell to write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct NewCell {
    pub(super) family: Vec<u8>,
    pub(super) qualifier: Vec<u8>,
    pub(super) value: Vec<u8>,
}

/// Cells of one row to write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Put {
    pub(super) row: Vec<u8>,
    pub(super) cells: Vec<NewCell>,
    pub(super) timestamp: i64,
}

/// Columns of one row to delete, all versions up to the timestamp.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Delete {
    pub(super) row: Vec<u8>,
    /// Never empty: a delete without columns would take the whole row, unmapped columns included.
    pub(super) columns: Vec<(Vec<u8>, Vec<u8>)>,
    pub(super) timestamp: i64,
}

/// A put that is made only while a column of its row holds what is expected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct CheckedPut {
    pub(super) family: Vec<u8>,
    pub(super) qualifier: Vec<u8>,
    /// `None`: the column has no cell.
    pub(super) expected: Option<Vec<u8>>,
    pub(super) put: Put,
}

/// A table to create.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct NewTable {
    pub(super) table: TableName,
    pub(super) families: Vec<Vec<u8>>,
    /// Whether cells stay that are deleted later.
    pub(super) keeps_deleted: bool,
    pub(super) versions: Option<i32>,
    pub(super) ttl_s: Option<i32>,
    /// Code of `TCompressionAlgorithm`.
    pub(super) compression: Option<i32>,
    /// Code of `TBloomFilterType`.
    pub(super) bloom: Option<i32>,
}

/// `namespace:name`, or a name in the namespace `default`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TableName {
    text: String,
}

impl TableName {
    /// A name as the option `table` gives it, or what is wrong with it. The rules are HBase's.
    pub(super) fn parse(text: &str) -> Result<Self, &'static str> {
        let (namespace, name) = text.split_once(':').unwrap_or(("default", text));
        let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
        if namespace.is_empty() || !namespace.chars().all(word) {
            return Err("a namespace has letters, digits and underscores");
        }
        if name.is_empty() || name.starts_with(['.', '-']) {
            return Err("a table's name starts with a letter, a digit or an underscore");
        }
        if !name.chars().all(|c| word(c) || c == '-' || c == '.') {
            return Err("a table's name has letters, digits, underscores, hyphens and dots");
        }
        Ok(Self {
            text: text.to_owned(),
        })
    }

    /// As given.
    pub(super) fn text(&self) -> &str {
        &self.text
    }

    fn write(&self, out: &mut Out<'_>) -> thrift::Result<()> {
        match self.text.split_once(':') {
            Some((namespace, name)) => {
                out.bytes(1, namespace.as_bytes())?;
                out.bytes(2, name.as_bytes())
            }
            None => out.bytes(2, self.text.as_bytes()),
        }
    }
}

/// A call to a gateway.
#[derive(Debug, Clone, Copy)]
pub(super) enum Call<'a> {
    /// What kind of gateway it is; answered without HBase.
    ServerType,
    /// The regions of a table.
    Regions(&'a TableName),
    /// Families of a table.
    Describe(&'a TableName),
    /// Whether a table exists.
    Exists(&'a TableName),
    /// Whether a table is disabled.
    IsDisabled(&'a TableName),
    /// Makes a table.
    Create(&'a NewTable),
    /// Makes a namespace.
    CreateNamespace(&'a str),
    /// Rows by their keys; the answer has them in this order.
    Get(&'a TableName, &'a [Vec<u8>], &'a Projection),
    /// Rows of a range.
    Scan(&'a TableName, &'a Scan, &'a Projection),
    /// Writes cells.
    Put(&'a TableName, &'a [Put]),
    /// Writes cells of one row on a condition.
    PutIf(&'a TableName, &'a CheckedPut),
    /// Deletes cells.
    Delete(&'a TableName, &'a [Delete]),
}

impl Call<'_> {
    /// Its name in the interface.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Call::ServerType => "getThriftServerType",
            Call::Regions(_) => "getAllRegionLocations",
            Call::Describe(_) => "getTableDescriptor",
            Call::Exists(_) => "tableExists",
            Call::IsDisabled(_) => "isTableDisabled",
            Call::Create(_) => "createTable",
            Call::CreateNamespace(_) => "createNamespace",
            Call::Get(..) => "getMultiple",
            Call::Scan(..) => "getScannerResults",
            Call::Put(..) => "putMultiple",
            Call::PutIf(..) => "checkAndPut",
            Call::Delete(..) => "deleteMultiple",
        }
    }

    /// The table it is about.
    pub(super) fn table(&self) -> &str {
        match self {
            Call::ServerType => "",
            Call::CreateNamespace(name) => name,
            Call::Create(new) => new.table.text(),
            Call::Regions(table) | Call::Describe(table) => table.text(),
            Call::Exists(table) | Call::IsDisabled(table) => table.text(),
            Call::Get(table, ..) | Call::Scan(table, ..) => table.text(),
            Call::Put(table, _) | Call::Delete(table, _) => table.text(),
            Call::PutIf(table, _) => table.text(),
        }
    }

    /// How many rows it is about; `None` when it is about none.
    pub(super) fn rows(&self) -> Option<usize> {
        match self {
            Call::Get(_, rows, _) => Some(rows.len()),
            Call::Scan(_, scan, _) => Some(scan.rows),
            Call::Put(_, puts) => Some(puts.len()),
            Call::Delete(_, deletes) => Some(deletes.len()),
            Call::PutIf(..) => Some(1),
            _ => None,
        }
    }

    /// The call in bytes.
    pub(super) fn encode(&self, protocol: Protocol, sequence: i32) -> thrift::Result<Vec<u8>> {
        encode(protocol, self.name(), sequence, |out| match self {
            Call::ServerType => Ok(()),
            Call::Regions(table) => out.bytes(1, table.text.as_bytes()),
            Call::Describe(table) | Call::Exists(table) | Call::IsDisabled(table) => {
                out.nested(1, |out| table.write(out))
            }
            Call::Create(new) => new.write(out),
            Call::CreateNamespace(name) => out.nested(1, |out| out.bytes(1, name.as_bytes())),
            Call::Get(table, rows, projection) => {
                out.bytes(1, table.text.as_bytes())?;
                out.list(2, rows, |out, row| projection.write_get(out, row))
            }
            Call::Scan(table, scan, projection) => {
                out.bytes(1, table.text.as_bytes())?;
                out.nested(2, |out| scan.write(out, projection))?;
                out.i32(3, small(scan.rows))
            }
            Call::Put(table, puts) => {
                out.bytes(1, table.text.as_bytes())?;
                out.list(2, puts, |out, put| put.write(out))
            }
            Call::PutIf(table, checked) => {
                out.bytes(1, table.text.as_bytes())?;
                checked.write(out)
            }
            Call::Delete(table, deletes) => {
                out.bytes(1, table.text.as_bytes())?;
                out.list(2, deletes, |out, delete| delete.write(out))
            }
        })
    }
}

/// Limits keep these far below the end of i32.
fn small(count: usize) -> i32 {
    i32::try_from(count).unwrap_or(i32::MAX)
}

impl Projection {
    fn write_columns(&self, out: &mut Out<'_>, id: i16) -> thrift::Result<()> {
        if self.columns.is_empty() {
            return Ok(());
        }
        out.list(id, &self.columns, |out, column| {
            out.bytes(1, &column.family)?;
            match &column.qualifier {
                Some(qualifier) => out.bytes(2, qualifier),
                None => Ok(()),
            }
        })
    }

    fn write_times(&self, out: &mut Out<'_>, id: i16) -> thrift::Result<()> {
        match self.until_ms {
            Some(until_ms) => out.nested(id, |out| {
                out.i64(1, 0)?;
                out.i64(2, until_ms)
            }),
            None => Ok(()),
        }
    }

    fn write_get(&self, out: &mut Out<'_>, row: &[u8]) -> thrift::Result<()> {
        out.bytes(1, row)?;
        self.write_columns(out, 2)?;
        self.write_times(out, 4)?;
        match &self.filter {
            Some(filter) => out.bytes(15, filter),
            None => Ok(()),
        }
    }
}

impl Scan {
    fn write(&self, out: &mut Out<'_>, projection: &Projection) -> thrift::Result<()> {
        // `TReadType.STREAM`: sequential reads that leave the block cache to the point reads.
        const STREAM: i32 = 2;
        out.bytes(1, &self.start)?;
        out.bytes(2, &self.stop)?;
        projection.write_columns(out, 3)?;
        out.i32(4, small(self.rows))?;
        projection.write_times(out, 6)?;
        if self.reversed {
            out.bool(11, true)?;
        }
        out.bool(12, false)?;
        out.i32(14, STREAM)?;
        out.i32(15, small(self.rows))?;
        match &projection.filter {
            Some(filter) => out.bytes(18, filter),
            None => Ok(()),
        }
    }
}

impl Put {
    fn write(&self, out: &mut Out<'_>) -> thrift::Result<()> {
        out.bytes(1, &self.row)?;
        out.list(2, &self.cells, |out, cell| {
            out.bytes(1, &cell.family)?;
            out.bytes(2, &cell.qualifier)?;
            out.bytes(3, &cell.value)?;
            out.i64(4, self.timestamp)
        })?;
        out.i64(3, self.timestamp)
    }

    /// About what it takes in a request.
    pub(super) fn bytes(&self) -> usize {
        let cell =
            |cell: &NewCell| cell.family.len() + cell.qualifier.len() + cell.value.len() + 36;
        self.row.len() + 32 + self.cells.iter().map(cell).sum::<usize>()
    }

    /// Bytes of its largest cell as HBase counts them: with the row key, the column and 20 bytes for lengths, time and type.
    pub(super) fn largest_cell(&self) -> usize {
        let cell = |cell: &NewCell| cell.family.len() + cell.qualifier.len() + cell.value.len();
        let largest = self.cells.iter().map(cell).max();
        largest.map_or(0, |largest| self.row.len() + largest + 20)
    }
}

impl CheckedPut {
    fn write(&self, out: &mut Out<'_>) -> thrift::Result<()> {
        out.bytes(2, &self.put.row)?;
        out.bytes(3, &self.family)?;
        out.bytes(4, &self.qualifier)?;
        if let Some(expected) = &self.expected {
            out.bytes(5, expected)?;
        }
        out.nested(6, |out| self.put.write(out))
    }
}

impl Delete {
    fn write(&self, out: &mut Out<'_>) -> thrift::Result<()> {
        // `TDeleteType.DELETE_COLUMNS`: all versions up to the timestamp.
        const COLUMNS: i32 = 1;
        out.bytes(1, &self.row)?;
        out.list(2, &self.columns, |out, (family, qualifier)| {
            out.bytes(1, family)?;
            out.bytes(2, qualifier)?;
            out.i64(3, self.timestamp)
        })?;
        out.i64(3, self.timestamp)?;
        out.i32(4, COLUMNS)
    }

    /// About what it takes in a request.
    pub(super) fn bytes(&self) -> usize {
        let column = |(family, qualifier): &(Vec<u8>, Vec<u8>)| family.len() + qualifier.len() + 28;
        self.row.len() + 44 + self.columns.iter().map(column).sum::<usize>()
    }
}

impl NewTable {
    fn write(&self, out: &mut Out<'_>) -> thrift::Result<()> {
        out.nested(1, |out| {
            out.nested(1, |out| self.table.write(out))?;
            out.list(2, &self.families, |out, family| {
                out.bytes(1, family)?;
                for (id, value) in [
                    (5, self.bloom),
                    (6, self.compression),
                    // `TKeepDeletedCells.TRUE`
                    (9, self.keeps_deleted.then_some(1)),
                    (10, self.versions),
                    (13, self.ttl_s),
                ] {
                    if let Some(value) = value {
                        out.i32(id, value)?;
                    }
                }
                Ok(())
            })
        })
        // No split keys: gateways up to 2.6.1 take the whole request for each of them.
    }
}
