//! Rewrites of one expression at a time.
//!
//! Invariant: an expression keeps its value; `x::regclass` is an OID where Postgres compares or calls with it, and a name
//! where Postgres prints it.

use thalweg_sql::ast::{
    self, AccessExpr, BinaryOperator, CastKind, DataType, Expr, Function, FunctionArg,
    FunctionArgExpr, FunctionArgumentList, FunctionArguments, Ident, ObjectName, ObjectNamePart,
    OrderByKind, Query, Select, SelectItem, SetExpr, Subscript, Value,
};

use super::super::functions;
use super::detect::is_session_word;
use super::reg::{REG_TYPES, compare, reg_type, replaced_cast, take_oid};
use super::{folded, function_name, is_system_schema, last_name, strip_schema};

/// Columns of type regproc: held as OIDs, printed as names.
pub(super) const REGPROC_COLUMNS: &[&str] = &[
    "typinput",
    "typoutput",
    "typreceive",
    "typsend",
    "typmodin",
    "typmodout",
    "typanalyze",
    "typsubscript",
    "amhandler",
    "aggfnoid",
    "aggtransfn",
    "aggfinalfn",
    "oprcode",
    "oprrest",
    "oprjoin",
    "conproc",
    "rngcanonical",
    "rngsubdiff",
];

/// Columns of type int2vector and oidvector: held as arrays, numbered from 0, printed with blanks.
const VECTOR_COLUMNS: &[&str] = &[
    "indkey",
    "indoption",
    "indclass",
    "indcollation",
    "proargtypes",
    "partattrs",
    "tgattr",
];

/// A call of an unqualified function.
pub(crate) fn call(name: &str, arguments: Vec<Expr>) -> Expr {
    let args = arguments
        .into_iter()
        .map(|expr| FunctionArg::Unnamed(FunctionArgExpr::Expr(expr)))
        .collect();
    Expr::Function(Function {
        name: ObjectName(vec![ObjectNamePart::Identifier(Ident::new(name))]),
        uses_odbc_syntax: false,
        parameters: FunctionArguments::None,
        args: FunctionArguments::List(FunctionArgumentList {
            duplicate_treatment: None,
            args,
            clauses: vec![],
        }),
        filter: None,
        null_treatment: None,
        over: None,
        within_group: vec![],
    })
}

/// `expr::data_type`.
pub(super) fn cast(expr: Expr, data_type: DataType) -> Expr {
    Expr::Cast {
        kind: CastKind::DoubleColon,
        expr: Box::new(expr),
        data_type,
        array: false,
        format: None,
    }
}

/// The function that prints a column whose held type is not what Postgres shows.
pub(super) fn printer(column: &str) -> Option<&'static str> {
    if REGPROC_COLUMNS.contains(&column) {
        Some("thalweg_regproc_text")
    } else {
        VECTOR_COLUMNS
            .contains(&column)
            .then_some("thalweg_vector_text")
    }
}

/// The Postgres column name of an item whose expression is now a function of ours.
pub(super) fn hidden_name(expr: &Expr) -> Option<String> {
    let Expr::Function(function) = expr else {
        return None;
    };
    let name = function_name(function)?;
    if let Some((ty, ..)) = REG_TYPES.iter().find(|(_, _, print)| *print == name) {
        let inner = first_argument(function).and_then(|read| match read {
            Expr::Function(read) => first_argument(read),
            _ => None,
        });
        return Some(match inner {
            Some(Expr::Identifier(ident)) => folded(ident),
            Some(Expr::CompoundIdentifier(parts)) => parts.last().map(folded).unwrap_or_default(),
            _ => (*ty).to_owned(),
        });
    }
    match name.as_str() {
        "thalweg_array_or_empty" => Some("array".to_owned()),
        "unnest" => match first_argument(function) {
            Some(Expr::Function(inner))
                if function_name(inner).as_deref() == Some("thalweg_subscripts") =>
            {
                Some("generate_subscripts".to_owned())
            }
            _ => None,
        },
        _ => None,
    }
}

pub(super) fn first_argument(function: &Function) -> Option<&Expr> {
    let FunctionArguments::List(list) = &function.args else {
        return None;
    };
    match list.args.first()? {
        FunctionArg::Unnamed(FunctionArgExpr::Expr(expr)) => Some(expr),
        _ => None,
    }
}

