//! Each pair of types by a table: what fits, what does not, and what can never be read.

use arrow::array::{
    BinaryArray, BooleanArray, Date32Array, Decimal128Array, Decimal256Array, DictionaryArray,
    DurationMillisecondArray, FixedSizeBinaryArray, Float32Array, Float64Array, Int8Array,
    Int32Array, Int64Array, LargeStringArray, StringArray, StringViewArray, Time32MillisecondArray,
    Time64NanosecondArray, TimestampMicrosecondArray, TimestampMillisecondArray,
    TimestampNanosecondArray, TimestampSecondArray, UInt64Array,
};
use arrow::array::{Int32Builder, MapBuilder, StringBuilder};
use arrow::datatypes::{Int8Type, Int32Type, i256};

use super::*;

/// The values as JSON, with the faults of their rows.
fn outcome(array: ArrayRef, to: &SqlType) -> Result<Vec<Result<String, String>>, String> {
    let field = Field::new("c", array.data_type().clone(), true);
    if !convertible(&natural(&field), to) {
        return Err("never".into());
    }
    let mut faults = std::collections::BTreeMap::new();
    let mut note = |row: usize, fault: Fault| {
        faults.entry(row).or_insert(fault.message);
    };
    let values = convert("c", &array, &field, to, &mut note)?;
    assert_eq!(values.len(), array.len());
    assert_eq!(values.data_type(), &to.arrow(), "{to}");
    let value = |row: usize| match faults.get(&row) {
        Some(fault) => Err(fault.clone()),
        None => {
            let text = json_text(to, values.as_ref(), row).expect("a value");
            Ok(text.unwrap_or_else(|| "null".into()))
        }
    };
    Ok((0..values.len()).map(value).collect())
}

fn numeric(precision: u8, scale: i8) -> SqlType {
    SqlType::Numeric {
        declared: Some((precision, scale)),
        held_scale: scale,
    }
}

fn check(array: ArrayRef, to: SqlType, expected: &[Result<&str, &str>]) {
    let from = array.data_type().clone();
    let got = outcome(array, &to).unwrap_or_else(|error| panic!("{from} as {to}: {error}"));
    assert_eq!(got.len(), expected.len(), "{from} as {to}");
    for (got, expected) in got.iter().zip(expected) {
        match (got, expected) {
            (Ok(got), Ok(expected)) => assert_eq!(got, expected, "{from} as {to}"),
            (Err(got), Err(expected)) => {
                assert!(
                    got.contains(expected),
                    "{from} as {to}: {got}, not {expected}"
                );
            }
            other => panic!("{from} as {to}: {other:?}"),
        }
    }
}

#[test]
fn numbers_are_cast_as_in_sql() {
    let wide = || Arc::new(Int64Array::from(vec![Some(7), None, Some(1 << 40)])) as ArrayRef;
    check(
        wide(),
        SqlType::Int8,
        &[Ok("7"), Ok("null"), Ok("1099511627776")],
    );
    let range = Err("column \"c\": 1099511627776 is out of range for type integer");
    check(wide(), SqlType::Int4, &[Ok("7"), Ok("null"), range]);
    check(
        wide(),
        numeric(10, 2),
        &[Ok("\"7.00\""), Ok("null"), Err("out of range")],
    );
    check(
        wide(),
        SqlType::Text,
        &[Ok("\"7\""), Ok("null"), Ok("\"1099511627776\"")],
    );
    check(wide(), SqlType::Bool, &[Ok("true"), Ok("null"), Ok("true")]);
    check(
        Arc::new(Int8Array::from(vec![-1])),
        SqlType::Int2,
        &[Ok("-1")],
    );
    let unsigned = || Arc::new(UInt64Array::from(vec![5, u64::MAX])) as ArrayRef;
    check(
        unsigned(),
        SqlType::Int8,
        &[Ok("5"), Err("18446744073709551615")],
    );
    check(
        unsigned(),
        numeric(20, 0),
        &[Ok("\"5\""), Ok("\"18446744073709551615\"")],
    );
    let floats = || {
        Arc::new(Float64Array::from(vec![
            2.5,
            -3.5,
            1e300,
            f64::NAN,
            0.1 + 0.2,
        ])) as ArrayRef
    };
    check(
        floats(),
        SqlType::Int4,
        &[
            Ok("2"),
            Ok("-4"),
            Err("out of range"),
            Err("NaN is out of range"),
            Ok("0"),
        ],
    );
    check(
        floats(),
        numeric(20, 17),
        &[
            Ok("\"2.50000000000000000\""),
            Ok("\"-3.50000000000000000\""),
            Err("out of range"),
            Err("NaN"),
            Ok("\"0.30000000000000000\""),
        ],
    );
    check(
        floats(),
        SqlType::Float4,
        &[
            Ok("2.5"),
            Ok("-3.5"),
            Err("out of range"),
            Ok("\"NaN\""),
            Ok("0.3"),
        ],
    );
    check(
        Arc::new(Float32Array::from(vec![0.1])),
        numeric(10, 8),
        &[Ok("\"0.10000000\"")],
    );
}

