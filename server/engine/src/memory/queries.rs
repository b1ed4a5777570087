//! Memory of queries: each has its own limit, and all of them together have one.
//!
//! Invariant: what a query is refused for want of memory is an error of that query alone; what it had is free when it ends.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use datafusion::common::DataFusionError;
use datafusion::execution::memory_pool::{MemoryLimit, MemoryPool, MemoryReservation};

/// What all queries may have together.
#[derive(Debug)]
pub(crate) struct QueryMemory {
    limit: usize,
    used: AtomicUsize,
}

impl QueryMemory {
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            limit,
            used: AtomicUsize::new(0),
        }
    }

    pub(crate) fn limit(&self) -> usize {
        self.limit
    }

    pub(crate) fn used(&self) -> usize {
        self.used.load(Ordering::SeqCst)
    }

    /// The memory of one query, at most `limit` bytes.
    pub(crate) fn query(self: &Arc<Self>, limit: usize) -> Arc<dyn MemoryPool> {
        Arc::new(OneQuery {
            limit,
            used: AtomicUsize::new(0),
            all: Arc::clone(self),
        })
    }
}

#[derive(Debug)]
struct OneQuery {
    limit: usize,
    used: AtomicUsize,
    all: Arc<QueryMemory>,
}

impl fmt::Display for OneQuery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "query(used: {} of {})", self.reserved(), self.limit)
    }
}

/// Adds when the sum stays within the limit; else says how much there is.
fn try_add(used: &AtomicUsize, bytes: usize, limit: usize) -> Result<(), usize> {
    let more = |used: usize| used.checked_add(bytes).filter(|sum| *sum <= limit);
    used.fetch_update(Ordering::SeqCst, Ordering::SeqCst, more)
        .map(|_| ())
}

impl MemoryPool for OneQuery {
    fn name(&self) -> &str {
        "query"
    }

    fn grow(&self, _: &MemoryReservation, additional: usize) {
        self.used.fetch_add(additional, Ordering::SeqCst);
        self.all.used.fetch_add(additional, Ordering::SeqCst);
    }

    fn shrink(&self, _: &MemoryReservation, shrink: usize) {
        self.used.fetch_sub(shrink, Ordering::SeqCst);
        self.all.used.fetch_sub(shrink, Ordering::SeqCst);
    }

    fn try_grow(&self, _: &MemoryReservation, additional: usize) -> Result<(), DataFusionError> {
        let refused = |used: usize, limit: usize, who: &str| {
            DataFusionError::ResourcesExhausted(format!(
                "{who} may have {limit} bytes of memory, has {used} and needs {additional} more"
            ))
        };
        try_add(&self.used, additional, self.limit)
            .map_err(|used| refused(used, self.limit, "a query"))?;
        try_add(&self.all.used, additional, self.all.limit).map_err(|used| {
            self.used.fetch_sub(additional, Ordering::SeqCst);
            refused(used, self.all.limit, "all queries together")
        })
    }

    fn reserved(&self) -> usize {
        self.used.load(Ordering::SeqCst)
    }

    fn memory_limit(&self) -> MemoryLimit {
        MemoryLimit::Finite(self.limit)
    }
}

impl Drop for OneQuery {
    fn drop(&mut self) {
        // A reservation that outlived its operator would be lost for all queries to come.
        self.all
            .used
            .fetch_sub(*self.used.get_mut(), Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use datafusion::execution::memory_pool::MemoryConsumer;

    use super::*;

    #[test]
    fn a_query_is_refused_and_the_others_keep_what_they_have() {
        let all = Arc::new(QueryMemory::new(1_000));
        let (one, two) = (all.query(600), all.query(600));
        let first = MemoryConsumer::new("first").register(&one);
        let second = MemoryConsumer::new("second").register(&two);
        first.try_grow(500).expect("there is room");
        assert!(first.try_grow(200).is_err(), "over its own limit");
        assert!(second.try_grow(550).is_err(), "over that of all");
        assert_eq!((one.reserved(), two.reserved(), all.used()), (500, 0, 500));
        second.try_grow(500).expect("there is room");
        drop(first);
        assert_eq!((one.reserved(), all.used()), (0, 500));
        second.try_grow(100).expect("there is room again");
        drop(second);
        assert_eq!(all.used(), 0);
    }
}
