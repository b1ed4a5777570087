//! Reads option values: durations, sizes, booleans, numbers, lists.
//!
//! Invariant: a value that parses prints in its canonical form to text that parses to the same value.

/// Milliseconds of a duration such as `30s`, `10 min`, `1.5 h` or `1 h 30 min`. A bare number has no unit and is refused, but
/// for 0.
pub fn parse_duration(text: &str) -> Option<u64> {
    let mut rest = text.trim();
    if rest == "0" {
        return Some(0);
    }
    if rest.is_empty() {
        return None;
    }
    let mut total = 0_u64;
    while !rest.is_empty() {
        let (number, tail) = split_number(rest)?;
        let unit_end = tail
            .find(|c: char| !c.is_ascii_alphabetic())
            .unwrap_or(tail.len());
        let (unit, tail) = tail.split_at_checked(unit_end)?;
        let unit_ms = match unit.to_ascii_lowercase().as_str() {
            "ms" | "msec" | "msecs" | "millisecond" | "milliseconds" => 1,
            "s" | "sec" | "secs" | "second" | "seconds" => 1_000,
            "m" | "min" | "mins" | "minute" | "minutes" => 60_000,
            "h" | "hour" | "hours" => 3_600_000,
            "d" | "day" | "days" => 86_400_000,
            "w" | "week" | "weeks" => 604_800_000,
            _ => return None,
        };
        total = total.checked_add(scaled(number, unit_ms)?)?;
        rest = tail.trim_start();
    }
    Some(total)
}

/// Bytes of a size such as `4MB`, `1.5 GB`, `64kB`; a bare number is bytes. Multiples are of 1024, as in Postgres.
pub fn parse_bytes(text: &str) -> Option<u64> {
    let (number, unit) = split_number(text.trim())?;
    let unit_bytes = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "kb" | "kib" => 1 << 10,
        "mb" | "mib" => 1 << 20,
        "gb" | "gib" => 1 << 30,
        "tb" | "tib" => 1 << 40,
        "pb" | "pib" => 1 << 50,
        _ => return None,
    };
    scaled(number, unit_bytes)
}

/// `true`, `false` and what Postgres reads as them.
pub fn parse_bool(text: &str) -> Option<bool> {
    match text.trim().to_ascii_lowercase().as_str() {
        "true" | "t" | "yes" | "y" | "on" | "1" => Some(true),
        "false" | "f" | "no" | "n" | "off" | "0" => Some(false),
        _ => None,
    }
}

/// Elements of a comma-separated list, trimmed; empty elements are refused.
pub fn parse_list(text: &str) -> Option<Vec<String>> {
    let elements: Vec<String> = text.split(',').map(|part| part.trim().to_owned()).collect();
    elements
        .iter()
        .all(|part| !part.is_empty())
        .then_some(elements)
}

/// Splits a leading unsigned decimal number off; blanks behind it go.
fn split_number(text: &str) -> Option<(&str, &str)> {
    let end = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, tail) = text.split_at_checked(end)?;
    number
        .starts_with(|c: char| c.is_ascii_digit())
        .then_some((number, tail.trim_start()))
}

/// `number * unit` without floating point: a fraction must come out whole.
fn scaled(number: &str, unit: u64) -> Option<u64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let mut total = whole.parse::<u64>().ok()?.checked_mul(unit)?;
    if number.contains('.') {
        if fraction.is_empty() || fraction.len() > 9 {
            return None;
        }
        let digits = fraction.parse::<u64>().ok()?;
        let divisor = 10_u64.checked_pow(u32::try_from(fraction.len()).ok()?)?;
        let product = u128::from(digits) * u128::from(unit);
        if product % u128::from(divisor) != 0 {
            return None;
        }
        total = total.checked_add(u64::try_from(product / u128::from(divisor)).ok()?)?;
    }
    Some(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, expected) in [
            ("30s", Some(30_000)),
            ("10 min", Some(600_000)),
            ("1 h", Some(3_600_000)),
            ("1 h 30 min", Some(5_400_000)),
            ("1.5 s", Some(1_500)),
            ("7 days", Some(604_800_000)),
            ("250ms", Some(250)),
            ("0", Some(0)),
            ("0.0005 s", None),
            ("5", None),
            ("", None),
            ("s", None),
            ("-1 s", None),
            ("1 fortnight", None),
            ("1. s", None),
            (".5 s", None),
            ("18446744073709551615 w", None),
            ("1 s garbage", None),
        ] {
            assert_eq!(parse_duration(text), expected, "{text:?}");
        }
    }

    #[test]
    fn sizes() {
        for (text, expected) in [
            ("4MB", Some(4 << 20)),
            ("64 kB", Some(64 << 10)),
            ("1.5GB", Some(3 << 29)),
            ("10", Some(10)),
            ("10GB", Some(10 << 30)),
            ("16777216 TB", None),
            ("MB", None),
            ("1 MB 2", None),
            ("-1", None),
        ] {
            assert_eq!(parse_bytes(text), expected, "{text:?}");
        }
    }

    #[test]
    fn booleans_and_lists() {
        assert_eq!(parse_bool(" ON "), Some(true));
        assert_eq!(parse_bool("f"), Some(false));
        assert_eq!(parse_bool("maybe"), None);
        assert_eq!(
            parse_list("a, b"),
            Some(vec!["a".to_owned(), "b".to_owned()])
        );
        assert_eq!(parse_list("a,,b"), None);
    }
}
