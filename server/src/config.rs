//! Server settings: command-line defaults and the optional TOML file, merged into one struct.
//!
//! Invariant: an unknown key or a value out of range refuses to start with the key's name; nothing is silently ignored.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use thalweg_catalog::option::parse_duration;
use thalweg_state::CrashPoints;

use crate::machine;

/// A reason not to start that the user can act on.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct ConfigError {
    /// What is wrong and where.
    pub message: String,
}

fn config_error(message: impl Into<String>) -> ConfigError {
    ConfigError {
        message: message.into(),
    }
}

/// Everything a server is started with.
#[derive(Debug, Clone)]
pub struct Config {
    /// Folder of all durable state.
    pub data_dir: PathBuf,
    /// Postgres wire address; port 0 picks a free one.
    pub pg: SocketAddr,
    /// Arrow Flight SQL address.
    pub flight: SocketAddr,
    /// `/healthz` and `/metrics` address.
    pub http: SocketAddr,
    /// Connections over which a new one gets 53300.
    pub max_connections: usize,
    /// How long an epoch waits for more source rows.
    pub epoch_linger: Duration,
    /// How far back versions are kept for reads.
    pub snapshot_history: Duration,
    /// Bytes that everything together may hold before sources are held back and new rows are 53200.
    pub memory_bytes: usize,
    /// Bytes that what one view's operators remember may have in memory, where there would be more; tests leave them none.
    pub state_memory_bytes: usize,
    /// Bytes a single ad-hoc query may hold; more is 53200.
    pub query_memory_bytes: usize,
    /// Backups lie below this folder; `None` for anywhere.
    pub backup_root: Option<PathBuf>,
    /// Local files that sources read lie below this folder.
    pub file_root: PathBuf,
    /// Parts into which the state of each view is split, each worked on by a thread of its own.
    pub workers: usize,
    /// How often a checkpoint is made, when anything has changed.
    pub checkpoint_interval: Duration,
    /// Bytes of the data dir's disk that merges leave free.
    pub disk_reserve: u64,
    /// Where tests make the server fail.
    pub crash_points: CrashPoints,
}

/// Most workers; each view's state is split into as many parts.
const WORKERS_MAX: usize = 64;

/// With less the server itself has no room.
const MEMORY_LIMIT_MIN: u64 = 64 << 20;

/// What `memory_limit` is when the machine does not tell how much it has.
const MEMORY_UNKNOWN: u64 = 4 << 30;

/// Six tenths of what the machine, or the control group of the process, has.
fn default_memory_bytes() -> usize {
    let all = machine::memory_bytes().unwrap_or(MEMORY_UNKNOWN);
    usize::try_from((all / 10 * 6).max(MEMORY_LIMIT_MIN)).unwrap_or(usize::MAX)
}

/// More often a disk does nothing else.
const CHECKPOINT_INTERVAL_MIN: Duration = Duration::from_millis(10);

impl Config {
    /// Defaults on `data_dir` with every port chosen by the system.
    pub fn ephemeral(data_dir: PathBuf) -> Self {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        Self {
            data_dir,
            pg: any,
            flight: any,
            http: any,
            max_connections: 1000,
            epoch_linger: Duration::from_millis(10),
            snapshot_history: Duration::from_secs(60),
            memory_bytes: default_memory_bytes(),
            state_memory_bytes: usize::MAX,
            query_memory_bytes: 2 << 30,
            backup_root: None,
            file_root: std::env::current_dir().unwrap_or_else(|_| PathBuf::from(".")),
            workers: std::thread::available_parallelism()
                .map_or(1, usize::from)
                .min(WORKERS_MAX),
            checkpoint_interval: Duration::from_secs(1),
            disk_reserve: 2 << 30,
            crash_points: CrashPoints::none(),
        }
    }

