//! Exact decimal arithmetic on Decimal128 values: reading, printing, rescaling, multiplying, dividing.
//!
//! Invariant: every result fits 38 digits or the operation says so with `None`; rounding is half away from zero.

use datafusion::arrow::datatypes::i256;

/// Largest absolute value of Decimal128(38, _), plus one.
pub(crate) const LIMIT: i128 = 10i128.pow(38);

/// 10^n for n in 0..=38.
pub(crate) fn power(n: u32) -> i128 {
    10i128.pow(n.min(38))
}

fn fits(value: i128) -> Option<i128> {
    (-LIMIT < value && value < LIMIT).then_some(value)
}

/// `value / divisor`, rounded half away from zero.
pub(crate) fn divide_rounded(value: i128, divisor: i128) -> i128 {
    let quotient = value / divisor;
    let remainder = value % divisor;
    // Compare with the half from below, so that the doubling cannot overflow.
    if remainder.unsigned_abs() >= divisor.unsigned_abs() - remainder.unsigned_abs() {
        quotient + if (value < 0) == (divisor < 0) { 1 } else { -1 }
    } else {
        quotient
    }
}

/// The value at another scale.
pub(crate) fn rescale(value: i128, from: i8, to: i8) -> Option<i128> {
    let shift = i32::from(to) - i32::from(from);
    if shift >= 0 {
        if shift > 38 {
            return (value == 0).then_some(0);
        }
        fits(value.checked_mul(power(shift.unsigned_abs()))?)
    } else if shift < -38 {
        Some(0)
    } else {
        Some(divide_rounded(value, power(shift.unsigned_abs())))
    }
}

fn wide_rounded(value: i256, divisor: i256) -> Option<i128> {
    let quotient = value.checked_div(divisor)?;
    let remainder = value.checked_rem(divisor)?;
    let twice = remainder
        .wrapping_abs()
        .checked_add(remainder.wrapping_abs())?;
    let one = i256::from_i128(if value.is_negative() == divisor.is_negative() {
        1
    } else {
        -1
    });
    let rounded = if twice >= divisor.wrapping_abs() {
        quotient.checked_add(one)?
    } else {
        quotient
    };
    fits(rounded.to_i128()?)
}

/// `a * b` at scale `out`.
pub(crate) fn multiply(a: i128, a_scale: i8, b: i128, b_scale: i8, out: i8) -> Option<i128> {
    let shift = i32::from(a_scale) + i32::from(b_scale) - i32::from(out);
    if let Some(product) = a.checked_mul(b).filter(|_| (0..=38).contains(&shift)) {
        return fits(divide_rounded(product, power(shift.unsigned_abs())));
    }
    let product = i256::from_i128(a).checked_mul(i256::from_i128(b))?;
    if shift >= 0 {
        wide_rounded(
            product,
            i256::from_i128(10).checked_pow(shift.unsigned_abs())?,
        )
    } else {
        wide_rounded(
            product.checked_mul(i256::from_i128(10).checked_pow(shift.unsigned_abs())?)?,
            i256::from_i128(1),
        )
    }
}

/// `a / b` at scale `out`; the caller has checked that `b` is not zero.
pub(crate) fn divide(a: i128, a_scale: i8, b: i128, b_scale: i8, out: i8) -> Option<i128> {
    // a / 10^as / (b / 10^bs) * 10^out  =  a * 10^(out + bs - as) / b
    let shift = i32::from(out) + i32::from(b_scale) - i32::from(a_scale);
    let ten = i256::from_i128(10);
    if shift >= 0 {
        let scaled = i256::from_i128(a).checked_mul(ten.checked_pow(shift.unsigned_abs())?)?;
        wide_rounded(scaled, i256::from_i128(b))
    } else {
        let scaled = i256::from_i128(b).checked_mul(ten.checked_pow(shift.unsigned_abs())?)?;
        wide_rounded(i256::from_i128(a), scaled)
    }
}

/// Why a text is not a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Malformed {
    /// Not a number at all.
    Syntax,
    /// Does not fit 38 digits.
    Range,
}

