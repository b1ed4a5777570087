//! Values and row keys: what Java writes, order, and that push-down never loses a row.

use std::cmp::Ordering;
use std::sync::Arc;

use arrow::array::ArrayRef;
use proptest::prelude::*;
use thalweg_catalog::SqlType;

use super::access::{Access, Comparison, Condition, decide};
use super::filter::passes;
use super::key::{Joint, KeyCodec, Part, successor};
use super::scalar::{Scalar, ScalarBuilder};
use super::value::{Encoding, decode, encode};

fn bytes(value: Scalar<'_>, ty: &SqlType, encoding: Encoding) -> Result<Vec<u8>, &'static str> {
    let mut out = Vec::new();
    encode(value, ty, encoding, &mut out).map(|()| out)
}

/// Written by `org.apache.hadoop.hbase.util.Bytes.toBytes`.
#[test]
fn bytes_are_those_of_java() {
    let numeric = SqlType::numeric(12, 2);
    let cases: Vec<(Scalar<'_>, SqlType, &[u8])> = vec![
        (Scalar::Bool(true), SqlType::Bool, &[0xff]),
        (Scalar::Bool(false), SqlType::Bool, &[0]),
        (Scalar::Int2(-2), SqlType::Int2, &[0xff, 0xfe]),
        (Scalar::Int4(258), SqlType::Int4, &[0, 0, 1, 2]),
        (Scalar::Int8(-1), SqlType::Int8, &[0xff; 8]),
        (Scalar::Float4(1.5), SqlType::Float4, &[0x3f, 0xc0, 0, 0]),
        (
            Scalar::Float8(-2.0),
            SqlType::Float8,
            &[0xc0, 0, 0, 0, 0, 0, 0, 0],
        ),
        (
            Scalar::Numeric(1230),
            numeric.clone(),
            &[0, 0, 0, 2, 0x04, 0xce],
        ),
        (Scalar::Numeric(-1), numeric.clone(), &[0, 0, 0, 2, 0xff]),
        (
            Scalar::Numeric(128),
            numeric.clone(),
            &[0, 0, 0, 2, 0, 0x80],
        ),
        (Scalar::Numeric(0), numeric, &[0, 0, 0, 2, 0]),
        (Scalar::Text("grün"), SqlType::Text, "grün".as_bytes()),
        (Scalar::Date(1), SqlType::Date, &[0, 0, 0, 1]),
        (Scalar::Time(1_000_000), SqlType::Time, &[0, 0, 0x03, 0xe8]),
        (Scalar::Timestamp(-1_000), SqlType::Timestamptz, &[0xff; 8]),
    ];
    for (value, ty, expected) in cases {
        assert_eq!(
            bytes(value, &ty, Encoding::Bytes),
            Ok(expected.to_vec()),
            "{ty}"
        );
        assert_eq!(decode(expected, &ty, Encoding::Bytes), Some(value), "{ty}");
    }
}

#[test]
fn foreign_spellings_are_read_and_nothing_is_lost() {
    let numeric = SqlType::numeric(6, 2);
    let read = |bytes: &[u8], ty: &SqlType, encoding| decode(bytes, ty, encoding).is_some();
    // 1.5 with scale 1, 150e0 with scale -1, and 1.555, which has a digit too many.
    for (bytes, expected) in [
        (&[0, 0, 0, 1, 15][..], Some(Scalar::Numeric(150))),
        (&[0xff, 0xff, 0xff, 0xff, 15], Some(Scalar::Numeric(15_000))),
        (&[0, 0, 0, 3, 0x06, 0x13], None),
        (&[0, 0, 0, 2], None),
        (&[0x7f, 0xff, 0xff, 0xff, 1], None),
        (&[0, 0, 0, 0, 0x7f, 0xff, 0xff], None),
    ] {
        assert_eq!(
            decode(bytes, &numeric, Encoding::Bytes),
            expected,
            "{bytes:?}"
        );
    }
    assert!(!read(&[1, 2, 3], &SqlType::Int4, Encoding::Bytes));
    assert!(!read(&[0xff], &SqlType::Text, Encoding::Bytes));
    assert!(!read(b"a\0b", &SqlType::Text, Encoding::Bytes));
    assert!(!read(b"abc", &SqlType::Varchar(Some(2)), Encoding::Text));
    assert!(!read(b"1.555", &numeric, Encoding::Text));
    assert!(read(b"1.550", &numeric, Encoding::Text));
    assert!(!read(b"1e400", &SqlType::Float8, Encoding::Text));
    assert!(read(b"-Infinity", &SqlType::Float8, Encoding::Text));
    assert_eq!(
        decode(
            b"2020-01-01T00:00:00+01:00",
            &SqlType::Timestamptz,
            Encoding::Text
        ),
        decode(
            b"2019-12-31 23:00:00Z",
            &SqlType::Timestamptz,
            Encoding::Text
        ),
    );
    let finer = Scalar::Timestamp(1);
    assert!(bytes(finer, &SqlType::Timestamp, Encoding::Bytes).is_err());
    assert!(bytes(finer, &SqlType::Timestamp, Encoding::Ordered).is_ok());
}

/// A value of a type, owned.
#[derive(Debug, Clone)]
enum Owned {
    Plain(Scalar<'static>),
    Text(String),
    Bytes(Vec<u8>),
}

impl Owned {
    fn scalar(&self) -> Scalar<'_> {
        match self {
            Owned::Plain(scalar) => *scalar,
            Owned::Text(text) => Scalar::Text(text),
            Owned::Bytes(bytes) => Scalar::Bytes(bytes),
        }
    }
}

const DAY_US: i64 = 86_400_000_000;

fn typed() -> impl Strategy<Value = (SqlType, Vec<Owned>)> {
    fn many<T: 'static + Clone + std::fmt::Debug>(
        ty: SqlType,
        values: impl Strategy<Value = T> + 'static,
        make: impl Fn(T) -> Owned + Clone + 'static,
    ) -> BoxedStrategy<(SqlType, Vec<Owned>)> {
        proptest::collection::vec(values.prop_map(make), 2..12)
            .prop_map(move |values| (ty.clone(), values))
            .boxed()
    }
    let text = "[a-c\u{1}|é]{0,4}";
    let moment = -4_000_000_000_000i64..4_000_000_000_000;
    prop_oneof![
        many(SqlType::Bool, any::<bool>(), |v| Owned::Plain(
            Scalar::Bool(v)
        )),
        many(SqlType::Int2, any::<i16>(), |v| Owned::Plain(Scalar::Int2(
            v
        ))),
        many(SqlType::Int4, any::<i32>(), |v| Owned::Plain(Scalar::Int4(
            v
        ))),
        many(SqlType::Int8, any::<i64>(), |v| Owned::Plain(Scalar::Int8(
            v
        ))),
        many(SqlType::Float4, any::<f32>(), |v| Owned::Plain(
            Scalar::Float4(v)
        )),
        many(SqlType::Float8, any::<f64>(), |v| Owned::Plain(
            Scalar::Float8(v)
        )),
        many(
            SqlType::numeric(18, 4),
            -10i128.pow(18) + 1..10i128.pow(18),
            |v| { Owned::Plain(Scalar::Numeric(v)) }
        ),
        many(SqlType::Text, text, Owned::Text),
        many(SqlType::Varchar(Some(4)), text, Owned::Text),
        many(
            SqlType::Bytea,
            proptest::collection::vec(0u8..3, 0..4),
            Owned::Bytes
        ),
        many(SqlType::Date, -700_000i32..700_000, |v| Owned::Plain(
            Scalar::Date(v)
        )),
        many(SqlType::Time, 0..DAY_US / 1000, |v| Owned::Plain(
            Scalar::Time(v * 1000)
        )),
        many(SqlType::Timestamp, moment.clone(), |v| Owned::Plain(
            Scalar::Timestamp(v * 1000)
        )),
        many(SqlType::Timestamptz, moment, |v| Owned::Plain(
            Scalar::Timestamp(v * 1000)
        )),
        many(SqlType::Uuid, any::<[u8; 16]>(), |v| Owned::Plain(
            Scalar::Uuid(v)
        )),
    ]
}

