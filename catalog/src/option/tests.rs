//! Options accepted and refused, by table.
//!
//! Invariant: every refusal names the option and says what to do instead.
