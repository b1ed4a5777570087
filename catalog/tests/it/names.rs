//! Names, kinds and dependencies, with the words of every refusal.
//!
//! Invariant: texts and SQLSTATEs are Postgres' where Postgres has them.

use std::collections::BTreeMap;

use thalweg_catalog::{
    Catalog, CatalogError, Change, Column, Environment, Oid, OidAllocator, PUBLIC_OID,
    RelationBuilder, RelationKind, Schema, SqlType, apply, apply_all, check_view_replacement,
    errors_relation, option,
};
use thalweg_sql::{ObjectKind, OptionValue, WithOption, ast};

/// source clicks (with clicks_errors), table t(id primary key), view v over clicks, materialized view m over v, view e over
/// clicks_errors, schema s with table s.t over nothing.
fn sample() -> Catalog {
    let mut catalog = Catalog::empty();
    let with = [WithOption {
        name: "connector".to_owned(),
        value: OptionValue::String("datagen".to_owned()),
    }];
    let spec = option::connector_spec(&with, None).expect("a generator");
    let source = create(
        &mut catalog,
        PUBLIC_OID,
        "clicks",
        RelationKind::Source(spec),
        &[],
    );
    let mut oids = OidAllocator::new(&catalog);
    let owner = catalog.relation(source).expect("the source").clone();
    let errors = errors_relation(&catalog, &mut oids, &owner).expect("its errors relation");
    let errors_oid = errors.oid;
    catalog = apply(&catalog, &Change::CreateRelation(Box::new(errors))).expect("it applies");
    create(&mut catalog, PUBLIC_OID, "t", RelationKind::Table, &[]);
    let query = || "SELECT 1".to_owned();
    let v = create(
        &mut catalog,
        PUBLIC_OID,
        "v",
        RelationKind::View { query: query() },
        &[source],
    );
    let kind = RelationKind::MaterializedView {
        query: query(),
        options: BTreeMap::new(),
    };
    create(&mut catalog, PUBLIC_OID, "m", kind, &[v]);
    create(
        &mut catalog,
        PUBLIC_OID,
        "e",
        RelationKind::View { query: query() },
        &[errors_oid],
    );
    let schema = Schema {
        oid: Oid(catalog.next_oid()),
        name: "s".to_owned(),
    };
    let oid = schema.oid;
    catalog = apply(&catalog, &Change::CreateSchema(schema)).expect("a schema");
    create(&mut catalog, oid, "t", RelationKind::Table, &[]);
    catalog
}

fn create(
    catalog: &mut Catalog,
    schema: Oid,
    name: &str,
    kind: RelationKind,
    reads: &[Oid],
) -> Oid {
    let mut oids = OidAllocator::new(catalog);
    let keyed = matches!(kind, RelationKind::Table);
    let mut builder =
        RelationBuilder::new(catalog, &mut oids, schema, name, kind).expect("a free name");
    builder
        .column(Column::data("id", 0, SqlType::Int8))
        .expect("a column");
    if keyed {
        builder.primary_key(None, &["id"]).expect("a key");
    }
    builder.depends_on(reads.iter().copied());
    let relation = builder.build();
    let oid = relation.oid;
    *catalog = apply(catalog, &Change::CreateRelation(Box::new(relation))).expect("it applies");
    oid
}

fn name(text: &str) -> ast::ObjectName {
    let part = |part: &str| match part.strip_prefix('"') {
        Some(quoted) => ast::Ident::with_quote('"', quoted.trim_end_matches('"')),
        None => ast::Ident::new(part),
    };
    ast::ObjectName::from(text.split('.').map(part).collect::<Vec<_>>())
}

fn public() -> Vec<String> {
    vec!["public".to_owned()]
}

fn oid(catalog: &Catalog, schema: &str, name: &str) -> Oid {
    catalog
        .find(schema, name)
        .unwrap_or_else(|| panic!("{schema}.{name}"))
        .oid
}

/// SQLSTATE, message and hint.
fn told(error: &CatalogError) -> (&'static str, String, Option<String>) {
    let report = error.report();
    (report.sqlstate, report.message, report.hint)
}

