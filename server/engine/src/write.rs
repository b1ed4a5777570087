//! INSERT, UPDATE, DELETE and COMMIT: computes what changes, checks it, and has it logged.
//!
//! Invariant: a change that depends on a table's content goes to the log under the table's lock, in the order in which it was
//! checked. A change is acknowledged after its epoch is on disk; what a block stages is checked again when it commits.

use std::sync::Arc;

use datafusion::arrow::record_batch::RecordBatch;
use datafusion::logical_expr::LogicalPlan;
use thalweg_catalog::Oid;
use thalweg_connectors::{Delta, Epoch, EpochInfo};
use thalweg_planner::{DmlPlan, Returning};
use thalweg_state::encode_batches;
use tokio::sync::{OwnedMutexGuard, oneshot};

use crate::apart::Apart;
use crate::batch::{RunLimits, collect, joined};
use crate::error::EngineError;
use crate::inbox::{Submission, TableChange};
use crate::read::{Pinned, ReadOptions, SessionFloor, pin};
use crate::shared::{Shared, Stored};
use crate::statement::{Change, Target};
use crate::table::Table;
use crate::transaction::WriteTransaction;
use crate::worker::weighted;

/// An acknowledged write.
#[derive(Debug)]
pub struct Written {
    /// Rows inserted, updated or deleted.
    pub rows: u64,
    /// The result of RETURNING.
    pub returning: Option<Vec<RecordBatch>>,
    /// The epoch that contains the write.
    pub epoch: Epoch,
}

/// Runs a statement; with `block` its change is only staged there.
pub(crate) async fn write(
    shared: &Arc<Shared>,
    plan: &DmlPlan,
    floor: &mut SessionFloor,
    options: &ReadOptions,
    block: Option<&mut WriteTransaction>,
) -> Result<Written, EngineError> {
    let (oid, ..) = parts(plan);
    let external = shared.external.read().get(&oid).cloned();
    if let Some(external) = external {
        if block.is_some() {
            return Err(external.refuses("statements in a transaction block").into());
        }
        let (pinned, rows) = input(shared, plan, floor.floor.0, options, None).await?;
        let rows = external.write(plan, &rows).await?;
        floor.raise(pinned.epoch);
        return Ok(Written {
            rows,
            returning: None,
            epoch: Epoch(pinned.epoch),
        });
    }
    let archive = shared.archives.read().get(&oid).cloned();
    if let Some(archive) = archive {
        let seen = block.as_deref();
        let (pinned, rows) = input(shared, plan, floor.floor.0, options, seen).await?;
        let added = archive.added(plan, &rows)?;
        let rows = added.iter().map(|batch| batch.num_rows() as u64).sum();
        match block {
            Some(block) => block.stage_rows(shared, (oid, archive), added, pinned.epoch)?,
            None => archive.insert(added, pinned.epoch).await?,
        }
        floor.raise(pinned.epoch);
        return Ok(Written {
            rows,
            returning: None,
            epoch: Epoch(pinned.epoch),
        });
    }
    match block {
        Some(block) => stage(shared, plan, floor, options, block).await,
        None => write_now(shared, plan, floor, options).await,
    }
}

async fn write_now(
    shared: &Arc<Shared>,
    plan: &DmlPlan,
    floor: &mut SessionFloor,
    options: &ReadOptions,
) -> Result<Written, EngineError> {
    let (oid, _, _, returning) = parts(plan);
    let stored = shared.relation(oid).ok_or(EngineError::Unknown(oid))?;
    let table = writable(shared, &stored)?;
    // An INSERT looks at the table's content only through the key index, and without a key not at all, so its input is read
    // before the lock, and insertions without a key share an fsync with everything else.
    let (guard, pinned, rows) = if matches!(plan, DmlPlan::Insert { .. }) {
        let (pinned, rows) = input(shared, plan, floor.floor.0, options, None).await?;
        let guard = match &table.key {
            Some(_) => Some(table.lock(&stored.history).await?),
            None => None,
        };
        (guard, pinned, rows)
    } else {
        let guard = table.lock(&stored.history).await?;
        table.writers.settled().await;
        let least = floor.floor.0.max(stored.history.lock().changed_at());
        let (pinned, rows) = input(shared, plan, least, options, None).await?;
        (Some(guard), pinned, rows)
    };
    let target = Target {
        stored: &stored,
        table,
        staged: None,
        version: pinned.content(&stored),
    };
    let change = Change::of(&shared.planner, plan, &target, &rows)?;
    let returned = change.returning(&shared.planner, returning)?;
    let affected = change.affected();
    let deltas = change.into_deltas();
    shared.admit(&stored, &deltas)?;
    let epoch = if deltas.is_empty() {
        pinned.epoch
    } else {
        log(shared, &stored, deltas, guard).await?.epoch.0
    };
    floor.raise(epoch);
    Ok(Written {
        rows: affected,
        returning: returned,
        epoch: Epoch(epoch),
    })
}

async fn stage(
    shared: &Arc<Shared>,
    plan: &DmlPlan,
    floor: &mut SessionFloor,
    options: &ReadOptions,
    block: &mut WriteTransaction,
) -> Result<Written, EngineError> {
    let (oid, _, _, returning) = parts(plan);
    let stored = match block.created(oid) {
        Some(stored) => stored,
        None => shared.relation(oid).ok_or(EngineError::Unknown(oid))?,
    };
    let table = writable(shared, &stored)?;
    let (pinned, rows) = input(shared, plan, floor.floor.0, options, Some(block)).await?;
    let target = Target {
        stored: &stored,
        table,
        staged: block.table(oid),
        version: pinned.content(&stored),
    };
    let change = Change::of(&shared.planner, plan, &target, &rows)?;
    let returned = change.returning(&shared.planner, returning)?;
    let affected = change.affected();
    block.stage(shared, &stored, change.into_deltas())?;
    floor.raise(pinned.epoch);
    Ok(Written {
        rows: affected,
        returning: returned,
        epoch: Epoch(pinned.epoch),
    })
}

