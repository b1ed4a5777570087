//! CREATE ARCHIVE: what fills it, what its columns and folders are, and whether its place is free.
//!
//! Invariant: an archive is in the catalog only after its folder was taken for it, and no folder of one is in that of another.
//! What fills an archive takes no row back.

use thalweg_catalog::{
    ArchiveSpec, Catalog, Change, Column, Feed, Oid, Relation, RelationKind, SqlType, option,
};
use thalweg_connectors::{ArchiveTable, ConnectorContext, ConnectorError, Overlap, Place};
use thalweg_engine::feed_of;
use thalweg_planner::ViewPlan;
use thalweg_sql::{CreateArchive, ObjectKind, Partition, Report, Statement, ast};

use super::ddl::create_effect;
use super::define::{Definer, output_columns, query_text, refused};
use super::session::{PlanScope, Session, command, unsupported};
use super::sink::require_append_only;
use super::{Notice, Outcome};

/// What fills an archive.
struct Fed {
    from: Oid,
    query: Box<ast::Query>,
    plan: ViewPlan,
}

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
        let fed = match &create.from {
            Some(from) => Some(self.feed(&scope, create, from)?),
            None => None,
        };
        let archive = self.define(&scope, |definer| {
            define(definer, create, fed.as_ref(), statement)
        })?;
        let context = self.server.connector_context();
        let feed = match &fed {
            Some(fed) => Some(feed_of(&scope.catalog, fed.from, &fed.plan)),
            None => None,
        };
        let feed = feed.transpose().map_err(|error| error.report())?;
        let table = ArchiveTable::new(&archive, feed, &context).map_err(|error| error.report())?;
        require_own_folder(&scope.catalog, &archive, &context)?;
        if let Some(fed) = fed.as_ref().filter(|_| claim && attaches(&archive)) {
            let source = only_source(&scope.catalog, &fed.plan)?;
            let checked = table.check_place(&source.name).await;
            checked.map_err(|error| ConnectorError::from(error).report())?;
        }
        if claim {
            let claimed = table.claim().await;
            claimed.map_err(|error| ConnectorError::from(error).report())?;
        }
        let effects = vec![create_effect(&archive, fed.map(|fed| fed.plan))];
        let changes = vec![Change::CreateRelation(Box::new(archive))];
        self.change("CREATE ARCHIVE", changes, effects).await?;
        Ok(command("CREATE ARCHIVE"))
    }

    /// The query that gives an archive its rows: all columns of what FROM names, then those that PARTITION BY computes.
    fn feed(
        &self,
        scope: &PlanScope,
        create: &CreateArchive,
        from: &ast::ObjectName,
    ) -> Result<Fed, Report> {
        let resolved = scope.catalog.resolve(&scope.search_path, from);
        let resolved = resolved.map_err(refused)?;
        let mut columns = vec!["*".to_owned()];
        for part in &create.partition_by {
            if let Some(name) = &part.name {
                if resolved.column(&name.value).is_some() {
                    return Err(Report::new(
                        "42701",
                        format!(
                            "column \"{}\" is a column of \"{}\" already",
                            name.value, resolved.name
                        ),
                    ));
                }
                let name = thalweg_sql::quote_ident(&name.value);
                columns.push(format!("({}) AS {name}", part.expr));
            }
        }
        let text = format!("SELECT {} FROM {from}", columns.join(", "));
        let query = thalweg_sql::parse_query(&text).map_err(|error| error.report())?;
        let plan = self.plan_continuous(scope, &query, &[]);
        let plan = plan.map_err(|report| Report {
            position: None,
            ..report
        })?;
        require_append_only(
            &self.known(&plan),
            "an archive",
            "Archive the source that it is computed from, or insert what is final with INSERT INTO ... SELECT.",
        )?;
        Ok(Fed {
            from: resolved.oid,
            query,
            plan,
        })
    }

    /// `VACUUM ARCHIVE name`.
    pub(super) async fn vacuum_archive(
        &mut self,
        name: &ast::ObjectName,
    ) -> Result<Outcome, Report> {
        let catalog = self.catalog();
        let archive = catalog
            .resolve_kind(&self.search_path(), name, ObjectKind::Archive)
            .map_err(refused)?;
        let done = self.server.engine.vacuum_archive(archive.oid).await;
        let done = done.map_err(|error| error.report())?;
        if done.replaced > 0 {
            self.notice(Notice::notice(format!(
                "{} files became {}",
                done.replaced, done.written
            )));
        }
        Ok(command("VACUUM"))
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

/// Refuses a folder that another archive is in, or that lies above or below its folder: upkeep and programs that list folders
/// would take the files of one for those of the other.
fn require_own_folder(
    catalog: &Catalog,
    archive: &Relation,
    context: &ConnectorContext,
) -> Result<(), Report> {
    let place = |relation: &Relation| match &relation.kind {
        RelationKind::Archive(spec) => Place::of(spec, context),
        _ => None,
    };
    let Some(own) = place(archive) else {
        return Ok(());
    };
    let mut others = catalog.relations();
    let taken = others.find_map(|other| Some((other, place(other)?.overlap(&own)?)));
    let Some((other, overlap)) = taken else {
        return Ok(());
    };
    let is = match overlap {
        Overlap::Same => "the same folder",
        Overlap::Above => "a folder above",
        Overlap::Below => "a folder below",
    };
    Err(Report {
        hint: Some("Name a folder of its own, beside those of other archives.".into()),
        ..Report::new("42710", format!("archive \"{}\" is in {is}", other.name))
    })
}

fn attaches(archive: &Relation) -> bool {
    let RelationKind::Archive(spec) = &archive.kind else {
        return false;
    };
    spec.options
        .get("attach")
        .is_some_and(|attach| attach == "true")
}

/// The source of a query that reads nothing else: only such a query can go on from a place in it.
fn only_source<'a>(catalog: &'a Catalog, plan: &ViewPlan) -> Result<&'a Relation, Report> {
    let mut inputs = plan.inputs().map(|oid| catalog.relation(oid));
    match (inputs.next().flatten(), inputs.next()) {
        (Some(source), None) if matches!(source.kind, RelationKind::Source(_)) => Ok(source),
        _ => Err(unsupported(
            "attach = 'true' of an archive that is not filled from a source",
            "Name a source, or a view without state over one; a new folder gets all rows of anything else.",
        )),
    }
}

