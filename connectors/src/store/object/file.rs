//! An object being written: in one put when it is small, in parts when it is not.
//!
//! Invariant: nothing is there before the object is closed, and then all of it; after a request that failed nothing more is asked
//! for. A file holds less than two parts; one that gets no more bytes holds them only as long as there is room for what waits.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;

use async_trait::async_trait;
use bytes::Bytes;
use object_store::{MultipartUpload, ObjectStore, PutMultipartOptions, PutPayload};
use parking_lot::Mutex;
use tokio::runtime::Handle;

use super::ObjectFolder;
use crate::store::{Moved, Store, StoreError, StoreFault, StoreFile};

/// An object that is not there yet.
pub(super) struct ObjectFile {
    folder: ObjectFolder,
    path: String,
    /// Bytes that no part has yet.
    tail: VecDeque<Bytes>,
    tail_bytes: usize,
    /// Bytes of all parts.
    sent_bytes: u64,
    /// The parts, from the second on. Never locked: it can be sent to another thread, and not be shared with one.
    upload: Mutex<Option<Box<dyn MultipartUpload>>>,
    state: State,
}

/// How far a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    Closed,
    /// Bytes of it are lost.
    Broken,
}

impl ObjectFile {
    pub(super) fn new(folder: ObjectFolder, path: &str) -> Self {
        Self {
            folder,
            path: path.to_owned(),
            tail: VecDeque::new(),
            tail_bytes: 0,
            sent_bytes: 0,
            upload: Mutex::new(None),
            state: State::Open,
        }
    }

    fn hold(&mut self, bytes: Bytes) {
        let waiting = &self.folder.waiting;
        waiting.fetch_add(bytes.len(), Ordering::Relaxed);
        self.tail_bytes += bytes.len();
        self.tail.push_back(bytes);
    }

    /// Takes so many bytes from the front of the tail.
    fn take(&mut self, mut wanted: usize) -> PutPayload {
        let mut taken = Vec::new();
        while wanted > 0
            && let Some(mut front) = self.tail.pop_front()
        {
            let part = front.split_to(wanted.min(front.len()));
            wanted -= part.len();
            self.let_go(part.len());
            taken.push(part);
            if !front.is_empty() {
                self.tail.push_front(front);
            }
        }
        taken.into_iter().collect()
    }

    fn let_go(&mut self, bytes: usize) {
        self.tail_bytes -= bytes;
        self.folder.waiting.fetch_sub(bytes, Ordering::Relaxed);
    }

    fn over(&self, action: &'static str) -> StoreError {
        let shown = self.folder.shown_path(&self.path);
        let detail = "It is closed, or a request for it failed before.";
        StoreError::new(action, shown, StoreFault::Other, detail)
    }

    fn failed(&self, action: &'static str, error: &object_store::Error) -> StoreError {
        self.folder.error(action, &self.path, error)
    }

    async fn send_part(&mut self, bytes: usize) -> Result<(), StoreError> {
        let payload = self.take(bytes);
        if self.upload.get_mut().is_none() {
            let key = self.folder.key("write", &self.path)?;
            let options = PutMultipartOptions::default();
            let upload = self.folder.parts.client.put_multipart_opts(&key, options);
            let upload = upload.await.map_err(|error| self.failed("write", &error))?;
            *self.upload.get_mut() = Some(upload);
        }
        let Some(upload) = self.upload.get_mut() else {
            return Ok(());
        };
        self.sent_bytes += payload.content_length() as u64;
        let sent = upload.put_part(payload).await;
        sent.map_err(|error| self.failed("write", &error))
    }

    /// Makes the object of all bytes.
    async fn finish(&mut self) -> Result<(), StoreError> {
        let rest = self.tail_bytes;
        if self.upload.get_mut().is_none() {
            let payload = self.take(rest);
            let put = self.folder.put_new("write", &self.path, payload).await?;
            return match put {
                Moved::Done => Ok(()),
                Moved::Taken => Err(self.folder.taken("write", &self.path)),
            };
        }
        if rest > 0 {
            self.send_part(rest).await?;
        }
        let Some(upload) = self.upload.get_mut() else {
            return Ok(());
        };
        let Err(error) = upload.complete().await else {
            *self.upload.get_mut() = None;
            return Ok(());
        };
        let error = self.failed("close", &error);
        // A second request finds no upload when the answer to the first was lost. Nobody else writes to this name.
        match self.folder.length(&self.path).await {
            Ok(Some(bytes)) if bytes == self.sent_bytes => {
                *self.upload.get_mut() = None;
                Ok(())
            }
            // That the upload is gone does not mean that the file was never there.
            _ if error.fault == StoreFault::Missing => {
                let mut error = error;
                error.fault = StoreFault::Other;
                Err(error)
            }
            _ => Err(error),
        }
    }
}

#[async_trait]
impl StoreFile for ObjectFile {
    fn held_bytes(&self) -> usize {
        self.tail_bytes
    }

    async fn write(&mut self, bytes: Bytes) -> Result<(), StoreError> {
        if self.state != State::Open {
            return Err(self.over("write"));
        }
        self.hold(bytes);
        let part = self.folder.parts.part_bytes;
        // The last part is kept: what is whole in one needs no parts.
        while self.tail_bytes > part {
            let sent = self.send_part(part).await;
            sent.inspect_err(|_| self.state = State::Broken)?;
        }
        Ok(())
    }

    async fn end(&mut self) -> Result<(), StoreError> {
        let waiting = self.folder.waiting.load(Ordering::Relaxed);
        match waiting > self.folder.parts.waiting_bytes_max {
            true => self.close().await,
            false => Ok(()),
        }
    }

    async fn close(&mut self) -> Result<(), StoreError> {
        match self.state {
            State::Closed => Ok(()),
            State::Broken => Err(self.over("close")),
            State::Open => {
                self.state = State::Broken;
                self.finish().await?;
                self.state = State::Closed;
                Ok(())
            }
        }
    }
}

impl Drop for ObjectFile {
    fn drop(&mut self) {
        self.let_go(self.tail_bytes);
        let Some(mut upload) = self.upload.get_mut().take() else {
            return;
        };
        // Parts that belong to no object cost money until somebody removes them.
        if let Ok(runtime) = Handle::try_current() {
            let path = self.folder.shown_path(&self.path);
            runtime.spawn(async move {
                if let Err(error) = upload.abort().await {
                    let told = super::told(&error);
                    tracing::warn!(path, detail = told.detail, "parts of a file stay behind");
                }
            });
        }
    }
}
