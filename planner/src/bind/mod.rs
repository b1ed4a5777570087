//! From a parsed statement and a catalog snapshot to a typed DataFusion plan.
//!
//! Invariant: the binder is the only place that gives expressions their types; later passes never change them.

pub(crate) mod binder;
mod full_join;
mod function;
pub(crate) mod literal;
pub(crate) mod node;
pub(crate) mod normalize;
mod normalize_call;
mod normalize_expr;
mod normalize_from;
mod normalize_match;
mod operator;
mod pattern;
mod precedence;
pub(crate) mod provider;
mod row;
mod set_operation;
