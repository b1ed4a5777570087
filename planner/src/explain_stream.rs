//! EXPLAIN STREAM: a streaming plan as stable text.
//!
//! Invariant: the text depends on the plan alone, so that golden files compare it.

use std::fmt::Write as _;

use datafusion::logical_expr::LogicalPlan;

use crate::stream::{ChangeKind, Properties, StateNeed, StreamNode, StreamPlan};

/// Prints how a view is kept, its properties, and its nodes; a recomputed view shows its batch plan.
pub(crate) fn text(stream: &StreamPlan, plan: &LogicalPlan) -> String {
    let mut text = String::new();
    let kept = match &stream.root {
        StreamNode::Recompute { reason, .. } => format!("recompute ({reason})"),
        _ => "increments (stateless)".to_owned(),
    };
    let _infallible = writeln!(text, "kept by: {kept}");
    properties(&mut text, &stream.properties);
    match &stream.root {
        StreamNode::Recompute { .. } => {
            for line in plan.display_indent().to_string().lines() {
                let _infallible = writeln!(text, "{line}");
            }
        }
        root => node(&mut text, root, 0),
    }
    text.truncate(text.trim_end().len());
    text
}

fn properties(text: &mut String, properties: &Properties) {
    let change = match properties.change {
        ChangeKind::AppendOnly => "append only",
        ChangeKind::Retract => "retract",
    };
    let state = match &properties.state {
        StateNeed::None => "none".to_owned(),
        StateNeed::Unbounded(what) => format!("unbounded: {what}"),
    };
    let _infallible = writeln!(text, "change: {change}");
    if !properties.keys.is_empty() {
        let keys: Vec<String> = properties
            .keys
            .iter()
            .map(|key| key.iter().map(|column| format!("#{}", column + 1)).collect::<Vec<_>>().join(", "))
            .collect();
        let _infallible = writeln!(text, "keys: ({})", keys.join("), ("));
    }
    if !properties.deterministic {
        let _infallible = writeln!(text, "deterministic: no");
    }
    let _infallible = writeln!(text, "state: {state}");
}

fn node(text: &mut String, stream: &StreamNode, depth: usize) {
    let indent = "  ".repeat(depth);
    let (line, inputs): (String, Vec<&StreamNode>) = match stream {
        StreamNode::Scan { name, properties, .. } => {
            let change = if properties.change == ChangeKind::AppendOnly { " (append only)" } else { "" };
            (format!("Scan: {name}{change}"), Vec::new())
        }
        StreamNode::Filter { predicate, input } => (format!("Filter: {predicate}"), vec![input]),
        StreamNode::Project { exprs, input, .. } => {
            let exprs: Vec<String> = exprs.iter().map(ToString::to_string).collect();
            (format!("Project: {}", exprs.join(", ")), vec![input])
        }
        StreamNode::Union { inputs, .. } => ("Union".to_owned(), inputs.iter().collect()),
        StreamNode::Unnest { input, .. } => ("Unnest".to_owned(), vec![input]),
        StreamNode::Recompute { reason, .. } => (format!("Recompute: {reason}"), Vec::new()),
    };
    let _infallible = writeln!(text, "{indent}{line}");
    for input in inputs {
        node(text, input, depth + 1);
    }
}
