//! Reads the tree as text and as a crate graph, for the house rules that a machine can check.
//!
//! Invariant: only tracked files count, so a scratch file in a work tree never fails a build and nothing committed hides.

pub mod graph;
pub mod rust_text;
pub mod tree;
