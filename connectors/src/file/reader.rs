//! Reads the files of a source, one after the other, and again as they grow.
//!
//! Invariant: a batch names for each file the offset behind the last record it holds; what is not complete is not read.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arrow::record_batch::RecordBatch;

use super::columnar::{self, Extent, GIVEN_UP, Table, TableRows, Trouble};
use super::csv::Header;
use super::records::{Next, Records, RowBuilder, header};
use super::{Format, Plan, length, unreadable};
use crate::context::{Clock, Deadline};
use crate::error::ConnectorError;
use crate::format::Fault;
use crate::source::{
    Budget, ColumnsRead, DeadLetter, Offsets, RowPlace, SourceBatch, SourceHealth, SourceReader,
};

/// How often a followed file is looked at.
const LOOK_AGAIN: Duration = Duration::from_millis(200);
/// Bytes of a record kept with a dead letter.
const DEAD_LETTER_BYTES_MAX: usize = 1 << 20;

/// An open file source.
pub(super) struct FileReader {
    plan: Arc<Plan>,
    clock: Arc<dyn Clock>,
    rows: RowBuilder,
    /// The rows of Parquet files.
    tables: TableRows,
    files: BTreeMap<String, Progress>,
    /// The next look at the folders.
    look: Option<Deadline>,
}

/// How far one file is.
struct Progress {
    /// The number its rows' places carry.
    number: i32,
    path: PathBuf,
    at: u64,
    end: Option<u64>,
    /// How far it reached when it was last looked at: bytes, or rows of a Parquet file.
    seen: u64,
    /// Length and time of change for which `seen` holds.
    stamp: Option<(u64, Option<SystemTime>)>,
    open: Option<Records>,
    header: Option<Header>,
    table: Option<Table>,
}

impl Progress {
    /// True when there is nothing in it that is wanted and not read.
    fn is_read(&self) -> bool {
        self.at >= self.end.unwrap_or(self.seen)
    }

    /// Finds out how far the file reaches now.
    fn measure(&mut self, name: &str, format: Format) -> Result<(), ConnectorError> {
        if format != Format::Parquet {
            self.seen = length(name, &self.path)?;
            return Ok(());
        }
        // A bounded file is compared with what it was when it is opened; one that was given up stays so.
        if let Some(end) = self.end.or((self.at == GIVEN_UP).then_some(GIVEN_UP)) {
            self.seen = end;
            return Ok(());
        }
        let metadata = std::fs::metadata(&self.path).map_err(|error| unreadable(name, &error))?;
        let stamp = Some((metadata.len(), metadata.modified().ok()));
        if self.stamp != stamp {
            self.seen = Extent::of(name, &self.path)?.end();
            self.stamp = stamp;
        }
        Ok(())
    }
}

