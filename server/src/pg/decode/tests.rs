//! Tables of parameters and the values they stand for.

use datafusion::arrow::datatypes::IntervalMonthDayNano;

use super::*;
use crate::pg::encode::days_from_civil;

fn read(bytes: &[u8], ty: &SqlType, format: Format) -> Result<ScalarValue, Report> {
    let zone = Zone::named("Europe/Berlin");
    parameter(
        Some(bytes),
        ty,
        format,
        &ParameterContext {
            number: 1,
            zone: &zone,
        },
    )
}

fn text(input: &str, ty: &SqlType) -> Result<ScalarValue, Report> {
    read(input.as_bytes(), ty, Format::Text)
}

fn state(result: Result<ScalarValue, Report>) -> &'static str {
    match result {
        Ok(value) => panic!("{value:?} was accepted"),
        Err(report) => report.sqlstate,
    }
}

fn moment(year: i64, month: i64, day: i64, clock_us: i64) -> Option<i64> {
    Some(days_from_civil(year, month, day).expect("a day") * 86_400_000_000 + clock_us)
}

#[test]
fn scalars_from_text() {
    let bare = |value: i128| ScalarValue::Decimal128(Some(value), 38, 10);
    let table = [
        ("t", SqlType::Bool, ScalarValue::Boolean(Some(true))),
        (" OFF ", SqlType::Bool, ScalarValue::Boolean(Some(false))),
        ("-32768", SqlType::Int2, ScalarValue::Int16(Some(i16::MIN))),
        (" 42 ", SqlType::Int4, ScalarValue::Int32(Some(42))),
        ("+7", SqlType::Int8, ScalarValue::Int64(Some(7))),
        ("1e3", SqlType::Float8, ScalarValue::Float64(Some(1000.0))),
        (
            "-Infinity",
            SqlType::Float8,
            ScalarValue::Float64(Some(f64::NEG_INFINITY)),
        ),
        ("1.5", SqlType::NUMERIC, bare(15_000_000_000)),
        ("-.5e1", SqlType::NUMERIC, bare(-50_000_000_000)),
        ("0.00000000005", SqlType::NUMERIC, bare(1)),
        ("0.00000000004", SqlType::NUMERIC, bare(0)),
        ("0", SqlType::NUMERIC, bare(0)),
        (
            "12.345",
            SqlType::numeric(5, 2),
            ScalarValue::Decimal128(Some(1235), 5, 2),
        ),
        (
            "\\xAbff",
            SqlType::Bytea,
            ScalarValue::Binary(Some(vec![0xab, 0xff])),
        ),
        (
            "a\\\\b\\001",
            SqlType::Bytea,
            ScalarValue::Binary(Some(b"a\\b\x01".to_vec())),
        ),
        (
            " a ",
            SqlType::Text,
            ScalarValue::Utf8View(Some(" a ".into())),
        ),
        (
            "a  ",
            SqlType::Char(5),
            ScalarValue::Utf8View(Some("a".into())),
        ),
        ("-1", SqlType::Oid, ScalarValue::UInt32(Some(u32::MAX))),
        (
            "{\"bb\":1.50,\"a\":[1,2],\"a\":null}",
            SqlType::Jsonb,
            ScalarValue::Utf8View(Some("{\"a\": null, \"bb\": 1.50}".into())),
        ),
        (
            "{ \"a\":1}",
            SqlType::Json,
            ScalarValue::Utf8View(Some("{ \"a\":1}".into())),
        ),
    ];
    for (input, ty, expected) in table {
        assert_eq!(text(input, &ty), Ok(expected), "{input} as {ty}");
    }
    let uuid = text("{a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11}", &SqlType::Uuid).expect("uuid");
    assert_eq!(uuid.data_type(), SqlType::Uuid.arrow());
}

