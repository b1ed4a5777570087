//! `to_char`, `to_date` and `to_timestamp` with Postgres' format patterns.
//!
//! Invariant: an unknown pattern is copied to the output, as Postgres does; nothing here panics on any pattern.

use chrono::{Datelike, Timelike};
use datafusion::arrow::array::{Array, AsArray, PrimitiveArray};
use datafusion::arrow::datatypes::{
    Date32Type, Decimal128Type, IntervalMonthDayNanoType, TimestampMicrosecondType,
};
use datafusion::common::Result;
use thalweg_catalog::SqlType;

use super::decimal;
use super::native::{Kernel, Native};
use super::temporal::text_rows;
use super::temporal_text::{self as temporal, Zone};
use crate::error::raise;
use crate::types::scale_of;

/// Names of months and days for `to_char`.
const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

const DAYS: [&str; 7] = [
    "Sunday",
    "Monday",
    "Tuesday",
    "Wednesday",
    "Thursday",
    "Friday",
    "Saturday",
];

/// Patterns in the order they are tried: longer ones first.
const PATTERNS: &[&str] = &[
    "HH24", "HH12", "MONTH", "Month", "month", "YYYY", "yyyy", "IYYY", "SSSS", "Y,YYY", "A.M.",
    "P.M.", "a.m.", "p.m.", "DDD", "ddd", "DAY", "Day", "day", "MON", "Mon", "mon", "YYY", "IDDD",
    "FF1", "FF2", "FF3", "FF4", "FF5", "FF6", "HH", "hh", "MI", "mi", "SS", "ss", "MS", "ms", "US",
    "us", "YY", "yy", "IW", "WW", "MM", "mm", "DD", "dd", "DY", "Dy", "dy", "ID", "CC", "AM", "PM",
    "am", "pm", "TZH", "TZM", "TZ", "tz", "OF", "Q", "D", "W", "J", "Y",
];

fn case(word: &str, pattern: &str) -> String {
    let mut letters = pattern.chars();
    match (letters.next(), letters.next()) {
        (Some(a), _) if a.is_lowercase() => word.to_lowercase(),
        (_, Some(b)) if b.is_lowercase() => word.to_owned(),
        _ => word.to_uppercase(),
    }
}

fn padded(value: i64, width: usize, fill: bool) -> String {
    if fill {
        value.to_string()
    } else {
        format!("{value:0width$}")
    }
}

/// A moment shown by a pattern; `zone` is what TZ and OF print.
fn moment(us: i64, format: &str, zone: Option<(Zone, i64)>) -> Option<String> {
    let at = temporal::datetime_of(us)?;
    let mut out = String::new();
    let mut rest = format;
    while !rest.is_empty() {
        if let Some(quoted) = rest.strip_prefix('"') {
            let end = quoted.find('"').unwrap_or(quoted.len());
            out.push_str(&quoted[..end]);
            rest = quoted.get(end + 1..).unwrap_or("");
            continue;
        }
        let fill = rest.starts_with("FM") || rest.starts_with("fm");
        let body = if fill { &rest[2..] } else { rest };
        let Some(pattern) = PATTERNS.iter().find(|p| body.starts_with(**p)) else {
            let c = rest.chars().next()?;
            out.push(c);
            rest = &rest[c.len_utf8()..];
            continue;
        };
        let text = field(&at, pattern, fill, zone);
        rest = &body[pattern.len()..];
        if let Some(after) = rest.strip_prefix("TH").or_else(|| rest.strip_prefix("th")) {
            out.push_str(&text);
            let suffix = ordinal(text.trim().parse().unwrap_or(0));
            out.push_str(&if rest.starts_with("TH") {
                suffix.to_uppercase()
            } else {
                suffix.to_owned()
            });
            rest = after;
        } else {
            out.push_str(&text);
        }
    }
    Some(out)
}

fn ordinal(n: i64) -> &'static str {
    match (n % 100, n % 10) {
        (11..=13, _) => "th",
        (_, 1) => "st",
        (_, 2) => "nd",
        (_, 3) => "rd",
        _ => "th",
    }
}

