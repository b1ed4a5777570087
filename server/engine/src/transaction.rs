//! Transaction blocks: changes that only their block sees until COMMIT makes all of them one epoch.
//!
//! Invariant: what is staged is checked by row when it commits: every row that it removes is still there, every key that it
//! adds is free. So of two blocks that change the same row one fails with 40001, and none is lost.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::BuildHasherDefault;
use std::sync::Arc;

use datafusion::arrow::record_batch::RecordBatch;
use thalweg_catalog::{Catalog, Oid, Relation, Report};
use thalweg_connectors::{Delta, EpochInfo, Weights};
use thalweg_planner::ViewPlan;
use thalweg_state::Transaction;
use tokio::sync::oneshot;

use crate::archive::Archive;
use crate::batch::joined;
use crate::consolidate::BytesHasher;
use crate::create::{Sinks, prepare_all, stored_table};
use crate::error::EngineError;
use crate::inbox::{Command, Definition, Submission, TableChange};
use crate::relation::Version;
use crate::sealed::SealedBox;
use crate::shared::{Shared, Stored};
use crate::table::{Encoded, KeyIndex, Table};
use crate::write::{send, table_change};

/// Rows staged by one `BEGIN ... COMMIT` block, per table. Dropping it undoes them.
#[derive(Debug, Default)]
pub struct WriteTransaction {
    tables: SealedBox<BTreeMap<Oid, StagedTable>>,
    /// Rows for an archive, which are a commit of their own: a block that has them has nothing else.
    archived: Option<SealedBox<StagedRows>>,
}

/// Rows that COMMIT adds to an archive.
#[derive(Debug)]
struct StagedRows {
    oid: Oid,
    archive: Arc<Archive>,
    rows: Vec<RecordBatch>,
    /// The epoch that the newest of them were computed at.
    epoch: u64,
}

/// One table's staged changes.
#[derive(Debug)]
pub(crate) struct StagedTable {
    stored: Arc<Stored>,
    /// Changes as content over nothing; rows that are removed have negative counts.
    changes: Version,
    /// What the changes do to keys: the row now under it, or none.
    keys: HashMap<Encoded, Option<Encoded>, BuildHasherDefault<BytesHasher>>,
    /// Created in this block: nobody else knows the table.
    created: bool,
}

impl StagedTable {
    fn new(stored: Arc<Stored>, created: bool) -> Self {
        Self {
            changes: Version::empty(Arc::clone(&stored.codec)),
            stored,
            keys: HashMap::default(),
            created,
        }
    }

    pub(crate) fn key(&self, key: &[u8]) -> Option<&Option<Encoded>> {
        self.keys.get(key)
    }

    /// Net changes.
    pub(crate) fn net(&self) -> Result<Vec<Delta>, EngineError> {
        let mut net = self.changes.content()?;
        net.retain(|delta| delta.num_rows() > 0);
        Ok(net)
    }
}

impl WriteTransaction {
    /// True when no rows are staged.
    pub fn is_empty(&self) -> bool {
        self.archived.is_none() && self.has_no_changes()
    }

    fn has_no_changes(&self) -> bool {
        self.tables
            .values()
            .all(|table| table.changes.bytes() == 0 && table.keys.is_empty())
    }

    /// 0A000 for a query of what the block has added to an archive: the files do not have it.
    pub(crate) fn check_reads(&self, reads: &[Oid]) -> Result<(), EngineError> {
        let staged = self.archived.as_ref();
        match staged.filter(|staged| reads.contains(&staged.oid)) {
            Some(staged) => Err(Report {
                hint: Some("COMMIT first.".into()),
                ..Report::new(
                    "0A000",
                    format!(
                        "archive \"{}\" cannot be read in a transaction block that has added rows to it",
                        staged.archive.name()
                    ),
                )
            }
            .into()),
            None => Ok(()),
        }
    }

    /// Stages rows for an archive.
    pub(crate) fn stage_rows(
        &mut self,
        shared: &Shared,
        (oid, archive): (Oid, Arc<Archive>),
        rows: Vec<RecordBatch>,
        epoch: u64,
    ) -> Result<(), EngineError> {
        if !self.has_no_changes() {
            return Err(mixed(&archive).into());
        }
        let staged = self.archived.get_or_insert_with(|| {
            SealedBox::new(StagedRows {
                oid,
                archive: Arc::clone(&archive),
                rows: Vec::new(),
                epoch,
            })
        });
        if staged.oid != oid {
            return Err(mixed(&archive).into());
        }
        staged.epoch = epoch;
        staged.rows.extend(rows);
        let bytes = staged.rows.iter().map(RecordBatch::get_array_memory_size);
        within_memory(shared, bytes.sum())
    }

    /// Forgets tables that the block drops.
    pub fn forget(&mut self, oids: &[Oid]) {
        self.tables.retain(|oid, _| !oids.contains(oid));
    }

    pub(crate) fn create(
        &mut self,
        shared: &Shared,
        catalog: &Catalog,
        relation: &Relation,
    ) -> Result<(), EngineError> {
        let stored = stored_table(shared, catalog, relation)?;
        self.tables
            .insert(relation.oid, StagedTable::new(stored, true));
        Ok(())
    }

