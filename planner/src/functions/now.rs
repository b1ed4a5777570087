//! `now()` and its kin: symbolic until an execution fixes the moment.
//!
//! Invariant: nothing in the planner reads a clock; an unbound `now()` that is executed is an error, never a wrong time.

use datafusion::common::{Result, ScalarValue};
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::{Expr, Volatility};
use thalweg_catalog::SqlType;

use super::native::{Native, native_of};
use super::temporal_text::{DAY_US, Zone};
use crate::error::raise;

/// The function `name` when it reads the current time.
pub(crate) fn function(name: &str, zone: &str) -> Option<Native> {
    let ret = match name {
        // A statement is answered for one moment, so the clock does not go on within it.
        "now"
        | "current_timestamp"
        | "transaction_timestamp"
        | "statement_timestamp"
        | "clock_timestamp" => SqlType::Timestamptz,
        "localtimestamp" => SqlType::Timestamp,
        "current_date" => SqlType::Date,
        "current_time" | "localtime" => SqlType::Time,
        _ => return None,
    };
    let kernel = |_: &super::native::Call<'_>| -> Result<datafusion::arrow::array::ArrayRef> {
        Err(raise(
            "XX000",
            "now() was executed before the moment was fixed",
        ))
    };
    // Volatile keeps DataFusion from folding it; it never executes.
    Some(
        Native::new(name, vec![], ret, kernel)
            .in_zone(zone)
            .volatile(Volatility::Volatile),
    )
}

/// True for a call of one of these functions.
pub(crate) fn is_now(call: &ScalarFunction) -> bool {
    native_of(call).is_some_and(|n| n.types.is_empty() && function(&n.name, "").is_some())
}

/// The literal that a call stands for at `now_us`.
pub(crate) fn bind(call: &ScalarFunction, now_us: i64) -> Result<Option<Expr>> {
    if !is_now(call) {
        return Ok(None);
    }
    let Some(native) = native_of(call) else {
        return Ok(None);
    };
    let local = Zone::parse(&native.time_zone)?.to_local(now_us);
    let value = match &native.ret {
        SqlType::Timestamptz => ScalarValue::TimestampMicrosecond(Some(now_us), Some("UTC".into())),
        SqlType::Timestamp => ScalarValue::TimestampMicrosecond(Some(local), None),
        SqlType::Date => ScalarValue::Date32(i32::try_from(local.div_euclid(DAY_US)).ok()),
        _ => ScalarValue::Time64Microsecond(Some(local.rem_euclid(DAY_US))),
    };
    Ok(Some(Expr::Literal(value, None)))
}
