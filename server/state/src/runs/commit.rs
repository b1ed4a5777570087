//! One checkpoint's transaction: runs are named, jobs get their places, logs are cut.
//!
//! Invariant: all of it or nothing is committed. A save that does not go on where the manifest ends is refused, and so is the
//! whole checkpoint.

use std::collections::BTreeMap;

use redb::WriteTransaction;

use super::{NewRun, Runs, State};
use crate::codec::sealed;
use crate::error::StateError;
use crate::manifest::{
    CHECKPOINT, CheckpointInfo, JOBS, Newest, STATE_PARTS, STATE_RUNS, StatePart, TableRuns,
};
use crate::point::Point;
use crate::store::{DML, write_sink};

/// What a checkpoint says about one table.
#[derive(Debug)]
pub struct Save {
    /// The table.
    pub table: StatePart,
    /// The epoch after which the changes begin; `None` when they are all there is, and what was saved before goes.
    pub since: Option<u64>,
    /// The epoch through which they go.
    pub through: u64,
    /// Their runs; none when they cancel out.
    pub runs: Vec<NewRun>,
    /// Runs of the table, by number, that nobody needs any more.
    pub gone: Vec<u64>,
}

/// What a checkpoint says about one job.
#[derive(Debug, Clone)]
pub struct JobRecord {
    /// The job's object.
    pub object: u32,
    /// Where its state stands; `None` when none of it is kept any more.
    pub record: Option<Vec<u8>>,
    /// How many state tables it has; what was saved beyond them goes.
    pub parts: u32,
}

/// Everything that one checkpoint commits.
#[derive(Debug, Default)]
pub struct Checkpoint {
    /// The epoch it holds.
    pub epoch: u64,
    /// When it began, milliseconds since the Unix epoch.
    pub started_at_ms: i64,
    /// What has changed in state tables.
    pub saves: Vec<Save>,
    /// Where jobs stand with it.
    pub jobs: Vec<JobRecord>,
    /// Tables of which somebody still needs the log after an epoch that their runs hold. The log of others is cut where their
    /// runs end.
    pub held: BTreeMap<u32, u64>,
    /// Sinks whose logs are replaced by one record.
    pub sinks: Vec<(u32, Vec<u8>)>,
}

impl Runs {
    /// Commits a checkpoint: the manifest names the saves' runs and where the jobs stand, and logs are cut, in one transaction.
    /// Objects that were dropped meanwhile are passed over.
    ///
    /// # Errors
    /// `Discontinuous` when a save does not begin where the manifest ends, and whatever the database reports; then nothing has
    /// happened.
    pub fn commit(&self, checkpoint: Checkpoint) -> Result<CheckpointInfo, StateError> {
        let inner = &self.inner;
        // A run that is dropped takes the state's lock, so nothing here may drop one while it is held: these live longer than it.
        let (mut checkpoint, mut passed_over) = (checkpoint, Vec::new());
        let _turn = inner.turn();
        let txn = inner.store.begin(true)?;
        inner.hit(Point::ManifestBegin)?;
        let gone = |object: u32| inner.store.is_forgotten(object);
        let saves = &mut checkpoint.saves;
        passed_over.extend(saves.extract_if(.., |save| gone(save.table.object)));
        checkpoint.jobs.retain(|job| !gone(job.object));
        let infos = || saves.iter().flat_map(|save| &save.runs).map(NewRun::info);
        let state = inner.state();
        let newest = Newest {
            info: CheckpointInfo {
                number: state.newest.info.number + 1,
                epoch: checkpoint.epoch,
                started_at_ms: checkpoint.started_at_ms,
                bytes: infos().map(|info| info.bytes).sum(),
                runs: infos().count() as u64,
            },
            next_file: state.newest.next_file,
        };
        let changed = Changed::of(&state, &checkpoint)?;
        let is_cut = |(table, runs): &&(StatePart, TableRuns)| {
            runs.logged_after > state.logged_after(*table)
        };
        let cut: Vec<_> = changed.tables.iter().filter(is_cut).collect();
        drop(state);
        for (table, runs) in cut {
            cut_log(&txn, table.object, runs.logged_after)?;
        }
        write_manifest(&txn, &newest, &changed.tables)?;
        remove_tables(&txn, &changed.gone)?;
        write_jobs(&txn, &checkpoint.jobs)?;
        for (sink, record) in &checkpoint.sinks {
            if !gone(*sink) {
                write_sink(&txn, *sink, record)?;
            }
        }
        inner.hit(Point::ManifestCommit)?;
        txn.commit(None)?;
        let mut state = inner.state();
        // Files have been numbered meanwhile.
        state.newest.info = newest.info;
        state.take(changed);
        for run in checkpoint.saves.iter().flat_map(|save| &save.runs) {
            run.keep(&mut state);
        }
        Ok(newest.info)
    }
}

