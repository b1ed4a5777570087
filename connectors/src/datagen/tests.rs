//! The generator is deterministic, paced by the clock, and continues at any offset as if never stopped.

use crate::{Budget, SourceBatch};
use std::collections::BTreeMap;
use std::time::Duration;

use thalweg_catalog::SqlType;

use super::*;
use crate::context::ManualClock;
use crate::testing::{column, source_relation};

const CREATED_MS: i64 = 1_700_000_000_000;
const BUDGET: Budget = Budget {
    rows: 1_000,
    bytes: 1 << 20,
    time: Duration::ZERO,
};

fn every_type() -> Vec<(&'static str, SqlType)> {
    vec![
        ("b", SqlType::Bool),
        ("i2", SqlType::Int2),
        ("i4", SqlType::Int4),
        ("i8", SqlType::Int8),
        ("f4", SqlType::Float4),
        ("f8", SqlType::Float8),
        (
            "n",
            SqlType::Numeric {
                declared: None,
                held_scale: 10,
            },
        ),
        (
            "n52",
            SqlType::Numeric {
                declared: Some((5, 2)),
                held_scale: 2,
            },
        ),
        (
            "n1",
            SqlType::Numeric {
                declared: Some((1, 0)),
                held_scale: 0,
            },
        ),
        ("t", SqlType::Text),
        ("v3", SqlType::Varchar(Some(3))),
        ("by", SqlType::Bytea),
        ("d", SqlType::Date),
        ("ti", SqlType::Time),
        ("ts", SqlType::Timestamp),
        ("tz", SqlType::Timestamptz),
        ("iv", SqlType::Interval),
        ("u", SqlType::Uuid),
        ("j", SqlType::Jsonb),
        (
            "a",
            SqlType::Array(Box::new(SqlType::Array(Box::new(SqlType::Text)))),
        ),
        (
            "s",
            SqlType::Struct(vec![
                ("x".into(), SqlType::Int4),
                ("y".into(), SqlType::Text),
            ]),
        ),
    ]
}

fn open_source(
    columns: &[(&str, SqlType)],
    options: &[(&str, &str)],
) -> Result<(DatagenSource, Arc<ManualClock>), ConnectorError> {
    let columns = columns
        .iter()
        .map(|(name, ty)| column(name, ty.clone()))
        .collect();
    let options: BTreeMap<String, String> = options
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect();
    let (relation, spec) = source_relation("datagen", columns, options, CREATED_MS);
    let clock = Arc::new(ManualClock::new(CREATED_MS * 1000));
    let context = ConnectorContext::new(Arc::clone(&clock) as Arc<dyn Clock>);
    Ok((DatagenSource::new(&relation, &spec, &context)?, clock))
}

fn read(source: &DatagenSource, from: u64, budget: Budget) -> SourceBatch {
    let mut reader = source
        .open(&Offsets::from([("0".to_owned(), from)]))
        .expect("a reader opens");
    reader.poll(budget).expect("a poll succeeds")
}

#[test]
fn every_type_has_values_and_any_offset_can_be_reached_directly() {
    let (source, _) =
        open_source(&every_type(), &[("rows", "500"), ("seed", "3")]).expect("valid options");
    let whole = read(&source, 0, BUDGET);
    assert_eq!((whole.rows.num_rows(), whole.records), (500, 500));
    assert_eq!(whole.offsets.get("0"), Some(&500));
    for from in [0, 1, 17, 499] {
        let tail = read(&source, from, BUDGET);
        assert_eq!(
            tail.rows,
            whole.rows.slice(from as usize, 500 - from as usize),
            "from {from}"
        );
    }
    let done = read(&source, 500, BUDGET);
    assert_eq!((done.rows.num_rows(), done.offsets.len()), (0, 0));
}

#[test]
fn another_seed_gives_other_rows() {
    let columns = [("x", SqlType::Int8)];
    let (one, _) = open_source(&columns, &[("rows", "100")]).expect("valid options");
    let (two, _) = open_source(&columns, &[("rows", "100"), ("seed", "1")]).expect("valid options");
    assert_ne!(read(&one, 0, BUDGET).rows, read(&two, 0, BUDGET).rows);
}

