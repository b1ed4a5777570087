//! Acknowledged DDL survives SIGKILL; unacknowledged DDL is all or nothing.
//!
//! A child process (this test binary again) appends statements and prints each version it was acknowledged. The parent kills
//! it after a random number of lines, twenty times on one file, and compares the file with a replay of its own.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use redb::Database;
use thalweg_catalog::{Catalog, CatalogLog, Change, apply_all};

use crate::ddl;
use crate::random::{Random, seed};

const FILE: &str = "THALWEG_CATALOG_CRASH_FILE";
const SEED: &str = "THALWEG_CATALOG_CRASH_SEED";
const KILLS: usize = 20;

/// The statement that follows a version: a function of seed and catalog, so that parent and child agree on it.
fn next_statement(seed: u64, catalog: &Catalog) -> Vec<Change> {
    let mut random = Random::new(seed ^ catalog.version().wrapping_mul(0x9e37_79b9));
    ddl::statement(catalog, &mut random)
}

fn open(path: &Path) -> (CatalogLog, Arc<Catalog>) {
    let database = Database::create(path).expect("the file opens after a kill");
    CatalogLog::open(Arc::new(database)).expect("the log opens after a kill")
}

/// Runs only in the child; does nothing in an ordinary test run.
#[test]
fn crash_child() {
    let (Ok(path), Ok(seed)) = (std::env::var(FILE), std::env::var(SEED)) else {
        return;
    };
    let seed = seed.parse().expect("a seed");
    let (log, mut catalog) = open(Path::new(&path));
    let mut out = std::io::stdout();
    loop {
        let changes = next_statement(seed, &catalog);
        catalog = log.append(&catalog, &changes).expect("valid changes");
        writeln!(out, "\nacknowledged {}", catalog.version()).expect("the parent reads");
        out.flush().expect("the parent reads");
    }
}

#[test]
fn acknowledged_changes_survive_kills() {
    let seed = seed();
    let mut random = Random::new(seed);
    let dir = tempfile::TempDir::new().expect("a folder");
    let path = dir.path().join("thalweg.redb");
    for round in 0..KILLS {
        let acknowledged = run_and_kill(&path, seed, random.below(25));
        let (log, found) = open(&path);
        let context = format!("seed {seed}, round {round}");
        assert!(
            found.version() >= acknowledged,
            "{context}: {} < {acknowledged}",
            found.version()
        );

        let mut expected = Catalog::empty();
        while expected.version() < found.version() {
            expected =
                apply_all(&expected, &next_statement(seed, &expected)).expect("valid changes");
        }
        // Equal versions mean that no statement is there in part.
        assert_eq!(expected, *found, "{context}");
        let changes = log.changes().expect("the log reads");
        assert_eq!(
            apply_all(&Catalog::empty(), &changes).expect("it replays"),
            expected,
            "{context}"
        );
    }
}

/// Starts the child, reads `lines` acknowledgements and kills it wherever it then is; gives the last version read.
fn run_and_kill(path: &Path, seed: u64, lines: usize) -> u64 {
    let mut child = Command::new(std::env::current_exe().expect("this binary"))
        .args([
            "--exact",
            "crash::crash_child",
            "--nocapture",
            "--test-threads=1",
        ])
        .env(FILE, path)
        .env(SEED, seed.to_string())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("the child starts");
    let mut output = BufReader::new(child.stdout.take().expect("piped")).lines();
    let mut acknowledged = 0;
    let mut versions = output
        .by_ref()
        .map_while(Result::ok)
        .filter_map(|line| line.strip_prefix("acknowledged ")?.parse::<u64>().ok());
    for _ in 0..lines {
        acknowledged = versions.next().expect("the child runs until it is killed");
    }
    child.kill().expect("SIGKILL");
    child.wait().expect("the child is gone");
    // What it had acknowledged before the signal reached it counts as well.
    versions.last().unwrap_or(acknowledged)
}
