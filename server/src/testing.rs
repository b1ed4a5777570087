//! A whole server inside the test process, on free ports and a scratch data dir.
//!
//! Invariant: it runs on its own threads with the stack size of the real binary, so a test sees the same limits.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::mpsc;

use tokio::sync::oneshot;

use crate::boot;
use crate::config::Config;

/// Stack of every runtime thread: planning recurses over user text.
pub const STACK_BYTES: usize = 16 << 20;

/// A running server that stops when dropped.
#[derive(Debug)]
pub struct TestServer {
    /// Postgres wire address.
    pub pg_addr: SocketAddr,
    /// Flight SQL address.
    pub flight_addr: SocketAddr,
    /// HTTP address.
    pub http_addr: SocketAddr,
    data_dir: PathBuf,
    owns_dir: bool,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl TestServer {
    /// Starts on a fresh folder under the system's temporary folder, removed at the end.
    pub async fn start() -> Self {
        let data_dir = scratch_dir();
        let mut server = Self::start_on(Config::ephemeral(data_dir)).await;
        server.owns_dir = true;
        server
    }

    /// Starts with `config`; the data dir stays when the server stops, so that a test can restart on it.
    ///
    /// # Panics
    /// When the server does not start: a test cannot go on.
    pub async fn start_on(config: Config) -> Self {
        let data_dir = config.data_dir.clone();
        let (started_tx, started_rx) = oneshot::channel();
        let (stop, stopped) = oneshot::channel::<()>();
        let thread = std::thread::Builder::new()
            .name("test-server".into())
            .spawn(move || {
                let runtime = tokio::runtime::Builder::new_multi_thread()
                    .worker_threads(2)
                    .thread_stack_size(STACK_BYTES)
                    .enable_all()
                    .build()
                    .expect("a runtime for the test server");
                runtime.block_on(async move {
                    let running = boot::start(config).await.expect("the test server starts");
                    let addresses = (running.pg, running.flight, running.http);
                    if started_tx.send(addresses).is_ok() {
                        // An error means that the owner is gone, which is a stop as well.
                        let _ended = stopped.await;
                    }
                    running.stop().await;
                });
            })
            .expect("a thread for the test server");
        let (pg_addr, flight_addr, http_addr) = started_rx.await.expect("the test server starts");
        Self {
            pg_addr,
            flight_addr,
            http_addr,
            data_dir,
            owns_dir: false,
            stop: Some(stop),
            thread: Some(thread),
        }
    }

    /// The data dir.
    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// Stops and waits for the end; dropping does the same.
    pub fn stop(mut self) {
        self.halt();
    }

    fn halt(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _gone = stop.send(());
        }
        if let Some(thread) = self.thread.take() {
            let (done_tx, done) = mpsc::channel();
            std::thread::spawn(move || done_tx.send(thread.join().is_ok()));
            if done
                .recv_timeout(std::time::Duration::from_secs(15))
                .is_err()
            {
                eprintln!("test server did not stop in time");
            }
        }
    }
}

impl Drop for TestServer {
    fn drop(&mut self) {
        self.halt();
        if self.owns_dir {
            let _kept = std::fs::remove_dir_all(&self.data_dir);
        }
    }
}

/// A new folder for one test.
///
/// # Panics
/// When the temporary folder is not writable.
pub fn scratch_dir() -> PathBuf {
    let mut random = [0u8; 8];
    getrandom::fill(&mut random).expect("random bytes for a folder name");
    let name = random
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect::<String>();
    let path = std::env::temp_dir().join(format!("thalweg-test-{name}"));
    std::fs::create_dir_all(&path).expect("a scratch folder");
    path
}
