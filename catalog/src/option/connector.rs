//! Which connectors exist, and the specs that CREATE SOURCE and CREATE SINK store.
//!
//! Invariant: a spec made here holds checked options only, and names a connector, a format and an encoding that are built.

use std::collections::BTreeMap;

use thalweg_sql::{Format, WithOption, suggest};

use super::registry::{OptionSpec, Place, options_of};
use super::{
    kafka, parse_bool, parse_bytes, parse_duration, text_of, validate, validate_source_options,
};
use crate::error::{CatalogError, bounded};
use crate::object::{ConnectorSpec, SinkFormat, SinkSpec};

/// Name of the Kafka connector.
pub const KAFKA: &str = "kafka";
/// Name of the generator connector.
pub const DATAGEN: &str = "datagen";

const FILE: &str = "file";
const HDFS: &str = "hdfs";
const S3: &str = "s3";
const AZURE: &str = "azure";
/// Encodings that files have besides JSON.
const FILE_ENCODINGS: &[&str] = &["CSV", "PARQUET"];

const BUILT_SOURCES: &[&str] = &[DATAGEN, FILE, KAFKA, "nexmark"];
const BUILT_SINKS: &[&str] = &["blackhole", KAFKA, "print"];
/// Promised by the dialect for some object, and not built for sources.
const PROMISED_SOURCES: &[&str] = &["mqtt", "http_poll", "hdfs", "s3", "azure", "hbase"];
const PROMISED_SINKS: &[&str] = &["hbase", "hdfs", "file", "s3", "azure", "webhook"];
const BUILT_TABLES: &[&str] = &["hbase"];
const PROMISED_TABLES: &[&str] = &[KAFKA];
const BUILT_ARCHIVES: &[&str] = &[AZURE, FILE, HDFS, S3];
const PROMISED_ARCHIVES: &[&str] = &[];

/// Row formats and encodings the dialect promises beside PLAIN and JSON.
const PROMISED_FORMATS: &[&str] = &["UPSERT", "DEBEZIUM", "MAXWELL", "CANAL"];
const PROMISED_ENCODINGS: &[&str] = &["AVRO", "PROTOBUF", "CSV", "BYTES", "PARQUET", "TEXT"];

/// The value of the option `connector`.
///
/// # Errors
/// 22023 when it is missing.
pub fn connector_of(options: &[WithOption]) -> Result<String, CatalogError> {
    let option = options.iter().find(|option| option.name == "connector");
    match option {
        Some(option) => Ok(text_of(option)?.trim().to_ascii_lowercase()),
        None => Err(CatalogError::InvalidValue {
            message: "option \"connector\" is missing".to_owned(),
            detail: None,
            hint: Some("Add WITH (connector = '...'). ".trim_end().to_owned()),
        }),
    }
}

pub(super) fn source_place(connector: &str) -> Result<Place, CatalogError> {
    match connector {
        KAFKA => Ok(Place::KafkaSource),
        DATAGEN => Ok(Place::DatagenSource),
        FILE => Ok(Place::FileSource),
        "nexmark" => Ok(Place::NexmarkSource),
        _ => Err(no_connector(
            connector,
            "source",
            BUILT_SOURCES,
            PROMISED_SOURCES,
        )),
    }
}

pub(super) fn sink_place(connector: &str) -> Result<Place, CatalogError> {
    match connector {
        KAFKA => Ok(Place::KafkaSink),
        "blackhole" => Ok(Place::BlackholeSink),
        "print" => Ok(Place::PrintSink),
        _ => Err(no_connector(connector, "sink", BUILT_SINKS, PROMISED_SINKS)),
    }
}

pub(super) fn table_place(connector: &str) -> Result<Place, CatalogError> {
    match connector {
        "hbase" => Ok(Place::HbaseTable),
        _ => Err(no_connector(
            connector,
            "table",
            BUILT_TABLES,
            PROMISED_TABLES,
        )),
    }
}

