//! Named places around the durable steps, at which a test can make the process fail.
//!
//! Invariant: without debug assertions nothing can be armed and nothing is counted. Every place is in [`Point::ALL`], and a test
//! fails when one of them is never reached.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A place at which a process may be made to fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say which step, and when")]
pub enum Point {
    FormatWrite,
    FormatRename,
    FormatFolder,
    DatabaseCreate,
    DatabaseRename,
    DatabaseFolder,
    ManifestOpen,
    SweepRemove,
    LogBegin,
    LogCommit,
    LogDone,
    RunCreate,
    RunWrite,
    RunFinish,
    RunSync,
    RunFolder,
    RunOpen,
    ManifestBegin,
    ManifestCommit,
    ManifestDone,
    MergeBegin,
    MergeWrite,
    MergeCommit,
    MergeDone,
    RunRemove,
    BackupDatabase,
    BackupRun,
    BackupList,
    RestoreBegin,
    RestoreFile,
    RestoreEnd,
    ArchiveCreate,
    ArchiveWrite,
    ArchiveClose,
    ArchiveStaged,
    ArchivePlace,
    ArchiveSeal,
    ArchiveSealed,
    ArchiveFence,
    HbaseRows,
    HbaseRequest,
    HbaseMarker,
    HbaseMarked,
    ExchangeAside,
    ExchangeMoved,
    ExchangePlace,
    ExchangePlaced,
    ExchangeForget,
    KafkaBegun,
    KafkaRows,
    KafkaMarked,
    KafkaCommitted,
}

impl Point {
    /// Every place, in the order in which a server comes to them.
    pub const ALL: [Point; 52] = [
        Point::FormatWrite,
        Point::FormatRename,
        Point::FormatFolder,
        Point::DatabaseCreate,
        Point::DatabaseRename,
        Point::DatabaseFolder,
        Point::ManifestOpen,
        Point::SweepRemove,
        Point::LogBegin,
        Point::LogCommit,
        Point::LogDone,
        Point::RunCreate,
        Point::RunWrite,
        Point::RunFinish,
        Point::RunSync,
        Point::RunFolder,
        Point::RunOpen,
        Point::ManifestBegin,
        Point::ManifestCommit,
        Point::ManifestDone,
        Point::MergeBegin,
        Point::MergeWrite,
        Point::MergeCommit,
        Point::MergeDone,
        Point::RunRemove,
        Point::BackupDatabase,
        Point::BackupRun,
        Point::BackupList,
        Point::RestoreBegin,
        Point::RestoreFile,
        Point::RestoreEnd,
        Point::ArchiveCreate,
        Point::ArchiveWrite,
        Point::ArchiveClose,
        Point::ArchiveStaged,
        Point::ArchivePlace,
        Point::ArchiveSeal,
        Point::ArchiveSealed,
        Point::ArchiveFence,
        Point::HbaseRows,
        Point::HbaseRequest,
        Point::HbaseMarker,
        Point::HbaseMarked,
        Point::ExchangeAside,
        Point::ExchangeMoved,
        Point::ExchangePlace,
        Point::ExchangePlaced,
        Point::ExchangeForget,
        Point::KafkaBegun,
        Point::KafkaRows,
        Point::KafkaMarked,
        Point::KafkaCommitted,
    ];

    /// The name it is armed by.
    pub fn name(self) -> &'static str {
        match self {
            Point::FormatWrite => "format.write",
            Point::FormatRename => "format.rename",
            Point::FormatFolder => "format.folder",
            Point::DatabaseCreate => "database.create",
            Point::DatabaseRename => "database.rename",
            Point::DatabaseFolder => "database.folder",
            Point::ManifestOpen => "manifest.open",
            Point::SweepRemove => "sweep.remove",
            Point::LogBegin => "log.begin",
            Point::LogCommit => "log.commit",
            Point::LogDone => "log.done",
            Point::RunCreate => "run.create",
            Point::RunWrite => "run.write",
            Point::RunFinish => "run.finish",
            Point::RunSync => "run.sync",
            Point::RunFolder => "run.folder",
            Point::RunOpen => "run.open",
            Point::ManifestBegin => "manifest.begin",
            Point::ManifestCommit => "manifest.commit",
            Point::ManifestDone => "manifest.done",
            Point::MergeBegin => "merge.begin",
            Point::MergeWrite => "merge.write",
            Point::MergeCommit => "merge.commit",
            Point::MergeDone => "merge.done",
            Point::RunRemove => "run.remove",
            Point::BackupDatabase => "backup.database",
            Point::BackupRun => "backup.run",
            Point::BackupList => "backup.list",
            Point::RestoreBegin => "restore.begin",
            Point::RestoreFile => "restore.file",
            Point::RestoreEnd => "restore.end",
            Point::ArchiveCreate => "archive.create",
            Point::ArchiveWrite => "archive.write",
            Point::ArchiveClose => "archive.close",
            Point::ArchiveStaged => "archive.staged",
            Point::ArchivePlace => "archive.place",
            Point::ArchiveSeal => "archive.seal",
            Point::ArchiveSealed => "archive.sealed",
            Point::ArchiveFence => "archive.fence",
            Point::HbaseRows => "hbase.rows",
            Point::HbaseRequest => "hbase.request",
            Point::HbaseMarker => "hbase.marker",
            Point::HbaseMarked => "hbase.marked",
            Point::ExchangeAside => "exchange.aside",
            Point::ExchangeMoved => "exchange.moved",
            Point::ExchangePlace => "exchange.place",
            Point::ExchangePlaced => "exchange.placed",
            Point::ExchangeForget => "exchange.forget",
            Point::KafkaBegun => "kafka.begun",
            Point::KafkaRows => "kafka.rows",
            Point::KafkaMarked => "kafka.marked",
            Point::KafkaCommitted => "kafka.committed",
        }
    }
}

