//! The bytes of one file, on this machine or in a store, read as a file is.
//!
//! Invariant: a file in a store ends where it was listed to end, so that all who read one opened file see the same bytes. An
//! error of a store passes through readers and decoders and comes out as what it was.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{Error, ErrorKind, Read, Seek, SeekFrom};
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

use super::place::Remote;
use crate::store::{StoreError, StoreFault};

/// Bytes asked for at once: at first, and at most when reading goes straight on.
const FETCH_MIN: u64 = 64 << 10;
const FETCH_MAX: u64 = 4 << 20;
/// Answers kept of one open file: about as many as a Parquet file has columns that are read side by side.
const KEPT: usize = 16;

/// An open file.
#[derive(Debug)]
pub(super) enum Content {
    Disk(File),
    Store(Reading),
}

/// A file in a store, at a byte.
#[derive(Debug, Clone)]
pub(super) struct Reading {
    file: Arc<Fetched>,
    at: u64,
}

/// What was fetched of a file; all clones of one opened file share it.
#[derive(Debug)]
struct Fetched {
    remote: Arc<Remote>,
    path: String,
    length: u64,
    /// Where each answer begins, the one used last at the end.
    kept: Mutex<VecDeque<(u64, Bytes)>>,
}

impl Content {
    pub(super) fn on_disk(file: File) -> Self {
        Content::Disk(file)
    }

    pub(super) fn in_store(remote: Arc<Remote>, path: String, length: u64) -> Self {
        let file = Arc::new(Fetched {
            remote,
            path,
            length,
            kept: Mutex::default(),
        });
        Content::Store(Reading { file, at: 0 })
    }

    pub(super) fn length(&self) -> std::io::Result<u64> {
        match self {
            Content::Disk(file) => Ok(file.metadata()?.len()),
            Content::Store(reading) => Ok(reading.file.length),
        }
    }

    pub(super) fn try_clone(&self) -> std::io::Result<Self> {
        match self {
            Content::Disk(file) => Ok(Content::Disk(file.try_clone()?)),
            Content::Store(reading) => Ok(Content::Store(reading.clone())),
        }
    }
}

impl Fetched {
    /// Bytes from a place on, at least one unless the file ends there.
    fn from(&self, at: u64) -> std::io::Result<Bytes> {
        if at >= self.length {
            return Ok(Bytes::new());
        }
        let mut kept = self.kept.lock();
        let holds = |(from, bytes): &(u64, Bytes)| *from <= at && at - *from < bytes.len() as u64;
        if let Some(index) = kept.iter().position(holds)
            && let Some((from, bytes)) = kept.remove(index)
        {
            let rest = bytes.slice((at - from) as usize..);
            kept.push_back((from, bytes));
            return Ok(rest);
        }
        // Who goes on where an answer ended gets more at once, and does not come back to it.
        let before = |(from, bytes): &(u64, Bytes)| *from + bytes.len() as u64 == at;
        let before = kept.iter().position(before);
        let size = match before.and_then(|index| kept.remove(index)) {
            Some((_, bytes)) => (2 * bytes.len() as u64).clamp(FETCH_MIN, FETCH_MAX),
            None => FETCH_MIN,
        };
        let end = at.saturating_add(size).min(self.length);
        // Footers are read from the end backwards.
        let begin = match end - at < FETCH_MIN {
            true => end.saturating_sub(FETCH_MIN),
            false => at,
        };
        let bytes = self
            .remote
            .wait(&self.path, self.remote.store.read(&self.path, begin..end))
            .map_err(io_error)?;
        let rest = bytes.slice((at - begin) as usize..);
        kept.push_back((begin, bytes));
        if kept.len() > KEPT {
            kept.pop_front();
        }
        Ok(rest)
    }
}

impl Read for Content {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        match self {
            Content::Disk(file) => file.read(buffer),
            Content::Store(reading) => {
                let bytes = reading.file.from(reading.at)?;
                let count = bytes.as_ref().read(buffer)?;
                reading.at += count as u64;
                Ok(count)
            }
        }
    }
}

impl Seek for Content {
    fn seek(&mut self, to: SeekFrom) -> std::io::Result<u64> {
        match self {
            Content::Disk(file) => file.seek(to),
            Content::Store(reading) => {
                let place = match to {
                    SeekFrom::Start(at) => Some(at),
                    SeekFrom::End(by) => reading.file.length.checked_add_signed(by),
                    SeekFrom::Current(by) => reading.at.checked_add_signed(by),
                };
                reading.at = place.ok_or(ErrorKind::InvalidInput)?;
                Ok(reading.at)
            }
        }
    }
}

/// A store's error as one of a file.
fn io_error(error: StoreError) -> Error {
    let kind = match error.fault {
        StoreFault::Missing => ErrorKind::NotFound,
        StoreFault::Exists => ErrorKind::AlreadyExists,
        StoreFault::Denied => ErrorKind::PermissionDenied,
        StoreFault::Full => ErrorKind::StorageFull,
        StoreFault::Unreachable => ErrorKind::NotConnected,
        StoreFault::NoContainer | StoreFault::Unfit | StoreFault::Other => ErrorKind::Other,
    };
    Error::new(kind, error)
}

/// What a store said, when it was one that failed.
pub(super) fn store_error(error: &Error) -> Option<&StoreError> {
    error.get_ref()?.downcast_ref()
}

/// The same error once more: errors cannot be cloned.
pub(super) fn copy(error: &Error) -> Error {
    match (store_error(error), error.raw_os_error()) {
        (Some(error), _) => io_error(error.clone()),
        (None, Some(code)) => Error::from_raw_os_error(code),
        (None, None) => Error::new(error.kind(), error.to_string()),
    }
}