    /// A table that this block created.
    pub(crate) fn created(&self, oid: Oid) -> Option<Arc<Stored>> {
        let table = self.tables.get(&oid).filter(|table| table.created)?;
        Some(Arc::clone(&table.stored))
    }

    pub(crate) fn table(&self, oid: Oid) -> Option<&StagedTable> {
        self.tables.get(&oid)
    }

    pub(crate) fn stage(
        &mut self,
        shared: &Shared,
        stored: &Arc<Stored>,
        deltas: Vec<Delta>,
    ) -> Result<(), EngineError> {
        if deltas.is_empty() {
            return Ok(());
        }
        if let Some(staged) = &self.archived {
            return Err(mixed(&staged.archive).into());
        }
        let table = self
            .tables
            .entry(stored.oid)
            .or_insert_with(|| StagedTable::new(Arc::clone(stored), false));
        let changes = table.changes.with(&deltas)?;
        let effects = match key_of(stored) {
            Some(index) => index.effects(&deltas)?,
            None => Vec::new(),
        };
        table.changes = changes;
        table.keys.extend(effects);
        let bytes = self.tables.values().map(|table| table.changes.bytes());
        within_memory(shared, bytes.sum())
    }
}

fn within_memory(shared: &Shared, bytes: usize) -> Result<(), EngineError> {
    if bytes > shared.config.query_memory_max {
        return Err(EngineError::statement(
            "53200",
            "the changes of this transaction block need more memory than a query may use",
            Some(format!("They take {bytes} bytes.")),
        ));
    }
    Ok(())
}

/// An archive's commit and that of the data dir cannot be one.
fn mixed(archive: &Archive) -> Report {
    Report {
        hint: Some(
            "Add to one archive in a block, and nothing else; commit the rest in another.".into(),
        ),
        ..Report::new(
            "0A000",
            format!(
                "a transaction block that adds to archive \"{}\" and changes anything else is not supported",
                archive.name()
            ),
        )
    }
}

/// What a COMMIT changes beside rows. Everything of it becomes durable and visible together with the block's rows, or nothing.
pub struct Definitions {
    /// The catalog after the changes.
    pub catalog: Arc<Catalog>,
    /// New objects, inputs first; views and sinks with their plans.
    pub create: Vec<(Relation, Option<ViewPlan>)>,
    /// Objects that go.
    pub drop: Vec<Oid>,
    /// Sources, views and sinks that are to stand still, or to go on.
    pub pause: Vec<(Oid, bool)>,
    /// Writes the catalog's records in the transaction that makes the rows durable.
    pub append: Append,
    /// Shows the new catalog; called at the moment when the engine knows the objects.
    pub publish: Box<dyn FnOnce() + Send>,
}

/// Writes in a transaction of the data file, or refuses it.
pub type Append = Box<dyn FnOnce(&Transaction) -> Result<(), Report> + Send>;

impl std::fmt::Debug for Definitions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Definitions")
            .field("create", &self.create.len())
            .field("drop", &self.drop)
            .finish_non_exhaustive()
    }
}

/// Commits a block. Runs to its end even when the caller goes away.
pub(crate) async fn commit(
    shared: &Arc<Shared>,
    block: WriteTransaction,
    definitions: Option<Definitions>,
) -> Result<EpochInfo, EngineError> {
    let shared = Arc::clone(shared);
    let batch = shared.batch.handle().clone();
    let task = batch.spawn(async move { run(&shared, block, definitions).await });
    joined(task.await)?
}

async fn run(
    shared: &Arc<Shared>,
    block: WriteTransaction,
    definitions: Option<Definitions>,
) -> Result<EpochInfo, EngineError> {
    if let Some(staged) = block.archived {
        let staged = staged.into_inner();
        if definitions.is_some() {
            return Err(mixed(&staged.archive).into());
        }
        staged.archive.insert(staged.rows, staged.epoch).await?;
        return Ok(shared.latest_info());
    }
    let (mut changes, mut fresh) = (Vec::new(), BTreeMap::new());
    for (oid, table) in block.tables.into_inner() {
        let net = table.net()?;
        if net.is_empty() {
            continue;
        }
        shared.admit(&table.stored, &net)?;
        let change = table_change(&table.stored, net)?;
        if table.created {
            fresh.insert(oid, change);
        } else {
            changes.push((table.stored, change));
        }
    }
    let Some(definitions) = definitions else {
        return commit_rows(shared, changes).await;
    };
    shared.admit_changes()?;
    let (definition, sinks) = prepare(shared, definitions, fresh)?;
    let guards = locked(&changes).await?;
    let info = publish(changes, |changes, reply| {
        let what = Box::new(Definition {
            changes,
            ..definition
        });
        shared.inbox.command(Command::Define { what, reply })
    })
    .await?;
    drop(guards);
    for (job, outlet) in sinks {
        crate::sinks::start(shared, job, outlet);
    }
    Ok(info)
}

type Changes = Vec<(Arc<Stored>, TableChange)>;

