//! The reader against librdkafka's mock cluster: start modes, message parts, bad records, outages, gaps, restarts.
//!
//! The mock knows nothing of transactions, timestamps or added partitions; `tests/real_kafka.rs` covers those.

use std::time::Duration;

use arrow::array::AsArray;
use arrow::datatypes::{Int32Type, Int64Type, TimestampMicrosecondType};
use arrow::record_batch::RecordBatch;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{BaseProducer, BaseRecord, DefaultProducerContext, Producer};
use thalweg_catalog::{ColumnRole, SqlType};

use super::*;
use crate::context::{Deadline, SystemClock};
use crate::source::{Budget, DeadLetter, SourceBatch, SourceHealth};
use crate::testing::{column, source_relation};

mod outages;

const BUDGET: Budget = Budget {
    rows: 500,
    bytes: 1 << 20,
    time: Duration::from_millis(50),
};
/// Far beyond what any condition here takes on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(30);
const TOPIC: &str = "clicks";

struct Broker {
    mock: MockCluster<'static, DefaultProducerContext>,
    producer: BaseProducer,
}

impl Broker {
    fn start(partitions: i32) -> Self {
        let mock = MockCluster::new(1).expect("a mock cluster");
        if partitions > 0 {
            mock.create_topic(TOPIC, partitions, 1).expect("a topic");
        }
        let producer = rdkafka::ClientConfig::new()
            .set("bootstrap.servers", mock.bootstrap_servers())
            .create()
            .expect("a producer");
        Self { mock, producer }
    }

    fn send(&self, partition: i32, payloads: impl IntoIterator<Item = String>) {
        for payload in payloads {
            let record: BaseRecord<'_, (), String> =
                BaseRecord::to(TOPIC).partition(partition).payload(&payload);
            self.producer
                .send(record)
                .map_err(|(error, _)| error)
                .expect("a queued record");
        }
        self.producer.flush(PATIENCE).expect("delivered records");
    }

    fn source(&self, columns: Vec<Column>, options: &[(&str, &str)]) -> KafkaSource {
        source_at(&self.mock.bootstrap_servers(), columns, options, &[]).expect("a valid source")
    }
}

fn source_at(
    brokers: &str,
    columns: Vec<Column>,
    options: &[(&str, &str)],
    start: &[(&str, u64)],
) -> Result<KafkaSource, ConnectorError> {
    let mut map: BTreeMap<String, String> = options
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect();
    map.insert("properties.bootstrap.server".into(), brokers.into());
    map.insert("topic".into(), TOPIC.into());
    let (relation, mut spec) = source_relation("kafka", columns, map, 0);
    spec.start = offsets(start);
    KafkaSource::new(
        &relation,
        &spec,
        &ConnectorContext::new(Arc::new(SystemClock)),
    )
}

fn numbers() -> Vec<Column> {
    vec![column("n", SqlType::Int8)]
}

fn rows(range: std::ops::Range<i64>) -> impl Iterator<Item = String> {
    range.map(|n| format!("{{\"n\":{n}}}"))
}

fn offsets(of: &[(&str, u64)]) -> Offsets {
    of.iter()
        .map(|(split, offset)| ((*split).to_owned(), *offset))
        .collect()
}

/// Everything a reader handed over.
#[derive(Debug, Default)]
struct Read {
    batches: Vec<RecordBatch>,
    dead: Vec<DeadLetter>,
    at: Offsets,
    records: u64,
    skipped: u64,
}

impl Read {
    fn add(&mut self, batch: SourceBatch) {
        self.batches.push(batch.rows);
        self.dead.extend(batch.dead);
        self.at.extend(batch.offsets);
        self.records += batch.records;
        self.skipped += batch.skipped;
    }

    fn numbers(&self) -> Vec<i64> {
        let columns = self
            .batches
            .iter()
            .map(|batch| batch.column(0).as_primitive::<Int64Type>());
        columns
            .flat_map(|column| column.values().to_vec())
            .collect()
    }

    fn rows(&self) -> usize {
        self.batches.iter().map(RecordBatch::num_rows).sum()
    }
}

