//! One client's session: its settings, transaction block, notices, and the dispatch of its statements.
//!
//! Invariant: a session never reads an epoch below one it has read or written (its floor), whatever wire it came in on.

use std::future::ready;
use std::sync::Arc;

use datafusion::common::ScalarValue;
use futures::FutureExt;
use futures::future::BoxFuture;
use thalweg_catalog::{Catalog, SqlType};
use thalweg_engine::SessionFloor;
use thalweg_planner::{PlanContext, SystemRelations};
use thalweg_sql::{Parsed, Report, SessionStatement, Statement, Subscribe};

use super::cursor::Cursors;
use super::server::{ConnectionInfo, Server};
use super::settings::{REPORTED_SETTINGS, SetEffect, Settings};
use super::transaction::Transaction;
use super::{Description, Notice, Outcome, RowTag, TransactionStatus};
use crate::system::{SessionFacts, SystemCatalog};

/// Who connects, and with which settings.
#[derive(Debug, Clone, Default)]
pub struct SessionOptions {
    /// Role.
    pub user: String,
    /// Database as asked for; an unknown name opens `thalweg`.
    pub database: String,
    /// Settings from the startup packet or Flight headers.
    pub settings: Vec<(String, String)>,
}

/// One client's session. Not shared: a connection runs one statement at a time.
#[derive(Debug)]
pub struct Session {
    pub(super) server: Arc<Server>,
    pub(super) user: String,
    pub(super) settings: Settings,
    pub(super) floor: SessionFloor,
    pub(super) transaction: Transaction,
    pub(super) cursors: Cursors,
    /// Types of the parameters of the statement that runs, when the wire knows them.
    pub(super) described: Vec<SqlType>,
    notices: Vec<Notice>,
    changed: Vec<(String, String)>,
    pid: i32,
}

impl Session {
    /// Opens a session.
    ///
    /// # Errors
    /// A setting that does not exist or a value it does not take.
    pub fn new(server: Arc<Server>, options: SessionOptions) -> Result<Self, Report> {
        let user = if options.user.is_empty() {
            "thalweg".to_owned()
        } else {
            options.user
        };
        let of_server = super::facts::settings(&server).into_iter();
        let settings = Settings::new(&user, &options.settings)?
            .with_server(of_server.map(|setting| (setting.name, setting.value)));
        let pid = server.next_pid();
        server.connect(ConnectionInfo {
            pid,
            user: user.clone(),
            database: server.catalog().database().to_owned(),
            application_name: settings.get("application_name").unwrap_or_default(),
            started_us: server.clock.now_us(),
            statement: String::new(),
            active: false,
        });
        Ok(Self {
            server,
            user,
            settings,
            floor: SessionFloor::default(),
            transaction: Transaction::default(),
            cursors: Cursors::default(),
            described: Vec::new(),
            notices: Vec::new(),
            changed: Vec::new(),
            pid,
        })
    }

    /// Process id of this session, unique in the server's life.
    pub fn pid(&self) -> i32 {
        self.pid
    }

    /// The server this session belongs to.
    pub fn server(&self) -> &Arc<Server> {
        &self.server
    }

    /// Role of the session.
    pub fn user(&self) -> &str {
        &self.user
    }

    /// Splits and parses a text. Nothing is resolved yet.
    ///
    /// # Errors
    /// 42601 with a position, or a limit of the parser.
    pub fn parse(&self, text: &str) -> Result<Vec<Parsed>, Report> {
        thalweg_sql::parse(text).map_err(|error| error.report())
    }

    /// Value of a setting, `None` when there is no such setting.
    pub fn setting(&self, name: &str) -> Option<String> {
        self.settings.get(name).ok()
    }

    /// Milliseconds of a duration setting such as `statement_timeout`; 0 means off.
    pub fn setting_ms(&self, name: &str) -> u64 {
        self.settings.duration_ms(name)
    }

    /// Settings that clients are told of at start, in Postgres' spelling.
    pub fn reported_settings(&self) -> Vec<(String, String)> {
        REPORTED_SETTINGS
            .iter()
            .filter_map(|name| self.setting(name).map(|value| ((*name).to_owned(), value)))
            .collect()
    }

    /// Messages since the last call.
    pub fn take_notices(&mut self) -> Vec<Notice> {
        std::mem::take(&mut self.notices)
    }

    /// Reported settings that changed since the last call.
    pub fn take_changed_settings(&mut self) -> Vec<(String, String)> {
        std::mem::take(&mut self.changed)
    }

    /// State of the transaction block.
    pub fn transaction_status(&self) -> TransactionStatus {
        self.transaction.status()
    }

