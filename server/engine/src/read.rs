//! Chooses the epoch of a query and runs it there.
//!
//! Invariant: all relations of a query are read at one epoch, which is not older than the session's floor; afterwards the floor
//! is that epoch.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use datafusion::catalog::TableProvider;
use datafusion::error::DataFusionError;
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_plan::SendableRecordBatchStream;
use thalweg_catalog::Oid;
use thalweg_connectors::{Delta, Epoch};
use tokio::time::Instant;

use crate::apart::Apart;
use crate::batch::{RunLimits, joined, stream, with_relations};
use crate::choose::{common, newest};
use crate::error::EngineError;
use crate::relation::Version;
use crate::shared::{Shared, Stored};
use crate::snapshot::SnapshotTable;
use crate::source::{Source, reached};
use crate::transaction::{StagedTable, WriteTransaction};

/// How often a wait looks at what changes without an epoch.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// Lower bound of what a session may still see.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SessionFloor {
    /// Newest epoch the session has read or written.
    pub floor: Epoch,
}

impl SessionFloor {
    pub(crate) fn raise(&mut self, epoch: u64) {
        self.floor = self.floor.max(Epoch(epoch));
    }
}

/// `SET consistency`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Consistency {
    /// One epoch for all objects: the newest that all have.
    #[default]
    Snapshot,
    /// One epoch that contains everything the sources and writers had when the query began.
    Strict,
    /// Each object's latest content.
    Eventual,
}

/// How a read behaves.
#[derive(Debug, Clone, Copy)]
pub struct ReadOptions {
    /// `SET consistency`.
    pub consistency: Consistency,
    /// How long to wait for an epoch that all objects have.
    pub wait_timeout: Duration,
    /// What `now()` reads, microseconds since the Unix epoch.
    pub at_now_us: i64,
    /// `SET read_durable`: the result waits until the epoch that it is of is on disk.
    pub durable: bool,
}

impl Default for ReadOptions {
    fn default() -> Self {
        Self {
            consistency: Consistency::Snapshot,
            wait_timeout: Duration::from_secs(10),
            at_now_us: 0,
            durable: false,
        }
    }
}

/// A running query.
pub struct Read {
    /// The epoch it reads.
    pub epoch: Epoch,
    /// Its result; dropping it stops the query.
    pub stream: SendableRecordBatchStream,
}

impl std::fmt::Debug for Read {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Read")
            .field("epoch", &self.epoch)
            .finish_non_exhaustive()
    }
}

/// What a query found to read.
pub(crate) struct Pinned {
    pub(crate) epoch: u64,
    apart: Apart,
    contents: BTreeMap<Oid, Arc<Version>>,
}

impl Pinned {
    /// The published content of a relation at this epoch; of one that was not read, the newest.
    pub(crate) fn content(&self, relation: &Stored) -> Arc<Version> {
        match self.contents.get(&relation.oid) {
            Some(version) => Arc::clone(version),
            None => relation.history.lock().newest(),
        }
    }

    pub(crate) fn bind(&self, plan: LogicalPlan) -> Result<LogicalPlan, EngineError> {
        let plan = self.apart.bind_tails(plan)?;
        let bound = with_relations(plan, &mut |oid| match self.apart.tables.get(&oid) {
            Some(table) => Ok(Arc::clone(table)),
            None => Err(DataFusionError::Internal(format!(
                "a plan reads OID {} without saying so",
                oid.0
            ))),
        });
        Ok(bound?)
    }
}

pub(crate) async fn read(
    shared: &Arc<Shared>,
    plan: &LogicalPlan,
    reads: &[Oid],
    floor: &mut SessionFloor,
    options: &ReadOptions,
    block: Option<&WriteTransaction>,
) -> Result<Read, EngineError> {
    let apart = Apart::of(plan, options.wait_timeout)?;
    let pinned = pin(shared, (reads, apart), floor.floor.0, options, block).await?;
    if options.durable {
        on_disk(shared, pinned.epoch).await?;
    }
    let limits = RunLimits {
        now_us: options.at_now_us,
        memory: shared.memory.queries.query(shared.config.query_memory_max),
    };
    let plan = shared
        .planner
        .bind_now(pinned.bind(plan.clone())?, options.at_now_us)?;
    let stream = stream(&shared.batch, Arc::clone(&shared.planner), plan, limits).await?;
    floor.raise(pinned.epoch);
    Ok(Read {
        epoch: Epoch(pinned.epoch),
        stream,
    })
}

/// Waits until an epoch is durable, which every epoch is one group fsync after it was published.
async fn on_disk(shared: &Shared, epoch: u64) -> Result<(), EngineError> {
    let mut progress = shared.subscribe();
    loop {
        progress.mark_unchanged();
        if shared.durable.load(Ordering::SeqCst) >= epoch {
            return Ok(());
        }
        let broken = shared.fatal.lock().clone();
        if let Some(error) = broken.or_else(|| shared.log_fault()) {
            return Err(error);
        }
        changed(&mut progress, None).await?;
    }
}

