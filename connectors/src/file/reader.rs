//! Reads the files of a source, one after the other, and again as they grow.
//!
//! Invariant: a batch names for each file the offset behind the last record it holds; what is not complete is not read.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::csv::Header;
use super::records::{Next, Records, RowBuilder, header};
use super::{Format, Plan, length, unreadable};
use crate::context::{Clock, Deadline};
use crate::error::ConnectorError;
use crate::format::Fault;
use crate::source::{
    Budget, DeadLetter, Offsets, RowPlace, SourceBatch, SourceHealth, SourceReader,
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
    /// Length when it was last looked at.
    seen: u64,
    open: Option<Records>,
    header: Option<Header>,
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
                open: None,
                header: None,
            });
            file.seen = length(name, path)?;
            if file.seen < file.end.unwrap_or(file.at) {
                return Err(ConnectorError::File {
                    path: name.clone(),
                    detail: format!(
                        "It has {} bytes, and had {} before.",
                        file.seen,
                        file.end.unwrap_or(file.at)
                    ),
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
        if file.at >= file.end.unwrap_or(file.seen) {
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
                self.read(&name, budget, deadline, &mut gathered)?;
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
        Ok(SourceBatch {
            rows: self.rows.finish()?,
            places: gathered.places,
            names: gathered.names,
            dead: gathered.dead,
            offsets: gathered.offsets,
            records: gathered.records,
            skipped: 0,
        })
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
