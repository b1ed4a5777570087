//! Dates, times and intervals as text, both ways, as Postgres reads and writes them in ISO style.
//!
//! Invariant: parsing never panics and never guesses: what it does not know is 22007, what is out of range 22008.

use std::str::FromStr;

use chrono::{DateTime, Datelike, NaiveDate, NaiveDateTime, Offset, TimeZone};
use datafusion::arrow::datatypes::{IntervalMonthDayNano, IntervalMonthDayNanoType};
use datafusion::common::{DataFusionError, Result};

use crate::error::raise;

pub(crate) const SECOND_US: i64 = 1_000_000;
pub(crate) const DAY_US: i64 = 86_400 * SECOND_US;
const HOUR_NS: i128 = 3_600_000_000_000;
const MINUTE_NS: i128 = 60_000_000_000;
const SECOND_NS: i128 = 1_000_000_000;
const DAY_NS: i128 = 24 * HOUR_NS;

/// A time zone by name or fixed offset.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Zone {
    /// A named zone.
    Named(chrono_tz::Tz),
    /// Seconds east of UTC.
    Fixed(i32),
}

impl Zone {
    /// Reads a zone name, abbreviation or offset; unknown ones are 22023.
    pub(crate) fn parse(name: &str) -> Result<Zone> {
        let trimmed = name.trim();
        if trimmed.is_empty()
            || trimmed.eq_ignore_ascii_case("utc")
            || trimmed.eq_ignore_ascii_case("z")
        {
            return Ok(Zone::Fixed(0));
        }
        if let Some(seconds) = offset_seconds(trimmed) {
            return Ok(Zone::Fixed(seconds));
        }
        chrono_tz::Tz::from_str(trimmed)
            .ok()
            .or_else(|| {
                chrono_tz::TZ_VARIANTS
                    .iter()
                    .copied()
                    .find(|tz| tz.name().eq_ignore_ascii_case(trimmed))
            })
            .map(Zone::Named)
            .ok_or_else(|| raise("22023", format!("time zone \"{name}\" not recognized")))
    }

    /// Microseconds to add to UTC at that instant.
    pub(crate) fn offset_us(self, utc_us: i64) -> i64 {
        let seconds = match self {
            Zone::Fixed(seconds) => seconds,
            Zone::Named(tz) => match DateTime::from_timestamp_micros(utc_us) {
                Some(at) => tz
                    .offset_from_utc_datetime(&at.naive_utc())
                    .fix()
                    .local_minus_utc(),
                None => 0,
            },
        };
        i64::from(seconds) * SECOND_US
    }

    /// The instant at which the zone's clocks show `local_us`; in a gap, the instant after it.
    pub(crate) fn to_utc(self, local_us: i64) -> i64 {
        match self {
            Zone::Fixed(seconds) => local_us.saturating_sub(i64::from(seconds) * SECOND_US),
            Zone::Named(_) => {
                let guess = local_us.saturating_sub(self.offset_us(local_us));
                let offset = self.offset_us(guess);
                let refined = local_us.saturating_sub(offset);
                if self.offset_us(refined) == offset {
                    refined
                } else {
                    guess.max(refined)
                }
            }
        }
    }

    /// What the zone's clocks show at `utc_us`.
    pub(crate) fn to_local(self, utc_us: i64) -> i64 {
        utc_us.saturating_add(self.offset_us(utc_us))
    }
}

fn offset_seconds(text: &str) -> Option<i32> {
    let (sign, rest) = match text.as_bytes().first()? {
        b'+' => (1, &text[1..]),
        b'-' => (-1, &text[1..]),
        _ => return None,
    };
    let parts: Vec<&str> = rest.split(':').collect();
    let (h, m, s) = match parts.as_slice() {
        [h] if h.len() == 4 => (h.get(..2)?, h.get(2..)?, "0"),
        [h] => (*h, "0", "0"),
        [h, m] => (*h, *m, "0"),
        [h, m, s] => (*h, *m, *s),
        _ => return None,
    };
    let number = |t: &str| t.parse::<i32>().ok().filter(|v| (0..=59).contains(v));
    Some(sign * (number(h)? * 3600 + number(m)? * 60 + number(s)?))
}

