//! Floats and decimals in digits.
//!
//! Invariant: a float prints its shortest digits that read back as the same float, in Postgres' choice between fixed and
//! exponent notation; a decimal is never rounded except to its declared scale.

use std::fmt::{self, Display};

/// `real`.
pub(super) struct Float4(pub(super) f32);
/// `double precision`.
pub(super) struct Float8(pub(super) f64);

// Exponents from which Postgres switches to exponent notation: the types' guaranteed decimal digits.
const FLOAT4_FIXED_EXPONENT_MAX: i32 = 6;
const FLOAT8_FIXED_EXPONENT_MAX: i32 = 15;
const FIXED_EXPONENT_MIN: i32 = -4;

impl Display for Float4 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.0.is_finite() {
            return special(f, f64::from(self.0));
        }
        finite(f, &format!("{:e}", self.0), FLOAT4_FIXED_EXPONENT_MAX)
    }
}

impl Display for Float8 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.0.is_finite() {
            return special(f, self.0);
        }
        finite(f, &format!("{:e}", self.0), FLOAT8_FIXED_EXPONENT_MAX)
    }
}

fn special(f: &mut fmt::Formatter<'_>, value: f64) -> fmt::Result {
    f.write_str(if value.is_nan() {
        "NaN"
    } else if value > 0.0 {
        "Infinity"
    } else {
        "-Infinity"
    })
}

