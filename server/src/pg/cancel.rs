//! Cancel keys and what they cancel.
//!
//! Invariant: a request cancels only the statement that runs when it arrives, never the next one, and its sender learns
//! nothing, neither from an answer nor from the time the comparison takes.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::error::report;
use crate::frontend::Report;

/// The statement a connection runs now, if any.
#[derive(Debug, Default)]
pub(super) struct Running(Mutex<Option<CancellationToken>>);

impl Running {
    /// Marks the start of a statement; cancels reach it until the guard is dropped.
    pub(super) fn start(self: &Arc<Self>) -> RunningStatement {
        let token = CancellationToken::new();
        *self.0.lock() = Some(token.clone());
        RunningStatement {
            running: Arc::clone(self),
            token,
        }
    }

    fn cancel(&self) {
        if let Some(token) = &*self.0.lock() {
            token.cancel();
        }
    }
}

/// A statement that can be cancelled.
#[derive(Debug)]
pub(super) struct RunningStatement {
    running: Arc<Running>,
    pub(super) token: CancellationToken,
}

impl Drop for RunningStatement {
    fn drop(&mut self) {
        *self.running.0.lock() = None;
    }
}

/// The open connections by process id.
#[derive(Debug, Default)]
pub(super) struct CancelKeys(Mutex<HashMap<i32, (Vec<u8>, Arc<Running>)>>);

impl CancelKeys {
    /// Registers a connection under a key of `length` bytes from the operating system's generator.
    ///
    /// # Errors
    /// When the generator fails; a guessable key is no alternative.
    pub(super) fn register(
        self: &Arc<Self>,
        process_id: i32,
        length: usize,
    ) -> Result<Registration, Report> {
        let mut key = vec![0u8; length];
        getrandom::fill(&mut key)
            .map_err(|error| report("58000", format!("could not make a cancel key: {error}")))?;
        let running = Arc::new(Running::default());
        self.0
            .lock()
            .insert(process_id, (key.clone(), Arc::clone(&running)));
        Ok(Registration {
            keys: Arc::clone(self),
            process_id,
            key,
            running,
        })
    }

    /// Cancels what connection `process_id` runs; false when the key is wrong.
    pub(super) fn cancel(&self, process_id: i32, key: &[u8]) -> bool {
        let found = self
            .0
            .lock()
            .get(&process_id)
            .map(|(held, running)| (held.clone(), Arc::clone(running)));
        match found {
            Some((held, running)) if same_bytes(&held, key) => {
                running.cancel();
                true
            }
            _ => false,
        }
    }
}

/// A connection's entry; dropping it makes the key worthless.
#[derive(Debug)]
pub(super) struct Registration {
    keys: Arc<CancelKeys>,
    pub(super) process_id: i32,
    pub(super) key: Vec<u8>,
    pub(super) running: Arc<Running>,
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.keys.0.lock().remove(&self.process_id);
    }
}

/// Compares in a time that depends on the length only.
fn same_bytes(left: &[u8], right: &[u8]) -> bool {
    left.len() == right.len()
        && left
            .iter()
            .zip(right)
            .fold(0, |seen, (a, b)| seen | (a ^ b))
            == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_right_key_cancels_and_only_what_runs() {
        let keys = Arc::new(CancelKeys::default());
        let registration = keys.register(7, 4).expect("a key");
        let mut wrong = registration.key.clone();
        wrong[3] ^= 1;
        assert!(
            keys.cancel(7, &registration.key),
            "cancelling an idle connection is no error"
        );
        let statement = registration.running.start();
        assert!(
            !statement.token.is_cancelled(),
            "an earlier request must not reach this statement"
        );
        assert!(
            !keys.cancel(7, &wrong) && !keys.cancel(8, &registration.key) && !keys.cancel(7, &[])
        );
        assert!(!statement.token.is_cancelled());
        assert!(keys.cancel(7, &registration.key));
        assert!(statement.token.is_cancelled());
        let key = registration.key.clone();
        drop((statement, registration));
        assert!(
            !keys.cancel(7, &key),
            "a closed connection's key is worthless"
        );
    }
}