/// Chooses the epoch and takes hold of everything at it; tables with what `block` has staged.
pub(crate) async fn pin(
    shared: &Arc<Shared>,
    (reads, mut apart): (&[Oid], Apart),
    floor: u64,
    options: &ReadOptions,
    block: Option<&WriteTransaction>,
) -> Result<Pinned, EngineError> {
    if let Some(block) = block {
        block.check_reads(reads)?;
    }
    let deadline = Instant::now() + options.wait_timeout;
    let (created, published): (Vec<Oid>, Vec<Oid>) = reads
        .iter()
        .partition(|oid| block.is_some_and(|block| block.created(**oid).is_some()));
    let (published, archived) = apart.open(shared, published).await?;
    let (stored, scanned) = sort_out(shared, &published)?;
    for source in &scanned {
        apart.scan(shared, source).await?;
    }
    let mut least = floor.max(archived);
    if options.consistency == Consistency::Strict {
        let oids: Vec<Oid> = stored.iter().map(|relation| relation.oid).collect();
        least = least.max(epoch_of_now(shared, &oids, Some(deadline)).await?);
    }
    let (epoch, versions) = match options.consistency {
        Consistency::Eventual => latest_of_each(shared, &stored, deadline).await?,
        Consistency::Snapshot | Consistency::Strict => {
            one_epoch(shared, &stored, least, deadline).await?
        }
    };
    let (stored, versions) =
        without_streams(shared, (stored, versions), epoch, options, &mut apart)?;
    let contents: BTreeMap<Oid, Arc<Version>> = stored
        .iter()
        .zip(&versions)
        .map(|(relation, version)| (relation.oid, Arc::clone(version)))
        .collect();
    let parts = on_top(stored, versions, &created, block)?;
    // Netting a version's rows takes time, which neither the wires' threads nor those that run commits have.
    let snapshots = shared.batch.handle().spawn_blocking(move || {
        parts
            .iter()
            .map(|(relation, version, net)| {
                let table = if net.is_empty() {
                    SnapshotTable::new(relation, version)?
                } else {
                    SnapshotTable::with_changes(relation, version, net)?
                };
                Ok((relation.oid, table))
            })
            .collect()
    });
    let snapshots: Result<Vec<_>, EngineError> = joined(snapshots.await)?;
    apart.tables.extend(
        snapshots?
            .into_iter()
            .map(|(oid, table)| (oid, table as Arc<dyn TableProvider>)),
    );
    Ok(Pinned {
        epoch,
        apart,
        contents,
    })
}

/// Takes out the sources, which keep no rows: they are read from outside, up to where they were at the epoch.
fn without_streams(
    shared: &Arc<Shared>,
    (stored, versions): (Vec<Arc<Stored>>, Vec<Arc<Version>>),
    epoch: u64,
    options: &ReadOptions,
    apart: &mut Apart,
) -> Result<(Vec<Arc<Stored>>, Vec<Arc<Version>>), EngineError> {
    let (mut kept, mut contents) = (Vec::new(), Vec::new());
    for (relation, version) in stored.into_iter().zip(versions) {
        let Some(source) = relation.source() else {
            kept.push(relation);
            contents.push(version);
            continue;
        };
        let epoch = match options.consistency {
            Consistency::Eventual => shared.latest(),
            Consistency::Snapshot | Consistency::Strict => epoch,
        };
        let ends = source
            .offsets_at(epoch)
            .ok_or_else(|| lagging(shared, std::slice::from_ref(&relation), epoch))?;
        apart.scan_to(shared, &source, &ends)?;
    }
    Ok((kept, contents))
}

type Part = (Arc<Stored>, Arc<Version>, Vec<Delta>);

/// What is published of each relation, with the net changes that a block has staged on it.
fn on_top(
    stored: Vec<Arc<Stored>>,
    versions: Vec<Arc<Version>>,
    created: &[Oid],
    block: Option<&WriteTransaction>,
) -> Result<Vec<Part>, EngineError> {
    let published = stored.into_iter().zip(versions);
    let own = created.iter().filter_map(|oid| block?.created(*oid));
    let own = own.map(|relation| {
        let empty = relation.history.lock().newest();
        (relation, empty)
    });
    published
        .chain(own)
        .map(|(relation, version)| {
            let staged = block.and_then(|block| block.table(relation.oid));
            let net = staged.map(StagedTable::net).transpose()?;
            Ok((relation, version, net.unwrap_or_default()))
        })
        .collect()
}

type Sorted = (Vec<Arc<Stored>>, Vec<Arc<Source>>);

