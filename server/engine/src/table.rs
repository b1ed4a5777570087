//! What makes a stored relation a table: its constraints and the index over its primary key.
//!
//! Invariant: the index holds exactly the rows of the newest version; it is changed only by the writer that holds the writer
//! lock, after the change was acknowledged by the log.

use std::collections::HashMap;
use std::hash::BuildHasherDefault;
use std::sync::Arc;

use datafusion::arrow::array::ArrayRef;
use datafusion::arrow::datatypes::{Schema, SchemaRef};
use datafusion::arrow::error::ArrowError;
use datafusion::arrow::record_batch::RecordBatch;
use datafusion::physical_expr::PhysicalExpr;
use parking_lot::Mutex;
use thalweg_connectors::Delta;

use crate::chunk::RowCodec;
use crate::consolidate::BytesHasher;

/// Constraints and keys of a table.
#[derive(Debug)]
pub(crate) struct Table {
    pub(crate) columns: Vec<TableColumn>,
    pub(crate) checks: Vec<TableCheck>,
    pub(crate) key: Option<KeyIndex>,
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
            .cloned()
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

    /// The rows under these keys, in their order; keys without a row are left out.
    pub(crate) fn rows<'a>(
        &self,
        keys: impl IntoIterator<Item = &'a [u8]>,
    ) -> Result<RecordBatch, ArrowError> {
        let map = self.map.lock();
        let found: Vec<&[u8]> = keys
            .into_iter()
            .filter_map(|key| map.get(key))
            .map(AsRef::as_ref)
            .collect();
        self.rows.decode(found)
    }

    /// Follows acknowledged changes: deletions first, so that a replaced row ends up present.
    pub(crate) fn apply(&self, deltas: &[Delta]) -> Result<(), ArrowError> {
        let mut map = self.map.lock();
        for delta in deltas {
            let keys = self.keys(&delta.batch)?;
            for (row, key) in keys.iter().enumerate() {
                if delta.weights.at(row) < 0 {
                    map.remove(key);
                }
            }
        }
        for delta in deltas {
            if delta.num_rows() == 0 || !(0..delta.num_rows()).any(|row| delta.weights.at(row) > 0)
            {
                continue;
            }
            let keys = self.keys(&delta.batch)?;
            let rows = self.rows.encode(delta.batch.columns())?;
            for (index, (key, row)) in keys.into_iter().zip(rows.iter()).enumerate() {
                if delta.weights.at(index) > 0 {
                    map.insert(key, row.data().into());
                }
            }
        }
        Ok(())
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
