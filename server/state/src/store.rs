//! The durable logs: which epochs happened, what each changed in tables, and the dead letters of sources.
//!
//! Invariant: `append` is one transaction; a transaction that was not made durable is lost as a whole, together with every
//! later one, so what is found after a crash is always a prefix of the epochs.

use std::sync::Arc;

use redb::{Database, ReadTransaction, ReadableTable, TableDefinition, WriteTransaction};

use crate::backup::Copying;
use crate::codec::{WeightedBatch, decode_batches, sealed, unsealed};
use crate::data_file::{COMMITS, DataFile, Home, Redo, Write};
use crate::error::StateError;
use crate::folder::DataDir;
use crate::manifest::{CHECKPOINT, JOBS, STATE_PARTS, STATE_RUNS};
use crate::point::{CrashPoints, Point};
use crate::record::{DeadRecord, EpochEntry, EpochRecord};

const EPOCHS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("epoch_log");
const OFFSETS: TableDefinition<'_, u32, &[u8]> = TableDefinition::new("source_offsets");
/// What changed: (table, epoch, order within the epoch) -> record.
pub(crate) const DML: TableDefinition<'_, (u32, u64, u32), &[u8]> = TableDefinition::new("dml_log");
const DEAD: TableDefinition<'_, (u32, &[u8]), &[u8]> = TableDefinition::new("dead_letters");

const SINKS: TableDefinition<'_, (u32, u64), &[u8]> = TableDefinition::new("sink_log");

/// The name by which outside systems know this data dir.
const INSTALLATION: TableDefinition<'_, (), &[u8]> = TableDefinition::new("installation");

/// Records kept in the epoch log. Restarts need the last one and the newest offsets of each source, which are kept apart.
const EPOCHS_KEPT: u64 = 65_536;

/// The durable logs over one database handle.
#[derive(Clone)]
pub struct Store {
    file: Arc<DataFile>,
    points: CrashPoints,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Store")
    }
}

/// One entry of the DML log.
#[derive(Debug, Clone, PartialEq)]
pub struct DmlEntry {
    /// Epoch that accepted it.
    pub epoch: u64,
    /// Order within the epoch.
    pub seq: u32,
    /// What changed.
    pub changes: Vec<WeightedBatch>,
}

/// All of a table's DML log, oldest first.
#[derive(Debug, Clone, Default)]
pub struct TableLog {
    /// The entries.
    pub entries: Vec<DmlEntry>,
    /// Bytes they take on disk.
    pub bytes: u64,
}

