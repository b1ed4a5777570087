//! `thalweg backup` and `thalweg restore`.
//!
//! Invariant: a backup is made by the server whose data dir it is, through `BACKUP TO`; a data dir is restored without one.

use std::net::SocketAddr;
use std::path::Path;

use thalweg_state::{StateError, SystemDisk};

use super::{Failure, client, serve};

pub(super) async fn back_up(folder: &Path, server: SocketAddr) -> Result<(), Failure> {
    let folder = std::path::absolute(folder)
        .map_err(|error| Failure::User(format!("{}: {error}", folder.display())))?;
    let Some(text) = folder.to_str() else {
        let label = folder.display();
        return Err(Failure::User(format!("{label} is not a name in UTF-8")));
    };
    let text = text.replace('\'', "''");
    client::run_script(server, &format!("BACKUP TO '{text}'")).await
}

pub(super) fn restore(backup: &Path, data_dir: &Path) -> Result<(), Failure> {
    let points = serve::crash_points()?;
    let restored = thalweg_state::restore(&SystemDisk, &points, backup, data_dir);
    let restored = restored.map_err(|error| failure(&error))?;
    println!(
        "restored checkpoint {} into {}: {} files, {} bytes",
        restored.checkpoint,
        data_dir.display(),
        restored.files.len(),
        restored.bytes()
    );
    Ok(())
}

fn failure(error: &StateError) -> Failure {
    Failure::User(match error.hint() {
        Some(hint) => format!("{error}. {hint}"),
        None => error.to_string(),
    })
}
