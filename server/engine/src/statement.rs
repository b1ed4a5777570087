//! What one INSERT, UPDATE or DELETE changes: rows that go, rows that come, and the constraints they must keep.
//!
//! Invariant: nothing here changes anything; a change that comes out keeps NOT NULL, CHECK and the primary key against the
//! content that the statement was given.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, AsArray, BooleanArray, UInt32Array};
use datafusion::arrow::compute::{cast, concat_batches, filter_record_batch, take_record_batch};
use datafusion::arrow::datatypes::{Field, Schema, SchemaRef};
use datafusion::arrow::record_batch::{RecordBatch, RecordBatchOptions};
use datafusion::common::DFSchema;
use datafusion::logical_expr::Expr;
use thalweg_connectors::Delta;
use thalweg_planner::{Conflict, DmlPlan, Planner, Returning};

use crate::batch::{conform, session_at};
use crate::consolidate::BytesHasher;
use crate::error::EngineError;
use crate::relation::Version;
use crate::shared::Stored;
use crate::table::{Encoded, KeyIndex, Table};
use crate::text;
use crate::transaction::StagedTable;

type Keys = HashSet<Encoded, std::hash::BuildHasherDefault<BytesHasher>>;

/// A table as one statement sees it: what is stored, and what the block has staged on top.
pub(crate) struct Target<'a> {
    pub(crate) stored: &'a Stored,
    pub(crate) table: &'a Table,
    pub(crate) staged: Option<&'a StagedTable>,
    /// The content that the statement's input was computed over; without what is staged.
    pub(crate) version: Arc<Version>,
}

impl Target<'_> {
    fn schema(&self) -> SchemaRef {
        self.stored.schema()
    }

    fn contains(&self, index: &KeyIndex, key: &[u8]) -> bool {
        match self.staged.and_then(|staged| staged.key(key)) {
            Some(row) => row.is_some(),
            None => index.contains(key),
        }
    }

    /// The rows under these keys, in their order; keys without a row are left out.
    fn rows<'k>(
        &self,
        index: &KeyIndex,
        keys: impl Iterator<Item = &'k Encoded>,
    ) -> Result<RecordBatch, EngineError> {
        let found: Vec<Encoded> = keys
            .filter_map(|key| match self.staged.and_then(|staged| staged.key(key)) {
                Some(row) => row.clone(),
                None => index.row(key),
            })
            .collect();
        Ok(index.decode(found.iter().map(AsRef::as_ref))?)
    }

    fn content(&self) -> Result<Arc<Version>, EngineError> {
        match self.staged {
            Some(staged) => Ok(Arc::new(self.version.with(&staged.net()?)?)),
            None => Ok(Arc::clone(&self.version)),
        }
    }
}

/// Old rows that go, new rows that come, and the rows RETURNING is over.
pub(crate) struct Change {
    removed: RecordBatch,
    added: RecordBatch,
    affected: RecordBatch,
}

impl Change {
    /// What `rows`, the result of the statement's input, do to the table.
    pub(crate) fn of(
        planner: &Planner,
        plan: &DmlPlan,
        target: &Target<'_>,
        rows: &[RecordBatch],
    ) -> Result<Self, EngineError> {
        match plan {
            DmlPlan::Insert { conflict, .. } => insert(planner, target, rows, conflict),
            DmlPlan::Update { .. } => update(target, rows),
            DmlPlan::Delete { .. } => delete(target, rows),
        }
    }

    /// Rows inserted, updated or deleted.
    pub(crate) fn affected(&self) -> u64 {
        self.affected.num_rows() as u64
    }

    pub(crate) fn returning(
        &self,
        planner: &Planner,
        returning: Option<&Returning>,
    ) -> Result<Option<Vec<RecordBatch>>, EngineError> {
        match returning {
            Some(returning) => Ok(Some(vec![project(planner, returning, &self.affected)?])),
            None => Ok(None),
        }
    }

