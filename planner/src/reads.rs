//! What a streaming plan reads of the relations it scans: which columns, and of structs which fields.
//!
//! Invariant: a value that is not named here can be replaced by NULL without any row of the result changing, compute errors
//! included; so every expression that is evaluated counts as read, whether its result is or not.

use std::collections::{BTreeMap, BTreeSet};

use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, DFSchema};
use datafusion::logical_expr::Expr;
use thalweg_catalog::Oid;

use crate::functions::native::native_of;
use crate::stream::{StateSize, StreamNode};

/// Names of functions that take a field out of a struct begin with this.
pub(crate) const FIELD: &str = "field ";

/// What is read of one column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reads {
    /// The whole value.
    Whole,
    /// These fields of a struct.
    Fields(BTreeSet<String>),
}

impl Reads {
    fn join(&mut self, other: &Reads) {
        match (&mut *self, other) {
            (Reads::Fields(mine), Reads::Fields(others)) => mine.extend(others.iter().cloned()),
            _ => *self = Reads::Whole,
        }
    }
}

/// What is read of a relation, by position of the column.
pub type ColumnReads = BTreeMap<usize, Reads>;

impl StreamNode {
    /// What the plan reads of each relation.
    pub fn columns_read(&self) -> BTreeMap<Oid, ColumnReads> {
        let mut found = BTreeMap::new();
        visit(self, whole(self), &mut found);
        found
    }
}

fn whole(node: &StreamNode) -> ColumnReads {
    let columns = node.schema().fields().len();
    (0..columns).map(|index| (index, Reads::Whole)).collect()
}

fn add(reads: &mut ColumnReads, index: usize, what: &Reads) {
    match reads.get_mut(&index) {
        Some(known) => known.join(what),
        None => drop(reads.insert(index, what.clone())),
    }
}

/// Notes what is read so that the columns `needed` of a node's output can be known.
fn visit(node: &StreamNode, needed: ColumnReads, found: &mut BTreeMap<Oid, ColumnReads>) {
    match node {
        StreamNode::Scan {
            oid, projection, ..
        } => {
            let relation = found.entry(*oid).or_default();
            for (index, what) in &needed {
                let position = match projection {
                    Some(positions) => positions.get(*index).copied(),
                    None => Some(*index),
                };
                position.into_iter().for_each(|at| add(relation, at, what));
            }
        }
        StreamNode::Filter {
            input, predicate, ..
        } => {
            let mut below = needed;
            read(predicate, input.schema(), &mut below);
            visit(input, below, found);
        }
        StreamNode::Project { input, exprs, .. } => {
            let mut below = ColumnReads::new();
            for (index, expr) in exprs.iter().enumerate() {
                match (column(expr), needed.get(&index)) {
                    (Some(column), what) => {
                        let what = what.into_iter();
                        what.for_each(|what| read_column(column, what, input.schema(), &mut below));
                    }
                    (None, _) => read(expr, input.schema(), &mut below),
                }
            }
            visit(input, below, found);
        }
        StreamNode::Union { inputs, .. } => {
            inputs
                .iter()
                .for_each(|input| visit(input, needed.clone(), found));
        }
        StreamNode::Aggregate {
            input,
            group,
            aggregates,
            ..
        } => {
            let mut below = ColumnReads::new();
            let calls = aggregates.iter().map(|aggregate| &aggregate.call);
            for expr in group.iter().chain(calls) {
                read(expr, input.schema(), &mut below);
            }
            visit(input, below, found);
        }
        StreamNode::Join { .. } => visit_join(node, needed, found),
        StreamNode::Lookup {
            input,
            keys,
            filter,
            pair,
            properties,
            ..
        } => {
            // What is remembered is remembered by the whole row.
            if properties.state == StateSize::Found {
                return visit(input, whole(input), found);
            }
            let mut below = needed;
            let width = input.schema().fields().len();
            filter
                .iter()
                .for_each(|filter| read(filter, pair, &mut below));
            below.retain(|index, _| *index < width);
            for (_, key) in keys {
                read(key, input.schema(), &mut below);
            }
            visit(input, below, found);
        }
        StreamNode::Unnest { input, .. } => visit(input, whole(input), found),
        StreamNode::Recompute { inputs, .. } => {
            inputs
                .iter()
                .for_each(|input| visit(input, whole(input), found));
        }
    }
}

fn visit_join(node: &StreamNode, needed: ColumnReads, found: &mut BTreeMap<Oid, ColumnReads>) {
    let StreamNode::Join {
        left,
        right,
        on,
        filter,
        pair,
        schema,
        ..
    } = node
    else {
        return;
    };
    // Other kinds have columns of one side, and more.
    let mut below = match schema.fields().len() == pair.fields().len() {
        true => needed,
        false => (0..pair.fields().len())
            .map(|index| (index, Reads::Whole))
            .collect(),
    };
    if let Some(filter) = filter {
        read(filter, pair, &mut below);
    }
    let width = left.schema().fields().len();
    let of_right = below.split_off(&width);
    let mut of_left = below;
    let mut of_right: ColumnReads = of_right
        .into_iter()
        .map(|(index, what)| (index - width, what))
        .collect();
    for (mine, other) in on {
        read(mine, left.schema(), &mut of_left);
        read(other, right.schema(), &mut of_right);
    }
    visit(left, of_left, found);
    visit(right, of_right, found);
}

/// The column that an expression is, under whatever name.
fn column(expr: &Expr) -> Option<&Column> {
    match expr {
        Expr::Column(column) => Some(column),
        Expr::Alias(alias) => column(&alias.expr),
        _ => None,
    }
}

fn read_column(column: &Column, what: &Reads, schema: &DFSchema, reads: &mut ColumnReads) {
    match schema.index_of_column(column) {
        Ok(index) => add(reads, index, what),
        // It cannot be told which one it is.
        Err(_) => (0..schema.fields().len()).for_each(|index| add(reads, index, &Reads::Whole)),
    }
}

/// Notes what an expression reads.
fn read(expr: &Expr, schema: &DFSchema, reads: &mut ColumnReads) {
    let walked = expr.apply(|part| {
        if let Some((column, field)) = field_of(part) {
            let fields = Reads::Fields(BTreeSet::from([field.to_owned()]));
            read_column(column, &fields, schema, reads);
            return Ok(TreeNodeRecursion::Jump);
        }
        if let Expr::Column(column) = part {
            read_column(column, &Reads::Whole, schema, reads);
        }
        Ok(TreeNodeRecursion::Continue)
    });
    debug_assert!(walked.is_ok());
}

/// `column.field` of a struct.
fn field_of(expr: &Expr) -> Option<(&Column, &str)> {
    let Expr::ScalarFunction(call) = expr else {
        return None;
    };
    let field = native_of(call)?.name.strip_prefix(FIELD)?;
    match call.args.first() {
        Some(Expr::Column(column)) => Some((column, field)),
        _ => None,
    }
}
