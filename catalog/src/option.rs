//! The `WITH` options: what each is called, what it may hold, where it belongs, and the one check they all pass.
//!
//! Invariant: an option is accepted only when [`registry`] describes it for that place; accepted values are stored in
//! canonical form (durations as `<n> ms`, sizes as bytes, booleans as `true` or `false`, words in lower case), so whoever
//! reads them later needs one notation only.

mod connector;
mod kafka;
mod registry;
mod value;

use std::collections::{BTreeMap, BTreeSet};

use thalweg_sql::{OptionValue, WithOption, suggest};

use crate::error::{CatalogError, bounded};

pub use connector::{
    DATAGEN, KAFKA, check_field_options, connector_of, connector_spec, sink_format,
    validate_encode_options, validate_format,
};
pub use kafka::{KafkaProperty, kafka_property, kafka_sink_property};
pub use registry::{Built, DATAGEN_FIELD, OPTIONS, OptionKind, OptionSpec, Place, options_of};
pub use value::{parse_bool, parse_bytes, parse_duration, parse_list};

/// Prefix of options that go to the Kafka client.
pub const PROPERTIES_PREFIX: &str = "properties.";

/// Prefix of options that go to the HDFS client.
pub const HADOOP_PREFIX: &str = "hadoop.";

/// Longest value of an option, in bytes: PEM chains fit, payloads do not.
pub const VALUE_BYTES_MAX: usize = 64 << 10;

/// The checked options of a source, without `connector` itself.
///
/// # Errors
/// 22023 for an unknown, missing or ill-valued option or an unknown connector; 0A000 for what is promised and not built;
/// 42601 for an option given twice.
pub fn validate_source_options(
    connector: &str,
    options: &[WithOption],
) -> Result<BTreeMap<String, String>, CatalogError> {
    let place = connector::source_place(connector)?;
    let values = validate(place, options)?;
    if place == Place::KafkaSource {
        kafka::check_start(&values)?;
    }
    Ok(values)
}

/// The checked options of a sink, without `connector` itself.
///
/// # Errors
/// As [`validate_source_options`].
pub fn validate_sink_options(
    connector: &str,
    options: &[WithOption],
) -> Result<BTreeMap<String, String>, CatalogError> {
    validate(connector::sink_place(connector)?, options)
}

/// What a new sink promises its readers unless it says otherwise.
pub fn default_delivery(connector: &str) -> &'static str {
    let place = connector::sink_place(connector).ok();
    place
        .and_then(default_delivery_at)
        .unwrap_or("at_least_once")
}

fn default_delivery_at(place: Place) -> Option<&'static str> {
    let delivery = options_of(place).find(|spec| spec.name == "delivery");
    delivery.and_then(|spec| spec.default)
}

/// The checked options of a table that an outside system keeps, without `connector` itself.
///
/// # Errors
/// As [`validate_source_options`].
pub fn validate_table_options(
    connector: &str,
    options: &[WithOption],
) -> Result<BTreeMap<String, String>, CatalogError> {
    validate(connector::table_place(connector)?, options)
}

/// The checked options of an archive, without `connector` itself.
///
/// # Errors
/// As [`validate_source_options`].
pub fn validate_archive_options(
    connector: &str,
    options: &[WithOption],
) -> Result<BTreeMap<String, String>, CatalogError> {
    validate(connector::archive_place(connector)?, options)
}

/// The checked options of `ENCODE PARQUET (...)` of an archive.
///
/// # Errors
/// As [`validate_source_options`].
pub fn validate_parquet_options(
    options: &[WithOption],
) -> Result<BTreeMap<String, String>, CatalogError> {
    validate(Place::EncodeParquet, options)
}

/// The checked options of `CREATE SINK ... INTO table`, and what the sink promises its readers; `kept_by` is the connector of the
/// system that keeps the table, when that is not this one.
///
/// # Errors
/// As [`validate_source_options`].
pub fn validate_into_options(
    kept_by: Option<&str>,
    options: &[WithOption],
) -> Result<(BTreeMap<String, String>, String), CatalogError> {
    let place = match kept_by {
        Some(_) => Place::HbaseTableSink,
        None => Place::TableSink,
    };
    let options = validate(place, options)?;
    let delivery = match options.get("delivery") {
        Some(delivery) => delivery.clone(),
        // Tables of our own change in one transaction with the sink's progress.
        None => default_delivery_at(place).unwrap_or("exactly_once").into(),
    };
    Ok((options, delivery))
}

/// The checked options of a materialized view.
///
/// # Errors
/// As [`validate_source_options`].
pub fn validate_view_options(
    options: &[WithOption],
) -> Result<BTreeMap<String, String>, CatalogError> {
    validate(Place::MaterializedView, options)
}

/// Checks a list of options against what the place knows.
pub(crate) fn validate(
    place: Place,
    options: &[WithOption],
) -> Result<BTreeMap<String, String>, CatalogError> {
    let mut values = BTreeMap::new();
    for option in options {
        if option.name == "connector" && place.has_connector() {
            continue;
        }
        let (name, value) = checked(place, option)?;
        if values.insert(name.clone(), value).is_some() {
            return Err(CatalogError::Syntax(format!(
                "option \"{}\" is given twice",
                bounded(&name)
            )));
        }
    }
    let missing = options_of(place).find(|spec| spec.required && !values.contains_key(spec.name));
    match missing {
        None => Ok(values),
        Some(spec) => Err(CatalogError::InvalidValue {
            message: format!("option \"{}\" of {} is missing", spec.name, place.words()),
            detail: Some(format!("It is the {}.", spec.doc)),
            hint: Some(format!("Add {} = {}.", spec.name, spec.example())),
        }),
    }
}

