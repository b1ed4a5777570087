//! A view's plan gives NULL and a record where a row fails; what cannot be continuous is refused by name.

use std::sync::{Arc, Mutex};

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
