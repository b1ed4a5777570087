//! Which columns of an archive are in its files, and which are the names of folders.
//!
//! Invariant: a row is in the file whose partition values are its own, and these values come back as they were. Folder names are
//! those that Hive, Spark, DuckDB and pyarrow read; whatever a value is, its folder is one part of a path.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, StringArray, UInt32Array};
use arrow::compute::CastOptions;
use arrow::compute::{cast_with_options, take_record_batch};
use arrow::datatypes::{DataType, Date32Type, Field, Fields, Schema, SchemaRef};
use arrow::record_batch::{RecordBatch, RecordBatchOptions};
use thalweg_catalog::{Column, SqlType};

use super::error::ArchiveError;
use super::manifest::{Shape, ShapeColumn};

/// Name of the folder of NULL, as Hive has it.
const NULL_FOLDER: &str = "__HIVE_DEFAULT_PARTITION__";
/// Longest name of a folder that every store takes, in bytes.
const FOLDER_BYTES_MAX: usize = 240;

/// Milliseconds of a day.
const DAY_MS: i64 = 86_400_000;

/// The columns of an archive and where they are.
#[derive(Debug, Clone)]
pub struct Layout {
    table: SchemaRef,
    file: SchemaRef,
    in_file: Vec<usize>,
    partition: Vec<usize>,
    shape: Shape,
}

impl Layout {
    /// The layout of these columns, of which `partition` are folders, outermost first.
    ///
    /// # Errors
    /// 0A000 for a type that Parquet or a folder's name cannot hold.
    pub fn new(columns: &[Column], partition: &[usize]) -> Result<Self, ArchiveError> {
        let fields: Vec<Field> = columns.iter().map(Column::field).collect();
        for (at, column) in columns.iter().enumerate() {
            let (fits, role) = match partition.contains(&at) {
                true => (makes_folders(&column.ty), "a partition column"),
                false => (fits_parquet(fields[at].data_type()), "a column"),
            };
            if !fits {
                return Err(ArchiveError::ColumnType {
                    column: column.name.clone(),
                    ty: column.ty.to_string(),
                    role,
                });
            }
        }
        let in_file: Vec<usize> = (0..columns.len())
            .filter(|at| !partition.contains(at))
            .collect();
        let file: Vec<Field> = in_file.iter().map(|at| plain(&fields[*at])).collect();
        let name = |at: &usize| columns[*at].name.clone();
        let shape = Shape {
            columns: columns
                .iter()
                .map(|column| ShapeColumn {
                    name: column.name.clone(),
                    ty: column.ty.to_string(),
                })
                .collect(),
            partition_by: partition.iter().map(name).collect(),
        };
        Ok(Self {
            table: Arc::new(Schema::new(fields)),
            file: Arc::new(Schema::new(file)),
            in_file,
            partition: partition.to_vec(),
            shape,
        })
    }

    /// The archive's columns as a query sees them.
    pub fn schema(&self) -> SchemaRef {
        Arc::clone(&self.table)
    }

    /// The columns of its files.
    pub fn file_schema(&self) -> SchemaRef {
        Arc::clone(&self.file)
    }

    /// Positions, among the archive's columns, of those in the files.
    pub fn in_file(&self) -> &[usize] {
        &self.in_file
    }

    /// Positions of the partition columns, outermost first.
    pub fn partition(&self) -> &[usize] {
        &self.partition
    }

    pub(crate) fn shape(&self) -> &Shape {
        &self.shape
    }