#[test]
fn decimals_keep_their_digits() {
    let decimals = || {
        let values = Decimal128Array::from(vec![Some(12_345), Some(-150), None]);
        Arc::new(values.with_precision_and_scale(10, 2).expect("a type")) as ArrayRef
    };
    check(
        decimals(),
        numeric(10, 2),
        &[Ok("\"123.45\""), Ok("\"-1.50\""), Ok("null")],
    );
    check(
        decimals(),
        numeric(10, 1),
        &[Ok("\"123.5\""), Ok("\"-1.5\""), Ok("null")],
    );
    check(
        decimals(),
        numeric(3, 2),
        &[Err("123.45 is out of range"), Ok("\"-1.50\""), Ok("null")],
    );
    check(
        decimals(),
        SqlType::Int4,
        &[Ok("123"), Ok("-2"), Ok("null")],
    );
    check(
        decimals(),
        SqlType::Float8,
        &[Ok("123.45"), Ok("-1.5"), Ok("null")],
    );
    check(
        decimals(),
        SqlType::Text,
        &[Ok("\"123.45\""), Ok("\"-1.50\""), Ok("null")],
    );
    let huge = i256::from_string("1000000000000000000000000000000000000000000").expect("digits");
    let wide = Decimal256Array::from(vec![i256::from_i128(150), huge]);
    let wide = wide.with_precision_and_scale(50, 1).expect("a type");
    check(
        Arc::new(wide),
        numeric(10, 0),
        &[Ok("\"15\""), Err("out of range")],
    );
}

#[test]
fn moments_keep_microseconds() {
    let text = "\"2024-02-29T01:02:03.123456\"";
    let us = 1_709_168_523_123_456_i64;
    let nanos = || {
        let values = vec![Some(us * 1_000 + 789), Some(-1), None];
        Arc::new(TimestampNanosecondArray::from(values)) as ArrayRef
    };
    let before = "\"1969-12-31T23:59:59.999999\"";
    check(
        nanos(),
        SqlType::Timestamp,
        &[Ok(text), Ok(before), Ok("null")],
    );
    check(
        nanos(),
        SqlType::Date,
        &[Ok("\"2024-02-29\""), Ok("\"1969-12-31\""), Ok("null")],
    );
    let zoned = TimestampMicrosecondArray::from(vec![us]).with_timezone("Europe/Berlin");
    let zoned = Arc::new(zoned) as ArrayRef;
    check(
        Arc::clone(&zoned),
        SqlType::Timestamptz,
        &[Ok("\"2024-02-29T01:02:03.123456Z\"")],
    );
    check(Arc::clone(&zoned), SqlType::Timestamp, &[Ok(text)]);
    check(
        zoned,
        SqlType::Text,
        &[Ok("\"2024-02-29 01:02:03.123456+00\"")],
    );
    check(
        Arc::new(TimestampMillisecondArray::from(vec![us / 1_000])),
        SqlType::Timestamptz,
        &[Ok("\"2024-02-29T01:02:03.123Z\"")],
    );
    check(
        Arc::new(TimestampSecondArray::from(vec![us / 1_000_000, i64::MAX])),
        SqlType::Timestamp,
        &[
            Ok("\"2024-02-29T01:02:03\""),
            Err("out of range for type timestamp"),
        ],
    );
    let days = || Arc::new(Date32Array::from(vec![19_782, i32::MAX])) as ArrayRef;
    check(
        days(),
        SqlType::Date,
        &[Ok("\"2024-02-29\""), Err("out of range")],
    );
    check(
        days(),
        SqlType::Timestamp,
        &[Ok("\"2024-02-29T00:00:00\""), Err("out of range")],
    );
    let noon = 43_200_000;
    check(
        Arc::new(Time32MillisecondArray::from(vec![noon])),
        SqlType::Time,
        &[Ok("\"12:00:00\"")],
    );
    let noon = i64::from(noon) * 1_000_000 + 999;
    check(
        Arc::new(Time64NanosecondArray::from(vec![noon])),
        SqlType::Time,
        &[Ok("\"12:00:00\"")],
    );
    check(
        Arc::new(DurationMillisecondArray::from(vec![1_500])),
        SqlType::Interval,
        &[Ok("\"P0M0DT1.5S\"")],
    );
}

