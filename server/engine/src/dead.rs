//! Dead letters of one source: which are known, and how they become rows of its errors relation.
//!
//! Invariant: a letter is unique by (source, topic, partition, offset, reason), on disk and in the relation, so reading a source
//! again never doubles it.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use datafusion::arrow::array::{
    ArrayRef, BinaryBuilder, Int32Builder, Int64Builder, StringBuilder, TimestampMicrosecondBuilder,
};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::arrow::record_batch::RecordBatch;
use parking_lot::Mutex;
use thalweg_catalog::Oid;
use thalweg_connectors::{DeadLetter, Delta};
use thalweg_state::DeadRecord;

use crate::error::EngineError;
use crate::shared::Stored;

/// Rows and bytes of one batch of letters: a column of bytes ends at 2 GiB, and a letter may have several megabytes.
const BATCH_ROWS: usize = 1_000;
const BATCH_BYTES: usize = 64 << 20;

/// How long dead letters are kept, and how many.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Retention {
    /// Since they were recorded.
    pub(crate) age_us: i64,
    pub(crate) rows_max: usize,
    pub(crate) bytes_max: usize,
}

/// The errors relation of a source.
#[derive(Debug)]
pub(crate) struct DeadLog {
    pub(crate) source: Oid,
    pub(crate) relation: Arc<Stored>,
    retention: Retention,
    letters: Mutex<Letters>,
}

type Key = Arc<[u8]>;

/// Topic and partition.
type Split = (String, i32);

/// Begins the key of a record that says how far the letters of a split have left. No topic's name is that long.
const LEFT: [u8; 4] = u32::MAX.to_le_bytes();

/// The letters kept, in the orders in which they leave.
#[derive(Debug, Default)]
struct Letters {
    kept: BTreeMap<Key, Arc<Kept>>,
    /// By the record's own time: the oldest give way when there are too many.
    by_time: BTreeSet<(i64, Key)>,
    /// By the time they were recorded: they expire.
    by_recording: BTreeSet<(i64, Key)>,
    bytes: usize,
    /// Highest offset of a letter that has left, by topic and partition: one at or below it that is not kept has left too. Letters
    /// do not come in order, as history is scanned beside the reader that follows, but the oldest leave first.
    left: HashMap<Split, i64>,
}

#[derive(Debug)]
struct Kept {
    letter: DeadLetter,
    epoch: u64,
    recorded_us: i64,
}

impl Kept {
    fn bytes(&self) -> usize {
        letter_bytes(&self.letter)
    }
}

/// About how many bytes a letter takes.
pub(crate) fn letter_bytes(letter: &DeadLetter) -> usize {
    let optional = |bytes: &Option<Vec<u8>>| bytes.as_ref().map_or(0, Vec::len);
    letter.message.len()
        + optional(&letter.key)
        + optional(&letter.payload)
        + letter.headers.as_ref().map_or(0, String::len)
        + 128
}

impl Letters {
    fn insert(&mut self, key: Key, kept: Kept) {
        self.bytes += kept.bytes();
        self.by_time.insert((kept.letter.at_us, Arc::clone(&key)));
        self.by_recording
            .insert((kept.recorded_us, Arc::clone(&key)));
        self.kept.insert(key, Arc::new(kept));
    }

    fn remove(&mut self, key: &Key) -> Option<Arc<Kept>> {
        let kept = self.kept.remove(key)?;
        self.bytes -= kept.bytes();
        self.by_time.remove(&(kept.letter.at_us, Arc::clone(key)));
        self.by_recording
            .remove(&(kept.recorded_us, Arc::clone(key)));
        Some(kept)
    }

    /// True when the letter left retention before. A gap is found anew by each reader, below what others have read.
    fn has_left(&self, letter: &DeadLetter) -> bool {
        let left = self.left.get(&split(letter));
        letter.reason != "gap" && left.is_some_and(|left| letter.offset <= *left)
    }

    /// Notes that a letter leaves; the split, when that is news of it.
    fn leave(&mut self, letter: &DeadLetter) -> Option<Split> {
        let split = split(letter);
        let left = self.left.get(&split);
        let news = letter.reason != "gap" && left.is_none_or(|left| letter.offset > *left);
        news.then(|| {
            self.left.insert(split.clone(), letter.offset);
            split
        })
    }

