//! Gives every node and operator its types: DataFusion's planner calls this for each binary operator.
//!
//! Invariant: what comes out is fully typed: unknown literals are resolved, operands converted, results in their own Arrow type.

use std::sync::{Arc, Mutex, PoisonError};

use datafusion::arrow::datatypes::{DataType, Field};
use datafusion::common::metadata::FieldMetadata;
use datafusion::common::{Column, DFSchema, Result, ScalarValue, TableReference};
use datafusion::logical_expr::expr::{
    Alias, BinaryExpr, Case, Cast, InList, Placeholder, ScalarFunction, WindowFunction,
    WindowFunctionParams,
};
use datafusion::logical_expr::planner::{
    ExprPlanner, PlannerResult, RawAggregateExpr, RawBinaryExpr, RawWindowExpr,
};
use datafusion::logical_expr::{Expr, ExprSchemable, Operator, WindowFunctionDefinition};
use thalweg_catalog::SqlType;

use super::literal;
use super::node::{Node, Nodes, PACK};
use crate::error::raise;
use crate::functions::cast::{cast_function, cast_scalar};
use crate::functions::native::Native;
use crate::functions::{arithmetic, collection, decimal};
use crate::registry::Registry;
use crate::types::{
    Conversion, base, convertible, field_type, is_text, is_unknown, numeric, type_of, unify,
};

/// Parameter types, declared or inferred so far.
#[derive(Debug, Default)]
pub(crate) struct Parameters(Mutex<Vec<Option<SqlType>>>);

impl Parameters {
    pub(crate) fn new(declared: &[Option<SqlType>]) -> Parameters {
        Parameters(Mutex::new(declared.to_vec()))
    }

    pub(crate) fn get(&self, n: usize) -> Option<SqlType> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(n - 1)
            .cloned()
            .flatten()
    }

    /// Notes that `$n` exists, and its type when its context tells.
    pub(crate) fn note(&self, n: usize, ty: Option<SqlType>) {
        let mut types = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if types.len() < n {
            types.resize(n, None);
        }
        if types[n - 1].is_none() {
            types[n - 1] = ty;
        }
    }

    pub(crate) fn all(&self) -> Vec<Option<SqlType>> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

/// The binder of one statement.
#[derive(Debug)]
pub(crate) struct Binder {
    pub(crate) nodes: Arc<Nodes>,
    pub(crate) registry: Arc<Registry>,
    pub(crate) parameters: Arc<Parameters>,
    pub(crate) time_zone: String,
    pub(crate) user: String,
    /// The statement's own functions.
    pub(crate) system:
        Arc<std::collections::HashMap<String, Arc<datafusion::logical_expr::ScalarUDF>>>,
}

/// Operands with their types.
pub(crate) type Typed = (Expr, SqlType);

impl ExprPlanner for Binder {
    fn plan_binary_op(
        &self,
        expr: RawBinaryExpr,
        schema: &DFSchema,
    ) -> Result<PlannerResult<RawBinaryExpr>> {
        let bound = match self.nodes.find(&expr.op) {
            Some(node) => self.node(node, unpack(expr.left), schema)?,
            None => self.operator(&expr.op.to_string(), expr.left, expr.right, schema)?,
        };
        Ok(PlannerResult::Planned(bound))
    }

    fn plan_compound_identifier(
        &self,
        field: &Field,
        qualifier: Option<&TableReference>,
        nested: &[String],
    ) -> Result<PlannerResult<Vec<Expr>>> {
        let mut ty = field_type(field);
        let mut expr = Expr::Column(Column::new(qualifier.cloned(), field.name().clone()));
        for name in nested {
            (expr, ty) = collection::field(expr, &ty, name)?;
        }
        Ok(PlannerResult::Planned(expr))
    }

    fn plan_window(&self, raw: RawWindowExpr) -> Result<PlannerResult<RawWindowExpr>> {
        let name = raw.func_def.name().to_owned();
        let unsigned = matches!(
            name.as_str(),
            "row_number" | "rank" | "dense_rank" | "ntile"
        );
        let window = Expr::WindowFunction(Box::new(WindowFunction {
            fun: match raw.func_def {
                WindowFunctionDefinition::AggregateUDF(f) => {
                    WindowFunctionDefinition::AggregateUDF(f)
                }
                WindowFunctionDefinition::WindowUDF(f) => WindowFunctionDefinition::WindowUDF(f),
            },
            params: WindowFunctionParams {
                args: raw.args.into_iter().map(as_text).collect(),
                partition_by: raw.partition_by,
                order_by: raw.order_by,
                window_frame: raw.window_frame,
                filter: raw.filter,
                null_treatment: raw.null_treatment,
                distinct: raw.distinct,
            },
        }));
        Ok(PlannerResult::Planned(held_as(window, &name, unsigned)))
    }

