//! Evaluates a subquery for all combinations of its outer values at once: the dependent join pushed down to the leaves.
//!
//! Invariant: for every combination k of the domain, the rows of the pushed plan whose keys are k are the rows of the subquery
//! with k put in for its outer columns, in any order.

use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Column, NullEquality, Result};
use datafusion::functions_window::expr_fn::row_number;
use datafusion::logical_expr::expr::{AggregateFunction, BinaryExpr, WindowFunction};
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::logical_plan::builder::unnest_with_options;
use datafusion::logical_expr::logical_plan::{FetchType, SkipType};
use datafusion::logical_expr::{
    Aggregate, Distinct, DistinctOn, Expr, ExprFunctionExt, Filter, Join, JoinType, Limit,
    LogicalPlan, LogicalPlanBuilder, Operator, Projection, Sort, SortExpr, SubqueryAlias, Union,
    Values, Window, lit,
};

use super::Names;
use super::inspect::{correlated, names_outer, position};
use crate::error::PlanError;

/// `left IS NOT DISTINCT FROM right`.
pub(super) fn same(left: Expr, right: Expr) -> Expr {
    Expr::BinaryExpr(BinaryExpr::new(
        Box::new(left),
        Operator::IsNotDistinctFrom,
        Box::new(right),
    ))
}

fn unsupported(what: &str) -> datafusion::common::DataFusionError {
    PlanError::unsupported(&format!("a reference to an outer query in {what}")).into()
}

/// The distinct combinations of outer values.
pub(super) struct Domain<'a> {
    plan: LogicalPlan,
    columns: Vec<Column>,
    outer: &'a [Expr],
    names: &'a Names,
}

/// A plan with the columns that hold the outer values.
pub(super) struct Pushed {
    pub(super) plan: LogicalPlan,
    pub(super) keys: Vec<Column>,
}

