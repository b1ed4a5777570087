//! SUBSCRIBE as rows: the engine's events with their epoch, their progress marks and their signed counts.
//!
//! Invariant: `_ts` never goes back; a row with `_progressed` says that nothing below its `_ts` will follow, and its `_ts` is
//! what `AFTER` continues from. Without PROGRESS only rows of data are sent.

use std::sync::Arc;
use std::time::Duration;

use datafusion::arrow::array::{
    ArrayRef, BooleanArray, Int64Array, RecordBatchOptions, new_null_array,
};
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::arrow::record_batch::RecordBatch;
use datafusion::common::DataFusionError;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use futures::stream;
use thalweg_catalog::{RelationKind, SqlType};
use thalweg_connectors::Delta;
use thalweg_engine::{FollowEvent, FollowFrom, FollowOptions, Followed, Subscription};
use thalweg_planner::OutputColumn;
use thalweg_sql::{Report, Subscribe, SubscribeInput, SubscribeStart, ast};

use super::ddl::select_all;
use super::rows;
use super::session::Session;

/// What a subscription reads, before it is opened.
struct Target {
    followed: Followed,
    columns: Vec<OutputColumn>,
}

impl Session {
    /// Columns of a SUBSCRIBE.
    pub(super) fn subscribe_columns(
        &self,
        text: &str,
        subscribe: &Subscribe,
    ) -> Result<Vec<OutputColumn>, Report> {
        let target = self.target(text, subscribe)?;
        Ok(columns(subscribe, target.columns))
    }

    /// Opens a subscription; returns when its first epoch is known.
    pub(super) async fn open_subscription(
        &mut self,
        text: &str,
        subscribe: &Subscribe,
    ) -> Result<(Vec<OutputColumn>, SendableRecordBatchStream), Report> {
        self.transaction.check_no_writes("SUBSCRIBE")?;
        let heartbeat = heartbeat(subscribe)?;
        let target = self.target(text, subscribe)?;
        let reads = match &target.followed {
            Followed::Relation(oid) => vec![*oid],
            Followed::Query(plan) => plan.reads.clone(),
        };
        self.transaction.check_uses(&reads)?;
        let options = FollowOptions {
            snapshot: subscribe.snapshot,
            from: match subscribe.start {
                SubscribeStart::Now => FollowFrom::Now,
                SubscribeStart::AsOf(epoch) => FollowFrom::AsOf(epoch),
                SubscribeStart::After(mark) => FollowFrom::After(mark),
            },
            up_to: subscribe.up_to,
        };
        let engine = self.server.engine.clone();
        let subscription = engine
            .subscribe(target.followed, options, &mut self.floor)
            .await
            .map_err(|error| self.named(&error))?;
        let columns = columns(subscribe, target.columns);
        let schema = rows::schema(&columns);
        let state = State {
            subscription,
            schema: Arc::clone(&schema),
            progress: subscribe.progress,
            heartbeat,
            mark: 0,
            ready: Vec::new(),
        };
        let rows = stream::unfold(Some(state), |state| async move {
            let mut state = state?;
            match state.next().await {
                Ok(Some(batch)) => Some((Ok(batch), Some(state))),
                Ok(None) => None,
                Err(report) => Some((Err(DataFusionError::External(Box::new(report))), None)),
            }
        });
        let stream = Box::pin(RecordBatchStreamAdapter::new(schema, rows));
        Ok((columns, stream))
    }

    fn target(&self, text: &str, subscribe: &Subscribe) -> Result<Target, Report> {
        let query = match &subscribe.input {
            SubscribeInput::Query(query) => return self.query_target(text, query),
            SubscribeInput::Relation(name) => name,
        };
        let catalog = self.catalog();
        let relation = catalog
            .resolve(&self.search_path(), query)
            .map_err(|error| error.report())?;
        match relation.kind {
            RelationKind::Table
            | RelationKind::Errors { .. }
            | RelationKind::MaterializedView { .. } => {
                let columns = relation.columns.iter().map(|column| OutputColumn {
                    name: column.name.clone(),
                    ty: column.ty.clone(),
                    origin: Some((relation.oid, column.attnum)),
                });
                Ok(Target {
                    followed: Followed::Relation(relation.oid),
                    columns: columns.collect(),
                })
            }
            // These keep no rows of their own.
            RelationKind::Source(_)
            | RelationKind::External(_)
            | RelationKind::Archive(_)
            | RelationKind::View { .. } => self.query_target(text, select_all(query)?.as_ref()),
            RelationKind::Sink(_) => Err(Report {
                sqlstate: "42809",
                message: format!("\"{}\" is a sink, which has no rows", relation.name),
                detail: None,
                hint: Some("Subscribe to what the sink reads.".into()),
                position: None,
            }),
        }
    }

