//! Turns CREATE statements into catalog relations, without any effect.
//!
//! Invariant: a definition is complete when it leaves here: names resolved, types known, options validated, expressions
//! type-checked, OIDs reserved. What only the outside world can tell (start offsets) is filled in by the caller.

use std::collections::{BTreeMap, BTreeSet};

use thalweg_catalog::{
    Catalog, CatalogError, Column, ColumnRole, ConnectorSpec, Environment, Oid, OidAllocator,
    Relation, RelationBuilder, RelationKind, SqlType, option,
};
use thalweg_planner::{OutputColumn, PlanContext, Planner, ViewPlan};
use thalweg_sql::{
    CreateSource, CreateTable, CreateView, Format, IncludeColumn, IncludeKind, Report, Statement,
    TableElements, WithOption, ast,
};

use super::session::unsupported;

/// What definitions are made against.
pub(super) struct Definer<'a> {
    pub(super) catalog: &'a Catalog,
    pub(super) search_path: &'a [String],
    pub(super) time_zone: &'a str,
    pub(super) created_at_ms: i64,
    pub(super) planner: &'a Planner,
    pub(super) context: &'a PlanContext<'a>,
    /// The server's one counter.
    pub(super) oids: &'a mut OidAllocator,
}

pub(super) fn refused(error: CatalogError) -> Report {
    error.report()
}

