//! Reads from a streaming plan what the engine needs to know about it.
//!
//! Invariant: a plan counts as stateless only when every node passes each row through on its own.

use thalweg_planner::{ChangeKind, StreamNode, StreamPlan};

/// True when no node keeps state or recomputes. A removed row is computed again to take its result back, so results that may
/// differ each time are kept this way only while nothing is removed.
pub(crate) fn is_stateless(plan: &StreamPlan) -> bool {
    let repeatable = plan.properties.deterministic || plan.properties.change == ChangeKind::AppendOnly;
    repeatable && node_is_stateless(&plan.root)
}

fn node_is_stateless(node: &StreamNode) -> bool {
    match node {
        StreamNode::Scan { .. } => true,
        StreamNode::Filter { input, .. } | StreamNode::Project { input, .. } | StreamNode::Unnest { input, .. } => {
            node_is_stateless(input)
        }
        StreamNode::Union { inputs, .. } => inputs.iter().all(node_is_stateless),
        StreamNode::Recompute { .. } => false,
    }
}
