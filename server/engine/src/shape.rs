//! Finishes decoded source rows: computes generated columns and holds rows against the source's constraints.
//!
//! Invariant: the result is a function of the row alone, so reading a source again gives the same rows and the same dead letters.

use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, AsArray, BooleanArray};
use datafusion::arrow::compute::{cast, concat_batches, filter_record_batch};
use datafusion::arrow::datatypes::{Field, Schema, SchemaRef};
use datafusion::arrow::record_batch::{RecordBatch, RecordBatchOptions};
use datafusion::common::DFSchema;
use datafusion::physical_expr::PhysicalExpr;
use thalweg_catalog::{Catalog, Relation, RelationKind};
use thalweg_connectors::{DeadLetter, SourceBatch};
use thalweg_planner::{NoSystemRelations, PlanContext, Planner};

use crate::batch::{conform, session_at};
use crate::error::EngineError;
use crate::text;

/// What happens to a row that breaks a constraint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Violation {
    DeadLetter,
    Fail,
    Ignore,
}

#[derive(Debug)]
struct ShapeCheck {
    message: String,
    expr: Arc<dyn PhysicalExpr>,
    violation: Violation,
}

/// Generated columns and constraints of a source.
#[derive(Debug)]
pub(crate) struct Shape {
    name: String,
    topic: String,
    schema: SchemaRef,
    loose: SchemaRef,
    generated: Vec<(usize, Arc<dyn PhysicalExpr>)>,
    checks: Vec<ShapeCheck>,
}

/// Rows as views see them, and what was taken out.
#[derive(Debug)]
pub(crate) struct Shaped {
    pub(crate) rows: RecordBatch,
    pub(crate) dead: Vec<DeadLetter>,
    /// A constraint said `ON VIOLATION FAIL`.
    pub(crate) failure: Option<String>,
}

impl Shape {
    pub(crate) fn new(
        planner: &Planner,
        catalog: &Catalog,
        relation: &Relation,
    ) -> Result<Self, EngineError> {
        let fields = |nullable: bool| -> Vec<Field> {
            relation
                .columns
                .iter()
                .map(|column| column.ty.field(&column.name, nullable || !column.not_null))
                .collect()
        };
        let loose: SchemaRef = Arc::new(Schema::new(fields(true)));
        let df_schema = DFSchema::try_from(Arc::clone(&loose))?;
        let compile = |text: &str, ty: &thalweg_catalog::SqlType| {
            let context = PlanContext {
                catalog,
                search_path: &relation.environment.search_path,
                time_zone: &relation.environment.time_zone,
                now_us: Some(relation.created_at_ms.saturating_mul(1000)),
                system: &NoSystemRelations,
                user: "",
                parameter_types: &[],
                text,
            };
            let bound = planner
                .stored_expr(&context, &relation.columns, ty)
                .map_err(|error| error.report())?;
            Ok::<_, EngineError>(session_at(planner, 0).create_physical_expr(bound, &df_schema)?)
        };
        let mut generated = Vec::new();
        for (index, column) in relation.columns.iter().enumerate() {
            if let Some(text) = &column.generated {
                generated.push((index, compile(text, &column.ty)?));
            }
        }
        let mut checks = Vec::new();
        for check in &relation.checks {
            let violation = match check.on_violation.as_str() {
                "FAIL" => Violation::Fail,
                "IGNORE" => Violation::Ignore,
                _ => Violation::DeadLetter,
            };
            let message = format!("row violates check constraint \"{}\"", check.name);
            checks.push(ShapeCheck {
                message,
                expr: compile(&check.expr, &thalweg_catalog::SqlType::Bool)?,
                violation,
            });
        }
        let topic = match &relation.kind {
            RelationKind::Source(spec) => spec.options.get("topic").cloned(),
            _ => None,
        };
        Ok(Self {
            name: relation.name.clone(),
            topic: topic.unwrap_or_else(|| relation.name.clone()),
            schema: Arc::new(Schema::new(fields(false))),
            loose,
            generated,
            checks,
        })
    }

    /// Columns of the finished rows.
    pub(crate) fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    /// True without generated columns and constraints.
    pub(crate) fn reads_nothing(&self) -> bool {
        self.generated.is_empty() && self.checks.is_empty()
    }

    /// Finishes the rows of one poll.
    pub(crate) fn apply(&self, batch: &SourceBatch, now_us: i64) -> Result<Shaped, EngineError> {
        if self.reads_nothing() {
            let rows = conform(&batch.rows, &self.schema)?;
            return Ok(Shaped {
                rows,
                dead: Vec::new(),
                failure: None,
            });
        }
        let raw = conform(&batch.rows, &self.loose)?;
        let mut out = Outcome {
            faults: vec![None; raw.num_rows()],
            drop: vec![false; raw.num_rows()],
            failure: None,
        };
        let rows = self.generate(&raw, &mut out)?;
        self.require(&rows, &mut out);
        self.check(&rows, &mut out)?;
        let dead = self.letters(batch, &rows, &out, now_us)?;
        let keep: BooleanArray = out
            .faults
            .iter()
            .zip(&out.drop)
            .map(|(fault, drop)| Some(fault.is_none() && !drop))
            .collect();
        let rows = conform(&filter_record_batch(&rows, &keep)?, &self.schema)?;
        Ok(Shaped {
            rows,
            dead,
            failure: out.failure,
        })
    }

