//! The independent judge: the same program in SQLite, where a materialized view is a plain view.
//!
//! Invariant: LIKE and comparisons are binary, as ours are; a statement SQLite refuses makes the program not count.

use rusqlite::Connection;
use rusqlite::types::ValueRef;

use crate::compare::{Cell, Row, real};

pub(crate) struct Sqlite {
    connection: Connection,
}

impl Sqlite {
    pub(crate) fn open() -> Result<Self, String> {
        let connection = Connection::open_in_memory().map_err(|error| error.to_string())?;
        connection
            .execute_batch("PRAGMA case_sensitive_like = ON")
            .map_err(|error| error.to_string())?;
        Ok(Self { connection })
    }

    /// Runs a statement for its effect.
    pub(crate) fn run(&self, sql: &str) -> Result<(), String> {
        self.connection
            .execute_batch(sql)
            .map_err(|error| error.to_string())
    }

    pub(crate) fn rows(&self, relation: &str) -> Result<Vec<Row>, String> {
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
