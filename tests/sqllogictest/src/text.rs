//! Binary wire values as the text that Postgres prints for them.
//!
//! Invariant: written from the Postgres documentation alone, with no code of the server, so that a wrong encoding
//! there cannot be cancelled by the same mistake here. Time zones are not known here: timestamptz prints in UTC.

use std::fmt::Write;

use tokio_postgres::types::{Kind, Type};

/// Why a value cannot be shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Malformed(pub String);

/// Reads big-endian fields in order.
struct Fields<'a> {
    raw: &'a [u8],
    of: &'a Type,
}

impl<'a> Fields<'a> {
    fn take(&mut self, size: usize) -> Result<&'a [u8], Malformed> {
        let short = || Malformed(format!("a binary value of type {} is too short", self.of));
        let (head, tail) = self.raw.split_at_checked(size).ok_or_else(short)?;
        self.raw = tail;
        Ok(head)
    }

    fn number<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let raw = self.take(N)?;
        raw.try_into()
            .map_err(|_| Malformed("a field of a wrong size".into()))
    }

    fn i16(&mut self) -> Result<i16, Malformed> {
        self.number().map(i16::from_be_bytes)
    }

    fn i32(&mut self) -> Result<i32, Malformed> {
        self.number().map(i32::from_be_bytes)
    }

    fn i64(&mut self) -> Result<i64, Malformed> {
        self.number().map(i64::from_be_bytes)
    }

    /// A value with its length in front; -1 is NULL.
    fn counted(&mut self) -> Result<Option<&'a [u8]>, Malformed> {
        let size = self.i32()?;
        if size < 0 {
            return Ok(None);
        }
        self.take(usize::try_from(size).unwrap_or(0)).map(Some)
    }

    fn end(&self) -> Result<(), Malformed> {
        if self.raw.is_empty() {
            return Ok(());
        }
        Err(Malformed(format!(
            "a binary value of type {} has {} bytes too many",
            self.of,
            self.raw.len()
        )))
    }
}

/// The text of one non-NULL value.
///
/// # Errors
/// When the bytes are not a binary value of that type.
pub fn text(ty: &Type, raw: &[u8]) -> Result<String, Malformed> {
    match ty.kind() {
        Kind::Array(item) => return array(ty, item, raw),
        Kind::Composite(_) => return record(ty, raw),
        Kind::Domain(base) => return text(base, raw),
        _ => {}
    }
    let mut fields = Fields { raw, of: ty };
    let shown = match *ty {
        Type::BOOL => if fields.number::<1>()?[0] == 0 {
            "f"
        } else {
            "t"
        }
        .to_string(),
        Type::INT2 => fields.i16()?.to_string(),
        Type::INT4 => fields.i32()?.to_string(),
        Type::INT8 => fields.i64()?.to_string(),
        Type::OID
        | Type::REGCLASS
        | Type::REGTYPE
        | Type::REGPROC
        | Type::REGNAMESPACE
        | Type::XID => u32::from_be_bytes(fields.number()?).to_string(),
        Type::FLOAT4 => float(f64::from(f32::from_be_bytes(fields.number()?)), true),
        Type::FLOAT8 => float(f64::from_be_bytes(fields.number()?), false),
        Type::NUMERIC => numeric(&mut fields)?,
        Type::BYTEA => {
            let hex = |out: String, byte: &u8| format!("{out}{byte:02x}");
            fields.take(raw.len())?.iter().fold("\\x".to_string(), hex)
        }
        Type::DATE => date(i64::from(fields.i32()?)),
        Type::TIME => clock(fields.i64()?),
        Type::TIMESTAMP => timestamp(fields.i64()?, ""),
        Type::TIMESTAMPTZ => timestamp(fields.i64()?, "+00"),
        Type::INTERVAL => {
            let (micros, days, months) = (fields.i64()?, fields.i32()?, fields.i32()?);
            interval(months, days, micros)
        }
        Type::UUID => uuid(fields.number()?),
        Type::JSONB => {
            if fields.number::<1>()?[0] != 1 {
                return Err(Malformed("a jsonb value of an unknown version".into()));
            }
            utf8(fields.take(raw.len() - 1)?)?
        }
        Type::RECORD => return record(ty, raw),
        _ => utf8(fields.take(raw.len())?)?,
    };
    fields.end()?;
    Ok(shown)
}

fn utf8(raw: &[u8]) -> Result<String, Malformed> {
    String::from_utf8(raw.to_vec()).map_err(|_| Malformed("a text value is not UTF-8".into()))
}

/// The shortest digits that read back as the same number, laid out as Postgres does.
fn float(value: f64, single: bool) -> String {
    if value.is_nan() {
        return "NaN".into();
    }
    if value.is_infinite() {
        return if value > 0.0 { "Infinity" } else { "-Infinity" }.into();
    }
    #[expect(
        clippy::cast_possible_truncation,
        reason = "a float4 was widened by the caller"
    )]
    let scientific = if single {
        format!("{:e}", value as f32)
    } else {
        format!("{value:e}")
    };
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if (-4..if single { 6 } else { 15 }).contains(&exponent) {
        #[expect(
            clippy::cast_possible_truncation,
            reason = "a float4 was widened by the caller"
        )]
        return if single {
            format!("{}", value as f32)
        } else {
            format!("{value}")
        };
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{digits}e{sign}{:02}", exponent.abs())
}