fn writable<'a>(shared: &Shared, stored: &'a Stored) -> Result<&'a Table, EngineError> {
    if let Some(error) = shared.failure(stored.oid) {
        return Err(error);
    }
    stored
        .table
        .as_ref()
        .ok_or_else(|| EngineError::internal(format!("{} is not a table", stored.label())))
}

/// Runs what a statement reads.
async fn input(
    shared: &Arc<Shared>,
    plan: &DmlPlan,
    least: u64,
    options: &ReadOptions,
    block: Option<&WriteTransaction>,
) -> Result<(Pinned, Vec<RecordBatch>), EngineError> {
    let (_, input, reads, _) = parts(plan);
    let apart = Apart::of(input, options.wait_timeout)?;
    let pinned = pin(shared, (reads, apart), least, options, block).await?;
    let limits = RunLimits {
        now_us: options.at_now_us,
        memory: shared.memory.queries.query(shared.config.query_memory_max),
    };
    let bound = pinned.bind(input.clone())?;
    let bound = shared.planner.bind_now(bound, options.at_now_us)?;
    let rows = collect(&shared.batch, Arc::clone(&shared.planner), bound, limits).await?;
    Ok((pinned, rows))
}

/// Removes every row; returns how many there were.
pub(crate) async fn truncate(
    shared: &Arc<Shared>,
    oid: Oid,
    floor: &mut SessionFloor,
) -> Result<u64, EngineError> {
    if let Some(external) = shared.external.read().get(&oid) {
        return Err(external.refuses("TRUNCATE statements").into());
    }
    if let Some(archive) = shared.archives.read().get(&oid) {
        return Err(archive.refuses("TRUNCATE statements").into());
    }
    let stored = shared.relation(oid).ok_or(EngineError::Unknown(oid))?;
    let table = writable(shared, &stored)?;
    shared.admit_changes()?;
    let guard = table.lock(&stored.history).await?;
    table.writers.settled().await;
    let version = stored.history.lock().newest();
    let Some(rows) = version.rows()? else {
        return Err(EngineError::InvalidAccumulation {
            object: stored.label(),
        });
    };
    let count = rows.iter().map(|batch| batch.num_rows() as u64).sum();
    let deltas: Vec<Delta> = rows
        .iter()
        .filter(|batch| batch.num_rows() > 0)
        .cloned()
        .map(Delta::delete)
        .collect();
    if !deltas.is_empty() {
        floor.raise(log(shared, &stored, deltas, Some(guard)).await?.epoch.0);
    }
    Ok(count)
}

fn parts(plan: &DmlPlan) -> (Oid, &LogicalPlan, &[Oid], Option<&Returning>) {
    match plan {
        DmlPlan::Insert {
            table,
            input,
            reads,
            returning,
            ..
        }
        | DmlPlan::Update {
            table,
            input,
            reads,
            returning,
            ..
        }
        | DmlPlan::Delete {
            table,
            input,
            reads,
            returning,
            ..
        } => (*table, input, reads, returning.as_ref()),
    }
}

/// The change of one table as the log takes it. What cannot be encoded fails here, alone.
pub(crate) fn table_change(
    stored: &Arc<Stored>,
    deltas: Vec<Delta>,
) -> Result<TableChange, EngineError> {
    let batches: Vec<_> = deltas.iter().map(weighted).collect();
    Ok(TableChange {
        stored: Arc::clone(stored),
        record: encode_batches(&batches)?,
        deltas,
        sink: None,
    })
}

async fn log(
    shared: &Arc<Shared>,
    stored: &Arc<Stored>,
    deltas: Vec<Delta>,
    guard: Option<OwnedMutexGuard<()>>,
) -> Result<EpochInfo, EngineError> {
    let (shared, stored) = (Arc::clone(shared), Arc::clone(stored));
    let batch = shared.batch.handle().clone();
    // Runs to its end even when the caller goes away: the key index must follow the log.
    let task = batch.spawn(async move {
        let change = table_change(&stored, deltas)?;
        send(&shared, &stored, change, guard).await
    });
    joined(task.await)?
}

/// Has one table's change logged and published. The lock is given back as soon as the change has its place in the queue, so
/// that statements share an fsync.
pub(crate) async fn send(
    shared: &Arc<Shared>,
    stored: &Arc<Stored>,
    change: TableChange,
    guard: Option<OwnedMutexGuard<()>>,
) -> Result<EpochInfo, EngineError> {
    let table = stored.table.as_ref();
    let index = table.and_then(|table| table.key.as_ref());
    let effects = index
        .map(|index| index.effects(&change.deltas))
        .transpose()?;
    let (reply, acknowledged) = oneshot::channel();
    // Whoever reads content under the lock waits for what went out under it.
    let _under_way = guard
        .as_ref()
        .and(table)
        .map(|table| table.writers.set_out());
    shared.inbox.submit(Submission {
        changes: vec![change],
        reply,
    })?;
    // A change is refused when its table was dropped, and when the log cannot be written: then the index is made anew.
    if let (Some(index), Some(effects)) = (index, effects) {
        index.follow(effects);
    }
    drop(guard);
    acknowledged
        .await
        .map_err(|_| shared.halted().unwrap_or(EngineError::Stopping))?
}
