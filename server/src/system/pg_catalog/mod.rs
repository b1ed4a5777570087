//! Rows of pg_catalog: the catalog snapshot, the session and the server in the shape Postgres 15 gives them.
//!
//! Invariant: every OID that a row refers to is the OID of a row of the relation it refers to, or 0; object OIDs are the
//! catalog's own, so they stay the same across restarts.

mod activity;
mod class;
mod constraint;
mod types;

use thalweg_catalog::Relation;

pub(crate) use class::type_oid_by_name as class_type_oid;
pub(crate) use constraint::{constraint_definition, index_definition};

use super::rows::Rows;
use super::shape::{self, SystemTable};
use super::value::Cell;
use super::{DATABASE_OID, OWNER, OWNER_OID, SESSION_ROLE_OID, SystemFacts, relkind};

/// OID of pg_class itself, the class of every relation in pg_description and pg_depend.
pub(crate) const PG_CLASS: u32 = 1259;
/// OID of pg_rewrite.
const PG_REWRITE: u32 = 2618;

/// Relations of pg_catalog that have rows here, beside those with fixed rows.
const FILLED: &[&str] = &[
    "pg_class",
    "pg_attribute",
    "pg_attrdef",
    "pg_type",
    "pg_index",
    "pg_indexes",
    "pg_constraint",
    "pg_namespace",
    "pg_database",
    "pg_roles",
    "pg_authid",
    "pg_user",
    "pg_shadow",
    "pg_description",
    "pg_tables",
    "pg_views",
    "pg_matviews",
    "pg_rewrite",
    "pg_depend",
    "pg_settings",
    "pg_stat_activity",
    "pg_stat_database",
    "pg_stat_all_tables",
    "pg_stat_user_tables",
    "pg_statio_all_tables",
    "pg_statio_user_tables",
    "pg_stat_all_indexes",
    "pg_stat_user_indexes",
    "pg_timezone_names",
    "pg_get_keywords",
    super::fingerprint::TYPE_TREE,
];

/// True for a relation of pg_catalog about things that do not exist here: triggers, policies, publications, ...
pub(crate) fn never_has_rows(name: &str) -> bool {
    !FILLED.contains(&name) && shape::fixed_rows(name).is_empty()
}

/// Fills one relation of pg_catalog; relations we have no objects for keep their fixed rows, which may be none.
pub(crate) fn fill(facts: &SystemFacts, rows: &mut Rows) {
    let name = rows.table().name.as_str();
    rows.extend(
        shape::fixed_rows(name)
            .iter()
            .filter(|_| name != "pg_settings")
            .cloned(),
    );
    match name {
        "pg_class" => class::pg_class(facts, rows),
        "pg_attribute" => class::pg_attribute(facts, rows),
        "pg_attrdef" => class::pg_attrdef(facts, rows),
        "pg_type" => types::pg_type(facts, rows),
        "pg_index" => constraint::pg_index(facts, rows),
        "pg_indexes" => constraint::pg_indexes(facts, rows),
        "pg_constraint" => constraint::pg_constraint(facts, rows),
        "pg_namespace" => namespaces(facts, rows),
        "pg_database" => database(facts, rows),
        "pg_roles" | "pg_authid" | "pg_user" | "pg_shadow" => roles(facts, rows),
        "pg_description" => descriptions(facts, rows),
        "pg_tables" => tables(facts, rows),
        "pg_views" => views(facts, rows),
        "pg_matviews" => materialized_views(facts, rows),
        "pg_rewrite" => rules(facts, rows),
        "pg_depend" => dependencies(facts, rows),
        "pg_settings" => activity::settings(facts, rows),
        "pg_stat_activity" => activity::connections(facts, rows),
        "pg_stat_database" => rows.push([
            ("datid", DATABASE_OID.into()),
            ("datname", facts.database().into()),
        ]),
        "pg_stat_all_tables"
        | "pg_stat_user_tables"
        | "pg_statio_all_tables"
        | "pg_statio_user_tables" => {
            activity::table_statistics(facts, rows);
        }
        "pg_stat_all_indexes" | "pg_stat_user_indexes" => activity::index_statistics(facts, rows),
        "pg_timezone_names" => activity::time_zones(rows),
        "pg_get_keywords" => keywords(rows),
        super::fingerprint::TYPE_TREE => types::type_tree(facts, rows),
        _ => debug_assert!(!FILLED.contains(&name), "{name} is listed as filled"),
    }
}

