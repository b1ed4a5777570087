//! sum and avg with Postgres' result types, exact and overflow-checked.
//!
//! Invariant: integers and decimals are summed in 128 bits and checked when the result is taken, so the order of rows
//! cannot change whether a sum overflows.

use std::collections::{HashMap, HashSet};
use std::mem::size_of;
use std::sync::Arc;

use datafusion::arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Decimal128Array, Float32Array, Float64Array,
    Int64Array, PrimitiveArray,
};
use datafusion::arrow::compute::cast;
use datafusion::arrow::datatypes::{
    DataType, Decimal128Type, Field, FieldRef, Float64Type, Int64Type,
};
use datafusion::common::{DataFusionError, Result, ScalarValue};
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::utils::AggregateOrderSensitivity;
use datafusion::logical_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, EmitTo, GroupsAccumulator, ReversedUDAF,
    Signature, Volatility,
};
use thalweg_catalog::SqlType;

use super::cast::out_of_range;
use super::decimal;
use super::of_argument::{Holds, OfArgument};
use crate::error::raise;
use crate::types::{BARE_SCALE, field_type, numeric, scale_of};

/// Our aggregates by name, given DataFusion's.
pub(crate) fn aggregates(
    stock: &HashMap<String, Arc<AggregateUDF>>,
) -> Vec<(String, Arc<AggregateUDF>)> {
    let mut out = vec![
        (
            "sum".to_owned(),
            Arc::new(AggregateUDF::from(Total::new(Measure::Sum))),
        ),
        (
            "avg".to_owned(),
            Arc::new(AggregateUDF::from(Total::new(Measure::Avg))),
        ),
        (
            "mean".to_owned(),
            Arc::new(AggregateUDF::from(Total::new(Measure::Avg))),
        ),
    ];
    for (name, holds) in [
        ("min", Holds::One),
        ("max", Holds::One),
        ("array_agg", Holds::All),
    ] {
        if let Some(inner) = stock.get(name) {
            let inner = Arc::clone(inner);
            let own = AggregateUDF::from(OfArgument { inner, holds });
            out.push((name.to_owned(), Arc::new(own)));
        }
    }
    if let Some(every) = stock.get("bool_and") {
        out.push(("every".to_owned(), Arc::clone(every)));
    }
    out
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Measure {
    Sum,
    Avg,
}

#[derive(Debug, PartialEq, Eq, Hash)]
pub(super) struct Total {
    measure: Measure,
    signature: Signature,
}

/// How a total is computed for one argument type.
#[derive(Debug, Clone)]
pub(super) struct Recipe {
    measure: Measure,
    pub(super) exact: bool,
    scale: i8,
    pub(super) ret: SqlType,
}

impl Recipe {
    fn new(measure: Measure, argument: &SqlType) -> Result<Recipe> {
        let ret = match (measure, argument) {
            (Measure::Sum, SqlType::Int2 | SqlType::Int4) => SqlType::Int8,
            (Measure::Sum, SqlType::Int8) => numeric(0),
            (Measure::Sum, SqlType::Numeric { .. }) => numeric(scale_of(argument)),
            (Measure::Sum, SqlType::Float4) => SqlType::Float4,
            (Measure::Avg, SqlType::Int2 | SqlType::Int4 | SqlType::Int8) => numeric(BARE_SCALE),
            (Measure::Avg, SqlType::Numeric { .. }) => numeric(scale_of(argument).max(BARE_SCALE)),
            (_, SqlType::Float4 | SqlType::Float8) => SqlType::Float8,
            (_, other) => {
                let name = if measure == Measure::Sum {
                    "sum"
                } else {
                    "avg"
                };
                return Err(crate::error::PlanError::hint(
                    "42883",
                    format!("function {name}({}) does not exist", crate::types::base(other)),
                    "No function matches the given name and argument types. You might need to add explicit type casts.",
                )
                .into());
            }
        };
        let exact = !matches!(argument, SqlType::Float4 | SqlType::Float8);
        Ok(Recipe {
            measure,
            exact,
            scale: scale_of(argument),
            ret,
        })
    }

    /// The values in the type they are added in.
    pub(super) fn wide(&self, values: &ArrayRef) -> Result<ArrayRef> {
        if !self.exact {
            return Ok(cast(values, &DataType::Float64)?);
        }
        match values.data_type() {
            DataType::Decimal128(..) => Ok(Arc::clone(values)),
            _ => {
                let wide = cast(values, &DataType::Int64)?;
                let out: PrimitiveArray<Decimal128Type> =
                    wide.as_primitive::<Int64Type>().unary(i128::from);
                Ok(Arc::new(out.with_data_type(DataType::Decimal128(38, 0))))
            }
        }
    }

    fn state_type(&self) -> DataType {
        if self.exact {
            DataType::Decimal128(38, self.scale)
        } else {
            DataType::Float64
        }
    }

    pub(super) fn exact_result(&self, sum: i128, count: i64) -> Result<i128> {
        let value = match self.measure {
            Measure::Sum => Some(sum).filter(|v| v.abs() < decimal::LIMIT),
            Measure::Avg => {
                decimal::divide(sum, self.scale, i128::from(count), 0, scale_of(&self.ret))
            }
        };
        value.ok_or_else(|| out_of_range(&self.ret))
    }

    fn float_result(&self, sum: f64, count: i64, infinite: bool) -> Result<f64> {
        let value = match self.measure {
            Measure::Sum => sum,
            Measure::Avg => sum / count as f64,
        };
        let narrow = matches!(self.ret, SqlType::Float4) && (value as f32).is_infinite();
        if (value.is_infinite() || narrow) && !infinite {
            return Err(raise("22003", "value out of range: overflow"));
        }
        Ok(value)
    }

    fn finish(&self, exact: Vec<Option<i128>>, float: Vec<Option<f64>>) -> Result<ArrayRef> {
        Ok(match &self.ret {
            SqlType::Int8 => {
                let mut out = Vec::with_capacity(exact.len());
                for v in exact {
                    out.push(
                        v.map(|v| i64::try_from(v).map_err(|_| out_of_range(&SqlType::Int8)))
                            .transpose()?,
                    );
                }
                Arc::new(Int64Array::from(out))
            }
            SqlType::Numeric { .. } => {
                Arc::new(Decimal128Array::from(exact).with_data_type(self.ret.arrow()))
            }
            SqlType::Float4 => Arc::new(Float32Array::from_iter(
                float.into_iter().map(|v| v.map(|v| v as f32)),
            )),
            _ => Arc::new(Float64Array::from(float)),
        })
    }
}

impl Total {
    fn new(measure: Measure) -> Total {
        Total {
            measure,
            signature: Signature::user_defined(Volatility::Immutable),
        }
    }

    pub(super) fn recipe(&self, fields: &[FieldRef]) -> Result<Recipe> {
        let field = fields.first().ok_or_else(|| {
            raise(
                "42883",
                format!("function {}() does not exist", self.name()),
            )
        })?;
        Recipe::new(self.measure, &field_type(field))
    }
}

impl AggregateUDFImpl for Total {
    fn name(&self) -> &str {
        match self.measure {
            Measure::Sum => "sum",
            Measure::Avg => "avg",
        }
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn coerce_types(&self, arg_types: &[DataType]) -> Result<Vec<DataType>> {
        let [ty] = arg_types else {
            return Err(raise(
                "42883",
                format!("function {} takes one argument", self.name()),
            ));
        };
        Ok(vec![match ty {
            DataType::Null | DataType::Utf8 => DataType::Float64,
            DataType::UInt64 | DataType::UInt32 => DataType::Int64,
            other => other.clone(),
        }])
    }

    fn return_type(&self, arg_types: &[DataType]) -> Result<DataType> {
        let fields: Vec<FieldRef> = arg_types
            .iter()
            .map(|t| Arc::new(Field::new("x", t.clone(), true)))
            .collect();
        Ok(self.recipe(&fields)?.ret.arrow())
    }

    fn return_field(&self, arg_fields: &[FieldRef]) -> Result<FieldRef> {
        Ok(Arc::new(
            self.recipe(arg_fields)?.ret.field(self.name(), true),
        ))
    }

    fn accumulator(&self, args: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        let recipe = self.recipe(args.expr_fields)?;
        if args.is_distinct {
            return Ok(Box::new(DistinctTotal {
                recipe,
                seen: HashSet::new(),
                value_type: args.expr_fields[0].data_type().clone(),
            }));
        }
        Ok(Box::new(Running {
            recipe,
            exact: 0,
            float: 0.0,
            count: 0,
            infinite: 0,
            nan: 0,
        }))
    }

    fn state_fields(&self, args: StateFieldsArgs) -> Result<Vec<FieldRef>> {
        let name = |part: &str| format!("{}[{part}]", args.name);
        let recipe = self.recipe(args.input_fields)?;
        if args.is_distinct {
            let item = Field::new("item", args.input_fields[0].data_type().clone(), true);
            return Ok(vec![Arc::new(Field::new(
                name("seen"),
                DataType::List(Arc::new(item)),
                true,
            ))]);
        }
        Ok(vec![
            Arc::new(Field::new(name("sum"), recipe.state_type(), true)),
            Arc::new(Field::new(name("count"), DataType::Int64, true)),
        ])
    }

    fn groups_accumulator_supported(&self, args: AccumulatorArgs) -> bool {
        !args.is_distinct
    }

    fn create_groups_accumulator(
        &self,
        args: AccumulatorArgs,
    ) -> Result<Box<dyn GroupsAccumulator>> {
        let recipe = self.recipe(args.expr_fields)?;
        Ok(Box::new(Grouped {
            recipe,
            exact: Vec::new(),
            float: Vec::new(),
            counts: Vec::new(),
            infinite: Vec::new(),
        }))
    }

    fn order_sensitivity(&self) -> AggregateOrderSensitivity {
        AggregateOrderSensitivity::Insensitive
    }

    fn reverse_expr(&self) -> ReversedUDAF {
        ReversedUDAF::Identical
    }
}

fn overflow() -> DataFusionError {
    raise("22003", "numeric field overflow")
}

/// One group's total, also for sliding windows.
#[derive(Debug)]
struct Running {
    recipe: Recipe,
    exact: i128,
    float: f64,
    count: i64,
    infinite: i64,
    nan: i64,
}

impl Running {
    fn add(&mut self, values: &ArrayRef, sign: i64) -> Result<()> {
        let wide = self.recipe.wide(values)?;
        self.count += sign * i64::try_from(wide.len() - wide.null_count()).unwrap_or(0);
        if self.recipe.exact {
            for v in wide.as_primitive::<Decimal128Type>().iter().flatten() {
                self.exact = self
                    .exact
                    .checked_add(if sign < 0 { -v } else { v })
                    .ok_or_else(overflow)?;
            }
            return Ok(());
        }
        for v in wide.as_primitive::<Float64Type>().iter().flatten() {
            // Infinities and NaN are counted apart, or they could never be retracted.
            if v.is_nan() {
                self.nan += sign;
            } else if v.is_infinite() {
                self.infinite += sign * if v > 0.0 { 1 } else { 1 << 32 };
            } else {
                self.float += if sign < 0 { -v } else { v };
            }
        }
        Ok(())
    }

    fn total(&self) -> f64 {
        let (positive, negative) = (self.infinite & 0xffff_ffff, self.infinite >> 32);
        match (self.nan > 0, positive > 0, negative > 0) {
            (true, _, _) | (_, true, true) => f64::NAN,
            (_, true, _) => f64::INFINITY,
            (_, _, true) => f64::NEG_INFINITY,
            _ => self.float,
        }
    }
}

impl Accumulator for Running {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        self.add(&values[0], 1)
    }

    fn retract_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        self.add(&values[0], -1)
    }

    fn supports_retract_batch(&self) -> bool {
        true
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        if self.count == 0 {
            return ScalarValue::try_from(&self.recipe.ret.arrow());
        }
        let array = if self.recipe.exact {
            self.recipe.finish(
                vec![Some(self.recipe.exact_result(self.exact, self.count)?)],
                vec![],
            )?
        } else {
            let total = self.total();
            self.recipe.finish(
                vec![],
                vec![Some(self.recipe.float_result(
                    total,
                    self.count,
                    self.infinite != 0,
                )?)],
            )?
        };
        ScalarValue::try_from_array(&array, 0)
    }

    fn size(&self) -> usize {
        size_of::<Self>()
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        let sum = if self.recipe.exact {
            ScalarValue::Decimal128(Some(self.exact), 38, self.recipe.scale)
        } else {
            ScalarValue::Float64(Some(self.total()))
        };
        Ok(vec![sum, ScalarValue::Int64(Some(self.count))])
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        let before = self.count;
        self.add(&states[0], 1)?;
        self.count = before
            + states[1]
                .as_primitive::<Int64Type>()
                .iter()
                .flatten()
                .sum::<i64>();
        Ok(())
    }
}

