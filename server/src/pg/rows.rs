//! Sends the rows of a result at the client's pace.
//!
//! Invariant: at most one batch and one flush buffer of a result are held. Rows that are ready go out together; the moment
//! the query has none ready, what is buffered is flushed. A cancel, a timeout or a client that left ends it between two rows.

use bytes::BytesMut;
use datafusion::arrow::record_batch::RecordBatch;
use datafusion::common::DataFusionError;
use datafusion::execution::SendableRecordBatchStream;
use futures::StreamExt;
use futures::future::poll_immediate;
use thalweg_planner::{OutputColumn, Planner};

use super::connection::{Connection, Failure, contained};
use super::copy_out::CopyWriter;
use super::describe::visible;
use super::encode::{BatchEncoder, Column, Format, Zone};
use super::wire::Interrupts;
use crate::frontend::{Report, RowTag};

/// A result that is being sent, possibly over several Execute messages.
pub(super) struct Rows {
    columns: Vec<Column>,
    stream: SendableRecordBatchStream,
    tag: RowTag,
    /// For COPY, how a row is written instead of as DataRow.
    copy: Option<CopyWriter>,
    current: Option<(RecordBatch, usize)>,
}

/// How sending rows ended.
#[derive(Debug)]
pub(super) enum Sent {
    /// Every row is out.
    All {
        /// Command tag.
        tag: String,
    },
    /// The row limit was reached.
    Suspended,
}

impl Rows {
    pub(super) fn new(
        columns: &[OutputColumn],
        formats: Vec<Format>,
        stream: SendableRecordBatchStream,
        tag: RowTag,
    ) -> Self {
        let columns = columns
            .iter()
            .zip(formats)
            .map(|(column, format)| Column {
                ty: visible(&column.ty).clone(),
                format,
            })
            .collect();
        Self {
            columns,
            stream,
            tag,
            copy: None,
            current: None,
        }
    }

    /// The rows of COPY TO STDOUT.
    pub(super) fn copied(
        columns: &[OutputColumn],
        stream: SendableRecordBatchStream,
        writer: CopyWriter,
    ) -> Self {
        let formats = vec![writer.format(); columns.len()];
        let mut rows = Self::new(columns, formats, stream, RowTag::Counted("COPY"));
        rows.copy = Some(writer);
        rows
    }
}

impl Connection<'_> {
    /// Sends rows until the result or `limit` ends.
    pub(super) async fn send_rows(
        &mut self,
        rows: &mut Rows,
        limit: Option<u64>,
        interrupts: &Interrupts,
    ) -> Result<Sent, Failure> {
        let zone = Zone::named(self.backend.setting("TimeZone").as_deref().unwrap_or("UTC"));
        // A client that asked for portions gets what there is of an endless result.
        let early = self.backend.setting("portal_early_suspend").as_deref() == Some("on");
        let mut sent = 0;
        loop {
            if let Some(interrupt) = interrupts.pending(self.input).await {
                return Err(interrupt.into());
            }
            if let Some((batch, next)) = &mut rows.current {
                let encoder = BatchEncoder::new(&rows.columns, batch, &zone)?;
                while *next < batch.num_rows() {
                    if limit == Some(sent) {
                        return Ok(Sent::Suspended);
                    }
                    put_row(rows.copy.as_mut(), &encoder, *next, &mut self.output.buffer)?;
                    *next += 1;
                    sent += 1;
                    if self.output.buffer.len() > self.limits.flush_bytes {
                        interrupts.guard(self.input, self.output.flush()).await??;
                    }
                }
                rows.current = None;
            }
            if limit == Some(sent) {
                return Ok(Sent::Suspended);
            }
            if sent > 0 && limit.is_some() && early {
                match poll_immediate(contained(rows.stream.next())).await {
                    Some(next) => rows.current = batch(next?)?.map(|batch| (batch, 0)),
                    None => return Ok(Sent::Suspended),
                }
                if rows.current.is_some() {
                    continue;
                }
                return Ok(Sent::All {
                    tag: rows.tag.finish(sent),
                });
            }
            match self.next_batch(rows, interrupts).await? {
                Some(batch) => rows.current = Some((batch, 0)),
                None => {
                    return Ok(Sent::All {
                        tag: rows.tag.finish(sent),
                    });
                }
            }
        }
    }

    async fn next_batch(
        &mut self,
        rows: &mut Rows,
        interrupts: &Interrupts,
    ) -> Result<Option<RecordBatch>, Failure> {
        let next = match poll_immediate(contained(rows.stream.next())).await {
            Some(next) => next?,
            None => {
                interrupts.guard(self.input, self.output.flush()).await??;
                interrupts
                    .guard(self.input, contained(rows.stream.next()))
                    .await??
            }
        };
        Ok(batch(next)?)
    }
}

fn batch(
    next: Option<Result<RecordBatch, DataFusionError>>,
) -> Result<Option<RecordBatch>, Report> {
    next.transpose().map_err(|error| Planner::classify(&error))
}

/// Appends one row; a value that cannot be sent leaves nothing behind.
fn put_row(
    copy: Option<&mut CopyWriter>,
    encoder: &BatchEncoder<'_>,
    row: usize,
    out: &mut BytesMut,
) -> Result<(), Report> {
    let start = out.len();
    let done = match copy {
        Some(copy) => copy.put_row(encoder, row, out),
        None => encoder.data_row(row, out),
    };
    if done.is_err() {
        out.truncate(start);
    }
    done
}
