//! An epoch that is being put together.
//!
//! Invariant: what statements have brought can be taken out again, as a whole, until the epoch is in the log.

use std::collections::BTreeMap;
use std::sync::Arc;

use thalweg_catalog::Oid;
use thalweg_connectors::{ColumnsRead, DeadLetter, Delta, EpochInfo};
use thalweg_state::EpochEntry;

use super::Reply;
use crate::error::EngineError;
use crate::inbox::Registration;
use crate::shared::Stored;
use crate::source::Source;
use crate::transaction::Append;

/// An epoch on its way to the log.
#[derive(Default)]
pub(super) struct Draft {
    pub(super) entry: EpochEntry,
    pub(super) changes: BTreeMap<Oid, Vec<Delta>>,
    /// What the rows of sources among them were built with.
    pub(super) built: BTreeMap<Oid, Vec<Arc<ColumnsRead>>>,
    /// Sources whose content becomes readable with this epoch.
    pub(super) started: Vec<Arc<Source>>,
    pub(super) moved: BTreeMap<Oid, Arc<Source>>,
    pub(super) dead: BTreeMap<Oid, Vec<DeadLetter>>,
    /// Of statements, which are refused when the log cannot be written.
    pub(super) statements: Vec<Reply<EpochInfo>>,
    /// Tables that they change.
    pub(super) tables: Vec<Arc<Stored>>,
    /// Of all else, which waits.
    pub(super) replies: Vec<Reply<EpochInfo>>,
    pub(super) registrations: Vec<Registration>,
    pub(super) dropped: Vec<Oid>,
    pub(super) paused: Vec<(Oid, bool)>,
    pub(super) catalog: Option<CatalogStep>,
}

impl Draft {
    /// Whether an epoch of it would say anything.
    pub(super) fn is_empty(&self) -> bool {
        self.changes.is_empty()
            && self.moved.is_empty()
            && self.registrations.is_empty()
            && self.started.is_empty()
            && self.entry.dead.is_empty()
            && self.entry.dead_expired.is_empty()
    }

    /// Takes out what statements have brought, telling them why.
    pub(super) fn refuse(&mut self, error: &EngineError) {
        for table in self.tables.drain(..) {
            self.changes.remove(&table.oid);
        }
        self.entry.dml.clear();
        self.entry.sinks.clear();
        for reply in self.statements.drain(..) {
            let _ = reply.send(Err(error.clone()));
        }
    }
}

/// The catalog's part of an epoch.
pub(super) struct CatalogStep {
    pub(super) append: Append,
    pub(super) publish: Box<dyn FnOnce() + Send>,
}
