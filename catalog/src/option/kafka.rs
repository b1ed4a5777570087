//! Which properties of the Kafka client a user may set, and why not the others.
//!
//! Invariant: an allow-list. A property that is not named here is refused, so a new version of the client library cannot open
//! a hole. Nothing allowed names a local path, loads code, runs a command, or changes what offsets and epochs promise.

use std::collections::BTreeMap;

use thalweg_sql::{WithOption, suggest};

use super::{PROPERTIES_PREFIX, Place, options_of, parse_list, text_of};
use crate::error::{CatalogError, bounded};

/// What a client property is to us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KafkaProperty {
    /// Goes to the client.
    Allowed,
    /// Goes to the client and is never shown.
    Secret,
    /// Refused; the reason is a sentence.
    Denied(&'static str),
    /// Not a property we know.
    Unknown,
}

const ALLOWED: &[&str] = &[
    "bootstrap.server",
    "security.protocol",
    "sasl.mechanism",
    "sasl.mechanisms",
    "sasl.username",
    "sasl.kerberos.service.name",
    "sasl.kerberos.principal",
    "ssl.ca.pem",
    "ssl.certificate.pem",
    "ssl.cipher.suites",
    "ssl.curves.list",
    "ssl.sigalgs.list",
    "ssl.endpoint.identification.algorithm",
    "enable.ssl.certificate.verification",
    "client.id",
    "client.rack",
    "client.dns.lookup",
    "broker.address.family",
    "broker.address.ttl",
    "isolation.level",
    "check.crcs",
    "fetch.min.bytes",
    "fetch.max.bytes",
    "fetch.message.max.bytes",
    "max.partition.fetch.bytes",
    "fetch.wait.max.ms",
    "fetch.queue.backoff.ms",
    "fetch.error.backoff.ms",
    "queued.min.messages",
    "queued.max.messages.kbytes",
    "message.max.bytes",
    "receive.message.max.bytes",
    "metadata.max.age.ms",
    "metadata.recovery.strategy",
    "metadata.recovery.rebootstrap.trigger.ms",
    "topic.metadata.refresh.interval.ms",
    "topic.metadata.refresh.fast.interval.ms",
    "topic.metadata.propagation.max.ms",
    "socket.timeout.ms",
    "socket.connection.setup.timeout.ms",
    "socket.keepalive.enable",
    "socket.nagle.disable",
    "socket.max.fails",
    "socket.send.buffer.bytes",
    "socket.receive.buffer.bytes",
    "connections.max.idle.ms",
    "reconnect.backoff.ms",
    "reconnect.backoff.max.ms",
    "retry.backoff.ms",
    "retry.backoff.max.ms",
    "max.in.flight",
    "max.in.flight.requests.per.connection",
    "api.version.request.timeout.ms",
    "enable.metrics.push",
    "log.connection.close",
];

const SECRET: &[&str] = &["sasl.password", "ssl.key.pem", "ssl.key.password"];

