//! The catalog at one version: an immutable value that statements are planned against.
//!
//! Invariant: a snapshot never changes; [`apply`](crate::apply) makes the next one. Cloning copies a few pointers, and the
//! objects themselves are shared between versions.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use thalweg_sql::{ObjectKind, ast, suggest};

use crate::error::{CatalogError, bounded};
use crate::object::{FIRST_USER_OID, Oid, Relation, RelationKind, Schema};

/// Name of the database every server has.
pub const DATABASE: &str = "thalweg";
/// OID of the schema `pg_catalog`, as in Postgres.
pub const PG_CATALOG_OID: Oid = Oid(11);
/// OID of the schema `public`, as in Postgres.
pub const PUBLIC_OID: Oid = Oid(2200);
/// OID of the schema `information_schema`.
pub const INFORMATION_SCHEMA_OID: Oid = Oid(13000);
/// OID of the schema `sys`.
pub const SYS_OID: Oid = Oid(13001);

/// The schemas every database has.
pub const SYSTEM_SCHEMAS: [(Oid, &str); 4] = [
    (PG_CATALOG_OID, "pg_catalog"),
    (PUBLIC_OID, "public"),
    (INFORMATION_SCHEMA_OID, "information_schema"),
    (SYS_OID, "sys"),
];

/// An immutable version of the catalog.
#[derive(Debug, Clone, PartialEq)]
pub struct Catalog {
    pub(crate) version: u64,
    pub(crate) next_oid: u32,
    pub(crate) schemas: Arc<BTreeMap<Oid, Arc<Schema>>>,
    pub(crate) schema_names: Arc<BTreeMap<String, Oid>>,
    pub(crate) relations: Arc<BTreeMap<Oid, Arc<Relation>>>,
    /// Names of relations and of their key indexes, which share one name space; both lead to the relation.
    pub(crate) names: Arc<BTreeMap<(Oid, String), Oid>>,
    /// Who reads a relation.
    pub(crate) dependants: Arc<BTreeMap<Oid, BTreeSet<Oid>>>,
    /// Source to its errors relation.
    pub(crate) errors: Arc<BTreeMap<Oid, Oid>>,
    /// What stands still.
    pub(crate) paused: Arc<BTreeSet<Oid>>,
}

impl Default for Catalog {
    fn default() -> Self {
        Catalog::empty()
    }
}

impl Catalog {
    /// The catalog of a new database: the system schemas and nothing else.
    pub fn empty() -> Catalog {
        let schemas = SYSTEM_SCHEMAS.iter().map(|(oid, name)| {
            let schema = Schema {
                oid: *oid,
                name: (*name).to_owned(),
            };
            (*oid, Arc::new(schema))
        });
        let names = SYSTEM_SCHEMAS
            .iter()
            .map(|(oid, name)| ((*name).to_owned(), *oid));
        Catalog {
            version: 0,
            next_oid: FIRST_USER_OID,
            schemas: Arc::new(schemas.collect()),
            schema_names: Arc::new(names.collect()),
            relations: Arc::default(),
            names: Arc::default(),
            dependants: Arc::default(),
            errors: Arc::default(),
            paused: Arc::default(),
        }
    }

    /// The same catalog with these materialized views as plain ones, for reads at a moment when nobody keeps their rows.
    pub fn with_views(&self, views: &[Oid]) -> Catalog {
        let mut relations = self.relations.as_ref().clone();
        for oid in views {
            let Some(relation) = relations.get_mut(oid) else {
                continue;
            };
            if let RelationKind::MaterializedView { query, .. } = &relation.kind {
                let query = query.clone();
                Arc::make_mut(relation).kind = RelationKind::View { query };
            }
        }
        Catalog {
            relations: Arc::new(relations),
            ..self.clone()
        }
    }

    /// Number of changes that led here.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// The database's name.
    pub fn database(&self) -> &str {
        DATABASE
    }

    /// The next OID the counter gives out; above every OID that was ever used.
    pub fn next_oid(&self) -> u32 {
        self.next_oid
    }

    /// The schema of this name.
    pub fn schema(&self, name: &str) -> Option<&Schema> {
        self.schema_by_oid(*self.schema_names.get(name)?)
    }

    /// The schema with this OID.
    pub fn schema_by_oid(&self, oid: Oid) -> Option<&Schema> {
        self.schemas.get(&oid).map(Arc::as_ref)
    }

    /// All schemas, by OID.
    pub fn schemas(&self) -> impl Iterator<Item = &Schema> {
        self.schemas.values().map(Arc::as_ref)
    }

    /// The relation with this OID.
    pub fn relation(&self, oid: Oid) -> Option<&Relation> {
        self.relations.get(&oid).map(Arc::as_ref)
    }