/// How to fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CrashAction {
    /// The step reports an error.
    Error,
    /// The thread panics.
    Panic,
    /// The process ends at once.
    Abort,
}

/// Counts how often each place is reached, and fails at one of them.
#[derive(Debug, Clone, Default)]
pub struct CrashPoints(Option<Arc<Armed>>);

#[derive(Debug)]
struct Armed {
    hits: [AtomicU64; Point::ALL.len()],
    failing: Option<(Point, u64, CrashAction)>,
}

impl CrashPoints {
    /// Fails nowhere and counts nothing: what a server runs with.
    pub fn none() -> Self {
        Self(None)
    }

    /// Fails nowhere, but counts.
    pub fn counting() -> Self {
        Self::with(None)
    }

    /// Fails the `hit`th time, counted from one, that `point` is reached.
    pub fn armed(point: Point, hit: u64, action: CrashAction) -> Self {
        Self::with(Some((point, hit, action)))
    }

    /// Reads `<point>:<hit>:error|panic|abort`, or `count`.
    ///
    /// # Errors
    /// Says which part is none.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text == "count" {
            return Ok(Self::counting());
        }
        let mut parts = text.split(':');
        let (Some(name), Some(hit), Some(action), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(format!("\"{text}\" is not <point>:<hit>:<action>"));
        };
        let point = Point::ALL
            .into_iter()
            .find(|point| point.name() == name)
            .ok_or_else(|| format!("there is no crash point \"{name}\""))?;
        let hit = hit
            .parse()
            .map_err(|_| format!("\"{hit}\" is no number of a hit"))?;
        let action = match action {
            "error" => CrashAction::Error,
            "panic" => CrashAction::Panic,
            "abort" => CrashAction::Abort,
            _ => return Err(format!("\"{action}\" is not error, panic or abort")),
        };
        Ok(Self::armed(point, hit, action))
    }

    fn with(failing: Option<(Point, u64, CrashAction)>) -> Self {
        if !cfg!(debug_assertions) {
            return Self(None);
        }
        Self(Some(Arc::new(Armed {
            hits: std::array::from_fn(|_| AtomicU64::new(0)),
            failing,
        })))
    }

    /// True when nothing fails and nothing is counted.
    pub fn is_none(&self) -> bool {
        self.0.is_none()
    }

    /// How often a place was reached.
    pub fn hits(&self, point: Point) -> u64 {
        self.counter(point)
            .map_or(0, |(_, counter)| counter.load(Ordering::SeqCst))
    }

    fn counter(&self, point: Point) -> Option<(&Armed, &AtomicU64)> {
        let armed = self.0.as_deref()?;
        let index = Point::ALL.iter().position(|other| *other == point)?;
        Some((armed, armed.hits.get(index)?))
    }

    /// Passes a place.
    ///
    /// # Errors
    /// When the place is armed to report one.
    ///
    /// # Panics
    /// When the place is armed to.
    pub fn hit(&self, point: Point) -> io::Result<()> {
        let Some((armed, counter)) = self.counter(point) else {
            return Ok(());
        };
        let hit = counter.fetch_add(1, Ordering::SeqCst) + 1;
        match armed.failing {
            Some((failing, at, action)) if failing == point && at == hit => match action {
                CrashAction::Error => Err(io::Error::other(format!(
                    "crash point {} was reached",
                    point.name()
                ))),
                CrashAction::Panic => panic!("crash point {} was reached", point.name()),
                CrashAction::Abort => std::process::abort(),
            },
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_point_fails_at_its_hit_only() {
        let points = CrashPoints::parse("run.sync:2:error").expect("parses");
        assert!(points.hit(Point::RunSync).is_ok());
        assert!(points.hit(Point::RunWrite).is_ok());
        assert!(points.hit(Point::RunSync).is_err());
        assert!(points.hit(Point::RunSync).is_ok());
        assert_eq!(points.hits(Point::RunSync), 3);
        assert!(CrashPoints::none().hit(Point::RunSync).is_ok());
    }

    #[test]
    fn names_are_read_back_and_others_refused() {
        for point in Point::ALL {
            let text = format!("{}:1:error", point.name());
            let points = CrashPoints::parse(&text).expect("parses");
            assert!(points.hit(point).is_err(), "{text}");
        }
        for text in [
            "run.sync",
            "run.sink:1:error",
            "run.sync:x:error",
            "run.sync:1:stop",
        ] {
            assert!(CrashPoints::parse(text).is_err(), "{text}");
        }
    }
}