impl Store {
    /// Opens the logs in a database that others opened, creating them in a new one. Should its file fail, it stays so.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub fn open(db: Arc<Database>) -> Result<Self, StateError> {
        Self::open_with(db, None, CrashPoints::none())
    }

    /// Opens the logs of a data dir, whose file is opened again when it has failed.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub fn open_in(dir: &DataDir) -> Result<Self, StateError> {
        Self::open_with(dir.database(), Some(dir.home()), dir.points.clone())
    }

    fn open_with(
        db: Arc<Database>,
        home: Option<Home>,
        points: CrashPoints,
    ) -> Result<Self, StateError> {
        let store = Self {
            file: Arc::new(DataFile::new(db, home, points.clone())?),
            points,
        };
        let txn = store.begin(true)?;
        txn.open_table(EPOCHS).map_err(redb::Error::from)?;
        txn.open_table(OFFSETS).map_err(redb::Error::from)?;
        txn.open_table(DML).map_err(redb::Error::from)?;
        txn.open_table(DEAD).map_err(redb::Error::from)?;
        txn.open_table(SINKS).map_err(redb::Error::from)?;
        txn.open_table(STATE_RUNS).map_err(redb::Error::from)?;
        txn.open_table(STATE_PARTS).map_err(redb::Error::from)?;
        txn.open_table(JOBS).map_err(redb::Error::from)?;
        txn.open_table(CHECKPOINT).map_err(redb::Error::from)?;
        txn.commit(None)?;
        Ok(store)
    }

    /// Lets go of the database, whoever else still holds this store: what comes later is refused. The file is closed when a
    /// transaction that is running now has ended and no other owner of the handle is left.
    pub fn close(&self) {
        self.file.close();
    }

    /// Why nothing can be written now, if that was tried; it is tried again by whoever writes.
    pub fn failure(&self) -> Option<StateError> {
        self.file.failure()
    }

    /// A view of what is committed.
    pub(crate) fn read(&self) -> Result<ReadTransaction, StateError> {
        self.file.read()
    }

    /// Whether an object was dropped since the store was opened.
    pub(crate) fn is_forgotten(&self, object: u32) -> bool {
        self.file.is_forgotten(object)
    }

    fn hit(&self, point: Point) -> Result<(), StateError> {
        self.points
            .hit(point)
            .map_err(StateError::file("write the log"))
    }

    /// The newest logged epoch.
    pub fn last_epoch(&self) -> Result<Option<EpochRecord>, StateError> {
        let txn = self.read()?;
        let table = txn.open_table(EPOCHS).map_err(redb::Error::from)?;
        match table.last().map_err(redb::Error::from)? {
            Some((epoch, bytes)) => Ok(Some(EpochRecord::decode(epoch.value(), bytes.value())?)),
            None => Ok(None),
        }
    }

    /// The newest logged offsets of a source.
    pub fn source_offsets(&self, source: u32) -> Result<Option<Vec<u8>>, StateError> {
        let txn = self.read()?;
        let table = txn.open_table(OFFSETS).map_err(redb::Error::from)?;
        let Some(bytes) = table.get(source).map_err(redb::Error::from)? else {
            return Ok(None);
        };
        let body = unsealed(bytes.value()).map_err(|reason| {
            StateError::corrupt(format!("the offsets of source {source}"), reason)
        })?;
        Ok(Some(body.to_vec()))
    }

    /// Appends an epoch. With `durable` it is on disk when this returns, and so is every epoch before it; without, it is after
    /// the next durable append or [`Store::sync`].
    pub fn append(&self, entry: &EpochEntry, durable: bool) -> Result<(), StateError> {
        self.hit(Point::LogBegin)?;
        let mut txn = self.begin(durable)?;
        write_epoch(&txn, entry)?;
        txn.forgets(&entry.forgotten);
        self.hit(Point::LogCommit)?;
        let redo = (!durable).then(|| {
            let entry = entry.clone();
            Box::new(move |txn: &WriteTransaction| write_epoch(txn, &entry)) as Redo
        });
        txn.commit_at(Some(Point::LogDone), redo)
    }

    /// Appends an epoch, durably, in one transaction with what `joint` writes. When `joint` refuses, its error is the inner
    /// result and nothing has been written.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub fn append_with<E>(
        &self,
        entry: &EpochEntry,
        joint: impl FnOnce(&WriteTransaction) -> Result<(), E>,
    ) -> Result<Result<(), E>, StateError> {
        let mut txn = self.begin(true)?;
        if let Err(refused) = joint(&txn) {
            return Ok(Err(refused));
        }
        write_epoch(&txn, entry)?;
        txn.forgets(&entry.forgotten);
        self.hit(Point::LogCommit)?;
        txn.commit_at(Some(Point::LogDone), None)?;
        Ok(Ok(()))
    }

    /// The name of this data dir: the one it was given first, or else `fresh`, which it keeps from now on.
    ///
    /// # Errors
    /// `Corrupt` when the stored one cannot be read, and when the database cannot be written.
    pub fn installation(&self, fresh: [u8; 16]) -> Result<[u8; 16], StateError> {
        let txn = self.begin(true)?;
        let named = {
            let mut table = txn.open_table(INSTALLATION).map_err(redb::Error::from)?;
            let known = match table.get(()).map_err(redb::Error::from)? {
                Some(bytes) => Some(
                    unsealed(bytes.value())
                        .and_then(|name| {
                            <[u8; 16]>::try_from(name).map_err(|_| "it is too short".to_owned())
                        })
                        .map_err(|reason| {
                            StateError::corrupt("the name of the installation", reason)
                        })?,
                ),
                None => None,
            };
            if known.is_none() {
                let record = sealed(fresh.to_vec());
                table
                    .insert((), record.as_slice())
                    .map_err(redb::Error::from)?;
            }
            known.unwrap_or(fresh)
        };
        txn.commit(None)?;
        Ok(named)
    }

    /// Makes every epoch appended so far durable.
    pub fn sync(&self) -> Result<(), StateError> {
        self.begin(true)?.commit(None)
    }

    /// The DML log of a table after an epoch; a checkpoint cuts what lies before the epoch that it names.
    ///
    /// # Errors
    /// `Corrupt`, naming the entry, when one does not match its checksum.
    pub fn table_log(&self, table: u32, after: u64) -> Result<TableLog, StateError> {
        let txn = self.read()?;
        let dml = txn.open_table(DML).map_err(redb::Error::from)?;
        let mut log = TableLog::default();
        for item in dml
            .range((table, after.saturating_add(1), 0)..=(table, u64::MAX, u32::MAX))
            .map_err(redb::Error::from)?
        {
            let (key, bytes) = item.map_err(redb::Error::from)?;
            let (_, epoch, seq) = key.value();
            let name = format!("DML log entry {epoch}/{seq} of table {table}");
            log.bytes += bytes.value().len() as u64;
            log.entries.push(DmlEntry {
                epoch,
                seq,
                changes: decode_batches(&name, bytes.value())?,
            });
        }
        Ok(log)
    }

    /// Tables that have entries in the DML log.
    pub fn logged_tables(&self) -> Result<Vec<u32>, StateError> {
        let txn = self.read()?;
        let dml = txn.open_table(DML).map_err(redb::Error::from)?;
        let mut tables = Vec::new();
        let mut next = 0_u32;
        loop {
            let mut range = dml.range((next, 0, 0)..).map_err(redb::Error::from)?;
            let Some(first) = range.next() else { break };
            let (table, _, _) = first.map_err(redb::Error::from)?.0.value();
            tables.push(table);
            let Some(after) = table.checked_add(1) else {
                break;
            };
            next = after;
        }
        Ok(tables)
    }

    /// Stored dead letters of a source, by key.
    pub fn dead_letters(&self, source: u32) -> Result<Vec<DeadRecord>, StateError> {
        let txn = self.read()?;
        let dead = txn.open_table(DEAD).map_err(redb::Error::from)?;
        let mut letters = Vec::new();
        for item in dead
            .range((source, [].as_slice())..)
            .map_err(redb::Error::from)?
        {
            let (key, bytes) = item.map_err(redb::Error::from)?;
            let (owner, key) = key.value();
            if owner != source {
                break;
            }
            let value = unsealed(bytes.value()).map_err(|reason| {
                StateError::corrupt(format!("a dead letter of source {source}"), reason)
            })?;
            letters.push(DeadRecord {
                source,
                key: key.to_vec(),
                value: value.to_vec(),
            });
        }
        Ok(letters)
    }

    /// Appends a record to the log of a sink. With `durable` it is on disk when this returns, and so is every record before it.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub fn append_sink(
        &self,
        sink: u32,
        seq: u64,
        record: &[u8],
        durable: bool,
    ) -> Result<(), StateError> {
        let txn = self.begin(durable)?;
        let record = sealed(record.to_vec());
        insert_sink(&txn, sink, seq, &record)?;
        let again = move |txn: &WriteTransaction| insert_sink(txn, sink, seq, &record);
        txn.commit((!durable).then(|| Box::new(again) as Redo))
    }

    /// The log of a sink, oldest first; `take` gets each record with its number.
    ///
    /// # Errors
    /// `Corrupt` when a record does not match its checksum or `take` refuses it.
    pub fn read_sink(
        &self,
        sink: u32,
        mut take: impl FnMut(u64, &[u8]) -> Result<(), String>,
    ) -> Result<(), StateError> {
        let txn = self.read()?;
        let sinks = txn.open_table(SINKS).map_err(redb::Error::from)?;
        for item in sinks
            .range((sink, 0)..=(sink, u64::MAX))
            .map_err(redb::Error::from)?
        {
            let (key, bytes) = item.map_err(redb::Error::from)?;
            let (_, seq) = key.value();
            unsealed(bytes.value())
                .and_then(|record| take(seq, record))
                .map_err(|reason| {
                    StateError::corrupt(format!("record {seq} of sink {sink}"), reason)
                })?;
        }
        Ok(())
    }

    /// Replaces the records of a sink before `first` by others, which are numbered from `first` on.
    ///
    /// # Errors
    /// When the database cannot be written.
    pub fn replace_sink(
        &self,
        sink: u32,
        first: u64,
        records: &[Vec<u8>],
    ) -> Result<(), StateError> {
        let txn = self.begin(true)?;
        {
            let mut sinks = txn.open_table(SINKS).map_err(redb::Error::from)?;
            sinks
                .retain_in((sink, 0)..(sink, first), |_, _| false)
                .map_err(redb::Error::from)?;
            for (seq, record) in (first..).zip(records) {
                let record = sealed(record.clone());
                sinks
                    .insert((sink, seq), record.as_slice())
                    .map_err(redb::Error::from)?;
            }
        }
        txn.commit(None)?;
        Ok(())
    }

    /// Removes everything kept for dropped objects.
    pub fn forget(&self, objects: &[u32]) -> Result<(), StateError> {
        let mut txn = self.begin(true)?;
        forget_in(&txn, objects)?;
        txn.forgets(objects);
        txn.commit(None)?;
        Ok(())
    }

    pub(crate) fn begin(&self, durable: bool) -> Result<Write<'_>, StateError> {
        self.file.begin(durable)
    }
}

