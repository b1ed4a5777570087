//! The front door of Thalweg: Postgres wire, Arrow Flight SQL, HTTP, sessions and the command line.
//!
//! Invariant: both wires reach data only through [`frontend`], so that a statement means the same on each of them.
//!
//! A server in this process, for a test or an embedding program:
//!
//! ```no_run
//! # async fn example() {
//! let server = thalweg::testing::TestServer::start().await;
//! println!("psql -h {} -p {} thalweg", server.pg_addr.ip(), server.pg_addr.port());
//! # }
//! ```

pub mod boot;
pub mod cli;
pub mod config;
mod flight;
pub mod frontend;
mod http;
mod machine;
pub mod pg;
pub mod system;
pub mod testing;
