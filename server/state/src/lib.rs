//! Durable state of the engine over one redb handle: the epoch log, the DML log and the dead letters.
//!
//! Invariant: an epoch is one transaction, so it is there with all its changes or not at all; every record carries a
//! crc32c that is checked before its bytes are decoded. This crate knows epochs as `u64`, objects as `u32` and offsets as
//! opaque bytes; it knows nothing of the catalog.

mod codec;
mod error;
mod record;
mod store;

pub use codec::{Multiplicity, WeightedBatch, decode_batches, encode_batches};
pub use error::StateError;
pub use record::{DeadRecord, EpochEntry, EpochRecord};
/// A write transaction of the shared data file, for records of others that become durable together with an epoch.
pub use redb::WriteTransaction as Transaction;
pub use store::{DmlEntry, Store, TableLog};
