//! Objects in the memory of a scripted store.
//!
//! Invariant: a request is done at one moment or not at all, and puts keep to their conditions, as S3 and Azure promise.

use std::fmt::{self, Display, Formatter};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};
use object_store::client::{HttpError, HttpErrorKind};
use object_store::path::Path;
use object_store::{
    Attributes, CopyMode, CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult,
    MultipartUpload, ObjectMeta, ObjectStore, PutMode, PutMultipartOptions, PutOptions, PutPayload,
    PutResult, Result, UploadPart,
};
use parking_lot::Mutex;
use uuid::Uuid;

use super::{ObjectFolder, Parts};
use crate::store::scripted::{Content, Files, ScriptedStore};
use crate::store::{StoreError, StoreFault};

/// Key of the folder.
pub(super) const ROOT: &str = "lake/archive";
/// So that most files of tests have parts.
const PART_BYTES: usize = 700;

/// A folder of objects over this script.
pub(in crate::store) fn scripted(store: &ScriptedStore) -> ObjectFolder {
    let objects: Arc<dyn ObjectStore> = Arc::new(ScriptedObjects(store.clone()));
    ObjectFolder::of(Parts {
        client: Arc::clone(&objects),
        patient: objects,
        root: ROOT.into(),
        shown: "scripted".into(),
        process: Uuid::nil(),
        refused: "Ask the script.",
        part_bytes: PART_BYTES,
        waiting_bytes_max: 2 * PART_BYTES,
    })
}

#[derive(Debug, Clone)]
struct ScriptedObjects(ScriptedStore);

impl Display for ScriptedObjects {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        formatter.write_str("ScriptedObjects")
    }
}

/// The path below the folder.
fn below(key: &Path) -> String {
    let path = key.as_ref().strip_prefix(ROOT);
    path.expect("a key of the folder")
        .trim_start_matches('/')
        .into()
}

/// What the client of a store makes of such a failure.
fn failed(error: StoreError) -> Error {
    let (path, text) = (error.path.clone(), error.detail.clone());
    let http = |kind| {
        let cause = std::io::Error::other(text.clone());
        Error::Generic {
            store: "scripted",
            source: Box::new(HttpError::new(kind, cause)),
        }
    };
    match error.fault {
        StoreFault::Missing => Error::NotFound {
            path,
            source: text.into(),
        },
        StoreFault::Exists => Error::AlreadyExists {
            path,
            source: text.into(),
        },
        StoreFault::Unreachable => http(HttpErrorKind::Connect),
        _ => http(HttpErrorKind::Timeout),
    }
}

fn result() -> PutResult {
    PutResult {
        e_tag: None,
        version: None,
    }
}

fn bytes_of(payload: PutPayload) -> Vec<u8> {
    Bytes::from(payload).to_vec()
}

/// Puts an object, when the condition holds.
fn put(
    files: &mut Files,
    path: String,
    bytes: Vec<u8>,
    attributes: Attributes,
    mode: &PutMode,
) -> std::result::Result<(), StoreFault> {
    if *mode == PutMode::Create && files.contains_key(&path) {
        return Err(StoreFault::Exists);
    }
    let content = Content {
        bytes,
        closed: true,
        attributes,
    };
    files.insert(path, content);
    Ok(())
}

