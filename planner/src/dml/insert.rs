//! INSERT.
//!
//! Invariant: the input plan gives every column of the table, in order, in its own type.

use std::collections::HashMap;
use std::sync::Arc;

use datafusion::common::Column as PlanColumn;
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder};
use thalweg_catalog::Relation;
use thalweg_sql::ast;

use super::{bind, column, default_of, is_default, qualified, returning, stored, target};
use crate::bind::binder::untyped;
use crate::bind::node::Node;
use crate::bind::normalize::query_of;
use crate::bind::provider::Session;
use crate::context::{Conflict, DmlPlan, PlanContext};
use crate::error::PlanError;
use crate::names::{fold, last_part};
use crate::output;
use crate::planner::Planner;
use crate::types::{field_type, is_unknown};

type Result<T> = std::result::Result<T, PlanError>;

pub(crate) fn plan(
    planner: &Planner,
    cx: &PlanContext<'_>,
    insert: &ast::Insert,
) -> Result<DmlPlan> {
    let ast::TableObject::TableName(name) = &insert.table else {
        return Err(PlanError::unsupported("INSERT INTO a function"));
    };
    let relation = target(cx, name, "insert into")?;
    let alias = insert
        .table_alias
        .as_ref()
        .map_or_else(|| relation.name.clone(), |a| fold(&a.alias));
    let listed = listed(relation, insert)?;
    let ((input, conflict, returning), parameters) = planner.inferred(cx, false, |session| {
        let input = input(planner, session, relation, insert, &listed)?;
        let conflict = conflict(planner, session, relation, &alias, insert.on.as_ref())?;
        let returning = returning(
            planner,
            session,
            relation,
            &alias,
            insert.returning.as_ref(),
        )?;
        Ok((input, conflict, returning))
    })?;
    Ok(DmlPlan::Insert {
        table: relation.oid,
        reads: output::reads(&input),
        input,
        conflict,
        returning,
        parameters,
    })
}

/// Positions of the columns that values are given for.
fn listed(relation: &Relation, insert: &ast::Insert) -> Result<Vec<usize>> {
    if insert.columns.is_empty() {
        return Ok((0..relation.columns.len())
            .filter(|i| relation.columns[*i].generated.is_none())
            .collect());
    }
    let mut positions = Vec::with_capacity(insert.columns.len());
    for name in &insert.columns {
        let name = last_part(name);
        let (at, _) = column(relation, &name)?;
        if positions.contains(&at) {
            return Err(PlanError::new(
                "42701",
                format!("column \"{name}\" specified more than once"),
            ));
        }
        positions.push(at);
    }
    Ok(positions)
}

fn input(
    planner: &Planner,
    session: &Session<'_>,
    relation: &Relation,
    insert: &ast::Insert,
    listed: &[usize],
) -> Result<LogicalPlan> {
    let explicit = !insert.columns.is_empty();
    let plan = match &insert.source {
        None => values(session, relation, &[vec![]], &[], None)?,
        Some(query) => match query.body.as_ref() {
            ast::SetExpr::Values(rows)
                if query.order_by.is_none() && query.limit_clause.is_none() =>
            {
                let rows: Vec<Vec<ast::Expr>> =
                    rows.rows.iter().map(|r| r.content.clone()).collect();
                check_width(rows.iter().map(Vec::len), listed.len(), explicit)?;
                values(session, relation, &rows, listed, query.with.as_ref())?
            }
            _ => selected(planner, session, relation, query, listed, explicit)?,
        },
    };
    let plan = generated(planner, session, relation, plan)?;
    planner.finish(session.cx, plan)
}

fn check_width(widths: impl Iterator<Item = usize>, listed: usize, explicit: bool) -> Result<()> {
    for width in widths {
        if width > listed {
            return Err(PlanError::new(
                "42601",
                "INSERT has more expressions than target columns",
            ));
        }
        if width < listed && explicit {
            return Err(PlanError::new(
                "42601",
                "INSERT has more target columns than expressions",
            ));
        }
    }
    Ok(())
}

fn generated_default(relation: &Relation, at: usize) -> Result<()> {
    if relation.columns[at].generated.is_some() {
        let name = &relation.columns[at].name;
        let mut report = crate::error::report(
            "428C9",
            format!("cannot insert a non-DEFAULT value into column \"{name}\""),
        );
        report.detail = Some(format!("Column \"{name}\" is a generated column."));
        return Err(report.into());
    }
    Ok(())
}

