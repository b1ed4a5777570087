//! A program as data: tables, and steps that change rows, create views, check them and restart the server.
//!
//! Invariant: every statement is valid in Postgres and in SQLite, and means the same in both.

/// Column types that both oracles represent exactly, and one that they only approximate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `int` or `bigint`
    Int,
    /// `text`
    Text,
    /// `boolean`; SQLite holds 0 and 1
    Bool,
    /// An average: compared with a tolerance, never computed with.
    Approximate,
}

/// One column of a table or view.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Col {
    /// Name, unique in its relation.
    pub name: String,
    /// Type.
    pub kind: Kind,
}

/// A table or view that queries may read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rel {
    /// Name.
    pub name: String,
    /// Columns in order.
    pub columns: Vec<Col>,
    /// Name of the integer primary key, for tables that have one.
    pub key: Option<String>,
}

/// One step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// A statement for both databases.
    Both(String),
    /// A materialized view: the first text for the server, the second (a plain view) for SQLite.
    View {
        /// View name.
        name: String,
        /// Its query.
        query: String,
    },
    /// Compares every view with both oracles.
    Check,
    /// Stops the server and opens it again on the same data dir.
    Restart,
}

/// A whole program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    /// What it was made from.
    pub seed: u64,
    /// `CREATE TABLE` statements for the server.
    pub tables: Vec<Rel>,
    /// Steps in order.
    pub steps: Vec<Step>,
}

impl Step {
    /// What our server is told; nothing for a check or a restart.
    pub fn statement(&self) -> Option<String> {
        match self {
            Step::Both(sql) => Some(sql.clone()),
            Step::View { name, query } => {
                Some(format!("CREATE MATERIALIZED VIEW {name} AS {query}"))
            }
            Step::Check | Step::Restart => None,
        }
    }
}

impl Program {
    /// How many steps come before the restart.
    pub fn first_life(&self) -> usize {
        let restart = self.steps.iter().position(|step| *step == Step::Restart);
        restart.unwrap_or(self.steps.len())
    }

    /// The program as a script, for reading a failure.
    pub fn script(&self) -> String {
        let mut text = String::new();
        for step in &self.steps {
            let line = match step {
                Step::Check => "-- check\n".to_owned(),
                Step::Restart => "-- restart\n".to_owned(),
                told => format!("{};\n", told.statement().unwrap_or_default()),
            };
            text.push_str(&line);
        }
        text
    }

    /// The program that [`Program::script`] prints: how programs that found a fault are kept, whatever becomes of the generator.
    /// Every statement stands on lines of its own that end in `;`; a comment that is neither mark is skipped.
    pub fn parse(script: &str, seed: u64) -> Program {
        let mut tables = Vec::new();
        let mut steps = Vec::new();
        let mut statement = String::new();
        for line in script.lines() {
            if let Some(comment) = line.strip_prefix("--") {
                match comment.trim() {
                    "check" => steps.push(Step::Check),
                    "restart" => steps.push(Step::Restart),
                    _ => {}
                }
                continue;
            }
            statement.push_str(line);
            let Some(sql) = statement.strip_suffix(';') else {
                statement.push('\n');
                continue;
            };
            if let Some(rest) = sql.strip_prefix("CREATE TABLE ") {
                let name = rest.split([' ', '(']).next().unwrap_or_default();
                tables.push(Rel {
                    name: name.to_owned(),
                    columns: Vec::new(),
                    key: None,
                });
            }
            let view = sql.strip_prefix("CREATE MATERIALIZED VIEW ");
            steps.push(match view.and_then(|rest| rest.split_once(" AS ")) {
                Some((name, query)) => Step::View {
                    name: name.to_owned(),
                    query: query.to_owned(),
                },
                None => Step::Both(sql.to_owned()),
            });
            statement.clear();
        }
        Program {
            seed,
            tables,
            steps,
        }
    }
}