    /// The letter that has to leave first.
    fn surplus(&self, retention: Retention, now_us: i64) -> Option<Key> {
        let expired = self
            .by_recording
            .first()
            .filter(|(at_us, _)| *at_us < now_us.saturating_sub(retention.age_us));
        let crowded = self.kept.len() > retention.rows_max || self.bytes > retention.bytes_max;
        expired
            .or_else(|| self.by_time.first().filter(|_| crowded))
            .map(|(_, key)| Arc::clone(key))
    }
}

fn split(letter: &DeadLetter) -> Split {
    (letter.topic.clone(), letter.partition)
}

/// What an epoch does to an errors relation.
#[derive(Debug, Default)]
pub(crate) struct DeadChange {
    pub(crate) deltas: Vec<Delta>,
    /// Letters that came.
    pub(crate) records: Vec<DeadRecord>,
    /// How far letters have left, of the splits where one did.
    pub(crate) left: Vec<DeadRecord>,
    pub(crate) expired: Vec<Vec<u8>>,
}

impl DeadLog {
    pub(crate) fn new(source: Oid, relation: Arc<Stored>, retention: Retention) -> Self {
        Self {
            source,
            relation,
            retention,
            letters: Mutex::default(),
        }
    }

    /// Takes over stored letters; returns them as rows.
    ///
    /// # Errors
    /// XX001 naming the source when a record cannot be decoded.
    pub(crate) fn restore(&self, records: &[DeadRecord]) -> Result<Vec<Delta>, EngineError> {
        let mut letters = self.letters.lock();
        let corrupt = || EngineError::Storage {
            sqlstate: "XX001",
            message: format!(
                "a dead letter of {} is corrupt: it ends too early",
                self.relation.label()
            ),
        };
        for record in records {
            if record.key.starts_with(&LEFT) {
                let (split, offset) = decode_left(record).ok_or_else(corrupt)?;
                letters.left.insert(split, offset);
                continue;
            }
            let kept = decode(&record.value).ok_or_else(corrupt)?;
            letters.insert(record.key.as_slice().into(), kept);
        }
        let rows: Vec<&Kept> = letters.kept.values().map(AsRef::as_ref).collect();
        let batches = self.batches(&rows)?;
        Ok(batches.into_iter().map(Delta::insert).collect())
    }

    /// Bytes of the letters that are kept beside their relation.
    pub(crate) fn bytes(&self) -> usize {
        self.letters.lock().bytes
    }

    /// True when letters have to leave even if none arrive.
    pub(crate) fn is_due(&self, now_us: i64) -> bool {
        self.letters
            .lock()
            .surplus(self.retention, now_us)
            .is_some()
    }

    /// Adds letters that are new, removes what retention no longer keeps.
    pub(crate) fn add(
        &self,
        fresh: Vec<DeadLetter>,
        epoch: u64,
        now_us: i64,
    ) -> Result<DeadChange, EngineError> {
        let mut letters = self.letters.lock();
        let mut added: HashSet<Key> = HashSet::new();
        let fresh: Vec<DeadLetter> = fresh
            .into_iter()
            .filter(|letter| !letters.has_left(letter))
            .collect();
        for letter in fresh {
            let key: Key = key(&letter).into();
            if letters.kept.contains_key(&key) {
                continue;
            }
            let kept = Kept {
                letter,
                epoch,
                recorded_us: now_us,
            };
            letters.insert(Arc::clone(&key), kept);
            added.insert(key);
        }
        let (mut died, mut left) = (Vec::new(), BTreeSet::new());
        let mut change = DeadChange::default();
        while let Some(key) = letters.surplus(self.retention, now_us) {
            let Some(kept) = letters.remove(&key) else {
                break;
            };
            left.extend(letters.leave(&kept.letter));
            // Letters that come and go within the epoch leave no other trace.
            if !added.remove(&key) {
                change.expired.push(key.to_vec());
                died.push(kept);
            }
        }
        let marks = left.iter().filter_map(|split| {
            let offset = *letters.left.get(split)?;
            Some(encode_left(self.source, split, offset))
        });
        change.left.extend(marks);
        let born: Vec<(&Key, &Kept)> = added
            .iter()
            .filter_map(|key| Some((key, letters.kept.get(key)?.as_ref())))
            .collect();
        change
            .records
            .extend(born.iter().map(|(key, kept)| DeadRecord {
                source: self.source.0,
                key: key.to_vec(),
                value: encode(kept),
            }));
        let born: Vec<&Kept> = born.into_iter().map(|(_, kept)| kept).collect();
        let died: Vec<&Kept> = died.iter().map(AsRef::as_ref).collect();
        let (born, died) = (self.batches(&born)?, self.batches(&died)?);
        change.deltas.extend(born.into_iter().map(Delta::insert));
        change.deltas.extend(died.into_iter().map(Delta::delete));
        Ok(change)
    }

