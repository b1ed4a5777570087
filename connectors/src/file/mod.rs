//! The file source: JSON lines, CSV or Parquet of the files that match a pattern, on a disk or on HDFS, read once or followed as
//! they grow.
//!
//! Invariant: a split is a file, and an offset is the byte where its next record begins, or the number of its next row in a
//! Parquet file; on this machine nothing outside of `file_root` is opened. A store that does not answer delays a reader, and is
//! never taken for one without files.

mod columnar;
mod content;
mod csv;
mod find;
mod gather;
mod place;
mod reader;
mod records;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use thalweg_catalog::{Column, ColumnRole, ConnectorSpec, Relation};

use crate::context::{Clock, ConnectorContext};
use crate::error::ConnectorError;
use crate::format::JsonOptions;
use crate::options::Options;
use crate::source::{Offsets, SourceConnector, SourceReader};
use columnar::{Extent, GIVEN_UP};
use find::Pattern;
use reader::FileReader;

/// Ends the name under which the start offsets also hold where a bounded file ends. No path has this character.
const END_MARK: &str = "\u{0}end";

/// How soon a store that failed is asked again, at first and at last.
const ASK_AGAIN: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));

/// What a line is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Format {
    /// A JSON object.
    Json,
    /// Fields, after a line with their names when `header`.
    Csv { header: bool, delimiter: u8 },
    /// No line at all: the rows are stored by column.
    Parquet,
}

/// Everything a reader needs.
#[derive(Debug)]
struct Plan {
    pattern: Pattern,
    format: Format,
    follow: bool,
    columns: Vec<Column>,
    json: JsonOptions,
    /// How soon a store that failed is asked again, at first and at last.
    ask_again: (Duration, Duration),
    /// Where files end, under `follow = 'false'`: as they were when the source was created.
    ends: BTreeMap<String, u64>,
}

/// Files that match a pattern.
#[derive(Debug)]
pub struct FileSource {
    plan: Arc<Plan>,
    clock: Arc<dyn Clock>,
}

impl FileSource {
    /// Checks options and columns; opens nothing.
    pub(crate) fn new(
        relation: &Relation,
        spec: &ConnectorSpec,
        context: &ConnectorContext,
    ) -> Result<Self, ConnectorError> {
        let options = Options(&spec.options);
        if let Some(column) = relation
            .columns
            .iter()
            .find(|column| column.role != ColumnRole::Data)
        {
            return Err(ConnectorError::Unsupported {
                what: format!("INCLUDE column \"{}\" on connector \"file\"", column.name),
                hint: "Leave it out; a line has no message parts.".into(),
            });
        }
        let json = JsonOptions::read(Options(&spec.encode_options))?;
        let format = format(options, &spec.encode)?;
        let follow = options.bool("follow")?.unwrap_or(false);
        let plan = Plan {
            pattern: Pattern::new(&context.file_root, options)?,
            format,
            follow,
            columns: relation.columns.clone(),
            json,
            ask_again: ASK_AGAIN,
            ends: ends(&spec.start),
        };
        records::RowBuilder::new(&plan.columns, plan.json)?;
        Ok(Self {
            plan: Arc::new(plan),
            clock: Arc::clone(&context.clock),
        })
    }
}

