//! Prepared statements and portals of one connection.
//!
//! Invariant: their number and the bytes they hold are bounded; the unnamed ones replace each other and always fit.

use std::collections::HashMap;
use std::sync::Arc;

use datafusion::common::ScalarValue;
use thalweg_catalog::SqlType;
use thalweg_planner::OutputColumn;

use super::encode::Format;
use super::error::report;
use super::limits::PgLimits;
use super::rows::Rows;
use crate::frontend::{Parsed, Report};

/// A parsed statement with its types.
#[derive(Debug)]
pub(super) struct Prepared {
    /// `None` for an empty text.
    pub(super) parsed: Option<Parsed>,
    pub(super) parameters: Vec<SqlType>,
    pub(super) columns: Option<Vec<OutputColumn>>,
}

impl Prepared {
    fn bytes(&self) -> usize {
        self.parsed.as_ref().map_or(0, |parsed| parsed.text.len())
    }
}

/// Statements by name; `""` is the unnamed one.
#[derive(Debug, Default)]
pub(super) struct PreparedStatements {
    by_name: HashMap<String, Arc<Prepared>>,
    bytes: usize,
}

impl PreparedStatements {
    pub(super) fn get(&self, name: &str) -> Option<&Arc<Prepared>> {
        self.by_name.get(name)
    }

    /// Checks that a statement of `bytes` may be added, before it costs any work.
    pub(super) fn admit(&self, name: &str, bytes: usize, limits: &PgLimits) -> Result<(), Report> {
        if name.is_empty() {
            return Ok(());
        }
        if self.by_name.contains_key(name) {
            return Err(report(
                "42P05",
                format!("prepared statement \"{name}\" already exists"),
            ));
        }
        if self.by_name.len() >= limits.statements_max
            || self.bytes + bytes > limits.statement_bytes_max
        {
            let mut full = report("54000", "too many prepared statements on this connection");
            full.detail = Some(format!(
                "A connection holds up to {} prepared statements with {} bytes of text.",
                limits.statements_max, limits.statement_bytes_max
            ));
            full.hint = Some(
                "Close statements that are no longer used, or use the unnamed statement.".into(),
            );
            return Err(full);
        }
        Ok(())
    }

    pub(super) fn insert(&mut self, name: String, prepared: Prepared) {
        self.remove(&name);
        self.bytes += prepared.bytes();
        self.by_name.insert(name, Arc::new(prepared));
    }

    pub(super) fn remove(&mut self, name: &str) {
        if let Some(prepared) = self.by_name.remove(name) {
            self.bytes -= prepared.bytes();
        }
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}

/// A statement bound to its parameters.
pub(super) struct Portal {
    pub(super) prepared: Arc<Prepared>,
    pub(super) parameters: Vec<ScalarValue>,
    pub(super) formats: Vec<Format>,
    pub(super) state: PortalState,
    /// Bytes of the parameters as they came.
    pub(super) bytes: usize,
}

/// How far a portal has run.
pub(super) enum PortalState {
    /// Not yet.
    Bound,
    /// Rows are left.
    Suspended(Box<Rows>),
    /// A result with rows was sent to its end.
    RowsDone,
    /// A command that cannot run twice.
    CommandDone,
}

/// Portals by name; `""` is the unnamed one.
#[derive(Default)]
pub(super) struct Portals {
    by_name: HashMap<String, Portal>,
    bytes: usize,
}

impl Portals {
    pub(super) fn contains(&self, name: &str) -> bool {
        self.by_name.contains_key(name)
    }

    pub(super) fn get(&self, name: &str) -> Option<&Portal> {
        self.by_name.get(name)
    }

    /// Checks that a portal of `bytes` may be added.
    pub(super) fn admit(&self, name: &str, bytes: usize, limits: &PgLimits) -> Result<(), Report> {
        if name.is_empty() {
            return Ok(());
        }
        if self.by_name.contains_key(name) {
            return Err(report("42P03", format!("cursor \"{name}\" already exists")));
        }
        if self.by_name.len() >= limits.portals_max || self.bytes + bytes > limits.portal_bytes_max
        {
            let mut full = report("54000", "too many open portals on this connection");
            full.detail = Some(format!(
                "A connection holds up to {} portals with {} bytes of parameters.",
                limits.portals_max, limits.portal_bytes_max
            ));
            return Err(full);
        }
        Ok(())
    }

    pub(super) fn insert(&mut self, name: String, portal: Portal) {
        self.remove(&name);
        self.bytes += portal.bytes;
        self.by_name.insert(name, portal);
    }

    /// Takes a portal out while it runs; it is put back unless it fails.
    pub(super) fn take(&mut self, name: &str) -> Option<Portal> {
        let portal = self.by_name.remove(name)?;
        self.bytes -= portal.bytes;
        Some(portal)
    }

    pub(super) fn remove(&mut self, name: &str) {
        drop(self.take(name));
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}
