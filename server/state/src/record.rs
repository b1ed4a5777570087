//! What one epoch writes, and the bytes of an epoch record.
//!
//! Invariant: `decode(encode(x)) = x`, and any other bytes are an error, never a wrong record.

use crate::codec::{Cursor, sealed, unsealed};
use crate::error::StateError;

/// Everything one epoch makes durable, in one transaction.
#[derive(Debug, Clone, Default)]
pub struct EpochEntry {
    /// The epoch.
    pub epoch: u64,
    /// Its wall clock, milliseconds since the Unix epoch.
    pub at_ms: i64,
    /// Offsets bound to it by sources that moved: `(source, opaque bytes)`.
    pub offsets: Vec<(u32, Vec<u8>)>,
    /// Table changes in the order they apply: `(table, record)`, each record made by [`crate::encode_batches`]. They come
    /// encoded, so that one that cannot be encoded never gets as far as a transaction that others share.
    pub dml: Vec<(u32, Vec<u8>)>,
    /// Dead letters that were seen for the first time.
    pub dead: Vec<DeadRecord>,
    /// Dead letters that fell out of retention: `(source, key)`.
    pub dead_expired: Vec<(u32, Vec<u8>)>,
    /// What sinks into tables did with this epoch: `(sink, number, record)`.
    pub sinks: Vec<(u32, u64, Vec<u8>)>,
    /// Objects that were dropped: everything kept for them goes.
    pub forgotten: Vec<u32>,
}

/// One dead letter: what makes it unique, and its content; or what the engine remembers of those that have left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadRecord {
    /// The source it came from.
    pub source: u32,
    /// Bytes of (topic, partition, offset, reason) of a letter.
    pub key: Vec<u8>,
    /// Opaque content.
    pub value: Vec<u8>,
}

/// What the epoch log says about one epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EpochRecord {
    /// The epoch.
    pub epoch: u64,
    /// Its wall clock, milliseconds since the Unix epoch.
    pub at_ms: i64,
    /// Offsets bound to it, by source.
    pub offsets: Vec<(u32, Vec<u8>)>,
}

impl EpochRecord {
    pub(crate) fn encode(at_ms: i64, offsets: &[(u32, Vec<u8>)]) -> Vec<u8> {
        let mut out = Vec::with_capacity(
            16 + offsets
                .iter()
                .map(|(_, bytes)| bytes.len() + 8)
                .sum::<usize>(),
        );
        out.extend_from_slice(&at_ms.to_le_bytes());
        out.extend_from_slice(&(offsets.len() as u32).to_le_bytes());
        for (source, bytes) in offsets {
            out.extend_from_slice(&source.to_le_bytes());
            out.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
            out.extend_from_slice(bytes);
        }
        sealed(out)
    }

    pub(crate) fn decode(epoch: u64, bytes: &[u8]) -> Result<Self, StateError> {
        let name = || format!("epoch log entry {epoch}");
        let mut cursor =
            Cursor::new(unsealed(bytes).map_err(|reason| StateError::corrupt(name(), reason))?);
        let parsed = (|| {
            let at_ms = cursor.i64()?;
            let count = cursor.u32()?;
            let mut offsets = Vec::new();
            for _ in 0..count {
                let source = cursor.u32()?;
                let len = cursor.u32()? as usize;
                offsets.push((source, cursor.take(len)?.to_vec()));
            }
            cursor.end()?;
            Ok::<_, String>(EpochRecord {
                epoch,
                at_ms,
                offsets,
            })
        })();
        parsed.map_err(|reason| StateError::corrupt(name(), reason))
    }
}
