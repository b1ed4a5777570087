//! What a Kafka source or sink was told: brokers, topic, where to start, and what the client library gets.
//!
//! Invariant: nothing reaches the client library that the catalog's allow-list does not name, and the settings our promises rest
//! on come last and cannot be overridden. `Debug` shows no property values.

use std::collections::BTreeMap;
use std::time::Duration;

use rdkafka::ClientConfig;
use thalweg_catalog::ConnectorSpec;
use thalweg_catalog::SinkSpec;
use thalweg_catalog::option::{
    KafkaProperty, PROPERTIES_PREFIX, kafka_property, kafka_sink_property,
};

use crate::error::ConnectorError;
use crate::options::Options;

/// Default of `partition.discovery.interval`.
const DISCOVERY_INTERVAL: Duration = Duration::from_secs(30);
/// A shorter interval would only load the brokers.
const DISCOVERY_INTERVAL_MIN: Duration = Duration::from_millis(100);

/// Settings a user may override.
const DEFAULTS: &[(&str, &str)] = &[
    ("isolation.level", "read_committed"),
    ("fetch.wait.max.ms", "50"),
    ("fetch.message.max.bytes", "4194304"),
    ("queued.min.messages", "100000"),
    ("queued.max.messages.kbytes", "262144"),
    // At its default of 1 s a small queue that ran full stalls the reader for that long.
    ("fetch.queue.backoff.ms", "10"),
    ("check.crcs", "false"),
    ("reconnect.backoff.max.ms", "2000"),
    ("client.id", "thalweg"),
];

/// Settings the promises rest on.
const FIXED: &[(&str, &str)] = &[
    ("enable.auto.commit", "false"),
    ("enable.auto.offset.store", "false"),
    ("auto.offset.reset", "error"),
    ("enable.partition.eof", "true"),
    ("allow.auto.create.topics", "false"),
    ("statistics.interval.ms", "5000"),
];

/// Settings of a producer that a user may override.
const PRODUCER_DEFAULTS: &[(&str, &str)] = &[
    ("linger.ms", "5"),
    ("batch.size", "1000000"),
    ("compression.type", "lz4"),
    ("reconnect.backoff.max.ms", "2000"),
    ("client.id", "thalweg"),
];

/// Settings of a producer that delivery rests on: retries neither reorder nor repeat, and a key goes to the partition where a
/// Java client would put it. What is not accepted in this time is reported, and the engine tries again.
const PRODUCER_FIXED: &[(&str, &str)] = &[
    ("enable.idempotence", "true"),
    ("partitioner", "murmur2_random"),
    ("message.timeout.ms", "10000"),
    ("allow.auto.create.topics", "false"),
];

/// Settings of a producer whose messages become visible by transaction. A server that died in one leaves it open for at most
/// this long, and readers of committed messages wait as long.
const TRANSACTION_FIXED: &[(&str, &str)] = &[("transaction.timeout.ms", "60000")];

/// Where reading starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Start {
    Earliest,
    Latest,
    /// The first record at or after this broker time.
    Timestamp(i64),
    /// These partitions here, all others at their earliest.
    Offsets(BTreeMap<i32, u64>),
}

/// What happens when records are gone before they were read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OnGap {
    Fail,
    Resume,
}

/// Checked options of a Kafka source.
#[derive(Clone)]
pub(super) struct KafkaOptions {
    pub(super) brokers: String,
    pub(super) topic: String,
    pub(super) start: Start,
    pub(super) on_gap: OnGap,
    pub(super) discovery_interval: Duration,
    properties: BTreeMap<String, String>,
}

impl std::fmt::Debug for KafkaOptions {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("KafkaOptions")
            .field("brokers", &self.brokers)
            .field("topic", &self.topic)
            .field("start", &self.start)
            .field("properties", &self.properties.keys())
            .finish_non_exhaustive()
    }
}