/// Base-10,000 digits with a weight and a display scale.
fn numeric(fields: &mut Fields<'_>) -> Result<String, Malformed> {
    let (count, weight) = (fields.i16()?, fields.i16()?);
    let (sign, scale) = (u16::from_be_bytes(fields.number()?), fields.i16()?);
    match sign {
        0xC000 => return Ok("NaN".into()),
        0xD000 => return Ok("Infinity".into()),
        0xF000 => return Ok("-Infinity".into()),
        0 | 0x4000 => {}
        _ => return Err(Malformed("a numeric value has an unknown sign".into())),
    }
    let mut groups = Vec::new();
    for _ in 0..count {
        groups.push(fields.i16()?);
    }
    if groups.iter().any(|group| !(0..10_000).contains(group)) {
        return Err(Malformed(
            "a numeric value has a digit group out of range".into(),
        ));
    }
    let group = |position: i16| {
        usize::try_from(weight - position)
            .ok()
            .and_then(|at| groups.get(at))
            .copied()
            .unwrap_or(0)
    };
    let mut shown = if sign == 0x4000 {
        "-".to_string()
    } else {
        String::new()
    };
    let whole = (0..=weight.max(0))
        .rev()
        .fold(String::new(), |out, position| {
            format!("{out}{:04}", group(position))
        });
    let trimmed = whole.trim_start_matches('0');
    shown.push_str(if trimmed.is_empty() { "0" } else { trimmed });
    let scale = usize::try_from(scale).unwrap_or(0);
    if scale > 0 {
        let places = i16::try_from(scale.div_ceil(4)).unwrap_or(i16::MAX);
        let fraction = (1..=places).fold(String::new(), |out, position| {
            format!("{out}{:04}", group(-position))
        });
        shown.push('.');
        shown.push_str(&fraction[..scale]);
    }
    Ok(shown)
}

/// Days since 2000-01-01.
fn date(days: i64) -> String {
    match i32::try_from(days) {
        Ok(i32::MAX) => return "infinity".into(),
        Ok(i32::MIN) => return "-infinity".into(),
        _ => {}
    }
    // Howard Hinnant's civil_from_days, shifted from the Postgres epoch to 0000-03-01.
    let shifted = days + 10_957 + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 {
        shifted_month + 3
    } else {
        shifted_month - 9
    };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    if year <= 0 {
        return format!("{:04}-{month:02}-{day:02} BC", 1 - year);
    }
    format!("{year:04}-{month:02}-{day:02}")
}

/// Microseconds of a day, without trailing zeros.
fn clock(micros: i64) -> String {
    let seconds = micros / 1_000_000;
    let mut shown = format!(
        "{:02}:{:02}:{:02}",
        seconds / 3600,
        seconds / 60 % 60,
        seconds % 60
    );
    let fraction = micros % 1_000_000;
    if fraction != 0 {
        let digits = format!("{fraction:06}");
        shown.push('.');
        shown.push_str(digits.trim_end_matches('0'));
    }
    shown
}

fn timestamp(micros: i64, zone: &str) -> String {
    match micros {
        i64::MAX => return "infinity".into(),
        i64::MIN => return "-infinity".into(),
        _ => {}
    }
    let day = 86_400_000_000;
    let date = date(micros.div_euclid(day));
    let time = clock(micros.rem_euclid(day));
    match date.strip_suffix(" BC") {
        Some(date) => format!("{date} {time}{zone} BC"),
        None => format!("{date} {time}{zone}"),
    }
}

/// The `postgres` interval style.
fn interval(months: i32, days: i32, micros: i64) -> String {
    let mut shown = String::new();
    let mut part = |value: i32, unit: &str, plus: bool| {
        if value != 0 {
            let gap = if shown.is_empty() { "" } else { " " };
            let sign = if plus && value > 0 { "+" } else { "" };
            let plural = if value == 1 { "" } else { "s" };
            // Writing to a String cannot fail.
            let _ = write!(shown, "{gap}{sign}{value} {unit}{plural}");
        }
    };
    // After a negative field Postgres marks the next positive one with a plus.
    let (years, rest) = (months / 12, months % 12);
    part(years, "year", false);
    part(rest, "mon", years < 0);
    part(days, "day", rest < 0 || (rest == 0 && years < 0));
    if micros != 0 || shown.is_empty() {
        let gap = if shown.is_empty() { "" } else { " " };
        let before_negative = if days != 0 { days < 0 } else { months < 0 };
        let sign = if micros < 0 {
            "-"
        } else if before_negative {
            "+"
        } else {
            ""
        };
        let _ = write!(shown, "{gap}{sign}{}", clock(micros.abs()));
    }
    shown
}

