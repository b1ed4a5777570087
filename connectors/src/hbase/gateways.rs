//! Calls that find a gateway which works.
//!
//! Invariant: a call is repeated only until its deadline, and every call here may be repeated: reads change nothing, writes carry
//! their timestamps. A gateway that hangs or is gone costs its calls about two seconds, then others serve.

use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, Semaphore};
use tokio::time::{Instant, sleep, timeout};

use super::breaker::Breaker;
use super::connection::{Connection, Dialect};
use super::endpoint::Endpoint;
use super::error::{Consequence, Failure, HbaseError, judge};
use super::limits::{
    CALL_TIMEOUT, CONNECT_TIMEOUT, CONNECTIONS_PER_GATEWAY, REMOTE_PAUSE, REPLY_BYTES_MAX,
    SIGN_OF_LIFE, SILENCE,
};
use super::reply::Answer;
use super::request::Call;
use super::tls::Trust;
use super::wire::{Protocol, WireError};
use crate::context::Deadline;

/// How long replies may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ReplyLimits {
    /// Bytes of any.
    pub(super) any: usize,
    /// Bytes of one with several rows, which can be had in parts.
    pub(super) rows: usize,
}

impl Default for ReplyLimits {
    fn default() -> Self {
        Self {
            any: REPLY_BYTES_MAX,
            rows: REPLY_BYTES_MAX,
        }
    }
}

impl ReplyLimits {
    fn of(self, call: &Call<'_>) -> usize {
        match call.rows() {
            Some(rows) if rows > 1 => self.rows.min(self.any),
            _ => self.any,
        }
    }
}

/// The gateways of `thrift.servers`.
#[derive(Debug)]
pub(super) struct Gateways {
    servers: String,
    gateways: Vec<Gateway>,
    dialect: Dialect,
    trust: Option<Trust>,
    limits: ReplyLimits,
    /// Pauses are measured from here.
    started: Instant,
    /// A pause has ended or become another.
    changed: Notify,
}

#[derive(Debug)]
struct Gateway {
    endpoint: Endpoint,
    idle: Mutex<Vec<Connection>>,
    slots: Semaphore,
    breaker: Mutex<Breaker>,
}

impl Gateway {
    /// 0..=100, different for each gateway and process.
    fn spread(&self) -> u32 {
        let mix = |hash: u32, byte: u8| (hash ^ u32::from(byte)).wrapping_mul(16_777_619);
        let seed = std::process::id().wrapping_mul(2_654_435_761);
        self.endpoint.text().bytes().fold(seed, mix) % 101
    }
}

impl Gateways {
    /// No connection is made before the first call. Without `trust` none is made over TLS.
    pub(super) fn new(endpoints: &[Endpoint], dialect: Dialect, trust: Option<Trust>) -> Self {
        let gateway = |endpoint: &Endpoint| Gateway {
            endpoint: endpoint.clone(),
            idle: Mutex::default(),
            slots: Semaphore::new(CONNECTIONS_PER_GATEWAY),
            breaker: Mutex::default(),
        };
        let texts: Vec<&str> = endpoints.iter().map(Endpoint::text).collect();
        Self {
            servers: texts.join(", "),
            gateways: endpoints.iter().map(gateway).collect(),
            dialect,
            trust,
            limits: ReplyLimits::default(),
            started: Instant::now(),
            changed: Notify::new(),
        }
    }

    /// The same that read no longer replies.
    pub(super) fn with_limits(self, limits: ReplyLimits) -> Self {
        Self { limits, ..self }
    }

    /// Bytes of the longest reply with several rows.
    pub(super) fn rows_bytes_max(&self) -> usize {
        self.limits.rows.min(self.limits.any)
    }

    /// How many calls can be under way.
    pub(super) fn capacity(&self) -> usize {
        self.gateways.len() * CONNECTIONS_PER_GATEWAY
    }

