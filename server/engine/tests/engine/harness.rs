//! A small server without wires: parses, plans and runs statements against an engine over a scratch folder.
//!
//! Invariant: reopening uses only what is on disk, plus the catalog, which a server would have logged.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use datafusion::arrow::record_batch::RecordBatch;
use datafusion::arrow::util::display::{ArrayFormatter, FormatOptions};
use datafusion::common::ScalarValue;
use futures::StreamExt;
use thalweg_catalog::{
    Catalog, CatalogLog, Change, Column, ConnectorSpec, Environment, Oid, OidAllocator, Relation,
    RelationBuilder, RelationKind, Report, SinkFormat, SinkSpec, SqlType, apply, errors_relation,
};
use thalweg_connectors::{Clock, Epoch, SystemClock};
use thalweg_engine::{
    Consistency, Definitions, Engine, EngineConfig, EngineError, ReadOptions, SessionFloor,
    WriteTransaction,
};
use thalweg_planner::{
    DmlPlan, Functions, NoSystemRelations, PlanContext, Planner, QueryPlan, ViewPlan,
};
use thalweg_sql::{OptionValue, SinkInput, Statement, WithOption, parse, parse_query};
use thalweg_state::{CrashPoints, DataDir, Runs, Store};

use crate::folder::Folder;

/// Rows as text, in the order they came.
pub(crate) type Rows = Vec<String>;

/// A database on disk with an engine over it.
pub(crate) struct Db {
    folder: Folder,
    pub(crate) runtime: Arc<tokio::runtime::Runtime>,
    pub(crate) engine: Engine,
    pub(crate) planner: Arc<Planner>,
    pub(crate) catalog: Arc<Catalog>,
    pub(crate) config: EngineConfig,
}

/// A connection: its own floor over a shared engine.
pub(crate) struct Session {
    runtime: Arc<tokio::runtime::Runtime>,
    engine: Engine,
    planner: Arc<Planner>,
    catalog: Arc<Catalog>,
    pub(crate) floor: SessionFloor,
    pub(crate) options: ReadOptions,
    block: Option<WriteTransaction>,
}

impl Db {
    pub(crate) fn new() -> Db {
        Db::with(EngineConfig::default())
    }

    pub(crate) fn with(config: EngineConfig) -> Db {
        Db::with_functions(config, Functions::default())
    }

    /// A database that knows functions of the test's own.
    pub(crate) fn with_functions(config: EngineConfig, functions: Functions) -> Db {
        let folder = Folder::scratch();
        let mut closed = Closed::new(folder, Arc::new(Catalog::empty()), config);
        closed.planner = Arc::new(Planner::new(functions));
        closed.open().expect("opens")
    }

    /// A database in a folder that stays, with the log of its catalog.
    pub(crate) fn at(path: &Path) -> (Db, CatalogLog) {
        let folder = Folder::at(path);
        let dir = folder.open().expect("the file is free");
        let (log, catalog) = CatalogLog::open(dir.database()).expect("opens");
        let closed = Closed::new(folder, catalog, EngineConfig::default());
        (closed.open_over(dir).expect("opens"), log)
    }

    /// Stops the engine.
    pub(crate) fn close(self) -> Closed {
        self.engine.shutdown();
        Closed {
            folder: self.folder.sound(),
            runtime: self.runtime,
            planner: self.planner,
            catalog: self.catalog,
            config: self.config,
        }
    }

    /// The files of state that does not fit into memory.
    pub(crate) fn spilled_files(&self) -> Vec<PathBuf> {
        self.folder.spilled()
    }

    pub(crate) fn reopen(self) -> Db {
        self.close().open().expect("reopens")
    }

    pub(crate) fn session(&self) -> Session {
        Session {
            runtime: Arc::clone(&self.runtime),
            engine: self.engine.clone(),
            planner: Arc::clone(&self.planner),
            catalog: Arc::clone(&self.catalog),
            floor: SessionFloor::default(),
            options: ReadOptions::default(),
            block: None,
        }
    }

