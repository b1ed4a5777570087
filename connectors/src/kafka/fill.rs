//! Fills a topic with Nexmark events, for benchmarks.
//!
//! Invariant: a topic is left as it is when it holds as many records as asked for, and refused when it holds others.

use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};

use super::client::{client_error, with_leader};
use crate::error::ConnectorError;
use crate::nexmark::NexmarkText;

const PARTITIONS: i32 = 4;
const WAIT: Duration = Duration::from_secs(10);
const FLUSH_WAIT: Duration = Duration::from_secs(120);

/// Makes sure that a topic holds the first `events` Nexmark events as JSON, spread over four partitions.
///
/// # Errors
/// What the broker answers, and 22023 for a topic that holds something else.
pub async fn fill_with_nexmark(
    brokers: &str,
    topic: &str,
    events: u64,
    seed: u64,
) -> Result<(), ConnectorError> {
    let failed = |error: KafkaError| client_error(&error);
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", brokers);
    let admin: AdminClient<DefaultClientContext> = config.create().map_err(failed)?;
    let new = NewTopic::new(topic, PARTITIONS, TopicReplication::Fixed(1));
    let options = AdminOptions::new().operation_timeout(Some(WAIT));
    let created = admin
        .create_topics([&new], &options)
        .await
        .map_err(failed)?;
    for outcome in created {
        match outcome {
            Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
            Err((_, code)) => return Err(failed(KafkaError::AdminOp(code))),
        }
    }
    let (topic, brokers) = (topic.to_owned(), brokers.to_owned());
    let filled = tokio::task::spawn_blocking(move || fill(&config, &brokers, &topic, events, seed));
    filled.await.unwrap_or_else(|_| {
        Err(ConnectorError::Internal(
            "filling a topic stopped at a broken invariant".into(),
        ))
    })
}

fn fill(
    config: &ClientConfig,
    brokers: &str,
    topic: &str,
    events: u64,
    seed: u64,
) -> Result<(), ConnectorError> {
    let failed = |error: KafkaError| client_error(&error);
    let consumer: BaseConsumer = config.create().map_err(failed)?;
    let mut held = 0;
    for partition in 0..PARTITIONS {
        let (low, high) =
            with_leader(|| consumer.fetch_watermarks(topic, partition, WAIT)).map_err(failed)?;
        held += u64::try_from(high - low).unwrap_or(0);
    }
    if held == events {
        return Ok(());
    }
    if held > 0 {
        return Err(ConnectorError::option_hint(
            format!("topic \"{topic}\" at {brokers} holds {held} records, not {events}"),
            "Delete the topic, or use another broker.",
        ));
    }
    let producer: BaseProducer = config
        .clone()
        .set("linger.ms", "20")
        .set("queue.buffering.max.messages", "500000")
        .create()
        .map_err(failed)?;
    let (text, mut payload) = (NexmarkText::new(seed), Vec::new());
    for event in 0..events {
        payload.clear();
        text.append_event(event, &mut payload);
        let partition = i32::try_from(event % PARTITIONS as u64).unwrap_or(0);
        let mut record: BaseRecord<'_, (), [u8]> =
            BaseRecord::to(topic).partition(partition).payload(&payload);
        while let Err((error, back)) = producer.send(record) {
            if error.rdkafka_error_code() != Some(RDKafkaErrorCode::QueueFull) {
                return Err(failed(error));
            }
            producer.poll(Duration::from_millis(10));
            record = back;
        }
    }
    producer.flush(FLUSH_WAIT).map_err(failed)
}
