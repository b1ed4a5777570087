//! `thalweg bench`: how much CPU time an event costs, measured in fresh processes.
//!
//! Invariant: a case's answer is compared with the batch answer of the same query before anything of it is timed, and every
//! figure is of one process that did nothing else.

mod archive;
mod case;
mod durable;
mod lookup;
mod process;
mod queries;

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde_json::{Value, json};
use thalweg_connectors::NexmarkText;

use self::process::{own_process, told};
use self::queries::{CASES, Case, Input};
use super::Failure;

/// Events of a check.
const CHECK_EVENTS: u64 = 20_000;

#[derive(Debug, Args, Clone)]
pub(super) struct BenchArguments {
    #[command(subcommand)]
    command: BenchCommand,
}

#[derive(Debug, Subcommand, Clone)]
enum BenchCommand {
    /// Measure queries, each in a process of its own.
    Run(RunArguments),
    /// Write Nexmark events as JSON lines.
    Gen {
        /// Number of events.
        #[arg(long, default_value_t = 1_500_000)]
        events: u64,
        /// Seed of the generator.
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// The file.
        #[arg(long)]
        output: PathBuf,
    },
    /// Measure archives: rows written, scans beside DataFusion, and plans over many files.
    Archive(archive::ArchiveArguments),
    /// Measure checkpoints, a restart after a crash, and an exactly-once sink.
    Durable(durable::DurableArguments),
    /// Measure a lookup join of a view with a table of HBase.
    Lookup(lookup::LookupArguments),
    /// Measure one query in this process.
    #[command(hide = true)]
    Case(CaseArguments),
}

#[derive(Debug, Args, Clone)]
struct RunArguments {
    /// Which queries, separated by commas; all without it.
    #[arg(long, value_delimiter = ',')]
    queries: Vec<String>,
    /// Times the usual number of events.
    #[arg(long, default_value_t = 1.0)]
    scale: f64,
    /// Engine worker threads.
    #[arg(long, default_value_t = 1)]
    workers: usize,
    /// Where the input file is kept; a temporary folder without it.
    #[arg(long)]
    folder: Option<PathBuf>,
    /// Kafka brokers for the queries that read a topic, as host:port; without it these are left out. The topic is made, and stays.
    #[arg(long)]
    brokers: Option<String>,
    /// Times to measure each query; the one with the median CPU time is reported.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=99))]
    runs: u16,
    /// Report as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
}

#[derive(Debug, Args, Clone)]
pub(super) struct CaseArguments {
    name: String,
    #[arg(long)]
    events: u64,
    #[arg(long, default_value_t = 1)]
    workers: usize,
    /// Folder with the input file.
    #[arg(long)]
    folder: PathBuf,
    #[arg(long)]
    brokers: Option<String>,
    /// Compare the answer with the batch answer instead of timing.
    #[arg(long)]
    check: bool,
}

pub(super) async fn bench(arguments: BenchArguments) -> Result<(), Failure> {
    match arguments.command {
        BenchCommand::Run(arguments) => run(&arguments),
        BenchCommand::Gen {
            events,
            seed,
            output,
        } => generate(&output, events, seed),
        BenchCommand::Archive(arguments) => {
            let found = archive::measure(&arguments).await?;
            println!("{found:#}");
            Ok(())
        }
        BenchCommand::Durable(arguments) => {
            let found = durable::measure(&arguments).await?;
            println!("{found:#}");
            Ok(())
        }
        BenchCommand::Lookup(arguments) => {
            let found = lookup::measure(&arguments).await?;
            println!("{found:#}");
            Ok(())
        }
        BenchCommand::Case(arguments) => {
            let case = find(&arguments.name)?;
            let folder = std::path::absolute(&arguments.folder).map_err(io("find the folder"))?;
            let found = case::measure(case, &arguments, &folder).await?;
            println!("{found}");
            Ok(())
        }
    }
}

fn io(what: &str) -> impl Fn(std::io::Error) -> Failure + '_ {
    move |error| Failure::User(format!("could not {what}: {error}"))
}

fn find(name: &str) -> Result<&'static Case, Failure> {
    CASES.iter().find(|case| case.name == name).ok_or_else(|| {
        let known: Vec<&str> = CASES.iter().map(|case| case.name).collect();
        Failure::User(format!(
            "there is no query \"{name}\"; try one of {}",
            known.join(", ")
        ))
    })
}

/// Writes a file of events, unless one of that name is there: the name tells the content.
fn generate(output: &Path, events: u64, seed: u64) -> Result<(), Failure> {
    use std::io::Write;
    let describe = format!("write {}", output.display());
    let failed = io(&describe);
    let partial = output.with_extension("partial");
    let mut file = std::io::BufWriter::new(std::fs::File::create(&partial).map_err(&failed)?);
    let text = NexmarkText::new(seed);
    let mut line = Vec::new();
    for event in 0..events {
        line.clear();
        text.append_event(event, &mut line);
        line.push(b'\n');
        file.write_all(&line).map_err(&failed)?;
    }
    file.into_inner()
        .map_err(|error| failed(error.into_error()))?;
    std::fs::rename(partial, output).map_err(&failed)
}

