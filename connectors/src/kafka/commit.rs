//! The Kafka sink that delivers exactly once: the messages of a delivery and its marker are one transaction.
//!
//! Invariant: after any error the producer is dropped and never used again, because a transaction's end may then be unknown; the
//! next one shuts the old one out and asks the markers which of its transactions came. Calls of the client library that block
//! run on threads that may.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::DeliveryResult;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer, ProducerContext};
use thalweg_catalog::{Relation, SinkSpec};

use super::client::{Cluster, client_error};
use super::encoding::Encoding;
use super::marker::{self, MARKER_PARTITION, MARKER_TOPIC, stopped};
use super::options::KafkaOptions;
use super::sink::{Quiet, explain};
use crate::commit::{CommittingSink, Due, Marker, Staged};
use crate::context::ConnectorContext;
use crate::delta::Delta;
use crate::error::ConnectorError;
use crate::sink::{Form, Message};
use crate::store::{Step, Steps};

/// How long the brokers may take to shut out an earlier producer.
const FENCE_WAIT: Duration = Duration::from_secs(30);
/// How long messages and the end of their transaction may take; below the transaction's timeout.
const COMMIT_WAIT: Duration = Duration::from_secs(45);
/// How long giving up a transaction may take; it ends by itself otherwise.
const ABORT_WAIT: Duration = Duration::from_secs(2);
/// Messages handed over between two looks at what came back.
const POLL_EVERY: usize = 1_000;
/// Wait for room in a full queue.
const ROOM_WAIT: Duration = Duration::from_millis(2);

/// A topic that rows are committed to.
#[derive(Debug)]
pub(crate) struct KafkaCommitter {
    options: Arc<KafkaOptions>,
    encoding: Arc<Encoding>,
    /// The transactional id, by which the brokers know the sink.
    writer: String,
    producer: Option<Fenced>,
    committed: Option<Marker>,
    steps: Option<Arc<dyn Steps>>,
}

/// A producer that has shut out those before it.
struct Fenced(Arc<BaseProducer<Reports>>);

impl std::fmt::Debug for Fenced {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Fenced")
    }
}

impl Drop for Fenced {
    fn drop(&mut self) {
        // Its end waits for the client's threads, and this may be a thread that must not wait.
        let producer = Arc::clone(&self.0);
        let ended = std::thread::Builder::new()
            .name("kafka-end".into())
            .spawn(move || drop(producer));
        if let Err(error) = ended {
            tracing::debug!(%error, "no thread to end a producer on");
        }
    }
}

/// Takes the client library's log, and the first message that was refused.
#[derive(Default)]
struct Reports {
    refused: Mutex<Option<KafkaError>>,
}

impl ClientContext for Reports {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        Quiet.log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        Quiet.error(error, reason);
    }
}

impl ProducerContext for Reports {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        if let Err((error, _)) = result {
            self.refused.lock().get_or_insert_with(|| error.clone());
        }
    }
}

impl KafkaCommitter {
    /// Checks options, format and key columns; contacts nobody.
    pub(crate) fn new(
        relation: &Relation,
        spec: &SinkSpec,
        context: &ConnectorContext,
    ) -> Result<Self, ConnectorError> {
        Ok(Self {
            options: Arc::new(KafkaOptions::of_sink(spec)?),
            encoding: Arc::new(Encoding::new(relation, spec)?),
            writer: format!("{}/{}/0", context.installation, relation.oid.0),
            producer: None,
            committed: None,
            steps: context.steps.clone(),
        })
    }

    /// A producer that shuts out those before it.
    async fn fenced(&self) -> Result<Fenced, ConnectorError> {
        let (options, writer) = (Arc::clone(&self.options), self.writer.clone());
        let made = tokio::task::spawn_blocking(move || {
            let producer: BaseProducer<Reports> = options
                .committing(&writer)
                .create_with_context(Reports::default())
                .map_err(|error| client_error(&error))?;
            producer
                .init_transactions(FENCE_WAIT)
                .map_err(|error| meaning(&options, &writer, &error))?;
            Ok(Fenced(Arc::new(producer)))
        });
        made.await.map_err(stopped)?
    }
}

