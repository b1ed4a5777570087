//! SQL text to statements and back: the grammar of Thalweg, without names, types or IO.
//!
//! Invariant: no input makes this crate panic or overflow the stack; whatever is too large or too deep is refused on
//! the token stream, before anything recurses. For every statement `s` that [`parse`] returns, `parse(s.to_string())`
//! gives an equal statement.

mod column_name;
mod copy;
mod create;
mod cursor;
mod dialect;
mod display;
mod error;
mod lexer;
pub mod limits;
mod options;
mod parser;
mod portal;
mod query;
mod redact;
mod report;
mod session;
mod show;
mod statement;
mod subscribe;
mod suggest;
mod unsupported;
mod words;

pub use column_name::column_name;
pub use copy::{Copy, CopyFormat, CopyHeader, CopyOptions, CopySubject};
pub use dialect::ThalwegDialect;
pub use display::{quote_ident, quote_literal};
pub use error::{Place, SqlError};
pub use parser::{Parsed, parse, parse_expr, parse_query};
pub use portal::{Declare, Execute, Fetch, Prepare};
pub use redact::{redact_text, redacted};
pub use report::Report;
pub use sqlparser::ast;
pub use statement::*;
pub use subscribe::{Subscribe, SubscribeInput, SubscribeStart};
pub use suggest::suggest;
