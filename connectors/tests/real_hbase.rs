//! HBase tables against a real HBase through its gateways, checked by HBase's own Java client from the other side.
//!
//! Prints a skip when no HBase can be had here, and fails instead when `THALWEG_REQUIRE_SERVICES=1`.

mod committing;
mod hbase_commit;
mod hbase_lookups;
mod hbase_reads;
mod hbase_twin;
mod hbase_writes;
mod services;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::time::Duration;

use arrow::array::{
    Array, ArrayRef, AsArray, Date32Array, Int32Array, Int64Array, RecordBatch, StringViewArray,
};
use arrow::datatypes::{Date32Type, Int32Type, Int64Type};
use thalweg_catalog::{Column, ColumnRole, SqlType};
use thalweg_connectors::{
    Comparison, Condition, ConnectorContext, ConnectorError, HbaseError, HbaseTable, ManualClock,
};

use services::{script, up};

/// An HBase with two gateways that stops when the test process ends, and the Java client beside it.
struct Service {
    servers: String,
    run: String,
    java: Mutex<Java>,
    /// Tests that stop gateways run alone.
    alone: Mutex<()>,
}

struct Java {
    _process: Child,
    requests: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Service {
    fn start() -> Option<Self> {
        let [servers, run] = up(
            "hbase",
            &["--gateways", "2"],
            ["HBASE_THRIFT=", "HBASE_RUN="],
        )?;
        let mut process = Command::new(script("hbase_client"))
            .args(["--run", &run])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("the Java client starts");
        let requests = process.stdin.take().expect("piped");
        let answers = BufReader::new(process.stdout.take().expect("piped"));
        Some(Self {
            servers,
            run,
            java: Mutex::new(Java {
                _process: process,
                requests,
                answers,
            }),
            alone: Mutex::new(()),
        })
    }

    /// Runs `kill`, `pause`, `resume` or `restart` on one process.
    fn script(&self, name: &str, role: &str) {
        let output = Command::new(script(name))
            .args(["hbase", "--run", &self.run, "--role", role])
            .output()
            .expect("the script runs");
        assert!(output.status.success(), "{output:?}");
    }

    /// Asks the Java client.
    fn java(&self, request: &str) -> Vec<String> {
        let mut java = self.java.lock().expect("no test failed in here");
        writeln!(java.requests, "{request}").expect("the Java client lives");
        java.requests.flush().expect("the Java client lives");
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            let length = java.answers.read_line(&mut line).expect("it answers");
            assert!(length > 0, "the Java client ended");
            let line = line.trim_end().to_owned();
            if line == "ok" {
                return lines;
            }
            assert!(!line.starts_with("error "), "{request}: {line}");
            lines.push(line);
        }
    }

    fn alone(&self) -> MutexGuard<'_, ()> {
        // A failed test must not fail the others by the poison.
        self.alone
            .lock()
            .unwrap_or_else(|poison| poison.into_inner())
    }
}

/// The HBase that the tests of this run share.
fn service() -> Option<&'static Service> {
    static SERVICE: OnceLock<Option<Service>> = OnceLock::new();
    SERVICE.get_or_init(Service::start).as_ref()
}

fn column(name: &str, ty: SqlType, not_null: bool) -> Column {
    Column {
        name: name.into(),
        attnum: 1,
        ty,
        not_null,
        default: None,
        generated: None,
        role: ColumnRole::Data,
    }
}

/// A clock that stands at a moment long ago, so that timestamps are known and outside writers are ahead.
fn context() -> (Arc<ManualClock>, ConnectorContext) {
    let clock = Arc::new(ManualClock::new(1_000_000_000));
    let context = ConnectorContext::new(Arc::clone(&clock) as _);
    (clock, context)
}

fn declare(
    service: &Service,
    table: &str,
    columns: &[Column],
    key: &[usize],
    options: &[(&str, &str)],
) -> HbaseTable {
    declare_at(&service.servers, table, columns, key, options)
}

fn declare_at(
    servers: &str,
    table: &str,
    columns: &[Column],
    key: &[usize],
    options: &[(&str, &str)],
) -> HbaseTable {
    let mut map: BTreeMap<String, String> = options
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect();
    map.insert("thrift.servers".into(), servers.into());
    map.insert("table".into(), table.into());
    map.entry("lookup.timeout".into()).or_insert("30 s".into());
    HbaseTable::new(columns, key, &map, &context().1).expect("a table")
}

