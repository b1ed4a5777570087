//! Dates, times and timestamps from text and numbers.
//!
//! Invariant: a text means one moment, whatever the machine's or a session's time zone.

use chrono::NaiveDate;

use super::number::{Decimal, Misfit};

/// Microseconds of a day.
pub(super) const DAY_US: i64 = 86_400_000_000;
/// Timestamps outside of Postgres' lower and chrono's upper bound cannot be printed, so they are refused.
const TIMESTAMP_MIN_US: i64 = -210_866_803_200_000_000;
const TIMESTAMP_MAX_US: i64 = 8_000_000_000_000_000_000;

/// How numbers (and zoneless text) become `timestamptz`: the option `timestamptz.handling.mode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum TimestampHandling {
    /// Seconds, milliseconds, microseconds or nanoseconds by magnitude, with RisingWave's bounds 10^11, 10^14, 10^17.
    #[default]
    Guess,
    /// Milliseconds since the Unix epoch.
    Milli,
    /// Microseconds since the Unix epoch.
    Micro,
    /// Text only; without a zone it is UTC.
    UtcString,
}

/// `YYYY-MM-DD` to days since the Unix epoch.
pub(super) fn date(text: &str) -> Result<i32, Misfit> {
    let mut scan = Scan(text.as_bytes());
    let days = scan.date()?;
    if scan.0.is_empty() {
        i32::try_from(days).map_err(|_| Misfit::Range)
    } else {
        Err(Misfit::Type)
    }
}

/// `HH:MM[:SS[.ffffff]]` to microseconds since midnight.
pub(super) fn time(text: &str) -> Result<i64, Misfit> {
    let mut scan = Scan(text.as_bytes());
    let time_us = scan.time()?;
    if !scan.0.is_empty() {
        Err(Misfit::Type)
    } else if time_us >= DAY_US {
        Err(Misfit::Range)
    } else {
        Ok(time_us)
    }
}

/// RFC 3339 text, also with a space for the `T`, to microseconds UTC.
pub(super) fn timestamptz(text: &str, handling: TimestampHandling) -> Result<i64, Misfit> {
    match (date_time(text)?, handling) {
        ((local_us, Some(zone_s)), _) => {
            in_range(i128::from(local_us) - i128::from(zone_s) * 1_000_000)
        }
        ((local_us, None), TimestampHandling::UtcString) => in_range(i128::from(local_us)),
        // Without a zone the moment is unknown; guessing one would be silently wrong for half the world.
        ((_, None), _) => Err(Misfit::Type),
    }
}

/// Text of a timestamp without time zone. A zone of zero is tolerated, as many writers print `Z` everywhere; any other zone
/// would have to be dropped or applied, and either is wrong for someone.
pub(super) fn timestamp(text: &str) -> Result<i64, Misfit> {
    match date_time(text)? {
        (local_us, None | Some(0)) => in_range(i128::from(local_us)),
        _ => Err(Misfit::Type),
    }
}

/// A number to microseconds since the Unix epoch.
pub(super) fn timestamp_number(text: &str, handling: TimestampHandling) -> Result<i64, Misfit> {
    let number = Decimal::parse(text).ok_or(Misfit::Type)?;
    let shift = match handling {
        TimestampHandling::Milli => 3,
        TimestampHandling::Micro => 0,
        TimestampHandling::UtcString => return Err(Misfit::Type),
        TimestampHandling::Guess => match number.scaled(0).ok_or(Misfit::Range)?.unsigned_abs() {
            0..100_000_000_000 => 6,
            100_000_000_000..100_000_000_000_000 => 3,
            100_000_000_000_000..100_000_000_000_000_000 => 0,
            _ => -3,
        },
    };
    in_range(number.scaled(shift).ok_or(Misfit::Range)?)
}

/// Microseconds since 1970 that a timestamp can hold.
pub(super) fn in_range(us: i128) -> Result<i64, Misfit> {
    match i64::try_from(us) {
        Ok(us) if (TIMESTAMP_MIN_US..=TIMESTAMP_MAX_US).contains(&us) => Ok(us),
        _ => Err(Misfit::Range),
    }
}

