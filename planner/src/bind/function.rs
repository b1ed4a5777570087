//! Scalar functions by name and argument types.
//!
//! Invariant: a function that does not exist for these types is 42883 with the types in the message; results are held in
//! the Arrow type of their SQL type.

use std::sync::Arc;

use datafusion::common::{DFSchema, Result, ScalarValue};
use datafusion::logical_expr::expr::{Case, Cast, ScalarFunction};
use datafusion::logical_expr::{Expr, ExprSchemable};
use thalweg_catalog::SqlType;

use super::binder::{Binder, Typed, same_layout, tagged};
use crate::error::raise;
use crate::functions::{
    arithmetic, collection, encoding, format, json, justify, now, ordered_set, series, temporal,
    text,
};
use crate::types::{
    Conversion, convertible, field_type, is_integer, is_text, numeric, numeric_rank, unify,
};

/// Functions of text that DataFusion would also call on what it can print.
const ON_TEXT: &[&str] = &[
    "ascii",
    "bit_length",
    "btrim",
    "char_length",
    "character_length",
    "initcap",
    "left",
    "length",
    "lower",
    "lpad",
    "ltrim",
    "md5",
    "octet_length",
    "overlay",
    "position",
    "regexp_count",
    "regexp_like",
    "regexp_match",
    "regexp_replace",
    "repeat",
    "replace",
    "reverse",
    "right",
    "rpad",
    "rtrim",
    "split_part",
    "starts_with",
    "string_to_array",
    "strpos",
    "substr",
    "substring",
    "translate",
    "upper",
];

/// Those of them that also take bytes.
const ON_BYTES: &[&str] = &[
    "bit_length",
    "btrim",
    "length",
    "ltrim",
    "md5",
    "octet_length",
    "overlay",
    "position",
    "rtrim",
    "strpos",
    "substr",
    "substring",
];

impl Binder {
    pub(crate) fn function(&self, name: &str, args: Vec<Typed>, schema: &DFSchema) -> Result<Expr> {
        if name == crate::bind::node::PACK {
            return Err(self.missing(name, &args));
        }
        if self.registry.is_server(name) {
            return self.registered(name, args, schema);
        }
        if args.is_empty() {
            if let Some(native) = now::function(name, &self.time_zone) {
                return Ok(native.call(vec![]));
            }
            if matches!(
                name,
                "current_user" | "session_user" | "user" | "current_role"
            ) {
                return Ok(super::literal::typed(
                    ScalarValue::Utf8View(Some(self.user.clone())),
                    &SqlType::Name,
                ));
            }
        }
        if matches!(
            name,
            "current_timestamp" | "localtimestamp" | "current_time" | "localtime"
        ) {
            return self.function(name, vec![], schema);
        }
        if let Some(expr) = self.conditional(name, &args)? {
            return Ok(expr);
        }
        if let Some(expr) = self.numeric_function(name, &args)? {
            return Ok(expr);
        }
        if let Some(expr) = self.temporal_function(name, &args)? {
            return Ok(expr);
        }
        if let Some(expr) = self.text_function(name, &args)? {
            return Ok(expr);
        }
        if let Some(expr) = self.json_function(name, &args)? {
            return Ok(expr);
        }
        if let Some(expr) = self.array_function(name, &args)? {
            return Ok(expr);
        }
        let texty = |arg: &Typed| is_text(&arg.1) || arg.1 == SqlType::Unknown;
        if name == "substring" && args.len() == 2 && args.iter().all(texty) {
            // What the pattern matches, or its first group.
            let found = self.registered("regexp_match", args, schema)?;
            let first = (super::literal::number("1")?, SqlType::Int4);
            return collection::index(self, vec![self.typed(found, schema)?, first]);
        }
        self.registered(name, args, schema)
    }

    pub(crate) fn missing(
        &self,
        name: &str,
        args: &[Typed],
    ) -> datafusion::common::DataFusionError {
        let types: Vec<String> = args
            .iter()
            .map(|a| crate::types::base(&a.1).to_string())
            .collect();
        self.registry
            .unknown_function(name, Some(types.join(", ")))
            .into()
    }

