//! From the streaming plan to operators.
//!
//! Invariant: the columns that flow out of an operator are those of its plan node, in that order and of those types.

use std::sync::Arc;

use datafusion::arrow::datatypes::{Schema, SchemaRef};
use datafusion::common::DFSchema;
use datafusion::execution::session_state::SessionState;
use datafusion::logical_expr::Expr;
use datafusion::physical_expr::PhysicalExpr;
use thalweg_planner::stream::Change;
use thalweg_planner::{Planner, StreamNode};
use thalweg_state::SpillFolder;

use super::group::Aggregate;
use super::join::{Join, JoinSpec};
use super::linear::Spread;
use super::lookup::{Lookup, LookupSpec, OutsideTables};
use super::{Dataflow, Operator, Room};
use crate::batch::session_at;
use crate::error::EngineError;

/// Turns logical expressions into physical ones.
pub(super) struct Compiler {
    session: SessionState,
    /// Parts that stateful operators split their state into.
    pub(super) shards: usize,
    tables: Arc<dyn OutsideTables>,
    room: Option<Room>,
}

impl Dataflow {
    /// A dataflow without state.
    pub(crate) fn new(
        planner: &Planner,
        root: &StreamNode,
        output: SchemaRef,
        shards: usize,
        tables: Arc<dyn OutsideTables>,
        room: Option<Room>,
    ) -> Result<Self, EngineError> {
        let compiler = Compiler {
            session: session_at(planner, 0),
            shards: shards.max(1),
            tables,
            room,
        };
        Ok(Self {
            root: compiler.operator(root)?,
            output,
            room: compiler.room,
            waiting: Default::default(),
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
    /// Where operators put what memory has no room for.
    pub(super) fn folder(&self) -> Option<&Arc<SpillFolder>> {
        self.room.as_ref().map(|room| &room.folder)
    }

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
            StreamNode::Lookup { .. } => Operator::Lookup(Box::new(self.lookup(node, schema)?)),
            StreamNode::Recompute { reason, .. } => {
                return Err(EngineError::internal(format!(
                    "{reason} is not kept by changes"
                )));
            }
        })
    }

    fn lookup(&self, node: &StreamNode, output: SchemaRef) -> Result<Lookup, EngineError> {
        let StreamNode::Lookup {
            input,
            oid,
            outer,
            keys,
            wanted,
            filter,
            pair,
            properties,
            ..
        } = node
        else {
            return Err(EngineError::internal(
                "a lookup is planned as something else",
            ));
        };
        let mut columns: Vec<usize> = (0..wanted.len()).filter(|at| wanted[*at]).collect();
        // Whether a row is there matters even when nothing of it does.
        if let (true, Some((key, _))) = (columns.is_empty(), keys.first()) {
            columns.push(*key);
        }
        let place = |column: usize| columns.iter().position(|held| *held == column);
        let filter = filter.as_ref().map(|filter| self.expr(filter, pair));
        let spec = LookupSpec {
            keys: keys
                .iter()
                .map(|(_, key)| self.expr(key, input.schema()))
                .collect::<Result<Vec<_>, _>>()?,
            filter: filter.transpose()?,
            outer: *outer,
            pair: flow_schema(pair),
            output,
            places: (0..wanted.len()).map(place).collect(),
        };
        let memory = match properties.change {
            Change::AppendOnly => None,
            Change::Retract => Some(flow_schema(input.schema())),
        };
        let table = self.tables.open(*oid, &columns)?;
        Lookup::new(self.operator(input)?, spec, table, memory)
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
        let folder = self.folder();
        Join::new(spec, inputs, keys, *null_equal, self.shards, folder)
    }
}
