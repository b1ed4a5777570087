//! Values of columns from text that is not JSON.
//!
//! Invariant: the same readers as for JSON strings; what they refuse is `None`.

use super::number::Decimal;
use super::time::{self, TimestampHandling};

/// `YYYY-MM-DD`.
pub(crate) fn date(text: &str) -> Option<i32> {
    time::date(text).ok()
}

/// `HH:MM[:SS[.ffffff]]`.
pub(crate) fn time(text: &str) -> Option<i64> {
    time::time(text).ok()
}

/// Without a time zone.
pub(crate) fn timestamp(text: &str) -> Option<i64> {
    time::timestamp(text).ok()
}

/// With a time zone; without one it is UTC.
pub(crate) fn timestamptz(text: &str) -> Option<i64> {
    time::timestamptz(text, TimestampHandling::UtcString).ok()
}

/// A number at a fixed scale, unscaled; `None` when it does not fit or digits would be lost.
pub(crate) fn numeric_exact(text: &str, precision: u8, scale: i8) -> Option<i128> {
    let exact = Decimal::parse(text)?.is_whole_at(i64::from(scale));
    let value = super::number::numeric(text, precision, scale).ok()?;
    exact.then_some(value)
}