#[test]
fn names_resolve_along_the_search_path() {
    let catalog = sample();
    let path = |names: &[&str]| {
        names
            .iter()
            .map(|name| (*name).to_owned())
            .collect::<Vec<_>>()
    };
    let public_t = oid(&catalog, "public", "t");
    let s_t = oid(&catalog, "s", "t");
    for (search, written, expected) in [
        (path(&["public", "s"]), "t", public_t),
        (path(&["s", "public"]), "t", s_t),
        (path(&["$user", "public"]), "T", public_t),
        (path(&[]), "s.t", s_t),
        (path(&["public"]), "thalweg.s.t", s_t),
        (path(&["public"]), "\"t\"", public_t),
    ] {
        let found = catalog
            .resolve(&search, &name(written))
            .unwrap_or_else(|e| panic!("{written}: {e}"));
        assert_eq!(found.oid, expected, "{written}");
    }
    for (written, sqlstate, message, hint) in [
        (
            "clikcs",
            "42P01",
            "relation \"clikcs\" does not exist",
            Some("Perhaps you meant \"clicks\"."),
        ),
        (
            "\"CLICKS\"",
            "42P01",
            "relation \"CLICKS\" does not exist",
            Some("Perhaps you meant \"clicks\"."),
        ),
        (
            "nosuch.t",
            "42P01",
            "relation \"nosuch.t\" does not exist",
            None,
        ),
        (
            "s.tt",
            "42P01",
            "relation \"s.tt\" does not exist",
            Some("Perhaps you meant \"s.t\"."),
        ),
        (
            "other.s.t",
            "0A000",
            "cross-database references are not implemented: \"other.s.t\"",
            Some("Connect to the other database instead."),
        ),
        (
            "a.b.c.d",
            "42601",
            "improper relation name: \"a.b.c.d\"",
            None,
        ),
        // An index has a name in the same name space, but it is no relation to read.
        (
            "t_pkey",
            "42P01",
            "relation \"t_pkey\" does not exist",
            None,
        ),
    ] {
        let error = catalog
            .resolve(&public(), &name(written))
            .expect_err(written);
        assert_eq!(
            told(&error),
            (sqlstate, message.to_owned(), hint.map(str::to_owned)),
            "{written}"
        );
    }
    assert_eq!(catalog.try_resolve(&public(), &name("nosuch.t")), Ok(None));
}

#[test]
fn ddl_names_must_be_of_the_kind() {
    let catalog = sample();
    for (written, kind, sqlstate, message, hint) in [
        (
            "t",
            ObjectKind::View,
            "42809",
            "\"t\" is not a view",
            Some("Use DROP TABLE to remove a table."),
        ),
        (
            "m",
            ObjectKind::Table,
            "42809",
            "\"m\" is not a table",
            Some("Use DROP MATERIALIZED VIEW to remove a materialized view."),
        ),
        (
            "clicks_errors",
            ObjectKind::Table,
            "42809",
            "\"clicks_errors\" is not a table",
            Some("It comes and goes with source clicks."),
        ),
        (
            "x",
            ObjectKind::MaterializedView,
            "42P01",
            "materialized view \"x\" does not exist",
            None,
        ),
        (
            "nosuch.t",
            ObjectKind::Table,
            "3F000",
            "schema \"nosuch\" does not exist",
            None,
        ),
        (
            "publik.t",
            ObjectKind::Table,
            "3F000",
            "schema \"publik\" does not exist",
            Some("Perhaps you meant \"public\"."),
        ),
    ] {
        let error = catalog
            .resolve_kind(&public(), &name(written), kind)
            .expect_err(written);
        assert_eq!(
            told(&error),
            (sqlstate, message.to_owned(), hint.map(str::to_owned)),
            "{written}"
        );
    }
    let found = catalog
        .resolve_kind(&public(), &name("clicks"), ObjectKind::Source)
        .expect("a source");
    assert_eq!((found.kind_word(), found.relkind()), ("source", Some('r')));
}

