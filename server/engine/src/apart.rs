//! What a query reads that no epoch holds: archives, tables of outside systems, and sources, whose rows are read from outside.
//!
//! Invariant: every archive is read at one commit, and every source up to one end, however often the query names them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use datafusion::catalog::TableProvider;
use datafusion::logical_expr::LogicalPlan;
use thalweg_catalog::Oid;
use thalweg_connectors::Offsets;

use crate::adhoc::{between, ends_now};
use crate::error::EngineError;
use crate::hybrid::Tails;
use crate::shared::Shared;
use crate::source::Source;

/// Tables of a query beside those of its epoch.
#[derive(Debug, Default)]
pub(crate) struct Apart {
    pub(crate) tables: BTreeMap<Oid, Arc<dyn TableProvider>>,
    tails: Tails,
    /// How long a source may give nothing.
    patience: Duration,
}

impl Apart {
    /// What a plan reads of sources behind archives.
    pub(crate) fn of(plan: &LogicalPlan, patience: Duration) -> Result<Self, EngineError> {
        Ok(Self {
            tables: BTreeMap::new(),
            tails: Tails::of(plan)?,
            patience,
        })
    }

    /// Takes hold of the archives and outside tables among `reads`. The others, and the epoch that is not before where any of
    /// the archives ends: sources must be asked for their ends, and epochs chosen, after this.
    pub(crate) async fn open(
        &mut self,
        shared: &Shared,
        reads: Vec<Oid>,
    ) -> Result<(Vec<Oid>, u64), EngineError> {
        let (mut rest, mut least) = (Vec::new(), 0);
        for oid in reads {
            let archive = shared.archives.read().get(&oid).cloned();
            if let Some(archive) = archive {
                let snapshot = archive.snapshot().await?;
                least = least.max(self.tails.begin(oid, &archive, &snapshot)?);
                self.tables.insert(oid, archive.at(snapshot));
                continue;
            }
            match shared.external.read().get(&oid) {
                Some(table) => drop(self.tables.insert(oid, table.provider())),
                None => rest.push(oid),
            }
        }
        Ok((rest, least))
    }

    /// Reads a source up to where it ends now.
    pub(crate) async fn scan(
        &mut self,
        shared: &Arc<Shared>,
        source: &Arc<Source>,
    ) -> Result<(), EngineError> {
        let ends = ends_now(shared, source).await?;
        self.scan_to(shared, source, &ends)
    }

    /// Reads a source up to `ends`, from its start, and in each hybrid from where the archive ends.
    pub(crate) fn scan_to(
        &mut self,
        shared: &Arc<Shared>,
        source: &Arc<Source>,
        ends: &Offsets,
    ) -> Result<(), EngineError> {
        let patience = self.patience;
        let rows = |starts| between(shared, source, (starts, ends.clone()), patience);
        self.tails.end(source, rows)?;
        self.tables.insert(source.oid, rows(source.start.clone())?);
        Ok(())
    }

    /// The plan with what is read behind archives in its place.
    pub(crate) fn bind_tails(&self, plan: LogicalPlan) -> Result<LogicalPlan, EngineError> {
        self.tails.bind(plan)
    }
}