/// The cells that hold a value: ours, and those that other programs may write for it.
fn spellings(value: Scalar<'_>, ty: &SqlType, encoding: Encoding) -> Vec<Vec<u8>> {
    let Ok(ours) = bytes(value, ty, encoding) else {
        return Vec::new();
    };
    let mut cells = vec![ours.clone()];
    match (encoding, value) {
        (Encoding::Bytes, Scalar::Bool(true)) => cells.extend([vec![1], vec![0x7f]]),
        (Encoding::Bytes, Scalar::Numeric(digits)) => {
            let mut finer = 5i32.to_be_bytes().to_vec();
            finer.extend((digits * 10).to_be_bytes());
            cells.push(finer);
        }
        (Encoding::Text, Scalar::Text(_) | Scalar::Bytes(_)) => {}
        (Encoding::Text, _) => {
            let text = String::from_utf8(ours).expect("a number or a moment has text");
            let (sign, digits) = match text.strip_prefix('-') {
                Some(digits) => ("-", digits),
                None => ("", &text[..]),
            };
            cells.extend(
                [
                    text.to_uppercase(),
                    text.replace('-', ""),
                    text.replace('T', " "),
                    text.replace('Z', "+00:00"),
                    text.trim_end_matches('0').to_owned(),
                    text.get(..1).unwrap_or_default().to_owned(),
                    u8::from(text == "true").to_string(),
                    format!("+{text}"),
                    format!("{sign}00{digits}"),
                    format!("{text}0"),
                    format!("{text}.0"),
                    format!("{text}e0"),
                    format!("{{{text}}}"),
                    format!("urn:uuid:{text}"),
                ]
                .map(String::into_bytes),
            );
        }
        _ => {}
    }
    // Of some types these are other values, or none.
    cells.retain(|cell| decode(cell, ty, encoding).is_some_and(|read| same(read, value)));
    cells
}