#[derive(Debug)]
struct DistinctTotal {
    recipe: Recipe,
    seen: HashSet<ScalarValue>,
    value_type: DataType,
}

impl Accumulator for DistinctTotal {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        for i in 0..values[0].len() {
            if values[0].is_valid(i) {
                self.seen
                    .insert(ScalarValue::try_from_array(&values[0], i)?);
            }
        }
        Ok(())
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        let mut running = Running {
            recipe: self.recipe.clone(),
            exact: 0,
            float: 0.0,
            count: 0,
            infinite: 0,
            nan: 0,
        };
        if !self.seen.is_empty() {
            running.add(&ScalarValue::iter_to_array(self.seen.iter().cloned())?, 1)?;
        }
        running.evaluate()
    }

    fn size(&self) -> usize {
        size_of::<Self>() + self.seen.capacity() * size_of::<ScalarValue>()
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        let values: Vec<ScalarValue> = self.seen.iter().cloned().collect();
        Ok(vec![ScalarValue::List(ScalarValue::new_list_nullable(
            &values,
            &self.value_type,
        ))])
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        let lists = states[0].as_list::<i32>();
        for list in lists.iter().flatten() {
            self.update_batch(&[list])?;
        }
        Ok(())
    }
}

/// Totals of many groups at once.
struct Grouped {
    recipe: Recipe,
    exact: Vec<i128>,
    float: Vec<f64>,
    counts: Vec<i64>,
    infinite: Vec<bool>,
}