/// VALUES with every row filled to the table's width, each cell assigned to its column.
fn values(
    session: &Session<'_>,
    relation: &Relation,
    rows: &[Vec<ast::Expr>],
    listed: &[usize],
    with: Option<&ast::With>,
) -> Result<LogicalPlan> {
    let mut full = Vec::with_capacity(rows.len());
    for row in rows {
        let mut cells: HashMap<usize, &ast::Expr> = HashMap::new();
        for (cell, at) in row.iter().zip(listed) {
            if !is_default(cell) {
                generated_default(relation, *at)?;
                cells.insert(*at, cell);
            }
        }
        let mut content = Vec::with_capacity(relation.columns.len());
        for (at, column) in relation.columns.iter().enumerate() {
            let value = match cells.get(&at) {
                Some(cell) => (*cell).clone(),
                None => default_of(column)?,
            };
            content.push(session.nodes.wrap(
                Node::Assign {
                    ty: column.ty.clone(),
                    column: column.name.clone(),
                },
                vec![value],
            ));
        }
        full.push(ast::Parens::with_empty_span(content));
    }
    let body = ast::SetExpr::Values(ast::Values {
        explicit_row: false,
        value_keyword: false,
        rows: full,
    });
    let plan = session.query(&query_of(with.cloned(), body))?;
    rename(relation, plan)
}

fn rename(relation: &Relation, plan: LogicalPlan) -> Result<LogicalPlan> {
    let exprs: Vec<Expr> = plan
        .schema()
        .columns()
        .into_iter()
        .zip(&relation.columns)
        .map(|(from, to)| Expr::Column(from).alias(&to.name))
        .collect();
    Ok(LogicalPlanBuilder::from(plan).project(exprs)?.build()?)
}

fn selected(
    planner: &Planner,
    session: &Session<'_>,
    relation: &Relation,
    query: &ast::Query,
    listed: &[usize],
    explicit: bool,
) -> Result<LogicalPlan> {
    let plan = session.query(query)?;
    let width = plan.schema().fields().len();
    check_width(std::iter::once(width), listed.len(), explicit)?;
    let mut given: HashMap<usize, Expr> = HashMap::new();
    for (i, at) in listed.iter().take(width).enumerate() {
        generated_default(relation, *at)?;
        let column = &relation.columns[*at];
        let (qualifier, field) = plan.schema().qualified_field(i);
        // An untyped literal of the select list takes the column's type, as it does in VALUES.
        let literal = match &plan {
            LogicalPlan::Projection(p) => p.expr.get(i).filter(|e| untyped(e)).cloned(),
            _ => None,
        };
        let operand = match literal {
            Some(expr) => (expr, thalweg_catalog::SqlType::Unknown),
            None => (
                Expr::Column(PlanColumn::new(qualifier.cloned(), field.name().clone())),
                field_type(field),
            ),
        };
        debug_assert!(
            operand.1 != thalweg_catalog::SqlType::Unknown
                || is_unknown(&operand.0)
                || field.data_type().is_null()
        );
        given.insert(
            *at,
            session.binder.assign(operand, &column.ty, &column.name)?,
        );
    }
    let schema = Arc::new(qualified(&relation.columns, &relation.name)?);
    let mut exprs = Vec::with_capacity(relation.columns.len());
    for (at, column) in relation.columns.iter().enumerate() {
        let expr = match given.remove(&at) {
            Some(expr) => expr,
            None => {
                let target = Some((column.ty.clone(), column.name.clone()));
                bind(
                    planner,
                    session,
                    &schema,
                    vec![(default_of(column)?, target)],
                )?
                .pop()
                .ok_or_else(|| PlanError::new("XX000", "a default disappeared"))?
            }
        };
        exprs.push(expr.alias(&column.name));
    }
    Ok(LogicalPlanBuilder::from(plan).project(exprs)?.build()?)
}

/// Fills generated columns from the others.
fn generated(
    planner: &Planner,
    session: &Session<'_>,
    relation: &Relation,
    plan: LogicalPlan,
) -> Result<LogicalPlan> {
    if relation.columns.iter().all(|c| c.generated.is_none()) {
        return Ok(plan);
    }
    let schema = Arc::clone(plan.schema());
    let mut exprs = Vec::with_capacity(relation.columns.len());
    for column in &relation.columns {
        exprs.push(match &column.generated {
            None => Expr::Column(PlanColumn::new_unqualified(&column.name)),
            Some(text) => {
                let target = Some((column.ty.clone(), column.name.clone()));
                let mut bound = bind(planner, session, &schema, vec![(stored(text)?, target)])?;
                let expr = bound
                    .pop()
                    .ok_or_else(|| PlanError::new("XX000", "a generated column disappeared"))?;
                expr.alias(&column.name)
            }
        });
    }
    Ok(LogicalPlanBuilder::from(plan).project(exprs)?.build()?)
}

