//! The planner's limits, in one place.
//!
//! Invariant: each is checked before the work it bounds, and exceeding it is 54001 or 54000, never a crash.

/// Queries and expressions nested in each other, counted by the normaliser.
pub(crate) const QUERY_DEPTH_MAX: usize = 400;
/// As above, for expressions.
pub(crate) const EXPRESSION_DEPTH_MAX: usize = 400;
/// Views inside views.
pub(crate) const VIEW_DEPTH_MAX: usize = 32;
/// `$n`, as in the wire protocol.
pub(crate) const PARAMETERS_MAX: usize = 65_535;
