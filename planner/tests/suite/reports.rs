//! Errors carry the SQLSTATE, hint and position that Postgres gives.

use super::world::World;

#[test]
fn reports() {
    let world = World::new();
    for (text, sqlstate, message, hint, position) in [
        (
            "SELECT amout FROM orders",
            "42703",
            "column \"amout\" does not exist",
            Some("Perhaps you meant to reference the column \"orders.amount\"."),
            Some(8),
        ),
        (
            "SELECT o.amout FROM orders o",
            "42703",
            "column o.amout does not exist",
            Some("Perhaps you meant to reference the column \"o.amount\"."),
            None,
        ),
        (
            "SELECT x.id FROM orders",
            "42P01",
            "missing FROM-clause entry for table \"x\"",
            None,
            None,
        ),
        (
            "SELECT id FROM orders, items",
            "42702",
            "column reference \"id\" is ambiguous",
            None,
            None,
        ),
        (
            "SELECT lenght('a')",
            "42883",
            "function lenght(unknown) does not exist",
            Some("Perhaps you meant the function \"length\"."),
            None,
        ),
        (
            "SELECT sum(note) FROM orders",
            "42883",
            "function sum(character varying) does not exist",
            Some(
                "No function matches the given name and argument types. You might need to add explicit type casts.",
            ),
            None,
        ),
        (
            "SELECT id, count(*) FROM orders",
            "42803",
            "column \"orders.id\" must appear in the GROUP BY clause or be used in an aggregate function",
            None,
            None,
        ),
        (
            "SELECT 1 + true",
            "42883",
            "operator does not exist: integer + boolean",
            Some(
                "No operator matches the given name and argument types. You might need to add explicit type casts.",
            ),
            None,
        ),
        (
            "SELECT 1 UNION SELECT 1, 2",
            "42601",
            "each UNION query must have the same number of columns",
            None,
            None,
        ),
        (
            "SELECT CASE WHEN true THEN 1 ELSE true END",
            "42804",
            "CASE types integer and boolean cannot be matched",
            None,
            None,
        ),
    ] {
        let report = world.columns(text).expect_err(text);
        assert_eq!(
            (
                report.sqlstate,
                report.message.as_str(),
                report.hint.as_deref()
            ),
            (sqlstate, message, hint),
            "{text}"
        );
        if position.is_some() {
            assert_eq!(report.position, position, "{text}");
        }
    }
    let report = world
        .columns("SELECT * FROM ordres")
        .expect_err("an unknown relation");
    assert_eq!(
        (report.sqlstate, report.message.as_str()),
        ("42P01", "relation \"ordres\" does not exist")
    );
    assert!(report.hint.is_some_and(|h| h.contains("orders")));
}
