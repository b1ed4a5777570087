//! The streaming plan as plain data: what the engine runs and what EXPLAIN STREAM prints.
//!
//! Invariant: an expression of a node is over the schema of its input node, in which every column it names exists.

use datafusion::common::DFSchemaRef;
use datafusion::logical_expr::{Expr, Unnest};
use thalweg_catalog::Oid;

/// How a continuous query is kept up to date.
#[derive(Debug, Clone)]
pub struct StreamPlan {
    /// The last operator.
    pub root: StreamNode,
}

/// What a node's output can contain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Rows are only added.
    AppendOnly,
    /// Rows are added and taken back.
    Retract,
}

/// What is kept between epochs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StateSize {
    /// Nothing.
    None,
    /// As much as the inputs and the result hold.
    Inputs,
    /// Grows for ever: the hidden history of these sources.
    Unbounded(Vec<String>),
}

/// What is known of a node's output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Properties {
    /// Whether rows are taken back.
    pub change: Change,
    /// Sets of output columns that are unique, each as positions.
    pub keys: Vec<Vec<usize>>,
    /// Whether the output stays as large as tables are, not growing with a stream.
    pub bounded: bool,
    /// Whether the same input always gives the same output.
    pub deterministic: bool,
    /// What is kept.
    pub state: StateSize,
}

/// One operator.
#[derive(Debug, Clone)]
pub enum StreamNode {
    /// The changes of a relation.
    Scan {
        /// Which.
        oid: Oid,
        /// Its name.
        name: String,
        /// Output columns, under the name the query gives the relation.
        schema: DFSchemaRef,
        /// What is known.
        properties: Properties,
    },
    /// Rows that a predicate accepts.
    Filter {
        /// Input.
        input: Box<StreamNode>,
        /// Over the input's schema.
        predicate: Expr,
        /// Output columns.
        schema: DFSchemaRef,
        /// What is known.
        properties: Properties,
    },
    /// Computed columns.
    Project {
        /// Input.
        input: Box<StreamNode>,
        /// Over the input's schema, one per output column.
        exprs: Vec<Expr>,
        /// Output columns.
        schema: DFSchemaRef,
        /// What is known.
        properties: Properties,
    },
    /// UNION ALL: columns by position.
    Union {
        /// Inputs.
        inputs: Vec<StreamNode>,
        /// Output columns.
        schema: DFSchemaRef,
        /// What is known.
        properties: Properties,
    },
    /// Lists spread over rows.
    Unnest {
        /// Input.
        input: Box<StreamNode>,
        /// Which columns, as DataFusion describes them; its own input is the plan that `input` was lowered from.
        unnest: Box<Unnest>,
        /// Output columns.
        schema: DFSchemaRef,
        /// What is known.
        properties: Properties,
    },
    /// The whole query run as a batch at each epoch that changes an input, and the difference emitted.
    Recompute {
        /// The first operator that is not maintained incrementally, for example `aggregate`.
        reason: String,
        /// What it reads.
        inputs: Vec<StreamNode>,
        /// Output columns.
        schema: DFSchemaRef,
        /// What is known.
        properties: Properties,
    },
}

impl StreamNode {
    /// Output columns.
    pub fn schema(&self) -> &DFSchemaRef {
        match self {
            StreamNode::Scan { schema, .. }
            | StreamNode::Filter { schema, .. }
            | StreamNode::Project { schema, .. }
            | StreamNode::Union { schema, .. }
            | StreamNode::Unnest { schema, .. }
            | StreamNode::Recompute { schema, .. } => schema,
        }
    }

    pub(crate) fn schema_mut(&mut self) -> &mut DFSchemaRef {
        match self {
            StreamNode::Scan { schema, .. }
            | StreamNode::Filter { schema, .. }
            | StreamNode::Project { schema, .. }
            | StreamNode::Union { schema, .. }
            | StreamNode::Unnest { schema, .. }
            | StreamNode::Recompute { schema, .. } => schema,
        }
    }

    /// What is known of the output.
    pub fn properties(&self) -> &Properties {
        match self {
            StreamNode::Scan { properties, .. }
            | StreamNode::Filter { properties, .. }
            | StreamNode::Project { properties, .. }
            | StreamNode::Union { properties, .. }
            | StreamNode::Unnest { properties, .. }
            | StreamNode::Recompute { properties, .. } => properties,
        }
    }

    /// Nodes this one reads.
    pub fn inputs(&self) -> Vec<&StreamNode> {
        match self {
            StreamNode::Scan { .. } => vec![],
            StreamNode::Filter { input, .. }
            | StreamNode::Project { input, .. }
            | StreamNode::Unnest { input, .. } => vec![input],
            StreamNode::Union { inputs, .. } | StreamNode::Recompute { inputs, .. } => {
                inputs.iter().collect()
            }
        }
    }

    /// True when the engine keeps the query by recomputing it.
    pub fn is_recompute(&self) -> bool {
        matches!(self, StreamNode::Recompute { .. })
    }
}
