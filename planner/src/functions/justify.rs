//! Intervals with 24-hour days and 30-day months, and moments made from their parts.
//!
//! Invariant: what an interval adds up to by those rules stays; its parts end up with one sign, as in Postgres.

use std::sync::Arc;

use chrono::NaiveDate;
use datafusion::arrow::array::{Array, ArrayRef, AsArray, PrimitiveArray};
use datafusion::arrow::datatypes::{
    Float64Type, Int32Type, IntervalMonthDayNano, IntervalMonthDayNanoType, Time64MicrosecondType,
    TimestampMicrosecondType,
};
use datafusion::common::{DataFusionError, Result};
use thalweg_catalog::SqlType;

use super::cast::map_primitive;
use super::native::{Call, Kernel, Native};
use super::temporal::out_of_range;
use super::temporal_text::{self as text, DAY_US, SECOND_US};
use crate::error::raise;

const DAY_NS: i64 = DAY_US * 1_000;
const MONTH_DAYS: i32 = 30;

/// Months, days and nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Parts(i32, i32, i64);

impl Parts {
    /// Whole days of the time become days.
    fn hours_to_days(self) -> Option<Self> {
        let Self(months, days, ns) = self;
        let days = days.checked_add(i32::try_from(ns / DAY_NS).ok()?)?;
        Some(Self(months, days, ns % DAY_NS))
    }

    fn days_to_months(self) -> Option<Self> {
        let Self(months, days, ns) = self;
        let months = months.checked_add(days / MONTH_DAYS)?;
        Some(Self(months, days % MONTH_DAYS, ns))
    }

    /// Days and time get one sign.
    fn one_sign_below_days(self) -> Self {
        let Self(months, days, ns) = self;
        match (days.signum(), ns.signum()) {
            (1, -1) => Self(months, days - 1, ns + DAY_NS),
            (-1, 1) => Self(months, days + 1, ns - DAY_NS),
            _ => self,
        }
    }

    /// Months get the sign of what is below them; `time` says whether the time counts where there are no days.
    fn one_sign_below_months(self, time: bool) -> Self {
        let Self(months, days, ns) = self;
        let below = match (days.signum(), time) {
            (0, true) => i32::try_from(ns.signum()).unwrap_or(0),
            (sign, _) => sign,
        };
        match (months.signum(), below) {
            (1, -1) => Self(months - 1, days + MONTH_DAYS, ns),
            (-1, 1) => Self(months + 1, days - MONTH_DAYS, ns),
            _ => self,
        }
    }

    fn justified(self, name: &str) -> Option<Self> {
        Some(match name {
            "justify_hours" => self.hours_to_days()?.one_sign_below_days(),
            "justify_days" => self.days_to_months()?.one_sign_below_months(false),
            // Days first, so that they have room for those that the time brings.
            _ => self
                .days_to_months()?
                .hours_to_days()?
                .days_to_months()?
                .one_sign_below_months(true)
                .one_sign_below_days(),
        })
    }
}

/// `justify_hours`, `justify_days` and `justify_interval`.
pub(crate) fn justified(name: &str) -> Native {
    let kernel: Kernel = match name {
        "justify_hours" => |call| each(call, "justify_hours"),
        "justify_days" => |call| each(call, "justify_days"),
        _ => |call| each(call, "justify_interval"),
    };
    Native::new(name, vec![SqlType::Interval], SqlType::Interval, kernel).fallible(true)
}

fn each(call: &Call<'_>, name: &str) -> Result<ArrayRef> {
    map_primitive::<IntervalMonthDayNanoType, IntervalMonthDayNanoType, _>(
        &call.array(0)?,
        &call.ret.arrow(),
        |span| {
            Parts(span.months, span.days, span.nanoseconds)
                .justified(name)
                .map(|Parts(months, days, ns)| IntervalMonthDayNano::new(months, days, ns))
                .ok_or_else(|| out_of_range("interval"))
        },
    )
}

/// `make_time(hour, minute, second)`, or `make_timestamp(year, month, day, hour, minute, second)`.
pub(crate) fn made(time: bool) -> Native {
    let (name, whole, ret) = match time {
        true => ("make_time", 2, SqlType::Time),
        false => ("make_timestamp", 5, SqlType::Timestamp),
    };
    let mut types = vec![SqlType::Int4; whole];
    types.push(SqlType::Float8);
    Native::new(name, types, ret, make).fallible(true)
}

fn make(call: &Call<'_>) -> Result<ArrayRef> {
    let count = call.types.len().saturating_sub(1);
    let whole = (0..count).map(|at| Ok(call.array(at)?.as_primitive::<Int32Type>().clone()));
    let whole = whole.collect::<Result<Vec<PrimitiveArray<Int32Type>>>>()?;
    let seconds = call.array(count)?;
    let seconds = seconds.as_primitive::<Float64Type>();
    let mut values = Vec::with_capacity(seconds.len());
    for row in 0..seconds.len() {
        if seconds.is_null(row) || whole.iter().any(|part| part.is_null(row)) {
            values.push(None);
            continue;
        }
        let parts: Vec<i32> = whole.iter().map(|part| part.value(row)).collect();
        values.push(Some(match parts.as_slice() {
            [hour, minute] => clock(*hour, *minute, seconds.value(row))?,
            [year, month, day, hour, minute] => {
                let time_us = clock(*hour, *minute, seconds.value(row))?;
                let days = days(*year, *month, *day)?;
                let us = i64::from(days) * DAY_US;
                us.checked_add(time_us)
                    .ok_or_else(|| out_of_range("timestamp"))?
            }
            _ => return Err(out_of_range("timestamp")),
        }));
    }
    Ok(match call.ret {
        SqlType::Time => Arc::new(PrimitiveArray::<Time64MicrosecondType>::from_iter(values)),
        _ => Arc::new(PrimitiveArray::<TimestampMicrosecondType>::from_iter(
            values,
        )),
    })
}

fn days(year: i32, month: i32, day: i32) -> Result<i32> {
    let date = u32::try_from(month).ok().zip(u32::try_from(day).ok());
    let date = date.and_then(|(month, day)| NaiveDate::from_ymd_opt(year, month, day));
    let days = date.filter(|_| year > 0).and_then(text::days_of);
    days.ok_or_else(|| field("date", format!("{year}-{month:02}-{day:02}")))
}

/// Microseconds of the day; 24:00:00 and a sixtieth second are times.
fn clock(hour: i32, minute: i32, second: f64) -> Result<i64> {
    let second_us = (second * SECOND_US as f64).round();
    let fits = (0..=24).contains(&hour)
        && (0..60).contains(&minute)
        && (0.0..=60.0 * SECOND_US as f64).contains(&second_us);
    let us = (i64::from(hour) * 60 + i64::from(minute)) * 60 * SECOND_US;
    let us = fits.then(|| us + second_us as i64);
    us.filter(|us| *us <= DAY_US)
        .ok_or_else(|| field("time", format!("{hour}:{minute:02}:{second:02}")))
}

fn field(what: &str, value: String) -> DataFusionError {
    raise("22008", format!("{what} field value out of range: {value}"))
}