impl<'a> Domain<'a> {
    /// `keys` are the columns of `host` that hold `outer`.
    pub(super) fn new(
        host: &LogicalPlan,
        keys: &[Column],
        outer: &'a [Expr],
        names: &'a Names,
    ) -> Result<Domain<'a>> {
        let columns: Vec<Column> = keys
            .iter()
            .map(|_| Column::from_name(names.fresh("domain")))
            .collect();
        let exprs = keys
            .iter()
            .zip(&columns)
            .map(|(key, column)| Expr::Column(key.clone()).alias(column.name.clone()));
        let plan = LogicalPlanBuilder::from(host.clone())
            .project(exprs)?
            .distinct()?
            .build()?;
        Ok(Domain {
            plan,
            columns,
            outer,
            names,
        })
    }

    /// The domain under names of its own.
    fn instance(&self) -> Result<Pushed> {
        let keys: Vec<Column> = self
            .columns
            .iter()
            .map(|_| Column::from_name(self.names.fresh("outer")))
            .collect();
        let exprs = self
            .columns
            .iter()
            .zip(&keys)
            .map(|(column, key)| Expr::Column(column.clone()).alias(key.name.clone()));
        let plan = LogicalPlanBuilder::from(self.plan.clone())
            .project(exprs)?
            .build()?;
        Ok(Pushed { plan, keys })
    }

    fn inside(&self, expr: Expr, keys: &[Column]) -> Result<Expr> {
        let done = expr.transform_up(|e| {
            Ok(match &e {
                Expr::OuterReferenceColumn(_, column) => {
                    match position(self.outer, column).and_then(|i| keys.get(i)) {
                        Some(key) => Transformed::yes(Expr::Column(key.clone())),
                        None => Transformed::no(e),
                    }
                }
                _ => Transformed::no(e),
            })
        })?;
        Ok(done.data)
    }

    /// As [`Domain::inside`], under the name that the expression had.
    fn named(&self, exprs: Vec<Expr>, keys: &[Column]) -> Result<Vec<Expr>> {
        let preserver = NamePreserver::new_for_projection();
        exprs
            .into_iter()
            .map(|expr| {
                let saved = preserver.save(&expr);
                Ok(saved.restore(self.inside(expr, keys)?))
            })
            .collect()
    }

    /// The plan over all combinations.
    pub(super) fn push(&self, plan: LogicalPlan) -> Result<Pushed> {
        if !correlated(&plan) {
            let domain = self.instance()?;
            let plan = LogicalPlanBuilder::from(domain.plan)
                .cross_join(plan)?
                .build()?;
            return Ok(Pushed {
                plan,
                keys: domain.keys,
            });
        }
        match plan {
            LogicalPlan::Projection(p) => self.projection(p),
            LogicalPlan::Filter(f) => {
                let Pushed { plan, keys } = self.push(Arc::unwrap_or_clone(f.input))?;
                let predicate = self.inside(f.predicate, &keys)?;
                let plan = LogicalPlan::Filter(Filter::try_new(predicate, plan.into())?);
                Ok(Pushed { plan, keys })
            }
            LogicalPlan::SubqueryAlias(a) => self.alias(a),
            LogicalPlan::Aggregate(a) if a.group_expr.is_empty() => self.total(a),
            LogicalPlan::Aggregate(a) => self.grouped(a),
            LogicalPlan::Distinct(d) => self.distinct(d),
            LogicalPlan::Union(u) => self.union(u),
            // Rows of a subquery have an order only for LIMIT, which sees its Sort itself.
            LogicalPlan::Sort(Sort {
                input, fetch: None, ..
            }) => self.push(Arc::unwrap_or_clone(input)),
            LogicalPlan::Sort(sort) => {
                let fetch = sort.fetch.unwrap_or(usize::MAX);
                self.ranked(Arc::unwrap_or_clone(sort.input), sort.expr, 0, Some(fetch))
            }
            LogicalPlan::Limit(limit) => self.limit(limit),
            LogicalPlan::Window(w) => self.window(w),
            LogicalPlan::Join(j) => self.join(j),
            LogicalPlan::Subquery(s) => self.push(Arc::unwrap_or_clone(s.subquery)),
            LogicalPlan::Unnest(u) => {
                let Pushed { plan, keys } = self.push(Arc::unwrap_or_clone(u.input))?;
                let plan = unnest_with_options(plan, u.exec_columns, u.options)?;
                Ok(Pushed { plan, keys })
            }
            LogicalPlan::Values(v) => self.values(v),
            LogicalPlan::RecursiveQuery(_) => Err(unsupported("WITH RECURSIVE")),
            _ => Err(unsupported("this place")),
        }
    }

    fn projection(&self, projection: Projection) -> Result<Pushed> {
        let Pushed { plan, keys } = self.push(Arc::unwrap_or_clone(projection.input))?;
        let mut exprs: Vec<Expr> = keys.iter().cloned().map(Expr::Column).collect();
        exprs.extend(self.named(projection.expr, &keys)?);
        let plan = LogicalPlan::Projection(Projection::try_new(exprs, plan.into())?);
        Ok(Pushed { plan, keys })
    }

    fn alias(&self, alias: SubqueryAlias) -> Result<Pushed> {
        let Pushed { plan, keys } = self.push(Arc::unwrap_or_clone(alias.input))?;
        let keys = keys
            .into_iter()
            .map(|key| Column::new(Some(alias.alias.clone()), key.name))
            .collect();
        let plan = SubqueryAlias::try_new(plan.into(), alias.alias)?;
        Ok(Pushed {
            plan: LogicalPlan::SubqueryAlias(plan),
            keys,
        })
    }

    fn grouped(&self, aggregate: Aggregate) -> Result<Pushed> {
        if aggregate
            .group_expr
            .iter()
            .any(|e| matches!(e, Expr::GroupingSet(_)))
        {
            return Err(unsupported("GROUPING SETS"));
        }
        let Pushed { plan, keys } = self.push(Arc::unwrap_or_clone(aggregate.input))?;
        let mut group: Vec<Expr> = keys.iter().cloned().map(Expr::Column).collect();
        group.extend(self.named(aggregate.group_expr, &keys)?);
        let aggregates = self.named(aggregate.aggr_expr, &keys)?;
        let plan = LogicalPlan::Aggregate(Aggregate::try_new(plan.into(), group, aggregates)?);
        Ok(Pushed { plan, keys })
    }

    /// An aggregate without GROUP BY has a row even where it has no input: every combination gets one, and the aggregates see
    /// only what is really there.
    fn total(&self, aggregate: Aggregate) -> Result<Pushed> {
        let pushed = self.push(Arc::unwrap_or_clone(aggregate.input))?;
        let there = self.names.fresh("there");
        let columns = pushed.plan.schema().columns().into_iter().map(Expr::Column);
        let input = LogicalPlanBuilder::from(pushed.plan)
            .project(columns.chain([lit(true).alias(there.clone())]))?
            .build()?;
        let domain = self.instance()?;
        let plan = LogicalPlanBuilder::from(domain.plan)
            .join_detailed(
                input,
                JoinType::Left,
                (domain.keys.clone(), pushed.keys.clone()),
                None,
                NullEquality::NullEqualsNull,
            )?
            .build()?;
        let there = Expr::Column(Column::from_name(there)).is_not_null();
        let preserver = NamePreserver::new_for_projection();
        let aggregates = aggregate
            .aggr_expr
            .into_iter()
            .map(|expr| {
                let saved = preserver.save(&expr);
                let inside = self.inside(expr, &pushed.keys)?;
                Ok(saved.restore(only_where(inside, &there)?))
            })
            .collect::<Result<Vec<_>>>()?;
        let group: Vec<Expr> = domain.keys.iter().cloned().map(Expr::Column).collect();
        let plan = LogicalPlan::Aggregate(Aggregate::try_new(plan.into(), group, aggregates)?);
        Ok(Pushed {
            plan,
            keys: domain.keys,
        })
    }

    fn distinct(&self, distinct: Distinct) -> Result<Pushed> {
        match distinct {
            Distinct::All(input) => {
                let Pushed { plan, keys } = self.push(Arc::unwrap_or_clone(input))?;
                let plan = LogicalPlan::Distinct(Distinct::All(plan.into()));
                Ok(Pushed { plan, keys })
            }
            Distinct::On(on) => {
                let Pushed { plan, keys } = self.push(Arc::unwrap_or_clone(on.input))?;
                let first: Vec<Expr> = keys.iter().cloned().map(Expr::Column).collect();
                let with = |exprs: Vec<Expr>| -> Result<Vec<Expr>> {
                    let mut out = first.clone();
                    out.extend(self.named(exprs, &keys)?);
                    Ok(out)
                };
                let sort = match on.sort_expr {
                    None => None,
                    Some(sort) => {
                        let mut out: Vec<SortExpr> =
                            first.iter().map(|e| e.clone().sort(true, false)).collect();
                        for mut key in sort {
                            key.expr = self.inside(key.expr, &keys)?;
                            out.push(key);
                        }
                        Some(out)
                    }
                };
                let on = DistinctOn::try_new(
                    with(on.on_expr)?,
                    with(on.select_expr)?,
                    sort,
                    plan.into(),
                )?;
                let plan = LogicalPlan::Distinct(Distinct::On(on));
                Ok(Pushed { plan, keys })
            }
        }
    }

    fn union(&self, union: Union) -> Result<Pushed> {
        let columns = union.schema.columns();
        let keys: Vec<Column> = self
            .columns
            .iter()
            .map(|_| Column::from_name(self.names.fresh("outer")))
            .collect();
        let mut inputs = Vec::with_capacity(union.inputs.len());
        for input in union.inputs {
            let own = input.schema().columns();
            let pushed = self.push(Arc::unwrap_or_clone(input))?;
            let first = pushed
                .keys
                .into_iter()
                .zip(&keys)
                .map(|(from, to)| Expr::Column(from).alias(to.name.clone()));
            let rest = own.into_iter().zip(&columns).map(|(from, to)| {
                Expr::Column(from).alias_qualified(to.relation.clone(), to.name.clone())
            });
            let plan = LogicalPlanBuilder::from(pushed.plan)
                .project(first.chain(rest))?
                .build()?;
            inputs.push(plan.into());
        }
        let plan = LogicalPlan::Union(Union::try_new(inputs)?);
        // A union keeps the qualifiers of its first input only where all agree.
        let keys = plan
            .schema()
            .columns()
            .into_iter()
            .take(keys.len())
            .collect();
        Ok(Pushed { plan, keys })
    }

    /// One projection of the domain for every row.
    fn values(&self, values: Values) -> Result<Pushed> {
        let columns = values.schema.columns();
        let mut keys = Vec::new();
        let mut inputs: Vec<Arc<LogicalPlan>> = Vec::with_capacity(values.values.len());
        for row in values.values {
            let domain = self.instance()?;
            if keys.is_empty() {
                keys = domain.keys.clone();
            }
            let first = domain
                .keys
                .iter()
                .zip(&keys)
                .map(|(from, to)| Ok(Expr::Column(from.clone()).alias(to.name.clone())));
            let rest = row.into_iter().zip(&columns).map(|(value, column)| {
                Ok(self.inside(value, &domain.keys)?.alias(column.name.clone()))
            });
            let exprs = first.chain(rest).collect::<Result<Vec<_>>>()?;
            let plan = LogicalPlanBuilder::from(domain.plan.clone())
                .project(exprs)?
                .build()?;
            inputs.push(plan.into());
        }
        let plan = match inputs.pop() {
            Some(only) if inputs.is_empty() => Arc::unwrap_or_clone(only),
            last => {
                inputs.extend(last);
                LogicalPlan::Union(Union::try_new(inputs)?)
            }
        };
        Ok(Pushed { plan, keys })
    }

    fn limit(&self, limit: Limit) -> Result<Pushed> {
        let (SkipType::Literal(skip), FetchType::Literal(fetch)) =
            (limit.get_skip_type()?, limit.get_fetch_type()?)
        else {
            return Err(unsupported("a query whose LIMIT is not a number"));
        };
        self.ranked_below(Arc::unwrap_or_clone(limit.input), skip, fetch)
    }

    /// A projection between LIMIT and its ORDER BY works row by row, so the limit goes below it.
    fn ranked_below(&self, plan: LogicalPlan, skip: usize, fetch: Option<usize>) -> Result<Pushed> {
        match plan {
            LogicalPlan::Projection(p) if ordered(&p.input) => {
                let Pushed { plan, keys } =
                    self.ranked_below(Arc::unwrap_or_clone(p.input), skip, fetch)?;
                let mut exprs: Vec<Expr> = keys.iter().cloned().map(Expr::Column).collect();
                exprs.extend(self.named(p.expr, &keys)?);
                let plan = LogicalPlan::Projection(Projection::try_new(exprs, plan.into())?);
                Ok(Pushed { plan, keys })
            }
            LogicalPlan::Sort(sort) if sort.fetch.is_none() => {
                self.ranked(Arc::unwrap_or_clone(sort.input), sort.expr, skip, fetch)
            }
            other => self.ranked(other, Vec::new(), skip, fetch),
        }
    }

    /// The rows numbered `skip + 1` to `skip + fetch` of every combination.
    fn ranked(
        &self,
        plan: LogicalPlan,
        order: Vec<SortExpr>,
        skip: usize,
        fetch: Option<usize>,
    ) -> Result<Pushed> {
        let Pushed { plan, keys } = self.push(plan)?;
        let mut sort = Vec::with_capacity(order.len());
        for mut key in order {
            key.expr = self.inside(key.expr, &keys)?;
            sort.push(key);
        }
        let columns: Vec<Expr> = plan
            .schema()
            .columns()
            .into_iter()
            .map(Expr::Column)
            .collect();
        let number = self.names.fresh("rank");
        let ranks = row_number()
            .partition_by(keys.iter().cloned().map(Expr::Column).collect())
            .order_by(sort)
            .build()?
            .alias(number.clone());
        let number = Expr::Column(Column::from_name(number));
        let first = u64::try_from(skip).unwrap_or(u64::MAX);
        let mut wanted = number.clone().gt(lit(first));
        if let Some(fetch) = fetch {
            let last = first.saturating_add(u64::try_from(fetch).unwrap_or(u64::MAX));
            wanted = wanted.and(number.lt_eq(lit(last)));
        }
        let plan = LogicalPlanBuilder::from(plan)
            .window([ranks])?
            .filter(wanted)?
            .project(columns)?
            .build()?;
        Ok(Pushed { plan, keys })
    }

    fn window(&self, window: Window) -> Result<Pushed> {
        let Pushed { plan, keys } = self.push(Arc::unwrap_or_clone(window.input))?;
        let partition: Vec<Expr> = keys.iter().cloned().map(Expr::Column).collect();
        let preserver = NamePreserver::new_for_projection();
        let exprs = window
            .window_expr
            .into_iter()
            .map(|expr| {
                let saved = preserver.save(&expr);
                let done = self.inside(expr, &keys)?.transform_up(|e| {
                    Ok(match e {
                        Expr::WindowFunction(mut call) => {
                            let WindowFunction { params, .. } = call.as_mut();
                            params.partition_by.extend(partition.iter().cloned());
                            Transformed::yes(Expr::WindowFunction(call))
                        }
                        other => Transformed::no(other),
                    })
                })?;
                Ok(saved.restore(done.data))
            })
            .collect::<Result<Vec<_>>>()?;
        let plan = LogicalPlan::Window(Window::try_new(exprs, plan.into())?);
        Ok(Pushed { plan, keys })
    }

    fn join(&self, join: Join) -> Result<Pushed> {
        let (left, right) = (correlated(&join.left), correlated(&join.right));
        let of_node = names_outer(&LogicalPlan::Join(join.clone()));
        // The side whose rows are kept must know the combination; an inner join needs it on one side only.
        let (push_left, push_right) = match join.join_type {
            JoinType::Inner => (left || of_node || !right, right),
            JoinType::Left | JoinType::LeftSemi | JoinType::LeftAnti | JoinType::LeftMark => {
                (true, right)
            }
            JoinType::Right | JoinType::RightSemi | JoinType::RightAnti | JoinType::RightMark => {
                (left, true)
            }
            JoinType::Full => return Err(unsupported("a FULL JOIN")),
        };
        let side = |plan: Arc<LogicalPlan>, push: bool| -> Result<(LogicalPlan, Vec<Column>)> {
            let plan = Arc::unwrap_or_clone(plan);
            if push {
                let pushed = self.push(plan)?;
                Ok((pushed.plan, pushed.keys))
            } else {
                Ok((plan, Vec::new()))
            }
        };
        let (left, left_keys) = side(join.left, push_left)?;
        let (right, right_keys) = side(join.right, push_right)?;
        let keys = if push_left { &left_keys } else { &right_keys };
        let keys = match join.join_type {
            JoinType::Right | JoinType::RightSemi | JoinType::RightAnti | JoinType::RightMark => {
                right_keys.clone()
            }
            _ => keys.clone(),
        };
        let mut conditions = Vec::new();
        for (l, r) in join.on {
            let (l, r) = (self.inside(l, &keys)?, self.inside(r, &keys)?);
            conditions.push(super::equal(l, r, join.null_equality));
        }
        if let Some(filter) = join.filter {
            conditions.push(self.inside(filter, &keys)?);
        }
        if push_left && push_right {
            for (l, r) in left_keys.into_iter().zip(right_keys) {
                conditions.push(same(Expr::Column(l), Expr::Column(r)));
            }
        }
        let plan = LogicalPlanBuilder::from(left)
            .join_on(right, join.join_type, conditions)?
            .build()?;
        Ok(Pushed { plan, keys })
    }
}

fn ordered(plan: &LogicalPlan) -> bool {
    match plan {
        LogicalPlan::Sort(sort) => sort.fetch.is_none(),
        LogicalPlan::Projection(p) => ordered(&p.input),
        _ => false,
    }
}

/// An aggregate that sees only the rows with `there`.
fn only_where(expr: Expr, there: &Expr) -> Result<Expr> {
    let done = expr.transform_up(|e| {
        Ok(match e {
            Expr::AggregateFunction(AggregateFunction { func, mut params }) => {
                params.filter = Some(Box::new(match params.filter {
                    Some(filter) => there.clone().and(*filter),
                    None => there.clone(),
                }));
                Transformed::yes(Expr::AggregateFunction(AggregateFunction { func, params }))
            }
            other => Transformed::no(other),
        })
    })?;
    Ok(done.data)
}
