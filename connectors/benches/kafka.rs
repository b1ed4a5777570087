//! What a Kafka record costs the thread that reads it: `cargo bench -p thalweg-connectors --bench kafka`.
//!
//! Invariant: every record is a row before its time counts. The broker and the client library's own threads are not in the figure.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::mocking::MockCluster;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use thalweg_catalog::{
    Column, ColumnRole, ConnectorSpec, Environment, Oid, Relation, RelationKind, SqlType,
};
use thalweg_connectors::{Budget, ConnectorContext, NexmarkText, Offsets, SystemClock};

/// The mock broker keeps 5 MB of each partition.
const PARTITIONS: i32 = 16;
const RECORDS_PER_PARTITION: u64 = 15_000;
const RUNS: usize = 5;
const TOPIC: &str = "bids";
const BUDGET: Budget = Budget {
    rows: 65_536,
    bytes: 64 << 20,
    time: Duration::from_millis(50),
};

fn source(brokers: &str) -> Relation {
    let options = [("properties.bootstrap.server", brokers), ("topic", TOPIC)];
    let options = options.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let spec = ConnectorSpec {
        connector: "kafka".into(),
        options: BTreeMap::from(options),
        format: "PLAIN".into(),
        encode: "JSON".into(),
        encode_options: BTreeMap::new(),
        start: BTreeMap::new(),
        watermark: None,
    };
    let column = Column {
        name: "auction".into(),
        attnum: 1,
        ty: SqlType::Int8,
        not_null: false,
        default: None,
        generated: None,
        role: ColumnRole::Data,
    };
    Relation {
        oid: Oid(16384),
        row_type_oid: Oid(16385),
        array_type_oid: Oid(16386),
        schema: Oid(2200),
        name: "bids".into(),
        kind: RelationKind::Source(spec),
        columns: vec![column],
        primary_key: None,
        checks: Vec::new(),
        definition: String::new(),
        environment: Environment::default(),
        depends_on: Vec::new(),
        created_at_ms: 0,
    }
}

/// Nanoseconds this thread has been on a CPU.
fn cpu_ns() -> u64 {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let first = stat.split(' ').next().and_then(|ns| ns.parse().ok());
    first.expect("a kernel that counts CPU time per thread")
}

fn main() {
    let mock = MockCluster::new(1).expect("a mock cluster");
    mock.create_topic(TOPIC, PARTITIONS, 1).expect("a topic");
    let brokers = mock.bootstrap_servers();
    let producer: BaseProducer = rdkafka::ClientConfig::new()
        .set("bootstrap.servers", &brokers)
        .set("queue.buffering.max.messages", "1000000")
        .create()
        .expect("a producer");
    let (text, mut payload, mut bytes) = (NexmarkText::new(1), Vec::new(), 0);
    for row in 0..RECORDS_PER_PARTITION * PARTITIONS as u64 {
        payload.clear();
        text.append_bid(row, &mut payload);
        bytes += payload.len();
        let partition = (row % PARTITIONS as u64) as i32;
        let record: BaseRecord<'_, (), Vec<u8>> =
            BaseRecord::to(TOPIC).partition(partition).payload(&payload);
        producer
            .send(record)
            .map_err(|(error, _)| error)
            .expect("a queued record");
    }
    producer
        .flush(Duration::from_secs(60))
        .expect("delivered records");
    let relation = source(&brokers);
    let context = ConnectorContext::new(Arc::new(SystemClock));
    let source = thalweg_connectors::source(&relation, &context).expect("a valid source");
    let mut best = f64::MAX;
    for _ in 0..RUNS {
        let mut reader = source.open(&Offsets::new()).expect("a reader");
        let (mut rows, start) = (0, cpu_ns());
        while rows < RECORDS_PER_PARTITION * PARTITIONS as u64 {
            rows += reader
                .poll(BUDGET)
                .expect("a poll succeeds")
                .rows
                .num_rows() as u64;
        }
        best = best.min((cpu_ns() - start) as f64 / rows as f64);
    }
    let size = bytes as u64 / (RECORDS_PER_PARTITION * PARTITIONS as u64);
    println!("| | bytes/record | ns/record of the reading thread |");
    println!("|---|---|---|");
    println!("| flat bids from Kafka, one column | {size} | {best:.0} |");
}
