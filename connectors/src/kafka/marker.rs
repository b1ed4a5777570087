//! The topic `_thalweg_commits`, where the transaction of every delivery says how far its sink has come.
//!
//! Invariant: a marker is read as committed only after every transaction that was open when reading began has ended, so the
//! newest marker of a writer that is shut out is the newest there will ever be.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, ResourceSpecifier, TopicReplication};
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
/// Its partition for them, so that those of one sink are in order however many partitions it has, or gets.
pub(super) const MARKER_PARTITION: i32 = 0;
/// How long a broker may take to answer one question.
const ANSWER_WAIT: Duration = Duration::from_secs(10);
/// How long transactions of others may stay open: theirs end by themselves after the transaction timeout.
const STABLE_WAIT: Duration = Duration::from_secs(70);
/// Pause between questions about that.
const STABLE_PAUSE: Duration = Duration::from_millis(20);

/// A marker as it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Written {
    epoch: u64,
    part: u32,
    last: bool,
    /// Where it is, when whoever wrote it chose that.
    partition: Option<i32>,
}

impl Written {
    fn marker(&self) -> Marker {
        let Written {
            epoch, part, last, ..
        } = *self;
        Marker { epoch, part, last }
    }
}

/// The value of a marker's message, which belongs into [`MARKER_PARTITION`].
pub(super) fn encode(marker: Marker) -> Vec<u8> {
    let Marker { epoch, part, last } = marker;
    format!(
        "{{\"epoch\":{epoch},\"part\":{part},\"last\":{last},\"partition\":{MARKER_PARTITION}}}"
    )
    .into_bytes()
}

fn decode(value: &[u8]) -> Result<Written, ConnectorError> {
    serde_json::from_slice(value).map_err(|error| ConnectorError::Kafka {
        detail: format!("a message of topic \"{MARKER_TOPIC}\" is not a marker: {error}"),
    })
}

/// Makes the topic where it is missing.
///
/// # Errors
/// `MarkerTopic` when it cannot be made, `MarkersExpire` when the topic that is there loses markers.
pub(super) async fn ensure_topic(options: &KafkaOptions) -> Result<(), ConnectorError> {
    let there = options.for_topic(MARKER_TOPIC);
    let asked = tokio::task::spawn_blocking(move || Cluster::new(&there)?.partitions()).await;
    let missing = match asked.map_err(stopped)? {
        Ok(_) => false,
        Err(ConnectorError::TopicMissing { .. }) => true,
        Err(error) => return Err(error),
    };
    let admin: AdminClient<Quiet> = options
        .asking()
        .create_with_context(Quiet)
        .map_err(|error| client_error(&error))?;
    let ensured = match missing {
        true => make_topic(options, &admin).await,
        false => check_kept(options, &admin).await,
    };
    drop(tokio::task::spawn_blocking(move || drop(admin)));
    ensured
}

async fn make_topic(
    options: &KafkaOptions,
    admin: &AdminClient<Quiet>,
) -> Result<(), ConnectorError> {
    // -1: as many replicas as the broker gives to topics by default.
    let topic = NewTopic::new(MARKER_TOPIC, 1, TopicReplication::Fixed(-1))
        .set("cleanup.policy", "compact");
    let wait = AdminOptions::new()
        .request_timeout(Some(ANSWER_WAIT))
        .operation_timeout(Some(ANSWER_WAIT));
    let made = admin.create_topics([&topic], &wait).await;
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

/// Refuses a topic that removes markers by age or size. Whoever may not ask for its configuration is trusted to have set it.
async fn check_kept(
    options: &KafkaOptions,
    admin: &AdminClient<Quiet>,
) -> Result<(), ConnectorError> {
    let topic = ResourceSpecifier::Topic(MARKER_TOPIC);
    let wait = AdminOptions::new().request_timeout(Some(ANSWER_WAIT));
    let asked = admin.describe_configs([&topic], &wait).await;
    let answer = asked.and_then(|mut answers| match answers.pop() {
        Some(Err(code)) => Err(KafkaError::AdminOp(code)),
        Some(Ok(described)) => Ok(Some(described)),
        None => Ok(None),
    });
    let described = match answer {
        Ok(described) => described,
        Err(error) => {
            tracing::debug!(%error, "the configuration of the topic of markers is not known");
            None
        }
    };
    let Some(described) = described else {
        return Ok(());
    };
    match removes(|name| described.get(name)?.value.as_deref()) {
        None => Ok(()),
        Some(policy) => Err(ConnectorError::MarkersExpire {
            topic: MARKER_TOPIC.to_owned(),
            brokers: options.brokers.clone(),
            policy,
        }),
    }
}

/// The cleanup policy of a topic, by the values of its configuration, when it removes the newest record of a key.
fn removes<'a>(value: impl Fn(&str) -> Option<&'a str>) -> Option<String> {
    let policy = value("cleanup.policy")?;
    let deletes = policy.split(',').any(|word| word.trim() == "delete");
    let bounds = ["retention.ms", "retention.bytes"];
    let bounded = bounds.iter().any(|name| value(name) != Some("-1"));
    (deletes && bounded).then(|| policy.to_owned())
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
    let partitions = Cluster::new(&options)?.partitions()?;
    let committed = client(options.reading(), "read_committed")?;
    let from = settled(&options, &committed, &partitions)?;
    committed.assign(&from).map_err(failed)?;
    let mut unread: BTreeSet<i32> = partitions.into_iter().collect();
    // The last of each partition.
    let mut last = BTreeMap::new();
    while !unread.is_empty() {
        match committed.poll(ANSWER_WAIT) {
            Some(Ok(message)) => {
                if message.key() == Some(writer.as_bytes()) {
                    let written = message.payload().map(decode).transpose()?;
                    last.insert(message.partition(), written);
                }
            }
            Some(Err(KafkaError::PartitionEOF(partition))) => drop(unread.remove(&partition)),
            Some(Err(error)) => return Err(failed(error)),
            None => {
                return Err(ConnectorError::BrokerUnreachable {
                    brokers: options.brokers.clone(),
                    detail: "The markers of sinks could not be read in time.".into(),
                });
            }
        }
    }
    Ok(newest_of(last.into_values().flatten()))
}