/// Splits what is read into relations with content, and sources to be scanned for this query alone.
fn sort_out(shared: &Shared, reads: &[Oid]) -> Result<Sorted, EngineError> {
    let sources = shared.sources.read();
    let only_sources = reads.iter().all(|oid| sources.contains_key(oid));
    let (mut stored, mut scanned) = (Vec::new(), Vec::new());
    for oid in reads {
        match sources.get(oid) {
            Some(source) if only_sources || source.state.lock().consumers.is_empty() => {
                scanned.push(Arc::clone(source))
            }
            _ => stored.push(shared.relation(*oid).ok_or(EngineError::Unknown(*oid))?),
        }
    }
    Ok((stored, scanned))
}

/// The newest epoch, not older than `least`, that every relation knows, and what they hold there.
async fn one_epoch(
    shared: &Shared,
    relations: &[Arc<Stored>],
    least: u64,
    deadline: Instant,
) -> Result<(u64, Vec<Arc<Version>>), EngineError> {
    let mut progress = shared.subscribe();
    loop {
        progress.mark_unchanged();
        // Read before the relations: what is published meanwhile is not looked at.
        let latest = shared.latest();
        if let Some(error) = relations
            .iter()
            .find_map(|relation| shared.failure(relation.oid))
        {
            return Err(error);
        }
        if relations.is_empty() {
            return Ok((latest, Vec::new()));
        }
        let lists: Vec<_> = relations
            .iter()
            .map(|relation| relation.known(latest))
            .collect();
        let known = common(lists.iter().map(Vec::as_slice)).unwrap_or_default();
        if let Some(epoch) = newest(&known).filter(|epoch| *epoch >= least) {
            let versions: Option<Vec<_>> = relations
                .iter()
                .map(|relation| relation.at(epoch, latest))
                .collect();
            if let Some(versions) = versions {
                return Ok((epoch, versions));
            }
            continue;
        }
        still_there(shared, relations)?;
        can_come(shared, relations)?;
        if !changed(&mut progress, Some(deadline)).await? {
            return Err(lagging(shared, relations, least));
        }
    }
}

async fn latest_of_each(
    shared: &Shared,
    relations: &[Arc<Stored>],
    deadline: Instant,
) -> Result<(u64, Vec<Arc<Version>>), EngineError> {
    let mut progress = shared.subscribe();
    loop {
        progress.mark_unchanged();
        let latest = shared.latest();
        let found: Option<Vec<_>> = relations
            .iter()
            .map(|relation| {
                let epoch = relation.through(latest)?;
                Some((epoch, relation.at(epoch, latest)?))
            })
            .collect();
        if let Some(found) = found {
            let epoch = found
                .iter()
                .map(|(epoch, _)| *epoch)
                .min()
                .unwrap_or(latest);
            return Ok((
                epoch,
                found.into_iter().map(|(_, version)| version).collect(),
            ));
        }
        if let Some(error) = relations
            .iter()
            .filter(|relation| relation.through(latest).is_none())
            .find_map(|relation| shared.failure(relation.oid))
        {
            return Err(error);
        }
        still_there(shared, relations)?;
        can_come(shared, relations)?;
        if !changed(&mut progress, Some(deadline)).await? {
            return Err(lagging(shared, relations, 0));
        }
    }
}

/// An epoch that contains everything written so far and everything the sources under `oids` hold now.
pub(crate) async fn epoch_of_now(
    shared: &Arc<Shared>,
    oids: &[Oid],
    deadline: Option<Instant>,
) -> Result<u64, EngineError> {
    if let Some(error) = oids.iter().find_map(|oid| shared.paused(*oid)) {
        return Err(error);
    }
    let mut epoch = shared.latest();
    let mut roots = Vec::new();
    oids.iter().for_each(|oid| shared.roots(*oid, &mut roots));
    let sources: Vec<_> = {
        let sources = shared.sources.read();
        roots
            .iter()
            .filter_map(|oid| sources.get(oid).cloned())
            .collect()
    };
    for source in sources {
        if source.state.lock().consumers.is_empty() {
            continue;
        }
        let connector = Arc::clone(&source.connector);
        let ends = shared
            .wires
            .spawn(async move { connector.end_offsets().await });
        let ends = ends
            .await
            .map_err(EngineError::internal)?
            .map_err(|error| error.report())?;
        let mut progress = shared.subscribe();
        loop {
            progress.mark_unchanged();
            if let Some(error) = shared.failure(source.oid).or_else(|| shared.halted()) {
                return Err(error);
            }
            // Dropped meanwhile, or nothing reads it any more: it has no content to wait for.
            let dropped = !shared.sources.read().contains_key(&source.oid);
            {
                let state = source.state.lock();
                if dropped || state.consumers.is_empty() {
                    break;
                }
                if state.started && reached(&state.bound, &ends, &source.start) {
                    break;
                }
            }
            if !changed(&mut progress, deadline).await? {
                return Err(lagging(
                    shared,
                    std::slice::from_ref(&source.history),
                    epoch,
                ));
            }
        }
        // Offsets are bound while their epoch is being published; that one is at most one ahead.
        epoch = epoch.max(source.history.history.lock().changed_at());
    }
    Ok(epoch)
}