/// The format by the option, or by the clause `ENCODE`, which says the same in other words.
fn format(options: Options<'_>, encode: &str) -> Result<Format, ConnectorError> {
    let header = options.bool("csv.header")?;
    let delimiter = options.text("csv.delimiter");
    let encoded = match encode {
        "CSV" => Some("csv"),
        "PARQUET" => Some("parquet"),
        _ => None,
    };
    let format = match (options.text("format"), encoded) {
        (Some(option), Some(encoded)) if option != encoded => {
            return Err(ConnectorError::option_hint(
                format!("option \"format\" is '{option}', and ENCODE says {encode}"),
                "Leave one of them out.",
            ));
        }
        (option, encoded) => option.or(encoded).unwrap_or("json"),
    };
    match format {
        "json" | "parquet" if header.is_some() || delimiter.is_some() => {
            Err(ConnectorError::option_hint(
                "options \"csv.header\" and \"csv.delimiter\" need format = 'csv'",
                "Add format = 'csv'.",
            ))
        }
        "json" => Ok(Format::Json),
        "parquet" => Ok(Format::Parquet),
        "csv" => {
            let delimiter = match delimiter {
                None => b',',
                Some("\\t" | "tab") => b'\t',
                Some(text) => match text.as_bytes() {
                    [byte] if byte.is_ascii() && !matches!(byte, b'"' | b'\n' | b'\r') => *byte,
                    _ => {
                        return Err(ConnectorError::option_hint(
                            "option \"csv.delimiter\" must be one ASCII character",
                            "Use ',', ';', '|' or 'tab'.",
                        ));
                    }
                },
            };
            Ok(Format::Csv {
                header: header.unwrap_or(true),
                delimiter,
            })
        }
        other => Err(ConnectorError::Unsupported {
            what: format!("format = '{other}' of a file source"),
            hint: "Use format = 'json', 'csv' or 'parquet'.".into(),
        }),
    }
}

fn ends(start: &BTreeMap<String, u64>) -> BTreeMap<String, u64> {
    start
        .iter()
        .filter_map(|(split, end)| Some((split.strip_suffix(END_MARK)?.to_owned(), *end)))
        .collect()
}

/// The splits among start offsets.
fn splits(at: &Offsets) -> Offsets {
    let split = |(split, _): &(&String, &u64)| !split.ends_with(END_MARK);
    let splits = at.iter().filter(split);
    splits.map(|(split, at)| (split.clone(), *at)).collect()
}

impl Plan {
    /// Where each file ends for a reader that starts now.
    fn ends_now(&self) -> Result<Offsets, ConnectorError> {
        if !self.follow {
            return Ok(self.ends.clone());
        }
        let mut ends = Offsets::new();
        for file in self.pattern.files()? {
            let end = match self.format {
                Format::Parquet => Extent::of(&file)?.end(),
                _ => records::last_record_end(&file, self.format)?,
            };
            ends.insert(file.name, end);
        }
        Ok(ends)
    }
}

#[async_trait]
impl SourceConnector for FileSource {
    async fn resolve_start(&self) -> Result<Offsets, ConnectorError> {
        let plan = Arc::clone(&self.plan);
        on_a_blocking_thread(move || {
            let files = plan.pattern.files()?;
            if files.is_empty() && !plan.follow {
                return Err(ConnectorError::NoFile {
                    pattern: plan.pattern.text().to_owned(),
                });
            }
            let mut start = Offsets::new();
            for file in files {
                if !plan.follow {
                    let end = match plan.format {
                        Format::Parquet => match Extent::of(&file)? {
                            Extent::Rows(rows) => rows,
                            // What is not complete now never belongs to it.
                            Extent::Unfinished | Extent::Unreadable(_) => GIVEN_UP,
                        },
                        _ => file.length()?,
                    };
                    start.insert(format!("{}{END_MARK}", file.name), end);
                }
                start.insert(file.name, 0);
            }
            Ok(start)
        })
        .await
    }

    async fn end_offsets(&self) -> Result<Offsets, ConnectorError> {
        let plan = Arc::clone(&self.plan);
        on_a_blocking_thread(move || plan.ends_now()).await
    }

    fn open(&self, at: &Offsets) -> Result<Box<dyn SourceReader>, ConnectorError> {
        Ok(Box::new(FileReader::open(
            Arc::clone(&self.plan),
            splits(at),
            Arc::clone(&self.clock),
        )?))
    }
}

async fn on_a_blocking_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ConnectorError> + Send + 'static,
) -> Result<T, ConnectorError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| ConnectorError::Internal(format!("reading files stopped: {error}")))?
}

fn unreadable(name: &str, error: &std::io::Error) -> ConnectorError {
    match content::store_error(error) {
        Some(error) => ConnectorError::Store(error.clone()),
        None => ConnectorError::File {
            path: name.to_owned(),
            detail: error.to_string(),
        },
    }
}

#[cfg(test)]
mod tests;