    /// Takes over what the TOML file at `path` says.
    ///
    /// # Errors
    /// An unreadable file, an unknown key, or a value that does not parse; the message names the key.
    pub fn merge_file(&mut self, path: &Path) -> Result<(), ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|error| config_error(format!("could not read {}: {error}", path.display())))?;
        let file: FileConfig = toml::from_str(&text)
            .map_err(|error| config_error(format!("{}: {error}", path.display())))?;
        self.merge(file)
    }

    fn merge(&mut self, file: FileConfig) -> Result<(), ConfigError> {
        if let Some(workers) = file.workers {
            self.set_workers(workers)?;
        }
        if let Some(count) = file.max_connections {
            self.max_connections = count;
        }
        if let Some(text) = &file.epoch_linger {
            self.epoch_linger = duration("epoch_linger", text)?;
        }
        if let Some(text) = &file.snapshot_history {
            self.snapshot_history = duration("snapshot_history", text)?;
        }
        if let Some(text) = &file.checkpoint_interval {
            let interval = duration("checkpoint_interval", text)?;
            if interval < CHECKPOINT_INTERVAL_MIN {
                return Err(config_error(format!(
                    "checkpoint_interval: \"{text}\" is less than '10 ms'"
                )));
            }
            self.checkpoint_interval = interval;
        }
        if let Some(text) = &file.disk_reserve {
            self.disk_reserve = bytes("disk_reserve", text)?;
        }
        if let Some(folder) = file.file_root {
            self.file_root = std::path::absolute(&folder).map_err(|error| {
                config_error(format!("file_root: {}: {error}", folder.display()))
            })?;
        }
        if let Some(folder) = file.backup_root {
            self.backup_root = Some(std::path::absolute(&folder).map_err(|error| {
                config_error(format!("backup_root: {}: {error}", folder.display()))
            })?);
        }
        if let Some(text) = &file.memory_limit {
            self.set_memory_limit(text)?;
        }
        if let Some(text) = &file.query_memory_limit {
            self.query_memory_bytes =
                usize::try_from(bytes("query_memory_limit", text)?).unwrap_or(usize::MAX);
        }
        Ok(())
    }

    /// Takes over what everything together may hold.
    ///
    /// # Errors
    /// For what is no size, or too little.
    pub fn set_memory_limit(&mut self, text: &str) -> Result<(), ConfigError> {
        let limit = bytes("memory_limit", text)?;
        if limit < MEMORY_LIMIT_MIN {
            return Err(config_error(format!(
                "memory_limit: \"{text}\" is less than '64MB'"
            )));
        }
        self.memory_bytes = usize::try_from(limit).unwrap_or(usize::MAX);
        Ok(())
    }

    /// Takes over a number of workers.
    ///
    /// # Errors
    /// For a number that is out of range.
    pub fn set_workers(&mut self, workers: usize) -> Result<(), ConfigError> {
        if !(1..=WORKERS_MAX).contains(&workers) {
            return Err(config_error(format!(
                "workers: {workers} is not between 1 and {WORKERS_MAX}"
            )));
        }
        self.workers = workers;
        Ok(())
    }

    /// Refuses addresses that would serve strangers: without authentication only loopback is trusted.
    ///
    /// # Errors
    /// Names the first address that is not loopback.
    pub fn check_addresses(&self) -> Result<(), ConfigError> {
        for (flag, address) in [
            ("--pg", self.pg),
            ("--flight", self.flight),
            ("--http", self.http),
        ] {
            if !address.ip().is_loopback() {
                return Err(config_error(format!(
                    "{flag} {address} is not a loopback address, and no authentication is configured"
                )));
            }
        }
        Ok(())
    }
}

fn duration(key: &str, text: &str) -> Result<Duration, ConfigError> {
    parse_duration(text)
        .map(Duration::from_millis)
        .ok_or_else(|| {
            config_error(format!(
                "{key}: \"{text}\" is not a duration such as '10 ms'"
            ))
        })
}

fn bytes(key: &str, text: &str) -> Result<u64, ConfigError> {
    thalweg_catalog::option::parse_bytes(text)
        .ok_or_else(|| config_error(format!("{key}: \"{text}\" is not a size such as '512MB'")))
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileConfig {
    workers: Option<usize>,
    max_connections: Option<usize>,
    epoch_linger: Option<String>,
    snapshot_history: Option<String>,
    memory_limit: Option<String>,
    query_memory_limit: Option<String>,
    checkpoint_interval: Option<String>,
    disk_reserve: Option<String>,
    file_root: Option<PathBuf>,
    backup_root: Option<PathBuf>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_checked_key_by_key() {
        let merge = |text: &str| {
            let mut config = Config::ephemeral(PathBuf::new());
            match toml::from_str::<FileConfig>(text) {
                Ok(file) => config
                    .merge(file)
                    .map(|()| config)
                    .map_err(|error| error.message),
                Err(error) => Err(error.to_string()),
            }
        };
        let config = merge("max_connections = 7\nepoch_linger = '20 ms'").expect("valid");
        assert_eq!(
            (config.max_connections, config.epoch_linger),
            (7, Duration::from_millis(20))
        );
        assert!(
            merge("max_conections = 7")
                .expect_err("typo")
                .contains("max_conections")
        );
        assert!(
            merge("epoch_linger = 'soon'")
                .expect_err("value")
                .contains("epoch_linger")
        );
        assert!(
            merge("workers = 0")
                .expect_err("no worker")
                .contains("workers: 0")
        );
        assert_eq!(merge("workers = 4").expect("valid").workers, 4);
        let config = merge("checkpoint_interval = '5 s'\ndisk_reserve = '1GB'").expect("valid");
        assert_eq!(
            (config.checkpoint_interval, config.disk_reserve),
            (Duration::from_secs(5), 1 << 30)
        );
        assert_eq!(
            merge("memory_limit = '1GB'").expect("valid").memory_bytes,
            1 << 30
        );
        for (text, key) in [
            ("checkpoint_interval = '1 ms'", "checkpoint_interval"),
            ("disk_reserve = 'much'", "disk_reserve"),
            ("memory_limit = '1MB'", "memory_limit"),
            ("memory_limit = 'all'", "memory_limit"),
        ] {
            assert!(merge(text).expect_err("refused").contains(key), "{text}");
        }
    }

    #[test]
    fn strangers_are_not_served_without_authentication() {
        let mut config = Config::ephemeral(PathBuf::new());
        assert!(config.check_addresses().is_ok());
        config.flight = SocketAddr::from(([0, 0, 0, 0], 5434));
        assert!(
            config
                .check_addresses()
                .expect_err("refused")
                .message
                .starts_with("--flight 0.0.0.0:5434")
        );
    }
}
