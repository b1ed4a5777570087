//! Lookup joins: `JOIN t FOR SYSTEM_TIME AS OF PROCTIME()`, where `t` is a table that an outside system keeps.
//!
//! Invariant: in a settled plan every scan of such a table is the right side of an inner or left join whose `on` holds exactly one
//! equality for each column of the table's key, in the key's order, each with an expression over the left side alone. So a row
//! finds at most one row.

use std::cmp::Ordering;
use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use datafusion::common::tree_node::{Transformed, TreeNodeRecursion};
use datafusion::common::{Column, DFSchema, DFSchemaRef, NullEquality, Result};
use datafusion::logical_expr::expr::BinaryExpr;
use datafusion::logical_expr::logical_plan::builder::build_join_schema;
use datafusion::logical_expr::utils::{conjunction, split_conjunction_owned};
use datafusion::logical_expr::{
    Expr, ExprSchemable, Extension, Join, JoinType, LogicalPlan, Operator, UserDefinedLogicalNode,
    UserDefinedLogicalNodeCore,
};
use thalweg_catalog::{Oid, SqlType};

use crate::context::{Outside, RelationScan};
use crate::error::PlanError;
use crate::rewrite::subquery::has_subquery;

/// First part of the name under which the normaliser leaves such a table. No name of a user's holds it.
pub(crate) const MARK: &str = "\0lookup";

const SHAPE: &str = "Write FROM input JOIN table FOR SYSTEM_TIME AS OF PROCTIME() AS t ON t.key = input.column, or LEFT JOIN: the table on the right, each column of its key compared.";

/// The scan that a lookup join reads, under nothing but names.
fn looked_up(plan: &LogicalPlan) -> Option<(&RelationScan, &Outside)> {
    match plan {
        LogicalPlan::SubqueryAlias(alias) => looked_up(&alias.input),
        LogicalPlan::TableScan(scan) => {
            let relation = scan.source.downcast_ref::<RelationScan>()?;
            let outside = relation.outside.as_ref()?;
            relation.as_of_now.then_some((relation, outside))
        }
        _ => None,
    }
}

/// The tables that a plan looks rows up in, sorted.
pub(crate) fn tables(plan: &LogicalPlan) -> Vec<Oid> {
    let mut found = scans(plan);
    found.sort_unstable();
    found.dedup();
    found
}

fn scans(plan: &LogicalPlan) -> Vec<Oid> {
    let mut found = Vec::new();
    let walked = plan.apply_with_subqueries(|node| {
        if let LogicalPlan::TableScan(_) = node
            && let Some((relation, _)) = looked_up(node)
        {
            found.push(relation.oid);
        }
        Ok(TreeNodeRecursion::Continue)
    });
    debug_assert!(walked.is_ok());
    found
}

/// Brings every lookup join of an analysed plan into the form that the invariant names.
///
/// # Errors
/// 0A000 for a use of `FOR SYSTEM_TIME AS OF PROCTIME()` that is no lookup join.
pub(crate) fn settle(plan: LogicalPlan) -> std::result::Result<LogicalPlan, PlanError> {
    let scans = scans(&plan).len();
    if scans == 0 {
        return Ok(plan);
    }
    let mut joins = 0;
    let settled = plan.transform_up_with_subqueries(|node| match node {
        LogicalPlan::Join(join) if looked_up(&join.right).is_some() => {
            joins += 1;
            Ok(Transformed::yes(LogicalPlan::Join(keyed(join)?)))
        }
        other => Ok(Transformed::no(other)),
    })?;
    if joins != scans {
        return Err(PlanError::hint(
            "0A000",
            "FOR SYSTEM_TIME AS OF PROCTIME() is not supported where there is no join from the left",
            SHAPE,
        ));
    }
    Ok(settled.data)
}

