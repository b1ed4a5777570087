//! Has archives looked after while the engine runs.
//!
//! Invariant: each archive is looked after by one task at a time, and one that fails or takes long holds up no other.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::sync::watch;

use super::{Archive, report};
use crate::shared::Shared;

/// How often archives are looked at.
const UPKEEP_INTERVAL: Duration = Duration::from_secs(5);

/// Looks after the archives until the engine is gone, which this does not keep.
pub(crate) async fn keep_up(shared: Weak<Shared>, mut progress: watch::Receiver<u64>) {
    let mut looks = tokio::time::interval(UPKEEP_INTERVAL);
    // The first one is at once, when hardly anything is there yet.
    looks.tick().await;
    loop {
        tokio::select! {
            _ = looks.tick() => {}
            // Whatever happens, it is waited on; this ends when nothing can happen any more.
            _ = progress.wait_for(|_| false) => return,
        }
        let Some(shared) = shared.upgrade().filter(|shared| !shared.is_stopping()) else {
            return;
        };
        let archives: Vec<_> = shared.archives.read().values().cloned().collect();
        for archive in archives {
            if !archive.in_upkeep.swap(true, Ordering::SeqCst) {
                shared.wires.spawn(look_after(archive));
            }
        }
    }
}

async fn look_after(archive: Arc<Archive>) {
    let done = InUpkeep(&archive);
    let failure = archive.table.upkeep().await.err();
    let reason = failure.map(|error| {
        let report = report(error);
        match report.detail {
            Some(detail) => format!("{}: {detail}", report.message),
            None => report.message,
        }
    });
    let before = std::mem::replace(&mut *archive.put_off.lock(), reason.clone());
    // A store that is away for hours says the same every time.
    if before != reason
        && let Some(reason) = &reason
    {
        tracing::warn!(archive = %archive.name, %reason, "upkeep of an archive is put off");
    }
    drop(done);
}

/// Ends the upkeep of an archive, however it does.
struct InUpkeep<'a>(&'a Archive);

impl Drop for InUpkeep<'_> {
    fn drop(&mut self) {
        self.0.in_upkeep.store(false, Ordering::SeqCst);
    }
}
