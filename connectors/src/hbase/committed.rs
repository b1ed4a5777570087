//! Which cells of a table belong to deliveries that are whole, for reads that shall see no part of one.
//!
//! Invariant: a view names a timestamp that all cells of whole deliveries have at most, and no cell of a later one. It holds as
//! long as HBase cannot have given up the cells it needs: a cell keeps its newest versions, and each delivery adds at most one.
//! There is no view as long as a sink that writes to the table has not said how far it has come.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, OnceCell};

use super::error::HbaseError;
use super::reply::Family;

/// How far the sinks of this server have come with one table.
#[derive(Debug, Default)]
pub(super) struct Committed {
    state: Mutex<State>,
    /// A sink has come further, or is gone.
    changed: Notify,
    /// Versions that each cell has, once HBase was asked.
    pub(super) versions: OnceCell<u64>,
}

#[derive(Debug, Default)]
struct State {
    /// Of each sink, by its number.
    sinks: BTreeMap<u32, Sink>,
    /// Deliveries and statements that were begun.
    begun: u64,
    /// Deliveries among them.
    deliveries: u64,
}

#[derive(Debug)]
struct Sink {
    /// Places that are held for it.
    places: usize,
    reached: Reached,
}

/// How far a sink has come.
#[derive(Debug)]
enum Reached {
    /// No writer has taken over yet: an earlier process may have left a part of a delivery.
    Unknown,
    /// It has not begun a delivery.
    Nothing,
    Whole(Whole),
}

/// The newest delivery that is whole.
#[derive(Debug)]
struct Whole {
    stamp_ms: i64,
    /// Deliveries and statements that had been begun when it was.
    begun: u64,
    /// What goes with the delivery under way goes at the very time of the last one.
    torn: bool,
}

impl Reached {
    fn whole(stamp_ms: i64, begun: u64) -> Self {
        Self::Whole(Whole {
            stamp_ms,
            begun,
            torn: false,
        })
    }
}

/// What a read may see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct View {
    /// Cells before this, in milliseconds; `None` for all, as long as no delivery has begun.
    pub(super) until_ms: Option<i64>,
    begun: u64,
    deliveries: u64,
}

/// A sink's place among those that write to a table: from the moment it is known until it is dropped, over all its writers. While
/// it is held, reads with `scan.consistency = 'committed'` see only whole deliveries of the sink, and wait until it has said which
/// these are.
#[derive(Debug)]
pub struct HbaseSinkPlace {
    committed: Arc<Committed>,
    sink: u32,
}

impl HbaseSinkPlace {
    pub(super) fn new(committed: &Arc<Committed>, sink: u32) -> Self {
        let mut state = committed.state.lock();
        let known = state.sinks.entry(sink).or_insert(Sink {
            places: 0,
            reached: Reached::Unknown,
        });
        known.places += 1;
        Self {
            committed: Arc::clone(committed),
            sink,
        }
    }
}

impl Drop for HbaseSinkPlace {
    fn drop(&mut self) {
        let mut state = self.committed.state.lock();
        if let Some(known) = state.sinks.get_mut(&self.sink) {
            known.places = known.places.saturating_sub(1);
        }
        state.sinks.retain(|_, known| known.places > 0);
        drop(state);
        self.committed.changed.notify_waiters();
    }
}

impl Committed {
    /// A writer has taken over, and found this to be the timestamp of the newest whole delivery; `None` when none has ever begun.
    /// The one before it may have begun another.
    pub(super) fn taken_over(&self, sink: u32, stamp_ms: Option<i64>) {
        self.reach(sink, |begun| match stamp_ms {
            Some(stamp_ms) => Reached::whole(stamp_ms, begun),
            None => Reached::Nothing,
        });
        self.state.lock().begun += 1;
    }

    /// Cells with this timestamp begin to come.
    pub(super) fn begin(&self, sink: u32, stamp_ms: i64) {
        let mut state = self.state.lock();
        let begun = state.begun;
        state.begun += 1;
        state.deliveries += 1;
        let Some(known) = state.sinks.get_mut(&sink) else {
            return;
        };
        match &mut known.reached {
            Reached::Whole(whole) => whole.torn = stamp_ms < whole.stamp_ms.saturating_add(2),
            first => *first = Reached::whole(before(stamp_ms), begun),
        }
    }