/// The join with the equalities of the table's key in `on`, and everything else in its filter.
fn keyed(mut join: Join) -> std::result::Result<Join, PlanError> {
    let Some((relation, _)) = looked_up(&join.right) else {
        return Ok(join);
    };
    if !matches!(join.join_type, JoinType::Inner | JoinType::Left) {
        let what = format!(
            "a {} join with a table FOR SYSTEM_TIME AS OF PROCTIME()",
            format!("{}", join.join_type).to_lowercase()
        );
        let report = PlanError::unsupported(what).report();
        return Err(PlanError::hint(report.sqlstate, report.message, SHAPE));
    }
    let (left, right) = (join.left.schema(), join.right.schema());
    let pairs = std::mem::take(&mut join.on).into_iter();
    let mut conditions: Vec<Expr> = pairs.map(|(left, right)| left.eq(right)).collect();
    conditions.extend(
        join.filter
            .take()
            .into_iter()
            .flat_map(split_conjunction_owned),
    );
    if conditions.iter().any(has_subquery) {
        return Err(PlanError::hint(
            "0A000",
            "a subquery in the condition of a lookup join is not supported",
            "Compute it in a subquery on the left side of the join.",
        ));
    }
    let mut on = Vec::new();
    for position in relation.key.iter().flatten() {
        let (qualifier, field) = right.qualified_field(*position);
        let column = Column::from((qualifier, field));
        let ty = SqlType::from_field(field);
        if matches!(ty, SqlType::Float4 | SqlType::Float8) {
            return Err(PlanError::unsupported(format!(
                "a lookup join on column \"{}\" of type {ty}",
                field.name()
            )));
        }
        let found = conditions.iter().position(|condition| {
            other_side(condition, &column, left).is_some_and(|other| {
                other
                    .get_type(left)
                    .is_ok_and(|ty| ty == *field.data_type())
            })
        });
        let other = found.and_then(|at| other_side(&conditions.remove(at), &column, left).cloned());
        match other {
            Some(other) => on.push((other, Expr::Column(column))),
            None => return Err(not_covered(&relation.name, field.name(), &ty)),
        }
    }
    if on.is_empty() || join.null_equality != NullEquality::NullEqualsNothing {
        return Err(PlanError::unsupported("this lookup join"));
    }
    // DataFusion's elimination of cross joins loses a pair of which one side has no columns.
    let constant = |(other, _): &&(Expr, Expr)| other.column_refs().is_empty();
    let again = on.iter().filter(constant).map(equality);
    join.filter = conjunction(again.chain(conditions));
    join.on = on;
    Ok(join)
}

fn equality((other, column): &(Expr, Expr)) -> Expr {
    other.clone().eq(column.clone())
}

/// What a condition says the column is equal to, if that is known from the left side alone.
fn other_side<'a>(condition: &'a Expr, column: &Column, left: &DFSchema) -> Option<&'a Expr> {
    let Expr::BinaryExpr(BinaryExpr {
        left: one,
        op: Operator::Eq,
        right: two,
    }) = condition
    else {
        return None;
    };
    let is_column = |expr: &Expr| matches!(expr, Expr::Column(found) if found == column);
    let other = match (is_column(one), is_column(two)) {
        (true, false) => two,
        (false, true) => one,
        _ => return None,
    };
    let of_left = other.column_refs().into_iter().all(|c| left.has_column(c));
    let plain = of_left && !other.contains_outer();
    plain.then_some(other)
}

fn not_covered(table: &str, column: &str, ty: &SqlType) -> PlanError {
    let mut report = PlanError::hint(
        "0A000",
        format!("a lookup join that does not name a row of table \"{table}\" is not supported"),
        format!(
            "Add t.{column} = ... to ON, where the other side is of type {ty} and of columns of the left side; cast it, not the column of the table."
        ),
    )
    .report();
    report.detail = Some(format!(
        "Column \"{column}\" of the table's key is not compared for equality with a value of its own type."
    ));
    PlanError::from(report)
}

