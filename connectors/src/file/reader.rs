//! Reads the files of a source, one after the other, and again as they grow.
//!
//! Invariant: a batch names for each file the offset behind the last record it holds; what is not complete is not read. What a
//! store does not give now moves nothing and is asked for again.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::columnar::{Extent, GIVEN_UP, Table, TableRows};
use super::csv::Header;
use super::gather::{Gathered, Gathering, letter};
use super::place::Found;
use super::records::{Next, Records, RowBuilder, header};
use super::{Format, Plan, unreadable};
use crate::context::{Clock, Deadline};
use crate::error::ConnectorError;
use crate::format::Fault;
use crate::source::{
    Budget, ColumnsRead, Offsets, RowPlace, SourceBatch, SourceHealth, SourceReader,
};
use crate::store::{StoreError, StoreFault};

/// How often followed files are looked at, here and in a store.
const LOOK_AGAIN: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(1));

/// An open file source.
pub(super) struct FileReader {
    plan: Arc<Plan>,
    clock: Arc<dyn Clock>,
    rows: RowBuilder,
    /// The rows of Parquet files.
    tables: TableRows,
    files: BTreeMap<String, Progress>,
    /// Where files begin that were not found yet.
    start: Offsets,
    /// The next look at the folders; `None` when it is due.
    look: Option<Deadline>,
    trouble: Option<Trouble>,
}

/// What a store did not give, and when it is asked again.
struct Trouble {
    error: StoreError,
    again: Deadline,
    wait: Duration,
}

/// How far one file is.
pub(super) struct Progress {
    /// The number its rows' places carry.
    pub(super) number: i32,
    pub(super) found: Found,
    pub(super) at: u64,
    pub(super) end: Option<u64>,
    /// How far it reached when it was last looked at: bytes, or rows of a Parquet file.
    pub(super) seen: u64,
    /// Length and time of change for which `seen` holds.
    pub(super) stamp: Option<(u64, Option<SystemTime>)>,
    open: Option<Records>,
    header: Option<Header>,
    pub(super) table: Option<Table>,
    /// What its store said when it was last asked for it, if that was an error.
    fault: Option<StoreFault>,
}

impl Progress {
    fn new(number: i32, found: Found, at: u64, end: Option<u64>) -> Self {
        Self {
            number,
            found,
            at,
            end,
            seen: 0,
            stamp: None,
            open: None,
            header: None,
            table: None,
            fault: None,
        }
    }

    /// True when there is nothing in it that is wanted and not read.
    fn is_read(&self) -> bool {
        self.at >= self.end.unwrap_or(self.seen)
    }

    /// Finds out how far the file reaches now.
    fn measure(&mut self, format: Format) -> Result<(), ConnectorError> {
        if format != Format::Parquet {
            self.seen = self.found.length()?;
            return Ok(());
        }
        // A bounded file is compared with what it was when it is opened; one that was given up stays so.
        if let Some(end) = self.end.or((self.at == GIVEN_UP).then_some(GIVEN_UP)) {
            self.seen = end;
            return Ok(());
        }
        let stamp = Some(self.found.stamp()?);
        if self.stamp != stamp {
            self.seen = Extent::of(&self.found)?.end();
            self.stamp = stamp;
        }
        Ok(())
    }
}

