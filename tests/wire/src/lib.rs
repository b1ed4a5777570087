//! Byte-level tests of the Postgres wire front.
//!
//! Invariant: a defect that stock pgwire has is shown on stock pgwire in the same test that shows its absence here, so that
//! no such test can pass by testing nothing.

#[cfg(test)]
mod blocks;
#[cfg(test)]
mod defects;
#[cfg(test)]
mod extended;
#[cfg(test)]
mod fuzz;
#[cfg(test)]
mod raw;
#[cfg(test)]
mod script;
#[cfg(test)]
mod server;
#[cfg(test)]
mod simple;
#[cfg(test)]
mod startup;
#[cfg(test)]
mod stock;
#[cfg(test)]
mod tokio_client;