#[async_trait]
impl CommittingSink for KafkaCommitter {
    fn form(&self) -> Form {
        self.encoding.form()
    }

    async fn check(&self) -> Result<(), ConnectorError> {
        let options = Arc::clone(&self.options);
        let asked = tokio::task::spawn_blocking(move || Cluster::new(&options)?.partitions());
        asked.await.map_err(stopped)??;
        marker::ensure_topic(&self.options).await?;
        self.fenced().await.map(drop)
    }

    async fn take_over(&mut self) -> Result<Option<Marker>, ConnectorError> {
        self.producer = None;
        // It may have been there at CREATE and have gone since.
        marker::ensure_topic(&self.options).await?;
        let producer = self.fenced().await?;
        let (options, writer) = (Arc::clone(&self.options), self.writer.clone());
        let newest = tokio::task::spawn_blocking(move || marker::newest(&options, &writer));
        self.committed = newest.await.map_err(stopped)??;
        self.producer = Some(producer);
        Ok(self.committed)
    }

    async fn deliver(&mut self, staged: &Staged) -> Result<Option<Marker>, ConnectorError> {
        // Taken out, so that whoever goes on after an error has none.
        let Some(producer) = self.producer.take() else {
            return Err(ConnectorError::Internal(
                "a delivery without having taken over".into(),
            ));
        };
        let transaction = Transaction {
            producer: Arc::clone(&producer.0),
            options: Arc::clone(&self.options),
            encoding: Arc::clone(&self.encoding),
            writer: self.writer.clone(),
            steps: self.steps.clone(),
        };
        let (marker, changes) = (staged.marker, staged.changes.clone());
        let committed = tokio::task::spawn_blocking(move || transaction.run(marker, &changes));
        committed.await.map_err(stopped)??;
        self.producer = Some(producer);
        self.committed = Some(marker);
        Ok(self.committed)
    }

    async fn commit(&mut self, _due: Due) -> Result<Option<Marker>, ConnectorError> {
        Ok(self.committed)
    }
}

/// What one transaction needs.
struct Transaction {
    producer: Arc<BaseProducer<Reports>>,
    options: Arc<KafkaOptions>,
    encoding: Arc<Encoding>,
    writer: String,
    steps: Option<Arc<dyn Steps>>,
}

impl Transaction {
    /// Sends the messages of `changes` and the marker, and makes them visible together. Blocks.
    fn run(&self, marker: Marker, changes: &[Delta]) -> Result<(), ConnectorError> {
        self.producer
            .begin_transaction()
            .map_err(|error| self.meaning(&error))?;
        tracing::trace!(
            epoch = marker.epoch,
            part = marker.part,
            "transaction begins"
        );
        let filled = self.fill(marker, changes);
        if let Err(error) = filled {
            // Only so that readers need not wait for its timeout.
            drop(self.producer.abort_transaction(ABORT_WAIT));
            return Err(error);
        }
        let ended = self.producer.commit_transaction(COMMIT_WAIT);
        if ended.is_ok() {
            self.pass(Step::KafkaCommitted)?;
        }
        tracing::trace!(epoch = marker.epoch, part = marker.part, "transaction ends");
        let refused = self.producer.context().refused.lock().take();
        ended.map_err(|error| self.meaning(&refused.unwrap_or(error)))
    }

    /// Fails where a test wants it.
    fn pass(&self, step: Step) -> Result<(), ConnectorError> {
        let passed = self.steps.as_ref().map_or(Ok(()), |steps| steps.pass(step));
        passed.map_err(|error| ConnectorError::Internal(error.to_string()))
    }