impl KafkaOptions {
    pub(super) fn read(spec: &ConnectorSpec) -> Result<Self, ConnectorError> {
        let options = Options(&spec.options);
        let on_gap = match options.text("on_offset_gap").unwrap_or("fail") {
            "fail" => OnGap::Fail,
            "resume" => OnGap::Resume,
            _ => {
                return Err(ConnectorError::option_hint(
                    "option \"on_offset_gap\" has an unknown value",
                    "Use fail or resume.",
                ));
            }
        };
        Ok(Self {
            brokers: options.required("properties.bootstrap.server")?.to_owned(),
            topic: options.required("topic")?.to_owned(),
            start: start(options)?,
            on_gap,
            discovery_interval: options
                .duration("partition.discovery.interval")?
                .unwrap_or(DISCOVERY_INTERVAL)
                .max(DISCOVERY_INTERVAL_MIN),
            properties: properties(&spec.options, "source", kafka_property)?,
        })
    }

    /// The options of a sink; those about reading are at their defaults, for the questions it asks.
    pub(super) fn of_sink(spec: &SinkSpec) -> Result<Self, ConnectorError> {
        let options = Options(&spec.options);
        Ok(Self {
            brokers: options.required("properties.bootstrap.server")?.to_owned(),
            topic: options.required("topic")?.to_owned(),
            start: Start::Earliest,
            on_gap: OnGap::Fail,
            discovery_interval: DISCOVERY_INTERVAL,
            properties: properties(&spec.options, "sink", kafka_sink_property)?,
        })
    }

    /// Configuration of a client that writes.
    pub(super) fn writing(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        for (name, value) in PRODUCER_DEFAULTS {
            config.set(*name, *value);
        }
        for (name, value) in &self.properties {
            config.set(name, value);
        }
        config.set("bootstrap.servers", &self.brokers);
        for (name, value) in PRODUCER_FIXED {
            config.set(*name, *value);
        }
        config
    }

    /// Configuration of a client that writes in transactions.
    pub(super) fn committing(&self, transactional_id: &str) -> ClientConfig {
        let mut config = self.writing();
        for (name, value) in TRANSACTION_FIXED {
            config.set(*name, *value);
        }
        config.set("transactional.id", transactional_id);
        config
    }

    /// The same brokers and login, for another topic.
    pub(super) fn for_topic(&self, topic: &str) -> Self {
        Self {
            topic: topic.to_owned(),
            ..self.clone()
        }
    }

    /// Configuration of a client that only asks questions. Without `group.id` its destructor does not wait for a group.
    pub(super) fn asking(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        for (name, value) in DEFAULTS {
            config.set(*name, *value);
        }
        // A producer's own settings mean nothing to a client that asks.
        let common = |name: &&String| {
            matches!(
                kafka_property(name.as_str()),
                KafkaProperty::Allowed | KafkaProperty::Secret
            )
        };
        for (name, value) in self.properties.iter().filter(|(name, _)| common(name)) {
            config.set(name, value);
        }
        config.set("bootstrap.servers", &self.brokers);
        for (name, value) in FIXED {
            config.set(*name, *value);
        }
        config
    }

    /// Configuration of a client that reads. librdkafka refuses `assign()` without a `group.id`; the group is never joined and
    /// nothing is committed to it.
    pub(super) fn reading(&self) -> ClientConfig {
        let mut config = self.asking();
        config.set("group.id", "thalweg-unused");
        config
    }
}

/// Client properties, checked again here so that a catalog written by another version cannot open a hole.
fn properties(
    options: &BTreeMap<String, String>,
    object: &str,
    decide: fn(&str) -> KafkaProperty,
) -> Result<BTreeMap<String, String>, ConnectorError> {
    let mut properties = BTreeMap::new();
    for (name, value) in options {
        let Some(property) = name.strip_prefix(PROPERTIES_PREFIX) else {
            continue;
        };
        match decide(property) {
            KafkaProperty::Allowed | KafkaProperty::Secret => {}
            KafkaProperty::Denied(reason) => {
                return Err(ConnectorError::option_hint(
                    format!("option \"{name}\" of kafka {object} is not allowed"),
                    reason,
                ));
            }
            KafkaProperty::Unknown => {
                return Err(ConnectorError::option(format!(
                    "unknown option \"{name}\" of kafka {object}"
                )));
            }
        }
        match property {
            "bootstrap.server" => {}
            "sasl.mechanism" => {
                properties.insert("sasl.mechanisms".to_owned(), value.clone());
            }
            _ => {
                properties.insert(property.to_owned(), value.clone());
            }
        }
    }
    Ok(properties)
}

