//! Tables of values and their encodings, as PostgreSQL 15 gives them.

use std::sync::Arc;

use datafusion::arrow::array::*;
use datafusion::arrow::buffer::{NullBuffer, OffsetBuffer};
use datafusion::arrow::datatypes::{DataType, Field, Fields, IntervalMonthDayNano};

use super::*;

fn encode_one(
    array: ArrayRef,
    ty: &SqlType,
    format: Format,
    zone: &Zone,
) -> Result<Option<Vec<u8>>, Report> {
    let field = Field::new("c", array.data_type().clone(), true);
    let schema = Arc::new(datafusion::arrow::datatypes::Schema::new(vec![field]));
    let batch = RecordBatch::try_new(schema, vec![array]).expect("one column");
    let columns = [Column {
        ty: ty.clone(),
        format,
    }];
    let mut out = BytesMut::new();
    BatchEncoder::new(&columns, &batch, zone)?.data_row(0, &mut out)?;
    assert_eq!(out[0], b'D');
    assert_eq!(
        u32::from_be_bytes(out[1..5].try_into().expect("length")) as usize,
        out.len() - 1
    );
    assert_eq!(out[5..7], [0, 1]);
    let length = i32::from_be_bytes(out[7..11].try_into().expect("length"));
    if length < 0 {
        assert_eq!(out.len(), 11);
        return Ok(None);
    }
    assert_eq!(length as usize, out.len() - 11);
    Ok(Some(out[11..].to_vec()))
}

fn text(array: impl Array + 'static, ty: &SqlType) -> String {
    text_in(array, ty, &Zone::Fixed(0))
}

fn text_in(array: impl Array + 'static, ty: &SqlType, zone: &Zone) -> String {
    let bytes = encode_one(Arc::new(array), ty, Format::Text, zone)
        .expect("encodes")
        .expect("not null");
    String::from_utf8(bytes).expect("UTF-8")
}

fn binary(array: impl Array + 'static, ty: &SqlType) -> Vec<u8> {
    encode_one(Arc::new(array), ty, Format::Binary, &Zone::Fixed(0))
        .expect("encodes")
        .expect("not null")
}

fn us(year: i64, month: i64, day: i64, clock_us: i64) -> i64 {
    days_from_civil(year, month, day).expect("a day") * 86_400_000_000 + clock_us
}

#[test]
fn scalars_in_text() {
    assert_eq!(text(BooleanArray::from(vec![true]), &SqlType::Bool), "t");
    assert_eq!(text(BooleanArray::from(vec![false]), &SqlType::Bool), "f");
    assert_eq!(
        text(Int16Array::from(vec![-32768]), &SqlType::Int2),
        "-32768"
    );
    assert_eq!(text(Int32Array::from(vec![42]), &SqlType::Int4), "42");
    assert_eq!(
        text(Int64Array::from(vec![i64::MIN]), &SqlType::Int8),
        "-9223372036854775808"
    );
    assert_eq!(
        text(UInt32Array::from(vec![u32::MAX]), &SqlType::Oid),
        "4294967295"
    );
    assert_eq!(
        text(
            BinaryArray::from(vec![&b"\x00\xab\xff"[..]]),
            &SqlType::Bytea
        ),
        "\\x00abff"
    );
    assert_eq!(
        text(BinaryArray::from(vec![&b""[..]]), &SqlType::Bytea),
        "\\x"
    );
    assert_eq!(
        text(StringArray::from(vec!["a \"b\""]), &SqlType::Text),
        "a \"b\""
    );
    let uuid = FixedSizeBinaryArray::try_from_iter(std::iter::once([
        0xa0, 0xee, 0xbc, 0x99, 0x9c, 0x0b, 0x4e, 0xf8, 0xbb, 0x6d, 0x6b, 0xb9, 0xbd, 0x38, 0x0a,
        0x11,
    ]))
    .expect("uuid");
    assert_eq!(
        text(uuid, &SqlType::Uuid),
        "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"
    );
    let money = Decimal128Array::from(vec![120])
        .with_precision_and_scale(12, 2)
        .expect("decimal");
    assert_eq!(text(money.clone(), &SqlType::numeric(12, 2)), "1.20");
    assert_eq!(text(money, &SqlType::NUMERIC), "1.2");
}

