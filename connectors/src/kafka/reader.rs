//! Reads the partitions of one topic.
//!
//! Invariant: a split's offset moves only past records that were handed over, skipped tombstones, dead letters, and what the
//! broker says holds no record for us (control records, compacted ones, a gap that was reported). An outage moves nothing.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use super::by_split;
use super::client::{Cluster, Events, Extent, Trouble, classify, client_error};
use super::ffi::{Batch, Fetched, Intake, Record};
use super::options::{KafkaOptions, OnGap};
use super::place::{Place, Refusal, begin};
use super::row::RowBuilder;
use super::survey::{Survey, Surveyor};
use crate::context::{Clock, Deadline};
use crate::error::ConnectorError;
use crate::source::{
    Budget, ColumnsRead, DeadLetter, Offsets, SourceBatch, SourceHealth, SourceReader,
};

/// Longest wait for a message before looking at the latest survey again.
const SURVEY_LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// An open Kafka source.
pub(super) struct KafkaReader {
    options: Arc<KafkaOptions>,
    clock: Arc<dyn Clock>,
    /// Taken from the client and not handed over yet.
    held: Batch,
    intake: Intake,
    consumer: Arc<BaseConsumer<Events>>,
    surveyor: Surveyor,
    seen_survey: u64,
    /// Where the source starts, for partitions that existed then.
    start: BTreeMap<i32, u64>,
    splits: BTreeMap<i32, Split>,
    rows: RowBuilder,
    health: SourceHealth,
    /// Partitions that are not read, or not at our position, as the broker said: they are looked at again after a newer survey.
    refused: BTreeMap<i32, Refusal>,
}

#[derive(Debug, Clone, Copy)]
struct Split {
    /// Next offset.
    next: u64,
    /// Known end.
    high: u64,
    assigned: bool,
}

/// What one poll has gathered beside rows.
#[derive(Default)]
pub(super) struct Gathered {
    dead: Vec<DeadLetter>,
    /// Next offset per partition that moved.
    offsets: BTreeMap<i32, u64>,
    records: u64,
    skipped: u64,
    bytes: usize,
    /// When the messages at hand are looked at.
    taken_us: i64,
}

impl Gathered {
    pub(super) fn is_empty(&self) -> bool {
        self.records == 0 && self.offsets.is_empty() && self.dead.is_empty()
    }

    fn is_full(&self, budget: Budget) -> bool {
        self.records >= budget.rows as u64 || self.bytes >= budget.bytes
    }
}

