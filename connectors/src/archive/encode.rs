//! Rows to Parquet, and what is known of a file's columns when it is done.
//!
//! Invariant: a file is the same bytes for the same rows, options and ends of row groups. Every bound that is told of a column holds for all its
//! values; for floating point, whose order in Parquet leaves NaN out, none is told.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef};
use arrow::compute::{
    SortColumn, SortOptions, concat_batches, lexsort_to_indices, sort_to_indices, take,
    take_record_batch,
};
use arrow::datatypes::{DataType, Field, SchemaRef};
use arrow::record_batch::RecordBatch;
use bytes::Bytes;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::statistics::StatisticsConverter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::metadata::{ParquetMetaData, SortingColumn};
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::schema::types::ColumnPath;

use super::error::ArchiveError;
use super::layout::{internal, untyped};
use super::manifest::ColumnRange;
use crate::error::ConnectorError;
use crate::options::Options;

/// Rows of a row group unless `row.group.rows` says otherwise.
const ROW_GROUP_ROWS: usize = 262_144;

/// How files are written.
#[derive(Debug, Clone)]
pub(crate) struct Encoding {
    schema: SchemaRef,
    properties: Arc<WriterProperties>,
    row_group_rows: usize,
    sort_by: Vec<(usize, SortOptions)>,
}

impl Encoding {
    /// From the options of `ENCODE PARQUET (...)` and `sort_by`.
    ///
    /// # Errors
    /// 22023 for a column that files do not have, or that cannot be sorted by.
    pub(crate) fn new(
        schema: SchemaRef,
        encode: Options<'_>,
        sort_by: Option<&str>,
    ) -> Result<Self, ConnectorError> {
        let row_group_rows = match encode.u64("row.group.rows")? {
            Some(rows) => usize::try_from(rows).unwrap_or(usize::MAX).max(1),
            None => ROW_GROUP_ROWS,
        };
        let compression = match encode.text("compression") {
            Some("none") => Compression::UNCOMPRESSED,
            Some("snappy") => Compression::SNAPPY,
            Some("lz4") => Compression::LZ4_RAW,
            _ => Compression::ZSTD(ZstdLevel::default()),
        };
        let mut properties = WriterProperties::builder()
            .set_created_by("thalweg".to_owned())
            .set_compression(compression)
            .set_max_row_group_row_count(Some(row_group_rows));
        for path in float_paths(&schema) {
            properties = properties.set_column_statistics_enabled(path, EnabledStatistics::None);
        }
        let bloom = encode.text("bloom.columns").unwrap_or_default();
        for name in bloom
            .split(',')
            .map(str::trim)
            .filter(|name| !name.is_empty())
        {
            let field = schema.field(position(&schema, name, "bloom.columns")?);
            if field.data_type().is_nested() {
                return Err(ConnectorError::option(format!(
                    "column \"{name}\" in option \"bloom.columns\" is not of a plain type"
                )));
            }
            let path = ColumnPath::from(field.name().as_str());
            properties = properties.set_column_bloom_filter_enabled(path, true);
        }
        let sort_by = sort_columns(&schema, sort_by)?;
        let flat = schema
            .fields()
            .iter()
            .all(|field| !field.data_type().is_nested());
        if flat && !sort_by.is_empty() {
            let sorted = sort_by.iter().map(|(at, options)| SortingColumn {
                column_idx: i32::try_from(*at).unwrap_or(i32::MAX),
                descending: options.descending,
                nulls_first: options.nulls_first,
            });
            properties = properties.set_sorting_columns(Some(sorted.collect()));
        }
        Ok(Self {
            schema,
            properties: Arc::new(properties.build()),
            row_group_rows,
            sort_by,
        })
    }
}

/// One file being encoded.
pub(crate) struct Encoder {
    encoding: Encoding,
    writer: ArrowWriter<Vec<u8>>,
    /// Rows that wait to be sorted, one row group at most.
    waiting: Vec<RecordBatch>,
    waiting_rows: usize,
    rows: u64,
}

/// A file that was encoded to its end.
pub(crate) struct Encoded {
    pub(crate) tail: Bytes,
    pub(crate) rows: u64,
    pub(crate) columns: BTreeMap<String, ColumnRange>,
}