#[test]
fn layouts_other_than_the_types_own_are_converted() {
    let words: DictionaryArray<datafusion::arrow::datatypes::Int32Type> =
        vec!["a", "b"].into_iter().collect();
    assert_eq!(text(words, &SqlType::Text), "a");
    assert_eq!(text(Int64Array::from(vec![7]), &SqlType::Int4), "7");
    assert_eq!(
        text(
            UInt64Array::from(vec![u64::MAX]),
            &SqlType::Numeric {
                declared: None,
                held_scale: 0
            }
        ),
        "18446744073709551615"
    );
    assert_eq!(
        text(
            LargeStringArray::from(vec!["x"]),
            &SqlType::Varchar(Some(3))
        ),
        "x"
    );
    assert_eq!(
        text(
            TimestampNanosecondArray::from(vec![1_500_000_000]),
            &SqlType::Timestamp
        ),
        "1970-01-01 00:00:01.5"
    );
    assert_eq!(
        text(Date64Array::from(vec![86_400_000]), &SqlType::Date),
        "1970-01-02"
    );
    let too_large = encode_one(
        Arc::new(Int64Array::from(vec![1 << 40])),
        &SqlType::Int4,
        Format::Text,
        &Zone::Fixed(0),
    );
    assert!(too_large.is_err(), "{too_large:?}");
}

#[test]
fn null_is_a_length_of_minus_one() {
    for format in [Format::Text, Format::Binary] {
        let nulls: [(ArrayRef, SqlType); 4] = [
            (Arc::new(Int32Array::from(vec![None])), SqlType::Int4),
            (Arc::new(NullArray::new(1)), SqlType::Text),
            (
                Arc::new(IntervalMonthDayNanoArray::from(vec![None])),
                SqlType::Interval,
            ),
            (
                Arc::new(ListArray::new_null(
                    Arc::new(Field::new("item", DataType::Int32, true)),
                    1,
                )),
                SqlType::Array(Box::new(SqlType::Int4)),
            ),
        ];
        for (array, ty) in nulls {
            assert_eq!(
                encode_one(array, &ty, format, &Zone::Fixed(0)),
                Ok(None),
                "{ty}"
            );
        }
    }
}

#[test]
fn dates_in_text() {
    let table = [
        ((2024, 2, 29), "2024-02-29"),
        ((1, 1, 1), "0001-01-01"),
        ((0, 12, 31), "0001-12-31 BC"),
        ((-43, 3, 15), "0044-03-15 BC"),
        ((-4712, 1, 1), "4713-01-01 BC"),
        ((10_000, 1, 1), "10000-01-01"),
        ((1969, 12, 31), "1969-12-31"),
    ];
    for ((year, month, day), shown) in table {
        let days = days_from_civil(year, month, day).expect("a day") as i32;
        assert_eq!(text(Date32Array::from(vec![days]), &SqlType::Date), shown);
    }
    assert_eq!(
        text(Date32Array::from(vec![i32::MAX]), &SqlType::Date),
        "infinity"
    );
    assert_eq!(
        text(Date32Array::from(vec![i32::MIN]), &SqlType::Date),
        "-infinity"
    );
    assert_eq!(days_from_civil(2023, 2, 29), None);
    assert_eq!(days_from_civil(1900, 2, 29), None);
}

