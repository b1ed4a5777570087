//! Function calls: scalar calls become nodes, aggregates and window functions stay calls with normalised arguments.
//!
//! Invariant: DISTINCT, FILTER and OVER reach only functions that can have them.

use thalweg_sql::ast::{self, Expr, FunctionArg, FunctionArgExpr, FunctionArguments};

use super::node::{Node, call};
use super::normalize::Normalizer;
use crate::error::PlanError;
use crate::names::{fold, last_part, quoted};

type Result<T> = std::result::Result<T, PlanError>;

/// Functions that give several rows; in a select list they are unnested lists.
pub(crate) const SET_RETURNING: &[&str] = &[
    "generate_series",
    "generate_subscripts",
    "jsonb_array_elements",
    "json_array_elements",
    "jsonb_array_elements_text",
    "json_array_elements_text",
    "jsonb_object_keys",
    "json_object_keys",
    "string_to_table",
    "regexp_split_to_table",
];

/// Aggregates that gather JSON: the function that makes their result of an array of what they gather.
const JSON_AGGREGATES: &[(&str, &str)] = &[
    ("json_agg", "json_array_of"),
    ("jsonb_agg", "to_jsonb"),
    ("json_object_agg", "json_object_of"),
    ("jsonb_object_agg", "jsonb_object_of"),
];

/// Aggregates that pick one of their values by its place.
const ORDERED_SET: &[&str] = &["mode", "percentile_disc"];

/// Aggregates whose number arguments DataFusion wants as plain literals.
const LITERAL_ARGUMENTS: &[&str] = &[
    "percentile_cont",
    "quantile_cont",
    "approx_percentile_cont",
    "approx_percentile_cont_with_weight",
];

/// Aggregates that DataFusion would also call with more arguments.
const ONE_ARGUMENT: &[&str] = &[
    "count",
    "min",
    "max",
    "sum",
    "avg",
    "bool_and",
    "bool_or",
    "every",
    "array_agg",
];

