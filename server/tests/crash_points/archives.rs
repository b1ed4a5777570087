//! Proves that an archive which a source fills has every row once, whatever step of its commits fails.
//!
//! Lines are added to a file while the archive takes them in, until the armed step has failed and a little longer. After a restart
//! the archive, and the hybrid of it and its source, have exactly the lines of the file.

use std::io::Write as _;

use super::*;

/// Lines that may be written before the armed step has to have failed.
const LINES_MAX: i32 = 400;

/// Whether it is a step of a commit to an archive.
pub(super) fn is_of_archives(point: Point) -> bool {
    point.name().starts_with("archive.")
}

/// Whether it is a step of the exchange of files after the commit of VACUUM or retention.
pub(super) fn is_of_exchanges(point: Point) -> bool {
    point.name().starts_with("exchange.")
}

/// Adds a line to the file that the source follows.
fn add(folder: &Path, id: i32) {
    let lines = folder.join("files/lines.json");
    let mut file = std::fs::OpenOptions::new();
    let mut file = file.append(true).create(true).open(lines).expect("a file");
    writeln!(file, "{{\"id\":{id}}}").expect("writes");
}

/// A data dir with a source and an archive that holds what was in its file.
async fn fed(folder: &Path) -> i32 {
    let server = Server::start(folder, None);
    let client = server.connect().await.expect("serves");
    (0..5).for_each(|id| add(folder, id));
    for statement in [
        "CREATE SOURCE lines (id int) WITH (connector = 'file', path = 'lines.json', follow = 'true')",
        "CREATE ARCHIVE kept FROM lines PARTITION BY (id % 2 AS part) \
         WITH (connector = 'file', path = 'kept', rollover.interval = '10 ms')",
        "WAIT FOR kept",
    ] {
        run(&client, statement).await.expect(statement);
    }
    saved(&client).await;
    5
}

/// Compares what holds the lines with their number.
async fn check(client: &Client, lines: i32, at: &str) {
    let expected: Content = (0..lines).map(|id| (id, 1)).collect();
    for from in ["kept", "HYBRID(kept, lines)"] {
        let query = format!("SELECT id, count(*) FROM {from} GROUP BY id");
        let found = run(client, &query).await;
        let found = found.unwrap_or_else(|error| panic!("{at}: {from}: {error}"));
        assert_eq!(found, expected, "{at}: {from}");
    }
}

async fn cell((point, hit, action): Cell, seed: &Path, lines: i32) -> bool {
    let at = format!("{}:{hit}:{action}", point.name());
    let (folder, mut lines) = (scratch(), lines);
    copy(seed, &folder);
    let mut server = Server::start(&folder, Some(&at));
    let (mut failed, mut left) = (false, 5);
    while left > 0 && lines < LINES_MAX {
        add(&folder, lines);
        lines += 1;
        // Lines that come apart are taken in by several commits.
        std::thread::park_timeout(Duration::from_millis(25));
        failed = failed || server.has_failed();
        left -= i32::from(failed);
    }
    drop(server);
    let (server, client) = again(&folder, &at).await;
    add(&folder, lines);
    lines += 1;
    let waited = run(&client, "WAIT FOR kept").await;
    waited.unwrap_or_else(|error| panic!("{at}: {error}: {}", log(&server)));
    check(&client, lines, &at).await;
    drop(server);
    let _kept = std::fs::remove_dir_all(&folder);
    failed
}

#[test]
fn a_failure_at_any_step_of_an_archive_loses_nothing() {
    let seed = scratch();
    let lines = runtime().block_on(fed(&seed));
    check_all(&cells(is_of_archives), |named| {
        runtime().block_on(cell(named, &seed, lines))
    });
    let _kept = std::fs::remove_dir_all(&seed);
}

/// Archives whose files are exchanged as fast as can be: `brief` keeps no row for long.
async fn upkept(folder: &Path) -> i32 {
    let lines = fed(folder).await;
    let server = Server::start(folder, None);
    let client = server.connect().await.expect("serves");
    for statement in [
        "DROP ARCHIVE kept",
        "CREATE ARCHIVE kept FROM lines PARTITION BY (id % 2 AS part) \
         WITH (connector = 'file', path = 'small', rollover.interval = '10 ms', reader.grace = '0 s')",
        "CREATE ARCHIVE brief FROM lines PARTITION BY (id % 2 AS part) \
         WITH (connector = 'file', path = 'brief', rollover.interval = '10 ms', reader.grace = '0 s', retention = '10 ms')",
        "WAIT FOR kept",
        "WAIT FOR brief",
    ] {
        run(&client, statement).await.expect(statement);
    }
    saved(&client).await;
    lines
}

