//! CREATE SINK: what feeds it, whether its promises can be kept, and what it becomes in the catalog.
//!
//! Invariant: a sink is accepted only when its input proves what its form needs: no row is taken back where rows are appended,
//! and one row per key where rows have keys.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use thalweg_catalog::{Catalog, Change, Oid, Relation, RelationKind, SinkFormat, SinkSpec, option};
use thalweg_connectors::{HbaseSink, HbaseTable};
use thalweg_planner::stream::{self, Properties};
use thalweg_planner::{OutputColumn, ViewPlan};
use thalweg_sql::{CreateSink, Report, SinkInput, Statement, ast};

use super::Outcome;
use super::ddl::{create_effect, select_all};
use super::define::{Definer, connector_name, output_columns, query_text, refused};
use super::session::{PlanScope, Session, command};

/// What is known of a sink before it is in the catalog.
struct Draft {
    spec: SinkSpec,
    query: Box<ast::Query>,
    plan: ViewPlan,
}

impl Session {
    pub(super) async fn create_sink(
        &mut self,
        create: &CreateSink,
        statement: &Statement,
    ) -> Result<Outcome, Report> {
        self.stage_sink(create, statement, true).await
    }

    /// Defines a sink; with `resolve` its outside object is checked.
    pub(super) async fn stage_sink(
        &mut self,
        create: &CreateSink,
        statement: &Statement,
        resolve: bool,
    ) -> Result<Outcome, Report> {
        let scope = self.scope(&statement.to_string(), Vec::new());
        if self.taken(&scope, &create.name, create.if_not_exists)? {
            return Ok(command("CREATE SINK"));
        }
        let query = match &create.input {
            SinkInput::Relation(name) => select_all(name)?,
            SinkInput::Query(query) => query.clone(),
        };
        let plan = self.plan_continuous(&scope, &query, &[])?;
        let draft = match &create.into {
            Some(table) => self.into_table(&scope, create, table, query, plan)?,
            None => self.outward(create, query, plan)?,
        };
        let plan = draft.plan;
        let sink = self.define(&scope, |definer| {
            definer.sink(create, draft.spec, &draft.query, &plan, statement)
        })?;
        if create.into.is_none() {
            let context = self.server.connector_context();
            let opened =
                thalweg_connectors::sink(&sink, &context).map_err(|error| error.report())?;
            if resolve {
                opened.check().await.map_err(|error| error.report())?;
            }
        }
        let effects = vec![create_effect(&sink, Some(plan))];
        let changes = vec![Change::CreateRelation(Box::new(sink))];
        self.change("CREATE SINK", changes, effects).await?;
        Ok(command("CREATE SINK"))
    }

    /// A sink that leaves the system.
    fn outward(
        &self,
        create: &CreateSink,
        query: Box<ast::Query>,
        plan: ViewPlan,
    ) -> Result<Draft, Report> {
        let connector = connector_name(&create.with, "sink")?;
        let options = option::validate_sink_options(&connector, &create.with).map_err(refused)?;
        let key = match options.get("primary_key") {
            Some(names) => key_columns(names, &plan.output)?,
            None => Vec::new(),
        };
        let format =
            option::sink_format(&connector, create.format.as_ref(), key).map_err(refused)?;
        let delivery = match options.get("delivery") {
            Some(delivery) => delivery.clone(),
            None => option::default_delivery(&connector).to_owned(),
        };
        check_log_limit(&options, &delivery)?;
        let spec = SinkSpec {
            connector,
            options,
            query: query_text(&query),
            delivery,
            format,
            into: None,
        };
        if let Some(format) = &spec.format {
            let known = self.known(&plan);
            match format.row.as_str() {
                "UPSERT" => require_unique(&known, format, &plan.output)?,
                _ if spec.is_on("force_append_only") => {}
                _ => require_append_only(&known, "FORMAT PLAIN", OR_LEAVE_OUT)?,
            }
        }
        Ok(Draft { spec, query, plan })
    }

