//! Reads a source for one query: from its stored start to the ends it had when the query began.
//!
//! Invariant: every scan of the query has the same bounds; the rows are streamed, not kept, and a reader that makes no progress
//! ends with an error instead of waiting for ever.

use std::sync::Arc;
use std::time::{Duration, Instant};

use datafusion::arrow::array::BooleanArray;
use datafusion::arrow::compute::filter_record_batch;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::arrow::record_batch::RecordBatch;
use datafusion::catalog::TableProvider;
use datafusion::catalog::streaming::StreamingTable;
use datafusion::error::{DataFusionError, Result as DataFusionResult};
use datafusion::execution::TaskContext;
use datafusion::physical_plan::SendableRecordBatchStream;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::streaming::PartitionStream;
use thalweg_connectors::{Budget, Offsets, SourceBatch, SourceHealth};
use tokio::sync::mpsc::Sender;

use crate::error::EngineError;
use crate::shared::Shared;
use crate::source::{OnError, Source, reached};

const POLL: Duration = Duration::from_millis(100);
const POLL_ROWS: usize = 8_192;
const POLL_BYTES: usize = 4 << 20;
const QUEUE: usize = 2;

/// A source between two sets of offsets.
#[derive(Debug)]
pub(crate) struct BoundedSource {
    shared: Arc<Shared>,
    source: Arc<Source>,
    ends: Offsets,
    patience: Duration,
    schema: SchemaRef,
}

/// The source as a table that ends where it ends now.
pub(crate) async fn bounded(
    shared: &Arc<Shared>,
    source: &Arc<Source>,
    patience: Duration,
) -> Result<Arc<dyn TableProvider>, EngineError> {
    let connector = Arc::clone(&source.connector);
    let ends = shared
        .wires
        .spawn(async move { connector.end_offsets().await });
    let ends = ends
        .await
        .map_err(EngineError::internal)?
        .map_err(|error| error.report())?;
    let schema = source.history.schema();
    let bounded = BoundedSource {
        shared: Arc::clone(shared),
        source: Arc::clone(source),
        ends,
        patience,
        schema: Arc::clone(&schema),
    };
    Ok(Arc::new(StreamingTable::try_new(
        schema,
        vec![Arc::new(bounded)],
    )?))
}

impl PartitionStream for BoundedSource {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, _task: Arc<TaskContext>) -> SendableRecordBatchStream {
        let (send, mut queue) = tokio::sync::mpsc::channel(QUEUE);
        let read = Read {
            shared: Arc::clone(&self.shared),
            source: Arc::clone(&self.source),
            ends: self.ends.clone(),
            patience: self.patience,
        };
        let spawned = std::thread::Builder::new()
            .name("thalweg-scan".into())
            .spawn(move || {
                if let Err(error) = read.run(&send) {
                    let _ = send.blocking_send(Err(error));
                }
            });
        let mut failed = spawned
            .err()
            .map(|error| Err(DataFusionError::IoError(error)));
        let rows = futures::stream::poll_fn(move |cx| match failed.take() {
            Some(error) => std::task::Poll::Ready(Some(error)),
            None => queue.poll_recv(cx),
        });
        Box::pin(RecordBatchStreamAdapter::new(
            Arc::clone(&self.schema),
            rows,
        ))
    }
}

struct Read {
    shared: Arc<Shared>,
    source: Arc<Source>,
    ends: Offsets,
    patience: Duration,
}

