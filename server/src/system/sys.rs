//! Relations of schema `sys`: what the engine and the server are doing, as rows.
//!
//! Invariant: the columns here are the documented ones; facts arrive as plain structs, so no relation holds on to the engine.

use super::SystemFacts;
use super::rows::Rows;
use super::value::Cell;
use thalweg_catalog::RelationKind;
use thalweg_engine::ArchiveFile;

/// Relations of schema `sys`, in the format of pg15_schema.txt. `task_runs`, `alerts` and
/// `audit_log` have their columns but no rows yet.
pub(crate) const SCHEMA: &str = "\
sys.jobs 14001 v 0 id:oid! schema_name:name! name:name! kind:text! state:text! epoch:int8 error:text retry_at:timestamptz kept_by:text! state_bytes:int8!
sys.sources 14002 v 0 id:oid! schema_name:name! name:name! connector:text! format:text! encode:text! state:text! splits:int4! rows:int8! bytes:int8! errors:int8! watermark:timestamptz error:text
sys.source_lag 14003 v 0 source:name! split:text! offset:int8 end_offset:int8 lag:int8 watermark:timestamptz
sys.epochs 14004 v 0 epoch:int8! at:timestamptz! durable:bool! rows:int8
sys.backfill_progress 14005 v 0 id:oid! schema_name:name! name:name! done_rows:int8! total_rows:int8 fraction:float8 state:text!
sys.sinks 14006 v 0 id:oid! schema_name:name! name:name! connector:text! delivery:text! state:text! rows:int8! epoch:int8 error:text staged_epoch:int8 delivered_epoch:int8 waiting_bytes:int8
sys.errors 14007 v 0 at:timestamptz! object:name! reason:text! message:text! epoch:int8 payload:text
sys.settings 14008 v 0 name:text! value:text! unit:text description:text scope:text!
sys.memory 14009 v 0 component:text! bytes:int8! limit_bytes:int8 spilled_bytes:int8!
sys.connections 14010 v 0 pid:int4! user_name:name! database:name! application_name:text! client_address:text started_at:timestamptz state:text! query:text
sys.checkpoints 14011 v 0 number:int8! epoch:int8! started_at:timestamptz! duration_ms:int8! bytes:int8! runs:int8! error:text
sys.archive_files 14012 v 0 archive:text! path:text! partition:text rows:int8! bytes:int8! first_epoch:int8! last_epoch:int8!
sys.task_runs 14013 v 0 task:text! run:int8! scheduled_at:timestamptz! started_at:timestamptz ended_at:timestamptz state:text! attempt:int4! rows:int8 error:text
sys.alerts 14014 v 0 alert:text! state:text! fired_at:timestamptz resolved_at:timestamptz rows:int8 connection:text error:text
sys.audit_log 14015 v 0 at:timestamptz! user_name:name! client_address:text action:text! object:text statement:text sqlstate:text
";

/// A running or failed pipeline.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct JobFacts {
    /// OID of the object whose job it is.
    pub oid: u32,
    /// `RUNNING`, `BACKFILLING`, `PAUSED`, `ERROR`.
    pub state: String,
    /// Newest complete epoch.
    pub epoch: Option<u64>,
    /// Why it is in `ERROR`, or what keeps a source that it reads from being read.
    pub error: Option<String>,
    /// When it is tried again, microseconds since the Unix epoch.
    pub retry_at_us: Option<i64>,
    /// Rows read by the backfill so far.
    pub backfill_done: Option<u64>,
    /// Rows the backfill has to read.
    pub backfill_total: Option<u64>,
    /// Rows a sink has delivered.
    pub rows: u64,
    /// Newest epoch whose changes a sink has staged; of sinks that deliver exactly once.
    pub staged: Option<u64>,
    /// Newest epoch a sink has delivered.
    pub delivered: Option<u64>,
    /// Bytes that a sink has staged and not delivered.
    pub waiting_bytes: Option<u64>,
    /// How it is kept up to date: `incremental`, `recompute`, or `none` when it could not be started.
    pub kept_by: &'static str,
    /// Bytes it remembers beside its content.
    pub state_bytes: u64,
}