fn start(options: Options<'_>) -> Result<Start, ConnectorError> {
    if let Some(list) = options.text("scan.startup.offsets") {
        return parse_offsets(list).map(Start::Offsets).ok_or_else(|| {
            ConnectorError::option_hint(
                "option \"scan.startup.offsets\" must be a list of partition:offset",
                "Write each partition once, as '0:42,1:7'.",
            )
        });
    }
    match options.text("scan.startup.mode").unwrap_or("earliest") {
        "earliest" => Ok(Start::Earliest),
        "latest" => Ok(Start::Latest),
        "timestamp" => match options.i64("scan.startup.timestamp.millis")? {
            Some(millis) if millis >= 0 => Ok(Start::Timestamp(millis)),
            _ => Err(ConnectorError::option(
                "scan.startup.mode = 'timestamp' needs option \"scan.startup.timestamp.millis\"",
            )),
        },
        _ => Err(ConnectorError::option_hint(
            "option \"scan.startup.mode\" has an unknown value",
            "Use earliest, latest or timestamp, or give scan.startup.offsets.",
        )),
    }
}

fn parse_offsets(list: &str) -> Option<BTreeMap<i32, u64>> {
    let mut offsets = BTreeMap::new();
    for pair in list.split(',') {
        let (partition, offset) = pair.split_once(':')?;
        let partition: i32 = partition
            .trim()
            .parse()
            .ok()
            .filter(|partition| *partition >= 0)?;
        let offset: u64 = offset
            .trim()
            .parse()
            .ok()
            .filter(|offset| *offset <= i64::MAX as u64)?;
        if offsets.insert(partition, offset).is_some() {
            return None;
        }
    }
    Some(offsets)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::source_relation;

    fn read(options: &[(&str, &str)]) -> Result<KafkaOptions, ConnectorError> {
        let mut map: BTreeMap<String, String> = options
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        map.insert("properties.bootstrap.server".into(), "broker:9092".into());
        map.insert("topic".into(), "clicks".into());
        KafkaOptions::read(&source_relation("kafka", Vec::new(), map, 0).1)
    }

    #[test]
    fn start_positions_are_parsed() {
        assert_eq!(read(&[]).expect("valid").start, Start::Earliest);
        assert_eq!(
            read(&[("scan.startup.offsets", "0:42, 1:7")])
                .expect("valid")
                .start,
            Start::Offsets(BTreeMap::from([(0, 42), (1, 7)]))
        );
        for bad in ["", "0", "0:x", "-1:0", "0:1,0:2", "0:9223372036854775808"] {
            let error = read(&[("scan.startup.offsets", bad)]).expect_err(bad);
            assert_eq!(error.sqlstate(), "22023", "{bad}");
        }
        assert!(read(&[("scan.startup.mode", "timestamp")]).is_err());
    }

    #[test]
    fn promises_cannot_be_overridden_and_secrets_do_not_show() {
        for name in [
            "enable.auto.commit",
            "auto.offset.reset",
            "plugin.library.paths",
            "debug",
            "nonsense",
        ] {
            assert!(
                read(&[(&format!("properties.{name}"), "true")]).is_err(),
                "{name}"
            );
        }
        let options = read(&[
            ("properties.sasl.password", "hunter2"),
            ("properties.fetch.wait.max.ms", "7"),
        ])
        .expect("valid");
        assert!(!format!("{options:?}").contains("hunter2"));
        let config = options.reading();
        assert_eq!(config.get("fetch.wait.max.ms"), Some("7"));
        assert_eq!(config.get("sasl.password"), Some("hunter2"));
        assert_eq!(config.get("enable.auto.commit"), Some("false"));
        assert_eq!(options.asking().get("group.id"), None);
    }
}
