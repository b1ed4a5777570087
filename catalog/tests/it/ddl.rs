//! Random valid DDL: what the replay and crash tests run.
//!
//! Invariant: the changes depend only on the snapshot and the generator, and always apply.

use std::collections::BTreeMap;

use thalweg_catalog::{
    Catalog, Change, Column, ConnectorSpec, Environment, Oid, OidAllocator, PUBLIC_OID, Relation,
    RelationBuilder, RelationKind, Schema, SinkSpec, SqlType, errors_relation,
};

use crate::random::Random;
use crate::types::random_type;

/// The next statement's changes.
pub(crate) fn statement(catalog: &Catalog, random: &mut Random) -> Vec<Change> {
    let live = catalog.relations().count();
    match random.below(12) {
        0 => create_schema(catalog),
        1 => drop_schema(catalog, random),
        2 | 3 => drop_relation(catalog, random),
        4 => replace_view(catalog, random),
        5 => vec![Change::ReserveOids(
            catalog.next_oid() + random.below(5) as u32,
        )],
        6 if live > 20 => drop_relation(catalog, random),
        6 => pause(catalog, random),
        _ => create_relation(catalog, random),
    }
}

/// Changes that drop everything there is.
pub(crate) fn drop_everything(catalog: &Catalog) -> Vec<Change> {
    let owners: Vec<Oid> = catalog
        .relations()
        .filter(|relation| !matches!(relation.kind, RelationKind::Errors { .. }))
        .map(|relation| relation.oid)
        .collect();
    let order = catalog
        .drop_order(&owners, false)
        .expect("nothing outside depends on everything");
    let schemas = catalog.schemas().filter(|schema| !schema.is_system());
    let mut changes: Vec<Change> = order.into_iter().map(Change::DropRelation).collect();
    changes.extend(schemas.map(|schema| Change::DropSchema(schema.oid)));
    changes
}

fn pause(catalog: &Catalog, random: &mut Random) -> Vec<Change> {
    let able: Vec<&Relation> = catalog.relations().filter(|r| r.can_pause()).collect();
    let Some(relation) = random.pick(&able) else {
        return create_relation(catalog, random);
    };
    vec![Change::Pause {
        oid: relation.oid,
        paused: !catalog.is_paused(relation.oid),
    }]
}

fn create_schema(catalog: &Catalog) -> Vec<Change> {
    let oid = Oid(catalog.next_oid());
    vec![Change::CreateSchema(Schema {
        oid,
        name: format!("schema {oid}"),
    })]
}

fn drop_schema(catalog: &Catalog, random: &mut Random) -> Vec<Change> {
    let schemas: Vec<&Schema> = catalog
        .schemas()
        .filter(|schema| !schema.is_system())
        .collect();
    let Some(schema) = random.pick(&schemas) else {
        return create_schema(catalog);
    };
    let order = catalog
        .schema_drop_order(schema.oid, true)
        .expect("cascade never refuses");
    let mut changes: Vec<Change> = order.into_iter().map(Change::DropRelation).collect();
    changes.push(Change::DropSchema(schema.oid));
    changes
}

fn drop_relation(catalog: &Catalog, random: &mut Random) -> Vec<Change> {
    let relations: Vec<&Relation> = catalog
        .relations()
        .filter(|relation| !matches!(relation.kind, RelationKind::Errors { .. }))
        .collect();
    let Some(relation) = random.pick(&relations) else {
        return create_schema(catalog);
    };
    let order = catalog
        .drop_order(&[relation.oid], true)
        .expect("cascade never refuses");
    order.into_iter().map(Change::DropRelation).collect()
}

