//! `thalweg bench lookup`: how many rows a second a view enriches from a table of HBase, when nine of ten find their key remembered.
//!
//! Invariant: the rows that found nothing are counted before a figure is told, and so are those of the same view without the lookup,
//! which shows what making and counting the rows costs alone.

use std::time::Instant;

use clap::Args;
use serde_json::{Value, json};
use tokio_postgres::Client;

use super::case::run;
use super::process::{cpu_s, machine, median, peak_rss_bytes};
use crate::cli::{Failure, client, serve};
use crate::config::Config;
use crate::testing::scratch_dir;

/// Rows of the source for each row of the table, of which the first asks HBase.
const ROWS_PER_KEY: u64 = 10;

#[derive(Debug, Args, Clone)]
pub(super) struct LookupArguments {
    /// Thrift2 gateways, as host:port with commas between. Table `thalweg_bench_lookup` is made there, and stays.
    #[arg(long)]
    gateways: String,
    /// Rows of the table; ten times as many are enriched.
    #[arg(long, default_value_t = 200_000)]
    keys: u64,
    /// Times each view is measured; the median counts.
    #[arg(long, default_value_t = 3)]
    runs: u16,
    /// Engine worker threads.
    #[arg(long, default_value_t = 1)]
    workers: usize,
}

pub(super) async fn measure(arguments: &LookupArguments) -> Result<Value, Failure> {
    let data_dir = scratch_dir();
    let mut config = Config::ephemeral(data_dir.clone());
    let set = config.set_workers(arguments.workers);
    set.map_err(|error| Failure::User(error.to_string()))?;
    let running = serve::start(config).await?;
    let client = client::connect(running.pg).await?;
    let found = compared(&client, arguments).await;
    running.stop().await;
    let _kept = std::fs::remove_dir_all(&data_dir);
    found
}

/// Both views in turns.
async fn compared(client: &Client, arguments: &LookupArguments) -> Result<Value, Failure> {
    prepare(client, arguments).await?;
    let rows = arguments.keys * ROWS_PER_KEY;
    let (mut joined, mut bare) = (Vec::new(), Vec::new());
    for _ in 0..arguments.runs.max(1) {
        let query = "SELECT count(p.name) AS n, sum(p.age) AS total FROM events e \
             LEFT JOIN people FOR SYSTEM_TIME AS OF PROCTIME() AS p ON p.id = e.person";
        joined.push(view(client, query, rows).await?);
        bare.push(
            view(
                client,
                "SELECT count(person) AS n, sum(person) AS total FROM events",
                rows,
            )
            .await?,
        );
    }
    let figure = |runs: &[Value], name: &str| {
        let figures = runs.iter().filter_map(|run| run.get(name)?.as_f64());
        median(figures.collect())
    };
    let rate = |runs: &[Value]| figure(runs, "wall_s").map(|wall_s| rows as f64 / wall_s);
    Ok(json!({
        "debug": cfg!(debug_assertions),
        "machine": machine(),
        "workers": arguments.workers,
        "rows": rows,
        "remembered": 1.0 - 1.0 / ROWS_PER_KEY as f64,
        "rows_per_s": rate(&joined),
        "rows_per_s_without_lookup": rate(&bare),
        "with_lookup": joined,
        "without_lookup": bare,
        "peak_rss_bytes": peak_rss_bytes(),
    }))
}

/// The table, every row of which is asked for once in a run, and the source.
async fn prepare(client: &Client, arguments: &LookupArguments) -> Result<(), Failure> {
    let (keys, rows) = (arguments.keys, arguments.keys * ROWS_PER_KEY);
    let gateways = &arguments.gateways;
    let create = format!(
        "CREATE TABLE people (id bigint PRIMARY KEY, name text, age int) WITH (connector = 'hbase', \
         thrift.servers = '{gateways}', table = 'thalweg_bench_lookup', family = 'd', create = 'if-missing', \
         lookup.cache.rows = {rows}, lookup.cache.bytes = '4GB', lookup.cache.ttl = '1 h', lookup.timeout = '60 s')"
    );
    run(client, &create).await?;
    let fill = format!(
        "INSERT INTO people SELECT n, 'person number ' || n, (n % 90)::int FROM generate_series(1, {keys}) n"
    );
    run(client, &fill).await?;
    let source = format!(
        "CREATE SOURCE events (person bigint) WITH (connector = 'datagen', rows = {rows}, seed = 1, \
         fields.person.kind = 'random', fields.person.start = 1, fields.person.end = {keys})"
    );
    run(client, &source).await?;
    Ok(())
}

/// What a view over all rows of the source takes from its statement until it has counted them. Each view remembers by itself.
async fn view(client: &Client, query: &str, rows: u64) -> Result<Value, Failure> {
    let (started, before) = (Instant::now(), cpu_s()?);
    run(
        client,
        &format!("CREATE MATERIALIZED VIEW measured AS {query}"),
    )
    .await?;
    run(client, "WAIT FOR measured").await?;
    let (wall_s, used_s) = (started.elapsed().as_secs_f64(), cpu_s()? - before);
    let counted = run(client, "SELECT n FROM measured").await?;
    run(client, "DROP MATERIALIZED VIEW measured").await?;
    if counted != rows.to_string() {
        let what = format!("{counted} of {rows} rows were counted by {query}");
        return Err(Failure::User(what));
    }
    Ok(json!({ "wall_s": wall_s, "cpu_s": used_s }))
}