/// Name of the file with this many events.
fn file_name(events: u64) -> String {
    format!("nexmark_10k_{events}.json")
}

/// Name of the topic with this many events.
fn topic_name(events: u64) -> String {
    format!("thalweg_bench_nexmark_{events}")
}

/// The queries that are asked for, or all that can be run.
fn chosen(arguments: &RunArguments) -> Result<Vec<&'static Case>, Failure> {
    let without_brokers = |case: &Case| case.input == Input::Kafka && arguments.brokers.is_none();
    if arguments.queries.is_empty() {
        return Ok(CASES.iter().filter(|case| !without_brokers(case)).collect());
    }
    let names = arguments.queries.iter();
    let cases = names
        .map(|name| find(name))
        .collect::<Result<Vec<_>, _>>()?;
    match cases.iter().find(|case| without_brokers(case)) {
        Some(case) => Err(Failure::User(format!(
            "query {} reads from Kafka; say where with --brokers host:port",
            case.name
        ))),
        None => Ok(cases),
    }
}

fn run(arguments: &RunArguments) -> Result<(), Failure> {
    let cases = chosen(arguments)?;
    if !(arguments.scale > 0.0 && arguments.scale <= 1000.0) {
        return Err(Failure::User(
            "--scale must be above 0 and at most 1000".into(),
        ));
    }
    let scratch = crate::testing::scratch_dir();
    let folder = arguments.folder.as_ref().unwrap_or(&scratch);
    std::fs::create_dir_all(folder).map_err(io("create the folder"))?;
    let measured = measure_all(&cases, folder, arguments);
    let _kept = std::fs::remove_dir_all(&scratch);
    let report = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "debug": cfg!(debug_assertions),
        "workers": arguments.workers,
        "machine": process::machine(),
        "cases": measured?,
    });
    match &arguments.json {
        None => println!("{report:#}"),
        Some(path) => {
            std::fs::write(path, format!("{report:#}\n")).map_err(io("write the report"))?
        }
    }
    Ok(())
}

fn measure_all(
    cases: &[&Case],
    folder: &Path,
    arguments: &RunArguments,
) -> Result<Vec<Value>, Failure> {
    let mut measured = Vec::new();
    eprintln!(
        "| query | events | M events/CPU-s | wall s | peak MB | state B/group | DDL ms | fresh p50 / p99 ms |"
    );
    eprintln!("|---|---|---|---|---|---|---|---|");
    for case in cases {
        let events = ((case.events as f64 * arguments.scale) as u64).max(1);
        let checked = events.min(CHECK_EVENTS);
        if case.input == Input::File {
            for events in [checked, events] {
                let path = folder.join(file_name(events));
                if !path.exists() {
                    generate(&path, events, 1)?;
                }
            }
        }
        child(case, checked, folder, arguments, true)?;
        let mut runs = (0..arguments.runs)
            .map(|_| child(case, events, folder, arguments, false))
            .collect::<Result<Vec<_>, _>>()?;
        let cpu_s = |run: &Value| run.get("cpu_s").and_then(Value::as_f64).unwrap_or(0.0);
        runs.sort_by(|a, b| cpu_s(a).total_cmp(&cpu_s(b)));
        let found = runs.swap_remove(runs.len() / 2);
        let figure = |name: &str| found.get(name).and_then(Value::as_f64);
        let shown = |name: &str, unit: f64| {
            figure(name).map_or("-".to_owned(), |value| format!("{:.2}", value / unit))
        };
        eprintln!(
            "| {} | {events} | {} | {} | {} | {} | {} | {} / {} |",
            case.name,
            shown("events_per_cpu_s", 1e6),
            shown("wall_s", 1.0),
            shown("peak_rss_bytes", 1e6),
            shown("state_bytes_per_group", 1.0),
            shown("ddl_ms", 1.0),
            shown("fresh_p50_ms", 1.0),
            shown("fresh_p99_ms", 1.0),
        );
        measured.push(found);
    }
    Ok(measured)
}

/// Runs one case in a process of its own and returns what it printed.
fn child(
    case: &Case,
    events: u64,
    folder: &Path,
    arguments: &RunArguments,
    check: bool,
) -> Result<Value, Failure> {
    let mut given: Vec<OsString> = vec!["case".into(), case.name.into()];
    given.extend(["--events".into(), events.to_string().into()]);
    given.extend(["--workers".into(), arguments.workers.to_string().into()]);
    if let Some(brokers) = &arguments.brokers {
        given.extend(["--brokers".into(), brokers.into()]);
    }
    given.extend(["--folder".into(), folder.into()]);
    if check {
        given.push("--check".into());
    }
    told(&own_process(given)?, &format!("query {}", case.name))
}
