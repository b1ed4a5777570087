//! Keys as comparable bytes, and the table that gives each key a slot.
//!
//! Invariant: keys that SQL calls equal have equal bytes (negative zero is zero). A slot belongs to one key until that key is
//! removed; slots are small consecutive numbers, so what belongs to a key lives in vectors beside the table.

use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef};
use datafusion::arrow::datatypes::{DataType, Field, Schema};
use datafusion::arrow::error::ArrowError;
use datafusion::arrow::row::Rows;
use datafusion::common::utils::normalize_float_zero;

use crate::chunk::{RowCodec, hash};
use crate::memory::heap_bytes;

/// Encodes the key columns of one operator.
#[derive(Debug)]
pub(super) struct KeyCodec {
    /// `None` when there are no key columns: all rows have the same, empty key.
    codec: Option<RowCodec>,
    /// Bytes of each key when all keys are equally long and short.
    pub(super) width: Option<usize>,
}

/// Longest key that is kept without an allocation of its own.
const FIXED_BYTES_MAX: usize = 16;

/// Keys of a batch.
pub(super) struct EncodedKeys {
    rows: Option<Rows>,
    /// Rows in which some key column is NULL.
    pub(super) nulls: Option<Vec<bool>>,
}

impl EncodedKeys {
    pub(super) fn bytes(&self, row: usize) -> &[u8] {
        self.rows.as_ref().map_or(&[], |rows| rows.row(row).data())
    }

    pub(super) fn is_null(&self, row: usize) -> bool {
        self.nulls.as_ref().is_some_and(|nulls| nulls[row])
    }
}

impl KeyCodec {
    pub(super) fn new(types: &[DataType]) -> Result<Self, ArrowError> {
        if types.is_empty() {
            return Ok(Self {
                codec: None,
                width: Some(0),
            });
        }
        let fields: Vec<Field> = types
            .iter()
            .map(|ty| Field::new("k", ty.clone(), true))
            .collect();
        // A row form has one byte for NULL before each value.
        let width = types
            .iter()
            .map(|ty| width(ty).map(|bytes| bytes + 1))
            .sum();
        Ok(Self {
            codec: Some(RowCodec::new(Arc::new(Schema::new(fields)))?),
            width: Option::filter(width, |bytes| *bytes <= FIXED_BYTES_MAX),
        })
    }

    pub(super) fn encode(&self, columns: &[ArrayRef]) -> Result<EncodedKeys, ArrowError> {
        let Some(codec) = &self.codec else {
            return Ok(EncodedKeys {
                rows: None,
                nulls: None,
            });
        };
        let columns: Vec<ArrayRef> = columns.iter().map(normalize_float_zero).collect();
        let mut nulls: Option<Vec<bool>> = None;
        for held in columns.iter().filter_map(|column| column.logical_nulls()) {
            if held.null_count() > 0 {
                let any = nulls.get_or_insert_with(|| vec![false; held.len()]);
                any.iter_mut()
                    .zip(held.iter())
                    .for_each(|(any, valid)| *any |= !valid);
            }
        }
        Ok(EncodedKeys {
            rows: Some(codec.encode(&columns)?),
            nulls,
        })
    }

    /// Types of the key columns.
    pub(super) fn types(&self) -> Vec<DataType> {
        let schema = self.codec.as_ref().map(|codec| &codec.schema);
        let fields = schema.into_iter().flat_map(|schema| schema.fields());
        fields.map(|field| field.data_type().clone()).collect()
    }

    /// Key columns of the keys in some slots.
    pub(super) fn decode(
        &self,
        table: &KeyTable,
        slots: &[u32],
    ) -> Result<Vec<ArrayRef>, ArrowError> {
        let Some(codec) = &self.codec else {
            return Ok(Vec::new());
        };
        let batch = match (&table.keys, self.width) {
            (Keys::Short(keys), Some(width)) => {
                let bytes: Vec<u8> = slots
                    .iter()
                    .flat_map(|slot| keys[*slot as usize].to_le_bytes().into_iter().take(width))
                    .collect();
                codec.decode(bytes.chunks_exact(width))?
            }
            (Keys::Short(_), None) => codec.decode(std::iter::empty())?,
            (Keys::Long(keys), _) => {
                codec.decode(slots.iter().map(|slot| keys[*slot as usize].as_ref()))?
            }
        };
        Ok(batch.columns().to_vec())
    }
}

