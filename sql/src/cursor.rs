//! Walks the tokens of one statement: our own words by text, expressions and queries through sqlparser.
//!
//! Invariant: a failed `accept` consumes nothing; a failed `expect` names the token it stopped at.

use std::ops::ControlFlow;

use sqlparser::ast::{
    ArrayElemTypeDef, DataType, Expr, Ident, ObjectName, Query, StructBracketKind, StructField,
    Visit, Visitor,
};
use sqlparser::parser::{Parser, ParserError};
use sqlparser::tokenizer::{Location, Token, TokenWithSpan};

use crate::dialect::ThalwegDialect;
use crate::error::Fault;
use crate::limits::PARSER_RECURSION_MAX;
use crate::suggest::suggest;
use crate::words::{is_reserved, needs_quotes};

pub(crate) type Parse<T> = Result<T, Fault>;

static DIALECT: ThalwegDialect = ThalwegDialect;

pub(crate) struct Cursor {
    parser: Parser<'static>,
    /// First token after a head that was cut off, so that an error at the head's end points at it.
    next_part: Option<Location>,
    /// `>` of an outer STRUCT type that the lexer joined with the inner one's into `>>`.
    open_closers: usize,
}

impl Cursor {
    pub(crate) fn new(tokens: Vec<TokenWithSpan>) -> Self {
        Cursor::part(tokens, None)
    }

    /// A cursor over the first part of a statement; `next_part` is where the rest begins.
    pub(crate) fn part(tokens: Vec<TokenWithSpan>, next_part: Option<Location>) -> Self {
        let parser = Parser::new(&DIALECT)
            .with_recursion_limit(PARSER_RECURSION_MAX)
            .with_tokens_with_locations(tokens);
        Cursor {
            parser,
            next_part,
            open_closers: 0,
        }
    }

    // --- looking

    pub(crate) fn token(&self, n: usize) -> &Token {
        &self.parser.peek_nth_token_ref(n).token
    }

    /// Place of the next token; `None` at the end of the statement.
    pub(crate) fn place(&self) -> Option<Location> {
        let token = self.parser.peek_token_ref();
        if token.token == Token::EOF {
            self.next_part
        } else {
            Some(token.span.start)
        }
    }

    /// The n-th next token when it is an unquoted word, in lower case.
    pub(crate) fn word(&self, n: usize) -> Option<&str> {
        match self.token(n) {
            Token::Word(word) if word.quote_style.is_none() => Some(&word.value),
            _ => None,
        }
    }

    pub(crate) fn at(&self, words: &[&str]) -> bool {
        words
            .iter()
            .enumerate()
            .all(|(n, word)| self.word(n) == Some(word))
    }

    pub(crate) fn at_end(&self) -> bool {
        *self.token(0) == Token::EOF
    }

    // --- consuming

    pub(crate) fn skip(&mut self, tokens: usize) {
        for _ in 0..tokens {
            self.parser.advance_token();
        }
    }

    pub(crate) fn accept(&mut self, words: &[&str]) -> bool {
        let found = self.at(words);
        if found {
            self.skip(words.len());
        }
        found
    }

    pub(crate) fn accept_token(&mut self, token: &Token) -> bool {
        self.parser.consume_token(token)
    }

    pub(crate) fn expect(&mut self, words: &[&str]) -> Parse<()> {
        for word in words {
            if !self.accept(&[word]) {
                return Err(self.unexpected_of(&[word]));
            }
        }
        Ok(())
    }

    pub(crate) fn expect_token(&mut self, token: &Token) -> Parse<()> {
        if self.accept_token(token) {
            Ok(())
        } else {
            Err(self.unexpected(&format!("\"{token}\"")))
        }
    }

    pub(crate) fn expect_end(&self) -> Parse<()> {
        if self.at_end() {
            Ok(())
        } else {
            Err(self.unexpected("end of statement"))
        }
    }

