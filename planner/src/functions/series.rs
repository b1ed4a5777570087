//! Functions that give a list of moments or numbers: the starts of hopping windows and generate_series.
//!
//! Invariant: no call gives more than `SERIES_MAX` values.

use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, AsArray, PrimitiveArray};
use datafusion::arrow::datatypes::{Int64Type, IntervalMonthDayNanoType, TimestampMicrosecondType};
use datafusion::common::{DataFusionError, Result};
use thalweg_catalog::SqlType;

use super::native::{Kernel, Native};
use super::temporal::{add_zoned, out_of_range, stride_us};
use super::temporal_text::Zone;
use crate::error::raise;

type Ts = TimestampMicrosecondType;
type Span = IntervalMonthDayNanoType;

/// Starts of the hopping windows a moment falls in: `hop_starts(ts, slide, size)`.
pub(crate) fn hop_starts(ty: &SqlType) -> Native {
    let kernel: Kernel = |call| {
        let (values, slides, sizes) = (call.array(0)?, call.array(1)?, call.array(2)?);
        let (values, slides, sizes) = (
            values.as_primitive::<Ts>(),
            slides.as_primitive::<Span>(),
            sizes.as_primitive::<Span>(),
        );
        let mut items = Vec::new();
        let mut lengths = Vec::with_capacity(values.len());
        for i in 0..values.len() {
            let before = items.len();
            if values.is_valid(i) && slides.is_valid(i) && sizes.is_valid(i) {
                let (slide, size) = (stride_us(slides.value(i))?, stride_us(sizes.value(i))?);
                if size / slide > 100_000 {
                    return Err(raise(
                        "54000",
                        "a hopping window has more than 100000 overlapping windows",
                    ));
                }
                let at = values.value(i);
                let mut start = at.div_euclid(slide) * slide;
                while start > at.saturating_sub(size) {
                    items.push(start);
                    start = start.saturating_sub(slide);
                }
                items[before..].reverse();
            }
            lengths.push(items.len() - before);
        }
        list_of(items, lengths, call.ret)
    };
    Native::new(
        "hop_starts",
        vec![ty.clone(), SqlType::Interval, SqlType::Interval],
        SqlType::Array(Box::new(ty.clone())),
        kernel,
    )
    .fallible(true)
}

fn list_of(items: Vec<i64>, lengths: Vec<usize>, ret: &SqlType) -> Result<ArrayRef> {
    let datafusion::arrow::datatypes::DataType::List(field) = ret.arrow() else {
        return Err(DataFusionError::Internal(
            "a list result is not held as a list".to_owned(),
        ));
    };
    let values: ArrayRef = Arc::new(
        PrimitiveArray::<Ts>::from_iter_values(items).with_data_type(field.data_type().clone()),
    );
    let offsets = datafusion::arrow::buffer::OffsetBuffer::<i32>::from_lengths(lengths);
    Ok(Arc::new(datafusion::arrow::array::ListArray::try_new(
        field, offsets, values, None,
    )?))
}

/// `generate_series(start, stop, step)` over timestamps, as a list.
pub(crate) fn timestamp_series(ty: &SqlType, zone: &str) -> Native {
    let kernel: Kernel = |call| {
        let (a, b, s) = (call.array(0)?, call.array(1)?, call.array(2)?);
        let (a, b, s) = (
            a.as_primitive::<Ts>(),
            b.as_primitive::<Ts>(),
            s.as_primitive::<Span>(),
        );
        let zone = Zone::parse(call.time_zone)?;
        let (mut items, mut lengths) = (Vec::new(), Vec::with_capacity(a.len()));
        for i in 0..a.len() {
            let before = items.len();
            if a.is_valid(i) && b.is_valid(i) && s.is_valid(i) {
                let (mut at, stop, step) = (a.value(i), b.value(i), s.value(i));
                let next =
                    |at| add_zoned(at, step, 1, zone).ok_or_else(|| out_of_range("timestamp"));
                let forward = next(at)? > at;
                if next(at)? == at {
                    return Err(raise("22023", "step size cannot equal zero"));
                }
                while if forward { at <= stop } else { at >= stop } {
                    items.push(at);
                    if items.len() - before > super::collection::SERIES_MAX {
                        return Err(raise("54000", "generate_series has too many values"));
                    }
                    at = next(at)?;
                }
            }
            lengths.push(items.len() - before);
        }
        list_of(items, lengths, call.ret)
    };
    let types = vec![ty.clone(), ty.clone(), SqlType::Interval];
    let zone = if matches!(ty, SqlType::Timestamptz) {
        zone
    } else {
        ""
    };
    Native::new(
        "generate_series",
        types,
        SqlType::Array(Box::new(ty.clone())),
        kernel,
    )
    .in_zone(zone)
    .fallible(true)
}

/// `generate_series(start, stop, step)` over integers, as a list of bigint or integer.
pub(crate) fn integer_series(ty: &SqlType) -> Native {
    let kernel: Kernel = |call| {
        let wide = |i: usize| -> Result<ArrayRef> {
            Ok(datafusion::arrow::compute::cast(
                &call.array(i)?,
                &datafusion::arrow::datatypes::DataType::Int64,
            )?)
        };
        let (a, b, s) = (wide(0)?, wide(1)?, wide(2)?);
        let (a, b, s) = (
            a.as_primitive::<Int64Type>(),
            b.as_primitive::<Int64Type>(),
            s.as_primitive::<Int64Type>(),
        );
        let (mut items, mut lengths) = (Vec::new(), Vec::with_capacity(a.len()));
        for i in 0..a.len() {
            let before = items.len();
            if a.is_valid(i) && b.is_valid(i) && s.is_valid(i) {
                let (stop, step) = (b.value(i), s.value(i));
                if step == 0 {
                    return Err(raise("22023", "step size cannot equal zero"));
                }
                let mut at = Some(a.value(i));
                while let Some(v) = at.filter(|v| if step > 0 { *v <= stop } else { *v >= stop }) {
                    items.push(v);
                    if items.len() - before > super::collection::SERIES_MAX {
                        return Err(raise("54000", "generate_series has too many values"));
                    }
                    at = v.checked_add(step);
                }
            }
            lengths.push(items.len() - before);
        }
        let datafusion::arrow::datatypes::DataType::List(field) = call.ret.arrow() else {
            return Err(DataFusionError::Internal(
                "a list result is not held as a list".to_owned(),
            ));
        };
        let values: ArrayRef = Arc::new(PrimitiveArray::<Int64Type>::from_iter_values(items));
        let values = datafusion::arrow::compute::cast(&values, field.data_type())?;
        let offsets = datafusion::arrow::buffer::OffsetBuffer::<i32>::from_lengths(lengths);
        Ok(Arc::new(datafusion::arrow::array::ListArray::try_new(
            field, offsets, values, None,
        )?))
    };
    Native::new(
        "generate_series",
        vec![ty.clone(); 3],
        SqlType::Array(Box::new(ty.clone())),
        kernel,
    )
    .fallible(true)
}
