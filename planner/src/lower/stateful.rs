//! Aggregations and joins as streaming operators.
//!
//! Invariant: whatever the engine cannot keep exactly is refused here with the reason, and the query is recomputed.

use std::sync::Arc;

use datafusion::arrow::datatypes::DataType;
use datafusion::arrow::row::{RowConverter, SortField};
use datafusion::common::{DFSchema, NullEquality};
use datafusion::logical_expr::expr::AggregateFunction;
use datafusion::logical_expr::{Aggregate, Expr, ExprSchemable, Join, JoinType};

use super::{node, plain};
use crate::functions::exact::ExactTotal;
use crate::rewrite::subquery::has_subquery;
use crate::stream::{AggregateMemory, Change, Properties, StateSize, StreamAggregate, StreamNode};

/// Functions that take ORDER BY as the order in which they see rows, and not as an argument.
const ORDERED: [&str; 12] = [
    "array_agg",
    "avg",
    "bool_and",
    "bool_or",
    "count",
    "first_value",
    "last_value",
    "max",
    "min",
    "nth_value",
    "string_agg",
    "sum",
];

pub(super) fn aggregate(aggregate: &Aggregate) -> Result<StreamNode, String> {
    let grouping = |e: &Expr| matches!(plain(e), Expr::GroupingSet(_));
    if aggregate.group_expr.iter().any(grouping) {
        return Err("grouping sets".to_owned());
    }
    let input = node(&aggregate.input)?;
    for expr in &aggregate.group_expr {
        encodable(expr, input.schema(), "group key")?;
    }
    let aggregates = aggregate
        .aggr_expr
        .iter()
        .map(|call| function(call, input.schema(), input.properties().change))
        .collect::<Result<Vec<_>, _>>()?;
    let values = aggregates
        .iter()
        .any(|aggregate| matches!(aggregate.memory, AggregateMemory::Values));
    let below = input.properties();
    let properties = Properties {
        change: Change::Retract,
        keys: vec![(0..aggregate.group_expr.len()).collect()],
        bounded: below.bounded || aggregate.group_expr.is_empty(),
        deterministic: below.deterministic,
        state: if values {
            StateSize::Values
        } else {
            StateSize::Groups
        },
    };
    Ok(StreamNode::Aggregate {
        group: aggregate.group_expr.clone(),
        aggregates,
        schema: Arc::clone(&aggregate.schema),
        input: Box::new(input),
        properties,
    })
}

fn function(expr: &Expr, input: &DFSchema, change: Change) -> Result<StreamAggregate, String> {
    let Expr::AggregateFunction(call) = plain(expr) else {
        return Err("aggregate".to_owned());
    };
    if !call.params.order_by.is_empty() && !ORDERED.contains(&call.func.name()) {
        return Err(format!("{} with ORDER BY", call.func.name()));
    }
    let memory = memory(call, input, change);
    let holds_values = matches!(
        memory,
        AggregateMemory::Values | AggregateMemory::Smallest | AggregateMemory::Largest
    );
    if holds_values {
        let order = call.params.order_by.iter().map(|sort| &sort.expr);
        for argument in call.params.args.iter().chain(order) {
            encodable(argument, input, "argument")?;
        }
    }
    Ok(StreamAggregate {
        call: Expr::AggregateFunction(call.clone()),
        memory,
    })
}

fn memory(call: &AggregateFunction, input: &DFSchema, change: Change) -> AggregateMemory {
    let plain_call = !call.params.distinct && call.params.args.len() == 1;
    let boolean = || {
        let argument = call.params.args.first();
        argument.and_then(|argument| argument.get_type(input).ok()) == Some(DataType::Boolean)
    };
    // What is not the extreme now never will be, when rows stay.
    let grows = change == Change::AppendOnly && call.params.args.len() == 1;
    match call.func.name() {
        "min" if grows => AggregateMemory::Smallest,
        "max" if grows => AggregateMemory::Largest,
        "count" if plain_call => AggregateMemory::Count,
        "bool_and" if plain_call && boolean() => AggregateMemory::Every,
        "bool_or" if plain_call && boolean() => AggregateMemory::Some,
        _ if plain_call => {
            ExactTotal::of(call, input).map_or(AggregateMemory::Values, AggregateMemory::Total)
        }
        _ => AggregateMemory::Values,
    }
}

