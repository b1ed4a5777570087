//! Proves what the engine promises, with the real planner, log and generator source over a scratch folder. One binary, because
//! linking DataFusion is slow.

mod beginnings;
mod checkpoints;
mod columns;
mod disks;
mod exactly_once;
mod folder;
mod harness;
mod log_failures;
mod memory;
mod panics;
mod pause;
mod random;
mod restart;
mod resume;
mod sinks_go_on;
mod sources;
mod subscriptions;
mod tables;
mod transactions;
mod views;
