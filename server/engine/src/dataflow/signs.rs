//! Changes whose rows are all added or all taken away, which is the form that operators pass to each other.
//!
//! Invariant: a delta made here is not empty, and its weights have one sign. So whether an expression is evaluated for rows that
//! come or for rows that go, whose compute errors count or do not, is known for the whole batch.

use datafusion::arrow::array::{BooleanArray, UInt32Array};
use datafusion::arrow::compute::{filter_record_batch, take_record_batch};
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::arrow::error::ArrowError;
use datafusion::arrow::record_batch::{RecordBatch, RecordBatchOptions};
use thalweg_connectors::{Delta, Weights};

/// The delta cut by sign; rows of weight zero are dropped.
pub(super) fn by_sign(delta: &Delta) -> Result<Vec<Delta>, ArrowError> {
    let rows = delta.num_rows();
    match &delta.weights {
        _ if rows == 0 => Ok(Vec::new()),
        Weights::Constant(0) => Ok(Vec::new()),
        Weights::Ones | Weights::Constant(_) => Ok(vec![delta.clone()]),
        Weights::Each(weights) => {
            let weights = weights.get(..rows).unwrap_or(weights);
            if weights.iter().all(|weight| *weight > 0) || weights.iter().all(|weight| *weight < 0)
            {
                return Ok(vec![delta.clone()]);
            }
            let mut out = Vec::with_capacity(2);
            for sign in [-1_i64, 1] {
                let kept: Vec<u32> = (0_u32..)
                    .zip(weights)
                    .filter(|(_, weight)| weight.signum() == sign)
                    .map(|(row, _)| row)
                    .collect();
                out.extend(taken(delta, &kept)?);
            }
            Ok(out)
        }
    }
}

/// True when the rows are added.
pub(super) fn is_added(delta: &Delta) -> bool {
    delta.weights.at(0) > 0
}

/// Some rows of a delta.
pub(super) fn taken(delta: &Delta, rows: &[u32]) -> Result<Option<Delta>, ArrowError> {
    if rows.is_empty() {
        return Ok(None);
    }
    let weights = match &delta.weights {
        Weights::Each(_) => Weights::Each(
            rows.iter()
                .map(|row| delta.weights.at(*row as usize))
                .collect(),
        ),
        same => same.clone(),
    };
    let batch = take_rows(&delta.batch, rows)?;
    Ok(Some(Delta { batch, weights }))
}

/// Some rows of a batch, which may have no columns.
pub(super) fn take_rows(batch: &RecordBatch, rows: &[u32]) -> Result<RecordBatch, ArrowError> {
    if batch.num_columns() == 0 {
        return without_columns(batch.schema(), rows.len());
    }
    take_record_batch(batch, &UInt32Array::from_iter_values(rows.iter().copied()))
}

/// Rows of a schema that has no columns.
pub(super) fn without_columns(schema: SchemaRef, rows: usize) -> Result<RecordBatch, ArrowError> {
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    RecordBatch::try_new_with_options(schema, Vec::new(), &options)
}

/// Rows for which `mask` is true.
pub(super) fn filtered(delta: &Delta, mask: &BooleanArray) -> Result<Option<Delta>, ArrowError> {
    let batch = keep_rows(&delta.batch, mask)?;
    if batch.num_rows() == 0 {
        return Ok(None);
    }
    let weights = match &delta.weights {
        Weights::Each(weights) => Weights::Each(
            mask.iter()
                .zip(weights)
                .filter(|(kept, _)| *kept == Some(true))
                .map(|(_, weight)| *weight)
                .collect(),
        ),
        same => same.clone(),
    };
    Ok(Some(Delta { batch, weights }))
}

/// Rows of a batch, which may have no columns, for which `mask` is true.
pub(super) fn keep_rows(
    batch: &RecordBatch,
    mask: &BooleanArray,
) -> Result<RecordBatch, ArrowError> {
    if batch.num_columns() == 0 {
        return without_columns(batch.schema(), mask.true_count());
    }
    filter_record_batch(batch, mask)
}

/// Rows with weights of one sign, `None` when there are no rows.
pub(super) fn weighted(batch: RecordBatch, weights: Vec<i64>) -> Option<Delta> {
    let first = *weights.first()?;
    let weights = if weights.iter().all(|weight| *weight == first) {
        constant(first)
    } else {
        Weights::Each(weights.into())
    };
    Some(Delta { batch, weights })
}

/// One weight for all rows.
pub(super) fn constant(weight: i64) -> Weights {
    if weight == 1 {
        Weights::Ones
    } else {
        Weights::Constant(weight)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use datafusion::arrow::array::Int64Array;

    use super::*;

    #[test]
    fn a_delta_is_cut_by_sign() {
        let values: datafusion::arrow::array::ArrayRef =
            Arc::new(Int64Array::from(vec![1, 2, 3, 4]));
        let batch = RecordBatch::try_from_iter([("v", values)]).expect("a column");
        let delta = Delta {
            batch,
            weights: Weights::Each(vec![2, -1, 0, 1].into()),
        };
        let parts = by_sign(&delta).expect("cuts");
        assert_eq!(parts.len(), 2);
        assert!(!is_added(&parts[0]) && is_added(&parts[1]));
        assert_eq!(parts[0].num_rows(), 1);
        assert_eq!(parts[1].num_rows(), 2);
        let mask = BooleanArray::from(vec![false, true]);
        let kept = filtered(&parts[1], &mask).expect("filters").expect("a row");
        assert_eq!((kept.num_rows(), kept.weights.at(0)), (1, 1));
    }
}
