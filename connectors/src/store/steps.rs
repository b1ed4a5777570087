//! The durable steps of what connectors deliver, by name, for tests that make a process fail at one of them.
//!
//! Invariant: a server without tests has no such store in between, so that nothing is named and nothing is counted.

use std::fmt::Debug;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use bytes::Bytes;

use super::{Child, Entry, Moved, Store, StoreError, StoreFault, StoreFile};

/// A step that leaves something behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// A file of rows is about to be created among the staged ones.
    Create,
    /// Rows are about to be written to it.
    Write,
    /// It is about to be made whole.
    Close,
    /// The commit's manifest is whole among the staged ones.
    Staged,
    /// A file of rows is about to come to its place.
    Place,
    /// The manifest is about to come to its place.
    Seal,
    /// It is there: the rows are committed.
    Sealed,
    /// A new writer is about to shut out the one before.
    Fence,
    /// The rows of a delivery into HBase are about to be written.
    HbaseRows,
    /// One of the requests that write them is about to be sent.
    HbaseRequest,
    /// All of them are there, and the marker is about to be written.
    HbaseMarker,
    /// It is there: the rows are committed.
    HbaseMarked,
    /// A file that others have replaced is about to move aside, after the commit.
    Aside,
    /// It has.
    Moved,
    /// A file that has the rows of others is about to come to its place, after the commit.
    Exchange,
    /// It is there.
    Exchanged,
    /// A file that was replaced is about to be removed.
    Forget,
    /// A transaction of Kafka has begun.
    KafkaBegun,
    /// Its rows are on their way to the brokers, its marker is not.
    KafkaRows,
    /// Its marker is, too.
    KafkaMarked,
    /// The brokers have committed it, and nobody here knows.
    KafkaCommitted,
}

/// Who decides whether a step fails.
pub trait Steps: Debug + Send + Sync {
    /// Passes a step.
    ///
    /// # Errors
    /// When the step is to fail.
    fn pass(&self, step: Step) -> std::io::Result<()>;
}

/// A store whose steps may fail.
#[derive(Debug)]
pub(crate) struct SteppedStore {
    store: Arc<dyn Store>,
    steps: Arc<dyn Steps>,
    /// Files have moved aside since the last commit: what comes to its place now has their rows.
    exchanging: AtomicBool,
}

impl SteppedStore {
    pub(crate) fn new(store: Arc<dyn Store>, steps: Arc<dyn Steps>) -> Self {
        Self {
            store,
            steps,
            exchanging: AtomicBool::new(false),
        }
    }

    /// The steps before and after a rename.
    fn renames(&self, from: &str, to: &str) -> [Option<Step>; 2] {
        let name = from.rsplit('/').next().unwrap_or(from);
        let staged = from.starts_with("_staging/");
        if !staged {
            let aside = to.starts_with("_replaced/");
            self.exchanging.fetch_or(aside, Ordering::SeqCst);
            return match aside {
                true => [Some(Step::Aside), Some(Step::Moved)],
                false => [None, None],
            };
        }
        if !to.starts_with("_manifest/") {
            return match self.exchanging.load(Ordering::SeqCst) {
                true => [Some(Step::Exchange), Some(Step::Exchanged)],
                false => [Some(Step::Place), None],
            };
        }
        match name.starts_with("fence-") {
            true => [Some(Step::Fence), None],
            false => [Some(Step::Seal), Some(Step::Sealed)],
        }
    }
}

fn pass(steps: &Arc<dyn Steps>, step: Option<Step>, path: &str) -> Result<(), StoreError> {
    let Some(step) = step else {
        return Ok(());
    };
    let passed = steps.pass(step);
    passed.map_err(|error| StoreError::new("pass", path, StoreFault::Other, error.to_string()))
}

fn is_manifest(path: &str) -> bool {
    path.ends_with(".json")
}

#[async_trait]
impl Store for SteppedStore {
    fn describe(&self) -> String {
        self.store.describe()
    }

    async fn list(&self, folder: &str) -> Result<Vec<Entry>, StoreError> {
        self.store.list(folder).await
    }

    async fn children(&self, folder: &str) -> Result<Vec<Child>, StoreError> {
        self.store.children(folder).await
    }

    async fn length(&self, path: &str) -> Result<Option<u64>, StoreError> {
        self.store.length(path).await
    }

    async fn mend(&self, path: &str) -> Result<Option<u64>, StoreError> {
        self.store.mend(path).await
    }

    async fn read(&self, path: &str, range: Range<u64>) -> Result<Bytes, StoreError> {
        self.store.read(path, range).await
    }

    async fn create(&self, path: &str) -> Result<Box<dyn StoreFile>, StoreError> {
        pass(
            &self.steps,
            (!is_manifest(path)).then_some(Step::Create),
            path,
        )?;
        // The manifest of the next commit.
        let commits = is_manifest(path) && !path.contains("/fence-");
        self.exchanging.fetch_and(!commits, Ordering::SeqCst);
        Ok(Box::new(SteppedFile {
            file: self.store.create(path).await?,
            steps: Arc::clone(&self.steps),
            path: path.to_owned(),
        }))
    }

    async fn rename(&self, from: &str, to: &str) -> Result<Moved, StoreError> {
        let [before, after] = self.renames(from, to);
        pass(&self.steps, before, from)?;
        let moved = self.store.rename(from, to).await?;
        pass(&self.steps, after, from)?;
        Ok(moved)
    }

    async fn publish(&self, from: &str, to: &str) -> Result<Moved, StoreError> {
        let [before, after] = self.renames(from, to);
        pass(&self.steps, before, from)?;
        let moved = self.store.publish(from, to).await?;
        pass(&self.steps, after, from)?;
        Ok(moved)
    }

    async fn delete(&self, path: &str) -> Result<(), StoreError> {
        let forgets = path.starts_with("_replaced/");
        pass(&self.steps, forgets.then_some(Step::Forget), path)?;
        self.store.delete(path).await
    }

    async fn delete_folder(&self, path: &str) -> Result<(), StoreError> {
        self.store.delete_folder(path).await
    }
}

struct SteppedFile {
    file: Box<dyn StoreFile>,
    steps: Arc<dyn Steps>,
    path: String,
}

impl SteppedFile {
    fn is_fence(&self) -> bool {
        self.path.contains("/fence-")
    }
}

#[async_trait]
impl StoreFile for SteppedFile {
    fn held_bytes(&self) -> usize {
        self.file.held_bytes()
    }

    async fn write(&mut self, bytes: Bytes) -> Result<(), StoreError> {
        let step = (!is_manifest(&self.path)).then_some(Step::Write);
        pass(&self.steps, step, &self.path)?;
        self.file.write(bytes).await
    }

    async fn close(&mut self) -> Result<(), StoreError> {
        let manifest = is_manifest(&self.path);
        pass(&self.steps, (!manifest).then_some(Step::Close), &self.path)?;
        self.file.close().await?;
        let staged = manifest && !self.is_fence();
        pass(&self.steps, staged.then_some(Step::Staged), &self.path)
    }
}
