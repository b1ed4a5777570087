//! `thalweg bench archive`: how fast rows come into an archive and out of it, and what finding the files of a query costs.
//!
//! Invariant: what was written is counted before anything is timed over it, and we and DataFusion read the same files in turns, with
//! the same answer.

use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::Args;
use datafusion::prelude::{ParquetReadOptions, SessionContext};
use serde_json::{Value, json};
use tokio_postgres::Client;

use super::case::run;
use super::process::{cpu_s, machine, median, peak_rss_bytes};
use crate::boot::Running;
use crate::cli::{Failure, client, serve};
use crate::config::Config;
use crate::testing::scratch_dir;

/// Rows of one INSERT, each of about 200 bytes.
const ROWS: u64 = 200_000;

#[derive(Debug, Args, Clone)]
pub(super) struct ArchiveArguments {
    /// How many times 200,000 rows are written.
    #[arg(long, default_value_t = 10)]
    inserts: u32,
    /// Files of the archive that queries are planned over.
    #[arg(long, default_value_t = 10_000)]
    files: u32,
    /// Times a query is measured; the median counts.
    #[arg(long, default_value_t = 5)]
    runs: u16,
    /// Engine worker threads.
    #[arg(long, default_value_t = 1)]
    workers: usize,
    /// Where the archives are made; a temporary folder without it.
    #[arg(long)]
    folder: Option<PathBuf>,
}

pub(super) async fn measure(arguments: &ArchiveArguments) -> Result<Value, Failure> {
    let data_dir = scratch_dir();
    let folder = arguments.folder.clone();
    let folder = folder.unwrap_or_else(|| data_dir.join("archives"));
    std::fs::create_dir_all(&folder).map_err(super::io("create the folder"))?;
    let folder = std::path::absolute(&folder).map_err(super::io("find the folder"))?;
    let config = || {
        let mut config = Config {
            file_root: folder.clone(),
            ..Config::ephemeral(data_dir.clone())
        };
        let set = config.set_workers(arguments.workers);
        set.map_err(|error| Failure::User(error.to_string()))?;
        Ok(config)
    };
    let running = serve::start(config()?).await?;
    let found = written_and_scanned(&running, arguments, &folder).await;
    running.stop().await;
    let found = match found {
        Ok(found) => found,
        Err(failure) => {
            let _kept = std::fs::remove_dir_all(&data_dir);
            return Err(failure);
        }
    };
    // Another process would have read nothing of the manifests yet.
    let running = serve::start(config()?).await?;
    let planned = planned(&running, arguments).await;
    running.stop().await;
    let _kept = std::fs::remove_dir_all(&data_dir);
    Ok(json!({
        "debug": cfg!(debug_assertions),
        "machine": machine(),
        "written": found.0,
        "scanned": found.1,
        "planned": planned?,
        "peak_rss_bytes": peak_rss_bytes(),
    }))
}

async fn written_and_scanned(
    running: &Running,
    arguments: &ArchiveArguments,
    folder: &Path,
) -> Result<(Value, Value), Failure> {
    let client = client::connect(running.pg).await?;
    let written = write(&client, arguments).await?;
    let scanned = scan(&client, arguments, &folder.join("lake")).await?;
    let files = arguments.files;
    let create = "CREATE ARCHIVE many (n bigint, p int) PARTITION BY (p) WITH (connector = 'file', path = 'many')";
    run(&client, create).await?;
    let fill =
        format!("INSERT INTO many SELECT n, (n % {files})::int FROM generate_series(1, {files}) n");
    run(&client, &fill).await?;
    Ok((written, scanned))
}

