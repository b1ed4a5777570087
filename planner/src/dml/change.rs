//! UPDATE and DELETE.
//!
//! Invariant: the input plan is an ordinary query over the table, so WHERE, FROM and USING mean what they mean in SELECT.

use thalweg_catalog::Relation;
use thalweg_sql::ast::{self, SelectItem, TableFactor};

use super::{column, default_of, is_default, returning, stored, target};
use crate::bind::node::Node;
use crate::bind::normalize::{parsed, query_of};
use crate::bind::provider::Session;
use crate::context::{DmlPlan, PlanContext};
use crate::error::PlanError;
use crate::names::{SEPARATOR, fold, last_part, quoted};
use crate::output;
use crate::planner::Planner;

type Result<T> = std::result::Result<T, PlanError>;

/// The target and the name it goes by.
fn written<'c>(
    cx: &'c PlanContext<'_>,
    factor: &TableFactor,
    verb: &str,
) -> Result<(&'c Relation, String)> {
    match factor {
        TableFactor::Table {
            name,
            alias,
            args: None,
            ..
        } => {
            let relation = target(cx, name, verb)?;
            let alias = alias
                .as_ref()
                .map_or_else(|| last_part(name), |a| fold(&a.name));
            Ok((relation, alias))
        }
        other => Err(PlanError::new("42601", format!("cannot {verb} {other}"))),
    }
}

pub(crate) fn update(
    planner: &Planner,
    cx: &PlanContext<'_>,
    update: &ast::Update,
) -> Result<DmlPlan> {
    if !update.table.joins.is_empty() || !update.order_by.is_empty() || update.limit.is_some() {
        return Err(PlanError::unsupported(
            "UPDATE with joins, ORDER BY or LIMIT",
        ));
    }
    let (relation, alias) = written(cx, &update.table.relation, "update")?;
    let from = match &update.from {
        Some(
            ast::UpdateTableFromKind::AfterSet(tables)
            | ast::UpdateTableFromKind::BeforeSet(tables),
        ) => tables.clone(),
        None => vec![],
    };
    let set = assignments(relation, &update.assignments)?;
    let ((input, returning), parameters) = planner.inferred(cx, false, |session| {
        let mut items: Vec<SelectItem> = old_columns(relation, &alias);
        for (at, own) in relation.columns.iter().enumerate() {
            let value = match (&own.generated, set.iter().find(|(i, _)| *i == at)) {
                (Some(_), Some(_)) => return Err(only_default(&own.name)),
                (Some(text), None) => substituted(stored(text)?, relation, &alias, &set),
                (None, Some((_, value))) => value.clone(),
                (None, None) => own_column(&alias, &own.name),
            };
            let expr = if matches!(value, ast::Expr::CompoundIdentifier(_)) {
                value
            } else {
                session.nodes.wrap(
                    Node::Assign {
                        ty: own.ty.clone(),
                        column: own.name.clone(),
                    },
                    vec![value],
                )
            };
            items.push(SelectItem::ExprWithAlias {
                expr,
                alias: quoted(format!("{}{SEPARATOR}new", own.name)),
            });
        }
        let mut tables = vec![update.table.clone()];
        tables.extend(from.clone());
        let plan = session.query(&select(items, tables, update.selection.clone())?)?;
        let returning = returning(
            planner,
            session,
            relation,
            &alias,
            update.returning.as_ref(),
        )?;
        Ok((shaped(planner, session, relation, plan, 2)?, returning))
    })?;
    Ok(DmlPlan::Update {
        table: relation.oid,
        reads: output::reads(&input),
        input,
        returning,
        parameters,
    })
}

pub(crate) fn delete(
    planner: &Planner,
    cx: &PlanContext<'_>,
    delete: &ast::Delete,
) -> Result<DmlPlan> {
    let (ast::FromTable::WithFromKeyword(tables) | ast::FromTable::WithoutKeyword(tables)) =
        &delete.from;
    let [table] = tables.as_slice() else {
        return Err(PlanError::new("42601", "DELETE takes one table"));
    };
    if !table.joins.is_empty() || !delete.order_by.is_empty() || delete.limit.is_some() {
        return Err(PlanError::unsupported(
            "DELETE with joins, ORDER BY or LIMIT",
        ));
    }
    let (relation, alias) = written(cx, &table.relation, "delete from")?;
    // A row that several rows of USING match is deleted once, so USING is a semijoin.
    let condition = match &delete.using {
        None => delete.selection.clone(),
        Some(using) => {
            let one = vec![SelectItem::ExprWithAlias {
                expr: ast::Expr::Value(ast::Value::Number("1".into(), false).with_empty_span()),
                alias: quoted("one"),
            }];
            let subquery = Box::new(select(one, using.clone(), delete.selection.clone())?);
            Some(ast::Expr::Exists {
                subquery,
                negated: false,
            })
        }
    };
    let ((input, returning), parameters) = planner.inferred(cx, false, |session| {
        let plan = session.query(&select(
            old_columns(relation, &alias),
            vec![table.clone()],
            condition.clone(),
        )?)?;
        let returning = returning(
            planner,
            session,
            relation,
            &alias,
            delete.returning.as_ref(),
        )?;
        Ok((shaped(planner, session, relation, plan, 1)?, returning))
    })?;
    Ok(DmlPlan::Delete {
        table: relation.oid,
        reads: output::reads(&input),
        input,
        returning,
        parameters,
    })
}

