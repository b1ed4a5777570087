//! FROM clauses: aliases for qualified relations, window table functions, set-returning functions.
//!
//! Invariant: TUMBLE, HOP and set-returning functions become derived tables, so that batch and stream plan the same tree.

use thalweg_sql::ast::{
    self, Expr, FunctionArg, FunctionArgExpr, JoinConstraint, JoinOperator, TableFactor,
};

use super::normalize::{Normalizer, parsed};
use crate::error::PlanError;
use crate::names::{fold, last_part, quoted};

type Result<T> = std::result::Result<T, PlanError>;

impl Normalizer<'_> {
    pub(crate) fn table(&mut self, table: &mut ast::TableWithJoins) -> Result<()> {
        self.factor(&mut table.relation)?;
        for join in &mut table.joins {
            self.factor(&mut join.relation)?;
            self.join(&mut join.join_operator)?;
        }
        Ok(())
    }

    /// The joins inside parentheses.
    fn nested(&mut self, table: &mut ast::TableWithJoins) -> Result<()> {
        let merging = table.joins.iter().any(|join| {
            matches!(
                join.join_operator,
                JoinOperator::FullOuter(JoinConstraint::Using(_) | JoinConstraint::Natural)
            )
        });
        if merging {
            return Err(PlanError::unsupported(
                "FULL JOIN ... USING inside parentheses",
            ));
        }
        self.table(table)
    }

    fn join(&mut self, operator: &mut JoinOperator) -> Result<()> {
        let constraint = match operator {
            JoinOperator::Join(c)
            | JoinOperator::Inner(c)
            | JoinOperator::Left(c)
            | JoinOperator::LeftOuter(c)
            | JoinOperator::Right(c)
            | JoinOperator::RightOuter(c)
            | JoinOperator::FullOuter(c)
            | JoinOperator::CrossJoin(c)
            | JoinOperator::Semi(c)
            | JoinOperator::LeftSemi(c)
            | JoinOperator::RightSemi(c)
            | JoinOperator::Anti(c)
            | JoinOperator::LeftAnti(c)
            | JoinOperator::RightAnti(c)
            | JoinOperator::StraightJoin(c) => c,
            JoinOperator::AsOf { .. } => return Err(PlanError::unsupported("ASOF JOIN")),
            _ => return Err(PlanError::unsupported("this kind of join")),
        };
        if let JoinConstraint::On(expr) = constraint {
            self.condition(expr, "JOIN/ON")?;
        }
        Ok(())
    }

    fn factor(&mut self, factor: &mut TableFactor) -> Result<()> {
        match factor {
            TableFactor::Table {
                name,
                alias,
                args: None,
                version: version @ Some(_),
                sample: None,
                ..
            } => {
                self.as_of_now(name, alias, version.take())?;
                Ok(())
            }
            TableFactor::Table {
                version: Some(_), ..
            } => Err(PlanError::unsupported("FOR SYSTEM_TIME AS OF here")),
            TableFactor::Table {
                sample: Some(_), ..
            } => Err(PlanError::unsupported("TABLESAMPLE")),
            TableFactor::Table {
                name,
                alias,
                args: None,
                ..
            } => {
                if name.0.len() > 1 {
                    let parts: Vec<String> = name
                        .0
                        .iter()
                        .filter_map(|p| p.as_ident())
                        .map(fold)
                        .collect();
                    if let [.., schema, table] = parts.as_slice()
                        && alias.is_none()
                    {
                        self.qualified.push((schema.clone(), table.clone()));
                        *alias = Some(alias_of(quoted(table)));
                    }
                }
                Ok(())
            }
            TableFactor::Table {
                name,
                alias,
                args: Some(args),
                with_ordinality,
                ..
            } => {
                let (name, args, alias) = (last_part(name), args.args.clone(), alias.clone());
                if *with_ordinality {
                    return Err(PlanError::unsupported("WITH ORDINALITY"));
                }
                *factor = self.table_function(&name, args, alias)?;
                Ok(())
            }
            TableFactor::Function {
                name,
                args,
                alias,
                with_ordinality,
                ..
            } => {
                let (name, args, alias) = (last_part(name), args.clone(), alias.clone());
                if *with_ordinality {
                    return Err(PlanError::unsupported("WITH ORDINALITY"));
                }
                *factor = self.table_function(&name, args, alias)?;
                Ok(())
            }
            unnest @ TableFactor::UNNEST { .. } => self.unnest(unnest),
            TableFactor::Derived {
                subquery,
                sample: None,
                alias,
                ..
            } => {
                self.query(subquery)?;
                if alias.is_none() {
                    *alias = Some(alias_of(quoted("unnamed_subquery")));
                }
                Ok(())
            }
            TableFactor::NestedJoin {
                table_with_joins, ..
            } => self.nested(table_with_joins),
            other => Err(PlanError::unsupported(format!(
                "{} in FROM",
                construct(other)
            ))),
        }
    }

    /// `name FOR SYSTEM_TIME AS OF PROCTIME()`: the name gets the mark that the provider knows it by.
    fn as_of_now(
        &mut self,
        name: &mut ast::ObjectName,
        alias: &mut Option<ast::TableAlias>,
        version: Option<ast::TableVersion>,
    ) -> Result<()> {
        let now = match &version {
            Some(ast::TableVersion::ForSystemTimeAsOf(Expr::Function(call))) => {
                let bare = match &call.args {
                    ast::FunctionArguments::None => true,
                    ast::FunctionArguments::List(list) => list.args.is_empty(),
                    ast::FunctionArguments::Subquery(_) => false,
                };
                bare && last_part(&call.name) == "proctime"
            }
            _ => false,
        };
        if !now {
            return Err(PlanError::hint(
                "0A000",
                "a version of a table other than FOR SYSTEM_TIME AS OF PROCTIME() is not supported",
                "PROCTIME() reads the table as it is when a row of the other side comes.",
            ));
        }
        let parts = name.0.iter().filter_map(|part| part.as_ident());
        let parts: Vec<String> = parts.map(fold).collect();
        if alias.is_none() {
            if let [.., schema, table] = parts.as_slice() {
                self.qualified.push((schema.clone(), table.clone()));
            }
            *alias = Some(alias_of(quoted(last_part(name))));
        }
        // A database in front names the only one there is.
        let own = parts.iter().skip(parts.len().saturating_sub(2)).cloned();
        let marked = std::iter::once(crate::lookup::MARK.to_owned()).chain(own);
        name.0 = marked
            .map(|part| ast::ObjectNamePart::Identifier(quoted(part)))
            .collect();
        Ok(())
    }

    fn unnest(&mut self, factor: &mut TableFactor) -> Result<()> {
        match factor {
            TableFactor::UNNEST {
                alias,
                array_exprs,
                with_offset: false,
                with_ordinality: false,
                ..
            } if array_exprs.len() == 1 => {
                let args = array_exprs
                    .iter()
                    .map(|e| FunctionArg::Unnamed(FunctionArgExpr::Expr(e.clone())))
                    .collect();
                *factor = self.table_function("unnest", args, alias.clone())?;
                Ok(())
            }
            TableFactor::UNNEST {
                alias,
                array_exprs,
                with_offset: false,
                with_ordinality: true,
                ..
            } if array_exprs.len() == 1 && !array_exprs.iter().any(mentions_column) => {
                *factor = self.numbered(&array_exprs[0], alias.clone())?;
                Ok(())
            }
            TableFactor::UNNEST {
                array_exprs,
                with_offset: false,
                with_ordinality: false,
                ..
            } => {
                for expr in array_exprs {
                    self.expr(expr)?;
                }
                Ok(())
            }
            other => Err(PlanError::unsupported(format!(
                "{} in FROM",
                construct(other)
            ))),
        }
    }

    /// `unnest(list) WITH ORDINALITY`: the list beside its positions.
    fn numbered(&mut self, list: &Expr, alias: Option<ast::TableAlias>) -> Result<TableFactor> {
        let column = match &alias {
            Some(alias) if alias.columns.is_empty() => alias.name.clone(),
            _ => quoted("unnest"),
        };
        let text = format!(
            "SELECT unnest({list}) AS {}, generate_series(1::bigint, cardinality({list})::bigint) AS ordinality",
            quoted(fold(&column))
        );
        let mut subquery = parsed(&text)?;
        self.query(&mut subquery)?;
        Ok(TableFactor::Derived {
            lateral: false,
            subquery: Box::new(subquery),
            alias: Some(alias.unwrap_or_else(|| alias_of(quoted("unnest")))),
            sample: None,
        })
    }

    /// A function in FROM as a derived table.
    fn table_function(
        &mut self,
        name: &str,
        args: Vec<FunctionArg>,
        alias: Option<ast::TableAlias>,
    ) -> Result<TableFactor> {
        let args: Vec<Expr> = args
            .into_iter()
            .map(|arg| match arg {
                FunctionArg::Unnamed(FunctionArgExpr::Expr(expr)) => Ok(expr),
                other => Err(PlanError::unsupported(format!(
                    "argument {other} of a function in FROM"
                ))),
            })
            .collect::<Result<_>>()?;
        if name == "hybrid" {
            let alias = alias.unwrap_or_else(|| alias_of(quoted(name)));
            return crate::hybrid::marked(&args, alias);
        }
        let (text, default_alias) = match name {
            "tumble" | "hop" => window(name, &args)?,
            "session" | "cumulate" => {
                return Err(PlanError::unsupported(format!(
                    "{} in FROM",
                    name.to_uppercase()
                )));
            }
            _ => {
                let column = match &alias {
                    Some(alias) if alias.columns.is_empty() => alias.name.clone(),
                    _ => quoted(name),
                };
                let list: Vec<String> = args.iter().map(ToString::to_string).collect();
                // A function that gives one row is a one-row table, as in Postgres.
                (
                    format!(
                        "SELECT {name}({}) AS {}",
                        list.join(", "),
                        quoted(fold(&column))
                    ),
                    name.to_owned(),
                )
            }
        };
        let lateral = !matches!(name, "tumble" | "hop") && args.iter().any(mentions_column);
        let mut subquery = parsed(&text)?;
        self.query(&mut subquery)?;
        Ok(TableFactor::Derived {
            lateral,
            subquery: Box::new(subquery),
            alias: Some(alias.unwrap_or_else(|| alias_of(quoted(default_alias)))),
            sample: None,
        })
    }
}

