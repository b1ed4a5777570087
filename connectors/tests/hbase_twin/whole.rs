//! Reads that see whole deliveries alone, over restarts and over sinks that come and go.
//!
//! Invariant: another declaration of a table stands for another process: of what a process knows it has nothing.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use thalweg_catalog::SqlType;
use thalweg_connectors::{
    CommittingSink, ConnectorError, HbaseCommitter, HbaseSink, HbaseTable, Marker, MessageSink,
    Staged,
};

use super::{Fault, Twin};
use crate::committing::{changed, staged, whole};
use crate::{column, context, rows, sorted};

fn declare(twin: &Twin, consistency: &str, timeout: &str) -> Arc<HbaseTable> {
    let options = [
        ("thrift.servers", twin.address.as_str()),
        ("table", "t"),
        ("family", "f"),
        ("create", "if-missing"),
        ("scan.consistency", consistency),
        ("lookup.timeout", timeout),
    ];
    let options = BTreeMap::from(options.map(|(name, value)| (name.to_owned(), value.to_owned())));
    let columns = [column("n", SqlType::Int8, true)];
    Arc::new(HbaseTable::new(&columns, &[0], &options, &context().1).expect("a table"))
}

fn committed(twin: &Twin) -> Arc<HbaseTable> {
    declare(twin, "committed", "30 s")
}

fn open(table: &Arc<HbaseTable>, sink: u32) -> HbaseCommitter {
    let context = context().1.with_installation([9; 16]);
    HbaseCommitter::new(Arc::clone(table), sink, &context)
}

async fn taken_over(table: &Arc<HbaseTable>, sink: u32) -> HbaseCommitter {
    let mut writer = open(table, sink);
    writer.check().await.expect("has what it needs");
    writer.take_over().await.expect("takes over");
    writer
}

async fn read(table: &HbaseTable) -> Result<Vec<i64>, ConnectorError> {
    rows(table, &[0], &[], None)
        .await
        .map(|(found, _)| sorted(&found))
}

async fn seen(table: &HbaseTable) -> Vec<i64> {
    read(table).await.expect("read")
}

