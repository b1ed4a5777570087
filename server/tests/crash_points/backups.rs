//! Proves that a backup or a restore that fails at any step is none, says so, and goes well the next time.
//!
//! Rows are written while a backup is made: what is restored is the table as it was at one moment between, with its views.

use super::*;

/// Whether it is a step of `thalweg backup` or `thalweg restore`.
pub(super) fn is_of_backups(point: Point) -> bool {
    ["backup.", "restore."]
        .iter()
        .any(|kind| point.name().starts_with(kind))
}

/// Runs a command of the binary; what it says when it fails.
fn command(arguments: &[&Path], crash_at: Option<&str>) -> Result<(), String> {
    let mut command = Command::new(BINARY);
    command.args(arguments).env_remove("THALWEG_CRASH_AT");
    if let Some(at) = crash_at {
        command.env("THALWEG_CRASH_AT", at);
    }
    let ended = command.output().expect("the binary starts");
    match ended.status.success() {
        true => Ok(()),
        false => Err(String::from_utf8_lossy(&ended.stderr).into_owned()),
    }
}

fn back_up(server: &Server, to: &Path) -> Result<(), String> {
    let address = server.address.clone().expect("serves");
    let arguments = ["backup".as_ref(), to, "--server".as_ref(), address.as_ref()];
    command(&arguments, None)
}

fn restore(from: &Path, to: &Path, crash_at: Option<&str>) -> Result<(), String> {
    let arguments = ["restore".as_ref(), from, "--data-dir".as_ref(), to];
    command(&arguments, crash_at)
}

/// Makes a backup while rows come; when the armed step fails, there is none, and the next one goes well.
async fn backup_cell(at: &str, seed: &Path, content: &Content) -> bool {
    let folder = scratch();
    copy(seed, &folder);
    let backup = folder.join("backup");
    let mut server = Server::start(&folder, Some(at));
    let made = back_up(&server, &backup);
    let failed = made.is_err();
    if let Err(said) = &made {
        let refused = restore(&backup, &folder.join("none"), None);
        let refused = refused.expect_err("a backup that failed is none");
        assert!(refused.contains("holds no whole backup"), "{at}: {refused}");
        assert!(
            at.ends_with("abort") || server.connect().await.is_some(),
            "{at}: the server is gone: {said}"
        );
        drop(server);
        server = Server::start(&folder, None);
        back_up(&server, &backup).unwrap_or_else(|error| panic!("{at}: again: {error}"));
    }
    let client = server.connect().await.expect("serves");
    run(&client, "INSERT INTO t VALUES (-7, 0)")
        .await
        .expect("is answered");
    let taken = back_up(&server, &backup).expect_err("there is one already");
    assert!(taken.contains("is not empty"), "{at}: {taken}");
    drop(server);
    check_restored(at, &backup, content).await;
    let _kept = std::fs::remove_dir_all(&folder);
    failed
}

/// A data dir of a backup has what was in the table then, and views that fit it.
async fn check_restored(at: &str, backup: &Path, content: &Content) {
    let folder = scratch();
    restore(backup, &folder.join("data"), None).unwrap_or_else(|error| panic!("{at}: {error}"));
    let server = Server::start(&folder, None);
    let client = server.connect().await;
    let client = client.unwrap_or_else(|| panic!("{at}: does not start: {}", log(&server)));
    let found = run(&client, "SELECT id, v FROM t").await;
    assert_eq!(found.as_ref(), Ok(content), "{at}");
    check_views(&client, at).await;
    drop(server);
    let again = restore(backup, &folder.join("data"), None);
    let again = again.expect_err("a data dir is not overwritten");
    assert!(again.contains("is not empty"), "{at}: {again}");
    let _kept = std::fs::remove_dir_all(&folder);
}

/// A restore that fails leaves what no server opens; the next one makes it whole.
async fn restore_cell(at: &str, backup: &Path, content: &Content) -> bool {
    let folder = scratch();
    let data = folder.join("data");
    let restored = restore(backup, &data, Some(at));
    let failed = restored.is_err();
    if failed {
        let server = Server::start(&folder, None);
        let begun = !at.starts_with("restore.begin");
        assert_eq!(
            server.address.is_none() && log(&server).contains("being restored"),
            begun,
            "{at}: {}",
            log(&server)
        );
        drop(server);
        if !begun {
            // A server has made a data dir of its own in the empty folder.
            std::fs::remove_dir_all(&data).expect("removes");
        }
        restore(backup, &data, None).unwrap_or_else(|error| panic!("{at}: again: {error}"));
    }
    let server = Server::start(&folder, None);
    let client = server.connect().await.expect("serves");
    let found = run(&client, "SELECT id, v FROM t").await;
    assert_eq!(found.as_ref(), Ok(content), "{at}");
    drop(server);
    let _kept = std::fs::remove_dir_all(&folder);
    failed
}

#[test]
fn a_failed_backup_or_restore_is_none_and_goes_well_the_next_time() {
    let (seed, backups) = (scratch(), scratch());
    let content = runtime().block_on(seeded(&seed));
    let backup = backups.join("whole");
    let server = Server::start(&seed, None);
    back_up(&server, &backup).expect("is made");
    drop(server);
    let served = Command::new(BINARY)
        .args(["serve", "--data-dir"])
        .arg(&backup)
        .output()
        .expect("the binary starts");
    let said = String::from_utf8_lossy(&served.stderr).into_owned();
    assert!(
        !served.status.success() && said.contains("is a backup"),
        "{said}"
    );
    for point in Point::ALL.into_iter().filter(|point| is_of_backups(*point)) {
        let mut failed = false;
        for (hit, action) in [(1, "error"), (1, "panic"), (2, "abort"), (1, "abort")] {
            let at = format!("{}:{hit}:{action}", point.name());
            let cell = async {
                match point.name().starts_with("backup.") {
                    true => backup_cell(&at, &seed, &content).await,
                    false => restore_cell(&at, &backup, &content).await,
                }
            };
            failed |= runtime().block_on(cell);
        }
        assert!(failed, "{} is never reached", point.name());
    }
    let damaged = backup.join("data.redb");
    let mut bytes = std::fs::read(&damaged).expect("reads");
    bytes[5000] ^= 1;
    std::fs::write(&damaged, bytes).expect("writes");
    let refused = restore(&backup, &backups.join("damaged"), None);
    let refused = refused.expect_err("it is damaged");
    assert!(
        refused.contains("data.redb is not what was written"),
        "{refused}"
    );
    for folder in [seed, backups] {
        let _kept = std::fs::remove_dir_all(&folder);
    }
}