impl Definer<'_> {
    /// Schema a new object goes into and its name there.
    pub(super) fn place(&self, name: &ast::ObjectName) -> Result<(Oid, String), Report> {
        let (schema, name) = self
            .catalog
            .creation_target(self.search_path, name)
            .map_err(refused)?;
        if name.len() > 63 {
            return Err(Report::new(
                "42622",
                format!("identifier \"{name}\" is longer than 63 bytes"),
            ));
        }
        if schema.is_system() && schema.name != "public" {
            return Err(Report::new(
                "42501",
                format!("permission denied to create in schema \"{}\"", schema.name),
            ));
        }
        Ok((schema.oid, name))
    }

    pub(super) fn builder(
        &mut self,
        name: &ast::ObjectName,
        kind: RelationKind,
        statement: &Statement,
    ) -> Result<RelationBuilder<'_>, Report> {
        let (schema, name) = self.place(name)?;
        let environment = Environment {
            time_zone: self.time_zone.to_owned(),
            search_path: self.search_path.to_vec(),
        };
        let mut builder =
            RelationBuilder::new(self.catalog, self.oids, schema, &name, kind).map_err(refused)?;
        builder
            .definition(statement.to_string(), environment)
            .created_at_ms(self.created_at_ms);
        Ok(builder)
    }

    /// `CREATE SOURCE` and its errors relation; the start offsets of the connector are still empty.
    pub(super) fn source(
        &mut self,
        create: &CreateSource,
        statement: &Statement,
    ) -> Result<Relation, Report> {
        if create.elements.primary_key.is_some() {
            return Err(Report {
                hint: Some("Use CREATE TABLE with the connector for keyed data.".into()),
                ..Report::new("42601", "a source has no primary key")
            });
        }
        let mut columns = self.columns(&create.elements)?;
        columns.extend(create.include.iter().map(include));
        number(&mut columns);
        let spec = self.connector(create, &columns)?;
        self.check_conditions(&create.elements, &columns)?;
        let mut builder = self.builder(&create.name, RelationKind::Source(spec), statement)?;
        builder.columns(columns).map_err(refused)?;
        add_checks(&mut builder, &create.elements, "DEAD_LETTER")?;
        Ok(builder.build())
    }

    /// The errors relation of a source that was just defined.
    pub(super) fn errors(&mut self, source: &Relation) -> Result<Relation, Report> {
        thalweg_catalog::errors_relation(self.catalog, self.oids, source).map_err(refused)
    }

    fn connector(
        &self,
        create: &CreateSource,
        columns: &[Column],
    ) -> Result<ConnectorSpec, Report> {
        let connector = connector_name(&create.with, "source")?;
        let options = option::validate_source_options(&connector, &create.with).map_err(refused)?;
        let (format, encode, encode_options) = match &create.format {
            Some(format) if connector == "file" && format.encode != "JSON" => {
                option::validate_format(&connector, Some(format)).map_err(refused)?
            }
            Some(format) => self.format(format)?,
            None if connector == "kafka" => {
                return Err(Report {
                    hint: Some("Add FORMAT PLAIN ENCODE JSON.".into()),
                    ..Report::new(
                        "42601",
                        "a kafka source needs a FORMAT ... ENCODE ... clause",
                    )
                });
            }
            None => ("PLAIN".to_owned(), "NATIVE".to_owned(), BTreeMap::new()),
        };
        let watermark = match &create.elements.watermark {
            Some(watermark) => {
                let column = columns
                    .iter()
                    .find(|column| column.name == watermark.column.value)
                    .ok_or_else(|| {
                        Report::new(
                            "42703",
                            format!(
                                "watermark column \"{}\" does not exist",
                                watermark.column.value
                            ),
                        )
                    })?;
                self.planner
                    .column_expr(self.context, columns, &watermark.expr, &column.ty)
                    .map_err(|error| error.report())?;
                Some((column.name.clone(), watermark.expr.to_string()))
            }
            None => None,
        };
        Ok(ConnectorSpec {
            connector,
            options,
            format,
            encode,
            encode_options,
            start: BTreeMap::new(),
            watermark,
        })
    }

    fn format(
        &self,
        format: &Format,
    ) -> Result<(String, String, BTreeMap<String, String>), Report> {
        if format.row != "PLAIN" {
            return Err(unsupported(
                &format!("FORMAT {}", format.row),
                "Use FORMAT PLAIN ENCODE JSON.",
            ));
        }
        if format.encode != "JSON" {
            return Err(unsupported(
                &format!("ENCODE {}", format.encode),
                "Use FORMAT PLAIN ENCODE JSON.",
            ));
        }
        let options = option::validate_encode_options(&format.encode, &format.options)
            .map_err(|error| error.report())?;
        Ok((format.row.clone(), format.encode.clone(), options))
    }

    /// `CREATE TABLE name (columns)`.
    pub(super) fn table(
        &mut self,
        create: &CreateTable,
        statement: &Statement,
    ) -> Result<Relation, Report> {
        if !create.with.is_empty() || create.format.is_some() || !create.include.is_empty() {
            return super::external::define(self, create, statement);
        }
        if create.elements.watermark.is_some() {
            return Err(Report::new(
                "42601",
                "a table without a connector has no watermark",
            ));
        }
        let columns = self.columns(&create.elements)?;
        if columns.is_empty() {
            return Err(Report::new("42601", "a table needs at least one column"));
        }
        self.check_conditions(&create.elements, &columns)?;
        let mut builder = self.builder(&create.name, RelationKind::Table, statement)?;
        builder.columns(columns).map_err(refused)?;
        if let Some(key) = &create.elements.primary_key {
            let names: Vec<&str> = key
                .columns
                .iter()
                .map(|ident| ident.value.as_str())
                .collect();
            builder
                .primary_key(key.name.as_ref().map(|name| name.value.as_str()), &names)
                .map_err(refused)?;
        }
        add_checks(&mut builder, &create.elements, "FAIL")?;
        Ok(builder.build())
    }

    /// The table of `CREATE TABLE name AS query`.
    pub(super) fn table_as(
        &mut self,
        create: &CreateTable,
        output: &[OutputColumn],
        statement: &Statement,
    ) -> Result<Relation, Report> {
        if !create.elements.columns.is_empty() {
            return Err(Report::new(
                "42601",
                "CREATE TABLE AS takes its columns from the query",
            ));
        }
        let mut builder = self.builder(&create.name, RelationKind::Table, statement)?;
        builder.columns(output_columns(output)).map_err(refused)?;
        Ok(builder.build())
    }

    pub(super) fn columns(&self, elements: &TableElements) -> Result<Vec<Column>, Report> {
        let mut columns: Vec<Column> = Vec::with_capacity(elements.columns.len());
        for definition in &elements.columns {
            let name = &definition.name.value;
            if !definition.options.is_empty() {
                return Err(Report::new(
                    "42601",
                    format!("column \"{name}\" takes no OPTIONS here"),
                ));
            }
            let Some(written) = &definition.data_type else {
                return Err(Report::new(
                    "42601",
                    format!("column \"{name}\" needs a type"),
                ));
            };
            let ty = SqlType::from_ast(written).map_err(refused)?;
            if let Some(default) = &definition.default {
                // A default is computed per row inserted and sees no column.
                self.planner
                    .column_expr(self.context, &[], default, &ty)
                    .map_err(|error| error.report())?;
            }
            columns.push(Column {
                not_null: definition.not_null,
                default: definition.default.as_ref().map(ToString::to_string),
                generated: definition.generated.as_ref().map(ToString::to_string),
                ..Column::data(name, 0, ty)
            });
        }
        number(&mut columns);
        self.check_generated(elements, &columns)?;
        Ok(columns)
    }

    /// A generated column is computed from columns that are not.
    fn check_generated(&self, elements: &TableElements, columns: &[Column]) -> Result<(), Report> {
        let plain: Vec<Column> = columns
            .iter()
            .filter(|column| column.generated.is_none())
            .cloned()
            .collect();
        for (definition, column) in elements.columns.iter().zip(columns) {
            let Some(expr) = &definition.generated else {
                continue;
            };
            if definition.default.is_some() {
                let name = &column.name;
                return Err(Report::new(
                    "42601",
                    format!(
                        "both default and generation expression specified for column \"{name}\""
                    ),
                ));
            }
            let planned = self
                .planner
                .column_expr(self.context, &plain, expr, &column.ty);
            if let Err(error) = planned {
                let all = self
                    .planner
                    .column_expr(self.context, columns, expr, &column.ty);
                if all.is_err() {
                    return Err(error.report());
                }
                let mut refusal = Report::new(
                    "42P17",
                    format!(
                        "cannot use generated column in the expression of column \"{}\"",
                        column.name
                    ),
                );
                refusal.detail =
                    Some("A generated column cannot reference another generated column.".into());
                return Err(refusal);
            }
        }
        Ok(())
    }

    fn check_conditions(&self, elements: &TableElements, columns: &[Column]) -> Result<(), Report> {
        for check in &elements.checks {
            self.planner
                .column_expr(self.context, columns, &check.expr, &SqlType::Bool)
                .map_err(|error| error.report())?;
        }
        Ok(())
    }

    /// `CREATE [MATERIALIZED] VIEW` over a planned query.
    pub(super) fn view(
        &mut self,
        create: &CreateView,
        plan: &ViewPlan,
        materialized: bool,
        statement: &Statement,
    ) -> Result<Relation, Report> {
        let query = query_text(&create.query);
        let kind = if materialized {
            let options = option::validate_view_options(&create.with).map_err(refused)?;
            RelationKind::MaterializedView { query, options }
        } else if create.with.is_empty() {
            RelationKind::View { query }
        } else {
            return Err(Report::new(
                "42601",
                "a view without MATERIALIZED takes no WITH options",
            ));
        };
        let dependencies = self.dependencies(&create.query, &plan.reads);
        let mut builder = self.builder(&create.name, kind, statement)?;
        builder
            .columns(output_columns(&plan.output))
            .map_err(refused)?;
        builder.depends_on(dependencies);
        Ok(builder.build())
    }

    /// OIDs of everything a query names, plain views included, beside what its plan reads.
    pub(super) fn dependencies(&self, query: &ast::Query, reads: &[Oid]) -> Vec<Oid> {
        let mut found: BTreeSet<Oid> = reads.iter().copied().collect();
        let _: std::ops::ControlFlow<()> = ast::visit_relations(query, |name| {
            // A CTE's name resolves to nothing or shadows a relation; a dependency too many only makes DROP ask for CASCADE.
            if let Ok(relation) = self.catalog.resolve(self.search_path, name) {
                found.insert(relation.oid);
            }
            std::ops::ControlFlow::Continue(())
        });
        found.retain(|oid| oid.0 >= thalweg_catalog::FIRST_USER_OID);
        found.into_iter().collect()
    }
}

