//! What tools read about the server: pg_catalog, information_schema and sys, their functions, and the rewrite that makes
//! clients' catalog queries run.
//!
//! Invariant: everything here is a function of one catalog snapshot and the facts of one session at one moment; nothing is
//! written, and a query that names no system object is never touched.

mod fingerprint;
mod functions;
mod information_schema;
mod names;
mod pg_catalog;
mod rewrite;
mod rows;
mod shape;
mod sys;
mod value;

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use datafusion::catalog::TableProvider;
use datafusion::logical_expr::ScalarUDF;
use thalweg_catalog::{Catalog, ConnectorSpec, Oid, Relation, RelationKind};
use thalweg_planner::SystemRelations;

pub use functions::functions;
pub use rewrite::{rewrite, rewrite_query};
pub use shape::{SystemColumn, SystemTable, table, tables};
pub use sys::{
    CheckpointFacts, ConnectionFacts, EngineFacts, EpochFacts, ErrorFacts, JobFacts, MemoryFacts,
    ServerSetting, SourceFacts, SplitFacts,
};

/// OID of the role that owns every object.
pub(crate) const OWNER_OID: u32 = 10;
/// OID shown for a session user other than `thalweg`.
pub(crate) const SESSION_ROLE_OID: u32 = 16_000;
/// Name of the role that owns every object.
pub(crate) const OWNER: &str = "thalweg";
/// OID of the one database.
pub(crate) const DATABASE_OID: u32 = 5;

/// What a session's catalog answers depend on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SessionFacts {
    /// Session user.
    pub user: String,
    /// Database name the client asked for.
    pub database: String,
    /// Schemas of the search path, `"$user"` resolved, in order; some may not exist.
    pub search_path: Vec<String>,
    /// Backend process number, as in the cancel key.
    pub backend_pid: i32,
    /// Settings and their values, in name order.
    pub settings: Vec<(String, String)>,
}

/// One catalog snapshot, one session and the state of the engine at one moment.
#[derive(Debug)]
pub struct SystemFacts {
    /// The snapshot a statement is planned against.
    pub catalog: Arc<Catalog>,
    /// The session.
    pub session: SessionFacts,
    /// The engine and the server; empty when unknown.
    pub engine: EngineFacts,
}

impl SystemFacts {
    /// A user relation by OID.
    pub(crate) fn relation(&self, oid: u32) -> Option<&Relation> {
        self.catalog.relation(Oid(oid))
    }

    /// Name of a schema; empty when it does not exist.
    pub(crate) fn schema_name(&self, oid: Oid) -> &str {
        self.catalog
            .schemas()
            .find(|schema| schema.oid == oid)
            .map_or("", |schema| schema.name.as_str())
    }

    /// OID of a schema; 0 when it does not exist.
    pub(crate) fn schema_oid(&self, name: &str) -> u32 {
        self.catalog.schema(name).map_or(0, |schema| schema.oid.0)
    }
}

/// The system relations and functions of one statement.
pub struct SystemCatalog {
    facts: Arc<SystemFacts>,
    functions: Arc<HashMap<String, Arc<ScalarUDF>>>,
}

impl fmt::Debug for SystemCatalog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SystemCatalog")
            .field("session", &self.facts.session)
            .finish_non_exhaustive()
    }
}

impl SystemCatalog {
    /// Binds the system relations to a snapshot, a session and, when it is known, the state of the engine.
    pub fn new(catalog: Arc<Catalog>, session: SessionFacts, engine: Option<EngineFacts>) -> Self {
        let facts = Arc::new(SystemFacts {
            catalog,
            session,
            engine: engine.unwrap_or_default(),
        });
        let functions = functions(&facts)
            .into_iter()
            .map(|function| (function.name().to_owned(), function))
            .collect();
        let functions = Arc::new(functions);
        Self { facts, functions }
    }

    /// What the relations are filled from.
    pub fn facts(&self) -> &Arc<SystemFacts> {
        &self.facts
    }
}

impl SystemRelations for SystemCatalog {
    fn relation(&self, schema: &str, name: &str) -> Option<Arc<dyn TableProvider>> {
        let table = shape::table(schema, name)?;
        let facts = Arc::clone(&self.facts);
        let fill: rows::Fill = match schema {
            "pg_catalog" => Arc::new(move |rows| pg_catalog::fill(&facts, rows)),
            "information_schema" => Arc::new(move |rows| information_schema::fill(&facts, rows)),
            _ => Arc::new(move |rows| sys::fill(&facts, rows)),
        };
        Some(Arc::new(rows::LazyTable::new(table, fill)))
    }

    fn functions(&self) -> Arc<HashMap<String, Arc<ScalarUDF>>> {
        Arc::clone(&self.functions)
    }
}

/// The connector of a source, or of a table that is fed by one.
pub(crate) fn connector(relation: &Relation) -> Option<&ConnectorSpec> {
    match &relation.kind {
        RelationKind::Source(spec) => Some(spec),
        _ => None,
    }
}

/// Kind of a relation in words, as SHOW and error messages name it.
pub(crate) fn kind_name(relation: &Relation) -> &'static str {
    match relation.kind {
        RelationKind::Source(_) => "source",
        RelationKind::Table | RelationKind::External(_) => "table",
        RelationKind::Archive(_) => "archive",
        RelationKind::View { .. } => "view",
        RelationKind::MaterializedView { .. } => "materialized view",
        RelationKind::Sink(_) => "sink",
        RelationKind::Errors { .. } => "errors relation",
    }
}

/// pg_class.relkind of a relation: standard letters only, because tools refuse others. A sink cannot be read and has none.
pub(crate) fn relkind(relation: &Relation) -> Option<char> {
    match relation.kind {
        RelationKind::Source(_)
        | RelationKind::Table
        | RelationKind::External(_)
        | RelationKind::Archive(_)
        | RelationKind::Errors { .. } => Some('r'),
        RelationKind::View { .. } => Some('v'),
        RelationKind::MaterializedView { .. } => Some('m'),
        RelationKind::Sink(_) => None,
    }
}