/// The order that queries see.
fn compare(a: Scalar<'_>, b: Scalar<'_>) -> Ordering {
    match (a, b) {
        (Scalar::Bool(a), Scalar::Bool(b)) => a.cmp(&b),
        (Scalar::Int2(a), Scalar::Int2(b)) => a.cmp(&b),
        (Scalar::Int4(a), Scalar::Int4(b)) | (Scalar::Date(a), Scalar::Date(b)) => a.cmp(&b),
        (Scalar::Int8(a), Scalar::Int8(b))
        | (Scalar::Time(a), Scalar::Time(b))
        | (Scalar::Timestamp(a), Scalar::Timestamp(b)) => a.cmp(&b),
        (Scalar::Float4(a), Scalar::Float4(b)) => a.total_cmp(&b),
        (Scalar::Float8(a), Scalar::Float8(b)) => a.total_cmp(&b),
        (Scalar::Numeric(a), Scalar::Numeric(b)) => a.cmp(&b),
        (Scalar::Text(a), Scalar::Text(b)) => a.cmp(b),
        (Scalar::Bytes(a), Scalar::Bytes(b)) => a.cmp(b),
        (Scalar::Uuid(a), Scalar::Uuid(b)) => a.cmp(&b),
        _ => panic!("values of one column have one type"),
    }
}

fn same(a: Scalar<'_>, b: Scalar<'_>) -> bool {
    match (a, b) {
        // NaN equals itself here.
        (Scalar::Float4(a), Scalar::Float4(b)) => a == b || a.is_nan() && b.is_nan(),
        (Scalar::Float8(a), Scalar::Float8(b)) => a == b || a.is_nan() && b.is_nan(),
        _ => a == b,
    }
}