    fn query_target(&self, text: &str, query: &ast::Query) -> Result<Target, Report> {
        let scope = self.scope(text, Vec::new());
        let plan = self.plan_continuous(&scope, query, &[])?;
        if !plan.lookups.is_empty() {
            return Err(super::session::unsupported(
                "SUBSCRIBE to a lookup join",
                "Make a materialized view of it, and subscribe to that: what a row has found stays with the view.",
            ));
        }
        Ok(Target {
            columns: plan.output.clone(),
            followed: Followed::Query(Box::new(plan)),
        })
    }
}

fn heartbeat(subscribe: &Subscribe) -> Result<Option<Duration>, Report> {
    let Some(text) = &subscribe.heartbeat else {
        return Ok(None);
    };
    let wrong = |message: String, hint: &str| Report {
        sqlstate: "22023",
        message,
        detail: None,
        hint: Some(hint.into()),
        position: None,
    };
    if !subscribe.progress {
        return Err(wrong(
            "HEARTBEAT needs PROGRESS".into(),
            "A heartbeat is a progress row: add PROGRESS = true.",
        ));
    }
    match super::settings::duration_ms(text) {
        Some(ms) if ms > 0 => Ok(Some(Duration::from_millis(ms))),
        _ => Err(wrong(
            format!("invalid HEARTBEAT: \"{text}\""),
            "Write a duration such as '5s'.",
        )),
    }
}

fn columns(subscribe: &Subscribe, data: Vec<OutputColumn>) -> Vec<OutputColumn> {
    let own = |name: &str, ty| OutputColumn {
        name: name.to_owned(),
        ty,
        origin: None,
    };
    let mut columns = vec![own("_ts", SqlType::Int8)];
    if subscribe.progress {
        columns.push(own("_progressed", SqlType::Bool));
    }
    columns.push(own("_diff", SqlType::Int8));
    columns.extend(data);
    columns
}

/// A subscription that is being sent.
struct State {
    subscription: Subscription,
    schema: SchemaRef,
    progress: bool,
    heartbeat: Option<Duration>,
    mark: u64,
    /// Batches that are to be sent next, the last one first.
    ready: Vec<RecordBatch>,
}

impl State {
    async fn next(&mut self) -> Result<Option<RecordBatch>, Report> {
        loop {
            if let Some(batch) = self.ready.pop() {
                return Ok(Some(batch));
            }
            let next = self.subscription.next();
            let event = match self.heartbeat {
                Some(pause) => match tokio::time::timeout(pause, next).await {
                    Ok(event) => event,
                    Err(_) => Ok(Some(FollowEvent::Progress(self.mark))),
                },
                None => next.await,
            };
            match event.map_err(|error| error.report())? {
                None => return Ok(None),
                Some(FollowEvent::Snapshot { epoch, rows }) => {
                    for batch in rows.into_iter().rev().filter(|batch| batch.num_rows() > 0) {
                        let weights = Int64Array::from_value(1, batch.num_rows());
                        let batch = self.data(epoch, weights, &batch)?;
                        self.ready.push(batch);
                    }
                }
                Some(FollowEvent::Changes { epoch, deltas }) => {
                    for delta in deltas.iter().rev() {
                        let batch = self.data(epoch, weights(delta), &delta.batch)?;
                        self.ready.push(batch);
                    }
                }
                Some(FollowEvent::Progress(mark)) => {
                    self.mark = mark;
                    if self.progress {
                        return Ok(Some(self.progress_row(mark)?));
                    }
                }
            }
        }
    }

    fn data(
        &self,
        epoch: u64,
        weights: Int64Array,
        rows: &RecordBatch,
    ) -> Result<RecordBatch, Report> {
        let count = rows.num_rows();
        let mut columns: Vec<ArrayRef> =
            vec![Arc::new(Int64Array::from_value(shown(epoch), count))];
        if self.progress {
            columns.push(Arc::new(BooleanArray::from(vec![false; count])));
        }
        columns.push(Arc::new(weights));
        columns.extend(rows.columns().iter().cloned());
        self.batch(columns, count)
    }

    fn progress_row(&self, mark: u64) -> Result<RecordBatch, Report> {
        let mut columns: Vec<ArrayRef> = vec![
            Arc::new(Int64Array::from(vec![shown(mark)])),
            Arc::new(BooleanArray::from(vec![true])),
        ];
        let rest = self.schema.fields().iter().skip(columns.len());
        columns.extend(rest.map(|field| new_null_array(field.data_type(), 1)));
        self.batch(columns, 1)
    }

    fn batch(&self, columns: Vec<ArrayRef>, count: usize) -> Result<RecordBatch, Report> {
        let options = RecordBatchOptions::new().with_row_count(Some(count));
        RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options)
            .map_err(|error| super::server::internal(error.to_string()))
    }
}

fn shown(epoch: u64) -> i64 {
    i64::try_from(epoch).unwrap_or(i64::MAX)
}

fn weights(delta: &Delta) -> Int64Array {
    (0..delta.num_rows())
        .map(|row| Some(delta.weights.at(row)))
        .collect()
}
