//! The exactly-once Kafka sink against a real broker: its contract, and what readers see of transactions that never ended.
//!
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use rdkafka::ClientConfig;
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
use super::{broker, relation, topic};

const WAIT: Duration = Duration::from_secs(60);
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