/// Polls until `done`, or panics with what there is.
fn read_until(
    reader: &mut dyn SourceReader,
    done: impl Fn(&Read, &dyn SourceReader) -> bool,
) -> Read {
    let deadline = Deadline::after(PATIENCE);
    let mut read = Read::default();
    while !done(&read, reader) {
        assert!(
            !deadline.left().is_zero(),
            "not in time: {read:?}, {:?}",
            reader.health()
        );
        read.add(reader.poll(BUDGET).expect("a poll succeeds"));
    }
    read
}

fn read_to(reader: &mut dyn SourceReader, end: &Offsets) -> Read {
    read_until(reader, |read, _| {
        end.iter()
            .all(|(split, end)| read.at.get(split).unwrap_or(&0) >= end)
    })
}

#[tokio::test]
async fn start_modes_are_resolved_once() {
    let broker = Broker::start(2);
    broker.send(0, rows(0..10));
    broker.send(1, rows(10..15));
    for (options, expected) in [
        (vec![], [("0", 0), ("1", 0)]),
        (vec![("scan.startup.mode", "latest")], [("0", 10), ("1", 5)]),
        (vec![("scan.startup.offsets", "1:3")], [("0", 0), ("1", 3)]),
        (
            vec![("scan.startup.offsets", "0:10,1:0")],
            [("0", 10), ("1", 0)],
        ),
    ] {
        let source = broker.source(numbers(), &options);
        assert_eq!(
            source.resolve_start().await,
            Ok(offsets(&expected)),
            "{options:?}"
        );
        assert_eq!(
            source.end_offsets().await,
            Ok(offsets(&[("0", 10), ("1", 5)]))
        );
    }
    for bad in ["0:11", "7:0"] {
        let source = broker.source(numbers(), &[("scan.startup.offsets", bad)]);
        let error = source
            .resolve_start()
            .await
            .expect_err("there is no such place");
        assert_eq!(error.sqlstate(), "22023", "{bad}");
    }
}

#[tokio::test]
async fn reading_stops_and_goes_on_at_any_offset() {
    let broker = Broker::start(2);
    broker.send(0, rows(0..2000));
    broker.send(1, rows(2000..2100));
    let source = broker.source(numbers(), &[]);
    let end = source.end_offsets().await.expect("ends");
    let start = source.resolve_start().await.expect("a start");

    let mut reader = source.open(&start).expect("a reader");
    let first = read_until(reader.as_mut(), |read, _| read.records > 700);
    assert!(
        first
            .batches
            .iter()
            .all(|batch| batch.num_rows() <= BUDGET.rows)
    );
    drop(reader);
    let mut at = start;
    at.extend(first.at.clone());
    let mut reader = source.open(&at).expect("a reader");
    let second = read_to(reader.as_mut(), &end);

    let mut all = [first.numbers(), second.numbers()].concat();
    let order: Vec<i64> = all.iter().copied().filter(|n| *n < 2000).collect();
    assert!(order.is_sorted(), "a split is read in order");
    all.sort_unstable();
    assert_eq!(all, (0..2100).collect::<Vec<_>>());
    assert_eq!(second.at, end);
    assert_eq!(reader.health(), SourceHealth::Running);
    assert_eq!(reader.high_watermarks(), end);
}

