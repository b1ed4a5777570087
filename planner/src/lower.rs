//! From a logical plan to a streaming plan.
//!
//! Invariant: a query whose rows pass through on their own is lowered as it was analysed; one that needs state is lowered after
//! the rules of `rewrite::incremental`, operator by operator. A query with any operator that is neither is one `Recompute`.

use std::sync::Arc;

use datafusion::common::DFSchemaRef;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::logical_expr::{Distinct, Expr, JoinType, LogicalPlan};

use crate::context::RelationScan;
use crate::rewrite;
use crate::stream::{Change, Keeping, Properties, StateSize, StreamNode, StreamPlan};

mod lookup;
mod stateful;

pub(crate) use lookup::properties as lookup_properties;

/// Lowers a view's plan.
pub(crate) fn lower(plan: &LogicalPlan) -> StreamPlan {
    let recomputed = |reason| StreamPlan {
        root: recompute(plan, reason),
        keeping: Keeping::Recompute,
    };
    if rewrite::now::occurs(plan) {
        return recomputed("now()".to_owned());
    }
    if not_linear(plan).is_none() {
        return match node(plan) {
            Ok(root) => StreamPlan {
                root,
                keeping: Keeping::RowByRow,
            },
            Err(reason) => recomputed(reason),
        };
    }
    if chooses_rows(plan) {
        return recomputed("distinct on".to_owned());
    }
    let prepared = crate::lookup::extract(unordered(plan).clone());
    let prepared = prepared.and_then(rewrite::incremental::apply);
    let lowered = match &prepared {
        Ok(prepared) => node(prepared).map(lookup::pruned),
        // A plan that a rule cannot digest is one that it does not cover.
        Err(_) => Err(not_linear(plan).unwrap_or_else(|| "operator".to_owned())),
    };
    match lowered {
        Ok(root) => StreamPlan {
            root,
            keeping: Keeping::Incremental,
        },
        Err(reason) => recomputed(reason),
    }
}

/// DISTINCT ON takes all columns from one row, which aggregates of the columns would not.
fn chooses_rows(plan: &LogicalPlan) -> bool {
    let mut found = false;
    let walked = plan.apply_with_subqueries(|node| {
        found |= matches!(node, LogicalPlan::Distinct(Distinct::On(_)));
        Ok(TreeNodeRecursion::Continue)
    });
    debug_assert!(walked.is_ok());
    found
}

/// A view has no order, so sorting its whole result does nothing.
fn unordered(plan: &LogicalPlan) -> &LogicalPlan {
    match plan {
        LogicalPlan::Sort(sort) if sort.fetch.is_none() => unordered(&sort.input),
        other => other,
    }
}

/// The first operator, from the top, that is not linear.
fn not_linear(plan: &LogicalPlan) -> Option<String> {
    let mut found = None;
    let walked = plan.apply(|node| {
        found = operator(node);
        Ok(if found.is_some() {
            TreeNodeRecursion::Stop
        } else {
            TreeNodeRecursion::Continue
        })
    });
    debug_assert!(walked.is_ok());
    found
}

/// The name of an operator that keeps or compares rows.
fn operator(plan: &LogicalPlan) -> Option<String> {
    let name = match plan {
        LogicalPlan::Projection(_) | LogicalPlan::Filter(_) => return subquery(plan),
        LogicalPlan::Union(_) | LogicalPlan::SubqueryAlias(_) | LogicalPlan::Unnest(_) => {
            return None;
        }
        LogicalPlan::TableScan(scan) if scan.source.downcast_ref::<RelationScan>().is_some() => {
            return None;
        }
        LogicalPlan::TableScan(_) => "system relation",
        LogicalPlan::Aggregate(_) => "aggregate",
        LogicalPlan::Join(join) => match join.join_type {
            JoinType::Inner if join.on.is_empty() && join.filter.is_none() => "cross join",
            JoinType::Inner => "inner join",
            JoinType::Left => "left join",
            JoinType::Right => "right join",
            JoinType::Full => "full join",
            JoinType::LeftSemi | JoinType::RightSemi => "semi join",
            JoinType::LeftAnti | JoinType::RightAnti => "anti join",
            JoinType::LeftMark | JoinType::RightMark => "mark join",
        },
        LogicalPlan::Sort(_) | LogicalPlan::Limit(_) => "sort/limit",
        LogicalPlan::Window(_) => "window function",
        LogicalPlan::Distinct(_) => "distinct",
        LogicalPlan::RecursiveQuery(_) => "recursive query",
        LogicalPlan::EmptyRelation(_) | LogicalPlan::Values(_) => "values",
        LogicalPlan::Subquery(_) => "lateral",
        _ => "operator",
    };
    Some(name.to_owned())
}