    /// True when rows of an archive of this shape can be read as ours: every column of it is here, in its type or a wider one, and
    /// the folders are the same. Otherwise what differs.
    pub(crate) fn fits(&self, shape: &Shape) -> Result<(), String> {
        if shape.partition_by != self.shape.partition_by {
            return Err(format!(
                "It is partitioned by ({}).",
                shape.partition_by.join(", ")
            ));
        }
        for column in &shape.columns {
            let own = self
                .shape
                .columns
                .iter()
                .find(|own| own.name == column.name);
            match own {
                Some(own) if widens(&column.ty, &own.ty) => {}
                Some(_) => {
                    return Err(format!("Its column \"{}\" is {}.", column.name, column.ty));
                }
                None => return Err(format!("It has a column \"{}\".", column.name)),
            }
        }
        let new = self
            .shape
            .columns
            .iter()
            .zip(self.table.fields())
            .find(|(own, field)| {
                !field.is_nullable() && !shape.columns.iter().any(|column| column.name == own.name)
            });
        match new {
            Some((own, _)) => Err(format!(
                "Its rows have no column \"{}\", which is not null.",
                own.name
            )),
            None => Ok(()),
        }
    }

    /// Parts a batch of the archive's columns by partition. Rows of a partition keep their order. Rows with a value that cannot
    /// name a folder are in no part.
    pub(crate) fn split(&self, batch: &RecordBatch) -> Result<Split, ArchiveError> {
        let in_file = self.file_columns(batch)?;
        let mut refused = Vec::new();
        if self.partition.is_empty() {
            let parts = vec![(Key(Vec::new()), in_file)];
            return Ok(Split { parts, refused });
        }
        let texts: Result<Vec<StringArray>, ArchiveError> = self
            .partition
            .iter()
            .map(|at| text_of(batch.column(*at)))
            .collect();
        let texts = texts?;
        let value =
            |text: &StringArray, row: usize| text.is_valid(row).then(|| text.value(row).to_owned());
        let mut parts: Vec<(Key, Vec<u32>)> = Vec::new();
        let mut known: HashMap<Key, usize> = HashMap::new();
        let mut last: Option<usize> = None;
        for row in 0..batch.num_rows() {
            let same = last.filter(|at| {
                let key = parts.get(*at).map(|part| &part.0.0);
                key.is_some_and(|key| {
                    texts.iter().zip(key).all(|(text, value)| match value {
                        Some(value) => text.is_valid(row) && text.value(row) == value,
                        None => text.is_null(row),
                    })
                })
            });
            let at = match same {
                Some(at) => at,
                None => {
                    let key = Key(texts.iter().map(|text| value(text, row)).collect());
                    if let Err(error) = self.check(&key) {
                        refused.push(error);
                        continue;
                    }
                    let next = parts.len();
                    let at = *known.entry(key.clone()).or_insert(next);
                    if at == next {
                        parts.push((key, Vec::new()));
                    }
                    at
                }
            };
            last = Some(at);
            if let (Some(part), Ok(row)) = (parts.get_mut(at), u32::try_from(row)) {
                part.1.push(row);
            }
        }
        let whole = parts.len() == 1 && refused.is_empty();
        let parts: Result<_, ArchiveError> = parts
            .into_iter()
            .map(|(key, rows)| match whole {
                true => Ok((key, in_file.clone())),
                false => {
                    let rows = UInt32Array::from(rows);
                    let part = take_record_batch(&in_file, &rows).map_err(internal)?;
                    Ok((key, part))
                }
            })
            .collect();
        Ok(Split {
            parts: parts?,
            refused,
        })
    }

    /// Refuses values that would not name a folder, or not come back from the manifest as they were.
    fn check(&self, key: &Key) -> Result<(), ArchiveError> {
        self.folder(key)?;
        for (at, value) in self.partition.iter().zip(&key.0) {
            if self.partition_values(*at, &[value.as_deref()]).is_err() {
                return Err(ArchiveError::PartitionValue {
                    column: self.table.field(*at).name().clone(),
                    value: value.clone().unwrap_or_default(),
                });
            }
        }
        Ok(())
    }

