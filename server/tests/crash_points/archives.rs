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
    let server = Server::start(&folder, None);
    let client = server.connect().await;
    let client = client.unwrap_or_else(|| panic!("{at}: does not start again: {}", log(&server)));
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
