//! The exactly-once Kafka sink against a real broker: its contract, and what readers see of transactions that never ended.
//!
//! Prints a skip when no broker can be had here, and fails instead when `THALWEG_REQUIRE_SERVICES=1`.

mod committing;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::Message;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use thalweg_catalog::{
    Column, ColumnRole, Environment, Oid, Relation, RelationKind, SinkFormat, SinkSpec, SqlType,
};
use thalweg_connectors::{
    AnySink, CommittingSink, ConnectorContext, SystemClock, sink as open_sink,
};

use committing::{changed, conforms, staged, whole};

const WAIT: Duration = Duration::from_secs(60);
const INSTALLATION: [u8; 16] = [7; 16];

fn services(script: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../tests/services")
        .join(script)
}

/// The address of a broker that stops when the test process ends; `None` when none can be had here.
fn broker() -> Option<&'static str> {
    static BROKER: OnceLock<Option<String>> = OnceLock::new();
    let start = || {
        let parent = std::process::id().to_string();
        let up = Command::new(services("up"))
            .args(["kafka", "--parent-pid", &parent])
            .output()
            .ok()
            .filter(|up| up.status.success());
        let address = up.and_then(|up| {
            let text = String::from_utf8_lossy(&up.stdout).into_owned();
            let mut lines = text.lines();
            lines.find_map(|line| line.strip_prefix("KAFKA_BOOTSTRAP=").map(str::to_owned))
        });
        if address.is_none() {
            assert!(
                std::env::var("THALWEG_REQUIRE_SERVICES").as_deref() != Ok("1"),
                "no Kafka broker, and services are required"
            );
            eprintln!("SKIPPED: no Kafka broker can be started here");
        }
        address
    };
    BROKER.get_or_init(start).as_deref()
}

fn topic(broker: &str, name: &str) {
    let mut command = Command::new(services("topic"));
    let output = command.args([broker, name, "2"]).output();
    let output = output.expect("the topic script runs");
    assert!(output.status.success(), "{output:?}");
}

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
    let column = Column {
        name: "n".into(),
        attnum: 1,
        ty: SqlType::Int8,
        not_null: false,
        default: None,
        generated: None,
        role: ColumnRole::Data,
    };
    let relation = Relation {
        oid: Oid(oid),
        row_type_oid: Oid(1),
        array_type_oid: Oid(2),
        schema: Oid(2200),
        name: "s".into(),
        kind: RelationKind::Sink(spec),
        columns: vec![column],
        primary_key: None,
        checks: Vec::new(),
        definition: String::new(),
        environment: Environment::default(),
        depends_on: Vec::new(),
        created_at_ms: 0,
    };
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
        topic(broker, name);
        conforms(|| sink(broker, name, row, oid), || rows(broker, name)).await;
    }
}

/// A writer that died inside of a transaction: its messages are never seen, and they do not hold up the next writer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_dead_writer_left_open_is_undone() {
    let Some(broker) = broker() else { return };
    topic(broker, "left");
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
