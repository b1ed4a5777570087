//! Reads records by the way the records before them were written.
//!
//! Invariant: a record that is read here has, slot by slot, the values that splitting it with serde_json and reading each member
//! would give; whatever is out of the ordinary (an escape in a name, a member twice, anything that is no JSON) is not read here.
//!
//! Writers put the members of a topic's records in one order with the same blanks, so all bytes between two values are the same
//! from record to record. They are remembered as steps, and the next record is read by comparing them. Where no step fits, the
//! member's name is read and looked up, and that becomes a step.

use std::collections::HashMap;

use super::Members;
use super::scan::{blank_end, integer, string_end, value_end, word_end};
use crate::format::time::Days;

/// Steps remembered at one place; records that go more ways are looked up.
const STEPS_MAX: usize = 8;
/// Members without a column that are remembered.
const OTHERS_MAX: usize = 256;
/// Bytes of one step.
const STEP_BYTES_MAX: usize = 256;
/// Nesting that is read here. serde_json refuses 128, so this must be less.
const DEPTH_MAX: usize = 64;
/// The place before the first member.
const START: usize = 0;
/// A place that nothing is remembered for.
const UNKNOWN: usize = usize::MAX;

/// Where a value is in its record, and what it is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(in crate::format) struct Slot {
    start: u32,
    end: u32,
    pub(in crate::format) read: Read,
}

/// What has been read of a value.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(in crate::format) enum Read {
    /// `null`, or no such member.
    Null,
    /// Where it ends.
    Extent,
    /// A value of an integer column, or microseconds of a timestamp column.
    Integer(i64),
    Bool(bool),
    /// A string without escapes that fits its column.
    Text,
    /// An object whose members are in the slots of its fields.
    Object,
}

impl Slot {
    pub(in crate::format) const NULL: Slot = Slot {
        start: 0,
        end: 0,
        read: Read::Null,
    };

    /// The value's text.
    pub(in crate::format) fn of(self, record: &str) -> Option<&str> {
        record.get(self.start as usize..self.end as usize)
    }

    /// The content of a string.
    pub(in crate::format) fn content(self, record: &str) -> Option<&str> {
        record.get(self.start as usize + 1..(self.end as usize).checked_sub(1)?)
    }
}

/// How the values of a column are read.
#[derive(Debug)]
pub(in crate::format) enum Kind {
    /// Within these bounds.
    Integer(i64, i64),
    Bool,
    /// At most this many bytes.
    Text(usize),
    Timestamp {
        zoned: bool,
    },
    Object(Box<Layout>),
    /// By its extent.
    Other,
}

/// One kind of object, and how it has been written so far.
#[derive(Debug)]
pub(in crate::format) struct Layout {
    members: Members,
    fields: Vec<Field>,
    /// The start, the place after each member, and the places after members without a column.
    places: Vec<Place>,
    others: HashMap<(String, usize), usize>,
    /// Number of the object being read.
    object: u32,
}

#[derive(Debug)]
struct Field {
    kind: Kind,
    slot: usize,
    /// Number of the last object that had this member.
    seen: u32,
}

#[derive(Debug)]
struct Place {
    /// The column that the next name is likely to belong to.
    expected: usize,
    steps: Vec<Step>,
}

/// Bytes between two values, and what they lead to.
#[derive(Debug)]
struct Step {
    text: Box<[u8]>,
    /// The first 16 bytes as a number, and which of its bits count.
    head: u128,
    mask: u128,
    target: Target,
    /// The place after the value.
    then: usize,
}

#[derive(Debug, Clone, Copy)]
enum Target {
    Field(usize),
    Other,
    End,
}

impl Step {
    fn new(text: &[u8], target: Target, then: usize) -> Self {
        let mut head = [0; 16];
        let mut mask = [0; 16];
        for (index, byte) in text.iter().take(16).enumerate() {
            head[index] = *byte;
            mask[index] = 0xff;
        }
        Self {
            text: text.into(),
            head: u128::from_le_bytes(head),
            mask: u128::from_le_bytes(mask),
            target,
            then,
        }
    }

