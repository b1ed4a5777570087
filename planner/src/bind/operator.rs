//! Binary operators by the types of their operands.
//!
//! Invariant: an operator that Postgres does not have for these types is 42883; an untyped operand takes the other's type.

use datafusion::common::{DFSchema, Result};
use datafusion::logical_expr::{Expr, Operator};
use thalweg_catalog::SqlType;

use super::binder::{Binder, Typed, binary, no_operator};
use crate::error::raise;
use crate::functions::{arithmetic, collection, json, temporal, text};
use crate::types::{is_integer, is_text, numeric, numeric_rank, unify};

impl Binder {
    pub(crate) fn operator(
        &self,
        symbol: &str,
        left: Expr,
        right: Expr,
        schema: &DFSchema,
    ) -> Result<Expr> {
        let left = self.typed(left, schema)?;
        let right = self.typed(right, schema)?;
        match symbol {
            "=" | "<>" | "!=" | "<" | ">" | "<=" | ">=" => self.compare(symbol, left, right),
            "AND" | "OR" => {
                let op = if symbol == "AND" {
                    Operator::And
                } else {
                    Operator::Or
                };
                Ok(binary(
                    self.boolean(left, symbol)?,
                    op,
                    self.boolean(right, symbol)?,
                ))
            }
            "+" | "-" | "*" | "/" | "%" => self.arithmetic(symbol, left, right),
            "^" => {
                let (a, b) = (
                    self.implicit(left, &SqlType::Float8)?,
                    self.implicit(right, &SqlType::Float8)?,
                );
                Ok(arithmetic::float_function("^", 2)
                    .ok_or_else(|| raise("XX000", "no power function"))?
                    .call(vec![a, b]))
            }
            "&" | "|" | "#" | "<<" | ">>" => self.bits(symbol, left, right),
            "||" => self.concat(left, right),
            "~" | "~*" | "!~" | "!~*" => {
                let op = match symbol {
                    "~" => Operator::RegexMatch,
                    "~*" => Operator::RegexIMatch,
                    "!~" => Operator::RegexNotMatch,
                    _ => Operator::RegexNotIMatch,
                };
                super::pattern::check_regex(&right.0)?;
                Ok(binary(
                    self.text_operand(left, symbol)?,
                    op,
                    self.text_operand(right, symbol)?,
                ))
            }
            "~~" | "~~*" | "!~~" | "!~~*" => super::pattern::like(
                self,
                vec![left, right],
                symbol.starts_with('!'),
                symbol.ends_with('*'),
                None,
                false,
            ),
            "@>" | "<@" | "&&"
                if matches!(left.1, SqlType::Array(_)) || matches!(right.1, SqlType::Array(_)) =>
            {
                let (exprs, ty) = self.unified(vec![left, right], "array")?;
                let SqlType::Array(element) = &ty else {
                    return Err(no_operator(symbol, &ty, &ty));
                };
                Ok(collection::containment(symbol, element).call(exprs))
            }
            "->" | "->>" | "#>" | "#>>" | "@>" | "<@" | "?" | "?|" | "?&" => {
                self.json_operator(symbol, left, right)
            }
            _ => Err(no_operator(symbol, &left.1, &right.1)),
        }
    }

    fn text_operand(&self, operand: Typed, symbol: &str) -> Result<Expr> {
        if !is_text(&operand.1) && operand.1 != SqlType::Unknown {
            return Err(no_operator(symbol, &operand.1, &SqlType::Text));
        }
        self.implicit(operand, &SqlType::Text)
    }

    /// Arithmetic on operands whose types are already known.
    pub(crate) fn arithmetic_typed(&self, symbol: &str, left: Typed, right: Typed) -> Result<Expr> {
        self.arithmetic(symbol, left, right)
    }

    fn arithmetic(&self, symbol: &str, left: Typed, right: Typed) -> Result<Expr> {
        let (left, right) = self.settle(symbol, left, right)?;
        if numeric_rank(&left.1).is_some() && numeric_rank(&right.1).is_some() {
            let ty = unify(&[left.1.clone(), right.1.clone()])
                .map_err(|(a, b)| no_operator(symbol, &a, &b))?;
            // Numerics keep their own scales: the operator aligns them exactly.
            let side = |operand: &Typed| match (&ty, &operand.1) {
                (SqlType::Numeric { .. }, own @ SqlType::Numeric { .. }) => own.clone(),
                (SqlType::Numeric { .. }, _) => numeric(0),
                (other, _) => other.clone(),
            };
            let (lt, rt) = (side(&left), side(&right));
            let native = arithmetic::operator(symbol, &lt, &rt)
                .ok_or_else(|| no_operator(symbol, &left.1, &right.1))?;
            return Ok(native.call(vec![self.implicit(left, &lt)?, self.implicit(right, &rt)?]));
        }
        if let Some(native) = temporal::operator(symbol, &left.1, &right.1) {
            let zoned = native
                .types
                .iter()
                .any(|t| matches!(t, SqlType::Timestamptz));
            let native = if zoned {
                native.in_zone(&self.time_zone)
            } else {
                native
            };
            let (lt, rt) = (native.types[0].clone(), native.types[1].clone());
            return Ok(native.call(vec![self.implicit(left, &lt)?, self.implicit(right, &rt)?]));
        }
        if symbol == "-" && matches!(left.1, SqlType::Jsonb) {
            let right_type = if is_integer(&right.1) {
                SqlType::Int4
            } else {
                SqlType::Text
            };
            return Ok(json::delete_key(&right_type)
                .call(vec![left.0, self.implicit(right, &right_type)?]));
        }
        Err(no_operator(symbol, &left.1, &right.1))
    }

