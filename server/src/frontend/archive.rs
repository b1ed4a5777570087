//! CREATE ARCHIVE: what its columns and folders are, and whether its place is free.
//!
//! Invariant: an archive is in the catalog only after its folder was taken for it, and no two archives of ours are in one folder.

use thalweg_catalog::{
    ArchiveSpec, Catalog, Change, Column, Relation, RelationKind, SqlType, option,
};
use thalweg_connectors::{ArchiveTable, ConnectorError};
use thalweg_sql::{CreateArchive, Partition, Report, Statement, ast};

use super::ddl::create_effect;
use super::define::{Definer, refused};
use super::session::{Session, command, unsupported};
use super::{Notice, Outcome};

impl Session {
    pub(super) async fn create_archive(
        &mut self,
        create: &CreateArchive,
        statement: &Statement,
    ) -> Result<Outcome, Report> {
        self.stage_archive(create, statement, true).await
    }

    /// Defines an archive; with `claim` its folder is taken.
    pub(super) async fn stage_archive(
        &mut self,
        create: &CreateArchive,
        statement: &Statement,
        claim: bool,
    ) -> Result<Outcome, Report> {
        let scope = self.scope(&statement.to_string(), Vec::new());
        if self.taken(&scope, &create.name, create.if_not_exists)? {
            return Ok(command("CREATE ARCHIVE"));
        }
        let archive = self.define(&scope, |definer| define(definer, create, statement))?;
        let context = self.server.connector_context();
        let table = ArchiveTable::new(&archive, &context).map_err(|error| error.report())?;
        if let Some(other) = in_same_folder(&scope.catalog, &archive) {
            return Err(Report {
                hint: Some("Name a folder of its own.".into()),
                ..Report::new(
                    "42710",
                    format!("archive \"{}\" is in the same folder", other.name),
                )
            });
        }
        if claim {
            let claimed = table.claim().await;
            claimed.map_err(|error| ConnectorError::from(error).report())?;
        }
        let effects = vec![create_effect(&archive, None)];
        let changes = vec![Change::CreateRelation(Box::new(archive))];
        self.change("CREATE ARCHIVE", changes, effects).await?;
        Ok(command("CREATE ARCHIVE"))
    }

    /// Looks at the archives again before a statement that lists their files.
    pub(super) async fn look_at_archives(&mut self, text: &str) {
        if !text.to_ascii_lowercase().contains("archive_files") {
            return;
        }
        for report in self.server.engine.look_at_archives().await {
            let mut notice = Notice::warning(report.sqlstate, report.message);
            notice.detail = report.detail;
            self.notice(notice);
        }
    }
}

fn in_same_folder<'a>(catalog: &'a Catalog, archive: &Relation) -> Option<&'a Relation> {
    fn folder(relation: &Relation) -> Option<(&str, &str)> {
        let RelationKind::Archive(spec) = &relation.kind else {
            return None;
        };
        let path = spec.options.get("path")?.trim_end_matches('/');
        Some((&spec.connector, path.trim_start_matches("./")))
    }
    let own = folder(archive);
    catalog
        .relations()
        .find(|other| own.is_some() && folder(other) == own)
}

fn define(
    definer: &mut Definer<'_>,
    create: &CreateArchive,
    statement: &Statement,
) -> Result<Relation, Report> {
    if create.from.is_some() {
        return Err(unsupported(
            "CREATE ARCHIVE ... FROM",
            "Declare its columns and fill it with INSERT INTO ... SELECT.",
        ));
    }
    let elements = &create.elements;
    if elements.primary_key.is_some() || elements.watermark.is_some() {
        return Err(Report::new(
            "42601",
            "an archive has no primary key and no watermark",
        ));
    }
    if !elements.checks.is_empty() {
        return Err(unsupported(
            "CHECK on an archive",
            "Filter the rows that are inserted.",
        ));
    }
    let connector = option::connector_of(&create.with).map_err(refused)?;
    let options = option::validate_archive_options(&connector, &create.with).map_err(refused)?;
    let encode = create.encode.as_ref();
    let encode = encode.map_or(&[][..], |encode| encode.options.as_slice());
    let encode_options = option::validate_parquet_options(encode).map_err(refused)?;
    let mut columns = definer.columns(elements)?;
    let partition_by = partition(definer, &create.partition_by, &mut columns)?;
    if columns.len() <= partition_by.len() {
        return Err(Report::new(
            "42601",
            "an archive needs at least one column that it is not partitioned by",
        ));
    }
    let spec = ArchiveSpec {
        connector,
        options,
        encode_options,
        partition_by,
    };
    let mut builder = definer.builder(&create.name, RelationKind::Archive(spec), statement)?;
    builder.columns(columns).map_err(refused)?;
    Ok(builder.build())
}

/// Names of the columns that make folders; those that `expr AS name` makes are added, as generated columns.
fn partition(
    definer: &Definer<'_>,
    parts: &[Partition],
    columns: &mut Vec<Column>,
) -> Result<Vec<String>, Report> {
    let plain = columns.clone();
    let mut names: Vec<String> = Vec::new();
    for part in parts {
        let name = match (&part.name, &part.expr) {
            (Some(name), expr) => {
                let ty = type_of(definer, &plain, expr)?;
                definer
                    .planner
                    .column_expr(definer.context, &plain, expr, &ty)
                    .map_err(|error| error.report())?;
                columns.push(Column {
                    generated: Some(expr.to_string()),
                    ..Column::data(&name.value, 0, ty)
                });
                name.value.clone()
            }
            (None, ast::Expr::Identifier(name)) => {
                if !plain.iter().any(|column| column.name == name.value) {
                    let known = plain.iter().map(|column| column.name.as_str());
                    return Err(Report {
                        hint: thalweg_sql::suggest(&name.value, known)
                            .map(|near| format!("Perhaps you meant \"{near}\".")),
                        ..Report::new("42703", format!("column \"{}\" does not exist", name.value))
                    });
                }
                name.value.clone()
            }
            (None, expr) => {
                return Err(Report {
                    hint: Some(format!("Write {expr} AS name.")),
                    ..Report::new("42601", "an expression in PARTITION BY needs a name")
                });
            }
        };
        // Other programs take folders with such names for hidden ones.
        if name.starts_with(['_', '.']) {
            return Err(Report::new(
                "42602",
                format!("name of partition column \"{name}\" must not begin with _ or ."),
            ));
        }
        if names.contains(&name) {
            return Err(Report::new(
                "42701",
                format!("column \"{name}\" appears twice in PARTITION BY"),
            ));
        }
        names.push(name);
    }
    Ok(names)
}

/// The type of an expression over these columns.
fn type_of(definer: &Definer<'_>, columns: &[Column], expr: &ast::Expr) -> Result<SqlType, Report> {
    let row: Vec<String> = columns
        .iter()
        .map(|column| {
            let name = thalweg_sql::quote_ident(&column.name);
            format!("CAST(NULL AS {}) AS {name}", column.ty)
        })
        .collect();
    let text = format!(
        "SELECT {expr} AS part FROM (SELECT {}) AS r",
        row.join(", ")
    );
    let query = thalweg_sql::parse_query(&text).map_err(|error| error.report())?;
    let planned = definer.planner.query(definer.context, &query);
    let planned = planned.map_err(|error| Report {
        position: None,
        ..error.report()
    })?;
    let ty = planned.output.into_iter().next().map(|column| column.ty);
    Ok(ty
        .filter(|ty| *ty != SqlType::Unknown)
        .unwrap_or(SqlType::Text))
}
