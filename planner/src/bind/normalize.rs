//! Rewrites a query's tree so that DataFusion's planner sees only what it plans as Postgres would.
//!
//! Invariant: after normalising, every type-dependent construct is a node for the binder, every select item has a unique
//! name, and the branches of every set operation agree in their types.

use thalweg_catalog::SqlType;
use thalweg_sql::ast::{self, Expr, SelectItem, SetExpr};

use super::full_join::Merged;
use super::node::{Node, Nodes};
use crate::error::PlanError;
use crate::names::{SEPARATOR, fold, quoted};
use crate::registry::Registry;
use crate::types::unify;

type Result<T> = std::result::Result<T, PlanError>;

/// Plans a normalised query to learn the types of its columns; [`SqlType::Unknown`] for bare literals.
pub(crate) trait Trial {
    /// The columns' names and types, or `None` when the query cannot be planned on its own.
    fn columns(&self, query: &ast::Query) -> Option<Vec<(String, SqlType)>>;
}

/// Where in its query an expression stands.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Place {
    /// The clause, when neither aggregates nor window functions may stand in it.
    pub(crate) rows_only: Option<&'static str>,
    /// HAVING, where aggregates may stand but no window functions.
    pub(crate) having: bool,
    /// Inside an aggregate's arguments.
    pub(crate) aggregate: bool,
    /// Inside a window function's arguments.
    pub(crate) window: bool,
}

/// The state of normalising one statement.
pub(crate) struct Normalizer<'a> {
    pub(crate) nodes: &'a Nodes,
    pub(crate) registry: &'a Registry,
    pub(crate) trial: &'a dyn Trial,
    /// Normalised CTEs in scope, innermost last.
    pub(crate) ctes: Vec<ast::Cte>,
    /// Where the current expression stands.
    pub(crate) place: Place,
    /// Columns that FULL joins merged, per query, innermost last.
    pub(crate) merged: Vec<Merged>,
    /// Schema and table of every qualified relation met so far: `s.t.c` means `t.c` for these.
    pub(crate) qualified: Vec<(String, String)>,
    /// Parameters met directly in LIMIT and OFFSET, which are bigint.
    pub(crate) limit_parameters: Vec<usize>,
    /// Refuse WITH RECURSIVE.
    pub(crate) continuous: bool,
    /// Nesting of queries so far.
    pub(crate) depth: usize,
}

