//! The options of an HBase table, read once into what they mean.
//!
//! Invariant: a value that passes here can be used as it is; every message names the option.

use std::time::Duration;

use super::connection::{Dialect, Transport};
use super::endpoint::Endpoint;
use super::request::TableName;
use super::tls::Trust;
use super::value::Encoding;
use super::wire::Protocol;
use crate::error::ConnectorError;
use crate::options::Options;

/// What NULL does to a cell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NullMode {
    /// Takes it away.
    Delete,
    /// Leaves it as it is.
    Skip,
    /// Makes it empty, for columns whose encoding has no empty value.
    Empty,
}

/// How the cells of a column are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CellEncoding {
    /// One of the encodings for single values.
    Plain(Encoding),
    /// JSON text.
    Json,
}

/// The place of a column that is no cell: when the newest cell of the row was written.
const STAMP: &str = ":timestamp";
/// The qualifier of a struct whose fields are the cells of a family.
const EVERY_QUALIFIER: &str = "*";

/// A column whose place or encoding is declared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mapped {
    pub(super) column: String,
    /// Empty for the time of the newest cell.
    pub(super) family: String,
    pub(super) qualifier: String,
    pub(super) encoding: Option<CellEncoding>,
}

impl Mapped {
    /// Whether the column is the time of the newest cell.
    pub(super) fn is_stamp(&self) -> bool {
        self.family.is_empty()
    }

    /// Whether the column is a family.
    pub(super) fn is_family(&self) -> bool {
        self.qualifier == EVERY_QUALIFIER
    }
}

/// What a table is created with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Creation {
    pub(super) versions: Option<i32>,
    pub(super) ttl_s: Option<i32>,
    pub(super) compression: Option<i32>,
    pub(super) bloom: Option<i32>,
}

/// All of them.
#[derive(Debug, Clone)]
pub(super) struct TableOptions {
    pub(super) servers: Vec<Endpoint>,
    pub(super) dialect: Dialect,
    /// Of gateways that speak TLS; `None` when there are none.
    pub(super) trust: Option<Trust>,
    pub(super) table: TableName,
    pub(super) family: Option<String>,
    pub(super) mapped: Vec<Mapped>,
    /// `None`: by the number of key columns.
    pub(super) joint: Option<JointName>,
    pub(super) separator: u8,
    /// Key columns whose largest value comes first.
    pub(super) descending: Vec<String>,
    pub(super) salt_buckets: u16,
    pub(super) encoding: CellEncoding,
    pub(super) null_mode: NullMode,
    pub(super) create: Option<Creation>,
    /// Reads see whole deliveries of a sink.
    pub(super) committed: bool,
    pub(super) page_bytes: usize,
    pub(super) batch_bytes: usize,
    pub(super) timeout: Duration,
    /// Of a lookup join.
    pub(super) cache_rows: u64,
    pub(super) cache_bytes: u64,
    pub(super) cache_ttl: Duration,
}

/// `key.encoding` as given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum JointName {
    Single,
    Ordered,
    Separated,
    Fixed,
}

impl TableOptions {
    /// Reads and checks the options.
    pub(super) fn read(options: Options<'_>) -> Result<Self, ConnectorError> {
        let table = TableName::parse(options.required("table")?).map_err(|why| {
            ConnectorError::option_hint(
                "option \"table\" is no name of an HBase table",
                format!("Write name or namespace:name; {why}."),
            )
        })?;
        let page_bytes = bytes(options, "scan.page.bytes", 4 << 20, 64 << 20)?;
        let batch_bytes = bytes(options, "write.batch.bytes", 1 << 20, 64 << 20)?;
        let cache_bytes = bytes(options, "lookup.cache.bytes", 64 << 20, 64 << 30)?;
        let servers = servers(options.required("thrift.servers")?)?;
        let authorities = options.text("thrift.ssl.ca.pem");
        Ok(Self {
            // A text that nobody needs is read all the same, for its faults.
            trust: match authorities.is_some() || servers.iter().any(Endpoint::is_tls) {
                true => Some(Trust::new(authorities)?),
                false => None,
            },
            servers,
            dialect: dialect(options)?,
            table,
            family: options.text("family").map(str::to_owned),
            mapped: mapped(options.text("columns").unwrap_or_default())?,
            joint: joint(options)?,
            separator: separator(options)?,
            descending: names(options.text("key.desc").unwrap_or_default()),
            salt_buckets: salt_buckets(options)?,
            encoding: match options.text("value.encoding") {
                Some(name) => encoding(name, "value.encoding")?,
                None => CellEncoding::Plain(Encoding::Bytes),
            },
            null_mode: word(
                options,
                "null.mode",
                &[
                    ("delete", NullMode::Delete),
                    ("skip", NullMode::Skip),
                    ("empty", NullMode::Empty),
                ],
            )?
            .unwrap_or(NullMode::Delete),
            create: creation(options)?,
            committed: word(
                options,
                "scan.consistency",
                &[("latest", false), ("committed", true)],
            )?
            .unwrap_or(false),
            page_bytes,
            batch_bytes,
            timeout: options
                .duration("lookup.timeout")?
                .unwrap_or(Duration::from_secs(10)),
            cache_bytes: cache_bytes as u64,
            cache_rows: options.u64("lookup.cache.rows")?.unwrap_or(100_000),
            cache_ttl: options
                .duration("lookup.cache.ttl")?
                .unwrap_or(Duration::from_secs(10)),
        })
    }
}

