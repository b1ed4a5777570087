//! The runs of all state tables: written, committed, read back and merged under one manifest.
//!
//! Invariant: a run counts from the transaction on that names it, together with the cut of the log that it replaces; until then,
//! and after the transaction that no longer names it, its file is rubbish that may be removed. A file is removed only when no
//! committed manifest names it.

mod apart;
mod back_up;
mod commit;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use redb::ReadableTable;

use crate::codec::{WeightedBatch, unsealed};
use crate::compact::{self, Choice};
use crate::error::StateError;
use crate::folder::DataDir;
use crate::io::Disk;
use crate::manifest::{
    CHECKPOINT, CheckpointInfo, JOBS, Newest, STATE_PARTS, STATE_RUNS, StatePart, TableRuns,
};
use crate::point::{CrashPoints, Point};
use crate::run::{Run, RunInfo, RunShape, RunWriter, run_number, run_path, sorted};
use crate::spill::SpillFolder;
use crate::store::Store;

use self::commit::write_manifest;
pub use self::commit::{Checkpoint, JobRecord, Save};

/// Changes that go into one run: their rows are sorted in memory.
const RUN_CHANGE_BYTES: usize = 256 << 20;

/// The runs of a data dir.
#[derive(Debug, Clone)]
pub struct Runs {
    inner: Arc<Inner>,
    spill: Arc<SpillFolder>,
}

#[derive(Debug)]
struct Inner {
    store: Store,
    disk: Arc<dyn Disk>,
    folder: PathBuf,
    points: CrashPoints,
    /// Held while a transaction changes the manifest: it may be long until it is known what became of one, and whoever only looks at
    /// the state does not wait for that.
    turn: Mutex<()>,
    state: Mutex<State>,
    /// Nothing is written any more.
    stopped: AtomicBool,
}

#[derive(Debug, Default)]
struct State {
    newest: Newest,
    tables: BTreeMap<StatePart, TableRuns>,
    /// Tables whose record cannot be read; their files are unknown, so no file is removed.
    broken: BTreeMap<StatePart, String>,
    /// Files that are being written or wait for their transaction.
    under_way: BTreeSet<u64>,
    /// Files that no manifest names any more.
    rubbish: BTreeSet<u64>,
    /// First of the runs of a table that must stay as they are.
    held: BTreeMap<StatePart, u64>,
    /// Backups that are being made; meanwhile no file is removed.
    pins: usize,
    /// What merges have read and written, by the level of what they wrote.
    merged: BTreeMap<u8, Merged>,
}

/// Bytes that went into the runs of one level, and that came out.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Merged {
    /// Of the runs that were merged.
    pub read: u64,
    /// Of the runs that were made of them: fewer, where rows cancel.
    pub written: u64,
}

/// A finished run that no manifest names yet. When the last of its copies is dropped before one does, its file goes.
#[derive(Debug, Clone)]
pub struct NewRun {
    file: Arc<RunFile>,
}

#[derive(Debug)]
struct RunFile {
    inner: Arc<Inner>,
    info: RunInfo,
    kept: AtomicBool,
}

impl NewRun {
    /// What was written.
    pub fn info(&self) -> &RunInfo {
        &self.file.info
    }

    /// A manifest names it, whose state this is.
    fn keep(&self, state: &mut State) {
        self.file.kept.store(true, Ordering::SeqCst);
        state.under_way.remove(&self.file.info.number);
    }
}

impl Drop for RunFile {
    fn drop(&mut self) {
        if !self.kept.load(Ordering::SeqCst) {
            self.inner.abandon(self.info.number);
        }
    }
}

impl Runs {
    /// Opens the runs of a data dir and removes the files that its manifest does not name.
    ///
    /// # Errors
    /// When the database or the folder cannot be read. A damaged record of one table is that table's error, later.
    pub fn open(dir: &DataDir, store: &Store) -> Result<Self, StateError> {
        let inner = Inner {
            store: store.clone(),
            disk: Arc::clone(&dir.disk),
            folder: dir.runs(),
            points: dir.points.clone(),
            turn: Mutex::default(),
            state: Mutex::new(State::default()),
            stopped: AtomicBool::new(false),
        };
        let state = inner.read_manifest()?;
        inner.sweep(&state)?;
        *inner.state() = state;
        Ok(Self {
            spill: Arc::new(SpillFolder::open(Arc::clone(&dir.disk), dir.spill())?),
            inner: Arc::new(inner),
        })
    }

