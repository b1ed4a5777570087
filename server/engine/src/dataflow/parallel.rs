//! Runs the shards of an operator side by side when there is enough to do.
//!
//! Invariant: shards share nothing that they change, and their results are taken in the order of the shards; so how many threads
//! there are changes neither the rows nor their order within a shard.

use std::panic::resume_unwind;

use crate::config::STACK_BYTES;
use crate::error::EngineError;

/// Starting a thread costs as much as some thousand rows. Tests have few rows and start threads all the same.
const PARALLEL_ROWS: usize = if cfg!(test) { 1 } else { 8_192 };

/// Calls `work` for every shard with its number.
pub(super) fn each_shard<S: Send, T: Send>(
    shards: &mut [S],
    rows: usize,
    work: impl Fn(usize, &mut S) -> Result<T, EngineError> + Sync,
) -> Result<Vec<T>, EngineError> {
    if shards.len() == 1 || rows < PARALLEL_ROWS {
        let numbered = shards.iter_mut().enumerate();
        return numbered.map(|(index, shard)| work(index, shard)).collect();
    }
    let work = &work;
    std::thread::scope(|scope| {
        let mut running = Vec::with_capacity(shards.len());
        for (index, shard) in shards.iter_mut().enumerate() {
            let thread = std::thread::Builder::new()
                .name("thalweg-shard".into())
                .stack_size(STACK_BYTES)
                .spawn_scoped(scope, move || work(index, shard));
            running.push(thread.map_err(EngineError::internal)?);
        }
        running
            .into_iter()
            .map(|thread| match thread.join() {
                Ok(result) => result,
                // The view's own run catches it, as it does on one thread.
                Err(panic) => resume_unwind(panic),
            })
            .collect()
    })
}
