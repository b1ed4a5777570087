//! Transaction blocks: staged DDL and rows, settings to put back, and the status byte.
//!
//! Invariant: nothing staged in a block is visible to another session before COMMIT has made all of it durable; ROLLBACK
//! leaves no trace but used-up OIDs.

use std::sync::Arc;

use thalweg_catalog::{Catalog, Change};
use thalweg_sql::Report;

use super::ddl::Effect;
use super::session::{Session, command, unsupported};
use super::settings::Settings;
use super::{Notice, Outcome, TransactionStatus};

/// The block a session is in, if any.
#[derive(Debug, Default)]
pub(super) struct Transaction {
    block: Option<Block>,
}

/// What an open block has gathered.
#[derive(Debug, Default)]
struct Block {
    failed: bool,
    read_only: bool,
    /// The catalog with this block's changes applied; `None` until the first DDL.
    catalog: Option<Arc<Catalog>>,
    changes: Vec<Change>,
    effects: Vec<Effect>,
    settings_before: Option<Settings>,
    /// `SET LOCAL` was used, so COMMIT puts settings back too.
    local_settings: Vec<(String, Vec<String>)>,
    savepoints: Vec<String>,
    wrote: bool,
}

impl Transaction {
    pub(super) fn status(&self) -> TransactionStatus {
        match &self.block {
            None => TransactionStatus::Idle,
            Some(block) if block.failed => TransactionStatus::Failed,
            Some(_) => TransactionStatus::InBlock,
        }
    }

    pub(super) fn fail(&mut self) {
        if let Some(block) = &mut self.block {
            block.failed = true;
        }
    }

    /// Takes back a failure, for a checker that goes on after it.
    pub(super) fn recover(&mut self) {
        if let Some(block) = &mut self.block {
            block.failed = false;
        }
    }

    pub(super) fn catalog(&self) -> Option<Arc<Catalog>> {
        self.block.as_ref().and_then(|block| block.catalog.clone())
    }

    /// Keeps the settings as they were before the block's first SET.
    pub(super) fn remember_settings(&mut self, settings: &Settings) {
        if let Some(block) = &mut self.block {
            block.settings_before.get_or_insert_with(|| settings.clone());
        }
    }

    pub(super) fn mark_local(&mut self, name: &str, values: &[String]) {
        if let Some(block) = &mut self.block {
            block.local_settings.push((name.to_owned(), values.to_vec()));
        }
    }

    /// Marks that rows or objects were changed; 25006 in a read-only block.
    pub(super) fn note_write(&mut self, what: &str) -> Result<(), Report> {
        let Some(block) = &mut self.block else { return Ok(()) };
        if block.read_only {
            return Err(Report {
                sqlstate: "25006",
                message: format!("cannot execute {what} in a read-only transaction"),
                detail: None,
                hint: None,
                position: None,
            });
        }
        block.wrote = true;
        Ok(())
    }

    /// Stages DDL in the open block; gives it back when there is none, for the caller to apply at once.
    pub(super) fn stage(
        &mut self,
        catalog: Arc<Catalog>,
        changes: Vec<Change>,
        effects: Vec<Effect>,
    ) -> Option<(Vec<Change>, Vec<Effect>)> {
        let Some(block) = &mut self.block else { return Some((changes, effects)) };
        block.catalog = Some(catalog);
        block.changes.extend(changes);
        block.effects.extend(effects);
        None
    }
}

fn no_block(message: &str) -> Notice {
    Notice::warning("25P01", message)
}

impl Session {
    pub(super) fn begin(&mut self, read_only: bool) -> Result<Outcome, Report> {
        if self.transaction.block.is_some() {
            self.notice(Notice::warning("25001", "there is already a transaction in progress"));
        } else {
            self.transaction.block = Some(Block { read_only, ..Block::default() });
        }
        Ok(command("BEGIN"))
    }

    pub(super) async fn commit(&mut self) -> Result<Outcome, Report> {
        let Some(block) = self.transaction.block.take() else {
            self.notice(no_block("there is no transaction in progress"));
            return Ok(command("COMMIT"));
        };
        if block.failed {
            self.restore_settings(block.settings_before);
            return Ok(command("ROLLBACK"));
        }
        let before = self.settings.clone();
        if !block.local_settings.is_empty() {
            self.end_local_settings(&block);
        }
        self.report_differences(&before);
        if !block.changes.is_empty() {
            self.server.apply_ddl(block.changes, block.effects).await?;
        }
        Ok(command("COMMIT"))
    }

    pub(super) fn rollback(&mut self) -> Result<Outcome, Report> {
        match self.transaction.block.take() {
            Some(block) => self.restore_settings(block.settings_before),
            None => self.notice(no_block("there is no transaction in progress")),
        }
        Ok(command("ROLLBACK"))
    }

    fn restore_settings(&mut self, before: Option<Settings>) {
        if let Some(settings) = before {
            let changed = std::mem::replace(&mut self.settings, settings);
            self.report_differences(&changed);
        }
    }

    /// Puts back what SET LOCAL changed and keeps what plain SET changed.
    fn end_local_settings(&mut self, block: &Block) {
        let Some(before) = &block.settings_before else { return };
        for (name, _) in &block.local_settings {
            match before.get(name) {
                Ok(value) => {
                    let parts: Vec<String> = if name.eq_ignore_ascii_case("search_path") {
                        before.search_path(&self.user)
                    } else {
                        vec![value]
                    };
                    let _restored = self.settings.set(name, &parts);
                }
                Err(_) => {
                    let _restored = self.settings.reset(name);
                }
            }
        }
    }

    pub(super) fn savepoint(&mut self, name: &str) -> Result<Outcome, Report> {
        let Some(block) = &mut self.transaction.block else {
            return Err(outside_block("SAVEPOINT"));
        };
        if block.wrote {
            return Err(unsupported("SAVEPOINT after a write in the same block", "Set the savepoint before the first write."));
        }
        block.savepoints.push(name.to_owned());
        Ok(command("SAVEPOINT"))
    }

    pub(super) fn release(&mut self, name: &str) -> Result<Outcome, Report> {
        let Some(block) = &mut self.transaction.block else {
            return Err(outside_block("RELEASE SAVEPOINT"));
        };
        let Some(index) = block.savepoints.iter().rposition(|point| point == name) else {
            return Err(missing_savepoint(name));
        };
        block.savepoints.truncate(index);
        Ok(command("RELEASE"))
    }

    pub(super) fn rollback_to(&mut self, name: &str) -> Result<Outcome, Report> {
        let Some(block) = &mut self.transaction.block else {
            return Err(outside_block("ROLLBACK TO SAVEPOINT"));
        };
        let Some(index) = block.savepoints.iter().rposition(|point| point == name) else {
            return Err(missing_savepoint(name));
        };
        if block.wrote {
            return Err(unsupported("ROLLBACK TO SAVEPOINT after a write in the same block", "Roll back the whole block."));
        }
        block.savepoints.truncate(index + 1);
        block.failed = false;
        Ok(command("ROLLBACK"))
    }
}

fn outside_block(what: &str) -> Report {
    Report {
        sqlstate: "25P01",
        message: format!("{what} can only be used in transaction blocks"),
        detail: None,
        hint: None,
        position: None,
    }
}

fn missing_savepoint(name: &str) -> Report {
    Report {
        sqlstate: "3B001",
        message: format!("savepoint \"{name}\" does not exist"),
        detail: None,
        hint: None,
        position: None,
    }
}