impl Read {
    fn run(&self, rows: &Sender<DataFusionResult<RecordBatch>>) -> DataFusionResult<()> {
        let start = &self.source.start;
        let mut at = start.clone();
        if reached(&at, &self.ends, start) {
            return Ok(());
        }
        let mut reader = self
            .source
            .connector
            .open(&at)
            .map_err(|error| external(error.report()))?;
        let mut last_progress = Instant::now();
        while !reached(&at, &self.ends, start) && !rows.is_closed() && !self.shared.is_stopping() {
            let left: u64 = self
                .ends
                .iter()
                .map(|(split, end)| end.saturating_sub(at.get(split).copied().unwrap_or(0)))
                .fold(0, u64::saturating_add);
            let budget = Budget {
                rows: POLL_ROWS.min(left as usize).max(1),
                bytes: POLL_BYTES,
                time: POLL,
            };
            let batch = reader
                .poll(budget)
                .map_err(|error| external(error.report()))?;
            let batch = cut(batch, &self.ends)?;
            if !batch.offsets.is_empty() {
                last_progress = Instant::now();
            } else if last_progress.elapsed() >= self.patience {
                let health = reader.health();
                let detail = match health {
                    SourceHealth::Degraded(detail) => detail,
                    SourceHealth::Running => "No records arrived in time.".to_string(),
                };
                let message = format!("could not read {} to its end", self.source.history.label());
                return Err(external(EngineError::statement(
                    "08001",
                    message,
                    Some(detail),
                )));
            }
            let shaped = self
                .source
                .shape
                .apply(&batch, self.shared.clock.now_us())
                .map_err(external)?;
            if let Some(reason) = shaped.failure {
                return Err(external(EngineError::statement("23514", reason, None)));
            }
            at.extend(batch.offsets);
            let mut dead = batch.dead;
            dead.extend(shaped.dead);
            if let Some(first) = dead.first() {
                match self.source.on_error {
                    OnError::Ignore => {}
                    OnError::DeadLetter => drop(self.shared.inbox.dead(self.source.oid, dead)),
                    OnError::Fail => {
                        let message = format!("{}: {}", self.source.history.label(), first.message);
                        let detail = format!(
                            "{} partition {} offset {}",
                            first.topic, first.partition, first.offset
                        );
                        return Err(external(EngineError::statement(
                            "22000",
                            message,
                            Some(detail),
                        )));
                    }
                }
            }
            if shaped.rows.num_rows() > 0 && rows.blocking_send(Ok(shaped.rows)).is_err() {
                return Ok(());
            }
        }
        Ok(())
    }
}

/// What lies before the ends: while one split catches up, others go on delivering.
fn cut(mut batch: SourceBatch, ends: &Offsets) -> DataFusionResult<SourceBatch> {
    let inside = |split: String, offset: i64| {
        ends.get(&split)
            .is_some_and(|end| u64::try_from(offset).is_ok_and(|offset| offset < *end))
    };
    let keep: Vec<bool> = batch
        .places
        .iter()
        .map(|place| inside(batch.split(*place), place.offset))
        .collect();
    if keep.iter().any(|keep| !keep) {
        let mut kept = keep.iter();
        batch.places.retain(|_| kept.next() == Some(&true));
        batch.rows = filter_record_batch(&batch.rows, &BooleanArray::from(keep))?;
    }
    let mut dead = std::mem::take(&mut batch.dead);
    dead.retain(|letter| inside(batch.split_of(letter), letter.offset));
    batch.dead = dead;
    Ok(batch)
}

/// Reports pass through DataFusion as they are.
fn external(error: impl Into<EngineError>) -> DataFusionError {
    DataFusionError::External(Box::new(error.into().report()))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use datafusion::arrow::array::{AsArray, Int64Array};
    use datafusion::arrow::datatypes::{DataType, Field, Int64Type, Schema};
    use thalweg_connectors::RowPlace;

    use super::*;

    /// A busy split that runs ahead adds nothing beyond its end, and a split that came later adds nothing at all.
    #[test]
    fn a_scan_ends_at_the_end_of_each_split() {
        let schema = Arc::new(Schema::new(vec![Field::new("v", DataType::Int64, false)]));
        let places: Vec<RowPlace> = [(1, 7), (0, 2), (1, 8), (2, 0), (0, 3), (1, 9)]
            .map(|(partition, offset)| RowPlace { partition, offset })
            .to_vec();
        let values = Int64Array::from_iter_values(0..6);
        let batch = SourceBatch {
            rows: RecordBatch::try_new(schema, vec![Arc::new(values)]).expect("one column"),
            places,
            names: Default::default(),
            dead: Vec::new(),
            offsets: Offsets::new(),
            records: 6,
            skipped: 0,
        };
        let ends = Offsets::from([("0".into(), 3), ("1".into(), 9)]);
        let cut = cut(batch, &ends).expect("cuts");
        let values = cut.rows.column(0).as_primitive::<Int64Type>().values();
        assert_eq!(values.to_vec(), [0, 1, 2]);
        assert_eq!(cut.places.len(), 3);
    }
}
