//! A view's plan gives NULL and a record where a row fails; what cannot be continuous is refused by name.

use std::sync::{Arc, Mutex};

use thalweg_catalog::Oid;
use thalweg_planner::stream::Keeping;
use thalweg_planner::{ErrorSink, PlanError, ViewPlan};
use thalweg_sql::{Report, Statement};

use super::world::{NOW_US, World};

pub(crate) fn view(world: &World, text: &str) -> Result<ViewPlan, PlanError> {
    let Ok(Statement::Query(query)) = world.statement(text) else {
        panic!("not a query: {text}")
    };
    world.planner.view(&world.cx(text, None), &query, &[])
}

#[derive(Default)]
struct Recorded(Mutex<Vec<(String, u64)>>);

impl ErrorSink for Recorded {
    fn compute_error(&self, report: &Report, count: u64) {
        self.0
            .lock()
            .expect("poisoned")
            .push((report.message.clone(), count));
    }
}

#[test]
fn a_failing_row_is_null_and_recorded() {
    let world = World::new();
    let planned = view(&world, "SELECT id, 10 / qty AS share FROM orders").expect("view");
    let sink = Arc::new(Recorded::default());
    let bound = world
        .planner
        .bind_error_sink(planned.plan, &(Arc::clone(&sink) as Arc<dyn ErrorSink>))
        .expect("binding");
    assert_eq!(world.run(bound), Ok("1|5\n2|-\n3|2".to_owned()));
    assert_eq!(
        *sink.0.lock().expect("poisoned"),
        [("division by zero".to_owned(), 1)]
    );
    let failed = world
        .run(planned.unguarded)
        .expect_err("the plain plan fails");
    assert_eq!(failed.sqlstate, "22012");
}

#[test]
fn now_stays_symbolic_until_it_is_bound() {
    let world = World::new();
    let planned = view(
        &world,
        "SELECT id FROM orders WHERE now() > timestamptz '2024-01-01'",
    )
    .expect("view");
    assert!(planned.uses_now);
    let bound = world
        .planner
        .bind_now(planned.plan, NOW_US)
        .expect("binding");
    assert_eq!(world.run(bound), Ok("1\n2\n3".to_owned()));
}

#[test]
fn refused_in_views() {
    let world = World::new();
    for (text, sqlstate, message) in [
        (
            "SELECT random()",
            "0A000",
            "function random() is not supported in a continuous query",
        ),
        (
            "SELECT id, id FROM orders",
            "42701",
            "column \"id\" specified more than once",
        ),
        (
            "WITH RECURSIVE r AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM r WHERE n < 3) SELECT n FROM r",
            "0A000",
            "WITH RECURSIVE is not supported in a continuous query",
        ),
    ] {
        let report = view(&world, text).expect_err(text).report();
        assert_eq!(
            (report.sqlstate, report.message.as_str()),
            (sqlstate, message),
            "{text}"
        );
    }
}

