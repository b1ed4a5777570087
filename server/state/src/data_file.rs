//! The data file while it is in use: its transactions, and how it is opened again after a failure.
//!
//! Invariant: one transaction writes at a time, and `commit` tells what is true: what it called done is in the file from then on,
//! what it called failed never is. A commit that ended in an error is decided by what the file holds when it is opened again, before
//! anyone else writes. What was committed without waiting for the disk is written again then, so that nothing seen is lost.

use std::collections::HashSet;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use redb::{
    Database, Durability, ReadTransaction, ReadableDatabase, TableDefinition, WriteTransaction,
};

use crate::error::StateError;
use crate::folder::database;
use crate::io::{Disk, DiskFile};
use crate::point::{CrashPoints, Point};

/// The number of the newest durable commit: what tells one that arrived from one that did not.
pub(crate) const COMMITS: TableDefinition<'_, (), u64> = TableDefinition::new("commits");

/// How long the file is left alone after it could not be opened again: at first, and at most.
const WAIT_MIN: Duration = Duration::from_millis(20);
const WAIT_MAX: Duration = Duration::from_secs(2);

/// Bytes that are written again at a time.
const REWRITE_BYTES: usize = 1 << 20;

/// What has failed on one opened file. From the first failure on nothing goes to the file through it any more.
#[derive(Debug, Default)]
pub(crate) struct Health {
    failed: AtomicBool,
    first: Mutex<Option<(io::ErrorKind, String)>>,
    lost_sync: AtomicBool,
}

impl Health {
    pub(crate) fn has_failed(&self) -> bool {
        self.failed.load(Ordering::SeqCst)
    }

    pub(crate) fn fail(&self, error: &io::Error) {
        let mut first = self.first.lock().unwrap_or_else(PoisonError::into_inner);
        first.get_or_insert_with(|| (error.kind(), error.to_string()));
        self.failed.store(true, Ordering::SeqCst);
    }

    /// A sync failed: what was written before may be on disk or not, whatever a read says.
    pub(crate) fn lose_sync(&self) {
        self.lost_sync.store(true, Ordering::SeqCst);
    }

    fn first(&self) -> Option<io::Error> {
        let first = self.first.lock().unwrap_or_else(PoisonError::into_inner);
        first.clone().map(|(kind, text)| io::Error::new(kind, text))
    }
}

/// Where the file is, to open it again.
#[derive(Debug, Clone)]
pub(crate) struct Home {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) path: PathBuf,
    /// Of the database that is open.
    pub(crate) health: Arc<Health>,
}

/// Writes what a commit without waiting for the disk has written.
pub(crate) type Redo = Box<dyn Fn(&WriteTransaction) -> Result<(), StateError> + Send>;

pub(crate) struct DataFile {
    home: Option<Home>,
    points: CrashPoints,
    state: Mutex<State>,
    changed: Condvar,
    /// Objects that were dropped since the file was opened; a checkpoint that is under way must not bring one back. One is added
    /// while the transaction that drops it writes, so whoever begins a later one finds it.
    forgotten: Mutex<HashSet<u32>>,
}

struct State {
    /// `None` while it has to be opened again, and once closed.
    database: Option<Arc<Database>>,
    health: Arc<Health>,
    closed: bool,
    /// A transaction writes, or one whose commit failed is being decided.
    writing: bool,
    /// The newest commit that is known to be in the file.
    acknowledged: u64,
    /// The commit of which that is not known, if any.
    in_doubt: Option<u64>,
    /// The newest number that a commit was given.
    numbered: u64,
    /// Whether the last commit that was in doubt is in the file.
    decided: Option<(u64, bool)>,
    /// What was committed since the newest durable commit.
    redo: Vec<Redo>,
    /// What has been written must be written again before it counts as durable.
    rewrite: bool,
    failure: Option<Failure>,
}

/// Why the file cannot be used.
struct Failure {
    kind: io::ErrorKind,
    text: String,
    next_try: Instant,
    wait: Duration,
}

impl Failure {
    fn told(&self) -> StateError {
        let error = io::Error::new(self.kind, self.text.clone());
        StateError::file("write the data file")(error)
    }
}

/// A transaction that writes; dropping it undoes it.
pub(crate) struct Write<'a> {
    txn: WriteTransaction,
    turn: Turn<'a>,
}

