//! The decisions of the commit protocol, apart from all input and output.
//!
//! Invariant: a commit that is named by a manifest is never undone, one that is not whole is never done, and two writers never
//! both believe that they made the same commit.

use crate::store::Moved;

/// The newest commit, and who made it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Head {
    /// Its number; 0 before the first.
    pub number: u64,
    /// The writer's generation; 0 before the first.
    pub generation: u64,
}

/// A manifest that was found staged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Candidate {
    /// Generation of the folder it lies in.
    pub(crate) generation: u64,
    /// The number it is for.
    pub(crate) number: u64,
    /// Its text is complete, and every file it names is there for good at its stated length, staged or in its place.
    pub(crate) whole: bool,
}

/// What a new writer does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// Finishes the commit of this candidate, then looks again.
    RollForward(usize),
    /// Commits an empty manifest as this head, which shuts out every earlier writer.
    Fence(Head),
}

/// What is left of an earlier writer's last commit is finished when it could have been acknowledged soon: it is whole, by the
/// newest generation, and next in line. Anything else is swept after the fence.
pub(crate) fn next_step(head: Head, candidates: &[Candidate]) -> Step {
    let due = |candidate: &Candidate| {
        candidate.whole
            && candidate.generation == head.generation
            && candidate.number == head.number + 1
    };
    match candidates.iter().position(due) {
        Some(at) => Step::RollForward(at),
        None => Step::Fence(Head {
            number: head.number + 1,
            generation: head.generation + 1,
        }),
    }
}

/// Where a file of a staged commit is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Whereabouts {
    /// In its place, whole.
    Placed,
    /// Staged, whole.
    Staged,
    /// Nowhere, or not whole.
    Lost,
}

/// Where a file of this length is, from the lengths found under both of its names.
pub(crate) fn whereabouts(bytes: u64, staged: Option<u64>, placed: Option<u64>) -> Whereabouts {
    if placed == Some(bytes) {
        Whereabouts::Placed
    } else if staged == Some(bytes) && placed.is_none() {
        Whereabouts::Staged
    } else {
        Whereabouts::Lost
    }
}

/// What became of a commit whose manifest was renamed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is committed.
    Committed,
    /// Somebody else committed under its number.
    Fenced,
}

/// The verdict on a rename to a manifest's name, given what is there when the name was taken.
pub(crate) fn verdict(moved: Moved, found: Option<&[u8]>, ours: &[u8]) -> Verdict {
    match (moved, found) {
        (Moved::Done, _) => Verdict::Committed,
        // Whoever took over may have finished this very commit for us.
        (Moved::Taken, Some(found)) if found == ours => Verdict::Committed,
        (Moved::Taken, _) => Verdict::Fenced,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_writer_finishes_what_is_whole_and_next_and_fences_otherwise() {
        let head = Head {
            number: 7,
            generation: 3,
        };
        let fence = Step::Fence(Head {
            number: 8,
            generation: 4,
        });
        let candidate = |generation, number, whole| Candidate {
            generation,
            number,
            whole,
        };
        for (found, expected) in [
            (vec![], fence),
            (vec![candidate(3, 8, true)], Step::RollForward(0)),
            (vec![candidate(3, 8, false)], fence),
            (vec![candidate(3, 7, true)], fence),
            (vec![candidate(3, 9, true)], fence),
            (vec![candidate(2, 8, true)], fence),
            (vec![candidate(4, 8, true)], fence),
            (
                vec![candidate(2, 8, true), candidate(3, 8, true)],
                Step::RollForward(1),
            ),
        ] {
            assert_eq!(next_step(head, &found), expected, "{found:?}");
        }
        assert_eq!(
            next_step(Head::default(), &[]),
            Step::Fence(Head {
                number: 1,
                generation: 1
            })
        );
    }

    #[test]
    fn a_file_counts_only_at_its_stated_length() {
        use Whereabouts::{Lost, Placed, Staged};
        for (staged, placed, expected) in [
            (Some(5), None, Staged),
            (None, Some(5), Placed),
            // A rename that a crash cut in half has both names.
            (Some(5), Some(5), Placed),
            (Some(4), None, Lost),
            (None, Some(4), Lost),
            (Some(5), Some(4), Lost),
            (Some(4), Some(5), Placed),
            (None, None, Lost),
        ] {
            assert_eq!(
                whereabouts(5, staged, placed),
                expected,
                "{staged:?} {placed:?}"
            );
        }
    }

    #[test]
    fn a_name_that_is_taken_is_ours_only_with_our_bytes() {
        for (moved, found, expected) in [
            (Moved::Done, None, Verdict::Committed),
            (Moved::Taken, Some(&b"ours"[..]), Verdict::Committed),
            (Moved::Taken, Some(&b"theirs"[..]), Verdict::Fenced),
            (Moved::Taken, None, Verdict::Fenced),
        ] {
            assert_eq!(verdict(moved, found, b"ours"), expected, "{found:?}");
        }
    }
}