fn array(ty: &SqlType, values: &[Scalar<'_>]) -> ArrayRef {
    let mut builder = ScalarBuilder::new(ty);
    for value in values {
        assert!(builder.append(Some(*value)), "{value:?} is of type {ty}");
    }
    builder.finish()
}

/// `descending` is of ordered keys alone.
fn codec(types: &[SqlType], joint: Joint, salt: u16, descending: [bool; 2]) -> Option<KeyCodec> {
    let part = |(index, ty): (usize, &SqlType)| Part {
        name: format!("k{index}"),
        ty: ty.clone(),
        descending: joint == Joint::Ordered && descending[index],
    };
    KeyCodec::new(types.iter().enumerate().map(part).collect(), joint, salt).ok()
}

fn joints() -> impl Strategy<Value = Joint> {
    prop_oneof![
        Just(Joint::Single(Encoding::Bytes)),
        Just(Joint::Single(Encoding::Text)),
        Just(Joint::Single(Encoding::Ordered)),
        Just(Joint::Ordered),
        Just(Joint::Separated(b'|')),
        Just(Joint::Fixed),
    ]
}

/// Whether a row fulfils a condition.
type Test<'a> = Box<dyn Fn(&[Scalar<'_>]) -> bool + 'a>;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn what_is_written_is_read((ty, values) in typed()) {
        for encoding in [Encoding::Bytes, Encoding::Text, Encoding::Ordered] {
            for value in &values {
                let written = bytes(value.scalar(), &ty, encoding);
                let written = written.expect("every value here has bytes");
                let read = decode(&written, &ty, encoding);
                prop_assert!(read.is_some_and(|read| same(read, value.scalar())), "{value:?} {written:?} {read:?}");
                let column = array(&ty, &[value.scalar()]);
                let back = Scalar::at(column.as_ref(), 0, &ty);
                prop_assert!(back.is_some_and(|back| same(back, value.scalar())));
            }
        }
    }

    #[test]
    fn ordered_bytes_sort_as_values((ty, values) in typed()) {
        for encoding in [Encoding::Bytes, Encoding::Text, Encoding::Ordered] {
            if !encoding.keeps_order(&ty) {
                continue;
            }
            for a in &values {
                for b in &values {
                    let written = [a, b].map(|one| bytes(one.scalar(), &ty, encoding).expect("bytes"));
                    prop_assert_eq!(written[0].cmp(&written[1]), compare(a.scalar(), b.scalar()));
                }
            }
        }
    }

    /// Whatever the types of the parts, and which of them descend.
    #[test]
    fn ordered_keys_sort_as_rows((first, a) in typed(), (second, b) in typed(), descending in any::<[bool; 2]>()) {
        let types = [first, second];
        let codec = codec(&types, Joint::Ordered, 0, descending).expect("a key");
        let mut rows = Vec::new();
        for values in a.iter().flat_map(|a| b.iter().map(move |b| [a.scalar(), b.scalar()])) {
            let key = codec.encode(&values).expect("every value here has bytes");
            // As it is read: -0 and 0 are one value.
            let mut read = Vec::new();
            codec.decode(&key, &mut Vec::new(), |part, value| read.push(array(&types[part], &[value]))).expect("our own key");
            rows.push((key, read));
        }
        for (key, row) in &rows {
            for (other_key, other) in &rows {
                let order = (0..2).map(|part| {
                    let [a, b] = [row, other].map(|row| Scalar::at(row[part].as_ref(), 0, &types[part]).expect("a value"));
                    if descending[part] { compare(b, a) } else { compare(a, b) }
                });
                let order = order.fold(Ordering::Equal, Ordering::then);
                prop_assert_eq!(key.cmp(other_key), order, "{:?} {:?}", row, other);
            }
        }
    }

    #[test]
    fn reading_any_bytes_is_a_value_or_none(ty in typed().prop_map(|typed| typed.0), noise in proptest::collection::vec(any::<u8>(), 0..24)) {
        for encoding in [Encoding::Bytes, Encoding::Text, Encoding::Ordered] {
            let _ = decode(&noise, &ty, encoding);
        }
    }

    /// What HBase compares in the place of values lets every row pass that the values select, whoever wrote it.
    #[test]
    fn filters_lose_no_row((ty, values) in typed()) {
        use Comparison::{Equal, Greater, GreaterOrEqual, Less, LessOrEqual, NotEqual};
        for encoding in [Encoding::Bytes, Encoding::Text, Encoding::Ordered] {
            for (cell, wanted) in values.iter().flat_map(|a| values.iter().map(move |b| (a, b))) {
                for held in spellings(cell.scalar(), &ty, encoding) {
                    let held_value = decode(&held, &ty, encoding).expect("a spelling of a value");
                    let order = compare(held_value, wanted.scalar());
                    for (comparison, selected) in [
                        (Equal, order.is_eq()),
                        (NotEqual, order.is_ne()),
                        (Less, order.is_lt()),
                        (LessOrEqual, order.is_le()),
                        (Greater, order.is_gt()),
                        (GreaterOrEqual, order.is_ge()),
                    ] {
                        let passes = passes(comparison, wanted.scalar(), &ty, encoding, &held);
                        prop_assert!(passes || !selected, "{held_value:?} {comparison:?} {wanted:?} under {encoding:?} in {held:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn keys_are_read_as_written_and_other_bytes_are_refused(
        (first, a) in typed(),
        (second, b) in typed(),
        joint in joints(),
        salt in prop_oneof![Just(0u16), Just(7), Just(256)],
        descending in any::<[bool; 2]>(),
        noise in proptest::collection::vec(any::<u8>(), 0..40),
    ) {
        let single = matches!(joint, Joint::Single(_));
        let types = if single { vec![first] } else { vec![first, second] };
        let Some(codec) = codec(&types, joint, salt, descending) else { return Ok(()) };
        for (a, b) in a.iter().zip(&b) {
            let values = if single { vec![a.scalar()] } else { vec![a.scalar(), b.scalar()] };
            // Text with the separator in it, and empty keys.
            let Ok(key) = codec.encode(&values) else { continue };
            let mut read = 0;
            let decoded = codec.decode(&key, &mut Vec::new(), |part, value| {
                assert!(same(value, values[part]), "{value:?} {values:?}");
                read += 1;
            });
            prop_assert_eq!((decoded, read), (Ok(()), values.len()));
        }
        // Whatever decodes is spelled so.
        let mut found = Vec::new();
        let decoded = codec.decode(&noise, &mut Vec::new(), |index, value| {
            let mut builder = ScalarBuilder::new(&types[index]);
            builder.append(Some(value));
            found.push(builder.finish());
        });
        if decoded.is_ok() {
            let values: Vec<_> = found.iter().zip(&types).map(|(array, ty)| Scalar::at(array.as_ref(), 0, ty).expect("a value")).collect();
            if !noise.is_empty() {
                prop_assert_eq!(codec.encode(&values), Ok(noise));
            }
        }
    }

    /// The rows that are asked for include all that the conditions select, and no others when they are called exact.
    #[test]
    fn push_down_loses_no_row(
        (first, a) in typed(),
        (second, b) in typed(),
        joint in joints(),
        salt in prop_oneof![Just(0u16), Just(3)],
        descending in any::<[bool; 2]>(),
        conditions in proptest::collection::vec((0usize..2, 0usize..7, any::<[proptest::sample::Index; 2]>()), 0..4),
        prefix in "[a-c|é]{0,2}",
    ) {
        let single = matches!(joint, Joint::Single(_));
        let types = if single { vec![first] } else { vec![first, second] };
        let Some(codec) = codec(&types, joint, salt, descending) else { return Ok(()) };
        let columns = [&a, &b];
        let comparisons = [Comparison::Equal, Comparison::Less, Comparison::LessOrEqual, Comparison::Greater, Comparison::GreaterOrEqual];
        let mut asked = Vec::new();
        let mut tests: Vec<Test<'_>> = Vec::new();
        for (column, kind, picks) in conditions {
            let Some(ty) = types.get(column) else { continue };
            let picked: Vec<Scalar<'_>> = picks.iter().map(|pick| pick.get(columns[column]).scalar()).collect();
            if let Some(comparison) = comparisons.get(kind).copied() {
                let value = picked[0];
                asked.push(Condition::Compare { column, comparison, value: array(ty, &[value]) });
                tests.push(Box::new(move |row| {
                    let order = compare(row[column], value);
                    match comparison {
                        Comparison::Equal => order.is_eq(),
                        Comparison::NotEqual => order.is_ne(),
                        Comparison::Less => order.is_lt(),
                        Comparison::LessOrEqual => order.is_le(),
                        Comparison::Greater => order.is_gt(),
                        Comparison::GreaterOrEqual => order.is_ge(),
                    }
                }));
            } else if kind == 5 {
                asked.push(Condition::In { column, values: array(ty, &picked) });
                tests.push(Box::new(move |row| picked.iter().any(|value| compare(row[column], *value).is_eq())));
            } else if matches!(picked[0], Scalar::Text(_)) {
                asked.push(Condition::Prefix { column, text: prefix.clone() });
                let prefix = prefix.clone();
                tests.push(Box::new(move |row| matches!(row[column], Scalar::Text(text) if text.starts_with(&prefix))));
            }
        }
        let key_columns: Vec<usize> = (0..types.len()).collect();
        let decision = decide(&codec, &key_columns, &asked);
        prop_assert_eq!(decision.exact.len(), asked.len());
        let all_exact = decision.exact.iter().all(|exact| *exact);
        for a in &a {
            for b in &b {
                let row = if single { vec![a.scalar()] } else { vec![a.scalar(), b.scalar()] };
                let Ok(key) = codec.encode(&row) else { continue };
                // What is stored is read back in its one spelling.
                let mut stored = Vec::new();
                codec.decode(&key, &mut Vec::new(), |index, value| stored.push(array(&types[index], &[value]))).expect("our own key");
                let row: Vec<_> = stored.iter().zip(&types).map(|(array, ty)| Scalar::at(array.as_ref(), 0, ty).expect("a value")).collect();
                let selected = tests.iter().all(|test| test(&row));
                let asked_for = match &decision.access {
                    Access::Keys(keys) => keys.contains(&key),
                    Access::Ranges(ranges) => ranges.iter().any(|range| key >= range.start && (range.stop.is_empty() || key < range.stop)),
                };
                prop_assert!(asked_for || !selected, "lost {row:?} of {asked:?} in {:?}", decision.access);
                if all_exact {
                    prop_assert_eq!(asked_for, selected, "{:?} of {:?} in {:?}", row, asked, decision.access);
                }
            }
        }
    }
}

#[test]
fn push_down_of_typical_queries() {
    let user_day = [SqlType::Int8, SqlType::Date];
    let coded = |salt, descending| codec(&user_day, Joint::Ordered, salt, descending);
    let newest_first = coded(0, [false, true]).expect("a key");
    let salted = coded(16, [false; 2]).expect("a key");
    let user_day = coded(0, [false; 2]).expect("a key");
    let value = |ty: &SqlType, scalar| array(ty, &[scalar]);
    let equal = |column, value| Condition::Compare {
        column,
        comparison: Comparison::Equal,
        value,
    };
    let user = equal(0, value(&SqlType::Int8, Scalar::Int8(5)));
    let day = equal(1, value(&SqlType::Date, Scalar::Date(9)));
    let since = Condition::Compare {
        column: 1,
        comparison: Comparison::GreaterOrEqual,
        value: value(&SqlType::Date, Scalar::Date(9)),
    };
    let key = [&[0x80, 0, 0, 0, 0, 0, 0, 5][..], &[0x80, 0, 0, 9]].concat();
    let decision = decide(&user_day, &[0, 1], &[user.clone(), day]);
    assert_eq!(decision.access, Access::Keys(vec![key.clone()]));
    assert_eq!(decision.exact, [true, true]);
    let decision = decide(&user_day, &[0, 1], &[user.clone(), since.clone()]);
    let Access::Ranges(ranges) = decision.access else {
        panic!("a range")
    };
    assert_eq!(ranges.len(), 1);
    assert_eq!(ranges[0].start, key);
    assert_eq!(ranges[0].stop, [0x80, 0, 0, 0, 0, 0, 0, 6]);
    // The other way round these are the first days of the user.
    let decision = decide(&newest_first, &[0, 1], &[user.clone(), since.clone()]);
    let Access::Ranges(ranges) = decision.access else {
        panic!("a range")
    };
    assert_eq!(decision.exact, [true, true]);
    assert_eq!(ranges.len(), 1);
    let user_5 = [0x80, 0, 0, 0, 0, 0, 0, 5];
    assert_eq!(ranges[0].start, user_5);
    let after_day_9 = [&user_5[..], &[0x7f, 0xff, 0xff, 0xf7]].concat();
    assert_eq!(ranges[0].stop, after_day_9);
    // A condition on the second part alone selects nothing by key.
    let decision = decide(&user_day, &[0, 1], &[since]);
    assert_eq!(decision.exact, [false]);
    match decide(&salted, &[0, 1], &[user]).access {
        Access::Ranges(ranges) => assert_eq!(ranges.len(), 16),
        Access::Keys(_) => panic!("ranges"),
    }
    let empty: ArrayRef = Arc::new(arrow::array::Int64Array::new_null(1));
    let null = equal(0, empty);
    assert_eq!(
        decide(&user_day, &[0, 1], &[null]).access,
        Access::Ranges(Vec::new()),
        "nothing equals NULL"
    );
}

#[test]
fn successors_end_a_prefix() {
    assert_eq!(successor(b"ab"), b"ac");
    assert_eq!(successor(&[1, 0xff, 0xff]), [2]);
    assert!(successor(&[0xff, 0xff]).is_empty());
    assert!(successor(&[]).is_empty());
}