/// Rows per second of INSERTs whose rows are there already.
async fn write(client: &Client, arguments: &ArchiveArguments) -> Result<Value, Failure> {
    let prepare = format!(
        "CREATE TABLE ready (id bigint, user_id bigint, at timestamptz, price numeric(12, 2), a text, b text, c text, d text, e text); \
         INSERT INTO ready SELECT n, n % 5000, TIMESTAMPTZ '2026-01-01 00:00:00Z' + n * INTERVAL '1 second', n / 4.0, \
         md5(n::text), md5((n + 1)::text), md5((n % 100)::text), md5((n + 3)::text), 'https://example.org/' || n % 1000 \
         FROM generate_series(1, {ROWS}) n; \
         CREATE ARCHIVE lake (id bigint, user_id bigint, at timestamptz, price numeric(12, 2), a text, b text, c text, d text, e text) \
         WITH (connector = 'file', path = 'lake')"
    );
    run(client, &prepare).await?;
    let (started, before) = (Instant::now(), cpu_s()?);
    for _ in 0..arguments.inserts {
        run(client, "INSERT INTO lake SELECT * FROM ready").await?;
    }
    let (wall_s, used_s) = (started.elapsed().as_secs_f64(), cpu_s()? - before);
    let rows = ROWS * u64::from(arguments.inserts);
    let counted = run(client, "SELECT count(*) FROM lake").await?;
    if counted != rows.to_string() {
        return Err(Failure::User(format!(
            "{rows} rows were written, and the archive has {counted}"
        )));
    }
    let bytes = "SELECT sum(bytes)::bigint FROM sys.archive_files WHERE archive = 'lake'";
    Ok(json!({
        "rows": rows,
        "wall_s": wall_s,
        "cpu_s": used_s,
        "rows_per_s": rows as f64 / wall_s.max(0.001),
        "file_bytes": run(client, bytes).await?.parse::<u64>().ok(),
    }))
}

/// The same query by us and by DataFusion, in turns.
async fn scan(
    client: &Client,
    arguments: &ArchiveArguments,
    files: &Path,
) -> Result<Value, Failure> {
    let failed = |error: datafusion::error::DataFusionError| Failure::User(error.to_string());
    let text = "SELECT sum(id)::bigint, max(user_id), count(at) FROM lake";
    let theirs = SessionContext::new();
    let options = ParquetReadOptions::default();
    theirs
        .register_parquet("lake", files.to_string_lossy(), options)
        .await
        .map_err(failed)?;
    let plain = "SELECT sum(id), max(user_id), count(at) FROM lake";
    let (mut ours_ms, mut theirs_ms) = (Vec::new(), Vec::new());
    for _ in 0..arguments.runs.max(1) {
        let started = Instant::now();
        let ours = run(client, text).await?;
        ours_ms.push(started.elapsed().as_secs_f64() * 1e3);
        let started = Instant::now();
        let batches = theirs.sql(plain).await.map_err(failed)?;
        let batches = batches.collect().await.map_err(failed)?;
        theirs_ms.push(started.elapsed().as_secs_f64() * 1e3);
        let found = datafusion::arrow::util::pretty::pretty_format_batches(&batches);
        let found = found.map_err(|error| Failure::Internal(error.to_string()))?;
        let found = found.to_string();
        if !ours.split(' ').all(|value| found.contains(value)) {
            return Err(Failure::User(format!("we read {ours}, DataFusion {found}")));
        }
    }
    let (ours_ms, theirs_ms) = (median(ours_ms), median(theirs_ms));
    Ok(json!({
        "ours_ms": ours_ms,
        "datafusion_ms": theirs_ms,
        "speed_of_datafusion": theirs_ms.zip(ours_ms).map(|(theirs, ours)| theirs / ours),
    }))
}

/// What EXPLAIN takes over an archive of many files: the first time, and once its manifests are known.
async fn planned(running: &Running, arguments: &ArchiveArguments) -> Result<Value, Failure> {
    let client = client::connect(running.pg).await?;
    let text = format!(
        "EXPLAIN SELECT n FROM many WHERE p = {}",
        arguments.files / 2
    );
    let mut taken_ms = Vec::new();
    for _ in 0..=arguments.runs {
        let started = Instant::now();
        run(&client, &text).await?;
        taken_ms.push(started.elapsed().as_secs_f64() * 1e3);
    }
    let first_ms = taken_ms.remove(0);
    Ok(json!({ "files": arguments.files, "first_ms": first_ms, "next_ms": median(taken_ms) }))
}