/// Bytes of a value in row form, when all values have the same.
fn width(ty: &DataType) -> Option<usize> {
    match ty {
        DataType::Boolean => Some(1),
        DataType::Decimal128(..) => Some(16),
        other => other.primitive_width(),
    }
}

/// Finds the slot of a key.
#[derive(Debug)]
pub(super) struct KeyTable {
    /// A byte of the hash of what each cell has, `EMPTY` where there is nothing: a key far away in memory is only looked at when it
    /// is most likely the right one.
    tags: Vec<u8>,
    /// Slots by hash, open addressing; any number where there is none.
    cells: Vec<u32>,
    keys: Keys,
    free: Vec<u32>,
    live: usize,
    /// Bytes of keys that are allocated one by one.
    long_bytes: usize,
}

#[derive(Debug)]
enum Keys {
    Short(Vec<u128>),
    Long(Vec<Box<[u8]>>),
}

const EMPTY: u8 = 0;

/// From other bits of the hash than the place.
fn tag(hash: u64) -> u8 {
    (hash >> 57) as u8 | 0x80
}

fn short(key: &[u8]) -> u128 {
    let mut bytes = [0_u8; FIXED_BYTES_MAX];
    bytes.iter_mut().zip(key).for_each(|(to, from)| *to = *from);
    u128::from_le_bytes(bytes)
}

/// Hash of a key; the same for both ways of keeping it.
pub(super) fn key_hash(key: &[u8]) -> u64 {
    if key.len() <= FIXED_BYTES_MAX {
        short_hash(short(key))
    } else {
        hash(key)
    }
}

fn short_hash(key: u128) -> u64 {
    const K: u128 = 0x9E37_79B9_7F4A_7C15_F39C_C060_5CED_C835;
    let low = (key as u64 ^ K as u64) as u128;
    let high = ((key >> 64) as u64 ^ (K >> 64) as u64) as u128;
    let product = low.wrapping_mul(high | 1).wrapping_add(key.wrapping_mul(K));
    let mixed = (product as u64) ^ ((product >> 64) as u64);
    let again = u128::from(mixed).wrapping_mul(K);
    (again as u64) ^ ((again >> 64) as u64)
}

/// Cells of a table without keys; a power of two.
const CELLS_MIN: usize = 16;

impl KeyTable {
    pub(super) fn new(codec: &KeyCodec) -> Self {
        Self {
            tags: vec![EMPTY; CELLS_MIN],
            cells: vec![0; CELLS_MIN],
            keys: match codec.width {
                Some(_) => Keys::Short(Vec::new()),
                None => Keys::Long(Vec::new()),
            },
            free: Vec::new(),
            live: 0,
            long_bytes: 0,
        }
    }

    /// Keys in the table.
    pub(super) fn len(&self) -> usize {
        self.live
    }

    /// One more than the largest slot ever given out.
    pub(super) fn slots(&self) -> usize {
        match &self.keys {
            Keys::Short(keys) => keys.len(),
            Keys::Long(keys) => keys.len(),
        }
    }

    pub(super) fn bytes(&self) -> usize {
        let keys = match &self.keys {
            Keys::Short(keys) => keys.capacity() * size_of::<u128>(),
            Keys::Long(keys) => keys.capacity() * size_of::<Box<[u8]>>() + self.long_bytes,
        };
        let slots = (self.cells.capacity() + self.free.capacity()) * size_of::<u32>();
        keys + slots + self.tags.capacity()
    }

    fn holds(&self, slot: u32, key: &[u8]) -> bool {
        match &self.keys {
            Keys::Short(keys) => keys[slot as usize] == short(key),
            Keys::Long(keys) => keys[slot as usize].as_ref() == key,
        }
    }

    fn hash_of(&self, slot: u32) -> u64 {
        match &self.keys {
            Keys::Short(keys) => short_hash(keys[slot as usize]),
            Keys::Long(keys) => key_hash(&keys[slot as usize]),
        }
    }

