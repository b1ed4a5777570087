//! Makes a backup while the data dir is in use.
//!
//! Invariant: what is copied is one moment of the data file with every run that it names then; no file is removed until it is copied.

use std::collections::BTreeSet;
use std::path::Path;

use redb::ReadTransaction;

use super::{Inner, Runs};
use crate::backup::{Backup, Copying, Target};
use crate::error::StateError;
use crate::folder::FORMAT;
use crate::store;

/// Keeps files from being removed.
struct Pin<'a>(&'a Inner);

impl Drop for Pin<'_> {
    fn drop(&mut self) {
        self.0.state().pins -= 1;
    }
}

impl Runs {
    /// Copies everything into a folder, which is made, or must be empty or what a backup has left that did not end. `others` copies
    /// the tables of the data file that are not of this crate.
    ///
    /// # Errors
    /// `Taken`; `Corrupt` when it is unknown which runs a table has, so that a backup could not be whole; what the disk and the
    /// database report. The folder holds no backup then.
    pub fn back_up(
        &self,
        folder: &Path,
        taken_at_ms: i64,
        version: &str,
        others: impl FnOnce(&Copying<'_>) -> Result<(), StateError>,
    ) -> Result<Backup, StateError> {
        let inner = &self.inner;
        let target = Target {
            disk: inner.disk.as_ref(),
            points: &inner.points,
            folder,
        };
        target.prepare()?;
        let (txn, numbers, checkpoint, _pin) = inner.pinned()?;
        let database = target.copy_database(&txn, |copying| {
            store::copy_tables(copying)?;
            others(copying)
        })?;
        drop(txn);
        let mut files = vec![database];
        for number in numbers {
            files.push(target.copy_run(&inner.folder, number)?);
        }
        let backup = Backup {
            format: FORMAT,
            version: version.to_owned(),
            checkpoint,
            taken_at_ms,
            files,
        };
        target.finish(&backup)?;
        Ok(backup)
    }
}

impl Inner {
    /// One moment of the data file, the runs that it names, and the number of its newest checkpoint.
    fn pinned(&self) -> Result<(ReadTransaction, BTreeSet<u64>, u64, Pin<'_>), StateError> {
        let _turn = self.turn();
        let mut state = self.state();
        if let Some((table, reason)) = state.broken.first_key_value() {
            let record = format!("the manifest of table {table}");
            return Err(StateError::corrupt(record, reason));
        }
        // A manifest changes only in its turn; a table that is dropped meanwhile is named less, never more.
        let txn = self.store.read()?;
        let runs = state.tables.values().flat_map(|table| &table.runs);
        let numbers = runs.map(|run| run.number).collect();
        let checkpoint = state.newest.info.number;
        state.pins += 1;
        drop(state);
        Ok((txn, numbers, checkpoint, Pin(self)))
    }
}
