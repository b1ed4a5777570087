//! Functions that answer from the catalog snapshot and the session: `pg_get_viewdef`, `current_user`, `format_type`, ...
//!
//! Invariant: a function is bound to the facts of one statement; it reads nothing else, changes nothing, and a NULL argument
//! or an OID that names nothing gives NULL, as in Postgres. Only a name that must exist raises an error.

mod objects;
mod session;
mod text;

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use datafusion::arrow::array::Array;
use datafusion::arrow::datatypes::{DataType, FieldRef};
use datafusion::common::{DataFusionError, Result, ScalarValue};
use datafusion::logical_expr::{
    ColumnarValue, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature,
    TypeSignature, Volatility,
};
use thalweg_catalog::SqlType;
use thalweg_sql::Report;

pub(crate) use objects::format_type;

use super::SystemFacts;
use super::value::{Cell, array};

/// The functions bound to one statement's facts.
pub fn functions(facts: &Arc<SystemFacts>) -> Vec<Arc<ScalarUDF>> {
    [session::FUNCTIONS, objects::FUNCTIONS, text::FUNCTIONS]
        .into_iter()
        .flatten()
        .map(|definition| {
            Arc::new(ScalarUDF::from(CatalogFunction::new(
                definition,
                Arc::clone(facts),
            )))
        })
        .collect()
}

/// True for a function of this module, by lower-case name.
pub(crate) fn is_function(name: &str) -> bool {
    [session::FUNCTIONS, objects::FUNCTIONS, text::FUNCTIONS]
        .into_iter()
        .flatten()
        .any(|definition| definition.name == name)
}

/// Result type of a function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Returns {
    Bool,
    Int4,
    Int8,
    Oid,
    Text,
    Name,
    Json,
    Timestamptz,
    Int4Array,
    NameArray,
    TextArray,
    /// `record(x smallint, n integer)[]`, of _pg_expandarray.
    ExpandedArray,
    /// The first argument's type.
    Same,
}

impl Returns {
    fn sql_type(self) -> SqlType {
        let array = |element| SqlType::Array(Box::new(element));
        match self {
            Returns::Bool => SqlType::Bool,
            Returns::Int4 => SqlType::Int4,
            Returns::Int8 => SqlType::Int8,
            Returns::Oid => SqlType::Oid,
            Returns::Name => SqlType::Name,
            Returns::Json => SqlType::Json,
            Returns::Timestamptz => SqlType::Timestamptz,
            Returns::Int4Array => array(SqlType::Int4),
            Returns::NameArray => array(SqlType::Name),
            Returns::TextArray => array(SqlType::Text),
            Returns::ExpandedArray => array(SqlType::Struct(vec![
                ("x".to_owned(), SqlType::Int2),
                ("n".to_owned(), SqlType::Int4),
            ])),
            Returns::Text | Returns::Same => SqlType::Text,
        }
    }
}

/// Code of a function: one row's arguments to one value.
pub(crate) type Body = fn(&Arguments<'_>) -> Result<Cell>;

/// A function.
#[derive(Debug)]
pub(crate) struct Definition {
    name: &'static str,
    returns: Returns,
    body: Body,
}

const fn define(name: &'static str, returns: Returns, body: Body) -> Definition {
    Definition {
        name,
        returns,
        body,
    }
}

/// One row's arguments.
#[derive(Debug)]
pub(crate) struct Arguments<'a> {
    facts: &'a SystemFacts,
    values: Vec<Cell>,
    fields: &'a [FieldRef],
}

impl Arguments<'_> {
    fn text(&self, position: usize) -> Option<String> {
        match self.values.get(position)? {
            Cell::Text(text) => Some(text.clone()),
            Cell::Int(number) => Some(number.to_string()),
            _ => None,
        }
    }

    fn int(&self, position: usize) -> Option<i64> {
        match self.values.get(position)? {
            Cell::Int(number) => Some(*number),
            Cell::Text(text) => text.trim().parse().ok(),
            _ => None,
        }
    }

    fn oid(&self, position: usize) -> Option<u32> {
        self.int(position)
            .and_then(|number| u32::try_from(number).ok())
    }

    fn bool(&self, position: usize) -> Option<bool> {
        match self.values.get(position)? {
            Cell::Bool(value) => Some(*value),
            Cell::Text(text) => match text.as_str() {
                "t" | "true" | "on" | "yes" | "1" => Some(true),
                "f" | "false" | "off" | "no" | "0" => Some(false),
                _ => None,
            },
            _ => None,
        }
    }

    fn list(&self, position: usize) -> Option<&[Cell]> {
        match self.values.get(position)? {
            Cell::List(items) => Some(items),
            _ => None,
        }
    }

    fn any_null(&self) -> bool {
        self.values.contains(&Cell::Null)
    }
}

