//! Runs programs on a real server and asks the judges.
//!
//! Invariant: every view is compared at every check with both judges, after all writes are visible; a program that SQLite
//! refuses is reported as not counted, never as passed.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use datafusion::arrow::record_batch::RecordBatch;
use futures::TryStreamExt as _;
use thalweg::config::Config;
use thalweg::frontend::{Outcome, Server, ServerOptions, Session, SessionOptions};
use thalweg_connectors::SystemClock;

use crate::batch::{Batch, Tables, table};
use crate::compare::{difference, rows_of};
use crate::program::{Program, Step};
use crate::sqlite::Sqlite;

/// A view that is not what a judge says, or a statement that failed on one side only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// The program's seed.
    pub seed: u64,
    /// Index of the step.
    pub step: usize,
    /// What differs.
    pub what: String,
}

impl std::fmt::Display for Difference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "seed {} step {}: {}", self.seed, self.step, self.what)
    }
}

/// What a run of several programs did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// Programs that ran to their end with both judges.
    pub counted: u64,
    /// Programs that SQLite refused.
    pub refused: u64,
    /// Programs in which DataFusion contradicted SQLite and the view.
    pub disagreed: u64,
    /// Comparisons of one view with one judge.
    pub comparisons: u64,
}

enum Stop {
    /// SQLite cannot say this: the program does not count.
    Refused(String),
    Different(String),
    /// The judges contradict each other, and the view agrees with SQLite.
    Disagree(String),
}

/// How a program that met no difference ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Both judges agreed, this many times.
    Agreed(u64),
    /// SQLite refused a statement.
    Refused,
    /// DataFusion contradicted SQLite and the view.
    Disagreed,
}

struct Runner {
    data_dir: PathBuf,
    session: Option<Session>,
    sqlite: Sqlite,
    batch: Batch,
    views: Vec<(String, String)>,
    comparisons: u64,
    /// Chooses the number of workers.
    turn: u64,
}

/// Numbers of workers that programs run with; each start takes the next.
const WORKERS: [usize; 3] = [1, 2, 4];

async fn open(data_dir: &Path, turn: u64) -> Result<Session, String> {
    std::fs::create_dir_all(data_dir).map_err(|error| error.to_string())?;
    // Every other server has all state on disk between two steps that can be there.
    let state_memory_bytes = if turn.is_multiple_of(2) {
        usize::MAX
    } else {
        0
    };
    let turn = usize::try_from(turn % WORKERS.len() as u64).unwrap_or(0);
    let options = ServerOptions {
        config: Config {
            workers: WORKERS[turn],
            state_memory_bytes,
            ..Config::ephemeral(data_dir.to_owned())
        },
        clock: Arc::new(SystemClock),
    };
    let runtime = tokio::runtime::Handle::current();
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(120);
    let server = loop {
        match tokio::task::block_in_place(|| Server::open(options.clone(), runtime.clone())) {
            Ok(server) => break server,
            Err(report)
                if report.message.contains("already open")
                    && std::time::Instant::now() < deadline =>
            {
                tokio::task::yield_now().await;
            }
            Err(report) => return Err(report.to_string()),
        }
    };
    Session::new(server, SessionOptions::default()).map_err(|report| report.to_string())
}

impl Runner {
    /// Without a server yet.
    fn new(program: &Program, data_dir: &Path) -> Result<Self, Difference> {
        Ok(Self {
            data_dir: data_dir.to_owned(),
            session: None,
            turn: program.seed,
            sqlite: Sqlite::open().map_err(|error| difference_at(program, 0, error))?,
            batch: Batch::new(),
            views: Vec::new(),
            comparisons: 0,
        })
    }

    /// Runs the steps from `first` on, and stops the server.
    async fn finish(mut self, program: &Program, first: usize) -> Result<Verdict, Difference> {
        let mut outcome = Ok(());
        let mut at = first;
        for (index, step) in program.steps.iter().enumerate().skip(first) {
            at = index;
            outcome = self.step(program, step).await;
            if outcome.is_err() {
                break;
            }
        }
        self.close();
        verdict(program, at, outcome, self.comparisons)
    }

    /// What SQLite makes of a step that our server does elsewhere.
    fn judge(&mut self, step: &Step) -> Result<(), Stop> {
        match step {
            Step::Both(sql) => self.both_judged(sql),
            Step::View { name, query } => {
                self.view_judged(name, query)?;
                self.views.push((name.to_owned(), query.to_owned()));
                Ok(())
            }
            Step::Check | Step::Restart => Ok(()),
        }
    }