    /// Consumes one of the given words.
    pub(crate) fn expect_one(&mut self, words: &[&'static str]) -> Parse<&'static str> {
        for word in words {
            if self.accept(&[word]) {
                return Ok(word);
            }
        }
        Err(self.unexpected_of(words))
    }

    // --- errors

    pub(crate) fn unexpected(&self, expected: &str) -> Fault {
        Fault::Unexpected {
            at: self.place(),
            expected: expected.to_string(),
            hint: None,
        }
    }

    /// An error that names the words that would fit, and the nearest of them as a hint.
    pub(crate) fn unexpected_of(&self, words: &[&str]) -> Fault {
        let listed: Vec<String> = words.iter().map(|w| w.to_uppercase()).collect();
        let near = self.word(0).and_then(|found| suggest(found, words.iter()));
        Fault::Unexpected {
            at: self.place(),
            expected: listed.join(", "),
            hint: near.map(|word| format!("Perhaps you meant \"{}\".", word.to_uppercase())),
        }
    }

    pub(crate) fn unsupported(&self, construct: &str, hint: Option<&str>) -> Fault {
        Fault::unsupported(construct, hint, self.place())
    }

    // --- names and literals

    pub(crate) fn ident(&mut self) -> Parse<Ident> {
        let Token::Word(word) = self.token(0) else {
            return Err(self.unexpected("a name"));
        };
        if word.quote_style.is_none() && is_reserved(&word.value) {
            return Err(self.unexpected("a name"));
        }
        // One form per name, so that equal names compare equal however they were quoted.
        let mut ident = self.parser.parse_identifier()?;
        ident.quote_style = needs_quotes(&ident.value).then_some('"');
        Ok(ident)
    }

    /// A name whose quoting does not matter, such as a savepoint's.
    pub(crate) fn plain_name(&mut self) -> Parse<String> {
        Ok(self.ident()?.value)
    }

    pub(crate) fn object_name(&mut self) -> Parse<ObjectName> {
        let mut parts = vec![self.ident()?];
        while self.accept_token(&Token::Period) {
            parts.push(self.ident()?);
        }
        Ok(ObjectName::from(parts))
    }

    pub(crate) fn string(&mut self) -> Parse<String> {
        let Token::SingleQuotedString(value) = self.token(0) else {
            return Err(self.unexpected("a string literal"));
        };
        let value = value.clone();
        self.skip(1);
        Ok(value)
    }

    pub(crate) fn if_not_exists(&mut self) -> Parse<bool> {
        if !self.at(&["if"]) {
            return Ok(false);
        }
        self.expect(&["if", "not", "exists"])?;
        Ok(true)
    }

    /// `item, item, ...`
    pub(crate) fn list<T>(&mut self, mut item: impl FnMut(&mut Self) -> Parse<T>) -> Parse<Vec<T>> {
        let mut items = vec![item(self)?];
        while self.accept_token(&Token::Comma) {
            items.push(item(self)?);
        }
        Ok(items)
    }

    /// `(item, item, ...)`, at least one.
    pub(crate) fn parenthesized<T>(
        &mut self,
        item: impl FnMut(&mut Self) -> Parse<T>,
    ) -> Parse<Vec<T>> {
        self.expect_token(&Token::LParen)?;
        let items = self.list(item)?;
        self.expect_token(&Token::RParen)?;
        Ok(items)
    }

    // --- sqlparser's part

    pub(crate) fn parser(&mut self) -> &mut Parser<'static> {
        &mut self.parser
    }

    pub(crate) fn expr(&mut self) -> Parse<Expr> {
        self.reject_end()?;
        self.parser.parse_expr().map_err(|e| self.placed(e))
    }

    /// An expression that stops before `NOT NULL`, `IS`, `AND` and `OR`: Postgres' b_expr, for column clauses.
    pub(crate) fn closed_expr(&mut self) -> Parse<Expr> {
        self.reject_end()?;
        self.parser
            .parse_subexpr(IS_PRECEDENCE)
            .map_err(|e| self.placed(e))
    }

    /// A type; sqlparser's Postgres rules lack `STRUCT<name type, ...>`.
    pub(crate) fn data_type(&mut self) -> Parse<DataType> {
        self.reject_end()?;
        if self.word(0) != Some("struct") || *self.token(1) != Token::Lt {
            return self.parser.parse_data_type().map_err(|e| self.placed(e));
        }
        self.skip(2);
        let mut fields = Vec::new();
        loop {
            let field_name = Some(self.ident()?);
            let field_type = self.data_type()?;
            fields.push(StructField {
                field_name,
                field_type,
                options: None,
            });
            // A comma behind `>>` belongs to whoever the second `>` closes.
            if self.open_closers > 0 || !self.accept_token(&Token::Comma) {
                break;
            }
        }
        self.close_angle()?;
        let mut data_type = DataType::Struct(fields, StructBracketKind::AngleBrackets);
        while self.open_closers == 0 && *self.token(0) == Token::LBracket {
            self.skip(1);
            self.expect_token(&Token::RBracket)?;
            data_type = DataType::Array(ArrayElemTypeDef::SquareBracket(Box::new(data_type), None));
        }
        Ok(data_type)
    }

    /// One `>`, of which the lexer may have joined several.
    fn close_angle(&mut self) -> Parse<()> {
        if self.open_closers > 0 {
            self.open_closers -= 1;
            return Ok(());
        }
        let joined = match self.token(0) {
            Token::Gt => 1,
            Token::ShiftRight => 2,
            Token::CustomBinaryOperator(text) if text.bytes().all(|b| b == b'>') => text.len(),
            _ => return Err(self.unexpected("\">\"")),
        };
        self.skip(1);
        self.open_closers = joined - 1;
        Ok(())
    }

    pub(crate) fn query(&mut self) -> Parse<Box<Query>> {
        self.reject_end()?;
        let query = self.parser.parse_query().map_err(|e| self.placed(e))?;
        reject_reserved(query.as_ref())?;
        Ok(query)
    }

    /// sqlparser's error; one at the end of a cut-off head is at the token behind the cut.
    fn placed(&self, error: ParserError) -> Fault {
        match Fault::from(error) {
            Fault::Unexpected {
                at: None,
                expected,
                hint,
            } => Fault::Unexpected {
                at: self.next_part,
                expected,
                hint,
            },
            fault => fault,
        }
    }

    fn reject_end(&self) -> Parse<()> {
        if self.at_end() {
            Err(self.unexpected("more"))
        } else {
            Ok(())
        }
    }

    /// The rule's result, or nothing consumed.
    pub(crate) fn attempt<T>(&mut self, rule: impl Fn(&mut Parser<'_>) -> Option<T>) -> Option<T> {
        self.parser
            .maybe_parse(|parser| {
                rule(parser).ok_or_else(|| ParserError::ParserError(String::new()))
            })
            .ok()
            .flatten()
    }
}

/// The precedence of IS in the dialect.
pub(crate) const IS_PRECEDENCE: u8 = 40;

/// sqlparser takes any word for a relation's name; Postgres keeps its reserved ones.
fn reject_reserved(query: &Query) -> Parse<()> {
    struct Names;
    impl Visitor for Names {
        type Break = Location;
        fn pre_visit_relation(&mut self, name: &ObjectName) -> ControlFlow<Location> {
            match name.0.first().and_then(|part| part.as_ident()) {
                Some(ident) if ident.quote_style != Some('"') && is_reserved(&ident.value) => {
                    ControlFlow::Break(ident.span.start)
                }
                _ => ControlFlow::Continue(()),
            }
        }
    }
    match query.visit(&mut Names) {
        ControlFlow::Break(at) => Err(Fault::Unexpected {
            at: Some(at),
            expected: "a name".into(),
            hint: None,
        }),
        ControlFlow::Continue(()) => Ok(()),
    }
}
