//! Delivers what checkpoints have staged to an outside system that commits it: one task per sink, which waits and fails alone.
//!
//! Invariant: entries are handed over in order, each part once per writer; what counts as delivered is what the outside system
//! says it has committed, never what was sent. After an error the writer is dropped, and the next one asks.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use thalweg_catalog::{Relation, Report};
use thalweg_connectors::{
    AnySink, CommittingSink, ConnectorContext, ConnectorError, Delta, Due, Marker, Staged,
};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::error::EngineError;
use crate::job::Job;
use crate::shared::{Shared, Stored};
use crate::sink_log::{Entry, SinkLog, Verdict};
use crate::sinks::{is_over, note_failure, over, record_refused};

/// How often a sink that gathers is asked whether it is time to commit.
const COMMIT_CHECK: Duration = Duration::from_secs(1);

/// Opens the writers of a sink, one after the other.
pub(crate) type Open =
    Box<dyn Fn() -> Result<Box<dyn CommittingSink>, EngineError> + Send + Sync + 'static>;

/// Opens writers by the sink's connector.
pub(crate) fn opener(relation: &Relation, context: ConnectorContext) -> Open {
    let relation = relation.clone();
    Box::new(move || {
        match thalweg_connectors::sink(&relation, &context).map_err(|error| error.report())? {
            AnySink::Committing(sink) => Ok(sink),
            _ => Err(EngineError::internal(format!(
                "sink \"{}\" does not commit",
                relation.name
            ))),
        }
    })
}

/// Runs until the sink is dropped or the engine stops.
pub(crate) async fn deliver(shared: Arc<Shared>, job: Arc<Job>, log: Arc<SinkLog>, open: Open) {
    let mut backoff = shared.config.backoff_min;
    while !is_over(&shared, &job) {
        let before = log.delivered_through();
        let writer = Writer {
            shared: &shared,
            job: &job,
            log: &log,
        };
        let ended = tokio::select! {
            ended = writer.run(&open) => ended,
            () = over(&shared, &job) => return,
        };
        let Err(error) = ended else { return };
        if log.delivered_through() > before {
            backoff = shared.config.backoff_min;
        }
        note_failure(&shared, &job, log.delivered_through(), &error);
        shared.bump();
        tokio::select! {
            () = tokio::time::sleep(backoff) => {}
            () = over(&shared, &job) => return,
        }
        backoff = (backoff * 2).min(shared.config.backoff_max);
    }
}

/// What the owner reads of a sink that another server writes as.
fn shut_out(sink: &Stored) -> Report {
    Report {
        detail: Some(
            match sink.kind {
                "archive" => "It runs on a copy of this data dir, or has an archive in the same folder. The one that took over last goes on.",
                _ => "It runs on a copy of this data dir. The one that was started last goes on.",
            }
            .into(),
        ),
        hint: Some(format!(
            "Stop the other server, then have this one go on: ALTER {} {} RESUME.",
            sink.kind.to_ascii_uppercase(),
            sink.name
        )),
        ..Report::new("55000", "another server delivers as this sink")
    }
}

/// One writer's life.
struct Writer<'a> {
    shared: &'a Arc<Shared>,
    job: &'a Arc<Job>,
    log: &'a Arc<SinkLog>,
}

