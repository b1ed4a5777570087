//! `thalweg bench durable`: what checkpoints cost, how long a restart takes, and how fast an exactly-once sink is.
//!
//! Invariant: every server runs in a process of its own; the one that is recovered from was aborted, so nothing was tidied up for it.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;
use futures::TryStreamExt;
use serde_json::{Value, json};
use tokio_postgres::Client;

use super::case::run;
use super::process::{cpu_s, machine, median, own_process, peak_rss_bytes, told};
use crate::boot::Running;
use crate::cli::{Failure, client, serve};
use crate::config::Config;
use crate::testing::scratch_dir;

/// Folder of each server's data.
const DATA: &str = "data";

/// Folder of the rows that are aggregated.
const READY: &str = "ready";

/// Folder that the aggregated source follows.
const FEED: &str = "feed";

#[derive(Debug, Args, Clone)]
pub(super) struct DurableArguments {
    /// Rows that are aggregated with and without checkpoints.
    #[arg(long, default_value_t = 12_000_000)]
    rows: u64,
    /// Groups of that aggregation.
    #[arg(long, default_value_t = 1_000_000)]
    groups: u64,
    /// Rows per second of the run at a pace, which takes ten seconds.
    #[arg(long, default_value_t = 300_000)]
    rate: u64,
    /// Groups of the view that is recovered.
    #[arg(long, default_value_t = 10_000_000)]
    recovered: u64,
    /// Rows that a sink delivers.
    #[arg(long, default_value_t = 4_000_000)]
    delivered: u64,
    /// Kafka brokers for the sink, as host:port; without it that part is left out. A topic is made, and stays.
    #[arg(long)]
    brokers: Option<String>,
    /// Pairs of runs with and without checkpoints; the median ratio counts, of throughput and of CPU time at a pace.
    #[arg(long, default_value_t = 3)]
    runs: u16,
    /// Engine worker threads.
    #[arg(long, default_value_t = 1)]
    workers: usize,
    /// Where data dirs are made; a temporary folder without it.
    #[arg(long)]
    folder: Option<PathBuf>,
    /// The one part that this process measures.
    #[arg(long, hide = true, requires = "folder")]
    part: Option<Part>,
}

/// What one process does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// Writes the files that the next two read.
    Prepare,
    /// Aggregates rows as fast as they are taken, with a checkpoint every second.
    Saved,
    /// The same without any.
    Unsaved,
    /// Aggregates rows that come at a pace, with a checkpoint every second.
    PacedSaved,
    /// The same without any.
    PacedUnsaved,
    /// Fills a view, waits until it is saved, and aborts.
    Fill,
    /// Starts over what `Fill` left.
    Recover,
    /// Delivers to Kafka.
    Sink,
}

impl Part {
    fn name(self) -> &'static str {
        match self {
            Self::Prepare => "prepare",
            Self::Saved => "saved",
            Self::Unsaved => "unsaved",
            Self::PacedSaved => "paced-saved",
            Self::PacedUnsaved => "paced-unsaved",
            Self::Fill => "fill",
            Self::Recover => "recover",
            Self::Sink => "sink",
        }
    }
}

pub(super) async fn measure(arguments: &DurableArguments) -> Result<Value, Failure> {
    if let (Some(part), Some(folder)) = (arguments.part, &arguments.folder) {
        return measure_part(part, arguments, folder).await;
    }
    let scratch = scratch_dir();
    let folder = arguments.folder.as_ref().unwrap_or(&scratch);
    let found = measure_all(arguments, folder);
    for made in [DATA, READY, FEED] {
        let _absent = std::fs::remove_dir_all(folder.join(made));
    }
    let _kept = std::fs::remove_dir_all(&scratch);
    found
}

fn measure_all(arguments: &DurableArguments, folder: &Path) -> Result<Value, Failure> {
    let child = |part| child(part, arguments, folder);
    child(Part::Prepare)?;
    let flooded = pairs(&child, arguments.runs, Part::Saved, Part::Unsaved, "wall_s")?;
    let (saved, unsaved) = (Part::PacedSaved, Part::PacedUnsaved);
    let paced = pairs(&child, arguments.runs, saved, unsaved, "cpu_s")?;
    child(Part::Fill)?;
    let recovered = child(Part::Recover)?;
    let delivered = arguments.brokers.as_ref().map(|_| child(Part::Sink));
    Ok(json!({
        "debug": cfg!(debug_assertions),
        "machine": machine(),
        "workers": arguments.workers,
        "flooded": flooded,
        "paced": paced,
        "recovered": recovered,
        "delivered": delivered.transpose()?,
    }))
}

