//! Files in a store: the same rows as on disk, whatever call of it fails.

use super::super::place::{Place, Remote};
use super::tables::{bytes_of, expected, numbered, zstd};
use super::*;
use crate::source::SourceHealth;
use crate::store::scripted::{Fault, ScriptedStore};

/// The source whose files are in a store instead.
fn in_store(store: &ScriptedStore, options: &[(&str, &str)], start: Option<Offsets>) -> FileSource {
    let folder = Folder::new("no-disk");
    let FileSource { plan, clock } = declare(&folder, options, start).expect("valid");
    let plan = Arc::into_inner(plan).expect("nobody else has it");
    let remote = Remote::new(|| Ok(Arc::new(store.clone()))).expect("a runtime");
    let place = Place::Store(Arc::new(remote), "/logs".into());
    let plan = Plan {
        pattern: plan.pattern.moved(place),
        ask_again: (Duration::from_micros(100), Duration::from_millis(1)),
        ..plan
    };
    let plan = Arc::new(plan);
    FileSource { plan, clock }
}

fn created(store: &ScriptedStore, options: &[(&str, &str)]) -> (FileSource, Offsets) {
    let start = block_on(in_store(store, options, None).resolve_start()).expect("resolves");
    (in_store(store, options, Some(start.clone())), start)
}

/// What was read so far.
#[derive(Debug, Default, PartialEq)]
struct Seen {
    rows: Vec<(String, i64, i32, Option<String>)>,
    dead: Vec<(String, i64, String)>,
    at: Offsets,
}

impl Seen {
    fn take(&mut self, batch: SourceBatch) {
        let texts = batch.rows.column(1).as_string_view();
        let texts = texts.iter().map(|text| text.map(str::to_owned));
        for ((n, text), place) in numbers(&batch).into_iter().zip(texts).zip(&batch.places) {
            self.rows.push((batch.split(*place), place.offset, n, text));
        }
        let letters = batch.dead.into_iter();
        self.dead
            .extend(letters.map(|letter| (letter.topic, letter.offset, letter.message)));
        self.at.extend(batch.offsets);
    }

    /// The same, in the order of places: files may wait for each other.
    fn sorted(mut self) -> Self {
        self.rows.sort();
        self.dead.sort();
        self
    }
}

/// Reads to `ends`, over restarts of the server when the store stays away.
fn read_through(
    store: &ScriptedStore,
    options: &[(&str, &str)],
    start: &Offsets,
    ends: &Offsets,
) -> (Seen, bool) {
    let mut seen = Seen {
        at: start.clone(),
        ..Seen::default()
    };
    let (mut store, mut outage) = (store.clone(), false);
    loop {
        let source = in_store(&store, options, Some(start.clone()));
        let mut reader = source.open(&seen.at).expect("opens without asking");
        let mut empty = 0;
        while empty < 20 {
            if ends
                .iter()
                .all(|(split, end)| seen.at.get(split) == Some(end))
            {
                return (seen.sorted(), outage);
            }
            let budget = Budget { rows: 100, ..POLL };
            let batch = reader.poll(budget).expect("an outage is no error");
            let away = matches!(reader.health(), SourceHealth::Degraded(_));
            outage |= away;
            empty = match batch.offsets.is_empty() && away {
                true => empty + 1,
                false => 0,
            };
            seen.take(batch);
        }
        store = store.shared();
    }
}

#[test]
fn a_store_that_fails_at_any_call_delays_and_falsifies_nothing() {
    let files = ScriptedStore::default();
    for (name, bytes) in [
        (
            "a.json",
            b"{\"n\":1,\"t\":\"x\"}\n{\"n\":\"bad\"}\n{\"n\":2}\n".to_vec(),
        ),
        ("sub/b.json", b"{\"n\":3}\n\n{\"n\":4}\n".to_vec()),
        ("sub/_temporary/0/c.json", b"{\"n\":9}\n".to_vec()),
        ("_half.json", b"{\"n\":9}\n".to_vec()),
        (".hidden.json", b"{\"n\":9}\n".to_vec()),
        ("a.csv", b"t,n\n\"x\ny\",1\nz,2\n".to_vec()),
        ("b.csv", b"n,t\nbad,\n".to_vec()),
        ("a.parquet", bytes_of(&numbered(0..300), 120, zstd())),
        ("sub/b.parquet", bytes_of(&numbered(300..310), 5, zstd())),
        ("sub/c.parquet", b"no Parquet at all".repeat(9)),
    ] {
        files.damage(name, Some(bytes));
    }
    for (format, rows, dead) in [("json", 4, 1), ("csv", 2, 1), ("parquet", 310, 1)] {
        for follow in ["false", "true"] {
            let path = format!("hdfs://nn:8020/logs/**/*.{format}");
            let options = [
                ("path", path.as_str()),
                ("format", format),
                ("follow", follow),
            ];
            let (source, start) = created(&files, &options);
            let ends = block_on(source.end_offsets()).expect("ends");
            let calls = files.operations();
            let (expected, outage) = read_through(&files, &options, &start, &ends);
            assert_eq!(
                (expected.rows.len(), expected.dead.len()),
                (rows, dead),
                "{format} {follow}"
            );
            assert!(!outage && expected.rows.iter().all(|row| row.0.starts_with("/logs/")));
            let calls = files.operations() - calls;
            assert!(calls > 2, "{calls}");
            for fault in Fault::ALL {
                for call in 0..calls {
                    let store = files.shared();
                    store.fail_at(call, fault);
                    let (seen, outage) = read_through(&store, &options, &start, &ends);
                    assert_eq!(seen, expected, "{format} {follow} {fault:?} {call}");
                    // A store that has come back by the end of a poll may not be noticed.
                    let down = matches!(fault, Fault::DownBefore | Fault::DownAfter);
                    assert!(
                        outage || !down || call + 1 == calls,
                        "{format} {fault:?} {call}"
                    );
                }
            }
            // What has to be known at once is an error.
            for call in 0..3 {
                let store = files.shared();
                store.fail_at(call, Fault::DownBefore);
                let error = block_on(in_store(&store, &options, None).resolve_start());
                assert_eq!(error.expect_err("away").sqlstate(), "08006");
            }
        }
    }
}