    fn fits(&self, bytes: &[u8], at: usize) -> bool {
        let Some(rest) = bytes.get(at..) else {
            return false;
        };
        match rest.first_chunk() {
            Some(head) if u128::from_le_bytes(*head) & self.mask != self.head => false,
            Some(_) if self.text.len() <= 16 => true,
            _ => rest.starts_with(&self.text),
        }
    }
}

/// What a record is read with and into.
pub(super) struct Reading<'r> {
    pub(super) record: &'r str,
    pub(super) slots: &'r mut [Slot],
    pub(super) days: &'r mut Days,
}

impl Layout {
    /// A layout for these members, each with its kind and the slot its value goes to.
    pub(in crate::format) fn new(
        members: Members,
        kinds: impl Iterator<Item = (Kind, usize)>,
    ) -> Self {
        let fields: Vec<Field> = kinds
            .map(|(kind, slot)| Field {
                kind,
                slot,
                seen: 0,
            })
            .collect();
        let place = |expected| Place {
            expected,
            steps: Vec::new(),
        };
        Self {
            places: (0..=fields.len()).map(place).collect(),
            members,
            fields,
            others: HashMap::new(),
            object: 0,
        }
    }

    /// Reads a whole record; false when it is to be read in another way.
    pub(super) fn read(&mut self, reading: &mut Reading<'_>) -> bool {
        let bytes = reading.record.as_bytes();
        if u32::try_from(bytes.len()).is_err() {
            return false;
        }
        let start = blank_end(bytes, 0);
        let end = self.object(reading, start, DEPTH_MAX);
        end.is_some_and(|end| blank_end(bytes, end) == bytes.len())
    }

    /// Reads the object at `at` and returns its end.
    fn object(&mut self, reading: &mut Reading<'_>, at: usize, depth: usize) -> Option<usize> {
        let bytes = reading.record.as_bytes();
        self.object = match self.object.checked_add(1) {
            Some(object) => object,
            None => {
                self.fields.iter_mut().for_each(|field| field.seen = 0);
                1
            }
        };
        let (mut at, mut place, mut expected, mut seen) = (at, START, 0, 0);
        loop {
            let known = self.places.get(place).and_then(|place| {
                expected = place.expected;
                place.steps.iter().find(|step| step.fits(bytes, at))
            });
            let (target, value, then) = match known {
                Some(step) => (step.target, at + step.text.len(), step.then),
                None => self.look_up(reading.record, at, place, expected)?,
            };
            at = match target {
                Target::End => {
                    at = value;
                    break;
                }
                Target::Field(index) => {
                    seen += 1;
                    expected = index + 1;
                    self.value(index, reading, value, depth)?
                }
                Target::Other => value_end(bytes, blank_end(bytes, value), depth)?,
            };
            place = then;
        }
        if seen < self.fields.len() {
            for field in self.fields.iter().filter(|field| field.seen != self.object) {
                *reading.slots.get_mut(field.slot)? = Slot::NULL;
            }
        }
        Some(at)
    }

    /// Reads the value of a member, which begins at `at`, into its slot and returns its end.
    #[inline]
    fn value(
        &mut self,
        index: usize,
        reading: &mut Reading<'_>,
        at: usize,
        depth: usize,
    ) -> Option<usize> {
        let object = self.object;
        let field = self.fields.get_mut(index)?;
        if std::mem::replace(&mut field.seen, object) == object {
            return None;
        }
        let bytes = reading.record.as_bytes();
        let at = blank_end(bytes, at);
        let (end, read) = match (&mut field.kind, bytes.get(at)?) {
            (_, b'n') => (word_end(bytes, at, b"null")?, Read::Null),
            (Kind::Integer(min, max), b'-' | b'0'..=b'9') => match integer(bytes, at) {
                Some((value, end)) if (*min..=*max).contains(&value) => (end, Read::Integer(value)),
                _ => (value_end(bytes, at, 0)?, Read::Extent),
            },
            (Kind::Text(bytes_max), b'"') => match string_end(bytes, at + 1)? {
                (quote, true) if quote - at - 1 <= *bytes_max => (quote + 1, Read::Text),
                (quote, _) => (quote + 1, Read::Extent),
            },
            (Kind::Timestamp { zoned }, b'"') => {
                let (quote, _) = string_end(bytes, at + 1)?;
                let us = reading.days.timestamp(bytes.get(at + 1..quote)?, *zoned);
                (quote + 1, us.map_or(Read::Extent, Read::Integer))
            }
            (Kind::Bool, b't') => (word_end(bytes, at, b"true")?, Read::Bool(true)),
            (Kind::Bool, b'f') => (word_end(bytes, at, b"false")?, Read::Bool(false)),
            (Kind::Object(layout), b'{') => {
                let depth = depth.checked_sub(1)?;
                match layout.object(reading, at, depth) {
                    Some(end) => (end, Read::Object),
                    None => (value_end(bytes, at, depth + 1)?, Read::Extent),
                }
            }
            _ => (value_end(bytes, at, depth)?, Read::Extent),
        };
        *reading.slots.get_mut(field.slot)? = Slot {
            start: at as u32,
            end: end as u32,
            read,
        };
        Some(end)
    }

