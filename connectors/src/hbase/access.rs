//! Decides which rows a query asks HBase for: by their keys, by ranges of keys, or all.
//!
//! Invariant: pure. The chosen rows include every row that the conditions select; a condition is called exact only when they
//! include no other row because of it.

use std::collections::BTreeSet;

use arrow::array::{Array, ArrayRef};
use thalweg_catalog::SqlType;

use super::key::{Bound, KeyCodec, KeyRange};
use super::scalar::Scalar;

/// Keys that are asked for one by one rather than by a range over them.
const KEYS_MAX: usize = 10_000;
/// Ranges of one query, before salting.
const RANGES_MAX: usize = 64;

/// How a column is compared with a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Comparison {
    /// `=`
    Equal,
    /// `<>`
    NotEqual,
    /// `<`
    Less,
    /// `<=`
    LessOrEqual,
    /// `>`
    Greater,
    /// `>=`
    GreaterOrEqual,
}

/// A condition that all wanted rows fulfil. Columns are positions in the table; values are of the column's type.
#[derive(Debug, Clone)]
pub enum Condition {
    /// The column compared with the only value of an array.
    Compare {
        /// The column.
        column: usize,
        /// The operator.
        comparison: Comparison,
        /// One value.
        value: ArrayRef,
    },
    /// The column is one of these; NULLs among them match nothing.
    In {
        /// The column.
        column: usize,
        /// The values.
        values: ArrayRef,
    },
    /// The text begins with this.
    Prefix {
        /// The column.
        column: usize,
        /// The beginning.
        text: String,
    },
    /// The column is NULL, or is not.
    Null {
        /// The column.
        column: usize,
        /// Whether it is NULL.
        is_null: bool,
    },
}

impl Condition {
    pub(super) fn column(&self) -> usize {
        match self {
            Condition::Compare { column, .. }
            | Condition::In { column, .. }
            | Condition::Prefix { column, .. }
            | Condition::Null { column, .. } => *column,
        }
    }
}

/// Which rows are asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Access {
    /// Those with these keys, sorted.
    Keys(Vec<Vec<u8>>),
    /// Those in these ranges, salted.
    Ranges(Vec<KeyRange>),
}

/// What was decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Decision {
    pub(super) access: Access,
    /// For each condition, whether the access alone fulfils it.
    pub(super) exact: Vec<bool>,
}

/// Decides on the rows. `key_columns` are the positions of the key's parts in the table.
pub(super) fn decide(
    codec: &KeyCodec,
    key_columns: &[usize],
    conditions: &[Condition],
) -> Decision {
    let mut exact = vec![false; conditions.len()];
    let mut tuples: Vec<Vec<Scalar<'_>>> = vec![Vec::new()];
    let mut parts = codec.parts().iter().zip(key_columns).enumerate();
    let open_part = loop {
        let Some((index, (part, column))) = parts.next() else {
            break None;
        };
        let Some((condition, values)) = equalities(conditions, *column, &part.ty) else {
            break Some((index, part, *column));
        };
        if tuples.len().saturating_mul(values.len()) > KEYS_MAX {
            break Some((index, part, *column));
        }
        if let Some(flag) = exact.get_mut(condition) {
            *flag = !is_float(&part.ty);
        }
        tuples = tuples
            .iter()
            .flat_map(|tuple| values.iter().map(|value| [&tuple[..], &[*value]].concat()))
            .collect();
    };
    let Some((index, part, column)) = open_part else {
        // What no key can be written for is in no row.
        let keys: BTreeSet<Vec<u8>> = tuples
            .iter()
            .filter_map(|tuple| codec.encode(tuple).ok())
            .collect();
        return Decision {
            access: Access::Keys(keys.into_iter().collect()),
            exact,
        };
    };
    let mut bounds = Vec::new();
    for (condition, flag) in conditions.iter().zip(&mut exact) {
        if condition.column() != column {
            continue;
        }
        match bound(condition, &part.ty) {
            // Below NULL there is nothing, nor above it.
            None => return nothing(exact),
            Some(Some(bound)) if codec.keeps_order(index, &bound) => {
                *flag = !is_float(&part.ty);
                bounds.push(bound);
            }
            Some(_) => {}
        }
    }
    let ranges = tuples
        .iter()
        .filter_map(|tuple| codec.range(tuple, &bounds));
    let mut ranges: BTreeSet<KeyRange> = ranges.collect();
    if ranges.len() > RANGES_MAX {
        ranges = hull(&ranges).into_iter().collect();
        exact.fill(false);
    }
    Decision {
        access: Access::Ranges(codec.salted(ranges)),
        exact,
    }
}

fn nothing(exact: Vec<bool>) -> Decision {
    Decision {
        access: Access::Keys(Vec::new()),
        exact,
    }
}

/// One range over all.
fn hull(ranges: &BTreeSet<KeyRange>) -> Option<KeyRange> {
    let start = ranges.iter().map(|range| &range.start).min()?.clone();
    let open = ranges.iter().any(|range| range.stop.is_empty());
    let stop = match open {
        true => Vec::new(),
        false => ranges.iter().map(|range| &range.stop).max()?.clone(),
    };
    Some(KeyRange { start, stop })
}

/// Equal floats may differ in bytes, and -0 is below 0 for some and equal for others: what is found is compared again.
fn is_float(ty: &SqlType) -> bool {
    matches!(ty, SqlType::Float4 | SqlType::Float8)
}

/// The shortest list of values that a column must be one of, with the condition that says so.
fn equalities<'a>(
    conditions: &'a [Condition],
    column: usize,
    ty: &SqlType,
) -> Option<(usize, Vec<Scalar<'a>>)> {
    let lists = conditions.iter().enumerate().filter_map(|(index, one)| {
        let values = match one {
            Condition::In { values, .. } => values,
            Condition::Compare {
                comparison: Comparison::Equal,
                value,
                ..
            } => value,
            _ => return None,
        };
        if one.column() != column || values.data_type() != &ty.arrow() {
            return None;
        }
        let scalars = (0..values.len()).filter_map(|row| Scalar::at(values.as_ref(), row, ty));
        Some((index, scalars.collect::<Vec<_>>()))
    });
    lists.min_by_key(|(_, values)| values.len())
}

/// A condition as a bound: `None` when nothing can fulfil it, `Some(None)` when it is no bound.
fn bound<'a>(condition: &'a Condition, ty: &SqlType) -> Option<Option<Bound<'a>>> {
    let (comparison, value) = match condition {
        Condition::Prefix { text, .. } => return Some(Some(Bound::Prefix(text))),
        Condition::In { .. } | Condition::Null { .. } => return Some(None),
        Condition::Compare {
            comparison, value, ..
        } => (comparison, value),
    };
    if value.data_type() != &ty.arrow() || value.len() != 1 {
        return Some(None);
    }
    let scalar = Scalar::at(value.as_ref(), 0, ty)?;
    Some(Some(match comparison {
        // An equality of a part whose list was too long with others.
        Comparison::Equal | Comparison::NotEqual => return Some(None),
        Comparison::Less if is_float(ty) => Bound::AtMost(scalar),
        Comparison::Greater if is_float(ty) => Bound::AtLeast(scalar),
        Comparison::Less => Bound::Below(scalar),
        Comparison::LessOrEqual => Bound::AtMost(scalar),
        Comparison::Greater => Bound::Above(scalar),
        Comparison::GreaterOrEqual => Bound::AtLeast(scalar),
    }))
}