    /// Bytes that are free on the disk they are on.
    ///
    /// # Errors
    /// What the disk reports.
    pub fn free_bytes(&self) -> Result<u64, StateError> {
        self.inner.free_bytes()
    }

    /// Where state goes that does not fit into memory, until the process ends.
    pub fn spill(&self) -> Arc<SpillFolder> {
        Arc::clone(&self.spill)
    }

    /// The newest checkpoint; number 0 when there has been none.
    pub fn newest(&self) -> CheckpointInfo {
        self.inner.state().newest.info
    }

    /// What the manifest says about a table.
    ///
    /// # Errors
    /// `Corrupt` when its record cannot be read.
    pub fn table(&self, table: impl Into<StatePart>) -> Result<TableRuns, StateError> {
        let table = table.into();
        let state = self.inner.state();
        if let Some(reason) = state.broken.get(&table) {
            return Err(StateError::corrupt(
                format!("the manifest of table {table}"),
                reason,
            ));
        }
        Ok(state.tables.get(&table).cloned().unwrap_or_default())
    }

    /// Objects that have a record.
    pub fn tables(&self) -> Vec<u32> {
        let state = self.inner.state();
        let parts = state.tables.keys().chain(state.broken.keys());
        let objects: BTreeSet<u32> = parts.map(|part| part.object).collect();
        objects.into_iter().collect()
    }

