//! JSON objects, one per record, to rows.
//!
//! Invariant: [`JsonDecoder::decode`] appends exactly one row to every column for every record, good or bad; a bad one says so
//! and its row is to be left out.
//!
//! A record is split into the slices of its members first, and each slice is then read as its column's type. The number
//! `1.10` therefore reaches a numeric column as text, a later duplicate key simply replaces an earlier slice, and nothing is
//! appended before the whole record is known to be well-formed. (`deserialize_any` would allocate a string per number here,
//! because serde_json's `arbitrary_precision` is on.)
//!
//! Nearly all records are read by [`Layout`], which knows how their writer lays them out. The splitting here stays what defines
//! a record's row: it reads what the layout does not, and every fault is reported from here.

use std::borrow::Cow;
use std::collections::HashMap;
use std::ops::Range;

use arrow::array::ArrayRef;
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;
use thalweg_catalog::Column;

pub(super) use self::layout::{Kind, Layout, Read, Slot};
use self::layout::{Patience, Reading};
pub(crate) use self::scan::line_feed;
use super::column::{ColumnBuilder, Wanted};
use super::number::Misfit;
use super::time::Days;
pub(crate) use super::time::TimestampHandling;
use super::{Fault, FaultReason, excerpt};
use crate::error::ConnectorError;
use crate::options::Options;
use crate::source::ColumnsRead;

/// Characters of a record that a message repeats.
const RECORD_CHARS_MAX: usize = 60;

/// Options of `ENCODE JSON (...)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct JsonOptions {
    pub(crate) timestamps: TimestampHandling,
    pub(crate) case_insensitive: bool,
}

impl JsonOptions {
    pub(crate) fn read(options: Options<'_>) -> Result<Self, ConnectorError> {
        let mode = "timestamptz.handling.mode";
        let timestamps = match options.text(mode).unwrap_or("guess") {
            "guess" => TimestampHandling::Guess,
            "milli" => TimestampHandling::Milli,
            "micro" => TimestampHandling::Micro,
            "utc_string" => TimestampHandling::UtcString,
            _ => {
                return Err(ConnectorError::option_hint(
                    format!("option \"{mode}\" has an unknown value"),
                    "Use guess, milli, micro or utc_string.",
                ));
            }
        };
        let case_insensitive = options.bool("case_insensitive")?.unwrap_or(true);
        Ok(Self {
            timestamps,
            case_insensitive,
        })
    }
}

impl Default for JsonOptions {
    fn default() -> Self {
        Self {
            timestamps: TimestampHandling::Guess,
            case_insensitive: true,
        }
    }
}

/// Decodes records into the columns it was made for.
#[derive(Debug)]
pub(crate) struct JsonDecoder {
    members: Members,
    columns: Vec<DecodedColumn>,
    layout: Layout,
    /// What the layout has read of the last record.
    slots: Vec<Slot>,
    days: Days,
    patience: Patience,
}

#[derive(Debug)]
struct DecodedColumn {
    name: String,
    not_null: bool,
    builder: ColumnBuilder,
}