fn subquery(plan: &LogicalPlan) -> Option<String> {
    let mut found = false;
    let walked = plan.apply_expressions(|expr| {
        found |= rewrite::subquery::has_subquery(expr);
        Ok(TreeNodeRecursion::Continue)
    });
    debug_assert!(walked.is_ok());
    found.then(|| "subquery".to_owned())
}

fn node(plan: &LogicalPlan) -> Result<StreamNode, String> {
    match plan {
        LogicalPlan::TableScan(scan) => {
            if scan.fetch.is_some() || !scan.filters.is_empty() {
                return Err("scan".to_owned());
            }
            let relation = scan
                .source
                .downcast_ref::<RelationScan>()
                .ok_or("system relation")?;
            let projection = scan.projection.clone();
            Ok(scan_node(
                relation,
                projection,
                Arc::clone(&scan.projected_schema),
            ))
        }
        LogicalPlan::Filter(_) | LogicalPlan::Projection(_) if subquery(plan).is_some() => {
            Err("subquery".to_owned())
        }
        LogicalPlan::Filter(filter) => {
            let input = node(&filter.input)?;
            let properties = input.properties().clone();
            let schema = Arc::clone(input.schema());
            Ok(StreamNode::Filter {
                predicate: filter.predicate.clone(),
                input: Box::new(input),
                schema,
                properties,
            })
        }
        LogicalPlan::Projection(projection) => {
            let input = node(&projection.input)?;
            let mut properties = input.properties().clone();
            properties.keys = projected_keys(&properties.keys, &projection.expr, input.schema());
            Ok(StreamNode::Project {
                exprs: projection.expr.clone(),
                schema: Arc::clone(&projection.schema),
                input: Box::new(input),
                properties,
            })
        }
        LogicalPlan::SubqueryAlias(alias) => {
            // Only the names change, so the input carries them itself.
            let mut input = node(&alias.input)?;
            *input.schema_mut() = Arc::clone(&alias.schema);
            Ok(input)
        }
        LogicalPlan::Union(union) => {
            let inputs = union
                .inputs
                .iter()
                .map(|i| node(i))
                .collect::<Result<Vec<_>, _>>()?;
            let properties = merged(&inputs);
            Ok(StreamNode::Union {
                inputs,
                schema: Arc::clone(&union.schema),
                properties,
            })
        }
        LogicalPlan::Unnest(unnest) => {
            let input = node(&unnest.input)?;
            let mut properties = input.properties().clone();
            properties.keys.clear();
            Ok(StreamNode::Unnest {
                input: Box::new(input),
                unnest: Box::new(unnest.clone()),
                schema: Arc::clone(&unnest.schema),
                properties,
            })
        }
        LogicalPlan::Aggregate(aggregate) => stateful::aggregate(aggregate),
        LogicalPlan::Join(join) => stateful::join(join),
        LogicalPlan::Extension(extension) => lookup::lookup(extension),
        other => Err(operator(other).unwrap_or_else(|| "operator".to_owned())),
    }
}

