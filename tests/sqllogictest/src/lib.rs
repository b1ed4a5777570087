//! Runs the `.slt` files over the Postgres wire, once by the simple and once by the extended protocol.
//!
//! Invariant: both engines give the same text for the same value, so one expectation serves both; what they print is
//! what Postgres prints, so the same files can be held against a real Postgres (`THALWEG_SLT_POSTGRES`).

pub mod cases;
pub mod engine;
pub mod kind;
pub mod text;
