//! Set operations: branches that agree in their types, and ALL with the multiplicities of the standard.
//!
//! Invariant: after normalising no INTERSECT or EXCEPT depends on how often a row stands in a branch; its rows are numbered.

use thalweg_catalog::SqlType;
use thalweg_sql::ast::{self, Expr, SelectItem, SetExpr, TableFactor};

use super::full_join::Merged;
use super::node::Node;
use super::normalize::{Normalizer, parsed, query_of};
use crate::error::PlanError;
use crate::names::{SEPARATOR, quoted};
use crate::types::unify;

type Result<T> = std::result::Result<T, PlanError>;

impl Normalizer<'_> {
    /// Normalises a set operation whole.
    pub(crate) fn set_operation(&mut self, body: &mut SetExpr) -> Result<()> {
        self.branches(body)?;
        if let Some(scope) = self.merged.last_mut() {
            *scope = Merged::default();
        }
        let planned = self.agree(body)?;
        self.count_duplicates(body, planned.as_deref())
    }

    fn branches(&mut self, body: &mut SetExpr) -> Result<()> {
        match body {
            SetExpr::SetOperation {
                left,
                right,
                set_quantifier,
                ..
            } => {
                if matches!(
                    set_quantifier,
                    ast::SetQuantifier::ByName
                        | ast::SetQuantifier::AllByName
                        | ast::SetQuantifier::DistinctByName
                ) {
                    return Err(PlanError::unsupported("UNION BY NAME"));
                }
                self.branches(left)?;
                self.branches(right)
            }
            leaf => self.set_expr(leaf),
        }
    }

    /// Makes the branches of a set operation agree in their column types.
    fn agree(&mut self, body: &mut SetExpr) -> Result<Option<Vec<String>>> {
        let mut leaves = Vec::new();
        collect(body, &mut leaves);
        let mut types: Vec<Vec<SqlType>> = Vec::new();
        let mut names = None;
        for leaf in &leaves {
            let query = self.standalone((**leaf).clone());
            match self.trial.columns(&query) {
                Some(found) => {
                    let (own, found) = found.into_iter().unzip();
                    names.get_or_insert(own);
                    types.push(found);
                }
                // A branch that refers to its surroundings is left for DataFusion's own coercion.
                None => return Ok(None),
            }
        }
        let width = types.first().map_or(0, Vec::len);
        if types.iter().any(|t| t.len() != width) {
            return Err(PlanError::new(
                "42601",
                "each UNION query must have the same number of columns",
            ));
        }
        let mut agreed = Vec::with_capacity(width);
        for column in 0..width {
            let all: Vec<SqlType> = types.iter().map(|t| t[column].clone()).collect();
            agreed.push(unify(&all).map_err(|(a, b)| {
                PlanError::new(
                    "42804",
                    format!("UNION types {a} and {b} cannot be matched"),
                )
            })?);
        }
        for (leaf, found) in leaves.into_iter().zip(types) {
            if found != agreed {
                self.convert(leaf, &found, &agreed)?;
            }
        }
        Ok(names)
    }

    /// Numbers equal rows in the branches of INTERSECT ALL and EXCEPT ALL, which makes all rows distinct: DataFusion plans
    /// both as semi and anti joins, which know nothing of how often a row occurs.
    fn count_duplicates(&mut self, body: &mut SetExpr, names: Option<&[String]>) -> Result<()> {
        let SetExpr::SetOperation {
            op,
            set_quantifier,
            left,
            right,
        } = body
        else {
            return Ok(());
        };
        self.count_duplicates(left, names)?;
        self.count_duplicates(right, names)?;
        let counted = matches!(
            op,
            ast::SetOperator::Intersect | ast::SetOperator::Except | ast::SetOperator::Minus
        ) && *set_quantifier == ast::SetQuantifier::All;
        if !counted {
            return Ok(());
        }
        let Some(names) = names else {
            // At the top nothing can be correlated: the branch is wrong, and planning it says how.
            if self.depth == 1 {
                return Ok(());
            }
            return Err(PlanError::unsupported(format!(
                "{op} ALL in a correlated subquery"
            )));
        };
        let columns: Vec<String> = (0..names.len()).map(|i| format!("\"c{i}\"")).collect();
        let listed = columns.join(", ");
        let numbered = format!(
            "SELECT {listed}, row_number() OVER (PARTITION BY {listed}) AS copy FROM (SELECT 1) AS branch ({listed})"
        );
        for side in [left, right] {
            let mut outer = parsed(&numbered)?;
            replace_derived(&mut outer, take(side));
            **side = *outer.body;
        }
        let mut used: Vec<&str> = Vec::new();
        let mut items = Vec::with_capacity(names.len());
        for (at, (column, name)) in columns.iter().zip(names).enumerate() {
            let unique = if used.contains(&name.as_str()) {
                format!("{name}{SEPARATOR}{at}")
            } else {
                name.clone()
            };
            used.push(name);
            items.push(SelectItem::ExprWithAlias {
                expr: Expr::Identifier(quoted(column.trim_matches('"'))),
                alias: quoted(unique),
            });
        }
        let mut outer = parsed(&format!(
            "SELECT 1 FROM (SELECT 1) AS counted ({listed}, copy)"
        ))?;
        replace_derived(&mut outer, take(body));
        if let SetExpr::Select(select) = outer.body.as_mut() {
            select.projection = items;
        }
        *body = *outer.body;
        Ok(())
    }

    /// The branch as a query of its own, with the CTEs in scope.
    pub(crate) fn standalone(&self, body: SetExpr) -> ast::Query {
        let with = (!self.ctes.is_empty()).then(|| ast::With {
            with_token: ast::helpers::attached_token::AttachedToken::empty(),
            recursive: false,
            cte_tables: self.ctes.clone(),
        });
        query_of(with, body)
    }

    fn convert(&mut self, leaf: &mut SetExpr, found: &[SqlType], agreed: &[SqlType]) -> Result<()> {
        if let SetExpr::Select(select) = leaf {
            let plain = select.projection.len() == agreed.len()
                && select.projection.iter().all(|item| {
                    matches!(
                        item,
                        SelectItem::UnnamedExpr(_) | SelectItem::ExprWithAlias { .. }
                    )
                });
            if plain {
                for (item, (from, to)) in select.projection.iter_mut().zip(found.iter().zip(agreed))
                {
                    if from == to {
                        continue;
                    }
                    let (expr, alias) = match item.clone() {
                        SelectItem::UnnamedExpr(expr) => {
                            let name = plain_name(&expr);
                            (expr, name)
                        }
                        SelectItem::ExprWithAlias { expr, alias } => (expr, alias),
                        _ => continue,
                    };
                    let expr = self.nodes.wrap(Node::Coerce(to.clone()), vec![expr]);
                    *item = SelectItem::ExprWithAlias { expr, alias };
                }
                return Ok(());
            }
        }
        let names: Vec<String> = (0..agreed.len()).map(|i| format!("c{i}")).collect();
        let items = agreed
            .iter()
            .zip(&names)
            .map(|(ty, name)| SelectItem::ExprWithAlias {
                expr: self.nodes.wrap(
                    Node::Coerce(ty.clone()),
                    vec![Expr::Identifier(quoted(name))],
                ),
                alias: quoted(name),
            })
            .collect();
        let inner = take(leaf);
        let mut outer = parsed("SELECT 1 FROM (SELECT 1) AS branch")?;
        if let SetExpr::Select(select) = outer.body.as_mut() {
            select.projection = items;
            if let Some(TableFactor::Derived {
                subquery, alias, ..
            }) = select.from.first_mut().map(|f| &mut f.relation)
            {
                **subquery = query_of(None, inner);
                if let Some(alias) = alias {
                    alias.columns = names
                        .iter()
                        .map(|n| ast::TableAliasColumnDef {
                            name: quoted(n),
                            data_type: None,
                        })
                        .collect();
                }
            }
        }
        *leaf = *outer.body;
        Ok(())
    }
}

/// Takes a body out of its place.
fn take(body: &mut SetExpr) -> SetExpr {
    let nothing = ast::Values {
        explicit_row: false,
        value_keyword: false,
        rows: vec![],
    };
    std::mem::replace(body, SetExpr::Values(nothing))
}

/// Puts a body into the derived table of a template.
fn replace_derived(template: &mut ast::Query, body: SetExpr) {
    if let SetExpr::Select(select) = template.body.as_mut()
        && let Some(TableFactor::Derived { subquery, .. }) =
            select.from.first_mut().map(|f| &mut f.relation)
    {
        **subquery = query_of(None, body);
    }
}

fn collect<'b>(body: &'b mut SetExpr, leaves: &mut Vec<&'b mut SetExpr>) {
    match body {
        SetExpr::SetOperation { left, right, .. } => {
            collect(left, leaves);
            collect(right, leaves);
        }
        leaf => leaves.push(leaf),
    }
}

fn plain_name(expr: &Expr) -> ast::Ident {
    quoted(thalweg_sql::column_name(expr))
}