impl JsonDecoder {
    /// A decoder for these columns.
    pub(crate) fn new<'c>(
        columns: impl Iterator<Item = &'c Column> + Clone,
        options: JsonOptions,
    ) -> Result<Self, ConnectorError> {
        let members = Members::new(columns.clone().map(|column| column.name.as_str()), options);
        let mut columns = columns
            .map(|column| {
                Ok(DecodedColumn {
                    name: column.name.clone(),
                    not_null: column.not_null,
                    builder: ColumnBuilder::new(&column.name, &column.ty, options)?,
                })
            })
            .collect::<Result<Vec<_>, ConnectorError>>()?;
        let mut slots = 0;
        for column in &mut columns {
            column.builder.take_slots(&mut slots);
        }
        let kinds = columns.iter().map(|column| column.builder.kind());
        let layout = Layout::new(members.clone(), kinds);
        Ok(Self {
            members,
            columns,
            layout,
            slots: vec![Slot::NULL; slots],
            days: Days::default(),
            patience: Patience::default(),
        })
    }

    /// Says which columns will be read; the others are checked and come out as NULL. To be called between batches.
    pub(crate) fn read_only(&mut self, columns: &ColumnsRead) {
        for column in &mut self.columns {
            // A column that is never NULL cannot come out as NULL.
            let wanted = match columns.of(&column.name) {
                Wanted::Nothing if column.not_null => Wanted::Whole,
                wanted => wanted,
            };
            column.builder.read_only(wanted);
        }
    }

    /// Appends the record's row, or a row of NULLs and faulty values that must be filtered out.
    pub(crate) fn decode(&mut self, payload: &[u8]) -> Result<(), Fault> {
        let text = match std::str::from_utf8(payload) {
            Ok(text) => text,
            Err(error) => {
                self.append_null_row();
                let at = error.valid_up_to();
                return Err(Fault::decode(format!("invalid UTF-8 at byte {at}")));
            }
        };
        if self.patience.tries() {
            let read = self.layout.read(&mut Reading {
                record: text,
                slots: &mut self.slots,
                days: &mut self.days,
            });
            self.patience.learn(read);
            if read {
                let slots = &self.slots;
                return append_row(&mut self.columns, |_, builder| builder.fill(slots, text));
            }
        }
        self.decode_by_splitting(text)
    }

    fn decode_by_splitting(&mut self, text: &str) -> Result<(), Fault> {
        if let Err(fault) = self.split(text) {
            self.append_null_row();
            return Err(fault);
        }
        let members = &self.members;
        append_row(&mut self.columns, |index, builder| {
            builder.append(members.found(index).and_then(|range| text.get(range)))
        })
    }

    fn split(&mut self, text: &str) -> Result<(), Fault> {
        if !text
            .trim_start_matches([' ', '\t', '\r', '\n'])
            .starts_with('{')
        {
            let start = excerpt(text, RECORD_CHARS_MAX);
            return Err(Fault::decode(format!(
                "expected a JSON object, got {start}"
            )));
        }
        self.members
            .split(text)
            .map_err(|reason| Fault::decode(format!("invalid JSON: {reason}")))
    }

    /// Appends a row of NULLs, for a record whose payload is not to be read.
    pub(crate) fn append_null_row(&mut self) {
        self.columns
            .iter_mut()
            .for_each(|column| column.builder.append_null());
    }

    /// The columns so far; the decoder starts over.
    pub(crate) fn finish(&mut self) -> Vec<ArrayRef> {
        self.columns
            .iter_mut()
            .map(|column| column.builder.finish())
            .collect()
    }
}

/// Appends to every column by `append`, which says whether the value is not NULL. The first fault is the row's.
fn append_row(
    columns: &mut [DecodedColumn],
    append: impl Fn(usize, &mut ColumnBuilder) -> Result<bool, Fault>,
) -> Result<(), Fault> {
    let mut outcome = Ok(());
    for (index, column) in columns.iter_mut().enumerate() {
        match append(index, &mut column.builder) {
            Ok(false) if column.not_null => {
                outcome = outcome.and(Err(Fault {
                    reason: FaultReason::Constraint,
                    message: format!(
                        "null value in column \"{}\" violates not-null constraint",
                        column.name
                    ),
                }));
            }
            Ok(_) => {}
            Err(fault) => outcome = outcome.and(Err(fault)),
        }
    }
    outcome
}

/// Names of the members to look for in an object, and where the last object had them.
#[derive(Debug, Clone)]
pub(super) struct Members {
    names: Vec<String>,
    exact: HashMap<String, usize>,
    /// Lower-case names; empty when case matters.
    folded: HashMap<String, usize>,
    found: Vec<Option<Found>>,
}

#[derive(Debug, Clone)]
struct Found {
    /// Where the value is in the object's text.
    range: Range<usize>,
    exact: bool,
}

impl Members {
    pub(super) fn new<'n>(names: impl Iterator<Item = &'n str>, options: JsonOptions) -> Self {
        let names: Vec<String> = names.map(str::to_owned).collect();
        let mut folded = HashMap::new();
        if options.case_insensitive {
            for (index, name) in names.iter().enumerate() {
                folded.entry(name.to_lowercase()).or_insert(index);
            }
        }
        let exact = names
            .iter()
            .cloned()
            .enumerate()
            .map(|(index, name)| (name, index))
            .collect();
        let found = vec![None; names.len()];
        Self {
            names,
            exact,
            folded,
            found,
        }
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.names.iter().map(String::as_str)
    }

    /// Where the object last split has this member.
    pub(super) fn found(&self, index: usize) -> Option<Range<usize>> {
        self.found
            .get(index)
            .and_then(Option::as_ref)
            .map(|found| found.range.clone())
    }

    /// Checks an object's text and notes where its members are.
    pub(super) fn split(&mut self, text: &str) -> Result<(), String> {
        self.found.iter_mut().for_each(|found| *found = None);
        let mut deserializer = serde_json::Deserializer::from_str(text);
        deserializer
            .deserialize_map(ObjectVisitor {
                members: self,
                text,
            })
            .and_then(|()| deserializer.end())
            .map_err(|error| excerpt(&error.to_string(), RECORD_CHARS_MAX * 2))
    }

    fn lookup(&self, key: &str, expected: usize) -> Option<(usize, bool)> {
        // Records of one topic have their members in one order, so the next name is almost always the next one.
        if self.names.get(expected).is_some_and(|name| name == key) {
            return Some((expected, true));
        }
        if let Some(index) = self.exact.get(key) {
            return Some((*index, true));
        }
        if self.folded.is_empty() {
            return None;
        }
        self.folded
            .get(&key.to_lowercase())
            .map(|index| (*index, false))
    }
}

