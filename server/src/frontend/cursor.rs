//! Cursors: DECLARE, FETCH, MOVE and CLOSE over queries and subscriptions.
//!
//! Invariant: a row leaves a cursor when the FETCH that returned it was sent to its end; a FETCH that is cancelled or fails on
//! the way gives its rows back. The number of cursors of a session is bounded.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use datafusion::arrow::record_batch::RecordBatch;
use datafusion::common::{DataFusionError, ScalarValue};
use datafusion::execution::SendableRecordBatchStream;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use futures::{StreamExt as _, stream};
use thalweg_planner::{OutputColumn, Planner};
use thalweg_sql::{Declare, Fetch, Parsed, Report, Statement};
use tokio::sync::{Mutex, OwnedMutexGuard};
use tokio::time::Instant;

use super::session::{Session, command};
use super::{Outcome, RowTag, TransactionStatus, rows};

/// Cursors of one session.
const CURSORS_MAX: usize = 1_000;

/// The cursors of a session by name.
#[derive(Debug, Default)]
pub(super) struct Cursors {
    by_name: HashMap<String, Cursor>,
}

#[derive(Debug)]
struct Cursor {
    columns: Vec<OutputColumn>,
    hold: bool,
    /// Declared in the block that is open.
    fresh: bool,
    rows: Arc<Mutex<CursorRows>>,
}

/// What a cursor still has to give.
struct CursorRows {
    stream: SendableRecordBatchStream,
    /// Rows that were read and not fetched yet, or given back.
    ready: VecDeque<RecordBatch>,
    ended: bool,
    /// A subscription: FETCH gives what there is.
    live: bool,
}

impl std::fmt::Debug for CursorRows {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CursorRows")
            .field("ended", &self.ended)
            .field("live", &self.live)
            .finish_non_exhaustive()
    }
}

impl Cursors {
    /// Result columns of a cursor.
    pub(super) fn columns(&self, name: &str) -> Option<&[OutputColumn]> {
        self.by_name.get(name).map(|cursor| &*cursor.columns)
    }

    /// Closes one cursor; false when there is none of that name.
    pub(super) fn close(&mut self, name: &str) -> bool {
        self.by_name.remove(name).is_some()
    }

    pub(super) fn clear(&mut self) {
        self.by_name.clear();
    }

    /// Ends a block: cursors go with it, those WITH HOLD only if it was rolled back and declared them.
    pub(super) fn end_block(&mut self, committed: bool) {
        self.by_name
            .retain(|_, cursor| cursor.hold && (committed || !cursor.fresh));
        self.by_name
            .values_mut()
            .for_each(|cursor| cursor.fresh = false);
    }

    fn get(&self, name: &str) -> Result<&Cursor, Report> {
        self.by_name.get(name).ok_or_else(|| no_cursor(name))
    }
}

/// 34000.
pub(super) fn no_cursor(name: &str) -> Report {
    Report::new("34000", format!("cursor \"{name}\" does not exist"))
}

impl Session {
    /// Result columns of a cursor, for a client that describes it as a portal.
    pub fn cursor_columns(&self, name: &str) -> Option<Vec<OutputColumn>> {
        self.cursors.columns(name).map(<[_]>::to_vec)
    }

    pub(super) async fn declare(
        &mut self,
        parsed: &Parsed,
        declare: &Declare,
        parameters: Vec<ScalarValue>,
    ) -> Result<Outcome, Report> {
        let in_block = self.transaction.status() == TransactionStatus::InBlock;
        if !in_block && !declare.hold {
            let mut report = Report::new(
                "25P01",
                "DECLARE CURSOR can only be used in transaction blocks",
            );
            report.hint = Some("BEGIN first, or declare the cursor WITH HOLD.".into());
            return Err(report);
        }
        if self.cursors.by_name.contains_key(&declare.name) {
            let message = format!("cursor \"{}\" already exists", declare.name);
            return Err(Report::new("42P03", message));
        }
        if self.cursors.by_name.len() >= CURSORS_MAX {
            let message = format!("a session may hold at most {CURSORS_MAX} cursors");
            return Err(Report::new("54000", message));
        }
        let (columns, stream, live) = match &declare.statement {
            Statement::Subscribe(subscribe) => {
                let (columns, stream) = self.open_subscription(&parsed.text, subscribe).await?;
                (columns, stream, true)
            }
            Statement::Query(query) => {
                let plan = self.plan_query(&parsed.text, query, self.bound_types(&parameters))?;
                let (columns, stream) = self.run_query(plan, parameters).await?;
                (columns, stream, false)
            }
            other => return Err(super::server::internal(format!("a cursor over {other}"))),
        };
        let rows = Arc::new(Mutex::new(CursorRows {
            stream,
            ready: VecDeque::new(),
            ended: false,
            live,
        }));
        let cursor = Cursor {
            columns,
            hold: declare.hold,
            fresh: in_block,
            rows,
        };
        self.cursors.by_name.insert(declare.name.clone(), cursor);
        Ok(command("DECLARE CURSOR"))
    }