    /// Runs statements that must succeed.
    pub(crate) fn ok(&mut self, sql: &str) {
        for parsed in parse(sql).unwrap_or_else(|error| panic!("{sql}: {}", error.report().message))
        {
            self.one(&parsed.statement)
                .unwrap_or_else(|error| panic!("{}: {error:?}", parsed.text));
        }
    }

    /// Runs a statement until it succeeds: a view in ERROR fails whoever waits for it until it has been tried again.
    pub(crate) fn until_ok(&mut self, sql: &str) {
        let parsed = parse(sql).expect("parses");
        let statement = &parsed.first().expect("a statement").statement;
        let begun = std::time::Instant::now();
        while let Err(report) = self.one(statement) {
            assert!(begun.elapsed().as_secs() < 60, "{sql}: {report:?}");
        }
    }

    /// Runs a statement that must fail.
    pub(crate) fn fails(&mut self, sql: &str) -> Report {
        let parsed = parse(sql).expect("parses");
        match self.one(&parsed.first().expect("a statement").statement) {
            Err(report) => report,
            Ok(rows) => panic!("{sql} did not fail: {rows:?}"),
        }
    }

    fn one(&mut self, statement: &Statement) -> Result<Rows, Report> {
        match statement {
            Statement::CreateTable(_) => {
                let relation = self.table(statement)?;
                self.add(relation, None).map(|()| Vec::new())
            }
            Statement::CreateSource(create) => self.create_source(create).map(|()| Vec::new()),
            Statement::CreateMaterializedView(view) => {
                let query = view.query.to_string();
                let plan = self.plan_view(&query)?;
                let options = options(&view.with);
                let kind = RelationKind::MaterializedView { query, options };
                let relation =
                    self.build(&last(&view.name), kind, None, &columns(&plan), &plan.reads)?;
                self.add(relation, Some(plan)).map(|()| Vec::new())
            }
            Statement::CreateSink(sink) => {
                let query = match &sink.input {
                    SinkInput::Relation(name) => format!("SELECT * FROM {name}"),
                    SinkInput::Query(query) => query.to_string(),
                };
                let plan = self.plan_view(&query)?;
                let mut options = options(&sink.with);
                let connector = options.remove("connector").unwrap_or_default();
                let delivery = options.remove("delivery");
                let delivery = delivery.unwrap_or_else(|| "at_least_once".to_string());
                let format = options.get("primary_key").map(|key| SinkFormat {
                    row: "UPSERT".into(),
                    encode: "JSON".into(),
                    key_encode: "JSON".into(),
                    key: plan
                        .output
                        .iter()
                        .position(|column| column.name == *key)
                        .into_iter()
                        .collect(),
                });
                let kind = RelationKind::Sink(SinkSpec {
                    connector,
                    options,
                    query,
                    delivery,
                    format,
                    into: sink.into.as_ref().map(|name| self.oid(&last(name))),
                });
                let relation =
                    self.build(&last(&sink.name), kind, None, &columns(&plan), &plan.reads)?;
                self.add(relation, Some(plan)).map(|()| Vec::new())
            }
            Statement::Drop(drop) => {
                let oids: Vec<Oid> = drop
                    .names
                    .iter()
                    .map(|name| self.oid(&last(name)))
                    .collect();
                self.engine
                    .drop_relations(&oids)
                    .map_err(|error| error.report())?;
                for oid in oids.iter().rev() {
                    self.catalog = Arc::new(
                        apply(&self.catalog, &Change::DropRelation(*oid))
                            .map_err(|e| e.report())?,
                    );
                }
                Ok(Vec::new())
            }
            Statement::Pause(pause) => self.pause(pause).map(|()| Vec::new()),
            Statement::Flush => {
                self.runtime
                    .block_on(self.engine.flush(&mut SessionFloor::default()))
                    .map_err(|error| error.report())?;
                Ok(Vec::new())
            }
            Statement::WaitFor(name) => {
                let oid = self.oid(&last(name));
                self.runtime
                    .block_on(self.engine.wait_for(oid, &mut SessionFloor::default()))
                    .map_err(|error| error.report())?;
                Ok(Vec::new())
            }
            _ => self.session().statement(statement),
        }
    }