struct ObjectVisitor<'m, 't> {
    members: &'m mut Members,
    text: &'t str,
}

impl<'t> Visitor<'t> for ObjectVisitor<'_, 't> {
    type Value = ();

    fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("an object")
    }

    fn visit_map<A: MapAccess<'t>>(self, mut object: A) -> Result<(), A::Error> {
        let Self { members, text } = self;
        let mut expected = 0;
        while let Some(member) = object.next_key_seed(KeySeed { members, expected })? {
            let Some((index, exact)) = member else {
                object.next_value::<IgnoredAny>()?;
                continue;
            };
            expected = index + 1;
            let value: &'t RawValue = object.next_value()?;
            // The raw value borrows from `text`, so the distance of the two is its position.
            let start = (value.get().as_ptr() as usize)
                .checked_sub(text.as_ptr() as usize)
                .ok_or_else(|| A::Error::custom("a value is outside of its record"))?;
            let range = start..start + value.get().len();
            if let Some(found) = members.found.get_mut(index) {
                // The last duplicate wins, but an inexact name never replaces an exact one.
                if exact || found.as_ref().is_none_or(|found| !found.exact) {
                    *found = Some(Found { range, exact });
                }
            }
        }
        Ok(())
    }
}

struct KeySeed<'m> {
    members: &'m Members,
    expected: usize,
}

impl<'de> DeserializeSeed<'de> for KeySeed<'_> {
    type Value = Option<(usize, bool)>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for KeySeed<'_> {
    type Value = Option<(usize, bool)>;

    fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("a member name")
    }

    fn visit_str<E: Error>(self, key: &str) -> Result<Self::Value, E> {
        Ok(self.members.lookup(key, self.expected))
    }
}

/// A JSON value that is known to be well-formed, told apart by its first byte.
#[derive(Debug)]
pub(super) enum Token<'a> {
    Null,
    Bool(bool),
    /// The number's text, exactly as written.
    Number(&'a str),
    /// The string's content.
    String(Cow<'a, str>),
    /// The array's text.
    Array(&'a str),
    /// The object's text.
    Object(&'a str),
}

impl<'a> Token<'a> {
    /// Reads a value's text.
    ///
    /// # Errors
    /// The reason, for a string that is not text, such as half a surrogate pair.
    pub(super) fn read(json: &'a str) -> Result<Self, String> {
        match json.as_bytes() {
            [b'n', ..] => Ok(Token::Null),
            [b't', ..] => Ok(Token::Bool(true)),
            [b'f', ..] => Ok(Token::Bool(false)),
            [b'[', ..] => Ok(Token::Array(json)),
            [b'{', ..] => Ok(Token::Object(json)),
            [b'"', content @ .., b'"'] if !content.contains(&b'\\') => Ok(Token::String(
                Cow::Borrowed(json.get(1..json.len() - 1).unwrap_or_default()),
            )),
            [b'"', ..] => serde_json::from_str(json)
                .map(|text: String| Token::String(Cow::Owned(text)))
                .map_err(|error| excerpt(&error.to_string(), RECORD_CHARS_MAX)),
            _ => Ok(Token::Number(json)),
        }
    }

    /// The items of an array.
    pub(super) fn items(&self) -> Result<Vec<&'a RawValue>, Misfit> {
        match self {
            Token::Array(json) => serde_json::from_str(json).map_err(|_| Misfit::Type),
            _ => Err(Misfit::Type),
        }
    }
}

mod layout;
mod scan;

#[cfg(test)]
pub(super) mod arbitrary;
#[cfg(test)]
mod tests;