    fn batches(&self, rows: &[&Kept]) -> Result<Vec<RecordBatch>, EngineError> {
        let mut out = Vec::new();
        let mut left = rows;
        while !left.is_empty() {
            let mut bytes = 0;
            let fits = left.iter().take(BATCH_ROWS).take_while(|kept| {
                bytes += kept.bytes();
                bytes <= BATCH_BYTES
            });
            let (head, tail) = left.split_at(fits.count().max(1));
            out.push(self.batch(head)?);
            left = tail;
        }
        Ok(out)
    }

    fn batch(&self, rows: &[&Kept]) -> Result<RecordBatch, EngineError> {
        let schema: SchemaRef = self.relation.schema();
        let columns = schema.fields().iter().map(|field| {
            let column = column(field.name(), rows).ok_or_else(|| {
                EngineError::internal(format!(
                    "an errors relation has a column \"{}\"",
                    field.name()
                ))
            })?;
            Ok::<_, EngineError>(cast(&column, field.data_type())?)
        });
        let columns = columns.collect::<Result<Vec<_>, _>>()?;
        Ok(RecordBatch::try_new(schema, columns)?)
    }
}

fn column(name: &str, rows: &[&Kept]) -> Option<ArrayRef> {
    fn text<'a>(rows: &'a [&Kept], get: impl Fn(&'a DeadLetter) -> Option<&'a str>) -> ArrayRef {
        let mut builder = StringBuilder::new();
        rows.iter()
            .for_each(|row| builder.append_option(get(&row.letter)));
        Arc::new(builder.finish())
    }
    fn bytes<'a>(
        rows: &'a [&Kept],
        get: impl Fn(&'a DeadLetter) -> Option<&'a Vec<u8>>,
    ) -> ArrayRef {
        let mut builder = BinaryBuilder::new();
        rows.iter()
            .for_each(|row| builder.append_option(get(&row.letter)));
        Arc::new(builder.finish())
    }
    fn long(rows: &[&Kept], get: impl Fn(&Kept) -> i64) -> ArrayRef {
        let mut builder = Int64Builder::new();
        rows.iter().for_each(|row| builder.append_value(get(row)));
        Arc::new(builder.finish())
    }
    Some(match name {
        "reason" => text(rows, |letter| Some(&letter.reason)),
        "message" => text(rows, |letter| Some(&letter.message)),
        "topic" => text(rows, |letter| Some(&letter.topic)),
        "headers" => text(rows, |letter| letter.headers.as_deref()),
        "key" => bytes(rows, |letter| letter.key.as_ref()),
        "payload" => bytes(rows, |letter| letter.payload.as_ref()),
        "offset" => long(rows, |row| row.letter.offset),
        "epoch" => long(rows, |row| row.epoch as i64),
        "partition" => {
            let mut builder = Int32Builder::new();
            rows.iter()
                .for_each(|row| builder.append_value(row.letter.partition));
            Arc::new(builder.finish())
        }
        "at" => {
            let mut builder = TimestampMicrosecondBuilder::new().with_timezone("UTC");
            rows.iter()
                .for_each(|row| builder.append_value(row.letter.at_us));
            Arc::new(builder.finish())
        }
        _ => return None,
    })
}

fn key(letter: &DeadLetter) -> Vec<u8> {
    let mut out = Vec::new();
    put(&mut out, letter.topic.as_bytes());
    out.extend_from_slice(&letter.partition.to_be_bytes());
    out.extend_from_slice(&letter.offset.to_be_bytes());
    put(&mut out, letter.reason.as_bytes());
    out
}

