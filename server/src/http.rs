//! `/healthz` and `/metrics` for probes and Prometheus.
//!
//! Invariant: answering never waits for the engine; both pages read counters and the last published status.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use prometheus::{Encoder, IntGaugeVec, Opts, Registry, TextEncoder};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use thalweg_engine::{EngineStatus, JobPhase, MemoryPart};

use crate::frontend::Server;
use crate::machine;

/// Serves until `shutdown`.
pub(crate) async fn serve(listener: TcpListener, server: Arc<Server>, shutdown: CancellationToken) {
    let router = Router::new()
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/metrics", get(metrics))
        .with_state(server);
    let ended = axum::serve(listener, router)
        .with_graceful_shutdown(async move { shutdown.cancelled().await })
        .await;
    if let Err(error) = ended {
        tracing::error!(%error, "http listener ended");
    }
}

async fn metrics(State(server): State<Arc<Server>>) -> impl IntoResponse {
    match render(&server) {
        Ok(text) => (
            StatusCode::OK,
            [(header::CONTENT_TYPE, "text/plain; version=0.0.4")],
            text,
        ),
        Err(error) => (
            StatusCode::INTERNAL_SERVER_ERROR,
            [(header::CONTENT_TYPE, "text/plain; charset=utf-8")],
            error.to_string(),
        ),
    }
}

fn family(
    registry: &Registry,
    name: &str,
    help: &str,
    labels: &[&str],
) -> Result<IntGaugeVec, prometheus::Error> {
    let family = IntGaugeVec::new(Opts::new(name, help), labels)?;
    registry.register(Box::new(family.clone()))?;
    Ok(family)
}

/// Who holds how much memory, what is on disk for want of it, and what the process has.
fn memory(
    registry: &Registry,
    server: &Server,
    parts: &[MemoryPart],
) -> Result<(), prometheus::Error> {
    let bytes = |name: &str, help: &str| family(registry, name, help, &["component"]);
    let held = bytes("thalweg_memory_bytes", "Memory held, by component.")?;
    let spilled = bytes(
        "thalweg_memory_spilled_bytes",
        "What a component has on disk, for want of memory.",
    )?;
    for part in parts {
        let component = [part.component.as_str()];
        held.with_label_values(&component).set(part.bytes as i64);
        if part.spilled > 0 {
            let on_disk = i64::try_from(part.spilled).unwrap_or(i64::MAX);
            spilled.with_label_values(&component).set(on_disk);
        }
    }
    let limit = family(registry, "thalweg_memory_limit_bytes", "memory_limit.", &[])?;
    let limit_bytes = i64::try_from(server.config().memory_bytes).unwrap_or(i64::MAX);
    limit.with_label_values::<&str>(&[]).set(limit_bytes);
    let resident = family(
        registry,
        "thalweg_resident_bytes",
        "Memory of the process, as the system counts it.",
        &[],
    )?;
    if let Some(bytes) = machine::resident_bytes() {
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
        resident.with_label_values::<&str>(&[]).set(bytes);
    }
    Ok(())
}

/// What merges of saved state cost.
fn merges(registry: &Registry, status: &EngineStatus) -> Result<(), prometheus::Error> {
    let bytes = |name: &str, help: &str| family(registry, name, help, &["level"]);
    let read = bytes(
        "thalweg_merge_read_bytes_total",
        "Bytes of saved state that were merged, by the level of the result.",
    )?;
    let written = bytes(
        "thalweg_merge_written_bytes_total",
        "Bytes that merges of saved state wrote, by level.",
    )?;
    for (level, merged) in &status.merged {
        let level = [level.to_string()];
        read.with_label_values(&level).set(merged.read as i64);
        written.with_label_values(&level).set(merged.written as i64);
    }
    Ok(())
}

/// Builds the page from the published status. Values are read, not accumulated here, so a scrape changes nothing.
fn render(server: &Server) -> Result<String, prometheus::Error> {
    let registry = Registry::new();
    let connections = family(
        &registry,
        "thalweg_connections",
        "Open client connections.",
        &[],
    )?;
    connections
        .with_label_values::<&str>(&[])
        .set(server.connections().len() as i64);
    let statements = family(
        &registry,
        "thalweg_statements_total",
        "Statements executed, by outcome.",
        &["outcome"],
    )?;
    let (ok, failed) = server.statement_counts();
    statements.with_label_values(&["ok"]).set(ok as i64);
    statements.with_label_values(&["error"]).set(failed as i64);
    let status = server.status();
    let epoch = family(&registry, "thalweg_epoch", "Newest published epoch.", &[])?;
    epoch
        .with_label_values::<&str>(&[])
        .set(status.latest.epoch.0 as i64);
    let records = family(
        &registry,
        "thalweg_source_records_total",
        "Records read, by source and fate.",
        &["source", "fate"],
    )?;
    for source in &status.sources {
        records
            .with_label_values(&[source.name.as_str(), "read"])
            .set(source.records as i64);
        records
            .with_label_values(&[source.name.as_str(), "dead_letter"])
            .set(source.dead as i64);
        records
            .with_label_values(&[source.name.as_str(), "skipped"])
            .set(source.skipped as i64);
    }
    let scanned = family(
        &registry,
        "thalweg_source_records_scanned_total",
        "Records read for views that begin or were left behind, each as often as it was.",
        &["source"],
    )?;
    for source in &status.sources {
        scanned
            .with_label_values(&[source.name.as_str()])
            .set(source.scanned as i64);
    }
    let rows = family(
        &registry,
        "thalweg_view_rows",
        "Rows of a materialized view.",
        &["view"],
    )?;
    let healthy = family(
        &registry,
        "thalweg_job_healthy",
        "1 when the job runs, 0 when it is in ERROR.",
        &["job"],
    )?;
    for job in &status.jobs {
        rows.with_label_values(&[job.name.as_str()]).set(job.rows);
        healthy
            .with_label_values(&[job.name.as_str()])
            .set(i64::from(job.phase != JobPhase::Error));
    }
    memory(&registry, server, &status.memory)?;
    merges(&registry, &status)?;
    let mut text = Vec::new();
    TextEncoder::new().encode(&registry.gather(), &mut text)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}