impl Grouped {
    fn grow(&mut self, groups: usize) {
        self.counts.resize(groups, 0);
        if self.recipe.exact {
            self.exact.resize(groups, 0);
        } else {
            self.float.resize(groups, 0.0);
            self.infinite.resize(groups, false);
        }
    }

    fn add(
        &mut self,
        wide: &ArrayRef,
        groups: &[usize],
        filter: Option<&BooleanArray>,
        counts: Option<&Int64Array>,
    ) -> Result<()> {
        let taken =
            |i: usize| wide.is_valid(i) && filter.is_none_or(|f| f.is_valid(i) && f.value(i));
        let exact = if self.recipe.exact {
            Some(wide.as_primitive::<Decimal128Type>())
        } else {
            None
        };
        let float = if self.recipe.exact {
            None
        } else {
            Some(wide.as_primitive::<Float64Type>())
        };
        for (i, group) in groups.iter().enumerate() {
            if !taken(i) {
                continue;
            }
            self.counts[*group] += counts.map_or(1, |c| c.value(i));
            if let Some(values) = exact {
                self.exact[*group] = self.exact[*group]
                    .checked_add(values.value(i))
                    .ok_or_else(overflow)?;
            } else if let Some(values) = float {
                let v = values.value(i);
                self.float[*group] += v;
                self.infinite[*group] |= !v.is_finite();
            }
        }
        Ok(())
    }
}

