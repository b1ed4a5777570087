//! Dates, times and intervals from text.
//!
//! Invariant: ISO forms, those Postgres itself prints included; what is not such a form is 22007, a field outside its range
//! is 22008, and digits finer than a microsecond are rounded.

use datafusion::arrow::datatypes::IntervalMonthDayNano;
use thalweg_catalog::SqlType;

use super::shown;
use crate::frontend::Report;
use crate::pg::encode::{Zone, days_from_civil};
use crate::pg::error::report;

const SECOND_US: i64 = 1_000_000;
const DAY_US: i64 = 86_400 * SECOND_US;

/// Why a text is not a value.
enum Fault {
    Syntax,
    Range,
}

use Fault::{Range, Syntax};

fn fault(fault: Fault, ty: &SqlType, text: &str) -> Report {
    match fault {
        Syntax => report(
            "22007",
            format!("invalid input syntax for type {ty}: \"{}\"", shown(text)),
        ),
        Range => report(
            "22008",
            format!("date/time field value out of range: \"{}\"", shown(text)),
        ),
    }
}

pub(super) fn date(text: &str, ty: &SqlType) -> Result<i32, Report> {
    match text.to_ascii_lowercase().as_str() {
        "infinity" => return Ok(i32::MAX),
        "-infinity" => return Ok(i32::MIN),
        "epoch" => return Ok(0),
        _ => {}
    }
    let parts = split(text).map_err(|kind| fault(kind, ty, text))?;
    i32::try_from(parts.days).map_err(|_| fault(Range, ty, text))
}

pub(super) fn time(text: &str, ty: &SqlType) -> Result<i64, Report> {
    // An offset is accepted and ignored, as in Postgres.
    let clock = text
        .find(['+', '-', 'Z', 'z'])
        .map_or(text, |end| text[..end].trim_end());
    clock_us(clock).map_err(|kind| fault(kind, ty, text))
}

/// Microseconds since 1970; with a zone the text is a moment, without one a wall clock whose offset is ignored.
pub(super) fn timestamp(text: &str, ty: &SqlType, zone: Option<&Zone>) -> Result<i64, Report> {
    match text.to_ascii_lowercase().as_str() {
        "infinity" => return Ok(i64::MAX),
        "-infinity" => return Ok(i64::MIN),
        "epoch" => return Ok(0),
        _ => {}
    }
    let read = || {
        let parts = split(text)?;
        let local = parts
            .days
            .checked_mul(DAY_US)
            .and_then(|days| days.checked_add(parts.clock_us))
            .ok_or(Range)?;
        Ok(match (zone, parts.zone) {
            (None, _) => local,
            (Some(session), written) => written.as_ref().unwrap_or(session).to_utc(local),
        })
    };
    read().map_err(|kind| fault(kind, ty, text))
}

struct Parts {
    days: i64,
    clock_us: i64,
    zone: Option<Zone>,
}

/// `[Y]YYYY-MM-DD[( |T)clock[ ][zone]][ BC]`, or `YYYYMMDD` for the date.
fn split(text: &str) -> Result<Parts, Fault> {
    let (text, before_christ) = match text
        .len()
        .checked_sub(3)
        .and_then(|at| text.split_at_checked(at))
    {
        Some((head, tail)) if tail.eq_ignore_ascii_case(" bc") => (head.trim_end(), true),
        Some((head, tail)) if tail.eq_ignore_ascii_case(" ad") => (head.trim_end(), false),
        _ => (text, false),
    };
    let end = text.find([' ', 'T', 't']).unwrap_or(text.len());
    let (date, rest) = text.split_at(end);
    let days = date_days(date, before_christ)?;
    let rest = rest.get(1..).unwrap_or_default().trim();
    if rest.is_empty() {
        return if end < text.len() {
            Err(Syntax)
        } else {
            Ok(Parts {
                days,
                clock_us: 0,
                zone: None,
            })
        };
    }
    let clock_end = rest
        .find(|c: char| !(c.is_ascii_digit() || matches!(c, ':' | '.')))
        .unwrap_or(rest.len());
    let (clock, zone) = rest.split_at(clock_end);
    let zone = match zone.trim() {
        "" => None,
        name => Some(Zone::parse(name).ok_or(Syntax)?),
    };
    Ok(Parts {
        days,
        clock_us: clock_us(clock)?,
        zone,
    })
}

