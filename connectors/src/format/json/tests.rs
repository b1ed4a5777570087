//! One record, one row or one fault: by table, and against a plain decoder over random and mutated records.

use arrow::array::{Array, AsArray};
use arrow::datatypes::{
    Date32Type, Decimal128Type, Float64Type, Int16Type, Int32Type, Int64Type,
    IntervalMonthDayNanoType, Time64MicrosecondType, TimestampMicrosecondType,
};
use proptest::prelude::*;
use serde_json::{Value, json};
use thalweg_catalog::SqlType;

use super::*;
use crate::testing::column;

fn decoder(columns: &[(&str, SqlType)], options: JsonOptions) -> JsonDecoder {
    let columns: Vec<Column> = columns
        .iter()
        .map(|(name, ty)| column(name, ty.clone()))
        .collect();
    JsonDecoder::new(columns.iter(), options).expect("types JSON can fill")
}

/// The value of one column `x` as text, or the fault's message.
fn one(ty: SqlType, payload: &str) -> Result<Option<String>, String> {
    one_with(ty, payload, JsonOptions::default())
}

fn one_with(ty: SqlType, payload: &str, options: JsonOptions) -> Result<Option<String>, String> {
    let mut decoder = decoder(&[("x", ty)], options);
    let outcome = decoder.decode(payload.as_bytes());
    let columns = decoder.finish();
    assert_eq!(columns[0].len(), 1, "one value per record: {payload}");
    outcome.map_err(|fault| fault.message)?;
    let array = columns[0].as_ref();
    if array.is_null(0) {
        return Ok(None);
    }
    let options = arrow::util::display::FormatOptions::default();
    let formatter =
        arrow::util::display::ArrayFormatter::try_new(array, &options).expect("a printable type");
    Ok(Some(formatter.value(0).to_string()))
}