fn encode_left(source: Oid, (topic, partition): &Split, offset: i64) -> DeadRecord {
    let mut key = LEFT.to_vec();
    key.extend_from_slice(&partition.to_be_bytes());
    key.extend_from_slice(topic.as_bytes());
    DeadRecord {
        source: source.0,
        key,
        value: offset.to_le_bytes().to_vec(),
    }
}

/// The inverse of [`encode_left`]; `None` for any other bytes.
fn decode_left(record: &DeadRecord) -> Option<(Split, i64)> {
    let rest = record.key.strip_prefix(&LEFT)?;
    let (partition, topic) = rest.split_first_chunk::<4>()?;
    let topic = String::from_utf8(topic.to_vec()).ok()?;
    let offset = i64::from_le_bytes(record.value.as_slice().try_into().ok()?);
    Some(((topic, i32::from_be_bytes(*partition)), offset))
}

fn encode(kept: &Kept) -> Vec<u8> {
    let letter = &kept.letter;
    let mut out = Vec::new();
    out.extend_from_slice(&kept.epoch.to_le_bytes());
    out.extend_from_slice(&kept.recorded_us.to_le_bytes());
    out.extend_from_slice(&letter.at_us.to_le_bytes());
    out.extend_from_slice(&letter.offset.to_le_bytes());
    out.extend_from_slice(&letter.partition.to_le_bytes());
    put(&mut out, letter.reason.as_bytes());
    put(&mut out, letter.message.as_bytes());
    put(&mut out, letter.topic.as_bytes());
    for optional in [
        letter.key.as_deref(),
        letter.payload.as_deref(),
        letter.headers.as_ref().map(String::as_bytes),
    ] {
        out.push(u8::from(optional.is_some()));
        put(&mut out, optional.unwrap_or_default());
    }
    out
}

fn put(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
    out.extend_from_slice(bytes);
}

fn decode(mut bytes: &[u8]) -> Option<Kept> {
    fn array<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
        let (head, rest) = bytes.split_first_chunk::<N>()?;
        *bytes = rest;
        Some(*head)
    }
    fn slice(bytes: &mut &[u8]) -> Option<Vec<u8>> {
        let len = u32::from_le_bytes(array(bytes)?) as usize;
        let (head, rest) = bytes.split_at_checked(len)?;
        *bytes = rest;
        Some(head.to_vec())
    }
    fn text(bytes: &mut &[u8]) -> Option<String> {
        String::from_utf8(slice(bytes)?).ok()
    }
    fn optional(bytes: &mut &[u8]) -> Option<Option<Vec<u8>>> {
        let [present] = array(bytes)?;
        let value = slice(bytes)?;
        Some((present == 1).then_some(value))
    }
    let bytes = &mut bytes;
    let epoch = u64::from_le_bytes(array(bytes)?);
    let recorded_us = i64::from_le_bytes(array(bytes)?);
    let at_us = i64::from_le_bytes(array(bytes)?);
    let offset = i64::from_le_bytes(array(bytes)?);
    let partition = i32::from_le_bytes(array(bytes)?);
    let (reason, message, topic) = (text(bytes)?, text(bytes)?, text(bytes)?);
    let (key, payload, headers) = (optional(bytes)?, optional(bytes)?, optional(bytes)?);
    let headers = match headers {
        Some(headers) => Some(String::from_utf8(headers).ok()?),
        None => None,
    };
    Some(Kept {
        letter: DeadLetter {
            reason,
            message,
            topic,
            partition,
            offset,
            key,
            payload,
            headers,
            at_us,
        },
        epoch,
        recorded_us,
    })
}

#[cfg(test)]
mod tests {
    use datafusion::arrow::datatypes::{DataType, Field, Schema};

    use super::*;

    fn log(retention: Retention) -> DeadLog {
        let schema = Arc::new(Schema::new(vec![
            Field::new("offset", DataType::Int64, false),
            Field::new("payload", DataType::Binary, true),
        ]));
        let relation = Stored::new(Oid(2), "s_errors", "table", schema, None).expect("a relation");
        DeadLog::new(Oid(1), relation, retention)
    }