    fn fill(&self, marker: Marker, changes: &[Delta]) -> Result<(), ConnectorError> {
        self.pass(Step::KafkaBegun)?;
        let mut sent = 0;
        messages(&self.encoding, changes, |message| {
            sent += 1;
            if sent % POLL_EVERY == 0 {
                self.producer.poll(Duration::ZERO);
            }
            let mut record = BaseRecord::to(&self.options.topic);
            record.key = message.key.as_deref();
            record.payload = message.value.as_deref();
            self.send(record)
        })?;
        self.pass(Step::KafkaRows)?;
        let value = marker::encode(marker);
        let record = BaseRecord::to(MARKER_TOPIC).partition(MARKER_PARTITION);
        self.send(record.key(self.writer.as_bytes()).payload(value.as_slice()))?;
        self.pass(Step::KafkaMarked)
    }

    fn send(&self, record: BaseRecord<'_, [u8], [u8]>) -> Result<(), ConnectorError> {
        let mut record = record;
        loop {
            if let Some(error) = self.producer.context().refused.lock().take() {
                return Err(self.meaning(&error));
            }
            match self.producer.send(record) {
                Ok(()) => return Ok(()),
                Err((error, back)) => {
                    if error.rdkafka_error_code() != Some(RDKafkaErrorCode::QueueFull) {
                        return Err(self.meaning(&error));
                    }
                    // What is in the queue is acknowledged or refused within the time that a message may take.
                    record = back;
                    self.producer.poll(ROOM_WAIT);
                }
            }
        }
    }

    fn meaning(&self, error: &KafkaError) -> ConnectorError {
        meaning(&self.options, &self.writer, error)
    }
}

/// The messages of a delivery, in order: rows as they came, or for each key its row, or that it has none any more.
fn messages(
    encoding: &Encoding,
    changes: &[Delta],
    mut send: impl FnMut(Message) -> Result<(), ConnectorError>,
) -> Result<(), ConnectorError> {
    let upsert = encoding.form() == Form::Upsert;
    let mut there = HashSet::new();
    for (delta, row, weight) in rows(changes).filter(|(.., weight)| *weight > 0) {
        let message = encoding.message(&delta.batch, row)?;
        if upsert {
            let fresh = there.insert(message.key.clone());
            if weight > 1 || !fresh {
                return Err(ConnectorError::Internal(
                    "two rows have the same message key".into(),
                ));
            }
        }
        for _ in 1..weight {
            send(message.clone())?;
        }
        send(message)?;
    }
    if !upsert {
        return Ok(());
    }
    for (delta, row, _) in rows(changes).filter(|(.., weight)| *weight < 0) {
        let key = encoding.key(&delta.batch, row)?;
        if there.insert(key.clone()) {
            send(Message { key, value: None })?;
        }
    }
    Ok(())
}

fn rows(changes: &[Delta]) -> impl Iterator<Item = (&Delta, usize, i64)> {
    changes
        .iter()
        .flat_map(|delta| (0..delta.num_rows()).map(move |row| (delta, row, delta.weights.at(row))))
}

/// An error of a transaction, in our words.
fn meaning(options: &KafkaOptions, writer: &str, error: &KafkaError) -> ConnectorError {
    use RDKafkaErrorCode as Code;
    match error.rdkafka_error_code() {
        Some(Code::Fenced | Code::ProducerFenced | Code::InvalidProducerEpoch) => {
            ConnectorError::Fenced {
                writer: writer.to_owned(),
            }
        }
        Some(
            Code::UnsupportedFeature
            | Code::UnsupportedVersion
            | Code::TransactionalIdAuthorizationFailed
            | Code::ClusterAuthorizationFailed,
        ) => ConnectorError::NoTransactions {
            brokers: options.brokers.clone(),
            detail: error.to_string(),
        },
        _ => explain(options, error),
    }
}

#[cfg(test)]
mod tests;
