//! Checkpoints of tables, and the way back: from runs and the log after them.
//!
//! Invariant: at every moment a table is what its runs and the log after them add up to. Where the log reaches further back than
//! the runs end, earlier contents are the same sum with that log taken back.

use std::sync::Arc;

use datafusion::arrow::datatypes::SchemaRef;
use parking_lot::MutexGuard;
use thalweg_connectors::{Delta, Weights};
use thalweg_state::{Multiplicity, RunShape, Save, StateError, WeightedBatch};

use crate::batch::conform;
use crate::error::EngineError;
use crate::relation::Version;
use crate::shared::{Shared, Stored};
use crate::table::Table;
use crate::worker::weighted;

/// What the newest checkpoint has of a table.
#[derive(Debug, Clone, Default)]
pub(crate) struct Saved {
    /// Every change through this epoch.
    pub(crate) through: u64,
    /// The content then; none before the first checkpoint.
    pub(crate) version: Option<Arc<Version>>,
}

impl Saved {
    pub(super) fn at(through: u64, version: Arc<Version>) -> Self {
        Self {
            through,
            version: Some(version),
        }
    }
}

/// Writes what has changed in a table since it was last saved.
pub(super) fn save_table(
    shared: &Shared,
    stored: &Stored,
    epoch: u64,
) -> Result<Option<(Save, Arc<Version>)>, EngineError> {
    // Content that could not be brought up to date is no content to save.
    let Some(table) = stored
        .table
        .as_ref()
        .filter(|_| stored.failure.lock().is_none())
    else {
        return Ok(None);
    };
    let saved = table.saved.lock().clone();
    let (version, logged) = {
        let history = stored.history.lock();
        let Some(version) = history.at(epoch, epoch) else {
            return Ok(None);
        };
        if saved
            .version
            .as_ref()
            .is_some_and(|saved| Arc::ptr_eq(saved, &version))
        {
            return Ok(None);
        }
        let reaches = saved.through >= history.changes_after();
        let logged = reaches
            .then(|| history.delta(saved.through, epoch))
            .flatten();
        (version, logged)
    };
    let changes = match (logged, &saved.version) {
        (Some(changes), _) => changes,
        (None, Some(saved)) => saved.diff_to(&version)?,
        (None, None) => version.content()?,
    };
    let changes: Vec<WeightedBatch> = changes.iter().map(weighted).collect();
    let runs = shared
        .checkpoints
        .runs
        .write(&shape(stored, table)?, &changes)?;
    let save = Save {
        table: stored.oid.0.into(),
        since: Some(saved.through),
        through: epoch,
        runs,
        gone: Vec::new(),
    };
    Ok(Some((save, version)))
}

pub(super) fn shape(stored: &Stored, table: &Table) -> Result<RunShape, StateError> {
    let key = table.key.as_ref().map(|key| key.positions.as_slice());
    RunShape::new(stored.schema(), key.unwrap_or_default())
}

/// The content that a table's runs and the log after them add up to.
pub(crate) fn recover(shared: &Shared, stored: &Stored) -> Result<Arc<Version>, EngineError> {
    let Some(table) = &stored.table else {
        return Ok(Arc::new(Version::empty(Arc::clone(&stored.codec))));
    };
    let (runs, oid) = (&shared.checkpoints.runs, stored.oid.0);
    let through = runs.table(oid)?.through;
    let saved = Arc::new(content_of_runs(shared, stored, &shape(stored, table)?)?);
    *table.saved.lock() = Saved {
        through,
        version: Some(Arc::clone(&saved)),
    };
    let log = logged(shared, stored, through, u64::MAX)?;
    Ok(match log.is_empty() {
        true => saved,
        false => Arc::new(saved.with(&log)?),
    })
}

/// What the runs of an object's content add up to.
pub(super) fn content_of_runs(
    shared: &Shared,
    stored: &Stored,
    shape: &RunShape,
) -> Result<Version, EngineError> {
    let mut version = Version::empty(Arc::clone(&stored.codec));
    let name = format!("a run of {}", stored.label());
    let runs = &shared.checkpoints.runs;
    runs.read_table(stored.oid.0, shape, |rows| {
        version = version.with(&[from_log(&rows, &stored.schema(), &name)?])?;
        Ok::<_, EngineError>(())
    })?;
    Ok(version)
}

/// A table's content at an epoch of an earlier run of the server; `None` when the log does not reach back to it. The caller holds
/// the turn, so nothing is saved or cut meanwhile.
pub(super) fn content_at(
    shared: &Shared,
    stored: &Stored,
    epoch: u64,
    _turn: &MutexGuard<'_, ()>,
) -> Result<Option<Arc<Version>>, EngineError> {
    let Some(table) = &stored.table else {
        return Ok(None);
    };
    let Saved { through, version } = table.saved.lock().clone();
    let version = version.unwrap_or_else(|| Arc::new(Version::empty(Arc::clone(&stored.codec))));
    if shared.checkpoints.runs.table(stored.oid.0)?.logged_after > epoch {
        return Ok(None);
    }
    let (first, last) = (through.min(epoch), through.max(epoch));
    let mut between = logged(shared, stored, first, last)?;
    if between.is_empty() {
        return Ok(Some(version));
    }
    if epoch < through {
        between.iter_mut().for_each(take_back);
    }
    Ok(Some(Arc::new(version.with(&between)?)))
}

fn take_back(delta: &mut Delta) {
    delta.weights = match &delta.weights {
        Weights::Ones => Weights::Constant(-1),
        Weights::Constant(weight) => Weights::Constant(-weight),
        Weights::Each(weights) => Weights::Each(weights.iter().map(|weight| -weight).collect()),
    };
}

/// A table's logged changes after one epoch and through another.
fn logged(
    shared: &Shared,
    stored: &Stored,
    after: u64,
    through: u64,
) -> Result<Vec<Delta>, EngineError> {
    let mut deltas = Vec::new();
    for entry in shared.store.table_log(stored.oid.0, after)?.entries {
        let (epoch, seq) = (entry.epoch, entry.seq);
        if epoch > through {
            break;
        }
        let name = format!("DML log entry {epoch}/{seq} of {}", stored.label());
        for change in &entry.changes {
            deltas.push(from_log(change, &stored.schema(), &name)?);
        }
    }
    Ok(deltas)
}

pub(crate) fn from_log(
    change: &WeightedBatch,
    schema: &SchemaRef,
    name: &str,
) -> Result<Delta, EngineError> {
    let batch = conform(&change.batch, schema).map_err(|error| EngineError::Storage {
        sqlstate: "XX001",
        message: format!("{name} is corrupt: {error}"),
    })?;
    let weights = match &change.weights {
        Multiplicity::Constant(1) => Weights::Ones,
        Multiplicity::Constant(weight) => Weights::Constant(*weight),
        Multiplicity::Each(weights) => Weights::Each(weights.clone().into()),
    };
    Ok(Delta { batch, weights })
}
