//! HBase filters as the bytes that a gateway passes on: its `Filter` messages, in Protocol Buffers.
//!
//! Invariant: a filter of conditions keeps every row that they select. It may keep others, so what comes is compared again.

use arrow::array::{Array, ArrayRef};
use thalweg_catalog::SqlType;

use super::access::{Comparison, Condition};
use super::layout::{CellColumn, Layout};
use super::limits::{FILTER_BYTES_MAX, FILTER_VALUES_MAX};
use super::options::{CellEncoding, NullMode};
use super::scalar::Scalar;
use super::value::{self, Encoding};

const PACKAGE: &str = "org.apache.hadoop.hbase.filter.";
/// `FilterList.Operator`
const ALL: u8 = 1;
const ONE: u8 = 2;

/// `CompareType`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Compare {
    Less = 0,
    LessOrEqual = 1,
    Equal = 2,
    NotEqual = 3,
    GreaterOrEqual = 4,
    Greater = 5,
}

/// Conditions that HBase applies before it sends rows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct CellFilter {
    /// A serialized `Filter` message.
    pub(super) bytes: Vec<u8>,
    /// Columns of the table that it reads, sorted; their cells must be asked for.
    pub(super) columns: Vec<usize>,
}

/// The conditions on cells whose bytes can be compared in the place of their values.
pub(super) fn of_cells(layout: &Layout, conditions: &[Condition]) -> Option<CellFilter> {
    let (mut filters, mut columns) = (Vec::new(), Vec::new());
    let mut bytes = 0;
    for condition in conditions {
        let column = condition.column();
        let cells = &mut layout.cells.iter();
        let cell = cells.find(|cell| cell.column == column && cell.field.is_none());
        let Some(filter) = cell.and_then(|cell| of_cell(cell, condition, layout.null_mode)) else {
            continue;
        };
        if bytes + filter.len() > FILTER_BYTES_MAX {
            continue;
        }
        bytes += filter.len();
        filters.push(filter);
        columns.push(column);
    }
    columns.sort_unstable();
    columns.dedup();
    let bytes = match filters.len() {
        0 => return None,
        _ => list(ALL, &filters),
    };
    Some(CellFilter { bytes, columns })
}

fn of_cell(cell: &CellColumn, condition: &Condition, null_mode: NullMode) -> Option<Vec<u8>> {
    let CellEncoding::Plain(encoding) = cell.encoding else {
        return None;
    };
    let single = |op, comparator: Comparator<'_>| Some(column_value(cell, op, &comparator, true));
    match condition {
        Condition::Compare {
            comparison, value, ..
        } => {
            let scalar = Scalar::at(of_type(value, &cell.ty)?.as_ref(), 0, &cell.ty)?;
            let op = operator(*comparison, scalar, &cell.ty, encoding)?;
            single(op, Comparator::Binary(&encoded(scalar, cell, encoding)?))
        }
        Condition::In { values, .. } => {
            let values = of_type(values, &cell.ty)?;
            if values.len() > FILTER_VALUES_MAX {
                return None;
            }
            let mut each = Vec::new();
            for row in 0..values.len() {
                // NULL equals nothing.
                let Some(scalar) = Scalar::at(values.as_ref(), row, &cell.ty) else {
                    continue;
                };
                let op = operator(Comparison::Equal, scalar, &cell.ty, encoding)?;
                let bytes = encoded(scalar, cell, encoding)?;
                each.push(single(op, Comparator::Binary(&bytes))?);
            }
            // A list of no filters would let everything pass.
            (!each.is_empty()).then(|| list(ONE, &each))
        }
        Condition::Prefix { text, .. } if is_raw_text(&cell.ty) => {
            single(Compare::Equal, Comparator::Prefix(text.as_bytes()))
        }
        Condition::Prefix { .. } => None,
        Condition::Null { is_null, .. } => {
            let op = match (is_null, null_mode) {
                // Nothing is less than nothing: a row that has the cell is left out.
                (true, NullMode::Delete | NullMode::Skip) => Compare::Less,
                (true, NullMode::Empty) => Compare::Equal,
                (false, NullMode::Delete | NullMode::Skip) => Compare::GreaterOrEqual,
                (false, NullMode::Empty) => Compare::Greater,
            };
            let nothing = Comparator::Binary(&[]);
            Some(column_value(cell, op, &nothing, !is_null))
        }
    }
}

fn of_type<'a>(values: &'a ArrayRef, ty: &SqlType) -> Option<&'a ArrayRef> {
    (values.data_type() == &ty.arrow() && !values.is_empty()).then_some(values)
}

