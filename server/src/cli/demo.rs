//! `thalweg demo`: a server with generated data and a pipeline to look at.
//!
//! Invariant: the pipeline is the same SQL that `examples/` ships; nothing in it is special to the demo.

use super::{DemoArguments, Failure, client, serve};
use crate::config::Config;
use crate::testing::scratch_dir;

/// A pipeline with what to look at first.
struct Demo {
    name: &'static str,
    script: &'static str,
    about: &'static str,
    /// Printed for the user to try, in the order of reading.
    queries: [&'static str; 3],
}

const DEMOS: [Demo; 3] = [
    Demo {
        name: "tv",
        script: include_str!("../../../examples/tv.sql"),
        about: "The digital-TV demo is running: viewers start, stop and switch shows, and five views follow.",
        queries: [
            "SELECT title, starts, stops, viewers FROM show_activity ORDER BY starts DESC",
            "SELECT brand, impressions, cents / 100.0 AS euros FROM ad_revenue ORDER BY cents DESC",
            "EXPLAIN STREAM SELECT genre, sum(starts) FROM show_activity GROUP BY genre",
        ],
    },
    Demo {
        name: "shop",
        script: include_str!("../../../examples/shop.sql"),
        about: "The web-shop demo is running: orders and payments come in, three views and a table follow.",
        queries: [
            "SELECT category, country, orders, cents / 100.0 AS euros FROM revenue ORDER BY cents DESC LIMIT 10",
            "SELECT name, pieces FROM stock_left ORDER BY pieces",
            "SELECT customer_id, orders, cents, note FROM best_customers ORDER BY cents DESC LIMIT 5",
        ],
    },
    Demo {
        name: "nexmark",
        script: include_str!("../../../examples/nexmark.sql"),
        about: "The Nexmark demo is running: an auction house with 500 events per second, and five of its queries as views.",
        queries: [
            "SELECT auction, bids, high, total FROM q17 ORDER BY bids DESC LIMIT 10",
            "SELECT category, price FROM q4 ORDER BY category",
            "SELECT name, city, state, id FROM q3 ORDER BY id DESC LIMIT 10",
        ],
    },
];

fn find(name: &str) -> Result<&'static Demo, Failure> {
    DEMOS.iter().find(|demo| demo.name == name).ok_or_else(|| {
        let known = DEMOS.map(|demo| demo.name).join(", ");
        Failure::User(format!("there is no demo \"{name}\"; try one of {known}"))
    })
}

pub(super) async fn demo(arguments: DemoArguments) -> Result<(), Failure> {
    let demo = find(&arguments.name)?;
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
    client::run_script(running.pg, demo.script).await?;
    println!("{}", serve::ready_line(&running));
    println!("\n{}", demo.about);
    println!(
        "\n  psql -h {} -p {} -U thalweg thalweg\n\nTry:\n",
        running.pg.ip(),
        running.pg.port()
    );
    for query in demo.queries {
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
