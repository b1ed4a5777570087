//! INSERT, UPDATE and DELETE as plans for the engine, and the expressions stored with tables.
//!
//! Invariant: a value reaches a column only through the assignment conversion of that column's type.

pub(crate) mod change;
pub(crate) mod insert;

use std::sync::Arc;

use datafusion::common::{DFSchema, DFSchemaRef, TableReference};
use datafusion::logical_expr::{EmptyRelation, Expr, LogicalPlan, LogicalPlanBuilder};
use datafusion::sql::planner::PlannerContext;
use thalweg_catalog::{Column, Relation, RelationKind, SqlType};
use thalweg_sql::ast;

use crate::bind::binder::Parameters;
use crate::bind::node::Node;
use crate::bind::provider::{Session, scan_schema};
use crate::context::{PlanContext, Returning};
use crate::error::PlanError;
use crate::names::{SEPARATOR, fold};
use crate::output;
use crate::planner::Planner;

type Result<T> = std::result::Result<T, PlanError>;

/// The table a statement writes to.
pub(crate) fn target<'c>(
    cx: &'c PlanContext<'_>,
    name: &ast::ObjectName,
    verb: &str,
) -> Result<&'c Relation> {
    let relation = cx
        .catalog
        .resolve(cx.search_path, name)
        .map_err(|e| PlanError::from(e.report()))?;
    let what = match &relation.kind {
        RelationKind::Table | RelationKind::External(_) => return Ok(relation),
        RelationKind::Archive(spec) if verb == "insert into" => match &spec.feed {
            None => return Ok(relation),
            Some(_) => {
                return Err(PlanError::hint(
                    "42809",
                    format!("cannot insert into archive \"{}\"", relation.name),
                    "It is filled by what FROM names. Insert there, or into an archive of its own."
                        .to_owned(),
                ));
            }
        },
        RelationKind::Archive(_) => {
            return Err(PlanError::hint(
                "0A000",
                format!("cannot {verb} archive \"{}\"", relation.name),
                "An archive is history: rows are added to it and stay as they are.".to_owned(),
            ));
        }
        RelationKind::Source(_) => "source",
        RelationKind::View { .. } => "view",
        RelationKind::MaterializedView { .. } => "materialized view",
        RelationKind::Sink(_) => "sink",
        RelationKind::Errors { .. } => "errors relation",
    };
    Err(PlanError::new(
        "42809",
        format!("cannot {verb} {what} \"{}\"", relation.name),
    ))
}

/// A column of the target, or 42703.
pub(crate) fn column<'r>(relation: &'r Relation, name: &str) -> Result<(usize, &'r Column)> {
    relation
        .columns
        .iter()
        .enumerate()
        .find(|(_, c)| c.name == name)
        .ok_or_else(|| {
            let names: Vec<&str> = relation.columns.iter().map(|c| c.name.as_str()).collect();
            let message = format!(
                "column \"{name}\" of relation \"{}\" does not exist",
                relation.name
            );
            match crate::names::nearest(name, &names) {
                Some(near) => PlanError::hint(
                    "42703",
                    message,
                    format!(
                        "Perhaps you meant to reference the column \"{}.{near}\".",
                        relation.name
                    ),
                ),
                None => PlanError::new("42703", message),
            }
        })
}

/// True for the keyword DEFAULT in place of an expression.
pub(crate) fn is_default(expr: &ast::Expr) -> bool {
    matches!(expr, ast::Expr::Identifier(ident) if ident.quote_style.is_none() && ident.value.eq_ignore_ascii_case("default"))
}

/// A stored expression's tree.
pub(crate) fn stored(text: &str) -> Result<ast::Expr> {
    thalweg_sql::parse_expr(text).map_err(|e| PlanError::from(e.report()))
}

/// What an unlisted column or DEFAULT gets: its default, or NULL. Generated columns are filled later.
pub(crate) fn default_of(column: &Column) -> Result<ast::Expr> {
    match &column.default {
        Some(text) => stored(text),
        None => Ok(ast::Expr::Value(ast::Value::Null.with_empty_span())),
    }
}

/// The columns of a relation as a schema, under a name.
pub(crate) fn qualified(columns: &[Column], name: &str) -> Result<DFSchema> {
    Ok(DFSchema::try_from_qualified_schema(
        TableReference::bare(name),
        &scan_schema(columns),
    )?)
}

