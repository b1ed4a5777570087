//! Groups on disk, for want of memory.
//!
//! Invariant: a group is in memory or on disk, and one that comes back is what it was.

use std::sync::Arc;

use thalweg_connectors::{Delta, Weights};
use thalweg_state::{Spilled, StateError};

use super::{Aggregate, EncodedKeys, GroupTable, Layout};
use crate::dataflow::accumulate::{Call, Memory};
use crate::dataflow::on_disk::number;
use crate::dataflow::state::{SpilledRows, quietly};
use crate::error::EngineError;

/// Groups that are read back at once to be saved.
const SAVED_AT_ONCE: usize = 16_384;

impl GroupTable {
    /// Gives keys their slots, in the order of `rows`, with the groups that are on disk read back.
    pub(super) fn slots_of(
        &mut self,
        keys: &EncodedKeys,
        rows: &[u32],
    ) -> Result<Vec<u32>, EngineError> {
        let keys = rows.iter().map(|row| keys.bytes(*row as usize));
        if self.disk.as_ref().is_some_and(|disk| disk.files.is_empty()) {
            return Ok(keys.map(|key| self.table.insert(key)).collect());
        }
        let slots = keys.map(|key| {
            let slot = self.table.insert(key);
            if let Some(disk) = &mut self.disk {
                disk.has_slot(slot, key);
            }
            slot
        });
        Ok(slots.collect())
    }

    /// Reads groups back that are on disk, as far as they are among the keys.
    pub(super) fn fetch<'a>(
        &mut self,
        layout: &Layout,
        keys: impl Iterator<Item = &'a [u8]>,
    ) -> Result<(), EngineError> {
        let Some(disk) = self.disk.as_ref().filter(|disk| !disk.files.is_empty()) else {
            return Ok(());
        };
        let wanted = disk.wanted(keys, |key| self.table.find(key).is_some());
        let files = disk.files.clone();
        let mut back = Vec::new();
        files.find(&wanted, |key, group| {
            back.push(self.put_back(key, group)?);
            Ok::<_, EngineError>(())
        })?;
        let (mut entries, unsaved) = (back.len(), &self.unsaved);
        // A slot may still be marked for the group that had it before.
        let marked = back.iter().copied().filter(|slot| unsaved.is_marked(*slot));
        let marked: Vec<u32> = marked.collect();
        if self.tracking
            && let Some(rows) = self.group_rows(layout, &marked, Weights::Constant(-1))?
        {
            self.unsaved.add_before(rows);
        }
        for memory in &mut self.memories {
            entries += memory.entries_of(&back);
            quietly(|cx| memory.refresh(cx, &back))?;
        }
        if let Some(disk) = &mut self.disk {
            disk.entries -= entries;
        }
        Ok(())
    }

    /// Puts a group that was written into a slot.
    fn put_back(&mut self, key: &[u8], mut group: &[u8]) -> Result<u32, EngineError> {
        let slot = self.table.insert(key);
        self.grow();
        let rows = number(&mut group)?;
        self.rows[slot as usize] = rows;
        for memory in &mut self.memories {
            memory.read(slot as usize, &mut group)?;
        }
        if let Some(disk) = &mut self.disk {
            disk.is_back(slot);
        }
        self.started = true;
        Ok(slot)
    }

    /// Moves groups to disk, those first that have not changed lately.
    pub(super) fn shed(&mut self, layout: &Layout, calls: &[Call]) -> Result<(), EngineError> {
        let Some(disk) = &self.disk else {
            return Ok(());
        };
        let (moved, kept) = disk.divide(self.slots_in_use(layout));
        self.settle(layout)?;
        let entries = self.entries_of(&moved);
        self.write(layout, moved)?;
        let mut fresh = GroupTable::new(layout, calls, None);
        for slot in &kept {
            let mut bytes = [0; 16];
            fresh
                .table
                .insert(self.table.key(&layout.keys, *slot, &mut bytes));
        }
        fresh.grow();
        fresh.started = self.started;
        fresh.tracking = self.tracking;
        fresh.rows = kept.iter().map(|slot| self.rows[*slot as usize]).collect();
        fresh.memories = std::mem::take(&mut self.memories);
        for memory in &mut fresh.memories {
            memory.keep(&kept);
        }
        fresh.unsaved = std::mem::take(&mut self.unsaved);
        fresh.unsaved.renew(kept.len());
        fresh.disk = self.disk.take();
        if let Some(disk) = &mut fresh.disk {
            disk.moved(entries, &kept);
        }
        *self = fresh;
        Ok(())
    }

    /// Writes some groups.
    fn write(&mut self, layout: &Layout, mut slots: Vec<u32>) -> Result<(), StateError> {
        let Some(disk) = &mut self.disk else {
            return Ok(());
        };
        let (table, rows, memories) = (&self.table, &self.rows, &self.memories);
        table.sort(&mut slots);
        disk.write(|put| {
            let mut group = Vec::new();
            for slot in &slots {
                let mut bytes = [0; 16];
                let key = table.key(&layout.keys, *slot, &mut bytes);
                group.clear();
                group.extend_from_slice(&rows[*slot as usize].to_le_bytes());
                for memory in memories {
                    memory.write(*slot as usize, &mut group);
                }
                put(key, &group)?;
            }
            Ok(())
        })
    }

    /// Everything as it is now: all of it is on disk then, and in memory too as far as it was.
    pub(super) fn snapshot(&mut self, layout: &Layout) -> Result<Option<Spilled>, EngineError> {
        let slots = self.slots_in_use(layout);
        self.write(layout, slots.clone())?;
        Ok(self.disk.as_mut().map(|disk| {
            for slot in slots {
                disk.is_back(slot);
            }
            disk.files.clone()
        }))
    }

    fn entries_of(&self, slots: &[u32]) -> usize {
        let values = self.memories.iter().map(|memory| memory.entries_of(slots));
        slots.len() + values.sum::<usize>()
    }
}