    /// The relation with this OID, to be kept longer than the snapshot.
    pub fn shared_relation(&self, oid: Oid) -> Option<Arc<Relation>> {
        self.relations.get(&oid).cloned()
    }

    /// All relations, by OID, which is the order of creation.
    pub fn relations(&self) -> impl Iterator<Item = &Relation> {
        self.relations.values().map(Arc::as_ref)
    }

    /// The relations of one schema, by name.
    pub fn relations_in(&self, schema: Oid) -> impl Iterator<Item = &Relation> {
        self.names
            .range((schema, String::new())..)
            .take_while(move |((of, _), _)| *of == schema)
            .filter_map(|((_, name), oid)| self.relation(*oid).filter(|found| found.name == *name))
    }

    /// The relation of this name in this schema.
    pub fn find(&self, schema: &str, name: &str) -> Option<&Relation> {
        self.find_in(*self.schema_names.get(schema)?, name)
    }

    /// The relation of this name in the schema with this OID.
    pub fn find_in(&self, schema: Oid, name: &str) -> Option<&Relation> {
        let oid = self.names.get(&(schema, name.to_owned()))?;
        self.relation(*oid).filter(|found| found.name == name)
    }

    /// True when a relation or an index of this schema has the name.
    pub fn name_taken(&self, schema: Oid, name: &str) -> bool {
        self.names.contains_key(&(schema, name.to_owned()))
    }

    /// The errors relation of a source.
    pub fn errors_of(&self, source: Oid) -> Option<&Relation> {
        self.relation(*self.errors.get(&source)?)
    }

    /// True for what was told to stand still.
    pub fn is_paused(&self, oid: Oid) -> bool {
        self.paused.contains(&oid)
    }

    /// Name with its schema, as `public.clicks`.
    pub fn qualified_name(&self, relation: &Relation) -> String {
        match self.schema_by_oid(relation.schema) {
            Some(schema) => format!("{}.{}", schema.name, relation.name),
            None => relation.name.clone(),
        }
    }

    /// Kind and name for messages, as `source clicks`; the schema shows unless it is `public`.
    pub fn describe(&self, relation: &Relation) -> String {
        let name = if relation.schema == PUBLIC_OID {
            relation.name.clone()
        } else {
            self.qualified_name(relation)
        };
        format!("{} {name}", relation.kind_word())
    }

    /// The relation a query names.
    ///
    /// # Errors
    /// 42P01 with the nearest visible name when there is none, as Postgres also says for a missing schema; 0A000 for another
    /// database.
    pub fn resolve(
        &self,
        search_path: &[String],
        name: &ast::ObjectName,
    ) -> Result<&Relation, CatalogError> {
        let parts = NameParts::of(name)?;
        self.lookup(search_path, &parts)
            .ok_or_else(|| self.undefined(search_path, &parts, "relation"))
    }

    /// The relation a DDL statement names, which must be of this kind.
    ///
    /// # Errors
    /// As Postgres' DROP: 3F000 for a missing schema, 42P01 with the kind's word for a missing object, 42809 with the statement
    /// that would do for an object of another kind.
    pub fn resolve_kind(
        &self,
        search_path: &[String],
        name: &ast::ObjectName,
        kind: ObjectKind,
    ) -> Result<&Relation, CatalogError> {
        let parts = NameParts::of(name)?;
        if let Some(schema) = &parts.schema {
            self.require_schema(schema)?;
        }
        let found = self
            .lookup(search_path, &parts)
            .ok_or_else(|| self.undefined(search_path, &parts, kind_words(kind).0))?;
        if is_kind(found, kind) {
            return Ok(found);
        }
        Err(CatalogError::WrongKind {
            name: bounded(&found.name),
            expected: kind_words(kind).1,
            hint: Some(match &found.kind {
                RelationKind::Errors { source } => match self.relation(*source) {
                    Some(owner) => format!("It comes and goes with {}.", self.describe(owner)),
                    None => "It comes and goes with its source.".to_owned(),
                },
                _ => {
                    let word = found.kind_word();
                    format!("Use DROP {} to remove a {word}.", word.to_uppercase())
                }
            }),
        })
    }

    /// Like [`Catalog::resolve`], with a missing object or schema as `None`: for `IF EXISTS` and casts to regclass.
    ///
    /// # Errors
    /// Names that are malformed or of another database.
    pub fn try_resolve(
        &self,
        search_path: &[String],
        name: &ast::ObjectName,
    ) -> Result<Option<&Relation>, CatalogError> {
        Ok(self.lookup(search_path, &NameParts::of(name)?))
    }

