//! Large writes against a twin whose regions are known to the test.
//!
//! Invariant: what goes together depends on the regions, what is there afterwards does not.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{AsArray, RecordBatch, StringViewArray};
use thalweg_catalog::SqlType;
use thalweg_connectors::{
    CommittingSink, Delta, HbaseCommitter, HbaseError, HbaseTable, Staged, Weights,
};

use super::{Fault, Twin};
use crate::committing::whole;
use crate::{column, context};

fn declare(twin: &Twin) -> HbaseTable {
    declare_with(twin, "32kB")
}

fn declare_with(twin: &Twin, batch_bytes: &str) -> HbaseTable {
    let columns = [
        column("k", SqlType::Text, true),
        column("v", SqlType::Text, false),
    ];
    let options = [
        ("thrift.servers", twin.address.as_str()),
        ("table", "t"),
        ("family", "d"),
        ("value.encoding", "string"),
        ("write.batch.bytes", batch_bytes),
    ];
    let options = BTreeMap::from(options.map(|(name, value)| (name.to_owned(), value.to_owned())));
    HbaseTable::new(&columns, &[0], &options, &context().1).expect("a table")
}

/// 100 rows of a kilobyte for each letter.
fn rows(table: &HbaseTable, letters: &str, value: &str) -> RecordBatch {
    let keys = letters
        .chars()
        .flat_map(|letter| (0..100).map(move |n| format!("{letter}{n:02}")));
    let keys: StringViewArray = keys.map(Some).collect();
    let value = value.repeat(1000);
    let values: StringViewArray = (0..letters.len() * 100).map(|_| Some(&value)).collect();
    RecordBatch::try_new(table.schema(), vec![Arc::new(keys), Arc::new(values)]).expect("a batch")
}

fn times_asked(twin: &Twin) -> usize {
    let calls = twin.calls();
    let asked = calls.iter().filter(|name| *name == "getAllRegionLocations");
    asked.count()
}

/// The first and last letters of each request, sorted.
fn spans(twin: &Twin) -> Vec<String> {
    let letter = |key: Option<&Vec<u8>>| key.and_then(|key| key.first()).map(|byte| *byte as char);
    let puts = twin.take_puts();
    let mut spans: Vec<String> = puts
        .iter()
        .map(|keys| {
            [letter(keys.first()), letter(keys.last())]
                .iter()
                .flatten()
                .collect()
        })
        .collect();
    spans.sort();
    spans
}