fn syntax(ty: &str, text: &str) -> DataFusionError {
    raise(
        "22007",
        format!("invalid input syntax for type {ty}: \"{text}\""),
    )
}

fn range(text: &str) -> DataFusionError {
    raise(
        "22008",
        format!("date/time field value out of range: \"{text}\""),
    )
}

fn epoch() -> NaiveDate {
    NaiveDate::default()
}

/// Days since 1970-01-01.
pub(crate) fn parse_date(text: &str) -> Result<i32> {
    let trimmed = text.trim();
    if trimmed.eq_ignore_ascii_case("epoch") {
        return Ok(0);
    }
    let (date, rest) = date_prefix(trimmed, text, "date")?;
    if !rest.trim().is_empty() {
        parse_time_zone(rest, text, "date")?;
    }
    i32::try_from(date.signed_duration_since(epoch()).num_days()).map_err(|_| range(text))
}

fn date_prefix<'a>(trimmed: &'a str, text: &str, ty: &str) -> Result<(NaiveDate, &'a str)> {
    let ends = [' ', 'T', 't', 'Z', 'z', '+'];
    let end = trimmed.find(ends).unwrap_or(trimmed.len());
    let (head, rest) = trimmed.split_at(end);
    let digits = |s: &str| !s.is_empty() && s.len() <= 6 && s.bytes().all(|b| b.is_ascii_digit());
    let parts: Vec<&str> = if head.contains('-') {
        head.split('-').collect()
    } else if head.contains('/') {
        head.split('/').collect()
    } else if head.len() == 8 && head.bytes().all(|b| b.is_ascii_digit()) {
        vec![&head[..4], &head[4..6], &head[6..]]
    } else {
        return Err(syntax(ty, text));
    };
    let [a, b, c] = parts.as_slice() else {
        return Err(syntax(ty, text));
    };
    if !(digits(a) && digits(b) && digits(c)) {
        return Err(syntax(ty, text));
    }
    // Year first, or the American month/day/year that Postgres reads by default.
    let (y, m, d) = if a.len() >= 3 { (a, b, c) } else { (c, a, b) };
    let number = |s: &str| s.parse::<u32>().unwrap_or(u32::MAX);
    let year = i32::try_from(number(y)).map_err(|_| range(text))?;
    let date = NaiveDate::from_ymd_opt(year, number(m), number(d)).ok_or_else(|| range(text))?;
    Ok((date, rest))
}

/// Reads `[T ]HH:MM[:SS[.f]] [zone]` and gives microseconds of the day and the zone.
fn parse_time_zone(rest: &str, text: &str, ty: &str) -> Result<(i64, Option<Zone>)> {
    let rest = rest.trim_start_matches(['T', 't', ' ']).trim_end();
    if rest.is_empty() {
        return Ok((0, None));
    }
    // A date can have a zone without a clock.
    if rest.eq_ignore_ascii_case("z") || rest.eq_ignore_ascii_case("utc") {
        return Ok((0, Some(Zone::Fixed(0))));
    }
    if rest.starts_with('+') {
        let zone = Zone::parse(rest).map_err(|_| syntax(ty, text))?;
        return Ok((0, Some(zone)));
    }
    let end = rest
        .find(|c: char| !(c.is_ascii_digit() || c == ':' || c == '.'))
        .unwrap_or(rest.len());
    let (clock, mut tail) = rest.split_at(end);
    let mut us = parse_clock(clock, text, ty)?;
    tail = tail.trim_start();
    for (word, noon) in [("AM", 0), ("PM", 12)] {
        if tail.get(..2).is_some_and(|t| t.eq_ignore_ascii_case(word)) {
            let hour = us / (3600 * SECOND_US);
            if !(1..=12).contains(&hour) {
                return Err(range(text));
            }
            us += (noon + if hour == 12 { -12 } else { 0 }) * 3600 * SECOND_US;
            tail = tail[2..].trim_start();
        }
    }
    let zone = if tail.is_empty() {
        None
    } else {
        Some(Zone::parse(tail).map_err(|_| syntax(ty, text))?)
    };
    Ok((us, zone))
}

