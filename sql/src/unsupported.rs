//! The statements that the dialect promises and this version has not built, by their leading words.
//!
//! Invariant: no entry here shadows a statement that is built; the parser asks this table only after its own rules
//! have passed on the leading words.

use crate::cursor::Cursor;
use crate::statement::Statement;

/// What may follow CREATE besides the kinds that are built.
pub(crate) const CREATE_KINDS: &[&str] = &[
    "connection",
    "secret",
    "index",
    "unique",
    "subscription",
    "function",
    "aggregate",
    "task",
    "alert",
    "role",
    "user",
    "database",
    "temporary",
    "temp",
    "unlogged",
];

/// What may follow DROP besides the kinds that are built.
pub(crate) const DROP_KINDS: &[&str] = &[
    "connection",
    "secret",
    "subscription",
    "function",
    "aggregate",
    "task",
    "alert",
    "role",
    "user",
    "database",
];

const ALTER_KINDS: &[&str] = &[
    "source",
    "table",
    "view",
    "materialized",
    "sink",
    "schema",
    "index",
    "archive",
    "connection",
    "secret",
    "subscription",
    "function",
    "task",
    "alert",
    "role",
    "user",
    "database",
    "system",
    "default",
];

/// Leading words, and what to use instead. The name of the statement is the words in upper case.
const STATEMENTS: &[(&[&str], &str)] = &[
    (
        &["create", "or", "replace", "materialized", "view"],
        "Drop the materialized view and create it again.",
    ),
    (&["create", "or", "replace", "function"], ""),
    (
        &["create", "unique", "index"],
        "Declare the columns as PRIMARY KEY.",
    ),
    (
        &["create", "index"],
        "Reads scan; create a materialized view for a repeated lookup.",
    ),
    (
        &["create", "connection"],
        "Write the connection's options in the WITH clause of each source and sink.",
    ),
    (
        &["create", "secret"],
        "Write the value in the WITH clause; it is printed as '[redacted]'.",
    ),
    (
        &["create", "subscription"],
        "Use SUBSCRIBE, which can continue AFTER a progress row.",
    ),
    (&["create", "function"], ""),
    (&["create", "aggregate"], ""),
    (
        &["create", "task"],
        "Use an external scheduler that runs thalweg sql.",
    ),
    (
        &["create", "alert"],
        "Query a materialized view from an external monitor.",
    ),
    (&["create", "role"], ""),
    (&["create", "user"], ""),
    (&["create", "database"], "Use CREATE SCHEMA."),
    (&["create", "temporary", "view"], "Use WITH or CREATE VIEW."),
    (&["create", "temp", "view"], "Use WITH or CREATE VIEW."),
    (
        &["create", "temporary", "table"],
        "Use CREATE TABLE and DROP TABLE.",
    ),
    (
        &["create", "temp", "table"],
        "Use CREATE TABLE and DROP TABLE.",
    ),
    (&["create", "unlogged", "table"], "Use CREATE TABLE."),
    (
        &["alter", "materialized", "view"],
        "Drop the object and create it again.",
    ),
    (
        &["alter", "system"],
        "Set it in the configuration file, or with SET for this session.",
    ),
    (&["alter", "default", "privileges"], ""),
    (&["comment", "on"], ""),
    (
        &["replay", "errors"],
        "Select the payloads from the errors relation and insert them again.",
    ),
    (&["vacuum"], "Storage is compacted by itself."),
    (&["analyze"], "Statistics are kept by themselves."),
    (&["cancel", "job"], "Drop the object to stop its job."),
    (&["cancel", "jobs"], "Drop the object to stop its job."),
    (
        &["refresh", "materialized", "view"],
        "Materialized views are always up to date.",
    ),
    (&["refresh"], "Materialized views are always up to date."),
    (&["grant"], ""),
    (&["revoke"], ""),
    (&["notify"], ""),
    (&["merge"], "Use INSERT ... ON CONFLICT."),
];

/// First words of all of these, for hints.
pub(crate) fn first_words() -> impl Iterator<Item = &'static str> {
    STATEMENTS
        .iter()
        .filter_map(|(words, _)| words.first().copied())
}

/// The statement when its leading words are in the table.
pub(crate) fn recognise(cursor: &Cursor) -> Option<Statement> {
    for (words, hint) in STATEMENTS {
        if cursor.at(words) {
            return Some(Statement::Unsupported {
                name: words.join(" ").to_uppercase(),
                hint: (*hint).to_string(),
            });
        }
    }
    let second = cursor.word(1)?;
    let (kinds, hint) = match cursor.word(0)? {
        "drop" => (
            DROP_KINDS,
            "There is none, because none can be created yet.",
        ),
        "alter" => (ALTER_KINDS, "Drop the object and create it again."),
        _ => return None,
    };
    let kind = kinds
        .iter()
        .find(|kind| **kind == second && second != "materialized" && second != "default")?;
    Some(Statement::Unsupported {
        name: format!("{} {kind}", cursor.word(0)?).to_uppercase(),
        hint: hint.to_string(),
    })
}

/// What may follow ALTER, for hints.
pub(crate) fn alter_kinds() -> &'static [&'static str] {
    ALTER_KINDS
}