#[test]
fn lookup_joins_name_one_row() {
    let world = World::new();
    let at = "FOR SYSTEM_TIME AS OF PROCTIME()";
    let day = "p.day = DATE '2024-01-01'";
    for (text, rows) in [
        (
            format!(
                "SELECT o.id, p.name FROM orders o LEFT JOIN profiles {at} AS p ON p.id = o.id AND {day} AND p.age > 1"
            ),
            "1|Ann\n2|-\n3|-",
        ),
        (
            format!(
                "SELECT o.id, profiles.name FROM orders o JOIN public.profiles {at} ON o.id = public.profiles.id AND profiles.{}",
                &day[2..]
            ),
            "1|Ann\n2|Bo",
        ),
        (
            format!(
                "SELECT count(*) FROM (SELECT id::bigint AS id, DATE '2024-01-02' AS day FROM orders) o JOIN profiles {at} USING (id, day)"
            ),
            "1",
        ),
    ] {
        assert_eq!(world.query(&text), Ok(rows.to_owned()), "{text}");
        let planned = view(&world, &text).expect(&text);
        assert_eq!(planned.lookups, [Oid(20600)], "{text}");
        assert_eq!(planned.stream.keeping, Keeping::Incremental, "{text}");
        assert_eq!(world.run(planned.plan), Ok(rows.to_owned()), "{text}");
    }
    for (text, message) in [
        (
            format!("SELECT 1 FROM orders o JOIN profiles {at} p ON p.id = o.id"),
            "a lookup join that does not name a row of table \"profiles\" is not supported",
        ),
        (
            format!("SELECT 1 FROM orders o JOIN profiles {at} p ON p.id::text = o.note AND {day}"),
            "a lookup join that does not name a row of table \"profiles\" is not supported",
        ),
        (
            format!("SELECT 1 FROM orders o JOIN profiles {at} p ON p.id = p.age AND {day}"),
            "a lookup join that does not name a row of table \"profiles\" is not supported",
        ),
        (
            format!("SELECT 1 FROM orders o RIGHT JOIN profiles {at} p ON p.id = o.id AND {day}"),
            "a right join with a table FOR SYSTEM_TIME AS OF PROCTIME() is not supported",
        ),
        (
            format!("SELECT 1 FROM profiles {at} p LEFT JOIN orders o ON p.id = o.id AND {day}"),
            "FOR SYSTEM_TIME AS OF PROCTIME() is not supported where there is no join from the left",
        ),
        (
            format!("SELECT 1 FROM orders o, profiles {at} p WHERE p.id = o.id AND {day}"),
            "a lookup join that does not name a row of table \"profiles\" is not supported",
        ),
        (
            format!("SELECT 1 FROM orders o JOIN items {at} p ON p.id = o.id"),
            "FOR SYSTEM_TIME AS OF PROCTIME() of \"items\" is not supported: it is no table with connector hbase",
        ),
        (
            "SELECT 1 FROM orders o JOIN profiles FOR SYSTEM_TIME AS OF now() p ON p.id = o.id"
                .to_owned(),
            "a version of a table other than FOR SYSTEM_TIME AS OF PROCTIME() is not supported",
        ),
    ] {
        for report in [
            view(&world, &text).expect_err(&text).report(),
            world.query(&text).expect_err(&text),
        ] {
            assert_eq!(
                (report.sqlstate, report.message.as_str()),
                ("0A000", message),
                "{text}"
            );
            assert!(report.hint.is_some(), "{text}");
        }
    }
    // The sources of a lookup have what its keys and its condition read, and no more.
    let text = format!(
        "SELECT p.name FROM clicks c LEFT JOIN profiles {at} p ON p.id = c.user_id AND {day} AND p.name <> c.action"
    );
    let reads = view(&world, &text).expect(&text).stream.root.columns_read();
    let of_clicks: Vec<Vec<usize>> = reads
        .values()
        .map(|of| of.keys().copied().collect())
        .collect();
    assert_eq!(of_clicks, [[0, 1]]);
    let report = world.query(&format!(
        "SELECT 1 FROM orders o JOIN nowhere {at} p ON p.id = o.id"
    ));
    assert_eq!(
        report.expect_err("no table").message,
        "relation \"nowhere\" does not exist"
    );
}

#[test]
fn the_oracle_plan_answers_as_the_optimised_one() {
    let world = World::new();
    for text in [
        "SELECT DISTINCT qty FROM orders",
        "SELECT id FROM orders o WHERE EXISTS (SELECT 1 FROM items i WHERE i.order_id = o.id)",
        "SELECT id FROM orders WHERE id NOT IN (SELECT order_id FROM items WHERE order_id IS NOT NULL)",
        "SELECT id FROM orders UNION SELECT order_id FROM items",
        "SELECT qty, sum(id), avg(amount) FROM orders GROUP BY qty",
        "SELECT coalesce(amount, 0) FROM orders WHERE qty <> 0 AND 10 / qty > 1",
    ] {
        let planned = view(&world, text).expect(text);
        let oracle = world.planner.oracle_plan(&planned.plan).expect(text);
        let state = world.planner.session_state();
        let grounded = world.grounded(oracle);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .expect("no runtime");
        let batches = runtime
            .block_on(async {
                let physical = state
                    .query_planner()
                    .create_physical_plan(&grounded, &state)
                    .await?;
                datafusion::physical_plan::collect(physical, state.task_ctx()).await
            })
            .expect(text);
        assert_eq!(
            Ok(super::world::printed(&batches)),
            world.run(planned.plan),
            "{text}"
        );
    }
}