    fn conditional(&self, name: &str, args: &[Typed]) -> Result<Option<Expr>> {
        Ok(Some(match (name, args) {
            ("coalesce", [_, ..]) => {
                let (mut exprs, ty) = self.unified(args.to_vec(), "COALESCE")?;
                let last = exprs.pop().map(Box::new);
                if exprs.is_empty() {
                    return Ok(last.map(|e| *e));
                }
                // CASE, not DataFusion's coalesce, which only an optimiser pass makes executable.
                let whens = exprs
                    .into_iter()
                    .map(|e| (Box::new(Expr::IsNotNull(Box::new(e.clone()))), Box::new(e)))
                    .collect();
                if ty == SqlType::Bool {
                    return Ok(Some(crate::rewrite::lazy::conditional(whens, last)));
                }
                tagged(Expr::Case(Case::new(None, whens, last)), &ty)
            }
            ("nullif", [a, b]) => {
                let test = self.compare("=", a.clone(), b.clone())?;
                let ty = if a.1 == SqlType::Unknown {
                    SqlType::Text
                } else {
                    a.1.clone()
                };
                let value = self.implicit(a.clone(), &ty)?;
                let whens = vec![(Box::new(test), Box::new(super::literal::null(&ty)?))];
                tagged(
                    Expr::Case(Case::new(None, whens, Some(Box::new(value)))),
                    &ty,
                )
            }
            ("greatest" | "least", [_, ..]) => {
                let (exprs, ty) = self.unified(
                    args.to_vec(),
                    if name == "least" { "LEAST" } else { "GREATEST" },
                )?;
                let udf = self
                    .registry
                    .scalar(name)
                    .ok_or_else(|| self.missing(name, args))?;
                tagged(
                    Expr::ScalarFunction(ScalarFunction::new_udf(Arc::clone(udf), exprs)),
                    &ty,
                )
            }
            ("pg_typeof", [(_, ty)]) => {
                let shown = match ty {
                    SqlType::Numeric { .. } => "numeric".to_owned(),
                    SqlType::Varchar(_) => "character varying".to_owned(),
                    SqlType::Char(_) => "character".to_owned(),
                    other => other.to_string(),
                };
                super::literal::typed(ScalarValue::Utf8View(Some(shown)), &SqlType::Text)
            }
            _ => return Ok(None),
        }))
    }

    fn numeric_function(&self, name: &str, args: &[Typed]) -> Result<Option<Expr>> {
        let Some((_, first)) = args.first() else {
            return Ok(None);
        };
        let known = |ty: &SqlType| {
            if *ty == SqlType::Unknown {
                SqlType::Float8
            } else {
                ty.clone()
            }
        };
        let first = known(first);
        match (name, args.len()) {
            ("abs" | "sign" | "round" | "trunc" | "ceil" | "ceiling" | "floor", 1)
                if numeric_rank(&first).is_some() =>
            {
                let ty = match &first {
                    // Only abs is defined on integers and real; the others go through float8, as in Postgres.
                    t if name != "abs" && !matches!(t, SqlType::Numeric { .. }) => SqlType::Float8,
                    t => t.clone(),
                };
                let native = arithmetic::rounding_function(name, &[ty.clone()], None)
                    .ok_or_else(|| self.missing(name, args))?;
                Ok(Some(
                    native.call(vec![self.implicit(args[0].clone(), &ty)?]),
                ))
            }
            ("round" | "trunc", 2) if numeric_rank(&first).is_some() => {
                let ty = match &first {
                    SqlType::Numeric { .. } => first.clone(),
                    t if is_integer(t) => numeric(0),
                    // Postgres has no round(float8, int); users mean the obvious thing, through numeric.
                    _ => numeric(crate::types::BARE_SCALE),
                };
                let value = self.convert(args[0].clone(), &ty, Conversion::Assignment)?;
                let places =
                    self.convert(args[1].clone(), &SqlType::Int4, Conversion::Assignment)?;
                let constant = match &places {
                    Expr::Literal(ScalarValue::Int32(Some(n)), _) => Some(*n),
                    _ => None,
                };
                let native = arithmetic::rounding_function(name, &[ty, SqlType::Int4], constant)
                    .ok_or_else(|| self.missing(name, args))?;
                Ok(Some(native.call(vec![value, places])))
            }
            ("mod", 2) => Ok(Some(self.operator_typed("%", args)?)),
            ("div", 2) => {
                let quotient = self.operator_typed("/", args)?;
                let ty = unify(&[args[0].1.clone(), args[1].1.clone()]).unwrap_or(SqlType::Int8);
                if is_integer(&ty) {
                    return Ok(Some(quotient));
                }
                self.numeric_function("trunc", &[(quotient, numeric(crate::types::BARE_SCALE))])
            }
            ("sqrt" | "ln" | "log" | "log10" | "exp", 1) | ("power" | "pow", 2) => {
                let native = arithmetic::float_function(name, args.len())
                    .ok_or_else(|| self.missing(name, args))?;
                let exprs = args
                    .iter()
                    .map(|a| self.number(a.clone(), name, args))
                    .collect::<Result<_>>()?;
                Ok(Some(native.call(exprs)))
            }
            _ => Ok(None),
        }
    }