/// Refused names and prefixes (ending in `.`), with the reason.
const DENIED: &[(&str, &str)] = &[
    ("plugin.library.paths", "It loads code into the server."),
    ("interceptors", "It loads code into the server."),
    ("ssl.engine.", "It loads code into the server."),
    ("ssl_engine_callback_data", "It loads code into the server."),
    ("ssl.providers", "It loads code into the server."),
    (
        "ssl.ca.location",
        "It names a path on the server; use properties.ssl.ca.pem with the PEM text.",
    ),
    (
        "ssl.ca.certificate.stores",
        "It names a store on the server; use properties.ssl.ca.pem with the PEM text.",
    ),
    (
        "ssl.certificate.location",
        "It names a path on the server; use properties.ssl.certificate.pem with the PEM text.",
    ),
    (
        "ssl.key.location",
        "It names a path on the server; use properties.ssl.key.pem with the PEM text.",
    ),
    ("ssl.crl.location", "It names a path on the server."),
    (
        "ssl.keystore.",
        "It names a path on the server; use properties.ssl.certificate.pem and properties.ssl.key.pem.",
    ),
    (
        "ssl.truststore.",
        "It names a path on the server; use properties.ssl.ca.pem with the PEM text.",
    ),
    ("https.ca.", "It belongs to OAuth, which is not built yet."),
    (
        "sasl.oauthbearer.",
        "It reads files and calls addresses from the server; OAuth is not built yet.",
    ),
    (
        "enable.sasl.oauthbearer.unsecure.jwt",
        "It accepts unsigned tokens.",
    ),
    (
        "oauthbearer_token_refresh_cb",
        "It belongs to OAuth, which is not built yet.",
    ),
    (
        "sasl.kerberos.kinit.cmd",
        "It runs a command on the server.",
    ),
    ("sasl.kerberos.keytab", "It names a path on the server."),
    (
        "sasl.kerberos.min.time.before.relogin",
        "It belongs to a command that the server does not run.",
    ),
    (
        "sasl.jaas.config",
        "It belongs to the Java client; use properties.sasl.username and properties.sasl.password.",
    ),
    (
        "group.",
        "Offsets live in the checkpoint; there is no consumer group.",
    ),
    (
        "session.timeout.ms",
        "Offsets live in the checkpoint; there is no consumer group.",
    ),
    (
        "heartbeat.interval.ms",
        "Offsets live in the checkpoint; there is no consumer group.",
    ),
    (
        "max.poll.interval.ms",
        "Offsets live in the checkpoint; there is no consumer group.",
    ),
    (
        "coordinator.query.interval.ms",
        "Offsets live in the checkpoint; there is no consumer group.",
    ),
    (
        "partition.assignment.strategy",
        "Offsets live in the checkpoint; there is no consumer group.",
    ),
    (
        "enable.auto.commit",
        "Offsets live in the checkpoint; a commit by the client could run ahead of it.",
    ),
    (
        "auto.commit.",
        "Offsets live in the checkpoint; a commit by the client could run ahead of it.",
    ),
    (
        "enable.auto.offset.store",
        "Offsets live in the checkpoint; a commit by the client could run ahead of it.",
    ),
    (
        "offset.store.",
        "Offsets live in the checkpoint; a commit by the client could run ahead of it.",
    ),
    (
        "auto.offset.reset",
        "It skips records silently; use scan.startup.mode and on_offset_gap.",
    ),
    (
        "enable.partition.eof",
        "The server sets it; use bounded = 'true' to stop at the end.",
    ),
    (
        "allow.auto.create.topics",
        "Reading a topic must not create it.",
    ),
    ("bootstrap.servers", "Use properties.bootstrap.server."),
    ("metadata.broker.list", "Use properties.bootstrap.server."),
    ("topic.blacklist", "Use topic."),
    ("debug", "Its output may hold secrets."),
    ("log_level", "The server sets it."),
    ("log.queue", "The server sets it."),
    ("log.thread.name", "The server sets it."),
    ("enabled_events", "The server sets it."),
    ("statistics.interval.ms", "The server sets it."),
    ("message.copy.max.bytes", "The server sets it."),
    ("socket.blocking.max.ms", "The client ignores it."),
    ("topic.metadata.refresh.fast.cnt", "The client ignores it."),
    (
        "topic.metadata.refresh.sparse",
        "The server needs the default.",
    ),
    ("reconnect.backoff.jitter.ms", "The client ignores it."),
    ("consume.callback.max.messages", "The server sets it."),
    (
        "builtin.features",
        "It describes the client library and cannot be set.",
    ),
    (
        "api.version.request",
        "Brokers older than 0.10 are not supported.",
    ),
    (
        "api.version.fallback.ms",
        "Brokers older than 0.10 are not supported.",
    ),
    (
        "broker.version.fallback",
        "Brokers older than 0.10 are not supported.",
    ),
    (
        "internal.termination.signal",
        "It changes the server's process.",
    ),
    ("enable.random.seed", "It changes the server's process."),
    ("default_topic_conf", "It can only be set in code."),
    ("opaque", "It can only be set in code."),
    (
        "ssl_key",
        "It can only be set in code; use properties.ssl.key.pem.",
    ),
    (
        "ssl_certificate",
        "It can only be set in code; use properties.ssl.certificate.pem.",
    ),
    (
        "ssl_ca",
        "It can only be set in code; use properties.ssl.ca.pem.",
    ),
];

/// Properties of the producer that a sink may set.
const PRODUCER_ALLOWED: &[&str] = &[
    "batch.num.messages",
    "batch.size",
    "compression.codec",
    "compression.level",
    "compression.type",
    "linger.ms",
    "queue.buffering.max.kbytes",
    "queue.buffering.max.messages",
    "queue.buffering.max.ms",
    "request.timeout.ms",
    "sticky.partitioning.linger.ms",
];

/// Allowed properties of the consumer, beside `fetch.` and `queued.`: a sink has none.
const CONSUMER: &[&str] = &["check.crcs", "isolation.level", "max.partition.fetch.bytes"];

/// Properties of the producer: a source has none.
const PRODUCER: &[&str] = &[
    "acks",
    "batch.num.messages",
    "batch.size",
    "compression.codec",
    "compression.level",
    "compression.type",
    "delivery.report.only.error",
    "delivery.timeout.ms",
    "enable.gapless.guarantee",
    "enable.idempotence",
    "linger.ms",
    "message.send.max.retries",
    "message.timeout.ms",
    "msg_order_cmp",
    "partitioner",
    "produce.offset.report",
    "queue.buffering.backpressure.threshold",
    "queue.buffering.max.kbytes",
    "queue.buffering.max.messages",
    "queue.buffering.max.ms",
    "queuing.strategy",
    "request.required.acks",
    "request.timeout.ms",
    "retries",
    "sticky.partitioning.linger.ms",
    "transaction.timeout.ms",
    "transactional.id",
];

