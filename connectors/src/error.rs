//! What can go wrong between us and an outside system, with its SQLSTATE.
//!
//! Invariant: no text in here ever holds an option's value that may be secret; brokers, topics and offsets are not.

use thalweg_catalog::Report;

use crate::archive::ArchiveError;
use crate::hbase::HbaseError;
use crate::store::StoreError;

/// An error of a connector.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConnectorError {
    /// The brokers do not answer.
    #[error("could not reach Kafka broker {brokers}")]
    BrokerUnreachable {
        /// `properties.bootstrap.server` as given.
        brokers: String,
        /// What the client last reported.
        detail: String,
    },
    /// The brokers answer and refuse who we are.
    #[error("Kafka broker {brokers} refused the login")]
    Authentication {
        /// `properties.bootstrap.server` as given.
        brokers: String,
        /// What the client last reported.
        detail: String,
    },
    /// We are known, and may not do this.
    #[error("permission denied for topic \"{topic}\" on Kafka broker {brokers}")]
    Denied {
        /// The topic.
        topic: String,
        /// `properties.bootstrap.server` as given.
        brokers: String,
    },
    /// The topic is not there.
    #[error("topic \"{topic}\" does not exist on broker {brokers}")]
    TopicMissing {
        /// The topic.
        topic: String,
        /// `properties.bootstrap.server` as given.
        brokers: String,
    },
    /// Any other answer of a broker, or of the client library.
    #[error("Kafka request failed: {detail}")]
    Kafka {
        /// The client library's name for it.
        detail: String,
    },
    /// An option or option combination that cannot work.
    #[error("{message}")]
    InvalidOption {
        /// What is wrong.
        message: String,
        /// What to write instead.
        hint: Option<String>,
    },
    /// Something DIALECT promises and this build does not have.
    #[error("{what} is not supported yet")]
    Unsupported {
        /// The construct.
        what: String,
        /// What to use instead.
        hint: String,
    },
    /// A column whose type the connector cannot fill.
    #[error("{message}")]
    ColumnType {
        /// What is wrong, naming the column.
        message: String,
    },
    /// No file matches.
    #[error("no file matches \"{pattern}\"")]
    NoFile {
        /// The option `path`.
        pattern: String,
    },
    /// A file cannot be read, or is not what it was.
    #[error("could not read file \"{path}\"")]
    File {
        /// Its name below `file_root`.
        path: String,
        /// Why.
        detail: String,
    },
    /// The store that files are in.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The topic that says how far exactly-once sinks have come cannot be had.
    #[error("could not create topic \"{topic}\" on Kafka broker {brokers}")]
    MarkerTopic {
        /// The topic.
        topic: String,
        /// `properties.bootstrap.server` as given.
        brokers: String,
        /// What the broker said.
        detail: String,
    },
    /// The topic that says how far exactly-once sinks have come forgets it.
    #[error("topic \"{topic}\" on Kafka broker {brokers} does not keep how far sinks have come")]
    MarkersExpire {
        /// The topic.
        topic: String,
        /// `properties.bootstrap.server` as given.
        brokers: String,
        /// Its `cleanup.policy`.
        policy: String,
    },
    /// The brokers know no transactions, or not for us.
    #[error("Kafka broker {brokers} does not take transactions")]
    NoTransactions {
        /// `properties.bootstrap.server` as given.
        brokers: String,
        /// What the broker said.
        detail: String,
    },
    /// Somebody else writes as this sink.
    #[error("another writer has taken over the sink")]
    Fenced {
        /// The name both go by.
        writer: String,
    },
    /// A row cannot be named to the readers of the sink.
    #[error("null value in the key of a message")]
    NullKey,
    /// Records between two offsets are gone: retention overtook the reader, or the topic was created anew.
    #[error("records of topic \"{topic}\" partition {partition} from offset {from} on are gone")]
    Gap {
        /// The topic.
        topic: String,
        /// The partition.
        partition: i32,
        /// First offset that was wanted.
        from: u64,
        /// What the broker has.
        detail: String,
    },
    /// HBase, its gateways, or a row that does not fit there.
    #[error(transparent)]
    Hbase(#[from] HbaseError),
    /// An archive, or the store it is in.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// The relation is of a kind that has no connector, or a broken promise inside this crate.
    #[error("{0}")]
    Internal(String),
}

impl ConnectorError {
    /// A bad option without a hint.
    pub(crate) fn option(message: impl Into<String>) -> Self {
        ConnectorError::InvalidOption {
            message: message.into(),
            hint: None,
        }
    }

    /// A bad option with a hint.
    pub(crate) fn option_hint(message: impl Into<String>, hint: impl Into<String>) -> Self {
        ConnectorError::InvalidOption {
            message: message.into(),
            hint: Some(hint.into()),
        }
    }