fn field(
    at: &chrono::NaiveDateTime,
    pattern: &str,
    fill: bool,
    zone: Option<(Zone, i64)>,
) -> String {
    let year = i64::from(at.year());
    let micros = i64::from(at.nanosecond() / 1000);
    let hour12 = match at.hour() % 12 {
        0 => 12,
        h => i64::from(h),
    };
    let two = |v: u32| padded(i64::from(v), 2, fill);
    let name = |word: &str, width: usize| {
        let cased = case(word, pattern);
        if fill {
            cased
        } else {
            format!("{cased:<width$}")
        }
    };
    let weekday = at.weekday().num_days_from_sunday() as usize;
    match pattern {
        "HH24" => two(at.hour()),
        "HH12" | "HH" | "hh" => padded(hour12, 2, fill),
        "MI" | "mi" => two(at.minute()),
        "SS" | "ss" => two(at.second()),
        "MS" | "ms" => padded(micros / 1000, 3, fill),
        "US" | "us" => padded(micros, 6, fill),
        "FF1" | "FF2" | "FF3" | "FF4" | "FF5" | "FF6" => {
            let digits = pattern
                .as_bytes()
                .last()
                .map_or(6, |d| usize::from(d - b'0'));
            format!("{micros:06}")
                .get(..digits)
                .unwrap_or("")
                .to_owned()
        }
        "SSSS" => i64::from(at.num_seconds_from_midnight()).to_string(),
        "YYYY" | "yyyy" => padded(year, 4, fill),
        "Y,YYY" => format!("{},{:03}", year / 1000, year % 1000),
        "YYY" => padded(year % 1000, 3, fill),
        "YY" | "yy" => padded(year % 100, 2, fill),
        "Y" => (year % 10).to_string(),
        "IYYY" => padded(i64::from(at.iso_week().year()), 4, fill),
        "IW" => two(at.iso_week().week()),
        "IDDD" => padded(
            i64::from(at.iso_week().week0() * 7 + at.weekday().number_from_monday()),
            3,
            fill,
        ),
        "CC" => padded((year - 1).div_euclid(100) + 1, 2, fill),
        "MONTH" | "Month" | "month" => name(MONTHS[at.month0() as usize], 9),
        "MON" | "Mon" | "mon" => case(&MONTHS[at.month0() as usize][..3], pattern),
        "MM" | "mm" => two(at.month()),
        "DAY" | "Day" | "day" => name(DAYS[weekday], 9),
        "DY" | "Dy" | "dy" => case(&DAYS[weekday][..3], pattern),
        "DDD" | "ddd" => padded(i64::from(at.ordinal()), 3, fill),
        "DD" | "dd" => two(at.day()),
        "D" => (weekday + 1).to_string(),
        "ID" => at.weekday().number_from_monday().to_string(),
        "W" => ((at.day() - 1) / 7 + 1).to_string(),
        "WW" => two((at.ordinal() - 1) / 7 + 1),
        "Q" => (at.month0() / 3 + 1).to_string(),
        "J" => (i64::from(at.num_days_from_ce()) + 1_721_425).to_string(),
        "AM" | "PM" | "am" | "pm" => case(if at.hour() < 12 { "AM" } else { "PM" }, pattern)
            .chars()
            .map(|c| {
                if pattern.starts_with(char::is_lowercase) {
                    c.to_ascii_lowercase()
                } else {
                    c
                }
            })
            .collect(),
        "A.M." | "P.M." | "a.m." | "p.m." => {
            let word = if at.hour() < 12 { "A.M." } else { "P.M." };
            if pattern.starts_with(char::is_lowercase) {
                word.to_lowercase()
            } else {
                word.to_owned()
            }
        }
        "TZH" | "TZM" | "OF" | "TZ" | "tz" => zone_field(pattern, zone),
        other => other.to_owned(),
    }
}

