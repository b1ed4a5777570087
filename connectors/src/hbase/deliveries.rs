//! Which rows of a write go in one request: those of one region, as far as its borders are known.
//!
//! Invariant: what is known of regions may be old or nothing; it decides what goes together and first, never what is written. Each
//! mutation is in one delivery or refused.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::error::HbaseError;
use super::limits::{BATCH_ROWS_MAX, REQUEST_BYTES_MAX};
use super::write::{Mutation, RefusedRow};

/// For how long regions are taken to be where they were. They split and merge rarely.
const KNOWN_FOR: Duration = Duration::from_secs(30);
/// A delivery that is full to less than this part of it goes on into the next region: of many small requests each costs a round
/// trip, and a gateway sends on to several regions at once too.
const WORTH_A_REQUEST: usize = 16;

/// Whether a write is so large that it matters which rows go together.
pub(super) fn is_large(mutations: &[Mutation], batch_bytes: usize) -> bool {
    let enough = batch_bytes / WORTH_A_REQUEST;
    let mut sizes = mutations.iter().map(Mutation::bytes);
    let mut sum = 0;
    sizes.any(|size| {
        sum += size;
        sum > enough
    })
}

/// First keys of a table's regions, in order.
pub(super) type Starts = Arc<[Vec<u8>]>;

/// What is known of where a table's regions begin.
#[derive(Debug, Default)]
pub(super) struct Borders {
    known: Mutex<Option<(Starts, Instant)>>,
}

impl Borders {
    /// What was learned not too long ago.
    pub(super) fn known(&self, now: Instant) -> Option<Starts> {
        let known = self.known.lock();
        let (starts, learned) = known.as_ref()?;
        let is_old = now.saturating_duration_since(*learned) > KNOWN_FOR;
        (!is_old).then(|| Arc::clone(starts))
    }

    /// Remembers what was found, which is nothing when nobody could be asked.
    pub(super) fn learned(&self, starts: Vec<Vec<u8>>, now: Instant) -> Starts {
        let starts = Starts::from(starts);
        *self.known.lock() = Some((Arc::clone(&starts), now));
        starts
    }

    /// The next large write asks anew: HBase did not take one.
    pub(super) fn forget(&self) {
        *self.known.lock() = None;
    }
}

