//! INSERT, UPDATE and DELETE: computes what changes, checks it, and has it logged.
//!
//! Invariant: changes that depend on a table's content are computed and acknowledged under the writer lock, so the content they
//! were checked against is the content they apply to. A change is acknowledged after its epoch is on disk.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, AsArray, BooleanArray, UInt32Array};
use datafusion::arrow::compute::{cast, concat_batches, filter_record_batch, take_record_batch};
use datafusion::arrow::datatypes::{Field, Schema, SchemaRef};
use datafusion::arrow::record_batch::{RecordBatch, RecordBatchOptions};
use datafusion::common::DFSchema;
use datafusion::logical_expr::{Expr, LogicalPlan};
use thalweg_catalog::Oid;
use thalweg_connectors::{Delta, Epoch, EpochInfo};
use thalweg_planner::{Conflict, DmlPlan, Planner, Returning};
use tokio::sync::{OwnedMutexGuard, oneshot};

use crate::batch::{RunLimits, collect, conform, joined, session_at};
use crate::consolidate::BytesHasher;
use crate::error::EngineError;
use crate::inbox::Submission;
use crate::read::{ReadOptions, SessionFloor, pin};
use crate::shared::{Shared, Stored};
use crate::table::{KeyIndex, Table};
use crate::text;

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

type Keys = HashSet<Box<[u8]>, std::hash::BuildHasherDefault<BytesHasher>>;

/// Old rows that go, new rows that come, and the rows RETURNING is over.
struct Change {
    removed: RecordBatch,
    added: RecordBatch,
    affected: RecordBatch,
}

pub(crate) async fn write(
    shared: &Arc<Shared>,
    plan: &DmlPlan,
    floor: &mut SessionFloor,
    options: &ReadOptions,
) -> Result<Written, EngineError> {
    let (oid, input, reads, returning) = parts(plan);
    let stored = shared.relation(oid).ok_or(EngineError::Unknown(oid))?;
    if let Some(error) = shared.failure(oid) {
        return Err(error);
    }
    let table = stored
        .table
        .as_ref()
        .ok_or_else(|| EngineError::internal(format!("{} is not a table", stored.label())))?;
    let independent = matches!(plan, DmlPlan::Insert { .. }) && table.key.is_none();
    // Plain insertions commute with every other write, so many sessions share one fsync.
    let guard = if independent {
        None
    } else {
        Some(Arc::clone(&shared.writer).lock_owned().await)
    };
    let least = floor.floor.0.max(stored.history.lock().changed_at());
    let pinned = pin(shared, reads, least, options).await?;
    let limits = RunLimits {
        now_us: options.at_now_us,
        memory: shared.config.query_memory_max,
    };
    let input = shared
        .planner
        .bind_now(pinned.bind(input.clone())?, options.at_now_us)?;
    let rows = collect(&shared.batch, Arc::clone(&shared.planner), input, limits).await?;
    let change = match plan {
        DmlPlan::Insert { conflict, .. } => {
            insert(&shared.planner, &stored, table, &rows, conflict)?
        }
        DmlPlan::Update { .. } => update(&stored, table, &rows)?,
        DmlPlan::Delete { .. } => delete(&stored, table, &rows)?,
    };
    let returned = match returning {
        Some(returning) => Some(vec![project(&shared.planner, returning, &change.affected)?]),
        None => None,
    };
    let affected = change.affected.num_rows() as u64;
    let deltas: Vec<Delta> = [Delta::delete(change.removed), Delta::insert(change.added)]
        .into_iter()
        .filter(|delta| delta.num_rows() > 0)
        .collect();
    let epoch = if deltas.is_empty() {
        pinned.epoch
    } else {
        commit(shared, &stored, deltas, guard).await?.epoch.0
    };
    floor.raise(epoch);
    Ok(Written {
        rows: affected,
        returning: returned,
        epoch: Epoch(epoch),
    })
}

