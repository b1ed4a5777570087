//! Turns a statement and a catalog snapshot into a batch plan or a streaming plan.
//!
//! Invariant: one typed logical plan serves both worlds, so a query answers the same ad hoc and as a view; nothing here
//! does IO, reads a clock or holds rows.

mod bind;
mod context;
mod dml;
mod error;
mod explain;
mod facts;
mod functions;
mod hybrid;
mod limits;
mod lookup;
mod lower;
mod names;
mod output;
mod planner;
mod reads;
mod registry;
mod rewrite;
pub mod stream;
mod types;
mod view;

pub use context::{
    Conflict, DmlPlan, Functions, NoSystemRelations, OutputColumn, Outside, PlanContext, QueryPlan,
    RelationScan, Returning, SystemRelations, ViewPlan,
};
pub use error::PlanError;
pub use functions::exact::ExactTotal;
pub use hybrid::Hybrids;
pub use planner::Planner;
pub use reads::{ColumnReads, Reads};
pub use rewrite::guard::ErrorSink;
pub use stream::{StreamNode, StreamPlan};
