//! A store in memory whose operations fail, or stop for something else, where a test says so: one that renames, or objects.
//!
//! Invariant: a file that was not closed has only half of its bytes after a crash, and an object is not there; everything else is as
//! it was.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::BoxFuture;
use object_store::Attributes;
use parking_lot::Mutex;

use super::{Entry, Moved, Store, StoreError, StoreFault, StoreFile};

/// What the store is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Kind {
    /// Files that are renamed.
    #[default]
    Files,
    /// Objects that are put and copied.
    Objects,
}

impl Kind {
    /// Every way in which such a store fails.
    pub(crate) fn faults(self) -> Vec<Fault> {
        let mut faults = Fault::ALL.to_vec();
        if self == Kind::Objects {
            faults.extend([0, 2, 9].map(Fault::Late));
        }
        faults
    }
}

/// What happens at an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It fails and did nothing; later ones work.
    Refused,
    /// It fails though it was done; later ones work.
    Ambiguous,
    /// It and all later ones fail, until the next start.
    DownBefore,
    /// It is done, but it and all later ones fail, until the next start.
    DownAfter,
    /// It fails, and is done after so many later operations of anybody. Of objects only.
    Late(usize),
}

impl Fault {
    pub(crate) const ALL: [Fault; 4] = [
        Fault::Refused,
        Fault::Ambiguous,
        Fault::DownBefore,
        Fault::DownAfter,
    ];
}

type Pause = Box<dyn FnOnce() -> BoxFuture<'static, ()> + Send>;
pub(super) type Files = BTreeMap<String, Content>;
type Late = Box<dyn FnOnce(&mut Files) + Send>;

#[derive(Default)]
struct Script {
    /// Operations so far.
    done: usize,
    fault: Option<(usize, Fault)>,
    pause: Option<(usize, Pause)>,
    down: bool,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Content {
    pub(super) bytes: Vec<u8>,
    pub(super) closed: bool,
    pub(super) attributes: Attributes,
}

/// A store in memory. Clones share the files, not the script.
#[derive(Clone, Default)]
pub(crate) struct ScriptedStore {
    files: Arc<Mutex<Files>>,
    /// What was asked for and is done after so many operations.
    late: Arc<Mutex<Vec<(usize, Late)>>>,
    script: Arc<Mutex<Script>>,
    kind: Kind,
    /// Files that were open at the same time, at most.
    open_most: Arc<AtomicUsize>,
}

impl Debug for ScriptedStore {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("ScriptedStore")
    }
}

impl ScriptedStore {
    /// An empty store.
    pub(crate) fn of(kind: Kind) -> Self {
        Self {
            kind,
            ..Self::default()
        }
    }

    /// What an archive is given.
    pub(crate) fn store(&self) -> Arc<dyn Store> {
        match self.kind {
            Kind::Files => Arc::new(self.clone()),
            Kind::Objects => Arc::new(super::object::scripted(self)),
        }
    }

    /// Fails at the operation of this number, counted from now.
    pub(crate) fn fail_at(&self, operation: usize, fault: Fault) {
        let mut script = self.script.lock();
        script.fault = Some((script.done + operation, fault));
    }

    /// Runs something else before the operation of this number, counted from now.
    pub(crate) fn pause_at(
        &self,
        operation: usize,
        run: impl FnOnce() -> BoxFuture<'static, ()> + Send + 'static,
    ) {
        let mut script = self.script.lock();
        script.pause = Some((script.done + operation, Box::new(run)));
    }

    /// True when what was scripted has not come yet.
    pub(crate) fn is_waiting(&self) -> bool {
        let script = self.script.lock();
        script.fault.is_some() || script.pause.is_some()
    }

    /// Operations of this process so far.
    pub(crate) fn operations(&self) -> usize {
        self.script.lock().done
    }

    /// Files that were open at the same time, at most.
    pub(crate) fn open_most(&self) -> usize {
        self.open_most.load(Ordering::SeqCst)
    }

