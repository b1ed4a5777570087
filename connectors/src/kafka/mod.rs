//! The Kafka source and sink: one topic each; the source's partitions are assigned by hand, its offsets owned by the engine.
//!
//! Invariant: nothing is committed to a consumer group, no group is joined, and no topic is created by reading or writing it;
//! the one topic that is made is that of the markers of exactly-once sinks.

mod client;
mod commit;
mod encoding;
mod ffi;
mod fill;
mod marker;
mod options;
mod place;
mod reader;
mod row;
mod sink;
mod survey;

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use parking_lot::Mutex;
use thalweg_catalog::{Column, ConnectorSpec, Relation};

use crate::context::{Clock, ConnectorContext};
use crate::error::ConnectorError;
use crate::format::JsonOptions;
use crate::options::Options;
use crate::source::{Offsets, SourceConnector, SourceReader};
use client::{Cluster, Extent};
pub(crate) use commit::KafkaCommitter;
pub use fill::fill_with_nexmark;
use options::{KafkaOptions, Start};
use reader::KafkaReader;
use row::RowBuilder;
pub use sink::KafkaSink;

/// A declared Kafka topic.
#[derive(Debug)]
pub struct KafkaSource {
    options: Arc<KafkaOptions>,
    json: JsonOptions,
    columns: Vec<Column>,
    start: BTreeMap<i32, u64>,
    clock: Arc<dyn Clock>,
    /// Made when first needed and shared by all readers.
    cluster: Mutex<Option<Arc<Cluster>>>,
}

impl KafkaSource {
    /// Checks options and columns; contacts nobody.
    pub(crate) fn new(
        relation: &Relation,
        spec: &ConnectorSpec,
        context: &ConnectorContext,
    ) -> Result<Self, ConnectorError> {
        if spec.format != "PLAIN" {
            return Err(ConnectorError::Unsupported {
                what: format!("FORMAT {}", spec.format),
                hint: "Use FORMAT PLAIN.".into(),
            });
        }
        if spec.encode != "JSON" {
            return Err(ConnectorError::Unsupported {
                what: format!("ENCODE {}", spec.encode),
                hint: "Use ENCODE JSON.".into(),
            });
        }
        let source = Self {
            options: Arc::new(KafkaOptions::read(spec)?),
            json: JsonOptions::read(Options(&spec.encode_options))?,
            columns: relation.columns.clone(),
            start: by_partition(&spec.start)?,
            clock: Arc::clone(&context.clock),
            cluster: Mutex::new(None),
        };
        RowBuilder::new(&source.columns, source.json)?;
        Ok(source)
    }

    fn cluster(&self) -> Result<Arc<Cluster>, ConnectorError> {
        let mut cluster = self.cluster.lock();
        match cluster.as_ref() {
            Some(cluster) => Ok(Arc::clone(cluster)),
            None => {
                let made = Arc::new(Cluster::new(&self.options)?);
                *cluster = Some(Arc::clone(&made));
                Ok(made)
            }
        }
    }

    /// Asks the cluster on a thread that may block.
    async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&Cluster) -> Result<T, ConnectorError> + Send + 'static,
    ) -> Result<T, ConnectorError> {
        let cluster = self.cluster()?;
        tokio::task::spawn_blocking(move || question(&cluster))
            .await
            .map_err(|error| {
                ConnectorError::Internal(format!("a Kafka request stopped: {error}"))
            })?
    }
}

#[async_trait]
impl SourceConnector for KafkaSource {
    async fn resolve_start(&self) -> Result<Offsets, ConnectorError> {
        let options = Arc::clone(&self.options);
        let resolved = self.ask(move |cluster| resolve(cluster, &options)).await?;
        Ok(by_split(resolved))
    }

    async fn end_offsets(&self) -> Result<Offsets, ConnectorError> {
        let extents = self.ask(Cluster::extents).await?;
        Ok(by_split(
            extents
                .into_iter()
                .map(|(partition, extent)| (partition, extent.high)),
        ))
    }

    async fn lost(&self, start: &Offsets, had: &Offsets) -> Result<Option<String>, ConnectorError> {
        let (start, had) = (by_partition(start)?, by_partition(had)?);
        let extents = self.ask(Cluster::extents).await?;
        Ok(lost(&self.options.topic, &start, &had, &extents))
    }

    fn open(&self, at: &Offsets) -> Result<Box<dyn SourceReader>, ConnectorError> {
        Ok(Box::new(KafkaReader::open(
            Arc::clone(&self.options),
            self.cluster()?,
            RowBuilder::new(&self.columns, self.json)?,
            self.start.clone(),
            by_partition(at)?,
            Arc::clone(&self.clock),
        )?))
    }
}

