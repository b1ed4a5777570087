//! Proves that an expression that panics stops what computes it and nothing else.
//!
//! Invariant: the function that panics does so for the value 13, wherever it runs.

use std::sync::Arc;

use datafusion::arrow::array::AsArray;
use datafusion::arrow::datatypes::{DataType, Int64Type};
use datafusion::logical_expr::{ColumnarValue, Volatility, create_udf};
use thalweg_engine::{EngineConfig, EngineStatus, JobPhase};
use thalweg_planner::Functions;

use crate::harness::Db;

/// `fragile(bigint)`, which gives its argument back.
fn fragile() -> Functions {
    let run = |args: &[ColumnarValue]| {
        let arrays = ColumnarValue::values_to_arrays(args)?;
        let values = arrays[0].as_primitive::<Int64Type>();
        assert!(values.iter().all(|value| value != Some(13)), "a mistake");
        Ok(ColumnarValue::Array(Arc::clone(&arrays[0])))
    };
    let long = DataType::Int64;
    let fragile = create_udf(
        "fragile",
        vec![long.clone()],
        long,
        Volatility::Immutable,
        Arc::new(run),
    );
    Functions {
        scalar: vec![Arc::new(fragile)],
        aggregate: Vec::new(),
    }
}

fn phase(status: &EngineStatus, name: &str) -> JobPhase {
    let mut jobs = status.jobs.iter();
    jobs.find(|job| job.name == name).expect("a job").phase
}

/// Stepped by the worker, run with state, computed anew: each fails with a reason, is tried again, and goes on once the row is gone.
#[test]
fn a_view_that_panics_stays_alone() {
    let mut db = Db::with_functions(EngineConfig::default(), fragile());
    db.ok("CREATE TABLE t (v BIGINT); INSERT INTO t VALUES (1)");
    db.ok("CREATE MATERIALIZED VIEW step AS SELECT fragile(v) AS x FROM t");
    db.ok("CREATE MATERIALIZED VIEW whole AS SELECT sum(fragile(v)) AS x FROM t");
    db.ok("CREATE MATERIALIZED VIEW anew AS SELECT rank() OVER (ORDER BY fragile(v)) AS x FROM t");
    db.ok("CREATE MATERIALIZED VIEW good AS SELECT count(*) AS n FROM t");
    assert_eq!(db.rows("SELECT x FROM step"), ["1"]);
    let fragile = ["step", "whole", "anew"];
    for round in 0..2 {
        db.ok("INSERT INTO t VALUES (13)");
        db.until("the views to fail", |status| {
            let failed = |name: &&str| phase(status, name) == JobPhase::Error;
            fragile.iter().all(failed)
        });
        let status = db.engine.status();
        for job in status.jobs.iter().filter(|job| job.name != "good") {
            assert!(job.error.is_some() && job.retry_at_us.is_some(), "{job:?}");
        }
        assert_eq!(db.fails("SELECT x FROM step").sqlstate, "55000");
        // Everything else goes on.
        db.ok("INSERT INTO t VALUES (2); FLUSH");
        assert_eq!(db.rows("SELECT n FROM good"), [(round + 3).to_string()]);
        assert_eq!(phase(&db.engine.status(), "good"), JobPhase::Running);
        db.ok("DELETE FROM t WHERE v = 13");
        db.until("the views to recover", |status| {
            let mut jobs = status.jobs.iter();
            jobs.all(|job| job.phase == JobPhase::Running && job.error.is_none())
        });
    }
    assert_eq!(db.rows("SELECT x FROM step"), ["1", "2", "2"]);
    assert_eq!(db.rows("SELECT x FROM whole"), ["5"]);
    assert_eq!(db.rows("SELECT x FROM anew"), ["1", "2", "2"]);
}

/// A generated column of a source is computed by the worker itself, which has to go on for everybody else.
#[test]
fn a_source_whose_column_panics_stays_alone() {
    let files = tempfile::tempdir().expect("a scratch folder");
    let path = files.path().join("s.json");
    std::fs::write(&path, "{\"id\": 1}\n").expect("writes");
    let config = EngineConfig {
        file_root: files.path().to_owned(),
        ..EngineConfig::default()
    };
    let mut db = Db::with_functions(config, fragile());
    db.ok("CREATE SOURCE s (id BIGINT, same BIGINT AS (fragile(id))) \
           WITH (connector = 'file', path = 's.json', follow = 'true')");
    db.ok("CREATE MATERIALIZED VIEW v AS SELECT same FROM s; WAIT FOR v");
    db.ok(
        "CREATE TABLE t (v BIGINT); CREATE MATERIALIZED VIEW good AS SELECT count(*) AS n FROM t",
    );
    std::fs::write(&path, "{\"id\": 1}\n{\"id\": 13}\n").expect("writes");
    db.until("the source to fail", |status| {
        status.sources[0].health == "ERROR" && phase(status, "v") == JobPhase::Error
    });
    let status = db.engine.status();
    let mut jobs = status.jobs.iter();
    let error = jobs.find_map(|job| job.error.as_deref()).expect("a reason");
    assert!(error.contains("a column or constraint"), "{error}");
    db.ok("INSERT INTO t VALUES (1); FLUSH");
    assert_eq!(db.rows("SELECT n FROM good"), ["1"]);
    assert_eq!(db.session().eventual().rows("SELECT same FROM v"), ["1"]);
}
