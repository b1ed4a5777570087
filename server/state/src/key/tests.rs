//! Proves that encoded rows sort as the rows do and decode to what they were, for every type that is stored.

use std::cmp::Ordering;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BinaryArray, BinaryViewArray, BooleanArray, Decimal128Array, FixedSizeBinaryArray,
    Float32Array, Float64Array, Int8Array, Int16Array, Int32Array, Int64Array,
    IntervalMonthDayNanoArray, ListArray, StringArray, StringViewArray, StructArray, UInt8Array,
    UInt16Array, UInt32Array, UInt64Array,
};
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::compute::cast;
use arrow::datatypes::{Field, IntervalMonthDayNano};
use arrow::row::{RowConverter, SortField};
use proptest::prelude::*;

use super::*;

const ROWS: usize = 12;

fn values<T: std::fmt::Debug + Clone + 'static>(
    value: impl Strategy<Value = T> + 'static,
    into: impl Fn(Vec<Option<T>>) -> ArrayRef + 'static,
) -> BoxedStrategy<ArrayRef> {
    prop::collection::vec(prop::option::weighted(0.8, value), ROWS)
        .prop_map(into)
        .boxed()
}

/// Numbers with the edges of their range among them.
macro_rules! numbers {
    ($array:ident, $native:ty) => {
        values(
            prop_oneof![
                any::<$native>(),
                Just(<$native>::MIN),
                Just(<$native>::MAX),
                0 as $native..4 as $native
            ],
            |values| Arc::new($array::from(values)) as ArrayRef,
        )
    };
}

/// Numbers under another type of the same width.
fn as_type(numbers: BoxedStrategy<ArrayRef>, data_type: DataType) -> BoxedStrategy<ArrayRef> {
    numbers
        .prop_map(move |array| {
            let data = array.to_data().into_builder().data_type(data_type.clone());
            arrow::array::make_array(data.build().expect("the same layout"))
        })
        .boxed()
}

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    // Few different bytes, so that one value often begins another.
    prop::collection::vec(
        prop_oneof![Just(0_u8), Just(1), Just(0xFF), any::<u8>()],
        0..5,
    )
}

fn texts() -> impl Strategy<Value = String> {
    prop_oneof!["[\u{0}a\u{10FFFF}]{0,4}", "\\PC{0,20}"]
}

fn floats(edges: &'static [f64]) -> impl Strategy<Value = f64> {
    prop_oneof![
        prop::num::f64::ANY,
        prop::sample::select(edges),
        (-3_i32..3).prop_map(f64::from)
    ]
}

const EDGES: &[f64] = &[
    0.0,
    -0.0,
    f64::NAN,
    -f64::NAN,
    f64::INFINITY,
    f64::NEG_INFINITY,
    f64::MIN_POSITIVE,
];

fn scalar() -> BoxedStrategy<ArrayRef> {
    let wide = |data_type: DataType| as_type(numbers!(Int64Array, i64), data_type);
    let interval = (any::<i32>(), -2_i32..2, any::<i64>())
        .prop_map(|(months, days, nanos)| IntervalMonthDayNano::new(months, days, nanos));
    prop_oneof![
        values(any::<bool>(), |v| Arc::new(BooleanArray::from(v))
            as ArrayRef),
        numbers!(Int8Array, i8),
        numbers!(Int16Array, i16),
        numbers!(Int32Array, i32),
        numbers!(Int64Array, i64),
        numbers!(UInt8Array, u8),
        numbers!(UInt16Array, u16),
        numbers!(UInt32Array, u32),
        numbers!(UInt64Array, u64),
        as_type(numbers!(Int32Array, i32), DataType::Date32),
        wide(DataType::Time64(TimeUnit::Microsecond)),
        wide(DataType::Timestamp(TimeUnit::Microsecond, None)),
        wide(DataType::Timestamp(
            TimeUnit::Microsecond,
            Some("UTC".into())
        )),
        values(floats(EDGES), |v| Arc::new(Float64Array::from(v))
            as ArrayRef),
        values(floats(EDGES), |v| {
            let narrow = v.into_iter().map(|value| value.map(|value| value as f32));
            Arc::new(Float32Array::from_iter(narrow)) as ArrayRef
        }),
        values(any::<i128>(), |v| {
            let array = Decimal128Array::from(v).with_precision_and_scale(38, 10);
            Arc::new(array.expect("a precision")) as ArrayRef
        }),
        values(interval, |v| Arc::new(IntervalMonthDayNanoArray::from(v))
            as ArrayRef),
        values(texts(), |v| Arc::new(StringArray::from(v)) as ArrayRef),
        values(texts(), |v| Arc::new(StringViewArray::from_iter(v))
            as ArrayRef),
        values(bytes(), |v| {
            Arc::new(BinaryArray::from_iter(v)) as ArrayRef
        }),
        values(bytes(), |v| Arc::new(BinaryViewArray::from_iter(v))
            as ArrayRef),
        values(any::<[u8; 16]>(), |v| {
            let array = FixedSizeBinaryArray::try_from_sparse_iter_with_size(v.into_iter(), 16);
            Arc::new(array.expect("16 bytes each")) as ArrayRef
        }),
    ]
    .boxed()
}