fn uuid(raw: [u8; 16]) -> String {
    let hex = raw
        .iter()
        .fold(String::new(), |out, byte| format!("{out}{byte:02x}"));
    format!(
        "{}-{}-{}-{}-{}",
        &hex[..8],
        &hex[8..12],
        &hex[12..16],
        &hex[16..20],
        &hex[20..]
    )
}

fn array(ty: &Type, item: &Type, raw: &[u8]) -> Result<String, Malformed> {
    let mut fields = Fields { raw, of: ty };
    let (dimensions, _has_nulls, _item_oid) = (fields.i32()?, fields.i32()?, fields.i32()?);
    let mut sizes = Vec::new();
    for _ in 0..dimensions {
        let (size, lower) = (fields.i32()?, fields.i32()?);
        if lower != 1 {
            return Err(Malformed("an array does not start at 1".into()));
        }
        sizes.push(size);
    }
    let shown = if sizes.is_empty() {
        "{}".to_string()
    } else {
        nested(&mut fields, item, &sizes)?
    };
    fields.end()?;
    Ok(shown)
}

fn nested(fields: &mut Fields<'_>, item: &Type, sizes: &[i32]) -> Result<String, Malformed> {
    let Some((size, inner)) = sizes.split_first() else {
        return Ok(match fields.counted()? {
            None => "NULL".into(),
            Some(raw) => array_item(&text(item, raw)?),
        });
    };
    let mut items = Vec::new();
    for _ in 0..*size {
        items.push(nested(fields, item, inner)?);
    }
    Ok(format!("{{{}}}", items.join(",")))
}

fn array_item(value: &str) -> String {
    let special = |c: char| c.is_ascii_whitespace() || "{},\"\\".contains(c);
    if value.is_empty() || value.eq_ignore_ascii_case("null") || value.contains(special) {
        return format!("\"{}\"", value.replace('\\', "\\\\").replace('"', "\\\""));
    }
    value.to_string()
}

fn record(ty: &Type, raw: &[u8]) -> Result<String, Malformed> {
    let mut fields = Fields { raw, of: ty };
    let mut items = Vec::new();
    for _ in 0..fields.i32()? {
        let oid = u32::from_be_bytes(fields.number()?);
        // A nested type without a static description is text in all types that the files use.
        let item = Type::from_oid(oid).unwrap_or(Type::TEXT);
        items.push(match fields.counted()? {
            None => String::new(),
            Some(raw) => record_item(&text(&item, raw)?),
        });
    }
    fields.end()?;
    Ok(format!("({})", items.join(",")))
}

fn record_item(value: &str) -> String {
    let special = |c: char| c.is_ascii_whitespace() || "(),\"\\".contains(c);
    if value.is_empty() || value.contains(special) {
        return format!("\"{}\"", value.replace('\\', "\\\\").replace('"', "\"\""));
    }
    value.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_print_as_postgres_prints_them() {
        for (value, shown) in [
            (0.1, "0.1"),
            (1e15, "1e+15"),
            (123456789012345.0, "123456789012345"),
            (1.5e-5, "1.5e-05"),
            (-0.0, "-0"),
        ] {
            assert_eq!(float(value, false), shown);
        }
        assert_eq!(float(1e6, true), "1e+06");
        let raw = |words: &[i16]| {
            words
                .iter()
                .flat_map(|word| word.to_be_bytes())
                .collect::<Vec<u8>>()
        };
        assert_eq!(
            text(&Type::NUMERIC, &raw(&[2, 0, 0, 2, 12, 5000])),
            Ok("12.50".into())
        );
        assert_eq!(
            text(&Type::NUMERIC, &raw(&[1, -1, 0x4000, 3, 10])),
            Ok("-0.001".into())
        );
        assert_eq!(
            text(&Type::NUMERIC, &raw(&[1, 1, 0, 0, 3])),
            Ok("30000".into())
        );
        assert_eq!(text(&Type::NUMERIC, &raw(&[0, 0, 0, 0])), Ok("0".into()));
        assert!(text(&Type::NUMERIC, &raw(&[2, 0, 0, 2, 12])).is_err());
    }

    #[test]
    fn times_print_as_postgres_prints_them() {
        assert_eq!(date(0), "2000-01-01");
        assert_eq!(date(-1), "1999-12-31");
        assert_eq!(date(8825), "2024-02-29");
        assert_eq!(timestamp(-1, ""), "1999-12-31 23:59:59.999999");
        assert_eq!(
            interval(14, -3, 3_661_500_000),
            "1 year 2 mons -3 days +01:01:01.5"
        );
        assert_eq!(interval(0, 0, 0), "00:00:00");
        assert_eq!(interval(0, 0, -1_000_000), "-00:00:01");
    }

    #[test]
    fn a_value_of_a_wrong_size_is_reported() {
        assert!(text(&Type::INT4, &[0, 0, 1]).is_err());
        assert!(text(&Type::INT4, &[0, 0, 0, 1, 0]).is_err());
    }
}