impl Encoder {
    pub(crate) fn new(encoding: &Encoding) -> Result<Self, ArchiveError> {
        let properties = encoding.properties.as_ref().clone();
        let schema = Arc::clone(&encoding.schema);
        let writer = ArrowWriter::try_new(Vec::new(), schema, Some(properties));
        Ok(Self {
            encoding: encoding.clone(),
            writer: writer.map_err(internal)?,
            waiting: Vec::new(),
            waiting_rows: 0,
            rows: 0,
        })
    }

    /// Takes rows; gives what of the file is done.
    pub(crate) fn push(&mut self, batch: RecordBatch) -> Result<Bytes, ArchiveError> {
        self.rows += batch.num_rows() as u64;
        if self.encoding.sort_by.is_empty() {
            self.writer.write(&batch).map_err(internal)?;
            return Ok(self.drain());
        }
        let mut rest = batch;
        while rest.num_rows() > 0 {
            let room = self
                .encoding
                .row_group_rows
                .saturating_sub(self.waiting_rows);
            let taken = rest.num_rows().min(room);
            self.waiting.push(rest.slice(0, taken));
            self.waiting_rows += taken;
            rest = rest.slice(taken, rest.num_rows() - taken);
            if self.waiting_rows >= self.encoding.row_group_rows {
                self.write_sorted()?;
            }
        }
        Ok(self.drain())
    }

    /// Bytes that are held in memory, and bytes that a flush would add to the file, about.
    pub(crate) fn pending_bytes(&self) -> usize {
        let waiting: usize = self
            .waiting
            .iter()
            .map(RecordBatch::get_array_memory_size)
            .sum();
        self.writer.in_progress_size() + waiting
    }

    /// Bytes in memory that [`Self::flush`] lets go of.
    pub(crate) fn held_bytes(&self) -> usize {
        let waiting = self.waiting.iter().map(RecordBatch::get_array_memory_size);
        self.writer.memory_size() + waiting.sum::<usize>()
    }

    /// Ends the row group; gives what of the file is done.
    pub(crate) fn flush(&mut self) -> Result<Bytes, ArchiveError> {
        self.write_sorted()?;
        self.writer.flush().map_err(internal)?;
        Ok(self.drain())
    }

    /// Ends the file.
    pub(crate) fn finish(mut self) -> Result<Encoded, ArchiveError> {
        self.write_sorted()?;
        let metadata = self.writer.finish().map_err(internal)?;
        let tail = self.drain();
        Ok(Encoded {
            tail,
            rows: self.rows,
            columns: ranges(&self.encoding.schema, &metadata)?,
        })
    }

    fn write_sorted(&mut self) -> Result<(), ArchiveError> {
        if self.waiting.is_empty() {
            return Ok(());
        }
        let rows = concat_batches(&self.encoding.schema, &self.waiting).map_err(internal)?;
        self.waiting.clear();
        self.waiting_rows = 0;
        let keys: Vec<SortColumn> = self
            .encoding
            .sort_by
            .iter()
            .map(|(at, options)| SortColumn {
                values: Arc::clone(rows.column(*at)),
                options: Some(*options),
            })
            .collect();
        let order = lexsort_to_indices(&keys, None).map_err(internal)?;
        let sorted = take_record_batch(&rows, &order).map_err(internal)?;
        self.writer.write(&sorted).map_err(internal)?;
        self.writer.flush().map_err(internal)
    }

    fn drain(&mut self) -> Bytes {
        Bytes::from(std::mem::take(self.writer.inner_mut()))
    }
}

