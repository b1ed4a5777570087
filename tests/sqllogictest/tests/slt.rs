//! Every `.slt` file as two test cases, `simple::<folder>/<file>` and `extended::<folder>/<file>`.
//!
//! `cargo test -p thalweg-test-slt -- joins` runs the files whose name contains the word.
//! `THALWEG_SLT_UPDATE=1` rewrites the expectations with the server's answers (read the diff before you keep it).
//! `THALWEG_SLT_POSTGRES='host=... user=...'` asks a real Postgres in place of our server, to check expectations.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use sqllogictest::harness::{Arguments, Failed, Trial, run};
use thalweg::testing::TestServer;
use thalweg_test_slt::cases::{self, Mode};
use thalweg_test_slt::engine::{Protocol, Target};
use tokio_postgres::Config;

fn main() -> ExitCode {
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
    }
    run(&Arguments::from_args(), trials).exit_code()
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
