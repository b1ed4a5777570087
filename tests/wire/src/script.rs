//! Sessions that do what the statement's text says, behind our wire.
//!
//! Invariant: nothing here depends on time; rows come, and waits end, when the test releases them through the [`Gate`].
//!
//! Statements: `rows N [then wait]`, `endless`, `silent`, `hang`, `failing N`, `echo $1`, `write`, `fail`, `panic`, `notice`,
//! `timeout MS`, `retype`, `begin`, `commit`, `rollback`.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use datafusion::arrow::array::{ArrayRef, Int64Array};
use datafusion::arrow::datatypes::Schema;
use datafusion::arrow::record_batch::RecordBatch;
use datafusion::common::{DataFusionError, ScalarValue};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use futures::StreamExt;
use futures::stream::{self, BoxStream};
use thalweg::frontend::{Description, Notice, Outcome, Parsed, Report, RowTag, TransactionStatus};
use thalweg::pg::{Backend, Backends, Client, PgLimits, serve_backends};
use thalweg_catalog::SqlType;
use thalweg_planner::OutputColumn;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::raw::PATIENCE;

const BATCH_ROWS: u64 = 1_000;

/// What a test and the statements it runs share.
#[derive(Debug)]
pub(crate) struct Gate {
    /// Rows and writes that may happen.
    pub(crate) released: Semaphore,
    /// One permit for each result or statement that was dropped before its end.
    pub(crate) dropped: Semaphore,
    /// Rows produced so far.
    pub(crate) produced: AtomicU64,
    /// Statements started.
    pub(crate) started: Semaphore,
    /// Writes finished.
    pub(crate) written: Semaphore,
}

impl Default for Gate {
    fn default() -> Self {
        let closed = || Semaphore::new(0);
        Self {
            released: closed(),
            dropped: closed(),
            produced: AtomicU64::new(0),
            started: closed(),
            written: closed(),
        }
    }
}

/// Waits for a permit that must come.
pub(crate) async fn arrives(what: &str, semaphore: &Semaphore) {
    match timeout(PATIENCE, semaphore.acquire()).await {
        Ok(Ok(permit)) => permit.forget(),
        _ => panic!("{what} did not happen in time"),
    }
}

/// Tells the gate when a statement is dropped before its end.
struct Watched {
    gate: Arc<Gate>,
    ended: bool,
}

impl Watched {
    fn new(gate: &Arc<Gate>) -> Self {
        Self {
            gate: Arc::clone(gate),
            ended: false,
        }
    }

    fn finish(&mut self) {
        self.ended = true;
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        if !self.ended {
            self.gate.dropped.add_permits(1);
        }
    }
}

fn number_in(text: &str) -> u64 {
    text.split_ascii_whitespace()
        .find_map(|word| word.parse().ok())
        .unwrap_or(0)
}

/// Batches of numbers that a statement gives; the same for our wire and for stock pgwire.
pub(crate) fn numbers(text: &str, gate: &Arc<Gate>) -> BoxStream<'static, Vec<i64>> {
    let (count, waits) = match text.split_ascii_whitespace().next() {
        Some("endless") => (u64::MAX, false),
        Some("silent") => (0, true),
        _ => (number_in(text), text.ends_with("then wait")),
    };
    let watched = Watched::new(gate);
    stream::unfold((0_u64, watched), move |(next, mut watched)| async move {
        let end = if next < count {
            count.min(next + BATCH_ROWS)
        } else if waits {
            watched.gate.released.acquire().await.ok()?.forget();
            next + 1
        } else {
            watched.finish();
            return None;
        };
        watched
            .gate
            .produced
            .fetch_add(end - next, Ordering::SeqCst);
        Some(((next as i64..end as i64).collect(), (end, watched)))
    })
    .boxed()
}

fn column(ty: SqlType) -> Vec<OutputColumn> {
    vec![OutputColumn {
        name: "n".into(),
        ty,
        origin: None,
    }]
}

