//! Follows one relation: its content at an epoch, then the net changes of every later epoch, without a gap or a double.
//!
//! Invariant: only epochs that are on disk are told of, each whole and once, in order. A reader that stalls costs at most
//! `subscription_bytes_max` besides the history that every relation keeps, and holds up nothing but itself.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use datafusion::arrow::datatypes::{Schema, SchemaRef};
use datafusion::arrow::record_batch::RecordBatch;
use parking_lot::Mutex;
use thalweg_catalog::Oid;
use thalweg_connectors::Delta;
use thalweg_planner::ViewPlan;
use tokio::sync::{Notify, oneshot, watch};
use tokio::task::AbortHandle;

use crate::batch::joined;
use crate::chunk::Chunk;
use crate::consolidate::{Term, consolidate};
use crate::error::EngineError;
use crate::inbox::{Command, Registration};
use crate::job::Job;
use crate::memory::Counted;
use crate::read::SessionFloor;
use crate::relation::Version;
use crate::segments::History;
use crate::shared::{Shared, Stored};

/// Changes of more rows than this are netted on a thread of the engine's own.
const NETTED_HERE_ROWS: usize = 8_192;

/// OIDs from here on belong to queries of subscriptions; the catalog counts up from far below.
pub(crate) const HIDDEN_OIDS: u32 = 1 << 31;

/// What is followed.
#[derive(Debug)]
pub enum Followed {
    /// A table or materialized view.
    Relation(Oid),
    /// A query, kept up to date as long as the subscription lives.
    Query(Box<ViewPlan>),
}

/// Where a subscription starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FollowFrom {
    /// At the newest epoch that the session may see.
    Now,
    /// At this epoch.
    AsOf(u64),
    /// With the changes that follow this progress mark; there is no snapshot.
    After(u64),
}

/// How a subscription behaves.
#[derive(Debug, Clone, Copy)]
pub struct FollowOptions {
    /// The content comes first.
    pub snapshot: bool,
    /// Where it starts.
    pub from: FollowFrom,
    /// It ends when nothing below this epoch is missing.
    pub up_to: Option<u64>,
}

/// What a subscription tells.
#[derive(Debug)]
pub enum FollowEvent {
    /// The content at an epoch.
    Snapshot {
        /// The epoch.
        epoch: u64,
        /// Every row once.
        rows: Vec<RecordBatch>,
    },
    /// The net changes of one epoch, deletions first.
    Changes {
        /// The epoch.
        epoch: u64,
        /// Rows with weights.
        deltas: Vec<Delta>,
    },
    /// Nothing below this epoch will follow; a later subscription can continue here.
    Progress(u64),
}

/// An open subscription. Dropping it ends it, and the query that is kept for it.
pub struct Subscription {
    shared: Arc<Shared>,
    relation: Arc<Stored>,
    feed: Arc<Feed>,
    snapshot: Option<(u64, Arc<Version>)>,
    /// The mark that was told last, and one that is to be told before anything else.
    told: u64,
    owed: Option<u64>,
    pump: Option<AbortHandle>,
    hidden: Option<Hidden>,
}

impl std::fmt::Debug for Subscription {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Subscription")
            .field("relation", &self.relation.name)
            .field("told", &self.told)
            .finish_non_exhaustive()
    }
}

/// The query of a subscription; it goes when this is dropped.
struct Hidden {
    shared: Arc<Shared>,
    oid: Oid,
}

impl Drop for Hidden {
    fn drop(&mut self) {
        let (reply, _) = oneshot::channel();
        // A worker that has stopped has no objects to forget.
        let _ = self.shared.inbox.command(Command::Drop {
            oids: vec![self.oid],
            reply,
        });
    }
}

/// What waits for the reader.
#[derive(Debug)]
pub(crate) struct Feed {
    state: Mutex<FeedState>,
    /// Wakes the reader.
    filled: Notify,
    /// Wakes the pump.
    drained: Notify,
}

impl Feed {
    /// Counts the changes that wait.
    pub(crate) fn count(&self, counted: &mut Counted) {
        let state = self.state.lock();
        let deltas = state.changes.iter().flat_map(|(_, deltas)| deltas.iter());
        deltas.for_each(|delta| counted.delta(delta));
    }
}

#[derive(Debug, Default)]
struct FeedState {
    changes: VecDeque<(u64, Arc<Vec<Delta>>)>,
    bytes: usize,
    /// Every change through this epoch has been put in.
    through: u64,
    /// Why nothing more comes.
    end: Option<Result<(), EngineError>>,
}

/// Moves changes from a relation's history into a feed.
struct Pump {
    shared: Arc<Shared>,
    relation: Arc<Stored>,
    /// What the relation is computed from, when nobody but the subscription knows that.
    inputs: Vec<Arc<Stored>>,
    feed: Arc<Feed>,
    up_to: Option<u64>,
}