/// Keeps others from writing.
struct Turn<'a> {
    file: &'a DataFile,
    /// The number of the commit; `None` when it does not wait for the disk.
    number: Option<u64>,
    /// It has begun to commit, and did not come back.
    committing: bool,
    /// Objects that are there again should it come to nothing.
    forgets: Vec<u32>,
}

impl DataFile {
    pub(crate) fn new(
        database: Arc<Database>,
        home: Option<Home>,
        points: CrashPoints,
    ) -> Result<Self, StateError> {
        let newest = newest_commit(&database)?;
        let health = home.as_ref().map(|home| Arc::clone(&home.health));
        Ok(Self {
            home,
            points,
            state: Mutex::new(State {
                database: Some(database),
                health: health.unwrap_or_default(),
                closed: false,
                writing: false,
                acknowledged: newest,
                in_doubt: None,
                numbered: newest,
                decided: None,
                redo: Vec::new(),
                rewrite: false,
                failure: None,
            }),
            changed: Condvar::new(),
            forgotten: Mutex::default(),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        let wait = state.failure.as_ref().map_or(WAIT_MAX, |failure| {
            failure.next_try.saturating_duration_since(Instant::now())
        });
        let waited = self.changed.wait_timeout(state, wait.max(WAIT_MIN));
        waited.unwrap_or_else(PoisonError::into_inner).0
    }

    /// Lets go of the database. Whoever waits is told so; so is whoever comes later.
    pub(crate) fn close(&self) {
        let mut state = self.state();
        state.closed = true;
        let database = state.database.take();
        drop(state);
        self.changed.notify_all();
        drop(database);
    }

    fn forgotten(&self) -> MutexGuard<'_, HashSet<u32>> {
        self.forgotten
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether an object was dropped since the file was opened.
    pub(crate) fn is_forgotten(&self, object: u32) -> bool {
        self.forgotten().contains(&object)
    }

    /// Why nothing can be written now, if it was tried.
    pub(crate) fn failure(&self) -> Option<StateError> {
        self.state().failure.as_ref().map(Failure::told)
    }

    /// A view of what is committed.
    pub(crate) fn read(&self) -> Result<ReadTransaction, StateError> {
        let database = {
            let mut state = self.state();
            self.usable(&mut state)?
        };
        Ok(database.begin_read().map_err(redb::Error::from)?)
    }

    /// Begins to write, when nobody else does.
    pub(crate) fn begin(&self, durable: bool) -> Result<Write<'_>, StateError> {
        let mut state = self.state();
        while state.writing && state.failure.is_none() && !state.closed {
            state = self.wait(state);
        }
        let database = self.usable(&mut state)?;
        let number = durable.then(|| {
            state.numbered += 1;
            state.numbered
        });
        let txn = begin(&database, number);
        let txn = txn.map_err(|error| state.told(error))?;
        state.writing = true;
        let turn = Turn {
            file: self,
            number,
            committing: false,
            forgets: Vec::new(),
        };
        Ok(Write { txn, turn })
    }

    /// The database, opened again when it has failed and that can be tried.
    fn usable(&self, state: &mut State) -> Result<Arc<Database>, StateError> {
        if state.closed {
            return Err(StateError::Closed);
        }
        if state.has_failed() {
            if state.writing {
                return Err(state.told(StateError::Closed));
            }
            self.repair(state)?;
        }
        state.database.clone().ok_or(StateError::Closed)
    }

    /// Opens the file again, unless that was tried a moment ago.
    fn repair(&self, state: &mut State) -> Result<(), StateError> {
        if let Some(failure) = &state.failure
            && Instant::now() < failure.next_try
        {
            return Err(failure.told());
        }
        let Some(home) = &self.home else {
            return Err(state.told(StateError::Closed));
        };
        match state.reopen(home) {
            Ok(()) => {
                tracing::warn!("the data file was opened again after a failure");
                state.failure = None;
                Ok(())
            }
            Err(error) => {
                state.fail(&error);
                Err(error)
            }
        }
    }

    /// Waits until the file says whether a commit that failed is in it.
    fn decide(
        &self,
        mut state: MutexGuard<'_, State>,
        number: u64,
        error: StateError,
    ) -> Result<(), StateError> {
        tracing::warn!(%error, "a commit failed, the data file is opened again");
        loop {
            if self.home.is_none() {
                state.fail(&error);
                return Err(error);
            }
            if state.closed {
                return Err(StateError::Closed);
            }
            // An error is why it is not decided yet, or why what comes after the decision is not done; the next one sees to that.
            let _tried = self.repair(&mut state);
            match state.decided {
                Some((decided, true)) if decided == number => return Ok(()),
                Some((decided, false)) if decided == number => return Err(error),
                _ => state = self.wait(state),
            }
        }
    }
}

impl State {
    fn has_failed(&self) -> bool {
        self.failure.is_some() || self.health.has_failed()
    }

