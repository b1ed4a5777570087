//! Expressions as SQL-like text.
//!
//! Invariant: literals print as Postgres would, operators of ours as operators; a nested operator is in parentheses.

use datafusion::common::ScalarValue;
use datafusion::logical_expr::{Expr, SortExpr};
use thalweg_catalog::SqlType;

use crate::error::visible;
use crate::functions::cast::display_scalar;
use crate::functions::native::Shape;
use crate::reads::FIELD;
use crate::rewrite::guard::shown;

/// Several expressions.
pub(crate) fn list(exprs: &[Expr]) -> String {
    exprs.iter().map(text).collect::<Vec<_>>().join(", ")
}

/// ORDER BY keys.
pub(crate) fn sorts(keys: &[SortExpr]) -> String {
    keys.iter()
        .map(|key| {
            let direction = if key.asc { "" } else { " DESC" };
            // NULLs last when ascending and first when descending is the default.
            let nulls = match (key.asc, key.nulls_first) {
                (true, true) => " NULLS FIRST",
                (false, false) => " NULLS LAST",
                _ => "",
            };
            format!("{}{direction}{nulls}", text(&key.expr))
        })
        .collect::<Vec<_>>()
        .join(", ")
}

fn literal(value: &ScalarValue) -> String {
    let ty = SqlType::from_arrow(&value.data_type());
    match display_scalar(value, &ty) {
        None => "NULL".to_owned(),
        Some(shown) if crate::types::numeric_rank(&ty).is_some() || ty == SqlType::Bool => shown,
        Some(shown) => match ty {
            SqlType::Text | SqlType::Unknown => format!("'{}'", shown.replace('\'', "''")),
            other => format!("{other} '{shown}'"),
        },
    }
}

fn nested(expr: &Expr) -> String {
    let inner = text(expr);
    match expr {
        Expr::BinaryExpr(_)
        | Expr::Case(_)
        | Expr::Like(_)
        | Expr::Between(_)
        | Expr::InList(_) => format!("({inner})"),
        Expr::ScalarFunction(call) if crate::rewrite::guard::is_infix(call) => format!("({inner})"),
        Expr::Alias(alias) => nested(&alias.expr),
        _ => inner,
    }
}

/// One expression.
pub(crate) fn text(expr: &Expr) -> String {
    // DataFusion names a column of count(*) after what it counts instead.
    spelled(expr).replace("count(Int64(1))", "count(*)")
}

