//! The messages of a delivery as tables: what a key and a row are sent as, and what a failed transaction is called.

use std::collections::BTreeMap;

use arrow::array::{Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema};
use thalweg_catalog::{RelationKind, SinkFormat, SqlType};

use super::*;
use crate::delta::Weights;
use crate::testing::{column, source_relation};

fn encoding(row: &str) -> Encoding {
    let columns = vec![column("k", SqlType::Int8), column("v", SqlType::Int8)];
    let (mut relation, _) = source_relation("kafka", columns, BTreeMap::new(), 0);
    let spec = SinkSpec {
        connector: "kafka".into(),
        options: BTreeMap::new(),
        query: String::new(),
        delivery: "exactly_once".into(),
        format: Some(SinkFormat {
            row: row.into(),
            encode: "JSON".into(),
            key_encode: "TEXT".into(),
            key: vec![0],
        }),
        into: None,
    };
    relation.kind = RelationKind::Sink(spec.clone());
    Encoding::new(&relation, &spec).expect("a valid sink")
}

fn delta(rows: &[(i64, i64, i64)]) -> Delta {
    let field = |name| Field::new(name, DataType::Int64, true);
    let schema = Arc::new(Schema::new(vec![field("k"), field("v")]));
    let values = |of: fn(&(i64, i64, i64)) -> i64| {
        Arc::new(rows.iter().map(of).collect::<Int64Array>()) as _
    };
    let columns = vec![values(|row| row.0), values(|row| row.1)];
    Delta {
        batch: RecordBatch::try_new(schema, columns).expect("two columns"),
        weights: Weights::Each(rows.iter().map(|row| row.2).collect()),
    }
}

fn sent(row: &str, changes: &[Delta]) -> Result<Vec<String>, ConnectorError> {
    let mut out = Vec::new();
    messages(&encoding(row), changes, |message| {
        let text = |bytes: Option<Vec<u8>>| {
            bytes.map_or("-".to_owned(), |bytes| {
                String::from_utf8_lossy(&bytes).into_owned()
            })
        };
        out.push(format!("{}={}", text(message.key), text(message.value)));
        Ok(())
    })?;
    Ok(out)
}

#[test]
fn a_key_gets_one_message_and_a_row_as_many_as_it_came() {
    let changes = [
        delta(&[(1, 10, -1), (2, 20, -1), (3, 30, 1)]),
        delta(&[(1, 11, 1)]),
    ];
    assert_eq!(
        sent("UPSERT", &changes).expect("is sent"),
        ["3={\"k\":3,\"v\":30}", "1={\"k\":1,\"v\":11}", "2=-"]
    );
    let twice = [delta(&[(1, 10, 2), (2, 20, 1)])];
    assert_eq!(
        sent("PLAIN", &twice).expect("is sent"),
        [
            "1={\"k\":1,\"v\":10}",
            "1={\"k\":1,\"v\":10}",
            "2={\"k\":2,\"v\":20}"
        ]
    );
    let doubled = sent("UPSERT", &twice).expect_err("two rows have one key");
    assert_eq!(doubled.sqlstate(), "XX000");
}

#[test]
fn what_ends_a_transaction_says_what_to_do() {
    let options = KafkaOptions::of_sink(&SinkSpec {
        connector: "kafka".into(),
        options: BTreeMap::from([
            ("properties.bootstrap.server".into(), "broker:9092".into()),
            ("topic".into(), "t".into()),
        ]),
        query: String::new(),
        delivery: "exactly_once".into(),
        format: None,
        into: None,
    })
    .expect("valid options");
    use RDKafkaErrorCode as Code;
    for (code, sqlstate) in [
        (Code::Fenced, "55000"),
        (Code::ProducerFenced, "55000"),
        (Code::UnsupportedFeature, "0A000"),
        (Code::TransactionalIdAuthorizationFailed, "0A000"),
        (Code::BrokerTransportFailure, "08001"),
        (Code::TopicAuthorizationFailed, "42501"),
        (Code::UnknownTopicOrPartition, "42P01"),
    ] {
        let report = meaning(&options, "w", &KafkaError::MessageProduction(code)).report();
        assert_eq!(report.sqlstate, sqlstate, "{code:?}: {report:?}");
    }
    let config = options.committing("writer");
    assert_eq!(config.get("transactional.id"), Some("writer"));
    assert_eq!(config.get("enable.idempotence"), Some("true"));
}
