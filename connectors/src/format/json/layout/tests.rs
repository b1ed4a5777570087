//! Records read by their layout have the rows and the faults that splitting them gives, however they are written.

use arrow::array::{Array, AsArray};
use proptest::prelude::*;
use proptest::sample::select;
use thalweg_catalog::{Column, SqlType};

use super::*;
use crate::format::json::{JsonDecoder, JsonOptions, arbitrary};
use crate::format::{Fault, Wanted};
use crate::source::ColumnsRead;
use crate::testing::column;

fn numeric() -> SqlType {
    SqlType::Numeric {
        declared: Some((12, 2)),
        held_scale: 2,
    }
}

/// A column of every type, two with NOT NULL.
fn columns() -> Vec<Column> {
    let inner = SqlType::Struct(vec![
        ("a".into(), SqlType::Int4),
        ("t".into(), SqlType::Text),
        (
            "s".into(),
            SqlType::Struct(vec![
                ("b".into(), SqlType::Bool),
                ("at".into(), SqlType::Timestamptz),
            ]),
        ),
    ]);
    let mut columns: Vec<Column> = [
        ("id", SqlType::Int8),
        ("small", SqlType::Int2),
        ("oid", SqlType::Oid),
        ("text", SqlType::Text),
        ("short", SqlType::Varchar(Some(3))),
        ("flag", SqlType::Bool),
        ("real", SqlType::Float4),
        ("double", SqlType::Float8),
        ("price", numeric()),
        ("at", SqlType::Timestamp),
        ("seen", SqlType::Timestamptz),
        ("day", SqlType::Date),
        ("json", SqlType::Jsonb),
        ("list", SqlType::Array(Box::new(SqlType::Int4))),
        ("s", inner),
        ("Id2", SqlType::Int4),
    ]
    .map(|(name, ty)| column(name, ty))
    .into();
    for column in columns.iter_mut().take(2) {
        column.not_null = true;
    }
    columns
}

/// Texts of values: many that some column takes, many that none does.
fn value() -> impl Strategy<Value = String> {
    let number = prop_oneof![
        (0..100_000i64).prop_map(|n| n.to_string()),
        any::<i64>().prop_map(|n| n.to_string()),
        arbitrary::number().prop_map(|n| n.to_string()),
        select(vec![
            "0",
            "-0",
            "01",
            "-",
            "1.",
            "1e5",
            "32768",
            "4294967296",
            "9223372036854775808"
        ])
        .prop_map(str::to_owned),
    ];
    let text = prop_oneof![
        "[a-z]{0,12}".prop_map(|text| format!("\"{text}\"")),
        arbitrary::text().prop_map(|text| serde_json::Value::from(text).to_string()),
        select(vec![
            r#""\u0000""#,
            r#""\ud800""#,
            r#""é漢""#,
            r#""abc ""#,
            r#""2024-02-29 23:59:59.5""#,
            r#""2024-02-30T00:00:00Z""#,
            r#""2024-01-01T00:00:00.123456Z""#,
            r#""2024-01-01T00:00:00+01:00""#,
            r#""2024-01-01""#,
            r#""NaN""#,
            "\"a\nb\"",
            r#""\x""#,
            "\"open",
        ])
        .prop_map(str::to_owned),
    ];
    let nested = prop_oneof![
        arbitrary::value().prop_map(|value| value.to_string()),
        select(vec![
            r#"{"a":1,"t":"x","s":{"b":true,"at":"2024-01-01T00:00:00Z"}}"#,
            r#"{"a":1,"t":"x","s":{"b":true,"at":1704067200}}"#,
            r#"{"a": 1, "t": "x", "s": null}"#,
            r#"{"t":"x","a":1,"u":[]}"#,
            r#"{"a":1,"a":2}"#,
            r#"{"a":"x","t":[]}"#,
            r#"{"A":7}"#,
            r#"{"\u0061":7}"#,
            r#"{"a":1"#,
            "{}",
            "[1,2,3]",
            r#"[1,"x"]"#,
            "[ ]",
        ])
        .prop_map(str::to_owned),
    ];
    let word = select(vec!["true", "false", "null", "nul", "True", " 1", "1 ", ""]);
    prop_oneof![
        4 => number,
        4 => text,
        2 => nested,
        2 => word.prop_map(str::to_owned),
    ]
}

