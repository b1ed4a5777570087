//! What a statement is planned against, and the plans that come out.
//!
//! Invariant: every user relation in a plan is a [`RelationScan`] leaf; nothing here holds rows, time or connections.

use std::collections::HashMap;
use std::sync::Arc;

use datafusion::arrow::datatypes::{Schema, SchemaRef};
use datafusion::catalog::TableProvider;
use datafusion::common::DFSchemaRef;
use datafusion::logical_expr::{AggregateUDF, Expr, LogicalPlan, ScalarUDF, TableSource};
use thalweg_catalog::{Catalog, Oid, Relation, SqlType};

use crate::hybrid::Hybrids;
use crate::stream::StreamPlan;

/// Functions the server adds: `version()`, `pg_get_expr()`, everything that needs a session or the catalog.
#[derive(Debug, Clone, Default)]
pub struct Functions {
    /// Scalar functions by their own names and aliases.
    pub scalar: Vec<Arc<ScalarUDF>>,
    /// Aggregates.
    pub aggregate: Vec<Arc<AggregateUDF>>,
}

/// The environment of one statement.
#[derive(Clone, Copy)]
pub struct PlanContext<'a> {
    /// What exists.
    pub catalog: &'a Catalog,
    /// Schemas to look in, in order; `pg_catalog` comes first unless listed.
    pub search_path: &'a [String],
    /// The session's TimeZone.
    pub time_zone: &'a str,
    /// Microseconds since the Unix epoch that `now()` stands for; `None` in a view, where it stays symbolic.
    pub now_us: Option<i64>,
    /// `sys`, `pg_catalog` and `information_schema`.
    pub system: &'a dyn SystemRelations,
    /// The session's user.
    pub user: &'a str,
    /// Declared parameter types; `None` or a missing entry is inferred.
    pub parameter_types: &'a [Option<SqlType>],
    /// The statement's text, for error positions.
    pub text: &'a str,
}

impl std::fmt::Debug for PlanContext<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PlanContext")
            .field("search_path", &self.search_path)
            .field("time_zone", &self.time_zone)
            .field("now_us", &self.now_us)
            .finish_non_exhaustive()
    }
}

/// Where system relations come from.
pub trait SystemRelations: Send + Sync {
    /// The relation `schema.name`, if there is one.
    fn relation(&self, schema: &str, name: &str) -> Option<Arc<dyn TableProvider>>;

    /// Functions that depend on the statement's session or catalog snapshot (`current_schema`, `pg_get_expr`), by lower-case
    /// name; they come after the planner's own functions and before DataFusion's.
    fn functions(&self) -> Arc<HashMap<String, Arc<ScalarUDF>>> {
        Arc::default()
    }
}

/// No system relations at all.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoSystemRelations;

impl SystemRelations for NoSystemRelations {
    fn relation(&self, _schema: &str, _name: &str) -> Option<Arc<dyn TableProvider>> {
        None
    }
}

/// The leaf that stands for a user relation; the engine swaps it for a snapshot of one epoch.
#[derive(Debug, Clone)]
pub struct RelationScan {
    /// Which relation.
    pub oid: Oid,
    /// Its columns in attribute order, with their SQL types in the field metadata.
    pub schema: SchemaRef,
    /// Its name, for plans shown to people.
    pub name: String,
    /// True for a source, whose rows are only ever added.
    pub append_only: bool,
    /// Positions of the primary key's columns.
    pub key: Option<Vec<usize>>,
    /// Attribute numbers of the columns.
    pub attnums: Vec<i16>,
    /// Set for a table that an outside system keeps.
    pub outside: Option<Outside>,
    /// `FOR SYSTEM_TIME AS OF PROCTIME()`: each row of the other side finds what is there when it comes.
    pub as_of_now: bool,
    /// Part of a hybrid: the half that begins where this archive ends; in a continuous query the source whose rows begin in it.
    pub after: Option<Oid>,
}

/// What a plan says of a table that an outside system keeps.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Outside {
    /// Rows that a lookup join remembers.
    pub cache_rows: String,
    /// How long it does.
    pub cache_ttl: String,
}

impl Outside {
    fn of(relation: &Relation) -> Option<Outside> {
        let thalweg_catalog::RelationKind::External(spec) = &relation.kind else {
            return None;
        };
        let option = |name: &str, default: &str| {
            let given = spec.options.get(name).map(String::as_str);
            given.unwrap_or(default).to_owned()
        };
        Some(Outside {
            cache_rows: option("lookup.cache.rows", "100000"),
            cache_ttl: option("lookup.cache.ttl", "10 s"),
        })
    }
}