impl Normalizer<'_> {
    pub(super) fn call(&mut self, mut function: ast::Function) -> Result<Expr> {
        let name = last_part(&function.name);
        let row_wise = function.over.is_none()
            && function.filter.is_none()
            && function.within_group.is_empty();
        let (plain, args) = match &function.args {
            FunctionArguments::None => (true, Vec::new()),
            FunctionArguments::List(list) => {
                let plain = list.duplicate_treatment.is_none() && list.clauses.is_empty();
                let exprs: Option<Vec<Expr>> = list
                    .args
                    .iter()
                    .map(|arg| match arg {
                        FunctionArg::Unnamed(FunctionArgExpr::Expr(e)) => Some(e.clone()),
                        _ => None,
                    })
                    .collect();
                match exprs {
                    Some(exprs) => (plain, exprs),
                    None => (false, Vec::new()),
                }
            }
            // ARRAY(SELECT x ...): the subquery's column as one list.
            FunctionArguments::Subquery(query) if name == "array" => {
                return self.array_subquery(query);
            }
            FunctionArguments::Subquery(_) => {
                return Err(PlanError::unsupported(format!("{name}(SELECT ...)")));
            }
        };
        function.name.0 = function
            .name
            .0
            .split_off(function.name.0.len().saturating_sub(1));
        if let Some((_, finish)) = JSON_AGGREGATES.iter().find(|(one, _)| *one == name) {
            return self.json_aggregate(&name, finish, function);
        }
        if ORDERED_SET.contains(&name.as_str()) {
            return self.ordered_set(&name, args, function);
        }
        if SET_RETURNING.contains(&name.as_str()) && row_wise && plain {
            let list = self.function(&name, args)?;
            return Ok(call("unnest", vec![list]));
        }
        if name == super::node::PACK {
            // A node that a caller has already made: only its operands are left to normalise.
            self.native_call(&name, &mut function)?;
            return Ok(Expr::Function(function));
        }
        let native = self.registry.is_aggregate(&name)
            || self.registry.is_window(&name)
            || name == "unnest"
            || name == "grouping";
        if !native && row_wise && plain {
            return self.function(&name, args);
        }
        if !native {
            return Err(self.not_an_aggregate(&name, &function));
        }
        if ONE_ARGUMENT.contains(&name.as_str()) && args.len() > 1 {
            return Err(self.registry.unknown_function(&name, None));
        }
        let gathers = self.registry.is_aggregate(&name) || function.over.is_some();
        let before = self.place;
        if gathers {
            self.enter(function.over.is_some())?;
        }
        self.native_call(&name, &mut function)?;
        self.place = before;
        Ok(Expr::Function(function))
    }

    /// An aggregate that gathers JSON is `array_agg`, which can do all that aggregates can, and a function of its array.
    fn json_aggregate(
        &mut self,
        name: &str,
        finish: &str,
        mut function: ast::Function,
    ) -> Result<Expr> {
        let unknown = self.registry.unknown_function(name, None);
        let FunctionArguments::List(list) = &mut function.args else {
            return Err(unknown);
        };
        match (name, list.args.as_slice()) {
            ("json_agg" | "jsonb_agg", [_]) => {}
            (
                "json_object_agg" | "jsonb_object_agg",
                [
                    FunctionArg::Unnamed(FunctionArgExpr::Expr(key)),
                    FunctionArg::Unnamed(FunctionArgExpr::Expr(value)),
                ],
            ) => {
                let build = match name {
                    "json_object_agg" => "json_build_object",
                    _ => "jsonb_build_object",
                };
                let pair = call(build, vec![key.clone(), value.clone()]);
                list.args = vec![FunctionArg::Unnamed(FunctionArgExpr::Expr(pair))];
            }
            _ => return Err(unknown),
        }
        function.name = ast::ObjectName::from(vec![quoted("array_agg")]);
        let list = self.call(function)?;
        let finish = Node::Function(finish.to_owned());
        Ok(self.nodes.wrap(finish, vec![list]))
    }

    /// An aggregate WITHIN GROUP is the sorted `array_agg` and a function of it and of the aggregate's own arguments.
    fn ordered_set(
        &mut self,
        name: &str,
        mut direct: Vec<Expr>,
        mut function: ast::Function,
    ) -> Result<Expr> {
        let within = std::mem::take(&mut function.within_group);
        let [key] = within.as_slice() else {
            return Err(match within.is_empty() {
                true => PlanError::new(
                    "42809",
                    format!("WITHIN GROUP is required for ordered-set aggregate {name}"),
                ),
                false => self.registry.unknown_function(name, None),
            });
        };
        if direct.len() != usize::from(name == "percentile_disc") {
            return Err(self.registry.unknown_function(name, None));
        }
        if function.over.is_some() {
            let message = format!("OVER with ordered-set aggregate {name}");
            return Err(PlanError::unsupported(message));
        }
        if let FunctionArguments::List(list) = &mut function.args {
            list.args = vec![FunctionArg::Unnamed(FunctionArgExpr::Expr(
                key.expr.clone(),
            ))];
            list.clauses = vec![ast::FunctionArgumentClause::OrderBy(vec![key.clone()])];
        }
        function.name = ast::ObjectName::from(vec![quoted("array_agg")]);
        let list = self.call(function)?;
        for argument in &mut direct {
            self.expr(argument)?;
        }
        direct.insert(0, list);
        let finish = Node::Function(name.to_owned());
        Ok(self.nodes.wrap(finish, direct))
    }

    /// Checks that an aggregate or a window function may stand here, and notes that its arguments follow.
    fn enter(&mut self, over: bool) -> Result<()> {
        let place = self.place;
        let refused = |state: &'static str, message: String| Err(PlanError::new(state, message));
        let clause = match place.rows_only {
            Some("JOIN/ON") => Some("JOIN conditions"),
            other => other,
        };
        match (over, clause) {
            (true, Some(clause)) => {
                return refused(
                    "42P20",
                    format!("window functions are not allowed in {clause}"),
                );
            }
            (true, None) if place.having => {
                return refused(
                    "42P20",
                    "window functions are not allowed in HAVING".to_owned(),
                );
            }
            (true, None) if place.window => {
                return refused("42P20", "window function calls cannot be nested".to_owned());
            }
            (true, None) if place.aggregate => {
                let message = "aggregate function calls cannot contain window function calls";
                return refused("42803", message.to_owned());
            }
            (false, Some(clause)) => {
                return refused(
                    "42803",
                    format!("aggregate functions are not allowed in {clause}"),
                );
            }
            (false, None) if place.aggregate => {
                return refused(
                    "42803",
                    "aggregate function calls cannot be nested".to_owned(),
                );
            }
            _ => {}
        }
        if over {
            self.place.window = true;
        } else {
            self.place.aggregate = true;
        }
        Ok(())
    }

    /// DISTINCT, FILTER or OVER with a scalar function.
    fn not_an_aggregate(&self, name: &str, function: &ast::Function) -> PlanError {
        let known = self.registry.scalar(name).is_some()
            || crate::functions::OWN_NAMES.contains(&name)
            || SET_RETURNING.contains(&name);
        if !known {
            return self.registry.unknown_function(name, None);
        }
        let distinct =
            matches!(&function.args, FunctionArguments::List(l) if l.duplicate_treatment.is_some());
        let message = if function.over.is_some() {
            format!("OVER specified, but {name} is not a window function nor an aggregate function")
        } else if distinct {
            format!("DISTINCT specified, but {name} is not an aggregate function")
        } else if function.filter.is_some() {
            format!("FILTER specified, but {name} is not an aggregate function")
        } else {
            format!("ORDER BY specified, but {name} is not an aggregate function")
        };
        PlanError::new("42809", message)
    }

    fn native_call(&mut self, name: &str, function: &mut ast::Function) -> Result<()> {
        let window_only = self.registry.is_window(name) && !self.registry.is_aggregate(name);
        if let FunctionArguments::List(list) = &mut function.args {
            for (at, arg) in list.args.iter_mut().enumerate() {
                // Offsets and percentiles must reach DataFusion as literals.
                let literal = (window_only && (at > 0 || name == "ntile"))
                    || LITERAL_ARGUMENTS.contains(&name);
                if let FunctionArg::Unnamed(FunctionArgExpr::Expr(e)) = arg
                    && !(literal && matches!(e, Expr::Value(_)))
                {
                    self.expr(e)?;
                }
            }
            for clause in &mut list.clauses {
                if let ast::FunctionArgumentClause::OrderBy(items) = clause {
                    for item in items {
                        self.expr(&mut item.expr)?;
                    }
                }
            }
        }
        if let Some(filter) = &mut function.filter {
            self.boolean(filter, "FILTER")?;
        }
        for item in &mut function.within_group {
            self.expr(&mut item.expr)?;
        }
        if let Some(ast::WindowType::WindowSpec(spec)) = &mut function.over {
            self.window(spec)?;
        }
        Ok(())
    }

    /// Normalises a window's keys; frame bounds stay literals.
    pub(crate) fn window(&mut self, spec: &mut ast::WindowSpec) -> Result<()> {
        for expr in &mut spec.partition_by {
            self.expr(expr)?;
        }
        for item in &mut spec.order_by {
            self.expr(&mut item.expr)?;
        }
        Ok(())
    }

    /// ARRAY(SELECT x ... ORDER BY y): the keys become columns beside the item, because only the aggregate's own ORDER BY
    /// orders a list.
    fn array_subquery(&mut self, query: &ast::Query) -> Result<Expr> {
        if let Some(outer) = self.aggregated(query) {
            return self.list_of(outer);
        }
        let mut inner = query.clone();
        let (mut columns, mut keys) = (vec!["item".to_owned()], Vec::new());
        if let Some(order_by) = &query.order_by
            && let ast::OrderByKind::Expressions(items) = &order_by.kind
        {
            for (at, item) in items.iter().enumerate() {
                let name = format!("thalweg_key{at}");
                let mut key = item.clone();
                key.expr = Expr::Identifier(quoted("item"));
                if let Some(select) = extensible(&mut inner, &item.expr) {
                    select.projection.push(ast::SelectItem::ExprWithAlias {
                        expr: item.expr.clone(),
                        alias: quoted(&name),
                    });
                    key.expr = Expr::Identifier(quoted(&name));
                    columns.push(name);
                }
                keys.push(key.to_string());
            }
        }
        let order = if keys.is_empty() {
            String::new()
        } else {
            format!(" ORDER BY {}", keys.join(", "))
        };
        let text = format!(
            "SELECT array_agg(item{order}) FROM (SELECT 1) AS list({})",
            columns.join(", ")
        );
        let mut outer = super::normalize::parsed(&text)?;
        if let ast::SetExpr::Select(select) = outer.body.as_mut()
            && let Some(ast::TableFactor::Derived { subquery, .. }) =
                select.from.first_mut().map(|f| &mut f.relation)
        {
            **subquery = inner;
        }
        self.list_of(outer)
    }

    /// The subquery itself with its item aggregated, where nothing in it depends on its rows staying rows. A derived table
    /// around a correlated subquery is more than DataFusion can take apart.
    fn aggregated(&self, query: &ast::Query) -> Option<ast::Query> {
        let ast::SetExpr::Select(select) = query.body.as_ref() else {
            return None;
        };
        let [item] = select.projection.as_slice() else {
            return None;
        };
        let (item, name) = match item {
            ast::SelectItem::UnnamedExpr(expr) => (expr, thalweg_sql::column_name(expr)),
            ast::SelectItem::ExprWithAlias { expr, alias } => (expr, fold(alias)),
            _ => return None,
        };
        let grouped = !matches!(&select.group_by, ast::GroupByExpr::Expressions(e, m) if e.is_empty() && m.is_empty());
        if query.with.is_some()
            || query.limit_clause.is_some()
            || query.fetch.is_some()
            || select.distinct.is_some()
            || select.having.is_some()
            || grouped
            || self.gathers(item)
        {
            return None;
        }
        let mut keys = Vec::new();
        if let Some(order_by) = &query.order_by {
            let ast::OrderByKind::Expressions(items) = &order_by.kind else {
                return None;
            };
            for key in items {
                let mut key = key.clone();
                let own = match &key.expr {
                    Expr::Value(_) => true,
                    Expr::Identifier(ident) => fold(ident) == name,
                    other => {
                        if self.gathers(other) {
                            return None;
                        }
                        false
                    }
                };
                if own {
                    key.expr = item.clone();
                }
                keys.push(key);
            }
        }
        let mut list = call("array_agg", vec![item.clone()]);
        if let Expr::Function(function) = &mut list
            && let FunctionArguments::List(arguments) = &mut function.args
            && !keys.is_empty()
        {
            arguments.clauses = vec![ast::FunctionArgumentClause::OrderBy(keys)];
        }
        let mut outer = query.clone();
        outer.order_by = None;
        if let ast::SetExpr::Select(select) = outer.body.as_mut() {
            select.projection = vec![ast::SelectItem::UnnamedExpr(list)];
        }
        Some(outer)
    }

    /// True for an expression with an aggregate, a window function or a set-returning function in it.
    fn gathers(&self, expr: &Expr) -> bool {
        let found: std::ops::ControlFlow<()> = ast::visit_expressions(expr, |e| match e {
            Expr::Function(f) => {
                let name = last_part(&f.name);
                let special = f.over.is_some()
                    || name == "unnest"
                    || self.registry.is_aggregate(&name)
                    || JSON_AGGREGATES.iter().any(|(one, _)| *one == name)
                    || ORDERED_SET.contains(&name.as_str())
                    || SET_RETURNING.contains(&name.as_str());
                if special {
                    std::ops::ControlFlow::Break(())
                } else {
                    std::ops::ControlFlow::Continue(())
                }
            }
            _ => std::ops::ControlFlow::Continue(()),
        });
        found.is_break()
    }

    fn list_of(&mut self, mut outer: ast::Query) -> Result<Expr> {
        self.query(&mut outer)?;
        // Without rows the list is empty, not NULL.
        let list = Expr::Subquery(Box::new(outer));
        Ok(self
            .nodes
            .wrap(Node::Function("array_or_empty".to_owned()), vec![list]))
    }
}

/// The SELECT that can give the sort key as a column of its own; `None` when the key is the item itself.
fn extensible<'q>(query: &'q mut ast::Query, key: &Expr) -> Option<&'q mut ast::Select> {
    let ast::SetExpr::Select(select) = query.body.as_mut() else {
        return None;
    };
    let item = match select.projection.first()? {
        ast::SelectItem::UnnamedExpr(expr) => thalweg_sql::column_name(expr),
        ast::SelectItem::ExprWithAlias { alias, .. } => fold(alias),
        _ => return None,
    };
    let same = match key {
        Expr::Value(_) => true,
        Expr::Identifier(name) => fold(name) == item,
        _ => false,
    };
    (!same && select.distinct.is_none()).then_some(select)
}