#[test]
fn creation_finds_its_schema_and_a_free_name() {
    let catalog = sample();
    let (schema, relation) = catalog
        .creation_target(&public(), &name("New"))
        .expect("public");
    assert_eq!((schema.name.as_str(), relation.as_str()), ("public", "new"));
    let error = catalog
        .creation_target(&[], &name("x"))
        .expect_err("no path");
    assert_eq!(told(&error).0, "3F000");
    let error = catalog
        .creation_target(&public(), &name("nosuch.x"))
        .expect_err("no schema");
    assert_eq!(
        told(&error),
        ("3F000", "schema \"nosuch\" does not exist".to_owned(), None)
    );
    for taken in ["t", "t_pkey", "clicks_errors"] {
        let error = catalog.require_free(PUBLIC_OID, taken).expect_err(taken);
        assert_eq!(
            told(&error),
            (
                "42P07",
                format!("relation \"{taken}\" already exists"),
                None
            )
        );
    }
    // The default key name gives way, as in Postgres.
    let mut other = catalog.clone();
    create(&mut other, PUBLIC_OID, "u_pkey", RelationKind::Table, &[]);
    let u = create(&mut other, PUBLIC_OID, "u", RelationKind::Table, &[]);
    let key = other
        .relation(u)
        .and_then(|relation| relation.primary_key.clone())
        .expect("a key");
    assert_eq!(key.name, "u_pkey1");
}

#[test]
fn drops_follow_dependencies() {
    let catalog = sample();
    let clicks = oid(&catalog, "public", "clicks");
    let report = catalog
        .drop_order(&[clicks], false)
        .expect_err("views read it")
        .report();
    assert_eq!(report.sqlstate, "2BP01");
    assert_eq!(
        report.message,
        "cannot drop source clicks because other objects depend on it"
    );
    assert_eq!(
        report.detail.as_deref(),
        Some(
            "view v depends on source clicks\nview e depends on source clicks\nmaterialized view m depends on view v"
        )
    );
    assert_eq!(
        report.hint.as_deref(),
        Some("Use DROP ... CASCADE to drop the dependent objects too.")
    );

    let order = catalog.drop_order(&[clicks], true).expect("cascade");
    let names: Vec<&str> = order
        .iter()
        .filter_map(|oid| catalog.relation(*oid))
        .map(|r| r.name.as_str())
        .collect();
    assert_eq!(names.len(), 5, "{names:?}");
    let at = |name: &str| {
        names
            .iter()
            .position(|found| *found == name)
            .unwrap_or_else(|| panic!("{name}"))
    };
    assert!(at("m") < at("v") && at("v") < at("clicks") && at("e") < at("clicks_errors"));
    assert!(at("clicks_errors") < at("clicks"));
    let changes: Vec<Change> = order.into_iter().map(Change::DropRelation).collect();
    apply_all(&catalog, &changes).expect("the order applies");

    // Naming all of them needs no CASCADE.
    let all = ["clicks", "v", "m", "e"].map(|name| oid(&catalog, "public", name));
    assert_eq!(
        catalog
            .drop_order(&all, false)
            .expect("nothing else depends")
            .len(),
        5
    );
    let two = ["clicks", "t"].map(|name| oid(&catalog, "public", name));
    let report = catalog.drop_order(&two, false).expect_err("views").report();
    assert_eq!(
        report.message,
        "cannot drop desired object(s) because other objects depend on them"
    );
    assert_eq!(
        catalog.dependants(clicks),
        vec![oid(&catalog, "public", "v")]
    );

    let report = catalog
        .drop_order(&[oid(&catalog, "public", "clicks_errors")], true)
        .expect_err("owned")
        .report();
    assert_eq!(
        report.message,
        "cannot drop table clicks_errors because source clicks requires it"
    );
    assert_eq!(
        report.hint.as_deref(),
        Some("You can drop source clicks instead.")
    );
}