    fn plan_aggregate(&self, raw: RawAggregateExpr) -> Result<PlannerResult<RawAggregateExpr>> {
        let name = raw.func.name().to_owned();
        let literals = name.starts_with("percentile") || name.starts_with("approx_percentile");
        let args = if literals {
            raw.args
        } else {
            raw.args.into_iter().map(as_text).collect()
        };
        // count(*) counts rows; the star itself is no expression that can run.
        #[expect(deprecated)]
        let star = args.is_empty() || matches!(args.as_slice(), [Expr::Wildcard { .. }]);
        let args = if name == "count" && star {
            vec![Expr::Literal(
                datafusion::common::utils::expr::COUNT_STAR_EXPANSION,
                None,
            )]
        } else {
            args
        };
        let call =
            Expr::AggregateFunction(datafusion::logical_expr::expr::AggregateFunction::new_udf(
                raw.func,
                args,
                raw.distinct,
                raw.filter,
                raw.order_by,
                raw.null_treatment,
            ));
        let unsigned = name == "approx_distinct" || name == "regr_count";
        Ok(PlannerResult::Planned(held_as(call, &name, unsigned)))
    }
}

/// An untyped string argument of an aggregate is text.
fn as_text(expr: Expr) -> Expr {
    match expr {
        Expr::Literal(ScalarValue::Utf8(s), None) => Expr::Literal(ScalarValue::Utf8View(s), None),
        // count(*) counts rows: any value that is never NULL stands for one.
        #[expect(
            deprecated,
            reason = "DataFusion's own planner still gives the star of count(*) this way"
        )]
        Expr::Wildcard { .. } => Expr::Literal(ScalarValue::Int64(Some(1)), None),
        other => other,
    }
}

/// Brings results that DataFusion holds in another Arrow type into ours.
fn held_as(expr: Expr, name: &str, unsigned: bool) -> Expr {
    if unsigned {
        Expr::Cast(Cast::new(Box::new(expr), DataType::Int64))
    } else if name == "string_agg" {
        Expr::Cast(Cast::new(Box::new(expr), DataType::Utf8View))
    } else {
        expr
    }
}

fn unpack(expr: Expr) -> Vec<Expr> {
    match expr {
        Expr::ScalarFunction(ScalarFunction { func, args }) if func.name() == PACK => args,
        _ => Vec::new(),
    }
}

/// Remembers a SQL type that Arrow alone cannot tell.
pub(crate) fn tagged(expr: Expr, ty: &SqlType) -> Expr {
    let metadata = ty.metadata();
    if metadata.is_empty() {
        return expr;
    }
    let name = expr.schema_name().to_string();
    Expr::Alias(Alias {
        expr: Box::new(expr),
        relation: None,
        name,
        metadata: Some(FieldMetadata::from(
            metadata
                .into_iter()
                .collect::<std::collections::BTreeMap<_, _>>(),
        )),
    })
}

pub(crate) fn binary(left: Expr, op: Operator, right: Expr) -> Expr {
    Expr::BinaryExpr(BinaryExpr::new(Box::new(left), op, Box::new(right)))
}

pub(crate) fn no_operator(
    symbol: &str,
    left: &SqlType,
    right: &SqlType,
) -> datafusion::common::DataFusionError {
    crate::error::PlanError::hint(
        "42883",
        format!("operator does not exist: {} {symbol} {}", base(left), base(right)),
        "No operator matches the given name and argument types. You might need to add explicit type casts.",
    )
    .into()
}

impl Binder {
    pub(crate) fn typed(&self, expr: Expr, schema: &DFSchema) -> Result<Typed> {
        let ty = type_of(&expr, schema)?;
        if ty == SqlType::Unknown {
            return Ok((expr, ty));
        }
        // Whatever DataFusion holds in another Arrow type comes into ours here, once.
        let held = expr.get_type(schema)?;
        let wanted = ty.arrow();
        if same_layout(&held, &wanted) {
            return Ok((expr, ty));
        }
        let field = Arc::new(ty.field(&expr.schema_name().to_string(), true));
        Ok((Expr::Cast(Cast::new_from_field(Box::new(expr), field)), ty))
    }

