//! The steps of connectors that a test may make fail, among the crash points of the data dir.
//!
//! Invariant: without crash points connectors are given none.

use std::io;
use std::sync::Arc;

use thalweg_connectors::{Step, Steps};
use thalweg_state::{CrashPoints, Point};

#[derive(Debug)]
struct Armed(CrashPoints);

impl Steps for Armed {
    fn pass(&self, step: Step) -> io::Result<()> {
        self.0.hit(match step {
            Step::Create => Point::ArchiveCreate,
            Step::Write => Point::ArchiveWrite,
            Step::Close => Point::ArchiveClose,
            Step::Staged => Point::ArchiveStaged,
            Step::Place => Point::ArchivePlace,
            Step::Seal => Point::ArchiveSeal,
            Step::Sealed => Point::ArchiveSealed,
            Step::Fence => Point::ArchiveFence,
            Step::HbaseRows => Point::HbaseRows,
            Step::HbaseRequest => Point::HbaseRequest,
            Step::HbaseMarker => Point::HbaseMarker,
            Step::HbaseMarked => Point::HbaseMarked,
            Step::Aside => Point::ExchangeAside,
            Step::Moved => Point::ExchangeMoved,
            Step::Exchange => Point::ExchangePlace,
            Step::Exchanged => Point::ExchangePlaced,
            Step::Forget => Point::ExchangeForget,
            Step::KafkaBegun => Point::KafkaBegun,
            Step::KafkaRows => Point::KafkaRows,
            Step::KafkaMarked => Point::KafkaMarked,
            Step::KafkaCommitted => Point::KafkaCommitted,
        })
    }
}

/// What connectors ask at each step; nothing, unless a test wants to make one fail.
pub(crate) fn steps(points: &CrashPoints) -> Option<Arc<dyn Steps>> {
    (!points.is_none()).then(|| Arc::new(Armed(points.clone())) as Arc<dyn Steps>)
}