#[tokio::test(flavor = "multi_thread")]
async fn large_writes_go_region_by_region_and_borders_are_learned_anew() {
    let twin = Twin::start();
    twin.create("t", &["d"], &[b"b", b"m"]);
    let table = declare(&twin);
    let written = table.insert(&rows(&table, "amx", "1")).await;
    assert_eq!(written.expect("written").rows, 300);
    assert_eq!(times_asked(&twin), 1);
    // Of 32 kB each, so four for each letter: m and x are of one region and share one.
    assert_eq!(
        spans(&twin),
        [
            "aa", "aa", "aa", "aa", "mm", "mm", "mm", "mx", "xx", "xx", "xx"
        ]
    );

    // Borders that are out of date cost no row, and nobody asks as long as all goes well.
    twin.split("t", &[b"m", b"x"]);
    table
        .insert(&rows(&table, "amx", "2"))
        .await
        .expect("written");
    assert_eq!(times_asked(&twin), 1);
    assert!(spans(&twin).contains(&"mx".to_owned()));

    twin.set_disabled("t", true);
    table
        .insert(&rows(&table, "a", "3"))
        .await
        .expect_err("disabled");
    twin.set_disabled("t", false);
    twin.take_puts();
    let deleted = table.delete(&rows(&table, "amx", "4")).await;
    assert_eq!(deleted.expect("deleted").rows, 300);
    table
        .insert(&rows(&table, "amx", "5"))
        .await
        .expect("written");
    assert_eq!(times_asked(&twin), 2);
    assert!(
        spans(&twin)
            .iter()
            .all(|span| ["aa", "mm", "xx"].contains(&&span[..]))
    );

    // What is small goes in one request, and nobody is asked for it.
    let small = rows(&table, "a", "6").slice(99, 1);
    table.insert(&small).await.expect("written");
    assert_eq!(
        (times_asked(&twin), spans(&twin)),
        (2, vec!["aa".to_owned()])
    );
    let mut found = table.read(&table.plan(&[0], &[], None));
    let mut count = 0;
    while let Some(batch) = found.next().await {
        count += batch.expect("read").num_rows();
    }
    assert_eq!(count, 300);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_there_is_asked_for_in_requests_that_a_gateway_takes_several_at_once() {
    let twin = Twin::start();
    twin.create("t", &["d"], &[]);
    let table = declare(&twin);
    let of = |count: usize, bytes: usize| {
        let keys = (0..count).map(|n| Some(format!("{n:04}{}", "k".repeat(bytes))));
        let keys: StringViewArray = keys.collect();
        let values: StringViewArray = (0..count).map(|_| Some("v")).collect();
        RecordBatch::try_new(table.schema(), vec![Arc::new(keys), Arc::new(values)])
            .expect("a batch")
    };
    // Of 250 keys, as many as a request has, these are beyond 2 MB.
    let long = table.update(&of(250, 20_000)).await;
    assert_eq!(long.expect("written").rows, 250);

    twin.take_most_under_way();
    twin.script(&[Fault::Slow(Duration::from_millis(200)); 8]);
    let many = of(2_000, 10);
    let calls = twin.calls().len();
    table.update(&many).await.expect("written");
    let asked = twin.calls().split_off(calls);
    let asked = asked.iter().take_while(|name| *name == "getMultiple");
    assert_eq!(asked.count(), 8);
    assert!(twin.take_most_under_way() > 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_is_refused_only_when_it_is_not_the_gateway() {
    let twin = Twin::start();
    twin.create("t", &["d"], &[]);
    let table = declare(&twin);
    let none = rows(&table, "a", "1").slice(0, 0);
    let some = rows(&table, "a", "1").slice(0, 10);

    // A row alone is asked for again.
    twin.script(&[Fault::Internal]);
    let written = table.deliver(&some.slice(0, 1), &none, 1_000).await;
    let written = written.expect("written");
    assert_eq!((written.rows, written.refused.len()), (1, 0));

    // One row at fault is told from its neighbours.
    twin.set_poison(Some("a07"));
    let written = table.deliver(&some, &none, 1_000).await.expect("written");
    assert_eq!((written.rows, written.refused.len()), (9, 1));
    assert_eq!(written.refused[0].row, 7);
    let is_refused = matches!(written.refused[0].error, HbaseError::RowRefused { .. });
    assert!(is_refused, "{written:?}");
    assert_eq!(
        written.refused[0].error.detail().as_deref(),
        Some("Internal error processing putMultiple")
    );

    // All of them are not.
    twin.set_poison(Some(""));
    for count in [2, 10] {
        let error = table.deliver(&some.slice(0, count), &none, 1_000).await;
        let error = error.expect_err("a sick gateway").report();
        assert_eq!(error.sqlstate, "58000");
        assert_eq!(error.message, "HBase request on table \"t\" failed");
    }
    twin.set_poison(None);
    let written = table.deliver(&some, &none, 1_000).await.expect("written");
    assert_eq!(written.rows, 10);
}

/// Keys that begin with `x` have a cell beyond HBase's limit.
fn some_large(table: &HbaseTable, keys: &[&str]) -> RecordBatch {
    let large = "x".repeat(11 << 20);
    let value = |key: &&str| match key.starts_with('x') {
        true => large.clone(),
        false => "small".to_owned(),
    };
    let values = StringViewArray::from_iter_values(keys.iter().map(value));
    let keys = StringViewArray::from_iter_values(keys);
    RecordBatch::try_new(table.schema(), vec![Arc::new(keys), Arc::new(values)]).expect("a batch")
}

fn delivery(epoch: u64, rows: RecordBatch) -> Staged {
    Staged {
        marker: whole(epoch),
        stamp_ms: epoch as i64 * 1_000,
        changes: vec![Delta {
            weights: Weights::Each(vec![1; rows.num_rows()].into()),
            batch: rows,
        }],
        frontier: BTreeMap::new(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_with_cells_beyond_the_limit_are_refused_also_when_a_delivery_has_no_others() {
    let twin = Twin::start();
    twin.take_long_requests();
    twin.create("t", &["d"], &[]);
    let table = Arc::new(declare_with(&twin, "64MB"));
    let context = context().1.with_installation([9; 16]);
    let mut sink = HbaseCommitter::new(Arc::clone(&table), 7, &context);
    sink.check().await.expect("has what it needs");
    sink.take_over().await.expect("takes over");
    for (epoch, keys) in [
        (10, &["x1", "x2", "x3"][..]),
        (20, &["a", "x1", "b", "x4"]),
        (30, &["x5"]),
    ] {
        let staged = delivery(epoch, some_large(&table, keys));
        let delivered = sink.deliver(&staged).await.expect("delivered");
        assert_eq!(delivered, Some(whole(epoch)));
        let refused = sink.take_refused().into_iter().map(|one| one.report());
        let refused: Vec<_> = refused.map(|one| (one.sqlstate, one.message)).collect();
        let large = keys.iter().filter(|key| key.starts_with('x')).count();
        assert_eq!(refused.len(), large);
        // A family of one letter, a qualifier of one, and a key of two.
        let bytes = (11 << 20) + 4 + 20;
        let message = format!("a cell of {bytes} bytes is over the limit of HBase table \"t\"");
        assert!(
            refused.iter().all(|one| *one == ("54000", message.clone())),
            "{refused:?}"
        );
    }
    let (found, _) = crate::rows(&table, &[0], &[], None).await.expect("read");
    let keys: Vec<_> = found.column(0).as_string_view().iter().flatten().collect();
    assert_eq!(keys, ["a", "b"]);

    // A gateway that fails over whatever it is asked says nothing of the row: it is asked twice, then for the row's place.
    let one = delivery(40, some_large(&table, &["x6"]));
    let before_rows = [Fault::Slow(Duration::ZERO)];
    twin.script(&[&before_rows[..], &[Fault::Internal; 3]].concat());
    let error = sink.deliver(&one).await.expect_err("a sick gateway");
    assert_eq!(error.report().sqlstate, "58000");
    sink.take_over().await.expect("takes over");
    sink.deliver(&one).await.expect("delivered");
    assert_eq!(sink.take_refused().len(), 1);
}
