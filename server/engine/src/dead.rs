//! Dead letters of one source: which are known, and how they become rows of its errors relation.
//!
//! Invariant: a letter is unique by (source, topic, partition, offset, reason), on disk and in the relation, so reading a source
//! again never doubles it.

use std::collections::BTreeMap;
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

/// How long dead letters are kept, and how many.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Retention {
    pub(crate) age_us: i64,
    pub(crate) rows_max: usize,
}

/// The errors relation of a source.
#[derive(Debug)]
pub(crate) struct DeadLog {
    pub(crate) source: Oid,
    pub(crate) relation: Arc<Stored>,
    retention: Retention,
    letters: Mutex<BTreeMap<Vec<u8>, Kept>>,
}

#[derive(Debug, Clone)]
struct Kept {
    letter: DeadLetter,
    epoch: u64,
}

/// What an epoch does to an errors relation.
#[derive(Debug, Default)]
pub(crate) struct DeadChange {
    pub(crate) deltas: Vec<Delta>,
    pub(crate) records: Vec<DeadRecord>,
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
        for record in records {
            let (epoch, letter) = decode(&record.value).ok_or_else(|| EngineError::Storage {
                sqlstate: "XX001",
                message: format!(
                    "a dead letter of {} is corrupt: it ends too early",
                    self.relation.label()
                ),
            })?;
            letters.insert(record.key.clone(), Kept { letter, epoch });
        }
        let rows: Vec<&Kept> = letters.values().collect();
        Ok(if rows.is_empty() {
            Vec::new()
        } else {
            vec![Delta::insert(self.batch(&rows)?)]
        })
    }

    /// Adds letters that are new, removes what retention no longer keeps.
    pub(crate) fn add(
        &self,
        fresh: Vec<DeadLetter>,
        epoch: u64,
        now_us: i64,
    ) -> Result<DeadChange, EngineError> {
        let mut letters = self.letters.lock();
        let mut change = DeadChange::default();
        let oldest = now_us.saturating_sub(self.retention.age_us);
        let mut added = Vec::new();
        for letter in fresh {
            let key = key(&letter);
            if letters.contains_key(&key) || letter.at_us < oldest {
                continue;
            }
            let value = encode(epoch, &letter);
            change.records.push(DeadRecord {
                source: self.source.0,
                key: key.clone(),
                value,
            });
            letters.insert(key.clone(), Kept { letter, epoch });
            added.push(key);
        }
        let mut gone: Vec<Vec<u8>> = letters
            .iter()
            .filter(|(_, kept)| kept.letter.at_us < oldest)
            .map(|(key, _)| key.clone())
            .collect();
        if letters.len() - gone.len() > self.retention.rows_max {
            let mut by_age: Vec<(i64, &Vec<u8>)> = letters
                .iter()
                .map(|(key, kept)| (kept.letter.at_us, key))
                .collect();
            by_age.sort_unstable();
            gone = by_age
                .iter()
                .take(letters.len() - self.retention.rows_max)
                .map(|(_, key)| (*key).clone())
                .collect();
        }
        // Letters that come and go within the epoch leave no trace.
        change.records.retain(|record| !gone.contains(&record.key));
        let born: Vec<&Kept> = added
            .iter()
            .filter(|key| !gone.contains(*key))
            .filter_map(|key| letters.get(key))
            .collect();
        if !born.is_empty() {
            change.deltas.push(Delta::insert(self.batch(&born)?));
        }
        gone.retain(|key| !added.contains(key) || letters.remove(key).is_none());
        let died: Vec<&Kept> = gone.iter().filter_map(|key| letters.get(key)).collect();
        if !died.is_empty() {
            change.deltas.push(Delta::delete(self.batch(&died)?));
        }
        for key in &gone {
            letters.remove(key);
        }
        change.expired = gone;
        Ok(change)
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

fn encode(epoch: u64, letter: &DeadLetter) -> Vec<u8> {
    let mut out = Vec::new();
    out.extend_from_slice(&epoch.to_le_bytes());
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

fn decode(mut bytes: &[u8]) -> Option<(u64, DeadLetter)> {
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
    let at_us = i64::from_le_bytes(array(bytes)?);
    let offset = i64::from_le_bytes(array(bytes)?);
    let partition = i32::from_le_bytes(array(bytes)?);
    let (reason, message, topic) = (text(bytes)?, text(bytes)?, text(bytes)?);
    let (key, payload, headers) = (optional(bytes)?, optional(bytes)?, optional(bytes)?);
    let headers = match headers {
        Some(headers) => Some(String::from_utf8(headers).ok()?),
        None => None,
    };
    Some((
        epoch,
        DeadLetter {
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
    ))
}