/// Runs two parts in turns; tells what one took in relation to the other.
fn pairs(
    child: &dyn Fn(Part) -> Result<Value, Failure>,
    runs: u16,
    saved: Part,
    unsaved: Part,
    figure: &str,
) -> Result<Value, Failure> {
    let (mut pairs, mut ratios) = (Vec::new(), Vec::new());
    for _ in 0..runs.max(1) {
        let (saved, unsaved) = (child(saved)?, child(unsaved)?);
        let taken = |found: &Value| found.get(figure).and_then(Value::as_f64);
        ratios.extend(taken(&saved).zip(taken(&unsaved)).map(|(a, b)| a / b));
        pairs.push(json!({ "saved": saved, "unsaved": unsaved }));
    }
    Ok(json!({ "figure": figure, "ratio": median(ratios), "pairs": pairs }))
}

/// Runs a part in a process of its own. `Fill` ends by an abort and tells nothing.
fn child(part: Part, arguments: &DurableArguments, folder: &Path) -> Result<Value, Failure> {
    if part != Part::Recover {
        let _absent = std::fs::remove_dir_all(folder.join(DATA));
    }
    let mut given: Vec<OsString> = vec!["durable".into(), "--part".into(), part.name().into()];
    given.extend(["--folder".into(), folder.into()]);
    for (name, value) in [
        ("--rows", arguments.rows),
        ("--groups", arguments.groups),
        ("--rate", arguments.rate),
        ("--recovered", arguments.recovered),
        ("--delivered", arguments.delivered),
        ("--workers", arguments.workers as u64),
    ] {
        given.extend([name.into(), value.to_string().into()]);
    }
    if let Some(brokers) = &arguments.brokers {
        given.extend(["--brokers".into(), brokers.into()]);
    }
    let output = own_process(given)?;
    if part == Part::Fill && output.stdout == FILLED.as_bytes() {
        return Ok(Value::Null);
    }
    told(&output, &format!("part {}", part.name()))
}

/// What the process says that fills a view, before it aborts.
const FILLED: &str = "filled";

async fn measure_part(
    part: Part,
    arguments: &DurableArguments,
    folder: &Path,
) -> Result<Value, Failure> {
    let mut config = Config {
        file_root: folder.to_owned(),
        ..Config::ephemeral(folder.join(DATA))
    };
    let set = config.set_workers(arguments.workers);
    set.map_err(|error| Failure::User(error.to_string()))?;
    if matches!(part, Part::Unsaved | Part::PacedUnsaved) {
        config.checkpoint_interval = Duration::from_secs(24 * 3600);
    }
    let started = Instant::now();
    let running = serve::start(config).await?;
    let client = client::connect(running.pg).await?;
    let found = match part {
        Part::Prepare => prepare(&client, arguments).await?,
        Part::Saved | Part::Unsaved => flood(&running, &client, arguments, folder).await?,
        Part::PacedSaved | Part::PacedUnsaved => pace(&running, &client, arguments).await?,
        Part::Fill => {
            fill(&running, &client, arguments.recovered).await?;
            use std::io::Write;
            let mut out = std::io::stdout();
            let said = out.write_all(FILLED.as_bytes()).and_then(|()| out.flush());
            said.map_err(super::io("say that the view is filled"))?;
            std::process::abort()
        }
        Part::Recover => recover(&client, arguments.recovered, started).await?,
        Part::Sink => deliver(&client, arguments).await?,
    };
    running.stop().await;
    Ok(found)
}

/// Compares what a statement answers.
async fn expect(client: &Client, text: &str, wanted: &str) -> Result<(), Failure> {
    let found = run(client, text).await?;
    if found != wanted {
        let what = format!("{text} says {found} instead of {wanted}");
        return Err(Failure::User(what));
    }
    Ok(())
}

/// Writes the rows as Parquet files, each of a million.
async fn prepare(client: &Client, arguments: &DurableArguments) -> Result<Value, Failure> {
    const FILE_ROWS: u64 = 1_000_000;
    let (rows, groups) = (arguments.rows, arguments.groups);
    let create = format!(
        "CREATE ARCHIVE ready (k bigint, v bigint) WITH (connector = 'file', path = '{READY}')"
    );
    run(client, &create).await?;
    for first in (0..rows).step_by(FILE_ROWS as usize) {
        let last = rows.min(first + FILE_ROWS) - 1;
        // A prime that no count of groups we ask for is a multiple of: each group comes once before any comes again.
        let fill = format!(
            "INSERT INTO ready SELECT (n::bigint * 7368787) % {groups}, n % 1000 FROM generate_series({first}, {last}) AS t(n)"
        );
        run(client, &fill).await?;
    }
    expect(client, "SELECT count(*) FROM ready", &rows.to_string()).await?;
    Ok(Value::Null)
}

