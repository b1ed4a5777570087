//! CREATE and DROP: check, define, make durable, then tell the engine.
//!
//! Invariant: an object exists when its catalog record is durable, which happens in one transaction with the rows of its block
//! and after everything about it that can fail.

use std::sync::Arc;

use thalweg_catalog::{Catalog, Change, Oid, Relation, RelationKind, Schema};
use thalweg_connectors::HbaseTable;
use thalweg_engine::WriteTransaction;
use thalweg_planner::{StreamNode, ViewPlan};
use thalweg_sql::{
    CreateSource, CreateTable, CreateView, Drop, ObjectKind, Report, Statement, ast,
};

use super::define::Definer;
use super::session::{PlanScope, Session, command, unsupported};
use super::show::kind_word;
use super::{Notice, Outcome};

/// What the engine does once the catalog change is durable.
#[derive(Debug)]
pub(super) enum Effect {
    /// Starts keeping a relation.
    Create {
        /// The new relation.
        relation: Box<Relation>,
        /// Its plan, for materialized views and sinks.
        plan: Option<Box<ViewPlan>>,
    },
    /// Stops keeping relations.
    Drop(Vec<Oid>),
    /// Has something stand still, or go on.
    Pause(Oid, bool),
}

/// `SELECT * FROM name`, as a sink `FROM name` reads it.
pub(super) fn select_all(name: &ast::ObjectName) -> Result<Box<ast::Query>, Report> {
    thalweg_sql::parse_query(&format!("TABLE {name}")).map_err(|error| error.report())
}

impl Effect {
    pub(super) fn creates_one_of(&self, oids: &[Oid]) -> bool {
        matches!(self, Effect::Create { relation, .. } if oids.contains(&relation.oid))
    }
}

pub(super) fn create_effect(relation: &Relation, plan: Option<ViewPlan>) -> Effect {
    Effect::Create {
        relation: Box::new(relation.clone()),
        plan: plan.map(Box::new),
    }
}