impl GroupsAccumulator for Grouped {
    fn update_batch(
        &mut self,
        values: &[ArrayRef],
        groups: &[usize],
        filter: Option<&BooleanArray>,
        total: usize,
    ) -> Result<()> {
        self.grow(total);
        let wide = self.recipe.wide(&values[0])?;
        self.add(&wide, groups, filter, None)
    }

    fn evaluate(&mut self, emit: EmitTo) -> Result<ArrayRef> {
        let counts = emit.take_needed(&mut self.counts);
        let (mut exact, mut float) = (Vec::new(), Vec::new());
        if self.recipe.exact {
            for (sum, count) in emit.take_needed(&mut self.exact).into_iter().zip(counts) {
                exact.push(if count == 0 {
                    None
                } else {
                    Some(self.recipe.exact_result(sum, count)?)
                });
            }
        } else {
            let infinite = emit.take_needed(&mut self.infinite);
            for ((sum, count), infinite) in emit
                .take_needed(&mut self.float)
                .into_iter()
                .zip(counts)
                .zip(infinite)
            {
                float.push(if count == 0 {
                    None
                } else {
                    Some(self.recipe.float_result(sum, count, infinite)?)
                });
            }
        }
        self.recipe.finish(exact, float)
    }

    fn state(&mut self, emit: EmitTo) -> Result<Vec<ArrayRef>> {
        let counts: ArrayRef = Arc::new(Int64Array::from(emit.take_needed(&mut self.counts)));
        let sums: ArrayRef = if self.recipe.exact {
            let sums = emit.take_needed(&mut self.exact);
            Arc::new(
                Decimal128Array::from_iter_values(sums).with_data_type(self.recipe.state_type()),
            )
        } else {
            emit.take_needed(&mut self.infinite);
            Arc::new(Float64Array::from(emit.take_needed(&mut self.float)))
        };
        Ok(vec![sums, counts])
    }

    fn merge_batch(&mut self, values: &[ArrayRef], groups: &[usize], total: usize) -> Result<()> {
        self.grow(total);
        self.add(
            &values[0],
            groups,
            None,
            Some(values[1].as_primitive::<Int64Type>()),
        )
    }

    fn convert_to_state(
        &self,
        values: &[ArrayRef],
        filter: Option<&BooleanArray>,
    ) -> Result<Vec<ArrayRef>> {
        let wide = self.recipe.wide(&values[0])?;
        let counts: Int64Array = (0..wide.len())
            .map(|i| {
                Some(i64::from(
                    wide.is_valid(i) && filter.is_none_or(|f| f.is_valid(i) && f.value(i)),
                ))
            })
            .collect();
        let wide = match filter {
            // A filtered row is a NULL in the state.
            Some(f) => {
                let keep = BooleanArray::from_iter(
                    (0..f.len()).map(|i| Some(!(f.is_valid(i) && f.value(i)))),
                );
                datafusion::arrow::compute::nullif(&wide, &keep)?
            }
            None => wide,
        };
        Ok(vec![
            cast(&wide, &self.recipe.state_type())?,
            Arc::new(counts),
        ])
    }

    fn size(&self) -> usize {
        self.exact.capacity() * size_of::<i128>()
            + (self.float.capacity() + self.counts.capacity()) * 8
            + self.infinite.capacity()
    }
}
