//! Proves that a run gives back the net of what was put in, whole, by bucket and by key, and that no damage goes unnoticed.

use std::collections::BTreeMap;

use arrow::array::{AsArray, StringViewArray};
use arrow::datatypes::Int64Type;
use proptest::prelude::*;

use super::*;
use crate::hash::BUCKETS;
use crate::io::{Disk, PowerDisk, read_all};
use crate::point::CrashPoints;

/// Net weight by row.
type Content = BTreeMap<(i64, Option<String>), i64>;

fn shape(key: &[usize]) -> RunShape {
    let schema = Schema::new(vec![
        Field::new("name", DataType::Utf8View, true),
        Field::new("id", DataType::Int64, false),
    ]);
    RunShape::new(Arc::new(schema), key).expect("supported")
}

fn change(rows: &[(i64, Option<String>, i64)]) -> WeightedBatch {
    let names = StringViewArray::from_iter(rows.iter().map(|row| row.1.clone()));
    let ids = Int64Array::from_iter_values(rows.iter().map(|row| row.0));
    let batch = RecordBatch::try_new(shape(&[]).schema(), vec![Arc::new(names), Arc::new(ids)]);
    WeightedBatch {
        batch: batch.expect("two columns"),
        weights: Multiplicity::Each(rows.iter().map(|row| row.2).collect()),
    }
}

fn add(content: &mut Content, rows: &WeightedBatch) {
    let names = rows.batch.column(0).as_string_view();
    let ids = rows.batch.column(1).as_primitive::<Int64Type>();
    for row in 0..rows.batch.num_rows() {
        let weight = match &rows.weights {
            Multiplicity::Constant(weight) => *weight,
            Multiplicity::Each(weights) => weights[row],
        };
        let name = names.is_valid(row).then(|| names.value(row).to_owned());
        *content.entry((ids.value(row), name)).or_default() += weight;
    }
    content.retain(|_, weight| *weight != 0);
}

fn write(disk: &dyn Disk, shape: &RunShape, changes: &[WeightedBatch]) -> Option<RunInfo> {
    let points = CrashPoints::none();
    let mut writer = RunWriter::create(disk, Path::new("/r"), 7, shape, &points).expect("creates");
    sorted(changes, shape, &mut |picked| writer.write(picked)).expect("sorts");
    writer.finish(0).expect("finishes")
}

fn open(disk: &dyn Disk, shape: &RunShape, info: &RunInfo) -> Run {
    Run::open(disk, Path::new("/r"), info, shape).expect("opens")
}

fn scanned(rows: RunRows<'_>) -> Content {
    let mut content = Content::new();
    rows.for_each(|rows| add(&mut content, &rows.expect("reads")));
    content
}

fn places(shape: &RunShape, rows: Result<WeightedBatch, StateError>) -> Vec<(u8, Vec<u8>)> {
    let keys = shape.keys(&rows.expect("reads").batch).expect("encodes");
    let places = (0..keys.rows()).map(|row| place_of(&keys, row));
    places.map(|(bucket, key)| (bucket, key.to_vec())).collect()
}