    fn both_judged(&self, sql: &str) -> Result<(), Stop> {
        self.sqlite
            .run(sql)
            .map_err(|error| Stop::Refused(format!("{error}: {sql}")))?;
        let mut views = self.views.iter();
        views.try_for_each(|(name, _)| weigh(&self.sqlite, name))
    }

    fn view_judged(&self, name: &str, query: &str) -> Result<(), Stop> {
        self.sqlite
            .run(&format!("CREATE VIEW {name} AS {query}"))
            .map_err(|error| Stop::Refused(format!("{error}: {query}")))?;
        weigh(&self.sqlite, name)
    }

    fn session(&mut self) -> &mut Session {
        self.session
            .as_mut()
            .unwrap_or_else(|| unreachable!("the session is open between restarts"))
    }

    /// Runs a statement on our server and returns its rows.
    async fn ours(&mut self, sql: &str) -> Result<Vec<RecordBatch>, String> {
        let session = self.session();
        let parsed = session.parse(sql).map_err(|report| report.to_string())?;
        let mut batches = Vec::new();
        for statement in &parsed {
            let describe = |report: thalweg::frontend::Report| {
                format!(
                    "{} ({}) {}",
                    report.message,
                    report.sqlstate,
                    report.detail.unwrap_or_default()
                )
            };
            if let Outcome::Rows { stream, .. } = session
                .execute(statement, Vec::new())
                .await
                .map_err(describe)?
            {
                batches = stream
                    .try_collect()
                    .await
                    .map_err(|error| error.to_string())?;
            }
        }
        Ok(batches)
    }

    async fn both(&mut self, sql: &str) -> Result<(), Stop> {
        self.both_judged(sql)?;
        self.ours(sql)
            .await
            .map(drop)
            .map_err(|error| Stop::Different(format!("{error}: {sql}")))
    }

    async fn view(&mut self, name: &str, query: &str) -> Result<(), Stop> {
        self.view_judged(name, query)?;
        self.ours(&format!("CREATE MATERIALIZED VIEW {name} AS {query}"))
            .await
            .map_err(|error| Stop::Different(format!("{error}: {query}")))?;
        self.views.push((name.to_owned(), query.to_owned()));
        Ok(())
    }

    /// Rows of the base tables, for the batch judge.
    async fn tables(&mut self, program: &Program) -> Result<Tables, Stop> {
        let mut tables = Tables::new();
        for base in &program.tables {
            let batches = self
                .ours(&format!("SELECT * FROM {}", base.name))
                .await
                .map_err(Stop::Different)?;
            let catalog = self.session().server().catalog();
            let relation = catalog
                .find("public", &base.name)
                .ok_or_else(|| Stop::Different("a table is gone".into()))?;
            let rows = table(&relation.schema(), &batches).map_err(Stop::Different)?;
            tables.insert(relation.oid, rows);
        }
        Ok(tables)
    }

    async fn check(&mut self, program: &Program) -> Result<(), Stop> {
        self.ours("FLUSH").await.map_err(Stop::Different)?;
        let mut tables = self.tables(program).await?;
        for (name, query) in self.views.clone() {
            let batches = self
                .ours(&format!("SELECT * FROM {name}"))
                .await
                .map_err(Stop::Different)?;
            let ours = rows_of(&batches).map_err(Stop::Different)?;
            let theirs = self.sqlite.rows(&name).map_err(Stop::Refused)?;
            if let Some(text) = difference(&ours, &theirs) {
                return Err(Stop::Different(format!(
                    "{name} is not what SQLite says: {text}"
                )));
            }
            let catalog = self.session().server().catalog();
            let content = self
                .batch
                .run(&catalog, &query, &tables)
                .await
                .map_err(Stop::Different)?;
            let rows = rows_of(&content).map_err(Stop::Different)?;
            if let Some(text) = difference(&ours, &rows) {
                // SQLite, which shares no code with the view, has already agreed with it: here the batch judge is the wrong one.
                return Err(Stop::Disagree(format!(
                    "{name} is what SQLite says, but not what DataFusion says: {text}: {query}"
                )));
            }
            if let Some(relation) = catalog.find("public", &name) {
                tables.insert(
                    relation.oid,
                    table(&relation.schema(), &content).map_err(Stop::Different)?,
                );
            }
            self.comparisons += 2;
        }
        Ok(())
    }

    async fn restart(&mut self) -> Result<(), Stop> {
        self.close();
        self.turn = self.turn.wrapping_add(1);
        self.session = Some(
            open(&self.data_dir, self.turn)
                .await
                .map_err(|error| Stop::Different(format!("restart: {error}")))?,
        );
        Ok(())
    }

    fn close(&mut self) {
        if let Some(session) = self.session.take() {
            let server = Arc::clone(session.server());
            drop(session);
            tokio::task::block_in_place(|| server.stop());
        }
    }