pub(super) fn column_name(expr: &Expr) -> Option<String> {
    match expr {
        Expr::Identifier(ident) => Some(folded(ident)),
        Expr::CompoundIdentifier(parts) => parts.last().map(folded),
        Expr::Nested(inner) => column_name(inner),
        _ => None,
    }
}

fn is_vector(expr: &Expr) -> bool {
    // pgjdbc renames indoption to i_indoption before it subscripts it.
    column_name(expr)
        .is_some_and(|name| VECTOR_COLUMNS.contains(&name.strip_prefix("i_").unwrap_or(&name)))
}

/// Before an expression's parts are rewritten: names and operators.
pub(super) fn before(expr: &mut Expr) {
    match expr {
        Expr::Collate {
            expr: inner,
            collation,
        } if is_plain_collation(collation) => {
            *expr = inner.as_ref().clone();
            before(expr);
        }
        Expr::Identifier(ident) if is_session_word(ident) => {
            *expr = call(&folded(ident), vec![]);
        }
        Expr::CompoundIdentifier(parts)
            if parts.len() == 3
                && parts
                    .first()
                    .is_some_and(|part| is_system_schema(&part.value)) =>
        {
            parts.remove(0);
        }
        Expr::CompoundFieldAccess { root, access_chain } => table_column(root, access_chain),
        Expr::BinaryOp { op, .. } => {
            if let Some(plain) = plain_operator(op) {
                *op = plain;
            }
        }
        Expr::Cast { data_type, .. } => strip_type(data_type),
        Expr::TypedString(typed) => {
            strip_type(&mut typed.data_type);
            if reg_type(&typed.data_type).is_some() {
                *expr = cast(Expr::Value(typed.value.clone()), typed.data_type.clone());
            }
        }
        Expr::Function(function) => {
            strip_schema(&mut function.name);
            if matches!(function.args, FunctionArguments::None) {
                function.args = FunctionArguments::List(FunctionArgumentList {
                    duplicate_treatment: None,
                    args: vec![],
                    clauses: vec![],
                });
            }
            array_of_subquery(expr);
        }
        _ => {}
    }
}

/// `t.c[n]` is parsed as fields of `t`; makes it a subscript of column `t.c`.
fn table_column(root: &mut Expr, access_chain: &mut Vec<AccessExpr>) {
    let Expr::Identifier(table) = &*root else {
        return;
    };
    if let [
        AccessExpr::Dot(Expr::Identifier(column)),
        AccessExpr::Subscript(_),
        ..,
    ] = access_chain.as_slice()
    {
        *root = Expr::CompoundIdentifier(vec![table.clone(), column.clone()]);
        access_chain.remove(0);
    }
}

/// Text compares by bytes here, which is what these collations do.
fn is_plain_collation(collation: &ObjectName) -> bool {
    last_name(collation).is_some_and(|name| {
        ["default", "c", "posix", "ucs_basic"].contains(&name.to_lowercase().as_str())
    })
}

fn plain_operator(op: &BinaryOperator) -> Option<BinaryOperator> {
    let BinaryOperator::PGCustomBinaryOperator(parts) = op else {
        return None;
    };
    Some(match parts.last()?.as_str() {
        "~" => BinaryOperator::PGRegexMatch,
        "~*" => BinaryOperator::PGRegexIMatch,
        "!~" => BinaryOperator::PGRegexNotMatch,
        "!~*" => BinaryOperator::PGRegexNotIMatch,
        "~~" => BinaryOperator::PGLikeMatch,
        "~~*" => BinaryOperator::PGILikeMatch,
        "!~~" => BinaryOperator::PGNotLikeMatch,
        "!~~*" => BinaryOperator::PGNotILikeMatch,
        "=" => BinaryOperator::Eq,
        "<>" | "!=" => BinaryOperator::NotEq,
        "<" => BinaryOperator::Lt,
        "<=" => BinaryOperator::LtEq,
        ">" => BinaryOperator::Gt,
        ">=" => BinaryOperator::GtEq,
        "+" => BinaryOperator::Plus,
        "-" => BinaryOperator::Minus,
        "*" => BinaryOperator::Multiply,
        "/" => BinaryOperator::Divide,
        "||" => BinaryOperator::StringConcat,
        _ => return None,
    })
}

