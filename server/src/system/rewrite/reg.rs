//! `::regclass` and its kin: an OID where Postgres compares or calls with it, a name where Postgres prints it.
//!
//! Invariant: a printed value is always `thalweg_<type>_text(thalweg_<type>(x))`, so its OID form is found under it.

use thalweg_sql::ast::{DataType, Expr, Value};

use super::expressions::{REGPROC_COLUMNS, call, cast, column_name, first_argument, printer};
use super::{function_name, last_name};

/// The reg* types: type name, function that reads, function that prints.
pub(super) const REG_TYPES: &[(&str, &str, &str)] = &[
    ("regclass", "thalweg_regclass", "thalweg_regclass_text"),
    ("regtype", "thalweg_regtype", "thalweg_regtype_text"),
    ("regproc", "thalweg_regproc", "thalweg_regproc_text"),
    ("regprocedure", "thalweg_regproc", "thalweg_regproc_text"),
    (
        "regnamespace",
        "thalweg_regnamespace",
        "thalweg_regnamespace_text",
    ),
    ("regrole", "thalweg_regrole", "thalweg_regrole_text"),
];

pub(super) fn reg_type(data_type: &DataType) -> Option<(&'static str, &'static str)> {
    let name = match data_type {
        DataType::Regclass => "regclass".to_owned(),
        DataType::Custom(name, _) => last_name(name)?,
        _ => return None,
    };
    REG_TYPES
        .iter()
        .find(|(ty, ..)| *ty == name)
        .map(|(_, read, print)| (*read, *print))
}

/// What a cast becomes: reading a reg* type, or undoing the printing of one.
pub(super) fn replaced_cast(inner: &Expr, data_type: &DataType) -> Option<Expr> {
    if let Some((read, print)) = reg_type(data_type) {
        let operand = match oid_form(inner) {
            Some(oid) => oid,
            // A parameter has the type of what it is read from: a name.
            None if is_parameter(inner) => cast(inner.clone(), DataType::Text),
            None => inner.clone(),
        };
        return Some(call(print, vec![call(read, vec![operand])]));
    }
    let is_text = matches!(
        data_type,
        DataType::Text | DataType::Varchar(_) | DataType::CharacterVarying(_)
    );
    if is_text && let Some(print) = column_name(inner).and_then(|column| printer(&column)) {
        return Some(cast(call(print, vec![inner.clone()]), DataType::Text));
    }
    if !is_text && let Some(oid) = oid_form(inner) {
        return Some(cast(oid, data_type.clone()));
    }
    None
}

fn is_parameter(expr: &Expr) -> bool {
    matches!(expr, Expr::Value(value) if matches!(value.value, Value::Placeholder(_)))
}

/// The OID under a printed reg* value.
pub(super) fn oid_form(expr: &Expr) -> Option<Expr> {
    match expr {
        Expr::Nested(inner) => oid_form(inner),
        Expr::Function(function) => {
            let name = function_name(function)?;
            REG_TYPES
                .iter()
                .any(|(_, _, print)| *print == name)
                .then(|| first_argument(function).cloned())
                .flatten()
        }
        _ => None,
    }
}

pub(super) fn take_oid(expr: &mut Expr) {
    if let Some(oid) = oid_form(expr) {
        *expr = oid;
    }
}

/// Both sides of a comparison as OIDs when one of them is a reg* value; a literal beside one is a name.
pub(super) fn compare(left: &mut Expr, right: &mut Expr) {
    for (one, other) in [(&mut *left, &mut *right)] {
        compare_side(one, other);
        compare_side(other, one);
    }
    take_oid(left);
    take_oid(right);
}

fn compare_side(one: &mut Expr, other: &mut Expr) {
    if !matches!(other, Expr::Value(value) if matches!(value.value, Value::SingleQuotedString(_))) {
        return;
    }
    let read = match one {
        Expr::Function(function) => function_name(function)
            .and_then(|name| REG_TYPES.iter().find(|(_, _, print)| *print == name))
            .map(|(_, read, _)| *read),
        _ => column_name(one)
            .filter(|name| REGPROC_COLUMNS.contains(&name.as_str()))
            .map(|_| "thalweg_regproc"),
    };
    if let Some(read) = read {
        *other = call(read, vec![other.clone()]);
    }
}
