//! What a sink has delivered, in a log of its own, so that a restart neither loses a row nor leaves a deleted key behind.
//!
//! Invariant: before a key's message leaves, the log says so durably; what an attempt that was not completed touched counts as
//! unknown and is delivered again. Rows without a key count only when their attempt was completed.

use std::collections::HashMap;
use std::sync::Arc;

use foldhash::fast::RandomState;
use thalweg_state::Store;

use crate::error::EngineError;

/// Entries in one record of a rewritten log.
const RECORD_ENTRIES: usize = 65_536;
/// A log is rewritten when it has twice the entries of what it adds up to, and this many more.
const REWRITE_SLACK: u64 = 65_536;

const KIND_INTENT: u8 = 1;
const KIND_DONE: u8 = 2;
const KIND_APPLIED: u8 = 3;

/// Digest of a message or row.
pub(crate) type Digest = [u8; 16];

/// What one message changes of what the outside system holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Entry {
    /// The key has this row, or none.
    Key(Vec<u8>, Option<Digest>),
    /// So many rows more of this content.
    Rows(Digest, i64),
}

/// Rows by key; `None` when it is not known which, if any.
pub(crate) type Keys = HashMap<Vec<u8>, Option<Digest>, RandomState>;

/// Number of rows by content.
pub(crate) type Rows = HashMap<Digest, i64, RandomState>;

/// What the outside system holds, as far as the log knows.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) keys: Keys,
    pub(crate) rows: Rows,
}

impl Held {
    fn apply(&mut self, entry: Entry) {
        match entry {
            Entry::Key(key, None) => drop(self.keys.remove(&key)),
            Entry::Key(key, row) => drop(self.keys.insert(key, row)),
            Entry::Rows(row, count) => {
                let held = self.rows.entry(row).or_default();
                *held += count;
                if *held == 0 {
                    self.rows.remove(&row);
                }
            }
        }
    }

    fn abandon(&mut self, entries: Vec<Entry>) {
        for entry in entries {
            if let Entry::Key(key, _) = entry {
                self.keys.insert(key, None);
            }
        }
    }
}

/// The log of one sink.
#[derive(Debug, Clone)]
pub(crate) struct Ledger {
    store: Arc<Store>,
    sink: u32,
    next: u64,
    attempt: u64,
    /// Entries in the log.
    logged: u64,
}

impl Ledger {
    /// The log of a sink, not read yet.
    pub(crate) fn new(store: Arc<Store>, sink: u32) -> Self {
        Self {
            store,
            sink,
            next: 0,
            attempt: 0,
            logged: 0,
        }
    }

    /// Reads the log, which comes before anything is written to it. Blocks, for long when much was delivered.
    pub(crate) fn read(&mut self) -> Result<Held, EngineError> {
        (self.next, self.attempt, self.logged) = (0, 0, 0);
        let store = Arc::clone(&self.store);
        let mut held = Held::default();
        let mut open: (u64, Vec<Entry>) = (0, Vec::new());
        store.read_sink(self.sink, |seq, record| {
            let (kind, attempt, entries) = decode(record)?;
            self.next = seq + 1;
            self.attempt = self.attempt.max(attempt);
            self.logged += entries.len() as u64;
            if attempt != open.0 {
                held.abandon(std::mem::take(&mut open.1));
                open.0 = attempt;
            }
            match kind {
                KIND_INTENT => open.1.extend(entries),
                KIND_DONE => open.1.drain(..).for_each(|entry| held.apply(entry)),
                _ => entries.into_iter().for_each(|entry| held.apply(entry)),
            }
            Ok(())
        })?;
        held.abandon(open.1);
        Ok(held)
    }

    /// Begins a delivery; one that was not completed is abandoned by this.
    pub(crate) fn begin(&mut self) {
        self.attempt += 1;
    }

    /// Says what is about to be sent. Keys must be known before their messages leave; rows count only once they are through.
    pub(crate) fn intend(&mut self, entries: &[Entry]) -> Result<(), EngineError> {
        let keyed = entries.iter().any(|entry| matches!(entry, Entry::Key(..)));
        self.append(KIND_INTENT, entries, keyed)
    }

    /// Says that everything intended since [`Ledger::begin`] was accepted. A record that a crash takes away only makes the
    /// messages go out again; for rows that is worth a write to disk.
    pub(crate) fn done(&mut self, durable: bool) -> Result<(), EngineError> {
        self.append(KIND_DONE, &[], durable)
    }