/// A whole table of groups on disk, as it was at one time.
#[derive(Debug)]
struct SavedGroups {
    layout: Arc<Layout>,
    calls: Arc<[Call]>,
    files: Vec<Spilled>,
}

impl SpilledRows for SavedGroups {
    fn each(
        &self,
        table: usize,
        take: &mut dyn FnMut(Delta) -> Result<(), EngineError>,
    ) -> Result<(), EngineError> {
        for files in &self.files {
            let fresh = || GroupTable::new(&self.layout, &self.calls, None);
            let mut groups = fresh();
            files.each(|key, group| {
                groups.put_back(key, group)?;
                if groups.table.len() >= SAVED_AT_ONCE {
                    let full = std::mem::replace(&mut groups, fresh());
                    full.rows_of(&self.layout, table)?
                        .into_iter()
                        .try_for_each(&mut *take)?;
                }
                Ok::<_, EngineError>(())
            })?;
            groups
                .rows_of(&self.layout, table)?
                .into_iter()
                .try_for_each(&mut *take)?;
        }
        Ok(())
    }
}

impl GroupTable {
    /// All rows of one of the state tables.
    fn rows_of(&self, layout: &Layout, table: usize) -> Result<Option<Delta>, EngineError> {
        let slots = self.slots_in_use(layout);
        let Some(function) = table.checked_sub(1) else {
            return self.group_rows(layout, &slots, Weights::Ones);
        };
        let mut sets = self.memories.iter().filter_map(Memory::values);
        match sets.nth(function) {
            Some(sets) => self.value_rows(layout, sets.all(&slots)?),
            None => Ok(None),
        }
    }
}

impl Aggregate {
    /// Moves groups to disk when they have more than `least` bytes in memory.
    pub(in crate::dataflow) fn shed(&mut self, least: usize) -> Result<(), EngineError> {
        let bytes = |shard: &GroupTable| shard.table_bytes();
        if self.shards.iter().map(bytes).sum::<usize>() <= least {
            return Ok(());
        }
        for shard in &mut self.shards {
            if shard.table.len() > 0 {
                shard.shed(&self.layout, &self.calls)?;
            }
        }
        Ok(())
    }

    /// Everything that is remembered, when some of it is on disk.
    pub(super) fn snapshot(&mut self) -> Result<Option<Arc<dyn SpilledRows>>, EngineError> {
        let spills = |shard: &GroupTable| shard.disk.as_ref().is_some_and(|d| !d.files.is_empty());
        if !self.shards.iter().any(spills) {
            return Ok(None);
        }
        let mut files = Vec::with_capacity(self.shards.len());
        for shard in &mut self.shards {
            files.extend(shard.snapshot(&self.layout)?);
        }
        Ok(Some(Arc::new(SavedGroups {
            layout: Arc::clone(&self.layout),
            calls: Arc::clone(&self.calls),
            files,
        })))
    }
}
