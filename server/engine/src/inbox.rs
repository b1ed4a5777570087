//! What waits for the next epoch.
//!
//! Invariant: table changes wait for nothing; source rows wait at most the linger time, and a driver stops reading while more
//! than an epoch's worth of its rows is waiting, as a scan does while many of its dead letters are.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, MutexGuard};
use thalweg_catalog::Oid;
use thalweg_connectors::{ColumnsRead, DeadLetter, Delta, EpochInfo, SourceBatch};
use tokio::sync::oneshot;

use crate::config::EngineConfig;
use crate::dead::letter_bytes;
use crate::error::EngineError;
use crate::job::Job;
use crate::relation::Version;
use crate::shared::Stored;
use crate::source::Source;
use crate::table::Table;

/// A scan waits while this many dead letters of scans are queued.
const LETTERS_MAX: usize = 4_000;

/// What happens to one table at an epoch.
#[derive(Debug)]
pub(crate) struct TableChange {
    pub(crate) stored: Arc<Stored>,
    /// The deltas as the log keeps them.
    pub(crate) record: Vec<u8>,
    pub(crate) deltas: Vec<Delta>,
    /// The record of the sink that makes the change: sink, number and bytes.
    pub(crate) sink: Option<(u32, u64, Vec<u8>)>,
}

/// Table changes that are made and acknowledged together.
#[derive(Debug)]
pub(crate) struct Submission {
    pub(crate) changes: Vec<TableChange>,
    pub(crate) reply: oneshot::Sender<Result<EpochInfo, EngineError>>,
}

/// Objects that come and go, with their block's rows: one epoch of its own.
pub(crate) struct Definition {
    pub(crate) registrations: Vec<Registration>,
    /// Changes of tables that were there before.
    pub(crate) changes: Vec<TableChange>,
    /// Log records of new tables' rows, which their registrations hold as content.
    pub(crate) records: Vec<(u32, Vec<u8>)>,
    pub(crate) drop: Vec<Oid>,
    /// What is to stand still, or to go on.
    pub(crate) pause: Vec<(Oid, bool)>,
    pub(crate) append: crate::transaction::Append,
    pub(crate) publish: Box<dyn FnOnce() + Send>,
}

impl std::fmt::Debug for Definition {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Definition")
            .field("registrations", &self.registrations)
            .field("drop", &self.drop)
            .finish_non_exhaustive()
    }
}

/// A change of what the worker steps.
#[derive(Debug)]
pub(crate) enum Command {
    /// Starts a relation at the next epoch.
    Register {
        what: Box<Registration>,
        reply: oneshot::Sender<Result<EpochInfo, EngineError>>,
    },
    /// Commits DDL.
    Define {
        what: Box<Definition>,
        reply: oneshot::Sender<Result<EpochInfo, EngineError>>,
    },
    /// Forgets objects.
    Drop {
        oids: Vec<Oid>,
        reply: oneshot::Sender<Result<(), EngineError>>,
    },
}

/// What a new object consists of.
#[derive(Debug, Default)]
pub(crate) struct Registration {
    /// A relation with its content, live from the next epoch on.
    pub(crate) content: Option<(Arc<Stored>, Arc<Version>)>,
    /// A source that can be consumed.
    pub(crate) source: Option<Arc<Source>>,
    /// An errors relation, by source.
    pub(crate) dead: Option<(Oid, Arc<crate::dead::DeadLog>)>,
    /// A view or sink.
    pub(crate) job: Option<Arc<Job>>,
}

impl Registration {
    /// What others read of the object, when it is `oid`.
    pub(crate) fn relation(&self, oid: Oid) -> Option<Arc<Stored>> {
        let content = self.content.as_ref().map(|(stored, _)| stored);
        let source = self.source.as_ref().map(|source| &source.history);
        let job = self.job.as_ref().map(|job| &job.relation);
        let found = [content, source, job]
            .into_iter()
            .flatten()
            .find(|stored| stored.oid == oid);
        found.cloned()
    }
}

/// Rows of a source driver; `generation` tells a driver from one that was stopped.
#[derive(Debug)]
pub(crate) struct Delivery {
    pub(crate) source: Oid,
    pub(crate) generation: u64,
    /// What the rows were built with.
    pub(crate) columns: Arc<ColumnsRead>,
    pub(crate) batch: SourceBatch,
}

/// Everything that goes into one step of the worker.
#[derive(Debug, Default)]
pub(crate) struct Work {
    pub(crate) submissions: Vec<Submission>,
    pub(crate) commands: Vec<Command>,
    pub(crate) deliveries: Vec<Delivery>,
    pub(crate) dead: Vec<(Oid, Vec<DeadLetter>)>,
    /// An epoch is wanted even if nothing changed.
    pub(crate) tick: bool,
}

impl Work {
    pub(crate) fn is_empty(&self) -> bool {
        self.submissions.is_empty()
            && self.commands.is_empty()
            && self.deliveries.is_empty()
            && self.dead.is_empty()
            && !self.tick
    }
}