    fn pause(&mut self, pause: &thalweg_sql::Pause) -> Result<(), Report> {
        let (oid, paused) = (self.oid(&last(&pause.name)), pause.paused);
        let change = Change::Pause { oid, paused };
        let catalog = Arc::new(apply(&self.catalog, &change).map_err(|error| error.report())?);
        let definitions = Definitions {
            catalog: Arc::clone(&catalog),
            create: Vec::new(),
            drop: Vec::new(),
            pause: vec![(oid, paused)],
            append: Box::new(|_| Ok(())),
            publish: Box::new(|| {}),
        };
        self.session().commit_with(Some(definitions))?;
        self.catalog = catalog;
        if paused {
            self.runtime.block_on(self.engine.settled(oid));
        }
        Ok(())
    }

    /// Defines a table, and nothing more.
    pub(crate) fn table(&self, statement: &Statement) -> Result<Relation, Report> {
        let Statement::CreateTable(create) = statement else {
            panic!("{statement} creates no table");
        };
        let kind = match create.with.is_empty() {
            true => RelationKind::Table,
            false => RelationKind::External(connector(&create.with)),
        };
        let elements = Some(&create.elements);
        self.build(&last(&create.name), kind, elements, &[], &[])
    }

    fn create_source(&mut self, create: &thalweg_sql::CreateSource) -> Result<(), Report> {
        let kind = RelationKind::Source(connector(&create.with));
        let source = self.build(&last(&create.name), kind, Some(&create.elements), &[], &[])?;
        self.add(source.clone(), None)?;
        let mut oids = OidAllocator::new(&self.catalog);
        let errors =
            errors_relation(&self.catalog, &mut oids, &source).map_err(|error| error.report())?;
        self.add(errors, None)
    }

    fn build(
        &self,
        name: &str,
        kind: RelationKind,
        elements: Option<&thalweg_sql::TableElements>,
        columns: &[Column],
        reads: &[Oid],
    ) -> Result<Relation, Report> {
        let fail = |error: thalweg_catalog::CatalogError| error.report();
        let mut oids = OidAllocator::new(&self.catalog);
        let schema = self.catalog.schema("public").expect("public").oid;
        let mut builder =
            RelationBuilder::new(&self.catalog, &mut oids, schema, name, kind).map_err(fail)?;
        builder.columns(columns.to_vec()).map_err(fail)?;
        if let Some(elements) = elements {
            for column in &elements.columns {
                let ty =
                    SqlType::from_ast(column.data_type.as_ref().expect("a type")).map_err(fail)?;
                let mut data = Column::data(&column.name.value, 0, ty);
                data.not_null = column.not_null;
                data.generated = column.generated.as_ref().map(ToString::to_string);
                builder.column(data).map_err(fail)?;
            }
            if let Some(key) = &elements.primary_key {
                let names: Vec<&str> = key
                    .columns
                    .iter()
                    .map(|column| column.value.as_str())
                    .collect();
                builder.primary_key(None, &names).map_err(fail)?;
            }
            for check in &elements.checks {
                let violation = check.on_violation.as_deref().unwrap_or("FAIL");
                builder
                    .check(None, check.expr.to_string(), violation)
                    .map_err(fail)?;
            }
        }
        builder.definition(
            "",
            Environment {
                time_zone: "UTC".into(),
                search_path: vec!["public".into()],
            },
        );
        builder
            .depends_on(reads.iter().copied())
            .created_at_ms(SystemClock.now_us() / 1000);
        Ok(builder.build())
    }

