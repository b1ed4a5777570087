//! Intervals from text: Postgres' own output, its verbose input and ISO 8601 durations.
//!
//! Invariant: months, days and time stay apart, as Postgres keeps them; nothing is rounded but below a nanosecond.

use arrow::datatypes::IntervalMonthDayNano;

use super::number::{Decimal, Misfit};

const SECOND_NS: i128 = 1_000_000_000;
const DAY_NS: i128 = 86_400 * SECOND_NS;
/// Longest text looked at; the longest sensible interval is well below.
const BYTES_MAX: usize = 200;

/// A sum of parts, not yet known to fit.
#[derive(Debug, Default, Clone, Copy)]
struct Sum {
    months: i128,
    days: i128,
    ns: i128,
}

/// What a unit counts.
#[derive(Debug, Clone, Copy)]
enum Unit {
    Months(i128),
    Days(i128),
    Nanoseconds(i128),
}

/// `1 year 2 mons -3 days +04:05:06.7`, `2 hours ago`, `P1DT2H`; a bare number is seconds.
pub(super) fn interval(text: &str) -> Result<IntervalMonthDayNano, Misfit> {
    let text = text.trim();
    if text.len() > BYTES_MAX {
        return Err(Misfit::Type);
    }
    let sum = match text.strip_prefix('P') {
        Some(iso) => iso_duration(iso)?,
        None => verbose(text)?,
    };
    Ok(IntervalMonthDayNano::new(
        i32::try_from(sum.months).map_err(|_| Misfit::Range)?,
        i32::try_from(sum.days).map_err(|_| Misfit::Range)?,
        i64::try_from(sum.ns).map_err(|_| Misfit::Range)?,
    ))
}

fn verbose(text: &str) -> Result<Sum, Misfit> {
    let mut words: Vec<&str> = text.split_ascii_whitespace().collect();
    let ago = words
        .last()
        .is_some_and(|word| word.eq_ignore_ascii_case("ago"));
    if ago {
        words.pop();
    }
    if words.is_empty() {
        return Err(Misfit::Type);
    }
    let mut sum = Sum::default();
    let mut words = words.into_iter().peekable();
    while let Some(word) = words.next() {
        if word.contains(':') {
            sum.ns += clock(word)?;
            continue;
        }
        let (number, mut unit) = split_number(word);
        if unit.is_empty() {
            unit = words
                .next_if(|next| next.starts_with(|c: char| c.is_ascii_alphabetic()))
                .unwrap_or("s");
        }
        sum.add(number, verbose_unit(unit)?)?;
    }
    Ok(if ago {
        Sum {
            months: -sum.months,
            days: -sum.days,
            ns: -sum.ns,
        }
    } else {
        sum
    })
}

fn iso_duration(text: &str) -> Result<Sum, Misfit> {
    let (mut sum, mut rest, mut in_time) = (Sum::default(), text, false);
    if rest.is_empty() || rest.ends_with('T') {
        return Err(Misfit::Type);
    }
    while !rest.is_empty() {
        if let (Some(time), false) = (rest.strip_prefix('T'), in_time) {
            (rest, in_time) = (time, true);
            continue;
        }
        let (number, tail) = split_number(rest);
        let unit = match (tail.as_bytes().first(), in_time) {
            (Some(b'Y'), false) => Unit::Months(12),
            (Some(b'M'), false) => Unit::Months(1),
            (Some(b'W'), false) => Unit::Days(7),
            (Some(b'D'), false) => Unit::Days(1),
            (Some(b'H'), true) => Unit::Nanoseconds(3600 * SECOND_NS),
            (Some(b'M'), true) => Unit::Nanoseconds(60 * SECOND_NS),
            (Some(b'S'), true) => Unit::Nanoseconds(SECOND_NS),
            _ => return Err(Misfit::Type),
        };
        sum.add(number, unit)?;
        rest = tail.get(1..).unwrap_or_default();
    }
    Ok(sum)
}

impl Sum {
    /// Adds a count of units. Fractions of days and weeks go on as time; months and years have no fixed length, so their
    /// fractions are refused.
    fn add(&mut self, number: &str, unit: Unit) -> Result<(), Misfit> {
        let number = Decimal::parse(number).ok_or(Misfit::Type)?;
        let billionths = number.scaled(9).ok_or(Misfit::Range)?;
        let times = |size: i128| billionths.checked_mul(size).ok_or(Misfit::Range);
        match unit {
            Unit::Months(_) if !number.is_whole() => return Err(Misfit::Type),
            Unit::Months(size) => self.months += times(size)? / SECOND_NS,
            Unit::Days(size) => {
                let total = times(size)?;
                self.days += total / SECOND_NS;
                self.ns += (total % SECOND_NS) * (DAY_NS / SECOND_NS);
            }
            Unit::Nanoseconds(size) => self.ns += times(size)? / SECOND_NS,
        }
        Ok(())
    }
}