fn names() -> impl Strategy<Value = Option<String>> {
    prop_oneof![
        Just(None),
        "[a-c]{0,2}".prop_map(Some),
        // Longer than what the index keeps of a key, with a difference behind that.
        "[a-c]".prop_map(|end| Some(format!("{}{end}", "x".repeat(200))))
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn a_run_is_the_net_of_its_changes(
        changes in prop::collection::vec(prop::collection::vec((0_i64..20, names(), -2_i64..3), 0..30), 0..4),
        keyed: bool,
    ) {
        let shape = shape(if keyed { &[1] } else { &[] });
        let changes: Vec<_> = changes.iter().map(|rows| change(rows)).collect();
        let mut expected = Content::new();
        changes.iter().for_each(|rows| add(&mut expected, rows));
        let disk = PowerDisk::new();
        let Some(info) = write(&disk, &shape, &changes) else {
            prop_assert!(expected.is_empty());
            return Ok(());
        };
        prop_assert_eq!(info.rows, expected.len() as u64);
        prop_assert_eq!(info.net, expected.values().sum::<i64>());
        let run = open(&disk, &shape, &info);
        prop_assert_eq!(scanned(run.scan()), expected.clone());
        let places: Vec<_> = run.scan().flat_map(|rows| places(&shape, rows)).collect();
        prop_assert!(places.is_sorted_by(|a, b| a < b), "{places:?}");
        let mut together = Content::new();
        for bucket in 0..BUCKETS {
            let part = scanned(run.scan_bucket(bucket));
            prop_assert!(part.is_empty() || (info.buckets.0..=info.buckets.1).contains(&bucket));
            for (row, weight) in part {
                prop_assert_eq!(together.insert(row, weight), None, "in two buckets");
            }
        }
        prop_assert_eq!(together, expected);
    }
}

/// Many batches: the index leads to the right ones, for keys that are there and keys that are not.
#[test]
fn keys_are_found_among_many_batches() {
    let disk = PowerDisk::new();
    let shape = shape(&[1]);
    let rows: Vec<_> = (0..50_000_i64)
        .map(|id| (2 * id, Some(format!("name {id}")), 1))
        .collect();
    let info = write(&disk, &shape, &[change(&rows)]).expect("has rows");
    let run = open(&disk, &shape, &info);
    assert!(run.scan().count() > 5);
    let asked = [7, 0, 99_998, 50_000, -2, 100_000, 31_334];
    let probe = change(&asked.map(|id| (id, None, 1)));
    let keys = shape.keys(&probe.batch).expect("encodes");
    let keys: Vec<&[u8]> = (0..asked.len()).map(|row| keys.prefix(row)).collect();
    let mut found = Content::new();
    for rows in run.probe(&keys).expect("probes") {
        add(&mut found, &rows);
    }
    let found: Vec<i64> = found.keys().map(|row| row.0).collect();
    assert_eq!(found, [0, 31_334, 50_000, 99_998]);
    assert!(run.probe(&[]).expect("probes").is_empty());
}

/// Keys longer than what the index keeps: a probe finds each in its batch, however the bounds were rounded.
#[test]
fn long_keys_are_found() {
    let disk = PowerDisk::new();
    let shape = shape(&[0]);
    let name = |id: i64| Some(format!("{}{id:06}", "k".repeat(140)));
    let rows: Vec<_> = (0..20_000_i64).map(|id| (id, name(id), 1)).collect();
    let info = write(&disk, &shape, &[change(&rows)]).expect("has rows");
    let run = open(&disk, &shape, &info);
    for id in [0, 1, 8_191, 8_192, 19_999] {
        let probe = change(&[(0, name(id), 1)]);
        let keys = shape.keys(&probe.batch).expect("encodes");
        let found = run.probe(&[keys.prefix(0)]).expect("probes");
        let rows: usize = found.iter().map(|rows| rows.batch.num_rows()).sum();
        assert_eq!(rows, 1, "{id}");
    }
}

/// A flipped bit anywhere gives an error that names the file, or the same rows: never other ones.
#[test]
fn no_damage_goes_unnoticed() {
    let shape = shape(&[1]);
    let rows: Vec<_> = (0..300_i64)
        .map(|id| (id, Some(format!("n{id}")), 1))
        .collect();
    let disk = PowerDisk::new();
    let info = write(&disk, &shape, &[change(&rows)]).expect("has rows");
    let path = run_path(Path::new("/r"), info.number);
    let whole = read_all(&disk, &path, u64::MAX).expect("reads");
    let expected = scanned(open(&disk, &shape, &info).scan());
    let read = |content: &[u8]| -> Result<Content, StateError> {
        let disk = PowerDisk::new();
        let file = disk.create(&path).expect("creates");
        file.write_at(0, content).expect("writes");
        let run = Run::open(&disk, Path::new("/r"), &info, &shape)?;
        let mut content = Content::new();
        for rows in run.scan() {
            add(&mut content, &rows?);
        }
        Ok(content)
    };
    let mut refused = 0;
    for at in 0..whole.len() {
        let mut damaged = whole.clone();
        damaged[at] ^= 1 << (at % 8);
        match read(&damaged) {
            Ok(content) => assert_eq!(content, expected, "byte {at}"),
            Err(error) => {
                refused += 1;
                assert_eq!(error.sqlstate(), "XX001");
                assert!(
                    error.to_string().contains("0000000000000007.run"),
                    "{error}"
                );
            }
        }
    }
    // What is not looked at is the schema in front, which is in the footer too.
    assert!(refused > whole.len() / 2, "{refused} of {}", whole.len());
    let error = read(&whole[..whole.len() - 1]).expect_err("too short");
    assert!(error.to_string().contains("bytes where"), "{error}");
    disk.remove(&path).expect("removes");
    let error = Run::open(&disk, Path::new("/r"), &info, &shape).expect_err("missing");
    assert!(error.to_string().contains("its file is missing"), "{error}");
}

/// Rows of a table without columns are all alike, and only counted.
#[test]
fn rows_without_columns_are_counted() {
    let shape = RunShape::new(Arc::new(Schema::empty()), &[]).expect("supported");
    let options = RecordBatchOptions::new().with_row_count(Some(5));
    let batch = RecordBatch::try_new_with_options(shape.schema(), vec![], &options);
    let rows = WeightedBatch {
        batch: batch.expect("five rows"),
        weights: Multiplicity::Constant(2),
    };
    let disk = PowerDisk::new();
    let info = write(&disk, &shape, &[rows]).expect("has rows");
    assert_eq!((info.rows, info.net), (1, 10));
    let run = open(&disk, &shape, &info);
    let back: Vec<_> = run.scan().map(|rows| rows.expect("reads")).collect();
    assert_eq!(back[0].weights, Multiplicity::Each(vec![10]));
    assert_eq!(back[0].batch.num_rows(), 1);
}
