//! Expressions: every construct whose meaning depends on operand types becomes a node.
//!
//! Invariant: children are normalised before their parent, and a column, subquery, aggregate or window call stays itself.

use thalweg_catalog::SqlType;
use thalweg_sql::ast::{self, BinaryOperator, Expr, UnaryOperator, Value};

use super::node::Node;
use super::normalize::Normalizer;
use super::row;
use crate::error::PlanError;

type Result<T> = std::result::Result<T, PlanError>;

fn is_power(op: &BinaryOperator) -> bool {
    matches!(op, BinaryOperator::PGExp | BinaryOperator::BitwiseXor)
}

/// `-(a ^ b)`, as the parser reads `-a ^ b`, made `(-a) ^ b`: in Postgres the sign binds tighter.
fn signed_base(sign: UnaryOperator, expr: Expr) -> Expr {
    match expr {
        Expr::BinaryOp { left, op, right } if is_power(&op) => Expr::BinaryOp {
            left: Box::new(signed_base(sign, *left)),
            op,
            right,
        },
        base => Expr::UnaryOp {
            op: sign,
            expr: Box::new(base),
        },
    }
}

fn sql_type(ty: &ast::DataType) -> Result<SqlType> {
    SqlType::from_ast(ty).map_err(|e| PlanError::from(e.report()))
}

/// A number that is cast at once is read as the target type, which may hold what numeric does not.
fn number_as_text(expr: Expr, ty: &SqlType) -> Expr {
    match expr {
        Expr::Value(ast::ValueWithSpan {
            value: Value::Number(number, _),
            ..
        }) if matches!(
            ty,
            SqlType::Float4 | SqlType::Float8 | SqlType::Numeric { .. }
        ) =>
        {
            text(number)
        }
        other => other,
    }
}

fn text(value: impl Into<String>) -> Expr {
    Expr::Value(Value::SingleQuotedString(value.into()).with_empty_span())
}

