//! Joins the answer of a subquery to the plan whose expressions ask for it.
//!
//! Invariant: every row of the host's plan stays exactly once, except where a condition drops it; added columns have fresh names.

use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, DFSchema, NullEquality, Result, Spans};
use datafusion::functions_aggregate::expr_fn::count;
use datafusion::logical_expr::expr::Exists;
use datafusion::logical_expr::utils::conjunction;
use datafusion::logical_expr::{
    AggregateUDF, Expr, Filter, Join, JoinType, LogicalPlan, LogicalPlanBuilder, Subquery, lit, not,
};

use super::push::{Domain, Pushed};
use super::{Names, condition, equal, has_subquery, inspect, only, plan_of, simple};
use crate::error::PlanError;
use crate::functions::single::SingleValue;

/// What kind of expressions a host has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// A filter's condition: DataFusion can run simple EXISTS and IN, and scalar subqueries.
    Condition,
    /// A projection: DataFusion can run scalar subqueries.
    Projection,
    /// Any other node: what it needs is computed in a projection beneath it.
    Beneath,
}

/// The input of a node while its subqueries are taken out.
pub(super) struct Host<'a> {
    /// The input as it was.
    base: Arc<LogicalPlan>,
    plan: LogicalPlan,
    place: Place,
    /// The input's own columns.
    pub(super) columns: Vec<Column>,
    names: &'a Names,
}