fn define(
    definer: &mut Definer<'_>,
    create: &CreateArchive,
    fed: Option<&Fed>,
    statement: &Statement,
) -> Result<Relation, Report> {
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
    match fed {
        None if options.contains_key("rollover.interval") => {
            return Err(Report {
                hint: Some("Leave it out: every INSERT is one commit.".into()),
                ..Report::new("22023", "option \"rollover.interval\" needs FROM")
            });
        }
        _ => {}
    }
    let mut columns = match fed {
        Some(fed) => output_columns(&fed.plan.output),
        None => definer.columns(elements)?,
    };
    let partition_by = partition(definer, &create.partition_by, &mut columns, fed.is_some())?;
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
        feed: fed.map(|fed| Feed {
            from: fed.from,
            query: query_text(&fed.query),
        }),
    };
    let dependencies = fed.map(|fed| definer.dependencies(&fed.query, &fed.plan.reads));
    let mut builder = definer.builder(&create.name, RelationKind::Archive(spec), statement)?;
    builder.columns(columns).map_err(refused)?;
    builder.depends_on(dependencies.unwrap_or_default());
    Ok(builder.build())
}

/// Names of the columns that make folders; those that `expr AS name` makes are added, as generated columns, unless a query has
/// `computed` them.
fn partition(
    definer: &Definer<'_>,
    parts: &[Partition],
    columns: &mut Vec<Column>,
    computed: bool,
) -> Result<Vec<String>, Report> {
    let plain = columns.clone();
    let mut names: Vec<String> = Vec::new();
    for part in parts {
        let name = match (&part.name, &part.expr) {
            (Some(name), _) if computed => name.value.clone(),
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
