//! Brokers that go, topics that are not there, and records that are gone.
//!
//! Invariant: none of it is an end or a silent gap: reading goes on where it was, or says what is missing.

use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use super::*;

#[tokio::test]
async fn an_outage_is_survived_and_shows_in_health() {
    let broker = Broker::start(1);
    broker.send(0, rows(0..10));
    let options = [("properties.reconnect.backoff.max.ms", "200")];
    let source = broker.source(numbers(), &options);
    let mut reader = source.open(&Offsets::new()).expect("a reader");
    let before = read_to(reader.as_mut(), &offsets(&[("0", 10)]));
    assert_eq!(reader.health(), SourceHealth::Running);

    broker.mock.broker_down(1).expect("the broker stops");
    let during = read_until(reader.as_mut(), |_, reader| {
        matches!(reader.health(), SourceHealth::Degraded(_))
    });
    assert_eq!(during.records, 0);
    // A reader opened during the outage waits as well.
    let mut second = source.open(&offsets(&[("0", 4)])).expect("a reader");
    assert_eq!(
        second.poll(BUDGET).expect("an outage is no error").records,
        0
    );
    assert!(matches!(second.health(), SourceHealth::Degraded(_)));

    broker.mock.broker_up(1).expect("the broker starts");
    broker.send(0, rows(10..20));
    let after = read_to(reader.as_mut(), &offsets(&[("0", 20)]));
    assert_eq!(
        [before.numbers(), after.numbers()].concat(),
        (0..20).collect::<Vec<_>>()
    );
    read_until(reader.as_mut(), |_, reader| {
        reader.health() == SourceHealth::Running
    });
    let tail = read_to(second.as_mut(), &offsets(&[("0", 20)]));
    assert_eq!(tail.numbers(), (4..20).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_topic_that_is_missing_at_open_is_read_once_it_is_there() {
    let broker = Broker::start(0);
    let source = broker.source(numbers(), &[]);
    assert_eq!(
        source
            .resolve_start()
            .await
            .map_err(|error| error.sqlstate()),
        Err("42P01")
    );
    let mut reader = source.open(&Offsets::new()).expect("a reader");
    let missing = format!(
        "topic \"{TOPIC}\" does not exist on broker {}",
        broker.mock.bootstrap_servers()
    );
    read_until(reader.as_mut(), |_, reader| {
        reader.health() == SourceHealth::Degraded(missing.clone())
    });
    broker.mock.create_topic(TOPIC, 1, 1).expect("a topic");
    broker.send(0, rows(0..3));
    assert_eq!(
        read_to(reader.as_mut(), &offsets(&[("0", 3)])).numbers(),
        [0, 1, 2]
    );
}

#[tokio::test]
async fn records_that_retention_has_eaten_are_a_gap() {
    let broker = Broker::start(1);
    // The mock keeps 5 MB of a partition.
    let padding = "x".repeat(100_000);
    broker.send(
        0,
        (0..80).map(|n| format!("{{\"n\":{n},\"pad\":\"{padding}\"}}")),
    );
    let source = broker.source(numbers(), &[]);
    let low = source.resolve_start().await.expect("a start")["0"];
    assert!(low > 10 && low < 80, "the mock has dropped some: {low}");
    let end = offsets(&[("0", 80)]);
    let kept: Vec<i64> = (low as i64..80).collect();

    // A reader still at the source's start has missed nothing.
    assert_eq!(
        read_to(
            source
                .open(&offsets(&[("0", 0)]))
                .expect("a reader")
                .as_mut(),
            &end
        )
        .numbers(),
        kept
    );

    let mut reader = source.open(&offsets(&[("0", 5)])).expect("a reader");
    let deadline = Deadline::after(PATIENCE);
    let error = loop {
        assert!(!deadline.left().is_zero(), "no gap was reported");
        if let Err(error) = reader.poll(BUDGET) {
            break error;
        }
    };
    assert_eq!(error.sqlstate(), "58030");
    assert_eq!(
        error.to_string(),
        "records of topic \"clicks\" partition 0 from offset 5 on are gone"
    );

    let resuming = broker.source(numbers(), &[("on_offset_gap", "resume")]);
    let read = read_to(
        resuming
            .open(&offsets(&[("0", 5)]))
            .expect("a reader")
            .as_mut(),
        &end,
    );
    assert_eq!(read.numbers(), kept);
    assert_eq!(
        read.dead
            .iter()
            .map(|dead| (dead.reason.as_str(), dead.offset))
            .collect::<Vec<_>>(),
        [("gap", 5)]
    );
}

#[tokio::test]
async fn a_position_beyond_the_end_is_a_gap() {
    let broker = Broker::start(1);
    broker.send(0, rows(0..3));
    let resuming = broker.source(numbers(), &[("on_offset_gap", "resume")]);
    let mut reader = resuming.open(&offsets(&[("0", 1000)])).expect("a reader");
    let read = read_until(reader.as_mut(), |read, _| read.at.get("0") == Some(&3));
    assert_eq!(read.numbers(), [0, 1, 2]);
    assert_eq!(read.dead.len(), 1);
}

#[tokio::test]
async fn an_unreachable_broker_is_named_without_secrets() {
    let options = [("properties.sasl.password", "hunter2")];
    // Nothing listens on the discard port.
    let source = source_at("127.0.0.1:9", numbers(), &options, &[]).expect("a valid source");
    let report = source
        .resolve_start()
        .await
        .expect_err("nobody there")
        .report();
    assert_eq!(report.sqlstate, "08001");
    assert_eq!(report.message, "could not reach Kafka broker 127.0.0.1:9");
    assert!(!format!("{report:?} {source:?}").contains("hunter2"));
}

/// The broker says that one partition is not known, as it does for a moment after a topic was made, and what is found when it is asked
/// again is older than what has been read since: nobody goes back, and nothing is said to be gone.
#[tokio::test]
async fn an_end_that_is_older_than_what_was_read_is_no_gap() {
    let broker = Broker::start(2);
    broker.send(0, rows(0..300));
    let mut reader = small_reader(&broker, &[("on_offset_gap", "resume")]);
    let unknown = KafkaError::MessageConsumption(RDKafkaErrorCode::UnknownTopicOrPartition);
    let extents = [0, 1].map(|partition| (partition, client::Extent { low: 0, high: 10 }));
    let mut told = [(50, Some(1)), (100, Some(0)), (150, None)]
        .into_iter()
        .peekable();
    let deadline = Deadline::after(PATIENCE);
    let mut read = Read::default();
    while read.rows() < 300 {
        assert!(!deadline.left().is_zero(), "not in time: {:?}", read.at);
        read.add(reader.poll(SMALL).expect("that passes"));
        if let Some((_, partition)) = told.next_if(|(rows, _)| read.rows() >= *rows) {
            reader.on_event(partition, &unknown).expect("that passes");
            read.add(reader.poll(SMALL).expect("that passes"));
            let survey = survey::Survey {
                number: u64::MAX,
                outcome: Ok(extents.into()),
            };
            let mut gathered = reader::Gathered::default();
            reader.learn(&survey, &mut gathered).expect("no gap");
            assert!(gathered.is_empty());
        }
    }
    assert_eq!(read.numbers(), (0..300).collect::<Vec<_>>());
    assert!(read.dead.is_empty() && told.next().is_none());
}
