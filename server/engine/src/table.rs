//! What makes a stored relation a table: its constraints and the index over its primary key.
//!
//! Invariant: the index holds the rows of the newest version, and of the changes that are on their way into the log; it is
//! changed only under the table's lock, in the order in which the log gets the changes. When the log refuses one that it followed,
//! it is made anew from the newest version before anything else relies on it.

use std::collections::HashMap;
use std::hash::BuildHasherDefault;
use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, AsArray};
use datafusion::arrow::datatypes::{DataType, Float32Type, Float64Type, Schema, SchemaRef};
use datafusion::arrow::error::ArrowError;
use datafusion::arrow::record_batch::RecordBatch;
use datafusion::physical_expr::PhysicalExpr;
use parking_lot::Mutex;
use thalweg_connectors::Delta;
use tokio::sync::OwnedMutexGuard;

use crate::checkpoint::Saved;
use crate::chunk::RowCodec;
use crate::consolidate::BytesHasher;
use crate::error::EngineError;
use crate::segments::History;

/// Constraints and keys of a table.
#[derive(Debug)]
pub(crate) struct Table {
    pub(crate) columns: Vec<TableColumn>,
    pub(crate) checks: Vec<TableCheck>,
    pub(crate) key: Option<KeyIndex>,
    pub(crate) writers: Writers,
    /// What the newest checkpoint has of it.
    pub(crate) saved: Mutex<Saved>,
    /// Why a change was refused that the index followed; until the index is made anew nothing that relies on it is logged.
    refused: Mutex<Option<EngineError>>,
}

impl Table {
    pub(crate) fn new(
        columns: Vec<TableColumn>,
        checks: Vec<TableCheck>,
        key: Option<KeyIndex>,
    ) -> Self {
        Self {
            columns,
            checks,
            key,
            writers: Writers::default(),
            saved: Mutex::default(),
            refused: Mutex::default(),
        }
    }

    /// Notes that a change was not logged which the index may have followed.
    pub(crate) fn refused(&self, error: &EngineError) {
        if self.key.is_some() {
            *self.refused.lock() = Some(error.clone());
        }
    }

    /// Why the index is not what the log says, if so.
    pub(crate) fn refusal(&self) -> Option<EngineError> {
        self.refused.lock().clone()
    }

    /// Waits for the right to change the table, whose index is that of the log then. `history` is the table's.
    ///
    /// # Errors
    /// When the content cannot be read for an index that has to be made anew.
    pub(crate) async fn lock(
        &self,
        history: &Mutex<History>,
    ) -> Result<OwnedMutexGuard<()>, EngineError> {
        let guard = self.writers.lock().await;
        if let Some(index) = self.key.as_ref().filter(|_| self.refusal().is_some()) {
            self.writers.settled().await;
            let version = history.lock().newest();
            index.reset(&version.content()?)?;
            *self.refused.lock() = None;
        }
        Ok(guard)
    }
}

/// Keeps changes that were checked against a table's content from overtaking each other.
#[derive(Debug, Clone, Default)]
pub(crate) struct Writers {
    lock: Arc<tokio::sync::Mutex<()>>,
    /// Changes that the index has and the newest version has not.
    under_way: Arc<tokio::sync::watch::Sender<usize>>,
}

impl Writers {
    async fn lock(&self) -> OwnedMutexGuard<()> {
        Arc::clone(&self.lock).lock_owned().await
    }

    /// Returns when the newest version has everything that the index has. The caller holds the lock, so nothing is added.
    pub(crate) async fn settled(&self) {
        let mut under_way = self.under_way.subscribe();
        // An error would mean that the sender is gone, and it is held by `self`.
        let settled = under_way.wait_for(|count| *count == 0).await;
        drop(settled);
    }

    /// Counts a change as under way until the result is dropped.
    pub(crate) fn set_out(&self) -> UnderWay {
        self.under_way.send_modify(|count| *count += 1);
        UnderWay(Arc::clone(&self.under_way))
    }
}

/// A change that the log has not acknowledged yet.
#[derive(Debug)]
pub(crate) struct UnderWay(Arc<tokio::sync::watch::Sender<usize>>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}

/// A column as constraints see it.
#[derive(Debug)]
pub(crate) struct TableColumn {
    pub(crate) name: String,
    pub(crate) not_null: bool,
}

/// A CHECK constraint, ready to run.
#[derive(Debug)]
pub(crate) struct TableCheck {
    pub(crate) name: String,
    pub(crate) expr: Arc<dyn PhysicalExpr>,
}

/// Encoded bytes of a key or a row.
pub(crate) type Encoded = Box<[u8]>;

type KeyMap = HashMap<Box<[u8]>, Box<[u8]>, BuildHasherDefault<BytesHasher>>;

