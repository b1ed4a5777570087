//! The name Postgres gives to a select item without an alias.
//!
//! Invariant: follows FigureColname of Postgres 17: a name of strength 2 comes from a column or function, one of
//! strength 1 from a type or CASE and yields to a stronger one inside.

use sqlparser::ast::{
    AccessExpr, DataType, Expr, Ident, Query, SelectItem, SetExpr, TrimWhereField,
};

/// The output column's name, `?column?` when nothing in the expression gives one.
pub fn column_name(expr: &Expr) -> String {
    named(expr).map_or_else(|| "?column?".to_string(), |(name, _)| name)
}

type Named = Option<(String, u8)>;

fn strong(name: &str) -> Named {
    Some((name.to_string(), 2))
}

fn named(expr: &Expr) -> Named {
    match expr {
        Expr::Identifier(ident) => Some((folded(ident), 2)),
        Expr::CompoundIdentifier(parts) => parts.last().map(|ident| (folded(ident), 2)),
        Expr::CompoundFieldAccess { root, access_chain } => {
            let field = access_chain.iter().rev().find_map(|access| match access {
                AccessExpr::Dot(Expr::Identifier(ident)) => Some(folded(ident)),
                _ => None,
            });
            field.map(|name| (name, 2)).or_else(|| named(root))
        }
        Expr::Nested(inner) | Expr::Collate { expr: inner, .. } => named(inner),
        Expr::Function(function) => function
            .name
            .0
            .last()
            .and_then(|part| part.as_ident())
            .map(|ident| (folded(ident), 2)),
        Expr::Cast {
            expr, data_type, ..
        } => weaker_than(named(expr), type_name(data_type)),
        Expr::TypedString(typed) => Some((type_name(&typed.data_type), 1)),
        Expr::Interval(_) => Some(("interval".into(), 1)),
        Expr::Case { else_result, .. } => {
            weaker_than(else_result.as_deref().and_then(named), "case".into())
        }
        Expr::Exists { negated: false, .. } => strong("exists"),
        Expr::Subquery(query) => subquery(query),
        Expr::Array(_) => strong("array"),
        Expr::Tuple(_) => strong("row"),
        Expr::Struct { .. } => strong("struct"),
        Expr::Extract { .. } => strong("extract"),
        Expr::Position { .. } => strong("position"),
        Expr::Substring { .. } => strong("substring"),
        Expr::Overlay { .. } => strong("overlay"),
        Expr::Trim { trim_where, .. } => strong(match trim_where {
            Some(TrimWhereField::Leading) => "ltrim",
            Some(TrimWhereField::Trailing) => "rtrim",
            Some(TrimWhereField::Both) | None => "btrim",
        }),
        Expr::Ceil { .. } => strong("ceil"),
        Expr::Floor { .. } => strong("floor"),
        Expr::AtTimeZone { .. } => strong("timezone"),
        Expr::IsNormalized { negated: false, .. } => strong("is_normalized"),
        _ => None,
    }
}

fn weaker_than(inner: Named, name: String) -> Named {
    match inner {
        Some((inner, strength)) if strength > 1 => Some((inner, strength)),
        _ => Some((name, 1)),
    }
}

/// A scalar subquery is named by its one column.
fn subquery(query: &Query) -> Named {
    let mut body = query.body.as_ref();
    loop {
        match body {
            SetExpr::Select(select) => {
                return match select.projection.first()? {
                    SelectItem::ExprWithAlias { alias, .. } => Some((folded(alias), 2)),
                    SelectItem::UnnamedExpr(expr) => named(expr),
                    _ => None,
                };
            }
            SetExpr::Query(inner) => body = inner.body.as_ref(),
            SetExpr::SetOperation { left, .. } => body = left.as_ref(),
            _ => return None,
        }
    }
}

fn folded(ident: &Ident) -> String {
    if ident.quote_style.is_some() {
        ident.value.clone()
    } else {
        ident.value.to_ascii_lowercase()
    }
}

