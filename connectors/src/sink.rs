//! The contract between a sink connector and the engine.
//!
//! Invariant: `write` and `send` may be called again with what was already written after a crash or a failure; a sink that
//! cannot detect this says so by being `at_least_once`.

use arrow::record_batch::RecordBatch;
use async_trait::async_trait;

use crate::commit::CommittingSink;
use crate::delta::{Delta, EpochInfo};
use crate::error::ConnectorError;

/// A sink as the engine drives it.
pub enum AnySink {
    /// Takes changes as they are.
    Rows(Box<dyn Sink>),
    /// Takes messages, each of which stands for a row or for a key's row.
    Messages(Box<dyn MessageSink>),
    /// Takes staged changes, each exactly once.
    Committing(Box<dyn CommittingSink>),
}

impl std::fmt::Debug for AnySink {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(match self {
            AnySink::Rows(_) => "AnySink::Rows",
            AnySink::Messages(_) => "AnySink::Messages",
            AnySink::Committing(_) => "AnySink::Committing",
        })
    }
}

impl AnySink {
    /// Asks the outside system whether it has what the sink needs; once, at CREATE.
    ///
    /// # Errors
    /// What is missing there, or why it does not answer.
    pub async fn check(&self) -> Result<(), ConnectorError> {
        match self {
            AnySink::Rows(_) => Ok(()),
            AnySink::Messages(sink) => sink.check().await,
            AnySink::Committing(sink) => sink.check().await,
        }
    }
}

/// An open sink. Calls come in epoch order from one task; a worker never waits for them.
#[async_trait]
pub trait Sink: Send + Sync {
    /// Delivers the net changes of one epoch.
    async fn write(&mut self, epoch: EpochInfo, changes: &[Delta]) -> Result<(), ConnectorError>;

    /// Rows delivered since it was opened, deletions included.
    fn rows_written(&self) -> u64;
}

/// What a message stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// A row that was inserted. Deletions have no message.
    Append,
    /// The row of a key, or without a value that the key has none any more.
    Upsert,
}

/// One message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Names the row under [`Form::Upsert`]; chooses the partition.
    pub key: Option<Vec<u8>>,
    /// The row; `None` for a deletion.
    pub value: Option<Vec<u8>>,
}

/// An open sink that takes messages. What was delivered, and what has to be again, is the engine's to know.
#[async_trait]
pub trait MessageSink: Send + Sync {
    /// What its messages stand for.
    fn form(&self) -> Form;

    /// Asks the outside system whether it has what the sink needs.
    async fn check(&self) -> Result<(), ConnectorError>;

    /// The message of each row of a batch as an insertion; the same rows always give the same bytes.
    fn messages(&self, batch: &RecordBatch) -> Result<Vec<Message>, ConnectorError>;

    /// Returns when the outside system has accepted all messages, those of one key in their order. After an error any of them
    /// may have been accepted.
    async fn send(&mut self, messages: Vec<Message>) -> Result<(), ConnectorError>;

    /// Why rows of messages that were sent were refused for good, since the last call; what was accepted with them stays.
    fn take_refused(&mut self) -> Vec<ConnectorError> {
        Vec::new()
    }
}
