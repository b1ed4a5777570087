//! Lookup joins as streaming operators.
//!
//! Invariant: a column of the table that is not wanted is read by no operator above the lookup.

use std::sync::Arc;

use datafusion::common::DFSchema;
use datafusion::logical_expr::{Expr, Extension, JoinType};

use super::node;
use super::stateful::row_form;
use crate::lookup;
use crate::stream::{Change, Properties, StateSize, StreamNode};

pub(super) fn lookup(extension: &Extension) -> Result<StreamNode, String> {
    let found = lookup::of(extension).ok_or("operator")?;
    let input = node(&found.input)?;
    let columns = input.schema().fields().iter().chain(found.table.fields());
    for field in columns {
        row_form(field.data_type(), "join column")?;
    }
    let pair = match input.schema().join(&found.table) {
        Ok(pair) => Arc::new(pair),
        Err(_) => return Err("join with repeated column names".to_owned()),
    };
    let mut properties = input.properties().clone();
    self::properties(input.properties(), &mut properties);
    Ok(StreamNode::Lookup {
        oid: found.oid,
        name: found.name.clone(),
        outside: found.outside.clone(),
        outer: found.kind == JoinType::Left,
        keys: found.key.iter().copied().zip(found.keys.clone()).collect(),
        wanted: vec![true; found.table.fields().len()],
        filter: found.filter.clone(),
        pair,
        schema: Arc::clone(&found.schema),
        input: Box::new(input),
        properties,
    })
}

/// Each row of the input becomes at most one; what it found is remembered only when it may be taken back.
pub(crate) fn properties(input: &Properties, properties: &mut Properties) {
    properties.change = input.change;
    properties.keys.clone_from(&input.keys);
    properties.bounded = input.bounded;
    properties.deterministic = false;
    properties.state = match input.change {
        Change::AppendOnly => StateSize::None,
        Change::Retract => StateSize::Found,
    };
}

/// Leaves out the columns of looked-up tables that nobody reads.
pub(super) fn pruned(mut root: StreamNode) -> StreamNode {
    let all = vec![true; root.schema().fields().len()];
    prune(&mut root, &all);
    root
}

/// The columns of a schema that expressions read.
fn read<'a>(schema: &DFSchema, exprs: impl IntoIterator<Item = &'a Expr>) -> Vec<bool> {
    let mut out = vec![false; schema.fields().len()];
    for column in exprs.into_iter().flat_map(Expr::column_refs) {
        if let Some(at) = schema.maybe_index_of_column(column)
            && let Some(place) = out.get_mut(at)
        {
            *place = true;
        }
    }
    out
}

fn either(mut one: Vec<bool>, other: &[bool]) -> Vec<bool> {
    for (one, other) in one.iter_mut().zip(other) {
        *one |= other;
    }
    one
}

/// `above` are the output columns that are read.
fn prune(node: &mut StreamNode, above: &[bool]) {
    match node {
        StreamNode::Scan { .. } | StreamNode::Recompute { .. } => {}
        StreamNode::Filter {
            input, predicate, ..
        } => {
            let wanted = either(read(input.schema(), [&*predicate]), above);
            prune(input, &wanted);
        }
        StreamNode::Project { input, exprs, .. } => {
            let wanted = read(input.schema(), &*exprs);
            prune(input, &wanted);
        }
        StreamNode::Union { inputs, .. } => inputs.iter_mut().for_each(|one| prune(one, above)),
        StreamNode::Unnest { input, .. } => {
            let all = vec![true; input.schema().fields().len()];
            prune(input, &all);
        }
        StreamNode::Aggregate {
            input,
            group,
            aggregates,
            ..
        } => {
            let calls = aggregates.iter().map(|aggregate| &aggregate.call);
            let wanted = read(input.schema(), group.iter().chain(calls));
            prune(input, &wanted);
        }
        StreamNode::Join {
            left,
            right,
            kind,
            on,
            filter,
            pair,
            ..
        } => {
            let width = left.schema().fields().len();
            let mut wanted = read(pair, filter.iter());
            let shown = match kind {
                JoinType::RightSemi | JoinType::RightAnti | JoinType::RightMark => {
                    [&vec![false; width], above].concat()
                }
                _ => above.to_vec(),
            };
            wanted = either(wanted, &shown);
            let of_left = read(left.schema(), on.iter().map(|(left, _)| left));
            let of_right = read(right.schema(), on.iter().map(|(_, right)| right));
            prune(left, &either(of_left, &wanted));
            prune(
                right,
                &either(of_right, wanted.get(width..).unwrap_or_default()),
            );
        }
        StreamNode::Lookup {
            input,
            keys,
            wanted,
            filter,
            pair,
            properties,
            ..
        } => {
            let width = input.schema().fields().len();
            let read_here = either(read(pair, filter.iter()), above);
            for (wanted, read) in wanted.iter_mut().zip(read_here.iter().skip(width)) {
                *wanted = *read;
            }
            // What is remembered is remembered by the whole row.
            let below = match properties.state {
                StateSize::Found => vec![true; width],
                _ => read(input.schema(), keys.iter().map(|(_, key)| key)),
            };
            prune(input, &either(below, &read_here));
        }
    }
}