impl KafkaReader {
    /// Opens a reader without waiting for a broker.
    pub(super) fn open(
        options: Arc<KafkaOptions>,
        cluster: Arc<Cluster>,
        rows: RowBuilder,
        start: BTreeMap<i32, u64>,
        at: BTreeMap<i32, u64>,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, ConnectorError> {
        let consumer = options
            .reading()
            .create_with_context(Events::default())
            .map_err(|error| client_error(&error))?;
        let consumer = Arc::new(consumer);
        let intake = Intake::new(Arc::clone(&consumer)).ok_or_else(|| {
            ConnectorError::Internal("the Kafka client has no queue for messages".into())
        })?;
        let surveyor = Surveyor::start(cluster, options.discovery_interval)?;
        let splits = at.into_iter().map(|(partition, next)| {
            (
                partition,
                Split {
                    next,
                    high: next,
                    assigned: false,
                },
            )
        });
        Ok(Self {
            clock,
            held: Batch::empty(),
            intake,
            consumer,
            surveyor,
            seen_survey: 0,
            start,
            splits: splits.collect(),
            rows,
            health: SourceHealth::Degraded(format!("waiting for Kafka broker {}", options.brokers)),
            refused: BTreeMap::new(),
            options,
        })
    }

    /// Learns from the latest survey: new partitions, positions after a refusal, health.
    fn look_around(&mut self, gathered: &mut Gathered) -> Result<(), ConnectorError> {
        let Some(survey) = self.surveyor.newer_than(self.seen_survey) else {
            return Ok(());
        };
        self.seen_survey = survey.number;
        self.learn(&survey, gathered)
    }

    pub(super) fn learn(
        &mut self,
        survey: &Survey,
        gathered: &mut Gathered,
    ) -> Result<(), ConnectorError> {
        match &survey.outcome {
            Err(error) => {
                self.health = SourceHealth::Degraded(error.to_string());
                Ok(())
            }
            Ok(extents) => {
                let places_changed = self.place(survey, extents, gathered)?;
                if places_changed {
                    self.assign()?;
                }
                self.health = match self.absent(extents) {
                    None => SourceHealth::Running,
                    Some(partition) => SourceHealth::Degraded(format!(
                        "partition {partition} of topic \"{}\" does not exist",
                        self.options.topic
                    )),
                };
                Ok(())
            }
        }
    }

    /// A partition we have a position in and the topic no longer has.
    fn absent(&self, extents: &BTreeMap<i32, Extent>) -> Option<i32> {
        self.splits
            .keys()
            .find(|partition| !extents.contains_key(partition))
            .copied()
    }

    /// Decides where partitions are read from; true when the assignment has to change.
    fn place(
        &mut self,
        survey: &Survey,
        extents: &BTreeMap<i32, Extent>,
        gathered: &mut Gathered,
    ) -> Result<bool, ConnectorError> {
        let mut changed = false;
        for (partition, extent) in extents {
            let start = self.start.get(partition).copied();
            let known = self.splits.get(partition).copied();
            let refusal = self.refused.get(partition).copied();
            let answered = refusal.filter(|refusal| survey.number > refusal.survey);
            let place = match (known, answered) {
                (Some(split), Some(refusal)) => {
                    self.refused.remove(partition);
                    refusal.answer(split.next, start, *extent)
                }
                (Some(split), None) if split.assigned => {
                    let high = split.high.max(extent.high);
                    self.splits.insert(*partition, Split { high, ..split });
                    continue;
                }
                (Some(split), None) => begin(Some(split.next), start, *extent),
                (None, _) => begin(None, start, *extent),
            };
            let next = self.settle(*partition, place, gathered)?;
            self.splits.insert(
                *partition,
                Split {
                    next,
                    high: extent.high,
                    assigned: true,
                },
            );
            changed = true;
        }
        Ok(changed)
    }

    /// The offset a place stands for, once a gap is dealt with.
    fn settle(
        &self,
        partition: i32,
        place: Place,
        gathered: &mut Gathered,
    ) -> Result<u64, ConnectorError> {
        let (from, resume_at) = match place {
            Place::At(next) => return Ok(next),
            Place::Gap { from, resume_at } => (from, resume_at),
        };
        let topic = self.options.topic.clone();
        let gap = ConnectorError::Gap {
            topic: topic.clone(),
            partition,
            from,
            detail: format!("The first offset the broker has is {resume_at}."),
        };
        tracing::error!(topic, partition, from, resume_at, "records are gone");
        if self.options.on_gap == OnGap::Fail {
            return Err(gap);
        }
        gathered.dead.push(DeadLetter {
            reason: "gap".into(),
            message: format!("{gap}; reading goes on at offset {resume_at}"),
            topic,
            partition,
            offset: i64::try_from(from).unwrap_or(i64::MAX),
            key: None,
            payload: None,
            headers: None,
            at_us: self.clock.now_us(),
        });
        gathered.offsets.insert(partition, resume_at);
        Ok(resume_at)
    }

    /// Reads all placed partitions from their positions. Messages fetched under the previous assignment are dropped by the
    /// client and fetched again, and so are those we hold: an end that follows them would be taken for theirs.
    pub(super) fn assign(&mut self) -> Result<(), ConnectorError> {
        self.held = Batch::empty();
        let mut assignment = TopicPartitionList::new();
        for (partition, split) in self.splits.iter().filter(|(_, split)| split.assigned) {
            let offset = Offset::Offset(i64::try_from(split.next).unwrap_or(i64::MAX));
            assignment
                .add_partition_offset(&self.options.topic, *partition, offset)
                .map_err(|error| client_error(&error))?;
        }
        self.consumer
            .assign(&assignment)
            .map_err(|error| client_error(&error))
    }

    fn accept(&mut self, record: &Record<'_>, gathered: &mut Gathered) {
        let Ok(offset) = u64::try_from(record.offset()) else {
            return;
        };
        let Some(split) = self.splits.get_mut(&record.partition()) else {
            return;
        };
        if offset < split.next {
            return;
        }
        split.next = offset + 1;
        gathered.records += 1;
        gathered.offsets.insert(record.partition(), split.next);
        let Some(payload) = record.payload() else {
            gathered.skipped += 1;
            return;
        };
        gathered.bytes += payload.len() + record.key().map_or(0, <[u8]>::len);
        let topic = &self.options.topic;
        let dead = self.rows.append(topic, record, payload, gathered.taken_us);
        gathered.dead.extend(dead);
    }

    /// Hands over what was taken, until the budget is used up.
    fn hand_over(&mut self, budget: Budget, gathered: &mut Gathered) -> Result<(), ConnectorError> {
        let mut batch = std::mem::replace(&mut self.held, Batch::empty());
        while !gathered.is_full(budget) {
            match batch.next() {
                Some(Fetched::Record(record)) => self.accept(&record, gathered),
                Some(Fetched::End { partition, offset }) => {
                    self.reached_end(partition, offset, gathered);
                }
                Some(Fetched::Error { partition, error }) => self.on_event(partition, &error)?,
                None => break,
            }
        }
        self.held = batch;
        Ok(())
    }

    pub(super) fn on_event(
        &mut self,
        partition: Option<i32>,
        error: &KafkaError,
    ) -> Result<(), ConnectorError> {
        match classify(error) {
            Trouble::Corrupt => return Err(client_error(error)),
            Trouble::OutOfRange => self.note_refusal(partition, true),
            Trouble::Missing | Trouble::Denied => self.note_refusal(partition, false),
            Trouble::Refused => {
                let detail = self.consumer.context().refused().unwrap_or_default();
                let brokers = self.options.brokers.clone();
                let refused = ConnectorError::Authentication { brokers, detail };
                self.health = SourceHealth::Degraded(refused.to_string());
            }
            Trouble::Outage | Trouble::Other => {}
        }
        // One broker may be down without anyone missing it; the survey tells whether the topic can be read.
        tracing::debug!(topic = %self.options.topic, %error, "Kafka client event");
        self.surveyor.ask();
        Ok(())
    }

    /// Partitions are looked at again after the next survey: one, or all when it is not told which.
    fn note_refusal(&mut self, partition: Option<i32>, position: bool) {
        let survey = self.surveyor.begun();
        let all = self.splits.iter().filter(|(_, split)| split.assigned);
        let concerned = all.filter(|(own, _)| partition.is_none_or(|partition| partition == **own));
        for (own, split) in concerned {
            let refusal = Refusal {
                survey,
                at: split.next,
                position: position && partition.is_some(),
            };
            self.refused.insert(*own, refusal);
        }
    }

    /// Everything before the end was handed over by now, and what lies between the last record and the end is not for us.
    fn reached_end(&mut self, partition: i32, end: i64, gathered: &mut Gathered) {
        let (Ok(end), Some(split)) = (u64::try_from(end), self.splits.get_mut(&partition)) else {
            return;
        };
        split.high = split.high.max(end);
        if end > split.next {
            split.next = end;
            gathered.offsets.insert(partition, end);
        }
    }
}

impl SourceReader for KafkaReader {
    fn poll(&mut self, budget: Budget) -> Result<SourceBatch, ConnectorError> {
        let deadline = Deadline::after(budget.time);
        let mut gathered = Gathered::default();
        loop {
            self.look_around(&mut gathered)?;
            for error in self.intake.serve_events() {
                self.on_event(None, &error)?;
            }
            let left = deadline.left();
            if self.held.is_empty() {
                let wait = if gathered.is_empty() {
                    left.min(SURVEY_LOOK_INTERVAL)
                } else {
                    Duration::ZERO
                };
                let room = (budget.rows as u64).saturating_sub(gathered.records);
                self.held = self
                    .intake
                    .take(usize::try_from(room).unwrap_or(usize::MAX), wait);
                if self.held.is_empty() && !gathered.is_empty() {
                    break;
                }
            }
            gathered.taken_us = self.clock.now_us();
            self.hand_over(budget, &mut gathered)?;
            if gathered.is_full(budget) || left.is_zero() {
                break;
            }
        }
        let (rows, places) = self.rows.finish()?;
        Ok(SourceBatch {
            rows,
            places,
            names: Default::default(),
            dead: gathered.dead,
            offsets: by_split(gathered.offsets),
            records: gathered.records,
            skipped: gathered.skipped,
        })
    }