    fn add(&mut self, relation: Relation, plan: Option<ViewPlan>) -> Result<(), Report> {
        let change = Change::CreateRelation(Box::new(relation.clone()));
        let catalog = Arc::new(apply(&self.catalog, &change).map_err(|error| error.report())?);
        self.engine
            .create(&catalog, &relation, plan)
            .map_err(|error| error.report())?;
        self.catalog = catalog;
        Ok(())
    }

    fn plan_view(&self, query: &str) -> Result<ViewPlan, Report> {
        plan_view(&self.planner, &self.catalog, query)
    }

    pub(crate) fn oid(&self, name: &str) -> Oid {
        self.catalog
            .find("public", name)
            .unwrap_or_else(|| panic!("no relation {name}"))
            .oid
    }

    /// Sorted rows of a query that must succeed.
    pub(crate) fn rows(&self, sql: &str) -> Rows {
        self.session().rows(sql)
    }

    /// The files of runs.
    pub(crate) fn runs(&self) -> Vec<PathBuf> {
        self.folder.runs()
    }

    /// Waits until the condition on the status holds.
    pub(crate) fn until(&self, what: &str, holds: impl Fn(&thalweg_engine::EngineStatus) -> bool) {
        let deadline = std::time::Instant::now() + Duration::from_secs(120);
        while !holds(&self.engine.status()) {
            assert!(
                std::time::Instant::now() < deadline,
                "{what} did not happen: {:#?}",
                self.engine.status()
            );
            std::thread::park_timeout(Duration::from_millis(5));
        }
    }
}

/// What is left of a database when its engine has stopped.
pub(crate) struct Closed {
    pub(crate) folder: Folder,
    runtime: Arc<tokio::runtime::Runtime>,
    planner: Arc<Planner>,
    catalog: Arc<Catalog>,
    pub(crate) config: EngineConfig,
}

impl Closed {
    fn new(folder: Folder, catalog: Arc<Catalog>, config: EngineConfig) -> Closed {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build();
        Closed {
            folder,
            runtime: Arc::new(runtime.expect("a runtime")),
            planner: Arc::new(Planner::new(Functions::default())),
            catalog,
            config,
        }
    }

    pub(crate) fn file(&self) -> PathBuf {
        self.folder.file()
    }

    /// The files of runs.
    pub(crate) fn runs(&self) -> Vec<PathBuf> {
        self.folder.runs()
    }

    /// Has the next engine fail at a step.
    pub(crate) fn failing(mut self, points: CrashPoints) -> Closed {
        self.folder.points = points;
        self
    }

    /// Changes what is on disk.
    pub(crate) fn with_runs(&self, change: impl FnOnce(&Runs)) {
        let dir = self.folder.open().expect("the file is free");
        let store = Store::open(dir.database()).expect("opens");
        change(&Runs::open(&dir, &store).expect("opens"));
    }

    pub(crate) fn open(self) -> Result<Db, EngineError> {
        // An engine that was shut down has closed the file, whoever still holds it.
        let dir = self.folder.open()?;
        self.open_over(dir)
    }

    fn open_over(self, dir: DataDir) -> Result<Db, EngineError> {
        let store = Store::open_in(&dir)?;
        let runs = Runs::open(&dir, &store)?;
        drop(dir);
        let engine = Engine::open(
            self.config.clone(),
            Arc::new(store),
            runs,
            Arc::clone(&self.planner),
            Arc::new(SystemClock),
            self.runtime.handle().clone(),
        )?;
        engine.forget_dropped(&self.catalog)?;
        let mut relations: Vec<&Relation> = self.catalog.relations().collect();
        relations.sort_by_key(|relation| relation.oid);
        for relation in relations {
            let query = match &relation.kind {
                RelationKind::MaterializedView { query, .. } => Some(query),
                RelationKind::Sink(spec) => Some(&spec.query),
                _ => None,
            };
            let plan = query
                .map(|query| plan_view(&self.planner, &self.catalog, query).expect("plans again"));
            // As a server does: what cannot be started is there in state ERROR.
            if let Err(error) = engine.create(&self.catalog, relation, plan) {
                engine.create_failed(relation, &error.report());
            }
        }
        let Closed {
            folder,
            runtime,
            planner,
            catalog,
            config,
        } = self;
        Ok(Db {
            folder,
            runtime,
            engine,
            planner,
            catalog,
            config,
        })
    }
}