fn parse_clock(clock: &str, text: &str, ty: &str) -> Result<i64> {
    let parts: Vec<&str> = clock.split(':').collect();
    let two = |s: &str| -> Result<i64> {
        if s.is_empty() || s.len() > 2 {
            Err(syntax(ty, text))
        } else {
            s.parse().map_err(|_| syntax(ty, text))
        }
    };
    let (h, m, s) = match parts.as_slice() {
        [h, m] => (two(h)?, two(m)?, 0),
        [h, m, s] => (
            two(h)?,
            two(m)?,
            seconds_us(s).ok_or_else(|| syntax(ty, text))?,
        ),
        [d] if d.len() == 6 || d.len() == 4 => {
            let get = |r: std::ops::Range<usize>| d.get(r).unwrap_or("0");
            (
                two(get(0..2))?,
                two(get(2..4))?,
                if d.len() == 6 {
                    two(get(4..6))? * SECOND_US
                } else {
                    0
                },
            )
        }
        _ => return Err(syntax(ty, text)),
    };
    if h > 24 || m > 59 || s > 60 * SECOND_US || (h == 24 && (m > 0 || s > 0)) {
        return Err(range(text));
    }
    Ok((h * 3600 + m * 60) * SECOND_US + s)
}

fn seconds_us(text: &str) -> Option<i64> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    if whole.is_empty() || whole.len() > 2 || !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let mut us: i64 = whole.parse::<i64>().ok()? * SECOND_US;
    let mut scale = SECOND_US / 10;
    for (i, b) in fraction.bytes().enumerate() {
        if i < 6 {
            us += i64::from(b - b'0') * scale;
            scale /= 10;
        } else {
            us += i64::from(b >= b'5' && i == 6);
            break;
        }
    }
    Some(us)
}

/// Microseconds since the epoch on a clock without a zone; a zone in the text is ignored, as Postgres does.
pub(crate) fn parse_timestamp(text: &str) -> Result<i64> {
    Ok(parse_instant(text, "timestamp")?.0)
}

/// Microseconds UTC; a text without a zone is in `zone`.
pub(crate) fn parse_timestamptz(text: &str, zone: Zone) -> Result<i64> {
    let (local, own) = parse_instant(text, "timestamp with time zone")?;
    Ok(own.unwrap_or(zone).to_utc(local))
}

fn parse_instant(text: &str, ty: &str) -> Result<(i64, Option<Zone>)> {
    let trimmed = text.trim();
    if trimmed.eq_ignore_ascii_case("epoch") {
        return Ok((0, Some(Zone::Fixed(0))));
    }
    let (date, rest) = date_prefix(trimmed, text, ty)?;
    let (us, zone) = parse_time_zone(rest, text, ty)?;
    let days = date.signed_duration_since(epoch()).num_days();
    let local = days
        .checked_mul(DAY_US)
        .and_then(|d| d.checked_add(us))
        .ok_or_else(|| range(text))?;
    Ok((local, zone))
}

/// Microseconds since midnight.
pub(crate) fn parse_time(text: &str) -> Result<i64> {
    let trimmed = text.trim();
    if trimmed.is_empty() || !trimmed.as_bytes()[0].is_ascii_digit() {
        return Err(syntax("time", text));
    }
    Ok(parse_time_zone(trimmed, text, "time")?.0)
}

