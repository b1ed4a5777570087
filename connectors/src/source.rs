//! The contract between a source connector and the engine.
//!
//! Invariant: records of a split come in offset order, each exactly once between two seeks; `Progress` never claims an offset
//! whose records were not handed over. Exactly-once is the engine's: it owns the offsets and re-seeks after a crash.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use arrow::record_batch::RecordBatch;
use async_trait::async_trait;

use crate::error::ConnectorError;
use crate::format::Wanted;

/// Name of a split: a Kafka partition number as text, a file path, `0` for a generator.
pub type SplitId = String;

/// `split -> next offset to read`.
pub type Offsets = BTreeMap<SplitId, u64>;

/// How much one poll may return, and how long it may take.
#[derive(Debug, Clone, Copy)]
pub struct Budget {
    /// At most this many records.
    pub rows: usize,
    /// At most about this many payload bytes.
    pub bytes: usize,
    /// Returns with what there is after this long.
    pub time: Duration,
}

/// Which columns of a source are read, and of structs which fields.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ColumnsRead {
    /// All, when there is no list.
    columns: Option<BTreeMap<String, FieldsRead>>,
}

/// What is read of one column.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FieldsRead {
    /// The whole value.
    All,
    /// These fields of a struct.
    Some(BTreeSet<String>),
}

impl ColumnsRead {
    /// Everything.
    pub const fn all() -> Self {
        Self { columns: None }
    }

    /// Nothing, to be added to.
    pub fn none() -> Self {
        Self {
            columns: Some(BTreeMap::new()),
        }
    }

    /// A whole column more.
    pub fn add(&mut self, column: &str) {
        if let Some(columns) = &mut self.columns {
            columns.insert(column.to_owned(), FieldsRead::All);
        }
    }

    /// A field of a struct more.
    pub fn add_field(&mut self, column: &str, field: &str) {
        let Some(columns) = &mut self.columns else {
            return;
        };
        let entry = columns.entry(column.to_owned());
        if let FieldsRead::Some(fields) = entry.or_insert_with(|| FieldsRead::Some(BTreeSet::new()))
        {
            fields.insert(field.to_owned());
        }
    }

    /// Everything that another reads, too.
    pub fn join(&mut self, other: &Self) {
        let Some(others) = &other.columns else {
            self.columns = None;
            return;
        };
        for (column, fields) in others {
            match fields {
                FieldsRead::All => self.add(column),
                FieldsRead::Some(fields) => {
                    fields
                        .iter()
                        .for_each(|field| self.add_field(column, field));
                }
            }
        }
    }

    /// True when rows that were built with these columns have everything that `other` reads.
    pub fn covers(&self, other: &Self) -> bool {
        let Some(columns) = &self.columns else {
            return true;
        };
        let Some(others) = &other.columns else {
            return false;
        };
        others
            .iter()
            .all(|(column, fields)| match (columns.get(column), fields) {
                (Some(FieldsRead::All), _) => true,
                (Some(FieldsRead::Some(built)), FieldsRead::Some(read)) => built.is_superset(read),
                (Some(FieldsRead::Some(_)) | None, _) => false,
            })
    }

    /// Whether anything of a column is read.
    pub fn has(&self, column: &str) -> bool {
        !matches!(self.of(column), Wanted::Nothing)
    }

    pub(crate) fn of(&self, column: &str) -> Wanted<'_> {
        match self.columns.as_ref().map(|columns| columns.get(column)) {
            None | Some(Some(FieldsRead::All)) => Wanted::Whole,
            Some(Some(FieldsRead::Some(fields))) => Wanted::Fields(fields),
            Some(None) => Wanted::Nothing,
        }
    }
}

/// `*`, or columns and fields by name: `id, bid.price`.
impl std::fmt::Display for ColumnsRead {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Some(columns) = &self.columns else {
            return f.write_str("*");
        };
        let names = columns.iter().flat_map(|(column, fields)| match fields {
            FieldsRead::All => vec![column.clone()],
            FieldsRead::Some(fields) => {
                let name = |field| format!("{column}.{field}");
                fields.iter().map(name).collect()
            }
        });
        f.write_str(&names.collect::<Vec<_>>().join(", "))
    }
}

impl Default for ColumnsRead {
    fn default() -> Self {
        Self::all()
    }
}

/// Where a record is in its source; a function of the data, so that reading it again gives the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RowPlace {
    /// Partition, or number of the split; its text is the [`SplitId`], unless the batch names it.
    pub partition: i32,
    /// Offset within the split.
    pub offset: i64,
}

impl SourceBatch {
    /// The split that a place is in.
    pub fn split(&self, place: RowPlace) -> SplitId {
        match self.names.get(&place.partition) {
            Some(name) => name.clone(),
            None => place.partition.to_string(),
        }
    }

    /// The split that a dead letter came from.
    pub fn split_of(&self, letter: &DeadLetter) -> SplitId {
        match self.is_named(letter) {
            true => letter.topic.clone(),
            false => letter.partition.to_string(),
        }
    }

    /// A letter of a source whose splits have names carries the name as its topic.
    fn is_named(&self, letter: &DeadLetter) -> bool {
        self.names.values().any(|name| *name == letter.topic)
    }
}

