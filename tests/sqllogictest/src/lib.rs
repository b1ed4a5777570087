//! Runs the `.slt` files over the Postgres wire: by the simple protocol, by the extended one, and on a server that is killed between
//! statements.
//!
//! Invariant: both engines give the same text for the same value, so one expectation serves both; what they print is
//! what Postgres prints, so the same files can be held against a real Postgres (`THALWEG_SLT_POSTGRES`).

pub mod cases;
pub mod engine;
pub mod fire;
pub mod kind;
pub mod text;
