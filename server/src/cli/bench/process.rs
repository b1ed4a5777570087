//! Processes that measure: how one is started, what it has used so far as the kernel counts it, and the median of several.
//!
//! Invariant: a figure the kernel does not give is `None` or an error, never zero.

use std::ffi::OsString;
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

use crate::cli::Failure;

/// Runs this program once more with the arguments of one measurement.
pub(super) fn own_process(arguments: Vec<OsString>) -> Result<Output, Failure> {
    let program = std::env::current_exe().map_err(super::io("find this program"))?;
    let mut command = Command::new(program);
    command.arg("bench").args(arguments);
    command.env("THALWEG_LOG", "warn").stderr(Stdio::inherit());
    command.output().map_err(super::io("start a process"))
}

/// What a process told of the measurement `name`.
pub(super) fn told(output: &Output, name: &str) -> Result<Value, Failure> {
    if !output.status.success() {
        return Err(Failure::User(format!("{name} failed")));
    }
    serde_json::from_slice(&output.stdout)
        .map_err(|error| Failure::Internal(format!("{name} told nothing: {error}")))
}

/// The figure in the middle.
pub(super) fn median(mut figures: Vec<f64>) -> Option<f64> {
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied()
}

/// The kernel's clock ticks per second in `/proc`, on every Linux we run on.
const TICKS_PER_SECOND: f64 = 100.0;

/// Seconds of CPU time, all threads, user and system.
pub(super) fn cpu_s() -> Result<f64, Failure> {
    known_cpu_s().ok_or_else(|| Failure::Internal("CPU time is not known".into()))
}

fn known_cpu_s() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The name of the program, in parentheses, may hold blanks.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace().skip(11);
    let user: f64 = fields.next()?.parse().ok()?;
    let system: f64 = fields.next()?.parse().ok()?;
    Some((user + system) / TICKS_PER_SECOND)
}

/// The most memory that was resident at once, in bytes.
pub(super) fn peak_rss_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kilobytes: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kilobytes * 1024)
}

/// What the figures were measured on.
pub(super) fn machine() -> Value {
    let read = |path: &str| std::fs::read_to_string(path).ok();
    let cpu = read("/proc/cpuinfo").and_then(|text| {
        let line = text.lines().find(|line| line.starts_with("model name"))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    });
    json!({
        "cpu": cpu,
        "cores": std::thread::available_parallelism().map(usize::from).ok(),
        "kernel": read("/proc/sys/kernel/osrelease").map(|text| text.trim().to_owned()),
        "load": read("/proc/loadavg").map(|text| text.trim().to_owned()),
    })
}