/// What the footer tells of columns, over all row groups.
fn ranges(
    schema: &SchemaRef,
    metadata: &ParquetMetaData,
) -> Result<BTreeMap<String, ColumnRange>, ArchiveError> {
    let groups = metadata.row_groups();
    let parquet = metadata.file_metadata().schema_descr();
    let mut columns = BTreeMap::new();
    for field in schema.fields().iter().filter(|field| has_range(field)) {
        let statistics = StatisticsConverter::try_new(field.name(), schema, parquet)
            .map_err(internal)?
            .with_missing_null_counts_as_zero(false);
        let nulls = statistics.row_group_null_counts(groups).map_err(internal)?;
        let no_values: Vec<bool> = groups
            .iter()
            .enumerate()
            .map(|(at, group)| {
                nulls.is_valid(at) && i64::try_from(nulls.value(at)).ok() == Some(group.num_rows())
            })
            .collect();
        let mins = statistics.row_group_mins(groups).map_err(internal)?;
        let maxes = statistics.row_group_maxes(groups).map_err(internal)?;
        let known = nulls.null_count() == 0;
        let range = ColumnRange {
            min: bound(&mins, &no_values, false)?,
            max: bound(&maxes, &no_values, true)?,
            nulls: known.then(|| nulls.values().iter().sum()),
        };
        columns.insert(field.name().clone(), range);
    }
    Ok(columns)
}

/// The least or greatest of bounds; none when a row group that has values has no bound.
fn bound(
    bounds: &ArrayRef,
    no_values: &[bool],
    greatest: bool,
) -> Result<Option<String>, ArchiveError> {
    let unknown = no_values
        .iter()
        .enumerate()
        .any(|(at, none)| !none && bounds.is_null(at));
    if unknown || bounds.null_count() == bounds.len() {
        return Ok(None);
    }
    let order = SortOptions {
        descending: greatest,
        nulls_first: false,
    };
    let first = sort_to_indices(bounds, Some(order), Some(1)).map_err(internal)?;
    let first = take(bounds, &first, None).map_err(internal)?;
    let text = untyped(&first)?;
    Ok((text.len() == 1 && text.is_valid(0)).then(|| text.value(0).to_owned()))
}

/// Types whose bounds are told.
fn has_range(field: &Field) -> bool {
    matches!(
        field.data_type(),
        DataType::Boolean
            | DataType::Int16
            | DataType::Int32
            | DataType::Int64
            | DataType::UInt32
            | DataType::Decimal128(..)
            | DataType::Utf8
            | DataType::Date32
            | DataType::Timestamp(..)
            | DataType::Time64(_)
    )
}

/// Leaves of floating point, as Parquet names them.
fn float_paths(schema: &SchemaRef) -> Vec<ColumnPath> {
    fn visit(field: &Field, path: &[String], found: &mut Vec<ColumnPath>) {
        let mut path = path.to_vec();
        path.push(field.name().clone());
        match field.data_type() {
            DataType::Float32 | DataType::Float64 => found.push(ColumnPath::new(path)),
            DataType::List(item) => {
                path.push("list".to_owned());
                visit(item, &path, found);
            }
            DataType::Struct(fields) => {
                for field in fields {
                    visit(field, &path, found);
                }
            }
            _ => {}
        }
    }
    let mut found = Vec::new();
    for field in schema.fields() {
        visit(field, &[], &mut found);
    }
    found
}

fn position(schema: &SchemaRef, name: &str, option: &str) -> Result<usize, ConnectorError> {
    schema.index_of(name).map_err(|_| {
        ConnectorError::option(format!(
            "option \"{option}\" names \"{name}\", which is no column of the archive's files"
        ))
    })
}

fn sort_columns(
    schema: &SchemaRef,
    text: Option<&str>,
) -> Result<Vec<(usize, SortOptions)>, ConnectorError> {
    let mut columns = Vec::new();
    let parts = text.unwrap_or_default().split(',').map(str::trim);
    for part in parts.filter(|part| !part.is_empty()) {
        let lower = part.to_ascii_lowercase();
        let (name, descending) = match lower {
            _ if lower.ends_with(" desc") => (part.get(..part.len() - 5), true),
            _ if lower.ends_with(" asc") => (part.get(..part.len() - 4), false),
            _ => (Some(part), false),
        };
        let name = name.unwrap_or(part).trim();
        let at = position(schema, name, "sort_by")?;
        if schema.field(at).data_type().is_nested() {
            return Err(ConnectorError::option(format!(
                "column \"{name}\" in option \"sort_by\" is not of a plain type"
            )));
        }
        // As ORDER BY has it: NULL is greater than everything.
        let options = SortOptions {
            descending,
            nulls_first: descending,
        };
        columns.push((at, options));
    }
    Ok(columns)
}