    /// Marks the block as failed; outside a block this does nothing. A wire calls it for errors that happen after
    /// `execute` returned, such as a row that could not be computed.
    pub fn fail_transaction(&mut self) {
        self.transaction.fail();
    }

    pub(super) fn notice(&mut self, notice: Notice) {
        self.notices.push(notice);
    }

    /// Catalog this session sees: the server's, with the block's own DDL on top.
    pub(super) fn catalog(&self) -> Arc<Catalog> {
        self.transaction
            .catalog()
            .unwrap_or_else(|| self.server.catalog())
    }

    pub(super) fn search_path(&self) -> Vec<String> {
        self.settings.search_path(&self.user)
    }

    /// System relations as of now, for one statement.
    fn system(&self, catalog: &Arc<Catalog>, text: &str) -> SystemCatalog {
        let facts = SessionFacts {
            user: self.user.clone(),
            database: catalog.database().to_owned(),
            search_path: self.search_path(),
            backend_pid: self.pid,
            settings: self.settings.all(),
        };
        let wanted = super::facts::wanted(text, &facts.search_path);
        let engine = wanted.then(|| super::facts::collect(&self.server));
        SystemCatalog::new(Arc::clone(catalog), facts, engine)
    }

    /// What a statement takes and gives. `declared` are the parameter types the client fixed; the others are inferred.
    ///
    /// # Errors
    /// Whatever planning the statement raises.
    pub fn describe(
        &self,
        parsed: &Parsed,
        declared: &[Option<SqlType>],
    ) -> Result<Description, Report> {
        match &parsed.statement {
            Statement::Query(_)
            | Statement::Insert(_)
            | Statement::Update(_)
            | Statement::Delete(_) => self.describe_plan(parsed, declared),
            Statement::Declare(declare) => match &declare.statement {
                query @ Statement::Query(_) => {
                    let query = Parsed {
                        statement: query.clone(),
                        ..parsed.clone()
                    };
                    let description = self.describe_plan(&query, declared)?;
                    Ok(Description {
                        columns: None,
                        ..description
                    })
                }
                _ => Ok(Description {
                    parameters: Vec::new(),
                    columns: None,
                }),
            },
            Statement::Subscribe(subscribe) => Ok(Description {
                parameters: Vec::new(),
                columns: Some(self.subscribe_columns(&parsed.text, subscribe)?),
            }),
            Statement::Fetch(fetch) => Ok(Description {
                parameters: Vec::new(),
                columns: self.fetch_columns(fetch)?,
            }),
            other => Ok(Description {
                parameters: Vec::new(),
                columns: self.describe_command(other)?,
            }),
        }
    }

    /// Runs one statement.
    ///
    /// # Errors
    /// A report with its SQLSTATE; the transaction block, if any, has failed then.
    pub async fn execute(
        &mut self,
        parsed: &Parsed,
        parameters: Vec<ScalarValue>,
    ) -> Result<Outcome, Report> {
        if self.transaction.status() == TransactionStatus::Failed && !ends_block(&parsed.statement)
        {
            return Err(Report {
                sqlstate: "25P02",
                message: "current transaction is aborted, commands ignored until end of transaction block".into(),
                detail: None,
                hint: None,
                position: None,
            });
        }
        self.server.begin_statement(self.pid, &parsed.statement);
        self.look_at_archives(&parsed.text).await;
        let result = self.dispatch(parsed, parameters).await;
        self.server.end_statement(self.pid, result.is_ok());
        if result.is_err() {
            self.transaction.fail();
        }
        result
    }

    /// Runs one statement with parameters of the types that it was described with.
    ///
    /// # Errors
    /// As [`Session::execute`].
    pub async fn execute_described(
        &mut self,
        parsed: &Parsed,
        types: &[SqlType],
        parameters: Vec<ScalarValue>,
    ) -> Result<Outcome, Report> {
        self.described = types.to_vec();
        let outcome = self.execute(parsed, parameters).await;
        self.described.clear();
        outcome
    }

