//! What can go wrong between us and HBase, with its SQLSTATE.
//!
//! Invariant: no text here holds a value of a row; tables, families, columns and gateways are named. Java stack traces end here.

use super::limits::REMOTE_MESSAGE_MAX;
use super::reply::Refusal;
use super::request::Call;
use super::wire::WireError;

/// An error of HBase, of its gateways, or of a row that does not fit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HbaseError {
    /// No gateway answers.
    #[error("could not reach HBase through Thrift gateway {servers}")]
    Unreachable {
        /// `thrift.servers` as given.
        servers: String,
        /// What happened last.
        detail: String,
    },
    /// Something answers, and it is not a Thrift2 gateway with these settings.
    #[error("{server} is not an HBase Thrift2 gateway with this transport and protocol")]
    WrongEndpoint {
        /// The address.
        server: String,
        /// What it did.
        detail: String,
    },
    /// A gateway's certificate is not of an authority that is trusted, or of another server.
    #[error("could not verify the certificate of Thrift gateway {server}")]
    Untrusted {
        /// The address.
        server: String,
        /// What is wrong with it.
        detail: String,
    },
    /// A gateway serves nobody that does not say who he is.
    #[error("Thrift gateway {server} denied access")]
    Denied {
        /// The address.
        server: String,
        /// What it said.
        detail: String,
    },
    /// A gateway lives and HBase does not answer in time.
    #[error("HBase table \"{table}\" did not answer in time")]
    Timeout {
        /// The table.
        table: String,
    },
    /// The table is not there.
    #[error("HBase table \"{table}\" does not exist")]
    TableMissing {
        /// The table.
        table: String,
    },
    /// The table is disabled.
    #[error("HBase table \"{table}\" is disabled")]
    TableDisabled {
        /// The table.
        table: String,
    },
    /// The table lacks a family that a column is in.
    #[error("HBase table \"{table}\" lacks a column family")]
    FamilyMissing {
        /// The table.
        table: String,
        /// HBase's words.
        detail: String,
    },
    /// HBase does not take this row.
    #[error("HBase table \"{table}\" refused a row")]
    RowRefused {
        /// The table.
        table: String,
        /// HBase's words.
        detail: String,
    },
    /// A gateway failed over this row alone, and so did the one that was asked after it: the row is at fault, or both are.
    #[error("HBase table \"{table}\" refused a row")]
    RowFailed {
        /// The table.
        table: String,
        /// The gateway's words.
        detail: String,
    },
    /// Rows that were refused besides those that are told of one by one.
    #[error("HBase table \"{table}\" refused {rows} more rows")]
    MoreRefused {
        /// The table.
        table: String,
        /// How many.
        rows: usize,
    },
    /// Any other answer.
    #[error("HBase request on table \"{table}\" failed")]
    Remote {
        /// The table.
        table: String,
        /// HBase's words.
        detail: String,
    },
    /// An answer that breaks the protocol or the interface.
    #[error("Thrift gateway {server} sent a reply that cannot be read")]
    BadReply {
        /// The address.
        server: String,
        /// What is wrong with it.
        detail: String,
    },
    /// What was asked for is more than is read of one reply; of several rows fewer are asked for then.
    #[error("a row of HBase table \"{table}\" is over the limit of {limit} bytes of a reply")]
    ReplyTooLarge {
        /// The table.
        table: String,
        /// Bytes of the longest reply that is read.
        limit: usize,
    },
    /// One row is more than a request may be.
    #[error("a row of {bytes} bytes is over the limit of a request to HBase")]
    RowTooLarge {
        /// Its size.
        bytes: usize,
    },
    /// A cell that HBase does not take for its size.
    #[error("a cell of {bytes} bytes is over the limit of HBase table \"{table}\"")]
    CellTooLarge {
        /// The table.
        table: String,
        /// Its size, with the row key and the column.
        bytes: usize,
        /// What a gateway said.
        detail: String,
    },
    /// A cell or key holds bytes that are no value of the column's type.
    #[error("column \"{column}\" of HBase table \"{table}\" holds bytes that are not {expected}")]
    BadValue {
        /// The table.
        table: String,
        /// The column.
        column: String,
        /// The type and encoding.
        expected: String,
    },
    /// A row lacks a cell that its column must have.
    #[error(
        "a row of HBase table \"{table}\" has no cell for column \"{column}\", which is NOT NULL"
    )]
    MissingCell {
        /// The table.
        table: String,
        /// The column.
        column: String,
    },
    /// A delivery's timestamp is in the future of our clock.
    #[error("deliveries to HBase table \"{table}\" have timestamps {ahead_s} s ahead of the clock")]
    ClockBehind {
        /// The table.
        table: String,
        /// Seconds.
        ahead_s: i64,
    },
    /// Reads of whole deliveries need what the table gives up.
    #[error("HBase table \"{table}\" does not keep what reads of whole deliveries need")]
    NoVersions {
        /// The table.
        table: String,
    },
    /// What a read began with may be gone.
    #[error("HBase table \"{table}\" was written to too often while it was read")]
    Overtaken {
        /// The table.
        table: String,
    },
    /// Nothing says which cells belong to whole deliveries of all of them.
    #[error("HBase table \"{table}\" has several sinks, so no read sees whole deliveries of it")]
    SeveralSinks {
        /// The table.
        table: String,
    },
    /// The sink has not said which deliveries are whole.
    #[error(
        "sink into HBase table \"{table}\" has not taken over yet, so no read sees whole deliveries of it"
    )]
    SinkUnknown {
        /// The table.
        table: String,
    },
    /// Another server has taken over the sink.
    #[error("another server has taken over the sink into HBase")]
    ShutOut {
        /// Row of the control table.
        row: String,
    },
    /// A value that the encoding of its column has no bytes for.
    #[error("value of column \"{column}\" cannot be written to HBase as {encoding}")]
    Unwritable {
        /// The column.
        column: String,
        /// The encoding.
        encoding: String,
        /// Why.
        detail: String,
    },
    /// A key column without a value.
    #[error("null value in column \"{column}\" of the row key")]
    NullKey {
        /// The column.
        column: String,
    },
    /// A row key that HBase cannot hold.
    #[error("row key of {bytes} bytes is not between 1 and 32767 bytes")]
    KeyLength {
        /// Its length.
        bytes: usize,
    },
}