#[test]
fn bad_text_says_which_type_it_was_for() {
    let table = [
        ("abc", SqlType::Int4, "22P02"),
        ("", SqlType::Int8, "22P02"),
        ("1.0", SqlType::Int4, "22P02"),
        ("99999999999", SqlType::Int4, "22003"),
        ("99999999999999999999999", SqlType::Int8, "22003"),
        ("o", SqlType::Bool, "22P02"),
        ("", SqlType::Bool, "22P02"),
        ("1e400", SqlType::Float8, "22003"),
        ("1e-400", SqlType::Float8, "22003"),
        ("1,5", SqlType::Float8, "22P02"),
        ("NaN", SqlType::NUMERIC, "22003"),
        ("1e99", SqlType::NUMERIC, "22003"),
        ("1e99999999999999999999", SqlType::NUMERIC, "22P02"),
        ("999.999", SqlType::numeric(5, 2), "22003"),
        (".", SqlType::NUMERIC, "22P02"),
        ("\\xabc", SqlType::Bytea, "22P02"),
        ("\\x0g", SqlType::Bytea, "22P02"),
        ("a\\9", SqlType::Bytea, "22P02"),
        ("zz", SqlType::Uuid, "22P02"),
        ("{", SqlType::Json, "22P02"),
        ("(1)", SqlType::Struct(vec![]), "0A000"),
        ("2024-02-30", SqlType::Date, "22008"),
        ("2024-13-01", SqlType::Date, "22008"),
        ("yesterday?", SqlType::Date, "22007"),
        ("25:00", SqlType::Time, "22008"),
        ("2024-01-01 10:60", SqlType::Timestamp, "22008"),
        (
            "2024-01-01 10:00 Mars/Olympus",
            SqlType::Timestamptz,
            "22007",
        ),
        ("3 parsecs", SqlType::Interval, "22007"),
        ("99999999999 years", SqlType::Interval, "22015"),
    ];
    for (input, ty, expected) in table {
        assert_eq!(state(text(input, &ty)), expected, "{input} as {ty}");
    }
    let report = text("abc", &SqlType::Int4).expect_err("not a number");
    assert_eq!(
        report.message,
        "invalid input syntax for type integer: \"abc\""
    );
    assert_eq!(state(read(b"\xff", &SqlType::Text, Format::Text)), "22021");
    assert_eq!(state(read(b"a\0b", &SqlType::Text, Format::Text)), "22021");
}

#[test]
fn a_long_parameter_is_not_repeated_in_its_error() {
    let report = text(&"ä".repeat(100_000), &SqlType::Int4).expect_err("not a number");
    assert!(report.message.len() < 600, "{}", report.message.len());
}

#[test]
fn dates_and_times_from_text() {
    let hour = 3_600_000_000;
    let plain = |us| ScalarValue::TimestampMicrosecond(us, None);
    let zoned = |us| ScalarValue::TimestampMicrosecond(us, Some("UTC".into()));
    let table = [
        (
            "2024-01-02 03:04:05.5",
            SqlType::Timestamp,
            plain(moment(2024, 1, 2, 3 * hour + 245_500_000)),
        ),
        (
            "2024-01-02T03:04Z",
            SqlType::Timestamp,
            plain(moment(2024, 1, 2, 3 * hour + 240_000_000)),
        ),
        ("20240102", SqlType::Timestamp, plain(moment(2024, 1, 2, 0))),
        (
            "2024-01-02 24:00:00",
            SqlType::Timestamp,
            plain(moment(2024, 1, 3, 0)),
        ),
        (
            "2024-01-02 00:00:00.1234567",
            SqlType::Timestamp,
            plain(moment(2024, 1, 2, 123_457)),
        ),
        (
            "0044-03-15 00:00:00 BC",
            SqlType::Timestamp,
            plain(moment(-43, 3, 15, 0)),
        ),
        ("infinity", SqlType::Timestamp, plain(Some(i64::MAX))),
        (
            "2024-01-02 03:00",
            SqlType::Timestamptz,
            zoned(moment(2024, 1, 2, 2 * hour)),
        ),
        (
            "2024-01-02 03:00+05:30",
            SqlType::Timestamptz,
            zoned(moment(2024, 1, 1, 21 * hour + hour / 2)),
        ),
        (
            "2024-01-02 03:00:00-0330",
            SqlType::Timestamptz,
            zoned(moment(2024, 1, 2, 6 * hour + hour / 2)),
        ),
        (
            "2024-01-02 03:00 Asia/Kolkata",
            SqlType::Timestamptz,
            zoned(moment(2024, 1, 1, 21 * hour + hour / 2)),
        ),
        (
            "2024-01-02T03:00:00Z",
            SqlType::Timestamptz,
            zoned(moment(2024, 1, 2, 3 * hour)),
        ),
        (
            "2024-01-02",
            SqlType::Date,
            ScalarValue::Date32(Some(19_724)),
        ),
        (
            "0001-12-31 BC",
            SqlType::Date,
            ScalarValue::Date32(Some(-719_163)),
        ),
        (
            "04:05:06.789",
            SqlType::Time,
            ScalarValue::Time64Microsecond(Some(14_706_789_000)),
        ),
        (
            "24:00",
            SqlType::Time,
            ScalarValue::Time64Microsecond(Some(86_400_000_000)),
        ),
    ];
    for (input, ty, expected) in table {
        assert_eq!(text(input, &ty), Ok(expected), "{input} as {ty}");
    }
}

