//! HBase through its Thrift2 gateways.
//!
//! Invariant: what HBase holds is what a statement sees, or the statement fails and says why; a gateway that dies costs time,
//! never rows.

mod access;
mod breaker;
mod client;
mod commit;
mod committed;
mod connection;
mod deliveries;
mod endpoint;
mod error;
mod filter;
mod gateways;
#[cfg(test)]
mod gateways_tests;
mod gets;
mod http;
mod key;
mod layout;
mod limits;
mod lookup;
#[cfg(test)]
mod mapping_tests;
mod options;
mod read;
mod reply;
mod request;
mod rows;
mod scalar;
mod sink;
mod table;
mod tls;
mod value;
mod wire;
mod write;

pub use access::{Comparison, Condition};
pub use commit::HbaseCommitter;
pub use committed::HbaseSinkPlace;
pub use error::HbaseError;
pub use lookup::{FoundRow, HbaseLookup};
pub use read::{HbaseRows, KeyOrder};
pub use sink::HbaseSink;
pub use table::{HbaseScan, HbaseTable};
pub use write::{RefusedRow, Written};
