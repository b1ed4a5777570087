//! A topic that is kept equal to a view through failures and restarts, over random histories.

use std::collections::BTreeMap;

use async_trait::async_trait;
use datafusion::arrow::array::{AsArray, Int64Array};
use datafusion::arrow::datatypes::{DataType, Field, Int64Type, Schema};
use datafusion::arrow::record_batch::RecordBatch;
use parking_lot::Mutex;
use proptest::prelude::*;

use super::*;
use crate::chunk::RowCodec;

/// What outlives a sink: the messages that arrived.
type Topic = Arc<Mutex<Vec<Message>>>;

/// Takes `luck` messages, then refuses; some of the refused have arrived all the same.
struct Flaky {
    topic: Topic,
    form: Form,
    luck: Arc<Mutex<usize>>,
}

#[async_trait]
impl MessageSink for Flaky {
    fn form(&self) -> Form {
        self.form
    }

    async fn check(&self) -> Result<(), ConnectorError> {
        Ok(())
    }

    fn messages(&self, batch: &RecordBatch) -> Result<Vec<Message>, ConnectorError> {
        let column = |at: usize| {
            batch
                .column(at)
                .as_primitive::<Int64Type>()
                .values()
                .to_vec()
        };
        let rows = column(0).into_iter().zip(column(1));
        Ok(rows
            .map(|(key, value)| Message {
                key: Some(key.to_be_bytes().to_vec()),
                value: Some(format!("{key}={value}").into_bytes()),
            })
            .collect())
    }

    async fn send(&mut self, messages: Vec<Message>) -> Result<(), ConnectorError> {
        let mut luck = self.luck.lock();
        let whole = messages.len() <= *luck;
        let taken = messages.into_iter().take(*luck);
        self.topic.lock().extend(taken);
        if whole {
            return Ok(());
        }
        *luck = usize::MAX;
        Err(ConnectorError::Kafka {
            detail: "out of luck".into(),
        })
    }
}

fn codec() -> Arc<RowCodec> {
    let field = |name| Field::new(name, DataType::Int64, false);
    let schema = Arc::new(Schema::new(vec![field("k"), field("v")]));
    Arc::new(RowCodec::new(schema).expect("int64 has a row form"))
}

fn version(codec: &Arc<RowCodec>, rows: &[(i64, i64)]) -> Arc<Version> {
    let columns = [
        Int64Array::from_iter_values(rows.iter().map(|row| row.0)),
        Int64Array::from_iter_values(rows.iter().map(|row| row.1)),
    ];
    let columns = columns.map(|column| Arc::new(column) as _).to_vec();
    let batch = RecordBatch::try_new(Arc::clone(&codec.schema), columns).expect("two columns");
    let empty = Version::empty(Arc::clone(codec));
    Arc::new(empty.with(&[Delta::insert(batch)]).expect("adds"))
}

fn store() -> Arc<Store> {
    let backend = redb::backends::InMemoryBackend::new();
    let db = redb::Database::builder().create_with_backend(backend);
    Arc::new(Store::open(Arc::new(db.expect("a database"))).expect("a store"))
}

/// What the last message of each key says.
fn newest(topic: &Topic) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut held = BTreeMap::new();
    for message in topic.lock().iter() {
        let key = message.key.clone().unwrap_or_default();
        match &message.value {
            Some(value) => held.insert(key, value.clone()),
            None => held.remove(&key),
        };
    }
    held
}

fn counts(values: impl Iterator<Item = Vec<u8>>) -> BTreeMap<Vec<u8>, usize> {
    let mut counts = BTreeMap::new();
    values.for_each(|value| *counts.entry(value).or_default() += 1);
    counts
}

fn wanted(rows: &[(i64, i64)]) -> impl Iterator<Item = (Vec<u8>, Vec<u8>)> {
    let pair = |(key, value): &(i64, i64)| {
        let text = format!("{key}={value}").into_bytes();
        (key.to_be_bytes().to_vec(), text)
    };
    rows.iter().map(pair)
}