/// A value that fits the column of that name.
fn fitting(name: &str) -> BoxedStrategy<String> {
    let choices: Vec<&str> = match name {
        "id" | "small" | "oid" | "Id2" => vec!["0", "7", "12345", "32767"],
        "text" => vec![
            r#""""#,
            r#""short""#,
            r#""a text of more than twelve bytes""#,
            r#""é""#,
            "null",
        ],
        "short" => vec![r#""abc""#, r#""é漢ü""#, "null"],
        "flag" => vec!["true", "false", "null"],
        "real" | "double" | "price" => vec!["0", "1.5", "-2.25e2", "null"],
        "at" => vec![
            r#""2024-02-29 23:59:59.5""#,
            r#""2024-01-01T00:00:00Z""#,
            "1704067200",
        ],
        "seen" => vec![
            r#""2024-02-29 23:59:59.5Z""#,
            r#""2024-01-01T00:00:00+01:00""#,
            "1704067200",
        ],
        "day" => vec![r#""2024-02-29""#, "null"],
        "json" => vec!["{}", r#"{"b":[1,{"a":null}],"a":1}"#, "3", r#""x""#],
        "list" => vec!["[]", "[1,null]", "null"],
        "s" => vec![
            "null",
            r#"{"a":1,"t":"x","s":{"b":true,"at":"2024-01-01T00:00:00Z"}}"#,
            r#"{"a":2,"t":"y","s":{"b":false,"at":null}}"#,
            r#"{"a":2,"s":null}"#,
        ],
        _ => vec!["1", r#""other""#, r#"{"deep":[[{}]]}"#],
    };
    select(choices).prop_map(str::to_owned).boxed()
}

/// How a writer puts blanks: before and after a comma, before and after a colon.
type Style = [&'static str; 4];

fn style() -> impl Strategy<Value = Style> {
    prop_oneof![
        3 => Just(["", "", "", ""]),
        1 => Just(["", " ", "", " "]),
        1 => Just([" ", "\n\t", " ", "\r "]),
    ]
}

/// The members that one writer writes, in its order.
fn names() -> impl Strategy<Value = Vec<String>> {
    let all: Vec<String> = columns()
        .iter()
        .map(|column| column.name.clone())
        .chain(["other".into(), "unknown".into()])
        .collect();
    prop_oneof![
        1 => Just(all.clone()),
        2 => Just(all).prop_shuffle(),
    ]
}

/// What happens to one record on its way.
#[derive(Debug, Clone)]
enum Accident {
    None,
    /// Members written in another order.
    Shuffle(u64),
    /// A member left out, twice, or under another name.
    Drop(usize),
    Twice(usize),
    Rename(usize, String),
    /// Another value.
    Value(usize, String),
    /// Bytes changed.
    Bytes(Vec<(prop::sample::Index, u8, u8)>),
}

fn accident() -> impl Strategy<Value = Accident> {
    let member = 0..18usize;
    prop_oneof![
        6 => Just(Accident::None),
        1 => any::<u64>().prop_map(Accident::Shuffle),
        1 => member.clone().prop_map(Accident::Drop),
        1 => member.clone().prop_map(Accident::Twice),
        1 => (member.clone(), select(vec!["ID", "iD2", "TEXT", "\\u0069d", "x", "id"]).prop_map(str::to_owned))
            .prop_map(|(member, name)| Accident::Rename(member, name)),
        4 => (member, value()).prop_map(|(member, value)| Accident::Value(member, value)),
        2 => prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0..4u8), 1..4)
            .prop_map(Accident::Bytes),
    ]
}

fn written(names: &[String], values: &[String], style: Style, accident: &Accident) -> Vec<u8> {
    let mut members: Vec<(String, String)> =
        names.iter().cloned().zip(values.iter().cloned()).collect();
    match accident {
        Accident::None | Accident::Bytes(_) => {}
        Accident::Shuffle(seed) => {
            let length = members.len();
            for index in 0..length {
                let other = (seed.rotate_left(index as u32 * 7) % length as u64) as usize;
                members.swap(index, other);
            }
        }
        Accident::Drop(at) => drop(members.remove(at % names.len())),
        Accident::Twice(at) => members.push(members[at % names.len()].clone()),
        Accident::Rename(at, name) => members[at % names.len()].0.clone_from(name),
        Accident::Value(at, value) => members[at % names.len()].1.clone_from(value),
    }
    let [before_comma, after_comma, before_colon, after_colon] = style;
    let members: Vec<String> = members
        .iter()
        .map(|(name, value)| format!("\"{name}\"{before_colon}:{after_colon}{value}"))
        .collect();
    let separator = format!("{before_comma},{after_comma}");
    let mut bytes = format!(
        "{{{after_comma}{}{before_comma}}}",
        members.join(&separator)
    )
    .into_bytes();
    if let Accident::Bytes(changes) = accident {
        for (index, byte, action) in changes {
            let at = index.index(bytes.len().max(1));
            match action {
                0 if at < bytes.len() => bytes[at] = *byte,
                1 => bytes.insert(at.min(bytes.len()), *byte),
                2 if at < bytes.len() => drop(bytes.remove(at)),
                _ => bytes.truncate(at),
            }
        }
    }
    bytes
}

/// A topic: each record with the writer it comes from and what befell it.
fn topic() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let writers = prop::collection::vec((names(), style()), 1..3);
    writers.prop_flat_map(|writers| {
        let count = writers.len();
        let records = prop::collection::vec((0..count, accident()), 1..16);
        records.prop_flat_map(move |records| {
            let records: Vec<_> = records
                .into_iter()
                .map(|(writer, accident)| {
                    let (names, style) = writers[writer].clone();
                    let values: Vec<_> = names.iter().map(|name| fitting(name)).collect();
                    values.prop_map(move |values| written(&names, &values, style, &accident))
                })
                .collect();
            records
        })
    })
}

fn decoder(columns: &[Column]) -> JsonDecoder {
    JsonDecoder::new(columns.iter(), JsonOptions::default()).expect("types JSON can fill")
}

/// Rows and faults as splitting alone gives them.
fn by_splitting(decoder: &mut JsonDecoder, payload: &[u8]) -> Result<(), Fault> {
    decoder.patience.rest = 1;
    decoder.decode(payload)
}

/// Cases of each property; `PROPTEST_CASES` asks for more.
fn cases(ordinary: u32) -> ProptestConfig {
    let asked = std::env::var("PROPTEST_CASES").ok();
    ProptestConfig::with_cases(
        asked
            .and_then(|cases| cases.parse().ok())
            .unwrap_or(ordinary),
    )
}

proptest! {
    #![proptest_config(cases(1_500))]

    #[test]
    fn rows_and_faults_are_those_of_splitting(records in topic()) {
        let columns = columns();
        let (mut read, mut split) = (decoder(&columns), decoder(&columns));
        for record in &records {
            // A layout that has given up would prove nothing.
            read.patience = Patience::default();
            let outcomes = (read.decode(record), by_splitting(&mut split, record));
            prop_assert_eq!(&outcomes.0, &outcomes.1, "{}", String::from_utf8_lossy(record));
        }
        for ((read, split), column) in read.finish().iter().zip(split.finish()).zip(&columns) {
            prop_assert_eq!(read.len(), records.len());
            prop_assert_eq!(read, &split, "column {}", column.name);
        }
    }

    #[test]
    fn what_is_not_read_is_checked_all_the_same(
        batches in prop::collection::vec(topic(), 1..3),
        wanted in prop::collection::vec(0..3_usize, 16),
        fields in prop::collection::vec(any::<bool>(), 3),
    ) {
        let columns = columns();
        let (mut some, mut all) = (decoder(&columns), decoder(&columns));
        let mut read = ColumnsRead::none();
        for (column, wanted) in columns.iter().zip(&wanted) {
            match (wanted, &column.ty) {
                (0, _) => {}
                (1, SqlType::Struct(members)) => {
                    let chosen = members.iter().zip(&fields).filter(|(_, chosen)| **chosen);
                    chosen.for_each(|((field, _), _)| read.add_field(&column.name, field));
                }
                _ => read.add(&column.name),
            }
        }
        some.read_only(&read);
        for records in &batches {
            for record in records {
                let outcomes = (some.decode(record), all.decode(record));
                prop_assert_eq!(&outcomes.0, &outcomes.1, "{}", String::from_utf8_lossy(record));
            }
            for ((some, all), column) in some.finish().iter().zip(all.finish()).zip(&columns) {
                prop_assert_eq!(some.len(), records.len());
                prop_assert_eq!(some.data_type(), all.data_type());
                match read.of(&column.name) {
                    Wanted::Nothing if !column.not_null => prop_assert_eq!(some.null_count(), some.len()),
                    Wanted::Fields(fields) => {
                        let (some, all) = (some.as_struct(), all.as_struct());
                        prop_assert_eq!(some.nulls(), all.nulls());
                        for field in all.column_names() {
                            let found = some.column_by_name(field).expect("the same fields");
                            match fields.contains(field) {
                                true => prop_assert_eq!(Some(found), all.column_by_name(field)),
                                false => prop_assert_eq!(found.null_count(), found.len()),
                            }
                        }
                    }
                    _ => prop_assert_eq!(some, &all, "column {}", column.name),
                }
            }
        }
    }

    #[test]
    fn any_text_is_read_as_splitting_does(
        texts in prop::collection::vec("\\{?(\"[a-zA-Z\\\\]{0,3}\"|[:,{}\\[\\] ]|-?[0-9.eE]{1,20}|null|true|fals|\"id\":1){0,12}\\}?", 1..6),
    ) {
        let columns = vec![column("id", SqlType::Int8), column("s", SqlType::Struct(vec![("id".into(), SqlType::Text)]))];
        let (mut read, mut split) = (decoder(&columns), decoder(&columns));
        for text in &texts {
            read.patience = Patience::default();
            prop_assert_eq!(read.decode(text.as_bytes()), by_splitting(&mut split, text.as_bytes()), "{}", text);
        }
        prop_assert_eq!(read.finish(), split.finish());
    }
}

/// Whether the layout alone reads a record of `columns`, after it has read `before`.
fn is_read(before: &[&str], text: &str) -> bool {
    let mut decoder = decoder(&columns());
    let mut read = |record: &str| {
        decoder.layout.read(&mut Reading {
            record,
            slots: &mut decoder.slots,
            days: &mut decoder.days,
        })
    };
    for record in before {
        read(record);
    }
    read(text)
}

#[test]
fn ordinary_records_are_read_and_odd_ones_left() {
    for (text, expected) in [
        (r#"{"id":1,"small":2}"#, true),
        (r#"{"small":2,"id":1}"#, true),
        (" {\n\"id\" : 1 ,\t\"text\":\"é\" } \r\n", true),
        (r#"{"id":1,"text":"a \"quoted\" word"}"#, true),
        (
            r#"{"id":1,"unknown":{"deep":[1,2,{"x":"}"}]},"small":2}"#,
            true,
        ),
        (r#"{"ID":1,"small":2}"#, true),
        (r#"{"id":12345678901234567890}"#, true),
        (
            r#"{"s":{"a":1,"t":"x","s":{"b":true,"at":null}},"list":[1]}"#,
            true,
        ),
        (r#"{"s":{"a":1,"a":2}}"#, true),
        ("{}", true),
        (r#"{"id":1,"id":2}"#, false),
        (r#"{"id":1,"ID":2}"#, false),
        (r#"{"\u0069d":1}"#, false),
        (r#"{"id":1,}"#, false),
        (r#"{"id":1}x"#, false),
        (r#"{"id" 1}"#, false),
        (r#"{,"id":1}"#, false),
        (r#"{"id":01}"#, false),
        (r#"{"id":1"#, false),
        ("[]", false),
        ("", false),
    ] {
        assert_eq!(is_read(&[], text), expected, "{text}");
        assert_eq!(is_read(&[text, text], text), expected, "{text} again");
        let another = r#"{"id":5,"small":6,"text":"seven","unknown":8}"#;
        assert_eq!(is_read(&[another], text), expected, "{text} after another");
    }
}

#[test]
fn what_is_remembered_is_bounded() {
    let mut decoder = decoder(&columns());
    for round in 0..10_000 {
        let blanks = " ".repeat(round % 300);
        let record = format!(r#"{{"id":{blanks}1,{blanks}"k{round}":2,"small":3}}"#);
        decoder.decode(record.as_bytes()).expect("a good record");
    }
    let layout = &decoder.layout;
    assert!(layout.others.len() <= OTHERS_MAX);
    assert!(layout.places.len() <= layout.fields.len() + 1 + OTHERS_MAX);
    assert!(
        layout
            .places
            .iter()
            .all(|place| place.steps.len() <= STEPS_MAX)
    );
    let sizes = layout
        .places
        .iter()
        .flat_map(|place| &place.steps)
        .map(|step| step.text.len());
    assert!(sizes.max().is_some_and(|size| size <= STEP_BYTES_MAX));
    // It still reads what it has not remembered.
    assert!(is_read(&[], r#"{"id":1,"k10000":2,"small":3}"#));
}

#[test]
fn a_layout_that_reads_nothing_is_left_alone_and_tried_again() {
    let mut patience = Patience::default();
    let mut tried = 0;
    for _ in 0..10_000 {
        if patience.tries() {
            tried += 1;
            patience.learn(false);
        }
    }
    assert!((16..100).contains(&tried), "{tried}");
    while !patience.tries() {}
    patience.learn(true);
    assert!((0..15).all(|_| {
        let tries = patience.tries();
        patience.learn(false);
        tries
    }));
}

#[test]
fn objects_are_told_apart_after_their_number_wraps() {
    let mut decoder = decoder(&columns());
    decoder.layout.object = u32::MAX - 1;
    for _ in 0..4 {
        decoder
            .decode(br#"{"id":1,"small":2}"#)
            .expect("a good record");
        decoder
            .decode(br#"{"id":1}"#)
            .expect_err("small is missing");
    }
    let columns = decoder.finish();
    assert_eq!(columns[1].null_count(), 4);
}
