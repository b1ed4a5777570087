//! One connection to a server, by the simple or the extended protocol.
//!
//! Invariant: an error keeps its SQLSTATE, detail and hint, in one line, so that a test file can expect any of them.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::TryStreamExt;
use sqllogictest::{AsyncDB, DBOutput};
use tokio_postgres::types::{FromSql, Type};
use tokio_postgres::{Client, Config, NoTls, SimpleQueryMessage};

use crate::fire::{Fire, Remembered};
use crate::kind::Kind;
use crate::text::text;

/// Longer than any statement of the files takes on a slow machine; a hang fails its file, not the run.
const STATEMENT_DEADLINE: Duration = Duration::from_secs(180);

/// How statements travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// One Query message, text results.
    Simple,
    /// Parse, Bind, Execute with binary results.
    Extended,
}

impl Protocol {
    /// Label for `onlyif` and `skipif`, and part of the case name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Simple => "simple",
            Self::Extended => "extended",
        }
    }
}

/// What is at the other end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// The server under test.
    Thalweg,
    /// A real Postgres, to check expectations: materialized views become plain views there, which are always fresh.
    Postgres,
}

/// An error of the server, the client or this engine, as one line.
#[derive(Debug)]
pub struct EngineError {
    sqlstate: Option<String>,
    line: String,
}

impl fmt::Display for EngineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.line)
    }
}

impl std::error::Error for EngineError {}

impl EngineError {
    fn ours(line: String) -> Self {
        Self {
            sqlstate: None,
            line,
        }
    }
}

impl From<tokio_postgres::Error> for EngineError {
    fn from(error: tokio_postgres::Error) -> Self {
        let Some(db) = error.as_db_error() else {
            let source = std::error::Error::source(&error)
                .map(|source| format!(": {source}"))
                .unwrap_or_default();
            return Self::ours(format!("{error}{source}"));
        };
        let mut line = format!("{}: {}", db.code().code(), db.message());
        if let Some(detail) = db.detail() {
            line.push_str(&format!(" DETAIL: {}", detail.replace('\n', " ")));
        }
        if let Some(hint) = db.hint() {
            line.push_str(&format!(" HINT: {hint}"));
        }
        Self {
            sqlstate: Some(db.code().code().to_string()),
            line,
        }
    }
}

/// One session.
#[derive(Debug)]
pub struct Engine {
    client: Client,
    protocol: Protocol,
    target: Target,
    /// The server may be killed between two statements.
    fire: Option<(Arc<Fire>, Remembered)>,
}

impl Engine {
    /// Connects.
    ///
    /// # Errors
    /// When the server refuses the connection.
    pub async fn connect(
        config: &Config,
        protocol: Protocol,
        target: Target,
    ) -> Result<Self, EngineError> {
        Ok(Self {
            client: client(config).await?,
            protocol,
            target,
            fire: None,
        })
    }

    /// Connects to a server that is killed now and then, by the simple protocol.
    ///
    /// # Errors
    /// When the server refuses the connection.
    pub async fn under_fire(fire: Arc<Fire>) -> Result<Self, EngineError> {
        let (life, config) = fire.place();
        Ok(Self {
            fire: Some((fire, Remembered::since(life))),
            ..Self::connect(&config, Protocol::Simple, Target::Thalweg).await?
        })
    }

    /// Connects again when the server was killed, and has the session be as it was.
    async fn come_back(&mut self) -> Result<(), EngineError> {
        let Some((fire, remembered)) = &mut self.fire else {
            return Ok(());
        };
        let (life, config) = fire.place();
        if remembered.life != life {
            self.client = client(&config).await?;
            for sql in &remembered.statements {
                self.client.batch_execute(sql).await?;
            }
            remembered.life = life;
        }
        Ok(())
    }

    /// Runs a statement outside any file.
    ///
    /// # Errors
    /// When the server answers with one.
    pub async fn batch(&self, sql: &str) -> Result<(), EngineError> {
        Ok(self.client.batch_execute(sql).await?)
    }

