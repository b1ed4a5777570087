//! The encodings of the Thrift protocol: requests through the `thrift` crate, replies from a slice without copies.
//!
//! Invariant: no reply, however damaged, makes decoding panic, recurse without bound or allocate more than the reply is long.

mod reader;
mod request;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod thrift2_tests;
/// HBase's interface as the Thrift compiler has it.
#[cfg(test)]
#[rustfmt::skip]
#[path = "../../../tests/thrift2/hbase.rs"]
mod interface;

pub(super) use reader::{Field, Kind, Reader, Span, Verdict};
pub(super) use request::{Out, encode};

/// How values are put into bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Protocol {
    /// Variable-length numbers; about 40 % smaller for cells.
    Compact,
    /// Fixed-length numbers; what a gateway speaks unless configured.
    Binary,
}

/// What kind a message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum MessageKind {
    /// The result of a call.
    Reply,
    /// The server could not perform the call at all.
    Exception,
}

/// Why bytes are not a reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum WireError {
    /// The bytes end too early. On a stream without frames: more must be read.
    #[error("the reply ends too early")]
    Truncated,
    /// Not the protocol we speak.
    #[error("the reply is not in this protocol")]
    WrongProtocol,
    /// Structures inside structures beyond reason.
    #[error("the reply is nested too deeply")]
    TooDeep,
    /// A type code that is not known.
    #[error("the reply holds an unknown type")]
    UnknownType,
    /// A length that is negative or more than the reply can hold.
    #[error("the reply holds an impossible length")]
    Length,
    /// A field has another type than the interface says, or a required one is missing.
    #[error("the reply has another structure than the interface of HBase")]
    Structure,
    /// The answer to another call.
    #[error("the reply answers another call")]
    WrongCall,
    /// Text that is not UTF-8.
    #[error("the reply holds text that is not UTF-8")]
    Text,
}