impl Normalizer<'_> {
    /// Normalises a query with everything inside it.
    pub(crate) fn query(&mut self, query: &mut ast::Query) -> Result<()> {
        self.depth += 1;
        if self.depth > crate::limits::QUERY_DEPTH_MAX {
            return Err(PlanError::new("54001", "query is nested too deeply"));
        }
        let scope = self.ctes.len();
        self.merged.push(Merged::default());
        let place = std::mem::take(&mut self.place);
        if let Some(with) = &mut query.with {
            if with.recursive && self.continuous && is_recursive(with) {
                return Err(PlanError::hint(
                    "0A000",
                    "WITH RECURSIVE is not supported in a continuous query",
                    "Run it ad hoc, or write the levels out as joins.",
                ));
            }
            for cte in &mut with.cte_tables {
                self.query(&mut cte.query)?;
                cte.materialized = None;
                self.ctes.push(cte.clone());
            }
        }
        if let Some(fetch) = query.fetch.take() {
            if fetch.with_ties || fetch.percent {
                return Err(PlanError::unsupported("FETCH FIRST ... WITH TIES"));
            }
            let limit = fetch.quantity.unwrap_or_else(|| {
                Expr::Value(ast::Value::Number("1".into(), false).with_empty_span())
            });
            match &mut query.limit_clause {
                Some(ast::LimitClause::LimitOffset { limit: slot, .. }) => *slot = Some(limit),
                other => {
                    *other = Some(ast::LimitClause::LimitOffset {
                        limit: Some(limit),
                        offset: None,
                        limit_by: vec![],
                    })
                }
            }
        }
        query.locks.clear();
        self.set_expr(&mut query.body)?;
        if self.depth == 1 {
            free_aliases(query);
        }
        let output = output_names(&query.body);
        if let Some(order_by) = &mut query.order_by
            && let ast::OrderByKind::Expressions(items) = &mut order_by.kind
        {
            for item in items {
                // An output column goes before a merged one.
                if matches!(&item.expr, Expr::Identifier(name) if output.contains(&fold(name))) {
                    continue;
                }
                self.ordinal_or_expr(&mut item.expr)?;
            }
        }
        self.limits(query)?;
        self.ctes.truncate(scope);
        self.merged.pop();
        self.place = place;
        self.depth -= 1;
        Ok(())
    }

    fn limits(&mut self, query: &mut ast::Query) -> Result<()> {
        if let Some(ast::LimitClause::LimitOffset { limit, offset, .. }) = &mut query.limit_clause {
            let sides = [
                (limit.as_mut(), limit_is_negative()),
                (offset.as_mut().map(|o| &mut o.value), offset_is_negative()),
            ];
            for (expr, negative) in sides {
                let Some(expr) = expr else { continue };
                if is_negative(expr) {
                    return Err(negative);
                }
                match &*expr {
                    Expr::Value(value) => {
                        if let ast::Value::Placeholder(name) = &value.value {
                            self.limit_parameters
                                .extend(name.trim_start_matches('$').parse::<usize>().ok());
                        }
                        if let ast::Value::SingleQuotedString(text) = &value.value {
                            let number = text.trim().to_owned();
                            *expr =
                                Expr::Value(ast::Value::Number(number, false).with_empty_span());
                        }
                    }
                    Expr::Cast { expr: inner, .. } if matches!(&**inner, Expr::Value(_)) => {
                        *expr = (**inner).clone()
                    }
                    _ => {}
                }
            }
        }
        Ok(())
    }

    /// Normalises all but a bare ordinal.
    pub(crate) fn ordinal_or_expr(&mut self, expr: &mut Expr) -> Result<()> {
        if matches!(expr, Expr::Value(v) if matches!(v.value, ast::Value::Number(..))) {
            return Ok(());
        }
        self.expr(expr)
    }

    pub(super) fn set_expr(&mut self, body: &mut SetExpr) -> Result<()> {
        match body {
            SetExpr::Select(select) => self.select(select),
            SetExpr::Query(query) => self.query(query),
            SetExpr::Values(values) => self.values(values),
            SetExpr::SetOperation { .. } => self.set_operation(body),
            SetExpr::Table(table) => {
                let name = match (&table.schema_name, &table.table_name) {
                    (Some(schema), Some(name)) => format!("{}.{}", quoted(schema), quoted(name)),
                    (None, Some(name)) => quoted(name.clone()).to_string(),
                    _ => return Err(PlanError::new("42601", "TABLE needs a name")),
                };
                let mut query = parsed(&format!("SELECT * FROM {name}"))?;
                self.query(&mut query)?;
                *body = *query.body;
                Ok(())
            }
            SetExpr::Insert(_) | SetExpr::Update(_) | SetExpr::Delete(_) | SetExpr::Merge(_) => {
                Err(PlanError::unsupported("a data-modifying statement in WITH"))
            }
        }
    }

    fn values(&mut self, values: &mut ast::Values) -> Result<()> {
        let width = values.rows.first().map_or(0, |row| row.content.len());
        if values.rows.iter().any(|row| row.content.len() != width) {
            return Err(PlanError::new(
                "42601",
                "VALUES lists must all be the same length",
            ));
        }
        for row in &mut values.rows {
            for cell in &mut row.content {
                self.expr(cell)?;
            }
        }
        for column in 0..width {
            let mut types = Vec::with_capacity(values.rows.len());
            for row in &values.rows {
                match self.cell_type(&row.content[column]) {
                    Some(ty) => types.push(ty),
                    None => return Ok(()),
                }
            }
            let agreed = unify(&types).map_err(|(a, b)| {
                PlanError::new(
                    "42804",
                    format!("VALUES types {a} and {b} cannot be matched"),
                )
            })?;
            for (row, ty) in values.rows.iter_mut().zip(types) {
                if ty != agreed {
                    let cell = row.content[column].clone();
                    row.content[column] = self.nodes.wrap(Node::Coerce(agreed.clone()), vec![cell]);
                }
            }
        }
        Ok(())
    }

    fn cell_type(&self, cell: &Expr) -> Option<SqlType> {
        if let Expr::Value(value) = cell {
            return match &value.value {
                ast::Value::Boolean(_) => Some(SqlType::Bool),
                ast::Value::Null | ast::Value::SingleQuotedString(_) => Some(SqlType::Unknown),
                _ => None,
            };
        }
        match self.nodes.of(cell) {
            Some(Node::Number(text)) => return Some(super::literal::number_type(&text)),
            Some(Node::Cast(ty) | Node::Assign { ty, .. } | Node::Coerce(ty)) => return Some(ty),
            Some(Node::Interval { .. }) => return Some(SqlType::Interval),
            _ => {}
        }
        let mut query = parsed("SELECT 1").ok()?;
        if let SetExpr::Select(select) = query.body.as_mut() {
            select.projection = vec![SelectItem::ExprWithAlias {
                expr: cell.clone(),
                alias: quoted("c"),
            }];
        }
        query.with = self
            .standalone(SetExpr::Values(ast::Values {
                explicit_row: false,
                value_keyword: false,
                rows: vec![],
            }))
            .with;
        self.trial.columns(&query)?.pop().map(|(_, ty)| ty)
    }

    fn select(&mut self, select: &mut ast::Select) -> Result<()> {
        if select.into.is_some() {
            return Err(PlanError::hint(
                "0A000",
                "SELECT INTO is not supported",
                "Use CREATE TABLE ... AS.",
            ));
        }
        for table in &mut select.from {
            self.table(table)?;
        }
        let merged = self.merged_joins(&mut select.from)?;
        self.written_out_with(merged, &mut select.projection);
        super::normalize_from::hoist_unnest(select);
        if let Some(expr) = &mut select.selection {
            self.condition(expr, "WHERE")?;
        }
        if let Some(expr) = &mut select.having {
            self.place.having = true;
            self.boolean(expr, "HAVING")?;
            self.place.having = false;
        }
        if let Some(expr) = &mut select.qualify {
            self.expr(expr)?;
        }
        if let Some(ast::Distinct::On(exprs)) = &mut select.distinct {
            for expr in exprs {
                self.ordinal_or_expr(expr)?;
            }
        }
        if let ast::GroupByExpr::Expressions(exprs, _) = &mut select.group_by {
            self.place.rows_only = Some("GROUP BY");
            for expr in exprs.iter_mut() {
                if let Expr::Tuple(items) = expr
                    && items.is_empty()
                {
                    *expr = Expr::GroupingSets(vec![vec![]]);
                }
                self.group(expr, &select.projection)?;
            }
            self.place.rows_only = None;
        }
        for window in &mut select.named_window {
            if let ast::NamedWindowExpr::WindowSpec(spec) = &mut window.1 {
                self.window(spec)?;
            }
        }
        self.projection(&mut select.projection)
    }

    fn group(&mut self, expr: &mut Expr, projection: &[SelectItem]) -> Result<()> {
        match expr {
            Expr::GroupingSets(sets) | Expr::Cube(sets) | Expr::Rollup(sets) => {
                for item in sets.iter_mut().flatten() {
                    if let Some(selected) = ordinal(item, projection)? {
                        *item = selected;
                    }
                    self.ordinal_or_expr(item)?;
                }
                Ok(())
            }
            Expr::Tuple(items) => {
                for item in items {
                    self.ordinal_or_expr(item)?;
                }
                Ok(())
            }
            other => self.ordinal_or_expr(other),
        }
    }

    /// Normalises a condition over single rows.
    pub(super) fn condition(&mut self, expr: &mut Expr, clause: &'static str) -> Result<()> {
        let before = self.place.rows_only.replace(clause);
        self.boolean(expr, clause)?;
        self.place.rows_only = before;
        Ok(())
    }

    /// Normalises what must be boolean, checked by the binder where its form does not show it.
    pub(super) fn boolean(&mut self, expr: &mut Expr, clause: &'static str) -> Result<()> {
        self.expr(expr)?;
        let open = match (&*expr, self.nodes.of(expr)) {
            (_, Some(node)) => matches!(
                node,
                Node::Number(_)
                    | Node::Function(_)
                    | Node::Case { .. }
                    | Node::Cast(_)
                    | Node::Unary(_)
                    | Node::Array
                    | Node::Index
                    | Node::Field(_)
                    | Node::Interval { .. }
                    | Node::Parameter(_)
            ),
            (Expr::BinaryOp { op, .. }, None) => {
                use ast::BinaryOperator as Op;
                matches!(
                    op,
                    Op::Plus
                        | Op::Minus
                        | Op::Multiply
                        | Op::Divide
                        | Op::Modulo
                        | Op::StringConcat
                )
            }
            (Expr::Value(value), None) => !matches!(value.value, ast::Value::Boolean(_)),
            (Expr::Identifier(_) | Expr::CompoundIdentifier(_) | Expr::Function(_), None) => true,
            _ => false,
        };
        if open {
            *expr = self.nodes.wrap(Node::Condition(clause), vec![expr.clone()]);
        }
        Ok(())
    }

    fn projection(&mut self, items: &mut [SelectItem]) -> Result<()> {
        let wildcard = items.iter().any(|i| {
            matches!(
                i,
                SelectItem::Wildcard(_) | SelectItem::QualifiedWildcard(..)
            )
        });
        let mut used: Vec<String> = Vec::new();
        for (at, item) in items.iter_mut().enumerate() {
            let (mut expr, name, aliased) = match item {
                SelectItem::UnnamedExpr(expr) => {
                    let name = thalweg_sql::column_name(expr);
                    (expr.clone(), name, false)
                }
                SelectItem::ExprWithAlias { expr, alias } => (expr.clone(), fold(alias), true),
                SelectItem::QualifiedWildcard(
                    ast::SelectItemQualifiedWildcardKind::ObjectName(name),
                    _,
                ) => {
                    self.strip_schema(name);
                    continue;
                }
                SelectItem::QualifiedWildcard(ast::SelectItemQualifiedWildcardKind::Expr(_), _) => {
                    return Err(PlanError::unsupported("(expression).*"));
                }
                SelectItem::ExprWithAliases { .. } => {
                    return Err(PlanError::unsupported("several aliases of one item"));
                }
                SelectItem::Wildcard(_) => continue,
            };
            let column = |e: &Expr| matches!(e, Expr::Identifier(_) | Expr::CompoundIdentifier(_));
            let plain = column(&expr);
            self.expr(&mut expr)?;
            let column = plain && column(&expr);
            let repeated = used.contains(&name) || (wildcard && column && !aliased);
            used.push(name.clone());
            *item = if column && !aliased && !repeated {
                SelectItem::UnnamedExpr(expr)
            } else {
                let alias = if repeated {
                    quoted(format!("{name}{SEPARATOR}{at}"))
                } else {
                    quoted(name)
                };
                SelectItem::ExprWithAlias { expr, alias }
            };
        }
        Ok(())
    }

    /// Turns `schema.table` into `table` when that relation is in the statement.
    pub(crate) fn strip_schema(&self, name: &mut ast::ObjectName) {
        let parts: Vec<String> = name
            .0
            .iter()
            .filter_map(|p| p.as_ident())
            .map(fold)
            .collect();
        if let [schema, table] = parts.as_slice()
            && self
                .qualified
                .iter()
                .any(|(s, t)| s == schema && t == table)
        {
            name.0.remove(0);
        }
    }
}

