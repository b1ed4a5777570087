//! Queries and DML: plan, bind parameters, hand to the engine.
//!
//! Invariant: the columns a statement describes are the columns it returns; a plan that changed in between is 0A000.

use datafusion::common::ScalarValue;
use datafusion::execution::SendableRecordBatchStream;
use thalweg_catalog::SqlType;
use thalweg_engine::{Consistency, EngineError, ReadOptions};
use thalweg_planner::{DmlPlan, Planner, QueryPlan, Returning};
use thalweg_sql::{Parsed, Report, Statement, ast};

use super::rows;
use super::session::Session;
use super::{Description, Outcome, RowTag};

impl Session {
    pub(super) fn describe_plan(
        &self,
        parsed: &Parsed,
        declared: &[Option<SqlType>],
    ) -> Result<Description, Report> {
        let scope = self.reading_scope(&parsed.text, declared.to_vec());
        let now = Some(self.server.clock.now_us());
        let planner = &self.server.planner;
        match &parsed.statement {
            Statement::Query(query) => {
                let query = self.rewritten(query, &scope);
                let plan = planner
                    .query(&self.context(&scope, now), &query)
                    .map_err(|error| error.report())?;
                Ok(Description {
                    parameters: plan.parameters,
                    columns: Some(plan.output),
                })
            }
            _ => {
                let plan = self.plan_dml(&parsed.statement, &scope, now)?;
                let columns = returning(&plan).map(|returning| returning.output.clone());
                let (DmlPlan::Insert { parameters, .. }
                | DmlPlan::Update { parameters, .. }
                | DmlPlan::Delete { parameters, .. }) = plan;
                Ok(Description {
                    parameters,
                    columns,
                })
            }
        }
    }

    fn reading_scope(&self, text: &str, types: Vec<Option<SqlType>>) -> super::session::PlanScope {
        self.scope(text, types)
            .with_views(&self.transaction.created_views())
    }

    fn rewritten(&self, query: &ast::Query, scope: &super::session::PlanScope) -> ast::Query {
        let mut query = query.clone();
        crate::system::rewrite_query(&mut query, &scope.catalog, &scope.search_path);
        query
    }

    pub(super) fn plan_dml(
        &self,
        statement: &Statement,
        scope: &super::session::PlanScope,
        now: Option<i64>,
    ) -> Result<DmlPlan, Report> {
        let context = self.context(scope, now);
        let planner: &Planner = &self.server.planner;
        let plan = match statement {
            Statement::Insert(insert) => planner.insert(&context, insert),
            Statement::Update(update) => planner.update(&context, update),
            Statement::Delete(delete) => planner.delete(&context, delete),
            other => {
                return Err(super::server::internal(format!(
                    "not a data statement: {other}"
                )));
            }
        };
        plan.map_err(|error| error.report())
    }

    /// Plans a query for this session, parameters still open.
    pub(super) fn plan_query(
        &self,
        text: &str,
        query: &ast::Query,
        types: Vec<Option<SqlType>>,
    ) -> Result<QueryPlan, Report> {
        let scope = self.reading_scope(text, types);
        let query = self.rewritten(query, &scope);
        let now = Some(self.server.clock.now_us());
        self.server
            .planner
            .query(&self.context(&scope, now), &query)
            .map_err(|error| error.report())
    }

    /// Types of bound parameters, so that planning at execution agrees with what was described.
    pub(super) fn bound_types(&self, parameters: &[ScalarValue]) -> Vec<Option<SqlType>> {
        // A value alone cannot tell jsonb or varchar from text.
        if !self.described.is_empty() && self.described.len() == parameters.len() {
            return self.described.iter().cloned().map(Some).collect();
        }
        parameter_types(parameters)
    }

    pub(super) fn read_options(&self) -> ReadOptions {
        let consistency = match self.setting("consistency").as_deref() {
            Some("strict") => Consistency::Strict,
            Some("eventual") => Consistency::Eventual,
            _ => Consistency::Snapshot,
        };
        ReadOptions {
            consistency,
            wait_timeout: std::time::Duration::from_millis(self.setting_ms("read_wait_timeout")),
            at_now_us: self.server.clock.now_us(),
            durable: self.setting("read_durable").as_deref() == Some("on"),
        }
    }

