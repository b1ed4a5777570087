//! Turns catalog objects into what the engine runs, at CREATE and at every start.
//!
//! Invariant: an object starts from what the logs hold for it. OIDs are never reused, so a new object finds nothing and an old one
//! finds exactly its own.

use std::collections::BTreeMap;
use std::sync::Arc;

use datafusion::arrow::datatypes::{Schema, SchemaRef};
use datafusion::common::DFSchema;
use parking_lot::Mutex;
use thalweg_catalog::{Catalog, Column, Feed, Oid, Relation, RelationKind, Report, SinkSpec};
use thalweg_connectors::{AnySink, EpochInfo, Form, Offsets};
use thalweg_planner::{NoSystemRelations, PlanContext, ViewPlan};
use tokio::sync::oneshot;

use crate::archive::{Archive, feed_of};
use crate::batch::session_at;
use crate::checkpoint;
use crate::committing::{Open, opener};
use crate::dead::DeadLog;
use crate::error::EngineError;
use crate::external::External;
use crate::inbox::{Command, Registration};
use crate::into_table::TableOutlet;
use crate::job::Job;
use crate::messages::MessageOutlet;
use crate::pause::Hold;
use crate::relation::Version;
use crate::shape::Shape;
use crate::shared::{Shared, Stored};
use crate::sink_log::SinkLog;
use crate::sinks::Outlet;
use crate::source::{Source, SourceState, decode_offsets, error_options};
use crate::status::ErrorRecord;
use crate::table::{KeyIndex, Table, TableCheck, TableColumn};

/// Sinks that start to deliver once their jobs are in place.
pub(crate) type Sinks = Vec<(Arc<Job>, Outlet)>;

pub(crate) fn create(
    shared: &Arc<Shared>,
    catalog: &Catalog,
    relation: &Relation,
    view: Option<ViewPlan>,
) -> Result<EpochInfo, EngineError> {
    let (registrations, sinks) = prepare_all(shared, catalog, vec![(relation.clone(), view)])?;
    let mut info = shared.latest_info();
    for what in registrations {
        let (reply, registered) = oneshot::channel();
        shared.inbox.command(Command::Register {
            what: Box::new(what),
            reply,
        })?;
        info = receive(shared, registered)??;
    }
    for (job, outlet) in sinks {
        crate::sinks::start(shared, job, outlet);
    }
    Ok(info)
}

/// Builds everything of new objects that can fail. An object may read those before it in the list.
pub(crate) fn prepare_all(
    shared: &Arc<Shared>,
    catalog: &Catalog,
    objects: Vec<(Relation, Option<ViewPlan>)>,
) -> Result<(Vec<Registration>, Sinks), EngineError> {
    let (mut earlier, mut sinks) = (Vec::new(), Vec::new());
    for (relation, view) in objects {
        let what = match &relation.kind {
            RelationKind::Table => table(shared, catalog, &relation)?,
            RelationKind::Source(_) => source(shared, catalog, &relation)?,
            RelationKind::Errors { source } => errors(shared, catalog, &relation, *source)?,
            RelationKind::View { .. } => continue,
            RelationKind::External(spec) => {
                // Of it only the connection is kept: no epoch and no log knows it.
                let table = External::open(shared, &relation, spec)?;
                shared.external.write().insert(relation.oid, table);
                continue;
            }
            RelationKind::Archive(spec) => {
                let feed = match (&spec.feed, &view) {
                    (Some(feed), Some(plan)) => Some(feed_of(catalog, feed.from, plan)?),
                    _ => None,
                };
                let archive = Archive::open(shared, &relation, feed)?;
                let known = Arc::clone(&archive);
                shared.archives.write().insert(relation.oid, known);
                let Some(feed) = &spec.feed else {
                    continue;
                };
                let (spec, form) = (archive_log(feed), Form::Append);
                let kind = JobKind::Committing { spec: &spec, form };
                let what = job(shared, catalog, &relation, kind, view, &earlier)?;
                let outlet = Outlet::Committing(form, archive.opener());
                sinks.extend(what.job.clone().map(|job| (job, outlet)));
                what
            }
            RelationKind::MaterializedView { options, .. } => {
                let strict = options
                    .get("on_compute_error")
                    .is_some_and(|value| value.eq_ignore_ascii_case("fail"));
                let kind = JobKind::View { strict };
                job(shared, catalog, &relation, kind, view, &earlier)?
            }
            RelationKind::Sink(spec) => {
                let outlet = outlet(shared, &relation, spec, &earlier)?;
                let kind = match outlet {
                    Outlet::Rows(_) => JobKind::Changes,
                    Outlet::Messages(_) | Outlet::Table(_) => JobKind::Sink,
                    Outlet::Committing(form, _) => JobKind::Committing { spec, form },
                };
                let what = job(shared, catalog, &relation, kind, view, &earlier)?;
                sinks.extend(what.job.clone().map(|job| (job, outlet)));
                what
            }
        };
        earlier.push(what);
    }
    Ok((earlier, sinks))
}