    /// Where the jobs stood at their newest checkpoints. A record that is damaged is its job's error.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn jobs(&self) -> Result<BTreeMap<u32, Result<Vec<u8>, StateError>>, StateError> {
        let txn = self.inner.store.read()?;
        let jobs = txn.open_table(JOBS).map_err(redb::Error::from)?;
        let mut records = BTreeMap::new();
        for item in jobs.iter().map_err(redb::Error::from)? {
            let (job, bytes) = item.map_err(redb::Error::from)?;
            let job = job.value();
            let name = || format!("the record of job {job}");
            let record = unsealed(bytes.value())
                .map(<[u8]>::to_vec)
                .map_err(|reason| StateError::corrupt(name(), reason));
            records.insert(job, record);
        }
        Ok(records)
    }

    /// Opens the runs of a table, oldest first.
    ///
    /// # Errors
    /// `Corrupt`, naming the file, when one is missing or damaged.
    pub fn open_table(
        &self,
        table: impl Into<StatePart>,
        shape: &RunShape,
    ) -> Result<Vec<Run>, StateError> {
        let runs = self.table(table)?.runs;
        runs.iter()
            .map(|info| self.inner.open_run(info, shape))
            .collect()
    }

    /// Reads the content of a table: the net rows of its runs.
    ///
    /// # Errors
    /// As for opening it, and what `take` reports.
    pub fn read_table<E: From<StateError>>(
        &self,
        table: impl Into<StatePart>,
        shape: &RunShape,
        mut take: impl FnMut(WeightedBatch) -> Result<(), E>,
    ) -> Result<(), E> {
        let runs = self.open_table(table, shape)?;
        if let [run] = runs.as_slice() {
            // Nothing cancels inside of one run.
            return run.scan().try_for_each(|rows| take(rows?));
        }
        compact::merge(&runs, shape, || Ok(()), |picked| take(picked.into()))
    }

    /// Has what is being written given up, and refuses what comes later: nobody waits for a long run when the server stops.
    pub fn stop(&self) {
        self.inner.stopped.store(true, Ordering::SeqCst);
    }

    /// Writes changes as runs, on disk when this returns, that count once they are committed.
    ///
    /// # Errors
    /// When a file cannot be written, and `Cancelled` after [`Runs::stop`]; nothing is left of it then.
    pub fn write(
        &self,
        shape: &RunShape,
        changes: &[WeightedBatch],
    ) -> Result<Vec<NewRun>, StateError> {
        let mut written = Vec::new();
        let mut rest = changes;
        while !rest.is_empty() {
            let mut bytes = 0;
            let part = rest.iter().take_while(|change| {
                let before = bytes;
                bytes += change.batch.get_array_memory_size();
                before == 0 || bytes <= RUN_CHANGE_BYTES
            });
            let (part, later) = rest.split_at(part.count().max(1).min(rest.len()));
            written.extend(self.inner.write_run(shape, 0, |writer| {
                sorted(part, shape, &mut |picked| {
                    self.inner.go_on()?;
                    writer.write(picked)
                })
            })?);
            rest = later;
        }
        Ok(written)
    }

    /// Passes the place after a commit; its caller has taken over what was committed.
    ///
    /// # Errors
    /// Only when a test asks for one.
    pub fn committed(&self) -> Result<(), StateError> {
        self.inner.hit(Point::ManifestDone)
    }

    /// What merges have read and written since the runs were opened, by the level of what they wrote.
    pub fn merged(&self) -> BTreeMap<u8, Merged> {
        self.inner.state().merged.clone()
    }

    /// Merges runs of one table when that is worth while; `shape_of` gives the shapes of tables that may be merged. `None`
    /// when there was nothing to do.
    ///
    /// # Errors
    /// What reading or writing reports, with the table it happened to. The old runs stay in force.
    pub fn merge_once(
        &self,
        disk_reserve: u64,
        shape_of: impl Fn(StatePart) -> Option<RunShape>,
        cancelled: &dyn Fn() -> bool,
    ) -> Result<Option<StatePart>, (StatePart, StateError)> {
        let tables: Vec<(StatePart, TableRuns)> = {
            let state = self.inner.state();
            let tables = state.tables.iter();
            tables.map(|(table, runs)| (*table, runs.clone())).collect()
        };
        for (table, runs) in tables {
            let held = self.inner.state().held.get(&table).copied();
            let free = runs.runs.iter().take_while(|run| Some(run.number) != held);
            let free: Vec<RunInfo> = free.cloned().collect();
            let Some(choice) = compact::choose(&free) else {
                continue;
            };
            let Some(shape) = shape_of(table) else {
                continue;
            };
            let merged = self
                .inner
                .has_room(&choice, disk_reserve)
                .and_then(|room| match room {
                    true => self
                        .inner
                        .merge(table, &shape, &choice, cancelled)
                        .map(Some),
                    false => Ok(None),
                });
            match merged {
                Ok(Some(())) => return Ok(Some(table)),
                Ok(None) => {}
                Err(error) => return Err((table, error)),
            }
        }
        Ok(None)
    }

    /// Removes the files of dropped tables and of merged runs.
    ///
    /// # Errors
    /// When the database cannot be read or a file not be removed; what is left is removed another time.
    pub fn collect(&self) -> Result<(), StateError> {
        let inner = &self.inner;
        let named = inner.named_tables()?;
        let mut state = inner.state();
        let gone: Vec<StatePart> = state
            .tables
            .keys()
            .chain(state.broken.keys())
            .filter(|table| inner.store.is_forgotten(table.object) && !named.contains(table))
            .copied()
            .collect();
        for table in gone {
            let runs = state.tables.remove(&table).unwrap_or_default().runs;
            state.rubbish.extend(runs.iter().map(|run| run.number));
            state.broken.remove(&table);
        }
        if !state.broken.is_empty() || state.pins > 0 {
            return Ok(());
        }
        while let Some(number) = state.rubbish.first().copied() {
            inner.remove(number)?;
            state.rubbish.remove(&number);
        }
        Ok(())
    }
}

