//! Dates, times and intervals, in ISO style and Postgres' interval style.
//!
//! Invariant: the proleptic Gregorian calendar over the whole range of the types, not only where chrono can count; the
//! session's TimeZone decides the offset and digits of timestamptz and of nothing else.

use std::fmt::{self, Display};

use chrono::{DateTime, Offset, TimeZone};
use chrono_tz::Tz;
use datafusion::arrow::datatypes::IntervalMonthDayNano;

/// Days from 1970-01-01 to 2000-01-01, where Postgres' binary formats count from.
pub(in crate::pg) const EPOCH_2000_DAYS: i32 = 10_957;
/// The same in microseconds.
pub(in crate::pg) const EPOCH_2000_US: i64 = EPOCH_2000_DAYS as i64 * DAY_US;

const DAY_US: i64 = 86_400_000_000;
const SECOND_US: i64 = 1_000_000;

/// A session's time zone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::pg) enum Zone {
    /// An offset that never changes, in seconds east of Greenwich.
    Fixed(i32),
    /// A zone of the tz database.
    Named(Tz),
}

impl Zone {
    /// The zone a setting names; the session has checked it, so anything else counts as UTC.
    pub(in crate::pg) fn named(name: &str) -> Self {
        Self::parse(name).unwrap_or(Zone::Fixed(0))
    }

    /// A zone name or an offset such as `+05:30`.
    pub(in crate::pg) fn parse(name: &str) -> Option<Self> {
        if let Some(seconds) = parse_offset(name) {
            return Some(Zone::Fixed(seconds));
        }
        if ["utc", "gmt", "z", "zulu"]
            .iter()
            .any(|utc| name.eq_ignore_ascii_case(utc))
        {
            return Some(Zone::Fixed(0));
        }
        let any_case = || {
            chrono_tz::TZ_VARIANTS
                .iter()
                .copied()
                .find(|zone| zone.name().eq_ignore_ascii_case(name))
        };
        name.parse::<Tz>().ok().or_else(any_case).map(Zone::Named)
    }

    /// Seconds east of Greenwich at a moment.
    pub(in crate::pg) fn offset_at(&self, utc_us: i64) -> i32 {
        match self {
            Zone::Fixed(seconds) => *seconds,
            Zone::Named(zone) => {
                let seconds = utc_us.div_euclid(SECOND_US);
                // chrono's years end before Postgres' do; no zone has rules that far out.
                let bounds = (
                    DateTime::<chrono::Utc>::MIN_UTC,
                    DateTime::<chrono::Utc>::MAX_UTC,
                );
                let moment = DateTime::from_timestamp(seconds, 0).unwrap_or(if seconds < 0 {
                    bounds.0
                } else {
                    bounds.1
                });
                zone.offset_from_utc_datetime(&moment.naive_utc())
                    .fix()
                    .local_minus_utc()
            }
        }
    }

    /// The moment a wall clock of this zone shows `local_us`. A time that exists twice is the later of the two, and one
    /// that a gap skips counts by the offset before the gap, both as in Postgres.
    pub(in crate::pg) fn to_utc(&self, local_us: i64) -> i64 {
        let before = self.offset_at(local_us.saturating_sub(DAY_US));
        let after = self.offset_at(local_us.saturating_add(DAY_US));
        let at = |offset: i32| local_us.saturating_sub(i64::from(offset) * SECOND_US);
        if before == after {
            // Both edges of a longer exception, for example two changes within two days, end here as well.
            let first = at(before);
            return at(self.offset_at(first));
        }
        let (with_before, with_after) = (at(before), at(after));
        let valid_before = self.offset_at(with_before) == before;
        let valid_after = self.offset_at(with_after) == after;
        match (valid_before, valid_after) {
            (true, false) => with_before,
            (_, true) => with_after,
            // In the gap: the offset before it is used.
            (false, false) => with_before,
        }
    }
}

/// `+05:30`, `-8`, `+0530`, `-03:30:15` in seconds.
fn parse_offset(text: &str) -> Option<i32> {
    let (sign, rest) = match text.as_bytes().first()? {
        b'+' => (1, &text[1..]),
        b'-' => (-1, &text[1..]),
        _ => return None,
    };
    if rest.is_empty()
        || !rest
            .bytes()
            .all(|byte| byte.is_ascii_digit() || byte == b':')
    {
        return None;
    }
    let parts: Vec<&str> = if rest.contains(':') {
        rest.split(':').collect()
    } else {
        match rest.len() {
            1 | 2 => vec![rest],
            3 | 4 => vec![&rest[..rest.len() - 2], &rest[rest.len() - 2..]],
            _ => return None,
        }
    };
    let mut numbers = parts.iter().map(|part| part.parse::<i32>().ok());
    let hours = numbers.next()??;
    let minutes = numbers.next().unwrap_or(Some(0))?;
    let seconds = numbers.next().unwrap_or(Some(0))?;
    let fits = numbers.next().is_none() && hours <= 15 && minutes < 60 && seconds < 60;
    fits.then_some(sign * (hours * 3600 + minutes * 60 + seconds))
}

/// Year (0 is 1 BC), month and day of a day number since 1970-01-01.
fn civil_from_days(days: i64) -> (i64, i64, i64) {
    // Howard Hinnant's algorithm: eras of 400 years that start in March, so that leap days come last.
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 {
        shifted_month + 3
    } else {
        shifted_month - 9
    };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, day)
}