fn shaped(
    planner: &Planner,
    session: &Session<'_>,
    relation: &Relation,
    plan: datafusion::logical_expr::LogicalPlan,
    copies: usize,
) -> Result<datafusion::logical_expr::LogicalPlan> {
    if plan.schema().fields().len() != relation.columns.len() * copies {
        return Err(PlanError::new(
            "XX000",
            "a DML plan has the wrong number of columns",
        ));
    }
    planner.finish(session.cx, plan)
}

fn own_column(alias: &str, name: &str) -> ast::Expr {
    ast::Expr::CompoundIdentifier(vec![quoted(alias), quoted(name)])
}

fn old_columns(relation: &Relation, alias: &str) -> Vec<SelectItem> {
    relation
        .columns
        .iter()
        .map(|c| SelectItem::UnnamedExpr(own_column(alias, &c.name)))
        .collect()
}

fn select(
    items: Vec<SelectItem>,
    from: Vec<ast::TableWithJoins>,
    selection: Option<ast::Expr>,
) -> Result<ast::Query> {
    let template = parsed("SELECT 1")?;
    let ast::SetExpr::Select(mut select) = *template.body else {
        return Err(PlanError::new("XX000", "the template is not a SELECT"));
    };
    select.projection = items;
    select.from = from;
    select.selection = selection;
    Ok(query_of(None, ast::SetExpr::Select(select)))
}

/// Column positions with their new values, DEFAULT filled in.
pub(crate) fn assignments(
    relation: &Relation,
    list: &[ast::Assignment],
) -> Result<Vec<(usize, ast::Expr)>> {
    let mut out: Vec<(usize, ast::Expr)> = Vec::new();
    let mut set = |name: &ast::ObjectName, value: &ast::Expr| -> Result<()> {
        let name = last_part(name);
        let (at, own) = column(relation, &name)?;
        if out.iter().any(|(i, _)| *i == at) {
            return Err(PlanError::new(
                "42601",
                format!("multiple assignments to same column \"{name}\""),
            ));
        }
        if is_default(value) {
            if own.generated.is_none() {
                out.push((at, default_of(own)?));
            }
        } else {
            out.push((at, value.clone()));
        }
        Ok(())
    };
    for assignment in list {
        match (&assignment.target, &assignment.value) {
            (ast::AssignmentTarget::ColumnName(name), value) => set(name, value)?,
            (ast::AssignmentTarget::Tuple(names), ast::Expr::Tuple(values))
                if names.len() == values.len() =>
            {
                for (name, value) in names.iter().zip(values) {
                    set(name, value)?;
                }
            }
            (ast::AssignmentTarget::Tuple(names), ast::Expr::Nested(value)) if names.len() == 1 => {
                set(&names[0], value)?
            }
            (ast::AssignmentTarget::Tuple(_), ast::Expr::Subquery(_)) => {
                return Err(PlanError::unsupported(
                    "UPDATE ... SET (a, b) = (SELECT ...)",
                ));
            }
            _ => {
                return Err(PlanError::new(
                    "42601",
                    "number of columns does not match number of values",
                ));
            }
        }
    }
    Ok(out)
}

fn only_default(column: &str) -> PlanError {
    let mut report = crate::error::report(
        "428C9",
        format!("column \"{column}\" can only be updated to DEFAULT"),
    );
    report.detail = Some(format!("Column \"{column}\" is a generated column."));
    report.into()
}

/// Assignments together with those of the generated columns, which follow from them.
pub(crate) fn with_generated(
    relation: &Relation,
    alias: &str,
    set: Vec<(usize, ast::Expr)>,
) -> Result<Vec<(usize, ast::Expr)>> {
    let mut out = set.clone();
    for (at, column) in relation.columns.iter().enumerate() {
        let Some(text) = &column.generated else {
            continue;
        };
        if set.iter().any(|(i, _)| *i == at) {
            return Err(only_default(&column.name));
        }
        out.push((at, substituted(stored(text)?, relation, alias, &set)));
    }
    Ok(out)
}

/// A generated column's expression over the new row.
fn substituted(
    mut expr: ast::Expr,
    relation: &Relation,
    alias: &str,
    set: &[(usize, ast::Expr)],
) -> ast::Expr {
    let _: std::ops::ControlFlow<()> = ast::visit_expressions_mut(&mut expr, |e| {
        if let ast::Expr::Identifier(ident) = e {
            let name = fold(ident);
            if let Some(at) = relation.columns.iter().position(|c| c.name == name) {
                *e = match set.iter().find(|(i, _)| *i == at) {
                    Some((_, value)) => ast::Expr::Cast {
                        kind: ast::CastKind::Cast,
                        expr: Box::new(value.clone()),
                        data_type: ast_type(&relation.columns[at].ty),
                        array: false,
                        format: None,
                    },
                    None => own_column(alias, &name),
                };
            }
        }
        std::ops::ControlFlow::Continue(())
    });
    expr
}

fn ast_type(ty: &thalweg_catalog::SqlType) -> ast::DataType {
    let text = format!("CAST(NULL AS {ty})");
    match thalweg_sql::parse_expr(&text) {
        Ok(ast::Expr::Cast { data_type, .. }) => data_type,
        _ => ast::DataType::Text,
    }
}