/// Removes every row; returns how many there were.
pub(crate) async fn truncate(
    shared: &Arc<Shared>,
    oid: Oid,
    floor: &mut SessionFloor,
) -> Result<u64, EngineError> {
    let stored = shared.relation(oid).ok_or(EngineError::Unknown(oid))?;
    if let Some(error) = shared.failure(oid) {
        return Err(error);
    }
    let guard = Arc::clone(&shared.writer).lock_owned().await;
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
        floor.raise(commit(shared, &stored, deltas, Some(guard)).await?.epoch.0);
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

/// Has the change logged and published. Runs to its end even when the caller goes away: the key index must follow the log.
async fn commit(
    shared: &Arc<Shared>,
    stored: &Arc<Stored>,
    deltas: Vec<Delta>,
    guard: Option<OwnedMutexGuard<()>>,
) -> Result<EpochInfo, EngineError> {
    let (shared, stored) = (Arc::clone(shared), Arc::clone(stored));
    let batch = shared.batch.handle().clone();
    let task = batch.spawn(async move {
        let _guard = guard;
        let (reply, acknowledged) = oneshot::channel();
        shared.inbox.submit(Submission {
            table: stored.oid,
            changes: deltas.clone(),
            reply,
        })?;
        let info = acknowledged.await.map_err(|_| EngineError::Stopping)??;
        if let Some(index) = stored.table.as_ref().and_then(|table| table.key.as_ref()) {
            index.apply(&deltas)?;
        }
        Ok(info)
    });
    joined(task.await)?
}

fn insert(
    planner: &Planner,
    stored: &Stored,
    table: &Table,
    rows: &[RecordBatch],
    conflict: &Conflict,
) -> Result<Change, EngineError> {
    let proposed = checked(stored, table, &together(rows, &loose(&stored.schema()))?)?;
    let nothing = RecordBatch::new_empty(stored.schema());
    let Some(index) = &table.key else {
        return Ok(Change {
            removed: nothing,
            affected: proposed.clone(),
            added: proposed,
        });
    };
    let keys = index.keys(&proposed)?;
    let mut seen = Keys::default();
    let (mut fresh, mut pairs) = (Vec::new(), Vec::new());
    for (row, key) in keys.iter().enumerate() {
        let there = index.contains(key);
        let again = !seen.insert(key.clone());
        match conflict {
            Conflict::Error if there || again => return Err(duplicate(index, &proposed, row)),
            Conflict::DoNothing { .. } if there || again => {}
            Conflict::DoUpdate { .. } if again => return Err(affected_twice()),
            Conflict::DoUpdate { .. } if there => pairs.push(row as u32),
            _ => fresh.push(row as u32),
        }
    }
    let inserted = take_record_batch(&proposed, &UInt32Array::from(fresh))?;
    let Conflict::DoUpdate {
        assignments,
        filter,
        schema,
        ..
    } = conflict
    else {
        return Ok(Change {
            removed: nothing,
            affected: inserted.clone(),
            added: inserted,
        });
    };
    let excluded = take_record_batch(&proposed, &UInt32Array::from(pairs.clone()))?;
    let old = index.rows(
        pairs
            .iter()
            .filter_map(|row| keys.get(*row as usize))
            .map(AsRef::as_ref),
    )?;
    let (old, new) = upsert(
        planner,
        stored,
        old,
        excluded,
        assignments,
        filter.as_ref(),
        schema,
    )?;
    let new = checked(stored, table, &new)?;
    let added = concat_batches(&stored.schema(), [&inserted, &new])?;
    unique(index, &old, &added)?;
    Ok(Change {
        removed: old,
        affected: added.clone(),
        added,
    })
}

/// The old rows that DO UPDATE accepts, and what they become.
fn upsert(
    planner: &Planner,
    stored: &Stored,
    old: RecordBatch,
    excluded: RecordBatch,
    assignments: &[(usize, Expr)],
    filter: Option<&Expr>,
    schema: &DFSchema,
) -> Result<(RecordBatch, RecordBatch), EngineError> {
    let columns: Vec<ArrayRef> = old
        .columns()
        .iter()
        .chain(excluded.columns())
        .cloned()
        .collect();
    let options = RecordBatchOptions::new().with_row_count(Some(old.num_rows()));
    let mut both = RecordBatch::try_new_with_options(
        Arc::new(loose(schema.as_arrow()).as_ref().clone()),
        columns,
        &options,
    )?;
    let mut old = old;
    if let Some(filter) = filter {
        let accepted = evaluate(planner, filter, schema, &both)?;
        let accepted = accepted_rows(&accepted)?;
        both = filter_record_batch(&both, &accepted)?;
        old = filter_record_batch(&old, &accepted)?;
    }
    let mut columns = old.columns().to_vec();
    for (position, expr) in assignments {
        let value = evaluate(planner, expr, schema, &both)?;
        let Some(column) = columns.get_mut(*position) else {
            return Err(EngineError::internal(
                "an assignment names a column that is not there",
            ));
        };
        *column = cast(&value, column.data_type())?;
    }
    let options = RecordBatchOptions::new().with_row_count(Some(old.num_rows()));
    let new = RecordBatch::try_new_with_options(loose(&stored.schema()), columns, &options)?;
    Ok((old, new))
}

fn update(stored: &Stored, table: &Table, rows: &[RecordBatch]) -> Result<Change, EngineError> {
    let width = stored.schema().fields().len();
    let schema = stored.schema();
    let twice: Vec<Field> = loose(&schema)
        .fields()
        .iter()
        .chain(loose(&schema).fields())
        .map(|field| field.as_ref().clone())
        .collect();
    let both = once(
        stored,
        table,
        together(rows, &Arc::new(Schema::new(twice)))?,
        width,
    )?;
    let old = both.project(&(0..width).collect::<Vec<_>>())?;
    let new = both.project(&(width..2 * width).collect::<Vec<_>>())?;
    let old = conform(&old, &schema)?;
    let new = checked(
        stored,
        table,
        &RecordBatch::try_new_with_options(
            loose(&schema),
            new.columns().to_vec(),
            &RecordBatchOptions::new().with_row_count(Some(new.num_rows())),
        )?,
    )?;
    if let Some(index) = &table.key {
        unique(index, &old, &new)?;
    }
    Ok(Change {
        removed: old,
        affected: new.clone(),
        added: new,
    })
}

fn delete(stored: &Stored, table: &Table, rows: &[RecordBatch]) -> Result<Change, EngineError> {
    let schema = stored.schema();
    let old = once(
        stored,
        table,
        together(rows, &loose(&schema))?,
        schema.fields().len(),
    )?;
    let old = conform(&old, &schema)?;
    Ok(Change {
        affected: old.clone(),
        removed: old,
        added: RecordBatch::new_empty(schema),
    })
}

/// Keeps each stored row (the first `width` columns) at most as often as the table holds it: a join may name it several times.
fn once(
    stored: &Stored,
    table: &Table,
    rows: RecordBatch,
    width: usize,
) -> Result<RecordBatch, EngineError> {
    let old = conform(
        &rows.project(&(0..width).collect::<Vec<_>>())?,
        &stored.schema(),
    )?;
    let mut keep = vec![true; rows.num_rows()];
    if let Some(index) = &table.key {
        let mut seen = Keys::default();
        for (flag, key) in keep.iter_mut().zip(index.keys(&old)?) {
            *flag = seen.insert(key);
        }
    } else {
        let version = stored.history.lock().newest();
        let excess = version.missing(&Delta::insert(old.clone()))?;
        if excess.is_empty() {
            return Ok(rows);
        }
        let mut surplus: HashMap<Box<[u8]>, i64> = HashMap::new();
        for delta in &excess {
            for (row, bytes) in stored
                .codec
                .encode(delta.batch.columns())?
                .iter()
                .enumerate()
            {
                *surplus.entry(bytes.data().into()).or_default() -= delta.weights.at(row).min(0);
            }
        }
        for (flag, bytes) in keep
            .iter_mut()
            .zip(stored.codec.encode(old.columns())?.iter())
        {
            if let Some(left) = surplus.get_mut(bytes.data()).filter(|left| **left > 0) {
                *left -= 1;
                *flag = false;
            }
        }
    }
    Ok(filter_record_batch(&rows, &BooleanArray::from(keep))?)
}

/// No key of `added` may be in the table without `removed`, or occur twice.
fn unique(index: &KeyIndex, removed: &RecordBatch, added: &RecordBatch) -> Result<(), EngineError> {
    let gone: Keys = index.keys(removed)?.into_iter().collect();
    let mut seen = Keys::default();
    for (row, key) in index.keys(added)?.into_iter().enumerate() {
        let there = index.contains(&key) && !gone.contains(&key);
        if there || !seen.insert(key) {
            return Err(duplicate(index, added, row));
        }
    }
    Ok(())
}

fn duplicate(index: &KeyIndex, batch: &RecordBatch, row: usize) -> EngineError {
    let message = format!(
        "duplicate key value violates unique constraint \"{}\"",
        index.name
    );
    EngineError::statement(
        "23505",
        message,
        Some(format!(
            "{} already exists.",
            text::key(batch, &index.positions, row)
        )),
    )
}

fn affected_twice() -> EngineError {
    let mut report = EngineError::statement(
        "21000",
        "ON CONFLICT DO UPDATE command cannot affect row a second time",
        None,
    )
    .report();
    report.hint =
        Some("Ensure that no rows proposed for insertion within the same command have duplicate constrained values.".into());
    report.into()
}

/// NOT NULL and CHECK; gives the rows the table's own schema.
fn checked(stored: &Stored, table: &Table, rows: &RecordBatch) -> Result<RecordBatch, EngineError> {
    let failing = |row| {
        Some(format!(
            "Failing row contains {}.",
            text::row(rows.columns(), row)
        ))
    };
    for (column, array) in table.columns.iter().zip(rows.columns()) {
        if column.not_null && array.null_count() > 0 {
            let row = (0..array.len())
                .find(|row| array.is_null(*row))
                .unwrap_or(0);
            let message = format!(
                "null value in column \"{}\" of relation \"{}\" violates not-null constraint",
                column.name, stored.name
            );
            return Err(EngineError::statement("23502", message, failing(row)));
        }
    }
    let rows_of_table = conform(rows, &stored.schema())?;
    for check in &table.checks {
        let value = check
            .expr
            .evaluate(&rows_of_table)?
            .into_array(rows.num_rows())?;
        let held = boolean(&value)?;
        // A condition that is null is not broken.
        if let Some(row) = (0..held.len()).find(|row| held.is_valid(*row) && !held.value(*row)) {
            let message = format!(
                "new row for relation \"{}\" violates check constraint \"{}\"",
                stored.name, check.name
            );
            return Err(EngineError::statement("23514", message, failing(row)));
        }
    }
    Ok(rows_of_table)
}

fn project(
    planner: &Planner,
    returning: &Returning,
    rows: &RecordBatch,
) -> Result<RecordBatch, EngineError> {
    let fields: Vec<Field> = returning
        .output
        .iter()
        .map(|column| column.ty.field(&column.name, true))
        .collect();
    let options = RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
    let input = RecordBatch::try_new_with_options(
        loose(returning.schema.as_arrow()),
        rows.columns().to_vec(),
        &options,
    )?;
    let mut columns = Vec::with_capacity(fields.len());
    for (expr, field) in returning.exprs.iter().zip(&fields) {
        columns.push(cast(
            &evaluate(planner, expr, &returning.schema, &input)?,
            field.data_type(),
        )?);
    }
    Ok(RecordBatch::try_new_with_options(
        Arc::new(Schema::new(fields)),
        columns,
        &options,
    )?)
}

fn evaluate(
    planner: &Planner,
    expr: &Expr,
    schema: &DFSchema,
    rows: &RecordBatch,
) -> Result<ArrayRef, EngineError> {
    let physical = session_at(planner, 0).create_physical_expr(expr.clone(), schema)?;
    Ok(physical.evaluate(rows)?.into_array(rows.num_rows())?)
}

fn boolean(array: &ArrayRef) -> Result<&BooleanArray, EngineError> {
    array
        .as_boolean_opt()
        .ok_or_else(|| EngineError::internal("a condition is not boolean"))
}

/// Null counts as not accepted.
fn accepted_rows(array: &ArrayRef) -> Result<BooleanArray, EngineError> {
    Ok(boolean(array)?
        .iter()
        .map(|value| Some(value == Some(true)))
        .collect())
}

/// All rows as one batch of `schema`.
fn together(rows: &[RecordBatch], schema: &SchemaRef) -> Result<RecordBatch, EngineError> {
    let rows = rows
        .iter()
        .map(|batch| conform(batch, schema))
        .collect::<Result<Vec<_>, _>>()?;
    Ok(concat_batches(schema, &rows)?)
}

/// The schema with every column nullable, for rows whose constraints are still to be checked.
fn loose(schema: &Schema) -> SchemaRef {
    let fields: Vec<Field> = schema
        .fields()
        .iter()
        .map(|field| field.as_ref().clone().with_nullable(true))
        .collect();
    Arc::new(Schema::new(fields))
}
