//! The engine's handle: what the server calls.
//!
//! Invariant: every call either takes effect at one epoch or fails with a report; dropping a call's future never leaves a change
//! half made. The futures are boxed: that they are Send is proved here once, not again at every depth of the callers' futures.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use datafusion::logical_expr::LogicalPlan;
use futures::FutureExt;
use futures::future::BoxFuture;
use parking_lot::Mutex;
use thalweg_catalog::{Catalog, Oid, Relation, Report};
use thalweg_connectors::{Clock, Epoch, EpochInfo, Vacuumed};
use thalweg_planner::{DmlPlan, Planner, ViewPlan};
use thalweg_state::{Backup, Copying, Runs, StateError, Store};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use crate::checkpoint;
use crate::config::{EngineConfig, STACK_BYTES};
use crate::create::{create, create_failed, receive};
use crate::error::EngineError;

use crate::inbox::Command;
use crate::job::{Job, schedule};
use crate::memory;
use crate::pause::settled;
use crate::read::{Read, ReadOptions, SessionFloor, epoch_of_now, read, reflected};
use crate::sealed::SealedArc;
use crate::shared::Shared;
use crate::sinks::{delivered, handed_over};
use crate::status::{ArchiveFile, EngineStatus, status};
use crate::subscription::{FollowOptions, Followed, Subscription, subscribe};
use crate::transaction::{Definitions, WriteTransaction, commit};
use crate::worker::Worker;
use crate::write::{Written, truncate, write};

/// A running engine; clones share it.
#[derive(Debug, Clone)]
pub struct Engine {
    inner: SealedArc<Inner>,
}