/// Renames output columns that share their name with a column that ORDER BY names with its table: `g` and `groups.g` are
/// different names in Postgres, and ambiguous to DataFusion. Only for the outermost query, whose names nobody refers to.
fn free_aliases(query: &mut ast::Query) {
    let (Some(order_by), SetExpr::Select(select)) = (&mut query.order_by, query.body.as_mut())
    else {
        return;
    };
    let ast::OrderByKind::Expressions(keys) = &mut order_by.kind else {
        return;
    };
    let mut named: Vec<String> = Vec::new();
    for key in keys.iter() {
        let _: std::ops::ControlFlow<()> = ast::visit_expressions(&key.expr, |e| {
            if let Expr::CompoundIdentifier(parts) = e {
                named.extend(parts.last().map(fold));
            }
            std::ops::ControlFlow::Continue(())
        });
    }
    for (at, item) in select.projection.iter_mut().enumerate() {
        let SelectItem::ExprWithAlias { alias, .. } = item else {
            continue;
        };
        let name = fold(alias);
        if !named.contains(&name) {
            continue;
        }
        let free = quoted(format!("{name}{SEPARATOR}o{at}"));
        for key in keys.iter_mut() {
            if matches!(&key.expr, Expr::Identifier(ident) if fold(ident) == name) {
                key.expr = Expr::Identifier(free.clone());
            }
        }
        *alias = free;
    }
}

