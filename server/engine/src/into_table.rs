//! Delivers the changes of a sink's query into a table, exactly once.
//!
//! Invariant: the table's change and the ledger record that says so are one transaction, so neither is there without the other.

use std::sync::Arc;

use datafusion::arrow::array::UInt32Array;
use datafusion::arrow::compute::{concat_batches, take_record_batch};
use datafusion::arrow::record_batch::RecordBatch;
use thalweg_catalog::Oid;
use thalweg_connectors::{Delta, Weights};
use thalweg_state::Store;

use crate::batch::joined;
use crate::error::EngineError;
use crate::ledger::{Digest, Entry, Held, Keys, Ledger, Rows, digest};
use crate::relation::Version;
use crate::shared::{Shared, Stored};
use crate::sinks::changes;
use crate::statement::checked_rows;
use crate::table::{Encoded, KeyIndex, Table};
use crate::write::{send, table_change};

/// The open end of `CREATE SINK ... INTO table`.
pub(crate) struct TableOutlet {
    target: Arc<Stored>,
    ledger: Ledger,
    before: Before,
}

/// What earlier runs of the server delivered.
enum Before {
    /// Nobody has looked yet.
    Unread,
    /// Until the first delivery of this run is through.
    Held(Arc<Held>),
    /// Counts no more.
    Past,
}

/// What one delivery does.
struct Effect {
    deltas: Vec<Delta>,
    entries: Vec<Entry>,
}

impl TableOutlet {
    pub(crate) fn new(store: Arc<Store>, sink: Oid, target: Arc<Stored>) -> Self {
        Self {
            target,
            ledger: Ledger::new(store, sink.0),
            before: Before::Unread,
        }
    }

    /// Makes the table hold the rows of `version`. `delivered` is what the last successful call delivered.
    pub(crate) async fn deliver(
        &mut self,
        shared: &Arc<Shared>,
        version: &Arc<Version>,
        delivered: Option<&Arc<Version>>,
    ) -> Result<(), EngineError> {
        let target = Arc::clone(&self.target);
        let table = table_of(&target)?;
        if let Some(error) = shared.failure(target.oid) {
            return Err(error);
        }
        if matches!(self.before, Before::Unread) {
            self.read().await?;
        }
        let changes = changes(version, delivered)?;
        let guard = match &table.key {
            Some(_) => Some(table.lock(&target.history).await?),
            None => None,
        };
        let held = match (delivered, &self.before) {
            (None, Before::Held(held)) => Some(Arc::clone(held)),
            _ => None,
        };
        // After a start this compares all that the query gives with all that was delivered.
        let stored = Arc::clone(&target);
        let effect = tokio::task::spawn_blocking(move || effect(&stored, &changes, held));
        let effect = joined(effect.await)??;
        if !effect.entries.is_empty() {
            shared.admit(&target, &effect.deltas)?;
            let mut change = table_change(&target, effect.deltas)?;
            change.sink = Some(self.ledger.applied(&effect.entries));
            send(shared, &target, change, guard).await?;
        }
        self.before = Before::Past;
        let rows = u64::try_from(version.net_rows()).unwrap_or(0);
        if self.ledger.is_long(rows) {
            self.rewrite(table, version)?;
        }
        Ok(())
    }

    /// Reads what earlier runs delivered; the server does not wait for that to be ready.
    async fn read(&mut self) -> Result<(), EngineError> {
        let mut ledger = self.ledger.clone();
        let read = tokio::task::spawn_blocking(move || {
            let held = ledger.read()?;
            Ok::<_, EngineError>((ledger, held))
        });
        let (ledger, held) = joined(read.await)??;
        self.ledger = ledger;
        self.before = Before::Held(Arc::new(held));
        Ok(())
    }

    /// Replaces the ledger by what it adds up to: the content of `version`, which was just delivered.
    fn rewrite(&mut self, table: &Table, version: &Version) -> Result<(), EngineError> {
        let mut entries = Vec::new();
        for delta in version.content()? {
            let digests = digests(&self.target, &delta.batch)?;
            match &table.key {
                Some(index) => {
                    let keys = index.keys(&delta.batch)?.into_iter().zip(digests);
                    entries.extend(keys.map(|(key, row)| Entry::Key(key.into(), Some(row))));
                }
                None => {
                    let rows = digests.into_iter().enumerate();
                    entries.extend(rows.map(|(at, row)| Entry::Rows(row, delta.weights.at(at))));
                }
            }
        }
        self.ledger.rewrite(&entries)
    }
}