/// What one poll collects.
#[derive(Default)]
struct Gathered {
    places: Vec<RowPlace>,
    dead: Vec<DeadLetter>,
    offsets: Offsets,
    names: BTreeMap<i32, String>,
    records: u64,
    bytes: usize,
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
            look: None,
            plan,
            clock,
        };
        reader.look(&at)?;
        Ok(reader)
    }

    /// Finds new files and new ends.
    fn look(&mut self, at: &Offsets) -> Result<(), ConnectorError> {
        self.look = Some(Deadline::after(LOOK_AGAIN));
        let found: BTreeMap<String, PathBuf> = self.plan.pattern.files()?.into_iter().collect();
        for (name, path) in &found {
            let end = self.plan.ends.get(name).copied();
            // What was not there when a bounded source was created does not belong to it.
            if !self.plan.follow && end.is_none() {
                continue;
            }
            let number = i32::try_from(self.files.len()).unwrap_or(i32::MAX);
            let file = self.files.entry(name.clone()).or_insert(Progress {
                number,
                path: path.clone(),
                at: at.get(name).copied().unwrap_or(0),
                end,
                seen: 0,
                stamp: None,
                open: None,
                header: None,
                table: None,
            });
            file.measure(name, self.plan.format)?;
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
        let gone = |(name, file): &(&String, &Progress)| {
            !found.contains_key(*name) && file.end.is_some_and(|end| file.at < end)
        };
        let missing = self.plan.ends.iter().find(|(name, end)| {
            !self.files.contains_key(*name) && at.get(*name).copied().unwrap_or(0) < **end
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
        if !prepare(name, file, format, &self.rows)? {
            return Ok(());
        }
        let Some(records) = &mut file.open else {
            return Ok(());
        };
        let begun = file.at;
        while gathered.records < budget.rows as u64
            && gathered.bytes < budget.bytes
            && !(gathered.records % 256 == 255 && deadline.left().is_zero())
        {
            let from = records.at;
            let next = records.next().map_err(|error| unreadable(name, &error))?;
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
        Ok(())
    }
}

/// What one poll takes from one Parquet file.
struct Gathering<'p> {
    name: &'p str,
    budget: Budget,
    deadline: Deadline,
    now_us: i64,
    gathered: &'p mut Gathered,
}

impl Gathering<'_> {
    fn read(mut self, file: &mut Progress, rows: &mut TableRows) -> Result<(), ConnectorError> {
        let begun = file.at;
        if let Some(table) = self.open(file, rows)? {
            file.table = self.take(file, table, rows)?;
        }
        if file.at > begun {
            let name = self.name.to_owned();
            self.gathered.offsets.insert(name.clone(), file.at);
            self.gathered.names.insert(file.number, name);
        }
        Ok(())
    }

    /// The file where it was left; `None` when there is nothing in it to read.
    fn open(
        &mut self,
        file: &mut Progress,
        rows: &TableRows,
    ) -> Result<Option<Table>, ConnectorError> {
        if let Some(table) = file.table.take() {
            return Ok(Some(table));
        }
        let problem = match Table::open(&file.path, &rows.given(), file.at) {
            Ok(table) => match file.end {
                Some(GIVEN_UP) => "it was not complete when the source was created".to_owned(),
                Some(end) if table.rows() != end => format!(
                    "it has {} rows, and had {end} when the source was created",
                    table.rows()
                ),
                _ => return Ok(Some(table)),
            },
            Err(Trouble::Io(error)) => return Err(unreadable(self.name, &error)),
            // Its writer may have begun anew since it was looked at.
            Err(Trouble::Unfinished) if file.end.is_none() => {
                file.stamp = None;
                file.seen = file.at;
                return Ok(None);
            }
            Err(Trouble::Unfinished) => "it ends without a footer".to_owned(),
            Err(Trouble::Content(reason)) => reason,
        };
        self.give_up(file, &problem);
        Ok(None)
    }

    /// Takes rows until the file or the budget ends; the table when there may be more.
    fn take(
        &mut self,
        file: &mut Progress,
        mut table: Table,
        rows: &mut TableRows,
    ) -> Result<Option<Table>, ConnectorError> {
        loop {
            let left = self.budget.rows as u64 - self.gathered.records.min(self.budget.rows as u64);
            let late = self.gathered.records > 0 && self.deadline.left().is_zero();
            if left == 0 || self.gathered.bytes >= self.budget.bytes || late {
                return Ok(Some(table));
            }
            let next = table.next(usize::try_from(left).unwrap_or(usize::MAX));
            match next.map_err(|error| unreadable(self.name, &error))? {
                columnar::Next::Rows(batch) => {
                    if let Err(problem) = self.add(file, &table, &batch, rows) {
                        self.give_up(file, &problem);
                        return Ok(None);
                    }
                }
                columnar::Next::Lost { until, reason } => {
                    let message =
                        format!("rows {} to {} cannot be read: {reason}", file.at, until - 1);
                    self.report(file.at, None, Fault::decode(message));
                    file.at = until;
                }
                columnar::Next::End => {
                    file.seen = file.seen.max(file.at);
                    return Ok(None);
                }
            }
        }
    }

    fn add(
        &mut self,
        file: &mut Progress,
        table: &Table,
        batch: &RecordBatch,
        rows: &mut TableRows,
    ) -> Result<(), String> {
        let parts = table.declared(batch);
        let mut bad = rows.append(batch.num_rows(), &parts)?;
        for row in 0..batch.num_rows() {
            let at = file.at + row as u64;
            match bad.remove(&row) {
                Some(bad) => self.report(at, bad.payload, bad.fault),
                None => self.gathered.places.push(RowPlace {
                    partition: file.number,
                    offset: i64::try_from(at).unwrap_or(i64::MAX),
                }),
            }
        }
        file.at += batch.num_rows() as u64;
        self.gathered.records += batch.num_rows() as u64;
        // What a file says about sizes is not to be trusted, and a slice counts as the whole.
        self.gathered.bytes += batch.columns().iter().map(sizes).sum::<usize>();
        Ok(())
    }

    /// A file that cannot be read is one letter, and its end is reached.
    fn give_up(&mut self, file: &mut Progress, problem: &str) {
        let message = format!("file \"{}\" cannot be read: {problem}", self.name);
        self.report(file.at, None, Fault::decode(message));
        file.table = None;
        file.at = file.end.unwrap_or(GIVEN_UP);
        file.seen = file.at;
    }

    fn report(&mut self, at: u64, payload: Option<Vec<u8>>, fault: Fault) {
        let offset = i64::try_from(at).unwrap_or(i64::MAX);
        let mut letter = letter(
            self.name,
            offset,
            payload.unwrap_or_default(),
            fault,
            self.now_us,
        );
        letter.payload = letter.payload.filter(|payload| !payload.is_empty());
        self.gathered.dead.push(letter);
        self.gathered.records += 1;
    }
}

/// About the bytes of a column's own rows.
fn sizes(column: &arrow::array::ArrayRef) -> usize {
    let data = column.to_data();
    data.get_slice_memory_size().unwrap_or(0)
}

/// Opens a file where it was left; false when its header is not complete yet.
fn prepare(
    name: &str,
    file: &mut Progress,
    format: Format,
    rows: &RowBuilder,
) -> Result<bool, ConnectorError> {
    if let Format::Csv {
        header: named,
        delimiter,
    } = format
        && file.header.is_none()
    {
        let columns = rows.given();
        file.header = match named {
            true => header(name, &file.path, delimiter, file.end, &columns)?,
            false => Some(Header::by_position(&columns)),
        };
        if file.header.is_none() {
            return Ok(false);
        }
    }
    if file.open.is_none() {
        let opened = Records::open(name, &file.path, file.at, file.end, format)?;
        file.open = Some(opened);
    }
    Ok(true)
}

fn letter(name: &str, offset: i64, record: Vec<u8>, fault: Fault, now_us: i64) -> DeadLetter {
    let mut payload = record;
    payload.truncate(DEAD_LETTER_BYTES_MAX);
    DeadLetter {
        reason: fault.reason.as_str().to_owned(),
        message: fault.message,
        topic: name.to_owned(),
        partition: 0,
        offset,
        key: None,
        payload: Some(payload),
        headers: None,
        at_us: now_us,
    }
}

impl SourceReader for FileReader {
    fn poll(&mut self, budget: Budget) -> Result<SourceBatch, ConnectorError> {
        let deadline = Deadline::after(budget.time);
        let mut gathered = Gathered::default();
        loop {
            let names: Vec<String> = self.files.keys().cloned().collect();
            for name in names {
                match self.plan.format {
                    Format::Parquet => self.read_table(&name, budget, deadline, &mut gathered)?,
                    _ => self.read(&name, budget, deadline, &mut gathered)?,
                }
            }
            let left = deadline.left();
            if !gathered.offsets.is_empty() || left.is_zero() {
                break;
            }
            match &self.look {
                Some(look) if self.plan.follow && look.left().is_zero() => {
                    self.look(&Offsets::new())?;
                }
                Some(look) if self.plan.follow => std::thread::sleep(left.min(look.left())),
                _ => std::thread::sleep(left),
            }
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
        SourceHealth::Running
    }

    fn high_watermarks(&self) -> Offsets {
        let end = |file: &Progress| file.end.unwrap_or(file.seen.max(file.at));
        let files = self.files.iter();
        files
            .map(|(name, file)| (name.clone(), end(file)))
            .collect()
    }
}
