//! Finds the files and runs each of them against a server of its own.
//!
//! Invariant: a file sees a fresh database, so files never depend on each other or on their order.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use sqllogictest::harness::Failed;
use sqllogictest::{
    MakeConnection, Record, Runner, default_normalizer, default_validator, parse_file,
};
use tokio_postgres::Config;

use crate::engine::{Engine, EngineError, Protocol, Target};
use crate::fire::Fire;
use crate::kind::{Kind, agree};

/// All `.slt` files below `root` in name order.
///
/// # Errors
/// When a folder cannot be read.
pub fn files(root: &Path) -> std::io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut folders = vec![root.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder)? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "slt") {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}

/// Whether the file can run on a real Postgres; streaming files say `# thalweg only` in their first line.
pub fn portable(file: &Path) -> bool {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    !text
        .lines()
        .next()
        .is_some_and(|line| line.contains("thalweg only"))
}

/// What to do with the expectations of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Compare.
    Check,
    /// Rewrite them with what the server answered.
    Update,
}

/// Runs one file on the server at `config`.
///
/// # Errors
/// With every record that does not match.
pub async fn run(
    file: &Path,
    config: Config,
    protocol: Protocol,
    target: Target,
    mode: Mode,
    scratch: &str,
) -> Result<(), Failed> {
    let connect = move || {
        let config = config.clone();
        async move { Engine::connect(&config, protocol, target).await }
    };
    let mut runner: Runner<Engine, _> = Runner::new(connect);
    runner.with_column_validator(agree);
    runner.set_var("SCRATCH".to_owned(), scratch.to_owned());
    runner.add_label(match target {
        Target::Thalweg => "thalweg",
        Target::Postgres => "postgres",
    });
    let result = match mode {
        Mode::Check => check(&mut runner, file, |_, _| Ok(())).await,
        Mode::Update => {
            let updated = runner
                .update_test_file(file, " ", default_validator, default_normalizer, agree)
                .await;
            updated.map_err(|error| Failed::from(error.to_string()))
        }
    };
    runner.shutdown_async().await;
    result
}

/// Runs one file on a server that is killed `kills` times at random moments between its statements. A comment `no-kill` keeps that
/// from happening from there to a comment `kill again`, where an answer is about this life of the server.
///
/// # Errors
/// With every record that does not match.
pub async fn run_under_fire(
    file: &Path,
    fire: Arc<Fire>,
    mut random: ChaCha8Rng,
    kills: usize,
    scratch: &str,
) -> Result<(), Failed> {
    let mut moments = moments(&parse_file::<Kind>(file)?);
    moments.shuffle(&mut random);
    moments.truncate(kills);
    moments.sort_unstable();
    let server = Arc::clone(&fire);
    let connect = move || Engine::under_fire(Arc::clone(&server));
    let mut runner: Runner<Engine, _> = Runner::new(connect);
    runner.with_column_validator(agree);
    runner.set_var("SCRATCH".to_owned(), scratch.to_owned());
    runner.add_label("thalweg");
    let (mut killed, wanted) = (0, moments.len());
    let mut due = moments.into_iter().peekable();
    let result = check(&mut runner, file, |at, may_be_killed| {
        if may_be_killed && due.peek().is_some_and(|moment| *moment <= at) && fire.kill()? {
            due.next();
            killed += 1;
        }
        Ok(())
    })
    .await;
    runner.shutdown_async().await;
    if killed == 0 && wanted > 0 {
        return Err(Failed::from("the server was never killed"));
    }
    result
}

/// The records before which the server may be killed.
fn moments(records: &[Record<Kind>]) -> Vec<usize> {
    let mut may = Spared::default();
    let moments = records.iter().enumerate();
    moments
        .filter(|(_, record)| may.be_killed_before(record))
        .map(|(at, _)| at)
        .collect()
}

/// Whether comments say that the server is to be spared.
#[derive(Debug, Default)]
struct Spared(bool);

impl Spared {
    fn be_killed_before(&mut self, record: &Record<Kind>) -> bool {
        if let Record::Comment(lines) = record {
            for line in lines {
                match line.trim() {
                    "kill again" => self.0 = false,
                    line if line.starts_with("no-kill") => self.0 = true,
                    _ => {}
                }
            }
        }
        !self.0 && matches!(record, Record::Statement { .. } | Record::Query { .. })
    }
}

/// Runs all records, so that one run shows every difference of a file, not only the first. `before` is told which record is next,
/// and whether the server may be killed there.
async fn check<M>(
    runner: &mut Runner<Engine, M>,
    file: &Path,
    mut before: impl FnMut(usize, bool) -> Result<(), Failed>,
) -> Result<(), Failed>
where
    M: MakeConnection<Conn = Engine>,
{
    let (mut differences, mut may) = (Vec::new(), Spared::default());
    for (at, record) in parse_file::<Kind>(file)?.into_iter().enumerate() {
        if matches!(record, Record::Halt { .. }) {
            break;
        }
        before(at, may.be_killed_before(&record))?;
        if let Err(error) = runner.run_async(record).await {
            differences.push(error.display(false).to_string());
        }
    }
    if differences.is_empty() {
        return Ok(());
    }
    let count = differences.len();
    Err(Failed::from(format!(
        "{count} record(s) differ\n\n{}",
        differences.join("\n\n")
    )))
}

/// Runs one file in a database made for it on a real Postgres.
///
/// # Errors
/// As [`run`], and when the database cannot be made.
pub async fn run_on_postgres(
    file: &Path,
    url: &str,
    name: &str,
    protocol: Protocol,
    mode: Mode,
) -> Result<(), Failed> {
    let parsed = url
        .parse::<Config>()
        .map_err(|error| Failed::from(error.to_string()))?;
    let failed = |error: EngineError| Failed::from(error.to_string());
    let admin = Engine::connect(&parsed, Protocol::Simple, Target::Postgres)
        .await
        .map_err(failed)?;
    admin
        .batch(&format!("DROP DATABASE IF EXISTS {name}"))
        .await
        .map_err(failed)?;
    admin
        .batch(&format!("CREATE DATABASE {name}"))
        .await
        .map_err(failed)?;
    let mut config = parsed;
    config
        .dbname(name)
        .options("-c TimeZone=UTC -c DateStyle=ISO,MDY -c IntervalStyle=postgres");
    let result = run(file, config, protocol, Target::Postgres, mode, "").await;
    admin
        .batch(&format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)"))
        .await
        .map_err(failed)?;
    result
}