pub(crate) async fn subscribe(
    shared: &Arc<Shared>,
    followed: Followed,
    options: FollowOptions,
    floor: &mut SessionFloor,
) -> Result<Subscription, EngineError> {
    let (relation, inputs, hidden) = match followed {
        Followed::Relation(oid) => {
            let relation = shared.relation(oid).ok_or(EngineError::Unknown(oid))?;
            (relation, Vec::new(), None)
        }
        Followed::Query(plan) => hidden_job(shared, *plan).await?,
    };
    let (since, snapshot) = start(shared, &relation, &inputs, options, floor).await?;
    let feed = Arc::new(Feed {
        state: Mutex::new(FeedState {
            through: since,
            ..FeedState::default()
        }),
        filled: Notify::new(),
        drained: Notify::new(),
    });
    shared.memory.follow(&feed);
    let pump = Pump {
        shared: Arc::clone(shared),
        relation: Arc::clone(&relation),
        inputs,
        feed: Arc::clone(&feed),
        up_to: options.up_to,
    };
    let pump = shared.wires.spawn(pump.run()).abort_handle();
    Ok(Subscription {
        shared: Arc::clone(shared),
        relation,
        feed,
        snapshot: snapshot.map(|version| (since, version)),
        told: 0,
        owed: Some(since + 1),
        pump: Some(pump),
        hidden,
    })
}

type Prepared = (Arc<Stored>, Vec<Arc<Stored>>, Option<Hidden>);

/// Starts to keep a query up to date.
async fn hidden_job(shared: &Arc<Shared>, plan: ViewPlan) -> Result<Prepared, EngineError> {
    let number = shared.hidden.fetch_add(1, Ordering::SeqCst);
    let oid = Oid(HIDDEN_OIDS | number);
    let fields: Vec<_> = plan
        .output
        .iter()
        .map(|column| column.ty.field(&column.name, true))
        .collect();
    let schema = Arc::new(Schema::new(fields));
    let name = format!("subscription {number}");
    let relation = Stored::new(oid, &name, "query", schema, None)?;
    let inputs = plan
        .inputs()
        .map(|oid| shared.relation(oid).ok_or(EngineError::Unknown(oid)))
        .collect::<Result<Vec<_>, _>>()?;
    let job = Job::new(shared, Arc::clone(&relation), plan, inputs.clone(), false)?;
    let (reply, registered) = oneshot::channel();
    let what = Registration {
        job: Some(job),
        ..Registration::default()
    };
    shared.inbox.command(Command::Register {
        what: Box::new(what),
        reply,
    })?;
    // From here on it has to be dropped, even if this future is.
    let hidden = Hidden {
        shared: Arc::clone(shared),
        oid,
    };
    let stopped = || shared.halted().unwrap_or(EngineError::Stopping);
    registered.await.map_err(|_| stopped())??;
    Ok((relation, inputs, Some(hidden)))
}

/// The epoch before the first change, and the content there.
async fn start(
    shared: &Arc<Shared>,
    relation: &Arc<Stored>,
    inputs: &[Arc<Stored>],
    options: FollowOptions,
    floor: &mut SessionFloor,
) -> Result<(u64, Option<Arc<Version>>), EngineError> {
    let least = match options.from {
        FollowFrom::Now => floor.floor.0,
        FollowFrom::AsOf(epoch) => not_ahead(shared, epoch)?,
        FollowFrom::After(mark) => {
            let since = not_ahead(shared, mark.saturating_sub(1))?;
            let history = relation.history.lock();
            // A relation that has no content yet has no history that could be gone.
            if history.through(shared.latest()).is_some() {
                if since < history.changes_after() {
                    return Err(gone(relation, history.changes_after() + 1));
                }
                return Ok((since, None));
            }
            since
        }
    };
    let mut progress = shared.subscribe();
    loop {
        progress.mark_unchanged();
        if let Some((since, version)) = content_from(shared, relation, options.from, least)? {
            floor.raise(since);
            return Ok((since, options.snapshot.then_some(version)));
        }
        alive(shared, relation, inputs)?;
        if progress.changed().await.is_err() {
            return Err(EngineError::Stopping);
        }
    }
}