    /// A statement adds a version to the cells that it writes.
    pub(super) fn statement(&self) {
        self.state.lock().begun += 1;
    }

    /// They are all there.
    pub(super) fn end(&self, sink: u32, stamp_ms: i64) {
        self.reach(sink, |begun| Reached::whole(stamp_ms, begun));
    }

    fn reach(&self, sink: u32, reached: impl FnOnce(u64) -> Reached) {
        let mut state = self.state.lock();
        let begun = state.begun;
        if let Some(known) = state.sinks.get_mut(&sink) {
            known.reached = reached(begun);
        }
        drop(state);
        self.changed.notify_waiters();
    }

    /// What a read that begins now may see. Waits for a sink whose deliveries are not known yet.
    ///
    /// # Errors
    /// 55000 when that takes longer than `wait`, or nothing whole can be seen.
    pub(super) async fn view(&self, table: &str, wait: Duration) -> Result<View, HbaseError> {
        let known = async {
            loop {
                let changed = self.changed.notified();
                tokio::pin!(changed);
                // From here on nothing is missed.
                changed.as_mut().enable();
                if let Some(view) = self.view_now(table).transpose() {
                    return view;
                }
                changed.await;
            }
        };
        match tokio::time::timeout(wait, known).await {
            Ok(view) => view,
            Err(_) => Err(HbaseError::SinkUnknown {
                table: table.to_owned(),
            }),
        }
    }

    /// `None` as long as that is not known.
    fn view_now(&self, table: &str) -> Result<Option<View>, HbaseError> {
        let state = self.state.lock();
        let view = |until_ms, begun| View {
            until_ms,
            begun,
            deliveries: state.deliveries,
        };
        let mut sinks = state.sinks.values();
        match (sinks.next().map(|sink| &sink.reached), sinks.next()) {
            (Some(_), Some(_)) => Err(HbaseError::SeveralSinks {
                table: table.to_owned(),
            }),
            (Some(Reached::Unknown), None) => Ok(None),
            (None | Some(Reached::Nothing), _) => Ok(Some(view(None, state.begun))),
            (Some(Reached::Whole(whole)), None) => match whole.torn {
                true => Err(overtaken(table)),
                false => {
                    let until_ms = whole.stamp_ms.saturating_add(1);
                    Ok(Some(view(Some(until_ms), whole.begun)))
                }
            },
        }
    }

    /// Fails when HBase may have given up what the view shows.
    pub(super) fn check(&self, view: View, table: &str) -> Result<(), HbaseError> {
        let versions = self.versions.get().copied().unwrap_or(1);
        let state = self.state.lock();
        let Some(until_ms) = view.until_ms else {
            // A delivery that began since is among all that it shows.
            return match state.deliveries == view.deliveries {
                true => Ok(()),
                false => Err(overtaken(table)),
            };
        };
        let torn = state.sinks.values().any(|sink| match &sink.reached {
            // Only a view of the delivery before is harmed.
            Reached::Whole(whole) => whole.torn && whole.stamp_ms.saturating_add(1) >= until_ms,
            Reached::Unknown | Reached::Nothing => false,
        });
        match state.begun.saturating_sub(view.begun) < versions && !torn {
            true => Ok(()),
            false => Err(overtaken(table)),
        }
    }
}

