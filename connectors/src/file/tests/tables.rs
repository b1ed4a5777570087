//! Parquet files: rows from any offset on, files of other shapes, and files that are broken.

use arrow::array::{
    ArrayRef, Float64Array, Int32Array, Int64Array, ListArray, RecordBatch, StringArray,
};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;
use parquet::file::reader::{FileReader as _, SerializedFileReader};

use super::super::columnar::GIVEN_UP;
use super::*;

fn batch(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
    RecordBatch::try_from_iter_with_nullable(
        columns
            .into_iter()
            .map(|(name, column)| (name, column, true)),
    )
    .expect("a batch")
}

pub(super) fn numbered(rows: std::ops::Range<i32>) -> RecordBatch {
    let texts = rows.clone().map(|n| (n % 3 != 0).then(|| format!("t{n}")));
    batch(vec![
        ("T", Arc::new(texts.collect::<StringArray>())),
        (
            "other",
            Arc::new(Float64Array::from_iter(rows.clone().map(f64::from))),
        ),
        ("n", Arc::new(Int32Array::from_iter_values(rows))),
    ])
}

pub(super) fn bytes_of(
    batch: &RecordBatch,
    group_rows: usize,
    compression: Compression,
) -> Vec<u8> {
    let properties = WriterProperties::builder()
        .set_max_row_group_row_count(Some(group_rows))
        .set_data_page_row_count_limit(50)
        .set_write_batch_size(10)
        .set_compression(compression);
    let mut bytes = Vec::new();
    let writer = ArrowWriter::try_new(&mut bytes, batch.schema(), Some(properties.build()));
    let mut writer = writer.expect("a writer");
    writer.write(batch).expect("writes");
    writer.close().expect("closes");
    bytes
}

pub(super) fn zstd() -> Compression {
    Compression::ZSTD(ZstdLevel::default())
}

/// All that a source gives from its start to its end: rows as (n, t), and letters as (file, offset, message).
type Read = (Vec<(i32, Option<String>)>, Vec<(String, i64, String)>);

fn read(source: &FileSource, at: &Offsets, budget: Budget) -> Read {
    let ends = block_on(source.end_offsets()).expect("ends");
    let (mut at, mut rows, mut dead) = (at.clone(), Vec::new(), Vec::new());
    while !ends.iter().all(|(split, end)| at.get(split) >= Some(end)) {
        let batch = source
            .open(&at)
            .expect("opens")
            .poll(budget)
            .expect("reads");
        assert!(!batch.offsets.is_empty(), "{at:?} of {ends:?}");
        assert_eq!(batch.rows.num_rows(), batch.places.len());
        at.extend(batch.offsets.clone());
        let texts = batch.rows.column(1).as_string_view();
        let texts = texts.iter().map(|text| text.map(str::to_owned));
        rows.extend(numbers(&batch).into_iter().zip(texts));
        let letters = batch.dead.into_iter();
        dead.extend(letters.map(|letter| (letter.topic, letter.offset, letter.message)));
    }
    (rows, dead)
}

const PARQUET: &[(&str, &str)] = &[("path", "*.parquet"), ("format", "parquet")];

pub(super) fn expected(rows: std::ops::Range<i32>) -> Vec<(i32, Option<String>)> {
    rows.map(|n| (n, (n % 3 != 0).then(|| format!("t{n}"))))
        .collect()
}

#[test]
fn rows_come_once_wherever_reading_begins() {
    let folder = Folder::new("tables");
    for (name, rows, compression) in [
        ("a.parquet", 0..2_500, zstd()),
        ("b.parquet", 2_500..2_510, Compression::SNAPPY),
        ("c.parquet", 0..0, Compression::UNCOMPRESSED),
        ("d.parquet", 2_510..4_000, Compression::LZ4_RAW),
    ] {
        folder.write(name, &bytes_of(&numbered(rows), 700, compression));
    }
    let (source, start) = create(&folder, PARQUET);
    let ends = block_on(source.end_offsets()).expect("ends");
    assert_eq!(ends.get("a.parquet"), Some(&2_500));
    for rows in [1_000_000, 999, 7] {
        let (read, dead) = read(&source, &start, Budget { rows, ..POLL });
        assert_eq!(read, expected(0..4_000), "{rows}");
        assert!(dead.is_empty(), "{dead:?}");
    }
}