    /// Converts `expr` to `to`, as the situation allows; the caller has checked that it may.
    pub(crate) fn convert(
        &self,
        (expr, from): Typed,
        to: &SqlType,
        by: Conversion,
    ) -> Result<Expr> {
        if from == SqlType::Unknown {
            return self.resolve(expr, to, by);
        }
        if &from == to
            || (by == Conversion::Implicit && is_text(&from) && matches!(to, SqlType::Text))
        {
            return Ok(expr);
        }
        let assignment = by == Conversion::Assignment;
        if let Expr::Literal(value, _) = &expr {
            return Ok(literal::typed(
                cast_scalar(value, &from, to, &self.time_zone, assignment)?,
                to,
            ));
        }
        Ok(cast_function(&from, to, &self.time_zone, assignment).call(vec![expr]))
    }

    fn resolve(&self, expr: Expr, to: &SqlType, by: Conversion) -> Result<Expr> {
        match expr {
            Expr::Alias(alias) => self.resolve(*alias.expr, to, by),
            Expr::Literal(value, _) => {
                literal::resolve(&value, to, &self.time_zone, by == Conversion::Assignment)
            }
            Expr::Placeholder(p) => {
                let n: usize = p.id.trim_start_matches('$').parse().unwrap_or(1);
                // A parameter has no typmod; the conversion to one follows.
                let bare = match to {
                    SqlType::Varchar(_) | SqlType::Char(_) => SqlType::Text,
                    SqlType::Numeric { .. } => numeric(crate::types::BARE_SCALE),
                    other => other.clone(),
                };
                self.parameters.note(n, Some(bare.clone()));
                let known = self.parameters.get(n).unwrap_or(bare);
                self.convert((placeholder(n, &known), known), to, by)
            }
            other => Ok(other),
        }
    }

    /// The implicit conversion, or 42804 naming the situation.
    pub(crate) fn implicit(&self, operand: Typed, to: &SqlType) -> Result<Expr> {
        self.convert(operand, to, Conversion::Implicit)
    }

    fn explicit(&self, operand: Typed, to: &SqlType) -> Result<Expr> {
        let from = &operand.1;
        if !convertible(from, to, Conversion::Explicit) {
            return Err(raise("42846", format!("cannot cast type {from} to {to}")));
        }
        if let SqlType::Reg(name) = to
            && (is_text(from) || *from == SqlType::Unknown)
            && let Some(lookup) = self.registry.scalar(&format!("to_{name}"))
        {
            let digits = |e: &Expr| matches!(e, Expr::Literal(v, _) if v.to_string().bytes().all(|b| b.is_ascii_digit()));
            if !digits(&operand.0) {
                let text = self.implicit(operand, &SqlType::Text)?;
                let call =
                    Expr::ScalarFunction(ScalarFunction::new_udf(Arc::clone(lookup), vec![text]));
                return Ok(tagged(
                    Expr::Cast(Cast::new(Box::new(call), DataType::UInt32)),
                    to,
                ));
            }
        }
        if let SqlType::Reg(name) = from
            && is_text(to)
            && let Some(print) = self.registry.scalar(&format!("{name}_text"))
        {
            return Ok(Expr::ScalarFunction(ScalarFunction::new_udf(
                Arc::clone(print),
                vec![operand.0],
            )));
        }
        self.convert(operand, to, Conversion::Explicit)
    }

    /// Converts a value to a target column's type by the assignment rules.
    pub(crate) fn assign(&self, operand: Typed, to: &SqlType, column: &str) -> Result<Expr> {
        if !convertible(&operand.1, to, Conversion::Assignment) {
            let mut report = crate::error::report(
                "42804",
                format!(
                    "column \"{column}\" is of type {to} but expression is of type {}",
                    operand.1
                ),
            );
            report.hint = Some("You will need to rewrite or cast the expression.".to_owned());
            return Err(datafusion::common::DataFusionError::External(Box::new(
                report,
            )));
        }
        self.convert(operand, to, Conversion::Assignment)
    }

