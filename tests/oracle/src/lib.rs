//! Random SQL programs whose materialized views are judged by two others: DataFusion in batch, and SQLite.
//!
//! Invariant: a program is a function of its seed alone, and a difference prints one line that replays it. What the oracles can
//! catch: any wrong content of a view (lost or doubled retraction, wrong join side, stale epoch, lost row after a restart). What
//! they cannot: a wrong answer that our engine, DataFusion and SQLite share, and anything about time or concurrency.

mod batch;
mod compare;
mod generate;
mod program;
mod query;
mod run;
mod sqlite;

pub use compare::{Cell, Row};
pub use program::{Program, Step};
pub use run::{Difference, Totals, Verdict, live_and_die, run_killed, run_program, run_seeds};