/// Reads an interval in any of Postgres' spellings; `unit` is the field after the literal (`INTERVAL '10' SECOND`).
pub(crate) fn parse_interval(text: &str, unit: Option<&str>) -> Result<IntervalMonthDayNano> {
    let bad = || syntax("interval", text);
    let lower = text.trim().to_lowercase();
    let mut total = Parts::default();
    if lower.is_empty() {
        return Err(bad());
    }
    if let Some(iso) = lower.strip_prefix('p') {
        parse_iso(iso, &mut total).ok_or_else(bad)?;
        return total.finish().ok_or_else(|| {
            raise(
                "22008",
                format!("interval field value out of range: \"{text}\""),
            )
        });
    }
    let mut tokens: Vec<String> = Vec::new();
    for word in lower.split_whitespace() {
        split_number_unit(word, &mut tokens);
    }
    let mut negate = false;
    let mut at = 0;
    while at < tokens.len() {
        let token = tokens[at].trim_start_matches('@').to_owned();
        at += 1;
        if token.is_empty() {
            continue;
        }
        if token == "ago" {
            negate = true;
        } else if token.contains(':') {
            total.clock(&token).ok_or_else(bad)?;
        } else if let Some((years, months)) = year_month(&token) {
            total.add("month", years * 12 + months, 0).ok_or_else(bad)?;
        } else {
            let (whole, billionths) = decimal(&token).ok_or_else(bad)?;
            let next_is_unit = tokens
                .get(at)
                .is_some_and(|t| t.chars().all(char::is_alphabetic) && t != "ago");
            let name = if next_is_unit {
                at += 1;
                tokens[at - 1].clone()
            } else if tokens.get(at).is_some_and(|t| t.contains(':')) {
                "day".to_owned()
            } else {
                unit.unwrap_or("second").to_owned()
            };
            total.add(&name, whole, billionths).ok_or_else(bad)?;
        }
    }
    if negate {
        total = Parts {
            months: -total.months,
            days: -total.days,
            nanos: -total.nanos,
        };
    }
    total.finish().ok_or_else(|| {
        raise(
            "22008",
            format!("interval field value out of range: \"{text}\""),
        )
    })
}

fn split_number_unit(word: &str, out: &mut Vec<String>) {
    let end = word.find(|c: char| c.is_alphabetic()).unwrap_or(word.len());
    let (number, unit) = word.split_at(end);
    for part in [number, unit] {
        if !part.is_empty() {
            out.push(part.to_owned());
        }
    }
}

fn year_month(token: &str) -> Option<(i128, i128)> {
    let negative = token.starts_with('-');
    let body = token.trim_start_matches(['-', '+']);
    let (y, m) = body.split_once('-')?;
    let (y, m): (i128, i128) = (y.parse().ok()?, m.parse().ok()?);
    Some(if negative { (-y, -m) } else { (y, m) })
}

/// Whole part and billionths, both with the sign.
fn decimal(token: &str) -> Option<(i128, i128)> {
    let negative = token.starts_with('-');
    let body = token.strip_prefix(['-', '+']).unwrap_or(token);
    let (whole, fraction) = body.split_once('.').unwrap_or((body, ""));
    if whole.is_empty() && fraction.is_empty()
        || whole.len() > 18
        || !fraction.bytes().all(|b| b.is_ascii_digit())
    {
        return None;
    }
    let whole: i128 = if whole.is_empty() {
        0
    } else {
        whole.parse().ok()?
    };
    let mut padded: String = fraction.chars().take(9).collect();
    while padded.len() < 9 {
        padded.push('0');
    }
    let billionths: i128 = padded.parse().ok()?;
    Some(if negative {
        (-whole, -billionths)
    } else {
        (whole, billionths)
    })
}

#[derive(Default)]
struct Parts {
    months: i128,
    days: i128,
    nanos: i128,
}

