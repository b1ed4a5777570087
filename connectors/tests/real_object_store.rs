//! Archives on S3 and Azure, as moto and azurite have them: what the clients of the stores send is understood there.
//!
//! Prints a skip when a store cannot be had here, and fails instead when `THALWEG_REQUIRE_SERVICES=1`. The tests of the protocol run over
//! objects in memory; these are about requests and answers.

mod services;

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringViewArray};
use thalweg_catalog::{ArchiveSpec, Column, Environment, Oid, Relation, RelationKind, SqlType};
use thalweg_connectors::{
    ArchiveError, ArchiveTable, ConnectorContext, Moved, Store, StoreFault, SystemClock,
};

use services::up;

/// The options that lead to a store, with a folder that does not hold an archive yet.
struct Place {
    connector: &'static str,
    options: BTreeMap<String, String>,
}

impl Place {
    fn new(connector: &'static str, options: &[(&str, &str)]) -> Self {
        let options = options.iter();
        let options = options.map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Self {
            connector,
            options: options.collect(),
        }
    }

    fn s3() -> Option<Self> {
        let [endpoint, bucket, key, secret, _run] = up(
            "s3",
            &[],
            [
                "S3_ENDPOINT=",
                "S3_BUCKET=",
                "S3_ACCESS_KEY_ID=",
                "S3_SECRET_ACCESS_KEY=",
                "S3_RUN=",
            ],
        )?;
        Some(Self::new(
            "s3",
            &[
                ("path", &format!("s3://{bucket}/lake/x")),
                ("s3.endpoint", &endpoint),
                ("s3.allow.http", "true"),
                ("s3.access.key.id", &key),
                ("s3.secret.access.key", &secret),
            ],
        ))
    }

    fn azure() -> Option<Self> {
        let [endpoint, account, container, key, _run] = up(
            "azure",
            &[],
            [
                "AZURE_ENDPOINT=",
                "AZURE_ACCOUNT=",
                "AZURE_CONTAINER=",
                "AZURE_ACCESS_KEY=",
                "AZURE_RUN=",
            ],
        )?;
        Some(Self::new(
            "azure",
            &[
                ("path", &format!("azure://{container}/lake/x")),
                ("azure.account", &account),
                ("azure.endpoint", &endpoint),
                ("azure.allow.http", "true"),
                ("azure.access.key", &key),
            ],
        ))
    }

    /// An archive there, with some options that are others.
    fn archive(&self, process: u8, other: &[(&str, &str)]) -> ArchiveTable {
        let mut options = self.options.clone();
        for (name, value) in other {
            options.insert((*name).to_owned(), (*value).to_owned());
        }
        let relation = Relation {
            oid: Oid(20_000),
            row_type_oid: Oid(20_001),
            array_type_oid: Oid(20_002),
            schema: Oid(2200),
            name: "lake".into(),
            kind: RelationKind::Archive(ArchiveSpec {
                connector: self.connector.into(),
                options,
                encode_options: BTreeMap::from([("compression".into(), "none".into())]),
                partition_by: vec!["region".into()],
                feed: None,
            }),
            columns: vec![
                Column::data("id", 1, SqlType::Int8),
                Column::data("region", 2, SqlType::Text),
            ],
            primary_key: None,
            checks: Vec::new(),
            definition: String::new(),
            environment: Environment::default(),
            depends_on: Vec::new(),
            created_at_ms: 0,
        };
        let context = ConnectorContext::new(Arc::new(SystemClock)).with_process([process; 16]);
        ArchiveTable::new(&relation, None, &context).expect("an archive")
    }
}

fn rows(archive: &ArchiveTable, ids: std::ops::Range<i64>) -> RecordBatch {
    let region = |id: i64| match id % 3 {
        0 => None,
        1 => Some("a/b c"),
        _ => Some("ä%"),
    };
    let arrays: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from_iter_values(ids.clone())),
        Arc::new(StringViewArray::from_iter(ids.map(region))),
    ];
    RecordBatch::try_new(archive.schema(), arrays).expect("a batch")
}

async fn write(store: &dyn Store, path: &str, bytes: Vec<u8>) {
    let mut file = store.create(path).await.expect("a file");
    file.write(bytes.into()).await.expect("bytes");
    file.close().await.expect("an end");
}

