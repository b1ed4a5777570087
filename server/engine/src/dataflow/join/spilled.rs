//! The inputs of a join on disk, for want of memory.
//!
//! Invariant: every key of a step is in memory on both sides before the step, with all of its rows.

use std::sync::Arc;

use thalweg_connectors::Delta;

use super::{Join, LEFT, RIGHT};
use crate::chunk::RowCodec;
use crate::dataflow::arrangement::{Arrangement, SavedRows};
use crate::dataflow::state::SpilledRows;
use crate::error::EngineError;

/// Both inputs on disk, as they were at one time: the shards of each.
#[derive(Debug)]
struct SavedInputs {
    codecs: Arc<[RowCodec; 2]>,
    sides: [Vec<SavedRows>; 2],
}

impl SpilledRows for SavedInputs {
    fn each(
        &self,
        table: usize,
        take: &mut dyn FnMut(Delta) -> Result<(), EngineError>,
    ) -> Result<(), EngineError> {
        let side = if table == LEFT { LEFT } else { RIGHT };
        let codec = &self.codecs[side];
        let mut shards = self.sides[side].iter();
        shards.try_for_each(|rows| rows.each(codec, take))
    }
}

impl Join {
    /// Moves rows to disk when they have more than `least` bytes in memory.
    pub(in crate::dataflow) fn shed(&mut self, least: usize) -> Result<(), EngineError> {
        let held = self.shards.iter().flatten().map(Arrangement::rows_bytes);
        if held.sum::<usize>() <= least {
            return Ok(());
        }
        for sides in &mut self.shards {
            for (side, codec) in sides.iter_mut().zip(self.codecs.iter()) {
                side.shed(&self.key_codec, codec)?;
            }
        }
        Ok(())
    }

    /// Everything that is remembered, when some of it is on disk.
    pub(super) fn snapshot(&mut self) -> Result<Option<Arc<dyn SpilledRows>>, EngineError> {
        if !self.shards.iter().flatten().any(Arrangement::is_on_disk) {
            return Ok(None);
        }
        let mut saved = [Vec::new(), Vec::new()];
        for sides in &mut self.shards {
            for ((side, codec), saved) in sides.iter_mut().zip(self.codecs.iter()).zip(&mut saved) {
                saved.extend(side.snapshot(&self.key_codec, codec)?);
            }
        }
        Ok(Some(Arc::new(SavedInputs {
            codecs: Arc::clone(&self.codecs),
            sides: saved,
        })))
    }
}