    pub(crate) fn into_deltas(self) -> Vec<Delta> {
        [Delta::delete(self.removed), Delta::insert(self.added)]
            .into_iter()
            .filter(|delta| delta.num_rows() > 0)
            .collect()
    }
}

fn insert(
    planner: &Planner,
    target: &Target<'_>,
    rows: &[RecordBatch],
    conflict: &Conflict,
) -> Result<Change, EngineError> {
    let proposed = checked(target, &together(rows, &loose(&target.schema()))?)?;
    let nothing = RecordBatch::new_empty(target.schema());
    let Some(index) = &target.table.key else {
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
        let there = target.contains(index, key);
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
    let old = target.rows(
        index,
        pairs.iter().filter_map(|row| keys.get(*row as usize)),
    )?;
    let (old, new) = upsert(
        planner,
        target,
        old,
        excluded,
        assignments,
        filter.as_ref(),
        schema,
    )?;
    let new = checked(target, &new)?;
    let added = concat_batches(&target.schema(), [&inserted, &new])?;
    unique(target, index, &old, &added)?;
    Ok(Change {
        removed: old,
        affected: added.clone(),
        added,
    })
}

/// The old rows that DO UPDATE accepts, and what they become.
fn upsert(
    planner: &Planner,
    target: &Target<'_>,
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
    let new = RecordBatch::try_new_with_options(loose(&target.schema()), columns, &options)?;
    Ok((old, new))
}

fn update(target: &Target<'_>, rows: &[RecordBatch]) -> Result<Change, EngineError> {
    let schema = target.schema();
    let width = schema.fields().len();
    let twice: Vec<Field> = loose(&schema)
        .fields()
        .iter()
        .chain(loose(&schema).fields())
        .map(|field| field.as_ref().clone())
        .collect();
    let both = once(
        target,
        together(rows, &Arc::new(Schema::new(twice)))?,
        width,
    )?;
    let old = both.project(&(0..width).collect::<Vec<_>>())?;
    let new = both.project(&(width..2 * width).collect::<Vec<_>>())?;
    let old = conform(&old, &schema)?;
    let new = RecordBatch::try_new_with_options(
        loose(&schema),
        new.columns().to_vec(),
        &RecordBatchOptions::new().with_row_count(Some(new.num_rows())),
    )?;
    let new = checked(target, &new)?;
    if let Some(index) = &target.table.key {
        unique(target, index, &old, &new)?;
    }
    Ok(Change {
        removed: old,
        affected: new.clone(),
        added: new,
    })
}

fn delete(target: &Target<'_>, rows: &[RecordBatch]) -> Result<Change, EngineError> {
    let schema = target.schema();
    let old = once(
        target,
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
fn once(target: &Target<'_>, rows: RecordBatch, width: usize) -> Result<RecordBatch, EngineError> {
    let stored = target.stored;
    let old = conform(
        &rows.project(&(0..width).collect::<Vec<_>>())?,
        &stored.schema(),
    )?;
    let mut keep = vec![true; rows.num_rows()];
    if let Some(index) = &target.table.key {
        let mut seen = Keys::default();
        for (flag, key) in keep.iter_mut().zip(index.keys(&old)?) {
            *flag = seen.insert(key);
        }
    } else {
        let excess = target.content()?.missing(&Delta::insert(old.clone()))?;
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
fn unique(
    target: &Target<'_>,
    index: &KeyIndex,
    removed: &RecordBatch,
    added: &RecordBatch,
) -> Result<(), EngineError> {
    let gone: Keys = index.keys(removed)?.into_iter().collect();
    let mut seen = Keys::default();
    for (row, key) in index.keys(added)?.into_iter().enumerate() {
        let there = target.contains(index, &key) && !gone.contains(&key);
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
fn checked(target: &Target<'_>, rows: &RecordBatch) -> Result<RecordBatch, EngineError> {
    checked_rows(target.stored, target.table, rows)
}

/// As [`checked`], for rows that no statement wrote.
pub(crate) fn checked_rows(
    stored: &Stored,
    table: &Table,
    rows: &RecordBatch,
) -> Result<RecordBatch, EngineError> {
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