async fn commit_rows(shared: &Arc<Shared>, mut changes: Changes) -> Result<EpochInfo, EngineError> {
    let mut guards = locked(&changes).await?;
    if let [_] = changes.as_slice()
        && let Some((stored, change)) = changes.pop()
    {
        return send(shared, &stored, change, guards.pop()).await;
    }
    if changes.is_empty() {
        return Ok(shared.latest_info());
    }
    let info = publish(changes, |changes, reply| {
        shared.inbox.submit(Submission { changes, reply })
    })
    .await?;
    drop(guards);
    Ok(info)
}

/// Hands changes of several tables over. Their indexes follow only after the answer, and the caller holds the locks until
/// then: such a change can be refused, when one of the tables is gone, while the others go on.
async fn publish(
    changes: Changes,
    submit: impl FnOnce(
        Vec<TableChange>,
        oneshot::Sender<Result<EpochInfo, EngineError>>,
    ) -> Result<(), EngineError>,
) -> Result<EpochInfo, EngineError> {
    let mut indexes = Vec::new();
    for (stored, change) in &changes {
        if let Some(index) = key_of(stored) {
            indexes.push((Arc::clone(stored), index.effects(&change.deltas)?));
        }
    }
    let (reply, acknowledged) = oneshot::channel();
    let changes = changes.into_iter().map(|(_, change)| change).collect();
    submit(changes, reply)?;
    let info = acknowledged.await.map_err(|_| EngineError::Stopping)??;
    for (stored, effects) in indexes {
        if let Some(index) = key_of(&stored) {
            index.follow(effects);
        }
    }
    Ok(info)
}

/// Locks what must not change until the changes are in the queue, in OID order so that blocks never wait in a ring, and checks
/// them against it.
async fn locked(changes: &Changes) -> Result<Vec<tokio::sync::OwnedMutexGuard<()>>, EngineError> {
    let mut guards = Vec::new();
    for (stored, change) in changes {
        let Some(table) = &stored.table else { continue };
        let removes = change
            .deltas
            .iter()
            .any(|delta| !delta.weights.all_positive());
        if table.key.is_none() && !removes {
            continue;
        }
        guards.push(table.lock(&stored.history).await?);
        if table.key.is_none() {
            table.writers.settled().await;
        }
        validate(stored, table, &change.deltas)?;
    }
    Ok(guards)
}

fn validate(stored: &Stored, table: &Table, deltas: &[Delta]) -> Result<(), EngineError> {
    match &table.key {
        Some(index) => validate_keys(stored, index, deltas),
        None => {
            let version = stored.history.lock().newest();
            for delta in deltas {
                let weights = (0..delta.num_rows()).map(|row| -delta.weights.at(row).min(0));
                let removed = Delta {
                    batch: delta.batch.clone(),
                    weights: Weights::Each(weights.collect()),
                };
                if !delta.weights.all_positive() && !version.missing(&removed)?.is_empty() {
                    return Err(EngineError::concurrent_update());
                }
            }
            Ok(())
        }
    }
}

fn validate_keys(stored: &Stored, index: &KeyIndex, deltas: &[Delta]) -> Result<(), EngineError> {
    let mut gone: HashSet<Encoded, BuildHasherDefault<BytesHasher>> = HashSet::default();
    for delta in deltas.iter().filter(|delta| !delta.weights.all_positive()) {
        let rows = stored.codec.encode(delta.batch.columns())?;
        for (at, key) in index.keys(&delta.batch)?.into_iter().enumerate() {
            if delta.weights.at(at) >= 0 {
                continue;
            }
            if index.row(&key).as_deref() != Some(rows.row(at).data()) {
                return Err(EngineError::concurrent_update());
            }
            gone.insert(key);
        }
    }
    for delta in deltas {
        for (at, key) in index.keys(&delta.batch)?.into_iter().enumerate() {
            if delta.weights.at(at) > 0 && index.contains(&key) && !gone.contains(&key) {
                return Err(EngineError::concurrent_update());
            }
        }
    }
    Ok(())
}

fn prepare(
    shared: &Arc<Shared>,
    definitions: Definitions,
    mut fresh: BTreeMap<Oid, TableChange>,
) -> Result<(Definition, Sinks), EngineError> {
    let (mut registrations, sinks) = prepare_all(shared, &definitions.catalog, definitions.create)?;
    let mut records = Vec::new();
    for registration in &mut registrations {
        let Some((stored, version)) = &mut registration.content else {
            continue;
        };
        let Some(change) = fresh.remove(&stored.oid) else {
            continue;
        };
        *version = Arc::new(version.with(&change.deltas)?);
        if let Some(index) = key_of(stored) {
            index.apply(&change.deltas)?;
        }
        records.push((change.stored.oid.0, change.record));
    }
    let definition = Definition {
        registrations,
        changes: Vec::new(),
        records,
        drop: definitions.drop,
        pause: definitions.pause,
        append: definitions.append,
        publish: definitions.publish,
    };
    Ok((definition, sinks))
}

fn key_of(stored: &Stored) -> Option<&KeyIndex> {
    stored.table.as_ref().and_then(|table| table.key.as_ref())
}