    pub(super) fn fetch_columns(&self, fetch: &Fetch) -> Result<Option<Vec<OutputColumn>>, Report> {
        let cursor = self.cursors.get(&fetch.name)?;
        Ok((!fetch.passing).then(|| cursor.columns.clone()))
    }

    pub(super) async fn fetch(&mut self, fetch: &Fetch) -> Result<Outcome, Report> {
        let cursor = self.cursors.get(&fetch.name)?;
        let wait = match &fetch.timeout {
            None => None,
            Some(text) => {
                let ms = super::settings::duration_ms(text).ok_or_else(|| {
                    let mut report = Report::new("22023", format!("invalid timeout: \"{text}\""));
                    report.hint = Some("Write a duration such as '1s'.".into());
                    report
                })?;
                Some(Duration::from_millis(ms))
            }
        };
        let guard = Arc::clone(&cursor.rows).try_lock_owned().map_err(|_| {
            let message = format!("cursor \"{}\" is being fetched from", fetch.name);
            Report::new("55006", message)
        })?;
        let columns = cursor.columns.clone();
        let taking = Taking {
            cursor: guard,
            left: fetch.count,
            deadline: wait.map(|wait| Instant::now() + wait),
            taken: Vec::new(),
            sent: false,
        };
        let schema = rows::schema(&columns);
        let batches = stream::unfold(Some(taking), |taking| async move {
            let mut taking = taking?;
            match taking.next().await {
                Ok(Some(batch)) => Some((Ok(batch), Some(taking))),
                Ok(None) => {
                    taking.sent = true;
                    None
                }
                Err(error) => Some((Err(error), None)),
            }
        });
        let mut stream: SendableRecordBatchStream =
            Box::pin(RecordBatchStreamAdapter::new(schema, batches));
        if !fetch.passing {
            return Ok(Outcome::Rows {
                columns,
                stream,
                tag: RowTag::Counted("FETCH"),
            });
        }
        let mut passed = 0;
        while let Some(batch) = stream.next().await {
            passed += batch.map_err(|error| Planner::classify(&error))?.num_rows();
        }
        Ok(command(&format!("MOVE {passed}")))
    }
}

/// A FETCH on its way.
struct Taking {
    cursor: OwnedMutexGuard<CursorRows>,
    left: Option<u64>,
    deadline: Option<Instant>,
    taken: Vec<RecordBatch>,
    sent: bool,
}

impl Taking {
    async fn next(&mut self) -> Result<Option<RecordBatch>, DataFusionError> {
        loop {
            if self.left == Some(0) {
                return Ok(None);
            }
            if let Some(batch) = self.cursor.ready.pop_front() {
                return Ok(Some(self.take(batch)));
            }
            if self.cursor.ended {
                return Ok(None);
            }
            let next = if self.cursor.live {
                // Rows that are there are not held back for more.
                let deadline = if self.taken.is_empty() {
                    self.deadline
                } else {
                    Some(Instant::now())
                };
                let next = self.cursor.stream.next();
                match deadline {
                    None => next.await,
                    Some(deadline) => match tokio::time::timeout_at(deadline, next).await {
                        Ok(next) => next,
                        Err(_) => return Ok(None),
                    },
                }
            } else {
                self.cursor.stream.next().await
            };
            match next {
                None => self.cursor.ended = true,
                Some(Ok(batch)) if batch.num_rows() == 0 => {}
                Some(Ok(batch)) => self.cursor.ready.push_back(batch),
                Some(Err(error)) => {
                    self.cursor.ended = true;
                    return Err(error);
                }
            }
        }
    }

    fn take(&mut self, batch: RecordBatch) -> RecordBatch {
        let rows = batch.num_rows();
        let wanted = self
            .left
            .map_or(rows, |left| rows.min(usize::try_from(left).unwrap_or(rows)));
        let part = batch.slice(0, wanted);
        if wanted < rows {
            self.cursor
                .ready
                .push_front(batch.slice(wanted, rows - wanted));
        }
        if let Some(left) = &mut self.left {
            *left -= wanted as u64;
        }
        // A query that failed cannot be gone on with, so its rows need not be kept.
        self.taken.push(part.clone());
        part
    }
}

impl Drop for Taking {
    fn drop(&mut self) {
        if !self.sent {
            let taken = std::mem::take(&mut self.taken);
            taken
                .into_iter()
                .rev()
                .for_each(|batch| self.cursor.ready.push_front(batch));
        }
    }
}
