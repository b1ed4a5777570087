//! Rows that other programs write: which of them are there does not depend on what is asked for.
//!
//! Invariant: the other program is a table of another mapping over the same cells, whose marker is elsewhere.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, RecordBatch, StringViewArray};
use thalweg_catalog::{Column, SqlType};
use thalweg_connectors::{Condition, HbaseTable, KeyOrder};

use super::Twin;
use crate::{column, context, rows, text_is};

fn declare(twin: &Twin, columns: &[Column], places: &str) -> HbaseTable {
    let options = [
        ("thrift.servers", twin.address.as_str()),
        ("table", "t"),
        ("family", "d"),
        ("value.encoding", "string"),
        ("lookup.timeout", "30 s"),
    ];
    let places = (!places.is_empty()).then_some(("columns", places));
    let options: BTreeMap<_, _> = options
        .into_iter()
        .chain(places)
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    HbaseTable::new(columns, &[0], &options, &context().1).expect("a table")
}

fn text(name: &str, not_null: bool) -> Column {
    column(name, SqlType::Text, not_null)
}

async fn write(table: &HbaseTable, rows: &[&[Option<&str>]]) {
    let fields = 0..table.schema().fields().len();
    let columns = fields.map(|at| {
        let values: StringViewArray = rows.iter().map(|row| row[at]).collect();
        Arc::new(values) as ArrayRef
    });
    let batch = RecordBatch::try_new(table.schema(), columns.collect()).expect("a batch");
    table.insert(&batch).await.expect("written");
}

/// The keys of the rows, which are the first column.
fn keys(batch: &RecordBatch) -> Vec<String> {
    let keys = batch.column(0).as_string_view().iter();
    let mut keys: Vec<String> = keys.flatten().map(str::to_owned).collect();
    keys.sort();
    keys
}

/// `k`, `a NOT NULL`, `b`, `c`, with rows 1 and 4 of another program, 5 of ours, and 0, 2 and 3 that lack `a`.
async fn some(twin: &Twin) -> HbaseTable {
    twin.create("t", &["d", "e"], &[]);
    let mut columns = vec![text("k", true), text("pad", false)];
    columns.extend(["a", "b", "c"].map(|name| text(name, false)));
    let other = declare(twin, &columns, "pad=e:pad");
    let (x, none) = (Some("x"), None);
    write(
        &other,
        &[
            &[Some("0"), none, none, x, none],
            &[Some("1"), none, x, x, x],
            &[Some("2"), none, none, x, none],
            &[Some("3"), none, none, none, x],
            &[Some("4"), none, x, none, none],
        ],
    )
    .await;
    let columns = [
        text("k", true),
        text("a", true),
        text("b", false),
        text("c", false),
    ];
    let table = declare(twin, &columns, "");
    write(&table, &[&[Some("5"), x, none, none]]).await;
    table
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_rows_are_there_whatever_is_selected() {
    let twin = Twin::start();
    let table = some(&twin).await;
    for wanted in [
        &[0][..],
        &[0, 1],
        &[0, 2],
        &[0, 3],
        &[0, 1, 2],
        &[0, 2, 3],
        &[0, 1, 2, 3],
    ] {
        let (all, _) = rows(&table, wanted, &[], None).await.expect("read");
        assert_eq!(keys(&all), ["1", "4", "5"], "columns {wanted:?}");
        let (with_b, _) = rows(&table, wanted, &[text_is(2, "x")], None)
            .await
            .expect("read");
        assert_eq!(keys(&with_b), ["1"], "columns {wanted:?}");
        let few = Condition::In {
            column: 0,
            values: Arc::new(StringViewArray::from_iter_values(["2", "3", "4"])),
        };
        let (few, _) = rows(&table, wanted, &[few], None).await.expect("read");
        assert_eq!(keys(&few), ["4"], "columns {wanted:?}");
        // What is not there does not count.
        let orders = [(KeyOrder::Ascending, "1"), (KeyOrder::Descending, "5")];
        // Keys alone the twin does not read from the end of a table of several families.
        let orders = orders.iter().take(wanted.len());
        for (order, expected) in orders.copied() {
            let scan = table.plan(wanted, &[], None).in_key_order(order, Some(1));
            let mut first = table.read(&scan.at_most(1));
            let batch = first.next().await.expect("a row").expect("read");
            assert_eq!(keys(&batch), [expected], "columns {wanted:?}");
            assert!(first.next().await.is_none());
        }
    }
    let found = table.lookup(&[2]).expect("a lookup");
    let asked: StringViewArray = ["1", "2", "4"].map(Some).into_iter().collect();
    let found = found.rows(&[Arc::new(asked)]).await.expect("asked");
    let there: Vec<bool> = found.iter().map(Option::is_some).collect();
    assert_eq!(there, [true, false, true]);
}

/// Rows that we wrote are there, also from before the column was declared so.
#[tokio::test(flavor = "multi_thread")]
async fn a_row_of_ours_that_lacks_a_cell_is_told() {
    let twin = Twin::start();
    let table = some(&twin).await;
    let before = declare(&twin, &[text("k", true), text("b", false)], "");
    write(&before, &[&[Some("6"), Some("x")]]).await;
    for wanted in [&[0][..], &[0, 2], &[0, 3]] {
        let (found, _) = rows(&table, wanted, &[], None).await.expect("read");
        assert_eq!(keys(&found), ["1", "4", "5", "6"], "columns {wanted:?}");
    }
    for wanted in [&[0, 1][..], &[0, 1, 2]] {
        let error = rows(&table, wanted, &[], None).await.expect_err("no a");
        assert_eq!(error.report().sqlstate, "23502");
    }
}
