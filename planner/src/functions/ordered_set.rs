//! What ordered-set aggregates pick from the sorted array of what they gathered.
//!
//! Invariant: the array is sorted as WITHIN GROUP says; NULLs in it count for nothing, and without any value the result is NULL.

use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, AsArray, UInt32Array};
use datafusion::arrow::compute::{partition, take};
use datafusion::arrow::datatypes::Float64Type;
use datafusion::common::Result;
use thalweg_catalog::SqlType;

use super::native::{Call, Native};
use crate::error::raise;

/// `percentile_disc(fraction)`: the first value whose place among the values is at least the fraction.
pub(crate) fn percentile_disc(element: &SqlType) -> Native {
    let types = vec![SqlType::Array(Box::new(element.clone())), SqlType::Float8];
    Native::new("percentile_disc", types, element.clone(), |call| {
        let fractions = call.array(1)?;
        let fractions = fractions.as_primitive::<Float64Type>();
        pick(call, |row, values, first| {
            if fractions.is_null(row) {
                return Ok(None);
            }
            let fraction = fractions.value(row);
            if !(0.0..=1.0).contains(&fraction) {
                let message = format!("percentile value {fraction} is not between 0 and 1");
                return Err(raise("22003", message));
            }
            let places = (0..values.len()).filter(|place| values.is_valid(*place));
            let places: Vec<usize> = places.collect();
            let place = (fraction * places.len() as f64).ceil() as usize;
            let found = places.get(place.saturating_sub(1));
            Ok(found.map(|place| first + place))
        })
    })
    .fallible(true)
}

/// `mode()`: the most frequent value, of several the first.
pub(crate) fn mode(element: &SqlType) -> Native {
    let types = vec![SqlType::Array(Box::new(element.clone()))];
    Native::new("mode", types, element.clone(), |call| {
        pick(call, |_, values, first| {
            let equal = partition(&[Arc::clone(values)])?.ranges();
            let valued = equal
                .into_iter()
                .filter(|range| values.is_valid(range.start));
            // `max_by_key` would take the last.
            let longest = valued.rev().max_by_key(|range| range.len());
            Ok(longest.map(|range| first + range.start))
        })
    })
}

/// For each array the element that `place` names, given the row, its elements and where they begin among all.
fn pick(
    call: &Call<'_>,
    place: impl Fn(usize, &ArrayRef, usize) -> Result<Option<usize>>,
) -> Result<ArrayRef> {
    let array = call.array(0)?;
    let list = array.as_list::<i32>();
    let mut places = Vec::with_capacity(list.len());
    for row in 0..list.len() {
        if list.is_null(row) || list.value_length(row) == 0 {
            places.push(None);
            continue;
        }
        let first = usize::try_from(list.value_offsets()[row]).unwrap_or_default();
        let found = place(row, &list.value(row), first)?;
        places.push(found.and_then(|place| u32::try_from(place).ok()));
    }
    Ok(take(list.values(), &UInt32Array::from(places), None)?)
}
