//! The Kafka source against a real broker: transactions, timestamps and added partitions, which the mock does not know.
//!
//! Prints a skip when no broker can be had here, and fails instead when `THALWEG_REQUIRE_SERVICES=1`.

#[path = "../committing/mod.rs"]
mod committing;
#[path = "../services/mod.rs"]
mod services;

mod commit;

use std::collections::BTreeMap;
use std::process::Command;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use arrow::array::AsArray;
use arrow::datatypes::Int64Type;
use rdkafka::ClientConfig;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use thalweg_catalog::{
    Column, ColumnRole, ConnectorSpec, Environment, Oid, Relation, RelationKind, SqlType,
};
use thalweg_connectors::{
    Budget, Clock as _, ConnectorContext, Offsets, SourceConnector, SourceHealth, SourceReader,
    SystemClock, source,
};

use services::{script, up};

const PATIENCE: Duration = Duration::from_secs(120);
const BUDGET: Budget = Budget {
    rows: 1000,
    bytes: 1 << 20,
    time: Duration::from_millis(100),
};

/// A broker that stops when the test process ends.
struct Broker {
    address: String,
    run: String,
}

impl Broker {
    /// Starts a broker; `None` when none can be had here.
    fn start() -> Option<Self> {
        let [address, run] = up("kafka", &[], ["KAFKA_BOOTSTRAP=", "KAFKA_RUN="])?;
        Some(Self { address, run })
    }

    /// Runs `kill` or `restart`.
    fn script(&self, name: &str) {
        let output = Command::new(script(name))
            .args(["kafka", "--run", &self.run])
            .output()
            .expect("the script runs");
        assert!(output.status.success(), "{output:?}");
    }
}

/// The broker the tests of this run share.
fn broker() -> Option<&'static str> {
    static BROKER: OnceLock<Option<Broker>> = OnceLock::new();
    let broker = BROKER.get_or_init(Broker::start).as_ref();
    broker.map(|broker| broker.address.as_str())
}

fn topic(broker: &str, name: &str, partitions: u32, grow: bool) {
    let mut command = Command::new(script("topic"));
    command.args([broker, name, &partitions.to_string()]);
    if grow {
        command.arg("--grow");
    }
    let output = command.output().expect("the topic script runs");
    assert!(output.status.success(), "{output:?}");
}

/// A relation of one column `n`.
fn relation(oid: u32, kind: RelationKind) -> Relation {
    let column = Column {
        name: "n".into(),
        attnum: 1,
        ty: SqlType::Int8,
        not_null: false,
        default: None,
        generated: None,
        role: ColumnRole::Data,
    };
    Relation {
        oid: Oid(oid),
        row_type_oid: Oid(1),
        array_type_oid: Oid(2),
        schema: Oid(2200),
        name: "s".into(),
        kind,
        columns: vec![column],
        primary_key: None,
        checks: Vec::new(),
        definition: String::new(),
        environment: Environment::default(),
        depends_on: Vec::new(),
        created_at_ms: 0,
    }
}

fn kafka_source(broker: &str, topic: &str, options: &[(&str, &str)]) -> Arc<dyn SourceConnector> {
    let mut map: BTreeMap<String, String> = options
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect();
    map.insert("properties.bootstrap.server".into(), broker.into());
    map.insert("topic".into(), topic.into());
    let spec = ConnectorSpec {
        connector: "kafka".into(),
        options: map,
        format: "PLAIN".into(),
        encode: "JSON".into(),
        encode_options: BTreeMap::new(),
        start: BTreeMap::new(),
        watermark: None,
    };
    let relation = relation(16384, RelationKind::Source(spec));
    source(&relation, &ConnectorContext::new(Arc::new(SystemClock))).expect("a valid source")
}

