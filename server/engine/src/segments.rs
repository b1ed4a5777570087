//! The recent history of one relation: at which epochs its content is known, and what it is there.
//!
//! Invariant: at any epoch inside a known range the content is exact. A relation that the worker steps is *live*: its last range
//! reaches to the newest published epoch without being touched. One that a job computes may have gaps between ranges. A history
//! of changes alone has no content: what it was at an epoch is known elsewhere, in the offsets of a source or by a sink.

use std::collections::VecDeque;
use std::sync::Arc;

use datafusion::arrow::error::ArrowError;
use thalweg_connectors::{ColumnsRead, Delta};

use crate::built::Built;
use crate::choose::Range;
use crate::chunk::RowCodec;
use crate::relation::Version;

/// Versions this far behind the newest drop their cached rows.
const CACHED_VERSIONS: usize = 2;

/// Content from an epoch on, until the next segment.
#[derive(Debug)]
struct Segment {
    from: u64,
    version: Arc<Version>,
}

/// Versions and changes of one relation over the snapshot window.
#[derive(Debug)]
pub(crate) struct History {
    /// False for a history of changes alone.
    keeps_content: bool,
    empty: Arc<Version>,
    segments: VecDeque<Segment>,
    known: VecDeque<Range>,
    changes: VecDeque<(u64, Arc<Vec<Delta>>)>,
    /// Every change after this epoch is in `changes`.
    changes_after: u64,
    /// Which columns the changes have, of a source.
    built: Built,
    /// The first change is one to what an earlier run of the server has staged.
    goes_on: bool,
    live: bool,
}

impl History {
    pub(crate) fn new(codec: Arc<RowCodec>) -> Self {
        Self {
            keeps_content: true,
            empty: Arc::new(Version::empty(codec)),
            segments: VecDeque::new(),
            known: VecDeque::new(),
            changes: VecDeque::new(),
            changes_after: 0,
            built: Built::default(),
            goes_on: false,
            live: false,
        }
    }

    /// Without content: every version is empty, and the first change counts as one.
    pub(crate) fn of_changes(codec: Arc<RowCodec>) -> Self {
        Self {
            keeps_content: false,
            ..Self::new(codec)
        }
    }

    /// Starts with `version` at `epoch`.
    pub(crate) fn start(&mut self, epoch: u64, version: Arc<Version>, live: bool) {
        self.segments = VecDeque::from([Segment {
            from: epoch,
            version,
        }]);
        self.known = VecDeque::from([(epoch, epoch)]);
        self.changes.clear();
        self.changes_after = epoch;
        self.live = live;
    }

    /// Has the content of an earlier run of the server, at an epoch of which nobody reads it any more. A history of changes alone
    /// has those after that epoch from now on.
    pub(crate) fn resume(&mut self, epoch: u64, version: Arc<Version>) {
        self.start(epoch, version, false);
        self.known.clear();
        self.goes_on = !self.keeps_content;
    }

    /// The newest content, known or not yet started.
    pub(crate) fn newest(&self) -> Arc<Version> {
        self.segments.back().map_or_else(
            || Arc::clone(&self.empty),
            |segment| Arc::clone(&segment.version),
        )
    }

    /// Epoch of the newest change.
    pub(crate) fn changed_at(&self) -> u64 {
        self.segments.back().map_or(0, |segment| segment.from)
    }

    /// False when it is a history of changes alone.
    pub(crate) fn keeps_content(&self) -> bool {
        self.keeps_content
    }

    pub(crate) fn is_live(&self) -> bool {
        self.live
    }

    /// Whether the worker steps it from now on; when it stops, the content stays known through `epoch`.
    pub(crate) fn set_live(&mut self, live: bool, epoch: u64) {
        if self.live || live {
            self.extend(epoch);
        }
        self.live = live;
    }

    /// Makes the content known at `epoch`, with `deltas` added to what it was. A range stays whole when nothing can have
    /// happened in between: when the relation is live or was known at the epoch before.
    pub(crate) fn publish(&mut self, epoch: u64, deltas: Vec<Delta>) -> Result<(), ArrowError> {
        let first = self.known.is_empty();
        if first && !self.goes_on {
            // What it was before is no epoch that anyone could go on from.
            self.changes_after = epoch - u64::from(!self.keeps_content);
        }
        if self.segments.is_empty() || deltas.iter().any(|delta| delta.num_rows() > 0) {
            let version = match self.keeps_content {
                true => Arc::new(self.newest().with(&deltas)?),
                false => Arc::clone(&self.empty),
            };
            if self.changes_after < epoch {
                self.changes.push_back((epoch, Arc::new(deltas)));
            }
            self.segments.push_back(Segment {
                from: epoch,
                version,
            });
            let stale = self.segments.len().checked_sub(CACHED_VERSIONS + 1);
            if let Some(segment) = stale.and_then(|index| self.segments.get(index)) {
                segment.version.forget_rows();
            }
        }
        match self.known.back_mut() {
            Some(last) if self.live || last.1 + 1 >= epoch => last.1 = last.1.max(epoch),
            _ => self.known.push_back((epoch, epoch)),
        }
        Ok(())
    }