/// Names of the files of rows below a folder of an archive, and how many were replaced and are still there.
fn files_of_rows(folder: &Path) -> (usize, usize) {
    let (mut rows, mut aside) = (0, 0);
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        let name = path
            .file_name()
            .expect("a name")
            .to_string_lossy()
            .into_owned();
        let files = || match std::fs::read_dir(&path) {
            Ok(found) => found
                .filter_map(Result::ok)
                .filter(|file| file.path().extension().is_some_and(|end| end == "parquet"))
                .count(),
            Err(_) => 0,
        };
        match name.as_str() {
            "_replaced" => aside += files(),
            _ if name.starts_with('_') => {}
            _ => rows += files(),
        }
    }
    (rows, aside)
}

/// After the upkeep of both: one has every line once, the other none twice, and who lists the folders finds their files only.
async fn check_upkept(client: &Client, folder: &Path, lines: i32, at: &str) {
    check(client, lines, at).await;
    let brief = "SELECT id, count(*) FROM brief GROUP BY id";
    let found = run(client, brief).await;
    let found = found.unwrap_or_else(|error| panic!("{at}: {error}"));
    assert!(found.values().all(|times| *times == 1), "{at}: {found:?}");
    for (archive, place) in [("kept", "files/small"), ("brief", "files/brief")] {
        let query =
            format!("SELECT count(*), 0 FROM sys.archive_files WHERE archive = '{archive}'");
        let deadline = Instant::now() + 4 * PATIENCE;
        // Rows of one go on going.
        loop {
            let named = run(client, &query).await.expect("is answered");
            let named = named.keys().next().copied();
            let (listed, aside) = files_of_rows(&folder.join(place));
            if named == i32::try_from(listed).ok() && aside == 0 {
                break;
            }
            assert!(
                Instant::now() < deadline,
                "{at}: {archive}: {named:?} files are named, {listed} are there, {aside} are aside"
            );
        }
    }
}

/// Vacuums; the writer of an archive may be about to begin.
async fn vacuumed(client: &Client, archive: &str, at: &str) {
    let deadline = Instant::now() + 4 * PATIENCE;
    loop {
        match run(client, &format!("VACUUM ARCHIVE {archive}")).await {
            Ok(_) => return,
            Err(error) => assert!(Instant::now() < deadline, "{at}: {error}"),
        }
    }
}

async fn exchange_cell((point, hit, action): Cell, seed: &Path, lines: i32) -> bool {
    let at = format!("{}:{hit}:{action}", point.name());
    let (folder, mut lines) = (scratch(), lines);
    copy(seed, &folder);
    let mut server = Server::start(&folder, Some(&at));
    let (mut failed, mut left) = (false, 3);
    let mut client = server.connect().await;
    while left > 0 && lines < LINES_MAX {
        add(&folder, lines);
        lines += 1;
        let Some(connected) = &client else { break };
        for statement in [
            "WAIT FOR kept",
            "VACUUM ARCHIVE kept",
            "WAIT FOR brief",
            "VACUUM ARCHIVE brief",
        ] {
            // What fails here is made good for by the next start.
            let answer = run(connected, statement).await;
            failed |= answer.is_err_and(|error| error.contains("crash point"));
        }
        failed = failed || server.has_failed();
        left -= i32::from(failed);
        if connected.is_closed() {
            client = server.connect().await;
        }
    }
    failed = failed || server.fails_soon();
    drop(server);
    let (server, client) = again(&folder, &at).await;
    add(&folder, lines);
    lines += 1;
    for archive in ["kept", "brief"] {
        let waited = run(&client, &format!("WAIT FOR {archive}")).await;
        waited.unwrap_or_else(|error| panic!("{at}: {error}: {}", log(&server)));
        vacuumed(&client, archive, &at).await;
    }
    check_upkept(&client, &folder, lines, &at).await;
    drop(server);
    let _kept = std::fs::remove_dir_all(&folder);
    failed
}

#[test]
fn a_failure_while_files_of_an_archive_are_exchanged_costs_no_row() {
    let seed = scratch();
    let lines = runtime().block_on(upkept(&seed));
    check_all(&cells(is_of_exchanges), |named| {
        runtime().block_on(exchange_cell(named, &seed, lines))
    });
    let _kept = std::fs::remove_dir_all(&seed);
}
