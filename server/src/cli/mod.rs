//! The command line: `serve`, `demo`, `sql`, `check`, `backup`, `restore`, `bench`.
//!
//! Invariant: each command maps its failures to the documented exit codes here and nowhere else.

mod backup;
mod bench;
mod check;
mod client;
mod demo;
mod serve;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use crate::testing::STACK_BYTES;

/// Declarative SQL streaming: sources, continuous queries and live views in one binary.
#[derive(Debug, Parser)]
#[command(name = "thalweg", version)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the server.
    Serve(ServeArguments),
    /// Run the server with an in-process generator and a ready-made pipeline, and print what to try next.
    Demo(DemoArguments),
    /// Run statements against a server, or in-process on a data dir.
    Sql(SqlArguments),
    /// Parse, resolve and plan a file without running it.
    Check {
        /// The SQL file.
        file: PathBuf,
    },
    /// Copy the data dir of a running server into a folder.
    Backup {
        /// The folder; it must not exist or be empty.
        folder: PathBuf,
        /// Server to connect to.
        #[arg(long, default_value = "127.0.0.1:5433")]
        server: SocketAddr,
    },
    /// Make a data dir of a backup.
    Restore {
        /// The folder of the backup.
        backup: PathBuf,
        /// The data dir; it must not exist or be empty.
        #[arg(long)]
        data_dir: PathBuf,
    },
    /// Measure what queries cost.
    Bench(bench::BenchArguments),
}

#[derive(Debug, Args, Clone)]
struct ServeArguments {
    /// Folder of all durable state.
    #[arg(long, default_value = "./thalweg-data")]
    data_dir: PathBuf,
    /// Postgres wire address; port 0 picks a free one.
    #[arg(long, default_value = "127.0.0.1:5433")]
    pg: SocketAddr,
    /// Arrow Flight SQL address.
    #[arg(long, default_value = "127.0.0.1:5434")]
    flight: SocketAddr,
    /// Address of /healthz and /metrics.
    #[arg(long, default_value = "127.0.0.1:5435")]
    http: SocketAddr,
    /// TOML file with server settings.
    #[arg(long)]
    config: Option<PathBuf>,
    /// Threads that keep a view up to date; by default one for each core.
    #[arg(long)]
    workers: Option<usize>,
    /// Memory for views, tables and queries together, such as 8GB; by default six tenths of what there is.
    #[arg(long, env = "THALWEG_MEMORY_LIMIT")]
    memory_limit: Option<String>,
}

#[derive(Debug, Args, Clone)]
struct DemoArguments {
    /// Which demo: tv, shop or nexmark.
    #[arg(default_value = "tv")]
    name: String,
    /// Keep the demo's state here instead of in a temporary folder.
    #[arg(long)]
    data_dir: Option<PathBuf>,
    /// Postgres wire address; port 0 picks a free one.
    #[arg(long, default_value = "127.0.0.1:5433")]
    pg: SocketAddr,
    /// Arrow Flight SQL address.
    #[arg(long, default_value = "127.0.0.1:5434")]
    flight: SocketAddr,
    /// Address of /healthz and /metrics.
    #[arg(long, default_value = "127.0.0.1:5435")]
    http: SocketAddr,
}

#[derive(Debug, Args, Clone)]
struct SqlArguments {
    /// Statements to run; without -c and -f, an interactive prompt.
    #[arg(short, long)]
    command: Option<String>,
    /// File of statements to run.
    #[arg(short, long, conflicts_with = "command")]
    file: Option<PathBuf>,
    /// Server to connect to.
    #[arg(long, default_value = "127.0.0.1:5433")]
    server: SocketAddr,
    /// Open this data dir in-process instead of connecting to a server.
    #[arg(long, conflicts_with = "server")]
    data_dir: Option<PathBuf>,
}

/// How a command failed.
#[derive(Debug, thiserror::Error)]
enum Failure {
    /// The user can correct it: exit code 1.
    #[error("{0}")]
    User(String),
    /// It is ours: exit code 2.
    #[error("{0}")]
    Internal(String),
}

/// Runs a parsed command line to its exit code.
pub fn run(arguments: Arguments) -> ExitCode {
    start_logging();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        // Planning recurses over user text; see RELIABILITY in the design: a deep statement must be an error, never an abort.
        .thread_stack_size(STACK_BYTES)
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("thalweg: could not start the runtime: {error}");
            return ExitCode::from(2);
        }
    };
    // The command runs on a worker thread, which has the large stack; the main thread only waits.
    let ended = runtime.block_on(async move { tokio::spawn(dispatch(arguments.command)).await });
    runtime.shutdown_timeout(std::time::Duration::from_secs(1));
    match ended {
        Ok(Ok(())) => ExitCode::SUCCESS,
        Ok(Err(failure)) => {
            eprintln!("thalweg: {failure}");
            ExitCode::from(match failure {
                Failure::User(_) => 1,
                Failure::Internal(_) => 2,
            })
        }
        Err(panic) => {
            eprintln!("thalweg: internal error: {panic}");
            ExitCode::from(2)
        }
    }
}

async fn dispatch(command: Command) -> Result<(), Failure> {
    match command {
        Command::Serve(arguments) => serve::serve(arguments).await,
        Command::Demo(arguments) => demo::demo(arguments).await,
        Command::Sql(arguments) => client::sql(arguments).await,
        Command::Check { file } => check::check(&file).await,
        Command::Backup { folder, server } => backup::back_up(&folder, server).await,
        Command::Restore { backup, data_dir } => backup::restore(&backup, &data_dir),
        Command::Bench(arguments) => bench::bench(arguments).await,
    }
}

/// Logs to stderr; `THALWEG_LOG` takes tracing's filter syntax and defaults to `info`, with chatty libraries quieter.
fn start_logging() {
    let filter = tracing_subscriber::EnvFilter::try_from_env("THALWEG_LOG").unwrap_or_else(|_| {
        tracing_subscriber::EnvFilter::new(
            "info,datafusion=warn,h2=warn,librdkafka=error,rdkafka=error",
        )
    });
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(false);
    // A second call in one process (tests) keeps the first subscriber, which is what is wanted.
    let _already_set = subscriber.try_init();
}