    /// The newest content holds through `epoch` too.
    pub(crate) fn extend(&mut self, epoch: u64) {
        if let Some(last) = self.known.back_mut() {
            last.1 = last.1.max(epoch);
        }
    }

    /// Known epochs, up to the published `latest`.
    pub(crate) fn known(&self, latest: u64) -> Vec<Range> {
        let mut known: Vec<Range> = self.known.iter().copied().collect();
        if let Some(last) = known.last_mut() {
            if self.live {
                last.1 = last.1.max(latest);
            }
            last.1 = last.1.min(latest);
        }
        known.retain(|range| range.0 <= range.1);
        known
    }

    /// Newest known epoch.
    pub(crate) fn through(&self, latest: u64) -> Option<u64> {
        self.known(latest).last().map(|range| range.1)
    }

    /// The content at a known epoch.
    pub(crate) fn at(&self, epoch: u64, latest: u64) -> Option<Arc<Version>> {
        let known = self.known(latest);
        let inside = known
            .iter()
            .rev()
            .any(|range| range.0 <= epoch && epoch <= range.1);
        let index = self
            .segments
            .partition_point(|segment| segment.from <= epoch)
            .checked_sub(1)?;
        if inside {
            self.segments
                .get(index)
                .map(|segment| Arc::clone(&segment.version))
        } else {
            None
        }
    }

    /// True when the content did not change in `(since, through]`, both known.
    pub(crate) fn unchanged(&self, since: u64, through: u64, latest: u64) -> bool {
        let newest = self
            .segments
            .back()
            .map_or(u64::MAX, |segment| segment.from);
        let whole = self
            .known(latest)
            .iter()
            .any(|range| range.0 <= since && through <= range.1);
        whole
            && (newest <= since
                || !self
                    .segments
                    .iter()
                    .any(|segment| segment.from > since && segment.from <= through))
    }

    /// Some rows of `epoch` have these columns alone; said before they are published.
    pub(crate) fn built_with(&mut self, epoch: u64, columns: &Arc<ColumnsRead>) {
        self.built.add(epoch, columns);
    }

    /// Net changes in `(since, through]`, both known; `None` when `since` is older than the history.
    pub(crate) fn delta(&self, since: u64, through: u64) -> Option<Vec<Delta>> {
        self.delta_of(since, through, &ColumnsRead::all())
    }

    /// The same, for a reader of some columns; `None` also when the rows after `since` do not all have them.
    pub(crate) fn delta_of(
        &self,
        since: u64,
        through: u64,
        columns: &ColumnsRead,
    ) -> Option<Vec<Delta>> {
        let inside = self.inside(since, through, columns)?;
        Some(
            inside
                .flat_map(|(_, deltas)| deltas.iter().cloned())
                .collect(),
        )
    }

    /// Changes in `(since, through]` by epoch; `None` when `since` is older than the history.
    pub(crate) fn changes(&self, since: u64, through: u64) -> Option<Vec<(u64, Arc<Vec<Delta>>)>> {
        let inside = self.inside(since, through, &ColumnsRead::all())?;
        Some(inside.cloned().collect())
    }

