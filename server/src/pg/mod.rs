//! The Postgres wire front: accepts connections and speaks protocol 3.0 and 3.2 with pgwire's messages and our own loop.
//!
//! Invariant: a connection is one task that owns its socket, session, statements and portals; whatever arrives on the
//! socket, the task ends by itself, in bounded time and memory, and no other connection notices.

mod backend;
mod cancel;
mod connection;
mod copy_in;
mod copy_out;
mod decode;
mod describe;
mod encode;
mod error;
mod extended;
mod frames;
mod limits;
mod prepared;
mod rows;
mod simple;
mod sql_prepared;
mod startup;
mod wire;

use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub use backend::{Backend, Backends, Client};
pub use limits::PgLimits;

use backend::ServerBackends;
use cancel::{CancelKeys, Registration};
use connection::Connection;
use error::{Severity, put_error, report};
use startup::{Greeting, Protocol, greet, welcome};
use wire::{End, Input, Output};

use crate::frontend::{Report, Server};

/// Pause after an accept that failed, usually because the process has no more file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Serves the Postgres protocol on `listener` until `shutdown` is cancelled and every connection has ended.
pub async fn serve(
    listener: TcpListener,
    server: Arc<Server>,
    limits: PgLimits,
    shutdown: CancellationToken,
) {
    serve_backends(listener, Arc::new(ServerBackends(server)), limits, shutdown).await;
}

/// [`serve`] over any kind of session; the wire tests put scripted ones behind it.
pub async fn serve_backends(
    listener: TcpListener,
    backends: Arc<dyn Backends>,
    limits: PgLimits,
    shutdown: CancellationToken,
) {
    let starting = Arc::new(Semaphore::new(limits.starting_max));
    let drain = limits.drain;
    let shared = Arc::new(Shared {
        sessions: Arc::new(Semaphore::new(limits.max_connections)),
        keys: Arc::new(CancelKeys::default()),
        backends,
        limits,
        stop: shutdown.clone(),
    });
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            () = shutdown.cancelled() => break,
            Some(ended) = connections.join_next() => log_panic(ended),
            accepted = listener.accept() => match accepted {
                Ok((socket, _)) => match Arc::clone(&starting).try_acquire_owned() {
                    Ok(permit) => drop(connections.spawn(run(socket, Arc::clone(&shared), permit))),
                    Err(_) => refuse_unheard(&socket),
                },
                Err(error) => {
                    tracing::warn!(%error, "could not accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    drop(listener);
    let ended = async {
        while let Some(ended) = connections.join_next().await {
            log_panic(ended);
        }
    };
    if tokio::time::timeout(drain, ended).await.is_err() {
        tracing::warn!(
            connections = connections.len(),
            "connections did not end in time"
        );
    }
    // What is left is aborted with the set.
}

fn log_panic(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended {
        tracing::error!(%error, "a connection ended by a panic");
    }
}

fn too_many() -> Report {
    report("53300", "sorry, too many clients already")
}

/// Even the places for clients that have not said anything yet are taken: say so without listening first.
fn refuse_unheard(socket: &TcpStream) {
    let mut message = BytesMut::new();
    put_error(&mut message, Severity::Fatal, &too_many());
    // A fresh socket takes these few bytes at once; if not, the close says enough.
    let _sent = socket.try_write(&message);
}

/// What all connections share.
struct Shared {
    backends: Arc<dyn Backends>,
    limits: PgLimits,
    keys: Arc<CancelKeys>,
    sessions: Arc<Semaphore>,
    stop: CancellationToken,
}

/// One connection from accept to close.
async fn run(socket: TcpStream, shared: Arc<Shared>, starting: OwnedSemaphorePermit) {
    if let Err(error) = socket.set_nodelay(true) {
        tracing::debug!(%error, "could not switch off Nagle's algorithm");
    }
    let (reader, writer) = socket.into_split();
    let mut input = Input::new(reader, shared.limits.read_ahead_bytes);
    let mut output = Output::new(writer);
    let greeting = tokio::select! {
        biased;
        () = shared.stop.cancelled() => return,
        // Too slow to say who it is: the connection just closes, as nobody is known to be there.
        greeting = tokio::time::timeout(shared.limits.startup_timeout, greet(&mut input, &mut output)) => match greeting {
            Ok(greeting) => greeting,
            Err(_) => return,
        },
    };
    let end = match greeting {
        Ok(Greeting::Cancel { process_id, key }) => {
            if !shared.keys.cancel(process_id, &key) {
                tokio::time::sleep(shared.limits.wrong_key_delay).await;
            }
            return;
        }
        Ok(Greeting::Session { client, protocol }) => match admit(&shared, client, protocol) {
            Ok(admitted) => {
                drop(starting);
                session(&shared, &mut input, &mut output, admitted).await
            }
            Err(report) => End::Fatal(report),
        },
        Err(end) => end,
    };
    wire::close(input, output, end, shared.limits.linger).await;
}

/// An admitted client: its place, its session and its cancel key.
type Admitted = (OwnedSemaphorePermit, Box<dyn Backend>, Registration);

/// Every refusal here is FATAL, whatever its code: a client that was not let in never reaches the query loop.
fn admit(shared: &Shared, client: Client, protocol: Protocol) -> Result<Admitted, Report> {
    let place = Arc::clone(&shared.sessions)
        .try_acquire_owned()
        .map_err(|_| too_many())?;
    let backend = shared.backends.open(client)?;
    let registration = shared
        .keys
        .register(backend.process_id(), protocol.key_bytes())?;
    Ok((place, backend, registration))
}

async fn session(
    shared: &Shared,
    input: &mut Input,
    output: &mut Output,
    admitted: Admitted,
) -> End {
    let (_place, backend, registration) = admitted;
    welcome(output, backend.as_ref(), &registration);
    let running = Arc::clone(&registration.running);
    let mut connection = Connection::new(
        backend,
        input,
        output,
        shared.limits.clone(),
        running,
        shared.stop.clone(),
    );
    connection.serve().await
}