/// What the log of an archive goes by: that of a sink that appends rows, without options.
fn archive_log(feed: &Feed) -> SinkSpec {
    SinkSpec {
        connector: "archive".into(),
        options: BTreeMap::new(),
        query: feed.query.clone(),
        delivery: "exactly_once".into(),
        format: None,
        into: None,
    }
}

/// Opens what a sink writes to.
fn outlet(
    shared: &Shared,
    relation: &Relation,
    spec: &SinkSpec,
    earlier: &[Registration],
) -> Result<Outlet, EngineError> {
    let store = Arc::clone(&shared.store);
    if let Some(oid) = spec.into {
        if let Some(external) = shared.external.read().get(&oid) {
            if spec.delivery == "exactly_once" {
                let open = external.committer(relation.oid, shared.connector_context());
                return Ok(Outlet::Committing(open()?.form(), open));
            }
            let messages = MessageOutlet::new(store, relation.oid, external.sink()?);
            return Ok(Outlet::Messages(Box::new(messages)));
        }
        let new = earlier.iter().find_map(|what| what.relation(oid));
        let target = new
            .or_else(|| shared.relation(oid))
            .ok_or(EngineError::Unknown(oid))?;
        let table = TableOutlet::new(store, relation.oid, target);
        return Ok(Outlet::Table(Box::new(table)));
    }
    let context = shared.connector_context();
    if let Some(writers) = &shared.config.writers
        && spec.delivery == "exactly_once"
    {
        let (relation, writers) = (relation.clone(), writers.clone());
        let open: Open = Box::new(move || Ok((writers.0)(&relation)));
        return Ok(Outlet::Committing(open()?.form(), open));
    }
    let sink = thalweg_connectors::sink(relation, &context).map_err(|error| error.report())?;
    match sink {
        AnySink::Rows(sink) => Ok(Outlet::Rows(sink)),
        AnySink::Messages(sink) => {
            let messages = MessageOutlet::new(store, relation.oid, sink);
            Ok(Outlet::Messages(Box::new(messages)))
        }
        AnySink::Committing(sink) => Ok(Outlet::Committing(sink.form(), opener(relation, context))),
    }
}

/// Puts an object in place that could not be started. It has no content at any epoch, so every read of it, and of what is
/// computed from it, finds the failure.
pub(crate) fn create_failed(shared: &Shared, relation: &Relation, report: &Report) {
    let kind = match &relation.kind {
        RelationKind::View { .. } => return,
        RelationKind::Source(_) => "source",
        RelationKind::Table | RelationKind::External(_) | RelationKind::Errors { .. } => "table",
        RelationKind::Archive(_) => "archive",
        RelationKind::MaterializedView { .. } => "materialized view",
        RelationKind::Sink(_) => "sink",
    };
    let stored = |schema| Stored::new(relation.oid, &relation.name, kind, schema, None);
    // What cannot be started may not even have columns that can be encoded.
    let Ok(stored) =
        stored(schema_of(&relation.columns)).or_else(|_| stored(Arc::new(Schema::empty())))
    else {
        return;
    };
    let reason = match &report.detail {
        Some(detail) => format!("{}: {detail}", report.message),
        None => report.message.clone(),
    };
    tracing::error!(relation = %relation.name, reason, "relation could not be started");
    // Nobody waits for it to go on from its checkpoint.
    shared.checkpoints.forget(&[relation.oid]);
    let at_us = shared.clock.now_us();
    shared.record_error(ErrorRecord::of(
        &stored,
        report.sqlstate,
        reason.clone(),
        at_us,
        None,
    ));
    *stored.failure.lock() = Some(reason);
    shared.relations.write().insert(relation.oid, stored);
}

