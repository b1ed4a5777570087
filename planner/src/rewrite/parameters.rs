//! Replaces parameters by values.
//!
//! Invariant: a value reaches the plan in the type its placeholder was planned with.

use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Result, ScalarValue};
use datafusion::logical_expr::{Expr, LogicalPlan};
use thalweg_catalog::SqlType;

use crate::bind::literal::typed;
use crate::context::{Conflict, DmlPlan};
use crate::error::raise;
use crate::functions::cast::cast_scalar;
use crate::types::field_type;

/// Values for `$1`, `$2`, ...
pub(crate) fn bind(plan: LogicalPlan, values: &[ScalarValue]) -> Result<LogicalPlan> {
    super::expressions(plan, &|expr| bound(expr, values))
}

/// Values for a data statement, in place.
pub(crate) fn bind_dml(plan: &mut DmlPlan, values: &[ScalarValue]) -> Result<()> {
    if let DmlPlan::Insert {
        conflict:
            Conflict::DoUpdate {
                assignments,
                filter,
                ..
            },
        ..
    } = plan
    {
        let assigned = assignments.iter_mut().map(|(_, expr)| expr);
        for expr in assigned.chain(filter) {
            replace(expr, values)?;
        }
    }
    let (DmlPlan::Insert {
        input, returning, ..
    }
    | DmlPlan::Update {
        input, returning, ..
    }
    | DmlPlan::Delete {
        input, returning, ..
    }) = plan;
    for expr in returning.iter_mut().flat_map(|out| &mut out.exprs) {
        replace(expr, values)?;
    }
    *input = bind(input.clone(), values)?;
    Ok(())
}

fn replace(expr: &mut Expr, values: &[ScalarValue]) -> Result<()> {
    *expr = expr.clone().transform_up(|expr| bound(expr, values))?.data;
    Ok(())
}

fn bound(expr: Expr, values: &[ScalarValue]) -> Result<Transformed<Expr>> {
    let Expr::Placeholder(p) = &expr else {
        return Ok(Transformed::no(expr));
    };
    let n: usize =
        p.id.trim_start_matches('$')
            .parse()
            .map_err(|_| raise("42P02", format!("there is no parameter {}", p.id)))?;
    let value = n
        .checked_sub(1)
        .and_then(|i| values.get(i))
        .ok_or_else(|| {
            raise(
                "08P01",
                format!(
                    "bind message supplies {} parameters, but the statement requires {n}",
                    values.len()
                ),
            )
        })?;
    // Only LIMIT and OFFSET have placeholders without a type; they are bigint.
    let ty = p.field.as_ref().map_or(SqlType::Int8, |f| field_type(f));
    Ok(Transformed::yes(typed(converted(value, &ty)?, &ty)))
}

fn converted(value: &ScalarValue, ty: &SqlType) -> Result<ScalarValue> {
    if value.data_type() == ty.arrow() {
        return Ok(value.clone());
    }
    cast_scalar(
        value,
        &SqlType::from_arrow(&value.data_type()),
        ty,
        "UTC",
        true,
    )
}