    /// The batch as files hold it.
    fn file_columns(&self, batch: &RecordBatch) -> Result<RecordBatch, ArchiveError> {
        let columns: Result<Vec<ArrayRef>, ArchiveError> = self
            .in_file
            .iter()
            .zip(self.file.fields())
            .map(|(at, field)| {
                let strict = CastOptions {
                    safe: false,
                    ..CastOptions::default()
                };
                cast_with_options(batch.column(*at), field.data_type(), &strict).map_err(internal)
            })
            .collect();
        let rows = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        RecordBatch::try_new_with_options(Arc::clone(&self.file), columns?, &rows).map_err(internal)
    }

    /// The folder of a partition, with a slash behind it; empty without partition columns.
    pub(crate) fn folder(&self, key: &Key) -> Result<String, ArchiveError> {
        let mut folder = String::new();
        for (name, value) in self.shape.partition_by.iter().zip(&key.0) {
            let value = match value.as_deref() {
                // Hive has no folder for the empty text; the manifest knows it from NULL.
                None | Some("") => NULL_FOLDER.to_owned(),
                Some(value) => escaped(value),
            };
            let part = format!("{}={value}", escaped(name));
            if part.len() > FOLDER_BYTES_MAX {
                return Err(ArchiveError::PartitionTooLong {
                    column: name.clone(),
                    bytes: part.len(),
                    bytes_max: FOLDER_BYTES_MAX,
                });
            }
            folder.push_str(&part);
            folder.push('/');
        }
        Ok(folder)
    }

    /// True for a path that a file of rows can have: one folder for each partition column, which begins with its name. Another
    /// archive's files, in a folder below, have other paths.
    pub(crate) fn is_path_of_rows(&self, path: &str) -> bool {
        let folders: Vec<&str> = match path.rsplit_once('/') {
            Some((folders, _)) => folders.split('/').collect(),
            None => Vec::new(),
        };
        let names = &self.shape.partition_by;
        let of_column = |(folder, name): (&&str, &String)| {
            let value = folder.strip_prefix(&escaped(name));
            value.is_some_and(|value| value.starts_with('='))
        };
        folders.len() == names.len() && folders.iter().zip(names).all(of_column)
    }

    /// When the days that are the folders of a partition end, in milliseconds since the Unix epoch; `None` without days.
    pub(crate) fn days_end_ms(&self, key: &[Option<String>]) -> Option<i64> {
        let days = self
            .partition
            .iter()
            .zip(key)
            .filter_map(|(column, value)| {
                let is_date = self.table.field(*column).data_type() == &DataType::Date32;
                let value = value.as_deref().filter(|_| is_date)?;
                let day = self.partition_values(*column, &[Some(value)]).ok()?;
                day.as_primitive::<Date32Type>().iter().next()?
            });
        let last = days.max()?;
        Some((i64::from(last) + 1).saturating_mul(DAY_MS))
    }

    /// The value of a partition column in each of several files, as an array of the column's type.
    ///
    /// # Errors
    /// XX001 for a text that is no value of the type.
    pub fn partition_values(
        &self,
        column: usize,
        texts: &[Option<&str>],
    ) -> Result<ArrayRef, ArchiveError> {
        let field = self.table.field(column);
        let texts: ArrayRef = Arc::new(StringArray::from(texts.to_vec()));
        let values = typed(&texts, field.data_type());
        let bad = (0..texts.len()).find(|at| texts.is_valid(*at) && values.is_null(*at));
        match bad {
            Some(at) => Err(ArchiveError::Damaged {
                path: "_manifest".into(),
                detail: format!(
                    "{:?} is no value of column \"{}\".",
                    texts.as_string::<i32>().value(at),
                    field.name()
                ),
            }),
            None => Ok(values),
        }
    }
}

/// A batch by partition.
pub(crate) struct Split {
    /// Rows of each partition, in the columns of files.
    pub(crate) parts: Vec<(Key, RecordBatch)>,
    /// Why a row is in none of them: one error for each such row.
    pub(crate) refused: Vec<ArchiveError>,
}

/// Values of the partition columns, as text.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Key(pub(crate) Vec<Option<String>>);