fn date_days(text: &str, before_christ: bool) -> Result<i64, Fault> {
    let parts: Vec<&str> = text.split('-').collect();
    let (year, month, day) = match parts[..] {
        [year, month, day] => (year, month, day),
        [packed] if packed.len() == 8 && packed.is_ascii() => {
            (&packed[..4], &packed[4..6], &packed[6..])
        }
        _ => return Err(Syntax),
    };
    let (year, month, day) = (
        digits(year, 3..=6)?,
        digits(month, 1..=2)?,
        digits(day, 1..=2)?,
    );
    if year == 0 {
        return Err(Range);
    }
    days_from_civil(if before_christ { 1 - year } else { year }, month, day).ok_or(Range)
}

fn digits(text: &str, length: std::ops::RangeInclusive<usize>) -> Result<i64, Fault> {
    if !length.contains(&text.len()) || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(Syntax);
    }
    text.parse().map_err(|_| Range)
}

/// `HH:MM[:SS[.fraction]]`; 24:00:00 is the end of the day.
fn clock_us(text: &str) -> Result<i64, Fault> {
    let parts: Vec<&str> = text.split(':').collect();
    let (hours, minutes, seconds) = match parts[..] {
        [hours, minutes] => (hours, minutes, "0"),
        [hours, minutes, seconds] => (hours, minutes, seconds),
        _ => return Err(Syntax),
    };
    let (hours, minutes) = (digits(hours, 1..=2)?, digits(minutes, 1..=2)?);
    let us = seconds_us(seconds)?;
    let total = (hours * 60 + minutes) * 60 * SECOND_US + us;
    if minutes > 59 || us > 60 * SECOND_US || total > DAY_US {
        Err(Range)
    } else {
        Ok(total)
    }
}

fn seconds_us(text: &str) -> Result<i64, Fault> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    Ok(digits(whole, 1..=9)? * SECOND_US + fraction_us(fraction)?)
}

/// Microseconds of the digits behind a point.
fn fraction_us(fraction: &str) -> Result<i64, Fault> {
    if !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(Syntax);
    }
    let kept: String = fraction.chars().chain("0000000".chars()).take(7).collect();
    let tenths: i64 = kept.parse().map_err(|_| Syntax)?;
    Ok((tenths + 5) / 10)
}

/// `1 year 2 mons -3 days +04:05:06.789 [ago]`, and ISO 8601 durations.
pub(super) fn interval(text: &str, ty: &SqlType) -> Result<IntervalMonthDayNano, Report> {
    let read = match text.strip_prefix(['P', 'p']) {
        Some(iso) => iso_interval(iso),
        None => verbose_interval(text),
    };
    read.map_err(|kind| match kind {
        Range => report(
            "22015",
            format!("interval field value out of range: \"{}\"", shown(text)),
        ),
        kind => fault(kind, ty, text),
    })
}

/// Counts with room to add up; microseconds below.
#[derive(Default)]
struct Sum {
    months: f64,
    days: f64,
    us: i64,
}

impl Sum {
    /// A fraction of a unit spills into the next smaller one: half a month is 15 days.
    fn add(&mut self, number: f64, unit: &str) -> Result<(), Fault> {
        let unit = unit.to_ascii_lowercase();
        let spread = |whole: f64| (whole.trunc(), whole.fract());
        let us_of = |number: f64, unit_us: i64| {
            let us = number * unit_us as f64;
            if us.abs() < 9e18 {
                Ok(us.round() as i64)
            } else {
                Err(Range)
            }
        };
        let us = match unit.as_str() {
            "millennium" | "millenniums" | "millennia" | "mil" | "mils" => {
                return self.add(number * 1000.0, "year");
            }
            "century" | "centuries" | "cent" | "c" => return self.add(number * 100.0, "year"),
            "decade" | "decades" | "dec" | "decs" => return self.add(number * 10.0, "year"),
            "year" | "years" | "yr" | "yrs" | "y" => {
                self.months += (number * 12.0).round();
                0
            }
            "month" | "months" | "mon" | "mons" => {
                let (whole, part) = spread(number);
                self.months += whole;
                return if part == 0.0 {
                    Ok(())
                } else {
                    self.add(part * 30.0, "day")
                };
            }
            "week" | "weeks" | "w" => return self.add(number * 7.0, "day"),
            "day" | "days" | "d" => {
                let (whole, part) = spread(number);
                self.days += whole;
                us_of(part, DAY_US)?
            }
            "hour" | "hours" | "hr" | "hrs" | "h" => us_of(number, 3600 * SECOND_US)?,
            "minute" | "minutes" | "min" | "mins" | "m" => us_of(number, 60 * SECOND_US)?,
            "second" | "seconds" | "sec" | "secs" | "s" => us_of(number, SECOND_US)?,
            "millisecond" | "milliseconds" | "msec" | "msecs" | "ms" => us_of(number, 1000)?,
            "microsecond" | "microseconds" | "usec" | "usecs" | "us" => us_of(number, 1)?,
            _ => return Err(Syntax),
        };
        self.us = self.us.checked_add(us).ok_or(Range)?;
        Ok(())
    }

