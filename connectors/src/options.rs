//! Typed reading of `WITH` options.
//!
//! Invariant: an error names the option and never repeats its value, which may be a secret put in the wrong place.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::error::ConnectorError;

/// Option values by name, as the catalog stored them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Options<'a>(pub(crate) &'a BTreeMap<String, String>);

impl<'a> Options<'a> {
    pub(crate) fn text(self, name: &str) -> Option<&'a str> {
        self.0.get(name).map(String::as_str)
    }

    pub(crate) fn required(self, name: &str) -> Result<&'a str, ConnectorError> {
        match self.text(name) {
            Some(value) if !value.is_empty() => Ok(value),
            _ => Err(ConnectorError::option(format!(
                "option \"{name}\" is required"
            ))),
        }
    }

    pub(crate) fn u64(self, name: &str) -> Result<Option<u64>, ConnectorError> {
        self.parsed(name, "a whole number that is not negative", |text| {
            text.parse().ok()
        })
    }

    pub(crate) fn i64(self, name: &str) -> Result<Option<i64>, ConnectorError> {
        self.parsed(name, "a whole number", |text| text.parse().ok())
    }

    pub(crate) fn f64(self, name: &str) -> Result<Option<f64>, ConnectorError> {
        self.parsed(name, "a number", |text| {
            text.parse().ok().filter(|value: &f64| value.is_finite())
        })
    }

    pub(crate) fn bool(self, name: &str) -> Result<Option<bool>, ConnectorError> {
        self.parsed(name, "true or false", |text| {
            match text.to_ascii_lowercase().as_str() {
                "true" | "on" | "yes" | "1" => Some(true),
                "false" | "off" | "no" | "0" => Some(false),
                _ => None,
            }
        })
    }

    pub(crate) fn duration(self, name: &str) -> Result<Option<Duration>, ConnectorError> {
        self.parsed(name, "a duration such as '30 s' or '5 min'", parse_duration)
    }

    fn parsed<T>(
        self,
        name: &str,
        expected: &str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Result<Option<T>, ConnectorError> {
        let Some(text) = self.text(name) else {
            return Ok(None);
        };
        match parse(text.trim()) {
            Some(value) => Ok(Some(value)),
            None => Err(ConnectorError::option(format!(
                "option \"{name}\" must be {expected}"
            ))),
        }
    }
}

/// `30 s`, `100ms`, `5 min`, `1 hour`; a bare number is seconds.
fn parse_duration(text: &str) -> Option<Duration> {
    let digits_end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (digits, unit) = text.split_at(digits_end);
    let count: u64 = digits.parse().ok()?;
    let unit_us: u64 = match unit.trim().to_ascii_lowercase().as_str() {
        "us" | "microsecond" | "microseconds" => 1,
        "ms" | "millisecond" | "milliseconds" => 1_000,
        "" | "s" | "sec" | "secs" | "second" | "seconds" => 1_000_000,
        "m" | "min" | "mins" | "minute" | "minutes" => 60_000_000,
        "h" | "hour" | "hours" => 3_600_000_000,
        "d" | "day" | "days" => 86_400_000_000,
        _ => return None,
    };
    Some(Duration::from_micros(count.checked_mul(unit_us)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_units() {
        for (text, expected_ms) in [
            ("30 s", 30_000),
            ("100ms", 100),
            ("5 min", 300_000),
            ("2", 2_000),
            ("1 Day", 86_400_000),
        ] {
            assert_eq!(
                parse_duration(text),
                Some(Duration::from_millis(expected_ms)),
                "{text}"
            );
        }
        for text in [
            "",
            "s",
            "-1 s",
            "1 fortnight",
            "99999999999999999999 s",
            "18446744073709551615 d",
            "1 1 s",
        ] {
            assert_eq!(parse_duration(text), None, "{text}");
        }
    }

    #[test]
    fn errors_do_not_repeat_the_value() {
        let map = BTreeMap::from([("rows".to_owned(), "hunter2".to_owned())]);
        let error = Options(&map).u64("rows").expect_err("not a number");
        assert_eq!(
            error.to_string(),
            "option \"rows\" must be a whole number that is not negative"
        );
    }
}