pub(super) fn archive_place(connector: &str) -> Result<Place, CatalogError> {
    match connector {
        FILE => Ok(Place::FileArchive),
        HDFS => Ok(Place::HdfsArchive),
        S3 => Ok(Place::S3Archive),
        AZURE => Ok(Place::AzureArchive),
        _ => Err(no_connector(
            connector,
            "archive",
            BUILT_ARCHIVES,
            PROMISED_ARCHIVES,
        )),
    }
}

fn no_connector(
    connector: &str,
    object: &str,
    built: &[&'static str],
    promised: &[&'static str],
) -> CatalogError {
    let use_built = format!("Built {object} connectors are {}.", built.join(", "));
    if promised.contains(&connector) {
        let hint = match (object, connector) {
            ("table", KAFKA) => Some("Use CREATE SOURCE ... WITH (connector = 'kafka', ...)."),
            ("source", "hbase") => Some("Use CREATE TABLE ... WITH (connector = 'hbase', ...)."),
            _ => Some(use_built.as_str()),
        };
        return CatalogError::not_built(format!("connector {connector} {object}s are"), hint);
    }
    let elsewhere = match object {
        "source" if ["blackhole", "print"].contains(&connector) => {
            Some("It is a sink connector; use CREATE SINK.")
        }
        "sink" if connector == DATAGEN => Some("It is a source connector; use CREATE SOURCE."),
        _ => None,
    };
    let nearest = suggest(connector, built.iter().chain(promised));
    CatalogError::InvalidValue {
        message: format!("unknown connector \"{}\" of {object}", bounded(connector)),
        detail: (!built.is_empty()).then_some(use_built),
        hint: match (elsewhere, nearest) {
            (Some(elsewhere), _) => Some(elsewhere.to_owned()),
            (None, Some(near)) => Some(format!("Perhaps you meant \"{near}\".")),
            (None, None) => None,
        },
    }
}

/// Checks `FORMAT ... ENCODE ...` for a source connector and gives format, encoding and the encoding's options.
///
/// # Errors
/// 22023 when it is missing, unknown or has wrong options; 0A000 for what is promised and not built.
pub fn validate_format(
    connector: &str,
    format: Option<&Format>,
) -> Result<(String, String, BTreeMap<String, String>), CatalogError> {
    let native = connector != KAFKA;
    let Some(format) = format else {
        if native {
            return Ok(("PLAIN".to_owned(), "NATIVE".to_owned(), BTreeMap::new()));
        }
        return Err(CatalogError::InvalidValue {
            message: format!("{} source needs FORMAT and ENCODE", bounded(connector)),
            detail: None,
            hint: Some("Add FORMAT PLAIN ENCODE JSON.".to_owned()),
        });
    };
    check_word("FORMAT", &format.row, "PLAIN", PROMISED_FORMATS)?;
    if connector == FILE && FILE_ENCODINGS.contains(&format.encode.as_str()) {
        if let Some(option) = format.options.first() {
            return Err(CatalogError::InvalidValue {
                message: format!(
                    "unknown option \"{}\" of ENCODE {}",
                    bounded(&option.name),
                    format.encode
                ),
                detail: None,
                hint: None,
            });
        }
        return Ok(("PLAIN".to_owned(), format.encode.clone(), BTreeMap::new()));
    }
    check_word("ENCODE", &format.encode, "JSON", PROMISED_ENCODINGS)?;
    if let Some(key) = &format.key_encode {
        return Err(CatalogError::not_built(
            format!("KEY ENCODE {} is", bounded(key)),
            Some("Use INCLUDE KEY to read the key as bytea."),
        ));
    }
    let options = validate_encode_options(&format.encode, &format.options)?;
    // RisingWave writes FORMAT PLAIN ENCODE JSON after its generator too; there is nothing to decode, so it says nothing.
    let encode = if native { "NATIVE" } else { "JSON" };
    Ok(("PLAIN".to_owned(), encode.to_owned(), options))
}

fn check_word(
    clause: &str,
    written: &str,
    built: &'static str,
    promised: &[&'static str],
) -> Result<(), CatalogError> {
    if written == built {
        return Ok(());
    }
    if promised.contains(&written) {
        let hint = format!("Use {clause} {built}.");
        return Err(CatalogError::not_built(
            format!("{clause} {written} is"),
            Some(&hint),
        ));
    }
    let known = promised.iter().copied().chain([built]);
    Err(CatalogError::InvalidValue {
        message: format!("unknown {clause} {}", bounded(written)),
        detail: None,
        hint: suggest(written, known).map(|near| format!("Perhaps you meant {near}.")),
    })
}

/// The checked options of `ENCODE x (...)`.
///
/// # Errors
/// As [`validate_source_options`].
pub fn validate_encode_options(
    encode: &str,
    options: &[WithOption],
) -> Result<BTreeMap<String, String>, CatalogError> {
    check_word("ENCODE", encode, "JSON", PROMISED_ENCODINGS)?;
    validate(Place::EncodeJson, options)
}

/// The spec of a source from its `WITH` and `FORMAT` clauses. Start offsets and watermark are the caller's to add.
///
/// # Errors
/// As [`validate_source_options`] and [`validate_format`].
pub fn connector_spec(
    with: &[WithOption],
    format: Option<&Format>,
) -> Result<ConnectorSpec, CatalogError> {
    let connector = connector_of(with)?;
    let options = validate_source_options(&connector, with)?;
    let (format, encode, encode_options) = validate_format(&connector, format)?;
    Ok(ConnectorSpec {
        connector,
        options,
        format,
        encode,
        encode_options,
        start: BTreeMap::new(),
        watermark: None,
    })
}

/// `FORMAT`, `ENCODE` and `KEY ENCODE` of a sink; `None` for one that takes rows as they are. `key` is what the option
/// `primary_key` names.
///
/// # Errors
/// 22023 when the clause is missing, unknown, or does not go with the key; 0A000 for what is promised and not built.
pub fn sink_format(
    connector: &str,
    format: Option<&Format>,
    key: Vec<usize>,
) -> Result<Option<SinkFormat>, CatalogError> {
    if connector != KAFKA {
        if let Some(format) = format {
            check_word("FORMAT", &format.row, "PLAIN", PROMISED_FORMATS)?;
            check_word("ENCODE", &format.encode, "JSON", PROMISED_ENCODINGS)?;
        }
        return Ok(None);
    }
    let Some(format) = format else {
        return Err(CatalogError::InvalidValue {
            message: format!("{connector} sink needs FORMAT and ENCODE"),
            detail: None,
            hint: Some("Add FORMAT PLAIN ENCODE JSON or FORMAT UPSERT ENCODE JSON.".to_owned()),
        });
    };
    if format.row != "UPSERT" {
        check_word("FORMAT", &format.row, "PLAIN", PROMISED_FORMATS)?;
    }
    check_word("ENCODE", &format.encode, "JSON", PROMISED_ENCODINGS)?;
    if let Some(option) = format.options.first() {
        return Err(CatalogError::InvalidValue {
            message: format!(
                "unknown option \"{}\" of ENCODE JSON of a sink",
                bounded(&option.name)
            ),
            detail: None,
            hint: None,
        });
    }
    let key_encode = format.key_encode.as_deref().unwrap_or("JSON");
    if !["JSON", "TEXT", "BYTES"].contains(&key_encode) {
        return Err(CatalogError::InvalidValue {
            message: format!("unknown KEY ENCODE {}", bounded(key_encode)),
            detail: Some("Allowed are JSON, TEXT and BYTES.".to_owned()),
            hint: None,
        });
    }
    if format.row == "UPSERT" && key.is_empty() {
        return Err(CatalogError::InvalidValue {
            message: "FORMAT UPSERT needs the option \"primary_key\"".to_owned(),
            detail: Some("It names the columns that make the message key.".to_owned()),
            hint: Some("Add primary_key = 'column, ...'.".to_owned()),
        });
    }
    if format.key_encode.is_some() && key.is_empty() {
        return Err(CatalogError::InvalidValue {
            message: "KEY ENCODE needs the option \"primary_key\"".to_owned(),
            detail: None,
            hint: Some("Add primary_key = 'column, ...'.".to_owned()),
        });
    }
    if key_encode != "JSON" && key.len() != 1 {
        return Err(CatalogError::InvalidValue {
            message: format!("KEY ENCODE {key_encode} needs a primary_key of one column"),
            detail: None,
            hint: Some("Use KEY ENCODE JSON for several columns.".to_owned()),
        });
    }
    Ok(Some(SinkFormat {
        row: format.row.clone(),
        encode: format.encode.clone(),
        key_encode: key_encode.to_owned(),
        key,
    }))
}

/// Checks that every `fields.<column>.*` option names a column.
///
/// # Errors
/// 22023 with the nearest column.
pub fn check_field_options<S: AsRef<str>>(
    options: &BTreeMap<String, String>,
    columns: &[S],
) -> Result<(), CatalogError> {
    let named = options.keys().filter_map(|name| {
        let (column, _) = name.strip_prefix("fields.")?.rsplit_once('.')?;
        Some((name, column))
    });
    for (name, column) in named {
        if columns.iter().any(|known| known.as_ref() == column) {
            continue;
        }
        return Err(CatalogError::InvalidValue {
            message: format!(
                "option \"{}\" of datagen source names no column",
                bounded(name)
            ),
            detail: None,
            hint: suggest(column, columns.iter().map(AsRef::as_ref))
                .map(|near| format!("Perhaps you meant column \"{near}\".")),
        });
    }
    Ok(())
}

impl ConnectorSpec {
    /// The value of an option, or its default; `None` when it is off.
    pub fn option(&self, name: &str) -> Option<&str> {
        stored_or_default(&self.options, source_place(&self.connector).ok(), name)
    }

    /// The value of an `ENCODE` option, or its default.
    pub fn encode_option(&self, name: &str) -> Option<&str> {
        stored_or_default(&self.encode_options, Some(Place::EncodeJson), name)
    }

    /// A duration option in milliseconds.
    pub fn duration_ms(&self, name: &str) -> Option<u64> {
        parse_duration(self.option(name)?)
    }

    /// A size option in bytes.
    pub fn bytes(&self, name: &str) -> Option<u64> {
        parse_bytes(self.option(name)?)
    }

    /// A whole-number option.
    pub fn integer(&self, name: &str) -> Option<i64> {
        self.option(name)?.parse().ok()
    }

    /// A boolean option; off when it has no value.
    pub fn is_on(&self, name: &str) -> bool {
        self.option(name).and_then(parse_bool).unwrap_or(false)
    }

    /// True when the option's value must never be shown.
    pub fn is_secret(&self, name: &str) -> bool {
        kafka::is_secret(name)
    }
}

impl SinkSpec {
    /// A boolean option; off when it has no value.
    pub fn is_on(&self, name: &str) -> bool {
        self.option(name).and_then(parse_bool).unwrap_or(false)
    }

    /// The value of an option, or its default; `None` when it is off.
    pub fn option(&self, name: &str) -> Option<&str> {
        let place = match self.into {
            Some(_) if self.connector == "hbase" => Some(Place::HbaseTableSink),
            Some(_) => Some(Place::TableSink),
            None => sink_place(&self.connector).ok(),
        };
        stored_or_default(&self.options, place, name)
    }
}

fn stored_or_default<'a>(
    options: &'a BTreeMap<String, String>,
    place: Option<Place>,
    name: &str,
) -> Option<&'a str> {
    let stored = options.get(name).map(String::as_str);
    stored.or_else(|| {
        let spec: &OptionSpec = options_of(place?).find(|spec| spec.name == name)?;
        spec.default
    })
}
