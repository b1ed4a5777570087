//! The topic `_thalweg_commits`, where the transaction of every delivery says how far its sink has come.
//!
//! Invariant: a marker is read as committed only after every transaction that was open when reading began has ended, so the
//! newest marker of a writer that is shut out is the newest there will ever be.

use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message as _;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use serde::{Deserialize, Serialize};

use super::client::{Cluster, client_error, with_leader};
use super::options::KafkaOptions;
use super::sink::{Quiet, explain};
use crate::commit::Marker;
use crate::context::Deadline;
use crate::error::ConnectorError;

/// Where the markers of all sinks are.
pub(super) const MARKER_TOPIC: &str = "_thalweg_commits";
/// How long a broker may take to answer one question.
const ANSWER_WAIT: Duration = Duration::from_secs(10);
/// How long transactions of others may stay open: theirs end by themselves after the transaction timeout.
const STABLE_WAIT: Duration = Duration::from_secs(70);
/// Pause between questions about that.
const STABLE_PAUSE: Duration = Duration::from_millis(20);

/// A marker as it is written.
#[derive(Debug, Serialize, Deserialize)]
struct Written {
    epoch: u64,
    part: u32,
    last: bool,
}

/// The value of a marker's message.
pub(super) fn encode(marker: Marker) -> Vec<u8> {
    let Marker { epoch, part, last } = marker;
    format!("{{\"epoch\":{epoch},\"part\":{part},\"last\":{last}}}").into_bytes()
}

fn decode(value: &[u8]) -> Result<Marker, ConnectorError> {
    match serde_json::from_slice(value) {
        Ok(Written { epoch, part, last }) => Ok(Marker { epoch, part, last }),
        Err(error) => Err(ConnectorError::Kafka {
            detail: format!("a message of topic \"{MARKER_TOPIC}\" is not a marker: {error}"),
        }),
    }
}

/// Makes the topic where it is missing.
pub(super) async fn ensure_topic(options: &KafkaOptions) -> Result<(), ConnectorError> {
    let there = options.for_topic(MARKER_TOPIC);
    let asked = tokio::task::spawn_blocking(move || Cluster::new(&there)?.partitions()).await;
    match asked.map_err(stopped)? {
        Ok(_) => return Ok(()),
        Err(ConnectorError::TopicMissing { .. }) => {}
        Err(error) => return Err(error),
    }
    let admin: AdminClient<Quiet> = options
        .asking()
        .create_with_context(Quiet)
        .map_err(|error| client_error(&error))?;
    // -1: as many replicas as the broker gives to topics by default.
    let topic = NewTopic::new(MARKER_TOPIC, 1, TopicReplication::Fixed(-1))
        .set("cleanup.policy", "compact");
    let wait = AdminOptions::new()
        .request_timeout(Some(ANSWER_WAIT))
        .operation_timeout(Some(ANSWER_WAIT));
    let made = admin.create_topics([&topic], &wait).await;
    drop(tokio::task::spawn_blocking(move || drop(admin)));
    let refused = |detail: String| ConnectorError::MarkerTopic {
        topic: MARKER_TOPIC.to_owned(),
        brokers: options.brokers.clone(),
        detail,
    };
    for result in made.map_err(|error| refused(error.to_string()))? {
        match result {
            Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
            Err((_, code)) => return Err(refused(code.to_string())),
        }
    }
    Ok(())
}

pub(super) fn stopped(error: tokio::task::JoinError) -> ConnectorError {
    ConnectorError::Internal(format!("a Kafka request stopped: {error}"))
}

/// The newest committed marker of a writer that nobody goes by any more. Blocks.
pub(super) fn newest(
    options: &KafkaOptions,
    writer: &str,
) -> Result<Option<Marker>, ConnectorError> {
    let options = options.for_topic(MARKER_TOPIC);
    let failed = |error: KafkaError| explain(&options, &error);
    let client =
        |mut config: ClientConfig, isolation: &str| -> Result<BaseConsumer, ConnectorError> {
            config.set("isolation.level", isolation);
            config.create().map_err(|error| client_error(&error))
        };
    let extent = |client: &BaseConsumer| {
        with_leader(|| client.fetch_watermarks(MARKER_TOPIC, 0, ANSWER_WAIT)).map_err(failed)
    };
    let (_, end) = extent(&client(options.asking(), "read_uncommitted")?)?;
    let committed = client(options.reading(), "read_committed")?;
    let deadline = Deadline::after(STABLE_WAIT);
    let low = loop {
        let (low, stable) = extent(&committed)?;
        if stable >= end {
            break low;
        }
        if deadline.left().is_zero() {
            return Err(ConnectorError::Kafka {
                detail: format!(
                    "a transaction in topic \"{MARKER_TOPIC}\" has been open for {} s",
                    STABLE_WAIT.as_secs()
                ),
            });
        }
        std::thread::sleep(STABLE_PAUSE);
    };
    let mut from = TopicPartitionList::new();
    from.add_partition_offset(MARKER_TOPIC, 0, Offset::Offset(low))
        .map_err(failed)?;
    committed.assign(&from).map_err(failed)?;
    let mut newest = None;
    loop {
        match committed.poll(ANSWER_WAIT) {
            Some(Ok(message)) => {
                if message.key() == Some(writer.as_bytes()) {
                    newest = message.payload().map(decode).transpose()?;
                }
            }
            Some(Err(KafkaError::PartitionEOF(_))) => return Ok(newest),
            Some(Err(error)) => return Err(failed(error)),
            None => {
                return Err(ConnectorError::BrokerUnreachable {
                    brokers: options.brokers.clone(),
                    detail: "The markers of sinks could not be read in time.".into(),
                });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_marker_is_read_back() {
        for marker in [
            Marker::default(),
            Marker {
                epoch: u64::MAX,
                part: u32::MAX,
                last: true,
            },
        ] {
            assert_eq!(decode(&encode(marker)).expect("decodes"), marker);
        }
        assert!(decode(b"{\"epoch\":1}").is_err() && decode(b"\xff").is_err());
    }
}
