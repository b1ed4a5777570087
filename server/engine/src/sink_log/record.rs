//! What the log of a sink says about its runs: which wait for delivery, and how far the outside system is known to be.
//!
//! Invariant: `decode(encode(x)) = x`, and other bytes are an error. Entries are in the order of their epochs, and none is
//! before what was delivered.

use std::collections::{BTreeMap, VecDeque};

use thalweg_connectors::{Marker, Offsets};

use crate::source::{decode_offsets, encode_offsets};

const FORMAT: u8 = 3;

/// Without a word on other writers.
const FORMAT_OF_OFFERS: u8 = 2;

/// Without what a writer may have been given, and with all content: nothing was staged before a writer had taken over.
const FORMAT_OF_CONTENT: u8 = 1;

/// What one checkpoint has staged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    /// The epoch through which it goes.
    pub(crate) epoch: u64,
    /// The epoch after which it begins.
    pub(crate) before: u64,
    pub(crate) stamp_ms: i64,
    /// Rows of a part; kept, so that a delivery that was begun is cut again where it was.
    pub(crate) part_rows: u32,
    /// Bytes of its runs.
    pub(crate) bytes: u64,
    pub(crate) runs: Vec<u64>,
    pub(crate) frontier: BTreeMap<String, Offsets>,
}

/// The record of a sink.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Record {
    /// The newest marker that is known to be outside.
    pub(crate) delivered: Option<Marker>,
    /// Stamp of the newest entry.
    pub(crate) stamp_ms: i64,
    /// Place of the next row that is appended.
    pub(crate) order: i64,
    /// Entries through this epoch may have been given to a writer. Later ones were staged while none had taken over.
    pub(crate) offered: u64,
    /// What was delivered is not kept any more, so the runs do not add up to the content of the query.
    pub(crate) partial: bool,
    /// Another server writes as this sink, and nobody has said since that this one shall.
    pub(crate) shut_out: bool,
    /// What waits, oldest first.
    pub(crate) entries: VecDeque<Entry>,
}

impl Record {
    /// Forgets what is outside by now; tells whether that is news.
    pub(crate) fn trim(&mut self, marker: Option<Marker>) -> bool {
        if marker <= self.delivered {
            return false;
        }
        self.delivered = marker;
        let gone = |entry: &Entry| {
            marker.is_some_and(|m| entry.epoch < m.epoch || (entry.epoch == m.epoch && m.last))
        };
        while self.entries.front().is_some_and(gone) {
            self.entries.pop_front();
        }
        true
    }

    /// Has a writer be given everything that is staged; tells whether that is news.
    pub(crate) fn offer(&mut self) -> bool {
        let newest = self.entries.back().map_or(0, |entry| entry.epoch);
        let news = newest > self.offered;
        self.offered = self.offered.max(newest);
        news
    }

    /// The first of the runs that wait.
    pub(crate) fn first_run(&self) -> Option<u64> {
        self.entries.front()?.runs.first().copied()
    }

    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = vec![FORMAT, u8::from(self.delivered.is_some())];
        let marker = self.delivered.unwrap_or_default();
        out.extend_from_slice(&marker.epoch.to_le_bytes());
        out.extend_from_slice(&marker.part.to_le_bytes());
        out.push(u8::from(marker.last));
        out.extend_from_slice(&self.stamp_ms.to_le_bytes());
        out.extend_from_slice(&self.order.to_le_bytes());
        out.extend_from_slice(&self.offered.to_le_bytes());
        out.push(u8::from(self.partial));
        out.push(u8::from(self.shut_out));
        put_len(self.entries.len(), &mut out);
        for entry in &self.entries {
            out.extend_from_slice(&entry.epoch.to_le_bytes());
            out.extend_from_slice(&entry.before.to_le_bytes());
            out.extend_from_slice(&entry.stamp_ms.to_le_bytes());
            out.extend_from_slice(&entry.part_rows.to_le_bytes());
            out.extend_from_slice(&entry.bytes.to_le_bytes());
            put_len(entry.runs.len(), &mut out);
            for run in &entry.runs {
                out.extend_from_slice(&run.to_le_bytes());
            }
            put_len(entry.frontier.len(), &mut out);
            for (source, offsets) in &entry.frontier {
                put_bytes(source.as_bytes(), &mut out);
                put_bytes(&encode_offsets(offsets), &mut out);
            }
        }
        out
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, String> {
        let mut cursor = Cursor(bytes);
        let record = cursor.record().filter(|_| cursor.0.is_empty());
        record.ok_or_else(|| "it is not a record of what waits for delivery".to_owned())
    }
}

fn put_len(len: usize, out: &mut Vec<u8>) {
    out.extend_from_slice(&(len as u32).to_le_bytes());
}

fn put_bytes(bytes: &[u8], out: &mut Vec<u8>) {
    put_len(bytes.len(), out);
    out.extend_from_slice(bytes);
}

struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*head)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    fn i64(&mut self) -> Option<i64> {
        self.array().map(i64::from_le_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn flag(&mut self) -> Option<bool> {
        match self.array()? {
            [0] => Some(false),
            [1] => Some(true),
            _ => None,
        }
    }

    fn bytes(&mut self) -> Option<&'a [u8]> {
        let len = self.u32()? as usize;
        let (head, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(head)
    }

    fn record(&mut self) -> Option<Record> {
        let [format] = self.array()?;
        if !(FORMAT_OF_CONTENT..=FORMAT).contains(&format) {
            return None;
        }
        let known = self.flag()?;
        let marker = Marker {
            epoch: self.u64()?,
            part: self.u32()?,
            last: self.flag()?,
        };
        let (stamp_ms, order) = (self.i64()?, self.i64()?);
        let (offered, partial) = match format {
            FORMAT_OF_CONTENT => (0, false),
            _ => (self.u64()?, self.flag()?),
        };
        let shut_out = match format {
            FORMAT_OF_CONTENT | FORMAT_OF_OFFERS => false,
            _ => self.flag()?,
        };
        let mut entries = VecDeque::new();
        for _ in 0..self.u32()? {
            entries.push_back(self.entry()?);
        }
        let mut record = Record {
            delivered: known.then_some(marker),
            stamp_ms,
            order,
            offered,
            partial,
            shut_out,
            entries,
        };
        if format == FORMAT_OF_CONTENT {
            record.offer();
        }
        Some(record)
    }

    fn entry(&mut self) -> Option<Entry> {
        let (epoch, before) = (self.u64()?, self.u64()?);
        let (stamp_ms, part_rows, bytes) = (self.i64()?, self.u32()?, self.u64()?);
        let mut runs = Vec::new();
        for _ in 0..self.u32()? {
            runs.push(self.u64()?);
        }
        let mut frontier = BTreeMap::new();
        for _ in 0..self.u32()? {
            let source = String::from_utf8(self.bytes()?.to_vec()).ok()?;
            frontier.insert(source, decode_offsets(self.bytes()?)?);
        }
        Some(Entry {
            epoch,
            before,
            stamp_ms,
            part_rows,
            bytes,
            runs,
            frontier,
        })
    }
}