    fn number(&self, operand: Typed, name: &str, args: &[Typed]) -> Result<Expr> {
        if !convertible(&operand.1, &SqlType::Float8, Conversion::Implicit) {
            return Err(self.missing(name, args));
        }
        self.implicit(operand, &SqlType::Float8)
    }

    fn operator_typed(&self, symbol: &str, args: &[Typed]) -> Result<Expr> {
        self.arithmetic_typed(symbol, args[0].clone(), args[1].clone())
    }

    fn temporal_function(&self, name: &str, args: &[Typed]) -> Result<Option<Expr>> {
        use SqlType as T;
        let zone = self.time_zone.as_str();
        let moment = |ty: &T| match ty {
            T::Timestamptz => T::Timestamptz,
            T::Unknown if name != "date_trunc" => T::Timestamp,
            T::Unknown => T::Timestamptz,
            _ => T::Timestamp,
        };
        let is_moment = |ty: &T| matches!(ty, T::Timestamptz | T::Timestamp | T::Date | T::Unknown);
        Ok(Some(match (name, args) {
            ("date_trunc", [field, value, rest @ ..]) if is_moment(&value.1) && rest.len() < 2 => {
                // A date becomes timestamptz in Postgres; a plain timestamp is what people expect and compare with.
                let ty = if rest.is_empty() {
                    moment(&value.1)
                } else {
                    T::Timestamptz
                };
                let mut exprs = vec![
                    self.implicit(field.clone(), &T::Text)?,
                    self.implicit(value.clone(), &ty)?,
                ];
                exprs.extend(
                    rest.iter()
                        .map(|z| self.implicit(z.clone(), &T::Text))
                        .collect::<Result<Vec<_>>>()?,
                );
                temporal::date_trunc(&ty, zone, !rest.is_empty()).call(exprs)
            }
            ("extract" | "date_part", [field, value]) => {
                let ty = match &value.1 {
                    T::Unknown => T::Timestamp,
                    T::Date | T::Timestamp | T::Timestamptz | T::Interval | T::Time => {
                        value.1.clone()
                    }
                    _ => return Err(self.missing(name, args)),
                };
                let field = self.implicit(field.clone(), &T::Text)?;
                let constant = match &field {
                    Expr::Literal(ScalarValue::Utf8View(Some(f)), _) => Some(f.to_lowercase()),
                    _ => None,
                };
                let native = temporal::extract(&ty, zone, constant.as_deref(), name == "extract");
                native.call(vec![field, self.implicit(value.clone(), &ty)?])
            }
            ("date_bin", [stride, value, origin]) if is_moment(&value.1) => {
                let ty = moment(&value.1);
                let exprs = vec![
                    self.implicit(stride.clone(), &T::Interval)?,
                    self.implicit(value.clone(), &ty)?,
                    self.implicit(origin.clone(), &ty)?,
                ];
                temporal::date_bin(&ty).call(exprs)
            }
            ("hop_starts", [value, slide, size]) if is_moment(&value.1) => {
                let ty = moment(&value.1);
                let exprs = vec![
                    self.implicit(value.clone(), &ty)?,
                    self.implicit(slide.clone(), &T::Interval)?,
                    self.implicit(size.clone(), &T::Interval)?,
                ];
                series::hop_starts(&ty).call(exprs)
            }
            ("timezone", [zone_name, value]) if is_moment(&value.1) => {
                let ty = if matches!(value.1, T::Timestamptz | T::Date) {
                    T::Timestamptz
                } else {
                    T::Timestamp
                };
                temporal::at_time_zone(&ty).call(vec![
                    self.implicit(zone_name.clone(), &T::Text)?,
                    self.implicit(value.clone(), &ty)?,
                ])
            }
            ("generate_series", [a, b, step @ ..]) if step.len() < 2 => {
                self.series(a, b, step.first())?
            }
            _ => return self.calendar_function(name, args),
        }))
    }

