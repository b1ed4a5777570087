//! Every bound of the Postgres front in one place.
//!
//! Invariant: no client, authenticated or not, can make the server hold more than these bytes or wait longer than these
//! times on its behalf.

use std::time::Duration;

/// Bounds of the Postgres listener. `max_connections` comes from the configuration, the others are defaults.
#[derive(Debug, Clone)]
pub struct PgLimits {
    /// Sessions at the same time; one more gets 53300.
    pub max_connections: usize,
    /// Sockets that have not become sessions yet: startup, cancel requests, refusals being delivered.
    pub starting_max: usize,
    /// From accept to the end of authentication.
    pub startup_timeout: Duration,
    /// Bytes of one message before the session is open; startup packets have Postgres' own 10,000.
    pub early_frame_bytes_max: usize,
    /// Bytes of a Query or Parse message that are kept; a longer one is read over and refused with 54000.
    pub statement_frame_bytes_max: usize,
    /// Bytes of any other message with a payload (Bind, CopyData); a longer one ends the connection.
    pub frame_bytes_max: usize,
    /// Prepared statements of one connection.
    pub statements_max: usize,
    /// Bytes of the texts of one connection's prepared statements.
    pub statement_bytes_max: usize,
    /// Portals of one connection.
    pub portals_max: usize,
    /// Bytes of the parameters held by one connection's portals.
    pub portal_bytes_max: usize,
    /// Result bytes that are buffered before they are written.
    pub flush_bytes: usize,
    /// Bytes read ahead while a statement runs; more stay in the socket.
    pub read_ahead_bytes: usize,
    /// How long a closing connection waits for the client to take the last error.
    pub linger: Duration,
    /// Delay of a cancel request with a wrong key, which holds one of the `starting_max` places meanwhile.
    pub wrong_key_delay: Duration,
    /// How long a stopping listener waits for its connections.
    pub drain: Duration,
}

impl Default for PgLimits {
    fn default() -> Self {
        Self {
            max_connections: 1_000,
            starting_max: 128,
            startup_timeout: Duration::from_secs(10),
            early_frame_bytes_max: 64 << 10,
            statement_frame_bytes_max: 2 << 20,
            frame_bytes_max: 64 << 20,
            statements_max: 1_000,
            statement_bytes_max: 16 << 20,
            portals_max: 1_000,
            portal_bytes_max: 64 << 20,
            flush_bytes: 64 << 10,
            read_ahead_bytes: 256 << 10,
            linger: Duration::from_millis(500),
            wrong_key_delay: Duration::from_millis(100),
            drain: Duration::from_secs(6),
        }
    }
}

/// Longest startup packet, as in Postgres.
pub(super) const STARTUP_BYTES_MAX: usize = 10_000;

/// Longest message of the types that carry only a name or nothing, as in Postgres.
pub(super) const SMALL_FRAME_BYTES_MAX: usize = 10_000;

/// Characters of user text repeated in an error message.
pub(super) const QUOTED_CHARS_MAX: usize = 200;
