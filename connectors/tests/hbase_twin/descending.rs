//! Row keys of which some columns descend: ranges, lists and orders of them, on the twin and on the real one.
//!
//! Invariant: a read gives what the rows that were written say, in the order of the sort, and asks for no more than it needs.

use std::cmp::Reverse;
use std::sync::Arc;

use arrow::array::{AsArray, Date32Array, Int64Array, RecordBatch, StringViewArray};
use arrow::datatypes::{Date32Type, Int64Type};
use thalweg_catalog::SqlType;
use thalweg_connectors::{Comparison, Condition, HbaseTable, KeyOrder};

use super::Twin;
use crate::{column, declare_at, service, text_is};

/// User, day and tag.
type Row = (i64, i32, &'static str);

/// Some begin with others, or have bytes that the encoding escapes by.
const TAGS: [&str; 6] = ["", "a", "a\u{1}b", "aa", "b", "é"];

/// All of them, in the order of their keys: users ascend, days and tags descend.
fn all() -> Vec<Row> {
    let days = (-2..3).flat_map(|user| (-3..4).map(move |day| (user, day)));
    let rows = days.flat_map(|(user, day)| TAGS.map(|tag| (user, day, tag)));
    let mut rows: Vec<Row> = rows.collect();
    rows.sort_by_key(|(user, day, tag)| (*user, Reverse(*day), Reverse(*tag)));
    rows
}

fn declare(servers: &str) -> HbaseTable {
    let columns = [
        column("user", SqlType::Int8, true),
        column("day", SqlType::Date, true),
        column("tag", SqlType::Text, true),
        column("n", SqlType::Int8, false),
    ];
    let options = [
        ("family", "d"),
        ("create", "if-missing"),
        ("key.desc", "day, tag"),
        ("scan.page.bytes", "1kB"),
    ];
    declare_at(servers, "descending", &columns, &[0, 1, 2], &options)
}

fn user(comparison: Comparison, user: i64) -> Condition {
    Condition::Compare {
        column: 0,
        comparison,
        value: Arc::new(Int64Array::from(vec![user])),
    }
}

fn day(comparison: Comparison, day: i32) -> Condition {
    Condition::Compare {
        column: 1,
        comparison,
        value: Arc::new(Date32Array::from(vec![day])),
    }
}

fn tag(comparison: Comparison, tag: &str) -> Condition {
    Condition::Compare {
        column: 2,
        comparison,
        value: Arc::new(StringViewArray::from(vec![tag])),
    }
}

/// Conditions that row keys alone fulfil, with what they select.
type Case = (Vec<Condition>, fn(&Row) -> bool);

fn cases() -> Vec<Case> {
    use Comparison::{Equal, Greater, GreaterOrEqual, Less, LessOrEqual};
    let of_a_day = |more: Condition| vec![user(Equal, 1), day(Equal, 2), more];
    let tags = Condition::In {
        column: 2,
        values: Arc::new(StringViewArray::from(vec!["aa", "é", "none"])),
    };
    let days = Condition::In {
        column: 1,
        values: Arc::new(Date32Array::from(vec![3, -3, 99])),
    };
    let beginning = Condition::Prefix {
        column: 2,
        text: "a".into(),
    };
    vec![
        (vec![], |_| true),
        (vec![user(Equal, 1)], |row| row.0 == 1),
        (vec![user(Greater, 0)], |row| row.0 > 0),
        (vec![user(Equal, 1), day(Less, 2)], |row| {
            row.0 == 1 && row.1 < 2
        }),
        (vec![user(Equal, -2), day(GreaterOrEqual, 0)], |row| {
            row.0 == -2 && row.1 >= 0
        }),
        (
            vec![user(Equal, 2), day(Greater, -2), day(LessOrEqual, 1)],
            |row| row.0 == 2 && row.1 > -2 && row.1 <= 1,
        ),
        (vec![user(Equal, 0), days], |row| {
            row.0 == 0 && row.1.abs() == 3
        }),
        (of_a_day(tag(LessOrEqual, "aa")), |row| {
            (row.0, row.1) == (1, 2) && row.2 <= "aa"
        }),
        (of_a_day(tag(Greater, "a")), |row| {
            (row.0, row.1) == (1, 2) && row.2 > "a"
        }),
        (of_a_day(beginning), |row| {
            (row.0, row.1) == (1, 2) && row.2.starts_with('a')
        }),
        (of_a_day(text_is(2, "")), |row| *row == (1, 2, "")),
        (of_a_day(tags), |row| {
            (row.0, row.1) == (1, 2) && ["aa", "é"].contains(&row.2)
        }),
    ]
}

async fn read(table: &HbaseTable, scan: &thalweg_connectors::HbaseScan) -> (Vec<Row>, u64) {
    let mut rows = table.read(scan);
    let mut found = Vec::new();
    while let Some(batch) = rows.next().await {
        let batch = batch.expect("read");
        let users = batch.column(0).as_primitive::<Int64Type>();
        let days = batch.column(1).as_primitive::<Date32Type>();
        let tags = batch.column(2).as_string_view();
        for row in 0..batch.num_rows() {
            let known = TAGS.iter().find(|tag| **tag == tags.value(row));
            let tag = known.expect("a tag that was written");
            found.push((users.value(row), days.value(row), *tag));
        }
    }
    (found, rows.rows_received())
}

async fn reads_follow_the_keys(table: &HbaseTable) {
    use KeyOrder::{Ascending, Descending};
    table.check().await.expect("made");
    assert_eq!(table.sorted_columns(), [Ascending, Descending, Descending]);
    let rows = all();
    let batch = RecordBatch::try_new(
        table.schema(),
        vec![
            Arc::new(rows.iter().map(|row| Some(row.0)).collect::<Int64Array>()),
            Arc::new(rows.iter().map(|row| Some(row.1)).collect::<Date32Array>()),
            Arc::new(
                rows.iter()
                    .map(|row| Some(row.2))
                    .collect::<StringViewArray>(),
            ),
            Arc::new(Int64Array::new_null(rows.len())),
        ],
    )
    .expect("a batch");
    let written = table.insert(&batch).await.expect("written");
    assert_eq!(written.rows, rows.len());
    for (conditions, selects) in cases() {
        let mut expected: Vec<Row> = rows.iter().copied().filter(selects).collect();
        for order in [Ascending, Descending] {
            for limit in [usize::MAX, 1, 3] {
                let scan = table.plan(&[0, 1, 2], &conditions, None);
                assert!(scan.exact().iter().all(|exact| *exact), "{conditions:?}");
                let scan = scan.in_key_order(order, None).at_most(limit);
                let (found, received) = read(table, &scan).await;
                let most = expected.len().min(limit);
                assert_eq!(found, expected[..most], "{conditions:?} {order:?} {limit}");
                // Of a read from the end the row behind each page comes along; of one by keys all do.
                let spare = 3 + most / 4;
                assert!(received <= (most + spare) as u64, "{received} for {most}");
            }
            expected.reverse();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn columns_that_descend_are_read_as_declared() {
    let twin = Twin::start();
    reads_follow_the_keys(&declare(&twin.address)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn columns_that_descend_are_read_as_declared_from_a_real_one() {
    let Some(service) = service() else { return };
    let table = declare(&service.servers);
    reads_follow_the_keys(&table).await;
    // User -2, day 3, tag é: the first for another program too.
    let first = &service.java("scan descending")[0];
    let key = "7ffffffffffffffe7ffffffc3c56ffff";
    assert!(first.starts_with(key), "{first}");
    service.java("drop descending");
}