#[tokio::test]
#[expect(
    clippy::too_many_lines,
    reason = "one message with every part, and what each part becomes"
)]
async fn message_parts_tombstones_and_bad_records() {
    let broker = Broker::start(1);
    let headers = OwnedHeaders::new()
        .insert(Header {
            key: "trace",
            value: Some("t1"),
        })
        .insert(Header {
            key: "raw",
            value: Some(&[0xff_u8, 0]),
        })
        .insert(Header {
            key: "none",
            value: None::<&str>,
        });
    let full = BaseRecord::to(TOPIC)
        .partition(0)
        .key("k1")
        .payload("{\"n\":1}")
        .headers(headers)
        .timestamp(1_700_000_000_123);
    broker
        .producer
        .send(full)
        .map_err(|(error, _)| error)
        .expect("a queued record");
    let tombstone: BaseRecord<'_, str, str> = BaseRecord::to(TOPIC).partition(0).key("k1");
    broker
        .producer
        .send(tombstone)
        .map_err(|(error, _)| error)
        .expect("a queued record");
    broker.producer.flush(PATIENCE).expect("delivered records");
    broker.send(
        0,
        ["{\"n\":\"bad\"}", "nonsense", "", "[]", "{\"n\":2}"].map(str::to_owned),
    );

    let included = [
        ("k", SqlType::Bytea, ColumnRole::Key),
        ("p", SqlType::Int4, ColumnRole::Partition),
        ("o", SqlType::Int8, ColumnRole::Offset),
        ("ts", SqlType::Timestamptz, ColumnRole::Timestamp),
        ("trace", SqlType::Bytea, ColumnRole::Header("trace".into())),
        ("h", SqlType::Jsonb, ColumnRole::Headers),
        ("raw", SqlType::Bytea, ColumnRole::Payload),
    ];
    let mut columns = numbers();
    columns.extend(included.map(|(name, ty, role)| Column {
        role,
        ..column(name, ty)
    }));
    let source = broker.source(columns, &[]);
    let mut reader = source.open(&Offsets::new()).expect("a reader");
    let read = read_to(reader.as_mut(), &offsets(&[("0", 7)]));

    assert_eq!(
        (read.records, read.skipped, read.dead.len(), read.rows()),
        (7, 1, 4, 2)
    );
    assert_eq!(read.numbers(), [1, 2]);
    let first = read
        .batches
        .iter()
        .find(|batch| batch.num_rows() > 0)
        .expect("a batch with rows");
    assert_eq!(first.column(1).as_binary::<i32>().value(0), b"k1");
    assert_eq!(first.column(2).as_primitive::<Int32Type>().value(0), 0);
    assert_eq!(first.column(3).as_primitive::<Int64Type>().value(0), 0);
    let at_us = first
        .column(4)
        .as_primitive::<TimestampMicrosecondType>()
        .value(0);
    assert_eq!(at_us, 1_700_000_000_123_000);
    assert_eq!(first.column(5).as_binary::<i32>().value(0), b"t1");
    assert_eq!(
        first.column(6).as_string_view().value(0),
        r#"{"none":null,"raw":"/wA=","trace":"t1"}"#
    );
    assert_eq!(first.column(7).as_binary::<i32>().value(0), b"{\"n\":1}");

    let dead = &read.dead[0];
    assert_eq!(
        (
            dead.reason.as_str(),
            dead.offset,
            dead.partition,
            dead.topic.as_str()
        ),
        ("decode", 2, 0, TOPIC)
    );
    assert_eq!(dead.message, "column \"n\": expected bigint, got \"bad\"");
    assert_eq!(dead.payload.as_deref(), Some(b"{\"n\":\"bad\"}".as_slice()));
    assert!(read.dead.iter().map(|dead| dead.offset).eq(2..6));
}

#[tokio::test]
async fn a_batch_may_hold_tombstones_empty_records_and_the_end() {
    let broker = Broker::start(1);
    let mut expected = Vec::new();
    for n in 0..300 {
        if n % 7 == 3 {
            let tombstone: BaseRecord<'_, str, str> = BaseRecord::to(TOPIC).partition(0).key("k");
            let sent = broker.producer.send(tombstone);
            sent.map_err(|(error, _)| error).expect("a queued record");
        } else {
            let empty = n % 11 == 5;
            expected.extend((!empty).then_some(n));
            let payload = if empty {
                String::new()
            } else {
                format!("{{\"n\":{n}}}")
            };
            broker.send(0, [payload]);
        }
    }
    broker.producer.flush(PATIENCE).expect("delivered records");
    let source = broker.source(numbers(), &[]);
    let mut reader = source.open(&Offsets::new()).expect("a reader");
    let read = read_to(reader.as_mut(), &offsets(&[("0", 300)]));
    assert_eq!(read.numbers(), expected);
    assert_eq!((read.records, read.skipped), (300, 43));
    let empty = |dead: &DeadLetter| dead.payload.as_deref() == Some(&[]);
    assert!(
        read.dead.iter().all(empty),
        "an empty record is not a tombstone"
    );
    assert_eq!(expected.len() + read.dead.len() + 43, 300);
}

/// A reader whose polls end in the middle of what it has taken, because the budget is in bytes.
fn small_reader(broker: &Broker, options: &[(&str, &str)]) -> reader::KafkaReader {
    let source = broker.source(numbers(), options);
    reader::KafkaReader::open(
        Arc::clone(&source.options),
        source.cluster().expect("a client"),
        row::RowBuilder::new(&source.columns, source.json).expect("a builder"),
        BTreeMap::new(),
        BTreeMap::new(),
        Arc::clone(&source.clock),
    )
    .expect("a reader")
}