    pub(super) async fn query(
        &mut self,
        parsed: &Parsed,
        query: &ast::Query,
        parameters: Vec<ScalarValue>,
    ) -> Result<Outcome, Report> {
        let types = self.bound_types(&parameters);
        let plan = self.plan_query(&parsed.text, query, types)?;
        let (columns, stream) = self.run_query(plan, parameters).await?;
        Ok(Outcome::Rows {
            columns,
            stream,
            tag: RowTag::Select,
        })
    }

    /// Reads a planned query at one epoch.
    pub(super) async fn run_query(
        &mut self,
        plan: QueryPlan,
        parameters: Vec<ScalarValue>,
    ) -> Result<
        (
            Vec<thalweg_planner::OutputColumn>,
            SendableRecordBatchStream,
        ),
        Report,
    > {
        let bound = self
            .server
            .planner
            .bind_parameters(plan.plan, &parameters)
            .map_err(|error| error.report())?;
        self.transaction.check_uses(&plan.reads)?;
        let options = self.read_options();
        let engine = self.server.engine.clone();
        let read = engine
            .read(
                &bound,
                &plan.reads,
                &mut self.floor,
                &options,
                self.transaction.rows(),
            )
            .await
            .map_err(|error| self.named(&error))?;
        Ok((plan.output, read.stream))
    }

    pub(super) async fn write(
        &mut self,
        parsed: &Parsed,
        parameters: Vec<ScalarValue>,
    ) -> Result<Outcome, Report> {
        let verb = match &parsed.statement {
            Statement::Insert(_) => "INSERT",
            Statement::Update(_) => "UPDATE",
            _ => "DELETE",
        };
        self.transaction.note_write(verb)?;
        let scope = self.reading_scope(&parsed.text, self.bound_types(&parameters));
        let now = Some(self.server.clock.now_us());
        let plan = self.plan_dml(&parsed.statement, &scope, now)?;
        let plan = self
            .server
            .planner
            .bind_dml_parameters(plan, &parameters)
            .map_err(|error| error.report())?;
        self.run_write(&plan, verb).await
    }

    /// The engine knows a relation that another session dropped by its OID only.
    pub(super) fn named(&self, error: &EngineError) -> Report {
        let mut report = error.report();
        if let EngineError::Unknown(oid) = error {
            report.detail = Some("Another session dropped it.".into());
            if let Some(relation) = self.catalog().relation(*oid) {
                report.message = format!("relation \"{}\" does not exist", relation.name);
            }
        }
        report
    }

    /// Runs a bound data statement: staged in a block, acknowledged durably outside of one.
    pub(super) async fn run_write(
        &mut self,
        plan: &DmlPlan,
        verb: &str,
    ) -> Result<Outcome, Report> {
        let (DmlPlan::Insert { reads, table, .. }
        | DmlPlan::Update { reads, table, .. }
        | DmlPlan::Delete { reads, table, .. }) = plan;
        self.transaction.check_uses(reads)?;
        self.transaction.check_uses(&[*table])?;
        let options = self.read_options();
        let engine = self.server.engine.clone();
        let written = engine
            .write(plan, &mut self.floor, &options, self.transaction.rows_mut())
            .await
            .map_err(|error| self.named(&error))?;
        let tag = if verb == "INSERT" {
            format!("INSERT 0 {}", written.rows)
        } else {
            format!("{verb} {}", written.rows)
        };
        match (returning(plan), written.returning) {
            (Some(Returning { output, .. }), Some(batches)) => Ok(Outcome::Rows {
                columns: output.clone(),
                stream: rows::stream(output, batches),
                tag: RowTag::Fixed(tag),
            }),
            _ => Ok(Outcome::Command { tag }),
        }
    }
}

fn returning(plan: &DmlPlan) -> Option<&Returning> {
    let (DmlPlan::Insert { returning, .. }
    | DmlPlan::Update { returning, .. }
    | DmlPlan::Delete { returning, .. }) = plan;
    returning.as_ref()
}

/// Types of bound parameters as their values tell them.
fn parameter_types(parameters: &[ScalarValue]) -> Vec<Option<SqlType>> {
    parameters
        .iter()
        .map(|value| match SqlType::from_arrow(&value.data_type()) {
            SqlType::Unknown => None,
            ty => Some(ty),
        })
        .collect()
}
