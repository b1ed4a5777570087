//! The exactly-once sink into a table of HBase: its contract, and what is left of a delivery that broke off or comes late.

use thalweg_connectors::{CommittingSink, HbaseCommitter};

use super::committing::{changed, conforms, staged, whole};
use super::*;

fn numbers(service: &Service, name: &str) -> Arc<HbaseTable> {
    let columns = [column("n", SqlType::Int8, true)];
    let options = [("family", "f"), ("create", "if-missing")];
    Arc::new(declare(service, name, &columns, &[0], &options))
}

fn open(table: &Arc<HbaseTable>, sink: u32) -> Box<dyn CommittingSink> {
    let context = context().1.with_installation([9; 16]);
    Box::new(HbaseCommitter::new(Arc::clone(table), sink, &context))
}

/// The rows that the Java client sees.
fn seen(service: &Service, name: &str) -> Vec<i64> {
    let lines = service.java(&format!("scan {name}"));
    let key = |line: &String| line.split(' ').next().map(str::to_owned);
    let number = |key: String| i64::from_str_radix(&key, 16).expect("eight bytes");
    lines.iter().filter_map(key).map(number).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sink_keeps_the_contract() {
    let Some(service) = service() else { return };
    let table = numbers(service, "committed");
    conforms(
        || open(&table, 100),
        || async { seen(service, "committed") },
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delivery_that_broke_off_or_comes_late_changes_nothing() {
    let Some(service) = service() else { return };
    let table = numbers(service, "broken_off");
    let mut first = open(&table, 101);
    first.check().await.expect("has what it needs");
    assert_eq!(first.take_over().await.expect("takes over"), None);
    first
        .deliver(&staged(whole(10), &[1, 2]))
        .await
        .expect("delivers");

    // The rows of the next one arrive and its marker does not: the writer that follows delivers them again.
    let next = changed(whole(20), &[1], &[3]);
    let only = |rows: &[i64]| staged(whole(0), rows).changes[0].batch.clone();
    let (there, gone) = (only(&[3]), only(&[1]));
    table
        .deliver(&there, &gone, next.stamp_ms)
        .await
        .expect("arrives");
    let mut second = open(&table, 101);
    let newest = second.take_over().await.expect("takes over");
    assert_eq!(newest, Some(whole(10)));
    second.deliver(&next).await.expect("delivers");
    assert_eq!(seen(service, "broken_off"), [2, 3]);

    // What the first writer sent long ago arrives only now.
    table
        .deliver(&only(&[1, 2]), &only(&[]), 10_000)
        .await
        .expect("arrives");
    assert_eq!(seen(service, "broken_off"), [2, 3]);

    // A delivery from the future of our clock waits, and its writer is not to be used again.
    let late = staged(whole(2_000_000), &[9]);
    let refused = second
        .deliver(&late)
        .await
        .expect_err("the clock is behind");
    assert_eq!(refused.sqlstate(), "55000");
    assert_eq!(seen(service, "broken_off"), [2, 3]);
    assert!(second.deliver(&staged(whole(30), &[4])).await.is_err());

    // Another sink of the same server has a row of its own.
    assert_eq!(
        open(&table, 102).take_over().await.expect("takes over"),
        None
    );
}
