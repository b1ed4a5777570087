//! Which cells of a table belong to deliveries that are whole, for reads that shall see no part of one.
//!
//! Invariant: a view names a timestamp that all cells of whole deliveries have at most, and no cell of a later one. It holds as
//! long as HBase cannot have given up the cells it needs: a cell keeps its newest versions, and each delivery adds at most one.

use std::collections::BTreeMap;

use parking_lot::Mutex;
use tokio::sync::OnceCell;

use super::error::HbaseError;
use super::reply::Family;

/// How far the sinks of this server have come with one table.
#[derive(Debug, Default)]
pub(super) struct Committed {
    state: Mutex<State>,
    /// Versions that each cell has, once HBase was asked.
    pub(super) versions: OnceCell<u64>,
}

#[derive(Debug, Default)]
struct State {
    /// Of each sink, by its number.
    sinks: BTreeMap<u32, Sink>,
    /// Deliveries that were begun.
    begun: u64,
}

#[derive(Debug)]
struct Sink {
    /// Of the newest delivery that is whole.
    stamp_ms: i64,
    /// Deliveries that had been begun when it was.
    begun: u64,
    /// What goes with the delivery under way goes at the very time of the last one.
    torn: bool,
}

impl Sink {
    fn whole(stamp_ms: i64, begun: u64) -> Self {
        Self {
            stamp_ms,
            begun,
            torn: false,
        }
    }
}

/// What a read may see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct View {
    /// Cells before this, in milliseconds.
    pub(super) until_ms: i64,
    begun: u64,
}

impl Committed {
    /// A writer has taken over, and found this to be the newest delivery. The one before it may have begun another.
    pub(super) fn taken_over(&self, sink: u32, stamp_ms: Option<i64>) {
        let mut state = self.state.lock();
        let begun = state.begun;
        if let Some(stamp_ms) = stamp_ms {
            state.sinks.insert(sink, Sink::whole(stamp_ms, begun));
        }
        state.begun += 1;
    }

    /// Cells with this timestamp begin to come.
    pub(super) fn begin(&self, sink: u32, stamp_ms: i64) {
        let mut state = self.state.lock();
        let begun = state.begun;
        state.begun += 1;
        // Its first: all that was there before, and nothing that it deletes, a millisecond before it.
        let before = Sink::whole(stamp_ms.saturating_sub(2), begun);
        let known = state.sinks.entry(sink).or_insert(before);
        known.torn = stamp_ms < known.stamp_ms.saturating_add(2);
    }

    /// A statement adds a version to the cells that it writes.
    pub(super) fn statement(&self) {
        self.state.lock().begun += 1;
    }

    /// They are all there.
    pub(super) fn end(&self, sink: u32, stamp_ms: i64) {
        let mut state = self.state.lock();
        let begun = state.begun;
        state.sinks.insert(sink, Sink::whole(stamp_ms, begun));
    }

    /// What a read that begins now may see; `None` for everything, as long as no sink writes to the table.
    pub(super) fn view(&self, table: &str) -> Result<Option<View>, HbaseError> {
        let state = self.state.lock();
        let mut sinks = state.sinks.values();
        match (sinks.next(), sinks.next()) {
            (None, _) => Ok(None),
            (Some(sink), None) if !sink.torn => Ok(Some(View {
                until_ms: sink.stamp_ms.saturating_add(1),
                begun: sink.begun,
            })),
            (Some(_), None) => Err(overtaken(table)),
            (Some(_), Some(_)) => Err(HbaseError::SeveralSinks {
                table: table.to_owned(),
            }),
        }
    }

    /// Fails when HBase may have given up what the view shows.
    pub(super) fn check(&self, view: View, table: &str) -> Result<(), HbaseError> {
        let versions = self.versions.get().copied().unwrap_or(1);
        let state = self.state.lock();
        let torn = state.sinks.values().any(|sink| {
            // Only a view of the delivery before is harmed.
            sink.torn && sink.stamp_ms.saturating_add(1) >= view.until_ms
        });
        match state.begun.saturating_sub(view.begun) < versions && !torn {
            true => Ok(()),
            false => Err(overtaken(table)),
        }
    }
}

fn overtaken(table: &str) -> HbaseError {
    HbaseError::Overtaken {
        table: table.to_owned(),
    }
}

/// How many versions the families keep, of deleted cells too.
pub(super) fn versions(table: &str, used: &[Vec<u8>], found: &[Family]) -> Result<u64, HbaseError> {
    let used = found.iter().filter(|family| used.contains(&family.name));
    let least = used.map(|family| match family.keeps_deleted {
        true => u64::try_from(family.versions).unwrap_or(0),
        false => 0,
    });
    match least.min() {
        Some(versions @ 2..) => Ok(versions),
        _ => Err(HbaseError::NoVersions {
            table: table.to_owned(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_view_is_of_whole_deliveries_and_ends_when_its_cells_may_be_gone() {
        let committed = Committed::default();
        committed.versions.set(3).expect("once");
        let until = || {
            committed
                .view("t")
                .map(|view| view.map(|view| view.until_ms))
        };
        assert_eq!(until(), Ok(None), "no sink, nothing to wait for");
        committed.begin(7, 1_000);
        assert_eq!(
            until(),
            Ok(Some(999)),
            "nothing of the first, deletions included"
        );
        committed.end(7, 1_000);
        committed.begin(7, 2_000);
        let view = committed.view("t").expect("one sink").expect("a view");
        assert_eq!(view.until_ms, 1_001);
        assert_eq!(committed.check(view, "t"), Ok(()));
        committed.end(7, 2_000);
        committed.begin(7, 3_000);
        assert_eq!(
            committed.check(view, "t"),
            Ok(()),
            "two of three versions are newer"
        );
        committed.begin(7, 4_000);
        assert_eq!(committed.check(view, "t"), Err(overtaken("t")));
        // A clock that stands still: what goes, goes in the millisecond of the last delivery.
        committed.end(7, 4_000);
        let view = committed.view("t").expect("one sink").expect("a view");
        committed.begin(7, 4_001);
        assert_eq!(committed.check(view, "t"), Err(overtaken("t")));
        assert_eq!(until(), Err(overtaken("t")));
        committed.end(7, 4_001);
        assert_eq!(until(), Ok(Some(4_002)));
        // After a restart the marker tells, and a delivery may have been begun.
        let committed = Committed::default();
        committed.versions.set(2).expect("once");
        committed.taken_over(7, Some(500));
        let view = committed.view("t").expect("one sink").expect("a view");
        assert_eq!((view.until_ms, committed.check(view, "t")), (501, Ok(())));
        committed.begin(7, 900);
        assert_eq!(committed.check(view, "t"), Err(overtaken("t")));
        committed.begin(8, 900);
        let several = committed.view("t");
        assert!(matches!(several, Err(HbaseError::SeveralSinks { .. })));
    }

    #[test]
    fn families_that_keep_too_little_are_refused() {
        let family = |name: &str, versions, keeps_deleted| Family {
            name: name.into(),
            versions,
            keeps_deleted,
        };
        let found = [
            family("a", 5, true),
            family("b", 3, true),
            family("c", 1, false),
        ];
        let of = |used: &[&str]| {
            let used: Vec<Vec<u8>> = used.iter().map(|name| (*name).into()).collect();
            versions("t", &used, &found).ok()
        };
        assert_eq!(of(&["a", "b"]), Some(3));
        assert_eq!(of(&["a", "c"]), None);
        assert_eq!(of(&["other"]), None);
    }
}
