//! A flow whose state is saved after some steps and read back before others.
//!
//! Invariant: its state tables hold what was taken of it, added up, and nothing else survives a restart.

use std::collections::BTreeMap;
use std::sync::Arc;

use rand::Rng;
use rand_chacha::ChaCha8Rng;
use thalweg_catalog::Oid;
use thalweg_connectors::Delta;
use thalweg_planner::ViewPlan;
use thalweg_state::RunShape;

use super::{Flow, Room, World};
use crate::chunk::RowCodec;
use crate::relation::Version;

pub(super) struct SavedFlow {
    flow: Flow,
    tables: Vec<Version>,
    /// What steps since the last save may be lost with a restart.
    since: Vec<BTreeMap<Oid, Vec<Delta>>>,
    content: Version,
    room: Option<Room>,
}

fn name(room: &Option<Room>) -> &'static str {
    match room {
        Some(_) => "saved, without room",
        None => "saved",
    }
}

impl SavedFlow {
    /// With `room` for a flow that remembers only so much in memory.
    pub(super) fn new(world: &World, view: &ViewPlan, room: Option<Room>) -> SavedFlow {
        let mut flow = Flow::within(world, view, 2, name(&room), room.clone());
        let schemas = flow.dataflow.state_tables().expect("state tables");
        let empty = |schema| {
            RunShape::new(Arc::clone(&schema), &[]).expect("can be stored");
            Version::empty(Arc::new(RowCodec::new(schema).expect("a row form")))
        };
        SavedFlow {
            tables: schemas.into_iter().map(empty).collect(),
            since: Vec::new(),
            content: flow.content.with(&[]).expect("copies"),
            flow,
            room,
        }
    }

    pub(super) fn step(
        &mut self,
        world: &World,
        view: &ViewPlan,
        random: &mut ChaCha8Rng,
        changes: &BTreeMap<Oid, Vec<Delta>>,
    ) -> Result<(), String> {
        self.flow.step(changes)?;
        self.since.push(changes.clone());
        if random.random_bool(0.6) {
            self.save()?;
        }
        if random.random_bool(0.4) {
            self.restart(world, view, 1 << random.random_range(0..3))?;
        }
        Ok(())
    }

    pub(super) fn flow(&self) -> &Flow {
        &self.flow
    }

    fn save(&mut self) -> Result<(), String> {
        let taken = self.flow.dataflow.take_changes();
        let taken = taken.map_err(|error| format!("saves: {error}"))?;
        for (table, changes) in self.tables.iter_mut().zip(taken.tables) {
            if taken.whole {
                *table = table
                    .with(&table.diff_to_content(Vec::new()).expect("nets"))
                    .expect("adds");
            }
            *table = table.with(&changes).expect("adds up");
        }
        for spilled in taken.spilled {
            for (at, table) in self.tables.iter_mut().enumerate() {
                let read = spilled.each(at, &mut |rows| {
                    *table = table.with(&[rows]).expect("adds up");
                    Ok(())
                });
                read.map_err(|error| format!("reads what is on disk: {error}"))?;
            }
        }
        self.content = self.flow.content.with(&[]).expect("copies");
        self.since.clear();
        Ok(())
    }

    fn restart(&mut self, world: &World, view: &ViewPlan, shards: usize) -> Result<(), String> {
        let mut flow = Flow::within(world, view, shards, name(&self.room), self.room.clone());
        flow.content = self.content.with(&[]).expect("copies");
        // What was never saved begins with everything.
        let saved = self.flow.dataflow.is_tracking().expect("is told");
        for (at, table) in self.tables.iter().enumerate().filter(|_| saved) {
            for rows in table.content().expect("nets") {
                let restored = flow.dataflow.restore(at, &rows);
                restored.map_err(|error| format!("restores: {error}"))?;
            }
        }
        if saved {
            let restored = flow.dataflow.restored();
            restored.map_err(|error| format!("restores: {error}"))?;
        }
        for changes in &self.since {
            flow.step(changes)?;
        }
        self.flow = flow;
        Ok(())
    }

    /// Saves, and counts what is left in the state tables.
    pub(super) fn left(&mut self) -> Result<i64, String> {
        self.save()?;
        Ok(self.tables.iter().map(Version::net_rows).sum())
    }
}