#[test]
fn intervals_from_text() {
    let second = 1_000_000_000;
    let table = [
        (
            "1 year 2 mons 3 days 04:05:06.789",
            (14, 3, 14_706 * second + 789_000_000),
        ),
        (
            "-1 years -2 mons +3 days -04:05:06",
            (-14, 3, -14_706 * second),
        ),
        ("1 day ago", (0, -1, 0)),
        ("@ 1 hour", (0, 0, 3600 * second)),
        ("1.5 days", (0, 1, 12 * 3600 * second)),
        ("0.5 mon", (0, 15, 0)),
        ("2 weeks", (0, 14, 0)),
        ("90", (0, 0, 90 * second)),
        ("10ms", (0, 0, 10_000_000)),
        ("P1Y2M3DT4H5M6.5S", (14, 3, 14_706 * second + 500_000_000)),
        ("PT-1H", (0, 0, -3600 * second)),
        ("100:00:00", (0, 0, 360_000 * second)),
    ];
    for (input, (months, days, nanoseconds)) in table {
        let expected = IntervalMonthDayNano::new(months, days, nanoseconds);
        assert_eq!(
            text(input, &SqlType::Interval),
            Ok(ScalarValue::IntervalMonthDayNano(Some(expected))),
            "{input}"
        );
    }
}

#[test]
fn scalars_from_binary() {
    let numeric = |groups: &[u16]| {
        groups
            .iter()
            .flat_map(|group| group.to_be_bytes())
            .collect::<Vec<u8>>()
    };
    let table: Vec<(Vec<u8>, SqlType, ScalarValue)> = vec![
        (vec![1], SqlType::Bool, ScalarValue::Boolean(Some(true))),
        (
            vec![0xff, 0xfe],
            SqlType::Int2,
            ScalarValue::Int16(Some(-2)),
        ),
        (
            vec![0, 0, 0, 42],
            SqlType::Int4,
            ScalarValue::Int32(Some(42)),
        ),
        (
            7_i64.to_be_bytes().to_vec(),
            SqlType::Int8,
            ScalarValue::Int64(Some(7)),
        ),
        (
            1.5_f64.to_be_bytes().to_vec(),
            SqlType::Float8,
            ScalarValue::Float64(Some(1.5)),
        ),
        (vec![0; 4], SqlType::Date, ScalarValue::Date32(Some(10_957))),
        (
            1_i64.to_be_bytes().to_vec(),
            SqlType::Timestamp,
            ScalarValue::TimestampMicrosecond(Some(946_684_800_000_001), None),
        ),
        (
            numeric(&[2, 0, 0, 1, 1, 5000]),
            SqlType::NUMERIC,
            ScalarValue::Decimal128(Some(15_000_000_000), 38, 10),
        ),
        (
            numeric(&[2, 1, 0x4000, 0, 1, 2345]),
            SqlType::NUMERIC,
            ScalarValue::Decimal128(Some(-123_450_000_000_000), 38, 10),
        ),
        (
            numeric(&[0, 0, 0, 0]),
            SqlType::NUMERIC,
            ScalarValue::Decimal128(Some(0), 38, 10),
        ),
        (
            b"\x01{\"a\":1}".to_vec(),
            SqlType::Jsonb,
            ScalarValue::Utf8View(Some("{\"a\": 1}".into())),
        ),
        (
            b"x".to_vec(),
            SqlType::InternalChar,
            ScalarValue::Utf8View(Some("x".into())),
        ),
    ];
    for (bytes, ty, expected) in table {
        assert_eq!(read(&bytes, &ty, Format::Binary), Ok(expected), "{ty}");
    }
    let refused: Vec<(Vec<u8>, SqlType, &str)> = vec![
        (vec![1, 2, 3], SqlType::Int4, "22P03"),
        (vec![0; 5], SqlType::Int4, "22P03"),
        (vec![], SqlType::Bool, "22P03"),
        (vec![0; 15], SqlType::Uuid, "22P03"),
        (b"\x02{}".to_vec(), SqlType::Jsonb, "22P03"),
        (numeric(&[2, 0, 0, 0, 1]), SqlType::NUMERIC, "22P03"),
        (numeric(&[1, 0, 0, 0, 10_000]), SqlType::NUMERIC, "22P03"),
        (numeric(&[0, 0, 0xc000, 0]), SqlType::NUMERIC, "22003"),
        (numeric(&[1, 30_000, 0, 0, 1]), SqlType::NUMERIC, "22003"),
        (
            i32::MAX.wrapping_sub(1).to_be_bytes().to_vec(),
            SqlType::Date,
            "22008",
        ),
        (vec![0xff; 3], SqlType::Text, "22021"),
    ];
    for (bytes, ty, expected) in refused {
        assert_eq!(state(read(&bytes, &ty, Format::Binary)), expected, "{ty}");
    }
}

