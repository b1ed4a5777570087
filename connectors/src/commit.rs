//! The contract of sinks that deliver exactly once: staged changes go out with a marker, and the outside system tells which came.
//!
//! Invariant: rows and marker of a delivery become visible outside together or not at all, and after a writer has taken over no
//! earlier writer can make anything visible. So whoever opens a sink anew reads the marker and sends only what is behind it.

use std::collections::BTreeMap;

use async_trait::async_trait;

use crate::delta::Delta;
use crate::error::ConnectorError;
use crate::sink::Form;
use crate::source::Offsets;

/// How far a sink has been delivered: what was staged with the checkpoint of an epoch, in parts when that is large. Ordered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Marker {
    /// Last epoch of the checkpoint.
    pub epoch: u64,
    /// Number of the part within it, from 0.
    pub part: u32,
    /// Whether it is the last part of its checkpoint.
    pub last: bool,
}

/// What was staged for one delivery.
#[derive(Debug, Clone)]
pub struct Staged {
    /// Where it stands among the sink's deliveries.
    pub marker: Marker,
    /// Milliseconds since the Unix epoch: greater than those of every earlier delivery of the sink, and at least the wall clock of
    /// the marker's epoch. Staging again after a crash gives the same number.
    pub stamp_ms: i64,
    /// Net changes since the delivery before. For [`Form::Upsert`] there is at most one deletion and at most one insertion of a
    /// key; for [`Form::Append`] there are insertions only.
    pub changes: Vec<Delta>,
    /// By name of source: where reading goes on after the rows of this delivery and of all before it. Only for sinks that read
    /// sources without any state in between; empty for others.
    pub frontier: BTreeMap<String, Offsets>,
}

/// When gathered deliveries are committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Due {
    /// When the sink's own rule (size, age) says so.
    IfRipe,
    /// Now: somebody waits for it, or the sink ends.
    Now,
}

/// An open sink that delivers exactly once. Calls come from one task, in order of markers. After an error the sink is dropped and
/// opened anew, so that whatever was left ambiguous is decided by [`CommittingSink::take_over`].
#[async_trait]
pub trait CommittingSink: Send + Sync {
    /// What its rows stand for.
    fn form(&self) -> Form;

    /// Asks the outside system whether it has what the sink needs; once, at CREATE. Leaves nothing behind but what all sinks of
    /// that system share.
    ///
    /// # Errors
    /// What is missing there, or why it does not answer.
    async fn check(&self) -> Result<(), ConnectorError>;

    /// Shuts out every earlier writer of this sink, finishes or undoes what one left half done, and tells the newest marker that
    /// is committed outside; `None` when there has been none.
    ///
    /// # Errors
    /// What the outside system answers, or does not. A sink that was just opened may refuse, with an error that
    /// [shuts out](ConnectorError::shuts_out), when another server has taken over from the last writer of this process.
    async fn take_over(&mut self) -> Result<Option<Marker>, ConnectorError>;

    /// Takes one delivery. The newest marker that is committed after the call; an older one (or `None`) while the sink gathers
    /// several deliveries for one commit. What is not committed stays staged and is handed over again after a restart.
    ///
    /// # Errors
    /// A [`ConnectorError`]; whether anything was committed is unknown then.
    async fn deliver(&mut self, staged: &Staged) -> Result<Option<Marker>, ConnectorError>;

    /// Commits what was gathered, if it is due. Called about every second and before [`Due::Now`] is needed; sinks that commit
    /// each delivery return their last marker.
    ///
    /// # Errors
    /// As for [`CommittingSink::deliver`].
    async fn commit(&mut self, due: Due) -> Result<Option<Marker>, ConnectorError>;

    /// Why rows of deliveries were refused for good, since the last call; what was delivered with them stays.
    fn take_refused(&mut self) -> Vec<ConnectorError> {
        Vec::new()
    }
}