/// What a checkpoint makes of the manifest.
#[derive(Default)]
struct Changed {
    tables: Vec<(StatePart, TableRuns)>,
    gone: Vec<StatePart>,
    /// Files that are not named any more.
    rubbish: Vec<u64>,
}

impl Changed {
    fn of(state: &State, checkpoint: &Checkpoint) -> Result<Self, StateError> {
        let mut tables: BTreeMap<StatePart, TableRuns> = BTreeMap::new();
        let mut changed = Self::default();
        for save in &checkpoint.saves {
            let mut table = state.tables.get(&save.table).cloned().unwrap_or_default();
            match save.since {
                Some(since) if table.through != since || state.broken.contains_key(&save.table) => {
                    return Err(StateError::Discontinuous {
                        table: save.table,
                        since,
                        through: table.through,
                    });
                }
                Some(_) => {}
                None => {
                    let old = table.runs.drain(..);
                    changed.rubbish.extend(old.map(|run| run.number));
                }
            }
            let old = table
                .runs
                .extract_if(.., |run| save.gone.contains(&run.number));
            changed.rubbish.extend(old.map(|run| run.number));
            table.through = save.through;
            let runs = save.runs.iter().map(|run| run.info().clone());
            table.runs.extend(runs);
            tables.insert(save.table, table);
        }
        let cut = |table: &StatePart, runs: &TableRuns| {
            let held = checkpoint.held.get(&table.object).copied();
            held.unwrap_or(runs.through).min(runs.through)
        };
        for (table, runs) in &state.tables {
            if runs.logged_after < cut(table, runs) {
                tables.entry(*table).or_insert_with(|| runs.clone());
            }
        }
        for (table, runs) in &mut tables {
            runs.logged_after = runs.logged_after.max(cut(table, runs));
        }
        for job in &checkpoint.jobs {
            let beyond = |part: &&StatePart| part.object == job.object && part.part >= job.parts;
            let known = state.tables.keys().chain(state.broken.keys());
            for part in known.filter(beyond) {
                tables.remove(part);
                changed.gone.push(*part);
                let old = state.tables.get(part).into_iter();
                let old = old.flat_map(|table| &table.runs);
                changed.rubbish.extend(old.map(|run| run.number));
            }
        }
        changed.tables = tables.into_iter().collect();
        Ok(changed)
    }
}

impl State {
    fn logged_after(&self, table: StatePart) -> u64 {
        self.tables.get(&table).map_or(0, |runs| runs.logged_after)
    }

    fn take(&mut self, changed: Changed) {
        for (table, runs) in changed.tables {
            self.broken.remove(&table);
            self.tables.insert(table, runs);
        }
        for table in changed.gone {
            self.tables.remove(&table);
            self.broken.remove(&table);
        }
        self.rubbish.extend(changed.rubbish);
    }
}

pub(super) fn write_manifest(
    txn: &WriteTransaction,
    newest: &Newest,
    tables: &[(StatePart, TableRuns)],
) -> Result<(), StateError> {
    let mut record = txn.open_table(CHECKPOINT).map_err(redb::Error::from)?;
    record
        .insert((), newest.encode().as_slice())
        .map_err(redb::Error::from)?;
    let mut contents = txn.open_table(STATE_RUNS).map_err(redb::Error::from)?;
    let mut parts = txn.open_table(STATE_PARTS).map_err(redb::Error::from)?;
    for (table, runs) in tables {
        let record = runs.encode();
        match table.part {
            0 => contents.insert(table.object, record.as_slice()),
            part => parts.insert((table.object, part), record.as_slice()),
        }
        .map_err(redb::Error::from)?;
    }
    Ok(())
}

fn remove_tables(txn: &WriteTransaction, gone: &[StatePart]) -> Result<(), StateError> {
    let mut contents = txn.open_table(STATE_RUNS).map_err(redb::Error::from)?;
    let mut parts = txn.open_table(STATE_PARTS).map_err(redb::Error::from)?;
    for table in gone {
        match table.part {
            0 => contents.remove(table.object),
            part => parts.remove((table.object, part)),
        }
        .map_err(redb::Error::from)?;
    }
    Ok(())
}

fn write_jobs(txn: &WriteTransaction, jobs: &[JobRecord]) -> Result<(), StateError> {
    let mut records = txn.open_table(JOBS).map_err(redb::Error::from)?;
    for job in jobs {
        match &job.record {
            Some(record) => {
                let record = sealed(record.clone());
                records.insert(job.object, record.as_slice())
            }
            None => records.remove(job.object),
        }
        .map_err(redb::Error::from)?;
    }
    Ok(())
}

fn cut_log(txn: &WriteTransaction, table: u32, through: u64) -> Result<(), StateError> {
    let mut dml = txn.open_table(DML).map_err(redb::Error::from)?;
    dml.retain_in((table, 0, 0)..=(table, through, u32::MAX), |_, _| false)
        .map_err(redb::Error::from)?;
    Ok(())
}
