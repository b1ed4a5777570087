//! Rows by their keys, in as many requests as their keys and their replies need.
//!
//! Invariant: every key is asked for once in its place; a reply that is too large costs a request, never a row.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::client::Client;
use super::error::HbaseError;
use super::layout::Layout;
use super::limits::REQUEST_BYTES_MAX;
use super::reply::Page;
use super::request::{Projection, TableName};
use crate::context::Deadline;

/// How many rows are asked for at once, by what rows were seen to weigh.
#[derive(Debug)]
pub(super) struct Fit {
    rows: AtomicUsize,
    rows_max: usize,
}

impl Fit {
    /// Begins with the most there may be.
    pub(super) fn new(rows_max: usize) -> Self {
        Self {
            rows: AtomicUsize::new(rows_max),
            rows_max,
        }
    }

    fn rows(&self) -> usize {
        self.rows.load(Ordering::Relaxed)
    }

    /// A reply of `rows` rows was too large.
    fn too_large(&self, rows: usize) {
        self.rows.fetch_min((rows / 2).max(1), Ordering::Relaxed);
    }

    /// A reply of `rows` rows had `bytes` bytes, where half of `bytes_max` leaves room for larger rows. A few rows say little, so
    /// the number grows by no more than itself.
    fn came(&self, rows: usize, bytes: usize, bytes_max: usize) {
        let fitting = (bytes_max / 2).saturating_mul(rows) / bytes.max(1);
        let before = self.rows();
        let next = fitting
            .min(before.saturating_mul(2))
            .clamp(1, self.rows_max);
        self.rows.store(next, Ordering::Relaxed);
    }
}

/// What is asked of rows of a table, whose keys come in batches.
#[derive(Debug)]
pub(super) struct Asking {
    pub(super) client: Arc<Client>,
    pub(super) layout: Arc<Layout>,
    pub(super) projection: Projection,
    pub(super) fit: Fit,
    /// For each request.
    pub(super) timeout: Duration,
}

impl Asking {
    /// The rows of these keys.
    pub(super) fn pages<'a>(&'a self, keys: &'a [Vec<u8>]) -> Gets<'a> {
        Gets {
            client: &self.client,
            table: &self.layout.table,
            projection: &self.projection,
            fit: &self.fit,
            timeout: self.timeout,
            keys,
        }
    }
}

/// Rows by their keys, page by page: each of as many of the keys as a reply can hold.
pub(super) struct Gets<'a> {
    pub(super) client: &'a Client,
    pub(super) table: &'a TableName,
    pub(super) projection: &'a Projection,
    pub(super) fit: &'a Fit,
    /// For each request.
    pub(super) timeout: Duration,
    /// That were not asked for yet.
    pub(super) keys: &'a [Vec<u8>],
}

