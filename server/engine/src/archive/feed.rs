//! Says what fills an archive, so that it is known again when the archive is declared anew.
//!
//! Invariant: two feeds with one identity take the same rows of the same records. Which columns they take does not matter: an archive
//! that has more of them than before has NULL in older rows.

use std::collections::BTreeSet;

use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::logical_expr::LogicalPlan;
use thalweg_catalog::{Catalog, Oid, Relation, RelationKind};
use thalweg_connectors::FeedId;
use thalweg_planner::ViewPlan;

use crate::error::EngineError;

/// The identity of what fills an archive FROM this relation, by this plan.
///
/// # Errors
/// XX000 when the plan cannot be walked.
pub fn feed_of(catalog: &Catalog, from: Oid, plan: &ViewPlan) -> Result<FeedId, EngineError> {
    let inputs = plan.reads.iter().filter_map(|oid| catalog.relation(*oid));
    let inputs: Vec<FeedId> = inputs.map(input).collect();
    match inputs.as_slice() {
        [only] if takes_every_row(&plan.unguarded)? => Ok(only.clone()),
        _ => Ok(FeedId::of_queries(&inputs, &texts(catalog, from))),
    }
}

fn input(relation: &Relation) -> FeedId {
    match &relation.kind {
        RelationKind::Source(spec) => FeedId::of_source(spec),
        _ => FeedId::of_relation(relation.kind_word(), &relation.name),
    }
}

/// True when the plan gives one row for each row of what it reads.
fn takes_every_row(plan: &LogicalPlan) -> Result<bool, EngineError> {
    let mut every = true;
    plan.apply_with_subqueries(|node| {
        let keeps = match node {
            LogicalPlan::Projection(_) | LogicalPlan::SubqueryAlias(_) => true,
            LogicalPlan::TableScan(scan) => scan.filters.is_empty() && scan.fetch.is_none(),
            _ => false,
        };
        every &= keeps;
        Ok(match keeps {
            true => TreeNodeRecursion::Continue,
            false => TreeNodeRecursion::Stop,
        })
    })?;
    Ok(every)
}

/// The queries that a relation stands for, with those behind them, in an order that their names do not change.
fn texts(catalog: &Catalog, from: Oid) -> Vec<String> {
    let (mut seen, mut due, mut texts) = (BTreeSet::new(), vec![from], Vec::new());
    while let Some(oid) = due.pop() {
        let Some(relation) = catalog.relation(oid).filter(|_| seen.insert(oid)) else {
            continue;
        };
        if let Some(query) = relation.query() {
            // What day a moment is of may decide too.
            texts.push(format!("{}: {query}", relation.environment.time_zone));
        }
        due.extend(&relation.depends_on);
    }
    texts.sort_unstable();
    texts
}
