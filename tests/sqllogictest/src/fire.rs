//! A server in a process of its own that is killed between the statements of a file and started again.
//!
//! Invariant: it is killed with SIGKILL, and only while no session has a transaction open. What a session has set or prepared it
//! sets and prepares again after that, as a client's driver would.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use sqllogictest::harness::Failed;
use thalweg::config::Config as ServerConfig;
use thalweg::testing::{TestServer, scratch_dir};
use tokio_postgres::Config;

/// Names the data dir to the process that is the server.
const SERVE: &str = "THALWEG_SLT_SERVE";

/// When this process is to be a server, it is one until its input ends.
pub fn serve() -> Option<ExitCode> {
    let data_dir = PathBuf::from(std::env::var_os(SERVE)?);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let server = runtime.block_on(TestServer::start_on(ServerConfig::ephemeral(data_dir)));
    println!("{}", server.pg_addr);
    // Whoever started it holds the other end, and is gone when that is.
    let _ended = std::io::stdin().read_to_end(&mut Vec::new());
    Some(ExitCode::SUCCESS)
}

/// The server of one file.
#[derive(Debug)]
pub struct Fire {
    data_dir: PathBuf,
    running: Mutex<Running>,
    blocks: AtomicUsize,
}

#[derive(Debug)]
struct Running {
    process: Child,
    config: Config,
    /// Counts up with each start.
    life: u64,
}

impl Fire {
    /// Starts a server on a data dir of its own.
    ///
    /// # Errors
    /// When it does not say where it listens.
    pub fn start() -> Result<Self, Failed> {
        let data_dir = scratch_dir();
        let running = start(&data_dir, 1)?;
        Ok(Self {
            data_dir,
            running: Mutex::new(running),
            blocks: AtomicUsize::new(0),
        })
    }

    /// Kills the server and starts it again; false when a session has a transaction open, and nothing was done.
    ///
    /// # Errors
    /// When it does not start.
    pub fn kill(&self) -> Result<bool, Failed> {
        if self.blocks.load(Ordering::SeqCst) > 0 {
            return Ok(false);
        }
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        running.process.kill().map_err(Failed::from)?;
        running.process.wait().map_err(Failed::from)?;
        *running = start(&self.data_dir, running.life + 1)?;
        Ok(true)
    }

    /// Where the server listens, and which of its lives it is in.
    pub fn place(&self) -> (u64, Config) {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        (running.life, running.config.clone())
    }
}

impl Drop for Fire {
    fn drop(&mut self) {
        let running = self.running.get_mut();
        let process = &mut running.unwrap_or_else(PoisonError::into_inner).process;
        let _gone = process.kill().and_then(|()| process.wait());
        let _kept = std::fs::remove_dir_all(&self.data_dir);
    }
}

fn start(data_dir: &Path, life: u64) -> Result<Running, Failed> {
    let mut process = Command::new(std::env::current_exe().map_err(Failed::from)?)
        .env(SERVE, data_dir)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(Failed::from)?;
    let mut line = String::new();
    if let Some(out) = &mut process.stdout {
        BufReader::new(out)
            .read_line(&mut line)
            .map_err(Failed::from)?;
    }
    let Ok(address) = line.trim().parse::<std::net::SocketAddr>() else {
        let _gone = process.kill().and_then(|()| process.wait());
        return Err(Failed::from("the server did not start again"));
    };
    let mut config = Config::new();
    config
        .host(address.ip().to_string())
        .port(address.port())
        .user("slt")
        .dbname("thalweg");
    Ok(Running {
        process,
        config,
        life,
    })
}

/// What of a session has to be there again after a kill.
#[derive(Debug, Default)]
pub(crate) struct Remembered {
    pub(crate) life: u64,
    /// What set something or prepared a statement, in order.
    pub(crate) statements: Vec<String>,
    in_block: bool,
}

impl Remembered {
    /// Nothing yet.
    pub(crate) fn since(life: u64) -> Self {
        Self {
            life,
            ..Self::default()
        }
    }

    /// Takes note of a statement that succeeded.
    pub(crate) fn note(&mut self, sql: &str, fire: &Fire) {
        let upper = sql.trim_start().to_ascii_uppercase();
        let mut words = upper.split(|c: char| !c.is_ascii_alphanumeric());
        let is_open = match (words.next().unwrap_or(""), words.next().unwrap_or("")) {
            ("BEGIN" | "START", _) => true,
            ("ROLLBACK", "TO") => self.in_block,
            ("COMMIT" | "END" | "ROLLBACK" | "ABORT", _) => false,
            ("SET", "LOCAL" | "TRANSACTION") => self.in_block,
            ("SET" | "RESET" | "PREPARE" | "DEALLOCATE" | "DISCARD", _) => {
                self.statements.push(sql.to_owned());
                self.in_block
            }
            _ => self.in_block,
        };
        match (self.in_block, is_open) {
            (false, true) => drop(fire.blocks.fetch_add(1, Ordering::SeqCst)),
            (true, false) => drop(fire.blocks.fetch_sub(1, Ordering::SeqCst)),
            _ => {}
        }
        self.in_block = is_open;
    }
}