    async fn step(&mut self, program: &Program, step: &Step) -> Result<(), Stop> {
        match step {
            Step::Both(sql) => self.both(sql).await,
            Step::View { name, query } => self.view(name, query).await,
            Step::Check => self.check(program).await,
            Step::Restart => self.restart().await,
        }
    }
}

/// Refuses a program whose view is too much for SQLite before our server meets it: views over joins without keys multiply to
/// hundreds of millions of rows, which are right, and take all memory (seed 9862).
fn weigh(sqlite: &Sqlite, view: &str) -> Result<(), Stop> {
    sqlite
        .run(&format!("SELECT count(*) FROM {view}"))
        .map_err(|error| Stop::Refused(format!("{error}: {view}")))
}

/// Runs one program on a server over `data_dir`, which must be empty.
///
/// # Errors
/// The first difference.
pub async fn run_program(program: &Program, data_dir: &Path) -> Result<Verdict, Difference> {
    let mut runner = Runner::new(program, data_dir)?;
    runner.session = Some(
        open(data_dir, program.seed)
            .await
            .map_err(|error| difference_at(program, 0, error))?,
    );
    runner.finish(program, 0).await
}

/// The same, but what comes before the restart runs elsewhere: `first_life` returns when a process that did it all was aborted.
///
/// # Errors
/// The first difference, and what `first_life` reports.
pub async fn run_killed(
    program: &Program,
    data_dir: &Path,
    first_life: impl Fn() -> Result<(), String>,
) -> Result<Verdict, Difference> {
    let mut runner = Runner::new(program, data_dir)?;
    let restart = program.first_life();
    for (at, step) in program.steps.iter().enumerate().take(restart) {
        if let Err(stop) = runner.judge(step) {
            return verdict(program, at, Err(stop), 0);
        }
    }
    let killed = tokio::task::block_in_place(first_life);
    killed.map_err(|error| difference_at(program, restart, error))?;
    runner.finish(program, restart).await
}

/// Runs what comes before a program's restart on a server over `data_dir`, and aborts the process.
///
/// # Errors
/// The statement that failed.
pub async fn live_and_die(program: &Program, data_dir: &Path) -> Result<(), String> {
    let mut runner = Runner::new(program, data_dir).map_err(|difference| difference.to_string())?;
    runner.session = Some(open(data_dir, program.seed).await?);
    // Nothing is waited for at checks: a kill comes while views are on their way, too.
    let steps = program.steps.iter().take(program.first_life());
    for sql in steps.filter_map(Step::statement) {
        let done = runner.ours(&sql).await;
        done.map_err(|error| format!("{error}: {sql}"))?;
    }
    std::process::abort()
}

fn difference_at(program: &Program, step: usize, what: String) -> Difference {
    Difference {
        seed: program.seed,
        step,
        what,
    }
}

fn verdict(
    program: &Program,
    at: usize,
    outcome: Result<(), Stop>,
    comparisons: u64,
) -> Result<Verdict, Difference> {
    let seed = program.seed;
    match outcome {
        Ok(()) => Ok(Verdict::Agreed(comparisons)),
        Err(Stop::Refused(why)) => {
            eprintln!("seed {seed}: not counted: {why}");
            Ok(Verdict::Refused)
        }
        Err(Stop::Disagree(why)) => {
            eprintln!("seed {seed}: not counted, the judges disagree: {why}");
            Ok(Verdict::Disagreed)
        }
        Err(Stop::Different(what)) => Err(difference_at(program, at, what)),
    }
}

/// Runs `count` programs from `first` on; stops at the first difference after printing how to replay it.
///
/// # Errors
/// That difference.
pub async fn run_seeds(first: u64, count: u64, scratch: &Path) -> Result<Totals, Difference> {
    let mut totals = Totals::default();
    for seed in first..first + count {
        let program = Program::generate(seed);
        let data_dir = scratch.join(format!("program-{seed}"));
        let result = run_program(&program, &data_dir).await;
        let _kept = std::fs::remove_dir_all(&data_dir);
        match result {
            Ok(Verdict::Agreed(comparisons)) => {
                totals.counted += 1;
                totals.comparisons += comparisons;
            }
            Ok(Verdict::Refused) => totals.refused += 1,
            Ok(Verdict::Disagreed) => totals.disagreed += 1,
            Err(difference) => {
                eprintln!("{difference}\n{}", program.script());
                eprintln!(
                    "replay: ORACLE_SEED={seed} ORACLE_PROGRAMS=1 cargo test -p thalweg-test-oracle -- --nocapture"
                );
                return Err(difference);
            }
        }
    }
    Ok(totals)
}
