//! Chooses the epoch a view is computed at next.
//!
//! Invariant: the choice depends on the candidate epochs alone. Among them it prefers the roundest number in binary, so that
//! views which run at different speeds still meet at common epochs, and a snapshot over all of them exists.

/// Inclusive range of epochs.
pub(crate) type Range = (u64, u64);

/// Epochs in both lists; both are sorted, and their ranges do not touch each other.
pub(crate) fn intersect(a: &[Range], b: &[Range]) -> Vec<Range> {
    let mut out = Vec::new();
    let (mut a, mut b) = (a.iter().peekable(), b.iter().peekable());
    while let (Some(left), Some(right)) = (a.peek(), b.peek()) {
        let (lo, hi) = (left.0.max(right.0), left.1.min(right.1));
        if lo <= hi {
            out.push((lo, hi));
        }
        if left.1 < right.1 {
            a.next();
        } else {
            b.next();
        }
    }
    out
}

/// The epochs that every list knows; `None` when there is no list.
pub(crate) fn common<'a>(lists: impl IntoIterator<Item = &'a [Range]>) -> Option<Vec<Range>> {
    lists
        .into_iter()
        .fold(None, |known: Option<Vec<Range>>, list| match known {
            Some(known) => Some(intersect(&known, list)),
            None => Some(list.to_vec()),
        })
}

/// The newest epoch in `known`.
pub(crate) fn newest(known: &[Range]) -> Option<u64> {
    known.last().map(|range| range.1)
}

/// The epoch after `done` with the most trailing zero bits; among equals the newest.
pub(crate) fn roundest_after(known: &[Range], done: u64) -> Option<u64> {
    known
        .iter()
        .filter(|range| range.1 > done)
        .map(|range| roundest(range.0.max(done + 1), range.1))
        .max_by_key(|epoch| (epoch.trailing_zeros(), *epoch))
}

/// The number in `lo..=hi` with the most trailing zero bits.
fn roundest(lo: u64, hi: u64) -> u64 {
    let mut best = hi;
    let mut bit = 0;
    while bit < 63 {
        let rounded = hi >> bit << bit;
        if rounded < lo || rounded == 0 {
            break;
        }
        best = rounded;
        bit += 1;
    }
    best
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn members(ranges: &[Range]) -> Vec<u64> {
        ranges.iter().flat_map(|range| range.0..=range.1).collect()
    }

    fn ranges() -> impl Strategy<Value = Vec<Range>> {
        prop::collection::vec((1_u64..5, 0_u64..6), 0..6).prop_map(|steps| {
            let mut next = 1;
            steps
                .into_iter()
                .map(|(gap, len)| {
                    let range = (next + gap, next + gap + len);
                    next = range.1 + 1;
                    range
                })
                .collect()
        })
    }

    #[test]
    fn table() {
        assert_eq!(roundest_after(&[(1, 21)], 8), Some(16));
        assert_eq!(roundest_after(&[(1, 21)], 16), Some(20));
        assert_eq!(roundest_after(&[(1, 21)], 20), Some(21));
        assert_eq!(roundest_after(&[(1, 21)], 21), None);
        assert_eq!(roundest_after(&[(3, 3), (5, 5)], 0), Some(5));
        assert_eq!(roundest_after(&[], 0), None);
        assert_eq!(
            common([[(1, 9)].as_slice(), &[(2, 3), (8, 12)]]),
            Some(vec![(2, 3), (8, 9)])
        );
        assert_eq!(newest(&[(2, 3), (8, 9)]), Some(9));
    }

    #[test]
    fn views_of_different_speed_meet() {
        // One view takes 3 epochs for a run, the other 7; both see every epoch of their input known.
        let run = |slow: u64| {
            let (mut done, mut now, mut seen) = (0, 0, Vec::new());
            while now < 4096 {
                now += slow;
                if let Some(epoch) = roundest_after(&[(1, now)], done) {
                    done = epoch;
                    seen.push(epoch);
                }
            }
            seen
        };
        let (fast, slow) = (run(3), run(7));
        let meet: Vec<u64> = slow
            .iter()
            .copied()
            .filter(|epoch| fast.contains(epoch))
            .collect();
        assert!(
            meet.windows(2).all(|pair| pair[1] - pair[0] <= 32),
            "{meet:?}"
        );
        assert!(meet.len() > 128, "{}", meet.len());
    }

    proptest! {
        #[test]
        fn intersection_is_that_of_sets(a in ranges(), b in ranges()) {
            let (left, right) = (members(&a), members(&b));
            let expected: Vec<u64> = left.into_iter().filter(|epoch| right.contains(epoch)).collect();
            prop_assert_eq!(members(&intersect(&a, &b)), expected);
        }

        #[test]
        fn choice_is_the_roundest(known in ranges(), done in 0_u64..30) {
            let best = members(&known).into_iter().filter(|epoch| *epoch > done)
                .max_by_key(|epoch| (epoch.trailing_zeros(), *epoch));
            prop_assert_eq!(roundest_after(&known, done), best);
        }
    }
}