fn zone_field(pattern: &str, zone: Option<(Zone, i64)>) -> String {
    let Some((zone, utc)) = zone else {
        return String::new();
    };
    let seconds = zone.offset_us(utc) / temporal::SECOND_US;
    let (sign, h, m) = (
        if seconds < 0 { '-' } else { '+' },
        seconds.abs() / 3600,
        seconds.abs() / 60 % 60,
    );
    match (pattern, zone) {
        ("TZH", _) => format!("{sign}{h:02}"),
        ("TZM", _) => format!("{m:02}"),
        ("OF", _) if m == 0 => format!("{sign}{h:02}"),
        ("OF", _) => format!("{sign}{h:02}:{m:02}"),
        (_, Zone::Fixed(0)) => {
            if pattern == "tz" {
                "utc".to_owned()
            } else {
                "UTC".to_owned()
            }
        }
        (_, Zone::Named(tz)) => {
            use chrono::TimeZone;
            let name = chrono::DateTime::from_timestamp_micros(utc)
                .map(|at| {
                    use chrono_tz::OffsetName;
                    tz.offset_from_utc_datetime(&at.naive_utc())
                        .abbreviation()
                        .unwrap_or("")
                        .to_owned()
                })
                .unwrap_or_default();
            if pattern == "tz" {
                name.to_lowercase()
            } else {
                name
            }
        }
        _ => format!("{sign}{h:02}"),
    }
}

/// A number shown by a pattern of 9, 0, `.`, `,`, FM, S, MI, PR, L and `$`.
fn number(value: i128, scale: i8, format: &str) -> String {
    let upper = format.to_uppercase();
    let fill = upper.contains("FM");
    let body: String = upper
        .replace("FM", "")
        .replace("SG", "S")
        .replace("MI", "m")
        .replace("PR", "p");
    let (whole_part, fraction_part) = match body.find(['.', 'D']) {
        Some(at) => (&body[..at], &body[at + 1..]),
        None => (body.as_str(), ""),
    };
    let is_digit = |c: char| c == '9' || c == '0';
    let places = fraction_part.chars().filter(|c| is_digit(*c)).count();
    let slots = whole_part.chars().filter(|c| is_digit(*c)).count();
    let rounded =
        decimal::rescale(value, scale, i8::try_from(places.min(37)).unwrap_or(0)).unwrap_or(0);
    let digits = decimal::print(
        rounded.abs(),
        i8::try_from(places.min(37)).unwrap_or(0),
        false,
    );
    let (whole, fraction) = digits.split_once('.').unwrap_or((&digits, ""));
    let whole = if whole == "0" && slots > 0 { "" } else { whole };
    let negative = rounded < 0;
    let overflow = whole.len() > slots;
    let mut out: Vec<char> = Vec::new();
    let mut source = whole.chars().rev();
    let has_zero_left = |at: usize| whole_part.chars().take(at + 1).any(|c| c == '0');
    let chars: Vec<char> = whole_part.chars().collect();
    let mut pending = whole.len();
    for (at, c) in chars.iter().enumerate().rev() {
        match c {
            '9' | '0' => {
                if overflow {
                    out.push('#');
                } else if let Some(d) = source.next() {
                    pending -= 1;
                    out.push(d);
                } else if has_zero_left(at) {
                    out.push('0');
                } else if slots > 0
                    && at
                        == chars
                            .iter()
                            .rposition(|c| is_digit(*c))
                            .unwrap_or(usize::MAX)
                    && places == 0
                {
                    out.push('0');
                } else if !fill {
                    out.push(' ');
                }
            }
            ',' | 'G' => {
                if overflow || pending > 0 || has_zero_left(at) {
                    out.push(',');
                } else if !fill {
                    out.push(' ');
                }
            }
            'L' | '$' => out.push('$'),
            'S' | 'm' | 'p' | 'B' => {}
            other => out.push(*other),
        }
    }
    out.reverse();
    let mut text: String = out.into_iter().collect();
    if !fraction_part.is_empty() || body.contains(['.', 'D']) {
        text.push('.');
        let mut shown: String = fraction.chars().collect();
        if fill {
            // FM drops trailing zeros that a 9 stands for.
            let keep = fraction_part
                .chars()
                .filter(|c| is_digit(*c))
                .collect::<Vec<_>>()
                .iter()
                .rposition(|c| *c == '0')
                .map_or(0, |p| p + 1);
            while shown.len() > keep && shown.ends_with('0') {
                shown.pop();
            }
        }
        text.push_str(&if overflow { "#".repeat(places) } else { shown });
    }
    signed(text, negative, &body, fill)
}