impl Normalizer<'_> {
    /// Normalises one expression in place.
    pub(crate) fn expr(&mut self, expr: &mut Expr) -> Result<()> {
        self.depth += 1;
        if self.depth > crate::limits::EXPRESSION_DEPTH_MAX {
            return Err(PlanError::new("54001", "expression is nested too deeply"));
        }
        let taken = std::mem::replace(expr, Expr::Value(Value::Null.with_empty_span()));
        *expr = self.rewritten(taken)?;
        self.depth -= 1;
        Ok(())
    }

    pub(super) fn child(&mut self, mut expr: Expr) -> Result<Expr> {
        self.expr(&mut expr)?;
        Ok(expr)
    }

    pub(super) fn wrap(&mut self, node: Node, operands: Vec<Expr>) -> Result<Expr> {
        let operands = operands
            .into_iter()
            .map(|e| self.child(e))
            .collect::<Result<Vec<_>>>()?;
        Ok(self.nodes.wrap(node, operands))
    }

    pub(super) fn function(&mut self, name: &str, operands: Vec<Expr>) -> Result<Expr> {
        self.wrap(Node::Function(name.to_owned()), operands)
    }

    fn rewritten(&mut self, expr: Expr) -> Result<Expr> {
        match super::precedence::not_outermost(expr) {
            Expr::Value(value) => self.value(value),
            Expr::Identifier(ident) => Ok(self
                .merged_column(&ident)
                .unwrap_or(Expr::Identifier(ident))),
            wildcard @ (Expr::Wildcard(_) | Expr::QualifiedWildcard(..)) => Ok(wildcard),
            Expr::CompoundIdentifier(parts) => Ok(self.qualified_column(parts)),
            Expr::Nested(inner) => self.child(*inner),
            Expr::Collate { expr, .. } => self.child(*expr),
            operation @ Expr::BinaryOp { .. } => self.binary(operation),
            Expr::UnaryOp { op, expr } => self.unary(op, *expr),
            cast @ Expr::Cast { format: None, .. } => self.cast(cast),
            Expr::TypedString(typed) => {
                let ty = sql_type(&typed.data_type)?;
                let value = typed.value.into_string().unwrap_or_default();
                self.wrap(Node::Cast(ty), vec![text(value)])
            }
            Expr::Interval(interval) => self.interval(interval),
            Expr::Case {
                operand,
                conditions,
                else_result,
                ..
            } => self.case(operand, conditions, else_result),
            Expr::InList {
                expr,
                list,
                negated,
            } => self.in_list(*expr, list, negated),
            Expr::Between {
                expr,
                negated,
                low,
                high,
            } => self.wrap(Node::Between { negated }, vec![*expr, *low, *high]),
            Expr::Like {
                negated,
                any: false,
                expr,
                pattern,
                escape_char,
            } => self.like(negated, false, false, *expr, *pattern, escape_char),
            Expr::ILike {
                negated,
                any: false,
                expr,
                pattern,
                escape_char,
            } => self.like(negated, true, false, *expr, *pattern, escape_char),
            Expr::SimilarTo {
                negated,
                expr,
                pattern,
                escape_char,
            } => self.like(negated, false, true, *expr, *pattern, escape_char),
            Expr::IsDistinctFrom(a, b) => {
                self.wrap(Node::Distinct { negated: false }, vec![*a, *b])
            }
            Expr::IsNotDistinctFrom(a, b) => {
                self.wrap(Node::Distinct { negated: true }, vec![*a, *b])
            }
            Expr::IsNull(e) => Ok(Expr::IsNull(Box::new(self.child(*e)?))),
            Expr::IsNotNull(e) => Ok(Expr::IsNotNull(Box::new(self.child(*e)?))),
            Expr::IsTrue(e) => self.truth(*e, Some(true), false),
            Expr::IsNotTrue(e) => self.truth(*e, Some(true), true),
            Expr::IsFalse(e) => self.truth(*e, Some(false), false),
            Expr::IsNotFalse(e) => self.truth(*e, Some(false), true),
            Expr::IsUnknown(e) => self.truth(*e, None, false),
            Expr::IsNotUnknown(e) => self.truth(*e, None, true),
            expr @ (Expr::AnyOp { .. }
            | Expr::AllOp { .. }
            | Expr::Exists { .. }
            | Expr::Subquery(_)
            | Expr::InSubquery { .. }) => self.with_subquery(expr),
            Expr::Function(function) => self.call(function),
            other => self.spelled(other),
        }
    }

    fn truth(&mut self, operand: Expr, value: Option<bool>, negated: bool) -> Result<Expr> {
        self.wrap(Node::Truth { value, negated }, vec![operand])
    }

    fn cast(&mut self, expr: Expr) -> Result<Expr> {
        let Expr::Cast {
            kind,
            expr,
            data_type,
            array,
            ..
        } = expr
        else {
            return Ok(expr);
        };
        if matches!(kind, ast::CastKind::TryCast | ast::CastKind::SafeCast) {
            return Err(PlanError::unsupported("TRY_CAST"));
        }
        let ty = sql_type(&data_type)?;
        let ty = if array {
            SqlType::Array(Box::new(ty))
        } else {
            ty
        };
        self.wrap(Node::Cast(ty.clone()), vec![number_as_text(*expr, &ty)])
    }

    fn in_list(&mut self, expr: Expr, list: Vec<Expr>, negated: bool) -> Result<Expr> {
        let subject = self.child(row::columns(expr))?;
        let Expr::Tuple(_) = &subject else {
            let mut operands = vec![subject];
            for item in list {
                operands.push(self.child(item)?);
            }
            return Ok(self.nodes.wrap(Node::In { negated }, operands));
        };
        let mut found: Option<Expr> = None;
        for item in list {
            let item = self.child(row::columns(item))?;
            let same = row::compare(&BinaryOperator::Eq, &subject, &item)?;
            found = Some(row::join(BinaryOperator::Or, found, same));
        }
        let found = found.ok_or_else(|| PlanError::new("42601", "IN needs at least one value"))?;
        Ok(if negated {
            self.nodes.wrap(Node::Not, vec![found])
        } else {
            found
        })
    }

    /// Constructs with a subquery.
    fn with_subquery(&mut self, expr: Expr) -> Result<Expr> {
        match expr {
            Expr::AnyOp {
                left,
                compare_op,
                right,
                is_some,
            } => self.quantified(*left, compare_op, *right, Some(is_some)),
            Expr::AllOp {
                left,
                compare_op,
                right,
            } => self.quantified(*left, compare_op, *right, None),
            Expr::Exists {
                mut subquery,
                negated,
            } => {
                self.query(&mut subquery)?;
                Ok(Expr::Exists { subquery, negated })
            }
            Expr::Subquery(mut query) => {
                self.query(&mut query)?;
                Ok(Expr::Subquery(query))
            }
            Expr::InSubquery {
                expr,
                mut subquery,
                negated,
            } => {
                if row::is_null(&expr) {
                    return self.null_in_subquery(*subquery, negated);
                }
                self.query(&mut subquery)?;
                let subject = self.child(row::columns(*expr))?;
                self.in_subquery(subject, subquery, negated)
            }
            other => Ok(other),
        }
    }

    /// Constructs that are functions with a syntax of their own.
    fn spelled(&mut self, expr: Expr) -> Result<Expr> {
        match expr {
            Expr::Extract { field, expr, .. } => {
                let field = field.to_string().to_lowercase();
                let field = field.trim_matches(['\'', '"']).to_owned();
                self.function("extract", vec![text(field), *expr])
            }
            Expr::AtTimeZone {
                timestamp,
                time_zone,
            } => self.function("timezone", vec![*time_zone, *timestamp]),
            Expr::Ceil {
                expr,
                field: ast::CeilFloorKind::DateTimeField(ast::DateTimeField::NoDateTime),
            } => self.function("ceil", vec![*expr]),
            Expr::Floor {
                expr,
                field: ast::CeilFloorKind::DateTimeField(ast::DateTimeField::NoDateTime),
            } => self.function("floor", vec![*expr]),
            Expr::Position { expr, r#in } => self.function("strpos", vec![*r#in, *expr]),
            Expr::Substring {
                expr,
                substring_from,
                substring_for,
                ..
            } => {
                let mut operands = vec![*expr];
                match (substring_from, substring_for) {
                    (Some(from), length) => {
                        operands.push(*from);
                        operands.extend(length.map(|l| *l));
                    }
                    (None, Some(length)) => {
                        operands.push(Expr::Value(
                            Value::Number("1".into(), false).with_empty_span(),
                        ));
                        operands.push(*length);
                    }
                    (None, None) => {}
                }
                self.function("substring", operands)
            }
            Expr::Overlay {
                expr,
                overlay_what,
                overlay_from,
                overlay_for,
            } => {
                let mut operands = vec![*expr, *overlay_what, *overlay_from];
                operands.extend(overlay_for.map(|l| *l));
                self.function("overlay", operands)
            }
            Expr::Trim {
                expr,
                trim_where,
                trim_what,
                trim_characters,
            } => {
                let name = match trim_where {
                    Some(ast::TrimWhereField::Leading) => "ltrim",
                    Some(ast::TrimWhereField::Trailing) => "rtrim",
                    _ => "btrim",
                };
                let mut operands = vec![*expr];
                operands.extend(trim_what.map(|w| *w));
                operands.extend(trim_characters.unwrap_or_default());
                self.function(name, operands)
            }
            Expr::Array(array) => self.wrap(Node::Array, array.elem),
            Expr::CompoundFieldAccess { root, access_chain } => self.access(*root, access_chain),
            Expr::Tuple(items) => {
                let items = items
                    .into_iter()
                    .map(|e| self.child(e))
                    .collect::<Result<Vec<_>>>()?;
                Ok(Expr::Tuple(items))
            }
            Expr::Prefixed { value, .. } => self.child(*value),
            Expr::Lambda(_) => Err(PlanError::unsupported("a lambda")),
            Expr::GroupingSets(_) | Expr::Cube(_) | Expr::Rollup(_) => Ok(expr),
            other => Err(PlanError::unsupported(format!("expression {other}"))),
        }
    }

    fn value(&mut self, value: ast::ValueWithSpan) -> Result<Expr> {
        let span = value.span;
        match value.value {
            Value::Number(number, _) => Ok(self.nodes.wrap(Node::Number(number), vec![])),
            Value::Placeholder(name) => {
                match name.strip_prefix('$').and_then(|n| n.parse::<usize>().ok()) {
                    Some(n) if (1..=crate::limits::PARAMETERS_MAX).contains(&n) => {
                        Ok(self.nodes.wrap(Node::Parameter(n), vec![]))
                    }
                    _ => Err(PlanError::new(
                        "42P02",
                        format!("there is no parameter {name}"),
                    )),
                }
            }
            Value::EscapedStringLiteral(s)
            | Value::DollarQuotedString(ast::DollarQuotedString { value: s, .. })
            | Value::UnicodeStringLiteral(s)
            | Value::NationalStringLiteral(s) => {
                Ok(Expr::Value(Value::SingleQuotedString(s).with_span(span)))
            }
            Value::HexStringLiteral(hex) => {
                self.wrap(Node::Cast(SqlType::Bytea), vec![text(format!("\\x{hex}"))])
            }
            other @ (Value::SingleQuotedString(_) | Value::Boolean(_) | Value::Null) => {
                Ok(Expr::Value(other.with_span(span)))
            }
            other => Err(PlanError::unsupported(format!("literal {other}"))),
        }
    }

    fn qualified_column(&mut self, mut parts: Vec<ast::Ident>) -> Expr {
        while parts.len() > 2 {
            let (schema, table) = (crate::names::fold(&parts[0]), crate::names::fold(&parts[1]));
            let known = self
                .qualified
                .iter()
                .any(|(s, t)| *s == schema && *t == table);
            let database = schema == thalweg_catalog::DATABASE && parts.len() > 3;
            if !known && !database {
                break;
            }
            parts.remove(0);
        }
        Expr::CompoundIdentifier(parts)
    }

    /// A chain of left-deep operators, without recursion along it.
    fn binary(&mut self, expr: Expr) -> Result<Expr> {
        let mut operators: Vec<(BinaryOperator, Expr)> = Vec::new();
        let mut left = expr;
        while let Expr::BinaryOp {
            left: next,
            op,
            right,
        } = left
        {
            operators.push((op, *right));
            left = *next;
        }
        if operators.last().is_some_and(|(op, _)| row::compares(op)) {
            left = row::columns(left);
        }
        let mut out = self.child(left)?;
        for (op, right) in operators.into_iter().rev() {
            let compared = row::compares(&op);
            let right = if compared { row::columns(right) } else { right };
            let right = self.child(right)?;
            if matches!((&out, &right), (Expr::Tuple(_), Expr::Tuple(_))) {
                out = row::compare(&op, &out, &right)?;
                continue;
            }
            let symbol = match op {
                BinaryOperator::PGCustomBinaryOperator(parts) => {
                    parts.last().cloned().unwrap_or_default()
                }
                other => {
                    out = Expr::BinaryOp {
                        left: Box::new(out),
                        op: other,
                        right: Box::new(right),
                    };
                    continue;
                }
            };
            out = Expr::BinaryOp {
                left: Box::new(out),
                op: BinaryOperator::Custom(symbol),
                right: Box::new(right),
            };
        }
        Ok(out)
    }

    fn unary(&mut self, op: UnaryOperator, expr: Expr) -> Result<Expr> {
        if matches!(op, UnaryOperator::Minus | UnaryOperator::Plus)
            && matches!(&expr, Expr::BinaryOp { op, .. } if is_power(op))
        {
            return self.child(signed_base(op, expr));
        }
        if let (UnaryOperator::Minus, Expr::Value(value)) = (&op, &expr)
            && let Value::Number(number, _) = &value.value
        {
            return Ok(self.nodes.wrap(Node::Number(format!("-{number}")), vec![]));
        }
        match op {
            UnaryOperator::Not => self.wrap(Node::Not, vec![expr]),
            UnaryOperator::Minus => self.wrap(Node::Unary("-"), vec![expr]),
            UnaryOperator::Plus => self.wrap(Node::Unary("+"), vec![expr]),
            UnaryOperator::BitwiseNot => self.wrap(Node::Unary("~"), vec![expr]),
            UnaryOperator::PGSquareRoot => self.function("sqrt", vec![expr]),
            UnaryOperator::PGCubeRoot => self.function("cbrt", vec![expr]),
            UnaryOperator::PGAbs => self.function("abs", vec![expr]),
            other => Err(PlanError::unsupported(format!("operator {other}"))),
        }
    }

    fn interval(&mut self, interval: ast::Interval) -> Result<Expr> {
        let unit = interval.leading_field.map(|f| f.to_string().to_lowercase());
        match *interval.value {
            Expr::Value(value) => {
                let written = match value.value {
                    Value::SingleQuotedString(s) => s,
                    Value::Number(n, _) => n,
                    other => return Err(PlanError::unsupported(format!("INTERVAL {other}"))),
                };
                Ok(self.nodes.wrap(
                    Node::Interval {
                        text: written,
                        unit,
                    },
                    vec![],
                ))
            }
            other => Err(PlanError::unsupported(format!("INTERVAL {other}"))),
        }
    }

    fn case(
        &mut self,
        operand: Option<Box<Expr>>,
        conditions: Vec<ast::CaseWhen>,
        else_result: Option<Box<Expr>>,
    ) -> Result<Expr> {
        let mut operands = Vec::new();
        for when in conditions {
            operands.push(match &operand {
                Some(subject) => Expr::BinaryOp {
                    left: subject.clone(),
                    op: BinaryOperator::Eq,
                    right: Box::new(when.condition),
                },
                None => when.condition,
            });
            operands.push(when.result);
        }
        let has_else = else_result.is_some();
        operands.extend(else_result.map(|e| *e));
        self.wrap(Node::Case { has_else }, operands)
    }

    fn access(&mut self, root: Expr, chain: Vec<ast::AccessExpr>) -> Result<Expr> {
        let mut out = self.child(root)?;
        for step in chain {
            out = match step {
                ast::AccessExpr::Dot(Expr::Identifier(ident)) => self
                    .nodes
                    .wrap(Node::Field(crate::names::fold(&ident)), vec![out]),
                ast::AccessExpr::Dot(other) => {
                    return Err(PlanError::unsupported(format!("field {other}")));
                }
                ast::AccessExpr::Subscript(ast::Subscript::Index { index }) => {
                    let index = self.child(index)?;
                    self.nodes.wrap(Node::Index, vec![out, index])
                }
                ast::AccessExpr::Subscript(ast::Subscript::Slice {
                    lower_bound,
                    upper_bound,
                    stride: None,
                }) => {
                    let null = || Expr::Value(Value::Null.with_empty_span());
                    let low = self.child(lower_bound.unwrap_or_else(null))?;
                    let high = self.child(upper_bound.unwrap_or_else(null))?;
                    self.nodes.wrap(Node::Slice, vec![out, low, high])
                }
                ast::AccessExpr::Subscript(_) => {
                    return Err(PlanError::unsupported("a slice with a stride"));
                }
            };
        }
        Ok(out)
    }
}