#[tokio::test]
async fn rows_appear_at_the_pace_of_the_clock() {
    let (source, clock) =
        open_source(&[("x", SqlType::Int8)], &[("rows_per_second", "100")]).expect("valid options");
    let mut reader = source.open(&Offsets::new()).expect("a reader opens");
    assert_eq!(reader.poll(BUDGET).expect("a poll succeeds").records, 0);
    clock.advance(Duration::from_millis(50));
    assert_eq!(source.end_offsets().await.expect("ends")["0"], 5);
    assert_eq!(reader.poll(BUDGET).expect("a poll succeeds").records, 5);
    clock.advance(Duration::from_secs(2));
    let small = Budget {
        rows: 150,
        ..BUDGET
    };
    assert_eq!(reader.poll(small).expect("a poll succeeds").records, 150);
    assert_eq!(reader.poll(small).expect("a poll succeeds").records, 50);
    // A restart sees the same pace, counted from the creation of the source.
    assert_eq!(read(&source, 5, BUDGET).records, 200);
}

#[tokio::test]
async fn a_bounded_source_ends() {
    let (source, clock) = open_source(
        &[("x", SqlType::Int8)],
        &[("rows_per_second", "10"), ("rows", "3")],
    )
    .expect("valid options");
    clock.advance(Duration::from_secs(60));
    assert_eq!(source.end_offsets().await.expect("ends")["0"], 3);
    assert_eq!(source.resolve_start().await.expect("start")["0"], 0);
    assert_eq!(read(&source, 0, BUDGET).records, 3);
}

#[test]
fn kinds_do_what_they_say() {
    use arrow::array::{Array, AsArray};
    use arrow::datatypes::{Int64Type, TimestampMicrosecondType};
    let columns = [
        ("id", SqlType::Int8),
        ("ch", SqlType::Text),
        ("z", SqlType::Int8),
        ("ts", SqlType::Timestamptz),
        ("r", SqlType::Int8),
    ];
    let (source, _) = open_source(
        &columns,
        &[
            ("rows", "1000"),
            ("fields.id.kind", "sequence"),
            ("fields.id.start", "10"),
            ("fields.id.end", "12"),
            ("fields.ch.kind", "enum"),
            ("fields.ch.values", "a, b"),
            ("fields.ch.null_rate", "0.5"),
            ("fields.z.kind", "zipf"),
            ("fields.z.start", "1"),
            ("fields.z.end", "50"),
            ("fields.ts.max_lateness", "1 s"),
            ("fields.r.kind", "random"),
            ("fields.r.start", "-5"),
            ("fields.r.end", "5"),
        ],
    )
    .expect("valid options");
    let rows = read(&source, 0, BUDGET).rows;
    let ids = rows.column(0).as_primitive::<Int64Type>();
    assert_eq!(&ids.values()[..4], &[10, 11, 12, 10]);
    let channels = rows.column(1).as_string_view();
    assert!(
        (300..700).contains(&channels.null_count()),
        "{}",
        channels.null_count()
    );
    assert!(
        channels
            .iter()
            .flatten()
            .all(|text| text == "a" || text == "b")
    );
    let ranks = rows.column(2).as_primitive::<Int64Type>();
    let first = ranks.values().iter().filter(|rank| **rank == 1).count();
    assert!(first > 100 && ranks.values().iter().all(|rank| (1..=50).contains(rank)));
    let times = rows.column(3).as_primitive::<TimestampMicrosecondType>();
    assert!(times.values().iter().zip(0i64..).all(|(us, row)| {
        let nominal = CREATED_MS * 1000 + row * 1000;
        (nominal - 1_000_000..=nominal).contains(us)
    }));
    assert!(
        rows.column(4)
            .as_primitive::<Int64Type>()
            .values()
            .iter()
            .all(|n| (-5..=5).contains(n))
    );
}

#[test]
fn bad_options_are_refused() {
    let columns = [
        ("v", SqlType::Varchar(Some(3))),
        ("x", SqlType::Int2),
        ("b", SqlType::Bool),
        ("t", SqlType::Text),
    ];
    for (name, value) in [
        ("rows_per_second", "0"),
        ("rows", "-1"),
        ("fields.y.kind", "random"),
        ("fields.x.speed", "1"),
        ("fields.x.kind", "banana"),
        ("fields.x.kind", "timestamp"),
        ("fields.b.kind", "sequence"),
        ("fields.x.end", "40000"),
        ("fields.x.end", "-1"),
        ("fields.x.null_rate", "2"),
        ("fields.x.values", "1,two"),
        ("fields.v.values", "abc,abcd"),
        ("fields.v.end", "1000"),
    ] {
        let error = open_source(&columns, &[(name, value)])
            .err()
            .map(|error| error.sqlstate());
        assert_eq!(error, Some("22023"), "{name} = {value}");
    }
}