    /// The same files for another process, after the one that wrote them is gone.
    pub(crate) fn restarted(&self) -> Self {
        for content in self.files.lock().values_mut() {
            if !content.closed {
                let half = content.bytes.len() / 2;
                content.bytes.truncate(half);
                content.closed = true;
            }
        }
        self.shared()
    }

    /// The same files for another process that runs beside.
    pub(crate) fn shared(&self) -> Self {
        Self {
            files: Arc::clone(&self.files),
            late: Arc::clone(&self.late),
            script: Arc::default(),
            kind: self.kind,
            open_most: Arc::default(),
        }
    }

    /// Every path, and the bytes of it.
    pub(crate) fn content(&self) -> BTreeMap<String, Vec<u8>> {
        let files = self.files.lock();
        let copy = |(path, content): (&String, &Content)| (path.clone(), content.bytes.clone());
        files.iter().map(copy).collect()
    }

    /// Replaces a file, as damage does.
    pub(crate) fn damage(&self, path: &str, bytes: Option<Vec<u8>>) {
        match bytes {
            Some(bytes) => {
                let content = Content {
                    bytes,
                    closed: true,
                    ..Content::default()
                };
                self.files.lock().insert(path.to_owned(), content);
            }
            None => {
                self.files.lock().remove(path);
            }
        }
    }

    /// As [`Self::run`], for what can be done after it failed.
    pub(super) async fn run_late<T>(
        &self,
        action: &'static str,
        path: &str,
        act: impl FnOnce(&mut Files) -> Result<T, StoreFault> + Send + 'static,
    ) -> Result<T, StoreError> {
        let after = {
            let mut script = self.script.lock();
            match script.fault {
                Some((at, Fault::Late(after))) if at == script.done && script.pause.is_none() => {
                    script.done += 1;
                    script.fault = None;
                    Some(after)
                }
                _ => None,
            }
        };
        match after {
            Some(after) => {
                let late = Box::new(move |files: &mut Files| drop(act(files)));
                self.late.lock().push((after, late));
                let fault = StoreFault::Other;
                Err(StoreError::new(action, path, fault, "scripted"))
            }
            None => self.run(action, path, act).await,
        }
    }

    /// Does what is late by now.
    fn catch_up(&self) {
        let mut late = self.late.lock();
        let mut files = self.files.lock();
        for (after, act) in std::mem::take(&mut *late) {
            match after.checked_sub(1) {
                Some(after) => late.push((after, act)),
                None => act(&mut files),
            }
        }
    }

    pub(super) async fn run<T>(
        &self,
        action: &'static str,
        path: &str,
        act: impl FnOnce(&mut Files) -> Result<T, StoreFault>,
    ) -> Result<T, StoreError> {
        let error = |fault| StoreError::new(action, path, fault, "scripted");
        self.catch_up();
        let pause = {
            let mut script = self.script.lock();
            let due = script
                .pause
                .as_ref()
                .is_some_and(|(at, _)| *at == script.done);
            due.then(|| script.pause.take()).flatten()
        };
        if let Some((_, pause)) = pause {
            pause().await;
        }
        let fault = {
            let mut script = self.script.lock();
            let due = script.fault.filter(|(at, _)| *at == script.done);
            script.done += 1;
            if script.down {
                return Err(error(StoreFault::Unreachable));
            }
            if let Some((_, fault)) = due {
                script.fault = None;
                script.down = matches!(fault, Fault::DownBefore | Fault::DownAfter);
                Some(fault)
            } else {
                None
            }
        };
        match fault {
            Some(Fault::Refused | Fault::DownBefore | Fault::Late(_)) => {
                Err(error(StoreFault::Unreachable))
            }
            Some(Fault::Ambiguous | Fault::DownAfter) => {
                // What it answered is never known.
                drop(act(&mut self.files.lock()));
                Err(error(StoreFault::Other))
            }
            None => act(&mut self.files.lock()).map_err(error),
        }
    }
}