/// Primary key -> row, both encoded.
#[derive(Debug)]
pub(crate) struct KeyIndex {
    pub(crate) name: String,
    pub(crate) positions: Vec<usize>,
    keys: RowCodec,
    rows: RowCodec,
    map: Mutex<KeyMap>,
}

/// Keys are compared as bytes, in which 0 and -0 differ, and so do the values that are all NaN.
fn equal_floats_alike(column: &ArrayRef) -> ArrayRef {
    match column.data_type() {
        DataType::Float32 => {
            let values = column.as_primitive::<Float32Type>();
            let alike = |value: f32| {
                if value.is_nan() {
                    f32::NAN
                } else {
                    value + 0.0
                }
            };
            Arc::new(values.unary::<_, Float32Type>(alike))
        }
        DataType::Float64 => {
            let values = column.as_primitive::<Float64Type>();
            let alike = |value: f64| {
                if value.is_nan() {
                    f64::NAN
                } else {
                    value + 0.0
                }
            };
            Arc::new(values.unary::<_, Float64Type>(alike))
        }
        _ => Arc::clone(column),
    }
}

impl KeyIndex {
    pub(crate) fn new(
        name: &str,
        positions: Vec<usize>,
        schema: &SchemaRef,
    ) -> Result<Self, ArrowError> {
        let key_schema: SchemaRef =
            Arc::new(Schema::new(schema.project(&positions)?.fields().clone()));
        Ok(Self {
            name: name.into(),
            positions,
            keys: RowCodec::new(key_schema)?,
            rows: RowCodec::new(Arc::clone(schema))?,
            map: Mutex::default(),
        })
    }

    /// Encoded key of each row.
    pub(crate) fn keys(&self, batch: &RecordBatch) -> Result<Vec<Box<[u8]>>, ArrowError> {
        let columns: Vec<ArrayRef> = self
            .positions
            .iter()
            .filter_map(|index| batch.columns().get(*index))
            .map(equal_floats_alike)
            .collect();
        Ok(self
            .keys
            .encode(&columns)?
            .iter()
            .map(|row| row.data().into())
            .collect())
    }

    pub(crate) fn contains(&self, key: &[u8]) -> bool {
        self.map.lock().contains_key(key)
    }

    /// The row under a key.
    pub(crate) fn row(&self, key: &[u8]) -> Option<Encoded> {
        self.map.lock().get(key).cloned()
    }

    /// Rows from their encoded form.
    pub(crate) fn decode<'a>(
        &self,
        rows: impl IntoIterator<Item = &'a [u8]>,
    ) -> Result<RecordBatch, ArrowError> {
        self.rows.decode(rows)
    }

    /// What changes do to keys, deletions first, so that a replaced row ends up present.
    pub(crate) fn effects(
        &self,
        deltas: &[Delta],
    ) -> Result<Vec<(Encoded, Option<Encoded>)>, ArrowError> {
        let (mut gone, mut there) = (Vec::new(), Vec::new());
        for delta in deltas.iter().filter(|delta| delta.num_rows() > 0) {
            let keys = self.keys(&delta.batch)?;
            let added = (0..delta.num_rows()).any(|row| delta.weights.at(row) > 0);
            let rows = added
                .then(|| self.rows.encode(delta.batch.columns()))
                .transpose()?;
            for (index, key) in keys.into_iter().enumerate() {
                match &rows {
                    Some(rows) if delta.weights.at(index) > 0 => {
                        there.push((key, Some(rows.row(index).data().into())));
                    }
                    _ => gone.push((key, None)),
                }
            }
        }
        gone.extend(there);
        Ok(gone)
    }

    /// Follows changes.
    pub(crate) fn apply(&self, deltas: &[Delta]) -> Result<(), ArrowError> {
        self.follow(self.effects(deltas)?);
        Ok(())
    }

    /// Makes it the index of this content.
    fn reset(&self, content: &[Delta]) -> Result<(), ArrowError> {
        let effects = self.effects(content)?;
        self.map.lock().clear();
        self.follow(effects);
        Ok(())
    }

    pub(crate) fn follow(&self, effects: Vec<(Encoded, Option<Encoded>)>) {
        let mut map = self.map.lock();
        for (key, row) in effects {
            match row {
                Some(row) => map.insert(key, row),
                None => map.remove(&key),
            };
        }
    }

    pub(crate) fn bytes(&self) -> usize {
        // Keys, rows and two fat pointers each; sampled, because counting all of them would cost a scan.
        let map = self.map.lock();
        let sample: usize = map
            .iter()
            .take(64)
            .map(|(key, row)| key.len() + row.len() + 48)
            .sum();
        sample * map.len() / map.len().clamp(1, 64)
    }
}