    /// Ages, dates made from parts, and dates read and written by patterns.
    fn calendar_function(&self, name: &str, args: &[Typed]) -> Result<Option<Expr>> {
        use SqlType as T;
        let zone = self.time_zone.as_str();
        Ok(Some(match (name, args) {
            ("age", [a, b]) => temporal::age().call(vec![
                self.convert(a.clone(), &T::Timestamp, Conversion::Assignment)?,
                self.convert(b.clone(), &T::Timestamp, Conversion::Assignment)?,
            ]),
            ("age", [b]) => {
                let today = now::function("current_date", zone)
                    .ok_or_else(|| self.missing(name, args))?
                    .call(vec![]);
                temporal::age().call(vec![
                    self.implicit((today, T::Date), &T::Timestamp)?,
                    self.convert(b.clone(), &T::Timestamp, Conversion::Assignment)?,
                ])
            }
            ("make_date", [_, _, _]) => {
                let exprs = args
                    .iter()
                    .map(|a| self.implicit(a.clone(), &T::Int4))
                    .collect::<Result<_>>()?;
                temporal::make_date().call(exprs)
            }
            ("make_time", [_, _, _]) | ("make_timestamp", [_, _, _, _, _, _]) => {
                let native = justify::made(name == "make_time");
                let exprs = args.iter().zip(&native.types);
                let exprs = exprs
                    .map(|(arg, ty)| self.implicit(arg.clone(), ty))
                    .collect::<Result<_>>()?;
                native.call(exprs)
            }
            ("justify_hours" | "justify_days" | "justify_interval", [span]) => {
                justify::justified(name).call(vec![self.implicit(span.clone(), &T::Interval)?])
            }
            ("to_timestamp", [value])
                if numeric_rank(&value.1).is_some() || value.1 == T::Unknown =>
            {
                temporal::from_epoch().call(vec![self.implicit(value.clone(), &T::Float8)?])
            }
            ("to_timestamp" | "to_date", [value, pattern]) => {
                let ret = if name == "to_date" {
                    T::Date
                } else {
                    T::Timestamptz
                };
                format::from_pattern(ret, zone).call(vec![
                    self.implicit(value.clone(), &T::Text)?,
                    self.implicit(pattern.clone(), &T::Text)?,
                ])
            }
            ("to_char", [value, pattern]) => {
                let ty = match &value.1 {
                    T::Date => T::Timestamp,
                    T::Timestamp | T::Timestamptz | T::Interval | T::Numeric { .. } => {
                        value.1.clone()
                    }
                    t if is_integer(t) => numeric(0),
                    T::Float4 | T::Float8 => numeric(crate::types::BARE_SCALE),
                    _ => return Err(self.missing(name, args)),
                };
                let value = self.convert(value.clone(), &ty, Conversion::Assignment)?;
                format::to_char(&ty, zone)
                    .call(vec![value, self.implicit(pattern.clone(), &T::Text)?])
            }
            _ => return Ok(None),
        }))
    }

    fn series(&self, a: &Typed, b: &Typed, step: Option<&Typed>) -> Result<Expr> {
        use SqlType as T;
        let ty = unify(&[a.1.clone(), b.1.clone()])
            .map_err(|_| self.missing("generate_series", &[a.clone(), b.clone()]))?;
        let ty = match ty {
            T::Date => T::Timestamp,
            T::Int2 => T::Int4,
            T::Text => T::Timestamptz,
            T::Int4 if step.is_some_and(|s| s.1 == T::Int8) => T::Int8,
            other => other,
        };
        let step = match step {
            Some(step) => step.clone(),
            None if is_integer(&ty) => (super::literal::number("1")?, T::Int4),
            None => return Err(self.missing("generate_series", &[a.clone(), b.clone()])),
        };
        let (native, step_type) = match &ty {
            T::Int4 | T::Int8 => (series::integer_series(&ty), ty.clone()),
            T::Timestamp | T::Timestamptz => {
                (series::timestamp_series(&ty, &self.time_zone), T::Interval)
            }
            _ => {
                return Err(raise(
                    "0A000",
                    format!("generate_series over {ty} is not supported"),
                ));
            }
        };
        Ok(native.call(vec![
            self.implicit(a.clone(), &ty)?,
            self.implicit(b.clone(), &ty)?,
            self.implicit(step, &step_type)?,
        ]))
    }