impl Gets<'_> {
    /// The rows of the next keys; `None` after the last.
    pub(super) async fn next(&mut self) -> Result<Option<Page>, HbaseError> {
        while !self.keys.is_empty() {
            let (asked, after) = self.keys.split_at(self.fit.rows().min(self.keys.len()));
            let deadline = Deadline::after(self.timeout);
            let got = self
                .client
                .get(self.table, asked, self.projection, deadline);
            match got.await {
                Ok(page) => {
                    let bytes_max = self.client.rows_bytes_max();
                    self.fit.came(asked.len(), page.bytes(), bytes_max);
                    self.keys = after;
                    return Ok(Some(page));
                }
                Err(HbaseError::ReplyTooLarge { .. }) if asked.len() > 1 => {
                    self.fit.too_large(asked.len());
                }
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }
}

/// Keys in batches of at most `rows_max` that fit a request.
pub(super) fn batches<'a>(
    keys: &'a [Vec<u8>],
    projection: &Projection,
    rows_max: usize,
) -> Vec<&'a [Vec<u8>]> {
    let columns = projection.columns.iter().map(|column| {
        let qualifier = column.qualifier.as_ref().map_or(0, Vec::len);
        column.family.len() + qualifier + 16
    });
    let filter = projection.filter.as_ref().map_or(0, Vec::len);
    // What the structures around them take in the longer of the two protocols.
    let each = columns.sum::<usize>() + filter + 56;
    let (mut parts, mut rest, mut rows, mut bytes) = (Vec::new(), keys, 0, 0);
    for key in keys {
        let more = key.len() + each;
        if rows == rows_max || (bytes + more > REQUEST_BYTES_MAX && rows > 0) {
            let (part, after) = rest.split_at(rows);
            parts.push(part);
            (rest, rows, bytes) = (after, 0, 0);
        }
        rows += 1;
        bytes += more;
    }
    if !rest.is_empty() {
        parts.push(rest);
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::super::request::Delete;
    use super::super::request::{Call, ColumnName, NewCell, Put};
    use super::super::wire::Protocol;
    use super::*;

    /// What is sent is no longer than it was taken for, whatever it consists of.
    #[test]
    fn requests_are_not_longer_than_reckoned() {
        let table = TableName::parse("space:table").expect("a name");
        const HEAD: usize = 100;
        for protocol in [Protocol::Binary, Protocol::Compact] {
            let length = |call: Call<'_>| call.encode(protocol, 1).expect("memory").len();
            let keys: Vec<Vec<u8>> = (0..40_000u32).map(|key| key.to_be_bytes().into()).collect();
            let column = |n: u8| ColumnName {
                family: vec![b'f'],
                qualifier: Some(vec![n]),
            };
            let projection = Projection {
                columns: (0..5).map(column).collect(),
                filter: Some(vec![0; 10]),
                until_ms: Some(1),
            };
            for part in batches(&keys, &projection, usize::MAX) {
                let bytes = length(Call::Get(&table, part, &projection));
                assert!(bytes <= REQUEST_BYTES_MAX + HEAD, "{bytes}");
            }
            let cell = |n: u8| NewCell {
                family: vec![b'f'],
                qualifier: vec![n],
                value: vec![],
            };
            let put = Put {
                row: vec![1],
                cells: (0..100).map(cell).collect(),
                timestamp: 1_700_000_000_000,
            };
            let puts = vec![put; 100];
            let reckoned: usize = puts.iter().map(Put::bytes).sum();
            assert!(length(Call::Put(&table, &puts)) <= reckoned + HEAD);
            let delete = Delete {
                row: vec![1],
                columns: (0..100).map(|n| (vec![b'f'], vec![n])).collect(),
                timestamp: 1_700_000_000_000,
            };
            let deletes = vec![delete; 100];
            let reckoned: usize = deletes.iter().map(Delete::bytes).sum();
            assert!(length(Call::Delete(&table, &deletes)) <= reckoned + HEAD);
        }
    }

    #[test]
    fn as_many_rows_are_asked_for_as_fit() {
        let fit = Fit::new(1_000);
        fit.came(1_000, 40_000, 1 << 20);
        assert_eq!(fit.rows(), 1_000);
        fit.too_large(1_000);
        fit.too_large(1_000);
        assert_eq!(fit.rows(), 500, "requests that were under way count once");
        fit.came(500, 1 << 20, 1 << 20);
        assert_eq!(fit.rows(), 250);
        fit.came(1, 1 << 25, 1 << 20);
        assert_eq!(fit.rows(), 1);
        for rows in [2, 4, 8] {
            fit.came(1, 100, 1 << 20);
            assert_eq!(fit.rows(), rows);
        }
    }

    #[test]
    fn keys_are_asked_for_in_batches() {
        let keys: Vec<Vec<u8>> = (0..2_500u32).map(|key| key.to_be_bytes().into()).collect();
        let sizes = |keys: &[Vec<u8>]| -> Vec<usize> {
            let parts = batches(keys, &Projection::default(), 1_000);
            assert_eq!(parts.concat(), keys);
            parts.iter().map(|keys| keys.len()).collect()
        };
        assert_eq!(sizes(&keys), [1_000, 1_000, 500]);
        let long = vec![vec![7; 30_000]; 100];
        let found = sizes(&long);
        assert_eq!(found.iter().sum::<usize>(), 100);
        assert!(found.iter().all(|size| size * 30_000 <= REQUEST_BYTES_MAX));
        assert!(sizes(&[]).is_empty());
    }
}
