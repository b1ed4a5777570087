//! State shared by all sessions: catalog, engine, planner, connections.
//!
//! Invariant: the catalog snapshot only moves forward, under the DDL lock, after the change is durable.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};

use parking_lot::{Mutex, RwLock};
use thalweg_catalog::{Catalog, CatalogLog, Change, OidAllocator, Relation, RelationKind};
use thalweg_connectors::{Clock, ConnectorContext};
use thalweg_engine::{
    Definitions, Engine, EngineConfig, EngineStatus, SessionFloor, WriteTransaction,
};
use thalweg_planner::{Functions, PlanContext, Planner, ViewPlan};
use thalweg_sql::{Report, Statement};
use thalweg_state::{DataDir, Runs, StateError, Store, SystemDisk};
use tokio::runtime::Handle;

use super::ddl::Effect;
use super::session::PlanScope;
use crate::config::Config;
use crate::system::{SessionFacts, SystemCatalog};

/// What a server is opened with; everything that varies between a test and production comes in here.
#[derive(Debug, Clone)]
pub struct ServerOptions {
    /// Settings.
    pub config: Config,
    /// The wall clock.
    pub clock: Arc<dyn Clock>,
}

/// One open connection, for `pg_stat_activity` and `sys.connections`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectionInfo {
    /// Process id as clients see it.
    pub pid: i32,
    /// Role.
    pub user: String,
    /// Database.
    pub database: String,
    /// `application_name`.
    pub application_name: String,
    /// Start of the session, microseconds since the Unix epoch.
    pub started_us: i64,
    /// Text of the running or last statement, redacted.
    pub statement: String,
    /// True while a statement runs.
    pub active: bool,
}

/// The shared server.
#[derive(Debug)]
pub struct Server {
    pub(super) planner: Arc<Planner>,
    pub(super) engine: Engine,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) config: Config,
    /// Serialises the append of a change with its publication and its effect on the engine.
    ddl: Arc<tokio::sync::Mutex<()>>,
    /// OIDs are reserved here before the catalog change that uses them is staged, so that open blocks never share one.
    pub(super) oids: Mutex<OidAllocator>,
    catalog: Arc<RwLock<Arc<Catalog>>>,
    log: Arc<CatalogLog>,
    connections: Mutex<BTreeMap<i32, ConnectionInfo>>,
    /// Names the data dir in outside systems.
    installation: [u8; 16],
    process: [u8; 16],
    next_pid: AtomicI32,
    statements_ok: AtomicU64,
    statements_failed: AtomicU64,
}

pub(super) fn internal(message: impl Into<String>) -> Report {
    Report::new("XX000", message)
}

/// A name for a process, or for a data dir that has none yet: a random UUID.
fn fresh_name() -> Result<[u8; 16], Report> {
    let mut random = [0; 16];
    getrandom::fill(&mut random).map_err(|error| internal(error.to_string()))?;
    Ok(uuid::Builder::from_random_bytes(random)
        .into_uuid()
        .into_bytes())
}

/// A block's definitions do not fit the catalog any more.
fn overtaken(reason: &Report) -> Report {
    Report {
        sqlstate: "40001",
        message: "could not serialize access due to concurrent update".into(),
        detail: reason
            .detail
            .clone()
            .or_else(|| Some(reason.message.clone())),
        hint: Some("Run the transaction again.".into()),
        position: None,
    }
}