    fn text_function(&self, name: &str, args: &[Typed]) -> Result<Option<Expr>> {
        use SqlType as T;
        let texty = |a: &Typed| is_text(&a.1) || a.1 == T::Unknown;
        let bytes = |a: &Typed| a.1 == T::Bytea && ON_BYTES.contains(&name);
        if ON_TEXT.contains(&name) && args.first().is_some_and(|a| !texty(a) && !bytes(a)) {
            return Err(self.missing(name, args));
        }
        Ok(Some(match (name, args) {
            ("length" | "char_length" | "character_length", [a]) if texty(a) => {
                text::length().call(vec![self.implicit(a.clone(), &T::Text)?])
            }
            ("substring" | "substr", [a, from, rest @ ..])
                if texty(a) && is_integer(&from.1) && rest.len() < 2 =>
            {
                let mut exprs = vec![
                    self.implicit(a.clone(), &T::Text)?,
                    self.convert(from.clone(), &T::Int4, Conversion::Assignment)?,
                ];
                for length in rest {
                    exprs.push(self.convert(length.clone(), &T::Int4, Conversion::Assignment)?);
                }
                text::substring(!rest.is_empty()).call(exprs)
            }
            ("concat", _) | ("concat_ws", [_, ..]) => {
                let exprs = args
                    .iter()
                    .map(|a| match a.1 {
                        T::Bool => Ok(text::bool_out().call(vec![a.0.clone()])),
                        _ => self.as_text(a.clone()),
                    })
                    .collect::<Result<Vec<_>>>()?;
                text::concat(exprs.len(), name == "concat_ws").call(exprs)
            }
            ("convert_from" | "convert_to", [value, name_of]) => {
                let (native, from) = if name == "convert_from" {
                    (encoding::convert_from(), T::Bytea)
                } else {
                    (encoding::convert_to(), T::Text)
                };
                native.call(vec![
                    self.implicit(value.clone(), &from)?,
                    self.implicit(name_of.clone(), &T::Text)?,
                ])
            }
            ("position", [a, b]) => return self.text_function("strpos", &[b.clone(), a.clone()]),
            _ => return Ok(None),
        }))
    }

    fn json_function(&self, name: &str, args: &[Typed]) -> Result<Option<Expr>> {
        let whole = matches!(
            name,
            "to_json"
                | "to_jsonb"
                | "row_to_json"
                | "array_to_json"
                | "json_array_of"
                | "json_object_of"
                | "jsonb_object_of"
        );
        let build = name.starts_with("json") && name.contains("_build_");
        let reads = name.starts_with("json");
        if !whole && !build && !reads {
            return Ok(None);
        }
        let mut exprs = Vec::with_capacity(args.len());
        let mut types = Vec::with_capacity(args.len());
        for (expr, ty) in args {
            let to = match ty {
                SqlType::Unknown if whole || build => SqlType::Text,
                SqlType::Unknown => {
                    if name.starts_with("jsonb") {
                        SqlType::Jsonb
                    } else {
                        SqlType::Json
                    }
                }
                SqlType::Json | SqlType::Jsonb => ty.clone(),
                _ if whole || build => ty.clone(),
                _ => return Err(self.missing(name, args)),
            };
            exprs.push(self.implicit((expr.clone(), ty.clone()), &to)?);
            types.push(to);
        }
        Ok(json::function(name, &types, &self.time_zone).map(|native| native.call(exprs)))
    }