    fn inside(
        &self,
        since: u64,
        through: u64,
        columns: &ColumnsRead,
    ) -> Option<impl Iterator<Item = &(u64, Arc<Vec<Delta>>)> + use<'_>> {
        let inside =
            move |(epoch, _): &&(u64, Arc<Vec<Delta>>)| *epoch > since && *epoch <= through;
        let here = since >= self.changes_after_of(columns);
        here.then(|| self.changes.iter().filter(inside))
    }

    /// Whether some changes are kept.
    pub(crate) fn has_changes(&self) -> bool {
        !self.changes.is_empty()
    }

    /// Changes of all later epochs are kept.
    pub(crate) fn changes_after(&self) -> u64 {
        self.changes_after_of(&ColumnsRead::all())
    }

    /// Changes of all later epochs are kept, with everything that a reader of some columns reads.
    pub(crate) fn changes_after_of(&self, columns: &ColumnsRead) -> u64 {
        self.changes_after.max(self.built.complete_after(columns))
    }

    /// Forgets what only epochs before `horizon` need; the newest content always stays. Of a history of changes alone, whoever
    /// needs these says when they may go.
    pub(crate) fn collect(&mut self, horizon: u64) {
        self.collect_known(horizon);
        if self.keeps_content {
            self.forget_changes(horizon);
        }
    }

    /// The same, but keeps the changes.
    pub(crate) fn collect_known(&mut self, horizon: u64) {
        while self
            .segments
            .get(1)
            .is_some_and(|next| next.from <= horizon)
        {
            self.segments.pop_front();
        }
        while self.known.len() > 1 && self.known.front().is_some_and(|range| range.1 < horizon) {
            self.known.pop_front();
        }
        if let (Some(range), Some(segment)) = (self.known.front_mut(), self.segments.front()) {
            range.0 = range.0.max(segment.from).min(range.1.max(segment.from));
            range.1 = range.1.max(range.0);
        }
    }

    /// Forgets the changes through `epoch`, and more of the oldest when the rest takes more than `bytes_max`.
    pub(crate) fn forget_changes_over(&mut self, epoch: u64, bytes_max: usize) {
        self.forget_changes(epoch);
        let mut bytes = 0_usize;
        let over = self.changes.iter().rev().find(|(_, deltas)| {
            bytes = bytes.saturating_add(bytes_of(deltas));
            bytes > bytes_max
        });
        if let Some(epoch) = over.map(|(epoch, _)| *epoch) {
            self.forget_changes(epoch);
        }
    }

    /// Forgets the changes through `epoch`.
    pub(crate) fn forget_changes(&mut self, epoch: u64) {
        while let Some((oldest, _)) = self.changes.front().filter(|(oldest, _)| *oldest <= epoch) {
            self.changes_after = *oldest;
            self.changes.pop_front();
        }
        self.built.forget(self.changes_after);
    }

    /// Every version and every change that is kept, oldest first.
    pub(crate) fn held(&self) -> (Vec<Arc<Version>>, Vec<Arc<Vec<Delta>>>) {
        let versions = self.segments.iter().map(|segment| &segment.version);
        let changes = self.changes.iter().map(|(_, deltas)| deltas);
        (versions.cloned().collect(), changes.cloned().collect())
    }

    /// Estimated bytes of the newest content and the change log.
    pub(crate) fn bytes(&self) -> usize {
        let changes: usize = self
            .changes
            .iter()
            .map(|(_, deltas)| bytes_of(deltas))
            .sum();
        self.newest().bytes() + changes
    }
}

