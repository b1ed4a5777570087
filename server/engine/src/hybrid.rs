//! The sources behind archives in `HYBRID(archive, source)`: each begins where its archive ends at the commit that the query reads.
//!
//! Invariant: the rows of the archive at that commit and those of the source from there on are all rows of the source, each once.

use std::collections::BTreeMap;
use std::sync::Arc;

use datafusion::catalog::TableProvider;
use datafusion::common::tree_node::{Transformed, TreeNodeRecursion};
use datafusion::datasource::provider_as_source;
use datafusion::error::DataFusionError;
use datafusion::logical_expr::LogicalPlan;
use thalweg_catalog::{Oid, Report};
use thalweg_connectors::{Offsets, Reached, Snapshot};
use thalweg_planner::RelationScan;

use crate::archive::Archive;
use crate::error::EngineError;
use crate::source::Source;

/// A source behind an archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Tail {
    source: Oid,
    archive: Oid,
}

/// The sources behind archives that a plan reads.
#[derive(Debug, Default)]
pub(crate) struct Tails {
    wanted: Vec<Tail>,
    /// Where those begin whose archives are known.
    starts: BTreeMap<Tail, Offsets>,
    tables: BTreeMap<Tail, Arc<dyn TableProvider>>,
}

fn tail(node: &LogicalPlan) -> Option<Tail> {
    let LogicalPlan::TableScan(scan) = node else {
        return None;
    };
    let leaf = scan.source.downcast_ref::<RelationScan>()?;
    Some(Tail {
        source: leaf.oid,
        archive: leaf.after?,
    })
}

impl Tails {
    /// Those of a plan.
    pub(crate) fn of(plan: &LogicalPlan) -> Result<Self, EngineError> {
        let mut tails = Self::default();
        plan.apply_with_subqueries(|node| {
            tails.wanted.extend(tail(node));
            Ok(TreeNodeRecursion::Continue)
        })?;
        tails.wanted.sort_unstable();
        tails.wanted.dedup();
        Ok(tails)
    }

    /// Has what is behind an archive begin where that ends at this commit; the epoch that does not come before it.
    pub(crate) fn begin(
        &mut self,
        oid: Oid,
        archive: &Archive,
        snapshot: &Snapshot,
    ) -> Result<u64, EngineError> {
        let mut epoch = 0;
        for tail in self.wanted.iter().filter(|tail| tail.archive == oid) {
            let start = match archive.reached(snapshot)? {
                None => Offsets::new(),
                Some(reached) => {
                    epoch = reached.marker.epoch;
                    place_of(archive, reached)?
                }
            };
            self.starts.insert(*tail, start);
        }
        Ok(epoch)
    }

    /// Gives what is read of a source behind archives; `rows` reads it from some offsets on.
    pub(crate) fn end(
        &mut self,
        source: &Source,
        rows: impl Fn(Offsets) -> Result<Arc<dyn TableProvider>, EngineError>,
    ) -> Result<(), EngineError> {
        for (tail, start) in &self.starts {
            if tail.source == source.oid {
                self.tables.insert(*tail, rows(behind(source, start))?);
            }
        }
        Ok(())
    }

    /// The plan with the tables in their places.
    pub(crate) fn bind(&self, plan: LogicalPlan) -> Result<LogicalPlan, EngineError> {
        if self.wanted.is_empty() {
            return Ok(plan);
        }
        let bound = plan.transform_up_with_subqueries(|node| {
            let Some(tail) = tail(&node) else {
                return Ok(Transformed::no(node));
            };
            let table = self.tables.get(&tail).ok_or_else(|| {
                DataFusionError::Internal("a plan reads behind an archive without saying so".into())
            })?;
            Ok(match node {
                LogicalPlan::TableScan(mut scan) => {
                    scan.source = provider_as_source(Arc::clone(table));
                    Transformed::yes(LogicalPlan::TableScan(scan))
                }
                other => Transformed::no(other),
            })
        })?;
        Ok(bound.data)
    }
}

/// Where the source goes on after what is in its archive.
pub(crate) fn place_of(archive: &Archive, reached: &Reached) -> Result<Offsets, EngineError> {
    // An archive is filled from one source.
    let mut places = reached.frontier.values();
    match (places.next(), places.next()) {
        (Some(place), None) => Ok(place.clone()),
        _ => Err(nowhere(archive).into()),
    }
}

/// The places of all splits behind those that an archive knows: one it has nothing of begins where the source does.
pub(crate) fn behind(source: &Source, place: &Offsets) -> Offsets {
    let mut starts = source.start.clone();
    starts.extend(place.clone());
    starts
}

/// A hybrid in a query that is computed anew each time.
pub(crate) fn recomputed_hybrid() -> Report {
    Report {
        hint: Some("Make a materialized view of the hybrid alone, and read that instead.".into()),
        ..Report::new(
            "0A000",
            "HYBRID in a continuous query that is recomputed is not supported",
        )
    }
}

fn nowhere(archive: &Archive) -> Report {
    Report {
        detail: Some("Its newest commit does not say where the source goes on.".into()),
        hint: Some(format!(
            "WAIT FOR {} has it commit again, once it has got more rows.",
            archive.name()
        )),
        ..Report::new(
            "55000",
            format!(
                "archive \"{}\" cannot be part of a hybrid now",
                archive.name()
            ),
        )
    }
}
