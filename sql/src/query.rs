//! Queries and DML: sqlparser's grammar, with the forms that Postgres does not have refused.
//!
//! Invariant: a CTE written before DML ends up in the DML's own tree or is refused, never dropped.

use sqlparser::ast::{self, SetExpr};

use crate::cursor::{Cursor, Parse};
use crate::error::Fault;
use crate::statement::Statement;

/// Words that open a query or DML, besides a parenthesis.
pub(crate) const FIRST_WORDS: &[&str] = &[
    "select", "with", "values", "table", "insert", "update", "delete",
];

/// A query or DML statement, up to what cannot belong to it.
pub(crate) fn query_or_dml(cursor: &mut Cursor) -> Parse<Statement> {
    if cursor.at(&["table"]) {
        // sqlparser takes one unqualified word; the rest of the clause list is the same as SELECT's.
        return table_command(cursor);
    }
    let at = cursor.place();
    let query = cursor.query()?;
    classify(query, at)
}

/// Takes DML out of the query that sqlparser wraps it in.
fn classify(
    query: Box<ast::Query>,
    at: Option<sqlparser::tokenizer::Location>,
) -> Parse<Statement> {
    let dml = matches!(
        *query.body,
        SetExpr::Insert(_) | SetExpr::Update(_) | SetExpr::Delete(_) | SetExpr::Merge(_)
    );
    if !dml {
        return Ok(Statement::Query(query));
    }
    let ast::Query { with, body, .. } = *query;
    match *body {
        SetExpr::Insert(ast::Statement::Insert(mut insert)) => {
            if let Some(with) = with {
                match insert.source.as_deref_mut() {
                    Some(source) if source.with.is_none() => source.with = Some(with),
                    _ => {
                        return Err(Fault::unsupported(
                            "WITH before this INSERT",
                            Some(CTE_HINT),
                            at,
                        ));
                    }
                }
            }
            Ok(Statement::Insert(Box::new(insert)))
        }
        SetExpr::Update(ast::Statement::Update(update)) if with.is_none() => {
            Ok(Statement::Update(Box::new(update)))
        }
        SetExpr::Delete(ast::Statement::Delete(delete)) if with.is_none() => {
            Ok(Statement::Delete(Box::new(delete)))
        }
        SetExpr::Update(_) | SetExpr::Delete(_) => Err(Fault::unsupported(
            "WITH before UPDATE or DELETE",
            Some(CTE_HINT),
            at,
        )),
        SetExpr::Merge(_) => Err(Fault::unsupported(
            "MERGE",
            Some("Use INSERT ... ON CONFLICT."),
            at,
        )),
        _ => Err(Fault::unsupported("this form of INSERT", None, at)),
    }
}

const CTE_HINT: &str = "Write the WITH clause inside the query or subquery that reads it.";

/// `TABLE name ...` is `SELECT * FROM name ...`.
fn table_command(cursor: &mut Cursor) -> Parse<Statement> {
    use sqlparser::keywords::Keyword;
    use sqlparser::tokenizer::{Token, TokenWithSpan, Word};

    let Some(at) = cursor.place() else {
        return Err(cursor.unexpected("TABLE"));
    };
    cursor.skip(1);
    let token = |token| TokenWithSpan {
        token,
        span: at.span_to(at),
    };
    let word = |text: &str, keyword| {
        token(Token::Word(Word {
            value: text.into(),
            quote_style: None,
            keyword,
        }))
    };
    let mut tokens = vec![
        word("select", Keyword::SELECT),
        token(Token::Mul),
        word("from", Keyword::FROM),
    ];
    if !matches!(cursor.token(0), Token::Word(_)) {
        return Err(cursor.unexpected("a name"));
    }
    while !cursor.at_end() {
        tokens.push(cursor.parser().next_token());
    }
    let mut rewritten = Cursor::new(tokens);
    let query = rewritten.query()?;
    rewritten.expect_end()?;
    Ok(Statement::Query(query))
}