impl FileReader {
    pub(super) fn open(
        plan: Arc<Plan>,
        at: Offsets,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, ConnectorError> {
        let mut reader = Self {
            rows: RowBuilder::new(&plan.columns, plan.json)?,
            tables: TableRows::new(&plan.columns),
            files: BTreeMap::new(),
            start: at,
            look: None,
            trouble: None,
            plan,
            clock,
        };
        // A store is asked when the first rows are wanted: nobody waits for it here.
        if reader.plan.pattern.place().is_local() {
            drop(reader.look()?);
        }
        Ok(reader)
    }

    /// Finds new files and new ends; tells what kept it from finding an end.
    fn look(&mut self) -> Result<Option<StoreError>, ConnectorError> {
        let found = self.plan.pattern.files()?;
        let found = found.into_iter().map(|file| (file.name.clone(), file));
        let found: BTreeMap<String, Found> = found.collect();
        let mut failed = None;
        for (name, there) in &found {
            let end = self.plan.ends.get(name).copied();
            // What was not there when a bounded source was created does not belong to it.
            if !self.plan.follow && end.is_none() {
                continue;
            }
            let number = i32::try_from(self.files.len()).unwrap_or(i32::MAX);
            let at = self.start.get(name).copied().unwrap_or(0);
            let file = self.files.entry(name.clone());
            let file = file.or_insert_with(|| Progress::new(number, there.clone(), at, end));
            file.found = there.clone();
            file.fault = None;
            match file.measure(self.plan.format) {
                // The other files do not wait for this one.
                Err(ConnectorError::Store(error)) if error.fault != StoreFault::Unreachable => {
                    file.fault = Some(error.fault);
                    failed.get_or_insert(error);
                    continue;
                }
                measured => measured?,
            }
            let (has, had) = (file.seen, file.end.unwrap_or(file.at));
            if has < had {
                let unit = match self.plan.format {
                    Format::Parquet => "rows",
                    Format::Json | Format::Csv { .. } => "bytes",
                };
                return Err(ConnectorError::File {
                    path: name.clone(),
                    detail: format!("It has {has} {unit}, and had {had} before."),
                });
            }
        }
        self.check_gone(&found)?;
        let again = match self.plan.pattern.place().is_local() {
            true => LOOK_AGAIN.0,
            false => LOOK_AGAIN.1,
        };
        self.look = Some(Deadline::after(again));
        Ok(failed)
    }

    /// What is to be read and is not there any more is said.
    fn check_gone(&self, found: &BTreeMap<String, Found>) -> Result<(), ConnectorError> {
        let gone = |(name, file): &(&String, &Progress)| {
            let missed = file.fault == Some(StoreFault::Missing);
            let wanted = missed || file.end.is_some_and(|end| file.at < end);
            !found.contains_key(*name) && wanted
        };
        let missing = self.plan.ends.iter().find(|(name, end)| {
            let at = self.start.get(*name).copied().unwrap_or(0);
            !self.files.contains_key(*name) && at < **end
        });
        let lost = self.files.iter().find(gone).map(|(name, _)| name);
        match lost.or(missing.map(|(name, _)| name)) {
            Some(name) => Err(ConnectorError::File {
                path: name.clone(),
                detail: "It is gone before it was read to its end.".into(),
            }),
            None => Ok(()),
        }
    }

    /// Looks at the folders when that is due, and reads what files have.
    fn gather(
        &mut self,
        budget: Budget,
        deadline: Deadline,
        gathered: &mut Gathered,
    ) -> Result<(), ConnectorError> {
        let waits = self.trouble.as_ref();
        let waits = waits.filter(|trouble| !trouble.again.left().is_zero());
        let waits = waits.map(|trouble| trouble.error.fault);
        if waits == Some(StoreFault::Unreachable) {
            return Ok(());
        }
        let mut failed = None;
        let again = |look: &Deadline| self.plan.follow && look.left().is_zero();
        if waits.is_none() && self.look.as_ref().is_none_or(again) {
            match self.look() {
                Err(ConnectorError::Store(error)) => {
                    self.wait_for(error);
                    return Ok(());
                }
                looked => failed = looked?,
            }
        }
        let names: Vec<String> = self.files.keys().cloned().collect();
        for name in names {
            if gathered.is_full(budget) {
                break;
            }
            match self.read_file(&name, budget, deadline, gathered) {
                Ok(()) => {}
                Err(ConnectorError::Store(error)) => {
                    let unreachable = error.fault == StoreFault::Unreachable;
                    failed.get_or_insert(error);
                    if unreachable {
                        break;
                    }
                }
                Err(error) => return Err(error),
            }
        }
        match failed {
            Some(error) => self.wait_for(error),
            None if waits.is_none() => self.trouble = None,
            None => {}
        }
        Ok(())
    }

    /// Reads one file, but for one that its store has just failed to give.
    fn read_file(
        &mut self,
        name: &str,
        budget: Budget,
        deadline: Deadline,
        gathered: &mut Gathered,
    ) -> Result<(), ConnectorError> {
        if self.files.get(name).is_none_or(|file| file.fault.is_some()) {
            return Ok(());
        }
        let read = match self.plan.format {
            Format::Parquet => self.read_table(name, budget, deadline, gathered),
            Format::Json | Format::Csv { .. } => self.read(name, budget, deadline, gathered),
        };
        if let (Err(ConnectorError::Store(error)), Some(file)) = (&read, self.files.get_mut(name)) {
            // It is opened again where its last record ended.
            (file.open, file.table) = (None, None);
            file.fault = Some(error.fault);
        }
        read
    }

    /// Has a store that failed asked again later, beginning with what is there.
    fn wait_for(&mut self, error: StoreError) {
        let wait = self.trouble.as_ref().map(|trouble| trouble.wait * 2);
        let (first, last) = self.plan.ask_again;
        let wait = wait.unwrap_or(first).min(last);
        self.look = None;
        self.trouble = Some(Trouble {
            error,
            again: Deadline::after(wait),
            wait,
        });
    }

    /// Reads one Parquet file until there are no more rows in it or the budget is used up.
    fn read_table(
        &mut self,
        name: &str,
        budget: Budget,
        deadline: Deadline,
        gathered: &mut Gathered,
    ) -> Result<(), ConnectorError> {
        let now_us = self.clock.now_us();
        let Some(file) = self.files.get_mut(name) else {
            return Ok(());
        };
        if file.is_read() {
            return Ok(());
        }
        let gathering = Gathering {
            name,
            budget,
            deadline,
            now_us,
            gathered,
        };
        gathering.read(file, &mut self.tables)
    }

    /// Reads one file until it has nothing complete or the budget is used up.
    fn read(
        &mut self,
        name: &str,
        budget: Budget,
        deadline: Deadline,
        gathered: &mut Gathered,
    ) -> Result<(), ConnectorError> {
        let (format, now_us) = (self.plan.format, self.clock.now_us());
        let Some(file) = self.files.get_mut(name) else {
            return Ok(());
        };
        if file.is_read() {
            return Ok(());
        }
        if !prepare(file, format, &self.rows)? {
            return Ok(());
        }
        let Some(records) = &mut file.open else {
            return Ok(());
        };
        let begun = file.at;
        let mut failed = Ok(());
        while !gathered.is_full(budget)
            && !(gathered.records % 256 == 255 && deadline.left().is_zero())
        {
            let from = records.at;
            let next = match records.next() {
                Ok(next) => next,
                Err(error) => {
                    failed = Err(unreadable(name, &error));
                    break;
                }
            };
            let (size, broken) = match next {
                Next::End => {
                    // What has grown since is seen by opening it again.
                    file.open = None;
                    file.seen = file.at;
                    break;
                }
                Next::Record(record) => {
                    let blank = record.iter().all(u8::is_ascii_whitespace);
                    let is_header = from == 0 && matches!(format, Format::Csv { header: true, .. });
                    if blank || is_header {
                        file.at = records.at;
                        continue;
                    }
                    let outcome = self.rows.append(record, format, file.header.as_ref());
                    let broken = outcome.err().map(|fault| (record.to_vec(), fault));
                    (record.len(), broken)
                }
                Next::Broken(record) => {
                    let fault = Fault::decode("a record that has no end or is too long");
                    (record.len(), Some((record, fault)))
                }
            };
            file.at = records.at;
            gathered.records += 1;
            gathered.bytes += size;
            let offset = i64::try_from(from).unwrap_or(i64::MAX);
            match broken {
                None => gathered.places.push(RowPlace {
                    partition: file.number,
                    offset,
                }),
                Some((record, fault)) => gathered
                    .dead
                    .push(letter(name, offset, record, fault, now_us)),
            }
        }
        if file.at > begun {
            gathered.offsets.insert(name.to_owned(), file.at);
            gathered.names.insert(file.number, name.to_owned());
        }
        failed
    }
}

/// Opens a file where it was left; false when its header is not complete yet.
fn prepare(file: &mut Progress, format: Format, rows: &RowBuilder) -> Result<bool, ConnectorError> {
    if let Format::Csv {
        header: named,
        delimiter,
    } = format
        && file.header.is_none()
    {
        let columns = rows.given();
        file.header = match named {
            true => header(&file.found, delimiter, file.end, &columns)?,
            false => Some(Header::by_position(&columns)),
        };
        if file.header.is_none() {
            return Ok(false);
        }
    }
    if file.open.is_none() {
        let opened = Records::open(&file.found, file.at, file.end, format)?;
        file.open = Some(opened);
    }
    Ok(true)
}

impl SourceReader for FileReader {
    fn poll(&mut self, budget: Budget) -> Result<SourceBatch, ConnectorError> {
        let deadline = Deadline::after(budget.time);
        let mut gathered = Gathered::default();
        loop {
            self.gather(budget, deadline, &mut gathered)?;
            let left = deadline.left();
            if !gathered.offsets.is_empty() || left.is_zero() {
                break;
            }
            let next = match (&self.trouble, &self.look) {
                (Some(trouble), _) => trouble.again.left(),
                (None, Some(look)) if self.plan.follow => look.left(),
                _ => left,
            };
            std::thread::sleep(left.min(next));
        }
        let rows = match self.plan.format {
            Format::Parquet => self.tables.finish()?,
            Format::Json | Format::Csv { .. } => self.rows.finish()?,
        };
        Ok(SourceBatch {
            rows,
            places: gathered.places,
            names: gathered.names,
            dead: gathered.dead,
            offsets: gathered.offsets,
            records: gathered.records,
            skipped: 0,
        })
    }

    fn read_only(&mut self, columns: &ColumnsRead) {
        self.rows.read_only(columns);
    }

    fn health(&self) -> SourceHealth {
        match &self.trouble {
            Some(Trouble { error, .. }) => {
                SourceHealth::Degraded(format!("{error}: {}", error.detail))
            }
            None => SourceHealth::Running,
        }
    }

    fn high_watermarks(&self) -> Offsets {
        let end = |file: &Progress| file.end.unwrap_or(file.seen.max(file.at));
        let files = self.files.iter();
        files
            .map(|(name, file)| (name.clone(), end(file)))
            .collect()
    }
}