impl SystemFacts {
    /// The database a session sees itself in.
    pub(crate) fn database(&self) -> &str {
        self.catalog.database()
    }

    /// Relations that pg_class shows, with their kind.
    pub(crate) fn shown(&self) -> impl Iterator<Item = (&Relation, char)> {
        self.catalog
            .relations()
            .filter_map(|relation| Some((relation, relkind(relation)?)))
    }

    /// Name of a role; `None` for an OID that is no role.
    pub(crate) fn role_name(&self, oid: u32) -> Option<&str> {
        match oid {
            OWNER_OID => Some(OWNER),
            SESSION_ROLE_OID if self.session.user != OWNER => Some(&self.session.user),
            _ => None,
        }
    }

    /// OID of a role by name.
    pub(crate) fn role_oid(&self, name: &str) -> Option<u32> {
        if name == OWNER {
            Some(OWNER_OID)
        } else {
            (name == self.session.user).then_some(SESSION_ROLE_OID)
        }
    }
}

/// An OID for what the catalog does not number (column defaults, view rules), derived from its relation and attribute so that
/// it is stable; the upper half of the range keeps it apart from counted OIDs.
pub(crate) fn derived_oid(relation: u32, attnum: i16) -> u32 {
    0x8000_0000
        | (relation
            .wrapping_mul(2048)
            .wrapping_add(u32::from(attnum.unsigned_abs()))
            & 0x7FFF_FFFF)
}

/// Canonical text of the query behind a view or materialized view.
pub(crate) fn view_query(relation: &Relation) -> Option<&str> {
    use thalweg_catalog::RelationKind;
    match &relation.kind {
        RelationKind::View { query } | RelationKind::MaterializedView { query, .. } => Some(query),
        _ => None,
    }
}

/// What `obj_description` says about a relation: our own kinds, which relkind cannot tell.
pub(crate) fn description(facts: &SystemFacts, relation: &Relation) -> Option<String> {
    use thalweg_catalog::RelationKind;
    match &relation.kind {
        RelationKind::Source(spec) => Some(format!("source ({})", spec.connector)),
        RelationKind::External(spec) => Some(format!("table in {}", spec.connector)),
        RelationKind::Archive(spec) => Some(format!("archive ({})", spec.connector)),
        RelationKind::Errors { source } => Some(format!(
            "rows that source {} could not use",
            facts.relation(source.0)?.name
        )),
        _ => None,
    }
}

fn keywords(rows: &mut Rows) {
    for word in super::names::RESERVED {
        rows.push([
            ("word", (*word).into()),
            ("catcode", "R".into()),
            ("barelabel", false.into()),
            ("catdesc", "reserved".into()),
            ("baredesc", "requires AS".into()),
        ]);
    }
}

fn namespaces(facts: &SystemFacts, rows: &mut Rows) {
    for schema in facts.catalog.schemas() {
        rows.push([
            ("oid", schema.oid.into()),
            ("nspname", (&schema.name).into()),
            ("nspowner", OWNER_OID.into()),
            ("nspacl", Cell::Null),
        ]);
    }
}

fn database(facts: &SystemFacts, rows: &mut Rows) {
    rows.push([
        ("oid", DATABASE_OID.into()),
        ("datname", facts.database().into()),
        ("datdba", OWNER_OID.into()),
        ("encoding", 6.into()),
        ("datlocprovider", "c".into()),
        ("datistemplate", false.into()),
        ("datallowconn", true.into()),
        ("datconnlimit", (-1).into()),
        ("datfrozenxid", 0.into()),
        ("datminmxid", 0.into()),
        ("dattablespace", 1663.into()),
        ("datcollate", "C.UTF-8".into()),
        ("datctype", "C.UTF-8".into()),
    ]);
}

fn roles(facts: &SystemFacts, rows: &mut Rows) {
    let user = facts.session.user.as_str();
    let mut roles = vec![(OWNER_OID, OWNER)];
    if user != OWNER && !user.is_empty() {
        roles.push((SESSION_ROLE_OID, user));
    }
    let prefix = if rows.table().name == "pg_user" || rows.table().name == "pg_shadow" {
        "use"
    } else {
        "rol"
    };
    for (oid, name) in roles {
        if prefix == "use" {
            rows.push([
                ("usename", name.into()),
                ("usesysid", oid.into()),
                ("usecreatedb", true.into()),
                ("usesuper", true.into()),
                ("userepl", false.into()),
                ("usebypassrls", true.into()),
                ("passwd", "********".into()),
            ]);
            continue;
        }
        rows.push([
            ("oid", oid.into()),
            ("rolname", name.into()),
            ("rolsuper", true.into()),
            ("rolinherit", true.into()),
            ("rolcreaterole", true.into()),
            ("rolcreatedb", true.into()),
            ("rolcanlogin", true.into()),
            ("rolreplication", false.into()),
            ("rolbypassrls", true.into()),
            ("rolconnlimit", (-1).into()),
        ]);
    }
}