    /// The future of a statement. Each kind of statement has a boxed one of its own: their sizes do not add up on the stack, and
    /// that they are Send is proved here once, not again at every depth of the callers' futures.
    fn dispatch<'a>(
        &'a mut self,
        parsed: &'a Parsed,
        parameters: Vec<ScalarValue>,
    ) -> BoxFuture<'a, Result<Outcome, Report>> {
        let statement = &parsed.statement;
        match statement {
            Statement::Query(query) => self.query(parsed, query, parameters).boxed(),
            Statement::Insert(_) | Statement::Update(_) | Statement::Delete(_) => {
                self.write(parsed, parameters).boxed()
            }
            Statement::CreateSource(create) => self.create_source(create, statement).boxed(),
            Statement::CreateTable(create) => self.create_table(create, statement).boxed(),
            Statement::CreateArchive(create) => self.create_archive(create, statement).boxed(),
            Statement::CreateView(create) => self.create_view(create, statement).boxed(),
            Statement::CreateMaterializedView(create) => {
                self.create_materialized_view(create, statement).boxed()
            }
            Statement::CreateSink(create) => self.create_sink(create, statement).boxed(),
            Statement::CreateSchema {
                name,
                if_not_exists,
            } => self.create_schema(&name.value, *if_not_exists).boxed(),
            Statement::Drop(drop) => self.drop_objects(drop).boxed(),
            Statement::ShowObjects(show) => ready(self.show_objects(show)).boxed(),
            Statement::Describe(name) => ready(self.describe_object(name)).boxed(),
            Statement::Explain(explain) => self.explain(parsed, explain).boxed(),
            Statement::Flush => self.flush().boxed(),
            Statement::WaitFor(name) => self.wait_for(name).boxed(),
            Statement::Pause(pause) => self.pause(pause).boxed(),
            Statement::VacuumArchive(name) => self.vacuum_archive(name).boxed(),
            Statement::Backup(folder) => self.back_up(folder).boxed(),
            Statement::Truncate(tables) => self.truncate(tables).boxed(),
            Statement::Subscribe(subscribe) => self.subscribe(&parsed.text, subscribe).boxed(),
            Statement::Copy(copy) => self.copy(parsed, copy).boxed(),
            Statement::Declare(declare) => self.declare(parsed, declare, parameters).boxed(),
            Statement::Fetch(fetch) => self.fetch(fetch).boxed(),
            // The Postgres wire keeps prepared statements and runs these itself.
            Statement::Prepare(_) | Statement::Execute(_) => ready(Err(unsupported(
                "PREPARE on this connection",
                "Use the protocol's prepared statements.",
            )))
            .boxed(),
            Statement::Session(statement) => self.session_statement(statement).boxed(),
            Statement::Unsupported { name, hint } => ready(Err(unsupported(name, hint))).boxed(),
        }
    }

    async fn subscribe(&mut self, text: &str, subscribe: &Subscribe) -> Result<Outcome, Report> {
        let (columns, stream) = self.open_subscription(text, subscribe).await?;
        Ok(Outcome::Rows {
            columns,
            stream,
            tag: RowTag::Counted("SUBSCRIBE"),
        })
    }

    async fn flush(&mut self) -> Result<Outcome, Report> {
        self.transaction.check_no_writes("FLUSH")?;
        self.server
            .engine
            .flush(&mut self.floor)
            .await
            .map_err(|error| error.report())?;
        Ok(command("FLUSH"))
    }

    async fn wait_for(&mut self, name: &thalweg_sql::ast::ObjectName) -> Result<Outcome, Report> {
        self.transaction.check_no_writes("WAIT FOR")?;
        let catalog = self.catalog();
        let oid = catalog
            .resolve(&self.search_path(), name)
            .map_err(|error| error.report())?
            .oid;
        self.server
            .engine
            .wait_for(oid, &mut self.floor)
            .await
            .map_err(|error| error.report())?;
        Ok(command("WAIT FOR"))
    }

    async fn session_statement(&mut self, statement: &SessionStatement) -> Result<Outcome, Report> {
        match statement {
            SessionStatement::Set {
                name,
                values,
                local,
            } => self.set(name, values.as_deref(), *local),
            SessionStatement::Reset(name) => self.reset(name.as_deref()),
            SessionStatement::Show(name) => self.show_setting(name.as_deref()),
            SessionStatement::SetTransaction => Ok(command("SET")),
            SessionStatement::Begin { read_only } => self.begin(*read_only),
            SessionStatement::Commit => self.commit_by_name().await,
            SessionStatement::Rollback => self.rollback_by_name(),
            SessionStatement::Savepoint(name) => self.savepoint(name),
            SessionStatement::Release(name) => self.release(name),
            SessionStatement::RollbackTo(name) => self.rollback_to(name),
            SessionStatement::Discard(what) => {
                if what.eq_ignore_ascii_case("all") {
                    self.reset(None)?;
                    self.cursors.clear();
                }
                Ok(command(&format!("DISCARD {}", what.to_ascii_uppercase())))
            }
            // The wire that owns prepared statements and portals removes them; here it is only acknowledged.
            SessionStatement::Deallocate(Some(_)) => Ok(command("DEALLOCATE")),
            SessionStatement::Deallocate(None) => Ok(command("DEALLOCATE ALL")),
            SessionStatement::Close(Some(name)) => {
                // A portal of that name belongs to the wire, which has looked for it.
                self.cursors.close(name);
                Ok(command("CLOSE CURSOR"))
            }
            SessionStatement::Close(None) => {
                self.cursors.clear();
                Ok(command("CLOSE CURSOR ALL"))
            }
            SessionStatement::Listen(_) => Err(unsupported(
                "LISTEN",
                "SUBSCRIBE streams the changes of a view.",
            )),
            SessionStatement::Unlisten(_) => Ok(command("UNLISTEN")),
        }
    }

    fn set(
        &mut self,
        name: &str,
        values: Option<&[String]>,
        local: bool,
    ) -> Result<Outcome, Report> {
        let Some(values) = values else {
            self.settings.reset(name)?;
            self.report_setting(name);
            return Ok(command("SET"));
        };
        if local && self.transaction.status() == TransactionStatus::Idle {
            self.notice(Notice::warning(
                "25P01",
                "SET LOCAL can only be used in transaction blocks",
            ));
            return Ok(command("SET"));
        }
        self.transaction.remember_settings(&self.settings);
        if let SetEffect::Ignored(text) = self.settings.set(name, values)? {
            self.notice(Notice::notice(text));
        }
        if local {
            self.transaction.mark_local(name, values);
        }
        self.report_setting(name);
        Ok(command("SET"))
    }

    fn reset(&mut self, name: Option<&str>) -> Result<Outcome, Report> {
        self.transaction.remember_settings(&self.settings);
        match name {
            Some(name) => {
                self.settings.reset(name)?;
                self.report_setting(name);
            }
            None => {
                let before = self.settings.clone();
                self.settings.reset_all();
                self.report_differences(&before);
            }
        }
        Ok(command("RESET"))
    }

    fn report_setting(&mut self, name: &str) {
        if let Some(name) = REPORTED_SETTINGS
            .iter()
            .find(|reported| reported.eq_ignore_ascii_case(name))
        {
            if let Some(value) = self.setting(name) {
                self.changed.push(((*name).to_owned(), value));
            }
        }
    }

    /// Reports every setting that differs from `before`, after a block or RESET ALL put several back.
    pub(super) fn report_differences(&mut self, before: &Settings) {
        for name in REPORTED_SETTINGS {
            if before.get(name).ok() != self.setting(name) {
                self.report_setting(name);
            }
        }
    }

    /// A planning context; `now_us` is `None` for a view, whose `now()` moves with its epochs.
    pub(super) fn context<'a>(
        &'a self,
        scope: &'a PlanScope,
        now_us: Option<i64>,
    ) -> PlanContext<'a> {
        PlanContext {
            catalog: &scope.catalog,
            search_path: &scope.search_path,
            time_zone: &scope.time_zone,
            now_us,
            system: &scope.system as &dyn SystemRelations,
            user: &self.user,
            parameter_types: &scope.parameter_types,
            text: &scope.text,
        }
    }

    /// What planning one statement borrows.
    pub(super) fn scope(&self, text: &str, parameter_types: Vec<Option<SqlType>>) -> PlanScope {
        let catalog = self.catalog();
        PlanScope {
            system: self.system(&catalog, text),
            catalog,
            search_path: self.search_path(),
            time_zone: self.setting("TimeZone").unwrap_or_else(|| "UTC".to_owned()),
            parameter_types,
            text: text.to_owned(),
        }
    }
}

