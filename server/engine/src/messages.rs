//! Delivers changes as messages, at least once, with a ledger of what was delivered.
//!
//! Invariant: after a delivery succeeded, the newest message of every key says what the version holds for it; after a crash or a
//! failure every key or row that may not have arrived is sent again.

use std::collections::HashSet;
use std::sync::Arc;

use thalweg_catalog::Oid;
use thalweg_connectors::{ConnectorError, Delta, Form, Message, MessageSink, Weights};
use thalweg_state::Store;

use crate::batch::joined;
use crate::error::EngineError;
use crate::ledger::{Entry, Held, Keys, Ledger, Rows, digest};
use crate::relation::Version;
use crate::sinks::changes;

/// Rows encoded, said in the ledger and sent at a time.
const PART_ROWS: usize = 16_384;

/// The open end of a sink that takes messages.
pub(crate) struct MessageOutlet {
    sink: Box<dyn MessageSink>,
    /// Shared with the threads that write it.
    ledger: Arc<parking_lot::Mutex<Ledger>>,
    /// What the last run of the server delivered; from the first delivery of this one until one is through.
    held: Option<Held>,
    is_read: bool,
    /// Keys whose message may or may not have arrived in an attempt of this run that failed.
    uncertain: HashSet<Vec<u8>>,
}

impl MessageOutlet {
    pub(crate) fn new(store: Arc<Store>, oid: Oid, sink: Box<dyn MessageSink>) -> Self {
        Self {
            sink,
            ledger: Arc::new(parking_lot::Mutex::new(Ledger::new(store, oid.0))),
            held: None,
            is_read: false,
            uncertain: HashSet::new(),
        }
    }

    /// Makes the outside system hold `version`. `delivered` is what the last successful call delivered.
    pub(crate) async fn deliver(
        &mut self,
        version: &Arc<Version>,
        delivered: Option<&Arc<Version>>,
    ) -> Result<(), EngineError> {
        if !self.is_read {
            self.held = Some(self.log(Ledger::read).await?);
            self.is_read = true;
        }
        self.ledger.lock().begin();
        let sent = match self.sink.form() {
            Form::Append => self.append(version, delivered).await?,
            Form::Upsert => self.upsert(version, delivered).await?,
        };
        if sent {
            let durable = self.sink.form() == Form::Append;
            self.log(move |ledger| ledger.done(durable)).await?;
        }
        self.held = None;
        self.uncertain = HashSet::new();
        let rows = u64::try_from(version.net_rows()).unwrap_or(0);
        if self.ledger.lock().is_long(rows) {
            self.rewrite(version).await?;
        }
        Ok(())
    }

    /// Why rows were refused for good, since the last call.
    pub(crate) fn take_refused(&mut self) -> Vec<ConnectorError> {
        self.sink.take_refused()
    }

    /// Sends the rows that came. True when there was anything to say.
    async fn append(
        &mut self,
        version: &Version,
        delivered: Option<&Arc<Version>>,
    ) -> Result<bool, EngineError> {
        let mut held = match (delivered, &self.held) {
            (None, Some(held)) => held.rows.clone(),
            _ => Rows::default(),
        };
        let mut sent = false;
        for part in parts(&changes(version, delivered)?) {
            let (mut messages, mut entries) = (Vec::new(), Vec::new());
            let encoded = self.encode(&part)?;
            for (row, message) in encoded.into_iter().enumerate() {
                let row_digest = digest(message.value.as_deref().unwrap_or_default());
                let mut more = part.weights.at(row);
                // What an earlier run has delivered of this content.
                if let Some(there) = held.get_mut(&row_digest) {
                    let again = more.min(*there).max(0);
                    *there -= again;
                    more -= again;
                }
                if more == 0 {
                    continue;
                }
                entries.push(Entry::Rows(row_digest, more));
                for _ in 1..more {
                    messages.push(message.clone());
                }
                if more > 0 {
                    messages.push(message);
                }
            }
            sent |= !entries.is_empty();
            self.send(entries, messages).await?;
        }
        // Content that went while the server was down: nothing is sent for it, and it counts as new when it comes back.
        let gone: Vec<Entry> = held
            .into_iter()
            .filter(|(_, count)| *count > 0)
            .map(|(row, count)| Entry::Rows(row, -count))
            .collect();
        sent |= !gone.is_empty();
        self.send(gone, Vec::new()).await?;
        Ok(sent)
    }

