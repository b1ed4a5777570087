//! The command line as a user meets it: the real binary, its lines, its exit codes.
//!
//! Invariant: every process started here is stopped here, also when an assertion fails.

use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

const BINARY: &str = env!("CARGO_BIN_EXE_thalweg");
const PATIENCE: Duration = Duration::from_secs(120);

struct Running {
    child: Child,
    lines: std::sync::mpsc::Receiver<String>,
}

impl Drop for Running {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}

impl Running {
    fn start(arguments: &[&str]) -> Self {
        let mut child = Command::new(BINARY)
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("the binary starts");
        let stdout = child.stdout.take().expect("stdout is piped");
        let (sender, lines) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        Self { child, lines }
    }

    /// The next line on stdout.
    fn line(&self) -> String {
        self.lines.recv_timeout(PATIENCE).expect("a line on stdout")
    }

    /// Address after `name=` in the ready line.
    fn address(ready: &str, name: &str) -> String {
        let word = ready
            .split_whitespace()
            .find_map(|word| word.strip_prefix(&format!("{name}=")));
        word.unwrap_or_else(|| panic!("no {name} in {ready:?}"))
            .to_owned()
    }

    fn terminate(&mut self) -> Option<i32> {
        let pid = self.child.id().to_string();
        let sent = Command::new("kill")
            .args(["-TERM", &pid])
            .status()
            .expect("kill runs");
        assert!(sent.success());
        let deadline = Instant::now() + Duration::from_secs(120);
        loop {
            if let Some(status) = self.child.try_wait().expect("the child can be waited for") {
                return status.code();
            }
            assert!(
                Instant::now() < deadline,
                "SIGTERM must end the server within two minutes"
            );
            std::thread::yield_now();
        }
    }
}

struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Self {
        Self(thalweg::testing::scratch_dir())
    }

    fn path(&self) -> &str {
        self.0.to_str().expect("a UTF-8 folder name")
    }

    fn file(&self, name: &str, text: &str) -> String {
        let path = self.0.join(name);
        std::fs::write(&path, text).expect("a scratch file");
        path.to_str().expect("a UTF-8 file name").to_owned()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _kept = std::fs::remove_dir_all(&self.0);
    }
}