/// Local microseconds since 1970, and the zone's seconds east of UTC when there is one.
fn date_time(text: &str) -> Result<(i64, Option<i64>), Misfit> {
    let mut scan = Scan(text.as_bytes());
    let days = scan.date()?;
    if scan.0.is_empty() {
        return Ok((days * DAY_US, None));
    }
    if !(scan.take(b'T') || scan.take(b't') || scan.take(b' ')) {
        return Err(Misfit::Type);
    }
    let local_us = days * DAY_US + scan.time()?;
    scan.take(b' ');
    let zone_s = scan.zone()?;
    if scan.0.is_empty() {
        Ok((local_us, zone_s))
    } else {
        Err(Misfit::Type)
    }
}

/// Reads timestamps as nearly all writers print them, remembering the last day.
#[derive(Debug, Default)]
pub(super) struct Days {
    /// `YYYY-MM-DD`
    text: [u8; 10],
    /// Since the Unix epoch.
    day: i64,
}

impl Days {
    /// What [`timestamptz`] (when `zoned`) or [`timestamp`] reads from `YYYY-MM-DD HH:MM:SS[.ffffff][Z]`, or with a `T`; `None` for
    /// any other form and for what is out of range.
    pub(super) fn timestamp(&mut self, text: &[u8], zoned: bool) -> Option<i64> {
        let (date, rest) = text.split_first_chunk::<10>()?;
        let ([separator, h1, h2, b':', m1, m2, b':', s1, s2], rest) =
            rest.split_first_chunk::<9>()?
        else {
            return None;
        };
        let (hour, minute, second) = (two(*h1, *h2)?, two(*m1, *m2)?, two(*s1, *s2)?);
        if !matches!(separator, b'T' | b't' | b' ') || hour > 23 || minute > 59 || second > 59 {
            return None;
        }
        let (fraction_us, zone) = match rest {
            [b'.', rest @ ..] => fraction(rest)?,
            rest => (0, rest),
        };
        match (zone, zoned) {
            ([], false) | ([b'Z'], _) => {}
            _ => return None,
        }
        let second_of_day = (hour * 60 + minute) * 60 + second;
        Some(self.day(date)? * DAY_US + second_of_day * 1_000_000 + fraction_us)
    }

    fn day(&mut self, text: &[u8; 10]) -> Option<i64> {
        if *text != self.text {
            let mut scan = Scan(text);
            self.day = scan.date().ok()?;
            self.text = *text;
        }
        Some(self.day)
    }
}

/// The number of two digits.
fn two(tens: u8, ones: u8) -> Option<i64> {
    let (tens, ones) = (tens.wrapping_sub(b'0'), ones.wrapping_sub(b'0'));
    (tens < 10 && ones < 10).then(|| i64::from(tens) * 10 + i64::from(ones))
}

/// One to six digits as microseconds, and what follows them.
fn fraction(text: &[u8]) -> Option<(i64, &[u8])> {
    let (mut value, mut count) = (0, 0);
    while let Some(digit @ b'0'..=b'9') = text.get(count) {
        value = value * 10 + i64::from(digit - b'0');
        count += 1;
        if count > 6 {
            return None;
        }
    }
    const UNITS_US: [i64; 7] = [0, 100_000, 10_000, 1_000, 100, 10, 1];
    let unit_us = UNITS_US.get(count).filter(|_| count > 0)?;
    Some((value * unit_us, text.get(count..)?))
}

/// What is left of a text being read from the front.
struct Scan<'a>(&'a [u8]);