/// `LIMIT -1`
pub(crate) fn limit_is_negative() -> PlanError {
    PlanError::new("2201W", "LIMIT must not be negative")
}

/// `OFFSET -1`
pub(crate) fn offset_is_negative() -> PlanError {
    PlanError::new("2201X", "OFFSET must not be negative")
}

fn is_negative(expr: &Expr) -> bool {
    match expr {
        Expr::UnaryOp {
            op: ast::UnaryOperator::Minus,
            expr,
        } => {
            matches!(&**expr, Expr::Value(v) if matches!(&v.value, ast::Value::Number(n, _) if n.bytes().any(|b| (b'1'..=b'9').contains(&b))))
        }
        Expr::Value(v) => {
            matches!(&v.value, ast::Value::SingleQuotedString(s) if s.trim().starts_with('-'))
        }
        Expr::Cast { expr, .. } | Expr::Nested(expr) => is_negative(expr),
        _ => false,
    }
}

/// Names of the columns that a SELECT gives.
fn output_names(body: &SetExpr) -> Vec<String> {
    let SetExpr::Select(select) = body else {
        return Vec::new();
    };
    select
        .projection
        .iter()
        .filter_map(|item| match item {
            SelectItem::ExprWithAlias { alias, .. } => Some(fold(alias)),
            _ => None,
        })
        .collect()
}