fn producer(broker: &str, transactional_id: Option<&str>) -> BaseProducer {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", broker);
    if let Some(id) = transactional_id {
        config.set("transactional.id", id);
    }
    let producer: BaseProducer = config.create().expect("a producer");
    if transactional_id.is_some() {
        producer.init_transactions(PATIENCE).expect("transactions");
    }
    producer
}

/// Milliseconds since the Unix epoch; a broker removes records that are older than its retention.
fn an_hour_ago() -> i64 {
    SystemClock.now_us() / 1000 - 3_600_000
}

fn send(
    producer: &BaseProducer,
    topic: &str,
    partition: i32,
    range: std::ops::Range<i64>,
    at_ms: impl Fn(i64) -> i64,
) {
    for n in range {
        let payload = format!("{{\"n\":{n}}}");
        let record: BaseRecord<'_, (), String> = BaseRecord::to(topic)
            .partition(partition)
            .payload(&payload)
            .timestamp(at_ms(n));
        producer
            .send(record)
            .map_err(|(error, _)| error)
            .expect("a queued record");
    }
    producer.flush(PATIENCE).expect("delivered records");
}

/// Reads until the offsets reach `end`.
fn read_to(reader: &mut dyn SourceReader, end: &Offsets) -> Vec<i64> {
    let begun = Instant::now();
    let (mut numbers, mut at) = (Vec::new(), Offsets::new());
    while !end
        .iter()
        .all(|(split, end)| *end == 0 || at.get(split).is_some_and(|at| at >= end))
    {
        assert!(
            begun.elapsed() < PATIENCE,
            "at {at:?} of {end:?}: {:?}",
            reader.health()
        );
        let batch = reader.poll(BUDGET).expect("a poll succeeds");
        let column = batch.rows.column(0).as_primitive::<Int64Type>();
        numbers.extend_from_slice(column.values());
        at.extend(batch.offsets);
    }
    numbers
}

/// Waits until the topic's one partition ends there: the broker writes a transaction's marker after it has answered the commit.
async fn ends_at(source: &dyn SourceConnector, end: u64) -> Offsets {
    let begun = Instant::now();
    loop {
        let ends = source.end_offsets().await.expect("ends");
        if ends["0"] == end {
            return ends;
        }
        assert!(begun.elapsed() < PATIENCE, "{ends:?} is not {end}");
    }
}

#[tokio::test]
async fn only_committed_transactions_are_read_and_a_bounded_read_ends() {
    let Some(broker) = broker() else { return };
    topic(broker, "transactions", 1, false);
    let writer = producer(broker, Some("real-kafka-test"));
    let now = |_| an_hour_ago();
    let transaction = |range, commit: bool| {
        writer.begin_transaction().expect("a transaction");
        send(&writer, "transactions", 0, range, now);
        if commit {
            writer.commit_transaction(PATIENCE).expect("a commit");
        } else {
            writer.abort_transaction(PATIENCE).expect("an abort");
        }
    };
    transaction(0..5, true);
    transaction(100..105, false);
    transaction(5..8, true);
    transaction(200..204, false);

    let source = kafka_source(broker, "transactions", &[]);
    // 17 records and 4 markers: the end is behind an aborted transaction and its marker.
    let end = ends_at(source.as_ref(), 21).await;
    let start = source.resolve_start().await.expect("a start");
    let mut reader = source.open(&start).expect("a reader");
    assert_eq!(read_to(reader.as_mut(), &end), (0..8).collect::<Vec<_>>());

    // An open transaction holds the end back; a read bounded now ends without waiting for it.
    writer.begin_transaction().expect("a transaction");
    send(&writer, "transactions", 0, 8..10, now);
    assert_eq!(source.end_offsets().await.expect("ends"), end);
    let mut second = source.open(&start).expect("a reader");
    assert_eq!(read_to(second.as_mut(), &end), (0..8).collect::<Vec<_>>());
    writer.commit_transaction(PATIENCE).expect("a commit");
    let end = ends_at(source.as_ref(), 24).await;
    assert_eq!(read_to(second.as_mut(), &end), [8, 9]);
    assert_eq!(read_to(reader.as_mut(), &end), [8, 9]);
    // A reader opened at the very end has nothing to read and says so by staying there.
    let mut idle = source.open(&end).expect("a reader");
    assert_eq!(idle.poll(BUDGET).expect("a poll succeeds").records, 0);
}