/// What every store has to do, request by request.
async fn keeps_files(store: &dyn Store) {
    for path in ["f/small", "f/dt=a%2Fb c/ä", "g/other"] {
        write(store, path, path.as_bytes().to_vec()).await;
    }
    let listed = store.list("f").await.expect("a list");
    let listed: Vec<(&str, u64)> = listed
        .iter()
        .map(|entry| (entry.path.as_str(), entry.bytes))
        .collect();
    assert_eq!(listed, [("f/dt=a%2Fb c/ä", 15), ("f/small", 7)]);
    assert_eq!(store.length("f/none").await, Ok(None));
    let part = store.read("f/small", 2..5).await.expect("bytes");
    assert_eq!(part.as_ref(), b"sma");
    let short = store.read("f/small", 2..50).await.expect_err("short");
    assert_eq!(short.fault, StoreFault::Other, "{short:?}");
    let missing = store.read("f/none", 0..1).await.expect_err("missing");
    assert_eq!(missing.fault, StoreFault::Missing, "{missing:?}");
    assert_eq!(
        store.create("f/small").await.err().map(|error| error.fault),
        Some(StoreFault::Exists)
    );
    // Parts, and a read in pieces.
    let large: Vec<u8> = (0..37_u32 << 20).map(|at| (at / 7) as u8).collect();
    write(store, "f/large", large.clone()).await;
    let length = large.len() as u64;
    let read = store.read("f/large", 0..length).await.expect("bytes");
    assert!(read.as_ref() == large.as_slice());

    let moved = store.rename("f/small", "h/moved").await;
    assert_eq!(moved, Ok(Moved::Done));
    assert_eq!(store.length("f/small").await, Ok(None));
    let taken = store.rename("g/other", "h/moved").await;
    assert_eq!(taken, Ok(Moved::Taken));
    let gone = store.rename("f/small", "h/again").await;
    let gone = gone.expect_err("gone").fault;
    assert_eq!(gone, StoreFault::Missing);
    let published = store.publish("h/moved", "h/one").await;
    assert_eq!(published, Ok(Moved::Done));
    let taken = store.publish("g/other", "h/one").await;
    assert_eq!(taken, Ok(Moved::Taken));
    assert_eq!(store.length("g/other").await, Ok(Some(7)));

    store.delete("h/one").await.expect("a deletion");
    store.delete("h/one").await.expect("a deletion of nothing");
    for folder in ["f", "g", "h", "_staging", "nowhere"] {
        store.delete_folder(folder).await.expect("a deletion");
    }
    assert_eq!(store.list("").await, Ok(vec![]));
    // A file that is given up leaves nothing.
    let mut file = store.create("f/dropped").await.expect("a file");
    file.write(vec![1; 11 << 20].into()).await.expect("bytes");
    drop(file);
    assert_eq!(store.list("").await, Ok(vec![]));
}

/// What archives do there, and what a second writer is told.
async fn keeps_archives(place: &Place) {
    let first = place.archive(1, &[]);
    keeps_files(first.store().as_ref()).await;
    first.claim().await.expect("a claim");
    for at in 0..4 {
        let batch = rows(&first, at * 10..(at + 1) * 10);
        first.insert(&[batch], 1).await.expect("rows");
    }
    let second = place.archive(2, &[]);
    let batch = rows(&second, 40..50);
    second.insert(&[batch], 2).await.expect("rows");
    let fenced = first.insert(&[rows(&first, 50..60)], 3).await;
    let fenced = fenced.expect_err("fenced");
    assert!(matches!(fenced, ArchiveError::Fenced { .. }), "{fenced:?}");
    let done = second.vacuum().await.expect("a vacuum");
    assert_eq!((done.replaced, done.written), (15, 3));
    let snapshot = place.archive(3, &[]).snapshot().await.expect("a snapshot");
    let counts: u64 = snapshot.files().iter().map(|file| file.rows).sum();
    assert_eq!((snapshot.files().len(), counts), (3, 50));
    for file in snapshot.files() {
        let length = second.store().length(&file.path).await;
        assert_eq!(length, Ok(Some(file.bytes)), "{}", file.path);
        let bytes = second.read(file, 0..4).await.expect("bytes");
        assert_eq!(bytes.as_ref(), b"PAR1");
    }
}

/// The store's own words for what it refuses.
async fn refuses(place: &Place, other: &[(&str, &str)], fault: StoreFault, words: &str) {
    let error = place.archive(4, other).claim().await.expect_err("refused");
    let ArchiveError::Store(error) = error else {
        panic!("{other:?}: {error:?}");
    };
    println!(
        "{}: {error}: {} ({:?})",
        error.sqlstate(),
        error.detail,
        error.hint()
    );
    assert_eq!(error.fault, fault, "{other:?}: {error:?}");
    assert!(error.detail.contains(words), "{other:?}: {error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn archives_on_s3() {
    let Some(place) = Place::s3() else { return };
    keeps_archives(&place).await;
    use StoreFault::{Denied, NoContainer, Unreachable};
    for (name, value, fault, words) in [
        ("path", "s3://nowhere/x", NoContainer, "NoSuchBucket"),
        ("s3.access.key.id", "nobody", Denied, "InvalidAccessKeyId"),
        ("s3.secret.access.key", "x", Denied, "SignatureDoesNotMatch"),
        ("s3.endpoint", "http://127.0.0.1:9", Unreachable, "refused"),
    ] {
        refuses(&place, &[(name, value)], fault, words).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn archives_on_azure() {
    let Some(place) = Place::azure() else { return };
    keeps_archives(&place).await;
    use StoreFault::{Denied, NoContainer, Unreachable};
    let nobody = "http://127.0.0.1:9/thalweg";
    for (name, value, fault, words) in [
        (
            "path",
            "azure://nowhere/x",
            NoContainer,
            "ContainerNotFound",
        ),
        ("azure.access.key", "aHVudGVyMg==", Denied, "Authoriz"),
        ("azure.endpoint", nobody, Unreachable, "refused"),
    ] {
        refuses(&place, &[(name, value)], fault, words).await;
    }
}
