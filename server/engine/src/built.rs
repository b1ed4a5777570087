//! Which columns the rows of a source that are in memory, and those on their way, were built with.
//!
//! Invariant: a reader is never given rows that were built with less than it reads. For one that reads what some rows lack, the
//! changes in memory begin after the newest epoch that has such rows; what lies before is read again from the source.

use std::sync::Arc;

use thalweg_connectors::{ColumnsRead, Offsets};

use crate::source::reached;

/// What is known of the rows in a history: by the columns they were built with, the newest epoch that has some.
#[derive(Debug, Default)]
pub(crate) struct Built {
    newest: Vec<(Arc<ColumnsRead>, u64)>,
}

impl Built {
    /// Some rows of `epoch` were built with `columns`.
    pub(crate) fn add(&mut self, epoch: u64, columns: &Arc<ColumnsRead>) {
        let known = self.newest.iter_mut().find(|(built, _)| built == columns);
        match known {
            Some((_, newest)) => *newest = (*newest).max(epoch),
            None => self.newest.push((Arc::clone(columns), epoch)),
        }
    }

    /// Rows of every later epoch have what a reader of `columns` reads.
    pub(crate) fn complete_after(&self, columns: &ColumnsRead) -> u64 {
        let lacking =
            |(built, newest): &(Arc<ColumnsRead>, u64)| (!built.covers(columns)).then_some(*newest);
        self.newest.iter().filter_map(lacking).max().unwrap_or(0)
    }

    /// No rows of epochs through this one are kept.
    pub(crate) fn forget(&mut self, epoch: u64) {
        self.newest.retain(|(_, newest)| *newest > epoch);
    }
}

/// What the reader that follows a source builds.
#[derive(Debug, Clone)]
pub(crate) struct Building {
    pub(crate) columns: Arc<ColumnsRead>,
    /// Where it began to.
    pub(crate) since: Offsets,
}

impl Building {
    /// True when every row from `at` on has what a reader of `columns` reads. What was `delivered` may be on its way still; when
    /// that is before `at`, there is nothing on its way that was built otherwise.
    pub(crate) fn suits(&self, columns: &ColumnsRead, at: &Offsets, delivered: &Offsets) -> bool {
        let begun = Offsets::new();
        let turned = self.columns.covers(columns) && reached(at, &self.since, &begun);
        turned || reached(at, delivered, &begun)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Columns by their names, one letter each.
    fn columns(names: &str) -> Arc<ColumnsRead> {
        let mut columns = ColumnsRead::none();
        names.split("").for_each(|name| columns.add(name));
        Arc::new(columns)
    }

    fn offsets(ends: [u64; 2]) -> Offsets {
        let split = |(split, end): (usize, u64)| (split.to_string(), end);
        ends.into_iter().enumerate().map(split).collect()
    }

    #[test]
    fn changes_begin_after_the_newest_rows_that_lack_something() {
        let mut built = Built::default();
        for (epoch, names) in [(3, "a"), (4, "ab"), (5, "a"), (6, "abc"), (8, "bc")] {
            built.add(epoch, &columns(names));
        }
        let begin = |built: &Built, names| built.complete_after(&columns(names));
        let found = ["", "a", "ab", "c", "bc", "abc", "d"].map(|names| begin(&built, names));
        assert_eq!(found, [0, 8, 8, 5, 5, 8, 8]);
        assert_eq!(built.complete_after(&ColumnsRead::all()), 8);
        built.forget(5);
        let found = ["", "a", "ab", "c", "bc", "abc", "d"].map(|names| begin(&built, names));
        assert_eq!(found, [0, 8, 8, 0, 0, 8, 8]);
        built.forget(8);
        assert_eq!(built.complete_after(&ColumnsRead::all()), 0);
    }

    #[test]
    fn a_reader_takes_over_where_nothing_lacks_what_it_reads() {
        // Built, since, read, at, delivered: whether everything from `at` on will do.
        let cases = [
            // Everything built before the turn has been taken in.
            ("ab", [5, 5], "b", [5, 5], [9, 9], true),
            ("ab", [5, 5], "b", [6, 7], [9, 9], true),
            ("ab", [0, 0], "b", [0, 0], [9, 9], true),
            // Rows from before the turn are still on their way, in one split or in both.
            ("ab", [5, 5], "b", [5, 4], [9, 9], false),
            ("ab", [5, 5], "b", [0, 0], [5, 5], false),
            // The reader has not been told yet.
            ("a", [5, 5], "b", [7, 7], [7, 8], false),
            ("a", [5, 5], "b", [7, 7], [7, 7], true),
            ("ab", [9, 9], "b", [9, 8], [9, 8], true),
        ];
        for (built, since, read, at, delivered, suits) in cases {
            let building = Building {
                columns: columns(built),
                since: offsets(since),
            };
            let found = building.suits(&columns(read), &offsets(at), &offsets(delivered));
            assert_eq!(
                found, suits,
                "{building:?} for {read} at {at:?} of {delivered:?}"
            );
        }
    }
}