impl HbaseError {
    /// SQLSTATE of this error.
    pub fn sqlstate(&self) -> &'static str {
        match self {
            HbaseError::Unreachable { .. } | HbaseError::Untrusted { .. } => "08001",
            HbaseError::Denied { .. } => "28000",
            HbaseError::WrongEndpoint { .. } | HbaseError::BadReply { .. } => "08P01",
            HbaseError::Timeout { .. } => "58030",
            HbaseError::TableMissing { .. } => "42P01",
            HbaseError::TableDisabled { .. }
            | HbaseError::ClockBehind { .. }
            | HbaseError::NoVersions { .. }
            | HbaseError::Overtaken { .. }
            | HbaseError::SeveralSinks { .. }
            | HbaseError::SinkUnknown { .. }
            | HbaseError::ShutOut { .. } => "55000",
            HbaseError::FamilyMissing { .. } => "42703",
            HbaseError::RowRefused { .. }
            | HbaseError::RowFailed { .. }
            | HbaseError::MoreRefused { .. }
            | HbaseError::Remote { .. } => "58000",
            HbaseError::ReplyTooLarge { .. }
            | HbaseError::RowTooLarge { .. }
            | HbaseError::CellTooLarge { .. }
            | HbaseError::KeyLength { .. } => "54000",
            HbaseError::BadValue { .. } => "22P03",
            HbaseError::Unwritable { .. } => "22023",
            HbaseError::NullKey { .. } | HbaseError::MissingCell { .. } => "23502",
        }
    }

    /// More about this occurrence.
    pub fn detail(&self) -> Option<String> {
        match self {
            HbaseError::Unreachable { detail, .. }
            | HbaseError::WrongEndpoint { detail, .. }
            | HbaseError::Untrusted { detail, .. }
            | HbaseError::Denied { detail, .. }
            | HbaseError::FamilyMissing { detail, .. }
            | HbaseError::RowRefused { detail, .. }
            | HbaseError::RowFailed { detail, .. }
            | HbaseError::CellTooLarge { detail, .. }
            | HbaseError::Remote { detail, .. }
            | HbaseError::BadReply { detail, .. }
            | HbaseError::Unwritable { detail, .. } => Some(detail.clone()),
            HbaseError::ShutOut { row } => Some(format!(
                "Row {row} of table thalweg_commits names a newer writer: a server that runs on a copy of this data dir."
            )),
            _ => None,
        }
    }

    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        let hint = match self {
            HbaseError::Unreachable { .. } => {
                "Check thrift.servers, and that the gateways run and reach HBase. One that hangs up or stays silent may have been started with another thrift.transport or thrift.protocol: -f is framed, -c is compact."
            }
            HbaseError::WrongEndpoint { .. } => {
                "Check thrift.transport and thrift.protocol against the gateway's start options: -f is framed, -c is compact. A gateway that speaks HTTP is http://host:port/ in thrift.servers, with TLS https://host:port/. Thrift1 and REST do not serve."
            }
            HbaseError::Untrusted { .. } => {
                "Set thrift.ssl.ca.pem to the certificate of the authority that signed it, and name the gateway in thrift.servers as its certificate does."
            }
            HbaseError::Denied { .. } => {
                "Kerberos is not built yet: use a gateway, or a proxy before it, that serves this machine without a login."
            }
            HbaseError::Timeout { .. } => {
                "Look at the region servers; the statement can be repeated."
            }
            HbaseError::TableMissing { .. } => "Create it in HBase, or set create = 'if-missing'.",
            HbaseError::TableDisabled { .. } => "Enable the table in HBase.",
            HbaseError::FamilyMissing { .. } => {
                "Add the family in HBase, or name another with family or OPTIONS (column = 'family:qualifier')."
            }
            HbaseError::CellTooLarge { .. } => {
                "The limit is 10 MB unless hbase.client.keyvalue.maxsize of the gateways and hbase.server.keyvalue.maxsize of the region servers say otherwise."
            }
            HbaseError::ReplyTooLarge { .. } => "Map fewer cells of the row to columns.",
            HbaseError::ClockBehind { .. } => {
                "Set the clock of this machine right; delivery goes on by itself when it has come that far."
            }
            HbaseError::NoVersions { .. } => {
                "Declare its families with VERSIONS => 10 and KEEP_DELETED_CELLS => 'TRUE', or use scan.consistency = 'latest'."
            }
            HbaseError::Overtaken { .. } => {
                "Try again; with more VERSIONS of its families reads may take longer."
            }
            HbaseError::SeveralSinks { .. } => "Use scan.consistency = 'latest'.",
            HbaseError::SinkUnknown { .. } => {
                "SHOW SINKS says what it waits for. A part of a delivery may be there; scan.consistency = 'latest' shows it."
            }
            HbaseError::ShutOut { .. } => {
                "Stop the other server; ALTER SINK ... RESUME has this one go on."
            }
            HbaseError::BadValue { .. } => {
                "Set value.encoding, or OPTIONS (encoding = '...') on the column, to what the writer used."
            }
            _ => return None,
        };
        Some(hint.to_owned())
    }

    /// Whether the row is at fault, so that its neighbours can be written without it.
    pub(super) fn is_of_the_row(&self) -> bool {
        matches!(
            self,
            HbaseError::RowRefused { .. }
                | HbaseError::RowFailed { .. }
                | HbaseError::RowTooLarge { .. }
                | HbaseError::CellTooLarge { .. }
                | HbaseError::KeyLength { .. }
                | HbaseError::NullKey { .. }
                | HbaseError::Unwritable { .. }
        )
    }
}

