//! Decimal text to numbers without a detour through floating point.
//!
//! Invariant: work and memory are linear in the length of the text, whatever its exponent says.

/// Digits a Decimal128 holds.
const DIGITS_MAX: i64 = 38;
/// Exponents are cut off here; far beyond any type, far below overflow of the arithmetic on them.
const EXPONENT_MAX: i64 = 1_000_000_000_000;

/// Why a text is not a value of a type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Misfit {
    /// Not of that type at all.
    Type,
    /// Of that type, and too large, too small or too long.
    Range,
}

/// A decimal number taken apart: `(-)? whole.fraction * 10^exponent`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Decimal<'a> {
    negative: bool,
    whole: &'a [u8],
    fraction: &'a [u8],
    exponent: i64,
}

impl<'a> Decimal<'a> {
    /// Takes `-12.50e3` apart; also accepts what JSON does not: a plus sign, leading zeros, `.5` and `5.`.
    pub(super) fn parse(text: &'a str) -> Option<Self> {
        let bytes = text.as_bytes();
        let (negative, bytes) = match bytes {
            [b'-', rest @ ..] => (true, rest),
            [b'+', rest @ ..] => (false, rest),
            rest => (false, rest),
        };
        let (mantissa, exponent) = match bytes.iter().position(|byte| matches!(byte, b'e' | b'E')) {
            Some(at) => (bytes.get(..at)?, parse_exponent(bytes.get(at + 1..)?)?),
            None => (bytes, 0),
        };
        let (whole, fraction) = match mantissa.iter().position(|byte| *byte == b'.') {
            Some(at) => (mantissa.get(..at)?, mantissa.get(at + 1..)?),
            None => (mantissa, &mantissa[mantissa.len()..]),
        };
        let digits = |part: &[u8]| part.iter().all(u8::is_ascii_digit);
        if !digits(whole) || !digits(fraction) || whole.len() + fraction.len() == 0 {
            return None;
        }
        Some(Self {
            negative,
            whole,
            fraction,
            exponent,
        })
    }

    fn digits(&self) -> impl Iterator<Item = u8> + Clone + 'a {
        self.whole
            .iter()
            .chain(self.fraction)
            .map(|byte| byte - b'0')
    }

    /// The number times `10^shift` as a whole number, rounded half away from zero as Postgres does; `None` beyond 38 digits.
    pub(super) fn scaled(&self, shift: i64) -> Option<i128> {
        let length = (self.whole.len() + self.fraction.len()) as i64;
        // Digits before the point after scaling; the rest is rounded away.
        let kept = self.whole.len() as i64 + self.exponent + shift;
        let mut value: i128 = 0;
        for digit in self.digits().take(usize::try_from(kept).unwrap_or(0)) {
            value = value.checked_mul(10)?.checked_add(i128::from(digit))?;
        }
        if value != 0 && kept > length {
            let zeros = u32::try_from((kept - length).min(DIGITS_MAX + 1)).ok()?;
            value = value.checked_mul(10i128.checked_pow(zeros)?)?;
        }
        let rounding = usize::try_from(kept)
            .ok()
            .and_then(|at| self.digits().nth(at));
        if rounding.is_some_and(|digit| digit >= 5) {
            value = value.checked_add(1)?;
        }
        Some(if self.negative { -value } else { value })
    }

    /// True when nothing is left after the point.
    pub(super) fn is_whole(&self) -> bool {
        self.is_whole_at(0)
    }

    /// True when nothing is left after the point of the number times `10^shift`.
    pub(super) fn is_whole_at(&self, shift: i64) -> bool {
        let kept = self.whole.len() as i64 + self.exponent + shift;
        self.digits()
            .skip(usize::try_from(kept).unwrap_or(0))
            .all(|digit| digit == 0)
    }
}

fn parse_exponent(bytes: &[u8]) -> Option<i64> {
    let (sign, digits) = match bytes {
        [b'-', rest @ ..] => (-1, rest),
        [b'+', rest @ ..] => (1, rest),
        rest => (1, rest),
    };
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let magnitude = digits.iter().fold(0i64, |value, digit| {
        value
            .saturating_mul(10)
            .saturating_add(i64::from(digit - b'0'))
            .min(EXPONENT_MAX)
    });
    Some(sign * magnitude)
}