pub(super) fn join(join: &Join) -> Result<StreamNode, String> {
    if matches!(join.join_type, JoinType::LeftMark | JoinType::RightMark) {
        return Err("mark join".to_owned());
    }
    if join.null_aware {
        return Err("NOT IN".to_owned());
    }
    let left = node(&join.left)?;
    let right = node(&join.right)?;
    for (l, r) in &join.on {
        encodable(l, left.schema(), "join key")?;
        encodable(r, right.schema(), "join key")?;
        let types = (l.get_type(left.schema()), r.get_type(right.schema()));
        if !matches!(types, (Ok(l), Ok(r)) if l == r) {
            return Err("join key of two types".to_owned());
        }
    }
    for side in [&left, &right] {
        let types = side.schema().fields().iter().map(|f| f.data_type());
        types
            .map(|ty| row_form(ty, "join column"))
            .collect::<Result<(), _>>()?;
    }
    let pair = match left.schema().join(right.schema()) {
        Ok(pair) => Arc::new(pair),
        Err(_) => return Err("join with repeated column names".to_owned()),
    };
    if join.filter.as_ref().is_some_and(|f| has_subquery(f)) {
        return Err("subquery".to_owned());
    }
    let (l, r) = (left.properties(), right.properties());
    let inner = join.join_type == JoinType::Inner;
    let append = |p: &Properties| p.change == Change::AppendOnly;
    let properties = Properties {
        change: if inner && append(l) && append(r) {
            Change::AppendOnly
        } else {
            Change::Retract
        },
        keys: keys(join.join_type, l, r, left.schema().fields().len()),
        bounded: l.bounded && r.bounded,
        deterministic: l.deterministic && r.deterministic,
        state: StateSize::Sides,
    };
    Ok(StreamNode::Join {
        kind: join.join_type,
        on: join.on.clone(),
        filter: join.filter.clone(),
        pair,
        null_equal: join.null_equality == NullEquality::NullEqualsNull,
        schema: Arc::clone(&join.schema),
        left: Box::new(left),
        right: Box::new(right),
        properties,
    })
}

/// Pairs have the keys of both sides together, where no side is missing; rows with or without partners keep their own.
fn keys(kind: JoinType, left: &Properties, right: &Properties, width: usize) -> Vec<Vec<usize>> {
    match kind {
        JoinType::LeftSemi | JoinType::LeftAnti | JoinType::LeftMark => left.keys.clone(),
        JoinType::RightSemi | JoinType::RightAnti | JoinType::RightMark => right.keys.clone(),
        JoinType::Inner => {
            let both = |l: &Vec<usize>, r: &Vec<usize>| {
                l.iter()
                    .copied()
                    .chain(r.iter().map(|c| c + width))
                    .collect()
            };
            match (left.keys.first(), right.keys.first()) {
                (Some(l), Some(r)) => vec![both(l, r)],
                _ => vec![],
            }
        }
        JoinType::Left | JoinType::Right | JoinType::Full => vec![],
    }
}

/// State is found by comparable bytes, which a few types do not have.
fn encodable(expr: &Expr, schema: &DFSchema, what: &str) -> Result<(), String> {
    match expr.get_type(schema) {
        Ok(ty) => row_form(&ty, what),
        Err(_) => Err(what.to_owned()),
    }
}

pub(super) fn row_form(ty: &DataType, what: &str) -> Result<(), String> {
    if RowConverter::supports_fields(&[SortField::new(ty.clone())]) {
        Ok(())
    } else {
        Err(format!(
            "{what} of type {}",
            thalweg_catalog::SqlType::from_arrow(ty)
        ))
    }
}
