//! Files of archives and sources on HDFS.
//!
//! Invariant: a call whose answer was lost is never taken for one that failed: what became of it is looked up, or reported as
//! unknown. One file has one writer, and a file that its writer left open is closed before its length counts.

use std::collections::{HashMap, HashSet};
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use hdfs_native::client::{FileStatus, WriteOptions};
use hdfs_native::file::{FileReader, FileWriter};
use hdfs_native::{Client, HdfsError};
use parking_lot::{Mutex, RwLock};

use super::hadoop::Settings;
use super::{Child, Entry, Moved, Store, StoreError, StoreFault, StoreFile};
use crate::context::Deadline;
use crate::error::ConnectorError;
use crate::options::Options;

/// What every user may do with folders that are made: read and list them.
const FOLDER_PERMISSION: u32 = 0o755;
/// The NameNode closes a file whose writer is gone within seconds; after this it does not.
const LEASE_WAIT: Duration = Duration::from_secs(60);
/// Time between looks whether it has.
const LEASE_LOOK: Duration = Duration::from_millis(500);
/// Folders that are known to be there, at most.
const KNOWN_FOLDERS: usize = 10_000;
/// How long a call may take: the library waits for the answer of a NameNode for ever.
const CALL_WAIT: Duration = Duration::from_secs(30);
/// The same for calls that are many at the NameNode, or move data.
const LONG_CALL: u32 = 10;
/// Files whose blocks are known, at most.
const KNOWN_FILES: usize = 256;
/// Longest text of a Java exception that is passed on.
const DETAIL_CHARS: usize = 300;

/// A folder on HDFS.
#[derive(Clone)]
pub(crate) struct HdfsStore {
    /// Of a client that did not answer nothing more is asked: its connections still count as good.
    client: Arc<RwLock<Client>>,
    settings: Arc<Settings>,
    /// The client has answered, or there is no other NameNode to ask.
    answers: Arc<AtomicBool>,
    call_wait: Duration,
    /// Absolute path of the folder on its file system, without a slash at its end.
    root: String,
    shown: String,
    made: Arc<Mutex<HashSet<String>>>,
    /// Committed files that were read, with the places of their blocks; `None` where files of others grow and are replaced.
    readers: Option<Readers>,
}

type Readers = Arc<Mutex<HashMap<String, Arc<FileReader>>>>;

impl std::fmt::Debug for HdfsStore {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "HdfsStore({})", self.shown)
    }
}

impl HdfsStore {
    /// The folder of an archive, which option `path` names. Contacts nobody.
    pub(crate) fn new(options: Options<'_>) -> Result<Self, ConnectorError> {
        let store = Self::folder(options, options.required("path")?)?;
        if store.root.is_empty() {
            return Err(refused("must name a folder"));
        }
        Ok(Self {
            readers: Some(Arc::default()),
            ..store
        })
    }

    /// A folder whose files others write, or the whole file system. Contacts nobody.
    pub(crate) fn folder(options: Options<'_>, text: &str) -> Result<Self, ConnectorError> {
        let (url, root) = place(text)?;
        let settings = Settings::new(options, url)?;
        let client = settings.client().map_err(|error| {
            ConnectorError::option_hint(
                format!("could not make an HDFS client: {}", told(&error).1),
                "Write path = 'hdfs://namenode:8020/folder', or set hadoop.conf.dir.",
            )
        })?;
        Ok(Self {
            client: Arc::new(RwLock::new(client)),
            answers: Arc::new(AtomicBool::new(settings.name_nodes() < 2)),
            settings: Arc::new(settings),
            call_wait: CALL_WAIT,
            root,
            shown: text.trim_end_matches('/').to_owned(),
            made: Arc::default(),
            readers: None,
        })
    }

    /// The same, which gives a call up after another time.
    pub(crate) fn answering_within(self, call_wait: Duration) -> Self {
        Self { call_wait, ..self }
    }