    /// The first error of the file where there was one: those after it only say that there was.
    fn told(&self, error: StateError) -> StateError {
        match (self.health.first(), &self.failure) {
            (_, Some(failure)) => failure.told(),
            (Some(first), None) => StateError::file("write the data file")(first),
            (None, None) => error,
        }
    }

    fn fail(&mut self, error: &StateError) {
        let wait = self.failure.as_ref().map(|failure| failure.wait * 2);
        let wait = wait.unwrap_or(WAIT_MIN).min(WAIT_MAX);
        let (kind, text) = match error {
            StateError::File { error, .. } | StateError::Storage(redb::Error::Io(error)) => {
                (error.kind(), error.to_string())
            }
            error => (io::ErrorKind::Other, error.to_string()),
        };
        self.failure = Some(Failure {
            kind,
            text,
            next_try: Instant::now() + wait,
            wait,
        });
    }

    /// A commit has arrived, in the file or in memory.
    fn done(&mut self, number: Option<u64>, redo: Option<Redo>) {
        match number {
            Some(number) => {
                self.acknowledged = number;
                self.redo.clear();
            }
            None => self.redo.extend(redo),
        }
    }

    fn reopen(&mut self, home: &Home) -> Result<(), StateError> {
        // It writes nothing any more, and is gone with its last reader.
        self.database = None;
        self.rewrite |= self.health.lost_sync.load(Ordering::SeqCst);
        let path = home.path.display();
        let file = home.disk.open(&home.path);
        let file = file.map_err(StateError::file(format!("open {path}")))?;
        if self.rewrite {
            rewrite(file.as_ref()).map_err(StateError::file(format!("write {path} again")))?;
            self.rewrite = false;
        }
        let health = Arc::new(Health::default());
        let opened = database(file, Arc::clone(&health))
            .and_then(|database| {
                let found = newest_commit(&database)?;
                Ok((database, found))
            })
            .and_then(|(database, found)| {
                self.take_over(found)?;
                self.write_redo(&database)?;
                Ok(database)
            });
        self.rewrite |= health.lost_sync.load(Ordering::SeqCst);
        let failed = health.first();
        self.database = match (opened, failed) {
            (Ok(database), _) => Some(Arc::new(database)),
            (Err(_), Some(first)) => return Err(StateError::file("write the data file")(first)),
            (Err(error), None) => return Err(error),
        };
        self.health = health;
        Ok(())
    }

    /// What is in the file is the last commit that was acknowledged, or the one that is in doubt.
    fn take_over(&mut self, found: u64) -> Result<(), StateError> {
        let arrived = self.in_doubt == Some(found);
        if !arrived && found != self.acknowledged {
            return Err(StateError::corrupt(
                "the data file",
                format!(
                    "it ends with commit {found}, and {} was acknowledged",
                    self.acknowledged
                ),
            ));
        }
        if let Some(number) = self.in_doubt.take() {
            self.decided = Some((number, arrived));
        }
        if arrived {
            self.acknowledged = found;
            self.redo.clear();
        }
        Ok(())
    }

    fn write_redo(&mut self, database: &Database) -> Result<(), StateError> {
        if self.redo.is_empty() {
            return Ok(());
        }
        self.numbered += 1;
        let txn = begin(database, Some(self.numbered))?;
        self.redo.iter().try_for_each(|redo| redo(&txn))?;
        self.in_doubt = Some(self.numbered);
        txn.commit().map_err(redb::Error::from)?;
        self.in_doubt = None;
        self.acknowledged = self.numbered;
        self.redo.clear();
        Ok(())
    }
}

impl Write<'_> {
    /// Makes it count. When it does not wait for the disk, `redo` writes the same once more, should the file fail before the next
    /// that does.
    ///
    /// # Errors
    /// When it is certain that nothing of it counts, or `Closed` when the store closes before that can be told.
    pub(crate) fn commit(self, redo: Option<Redo>) -> Result<(), StateError> {
        self.commit_at(None, redo)
    }

