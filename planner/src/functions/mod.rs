//! The functions and operators that behave as Postgres' do.
//!
//! Invariant: kernels are pure: time, zone and user come in as arguments or are fixed when the call is bound.

pub(crate) mod aggregate;
pub(crate) mod arithmetic;
mod array_text;
pub(crate) mod cast;
pub(crate) mod collection;
pub(crate) mod decimal;
pub(crate) mod encoding;
pub(crate) mod exact;
pub(crate) mod format;
pub(crate) mod json;
pub(crate) mod justify;
pub(crate) mod native;
pub(crate) mod now;
mod of_argument;
pub(crate) mod ordered_set;
mod scan;
pub(crate) mod series;
pub(crate) mod single;
pub(crate) mod temporal;
pub(crate) mod temporal_text;
pub(crate) mod text;
mod text_of;

/// Names the binder knows beside the registry's, for hints.
pub(crate) const OWN_NAMES: &[&str] = &[
    "abs",
    "age",
    "cardinality",
    "ceil",
    "ceiling",
    "clock_timestamp",
    "coalesce",
    "concat",
    "concat_ws",
    "convert_from",
    "convert_to",
    "current_date",
    "current_time",
    "current_timestamp",
    "date_bin",
    "date_part",
    "date_trunc",
    "div",
    "exp",
    "extract",
    "floor",
    "generate_series",
    "greatest",
    "json_agg",
    "json_build_object",
    "json_object_agg",
    "jsonb_agg",
    "jsonb_build_object",
    "jsonb_object_agg",
    "jsonb_array_length",
    "jsonb_typeof",
    "justify_days",
    "justify_hours",
    "justify_interval",
    "least",
    "length",
    "ln",
    "localtimestamp",
    "log",
    "make_date",
    "make_time",
    "make_timestamp",
    "mod",
    "mode",
    "now",
    "nullif",
    "percentile_disc",
    "pg_typeof",
    "position",
    "power",
    "round",
    "sign",
    "sqrt",
    "strpos",
    "substr",
    "substring",
    "timezone",
    "to_char",
    "to_date",
    "to_json",
    "to_jsonb",
    "to_timestamp",
    "trunc",
];
