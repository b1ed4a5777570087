//! Files read once, followed, and read on from any offset.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;
use std::time::Duration;

use arrow::array::{Array, AsArray};
use arrow::datatypes::Int32Type;
use proptest::prelude::*;
use thalweg_catalog::SqlType;

use super::*;
use crate::context::SystemClock;
use crate::source::{Budget, SourceBatch};
use crate::testing::{column, source_relation};

mod stores;
mod tables;

/// A folder that goes with the test.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("thalweg-file-{name}-{}", std::process::id()));
        drop(std::fs::remove_dir_all(&path));
        std::fs::create_dir_all(&path).expect("a folder");
        Self(path)
    }

    fn write(&self, name: &str, content: &[u8]) {
        let path = self.0.join(name);
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
        let mut file = std::fs::OpenOptions::new();
        let file = file.create(true).append(true).open(path);
        file.and_then(|mut file| file.write_all(content))
            .expect("writes");
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        drop(std::fs::remove_dir_all(&self.0));
    }
}

fn declare(
    folder: &Folder,
    options: &[(&str, &str)],
    start: Option<Offsets>,
) -> Result<FileSource, ConnectorError> {
    let options = options.iter();
    let options: BTreeMap<String, String> = options
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect();
    let columns = vec![column("n", SqlType::Int4), column("t", SqlType::Text)];
    declare_columns(folder, columns, options, start)
}

fn declare_columns(
    folder: &Folder,
    columns: Vec<Column>,
    options: BTreeMap<String, String>,
    start: Option<Offsets>,
) -> Result<FileSource, ConnectorError> {
    let (relation, mut spec) = source_relation("file", columns, options, 0);
    spec.start = start.unwrap_or_default();
    let context = ConnectorContext::new(Arc::new(SystemClock)).with_file_root(folder.0.clone());
    FileSource::new(&relation, &spec, &context)
}

/// A source whose start is resolved, as at CREATE.
fn create(folder: &Folder, options: &[(&str, &str)]) -> (FileSource, Offsets) {
    let start = block_on(
        declare(folder, options, None)
            .expect("valid")
            .resolve_start(),
    );
    let start = start.expect("resolves");
    let source = declare(folder, options, Some(start.clone())).expect("valid");
    (source, start)
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    runtime.expect("a runtime").block_on(future)
}

const POLL: Budget = Budget {
    rows: 1_000,
    bytes: 1 << 20,
    time: Duration::from_millis(1),
};

fn numbers(batch: &SourceBatch) -> Vec<i32> {
    batch
        .rows
        .column(0)
        .as_primitive::<Int32Type>()
        .values()
        .to_vec()
}

#[test]
fn a_bounded_source_is_what_was_there() {
    let folder = Folder::new("bounded");
    folder.write("a/1.json", b"{\"n\":1}\n\n{\"n\":\"x\"}\n{\"n\":2}");
    folder.write("a/2.json", b"{\"n\":3}\r\n");
    folder.write("a/3.txt", b"{\"n\":9}\n");
    let (source, start) = create(&folder, &[("path", "a/*.json")]);
    folder.write("a/1.json", b"\n{\"n\":4}\n");
    folder.write("a/4.json", b"{\"n\":5}\n");
    let ends = block_on(source.end_offsets()).expect("ends");
    assert_eq!(
        ends,
        Offsets::from([("a/1.json".into(), 26), ("a/2.json".into(), 9)])
    );
    let mut reader = source.open(&start).expect("opens");
    let batch = reader.poll(POLL).expect("reads");
    assert_eq!(numbers(&batch), [1, 2, 3]);
    assert_eq!(batch.offsets, ends);
    let [letter] = batch.dead.as_slice() else {
        panic!("one bad line: {:?}", batch.dead);
    };
    assert_eq!((letter.topic.as_str(), letter.offset), ("a/1.json", 9));
    assert_eq!(
        batch
            .names
            .get(&batch.places[2].partition)
            .map(String::as_str),
        Some("a/2.json")
    );
    assert!(reader.poll(POLL).expect("reads").offsets.is_empty());
    assert!(declare(&folder, &[("path", "../x")], None).is_err());
    let nothing = declare(&folder, &[("path", "b/*.json")], None).expect("valid");
    let error = block_on(nothing.resolve_start()).expect_err("no file");
    assert_eq!(error.sqlstate(), "58P01");
}

#[test]
fn a_followed_source_takes_what_is_complete() {
    let folder = Folder::new("followed");
    let options = [("path", "**/*.csv"), ("format", "csv"), ("follow", "true")];
    let (source, start) = create(&folder, &options);
    let mut reader = source.open(&start).expect("opens");
    let mut seen = Vec::new();
    let mut take = |reader: &mut Box<dyn SourceReader>, wanted: usize| {
        for _ in 0..10_000 {
            let batch = reader.poll(POLL).expect("reads");
            assert!(batch.dead.is_empty(), "{:?}", batch.dead);
            let text = batch.rows.column(1).as_string_view();
            let rows = numbers(&batch).into_iter().enumerate();
            seen.extend(rows.map(|(row, n)| {
                let text = text.is_valid(row).then(|| text.value(row).to_owned());
                (n, text)
            }));
            if seen.len() >= wanted {
                break;
            }
        }
        assert_eq!(seen.len(), wanted);
        seen.clone()
    };
    folder.write("x/a.csv", b"t,n\nab,1\n\"c\n");
    take(&mut reader, 1);
    assert_eq!(
        block_on(source.end_offsets()).expect("ends").get("x/a.csv"),
        Some(&9)
    );
    folder.write("x/a.csv", b"d\",2\n,3\ny,");
    folder.write("x/y/b.csv", b"N\n7\n");
    let all = take(&mut reader, 4);
    folder.write("x/a.csv", b"4\n");
    let last = take(&mut reader, 5);
    let text = |text: &str| Some(text.to_owned());
    assert_eq!(all[..2], [(1, text("ab")), (2, text("c\nd"))]);
    assert!(all.contains(&(3, None)) && all.contains(&(7, None)));
    assert_eq!(last[4], (4, text("y")));
}