fn scan_node(
    relation: &RelationScan,
    projection: Option<Vec<usize>>,
    schema: DFSchemaRef,
) -> StreamNode {
    let position = |column: &usize| match &projection {
        Some(columns) => columns.iter().position(|held| held == column),
        None => Some(*column),
    };
    let keys = relation
        .key
        .iter()
        .filter(|_| !relation.append_only)
        .filter_map(|key| key.iter().map(position).collect());
    StreamNode::Scan {
        oid: relation.oid,
        name: relation.name.clone(),
        schema,
        projection: projection.clone(),
        properties: Properties {
            change: if relation.append_only {
                Change::AppendOnly
            } else {
                Change::Retract
            },
            keys: keys.collect(),
            bounded: !relation.append_only,
            deterministic: true,
            state: StateSize::None,
        },
    }
}

pub(crate) fn merged(inputs: &[StreamNode]) -> Properties {
    let all = |f: fn(&Properties) -> bool| inputs.iter().all(|i| f(i.properties()));
    Properties {
        change: if all(|p| p.change == Change::AppendOnly) {
            Change::AppendOnly
        } else {
            Change::Retract
        },
        keys: vec![],
        bounded: all(|p| p.bounded),
        deterministic: all(|p| p.deterministic),
        state: StateSize::None,
    }
}

/// Keys all of whose columns survive a projection as plain columns.
pub(crate) fn projected_keys(
    keys: &[Vec<usize>],
    exprs: &[Expr],
    input: &DFSchemaRef,
) -> Vec<Vec<usize>> {
    let position = |column: usize| {
        exprs.iter().position(|e| match plain(e) {
            Expr::Column(c) => input.maybe_index_of_column(c) == Some(column),
            _ => false,
        })
    };
    keys.iter()
        .filter_map(|key| key.iter().map(|c| position(*c)).collect::<Option<Vec<_>>>())
        .collect()
}

fn plain(expr: &Expr) -> &Expr {
    match expr {
        Expr::Alias(alias) => plain(&alias.expr),
        other => other,
    }
}

fn recompute(plan: &LogicalPlan, reason: String) -> StreamNode {
    let mut inputs: Vec<StreamNode> = Vec::new();
    let walked = plan.apply_with_subqueries(|node| {
        if let LogicalPlan::TableScan(scan) = node
            && let Some(relation) = scan.source.downcast_ref::<RelationScan>()
        {
            let seen = inputs
                .iter()
                .any(|i| matches!(i, StreamNode::Scan { oid, .. } if *oid == relation.oid));
            if !seen {
                let schema = Arc::clone(&scan.projected_schema);
                inputs.push(scan_node(relation, scan.projection.clone(), schema));
            }
        }
        Ok(TreeNodeRecursion::Continue)
    });
    debug_assert!(walked.is_ok());
    let histories: Vec<String> = inputs
        .iter()
        .filter(|i| i.properties().change == Change::AppendOnly)
        .filter_map(|i| match i {
            StreamNode::Scan { name, .. } => Some(name.clone()),
            _ => None,
        })
        .collect();
    let properties = Properties {
        change: Change::Retract,
        keys: group_key(plan),
        bounded: histories.is_empty(),
        deterministic: true,
        state: if histories.is_empty() {
            StateSize::Inputs
        } else {
            StateSize::Unbounded(histories)
        },
    };
    StreamNode::Recompute {
        reason,
        inputs,
        schema: Arc::clone(plan.schema()),
        properties,
    }
}

/// The grouping columns of an aggregate at the top, when the result shows all of them.
fn group_key(plan: &LogicalPlan) -> Vec<Vec<usize>> {
    match plan {
        LogicalPlan::Projection(projection) => {
            let below = group_key(&projection.input);
            projected_keys(&below, &projection.expr, projection.input.schema())
        }
        LogicalPlan::Filter(filter) => group_key(&filter.input),
        LogicalPlan::SubqueryAlias(alias) => group_key(&alias.input),
        LogicalPlan::Sort(sort) => group_key(&sort.input),
        LogicalPlan::Aggregate(aggregate)
            if !aggregate
                .group_expr
                .iter()
                .any(|e| matches!(e, Expr::GroupingSet(_))) =>
        {
            vec![(0..aggregate.group_expr.len()).collect()]
        }
        LogicalPlan::Distinct(_) => vec![(0..plan.schema().fields().len()).collect()],
        _ => vec![],
    }
}