fn signed(text: String, negative: bool, body: &str, fill: bool) -> String {
    let pad = text.len() - text.trim_start_matches(' ').len();
    let trimmed = text.trim_start_matches(' ');
    let blank = if fill { "" } else { " " };
    if body.starts_with('S') {
        return format!(
            "{}{}{trimmed}",
            " ".repeat(pad),
            if negative { '-' } else { '+' }
        );
    }
    if body.ends_with('S') {
        return format!("{text}{}", if negative { '-' } else { '+' });
    }
    if body.ends_with('m') {
        return format!("{text}{}", if negative { "-" } else { blank });
    }
    if body.ends_with('p') {
        return if negative {
            format!("{}<{trimmed}>", " ".repeat(pad))
        } else {
            format!("{blank}{text}{blank}")
        };
    }
    if negative {
        format!("{}-{trimmed}", " ".repeat(pad))
    } else {
        format!("{blank}{text}")
    }
}

/// `to_char(value, format)`; numbers come as numeric.
pub(crate) fn to_char(ty: &SqlType, zone: &str) -> Native {
    let kernel: Kernel = |call| {
        let (values, formats) = (call.array(0)?, call.array(1)?);
        let formats = formats.as_string_view();
        let zone = Zone::parse(call.time_zone)?;
        text_rows(values.len(), |i| {
            if values.is_null(i) || formats.is_null(i) {
                return Ok(None);
            }
            let format = formats.value(i);
            Ok(match &call.types[0] {
                SqlType::Timestamp => moment(
                    values.as_primitive::<TimestampMicrosecondType>().value(i),
                    format,
                    None,
                ),
                SqlType::Timestamptz => {
                    let us = values.as_primitive::<TimestampMicrosecondType>().value(i);
                    moment(zone.to_local(us), format, Some((zone, us)))
                }
                SqlType::Interval => {
                    let v = values.as_primitive::<IntervalMonthDayNanoType>().value(i);
                    moment(
                        i64::from(v.days) * temporal::DAY_US + v.nanoseconds / 1000,
                        format,
                        None,
                    )
                }
                other => Some(number(
                    values.as_primitive::<Decimal128Type>().value(i),
                    scale_of(other),
                    format,
                )),
            })
        })
    };
    let native = Native::new(
        "to_char",
        vec![ty.clone(), SqlType::Text],
        SqlType::Text,
        kernel,
    );
    if matches!(ty, SqlType::Timestamptz) {
        native.in_zone(zone)
    } else {
        native
    }
}

