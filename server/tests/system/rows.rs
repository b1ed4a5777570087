//! Rows of the system relations, compared cell by cell.
//!
//! Invariant: expectations are Postgres' own where it has the same object.

use super::*;

#[tokio::test]
async fn asyncpg_gets_the_closure_of_a_row_type() {
    let world = World::new();
    let orders = world
        .catalog
        .find("public", "orders")
        .expect("orders")
        .row_type_oid
        .0
        .to_string();
    let fixture = fixtures("asyncpg.sql")
        .into_iter()
        .find(|fixture| fixture.text.contains("typeinfo_tree"));
    let text = fixture.expect("introspection").text;
    let answer = world
        .run(&text, &[format!("{{{orders}}}")])
        .await
        .expect("introspection");
    assert_eq!(answer.names.len(), 14);
    let names: Vec<&str> = answer.rows.iter().map(|row| row[2].as_str()).collect();
    for name in [
        "orders", "int8", "numeric", "_text", "text", "jsonb", "uuid",
    ] {
        assert!(names.contains(&name), "{name} is missing from {names:?}");
    }
}

#[tokio::test]
async fn views_show_their_queries() {
    let world = World::new();
    let query = "SELECT pg_get_viewdef('big_orders'::regclass, true)";
    assert_eq!(
        world.rows(query).await,
        strings(&[&[" SELECT id, customer, amount FROM orders WHERE amount > 100;"]])
    );
}

#[tokio::test]
async fn reg_types_read_names_and_print_them() {
    let world = World::new();
    let orders = world.oid("public.orders").to_string();
    let items = world.oid("shop.items").to_string();
    let cases: &[(&str, &str)] = &[
        ("SELECT 'orders'::regclass", "orders"),
        ("SELECT 'orders'::regclass::oid", &orders),
        ("SELECT 'shop.items'::regclass::oid", &items),
        (
            "SELECT oid::regclass FROM pg_class WHERE relname = 'items'",
            "shop.items",
        ),
        (
            "SELECT count(*) FROM pg_class WHERE oid = 'public.\"orders\"'::regclass",
            "1",
        ),
        ("SELECT 'int4'::regtype", "integer"),
        ("SELECT 'character varying'::regtype::oid", "1043"),
        ("SELECT '\"char\"'::regtype::oid", "18"),
        ("SELECT 25::regtype::text", "text"),
        ("SELECT to_regclass('nothing') IS NULL", "true"),
        ("SELECT typinput FROM pg_type WHERE oid = 23", "int4in"),
        (
            "SELECT typreceive::text FROM pg_type WHERE typname = 'text'",
            "textrecv",
        ),
        (
            "SELECT indkey::text FROM pg_index WHERE indrelid = 'shop.items'::regclass",
            "1 2",
        ),
        (
            "SELECT attname FROM pg_attribute a, pg_index i WHERE attrelid = 'orders'::regclass AND indrelid = attrelid AND attnum = indkey[0]",
            "id",
        ),
        (
            "SELECT tableoid = 'pg_class'::regclass FROM pg_class LIMIT 1",
            "true",
        ),
        ("SELECT current_schema()", "public"),
        ("SELECT current_schemas(true)", "[pg_catalog, public]"),
        (
            "SELECT array_to_string(ARRAY(SELECT relname FROM pg_class WHERE relkind = 'm' ORDER BY 1), ',')",
            "totals",
        ),
        (
            "SELECT cardinality(ARRAY(SELECT relname FROM pg_class WHERE relkind = 'S'))",
            "0",
        ),
        (
            "SELECT obj_description('clicks'::regclass)",
            "source (kafka)",
        ),
        (
            "SELECT quote_ident('a b') || quote_literal('it''s')",
            "\"a b\"'it''s'",
        ),
    ];
    for (query, expected) in cases {
        let answer = world
            .run(query, &[])
            .await
            .unwrap_or_else(|error| panic!("{query}: {error}"));
        assert_eq!(answer.rows, strings(&[&[expected]]), "{query}");
    }
}

#[tokio::test]
async fn names_that_do_not_exist_are_errors() {
    let world = World::new();
    for (query, message) in [
        (
            "SELECT 'nothing'::regclass",
            "relation \"nothing\" does not exist",
        ),
        (
            "SELECT 'nothing'::regtype::oid",
            "type \"nothing\" does not exist",
        ),
        (
            "SELECT current_setting('nothing')",
            "unrecognized configuration parameter \"nothing\"",
        ),
    ] {
        let error = world.run(query, &[]).await.expect_err(query);
        assert!(error.contains(message), "{query}: {error}");
    }
}

#[tokio::test]
async fn every_system_relation_scans_and_keeps_its_types() {
    let world = World::new();
    for table in thalweg::system::tables() {
        let query = format!("SELECT * FROM {}.\"{}\"", table.schema, table.name);
        let answer = world
            .run(&query, &[])
            .await
            .unwrap_or_else(|error| panic!("{query}: {error}"));
        let expected: Vec<&str> = table
            .columns
            .iter()
            .map(|column| column.name.as_str())
            .collect();
        assert_eq!(answer.names, expected, "{query}");
    }
}

#[tokio::test]
async fn references_between_catalogs_resolve() {
    let world = World::new();
    for query in [
        "SELECT typname FROM pg_type t WHERE typinput NOT IN (SELECT oid FROM pg_proc)",
        "SELECT typname FROM pg_type t WHERE typreceive <> 0 AND typreceive NOT IN (SELECT oid FROM pg_proc)",
        "SELECT typname FROM pg_type t WHERE typarray <> 0 AND typarray NOT IN (SELECT oid FROM pg_type)",
        "SELECT typname FROM pg_type t WHERE typnamespace NOT IN (SELECT oid FROM pg_namespace)",
        "SELECT relname FROM pg_class WHERE relnamespace NOT IN (SELECT oid FROM pg_namespace)",
        "SELECT relname FROM pg_class WHERE relowner NOT IN (SELECT oid FROM pg_roles)",
        "SELECT attname FROM pg_attribute WHERE attrelid NOT IN (SELECT oid FROM pg_class)",
        "SELECT relname, count(*) FROM pg_class GROUP BY relname, relnamespace HAVING count(*) > 1",
        "SELECT oid FROM pg_class GROUP BY oid HAVING count(*) > 1",
        "SELECT oid FROM pg_type GROUP BY oid HAVING count(*) > 1",
    ] {
        assert_eq!(
            world.rows(query).await,
            Vec::<Vec<String>>::new(),
            "{query}"
        );
    }
}