    /// Gives an untyped operand the type that the other one implies.
    fn settle(&self, symbol: &str, left: Typed, right: Typed) -> Result<(Typed, Typed)> {
        use SqlType as T;
        let implied = |known: &T| match (symbol, known) {
            ("+", T::Timestamp | T::Timestamptz | T::Time) => T::Interval,
            ("*" | "/", T::Interval) => T::Float8,
            ("+" | "-", T::Jsonb) => T::Text,
            (_, T::Numeric { .. }) => numeric(crate::types::BARE_SCALE),
            (_, other) => other.clone(),
        };
        match (&left.1, &right.1) {
            (T::Unknown, T::Unknown) => {
                let mut report = crate::error::report(
                    "42725",
                    format!("operator is not unique: unknown {symbol} unknown"),
                );
                report.hint = Some("Could not choose a best candidate operator. You might need to add explicit type casts.".to_owned());
                Err(datafusion::common::DataFusionError::External(Box::new(
                    report,
                )))
            }
            (T::Unknown, known) => {
                let ty = implied(known);
                Ok(((self.implicit(left, &ty)?, ty), right))
            }
            (known, T::Unknown) => {
                let ty = implied(known);
                Ok((left, (self.implicit(right, &ty)?, ty)))
            }
            _ => Ok((left, right)),
        }
    }

    fn bits(&self, symbol: &str, left: Typed, right: Typed) -> Result<Expr> {
        let (lt, rt) = (left.1.clone(), right.1.clone());
        let int = |t: &SqlType| is_integer(t) || *t == SqlType::Unknown;
        if !int(&lt) || !int(&rt) {
            return Err(no_operator(symbol, &lt, &rt));
        }
        let shift = matches!(symbol, "<<" | ">>");
        let (lt, rt) = if shift {
            (
                if lt == SqlType::Unknown {
                    SqlType::Int4
                } else {
                    lt
                },
                SqlType::Int4,
            )
        } else {
            let ty = unify(&[lt, rt]).unwrap_or(SqlType::Int8);
            let ty = if is_integer(&ty) { ty } else { SqlType::Int4 };
            (ty.clone(), ty)
        };
        let native = arithmetic::bit_operator(symbol, &lt, &rt)
            .ok_or_else(|| no_operator(symbol, &lt, &rt))?;
        Ok(native.call(vec![self.implicit(left, &lt)?, self.implicit(right, &rt)?]))
    }

    fn concat(&self, left: Typed, right: Typed) -> Result<Expr> {
        if matches!(left.1, SqlType::Array(_)) || matches!(right.1, SqlType::Array(_)) {
            return collection::concat(self, left, right);
        }
        if matches!(left.1, SqlType::Jsonb) || matches!(right.1, SqlType::Jsonb) {
            let (a, b) = (
                self.implicit(left, &SqlType::Jsonb)?,
                self.implicit(right, &SqlType::Jsonb)?,
            );
            return Ok(json::concat().call(vec![a, b]));
        }
        if matches!(left.1, SqlType::Bytea) || matches!(right.1, SqlType::Bytea) {
            let unknown = |t: &SqlType| matches!(t, SqlType::Bytea | SqlType::Unknown);
            if !unknown(&left.1) || !unknown(&right.1) {
                return Err(no_operator("||", &left.1, &right.1));
            }
            let (a, b) = (
                self.implicit(left, &SqlType::Bytea)?,
                self.implicit(right, &SqlType::Bytea)?,
            );
            return Ok(text::concat_bytes().call(vec![a, b]));
        }
        let texty = |t: &SqlType| is_text(t) || *t == SqlType::Unknown;
        if !texty(&left.1) && !texty(&right.1) {
            return Err(no_operator("||", &left.1, &right.1));
        }
        let (a, b) = (self.as_text(left)?, self.as_text(right)?);
        Ok(text::concat_operator().call(vec![a, b]))
    }

    /// Any value as text.
    pub(crate) fn as_text(&self, operand: Typed) -> Result<Expr> {
        if is_text(&operand.1) {
            return Ok(operand.0);
        }
        self.convert(operand, &SqlType::Text, crate::types::Conversion::Explicit)
    }

    fn json_operator(&self, symbol: &str, left: Typed, right: Typed) -> Result<Expr> {
        let ty = match &left.1 {
            SqlType::Json | SqlType::Jsonb => left.1.clone(),
            SqlType::Unknown => SqlType::Jsonb,
            _ => return Err(no_operator(symbol, &left.1, &right.1)),
        };
        let path = SqlType::Array(Box::new(SqlType::Text));
        let operand = match symbol {
            "->" | "->>" if is_integer(&right.1) => SqlType::Int4,
            "#>" | "#>>" | "?|" | "?&" => path,
            "@>" | "<@" => SqlType::Jsonb,
            _ => SqlType::Text,
        };
        if right.1 != SqlType::Unknown
            && !crate::types::convertible(&right.1, &operand, crate::types::Conversion::Implicit)
            && !is_integer(&operand)
        {
            return Err(no_operator(symbol, &left.1, &right.1));
        }
        let native = json::operator(symbol, &ty, &operand)
            .ok_or_else(|| no_operator(symbol, &ty, &operand))?;
        Ok(native.call(vec![
            self.implicit(left, &ty)?,
            self.convert(right, &operand, crate::types::Conversion::Assignment)?,
        ]))
    }
}