/// Reads a text by a pattern into microseconds on a clock.
fn read(text: &str, format: &str) -> Result<i64> {
    let bad = |what: &str| raise("22007", format!("invalid value \"{text}\" for \"{what}\""));
    let (mut year, mut month, mut day, mut hour, mut minute, mut second, mut micros) =
        (1i64, 1i64, 1i64, 0i64, 0i64, 0i64, 0i64);
    let mut afternoon = None;
    let (mut rest, mut pattern) = (text, format);
    while !pattern.is_empty() {
        let body = pattern.strip_prefix("FM").unwrap_or(pattern);
        let Some(found) = PATTERNS.iter().find(|p| body.starts_with(**p)) else {
            let c = pattern.chars().next().map_or(1, char::len_utf8);
            pattern = &pattern[c..];
            // A separator matches any separator.
            rest = rest
                .strip_prefix(|c: char| !c.is_alphanumeric())
                .unwrap_or(rest);
            continue;
        };
        pattern = &body[found.len()..];
        rest = rest.trim_start();
        let mut number = |most: usize| -> Result<i64> {
            let end = rest
                .bytes()
                .take(most)
                .take_while(u8::is_ascii_digit)
                .count();
            let value = rest[..end].parse().map_err(|_| bad(found))?;
            rest = &rest[end..];
            Ok(value)
        };
        match *found {
            "YYYY" | "yyyy" => year = number(4)?,
            "YY" | "yy" => {
                let y = number(2)?;
                year = if y < 70 { 2000 + y } else { 1900 + y };
            }
            "MM" | "mm" => month = number(2)?,
            "DD" | "dd" => day = number(2)?,
            "HH24" | "HH12" | "HH" | "hh" => hour = number(2)?,
            "MI" | "mi" => minute = number(2)?,
            "SS" | "ss" => second = number(2)?,
            "MS" | "ms" => micros = number(3)? * 1000,
            "US" | "us" | "FF6" => micros = number(6)?,
            "AM" | "PM" | "am" | "pm" => {
                afternoon = Some(rest.get(..1).is_some_and(|c| c.eq_ignore_ascii_case("p")));
                rest = rest.get(2..).unwrap_or("");
            }
            "MON" | "Mon" | "mon" | "MONTH" | "Month" | "month" => {
                let long = found.len() == 5;
                let hit = MONTHS.iter().position(|m| {
                    rest.get(..if long { m.len() } else { 3 })
                        .is_some_and(|r| r.eq_ignore_ascii_case(if long { m } else { &m[..3] }))
                });
                let at = hit.ok_or_else(|| bad(found))?;
                month = i64::try_from(at + 1).unwrap_or(1);
                rest = &rest[if long { MONTHS[at].len() } else { 3 }..];
            }
            _ => {
                return Err(raise(
                    "0A000",
                    format!("format pattern {found} is not supported for reading"),
                ));
            }
        }
    }
    match afternoon {
        Some(true) if hour < 12 => hour += 12,
        Some(false) if hour == 12 => hour = 0,
        _ => {}
    }
    let small = |v: i64| u32::try_from(v).unwrap_or(u32::MAX);
    let date = i32::try_from(year)
        .ok()
        .and_then(|y| chrono::NaiveDate::from_ymd_opt(y, small(month), small(day)));
    let out = date.and_then(|d| {
        d.and_hms_micro_opt(small(hour), small(minute), small(second), small(micros))
    });
    out.map(temporal::micros_of).ok_or_else(|| {
        raise(
            "22008",
            format!("date/time field value out of range: \"{text}\""),
        )
    })
}

/// `to_date(text, format)` or `to_timestamp(text, format)`.
pub(crate) fn from_pattern(ret: SqlType, zone: &str) -> Native {
    let date = matches!(ret, SqlType::Date);
    let kernel: Kernel = |call| {
        let (texts, formats) = (call.array(0)?, call.array(1)?);
        let (texts, formats) = (texts.as_string_view(), formats.as_string_view());
        let zone = Zone::parse(call.time_zone)?;
        let mut out = Vec::with_capacity(texts.len());
        for i in 0..texts.len() {
            out.push(if texts.is_valid(i) && formats.is_valid(i) {
                Some(read(texts.value(i), formats.value(i))?)
            } else {
                None
            });
        }
        if matches!(call.ret, SqlType::Date) {
            let days = out
                .into_iter()
                .map(|us| us.and_then(|us| i32::try_from(us.div_euclid(temporal::DAY_US)).ok()));
            return Ok(std::sync::Arc::new(
                PrimitiveArray::<Date32Type>::from_iter(days),
            ));
        }
        let instants = out.into_iter().map(|us| us.map(|us| zone.to_utc(us)));
        Ok(std::sync::Arc::new(
            PrimitiveArray::<TimestampMicrosecondType>::from_iter(instants)
                .with_data_type(call.ret.arrow()),
        ))
    };
    let name = if date { "to_date" } else { "to_timestamp" };
    Native::new(name, vec![SqlType::Text, SqlType::Text], ret, kernel)
        .in_zone(if date { "" } else { zone })
        .fallible(true)
}
