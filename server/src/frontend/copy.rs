//! COPY in both directions and TRUNCATE. The wires encode and decode the rows; here they get their types and take effect.
//!
//! Invariant: the rows of one COPY FROM are inserted by one statement, so either all of them are there or none.

use std::collections::HashMap;
use std::sync::Arc;

use datafusion::arrow::record_batch::RecordBatch;
use datafusion::catalog::{MemTable, TableProvider};
use datafusion::logical_expr::ScalarUDF;
use futures::FutureExt;
use futures::future::BoxFuture;
use thalweg_catalog::{Oid, Relation, RelationKind};
use thalweg_engine::WriteTransaction;
use thalweg_planner::{DmlPlan, OutputColumn, PlanContext, SystemRelations};
use thalweg_sql::{Copy, CopyOptions, CopySubject, Parsed, Report, Statement, ast, quote_ident};

use super::ddl::select_all;
use super::session::{PlanScope, Session, command};
use super::{Outcome, TransactionStatus, rows};

/// Schema and name under which the rows of a COPY are planned.
const ROWS: (&str, &str) = ("sys", "copied_rows");

/// Where the rows of a COPY FROM go.
#[derive(Debug, Clone)]
pub struct CopyIn {
    /// Name of the table, for messages.
    pub table: String,
    /// Columns in the order of the data.
    pub columns: Vec<OutputColumn>,
    /// Which of them refuse NULL.
    pub not_null: Vec<bool>,
    /// How the rows are written.
    pub options: CopyOptions,
    /// Qualified name of the table, for its INSERT.
    target: String,
    oid: Oid,
}

impl Session {
    pub(super) async fn copy(&mut self, parsed: &Parsed, copy: &Copy) -> Result<Outcome, Report> {
        let inner = match &copy.subject {
            CopySubject::From { table, columns } => {
                self.transaction.note_write("COPY FROM")?;
                let target = self.copy_target(table, columns, copy.options.clone())?;
                return Ok(Outcome::CopyIn(Box::new(target)));
            }
            CopySubject::Relation { name, columns } => {
                let query = select_columns(name, columns)?;
                self.query(parsed, &query, Vec::new()).await?
            }
            CopySubject::Statement(statement) => match statement.as_ref() {
                Statement::Subscribe(subscribe) => {
                    let (columns, stream) = self.open_subscription(&parsed.text, subscribe).await?;
                    return Ok(copied(columns, stream, copy));
                }
                Statement::Query(query) => self.query(parsed, query, Vec::new()).await?,
                data => {
                    let inner = Parsed {
                        statement: data.clone(),
                        ..parsed.clone()
                    };
                    self.write(&inner, Vec::new()).await?
                }
            },
        };
        match inner {
            Outcome::Rows {
                columns, stream, ..
            } => Ok(copied(columns, stream, copy)),
            _ => Err(Report::new(
                "0A000",
                "COPY query must have a RETURNING clause",
            )),
        }
    }

    /// Checks the table and columns of a COPY FROM.
    pub(crate) fn copy_target(
        &self,
        table: &ast::ObjectName,
        names: &[ast::Ident],
        options: CopyOptions,
    ) -> Result<CopyIn, Report> {
        let catalog = self.catalog();
        let relation = catalog
            .resolve(&self.search_path(), table)
            .map_err(|error| error.report())?;
        if !matches!(relation.kind, RelationKind::Table) {
            let message = format!(
                "cannot copy to {} \"{}\"",
                relation.kind_word(),
                relation.name
            );
            return Err(Report::new("42809", message));
        }
        let positions = positions(relation, names)?;
        let chosen = positions.iter().filter_map(|at| relation.columns.get(*at));
        let columns: Vec<OutputColumn> = chosen
            .clone()
            .map(|column| OutputColumn {
                name: column.name.clone(),
                ty: column.ty.clone(),
                origin: Some((relation.oid, column.attnum)),
            })
            .collect();
        let schema = catalog
            .schema_by_oid(relation.schema)
            .map_or("public", |schema| &schema.name);
        Ok(CopyIn {
            table: relation.name.clone(),
            not_null: chosen.map(|column| column.not_null).collect(),
            columns,
            options,
            target: format!("{}.{}", quote_ident(schema), quote_ident(&relation.name)),
            oid: relation.oid,
        })
    }

