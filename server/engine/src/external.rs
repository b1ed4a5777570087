//! Tables that an outside system keeps: read there when a query runs, written there by statements.
//!
//! Invariant: nothing of their rows is kept here. A query that reads one sees it as it is then, whatever epoch the rest of the
//! query is of; a statement that fails may have written some of its rows, and says that it failed.

use std::sync::Arc;

use datafusion::arrow::compute::concat_batches;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::arrow::record_batch::RecordBatch;
use datafusion::catalog::TableProvider;
use thalweg_catalog::{ConnectorSpec, Oid, Relation, Report};
use thalweg_connectors::{ConnectorContext, HbaseCommitter, HbaseSink, HbaseTable, MessageSink};
use thalweg_planner::{Conflict, DmlPlan};
use tokio::runtime::Handle;

use crate::batch::{conform, joined};
use crate::committing::Open;
use crate::error::EngineError;
use crate::shared::Shared;

mod condition;
mod lookup;
mod scan;

pub(crate) use scan::{as_of_now, explain, wished};

/// A declared table, with its connection.
#[derive(Debug)]
pub(crate) struct External {
    name: String,
    schema: SchemaRef,
    /// Columns of its key.
    pub(crate) key: Vec<usize>,
    pub(crate) table: Arc<HbaseTable>,
    /// Where connections live.
    pub(crate) wires: Handle,
}

impl External {
    /// Contacts nobody.
    pub(crate) fn open(
        shared: &Shared,
        relation: &Relation,
        spec: &ConnectorSpec,
    ) -> Result<Arc<Self>, EngineError> {
        let context = shared.connector_context();
        let key = relation.key_positions();
        let table = HbaseTable::new(&relation.columns, &key, &spec.options, &context);
        let table = table.map_err(|error| error.report())?;
        Ok(Arc::new(Self {
            name: relation.name.clone(),
            schema: table.schema(),
            key,
            table: Arc::new(table),
            wires: shared.wires.clone(),
        }))
    }

    /// The table for a query.
    pub(crate) fn provider(self: &Arc<Self>) -> Arc<dyn TableProvider> {
        scan::provider(self)
    }

    /// What a sink into the table writes to, when it may deliver a row more than once.
    pub(crate) fn sink(&self) -> Result<Box<dyn MessageSink>, EngineError> {
        let sink = HbaseSink::new(Arc::clone(&self.table));
        Ok(Box::new(sink.map_err(|error| error.report())?))
    }

    /// Opens writers that commit what checkpoints stage for a sink into the table.
    pub(crate) fn committer(&self, sink: Oid, context: ConnectorContext) -> Open {
        let table = Arc::clone(&self.table);
        // Between two writers, and before the first, the sink is there all the same.
        let place = table.sink_place(sink.0);
        Box::new(move || {
            let _held = &place;
            let table = Arc::clone(&table);
            Ok(Box::new(HbaseCommitter::new(table, sink.0, &context)))
        })
    }

    /// 0A000 for what such tables do not take.
    pub(crate) fn refuses(&self, what: &str) -> Report {
        Report {
            sqlstate: "0A000",
            message: format!("{what} on HBase table \"{}\" are not supported", self.name),
            detail: None,
            hint: Some("INSERT overwrites the row of a key that exists; UPDATE and DELETE take any condition.".into()),
            position: None,
        }
    }

    /// Writes what a statement computed; returns how many rows it was.
    pub(crate) async fn write(
        &self,
        plan: &DmlPlan,
        rows: &[RecordBatch],
    ) -> Result<u64, EngineError> {
        let (returning, conflict) = match plan {
            DmlPlan::Insert {
                returning,
                conflict,
                ..
            } => (returning, !matches!(conflict, Conflict::Error)),
            DmlPlan::Update { returning, .. } | DmlPlan::Delete { returning, .. } => {
                (returning, false)
            }
        };
        if conflict {
            return Err(self.refuses("ON CONFLICT clauses").into());
        }
        if returning.is_some() {
            return Err(self.refuses("RETURNING clauses").into());
        }
        let columns = self.schema.fields().len();
        let part = |start: usize| -> Result<RecordBatch, EngineError> {
            let wanted: Vec<usize> = (start..start + columns).collect();
            let parts: Result<Vec<RecordBatch>, EngineError> = rows
                .iter()
                .map(|batch| self.table_rows(&batch.project(&wanted)?))
                .collect();
            Ok(concat_batches(&self.schema, &parts?)?)
        };
        let table = Arc::clone(&self.table);
        let written = match plan {
            DmlPlan::Insert { .. } => {
                let new = part(0)?;
                self.refuse_stamps(&new, None)?;
                self.wires.spawn(async move { table.update(&new).await })
            }
            DmlPlan::Update { .. } => {
                let (old, new) = (part(0)?, part(columns)?);
                self.refuse_stamps(&new, Some(&old))?;
                let replaced = async move { table.replace(&old, &new).await };
                self.wires.spawn(replaced)
            }
            DmlPlan::Delete { .. } => {
                let old = part(0)?;
                self.wires.spawn(async move { table.delete(&old).await })
            }
        };
        let written = joined(written.await)?.map_err(|error| error.report())?;
        match written.first_refused() {
            Some(refused) => {
                let error = thalweg_connectors::ConnectorError::Hbase(refused.error.clone());
                Err(error.report().into())
            }
            None => Ok(rows.iter().map(|batch| batch.num_rows() as u64).sum()),
        }
    }

    /// 428C9 when new rows say when they were written, and the old ones do not say the same.
    fn refuse_stamps(
        &self,
        rows: &RecordBatch,
        old: Option<&RecordBatch>,
    ) -> Result<(), EngineError> {
        let stamp = self.table.stamp_column();
        let given = stamp.filter(|at| match (rows.columns().get(*at), old) {
            (Some(new), None) => new.logical_null_count() < new.len(),
            (Some(new), Some(old)) => old.columns().get(*at) != Some(new),
            (None, _) => false,
        });
        let Some(field) = given.and_then(|at| self.schema.fields().get(at)) else {
            return Ok(());
        };
        Err(Report {
            detail: Some("HBase says there when the newest cell of a row was written.".into()),
            hint: Some("Leave the column out of the statement.".into()),
            ..Report::new("428C9", format!("cannot write column \"{}\"", field.name()))
        }
        .into())
    }

    /// The batch in the table's own fields, or 23502.
    fn table_rows(&self, batch: &RecordBatch) -> Result<RecordBatch, EngineError> {
        for (field, column) in self.schema.fields().iter().zip(batch.columns()) {
            if !field.is_nullable() && column.logical_null_count() > 0 {
                return Err(EngineError::from(Report {
                    sqlstate: "23502",
                    message: format!(
                        "null value in column \"{}\" of relation \"{}\" violates not-null constraint",
                        field.name(),
                        self.name
                    ),
                    detail: None,
                    hint: None,
                    position: None,
                }));
            }
        }
        conform(batch, &self.schema)
    }
}
