//! Archives that go on where others ended, and those that must not.

use std::collections::BTreeMap;
use std::sync::Arc;

use thalweg_catalog::ConnectorSpec;

use super::error::ArchiveError;
use super::feed::FeedId;
use super::layout::Layout;
use super::sink::ArchiveSink;
use super::sink_tests::{DELIVERIES, marker, run, staged};
use super::snapshot::{Reached, Snapshot};
use super::table::{ArchiveTable, Parts};
use super::tests::{columns, parts};
use crate::commit::{CommittingSink, Due, Marker, Staged};
use crate::error::ConnectorError;
use crate::store::scripted::ScriptedStore;

/// The archive of another writer that attaches to the folder.
fn attached(store: &ScriptedStore, writer: &str) -> Arc<ArchiveTable> {
    fed(store, writer, None, true)
}

/// An archive that this fills.
fn fed(
    store: &ScriptedStore,
    writer: &str,
    feed: Option<FeedId>,
    attach: bool,
) -> Arc<ArchiveTable> {
    let layout = Layout::new(&columns(), &[1]).expect("a layout");
    Arc::new(ArchiveTable::of(Parts {
        fed: true,
        feed,
        attach,
        writer: writer.into(),
        ..parts(&store.shared(), layout, None)
    }))
}

/// All records of a topic.
fn topic(name: &str) -> FeedId {
    let options = [("properties.bootstrap.server", "a:9092"), ("topic", name)];
    let options = options.map(|(name, value)| (name.to_owned(), value.to_owned()));
    FeedId::of_source(&ConnectorSpec {
        connector: "kafka".into(),
        options: BTreeMap::from(options),
        format: "PLAIN".into(),
        encode: "JSON".into(),
        encode_options: BTreeMap::new(),
        start: BTreeMap::new(),
        watermark: None,
    })
}

/// Some records of a topic.
fn some_of(name: &str) -> FeedId {
    FeedId::of_queries(
        &[topic(name)],
        &["SELECT * FROM clicks WHERE id > 5".into()],
    )
}

/// Fills an archive of this writer as [`run`] does.
async fn filled(
    store: &ScriptedStore,
    writer: &str,
    feed: Option<FeedId>,
    attach: bool,
) -> Arc<ArchiveTable> {
    let archive = fed(store, writer, feed, attach);
    archive.claim().await.expect("a claim");
    let mut sink = ArchiveSink::new(Arc::clone(&archive));
    run(&mut sink).await.expect("delivers");
    archive
}

async fn refusal<T>(refused: impl Future<Output = Result<T, ArchiveError>>) -> ArchiveError {
    let refused = refused.await.err().expect("another feed's place");
    assert_eq!(refused.sqlstate(), "55000", "{refused:?}");
    let report = ConnectorError::from(refused.clone()).report();
    assert!(
        report.detail.is_some() && report.hint.is_some(),
        "{report:?}"
    );
    refused
}

#[tokio::test]
async fn an_attached_archive_goes_on_where_the_newest_one_ended() {
    let store = ScriptedStore::default();
    let place = |reached: Option<&Arc<Reached>>| {
        let reached = reached?;
        reached.frontier.get("clicks")?.get("0").copied()
    };
    let first = attached(&store, "here/1");
    first.claim().await.expect("a claim");
    assert!(
        first.check_place("clicks").await.is_ok(),
        "nothing is there"
    );
    let mut sink = ArchiveSink::new(Arc::clone(&first));
    run(&mut sink).await.expect("delivers");
    let snapshot = first.snapshot().await.expect("a snapshot");
    assert!(first.inherited(&snapshot).expect("none").is_none());
    // The names of writers do not say which was the last; only the first writer's epochs are large.
    for (number, writer) in [(1, "here/9"), (2, "here/5")] {
        let next = attached(&store, writer);
        next.check_place("clicks").await.expect("the same source");
        next.claim().await.expect("a claim");
        let snapshot = next.snapshot().await.expect("a snapshot");
        let before = match number {
            1 => DELIVERIES * 100,
            _ => 1_000_001,
        };
        assert_eq!(
            place(next.inherited(&snapshot).expect("a place")),
            Some(before)
        );
        assert_eq!(
            place(next.reached(&snapshot).expect("a place")),
            Some(before)
        );
        let mut sink = ArchiveSink::new(Arc::clone(&next));
        assert_eq!(
            sink.take_over().await,
            Ok(None),
            "it has delivered nothing itself"
        );
        let offsets = BTreeMap::from([("0".to_owned(), 1_000_000 + number)]);
        let delivery = Staged {
            marker: Marker {
                epoch: number,
                part: 0,
                last: true,
            },
            frontier: BTreeMap::from([("clicks".to_owned(), offsets)]),
            ..staged(20 + number)
        };
        sink.deliver(&delivery).await.expect("takes it");
        sink.commit(Due::Now).await.expect("commits");
        let snapshot = next.snapshot().await.expect("a snapshot");
        assert_eq!(
            place(next.inherited(&snapshot).expect("a place")),
            Some(before)
        );
        assert_eq!(
            place(next.reached(&snapshot).expect("a place")),
            Some(1_000_000 + number)
        );
    }
    for (writer, source) in [("here/7", "others"), ("there/7", "clicks")] {
        let refused = attached(&store, writer).check_place(source).await;
        let refused = refused.expect_err("a row could be missing or twice");
        assert_eq!(refused.sqlstate(), "55000", "{writer} {source}");
    }
}