/// All batches of a read as one, and the rows that HBase sent.
async fn rows(
    table: &HbaseTable,
    wanted: &[usize],
    conditions: &[Condition],
    limit: Option<usize>,
) -> Result<(RecordBatch, u64), ConnectorError> {
    let scan = table.plan(wanted, conditions, limit);
    let mut rows = table.read(&scan);
    let mut batches = Vec::new();
    while let Some(batch) = rows.next().await {
        batches.push(batch?);
    }
    let schema = Arc::new(table.schema().project(wanted).expect("columns"));
    let batch = arrow::compute::concat_batches(&schema, &batches).expect("one schema");
    Ok((batch, rows.rows_received()))
}

/// The first column.
fn sorted(batch: &RecordBatch) -> Vec<i64> {
    let values = batch.column(0).as_primitive::<Int64Type>().values();
    let mut values = values.to_vec();
    values.sort_unstable();
    values
}

fn profiles() -> Vec<Column> {
    vec![
        column("rowkey", SqlType::Text, true),
        column("name", SqlType::Text, false),
        column("age", SqlType::Int4, false),
    ]
}

fn profile_rows(rows: &[(&str, Option<&str>, Option<i32>)]) -> RecordBatch {
    let keys: StringViewArray = rows.iter().map(|row| Some(row.0)).collect();
    let names: StringViewArray = rows.iter().map(|row| row.1).collect();
    let ages: Int32Array = rows.iter().map(|row| row.2).collect();
    let columns: Vec<(&str, ArrayRef, bool)> = vec![
        ("rowkey", Arc::new(keys), false),
        ("name", Arc::new(names), true),
        ("age", Arc::new(ages), true),
    ];
    RecordBatch::try_from_iter_with_nullable(columns).expect("three columns")
}

fn text_is(column: usize, value: &str) -> Condition {
    Condition::Compare {
        column,
        comparison: Comparison::Equal,
        value: Arc::new(StringViewArray::from(vec![value])),
    }
}