impl Server {
    /// Opens the data dir's stores and brings every stored object back.
    ///
    /// # Errors
    /// A store that does not open, or an object that can no longer be planned.
    pub fn open(options: ServerOptions, runtime: Handle) -> Result<Arc<Self>, Report> {
        let ServerOptions { config, clock } = options;
        let stored = |error: StateError| Report {
            hint: error.hint().map(Into::into),
            ..Report::new(error.sqlstate(), error.to_string())
        };
        let disk = Arc::new(SystemDisk);
        let dir = DataDir::open(disk, &config.data_dir, config.crash_points.clone());
        let dir = dir.map_err(stored)?;
        let (log, catalog) = CatalogLog::open(dir.database()).map_err(|error| error.report())?;
        let store = Store::open_in(&dir).map_err(stored)?;
        let runs = Runs::open(&dir, &store).map_err(stored)?;
        let installation = store.installation(fresh_name()?).map_err(stored)?;
        let process = fresh_name()?;
        // The store is the one that closes the file; nothing else may keep it open.
        drop(dir);
        let planner = Arc::new(Planner::new(Functions::default()));
        let engine_config = EngineConfig {
            linger: config.epoch_linger,
            snapshot_history: config.snapshot_history,
            memory_max: config.memory_bytes,
            state_memory_max: config.state_memory_bytes,
            query_memory_max: config.query_memory_bytes,
            file_root: config.file_root.clone(),
            workers: config.workers,
            checkpoint_interval: config.checkpoint_interval,
            disk_reserve: config.disk_reserve,
            crash_points: config.crash_points.clone(),
            installation,
            process,
            ..EngineConfig::default()
        };
        let engine = Engine::open(
            engine_config,
            Arc::new(store),
            runs,
            Arc::clone(&planner),
            Arc::clone(&clock),
            runtime,
        )
        .map_err(|error| error.report())?;
        let server = Arc::new(Self {
            planner,
            engine,
            clock,
            config,
            ddl: Arc::default(),
            oids: Mutex::new(OidAllocator::new(&catalog)),
            catalog: Arc::new(RwLock::new(Arc::clone(&catalog))),
            log: Arc::new(log),
            connections: Mutex::new(BTreeMap::new()),
            installation,
            process,
            next_pid: AtomicI32::new(1),
            statements_ok: AtomicU64::new(0),
            statements_failed: AtomicU64::new(0),
        });
        server.restore(&catalog)?;
        Ok(server)
    }

    /// Gives every stored relation back to the engine, in OID order: a relation is created after what it reads.
    fn restore(self: &Arc<Self>, catalog: &Arc<Catalog>) -> Result<(), Report> {
        for relation in catalog.relations() {
            if matches!(relation.kind, RelationKind::View { .. }) {
                continue;
            }
            let started = self.stored_plan(catalog, relation).and_then(|plan| {
                self.engine
                    .create(catalog, relation, plan)
                    .map_err(|error| error.report())
            });
            // One object that does not start must not keep the others down.
            if let Err(report) = started {
                self.engine.create_failed(relation, &report);
            }
        }
        self.engine
            .forget_dropped(catalog)
            .map_err(|error| error.report())
    }

    /// Plans a stored definition in the environment it was made in.
    pub(super) fn stored_plan(
        self: &Arc<Self>,
        catalog: &Arc<Catalog>,
        relation: &Relation,
    ) -> Result<Option<ViewPlan>, Report> {
        let Some(text) = relation.query() else {
            return Ok(None);
        };
        let query = thalweg_sql::parse_query(text).map_err(|error| error.report())?;
        let names: Vec<_> = relation
            .columns
            .iter()
            .map(|column| thalweg_sql::ast::Ident::with_quote('"', &column.name))
            .collect();
        let facts = SessionFacts {
            user: "thalweg".to_owned(),
            database: catalog.database().to_owned(),
            search_path: relation.environment.search_path.clone(),
            backend_pid: 0,
            settings: Vec::new(),
        };
        let scope = PlanScope {
            catalog: Arc::clone(catalog),
            search_path: relation.environment.search_path.clone(),
            time_zone: relation.environment.time_zone.clone(),
            system: SystemCatalog::new(Arc::clone(catalog), facts, None),
            parameter_types: Vec::new(),
            text: text.to_owned(),
        };
        let context = PlanContext {
            catalog: &scope.catalog,
            search_path: &scope.search_path,
            time_zone: &scope.time_zone,
            now_us: None,
            system: &scope.system,
            user: "thalweg",
            parameter_types: &[],
            text: &scope.text,
        };
        self.planner
            .view(&context, &query, &names)
            .map(Some)
            .map_err(|error| error.report())
    }

    /// The newest catalog snapshot.
    pub fn catalog(&self) -> Arc<Catalog> {
        Arc::clone(&self.catalog.read())
    }

    /// The engine's published status.
    pub fn status(&self) -> EngineStatus {
        self.engine.status()
    }