/// One of some words; `None` when the option is not given.
fn word<T: Copy>(
    options: Options<'_>,
    name: &str,
    words: &[(&str, T)],
) -> Result<Option<T>, ConnectorError> {
    let Some(text) = options.text(name) else {
        return Ok(None);
    };
    let found = words
        .iter()
        .find(|(word, _)| text.eq_ignore_ascii_case(word));
    match found {
        Some((_, value)) => Ok(Some(*value)),
        None => {
            let known: Vec<String> = words.iter().map(|(word, _)| format!("'{word}'")).collect();
            let message = format!("option \"{name}\" must be {}", known.join(" or "));
            Err(ConnectorError::option(message))
        }
    }
}

fn servers(text: &str) -> Result<Vec<Endpoint>, ConnectorError> {
    let servers: Option<Vec<Endpoint>> = text.split(',').map(Endpoint::parse).collect();
    match servers {
        Some(servers) if servers.len() <= 64 => Ok(servers),
        _ => Err(ConnectorError::option_hint(
            "option \"thrift.servers\" must be host:port, several with commas between",
            "A gateway that speaks HTTP is http://host:port/ or https://host:port/.",
        )),
    }
}

fn dialect(options: Options<'_>) -> Result<Dialect, ConnectorError> {
    let transports = [
        ("framed", Transport::Framed),
        ("unframed", Transport::Unframed),
    ];
    let protocols = [("compact", Protocol::Compact), ("binary", Protocol::Binary)];
    Ok(Dialect {
        transport: word(options, "thrift.transport", &transports)?.unwrap_or(Transport::Framed),
        protocol: word(options, "thrift.protocol", &protocols)?.unwrap_or(Protocol::Compact),
    })
}

fn joint(options: Options<'_>) -> Result<Option<JointName>, ConnectorError> {
    word(
        options,
        "key.encoding",
        &[
            ("single", JointName::Single),
            ("ordered", JointName::Ordered),
            ("separated", JointName::Separated),
            ("fixed", JointName::Fixed),
        ],
    )
}

fn separator(options: Options<'_>) -> Result<u8, ConnectorError> {
    match options.text("key.separator").map(str::as_bytes) {
        None => Ok(b'|'),
        Some([byte]) if byte.is_ascii() => Ok(*byte),
        Some(_) => Err(ConnectorError::option(
            "option \"key.separator\" must be one ASCII character",
        )),
    }
}

/// Names with commas between.
fn names(text: &str) -> Vec<String> {
    let names = text.split(',').map(str::trim);
    let names = names.filter(|name| !name.is_empty());
    names.map(str::to_owned).collect()
}

fn salt_buckets(options: Options<'_>) -> Result<u16, ConnectorError> {
    match options.u64("key.salt_buckets")?.unwrap_or(0) {
        1 => Err(ConnectorError::option_hint(
            "option \"key.salt_buckets\" must not be 1",
            "Leave it out for keys without salt.",
        )),
        buckets @ 0..=256 => Ok(u16::try_from(buckets).unwrap_or(0)),
        _ => Err(ConnectorError::option(
            "option \"key.salt_buckets\" must be at most 256",
        )),
    }
}

