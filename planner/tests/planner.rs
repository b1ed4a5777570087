//! Everything the planner promises, tested through its public API in one binary: linking DataFusion twice is slow.
//!
//! Each module opens with what it proves.

mod suite {
    pub(crate) mod dml;
    pub(crate) mod expressions;
    pub(crate) mod plans;
    pub(crate) mod postgres;
    pub(crate) mod queries;
    pub(crate) mod reads;
    pub(crate) mod reports;
    pub(crate) mod views;
    pub(crate) mod world;
}
