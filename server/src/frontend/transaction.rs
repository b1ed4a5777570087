//! Transaction blocks: staged DDL and rows, settings to put back, and the status byte.
//!
//! Invariant: nothing staged in a block is visible to another session before COMMIT has made all of it durable, rows and
//! definitions in one transaction; ROLLBACK leaves no trace but used-up OIDs.

use std::sync::Arc;

use futures::FutureExt;
use futures::future::BoxFuture;
use thalweg_catalog::{Catalog, Change, Oid, RelationKind};
use thalweg_engine::{SealedBox, WriteTransaction};
use thalweg_sql::Report;

use super::ddl::Effect;
use super::session::{Session, command, unsupported};
use super::settings::Settings;
use super::{Notice, Outcome, TransactionStatus};

/// The block a session is in, if any.
#[derive(Debug, Default)]
pub(super) struct Transaction {
    block: Option<SealedBox<Block>>,
}

/// What an open block has gathered.
#[derive(Debug, Default)]
struct Block {
    failed: bool,
    /// Opened by the protocol for the statements up to the next Sync or of one text, not by BEGIN.
    implicit: bool,
    read_only: bool,
    /// The catalog with this block's changes applied; `None` until the first DDL.
    catalog: Option<Arc<Catalog>>,
    changes: Vec<Change>,
    effects: Vec<Effect>,
    /// Rows of tables, which later statements of the block see.
    rows: WriteTransaction,
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

    /// Rows staged by the open block.
    pub(super) fn rows(&self) -> Option<&WriteTransaction> {
        self.block.as_ref().map(|block| &block.rows)
    }

    pub(super) fn rows_mut(&mut self) -> Option<&mut WriteTransaction> {
        self.block.as_mut().map(|block| &mut block.rows)
    }

    /// 0A000 when a statement reads or writes something that starts to exist only when this block commits. Tables are no such thing.
    pub(super) fn check_uses(&self, used: &[Oid]) -> Result<(), Report> {
        let effects = self.block.iter().flat_map(|block| &block.effects);
        let created = effects.filter_map(|effect| match effect {
            Effect::Create { relation, .. } if !matches!(relation.kind, RelationKind::Table) => {
                Some(relation)
            }
            _ => None,
        });
        match created
            .into_iter()
            .find(|relation| used.contains(&relation.oid))
        {
            None => Ok(()),
            Some(relation) => Err(Report {
                sqlstate: "0A000",
                message: format!(
                    "{} \"{}\" cannot be used in the transaction block that creates it",
                    relation.kind_word(),
                    relation.name
                ),
                detail: None,
                hint: Some("COMMIT first.".into()),
                position: None,
            }),
        }
    }

    /// Keeps the settings as they were before the block's first SET.
    pub(super) fn remember_settings(&mut self, settings: &Settings) {
        if let Some(block) = &mut self.block {
            block
                .settings_before
                .get_or_insert_with(|| settings.clone());
        }
    }

    pub(super) fn mark_local(&mut self, name: &str, values: &[String]) {
        if let Some(block) = &mut self.block {
            block
                .local_settings
                .push((name.to_owned(), values.to_vec()));
        }
    }

    /// Marks that rows or objects were changed; 25006 in a read-only block.
    pub(super) fn note_write(&mut self, what: &str) -> Result<(), Report> {
        let Some(block) = &mut self.block else {
            return Ok(());
        };
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

    /// 25001 for a statement that waits for what this block has changed: nobody sees that before the block ends.
    pub(super) fn check_no_writes(&self, what: &str) -> Result<(), Report> {
        match &self.block {
            Some(block) if block.wrote => Err(Report {
                sqlstate: "25001",
                message: format!("{what} cannot run inside a transaction block"),
                detail: Some("The block has changed something, and it is waited for.".into()),
                hint: Some("COMMIT first, or send it as a query of its own.".into()),
                position: None,
            }),
            _ => Ok(()),
        }
    }

    /// True in a block that no BEGIN has opened.
    fn is_implicit(&self) -> bool {
        self.block.as_ref().is_some_and(|block| block.implicit)
    }

    /// Materialized views that start to exist when this block commits.
    pub(super) fn created_views(&self) -> Vec<Oid> {
        let effects = self.block.iter().flat_map(|block| &block.effects);
        let created = effects.filter_map(|effect| match effect {
            Effect::Create { relation, .. } => Some(relation),
            Effect::Drop(_) | Effect::Pause(..) => None,
        });
        created
            .filter(|relation| matches!(relation.kind, RelationKind::MaterializedView { .. }))
            .map(|relation| relation.oid)
            .collect()
    }

    /// True when a block is open, which DDL is then staged in.
    pub(super) fn is_open(&self) -> bool {
        self.block.is_some()
    }

    /// Stages DDL in the open block.
    pub(super) fn stage(
        &mut self,
        catalog: Arc<Catalog>,
        changes: Vec<Change>,
        effects: Vec<Effect>,
    ) {
        let Some(block) = &mut self.block else { return };
        for effect in effects {
            match effect {
                Effect::Drop(oids) => {
                    block.rows.forget(&oids);
                    block.effects.retain(|made| !made.creates_one_of(&oids));
                    block.effects.push(Effect::Drop(oids));
                }
                create => block.effects.push(create),
            }
        }
        block.catalog = Some(catalog);
        block.changes.extend(changes);
    }
}

fn no_block(message: &str) -> Notice {
    Notice::warning("25P01", message)
}

impl Session {
    pub(super) fn begin(&mut self, read_only: bool) -> Result<Outcome, Report> {
        if let Some(block) = self
            .transaction
            .block
            .as_mut()
            .filter(|block| block.implicit)
        {
            // As in Postgres, what came before in the same cycle belongs to the block.
            block.implicit = false;
            block.read_only = read_only;
        } else if self.transaction.block.is_some() {
            self.notice(Notice::warning(
                "25001",
                "there is already a transaction in progress",
            ));
        } else {
            self.transaction.block = Some(SealedBox::new(Block {
                read_only,
                ..Block::default()
            }));
        }
        Ok(command("BEGIN"))
    }