/// Texts as values of a type; NULL for what is none.
pub(crate) fn typed(texts: &ArrayRef, ty: &DataType) -> ArrayRef {
    let lenient = CastOptions::default();
    let step = |array: &ArrayRef, ty: &DataType| {
        cast_with_options(array, ty, &lenient)
            .unwrap_or_else(|_| arrow::array::new_null_array(ty, array.len()))
    };
    match storage_of(ty) {
        Some(storage) => step(&step(texts, &storage), ty),
        None => step(texts, ty),
    }
}

/// Values as text that [`typed`] takes back; NULL where there is no such text.
pub(crate) fn untyped(values: &ArrayRef) -> Result<StringArray, ArchiveError> {
    let step = |array: &ArrayRef, ty: &DataType| {
        cast_with_options(array, ty, &CastOptions::default()).map_err(internal)
    };
    let plain = match storage_of(values.data_type()) {
        Some(storage) => step(values, &storage)?,
        None => Arc::clone(values),
    };
    Ok(step(&plain, &DataType::Utf8)?.as_string::<i32>().clone())
}

/// The whole number that a moment is written as among statistics: no spelling can be misread.
fn storage_of(ty: &DataType) -> Option<DataType> {
    match ty {
        DataType::Timestamp(..) | DataType::Time64(_) => Some(DataType::Int64),
        _ => None,
    }
}

/// Partition values as they are in folder names: moments in ISO form, numbers in decimal.
fn text_of(values: &ArrayRef) -> Result<StringArray, ArchiveError> {
    let strict = CastOptions {
        safe: false,
        ..CastOptions::default()
    };
    let texts = cast_with_options(values, &DataType::Utf8, &strict).map_err(internal)?;
    Ok(texts.as_string::<i32>().clone())
}

pub(crate) fn internal(error: impl std::fmt::Display) -> ArchiveError {
    ArchiveError::Internal(error.to_string())
}

/// True when every value of a type is one of another, and they are in the same order there.
fn widens(from: &str, to: &str) -> bool {
    const WIDER: [(&str, &[&str]); 4] = [
        ("smallint", &["integer", "bigint"]),
        ("integer", &["bigint"]),
        ("real", &["double precision"]),
        ("character varying", &["text"]),
    ];
    let parts = |ty: &str| {
        let (name, rest) = ty.split_once('(')?;
        let numbers = rest.strip_suffix(')')?.split(',');
        let numbers: Result<Vec<u32>, _> = numbers.map(str::parse).collect();
        Some((name.to_owned(), numbers.ok()?))
    };
    if from == to
        || WIDER
            .iter()
            .any(|(ty, wider)| *ty == from && wider.contains(&to))
    {
        return true;
    }
    match (parts(from), parts(to)) {
        (Some((from, old)), Some((to, new))) if from == to => match (&*from, &*old, &*new) {
            ("character varying", [old], [new]) => old <= new,
            // The digits behind the point are as many as before.
            ("numeric", [old, old_scale], [new, new_scale]) => old <= new && old_scale == new_scale,
            _ => false,
        },
        (Some((from, _)), None) => from == "character varying" && to == "text",
        _ => false,
    }
}

/// Types whose values have one short text that reads back.
fn makes_folders(ty: &SqlType) -> bool {
    matches!(
        ty,
        SqlType::Bool
            | SqlType::Int2
            | SqlType::Int4
            | SqlType::Int8
            | SqlType::Text
            | SqlType::Varchar(_)
            | SqlType::Date
    )
}

fn fits_parquet(ty: &DataType) -> bool {
    match ty {
        DataType::Interval(_) | DataType::Duration(_) => false,
        DataType::List(inner) => fits_parquet(inner.data_type()),
        // Parquet has no group without members.
        DataType::Struct(fields) => {
            !fields.is_empty() && fields.iter().all(|field| fits_parquet(field.data_type()))
        }
        _ => true,
    }
}