    /// Inserts the rows of a COPY FROM; returns their number.
    ///
    /// # Errors
    /// What the INSERT raises; then nothing was inserted.
    pub fn copy_rows<'a>(
        &'a mut self,
        copy: &'a CopyIn,
        batches: Vec<RecordBatch>,
    ) -> BoxFuture<'a, Result<u64, Report>> {
        async move {
            let result = self.insert_rows(copy, batches).await;
            if result.is_err() {
                self.transaction.fail();
            }
            result
        }
        .boxed()
    }

    async fn insert_rows(
        &mut self,
        copy: &CopyIn,
        batches: Vec<RecordBatch>,
    ) -> Result<u64, Report> {
        if self.transaction.status() == TransactionStatus::Failed {
            return Err(Report::new(
                "25P02",
                "current transaction is aborted, commands ignored until end of transaction block",
            ));
        }
        self.transaction.note_write("COPY FROM")?;
        if self.catalog().relation(copy.oid).is_none() {
            let message = format!("relation \"{}\" does not exist", copy.table);
            return Err(Report::new("42P01", message));
        }
        let plan = self.plan_rows(copy, batches)?;
        match self.run_write(&plan, "COPY").await? {
            Outcome::Command { tag } => tag
                .rsplit(' ')
                .next()
                .and_then(|count| count.parse().ok())
                .ok_or_else(|| super::server::internal("an INSERT without a count")),
            _ => Err(super::server::internal("COPY has no RETURNING")),
        }
    }

    /// The INSERT of these rows.
    fn plan_rows(&self, copy: &CopyIn, batches: Vec<RecordBatch>) -> Result<DmlPlan, Report> {
        let names: Vec<String> = copy
            .columns
            .iter()
            .map(|column| quote_ident(&column.name))
            .collect();
        let text = format!(
            "INSERT INTO {} ({}) SELECT * FROM {}.{}",
            copy.target,
            names.join(", "),
            ROWS.0,
            ROWS.1
        );
        let mut parsed = thalweg_sql::parse(&text).map_err(|error| error.report())?;
        let Some(Parsed {
            statement: Statement::Insert(insert),
            ..
        }) = parsed.pop()
        else {
            return Err(super::server::internal("COPY makes an INSERT"));
        };
        let schema = rows::schema(&copy.columns);
        let table = MemTable::try_new(schema, vec![batches])
            .map_err(|error| super::server::internal(error.to_string()))?;
        let scope = self.scope(&text, Vec::new());
        let system = WithRows {
            scope: &scope,
            rows: Arc::new(table),
        };
        let context = PlanContext {
            system: &system,
            ..self.context(&scope, Some(self.server.clock.now_us()))
        };
        let plan = self.server.planner.insert(&context, &insert);
        plan.map_err(|error| error.report())
    }

    /// After rows were refused: the first one to blame, found by staging them in order where they come to nothing. `None` when
    /// they are not refused any more.
    pub fn refused_row<'a>(
        &'a mut self,
        copy: &'a CopyIn,
        batches: Vec<RecordBatch>,
    ) -> BoxFuture<'a, Option<usize>> {
        async move {
            // An open block has failed by now, so what is staged in it comes to nothing as well.
            let mut alone = WriteTransaction::default();
            let mut before = 0;
            for batch in batches {
                let rows = batch.num_rows();
                if !self.stages(copy, batch.clone(), &mut alone).await {
                    // Rows below `low` are staged; those from `low` to `high` are refused.
                    let (mut low, mut high) = (0, rows);
                    while high - low > 1 {
                        let middle = low + (high - low) / 2;
                        let part = batch.slice(low, middle - low);
                        match self.stages(copy, part, &mut alone).await {
                            true => low = middle,
                            false => high = middle,
                        }
                    }
                    return Some(before + low);
                }
                before += rows;
            }
            None
        }
        .boxed()
    }

    async fn stages(
        &mut self,
        copy: &CopyIn,
        rows: RecordBatch,
        alone: &mut WriteTransaction,
    ) -> bool {
        let Ok(plan) = self.plan_rows(copy, vec![rows]) else {
            return false;
        };
        let (options, engine) = (self.read_options(), self.server.engine.clone());
        let block = self.transaction.rows_mut().unwrap_or(alone);
        let staged = engine.write(&plan, &mut self.floor, &options, Some(block));
        staged.await.is_ok()
    }

    pub(super) async fn truncate(&mut self, names: &[ast::ObjectName]) -> Result<Outcome, Report> {
        self.transaction.note_write("TRUNCATE TABLE")?;
        let catalog = self.catalog();
        let mut tables: Vec<&Relation> = Vec::new();
        for name in names {
            let relation = catalog
                .resolve(&self.search_path(), name)
                .map_err(|error| error.report())?;
            if !matches!(relation.kind, RelationKind::Table) {
                let message = format!("\"{}\" is not a table", relation.name);
                return Err(Report::new("42809", message));
            }
            if !tables.iter().any(|table| table.oid == relation.oid) {
                tables.push(relation);
            }
        }
        if let [table] = tables.as_slice()
            && !self.transaction.is_open()
        {
            let engine = self.server.engine.clone();
            engine
                .truncate(table.oid, &mut self.floor)
                .await
                .map_err(|error| self.named(&error))?;
            return Ok(command("TRUNCATE TABLE"));
        }
        // Several tables are emptied at one epoch, or not at all.
        let own_block = !self.transaction.is_open();
        if own_block {
            self.begin(false)?;
        }
        let emptied = self.delete_all(names).await;
        if own_block {
            match &emptied {
                Ok(()) => self.commit().await?,
                Err(_) => self.rollback()?,
            };
        }
        emptied.map(|()| command("TRUNCATE TABLE"))
    }

    async fn delete_all(&mut self, names: &[ast::ObjectName]) -> Result<(), Report> {
        for name in names {
            let text = format!("DELETE FROM {name}");
            for parsed in thalweg_sql::parse(&text).map_err(|error| error.report())? {
                self.write(&parsed, Vec::new()).await?;
            }
        }
        Ok(())
    }
}