/// Waits for the worker's answer, from a thread of a runtime or any other.
pub(crate) fn receive<T>(
    shared: &Shared,
    mut answer: oneshot::Receiver<T>,
) -> Result<T, EngineError> {
    // Callers may be on a runtime thread, where blocking_recv panics; the worker answers within an epoch, so this is short.
    let wait = std::time::Duration::from_micros(200);
    loop {
        match answer.try_recv() {
            Ok(value) => return Ok(value),
            Err(oneshot::error::TryRecvError::Empty) => std::thread::park_timeout(wait),
            Err(oneshot::error::TryRecvError::Closed) => {
                return Err(shared.halted().unwrap_or(EngineError::Stopping));
            }
        }
    }
}

fn schema_of(columns: &[Column]) -> SchemaRef {
    Arc::new(Schema::new(
        columns
            .iter()
            .map(|column| column.ty.field(&column.name, !column.not_null))
            .collect::<Vec<_>>(),
    ))
}

fn table(
    shared: &Shared,
    catalog: &Catalog,
    relation: &Relation,
) -> Result<Registration, EngineError> {
    let stored = stored_table(shared, catalog, relation)?;
    let version = checkpoint::recover(shared, &stored)?;
    if let Some(index) = stored.table.as_ref().and_then(|table| table.key.as_ref()) {
        index.apply(&version.content()?)?;
    }
    Ok(Registration {
        content: Some((stored, version)),
        ..Registration::default()
    })
}

/// An empty table that no epoch knows yet.
pub(crate) fn stored_table(
    shared: &Shared,
    catalog: &Catalog,
    relation: &Relation,
) -> Result<Arc<Stored>, EngineError> {
    let schema = schema_of(&relation.columns);
    let key = match &relation.primary_key {
        Some(key) => {
            let position = |attnum: &i16| {
                relation
                    .columns
                    .iter()
                    .position(|column| column.attnum == *attnum)
            };
            let positions = key.columns.iter().filter_map(position).collect();
            Some(KeyIndex::new(&key.name, positions, &schema)?)
        }
        None => None,
    };
    let columns = relation
        .columns
        .iter()
        .map(|column| TableColumn {
            name: column.name.clone(),
            not_null: column.not_null,
        })
        .collect();
    let checks = checks(shared, catalog, relation, &schema)?;
    Stored::new(
        relation.oid,
        &relation.name,
        "table",
        schema,
        Some(Table::new(columns, checks, key)),
    )
}

fn checks(
    shared: &Shared,
    catalog: &Catalog,
    relation: &Relation,
    schema: &SchemaRef,
) -> Result<Vec<TableCheck>, EngineError> {
    let mut out = Vec::new();
    for check in &relation.checks {
        let context = PlanContext {
            catalog,
            search_path: &relation.environment.search_path,
            time_zone: &relation.environment.time_zone,
            now_us: Some(0),
            system: &NoSystemRelations,
            user: "",
            parameter_types: &[],
            text: &check.expr,
        };
        let bound = shared
            .planner
            .stored_expr(&context, &relation.columns, &thalweg_catalog::SqlType::Bool)
            .map_err(|error| error.report())?;
        let df_schema = DFSchema::try_from(Arc::clone(schema))?;
        let expr = session_at(&shared.planner, 0).create_physical_expr(bound, &df_schema)?;
        out.push(TableCheck {
            name: check.name.clone(),
            expr,
        });
    }
    Ok(out)
}

