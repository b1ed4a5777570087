//! Result columns: names, types, origins, and the last projection that brings them into shape.
//!
//! Invariant: after [`shaped`] the plan's fields have exactly the Arrow types that the SQL types derive.

use std::sync::Arc;

use datafusion::common::{Column, Result as DfResult, ScalarValue};
use datafusion::logical_expr::expr::Cast;
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, Projection};
use thalweg_catalog::{Oid, SqlType};

use crate::bind::binder::same_layout;
use crate::context::{OutputColumn, RelationScan};
use crate::error::{PlanError, visible};
use crate::types::{field_type, is_unknown};

/// The columns a plan gives.
pub(crate) fn columns(plan: &LogicalPlan) -> Vec<OutputColumn> {
    plan.schema()
        .iter()
        .enumerate()
        .map(|(i, (_, field))| OutputColumn {
            name: visible(field.name()).to_owned(),
            ty: match field_type(field) {
                SqlType::Unknown => SqlType::Text,
                other => other,
            },
            origin: origin(plan, i, 0),
        })
        .collect()
}

/// Column types of a branch of a set operation; [`SqlType::Unknown`] for bare literals.
pub(crate) fn branch_types(plan: &LogicalPlan) -> Vec<SqlType> {
    let literal = |i: usize| match plan {
        LogicalPlan::Projection(projection) => projection.expr.get(i).is_some_and(is_unknown),
        _ => false,
    };
    plan.schema()
        .iter()
        .enumerate()
        .map(|(i, (_, field))| {
            if literal(i) {
                SqlType::Unknown
            } else {
                field_type(field)
            }
        })
        .collect()
}

/// Follows a plain column down to the relation it comes from.
fn origin(plan: &LogicalPlan, i: usize, depth: usize) -> Option<(Oid, i16)> {
    if depth > 64 {
        return None;
    }
    let down = |input: &LogicalPlan, column: &Column| {
        let at = input.schema().maybe_index_of_column(column)?;
        origin(input, at, depth + 1)
    };
    match plan {
        LogicalPlan::TableScan(scan) => {
            let relation = scan.source.downcast_ref::<RelationScan>()?;
            let at = scan
                .projection
                .as_ref()
                .map_or(Some(i), |p| p.get(i).copied())?;
            Some((relation.oid, *relation.attnums.get(at)?))
        }
        LogicalPlan::Projection(projection) => match unaliased(projection.expr.get(i)?) {
            Expr::Column(column) => down(&projection.input, column),
            _ => None,
        },
        LogicalPlan::SubqueryAlias(alias) => origin(&alias.input, i, depth + 1),
        LogicalPlan::Filter(filter) => origin(&filter.input, i, depth + 1),
        LogicalPlan::Sort(sort) => origin(&sort.input, i, depth + 1),
        LogicalPlan::Limit(limit) => origin(&limit.input, i, depth + 1),
        LogicalPlan::Join(join) => {
            let (_, field) = plan
                .schema()
                .iter()
                .nth(i)
                .map(|(q, f)| (q.cloned(), f.name().clone()))?;
            let (qualifier, _) = plan.schema().qualified_field(i);
            let column = Column::new(qualifier.cloned(), field);
            down(&join.left, &column).or_else(|| down(&join.right, &column))
        }
        _ => None,
    }
}

fn unaliased(expr: &Expr) -> &Expr {
    match expr {
        Expr::Alias(alias) => unaliased(&alias.expr),
        other => other,
    }
}

