//! CREATE TABLE for tables that an outside system keeps.
//!
//! Invariant: what the statement says is stored as the options of the connector; where a column is in HBase is part of them.

use std::collections::BTreeMap;

use thalweg_catalog::{ConnectorSpec, Relation, RelationKind, option};
use thalweg_sql::{CreateTable, OptionValue, Report, Statement, TableElements, WithOption};

use super::define::{Definer, connector_name, refused};
use super::session::unsupported;

/// Defines the table; nothing outside is asked.
pub(super) fn define(
    definer: &mut Definer<'_>,
    create: &CreateTable,
    statement: &Statement,
) -> Result<Relation, Report> {
    let connector = connector_name(&create.with, "table")?;
    let mut options = option::validate_table_options(&connector, &create.with).map_err(refused)?;
    if create.format.is_some() || !create.include.is_empty() {
        return Err(Report::new(
            "42601",
            format!("a table with connector {connector} has no FORMAT and no INCLUDE"),
        ));
    }
    if create.elements.watermark.is_some() {
        return Err(Report::new(
            "42601",
            format!("a table with connector {connector} has no watermark"),
        ));
    }
    if !create.elements.checks.is_empty() {
        return Err(unsupported(
            "CHECK on an HBase table",
            "Other programs write to it as well; check where the rows are read.",
        ));
    }
    let Some(key) = &create.elements.primary_key else {
        return Err(Report {
            hint: Some("Declare the columns of the row key: PRIMARY KEY (...).".into()),
            ..Report::new("42601", "an HBase table needs a primary key")
        });
    };
    place_columns(&create.elements, &mut options)?;
    let mut elements = create.elements.clone();
    for column in &mut elements.columns {
        column.options.clear();
        if column.generated.is_some() {
            return Err(unsupported(
                "a generated column of an HBase table",
                "Compute it in a view over the table.",
            ));
        }
    }
    let columns = definer.columns(&elements)?;
    let spec = ConnectorSpec {
        connector,
        options,
        format: "PLAIN".to_owned(),
        encode: "NATIVE".to_owned(),
        encode_options: BTreeMap::new(),
        start: BTreeMap::new(),
        watermark: None,
    };
    let mut builder = definer.builder(&create.name, RelationKind::External(spec), statement)?;
    builder.columns(columns).map_err(refused)?;
    let names: Vec<&str> = key
        .columns
        .iter()
        .map(|ident| ident.value.as_str())
        .collect();
    let name = key.name.as_ref().map(|name| name.value.as_str());
    builder.primary_key(name, &names).map_err(refused)?;
    Ok(builder.build())
}

/// Adds `OPTIONS (column = 'f:q', encoding = '...')` of columns to the option `columns`.
fn place_columns(
    elements: &TableElements,
    options: &mut BTreeMap<String, String>,
) -> Result<(), Report> {
    let family = options.get("family").cloned();
    let mut places: Vec<String> = options.get("columns").cloned().into_iter().collect();
    for column in &elements.columns {
        if column.options.is_empty() {
            continue;
        }
        let name = &column.name.value;
        let (mut place, mut encoding) = (None, None);
        for option in &column.options {
            match option.name.as_str() {
                "column" => place = Some(text(option, name)?),
                "encoding" => encoding = Some(text(option, name)?),
                other => {
                    return Err(Report {
                        hint: Some("Known options of a column are column and encoding.".into()),
                        ..Report::new(
                            "22023",
                            format!("unknown option \"{other}\" of column \"{name}\""),
                        )
                    });
                }
            }
        }
        let place = place.or_else(|| family.as_ref().map(|family| format!("{family}:{name}")));
        let Some(place) = place else {
            return Err(Report {
                hint: Some("Add column = 'family:qualifier', or set family = '...'.".into()),
                ..Report::new("22023", format!("column \"{name}\" has no column family"))
            });
        };
        // These part the entries of the option `columns`.
        let parted = |text: &str| text.contains([',', '=', '#']);
        if parted(name) || parted(&place) || encoding.as_deref().is_some_and(parted) {
            return Err(Report::new(
                "22023",
                format!("place of column \"{name}\" must not contain a comma, = or #"),
            ));
        }
        let encoding = encoding.map_or_else(String::new, |encoding| format!("#{encoding}"));
        places.push(format!("{name}={place}{encoding}"));
    }
    if !places.is_empty() {
        options.insert("columns".to_owned(), places.join(", "));
    }
    Ok(())
}

fn text(option: &WithOption, column: &str) -> Result<String, Report> {
    match &option.value {
        OptionValue::String(text) | OptionValue::Ident(text) => Ok(text.clone()),
        _ => Err(Report::new(
            "22023",
            format!(
                "option \"{}\" of column \"{column}\" must be text",
                option.name
            ),
        )),
    }
}