impl State {
    fn read(&mut self, table: StatePart, bytes: &[u8]) -> Result<(), StateError> {
        match TableRuns::decode(table, bytes) {
            Ok(runs) => drop(self.tables.insert(table, runs)),
            Err(StateError::Corrupt { reason, .. }) => drop(self.broken.insert(table, reason)),
            Err(error) => return Err(error),
        }
        Ok(())
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn turn(&self) -> MutexGuard<'_, ()> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn go_on(&self) -> Result<(), StateError> {
        match self.stopped.load(Ordering::SeqCst) {
            true => Err(StateError::Cancelled),
            false => Ok(()),
        }
    }

    fn hit(&self, point: Point) -> Result<(), StateError> {
        self.points
            .hit(point)
            .map_err(StateError::file(format!("pass {}", point.name())))
    }

    fn read_manifest(&self) -> Result<State, StateError> {
        self.hit(Point::ManifestOpen)?;
        let mut state = State::default();
        let txn = self.store.read()?;
        let newest = txn.open_table(CHECKPOINT).map_err(redb::Error::from)?;
        if let Some(bytes) = newest.get(()).map_err(redb::Error::from)? {
            state.newest = Newest::decode(bytes.value())?;
        }
        let tables = txn.open_table(STATE_RUNS).map_err(redb::Error::from)?;
        for item in tables.iter().map_err(redb::Error::from)? {
            let (object, bytes) = item.map_err(redb::Error::from)?;
            state.read(object.value().into(), bytes.value())?;
        }
        let parts = txn.open_table(STATE_PARTS).map_err(redb::Error::from)?;
        for item in parts.iter().map_err(redb::Error::from)? {
            let (table, bytes) = item.map_err(redb::Error::from)?;
            let (object, part) = table.value();
            state.read(StatePart { object, part }, bytes.value())?;
        }
        Ok(state)
    }

    /// Tables that the committed manifest has a record of.
    fn named_tables(&self) -> Result<BTreeSet<StatePart>, StateError> {
        let txn = self.store.read()?;
        let tables = txn.open_table(STATE_RUNS).map_err(redb::Error::from)?;
        let mut named = BTreeSet::new();
        for item in tables.iter().map_err(redb::Error::from)? {
            named.insert(item.map_err(redb::Error::from)?.0.value().into());
        }
        let parts = txn.open_table(STATE_PARTS).map_err(redb::Error::from)?;
        for item in parts.iter().map_err(redb::Error::from)? {
            let (object, part) = item.map_err(redb::Error::from)?.0.value();
            named.insert(StatePart { object, part });
        }
        Ok(named)
    }

    /// Removes what a crash has left, and numbers new files above everything there ever was a trace of.
    fn sweep(&self, state: &State) -> Result<(), StateError> {
        let named: BTreeSet<u64> = state
            .tables
            .values()
            .flat_map(|table| &table.runs)
            .map(|run| run.number)
            .collect();
        let files = self
            .disk
            .list(&self.folder)
            .map_err(StateError::file(format!("list {}", self.folder.display())))?;
        if !state.broken.is_empty() {
            return Ok(());
        }
        for (name, _) in files {
            let Some(number) = run_number(&name) else {
                continue;
            };
            if !named.contains(&number) {
                self.hit(Point::SweepRemove)?;
                self.disk
                    .remove(&run_path(&self.folder, number))
                    .map_err(StateError::file(format!("remove {name}")))?;
            }
        }
        Ok(())
    }

    fn open_run(&self, info: &RunInfo, shape: &RunShape) -> Result<Run, StateError> {
        self.hit(Point::RunOpen)?;
        Run::open(self.disk.as_ref(), &self.folder, info, shape)
    }

