//! Decides when a gateway that failed is tried again.
//!
//! Invariant: pure; time since some start is passed in. A gateway in a pause gets no call, after it one, and the full load only
//! after that one succeeded. Calls that were under way when it failed count once.

use std::time::Duration;

use super::limits::{BACKOFF_FIRST, BACKOFF_MAX};

/// State of one gateway.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Breaker {
    failures: u32,
    failed_at: Duration,
    pause_ends: Duration,
}

impl Breaker {
    /// How long until a call may go there; zero for now.
    pub(super) fn wait(&self, now: Duration) -> Duration {
        match self.failures {
            0 => Duration::ZERO,
            _ => self.pause_ends.saturating_sub(now),
        }
    }

    /// A call goes there. After a failure it is a trial, and the next one waits for its outcome, or for as long as a pause
    /// should the outcome never be told.
    pub(super) fn taken(&mut self, now: Duration) {
        if self.failures > 0 {
            self.pause_ends = now + BACKOFF_MAX;
        }
    }

    /// Whether no call has failed since one was answered, with whatever.
    pub(super) fn is_healthy(&self) -> bool {
        self.failures == 0
    }

    /// A call was answered, with whatever. Says whether there was a failure before.
    pub(super) fn succeeded(&mut self) -> bool {
        !std::mem::take(self).is_healthy()
    }

    /// A call that began at `began` failed. `spread` in 0..=100 keeps several clients from coming back together.
    pub(super) fn failed(&mut self, began: Duration, now: Duration, spread: u32) {
        if self.failures > 0 && began <= self.failed_at {
            return;
        }
        self.failed_at = now;
        self.failures = self.failures.saturating_add(1);
        self.pause_ends = now + self.pause() * (75 + spread.min(100) / 2) / 100;
    }

    fn pause(&self) -> Duration {
        let doublings = self.failures.saturating_sub(1).min(16);
        BACKOFF_FIRST
            .saturating_mul(1 << doublings)
            .min(BACKOFF_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    #[test]
    fn pauses_double_up_to_a_limit_and_end_with_a_success() {
        let mut breaker = Breaker::default();
        assert_eq!(breaker.wait(ms(0)), ms(0));
        let mut now = ms(1_000);
        for pause in [100, 200, 400, 800, 1_600, 3_200, 5_000, 5_000] {
            breaker.failed(now, now, 50);
            assert_eq!(breaker.wait(now), ms(pause));
            now += ms(pause);
            assert_eq!(breaker.wait(now), ms(0));
        }
        breaker.succeeded();
        breaker.failed(now, now, 0);
        assert_eq!(breaker.wait(now), ms(75), "the count starts anew");
        breaker.failed(now + ms(80), now + ms(80), 100);
        assert_eq!(breaker.wait(now + ms(80)), ms(250));
    }

    #[test]
    fn calls_that_were_under_way_count_once() {
        let mut breaker = Breaker::default();
        for began in [10, 20, 30] {
            breaker.failed(ms(began), ms(100), 50);
        }
        assert_eq!(breaker.wait(ms(100)), ms(100));
    }

    #[test]
    fn one_trial_at_a_time_and_a_lost_one_is_not_waited_for_for_ever() {
        let mut breaker = Breaker::default();
        breaker.taken(ms(0));
        assert_eq!(breaker.wait(ms(0)), ms(0), "a healthy gateway takes all");
        breaker.failed(ms(1), ms(1), 50);
        let now = ms(200);
        assert_eq!(breaker.wait(now), ms(0));
        breaker.taken(now);
        assert_eq!(breaker.wait(now), BACKOFF_MAX);
        assert_eq!(breaker.wait(now + BACKOFF_MAX), ms(0));
    }
}