#[test]
fn timestamps_in_text_follow_the_session_zone() {
    let moment = us(2024, 1, 2, 3 * 3_600_000_000 + 4_050_600);
    assert_eq!(
        text(
            TimestampMicrosecondArray::from(vec![moment]),
            &SqlType::Timestamp
        ),
        "2024-01-02 03:00:04.0506"
    );
    let table = [
        ("UTC", "2024-01-02 03:00:04.0506+00"),
        ("Asia/Kolkata", "2024-01-02 08:30:04.0506+05:30"),
        ("America/St_Johns", "2024-01-01 23:30:04.0506-03:30"),
        ("Europe/Berlin", "2024-01-02 04:00:04.0506+01"),
        ("europe/berlin", "2024-01-02 04:00:04.0506+01"),
        ("+05:45", "2024-01-02 08:45:04.0506+05:45"),
        ("-08", "2024-01-01 19:00:04.0506-08"),
    ];
    for (zone, shown) in table {
        let array = TimestampMicrosecondArray::from(vec![moment]).with_timezone("UTC");
        assert_eq!(
            text_in(array, &SqlType::Timestamptz, &Zone::named(zone)),
            shown,
            "{zone}"
        );
    }
    let table = [
        (us(2024, 7, 1, 0), "Europe/Berlin", "2024-07-01 02:00:00+02"),
        (
            us(1800, 1, 1, 0),
            "Europe/Berlin",
            "1800-01-01 00:53:28+00:53:28",
        ),
        (us(-43, 3, 15, 0), "UTC", "0044-03-15 00:00:00+00 BC"),
        (i64::MAX, "Europe/Berlin", "infinity"),
        (i64::MIN, "Europe/Berlin", "-infinity"),
        (
            us(294_246, 12, 31, 86_399_999_999),
            "UTC",
            "294246-12-31 23:59:59.999999+00",
        ),
        (
            us(290_000, 1, 1, 0),
            "Asia/Kolkata",
            "290000-01-01 05:30:00+05:30",
        ),
    ];
    for (moment, zone, shown) in table {
        let array = TimestampMicrosecondArray::from(vec![moment]).with_timezone("UTC");
        assert_eq!(
            text_in(array, &SqlType::Timestamptz, &Zone::named(zone)),
            shown,
            "{zone}"
        );
    }
}

#[test]
fn wall_clocks_become_moments_as_in_postgres() {
    let hour = 3_600_000_000;
    let berlin = Zone::named("Europe/Berlin");
    let table = [
        (
            "plain winter time",
            us(2024, 1, 1, 12 * hour),
            us(2024, 1, 1, 11 * hour),
        ),
        (
            "the hour that the spring change skips",
            us(2024, 3, 31, 2 * hour + hour / 2),
            us(2024, 3, 31, hour + hour / 2),
        ),
        (
            "the hour that the autumn change repeats",
            us(2024, 10, 27, 2 * hour + hour / 2),
            us(2024, 10, 27, hour + hour / 2),
        ),
        (
            "an hour before the repeated one",
            us(2024, 10, 27, hour),
            us(2024, 10, 26, 23 * hour),
        ),
        (
            "an hour after it",
            us(2024, 10, 27, 4 * hour),
            us(2024, 10, 27, 3 * hour),
        ),
    ];
    for (what, local, moment) in table {
        assert_eq!(berlin.to_utc(local), moment, "{what}");
    }
}

#[test]
fn intervals_in_text() {
    let second = 1_000_000_000;
    let table = [
        (
            (14, 3, (4 * 3600 + 5 * 60 + 6) * second + 789_000_000),
            "1 year 2 mons 3 days 04:05:06.789",
        ),
        ((0, 0, 0), "00:00:00"),
        ((1, 0, 0), "1 mon"),
        ((-1, 0, 0), "-1 mons"),
        ((-14, 3, 0), "-1 years -2 mons +3 days"),
        ((0, -1, 3600 * second), "-1 days +01:00:00"),
        ((0, 1, -3600 * second), "1 day -01:00:00"),
        ((12, 0, -500_000_000), "1 year -00:00:00.5"),
        ((0, 0, 100 * 3600 * second), "100:00:00"),
        ((24, 2, 1_000), "2 years 2 days 00:00:00.000001"),
    ];
    for ((months, days, nanoseconds), shown) in table {
        let array = IntervalMonthDayNanoArray::from(vec![IntervalMonthDayNano::new(
            months,
            days,
            nanoseconds,
        )]);
        assert_eq!(text(array, &SqlType::Interval), shown);
    }
    assert_eq!(
        text(
            Time64MicrosecondArray::from(vec![14_706_789_000]),
            &SqlType::Time
        ),
        "04:05:06.789"
    );
    assert_eq!(
        text(
            Time64MicrosecondArray::from(vec![86_400_000_000]),
            &SqlType::Time
        ),
        "24:00:00"
    );
}

fn strings(values: &[Option<&str>]) -> ListArray {
    let values: ArrayRef = Arc::new(StringViewArray::from(values.to_vec()));
    let offsets = OffsetBuffer::from_lengths([values.len()]);
    ListArray::new(
        Arc::new(Field::new("item", DataType::Utf8View, true)),
        offsets,
        values,
        None,
    )
}