    fn letter(offset: i64, at_us: i64, bytes: usize) -> DeadLetter {
        DeadLetter {
            reason: "decode".into(),
            message: "invalid".into(),
            topic: "t".into(),
            partition: 0,
            offset,
            key: None,
            payload: Some(vec![7; bytes]),
            headers: None,
            at_us,
        }
    }

    fn figures(change: &DeadChange) -> (usize, usize) {
        (change.records.len(), change.expired.len())
    }

    const KEPT: Retention = Retention {
        age_us: 100,
        rows_max: 50_000,
        bytes_max: 1 << 30,
    };

    #[test]
    fn a_full_log_takes_as_many_again_at_once() {
        let log = log(KEPT);
        let add = |offsets: std::ops::Range<i64>| {
            let fresh = offsets.map(|offset| letter(offset, offset, 1)).collect();
            log.add(fresh, 1, 10).expect("adds")
        };
        assert_eq!(figures(&add(0..50_000)), (50_000, 0));
        let change = add(50_000..90_000);
        assert_eq!(figures(&change), (40_000, 40_000));
        let rows: usize = change.deltas.iter().map(Delta::num_rows).sum();
        assert_eq!(rows, 80_000);
        // What has left does not come back when the source is read again.
        assert_eq!(figures(&add(0..90_000)), (0, 0));
    }

    #[test]
    fn old_records_are_kept_from_when_they_were_found() {
        let log = log(KEPT);
        let change = log.add(vec![letter(0, -1_000_000, 1)], 1, 10);
        assert_eq!(figures(&change.expect("adds")), (1, 0));
        assert!(!log.is_due(110));
        assert!(log.is_due(111));
        let change = log.add(Vec::new(), 2, 111).expect("expires");
        assert_eq!(figures(&change), (0, 1));
        let change = log.add(vec![letter(0, -1_000_000, 1)], 3, 112);
        assert_eq!(figures(&change.expect("adds nothing")), (0, 0));
    }

    #[test]
    fn letters_are_bounded_by_bytes_and_come_back_in_parts() {
        let retention = Retention {
            bytes_max: 200 << 20,
            ..KEPT
        };
        let first = log(retention);
        let fresh: Vec<_> = (0..300)
            .map(|offset| letter(offset, offset, 1 << 20))
            .collect();
        let change = first.add(fresh, 1, 10).expect("adds");
        assert_eq!(change.records.len(), 199);
        assert!(change.deltas.iter().all(|delta| delta.num_rows() <= 64));
        let second = log(retention);
        let stored = [change.records, change.left].concat();
        let rows = second.restore(&stored).expect("restores");
        assert_eq!(rows.iter().map(Delta::num_rows).sum::<usize>(), 199);
        assert!(rows.len() >= 4);
        let again = second.add(vec![letter(5, 5, 1)], 2, 11).expect("adds");
        assert_eq!(figures(&again), (0, 0));
    }

    /// History is scanned beside the reader that follows: what it finds is older than what that one has recorded, and new.
    #[test]
    fn letters_of_a_scan_come_after_a_later_one_of_the_reader_that_follows() {
        let retention = Retention {
            rows_max: 3,
            ..KEPT
        };
        let first = log(retention);
        let add = |log: &DeadLog, offsets: &[i64]| {
            let fresh = offsets.iter().map(|at| letter(*at, *at, 1)).collect();
            log.add(fresh, 1, 10).expect("adds")
        };
        let mut stored = add(&first, &[1005]).records;
        assert_eq!(figures(&add(&first, &[10])), (1, 0));
        stored.extend(add(&first, &[20]).records);
        // The same after a restart in between, where only the letter at 10 is not on disk yet.
        let second = log(retention);
        second.restore(&stored).expect("restores");
        assert_eq!(figures(&add(&second, &[10, 20])), (1, 0));
        // Now there is no room: the oldest gives way, and another scan does not bring it back.
        for log in [&first, &second] {
            let change = add(log, &[30]);
            assert_eq!(figures(&change), (1, 1));
            assert_eq!(change.left.len(), 1);
            assert_eq!(figures(&add(log, &[10, 20, 30])), (0, 0));
        }
    }
}