    fn array_function(&self, name: &str, args: &[Typed]) -> Result<Option<Expr>> {
        Ok(Some(match (name, args) {
            ("cardinality", [(expr, ty @ SqlType::Array(_))]) => {
                collection::length(ty, false).call(vec![expr.clone()])
            }
            ("array_or_empty", [(expr, ty @ SqlType::Array(_))]) => {
                collection::or_empty(ty).call(vec![expr.clone()])
            }
            ("mode", [(expr, SqlType::Array(element))]) => {
                ordered_set::mode(element).call(vec![expr.clone()])
            }
            ("percentile_disc", [(expr, SqlType::Array(element)), fraction]) => {
                ordered_set::percentile_disc(element).call(vec![
                    expr.clone(),
                    self.implicit(fraction.clone(), &SqlType::Float8)?,
                ])
            }
            ("array_length" | "array_upper", [(expr, ty @ SqlType::Array(_)), dimension]) => {
                collection::length(ty, true).call(vec![
                    expr.clone(),
                    self.implicit(dimension.clone(), &SqlType::Int4)?,
                ])
            }
            ("array_append" | "array_cat", [list, item]) => {
                collection::concat(self, list.clone(), item.clone())?
            }
            ("array_prepend", [item, list]) => {
                collection::concat(self, item.clone(), list.clone())?
            }
            ("generate_subscripts", [(expr, ty @ SqlType::Array(_)), dimension]) => {
                let length = collection::length(ty, true).call(vec![
                    expr.clone(),
                    self.implicit(dimension.clone(), &SqlType::Int4)?,
                ]);
                self.series(
                    &(super::literal::number("1")?, SqlType::Int4),
                    &(length, SqlType::Int4),
                    None,
                )?
            }
            ("string_to_table", _) => return Ok(None),
            _ => return Ok(None),
        }))
    }

    /// A function of DataFusion's or the server's.
    fn registered(&self, name: &str, args: Vec<Typed>, schema: &DFSchema) -> Result<Expr> {
        let lookup = match name {
            "string_to_table" => "string_to_array",
            "gen_random_uuid" => "uuid",
            // DataFusion's functions of these names change the first match only.
            "array_remove" => "array_remove_all",
            "array_replace" => "array_replace_all",
            other => other,
        };
        let Some(udf) = self
            .system
            .get(lookup)
            .or_else(|| self.registry.scalar(lookup))
        else {
            return Err(self.missing(name, &args));
        };
        let as_text = args
            .iter()
            .map(|a| {
                if a.1 == SqlType::Unknown {
                    self.implicit(a.clone(), &SqlType::Text)
                } else {
                    Ok(a.0.clone())
                }
            })
            .collect::<Result<Vec<_>>>()?;
        let mut call = Expr::ScalarFunction(ScalarFunction::new_udf(Arc::clone(udf), as_text));
        let mut found = call.to_field(schema);
        if found.is_err() {
            // Untyped literals once more as DataFusion itself coerces them.
            let raw = args.iter().map(|a| a.0.clone()).collect();
            call = Expr::ScalarFunction(ScalarFunction::new_udf(Arc::clone(udf), raw));
            found = call.to_field(schema);
        }
        let field = match found {
            Ok((_, field)) => field,
            // A number function on numeric: once more in double precision.
            Err(_) => match self.in_floats(udf, &args, schema)? {
                Some(expr) => return Ok(expr),
                None => return Err(self.missing(name, &args)),
            },
        };
        let ty = if lookup == "uuid" {
            SqlType::Uuid
        } else {
            field_type(&field)
        };
        if lookup == "uuid" {
            let text = Expr::Cast(Cast::new(Box::new(call), SqlType::Text.arrow()));
            return self.convert((text, SqlType::Text), &SqlType::Uuid, Conversion::Explicit);
        }
        if same_layout(field.data_type(), &ty.arrow()) {
            return Ok(call);
        }
        let held = Arc::new(ty.field(&call.schema_name().to_string(), true));
        Ok(Expr::Cast(Cast::new_from_field(Box::new(call), held)))
    }

    fn in_floats(
        &self,
        udf: &Arc<datafusion::logical_expr::ScalarUDF>,
        args: &[Typed],
        schema: &DFSchema,
    ) -> Result<Option<Expr>> {
        if !args.iter().any(|a| matches!(a.1, SqlType::Numeric { .. })) {
            return Ok(None);
        }
        let mut exprs = Vec::with_capacity(args.len());
        for (expr, ty) in args {
            exprs.push(match ty {
                SqlType::Numeric { .. } => {
                    self.implicit((expr.clone(), ty.clone()), &SqlType::Float8)?
                }
                _ => expr.clone(),
            });
        }
        let call = Expr::ScalarFunction(ScalarFunction::new_udf(Arc::clone(udf), exprs));
        Ok(call.to_field(schema).is_ok().then_some(call))
    }
}
