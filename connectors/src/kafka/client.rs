//! Questions to a Kafka cluster about one topic, and what its answers mean to us.
//!
//! Invariant: every call returns within a few [`ANSWER_WAIT`]s. Calls block; none of them runs on a worker or an async thread.

use std::collections::BTreeMap;
use std::time::Duration;

use parking_lot::Mutex;
use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::statistics::Statistics;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use super::options::KafkaOptions;
use crate::context::Deadline;
use crate::error::ConnectorError;
use crate::format::excerpt;

/// How long a broker may take to answer one question.
const ANSWER_WAIT: Duration = Duration::from_secs(10);
/// Before a broker is asked again that says a partition has no leader.
const LEADER_PAUSE: Duration = Duration::from_millis(50);
/// Characters of the client library's words that reach an error.
const REASON_CHARS_MAX: usize = 300;
/// Events looked through for the cause of a failure.
const EVENTS_MAX: usize = 1_000;

/// Offsets a partition holds: `low..high`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Extent {
    pub(super) low: u64,
    pub(super) high: u64,
}

/// What the client library told us outside of answers.
#[derive(Debug, Default)]
pub(super) struct Events {
    refused: Mutex<Option<String>>,
    last_reason: Mutex<String>,
    highs: Mutex<BTreeMap<i32, u64>>,
}

impl Events {
    /// Why the login was refused, if it was.
    pub(super) fn refused(&self) -> Option<String> {
        self.refused.lock().clone()
    }

    /// End offsets by the latest statistics.
    pub(super) fn highs(&self) -> BTreeMap<i32, u64> {
        self.highs.lock().clone()
    }
}

impl ClientContext for Events {
    fn log(&self, _level: RDKafkaLogLevel, facility: &str, message: &str) {
        // Whatever matters in here also comes as an event; outages alone would fill a log at a higher level.
        tracing::debug!(facility, message = %excerpt(message, REASON_CHARS_MAX), "librdkafka");
    }

    fn stats(&self, statistics: Statistics) {
        let mut highs = self.highs.lock();
        for topic in statistics.topics.values() {
            for (partition, figures) in &topic.partitions {
                let end = if figures.ls_offset >= 0 {
                    figures.ls_offset
                } else {
                    figures.hi_offset
                };
                if let (Ok(high), true) = (u64::try_from(end), *partition >= 0) {
                    highs.insert(*partition, high);
                }
            }
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        match error.rdkafka_error_code() {
            Some(RDKafkaErrorCode::Authentication | RDKafkaErrorCode::SaslAuthenticationFailed) => {
                *self.refused.lock() = Some(excerpt(reason, REASON_CHARS_MAX));
            }
            _ => *self.last_reason.lock() = excerpt(reason, REASON_CHARS_MAX),
        }
    }
}

impl ConsumerContext for Events {}

/// A connection that asks about one topic.
pub(super) struct Cluster {
    client: BaseConsumer<Events>,
    brokers: String,
    topic: String,
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "Cluster({}, {})", self.brokers, self.topic)
    }
}

impl Cluster {
    /// Makes the client; contacts nobody yet.
    pub(super) fn new(options: &KafkaOptions) -> Result<Self, ConnectorError> {
        let client = options
            .asking()
            .create_with_context(Events::default())
            .map_err(|error| client_error(&error))?;
        Ok(Self {
            client,
            brokers: options.brokers.clone(),
            topic: options.topic.clone(),
        })
    }

    /// Partitions of the topic, sorted.
    pub(super) fn partitions(&self) -> Result<Vec<i32>, ConnectorError> {
        let metadata = self
            .client
            .fetch_metadata(Some(&self.topic), ANSWER_WAIT)
            .map_err(|error| self.explain(&error))?;
        let topic = metadata
            .topics()
            .iter()
            .find(|topic| topic.name() == self.topic);
        let Some(topic) = topic else {
            return Err(self.topic_missing());
        };
        if let Some(error) = topic.error() {
            return Err(self.explain(&KafkaError::MetadataFetch(error.into())));
        }
        let mut partitions: Vec<i32> = topic
            .partitions()
            .iter()
            .map(|partition| partition.id())
            .collect();
        if partitions.is_empty() {
            return Err(self.topic_missing());
        }
        partitions.sort_unstable();
        Ok(partitions)
    }

    /// What one partition holds now. Under `read_committed`, `high` is the last stable offset.
    pub(super) fn extent(&self, partition: i32) -> Result<Extent, ConnectorError> {
        let (low, high) = with_leader(|| {
            self.client
                .fetch_watermarks(&self.topic, partition, ANSWER_WAIT)
        })
        .map_err(|error| self.explain(&error))?;
        let low = u64::try_from(low).unwrap_or(0);
        Ok(Extent {
            low,
            high: u64::try_from(high).unwrap_or(low),
        })
    }

    /// What all partitions hold now.
    pub(super) fn extents(&self) -> Result<BTreeMap<i32, Extent>, ConnectorError> {
        self.partitions()?
            .into_iter()
            .map(|partition| Ok((partition, self.extent(partition)?)))
            .collect()
    }

