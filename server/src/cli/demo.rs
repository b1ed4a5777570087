//! `thalweg demo`: a server with generated data and a pipeline to look at.
//!
//! Invariant: the pipeline is the same SQL that `examples/` ships; nothing in it is special to the demo.

use super::{DemoArguments, Failure, client, serve};
use crate::config::Config;
use crate::testing::scratch_dir;

const TV: &str = include_str!("../../../examples/tv.sql");

/// Queries printed for the user to try, in the order of reading.
const TV_QUERIES: [&str; 3] = [
    "SELECT title, starts, stops, viewers FROM show_activity ORDER BY starts DESC",
    "SELECT brand, impressions, cents / 100.0 AS euros FROM ad_revenue ORDER BY cents DESC",
    "EXPLAIN STREAM SELECT genre, sum(starts) FROM show_activity GROUP BY genre",
];

pub(super) async fn demo(arguments: DemoArguments) -> Result<(), Failure> {
    if arguments.name != "tv" {
        return Err(Failure::User(format!(
            "there is no demo \"{}\" in this version; try: thalweg demo tv",
            arguments.name
        )));
    }
    let (data_dir, temporary) = match &arguments.data_dir {
        Some(path) => (path.clone(), false),
        None => (scratch_dir(), true),
    };
    let config = Config {
        pg: arguments.pg,
        flight: arguments.flight,
        http: arguments.http,
        ..Config::ephemeral(data_dir.clone())
    };
    config
        .check_addresses()
        .map_err(|error| Failure::User(error.to_string()))?;
    let running = serve::start(config).await?;
    client::run_script(running.pg, TV).await?;
    println!("{}", serve::ready_line(&running));
    println!(
        "\nThe digital-TV demo is running: viewers start, stop and switch shows, and five views follow."
    );
    println!(
        "\n  psql -h {} -p {} -U thalweg thalweg\n\nTry:\n",
        running.pg.ip(),
        running.pg.port()
    );
    for query in TV_QUERIES {
        println!("  {query};");
    }
    println!("\nRun a query twice to see it move. Ctrl-C stops the demo.");
    serve::until_signal().await?;
    running.stop().await;
    if temporary {
        let _kept = std::fs::remove_dir_all(&data_dir);
    }
    Ok(())
}