fn numeric(precision: u8, scale: i8) -> SqlType {
    SqlType::Numeric {
        declared: Some((precision, scale)),
        held_scale: scale,
    }
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table of cases")]
fn scalars_by_table() {
    let bare = SqlType::Numeric {
        declared: None,
        held_scale: 10,
    };
    for (ty, payload, expected) in [
        (SqlType::Bool, r#"{"x":true}"#, "true"),
        (
            SqlType::Int8,
            r#"{"x":9007199254740993}"#,
            "9007199254740993",
        ),
        (SqlType::Int8, r#"{"x":1e3}"#, "1000"),
        (SqlType::Int4, r#"{"x":-2147483648}"#, "-2147483648"),
        (SqlType::Int2, " {\n\"x\" : 7 } ", "7"),
        (SqlType::Oid, r#"{"x":4294967295}"#, "4294967295"),
        (SqlType::Float8, r#"{"x":0.1}"#, "0.1"),
        (SqlType::Float8, r#"{"x":1e-999999}"#, "0.0"),
        (SqlType::Float8, r#"{"x":"NaN"}"#, "NaN"),
        (SqlType::Float4, r#"{"x":3}"#, "3.0"),
        (numeric(10, 2), r#"{"x":"12.345"}"#, "12.35"),
        (
            bare,
            r#"{"x":1234567890123456789012345678.0123456789}"#,
            "1234567890123456789012345678.0123456789",
        ),
        (SqlType::Text, r#"{"x":"a\"\u00e9\n"}"#, "a\"é\n"),
        (SqlType::Text, r#"{"x":1.10}"#, "1.10"),
        (SqlType::Text, r#"{"x":false}"#, "false"),
        (SqlType::Varchar(Some(3)), r#"{"x":"abc  "}"#, "abc"),
        (SqlType::Bytea, r#"{"x":"3q2+7w=="}"#, "deadbeef"),
        (SqlType::Bytea, r#"{"x":"3q2+7w"}"#, "deadbeef"),
        (SqlType::Date, r#"{"x":"2024-02-29"}"#, "2024-02-29"),
        (
            SqlType::Time,
            r#"{"x":"01:02:03.000004"}"#,
            "01:02:03.000004",
        ),
        (
            SqlType::Timestamp,
            r#"{"x":"2024-01-01 00:00:00.5"}"#,
            "2024-01-01T00:00:00.500",
        ),
        (
            SqlType::Timestamptz,
            r#"{"x":"2024-01-01T02:00:00+02:00"}"#,
            "2024-01-01T00:00:00Z",
        ),
        (
            SqlType::Timestamptz,
            r#"{"x":1704067200123}"#,
            "2024-01-01T00:00:00.123Z",
        ),
        (
            SqlType::Interval,
            r#"{"x":"1 mon 2 days 00:00:03"}"#,
            "1 mons 2 days 3.000000000 secs",
        ),
        (
            SqlType::Uuid,
            r#"{"x":"6BA7B810-9dad-11d1-80b4-00c04fd430c8"}"#,
            "6ba7b8109dad11d180b400c04fd430c8",
        ),
        (
            SqlType::Json,
            r#"{"x":{"b": 1,"a":[ ]}}"#,
            r#"{"b": 1,"a":[ ]}"#,
        ),
        (
            SqlType::Jsonb,
            r#"{"x":{"b": 1,"a":[ ]}}"#,
            r#"{"a":[],"b":1}"#,
        ),
        (SqlType::Jsonb, r#"{"x":"s"}"#, r#""s""#),
        // The last duplicate wins, an exact name over an inexact one, and unknown members do not matter.
        (SqlType::Int4, r#"{"x":1,"x":"no","x":2}"#, "2"),
        (SqlType::Int4, r#"{"x":1,"X":2,"y":[[["deep"]]]}"#, "1"),
        (SqlType::Int4, r#"{"X":2}"#, "2"),
        (SqlType::Int4, r#"{"\u0078":3}"#, "3"),
        (
            SqlType::Array(Box::new(SqlType::Int4)),
            r#"{"x":[1,null,3]}"#,
            "[1, , 3]",
        ),
        (
            SqlType::Array(Box::new(SqlType::Array(Box::new(SqlType::Text)))),
            r#"{"x":[["a"],[],null]}"#,
            "[[a], [], ]",
        ),
    ] {
        assert_eq!(
            one(ty.clone(), payload),
            Ok(Some(expected.to_owned())),
            "{ty} from {payload}"
        );
    }
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table of cases")]
fn faults_by_table() {
    let int = SqlType::Int8;
    for (ty, payload, expected) in [
        (
            int.clone(),
            r#"{"x":"abc"}"#,
            r#"column "x": expected bigint, got "abc""#,
        ),
        (
            int.clone(),
            r#"{"x":1.5}"#,
            r#"column "x": expected bigint, got 1.5"#,
        ),
        (
            int.clone(),
            r#"{"x":9223372036854775808}"#,
            r#"column "x": 9223372036854775808 is out of range for type bigint"#,
        ),
        (
            int.clone(),
            r#"{"x":1e999999}"#,
            r#"column "x": 1e999999 is out of range for type bigint"#,
        ),
        (
            int.clone(),
            r#"{"x":{}}"#,
            r#"column "x": expected bigint, got {}"#,
        ),
        (int.clone(), "[1]", "expected a JSON object, got [1]"),
        (int.clone(), "null", "expected a JSON object, got null"),
        (int.clone(), "", "expected a JSON object, got "),
        (
            SqlType::Int2,
            r#"{"x":32768}"#,
            r#"column "x": 32768 is out of range for type smallint"#,
        ),
        (
            SqlType::Bool,
            r#"{"x":1}"#,
            r#"column "x": expected boolean, got 1"#,
        ),
        (
            SqlType::Float8,
            r#"{"x":1e999}"#,
            r#"column "x": 1e999 is out of range for type double precision"#,
        ),
        (
            numeric(4, 2),
            r#"{"x":99.995}"#,
            r#"column "x": 99.995 is out of range for type numeric(4,2)"#,
        ),
        (
            SqlType::Text,
            r#"{"x":[]}"#,
            r#"column "x": expected text, got []"#,
        ),
        (
            SqlType::Text,
            r#"{"x":"a\u0000"}"#,
            r#"column "x": \u0000 cannot be held in text"#,
        ),
        (
            SqlType::Varchar(Some(2)),
            r#"{"x":"abc"}"#,
            r#"column "x": value is longer than 2 characters"#,
        ),
        (
            SqlType::Bytea,
            r#"{"x":"?"}"#,
            r#"column "x": expected base64 text"#,
        ),
        (
            SqlType::Date,
            r#"{"x":"2023-02-29"}"#,
            r#"column "x": "2023-02-29" is out of range for type date"#,
        ),
        (
            SqlType::Array(Box::new(SqlType::Int4)),
            r#"{"x":[1,"b",3]}"#,
            r#"column "x[]": expected integer, got "b""#,
        ),
        (
            SqlType::Struct(vec![
                ("a".into(), SqlType::Int4),
                ("b".into(), SqlType::Bool),
            ]),
            r#"{"x":{"a":true,"b":true}}"#,
            r#"column "x.a": expected integer, got true"#,
        ),
    ] {
        assert_eq!(
            one(ty.clone(), payload),
            Err(expected.to_owned()),
            "{ty} from {payload}"
        );
    }
    let long = format!(r#"{{"x":"{}"}}"#, "y".repeat(100_000));
    assert!(one(int, &long).expect_err("text is no number").len() < 200);
}

#[test]
fn what_is_not_json_is_one_fault() {
    let deep = format!(r#"{{"x":{}{}}}"#, "[".repeat(1000), "]".repeat(1000));
    for payload in [
        "{",
        "{}x",
        "{} {}",
        r#"{"x":}"#,
        r#"{"x":NaN}"#,
        r#"{"x":Infinity}"#,
        r#"{"x":01}"#,
        r#"{"x":1,}"#,
        "{'x':1}",
        "{\"x\":\"a\nb\"}",
        r#"{"x":"\ud800"}"#,
        r#"{"x":"\q"}"#,
        r#"{"x":+1}"#,
        r#"{"x":.5}"#,
        &deep,
    ] {
        assert!(
            one(SqlType::Jsonb, payload).is_err(),
            "{}",
            &payload[..payload.len().min(30)]
        );
    }
    let mut decoder = decoder(&[("x", SqlType::Text)], JsonOptions::default());
    let fault = decoder.decode(b"{\"x\":\"\xff\"}").expect_err("not UTF-8");
    assert_eq!(fault.message, "invalid UTF-8 at byte 6");
    decoder
        .decode(br#"{"x":"good"}"#)
        .expect("the neighbour is fine");
    let column = &decoder.finish()[0];
    assert_eq!(
        (column.len(), column.as_string_view().value(1)),
        (2, "good")
    );
}

#[test]
fn missing_null_and_not_null() {
    assert_eq!(one(SqlType::Int8, "{}"), Ok(None));
    assert_eq!(one(SqlType::Jsonb, r#"{"x":null}"#), Ok(None));
    let mut required = column("x", SqlType::Int8);
    required.not_null = true;
    let mut decoder = JsonDecoder::new([required].iter(), JsonOptions::default()).expect("bigint");
    for payload in ["{}", r#"{"x":null}"#] {
        let fault = decoder.decode(payload.as_bytes()).expect_err("NOT NULL");
        assert_eq!(fault.reason, FaultReason::Constraint);
        assert_eq!(
            fault.message,
            r#"null value in column "x" violates not-null constraint"#
        );
    }
    assert_eq!(
        decoder
            .decode(br#"{"x":"a"}"#)
            .expect_err("no bigint")
            .reason,
        FaultReason::Decode
    );
}

#[test]
fn options_change_names_and_timestamps() {
    let exact = JsonOptions {
        case_insensitive: false,
        ..JsonOptions::default()
    };
    assert_eq!(one_with(SqlType::Int8, r#"{"X":1}"#, exact), Ok(None));
    let milli = JsonOptions {
        timestamps: TimestampHandling::Milli,
        ..JsonOptions::default()
    };
    assert_eq!(
        one_with(SqlType::Timestamptz, r#"{"x":1000}"#, milli),
        Ok(Some("1970-01-01T00:00:01Z".into()))
    );
    let map = std::collections::BTreeMap::from([
        (
            "timestamptz.handling.mode".to_owned(),
            "utc_string".to_owned(),
        ),
        ("case_insensitive".to_owned(), "false".to_owned()),
    ]);
    let read = JsonOptions::read(Options(&map)).expect("valid");
    assert_eq!(
        read,
        JsonOptions {
            timestamps: TimestampHandling::UtcString,
            case_insensitive: false
        }
    );
}

#[test]
fn structs_nest_and_keep_their_neighbours() {
    let ty = SqlType::Struct(vec![
        ("a".into(), SqlType::Int4),
        (
            "s".into(),
            SqlType::Struct(vec![("t".into(), SqlType::Text)]),
        ),
    ]);
    let mut decoder = decoder(&[("x", ty), ("y", SqlType::Int8)], JsonOptions::default());
    let outcomes: Vec<bool> = [
        r#"{"x":{"a":1,"s":{"t":"one"}},"y":1}"#,
        r#"{"x":{"a":"bad","s":{"t":[]}},"y":2}"#,
        r#"{"x":7,"y":"bad"}"#,
        r#"{"x":{"S":{"T":"four"}},"y":4}"#,
        r#"{"y":5}"#,
    ]
    .iter()
    .map(|payload| decoder.decode(payload.as_bytes()).is_ok())
    .collect();
    assert_eq!(outcomes, [true, false, false, true, true]);
    let columns = decoder.finish();
    let (x, y) = (
        columns[0].as_struct(),
        columns[1].as_primitive::<Int64Type>(),
    );
    assert_eq!((x.len(), y.len()), (5, 5));
    let text = x.column(1).as_struct().column(0).as_string_view();
    assert_eq!((text.value(0), text.value(3)), ("one", "four"));
    assert!(x.is_null(4) && x.column(0).is_null(3) && y.value(4) == 5);
    assert!(
        decoder.finish().iter().all(|column| column.is_empty()),
        "it starts over"
    );
}

const COLUMNS: [(&str, SqlType); 6] = [
    ("i", SqlType::Int8),
    ("f", SqlType::Float8),
    ("t", SqlType::Text),
    ("b", SqlType::Bool),
    (
        "n",
        SqlType::Numeric {
            declared: Some((20, 3)),
            held_scale: 3,
        },
    ),
    ("j", SqlType::Jsonb),
];

/// The plain second decoder: a value tree, one column at a time. `None` for a record that cannot become a row.
fn plain(record: &Value) -> Option<Vec<Option<String>>> {
    let object = record.as_object()?;
    COLUMNS
        .iter()
        .map(|(name, ty)| {
            let value = match object.get(*name) {
                None | Some(Value::Null) => return Some(None),
                Some(value) => value,
            };
            match (ty, value) {
                (SqlType::Int8, Value::Number(n)) => n.as_i64().map(|n| n.to_string()),
                (SqlType::Float8, Value::Number(n)) => n
                    .to_string()
                    .parse::<f64>()
                    .ok()
                    .filter(|f| f.is_finite())
                    .map(|f| f.to_string()),
                (SqlType::Text, Value::String(text)) => Some(text.clone()),
                (SqlType::Text, Value::Number(n)) => Some(n.to_string()),
                (SqlType::Text | SqlType::Bool, Value::Bool(b)) => Some(b.to_string()),
                (SqlType::Numeric { .. }, Value::Number(n)) => {
                    n.as_i64().map(|n| (i128::from(n) * 1000).to_string())
                }
                (SqlType::Jsonb, value) => Some(value.to_string()),
                _ => None,
            }
            .map(Some)
        })
        .collect()
}

fn rows(decoder: &mut JsonDecoder) -> Vec<Vec<Option<String>>> {
    let columns = decoder.finish();
    let cell = |column: &ArrayRef, row: usize, ty: &SqlType| match ty {
        _ if column.is_null(row) => None,
        SqlType::Int8 => Some(column.as_primitive::<Int64Type>().value(row).to_string()),
        SqlType::Float8 => Some(column.as_primitive::<Float64Type>().value(row).to_string()),
        SqlType::Bool => Some(column.as_boolean().value(row).to_string()),
        SqlType::Numeric { .. } => Some(
            column
                .as_primitive::<Decimal128Type>()
                .value(row)
                .to_string(),
        ),
        _ => Some(column.as_string_view().value(row).to_owned()),
    };
    let count = columns.first().map_or(0, |column| column.len());
    (0..count)
        .map(|row| {
            COLUMNS
                .iter()
                .zip(&columns)
                .map(|((_, ty), column)| cell(column, row, ty))
                .collect()
        })
        .collect()
}

/// Records whose members mostly fit; whole numbers only, where the plain decoder is exact.
fn record() -> impl Strategy<Value = Value> {
    let whole = any::<i64>().prop_map(|n| json!(n));
    let odd = prop_oneof![Just(Value::Null), Just(json!([])), Just(json!("odd"))];
    let mostly = |value: BoxedStrategy<Value>| prop_oneof![9 => value, 1 => odd.clone()];
    (
        mostly(whole.clone().boxed()),
        mostly(super::arbitrary::number().prop_map(Value::Number).boxed()),
        mostly(super::arbitrary::text().prop_map(Value::String).boxed()),
        mostly(any::<bool>().prop_map(Value::Bool).boxed()),
        mostly(whole.boxed()),
        super::arbitrary::value(),
        super::arbitrary::value(),
    )
        .prop_map(|(i, f, t, b, n, j, other)| {
            // 1000 times a bigint always fits numeric(20,3)'s digits only up to 17 of them.
            let n = n.as_i64().map_or(n, |n| json!(n % 100_000_000_000_000_000));
            json!({"i": i, "f": f, "t": t, "b": b, "n": n, "j": j, "other": other})
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn rows_equal_those_of_a_plain_decoder(records in prop::collection::vec(record(), 1..8)) {
        let mut decoder = decoder(&COLUMNS, JsonOptions::default());
        let mut expected = Vec::new();
        let mut good = Vec::new();
        for record in &records {
            let outcome = decoder.decode(record.to_string().as_bytes());
            let plain = plain(record);
            prop_assert_eq!(outcome.is_ok(), plain.is_some(), "{} {:?}", record, outcome);
            good.push(plain.is_some());
            expected.extend(plain);
        }
        let found: Vec<_> =
            rows(&mut decoder).into_iter().zip(good).filter_map(|(row, good)| good.then_some(row)).collect();
        prop_assert_eq!(found, expected);
    }

    #[test]
    fn mutated_records_never_panic_and_never_touch_their_neighbours(
        record in record(),
        cuts in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0..4u8), 0..6),
    ) {
        let good = br#"{"i":1,"f":2.5,"t":"good","b":true,"n":3,"j":{"k":[]}}"#;
        let mut bytes = record.to_string().into_bytes();
        for (index, byte, action) in cuts {
            if bytes.is_empty() {
                break;
            }
            let at = index.index(bytes.len());
            match action {
                0 => bytes[at] = byte,
                1 => bytes.insert(at, byte),
                2 => { bytes.remove(at); }
                _ => bytes.truncate(at),
            }
        }
        let every = [
            COLUMNS.to_vec(),
            vec![
                ("i2", SqlType::Int2), ("d", SqlType::Date), ("ti", SqlType::Time), ("ts", SqlType::Timestamp),
                ("tz", SqlType::Timestamptz), ("iv", SqlType::Interval), ("u", SqlType::Uuid), ("by", SqlType::Bytea),
                ("a", SqlType::Array(Box::new(SqlType::Int4))),
                ("s", SqlType::Struct(vec![("i".into(), SqlType::Int4)])),
            ],
        ]
        .concat();
        let mut decoder = decoder(&every, JsonOptions::default());
        prop_assert!(decoder.decode(good).is_ok());
        let _ = decoder.decode(&bytes);
        prop_assert!(decoder.decode(good).is_ok());
        let found = rows(&mut decoder);
        prop_assert_eq!(found.len(), 3);
        prop_assert_eq!(&found[0], &found[2]);
    }

    #[test]
    fn scalar_texts_never_panic(text in "\\PC{0,40}", digits in "[-+0-9eE.: ]{0,40}", words in "(-?[0-9]{0,20}\\.?[0-9]{0,20} ?(year|mon|day|week|century|:|s|ms|us|ns)? ?){0,4}") {
        for payload in [json!({"x": text}), json!({"x": digits}), json!({"x": words})] {
            for ty in [
                SqlType::Date, SqlType::Time, SqlType::Timestamp, SqlType::Timestamptz, SqlType::Interval,
                SqlType::Uuid, SqlType::Bytea, numeric(38, 10), SqlType::Float4,
            ] {
                let _ = one(ty, &payload.to_string());
            }
        }
        for ty in [SqlType::Int2, SqlType::Timestamptz, SqlType::Timestamp, numeric(5, 0), SqlType::Float8] {
            let _ = one(ty, &format!("{{\"x\":{digits}}}"));
        }
    }
}

/// Types whose arrays the tables above only see as text.
#[test]
fn arrow_types_are_the_catalogs() {
    let columns = [
        ("d", SqlType::Date),
        ("ti", SqlType::Time),
        ("tz", SqlType::Timestamptz),
        ("iv", SqlType::Interval),
        ("i2", SqlType::Int2),
        ("i4", SqlType::Int4),
        (
            "s",
            SqlType::Struct(vec![("l".into(), SqlType::Array(Box::new(SqlType::Uuid)))]),
        ),
    ];
    let mut decoder = decoder(&columns, JsonOptions::default());
    decoder
        .decode(br#"{"d":"1970-01-02","ti":"00:00:01","tz":1,"iv":"2 days","i2":3,"i4":4,"s":{"l":[null]}}"#)
        .expect("a good record");
    let arrays = decoder.finish();
    for (array, (name, ty)) in arrays.iter().zip(&columns) {
        assert_eq!(array.data_type(), &ty.arrow(), "{name}");
    }
    assert_eq!(arrays[0].as_primitive::<Date32Type>().value(0), 1);
    assert_eq!(
        arrays[1].as_primitive::<Time64MicrosecondType>().value(0),
        1_000_000
    );
    assert_eq!(
        arrays[2]
            .as_primitive::<TimestampMicrosecondType>()
            .value(0),
        1_000_000
    );
    assert_eq!(
        arrays[3]
            .as_primitive::<IntervalMonthDayNanoType>()
            .value(0)
            .days,
        2
    );
    assert_eq!(arrays[4].as_primitive::<Int16Type>().value(0), 3);
    assert_eq!(arrays[5].as_primitive::<Int32Type>().value(0), 4);
}
