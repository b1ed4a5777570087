//! Checking a script: every statement is parsed, resolved, typed and planned; nothing runs and nothing is contacted.
//!
//! Invariant: what a statement defines is staged in a block that is never committed, so that later statements see it.

use thalweg_sql::{Parsed, Pause, Report, Statement};

use super::session::Session;

impl Session {
    /// Checks one statement inside the open block.
    ///
    /// # Errors
    /// The error that running the statement would raise before any row is touched.
    pub async fn check(&mut self, parsed: &Parsed) -> Result<(), Report> {
        match &parsed.statement {
            Statement::Query(_)
            | Statement::Insert(_)
            | Statement::Update(_)
            | Statement::Delete(_) => self.describe_plan(parsed, &[]).map(drop),
            Statement::CreateSource(create) => self
                .stage_source(create, &parsed.statement, false)
                .await
                .map(drop),
            Statement::CreateSink(create) => self
                .stage_sink(create, &parsed.statement, false)
                .await
                .map(drop),
            Statement::CreateTable(create) if create.query.is_some() => self
                .stage_table_as(create, &parsed.statement)
                .await
                .map(drop),
            Statement::CreateTable(create) => self
                .stage_table(create, &parsed.statement, false)
                .await
                .map(drop),
            Statement::CreateArchive(create) => self
                .stage_archive(create, &parsed.statement, false)
                .await
                .map(drop),
            Statement::CreateView(_)
            | Statement::CreateMaterializedView(_)
            | Statement::CreateSchema { .. }
            | Statement::Drop(_)
            | Statement::Explain(_)
            | Statement::ShowObjects(_)
            | Statement::Describe(_)
            | Statement::Unsupported { .. } => self.execute(parsed, Vec::new()).await.map(drop),
            Statement::Subscribe(subscribe) => {
                self.subscribe_columns(&parsed.text, subscribe).map(drop)
            }
            Statement::WaitFor(name)
            | Statement::Pause(Pause { name, .. })
            | Statement::VacuumArchive(name) => self
                .catalog()
                .resolve(&self.search_path(), name)
                .map(drop)
                .map_err(|error| error.report()),
            Statement::Session(thalweg_sql::SessionStatement::Set { .. }) => {
                self.execute(parsed, Vec::new()).await.map(drop)
            }
            Statement::Truncate(names) => names.iter().try_for_each(|name| {
                let catalog = self.catalog();
                let found = catalog.resolve(&self.search_path(), name);
                found.map(drop).map_err(|error| error.report())
            }),
            // These depend on the session that runs them.
            Statement::Copy(_)
            | Statement::Declare(_)
            | Statement::Fetch(_)
            | Statement::Prepare(_)
            | Statement::Execute(_)
            | Statement::Flush
            | Statement::Backup(_)
            | Statement::Session(_) => Ok(()),
        }
    }

    /// Opens the block that checking stages into.
    ///
    /// # Errors
    /// None today; the signature is that of BEGIN.
    pub fn begin_check(&mut self) -> Result<(), Report> {
        self.begin(false).map(drop)
    }

    /// Goes on after a statement that did not check.
    pub fn recover_check(&mut self) {
        self.transaction.recover();
    }
}