/// One thing that happens between two deliveries.
#[derive(Debug, Clone)]
enum Step {
    /// The content is now this.
    Content(BTreeMap<i64, i64>),
    /// After so many messages a delivery fails.
    Trouble(usize),
    /// The server is killed and starts again.
    Restart,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let content = prop::collection::btree_map(0_i64..6, 0_i64..3, 0..6);
    prop::collection::vec(
        prop_oneof![
            4 => content.prop_map(Step::Content),
            1 => (0_usize..5).prop_map(Step::Trouble),
            1 => Just(Step::Restart),
        ],
        1..24,
    )
}

/// Runs the steps; gives the outlet's last content and the topic. Every content is delivered once more after a failure only
/// when `again` says so, else the next one finds the failed attempt behind it.
async fn run(form: Form, steps: &[Step], grow: bool) -> (Vec<(i64, i64)>, Topic) {
    let (codec, store, topic) = (codec(), store(), Topic::default());
    let luck = Arc::new(Mutex::new(usize::MAX));
    let open = || {
        let flaky = Flaky {
            topic: Arc::clone(&topic),
            form,
            luck: Arc::clone(&luck),
        };
        MessageOutlet::new(Arc::clone(&store), Oid(9), Box::new(flaky))
    };
    let (mut outlet, mut delivered, mut rows) = (open(), None, Vec::new());
    for step in steps.iter().chain([&Step::Trouble(usize::MAX)]) {
        match step {
            Step::Content(content) if grow => rows.extend(content.iter().map(|(k, v)| (*k, *v))),
            Step::Content(content) => rows = content.iter().map(|(k, v)| (*k, *v)).collect(),
            Step::Trouble(after) => *luck.lock() = *after,
            Step::Restart => (outlet, delivered) = (open(), None),
        }
        let now = version(&codec, &rows);
        if outlet.deliver(&now, delivered.as_ref()).await.is_ok() {
            delivered = Some(now);
        }
    }
    (rows, topic)
}

fn runtime() -> tokio::runtime::Runtime {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.build().expect("a runtime")
}

proptest! {
    /// The newest message of each key is the row the view holds, however deliveries failed and the server died.
    #[test]
    fn a_topic_of_keys_ends_up_equal_to_the_view(steps in steps()) {
        let (rows, topic) = runtime().block_on(run(Form::Upsert, &steps, false));
        prop_assert_eq!(newest(&topic), wanted(&rows).collect::<BTreeMap<_, _>>());
    }

    /// Every row arrives at least as often as the view holds it; without trouble exactly as often.
    #[test]
    fn rows_arrive_at_least_once(steps in steps()) {
        let (rows, topic) = runtime().block_on(run(Form::Append, &steps, true));
        let arrived = counts(topic.lock().iter().filter_map(|message| message.value.clone()));
        let expected = counts(wanted(&rows).map(|(_, value)| value));
        let calm = !steps.iter().any(|step| matches!(step, Step::Trouble(_)));
        for (value, count) in &expected {
            let there = arrived.get(value).copied().unwrap_or_default();
            prop_assert!(there >= *count && (!calm || there == *count), "{:?}", String::from_utf8_lossy(value));
        }
        prop_assert_eq!(arrived.len(), expected.len());
    }
}

#[test]
fn a_restart_sends_only_what_changed_meanwhile() {
    let before = BTreeMap::from([(1, 1), (2, 1), (3, 1)]);
    let after = BTreeMap::from([(1, 1), (2, 2), (4, 1)]);
    let steps = [
        Step::Content(before),
        Step::Restart,
        Step::Restart,
        Step::Content(after),
    ];
    let (_, topic) = runtime().block_on(run(Form::Upsert, &steps, false));
    assert_eq!(
        topic.lock().len(),
        3 + 3,
        "the row of 2, the row of 4 and the end of 3"
    );
}

#[test]
fn a_large_delivery_is_sent_in_parts_and_the_ledger_stays_short() {
    let rows = |value| (0..40_000).map(|key| (key, value)).collect();
    let steps: Vec<Step> = (0..5).map(|value| Step::Content(rows(value))).collect();
    let (rows, topic) = runtime().block_on(run(Form::Upsert, &steps, false));
    assert_eq!(newest(&topic), wanted(&rows).collect::<BTreeMap<_, _>>());
    assert_eq!(topic.lock().len(), 200_000);
}
