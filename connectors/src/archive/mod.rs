//! Archives: append-only history in Parquet files, committed by manifests, in a folder of a disk or an outside file system.
//!
//! Invariant: readers take files from manifests only, so they see whole commits; a foreign reader that lists folders sees whole
//! files.

mod attached;
#[cfg(test)]
mod attached_tests;
mod checkpoint;
mod decide;
mod encode;
mod error;
mod feed;
mod layout;
mod manifest;
mod memory;
#[cfg(test)]
mod memory_tests;
mod place;
mod recover;
mod sink;
#[cfg(test)]
mod sink_tests;
mod snapshot;
mod table;
#[cfg(test)]
mod tests;
mod upkeep;
#[cfg(test)]
mod upkeep_tests;
mod vacuum;
#[cfg(test)]
mod vacuum_tests;
mod writer;

pub use decide::Head;
pub use error::ArchiveError;
pub use feed::FeedId;
pub use layout::Layout;
pub use manifest::DataFile;
pub use memory::WriterMemory;
pub use place::{Overlap, Place};
pub use sink::ArchiveSink;
pub use snapshot::{Bounds, Reached, Snapshot};
pub use table::ArchiveTable;
pub use vacuum::Vacuumed;