/// Binds expressions over a schema; an entry with a column is assigned to it.
pub(crate) fn bind(
    planner: &Planner,
    session: &Session<'_>,
    schema: &DFSchemaRef,
    exprs: Vec<(ast::Expr, Option<(SqlType, String)>)>,
) -> Result<Vec<Expr>> {
    let mut bound = Vec::with_capacity(exprs.len());
    for (i, (expr, target)) in exprs.into_iter().enumerate() {
        let mut expr = match target {
            Some((ty, column)) => session.nodes.wrap(Node::Assign { ty, column }, vec![expr]),
            None => expr,
        };
        session.normalizer().expr(&mut expr)?;
        let expr = session
            .sql_to_rel()
            .sql_to_expr(expr, schema, &mut PlannerContext::new())
            .map_err(|e| session.located(&e))?;
        bound.push(expr.alias(format!("e{SEPARATOR}{i}")));
    }
    let empty = LogicalPlan::EmptyRelation(EmptyRelation {
        produce_one_row: false,
        schema: Arc::clone(schema),
    });
    let plan = LogicalPlanBuilder::from(empty)
        .project(bound)
        .and_then(|b| b.build())
        .map_err(|e| session.located(&e))?;
    match planner.finish(session.cx, plan)? {
        LogicalPlan::Projection(projection) => Ok(projection.expr.into_iter().map(bare).collect()),
        other => Err(PlanError::new(
            "XX000",
            format!("expressions became {}", other.display()),
        )),
    }
}

fn bare(expr: Expr) -> Expr {
    match expr {
        Expr::Alias(alias) if alias.name.starts_with(&format!("e{SEPARATOR}")) => *alias.expr,
        other => other,
    }
}

/// DEFAULT, generated column and CHECK expressions.
pub(crate) fn column_expr(
    planner: &Planner,
    cx: &PlanContext<'_>,
    columns: &[Column],
    expr: &ast::Expr,
    ty: &SqlType,
) -> Result<Expr> {
    let session = Session::new(
        cx,
        &planner.registry,
        Arc::new(Parameters::default()),
        false,
    );
    let schema = Arc::new(DFSchema::try_from(scan_schema(columns))?);
    let target = Some((ty.clone(), "?column?".to_owned()));
    let mut bound = bind(planner, &session, &schema, vec![(expr.clone(), target)])?;
    bound
        .pop()
        .ok_or_else(|| PlanError::new("XX000", "the expression disappeared"))
}

/// RETURNING over the table's columns.
pub(crate) fn returning(
    planner: &Planner,
    session: &Session<'_>,
    relation: &Relation,
    alias: &str,
    items: Option<&Vec<ast::SelectItem>>,
) -> Result<Option<Returning>> {
    let Some(items) = items else { return Ok(None) };
    let schema = Arc::new(qualified(&relation.columns, alias)?);
    let (mut exprs, mut names) = (Vec::new(), Vec::new());
    for item in items {
        match item {
            ast::SelectItem::Wildcard(_) | ast::SelectItem::QualifiedWildcard(..) => {
                for column in &relation.columns {
                    exprs.push((
                        ast::Expr::Identifier(crate::names::quoted(&column.name)),
                        None,
                    ));
                    names.push(column.name.clone());
                }
            }
            ast::SelectItem::UnnamedExpr(expr) => {
                exprs.push((expr.clone(), None));
                names.push(thalweg_sql::column_name(expr));
            }
            ast::SelectItem::ExprWithAlias { expr, alias } => {
                exprs.push((expr.clone(), None));
                names.push(fold(alias));
            }
            ast::SelectItem::ExprWithAliases { .. } => {
                return Err(PlanError::unsupported("several aliases of one item"));
            }
        }
    }
    let exprs = bind(planner, session, &schema, exprs)?;
    let aliased = exprs
        .iter()
        .enumerate()
        .map(|(i, e)| e.clone().alias(format!("e{SEPARATOR}{i}")));
    let empty = LogicalPlan::EmptyRelation(EmptyRelation {
        produce_one_row: false,
        schema: Arc::clone(&schema),
    });
    let plan = LogicalPlanBuilder::from(empty).project(aliased)?.build()?;
    let mut columns = output::columns(&plan);
    for ((column, name), expr) in columns.iter_mut().zip(names).zip(&exprs) {
        column.name = name;
        if let Expr::Column(c) = expr
            && let Some(own) = relation.columns.iter().find(|r| r.name == c.name)
        {
            column.origin = Some((relation.oid, own.attnum));
        }
    }
    Ok(Some(Returning {
        exprs,
        output: columns,
        schema,
    }))
}