    /// SQLSTATE of this error. A gap is 58030 (`io_error`): data that was promised cannot be read any more.
    pub fn sqlstate(&self) -> &'static str {
        match self {
            ConnectorError::BrokerUnreachable { .. } => "08001",
            ConnectorError::Authentication { .. } => "28000",
            ConnectorError::Denied { .. } => "42501",
            ConnectorError::TopicMissing { .. } => "42P01",
            ConnectorError::Kafka { .. } => "58000",
            ConnectorError::InvalidOption { .. } => "22023",
            ConnectorError::Unsupported { .. } => "0A000",
            ConnectorError::ColumnType { .. } => "42804",
            ConnectorError::NoFile { .. } => "58P01",
            ConnectorError::File { .. } => "58030",
            ConnectorError::Store(error) => error.sqlstate(),
            ConnectorError::MarkerTopic { .. } => "42501",
            ConnectorError::NoTransactions { .. } => "0A000",
            ConnectorError::MarkersExpire { .. } | ConnectorError::Fenced { .. } => "55000",
            ConnectorError::NullKey => "23502",
            ConnectorError::Gap { .. } => "58030",
            ConnectorError::Hbase(error) => error.sqlstate(),
            ConnectorError::Archive(error) => error.sqlstate(),
            ConnectorError::Internal(_) => "XX000",
        }
    }

    /// Whether another writer has taken over for good, so that taking over again is for the owner to decide.
    pub fn shuts_out(&self) -> bool {
        matches!(
            self,
            ConnectorError::Hbase(HbaseError::ShutOut { .. })
                | ConnectorError::Archive(ArchiveError::Fenced { .. })
        )
    }

    /// The error as a client sees it.
    pub fn report(&self) -> Report {
        let (detail, hint) = match self {
            ConnectorError::BrokerUnreachable { detail, .. } => (
                Some(detail.clone()),
                Some("Check properties.bootstrap.server, and that the broker advertises an address this machine can reach.".into()),
            ),
            ConnectorError::Authentication { detail, .. } => (
                Some(detail.clone()),
                Some("Check properties.security.protocol and the properties.sasl.* options.".into()),
            ),
            ConnectorError::Denied { .. } => {
                (None, Some("Grant DESCRIBE, and READ for a source or WRITE for a sink, on the topic to this user.".into()))
            }
            ConnectorError::TopicMissing { .. } => {
                (None, Some("Create the topic first; Thalweg never creates topics.".into()))
            }
            ConnectorError::Gap { detail, .. } => (
                Some(detail.clone()),
                Some("Set on_offset_gap = 'resume' to go on from the first record that is left and log the gap.".into()),
            ),
            ConnectorError::InvalidOption { hint, .. } => (None, hint.clone()),
            ConnectorError::Unsupported { hint, .. } => (None, Some(hint.clone())),
            ConnectorError::NoFile { .. } => (
                None,
                Some("Paths are relative to file_root; add follow = 'true' to wait for files.".into()),
            ),
            ConnectorError::File { detail, .. } => (Some(detail.clone()), None),
            ConnectorError::Store(error) => (
                Some(error.detail.clone()),
                error.hint().map(str::to_owned),
            ),
            ConnectorError::Hbase(error) => (error.detail(), error.hint()),
            ConnectorError::MarkerTopic { topic, detail, .. } => (
                Some(detail.clone()),
                Some(format!(
                    "Create topic \"{topic}\" with one partition and cleanup.policy=compact and grant READ and WRITE on it, or use delivery = 'at_least_once'."
                )),
            ),
            ConnectorError::MarkersExpire { topic, policy, .. } => (
                Some(format!(
                    "Its cleanup.policy is \"{policy}\", with a bound on age or size: the marker of a sink that is quiet for long is removed, and its rows would be delivered again."
                )),
                Some(format!("Set cleanup.policy=compact on topic \"{topic}\".")),
            ),
            ConnectorError::NoTransactions { detail, .. } => (
                Some(detail.clone()),
                Some("Grant WRITE and DESCRIBE on the transactional id, or use delivery = 'at_least_once'.".into()),
            ),
            ConnectorError::Fenced { writer } => (
                Some(format!("Both write with the transactional id \"{writer}\".")),
                Some("Stop the other server: it runs on a copy of this data dir.".into()),
            ),
            ConnectorError::Archive(error) => (error.detail(), error.hint()),
            ConnectorError::NullKey => (
                None,
                Some("Use KEY ENCODE JSON, or leave such rows out of the sink's query.".into()),
            ),
            ConnectorError::Kafka { .. }
            | ConnectorError::ColumnType { .. }
            | ConnectorError::Internal(_) => (None, None),
        };
        Report {
            sqlstate: self.sqlstate(),
            message: self.to_string(),
            detail: detail.filter(|text| !text.is_empty()),
            hint,
            position: None,
        }
    }
}