    /// First offset at or after a broker time, for the partitions that have one.
    pub(super) fn offsets_at(
        &self,
        millis: i64,
        partitions: impl Iterator<Item = i32>,
    ) -> Result<BTreeMap<i32, u64>, ConnectorError> {
        let mut wanted = TopicPartitionList::new();
        for partition in partitions {
            wanted
                .add_partition_offset(&self.topic, partition, Offset::Offset(millis))
                .map_err(|error| self.explain(&error))?;
        }
        let found = self
            .client
            .offsets_for_times(wanted, ANSWER_WAIT)
            .map_err(|error| self.explain(&error))?;
        let mut offsets = BTreeMap::new();
        for element in found.elements() {
            element.error().map_err(|error| self.explain(&error))?;
            if let Offset::Offset(offset) = element.offset() {
                offsets.extend(u64::try_from(offset).map(|offset| (element.partition(), offset)));
            }
        }
        Ok(offsets)
    }

    fn topic_missing(&self) -> ConnectorError {
        ConnectorError::TopicMissing {
            topic: self.topic.clone(),
            brokers: self.brokers.clone(),
        }
    }

    /// An answer that is an error, in our words. The cause of a refused login or a name that does not resolve comes as an
    /// event, while the answer itself only times out.
    fn explain(&self, error: &KafkaError) -> ConnectorError {
        // Lines of the client's log also come this way, and polling one of them looks like polling nothing.
        for _ in 0..EVENTS_MAX {
            drop(self.client.poll(Duration::ZERO));
        }
        let events = self.client.context();
        let reason = std::mem::take(&mut *events.last_reason.lock());
        let refused = events.refused.lock().take();
        match (classify(error), refused) {
            (Trouble::Outage, Some(detail)) | (Trouble::Refused, Some(detail)) => {
                ConnectorError::Authentication {
                    brokers: self.brokers.clone(),
                    detail,
                }
            }
            (Trouble::Refused, None) => ConnectorError::Authentication {
                brokers: self.brokers.clone(),
                detail: reason,
            },
            (Trouble::Outage, None) => ConnectorError::BrokerUnreachable {
                brokers: self.brokers.clone(),
                detail: reason,
            },
            (Trouble::Missing, _) => self.topic_missing(),
            (Trouble::Denied, _) => ConnectorError::Denied {
                topic: self.topic.clone(),
                brokers: self.brokers.clone(),
            },
            (Trouble::OutOfRange | Trouble::Corrupt | Trouble::Other, _) => client_error(error),
        }
    }
}

/// Kinds of trouble that are answered differently.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Trouble {
    /// Nobody answers; that passes.
    Outage,
    /// Our login was refused.
    Refused,
    /// We may not read the topic.
    Denied,
    /// The topic or partition is not there, at least not yet.
    Missing,
    /// The position is outside of what the partition holds.
    OutOfRange,
    /// What came cannot be understood, and going on would skip it.
    Corrupt,
    /// Anything else; the client library goes on by itself.
    Other,
}

pub(super) fn classify(error: &KafkaError) -> Trouble {
    use RDKafkaErrorCode as Code;
    if matches!(error, KafkaError::MessageConsumptionFatal(_)) {
        return Trouble::Corrupt;
    }
    match error.rdkafka_error_code() {
        Some(
            Code::BrokerTransportFailure
            | Code::AllBrokersDown
            | Code::Resolve
            | Code::OperationTimedOut
            | Code::RequestTimedOut
            | Code::NetworkException
            | Code::BrokerNotAvailable
            | Code::LeaderNotAvailable
            | Code::NotLeaderForPartition,
        ) => Trouble::Outage,
        Some(Code::Authentication | Code::SaslAuthenticationFailed | Code::SSL) => Trouble::Refused,
        Some(Code::TopicAuthorizationFailed) => Trouble::Denied,
        Some(Code::UnknownTopicOrPartition | Code::UnknownTopic | Code::UnknownPartition) => {
            Trouble::Missing
        }
        Some(Code::AutoOffsetReset | Code::OffsetOutOfRange) => Trouble::OutOfRange,
        Some(
            Code::BadMessage | Code::BadCompression | Code::InvalidMessage | Code::NotImplemented,
        ) => Trouble::Corrupt,
        _ => Trouble::Other,
    }
}

/// Asks again while the partition has no leader: it was made just now, or is moving.
pub(super) fn with_leader<T>(
    mut ask: impl FnMut() -> Result<T, KafkaError>,
) -> Result<T, KafkaError> {
    use RDKafkaErrorCode as Code;
    let deadline = Deadline::after(ANSWER_WAIT);
    loop {
        let answer = ask();
        let code = answer
            .as_ref()
            .err()
            .and_then(KafkaError::rdkafka_error_code);
        match code {
            Some(Code::LeaderNotAvailable | Code::NotLeaderForPartition)
                if !deadline.left().is_zero() =>
            {
                // No client is told when a leader is chosen; asking is all there is.
                std::thread::sleep(LEADER_PAUSE);
            }
            _ => return answer,
        }
    }
}

/// The client library's name of an error. Its configuration errors repeat the value, so only the option's name is kept.
pub(super) fn client_error(error: &KafkaError) -> ConnectorError {
    match error {
        KafkaError::ClientConfig(_, _, name, _) => ConnectorError::option(format!(
            "option \"properties.{name}\" has a value the Kafka client refuses"
        )),
        KafkaError::ClientCreation(reason) => ConnectorError::option(format!(
            "the Kafka client refuses its properties: {}",
            excerpt(reason, REASON_CHARS_MAX)
        )),
        other => ConnectorError::Kafka {
            detail: excerpt(&other.to_string(), REASON_CHARS_MAX),
        },
    }
}