    /// A client whose NameNode answers: of several, one that hangs is passed over.
    async fn client(&self) -> Client {
        for _ in 0..self.settings.name_nodes() {
            if self.answers.load(Ordering::SeqCst) {
                break;
            }
            let client = self.client.read().clone();
            // Whatever it answers.
            let asked = tokio::time::timeout(self.call_wait, client.get_file_info("/")).await;
            match asked {
                Ok(_) => self.answers.store(true, Ordering::SeqCst),
                Err(_) => self.give_up(),
            }
        }
        self.client.read().clone()
    }

    /// Asks nothing more of the client, and another NameNode first when there are several.
    fn give_up(&self) {
        self.settings.give_up();
        // Of a single one every call finds out whether it answers.
        let single = self.settings.name_nodes() < 2;
        self.answers.store(single, Ordering::SeqCst);
        if let Ok(client) = self.settings.client() {
            *self.client.write() = client;
        }
        if let Some(readers) = &self.readers {
            readers.lock().clear();
        }
    }

    /// The answer of a call; that there was none in time is an error like any other of the network.
    async fn answered<T>(
        &self,
        call: impl Future<Output = Result<T, HdfsError>>,
    ) -> Result<T, HdfsError> {
        self.answered_within(self.call_wait, call).await
    }

    async fn answered_within<T>(
        &self,
        wait: Duration,
        call: impl Future<Output = Result<T, HdfsError>>,
    ) -> Result<T, HdfsError> {
        if let Ok(answer) = tokio::time::timeout(wait, call).await {
            return answer;
        }
        self.give_up();
        let late = format!("It did not answer within {} s.", wait.as_secs());
        Err(HdfsError::IOError(io::Error::new(
            io::ErrorKind::TimedOut,
            late,
        )))
    }

    fn long(&self) -> Duration {
        self.call_wait * LONG_CALL
    }

    fn full(&self, path: &str) -> String {
        match path {
            "" if self.root.is_empty() => "/".to_owned(),
            "" => self.root.clone(),
            _ => format!("{}/{path}", self.root),
        }
    }

    fn error(&self, action: &'static str, path: &str, error: &HdfsError) -> StoreError {
        let (fault, detail) = told(error);
        let path = match path {
            "" => self.shown.clone(),
            _ => format!("{}/{path}", self.shown),
        };
        StoreError::new(action, path, fault, detail)
    }

    /// Makes the folders of a file; those that were made before are taken to be there.
    async fn make_parents(&self, path: &str) -> Result<(), StoreError> {
        let full = self.full(path);
        let Some((folder, _)) = full.rsplit_once('/') else {
            return Ok(());
        };
        if self.made.lock().contains(folder) {
            return Ok(());
        }
        let client = self.client().await;
        let made = self
            .answered(client.mkdirs(folder, FOLDER_PERMISSION, true))
            .await;
        made.map_err(|error| self.error("create the folder of", path, &error))?;
        let mut known = self.made.lock();
        if known.len() >= KNOWN_FOLDERS {
            known.clear();
        }
        known.insert(folder.to_owned());
        Ok(())
    }

    /// A reader of a file; of a committed one, which stays as it is, the places of its blocks are asked for once.
    async fn reader(&self, path: &str) -> Result<Arc<FileReader>, HdfsError> {
        let readers = self.readers.as_ref();
        let known = readers.and_then(|readers| readers.lock().get(path).cloned());
        if let Some(reader) = known {
            return Ok(reader);
        }
        let (client, full) = (self.client().await, self.full(path));
        let reader = Arc::new(self.answered(client.read(&full)).await?);
        if let Some(readers) = readers.filter(|_| !path.starts_with('_')) {
            let mut known = readers.lock();
            if known.len() >= KNOWN_FILES {
                known.clear();
            }
            known.insert(path.to_owned(), Arc::clone(&reader));
        }
        Ok(reader)
    }

