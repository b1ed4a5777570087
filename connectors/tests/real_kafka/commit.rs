//! The exactly-once Kafka sink against a real broker: its contract, and what readers see of transactions that never ended.
//!
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::admin::{
    AdminClient, AdminOptions, AlterConfig, NewTopic, ResourceSpecifier, TopicReplication,
};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::Message;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use thalweg_catalog::{RelationKind, SinkFormat, SinkSpec};
use thalweg_connectors::{
    AnySink, CommittingSink, ConnectorContext, SystemClock, sink as open_sink,
};

use super::committing::{changed, conforms, staged, whole};
use super::{Broker, broker, relation, topic};

const WAIT: Duration = Duration::from_secs(120);
const INSTALLATION: [u8; 16] = [7; 16];

/// A sink of one column `n`, which is its key under UPSERT.
fn sink(broker: &str, topic: &str, row: &str, oid: u32) -> Box<dyn CommittingSink> {
    let options = BTreeMap::from([
        ("properties.bootstrap.server".to_owned(), broker.to_owned()),
        ("topic".to_owned(), topic.to_owned()),
    ]);
    let spec = SinkSpec {
        connector: "kafka".into(),
        options,
        query: String::new(),
        delivery: "exactly_once".into(),
        format: Some(SinkFormat {
            row: row.into(),
            encode: "JSON".into(),
            key_encode: "TEXT".into(),
            key: vec![0],
        }),
        into: None,
    };
    let relation = relation(oid, RelationKind::Sink(spec));
    let context = ConnectorContext::new(Arc::new(SystemClock)).with_installation(INSTALLATION);
    match open_sink(&relation, &context).expect("a valid sink") {
        AnySink::Committing(sink) => sink,
        other => panic!("{other:?} does not commit"),
    }
}

/// Committed messages of a topic, key and value, by partition and in order.
fn committed(broker: &str, topic: &str) -> Vec<(String, Option<String>)> {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", broker)
        .set("group.id", "reader")
        .set("isolation.level", "read_committed")
        .set("enable.partition.eof", "true")
        .create()
        .expect("a consumer");
    let mut from = TopicPartitionList::new();
    for partition in 0..2 {
        from.add_partition_offset(topic, partition, Offset::Beginning)
            .expect("a partition");
    }
    consumer.assign(&from).expect("assigns");
    let (mut messages, mut ended) = (Vec::new(), BTreeSet::new());
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    while ended.len() < 2 {
        match consumer.poll(WAIT).expect("something happens in time") {
            Ok(message) => messages.push((
                message.key().map(text).unwrap_or_default(),
                message.payload().map(text),
            )),
            Err(KafkaError::PartitionEOF(partition)) => drop(ended.insert(partition)),
            Err(error) => panic!("{error}"),
        }
    }
    messages
}

/// The keys whose newest committed message is a row.
async fn rows(broker: &'static str, topic: &'static str) -> Vec<i64> {
    let read = tokio::task::spawn_blocking(move || committed(broker, topic));
    let mut held = BTreeMap::new();
    for (key, value) in read.await.expect("reads") {
        let number: i64 = key.parse().expect("a number");
        match value {
            Some(_) => assert!(held.insert(number, ()).is_none(), "{number} came twice"),
            None => drop(held.remove(&number)),
        }
    }
    held.into_keys().collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_forms_keep_the_contract() {
    let Some(broker) = broker() else { return };
    for (name, row, oid) in [("rows", "PLAIN", 100), ("keys", "UPSERT", 101)] {
        topic(broker, name, 2, false);
        conforms(|| sink(broker, name, row, oid), || rows(broker, name)).await;
    }
}

/// A writer that died inside of a transaction: its messages are never seen, and they do not hold up the next writer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_dead_writer_left_open_is_undone() {
    let Some(broker) = broker() else { return };
    topic(broker, "left", 2, false);
    let mut writer = sink(broker, "left", "UPSERT", 102);
    writer.check().await.expect("is there");
    assert_eq!(writer.take_over().await.expect("takes over"), None);
    writer
        .deliver(&staged(whole(1), &[1]))
        .await
        .expect("delivers");
    let dead = tokio::task::spawn_blocking(move || {
        let name = format!("{}/102/0", uuid::Uuid::from_bytes(INSTALLATION));
        let producer: BaseProducer = ClientConfig::new()
            .set("bootstrap.servers", broker)
            .set("transactional.id", name)
            .create()
            .expect("a producer");
        producer.init_transactions(WAIT).expect("takes over");
        producer.begin_transaction().expect("begins");
        for topic in ["left", "_thalweg_commits"] {
            let record = BaseRecord::<str, str>::to(topic).key("9").payload("{}");
            producer.send(record).expect("is taken");
        }
        producer.flush(WAIT).expect("arrives");
        producer
    });
    let dead = dead.await.expect("runs");
    assert!(
        writer.deliver(&staged(whole(2), &[2])).await.is_err(),
        "shut out"
    );
    let mut next = sink(broker, "left", "UPSERT", 102);
    assert_eq!(next.take_over().await.expect("takes over"), Some(whole(1)));
    next.deliver(&changed(whole(2), &[1], &[2]))
        .await
        .expect("delivers");
    assert_eq!(rows(broker, "left").await, [2]);
    drop(tokio::task::spawn_blocking(move || drop(dead)));
}

