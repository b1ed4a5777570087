//! Decides where a partition is read from, given where we were and what the broker holds.
//!
//! Invariant: records are left out only where the source never promised them (before its start) or with a [`Place::Gap`]. Nobody is
//! sent back to where it was but by the broker's word on that partition: an end that was looked up is older than what has been read
//! since.

use super::client::Extent;

/// Where to read a partition from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// Here; nothing is missing.
    At(u64),
    /// Records from `from` on are gone; the first one left is at `resume_at`.
    Gap { from: u64, resume_at: u64 },
}

/// What the broker would not give a reader that had come to `at` in a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Refusal {
    /// The survey that began last when it was told: what an older one found may no longer be so.
    pub(super) survey: u64,
    pub(super) at: u64,
    /// It is this position; otherwise it is the partition.
    pub(super) position: bool,
}

impl Refusal {
    /// Where a reader goes on that is at `next` by now, when a survey that began after the refusal found `extent`.
    pub(super) fn answer(self, next: u64, start: Option<u64>, extent: Extent) -> Place {
        match self.position && self.at == next {
            true => after_refusal(next, start, extent),
            // It has been read since, or was away and is there again; if it was made anew the broker refuses the position next.
            false => begin(Some(next), start, extent),
        }
    }
}

/// Where a reader that was not reading yet begins.
///
/// `next` is where it was left, `start` where the source starts. A reader still at its start has seen nothing, so what
/// retention has eaten there is not missing from it. A position beyond the end is left for the broker to judge: right after a
/// leader change an end offset may briefly be too low.
pub(super) fn begin(next: Option<u64>, start: Option<u64>, extent: Extent) -> Place {
    match next {
        None => Place::At(extent.low),
        Some(next) if next >= extent.low => Place::At(next),
        Some(next) if next <= start.unwrap_or(0) => Place::At(extent.low),
        Some(next) => Place::Gap {
            from: next,
            resume_at: extent.low,
        },
    }
}

/// Where a reader goes on whose position the broker has refused; `extent` was taken after that.
fn after_refusal(next: u64, start: Option<u64>, extent: Extent) -> Place {
    if next > extent.high {
        // The topic was deleted and created anew, or truncated by an unclean election.
        Place::Gap {
            from: next,
            resume_at: extent.low,
        }
    } else {
        begin(Some(next), start, extent)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXTENT: Extent = Extent { low: 10, high: 20 };

    #[test]
    fn a_reader_begins_where_nothing_is_missing() {
        for (next, start, expected) in [
            (None, None, Place::At(10)),
            (Some(15), Some(0), Place::At(15)),
            (Some(20), Some(0), Place::At(20)),
            (Some(25), Some(0), Place::At(25)),
            (Some(5), Some(5), Place::At(10)),
            (Some(0), None, Place::At(10)),
            (
                Some(7),
                Some(5),
                Place::Gap {
                    from: 7,
                    resume_at: 10,
                },
            ),
            (
                Some(7),
                None,
                Place::Gap {
                    from: 7,
                    resume_at: 10,
                },
            ),
        ] {
            assert_eq!(begin(next, start, EXTENT), expected, "{next:?} {start:?}");
        }
    }

    /// Only the position that was refused, in a partition that has not got on since, is taken for one beyond the end.
    #[test]
    fn an_end_from_before_what_was_read_moves_nobody_back() {
        let gap = Place::Gap {
            from: 25,
            resume_at: 10,
        };
        for (at, position, next, expected) in [
            (25, true, 25, gap),
            (15, true, 15, Place::At(15)),
            // Read on while the end was looked up.
            (20, true, 25, Place::At(25)),
            // The partition was not known for a moment.
            (25, false, 25, Place::At(25)),
            (20, false, 25, Place::At(25)),
        ] {
            let refusal = Refusal {
                survey: 1,
                at,
                position,
            };
            assert_eq!(
                refusal.answer(next, Some(0), EXTENT),
                expected,
                "{refusal:?} {next}"
            );
        }
    }

    #[test]
    fn a_refused_position_beyond_the_end_is_a_gap() {
        assert_eq!(
            after_refusal(25, Some(0), EXTENT),
            Place::Gap {
                from: 25,
                resume_at: 10
            }
        );
        assert_eq!(after_refusal(20, Some(0), EXTENT), Place::At(20));
        assert_eq!(
            after_refusal(9, Some(0), EXTENT),
            Place::Gap {
                from: 9,
                resume_at: 10
            }
        );
    }
}