impl PlanScope {
    /// The scope of a read: nobody keeps the rows of these materialized views yet, so their queries stand for them.
    pub(super) fn with_views(self, views: &[thalweg_catalog::Oid]) -> Self {
        match views {
            [] => self,
            views => Self {
                catalog: Arc::new(self.catalog.with_views(views)),
                ..self
            },
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.server.disconnect(self.pid);
    }
}

/// Owned values behind a [`PlanContext`].
pub(super) struct PlanScope {
    pub(super) catalog: Arc<Catalog>,
    pub(super) search_path: Vec<String>,
    pub(super) time_zone: String,
    pub(super) system: SystemCatalog,
    pub(super) parameter_types: Vec<Option<SqlType>>,
    pub(super) text: String,
}

/// A finished command.
pub(super) fn command(tag: &str) -> Outcome {
    Outcome::Command {
        tag: tag.to_owned(),
    }
}

/// 0A000 for something the dialect promises and this version has not built.
pub(super) fn unsupported(name: &str, hint: &str) -> Report {
    Report {
        sqlstate: "0A000",
        message: format!("{name} is not supported yet"),
        detail: None,
        hint: (!hint.is_empty()).then(|| hint.to_owned()),
        position: None,
    }
}

fn ends_block(statement: &Statement) -> bool {
    matches!(
        statement,
        Statement::Session(
            SessionStatement::Commit | SessionStatement::Rollback | SessionStatement::RollbackTo(_)
        )
    )
}