fn checked(place: Place, option: &WithOption) -> Result<(String, String), CatalogError> {
    if place.is_kafka() && option.name.starts_with(PROPERTIES_PREFIX) {
        return kafka::checked(place, option);
    }
    // Properties of Hadoop are the operator's own, as in hdfs-site.xml.
    if matches!(place, Place::HdfsArchive | Place::FileSource)
        && option.name.starts_with(HADOOP_PREFIX)
        && option.name != "hadoop.conf.dir"
    {
        return Ok((option.name.clone(), text_of(option)?));
    }
    let spec = match place {
        Place::DatagenSource if option.name.starts_with("fields.") => field_spec(&option.name)?,
        _ => options_of(place)
            .find(|spec| spec.name == option.name)
            .ok_or_else(|| unknown(place, &option.name))?,
    };
    if spec.built == Built::No {
        return Err(CatalogError::not_built(
            format!("option \"{}\" of {} is", spec.name, place.words()),
            spec.instead,
        ));
    }
    let text = text_of(option)?;
    let value = spec
        .kind
        .canonical(&text)
        .ok_or_else(|| wrong_value(place, &option.name, spec, &text))?;
    match spec.built {
        Built::Only(built) if !built.contains(&value.as_str()) => Err(CatalogError::not_built(
            format!("{} = '{value}' is", option.name),
            spec.instead,
        )),
        _ => Ok((option.name.clone(), value)),
    }
}

/// The description of `fields.<column>.<property>`.
fn field_spec(name: &str) -> Result<&'static OptionSpec, CatalogError> {
    let shape = || CatalogError::InvalidValue {
        message: unknown_text(Place::DatagenSource, name),
        detail: None,
        hint: Some(format!(
            "Column options are fields.<column>.{{{}}}.",
            DATAGEN_FIELD.map(|spec| spec.name).join(", ")
        )),
    };
    let (column, property) = name
        .strip_prefix("fields.")
        .and_then(|rest| rest.rsplit_once('.'))
        .filter(|(column, _)| !column.is_empty())
        .ok_or_else(shape)?;
    let known = DATAGEN_FIELD.iter().find(|spec| spec.name == property);
    known.ok_or_else(
        || match suggest(property, DATAGEN_FIELD.map(|spec| spec.name)) {
            None => shape(),
            Some(near) => CatalogError::InvalidValue {
                message: unknown_text(Place::DatagenSource, name),
                detail: None,
                hint: Some(format!("Perhaps you meant \"fields.{column}.{near}\".")),
            },
        },
    )
}

/// The value as text, whichever way it was written.
pub(crate) fn text_of(option: &WithOption) -> Result<String, CatalogError> {
    let text = match &option.value {
        OptionValue::String(text) | OptionValue::Number(text) | OptionValue::Ident(text) => {
            text.clone()
        }
        OptionValue::Bool(value) => value.to_string(),
        OptionValue::Secret(_) => {
            return Err(CatalogError::not_built(
                "secrets are",
                Some("Write the value itself; it is never shown again."),
            ));
        }
    };
    if text.len() > VALUE_BYTES_MAX {
        return Err(CatalogError::invalid(format!(
            "value of option \"{}\" is longer than {VALUE_BYTES_MAX} bytes",
            bounded(&option.name)
        )));
    }
    if text.contains('\0') {
        return Err(CatalogError::invalid(format!(
            "value of option \"{}\" contains a NUL character",
            bounded(&option.name)
        )));
    }
    Ok(text)
}

fn unknown_text(place: Place, name: &str) -> String {
    format!("unknown option \"{}\" of {}", bounded(name), place.words())
}

fn unknown(place: Place, name: &str) -> CatalogError {
    let mut known: Vec<String> = options_of(place).map(|spec| spec.name.to_owned()).collect();
    if place.is_kafka() {
        known.extend(kafka::allowed_names(place).map(|name| format!("{PROPERTIES_PREFIX}{name}")));
    }
    let hint = match suggest(name, &known) {
        Some(near) => Some(format!("Perhaps you meant \"{near}\".")),
        // Users of the Java client write its names without the prefix.
        None if place.is_kafka() && kafka::property_of(place, name) == KafkaProperty::Allowed => {
            Some(format!("Perhaps you meant \"{PROPERTIES_PREFIX}{name}\"."))
        }
        None if options_of(place).next().is_none() => None,
        None => Some(format!("Known options are {}.", known_list(place))),
    };
    CatalogError::InvalidValue {
        message: unknown_text(place, name),
        detail: None,
        hint,
    }
}

fn known_list(place: Place) -> String {
    let names: BTreeSet<&str> = options_of(place)
        .filter(|spec| spec.built != Built::No)
        .map(|spec| spec.name)
        .collect();
    names.into_iter().collect::<Vec<_>>().join(", ")
}

fn wrong_value(place: Place, name: &str, spec: &OptionSpec, text: &str) -> CatalogError {
    let name = bounded(name);
    let message = if spec.secret {
        format!("invalid value for option \"{name}\" of {}", place.words())
    } else {
        format!(
            "invalid value \"{}\" for option \"{name}\" of {}",
            bounded(text),
            place.words()
        )
    };
    let hint = match spec.kind {
        OptionKind::Enum(words) => {
            suggest(text, words).map(|near| format!("Perhaps you meant \"{near}\"."))
        }
        _ => None,
    };
    CatalogError::InvalidValue {
        message,
        detail: Some(spec.kind.allowed()),
        hint,
    }
}

#[cfg(test)]
mod tests;
