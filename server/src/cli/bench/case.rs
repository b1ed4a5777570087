//! One case in one process: a server of its own, the sources, the query, and what they cost.
//!
//! Invariant: the clock runs from the statement that starts the query to the moment its result reflects every event.

use std::path::Path;
use std::time::Instant;

use serde_json::{Value, json};
use tokio_postgres::{Client, SimpleQueryMessage};

use super::process::{cpu_s, peak_rss_bytes};
use super::queries::{Case, Input, Output};
use super::{CaseArguments, file_name, topic_name};
use crate::boot::Running;
use crate::cli::{Failure, client, serve};
use crate::config::Config;
use crate::testing::scratch_dir;

/// Runs a case and tells what it took, or that its answer is right.
pub(super) async fn measure(
    case: &Case,
    arguments: &CaseArguments,
    folder: &Path,
) -> Result<Value, Failure> {
    let events = arguments.events;
    let data_dir = scratch_dir();
    let mut config = Config {
        file_root: folder.to_owned(),
        ..Config::ephemeral(data_dir.clone())
    };
    config
        .set_workers(arguments.workers)
        .map_err(|error| Failure::User(error.to_string()))?;
    if let Some(bytes) = case.memory_bytes.filter(|_| !arguments.check) {
        config.memory_bytes = bytes;
    }
    if let (Input::Kafka, Some(brokers)) = (case.input, &arguments.brokers) {
        thalweg_connectors::fill_with_nexmark(brokers, &topic_name(events), events, 1)
            .await
            .map_err(|error| Failure::User(error.to_string()))?;
    }
    let running = serve::start(config).await?;
    let found = with_server(&running, case, arguments).await;
    running.stop().await;
    let _kept = std::fs::remove_dir_all(&data_dir);
    found
}

async fn with_server(
    running: &Running,
    case: &Case,
    arguments: &CaseArguments,
) -> Result<Value, Failure> {
    let (events, check) = (arguments.events, arguments.check);
    let client = client::connect(running.pg).await?;
    let sources = case
        .sources
        .replace("{events}", &events.to_string())
        .replace("{half}", &(events / 2).to_string())
        .replace("{file}", &file_name(events))
        .replace(
            "{brokers}",
            arguments.brokers.as_deref().unwrap_or_default(),
        )
        .replace("{topic}", &topic_name(events));
    run(&client, &sources).await?;
    match (check, case.input) {
        (true, Input::Live) => Ok(json!({ "query": case.name })),
        (true, _) => compare(&client, case).await,
        (false, Input::Live) => freshness(&client, case, events).await,
        (false, Input::None) => statements(&client, case, events).await,
        (false, _) => query(running, &client, case, events).await,
    }
}

/// The first row of the result, its values one after the other.
pub(super) async fn run(client: &Client, text: &str) -> Result<String, Failure> {
    let messages = client
        .simple_query(text)
        .await
        .map_err(|error| Failure::User(format!("{}\nin: {text}", client::describe(&error))))?;
    let row = messages.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    });
    Ok(row.map_or(String::new(), |row| {
        let values: Vec<&str> = (0..row.len())
            .map(|at| row.get(at).unwrap_or("NULL"))
            .collect();
        values.join(" ")
    }))
}

/// Compares the answer of a view with the answer of the same query over all events at once.
async fn compare(client: &Client, case: &Case) -> Result<Value, Failure> {
    let (query, fingerprint) = (case.query, case.fingerprint);
    let view = format!("CREATE MATERIALIZED VIEW checked AS {query}");
    run(client, &view).await?;
    run(client, "WAIT FOR checked").await?;
    let kept = run(client, &format!("SELECT {fingerprint} FROM checked")).await?;
    let batch = format!("SELECT {fingerprint} FROM ({query}) AS batch");
    let computed = run(client, &batch).await?;
    let empty = case.input != Input::None && (kept.is_empty() || kept.starts_with("0 "));
    if kept != computed || empty {
        return Err(Failure::User(format!(
            "query {} is wrong: the view has {kept}, the batch {computed}",
            case.name
        )));
    }
    Ok(json!({ "query": case.name, "fingerprint": kept }))
}