/// The newest of markers that are the last of their partitions. One that names its partition is newer than one that does not,
/// which was written when the client still chose by the key and the number of partitions.
fn newest_of(last: impl Iterator<Item = Written>) -> Option<Marker> {
    let newest = last.max_by_key(|written| (written.partition.is_some(), written.marker()));
    newest.map(|written| written.marker())
}

fn client(mut config: ClientConfig, isolation: &str) -> Result<BaseConsumer, ConnectorError> {
    config.set("isolation.level", isolation);
    config.create().map_err(|error| client_error(&error))
}

/// Waits until every transaction that is open now has ended; gives where the partitions begin.
fn settled(
    options: &KafkaOptions,
    committed: &BaseConsumer,
    partitions: &[i32],
) -> Result<TopicPartitionList, ConnectorError> {
    let failed = |error: KafkaError| explain(options, &error);
    let extent = |client: &BaseConsumer, partition: i32| {
        with_leader(|| client.fetch_watermarks(MARKER_TOPIC, partition, ANSWER_WAIT))
            .map_err(failed)
    };
    let all = client(options.asking(), "read_uncommitted")?;
    let ends = partitions.iter().map(|partition| extent(&all, *partition));
    let ends = ends.collect::<Result<Vec<_>, _>>()?;
    let deadline = Deadline::after(STABLE_WAIT);
    let mut from = TopicPartitionList::new();
    for (partition, (_, end)) in partitions.iter().zip(ends) {
        let low = loop {
            let (low, stable) = extent(committed, *partition)?;
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
        from.add_partition_offset(MARKER_TOPIC, *partition, Offset::Offset(low))
            .map_err(failed)?;
    }
    Ok(from)
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
            let written = decode(&encode(marker)).expect("decodes");
            assert_eq!(written.marker(), marker);
            assert_eq!(written.partition, Some(0));
        }
        assert!(decode(b"{\"epoch\":1}").is_err() && decode(b"\xff").is_err());
    }

    /// Those of before are where the key led to, in a topic that may have got partitions since; what came later is in one place.
    #[test]
    fn the_newest_marker_is_found_wherever_it_is() {
        let read = |texts: &[&str]| {
            let written = texts.iter().map(|text| decode(text.as_bytes()));
            newest_of(written.map(|written| written.expect("decodes")))
        };
        let marker = |epoch| Marker {
            epoch,
            part: 0,
            last: true,
        };
        let before = [
            "{\"epoch\":3,\"part\":0,\"last\":true}",
            "{\"epoch\":9,\"part\":0,\"last\":true}",
            "{\"epoch\":7,\"part\":2,\"last\":false}",
        ];
        assert_eq!(read(&[]), None);
        assert_eq!(read(&before), Some(marker(9)));
        // A sink over a restored data dir begins again at an earlier epoch.
        let now = String::from_utf8(encode(marker(4))).expect("text");
        assert_eq!(read(&[now.as_str(), before[1], before[2]]), Some(marker(4)));
    }

    #[test]
    fn a_topic_that_removes_markers_is_known_by_its_configuration() {
        let cases = [
            ("compact", "604800000", "-1", false),
            ("delete", "604800000", "-1", true),
            ("delete", "-1", "1000000", true),
            ("compact,delete", "604800000", "-1", true),
            ("delete", "-1", "-1", false),
        ];
        for (policy, ms, bytes, lost) in cases {
            let value = |name: &str| match name {
                "cleanup.policy" => Some(policy),
                "retention.ms" => Some(ms),
                "retention.bytes" => Some(bytes),
                _ => None,
            };
            assert_eq!(removes(value), lost.then(|| policy.to_owned()));
        }
        assert_eq!(removes(|_| None), None);
    }
}