/// The comparison of bytes that no row is lost by which the comparison of values selects.
fn operator(
    comparison: Comparison,
    value: Scalar<'_>,
    ty: &SqlType,
    encoding: Encoding,
) -> Option<Compare> {
    let is_float = matches!(ty, SqlType::Float4 | SqlType::Float8);
    // HBase's programs write true as any byte but zero.
    if let (Encoding::Bytes, Scalar::Bool(value)) = (encoding, value) {
        return match (comparison, value) {
            (Comparison::Equal, false) => Some(Compare::Equal),
            _ => None,
        };
    }
    let one_spelling = has_one_spelling(value, ty, encoding);
    let ordered = |op| (encoding.keeps_order(ty) && one_spelling && !is_float).then_some(op);
    match comparison {
        Comparison::Equal => one_spelling.then_some(Compare::Equal),
        // Bytes hold one value: those of this one hold no other.
        Comparison::NotEqual => Some(Compare::NotEqual),
        Comparison::Less => ordered(Compare::Less),
        Comparison::LessOrEqual => ordered(Compare::LessOrEqual),
        Comparison::Greater => ordered(Compare::Greater),
        Comparison::GreaterOrEqual => ordered(Compare::GreaterOrEqual),
    }
}

/// Whether a cell passes the filter of a comparison, if there is one.
#[cfg(test)]
pub(super) fn passes(
    comparison: Comparison,
    value: Scalar<'_>,
    ty: &SqlType,
    encoding: Encoding,
    cell: &[u8],
) -> bool {
    let mut bytes = Vec::new();
    let encoded = value::encode(value, ty, encoding, &mut bytes);
    let op = encoded.ok().and(operator(comparison, value, ty, encoding));
    match op {
        None => true,
        Some(Compare::Less) => cell < &bytes[..],
        Some(Compare::LessOrEqual) => cell <= &bytes[..],
        Some(Compare::Equal) => cell == &bytes[..],
        Some(Compare::NotEqual) => cell != &bytes[..],
        Some(Compare::GreaterOrEqual) => cell >= &bytes[..],
        Some(Compare::Greater) => cell > &bytes[..],
    }
}

/// Whether every cell that holds the value, or one equal to it, holds the same bytes.
fn has_one_spelling(value: Scalar<'_>, ty: &SqlType, encoding: Encoding) -> bool {
    if is_padded(ty) {
        return false;
    }
    match (encoding, value) {
        // Zero has two signs, and there are many that are no number.
        (_, Scalar::Float4(value)) => encoding != Encoding::Text && value != 0.0 && !value.is_nan(),
        (_, Scalar::Float8(value)) => encoding != Encoding::Text && value != 0.0 && !value.is_nan(),
        (Encoding::Ordered, _) => true,
        // A BigDecimal of another program may have any scale.
        (Encoding::Bytes, Scalar::Numeric(_) | Scalar::Bool(_)) => false,
        (Encoding::Bytes, _) => true,
        (Encoding::Text, Scalar::Text(_) | Scalar::Bytes(_)) => true,
        // `7`, `+7` and `007` are one number, and a UUID may be in capitals.
        (Encoding::Text, _) => false,
    }
}

/// Blanks at its end do not count.
fn is_padded(ty: &SqlType) -> bool {
    matches!(ty, SqlType::Char(_))
}

fn is_raw_text(ty: &SqlType) -> bool {
    matches!(ty, SqlType::Text | SqlType::Varchar(_) | SqlType::Name)
}

fn encoded(value: Scalar<'_>, cell: &CellColumn, encoding: Encoding) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    value::encode(value, &cell.ty, encoding, &mut bytes).ok()?;
    Some(bytes)
}

