//! Tests of the catalog from outside: types, names, changes, the log and its crashes.
//!
//! Invariant: every random test prints its seed, and `THALWEG_SEED` runs it again.

mod crash;
mod ddl;
mod log;
mod names;
mod random;
mod replay;
mod types;
