//! Rows of three engines in one form, compared as multisets.
//!
//! Invariant: two cells are equal when the values are, whatever type carried them; only averages have a tolerance.

use datafusion::arrow::array::{Array, ArrayRef, AsArray, BooleanArray};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::DataType;
use datafusion::arrow::record_batch::RecordBatch;

/// One value.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cell {
    /// NULL
    Null,
    /// Integers and booleans (0 and 1, as SQLite holds them).
    Int(i128),
    /// Averages, in millionths.
    Millionths(i128),
    /// Text.
    Text(String),
}

/// One row.
pub type Row = Vec<Cell>;

/// Rows of Arrow batches.
///
/// # Errors
/// A column of a type that no generated query makes.
pub(crate) fn rows_of(batches: &[RecordBatch]) -> Result<Vec<Row>, String> {
    let mut rows = Vec::new();
    for batch in batches {
        let columns: Vec<Vec<Cell>> = batch
            .columns()
            .iter()
            .map(cells)
            .collect::<Result<_, _>>()?;
        for i in 0..batch.num_rows() {
            rows.push(columns.iter().map(|column| column[i].clone()).collect());
        }
    }
    Ok(rows)
}

fn cells(column: &ArrayRef) -> Result<Vec<Cell>, String> {
    let null_or = |i: usize, value: Cell| if column.is_null(i) { Cell::Null } else { value };
    match column.data_type() {
        DataType::Null => Ok(vec![Cell::Null; column.len()]),
        DataType::Boolean => {
            let values: &BooleanArray = column.as_boolean();
            Ok((0..column.len())
                .map(|i| null_or(i, Cell::Int(i128::from(values.value(i)))))
                .collect())
        }
        ty if ty.is_integer() || matches!(ty, DataType::Decimal128(_, _)) || ty.is_floating() => {
            let text = cast(column, &DataType::Utf8).map_err(|error| error.to_string())?;
            let text = text.as_string::<i32>();
            (0..column.len())
                .map(|i| {
                    if column.is_null(i) {
                        Ok(Cell::Null)
                    } else {
                        number(text.value(i))
                    }
                })
                .collect()
        }
        DataType::Utf8 | DataType::Utf8View | DataType::LargeUtf8 => {
            let text = cast(column, &DataType::Utf8).map_err(|error| error.to_string())?;
            let text = text.as_string::<i32>();
            Ok((0..column.len())
                .map(|i| null_or(i, Cell::Text(text.value(i).to_owned())))
                .collect())
        }
        other => Err(format!("a column of type {other}")),
    }
}

/// A number's text as a whole number, or in millionths when it has a fraction.
fn number(text: &str) -> Result<Cell, String> {
    let wrong = || format!("not a number: {text}");
    let Some((whole, fraction)) = text.split_once('.') else {
        return text.parse().map(Cell::Int).map_err(|_| wrong());
    };
    if fraction.bytes().all(|byte| byte == b'0') {
        return whole.parse().map(Cell::Int).map_err(|_| wrong());
    }
    let value: f64 = text.parse().map_err(|_| wrong())?;
    Ok(real(value))
}

/// A floating-point number in the common form.
pub(crate) fn real(value: f64) -> Cell {
    if value.fract() == 0.0 {
        Cell::Int(value as i128)
    } else {
        Cell::Millionths((value * 1e6).round() as i128)
    }
}

fn close(left: &Cell, right: &Cell) -> bool {
    match (left, right) {
        (Cell::Millionths(a), Cell::Millionths(b)) => (a - b).abs() <= 2,
        (Cell::Millionths(a), Cell::Int(b)) | (Cell::Int(b), Cell::Millionths(a)) => {
            (a - b * 1_000_000).abs() <= 2
        }
        _ => left == right,
    }
}

/// The first difference of two multisets of rows, in words.
pub(crate) fn difference(ours: &[Row], theirs: &[Row]) -> Option<String> {
    let sorted = |rows: &[Row]| {
        let mut rows = rows.to_vec();
        rows.sort();
        rows
    };
    let (ours, theirs) = (sorted(ours), sorted(theirs));
    let same = ours.len() == theirs.len()
        && ours
            .iter()
            .zip(&theirs)
            .all(|(a, b)| a.len() == b.len() && a.iter().zip(b).all(|(a, b)| close(a, b)));
    if same {
        return None;
    }
    let only = |left: &[Row], right: &[Row]| {
        let mut right = right.to_vec();
        let mut rest = Vec::new();
        for row in left {
            match right.iter().position(|other| other == row) {
                Some(i) => {
                    right.swap_remove(i);
                }
                None => rest.push(row.clone()),
            }
        }
        rest.truncate(5);
        rest
    };
    Some(format!(
        "view has {} rows, oracle {}; only in view: {:?}; only in oracle: {:?}",
        ours.len(),
        theirs.len(),
        only(&ours, &theirs),
        only(&theirs, &ours)
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_compare_by_value() {
        assert_eq!(number("3.0000000000"), Ok(Cell::Int(3)));
        assert_eq!(number("-2"), Ok(Cell::Int(-2)));
        assert!(close(
            &number("0.3333333333").expect("number"),
            &real(1.0 / 3.0)
        ));
        assert!(
            difference(
                &[vec![Cell::Int(1)]],
                &[vec![Cell::Int(1)], vec![Cell::Int(1)]]
            )
            .is_some()
        );
        assert!(
            difference(
                &[vec![Cell::Int(1)], vec![Cell::Null]],
                &[vec![Cell::Null], vec![Cell::Int(1)]]
            )
            .is_none()
        );
    }
}