const MARKERS: &str = "_thalweg_commits";

/// A topic of markers that somebody made with three partitions and the policy that topics have when nobody says another.
async fn foreign_markers(broker: &str) -> AdminClient<DefaultClientContext> {
    let admin: AdminClient<DefaultClientContext> = ClientConfig::new()
        .set("bootstrap.servers", broker)
        .create()
        .expect("a client");
    let topic =
        NewTopic::new(MARKERS, 3, TopicReplication::Fixed(-1)).set("cleanup.policy", "delete");
    let made = admin.create_topics([&topic], &AdminOptions::new()).await;
    assert_eq!(made.expect("answers"), [Ok(MARKERS.to_owned())]);
    admin
}

/// Where a partition of the topic of markers ends.
fn end(broker: &str, partition: i32) -> i64 {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", broker)
        .create()
        .expect("a consumer");
    let (_, end) = consumer
        .fetch_watermarks(MARKERS, partition, WAIT)
        .expect("answers");
    end
}

/// Markers as an older version wrote them: where the key leads to.
fn older_markers(broker: &str, oid: u32) {
    let name = format!("{}/{oid}/0", uuid::Uuid::from_bytes(INSTALLATION));
    let producer = super::producer(broker, None);
    for (partition, epoch) in [(0, 3), (2, 5)] {
        let value = format!("{{\"epoch\":{epoch},\"part\":0,\"last\":true}}");
        let record = BaseRecord::to(MARKERS)
            .partition(partition)
            .key(name.as_str());
        producer
            .send(record.payload(value.as_str()))
            .expect("is taken");
    }
    producer.flush(WAIT).expect("arrives");
}

/// Markers are found in a topic of several partitions, and one that loses them is refused. On a broker of its own: the topic is one
/// for all sinks.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn markers_are_found_in_a_topic_of_several_partitions() {
    let Some(own) = tokio::task::spawn_blocking(Broker::start)
        .await
        .expect("runs")
    else {
        return;
    };
    let broker: &str = &own.address;
    topic(broker, "many", 2, false);
    let admin = foreign_markers(broker).await;
    let mut writer = sink(broker, "many", "UPSERT", 110);
    for refused in [writer.check().await, writer.take_over().await.map(drop)] {
        let refused = refused.expect_err("loses markers").report();
        assert_eq!(refused.sqlstate, "55000");
        let hint = refused.hint.unwrap_or_default();
        assert!(
            hint.contains("cleanup.policy=compact on topic \"_thalweg_commits\""),
            "{hint}"
        );
    }
    let compact =
        AlterConfig::new(ResourceSpecifier::Topic(MARKERS)).set("cleanup.policy", "compact");
    let altered = admin.alter_configs([&compact], &AdminOptions::new()).await;
    assert!(altered.expect("answers").iter().all(Result::is_ok));
    // A broker says yes before all of it knows.
    let begun = Instant::now();
    while let Err(error) = writer.check().await {
        assert!(begun.elapsed() < WAIT, "{error}");
    }
    for oid in 110..116 {
        let mut writer = sink(broker, "many", "UPSERT", oid);
        writer.check().await.expect("is there");
        assert_eq!(writer.take_over().await.expect("takes over"), None);
        let delivered = writer.deliver(&staged(whole(1), &[oid.into()])).await;
        delivered.expect("delivers");
        let mut next = sink(broker, "many", "UPSERT", oid);
        let found = next.take_over().await.expect("takes over");
        assert_eq!(found, Some(whole(1)), "sink {oid}");
    }
    let elsewhere = tokio::task::block_in_place(|| [1, 2].map(|partition| end(broker, partition)));
    assert_eq!(elsewhere, [0, 0], "all markers are in partition 0");
    older_markers(broker, 120);
    let mut writer = sink(broker, "many", "UPSERT", 120);
    assert_eq!(
        writer.take_over().await.expect("takes over"),
        Some(whole(5))
    );
    // What was accepted with RESUME after a restore counts from there on.
    writer
        .deliver(&staged(whole(4), &[120]))
        .await
        .expect("delivers");
    let mut next = sink(broker, "many", "UPSERT", 120);
    assert_eq!(next.take_over().await.expect("takes over"), Some(whole(4)));
}