    fn read_only(&mut self, columns: &ColumnsRead) {
        self.rows.read_only(columns);
    }

    fn health(&self) -> SourceHealth {
        self.health.clone()
    }

    fn high_watermarks(&self) -> Offsets {
        let latest = self.consumer.context().highs();
        let placed = self.splits.iter().filter(|(_, split)| split.assigned);
        placed
            .map(|(partition, split)| {
                let high = latest
                    .get(partition)
                    .copied()
                    .unwrap_or(0)
                    .max(split.high)
                    .max(split.next);
                (partition.to_string(), high)
            })
            .collect()
    }
}

impl Drop for KafkaReader {
    fn drop(&mut self) {
        // The client's destructor polls until its group is closed, which may take for ever; a thread of its own may wait.
        let consumer = Arc::clone(&self.consumer);
        let spawned = std::thread::Builder::new()
            .name("kafka-close".into())
            .spawn(move || close(consumer));
        if let Err(error) = spawned {
            tracing::warn!(%error, "closing a Kafka client on the caller's thread");
        }
    }
}

/// Drops the client once the reader has let go of it.
fn close(consumer: Arc<BaseConsumer<Events>>) {
    while Arc::strong_count(&consumer) > 1 {
        std::thread::sleep(Duration::from_millis(1));
    }
    drop(consumer);
}
