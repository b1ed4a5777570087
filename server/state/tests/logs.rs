//! Proves that the logs give back what was appended after the database is reopened, and that damage is an error that names
//! the record.

use std::sync::Arc;

use arrow::array::{Int64Array, RecordBatch, StringViewArray};
use arrow::datatypes::{DataType, Field, Schema};
use proptest::prelude::*;
use redb::{Database, ReadableDatabase, TableDefinition};
use thalweg_state::{
    DeadRecord, EpochEntry, Multiplicity, StateError, Store, Transaction, WeightedBatch,
    decode_batches, encode_batches,
};

type Outcome = Result<(), Box<dyn std::error::Error>>;

fn batch(ids: &[i64]) -> RecordBatch {
    let schema = Arc::new(Schema::new(vec![
        Field::new("id", DataType::Int64, false),
        Field::new("name", DataType::Utf8View, true),
    ]));
    let names = StringViewArray::from_iter(
        ids.iter()
            .map(|id| (id % 3 != 0).then(|| format!("name {id}"))),
    );
    RecordBatch::try_new(
        schema,
        vec![Arc::new(Int64Array::from(ids.to_vec())), Arc::new(names)],
    )
    .expect("valid batch")
}

fn weighted(ids: &[i64], weight: i64) -> WeightedBatch {
    WeightedBatch {
        batch: batch(ids),
        weights: Multiplicity::Constant(weight),
    }
}

#[test]
fn epochs_survive_a_reopen() -> Outcome {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("t.redb");
    {
        let store = Store::open(Arc::new(Database::create(&path)?))?;
        assert!(store.last_epoch()?.is_none());
        let mut entry = EpochEntry {
            epoch: 1,
            at_ms: 1000,
            ..EpochEntry::default()
        };
        entry.dml = vec![
            (7, encode_batches(&[weighted(&[1, 2, 3], 1)])?),
            (8, encode_batches(&[weighted(&[9], 1)])?),
            (7, encode_batches(&[weighted(&[2], -1)])?),
        ];
        store.append(&entry, true)?;
        let entry = EpochEntry {
            epoch: 2,
            at_ms: 1001,
            offsets: vec![(20, b"abc".to_vec())],
            dead: vec![DeadRecord {
                source: 20,
                key: b"k".to_vec(),
                value: b"v".to_vec(),
            }],
            ..EpochEntry::default()
        };
        store.append(&entry, false)?;
        store.sync()?;
    }
    let store = Store::open(Arc::new(Database::open(&path)?))?;
    let last = store.last_epoch()?.ok_or("no epoch")?;
    assert_eq!((last.epoch, last.at_ms), (2, 1001));
    assert_eq!(store.source_offsets(20)?, Some(b"abc".to_vec()));
    assert_eq!(store.dead_letters(20)?.len(), 1);
    let log = store.table_log(7, 0)?;
    assert_eq!(log.entries.len(), 2);
    assert_eq!(log.entries[0].changes, vec![weighted(&[1, 2, 3], 1)]);
    assert_eq!((log.entries[1].epoch, log.entries[1].seq), (1, 2));
    assert_eq!(store.logged_tables()?, vec![7, 8]);

    assert_eq!(store.table_log(7, 1)?.entries.len(), 0);
    store.forget(&[7, 20])?;
    assert_eq!(store.logged_tables()?, vec![8]);
    assert!(store.dead_letters(20)?.is_empty());
    assert_eq!(store.source_offsets(20)?, None);
    Ok(())
}

#[test]
fn damage_names_the_record() -> Outcome {
    const DML: TableDefinition<'_, (u32, u64, u32), &[u8]> = TableDefinition::new("dml_log");
    let dir = tempfile::tempdir()?;
    let db = Arc::new(Database::create(dir.path().join("t.redb"))?);
    let store = Store::open(Arc::clone(&db))?;
    let entry = EpochEntry {
        epoch: 5,
        at_ms: 1,
        dml: vec![(7, encode_batches(&[weighted(&[1], 1)])?)],
        ..EpochEntry::default()
    };
    store.append(&entry, true)?;
    let mut bytes = encode_batches(&[weighted(&[1], 1)])?;
    bytes[30] ^= 1;
    let txn = db.begin_write()?;
    txn.open_table(DML)?.insert((7, 5, 0), bytes.as_slice())?;
    txn.commit()?;
    let error = store.table_log(7, 0).expect_err("damaged");
    assert_eq!(error.sqlstate(), "XX001");
    assert!(
        error.to_string().contains("DML log entry 5/0 of table 7"),
        "{error}"
    );
    Ok(())
}

