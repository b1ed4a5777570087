//! The limits on statement text, checked on its tokens before anything recurses over them.
//!
//! Invariant: a token stream that passes [`check`] nests at most [`NESTING_MAX`] levels and builds trees at most
//! [`CHAIN_MAX`] operators deep per level, so that parsing, printing, comparing and dropping it fit a thread's stack.

use sqlparser::tokenizer::{Location, Token, TokenWithSpan};

/// Most bytes in one text given to `parse`.
pub const STATEMENT_BYTES_MAX: usize = 1 << 20;

/// Most levels of parentheses, brackets, CASE and unary operators together.
pub const NESTING_MAX: usize = 50;

/// Most terms in one chain of operators, and most relations in one level of joins.
pub const CHAIN_MAX: usize = 1000;

/// Most queries in one level of UNION, EXCEPT and INTERSECT. Fewer than operators: copying sqlparser's tree takes some
/// 3 kB of stack for each, and a thread has 2 MB.
pub const SET_QUERIES_MAX: usize = 250;

/// What sqlparser may recurse; its own steps per level of nesting are fewer than sixteen.
pub(crate) const PARSER_RECURSION_MAX: usize = NESTING_MAX * 16;

/// A limit that was passed, and where.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Excess {
    Deep(Location),
    Long(Location),
}

#[derive(Default)]
struct Level {
    /// Operators since the last comma: commas separate list items, which do not nest in each other.
    chain: usize,
    /// Joins and set operations: a comma does not end these.
    joins: usize,
    set_operations: usize,
    /// `CASE` rather than a bracket opened this level.
    case: bool,
}

/// Words that work as operators between or after operands, or build one tree level each.
const OPERATOR_WORDS: &[&str] = &[
    "and", "or", "is", "isnull", "notnull", "like", "ilike", "in", "between", "similar", "collate",
    "overlaps", "operator", "at", "escape", "any", "all", "some", "to",
];

/// Words that add one query to a level.
const SET_WORDS: &[&str] = &["union", "except", "intersect"];

/// Words that may precede an operand any number of times, each time one level deeper.
const PREFIX_WORDS: &[&str] = &["not", "interval", "exists", "distinct", "prior"];

/// Checks the tokens of one statement.
pub(crate) fn check(tokens: &[TokenWithSpan]) -> Result<(), Excess> {
    let mut levels: Vec<Level> = vec![Level::default()];
    let mut prefix_run = 0_usize;
    let mut type_depth = 0_usize;
    let mut previous: Option<&Token> = None;
    for token in tokens {
        let at = token.span.start;
        let word = unquoted(&token.token);
        if is_prefix(&token.token, word) {
            prefix_run += 1;
        } else {
            prefix_run = 0;
        }
        match &token.token {
            Token::LParen | Token::LBracket | Token::LBrace => {
                // `[` after `]` is one more array dimension or subscript: counted as a chain as well.
                if matches!(previous, Some(Token::RBracket))
                    && bump(&mut levels, at)? >= NESTING_MAX
                {
                    return Err(Excess::Deep(at));
                }
                levels.push(Level::default());
            }
            Token::RParen | Token::RBracket | Token::RBrace => close_bracket(&mut levels),
            Token::Comma => {
                if let Some(level) = levels.last_mut() {
                    level.chain = 0;
                }
            }
            Token::Lt
                if previous
                    .and_then(unquoted)
                    .is_some_and(|w| w == "struct" || w == "array" || w == "map") =>
            {
                type_depth += 1;
            }
            Token::Gt => type_depth = type_depth.saturating_sub(1),
            Token::ShiftRight => type_depth = type_depth.saturating_sub(2),
            Token::Word(_) => word_step(&mut levels, word, previous, at)?,
            other if is_operand(other) => {}
            _ => {
                bump(&mut levels, at)?;
            }
        }
        if levels.len() - 1 + prefix_run + type_depth > NESTING_MAX {
            return Err(Excess::Deep(at));
        }
        previous = Some(&token.token);
    }
    Ok(())
}

fn word_step(
    levels: &mut Vec<Level>,
    word: Option<&str>,
    previous: Option<&Token>,
    at: Location,
) -> Result<(), Excess> {
    let Some(word) = word else { return Ok(()) };
    if matches!(previous, Some(Token::Period)) {
        return Ok(()); // t.case is a column
    }
    if word == "case" {
        levels.push(Level {
            case: true,
            ..Level::default()
        });
    } else if word == "end" {
        if levels.last().is_some_and(|level| level.case) {
            levels.pop();
        }
    } else if OPERATOR_WORDS.contains(&word) {
        bump(levels, at)?;
    } else if let Some(level) = levels.last_mut() {
        level.joins += usize::from(word == "join");
        level.set_operations += usize::from(SET_WORDS.contains(&word));
        if level.joins >= CHAIN_MAX || level.set_operations >= SET_QUERIES_MAX {
            return Err(Excess::Long(at));
        }
    }
    Ok(())
}

/// Counts one operator; n operators join n + 1 terms.
fn bump(levels: &mut [Level], at: Location) -> Result<usize, Excess> {
    let Some(level) = levels.last_mut() else {
        return Ok(0);
    };
    level.chain += 1;
    if level.chain >= CHAIN_MAX {
        Err(Excess::Long(at))
    } else {
        Ok(level.chain)
    }
}

/// A closing bracket also ends every CASE left open inside it; that text is a syntax error anyway.
fn close_bracket(levels: &mut Vec<Level>) {
    while levels.len() > 1 {
        if levels.pop().is_some_and(|level| !level.case) {
            return;
        }
    }
}

fn unquoted(token: &Token) -> Option<&str> {
    match token {
        Token::Word(word) if word.quote_style.is_none() => Some(word.value.as_str()),
        _ => None,
    }
}

fn is_prefix(token: &Token, word: Option<&str>) -> bool {
    match token {
        Token::Plus
        | Token::Minus
        | Token::Tilde
        | Token::ExclamationMark
        | Token::DoubleExclamationMark
        | Token::PGSquareRoot
        | Token::PGCubeRoot
        | Token::AtSign
        | Token::Sharp
        | Token::AtDashAt
        | Token::QuestionMarkDash
        | Token::QuestionPipe => true,
        Token::Word(_) => word.is_some_and(|w| PREFIX_WORDS.contains(&w)),
        _ => false,
    }
}

fn is_operand(token: &Token) -> bool {
    matches!(
        token,
        Token::Number(..)
            | Token::Char(_)
            | Token::SingleQuotedString(_)
            | Token::SingleQuotedByteStringLiteral(_)
            | Token::HexStringLiteral(_)
            | Token::Placeholder(_)
            | Token::Period
            | Token::EOF
    )
}