fn nested() -> BoxedStrategy<ArrayRef> {
    let lists = (
        scalar(),
        prop::collection::vec(0_usize..4, ROWS),
        prop::collection::vec(prop::bool::weighted(0.8), ROWS),
    )
        .prop_map(|(items, lengths, valid)| {
            let mut left = items.len();
            let lengths = lengths.into_iter().map(|length| {
                let length = length.min(left);
                left -= length;
                length
            });
            let offsets = OffsetBuffer::from_lengths(lengths.collect::<Vec<_>>());
            let items = items.slice(0, *offsets.last().expect("offsets") as usize);
            let item = Arc::new(Field::new("item", items.data_type().clone(), true));
            let list = ListArray::try_new(item, offsets, items, Some(NullBuffer::from(valid)));
            Arc::new(list.expect("a list")) as ArrayRef
        });
    let structs = (
        scalar(),
        scalar(),
        prop::collection::vec(prop::bool::weighted(0.8), ROWS),
    )
        .prop_map(|(a, b, valid)| {
            let fields = vec![
                Field::new("a", a.data_type().clone(), true),
                Field::new("b", b.data_type().clone(), true),
            ];
            let array =
                StructArray::try_new(fields.into(), vec![a, b], Some(NullBuffer::from(valid)));
            Arc::new(array.expect("a struct")) as ArrayRef
        });
    prop_oneof![lists, structs].boxed()
}

fn columns() -> impl Strategy<Value = Vec<ArrayRef>> {
    prop::collection::vec(prop_oneof![3 => scalar(), 1 => nested()], 1..4)
}

fn codec(columns: &[ArrayRef]) -> KeyCodec {
    let types = columns.iter().map(|column| column.data_type().clone());
    KeyCodec::new(types.collect(), 1).expect("supported")
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// The order of the bytes is that of the values, as another implementation has it.
    #[test]
    fn bytes_sort_as_rows_do(columns in columns()) {
        let keys = codec(&columns).encode(&columns, ROWS).expect("encodes");
        let fields = columns.iter().map(|column| SortField::new(column.data_type().clone()));
        let converter = RowConverter::new(fields.collect()).expect("supported");
        let rows = converter.convert_columns(&columns).expect("converts");
        for a in 0..ROWS {
            for b in 0..ROWS {
                prop_assert_eq!(keys.row(a).cmp(keys.row(b)), rows.row(a).cmp(&rows.row(b)), "rows {} and {}", a, b);
                let begins = keys.row(b).starts_with(keys.row(a));
                prop_assert_eq!(begins, keys.row(a) == keys.row(b), "row {} begins row {}", a, b);
            }
        }
    }

    /// What was encoded comes back.
    #[test]
    fn rows_come_back(columns in columns()) {
        let codec = codec(&columns);
        let keys = codec.encode(&columns, ROWS).expect("encodes");
        let back = codec.decode((0..ROWS).map(|row| keys.row(row))).expect("decodes");
        prop_assert_eq!(&back, &columns);
        let again = codec.encode(&back, ROWS).expect("encodes");
        for row in 0..ROWS {
            prop_assert_eq!(keys.row(row), again.row(row));
            prop_assert!(keys.row(row).starts_with(keys.prefix(row)));
        }
    }

    /// Other bytes are an error or a value that encodes to them, and never a panic.
    #[test]
    fn any_bytes_are_decoded_or_refused(columns in columns(), row in 0..ROWS, cut: prop::sample::Index, flip in any::<u8>()) {
        let codec = codec(&columns);
        let keys = codec.encode(&columns, ROWS).expect("encodes");
        let mut bytes = keys.row(row).to_vec();
        let at = cut.index(bytes.len());
        prop_assert!(codec.decode([&bytes[..at]]).is_err());
        bytes[at] ^= flip;
        if let Ok(other) = codec.decode([bytes.as_slice()]) {
            let again = codec.encode(&other, 1).expect("encodes");
            prop_assert_eq!(again.row(0), bytes.as_slice());
        }
    }
}

/// The bytes themselves are part of the format of runs.
#[test]
fn the_encoding_does_not_change() {
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int32Array::from(vec![Some(1), None])),
        Arc::new(StringViewArray::from(vec![Some("a\0b"), Some("")])),
        Arc::new(Float64Array::from(vec![-1.5, 1.5])),
    ];
    let keys = codec(&columns).encode(&columns, 2).expect("encodes");
    let first = [
        1, 0x80, 0, 0, 1, 1, b'a', 0, 0xFF, b'b', 0, 0, 1, 0x40, 0x07, 0xFF, 0xFF, 0xFF, 0xFF,
        0xFF, 0xFF,
    ];
    assert_eq!(keys.row(0), first);
    assert_eq!(keys.prefix(0), &first[..5]);
    assert_eq!(keys.row(1), [0, 1, 0, 0, 1, 0xBF, 0xF8, 0, 0, 0, 0, 0, 0]);
    assert_eq!(keys.row(1).cmp(keys.row(0)), Ordering::Less);
}

#[test]
fn text_is_encoded_alike_in_every_array() {
    let view: ArrayRef = Arc::new(StringViewArray::from(vec![
        Some("a text of more than twelve bytes"),
        None,
    ]));
    let plain = cast(&view, &DataType::Utf8).expect("casts");
    let encoded = |column: ArrayRef| {
        let columns = [column];
        let keys = codec(&columns).encode(&columns, 2).expect("encodes");
        (keys.row(0).to_vec(), keys.row(1).to_vec())
    };
    assert_eq!(encoded(view), encoded(plain));
}

#[test]
fn what_cannot_be_stored_is_refused() {
    let unknown = DataType::Duration(TimeUnit::Second);
    let error = KeyCodec::new(vec![DataType::Int64, unknown], 1).expect_err("refused");
    assert_eq!(error.sqlstate(), "0A000");
}
