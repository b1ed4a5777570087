//! Reads a source for one query: from its stored start, or a place behind it, to the ends it had when the query began.
//!
//! Invariant: every scan of the query has the same bounds; the rows are streamed, not kept, and a reader that makes no progress
//! ends with an error instead of waiting for ever.

use std::sync::Arc;
use std::time::Duration;

use datafusion::arrow::datatypes::SchemaRef;
use datafusion::catalog::TableProvider;
use datafusion::catalog::streaming::StreamingTable;
use datafusion::error::DataFusionError;
use datafusion::execution::TaskContext;
use datafusion::physical_plan::SendableRecordBatchStream;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::streaming::PartitionStream;
use thalweg_connectors::{ColumnsRead, Offsets};

use crate::config::STACK_BYTES;
use crate::error::EngineError;
use crate::scan::{Patience, Scan};
use crate::shared::Shared;
use crate::source::Source;

const POLL_ROWS: usize = 8_192;
const QUEUE: usize = 2;

/// A source between some offsets.
#[derive(Debug)]
pub(crate) struct BoundedSource {
    shared: Arc<Shared>,
    source: Arc<Source>,
    starts: Offsets,
    ends: Offsets,
    patience: Duration,
    schema: SchemaRef,
}

/// Where the source ends now.
pub(crate) async fn ends_now(shared: &Shared, source: &Source) -> Result<Offsets, EngineError> {
    let connector = Arc::clone(&source.connector);
    let ends = shared
        .wires
        .spawn(async move { connector.end_offsets().await });
    let ends = ends.await.map_err(EngineError::internal)?;
    Ok(ends.map_err(|error| error.report())?)
}

/// The source as a table that begins at `starts` and ends at `ends`.
pub(crate) fn between(
    shared: &Arc<Shared>,
    source: &Arc<Source>,
    (starts, ends): (Offsets, Offsets),
    patience: Duration,
) -> Result<Arc<dyn TableProvider>, EngineError> {
    let schema = source.history.schema();
    let bounded = BoundedSource {
        shared: Arc::clone(shared),
        source: Arc::clone(source),
        starts,
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
        let (shared, source) = (Arc::clone(&self.shared), Arc::clone(&self.source));
        let (starts, ends) = (self.starts.clone(), self.ends.clone());
        let patience = Patience::Limited(self.patience);
        let spawned = std::thread::Builder::new()
            .name("thalweg-scan".into())
            .stack_size(STACK_BYTES)
            .spawn(move || {
                let scan = Scan::new(&shared, &source, &starts, &ends, &ColumnsRead::all());
                let over = || send.is_closed();
                let mut take = |rows| Ok(send.blocking_send(Ok(rows)).is_ok());
                if let Err(error) = scan.run(POLL_ROWS, &patience, &over, &mut take) {
                    let _ = send.blocking_send(Err(external(error)));
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

/// Reports pass through DataFusion as they are.
fn external(error: EngineError) -> DataFusionError {
    DataFusionError::External(Box::new(error.report()))
}