/// Decoded records of one poll: each split's in offset order, splits as they came.
#[derive(Debug, Clone)]
pub struct SourceBatch {
    /// Good rows in the source's full column order.
    pub rows: RecordBatch,
    /// Where each of `rows` came from, in the same order.
    pub places: Vec<RowPlace>,
    /// Splits of `places` and `dead` whose name is not the text of their number, by number.
    pub names: BTreeMap<i32, SplitId>,
    /// Rows that could not become a row, in the columns of [`DeadLetter`].
    pub dead: Vec<DeadLetter>,
    /// Next offset per split after this batch, for the splits that moved.
    pub offsets: Offsets,
    /// Records seen, including dead and skipped ones.
    pub records: u64,
    /// Tombstones skipped under FORMAT PLAIN.
    pub skipped: u64,
}

/// One row of `<source>_errors`, without the epoch, which the engine adds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetter {
    /// `decode`, `constraint`, `late` or `gap`.
    pub reason: String,
    /// What was wrong, in the words of an error's primary line.
    pub message: String,
    /// Topic, or file path.
    pub topic: String,
    /// Partition; 0 where there is none.
    pub partition: i32,
    /// Offset within the split.
    pub offset: i64,
    /// Message key.
    pub key: Option<Vec<u8>>,
    /// Payload as it came.
    pub payload: Option<Vec<u8>>,
    /// Headers as a JSON object of base64 or text values.
    pub headers: Option<String>,
    /// Broker timestamp or read time, microseconds since the Unix epoch.
    pub at_us: i64,
}

/// How a source is doing, for `sys.sources`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SourceHealth {
    /// Reading or waiting for records.
    Running,
    /// The outside system does not answer; reading goes on when it does.
    Degraded(String),
}

/// A declared source that can be resolved, opened and asked about its end.
#[async_trait]
pub trait SourceConnector: Send + Sync + std::fmt::Debug {
    /// Checks that the outside object exists and turns `scan.startup.mode` into offsets, once, at CREATE.
    async fn resolve_start(&self) -> Result<Offsets, ConnectorError>;
    /// End offsets (exclusive) of every split now; bounds an ad-hoc read.
    async fn end_offsets(&self) -> Result<Offsets, ConnectorError>;
    /// What cannot be read any more of the records from `start` up to `had`, in words; `None` when all of them can.
    async fn lost(&self, start: &Offsets, had: &Offsets) -> Result<Option<String>, ConnectorError> {
        let ends = self.end_offsets().await?;
        let read = |split: &String, next: u64| next > start.get(split).copied().unwrap_or(0);
        let is_gone = |split: &String, next: u64| ends.get(split).is_none_or(|end| *end < next);
        let mut had = had.iter();
        let gone = had.find(|(split, next)| read(split, **next) && is_gone(split, **next));
        Ok(gone.map(|(split, _)| format!("what was read of {split} is not there any more")))
    }
    /// Opens a reader positioned at `at`; splits that `at` does not name start at their earliest record. Does not wait for the
    /// outside system: a reader of an unreachable broker is [`SourceHealth::Degraded`] until it answers.
    fn open(&self, at: &Offsets) -> Result<Box<dyn SourceReader>, ConnectorError>;
}

/// An open source, owned by one thread.
pub trait SourceReader: Send {
    /// Reads and decodes up to `budget`. An empty batch means nothing was there in time. Errors are final for this reader
    /// (the engine backs off and opens another at the last offsets); outages are not errors but `health`.
    fn poll(&mut self, budget: Budget) -> Result<SourceBatch, ConnectorError>;
    /// Says what of the rows is read from the next poll on; a reader may give NULL for the rest. Which records become rows, and
    /// which dead letters, does not depend on it.
    fn read_only(&mut self, columns: &ColumnsRead) {
        let _all_of_it = columns;
    }
    /// Last known health.
    fn health(&self) -> SourceHealth;
    /// Last known end offset (exclusive) per split, for lag; empty when unknown.
    fn high_watermarks(&self) -> Offsets;
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `a` is read whole, `b.x` a field of it; `*` is everything.
    fn columns(text: &str) -> ColumnsRead {
        let mut columns = match text {
            "*" => return ColumnsRead::all(),
            _ => ColumnsRead::none(),
        };
        for word in text.split_whitespace() {
            match word.split_once('.') {
                Some((column, field)) => columns.add_field(column, field),
                None => columns.add(word),
            }
        }
        columns
    }

    #[test]
    fn rows_cover_what_they_were_built_with_and_parts_of_it() {
        let cases = [
            ("*", "*", true),
            ("*", "a b.x", true),
            ("a b", "*", false),
            ("a b", "", true),
            ("", "", true),
            ("", "a", false),
            ("a b", "a b", true),
            ("a b", "a c", false),
            ("b", "b.x", true),
            ("b.x", "b", false),
            ("b.x b.y", "b.x", true),
            ("b.x", "b.x b.y", false),
            ("a b.x", "b.x c.x", false),
        ];
        for (built, read, covered) in cases {
            let (built, read) = (columns(built), columns(read));
            assert_eq!(built.covers(&read), covered, "{built:?} for {read:?}");
            // What two read together covers both.
            let mut both = built.clone();
            both.join(&read);
            assert!(both.covers(&built) && both.covers(&read), "{both:?}");
        }
        let text = columns("b.y b.x a").to_string();
        assert_eq!(
            (text.as_str(), ColumnsRead::all().to_string().as_str()),
            ("a, b.x, b.y", "*")
        );
    }
}