fn construct(factor: &TableFactor) -> &'static str {
    match factor {
        TableFactor::Pivot { .. } => "PIVOT",
        TableFactor::Unpivot { .. } => "UNPIVOT",
        TableFactor::MatchRecognize { .. } => "MATCH_RECOGNIZE",
        TableFactor::JsonTable { .. } | TableFactor::OpenJsonTable { .. } => "JSON_TABLE",
        TableFactor::UNNEST { .. } => "UNNEST WITH ORDINALITY",
        _ => "this kind of table",
    }
}

fn alias_of(name: ast::Ident) -> ast::TableAlias {
    ast::TableAlias {
        explicit: true,
        name,
        columns: vec![],
        at: None,
    }
}

fn mentions_column(expr: &Expr) -> bool {
    let found: std::ops::ControlFlow<()> = ast::visit_expressions(expr, |e| match e {
        Expr::Identifier(_) | Expr::CompoundIdentifier(_) => std::ops::ControlFlow::Break(()),
        _ => std::ops::ControlFlow::Continue(()),
    });
    found.is_break()
}

/// TUMBLE(relation, time, size) and HOP(relation, time, slide, size) as text.
fn window(name: &str, args: &[Expr]) -> Result<(String, String)> {
    let usage = || {
        let shape = if name == "tumble" {
            "TUMBLE(relation, column, size)"
        } else {
            "HOP(relation, column, slide, size)"
        };
        PlanError::hint(
            "42883",
            format!("wrong arguments of {}", name.to_uppercase()),
            format!("Use {shape}."),
        )
    };
    let relation = match args.first() {
        Some(expr @ (Expr::Identifier(_) | Expr::CompoundIdentifier(_))) => expr.to_string(),
        _ => return Err(usage()),
    };
    let default_alias = match args.first() {
        Some(Expr::Identifier(ident)) => fold(ident),
        Some(Expr::CompoundIdentifier(parts)) => parts.last().map(fold).unwrap_or_default(),
        _ => return Err(usage()),
    };
    let time = match args.get(1) {
        Some(Expr::Function(f)) if last_part(&f.name) == "descriptor" => match &f.args {
            ast::FunctionArguments::List(list) => list
                .args
                .first()
                .map(ToString::to_string)
                .ok_or_else(usage)?,
            _ => return Err(usage()),
        },
        Some(expr) => expr.to_string(),
        None => return Err(usage()),
    };
    let text = match (name, &args[2..]) {
        ("tumble", [size]) => {
            let start = format!("date_bin({size}, {time}, '1970-01-01 00:00:00+00')");
            format!(
                "SELECT *, {start} AS window_start, {start} + {size} AS window_end FROM {relation} WHERE {time} IS NOT NULL"
            )
        }
        ("hop", [slide, size]) => format!(
            "SELECT *, window_start + {size} AS window_end FROM \
             (SELECT *, unnest(hop_starts({time}, {slide}, {size})) AS window_start FROM {relation} WHERE {time} IS NOT NULL) AS hop"
        ),
        _ => return Err(usage()),
    };
    Ok((text, default_alias))
}