/// The select item that a bare number in a grouping set stands for.
fn ordinal(expr: &Expr, projection: &[SelectItem]) -> Result<Option<Expr>> {
    let Expr::Value(value) = expr else {
        return Ok(None);
    };
    let ast::Value::Number(number, _) = &value.value else {
        return Ok(None);
    };
    let at = number.parse::<usize>().ok().and_then(|n| n.checked_sub(1));
    match at.and_then(|at| projection.get(at)) {
        Some(SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. }) => {
            Ok(Some(expr.clone()))
        }
        _ => Err(PlanError::new(
            "42P10",
            format!("GROUP BY position {number} is not in select list"),
        )),
    }
}

fn is_recursive(with: &ast::With) -> bool {
    with.cte_tables.iter().any(|cte| {
        let name = fold(&cte.alias.name);
        let found: std::ops::ControlFlow<()> = ast::visit_relations(&cte.query, |relation| {
            if relation.0.len() == 1 && crate::names::last_part(relation) == name {
                std::ops::ControlFlow::Break(())
            } else {
                std::ops::ControlFlow::Continue(())
            }
        });
        found.is_break()
    })
}

/// A bare query around a body.
pub(crate) fn query_of(with: Option<ast::With>, body: SetExpr) -> ast::Query {
    ast::Query {
        with,
        body: Box::new(body),
        order_by: None,
        limit_clause: None,
        fetch: None,
        locks: vec![],
        for_clause: None,
        settings: None,
        format_clause: None,
        pipe_operators: vec![],
    }
}

/// A query from a template of ours.
pub(crate) fn parsed(text: &str) -> Result<ast::Query> {
    thalweg_sql::parse_query(text)
        .map(|q| *q)
        .map_err(|e| PlanError::from(e.report()))
}