impl Session {
    /// Runs `define` against this session's catalog and settings.
    pub(super) fn define<T>(
        &self,
        scope: &PlanScope,
        define: impl FnOnce(&mut Definer<'_>) -> Result<T, Report>,
    ) -> Result<T, Report> {
        let context = self.context(scope, None);
        define(&mut Definer {
            catalog: &scope.catalog,
            search_path: &scope.search_path,
            time_zone: &scope.time_zone,
            created_at_ms: self.server.clock.now_us() / 1000,
            planner: &self.server.planner,
            context: &context,
            oids: &mut self.server.oids.lock(),
        })
    }

    /// True when `name` is taken: an error, or with IF NOT EXISTS a notice.
    pub(super) fn taken(
        &mut self,
        scope: &PlanScope,
        name: &ast::ObjectName,
        if_not_exists: bool,
    ) -> Result<bool, Report> {
        let (schema, name) = self.define(scope, |definer| definer.place(name))?;
        if !scope.catalog.name_taken(schema, &name) {
            return Ok(false);
        }
        let message = format!("relation \"{name}\" already exists");
        if if_not_exists {
            self.notice(Notice {
                sqlstate: "42P07",
                ..Notice::notice(format!("{message}, skipping"))
            });
            return Ok(true);
        }
        Err(Report {
            sqlstate: "42P07",
            message,
            detail: None,
            hint: None,
            position: None,
        })
    }

    /// Stages changes in the open block, or makes them durable and effective now.
    pub(super) async fn change(
        &mut self,
        what: &str,
        changes: Vec<Change>,
        effects: Vec<Effect>,
    ) -> Result<(), Report> {
        self.transaction.note_write(what)?;
        let catalog = thalweg_catalog::apply_all(&self.catalog(), &changes)
            .map_err(|error| error.report())?;
        if !self.transaction.is_open() {
            return self
                .server
                .apply_ddl(
                    changes,
                    effects,
                    WriteTransaction::default(),
                    &mut self.floor,
                )
                .await;
        }
        if let Some(rows) = self.transaction.rows_mut() {
            for effect in &effects {
                if let Effect::Create { relation, .. } = effect
                    && matches!(relation.kind, RelationKind::Table)
                {
                    let staged = self.server.engine.stage_table(rows, &catalog, relation);
                    staged.map_err(|error| error.report())?;
                }
            }
        }
        self.transaction.stage(Arc::new(catalog), changes, effects);
        Ok(())
    }

    pub(super) async fn create_schema(
        &mut self,
        name: &str,
        if_not_exists: bool,
    ) -> Result<Outcome, Report> {
        if self.catalog().schema(name).is_some() {
            let message = format!("schema \"{name}\" already exists");
            if !if_not_exists {
                return Err(Report {
                    sqlstate: "42P06",
                    message,
                    detail: None,
                    hint: None,
                    position: None,
                });
            }
            self.notice(Notice {
                sqlstate: "42P06",
                ..Notice::notice(format!("{message}, skipping"))
            });
            return Ok(command("CREATE SCHEMA"));
        }
        if name.starts_with("pg_") {
            return Err(Report {
                sqlstate: "42939",
                message: format!("unacceptable schema name \"{name}\""),
                detail: Some("The prefix \"pg_\" is reserved for system schemas.".into()),
                hint: None,
                position: None,
            });
        }
        let oid = self
            .server
            .oids
            .lock()
            .allocate()
            .map_err(|error| error.report())?;
        let schema = Schema {
            oid,
            name: name.to_owned(),
        };
        self.change(
            "CREATE SCHEMA",
            vec![Change::CreateSchema(schema)],
            Vec::new(),
        )
        .await?;
        Ok(command("CREATE SCHEMA"))
    }

    pub(super) async fn create_source(
        &mut self,
        create: &CreateSource,
        statement: &Statement,
    ) -> Result<Outcome, Report> {
        self.stage_source(create, statement, true).await
    }

    /// Defines a source; with `resolve` its outside object is checked and its start offsets are fixed now and for good.
    pub(super) async fn stage_source(
        &mut self,
        create: &CreateSource,
        statement: &Statement,
        resolve: bool,
    ) -> Result<Outcome, Report> {
        let scope = self.scope(&statement.to_string(), Vec::new());
        if self.taken(&scope, &create.name, create.if_not_exists)? {
            return Ok(command("CREATE SOURCE"));
        }
        let mut source = self.define(&scope, |definer| definer.source(create, statement))?;
        let connector = thalweg_connectors::source(&source, &self.server.connector_context())
            .map_err(|error| error.report())?;
        if resolve {
            let start = connector
                .resolve_start()
                .await
                .map_err(|error| error.report())?;
            if let RelationKind::Source(spec) = &mut source.kind {
                spec.start = start;
            }
        }
        let errors = self.define(&scope, |definer| definer.errors(&source))?;
        let changes = [&source, &errors]
            .map(|relation| Change::CreateRelation(Box::new(relation.clone())))
            .to_vec();
        let effects = vec![create_effect(&source, None), create_effect(&errors, None)];
        self.change("CREATE SOURCE", changes, effects).await?;
        Ok(command("CREATE SOURCE"))
    }

    pub(super) async fn create_table(
        &mut self,
        create: &CreateTable,
        statement: &Statement,
    ) -> Result<Outcome, Report> {
        let Some(query) = &create.query else {
            return self.stage_table(create, statement, true).await;
        };
        let scope = self.scope(&statement.to_string(), Vec::new());
        if self.taken(&scope, &create.name, create.if_not_exists)? {
            return Ok(command("CREATE TABLE"));
        }
        self.create_table_as(create, query, statement).await
    }

    /// Defines a table; with `ask` one that an outside system keeps is looked for there, and made if it shall be.
    pub(super) async fn stage_table(
        &mut self,
        create: &CreateTable,
        statement: &Statement,
        ask: bool,
    ) -> Result<Outcome, Report> {
        let scope = self.scope(&statement.to_string(), Vec::new());
        if self.taken(&scope, &create.name, create.if_not_exists)? {
            return Ok(command("CREATE TABLE"));
        }
        let table = self.define(&scope, |definer| definer.table(create, statement))?;
        if let RelationKind::External(spec) = &table.kind {
            let (key, context) = (table.key_positions(), self.server.connector_context());
            let external = HbaseTable::new(&table.columns, &key, &spec.options, &context)
                .map_err(|error| error.report())?;
            if ask {
                external.check().await.map_err(|error| error.report())?;
            }
        }
        let effects = vec![create_effect(&table, None)];
        self.change(
            "CREATE TABLE",
            vec![Change::CreateRelation(Box::new(table))],
            effects,
        )
        .await?;
        Ok(command("CREATE TABLE"))
    }

    /// Creates the table and fills it as an INSERT would; both become durable together because they share a block.
    async fn create_table_as(
        &mut self,
        create: &CreateTable,
        query: &ast::Query,
        statement: &Statement,
    ) -> Result<Outcome, Report> {
        let own_block = self.transaction_status() == super::TransactionStatus::Idle;
        if own_block {
            self.begin(false)?;
        }
        let filled = match self.stage_table_as(create, statement).await {
            Ok(()) => self.fill_table(create, query).await,
            Err(report) => Err(report),
        };
        if !own_block {
            return filled;
        }
        match filled {
            Ok(outcome) => self.commit().await.map(|_| outcome),
            Err(report) => {
                self.rollback()?;
                Err(report)
            }
        }
    }

    /// Defines the table of `CREATE TABLE AS` from its query's columns.
    pub(super) async fn stage_table_as(
        &mut self,
        create: &CreateTable,
        statement: &Statement,
    ) -> Result<(), Report> {
        let Some(query) = &create.query else {
            return Ok(());
        };
        let scope = self.scope(&statement.to_string(), Vec::new());
        let plan = self.plan_query(&scope.text, query, Vec::new())?;
        let table = self.define(&scope, |definer| {
            definer.table_as(create, &plan.output, statement)
        })?;
        let effects = vec![create_effect(&table, None)];
        self.change(
            "CREATE TABLE AS",
            vec![Change::CreateRelation(Box::new(table))],
            effects,
        )
        .await
    }

    async fn fill_table(
        &mut self,
        create: &CreateTable,
        query: &ast::Query,
    ) -> Result<Outcome, Report> {
        let query = super::define::query_text(query);
        let text = format!("INSERT INTO {} {query}", create.name);
        let parsed = thalweg_sql::parse(&text).map_err(|error| error.report())?;
        let Some(insert) = parsed.first() else {
            return Ok(command("SELECT 0"));
        };
        match self.write(insert, Vec::new()).await? {
            Outcome::Command { tag } => Ok(command(&tag.replacen("INSERT 0 ", "SELECT ", 1))),
            other => Ok(other),
        }
    }

    pub(super) async fn create_view(
        &mut self,
        create: &CreateView,
        statement: &Statement,
    ) -> Result<Outcome, Report> {
        let scope = self.scope(&statement.to_string(), Vec::new());
        if create.or_replace {
            return Err(unsupported(
                "CREATE OR REPLACE VIEW",
                "Drop the view and create it again.",
            ));
        }
        if self.taken(&scope, &create.name, create.if_not_exists)? {
            return Ok(command("CREATE VIEW"));
        }
        let plan = self.plan_view(&scope, &create.query, &create.columns)?;
        let view = self.define(&scope, |definer| {
            definer.view(create, &plan, false, statement)
        })?;
        self.change(
            "CREATE VIEW",
            vec![Change::CreateRelation(Box::new(view))],
            Vec::new(),
        )
        .await?;
        Ok(command("CREATE VIEW"))
    }

    pub(super) fn plan_view(
        &self,
        scope: &PlanScope,
        query: &ast::Query,
        columns: &[ast::Ident],
    ) -> Result<ViewPlan, Report> {
        self.server
            .planner
            .view(&self.context(scope, None), query, columns)
            .map_err(|error| error.report())
    }

    /// Plans what is kept up to date, which a query of what an outside system keeps cannot be: that does not tell of its changes.
    pub(super) fn plan_continuous(
        &self,
        scope: &PlanScope,
        query: &ast::Query,
        columns: &[ast::Ident],
    ) -> Result<ViewPlan, Report> {
        let plan = self.plan_view(scope, query, columns)?;
        if let (false, StreamNode::Recompute { reason, .. }) =
            (plan.lookups.is_empty(), &plan.stream.root)
        {
            return Err(unsupported(
                &format!("a lookup join in a query that is recomputed because of {reason}"),
                "What a row has found must not change. Make a materialized view of the lookup join, and query that.",
            ));
        }
        let histories = plan.hybrids.histories().map_err(|error| error.report())?;
        if let (false, StreamNode::Recompute { reason, .. }) =
            (histories.is_empty(), &plan.stream.root)
        {
            return Err(unsupported(
                &format!("HYBRID in a query that is recomputed because of {reason}"),
                "Make a materialized view of the hybrid alone, and query that.",
            ));
        }
        let read = plan.inputs().filter_map(|oid| scope.catalog.relation(oid));
        for relation in read {
            let (what, hint) = match relation.kind {
                RelationKind::External(_) => (
                    "HBase table",
                    "HBase does not tell of its changes. Join the table with FOR SYSTEM_TIME AS OF PROCTIME(), or query it when it is needed.",
                ),
                RelationKind::Archive(_) => (
                    "archive",
                    "Others may add to an archive, and it does not tell. Query it when it is needed, or through a plain view.",
                ),
                _ => continue,
            };
            return Err(unsupported(
                &format!("a continuous query over {what} \"{}\"", relation.name),
                hint,
            ));
        }
        Ok(plan)
    }

    pub(super) async fn create_materialized_view(
        &mut self,
        create: &CreateView,
        statement: &Statement,
    ) -> Result<Outcome, Report> {
        let scope = self.scope(&statement.to_string(), Vec::new());
        if create.emit_on_window_close {
            return Err(unsupported(
                "EMIT ON WINDOW CLOSE",
                "Leave it out: the view then shows every window as it is now.",
            ));
        }
        if self.taken(&scope, &create.name, create.if_not_exists)? {
            return Ok(command("CREATE MATERIALIZED VIEW"));
        }
        let plan = self.plan_continuous(&scope, &create.query, &create.columns)?;
        let view = self.define(&scope, |definer| {
            definer.view(create, &plan, true, statement)
        })?;
        let effects = vec![create_effect(&view, Some(plan))];
        self.change(
            "CREATE MATERIALIZED VIEW",
            vec![Change::CreateRelation(Box::new(view))],
            effects,
        )
        .await?;
        Ok(command("CREATE MATERIALIZED VIEW"))
    }

    pub(super) async fn drop_objects(&mut self, drop: &Drop) -> Result<Outcome, Report> {
        let tag = format!("DROP {}", kind_word(drop.kind).to_ascii_uppercase());
        if drop.kind == ObjectKind::Schema {
            return self.drop_schemas(drop, &tag).await;
        }
        if drop.kind == ObjectKind::Index {
            return Err(unsupported(
                "DROP INDEX",
                "A primary key's index goes with its table.",
            ));
        }
        let catalog = self.catalog();
        let mut oids = Vec::new();
        for name in &drop.names {
            match catalog.resolve_kind(&self.search_path(), name, drop.kind) {
                Ok(relation) => oids.push(relation.oid),
                Err(error) if drop.if_exists && matches!(error.sqlstate(), "42P01" | "3F000") => {
                    self.notice(Notice::notice(format!(
                        "{}, skipping",
                        error.report().message
                    )));
                }
                Err(error) => return Err(error.report()),
            }
        }
        let order = catalog
            .drop_order(&oids, drop.cascade)
            .map_err(|error| error.report())?;
        self.drop_in_order(&catalog, &tag, &oids, order, Vec::new())
            .await?;
        Ok(command(&tag))
    }

    async fn drop_schemas(&mut self, drop: &Drop, tag: &str) -> Result<Outcome, Report> {
        let catalog = self.catalog();
        let mut order = Vec::new();
        let mut schemas = Vec::new();
        for name in &drop.names {
            let name = folded_name(name);
            let schema = match catalog.require_schema(&name) {
                Ok(schema) => schema.oid,
                Err(_) if drop.if_exists => {
                    self.notice(Notice::notice(format!(
                        "schema \"{name}\" does not exist, skipping"
                    )));
                    continue;
                }
                Err(error) => return Err(error.report()),
            };
            for oid in catalog
                .schema_drop_order(schema, drop.cascade)
                .map_err(|error| error.report())?
            {
                if !order.contains(&oid) {
                    order.push(oid);
                }
            }
            schemas.push(Change::DropSchema(schema));
        }
        self.drop_in_order(&catalog, tag, &[], order, schemas)
            .await?;
        Ok(command(tag))
    }

    /// Drops `order`, telling what goes beyond the `oids` that were named, then applies `then`.
    async fn drop_in_order(
        &mut self,
        catalog: &Catalog,
        what: &str,
        oids: &[Oid],
        order: Vec<Oid>,
        then: Vec<Change>,
    ) -> Result<(), Report> {
        if order.is_empty() && then.is_empty() {
            return Ok(());
        }
        let extra: Vec<String> = order
            .iter()
            .filter(|oid| !oids.contains(oid))
            .filter_map(|oid| catalog.relation(*oid))
            .filter(|relation| !matches!(relation.kind, RelationKind::Errors { .. }))
            .map(|relation| format!("{} {}", relation.kind_word(), relation.name))
            .collect();
        match extra.as_slice() {
            [] => {}
            [one] => self.notice(Notice::notice(format!("drop cascades to {one}"))),
            many => {
                let mut notice =
                    Notice::notice(format!("drop cascades to {} other objects", many.len()));
                notice.detail = Some(
                    many.iter()
                        .map(|line| format!("drop cascades to {line}"))
                        .collect::<Vec<_>>()
                        .join("\n"),
                );
                self.notice(notice);
            }
        }
        let mut changes: Vec<Change> = order.iter().map(|oid| Change::DropRelation(*oid)).collect();
        changes.extend(then);
        self.change(what, changes, vec![Effect::Drop(order)]).await
    }
}

/// The last part of a schema name in DROP SCHEMA.
fn folded_name(name: &ast::ObjectName) -> String {
    name.0
        .last()
        .and_then(|part| part.as_ident())
        .map(thalweg_catalog::folded)
        .unwrap_or_default()
}