    /// The cell of a key, or the empty one where it belongs.
    fn cell(&self, key: &[u8], hash: u64) -> usize {
        let (mask, tag) = (self.cells.len() - 1, tag(hash));
        let mut at = hash as usize & mask;
        while self.tags[at] != EMPTY {
            if self.tags[at] == tag && self.holds(self.cells[at], key) {
                break;
            }
            at = (at + 1) & mask;
        }
        at
    }

    pub(super) fn find(&self, key: &[u8]) -> Option<u32> {
        let at = self.cell(key, key_hash(key));
        (self.tags[at] != EMPTY).then(|| self.cells[at])
    }

    /// The slot of `key`, a new one when it has none.
    pub(super) fn insert(&mut self, key: &[u8]) -> u32 {
        let hash = key_hash(key);
        let at = self.cell(key, hash);
        if self.tags[at] != EMPTY {
            return self.cells[at];
        }
        let slot = self.new_slot(key);
        (self.tags[at], self.cells[at]) = (tag(hash), slot);
        self.live += 1;
        if self.live * 4 > self.cells.len() * 3 {
            self.resize(self.cells.len() * 2);
        }
        slot
    }

    /// Makes room for so many more keys.
    pub(super) fn reserve(&mut self, more: usize) {
        match &mut self.keys {
            Keys::Short(keys) => keys.reserve(more),
            Keys::Long(keys) => keys.reserve(more),
        }
        let cells = ((self.live + more) * 4 / 3 + 1).next_power_of_two();
        if cells > self.cells.len() {
            self.resize(cells);
        }
    }