fn grid(lengths: &[usize], values: Vec<i32>) -> ListArray {
    let inner = ListArray::new(
        Arc::new(Field::new("item", DataType::Int32, true)),
        OffsetBuffer::from_lengths(lengths.iter().copied()),
        Arc::new(Int32Array::from(values)),
        None,
    );
    let item = Arc::new(Field::new("item", inner.data_type().clone(), true));
    ListArray::new(
        item,
        OffsetBuffer::from_lengths([inner.len()]),
        Arc::new(inner),
        None,
    )
}

fn array_of(element: SqlType) -> SqlType {
    SqlType::Array(Box::new(element))
}

#[test]
fn arrays_in_text() {
    let list = strings(&[
        Some("a"),
        Some("b c"),
        None,
        Some(""),
        Some("null"),
        Some("q\"\\"),
        Some("{x},"),
    ]);
    assert_eq!(
        text(list, &array_of(SqlType::Text)),
        r#"{a,"b c",NULL,"","null","q\"\\","{x},"}"#
    );
    assert_eq!(text(strings(&[]), &array_of(SqlType::Text)), "{}");
    assert_eq!(
        text(
            grid(&[2, 2], vec![1, 2, 3, 4]),
            &array_of(array_of(SqlType::Int4))
        ),
        "{{1,2},{3,4}}"
    );
}

fn record() -> (StructArray, SqlType) {
    let fields = Fields::from(vec![
        Field::new("i", DataType::Int32, true),
        Field::new("t", DataType::Utf8View, true),
        Field::new("n", DataType::Int64, true),
    ]);
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int32Array::from(vec![1])),
        Arc::new(StringViewArray::from(vec!["a \"b\""])),
        Arc::new(Int64Array::from(vec![None])),
    ];
    let ty = SqlType::Struct(vec![
        ("i".into(), SqlType::Int4),
        ("t".into(), SqlType::Text),
        ("n".into(), SqlType::Int8),
    ]);
    (StructArray::new(fields, columns, None::<NullBuffer>), ty)
}