fn bytes_of(deltas: &[Delta]) -> usize {
    deltas
        .iter()
        .map(|delta| delta.batch.get_array_memory_size())
        .sum()
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::array::{AsArray, Int64Array, RecordBatch};
    use datafusion::arrow::datatypes::{DataType, Field, Int64Type, Schema};
    use proptest::prelude::*;
    use thalweg_connectors::Weights;

    use super::*;

    fn codec() -> Arc<RowCodec> {
        let schema = Arc::new(Schema::new(vec![Field::new("v", DataType::Int64, true)]));
        Arc::new(RowCodec::new(schema).expect("int64 has a row form"))
    }

    fn delta(codec: &RowCodec, rows: &[(i64, i64)]) -> Delta {
        let values = Int64Array::from_iter_values(rows.iter().map(|row| row.0));
        let batch = RecordBatch::try_new(Arc::clone(&codec.schema), vec![Arc::new(values)])
            .expect("one column");
        Delta {
            batch,
            weights: Weights::Each(rows.iter().map(|row| row.1).collect()),
        }
    }

    fn values(version: &Version) -> Option<Vec<i64>> {
        let rows = version.rows().expect("consolidates")?;
        let mut out: Vec<i64> = rows
            .iter()
            .flat_map(|batch| {
                batch
                    .column(0)
                    .as_primitive::<Int64Type>()
                    .values()
                    .to_vec()
            })
            .collect();
        out.sort_unstable();
        Some(out)
    }

    fn model(rows: &[(i64, i64)]) -> Option<Vec<i64>> {
        let mut net = std::collections::BTreeMap::new();
        rows.iter()
            .for_each(|(value, weight)| *net.entry(*value).or_insert(0) += weight);
        if net.values().any(|weight| *weight < 0) {
            return None;
        }
        Some(
            net.into_iter()
                .flat_map(|(value, weight)| std::iter::repeat_n(value, weight as usize))
                .collect(),
        )
    }

    fn changes() -> impl Strategy<Value = Vec<Vec<(i64, i64)>>> {
        prop::collection::vec(prop::collection::vec((0_i64..6, -2_i64..4), 0..8), 1..12)
    }

    proptest! {
        /// A version reads as the sum of its changes, however they were cut and merged.
        #[test]
        fn versions_sum_changes(changes in changes()) {
            let codec = codec();
            let mut version = Version::empty(Arc::clone(&codec));
            let mut all = Vec::new();
            for change in &changes {
                version = version.with(&[delta(&codec, change)]).expect("merges");
                all.extend_from_slice(change);
                prop_assert_eq!(values(&version), model(&all));
            }
        }

        /// Adding the difference of two versions to the older gives the newer; feeding X then -X leaves nothing.
        #[test]
        fn differences_add_up(first in changes(), second in changes()) {
            let codec = codec();
            let mut old = Version::empty(Arc::clone(&codec));
            for change in &first { old = old.with(&[delta(&codec, change)]).expect("merges"); }
            let mut new = old.with(&[]).expect("copies");
            for change in &second { new = new.with(&[delta(&codec, change)]).expect("merges"); }
            let there = old.with(&old.diff_to(&new).expect("diff")).expect("adds");
            prop_assert_eq!(values(&there), values(&new));
            let back = new.diff_to(&Version::empty(Arc::clone(&codec))).expect("diff");
            let nothing = new.with(&back).expect("adds");
            prop_assert_eq!(values(&nothing), Some(vec![]));
            prop_assert!(nothing.content().expect("nets").iter().all(|delta| delta.num_rows() == 0));
        }

        /// Live history: content at every epoch is that of the model, and deltas connect any two epochs.
        #[test]
        fn history_is_exact(changes in changes(), gap in 1_u64..4, horizon in 0_u64..20) {
            let codec = codec();
            let mut history = History::new(Arc::clone(&codec));
            history.start(1, Arc::new(Version::empty(Arc::clone(&codec))), true);
            let (mut epoch, mut all, mut contents) = (1, Vec::new(), vec![(1, model(&[]))]);
            for change in &changes {
                epoch += gap;
                history.publish(epoch, vec![delta(&codec, change)]).expect("publishes");
                all.extend_from_slice(change);
                contents.push((epoch, model(&all)));
            }
            let latest = epoch + 2;
            history.collect(horizon.min(latest));
            for at in 1..=latest {
                let expected = contents.iter().rev().find(|(from, _)| *from <= at).map(|(_, rows)| rows.clone());
                match history.at(at, latest) {
                    Some(version) => prop_assert_eq!(Some(values(&version)), expected),
                    None => prop_assert!(at < horizon),
                }
            }
            if let (Some(first), Some(sum)) = (history.at(horizon.clamp(1, latest), latest), history.delta(horizon.clamp(1, latest), latest)) {
                let last = history.at(latest, latest).expect("latest is known");
                prop_assert_eq!(values(&first.with(&sum).expect("adds")), values(&last));
            }
        }
    }

    /// Content of which most was deleted is as small as what is left, however the deletions came.
    #[test]
    fn deleted_rows_leave_memory() {
        let codec = codec();
        let mut version = Version::empty(Arc::clone(&codec));
        for from in (0..40_000).step_by(4_000) {
            let rows: Vec<_> = (from..from + 4_000).map(|value| (value, 1)).collect();
            version = version.with(&[delta(&codec, &rows)]).expect("adds");
        }
        let full = version.bytes();
        for from in (10..40_000).step_by(3_333) {
            let rows: Vec<_> = (from..(from + 3_333).min(40_000))
                .map(|value| (value, -1))
                .collect();
            version = version.with(&[delta(&codec, &rows)]).expect("adds");
        }
        assert_eq!(values(&version), Some((0..10).collect()));
        assert!(version.bytes() * 3 < full, "{} of {full}", version.bytes());
        // Equal rows are taken away as one.
        let mut same = Version::empty(Arc::clone(&codec));
        for _ in 0..40 {
            let rows: Vec<_> = (0..2_000).map(|value| (value, 1)).collect();
            same = same.with(&[delta(&codec, &rows)]).expect("adds");
        }
        let rows: Vec<_> = (10..2_000).map(|value| (value, -40)).collect();
        let full = same.bytes();
        same = same.with(&[delta(&codec, &rows)]).expect("adds");
        assert_eq!(same.net_rows(), 400);
        assert!(same.bytes() * 3 < full, "{} of {full}", same.bytes());
        // Deletions that nothing answers are not looked at again and again.
        let mut owed = Version::empty(Arc::clone(&codec));
        for from in (0..20_000).step_by(500) {
            let rows: Vec<_> = (from..from + 500).map(|value| (value, -1)).collect();
            owed = owed.with(&[delta(&codec, &rows)]).expect("adds");
        }
        assert_eq!((values(&owed), owed.net_rows()), (None, -20_000));
    }

    #[test]
    fn job_history_has_gaps() {
        let codec = codec();
        let mut history = History::new(Arc::clone(&codec));
        history
            .publish(4, vec![delta(&codec, &[(1, 1)])])
            .expect("publishes");
        history.extend(5);
        history
            .publish(8, vec![delta(&codec, &[(2, 1)])])
            .expect("publishes");
        history.publish(9, vec![]).expect("publishes");
        assert_eq!(history.known(20), vec![(4, 5), (8, 9)]);
        assert!(history.at(6, 20).is_none());
        assert!(
            history.unchanged(4, 5, 20)
                && history.unchanged(8, 9, 20)
                && !history.unchanged(5, 8, 20)
        );
        assert_eq!(history.delta(4, 9).map(|deltas| deltas.len()), Some(1));
        assert!(history.delta(3, 9).is_none());
    }

    /// Rows that lack what somebody reads are not among the changes that it is told.
    #[test]
    fn changes_are_told_to_those_who_read_what_they_have() {
        let codec = codec();
        let mut history = History::of_changes(Arc::clone(&codec));
        let (mut a, mut b) = (ColumnsRead::none(), ColumnsRead::none());
        a.add("a");
        b.add("b");
        let mut both = a.clone();
        both.join(&b);
        let built = [&a, &a, &both, &both].map(|columns| Arc::new(columns.clone()));
        for (epoch, columns) in (3..).zip(&built) {
            history.built_with(epoch, columns);
            history
                .publish(epoch, vec![delta(&codec, &[(1, 1)])])
                .expect("publishes");
        }
        let told = |history: &History, since, columns: &ColumnsRead| {
            let deltas = history.delta_of(since, 6, columns);
            deltas.map(|deltas| deltas.len())
        };
        assert_eq!(told(&history, 2, &a), Some(4));
        assert_eq!(
            [3, 4, 5].map(|since| told(&history, since, &b)),
            [None, Some(2), Some(1)]
        );
        assert_eq!(
            [4, 5].map(|since| told(&history, since, &both)),
            [Some(2), Some(1)]
        );
        // Who does not say what it reads reads everything.
        assert!(history.delta(5, 6).is_none() && history.changes(5, 6).is_none());
        assert_eq!(
            (history.changes_after(), history.changes_after_of(&b)),
            (6, 4)
        );
        history.forget_changes(4);
        assert_eq!(
            [3, 4].map(|since| told(&history, since, &a)),
            [None, Some(2)]
        );
        history.forget_changes(6);
        assert_eq!(history.delta(6, 6).map(|deltas| deltas.len()), Some(0));
    }

    /// A history of changes tells every change since its first, until it is told to forget.
    #[test]
    fn changes_alone_are_told_until_forgotten() {
        let codec = codec();
        let mut history = History::of_changes(Arc::clone(&codec));
        for epoch in 3..8_u64 {
            let rows: Vec<_> = (0..100).map(|row| (row, epoch as i64)).collect();
            history
                .publish(epoch, vec![delta(&codec, &rows)])
                .expect("publishes");
        }
        let told = |history: &History, since| history.delta(since, 7).map(|deltas| deltas.len());
        assert_eq!(history.known(20), vec![(3, 7)]);
        assert_eq!((told(&history, 2), told(&history, 5)), (Some(5), Some(2)));
        let version = history.at(5, 20).expect("is known");
        assert_eq!(values(&version), Some(vec![]));
        history.forget_changes(4);
        assert_eq!((told(&history, 3), told(&history, 4)), (None, Some(3)));
        let one = history.bytes() / 3;
        history.forget_changes_over(4, one * 2);
        assert_eq!((told(&history, 4), told(&history, 5)), (None, Some(2)));
        assert_eq!(history.known(20), vec![(3, 7)]);
    }
}
