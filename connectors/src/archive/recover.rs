//! How a writer takes over an archive: what an earlier one left is finished or swept, and the earlier one is shut out.
//!
//! Invariant: after a take-over the head of the archive is the new writer's, and nothing staged by others can become part of it.

use futures::StreamExt;

use super::decide::{Candidate, Head, Step, Verdict, Whereabouts, next_step, verdict, whereabouts};
use super::error::ArchiveError;
use super::manifest::{
    DataFile, MANIFEST_BYTES_MAX, Manifest, STAGING, Shape, manifest_path, staged_data,
    staged_generation, staging_folder,
};
use super::snapshot::Snapshot;
use super::vacuum::finish_exchanges;
use crate::store::{Moved, Store, StoreFault};

/// Files renamed or removed at the same time.
pub(super) const MOVES: usize = 32;
/// Others who take over in the same moment are given way this often.
const TRIES: usize = 64;

/// A staged commit that was found.
struct Found {
    candidate: Candidate,
    path: String,
    text: Vec<u8>,
    manifest: Option<Manifest>,
}

/// Takes over; `now_us` tells this writer's files apart from those of one that takes over at the same time. After the writer of
/// generation `last` nobody else may have taken over.
pub(crate) async fn take_over(
    store: &dyn Store,
    shape: &Shape,
    now_us: i64,
    last: Option<u64>,
) -> Result<Snapshot, ArchiveError> {
    for attempt in 0..TRIES {
        let mut snapshot = Snapshot::load(store).await?;
        if last.is_some_and(|last| snapshot.head().generation > last) {
            break;
        }
        let found = survey(store, snapshot.head()).await?;
        let candidates: Vec<Candidate> = found.iter().map(|found| found.candidate).collect();
        match next_step(snapshot.head(), &candidates) {
            Step::RollForward(at) => {
                if let Some((found, manifest)) = found
                    .get(at)
                    .and_then(|found| Some((found, found.manifest.as_ref()?)))
                {
                    // Whether it is ours or was finished by another who takes over: both are looked at again.
                    place(store, found.candidate.generation, &manifest.add).await?;
                    seal(store, &found.path, manifest.number, &found.text).await?;
                }
            }
            Step::Fence(head) => {
                let mut manifest = Manifest::new(head.number, head.generation, now_us / 1000);
                manifest.shape = Some(shape.clone());
                let text = manifest.encode()?;
                let name = format!("fence-{now_us}-{attempt}.json");
                let staged = format!("{}/{name}", staging_folder(head.generation));
                match write_whole(store, &staged, &text).await {
                    Ok(()) => {}
                    Err(error) if raced(&error) => continue,
                    Err(error) => return Err(error),
                }
                match store.publish(&staged, &manifest_path(head.number)).await {
                    Ok(Moved::Done) => {
                        snapshot.apply(manifest);
                        finish_exchanges(store, &snapshot).await?;
                        sweep(store, &snapshot, head, &found).await;
                        return Ok(snapshot);
                    }
                    Ok(Moved::Taken) => store.delete(&staged).await?,
                    Err(error) if error.fault == StoreFault::Missing => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
    }
    Err(ArchiveError::Fenced {
        archive: store.describe(),
    })
}

/// Another who takes over may use the same name, or sweep it.
fn raced(error: &ArchiveError) -> bool {
    matches!(error, ArchiveError::Store(error)
        if matches!(error.fault, StoreFault::Exists | StoreFault::Missing))
}

/// Every staged manifest; of one that may be finished, whether its commit is whole.
async fn survey(store: &dyn Store, head: Head) -> Result<Vec<Found>, ArchiveError> {
    let listed = store.list(STAGING).await?;
    let mut all = Vec::new();
    for entry in &listed {
        let Some(generation) = staged_generation(&entry.path) else {
            continue;
        };
        let name = entry.path.rsplit('/').next().unwrap_or_default();
        let number = name
            .strip_suffix(".json")
            .and_then(|digits| digits.parse().ok());
        let Some(number) = number else {
            continue;
        };
        let due = generation == head.generation && number == head.number + 1;
        let bytes = match due {
            true => store.mend(&entry.path).await?.unwrap_or(0),
            false => entry.bytes,
        };
        if bytes > MANIFEST_BYTES_MAX {
            continue;
        }
        let text = match store.read(&entry.path, 0..bytes).await {
            Ok(text) => text.to_vec(),
            // Swept or finished by another meanwhile, or never whole.
            Err(_) => continue,
        };
        let manifest = Manifest::decode(&entry.path, number, &text)
            .ok()
            .filter(|manifest| manifest.generation == generation);
        let whole = match &manifest {
            // Files that replace others come to their places after the commit, and nobody was told of one that is not.
            Some(manifest) if due && manifest.remove.is_empty() => {
                is_whole(store, manifest).await?
            }
            _ => false,
        };
        all.push(Found {
            candidate: Candidate {
                generation,
                number,
                whole,
            },
            path: entry.path.clone(),
            text,
            manifest,
        });
    }
    Ok(all)
}

/// True when every file of a staged commit is there at its stated length, for good.
async fn is_whole(store: &dyn Store, manifest: &Manifest) -> Result<bool, ArchiveError> {
    for file in &manifest.add {
        let placed = store.length(&file.path).await?;
        let staged = staged_data(manifest.generation, &file.path);
        let staged = store.mend(&staged).await?;
        if whereabouts(file.bytes, staged, placed) == Whereabouts::Lost {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Moves staged files of a commit to their places; those that are there stay.
pub(crate) async fn place(
    store: &dyn Store,
    generation: u64,
    files: &[DataFile],
) -> Result<(), ArchiveError> {
    let moves = files.iter().map(|file| async move {
        let staged = staged_data(generation, &file.path);
        match store.rename(&staged, &file.path).await {
            Ok(Moved::Done) => Ok(()),
            // Names hold the writer's generation: what is there under one was placed for this commit.
            Ok(Moved::Taken) if store.length(&file.path).await? == Some(file.bytes) => Ok(()),
            Ok(Moved::Taken) => Err(ArchiveError::Damaged {
                path: file.path.clone(),
                detail: "Another file has its name.".into(),
            }),
            Err(error) if error.fault == StoreFault::Missing => {
                match store.length(&file.path).await? {
                    Some(bytes) if bytes == file.bytes => Ok(()),
                    _ => Err(ArchiveError::Store(error)),
                }
            }
            Err(error) => Err(error.into()),
        }
    });
    let moves: Vec<_> = moves.collect();
    let mut moves = futures::stream::iter(moves).buffer_unordered(MOVES);
    while let Some(moved) = moves.next().await {
        moved?;
    }
    Ok(())
}

/// Gives a staged manifest its number: the moment of the commit.
pub(crate) async fn seal(
    store: &dyn Store,
    staged: &str,
    number: u64,
    text: &[u8],
) -> Result<Verdict, ArchiveError> {
    let target = manifest_path(number);
    let moved = match store.publish(staged, &target).await {
        Ok(moved) => moved,
        // Somebody else has finished it, or swept it.
        Err(error) if error.fault == StoreFault::Missing => Moved::Taken,
        Err(error) => return Err(error.into()),
    };
    let found = match (moved, store.length(&target).await?) {
        (Moved::Taken, Some(bytes)) if bytes == text.len() as u64 => {
            Some(store.read(&target, 0..bytes).await?)
        }
        _ => None,
    };
    Ok(verdict(moved, found.as_deref(), text))
}

pub(crate) async fn write_whole(
    store: &dyn Store,
    path: &str,
    text: &[u8],
) -> Result<(), ArchiveError> {
    let mut file = store.create(path).await?;
    file.write(bytes::Bytes::copy_from_slice(text)).await?;
    file.close().await?;
    Ok(())
}

/// Removes what earlier writers staged, and files of theirs that were placed and never committed. What cannot be removed only
/// takes room.
async fn sweep(store: &dyn Store, snapshot: &Snapshot, head: Head, found: &[Found]) {
    let live: std::collections::HashSet<&str> = snapshot
        .files()
        .iter()
        .map(|file| file.path.as_str())
        .collect();
    let dead = |found: &&Found| found.candidate.generation < head.generation;
    for file in found
        .iter()
        .filter(dead)
        .filter_map(|found| found.manifest.as_ref())
        .flat_map(|manifest| &manifest.add)
        .filter(|file| !live.contains(file.path.as_str()))
    {
        if let Err(error) = store.delete(&file.path).await {
            tracing::warn!(%error, "a file of an earlier writer stays behind");
        }
    }
    let listed = match store.list(STAGING).await {
        Ok(listed) => listed,
        Err(error) => {
            tracing::warn!(%error, "what earlier writers staged stays behind");
            return;
        }
    };
    let generations: std::collections::BTreeSet<u64> = listed
        .iter()
        .filter_map(|entry| staged_generation(&entry.path))
        .filter(|generation| *generation < head.generation)
        .collect();
    for generation in generations {
        if let Err(error) = store.delete_folder(&staging_folder(generation)).await {
            tracing::warn!(%error, "what an earlier writer staged stays behind");
        }
    }
}