/// `shortest` is Rust's exponent form: `-1.25e-7`.
fn finite(f: &mut fmt::Formatter<'_>, shortest: &str, fixed_max: i32) -> fmt::Result {
    let (mantissa, exponent) = shortest.split_once('e').unwrap_or((shortest, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let (sign, mantissa) = match mantissa.strip_prefix('-') {
        Some(rest) => ("-", rest),
        None => ("", mantissa),
    };
    let digits: String = mantissa.chars().filter(char::is_ascii_digit).collect();
    f.write_str(sign)?;
    if !(FIXED_EXPONENT_MIN..fixed_max).contains(&exponent) {
        let (head, tail) = digits.split_at(1);
        f.write_str(head)?;
        if !tail.is_empty() {
            write!(f, ".{tail}")?;
        }
        let sign = if exponent < 0 { '-' } else { '+' };
        return write!(f, "e{sign}{:02}", exponent.abs());
    }
    if exponent < 0 {
        return write!(f, "0.{}{digits}", "0".repeat((-exponent - 1) as usize));
    }
    let whole = exponent as usize + 1;
    if digits.len() <= whole {
        return write!(f, "{digits}{}", "0".repeat(whole - digits.len()));
    }
    write!(f, "{}.{}", &digits[..whole], &digits[whole..])
}

/// A decimal as its digits.
pub(super) struct Decimal {
    pub(super) negative: bool,
    /// Digits before the point, without leading zeros; empty for a value below one.
    pub(super) whole: String,
    /// Digits behind the point.
    pub(super) fraction: String,
}

impl Decimal {
    /// `value` is the number times ten to the `scale`.
    pub(super) fn new(value: i128, scale: i8, shown: Option<i8>) -> Self {
        let (value, scale) = match shown {
            Some(shown) if shown < scale => (round(value, (scale - shown) as u32), shown),
            _ => (value, scale),
        };
        let mut digits = value.unsigned_abs().to_string();
        if digits == "0" {
            digits.clear();
        }
        let mut fraction = String::new();
        match usize::try_from(scale) {
            Ok(scale) => {
                if digits.len() < scale {
                    digits.insert_str(0, &"0".repeat(scale - digits.len()));
                }
                fraction = digits.split_off(digits.len() - scale);
            }
            Err(_) if digits.is_empty() => {}
            Err(_) => digits.push_str(&"0".repeat(usize::from(scale.unsigned_abs()))),
        }
        match shown {
            Some(shown) => {
                let shown = usize::try_from(shown).unwrap_or(0);
                fraction.push_str(&"0".repeat(shown.saturating_sub(fraction.len())));
            }
            None => fraction.truncate(fraction.trim_end_matches('0').len()),
        }
        Self {
            negative: value < 0,
            whole: digits,
            fraction,
        }
    }
}

/// Divides by ten to the `places`, half away from zero.
fn round(value: i128, places: u32) -> i128 {
    let Some(divisor) = 10_i128.checked_pow(places) else {
        return 0;
    };
    let (quotient, remainder) = (value / divisor, value % divisor);
    if remainder.unsigned_abs() * 2 >= divisor.unsigned_abs() {
        quotient + value.signum()
    } else {
        quotient
    }
}

impl Display for Decimal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.negative {
            f.write_str("-")?;
        }
        f.write_str(if self.whole.is_empty() {
            "0"
        } else {
            &self.whole
        })?;
        if !self.fraction.is_empty() {
            write!(f, ".{}", self.fraction)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_print_as_postgres_15_prints_them() {
        let table: &[(f64, &str)] = &[
            (0.0, "0"),
            (-0.0, "-0"),
            (1.0, "1"),
            (0.1, "0.1"),
            (1.5, "1.5"),
            (-12.25, "-12.25"),
            (0.0001, "0.0001"),
            (0.00001, "1e-05"),
            (1.25e-7, "1.25e-07"),
            (100_000_000_000_000.0, "100000000000000"),
            (1e15, "1e+15"),
            (123_456_789_012_345_680.0, "1.2345678901234568e+17"),
            (999_999_999_999_999.9, "999999999999999.9"),
            (1e100, "1e+100"),
            (1e-300, "1e-300"),
            (f64::MAX, "1.7976931348623157e+308"),
            (f64::MIN_POSITIVE, "2.2250738585072014e-308"),
            (5e-324, "5e-324"),
            (std::f64::consts::PI, "3.141592653589793"),
            (f64::NAN, "NaN"),
            (f64::INFINITY, "Infinity"),
            (f64::NEG_INFINITY, "-Infinity"),
        ];
        for (value, text) in table {
            assert_eq!(Float8(*value).to_string(), *text);
        }
    }

    #[test]
    fn reals_print_as_postgres_15_prints_them() {
        let table: &[(f32, &str)] = &[
            (0.1, "0.1"),
            (3.0, "3"),
            (123_456.0, "123456"),
            (1_234_567.0, "1.234567e+06"),
            (1e6, "1e+06"),
            (0.00001, "1e-05"),
            (f32::MAX, "3.4028235e+38"),
            (16_777_216.0, "1.6777216e+07"),
            (f32::NAN, "NaN"),
            (f32::NEG_INFINITY, "-Infinity"),
        ];
        for (value, text) in table {
            assert_eq!(Float4(*value).to_string(), *text);
        }
    }

    #[test]
    fn decimals_show_their_declared_scale_or_their_own_digits() {
        let table: &[(i128, i8, Option<i8>, &str)] = &[
            (15_000_000_000, 10, None, "1.5"),
            (20_000_000_000, 10, None, "2"),
            (0, 10, None, "0"),
            (-5, 1, None, "-0.5"),
            (1234, 2, Some(2), "12.34"),
            (1200, 2, Some(2), "12.00"),
            (0, 2, Some(2), "0.00"),
            (-7, 2, Some(2), "-0.07"),
            (12, 0, Some(3), "12.000"),
            (12_345, 3, Some(2), "12.35"),
            (-12_345, 3, Some(2), "-12.35"),
            (12, -2, None, "1200"),
            (0, -2, None, "0"),
            (
                99_999_999_999_999_999_999_999_999_999_999_999_999,
                0,
                None,
                "99999999999999999999999999999999999999",
            ),
        ];
        for (value, scale, shown, text) in table {
            assert_eq!(
                Decimal::new(*value, *scale, *shown).to_string(),
                *text,
                "{value} at {scale}"
            );
        }
    }
}