fn batches(numbers: BoxStream<'static, Vec<i64>>, then: Option<DataFusionError>) -> Outcome {
    let schema = Arc::new(Schema::new(vec![SqlType::Int8.field("n", true)]));
    let batch_schema = Arc::clone(&schema);
    let rows = numbers.map(move |numbers| {
        let array: ArrayRef = Arc::new(Int64Array::from(numbers));
        Ok(RecordBatch::try_new(
            Arc::clone(&batch_schema),
            vec![array],
        )?)
    });
    let rows = rows.chain(stream::iter(then.map(Err)));
    Outcome::Rows {
        columns: column(SqlType::Int8),
        stream: Box::pin(RecordBatchStreamAdapter::new(schema, rows)),
        tag: RowTag::Select,
    }
}

/// A report with nothing but code and message.
pub(crate) fn report(sqlstate: &'static str, message: &str) -> Report {
    Report {
        sqlstate,
        message: message.into(),
        detail: None,
        hint: None,
        position: None,
    }
}

/// Opens scripted sessions, or refuses them.
pub(crate) struct Script {
    pub(crate) gate: Arc<Gate>,
    pub(crate) refusal: Option<Report>,
    next_process_id: AtomicI32,
}

impl Backends for Script {
    fn open(&self, client: Client) -> Result<Box<dyn Backend>, Report> {
        if let Some(refusal) = &self.refusal {
            return Err(refusal.clone());
        }
        Ok(Box::new(Session {
            gate: Arc::clone(&self.gate),
            process_id: self.next_process_id.fetch_add(1, Ordering::SeqCst),
            settings: client.settings,
            status: TransactionStatus::Idle,
            notices: Vec::new(),
            timeout: None,
            retyped: false,
        }))
    }
}

struct Session {
    gate: Arc<Gate>,
    process_id: i32,
    settings: Vec<(String, String)>,
    status: TransactionStatus,
    notices: Vec<Notice>,
    timeout: Option<Duration>,
    retyped: bool,
}

fn statement(text: &str) -> Result<thalweg_sql::Statement, Report> {
    let sql = match text.split_ascii_whitespace().next() {
        Some("begin") => "BEGIN",
        Some("commit") => "COMMIT",
        Some("rollback") => "ROLLBACK",
        Some("write") => "CREATE SCHEMA s",
        Some("syntax") => return Err(report("42601", "scripted syntax error")),
        _ => "SELECT 1",
    };
    let mut parsed = thalweg_sql::parse(sql).map_err(|error| error.report())?;
    parsed
        .pop()
        .map(|parsed| parsed.statement)
        .ok_or_else(|| report("XX000", "no statement"))
}

#[async_trait]
impl Backend for Session {
    fn process_id(&self) -> i32 {
        self.process_id
    }

    fn reported_settings(&self) -> Vec<(String, String)> {
        self.settings.clone()
    }

    fn setting(&self, name: &str) -> Option<String> {
        self.settings
            .iter()
            .rev()
            .find(|(found, _)| found == name)
            .map(|(_, value)| value.clone())
    }

    fn statement_timeout(&self) -> Option<Duration> {
        self.timeout
    }

    fn parse(&self, text: &str) -> Result<Vec<Parsed>, Report> {
        let mut start = 0;
        let mut statements = Vec::new();
        for part in text.split(';') {
            let trimmed = part.trim();
            if !trimmed.is_empty() {
                let offset = start + part.len() - part.trim_start().len();
                statements.push(Parsed {
                    statement: statement(trimmed)?,
                    text: trimmed.into(),
                    start: offset,
                });
            }
            start += part.len() + 1;
        }
        Ok(statements)
    }

    fn describe(
        &self,
        parsed: &Parsed,
        _declared: &[Option<SqlType>],
    ) -> Result<Description, Report> {
        let none = Description {
            parameters: Vec::new(),
            columns: None,
        };
        Ok(match parsed.text.split_ascii_whitespace().next() {
            Some("rows" | "endless" | "silent" | "failing") => Description {
                columns: Some(column(SqlType::Int8)),
                ..none
            },
            Some("retype") => {
                let ty = if self.retyped {
                    SqlType::Int8
                } else {
                    SqlType::Text
                };
                Description {
                    columns: Some(column(ty)),
                    ..none
                }
            }
            Some("echo") => Description {
                parameters: vec![SqlType::Int8],
                columns: Some(column(SqlType::Int8)),
            },
            Some("unknown") => {
                return Err(Report {
                    position: Some(1),
                    ..report("42P01", "no such relation")
                });
            }
            _ => none,
        })
    }