/// An error with its SQLSTATE, on its way through DataFusion.
fn failed(sqlstate: &'static str, message: String) -> DataFusionError {
    DataFusionError::External(Box::new(Report::new(sqlstate, message)))
}

struct CatalogFunction {
    definition: &'static Definition,
    facts: Arc<SystemFacts>,
    signature: Signature,
}

impl CatalogFunction {
    fn new(definition: &'static Definition, facts: Arc<SystemFacts>) -> Self {
        let arguments = vec![TypeSignature::Nullary, TypeSignature::VariadicAny];
        Self {
            definition,
            facts,
            signature: Signature::one_of(arguments, Volatility::Stable),
        }
    }
}

impl fmt::Debug for CatalogFunction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CatalogFunction")
            .field("name", &self.definition.name)
            .finish_non_exhaustive()
    }
}

impl PartialEq for CatalogFunction {
    fn eq(&self, other: &Self) -> bool {
        self.definition.name == other.definition.name && Arc::ptr_eq(&self.facts, &other.facts)
    }
}

impl Eq for CatalogFunction {}

impl Hash for CatalogFunction {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.definition.name.hash(state);
    }
}

impl ScalarUDFImpl for CatalogFunction {
    fn name(&self) -> &str {
        self.definition.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, arguments: &[DataType]) -> Result<DataType> {
        Ok(match (self.definition.returns, arguments.first()) {
            (Returns::Same, Some(first)) => first.clone(),
            (returns, _) => returns.sql_type().arrow(),
        })
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        Ok(match (self.definition.returns, args.arg_fields.first()) {
            (Returns::Same, Some(first)) => Arc::new(
                first
                    .as_ref()
                    .clone()
                    .with_name(self.definition.name)
                    .with_nullable(true),
            ),
            (returns, _) => Arc::new(returns.sql_type().field(self.definition.name, true)),
        })
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let constant = args
            .args
            .iter()
            .all(|value| matches!(value, ColumnarValue::Scalar(_)));
        let count = if constant { 1 } else { args.number_rows };
        let mut cells = Vec::with_capacity(count);
        for row in 0..count {
            let values = args
                .args
                .iter()
                .map(|value| cell_at(value, row))
                .collect::<Result<Vec<_>>>()?;
            let arguments = Arguments {
                facts: &self.facts,
                values,
                fields: &args.arg_fields,
            };
            cells.push((self.definition.body)(&arguments)?);
        }
        let column = array(args.return_field.data_type(), cells.iter());
        if constant {
            Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(
                &column, 0,
            )?))
        } else {
            Ok(ColumnarValue::Array(column))
        }
    }
}

fn cell_at(value: &ColumnarValue, row: usize) -> Result<Cell> {
    match value {
        ColumnarValue::Scalar(scalar) => cell(scalar),
        ColumnarValue::Array(array) => cell(&ScalarValue::try_from_array(array, row)?),
    }
}

/// A scalar as a cell; types that no catalog function computes with become their text.
fn cell(scalar: &ScalarValue) -> Result<Cell> {
    if scalar.is_null() {
        return Ok(Cell::Null);
    }
    Ok(match scalar {
        ScalarValue::Boolean(value) => (*value).into(),
        ScalarValue::Int8(value) => value.map(i64::from).into(),
        ScalarValue::Int16(value) => (*value).into(),
        ScalarValue::Int32(value) => (*value).into(),
        ScalarValue::Int64(value) => (*value).into(),
        ScalarValue::UInt16(value) => value.map(u32::from).into(),
        ScalarValue::UInt32(value) => (*value).into(),
        ScalarValue::UInt64(value) => (*value).into(),
        ScalarValue::Float32(value) => value.map(f64::from).into(),
        ScalarValue::Float64(value) => (*value).into(),
        ScalarValue::Utf8(value) | ScalarValue::Utf8View(value) | ScalarValue::LargeUtf8(value) => {
            value.clone().into()
        }
        ScalarValue::List(list) => {
            if list.is_empty() {
                return Ok(Cell::List(Vec::new()));
            }
            let items = list.value(0);
            let cells =
                (0..items.len()).map(|row| cell(&ScalarValue::try_from_array(&items, row)?));
            Cell::List(cells.collect::<Result<Vec<_>>>()?)
        }
        other => Cell::Text(other.to_string()),
    })
}