fn source(
    shared: &Shared,
    catalog: &Catalog,
    relation: &Relation,
) -> Result<Registration, EngineError> {
    let RelationKind::Source(spec) = &relation.kind else {
        return Ok(Registration::default());
    };
    let context = shared.connector_context();
    let connector =
        thalweg_connectors::source(relation, &context).map_err(|error| error.report())?;
    let shape = Shape::new(&shared.planner, catalog, relation)?;
    let history = Stored::of_changes(relation.oid, &relation.name, "source", shape.schema())?;
    let (on_error, _) = error_options(spec);
    let rate_limit = spec.integer("source_rate_limit");
    let logged = match shared.store.source_offsets(relation.oid.0)? {
        Some(bytes) => Some(decode_offsets(&bytes).ok_or_else(|| EngineError::Storage {
            sqlstate: "XX001",
            message: format!("the logged offsets of {} are corrupt", history.label()),
        })?),
        None => None,
    };
    let state = SourceState {
        target: logged,
        ..SourceState::default()
    };
    let source = Arc::new(Source {
        oid: relation.oid,
        connector,
        start: Offsets::from_iter(spec.start.clone()),
        on_error,
        rate_limit: rate_limit.and_then(|rows| u64::try_from(rows).ok()),
        shape,
        history,
        state: Mutex::new(state),
        keeper: Mutex::default(),
        hold: Hold::new(catalog.is_paused(relation.oid)),
        gatherings: Mutex::default(),
    });
    source.history.streams(&source);
    Ok(Registration {
        source: Some(source),
        ..Registration::default()
    })
}

fn errors(
    shared: &Shared,
    catalog: &Catalog,
    relation: &Relation,
    source: Oid,
) -> Result<Registration, EngineError> {
    let stored = Stored::new(
        relation.oid,
        &relation.name,
        "table",
        schema_of(&relation.columns),
        None,
    )?;
    let spec = match catalog.relation(source).map(|source| &source.kind) {
        Some(RelationKind::Source(spec)) => spec,
        _ => return Err(EngineError::Unknown(source)),
    };
    let (_, retention) = error_options(spec);
    let log = DeadLog::new(source, Arc::clone(&stored), retention);
    let rows = log.restore(&shared.store.dead_letters(source.0)?)?;
    let version = Version::empty(Arc::clone(&stored.codec)).with(&rows)?;
    Ok(Registration {
        content: Some((stored, Arc::new(version))),
        dead: Some((source, Arc::new(log))),
        ..Registration::default()
    })
}

/// What a job is for.
#[derive(Debug, Clone, Copy)]
enum JobKind<'a> {
    View {
        /// Compute errors stop it.
        strict: bool,
    },
    /// A sink that compares contents.
    Sink,
    /// A sink that takes changes, so that no content is kept for it.
    Changes,
    /// A sink with a log of what waits for it.
    Committing { spec: &'a SinkSpec, form: Form },
}

fn job(
    shared: &Arc<Shared>,
    catalog: &Catalog,
    relation: &Relation,
    kind: JobKind<'_>,
    view: Option<ViewPlan>,
    earlier: &[Registration],
) -> Result<Registration, EngineError> {
    let (label, strict) = match kind {
        JobKind::View { strict } => ("materialized view", strict),
        JobKind::Committing { .. } if matches!(relation.kind, RelationKind::Archive(_)) => {
            ("archive", false)
        }
        JobKind::Sink | JobKind::Changes | JobKind::Committing { .. } => ("sink", false),
    };
    let view = view.ok_or_else(|| {
        EngineError::internal(format!("the {label} \"{}\" has no plan", relation.name))
    })?;
    let fields: Vec<_> = view
        .output
        .iter()
        .map(|column| column.ty.field(&column.name, true))
        .collect();
    let (oid, name, schema) = (relation.oid, &relation.name, Arc::new(Schema::new(fields)));
    let stored = match kind {
        JobKind::Changes => Stored::of_changes(oid, name, label, schema)?,
        _ => Stored::new(oid, name, label, schema, None)?,
    };
    let inputs = view
        .inputs()
        .map(|oid| {
            let new = earlier.iter().find_map(|what| what.relation(oid));
            new.or_else(|| shared.relation(oid))
                .ok_or(EngineError::Unknown(oid))
        })
        .collect::<Result<Vec<_>, _>>()?;
    let job = Job::new(shared, stored, view, inputs, strict)?;
    if catalog.is_paused(oid) {
        job.start_still();
    }
    if let JobKind::Committing { spec, form } = kind {
        let log = SinkLog::open(shared, relation, spec, form, &job)?;
        let _ = job.log.set(log);
    }
    if matches!(kind, JobKind::Changes) {
        let _ = job.handing.set(Arc::default());
    }
    checkpoint::resume(shared, &job)?;
    Ok(Registration {
        job: Some(job),
        ..Registration::default()
    })
}