impl Session {
    pub(crate) fn statement(&mut self, statement: &Statement) -> Result<Rows, Report> {
        let search_path = vec!["public".to_string()];
        let text = statement.to_string();
        let planner = Arc::clone(&self.planner);
        let catalog = Arc::clone(&self.catalog);
        let now_us = SystemClock.now_us();
        let context = context(&catalog, &search_path, &text, Some(now_us));
        let dml = match statement {
            Statement::Query(query) => {
                let plan = planner
                    .query(&context, query)
                    .map_err(|error| error.report())?;
                return self.read(&plan, now_us);
            }
            Statement::Insert(insert) => planner.insert(&context, insert),
            Statement::Update(update) => planner.update(&context, update),
            Statement::Delete(delete) => planner.delete(&context, delete),
            other => panic!("the harness does not run {other}"),
        };
        self.write(&dml.map_err(|error| error.report())?)
    }

    fn read(&mut self, plan: &QueryPlan, now_us: i64) -> Result<Rows, Report> {
        let options = ReadOptions {
            at_now_us: now_us,
            ..self.options
        };
        let (engine, floor) = (self.engine.clone(), &mut self.floor);
        let block = self.block.as_ref();
        let batches = self.runtime.block_on(async {
            let mut read = engine
                .read(&plan.plan, &plan.reads, floor, &options, block)
                .await
                .map_err(|error| error.report())?;
            let mut batches = Vec::new();
            while let Some(batch) = read.stream.next().await {
                batches.push(batch.map_err(|error| Planner::classify(&error))?);
            }
            Ok::<_, Report>(batches)
        })?;
        Ok(text(&batches))
    }

    fn write(&mut self, plan: &DmlPlan) -> Result<Rows, Report> {
        let options = ReadOptions {
            at_now_us: SystemClock.now_us(),
            ..self.options
        };
        let block = self.block.as_mut();
        let written =
            self.runtime
                .block_on(self.engine.write(plan, &mut self.floor, &options, block));
        let written = written.map_err(|error| error.report())?;
        Ok(written
            .returning
            .map_or_else(|| vec![written.rows.to_string()], |rows| text(&rows)))
    }

    pub(crate) fn begin(&mut self) {
        self.block = Some(WriteTransaction::default());
    }

    pub(crate) fn rollback(&mut self) {
        self.block = None;
    }

    pub(crate) fn commit(&mut self) -> Result<Epoch, Report> {
        self.commit_with(None)
    }

    pub(crate) fn commit_with(
        &mut self,
        definitions: Option<Definitions>,
    ) -> Result<Epoch, Report> {
        let block = self.block.take().unwrap_or_default();
        self.runtime
            .block_on(self.engine.commit(block, definitions, &mut self.floor))
            .map_err(|error| error.report())
    }

    /// Creates a table in the open block.
    pub(crate) fn stage(&mut self, catalog: &Arc<Catalog>, table: &Relation) {
        let block = self.block.as_mut().expect("a block");
        let staged = self.engine.stage_table(block, catalog, table);
        staged.expect("stages");
        self.catalog = Arc::clone(catalog);
    }