#[test]
fn options_that_do_not_go_together_are_refused() {
    let folder = Folder::new("options");
    for (options, sqlstate) in [
        ([("path", "a"), ("csv.header", "true")], "22023"),
        ([("path", "a"), ("format", "orc")], "0A000"),
        ([("path", "s3://b/a"), ("format", "json")], "0A000"),
        ([("path", "a"), ("user", "hive")], "22023"),
        ([("path", "a"), ("hadoop.dfs.replication", "1")], "22023"),
        ([("path", "hdfs://nn:8020/"), ("format", "json")], "22023"),
    ] {
        let error = declare(&folder, &options, None).expect_err("refused");
        assert_eq!(error.sqlstate(), sqlstate, "{options:?}");
    }
}

#[test]
fn a_link_does_not_lead_out() {
    let (folder, outside) = (Folder::new("inside"), Folder::new("outside"));
    outside.write("secret.json", b"{\"n\":1}\n");
    folder.write("open.json", b"{\"n\":2}\n");
    let link = folder.0.join("link.json");
    std::os::unix::fs::symlink(outside.0.join("secret.json"), link).expect("links");
    std::os::unix::fs::symlink(&outside.0, folder.0.join("dir")).expect("links");
    for (path, count) in [("*.json", 1), ("**/*.json", 1), ("dir/secret.json", 0)] {
        let files = declare(&folder, &[("path", path)], None)
            .expect("valid")
            .plan
            .pattern
            .files();
        assert_eq!(files.expect("lists").len(), count, "{path}");
    }
}

#[test]
fn records_of_any_length_are_whole_or_dead() {
    let folder = Folder::new("lengths");
    let text = |length: usize| "x".repeat(length);
    let lengths = [1, 262_120, 262_144, 17 << 20, 5, 600_000, 1 << 20, 3];
    for (n, length) in lengths.iter().enumerate() {
        let line = format!("{{\"n\":{n},\"t\":\"{}\"}}\n", text(*length));
        folder.write("f", line.as_bytes());
    }
    folder.write("f", b"{\"n\":8,\"t\":\"no line end\"}");
    let (source, start) = create(&folder, &[("path", "f")]);
    let ends = block_on(source.end_offsets()).expect("ends");
    let mut reader = source.open(&start).expect("opens");
    let (mut read, mut dead, mut at) = (Vec::new(), Vec::new(), Offsets::new());
    while at.get("f") != ends.get("f") {
        let batch = reader.poll(POLL).expect("reads");
        let numbers = batch.rows.column(0).as_primitive::<Int32Type>().clone();
        let texts = batch.rows.column(1).as_string_view().clone();
        read.extend((0..numbers.len()).map(|row| (numbers.value(row), texts.value(row).len())));
        dead.extend(batch.dead);
        at.extend(batch.offsets);
    }
    let good = lengths.iter().enumerate().filter(|(n, _)| *n != 3);
    let mut expected: Vec<_> = good.map(|(n, length)| (n as i32, *length)).collect();
    expected.push((8, 11));
    assert_eq!(read, expected);
    let [letter] = dead.as_slice() else {
        panic!("one record is too long: {}", dead.len());
    };
    assert_eq!(letter.payload.as_ref().map(Vec::len), Some(1 << 20));
}

proptest! {
    /// Reading on from any offset a batch names gives the rest, whatever the sizes of the polls.
    #[test]
    fn offsets_are_where_reading_goes_on(lines in prop::collection::vec("[a-z\"\\n]{0,6}|[{]\"n\":[0-9][}]", 0..20), rows in 1_usize..4, csv: bool) {
        let folder = Folder::new(&format!("resume-{rows}-{csv}"));
        folder.write("f", lines.join("\n").as_bytes());
        let options: &[_] = if csv { &[("path", "f"), ("format", "csv"), ("csv.header", "false")] } else { &[("path", "f")] };
        let (source, start) = create(&folder, options);
        let whole = source.open(&start).expect("opens").poll(POLL).expect("reads");
        let (mut at, mut values, mut dead) = (start, Vec::new(), Vec::new());
        let ends = block_on(source.end_offsets()).expect("ends");
        while !ends.iter().all(|(split, end)| at.get(split) == Some(end)) {
            let budget = Budget { rows, ..POLL };
            let part = source.open(&at).expect("opens").poll(budget).expect("reads");
            prop_assert!(!part.offsets.is_empty());
            at.extend(part.offsets.clone());
            values.extend((0..part.rows.num_rows()).map(|row| format!("{:?}", part.rows.slice(row, 1).columns())));
            dead.extend(part.dead.into_iter().map(|letter| (letter.offset, letter.payload)));
        }
        let expected = (0..whole.rows.num_rows()).map(|row| format!("{:?}", whole.rows.slice(row, 1).columns()));
        prop_assert_eq!(values, expected.collect::<Vec<_>>());
        prop_assert_eq!(dead, whole.dead.into_iter().map(|letter| (letter.offset, letter.payload)).collect::<Vec<_>>());
    }
}