/// Moves `FROM t, unnest(t.xs) AS u(x)` into the select list of a derived table when nothing else is in FROM: DataFusion
/// cannot decorrelate a lateral unnest.
pub(crate) fn hoist_unnest(select: &mut ast::Select) {
    let lateral_factor = |factor: &TableFactor| match factor {
        TableFactor::Derived {
            lateral: true,
            subquery,
            alias: Some(alias),
            ..
        } => single_unnest(subquery).map(|e| (e, alias.clone())),
        _ => None,
    };
    // Either a second FROM item or a cross join on the only one.
    let (base, found) = match select.from.as_slice() {
        [first, second] if first.joins.is_empty() && second.joins.is_empty() => {
            (first.relation.clone(), lateral_factor(&second.relation))
        }
        [only] => match only.joins.as_slice() {
            [join] if matches!(join.join_operator, JoinOperator::CrossJoin(_)) => {
                (only.relation.clone(), lateral_factor(&join.relation))
            }
            _ => return,
        },
        _ => return,
    };
    let Some((call, alias)) = found else { return };
    let (Some(outer), column) = (relation_alias(&base), column_of(&alias, &call)) else {
        return;
    };
    let text = format!("SELECT * FROM (SELECT * FROM x) AS {}", quoted(&outer));
    let Ok(mut template) = parsed(&text) else {
        return;
    };
    let ast::SetExpr::Select(wrapper) = template.body.as_mut() else {
        return;
    };
    if let Some(TableFactor::Derived { subquery, .. }) =
        wrapper.from.first_mut().map(|f| &mut f.relation)
        && let ast::SetExpr::Select(inner) = subquery.body.as_mut()
    {
        inner.from = vec![ast::TableWithJoins {
            relation: base,
            joins: vec![],
        }];
        inner.projection.push(ast::SelectItem::ExprWithAlias {
            expr: call,
            alias: quoted(&column),
        });
    }
    select.from = std::mem::take(&mut wrapper.from);
    // What the query calls `u.x` is now a column of the derived table.
    let unnested = fold(&alias.name);
    requalify(select, &unnested, &outer);
}