/// What a cell is compared with.
enum Comparator<'a> {
    Binary(&'a [u8]),
    /// The beginning of the cell.
    Prefix(&'a [u8]),
}

/// `SingleColumnValueFilter`: rows by one of their cells, and, unless `present`, those that do not have it.
fn column_value(
    cell: &CellColumn,
    op: Compare,
    comparator: &Comparator<'_>,
    present: bool,
) -> Vec<u8> {
    let (name, value) = match comparator {
        Comparator::Binary(value) => ("BinaryComparator", value),
        Comparator::Prefix(value) => ("BinaryPrefixComparator", value),
    };
    // `ByteArrayComparable { value = 1 }` in `BinaryComparator { comparable = 1 }` in `Comparator`
    let (mut comparable, mut binary, mut named) = (Vec::new(), Vec::new(), Vec::new());
    field(1, value, &mut comparable);
    field(1, &comparable, &mut binary);
    field(1, format!("{PACKAGE}{name}").as_bytes(), &mut named);
    field(2, &binary, &mut named);
    let mut out = Vec::new();
    field(1, &cell.family, &mut out);
    field(2, &cell.qualifier, &mut out);
    number(3, op as u8, &mut out);
    field(4, &named, &mut out);
    number(5, u8::from(present), &mut out);
    // `latest_version_only`
    number(6, 1, &mut out);
    filter("SingleColumnValueFilter", &out)
}

/// One cell per row, without its value: enough to know that the row is there.
pub(super) fn first_key_only() -> Vec<u8> {
    let first = filter("FirstKeyOnlyFilter", &[]);
    // `KeyOnlyFilter.len_as_val = false`
    let keys = filter("KeyOnlyFilter", &[0x08, 0x00]);
    list(ALL, &[first, keys])
}

/// `FilterList { operator = 1; repeated filters = 2 }`
fn list(operator: u8, filters: &[Vec<u8>]) -> Vec<u8> {
    let mut list = Vec::new();
    number(1, operator, &mut list);
    for one in filters {
        field(2, one, &mut list);
    }
    filter("FilterList", &list)
}

/// `Filter { name = 1; serialized_filter = 2 }`
fn filter(name: &str, serialized: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    field(1, format!("{PACKAGE}{name}").as_bytes(), &mut out);
    field(2, serialized, &mut out);
    out
}

/// A field of a small number.
fn number(field: u8, value: u8, out: &mut Vec<u8>) {
    out.extend_from_slice(&[field << 3, value & 0x7f]);
}

/// A field of bytes: number and wire type, length, bytes.
fn field(number: u8, bytes: &[u8], out: &mut Vec<u8>) {
    out.push(number << 3 | 2);
    let mut length = bytes.len();
    while length >= 0x80 {
        out.push((length & 0x7f) as u8 | 0x80);
        length >>= 7;
    }
    out.push(length as u8);
    out.extend_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    type Case = (
        Scalar<'static>,
        SqlType,
        Encoding,
        Comparison,
        Option<Compare>,
    );

    fn check(cases: &[Case]) {
        for (value, ty, encoding, comparison, expected) in cases {
            let found = operator(*comparison, *value, ty, *encoding);
            assert_eq!(
                found, *expected,
                "{value:?} {ty} {encoding:?} {comparison:?}"
            );
        }
    }

    #[test]
    fn bytes_are_compared_only_where_they_say_what_values_do() {
        use Comparison::{Equal, Greater, Less, NotEqual};
        use Encoding::{Bytes, Ordered, Text};
        let numeric = SqlType::Numeric {
            declared: Some((12, 2)),
            held_scale: 2,
        };
        let cases = [
            // A negative number sorts after the others in two's complement.
            (Scalar::Int4(5), SqlType::Int4, Bytes, Less, None),
            (
                Scalar::Int4(5),
                SqlType::Int4,
                Bytes,
                Equal,
                Some(Compare::Equal),
            ),
            (Scalar::Int4(5), SqlType::Int4, Text, Equal, None),
            (
                Scalar::Int4(5),
                SqlType::Int4,
                Text,
                NotEqual,
                Some(Compare::NotEqual),
            ),
            (
                Scalar::Int4(5),
                SqlType::Int4,
                Ordered,
                Greater,
                Some(Compare::Greater),
            ),
            (Scalar::Float8(0.0), SqlType::Float8, Ordered, Equal, None),
            (
                Scalar::Float8(f64::NAN),
                SqlType::Float8,
                Bytes,
                Equal,
                None,
            ),
            (
                Scalar::Float8(1.5),
                SqlType::Float8,
                Bytes,
                Equal,
                Some(Compare::Equal),
            ),
            (Scalar::Float8(1.5), SqlType::Float8, Ordered, Less, None),
            (Scalar::Numeric(150), numeric.clone(), Bytes, Equal, None),
            (
                Scalar::Numeric(150),
                numeric,
                Ordered,
                Less,
                Some(Compare::Less),
            ),
        ];
        check(&cases);
    }

    #[test]
    fn bytes_with_several_spellings_are_not_compared() {
        use Comparison::{Equal, Greater, Less, NotEqual};
        use Encoding::{Bytes, Ordered, Text};
        let cases = [
            (Scalar::Bool(true), SqlType::Bool, Bytes, Equal, None),
            (Scalar::Bool(true), SqlType::Bool, Bytes, NotEqual, None),
            (
                Scalar::Bool(false),
                SqlType::Bool,
                Bytes,
                Equal,
                Some(Compare::Equal),
            ),
            (
                Scalar::Bool(true),
                SqlType::Bool,
                Ordered,
                Equal,
                Some(Compare::Equal),
            ),
            (Scalar::Text("a"), SqlType::Char(3), Bytes, Equal, None),
            (
                Scalar::Text("a"),
                SqlType::Text,
                Text,
                Greater,
                Some(Compare::Greater),
            ),
            (Scalar::Uuid([0xab; 16]), SqlType::Uuid, Text, Less, None),
            (Scalar::Uuid([0xab; 16]), SqlType::Uuid, Text, Equal, None),
            (
                Scalar::Uuid([0xab; 16]),
                SqlType::Uuid,
                Bytes,
                Less,
                Some(Compare::Less),
            ),
            (
                Scalar::Text("a"),
                SqlType::Varchar(Some(3)),
                Bytes,
                Equal,
                Some(Compare::Equal),
            ),
        ];
        check(&cases);
    }
}