/// A source as it is being read.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct SourceFacts {
    /// OID of the source.
    pub oid: u32,
    /// `RUNNING`, `IDLE` (nothing reads it), `DEGRADED` (not just now), `ERROR` (that lasts, it is tried again), ...
    pub state: String,
    /// Why it is `DEGRADED` or `ERROR`.
    pub error: Option<String>,
    /// Rows decoded since start.
    pub rows: u64,
    /// Bytes read since start.
    pub bytes: u64,
    /// Rows sent to the errors relation since start.
    pub errors: u64,
    /// Its splits.
    pub splits: Vec<SplitFacts>,
}

/// One split of a source.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct SplitFacts {
    /// Name of the split.
    pub split: String,
    /// Next offset to read.
    pub offset: Option<u64>,
    /// End of the split, when the outside system tells it.
    pub end_offset: Option<u64>,
    /// Watermark, microseconds since the Unix epoch.
    pub watermark_us: Option<i64>,
}

/// One epoch.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct EpochFacts {
    /// Number.
    pub epoch: u64,
    /// When it was bound, milliseconds since the Unix epoch.
    pub at_ms: i64,
    /// Its log entry is on disk.
    pub durable: bool,
    /// Rows it carried, when counted.
    pub rows: Option<u64>,
}

/// A checkpoint, made or failed.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct CheckpointFacts {
    /// Number.
    pub number: u64,
    /// The epoch it holds.
    pub epoch: u64,
    /// When it began, milliseconds since the Unix epoch.
    pub started_at_ms: i64,
    /// How long it took, milliseconds.
    pub duration_ms: u64,
    /// Bytes it wrote.
    pub bytes: u64,
    /// Runs it wrote.
    pub runs: u64,
    /// Why it failed.
    pub error: Option<String>,
}

/// An error row that belongs to a view or sink.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ErrorFacts {
    /// Microseconds since the Unix epoch.
    pub at_us: i64,
    /// Name of the object.
    pub object: String,
    /// Kind of error.
    pub reason: String,
    /// Message.
    pub message: String,
    /// Epoch.
    pub epoch: Option<u64>,
    /// What could not be processed, as text.
    pub payload: Option<String>,
}

/// Memory of one part of the server.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct MemoryFacts {
    /// Which part.
    pub component: String,
    /// Bytes held.
    pub bytes: u64,
    /// Limit, when there is one.
    pub limit_bytes: Option<u64>,
    /// Bytes of it that are on disk, for want of memory.
    pub spilled_bytes: u64,
}

/// A client connection.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ConnectionFacts {
    /// Backend process number, as in pg_stat_activity.
    pub pid: i32,
    /// User.
    pub user: String,
    /// Database.
    pub database: String,
    /// application_name.
    pub application_name: String,
    /// Peer address.
    pub client_address: Option<String>,
    /// Microseconds since the Unix epoch.
    pub started_at_us: Option<i64>,
    /// `active`, `idle`, `idle in transaction`.
    pub state: String,
    /// Current or last statement.
    pub query: Option<String>,
}

/// A server-wide setting.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ServerSetting {
    /// Name.
    pub name: String,
    /// Value in force.
    pub value: String,
    /// Meaning.
    pub description: Option<String>,
}

/// What the engine and the server are doing at one moment.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct EngineFacts {
    /// Pipelines.
    pub jobs: Vec<JobFacts>,
    /// Sources.
    pub sources: Vec<SourceFacts>,
    /// Newest epochs, oldest first.
    pub epochs: Vec<EpochFacts>,
    /// Newest checkpoints, oldest first.
    pub checkpoints: Vec<CheckpointFacts>,
    /// Errors of views, sinks and sources.
    pub errors: Vec<ErrorFacts>,
    /// Memory.
    pub memory: Vec<MemoryFacts>,
    /// Files of archives.
    pub archive_files: Vec<ArchiveFile>,
    /// Connections.
    pub connections: Vec<ConnectionFacts>,
    /// Settings of the server, beside those of the session.
    pub settings: Vec<ServerSetting>,
}

fn millis(at_ms: i64) -> Cell {
    Cell::Int(at_ms.saturating_mul(1000))
}