/// Why a call on one connection came to nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Failure {
    /// No connection, or it broke.
    Broken(String),
    /// The server closed the connection before it answered.
    Closed,
    /// The gateway gives no sign of life.
    Silent,
    /// The gateway lives; the answer did not come in time.
    Late,
    /// The reply cannot be read.
    BadReply(WireError),
    /// The reply is longer than this many bytes: the gateway is well, and too much was asked for.
    TooLarge(usize),
    /// The server does not know the interface.
    WrongEndpoint(String),
    /// The server's certificate is not trusted.
    Untrusted(String),
    /// The server wants to know who is asking.
    Denied(String),
}

impl Failure {
    /// As a detail line.
    pub(super) fn text(&self, server: &str) -> String {
        match self {
            Failure::Broken(why) => format!("{server}: {why}"),
            Failure::Closed => format!("{server} closed the connection"),
            Failure::Silent => format!("{server} accepts connections and does not answer"),
            Failure::Late => format!("{server} did not answer in time"),
            Failure::BadReply(error) => format!("{server}: {error}"),
            Failure::TooLarge(limit) => format!("{server}: the reply is over {limit} bytes"),
            Failure::WrongEndpoint(why) | Failure::Untrusted(why) | Failure::Denied(why) => {
                format!("{server}: {why}")
            }
        }
    }