    /// Makes a call, again and elsewhere if need be.
    pub(super) async fn call<T>(
        &self,
        call: &Call<'_>,
        deadline: Deadline,
        decode: impl Fn(Vec<u8>, Protocol, i32) -> Result<Answer<T>, WireError>,
    ) -> Result<T, HbaseError> {
        let mut last = format!("no answer from {}", self.servers);
        let mut failed_at = None;
        loop {
            let Some(gateway) = self.choose(deadline, failed_at).await else {
                return Err(HbaseError::Unreachable {
                    servers: self.servers.clone(),
                    detail: last,
                });
            };
            let began = self.started.elapsed();
            match self.attempt(gateway, call, deadline, &decode).await {
                Ok(answer) => {
                    self.succeeded(gateway);
                    let refusal = match answer {
                        Ok(value) => return Ok(value),
                        Err(refusal) => refusal,
                    };
                    match judge(&refusal, call, gateway.endpoint.text()) {
                        Consequence::Final(error) => return Err(error),
                        Consequence::Elsewhere(error) if failed_at.is_some() => return Err(error),
                        Consequence::Elsewhere(error) => {
                            failed_at = Some(gateway);
                            // Of several rows each is asked for again by itself, with a pause.
                            match call.rows() {
                                Some(1) => sleep(REMOTE_PAUSE).await,
                                _ if self.gateways.len() > 1 => {}
                                _ => return Err(error),
                            }
                        }
                        Consequence::Again(error) if deadline.left() <= REMOTE_PAUSE => {
                            return Err(error);
                        }
                        Consequence::Again(_) => sleep(REMOTE_PAUSE).await,
                    }
                }
                Err(Failure::Late) => {
                    return Err(HbaseError::Timeout {
                        table: call.table().to_owned(),
                    });
                }
                // The gateway did what it was asked, and would again.
                Err(Failure::TooLarge(limit)) => {
                    self.succeeded(gateway);
                    return Err(HbaseError::ReplyTooLarge {
                        table: call.table().to_owned(),
                        limit,
                    });
                }
                Err(failure) => {
                    let server = gateway.endpoint.text();
                    if let Some(error) = failure.finally(server) {
                        return Err(error);
                    }
                    last = failure.text(server);
                    tracing::debug!(gateway = %server, call = call.name(), %last, "gateway call failed");
                    self.failed(gateway, began);
                }
            }
        }
    }

    /// A gateway answered; calls that wait for the outcome of its trial go on.
    fn succeeded(&self, gateway: &Gateway) {
        let had_failed = gateway.breaker.lock().succeeded();
        if had_failed {
            self.changed.notify_waiters();
        }
    }

    /// A call that began at `began` failed; those that wait for its outcome wait for the pause instead.
    fn failed(&self, gateway: &Gateway, began: Duration) {
        let now = self.started.elapsed();
        gateway.breaker.lock().failed(began, now, gateway.spread());
        self.changed.notify_waiters();
    }

