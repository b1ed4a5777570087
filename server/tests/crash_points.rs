//! Proves that a server which fails at any durable step keeps what it acknowledged, and that every listed step is reached.
//!
//! Each cell is a step, the first, second or a later time it is reached, and a way to fail: the step reports an error, the thread
//! panics, or the process ends; and there are kills at random times. A client writes until that has happened. After a restart
//! every table is what its acknowledged statements made it, with or without the one that was not answered, and every view is what
//! its query gives over that. Every line of a file is in the archive that it fills, once, also while its files are exchanged. A failure prints how to repeat its cell.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use thalweg_state::Point;

#[path = "crash_points/archives.rs"]
mod archives;
#[path = "crash_points/backups.rs"]
mod backups;
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

const BINARY: &str = env!("CARGO_BIN_EXE_thalweg");
const PATIENCE: Duration = Duration::from_secs(30);

/// Cells that run at the same time.
const PARALLEL: usize = 4;

/// What a cell's client knows of the table: value by id.
type Content = BTreeMap<i32, i32>;

/// Steps that only the first start of a data dir takes.
const FIRST_START: [Point; 6] = [
    Point::FormatWrite,
    Point::FormatRename,
    Point::FormatFolder,
    Point::DatabaseCreate,
    Point::DatabaseRename,
    Point::DatabaseFolder,
];

/// Steps that a start takes once.
const EVERY_START: [Point; 2] = [Point::ManifestOpen, Point::ArchiveFence];

struct Server {
    child: Child,
    errors: PathBuf,
    address: Option<String>,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}

impl Server {
    /// Starts a server; it has no address when it ended before it was ready.
    fn start(folder: &Path, crash_at: Option<&str>) -> Server {
        let config = folder.join("thalweg.toml");
        let files = folder.join("files");
        std::fs::create_dir_all(&files).expect("a folder");
        let settings = format!(
            "checkpoint_interval = '10 ms'\ndisk_reserve = '0'\nfile_root = '{}'\n",
            files.display()
        );
        std::fs::write(&config, settings).expect("a settings file");
        let errors = folder.join("stderr");
        let any = "127.0.0.1:0";
        let mut command = Command::new(BINARY);
        command
            .arg("serve")
            .arg("--data-dir")
            .arg(folder.join("data"))
            .args(["--pg", any, "--flight", any, "--http", any, "--config"])
            .arg(&config)
            .env_remove("THALWEG_CRASH_AT")
            .env("THALWEG_LOG", "warn")
            .stdout(Stdio::piped())
            .stderr(std::fs::File::create(&errors).expect("a log file"));
        if let Some(at) = crash_at {
            command.env("THALWEG_CRASH_AT", at);
        }
        let mut child = command.spawn().expect("the binary starts");
        let stdout = child.stdout.take().expect("stdout is piped");
        let mut ready = String::new();
        BufReader::new(stdout)
            .read_line(&mut ready)
            .expect("stdout is read");
        let address = ready
            .split_whitespace()
            .find_map(|word| word.strip_prefix("pg="))
            .map(ToOwned::to_owned);
        Server {
            child,
            errors,
            address,
        }
    }

    /// Whether the step that was armed has failed.
    fn has_failed(&mut self) -> bool {
        let ended = self.child.try_wait().expect("the child can be waited for");
        ended.is_some()
            || std::fs::read_to_string(&self.errors).is_ok_and(|log| log.contains("crash point"))
    }

    /// Whether the armed step fails soon: a process that ends closes its connections first.
    fn fails_soon(&mut self) -> bool {
        let deadline = Instant::now() + Duration::from_secs(2);
        while Instant::now() < deadline {
            if self.has_failed() {
                return true;
            }
            std::thread::park_timeout(Duration::from_millis(5));
        }
        false
    }

    async fn connect(&self) -> Option<Client> {
        let (host, port) = self.address.as_ref()?.split_once(':')?;
        let settings = format!("host={host} port={port} user=thalweg dbname=thalweg");
        let (client, connection) = tokio_postgres::connect(&settings, NoTls).await.ok()?;
        tokio::spawn(connection);
        Some(client)
    }
}