/// Links every Parquet file below one folder into another.
fn link_files(from: &Path, to: &Path) -> std::io::Result<()> {
    for entry in std::fs::read_dir(from)? {
        let path = entry?.path();
        if path.is_dir() {
            link_files(&path, to)?;
        } else if let Some(name) = path.file_name()
            && path.extension().is_some_and(|kind| kind == "parquet")
        {
            std::fs::hard_link(&path, to.join(name))?;
        }
    }
    Ok(())
}

/// A source of numbered or random keys.
fn numbers(rows: u64, more: &str) -> String {
    format!(
        "CREATE SOURCE numbers (k bigint, v bigint) WITH (connector = 'datagen', rows = {rows}, seed = 1, {more}, fields.k.start = 1, \
         fields.v.kind = 'random', fields.v.start = 0, fields.v.end = 999)"
    )
}

const IN_ORDER: &str = "fields.k.kind = 'sequence'";

const AGGREGATE: &str = "CREATE MATERIALIZED VIEW measured AS SELECT k, count(*) AS n, sum(v) AS total FROM numbers GROUP BY k";

/// Aggregates rows that come, as fast as they are taken, while the view is there.
async fn flood(
    running: &Running,
    client: &Client,
    arguments: &DurableArguments,
    folder: &Path,
) -> Result<Value, Failure> {
    let feed = folder.join(FEED);
    let _absent = std::fs::remove_dir_all(&feed);
    std::fs::create_dir_all(&feed).map_err(super::io("create the folder of the feed"))?;
    let create = format!(
        "CREATE SOURCE numbers (k bigint, v bigint) WITH (connector = 'file', path = '{FEED}/*.parquet', \
         format = 'parquet', follow = 'true'); {AGGREGATE}"
    );
    run(client, &create).await?;
    run(client, "WAIT FOR measured").await?;
    let (started, before) = (Instant::now(), cpu_s()?);
    link_files(&folder.join(READY), &feed).map_err(super::io("fill the feed"))?;
    run(client, "WAIT FOR measured").await?;
    let (wall_s, used_s) = (started.elapsed().as_secs_f64(), cpu_s()? - before);
    aggregated(running, client, arguments.rows, wall_s, used_s).await
}

/// Aggregates rows that come at a pace which leaves room.
async fn pace(
    running: &Running,
    client: &Client,
    arguments: &DurableArguments,
) -> Result<Value, Failure> {
    const SECONDS: u64 = 10;
    let (rate, groups) = (arguments.rate, arguments.groups);
    let rows = rate * SECONDS;
    let pace =
        format!("rows_per_second = {rate}, fields.k.kind = 'random', fields.k.end = {groups}");
    let count = "CREATE MATERIALIZED VIEW arrived AS SELECT count(*) AS n FROM numbers";
    let create = format!("{}; {count}; {AGGREGATE}", numbers(rows, &pace));
    let (started, before) = (Instant::now(), cpu_s()?);
    run(client, &create).await?;
    until_arrived(running, rows).await?;
    run(client, "WAIT FOR measured").await?;
    let (wall_s, used_s) = (started.elapsed().as_secs_f64(), cpu_s()? - before);
    aggregated(running, client, rows, wall_s, used_s).await
}

/// Follows the count of the rows until all are there, on a connection that ends with the subscription.
async fn until_arrived(running: &Running, rows: u64) -> Result<(), Failure> {
    let failed = |error| Failure::User(client::describe(&error));
    let follower = client::connect(running.pg).await?;
    let changes = follower
        .copy_out("COPY (SUBSCRIBE arrived) TO STDOUT")
        .await;
    let mut changes = pin!(changes.map_err(failed)?);
    let last = format!("\t1\t{rows}");
    while let Some(lines) = changes.try_next().await.map_err(failed)? {
        let lines = String::from_utf8_lossy(&lines);
        if lines.lines().any(|line| line.ends_with(&last)) {
            return Ok(());
        }
    }
    Err(Failure::Internal("the rows stopped coming".into()))
}