/// Waits until all relations know `epoch` or a later one. One over a source that cannot be read, and was not readable since it
/// is consumed, is not waited for.
pub(crate) async fn reflected(
    shared: &Shared,
    relations: &[Arc<Stored>],
    epoch: u64,
) -> Result<(), EngineError> {
    let mut progress = shared.subscribe();
    loop {
        progress.mark_unchanged();
        let latest = shared.latest();
        let open: Vec<_> = relations
            .iter()
            .filter(|relation| {
                relation
                    .through(latest)
                    .is_none_or(|through| through < epoch)
            })
            .filter(|relation| shared.relation(relation.oid).is_some())
            .filter(|relation| obstacle(shared, relation.oid).is_none())
            .filter(|relation| shared.stuck(relation.oid).is_none())
            .collect();
        if open.is_empty() {
            return Ok(());
        }
        if let Some(error) = open
            .iter()
            .find_map(|relation| shared.failure(relation.oid))
        {
            return Err(error);
        }
        if let Some(error) = shared.halted() {
            return Err(error);
        }
        // A source's health changes without an epoch.
        changed(&mut progress, Some(Instant::now() + LOOK_AGAIN)).await?;
    }
}

/// A relation that was dropped makes no progress, so nobody waits for it.
fn still_there(shared: &Shared, relations: &[Arc<Stored>]) -> Result<(), EngineError> {
    let gone = |relation: &&Arc<Stored>| shared.relation(relation.oid).is_none();
    match relations.iter().find(gone) {
        Some(relation) => Err(EngineError::Unknown(relation.oid)),
        None => Ok(()),
    }
}

/// What stands still without content makes no progress either.
fn can_come(shared: &Shared, relations: &[Arc<Stored>]) -> Result<(), EngineError> {
    let mut stuck = relations.iter().filter_map(|it| shared.stuck(it.oid));
    stuck.next().map_or(Ok(()), Err)
}

/// Why the sources under `oid` have nothing to show yet, when that may last.
fn obstacle(shared: &Shared, oid: Oid) -> Option<String> {
    let mut scans = Vec::new();
    shared.backfills(oid, &mut scans);
    if let Some(reason) = scans.iter().find_map(|scan| scan.obstacle()) {
        return Some(reason);
    }
    let mut roots = Vec::new();
    shared.roots(oid, &mut roots);
    let sources = shared.sources.read();
    roots.iter().find_map(|root| {
        let state = sources.get(root)?.state.lock();
        state.obstacle().map(str::to_owned)
    })
}

/// Waits for progress; false when `deadline` came first.
async fn changed(
    progress: &mut tokio::sync::watch::Receiver<u64>,
    deadline: Option<Instant>,
) -> Result<bool, EngineError> {
    let change = async { progress.changed().await.map_err(|_| EngineError::Stopping) };
    match deadline {
        None => change.await.map(|()| true),
        Some(deadline) => match tokio::time::timeout_at(deadline, change).await {
            Ok(changed) => changed.map(|()| true),
            Err(_) => Ok(false),
        },
    }
}

/// Names the slowest relation.
fn lagging(shared: &Shared, relations: &[Arc<Stored>], least: u64) -> EngineError {
    let latest = shared.latest();
    let slowest = relations
        .iter()
        .min_by_key(|relation| relation.through(latest));
    let Some(relation) = slowest else {
        return EngineError::Stopping;
    };
    // A view that waits for its source is not the one to look at.
    let (mut roots, mut scans) = (Vec::new(), Vec::new());
    shared.roots(relation.oid, &mut roots);
    shared.backfills(relation.oid, &mut scans);
    let behind = roots
        .iter()
        .filter_map(|oid| shared.relation(*oid))
        .find(|root| root.through(latest).is_none())
        .map(|root| root.label());
    let behind = behind.or(scans.first().map(|scan| scan.label.clone()));
    let wanted = if least > 0 {
        format!(" Epoch {least} was asked for.")
    } else {
        String::new()
    };
    let detail = match (behind, relation.through(latest)) {
        (Some(label), _) => match obstacle(shared, relation.oid) {
            Some(reason) => format!("The {label} cannot be read: {reason}.{wanted}"),
            None => {
                format!("The {label} is still being read up to where it was before.{wanted}")
            }
        },
        (None, Some(through)) => format!("It has reached epoch {through}.{wanted}"),
        (None, None) => format!("It has not been computed yet.{wanted}"),
    };
    EngineError::Lagging {
        object: relation.label(),
        detail,
    }
}