#[test]
fn text_is_read_as_a_cast_reads_it() {
    let text = |values: Vec<&str>| Arc::new(StringArray::from(values)) as ArrayRef;
    check(
        text(vec!["1", "x"]),
        SqlType::Int4,
        &[Ok("1"), Err("expected integer, got \"x\"")],
    );
    check(
        text(vec![" 1.5 ", ""]),
        numeric(5, 2),
        &[Ok("\"1.50\""), Err("expected")],
    );
    check(
        text(vec!["t", "off", "?"]),
        SqlType::Bool,
        &[Ok("true"), Ok("false"), Err("expected")],
    );
    check(
        text(vec!["2024-02-29"]),
        SqlType::Date,
        &[Ok("\"2024-02-29\"")],
    );
    check(
        text(vec!["{\"b\":1,\"a\":2}", "null and void"]),
        SqlType::Jsonb,
        &[Ok("{\"a\":2,\"b\":1}"), Err("invalid JSON")],
    );
    check(
        text(vec!["abc  ", "abcd"]),
        SqlType::Varchar(Some(3)),
        &[Ok("\"abc\""), Err("longer than 3")],
    );
    check(
        text(vec!["a\0b", "a"]),
        SqlType::Text,
        &[Err("u0000"), Ok("\"a\"")],
    );
    let uuid = "6ba7b810-9dad-11d1-80b4-00c04fd430c8";
    check(
        text(vec![uuid]),
        SqlType::Uuid,
        &[Ok(&format!("\"{uuid}\""))],
    );
    check(
        Arc::new(LargeStringArray::from(vec!["a"])),
        SqlType::Text,
        &[Ok("\"a\"")],
    );
    check(
        Arc::new(StringViewArray::from(vec!["a"])),
        SqlType::Text,
        &[Ok("\"a\"")],
    );
    let words = DictionaryArray::<Int8Type>::from_iter(vec![Some("a"), None, Some("a")]);
    check(
        Arc::new(words),
        SqlType::Text,
        &[Ok("\"a\""), Ok("null"), Ok("\"a\"")],
    );
}

#[test]
fn bytes_are_bytes() {
    let bytes = || Arc::new(BinaryArray::from(vec![&b"ab"[..], b"\xff"])) as ArrayRef;
    check(bytes(), SqlType::Bytea, &[Ok("\"YWI=\""), Ok("\"/w==\"")]);
    check(
        bytes(),
        SqlType::Text,
        &[Ok("\"ab\""), Err("not valid UTF-8")],
    );
    let sixteen = FixedSizeBinaryArray::try_from_iter([[7_u8; 16]].iter()).expect("an array");
    let sixteen = Arc::new(sixteen) as ArrayRef;
    let uuid = "\"07070707-0707-0707-0707-070707070707\"";
    check(Arc::clone(&sixteen), SqlType::Uuid, &[Ok(uuid)]);
    check(
        sixteen,
        SqlType::Bytea,
        &[Ok("\"BwcHBwcHBwcHBwcHBwcHBw==\"")],
    );
    check(
        Arc::new(BooleanArray::from(vec![true])),
        SqlType::Text,
        &[Ok("\"true\"")],
    );
}