    /// Sends the row of every key that changed, or that it has none any more. True when there was anything to say.
    async fn upsert(
        &mut self,
        version: &Version,
        delivered: Option<&Arc<Version>>,
    ) -> Result<bool, EngineError> {
        let changes = changes(version, delivered)?;
        // Keys that may be there and are not, until a row says otherwise.
        let mut gone: Keys = match (delivered, &self.held) {
            (None, Some(held)) => held.keys.clone(),
            _ => Keys::default(),
        };
        for part in parts(&changes) {
            for (row, key, _) in self.keyed(&part)? {
                if part.weights.at(row) < 0 {
                    gone.insert(key, None);
                }
            }
        }
        let repair = !self.uncertain.is_empty();
        let mut seen: HashSet<Vec<u8>> = HashSet::new();
        let mut sent = false;
        for part in parts(&changes) {
            let (mut messages, mut entries) = (Vec::new(), Vec::new());
            for (row, key, value) in self.keyed(&part)? {
                let weight = part.weights.at(row);
                if weight <= 0 {
                    continue;
                }
                let now = Some(digest(&value));
                let before = gone.remove(&key);
                if weight > 1 || (repair && !seen.insert(key.clone())) {
                    return Err(twice());
                }
                if before == Some(now) && !self.uncertain.contains(&key) {
                    continue;
                }
                entries.push(Entry::Key(key.clone(), now));
                messages.push(message(key, Some(value)));
            }
            sent |= !messages.is_empty();
            self.send(entries, messages).await?;
        }
        if repair {
            sent = true;
            self.repair(version, &seen, &mut gone).await?;
        }
        let gone: Vec<Vec<u8>> = gone.into_keys().collect();
        for part in gone.chunks(PART_ROWS) {
            sent = true;
            let entries = part.iter().map(|key| Entry::Key(key.clone(), None));
            let messages = part.iter().map(|key| message(key.clone(), None));
            self.send(entries.collect(), messages.collect()).await?;
        }
        Ok(sent)
    }

    /// Sends what the version holds for uncertain keys; those it does not hold go to `gone`.
    async fn repair(
        &mut self,
        version: &Version,
        seen: &HashSet<Vec<u8>>,
        gone: &mut Keys,
    ) -> Result<(), EngineError> {
        let unseen = self.uncertain.iter().filter(|key| !seen.contains(*key));
        let mut left: HashSet<Vec<u8>> = unseen.cloned().collect();
        for part in parts(&version.content()?) {
            let (mut messages, mut entries) = (Vec::new(), Vec::new());
            for (_, key, value) in self.keyed(&part)? {
                if left.remove(&key) {
                    gone.remove(&key);
                    entries.push(Entry::Key(key.clone(), Some(digest(&value))));
                    messages.push(message(key, Some(value)));
                }
            }
            self.send(entries, messages).await?;
        }
        gone.extend(left.into_iter().map(|key| (key, None)));
        Ok(())
    }

    fn encode(&self, part: &Delta) -> Result<Vec<Message>, EngineError> {
        self.sink.messages(&part.batch).map_err(refused)
    }

    /// Row number, key and value of each row.
    fn keyed(&self, part: &Delta) -> Result<Vec<(usize, Vec<u8>, Vec<u8>)>, EngineError> {
        let rows = self.encode(part)?.into_iter().enumerate();
        Ok(rows
            .map(|(row, message)| {
                let value = message.value.unwrap_or_default();
                (row, message.key.unwrap_or_default(), value)
            })
            .collect())
    }

    async fn send(
        &mut self,
        entries: Vec<Entry>,
        messages: Vec<Message>,
    ) -> Result<(), EngineError> {
        if entries.is_empty() {
            return Ok(());
        }
        for entry in &entries {
            if let Entry::Key(key, _) = entry {
                self.uncertain.insert(key.clone());
            }
        }
        self.log(move |ledger| ledger.intend(&entries)).await?;
        if messages.is_empty() {
            return Ok(());
        }
        self.sink.send(messages).await.map_err(refused)
    }

    /// Reads or writes the ledger on a thread that may block.
    async fn log<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Ledger) -> Result<T, EngineError> + Send + 'static,
    ) -> Result<T, EngineError> {
        let ledger = Arc::clone(&self.ledger);
        let done = tokio::task::spawn_blocking(move || work(&mut ledger.lock()));
        joined(done.await)?
    }

    /// Replaces the ledger by what it adds up to: the content of `version`, which was just delivered.
    async fn rewrite(&self, version: &Version) -> Result<(), EngineError> {
        let mut entries = Vec::new();
        for part in parts(&version.content()?) {
            for (row, message) in self.encode(&part)?.into_iter().enumerate() {
                let value = digest(message.value.as_deref().unwrap_or_default());
                entries.push(match self.sink.form() {
                    Form::Append => Entry::Rows(value, part.weights.at(row)),
                    Form::Upsert => Entry::Key(message.key.unwrap_or_default(), Some(value)),
                });
            }
        }
        self.log(move |ledger| ledger.rewrite(&entries)).await
    }
}

fn message(key: Vec<u8>, value: Option<Vec<u8>>) -> Message {
    Message {
        key: Some(key),
        value,
    }
}

fn refused(error: ConnectorError) -> EngineError {
    error.report().into()
}

/// Uniqueness was proven when the sink was created, so this is a broken promise of ours.
fn twice() -> EngineError {
    EngineError::internal("two rows have the same message key")
}

/// Changes in pieces that are encoded at a time.
fn parts(changes: &[Delta]) -> Vec<Delta> {
    let mut out = Vec::new();
    for delta in changes {
        let mut from = 0;
        while from < delta.num_rows() {
            let rows = PART_ROWS.min(delta.num_rows() - from);
            let weights = match &delta.weights {
                Weights::Each(weights) => Weights::Each(weights.slice(from, rows)),
                other => other.clone(),
            };
            out.push(Delta {
                batch: delta.batch.slice(from, rows),
                weights,
            });
            from += rows;
        }
    }
    out
}

#[cfg(test)]
mod tests;