fn conflict(
    planner: &Planner,
    session: &Session<'_>,
    relation: &Relation,
    alias: &str,
    on: Option<&ast::OnInsert>,
) -> Result<Conflict> {
    let on = match on {
        None => return Ok(Conflict::Error),
        Some(ast::OnInsert::OnConflict(on)) => on,
        Some(_) => return Err(PlanError::unsupported("ON DUPLICATE KEY UPDATE")),
    };
    let target = match &on.conflict_target {
        None => None,
        Some(ast::ConflictTarget::Columns(columns)) => {
            let mut positions = Vec::new();
            for name in columns {
                positions.push(column(relation, &fold(name))?.0);
            }
            Some(key_target(relation, positions)?)
        }
        Some(ast::ConflictTarget::OnConstraint(name)) => {
            let name = last_part(name);
            match &relation.primary_key {
                Some(key) if key.name == name => Some(key_positions(relation)),
                _ => {
                    return Err(PlanError::new(
                        "42704",
                        format!(
                            "constraint \"{name}\" for table \"{}\" does not exist",
                            relation.name
                        ),
                    ));
                }
            }
        }
    };
    match &on.action {
        ast::OnConflictAction::DoNothing => Ok(Conflict::DoNothing { target }),
        ast::OnConflictAction::DoUpdate(update) => {
            let target = target.ok_or_else(|| {
                PlanError::hint(
                    "42601",
                    "ON CONFLICT DO UPDATE requires inference specification or constraint name",
                    "For example, ON CONFLICT (column_name).",
                )
            })?;
            let own = qualified(&relation.columns, alias)?;
            let schema = Arc::new(own.join(&qualified(&relation.columns, "excluded")?)?);
            let mut exprs = Vec::new();
            let mut positions = Vec::new();
            let mut set = super::change::assignments(relation, &update.assignments)?;
            // A bare column name means the existing row's.
            set.iter_mut()
                .for_each(|(_, value)| own_columns(value, relation, alias));
            for (at, value) in super::change::with_generated(relation, alias, set)? {
                let column = &relation.columns[at];
                positions.push(at);
                exprs.push((value, Some((column.ty.clone(), column.name.clone()))));
            }
            let assigned = positions
                .into_iter()
                .zip(bind(planner, session, &schema, exprs)?)
                .collect();
            let filter = match &update.selection {
                Some(expr) => {
                    let mut expr = expr.clone();
                    own_columns(&mut expr, relation, alias);
                    bind(planner, session, &schema, vec![(expr, None)])?.pop()
                }
                None => None,
            };
            Ok(Conflict::DoUpdate {
                target,
                assignments: assigned,
                filter,
                schema,
            })
        }
    }
}

fn own_columns(expr: &mut ast::Expr, relation: &Relation, alias: &str) {
    let _: std::ops::ControlFlow<()> = ast::visit_expressions_mut(expr, |e| {
        if let ast::Expr::Identifier(ident) = e {
            let name = fold(ident);
            if relation.columns.iter().any(|c| c.name == name) {
                *e = ast::Expr::CompoundIdentifier(vec![
                    crate::names::quoted(alias),
                    crate::names::quoted(name),
                ]);
            }
        }
        std::ops::ControlFlow::Continue(())
    });
}

fn key_positions(relation: &Relation) -> Vec<usize> {
    let key = relation.primary_key.iter().flat_map(|k| &k.columns);
    key.filter_map(|attnum| relation.columns.iter().position(|c| c.attnum == *attnum))
        .collect()
}

fn key_target(relation: &Relation, mut positions: Vec<usize>) -> Result<Vec<usize>> {
    let key = key_positions(relation);
    let mut sorted = key.clone();
    sorted.sort_unstable();
    positions.sort_unstable();
    positions.dedup();
    if relation.primary_key.is_none() || positions != sorted {
        return Err(PlanError::new(
            "42P10",
            "there is no unique or exclusion constraint matching the ON CONFLICT specification",
        ));
    }
    Ok(key)
}