/// A whole number; `1.0` and `1e3` are whole, `1.5` is not.
pub(super) fn whole(text: &str) -> Result<i64, Misfit> {
    if let Ok(value) = text.parse::<i64>() {
        return Ok(value);
    }
    let decimal = Decimal::parse(text).ok_or(Misfit::Type)?;
    if !decimal.is_whole() {
        return Err(Misfit::Type);
    }
    decimal
        .scaled(0)
        .and_then(|value| i64::try_from(value).ok())
        .ok_or(Misfit::Range)
}

/// A number's nearest whole number, half away from zero as Postgres casts numerics; `None` beyond 38 digits.
pub(super) fn rounded(text: &str) -> Option<i128> {
    Decimal::parse(text)?.scaled(0)
}

/// A number at a fixed scale, unscaled, rounded half away from zero.
pub(super) fn numeric(text: &str, precision: u8, scale: i8) -> Result<i128, Misfit> {
    let decimal = Decimal::parse(text).ok_or(Misfit::Type)?;
    let value = decimal.scaled(i64::from(scale)).ok_or(Misfit::Range)?;
    let limit = 10u128
        .checked_pow(u32::from(precision))
        .unwrap_or(u128::MAX);
    if value.unsigned_abs() >= limit {
        Err(Misfit::Range)
    } else {
        Ok(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_numbers_keep_every_digit() {
        for (text, expected) in [
            ("9007199254740993", Ok(9_007_199_254_740_993)),
            ("-9223372036854775808", Ok(i64::MIN)),
            ("9223372036854775808", Err(Misfit::Range)),
            ("1.0", Ok(1)),
            ("1e3", Ok(1000)),
            ("1200e-2", Ok(12)),
            ("1.5", Err(Misfit::Type)),
            ("1e-1", Err(Misfit::Type)),
            ("0e-99999999999999999999", Ok(0)),
            ("0e99999999999999999999", Ok(0)),
            ("1e999999999999999999999", Err(Misfit::Range)),
            ("-0", Ok(0)),
            ("", Err(Misfit::Type)),
            ("-", Err(Misfit::Type)),
            (".", Err(Misfit::Type)),
            ("1e", Err(Misfit::Type)),
            ("1 ", Err(Misfit::Type)),
        ] {
            assert_eq!(whole(text), expected, "{text}");
        }
    }

    #[test]
    fn numerics_are_exact_at_their_scale() {
        let big = "1".repeat(100_000);
        for (text, precision, scale, expected) in [
            ("1.23", 10, 2, Ok(123)),
            ("1.005", 10, 2, Ok(101)),
            ("-1.005", 10, 2, Ok(-101)),
            ("1.0049999999999999999999999", 10, 2, Ok(100)),
            (
                "12345678901234567890123456.0123456789",
                38,
                10,
                Ok(123_456_789_012_345_678_901_234_560_123_456_789),
            ),
            ("99999999.994", 10, 2, Ok(9_999_999_999)),
            ("99999999.995", 10, 2, Err(Misfit::Range)),
            ("1.5e3", 10, 2, Ok(150_000)),
            ("15e-1", 10, 2, Ok(150)),
            ("1e-3", 10, 2, Ok(0)),
            ("5e-3", 10, 2, Ok(1)),
            ("1e999999", 38, 10, Err(Misfit::Range)),
            ("1e-999999", 38, 10, Ok(0)),
            ("0e999999", 38, 10, Ok(0)),
            ("1e28", 38, 10, Err(Misfit::Range)),
            ("9e27", 38, 10, Ok(9 * 10i128.pow(37))),
            (big.as_str(), 38, 0, Err(Misfit::Range)),
            ("NaN", 38, 0, Err(Misfit::Type)),
        ] {
            assert_eq!(
                numeric(text, precision, scale),
                expected,
                "{}",
                &text[..text.len().min(40)]
            );
        }
    }
}