    /// The error, when neither another try nor another gateway is to make up for it: somebody has set something wrong.
    pub(super) fn finally(&self, server: &str) -> Option<HbaseError> {
        let server = server.to_owned();
        match self.clone() {
            Failure::WrongEndpoint(detail) => Some(HbaseError::WrongEndpoint { server, detail }),
            Failure::Untrusted(detail) => Some(HbaseError::Untrusted { server, detail }),
            Failure::Denied(detail) => Some(HbaseError::Denied { server, detail }),
            _ => None,
        }
    }
}

/// What follows from a gateway's refusal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Consequence {
    /// Trying again may help: a region moves, a server is gone.
    Again(HbaseError),
    /// The row is at fault or the gateway is sick, which only another can tell.
    Elsewhere(HbaseError),
    /// It would be refused again.
    Final(HbaseError),
}

/// How a gateway's answer begins when its code throws what it does not declare: a check of HBase's client, such as that of a
/// cell's size, as well as whatever goes wrong in a gateway that is sick or stops.
const INTERNAL: &str = "Internal error";

/// Words of exceptions that are about one row.
const ROW_FAULTS: &[&str] = &[
    "size too large",
    "exceeds maximum",
    "exceeds limit",
    "IllegalArgumentException",
    "FailedSanityCheckException",
];
/// What DDL says that came second.
const ALREADY_THERE: &[&str] = &["TableExistsException", "NamespaceExistException"];

/// What a gateway says while ZooKeeper does not answer it. Its client gives such a request up for good; the outage passes.
const ENSEMBLE_AWAY: &[&str] = &[
    "could not be completed in",
    "ConnectionLossException",
    "SessionExpiredException",
    "OperationTimeoutException",
];

/// Decides what a refusal means.
pub(super) fn judge(refusal: &Refusal, call: &Call<'_>, server: &str) -> Consequence {
    let table = call.table().to_owned();
    let (message, retry) = match refusal {
        Refusal::Application { message } => {
            let detail = first_line(message);
            // What a Thrift1 gateway says to our calls.
            if message.contains("Invalid method name") {
                let server = server.to_owned();
                return Consequence::Final(HbaseError::WrongEndpoint { server, detail });
            }
            return match call {
                Call::Put(..) | Call::Delete(..) if message.starts_with(INTERNAL) => {
                    Consequence::Elsewhere(HbaseError::RowFailed { table, detail })
                }
                Call::Put(..) | Call::Delete(..) => {
                    Consequence::Final(HbaseError::RowRefused { table, detail })
                }
                _ => Consequence::Final(HbaseError::Remote { table, detail }),
            };
        }
        Refusal::Remote { message, retry } => (message, *retry),
    };
    let says = |word: &str| message.contains(word);
    let detail = first_line(message);
    // Of a table that is missing or disabled often nothing but its name is said; the caller asks which it is.
    let name_alone = message.trim() == table || says(&format!(": {table}: "));
    if says("TableNotFoundException") {
        Consequence::Final(HbaseError::TableMissing { table })
    } else if says("TableNotEnabledException") {
        Consequence::Final(HbaseError::TableDisabled { table })
    } else if says("NoSuchColumnFamilyException") {
        Consequence::Final(HbaseError::FamilyMissing { table, detail })
    } else if ROW_FAULTS.iter().any(|word| says(word)) {
        Consequence::Final(HbaseError::RowRefused { table, detail })
    } else if ENSEMBLE_AWAY.iter().any(|word| says(word)) {
        Consequence::Again(HbaseError::Remote { table, detail })
    } else if retry == Some(false) || name_alone || ALREADY_THERE.iter().any(|word| says(word)) {
        Consequence::Final(HbaseError::Remote { table, detail })
    } else {
        Consequence::Again(HbaseError::Remote { table, detail })
    }
}

/// The first line of a Java message, bounded: what follows is a stack trace.
fn first_line(message: &str) -> String {
    let line = message.lines().next().unwrap_or_default().trim();
    line.chars().take(REMOTE_MESSAGE_MAX).collect()
}