    /// Converts all operands to their common type.
    pub(crate) fn unified(&self, operands: Vec<Typed>, what: &str) -> Result<(Vec<Expr>, SqlType)> {
        let types: Vec<SqlType> = operands.iter().map(|o| o.1.clone()).collect();
        let ty = unify(&types).map_err(|(a, b)| {
            raise(
                "42804",
                format!("{what} types {a} and {b} cannot be matched"),
            )
        })?;
        let exprs = operands
            .into_iter()
            .map(|o| self.implicit(o, &ty))
            .collect::<Result<_>>()?;
        Ok((exprs, ty))
    }

    pub(crate) fn boolean(&self, operand: Typed, what: &str) -> Result<Expr> {
        if !matches!(operand.1, SqlType::Bool | SqlType::Unknown) {
            return Err(raise(
                "42804",
                format!(
                    "argument of {what} must be type boolean, not type {}",
                    operand.1
                ),
            ));
        }
        self.implicit(operand, &SqlType::Bool)
    }

    fn node(&self, node: Node, operands: Vec<Expr>, schema: &DFSchema) -> Result<Expr> {
        let mut operands = operands
            .into_iter()
            .map(|e| self.typed(e, schema))
            .collect::<Result<Vec<_>>>()?;
        let only = |operands: &mut Vec<Typed>| {
            operands
                .pop()
                .ok_or_else(|| raise("XX000", "an operand is missing"))
        };
        match node {
            Node::Number(text) => literal::number(&text),
            Node::Cast(ty) => {
                let operand = only(&mut operands)?;
                self.explicit(operand, &ty)
            }
            Node::Assign { ty, column } => {
                let operand = only(&mut operands)?;
                self.assign(operand, &ty, &column)
            }
            Node::Coerce(ty) => {
                let operand = only(&mut operands)?;
                self.convert(operand, &ty, Conversion::Explicit)
            }
            Node::Function(name) => self.function(&name, operands, schema),
            Node::Case { has_else } => self.case(operands, has_else),
            Node::In { negated } => self.in_list(operands, negated, schema),
            Node::Between { negated } => self.between(operands, negated),
            Node::Like {
                negated,
                insensitive,
                escape,
                similar,
            } => super::pattern::like(self, operands, negated, insensitive, escape, similar),
            Node::Condition(clause) => {
                let operand = only(&mut operands)?;
                self.boolean(operand, clause)
            }
            Node::Not => {
                let operand = only(&mut operands)?;
                Ok(Expr::Not(Box::new(self.boolean(operand, "NOT")?)))
            }
            Node::Unary(symbol) => {
                let operand = only(&mut operands)?;
                self.prefix(symbol, operand)
            }
            Node::Distinct { negated } => self.distinct(operands, negated),
            Node::Truth { value, negated } => {
                let operand = only(&mut operands)?;
                self.truth(operand, value, negated)
            }
            Node::Quantified { op, all } => self.quantified(&op, all, operands),
            Node::Array => {
                let (exprs, ty) = self.unified(operands, "ARRAY")?;
                Ok(collection::make_array(&ty, exprs.len()).call(exprs))
            }
            Node::Index => collection::index(self, operands),
            Node::Slice => collection::slice(self, operands),
            Node::Field(name) => {
                let (expr, ty) = only(&mut operands)?;
                Ok(collection::field(expr, &ty, &name)?.0)
            }
            Node::Interval { text, unit } => {
                let unit = unit.map(|u| u.split_whitespace().next().unwrap_or("second").to_owned());
                let value =
                    crate::functions::temporal_text::parse_interval(&text, unit.as_deref())?;
                Ok(Expr::Literal(
                    ScalarValue::IntervalMonthDayNano(Some(value)),
                    None,
                ))
            }
            Node::Parameter(n) => {
                self.parameters.note(n, None);
                Ok(match self.parameters.get(n) {
                    Some(ty) => placeholder(n, &ty),
                    None => Expr::Placeholder(Placeholder::new_with_field(format!("${n}"), None)),
                })
            }
        }
    }

    fn truth(&self, operand: Typed, value: Option<bool>, negated: bool) -> Result<Expr> {
        let operand = Box::new(self.boolean(operand, "IS")?);
        Ok(match (value, negated) {
            (Some(true), false) => Expr::IsTrue(operand),
            (Some(true), true) => Expr::IsNotTrue(operand),
            (Some(false), false) => Expr::IsFalse(operand),
            (Some(false), true) => Expr::IsNotFalse(operand),
            (None, false) => Expr::IsUnknown(operand),
            (None, true) => Expr::IsNotUnknown(operand),
        })
    }

