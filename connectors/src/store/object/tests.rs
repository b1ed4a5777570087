//! A folder of objects: what a put that fails comes to, files in parts, reads, names that two want, and proof of conditions.

use std::sync::Arc;

use bytes::Bytes;
use object_store::memory::InMemory;
use object_store::{ObjectStore, ObjectStoreExt, PutPayload};
use proptest::prelude::*;
use uuid::Uuid;

use super::put::{Found, Outcome, outcome};
use super::{ObjectFolder, PIECE_BYTES, Parts, pieces};
use crate::store::scripted::{Fault, Kind, ScriptedStore};
use crate::store::{Moved, Store, StoreFault};

const PART: usize = 64;

fn folder(client: &Arc<dyn ObjectStore>, root: &str) -> ObjectFolder {
    ObjectFolder::of(Parts {
        client: Arc::clone(client),
        patient: Arc::clone(client),
        root: root.into(),
        shown: format!("s3://bucket/{root}"),
        process: Uuid::nil(),
        refused: "Ask.",
        part_bytes: PART,
        waiting_bytes_max: 2 * PART,
    })
}

fn in_memory() -> (Arc<dyn ObjectStore>, ObjectFolder) {
    let client: Arc<dyn ObjectStore> = Arc::new(InMemory::new());
    let folder = folder(&client, "lake/x");
    (client, folder)
}

async fn write(folder: &dyn Store, path: &str, bytes: &[u8]) {
    let mut file = folder.create(path).await.expect("a file");
    file.write(Bytes::copy_from_slice(bytes))
        .await
        .expect("bytes");
    file.close().await.expect("an end");
}

async fn content(folder: &dyn Store, path: &str) -> Option<Vec<u8>> {
    let length = folder.length(path).await.expect("an answer")?;
    let bytes = folder.read(path, 0..length).await.expect("bytes");
    Some(bytes.to_vec())
}

#[test]
fn a_put_that_fails_is_told_by_what_is_there() {
    use StoreFault::{Exists, Other, Unreachable};
    let (ours, theirs) = (Found::Object(Some("us")), Found::Object(Some("them")));
    for (fault, found, expected) in [
        (Exists, ours, Outcome::Ours),
        (Unreachable, ours, Outcome::Ours),
        (Other, ours, Outcome::Ours),
        (Exists, theirs, Outcome::Theirs),
        // It can never come to be there any more.
        (Unreachable, theirs, Outcome::Theirs),
        // Whoever made it left no mark.
        (Exists, Found::Object(None), Outcome::Theirs),
        (Exists, Found::Nothing, Outcome::Again),
        (Unreachable, Found::Nothing, Outcome::Unknown),
        (Other, Found::Nothing, Outcome::Unknown),
    ] {
        assert_eq!(outcome(fault, found, "us"), expected, "{fault:?} {found:?}");
    }
}