#[tokio::test]
async fn reading_starts_at_a_broker_time() {
    let Some(broker) = broker() else { return };
    topic(broker, "times", 2, false);
    let writer = producer(broker, None);
    let begun = an_hour_ago();
    let minute = |n: i64| begun + n * 60_000;
    send(&writer, "times", 0, 0..10, minute);
    send(&writer, "times", 1, 0..3, minute);
    let millis = (minute(6) - 1).to_string();
    let options = [
        ("scan.startup.mode", "timestamp"),
        ("scan.startup.timestamp.millis", millis.as_str()),
    ];
    let source = kafka_source(broker, "times", &options);
    let start = source.resolve_start().await.expect("a start");
    assert_eq!(start, Offsets::from([("0".into(), 6), ("1".into(), 3)]));
    let end = Offsets::from([("0".into(), 10)]);
    let mut reader = source.open(&start).expect("a reader");
    assert_eq!(read_to(reader.as_mut(), &end), [6, 7, 8, 9]);
}

#[tokio::test]
async fn added_partitions_are_read_from_their_earliest_record() {
    let Some(broker) = broker() else { return };
    topic(broker, "growing", 1, false);
    let writer = producer(broker, None);
    let now = |_| an_hour_ago();
    send(&writer, "growing", 0, 0..5, now);
    let options = [
        ("partition.discovery.interval", "200 ms"),
        ("scan.startup.mode", "latest"),
    ];
    let source = kafka_source(broker, "growing", &options);
    let start = source.resolve_start().await.expect("a start");
    assert_eq!(start, Offsets::from([("0".into(), 5)]));
    let mut reader = source.open(&start).expect("a reader");
    send(&writer, "growing", 0, 5..8, now);
    let end = Offsets::from([("0".into(), 8)]);
    assert_eq!(read_to(reader.as_mut(), &end), [5, 6, 7]);

    topic(broker, "growing", 3, true);
    // A producer that knew one partition learns of the others only after its own metadata interval.
    let writer = producer(broker, None);
    send(&writer, "growing", 2, 20..25, now);
    send(&writer, "growing", 0, 8..9, now);
    let end = source.end_offsets().await.expect("ends");
    assert_eq!(end.len(), 3);
    let mut numbers = read_to(reader.as_mut(), &end);
    numbers.sort_unstable();
    assert_eq!(numbers, [8, 20, 21, 22, 23, 24]);
}

#[tokio::test]
async fn a_killed_broker_is_waited_for() {
    let Some(broker) = Broker::start() else {
        return;
    };
    topic(&broker.address, "killed", 2, false);
    let writer = producer(&broker.address, None);
    let now = |_| an_hour_ago();
    send(&writer, "killed", 0, 0..100, now);
    let source = kafka_source(&broker.address, "killed", &[]);
    let mut reader = source.open(&Offsets::new()).expect("a reader");
    let before = read_to(reader.as_mut(), &Offsets::from([("0".into(), 100)]));

    broker.script("kill");
    let begun = Instant::now();
    while reader.health() == SourceHealth::Running {
        assert!(begun.elapsed() < PATIENCE, "the outage does not show");
        assert_eq!(
            reader.poll(BUDGET).expect("an outage is no error").records,
            0
        );
    }
    broker.script("restart");
    send(&writer, "killed", 0, 100..200, now);
    let after = read_to(reader.as_mut(), &Offsets::from([("0".into(), 200)]));
    assert_eq!([before, after].concat(), (0..200).collect::<Vec<_>>());
    assert_eq!(reader.health(), SourceHealth::Running);
}