fn single_unnest(query: &ast::Query) -> Option<Expr> {
    match query.body.as_ref() {
        ast::SetExpr::Select(select) => match select.projection.as_slice() {
            [
                ast::SelectItem::ExprWithAlias {
                    expr: expr @ Expr::Function(f),
                    ..
                },
            ] if last_part(&f.name) == "unnest" => Some(expr.clone()),
            _ => None,
        },
        _ => None,
    }
}

pub(crate) fn relation_alias(factor: &TableFactor) -> Option<String> {
    match factor {
        TableFactor::Table {
            alias: Some(alias), ..
        }
        | TableFactor::Derived {
            alias: Some(alias), ..
        } => Some(fold(&alias.name)),
        TableFactor::Table { name, .. } => Some(last_part(name)),
        _ => None,
    }
}

fn column_of(alias: &ast::TableAlias, _call: &Expr) -> String {
    alias
        .columns
        .first()
        .map_or_else(|| fold(&alias.name), |c| fold(&c.name))
}

fn requalify(select: &mut ast::Select, from: &str, to: &str) {
    let mut items = std::mem::take(&mut select.projection);
    for item in &mut items {
        if let ast::SelectItem::UnnamedExpr(e) | ast::SelectItem::ExprWithAlias { expr: e, .. } =
            item
        {
            requalify_expr(e, from, to);
        }
    }
    select.projection = items;
    for expr in [&mut select.selection, &mut select.having]
        .into_iter()
        .flatten()
    {
        requalify_expr(expr, from, to);
    }
    if let ast::GroupByExpr::Expressions(exprs, _) = &mut select.group_by {
        for expr in exprs {
            requalify_expr(expr, from, to);
        }
    }
}

fn requalify_expr(expr: &mut Expr, from: &str, to: &str) {
    let _: std::ops::ControlFlow<()> = ast::visit_expressions_mut(expr, |e| {
        if let Expr::CompoundIdentifier(parts) = e
            && parts.len() == 2
            && parts.first().is_some_and(|p| fold(p) == from)
        {
            parts[0] = quoted(to);
        }
        std::ops::ControlFlow::Continue(())
    });
}
