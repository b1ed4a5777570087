//! The independent judge: the same program in SQLite, where a materialized view is a plain view.
//!
//! Invariant: LIKE and comparisons are binary, as ours are; a statement SQLite refuses, or does too much work for, makes the
//! program not count.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use rusqlite::Connection;
use rusqlite::types::ValueRef;

use crate::compare::{Cell, Row, real};

/// Instructions of SQLite's machine between two looks at the time spent.
const LOOK: i32 = 1_000_000;
/// Looks after which a statement is given up. Views on views over joins without keys make SQLite, which keeps nothing, multiply
/// whole tables; that takes gigabytes.
const LOOKS_MAX: u32 = 50;

pub(crate) struct Sqlite {
    connection: Connection,
    /// Looks since the statement began.
    looks: Arc<AtomicU32>,
}

impl Sqlite {
    pub(crate) fn open() -> Result<Self, String> {
        let mut connection = Connection::open_in_memory().map_err(|error| error.to_string())?;
        connection
            .execute_batch("PRAGMA case_sensitive_like = ON")
            .map_err(|error| error.to_string())?;
        let looks = Arc::new(AtomicU32::new(0));
        let counted = Arc::clone(&looks);
        let give_up = move || counted.fetch_add(1, Ordering::Relaxed) >= LOOKS_MAX;
        connection
            .progress_handler(LOOK, Some(give_up))
            .map_err(|error| error.to_string())?;
        Ok(Self { connection, looks })
    }

    /// Runs a statement for its effect.
    pub(crate) fn run(&self, sql: &str) -> Result<(), String> {
        self.looks.store(0, Ordering::Relaxed);
        self.connection
            .execute_batch(sql)
            .map_err(|error| error.to_string())
    }

    pub(crate) fn rows(&self, relation: &str) -> Result<Vec<Row>, String> {
        self.looks.store(0, Ordering::Relaxed);
        let text = |error: rusqlite::Error| error.to_string();
        let mut statement = self
            .connection
            .prepare(&format!("SELECT * FROM {relation}"))
            .map_err(text)?;
        let width = statement.column_count();
        let mut found = statement.query([]).map_err(text)?;
        let mut rows = Vec::new();
        while let Some(row) = found.next().map_err(text)? {
            let cells = (0..width)
                .map(|i| {
                    Ok(match row.get_ref(i).map_err(text)? {
                        ValueRef::Null => Cell::Null,
                        ValueRef::Integer(value) => Cell::Int(i128::from(value)),
                        ValueRef::Real(value) => real(value),
                        ValueRef::Text(bytes) => {
                            Cell::Text(String::from_utf8_lossy(bytes).into_owned())
                        }
                        ValueRef::Blob(_) => return Err("a blob".to_owned()),
                    })
                })
                .collect::<Result<Row, String>>()?;
            rows.push(cells);
        }
        Ok(rows)
    }
}