fn spelled(expr: &Expr) -> String {
    match expr {
        Expr::Column(c) => match &c.relation {
            Some(relation) => format!("{}.{}", relation.table(), visible(&c.name)),
            None => visible(&c.name).to_owned(),
        },
        Expr::OuterReferenceColumn(_, c) => format!("outer {}", visible(&c.flat_name())),
        Expr::Literal(value, _) => literal(value),
        // A tag is not a name the query gave.
        Expr::Alias(alias)
            if alias.metadata.is_some() && alias.name == alias.expr.schema_name().to_string() =>
        {
            text(&alias.expr)
        }
        Expr::Alias(alias) => {
            let inner = text(&alias.expr);
            let name = visible(&alias.name);
            if inner == name {
                inner
            } else {
                format!("{inner} AS {name}")
            }
        }
        Expr::BinaryExpr(b) => format!("{} {} {}", nested(&b.left), b.op, nested(&b.right)),
        Expr::Not(e) => format!("NOT {}", nested(e)),
        Expr::IsNull(e) => format!("{} IS NULL", nested(e)),
        Expr::IsNotNull(e) => format!("{} IS NOT NULL", nested(e)),
        Expr::IsTrue(e) => format!("{} IS TRUE", nested(e)),
        Expr::IsFalse(e) => format!("{} IS FALSE", nested(e)),
        Expr::IsUnknown(e) => format!("{} IS UNKNOWN", nested(e)),
        Expr::IsNotTrue(e) => format!("{} IS NOT TRUE", nested(e)),
        Expr::IsNotFalse(e) => format!("{} IS NOT FALSE", nested(e)),
        Expr::IsNotUnknown(e) => format!("{} IS NOT UNKNOWN", nested(e)),
        Expr::Case(case) => {
            let mut out = "CASE".to_owned();
            for (when, then) in &case.when_then_expr {
                out.push_str(&format!(" WHEN {} THEN {}", text(when), text(then)));
            }
            if let Some(otherwise) = &case.else_expr {
                out.push_str(&format!(" ELSE {}", text(otherwise)));
            }
            out.push_str(" END");
            out
        }
        Expr::Cast(cast) => format!(
            "{}::{}",
            nested(&cast.expr),
            SqlType::from_field(&cast.field)
        ),
        Expr::InList(i) => {
            let not = if i.negated { "NOT " } else { "" };
            format!("{} {not}IN ({})", nested(&i.expr), list(&i.list))
        }
        Expr::Like(l) => {
            let not = if l.negated { "NOT " } else { "" };
            let word = if l.case_insensitive { "ILIKE" } else { "LIKE" };
            format!("{} {not}{word} {}", nested(&l.expr), text(&l.pattern))
        }
        Expr::ScalarFunction(call) => function(call),
        Expr::AggregateFunction(a) => aggregate(a),
        Expr::Placeholder(p) => p.id.clone(),
        Expr::ScalarSubquery(_) => "(subquery)".to_owned(),
        Expr::Exists(e) => {
            if e.negated {
                "NOT EXISTS (subquery)".to_owned()
            } else {
                "EXISTS (subquery)".to_owned()
            }
        }
        Expr::InSubquery(i) => format!(
            "{} {}IN (subquery)",
            nested(&i.expr),
            if i.negated { "NOT " } else { "" }
        ),
        Expr::WindowFunction(w) => window(w),
        other => other.to_string().split(crate::names::SEPARATOR).collect(),
    }
}

fn aggregate(a: &datafusion::logical_expr::expr::AggregateFunction) -> String {
    let params = &a.params;
    let distinct = if params.distinct { "DISTINCT " } else { "" };
    let arguments =
        if a.func.name() == "count" && params.args.len() == 1 && is_count_star(&params.args[0]) {
            "*".to_owned()
        } else {
            list(&params.args)
        };
    let order = if params.order_by.is_empty() {
        String::new()
    } else {
        format!(" ORDER BY {}", sorts(&params.order_by))
    };
    let filter = params
        .filter
        .as_ref()
        .map(|f| format!(" FILTER (WHERE {})", text(f)))
        .unwrap_or_default();
    format!("{}({distinct}{arguments}{order}){filter}", a.func.name())
}

fn window(w: &datafusion::logical_expr::expr::WindowFunction) -> String {
    let params = &w.params;
    let mut over = Vec::new();
    if !params.partition_by.is_empty() {
        over.push(format!("PARTITION BY {}", list(&params.partition_by)));
    }
    if !params.order_by.is_empty() {
        over.push(format!("ORDER BY {}", sorts(&params.order_by)));
    }
    format!(
        "{}({}) OVER ({})",
        w.fun.name(),
        list(&params.args),
        over.join(" ")
    )
}

fn is_count_star(expr: &Expr) -> bool {
    matches!(expr, Expr::Literal(ScalarValue::Int64(Some(1)), _))
}

fn function(call: &datafusion::logical_expr::expr::ScalarFunction) -> String {
    let Some(native) = shown(call) else {
        return format!("{}({})", call.name(), list(&call.args));
    };
    match (native.shape, call.args.as_slice()) {
        (Shape::Infix, [left, right]) => {
            format!("{} {} {}", nested(left), native.name, nested(right))
        }
        (Shape::Prefix, [only]) => format!("{}{}", native.name, nested(only)),
        (Shape::Cast, [only]) => format!("{}::{}", nested(only), native.ret),
        (_, args) => match (native.name.strip_prefix(FIELD), args) {
            (Some(field), [value, _]) => format!("({}).{field}", text(value)),
            _ => format!("{}({})", native.name, list(args)),
        },
    }
}
