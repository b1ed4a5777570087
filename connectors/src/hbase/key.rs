//! Row keys: key columns to bytes and back, and the ranges of bytes that conditions on them stand for.
//!
//! Invariant: a key has one spelling. What decodes and would be encoded otherwise is an error, not a value, so a row that a
//! condition selects is always found where the condition's own bytes say.

use std::collections::BTreeSet;

use thalweg_catalog::SqlType;

use super::error::HbaseError;
use super::limits::ROW_KEY_BYTES_MAX;
use super::scalar::Scalar;
use super::value::{self, Encoding};

/// How key columns share a row key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Joint {
    /// One column, in this encoding.
    Single(Encoding),
    /// Parts that sort as their values do, or the other way round; text is terminated, so that no value is the beginning of
    /// another.
    Ordered,
    /// Text with this character between parts.
    Separated(u8),
    /// Parts of fixed width as HBase programs write them; the last may be of any length.
    Fixed,
}

/// A column of the key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) name: String,
    pub(super) ty: SqlType,
    /// Its bytes are complemented, so that keys sort from its largest value to its smallest. Only in [`Joint::Ordered`].
    pub(super) descending: bool,
}

/// The key of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct KeyCodec {
    parts: Vec<Part>,
    joint: Joint,
    /// 0 for none; at most 256.
    salt_buckets: u16,
}

/// Keys from `start` (inclusive) to `stop` (exclusive; empty: to the end).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct KeyRange {
    pub(super) start: Vec<u8>,
    pub(super) stop: Vec<u8>,
}

impl KeyRange {
    /// Whether a key is in it.
    pub(super) fn holds(&self, key: &[u8]) -> bool {
        key >= &self.start[..] && (self.stop.is_empty() || key < &self.stop[..])
    }

    /// Whether no key can be in it.
    pub(super) fn is_empty(&self) -> bool {
        // A key has at least a byte, so nothing is before the first of one.
        !self.stop.is_empty() && (self.start >= self.stop || self.stop == [0])
    }

    /// The keys in both ranges; `None` when there are none.
    pub(super) fn intersection(&self, other: &KeyRange) -> Option<KeyRange> {
        let start = self.start.clone().max(other.start.clone());
        let stop = match (self.stop.is_empty(), other.stop.is_empty()) {
            (true, _) => other.stop.clone(),
            (_, true) => self.stop.clone(),
            _ => self.stop.clone().min(other.stop.clone()),
        };
        (stop.is_empty() || start < stop).then_some(KeyRange { start, stop })
    }
}

