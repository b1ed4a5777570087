//! Runs the declared objects: assigns epochs, keeps views up to date, serves reads and takes writes.
//!
//! Invariant: at every epoch a view equals its query over exactly the inputs of that epoch; a query sees one epoch of everything
//! it touches. See [`Engine`] for the calls, `worker` for epochs, `job` for views, `segments` for what is kept.

mod adhoc;
mod apart;
mod archive;
mod backfill;
mod batch;
mod built;
mod checkpoint;
mod choose;
mod chunk;
mod committing;
mod compute_errors;
mod config;
mod consolidate;
mod create;
mod dataflow;
mod dead;
mod disk;
mod early;
mod engine;
mod error;
mod external;
mod history;
mod hybrid;
mod inbox;
mod into_table;
mod job;
mod ledger;
mod lookups;
mod memory;
mod messages;
mod pause;
mod read;
mod relation;
mod run;
mod scan;
mod sealed;
mod segments;
mod shape;
mod shared;
mod sink_log;
mod sinks;
mod snapshot;
mod source;
mod stateless;
mod statement;
mod status;
mod steps;
mod subscription;
mod table;
mod text;
mod transaction;
mod worker;
mod write;

pub use archive::feed_of;
pub use config::{EngineConfig, Writers};
pub use engine::Engine;
pub use error::EngineError;
pub use memory::MemoryPart;
pub use read::{Consistency, Read, ReadOptions, SessionFloor};
pub use sealed::SealedBox;
pub use status::{
    ArchiveFile, CheckpointStatus, EngineStatus, ErrorRecord, JobPhase, JobStatus, RelationStatus,
    SourceStatus,
};
pub use subscription::{FollowEvent, FollowFrom, FollowOptions, Followed, Subscription};
pub use transaction::{Append, Definitions, WriteTransaction};
pub use write::Written;