fn write_epoch(txn: &WriteTransaction, entry: &EpochEntry) -> Result<(), StateError> {
    let mut epochs = txn.open_table(EPOCHS).map_err(redb::Error::from)?;
    let record = EpochRecord::encode(entry.at_ms, &entry.offsets);
    epochs
        .insert(entry.epoch, record.as_slice())
        .map_err(redb::Error::from)?;
    if entry.epoch.is_multiple_of(1024) && entry.epoch > EPOCHS_KEPT {
        epochs
            .retain_in(..entry.epoch - EPOCHS_KEPT, |_, _| false)
            .map_err(redb::Error::from)?;
    }
    if !entry.offsets.is_empty() {
        let mut offsets = txn.open_table(OFFSETS).map_err(redb::Error::from)?;
        for (source, bytes) in &entry.offsets {
            let record = sealed(bytes.clone());
            offsets
                .insert(*source, record.as_slice())
                .map_err(redb::Error::from)?;
        }
    }
    if !entry.dml.is_empty() {
        let mut dml = txn.open_table(DML).map_err(redb::Error::from)?;
        for (seq, (table, record)) in entry.dml.iter().enumerate() {
            dml.insert((*table, entry.epoch, seq as u32), record.as_slice())
                .map_err(redb::Error::from)?;
        }
    }
    for (sink, seq, record) in &entry.sinks {
        insert_sink(txn, *sink, *seq, &sealed(record.clone()))?;
    }
    if !entry.dead.is_empty() || !entry.dead_expired.is_empty() {
        let mut dead = txn.open_table(DEAD).map_err(redb::Error::from)?;
        for letter in &entry.dead {
            let record = sealed(letter.value.clone());
            dead.insert((letter.source, letter.key.as_slice()), record.as_slice())
                .map_err(redb::Error::from)?;
        }
        for (source, key) in &entry.dead_expired {
            dead.remove((*source, key.as_slice()))
                .map_err(redb::Error::from)?;
        }
    }
    forget_in(txn, &entry.forgotten)
}