/// Looks a client property up, without its `properties.` prefix.
pub fn kafka_property(name: &str) -> KafkaProperty {
    if ALLOWED.contains(&name) {
        return KafkaProperty::Allowed;
    }
    if SECRET.contains(&name) {
        return KafkaProperty::Secret;
    }
    let denied = DENIED
        .iter()
        .find(|(entry, _)| *entry == name || (entry.ends_with('.') && name.starts_with(entry)));
    match denied {
        Some((_, reason)) => KafkaProperty::Denied(reason),
        None if PRODUCER.contains(&name) => {
            KafkaProperty::Denied("It belongs to the producer, and a source has none.")
        }
        None if name.ends_with("_cb") => KafkaProperty::Denied("It can only be set in code."),
        None => KafkaProperty::Unknown,
    }
}

/// As [`kafka_property`], for the client of a sink.
pub fn kafka_sink_property(name: &str) -> KafkaProperty {
    if PRODUCER_ALLOWED.contains(&name) {
        return KafkaProperty::Allowed;
    }
    if PRODUCER.contains(&name) {
        return KafkaProperty::Denied("The server sets it: order and delivery rest on it.");
    }
    let reads = |prefix: &&str| name.starts_with(*prefix);
    if CONSUMER.contains(&name) || ["fetch.", "queued."].iter().any(|p| reads(&p)) {
        return KafkaProperty::Denied("It belongs to the consumer, and a sink has none.");
    }
    kafka_property(name)
}

/// What a property is to the client of `place`.
pub(super) fn property_of(place: Place, name: &str) -> KafkaProperty {
    match place {
        Place::KafkaSink => kafka_sink_property(name),
        _ => kafka_property(name),
    }
}

/// Names that may be set, for hints.
pub(super) fn allowed_names(place: Place) -> impl Iterator<Item = &'static str> {
    let all = ALLOWED
        .iter()
        .chain(SECRET)
        .chain(PRODUCER_ALLOWED)
        .copied();
    all.filter(move |name| {
        matches!(
            property_of(place, name),
            KafkaProperty::Allowed | KafkaProperty::Secret
        )
    })
}

/// Checks one `properties.*` option of a Kafka source or sink.
pub(super) fn checked(place: Place, option: &WithOption) -> Result<(String, String), CatalogError> {
    // RisingWave and we write `server`, the client itself `servers`; both are clear.
    let name = match option.name.as_str() {
        "properties.bootstrap.servers" => "properties.bootstrap.server",
        other => other,
    };
    let property = name.strip_prefix(PROPERTIES_PREFIX).unwrap_or(name);
    match property_of(place, property) {
        KafkaProperty::Allowed | KafkaProperty::Secret => {}
        KafkaProperty::Denied(reason) => {
            return Err(CatalogError::InvalidValue {
                message: format!(
                    "option \"{}\" of {} is not allowed",
                    bounded(name),
                    place.words()
                ),
                detail: Some(reason.to_owned()),
                hint: None,
            });
        }
        KafkaProperty::Unknown => {
            return Err(CatalogError::InvalidValue {
                message: format!("unknown option \"{}\" of {}", bounded(name), place.words()),
                detail: None,
                hint: suggest(property, allowed_names(place))
                    .map(|near| format!("Perhaps you meant \"{PROPERTIES_PREFIX}{near}\".")),
            });
        }
    }
    let text = text_of(option)?;
    let value = match property {
        "bootstrap.server" => parse_list(&text).map(|brokers| brokers.join(",")),
        "security.protocol" => word(&text, &["plaintext", "ssl", "sasl_plaintext", "sasl_ssl"]),
        "isolation.level" => word(&text, &["read_committed", "read_uncommitted"]),
        _ => (!text.trim().is_empty()).then_some(text),
    };
    match value {
        Some(value) => Ok((name.to_owned(), value)),
        None => Err(CatalogError::InvalidValue {
            message: format!("invalid value for option \"{name}\" of {}", place.words()),
            detail: Some(match property {
                "security.protocol" => {
                    "Allowed values are plaintext, ssl, sasl_plaintext, sasl_ssl.".to_owned()
                }
                "isolation.level" => {
                    "Allowed values are read_committed, read_uncommitted.".to_owned()
                }
                "bootstrap.server" => {
                    "It must be a list of host:port separated by commas.".to_owned()
                }
                _ => "It must not be empty.".to_owned(),
            }),
            hint: None,
        }),
    }
}