fn copied(
    columns: Vec<OutputColumn>,
    stream: datafusion::execution::SendableRecordBatchStream,
    copy: &Copy,
) -> Outcome {
    Outcome::CopyOut {
        columns,
        stream,
        options: copy.options.clone(),
    }
}

/// Positions of the named columns; of all that can be written when none is named.
fn positions(relation: &Relation, names: &[ast::Ident]) -> Result<Vec<usize>, Report> {
    if names.is_empty() {
        let all = relation.columns.iter().enumerate();
        return Ok(all
            .filter(|(_, column)| column.generated.is_none())
            .map(|(at, _)| at)
            .collect());
    }
    let mut found = Vec::new();
    for name in names {
        let at = relation
            .columns
            .iter()
            .position(|column| column.name == name.value);
        let Some((at, column)) = at.and_then(|at| Some((at, relation.columns.get(at)?))) else {
            return Err(Report::new(
                "42703",
                format!(
                    "column \"{}\" of relation \"{}\" does not exist",
                    name.value, relation.name
                ),
            ));
        };
        if column.generated.is_some() {
            let mut report = Report::new(
                "42P10",
                format!("column \"{}\" is a generated column", column.name),
            );
            report.detail = Some("Generated columns cannot be used in COPY.".into());
            return Err(report);
        }
        if found.contains(&at) {
            return Err(Report::new(
                "42701",
                format!("column \"{}\" specified more than once", name.value),
            ));
        }
        found.push(at);
    }
    Ok(found)
}

/// `SELECT columns FROM name`.
fn select_columns(
    name: &ast::ObjectName,
    columns: &[ast::Ident],
) -> Result<Box<ast::Query>, Report> {
    if columns.is_empty() {
        return select_all(name);
    }
    let list: Vec<String> = columns
        .iter()
        .map(|column| quote_ident(&column.value))
        .collect();
    thalweg_sql::parse_query(&format!("SELECT {} FROM {name}", list.join(", ")))
        .map_err(|error| error.report())
}

/// The system relations with the rows of a COPY among them.
struct WithRows<'a> {
    scope: &'a PlanScope,
    rows: Arc<dyn TableProvider>,
}

impl SystemRelations for WithRows<'_> {
    fn relation(&self, schema: &str, name: &str) -> Option<Arc<dyn TableProvider>> {
        if (schema, name) == ROWS {
            return Some(Arc::clone(&self.rows));
        }
        self.scope.system.relation(schema, name)
    }

    fn functions(&self) -> Arc<HashMap<String, Arc<ScalarUDF>>> {
        self.scope.system.functions()
    }
}
