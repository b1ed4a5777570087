//! Replaying a log gives the snapshot it came from, and OIDs are never used twice.
//!
//! Invariant: held for random sequences of valid DDL.

use std::collections::BTreeSet;

use thalweg_catalog::{Catalog, Change, Oid, SYSTEM_SCHEMAS, apply, apply_all};

use crate::ddl;
use crate::random::{Random, seed};

fn created_oids(change: &Change) -> Vec<Oid> {
    match change {
        Change::CreateSchema(schema) => vec![schema.oid],
        Change::CreateRelation(relation) => relation.oids(),
        _ => Vec::new(),
    }
}

#[test]
fn replay_gives_the_same_snapshot_and_oids_are_never_reused() {
    let seed = seed();
    for program in 0..60 {
        let mut random = Random::new(seed.wrapping_add(program));
        let mut catalog = Catalog::empty();
        let mut log = Vec::new();
        let mut used = BTreeSet::new();
        let mut steps = 40;
        while steps > 0 {
            steps -= 1;
            let mut changes = ddl::statement(&catalog, &mut random);
            if steps == 10 {
                changes = ddl::drop_everything(&catalog);
            }
            for change in changes {
                let counter = catalog.next_oid();
                for oid in created_oids(&change) {
                    assert!(
                        used.insert(oid),
                        "OID {oid} is used twice (seed {seed}, program {program})"
                    );
                }
                catalog = apply(&catalog, &change).unwrap_or_else(|error| {
                    panic!("{error:?}: {change:?} (seed {seed}, program {program})")
                });
                assert!(catalog.next_oid() >= counter);
                assert!(used.last().is_none_or(|oid| oid.0 < catalog.next_oid()));
                log.push(serde_json::to_string(&change).expect("changes serialise"));
            }
        }
        let read: Vec<Change> = log
            .iter()
            .map(|text| serde_json::from_str(text).expect("changes parse"))
            .collect();
        let replayed = apply_all(&Catalog::empty(), &read).expect("the log replays");
        assert_eq!(replayed, catalog, "seed {seed}, program {program}");

        let empty = apply_all(&catalog, &ddl::drop_everything(&catalog)).expect("everything drops");
        assert_eq!(empty.relations().count(), 0);
        let names: BTreeSet<&str> = empty.schemas().map(|schema| schema.name.as_str()).collect();
        assert_eq!(
            names,
            SYSTEM_SCHEMAS.iter().map(|(_, name)| *name).collect()
        );
        assert_eq!(empty.next_oid(), catalog.next_oid());
        // Nothing is left behind in the indexes either.
        let fresh = apply_all(&Catalog::empty(), &[Change::ReserveOids(empty.next_oid())]);
        let fresh = fresh.expect("the counter moves");
        assert_eq!(
            format!("{fresh:?}").split("next_oid").nth(1),
            format!("{empty:?}").split("next_oid").nth(1)
        );
    }
}

/// Blocks commit in another order than they reserved their OIDs.
#[test]
fn a_change_that_was_overtaken_applies() {
    let empty = Catalog::empty();
    let mut oids = thalweg_catalog::OidAllocator::new(&empty);
    let [first, second] = ["a", "b"].map(|name| ddl::small_table(&empty, &mut oids, name));
    let create =
        |relation: &thalweg_catalog::Relation| Change::CreateRelation(Box::new(relation.clone()));
    let one = apply(&empty, &create(&second)).expect("the second");
    let both = apply(&one, &create(&first)).expect("the first, later");
    assert_eq!(both.next_oid(), oids.next());
}

#[test]
fn changes_that_break_an_invariant_do_not_apply() {
    let empty = Catalog::empty();
    let mut oids = thalweg_catalog::OidAllocator::new(&empty);
    let table = ddl::small_table(&empty, &mut oids, "t");
    let create =
        |relation: &thalweg_catalog::Relation| Change::CreateRelation(Box::new(relation.clone()));
    let one = apply(&empty, &create(&table)).expect("a table");

    let mut same_oid = table.clone();
    same_oid.name = "u".to_owned();
    let mut twice = ddl::small_table(&one, &mut oids, "u");
    twice.array_type_oid = twice.oid;
    let mut no_schema = ddl::small_table(&one, &mut oids, "u");
    no_schema.schema = Oid(1);
    let mut no_dependency = ddl::small_table(&one, &mut oids, "u");
    no_dependency.depends_on = vec![Oid(99)];
    let mut unsorted = ddl::small_table(&one, &mut oids, "u");
    unsorted.depends_on = vec![table.oid, table.oid];
    let mut same_name = ddl::small_table(&one, &mut oids, "u");
    same_name.name = "t".to_owned();
    let mut bad_column = ddl::small_table(&one, &mut oids, "u");
    bad_column.columns.extend(bad_column.columns.clone());
    let mut orphan = ddl::small_table(&one, &mut oids, "u");
    orphan.kind = thalweg_catalog::RelationKind::Errors { source: table.oid };
    for (change, reason) in [
        (create(&same_oid), "OID 16384 is in use"),
        (create(&twice), "uses one OID twice"),
        (create(&no_schema), "there is no schema 1"),
        (
            create(&no_dependency),
            "there is no relation 99 to depend on",
        ),
        (create(&unsorted), "not sorted and distinct"),
        (create(&same_name), "relation name \"t\" is taken"),
        (create(&bad_column), "column name \"a\" is used twice"),
        (create(&orphan), "there is no source"),
        (Change::DropRelation(Oid(99)), "there is no relation 99"),
        (Change::DropSchema(Oid(2200)), "belongs to the system"),
        (Change::DropSchema(Oid(99)), "there is no schema 99"),
        (Change::ReserveOids(1), "would go back"),
        (
            Change::CreateSchema(thalweg_catalog::Schema {
                oid: Oid(99_999),
                name: "sys".to_owned(),
            }),
            "schema name \"sys\" is taken",
        ),
        (
            Change::CreateSchema(thalweg_catalog::Schema {
                oid: Oid(u32::MAX),
                name: "s".to_owned(),
            }),
            "exhausted",
        ),
    ] {
        let report = apply(&one, &change).expect_err(reason).report();
        assert_eq!(report.sqlstate, "XX001", "{reason}");
        assert_eq!(report.message, "catalog change does not apply");
        assert!(
            report
                .detail
                .as_deref()
                .is_some_and(|detail| detail.contains(reason)),
            "{report:?} {reason}"
        );
    }
}
