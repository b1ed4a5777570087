//! The streaming plan as plain data: what the engine runs and what EXPLAIN STREAM prints.
//!
//! Invariant: an expression of a node is over the schema of its input node, in which every column it names exists.

use datafusion::common::DFSchemaRef;
use datafusion::logical_expr::{Expr, JoinType, Unnest};
use thalweg_catalog::Oid;

use crate::context::Outside;
use crate::functions::exact::ExactTotal;

/// How a continuous query is kept up to date.
#[derive(Debug, Clone)]
pub struct StreamPlan {
    /// The last operator.
    pub root: StreamNode,
    /// How.
    pub keeping: Keeping,
}

/// How a whole query is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keeping {
    /// Each row passes through on its own.
    RowByRow,
    /// By the changes of its inputs and what the operators remember.
    Incremental,
    /// Run as a batch, and compared with the last result.
    Recompute,
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
    /// One entry for each group.
    Groups,
    /// One entry for each group, with the values of some arguments.
    Values,
    /// The rows of both inputs.
    Sides,
    /// What each row of the input found.
    Found,
}

/// One aggregate function of an aggregation.
#[derive(Debug, Clone)]
pub struct StreamAggregate {
    /// The call, over the input's schema.
    pub call: Expr,
    /// What is remembered of its arguments.
    pub memory: AggregateMemory,
}

/// What an aggregate function remembers of each group.
#[derive(Debug, Clone)]
pub enum AggregateMemory {
    /// How many values are not NULL.
    Count,
    /// Sum and number of values.
    Total(ExactTotal),
    /// How many values are true and how many false: `bool_and`.
    Every,
    /// The same: `bool_or`.
    Some,
    /// The smallest value, of rows that are never taken back.
    Smallest,
    /// The largest value, of rows that are never taken back.
    Largest,
    /// The values, counted; the function runs over them whenever the group changes. Calls with ORDER BY get them in that order,
    /// others in the order of the values, so that the result does not depend on the order of arrival.
    Values,
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
        /// Positions of the relation's columns, when not all are read.
        projection: Option<Vec<usize>>,
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
    /// Groups with aggregates; without aggregates, distinct rows.
    Aggregate {
        /// Input.
        input: Box<StreamNode>,
        /// Over the input's schema; none makes one group, which is there without rows too.
        group: Vec<Expr>,
        /// Over the input's schema.
        aggregates: Vec<StreamAggregate>,
        /// Output columns: groups, then aggregates.
        schema: DFSchemaRef,
        /// What is known.
        properties: Properties,
    },
    /// Pairs of rows with equal keys, or rows with or without partners.
    Join {
        /// Left input.
        left: Box<StreamNode>,
        /// Right input.
        right: Box<StreamNode>,
        /// Which rows come out.
        kind: JoinType,
        /// Keys, each over its own input's schema.
        on: Vec<(Expr, Expr)>,
        /// Further condition on a pair, over `pair`.
        filter: Option<Expr>,
        /// Columns of the left, then of the right input.
        pair: DFSchemaRef,
        /// Whether NULL keys match each other.
        null_equal: bool,
        /// Output columns.
        schema: DFSchemaRef,
        /// What is known.
        properties: Properties,
    },
    /// Each row with the row of an outside system's table that its key names, as it is when the row comes.
    Lookup {
        /// Input.
        input: Box<StreamNode>,
        /// The table.
        oid: Oid,
        /// Its name.
        name: String,
        /// What is remembered of it for a while.
        outside: Outside,
        /// Rows that find nothing come out as well, with NULLs.
        outer: bool,
        /// Over the input's schema, for each column of the table's key with its position in the table.
        keys: Vec<(usize, Expr)>,
        /// For each column of the table whether anything reads it; the others may come out as NULL.
        wanted: Vec<bool>,
        /// Further condition on a pair, over `pair`; a row that does not meet it was not found.
        filter: Option<Expr>,
        /// Columns of the input, then of the table.
        pair: DFSchemaRef,
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
            | StreamNode::Aggregate { schema, .. }
            | StreamNode::Join { schema, .. }
            | StreamNode::Lookup { schema, .. }
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
            | StreamNode::Aggregate { schema, .. }
            | StreamNode::Join { schema, .. }
            | StreamNode::Lookup { schema, .. }
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
            | StreamNode::Aggregate { properties, .. }
            | StreamNode::Join { properties, .. }
            | StreamNode::Lookup { properties, .. }
            | StreamNode::Recompute { properties, .. } => properties,
        }
    }

    /// Nodes this one reads.
    pub fn inputs(&self) -> Vec<&StreamNode> {
        match self {
            StreamNode::Scan { .. } => vec![],
            StreamNode::Filter { input, .. }
            | StreamNode::Project { input, .. }
            | StreamNode::Aggregate { input, .. }
            | StreamNode::Lookup { input, .. }
            | StreamNode::Unnest { input, .. } => vec![input],
            StreamNode::Join { left, right, .. } => vec![left, right],
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