/// `pg_catalog.x` -> `x`, read again so that it is the type and not a name; catalog-only types become what they are held in.
fn strip_type(data_type: &mut DataType) {
    if let DataType::Array(ast::ArrayElemTypeDef::SquareBracket(element, _)) = data_type {
        strip_type(element);
        if reg_type(element).is_some() {
            **element = DataType::Custom(
                ObjectName(vec![ObjectNamePart::Identifier(Ident::new("oid"))]),
                vec![],
            );
        }
        return;
    }
    let DataType::Custom(name, modifiers) = data_type else {
        return;
    };
    let qualified = name.0.len() == 2;
    strip_schema(name);
    let Some(bare) = last_name(name) else { return };
    let spelled = match bare.as_str() {
        "int2vector" | "_int2" => "int2[]",
        "oidvector" | "_oid" => "oid[]",
        "_text" | "_name" | "_aclitem" => "text[]",
        "_int4" => "int4[]",
        "_int8" => "int8[]",
        "cardinal_number" => "int4",
        "sql_identifier" | "character_data" | "yes_or_no" | "pg_node_tree" | "aclitem"
        | "cstring" => "text",
        "xid" | "regconfig" | "regdictionary" | "regoper" | "regoperator" => "oid",
        "char"
            if qualified
                || name
                    .0
                    .last()
                    .and_then(ObjectNamePart::as_ident)
                    .is_some_and(|i| i.quote_style.is_some()) =>
        {
            "\"char\""
        }
        other if qualified && modifiers.is_empty() => other,
        _ => return,
    };
    if let Ok(Expr::Cast {
        data_type: parsed, ..
    }) = thalweg_sql::parse_expr(&format!("CAST(NULL AS {spelled})"))
    {
        *data_type = parsed;
    }
}

/// `ARRAY(SELECT e ... ORDER BY o)` -> the aggregate of it, empty instead of NULL.
fn array_of_subquery(expr: &mut Expr) {
    let Expr::Function(function) = expr else {
        return;
    };
    if function_name(function).as_deref() != Some("array") {
        return;
    }
    let FunctionArguments::Subquery(query) = &function.args else {
        return;
    };
    let mut query = query.as_ref().clone();
    if aggregate_rows(&mut query) {
        *expr = call(
            "thalweg_array_or_empty",
            vec![Expr::Subquery(Box::new(query))],
        );
    }
}

pub(super) fn aggregate_rows(query: &mut Query) -> bool {
    let order = query.order_by.take();
    let SetExpr::Select(select) = query.body.as_mut() else {
        return false;
    };
    let Some(item) = single_item(select) else {
        return false;
    };
    let mut aggregate = call("array_agg", vec![item.clone()]);
    let keys = match order.map(|order| order.kind) {
        Some(OrderByKind::Expressions(keys)) => keys,
        _ => Vec::new(),
    };
    if let Expr::Function(Function {
        args: FunctionArguments::List(list),
        ..
    }) = &mut aggregate
        && !keys.is_empty()
    {
        let keys = keys
            .into_iter()
            .map(|mut key| {
                // ORDER BY 1 names the one item.
                if matches!(&key.expr, Expr::Value(value) if matches!(&value.value, Value::Number(..))) {
                    key.expr = item.clone();
                }
                key
            })
            .collect();
        list.clauses
            .push(ast::FunctionArgumentClause::OrderBy(keys));
    }
    select.projection = vec![SelectItem::UnnamedExpr(aggregate)];
    true
}

pub(super) fn single_item(select: &Select) -> Option<Expr> {
    match select.projection.as_slice() {
        [SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. }] => {
            Some(expr.clone())
        }
        _ => None,
    }
}

