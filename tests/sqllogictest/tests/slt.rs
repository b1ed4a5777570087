//! Every `.slt` file as three test cases: `simple::<folder>/<file>`, `extended::<folder>/<file>`, and `killed::<folder>/<file>`, in
//! which the server is killed between statements.
//!
//! `cargo test -p thalweg-test-slt -- joins` runs the files whose name contains the word.
//! `THALWEG_SLT_KILLS=20` kills the server more often, `THALWEG_SEED` at other moments.
//! `THALWEG_SLT_UPDATE=1` rewrites the expectations with the server's answers (read the diff before you keep it).
//! `THALWEG_SLT_POSTGRES='host=... user=...'` asks a real Postgres in place of our server, to check expectations.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use sqllogictest::harness::{Arguments, Failed, Trial, run};
use thalweg::testing::TestServer;
use thalweg_test_slt::cases::{self, Mode};
use thalweg_test_slt::engine::{Protocol, Target};
use thalweg_test_slt::fire::{self, Fire};
use tokio_postgres::Config;

/// How often the server is killed in each file.
const KILLS: usize = 2;

/// Files that run at once, when nobody says how many.
const THREADS: usize = 6;

fn main() -> ExitCode {
    if let Some(code) = fire::serve() {
        return code;
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let files = cases::files(root).expect("the folder of the .slt files can be read");
    let postgres = std::env::var("THALWEG_SLT_POSTGRES").ok();
    let update = std::env::var_os("THALWEG_SLT_UPDATE").is_some_and(|value| value == "1");
    let mode = if update { Mode::Update } else { Mode::Check };
    let mut trials = Vec::new();
    for (number, file) in files.into_iter().enumerate() {
        if postgres.is_some() && !cases::portable(&file) {
            continue;
        }
        let name = file
            .strip_prefix(root)
            .unwrap_or(&file)
            .with_extension("")
            .display()
            .to_string();
        // Updating needs the column types, which only the extended protocol tells.
        let protocols: &[Protocol] = if update {
            &[Protocol::Extended]
        } else {
            &[Protocol::Simple, Protocol::Extended]
        };
        for protocol in protocols.iter().copied() {
            let (file, postgres) = (file.clone(), postgres.clone());
            let database = format!("slt_{number}_{}", protocol.name());
            let case = move || case(file, postgres.as_deref(), &database, protocol, mode);
            trials.push(Trial::test(format!("{}::{name}", protocol.name()), case));
        }
        if postgres.is_none() && !update {
            let case = move || under_fire(&file, number);
            trials.push(Trial::test(format!("killed::{name}"), case));
        }
    }
    let mut arguments = Arguments::from_args();
    // Most of a file's time is waiting.
    arguments.test_threads = arguments.test_threads.or(Some(THREADS));
    run(&arguments, trials).exit_code()
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

fn under_fire(file: &Path, place: usize) -> Result<(), Failed> {
    let seed = number("THALWEG_SEED").unwrap_or_else(|| u64::from(std::process::id()));
    let kills = number("THALWEG_SLT_KILLS").map_or(KILLS, |kills| kills as usize);
    let random = ChaCha8Rng::seed_from_u64(seed ^ (place as u64) << 32);
    let fire = Arc::new(Fire::start()?);
    let scratch = format!("scratch/slt_{place}_killed");
    let _left_over = std::fs::remove_dir_all(&scratch);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Failed::from)?;
    let run = cases::run_under_fire(file, fire, random, kills, &scratch);
    let result = runtime.block_on(run);
    let _unused = std::fs::remove_dir_all(&scratch);
    result.map_err(|failed| {
        let what = failed.message().unwrap_or_default();
        let name = file.file_stem().unwrap_or_default().display();
        Failed::from(format!(
            "replay: THALWEG_SEED={seed} THALWEG_SLT_KILLS={kills} cargo test -p thalweg-test-slt -- {name}\n{what}"
        ))
    })
}

fn case(
    file: PathBuf,
    postgres: Option<&str>,
    database: &str,
    protocol: Protocol,
    mode: Mode,
) -> Result<(), Failed> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Failed::from)?;
    runtime.block_on(async {
        if let Some(url) = postgres {
            return cases::run_on_postgres(&file, url, database, protocol, mode).await;
        }
        let server = TestServer::start().await;
        let mut config = Config::new();
        config
            .host(server.pg_addr.ip().to_string())
            .port(server.pg_addr.port())
            .user("slt")
            .dbname("thalweg");
        // `$SCRATCH` in a file that says `control substitution on`: a folder below the one the server may use.
        let scratch = format!("scratch/{database}");
        let _left_over = std::fs::remove_dir_all(&scratch);
        let result = cases::run(&file, config, protocol, Target::Thalweg, mode, &scratch).await;
        server.stop();
        let _unused = std::fs::remove_dir_all(&scratch);
        result
    })
}