impl<'a> Host<'a> {
    pub(super) fn new(input: Arc<LogicalPlan>, names: &'a Names, place: Place) -> Host<'a> {
        Host {
            columns: input.schema().columns(),
            plan: input.as_ref().clone(),
            base: input,
            place,
            names,
        }
    }

    pub(super) fn into_plan(self) -> LogicalPlan {
        self.plan
    }

    pub(super) fn schema(&self) -> &DFSchema {
        self.plan.schema()
    }

    /// Whether all outer columns that a subquery names are of this host, not of a query further out.
    pub(super) fn has_outer_columns(&self, subquery: &LogicalPlan) -> bool {
        inspect::outer_columns(subquery).iter().all(|e| self.has(e))
    }

    fn has(&self, outer: &Expr) -> bool {
        matches!(outer, Expr::OuterReferenceColumn(_, c) if self.schema().has_column(c))
    }

    /// Whether everything that an expression names, in its subqueries too, is a column of this host.
    pub(super) fn has_all(&self, expr: &Expr) -> bool {
        let mut all = true;
        let walked = expr.apply(|e| {
            all &= match e {
                Expr::Column(c) => self.schema().has_column(c),
                other => plan_of(other).is_none_or(|plan| self.has_outer_columns(plan)),
            };
            Ok(TreeNodeRecursion::Continue)
        });
        walked.is_ok() && all
    }

    /// An expression over the host's columns as a subquery of it sees it.
    pub(super) fn outer(&mut self, expr: Expr) -> Result<Expr> {
        let expr = if has_subquery(&expr) {
            Expr::Column(self.compute(expr, "subject")?)
        } else {
            expr
        };
        let schema = Arc::clone(self.plan.schema());
        let done = expr.transform_up(|e| match e {
            Expr::Column(column) => {
                let (_, field) = schema.qualified_field_from_column(&column)?;
                let field = Arc::clone(field);
                Ok(Transformed::yes(Expr::OuterReferenceColumn(field, column)))
            }
            other => Ok(Transformed::no(other)),
        })?;
        Ok(done.data)
    }

    /// Adds a computed column.
    fn compute(&mut self, expr: Expr, what: &str) -> Result<Column> {
        let name = self.names.fresh(what);
        let columns = self.plan.schema().columns();
        let exprs = columns
            .into_iter()
            .map(Expr::Column)
            .chain([expr.alias(name.clone())]);
        let plan = std::mem::take(&mut self.plan);
        self.plan = LogicalPlanBuilder::from(plan).project(exprs)?.build()?;
        Ok(Column::from_name(name))
    }

    /// EXISTS as a condition of its own; `None` when the host's rows already are the ones that fulfil it.
    pub(super) fn exists_condition(&mut self, exists: Exists) -> Result<Option<Expr>> {
        let plan = &exists.subquery.subquery;
        if !inspect::correlated(plan) {
            return self.exists_value(exists).map(Some);
        }
        let expr = Expr::Exists(exists.clone());
        if self.place == Place::Condition && simple::predicate(&expr, self) {
            return Ok(Some(expr));
        }
        let (pushed, keys) = self.unnest(plan)?;
        let (right, right_keys) = self.found(pushed)?;
        let kind = if exists.negated {
            JoinType::LeftAnti
        } else {
            JoinType::LeftSemi
        };
        self.join(right, keys, right_keys, kind)?;
        Ok(None)
    }

    /// EXISTS as a value.
    pub(super) fn exists_value(&mut self, exists: Exists) -> Result<Expr> {
        let plan = &exists.subquery.subquery;
        if !inspect::correlated(plan) {
            let found = self.scalar(any_row(plan)?)?;
            return Ok(if exists.negated { not(found) } else { found });
        }
        let expr = Expr::Exists(exists.clone());
        if self.place == Place::Condition && simple::predicate(&expr, self) {
            return Ok(expr);
        }
        let (pushed, keys) = self.unnest(plan)?;
        let (right, right_keys) = self.found(pushed)?;
        let mark = self.names.fresh("found");
        let exprs = right_keys
            .iter()
            .cloned()
            .map(Expr::Column)
            .chain([lit(true).alias(mark.clone())]);
        let right = LogicalPlanBuilder::from(right).project(exprs)?.build()?;
        self.join(right, keys, right_keys, JoinType::Left)?;
        let mark = Expr::Column(Column::from_name(mark));
        Ok(if exists.negated {
            mark.is_null()
        } else {
            mark.is_not_null()
        })
    }

    /// A subquery as a value.
    pub(super) fn scalar(&mut self, subquery: Subquery) -> Result<Expr> {
        let plan = Arc::clone(&subquery.subquery);
        let inline = !inspect::correlated(&plan) || simple::scalar(&subquery, self);
        if inline {
            let expr = Expr::ScalarSubquery(nullable(subquery)?);
            return Ok(if self.place == Place::Beneath {
                Expr::Column(self.compute(expr, "value")?)
            } else {
                expr
            });
        }
        let column = Expr::Column(plan.schema().columns().swap_remove(0));
        let (pushed, keys) = self.unnest(&plan)?;
        let single = inspect::at_most_one_row(&plan);
        let name = self.names.fresh("value");
        let (right_keys, renamed) = self.renamed(&pushed.keys);
        let right = LogicalPlanBuilder::from(pushed.plan);
        let right = if single {
            let exprs = renamed.into_iter().chain([column.alias(name.clone())]);
            right.project(exprs)?
        } else {
            let value = AggregateUDF::from(SingleValue::new())
                .call(vec![column])
                .alias(name.clone());
            right.aggregate(renamed, [value])?
        };
        self.join(right.build()?, keys, right_keys, JoinType::Left)?;
        Ok(Expr::Column(Column::from_name(name)))
    }

    /// The subquery over every combination of the outer values it names, and the host's columns with these values.
    fn unnest(&mut self, subquery: &LogicalPlan) -> Result<(Pushed, Vec<Column>)> {
        let outer = inspect::outer_columns(subquery);
        let mut keys = Vec::with_capacity(outer.len());
        for expr in &outer {
            keys.push(match expr {
                Expr::OuterReferenceColumn(_, column) if self.has(expr) => column.clone(),
                _ => self.compute(expr.clone(), "outer")?,
            });
        }
        // The input itself does, and is shorter, unless a key was computed above it. Values of rows that are gone do no harm.
        let of_input = keys.iter().all(|key| self.columns.contains(key));
        let plan = if of_input { &self.base } else { &self.plan };
        inspect::must_repeat(plan)?;
        let domain = Domain::new(plan, &keys, &outer, self.names)?;
        Ok((domain.push(subquery.clone())?, keys))
    }

    /// The combinations that have rows, once each.
    fn found(&self, pushed: Pushed) -> Result<(LogicalPlan, Vec<Column>)> {
        let (columns, renamed) = self.renamed(&pushed.keys);
        let plan = LogicalPlanBuilder::from(pushed.plan)
            .project(renamed)?
            .distinct()?
            .build()?;
        Ok((plan, columns))
    }

    fn renamed(&self, keys: &[Column]) -> (Vec<Column>, Vec<Expr>) {
        keys.iter()
            .map(|key| {
                let name = self.names.fresh("key");
                let expr = Expr::Column(key.clone()).alias(name.clone());
                (Column::from_name(name), expr)
            })
            .unzip()
    }

    fn join(
        &mut self,
        right: LogicalPlan,
        keys: Vec<Column>,
        right_keys: Vec<Column>,
        kind: JoinType,
    ) -> Result<()> {
        let nulls = self.null_equality(&keys)?;
        let plan = std::mem::take(&mut self.plan);
        self.plan = LogicalPlanBuilder::from(plan)
            .join_detailed(right, kind, (keys, right_keys), None, nulls)?
            .build()?;
        Ok(())
    }

    fn null_equality(&self, keys: &[Column]) -> Result<NullEquality> {
        for key in keys {
            if self
                .schema()
                .qualified_field_from_column(key)?
                .1
                .is_nullable()
            {
                return Ok(NullEquality::NullEqualsNull);
            }
        }
        Ok(NullEquality::NullEqualsNothing)
    }
}

/// No row is NULL, whatever the column's own nullability, which is all that DataFusion looks at.
fn nullable(subquery: Subquery) -> Result<Subquery> {
    let plan = &subquery.subquery;
    let never_null = !plan.schema().field(0).is_nullable();
    if !never_null || inspect::correlated(plan) || inspect::exactly_one_row(plan) {
        return Ok(subquery);
    }
    let (column, name) = (
        plan.schema().columns().swap_remove(0),
        plan.schema().field(0).name(),
    );
    let value = AggregateUDF::from(SingleValue::new())
        .call(vec![Expr::Column(column)])
        .alias(name.clone());
    let plan = LogicalPlanBuilder::from(plan.as_ref().clone())
        .aggregate(Vec::<Expr>::new(), [value])?
        .build()?;
    Ok(Subquery {
        subquery: plan.into(),
        ..subquery
    })
}

/// `SELECT count(*) > 0 FROM (... LIMIT 1)`.
fn any_row(plan: &LogicalPlan) -> Result<Subquery> {
    let rows = count(lit(1_i64));
    let found = Expr::Column(Column::from_name(rows.schema_name().to_string())).gt(lit(0_i64));
    let plan = LogicalPlanBuilder::from(plan.clone())
        .limit(0, Some(1))?
        .aggregate(Vec::<Expr>::new(), [rows])?
        .project([found.alias("found")])?
        .build()?;
    Ok(Subquery {
        subquery: plan.into(),
        outer_ref_columns: Vec::new(),
        spans: Spans::new(),
    })
}

/// `FROM a, LATERAL (...)` and `a LEFT JOIN LATERAL (...) ON ...`.
pub(super) fn lateral(join: Join, names: &Names) -> Result<LogicalPlan> {
    if !matches!(join.join_type, JoinType::Inner | JoinType::Left) {
        return Err(PlanError::new(
            "42P10",
            "the combining JOIN type must be INNER or LEFT for a LATERAL reference",
        )
        .into());
    }
    let columns = join.schema.columns();
    let mut host = Host::new(join.left, names, Place::Beneath);
    let side = Arc::unwrap_or_clone(join.right)
        .transform_down(|node| {
            Ok(match node {
                LogicalPlan::Subquery(inner) => Transformed::new(
                    Arc::unwrap_or_clone(inner.subquery),
                    true,
                    TreeNodeRecursion::Jump,
                ),
                other => Transformed::no(other),
            })
        })?
        .data;
    let side = side.recompute_schema()?;
    let (pushed, keys) = host.unnest(&side)?;
    let nulls = host.null_equality(&keys)?;
    let mut conditions: Vec<Expr> = join
        .on
        .into_iter()
        .map(|(l, r)| equal(l, r, join.null_equality))
        .collect();
    let (after, with): (Vec<Expr>, Vec<Expr>) = join.filter.into_iter().partition(has_subquery);
    conditions.extend(with);
    let plan = LogicalPlanBuilder::from(host.into_plan())
        .join_detailed(
            pushed.plan,
            join.join_type,
            (keys, pushed.keys),
            conjunction(conditions),
            nulls,
        )?
        .build()?;
    let plan = match conjunction(after) {
        None => plan,
        Some(predicate) if join.join_type == JoinType::Inner => {
            condition(Filter::try_new(predicate, plan.into())?, names)?
        }
        Some(_) => {
            return Err(PlanError::unsupported(
                "a subquery in the ON condition of LEFT JOIN LATERAL",
            )
            .into());
        }
    };
    only(plan, columns)
}