    /// Where `CREATE ... name` makes its object: the named schema, or the first of the search path that exists.
    ///
    /// # Errors
    /// 3F000 for a missing schema or when none of the path exists; 42601 and 0A000 for malformed names and other databases.
    pub fn creation_target(
        &self,
        search_path: &[String],
        name: &ast::ObjectName,
    ) -> Result<(&Schema, String), CatalogError> {
        let parts = NameParts::of(name)?;
        let schema = match &parts.schema {
            Some(schema) => self.require_schema(schema)?,
            None => search_path
                .iter()
                .filter(|entry| entry.as_str() != "pg_catalog")
                .find_map(|entry| self.schema(entry))
                .ok_or(CatalogError::NoSchemaSelected)?,
        };
        Ok((schema, parts.relation))
    }

    /// The schema of this name.
    ///
    /// # Errors
    /// 3F000 with the nearest name.
    pub fn require_schema(&self, name: &str) -> Result<&Schema, CatalogError> {
        self.schema(name)
            .ok_or_else(|| CatalogError::UndefinedSchema {
                name: bounded(name),
                nearest: suggest(name, self.schema_names.keys()),
            })
    }

    /// Checks that a new relation may take this name.
    ///
    /// # Errors
    /// 42P07 when a relation or an index has it.
    pub fn require_free(&self, schema: Oid, name: &str) -> Result<(), CatalogError> {
        if self.name_taken(schema, name) {
            return Err(CatalogError::DuplicateRelation(bounded(name)));
        }
        Ok(())
    }

    fn lookup(&self, search_path: &[String], parts: &NameParts) -> Option<&Relation> {
        match &parts.schema {
            Some(schema) => self.find(schema, &parts.relation),
            None => search_path
                .iter()
                .find_map(|schema| self.find(schema, &parts.relation)),
        }
    }

    fn undefined(
        &self,
        search_path: &[String],
        parts: &NameParts,
        kind: &'static str,
    ) -> CatalogError {
        let visible = |schema: &str| {
            let schema = self.schema(schema).map(|schema| schema.oid);
            schema
                .into_iter()
                .flat_map(|oid| self.relations_in(oid))
                .map(|relation| relation.name.as_str())
        };
        let (name, nearest) = match &parts.schema {
            Some(schema) => (
                format!("{schema}.{}", parts.relation),
                suggest(&parts.relation, visible(schema)).map(|near| format!("{schema}.{near}")),
            ),
            None => (
                parts.relation.clone(),
                suggest(
                    &parts.relation,
                    search_path.iter().flat_map(|schema| visible(schema)),
                ),
            ),
        };
        CatalogError::UndefinedRelation {
            kind,
            name: bounded(&name),
            nearest,
        }
    }
}

/// `[database.][schema.]relation`, checked and folded.
struct NameParts {
    schema: Option<String>,
    relation: String,
}

impl NameParts {
    fn of(name: &ast::ObjectName) -> Result<NameParts, CatalogError> {
        let improper = || CatalogError::ImproperName(bounded(&name.to_string()));
        let parts = name
            .0
            .iter()
            .map(|part| part.as_ident().map(folded).ok_or_else(improper))
            .collect::<Result<Vec<String>, CatalogError>>()?;
        let (schema, relation) = match parts.as_slice() {
            [relation] => (None, relation),
            [schema, relation] => (Some(schema.clone()), relation),
            [database, schema, relation] if database == DATABASE => {
                (Some(schema.clone()), relation)
            }
            [_, _, _] => return Err(CatalogError::CrossDatabase(bounded(&parts.join(".")))),
            _ => return Err(improper()),
        };
        Ok(NameParts {
            schema,
            relation: relation.clone(),
        })
    }
}

/// An identifier's value as names are stored: folded to lower case unless it was quoted.
pub fn folded(ident: &ast::Ident) -> String {
    if ident.quote_style.is_some() {
        ident.value.clone()
    } else {
        ident.value.to_lowercase()
    }
}

/// A kind's word, and the word with its article.
fn kind_words(kind: ObjectKind) -> (&'static str, &'static str) {
    match kind {
        ObjectKind::Source => ("source", "a source"),
        ObjectKind::Table => ("table", "a table"),
        ObjectKind::Archive => ("archive", "an archive"),
        ObjectKind::View => ("view", "a view"),
        ObjectKind::MaterializedView => ("materialized view", "a materialized view"),
        ObjectKind::Sink => ("sink", "a sink"),
        ObjectKind::Schema => ("schema", "a schema"),
        ObjectKind::Index => ("index", "an index"),
    }
}

fn is_kind(relation: &Relation, kind: ObjectKind) -> bool {
    matches!(
        (&relation.kind, kind),
        (RelationKind::Source(_), ObjectKind::Source)
            | (
                RelationKind::Table | RelationKind::External(_),
                ObjectKind::Table
            )
            | (RelationKind::Archive(_), ObjectKind::Archive)
            | (RelationKind::View { .. }, ObjectKind::View)
            | (
                RelationKind::MaterializedView { .. },
                ObjectKind::MaterializedView
            )
            | (RelationKind::Sink(_), ObjectKind::Sink)
    )
}