    async fn execute(
        &mut self,
        parsed: &Parsed,
        parameters: Vec<ScalarValue>,
    ) -> Result<Outcome, Report> {
        self.gate.started.add_permits(1);
        let tag = |tag: &str| Ok(Outcome::Command { tag: tag.into() });
        let first = parsed
            .text
            .split_ascii_whitespace()
            .next()
            .unwrap_or_default();
        if self.status == TransactionStatus::Failed && !matches!(first, "commit" | "rollback") {
            return Err(report("25P02", "current transaction is aborted"));
        }
        match first {
            "rows" | "endless" | "silent" | "retype" => {
                Ok(batches(numbers(&parsed.text, &self.gate), None))
            }
            "failing" => {
                let failure = DataFusionError::Execution("scripted".into());
                Ok(batches(numbers(&parsed.text, &self.gate), Some(failure)))
            }
            "echo" => match parameters.first() {
                Some(ScalarValue::Int64(Some(number))) => {
                    Ok(batches(stream::iter([vec![*number]]).boxed(), None))
                }
                other => Err(report("XX000", &format!("parameter is {other:?}"))),
            },
            "hang" => {
                let _watched = Watched::new(&self.gate);
                std::future::pending().await
            }
            "write" => {
                let mut watched = Watched::new(&self.gate);
                self.gate
                    .released
                    .acquire()
                    .await
                    .map_err(|_| report("XX000", "closed"))?
                    .forget();
                watched.finish();
                self.gate.written.add_permits(1);
                tag("CREATE SCHEMA")
            }
            "fail" => Err(Report {
                position: Some(3),
                ..report("22012", "division by zero")
            }),
            "panic" => panic!("a scripted panic"),
            "notice" => {
                self.notices.push(Notice::notice("scripted notice"));
                tag("NOTICE")
            }
            "timeout" => {
                self.timeout = Some(Duration::from_millis(number_in(&parsed.text)));
                tag("SET")
            }
            "begin" => {
                self.status = TransactionStatus::InBlock;
                tag("BEGIN")
            }
            "commit" | "rollback" => {
                self.status = TransactionStatus::Idle;
                tag(&first.to_ascii_uppercase())
            }
            _ => tag("OK"),
        }
    }

    fn take_notices(&mut self) -> Vec<Notice> {
        std::mem::take(&mut self.notices)
    }

    fn take_changed_settings(&mut self) -> Vec<(String, String)> {
        Vec::new()
    }

    fn transaction_status(&self) -> TransactionStatus {
        self.status
    }

    fn fail_transaction(&mut self) {
        if self.status == TransactionStatus::InBlock {
            self.status = TransactionStatus::Failed;
        }
    }
}

/// Our wire over scripted sessions.
pub(crate) struct Scripted {
    pub(crate) address: SocketAddr,
    pub(crate) gate: Arc<Gate>,
    pub(crate) stop: CancellationToken,
    pub(crate) task: tokio::task::JoinHandle<()>,
}

impl Scripted {
    pub(crate) async fn start() -> Self {
        Self::start_with(PgLimits::default(), None).await
    }

    pub(crate) async fn start_with(limits: PgLimits, refusal: Option<Report>) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
            .await
            .expect("a port");
        let address = listener.local_addr().expect("an address");
        let gate = Arc::new(Gate::default());
        let script = Script {
            gate: Arc::clone(&gate),
            refusal,
            next_process_id: AtomicI32::new(1),
        };
        let stop = CancellationToken::new();
        let task = tokio::spawn(serve_backends(
            listener,
            Arc::new(script),
            limits,
            stop.clone(),
        ));
        Self {
            address,
            gate,
            stop,
            task,
        }
    }
}

impl Drop for Scripted {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}