/// Fills one relation of schema `sys`.
pub(crate) fn fill(facts: &SystemFacts, rows: &mut Rows) {
    match rows.table().name.as_str() {
        "jobs" => jobs(facts, rows),
        "sources" => sources(facts, rows),
        "source_lag" => source_lag(facts, rows),
        "epochs" => {
            for epoch in &facts.engine.epochs {
                rows.push([
                    ("epoch", epoch.epoch.into()),
                    ("at", millis(epoch.at_ms)),
                    ("durable", epoch.durable.into()),
                    ("rows", epoch.rows.into()),
                ]);
            }
        }
        "checkpoints" => {
            for checkpoint in &facts.engine.checkpoints {
                rows.push([
                    ("number", checkpoint.number.into()),
                    ("epoch", checkpoint.epoch.into()),
                    ("started_at", millis(checkpoint.started_at_ms)),
                    ("duration_ms", checkpoint.duration_ms.into()),
                    ("bytes", checkpoint.bytes.into()),
                    ("runs", checkpoint.runs.into()),
                    ("error", checkpoint.error.clone().into()),
                ]);
            }
        }
        "backfill_progress" => backfill_progress(facts, rows),
        "sinks" => sinks(facts, rows),
        "errors" => {
            for error in &facts.engine.errors {
                rows.push([
                    ("at", error.at_us.into()),
                    ("object", (&error.object).into()),
                    ("reason", (&error.reason).into()),
                    ("message", (&error.message).into()),
                    ("epoch", error.epoch.into()),
                    ("payload", error.payload.clone().into()),
                ]);
            }
        }
        "settings" => settings(facts, rows),
        "memory" => {
            for part in &facts.engine.memory {
                rows.push([
                    ("component", (&part.component).into()),
                    ("bytes", part.bytes.into()),
                    ("limit_bytes", part.limit_bytes.into()),
                    ("spilled_bytes", part.spilled_bytes.into()),
                ]);
            }
        }
        "archive_files" => {
            for file in &facts.engine.archive_files {
                rows.push([
                    ("archive", (&file.archive).into()),
                    ("path", (&file.path).into()),
                    ("partition", file.partition.clone().into()),
                    ("rows", file.rows.into()),
                    ("bytes", file.bytes.into()),
                    ("first_epoch", file.first_epoch.into()),
                    ("last_epoch", file.last_epoch.into()),
                ]);
            }
        }
        "connections" => connections(facts, rows),
        _ => {}
    }
}

fn jobs(facts: &SystemFacts, rows: &mut Rows) {
    for job in &facts.engine.jobs {
        let relation = facts.relation(job.oid);
        rows.push([
            ("id", job.oid.into()),
            (
                "schema_name",
                relation
                    .map(|relation| facts.schema_name(relation.schema))
                    .into(),
            ),
            (
                "name",
                relation.map(|relation| relation.name.as_str()).into(),
            ),
            ("kind", relation.map(super::kind_name).into()),
            ("state", (&job.state).into()),
            ("epoch", job.epoch.into()),
            ("error", job.error.clone().into()),
            ("retry_at", job.retry_at_us.into()),
            ("kept_by", job.kept_by.into()),
            ("state_bytes", job.state_bytes.into()),
        ]);
    }
}

fn sources(facts: &SystemFacts, rows: &mut Rows) {
    for relation in facts.catalog.relations() {
        let Some(spec) = super::connector(relation) else {
            continue;
        };
        let running = facts
            .engine
            .sources
            .iter()
            .find(|source| source.oid == relation.oid.0);
        let watermark = running.and_then(|source| {
            source
                .splits
                .iter()
                .filter_map(|split| split.watermark_us)
                .min()
        });
        rows.push([
            ("id", relation.oid.into()),
            ("schema_name", facts.schema_name(relation.schema).into()),
            ("name", (&relation.name).into()),
            ("connector", (&spec.connector).into()),
            ("format", (&spec.format).into()),
            ("encode", (&spec.encode).into()),
            (
                "state",
                running
                    .map_or("IDLE", |source| source.state.as_str())
                    .into(),
            ),
            (
                "splits",
                running.map_or(0, |source| source.splits.len()).into(),
            ),
            ("rows", running.map_or(0, |source| source.rows).into()),
            ("bytes", running.map_or(0, |source| source.bytes).into()),
            ("errors", running.map_or(0, |source| source.errors).into()),
            ("watermark", watermark.into()),
            (
                "error",
                running.and_then(|source| source.error.clone()).into(),
            ),
        ]);
    }
}