/// Runs a statement; the rows' first two columns as numbers.
async fn run(client: &Client, sql: &str) -> Result<Content, String> {
    let answer = tokio::time::timeout(PATIENCE, client.simple_query(sql)).await;
    let messages = answer
        .map_err(|_| format!("{sql} was not answered"))?
        .map_err(|error| match error.as_db_error() {
            Some(error) => match error.detail() {
                Some(detail) => format!("{}: {detail}", error.message()),
                None => error.message().to_owned(),
            },
            None => error.to_string(),
        })?;
    let number = |text: Option<&str>| text.and_then(|text| text.parse().ok()).unwrap_or(i32::MIN);
    let rows = messages.iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) if row.len() == 2 => {
            Some((number(row.get(0)), number(row.get(1))))
        }
        _ => None,
    });
    Ok(rows.collect())
}

/// The next statement, and what it makes of the table.
fn next(step: i32, content: &Content) -> (String, Content) {
    let mut after = content.clone();
    let sql = match step % 8 {
        0 => {
            after.retain(|id, _| id % 5 != 3);
            "DELETE FROM t WHERE id % 5 = 3".to_owned()
        }
        1 | 5 => {
            after.values_mut().for_each(|v| *v += 1);
            "UPDATE t SET v = v + 1".to_owned()
        }
        2 => "CREATE TABLE gone (v INT)".to_owned(),
        3 => "INSERT INTO gone VALUES (1)".to_owned(),
        6 => "DROP TABLE gone".to_owned(),
        _ => {
            after.insert(step, 0);
            format!("INSERT INTO t VALUES ({step}, 0)")
        }
    };
    (sql, after)
}

/// What may be in the table: after the last answer, and after the statement that got none.
struct Possible {
    answered: Content,
    unanswered: Option<Content>,
}

/// Writes until the armed step has failed and a little longer, or until there is no answer.
async fn write(server: &mut Server, mut content: Content) -> (Possible, bool) {
    let mut failed = server.has_failed();
    let Some(client) = server.connect().await else {
        let possible = Possible {
            answered: content,
            unanswered: None,
        };
        return (possible, server.fails_soon());
    };
    let (deadline, mut left) = (Instant::now() + PATIENCE, 20);
    let mut step = content.keys().max().map_or(0, |id| (id / 8 + 1) * 8);
    while left > 0 && Instant::now() < deadline {
        let (sql, after) = next(step, &content);
        match run(&client, &sql).await {
            Ok(_) => content = after,
            // The table may be left over from before a crash, or not have been made.
            Err(error) if error.contains("\"gone\"") => {}
            Err(error) => {
                let failed = failed || error.contains("crash point") || server.fails_soon();
                let possible = Possible {
                    answered: content,
                    unanswered: Some(after),
                };
                return (possible, failed);
            }
        }
        step += 1;
        failed = failed || (step % 4 == 0 && server.has_failed());
        left -= i32::from(failed);
    }
    let possible = Possible {
        answered: content,
        unanswered: None,
    };
    (possible, failed)
}

fn scratch() -> PathBuf {
    thalweg::testing::scratch_dir()
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a folder");
    for entry in std::fs::read_dir(from).expect("a folder") {
        let path = entry.expect("a file").path();
        let target = to.join(path.file_name().expect("a name"));
        if path.is_dir() {
            copy(&path, &target);
        } else {
            std::fs::copy(&path, &target).expect("copies");
        }
    }
}

/// Views over the table, and the queries they must equal; each has two columns, the first of which tells rows apart.
const VIEWS: [(&str, &str); 3] = [
    ("sums", "SELECT v, count(*) AS n FROM t GROUP BY v"),
    (
        "next",
        "SELECT a.id, b.v FROM t a LEFT JOIN t b ON a.id + 1 = b.id",
    ),
    ("high", "SELECT n, max(v) AS v FROM sums GROUP BY n"),
];

/// Compares the views with their queries.
async fn check_views(client: &Client, at: &str) {
    for (name, query) in VIEWS {
        let shown = run(client, &format!("SELECT * FROM {name}")).await;
        let shown = shown.unwrap_or_else(|error| panic!("{at}: {name}: {error}"));
        let expected = run(client, query).await;
        let expected = expected.unwrap_or_else(|error| panic!("{at}: {query}: {error}"));
        assert_eq!(shown, expected, "{at}: {name}");
    }
}