/// `key name age` per row, sorted.
fn shown(batch: &RecordBatch) -> Vec<String> {
    let keys = batch.column(0).as_string_view();
    let names = batch.column(1).as_string_view();
    let ages = batch.column(2).as_primitive::<Int32Type>();
    let mut shown: Vec<String> = (0..batch.num_rows())
        .map(|row| {
            let name = names.is_valid(row).then(|| names.value(row));
            let age = ages.is_valid(row).then(|| ages.value(row));
            format!("{} {name:?} {age:?}", keys.value(row))
        })
        .collect();
    shown.sort();
    shown
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_are_written_read_and_deleted_as_java_sees_them() {
    let Some(service) = service() else { return };
    let table = declare(
        service,
        "tv:profiles",
        &profiles(),
        &[0],
        &[
            ("family", "i"),
            ("create", "if-missing"),
            ("columns", "name=info:n"),
        ],
    );
    table.check().await.expect("made");
    table.check().await.expect("there");
    let batch = profile_rows(&[
        ("a", Some("Ann"), Some(30)),
        ("b", None, Some(-1)),
        ("c", None, None),
    ]);
    let written = table.insert(&batch).await.expect("written");
    assert_eq!((written.rows, written.refused.len()), (3, 0));
    let java = service.java("scan tv:profiles");
    assert_eq!(
        java,
        [
            "61 i 616765 0000001e 1000000 Put",
            "61 info 5f - 1000000 Put",
            "61 info 6e 416e6e 1000000 Put",
            "62 i 616765 ffffffff 1000000 Put",
            "62 info 5f - 1000000 Put",
            "63 info 5f - 1000000 Put",
        ]
    );
    // Another writer, without a marker, with a clock that is ahead, and with cells that are not ours.
    service.java("put tv:profiles 64 i 616765 00000007 1800000000000");
    service.java("put tv:profiles 64 i 6f74686572 01 1800000000000");
    service.java("put tv:profiles 65 i 6f74686572 01 1800000000000");
    let (all, received) = rows(&table, &[0, 1, 2], &[], None).await.expect("read");
    let expected = [
        "a Some(\"Ann\") Some(30)",
        "b None Some(-1)",
        "c None None",
        "d None Some(7)",
    ];
    assert_eq!(
        (shown(&all), received),
        (expected.map(String::from).to_vec(), 4)
    );
    // Fewer columns, the same rows; row e has no cell of ours, so it is none.
    for wanted in [&[0][..], &[0, 1], &[2], &[]] {
        let (some, _) = rows(&table, wanted, &[], None).await.expect("read");
        assert_eq!(some.num_rows(), 4, "{wanted:?}");
    }
    // A cell that becomes NULL is gone, also one from a clock ahead.
    let written = table
        .update(&profile_rows(&[
            ("a", None, Some(31)),
            ("d", Some("Dan"), None),
        ]))
        .await
        .expect("updated");
    assert_eq!(written.rows, 2);
    table
        .delete(&profile_rows(&[("b", None, None)]))
        .await
        .expect("deleted");
    let (all, _) = rows(&table, &[0, 1, 2], &[], None).await.expect("read");
    assert_eq!(
        shown(&all),
        ["a None Some(31)", "c None None", "d Some(\"Dan\") None"]
    );
    assert_eq!(
        service.java("get tv:profiles 64"),
        [
            "64 i 6f74686572 01 1800000000000 Put",
            "64 info 5f - 1800000000001 Put",
            "64 info 6e 44616e 1800000000001 Put",
        ],
        "cells that are not ours stay"
    );
    table
        .delete(&profile_rows(&[("d", None, None)]))
        .await
        .expect("deleted");
    assert_eq!(service.java("get tv:profiles 64").len(), 1);
    // What was deleted can be written again at once.
    table
        .insert(&profile_rows(&[("b", Some("Bo"), None)]))
        .await
        .expect("written");
    let (found, _) = rows(&table, &[0, 1, 2], &[text_is(0, "b")], None)
        .await
        .expect("read");
    assert_eq!(shown(&found), ["b Some(\"Bo\") None"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_encoding_is_what_java_sees() {
    let Some(service) = service() else { return };
    let columns = [
        column("shop", SqlType::Text, true),
        column("id", SqlType::Int8, true),
        column("b", SqlType::Int4, false),
        column("s", SqlType::Int4, false),
        column("o", SqlType::Int4, false),
        column("j", SqlType::Int4, false),
    ];
    let encodings = "b=d:b#bytes, s=d:s#string, o=d:o#ordered, j=d:j#json";
    let ints = |values: [Option<i32>; 2]| Arc::new(Int32Array::from(values.to_vec())) as ArrayRef;
    for (joint, name, keys) in [
        ("separated", "enc_separated", ["617c37", "627c2d31"]),
        (
            "ordered",
            "enc_ordered",
            ["6100008000000000000007", "6200007fffffffffffffff"],
        ),
    ] {
        for null_mode in ["delete", "skip", "empty"] {
            let options = [
                ("columns", encodings),
                ("key.encoding", joint),
                ("null.mode", null_mode),
                ("create", "if-missing"),
            ];
            let table = declare(service, name, &columns, &[0, 1], &options);
            table.check().await.expect("made");
            let batch = |values: [Option<i32>; 2]| {
                let shops = StringViewArray::from(vec!["a", "b"]);
                let ids = Int64Array::from(vec![7, -1]);
                let mut arrays: Vec<ArrayRef> = vec![Arc::new(shops), Arc::new(ids)];
                arrays.extend((0..4).map(|_| ints(values)));
                RecordBatch::try_new(table.schema(), arrays).expect("a batch")
            };
            // As a sink delivers: at timestamps that it keeps, and again after a crash.
            let (none, first) = (batch([None, None]).slice(0, 0), batch([Some(-5), Some(5)]));
            let second = batch([Some(-5), None]);
            for (rows, at) in [
                (&first, 1_000),
                (&first, 1_000),
                (&second, 2_000),
                (&second, 2_000),
            ] {
                let written = table.deliver(rows, &none, at).await.expect("delivered");
                assert_eq!(written.rows, 2);
            }
            let mut expected: Vec<String> = [
                ("5f", "-"),
                ("62", "fffffffb"),
                ("6a", "2d35"),
                ("6f", "7ffffffb"),
                ("73", "2d35"),
            ]
            .map(|(qualifier, value)| format!("{} d {qualifier} {value} 2000 Put", keys[0]))
            .to_vec();
            expected.push(format!("{} d 5f - 2000 Put", keys[1]));
            for (qualifier, value) in [
                ("62", "00000005"),
                ("6a", "35"),
                ("6f", "80000005"),
                ("73", "35"),
            ] {
                match null_mode {
                    "skip" => expected.push(format!("{} d {qualifier} {value} 1000 Put", keys[1])),
                    "empty" => expected.push(format!("{} d {qualifier} - 2000 Put", keys[1])),
                    _ => {}
                }
            }
            assert_eq!(
                service.java(&format!("scan {name}")),
                expected,
                "{null_mode}"
            );
            let (found, _) = rows(&table, &[1, 2, 3, 4, 5], &[], None)
                .await
                .expect("read");
            for column in 1..5 {
                let values = found.column(column).as_primitive::<Int32Type>();
                let of = |id: i64| {
                    let ids = found.column(0).as_primitive::<Int64Type>().values();
                    let row = ids.iter().position(|one| *one == id).expect("the row");
                    values.is_valid(row).then(|| values.value(row))
                };
                let kept = (null_mode == "skip").then_some(5);
                assert_eq!((of(7), of(-1)), (Some(-5), kept), "{null_mode}");
            }
            // Both in one delivery: the row that is written stays.
            table
                .deliver(&first.slice(0, 1), &first, 3_000)
                .await
                .expect("delivered");
            let (found, _) = rows(&table, &[1], &[], None).await.expect("read");
            assert_eq!(
                found.column(0).as_primitive::<Int64Type>().values()[..],
                [7]
            );
            service.java(&format!("drop {name}"));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn conditions_on_the_key_are_pushed_down() {
    let Some(service) = service() else { return };
    let columns = [
        column("user_id", SqlType::Int8, true),
        column("day", SqlType::Date, true),
        column("clicks", SqlType::Int8, true),
    ];
    let options = [
        ("family", "d"),
        ("create", "if-missing"),
        ("key.encoding", "ordered"),
        ("scan.page.bytes", "16kB"),
    ];
    for (name, salt) in [("user_day", None), ("user_day_salted", Some("4"))] {
        let mut options = options.to_vec();
        options.extend(salt.map(|salt| ("key.salt_buckets", salt)));
        let table = declare(service, name, &columns, &[0, 1], &options);
        table.check().await.expect("made");
        let (users, days) = (300i64, 10i32);
        let pairs = (-users / 2..users / 2).flat_map(|user| (0..days).map(move |day| (user, day)));
        let pairs: Vec<(i64, i32)> = pairs.collect();
        let batch = RecordBatch::try_new(
            table.schema(),
            vec![
                Arc::new(Int64Array::from_iter_values(
                    pairs.iter().map(|pair| pair.0),
                )),
                Arc::new(Date32Array::from_iter_values(
                    pairs.iter().map(|pair| pair.1),
                )),
                Arc::new(Int64Array::from_iter_values(
                    pairs.iter().map(|pair| pair.0 * 100 + i64::from(pair.1)),
                )),
            ],
        )
        .expect("a batch");
        let written = table.insert(&batch).await.expect("written");
        assert_eq!(written.rows, 3_000);
        // The order of values is the order of bytes for HBase too.
        let java = service.java(&format!("scan {name}"));
        assert_eq!(java.len(), 2 * 3_000, "a cell and a marker each");
        let user = |comparison, user: i64| Condition::Compare {
            column: 0,
            comparison,
            value: Arc::new(Int64Array::from(vec![user])),
        };
        let day = |comparison, day: i32| Condition::Compare {
            column: 1,
            comparison,
            value: Arc::new(Date32Array::from(vec![day])),
        };
        use Comparison::{Equal, Greater, GreaterOrEqual, Less, LessOrEqual};
        let some = Condition::In {
            column: 0,
            values: Arc::new(Int64Array::from(vec![
                Some(-7),
                None,
                Some(9),
                Some(12_345),
            ])),
        };
        let cases = [
            (vec![user(Equal, -3), day(Equal, 4)], 1),
            (vec![user(Equal, -3)], 10),
            (vec![user(Equal, -3), day(Greater, 4)], 5),
            (vec![user(Less, -140)], 100),
            (vec![user(GreaterOrEqual, -1), user(LessOrEqual, 1)], 30),
            (vec![some, day(Less, 2)], 4),
            (vec![user(Equal, 1_000_000)], 0),
            (vec![], 3_000),
        ];
        for (conditions, count) in cases {
            let (found, received) = rows(&table, &[2, 0, 1], &conditions, None)
                .await
                .expect("read");
            assert_eq!(
                (found.num_rows(), received),
                (count, count as u64),
                "{conditions:?}"
            );
            let clicks = found.column(0).as_primitive::<Int64Type>();
            let users = found.column(1).as_primitive::<Int64Type>();
            let days = found.column(2).as_primitive::<Date32Type>();
            for row in 0..found.num_rows() {
                let expected = users.value(row) * 100 + i64::from(days.value(row));
                assert_eq!(clicks.value(row), expected);
            }
        }
        let ranges = if salt.is_some() { 4 } else { 1 };
        let (_, received) = rows(&table, &[0], &[user(Greater, 0)], Some(20))
            .await
            .expect("read");
        assert!(received <= ranges * 20, "{received} rows for a limit of 20");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn scans_and_writes_outlive_gateways_splits_and_moves() {
    let Some(service) = service() else { return };
    let _alone = service.alone();
    service.java("create big d 1");
    service.java("fill big d 20000 2");
    let columns = [
        column("k", SqlType::Text, true),
        column("v", SqlType::Text, true),
    ];
    let options = [("columns", "v=d:0"), ("scan.page.bytes", "16kB")];
    let table = declare(service, "big", &columns, &[0], &options);
    table.check().await.expect("there");
    for (round, fault) in ["gateway", "gateway2", "pause", "split", "move"]
        .iter()
        .enumerate()
    {
        let scan = table.plan(&[0, 1], &[], None);
        let mut read = table.read(&scan);
        let mut keys = Vec::new();
        let mut faulted = false;
        while let Some(batch) = read.next().await {
            let batch = batch.expect("the scan goes on");
            let found = batch.column(0).as_string_view();
            assert_eq!(found, batch.column(1).as_string_view());
            keys.extend(found.iter().flatten().map(str::to_owned));
            if !faulted {
                faulted = true;
                match *fault {
                    "pause" => service.script("pause", "gateway"),
                    "split" => drop(service.java("split big 3030303130303030")),
                    "move" => drop(service.java("move big 3030303035303030")),
                    role => service.script("kill", role),
                }
            }
        }
        assert!(faulted, "{fault}");
        keys.sort();
        let expected: Vec<String> = (0..20_000).map(|key| format!("{key:08}")).collect();
        assert!(keys == expected, "{fault}: {} rows", keys.len());
        // A write while the fault lasts.
        let name = format!("new{round}");
        let batch = RecordBatch::try_new(
            table.schema(),
            vec![
                Arc::new(StringViewArray::from(vec![name.as_str()])),
                Arc::new(StringViewArray::from(vec!["x"])),
            ],
        )
        .expect("a batch");
        assert_eq!(table.insert(&batch).await.expect("written").rows, 1);
        let (found, received) = rows(&table, &[0], &[text_is(0, &name)], None)
            .await
            .expect("read");
        assert_eq!((found.num_rows(), received), (1, 1));
        table.delete(&batch).await.expect("deleted");
        match *fault {
            "pause" => service.script("resume", "gateway"),
            "split" | "move" => {}
            role => service.script("restart", role),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_is_said() {
    let Some(service) = service() else { return };
    let state = |error: ConnectorError| error.report().sqlstate;
    let missing = declare(service, "nowhere", &profiles(), &[0], &[("family", "d")]);
    assert_eq!(state(missing.check().await.expect_err("missing")), "42P01");
    let error = rows(&missing, &[0], &[], None).await.expect_err("missing");
    assert_eq!(state(error.clone()), "42P01", "{error:?}");
    let error = missing.insert(&profile_rows(&[("a", None, None)])).await;
    let error = error.expect_err("missing");
    assert_eq!(state(error.clone()), "42P01", "{error:?}");

    service.java("create wrong d 1");
    let family = declare(service, "wrong", &profiles(), &[0], &[("family", "nope")]);
    assert_eq!(state(family.check().await.expect_err("no family")), "42703");
    let error = family.insert(&profile_rows(&[("a", None, None)])).await;
    let error = error.expect_err("no family");
    assert_eq!(state(error.clone()), "42703", "{error:?}");

    let table = declare(service, "wrong", &profiles(), &[0], &[("family", "d")]);
    service.java("put wrong 61 d 616765 0102");
    let error = rows(&table, &[2], &[], None).await.expect_err("two bytes");
    assert_eq!(state(error.clone()), "22P03");
    assert_eq!(
        error.to_string(),
        "column \"age\" of HBase table \"wrong\" holds bytes that are not integer encoded as bytes"
    );
    service.java("disable wrong");
    let error = rows(&table, &[0], &[], None).await.expect_err("disabled");
    assert_eq!(state(error.clone()), "55000", "{error:?}");

    let options = [
        ("family", "d"),
        ("lookup.timeout", "2 s"),
        ("thrift.protocol", "binary"),
    ];
    let other = declare(service, "wrong", &profiles(), &[0], &options);
    let begun = std::time::Instant::now();
    let error = rows(&other, &[0], &[], None).await.expect_err("binary");
    assert!(
        matches!(state(error.clone()), "08001" | "08P01"),
        "{error:?}"
    );
    assert!(begun.elapsed() < Duration::from_secs(60));
}