/// The number a word begins with, and what follows it.
fn split_number(word: &str) -> (&str, &str) {
    let end = word
        .find(|c: char| !(c.is_ascii_digit() || matches!(c, '.' | '+' | '-')))
        .unwrap_or(word.len());
    word.split_at(end)
}

fn verbose_unit(word: &str) -> Result<Unit, Misfit> {
    Ok(
        match word.trim_end_matches(',').to_ascii_lowercase().as_str() {
            "century" | "centuries" => Unit::Months(1200),
            "decade" | "decades" => Unit::Months(120),
            "y" | "yr" | "yrs" | "year" | "years" => Unit::Months(12),
            "mon" | "mons" | "month" | "months" => Unit::Months(1),
            "w" | "week" | "weeks" => Unit::Days(7),
            "d" | "day" | "days" => Unit::Days(1),
            "h" | "hr" | "hrs" | "hour" | "hours" => Unit::Nanoseconds(3600 * SECOND_NS),
            "m" | "min" | "mins" | "minute" | "minutes" => Unit::Nanoseconds(60 * SECOND_NS),
            "s" | "sec" | "secs" | "second" | "seconds" => Unit::Nanoseconds(SECOND_NS),
            "ms" | "msec" | "msecs" | "millisecond" | "milliseconds" => {
                Unit::Nanoseconds(1_000_000)
            }
            "us" | "usec" | "usecs" | "microsecond" | "microseconds" => Unit::Nanoseconds(1_000),
            _ => return Err(Misfit::Type),
        },
    )
}

/// `[+-]HH:MM[:SS[.fraction]]`; hours may exceed a day.
fn clock(word: &str) -> Result<i128, Misfit> {
    let (negative, digits) = match word.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, word.strip_prefix('+').unwrap_or(word)),
    };
    let mut ns = 0;
    let units = [3600 * SECOND_NS, 60 * SECOND_NS, SECOND_NS];
    let parts: Vec<&str> = digits.split(':').collect();
    if !(2..=units.len()).contains(&parts.len()) {
        return Err(Misfit::Type);
    }
    for (index, (part, unit)) in parts.iter().zip(units).enumerate() {
        let number =
            Decimal::parse(part).filter(|_| part.starts_with(|c: char| c.is_ascii_digit()));
        let number = number.ok_or(Misfit::Type)?;
        if index < 2 && !number.is_whole() {
            return Err(Misfit::Type);
        }
        let billionths = number.scaled(9).ok_or(Misfit::Range)?;
        if index > 0 && billionths >= 60 * SECOND_NS {
            return Err(Misfit::Range);
        }
        ns += billionths.checked_mul(unit).ok_or(Misfit::Range)? / SECOND_NS;
    }
    Ok(if negative { -ns } else { ns })
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: i64 = 1_000_000_000;

    #[test]
    fn intervals_by_table() {
        for (text, expected) in [
            (
                "1 year 2 mons -3 days +04:05:06.7",
                Ok((14, -3, 14_706 * S + 700_000_000)),
            ),
            ("00:00:00", Ok((0, 0, 0))),
            ("-1 days -02:00:00", Ok((0, -1, -7200 * S))),
            ("2 hours 30min ago", Ok((0, 0, -9000 * S))),
            ("1.5 days", Ok((0, 1, 43_200 * S))),
            ("1 week", Ok((0, 7, 0))),
            ("100:00", Ok((0, 0, 360_000 * S))),
            ("5", Ok((0, 0, 5 * S))),
            ("1ms 2us", Ok((0, 0, 1_002_000))),
            ("P1Y2M3W4DT5H6M7.5S", Ok((14, 25, 18_367 * S + 500_000_000))),
            ("PT-5M", Ok((0, 0, -300 * S))),
            ("", Err(Misfit::Type)),
            ("P", Err(Misfit::Type)),
            ("PT", Err(Misfit::Type)),
            ("ago", Err(Misfit::Type)),
            ("1 fortnight", Err(Misfit::Type)),
            ("1.5 months", Err(Misfit::Type)),
            ("00:60:00", Err(Misfit::Range)),
            ("1:2:3:4", Err(Misfit::Type)),
            ("1000000000 years", Err(Misfit::Range)),
            ("1e30 years", Err(Misfit::Type)),
            (
                "99999999999999999999999999999999999999999 s",
                Err(Misfit::Range),
            ),
        ] {
            let found = interval(text).map(|value| (value.months, value.days, value.nanoseconds));
            assert_eq!(found, expected, "{text}");
        }
    }
}