/// A process begins to deliver, and ends before the marker is written.
async fn broken_off(twin: &Twin, calls_before: usize, delivery: &Staged) {
    let table = committed(twin);
    let mut writer = taken_over(&table, 7).await;
    let mut faults = vec![Fault::Slow(Duration::ZERO); calls_before];
    faults.push(Fault::Refusing);
    twin.script(&faults);
    writer.deliver(delivery).await.expect_err("it is refused");
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_restart_no_part_of_a_delivery_is_seen() {
    let twin = Twin::start();
    let latest = declare(&twin, "latest", "30 s");
    committed(&twin).check().await.expect("makes the table");
    // Of the first delivery, which no marker is of: the writer is checked, a timestamp before it written, then its rows.
    broken_off(&twin, 3, &staged(whole(10), &[1, 2])).await;
    assert_eq!(seen(&latest).await, [1, 2], "it has come half way");
    let table = committed(&twin);
    let place = table.sink_place(7);
    let mut writer = taken_over(&table, 7).await;
    assert_eq!(seen(&table).await, Vec::<i64>::new());
    let first = staged(whole(10), &[1, 2]);
    writer.deliver(&first).await.expect("delivers");
    assert_eq!(seen(&table).await, [1, 2]);
    // Between two writers, as after an error.
    drop(writer);
    assert_eq!(seen(&table).await, [1, 2]);
    drop(place);

    // Of a later one: the writer is checked, then its rows written, and what it deletes before them.
    broken_off(&twin, 3, &changed(whole(20), &[1], &[3])).await;
    assert_eq!(seen(&latest).await, [2, 3], "it has come half way");
    // Nobody has asked HBase yet how far the sink had come.
    let hasty = declare(&twin, "committed", "50ms");
    let _place = hasty.sink_place(7);
    let error = read(&hasty).await.expect_err("not known yet");
    assert_eq!(error.report().sqlstate, "55000");
    let table = committed(&twin);
    let mut writer = open(&table, 7);
    let (early, newest) = tokio::join!(read(&table), writer.take_over());
    assert_eq!(newest.expect("takes over"), Some(whole(10)));
    assert_eq!(early.expect("waits for it"), [1, 2]);
    let next = changed(whole(20), &[1], &[3]);
    writer.deliver(&next).await.expect("delivers");
    assert_eq!(seen(&table).await, [2, 3]);

    // Of a delivery of several parts the first is there, with its marker.
    let mut part = staged(whole(30), &[4]);
    part.marker.last = false;
    writer.deliver(&part).await.expect("delivers");
    assert_eq!(seen(&table).await, [2, 3]);
    let table = committed(&twin);
    let mut writer = taken_over(&table, 7).await;
    assert_eq!(seen(&table).await, [2, 3]);
    let mut rest = staged(whole(30), &[5]);
    rest.marker = Marker {
        part: 1,
        ..whole(30)
    };
    writer.deliver(&rest).await.expect("delivers");
    assert_eq!(seen(&table).await, [2, 3, 4, 5]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sink_that_is_dropped_is_forgotten() {
    let twin = Twin::start();
    let table = committed(&twin);
    table.check().await.expect("makes the table");
    let only = |rows: &[i64]| staged(whole(0), rows).changes[0].batch.clone();
    assert_eq!(seen(&table).await, Vec::<i64>::new());
    let mut first = taken_over(&table, 7).await;
    assert_eq!(seen(&table).await, Vec::<i64>::new());
    first
        .deliver(&staged(whole(10), &[1, 2]))
        .await
        .expect("delivers");
    table.insert(&only(&[3])).await.expect("written");
    assert_eq!(
        seen(&table).await,
        [1, 2],
        "statements are seen from the next delivery on"
    );
    drop(first);
    assert_eq!(seen(&table).await, [1, 2, 3], "nothing is to come");
    let mut second = taken_over(&table, 8).await;
    assert_eq!(seen(&table).await, [1, 2, 3]);
    second
        .deliver(&staged(whole(1_001), &[4]))
        .await
        .expect("delivers");
    assert_eq!(seen(&table).await, [1, 2, 3, 4]);
    // Two at once, and one again.
    let third = taken_over(&table, 9).await;
    let error = read(&table).await.expect_err("several");
    assert_eq!(error.report().sqlstate, "55000");
    drop(third);
    assert_eq!(seen(&table).await, [1, 2, 3, 4]);
}

/// What a read of all has begun with cannot be told from what the first delivery brings meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn a_read_that_the_first_delivery_overtakes_ends() {
    let twin = Twin::start();
    let table = committed(&twin);
    table.check().await.expect("makes the table");
    let mut writer = taken_over(&table, 7).await;
    // The question for regions, which is the last before rows come, is answered when the delivery has begun.
    let asked = twin.calls().len();
    twin.script(&[Fault::Slow(Duration::from_secs(1))]);
    let mut reading = table.read(&table.plan(&[0], &[], None));
    while twin.calls().len() == asked {
        tokio::task::yield_now().await;
    }
    writer
        .deliver(&staged(whole(10), &[1, 2]))
        .await
        .expect("delivers");
    let answer = reading.next().await.expect("an answer");
    assert_eq!(answer.expect_err("overtaken").report().sqlstate, "55000");
    assert_eq!(seen(&table).await, [1, 2]);
}

/// Rows of such a sink would be seen before the others of their delivery, or not until another sink delivers.
#[tokio::test(flavor = "multi_thread")]
async fn a_sink_that_writes_rows_as_they_come_is_refused_by_a_table_that_shows_whole_deliveries() {
    let twin = Twin::start();
    let refused = HbaseSink::new(committed(&twin)).expect_err("nothing tells its deliveries apart");
    let report = refused.report();
    assert_eq!(report.sqlstate, "22023");
    assert_eq!(
        report.message,
        "option \"delivery\" must be 'exactly_once' for HBase table \"t\" with scan.consistency = 'committed'"
    );
    let latest = declare(&twin, "latest", "30 s");
    let mut sink = HbaseSink::new(Arc::clone(&latest)).expect("nothing is promised");
    sink.check().await.expect("makes the table");
    let rows = staged(whole(0), &[1, 2]).changes[0].batch.clone();
    let messages = sink.messages(&rows).expect("rows");
    sink.send(messages).await.expect("written");
    assert_eq!(seen(&latest).await, [1, 2]);
}
