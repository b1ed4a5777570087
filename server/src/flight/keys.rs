//! Keys and types as Flight SQL's metadata commands tell them.
//!
//! Invariant: the schemas are those of the Flight SQL specification, also when there is nothing to tell: there are no foreign keys.

use std::sync::Arc;

use arrow_flight::sql::metadata::{XdbcTypeInfo, XdbcTypeInfoData, XdbcTypeInfoDataBuilder};
use arrow_flight::sql::{CommandGetPrimaryKeys, Nullable, Searchable, XdbcDataType};
use datafusion::arrow::array::{Int32Array, RecordBatch, StringArray};
use datafusion::arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::arrow::error::ArrowError;
use thalweg_catalog::Catalog;

/// Schema of GetPrimaryKeys.
pub(super) fn primary_key_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("catalog_name", DataType::Utf8, true),
        Field::new("db_schema_name", DataType::Utf8, true),
        Field::new("table_name", DataType::Utf8, false),
        Field::new("column_name", DataType::Utf8, false),
        Field::new("key_name", DataType::Utf8, true),
        Field::new("key_sequence", DataType::Int32, false),
    ]))
}

/// Schema of GetExportedKeys, GetImportedKeys and GetCrossReference.
pub(super) fn foreign_key_schema() -> SchemaRef {
    let text = |name: &str, nullable| Field::new(name, DataType::Utf8, nullable);
    Arc::new(Schema::new(vec![
        text("pk_catalog_name", true),
        text("pk_db_schema_name", true),
        text("pk_table_name", false),
        text("pk_column_name", false),
        text("fk_catalog_name", true),
        text("fk_db_schema_name", true),
        text("fk_table_name", false),
        text("fk_column_name", false),
        Field::new("key_sequence", DataType::Int32, false),
        text("fk_key_name", true),
        text("pk_key_name", true),
        Field::new("update_rule", DataType::UInt8, false),
        Field::new("delete_rule", DataType::UInt8, false),
    ]))
}

/// The primary key of a table, a row for each of its columns.
pub(super) fn primary_keys(
    catalog: &Catalog,
    query: &CommandGetPrimaryKeys,
) -> Result<RecordBatch, ArrowError> {
    let mut rows: Vec<(String, String, String, String, i32)> = Vec::new();
    for relation in catalog.relations() {
        let schema = catalog.schema_by_oid(relation.schema);
        let (Some(key), Some(schema)) = (&relation.primary_key, schema) else {
            continue;
        };
        let elsewhere = |wanted: &Option<String>, found: &str| {
            wanted.as_deref().is_some_and(|wanted| wanted != found)
        };
        if relation.name != query.table
            || elsewhere(&query.db_schema, &schema.name)
            || elsewhere(&query.catalog, catalog.database())
        {
            continue;
        }
        for (number, attnum) in (1..).zip(&key.columns) {
            let column = relation.columns.iter().find(|c| c.attnum == *attnum);
            let Some(column) = column else { continue };
            rows.push((
                schema.name.clone(),
                relation.name.clone(),
                column.name.clone(),
                key.name.clone(),
                number,
            ));
        }
    }
    let text = |of: fn(&(String, String, String, String, i32)) -> &str| {
        Arc::new(StringArray::from_iter_values(rows.iter().map(of)))
    };
    let database = vec![catalog.database(); rows.len()];
    RecordBatch::try_new(
        primary_key_schema(),
        vec![
            Arc::new(StringArray::from(database)),
            text(|row| &row.0),
            text(|row| &row.1),
            text(|row| &row.2),
            text(|row| &row.3),
            Arc::new(rows.iter().map(|row| Some(row.4)).collect::<Int32Array>()),
        ],
    )
}

/// Types that columns can have: name, code, size, quotes, whether a number.
const TYPES: &[(&str, XdbcDataType, Option<i32>, bool, bool)] = &[
    ("boolean", XdbcDataType::XdbcBit, Some(1), false, false),
    (
        "smallint",
        XdbcDataType::XdbcSmallint,
        Some(16),
        false,
        true,
    ),
    ("integer", XdbcDataType::XdbcInteger, Some(32), false, true),
    ("bigint", XdbcDataType::XdbcBigint, Some(64), false, true),
    ("real", XdbcDataType::XdbcReal, Some(24), false, true),
    (
        "double precision",
        XdbcDataType::XdbcDouble,
        Some(53),
        false,
        true,
    ),
    ("numeric", XdbcDataType::XdbcNumeric, Some(38), false, true),
    ("text", XdbcDataType::XdbcVarchar, None, true, false),
    (
        "character varying",
        XdbcDataType::XdbcVarchar,
        None,
        true,
        false,
    ),
    ("bytea", XdbcDataType::XdbcVarbinary, None, true, false),
    ("date", XdbcDataType::XdbcDate, Some(10), true, false),
    ("time", XdbcDataType::XdbcTime, Some(15), true, false),
    (
        "timestamp",
        XdbcDataType::XdbcTimestamp,
        Some(26),
        true,
        false,
    ),
    (
        "timestamp with time zone",
        XdbcDataType::XdbcTimestamp,
        Some(32),
        true,
        false,
    ),
    ("interval", XdbcDataType::XdbcInterval, None, true, false),
    ("uuid", XdbcDataType::XdbcChar, Some(36), true, false),
    ("jsonb", XdbcDataType::XdbcVarchar, None, true, false),
];

/// What GetXdbcTypeInfo tells.
pub(super) fn types() -> Result<XdbcTypeInfoData, arrow_flight::error::FlightError> {
    let mut builder = XdbcTypeInfoDataBuilder::new();
    for (name, code, size, quoted, number) in TYPES {
        builder.append(XdbcTypeInfo {
            type_name: (*name).to_owned(),
            data_type: *code,
            column_size: *size,
            literal_prefix: quoted.then(|| "'".to_owned()),
            literal_suffix: quoted.then(|| "'".to_owned()),
            nullable: Nullable::NullabilityNullable,
            case_sensitive: *quoted,
            searchable: Searchable::Full,
            unsigned_attribute: number.then_some(false),
            auto_increment: Some(false),
            local_type_name: Some((*name).to_owned()),
            sql_data_type: *code,
            num_prec_radix: number.then_some(2),
            ..XdbcTypeInfo::default()
        });
    }
    builder.build()
}
