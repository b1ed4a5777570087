//! What the HBase client never exceeds, in one place.
//!
//! Invariant: every buffer, list, wait and number of connections of this module is bounded by a constant here or by an option
//! whose range is checked.

use std::time::Duration;

/// Bytes of the largest reply that is read; a longer one is an error before it is allocated.
pub(super) const REPLY_BYTES_MAX: usize = 256 << 20;
/// Pages of `scan.page.bytes` that a reply of several rows may be as long as, when rows turn out larger than those before them.
pub(super) const REPLY_PAGES_MAX: usize = 8;
/// A reply of several rows may have this many bytes, however small pages are.
pub(super) const REPLY_BYTES_LEAST: usize = 1 << 20;
/// Bytes of the largest request. A gateway refuses 2 MB unless configured otherwise, and says so by closing the connection.
pub(super) const REQUEST_BYTES_MAX: usize = 1_800_000;
/// Nesting of the structures in a reply; the deepest that HBase sends is 5.
pub(super) const DEPTH_MAX: usize = 32;
/// Connections to one gateway; it serves each with one call at a time.
pub(super) const CONNECTIONS_PER_GATEWAY: usize = 8;
/// Time to connect and hear what kind of server it is; less when another gateway is there to go to.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Time for one call. Longer than the 30 s after which a gateway should give up on HBase, so that its own words are heard.
pub(super) const CALL_TIMEOUT: Duration = Duration::from_secs(35);
/// A call that is silent for this long has its gateway asked for a sign of life.
pub(super) const SILENCE: Duration = Duration::from_millis(750);
/// A gateway that does not answer that within this time hangs.
pub(super) const SIGN_OF_LIFE: Duration = Duration::from_secs(1);
/// First and longest pause of a gateway that failed.
pub(super) const BACKOFF_FIRST: Duration = Duration::from_millis(100);
/// See [`BACKOFF_FIRST`].
pub(super) const BACKOFF_MAX: Duration = Duration::from_secs(5);
/// Pause before a call is repeated because HBase, not the gateway, failed (a region moves, a region server is gone).
pub(super) const REMOTE_PAUSE: Duration = Duration::from_millis(250);
/// Rows of a delivery that gateways fail over, and none written, until the gateways are taken to be at fault.
pub(super) const FAILED_ROWS_MAX: usize = 8;
/// Refusals that are told of one by one, of those of one delivery.
pub(super) const TOLD_MAX: usize = 100;
/// Rows of one get or put request.
pub(super) const BATCH_ROWS_MAX: usize = 1_000;
/// Requests of one write that are under way at once.
pub(super) const WRITES_MAX: usize = 8;
/// Time to ask where regions begin before a large write, which does without when it takes longer.
pub(super) const BORDERS_TIMEOUT: Duration = Duration::from_secs(2);
/// Rows of one get request of a lookup join, so that several are under way at once.
pub(super) const LOOKUP_ROWS_MAX: usize = 250;
/// Rows of the first page of a scan, and of any.
pub(super) const PAGE_ROWS_FIRST: usize = 100;
/// See [`PAGE_ROWS_FIRST`].
pub(super) const PAGE_ROWS_MAX: usize = 10_000;
/// Bytes of a row key that HBase accepts.
pub(super) const ROW_KEY_BYTES_MAX: usize = 32_767;
/// Bytes of a cell, its name included, that HBase takes unless `hbase.client.keyvalue.maxsize` says otherwise.
pub(super) const CELL_BYTES_MAX: usize = 10 << 20;
/// Characters of a remote error message that are repeated to the user.
pub(super) const REMOTE_MESSAGE_MAX: usize = 400;
/// Bytes of the conditions that HBase is asked to apply.
pub(super) const FILTER_BYTES_MAX: usize = 64 << 10;
/// Values of a list that a cell is compared with there.
pub(super) const FILTER_VALUES_MAX: usize = 100;
