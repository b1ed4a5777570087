//! Date, time and interval operators and functions.
//!
//! Invariant: a timestamptz meets days and months on the clocks of the session's time zone, as in Postgres.

use std::sync::Arc;

use chrono::{Datelike, NaiveDate, Timelike};
use datafusion::arrow::array::{
    Array, ArrayRef, ArrowPrimitiveType, AsArray, PrimitiveArray, StringViewBuilder,
};
use datafusion::arrow::datatypes::{
    Date32Type, Decimal128Type, Float64Type, Int32Type, IntervalMonthDayNano,
    IntervalMonthDayNanoType, Time64MicrosecondType, TimestampMicrosecondType,
};
use datafusion::common::{DataFusionError, Result};
use thalweg_catalog::SqlType;

use super::native::{Call, Kernel, Native, Shape};
use super::temporal_text::{self as text, DAY_US, SECOND_US, Zone};
use crate::error::raise;
use crate::types::numeric;

type Ts = TimestampMicrosecondType;
type Span = IntervalMonthDayNanoType;
type Clock = Time64MicrosecondType;

pub(crate) fn out_of_range(what: &str) -> DataFusionError {
    raise("22008", format!("{what} out of range"))
}

/// Combines two primitive columns value by value; NULL when either is.
fn zip<A, B, O, F>(call: &Call<'_>, f: F) -> Result<ArrayRef>
where
    A: ArrowPrimitiveType,
    B: ArrowPrimitiveType,
    O: ArrowPrimitiveType,
    F: Fn(A::Native, B::Native) -> Result<O::Native>,
{
    let (a, b) = (call.array(0)?, call.array(1)?);
    let (a, b) = (a.as_primitive::<A>(), b.as_primitive::<B>());
    let mut out = Vec::with_capacity(a.len());
    for i in 0..a.len() {
        out.push(if a.is_valid(i) && b.is_valid(i) {
            Some(f(a.value(i), b.value(i))?)
        } else {
            None
        });
    }
    Ok(Arc::new(
        PrimitiveArray::<O>::from_iter(out).with_data_type(call.ret.arrow()),
    ))
}

/// `us` on a clock plus an interval: months, then days, then time.
pub(crate) fn add_interval(us: i64, span: IntervalMonthDayNano, sign: i32) -> Option<i64> {
    let mut at = us;
    if span.months != 0 {
        let moment = text::datetime_of(at)?;
        let months = span.months.checked_mul(sign)?;
        let step = chrono::Months::new(months.unsigned_abs());
        let moved = if months < 0 {
            moment.checked_sub_months(step)?
        } else {
            moment.checked_add_months(step)?
        };
        at = text::micros_of(moved);
    }
    at = at.checked_add(
        i64::from(span.days)
            .checked_mul(DAY_US)?
            .checked_mul(i64::from(sign))?,
    )?;
    at.checked_add((span.nanoseconds / 1000).checked_mul(i64::from(sign))?)
}

pub(crate) fn add_zoned(us: i64, span: IntervalMonthDayNano, sign: i32, zone: Zone) -> Option<i64> {
    let calendar = IntervalMonthDayNano::new(span.months, span.days, 0);
    let at = if span.months == 0 && span.days == 0 {
        us
    } else {
        zone.to_utc(add_interval(zone.to_local(us), calendar, sign)?)
    };
    at.checked_add((span.nanoseconds / 1000).checked_mul(i64::from(sign))?)
}

fn shift_timestamp(call: &Call<'_>, sign: i32) -> Result<ArrayRef> {
    zip::<Ts, Span, Ts, _>(call, |us, span| {
        add_interval(us, span, sign).ok_or_else(|| out_of_range("timestamp"))
    })
}

fn shift_timestamptz(call: &Call<'_>, sign: i32) -> Result<ArrayRef> {
    let zone = Zone::parse(call.time_zone)?;
    zip::<Ts, Span, Ts, _>(call, |us, span| {
        add_zoned(us, span, sign, zone).ok_or_else(|| out_of_range("timestamp"))
    })
}

fn interval_us(us: i64) -> Result<IntervalMonthDayNano> {
    let (days, rest) = (us / DAY_US, us % DAY_US);
    let days = i32::try_from(days).map_err(|_| out_of_range("interval"))?;
    Ok(IntervalMonthDayNano::new(0, days, rest * 1000))
}

fn combine(
    a: IntervalMonthDayNano,
    b: IntervalMonthDayNano,
    sign: i32,
) -> Option<IntervalMonthDayNano> {
    Some(IntervalMonthDayNano::new(
        a.months.checked_add(b.months.checked_mul(sign)?)?,
        a.days.checked_add(b.days.checked_mul(sign)?)?,
        a.nanoseconds
            .checked_add(b.nanoseconds.checked_mul(i64::from(sign))?)?,
    ))
}

fn scale(span: IntervalMonthDayNano, factor: f64) -> Option<IntervalMonthDayNano> {
    // As Postgres: what a month or a day leaves over goes down to the next unit.
    let months = f64::from(span.months) * factor;
    let days = f64::from(span.days) * factor + months.fract() * 30.0;
    let nanos = span.nanoseconds as f64 * factor + days.fract() * 86_400e9;
    let fits = months.abs() < 2e9 && days.abs() < 2e9 && nanos.abs() < 9.2e18;
    let micros = (nanos / 1000.0).round_ties_even() as i64;
    fits.then(|| {
        IntervalMonthDayNano::new(months.trunc() as i32, days.trunc() as i32, micros * 1000)
    })
}

/// The operator `symbol` on these types; the types are the operand types to convert to, the last one the result.
pub(crate) fn operator(symbol: &str, left: &SqlType, right: &SqlType) -> Option<Native> {
    use SqlType as T;
    let int = |t: &T| matches!(t, T::Int2 | T::Int4);
    let (types, ret, kernel): ((T, T), T, Kernel) = match (symbol, left, right) {
        ("+", T::Date, i) if int(i) => ((T::Date, T::Int4), T::Date, |c| {
            zip::<Date32Type, Int32Type, Date32Type, _>(c, |d, n| {
                d.checked_add(n).ok_or_else(|| out_of_range("date"))
            })
        }),
        ("+", i, T::Date) if int(i) => ((T::Int4, T::Date), T::Date, |c| {
            zip::<Int32Type, Date32Type, Date32Type, _>(c, |n, d| {
                d.checked_add(n).ok_or_else(|| out_of_range("date"))
            })
        }),
        ("-", T::Date, i) if int(i) => ((T::Date, T::Int4), T::Date, |c| {
            zip::<Date32Type, Int32Type, Date32Type, _>(c, |d, n| {
                d.checked_sub(n).ok_or_else(|| out_of_range("date"))
            })
        }),
        ("-", T::Date, T::Date) => ((T::Date, T::Date), T::Int4, |c| {
            zip::<Date32Type, Date32Type, Int32Type, _>(c, |a, b| {
                a.checked_sub(b).ok_or_else(|| out_of_range("date"))
            })
        }),
        ("+", T::Date, T::Time) => ((T::Timestamp, T::Time), T::Timestamp, |c| {
            zip::<Ts, Clock, Ts, _>(c, |d, t| {
                d.checked_add(t).ok_or_else(|| out_of_range("timestamp"))
            })
        }),
        ("+", T::Date | T::Timestamp, T::Interval) => {
            ((T::Timestamp, T::Interval), T::Timestamp, |c| {
                shift_timestamp(c, 1)
            })
        }
        ("-", T::Date | T::Timestamp, T::Interval) => {
            ((T::Timestamp, T::Interval), T::Timestamp, |c| {
                shift_timestamp(c, -1)
            })
        }
        ("+", T::Timestamptz, T::Interval) => {
            ((T::Timestamptz, T::Interval), T::Timestamptz, |c| {
                shift_timestamptz(c, 1)
            })
        }
        ("-", T::Timestamptz, T::Interval) => {
            ((T::Timestamptz, T::Interval), T::Timestamptz, |c| {
                shift_timestamptz(c, -1)
            })
        }
        ("-", T::Timestamp | T::Timestamptz | T::Date, T::Timestamp | T::Timestamptz | T::Date) => {
            let zoned = matches!(left, T::Timestamptz) || matches!(right, T::Timestamptz);
            let side = if zoned { T::Timestamptz } else { T::Timestamp };
            ((side.clone(), side), T::Interval, |c| {
                zip::<Ts, Ts, Span, _>(c, |a, b| {
                    interval_us(a.checked_sub(b).ok_or_else(|| out_of_range("interval"))?)
                })
            })
        }
        ("+", T::Time, T::Interval) => ((T::Time, T::Interval), T::Time, |c| {
            zip::<Clock, Span, Clock, _>(
                c,
                |t, s| Ok((t + s.nanoseconds / 1000).rem_euclid(DAY_US)),
            )
        }),
        ("-", T::Time, T::Interval) => ((T::Time, T::Interval), T::Time, |c| {
            zip::<Clock, Span, Clock, _>(
                c,
                |t, s| Ok((t - s.nanoseconds / 1000).rem_euclid(DAY_US)),
            )
        }),
        ("-", T::Time, T::Time) => ((T::Time, T::Time), T::Interval, |c| {
            zip::<Clock, Clock, Span, _>(c, |a, b| {
                Ok(IntervalMonthDayNano::new(0, 0, (a - b) * 1000))
            })
        }),
        _ => return span_operator(symbol, left, right),
    };
    Some(
        Native::new(symbol, vec![types.0, types.1], ret, kernel)
            .shape(Shape::Infix)
            .fallible(true),
    )
}

/// Operators whose result is an interval again.
fn span_operator(symbol: &str, left: &SqlType, right: &SqlType) -> Option<Native> {
    use SqlType as T;
    let number = |t: &T| crate::types::numeric_rank(t).is_some();
    let (types, kernel): ((T, T), Kernel) = match (symbol, left, right) {
        ("+", T::Interval, T::Interval) => ((T::Interval, T::Interval), |c| {
            zip::<Span, Span, Span, _>(c, |a, b| {
                combine(a, b, 1).ok_or_else(|| out_of_range("interval"))
            })
        }),
        ("-", T::Interval, T::Interval) => ((T::Interval, T::Interval), |c| {
            zip::<Span, Span, Span, _>(c, |a, b| {
                combine(a, b, -1).ok_or_else(|| out_of_range("interval"))
            })
        }),
        ("*", T::Interval, n) if number(n) => ((T::Interval, T::Float8), |c| {
            zip::<Span, Float64Type, Span, _>(c, |s, f| {
                scale(s, f).ok_or_else(|| out_of_range("interval"))
            })
        }),
        ("*", n, T::Interval) if number(n) => ((T::Float8, T::Interval), |c| {
            zip::<Float64Type, Span, Span, _>(c, |f, s| {
                scale(s, f).ok_or_else(|| out_of_range("interval"))
            })
        }),
        ("/", T::Interval, n) if number(n) => ((T::Interval, T::Float8), |c| {
            zip::<Span, Float64Type, Span, _>(c, |s, f| {
                if f == 0.0 {
                    return Err(raise("22012", "division by zero"));
                }
                scale(s, 1.0 / f).ok_or_else(|| out_of_range("interval"))
            })
        }),
        _ => return None,
    };
    Some(
        Native::new(symbol, vec![types.0, types.1], T::Interval, kernel)
            .shape(Shape::Infix)
            .fallible(true),
    )
}

/// Cuts a clock reading to the start of a field.
fn truncate(us: i64, field: &str) -> Option<i64> {
    let unit = match field {
        "microseconds" | "microsecond" => return Some(us),
        "milliseconds" | "millisecond" => 1000,
        "second" | "seconds" => SECOND_US,
        "minute" | "minutes" => 60 * SECOND_US,
        "hour" | "hours" => 3600 * SECOND_US,
        "day" | "days" => DAY_US,
        _ => 0,
    };
    if unit > 0 {
        return Some(us.div_euclid(unit) * unit);
    }
    let date = text::datetime_of(us)?.date();
    let year = date.year();
    let start = match field {
        "week" | "weeks" => date.checked_sub_signed(chrono::TimeDelta::days(i64::from(
            date.weekday().num_days_from_monday(),
        )))?,
        "month" | "months" => date.with_day(1)?,
        "quarter" => NaiveDate::from_ymd_opt(year, date.month0() / 3 * 3 + 1, 1)?,
        "year" | "years" => NaiveDate::from_ymd_opt(year, 1, 1)?,
        "decade" | "decades" => NaiveDate::from_ymd_opt(year.div_euclid(10) * 10, 1, 1)?,
        "century" | "centuries" => {
            NaiveDate::from_ymd_opt((year - 1).div_euclid(100) * 100 + 1, 1, 1)?
        }
        "millennium" | "millennia" => {
            NaiveDate::from_ymd_opt((year - 1).div_euclid(1000) * 1000 + 1, 1, 1)?
        }
        _ => return None,
    };
    i64::from(text::days_of(start)?).checked_mul(DAY_US)
}

fn unknown_unit(field: &str, ty: &SqlType) -> DataFusionError {
    raise(
        "22023",
        format!("unit \"{field}\" not recognized for type {ty}"),
    )
}

fn field_at(fields: &ArrayRef, i: usize) -> Option<String> {
    fields
        .is_valid(i)
        .then(|| fields.as_string_view().value(i).to_lowercase())
}

/// `date_trunc(field, timestamp | timestamptz [, zone])`
pub(crate) fn date_trunc(ty: &SqlType, zone: &str, named_zone: bool) -> Native {
    let mut types = vec![SqlType::Text, ty.clone()];
    if named_zone {
        types.push(SqlType::Text);
    }
    let kernel: Kernel = |call| {
        let (fields, values) = (call.array(0)?, call.array(1)?);
        let zones = if call.args.len() > 2 {
            Some(call.array(2)?)
        } else {
            None
        };
        let session = Zone::parse(call.time_zone)?;
        let zoned = matches!(call.ret, SqlType::Timestamptz);
        let values = values.as_primitive::<Ts>();
        let mut out = Vec::with_capacity(values.len());
        for i in 0..values.len() {
            let Some(field) = field_at(&fields, i).filter(|_| values.is_valid(i)) else {
                out.push(None);
                continue;
            };
            let zone = match &zones {
                Some(z) if z.is_null(i) => {
                    out.push(None);
                    continue;
                }
                Some(z) => Zone::parse(z.as_string_view().value(i))?,
                None => session,
            };
            let us = values.value(i);
            let local = if zoned { zone.to_local(us) } else { us };
            let cut = truncate(local, &field).ok_or_else(|| unknown_unit(&field, call.ret))?;
            out.push(Some(if zoned { zone.to_utc(cut) } else { cut }));
        }
        Ok(Arc::new(
            PrimitiveArray::<Ts>::from_iter(out).with_data_type(call.ret.arrow()),
        ))
    };
    let native = Native::new("date_trunc", types, ty.clone(), kernel).fallible(true);
    if matches!(ty, SqlType::Timestamptz) {
        native.in_zone(zone)
    } else {
        native
    }
}

/// `date_bin(stride, ts, origin)`
pub(crate) fn date_bin(ty: &SqlType) -> Native {
    let kernel: Kernel = |call| {
        let (strides, values, origins) = (call.array(0)?, call.array(1)?, call.array(2)?);
        let (strides, values, origins) = (
            strides.as_primitive::<Span>(),
            values.as_primitive::<Ts>(),
            origins.as_primitive::<Ts>(),
        );
        let mut out = Vec::with_capacity(values.len());
        for i in 0..values.len() {
            if strides.is_null(i) || values.is_null(i) || origins.is_null(i) {
                out.push(None);
                continue;
            }
            let width = stride_us(strides.value(i))?;
            let (at, origin) = (values.value(i), origins.value(i));
            let offset = at
                .checked_sub(origin)
                .ok_or_else(|| out_of_range("timestamp"))?;
            out.push(Some(origin + offset.div_euclid(width) * width));
        }
        Ok(Arc::new(
            PrimitiveArray::<Ts>::from_iter(out).with_data_type(call.ret.arrow()),
        ))
    };
    Native::new(
        "date_bin",
        vec![SqlType::Interval, ty.clone(), ty.clone()],
        ty.clone(),
        kernel,
    )
    .fallible(true)
}

/// Microseconds of a window width, which has no months and is above zero.
pub(crate) fn stride_us(span: IntervalMonthDayNano) -> Result<i64> {
    if span.months != 0 {
        return Err(raise(
            "0A000",
            "timestamps cannot be binned into intervals containing months or years",
        ));
    }
    let width = i64::from(span.days) * DAY_US + span.nanoseconds / 1000;
    if width <= 0 {
        return Err(raise("22008", "stride must be greater than zero"));
    }
    Ok(width)
}

/// A field of a moment in microseconds-exact millionths.
fn part_of_clock(us: i64, field: &str) -> Option<i128> {
    const M: i128 = 1_000_000;
    let at = text::datetime_of(us)?;
    let within = us.rem_euclid(60 * SECOND_US);
    let year = i128::from(at.year());
    Some(match field {
        "microsecond" | "microseconds" => i128::from(within) * M,
        "millisecond" | "milliseconds" | "ms" => i128::from(within) * 1000,
        "second" | "seconds" => i128::from(within),
        "minute" | "minutes" => i128::from(at.minute()) * M,
        "hour" | "hours" => i128::from(at.hour()) * M,
        "day" | "days" => i128::from(at.day()) * M,
        "dow" => i128::from(at.weekday().num_days_from_sunday()) * M,
        "isodow" => i128::from(at.weekday().number_from_monday()) * M,
        "doy" => i128::from(at.ordinal()) * M,
        "week" => i128::from(at.iso_week().week()) * M,
        "isoyear" => i128::from(at.iso_week().year()) * M,
        "month" | "months" => i128::from(at.month()) * M,
        "quarter" => i128::from(at.month0() / 3 + 1) * M,
        "year" | "years" => year * M,
        "decade" => year.div_euclid(10) * M,
        "century" => ((year - 1).div_euclid(100) + 1) * M,
        "millennium" => ((year - 1).div_euclid(1000) + 1) * M,
        "julian" => {
            (i128::from(us.div_euclid(DAY_US)) + 2_440_588) * M
                + i128::from(us.rem_euclid(DAY_US)) * M / i128::from(DAY_US)
        }
        _ => return None,
    })
}

fn part_of_interval(span: IntervalMonthDayNano, field: &str) -> Option<i128> {
    const M: i128 = 1_000_000;
    let us = i128::from(span.nanoseconds / 1000);
    Some(match field {
        "epoch" => {
            i128::from(span.months / 12) * 31_557_600 * M
                + i128::from(span.months % 12) * 2_592_000 * M
                + i128::from(span.days) * 86_400 * M
                + us
        }
        "microsecond" | "microseconds" => us % (60 * M) * M,
        "millisecond" | "milliseconds" => us % (60 * M) * 1000,
        "second" | "seconds" => us % (60 * M),
        "minute" | "minutes" => us / (60 * M) % 60 * M,
        "hour" | "hours" => us / (3600 * M) * M,
        "day" | "days" => i128::from(span.days) * M,
        "month" | "months" => i128::from(span.months % 12) * M,
        "quarter" => i128::from(span.months % 12 / 3 + 1) * M,
        "year" | "years" => i128::from(span.months / 12) * M,
        "decade" => i128::from(span.months / 120) * M,
        "century" => i128::from(span.months / 1200) * M,
        "millennium" => i128::from(span.months / 12000) * M,
        _ => return None,
    })
}

/// The field of value `i` in millionths.
fn part(array: &ArrayRef, i: usize, ty: &SqlType, field: &str, zone: Zone) -> Result<i128> {
    let found = match ty {
        SqlType::Interval => part_of_interval(array.as_primitive::<Span>().value(i), field),
        SqlType::Time => {
            let us = array.as_primitive::<Clock>().value(i);
            match field {
                "epoch" => Some(i128::from(us)),
                "microsecond" | "microseconds" | "millisecond" | "milliseconds" | "second"
                | "seconds" | "minute" | "minutes" | "hour" | "hours" => part_of_clock(us, field),
                _ => None,
            }
        }
        _ => {
            let us = match ty {
                SqlType::Date => i64::from(array.as_primitive::<Date32Type>().value(i)) * DAY_US,
                _ => array.as_primitive::<Ts>().value(i),
            };
            let offset = if matches!(ty, SqlType::Timestamptz) {
                zone.offset_us(us)
            } else {
                0
            };
            match field {
                "epoch" => Some(i128::from(us)),
                "timezone" => Some(i128::from(offset)),
                "timezone_hour" => Some(i128::from(offset / (3600 * SECOND_US)) * 1_000_000),
                "timezone_minute" => Some(i128::from(offset / (60 * SECOND_US) % 60) * 1_000_000),
                _ => part_of_clock(us.saturating_add(offset), field),
            }
        }
    };
    found.ok_or_else(|| unknown_unit(field, ty))
}

/// `extract(field FROM x)` (numeric) and `date_part(field, x)` (float8).
pub(crate) fn extract(ty: &SqlType, zone: &str, field: Option<&str>, exact: bool) -> Native {
    let kernel: Kernel = |call| {
        let (fields, values) = (call.array(0)?, call.array(1)?);
        let zone = Zone::parse(call.time_zone)?;
        let mut parts = Vec::with_capacity(values.len());
        for i in 0..values.len() {
            let field = field_at(&fields, i).filter(|_| values.is_valid(i));
            parts.push(
                field
                    .map(|f| part(&values, i, &call.types[1], &f, zone))
                    .transpose()?,
            );
        }
        if matches!(call.ret, SqlType::Float8) {
            return Ok(Arc::new(PrimitiveArray::<Float64Type>::from_iter(
                parts.into_iter().map(|p| p.map(|p| p as f64 / 1e6)),
            )));
        }
        let unit = super::decimal::power(
            6 - u32::try_from(crate::types::scale_of(call.ret))
                .unwrap_or(0)
                .min(6),
        );
        Ok(Arc::new(
            PrimitiveArray::<Decimal128Type>::from_iter(
                parts.into_iter().map(|p| p.map(|p| p / unit)),
            )
            .with_data_type(call.ret.arrow()),
        ))
    };
    let whole = field.is_some_and(|f| {
        !matches!(
            f,
            "epoch" | "second" | "seconds" | "millisecond" | "milliseconds" | "ms" | "julian"
        )
    });
    let ret = match (exact, whole) {
        (false, _) => SqlType::Float8,
        (true, true) => numeric(0),
        (true, false) => numeric(6),
    };
    let name = if exact { "extract" } else { "date_part" };
    let native = Native::new(name, vec![SqlType::Text, ty.clone()], ret, kernel).fallible(true);
    if matches!(ty, SqlType::Timestamptz) {
        native.in_zone(zone)
    } else {
        native
    }
}

/// `timezone(zone, x)`, which is `x AT TIME ZONE zone`.
pub(crate) fn at_time_zone(ty: &SqlType) -> Native {
    let ret = if matches!(ty, SqlType::Timestamptz) {
        SqlType::Timestamp
    } else {
        SqlType::Timestamptz
    };
    let kernel: Kernel = |call| {
        let (zones, values) = (call.array(0)?, call.array(1)?);
        let (zones, values) = (zones.as_string_view(), values.as_primitive::<Ts>());
        let to_local = matches!(call.ret, SqlType::Timestamp);
        let mut out = Vec::with_capacity(values.len());
        for i in 0..values.len() {
            if zones.is_null(i) || values.is_null(i) {
                out.push(None);
                continue;
            }
            let zone = Zone::parse(zones.value(i))?;
            out.push(Some(if to_local {
                zone.to_local(values.value(i))
            } else {
                zone.to_utc(values.value(i))
            }));
        }
        Ok(Arc::new(
            PrimitiveArray::<Ts>::from_iter(out).with_data_type(call.ret.arrow()),
        ))
    };
    Native::new("timezone", vec![SqlType::Text, ty.clone()], ret, kernel).fallible(true)
}

fn age_between(later: i64, earlier: i64) -> Option<IntervalMonthDayNano> {
    if later < earlier {
        let v = age_between(earlier, later)?;
        return Some(IntervalMonthDayNano::new(
            -v.months,
            -v.days,
            -v.nanoseconds,
        ));
    }
    let (a, b) = (text::datetime_of(later)?, text::datetime_of(earlier)?);
    let mut months = (a.year() - b.year()) * 12 + i32::try_from(a.month()).ok()?
        - i32::try_from(b.month()).ok()?;
    let mut from = b.checked_add_months(chrono::Months::new(u32::try_from(months.max(0)).ok()?))?;
    if from > a || months < 0 {
        months -= 1;
        from = b.checked_add_months(chrono::Months::new(u32::try_from(months.max(0)).ok()?))?;
    }
    let rest = text::micros_of(a) - text::micros_of(from);
    Some(IntervalMonthDayNano::new(
        months,
        i32::try_from(rest / DAY_US).ok()?,
        rest % DAY_US * 1000,
    ))
}

/// `age(a, b)` over timestamps without zone.
pub(crate) fn age() -> Native {
    Native::new(
        "age",
        vec![SqlType::Timestamp, SqlType::Timestamp],
        SqlType::Interval,
        |c| {
            zip::<Ts, Ts, Span, _>(c, |a, b| {
                age_between(a, b).ok_or_else(|| out_of_range("interval"))
            })
        },
    )
    .fallible(true)
}

/// `make_date(y, m, d)`
pub(crate) fn make_date() -> Native {
    Native::new("make_date", vec![SqlType::Int4; 3], SqlType::Date, |call| {
        let columns = [call.array(0)?, call.array(1)?, call.array(2)?];
        let columns: Vec<_> = columns
            .iter()
            .map(|c| c.as_primitive::<Int32Type>().clone())
            .collect();
        let mut out = Vec::with_capacity(call.rows);
        for i in 0..columns[0].len() {
            if columns.iter().any(|c| c.is_null(i)) {
                out.push(None);
                continue;
            }
            let (y, m, d) = (
                columns[0].value(i),
                columns[1].value(i),
                columns[2].value(i),
            );
            let date = u32::try_from(m)
                .ok()
                .zip(u32::try_from(d).ok())
                .and_then(|(m, d)| NaiveDate::from_ymd_opt(y, m, d));
            let date = date.ok_or_else(|| {
                raise(
                    "22008",
                    format!("date field value out of range: {y}-{m:02}-{d:02}"),
                )
            })?;
            out.push(text::days_of(date));
        }
        Ok(Arc::new(PrimitiveArray::<Date32Type>::from_iter(out)))
    })
    .fallible(true)
}

/// `to_timestamp(seconds)`
pub(crate) fn from_epoch() -> Native {
    Native::new(
        "to_timestamp",
        vec![SqlType::Float8],
        SqlType::Timestamptz,
        |call| {
            super::cast::map_primitive::<Float64Type, Ts, _>(
                &call.array(0)?,
                &call.ret.arrow(),
                |v| {
                    let us = (v * 1e6).round();
                    if us.is_nan() || us.abs() > 9.2e18 {
                        Err(out_of_range("timestamp"))
                    } else {
                        Ok(us as i64)
                    }
                },
            )
        },
    )
    .fallible(true)
}

/// Writes one text per row, NULL where `f` gives none.
pub(crate) fn text_rows(
    rows: usize,
    mut f: impl FnMut(usize) -> Result<Option<String>>,
) -> Result<ArrayRef> {
    let mut out = StringViewBuilder::with_capacity(rows);
    for i in 0..rows {
        out.append_option(f(i)?);
    }
    Ok(Arc::new(out.finish()))
}