/// The content to start with; `None` until there is some that is new enough.
fn content_from(
    shared: &Shared,
    relation: &Stored,
    from: FollowFrom,
    least: u64,
) -> Result<Option<(u64, Arc<Version>)>, EngineError> {
    let (latest, durable) = (shared.latest(), shared.durable.load(Ordering::SeqCst));
    let history = relation.history.lock();
    let Some(through) = durable_through(&history, latest, durable).filter(|at| *at >= least) else {
        return Ok(None);
    };
    let since = match from {
        FollowFrom::Now => through,
        FollowFrom::AsOf(_) | FollowFrom::After(_) => least,
    };
    let version = history.at(since, latest);
    match version.filter(|_| !matches!(from, FollowFrom::After(_))) {
        Some(version) => Ok(Some((since, version))),
        None => Err(gone(relation, history.changes_after() + 1)),
    }
}

/// The newest epoch at which the content is known and on disk.
fn durable_through(history: &History, latest: u64, durable: u64) -> Option<u64> {
    let known = history.known(latest);
    let range = known.iter().rev().find(|range| range.0 <= durable)?;
    Some(range.1.min(durable))
}

fn not_ahead(shared: &Shared, epoch: u64) -> Result<u64, EngineError> {
    let latest = shared.latest();
    if epoch <= latest {
        return Ok(epoch);
    }
    Err(EngineError::statement(
        "22023",
        format!("epoch {epoch} has not happened yet"),
        Some(format!("The newest epoch is {latest}.")),
    ))
}

/// The error of a subscription whose beginning is not kept any more.
fn gone(relation: &Stored, oldest: u64) -> EngineError {
    let mut report = EngineError::statement(
        "55000",
        format!("changes of {} are not kept that far back", relation.label()),
        Some(format!(
            "The oldest progress mark to continue from is {oldest}."
        )),
    )
    .report();
    report.hint = Some("Subscribe again with a snapshot.".into());
    report.into()
}

/// Why the relation makes no more progress.
fn alive(
    shared: &Shared,
    relation: &Arc<Stored>,
    inputs: &[Arc<Stored>],
) -> Result<(), EngineError> {
    if let Some(error) = shared.halted() {
        return Err(error);
    }
    for followed in inputs.iter().chain([relation]) {
        let there = shared.relation(followed.oid);
        if !there.is_some_and(|there| Arc::ptr_eq(&there, followed)) {
            return Err(EngineError::statement(
                "55000",
                format!("{} was dropped", followed.label()),
                Some("The subscription ends with it.".into()),
            ));
        }
    }
    match shared.failure(relation.oid) {
        Some(error) => Err(error),
        None => Ok(()),
    }
}

impl Pump {
    async fn run(self) {
        let mut progress = self.shared.subscribe();
        loop {
            progress.mark_unchanged();
            // What has happened is told before what has gone wrong.
            let failed = alive(&self.shared, &self.relation, &self.inputs).err();
            let end = match (self.advance(), failed) {
                (Ok(true), _) => Some(Ok(())),
                (Ok(false), None) => None,
                (Ok(false), Some(error)) | (Err(error), _) => Some(Err(error)),
            };
            if let Some(end) = end {
                self.feed.state.lock().end = Some(end);
                self.feed.filled.notify_one();
                return;
            }
            if self.wait(&mut progress).await.is_err() {
                self.feed.state.lock().end = Some(Err(EngineError::Stopping));
                self.feed.filled.notify_one();
                return;
            }
        }
    }

    async fn wait(
        &self,
        progress: &mut watch::Receiver<u64>,
    ) -> Result<(), watch::error::RecvError> {
        tokio::select! {
            changed = progress.changed() => changed,
            () = self.feed.drained.notified() => Ok(()),
        }
    }

    /// Puts in what is new and on disk; true when `up_to` is reached. What does not fit stays in the relation's history for
    /// as long as that is kept.
    fn advance(&self) -> Result<bool, EngineError> {
        let since = self.feed.state.lock().through;
        let (latest, durable) = (
            self.shared.latest(),
            self.shared.durable.load(Ordering::SeqCst),
        );
        let fresh = {
            let history = self.relation.history.lock();
            let mut through = durable_through(&history, latest, durable).unwrap_or(since);
            if let Some(up_to) = self.up_to {
                through = through.min(up_to.saturating_sub(1));
            }
            if through <= since {
                return Ok(self.up_to.is_some_and(|up_to| since + 1 >= up_to));
            }
            history
                .changes(since, through)
                .map(|changes| (changes, through))
        };
        let Some((changes, through)) = fresh else {
            return Err(self.overtaken());
        };
        let mut state = self.feed.state.lock();
        for (epoch, deltas) in changes {
            let bytes: usize = deltas
                .iter()
                .map(|delta| delta.batch.get_array_memory_size())
                .sum();
            let full = state.bytes + bytes > self.shared.config.subscription_bytes_max;
            if full && !state.changes.is_empty() {
                return Ok(false);
            }
            state.bytes += bytes;
            state.through = epoch;
            state.changes.push_back((epoch, deltas));
            self.feed.filled.notify_one();
        }
        state.through = through;
        self.feed.filled.notify_one();
        Ok(self.up_to.is_some_and(|up_to| through + 1 >= up_to))
    }