proptest! {
    #[test]
    fn a_file_is_the_bytes_that_were_written(
        writes in proptest::collection::vec(0_usize..200, 0..12),
        ends in any::<bool>(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        runtime.block_on(async {
            let (client, folder) = in_memory();
            let mut file = folder.create("a/b").await.expect("a file");
            let mut all = Vec::new();
            for length in writes {
                let bytes: Vec<u8> = (0..length).map(|at| (all.len() + at) as u8).collect();
                all.extend_from_slice(&bytes);
                file.write(bytes.into()).await.expect("bytes");
                let waiting = folder.waiting.load(std::sync::atomic::Ordering::Relaxed);
                assert!(waiting <= PART, "a file holds less than a part and the last one");
                assert_eq!(folder.length("a/b").await, Ok(None));
            }
            if ends {
                file.end().await.expect("an end");
            }
            file.close().await.expect("an end");
            assert_eq!(content(&folder, "a/b").await.expect("a file"), all);
            assert_eq!(folder.waiting.load(std::sync::atomic::Ordering::Relaxed), 0);
            assert!(client.head(&"lake/x/a/b".into()).await.is_ok());
        });
    }

    #[test]
    fn pieces_are_the_range(start in 0_u64..1 << 40, length in 0_u64..10 * PIECE_BYTES) {
        let mut at = start;
        for piece in pieces(start..start + length) {
            prop_assert_eq!(piece.start, at);
            prop_assert!(piece.end > piece.start && piece.end - piece.start <= PIECE_BYTES);
            at = piece.end;
        }
        prop_assert_eq!(at, start + length);
    }
}

#[tokio::test]
async fn a_dropped_file_leaves_nothing_and_gives_its_memory_back() {
    let (_, folder) = in_memory();
    let mut file = folder.create("a").await.expect("a file");
    file.write(vec![1; 5 * PART + 1].into())
        .await
        .expect("bytes");
    drop(file);
    assert_eq!(folder.waiting.load(std::sync::atomic::Ordering::Relaxed), 0);
    assert_eq!(folder.list("").await, Ok(vec![]));
}

#[tokio::test]
async fn files_that_wait_are_closed_when_there_are_too_many() {
    let (_, folder) = in_memory();
    let mut files = Vec::new();
    for name in ["a", "b", "c"] {
        let mut file = folder.create(name).await.expect("a file");
        file.write(vec![1; PART].into()).await.expect("bytes");
        file.end().await.expect("an end");
        files.push(file);
    }
    let there = |listed: Vec<crate::store::Entry>| -> Vec<String> {
        listed.into_iter().map(|entry| entry.path).collect()
    };
    assert_eq!(there(folder.list("").await.expect("a list")), ["c"]);
    for mut file in files {
        file.close().await.expect("an end");
    }
    assert_eq!(
        there(folder.list("").await.expect("a list")),
        ["a", "b", "c"]
    );
}

#[tokio::test]
async fn a_folder_is_a_prefix_of_whole_parts_of_keys() {
    let (client, folder) = in_memory();
    // A folder beside whose name begins in the same way, and what a console keeps in the place of a folder.
    for key in ["lake/x2/a", "lake/x", "lake/other"] {
        let payload = PutPayload::from_static(b"theirs");
        client.put(&key.into(), payload).await.expect("an object");
    }
    for path in ["b", "dt=a%2Fb c/ä", "dt=1/b", "dt=1/a", "dt=12/a"] {
        write(&folder, path, path.as_bytes()).await;
    }
    let listed = folder.list("").await.expect("a list");
    let paths: Vec<&str> = listed.iter().map(|entry| entry.path.as_str()).collect();
    assert_eq!(paths, ["b", "dt=1/a", "dt=1/b", "dt=12/a", "dt=a%2Fb c/ä"]);
    assert_eq!(listed[0].bytes, 1);
    folder.delete_folder("dt=1").await.expect("a deletion");
    folder.delete("dt=12/a").await.expect("a deletion");
    folder
        .delete("dt=12/a")
        .await
        .expect("a deletion of nothing");
    let listed = folder.list("").await.expect("a list");
    assert_eq!(listed.len(), 2);
    assert!(client.head(&"lake/x2/a".into()).await.is_ok());
    assert_eq!(folder.list("nowhere").await, Ok(vec![]));
}

#[tokio::test]
async fn a_range_that_is_not_all_there_is_an_error() {
    let (_, folder) = in_memory();
    write(&folder, "a", b"abcdef").await;
    assert_eq!(folder.read("a", 2..4).await, Ok(Bytes::from_static(b"cd")));
    assert_eq!(folder.read("a", 6..6).await, Ok(Bytes::new()));
    for range in [5..7, 0..u64::MAX, 6..7, 9..9, 0..PIECE_BYTES + 1] {
        let error = folder.read("a", range.clone()).await.expect_err("short");
        assert_eq!(error.fault, StoreFault::Other, "{range:?}");
    }
    for range in [0..0, 0..1] {
        let error = folder.read("b", range).await.expect_err("missing");
        assert_eq!(error.fault, StoreFault::Missing);
    }
    let large = vec![7; PIECE_BYTES as usize * 2 + 5];
    write(&folder, "large", &large).await;
    assert_eq!(content(&folder, "large").await, Some(large));
}

#[tokio::test]
async fn a_name_is_given_once() {
    let (_, folder) = in_memory();
    write(&folder, "_staging/1/a", b"same").await;
    write(&folder, "_staging/1/b", b"same").await;
    let first = folder.publish("_staging/1/a", "_manifest/1").await;
    assert_eq!(first, Ok(Moved::Done));
    // The same bytes are not the same put.
    let second = folder.publish("_staging/1/b", "_manifest/1").await;
    assert_eq!(second, Ok(Moved::Taken));
    let gone = folder.publish("_staging/1/a", "_manifest/2").await;
    assert_eq!(gone.expect_err("gone").fault, StoreFault::Missing);
    assert_eq!(content(&folder, "_staging/1/a").await, None);
    assert_eq!(content(&folder, "_staging/1/b").await, Some(b"same".into()));
    let error = folder.create("_manifest/1").await.err().expect("taken");
    assert_eq!(error.fault, StoreFault::Exists);
    // Of two who begin at once the one that closes first has it.
    let mut late = folder.create("c").await.expect("a file");
    write(&folder, "c", b"first").await;
    let error = late.close().await.expect_err("taken");
    assert_eq!(error.fault, StoreFault::Exists);
    assert_eq!(content(&folder, "c").await, Some(b"first".into()));
}

#[tokio::test]
async fn a_rename_moves_and_never_overwrites() {
    let (_, folder) = in_memory();
    write(&folder, "a", b"a").await;
    write(&folder, "b", b"b").await;
    assert_eq!(folder.rename("a", "b").await, Ok(Moved::Taken));
    assert_eq!(folder.rename("a", "c/d").await, Ok(Moved::Done));
    assert_eq!(content(&folder, "a").await, None);
    assert_eq!(content(&folder, "c/d").await, Some(b"a".into()));
    let error = folder.rename("a", "e").await.expect_err("missing");
    assert_eq!(error.fault, StoreFault::Missing);
}

/// At every request of a publish, in every way: what is told is what is there in the end.
#[tokio::test]
async fn a_publish_that_fails_tells_no_lie() {
    let late = [0, 1, 2, 5].map(Fault::Late);
    for fault in Fault::ALL.into_iter().chain(late) {
        for operation in 0.. {
            let script = ScriptedStore::of(Kind::Objects);
            let folder = script.store();
            write(folder.as_ref(), "_staging/1/a", b"ours").await;
            script.fail_at(operation, fault);
            let first = folder.publish("_staging/1/a", "_manifest/1").await;
            if script.is_waiting() {
                break;
            }
            let other = script.restarted().store();
            write(other.as_ref(), "_staging/1/b", b"theirs").await;
            let second = other.publish("_staging/1/b", "_manifest/1").await;
            // What is late comes by now.
            for _ in 0..6 {
                other.list("").await.expect("a list");
            }
            let found = content(other.as_ref(), "_manifest/1").await.expect("one");
            let at = format!("{fault:?} at request {operation}: {first:?}, {second:?}");
            match first {
                Ok(moved) => {
                    assert_eq!(moved, Moved::Done, "{at}");
                    assert_eq!(found, b"ours", "{at}");
                }
                Err(error) => {
                    let silent = [StoreFault::Exists, StoreFault::Missing];
                    assert!(!silent.contains(&error.fault), "{at}");
                }
            }
            let expected: &[u8] = match second {
                Ok(Moved::Done) => b"theirs",
                _ => b"ours",
            };
            assert_eq!(found, expected, "{at}");
            assert!(operation < 50, "the publish never ends");
        }
    }
}

/// At every request of a file in parts, in every way: it is whole or not there, and told so.
#[tokio::test]
async fn a_file_that_fails_is_not_there_in_part() {
    let late = [0, 1, 3].map(Fault::Late);
    for fault in Fault::ALL.into_iter().chain(late) {
        for operation in 0.. {
            let script = ScriptedStore::of(Kind::Objects);
            let folder = script.store();
            script.fail_at(operation, fault);
            let bytes = vec![3; 2000];
            let written = async {
                let mut file = folder.create("a").await?;
                let written = match file.write(bytes.clone().into()).await {
                    Ok(()) => file.close().await,
                    Err(error) => Err(error),
                };
                // What failed once is not made up of the rest.
                if written.is_err() {
                    file.close().await.expect_err("broken");
                }
                written
            };
            let written = written.await;
            if script.is_waiting() {
                break;
            }
            let other = script.restarted().store();
            let found = content(other.as_ref(), "a").await;
            let at = format!("{fault:?} at request {operation}: {written:?}");
            match found {
                Some(found) => assert_eq!(found, bytes, "{at}"),
                None => assert!(written.is_err(), "{at}"),
            }
        }
    }
}

/// A store that does not know conditions.
mod heedless {
    use super::*;
    use async_trait::async_trait;
    use futures::stream::BoxStream;
    use object_store::path::Path;
    use object_store::{
        CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, PutMode,
        PutMultipartOptions, PutOptions, PutResult, Result,
    };

    #[derive(Debug, Default)]
    pub(super) struct Heedless(InMemory);

    impl std::fmt::Display for Heedless {
        fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            formatter.write_str("Heedless")
        }
    }

    #[async_trait]
    impl ObjectStore for Heedless {
        async fn put_opts(
            &self,
            location: &Path,
            payload: PutPayload,
            mut options: PutOptions,
        ) -> Result<PutResult> {
            options.mode = PutMode::Overwrite;
            self.0.put_opts(location, payload, options).await
        }

        async fn put_multipart_opts(
            &self,
            location: &Path,
            options: PutMultipartOptions,
        ) -> Result<Box<dyn MultipartUpload>> {
            self.0.put_multipart_opts(location, options).await
        }

        async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
            self.0.get_opts(location, options).await
        }

        fn delete_stream(
            &self,
            locations: BoxStream<'static, Result<Path>>,
        ) -> BoxStream<'static, Result<Path>> {
            self.0.delete_stream(locations)
        }

        fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
            self.0.list(prefix)
        }

        async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
            self.0.list_with_delimiter(prefix).await
        }

        async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
            self.0.copy_opts(from, to, options).await
        }
    }
}

#[tokio::test]
async fn a_store_that_overwrites_in_spite_of_conditions_keeps_no_archive() {
    let client: Arc<dyn ObjectStore> = Arc::new(heedless::Heedless::default());
    let folder = folder(&client, "lake/x");
    write(&folder, "_staging/1/a", b"ours").await;
    let error = folder.publish("_staging/1/a", "_manifest/1").await;
    let error = error.expect_err("unfit");
    assert_eq!(
        (error.fault, error.sqlstate()),
        (StoreFault::Unfit, "0A000")
    );
    let listed = folder.list("").await.expect("a list");
    assert_eq!(
        listed.len(),
        1,
        "the proof leaves nothing behind: {listed:?}"
    );
}