    /// Reads what is between a value and the next, and remembers it.
    #[cold]
    fn look_up(
        &mut self,
        record: &str,
        at: usize,
        place: usize,
        expected: usize,
    ) -> Option<(Target, usize, usize)> {
        let bytes = record.as_bytes();
        let mut next = blank_end(bytes, at);
        let (target, value, then) = match (bytes.get(next)?, place == START) {
            (b'}', false) => (Target::End, next + 1, UNKNOWN),
            (open @ (b'{' | b','), first) if first == (*open == b'{') => {
                next = blank_end(bytes, next + 1);
                match bytes.get(next)? {
                    b'}' if first => (Target::End, next + 1, UNKNOWN),
                    b'"' => {
                        let (quote, plain) = string_end(bytes, next + 1)?;
                        let colon = blank_end(bytes, quote + 1);
                        if !plain || bytes.get(colon) != Some(&b':') {
                            return None;
                        }
                        let value = blank_end(bytes, colon + 1);
                        let name = record.get(next + 1..quote)?;
                        match self.members.lookup(name, expected) {
                            Some((index, _)) => (Target::Field(index), value, index + 1),
                            None => (Target::Other, value, self.after_other(name, expected)),
                        }
                    }
                    _ => return None,
                }
            }
            _ => return None,
        };
        let text = bytes.get(at..value)?;
        if let Some(place) = self.places.get_mut(place)
            && place.steps.len() < STEPS_MAX
            && text.len() <= STEP_BYTES_MAX
        {
            place.steps.push(Step::new(text, target, then));
        }
        Some((target, value, then))
    }

    /// The place after a member without a column.
    fn after_other(&mut self, name: &str, expected: usize) -> usize {
        let key = (name.to_owned(), expected);
        if let Some(place) = self.others.get(&key) {
            return *place;
        }
        if self.others.len() >= OTHERS_MAX || name.len() > STEP_BYTES_MAX {
            return UNKNOWN;
        }
        let place = self.places.len();
        self.places.push(Place {
            expected,
            steps: Vec::new(),
        });
        self.others.insert(key, place);
        place
    }
}

/// Leaves layouts alone for a while when they read nothing.
#[derive(Debug, Default)]
pub(super) struct Patience {
    /// Records in a row that were not read by their layout.
    misses: u32,
    /// Records to leave out.
    rest: u32,
}

impl Patience {
    const MISSES_MAX: u32 = 16;
    const REST_MAX: u32 = 1_024;

    /// Whether the next record is to be tried.
    pub(super) fn tries(&mut self) -> bool {
        let tries = self.rest == 0;
        self.rest = self.rest.saturating_sub(1);
        tries
    }

    /// Learns how a try ended.
    pub(super) fn learn(&mut self, read: bool) {
        if read {
            self.misses = 0;
            return;
        }
        self.misses = self.misses.saturating_add(1);
        if self.misses >= Self::MISSES_MAX {
            self.rest = (self.misses - Self::MISSES_MAX + 1)
                .saturating_mul(64)
                .min(Self::REST_MAX);
        }
    }
}

#[cfg(test)]
mod tests;