proptest! {
    /// Any cut or flipped bit is an error, never a panic and never other rows.
    #[test]
    fn damaged_bytes_are_errors(ids in prop::collection::vec(any::<i64>(), 0..20), at in any::<prop::sample::Index>(), bit in 0_u8..8, cut in any::<bool>()) {
        let weights = Multiplicity::Each(ids.iter().map(|id| id % 5).collect());
        let whole = vec![WeightedBatch { batch: batch(&ids), weights }];
        let bytes = encode_batches(&whole).expect("encodes");
        prop_assert_eq!(decode_batches("x", &bytes).expect("decodes"), whole);
        let at = at.index(bytes.len());
        let mut damaged = bytes.clone();
        if cut { damaged.truncate(at) } else { damaged[at] ^= 1 << bit }
        let refused = matches!(decode_batches("x", &damaged), Err(StateError::Corrupt { .. }));
        prop_assert!(refused);
    }
}

/// A sink's log is its own, is read in order, and goes with its sink; an epoch carries records of its own transaction.
#[test]
fn the_log_of_a_sink_is_kept_apart() -> Outcome {
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("t.redb");
    let read = |store: &Store, sink: u32| -> Result<Vec<(u64, Vec<u8>)>, StateError> {
        let mut found = Vec::new();
        store.read_sink(sink, |seq, record| {
            found.push((seq, record.to_vec()));
            Ok(())
        })?;
        Ok(found)
    };
    {
        let store = Store::open(Arc::new(Database::create(&path)?))?;
        for seq in 0..5_u64 {
            store.append_sink(7, seq, &[seq as u8], seq == 4)?;
        }
        store.append_sink(8, 0, b"other", true)?;
        store.replace_sink(7, 4, &[b"all".to_vec()])?;
        let entry = EpochEntry {
            epoch: 1,
            sinks: vec![(7, 9, b"epoch".to_vec())],
            ..EpochEntry::default()
        };
        store.append(&entry, true)?;
    }
    let store = Store::open(Arc::new(Database::create(&path)?))?;
    let expected = vec![(4, b"all".to_vec()), (9, b"epoch".to_vec())];
    assert_eq!(read(&store, 7)?, expected);
    store.forget(&[7])?;
    assert!(read(&store, 7)?.is_empty());
    assert_eq!(read(&store, 8)?, vec![(0, b"other".to_vec())]);
    let refused = store.read_sink(8, |_, _| Err("it is strange".into()));
    let error = refused.expect_err("refused").to_string();
    assert!(error.contains("record 0 of sink 8"), "{error}");
    Ok(())
}

/// What others write in an epoch's transaction is there exactly when the epoch is.
#[test]
fn joint_records_share_the_epochs_fate() -> Outcome {
    const OTHER: TableDefinition<'_, u32, u32> = TableDefinition::new("other");
    let dir = tempfile::tempdir()?;
    let db = Arc::new(Database::create(dir.path().join("t.redb"))?);
    let store = Store::open(Arc::clone(&db))?;
    let entry = |epoch: u64, forgotten: Vec<u32>| -> Result<EpochEntry, StateError> {
        Ok(EpochEntry {
            epoch,
            dml: vec![(epoch as u32, encode_batches(&[weighted(&[1], 1)])?)],
            forgotten,
            ..EpochEntry::default()
        })
    };
    let write = |txn: &Transaction, value: u32| -> Result<(), redb::Error> {
        txn.open_table(OTHER)?.insert(value, value)?;
        Ok(())
    };
    store.append_with(&entry(7, vec![])?, |txn| write(txn, 1))??;
    let refused = store.append_with(&entry(8, vec![7])?, |txn| {
        write(txn, 2)?;
        Err::<(), redb::Error>(redb::Error::Corrupted("refused".into()))
    })?;
    assert!(refused.is_err());
    assert_eq!(store.last_epoch()?.ok_or("no epoch")?.epoch, 7);
    assert_eq!(store.logged_tables()?, vec![7]);
    let other = db.begin_read()?.open_table(OTHER)?;
    assert!(other.get(1)?.is_some() && other.get(2)?.is_none());
    store.append_with(&entry(8, vec![7])?, |txn| write(txn, 2))??;
    assert_eq!(store.logged_tables()?, vec![8]);
    Ok(())
}