#[test]
fn files_in_a_store_are_followed_as_they_grow_and_come() {
    let files = ScriptedStore::default();
    let options = [("path", "hdfs://nn:8020/logs/*.json"), ("follow", "true")];
    let (source, start) = created(&files, &options);
    assert!(start.is_empty());
    let mut reader = source.open(&start).expect("opens");
    let mut seen = Seen::default();
    let mut take = |wanted: &[i32]| {
        for _ in 0..10_000 {
            seen.take(reader.poll(POLL).expect("reads"));
            if seen.rows.len() >= wanted.len() {
                break;
            }
        }
        let mut found: Vec<i32> = seen.rows.iter().map(|row| row.2).collect();
        found.sort_unstable();
        assert_eq!(found, wanted);
    };
    let long = format!("{{\"n\":1,\"t\":\"{}\"}}\n{{\"n\"", "x".repeat(200_000));
    files.damage("a.json", Some(long.clone().into_bytes()));
    take(&[1]);
    let ends = block_on(source.end_offsets()).expect("ends");
    assert_eq!(ends.get("/logs/a.json"), Some(&(long.len() as u64 - 4)));
    files.damage("a.json", Some(format!("{long}:2}}\n").into_bytes()));
    files.damage("b.json", Some(b"{\"n\":3}\n".to_vec()));
    take(&[1, 2, 3]);
    // One that becomes shorter is not what it was.
    files.damage("a.json", Some(b"{\"n\":7}\n".to_vec()));
    let failed = (0..10_000).find_map(|_| reader.poll(POLL).err());
    assert_eq!(failed.expect("is noticed").sqlstate(), "58030");
}

#[test]
fn a_file_that_is_gone_from_a_store_is_said() {
    for (format, bytes) in [
        ("json", b"{\"n\":0}\n".to_vec()),
        ("parquet", bytes_of(&numbered(0..9), 5, zstd())),
    ] {
        let files = ScriptedStore::default();
        files.damage("a.x", Some(bytes.clone()));
        files.damage("b.x", Some(bytes.clone()));
        let options = [("path", "hdfs://nn:8020/logs/*.x"), ("format", format)];
        let (source, start) = created(&files, &options);
        let mut reader = source.open(&start).expect("opens");
        let budget = Budget { rows: 1, ..POLL };
        assert_eq!(numbers(&reader.poll(budget).expect("reads")), [0]);
        files.damage("b.x", None);
        let failed = (0..10_000).find_map(|_| reader.poll(POLL).err());
        let failed = failed.expect("is noticed").report();
        assert_eq!(failed.sqlstate, "58030");
        assert!(failed.message.contains("/logs/b.x"), "{}", failed.message);
    }
}

#[test]
fn large_files_are_fetched_in_parts() {
    let files = ScriptedStore::default();
    let rows = expected(0..30_000);
    let line = |n: &i32, t: &Option<String>| match t {
        Some(t) => format!("{{\"n\":{n},\"t\":\"{t}\"}}\n"),
        None => format!("{{\"n\":{n}}}\n"),
    };
    let lines: String = rows.iter().map(|(n, t)| line(n, t)).collect();
    files.damage("a.json", Some(lines.into_bytes()));
    files.damage(
        "a.parquet",
        Some(bytes_of(&numbered(0..30_000), 9_000, zstd())),
    );
    for format in ["json", "parquet"] {
        let path = format!("hdfs://nn:8020/logs/*.{format}");
        let options = [("path", path.as_str()), ("format", format)];
        let (source, start) = created(&files, &options);
        let ends = block_on(source.end_offsets()).expect("ends");
        let before = files.operations();
        let (mut reader, mut seen) = (source.open(&start).expect("opens"), Seen::default());
        while seen.at != ends {
            seen.take(reader.poll(POLL).expect("reads"));
        }
        let read: Vec<_> = seen.rows.into_iter().map(|row| (row.2, row.3)).collect();
        assert_eq!(read, rows, "{format}");
        let calls = files.operations() - before;
        assert!(calls < 60, "{calls} calls for {format}");
    }
}