    /// A gateway that is not in a pause, the one with most room, and not `but` if there is another; waits for the first pause to
    /// end. `None` after the deadline.
    async fn choose<'g>(
        &'g self,
        deadline: Deadline,
        but: Option<&'g Gateway>,
    ) -> Option<&'g Gateway> {
        let is_other = |one: &Gateway| but.is_none_or(|but| !std::ptr::eq(one, but));
        loop {
            // Before the pauses are looked at, so that no change of one is missed.
            let mut changed = pin!(self.changed.notified());
            changed.as_mut().enable();
            let now = self.started.elapsed();
            let wait = |gateway: &Gateway| gateway.breaker.lock().wait(now);
            let ready = self.gateways.iter().filter(|one| wait(one).is_zero());
            let room = |gateway: &&Gateway| (is_other(gateway), gateway.slots.available_permits());
            if deadline.left().is_zero() {
                return None;
            }
            if let Some(gateway) = ready.max_by_key(room) {
                gateway.breaker.lock().taken(now);
                return Some(gateway);
            }
            let pause = self.gateways.iter().map(wait).min()?;
            tokio::select! {
                () = sleep(pause.min(deadline.left())) => {}
                () = changed => {}
            }
        }
    }

    /// One try at one gateway.
    async fn attempt<T>(
        &self,
        gateway: &Gateway,
        call: &Call<'_>,
        deadline: Deadline,
        decode: &impl Fn(Vec<u8>, Protocol, i32) -> Result<Answer<T>, WireError>,
    ) -> Result<Answer<T>, Failure> {
        let Ok(Ok(_slot)) = timeout(deadline.left(), gateway.slots.acquire()).await else {
            return Err(Failure::Late);
        };
        let bytes_max = self.limits.of(call);
        let kept = gateway.idle.lock().pop();
        if let Some(mut connection) = kept {
            let tried = connection.call(call, bytes_max, decode);
            match self.watched(gateway, deadline, tried).await {
                // The gateway hangs up on connections that are idle for a minute: that is no failure.
                Err(Failure::Closed) => gateway.idle.lock().clear(),
                Err(failure) => return Err(failure),
                Ok(answer) => {
                    gateway.idle.lock().push(connection);
                    return Ok(answer);
                }
            }
        }
        let opening = Connection::open(&gateway.endpoint, self.dialect, self.trust.as_ref());
        let limit = self.opening_limit(gateway).min(deadline.left());
        let mut connection = timeout(limit, opening)
            .await
            .unwrap_or(Err(Failure::Silent))?;
        let tried = connection.call(call, bytes_max, decode);
        let answer = self.watched(gateway, deadline, tried).await?;
        gateway.idle.lock().push(connection);
        Ok(answer)
    }

    /// How long a connection may take to open: a gateway that is slow at it is worth waiting for only when no other is well.
    fn opening_limit(&self, gateway: &Gateway) -> Duration {
        let is_other = |one: &&Gateway| one.endpoint.text() != gateway.endpoint.text();
        let mut others = self.gateways.iter().filter(is_other);
        match others.any(|other| other.breaker.lock().is_healthy()) {
            true => SILENCE + SIGN_OF_LIFE,
            false => CONNECT_TIMEOUT,
        }
    }

    /// Waits for a call while its gateway gives signs of life. A call may take long because HBase does; a gateway that does not
    /// even say what it is hangs, and only then is it given up.
    async fn watched<T>(
        &self,
        gateway: &Gateway,
        deadline: Deadline,
        call: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        let limit: Duration = CALL_TIMEOUT.min(deadline.left());
        tokio::select! {
            biased;
            outcome = call => outcome,
            () = self.silence(gateway) => Err(Failure::Silent),
            () = sleep(limit) => Err(Failure::Late),
        }
    }

    /// Returns when the gateway gives no sign of life.
    async fn silence(&self, gateway: &Gateway) {
        loop {
            sleep(SILENCE).await;
            let asked = Connection::open(&gateway.endpoint, self.dialect, self.trust.as_ref());
            if !matches!(timeout(SIGN_OF_LIFE, asked).await, Ok(Ok(_))) {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::connection::Transport;
    use super::*;

    fn one_gateway() -> Gateways {
        let dialect = Dialect {
            transport: Transport::Framed,
            protocol: Protocol::Compact,
        };
        let endpoint = Endpoint::parse("127.0.0.1:9090").expect("an address");
        Gateways::new(&[endpoint], dialect, None)
    }

    /// Calls wait for a trial no longer than it takes, whichever way it ends.
    #[tokio::test]
    async fn the_outcome_of_a_trial_wakes_those_that_wait_for_it() {
        for succeeds in [true, false] {
            let gateways = one_gateway();
            let deadline = Deadline::after(Duration::from_secs(60));
            gateways.failed(&gateways.gateways[0], Duration::ZERO);
            let trial = gateways.choose(deadline, None).await;
            let trial = trial.expect("after the pause");
            let began = gateways.started.elapsed();
            let mut first = pin!(gateways.choose(deadline, None));
            let mut second = pin!(gateways.choose(deadline, None));
            assert!(futures::poll!(first.as_mut()).is_pending());
            assert!(futures::poll!(second.as_mut()).is_pending());
            if succeeds {
                gateways.succeeded(trial);
                assert!(futures::poll!(first).is_ready());
                assert!(futures::poll!(second).is_ready());
            } else {
                gateways.failed(trial, began);
                // The next pause is a quarter of a second at most.
                assert!(first.await.is_some());
                let waited = gateways.started.elapsed() - began;
                assert!(waited < Duration::from_secs(3), "{waited:?}");
            }
        }
    }
}