impl Parts {
    fn add(&mut self, unit: &str, whole: i128, billionths: i128) -> Option<()> {
        let months = |n: i128| (n * 12 * whole, n * 12 * billionths);
        let (month_count, month_billionths) = match unit
            .strip_suffix('s')
            .filter(|u| u.len() > 1)
            .unwrap_or(unit)
        {
            "millennium" | "millennia" | "mil" => months(1000),
            "century" | "centurie" | "c" => months(100),
            "decade" | "dec" => months(10),
            "year" | "yr" | "y" => months(1),
            "month" | "mon" => (whole, billionths),
            "week" | "w" => return self.add_days(whole * 7, billionths * 7),
            "day" | "d" => return self.add_days(whole, billionths),
            "hour" | "hr" | "h" => return self.add_nanos(whole, billionths, HOUR_NS),
            "minute" | "min" | "m" => return self.add_nanos(whole, billionths, MINUTE_NS),
            "second" | "sec" => return self.add_nanos(whole, billionths, SECOND_NS),
            "s" => return self.add_nanos(whole, billionths, SECOND_NS),
            "millisecond" | "msec" => return self.add_nanos(whole, billionths, 1_000_000),
            "microsecond" | "usec" | "u" => return self.add_nanos(whole, billionths, 1_000),
            _ => return None,
        };
        self.months += month_count + month_billionths / SECOND_NS;
        let left = month_billionths % SECOND_NS;
        if left != 0 {
            self.add_days(left * 30 / SECOND_NS, left * 30 % SECOND_NS)?;
        }
        Some(())
    }

    fn add_days(&mut self, whole: i128, billionths: i128) -> Option<()> {
        self.days += whole + billionths / SECOND_NS;
        self.nanos += billionths % SECOND_NS * DAY_NS / SECOND_NS;
        Some(())
    }

    fn add_nanos(&mut self, whole: i128, billionths: i128, unit: i128) -> Option<()> {
        self.nanos += whole * unit + billionths * unit / SECOND_NS;
        Some(())
    }

    fn clock(&mut self, token: &str) -> Option<()> {
        let negative = token.starts_with('-');
        let body = token.trim_start_matches(['-', '+']);
        let parts: Vec<&str> = body.split(':').collect();
        let (h, m, s) = match parts.as_slice() {
            [h, m] => (*h, *m, "0"),
            [h, m, s] => (*h, *m, *s),
            _ => return None,
        };
        let (h, m): (i128, i128) = (h.parse().ok()?, m.parse().ok()?);
        let (s, f) = decimal(s)?;
        let nanos = h * HOUR_NS + m * MINUTE_NS + s * SECOND_NS + f;
        self.nanos += if negative { -nanos } else { nanos };
        Some(())
    }

    fn finish(&self) -> Option<IntervalMonthDayNano> {
        // Held to the microsecond, as Postgres does.
        let nanos = self.nanos / 1000 * 1000;
        Some(IntervalMonthDayNanoType::make_value(
            i32::try_from(self.months).ok()?,
            i32::try_from(self.days).ok()?,
            i64::try_from(nanos).ok()?,
        ))
    }
}

fn parse_iso(text: &str, total: &mut Parts) -> Option<()> {
    let mut in_time = false;
    let mut number = String::new();
    for c in text.chars() {
        match c {
            't' => in_time = true,
            '0'..='9' | '.' | '-' | '+' => number.push(c),
            unit => {
                let (whole, billionths) = decimal(&number)?;
                number.clear();
                let name = match (unit, in_time) {
                    ('y', false) => "year",
                    ('m', false) => "month",
                    ('w', false) => "week",
                    ('d', false) => "day",
                    ('h', true) => "hour",
                    ('m', true) => "minute",
                    ('s', true) => "second",
                    _ => return None,
                };
                total.add(name, whole, billionths)?;
            }
        }
    }
    number.is_empty().then_some(())
}