fn word(text: &str, words: &[&str]) -> Option<String> {
    let word = text.trim().to_ascii_lowercase();
    words.contains(&word.as_str()).then_some(word)
}

/// Checks that the options about where reading starts agree.
pub(super) fn check_start(values: &BTreeMap<String, String>) -> Result<(), CatalogError> {
    let mode = values.get("scan.startup.mode").map(String::as_str);
    let millis = values.contains_key("scan.startup.timestamp.millis");
    let offsets = values.get("scan.startup.offsets");
    if mode == Some("timestamp") && !millis {
        return Err(CatalogError::invalid(
            "scan.startup.mode = 'timestamp' needs option \"scan.startup.timestamp.millis\"",
        ));
    }
    if millis && mode != Some("timestamp") {
        return Err(CatalogError::invalid(
            "option \"scan.startup.timestamp.millis\" needs scan.startup.mode = 'timestamp'",
        ));
    }
    let Some(offsets) = offsets else {
        return Ok(());
    };
    if mode.is_some() {
        return Err(CatalogError::invalid(
            "options \"scan.startup.mode\" and \"scan.startup.offsets\" exclude each other",
        ));
    }
    let mut seen = Vec::new();
    for pair in offsets.split(',') {
        let partition = pair.split_once(':').and_then(|(partition, offset)| {
            offset.trim().parse::<u64>().ok()?;
            partition.trim().parse::<u32>().ok()
        });
        match partition {
            Some(partition) if !seen.contains(&partition) => seen.push(partition),
            _ => {
                return Err(CatalogError::InvalidValue {
                    message: format!(
                        "invalid value \"{}\" for option \"scan.startup.offsets\" of kafka source",
                        bounded(offsets)
                    ),
                    detail: Some("It must be a list of partition:offset, each partition once, as '0:42,1:7'.".to_owned()),
                    hint: None,
                });
            }
        }
    }
    Ok(())
}

/// True when the option's value must never be shown.
pub(super) fn is_secret(name: &str) -> bool {
    let registered = options_of(Place::KafkaSource).any(|spec| spec.secret && spec.name == name);
    let property = name.strip_prefix(PROPERTIES_PREFIX);
    registered || property.is_some_and(|property| kafka_property(property) == KafkaProperty::Secret)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Every property of the client library is decided: allowed, or refused with a reason. The list is librdkafka 2.12.1's.
    #[test]
    fn every_client_property_is_decided() {
        let list = include_str!("librdkafka_properties.txt");
        let mut allowed = BTreeSet::new();
        for name in list.lines().filter(|line| !line.is_empty()) {
            match kafka_property(name) {
                KafkaProperty::Unknown => panic!("{name} is not decided"),
                KafkaProperty::Denied(reason) => assert!(reason.ends_with('.'), "{name}"),
                KafkaProperty::Allowed | KafkaProperty::Secret => {
                    allowed.insert(name);
                }
            }
        }
        for name in &allowed {
            for part in [
                "location",
                "oauthbearer",
                "_cb",
                "keytab",
                "kinit",
                "plugin",
                "path",
                "commit",
                "group",
                "offset",
                "engine",
                "transactional",
            ] {
                assert!(!name.contains(part), "{name}");
            }
        }
        for name in [
            "plugin.library.paths",
            "ssl.keystore.location",
            "sasl.oauthbearer.config",
            "sasl.kerberos.kinit.cmd",
            "ssl.engine.location",
            "enable.auto.commit",
            "group.id",
            "transactional.id",
            "interceptors",
            "debug",
        ] {
            assert!(
                matches!(kafka_property(name), KafkaProperty::Denied(_)),
                "{name}"
            );
        }
        // Nothing is allowed that the library does not know, but for our own spelling of the server list.
        let known: BTreeSet<&str> = list.lines().chain(["bootstrap.server"]).collect();
        for place in [Place::KafkaSource, Place::KafkaSink] {
            for name in allowed_names(place) {
                assert!(known.contains(name), "{name}");
            }
        }
    }

    #[test]
    fn a_sink_sets_what_its_client_has_and_nothing_that_its_promises_rest_on() {
        let is = |name, expected: fn(&KafkaProperty) -> bool| {
            assert!(expected(&kafka_sink_property(name)), "{name}");
        };
        for name in ["linger.ms", "compression.type", "ssl.ca.pem", "client.id"] {
            is(name, |found| *found == KafkaProperty::Allowed);
        }
        for name in [
            "acks",
            "enable.idempotence",
            "partitioner",
            "transactional.id",
            "fetch.min.bytes",
            "isolation.level",
            "group.id",
            "plugin.library.paths",
        ] {
            is(name, |found| matches!(found, KafkaProperty::Denied(_)));
        }
        is("sasl.password", |found| *found == KafkaProperty::Secret);
    }
}
