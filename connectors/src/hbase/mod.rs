//! HBase through its Thrift2 gateways.
//!
//! Invariant: what HBase holds is what a statement sees, or the statement fails and says why; a gateway that dies costs time,
//! never rows.

#![cfg_attr(
    not(test),
    expect(
        dead_code,
        reason = "the table that makes these calls is not declared yet"
    )
)]

mod breaker;
mod client;
mod connection;
mod error;
mod gateways;
#[cfg(test)]
mod gateways_tests;
mod limits;
mod reply;
mod request;
mod wire;

pub use error::HbaseError;