    fn between(&self, operands: Vec<Typed>, negated: bool) -> Result<Expr> {
        let [x, low, high] = <[Typed; 3]>::try_from(operands)
            .map_err(|_| raise("XX000", "BETWEEN takes three operands"))?;
        let below = self.compare(if negated { "<" } else { ">=" }, x.clone(), low)?;
        let above = self.compare(if negated { ">" } else { "<=" }, x, high)?;
        let op = if negated { Operator::Or } else { Operator::And };
        Ok(binary(below, op, above))
    }

    fn distinct(&self, operands: Vec<Typed>, negated: bool) -> Result<Expr> {
        let (op, symbol) = if negated {
            (Operator::IsNotDistinctFrom, "IS NOT DISTINCT FROM")
        } else {
            (Operator::IsDistinctFrom, "IS DISTINCT FROM")
        };
        let [a, b] = <[Typed; 2]>::try_from(operands)
            .map_err(|_| raise("XX000", "IS DISTINCT FROM takes two operands"))?;
        let (a, b) = self.comparable(symbol, a, b)?;
        Ok(binary(a, op, b))
    }

    fn case(&self, operands: Vec<Typed>, has_else: bool) -> Result<Expr> {
        let mut operands = operands;
        let otherwise = if has_else { operands.pop() } else { None };
        let (mut conditions, mut results) = (Vec::new(), Vec::new());
        let mut rest = operands.into_iter();
        while let (Some(condition), Some(result)) = (rest.next(), rest.next()) {
            conditions.push(self.boolean(condition, "CASE/WHEN")?);
            results.push(result);
        }
        results.extend(otherwise);
        let (mut exprs, ty) = self.unified(results, "CASE")?;
        let otherwise = if has_else {
            exprs.pop().map(Box::new)
        } else {
            None
        };
        let whens = conditions
            .into_iter()
            .map(Box::new)
            .zip(exprs.into_iter().map(Box::new))
            .collect();
        if ty == SqlType::Bool {
            return Ok(crate::rewrite::lazy::conditional(whens, otherwise));
        }
        Ok(tagged(Expr::Case(Case::new(None, whens, otherwise)), &ty))
    }

    fn in_list(&self, mut operands: Vec<Typed>, negated: bool, _schema: &DFSchema) -> Result<Expr> {
        let first = operands.remove(0);
        let mut known: Vec<SqlType> = vec![first.1.clone()];
        known.extend(operands.iter().map(|o| o.1.clone()));
        let ty = unify(&known).map_err(|(a, b)| no_operator("=", &a, &b))?;
        let ty = self.literal_type(&ty, operands.iter());
        if matches!(ty, SqlType::Interval) {
            let mut out: Option<Expr> = None;
            for item in operands {
                let test = self.compare(if negated { "<>" } else { "=" }, first.clone(), item)?;
                out = Some(match out {
                    Some(before) => binary(
                        before,
                        if negated { Operator::And } else { Operator::Or },
                        test,
                    ),
                    None => test,
                });
            }
            return out.ok_or_else(|| raise("42601", "IN needs at least one value"));
        }
        let subject = self.implicit(first, &ty)?;
        let list = operands
            .into_iter()
            .map(|o| self.implicit(o, &ty))
            .collect::<Result<Vec<_>>>()?;
        Ok(Expr::InList(InList::new(Box::new(subject), list, negated)))
    }