#[test]
fn records_in_text() {
    let (array, ty) = record();
    assert_eq!(text(array.clone(), &ty), r#"(1,"a ""b""",)"#);
    assert_eq!(
        text(array.clone(), &SqlType::Struct(vec![])),
        r#"(1,"a ""b""",)"#,
        "an anonymous record"
    );
    let item = Arc::new(Field::new("item", array.data_type().clone(), true));
    let list = ListArray::new(item, OffsetBuffer::from_lengths([1]), Arc::new(array), None);
    assert_eq!(text(list, &array_of(ty)), r#"{"(1,\"a \"\"b\"\"\",)"}"#);
}

#[test]
fn scalars_in_binary() {
    assert_eq!(binary(BooleanArray::from(vec![true]), &SqlType::Bool), [1]);
    assert_eq!(
        binary(Int16Array::from(vec![-2]), &SqlType::Int2),
        [0xff, 0xfe]
    );
    assert_eq!(
        binary(Int32Array::from(vec![42]), &SqlType::Int4),
        [0, 0, 0, 42]
    );
    assert_eq!(
        binary(Float4Array::from(vec![1.5]), &SqlType::Float4),
        [0x3f, 0xc0, 0, 0]
    );
    assert_eq!(
        binary(Float64Array::from(vec![1.5]), &SqlType::Float8),
        [0x3f, 0xf8, 0, 0, 0, 0, 0, 0]
    );
    assert_eq!(
        binary(StringArray::from(vec!["äb"]), &SqlType::Text),
        "äb".as_bytes()
    );
    assert_eq!(
        binary(StringArray::from(vec!["{}"]), &SqlType::Jsonb),
        b"\x01{}"
    );
    assert_eq!(binary(StringArray::from(vec!["{}"]), &SqlType::Json), b"{}");
    assert_eq!(
        binary(Date32Array::from(vec![10_957]), &SqlType::Date),
        [0, 0, 0, 0]
    );
    assert_eq!(
        binary(Date32Array::from(vec![i32::MAX]), &SqlType::Date),
        i32::MAX.to_be_bytes()
    );
    let moment = TimestampMicrosecondArray::from(vec![us(2000, 1, 1, 1)]);
    assert_eq!(
        binary(moment.clone(), &SqlType::Timestamp),
        1_i64.to_be_bytes()
    );
    assert_eq!(
        binary(moment.with_timezone("UTC"), &SqlType::Timestamptz),
        1_i64.to_be_bytes()
    );
    assert_eq!(
        binary(
            TimestampMicrosecondArray::from(vec![i64::MIN]),
            &SqlType::Timestamp
        ),
        i64::MIN.to_be_bytes()
    );
    let interval = IntervalMonthDayNanoArray::from(vec![IntervalMonthDayNano::new(14, 3, 1_000)]);
    assert_eq!(
        binary(interval, &SqlType::Interval),
        [0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 3, 0, 0, 0, 14]
    );
}

type Float4Array = Float32Array;

#[test]
fn numerics_in_binary() {
    let table: [(i128, i8, Option<(u8, i8)>, &[u16]); 9] = [
        (0, 0, None, &[0, 0, 0, 0]),
        (1, 0, None, &[1, 0, 0, 0, 1]),
        (-12345, 0, None, &[2, 1, 0x4000, 0, 1, 2345]),
        (15_000_000_000, 10, None, &[2, 0, 0, 1, 1, 5000]),
        (120, 2, Some((12, 2)), &[2, 0, 0, 2, 1, 2000]),
        (0, 2, Some((12, 2)), &[0, 0, 0, 2]),
        (1, 5, Some((12, 5)), &[1, 0xfffe, 0, 5, 1000]),
        (10_000, 0, None, &[1, 1, 0, 0, 1]),
        (100_000_001, 4, Some((12, 4)), &[3, 1, 0, 4, 1, 0, 1]),
    ];
    for (value, scale, declared, groups) in table {
        let array = Decimal128Array::from(vec![value])
            .with_precision_and_scale(38, scale)
            .expect("decimal");
        let ty = SqlType::Numeric {
            declared,
            held_scale: scale,
        };
        let expected: Vec<u8> = groups
            .iter()
            .flat_map(|group| group.to_be_bytes())
            .collect();
        assert_eq!(binary(array, &ty), expected, "{value} at {scale}");
    }
}

#[test]
fn arrays_and_records_in_binary() {
    let list = binary(strings(&[Some("a"), None]), &array_of(SqlType::Text));
    let expected: Vec<u8> = [1, 1, 25, 2, 1, 1]
        .iter()
        .flat_map(|n: &i32| n.to_be_bytes())
        .chain(*b"a")
        .chain([0xff; 4])
        .collect();
    assert_eq!(list, expected);
    let empty: Vec<u8> = [0, 0, 25]
        .iter()
        .flat_map(|n: &i32| n.to_be_bytes())
        .collect();
    assert_eq!(binary(strings(&[]), &array_of(SqlType::Text)), empty);
    let two = binary(
        grid(&[1, 1], vec![7, 8]),
        &array_of(array_of(SqlType::Int4)),
    );
    let expected: Vec<u8> = [2, 0, 23, 2, 1, 1, 1, 4, 7, 4, 8]
        .iter()
        .flat_map(|n: &i32| n.to_be_bytes())
        .collect();
    assert_eq!(two, expected);
    let ragged: ArrayRef = Arc::new(grid(&[1, 2], vec![1, 2, 3]));
    let refused = encode_one(
        ragged,
        &array_of(array_of(SqlType::Int4)),
        Format::Binary,
        &Zone::Fixed(0),
    );
    assert_eq!(refused.expect_err("ragged").sqlstate, "2202E");
    let (array, ty) = record();
    let mut expected: Vec<u8> = [3, 23, 4, 1, 25, 5]
        .iter()
        .flat_map(|n: &i32| n.to_be_bytes())
        .chain(*b"a \"b\"")
        .collect();
    expected.extend([20, -1].iter().flat_map(|n: &i32| n.to_be_bytes()));
    assert_eq!(binary(array, &ty), expected);
}

#[test]
fn a_row_shorter_than_announced_is_an_error() {
    let schema = Arc::new(datafusion::arrow::datatypes::Schema::empty());
    let batch = RecordBatch::new_empty(schema);
    let columns = [Column {
        ty: SqlType::Int4,
        format: Format::Text,
    }];
    assert!(BatchEncoder::new(&columns, &batch, &Zone::Fixed(0)).is_err());
}