/// The internal name of a type, which is what Postgres' grammar turns the standard spellings into.
fn type_name(data_type: &DataType) -> String {
    let text = match data_type {
        DataType::Array(element) => {
            use sqlparser::ast::ArrayElemTypeDef;
            return match element {
                ArrayElemTypeDef::AngleBracket(inner)
                | ArrayElemTypeDef::SquareBracket(inner, _)
                | ArrayElemTypeDef::Parenthesis(inner) => type_name(inner),
                ArrayElemTypeDef::None => "array".into(),
            };
        }
        DataType::Custom(name, _) => {
            return name
                .0
                .last()
                .and_then(|part| part.as_ident())
                .map_or_else(|| name.to_string(), folded);
        }
        DataType::Interval { .. } => return "interval".into(),
        DataType::Struct(..) => return "struct".into(),
        other => other.to_string().to_ascii_lowercase(),
    };
    let with_zone = text.ends_with("with time zone") && !text.ends_with("without time zone");
    // Lengths and precisions are not part of the name.
    let base = text.split('(').next().unwrap_or(&text).trim();
    match base {
        "int" | "integer" => "int4",
        "bigint" => "int8",
        "smallint" => "int2",
        "real" => "float4",
        "double" | "double precision" | "float" => "float8",
        "decimal" | "dec" => "numeric",
        "boolean" => "bool",
        "character varying" | "char varying" => "varchar",
        "character" | "char" => "bpchar",
        "string" => "text",
        "timestamp" | "timestamp without time zone" if !with_zone => "timestamp",
        "timestamp" | "timestamp with time zone" => "timestamptz",
        "time" | "time without time zone" if !with_zone => "time",
        "time" | "time with time zone" => "timetz",
        other => other,
    }
    .to_string()
}

#[cfg(test)]
mod tests {
    use super::column_name;

    #[test]
    fn names_of_unaliased_items_are_those_of_postgres() {
        let table = [
            ("1", "?column?"),
            ("'a'", "?column?"),
            ("a", "a"),
            ("A", "a"),
            ("\"A\"", "A"),
            ("t.a", "a"),
            ("s.t.\"B c\"", "B c"),
            ("a + 1", "?column?"),
            ("-a", "?column?"),
            ("(a)", "a"),
            ("count(*)", "count"),
            ("Sum(x) FILTER (WHERE y) OVER ()", "sum"),
            ("pg_catalog.version()", "version"),
            ("a::text", "a"),
            ("1::int", "int4"),
            ("'1'::bigint", "int8"),
            ("CAST('x' AS varchar(3))", "varchar"),
            ("CAST('x' AS char(3))", "bpchar"),
            ("CAST(1.5 AS decimal(10, 2))", "numeric"),
            ("1::double precision", "float8"),
            ("true::boolean", "bool"),
            ("'x'::timestamp with time zone", "timestamptz"),
            ("'x'::timestamptz", "timestamptz"),
            ("'x'::timestamp", "timestamp"),
            ("'{1}'::int[]", "int4"),
            ("DATE '2020-01-01'", "date"),
            ("INTERVAL '1' DAY", "interval"),
            ("CASE WHEN a THEN 1 END", "case"),
            ("CASE WHEN a THEN 1 ELSE b END", "b"),
            ("CASE WHEN a THEN 1 ELSE 2::int END", "case"),
            ("EXISTS (SELECT 1)", "exists"),
            ("NOT EXISTS (SELECT 1)", "?column?"),
            ("(SELECT max(x) FROM t)", "max"),
            ("(SELECT 1 AS one)", "one"),
            ("ARRAY[1, 2]", "array"),
            ("(ARRAY[1, 2])[1]", "array"),
            ("a[1]", "a"),
            ("ROW(1, 2)", "row"),
            ("(1, 2)", "row"),
            ("coalesce(a, b)", "coalesce"),
            ("nullif(a, b)", "nullif"),
            ("greatest(a, b)", "greatest"),
            ("extract(year FROM a)", "extract"),
            ("position('a' IN b)", "position"),
            ("substring(a FROM 1 FOR 2)", "substring"),
            ("trim(a)", "btrim"),
            ("trim(LEADING 'x' FROM a)", "ltrim"),
            ("current_date", "current_date"),
            ("now()", "now"),
            ("a IS NULL", "?column?"),
            ("a AT TIME ZONE 'UTC'", "timezone"),
            ("j->'a'", "?column?"),
            ("a COLLATE \"C\"", "a"),
        ];
        for (text, name) in table {
            let expr = crate::parse_expr(text).unwrap_or_else(|e| panic!("{text}: {e:?}"));
            assert_eq!(column_name(&expr), name, "{text}");
        }
    }
}
