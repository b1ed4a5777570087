//! Starts and stops a server: data dir, catalog, engine and the three listeners.
//!
//! Invariant: when `start` returns, every address accepts connections and everything acknowledged before the last stop is in
//! the catalog; when `Running::stop` returns, no task of the server is left.

use std::fs::{File, OpenOptions, TryLockError};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use thalweg_connectors::SystemClock;
use thalweg_sql::Report;
use thalweg_state::{Disk, SystemDisk};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::frontend::{Server, ServerOptions};
use crate::{flight, http, pg};

/// How long a stopping server waits for its sessions.
const DRAIN: Duration = Duration::from_secs(8);

/// How long it may take to stop in all.
const STOP: Duration = Duration::from_secs(9);

/// What the engine has of that at least.
const ENGINE_STOP_MIN: Duration = Duration::from_secs(1);

/// A reason why a server did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Another process owns the data dir.
    #[error("data dir {0} is in use by another thalweg process")]
    Locked(String),
    /// An address cannot be bound, or the data dir not be used.
    #[error("could not {what}: {source}")]
    Io {
        /// What was tried, for example `listen on 127.0.0.1:5433`.
        what: String,
        /// The system's answer.
        source: std::io::Error,
    },
    /// The stored state does not open.
    #[error("could not open the data dir: {0}")]
    Store(String),
    /// The stored state is of a later version.
    #[error("{0}")]
    Newer(String),
}

fn io(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> StartError {
    let what = what.into();
    move |source| StartError::Io { what, source }
}

/// What is said about stored state that does not open, with the way out.
fn refused(report: Report) -> StartError {
    let text = match &report.hint {
        Some(hint) => format!("{}. {hint}", report.message),
        None => report.message.clone(),
    };
    match report.sqlstate {
        "55000" => StartError::Newer(text),
        _ => StartError::Store(text),
    }
}

/// A running server.
#[derive(Debug)]
pub struct Running {
    /// Bound Postgres address.
    pub pg: SocketAddr,
    /// Bound Flight address.
    pub flight: SocketAddr,
    /// Bound HTTP address.
    pub http: SocketAddr,
    /// The shared server state.
    pub server: Arc<Server>,
    shutdown: CancellationToken,
    listeners: Vec<JoinHandle<()>>,
    // Held for the life of the server: releasing it lets another process open the data dir.
    _lock: File,
}

fn lock(data_dir: &Path) -> Result<File, StartError> {
    SystemDisk
        .create_folder(data_dir)
        .map_err(io(format!("create {}", data_dir.display())))?;
    let path = data_dir.join("LOCK");
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(io(format!("open {}", path.display())))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(StartError::Locked(data_dir.display().to_string())),
        Err(TryLockError::Error(source)) => Err(StartError::Io {
            what: format!("lock {}", path.display()),
            source,
        }),
    }
}

async fn bind(address: SocketAddr) -> Result<(TcpListener, SocketAddr), StartError> {
    let listener = TcpListener::bind(address)
        .await
        .map_err(io(format!("listen on {address}")))?;
    let bound = listener
        .local_addr()
        .map_err(io(format!("listen on {address}")))?;
    Ok((listener, bound))
}

/// Opens the data dir and starts serving.
///
/// # Errors
/// See [`StartError`]; nothing is left running.
pub async fn start(config: Config) -> Result<Running, StartError> {
    let lock = lock(&config.data_dir)?;
    let (pg_listener, pg) = bind(config.pg).await?;
    let (flight_listener, flight) = bind(config.flight).await?;
    let (http_listener, http) = bind(config.http).await?;
    let options = ServerOptions {
        config: config.clone(),
        clock: Arc::new(SystemClock),
    };
    let runtime = tokio::runtime::Handle::current();
    // Replaying logs is blocking work; the listeners are already bound, so early clients queue in the backlog.
    let server = tokio::task::spawn_blocking(move || Server::open(options, runtime))
        .await
        .map_err(|error| StartError::Store(error.to_string()))?
        .map_err(refused)?;
    let shutdown = CancellationToken::new();
    let limits = pg::PgLimits {
        max_connections: config.max_connections,
        ..pg::PgLimits::default()
    };
    let listeners = vec![
        tokio::spawn(pg::serve(
            pg_listener,
            Arc::clone(&server),
            limits,
            shutdown.clone(),
        )),
        tokio::spawn(flight::serve(
            flight_listener,
            Arc::clone(&server),
            shutdown.clone(),
        )),
        tokio::spawn(http::serve(
            http_listener,
            Arc::clone(&server),
            shutdown.clone(),
        )),
    ];
    Ok(Running {
        pg,
        flight,
        http,
        server,
        shutdown,
        listeners,
        _lock: lock,
    })
}

impl Running {
    /// Stops accepting, lets sessions end for a while, then stops the engine.
    pub async fn stop(self) {
        self.shutdown.cancel();
        let begun = Instant::now();
        for listener in self.listeners {
            let stopper = listener.abort_handle();
            let left = DRAIN.saturating_sub(begun.elapsed());
            if tokio::time::timeout(left, listener).await.is_err() {
                stopper.abort();
            }
        }
        let server = Arc::clone(&self.server);
        // Joining driver threads blocks; a reader stuck in a foreign library must not hold the process.
        let stop = tokio::task::spawn_blocking(move || server.stop());
        let left = STOP.saturating_sub(begun.elapsed());
        let stopped = tokio::time::timeout(left.max(ENGINE_STOP_MIN), stop).await;
        if stopped.is_err() {
            tracing::warn!("engine did not stop in time");
        }
    }
}