    fn generate(&self, raw: &RecordBatch, out: &mut Outcome) -> Result<RecordBatch, EngineError> {
        if let Ok(rows) = self.generate_all(raw) {
            return Ok(rows);
        }
        // Some row cannot be computed; alone, the others can.
        let mut parts = Vec::with_capacity(raw.num_rows());
        for row in 0..raw.num_rows() {
            let one = raw.slice(row, 1);
            match self.generate_all(&one) {
                Ok(done) => parts.push(done),
                Err(error) => {
                    out.fault(row, error.report().message);
                    parts.push(one);
                }
            }
        }
        Ok(concat_batches(&self.loose, &parts)?)
    }

    fn generate_all(&self, raw: &RecordBatch) -> Result<RecordBatch, EngineError> {
        let mut columns = raw.columns().to_vec();
        for (index, expr) in &self.generated {
            let value = expr.evaluate(raw)?.into_array(raw.num_rows())?;
            if let Some(column) = columns.get_mut(*index) {
                *column = cast(&value, column.data_type())?;
            }
        }
        let options = RecordBatchOptions::new().with_row_count(Some(raw.num_rows()));
        Ok(RecordBatch::try_new_with_options(
            Arc::clone(&self.loose),
            columns,
            &options,
        )?)
    }

    fn require(&self, rows: &RecordBatch, out: &mut Outcome) {
        for (field, column) in self.schema.fields().iter().zip(rows.columns()) {
            if field.is_nullable() || column.null_count() == 0 {
                continue;
            }
            for row in (0..column.len()).filter(|row| column.is_null(*row)) {
                out.fault(
                    row,
                    format!(
                        "null value in column \"{}\" violates not-null constraint",
                        field.name()
                    ),
                );
            }
        }
    }

    fn check(&self, rows: &RecordBatch, out: &mut Outcome) -> Result<(), EngineError> {
        for check in &self.checks {
            let value = match check
                .expr
                .evaluate(rows)
                .and_then(|value| value.into_array(rows.num_rows()))
            {
                Ok(value) => value,
                Err(_) => self.check_each(check, rows, out)?,
            };
            let held = value
                .as_boolean_opt()
                .ok_or_else(|| EngineError::internal("a condition is not boolean"))?;
            for row in (0..held.len()).filter(|row| held.is_valid(*row) && !held.value(*row)) {
                match check.violation {
                    Violation::DeadLetter => out.fault(row, check.message.clone()),
                    Violation::Ignore => out.ignore(row),
                    Violation::Fail => {
                        let shown = text::row(rows.columns(), row);
                        out.failure
                            .get_or_insert_with(|| format!("{}: {shown}", check.message));
                    }
                }
            }
        }
        Ok(())
    }

    fn check_each(
        &self,
        check: &ShapeCheck,
        rows: &RecordBatch,
        out: &mut Outcome,
    ) -> Result<ArrayRef, EngineError> {
        let mut held = Vec::with_capacity(rows.num_rows());
        for row in 0..rows.num_rows() {
            match check
                .expr
                .evaluate(&rows.slice(row, 1))
                .and_then(|value| value.into_array(1))
            {
                Ok(value) => held.push(
                    value
                        .as_boolean_opt()
                        .and_then(|value| value.iter().next().flatten()),
                ),
                Err(error) => {
                    out.fault(row, Planner::classify(&error).message);
                    held.push(None);
                }
            }
        }
        Ok(Arc::new(BooleanArray::from(held)))
    }

    fn letters(
        &self,
        batch: &SourceBatch,
        rows: &RecordBatch,
        out: &Outcome,
        now_us: i64,
    ) -> Result<Vec<DeadLetter>, EngineError> {
        let places = &batch.places;
        if places.len() != rows.num_rows() {
            return Err(EngineError::internal(format!(
                "a source gave {} rows and {} places",
                rows.num_rows(),
                places.len()
            )));
        }
        let broken = out.faults.iter().zip(places).enumerate();
        let letters = broken.filter_map(|(row, (fault, place))| {
            let message = fault.as_ref()?;
            // A split with a name is a file; its number is no partition.
            let (topic, partition) = match batch.names.get(&place.partition) {
                Some(name) => (name, 0),
                None => (&self.topic, place.partition),
            };
            Some(DeadLetter {
                reason: "constraint".into(),
                message: format!("{message} in source \"{}\"", self.name),
                topic: topic.clone(),
                partition,
                offset: place.offset,
                key: None,
                payload: Some(text::row(rows.columns(), row).into_bytes()),
                headers: None,
                at_us: now_us,
            })
        });
        Ok(letters.collect())
    }
}

/// What became of each row.
struct Outcome {
    faults: Vec<Option<String>>,
    drop: Vec<bool>,
    failure: Option<String>,
}

impl Outcome {
    fn fault(&mut self, row: usize, message: String) {
        if let Some(fault) = self.faults.get_mut(row) {
            fault.get_or_insert(message);
        }
    }

    fn ignore(&mut self, row: usize) {
        if let Some(drop) = self.drop.get_mut(row) {
            *drop = true;
        }
    }
}