#[async_trait]
impl Store for ScriptedStore {
    fn describe(&self) -> String {
        "scripted".into()
    }

    async fn list(&self, folder: &str) -> Result<Vec<Entry>, StoreError> {
        let prefix = match folder {
            "" => String::new(),
            _ => format!("{folder}/"),
        };
        self.run("list", folder, |files| {
            let below = files.iter().filter(|(path, _)| path.starts_with(&prefix));
            Ok(below
                .map(|(path, content)| Entry {
                    path: path.clone(),
                    bytes: content.bytes.len() as u64,
                })
                .collect())
        })
        .await
    }

    async fn length(&self, path: &str) -> Result<Option<u64>, StoreError> {
        self.run("look at", path, |files| {
            Ok(files.get(path).map(|content| content.bytes.len() as u64))
        })
        .await
    }

    async fn mend(&self, path: &str) -> Result<Option<u64>, StoreError> {
        self.run("mend", path, |files| {
            Ok(files.get_mut(path).map(|content| {
                content.closed = true;
                content.bytes.len() as u64
            }))
        })
        .await
    }

    async fn read(&self, path: &str, range: Range<u64>) -> Result<Bytes, StoreError> {
        self.run("read", path, |files| {
            let content = files.get(path).ok_or(StoreFault::Missing)?;
            let range = range.start as usize..range.end as usize;
            let bytes = content.bytes.get(range).ok_or(StoreFault::Other)?;
            Ok(Bytes::copy_from_slice(bytes))
        })
        .await
    }

    async fn create(&self, path: &str) -> Result<Box<dyn StoreFile>, StoreError> {
        self.run("create", path, |files| {
            if files.contains_key(path) {
                return Err(StoreFault::Exists);
            }
            files.insert(path.to_owned(), Content::default());
            let open = files.values().filter(|content| !content.closed).count();
            self.open_most.fetch_max(open, Ordering::SeqCst);
            Ok(())
        })
        .await?;
        Ok(Box::new(ScriptedFile {
            store: self.clone(),
            path: path.to_owned(),
        }))
    }

    async fn rename(&self, from: &str, to: &str) -> Result<Moved, StoreError> {
        self.run("rename", from, |files| {
            if !files.contains_key(from) {
                return Err(StoreFault::Missing);
            }
            if files.contains_key(to) {
                return Ok(Moved::Taken);
            }
            let content = files.remove(from).ok_or(StoreFault::Missing)?;
            files.insert(to.to_owned(), content);
            Ok(Moved::Done)
        })
        .await
    }

    async fn delete(&self, path: &str) -> Result<(), StoreError> {
        self.run("delete", path, |files| {
            files.remove(path);
            Ok(())
        })
        .await
    }

    async fn delete_folder(&self, path: &str) -> Result<(), StoreError> {
        let prefix = format!("{path}/");
        self.run("delete", path, |files| {
            files.retain(|name, _| !name.starts_with(&prefix));
            Ok(())
        })
        .await
    }
}

struct ScriptedFile {
    store: ScriptedStore,
    path: String,
}

#[async_trait]
impl StoreFile for ScriptedFile {
    async fn write(&mut self, bytes: Bytes) -> Result<(), StoreError> {
        let act = |files: &mut Files| {
            let content = files.get_mut(&self.path).ok_or(StoreFault::Missing)?;
            content.bytes.extend_from_slice(&bytes);
            Ok(())
        };
        self.store.run("write", &self.path, act).await
    }

    async fn close(&mut self) -> Result<(), StoreError> {
        let act = |files: &mut Files| {
            let content = files.get_mut(&self.path).ok_or(StoreFault::Missing)?;
            content.closed = true;
            Ok(())
        };
        self.store.run("close", &self.path, act).await
    }
}