impl RelationScan {
    /// The leaf for a catalog relation.
    pub fn of(relation: &Relation) -> RelationScan {
        let fields: Vec<_> = relation
            .columns
            .iter()
            .map(|c| c.ty.field(&c.name, !c.not_null))
            .collect();
        let key = relation.primary_key.as_ref().map(|key| {
            key.columns
                .iter()
                .filter_map(|attnum| relation.columns.iter().position(|c| c.attnum == *attnum))
                .collect()
        });
        RelationScan {
            oid: relation.oid,
            schema: Arc::new(Schema::new(fields)),
            name: relation.name.clone(),
            append_only: matches!(relation.kind, thalweg_catalog::RelationKind::Source(_)),
            key,
            attnums: relation.columns.iter().map(|c| c.attnum).collect(),
            outside: Outside::of(relation),
            as_of_now: false,
            after: None,
        }
    }
}

impl TableSource for RelationScan {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }
}

/// One column of a result.
#[derive(Debug, Clone, PartialEq)]
pub struct OutputColumn {
    /// Name as the client sees it; may repeat.
    pub name: String,
    /// Type.
    pub ty: SqlType,
    /// Relation and attribute number, for a plain column.
    pub origin: Option<(Oid, i16)>,
}

/// A planned query.
#[derive(Debug, Clone)]
pub struct QueryPlan {
    /// Analysed, not optimised; parameters are placeholders.
    pub plan: LogicalPlan,
    /// The result's columns.
    pub output: Vec<OutputColumn>,
    /// Stored relations and sources it reads, views expanded, sorted.
    pub reads: Vec<Oid>,
    /// Types of `$1`, `$2`, ...
    pub parameters: Vec<SqlType>,
    /// True when `now()` is still symbolic in the plan.
    pub uses_now: bool,
}

/// A planned continuous query.
#[derive(Debug, Clone)]
pub struct ViewPlan {
    /// The plan, in which a compute error gives NULL and a record through the error sink.
    pub plan: LogicalPlan,
    /// The same plan without guards, for `on_compute_error = 'fail'`.
    pub unguarded: LogicalPlan,
    /// The view's columns.
    pub output: Vec<OutputColumn>,
    /// Stored relations and sources it reads, views expanded, sorted.
    pub reads: Vec<Oid>,
    /// Those of them that rows are looked up in, sorted.
    pub lookups: Vec<Oid>,
    /// Which of them are sources whose rows begin in archives.
    pub hybrids: Hybrids,
    /// True when `now()` occurs.
    pub uses_now: bool,
    /// The streaming plan.
    pub stream: StreamPlan,
}

impl ViewPlan {
    /// The relations whose changes change the result: neither those that rows are looked up in, nor archives, which do not tell.
    pub fn inputs(&self) -> impl Iterator<Item = Oid> + '_ {
        let apart = |oid: &Oid| {
            self.lookups.contains(oid) || self.hybrids.archives().any(|archive| archive == *oid)
        };
        self.reads.iter().copied().filter(move |oid| !apart(oid))
    }
}

/// A planned INSERT, UPDATE or DELETE.
#[derive(Debug, Clone)]
pub enum DmlPlan {
    /// INSERT.
    Insert {
        /// Target.
        table: Oid,
        /// All table columns in order, cast, defaults filled.
        input: LogicalPlan,
        /// What to do about an existing key.
        conflict: Conflict,
        /// RETURNING.
        returning: Option<Returning>,
        /// Relations read.
        reads: Vec<Oid>,
        /// Types of `$1`, ...
        parameters: Vec<SqlType>,
    },
    /// UPDATE.
    Update {
        /// Target.
        table: Oid,
        /// Old columns, then new columns.
        input: LogicalPlan,
        /// RETURNING, over the new row.
        returning: Option<Returning>,
        /// Relations read.
        reads: Vec<Oid>,
        /// Types of `$1`, ...
        parameters: Vec<SqlType>,
    },
    /// DELETE.
    Delete {
        /// Target.
        table: Oid,
        /// Old columns.
        input: LogicalPlan,
        /// RETURNING, over the old row.
        returning: Option<Returning>,
        /// Relations read.
        reads: Vec<Oid>,
        /// Types of `$1`, ...
        parameters: Vec<SqlType>,
    },
}

/// What INSERT does when the key exists.
#[derive(Debug, Clone)]
pub enum Conflict {
    /// 23505.
    Error,
    /// Keep the old row.
    DoNothing {
        /// Conflict target as column positions; `None` is any.
        target: Option<Vec<usize>>,
    },
    /// Change the old row.
    DoUpdate {
        /// Conflict target as column positions.
        target: Vec<usize>,
        /// Column position and its new value, over `schema`.
        assignments: Vec<(usize, Expr)>,
        /// Condition over `schema`; rows it does not accept stay as they are.
        filter: Option<Expr>,
        /// Table columns, then the `excluded` row's columns.
        schema: DFSchemaRef,
    },
}

/// RETURNING.
#[derive(Debug, Clone)]
pub struct Returning {
    /// Expressions over the table's columns.
    pub exprs: Vec<Expr>,
    /// Their names and types.
    pub output: Vec<OutputColumn>,
    /// The schema the expressions are over: the table's columns, qualified by the table's name or alias.
    pub schema: DFSchemaRef,
}