    /// A sink whose rows go to a table of ours.
    fn into_table(
        &self,
        scope: &PlanScope,
        create: &CreateSink,
        name: &ast::ObjectName,
        query: Box<ast::Query>,
        plan: ViewPlan,
    ) -> Result<Draft, Report> {
        if create.format.is_some() {
            return Err(Report::new(
                "42601",
                "a sink into a table has no FORMAT clause",
            ));
        }
        let catalog = &scope.catalog;
        let table = catalog.resolve(&scope.search_path, name).map_err(refused)?;
        if !table.is_writable() && !matches!(table.kind, RelationKind::External(_)) {
            let message = format!("\"{}\" is not a table", table.name);
            return Err(Report::new("42809", message));
        }
        if feeds(catalog, &plan.reads, table.oid) {
            return Err(Report {
                detail: Some("Its own rows would come back to it for ever.".into()),
                ..Report::new(
                    "42P17",
                    format!("the query of the sink reads table \"{}\"", table.name),
                )
            });
        }
        self.check_insert(scope, name, &query, &plan.output)?;
        let query = fitted(query, &plan.output, table)?;
        let plan = self.plan_continuous(scope, &query, &[])?;
        let kept_by = match &table.kind {
            RelationKind::External(kept) => Some(kept.connector.as_str()),
            _ => None,
        };
        let (options, delivery) =
            option::validate_into_options(kept_by, &create.with).map_err(refused)?;
        check_log_limit(&options, &delivery)?;
        let spec = SinkSpec {
            connector: kept_by.unwrap_or("table").to_owned(),
            options,
            query: query_text(&query),
            delivery,
            format: None,
            into: Some(table.oid),
        };
        let known = self.known(&plan);
        let key = table.key_positions();
        if let RelationKind::External(kept) = &table.kind
            && spec.delivery != "exactly_once"
        {
            let context = self.server.connector_context();
            HbaseTable::new(&table.columns, &key, &kept.options, &context)
                .and_then(|external| HbaseSink::new(Arc::new(external)))
                .map_err(|error| error.report())?;
        }
        if key.is_empty() {
            if !spec.is_on("force_append_only") {
                require_append_only(&known, "a table without a primary key", OR_LEAVE_OUT)?;
            }
        } else if !is_unique(&known, &key) {
            return Err(not_unique(&key, &plan.output));
        }
        Ok(Draft { spec, query, plan })
    }

    /// Refuses what an INSERT of the query's rows would: unknown columns, types that do not fit.
    fn check_insert(
        &self,
        scope: &PlanScope,
        table: &ast::ObjectName,
        query: &ast::Query,
        output: &[OutputColumn],
    ) -> Result<(), Report> {
        let names: Vec<String> = output
            .iter()
            .map(|column| ast::Ident::with_quote('"', &column.name).to_string())
            .collect();
        let query = query_text(query);
        let text = format!("INSERT INTO {table} ({}) {query}", names.join(", "));
        let parsed = thalweg_sql::parse(&text).map_err(|error| error.report())?;
        if let Some(Statement::Insert(insert)) = parsed.first().map(|parsed| &parsed.statement) {
            self.server
                .planner
                .insert(&self.context(scope, None), insert)
                .map_err(|error| Report {
                    position: None,
                    ..error.report()
                })?;
        }
        Ok(())
    }

    /// What the plan's output is known to be, through the views it reads.
    pub(super) fn known(&self, plan: &ViewPlan) -> Properties {
        let mut stream = plan.stream.clone();
        let catalog = self.catalog();
        stream.sharpen(&mut |oid| {
            let view = catalog.relation(oid)?;
            if !matches!(view.kind, RelationKind::MaterializedView { .. }) {
                return None;
            }
            let plan = self.server.stored_plan(&catalog, view).ok()??;
            Some(self.known(&plan))
        });
        stream.root.properties().clone()
    }
}

impl Definer<'_> {
    /// The catalog object of a sink.
    fn sink(
        &mut self,
        create: &CreateSink,
        spec: SinkSpec,
        query: &ast::Query,
        plan: &ViewPlan,
        statement: &Statement,
    ) -> Result<Relation, Report> {
        let mut dependencies = self.dependencies(query, &plan.reads);
        if let Some(table) = spec.into {
            dependencies.push(table);
            dependencies.sort_unstable();
            dependencies.dedup();
        }
        let mut builder = self.builder(&create.name, RelationKind::Sink(spec), statement)?;
        builder
            .columns(output_columns(&plan.output))
            .map_err(refused)?;
        builder.depends_on(dependencies);
        Ok(builder.build())
    }
}

/// Positions of the columns that `primary_key` names.
fn key_columns(names: &str, output: &[OutputColumn]) -> Result<Vec<usize>, Report> {
    let mut positions = Vec::new();
    for name in names.split(',').map(str::trim) {
        let found = output.iter().position(|column| column.name == name);
        let Some(position) = found else {
            let known = output.iter().map(|column| column.name.as_str());
            return Err(Report {
                hint: thalweg_sql::suggest(name, known)
                    .map(|near| format!("Perhaps you meant \"{near}\".")),
                ..Report::new(
                    "42703",
                    format!("column \"{name}\" in option \"primary_key\" does not exist"),
                )
            });
        };
        if positions.contains(&position) {
            let message = format!("column \"{name}\" appears twice in option \"primary_key\"");
            return Err(Report::new("42701", message));
        }
        positions.push(position);
    }
    Ok(positions)
}

fn check_log_limit(options: &BTreeMap<String, String>, delivery: &str) -> Result<(), Report> {
    if delivery == "exactly_once" || !options.contains_key("sink_log.max_bytes") {
        return Ok(());
    }
    Err(Report {
        hint: Some("Leave it out: at least once, changes that wait merge.".into()),
        ..Report::new(
            "22023",
            "option \"sink_log.max_bytes\" needs delivery = 'exactly_once'",
        )
    })
}