#[derive(Debug)]
struct Inner {
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Engine {
    /// Starts an engine over the logs. Objects are not loaded by this: call [`Engine::create`] for each, inputs first.
    ///
    /// `wires` runs connectors' requests and sinks; queries run on threads of the engine's own.
    ///
    /// # Errors
    /// XX001 when the epoch log is damaged, and whatever keeps threads from starting.
    pub fn open(
        config: EngineConfig,
        store: Arc<Store>,
        runs: Runs,
        planner: Arc<Planner>,
        clock: Arc<dyn Clock>,
        wires: Handle,
    ) -> Result<Engine, EngineError> {
        let last = match store.last_epoch()? {
            Some(record) => EpochInfo {
                epoch: Epoch(record.epoch),
                at_ms: record.at_ms,
            },
            None => EpochInfo {
                epoch: Epoch(0),
                at_ms: 0,
            },
        };
        let shared = Arc::new(Shared::new(
            config, store, runs, planner, clock, wires, last,
        )?);
        let (worker, jobs) = (Worker::new(Arc::clone(&shared)), Arc::clone(&shared));
        let (saving, merging) = (Arc::clone(&shared), Arc::clone(&shared));
        let watching = Arc::clone(&shared);
        let archives = crate::archive::keep_up(Arc::downgrade(&shared), shared.subscribe());
        drop(shared.wires.spawn(archives));
        let threads = vec![
            spawn("thalweg-worker", move || worker.run())?,
            spawn("thalweg-jobs", move || schedule(&jobs))?,
            spawn("thalweg-saves", move || checkpoint::save_on(&saving))?,
            spawn("thalweg-merges", move || checkpoint::merge_on(&merging))?,
            spawn("thalweg-memory", move || memory::watch(&watching))?,
        ];
        Ok(Engine {
            inner: SealedArc::new(Inner {
                shared,
                threads: Mutex::new(threads),
            }),
        })
    }

    fn shared(&self) -> &Arc<Shared> {
        &self.inner.shared
    }

    /// Starts an object, from what the logs hold for it. A view or sink needs its plan; its backfill goes on after this
    /// returns, and a read of the view waits for it.
    ///
    /// # Errors
    /// What the connector, the logs or a constraint's expression report.
    pub fn create(
        &self,
        catalog: &Catalog,
        relation: &Relation,
        view: Option<ViewPlan>,
    ) -> Result<EpochInfo, EngineError> {
        create(self.shared(), catalog, relation, view)
    }

    /// Takes the place of [`Engine::create`] for an object that could not be started: it is there, in state ERROR for `reason`,
    /// and whatever reads it says so. Its logs stay, for a start that succeeds.
    pub fn create_failed(&self, relation: &Relation, reason: &Report) {
        create_failed(self.shared(), relation, reason);
    }

    /// Forgets objects, their logs included. Unknown ones are ignored.
    pub fn drop_relations(&self, oids: &[Oid]) -> Result<(), EngineError> {
        self.shared()
            .external
            .write()
            .retain(|oid, _| !oids.contains(oid));
        self.shared()
            .archives
            .write()
            .retain(|oid, _| !oids.contains(oid));
        let (reply, answer) = oneshot::channel();
        self.shared().inbox.command(Command::Drop {
            oids: oids.to_vec(),
            reply,
        })?;
        receive(self.shared(), answer)?
    }

    /// Removes logs and runs of tables that the catalog does not know: left over when a crash came between the two halves of
    /// a DROP.
    pub fn forget_dropped(&self, catalog: &Catalog) -> Result<(), EngineError> {
        let mut gone = self.shared().store.logged_tables()?;
        gone.extend(self.shared().checkpoints.runs.tables());
        gone.retain(|table| catalog.relation(Oid(*table)).is_none());
        if gone.is_empty() {
            Ok(())
        } else {
            Ok(self.shared().store.forget(&gone)?)
        }
    }

    /// Runs a query at one epoch. `plan` has its parameters bound; `reads` are the relations in it. Tables show what `block`
    /// has staged; views do not.
    ///
    /// # Errors
    /// 55000 when an object is in state ERROR or late, 53200 when the query needs too much memory, and the query's own.
    pub fn read<'a>(
        &'a self,
        plan: &'a LogicalPlan,
        reads: &'a [Oid],
        floor: &'a mut SessionFloor,
        options: &'a ReadOptions,
        block: Option<&'a WriteTransaction>,
    ) -> BoxFuture<'a, Result<Read, EngineError>> {
        read(self.shared(), plan, reads, floor, options, block).boxed()
    }

    /// Runs INSERT, UPDATE or DELETE; returns when it is on disk and visible. With `block` it is only staged there, for later
    /// statements of the block.
    ///
    /// # Errors
    /// 23502, 23505, 23514 and 21000 for broken constraints, 40001 when another session changed what the block relies on, and
    /// the input's own.
    pub fn write<'a>(
        &'a self,
        plan: &'a DmlPlan,
        floor: &'a mut SessionFloor,
        options: &'a ReadOptions,
        block: Option<&'a mut WriteTransaction>,
    ) -> BoxFuture<'a, Result<Written, EngineError>> {
        write(self.shared(), plan, floor, options, block).boxed()
    }

    /// What a query asks outside systems for, a line for each table that they keep.
    ///
    /// # Errors
    /// What optimizing the plan reports.
    pub fn explain_external(&self, plan: &LogicalPlan) -> Result<Vec<String>, EngineError> {
        crate::external::explain(self.shared(), plan)
    }

    /// Which files of the archives among `reads` a query would read, a line for each scan.
    ///
    /// # Errors
    /// What the archives' stores, or optimizing the plan, report.
    pub fn explain_archives<'a>(
        &'a self,
        plan: &'a LogicalPlan,
        reads: &'a [Oid],
    ) -> BoxFuture<'a, Result<Vec<String>, EngineError>> {
        crate::archive::explain(self.shared(), plan, reads).boxed()
    }

    /// Looks at every archive, for [`Engine::archive_files`]; tells why some cannot be looked at.
    pub async fn look_at_archives(&self) -> Vec<Report> {
        let archives: Vec<_> = self.shared().archives.read().values().cloned().collect();
        let (mut files, mut failed) = (Vec::new(), Vec::new());
        for archive in archives {
            match archive.files().await {
                Ok(found) => files.extend(found),
                Err(error) => failed.push(error.report()),
            }
        }
        *self.shared().archive_files.lock() = files;
        failed
    }

    /// Makes large files of an archive's small ones.
    ///
    /// # Errors
    /// 42P01 when there is no such archive, 55000 when nobody writes it now, and what its store reports.
    pub fn vacuum_archive(&self, oid: Oid) -> BoxFuture<'_, Result<Vacuumed, EngineError>> {
        async move {
            let archive = self.shared().archives.read().get(&oid).cloned();
            let archive = archive.ok_or(EngineError::Unknown(oid))?;
            archive.vacuum().await
        }
        .boxed()
    }

    /// Files of all archives when they were last looked at.
    pub fn archive_files(&self) -> Vec<ArchiveFile> {
        self.shared().archive_files.lock().clone()
    }

    /// Follows a relation or query from an epoch on. Only epochs on disk are told of.
    ///
    /// # Errors
    /// 55000 when the changes from there on are not kept, or the relation is in state ERROR; 22023 for an epoch to come.
    pub fn subscribe<'a>(
        &'a self,
        followed: Followed,
        options: FollowOptions,
        floor: &'a mut SessionFloor,
    ) -> BoxFuture<'a, Result<Subscription, EngineError>> {
        subscribe(self.shared(), followed, options, floor).boxed()
    }

    /// Makes a table that `block` creates known to it, so that its later statements can write and read it.
    ///
    /// # Errors
    /// What a constraint's expression reports.
    pub fn stage_table(
        &self,
        block: &mut WriteTransaction,
        catalog: &Catalog,
        relation: &Relation,
    ) -> Result<(), EngineError> {
        block.create(self.shared(), catalog, relation)
    }

    /// Makes everything of a block durable and visible at one epoch: its rows and its definitions.
    ///
    /// # Errors
    /// 40001 when another session changed what the block relies on; then nothing has happened. Otherwise what building the
    /// new objects or the log reports, with the same effect.
    pub fn commit<'a>(
        &'a self,
        block: WriteTransaction,
        definitions: Option<Definitions>,
        floor: &'a mut SessionFloor,
    ) -> BoxFuture<'a, Result<Epoch, EngineError>> {
        async move {
            // What was told to go on is read where it has done so.
            let goes_on = |them: &Definitions| them.pause.iter().any(|(_, paused)| !paused);
            let wrote = !block.is_empty() || definitions.as_ref().is_some_and(goes_on);
            let info = commit(self.shared(), block, definitions).await?;
            if wrote {
                floor.raise(info.epoch.0);
            }
            Ok(info.epoch)
        }
        .boxed()
    }

    /// Removes all rows of a table; returns their number.
    pub fn truncate<'a>(
        &'a self,
        table: Oid,
        floor: &'a mut SessionFloor,
    ) -> BoxFuture<'a, Result<u64, EngineError>> {
        truncate(self.shared(), table, floor).boxed()
    }

    /// Returns when every view that is not in state ERROR reflects every write accepted so far, and so do the session's reads.
    pub fn flush<'a>(
        &'a self,
        floor: &'a mut SessionFloor,
    ) -> BoxFuture<'a, Result<(), EngineError>> {
        async move {
            let shared = self.shared();
            let epoch = shared.latest();
            let views: Vec<_> = shared
                .jobs
                .read()
                .values()
                // What keeps the rows of a source is waited for with the views that need it, if they are.
                .filter(|job| job.oid == job.relation.oid)
                .map(|job| Arc::clone(&job.relation))
                .collect();
            for view in views {
                match reflected(shared, std::slice::from_ref(&view), epoch).await {
                    Ok(_) => handed_over(shared, view.oid, epoch).await?,
                    Err(EngineError::Failed { .. }) => {}
                    Err(error) => return Err(error),
                }
            }
            floor.raise(epoch);
            Ok(())
        }
        .boxed()
    }

    /// Returns when the object reflects what its sources hold now; gives the epoch that does, which the session's reads are not
    /// older than.
    pub fn wait_for<'a>(
        &'a self,
        oid: Oid,
        floor: &'a mut SessionFloor,
    ) -> BoxFuture<'a, Result<Epoch, EngineError>> {
        async move {
            let shared = self.shared();
            let relation = shared.relation(oid).ok_or(EngineError::Unknown(oid))?;
            let unread = shared
                .sources
                .read()
                .get(&oid)
                .is_some_and(|source| source.state.lock().consumers.is_empty());
            if unread {
                return Ok(Epoch(shared.latest()));
            }
            let epoch = epoch_of_now(shared, &[oid], None).await?;
            reflected(shared, &[relation], epoch).await?;
            let outward = |job: &Arc<Job>| job.relation.kind == "sink" || job.log.get().is_some();
            if let Some(job) = shared.job(oid).filter(outward) {
                delivered(shared, &job, epoch).await?;
            }
            // What was paused meanwhile is seen at the epoch without reflecting it.
            if let Some(paused) = shared.paused(oid) {
                return Err(paused);
            }
            floor.raise(epoch);
            Ok(Epoch(epoch))
        }
        .boxed()
    }

    /// Returns when what [`Definitions::pause`] told to stand still does, or after a few seconds: a run that has begun is not broken
    /// off.
    pub fn settled(&self, oid: Oid) -> BoxFuture<'_, ()> {
        settled(self.shared(), oid).boxed()
    }

    /// Has a sink go on whose target holds other deliveries than this data dir knows of; its readers may see rows again.
    ///
    /// # Errors
    /// 42P01 when there is no such sink, 55000 when it delivers at least once and so never stops for that.
    pub fn resume_sink(&self, oid: Oid) -> Result<(), EngineError> {
        let shared = self.shared();
        let job = shared.job(oid).ok_or(EngineError::Unknown(oid))?;
        let Some(log) = job.log.get() else {
            let message = format!("{} is not paused", job.relation.label());
            return Err(Report::new("55000", message).into());
        };
        log.accept();
        shared.bump();
        Ok(())
    }

    /// Copies the data dir into a folder, after a checkpoint, while everything goes on. `others` copies the tables of the data file
    /// that are not the engine's.
    ///
    /// # Errors
    /// 55000 when the folder is not empty; what the disk reports.
    pub fn back_up<'a>(
        &'a self,
        folder: &Path,
        version: &'static str,
        others: impl FnOnce(&Copying<'_>) -> Result<(), StateError> + Send + 'static,
    ) -> BoxFuture<'a, Result<Backup, EngineError>> {
        let (shared, folder) = (Arc::clone(self.shared()), folder.to_path_buf());
        async move {
            let copy = move || {
                // It makes the copy smaller and the start from it quicker; what cannot be saved is in the logs.
                if let Err(error) = checkpoint::save_now(&shared) {
                    tracing::warn!("no checkpoint before a backup: {error}");
                }
                let taken_at_ms = shared.clock.now_us() / 1000;
                let runs = &shared.checkpoints.runs;
                runs.back_up(&folder, taken_at_ms, version, others)
            };
            let copied = self.shared().batch.handle().spawn_blocking(copy).await;
            Ok(crate::batch::joined(copied)??)
        }
        .boxed()
    }

    /// Makes a checkpoint now, without waiting for its time. False when nothing had changed.
    ///
    /// # Errors
    /// What writing the runs or the manifest reports; everything is in the logs then, as before.
    pub fn checkpoint(&self) -> Result<bool, EngineError> {
        checkpoint::save_now(self.shared())
    }

    /// Newest published epoch.
    pub fn latest(&self) -> EpochInfo {
        self.shared().latest_info()
    }

    /// What everything is doing.
    pub fn status(&self) -> EngineStatus {
        status(self.shared())
    }

    /// Finishes what was accepted, makes it durable, stops all threads and closes the logs. Blocks for at most `shutdown_wait`.
    pub fn shutdown(&self) {
        self.inner.stop();
        let deadline = Instant::now() + self.shared().config.shutdown_wait;
        let mut threads = std::mem::take(&mut *self.inner.threads.lock());
        threads.extend(
            self.shared()
                .sources
                .read()
                .values()
                .filter_map(|source| source.stop()),
        );
        for thread in threads {
            while !thread.is_finished() && Instant::now() < deadline {
                std::thread::park_timeout(Duration::from_millis(5));
            }
            // A driver that hangs in its client library must not keep the server from stopping.
            if thread.is_finished() && thread.join().is_err() {
                tracing::error!("an engine thread had stopped at a broken invariant");
            }
        }
        self.shared()
            .batch
            .stop(deadline.saturating_duration_since(Instant::now()));
        // A query or driver that outlives the deadline must not keep the file from being opened again.
        self.shared().store.close();
    }
}

impl Inner {
    fn stop(&self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        self.shared.inbox.close();
        self.shared.checkpoints.stop();
        self.shared.bump();
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.stop();
    }
}

fn spawn(name: &str, run: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, EngineError> {
    std::thread::Builder::new()
        .name(name.into())
        .stack_size(STACK_BYTES)
        .spawn(run)
        .map_err(EngineError::internal)
}