/// A timestamp that shows all that was there before a delivery, and nothing of it: what it deletes goes a millisecond before it.
pub(super) fn before(stamp_ms: i64) -> i64 {
    stamp_ms.saturating_sub(2)
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

    fn until(committed: &Committed) -> Result<Option<Option<i64>>, HbaseError> {
        let view = committed.view_now("t");
        view.map(|view| view.map(|view| view.until_ms))
    }

    fn view(committed: &Committed) -> View {
        committed.view_now("t").expect("one sink").expect("a view")
    }

    #[test]
    fn a_view_is_of_whole_deliveries_and_ends_when_its_cells_may_be_gone() {
        let committed = Arc::new(Committed::default());
        committed.versions.set(3).expect("once");
        assert_eq!(until(&committed), Ok(Some(None)), "no sink");
        let _place = HbaseSinkPlace::new(&committed, 7);
        committed.taken_over(7, None);
        committed.begin(7, 1_000);
        assert_eq!(
            until(&committed),
            Ok(Some(Some(999))),
            "nothing of the first, deletions included"
        );
        committed.end(7, 1_000);
        committed.begin(7, 2_000);
        let of_first = view(&committed);
        assert_eq!(of_first.until_ms, Some(1_001));
        assert_eq!(committed.check(of_first, "t"), Ok(()));
        committed.end(7, 2_000);
        committed.begin(7, 3_000);
        assert_eq!(
            committed.check(of_first, "t"),
            Ok(()),
            "two of three versions are newer"
        );
        committed.begin(7, 4_000);
        assert_eq!(committed.check(of_first, "t"), Err(overtaken("t")));
        // A clock that stands still: what goes, goes in the millisecond of the last delivery.
        committed.end(7, 4_000);
        let of_last = view(&committed);
        committed.begin(7, 4_001);
        assert_eq!(committed.check(of_last, "t"), Err(overtaken("t")));
        assert_eq!(until(&committed), Err(overtaken("t")));
        committed.end(7, 4_001);
        assert_eq!(until(&committed), Ok(Some(Some(4_002))));
    }

    #[test]
    fn a_sink_is_known_from_its_place_until_the_last_is_given_up() {
        let committed = Arc::new(Committed::default());
        committed.versions.set(2).expect("once");
        let of_all = view(&committed);
        // After a restart the marker tells, and a delivery may have been begun.
        let place = HbaseSinkPlace::new(&committed, 7);
        assert_eq!(until(&committed), Ok(None), "nobody has asked HBase");
        committed.taken_over(7, Some(500));
        let of_marker = view(&committed);
        assert_eq!(of_marker.until_ms, Some(501));
        assert_eq!(committed.check(of_marker, "t"), Ok(()));
        committed.begin(7, 900);
        assert_eq!(committed.check(of_marker, "t"), Err(overtaken("t")));
        assert_eq!(committed.check(of_all, "t"), Err(overtaken("t")));
        // Another sink, and another writer of the first.
        let other = HbaseSinkPlace::new(&committed, 8);
        let several = committed.view_now("t");
        assert!(matches!(several, Err(HbaseError::SeveralSinks { .. })));
        drop(other);
        drop(HbaseSinkPlace::new(&committed, 7));
        assert_eq!(until(&committed), Ok(Some(Some(501))));
        drop(place);
        assert_eq!(until(&committed), Ok(Some(None)));
        // What a dropped sink still says is not heard.
        committed.end(7, 900);
        assert_eq!(until(&committed), Ok(Some(None)));
        // A sink that has delivered nothing: all is seen until it begins.
        let _place = HbaseSinkPlace::new(&committed, 9);
        committed.taken_over(9, None);
        let of_all = view(&committed);
        assert_eq!(of_all.until_ms, None);
        assert_eq!(committed.check(of_all, "t"), Ok(()));
        committed.begin(9, 2_000);
        assert_eq!(committed.check(of_all, "t"), Err(overtaken("t")));
        assert_eq!(until(&committed), Ok(Some(Some(1_999))));
    }

    #[tokio::test]
    async fn a_read_waits_for_a_sink_that_is_not_known_yet() {
        let committed = Arc::new(Committed::default());
        let _place = HbaseSinkPlace::new(&committed, 7);
        let refused = committed.view("t", Duration::ZERO).await;
        assert!(matches!(refused, Err(HbaseError::SinkUnknown { .. })));
        let waiting = committed.view("t", Duration::from_secs(600));
        let taking_over = async { committed.taken_over(7, Some(500)) };
        let (view, ()) = tokio::join!(waiting, taking_over);
        assert_eq!(view.map(|view| view.until_ms), Ok(Some(501)));
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