/// After an expression's parts were rewritten: casts, comparisons, calls and subscripts.
pub(super) fn after(expr: &mut Expr) {
    match expr {
        Expr::Cast {
            expr: inner,
            data_type,
            ..
        } => {
            if let Some(replacement) = replaced_cast(inner, data_type) {
                *expr = replacement;
            }
        }
        Expr::BinaryOp { left, op, right } if is_comparison(op) => compare(left, right),
        Expr::AnyOp { left, right, .. } | Expr::AllOp { left, right, .. } => {
            take_oid(left);
            array_literal(left, right);
        }
        Expr::InList {
            expr: left, list, ..
        } => {
            for item in list.iter_mut() {
                compare(left, item);
            }
        }
        Expr::InSubquery { expr: left, .. } | Expr::IsNull(left) | Expr::IsNotNull(left) => {
            take_oid(left)
        }
        Expr::CompoundFieldAccess { root, access_chain } if is_vector(root) => {
            if let [AccessExpr::Subscript(Subscript::Index { index })] = access_chain.as_mut_slice()
            {
                let zero_based = std::mem::replace(index, number("1"));
                *index = Expr::BinaryOp {
                    left: Box::new(Expr::Nested(Box::new(zero_based))),
                    op: BinaryOperator::Plus,
                    right: Box::new(number("1")),
                };
            }
        }
        Expr::Like {
            pattern,
            escape_char,
            ..
        }
        | Expr::ILike {
            pattern,
            escape_char,
            ..
        } => escape(pattern, escape_char),
        Expr::Function(_) => rewritten_call(expr),
        _ => {}
    }
}

fn number(text: &str) -> Expr {
    Expr::Value(Value::Number(text.to_owned(), false).into())
}

fn is_comparison(op: &BinaryOperator) -> bool {
    matches!(
        op,
        BinaryOperator::Eq
            | BinaryOperator::NotEq
            | BinaryOperator::Lt
            | BinaryOperator::LtEq
            | BinaryOperator::Gt
            | BinaryOperator::GtEq
    )
}

/// `x = ANY ('{a,b}')` -> `x = ANY (ARRAY['a','b'])`.
fn array_literal(_left: &Expr, right: &mut Expr) {
    let text = match right {
        Expr::Value(value) => match &value.value {
            Value::SingleQuotedString(text) => text.clone(),
            _ => return,
        },
        _ => return,
    };
    let Some(items) = text
        .trim()
        .strip_prefix('{')
        .and_then(|text| text.strip_suffix('}'))
    else {
        return;
    };
    let elem = items
        .split(',')
        .filter(|item| !item.is_empty())
        .map(|item| {
            Expr::Value(Value::SingleQuotedString(item.trim().trim_matches('"').to_owned()).into())
        })
        .collect();
    *right = Expr::Array(ast::Array { elem, named: true });
}

/// `LIKE p ESCAPE 'e'`: the planner only knows the backslash.
fn escape(pattern: &mut Expr, escape_char: &mut Option<ast::ValueWithSpan>) {
    let Some(value) = escape_char else { return };
    let Value::SingleQuotedString(escape) = &value.value else {
        return;
    };
    if escape == "\\" || escape.is_empty() {
        return;
    }
    let text = |text: &str| Expr::Value(Value::SingleQuotedString(text.to_owned()).into());
    let doubled = call("replace", vec![pattern.clone(), text("\\"), text("\\\\")]);
    *pattern = call("replace", vec![doubled, text(escape), text("\\")]);
    *escape_char = None;
}

fn rewritten_call(expr: &mut Expr) {
    let Expr::Function(function) = expr else {
        return;
    };
    let Some(name) = function_name(function) else {
        return;
    };
    match name.as_str() {
        "generate_subscripts" => {
            if let Some(array) = first_argument(function).cloned() {
                let first = number(if is_vector(&array) { "0" } else { "1" });
                *expr = call(
                    "unnest",
                    vec![call("thalweg_subscripts", vec![array, first])],
                );
            }
        }
        "_pg_expandarray" => {
            if let Some(array) = first_argument(function).cloned() {
                *expr = call("unnest", vec![call("thalweg_expand_array", vec![array])]);
            }
        }
        name if functions::is_function(name)
            && !name.starts_with("thalweg_")
            && name != "format"
            && !name.starts_with("quote") =>
        {
            if let FunctionArguments::List(list) = &mut function.args {
                for argument in &mut list.args {
                    if let FunctionArg::Unnamed(FunctionArgExpr::Expr(argument)) = argument {
                        take_oid(argument);
                    }
                }
            }
        }
        _ => {}
    }
}
