//! The only code that talks to outside systems: sources, sinks and their formats, and the change sets that flow from and to them.
//!
//! Invariant: nothing a broker, file or record contains makes this crate panic, block for ever or lose its place; what cannot
//! become a row becomes a [`DeadLetter`], and what cannot be reached becomes [`SourceHealth::Degraded`].
//!
//! * [`source()`] and [`sink()`] turn a catalog object into a connector; both check every option they read.
//! * [`SourceConnector`] resolves where reading starts and opens a [`SourceReader`]; offsets belong to the caller.
//! * [`Delta`], [`Epoch`] and [`EpochInfo`] are what the engine passes around.

// Tests of the contracts know the crate by its name.
#[cfg(test)]
extern crate self as thalweg_connectors;

mod archive;
mod blackhole;
mod commit;
mod context;
mod datagen;
mod delta;
mod error;
mod file;
mod format;
mod generator;
mod hbase;
mod kafka;
mod nexmark;
mod options;
mod print;
mod registry;
mod sink;
mod source;
mod store;
#[cfg(test)]
mod testing;

pub use archive::{
    ArchiveError, ArchiveSink, ArchiveTable, Bounds, DataFile, FeedId, Head, Layout, Overlap,
    Place, Reached, Snapshot, Vacuumed, WriterMemory,
};
pub use blackhole::BlackholeSink;
pub use commit::{CommittingSink, Due, Marker, Staged};
pub use context::{Clock, ConnectorContext, ManualClock, SystemClock};
pub use datagen::DatagenSource;
pub use delta::{Delta, Epoch, EpochInfo, Weights};
pub use error::ConnectorError;
pub use file::FileSource;
pub use format::{JsonRows, canonical_json};
pub use hbase::{
    Comparison, Condition, FoundRow, HbaseCommitter, HbaseError, HbaseLookup, HbaseRows, HbaseScan,
    HbaseSink, HbaseSinkPlace, HbaseTable, KeyOrder, RefusedRow, Written,
};
pub use kafka::{KafkaSink, KafkaSource, fill_with_nexmark};
pub use nexmark::{NexmarkSource, NexmarkText};
pub use print::PrintSink;
pub use registry::{sink, source};
pub use sink::{AnySink, Form, Message, MessageSink, Sink};
pub use source::{
    Budget, ColumnsRead, DeadLetter, FieldsRead, Offsets, RowPlace, SourceBatch, SourceConnector,
    SourceHealth, SourceReader, SplitId,
};
pub use store::{Child, Entry, Moved, Step, Steps, Store, StoreError, StoreFault, StoreFile};