/// A lookup join on its way through the rules for plans that are kept by changes.
///
/// Its table is no input, and its filter none of its expressions, so that no rule moves anything of them. It reads all of its input:
/// rows that differ only in columns which nobody else reads have found what they found at times of their own.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct LookupNode {
    pub(crate) input: LogicalPlan,
    pub(crate) oid: Oid,
    pub(crate) name: String,
    pub(crate) outside: Outside,
    pub(crate) kind: JoinType,
    /// Over the input, in the order of the table's key.
    pub(crate) keys: Vec<Expr>,
    /// Positions of the key's columns in the table.
    pub(crate) key: Vec<usize>,
    /// Over the pair.
    pub(crate) filter: Option<Expr>,
    /// Columns of the table, under the name the query gives it.
    pub(crate) table: DFSchemaRef,
    pub(crate) schema: DFSchemaRef,
}

/// Puts [`LookupNode`]s in the place of the lookup joins of a settled plan.
pub(crate) fn extract(plan: LogicalPlan) -> Result<LogicalPlan> {
    let done = plan.transform_up_with_subqueries(|node| match node {
        LogicalPlan::Join(join) => match lookup_node(&join) {
            Some(node) => Ok(Transformed::yes(LogicalPlan::Extension(Extension {
                node: Arc::new(node),
            }))),
            None => Ok(Transformed::no(LogicalPlan::Join(join))),
        },
        other => Ok(Transformed::no(other)),
    })?;
    Ok(done.data)
}

fn lookup_node(join: &Join) -> Option<LookupNode> {
    let (relation, outside) = looked_up(&join.right)?;
    let mut conditions: Vec<Expr> = join
        .filter
        .iter()
        .cloned()
        .flat_map(split_conjunction_owned)
        .collect();
    conditions.retain(|condition| !join.on.iter().any(|pair| *condition == equality(pair)));
    Some(LookupNode {
        input: join.left.as_ref().clone(),
        oid: relation.oid,
        name: relation.name.clone(),
        outside: outside.clone(),
        kind: join.join_type,
        keys: join.on.iter().map(|(left, _)| left.clone()).collect(),
        key: relation.key.clone().unwrap_or_default(),
        filter: conjunction(conditions),
        table: Arc::clone(join.right.schema()),
        schema: Arc::clone(&join.schema),
    })
}

/// The node behind an extension.
pub(crate) fn of(extension: &Extension) -> Option<&LookupNode> {
    let node: &dyn UserDefinedLogicalNode = extension.node.as_ref();
    node.as_any().downcast_ref::<LookupNode>()
}

impl PartialOrd for LookupNode {
    fn partial_cmp(&self, _other: &Self) -> Option<Ordering> {
        None
    }
}

impl UserDefinedLogicalNodeCore for LookupNode {
    fn name(&self) -> &str {
        "Lookup"
    }

    fn inputs(&self) -> Vec<&LogicalPlan> {
        vec![&self.input]
    }

    fn schema(&self) -> &DFSchemaRef {
        &self.schema
    }

    fn expressions(&self) -> Vec<Expr> {
        self.keys.clone()
    }

    /// A condition on the input alone may pass below: what it drops needs no lookup.
    fn prevent_predicate_push_down_columns(&self) -> HashSet<String> {
        let fields = self.table.fields().iter();
        fields.map(|field| field.name().clone()).collect()
    }

    fn fmt_for_explain(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Lookup {}", self.name)
    }

    fn with_exprs_and_inputs(&self, exprs: Vec<Expr>, inputs: Vec<LogicalPlan>) -> Result<Self> {
        let mut node = self.clone();
        node.keys = exprs;
        if let Some(input) = inputs.into_iter().next() {
            node.input = input;
        }
        node.schema = Arc::new(build_join_schema(
            node.input.schema(),
            &node.table,
            &node.kind,
        )?);
        Ok(node)
    }
}