    /// Numeric wide enough for the untyped numbers that are compared with it.
    fn literal_type<'t>(&self, ty: &SqlType, operands: impl Iterator<Item = &'t Typed>) -> SqlType {
        let SqlType::Numeric { .. } = ty else {
            return base(ty);
        };
        let mut scale = crate::types::scale_of(ty);
        for (expr, from) in operands {
            if let (SqlType::Unknown, Expr::Literal(ScalarValue::Utf8(Some(text)), None)) =
                (from, expr)
            {
                scale = scale.max(decimal::literal_scale(text));
            }
        }
        numeric(scale)
    }

    /// Two operands brought to one type that `=` and `<` work on.
    pub(crate) fn comparable(
        &self,
        symbol: &str,
        left: Typed,
        right: Typed,
    ) -> Result<(Expr, Expr)> {
        let ty = unify(&[left.1.clone(), right.1.clone()])
            .map_err(|_| no_operator(symbol, &left.1, &right.1))?;
        if matches!(ty, SqlType::Json) {
            return Err(no_operator(symbol, &left.1, &right.1));
        }
        let ty = self.literal_type(&ty, [&left, &right].into_iter());
        let (a, b) = (self.implicit(left, &ty)?, self.implicit(right, &ty)?);
        if matches!(ty, SqlType::Interval) {
            return Ok((
                collection::interval_order().call(vec![a]),
                collection::interval_order().call(vec![b]),
            ));
        }
        Ok((a, b))
    }

    /// `left symbol right` for the six comparisons.
    pub(crate) fn compare(&self, symbol: &str, left: Typed, right: Typed) -> Result<Expr> {
        let op = match symbol {
            "=" => Operator::Eq,
            "<>" | "!=" => Operator::NotEq,
            "<" => Operator::Lt,
            ">" => Operator::Gt,
            "<=" => Operator::LtEq,
            _ => Operator::GtEq,
        };
        let (a, b) = self.comparable(symbol, left, right)?;
        Ok(binary(a, op, b))
    }

    fn prefix(&self, symbol: &str, operand: Typed) -> Result<Expr> {
        let operand = if operand.1 == SqlType::Unknown {
            (self.implicit(operand, &SqlType::Float8)?, SqlType::Float8)
        } else {
            operand
        };
        let bad = |ty: &SqlType| raise("42883", format!("operator does not exist: {symbol} {ty}"));
        match symbol {
            "-" => Ok(arithmetic::negate(&operand.1)
                .ok_or_else(|| bad(&operand.1))?
                .call(vec![operand.0])),
            "~" => {
                let minus_one = literal::number("-1")?;
                let all = self.implicit((minus_one, SqlType::Int4), &operand.1)?;
                Ok(arithmetic::bit_operator("#", &operand.1, &operand.1)
                    .ok_or_else(|| bad(&operand.1))?
                    .call(vec![operand.0, all]))
            }
            _ if crate::types::numeric_rank(&operand.1).is_some() => Ok(operand.0),
            _ => Err(bad(&operand.1)),
        }
    }

    fn quantified(&self, op: &str, all: bool, operands: Vec<Typed>) -> Result<Expr> {
        let [left, right] = <[Typed; 2]>::try_from(operands)
            .map_err(|_| raise("XX000", "ANY takes two operands"))?;
        let word = if all { "ALL" } else { "ANY" };
        let element = match (&left.1, &right.1) {
            (SqlType::Unknown, SqlType::Unknown) => SqlType::Text,
            (known, SqlType::Unknown) => base(known),
            (SqlType::Unknown, SqlType::Array(item)) => base(item),
            (known, SqlType::Array(item)) => base(
                &unify(&[known.clone(), (**item).clone()])
                    .map_err(|_| no_operator(op, known, item))?,
            ),
            _ => {
                return Err(raise(
                    "42809",
                    format!("op {word} (array) requires array on right side"),
                ));
            }
        };
        let left = self.implicit(left, &element)?;
        let right = self.implicit(right, &SqlType::Array(Box::new(element.clone())))?;
        let native: Native = collection::quantified(op, all, &element)
            .ok_or_else(|| raise("0A000", format!("{op} {word} (array) is not supported")))?;
        Ok(native.call(vec![left, right]))
    }
}

/// `$n` of a known type.
pub(crate) fn placeholder(n: usize, ty: &SqlType) -> Expr {
    Expr::Placeholder(Placeholder::new_with_field(
        format!("${n}"),
        Some(Arc::new(ty.field(&format!("${n}"), true))),
    ))
}

/// Lists and structs may differ in the names and nullability of their children.
pub(crate) fn same_layout(a: &DataType, b: &DataType) -> bool {
    match (a, b) {
        (DataType::List(x), DataType::List(y)) => same_layout(x.data_type(), y.data_type()),
        (DataType::Struct(x), DataType::Struct(y)) => {
            x.len() == y.len()
                && x.iter()
                    .zip(y)
                    .all(|(p, q)| same_layout(p.data_type(), q.data_type()))
        }
        (a, b) => a == b,
    }
}

/// True when a select item is still an untyped literal or parameter.
pub(crate) fn untyped(expr: &Expr) -> bool {
    is_unknown(expr)
}