/// Cuts mutations, which are in key order, into deliveries of about `batch_bytes`, and where regions begin. The first delivery of
/// each region comes before the second of any, so that as many regions as can be work at once.
pub(super) fn deliveries(
    mutations: Vec<Mutation>,
    starts: &[Vec<u8>],
    batch_bytes: usize,
    refused: &mut Vec<RefusedRow>,
) -> Vec<Vec<Mutation>> {
    let row_bytes_max = batch_bytes.max(REQUEST_BYTES_MAX);
    let region_of =
        |mutation: &Mutation| starts.partition_point(|start| &start[..] <= mutation.key());
    let (mut done, mut batch, mut size) = (Vec::new(), Vec::new(), 0);
    let (mut region, mut turn) = (0, 0);
    for mutation in mutations {
        let bytes = mutation.bytes();
        if bytes > row_bytes_max {
            refused.push(RefusedRow {
                row: mutation.row,
                error: HbaseError::RowTooLarge { bytes },
            });
            continue;
        }
        let is_next_region = region_of(&mutation) != region;
        let is_full = batch.len() == BATCH_ROWS_MAX || size + bytes > batch_bytes;
        let is_worth_it = is_next_region && size >= batch_bytes / WORTH_A_REQUEST;
        if (is_full || is_worth_it) && !batch.is_empty() {
            done.push((turn, std::mem::take(&mut batch)));
            size = 0;
            turn += 1;
        }
        if is_next_region {
            (region, turn) = (region_of(&mutation), 0);
        }
        size += bytes;
        batch.push(mutation);
    }
    if !batch.is_empty() {
        done.push((turn, batch));
    }
    // Stable, so that regions stay in their order.
    done.sort_by_key(|(turn, _)| *turn);
    done.into_iter().map(|(_, batch)| batch).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::collection::{btree_set, vec};
    use proptest::prelude::*;

    use super::super::request::NewCell;
    use super::*;

    fn mutation(row: usize, key: &[u8], bytes: usize) -> Mutation {
        let cell = NewCell {
            family: b"f".to_vec(),
            qualifier: b"q".to_vec(),
            value: vec![0; bytes],
        };
        Mutation::replacing(row, key.to_vec(), vec![cell], Vec::new(), 1)
    }

    fn keys(batch: &[Mutation]) -> Vec<String> {
        let text = |one: &Mutation| String::from_utf8_lossy(one.key()).into_owned();
        batch.iter().map(text).collect()
    }

    #[test]
    fn regions_take_turns_and_share_a_request_only_when_they_have_little() {
        let starts = [b"".to_vec(), b"d".to_vec(), b"m".to_vec()];
        let cut = |sizes: &[(&str, usize)]| {
            let mutations = sizes.iter().enumerate();
            let mutations =
                mutations.map(|(row, (key, size))| mutation(row, key.as_bytes(), *size));
            let parts = deliveries(mutations.collect(), &starts, 10_000, &mut Vec::new());
            parts
                .iter()
                .map(|part| keys(part).join(" "))
                .collect::<Vec<_>>()
        };
        let large = [
            ("a", 6000),
            ("b", 6000),
            ("d", 6000),
            ("e", 6000),
            ("e1", 3000),
            ("m", 6000),
        ];
        assert_eq!(cut(&large), ["a", "d", "m", "b", "e e1"]);
        assert_eq!(cut(&[("a", 10), ("d", 10), ("m", 10)]), ["a d m"]);
        // Little of one region is no reason for a request, much of it is.
        assert_eq!(
            cut(&[("a", 10), ("d", 6000), ("m", 10), ("n", 10)]),
            ["a d", "m n"]
        );
        assert_eq!(cut(&[]), Vec::<String>::new());
    }

    #[test]
    fn borders_are_forgotten_after_a_while_and_after_trouble() {
        let borders = Borders::default();
        let begun = Instant::now();
        assert_eq!(borders.known(begun), None);
        let starts = borders.learned(vec![vec![], vec![7]], begun);
        assert_eq!(borders.known(begun + KNOWN_FOR), Some(starts));
        let late = begun + KNOWN_FOR + Duration::from_millis(1);
        assert_eq!(borders.known(late), None);
        borders.learned(vec![vec![]], late);
        borders.forget();
        assert_eq!(borders.known(late), None);
    }

    proptest! {
        /// Whatever is taken for the borders, each mutation is delivered once, those of a delivery in key order, and no delivery
        /// is too large.
        #[test]
        fn borders_change_nothing_of_what_is_written(
            rows in btree_set(vec(any::<u8>(), 1..4), 0..80),
            sizes in vec(0..4000_usize, 80),
            starts in btree_set(vec(any::<u8>(), 0..3), 0..9),
            batch_bytes in 1000..20_000_usize,
        ) {
            let mutations = rows.iter().zip(&sizes).enumerate();
            let mutations: Vec<Mutation> =
                mutations.map(|(row, (key, size))| mutation(row, key, *size)).collect();
            let starts: Vec<Vec<u8>> = starts.into_iter().collect();
            let mut refused = Vec::new();
            let parts = deliveries(mutations.clone(), &starts, batch_bytes, &mut refused);
            prop_assert!(refused.is_empty());
            let mut found = BTreeSet::new();
            for part in &parts {
                prop_assert!(!part.is_empty());
                prop_assert!(part.is_sorted_by(|a, b| a.key() < b.key()));
                let bytes: usize = part.iter().map(Mutation::bytes).sum();
                prop_assert!(bytes <= batch_bytes || part.len() == 1);
                for one in part {
                    prop_assert!(found.insert(one.row), "once");
                }
            }
            prop_assert_eq!(found.len(), mutations.len());
            // What makes several deliveries of one is worth asking for the borders.
            if parts.len() > 1 {
                prop_assert!(is_large(&mutations, batch_bytes));
            }
        }
    }
}