fn source_lag(facts: &SystemFacts, rows: &mut Rows) {
    for source in &facts.engine.sources {
        let name = facts
            .relation(source.oid)
            .map(|relation| relation.name.as_str());
        for split in &source.splits {
            let lag = split
                .end_offset
                .zip(split.offset)
                .map(|(end, offset)| end.saturating_sub(offset));
            rows.push([
                ("source", name.into()),
                ("split", (&split.split).into()),
                ("offset", split.offset.into()),
                ("end_offset", split.end_offset.into()),
                ("lag", lag.into()),
                ("watermark", split.watermark_us.into()),
            ]);
        }
    }
}

fn backfill_progress(facts: &SystemFacts, rows: &mut Rows) {
    for job in facts
        .engine
        .jobs
        .iter()
        .filter(|job| job.backfill_done.is_some())
    {
        let relation = facts.relation(job.oid);
        let fraction = match (job.backfill_done, job.backfill_total) {
            (Some(_), Some(0)) => Some(1.0),
            #[expect(clippy::cast_precision_loss, reason = "a fraction for people")]
            (Some(done), Some(total)) => Some((done as f64 / total as f64).min(1.0)),
            _ => None,
        };
        rows.push([
            ("id", job.oid.into()),
            (
                "schema_name",
                relation
                    .map(|relation| facts.schema_name(relation.schema))
                    .into(),
            ),
            (
                "name",
                relation.map(|relation| relation.name.as_str()).into(),
            ),
            ("done_rows", job.backfill_done.into()),
            ("total_rows", job.backfill_total.into()),
            ("fraction", fraction.into()),
            ("state", (&job.state).into()),
        ]);
    }
}

fn sinks(facts: &SystemFacts, rows: &mut Rows) {
    for relation in facts.catalog.relations() {
        let (connector, delivery) = match &relation.kind {
            RelationKind::Sink(spec) => (&spec.connector, spec.delivery.as_str()),
            RelationKind::Archive(spec) if spec.feed.is_some() => (&spec.connector, "exactly_once"),
            _ => continue,
        };
        let job = facts
            .engine
            .jobs
            .iter()
            .find(|job| job.oid == relation.oid.0);
        rows.push([
            ("id", relation.oid.into()),
            ("schema_name", facts.schema_name(relation.schema).into()),
            ("name", (&relation.name).into()),
            ("connector", connector.into()),
            ("delivery", delivery.into()),
            (
                "state",
                job.map_or("STARTING", |job| job.state.as_str()).into(),
            ),
            ("rows", job.map_or(0, |job| job.rows).into()),
            ("epoch", job.and_then(|job| job.epoch).into()),
            ("error", job.and_then(|job| job.error.clone()).into()),
            ("staged_epoch", job.and_then(|job| job.staged).into()),
            ("delivered_epoch", job.and_then(|job| job.delivered).into()),
            (
                "waiting_bytes",
                job.and_then(|job| job.waiting_bytes).into(),
            ),
        ]);
    }
}

fn settings(facts: &SystemFacts, rows: &mut Rows) {
    for setting in &facts.engine.settings {
        rows.push([
            ("name", (&setting.name).into()),
            ("value", (&setting.value).into()),
            ("description", setting.description.clone().into()),
            ("scope", "server".into()),
        ]);
    }
    let of_server = |name: &str| {
        let mut all = facts.engine.settings.iter();
        all.any(|setting| setting.name == name)
    };
    let of_session = facts.session.settings.iter();
    for (name, value) in of_session.filter(|(name, _)| !of_server(name)) {
        rows.push([
            ("name", name.into()),
            ("value", value.into()),
            ("scope", "session".into()),
        ]);
    }
}

fn connections(facts: &SystemFacts, rows: &mut Rows) {
    for connection in &facts.engine.connections {
        rows.push([
            ("pid", connection.pid.into()),
            ("user_name", (&connection.user).into()),
            ("database", (&connection.database).into()),
            ("application_name", (&connection.application_name).into()),
            ("client_address", connection.client_address.clone().into()),
            ("started_at", connection.started_at_us.into()),
            ("state", (&connection.state).into()),
            ("query", connection.query.clone().into()),
        ]);
    }
}