/// Which of the records from `start` up to `had` a topic does not hold any more.
fn lost(
    topic: &str,
    start: &BTreeMap<i32, u64>,
    had: &BTreeMap<i32, u64>,
    extents: &BTreeMap<i32, Extent>,
) -> Option<String> {
    had.iter().find_map(|(partition, next)| {
        let from = start.get(partition).copied().unwrap_or(0);
        let place = format!("partition {partition} of topic \"{topic}\"");
        match extents.get(partition) {
            _ if *next <= from => None,
            None => Some(format!("{place} does not exist any more")),
            Some(extent) if extent.low > from => Some(format!(
                "{place} begins at offset {}, and was read from {from} on",
                extent.low
            )),
            Some(extent) if extent.high < *next => Some(format!(
                "{place} ends at offset {}, and was read up to {next}",
                extent.high
            )),
            Some(_) => None,
        }
    })
}

/// Turns the start mode into one offset per partition that exists now.
fn resolve(
    cluster: &Cluster,
    options: &KafkaOptions,
) -> Result<BTreeMap<i32, u64>, ConnectorError> {
    let extents = cluster.extents()?;
    let each = |offset: fn(&Extent) -> u64| {
        extents
            .iter()
            .map(|(partition, extent)| (*partition, offset(extent)))
            .collect()
    };
    match &options.start {
        Start::Earliest => Ok(each(|extent| extent.low)),
        Start::Latest => Ok(each(|extent| extent.high)),
        Start::Timestamp(millis) => {
            // A partition with nothing that new starts at its end.
            let mut offsets: BTreeMap<i32, u64> = each(|extent| extent.high);
            offsets.extend(cluster.offsets_at(*millis, extents.keys().copied())?);
            Ok(offsets)
        }
        Start::Offsets(given) => {
            let mut offsets: BTreeMap<i32, u64> = each(|extent| extent.low);
            for (partition, offset) in given {
                let extent = extents.get(partition).ok_or_else(|| {
                    ConnectorError::option_hint(
                        format!(
                            "partition {partition} in option \"scan.startup.offsets\" does not exist in topic \"{}\"",
                            options.topic
                        ),
                        format!("The topic has {} partitions, counted from 0.", extents.len()),
                    )
                })?;
                if !(extent.low..=extent.high).contains(offset) {
                    return Err(ConnectorError::option_hint(
                        format!(
                            "offset {offset} in option \"scan.startup.offsets\" is not in partition {partition} of topic \"{}\"",
                            options.topic
                        ),
                        format!(
                            "The partition has offsets {} to {}.",
                            extent.low, extent.high
                        ),
                    ));
                }
                offsets.insert(*partition, *offset);
            }
            Ok(offsets)
        }
    }
}

fn by_split(offsets: impl IntoIterator<Item = (i32, u64)>) -> Offsets {
    offsets
        .into_iter()
        .map(|(partition, offset)| (partition.to_string(), offset))
        .collect()
}

fn by_partition(offsets: &Offsets) -> Result<BTreeMap<i32, u64>, ConnectorError> {
    offsets
        .iter()
        .map(|(split, offset)| match split.parse() {
            Ok(partition) => Ok((partition, *offset)),
            Err(_) => Err(ConnectorError::Internal(format!(
                "split \"{split}\" is not a Kafka partition"
            ))),
        })
        .collect()
}

#[cfg(test)]
mod lost_tests {
    use super::*;

    #[test]
    fn only_records_that_were_read_can_be_lost() {
        let at = |offset: u64| BTreeMap::from([(0, offset)]);
        let extent = |low, high| BTreeMap::from([(0, Extent { low, high })]);
        let none = BTreeMap::new();
        for (start, had, extents, is_lost) in [
            (at(0), at(9), extent(0, 9), false),
            (at(0), at(9), extent(1, 9), true),
            (none.clone(), at(9), extent(1, 9), true),
            (at(5), at(9), extent(5, 20), false),
            (at(5), at(5), extent(8, 20), false),
            (at(0), at(9), extent(0, 8), true),
            (at(0), at(9), BTreeMap::new(), true),
            (at(0), none, extent(7, 8), false),
        ] {
            let said = lost("t", &start, &had, &extents);
            assert_eq!(
                said.is_some(),
                is_lost,
                "{start:?} {had:?} {extents:?}: {said:?}"
            );
        }
    }
}

#[cfg(test)]
mod tests;
