//! From the streaming plan to operators.
//!
//! Invariant: the columns that flow out of an operator are those of its plan node, in that order and of those types.

use std::sync::Arc;

use datafusion::arrow::datatypes::{Schema, SchemaRef};
use datafusion::common::DFSchema;
use datafusion::execution::session_state::SessionState;
use datafusion::logical_expr::Expr;
use datafusion::physical_expr::PhysicalExpr;
use thalweg_planner::{Planner, StreamNode};

use super::group::Aggregate;
use super::join::{Join, JoinSpec};
use super::linear::Spread;
use super::{Dataflow, Operator};
use crate::batch::session_at;
use crate::error::EngineError;

/// Turns logical expressions into physical ones.
pub(super) struct Compiler {
    session: SessionState,
    /// Parts that stateful operators split their state into.
    pub(super) shards: usize,
}

impl Dataflow {
    /// A dataflow without state.
    pub(crate) fn new(
        planner: &Planner,
        root: &StreamNode,
        output: SchemaRef,
        shards: usize,
    ) -> Result<Self, EngineError> {
        let compiler = Compiler {
            session: session_at(planner, 0),
            shards: shards.max(1),
        };
        Ok(Self {
            root: compiler.operator(root)?,
            output,
        })
    }
}

/// What flows between operators: every column may be NULL, for a plan's promises are not checked row by row.
pub(super) fn flow_schema(schema: &DFSchema) -> SchemaRef {
    let fields = schema.fields().iter();
    let fields: Vec<_> = fields
        .map(|field| field.as_ref().clone().with_nullable(true))
        .collect();
    Arc::new(Schema::new(fields))
}

impl Compiler {
    pub(super) fn expr(
        &self,
        expr: &Expr,
        schema: &DFSchema,
    ) -> Result<Arc<dyn PhysicalExpr>, EngineError> {
        Ok(self.session.create_physical_expr(expr.clone(), schema)?)
    }

    fn operator(&self, node: &StreamNode) -> Result<Operator, EngineError> {
        let schema = flow_schema(node.schema());
        Ok(match node {
            StreamNode::Scan {
                oid, projection, ..
            } => Operator::Scan {
                oid: *oid,
                projection: projection.clone(),
                schema,
            },
            StreamNode::Filter {
                input, predicate, ..
            } => Operator::Filter {
                predicate: self.expr(predicate, input.schema())?,
                input: Box::new(self.operator(input)?),
            },
            StreamNode::Project { input, exprs, .. } => Operator::Project {
                exprs: exprs
                    .iter()
                    .map(|expr| self.expr(expr, input.schema()))
                    .collect::<Result<Vec<_>, _>>()?,
                input: Box::new(self.operator(input)?),
                schema,
            },
            StreamNode::Union { inputs, .. } => Operator::Union {
                inputs: inputs
                    .iter()
                    .map(|input| self.operator(input))
                    .collect::<Result<Vec<_>, _>>()?,
                schema,
            },
            StreamNode::Unnest { input, unnest, .. } => Operator::Unnest {
                spread: Spread::new(&flow_schema(input.schema()), schema, unnest),
                input: Box::new(self.operator(input)?),
            },
            StreamNode::Aggregate {
                input,
                group,
                aggregates,
                ..
            } => {
                let below = self.operator(input)?;
                let aggregate =
                    Aggregate::new(self, below, input.schema(), group, aggregates, schema)?;
                Operator::Aggregate(Box::new(aggregate))
            }
            StreamNode::Join { .. } => Operator::Join(Box::new(self.join(node, schema)?)),
            StreamNode::Recompute { reason, .. } => {
                return Err(EngineError::internal(format!(
                    "{reason} is not kept by changes"
                )));
            }
        })
    }

    fn join(&self, node: &StreamNode, output: SchemaRef) -> Result<Join, EngineError> {
        let StreamNode::Join {
            left,
            right,
            kind,
            on,
            filter,
            pair,
            null_equal,
            ..
        } = node
        else {
            return Err(EngineError::internal("a join is planned as something else"));
        };
        let keys = |side: fn(&(Expr, Expr)) -> &Expr, schema: &DFSchema| {
            on.iter()
                .map(|pair| self.expr(side(pair), schema))
                .collect::<Result<Vec<_>, _>>()
        };
        let keys = [
            keys(|pair| &pair.0, left.schema())?,
            keys(|pair| &pair.1, right.schema())?,
        ];
        let filter = filter.as_ref().map(|filter| self.expr(filter, pair));
        let spec = JoinSpec::new(
            *kind,
            [flow_schema(left.schema()), flow_schema(right.schema())],
            flow_schema(pair),
            filter.transpose()?,
            output,
        );
        let inputs = [self.operator(left)?, self.operator(right)?];
        Join::new(spec, inputs, keys, *null_equal, self.shards)
    }
}
