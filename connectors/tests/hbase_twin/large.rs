//! Rows that are large beside what a reply may hold, against a twin.
//!
//! Invariant: a reply that is too large costs requests and no rows, and is no fault of the gateway.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{ArrayRef, AsArray, RecordBatch, StringViewArray};
use thalweg_catalog::SqlType;
use thalweg_connectors::{Condition, ConnectorError, HbaseScan, HbaseTable, KeyOrder};

use super::Twin;
use crate::{column, context};

const LIMIT: usize = 100_000;

fn declare(twin: &Twin) -> HbaseTable {
    declare_with(twin, &[])
}

fn declare_with(twin: &Twin, more: &[(&str, &str)]) -> HbaseTable {
    let columns = [
        column("k", SqlType::Text, true),
        column("v", SqlType::Text, true),
    ];
    let options = [
        ("thrift.servers", twin.address.as_str()),
        ("table", "t"),
        ("family", "d"),
        ("value.encoding", "string"),
        ("scan.page.bytes", "64kB"),
        ("lookup.timeout", "20 s"),
    ];
    let options = options.iter().chain(more);
    let options = options.map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    let options: BTreeMap<String, String> = options.collect();
    HbaseTable::new(&columns, &[0], &options, &context().1).expect("a table")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lookup_remembers_no_more_than_its_options_say() {
    let twin = Twin::start();
    twin.create("t", &["d"], &[]);
    for (bytes, options, held_max) in [
        (10_000, [("lookup.cache.bytes", "1MB")], 100),
        (1, [("lookup.cache.rows", "100")], 100),
        (1, [("lookup.cache.rows", "1000")], 300),
    ] {
        let table = declare_with(&twin, &options);
        table
            .insert(&rows(&table, 'a', 300, bytes))
            .await
            .expect("written");
        let lookup = table.lookup(&[0, 1]).expect("a lookup");
        let asked: ArrayRef = Arc::new(
            names('a', 300)
                .iter()
                .map(Some)
                .collect::<StringViewArray>(),
        );
        for _ in 0..2 {
            let found = lookup.rows(&[Arc::clone(&asked)]).await.expect("found");
            assert!(found.iter().all(Option::is_some));
        }
        let again = lookup.keys_asked() - 300;
        assert!(again >= 300 - held_max, "{again} of {options:?}");
        assert!(held_max < 300 || again == 0, "{again} of {options:?}");
    }
}

/// Rows `letter000` and on, each of as many bytes.
fn rows(table: &HbaseTable, letter: char, count: usize, bytes: usize) -> RecordBatch {
    let keys: StringViewArray = (0..count)
        .map(|n| Some(format!("{letter}{n:03}")))
        .collect();
    let value = "v".repeat(bytes);
    let values: StringViewArray = (0..count).map(|_| Some(&value)).collect();
    RecordBatch::try_new(table.schema(), vec![Arc::new(keys), Arc::new(values)]).expect("a batch")
}

async fn keys(table: &HbaseTable, scan: &HbaseScan) -> Result<Vec<String>, ConnectorError> {
    let (mut found, mut read) = (Vec::new(), table.read(scan));
    while let Some(batch) = read.next().await {
        let batch = batch?;
        let keys = batch.column(0).as_string_view().iter().flatten();
        found.extend(keys.map(str::to_owned));
    }
    Ok(found)
}

fn names(letter: char, count: usize) -> Vec<String> {
    (0..count).map(|n| format!("{letter}{n:03}")).collect()
}

fn is_one_of(keys: &[String]) -> Condition {
    Condition::In {
        column: 0,
        values: Arc::new(keys.iter().map(Some).collect::<StringViewArray>()),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_do_not_fit_a_reply_together_are_read_apart() {
    let twin = Twin::start();
    twin.create("t", &["d"], &[]);
    let table = declare(&twin).with_reply_limit(LIMIT);
    let begun = Instant::now();
    for (letter, count, bytes) in [('a', 30, 100), ('b', 30, 60_000), ('c', 30, 1_000)] {
        let written = table.insert(&rows(&table, letter, count, bytes)).await;
        assert_eq!(written.expect("written").rows, count);
    }
    let all: Vec<String> = ['a', 'b', 'c'].map(|letter| names(letter, 30)).concat();
    let scan = table.plan(&[0, 1], &[], None);
    assert_eq!(keys(&table, &scan).await.expect("read"), all);
    let backwards: Vec<String> = all.iter().rev().cloned().collect();
    let scan = scan.in_key_order(KeyOrder::Descending, None);
    assert_eq!(keys(&table, &scan).await.expect("read"), backwards);
    for rows in [1, 2, 45] {
        let some = scan.clone().at_most(rows);
        assert_eq!(
            keys(&table, &some).await.expect("read"),
            backwards[..rows],
            "{rows}"
        );
    }
    let by_key = table.plan(&[0, 1], &[is_one_of(&all)], None);
    let mut found = keys(&table, &by_key).await.expect("read");
    found.sort();
    assert_eq!(found, all);

    let lookup = table.lookup(&[0, 1]).expect("a lookup");
    let asked: ArrayRef = Arc::new(all.iter().rev().map(Some).collect::<StringViewArray>());
    let found = lookup.rows(&[asked]).await.expect("found");
    let decoded = lookup.decode(found.iter().flatten().map(AsRef::as_ref));
    let decoded = decoded.expect("its own bytes");
    let found: Vec<_> = decoded
        .column(0)
        .as_string_view()
        .iter()
        .flatten()
        .collect();
    assert_eq!(found, backwards);
    assert!(decoded.column(1).as_string_view().value(45).len() == 60_000);

    // The times of what is there are asked for before it is overwritten.
    let update = table.update(&rows(&table, 'b', 30, 70_000)).await;
    assert_eq!(update.expect("written").rows, 30);
    // Nothing was waited for: no gateway was taken for one that fails.
    assert!(begun.elapsed() < Duration::from_secs(60));
    assert!(twin.calls().len() < 1_000, "{}", twin.calls().len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_that_fits_no_reply_is_an_error_at_once() {
    let twin = Twin::start();
    twin.create("t", &["d"], &[]);
    let table = declare(&twin).with_reply_limit(LIMIT);
    table
        .insert(&rows(&table, 'a', 3, 2 * LIMIT))
        .await
        .expect("written");
    table
        .insert(&rows(&table, 'b', 3, 10))
        .await
        .expect("written");
    let all = table.plan(&[0, 1], &[], None);
    let first = table.plan(&[0, 1], &[is_one_of(&names('a', 3))], None);
    let backwards = all.clone().in_key_order(KeyOrder::Descending, Some(1));
    for scan in [all, first, backwards] {
        let before = twin.calls().len();
        let error = keys(&table, &scan).await.expect_err("too large").report();
        assert_eq!(error.sqlstate, "54000");
        assert_eq!(
            error.message,
            "a row of HBase table \"t\" is over the limit of 100000 bytes of a reply"
        );
        assert!(twin.calls().len() - before < 16, "{:?}", twin.calls());
        // The gateway serves on, without a pause.
        let small = table.plan(&[0, 1], &[is_one_of(&names('b', 3))], None);
        let before = twin.calls().len();
        assert_eq!(keys(&table, &small).await.expect("read"), names('b', 3));
        assert_eq!(twin.calls().len() - before, 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_are_as_large_as_the_option_says() {
    let twin = Twin::start();
    twin.create("t", &["d"], &[]);
    let table = declare(&twin);
    table
        .insert(&rows(&table, 'a', 999, 1_000))
        .await
        .expect("written");
    twin.take_replies();
    let scan = table.plan(&[0, 1], &[], None);
    assert_eq!(keys(&table, &scan).await.expect("read"), names('a', 999));
    let replies = twin.take_replies();
    assert!(replies.len() > 10, "{replies:?}");
    assert!(replies.iter().all(|bytes| *bytes < 120_000), "{replies:?}");
}
