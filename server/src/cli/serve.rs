//! `thalweg serve`: start, say `ready`, run until a signal.
//!
//! Invariant: the `ready` line is the only line on stdout and is written after every address accepts connections.

use thalweg_state::CrashPoints;
use tokio::signal::unix::{SignalKind, signal};

use super::{Failure, ServeArguments};
use crate::boot::{self, Running, StartError};
use crate::config::Config;

/// Makes a debug build fail at a durable step: `<point>:<hit>:error|panic|abort`.
const CRASH_VARIABLE: &str = "THALWEG_CRASH_AT";

pub(super) async fn serve(arguments: ServeArguments) -> Result<(), Failure> {
    let config = config(&arguments)?;
    let running = start(config).await?;
    println!("{}", ready_line(&running));
    until_signal().await?;
    tracing::info!("stopping");
    running.stop().await;
    Ok(())
}

fn config(arguments: &ServeArguments) -> Result<Config, Failure> {
    let mut config = Config {
        pg: arguments.pg,
        flight: arguments.flight,
        http: arguments.http,
        ..Config::ephemeral(arguments.data_dir.clone())
    };
    if let Some(path) = &arguments.config {
        config
            .merge_file(path)
            .map_err(|error| Failure::User(error.to_string()))?;
    }
    if let Some(workers) = arguments.workers {
        config
            .set_workers(workers)
            .map_err(|error| Failure::User(error.to_string()))?;
    }
    if let Some(text) = &arguments.memory_limit {
        config
            .set_memory_limit(text)
            .map_err(|error| Failure::User(error.to_string()))?;
    }
    config
        .check_addresses()
        .map_err(|error| Failure::User(error.to_string()))?;
    config.crash_points = crash_points()?;
    Ok(config)
}

/// Where a test makes this process fail.
pub(super) fn crash_points() -> Result<CrashPoints, Failure> {
    let Ok(text) = std::env::var(CRASH_VARIABLE) else {
        return Ok(CrashPoints::none());
    };
    if !cfg!(debug_assertions) {
        let message = format!("{CRASH_VARIABLE} is set, and this build has no crash points");
        return Err(Failure::User(message));
    }
    CrashPoints::parse(&text).map_err(|reason| Failure::User(format!("{CRASH_VARIABLE}: {reason}")))
}

/// Starts a server, turning what the user can correct into exit code 1.
pub(super) async fn start(config: Config) -> Result<Running, Failure> {
    boot::start(config).await.map_err(|error| match error {
        StartError::Locked(_) | StartError::Io { .. } | StartError::Newer(_) => {
            Failure::User(error.to_string())
        }
        StartError::Store(_) => Failure::Internal(error.to_string()),
    })
}

pub(super) fn ready_line(running: &Running) -> String {
    format!(
        "ready pg={} flight={} http={}",
        running.pg, running.flight, running.http
    )
}

/// Waits for SIGTERM or SIGINT. A second one exits at once: the user has decided not to wait for the drain.
pub(super) async fn until_signal() -> Result<(), Failure> {
    let internal =
        |error: std::io::Error| Failure::Internal(format!("could not watch signals: {error}"));
    let mut terminate = signal(SignalKind::terminate()).map_err(internal)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(internal)?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        std::process::exit(130);
    });
    Ok(())
}