fn is_unique(known: &Properties, key: &[usize]) -> bool {
    let within = |unique: &Vec<usize>| unique.iter().all(|column| key.contains(column));
    known.keys.iter().any(within)
}

fn require_unique(
    known: &Properties,
    format: &SinkFormat,
    output: &[OutputColumn],
) -> Result<(), Report> {
    if is_unique(known, &format.key) {
        Ok(())
    } else {
        Err(not_unique(&format.key, output))
    }
}

fn not_unique(key: &[usize], output: &[OutputColumn]) -> Report {
    let names: Vec<&str> = key
        .iter()
        .filter_map(|position| output.get(*position))
        .map(|column| column.name.as_str())
        .collect();
    Report {
        detail: Some("Of several rows with one key, readers would see whichever came last.".into()),
        hint: Some(
            "Key the sink by the columns of GROUP BY or DISTINCT, or by a table's primary key."
                .into(),
        ),
        ..Report::new(
            "42P10",
            format!(
                "({}) is not known to be unique in the query",
                names.join(", ")
            ),
        )
    }
}

/// What a sink does about rows that are taken back.
const OR_LEAVE_OUT: &str =
    "Use EMIT ON WINDOW CLOSE, force_append_only = 'true' to leave deletions out, or a key.";

/// Refuses a query that takes rows back, with what to do instead.
pub(super) fn require_append_only(
    known: &Properties,
    form: &str,
    instead: &str,
) -> Result<(), Report> {
    if known.change == stream::Change::AppendOnly {
        return Ok(());
    }
    Err(Report {
        detail: Some(
            "The query takes rows back: rows of its result are updated or deleted.".into(),
        ),
        hint: Some(instead.to_owned()),
        ..Report::new("0A000", format!("{form} cannot take rows back"))
    })
}

/// True when the rows of `target` reach one of `reads`, through views and other sinks.
fn feeds(catalog: &Catalog, reads: &[Oid], target: Oid) -> bool {
    let mut seen: BTreeSet<Oid> = BTreeSet::new();
    let mut open: Vec<Oid> = reads.to_vec();
    while let Some(oid) = open.pop() {
        if oid == target {
            return true;
        }
        if !seen.insert(oid) {
            continue;
        }
        if let Some(relation) = catalog.relation(oid) {
            open.extend(&relation.depends_on);
        }
        let into = |relation: &&Relation| matches!(&relation.kind, RelationKind::Sink(spec) if spec.into == Some(oid));
        for sink in catalog.relations().filter(into) {
            // A sink also depends on the table it fills.
            open.extend(sink.depends_on.iter().filter(|input| **input != oid));
        }
    }
    false
}

/// The query with the columns of the table, in their order and types; columns it does not give have their default.
fn fitted(
    query: Box<ast::Query>,
    output: &[OutputColumn],
    table: &Relation,
) -> Result<Box<ast::Query>, Report> {
    let same = output.len() == table.columns.len()
        && output
            .iter()
            .zip(&table.columns)
            .all(|(from, to)| from.name == to.name && from.ty == to.ty);
    if same {
        return Ok(query);
    }
    let mut items = Vec::new();
    for column in &table.columns {
        let name = ast::Ident::with_quote('"', &column.name);
        let given = output.iter().find(|from| from.name == column.name);
        let value = match (given, &column.default) {
            (Some(_), _) => ast::Expr::Identifier(name.clone()),
            (None, Some(text)) => thalweg_sql::parse_expr(text).map_err(|error| error.report())?,
            (None, None) => ast::Expr::value(ast::Value::Null),
        };
        let expr = match given {
            Some(from) if from.ty == column.ty => value,
            _ => cast(value, &column.ty.to_string())?,
        };
        items.push(ast::SelectItem::ExprWithAlias { expr, alias: name });
    }
    let mut fitted =
        thalweg_sql::parse_query("SELECT 1 FROM (SELECT 1) AS q").map_err(|e| e.report())?;
    if let ast::SetExpr::Select(select) = fitted.body.as_mut() {
        select.projection = items;
        if let Some(ast::TableFactor::Derived { subquery, .. }) =
            select.from.first_mut().map(|from| &mut from.relation)
        {
            *subquery = query;
        }
    }
    Ok(fitted)
}

fn cast(value: ast::Expr, ty: &str) -> Result<ast::Expr, Report> {
    let text = format!("CAST(NULL AS {ty})");
    let mut cast = thalweg_sql::parse_expr(&text).map_err(|error| error.report())?;
    if let ast::Expr::Cast { expr, .. } = &mut cast {
        **expr = value;
    }
    Ok(cast)
}