fn digests(stored: &Stored, batch: &RecordBatch) -> Result<Vec<Digest>, EngineError> {
    let rows = stored.codec.encode(batch.columns())?;
    Ok(rows.iter().map(|row| digest(row.data())).collect())
}

fn table_of(target: &Stored) -> Result<&Table, EngineError> {
    let table = target.table.as_ref();
    table.ok_or_else(|| EngineError::internal(format!("{} is not a table", target.label())))
}

fn effect(
    target: &Stored,
    changes: &[Delta],
    held: Option<Arc<Held>>,
) -> Result<Effect, EngineError> {
    let table = table_of(target)?;
    let held = held.as_deref();
    match &table.key {
        Some(index) => keyed(target, table, index, changes, held),
        None => appended(target, table, changes, held),
    }
}

/// Rows replace those with their key; keys that went are deleted, whoever wrote their row last.
fn keyed(
    target: &Stored,
    table: &Table,
    index: &KeyIndex,
    changes: &[Delta],
    held: Option<&Held>,
) -> Result<Effect, EngineError> {
    let mut gone: Keys = held.map(|held| held.keys.clone()).unwrap_or_default();
    for delta in changes {
        for (row, key) in index.keys(&delta.batch)?.into_iter().enumerate() {
            if delta.weights.at(row) < 0 {
                gone.insert(key.into(), None);
            }
        }
    }
    let (mut removed, mut added, mut entries) = (Vec::<Encoded>::new(), Vec::new(), Vec::new());
    for delta in changes {
        let (keys, digests) = (index.keys(&delta.batch)?, digests(target, &delta.batch)?);
        let mut fresh = Vec::new();
        for (row, (key, now)) in keys.into_iter().zip(digests).enumerate() {
            if delta.weights.at(row) <= 0 {
                continue;
            }
            if gone.remove(&key[..]) == Some(Some(now)) {
                continue;
            }
            removed.extend(index.row(&key));
            fresh.push(row as u32);
            entries.push(Entry::Key(key.into(), Some(now)));
        }
        added.push(take_record_batch(&delta.batch, &UInt32Array::from(fresh))?);
    }
    for key in gone.into_keys() {
        removed.extend(index.row(&key));
        entries.push(Entry::Key(key, None));
    }
    let removed = index.decode(removed.iter().map(AsRef::as_ref))?;
    let added = together(target, &added)?;
    let added = checked_rows(target, table, &added)?;
    let deltas = [Delta::delete(removed), Delta::insert(added)];
    Ok(Effect {
        deltas: deltas.into_iter().filter(|d| d.num_rows() > 0).collect(),
        entries,
    })
}

/// Rows are added; what goes from the query stays in the table.
fn appended(
    target: &Stored,
    table: &Table,
    changes: &[Delta],
    held: Option<&Held>,
) -> Result<Effect, EngineError> {
    let mut held: Rows = held.map(|held| held.rows.clone()).unwrap_or_default();
    let (mut deltas, mut entries) = (Vec::new(), Vec::new());
    for delta in changes {
        let (mut fresh, mut weights) = (Vec::new(), Vec::new());
        for (row, content) in digests(target, &delta.batch)?.into_iter().enumerate() {
            let mut more = delta.weights.at(row);
            if let Some(there) = held.get_mut(&content) {
                let again = more.min(*there).max(0);
                *there -= again;
                more -= again;
            }
            if more != 0 {
                entries.push(Entry::Rows(content, more));
            }
            if more > 0 {
                fresh.push(row as u32);
                weights.push(more);
            }
        }
        let rows = take_record_batch(&delta.batch, &UInt32Array::from(fresh))?;
        if rows.num_rows() > 0 {
            deltas.push(Delta {
                batch: checked_rows(target, table, &rows)?,
                weights: Weights::Each(weights.into()),
            });
        }
    }
    let left = held.into_iter().filter(|(_, count)| *count > 0);
    entries.extend(left.map(|(row, count)| Entry::Rows(row, -count)));
    Ok(Effect { deltas, entries })
}

fn together(target: &Stored, rows: &[RecordBatch]) -> Result<RecordBatch, EngineError> {
    match rows.first() {
        Some(first) => Ok(concat_batches(&first.schema(), rows)?),
        None => Ok(RecordBatch::new_empty(target.schema())),
    }
}