#[test]
fn nested_values_keep_their_shape() {
    let lists = ListArray::from_iter_primitive::<Int32Type, _, _>([
        Some(vec![Some(1), None]),
        None,
        Some(vec![]),
        Some(vec![Some(70_000), Some(2)]),
        Some(vec![Some(3)]),
    ]);
    let lists = Arc::new(lists) as ArrayRef;
    let short = SqlType::Array(Box::new(SqlType::Int2));
    let range = "column \"c[]\": 70000 is out of range for type smallint";
    check(
        Arc::clone(&lists),
        short.clone(),
        &[Ok("[1,null]"), Ok("null"), Ok("[]"), Err(range), Ok("[3]")],
    );
    check(lists.slice(2, 3), short, &[Ok("[]"), Err(range), Ok("[3]")]);
    check(
        lists.slice(0, 2),
        SqlType::Jsonb,
        &[Ok("[1,null]"), Ok("null")],
    );
    let object = StructArray::from(vec![
        (
            Arc::new(Field::new("A", DataType::Int32, true)),
            Arc::new(Int32Array::from(vec![1, 2])) as ArrayRef,
        ),
        (
            Arc::new(Field::new("b", DataType::Utf8, true)),
            Arc::new(StringArray::from(vec![Some("x"), None])) as ArrayRef,
        ),
    ]);
    let object = Arc::new(object) as ArrayRef;
    let declared = SqlType::Struct(vec![
        ("b".into(), SqlType::Text),
        ("a".into(), SqlType::Int8),
        ("missing".into(), SqlType::Date),
    ]);
    check(
        Arc::clone(&object),
        declared,
        &[
            Ok("{\"b\":\"x\",\"a\":1,\"missing\":null}"),
            Ok("{\"b\":null,\"a\":2,\"missing\":null}"),
        ],
    );
    check(
        object,
        SqlType::Json,
        &[Ok("{\"A\":1,\"b\":\"x\"}"), Ok("{\"A\":2,\"b\":null}")],
    );
    let mut maps = MapBuilder::new(None, StringBuilder::new(), Int32Builder::new());
    maps.keys().append_value("k");
    maps.values().append_value(1);
    maps.append(true).expect("an entry");
    maps.append(false).expect("no entry");
    let maps = Arc::new(maps.finish()) as ArrayRef;
    check(
        Arc::clone(&maps),
        SqlType::Jsonb,
        &[Ok("{\"k\":1}"), Ok("null")],
    );
    let entry = SqlType::Struct(vec![
        ("keys".into(), SqlType::Text),
        ("values".into(), SqlType::Int4),
    ]);
    check(
        maps,
        SqlType::Array(Box::new(entry)),
        &[Ok("[{\"keys\":\"k\",\"values\":1}]"), Ok("null")],
    );
}

#[test]
fn what_can_never_be_read_is_known_before_reading() {
    let number = || Arc::new(Int32Array::from(vec![1])) as ArrayRef;
    for (array, to) in [
        (number(), SqlType::Date),
        (number(), SqlType::Bytea),
        (number(), SqlType::Array(Box::new(SqlType::Int4))),
        (Arc::new(StringArray::from(vec!["a"])), SqlType::Bytea),
        (Arc::new(Date32Array::from(vec![1])), SqlType::Int4),
        (Arc::new(BinaryArray::from(vec![&b"a"[..]])), SqlType::Jsonb),
        (Arc::new(BooleanArray::from(vec![true])), SqlType::Float8),
    ] {
        let from = array.data_type().clone();
        assert_eq!(outcome(array, &to), Err("never".into()), "{from} as {to}");
    }
}