    /// The key of a slot; `short` is where it is put when it is kept otherwise.
    pub(super) fn key<'a>(
        &'a self,
        codec: &KeyCodec,
        slot: u32,
        short: &'a mut [u8; FIXED_BYTES_MAX],
    ) -> &'a [u8] {
        match &self.keys {
            Keys::Short(keys) => {
                *short = keys[slot as usize].to_le_bytes();
                &short[..codec.width.unwrap_or(0)]
            }
            Keys::Long(keys) => &keys[slot as usize],
        }
    }

    /// Brings slots into the order of their keys' bytes.
    pub(super) fn sort(&self, slots: &mut [u32]) {
        match &self.keys {
            // The first byte is the lowest.
            Keys::Short(keys) => {
                slots.sort_unstable_by_key(|slot| keys[*slot as usize].swap_bytes())
            }
            Keys::Long(keys) => {
                slots.sort_unstable_by(|a, b| keys[*a as usize].cmp(&keys[*b as usize]));
            }
        }
    }

    fn new_slot(&mut self, key: &[u8]) -> u32 {
        let reused = self.free.pop();
        let slot = reused.unwrap_or(self.slots() as u32);
        if matches!(self.keys, Keys::Long(_)) {
            self.long_bytes += heap_bytes(key.len());
        }
        match (&mut self.keys, reused) {
            (Keys::Short(keys), Some(slot)) => keys[slot as usize] = short(key),
            (Keys::Short(keys), None) => keys.push(short(key)),
            (Keys::Long(keys), Some(slot)) => keys[slot as usize] = key.into(),
            (Keys::Long(keys), None) => keys.push(key.into()),
        }
        slot
    }

    fn resize(&mut self, cells: usize) {
        let tags = std::mem::replace(&mut self.tags, vec![EMPTY; cells]);
        let old = std::mem::replace(&mut self.cells, vec![0; cells]);
        if self.free.is_empty() {
            // In the order in which keys lie in memory.
            (0..self.slots() as u32).for_each(|slot| self.put(slot));
            return;
        }
        let held = old.into_iter().zip(tags);
        held.filter(|(_, tag)| *tag != EMPTY)
            .for_each(|(slot, _)| self.put(slot));
    }

    /// Puts a slot whose key is in no cell into one.
    fn put(&mut self, slot: u32) {
        let (mask, hash) = (self.cells.len() - 1, self.hash_of(slot));
        let mut at = hash as usize & mask;
        while self.tags[at] != EMPTY {
            at = (at + 1) & mask;
        }
        (self.tags[at], self.cells[at]) = (tag(hash), slot);
    }

    /// Takes the key of `slot` out; the slot may be given out again.
    pub(super) fn remove(&mut self, slot: u32) {
        let mask = self.cells.len() - 1;
        let mut hole = self.hash_of(slot) as usize & mask;
        while self.tags[hole] == EMPTY || self.cells[hole] != slot {
            if self.tags[hole] == EMPTY {
                return;
            }
            hole = (hole + 1) & mask;
        }
        // Later cells of the same run move up, so that no search ends early at the hole.
        let mut at = hole;
        loop {
            at = (at + 1) & mask;
            if self.tags[at] == EMPTY {
                break;
            }
            let next = self.cells[at];
            let home = self.hash_of(next) as usize & mask;
            if at.wrapping_sub(home) & mask >= at.wrapping_sub(hole) & mask {
                (self.tags[hole], self.cells[hole]) = (self.tags[at], next);
                hole = at;
            }
        }
        self.tags[hole] = EMPTY;
        if let Keys::Long(keys) = &mut self.keys {
            let key = std::mem::take(&mut keys[slot as usize]);
            self.long_bytes -= heap_bytes(key.len());
        }
        self.free.push(slot);
        self.live -= 1;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use datafusion::arrow::array::{Float64Array, Int64Array, StringArray};
    use proptest::prelude::*;

    use super::*;

    fn codec(long: bool) -> KeyCodec {
        let types = if long {
            vec![DataType::Utf8]
        } else {
            vec![DataType::Int64]
        };
        KeyCodec::new(&types).expect("types with a row form")
    }

    fn key_bytes(codec: &KeyCodec, long: bool, key: i64) -> Vec<u8> {
        let column: ArrayRef = if long {
            Arc::new(StringArray::from(vec![key.to_string()]))
        } else {
            Arc::new(Int64Array::from(vec![key]))
        };
        codec.encode(&[column]).expect("encodes").bytes(0).to_vec()
    }

    proptest! {
        /// The table finds what a map finds, through inserts and removals in any order.
        #[test]
        fn table_is_a_map(steps in prop::collection::vec((any::<bool>(), 0_i64..60), 0..400), long in any::<bool>(), room in 0_usize..200) {
            let codec = codec(long);
            let mut table = KeyTable::new(&codec);
            let mut model: HashMap<i64, u32> = HashMap::new();
            for (at, (add, key)) in steps.into_iter().enumerate() {
                if at == room {
                    table.reserve(room);
                }
                let bytes = key_bytes(&codec, long, key);
                prop_assert_eq!(table.find(&bytes), model.get(&key).copied());
                if add {
                    let slot = table.insert(&bytes);
                    let before = model.insert(key, slot);
                    prop_assert!(before.is_none_or(|before| before == slot));
                } else if let Some(slot) = model.remove(&key) {
                    table.remove(slot);
                }
                prop_assert_eq!(table.len(), model.len());
                let mut slots: Vec<u32> = model.values().copied().collect();
                slots.sort_unstable();
                slots.dedup();
                prop_assert_eq!(slots.len(), model.len());
            }
            let slots: Vec<u32> = model.values().copied().collect();
            let decoded = codec.decode(&table, &slots).expect("decodes");
            prop_assert_eq!(decoded[0].len(), slots.len());
            let mut sorted = slots.clone();
            table.sort(&mut sorted);
            let bytes = |slot: &u32| table.key(&codec, *slot, &mut [0; FIXED_BYTES_MAX]).to_vec();
            let keys: Vec<Vec<u8>> = sorted.iter().map(bytes).collect();
            prop_assert!(keys.is_sorted() && keys.len() == slots.len());
            prop_assert!(sorted.iter().zip(&keys).all(|(slot, key)| table.find(key) == Some(*slot)));
            for (key, slot) in &model {
                prop_assert_eq!(table.find(&key_bytes(&codec, long, *key)), Some(*slot));
            }
        }
    }

    #[test]
    fn zeros_are_one_key_and_nulls_are_told() {
        let codec = KeyCodec::new(&[DataType::Float64]).expect("a key");
        let column: ArrayRef = Arc::new(Float64Array::from(vec![Some(0.0), Some(-0.0), None]));
        let keys = codec.encode(&[column]).expect("encodes");
        assert_eq!(keys.bytes(0), keys.bytes(1));
        assert!(!keys.is_null(0) && keys.is_null(2));
    }
}