    /// Says that it drops objects.
    pub(crate) fn forgets(&mut self, objects: &[u32]) {
        let mut forgotten = self.turn.file.forgotten();
        let news = objects.iter().filter(|object| forgotten.insert(**object));
        self.turn.forgets.extend(news);
    }

    /// As [`Write::commit`], passing a place right after it.
    pub(crate) fn commit_at(
        self,
        done: Option<Point>,
        redo: Option<Redo>,
    ) -> Result<(), StateError> {
        let Write { txn, mut turn } = self;
        let (file, number) = (turn.file, turn.number);
        turn.committing = true;
        let committed = txn.commit().map_err(redb::Error::from);
        let passed = done.map_or(Ok(()), |point| file.points.hit(point));
        turn.committing = false;
        let mut state = file.state();
        let error = match (committed, passed) {
            (Err(error), _) => state.told(error.into()),
            (Ok(()), Err(error)) if number.is_some() => {
                state.health.fail(&error);
                StateError::file("write the data file")(error)
            }
            (Ok(()), passed) => {
                state.done(number, redo);
                turn.forgets.clear();
                // Nobody waits for the disk, and what is read is in memory.
                if let Err(error) = passed {
                    tracing::warn!(%error, "the data file failed after a commit");
                    state.health.fail(&error);
                }
                return Ok(());
            }
        };
        match number {
            None => Err(error),
            Some(number) => {
                state.in_doubt = Some(number);
                file.decide(state, number, error)?;
                turn.forgets.clear();
                Ok(())
            }
        }
    }
}

impl std::ops::Deref for Write<'_> {
    type Target = WriteTransaction;

    fn deref(&self) -> &WriteTransaction {
        &self.txn
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut forgotten = self.file.forgotten();
        forgotten.retain(|object| !self.forgets.contains(object));
        drop(forgotten);
        let mut state = self.file.state();
        state.writing = false;
        if self.committing {
            // A panic: whether it is in the file is read from there.
            state.in_doubt = self.number.or(state.in_doubt);
            state
                .health
                .fail(&io::Error::other("a commit stopped at a broken invariant"));
        }
        drop(state);
        self.file.changed.notify_all();
    }
}

fn begin(database: &Database, number: Option<u64>) -> Result<WriteTransaction, StateError> {
    let mut txn = database.begin_write().map_err(redb::Error::from)?;
    let durability = match number {
        Some(_) => Durability::Immediate,
        None => Durability::None,
    };
    txn.set_durability(durability).map_err(redb::Error::from)?;
    if let Some(number) = number {
        let mut commits = txn.open_table(COMMITS).map_err(redb::Error::from)?;
        commits.insert((), number).map_err(redb::Error::from)?;
    }
    Ok(txn)
}

fn newest_commit(database: &Database) -> Result<u64, StateError> {
    let txn = database.begin_read().map_err(redb::Error::from)?;
    let commits = match txn.open_table(COMMITS) {
        Ok(commits) => commits,
        Err(redb::TableError::TableDoesNotExist(_)) => return Ok(0),
        Err(error) => return Err(redb::Error::from(error).into()),
    };
    let newest = commits.get(()).map_err(redb::Error::from)?;
    Ok(newest.map_or(0, |number| number.value()))
}

/// Writes a file over itself and syncs it. After a sync that failed the system may take for written what the disk never got.
fn rewrite(file: &dyn DiskFile) -> io::Result<()> {
    let bytes = file.bytes()?;
    let mut buffer = vec![0; REWRITE_BYTES];
    let mut at = 0;
    while at < bytes {
        let length = buffer
            .len()
            .min(usize::try_from(bytes - at).unwrap_or(usize::MAX));
        let part = buffer.get_mut(..length).unwrap_or_default();
        file.read_at(at, part)?;
        file.write_at(at, part)?;
        at += length as u64;
    }
    file.sync()
}