/// The field as files have it: of types that every reader knows, without our notes.
fn plain(field: &Field) -> Field {
    Field::new(
        field.name(),
        plain_type(field.data_type()),
        field.is_nullable(),
    )
}

fn plain_type(ty: &DataType) -> DataType {
    match ty {
        DataType::Utf8View | DataType::LargeUtf8 => DataType::Utf8,
        DataType::BinaryView | DataType::LargeBinary => DataType::Binary,
        DataType::List(inner) => DataType::List(Arc::new(plain(inner))),
        DataType::Struct(fields) => {
            DataType::Struct(fields.iter().map(|field| plain(field)).collect::<Fields>())
        }
        other => other.clone(),
    }
}

/// Escapes as Hive does: what has a meaning in paths becomes `%XX`.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        let special = c.is_ascii_control() || "\"#%'*/:=?\\{[]^".contains(c);
        match special {
            true => out.push_str(&format!("%{:02X}", u32::from(c))),
            false => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_type_widens_when_no_value_changes() {
        for (from, to, expected) in [
            ("integer", "integer", true),
            ("smallint", "bigint", true),
            ("bigint", "integer", false),
            ("real", "double precision", true),
            ("integer", "double precision", false),
            ("character varying(3)", "character varying(4)", true),
            ("character varying(4)", "character varying(3)", false),
            ("character varying(4)", "text", true),
            ("character varying", "text", true),
            ("text", "character varying", false),
            ("numeric(10,2)", "numeric(12,2)", true),
            ("numeric(10,2)", "numeric(12,4)", false),
            ("numeric(10,2)", "numeric", false),
            ("date", "timestamp without time zone", false),
        ] {
            assert_eq!(widens(from, to), expected, "{from} to {to}");
        }
    }

    #[test]
    fn rows_are_in_one_folder_for_each_partition_column() {
        let columns = [
            Column::data("id", 1, SqlType::Int8),
            Column::data("a b", 2, SqlType::Text),
            Column::data("c:d", 3, SqlType::Text),
        ];
        let layout = Layout::new(&columns, &[1, 2]).expect("a layout");
        let plain = Layout::new(&columns, &[]).expect("a layout");
        for (path, parted, whole) in [
            ("x.parquet", false, true),
            ("a b=1/c%3Ad=2/x.parquet", true, false),
            ("a b=/c%3Ad=/x.parquet", true, false),
            ("a b=1/x.parquet", false, false),
            ("a b=1/c%3Ad=2/e=3/x.parquet", false, false),
            ("c%3Ad=2/a b=1/x.parquet", false, false),
            ("a bc=1/c%3Ad=2/x.parquet", false, false),
            ("other/a b=1/c%3Ad=2/x.parquet", false, false),
            ("other/x.parquet", false, false),
        ] {
            let found = [&layout, &plain].map(|layout| layout.is_path_of_rows(path));
            assert_eq!(found, [parted, whole], "{path}");
        }
        let key = Key(vec![Some("x/y".to_owned()), None]);
        let folder = layout.folder(&key).expect("a folder");
        assert!(layout.is_path_of_rows(&format!("{folder}x.parquet")));
    }

    #[test]
    fn the_days_of_a_partition_end_with_the_last() {
        let columns = [
            Column::data("id", 1, SqlType::Int8),
            Column::data("dt", 2, SqlType::Date),
            Column::data("region", 3, SqlType::Text),
        ];
        let layout = Layout::new(&columns, &[1, 2]).expect("a layout");
        let ends = |day: Option<&str>| {
            layout.days_end_ms(&[day.map(str::to_owned), Some("1999-01-01".to_owned())])
        };
        assert_eq!(ends(Some("1970-01-01")), Some(DAY_MS));
        assert_eq!(ends(Some("1969-12-31")), Some(0));
        assert_eq!((ends(None), ends(Some("soon"))), (None, None));
    }
}