fn encoding(name: &str, option: &str) -> Result<CellEncoding, ConnectorError> {
    match name.to_ascii_lowercase().as_str() {
        "bytes" => Ok(CellEncoding::Plain(Encoding::Bytes)),
        "string" => Ok(CellEncoding::Plain(Encoding::Text)),
        "ordered" => Ok(CellEncoding::Plain(Encoding::Ordered)),
        "json" => Ok(CellEncoding::Json),
        _ => Err(ConnectorError::option(format!(
            "option \"{option}\" must be 'bytes' or 'string' or 'ordered' or 'json'"
        ))),
    }
}

/// `name=family:qualifier#encoding`, with commas between.
fn mapped(text: &str) -> Result<Vec<Mapped>, ConnectorError> {
    let mut columns = Vec::new();
    for item in text
        .split(',')
        .map(str::trim)
        .filter(|item| !item.is_empty())
    {
        let malformed = || {
            ConnectorError::option_hint(
                "option \"columns\" cannot be read",
                "Write columns = 'name=family:qualifier, other=family:qualifier#string'.",
            )
        };
        let (column, place) = item.split_once('=').ok_or_else(malformed)?;
        let (place, code) = match place.rsplit_once('#') {
            Some((place, code)) => (place, Some(encoding(code.trim(), "columns")?)),
            None => (place, None),
        };
        let (family, qualifier) = place.split_once(':').ok_or_else(malformed)?;
        let is_stamp = place.trim() == STAMP;
        let mapping = Mapped {
            column: column.trim().to_owned(),
            family: family.trim().to_owned(),
            qualifier: qualifier.trim().to_owned(),
            encoding: code,
        };
        let empty = mapping.family.is_empty() || mapping.qualifier.is_empty();
        if mapping.column.is_empty() || (empty && !is_stamp) || (is_stamp && code.is_some()) {
            return Err(malformed());
        }
        columns.push(mapping);
    }
    Ok(columns)
}

/// `4MB`, `512 kB`, or a number of bytes.
fn bytes(
    options: Options<'_>,
    name: &str,
    default: usize,
    most: usize,
) -> Result<usize, ConnectorError> {
    let Some(text) = options.text(name) else {
        return Ok(default);
    };
    let text = text.trim();
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (digits, unit) = text.split_at(end);
    let factor = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => Some(1),
        "kb" => Some(1 << 10),
        "mb" => Some(1 << 20),
        "gb" => Some(1 << 30),
        _ => None,
    };
    let size = digits.parse::<usize>().ok().zip(factor);
    match size.and_then(|(count, factor)| count.checked_mul(factor)) {
        Some(size) if (1 << 10..=most).contains(&size) => Ok(size),
        _ => Err(ConnectorError::option(format!(
            "option \"{name}\" must be between '1kB' and '{}MB'",
            most >> 20
        ))),
    }
}

fn creation(options: Options<'_>) -> Result<Option<Creation>, ConnectorError> {
    let wanted = word(options, "create", &[("never", false), ("if-missing", true)])?;
    if wanted != Some(true) {
        return Ok(None);
    }
    // Codes of `TCompressionAlgorithm` and `TBloomFilterType`.
    let compressions = [
        ("lzo", 0),
        ("gz", 1),
        ("none", 2),
        ("snappy", 3),
        ("lz4", 4),
        ("zstd", 6),
    ];
    let blooms = [("none", 0), ("row", 1), ("rowcol", 2)];
    let versions = options.u64("create.versions")?;
    let versions = match versions.map(i32::try_from) {
        Some(Ok(1..)) | None => versions.and_then(|count| i32::try_from(count).ok()),
        Some(_) => {
            return Err(ConnectorError::option(
                "option \"create.versions\" must be a positive number",
            ));
        }
    };
    let ttl = options.duration("create.ttl")?;
    let ttl_s = match ttl.map(|ttl| i32::try_from(ttl.as_secs())) {
        None => None,
        Some(Ok(seconds @ 1..)) => Some(seconds),
        Some(_) => {
            return Err(ConnectorError::option(
                "option \"create.ttl\" must be at least a second and at most 68 years",
            ));
        }
    };
    if options.text("create.splits").is_some() {
        // The gateway of HBase 2.6.1 takes the whole request for each split key.
        return Err(ConnectorError::Unsupported {
            what: "option \"create.splits\"".into(),
            hint: "Create the table with SPLITS in the HBase shell.".into(),
        });
    }
    Ok(Some(Creation {
        versions,
        ttl_s,
        compression: word(options, "create.compression", &compressions)?,
        bloom: word(options, "create.bloom", &blooms)?,
    }))
}