const SMALL: Budget = Budget {
    rows: 500,
    bytes: 100,
    time: Duration::from_millis(50),
};

#[tokio::test]
async fn offsets_claim_what_was_handed_over_and_not_what_was_taken() {
    let broker = Broker::start(1);
    broker.send(0, rows(0..400));
    let mut reader = small_reader(&broker, &[]);
    let deadline = Deadline::after(PATIENCE);
    let mut read = Read::default();
    while read.rows() < 400 {
        assert!(!deadline.left().is_zero(), "not in time: {:?}", read.at);
        let batch = reader.poll(SMALL).expect("a poll succeeds");
        assert!(batch.records < 30, "the budget ends a poll");
        read.add(batch);
        let next = read.at.get("0").copied().unwrap_or(0);
        assert_eq!(next, read.rows() as u64, "the offset is where the rows are");
    }
    assert_eq!(read.numbers(), (0..400).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_new_assignment_in_the_middle_of_a_batch_loses_and_doubles_nothing() {
    let broker = Broker::start(2);
    broker.send(0, rows(0..300));
    broker.send(1, rows(300..400));
    let mut reader = small_reader(&broker, &[]);
    let deadline = Deadline::after(PATIENCE);
    let (mut read, mut polls) = (Read::default(), 0);
    while read.at != offsets(&[("0", 300), ("1", 100)]) {
        assert!(!deadline.left().is_zero(), "not in time: {:?}", read.at);
        read.add(reader.poll(SMALL).expect("a poll succeeds"));
        polls += 1;
        // The ends of both partitions were taken with their records by now, and must not be believed.
        if polls % 5 == 0 && read.rows() < 350 {
            reader.assign().expect("an assignment");
        }
    }
    let mut all = read.numbers();
    for part in [0..300, 300..400] {
        let part: Vec<i64> = all.iter().copied().filter(|n| part.contains(n)).collect();
        assert!(part.is_sorted(), "a split is read in order");
    }
    all.sort_unstable();
    assert_eq!(all, (0..400).collect::<Vec<_>>());
}

#[tokio::test]
async fn an_error_among_the_messages_loses_nothing() {
    let broker = Broker::start(1);
    broker.send(0, rows(0..50));
    let mut reader = small_reader(&broker, &[]);
    let deadline = Deadline::after(PATIENCE);
    let mut read = Read::default();
    let refused =
        rdkafka::bindings::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED;
    let fine = rdkafka::bindings::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR;
    while read.rows() < 200 {
        assert!(!deadline.left().is_zero(), "not in time: {:?}", read.at);
        let before = read.rows();
        read.add(reader.poll(SMALL).expect("a refusal is waited out"));
        for threshold in [50, 100, 150] {
            if before < threshold && read.rows() >= threshold {
                // The error comes behind records that were fetched before it, and goes again.
                broker.send(0, rows(threshold as i64..threshold as i64 + 50));
                broker.mock.topic_error(TOPIC, refused).expect("an error");
                read.add(reader.poll(SMALL).expect("a refusal is waited out"));
                broker.mock.topic_error(TOPIC, fine).expect("no error");
            }
        }
    }
    assert_eq!(read.numbers(), (0..200).collect::<Vec<_>>());
    assert!(read.dead.is_empty());
}

#[test]
fn what_is_not_built_is_refused_at_once() {
    let options = BTreeMap::from([
        (
            "properties.bootstrap.server".to_owned(),
            "b:9092".to_owned(),
        ),
        ("topic".to_owned(), TOPIC.to_owned()),
    ]);
    let (relation, spec) = source_relation("kafka", numbers(), options, 0);
    let context = ConnectorContext::new(Arc::new(SystemClock));
    for (format, encode) in [("UPSERT", "JSON"), ("DEBEZIUM", "JSON"), ("PLAIN", "AVRO")] {
        let spec = ConnectorSpec {
            format: format.into(),
            encode: encode.into(),
            ..spec.clone()
        };
        let error = KafkaSource::new(&relation, &spec, &context).expect_err("not built");
        assert_eq!(error.sqlstate(), "0A000");
    }
    let bad = Column {
        role: ColumnRole::Offset,
        ..column("o", SqlType::Text)
    };
    let error = source_at("b:9092", vec![bad], &[], &[]).expect_err("an offset is no text");
    assert_eq!(error.sqlstate(), "42804");
}