#[test]
fn values_that_do_not_fit_are_letters_of_their_rows() {
    let folder = Folder::new("misfits");
    let numbers = Int64Array::from(vec![Some(1), Some(1 << 40), None, Some(4)]);
    let texts = StringArray::from(vec![Some("a"), Some("b"), Some("c"), Some("d")]);
    let rows = batch(vec![("n", Arc::new(numbers)), ("t", Arc::new(texts))]);
    folder.write("a.parquet", &bytes_of(&rows, 2, zstd()));
    let (source, start) = create(&folder, PARQUET);
    let mut reader = source.open(&start).expect("opens");
    let (mut offsets, mut dead) = (Vec::new(), Vec::new());
    // A slow machine reads one row group at a time.
    while offsets.len() + dead.len() < 4 {
        let batch = reader.poll(POLL).expect("reads");
        assert_eq!(batch.rows.num_rows(), batch.places.len());
        offsets.extend(batch.places.iter().map(|place| place.offset));
        dead.extend(batch.dead);
    }
    assert_eq!(offsets, [0, 2, 3]);
    let [letter] = dead.as_slice() else {
        panic!("one row does not fit: {dead:?}");
    };
    assert_eq!((letter.offset, letter.reason.as_str()), (1, "decode"));
    assert_eq!(
        letter.message,
        "column \"n\": 1099511627776 is out of range for type integer"
    );
    let payload = letter.payload.as_deref();
    assert_eq!(payload, Some(&br#"{"n":1099511627776,"t":"b"}"#[..]));
}

#[test]
fn a_broken_file_is_one_letter_and_the_others_go_on() {
    let folder = Folder::new("broken");
    let good = bytes_of(&numbered(0..10), 700, zstd());
    let lists = ListArray::from_iter_primitive::<Int32Type, _, _>((0..2).map(|n| Some([Some(n)])));
    let lists = batch(vec![("n", Arc::new(lists))]);
    folder.write("a.parquet", b"{\"n\":1}\n");
    folder.write("b.parquet", &good[..good.len() - 20]);
    folder.write("c.parquet", &bytes_of(&lists, 700, zstd()));
    let mut footer = good.clone();
    let at = footer.len() - 30;
    footer[at] ^= 0xff;
    footer[at + 1] ^= 0x55;
    folder.write("d.parquet", &footer);
    folder.write("e.parquet", &good);
    folder.write("f.parquet", b"");
    let (source, start) = create(&folder, PARQUET);
    for rows in [1_000, 1] {
        let (read, dead) = read(&source, &start, Budget { rows, ..POLL });
        assert_eq!(read, expected(0..10));
        let files: Vec<(&str, i64)> = dead
            .iter()
            .map(|(file, at, _)| (file.as_str(), *at))
            .collect();
        let broken = ["a", "b", "c", "d", "f"].map(|name| format!("{name}.parquet"));
        assert_eq!(
            files,
            broken.each_ref().map(|name| (name.as_str(), 0)),
            "{dead:?}"
        );
        assert_eq!(
            dead[0].2,
            "file \"a.parquet\" cannot be read: it is not a Parquet file"
        );
        assert_eq!(
            dead[1].2,
            "file \"b.parquet\" cannot be read: it ends without a footer"
        );
        assert_eq!(
            dead[2].2,
            "file \"c.parquet\" cannot be read: column \"n\" of type integer[] cannot be read as integer"
        );
    }
}

#[test]
fn bytes_that_were_overwritten_cost_the_rows_behind_them() {
    let folder = Folder::new("overwritten");
    let mut bytes = bytes_of(&numbered(0..2_000), 1_000, zstd());
    let at = {
        let table = SerializedFileReader::new(bytes::Bytes::from(bytes.clone())).expect("a file");
        // In the middle of the numbers of the second row group; the column that nobody reads may hold anything.
        let (start, length) = table.metadata().row_group(1).column(2).byte_range();
        (start + length / 2) as usize
    };
    bytes[at..at + 40].fill(0xa5);
    folder.write("a.parquet", &bytes);
    folder.write("b.parquet", &bytes_of(&numbered(2_000..2_003), 700, zstd()));
    let (source, start) = create(&folder, PARQUET);
    let whole = read(&source, &start, POLL);
    let (rows, dead) = &whole;
    let [(file, offset, message)] = dead.as_slice() else {
        panic!("one part is lost: {dead:?}");
    };
    assert_eq!(file, "a.parquet");
    assert!((1_000..2_000).contains(offset), "{offset}");
    assert!(
        message.starts_with(&format!("rows {offset} to 1999 cannot be read: ")),
        "{message}"
    );
    let mut wanted = expected(0..*offset as i32);
    wanted.extend(expected(2_000..2_003));
    assert_eq!(*rows, wanted);
    for rows in [1, 33, 999] {
        assert_eq!(
            read(&source, &start, Budget { rows, ..POLL }),
            whole,
            "{rows}"
        );
    }
}

#[test]
fn a_followed_file_is_read_when_its_footer_is_there() {
    let folder = Folder::new("footers");
    let options = [PARQUET[0], PARQUET[1], ("follow", "true")];
    let (source, start) = create(&folder, &options);
    let mut reader = source.open(&start).expect("opens");
    let bytes = bytes_of(&numbered(0..100), 700, zstd());
    let (head, tail) = bytes.split_at(bytes.len() / 2);
    folder.write("a.parquet", &head[..2]);
    let mut poll = |seconds: u64| {
        let until = std::time::Instant::now() + Duration::from_secs(seconds);
        loop {
            let batch = reader.poll(POLL).expect("reads");
            if !batch.offsets.is_empty() || std::time::Instant::now() > until {
                return batch;
            }
        }
    };
    assert!(poll(1).offsets.is_empty());
    folder.write("a.parquet", &head[2..]);
    let ends = block_on(source.end_offsets()).expect("ends");
    assert_eq!(ends.get("a.parquet"), Some(&0));
    assert!(poll(1).offsets.is_empty());
    folder.write("a.parquet", tail);
    let rows = poll(30);
    assert_eq!(numbers(&rows).len(), 100);
    assert!(rows.dead.is_empty());
    folder.write("b.parquet", b"no table");
    let letter = poll(30);
    assert_eq!(letter.offsets.get("b.parquet"), Some(&GIVEN_UP));
    assert_eq!(letter.dead.len(), 1);
    folder.write("c.parquet", &bytes);
    assert_eq!(numbers(&poll(30)).len(), 100);
}

#[test]
fn a_bounded_file_that_changed_is_said_so() {
    let folder = Folder::new("changed");
    folder.write("a.parquet", &bytes_of(&numbered(0..10), 700, zstd()));
    let (source, start) = create(&folder, PARQUET);
    std::fs::remove_file(folder.0.join("a.parquet")).expect("removes");
    folder.write("a.parquet", &bytes_of(&numbered(0..11), 700, zstd()));
    let (rows, dead) = read(&source, &start, POLL);
    assert!(rows.is_empty());
    assert_eq!(
        dead[0].2,
        "file \"a.parquet\" cannot be read: it has 11 rows, and had 10 when the source was created"
    );
}

proptest! {
    /// Whatever bytes a file has, reading ends, in rows or letters, and does not depend on how it is cut.
    #[test]
    fn any_bytes_end_in_rows_or_letters(
        cuts in prop::collection::vec((0_usize..100_000, any::<u8>()), 0..4),
        length in 0_usize..100_000,
        rows in 1_usize..40,
    ) {
        let mut bytes = bytes_of(&numbered(0..60), 25, Compression::SNAPPY);
        for (at, byte) in cuts {
            let at = at % bytes.len();
            bytes[at] = byte;
        }
        if length < bytes.len() {
            bytes.truncate(length);
        }
        let folder = Folder::new(&format!("any-{rows}-{length}"));
        folder.write("a.parquet", &bytes);
        let (source, start) = create(&folder, PARQUET);
        let whole = read(&source, &start, POLL);
        prop_assert_eq!(read(&source, &start, Budget { rows, ..POLL }), whole);
    }
}

/// Files of `tests/data/make.py`, read as declared: each row as a JSON object.
fn foreign(name: &str, bytes: &[u8], columns: &[(&str, SqlType)]) -> Vec<String> {
    let folder = Folder::new(name);
    folder.write("a.parquet", bytes);
    let columns: Vec<Column> = columns
        .iter()
        .map(|(name, ty)| column(name, ty.clone()))
        .collect();
    let options = PARQUET.iter();
    let options: BTreeMap<String, String> = options
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect();
    let unresolved = declare_columns(&folder, columns.clone(), options.clone(), None);
    let start = block_on(unresolved.expect("valid").resolve_start()).expect("resolves");
    let source = declare_columns(&folder, columns.clone(), options, Some(start.clone()));
    let mut reader = source.expect("valid").open(&start).expect("opens");
    let batch = reader.poll(POLL).expect("reads");
    let dead = batch.dead.iter();
    let dead: Vec<_> = dead
        .map(|letter| (letter.offset, &letter.message))
        .collect();
    assert!(dead.is_empty(), "{dead:?}");
    let encoder = crate::format::JsonEncoder::new(
        columns
            .iter()
            .enumerate()
            .map(|(at, column)| (at, column.name.as_str(), &column.ty)),
    );
    let rows = 0..batch.rows.num_rows();
    let row = |row| encoder.row(batch.rows.columns(), row).expect("encodes");
    rows.map(|n| String::from_utf8(row(n)).expect("text"))
        .collect()
}

#[test]
fn files_of_pyarrow_are_read_as_they_were_meant() {
    let numeric = |precision, scale| SqlType::Numeric {
        declared: Some((precision, scale)),
        held_scale: scale,
    };
    let words = SqlType::Array(Box::new(SqlType::Text));
    let spot = SqlType::Struct(vec![
        ("y".into(), words.clone()),
        ("x".into(), SqlType::Int2),
    ]);
    let columns = [
        ("i1", SqlType::Int4),
        ("u8", numeric(20, 0)),
        ("f2", SqlType::Float8),
        ("d", numeric(6, 1)),
        ("s", SqlType::Timestamp),
        ("ms", SqlType::Timestamptz),
        ("us", SqlType::Timestamptz),
        ("ns", SqlType::Timestamp),
        ("day", SqlType::Date),
        ("clock", SqlType::Time),
        ("span", SqlType::Interval),
        ("word", SqlType::Varchar(Some(3))),
        ("id", SqlType::Uuid),
        ("words", words),
        ("spot", spot),
        ("counts", SqlType::Jsonb),
        ("missing", SqlType::Bool),
    ];
    let bytes = include_bytes!("../../../tests/data/pyarrow.parquet");
    let rows = foreign("pyarrow", bytes, &columns);
    let nothing = columns.iter().map(|(name, _)| format!("\"{name}\":null"));
    let nothing = format!("{{{}}}", nothing.collect::<Vec<_>>().join(","));
    let [first, second, third] = rows.as_slice() else {
        panic!("three rows: {rows:?}");
    };
    assert_eq!(
        first,
        "{\"i1\":1,\"u8\":\"9223372036854775808\",\"f2\":0.5,\"d\":\"12.5\",\"s\":\"2024-02-29T01:02:03\",\
         \"ms\":\"2024-02-29T01:02:03.123Z\",\"us\":\"2024-02-29T01:02:03.123456Z\",\"ns\":\"2024-02-29T01:02:03.123456\",\
         \"day\":\"2024-02-29\",\"clock\":\"01:02:03.000004\",\"span\":\"P0M0DT1.5S\",\"word\":\"a\",\
         \"id\":\"07070707-0707-0707-0707-070707070707\",\"words\":[\"a\",null],\"spot\":{\"y\":[\"p\"],\"x\":1},\
         \"counts\":{\"a\":1},\"missing\":null}"
    );
    assert_eq!(*second, nothing);
    assert_eq!(
        third,
        "{\"i1\":-3,\"u8\":\"0\",\"f2\":-2.0,\"d\":\"0.0\",\"s\":\"1969-12-31T23:59:59\",\"ms\":\"1969-12-31T23:59:59Z\",\
         \"us\":\"1969-12-31T23:59:59Z\",\"ns\":\"1969-12-31T23:59:59\",\"day\":\"0001-01-01\",\"clock\":\"00:00:00\",\
         \"span\":\"P0M0DT-0.001S\",\"word\":\"\u{e9}\",\"id\":\"00000000-0000-0000-0000-000000000000\",\"words\":[],\
         \"spot\":{\"y\":null,\"x\":null},\"counts\":{\"b\":null},\"missing\":null}"
    );
}

#[test]
fn the_old_timestamps_are_read_as_microseconds() {
    let bytes = include_bytes!("../../../tests/data/int96.parquet");
    let rows = foreign("int96", bytes, &[("at", SqlType::Timestamp)]);
    assert_eq!(
        rows,
        [
            "{\"at\":\"2024-02-29T01:02:03.123456\"}",
            "{\"at\":null}",
            "{\"at\":\"1969-12-31T23:59:59.999999\"}"
        ]
    );
}