    /// Writes one run, if it gets any rows, and makes its name durable.
    fn write_run(
        self: &Arc<Self>,
        shape: &RunShape,
        level: u8,
        fill: impl FnOnce(&mut RunWriter<'_>) -> Result<(), StateError>,
    ) -> Result<Option<NewRun>, StateError> {
        let number = {
            let mut state = self.state();
            let number = state.newest.next_file;
            state.newest.next_file += 1;
            state.under_way.insert(number);
            number
        };
        // From here on the file goes with this guard.
        let mut run = RunFile {
            inner: Arc::clone(self),
            info: RunInfo {
                number,
                bytes: 0,
                tail: 0,
                tail_crc: 0,
                rows: 0,
                net: 0,
                level,
                buckets: (0, 0),
            },
            kept: AtomicBool::new(false),
        };
        let (disk, folder) = (self.disk.as_ref(), &self.folder);
        let mut writer = RunWriter::create(disk, folder, number, shape, &self.points)?;
        fill(&mut writer)?;
        self.go_on()?;
        let Some(info) = writer.finish(level)? else {
            return Ok(None);
        };
        run.info = info;
        self.hit(Point::RunFolder)?;
        disk.sync_folder(folder)
            .map_err(StateError::file(format!("sync {}", folder.display())))?;
        Ok(Some(NewRun {
            file: Arc::new(run),
        }))
    }

    /// Gives a file up that no manifest names.
    fn abandon(&self, number: u64) {
        let mut state = self.state();
        state.under_way.remove(&number);
        state.rubbish.insert(number);
    }

    fn remove(&self, number: u64) -> Result<(), StateError> {
        self.hit(Point::RunRemove)?;
        let path = run_path(&self.folder, number);
        match self.disk.remove(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(StateError::file(
                format!("remove {}", path.display()),
            )(error)),
            _ => Ok(()),
        }
    }

    fn free_bytes(&self) -> Result<u64, StateError> {
        self.disk
            .free_bytes(&self.folder)
            .map_err(StateError::file("ask for free space"))
    }

    fn has_room(&self, choice: &Choice, disk_reserve: u64) -> Result<bool, StateError> {
        Ok(compact::has_room(
            choice.bytes,
            self.free_bytes()?,
            disk_reserve,
        ))
    }

    fn merge(
        self: &Arc<Self>,
        table: StatePart,
        shape: &RunShape,
        choice: &Choice,
        cancelled: &dyn Fn() -> bool,
    ) -> Result<(), StateError> {
        self.hit(Point::MergeBegin)?;
        let runs = choice
            .runs
            .iter()
            .map(|info| self.open_run(info, shape))
            .collect::<Result<Vec<_>, _>>()?;
        let merged = self.write_run(shape, choice.level, |writer| {
            let step = || {
                if cancelled() {
                    return Err(StateError::Cancelled);
                }
                self.hit(Point::MergeWrite)
            };
            compact::merge(&runs, shape, step, |picked| writer.write(Some(picked)))
        })?;
        self.replace(table, choice, merged)?;
        self.hit(Point::MergeDone)
    }

    /// Has the manifest name the merge in the place of what it was made from.
    fn replace(
        &self,
        table: StatePart,
        choice: &Choice,
        merged: Option<NewRun>,
    ) -> Result<(), StateError> {
        let _turn = self.turn();
        let txn = self.store.begin(true)?;
        let (known, newest) = {
            let state = self.state();
            (state.tables.get(&table).cloned(), state.newest)
        };
        let Some(mut runs) = known.filter(|_| !self.store.is_forgotten(table.object)) else {
            return Ok(());
        };
        let old: BTreeSet<u64> = choice.runs.iter().map(|run| run.number).collect();
        if !old
            .iter()
            .all(|old| runs.runs.iter().any(|run| run.number == *old))
        {
            // A save has replaced everything meanwhile.
            return Ok(());
        }
        let at = runs.runs.iter().position(|run| old.contains(&run.number));
        runs.runs.retain(|run| !old.contains(&run.number));
        if let Some(merged) = &merged {
            let at = at.unwrap_or(0).min(runs.runs.len());
            runs.runs.insert(at, merged.info().clone());
        }
        write_manifest(&txn, &newest, &[(table, runs.clone())])?;
        self.hit(Point::MergeCommit)?;
        txn.commit(None)?;
        let mut state = self.state();
        state.tables.insert(table, runs);
        state.rubbish.extend(old);
        let counted = state.merged.entry(choice.level).or_default();
        counted.read += choice.bytes;
        counted.written += merged.as_ref().map_or(0, |merged| merged.info().bytes);
        if let Some(merged) = merged {
            merged.keep(&mut state);
        }
        Ok(())
    }
}