/// Brings every column into the Arrow type of its SQL type; literal columns become text.
pub(crate) fn canonical(plan: LogicalPlan) -> DfResult<LogicalPlan> {
    let mut changed = false;
    let mut exprs = Vec::with_capacity(plan.schema().fields().len());
    for (qualifier, field) in plan.schema().iter() {
        let ty = match field_type(field) {
            SqlType::Unknown => SqlType::Text,
            other => other,
        };
        let column = Expr::Column(Column::new(qualifier.cloned(), field.name().clone()));
        if same_layout(field.data_type(), &ty.arrow()) {
            exprs.push(column);
        } else {
            changed = true;
            let held = Arc::new(ty.field(field.name(), true));
            exprs.push(
                Expr::Cast(Cast::new_from_field(Box::new(column), held))
                    .alias_qualified(qualifier.cloned(), field.name().clone()),
            );
        }
    }
    if !changed {
        return Ok(plan);
    }
    // A projection's own literals change in place; a second projection above would hide what they are.
    if let LogicalPlan::Projection(projection) = &plan {
        let all_literal = projection
            .expr
            .iter()
            .zip(plan.schema().fields())
            .all(|(e, f)| same_layout(f.data_type(), &held_type(f).arrow()) || is_unknown(e));
        if all_literal {
            let exprs = projection.expr.iter().map(text_literal).collect();
            return Ok(LogicalPlan::Projection(Projection::try_new(
                exprs,
                Arc::clone(&projection.input),
            )?));
        }
    }
    LogicalPlanBuilder::from(plan).project(exprs)?.build()
}

fn held_type(field: &datafusion::arrow::datatypes::Field) -> SqlType {
    match field_type(field) {
        SqlType::Unknown => SqlType::Text,
        other => other,
    }
}

fn text_literal(expr: &Expr) -> Expr {
    match expr {
        Expr::Literal(ScalarValue::Utf8(s), None) => {
            Expr::Literal(ScalarValue::Utf8View(s.clone()), None)
                .alias(expr.schema_name().to_string())
        }
        Expr::Literal(ScalarValue::Null, None) => {
            Expr::Literal(ScalarValue::Utf8View(None), None).alias(expr.schema_name().to_string())
        }
        Expr::Alias(alias) if is_unknown(&alias.expr) => match text_literal(&alias.expr) {
            Expr::Alias(inner) => inner
                .expr
                .alias_qualified(alias.relation.clone(), alias.name.clone()),
            other => other.alias_qualified(alias.relation.clone(), alias.name.clone()),
        },
        other => other.clone(),
    }
}

/// A plan with exactly these column names and types, for a view whose columns are fixed.
pub(crate) fn shaped(
    plan: LogicalPlan,
    columns: &[(String, SqlType)],
) -> std::result::Result<LogicalPlan, PlanError> {
    let plan = canonical(plan)?;
    if plan.schema().fields().len() != columns.len() {
        return Err(PlanError::new(
            "42P16",
            "the view's query no longer has the view's columns",
        ));
    }
    let exprs: Vec<Expr> = plan
        .schema()
        .iter()
        .zip(columns)
        .map(|((qualifier, field), (name, ty))| {
            let column = Expr::Column(Column::new(qualifier.cloned(), field.name().clone()));
            if same_layout(field.data_type(), &ty.arrow()) {
                column.alias(name)
            } else {
                Expr::Cast(Cast::new_from_field(
                    Box::new(column),
                    Arc::new(ty.field(name, true)),
                ))
                .alias(name)
            }
        })
        .collect();
    Ok(LogicalPlanBuilder::from(plan)
        .project(exprs)
        .and_then(|b| b.build())?)
}

/// Relations a plan reads, subqueries included, sorted.
pub(crate) fn reads(plan: &LogicalPlan) -> Vec<Oid> {
    use datafusion::common::tree_node::TreeNodeRecursion;
    let mut found = Vec::new();
    let visited = plan.apply_with_subqueries(|node| {
        if let LogicalPlan::TableScan(scan) = node
            && let Some(relation) = scan.source.downcast_ref::<RelationScan>()
        {
            found.push(relation.oid);
            found.extend(relation.after);
        }
        Ok(TreeNodeRecursion::Continue)
    });
    // The visitor never fails, so neither does the walk.
    debug_assert!(visited.is_ok());
    found.sort_unstable();
    found.dedup();
    found
}
