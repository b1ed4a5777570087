//! The Kafka sink: rows as JSON messages of one topic, each acknowledged by all in-sync replicas before it counts.
//!
//! Invariant: messages of one key reach their partition in the order given; after an error the producer is replaced, so nothing
//! of a failed delivery is sent behind a later one.

use std::collections::VecDeque;
use std::sync::Arc;

use arrow::record_batch::RecordBatch;
use async_trait::async_trait;
use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{DeliveryFuture, FutureProducer, FutureRecord};
use thalweg_catalog::{Relation, SinkSpec};

use super::client::{Cluster, Trouble, classify, client_error};
use super::encoding::Encoding;
use super::options::KafkaOptions;
use crate::error::ConnectorError;
use crate::format::excerpt;
use crate::sink::{Form, Message, MessageSink};

/// Messages that wait for their acknowledgment at most; the client library bounds their bytes.
const UNDER_WAY_MAX: usize = 50_000;
/// Characters of the client library's words that reach the log.
const LOG_CHARS_MAX: usize = 300;

/// A topic that rows are written to.
pub struct KafkaSink {
    options: Arc<KafkaOptions>,
    encoding: Encoding,
    /// Made when first needed, and again after an error.
    producer: Option<FutureProducer<Quiet>>,
}

impl std::fmt::Debug for KafkaSink {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("KafkaSink")
            .field("options", &self.options)
            .field("form", &self.encoding.form())
            .finish_non_exhaustive()
    }
}

/// Takes the client library's log.
pub(super) struct Quiet;

impl ClientContext for Quiet {
    fn log(&self, _level: RDKafkaLogLevel, facility: &str, message: &str) {
        tracing::debug!(facility, message = %excerpt(message, LOG_CHARS_MAX), "librdkafka");
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(%error, reason = %excerpt(reason, LOG_CHARS_MAX), "librdkafka");
    }
}

impl KafkaSink {
    /// Checks options, format and key columns; contacts nobody.
    pub(crate) fn new(relation: &Relation, spec: &SinkSpec) -> Result<Self, ConnectorError> {
        Ok(Self {
            options: Arc::new(KafkaOptions::of_sink(spec)?),
            encoding: Encoding::new(relation, spec)?,
            producer: None,
        })
    }

    fn producer(&mut self) -> Result<&FutureProducer<Quiet>, ConnectorError> {
        let made = match self.producer.take() {
            Some(producer) => producer,
            None => self
                .options
                .writing()
                .create_with_context(Quiet)
                .map_err(|error| client_error(&error))?,
        };
        Ok(self.producer.insert(made))
    }

    async fn send_all(&mut self, messages: &[Message]) -> Result<(), ConnectorError> {
        let options = Arc::clone(&self.options);
        let producer = self.producer()?;
        let mut under_way = VecDeque::new();
        for message in messages {
            let mut record = FutureRecord::<[u8], [u8]>::to(&options.topic);
            record.key = message.key.as_deref();
            record.payload = message.value.as_deref();
            loop {
                match producer.send_result(record) {
                    Ok(accepted) => {
                        under_way.push_back(accepted);
                        break;
                    }
                    Err((error, back)) => {
                        let full = error.rdkafka_error_code() == Some(RDKafkaErrorCode::QueueFull);
                        match under_way.pop_front() {
                            Some(first) if full => acknowledged(&options, first).await?,
                            _ => return Err(explain(&options, &error)),
                        }
                        record = back;
                    }
                }
            }
            if under_way.len() >= UNDER_WAY_MAX
                && let Some(first) = under_way.pop_front()
            {
                acknowledged(&options, first).await?;
            }
        }
        for accepted in under_way {
            acknowledged(&options, accepted).await?;
        }
        Ok(())
    }
}

#[async_trait]
impl MessageSink for KafkaSink {
    fn form(&self) -> Form {
        self.encoding.form()
    }

    async fn check(&self) -> Result<(), ConnectorError> {
        let options = Arc::clone(&self.options);
        let asked = tokio::task::spawn_blocking(move || Cluster::new(&options)?.partitions());
        asked
            .await
            .map_err(|error| ConnectorError::Internal(format!("a Kafka request stopped: {error}")))?
            .map(drop)
    }

    fn messages(&self, batch: &RecordBatch) -> Result<Vec<Message>, ConnectorError> {
        self.encoding.messages(batch)
    }

    async fn send(&mut self, messages: Vec<Message>) -> Result<(), ConnectorError> {
        let sent = self.send_all(&messages).await;
        if sent.is_err()
            && let Some(broken) = self.producer.take()
        {
            // Its end waits for the client's threads.
            drop(tokio::task::spawn_blocking(move || drop(broken)));
        }
        sent
    }
}

async fn acknowledged(
    options: &KafkaOptions,
    message: DeliveryFuture,
) -> Result<(), ConnectorError> {
    match message.await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err((error, _))) => Err(explain(options, &error)),
        Err(_) => Err(ConnectorError::Kafka {
            detail: "the client stopped before the message was acknowledged".into(),
        }),
    }
}

pub(super) fn explain(options: &KafkaOptions, error: &KafkaError) -> ConnectorError {
    let (brokers, topic) = (options.brokers.clone(), options.topic.clone());
    let timed_out = error.rdkafka_error_code() == Some(RDKafkaErrorCode::MessageTimedOut);
    match classify(error) {
        Trouble::Outage => ConnectorError::BrokerUnreachable {
            brokers,
            detail: String::new(),
        },
        _ if timed_out => ConnectorError::BrokerUnreachable {
            brokers,
            detail: "Messages were not acknowledged in time.".into(),
        },
        Trouble::Refused => ConnectorError::Authentication {
            brokers,
            detail: String::new(),
        },
        Trouble::Denied => ConnectorError::Denied { topic, brokers },
        Trouble::Missing => ConnectorError::TopicMissing { topic, brokers },
        Trouble::OutOfRange | Trouble::Corrupt | Trouble::Other => client_error(error),
    }
}