/// A query as text that reads back as the same query, which sqlparser's own printing is not for every clause.
pub(super) fn query_text(query: &ast::Query) -> String {
    Statement::Query(Box::new(query.clone())).to_string()
}

fn add_checks(
    builder: &mut RelationBuilder<'_>,
    elements: &TableElements,
    default: &str,
) -> Result<(), Report> {
    for check in &elements.checks {
        let name = check.name.as_ref().map(|name| name.value.as_str());
        builder
            .check(
                name,
                check.expr.to_string(),
                check.on_violation.as_deref().unwrap_or(default),
            )
            .map_err(refused)?;
    }
    Ok(())
}

/// Numbers columns as the builder will, so that expressions over them can be planned before.
fn number(columns: &mut [Column]) {
    for (column, attnum) in columns.iter_mut().zip(1i16..) {
        column.attnum = attnum;
    }
}

fn include(part: &IncludeColumn) -> Column {
    let (word, ty, role) = match &part.kind {
        IncludeKind::Key => ("key", SqlType::Bytea, ColumnRole::Key),
        IncludeKind::Partition => ("partition", SqlType::Int4, ColumnRole::Partition),
        IncludeKind::Offset => ("offset", SqlType::Int8, ColumnRole::Offset),
        IncludeKind::Timestamp => ("timestamp", SqlType::Timestamptz, ColumnRole::Timestamp),
        IncludeKind::Header(name) => ("header", SqlType::Bytea, ColumnRole::Header(name.clone())),
        IncludeKind::Headers => ("headers", SqlType::Jsonb, ColumnRole::Headers),
        IncludeKind::Payload => ("payload", SqlType::Bytea, ColumnRole::Payload),
    };
    let name = part
        .alias
        .as_ref()
        .map_or_else(|| format!("_{word}"), |alias| alias.value.clone());
    Column {
        role,
        ..Column::data(name, 0, ty)
    }
}

pub(super) fn output_columns(output: &[OutputColumn]) -> Vec<Column> {
    output
        .iter()
        .zip(1i16..)
        .map(|(column, attnum)| {
            let ty = if column.ty == SqlType::Unknown {
                SqlType::Text
            } else {
                column.ty.clone()
            };
            Column::data(&column.name, attnum, ty)
        })
        .collect()
}

pub(super) fn connector_name(with: &[WithOption], object: &str) -> Result<String, Report> {
    use thalweg_sql::OptionValue::{Ident, String as Text};
    match with
        .iter()
        .find(|option| option.name == "connector")
        .map(|option| &option.value)
    {
        Some(Text(name) | Ident(name)) => Ok(name.to_ascii_lowercase()),
        Some(_) => Err(Report::new("22023", "option \"connector\" must be a name")),
        None => Err(Report {
            hint: Some("Add WITH (connector = '...').".into()),
            ..Report::new(
                "22023",
                format!("a {object} needs the option \"connector\""),
            )
        }),
    }
}