    /// Runs one INSERT with parameters.
    pub(crate) fn insert(&mut self, sql: &str, values: &[ScalarValue]) -> Result<Rows, Report> {
        let parsed = parse(sql).map_err(|error| error.report())?;
        let search_path = vec!["public".to_string()];
        let catalog = Arc::clone(&self.catalog);
        let context = context(&catalog, &search_path, sql, Some(0));
        let Some(Statement::Insert(insert)) = parsed.first().map(|parsed| &parsed.statement) else {
            panic!("{sql} is no INSERT");
        };
        let plan = self.planner.insert(&context, insert);
        let plan = plan.and_then(|plan| self.planner.bind_dml_parameters(plan, values));
        self.write(&plan.map_err(|error| error.report())?)
    }

    /// Runs one statement.
    pub(crate) fn run(&mut self, sql: &str) -> Result<Rows, Report> {
        let parsed = parse(sql).map_err(|error| error.report())?;
        self.statement(&parsed.first().expect("a statement").statement)
    }

    /// Sorted rows of a query that must succeed.
    pub(crate) fn rows(&mut self, sql: &str) -> Rows {
        let mut rows = self
            .run(sql)
            .unwrap_or_else(|error| panic!("{sql}: {error:?}"));
        rows.sort();
        rows
    }

    pub(crate) fn eventual(mut self) -> Self {
        self.options.consistency = Consistency::Eventual;
        self
    }

    pub(crate) fn patience(mut self, wait: Duration) -> Self {
        self.options.wait_timeout = wait;
        self
    }
}

fn plan_view(planner: &Planner, catalog: &Catalog, query: &str) -> Result<ViewPlan, Report> {
    let search_path = vec!["public".to_string()];
    let context = context(catalog, &search_path, query, None);
    let parsed = parse_query(query).map_err(|error| error.report())?;
    planner
        .view(&context, &parsed, &[])
        .map_err(|error| error.report())
}

fn context<'a>(
    catalog: &'a Catalog,
    search_path: &'a [String],
    text: &'a str,
    now_us: Option<i64>,
) -> PlanContext<'a> {
    PlanContext {
        catalog,
        search_path,
        time_zone: "UTC",
        now_us,
        system: &NoSystemRelations,
        user: "test",
        parameter_types: &[],
        text,
    }
}

fn columns(plan: &ViewPlan) -> Vec<Column> {
    plan.output
        .iter()
        .map(|column| Column::data(&column.name, 0, column.ty.clone()))
        .collect()
}

fn connector(with: &[WithOption]) -> ConnectorSpec {
    let mut options = options(with);
    ConnectorSpec {
        connector: options.remove("connector").unwrap_or_default(),
        options,
        format: "PLAIN".into(),
        encode: "NATIVE".into(),
        encode_options: Default::default(),
        start: Default::default(),
        watermark: None,
    }
}

fn options(with: &[WithOption]) -> std::collections::BTreeMap<String, String> {
    let text = |value: &OptionValue| match value {
        OptionValue::String(text)
        | OptionValue::Number(text)
        | OptionValue::Ident(text)
        | OptionValue::Secret(text) => text.clone(),
        OptionValue::Bool(flag) => flag.to_string(),
    };
    with.iter()
        .map(|option| (option.name.clone(), text(&option.value)))
        .collect()
}

fn last(name: &thalweg_sql::ast::ObjectName) -> String {
    name.to_string()
        .rsplit('.')
        .next()
        .unwrap_or_default()
        .to_string()
}

fn text(batches: &[RecordBatch]) -> Rows {
    let format = FormatOptions::new().with_null("null");
    let mut out = Vec::new();
    for batch in batches {
        let columns: Vec<_> = batch
            .columns()
            .iter()
            .map(|column| ArrayFormatter::try_new(column.as_ref(), &format).expect("prints"))
            .collect();
        for row in 0..batch.num_rows() {
            let values: Vec<String> = columns
                .iter()
                .map(|column| column.value(row).to_string())
                .collect();
            out.push(values.join("|"));
        }
    }
    out
}