/// Counts the rows, and tells what they took, which checkpoints were made meanwhile, and what merging them has cost so far.
async fn aggregated(
    running: &Running,
    client: &Client,
    rows: u64,
    wall_s: f64,
    used_s: f64,
) -> Result<Value, Failure> {
    expect(client, "SELECT sum(n) FROM measured", &rows.to_string()).await?;
    let made = "SELECT count(*), coalesce(sum(bytes), 0)::bigint, coalesce(max(duration_ms), 0) FROM sys.checkpoints";
    let made = run(client, made).await?;
    let mut made = made.split(' ').map(|value| value.parse::<u64>().ok());
    let merged = running.server.status().merged.into_iter();
    let merged = merged.map(|(level, bytes)| {
        json!({
            "level": level,
            "read_bytes": bytes.read,
            "written_bytes": bytes.written,
            "write_amplification": bytes.written as f64 / bytes.read as f64,
        })
    });
    Ok(json!({
        "rows": rows,
        "wall_s": wall_s,
        "cpu_s": used_s,
        "rows_per_s": rows as f64 / wall_s,
        "checkpoints": made.next().flatten(),
        "checkpoint_bytes": made.next().flatten(),
        "longest_checkpoint_ms": made.next().flatten(),
        "merges": merged.collect::<Vec<_>>(),
        "peak_rss_bytes": peak_rss_bytes(),
    }))
}

/// Fills a view and waits until all of it is in a checkpoint.
async fn fill(running: &Running, client: &Client, groups: u64) -> Result<(), Failure> {
    let create = format!("{}; {AGGREGATE}", numbers(groups, IN_ORDER));
    run(client, &create).await?;
    run(client, "WAIT FOR measured").await?;
    let server = Arc::clone(&running.server);
    let saved = tokio::task::spawn_blocking(move || server.checkpoint()).await;
    let saved = saved.map_err(|error| Failure::Internal(error.to_string()))?;
    saved.map_err(|report| Failure::User(report.message))?;
    Ok(())
}

/// How long after the start of the process a view answers.
async fn recover(client: &Client, groups: u64, started: Instant) -> Result<Value, Failure> {
    let (ready_s, last) = (started.elapsed().as_secs_f64(), format!("{groups} 1"));
    let point = format!("SELECT k, n FROM measured WHERE k = {groups}");
    expect(client, &point, &last).await?;
    let answer_s = started.elapsed().as_secs_f64();
    let all = "SELECT count(*), sum(n) FROM measured";
    expect(client, all, &format!("{groups} {groups}")).await?;
    let whole_s = started.elapsed().as_secs_f64();
    run(client, "WAIT FOR measured").await?;
    Ok(json!({
        "groups": groups,
        "ready_s": ready_s,
        "first_answer_s": answer_s,
        "whole_answer_s": whole_s,
        "going_on_s": started.elapsed().as_secs_f64(),
        "cpu_s": cpu_s()?,
        "peak_rss_bytes": peak_rss_bytes(),
    }))
}

/// How long an exactly-once sink takes from its statement until the broker has committed every row.
async fn deliver(client: &Client, arguments: &DurableArguments) -> Result<Value, Failure> {
    let rows = arguments.delivered;
    let brokers = arguments.brokers.as_deref().unwrap_or_default();
    let topic = format!("thalweg_bench_sink_{}", std::process::id());
    thalweg_connectors::fill_with_nexmark(brokers, &topic, 0, 1)
        .await
        .map_err(|error| Failure::User(error.to_string()))?;
    let create = format!(
        "{}; CREATE SINK measured AS SELECT k, v FROM numbers WITH (connector = 'kafka', topic = '{topic}', \
         properties.bootstrap.server = '{brokers}') FORMAT PLAIN ENCODE JSON",
        numbers(rows, IN_ORDER)
    );
    let (started, before) = (Instant::now(), cpu_s()?);
    run(client, &create).await?;
    // Returns when everything is delivered.
    run(client, "WAIT FOR measured").await?;
    let (wall_s, used_s) = (started.elapsed().as_secs_f64(), cpu_s()? - before);
    let delivered = "SELECT rows, waiting_bytes FROM sys.sinks WHERE name = 'measured'";
    expect(client, delivered, &format!("{rows} 0")).await?;
    Ok(json!({
        "rows": rows,
        "wall_s": wall_s,
        "cpu_s": used_s,
        "rows_per_s": rows as f64 / wall_s,
        "peak_rss_bytes": peak_rss_bytes(),
    }))
}
