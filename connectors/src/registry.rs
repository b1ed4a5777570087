//! Names of connectors and what they stand for.
//!
//! Invariant: a relation that passes through here without an error can be opened; every option its connector reads was checked.

use std::sync::Arc;

use thalweg_catalog::{Relation, RelationKind};

use crate::blackhole::BlackholeSink;
use crate::context::ConnectorContext;
use crate::datagen::DatagenSource;
use crate::error::ConnectorError;
use crate::file::FileSource;
use crate::kafka::{KafkaCommitter, KafkaSink, KafkaSource};
use crate::nexmark::NexmarkSource;
use crate::print::PrintSink;
use crate::sink::AnySink;
use crate::source::SourceConnector;

/// The connector of a source.
///
/// # Errors
/// 0A000 for a connector, FORMAT or ENCODE this build does not have, 22023 for an option that cannot work, 42804 for a column
/// the connector cannot fill. Nothing outside is contacted.
pub fn source(
    relation: &Relation,
    context: &ConnectorContext,
) -> Result<Arc<dyn SourceConnector>, ConnectorError> {
    let RelationKind::Source(spec) = &relation.kind else {
        return Err(ConnectorError::Internal(format!(
            "relation \"{}\" is not a source",
            relation.name
        )));
    };
    match spec.connector.as_str() {
        "kafka" => Ok(Arc::new(KafkaSource::new(relation, spec, context)?)),
        "datagen" => Ok(Arc::new(DatagenSource::new(relation, spec, context)?)),
        "file" => Ok(Arc::new(FileSource::new(relation, spec, context)?)),
        "nexmark" => Ok(Arc::new(NexmarkSource::new(relation, spec, context)?)),
        other => Err(ConnectorError::Unsupported {
            what: format!("source connector \"{other}\""),
            hint: "Use connector = 'kafka', 'file', 'datagen' or 'nexmark'.".into(),
        }),
    }
}

/// The connector of a sink.
///
/// # Errors
/// 0A000 for a connector or delivery guarantee this build does not have.
pub fn sink(relation: &Relation, context: &ConnectorContext) -> Result<AnySink, ConnectorError> {
    let RelationKind::Sink(spec) = &relation.kind else {
        return Err(ConnectorError::Internal(format!(
            "relation \"{}\" is not a sink",
            relation.name
        )));
    };
    let exactly_once = spec.delivery == "exactly_once";
    match spec.connector.as_str() {
        "kafka" if exactly_once => {
            let committer = KafkaCommitter::new(relation, spec, context)?;
            Ok(AnySink::Committing(Box::new(committer)))
        }
        _ if exactly_once => Err(ConnectorError::Unsupported {
            what: format!("delivery = 'exactly_once' of a {} sink", spec.connector),
            hint: "Use delivery = 'at_least_once'.".into(),
        }),
        "kafka" => Ok(AnySink::Messages(Box::new(KafkaSink::new(relation, spec)?))),
        "blackhole" => Ok(AnySink::Rows(Box::new(BlackholeSink::default()))),
        "print" => Ok(AnySink::Rows(Box::new(PrintSink::new(
            relation.name.clone(),
        )))),
        other => Err(ConnectorError::Unsupported {
            what: format!("sink connector \"{other}\""),
            hint: "Use connector = 'kafka', 'blackhole' or 'print'.".into(),
        }),
    }
}