/// A limit on the values of one part.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Bound<'a> {
    Below(Scalar<'a>),
    AtMost(Scalar<'a>),
    AtLeast(Scalar<'a>),
    Above(Scalar<'a>),
    /// Text that begins with this.
    Prefix(&'a str),
}

impl<'a> Bound<'a> {
    /// The same where larger values come first.
    fn reversed(self) -> Self {
        match self {
            Bound::Below(value) => Bound::Above(value),
            Bound::AtMost(value) => Bound::AtLeast(value),
            Bound::AtLeast(value) => Bound::AtMost(value),
            Bound::Above(value) => Bound::Below(value),
            Bound::Prefix(text) => Bound::Prefix(text),
        }
    }
}

/// The first key after all that begin with `prefix`; empty when there is none.
pub(super) fn successor(prefix: &[u8]) -> Vec<u8> {
    let mut next = prefix.to_vec();
    while let Some(last) = next.pop() {
        if let Some(more) = last.checked_add(1) {
            next.push(more);
            break;
        }
    }
    next
}

fn has_fixed_width(ty: &SqlType) -> bool {
    !matches!(
        ty,
        SqlType::Text
            | SqlType::Varchar(_)
            | SqlType::Char(_)
            | SqlType::Name
            | SqlType::Bytea
            | SqlType::Json
            | SqlType::Jsonb
            | SqlType::Numeric { .. }
    )
}

fn fixed_width(ty: &SqlType) -> usize {
    match ty {
        SqlType::Bool => 1,
        SqlType::Int2 => 2,
        SqlType::Int4 | SqlType::Float4 | SqlType::Date | SqlType::Time => 4,
        SqlType::Uuid => 16,
        _ => 8,
    }
}

/// Floats that are equal have one spelling.
fn canonical(scalar: Scalar<'_>) -> Scalar<'_> {
    match scalar {
        Scalar::Float4(value) if value.is_nan() => Scalar::Float4(f32::NAN),
        Scalar::Float4(value) => Scalar::Float4(value + 0.0),
        Scalar::Float8(value) if value.is_nan() => Scalar::Float8(f64::NAN),
        Scalar::Float8(value) => Scalar::Float8(value + 0.0),
        other => other,
    }
}

impl KeyCodec {
    /// A codec, or what is wrong with its parts.
    pub(super) fn new(parts: Vec<Part>, joint: Joint, salt_buckets: u16) -> Result<Self, String> {
        for (index, part) in parts.iter().enumerate() {
            let (name, ty) = (&part.name, &part.ty);
            if !super::scalar::is_scalar(ty) || matches!(ty, SqlType::Json | SqlType::Jsonb) {
                return Err(format!(
                    "column \"{name}\" of type {ty} cannot be in the row key"
                ));
            }
            let last = index + 1 == parts.len();
            if joint == Joint::Fixed && !last && !has_fixed_width(ty) {
                return Err(format!(
                    "column \"{name}\" of type {ty} has no fixed width: under key.encoding = 'fixed' only the last key column may be of any length"
                ));
            }
        }
        match (parts.len(), joint) {
            (0, _) => Err("an HBase table needs a primary key: its columns are the row key".into()),
            (2.., Joint::Single(_)) => {
                Err("key.encoding = 'single' is for a primary key of one column".into())
            }
            _ => Ok(Self {
                parts,
                joint,
                salt_buckets,
            }),
        }
    }

    pub(super) fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// In words, for messages.
    pub(super) fn describe(&self) -> &'static str {
        match self.joint {
            Joint::Single(encoding) => encoding.name(),
            Joint::Ordered => "ordered",
            Joint::Separated(_) => "separated",
            Joint::Fixed => "fixed",
        }
    }

    /// The row key of some values.
    pub(super) fn encode(&self, values: &[Scalar<'_>]) -> Result<Vec<u8>, HbaseError> {
        let mut key = Vec::new();
        self.encode_over(values.iter().copied(), &mut key)?;
        Ok(key)
    }

    /// Writes the row key of some values over `key`.
    pub(super) fn encode_over<'a>(
        &self,
        values: impl Iterator<Item = Scalar<'a>>,
        key: &mut Vec<u8>,
    ) -> Result<(), HbaseError> {
        key.clear();
        if self.salt_buckets > 0 {
            key.push(0);
        }
        let body = key.len();
        for (index, value) in values.enumerate() {
            self.encode_part(index, value, key)?;
        }
        if self.salt_buckets > 0 {
            let salt = self.salt(key.get(body..).unwrap_or_default());
            if let Some(first) = key.first_mut() {
                *first = salt;
            }
        }
        match key.len() {
            1..=ROW_KEY_BYTES_MAX => Ok(()),
            bytes => Err(HbaseError::KeyLength { bytes }),
        }
    }

    /// FNV-1a over the key without its salt. Stored keys depend on it: it never changes.
    fn salt(&self, body: &[u8]) -> u8 {
        let mix = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        let hash = body.iter().fold(0xcbf2_9ce4_8422_2325, mix);
        // The low bits of FNV mix poorly; the fold takes the high ones in.
        u8::try_from((hash ^ (hash >> 32)) % u64::from(self.salt_buckets.max(1))).unwrap_or(0)
    }

    fn encode_part(
        &self,
        index: usize,
        value: Scalar<'_>,
        key: &mut Vec<u8>,
    ) -> Result<(), HbaseError> {
        let Some(part) = self.parts.get(index) else {
            return Ok(());
        };
        let unwritable = |detail: &str| HbaseError::Unwritable {
            column: part.name.clone(),
            encoding: self.describe().to_owned(),
            detail: detail.to_owned(),
        };
        let value = canonical(value);
        let encoded = match self.joint {
            Joint::Single(encoding) => value::encode(value, &part.ty, encoding, key),
            Joint::Fixed => value::encode(value, &part.ty, Encoding::Bytes, key),
            Joint::Ordered => {
                let start = key.len();
                match value {
                    Scalar::Text(text) => terminated(text.as_bytes(), key),
                    Scalar::Bytes(bytes) => terminated(bytes, key),
                    other => value::encode(other, &part.ty, Encoding::Ordered, key)
                        .map_err(unwritable)?,
                }
                if part.descending {
                    complement(key.get_mut(start..).unwrap_or_default());
                }
                Ok(())
            }
            Joint::Separated(separator) => {
                if index > 0 {
                    key.push(separator);
                }
                let start = key.len();
                let encoded = value::encode(value, &part.ty, Encoding::Text, key);
                let text = key.get(start..).unwrap_or_default();
                match text.contains(&separator) {
                    true => Err("it contains the separator of the key"),
                    false => encoded,
                }
            }
        };
        encoded.map_err(unwritable)
    }

    /// Takes a row key apart and gives each value to `take`, in the order of the parts. `Err` names the part that holds no value.
    /// What `again` holds is written over; it spares an allocation for each key.
    pub(super) fn decode(
        &self,
        key: &[u8],
        again: &mut Vec<u8>,
        mut take: impl FnMut(usize, Scalar<'_>),
    ) -> Result<(), usize> {
        if let Some((ty, encoding)) = self.plain_text() {
            take(0, value::decode(key, ty, encoding).ok_or(0usize)?);
            return Ok(());
        }
        let mut rest = match self.salt_buckets {
            0 => key,
            _ => key.get(1..).ok_or(0usize)?,
        };
        again.clear();
        if self.salt_buckets > 0 {
            again.push(self.salt(rest));
        }
        for (index, part) in self.parts.iter().enumerate() {
            let mut unescaped = Vec::new();
            let (bytes, encoding) = self.cut(index, &mut rest, &mut unescaped).ok_or(index)?;
            let value = value::decode(bytes, &part.ty, encoding).ok_or(index)?;
            // One spelling per key; see the invariant.
            self.encode_part(index, value, again).map_err(|_| index)?;
            take(index, value);
        }
        match again[..] == *key {
            true => Ok(()),
            false => Err(self.parts.len().saturating_sub(1)),
        }
    }

    /// When the key is nothing but a text's own bytes, which are its only spelling.
    fn plain_text(&self) -> Option<(&SqlType, Encoding)> {
        match (self.joint, &self.parts[..], self.salt_buckets) {
            (Joint::Single(encoding @ (Encoding::Bytes | Encoding::Text)), [part], 0)
                if matches!(part.ty, SqlType::Text | SqlType::Varchar(_)) =>
            {
                Some((&part.ty, encoding))
            }
            _ => None,
        }
    }

    /// The bytes of one part, cut from `rest`.
    fn cut<'r, 'k: 'r>(
        &self,
        index: usize,
        rest: &mut &'k [u8],
        unescaped: &'r mut Vec<u8>,
    ) -> Option<(&'r [u8], Encoding)> {
        let part = self.parts.get(index)?;
        let last = index + 1 == self.parts.len();
        let whole = *rest;
        match self.joint {
            Joint::Single(encoding) => {
                *rest = &[];
                Some((whole, encoding))
            }
            Joint::Separated(separator) => {
                let end = whole.iter().position(|byte| *byte == separator);
                let (text, after) = match (end, last) {
                    (None, true) => (whole, &[][..]),
                    (Some(end), false) => (whole.get(..end)?, whole.get(end + 1..)?),
                    _ => return None,
                };
                *rest = after;
                Some((text, Encoding::Text))
            }
            Joint::Fixed if last => {
                *rest = &[];
                Some((whole, Encoding::Bytes))
            }
            Joint::Fixed => {
                let (bytes, after) = whole.split_at_checked(fixed_width(&part.ty))?;
                *rest = after;
                Some((bytes, Encoding::Bytes))
            }
            Joint::Ordered => {
                let width = match &part.ty {
                    SqlType::Numeric { .. } => 16,
                    SqlType::Time => 8,
                    ty if has_fixed_width(ty) => fixed_width(ty),
                    _ => {
                        let mask = if part.descending { 0xff } else { 0 };
                        *rest = unterminate(whole, mask, unescaped)?;
                        return Some((unescaped, Encoding::Ordered));
                    }
                };
                let (bytes, after) = whole.split_at_checked(width)?;
                *rest = after;
                if !part.descending {
                    return Some((bytes, Encoding::Ordered));
                }
                unescaped.extend_from_slice(bytes);
                complement(unescaped);
                Some((unescaped, Encoding::Ordered))
            }
        }
    }

    /// Whether bounds on this part are ranges of bytes, given that the parts before it have one value each.
    pub(super) fn keeps_order(&self, index: usize, bound: &Bound<'_>) -> bool {
        let Some(part) = self.parts.get(index) else {
            return false;
        };
        let is_text = matches!(
            part.ty,
            SqlType::Text | SqlType::Varchar(_) | SqlType::Name | SqlType::Char(_)
        );
        if let Bound::Prefix(text) = bound {
            // With the separator in it, it would reach into the next part.
            let reaches = |separator| text.as_bytes().contains(&separator);
            return is_text && !matches!(self.joint, Joint::Separated(one) if reaches(one));
        }
        self.sorts(part)
    }

    /// The leading parts that row keys are sorted by.
    pub(super) fn sorted_parts(&self) -> &[Part] {
        let sorted = match self.salt_buckets {
            0 => self.parts.iter().take_while(|part| self.sorts(part)),
            _ => return &[],
        };
        self.parts.get(..sorted.count()).unwrap_or_default()
    }

    fn sorts(&self, part: &Part) -> bool {
        match self.joint {
            Joint::Single(encoding) => encoding.keeps_order(&part.ty),
            Joint::Fixed => Encoding::Bytes.keeps_order(&part.ty),
            Joint::Ordered => true,
            // `a|` sorts after `a!`, though `a` sorts before it.
            Joint::Separated(_) => false,
        }
    }

    /// The keys, without their salt, whose leading parts have these values and whose next part is within `bounds`, all of which
    /// keep the order. `None` when there can be no such key.
    pub(super) fn range(&self, leading: &[Scalar<'_>], bounds: &[Bound<'_>]) -> Option<KeyRange> {
        let mut prefix = Vec::new();
        for (index, value) in leading.iter().enumerate() {
            self.encode_part(index, *value, &mut prefix).ok()?;
        }
        let index = leading.len();
        if let (Joint::Separated(separator), 1..) = (self.joint, index) {
            prefix.push(separator);
        }
        let mut range = KeyRange {
            start: prefix.clone(),
            stop: successor(&prefix),
        };
        for bound in bounds {
            range = range.intersection(&self.bound(index, &prefix, bound)?)?;
        }
        Some(range)
    }

    fn bound(&self, index: usize, prefix: &[u8], bound: &Bound<'_>) -> Option<KeyRange> {
        let begin = |value: &Scalar<'_>| -> Option<Vec<u8>> {
            let mut key = prefix.to_vec();
            let bare = match self.joint {
                // The separator is in the prefix already.
                Joint::Separated(_) => return None,
                _ => self.encode_part(index, *value, &mut key),
            };
            bare.ok().map(|()| key)
        };
        // Where the next part follows directly, all keys of a value begin with its bytes; where the value ends the key, and is
        // the beginning of others, it is the key.
        let raw = match self.joint {
            Joint::Ordered => false,
            _ => !self
                .parts
                .get(index)
                .is_some_and(|part| has_fixed_width(&part.ty)),
        };
        let after = |key: Vec<u8>| match raw {
            true => [key, vec![0]].concat(),
            false => successor(&key),
        };
        let bound = match self.parts.get(index).is_some_and(|part| part.descending) {
            true => bound.reversed(),
            false => *bound,
        };
        let (start, stop) = match &bound {
            Bound::Below(value) => (prefix.to_vec(), begin(value)?),
            Bound::AtMost(value) => (prefix.to_vec(), after(begin(value)?)),
            Bound::AtLeast(value) => (begin(value)?, successor(prefix)),
            Bound::Above(value) => {
                let start = after(begin(value)?);
                // Nothing follows a key of nothing but 0xff.
                if start.is_empty() {
                    return None;
                }
                (start, successor(prefix))
            }
            Bound::Prefix(text) => {
                let mut start = prefix.to_vec();
                match self.joint {
                    Joint::Ordered => escape(text.as_bytes(), &mut start),
                    _ => start.extend_from_slice(text.as_bytes()),
                }
                if self.parts.get(index).is_some_and(|part| part.descending) {
                    complement(start.get_mut(prefix.len()..).unwrap_or_default());
                }
                let stop = successor(&start);
                (start, stop)
            }
        };
        // An empty `stop` means the end, and nothing is below the first key.
        match bound {
            Bound::Below(_) if stop.is_empty() => None,
            _ => Some(KeyRange { start, stop }),
        }
    }

    /// Ranges of keys with their salts.
    pub(super) fn salted(&self, ranges: BTreeSet<KeyRange>) -> Vec<KeyRange> {
        if self.salt_buckets == 0 {
            return ranges.into_iter().collect();
        }
        let salts = (0..self.salt_buckets).filter_map(|bucket| u8::try_from(bucket).ok());
        let with = |salt: u8, bytes: &[u8]| [&[salt], bytes].concat();
        salts
            .flat_map(|salt| {
                ranges.iter().map(move |range| KeyRange {
                    start: with(salt, &range.start),
                    stop: match range.stop.is_empty() {
                        true => successor(&[salt]),
                        false => with(salt, &range.stop),
                    },
                })
            })
            .collect()
    }
}

/// Turns the order of bytes round.
fn complement(bytes: &mut [u8]) {
    for byte in bytes {
        *byte = !*byte;
    }
}

/// A zero byte becomes 00 ff, so that the terminator 00 00 is below everything that can follow.
fn escape(bytes: &[u8], key: &mut Vec<u8>) {
    for byte in bytes {
        key.push(*byte);
        if *byte == 0 {
            key.push(0xff);
        }
    }
}

fn terminated(bytes: &[u8], key: &mut Vec<u8>) {
    escape(bytes, key);
    key.extend_from_slice(&[0, 0]);
}

/// Undoes [`terminated`], of bytes that `mask` was applied to; what follows the terminator is returned.
fn unterminate<'k>(bytes: &'k [u8], mask: u8, text: &mut Vec<u8>) -> Option<&'k [u8]> {
    text.clear();
    let mut rest = bytes;
    loop {
        let (byte, after) = rest.split_first()?;
        rest = after;
        let byte = byte ^ mask;
        text.push(byte);
        if byte == 0 {
            let (next, after) = rest.split_first()?;
            rest = after;
            match next ^ mask {
                0 => {
                    text.pop();
                    return Some(rest);
                }
                0xff => {}
                _ => return None,
            }
        }
    }
}
