//! The lexical rules and operator precedences of Thalweg: Postgres', plus `FOR SYSTEM_TIME AS OF`.
//!
//! Invariant: everything sqlparser asks of its Postgres dialect by type is answered as Postgres; only the methods
//! below differ, each for the reason given.

use std::any::TypeId;

use sqlparser::ast::Expr;
use sqlparser::dialect::{Dialect, PostgreSqlDialect, Precedence};
use sqlparser::keywords::{Keyword, RESERVED_FOR_COLUMN_ALIAS, RESERVED_FOR_TABLE_ALIAS};
use sqlparser::parser::{Parser, ParserError};
use sqlparser::tokenizer::Token;

/// Postgres with temporal joins and without the clauses of other products.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct ThalwegDialect;

const POSTGRES: PostgreSqlDialect = PostgreSqlDialect {};

/// Words that cannot be an expression by themselves, as in Postgres: reporting them here puts the error where the
/// user stopped instead of at some later token.
const NOT_AN_EXPRESSION: &[Keyword] = &[
    Keyword::AND,
    Keyword::AS,
    Keyword::ASC,
    Keyword::DESC,
    Keyword::CREATE,
    Keyword::DISTINCT,
    Keyword::DO,
    Keyword::ELSE,
    Keyword::END,
    Keyword::EXCEPT,
    Keyword::FETCH,
    Keyword::FOR,
    Keyword::FROM,
    Keyword::GROUP,
    Keyword::HAVING,
    Keyword::IN,
    Keyword::INTERSECT,
    Keyword::INTO,
    Keyword::LIMIT,
    Keyword::OFFSET,
    Keyword::ON,
    Keyword::OR,
    Keyword::ORDER,
    Keyword::RETURNING,
    Keyword::SELECT,
    Keyword::TABLE,
    Keyword::THEN,
    Keyword::UNION,
    Keyword::USING,
    Keyword::WHEN,
    Keyword::WHERE,
    Keyword::WINDOW,
    Keyword::WITH,
];

impl Dialect for ThalwegDialect {
    fn dialect(&self) -> TypeId {
        TypeId::of::<PostgreSqlDialect>()
    }

    fn supports_table_versioning(&self) -> bool {
        true // FOR SYSTEM_TIME AS OF, the temporal join
    }

    // Named arguments are `name => value`. Postgres' dialect also tries any expression as the name, which parses
    // every argument twice and so takes 2^n steps for n nested calls.
    fn supports_named_fn_args_with_expr_name(&self) -> bool {
        false
    }

    fn supports_named_fn_args_with_colon_operator(&self) -> bool {
        false
    }

    fn supports_named_fn_args_with_assignment_operator(&self) -> bool {
        true
    }

    // sqlparser takes any word for a column where an expression is due.
    fn parse_prefix(&self, parser: &mut Parser) -> Option<Result<Expr, ParserError>> {
        let next = parser.peek_token_ref();
        let Token::Word(word) = &next.token else {
            return None;
        };
        let after_period = parser.get_current_token().token == Token::Period;
        if after_period || word.quote_style.is_some() || !NOT_AN_EXPRESSION.contains(&word.keyword)
        {
            return None;
        }
        Some(parser.expected_ref("an expression", next))
    }

    fn is_reserved_for_identifier(&self, kw: Keyword) -> bool {
        POSTGRES.is_reserved_for_identifier(kw)
    }

    // Without these, `SELECT 1 ON CONFLICT ...` would name its column "on".
    fn is_column_alias(&self, kw: &Keyword, _parser: &mut Parser) -> bool {
        !RESERVED_FOR_COLUMN_ALIAS.contains(kw) && !NOT_AN_EXPRESSION.contains(kw)
    }

    fn is_table_alias(&self, kw: &Keyword, _parser: &mut Parser) -> bool {
        !RESERVED_FOR_TABLE_ALIAS.contains(kw) && !NOT_AN_EXPRESSION.contains(kw)
    }

    // From here on: as Postgres.

    fn identifier_quote_style(&self, identifier: &str) -> Option<char> {
        POSTGRES.identifier_quote_style(identifier)
    }
    fn is_delimited_identifier_start(&self, ch: char) -> bool {
        POSTGRES.is_delimited_identifier_start(ch)
    }
    fn is_identifier_start(&self, ch: char) -> bool {
        POSTGRES.is_identifier_start(ch)
    }
    fn is_identifier_part(&self, ch: char) -> bool {
        POSTGRES.is_identifier_part(ch)
    }
    fn is_custom_operator_part(&self, ch: char) -> bool {
        POSTGRES.is_custom_operator_part(ch)
    }
    fn get_next_precedence(&self, parser: &Parser) -> Option<Result<u8, ParserError>> {
        POSTGRES.get_next_precedence(parser)
    }
    /// The right side of IS [NOT] DISTINCT FROM ends before AND and OR, as in Postgres; sqlparser takes all that follows.
    fn parse_infix(
        &self,
        parser: &mut Parser,
        expr: &Expr,
        _precedence: u8,
    ) -> Option<Result<Expr, ParserError>> {
        const FROM: [Keyword; 3] = [Keyword::IS, Keyword::DISTINCT, Keyword::FROM];
        const NOT_FROM: [Keyword; 4] =
            [Keyword::IS, Keyword::NOT, Keyword::DISTINCT, Keyword::FROM];
        let test: fn(Box<Expr>, Box<Expr>) -> Expr = if parser.parse_keywords(&FROM) {
            Expr::IsDistinctFrom
        } else if parser.parse_keywords(&NOT_FROM) {
            Expr::IsNotDistinctFrom
        } else {
            return None;
        };
        let right = parser.parse_subexpr(self.prec_value(Precedence::Is));
        Some(right.map(|right| test(Box::new(expr.clone()), Box::new(right))))
    }
    fn prec_value(&self, prec: Precedence) -> u8 {
        POSTGRES.prec_value(prec)
    }
    fn supports_unicode_string_literal(&self) -> bool {
        true
    }
    fn supports_filter_during_aggregation(&self) -> bool {
        true
    }
    fn supports_group_by_expr(&self) -> bool {
        true
    }
    fn allow_extract_custom(&self) -> bool {
        true
    }
    fn allow_extract_single_quotes(&self) -> bool {
        true
    }
    fn supports_factorial_operator(&self) -> bool {
        false // Postgres removed `5!` in version 14
    }
    fn supports_bitwise_shift_operators(&self) -> bool {
        true
    }
    fn supports_empty_projections(&self) -> bool {
        true
    }
    fn supports_nested_comments(&self) -> bool {
        true
    }
    fn supports_string_escape_constant(&self) -> bool {
        true
    }
    fn supports_numeric_literal_underscores(&self) -> bool {
        true
    }
    fn supports_array_typedef_with_brackets(&self) -> bool {
        true
    }
    fn supports_notnull_operator(&self) -> bool {
        true
    }
    fn supports_interval_options(&self) -> bool {
        true
    }
    fn supports_insert_table_alias(&self) -> bool {
        true
    }
    fn supports_comma_separated_trim(&self) -> bool {
        true
    }
    fn supports_parens_around_table_factor(&self) -> bool {
        false
    }
}