/// What a query costs.
async fn query(
    running: &Running,
    client: &Client,
    case: &Case,
    events: u64,
) -> Result<Value, Failure> {
    let before = cpu_s()?;
    if case.input == Input::Memory {
        for name in case.names {
            run(client, &format!("WAIT FOR {name}")).await?;
        }
    }
    let (started, loaded) = (Instant::now(), cpu_s()?);
    let create = match case.output {
        Output::Blackhole => format!(
            "CREATE SINK measured AS {} WITH (connector = 'blackhole')",
            case.query
        ),
        Output::View => format!("CREATE MATERIALIZED VIEW measured AS {}", case.query),
    };
    run(client, &create).await?;
    let ddl_ms = started.elapsed().as_secs_f64() * 1e3;
    run(client, "WAIT FOR measured").await?;
    let (wall_s, used_s) = (started.elapsed().as_secs_f64(), cpu_s()? - loaded);
    let status = running.server.status();
    let job = status.jobs.iter().find(|job| job.name == "measured");
    let state_bytes = job.map_or(0, |job| job.state_bytes);
    let rows = job.map_or(0, |job| job.rows);
    // A view of one row has its groups below it, and nobody counts them here.
    let per_group =
        (case.output == Output::View && rows > 1).then(|| state_bytes as f64 / rows as f64);
    Ok(json!({
        "query": case.name,
        "events": events,
        "wall_s": wall_s,
        "cpu_s": used_s,
        "events_per_cpu_s": events as f64 / used_s.max(0.01),
        "load_cpu_s": loaded - before,
        "peak_rss_bytes": peak_rss_bytes(),
        "rows": rows,
        "mode": job.map(|job| job.mode),
        "state_bytes": state_bytes,
        "state_bytes_per_group": per_group,
        "ddl_ms": ddl_ms,
    }))
}

/// How old events are when a reader of the view can first see them, from the moment they were due. Time between two looks counts
/// as theirs.
async fn freshness(client: &Client, case: &Case, looks: u64) -> Result<Value, Failure> {
    /// Samples of the events that one look shows first, evenly from the oldest to the newest.
    const PER_LOOK: u32 = 16;
    let create = format!("CREATE MATERIALIZED VIEW measured AS {}", case.query);
    run(client, &create).await?;
    run(client, "WAIT FOR measured").await?;
    let text = "SELECT extract(epoch FROM newest), n FROM measured";
    let (mut ages_ms, mut before_s, mut rows) = (Vec::new(), None, 0_u64);
    let started = Instant::now();
    for _ in 0..looks {
        let found = run(client, text).await?;
        let now_s = std::time::UNIX_EPOCH
            .elapsed()
            .map_or(0.0, |since| since.as_secs_f64());
        let mut values = found.split(' ');
        let newest = values.next().and_then(|text| text.parse::<f64>().ok());
        rows = values
            .next()
            .and_then(|text| text.parse().ok())
            .unwrap_or(rows);
        let Some(newest_s) = newest else { continue };
        if let Some(before_s) = before_s.filter(|before_s| *before_s < newest_s) {
            ages_ms.extend((1..=PER_LOOK).map(|step| {
                let due_s =
                    before_s + (newest_s - before_s) * f64::from(step) / f64::from(PER_LOOK);
                (now_s - due_s) * 1e3
            }));
        }
        before_s = Some(newest_s);
    }
    ages_ms.sort_by(f64::total_cmp);
    let at = |share: f64| {
        let index = (ages_ms.len() as f64 * share) as usize;
        ages_ms
            .get(index.min(ages_ms.len().saturating_sub(1)))
            .copied()
    };
    Ok(json!({
        "query": case.name,
        "events": rows,
        "looks": looks,
        "wall_s": started.elapsed().as_secs_f64(),
        "fresh_p50_ms": at(0.5),
        "fresh_p99_ms": at(0.99),
        "fresh_max_ms": at(1.0),
        "peak_rss_bytes": peak_rss_bytes(),
    }))
}

/// What creating and dropping a view over an empty table takes; the slowest of all counts.
async fn statements(client: &Client, case: &Case, rounds: u64) -> Result<Value, Failure> {
    let (mut slowest_ms, mut all_ms) = (0_f64, 0_f64);
    for round in 0..rounds {
        let started = Instant::now();
        run(
            client,
            &format!("CREATE MATERIALIZED VIEW v{round} AS {}", case.query),
        )
        .await?;
        let took_ms = started.elapsed().as_secs_f64() * 1e3;
        slowest_ms = slowest_ms.max(took_ms);
        all_ms += took_ms;
    }
    Ok(json!({
        "query": case.name,
        "events": rounds,
        "ddl_ms": slowest_ms,
        "ddl_mean_ms": all_ms / rounds.max(1) as f64,
        "peak_rss_bytes": peak_rss_bytes(),
    }))
}