    async fn simple(&self, sql: &str) -> Result<DBOutput<Kind>, EngineError> {
        let mut rows = Vec::new();
        let mut columns = None;
        let mut count = 0;
        for message in self.client.simple_query(sql).await? {
            match message {
                SimpleQueryMessage::RowDescription(description) => {
                    columns = Some(description.len())
                }
                SimpleQueryMessage::Row(row) => {
                    rows.push(
                        (0..row.len())
                            .map(|at| shown(row.get(at).map(str::to_string)))
                            .collect(),
                    );
                }
                SimpleQueryMessage::CommandComplete(affected) => count = affected,
                _ => {}
            }
        }
        Ok(match columns {
            Some(columns) => DBOutput::Rows {
                types: vec![Kind::Any; columns],
                rows,
            },
            None => DBOutput::StatementComplete(count),
        })
    }

    async fn extended(&self, sql: &str) -> Result<DBOutput<Kind>, EngineError> {
        let statement = self.client.prepare(sql).await?;
        let none: [&str; 0] = [];
        let stream = self.client.query_raw(&statement, none).await?;
        futures::pin_mut!(stream);
        let mut rows = Vec::new();
        while let Some(row) = stream.try_next().await? {
            let mut cells = Vec::new();
            for (at, column) in row.columns().iter().enumerate() {
                let cell: Option<Raw> = row.try_get(at)?;
                let value = cell.map(|Raw(raw)| text(column.type_(), &raw)).transpose();
                cells.push(shown(value.map_err(|error| EngineError::ours(error.0))?));
            }
            rows.push(cells);
        }
        if statement.columns().is_empty() {
            return Ok(DBOutput::StatementComplete(
                stream.rows_affected().unwrap_or(0),
            ));
        }
        let types = statement
            .columns()
            .iter()
            .map(|column| Kind::of(column.type_()))
            .collect();
        Ok(DBOutput::Rows { types, rows })
    }
}

async fn client(config: &Config) -> Result<Client, EngineError> {
    let (client, connection) = config.connect(NoTls).await?;
    // The task ends when the client is dropped; an error of the connection reaches the statement that meets it.
    tokio::spawn(async move { connection.await.ok() });
    Ok(client)
}

/// The bytes of a value, whatever its type.
struct Raw(Vec<u8>);

impl<'a> FromSql<'a> for Raw {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        Ok(Self(raw.to_vec()))
    }

    fn accepts(_: &Type) -> bool {
        true
    }
}

/// A cell as the files write it: they cannot hold an empty word or a line break.
fn shown(value: Option<String>) -> String {
    match value {
        None => "NULL".into(),
        Some(value) if value.is_empty() => "(empty)".into(),
        Some(value) => value.replace('\n', "\\n"),
    }
}

/// What Postgres is asked in place of a streaming statement; `None` when there is nothing to ask.
fn for_postgres(sql: &str) -> Option<String> {
    let upper = sql.trim_start().to_ascii_uppercase();
    if upper.starts_with("FLUSH") || upper.starts_with("WAIT FOR") {
        return None;
    }
    let sql = sql.replace(
        "CREATE MATERIALIZED VIEW IF NOT EXISTS",
        "CREATE OR REPLACE VIEW",
    );
    Some(sql.replace("MATERIALIZED VIEW", "VIEW"))
}

#[async_trait]
impl AsyncDB for Engine {
    type Error = EngineError;
    type ColumnType = Kind;

    async fn run(&mut self, sql: &str) -> Result<DBOutput<Kind>, EngineError> {
        let sql = match self.target {
            Target::Thalweg => sql.to_string(),
            Target::Postgres => match for_postgres(sql) {
                Some(sql) => sql,
                None => return Ok(DBOutput::StatementComplete(0)),
            },
        };
        self.come_back().await?;
        let answer = async {
            match self.protocol {
                Protocol::Simple => self.simple(&sql).await,
                Protocol::Extended => self.extended(&sql).await,
            }
        };
        let late = |_| {
            EngineError::ours(format!(
                "no answer within {} s",
                STATEMENT_DEADLINE.as_secs()
            ))
        };
        let answer = tokio::time::timeout(STATEMENT_DEADLINE, answer).await;
        let answer = answer.map_err(late)?;
        if let (Ok(_), Some((fire, remembered))) = (&answer, &mut self.fire) {
            remembered.note(&sql, fire);
        }
        answer
    }

    async fn shutdown(&mut self) {}

    fn engine_name(&self) -> &str {
        self.protocol.name()
    }

    async fn sleep(duration: Duration) {
        tokio::time::sleep(duration).await;
    }

    fn error_sql_state(error: &EngineError) -> Option<String> {
        error.sqlstate.clone()
    }
}