fn descriptions(facts: &SystemFacts, rows: &mut Rows) {
    for (relation, _) in facts.shown() {
        if let Some(text) = description(facts, relation) {
            rows.push([
                ("objoid", relation.oid.into()),
                ("classoid", PG_CLASS.into()),
                ("objsubid", 0.into()),
                ("description", text.into()),
            ]);
        }
    }
}

/// System relations of one kind, for the views that list relations by name.
fn system_relations(kind: char) -> impl Iterator<Item = &'static SystemTable> {
    shape::tables().filter(move |table| table.kind == kind)
}

fn tables(facts: &SystemFacts, rows: &mut Rows) {
    for (relation, kind) in facts.shown() {
        if kind == 'r' {
            rows.push([
                ("schemaname", facts.schema_name(relation.schema).into()),
                ("tablename", (&relation.name).into()),
                ("tableowner", OWNER.into()),
                ("hasindexes", relation.primary_key.is_some().into()),
                ("hasrules", false.into()),
                ("hastriggers", false.into()),
                ("rowsecurity", false.into()),
            ]);
        }
    }
    for table in system_relations('r') {
        rows.push([
            ("schemaname", (&table.schema).into()),
            ("tablename", (&table.name).into()),
            ("tableowner", OWNER.into()),
            ("hasindexes", false.into()),
            ("hasrules", false.into()),
            ("hastriggers", false.into()),
            ("rowsecurity", false.into()),
        ]);
    }
}

fn views(facts: &SystemFacts, rows: &mut Rows) {
    for (relation, kind) in facts.shown() {
        if kind == 'v' {
            rows.push([
                ("schemaname", facts.schema_name(relation.schema).into()),
                ("viewname", (&relation.name).into()),
                ("viewowner", OWNER.into()),
                ("definition", view_query(relation).into()),
            ]);
        }
    }
    for table in system_relations('v') {
        rows.push([
            ("schemaname", (&table.schema).into()),
            ("viewname", (&table.name).into()),
            ("viewowner", OWNER.into()),
        ]);
    }
}

fn materialized_views(facts: &SystemFacts, rows: &mut Rows) {
    for (relation, kind) in facts.shown() {
        if kind == 'm' {
            rows.push([
                ("schemaname", facts.schema_name(relation.schema).into()),
                ("matviewname", (&relation.name).into()),
                ("matviewowner", OWNER.into()),
                ("hasindexes", relation.primary_key.is_some().into()),
                ("ispopulated", true.into()),
                ("definition", view_query(relation).into()),
            ]);
        }
    }
}

fn rules(facts: &SystemFacts, rows: &mut Rows) {
    for (relation, _) in facts.shown() {
        if view_query(relation).is_some() {
            rows.push([
                ("oid", derived_oid(relation.oid.0, 0).into()),
                ("rulename", "_RETURN".into()),
                ("ev_class", relation.oid.into()),
                ("ev_type", "1".into()),
                ("ev_enabled", "O".into()),
                ("is_instead", true.into()),
            ]);
        }
    }
}

/// A view depends on what it reads through its rule, as in Postgres; dbt and pgAdmin walk these rows.
fn dependencies(facts: &SystemFacts, rows: &mut Rows) {
    for (relation, _) in facts.shown() {
        if view_query(relation).is_none() {
            continue;
        }
        let rule = derived_oid(relation.oid.0, 0);
        let own = [(relation.oid, "i")];
        for (target, kind) in own
            .into_iter()
            .chain(relation.depends_on.iter().map(|oid| (*oid, "n")))
        {
            rows.push([
                ("classid", PG_REWRITE.into()),
                ("objid", rule.into()),
                ("objsubid", 0.into()),
                ("refclassid", PG_CLASS.into()),
                ("refobjid", target.into()),
                ("refobjsubid", 0.into()),
                ("deptype", kind.into()),
            ]);
        }
    }
}