/// A data dir with a table, views, some runs, and files that a crash has left.
async fn seeded(folder: &Path) -> Content {
    let server = Server::start(folder, None);
    let client = server.connect().await.expect("serves");
    run(&client, "CREATE TABLE t (id INT PRIMARY KEY, v INT)")
        .await
        .expect("creates");
    for (name, query) in VIEWS {
        run(
            &client,
            &format!("CREATE MATERIALIZED VIEW {name} AS {query}"),
        )
        .await
        .expect("creates");
    }
    let mut content = Content::new();
    for step in 0..16 {
        let (sql, after) = next(step, &content);
        run(&client, &sql).await.expect("is answered");
        content = after;
    }
    saved(&client).await;
    drop(server);
    for number in 0xF0..0xF4 {
        let left = folder.join(format!("data/runs/{number:016x}.run"));
        std::fs::write(left, "half a run").expect("writes");
    }
    content
}

/// Waits for a checkpoint.
async fn saved(client: &Client) {
    let made = "SELECT count(*), 0 FROM sys.checkpoints";
    let deadline = Instant::now() + PATIENCE;
    while run(client, made)
        .await
        .expect("is answered")
        .contains_key(&0)
    {
        assert!(Instant::now() < deadline, "no checkpoint is made");
    }
}

/// Fails a server at one step and checks what is left. False when the step was not reached that often.
async fn cell(point: Point, hit: u64, action: &str, seed: &Path, content: &Content) -> bool {
    let at = format!("{}:{hit}:{action}", point.name());
    let folder = scratch();
    let fresh = FIRST_START.contains(&point);
    let before = if fresh {
        Content::new()
    } else {
        copy(seed, &folder);
        content.clone()
    };
    let mut server = Server::start(&folder, Some(&at));
    let (possible, failed) = write(&mut server, before).await;
    drop(server);
    let (server, client) = again(&folder, &at).await;
    if fresh {
        run(&client, "CREATE TABLE t (id INT PRIMARY KEY, v INT)")
            .await
            .unwrap_or_else(|error| panic!("{at}: {error}"));
    }
    let found = run(&client, "SELECT id, v FROM t")
        .await
        .unwrap_or_else(|error| panic!("{at}: {error}: {}", log(&server)));
    if !fresh {
        assert!(
            found == possible.answered || Some(&found) == possible.unanswered.as_ref(),
            "{at}: {found:?} is neither {:?} nor {:?}",
            possible.answered,
            possible.unanswered
        );
        check_views(&client, &at).await;
    }
    run(
        &client,
        "INSERT INTO t VALUES (-1, 0); UPDATE t SET v = v + 1",
    )
    .await
    .unwrap_or_else(|error| panic!("{at}: {error}"));
    if !fresh {
        check_views(&client, &at).await;
    }
    drop(server);
    let _kept = std::fs::remove_dir_all(&folder);
    failed
}

/// Starts after a failure, which has to work.
async fn again(folder: &Path, at: &str) -> (Server, Client) {
    let server = Server::start(folder, None);
    let client = server.connect().await;
    let client = client.unwrap_or_else(|| panic!("{at}: does not start again: {}", log(&server)));
    (server, client)
}

fn log(server: &Server) -> String {
    std::fs::read_to_string(&server.errors).unwrap_or_default()
}