    /// `COMMIT` as a statement: where no BEGIN was, it ends the block of its cycle, and says so.
    pub(super) async fn commit_by_name(&mut self) -> Result<Outcome, Report> {
        if self.transaction.is_implicit() {
            self.notice(no_block("there is no transaction in progress"));
        }
        self.commit().await
    }

    /// `ROLLBACK` as a statement, likewise.
    pub(super) fn rollback_by_name(&mut self) -> Result<Outcome, Report> {
        if self.transaction.is_implicit() {
            self.notice(no_block("there is no transaction in progress"));
        }
        self.rollback()
    }

    /// Opens the block of the statements up to the next Sync, or of one query text; does nothing in a block.
    pub fn begin_implicit(&mut self) {
        self.transaction.block.get_or_insert_with(|| {
            SealedBox::new(Block {
                implicit: true,
                ..Block::default()
            })
        });
    }

    /// Ends the block that `begin_implicit` opened, if it is still open.
    ///
    /// # Errors
    /// What the commit raises; then nothing of the block has happened.
    pub async fn end_implicit(&mut self) -> Result<(), Report> {
        match &self.transaction.block {
            Some(block) if block.implicit && block.failed => self.rollback().map(drop),
            Some(block) if block.implicit => self.commit().await.map(drop),
            _ => Ok(()),
        }
    }

    pub(super) fn commit(&mut self) -> BoxFuture<'_, Result<Outcome, Report>> {
        self.commit_block().boxed()
    }

    async fn commit_block(&mut self) -> Result<Outcome, Report> {
        let Some(mut block) = self.transaction.block.take().map(SealedBox::into_inner) else {
            self.notice(no_block("there is no transaction in progress"));
            return Ok(command("COMMIT"));
        };
        if block.failed {
            self.cursors.end_block(false);
            self.restore_settings(block.settings_before);
            return Ok(command("ROLLBACK"));
        }
        let Block {
            changes,
            effects,
            rows,
            ..
        } = &mut block;
        let (changes, effects, rows) = (
            std::mem::take(changes),
            std::mem::take(effects),
            std::mem::take(rows),
        );
        let committed = if changes.is_empty() && rows.is_empty() {
            Ok(())
        } else if changes.is_empty() {
            let engine = self.server.engine.clone();
            let committed = engine.commit(rows, None, &mut self.floor).await;
            committed.map(drop).map_err(|error| error.report())
        } else {
            self.server
                .apply_ddl(changes, effects, rows, &mut self.floor)
                .await
        };
        self.cursors.end_block(committed.is_ok());
        if let Err(report) = committed {
            self.restore_settings(block.settings_before);
            return Err(report);
        }
        let before = self.settings.clone();
        if !block.local_settings.is_empty() {
            self.end_local_settings(&block);
        }
        self.report_differences(&before);
        Ok(command("COMMIT"))
    }

    pub(super) fn rollback(&mut self) -> Result<Outcome, Report> {
        if self.transaction.is_open() {
            self.cursors.end_block(false);
        }
        match self.transaction.block.take().map(SealedBox::into_inner) {
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
        let Some(before) = &block.settings_before else {
            return;
        };
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
        let block = self.transaction.block.as_mut();
        let Some(block) = block.filter(|block| !block.implicit) else {
            return Err(outside_block("SAVEPOINT"));
        };
        if block.wrote {
            return Err(unsupported(
                "SAVEPOINT after a write in the same block",
                "Set the savepoint before the first write.",
            ));
        }
        block.savepoints.push(name.to_owned());
        Ok(command("SAVEPOINT"))
    }

    pub(super) fn release(&mut self, name: &str) -> Result<Outcome, Report> {
        let block = self.transaction.block.as_mut();
        let Some(block) = block.filter(|block| !block.implicit) else {
            return Err(outside_block("RELEASE SAVEPOINT"));
        };
        let Some(index) = block.savepoints.iter().rposition(|point| point == name) else {
            return Err(missing_savepoint(name));
        };
        block.savepoints.truncate(index);
        Ok(command("RELEASE"))
    }

    pub(super) fn rollback_to(&mut self, name: &str) -> Result<Outcome, Report> {
        let block = self.transaction.block.as_mut();
        let Some(block) = block.filter(|block| !block.implicit) else {
            return Err(outside_block("ROLLBACK TO SAVEPOINT"));
        };
        let Some(index) = block.savepoints.iter().rposition(|point| point == name) else {
            return Err(missing_savepoint(name));
        };
        if block.wrote {
            return Err(unsupported(
                "ROLLBACK TO SAVEPOINT after a write in the same block",
                "Roll back the whole block.",
            ));
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