    fn overtaken(&self) -> EngineError {
        let mut report = EngineError::statement(
            "53400",
            format!(
                "the subscription to {} was read too slowly",
                self.relation.label()
            ),
            Some(format!(
                "More than {} bytes of changes were waiting for longer than the history is kept.",
                self.shared.config.subscription_bytes_max
            )),
        )
        .report();
        report.hint = Some("Subscribe again with a snapshot, and read faster.".into());
        report.into()
    }
}

impl Subscription {
    /// Columns of the relation.
    pub fn schema(&self) -> SchemaRef {
        self.relation.schema()
    }

    /// What comes next; `None` when `up_to` is reached. Dropping the future loses nothing.
    ///
    /// # Errors
    /// 55000 when the relation was dropped or is in state ERROR, 53400 when the reader was too slow.
    pub async fn next(&mut self) -> Result<Option<FollowEvent>, EngineError> {
        if let Some((epoch, version)) = self.snapshot.clone() {
            let rows = self.snapshot_rows(version).await?;
            self.snapshot = None;
            return Ok(Some(FollowEvent::Snapshot { epoch, rows }));
        }
        loop {
            if let Some(mark) = self.owed.take() {
                self.told = mark;
                return Ok(Some(FollowEvent::Progress(mark)));
            }
            let feed = Arc::clone(&self.feed);
            let filled = feed.filled.notified();
            let first = self.feed.state.lock().changes.front().cloned();
            if let Some((epoch, deltas)) = first {
                let deltas = self.net(deltas).await?;
                self.take_first();
                if deltas.is_empty() {
                    self.owed = None;
                    continue;
                }
                return Ok(Some(FollowEvent::Changes { epoch, deltas }));
            }
            {
                let state = self.feed.state.lock();
                if state.changes.is_empty() {
                    if state.through >= self.told {
                        self.owed = Some(state.through + 1);
                        continue;
                    }
                    match &state.end {
                        Some(Ok(())) => return Ok(None),
                        Some(Err(error)) => return Err(error.clone()),
                        None => {}
                    }
                } else {
                    continue;
                }
            }
            filled.await;
        }
    }

    /// Removes what was just told of, and owes the mark behind it.
    fn take_first(&mut self) {
        let mut state = self.feed.state.lock();
        if let Some((_, deltas)) = state.changes.pop_front() {
            let bytes: usize = deltas
                .iter()
                .map(|delta| delta.batch.get_array_memory_size())
                .sum();
            state.bytes = state.bytes.saturating_sub(bytes);
        }
        let next = state.changes.front().map(|(epoch, _)| *epoch);
        self.owed = Some(next.unwrap_or(state.through + 1));
        self.feed.drained.notify_one();
    }

    async fn snapshot_rows(&self, version: Arc<Version>) -> Result<Vec<RecordBatch>, EngineError> {
        let object = self.relation.label();
        let run = self
            .shared
            .batch
            .handle()
            .spawn_blocking(move || match version.rows()? {
                Some(rows) => Ok(rows.as_ref().clone()),
                None => Err(EngineError::InvalidAccumulation { object }),
            });
        joined(run.await)?
    }

    /// Net changes, deletions first.
    async fn net(&self, deltas: Arc<Vec<Delta>>) -> Result<Vec<Delta>, EngineError> {
        if deltas.iter().all(|delta| delta.weights.all_positive()) {
            let there = deltas.iter().filter(|delta| delta.num_rows() > 0);
            return Ok(there.cloned().collect());
        }
        let rows: usize = deltas.iter().map(Delta::num_rows).sum();
        let relation = Arc::clone(&self.relation);
        let run = move || netted(&relation, &deltas);
        if rows <= NETTED_HERE_ROWS {
            return run();
        }
        joined(self.shared.batch.handle().spawn_blocking(run).await)?
    }
}

fn netted(relation: &Stored, deltas: &[Delta]) -> Result<Vec<Delta>, EngineError> {
    let chunks = deltas
        .iter()
        .map(|delta| Chunk::new(delta.clone()))
        .collect::<Result<Vec<_>, _>>()?;
    let terms: Vec<Term<'_>> = chunks.iter().map(|chunk| Term { chunk, sign: 1 }).collect();
    let mut net = consolidate(&relation.codec, &terms)?;
    net.retain(|delta| delta.num_rows() > 0);
    net.sort_by_key(|delta| delta.weights.all_positive());
    Ok(net)
}

impl Drop for Subscription {
    fn drop(&mut self) {
        if let Some(pump) = self.pump.take() {
            pump.abort();
        }
        self.hidden = None;
    }
}