impl Scan<'_> {
    fn take(&mut self, byte: u8) -> bool {
        let found = self.0.first() == Some(&byte);
        if found {
            self.0 = self.0.get(1..).unwrap_or_default();
        }
        found
    }

    fn expect(&mut self, byte: u8) -> Result<(), Misfit> {
        if self.take(byte) {
            Ok(())
        } else {
            Err(Misfit::Type)
        }
    }

    fn digit(&mut self) -> Option<i64> {
        let digit = self.0.first().filter(|byte| byte.is_ascii_digit())?;
        let value = i64::from(digit - b'0');
        self.0 = self.0.get(1..).unwrap_or_default();
        Some(value)
    }

    /// Exactly `count` digits.
    fn number(&mut self, count: usize) -> Result<i64, Misfit> {
        (0..count).try_fold(0, |value, _| {
            Ok(value * 10 + self.digit().ok_or(Misfit::Type)?)
        })
    }

    fn date(&mut self) -> Result<i64, Misfit> {
        let year = self.number(4)?;
        self.expect(b'-')?;
        let month = self.number(2)?;
        self.expect(b'-')?;
        let day = self.number(2)?;
        let date =
            NaiveDate::from_ymd_opt(year as i32, month as u32, day as u32).ok_or(Misfit::Range)?;
        Ok(date.signed_duration_since(NaiveDate::default()).num_days())
    }

    /// Up to 24:00:00, and with the leap second 60, both of which mean the next moment, as in Postgres.
    fn time(&mut self) -> Result<i64, Misfit> {
        let hour = self.number(2)?;
        self.expect(b':')?;
        let minute = self.number(2)?;
        let (mut second, mut fraction_us) = (0, 0);
        if self.take(b':') {
            second = self.number(2)?;
            if self.take(b'.') || self.take(b',') {
                fraction_us = self.fraction_us()?;
            }
        }
        let time_us = ((hour * 60 + minute) * 60 + second) * 1_000_000 + fraction_us;
        if minute > 59 || second > 60 || time_us > DAY_US {
            Err(Misfit::Range)
        } else {
            Ok(time_us)
        }
    }

    /// Digits after the point, rounded to microseconds.
    fn fraction_us(&mut self) -> Result<i64, Misfit> {
        let mut value = self.digit().ok_or(Misfit::Type)?;
        for _ in 0..5 {
            value = value * 10 + self.digit().unwrap_or(0);
        }
        let rounding = self.digit().is_some_and(|digit| digit >= 5);
        while self.digit().is_some() {}
        Ok(value + i64::from(rounding))
    }

    /// `Z`, `+02`, `+0200`, `+02:00`, or nothing.
    fn zone(&mut self) -> Result<Option<i64>, Misfit> {
        if self.take(b'Z') || self.take(b'z') {
            return Ok(Some(0));
        }
        let sign = match self.0.first() {
            Some(b'+') => 1,
            Some(b'-') => -1,
            _ => return Ok(None),
        };
        self.0 = self.0.get(1..).unwrap_or_default();
        let hours = self.number(2)?;
        let colon = self.take(b':');
        let minutes = if colon || !self.0.is_empty() {
            self.number(2)?
        } else {
            0
        };
        if hours > 15 || minutes > 59 {
            Err(Misfit::Range)
        } else {
            Ok(Some(sign * (hours * 3600 + minutes * 60)))
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use TimestampHandling::{Guess, Micro, Milli, UtcString};

    const DAY_2024_US: i64 = 1_704_067_200_000_000;

    #[test]
    fn text_with_a_zone_is_a_moment() {
        for (text, expected) in [
            ("2024-01-01T00:00:00Z", Ok(DAY_2024_US)),
            ("2024-01-01 00:00:00+00", Ok(DAY_2024_US)),
            ("2024-01-01T02:00:00+02:00", Ok(DAY_2024_US)),
            ("2023-12-31T18:30:00-0530", Ok(DAY_2024_US)),
            ("2024-01-01t00:00:00.123456z", Ok(DAY_2024_US + 123_456)),
            ("2024-01-01T00:00:00.1234565Z", Ok(DAY_2024_US + 123_457)),
            ("2024-01-01T00:00:00.1Z", Ok(DAY_2024_US + 100_000)),
            ("2023-12-31T23:59:60Z", Ok(DAY_2024_US)),
            ("2023-12-31T24:00:00Z", Ok(DAY_2024_US)),
            ("2024-01-01T00:00:00", Err(Misfit::Type)),
            ("2024-02-30T00:00:00Z", Err(Misfit::Range)),
            ("2024-01-01T25:00:00Z", Err(Misfit::Range)),
            ("2024-01-01T00:00:00.Z", Err(Misfit::Type)),
            ("2024-01-01T00:00:00+99:00", Err(Misfit::Range)),
            ("2024-01-01T00:00:00Zjunk", Err(Misfit::Type)),
            ("2024-01-01", Err(Misfit::Type)),
            ("today", Err(Misfit::Type)),
            ("", Err(Misfit::Type)),
        ] {
            assert_eq!(timestamptz(text, Guess), expected, "{text}");
        }
        assert_eq!(
            timestamptz("2024-01-01 00:00:00", UtcString),
            Ok(DAY_2024_US)
        );
    }

    #[test]
    fn numbers_follow_the_mode() {
        for (text, mode, expected) in [
            ("1704067200", Guess, Ok(DAY_2024_US)),
            ("1704067200000", Guess, Ok(DAY_2024_US)),
            ("1704067200000000", Guess, Ok(DAY_2024_US)),
            ("1704067200000000000", Guess, Ok(DAY_2024_US)),
            ("1704067200.5", Guess, Ok(DAY_2024_US + 500_000)),
            ("-1", Guess, Ok(-1_000_000)),
            ("1704067200", Milli, Ok(1_704_067_200_000)),
            ("1704067200", Micro, Ok(1_704_067_200)),
            ("1704067200", UtcString, Err(Misfit::Type)),
            ("1e999999", Guess, Err(Misfit::Range)),
            ("1e300", Milli, Err(Misfit::Range)),
        ] {
            assert_eq!(timestamp_number(text, mode), expected, "{text} {mode:?}");
        }
    }

    #[test]
    fn remembered_days_give_what_reading_the_whole_text_gives() {
        let mut days = Days::default();
        for date in [
            "2024-01-01",
            "2024-01-01",
            "1969-12-31",
            "0000-01-01",
            "9999-12-31",
        ] {
            for time in [
                "00:00:00",
                "23:59:59",
                "12:34:56.7",
                "12:34:56.123",
                "12:34:56.123456",
            ] {
                for (separator, zone) in [(" ", ""), ("T", "Z"), ("t", "Z"), ("T", "")] {
                    let text = format!("{date}{separator}{time}{zone}");
                    let local = days.timestamp(text.as_bytes(), false);
                    assert_eq!(local, timestamp(&text).ok(), "{text}");
                    assert!(local.is_some(), "{text} is an ordinary form");
                    let zoned = days.timestamp(text.as_bytes(), true);
                    assert_eq!(zoned, timestamptz(&text, Guess).ok(), "{text}");
                }
            }
        }
    }

    proptest! {
        #[test]
        fn odd_forms_are_left_to_reading_the_whole_text(
            text in "(2024|19[0-9]9|\\PC{4})-[01][0-9]-[0-3][0-9][ Tt_][0-2][0-9]:[0-6][0-9]:[0-6][0-9]([.,][0-9]{0,8})?(Z|z|\\+00|-05:30)?",
        ) {
            let mut days = Days::default();
            for _ in 0..2 {
                for (read, whole) in [
                    (days.timestamp(text.as_bytes(), false), timestamp(&text)),
                    (days.timestamp(text.as_bytes(), true), timestamptz(&text, UtcString)),
                ] {
                    prop_assert!(read.is_none() || read == whole.ok(), "{}", text);
                }
            }
        }
    }

    #[test]
    fn local_timestamps_dates_and_times() {
        assert_eq!(timestamp("2024-01-01T00:00:00"), Ok(DAY_2024_US));
        assert_eq!(timestamp("2024-01-01 00:00"), Ok(DAY_2024_US));
        assert_eq!(timestamp("2024-01-01T00:00:00Z"), Ok(DAY_2024_US));
        assert_eq!(timestamp("2024-01-01T00:00:00+02:00"), Err(Misfit::Type));
        assert_eq!(date("1970-01-02"), Ok(1));
        assert_eq!(date("1969-12-31"), Ok(-1));
        assert_eq!(date("1970-1-2"), Err(Misfit::Type));
        assert_eq!(date("1970-13-02"), Err(Misfit::Range));
        assert_eq!(time("01:02:03.5"), Ok(3_723_500_000));
        assert_eq!(time("24:00:00"), Err(Misfit::Range));
        assert_eq!(time("1:02"), Err(Misfit::Type));
    }
}