/// `2024-01-31`
pub(crate) fn date_text(days: i32) -> String {
    match epoch().checked_add_signed(chrono::TimeDelta::days(i64::from(days))) {
        Some(date) if date.year() > 0 => {
            format!("{:04}-{:02}-{:02}", date.year(), date.month(), date.day())
        }
        Some(date) => format!(
            "{:04}-{:02}-{:02} BC",
            1 - date.year(),
            date.month(),
            date.day()
        ),
        None => days.to_string(),
    }
}

/// `12:34:56.789`
pub(crate) fn time_text(us: i64) -> String {
    let (seconds, fraction) = (us.div_euclid(SECOND_US), us.rem_euclid(SECOND_US));
    let mut out = format!(
        "{:02}:{:02}:{:02}",
        seconds / 3600,
        seconds / 60 % 60,
        seconds % 60
    );
    push_fraction(&mut out, fraction);
    out
}

fn push_fraction(out: &mut String, us: i64) {
    if us != 0 {
        let digits = format!("{us:06}");
        out.push('.');
        out.push_str(digits.trim_end_matches('0'));
    }
}

/// `2024-01-31 12:34:56.789`
pub(crate) fn timestamp_text(us: i64) -> String {
    let days = us.div_euclid(DAY_US);
    format!(
        "{} {}",
        date_text(i32::try_from(days).unwrap_or(i32::MAX)),
        time_text(us.rem_euclid(DAY_US))
    )
}

/// `2024-01-31 12:34:56.789+00` in the given zone.
pub(crate) fn timestamptz_text(us: i64, zone: Zone) -> String {
    let offset = zone.offset_us(us) / SECOND_US;
    let mut out = timestamp_text(us.saturating_add(offset * SECOND_US));
    let sign = if offset < 0 { '-' } else { '+' };
    let (h, m, s) = (
        offset.abs() / 3600,
        offset.abs() / 60 % 60,
        offset.abs() % 60,
    );
    out.push_str(&format!("{sign}{h:02}"));
    if m != 0 || s != 0 {
        out.push_str(&format!(":{m:02}"));
    }
    if s != 0 {
        out.push_str(&format!(":{s:02}"));
    }
    out
}

/// `1 year 2 mons 3 days 04:05:06`
pub(crate) fn interval_text(value: IntervalMonthDayNano) -> String {
    let mut parts = Vec::new();
    let plural = |n: i32, one: &str, many: &str| format!("{n} {}", if n == 1 { one } else { many });
    let (years, months) = (value.months / 12, value.months % 12);
    if years != 0 {
        parts.push(plural(years, "year", "years"));
    }
    if months != 0 {
        parts.push(plural(months, "mon", "mons"));
    }
    if value.days != 0 {
        parts.push(plural(value.days, "day", "days"));
    }
    let us = value.nanoseconds / 1000;
    if us != 0 || parts.is_empty() {
        let magnitude = us.unsigned_abs();
        let seconds = magnitude / 1_000_000;
        let negative_before = parts.last().is_some_and(|p| p.starts_with('-'));
        let sign = if us < 0 {
            "-"
        } else if negative_before {
            "+"
        } else {
            ""
        };
        let mut clock = format!(
            "{sign}{:02}:{:02}:{:02}",
            seconds / 3600,
            seconds / 60 % 60,
            seconds % 60
        );
        push_fraction(
            &mut clock,
            i64::try_from(magnitude % 1_000_000).unwrap_or(0),
        );
        parts.push(clock);
    }
    parts.join(" ")
}

/// The calendar date and time of a microsecond count.
pub(crate) fn datetime_of(us: i64) -> Option<NaiveDateTime> {
    DateTime::from_timestamp_micros(us).map(|at| at.naive_utc())
}

/// Microseconds since the epoch.
pub(crate) fn micros_of(at: NaiveDateTime) -> i64 {
    at.and_utc().timestamp_micros()
}

/// Days since the epoch.
pub(crate) fn days_of(date: NaiveDate) -> Option<i32> {
    i32::try_from(date.signed_duration_since(epoch()).num_days()).ok()
}