#[test]
fn a_long_chain_of_views_drops_without_recursion() {
    let mut changes = Vec::new();
    let empty = Catalog::empty();
    let mut oids = OidAllocator::new(&empty);
    let mut below = None;
    for number in 0..20_000 {
        let kind = RelationKind::View {
            query: String::new(),
        };
        let mut builder =
            RelationBuilder::new(&empty, &mut oids, PUBLIC_OID, &format!("v{number}"), kind)
                .expect("a view");
        builder.depends_on(below);
        let relation = builder.build();
        below = Some(relation.oid);
        changes.push(Change::CreateRelation(Box::new(relation)));
    }
    let catalog = apply_all(&empty, &changes).expect("a chain");
    let order = catalog
        .drop_order(&[oid(&catalog, "public", "v0")], true)
        .expect("cascade");
    assert_eq!(order.first().copied(), below);
    assert_eq!(order.len(), changes.len());
    let error = catalog
        .drop_order(&[oid(&catalog, "public", "v0")], false)
        .expect_err("a chain");
    assert!(
        error
            .report()
            .detail
            .is_some_and(|detail| detail.ends_with("and 19899 other objects"))
    );
}

#[test]
fn schemas_drop_with_their_content() {
    let catalog = sample();
    let s = catalog.schema("s").expect("the schema").oid;
    let report = catalog
        .schema_drop_order(s, false)
        .expect_err("not empty")
        .report();
    assert_eq!(
        report.message,
        "cannot drop schema s because other objects depend on it"
    );
    assert_eq!(
        report.detail.as_deref(),
        Some("table s.t depends on schema s")
    );
    assert_eq!(
        catalog.schema_drop_order(s, true).expect("cascade").len(),
        1
    );
    let report = catalog
        .schema_drop_order(PUBLIC_OID, true)
        .expect_err("system")
        .report();
    assert_eq!(
        report.message,
        "cannot drop schema public because it is required by the database system"
    );
}

#[test]
fn errors_relations_have_the_documented_columns() {
    let catalog = sample();
    let errors = catalog
        .errors_of(oid(&catalog, "public", "clicks"))
        .expect("it is there");
    let columns: Vec<String> = errors
        .columns
        .iter()
        .map(|c| format!("{} {}", c.name, c.ty))
        .collect();
    assert_eq!(
        columns,
        [
            "reason text",
            "message text",
            "topic text",
            "partition integer",
            "offset bigint",
            "key bytea",
            "payload bytea",
            "headers jsonb",
            "at timestamp with time zone",
            "epoch bigint"
        ]
    );
    assert_eq!(errors.key_positions(), [2, 3, 4, 0]);
    assert_eq!(
        errors
            .schema()
            .field_with_name("headers")
            .map(SqlType::from_field)
            .ok(),
        Some(SqlType::Jsonb)
    );
}

#[test]
fn views_are_replaced_as_postgres_does() {
    let catalog = sample();
    let v = catalog.find("public", "v").expect("the view");
    let column = |name: &str, ty| Column::data(name, 1, ty);
    let check =
        |columns: &[Column], reads: &[Oid]| check_view_replacement(&catalog, v, columns, reads);
    for (columns, message) in [
        (vec![], "cannot drop columns from view"),
        (
            vec![column("x", SqlType::Int8)],
            "cannot change name of view column \"id\" to \"x\"",
        ),
        (
            vec![column("id", SqlType::Text)],
            "cannot change data type of view column \"id\" from bigint to text",
        ),
    ] {
        let report = check(&columns, &[]).expect_err(message).report();
        assert_eq!(
            (report.sqlstate, report.message.as_str()),
            ("42P16", message)
        );
    }
    let same = [column("id", SqlType::Int8)];
    let recursive = check(&same, &[oid(&catalog, "public", "m")]).expect_err("m reads v");
    assert_eq!(recursive.sqlstate(), "42P17");
    assert_eq!(check(&same, &[oid(&catalog, "public", "t")]), Ok(()));
    let replace = |depends_on: Vec<Oid>| Change::ReplaceView {
        oid: v.oid,
        columns: same.to_vec(),
        query: "SELECT 2".to_owned(),
        definition: String::new(),
        environment: Environment::default(),
        depends_on,
    };
    assert!(apply(&catalog, &replace(vec![oid(&catalog, "public", "m")])).is_err());
    let t = oid(&catalog, "public", "t");
    let next = apply(&catalog, &replace(vec![t])).expect("it applies");
    assert_eq!(next.dependants(t), [v.oid]);
    assert_eq!(next.dependants(oid(&catalog, "public", "clicks")), []);
    assert_eq!(
        next.relation(v.oid).and_then(|view| view.query()),
        Some("SELECT 2")
    );
}
