//! The engine's and the server's state in the form the system relations show.
//!
//! Invariant: facts are copies of one moment; a statement that names no system relation never asks for them.

use std::collections::BTreeSet;

use thalweg_engine::{CheckpointStatus, EngineStatus, JobStatus, SourceStatus};

use super::server::{ConnectionInfo, Server};
use crate::machine;
use crate::system::{
    CheckpointFacts, ConnectionFacts, EngineFacts, EpochFacts, ErrorFacts, JobFacts, MemoryFacts,
    ServerSetting, SourceFacts, SplitFacts,
};

/// True when a statement may read state of the engine: by schema, or through a search path that holds `sys`.
pub(super) fn wanted(text: &str, search_path: &[String]) -> bool {
    let lower = text.to_ascii_lowercase();
    lower.contains("sys")
        || lower.contains("pg_stat")
        || search_path.iter().any(|schema| schema == "sys")
}

/// Everything the system relations show of the engine and the server.
pub(super) fn collect(server: &Server) -> EngineFacts {
    let status = server.status();
    EngineFacts {
        jobs: status.jobs.iter().map(job).collect(),
        sources: status.sources.iter().map(source).collect(),
        epochs: epochs(&status),
        checkpoints: status.checkpoints.iter().map(checkpoint).collect(),
        errors: status
            .errors
            .iter()
            .map(|error| ErrorFacts {
                at_us: error.at_us,
                object: error.name.clone(),
                reason: error.sqlstate.clone(),
                message: error.message.clone(),
                epoch: error.epoch.map(|epoch| epoch.0),
                payload: None,
            })
            .collect(),
        memory: memory(&status, server),
        archive_files: server.engine.archive_files(),
        connections: server.connections().iter().map(connection).collect(),
        settings: settings(server),
    }
}

fn job(job: &JobStatus) -> JobFacts {
    JobFacts {
        oid: job.oid.0,
        state: job.phase.as_str().to_owned(),
        epoch: job.epoch.map(|epoch| epoch.0),
        error: job.error.clone(),
        retry_at_us: job.retry_at_us,
        backfill_done: job.backfill.map(|(done, _)| done),
        backfill_total: job.backfill.map(|(_, total)| total),
        kept_by: job.mode,
        state_bytes: u64::try_from(job.state_bytes).unwrap_or(u64::MAX),
        rows: u64::try_from(job.rows).unwrap_or(0),
        staged: job.staged.map(|epoch| epoch.0),
        delivered: job.delivered.map(|epoch| epoch.0),
        waiting_bytes: job.waiting_bytes,
    }
}

fn source(source: &SourceStatus) -> SourceFacts {
    let splits: BTreeSet<&String> = source
        .offsets
        .keys()
        .chain(source.high_watermarks.keys())
        .collect();
    SourceFacts {
        oid: source.oid.0,
        state: source.health.to_owned(),
        error: match source.health {
            "DEGRADED" | "ERROR" => source.detail.clone(),
            _ => None,
        },
        rows: source.records.saturating_sub(source.dead + source.skipped),
        bytes: 0,
        errors: source.dead,
        splits: splits
            .into_iter()
            .map(|split| SplitFacts {
                split: split.clone(),
                offset: source.offsets.get(split).copied(),
                end_offset: source.high_watermarks.get(split).copied(),
                watermark_us: None,
            })
            .collect(),
    }
}

fn epochs(status: &EngineStatus) -> Vec<EpochFacts> {
    status
        .epochs
        .iter()
        .map(|info| EpochFacts {
            epoch: info.epoch.0,
            at_ms: info.at_ms,
            durable: info.epoch <= status.durable,
            rows: None,
        })
        .collect()
}

fn checkpoint(checkpoint: &CheckpointStatus) -> CheckpointFacts {
    CheckpointFacts {
        number: checkpoint.number,
        epoch: checkpoint.epoch.0,
        started_at_ms: checkpoint.started_at_ms,
        duration_ms: u64::try_from(checkpoint.duration.as_millis()).unwrap_or(u64::MAX),
        bytes: checkpoint.bytes,
        runs: checkpoint.runs,
        error: checkpoint.error.clone(),
    }
}

fn memory(status: &EngineStatus, server: &Server) -> Vec<MemoryFacts> {
    let wide = |bytes: usize| u64::try_from(bytes).unwrap_or(u64::MAX);
    let all: usize = status.memory.iter().map(|part| part.bytes).sum();
    let fact = |component: &str, bytes: u64, limit_bytes: Option<u64>| MemoryFacts {
        component: component.into(),
        bytes,
        limit_bytes,
        spilled_bytes: 0,
    };
    let limit = wide(server.config().memory_bytes);
    let mut parts = vec![fact("all", wide(all), Some(limit))];
    parts.extend(status.memory.iter().map(|part| MemoryFacts {
        spilled_bytes: part.spilled,
        ..fact(&part.component, wide(part.bytes), part.limit.map(wide))
    }));
    let one = wide(server.config().query_memory_bytes);
    parts.push(fact("one query", 0, Some(one)));
    let resident = machine::resident_bytes();
    parts.extend(resident.map(|bytes| fact("process: resident", bytes, None)));
    parts
}

fn connection(info: &ConnectionInfo) -> ConnectionFacts {
    ConnectionFacts {
        pid: info.pid,
        user: info.user.clone(),
        database: info.database.clone(),
        application_name: info.application_name.clone(),
        client_address: None,
        started_at_us: Some(info.started_us),
        state: if info.active { "active" } else { "idle" }.to_owned(),
        query: (!info.statement.is_empty()).then(|| info.statement.clone()),
    }
}

/// What the server was started with.
pub(super) fn settings(server: &Server) -> Vec<ServerSetting> {
    let config = server.config();
    let setting = |name: &str, value: String, description: &str| ServerSetting {
        name: name.to_owned(),
        value,
        description: Some(description.to_owned()),
    };
    vec![
        setting(
            "workers",
            config.workers.to_string(),
            "Threads that keep a view up to date.",
        ),
        setting(
            "max_connections",
            config.max_connections.to_string(),
            "Client connections over which a new one is refused.",
        ),
        setting(
            "epoch_linger",
            format!("{} ms", config.epoch_linger.as_millis()),
            "How long an epoch waits for more source rows.",
        ),
        setting(
            "snapshot_history",
            format!("{} ms", config.snapshot_history.as_millis()),
            "How far back versions are kept.",
        ),
        setting(
            "memory_limit",
            format!("{} B", config.memory_bytes),
            "Memory of views, tables and queries together.",
        ),
        setting(
            "query_memory_limit",
            format!("{} B", config.query_memory_bytes),
            "Memory of one query.",
        ),
        setting(
            "checkpoint_interval",
            format!("{} ms", config.checkpoint_interval.as_millis()),
            "How often a checkpoint is made, when anything has changed.",
        ),
        setting(
            "disk_reserve",
            format!("{} B", config.disk_reserve),
            "Space that merges of runs leave free on the disk of the data dir.",
        ),
        setting(
            "file_root",
            config.file_root.display().to_string(),
            "Folder below which file sources read.",
        ),
    ]
}