    /// Makes a checkpoint now, on a thread that may wait.
    ///
    /// # Errors
    /// What the disk reports.
    pub fn checkpoint(&self) -> Result<(), Report> {
        let saved = self.engine.checkpoint();
        saved.map(drop).map_err(|error| error.report())
    }

    /// What connectors need from outside.
    pub(super) fn connector_context(&self) -> ConnectorContext {
        let file_root = self.config.file_root.clone();
        ConnectorContext::new(Arc::clone(&self.clock))
            .with_file_root(file_root)
            .with_installation(self.installation)
            .with_process(self.process)
    }

    /// Makes definitions and the rows of their block durable and visible, all at one epoch. Everything that can fail is done
    /// before; an error means that nothing has happened.
    pub(super) async fn apply_ddl(
        &self,
        changes: Vec<Change>,
        effects: Vec<Effect>,
        rows: WriteTransaction,
        floor: &mut SessionFloor,
    ) -> Result<(), Report> {
        let serial = Arc::clone(&self.ddl).lock_owned().await;
        let current = self.catalog();
        // Checked when it was staged; what has changed since is another session's doing.
        let next = thalweg_catalog::apply_all(&current, &changes)
            .map_err(|error| overtaken(&error.report()))?;
        let next = Arc::new(next);
        let (mut create, mut drop, mut pause) = (Vec::new(), Vec::new(), Vec::new());
        for effect in effects {
            match effect {
                Effect::Create { relation, plan } => {
                    create.push((*relation, plan.map(|plan| *plan)))
                }
                Effect::Drop(oids) => drop.extend(oids),
                Effect::Pause(oid, paused) => pause.push((oid, paused)),
            }
        }
        let (log, catalog, shown) = (
            Arc::clone(&self.log),
            Arc::clone(&self.catalog),
            Arc::clone(&next),
        );
        let definitions = Definitions {
            catalog: next,
            create,
            drop,
            pause: pause.clone(),
            append: Box::new(move |transaction| {
                log.append_in(transaction, &current, &changes)
                    .map(std::mem::drop)
                    .map_err(|error| error.report())
            }),
            publish: Box::new(move || {
                *catalog.write() = shown;
                // Held until here even when the session goes away meanwhile.
                std::mem::drop(serial);
            }),
        };
        let committed = self.engine.commit(rows, Some(definitions), floor).await;
        committed.map_err(|error| error.report())?;
        for (oid, _) in pause.iter().filter(|(_, paused)| *paused) {
            self.engine.settled(*oid).await;
        }
        Ok(())
    }

    /// A process id for a new session.
    pub(super) fn next_pid(&self) -> i32 {
        self.next_pid.fetch_add(1, Ordering::Relaxed)
    }

    pub(super) fn connect(&self, info: ConnectionInfo) {
        self.connections.lock().insert(info.pid, info);
    }

    pub(super) fn disconnect(&self, pid: i32) {
        self.connections.lock().remove(&pid);
    }

    pub(super) fn begin_statement(&self, pid: i32, statement: &Statement) {
        if let Some(connection) = self.connections.lock().get_mut(&pid) {
            let mut text = thalweg_sql::redacted(statement);
            if text.len() > 1000 {
                let end = (0..=1000)
                    .rev()
                    .find(|end| text.is_char_boundary(*end))
                    .unwrap_or(0);
                text.truncate(end);
            }
            connection.statement = text;
            connection.active = true;
        }
    }

    pub(super) fn end_statement(&self, pid: i32, ok: bool) {
        let counter = if ok {
            &self.statements_ok
        } else {
            &self.statements_failed
        };
        counter.fetch_add(1, Ordering::Relaxed);
        if let Some(connection) = self.connections.lock().get_mut(&pid) {
            connection.active = false;
        }
    }

    /// Open sessions, by process id.
    pub fn connections(&self) -> Vec<ConnectionInfo> {
        self.connections.lock().values().cloned().collect()
    }

    /// Statements that succeeded and that failed since the start.
    pub fn statement_counts(&self) -> (u64, u64) {
        (
            self.statements_ok.load(Ordering::Relaxed),
            self.statements_failed.load(Ordering::Relaxed),
        )
    }

    /// Settings the server runs with.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Stops the engine; call once no session is left.
    pub fn stop(&self) {
        self.engine.shutdown();
    }
}