    async fn find(&self, path: &str) -> Result<Option<u64>, HdfsError> {
        let (client, full) = (self.client().await, self.full(path));
        match self.answered(client.get_file_info(&full)).await {
            Ok(status) if status.isdir => Ok(None),
            Ok(status) => Ok(Some(status.length as u64)),
            Err(error) if told(&error).0 == StoreFault::Missing => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// The file system's URL, when the text names one, and the folder on it.
fn place(text: &str) -> Result<(Option<String>, String), ConnectorError> {
    let (url, path) = match text.split_once("://") {
        Some(("hdfs" | "viewfs", rest)) => {
            let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
            if host.is_empty() {
                return Err(refused("names no NameNode and no name service"));
            }
            let scheme = text.split("://").next().unwrap_or("hdfs");
            (Some(format!("{scheme}://{host}")), path)
        }
        Some(_) => return Err(refused("must begin with hdfs:// for connector 'hdfs'")),
        None => (None, text),
    };
    let mut root = String::new();
    for part in path.split('/').filter(|part| !part.is_empty()) {
        if matches!(part, "." | "..") || part.contains([':', '\0', '\\']) {
            return Err(refused("must not hold '.', '..', a colon or a backslash"));
        }
        root.push('/');
        root.push_str(part);
    }
    Ok((url, root))
}

fn refused(reason: &str) -> ConnectorError {
    ConnectorError::option_hint(
        format!("option \"path\" {reason}"),
        "Write path = 'hdfs://namenode:8020/folder'.",
    )
}

/// What an error is to us, and its text without the stack of a Java program.
fn told(error: &HdfsError) -> (StoreFault, String) {
    let short = |text: &str| {
        let first = text.lines().next().unwrap_or_default().trim();
        first.chars().take(DETAIL_CHARS).collect::<String>()
    };
    match error {
        HdfsError::FileNotFound(text) | HdfsError::BlocksNotFound(text) => {
            (StoreFault::Missing, short(text))
        }
        HdfsError::AlreadyExists(text) => (StoreFault::Exists, short(text)),
        HdfsError::RPCError(class, text) | HdfsError::FatalRPCError(class, text) => {
            let name = class.rsplit('.').next().unwrap_or(class);
            let fault = match name {
                "FileNotFoundException" | "PathNotFoundException" => StoreFault::Missing,
                "FileAlreadyExistsException" | "AlreadyBeingCreatedException" => StoreFault::Exists,
                "AccessControlException" | "AuthorizationException" => StoreFault::Denied,
                "SafeModeException" | "StandbyException" | "RetriableException" => {
                    StoreFault::Unreachable
                }
                _ if name.contains("QuotaExceeded") => StoreFault::Full,
                _ if text.contains("could only be written to 0 of") => StoreFault::Unreachable,
                _ => StoreFault::Other,
            };
            (fault, short(&format!("{name}: {text}")))
        }
        HdfsError::IOError(error) => (StoreFault::Unreachable, short(&error.to_string())),
        other => (StoreFault::Other, short(&other.to_string())),
    }
}

/// What is to be done after a rename that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum AfterFailure {
    /// A file has the new name: this one, or another.
    Taken,
    /// The new name's folder was removed since it was made.
    MakeFolder,
    /// Nothing; the fault says whether there is anything to rename.
    Failed(StoreFault),
}

/// From the fault that was told, and whether there is a file under the old and the new name.
fn after_failure(fault: StoreFault, source: bool, target: bool) -> AfterFailure {
    match (source, target, fault) {
        (_, true, _) => AfterFailure::Taken,
        (false, false, _) => AfterFailure::Failed(StoreFault::Missing),
        // The file itself is there.
        (true, false, StoreFault::Missing) => AfterFailure::MakeFolder,
        (true, false, fault) => AfterFailure::Failed(fault),
    }
}

#[async_trait]
impl Store for HdfsStore {
    fn describe(&self) -> String {
        self.shown.clone()
    }

    async fn list(&self, folder: &str) -> Result<Vec<Entry>, StoreError> {
        let (client, full) = (self.client().await, self.full(folder));
        let listed = self.answered_within(self.long(), client.list_status(&full, true));
        let listed = match listed.await {
            Ok(listed) => listed,
            Err(error) if told(&error).0 == StoreFault::Missing => return Ok(Vec::new()),
            Err(error) => return Err(self.error("list", folder, &error)),
        };
        let prefix = format!("{}/", self.root);
        let mut entries: Vec<Entry> = listed
            .into_iter()
            .filter(|status| !status.isdir)
            .filter_map(|status| {
                let path = status.path.strip_prefix(&prefix)?.to_owned();
                let bytes = status.length as u64;
                Some(Entry { path, bytes })
            })
            .collect();
        entries.sort();
        Ok(entries)
    }

    async fn children(&self, folder: &str) -> Result<Vec<Child>, StoreError> {
        let full = self.full(folder);
        let client = self.client().await;
        let listed = self.answered_within(self.long(), client.list_status(&full, false));
        let listed = match listed.await {
            Ok(listed) => listed,
            Err(error) if told(&error).0 == StoreFault::Missing => return Ok(Vec::new()),
            Err(error) => return Err(self.error("list", folder, &error)),
        };
        // What is listed as a folder and is a file has that file itself in the answer.
        let prefix = format!("{}/", full.trim_end_matches('/'));
        let child = |status: FileStatus| {
            Some(Child {
                name: status.path.strip_prefix(&prefix)?.to_owned(),
                bytes: (!status.isdir).then_some(status.length as u64),
                modified_ms: Some(status.modification_time),
            })
        };
        let mut children: Vec<Child> = listed.into_iter().filter_map(child).collect();
        children.sort();
        Ok(children)
    }

    async fn length(&self, path: &str) -> Result<Option<u64>, StoreError> {
        let found = self.find(path).await;
        found.map_err(|error| self.error("look at", path, &error))
    }

    async fn mend(&self, path: &str) -> Result<Option<u64>, StoreError> {
        let deadline = Deadline::after(LEASE_WAIT);
        loop {
            let (client, full) = (self.client().await, self.full(path));
            match self.answered(client.recover_lease(&full)).await {
                Ok(true) => return self.length(path).await,
                Ok(false) if deadline.left().is_zero() => {
                    let detail =
                        "Its last writer left it open, and the NameNode does not close it.";
                    let shown = format!("{}/{path}", self.shown);
                    return Err(StoreError::new(
                        "close",
                        shown,
                        StoreFault::Unreachable,
                        detail,
                    ));
                }
                // The NameNode tells nobody when it is done.
                Ok(false) => tokio::time::sleep(LEASE_LOOK).await,
                Err(error) if told(&error).0 == StoreFault::Missing => return Ok(None),
                Err(error) => return Err(self.error("close", path, &error)),
            }
        }
    }

    async fn read(&self, path: &str, range: Range<u64>) -> Result<Bytes, StoreError> {
        let failed = |error: &HdfsError| {
            // Its blocks may be elsewhere by now.
            if let Some(readers) = &self.readers {
                readers.lock().remove(path);
            }
            self.error("read", path, error)
        };
        let reader = self.reader(path).await;
        let reader = reader.map_err(|error| failed(&error))?;
        // The library panics on a range that is not there.
        if range.end > reader.file_length() as u64 || range.start > range.end {
            let detail = format!("It has {} bytes.", reader.file_length());
            let shown = format!("{}/{path}", self.shown);
            return Err(StoreError::new("read", shown, StoreFault::Other, detail));
        }
        let (from, length) = (range.start as usize, (range.end - range.start) as usize);
        if length == 0 {
            return Ok(Bytes::new());
        }
        let bytes = self.answered_within(self.long(), reader.read_range(from, length));
        let bytes = bytes.await;
        let bytes = bytes.map_err(|error| failed(&error))?;
        match bytes.len() == length {
            true => Ok(bytes),
            false => Err(failed(&HdfsError::OperationFailed(
                "The answer ended early.".into(),
            ))),
        }
    }

    async fn create(&self, path: &str) -> Result<Box<dyn StoreFile>, StoreError> {
        let options = WriteOptions::default().overwrite(false).create_parent(true);
        let (client, full) = (self.client().await, self.full(path));
        let writer = self.answered(client.create(&full, options)).await;
        let writer = writer.map_err(|error| self.error("create", path, &error))?;
        Ok(Box::new(HdfsFile {
            store: self.clone(),
            path: path.to_owned(),
            writer: tokio::sync::Mutex::new(writer),
        }))
    }

    async fn rename(&self, from: &str, to: &str) -> Result<Moved, StoreError> {
        let (source, target) = (self.full(from), self.full(to));
        let mut again = true;
        loop {
            self.make_parents(to).await?;
            let client = self.client().await;
            let renamed = self.answered(client.rename(&source, &target, false));
            let Err(error) = renamed.await else {
                return Ok(Moved::Done);
            };
            // A folder that was made may be gone again.
            self.made.lock().clear();
            let mut failure = self.error("rename", from, &error);
            match failure.fault {
                StoreFault::Exists => return Ok(Moved::Taken),
                StoreFault::Denied => return Err(failure),
                _ => {}
            }
            // It may have happened: the answer was lost, or was that of a second attempt.
            let (Ok(found), Ok(placed)) = (self.find(from).await, self.find(to).await) else {
                failure.fault = StoreFault::Unreachable;
                return Err(failure);
            };
            failure.fault = match after_failure(failure.fault, found.is_some(), placed.is_some()) {
                AfterFailure::Taken => return Ok(Moved::Taken),
                AfterFailure::MakeFolder if again => {
                    again = false;
                    continue;
                }
                AfterFailure::MakeFolder => StoreFault::Other,
                AfterFailure::Failed(fault) => fault,
            };
            return Err(failure);
        }
    }

    async fn delete(&self, path: &str) -> Result<(), StoreError> {
        let (client, full) = (self.client().await, self.full(path));
        match self.answered(client.delete(&full, false)).await {
            Ok(_) => Ok(()),
            Err(error) if told(&error).0 == StoreFault::Missing => Ok(()),
            Err(error) => Err(self.error("delete", path, &error)),
        }
    }

    async fn delete_folder(&self, path: &str) -> Result<(), StoreError> {
        self.made.lock().clear();
        let (client, full) = (self.client().await, self.full(path));
        match self
            .answered_within(self.long(), client.delete(&full, true))
            .await
        {
            Ok(_) => Ok(()),
            Err(error) if told(&error).0 == StoreFault::Missing => Ok(()),
            Err(error) => Err(self.error("delete", path, &error)),
        }
    }
}

struct HdfsFile {
    store: HdfsStore,
    path: String,
    writer: tokio::sync::Mutex<FileWriter>,
}

#[async_trait]
impl StoreFile for HdfsFile {
    async fn write(&mut self, bytes: Bytes) -> Result<(), StoreError> {
        let written = self.writer.get_mut().write_bytes(bytes);
        let written = self.store.answered_within(self.store.long(), written).await;
        let failed = |error| self.store.error("write", &self.path, &error);
        written.map(drop).map_err(failed)
    }

    async fn close(&mut self) -> Result<(), StoreError> {
        let closed = self.writer.get_mut().close();
        let closed = self.store.answered_within(self.store.long(), closed).await;
        closed.map_err(|error| self.store.error("close", &self.path, &error))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn a_path_names_a_file_system_and_a_folder() {
        for (text, url, root) in [
            ("hdfs://ns1/lake/clicks", Some("hdfs://ns1"), "/lake/clicks"),
            (
                "hdfs://127.0.0.1:8020//a//b/",
                Some("hdfs://127.0.0.1:8020"),
                "/a/b",
            ),
            ("/lake/clicks", None, "/lake/clicks"),
            ("hdfs://ns1", Some("hdfs://ns1"), ""),
        ] {
            let (found, folder) = place(text).expect(text);
            assert_eq!((found.as_deref(), folder.as_str()), (url, root), "{text}");
        }
        for text in ["hdfs:///a", "s3://b/c", "hdfs://ns1/../x", "hdfs://ns1/a:b"] {
            assert!(place(text).is_err(), "{text}");
        }
        // An archive has a folder of its own.
        let options = BTreeMap::from([("path".to_owned(), "hdfs://ns1/".to_owned())]);
        assert!(HdfsStore::new(Options(&options)).is_err());
    }

    #[test]
    fn a_folder_that_is_gone_is_not_taken_for_a_file_that_was_moved() {
        use AfterFailure::{Failed, MakeFolder, Taken};
        for fault in [
            StoreFault::Missing,
            StoreFault::Unreachable,
            StoreFault::Other,
        ] {
            let here = match fault {
                StoreFault::Missing => MakeFolder,
                fault => Failed(fault),
            };
            for (source, target, expected) in [
                (true, false, here),
                (false, false, Failed(StoreFault::Missing)),
                (false, true, Taken),
                (true, true, Taken),
            ] {
                assert_eq!(after_failure(fault, source, target), expected, "{fault:?}");
            }
        }
    }

    #[tokio::test]
    async fn a_name_node_that_does_not_answer_is_not_waited_for_for_ever() {
        // The kernel takes the connection; nobody reads it.
        let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let url = format!("hdfs://{}/a", silent.local_addr().expect("an address"));
        let options = BTreeMap::from([("path".to_owned(), url)]);
        let store = HdfsStore::new(Options(&options)).expect("a store");
        let store = store.answering_within(Duration::from_millis(50));
        let error = store.length("x").await.expect_err("nobody answers");
        assert_eq!(error.fault, StoreFault::Unreachable);
        assert!(error.detail.contains("did not answer"), "{error:?}");
        let error = store.rename("x", "y").await.expect_err("nobody answers");
        assert_eq!(error.fault, StoreFault::Unreachable);
    }

    #[tokio::test]
    async fn of_two_name_nodes_one_that_hangs_is_passed_over() {
        // The kernel takes the connections; nobody reads them.
        let [first, second] =
            [0; 2].map(|_| std::net::TcpListener::bind("127.0.0.1:0").expect("a port"));
        let address = |node: &std::net::TcpListener| {
            let address = node.local_addr().expect("an address");
            address.to_string()
        };
        let options = [
            ("path", "hdfs://ns1/a".to_owned()),
            ("hadoop.dfs.ha.namenodes.ns1", "nn1, nn2".to_owned()),
            ("hadoop.dfs.namenode.rpc-address.ns1.nn1", address(&first)),
            ("hadoop.dfs.namenode.rpc-address.ns1.nn2", address(&second)),
        ];
        let options = options.map(|(name, value)| (name.to_owned(), value));
        let options = BTreeMap::from(options);
        let store = HdfsStore::new(Options(&options)).expect("a store");
        let store = store.answering_within(Duration::from_millis(50));
        let error = store.length("x").await.expect_err("nobody answers");
        assert_eq!(error.fault, StoreFault::Unreachable);
        for node in [first, second] {
            node.set_nonblocking(true).expect("a listener");
            assert!(node.accept().is_ok(), "each was asked");
        }
    }

    #[test]
    fn java_stacks_are_not_passed_on() {
        let stack =
            "Permission denied: user=x, access=WRITE\n\tat org.apache.hadoop.Foo.bar(Foo.java:1)";
        let class = "org.apache.hadoop.security.AccessControlException";
        let error = HdfsError::RPCError(class.into(), stack.into());
        let told = told(&error);
        assert_eq!(told.0, StoreFault::Denied);
        assert_eq!(
            told.1,
            "AccessControlException: Permission denied: user=x, access=WRITE"
        );
    }
}