#[tokio::test]
async fn a_place_of_another_topic_or_query_is_refused() {
    for (before, now, same) in [
        (topic("clicks"), topic("clicks"), true),
        (some_of("clicks"), some_of("clicks"), true),
        (topic("orders"), topic("clicks"), false),
        (some_of("clicks"), topic("clicks"), false),
        (topic("clicks"), some_of("clicks"), false),
    ] {
        let store = ScriptedStore::default();
        filled(&store, "here/1", Some(before), false).await;
        let next = fed(&store, "here/2", Some(now), true);
        let snapshot = next.snapshot().await.expect("a snapshot");
        if same {
            next.check_place("clicks").await.expect("the same feed");
            let place = next.reached(&snapshot).expect("the same feed");
            assert!(place.is_some_and(|place| place.marker == marker(DELIVERIES)));
            continue;
        }
        refusal(next.check_place("clicks")).await;
        // As it would be found by one that was there before the other one wrote.
        refusal(async { next.reached(&snapshot) }).await;
        refusal(async { next.inherited(&snapshot) }).await;
    }
}

#[tokio::test]
async fn what_an_older_release_wrote_down_is_taken_as_it_is() {
    let store = ScriptedStore::default();
    filled(&store, "here/1", None, false).await;
    let next = fed(&store, "here/2", Some(topic("clicks")), true);
    next.check_place("clicks").await.expect("nothing is known");
    let snapshot = next.snapshot().await.expect("a snapshot");
    let place = next.reached(&snapshot).expect("nothing is known");
    assert!(place.is_some_and(|place| place.feed.is_none()));
}

#[tokio::test]
async fn a_name_that_is_given_again_does_not_stand_for_what_another_feed_delivered() {
    let store = ScriptedStore::default();
    filled(&store, "here/1", Some(topic("orders")), false).await;
    let again = fed(&store, "here/1", Some(topic("clicks")), true);
    refusal(again.check_place("clicks")).await;
    let snapshot = again.snapshot().await.expect("a snapshot");
    refusal(async { again.reached(&snapshot) }).await;
    let mut sink = ArchiveSink::new(again);
    let refused = sink.take_over().await.expect_err("another feed's marker");
    assert_eq!(refused.report().sqlstate, "55000");
    // Not even for the same feed is a new archive an old one.
    let same = fed(&store, "here/1", Some(topic("orders")), true);
    refusal(same.check_place("clicks")).await;
}

#[tokio::test]
async fn rows_that_another_archive_added_since_are_not_counted_twice() {
    let feed = || Some(topic("clicks"));
    let store = ScriptedStore::default();
    let ours = filled(&store, "here/1", feed(), false).await;
    let before = ours.snapshot().await.expect("a snapshot");
    assert!(ours.reached(&before).expect("a place").is_some());
    filled(&store, "there/1", feed(), true).await;
    let snapshot = ours.snapshot().await.expect("a snapshot");
    refusal(async { ours.reached(&snapshot) }).await;
    // So it is when ours has delivered nothing yet.
    let store = ScriptedStore::default();
    let ours = fed(&store, "here/1", feed(), false);
    ours.claim().await.expect("a claim");
    let empty = ours.snapshot().await.expect("a snapshot");
    assert!(ours.reached(&empty).expect("no place").is_none());
    filled(&store, "there/1", feed(), true).await;
    let snapshot = ours.snapshot().await.expect("a snapshot");
    refusal(async { ours.reached(&snapshot) }).await;
}

#[tokio::test]
async fn a_checkpoint_of_manifests_keeps_what_a_place_is_of() {
    let store = ScriptedStore::default();
    let archive = filled(&store, "here/1", Some(topic("orders")), false).await;
    let snapshot = archive.snapshot().await.expect("a snapshot");
    let kept = Snapshot::of(snapshot.checkpoint(0));
    let next = fed(&store, "here/2", Some(topic("clicks")), true);
    refusal(async { next.reached(&kept) }).await;
    let same = fed(&store, "here/2", Some(topic("orders")), true);
    assert!(same.reached(&kept).expect("the same feed").is_some());
}