#[test]
fn arrays_from_text_and_binary() {
    let ints = SqlType::Array(Box::new(SqlType::Int4));
    let texts = SqlType::Array(Box::new(SqlType::Text));
    let expected = list::list(
        &[ScalarValue::Int32(Some(1)), ScalarValue::Int32(None)],
        &SqlType::Int4,
    );
    assert_eq!(text("{1, NULL}", &ints), Ok(expected.clone()));
    let bytes: Vec<u8> = [1, 1, 23, 2, 1, 4, 1, -1]
        .iter()
        .flat_map(|n: &i32| n.to_be_bytes())
        .collect();
    assert_eq!(read(&bytes, &ints, Format::Binary), Ok(expected));
    let words =
        ["a", "b c", "null", "q\"", ""].map(|word| ScalarValue::Utf8View(Some(word.into())));
    assert_eq!(
        text(r#"{a,"b c","null",q\",""}"#, &texts),
        Ok(list::list(&words, &SqlType::Text))
    );
    assert_eq!(text("{}", &texts), Ok(list::list(&[], &SqlType::Text)));
    for bad in ["", "{", "{1", "{1,}", "{,}", "1", "{1}x", "{}x", "{\"a}"] {
        assert_eq!(state(text(bad, &ints)), "22P02", "{bad}");
    }
    assert_eq!(state(text("{{1}}", &ints)), "0A000");
    for cut in 0..bytes.len() {
        assert_eq!(
            state(read(&bytes[..cut], &ints, Format::Binary)),
            "22P03",
            "cut at {cut}"
        );
    }
    let huge: Vec<u8> = [1, 0, 23, i32::MAX, 1]
        .iter()
        .flat_map(|n: &i32| n.to_be_bytes())
        .collect();
    assert_eq!(state(read(&huge, &ints, Format::Binary)), "22P03");
}

#[test]
fn null_has_the_type_of_its_parameter() {
    let zone = Zone::Fixed(0);
    let context = ParameterContext {
        number: 1,
        zone: &zone,
    };
    for ty in [
        SqlType::Int4,
        SqlType::NUMERIC,
        SqlType::Uuid,
        SqlType::Array(Box::new(SqlType::Text)),
        SqlType::Timestamptz,
    ] {
        let value = parameter(None, &ty, Format::Binary, &context).expect("null");
        assert!(value.is_null() && value.data_type() == ty.arrow(), "{ty}");
    }
}