#[derive(Debug, Default)]
struct Waiting {
    work: Work,
    rows: BTreeMap<Oid, usize>,
    /// Dead letters of scans.
    letters: usize,
    total_rows: usize,
    total_bytes: usize,
    first_row: Option<Instant>,
    closed: bool,
    /// Why nothing is taken any more, when the engine is not just stopping.
    broken: Option<EngineError>,
    /// Why statements are refused for now: the log cannot be written.
    fault: Option<EngineError>,
}

impl Waiting {
    /// Refuses what cannot be logged now, and what was checked against a change that was refused.
    fn check(&self, changes: &[TableChange]) -> Result<(), EngineError> {
        if let Some(error) = &self.fault {
            return Err(error.clone());
        }
        let tables = changes
            .iter()
            .filter_map(|change| change.stored.table.as_ref());
        match tables.into_iter().find_map(Table::refusal) {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    fn urgent(&self) -> bool {
        self.closed
            || self.work.tick
            || !self.work.submissions.is_empty()
            || !self.work.commands.is_empty()
    }
}

/// The worker's queue.
#[derive(Debug, Default)]
pub(crate) struct Inbox {
    waiting: Mutex<Waiting>,
    arrived: Condvar,
    taken: Condvar,
}

impl Inbox {
    pub(crate) fn submit(&self, submission: Submission) -> Result<(), EngineError> {
        let mut waiting = self.open()?;
        waiting.check(&submission.changes)?;
        waiting.work.submissions.push(submission);
        self.arrived.notify_one();
        Ok(())
    }

    pub(crate) fn command(&self, command: Command) -> Result<(), EngineError> {
        let mut waiting = self.open()?;
        if let Command::Define { what, .. } = &command {
            waiting.check(&what.changes)?;
        }
        waiting.work.commands.push(command);
        self.arrived.notify_one();
        Ok(())
    }

    /// Refuses what statements have brought and will bring, until [`Inbox::accept`]: the log cannot be written. `tables` are those of
    /// which a change was refused already.
    pub(crate) fn refuse(&self, error: &EngineError, tables: &[Arc<Stored>]) {
        let mut waiting = self.waiting.lock();
        waiting.fault = Some(error.clone());
        let submissions = std::mem::take(&mut waiting.work.submissions);
        let is_definition = |command: &mut Command| matches!(command, Command::Define { .. });
        let definitions: Vec<_> = waiting
            .work
            .commands
            .extract_if(.., is_definition)
            .collect();
        // What follows a refused change in the index of its table must not come through.
        let changes = submissions
            .iter()
            .flat_map(|submission| &submission.changes);
        let tables = tables.iter().chain(changes.map(|change| &change.stored));
        for table in tables.filter_map(|stored| stored.table.as_ref()) {
            table.refused(error);
        }
        drop(waiting);
        for submission in submissions {
            let _ = submission.reply.send(Err(error.clone()));
        }
        for command in definitions {
            if let Command::Define { reply, .. } = command {
                let _ = reply.send(Err(error.clone()));
            }
        }
    }

    /// Takes statements again.
    pub(crate) fn accept(&self) {
        self.waiting.lock().fault = None;
    }

    /// Why statements are refused for now.
    pub(crate) fn fault(&self) -> Option<EngineError> {
        self.waiting.lock().fault.clone()
    }

    pub(crate) fn tick(&self) -> Result<(), EngineError> {
        self.open()?.work.tick = true;
        self.arrived.notify_one();
        Ok(())
    }

    /// Dead letters of a scan; waits up to `wait` while too many are queued. Returns them when there is still no room.
    pub(crate) fn dead(
        &self,
        source: Oid,
        letters: Vec<DeadLetter>,
        wait: Duration,
    ) -> Result<(), Vec<DeadLetter>> {
        let deadline = Instant::now() + wait;
        let mut waiting = self.waiting.lock();
        while waiting.letters >= LETTERS_MAX && !waiting.closed {
            if self.taken.wait_until(&mut waiting, deadline).timed_out() {
                return Err(letters);
            }
        }
        if waiting.closed {
            return Ok(());
        }
        waiting.letters += letters.len();
        waiting.total_rows += letters.len();
        waiting.total_bytes += letters.iter().map(letter_bytes).sum::<usize>();
        waiting.first_row.get_or_insert_with(Instant::now);
        waiting.work.dead.push((source, letters));
        self.arrived.notify_one();
        Ok(())
    }

    fn open(&self) -> Result<MutexGuard<'_, Waiting>, EngineError> {
        let waiting = self.waiting.lock();
        match waiting.closed {
            true => Err(waiting.broken.clone().unwrap_or(EngineError::Stopping)),
            false => Ok(waiting),
        }
    }

    /// Hands over a poll's rows; waits up to `wait` while too many of this source's rows are queued. Returns the delivery when
    /// there is still no room.
    pub(crate) fn deliver(
        &self,
        delivery: Delivery,
        rows_max: usize,
        wait: Duration,
    ) -> Result<(), Box<Delivery>> {
        let deadline = Instant::now() + wait;
        let mut waiting = self.waiting.lock();
        while waiting.rows.get(&delivery.source).copied().unwrap_or(0) >= rows_max
            && !waiting.closed
        {
            if self.taken.wait_until(&mut waiting, deadline).timed_out() {
                return Err(Box::new(delivery));
            }
        }
        if waiting.closed {
            return Ok(());
        }
        let rows = delivery.batch.rows.num_rows() + delivery.batch.dead.len();
        *waiting.rows.entry(delivery.source).or_default() += rows;
        waiting.total_rows += rows;
        let letters = delivery.batch.dead.iter().map(letter_bytes);
        waiting.total_bytes += delivery.batch.rows.get_array_memory_size() + letters.sum::<usize>();
        waiting.first_row.get_or_insert_with(Instant::now);
        waiting.work.deliveries.push(delivery);
        self.arrived.notify_one();
        Ok(())
    }

    /// Takes what the next epoch consists of; `None` when the engine stops. `idle` bounds the wait.
    pub(crate) fn take(&self, config: &EngineConfig, idle: Duration) -> Option<Work> {
        let deadline = Instant::now() + idle;
        let mut waiting = self.waiting.lock();
        loop {
            if waiting.closed && waiting.work.is_empty() {
                return None;
            }
            if waiting.urgent() {
                break;
            }
            let full = waiting.total_rows >= config.epoch_rows_max
                || waiting.total_bytes >= config.epoch_bytes_max;
            let due = waiting.first_row.map(|first| first + config.linger);
            if full || due.is_some_and(|due| due <= Instant::now()) {
                break;
            }
            let until = due.map_or(deadline, |due| due.min(deadline));
            let timed_out = self.arrived.wait_until(&mut waiting, until).timed_out();
            if timed_out && until == deadline {
                break;
            }
        }
        let work = std::mem::take(&mut waiting.work);
        waiting.rows.clear();
        waiting.letters = 0;
        waiting.total_rows = 0;
        waiting.total_bytes = 0;
        waiting.first_row = None;
        self.taken.notify_all();
        Some(work)
    }

    /// Bytes of the rows and dead letters that wait.
    pub(crate) fn bytes(&self) -> usize {
        let waiting = self.waiting.lock();
        let submissions = waiting.work.submissions.iter();
        let records = submissions.flat_map(|submission| &submission.changes);
        // A change is there as rows and as the log keeps it.
        waiting.total_bytes + records.map(|change| 2 * change.record.len()).sum::<usize>()
    }

    /// Refuses what comes later for `error`, and what is queued: there is no worker any more.
    pub(crate) fn abandon(&self, error: &EngineError) {
        let dropped = {
            let mut waiting = self.waiting.lock();
            waiting.broken = Some(error.clone());
            waiting.rows.clear();
            std::mem::take(&mut waiting.work)
        };
        self.close();
        for submission in dropped.submissions {
            let _ = submission.reply.send(Err(error.clone()));
        }
        for command in dropped.commands {
            match command {
                Command::Register { reply, .. } | Command::Define { reply, .. } => {
                    drop(reply.send(Err(error.clone())))
                }
                Command::Drop { reply, .. } => drop(reply.send(Err(error.clone()))),
            }
        }
    }

    /// Refuses what comes later, lets the worker finish what is queued.
    pub(crate) fn close(&self) {
        self.waiting.lock().closed = true;
        self.arrived.notify_all();
        self.taken.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn letters(count: i64) -> Vec<DeadLetter> {
        let letter = |offset| DeadLetter {
            reason: "decode".into(),
            message: "invalid".into(),
            topic: "t".into(),
            partition: 0,
            offset,
            key: None,
            payload: Some(vec![7; 1_000]),
            headers: None,
            at_us: 0,
        };
        (0..count).map(letter).collect()
    }

    /// A scan of bad records alone is held back like one of rows, and what it has found counts as memory.
    #[test]
    fn letters_of_a_scan_are_counted_and_wait_for_room() {
        let inbox = Inbox::default();
        let dead = |count| inbox.dead(Oid(1), letters(count), Duration::ZERO);
        assert!(dead(3_999).is_ok() && dead(3_999).is_ok());
        assert!(inbox.bytes() > 7_998 * 1_000);
        assert_eq!(dead(2).expect_err("no room").len(), 2);
        let config = EngineConfig {
            linger: Duration::from_secs(3_600),
            epoch_rows_max: 5_000,
            ..EngineConfig::default()
        };
        // So many are an epoch, however long it would linger.
        let work = inbox.take(&config, Duration::from_secs(3_600));
        assert_eq!(work.expect("is open").dead.len(), 2);
        assert_eq!(inbox.bytes(), 0);
        assert!(dead(2).is_ok());
        inbox.close();
        assert!(
            dead(5_000).is_ok(),
            "nobody waits for a worker that has ended"
        );
    }
}