    fn finish(self, negate: bool) -> Result<IntervalMonthDayNano, Fault> {
        let whole = |number: f64| {
            let fits = number.abs() <= f64::from(i32::MAX);
            if fits { Ok(number as i32) } else { Err(Range) }
        };
        let sign = if negate { -1 } else { 1 };
        let nanoseconds = self.us.checked_mul(1000 * i64::from(sign)).ok_or(Range)?;
        Ok(IntervalMonthDayNano::new(
            whole(self.months)? * sign,
            whole(self.days)? * sign,
            nanoseconds,
        ))
    }
}

fn verbose_interval(text: &str) -> Result<IntervalMonthDayNano, Fault> {
    let mut sum = Sum::default();
    let mut words: Vec<&str> = text.split_ascii_whitespace().collect();
    if words.first() == Some(&"@") {
        words.remove(0);
    }
    let ago = words
        .last()
        .is_some_and(|word| word.eq_ignore_ascii_case("ago"));
    if ago {
        words.pop();
    }
    if words.is_empty() {
        return Err(Syntax);
    }
    let mut words = words.into_iter();
    while let Some(word) = words.next() {
        if word.contains(':') {
            sum.us = sum.us.checked_add(signed_clock(word)?).ok_or(Range)?;
            continue;
        }
        let end = word
            .find(|c: char| c.is_ascii_alphabetic())
            .unwrap_or(word.len());
        let number = decimal(&word[..end])?;
        // A number alone counts seconds.
        let unit = if end < word.len() {
            &word[end..]
        } else {
            words.next().unwrap_or("second")
        };
        sum.add(number, unit)?;
    }
    sum.finish(ago)
}

fn decimal(text: &str) -> Result<f64, Fault> {
    let plain = !text.is_empty()
        && text
            .bytes()
            .all(|byte| byte.is_ascii_digit() || matches!(byte, b'+' | b'-' | b'.'));
    if plain {
        text.parse().map_err(|_| Syntax)
    } else {
        Err(Syntax)
    }
}

/// `-04:05:06.789`; the hours of an interval are not limited to a day.
fn signed_clock(text: &str) -> Result<i64, Fault> {
    let (sign, clock) = match text.as_bytes()[0] {
        b'-' => (-1, &text[1..]),
        b'+' => (1, &text[1..]),
        _ => (1, text),
    };
    let parts: Vec<&str> = clock.split(':').collect();
    let (hours, minutes, seconds) = match parts[..] {
        [hours, minutes] => (hours, minutes, "0"),
        [hours, minutes, seconds] => (hours, minutes, seconds),
        _ => return Err(Syntax),
    };
    let (hours, minutes, us) = (
        digits(hours, 1..=9)?,
        digits(minutes, 1..=2)?,
        seconds_us(seconds)?,
    );
    if minutes > 59 || us >= 60 * SECOND_US {
        return Err(Range);
    }
    Ok(sign * ((hours * 60 + minutes) * 60 * SECOND_US + us))
}

/// `1Y2M3DT4H5M6.5S`, behind the P.
fn iso_interval(text: &str) -> Result<IntervalMonthDayNano, Fault> {
    let mut sum = Sum::default();
    let mut in_time = false;
    let mut rest = text;
    if rest.is_empty() {
        return Err(Syntax);
    }
    while !rest.is_empty() {
        if let Some(time) = rest.strip_prefix(['T', 't']) {
            in_time = true;
            rest = time;
            continue;
        }
        let end = rest.find(|c: char| c.is_ascii_alphabetic()).ok_or(Syntax)?;
        let unit = match (in_time, rest.as_bytes()[end].to_ascii_uppercase()) {
            (false, b'Y') => "year",
            (false, b'M') => "month",
            (false, b'W') => "week",
            (false, b'D') => "day",
            (true, b'H') => "hour",
            (true, b'M') => "minute",
            (true, b'S') => "second",
            _ => return Err(Syntax),
        };
        sum.add(decimal(&rest[..end])?, unit)?;
        rest = &rest[end + 1..];
    }
    sum.finish(false)
}
