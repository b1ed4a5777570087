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
async fn a_read_of_whole_deliveries_sees_no_part_of_one() {
    let Some(service) = service() else { return };
    let columns = [column("n", SqlType::Int8, true)];
    let options = [
        ("family", "f"),
        ("create", "if-missing"),
        ("create.versions", "3"),
        ("scan.consistency", "committed"),
    ];
    let table = Arc::new(declare(service, "whole", &columns, &[0], &options));
    let seen = async || {
        let (found, _) = rows(&table, &[0], &[], None).await?;
        let found = sorted(&found);
        let (one, _) = rows(&table, &[0], &[of_key(1)], None).await?;
        assert_eq!(one.num_rows(), usize::from(found.contains(&1)));
        Ok::<_, ConnectorError>(found)
    };
    let mut writer = open(&table, 103);
    writer.check().await.expect("has what it needs");
    writer.take_over().await.expect("takes over");
    assert_eq!(seen().await.expect("read"), Vec::<i64>::new());
    let first = staged(whole(10), &[1, 2]);
    writer.deliver(&first).await.expect("delivers");
    assert_eq!(seen().await.expect("read"), [1, 2]);
    // Another server's writer has come half way: rows of a later delivery are there, and one has gone.
    let only = |rows: &[i64]| staged(whole(0), rows).changes[0].batch.clone();
    let later = first.stamp_ms + 5_000;
    table
        .deliver(&only(&[3]), &only(&[1]), later)
        .await
        .expect("arrives");
    for action in ["flush", "flush"] {
        assert_eq!(seen().await.expect("read"), [1, 2]);
        service.java(&format!("{action} whole"));
        assert_eq!(seen().await.expect("read"), [1, 2], "after a {action}");
    }
    let mut writer = open(&table, 103);
    writer.take_over().await.expect("takes over");
    assert_eq!(seen().await.expect("read"), [1, 2], "the marker says when");
    let mut next = changed(whole(20), &[1], &[3]);
    next.stamp_ms = later;
    writer.deliver(&next).await.expect("delivers");
    assert_eq!(seen().await.expect("read"), [2, 3]);
    // Statements add versions too, and a read that was overtaken by as many as there are does not go on.
    let read = table.plan(&[0], &[], None);
    for n in 4..7 {
        table.insert(&only(&[n])).await.expect("written");
    }
    let mut overtaken = table.read(&read);
    let error = overtaken
        .next()
        .await
        .expect("an answer")
        .expect_err("overtaken");
    assert_eq!(error.report().sqlstate, "55000", "{error:?}");
    // What keeps no versions is refused.
    service.java("create plain_versions f 5");
    let options = [("family", "f"), ("scan.consistency", "committed")];
    let plain = declare(service, "plain_versions", &columns, &[0], &options);
    let error = plain.check().await.expect_err("keeps nothing deleted");
    assert_eq!(error.report().sqlstate, "55000");
}

fn of_key(n: i64) -> Condition {
    Condition::Compare {
        column: 0,
        comparison: Comparison::Equal,
        value: Arc::new(Int64Array::from(vec![n])),
    }
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