fn thalweg(arguments: &[&str]) -> Output {
    Command::new(BINARY)
        .args(arguments)
        .output()
        .expect("the binary runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn serve(data_dir: &str) -> (Running, String) {
    let any = "127.0.0.1:0";
    let running = Running::start(&[
        "serve",
        "--data-dir",
        data_dir,
        "--pg",
        any,
        "--flight",
        any,
        "--http",
        any,
    ]);
    let ready = running.line();
    (running, ready)
}

#[test]
fn serve_says_ready_once_keeps_rows_and_ends_on_sigterm() {
    let scratch = Scratch::new();
    let (mut running, ready) = serve(scratch.path());
    assert!(ready.starts_with("ready pg=127.0.0.1:"), "{ready}");
    let pg = Running::address(&ready, "pg");
    let sql = "CREATE TABLE t (a int PRIMARY KEY); INSERT INTO t VALUES (1), (2); SELECT count(*) AS n FROM t";
    let output = thalweg(&["sql", "--server", &pg, "-c", sql]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(
        text(&output.stdout).contains(" n\n---\n 2\n(1 row)"),
        "{}",
        text(&output.stdout)
    );

    let second = thalweg(&[
        "serve",
        "--data-dir",
        scratch.path(),
        "--pg",
        "127.0.0.1:0",
        "--flight",
        "127.0.0.1:0",
        "--http",
        "127.0.0.1:0",
    ]);
    assert_eq!(second.status.code(), Some(1));
    assert!(
        text(&second.stderr).contains("is in use by another thalweg process"),
        "{}",
        text(&second.stderr)
    );

    assert_eq!(running.terminate(), Some(0));
    assert!(
        running.lines.try_recv().is_err(),
        "the ready line is the only line on stdout"
    );
    let output = thalweg(&[
        "sql",
        "--data-dir",
        scratch.path(),
        "-c",
        "SELECT a FROM t ORDER BY a",
    ]);
    assert!(
        text(&output.stdout).contains(" 1\n 2\n(2 rows)"),
        "{}{}",
        text(&output.stdout),
        text(&output.stderr)
    );
}

#[test]
fn probes_answer_over_http() {
    let scratch = Scratch::new();
    let (_running, ready) = serve(scratch.path());
    let get = |path: &str| {
        use std::io::Write as _;
        let mut stream =
            std::net::TcpStream::connect(Running::address(&ready, "http")).expect("http connects");
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        )
        .expect("request");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("answer");
        answer
    };
    assert!(get("/healthz").starts_with("HTTP/1.1 200 OK"));
    let metrics = get("/metrics");
    assert!(
        metrics.contains("thalweg_epoch") && metrics.contains("thalweg_connections"),
        "{metrics}"
    );
}

#[test]
fn errors_of_the_user_exit_1_with_the_reason() {
    let scratch = Scratch::new();
    for (arguments, expected) in [
        (vec!["serve", "--workers", "0"], "between 1 and 64"),
        (vec!["serve", "--pg", "0.0.0.0:0"], "not a loopback address"),
        (
            vec!["serve", "--config", "no-such-file.toml"],
            "could not read no-such-file.toml",
        ),
        (vec!["demo", "radio"], "there is no demo \"radio\""),
        (
            vec!["sql", "--server", "127.0.0.1:1", "-c", "SELECT 1"],
            "could not connect to 127.0.0.1:1",
        ),
        (
            vec!["sql", "--data-dir", scratch.path(), "-c", "SELECT nope"],
            "SQLSTATE 42703",
        ),
    ] {
        let output = thalweg(&arguments);
        assert_eq!(
            output.status.code(),
            Some(1),
            "{arguments:?}: {}",
            text(&output.stderr)
        );
        assert!(
            text(&output.stderr).contains(expected),
            "{arguments:?}: {}",
            text(&output.stderr)
        );
    }
}

#[test]
fn check_finds_every_error_with_its_position_and_runs_nothing() {
    let scratch = Scratch::new();
    let good = scratch.file(
        "good.sql",
        "CREATE SOURCE s (a int) WITH (connector = 'kafka', properties.bootstrap.server = 'nowhere:9', topic = 't')\n\
         FORMAT PLAIN ENCODE JSON;\nCREATE MATERIALIZED VIEW v AS SELECT a, count(*) AS n FROM s GROUP BY a;\nSELECT * FROM v;\n",
    );
    let output = thalweg(&["check", &good]);
    assert!(output.status.success(), "{}", text(&output.stderr));

    let bad = scratch.file(
        "bad.sql",
        "CREATE TABLE t (a int);\nSELECT b FROM t;\nSELECT a FROM tt;\n",
    );
    let output = thalweg(&["check", &bad]);
    assert_eq!(output.status.code(), Some(1));
    let stderr = text(&output.stderr);
    assert!(
        stderr.contains("bad.sql:2:8: column \"b\" does not exist (42703)"),
        "{stderr}"
    );
    assert!(
        stderr.contains("bad.sql:3:") && stderr.contains("42P01") && stderr.contains("2 errors"),
        "{stderr}"
    );
}

#[test]
fn the_tv_demo_has_live_views_on_views() {
    demo_moves("tv", "SELECT sum(starts) AS s FROM genre_activity");
}

#[test]
fn the_shop_demo_fills_a_table_from_a_view() {
    demo_moves("shop", "SELECT sum(orders) AS n FROM best_customers");
}

#[test]
fn the_nexmark_demo_has_live_queries() {
    demo_moves("nexmark", "SELECT sum(bids) AS n FROM q17");
}

/// Starts a demo, runs the queries it prints, and waits until a number grows.
fn demo_moves(name: &str, query: &str) {
    let any = "127.0.0.1:0";
    let mut running = Running::start(&["demo", name, "--pg", any, "--flight", any, "--http", any]);
    let ready = running.line();
    let pg = Running::address(&ready, "pg");
    let mut printed = Vec::new();
    while !printed.iter().any(|line: &String| line.contains("Ctrl-C")) {
        printed.push(running.line());
    }
    let printed = printed.join("\n");
    assert!(printed.contains("psql -h 127.0.0.1 -p"), "{printed}");
    let queries: Vec<&str> = printed
        .lines()
        .filter(|line| line.trim_start().starts_with(['S', 'E']))
        .collect();
    assert_eq!(queries.len(), 3, "{printed}");
    for query in &queries {
        let output = thalweg(&["sql", "--server", &pg, "-c", query]);
        assert!(output.status.success(), "{query}: {}", text(&output.stderr));
    }
    let number = || -> i64 {
        let output = thalweg(&["sql", "--server", &pg, "-c", query]);
        let stdout = text(&output.stdout);
        stdout
            .lines()
            .nth(2)
            .and_then(|line| line.trim().parse().ok())
            .unwrap_or(0)
    };
    let first = number();
    let deadline = Instant::now() + PATIENCE;
    while number() <= first {
        assert!(Instant::now() < deadline, "the views do not move");
    }
    assert_eq!(running.terminate(), Some(0));
}

#[test]
fn examples_check() {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples");
    let files = std::fs::read_dir(&examples)
        .expect("examples/")
        .filter_map(Result::ok)
        .map(|entry| entry.path());
    for path in files.filter(|path| path.extension().is_some_and(|extension| extension == "sql")) {
        let output = thalweg(&["check", path.to_str().expect("a UTF-8 path")]);
        assert!(
            output.status.success(),
            "{}: {}",
            path.display(),
            text(&output.stderr)
        );
    }
}

#[test]
fn bench_checks_answers_and_reports_figures_as_json() {
    let folder = tempfile::tempdir().expect("a folder");
    let report = folder.path().join("report.json");
    let output = Command::new(BINARY)
        .args([
            "bench",
            "run",
            "--queries",
            "join,count_bids,ddl",
            "--scale",
            "0.001",
            "--json",
        ])
        .arg(&report)
        .arg("--folder")
        .arg(folder.path())
        .output()
        .expect("it runs");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let text = std::fs::read_to_string(&report).expect("a report");
    let report: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let cases = report["cases"].as_array().expect("cases");
    let rows: Vec<_> = cases
        .iter()
        .map(|case| (case["query"].as_str(), case["rows"].as_i64()))
        .collect();
    // 1,500 events have 90 auctions, all of which are bid on; the join of 1,000 pairs has as many rows.
    assert_eq!(rows[0], (Some("join"), Some(1_000)), "{text}");
    assert_eq!(rows[1].0, Some("count_bids"), "{text}");
    assert!(rows[1].1.is_some_and(|groups| groups > 50), "{text}");
    assert!(
        cases[2]["ddl_ms"].as_f64().is_some_and(|ms| ms > 0.0),
        "{text}"
    );
    assert!(
        cases.iter().take(2).all(|case| case["events_per_cpu_s"]
            .as_f64()
            .is_some_and(|rate| rate > 0.0)),
        "{text}"
    );

    let unknown = Command::new(BINARY)
        .args(["bench", "run", "--queries", "q99"])
        .output()
        .expect("it runs");
    assert_eq!(unknown.status.code(), Some(1));
}