/// A step, how often it is reached, and how it fails then.
type Cell = (Point, u64, &'static str);

/// The cells of these steps, or the one that `THALWEG_CRASH_CELL` names.
fn cells(wanted: impl Fn(Point) -> bool) -> Vec<Cell> {
    let only = std::env::var("THALWEG_CRASH_CELL").ok();
    let mut cells = Vec::new();
    for (number, point) in Point::ALL.into_iter().enumerate() {
        if !wanted(point) {
            continue;
        }
        let once = FIRST_START.contains(&point) || EVERY_START.contains(&point);
        for hit in if once {
            vec![1]
        } else {
            vec![1, 2, 3 + number as u64 % 2]
        } {
            for action in ["error", "panic", "abort"] {
                let name = format!("{}:{hit}:{action}", point.name());
                if only.as_ref().is_none_or(|only| name.starts_with(only)) {
                    cells.push((point, hit, action));
                }
            }
        }
    }
    cells
}

/// Runs every cell; fails when one loses or doubles something, or is never reached.
fn check_all(cells: &[Cell], run: impl Fn(Cell) -> bool + Sync) {
    let next = AtomicUsize::new(0);
    let (missed, broken) = (Mutex::new(Vec::new()), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..PARALLEL {
            scope.spawn(|| {
                while let Some(cell) = cells.get(next.fetch_add(1, Ordering::SeqCst)) {
                    let (point, hit, action) = *cell;
                    let name = format!("{}:{hit}:{action}", point.name());
                    let run = || run(*cell);
                    match std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)) {
                        Ok(true) => {}
                        Ok(false) => missed.lock().expect("a list").push(name),
                        Err(_) => broken.lock().expect("a list").push(name),
                    }
                }
            });
        }
    });
    let (missed, broken) = (
        missed.into_inner().expect("a list"),
        broken.into_inner().expect("a list"),
    );
    assert!(
        broken.is_empty() && missed.is_empty(),
        "replay: THALWEG_CRASH_CELL=<cell> cargo test -p thalweg --test crash_points\nlost or doubled: {broken:?}\nnever reached: {missed:?}"
    );
    println!("{} cells", cells.len());
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime")
}

fn number(variable: &str, otherwise: u64) -> u64 {
    std::env::var(variable).map_or(otherwise, |text| text.parse().expect("a number"))
}

/// Kills at moments that nobody chose, over one data dir: `THALWEG_KILLS` of them, at times that `THALWEG_SEED` makes.
#[test]
fn kills_at_any_time_lose_nothing() {
    let (kills, seed) = (number("THALWEG_KILLS", 12), number("THALWEG_SEED", 1));
    println!("replay: THALWEG_SEED={seed}");
    let folder = scratch();
    let mut content = runtime().block_on(seeded(&folder));
    let mut dice = seed;
    for kill in 0..kills {
        dice = dice
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        let wait = Duration::from_micros((dice >> 33) % 400_000);
        let mut server = Server::start(&folder, None);
        let process = server.child.id().to_string();
        let killer = std::thread::spawn(move || {
            std::thread::park_timeout(wait);
            Command::new("kill").args(["-9", &process]).status()
        });
        let (possible, _) = runtime().block_on(write(&mut server, content));
        assert!(killer.join().expect("ends").expect("kill runs").success());
        drop(server);
        content = runtime().block_on(async {
            let server = Server::start(&folder, None);
            let client = server.connect().await.expect("starts again");
            check_views(&client, &format!("kill {kill} of seed {seed}")).await;
            let anew = "SELECT count(*), 0 FROM sys.errors WHERE reason = '01000'";
            let anew = run(&client, anew).await.expect("is answered");
            assert!(
                anew.contains_key(&0),
                "kill {kill} of seed {seed}: {anew:?}: {}",
                log(&server)
            );
            run(&client, "SELECT id, v FROM t")
                .await
                .expect("is answered")
        });
        assert!(
            content == possible.answered || Some(&content) == possible.unanswered.as_ref(),
            "kill {kill} of seed {seed}: {content:?} is neither {:?} nor {:?}",
            possible.answered,
            possible.unanswered
        );
    }
    let _kept = std::fs::remove_dir_all(&folder);
}

/// Deliveries into HBase and Kafka reach theirs with a real one: `tests/clients/python/test_hbase_crashes.py` and
/// `test_kafka_crash.py`, which read the list.
fn is_of_others(point: Point) -> bool {
    ["hbase.", "kafka."]
        .iter()
        .any(|of| point.name().starts_with(of))
}

#[test]
fn a_failure_at_any_step_loses_nothing() {
    let seed = scratch();
    let content = runtime().block_on(seeded(&seed));
    let apart = [
        backups::is_of_backups,
        archives::is_of_archives,
        archives::is_of_exchanges,
        is_of_others,
    ];
    let wanted = |point| !apart.iter().any(|is_of| is_of(point));
    check_all(&cells(wanted), |(point, hit, action)| {
        runtime().block_on(cell(point, hit, action, &seed, &content))
    });
    let _kept = std::fs::remove_dir_all(&seed);
}