/// Reads `-1.5e3` at the given scale.
pub(crate) fn parse(text: &str, scale: i8) -> Result<i128, Malformed> {
    let trimmed = text.trim();
    let (mantissa, exponent) = match trimmed.find(['e', 'E']) {
        Some(at) => (
            &trimmed[..at],
            trimmed[at + 1..]
                .parse::<i32>()
                .map_err(|_| Malformed::Syntax)?,
        ),
        None => (trimmed, 0),
    };
    if exponent.abs() > 1000 {
        return Err(Malformed::Range);
    }
    let negative = mantissa.starts_with('-');
    let body = mantissa.strip_prefix(['-', '+']).unwrap_or(mantissa);
    let (whole, fraction) = body.split_once('.').unwrap_or((body, ""));
    let digits_only = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
    if (whole.is_empty() && fraction.is_empty()) || !digits_only(whole) || !digits_only(fraction) {
        return Err(Malformed::Syntax);
    }
    // The value is digits * 10^(exponent - fraction length); keep `scale` places of it and round on the next digit.
    let digits: Vec<u8> = whole
        .bytes()
        .chain(fraction.bytes())
        .map(|b| b - b'0')
        .collect();
    let point = i64::try_from(whole.len()).unwrap_or(i64::MAX) + i64::from(exponent);
    let keep = point + i64::from(scale);
    let mut value: i128 = 0;
    let mut i: i64 = 0;
    while i < keep {
        let digit = usize::try_from(i)
            .ok()
            .and_then(|i| digits.get(i))
            .copied()
            .unwrap_or(0);
        value = value
            .checked_mul(10)
            .and_then(|v| v.checked_add(i128::from(digit)))
            .filter(|v| *v < LIMIT)
            .ok_or(Malformed::Range)?;
        i += 1;
        if value == 0 && i > 2000 {
            break;
        }
    }
    if keep >= 0
        && usize::try_from(keep)
            .ok()
            .and_then(|k| digits.get(k))
            .is_some_and(|d| *d >= 5)
    {
        value += 1;
    }
    if value >= LIMIT {
        return Err(Malformed::Range);
    }
    Ok(if negative { -value } else { value })
}

/// Digits after the point that a numeric literal was written with.
pub(crate) fn literal_scale(text: &str) -> i8 {
    let (mantissa, exponent) = match text.find(['e', 'E']) {
        Some(at) => (&text[..at], text[at + 1..].parse::<i64>().unwrap_or(0)),
        None => (text, 0),
    };
    let fraction = mantissa.split_once('.').map_or(0, |(_, f)| f.len());
    let places = i64::try_from(fraction)
        .unwrap_or(i64::MAX)
        .saturating_sub(exponent)
        .clamp(0, 37);
    i8::try_from(places).unwrap_or(37)
}

/// `-12.50`; with `trim`, trailing zeros of the fraction go.
pub(crate) fn print(value: i128, scale: i8, trim: bool) -> String {
    let scale = usize::try_from(scale.max(0)).unwrap_or(0);
    let digits = value.unsigned_abs().to_string();
    let padded = if digits.len() <= scale {
        format!("{}{digits}", "0".repeat(scale + 1 - digits.len()))
    } else {
        digits
    };
    let (whole, fraction) = padded.split_at(padded.len() - scale);
    let fraction = if trim {
        fraction.trim_end_matches('0')
    } else {
        fraction
    };
    let sign = if value < 0 { "-" } else { "" };
    if fraction.is_empty() {
        format!("{sign}{whole}")
    } else {
        format!("{sign}{whole}.{fraction}")
    }
}

/// The nearest decimal at `scale`; `None` for what does not fit or is not a number.
pub(crate) fn from_f64(value: f64, scale: i8, digits: usize) -> Option<i128> {
    if !value.is_finite() {
        return None;
    }
    // Postgres converts through the 15 (6 for real) significant digits a float is sure of.
    parse(&format!("{:.*e}", digits - 1, value), scale).ok()
}

/// The nearest double.
pub(crate) fn to_f64(value: i128, scale: i8) -> f64 {
    print(value, scale, true).parse().unwrap_or(f64::NAN)
}