#[async_trait]
impl ObjectStore for ScriptedObjects {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        let path = below(location);
        let name = path.clone();
        let act = move |files: &mut Files| {
            let bytes = bytes_of(payload);
            put(files, path, bytes, options.attributes, &options.mode)
        };
        let done = self.0.run_late("put", &name, act).await;
        done.map(|()| result()).map_err(failed)
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        _options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        let path = below(location);
        let begun = self.0.run("begin", &path, |_| Ok(())).await;
        begun.map_err(failed)?;
        Ok(Box::new(ScriptedUpload {
            store: self.0.clone(),
            path,
            next: 0,
            parts: Arc::default(),
        }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let path = below(location);
        let act = |files: &mut Files| files.get(&path).cloned().ok_or(StoreFault::Missing);
        let content = self.0.run("get", &path, act).await.map_err(failed)?;
        let size = content.bytes.len() as u64;
        let range = match options.range {
            Some(range) => range.as_range(size).map_err(|error| Error::Generic {
                store: "scripted",
                source: Box::new(error),
            })?,
            None => 0..size,
        };
        let bytes = &content.bytes[range.start as usize..range.end as usize];
        let bytes = Bytes::copy_from_slice(bytes);
        let payload = futures::stream::once(async move { Ok(bytes) }).boxed();
        Ok(GetResult {
            payload: GetResultPayload::Stream(payload),
            meta: meta(location.clone(), size),
            range,
            attributes: content.attributes,
        })
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        let store = self.0.clone();
        let delete = move |location: Result<Path>| {
            let store = store.clone();
            async move {
                let location = location?;
                let path = below(&location);
                let name = path.clone();
                let act = move |files: &mut Files| {
                    files.remove(&path);
                    Ok(())
                };
                let done = store.run_late("delete", &name, act).await;
                done.map(|()| location).map_err(failed)
            }
        };
        locations.then(delete).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let store = self.0.clone();
        let folder = prefix.map(below).unwrap_or_default();
        let listed = async move {
            let prefix = match folder.as_str() {
                "" => String::new(),
                _ => format!("{folder}/"),
            };
            let act = |files: &mut Files| {
                let found = files.iter().filter(|(path, _)| path.starts_with(&prefix));
                let found = found.map(|(path, content)| {
                    let key = Path::parse(format!("{ROOT}/{path}"));
                    meta(key.expect("a key"), content.bytes.len() as u64)
                });
                Ok(found.collect::<Vec<_>>())
            };
            match store.run("list", &folder, act).await {
                Ok(found) => found.into_iter().map(Ok).collect(),
                Err(error) => vec![Err(failed(error))],
            }
        };
        let listed = listed.into_stream().map(futures::stream::iter);
        listed.flatten().boxed()
    }

    async fn list_with_delimiter(&self, _prefix: Option<&Path>) -> Result<ListResult> {
        Err(Error::NotImplemented {
            operation: "list_with_delimiter".into(),
            implementer: self.to_string(),
        })
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        let (source, target) = (below(from), below(to));
        let name = source.clone();
        let act = move |files: &mut Files| {
            let content = files.get(&source).ok_or(StoreFault::Missing)?;
            let (bytes, attributes) = (content.bytes.clone(), content.attributes.clone());
            let mode = match options.mode {
                CopyMode::Create => PutMode::Create,
                CopyMode::Overwrite => PutMode::Overwrite,
            };
            put(files, target, bytes, attributes, &mode)
        };
        self.0.run_late("copy", &name, act).await.map_err(failed)
    }
}

fn meta(location: Path, size: u64) -> ObjectMeta {
    ObjectMeta {
        location,
        last_modified: chrono::DateTime::UNIX_EPOCH,
        size,
        e_tag: None,
        version: None,
    }
}

#[derive(Debug)]
struct ScriptedUpload {
    store: ScriptedStore,
    path: String,
    next: usize,
    parts: Arc<Mutex<Vec<(usize, Vec<u8>)>>>,
}

#[async_trait]
impl MultipartUpload for ScriptedUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let (store, path, parts) = (
            self.store.clone(),
            self.path.clone(),
            Arc::clone(&self.parts),
        );
        let number = self.next;
        self.next += 1;
        let part = async move {
            let act = |_: &mut Files| {
                parts.lock().push((number, bytes_of(data)));
                Ok(())
            };
            store.run("put a part of", &path, act).await.map_err(failed)
        };
        part.boxed()
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let (path, parts) = (self.path.clone(), Arc::clone(&self.parts));
        let act = move |files: &mut Files| {
            let mut parts = std::mem::take(&mut *parts.lock());
            parts.sort_unstable();
            let bytes = parts.into_iter().flat_map(|(_, part)| part).collect();
            let mode = PutMode::Overwrite;
            put(files, path, bytes, Attributes::new(), &mode)
        };
        let done = self.store.run_late("complete", &self.path, act).await;
        done.map(|()| result()).map_err(failed)
    }

    // Not an operation of the script: nobody waits for it.
    async fn abort(&mut self) -> Result<()> {
        self.parts.lock().clear();
        Ok(())
    }
}