fn replace_view(catalog: &Catalog, random: &mut Random) -> Vec<Change> {
    let views: Vec<&Relation> = catalog
        .relations()
        .filter(|relation| matches!(relation.kind, RelationKind::View { .. }))
        .collect();
    let Some(view) = random.pick(&views) else {
        return create_relation(catalog, random);
    };
    let mut columns = view.columns.clone();
    let attnum = columns.len() as i16 + 1;
    columns.push(Column::data(
        format!("added {attnum}"),
        attnum,
        random_type(random, 2),
    ));
    // Anything older than the view cannot read it.
    let older = catalog
        .relations()
        .filter(|r| r.oid < view.oid && r.is_readable());
    vec![Change::ReplaceView {
        oid: view.oid,
        columns,
        query: format!("SELECT {}", random.bits()),
        definition: "CREATE VIEW".to_owned(),
        environment: Environment::default(),
        depends_on: older.map(|r| r.oid).take(2).collect(),
    }]
}

fn create_relation(catalog: &Catalog, random: &mut Random) -> Vec<Change> {
    let mut oids = OidAllocator::new(catalog);
    let schemas: Vec<Oid> = catalog.schemas().map(|schema| schema.oid).collect();
    let schema = random.pick(&schemas).copied().unwrap_or(PUBLIC_OID);
    let readable: Vec<Oid> = catalog
        .relations()
        .filter(|relation| relation.is_readable())
        .map(|r| r.oid)
        .collect();
    let query = "SELECT 1".to_owned();
    let kind = match random.below(5) {
        0 => RelationKind::Source(ConnectorSpec {
            connector: "datagen".to_owned(),
            options: BTreeMap::from([("rows".to_owned(), random.bits().to_string())]),
            format: "PLAIN".to_owned(),
            encode: "NATIVE".to_owned(),
            encode_options: BTreeMap::new(),
            start: BTreeMap::from([("0".to_owned(), random.bits())]),
            watermark: None,
        }),
        1 => RelationKind::Table,
        2 => RelationKind::View { query },
        3 => RelationKind::MaterializedView {
            query,
            options: BTreeMap::new(),
        },
        _ => RelationKind::Sink(SinkSpec {
            connector: "blackhole".to_owned(),
            options: BTreeMap::new(),
            query,
            delivery: "at_least_once".to_owned(),
            format: None,
            into: None,
        }),
    };
    let reads = !matches!(kind, RelationKind::Source(_) | RelationKind::Table);
    let name = format!("r{}", catalog.next_oid());
    let relation = {
        let mut builder = RelationBuilder::new(catalog, &mut oids, schema, &name, kind)
            .expect("the name holds a fresh OID");
        for number in 0..=random.below(4) {
            builder
                .column(Column::data(
                    format!("c{number}"),
                    0,
                    random_type(random, 2),
                ))
                .expect("names differ");
        }
        if random.below(2) == 0 {
            builder.primary_key(None, &["c0"]).expect("c0 is there");
            builder
                .check(None, "c0 > 0", "FAIL")
                .expect("no name given");
        }
        if reads {
            builder.depends_on(
                (0..2)
                    .filter_map(|_| random.pick(&readable).copied())
                    .collect::<Vec<_>>(),
            );
        }
        builder
            .definition(format!("CREATE {name} \u{1f30a}\""), Environment::default())
            .created_at_ms(-1);
        builder.build()
    };
    let mut changes = Vec::new();
    if matches!(relation.kind, RelationKind::Source(_)) {
        let errors = errors_relation(catalog, &mut oids, &relation).expect("the name is fresh");
        changes.push(Change::CreateRelation(Box::new(errors)));
    }
    changes.insert(0, Change::CreateRelation(Box::new(relation)));
    changes
}

/// A table of one int column, for tests that need something small.
pub(crate) fn small_table(catalog: &Catalog, oids: &mut OidAllocator, name: &str) -> Relation {
    let mut builder = RelationBuilder::new(catalog, oids, PUBLIC_OID, name, RelationKind::Table)
        .expect("the name is free");
    builder
        .column(Column::data("a", 0, SqlType::Int4))
        .expect("one column");
    builder.build()
}
