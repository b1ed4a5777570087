//! What the manifest says: the runs of each state table, up to which epoch they hold its log, and the newest checkpoint.
//!
//! Invariant: `decode(encode(x)) = x`, and other bytes are an error that names the record. The records are rows of the database,
//! so a checkpoint is one transaction, together with the log entries that it makes superfluous.

use redb::TableDefinition;

use crate::codec::{Cursor, sealed, unsealed};
use crate::error::StateError;
use crate::run::RunInfo;

/// State table -> its runs.
pub(crate) const STATE_RUNS: TableDefinition<'_, u32, &[u8]> = TableDefinition::new("state_runs");

/// Further state tables of an object: (object, part) -> its runs.
pub(crate) const STATE_PARTS: TableDefinition<'_, (u32, u32), &[u8]> =
    TableDefinition::new("state_parts");

/// Job -> where its state stands, and what it is the state of.
pub(crate) const JOBS: TableDefinition<'_, u32, &[u8]> = TableDefinition::new("jobs");

/// The newest checkpoint.
pub(crate) const CHECKPOINT: TableDefinition<'_, (), &[u8]> = TableDefinition::new("checkpoint");

const RECORD: u8 = 1;

/// The record of a table whose log reaches further back than its runs end.
const RECORD_WITH_LOG: u8 = 2;

/// A state table: the content of an object, or a part of what a job remembers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StatePart {
    /// The object that it goes with.
    pub object: u32,
    /// Its number; 0 is the content.
    pub part: u32,
}

impl From<u32> for StatePart {
    fn from(object: u32) -> Self {
        Self { object, part: 0 }
    }
}

impl std::fmt::Display for StatePart {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.part {
            0 => write!(f, "{}", self.object),
            part => write!(f, "{}/{part}", self.object),
        }
    }
}

/// The runs of a state table.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TableRuns {
    /// They hold every change through this epoch; later ones are in the log.
    pub through: u64,
    /// The log still holds every change after this epoch; at most `through`.
    pub logged_after: u64,
    /// The runs, oldest first.
    pub runs: Vec<RunInfo>,
}

impl TableRuns {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = vec![RECORD_WITH_LOG];
        out.extend_from_slice(&self.through.to_le_bytes());
        out.extend_from_slice(&self.logged_after.to_le_bytes());
        out.extend_from_slice(&(self.runs.len() as u32).to_le_bytes());
        for run in &self.runs {
            for number in [run.number, run.bytes, run.tail, run.rows] {
                out.extend_from_slice(&number.to_le_bytes());
            }
            out.extend_from_slice(&run.net.to_le_bytes());
            out.extend_from_slice(&run.tail_crc.to_le_bytes());
            out.extend_from_slice(&[run.level, run.buckets.0, run.buckets.1]);
        }
        sealed(out)
    }

    pub(crate) fn decode(table: StatePart, bytes: &[u8]) -> Result<Self, StateError> {
        let parsed = unsealed(bytes).and_then(|body| {
            let mut cursor = Cursor::new(body);
            let format = cursor.u8()?;
            let through = cursor.u64()?;
            let logged_after = match format {
                RECORD => through,
                RECORD_WITH_LOG => cursor.u64()?,
                _ => return Err("it has an unknown format".into()),
            };
            let count = cursor.u32()?;
            let mut runs = Vec::new();
            for _ in 0..count {
                let [number, bytes, tail, rows] =
                    [cursor.u64()?, cursor.u64()?, cursor.u64()?, cursor.u64()?];
                runs.push(RunInfo {
                    number,
                    bytes,
                    tail,
                    rows,
                    net: cursor.i64()?,
                    tail_crc: cursor.u32()?,
                    level: cursor.u8()?,
                    buckets: (cursor.u8()?, cursor.u8()?),
                });
            }
            cursor.end()?;
            Ok(Self {
                through,
                logged_after,
                runs,
            })
        });
        parsed
            .map_err(|reason| StateError::corrupt(format!("the manifest of table {table}"), reason))
    }
}

/// A checkpoint that is in the manifest.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CheckpointInfo {
    /// Counts up by one.
    pub number: u64,
    /// The epoch it holds.
    pub epoch: u64,
    /// When it began, milliseconds since the Unix epoch.
    pub started_at_ms: i64,
    /// Bytes of the runs it wrote.
    pub bytes: u64,
    /// How many those are.
    pub runs: u64,
}

/// The newest checkpoint, and the number that the next file gets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Newest {
    pub(crate) info: CheckpointInfo,
    pub(crate) next_file: u64,
}

impl Newest {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = vec![RECORD];
        let info = &self.info;
        for number in [
            info.number,
            info.epoch,
            info.bytes,
            info.runs,
            self.next_file,
        ] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        out.extend_from_slice(&info.started_at_ms.to_le_bytes());
        sealed(out)
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, StateError> {
        let parsed = unsealed(bytes).and_then(|body| {
            let mut cursor = Cursor::new(body);
            if cursor.u8()? != RECORD {
                return Err("it has an unknown format".into());
            }
            let [number, epoch, bytes, runs, next_file] = [
                cursor.u64()?,
                cursor.u64()?,
                cursor.u64()?,
                cursor.u64()?,
                cursor.u64()?,
            ];
            let started_at_ms = cursor.i64()?;
            cursor.end()?;
            let info = CheckpointInfo {
                number,
                epoch,
                started_at_ms,
                bytes,
                runs,
            };
            Ok(Self { info, next_file })
        });
        parsed.map_err(|reason| StateError::corrupt("the checkpoint record", reason))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Records are read back as they were, and a flipped bit is an error.
        #[test]
        fn records_are_read_back(
            through: u64,
            logged_after: u64,
            runs in prop::collection::vec(any::<(u64, u64, u64, u32, u64, i64, u8, (u8, u8))>(), 0..5),
            flip: prop::sample::Index,
        ) {
            let runs = runs.into_iter().map(|(number, bytes, tail, tail_crc, rows, net, level, buckets)| {
                RunInfo { number, bytes, tail, tail_crc, rows, net, level, buckets }
            });
            let table = TableRuns { through, logged_after, runs: runs.collect() };
            let mut bytes = table.encode();
            prop_assert_eq!(&TableRuns::decode(7.into(), &bytes).expect("decodes"), &table);
            let at = flip.index(bytes.len());
            bytes[at] ^= 1;
            let error = TableRuns::decode(7.into(), &bytes).expect_err("is damaged").to_string();
            prop_assert!(error.contains("the manifest of table 7"), "{}", error);
        }
    }

    #[test]
    fn the_newest_checkpoint_is_read_back() {
        let info = CheckpointInfo {
            number: 3,
            epoch: 9,
            started_at_ms: -1,
            bytes: 100,
            runs: 2,
        };
        let newest = Newest {
            info,
            next_file: 12,
        };
        assert_eq!(Newest::decode(&newest.encode()).expect("decodes"), newest);
        assert!(Newest::decode(&[]).is_err());
    }
}