fn insert_sink(
    txn: &WriteTransaction,
    sink: u32,
    seq: u64,
    record: &[u8],
) -> Result<(), StateError> {
    let mut sinks = txn.open_table(SINKS).map_err(redb::Error::from)?;
    sinks
        .insert((sink, seq), record)
        .map_err(redb::Error::from)?;
    Ok(())
}

/// Copies every table of this crate.
pub(crate) fn copy_tables(copying: &Copying<'_>) -> Result<(), StateError> {
    copying.table(EPOCHS)?;
    copying.table(OFFSETS)?;
    copying.table(DML)?;
    copying.table(DEAD)?;
    copying.table(SINKS)?;
    copying.table(INSTALLATION)?;
    copying.table(COMMITS)?;
    copying.table(STATE_RUNS)?;
    copying.table(STATE_PARTS)?;
    copying.table(JOBS)?;
    copying.table(CHECKPOINT)
}

/// Replaces the log of a sink by one record.
pub(crate) fn write_sink(
    txn: &WriteTransaction,
    sink: u32,
    record: &[u8],
) -> Result<(), StateError> {
    let mut sinks = txn.open_table(SINKS).map_err(redb::Error::from)?;
    sinks
        .retain_in((sink, 1)..=(sink, u64::MAX), |_, _| false)
        .map_err(redb::Error::from)?;
    let record = sealed(record.to_vec());
    sinks
        .insert((sink, 0), record.as_slice())
        .map_err(redb::Error::from)?;
    Ok(())
}

fn forget_in(txn: &WriteTransaction, objects: &[u32]) -> Result<(), StateError> {
    if objects.is_empty() {
        return Ok(());
    }
    let mut offsets = txn.open_table(OFFSETS).map_err(redb::Error::from)?;
    let mut dml = txn.open_table(DML).map_err(redb::Error::from)?;
    let mut dead = txn.open_table(DEAD).map_err(redb::Error::from)?;
    let mut sinks = txn.open_table(SINKS).map_err(redb::Error::from)?;
    let mut runs = txn.open_table(STATE_RUNS).map_err(redb::Error::from)?;
    let mut parts = txn.open_table(STATE_PARTS).map_err(redb::Error::from)?;
    let mut jobs = txn.open_table(JOBS).map_err(redb::Error::from)?;
    for object in objects {
        runs.remove(*object).map_err(redb::Error::from)?;
        parts
            .retain_in((*object, 0)..=(*object, u32::MAX), |_, _| false)
            .map_err(redb::Error::from)?;
        jobs.remove(*object).map_err(redb::Error::from)?;
        sinks
            .retain_in((*object, 0)..=(*object, u64::MAX), |_, _| false)
            .map_err(redb::Error::from)?;
        offsets.remove(*object).map_err(redb::Error::from)?;
        dml.retain_in((*object, 0, 0)..=(*object, u64::MAX, u32::MAX), |_, _| {
            false
        })
        .map_err(redb::Error::from)?;
        let end = object.checked_add(1).unwrap_or(u32::MAX);
        dead.retain_in((*object, [].as_slice())..(end, [].as_slice()), |_, _| false)
            .map_err(redb::Error::from)?;
    }
    Ok(())
}