impl Writer<'_> {
    /// Takes over and delivers until something fails.
    async fn run(&self, open: &Open) -> Result<(), EngineError> {
        if self.log.is_shut_out() && !self.log.is_accepted() {
            // Taking over would shut the other one out, which would then do the same.
            self.wait_for_resume(shut_out(&self.job.relation)).await?;
        }
        let mut sink = open()?;
        let outside = sink
            .take_over()
            .await
            .map_err(|error| self.failed(&error))?;
        loop {
            match self.log.take_over(outside) {
                Verdict::After(_) => break,
                verdict => {
                    let report = foreign(&self.job.relation, verdict);
                    self.wait_for_resume(report).await?;
                }
            }
        }
        *self.job.delivery_failure.lock() = None;
        self.reached();
        if self.log.is_wanted() {
            // Nothing could be staged until now.
            self.shared.checkpoints.ask();
        }
        let mut progress = self.shared.subscribe();
        let (mut handed, mut asked) = (None, None);
        loop {
            while let Some((entry, from)) = self.next(handed) {
                handed = self
                    .hand_over(sink.as_mut(), entry, from)
                    .await?
                    .max(handed);
            }
            let needed = self.log.needs_record();
            if needed > asked {
                asked = needed;
                self.shared.checkpoints.ask();
            }
            // The job is held while the log is full: what waits for a commit is all that could empty it.
            let due = match self.log.is_wanted() || self.log.is_full() {
                true => Due::Now,
                false => Due::IfRipe,
            };
            if !self.job.is_paused() {
                let committed = sink
                    .commit(due)
                    .await
                    .map_err(|error| self.failed(&error))?;
                self.committed(committed);
            }
            tokio::select! {
                changed = progress.changed() => if changed.is_err() { return Ok(()) },
                () = tokio::time::sleep(COMMIT_CHECK) => {}
            }
        }
    }

    /// What is to be handed over now.
    fn next(&self, handed: Option<Marker>) -> Option<(Entry, u32)> {
        let paused = self.job.is_paused();
        self.log.next(handed).filter(|_| !paused)
    }

    /// Hands one entry over; the marker of the last part that was.
    async fn hand_over(
        &self,
        sink: &mut dyn CommittingSink,
        entry: Entry,
        from: u32,
    ) -> Result<Option<Marker>, EngineError> {
        let (mut parts, reading) = self.read(entry, from);
        let mut handed = None;
        while let Some(staged) = parts.recv().await {
            let committed = sink.deliver(&staged).await;
            let rows = staged.changes.iter().map(Delta::num_rows).sum::<usize>();
            let refused = sink.take_refused();
            record_refused(self.shared, self.job, staged.marker.epoch, refused);
            let committed = committed.map_err(|error| self.failed(&error))?;
            self.committed(committed);
            let rows_delivered = &self.job.rows_delivered;
            rows_delivered.fetch_add(rows as u64, Ordering::SeqCst);
            handed = Some(staged.marker);
        }
        crate::batch::joined(reading.await)??;
        Ok(handed)
    }

    /// What a call of the sink failed with; who was shut out by it stays out.
    fn failed(&self, error: &ConnectorError) -> EngineError {
        if error.shuts_out() {
            self.log.shut_out();
            self.shared.checkpoints.ask();
        }
        error.report().into()
    }

    /// Reads an entry on a thread that may block, a part ahead of its delivery.
    fn read(
        &self,
        entry: Entry,
        from: u32,
    ) -> (mpsc::Receiver<Staged>, JoinHandle<Result<(), EngineError>>) {
        let (give, parts) = mpsc::channel(1);
        let (shared, log) = (Arc::clone(self.shared), Arc::clone(self.log));
        let reading = tokio::task::spawn_blocking(move || {
            log.read(&shared, &entry, from, &mut |staged| {
                give.blocking_send(staged).is_ok()
            })
        });
        (parts, reading)
    }

    fn committed(&self, marker: Option<Marker>) {
        self.log.committed(marker);
        self.reached();
    }

    fn reached(&self) {
        let through = self.log.delivered_through();
        if self.job.delivered.fetch_max(through, Ordering::SeqCst) < through {
            self.shared.bump();
        }
    }

    /// Says what is wrong, and returns when the owner accepts it.
    async fn wait_for_resume(&self, report: Report) -> Result<(), EngineError> {
        let error: EngineError = report.into();
        note_failure(self.shared, self.job, self.log.delivered_through(), &error);
        self.shared.bump();
        let mut progress = self.shared.subscribe();
        while !self.log.is_accepted() {
            if progress.changed().await.is_err() {
                return Err(EngineError::Stopping);
            }
        }
        Ok(())
    }
}

/// What a marker says that does not fit the record.
fn foreign(sink: &Stored, verdict: Verdict) -> Report {
    let (message, detail) = match verdict {
        Verdict::Ahead(marker) => (
            "the outside system holds deliveries that this data dir does not know of",
            format!(
                "Its newest marker is of epoch {}. This data dir was restored from an older copy, or another server delivers from a copy of it.",
                marker.epoch
            ),
        ),
        Verdict::Behind(marker) => (
            "the outside system does not hold what was committed to it",
            match marker {
                Some(marker) => format!("Its newest marker is of epoch {}.", marker.epoch),
                None => "It holds no marker of this sink.".to_owned(),
            },
        ),
        Verdict::After(_) => ("the outside system fits the record", String::new()),
    };
    Report {
        detail: Some(detail),
        hint: Some(format!(
            "ALTER {} {} RESUME goes on from this data dir; readers may then see rows again.",
            sink.kind.to_ascii_uppercase(),
            sink.name
        )),
        ..Report::new("55000", message)
    }
}