    /// The record of changes that become durable in one transaction with it: number and bytes.
    pub(crate) fn applied(&mut self, entries: &[Entry]) -> (u32, u64, Vec<u8>) {
        self.begin();
        let seq = self.next;
        self.next += 1;
        self.logged += entries.len() as u64;
        (self.sink, seq, encode(KIND_APPLIED, self.attempt, entries))
    }

    fn append(&mut self, kind: u8, entries: &[Entry], durable: bool) -> Result<(), EngineError> {
        let record = encode(kind, self.attempt, entries);
        self.store
            .append_sink(self.sink, self.next, &record, durable)?;
        self.next += 1;
        self.logged += entries.len() as u64;
        Ok(())
    }

    /// True when the log is much longer than what it adds up to, which has `rows` entries.
    pub(crate) fn is_long(&self, rows: u64) -> bool {
        self.logged > rows.saturating_mul(2).saturating_add(REWRITE_SLACK)
    }

    /// Replaces the log by `entries`, which say all that it does.
    pub(crate) fn rewrite(&mut self, entries: &[Entry]) -> Result<(), EngineError> {
        self.begin();
        let records: Vec<_> = entries
            .chunks(RECORD_ENTRIES)
            .map(|part| encode(KIND_APPLIED, self.attempt, part))
            .collect();
        self.store.replace_sink(self.sink, self.next, &records)?;
        self.next += records.len() as u64;
        self.logged = entries.len() as u64;
        Ok(())
    }
}

fn encode(kind: u8, attempt: u64, entries: &[Entry]) -> Vec<u8> {
    let mut out = vec![kind];
    out.extend_from_slice(&attempt.to_le_bytes());
    for entry in entries {
        match entry {
            Entry::Key(key, row) => {
                out.push(u8::from(row.is_some()));
                out.extend_from_slice(&(key.len() as u32).to_le_bytes());
                out.extend_from_slice(key);
                out.extend_from_slice(row.as_ref().map_or(&[][..], |row| row.as_slice()));
            }
            Entry::Rows(row, count) => {
                out.push(2);
                out.extend_from_slice(row);
                out.extend_from_slice(&count.to_le_bytes());
            }
        }
    }
    out
}

fn decode(record: &[u8]) -> Result<(u8, u64, Vec<Entry>), String> {
    let parsed = (|| {
        let (kind, rest) = record.split_first()?;
        let (attempt, mut rest) = rest.split_first_chunk::<8>()?;
        let mut entries = Vec::new();
        while let Some((tag, after)) = rest.split_first() {
            let (entry, after) = entry(*tag, after)?;
            entries.push(entry);
            rest = after;
        }
        let known = (KIND_INTENT..=KIND_APPLIED).contains(kind);
        known.then_some((*kind, u64::from_le_bytes(*attempt), entries))
    })();
    parsed.ok_or_else(|| "it is not a record of deliveries".to_owned())
}

fn entry(tag: u8, bytes: &[u8]) -> Option<(Entry, &[u8])> {
    if tag == 2 {
        let (row, rest) = bytes.split_first_chunk::<16>()?;
        let (count, rest) = rest.split_first_chunk::<8>()?;
        return Some((Entry::Rows(*row, i64::from_le_bytes(*count)), rest));
    }
    let (len, rest) = bytes.split_first_chunk::<4>()?;
    let (key, rest) = rest.split_at_checked(u32::from_le_bytes(*len) as usize)?;
    match tag {
        0 => Some((Entry::Key(key.to_vec(), None), rest)),
        1 => {
            let (row, rest) = rest.split_first_chunk::<16>()?;
            Some((Entry::Key(key.to_vec(), Some(*row)), rest))
        }
        _ => None,
    }
}

