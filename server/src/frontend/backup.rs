//! `BACKUP TO 'folder'`: copies the data dir while everything goes on.
//!
//! Invariant: the statement ends well only when the folder holds a whole backup; whatever else happens, the server goes on and the
//! folder cannot be restored.

use std::path::Path;

use thalweg_catalog::{LOG_TABLE, META_TABLE};
use thalweg_sql::Report;

use super::session::{Session, command};
use super::{Notice, Outcome};

impl Session {
    pub(super) async fn back_up(&mut self, folder: &str) -> Result<Outcome, Report> {
        self.transaction.check_no_writes("BACKUP")?;
        let folder = Path::new(folder);
        if !folder.is_absolute() {
            return Err(Report {
                hint: Some("The folder is one of the machine on which the server runs.".into()),
                ..Report::new("22023", "the folder of a backup must be an absolute path")
            });
        }
        if let Some(root) = &self.server.config.backup_root
            && !lies_below(folder, root)
        {
            return Err(Report {
                hint: Some(
                    "backup_root in the server's settings says where backups may go.".into(),
                ),
                ..Report::new("42501", "backups cannot be made in this folder")
            });
        }
        let made = self
            .server
            .engine
            .back_up(folder, env!("CARGO_PKG_VERSION"), |copying| {
                copying.table(LOG_TABLE)?;
                copying.table(META_TABLE)
            });
        let made = made.await.map_err(|error| error.report())?;
        self.notice(Notice::notice(format!(
            "backup of checkpoint {}: {} files, {} bytes",
            made.checkpoint,
            made.files.len(),
            made.bytes()
        )));
        Ok(command("BACKUP"))
    }
}

/// By its text alone, so a path that climbs is refused.
fn lies_below(folder: &Path, root: &Path) -> bool {
    use std::path::Component;
    let climbs = folder.components().any(|part| part == Component::ParentDir);
    !climbs && folder.starts_with(root)
}
