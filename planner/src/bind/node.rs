//! The table of typed constructs that the normaliser leaves for the binder.
//!
//! Invariant: an operator `#n` in a normalised tree refers to entry n of the table the tree was normalised with.

use parking::Table;
use thalweg_catalog::SqlType;
use thalweg_sql::ast;

/// A construct whose meaning depends on the types of its operands, which only the binder knows.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Node {
    /// A number as written, sign included.
    Number(String),
    /// `CAST(x AS type)`.
    Cast(SqlType),
    /// `x` made to fit a target column.
    Assign {
        /// Target type.
        ty: SqlType,
        /// Target column, for the error.
        column: String,
    },
    /// `x` made the common type of a UNION or VALUES column.
    Coerce(SqlType),
    /// A scalar function.
    Function(String),
    /// `CASE`: conditions and results in turn, then ELSE.
    Case {
        /// An ELSE is the last operand.
        has_else: bool,
    },
    /// `x IN (a, b)`.
    In {
        /// NOT IN.
        negated: bool,
    },
    /// `x BETWEEN a AND b`.
    Between {
        /// NOT BETWEEN.
        negated: bool,
    },
    /// `x LIKE p`.
    Like {
        /// NOT LIKE.
        negated: bool,
        /// ILIKE.
        insensitive: bool,
        /// ESCAPE character; `Some("")` is no escape at all.
        escape: Option<String>,
        /// SIMILAR TO.
        similar: bool,
    },
    /// A condition that must be boolean; the clause is for the error.
    Condition(&'static str),
    /// `NOT x`.
    Not,
    /// `-x`, `+x`, `~x`.
    Unary(&'static str),
    /// `x IS [NOT] DISTINCT FROM y`.
    Distinct {
        /// NOT.
        negated: bool,
    },
    /// `x IS [NOT] TRUE | FALSE | UNKNOWN`.
    Truth {
        /// Which; `None` is UNKNOWN.
        value: Option<bool>,
        /// NOT.
        negated: bool,
    },
    /// `x op ANY | ALL (array)`.
    Quantified {
        /// Operator symbol.
        op: String,
        /// ALL.
        all: bool,
    },
    /// `ARRAY[a, b]`.
    Array,
    /// `a[i]`.
    Index,
    /// `a[i:j]`.
    Slice,
    /// `(x).field`.
    Field(String),
    /// `INTERVAL 'text' UNIT`.
    Interval {
        /// Text as written.
        text: String,
        /// The field after it.
        unit: Option<String>,
    },
    /// `$n`, from 1.
    Parameter(usize),
}

mod parking {
    use std::sync::{Mutex, PoisonError};

    /// A list that only grows; nodes are looked up by position.
    #[derive(Debug)]
    pub(crate) struct Table<T>(Mutex<Vec<T>>);

    impl<T> Default for Table<T> {
        fn default() -> Self {
            Table(Mutex::new(Vec::new()))
        }
    }

    impl<T: Clone> Table<T> {
        pub(crate) fn push(&self, item: T) -> usize {
            let mut items = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            items.push(item);
            items.len() - 1
        }

        pub(crate) fn get(&self, i: usize) -> Option<T> {
            self.0
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .get(i)
                .cloned()
        }
    }
}

/// The nodes of one statement.
#[derive(Debug, Default)]
pub(crate) struct Nodes(Table<Node>);

/// The function that carries operands to the binder.
pub(crate) const PACK: &str = "thalweg_pack";

impl Nodes {
    /// The tree that brings `node` over `operands` to the binder.
    pub(crate) fn wrap(&self, node: Node, operands: Vec<ast::Expr>) -> ast::Expr {
        let at = self.0.push(node);
        let null = || ast::Expr::Value(ast::Value::Null.with_empty_span());
        let left = if operands.is_empty() {
            null()
        } else {
            call(PACK, operands)
        };
        ast::Expr::BinaryOp {
            left: Box::new(left),
            op: ast::BinaryOperator::Custom(format!("#{at}")),
            right: Box::new(null()),
        }
    }

    /// The node behind operator `#n`.
    pub(crate) fn find(&self, op: &ast::BinaryOperator) -> Option<Node> {
        match op {
            ast::BinaryOperator::Custom(text) => self.0.get(text.strip_prefix('#')?.parse().ok()?),
            _ => None,
        }
    }

    /// The node a normalised expression is, if it is one.
    pub(crate) fn of(&self, expr: &ast::Expr) -> Option<Node> {
        match expr {
            ast::Expr::BinaryOp { op, .. } => self.find(op),
            _ => None,
        }
    }
}

/// A plain function call.
pub(crate) fn call(name: &str, operands: Vec<ast::Expr>) -> ast::Expr {
    let args = operands
        .into_iter()
        .map(|e| ast::FunctionArg::Unnamed(ast::FunctionArgExpr::Expr(e)))
        .collect();
    ast::Expr::Function(ast::Function {
        name: ast::ObjectName(vec![ast::ObjectNamePart::Identifier(crate::names::quoted(
            name,
        ))]),
        uses_odbc_syntax: false,
        parameters: ast::FunctionArguments::None,
        args: ast::FunctionArguments::List(ast::FunctionArgumentList {
            duplicate_treatment: None,
            args,
            clauses: vec![],
        }),
        filter: None,
        null_treatment: None,
        over: None,
        within_group: vec![],
    })
}