/// Day number since 1970-01-01; the inverse of [`civil_from_days`]. `None` for a day that no month has.
pub(in crate::pg) fn days_from_civil(year: i64, month: i64, day: i64) -> Option<i64> {
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) || year.abs() > 10_000_000 {
        return None;
    }
    let shifted_year = if month <= 2 { year - 1 } else { year };
    let era = shifted_year.div_euclid(400);
    let year_of_era = shifted_year.rem_euclid(400);
    let shifted_month = if month > 2 { month - 3 } else { month + 9 };
    let day_of_year = (153 * shifted_month + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    let days = era * 146_097 + day_of_era - 719_468;
    (civil_from_days(days) == (year, month, day)).then_some(days)
}

fn write_date(f: &mut fmt::Formatter<'_>, days: i64) -> Result<bool, fmt::Error> {
    let (year, month, day) = civil_from_days(days);
    let before_christ = year <= 0;
    let year = if before_christ { 1 - year } else { year };
    write!(f, "{year:04}-{month:02}-{day:02}")?;
    Ok(before_christ)
}

/// Hours, minutes, seconds and as many digits of the fraction as there are.
fn write_clock(f: &mut fmt::Formatter<'_>, us: u64) -> fmt::Result {
    let seconds = us / SECOND_US as u64;
    write!(
        f,
        "{:02}:{:02}:{:02}",
        seconds / 3600,
        seconds / 60 % 60,
        seconds % 60
    )?;
    let fraction = us % SECOND_US as u64;
    if fraction > 0 {
        let digits = format!("{fraction:06}");
        write!(f, ".{}", digits.trim_end_matches('0'))?;
    }
    Ok(())
}

fn write_timestamp(f: &mut fmt::Formatter<'_>, us: i64, offset: Option<i32>) -> fmt::Result {
    match us {
        i64::MAX => return f.write_str("infinity"),
        i64::MIN => return f.write_str("-infinity"),
        _ => {}
    }
    let before_christ = write_date(f, us.div_euclid(DAY_US))?;
    f.write_str(" ")?;
    write_clock(f, us.rem_euclid(DAY_US) as u64)?;
    if let Some(offset) = offset {
        let sign = if offset < 0 { '-' } else { '+' };
        let offset = offset.unsigned_abs();
        write!(f, "{sign}{:02}", offset / 3600)?;
        if !offset.is_multiple_of(3600) {
            write!(f, ":{:02}", offset / 60 % 60)?;
        }
        if !offset.is_multiple_of(60) {
            write!(f, ":{:02}", offset % 60)?;
        }
    }
    if before_christ {
        f.write_str(" BC")
    } else {
        Ok(())
    }
}

/// `date`: days since 1970-01-01.
pub(super) struct Date(pub(super) i32);
/// `time`: microseconds since midnight.
pub(super) struct Time(pub(super) i64);
/// `timestamp`: microseconds since 1970-01-01.
pub(super) struct Timestamp(pub(super) i64);
/// `timestamptz`: microseconds since 1970-01-01 UTC, and the zone it is shown in.
pub(super) struct Timestamptz<'a>(pub(super) i64, pub(super) &'a Zone);

impl Display for Date {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            i32::MAX => f.write_str("infinity"),
            i32::MIN => f.write_str("-infinity"),
            days => {
                let before_christ = write_date(f, i64::from(days))?;
                if before_christ {
                    f.write_str(" BC")
                } else {
                    Ok(())
                }
            }
        }
    }
}

impl Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_clock(f, self.0.unsigned_abs())
    }
}

impl Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_timestamp(f, self.0, None)
    }
}

impl Display for Timestamptz<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if matches!(self.0, i64::MAX | i64::MIN) {
            return write_timestamp(f, self.0, None);
        }
        let offset = self.1.offset_at(self.0);
        write_timestamp(
            f,
            self.0.saturating_add(i64::from(offset) * SECOND_US),
            Some(offset),
        )
    }
}

/// `interval`, as Postgres holds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Interval {
    pub(super) months: i32,
    pub(super) days: i32,
    pub(super) us: i64,
}

impl Interval {
    /// Arrow counts nanoseconds, Postgres microseconds.
    pub(super) fn from_arrow(value: IntervalMonthDayNano) -> Self {
        Self {
            months: value.months,
            days: value.days,
            us: value.nanoseconds / 1000,
        }
    }
}

impl Display for Interval {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut first = true;
        let mut after_negative = false;
        for (count, unit) in [
            (self.months / 12, "year"),
            (self.months % 12, "mon"),
            (self.days, "day"),
        ] {
            if count == 0 {
                continue;
            }
            let space = if first { "" } else { " " };
            let plus = if after_negative && count > 0 { "+" } else { "" };
            let plural = if count == 1 { "" } else { "s" };
            write!(f, "{space}{plus}{count} {unit}{plural}")?;
            first = false;
            after_negative = count < 0;
        }
        if first || self.us != 0 {
            let space = if first { "" } else { " " };
            let sign = match (self.us < 0, after_negative) {
                (true, _) => "-",
                (false, true) => "+",
                (false, false) => "",
            };
            write!(f, "{space}{sign}")?;
            write_clock(f, self.us.unsigned_abs())?;
        }
        Ok(())
    }
}
