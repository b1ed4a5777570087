//! Durable state of the engine: the logs and the manifest in one redb file, and the runs beside it.
//!
//! Invariant: an epoch is one transaction, so it is there with all its changes or not at all; a checkpoint is one transaction that
//! names runs which are on disk already. Every record and every part of a run carries a crc32c that is checked before its bytes
//! are decoded. This crate knows epochs as `u64`, objects as `u32` and offsets as opaque bytes; it knows nothing of the catalog.

mod backup;
mod codec;
mod compact;
mod data_file;
mod error;
mod folder;
mod hash;
mod io;
mod key;
mod manifest;
mod point;
mod record;
mod run;
mod runs;
mod spill;
mod store;

pub use backup::{Backup, BackupFile, Copying, restore};
pub use codec::{Multiplicity, WeightedBatch, decode_batches, encode_batches};
pub use compact::disk_floor;
pub use error::{StateError, hint};
pub use folder::{DataDir, FORMAT};
pub use hash::{BUCKETS, HASH_VERSION, bucket, hash};
pub use io::{Disk, DiskFile, FaultyDisk, PowerDisk, SkippedSync, SystemDisk};
pub use key::{KeyCodec, Keys};
pub use manifest::{CheckpointInfo, StatePart, TableRuns};
pub use point::{CrashAction, CrashPoints, Point};
pub use record::{DeadRecord, EpochEntry, EpochRecord};
/// A write transaction of the shared data file, for records of others that become durable together with an epoch.
pub use redb::WriteTransaction as Transaction;
pub use run::{Run, RunInfo, RunRows, RunShape};
pub use runs::{Checkpoint, JobRecord, Merged, NewRun, Runs, Save};
pub use spill::{Put, SpillFolder, Spilled};
pub use store::{DmlEntry, Store, TableLog};