/// Digest of a message's value or of a row. It is stored, so it never changes; a change would only deliver everything again.
pub(crate) fn digest(bytes: &[u8]) -> Digest {
    const K: [u64; 2] = [0x9E37_79B9_7F4A_7C15, 0xD6E8_FEB8_6659_FD93];
    let (words, rest) = bytes.as_chunks::<8>();
    let mut tail = [0_u8; 8];
    tail.iter_mut().zip(rest).for_each(|(to, from)| *to = *from);
    let lane = |k: u64| {
        let mut state = k ^ bytes.len() as u64;
        let mut mix = |word: u64| {
            let product = u128::from(state ^ word).wrapping_mul(u128::from(k) << 1 | 1);
            state = (product as u64) ^ ((product >> 64) as u64) ^ word.rotate_left(32);
        };
        words.iter().for_each(|word| mix(u64::from_le_bytes(*word)));
        mix(u64::from_le_bytes(tail));
        mix(k);
        mix(k.rotate_left(17));
        state
    };
    let mut out = [0_u8; 16];
    out[..8].copy_from_slice(&lane(K[0]).to_le_bytes());
    out[8..].copy_from_slice(&lane(K[1]).to_le_bytes());
    out
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    type Outcome = Result<(), Box<dyn std::error::Error>>;

    fn store() -> Result<Arc<Store>, Box<dyn std::error::Error>> {
        let db = redb_in_memory()?;
        Ok(Arc::new(Store::open(db)?))
    }

    fn open(store: &Arc<Store>, sink: u32) -> Result<(Ledger, Held), EngineError> {
        let mut ledger = Ledger::new(Arc::clone(store), sink);
        let held = ledger.read()?;
        Ok((ledger, held))
    }

    fn redb_in_memory() -> Result<Arc<redb::Database>, redb::DatabaseError> {
        let backend = redb::backends::InMemoryBackend::new();
        Ok(Arc::new(
            redb::Database::builder().create_with_backend(backend)?,
        ))
    }

    fn key(name: &str, row: Option<&str>) -> Entry {
        let row = row.map(|row| digest(row.as_bytes()));
        Entry::Key(name.as_bytes().to_vec(), row)
    }

    #[test]
    fn what_was_completed_is_known_and_the_rest_is_not() -> Outcome {
        let store = store()?;
        let (mut ledger, held) = open(&store, 7)?;
        assert_eq!(held, Held::default());
        ledger.begin();
        ledger.intend(&[
            key("a", Some("1")),
            key("b", Some("1")),
            key("c", Some("1")),
        ])?;
        ledger.done(false)?;
        ledger.begin();
        ledger.intend(&[key("a", Some("2"))])?;
        // The server stopped here, or the attempt failed and another began.
        ledger.begin();
        ledger.intend(&[key("b", None), key("d", Some("1"))])?;
        ledger.done(false)?;
        ledger.begin();
        ledger.intend(&[key("c", None)])?;
        let (_, held) = open(&store, 7)?;
        let expected = [("a", None), ("c", None), ("d", Some(digest(b"1")))];
        let expected = expected.map(|(key, row)| (key.as_bytes().to_vec(), row));
        assert_eq!(held.keys, Keys::from_iter(expected));
        assert_eq!(open(&store, 8)?.1, Held::default(), "another sink's log");
        Ok(())
    }

    #[test]
    fn rows_count_once_their_attempt_is_through() -> Outcome {
        let store = store()?;
        let (mut ledger, _) = open(&store, 7)?;
        let (a, b) = (digest(b"a"), digest(b"b"));
        ledger.begin();
        ledger.intend(&[Entry::Rows(a, 2), Entry::Rows(b, 1)])?;
        ledger.begin();
        ledger.intend(&[Entry::Rows(a, 2)])?;
        ledger.intend(&[Entry::Rows(b, 1)])?;
        ledger.done(true)?;
        ledger.begin();
        ledger.intend(&[Entry::Rows(b, -1)])?;
        ledger.done(true)?;
        let (mut ledger, held) = open(&store, 7)?;
        assert_eq!(held.rows, Rows::from_iter([(a, 2)]));
        ledger.rewrite(&[Entry::Rows(a, 2)])?;
        let (mut ledger, held) = open(&store, 7)?;
        assert_eq!(held.rows, Rows::from_iter([(a, 2)]));
        assert_eq!(ledger.logged, 1);
        let (sink, seq, record) = ledger.applied(&[Entry::Rows(a, 1)]);
        store.append_sink(sink, seq, &record, true)?;
        assert_eq!(open(&store, 7)?.1.rows, Rows::from_iter([(a, 3)]));
        Ok(())
    }

    #[test]
    fn damaged_records_are_refused() {
        let record = encode(
            KIND_INTENT,
            3,
            &[key("abc", Some("x")), Entry::Rows([1; 16], -4)],
        );
        assert!(decode(&record).is_ok());
        for end in [0, 5, 9, 12, 20, record.len() - 1] {
            let cut = record.get(..end).unwrap_or_default();
            assert!(end == 9 || decode(cut).is_err(), "{end}");
        }
        assert!(decode(&[9; 9]).is_err());
    }

    #[test]
    fn digests_differ() {
        let mut seen = HashSet::new();
        for length in 0..40_usize {
            for flip in 0..=length * 8 {
                let mut bytes = vec![0_u8; length];
                if let Some(byte) = bytes.get_mut(flip / 8) {
                    *byte ^= 1 << (flip % 8);
                }
                let fresh = seen.insert(digest(&bytes));
                assert!(fresh || flip == length * 8, "{length} {flip}");
            }
        }
    }
}
