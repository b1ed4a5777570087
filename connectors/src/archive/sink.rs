//! An archive that a source or view fills: gathers deliveries, and commits them with how far they go.
//!
//! Invariant: the marker of a commit stands in the manifest that makes its rows visible, so nobody sees one without the other. A
//! commit that says where reading goes on holds every row before that place.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::UInt64Array;
use arrow::compute::take_record_batch;
use arrow::record_batch::RecordBatch;
use async_trait::async_trait;
use parking_lot::Mutex;

use super::error::ArchiveError;
use super::layout::internal;
use super::manifest::StoredMarker;
use super::table::ArchiveTable;
use super::writer::{Progress, Writer};
use crate::commit::{CommittingSink, Due, Marker, Staged};
use crate::delta::{Delta, Weights};
use crate::error::ConnectorError;
use crate::sink::Form;
use crate::source::Offsets;

/// Rows of one delivery that are told of when they are left out.
const TOLD_MAX: usize = 100;

/// The writing end of an archive, for deliveries.
#[derive(Debug)]
pub struct ArchiveSink {
    table: Arc<ArchiveTable>,
    /// Never locked: what encodes a file can be sent to another thread, and not be shared with one.
    writer: Mutex<Option<Writer>>,
    /// The newest of this writer's own commits.
    committed: Option<Marker>,
    gathered: Option<Gathered>,
    /// Why rows were left out.
    refused: Vec<ConnectorError>,
}

/// What is written and not committed.
#[derive(Debug)]
struct Gathered {
    marker: Marker,
    frontier: BTreeMap<String, Offsets>,
    since_us: i64,
}

impl ArchiveSink {
    /// A sink into this archive.
    pub fn new(table: Arc<ArchiveTable>) -> Self {
        Self {
            table,
            writer: Mutex::new(None),
            committed: None,
            gathered: None,
            refused: Vec::new(),
        }
    }

    /// Whether a file is full, many files wait, rows are old, or a partition gets no more of them. Rows of a delivery's first parts wait for the last, which is never far.
    fn is_ripe(&mut self) -> bool {
        let Some(gathered) = self.gathered.as_ref().filter(|all| all.marker.last) else {
            return false;
        };
        let age_us = self.table.now_us().saturating_sub(gathered.since_us);
        let age = Duration::from_micros(u64::try_from(age_us).unwrap_or(0));
        let now_us = self.table.now_us();
        let grace = i64::try_from(self.table.care().close_grace().as_micros()).unwrap_or(i64::MAX);
        self.writer.get_mut().as_ref().is_some_and(|writer| {
            let idle = writer.idle_since_us();
            let closes = idle.is_some_and(|since| since.saturating_add(grace) <= now_us);
            writer.is_full() || closes || age >= self.table.rollover()
        })
    }
}

#[async_trait]
impl CommittingSink for ArchiveSink {
    fn form(&self) -> Form {
        Form::Append
    }

    async fn check(&self) -> Result<(), ConnectorError> {
        Ok(self.table.check().await?)
    }

    async fn take_over(&mut self) -> Result<Option<Marker>, ConnectorError> {
        self.gathered = None;
        self.committed = None;
        self.table.care().gathers([]);
        if self.writer.get_mut().take().is_some() {
            // Whoever has this sink take over again wants it back from the one that may have shut it out.
            self.table.give_way();
        }
        let (writer, snapshot) = self.table.open_again().await?;
        *self.writer.get_mut() = Some(writer);
        let reached = self.table.delivered(&snapshot)?;
        Ok(reached.map(|reached| reached.marker))
    }

    async fn deliver(&mut self, staged: &Staged) -> Result<Option<Marker>, ConnectorError> {
        let Some(writer) = self.writer.get_mut() else {
            return Err(ConnectorError::Internal(
                "rows are delivered to an archive before it was taken over".into(),
            ));
        };
        let batches: Result<Vec<RecordBatch>, ArchiveError> =
            staged.changes.iter().map(insertions).collect();
        let now_us = self.table.now_us();
        let refused = writer.push(batches?, staged.marker.epoch, now_us).await?;
        let refused = refused.into_iter().take(TOLD_MAX);
        self.refused.extend(refused.map(ConnectorError::from));
        self.table.care().gathers(writer.partitions().cloned());
        let since_us = match &self.gathered {
            Some(gathered) => gathered.since_us,
            None => self.table.now_us(),
        };
        self.gathered = Some(Gathered {
            marker: staged.marker,
            // After some of the parts there is no place where reading could go on.
            frontier: match staged.marker.last {
                true => staged.frontier.clone(),
                false => BTreeMap::new(),
            },
            since_us,
        });
        self.commit(Due::IfRipe).await
    }

    async fn commit(&mut self, due: Due) -> Result<Option<Marker>, ConnectorError> {
        if due == Due::IfRipe && !self.is_ripe() {
            if let Some(writer) = self.writer.get_mut() {
                // Others may need room while no rows come here.
                writer.make_room().await?;
            }
            return Ok(self.committed);
        }
        let gathered = self.gathered.take();
        let Some((gathered, writer)) = gathered.zip(self.writer.get_mut().as_mut()) else {
            return Ok(self.committed);
        };
        let progress = Progress {
            marker: Some(StoredMarker::new(self.table.writer_name(), gathered.marker)),
            frontier: gathered.frontier,
            feed: self.table.feed().cloned(),
        };
        let manifest = self.table.commit_rows(writer, progress).await;
        let manifest = manifest.map_err(|failure| {
            if matches!(failure.error, ArchiveError::Fenced { .. }) {
                self.table.give_way();
            }
            failure.error
        })?;
        self.table.follow(manifest);
        self.table.care().gathers([]);
        self.committed = Some(gathered.marker);
        Ok(self.committed)
    }

    fn take_refused(&mut self) -> Vec<ConnectorError> {
        std::mem::take(&mut self.refused)
    }
}

/// The rows of a change, each as often as it was inserted.
fn insertions(delta: &Delta) -> Result<RecordBatch, ArchiveError> {
    if matches!(delta.weights, Weights::Ones) {
        return Ok(delta.batch.clone());
    }
    let mut rows = Vec::new();
    for row in 0..delta.num_rows() {
        let times = usize::try_from(delta.weights.at(row))
            .map_err(|_| internal("a deletion was delivered to an archive"))?;
        rows.extend(std::iter::repeat_n(row as u64, times));
    }
    take_record_batch(&delta.batch, &UInt64Array::from(rows)).map_err(internal)
}
