//! COPY: its data, its grammar (both the parenthesised options and the older bare ones) and its printing.
//!
//! Invariant: options are checked for the format they belong to, so a COPY that parses can be carried out as written.

use std::fmt::{self, Display, Formatter};

use sqlparser::ast;
use sqlparser::tokenizer::Token;

use crate::cursor::{Cursor, Parse};
use crate::display::{object_name, quote_ident, quote_literal};
use crate::error::Fault;
use crate::query;
use crate::statement::Statement;
use crate::subscribe;
use crate::suggest::suggest;

/// `COPY x [(columns)] FROM STDIN | TO STDOUT`, `COPY (statement) TO STDOUT`, with options.
#[derive(Debug, Clone, PartialEq)]
pub struct Copy {
    /// What is copied, and which way.
    pub subject: CopySubject,
    /// How rows are written.
    pub options: CopyOptions,
}

/// What COPY copies.
#[derive(Debug, Clone, PartialEq)]
pub enum CopySubject {
    /// `COPY table [(columns)] FROM STDIN`.
    From {
        /// The table.
        table: ast::ObjectName,
        /// Columns in the order of the data; empty for all.
        columns: Vec<ast::Ident>,
    },
    /// `COPY relation [(columns)] TO STDOUT`.
    Relation {
        /// The relation.
        name: ast::ObjectName,
        /// Columns in the order of the data; empty for all.
        columns: Vec<ast::Ident>,
    },
    /// `COPY (query | DML with RETURNING | SUBSCRIBE) TO STDOUT`.
    Statement(Box<Statement>),
}

/// Formats of COPY.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CopyFormat {
    /// Tab-separated lines with backslash escapes.
    #[default]
    Text,
    /// Comma-separated values.
    Csv,
    /// Postgres' binary format.
    Binary,
}

/// How COPY writes and reads rows.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CopyOptions {
    /// `FORMAT`.
    pub format: CopyFormat,
    /// `DELIMITER`; tab for text, comma for CSV.
    pub delimiter: Option<char>,
    /// `NULL`; `\N` for text, an unquoted empty value for CSV.
    pub null: Option<String>,
    /// `HEADER`.
    pub header: CopyHeader,
    /// `QUOTE`; a double quote.
    pub quote: Option<char>,
    /// `ESCAPE`; the quote.
    pub escape: Option<char>,
}

/// `HEADER`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CopyHeader {
    /// There is none.
    #[default]
    No,
    /// The first line holds names; they are not looked at when reading.
    Yes,
    /// The first line holds the names of the columns in their order.
    Match,
}

const OPTIONS: &[&str] = &[
    "format",
    "delimiter",
    "null",
    "header",
    "quote",
    "escape",
    "encoding",
];

const UNBUILT: &[&str] = &[
    "freeze",
    "force_quote",
    "force_not_null",
    "force_null",
    "default",
    "on_error",
    "log_verbosity",
    "force",
    "where",
];

/// Parses COPY.
pub(crate) fn copy(cursor: &mut Cursor) -> Parse<Statement> {
    cursor.expect(&["copy"])?;
    let subject = if cursor.accept_token(&Token::LParen) {
        let inner = if cursor.at(&["subscribe"]) {
            subscribe::subscribe(cursor)?
        } else {
            query::query_or_dml(cursor)?
        };
        cursor.expect_token(&Token::RParen)?;
        cursor.expect(&["to"])?;
        stream(cursor, "stdout")?;
        CopySubject::Statement(Box::new(inner))
    } else {
        let name = cursor.object_name()?;
        let columns = if *cursor.token(0) == Token::LParen {
            cursor.parenthesized(Cursor::ident)?
        } else {
            Vec::new()
        };
        if cursor.expect_one(&["from", "to"])? == "from" {
            stream(cursor, "stdin")?;
            CopySubject::From {
                table: name,
                columns,
            }
        } else {
            stream(cursor, "stdout")?;
            CopySubject::Relation { name, columns }
        }
    };
    let at = cursor.place();
    let options = options(cursor)?;
    check(&options).map_err(|message| Fault::Rule {
        sqlstate: "22023",
        message,
        hint: None,
        at,
    })?;
    Ok(Statement::Copy(Box::new(Copy { subject, options })))
}

/// STDIN or STDOUT, which Postgres takes for each other; files and programs of the server are out of reach.
fn stream(cursor: &mut Cursor, _expected: &str) -> Parse<()> {
    if cursor.accept(&["stdin"]) || cursor.accept(&["stdout"]) {
        return Ok(());
    }
    if cursor.at(&["program"]) || matches!(cursor.token(0), Token::SingleQuotedString(_)) {
        return Err(cursor.unsupported(
            "COPY with a file or program of the server",
            Some("Use STDIN or STDOUT, or psql's \\copy."),
        ));
    }
    Err(cursor.unexpected_of(&["stdin", "stdout"]))
}

fn options(cursor: &mut Cursor) -> Parse<CopyOptions> {
    let mut options = CopyOptions::default();
    let mut seen = Vec::new();
    let with = cursor.accept(&["with"]);
    if cursor.accept_token(&Token::LParen) {
        loop {
            option(cursor, &mut options, &mut seen, true)?;
            if !cursor.accept_token(&Token::Comma) {
                break;
            }
        }
        cursor.expect_token(&Token::RParen)?;
        return Ok(options);
    }
    if with && cursor.at_end() {
        return Err(cursor.unexpected("an option"));
    }
    while !cursor.at_end() {
        option(cursor, &mut options, &mut seen, false)?;
    }
    Ok(options)
}

fn option(
    cursor: &mut Cursor,
    options: &mut CopyOptions,
    seen: &mut Vec<String>,
    listed: bool,
) -> Parse<()> {
    let at = cursor.place();
    let Some(mut name) = cursor.word(0).map(str::to_string) else {
        return Err(cursor.unexpected("an option name"));
    };
    if UNBUILT.contains(&name.as_str()) {
        return Err(cursor.unsupported(&format!("COPY with {}", name.to_uppercase()), None));
    }
    cursor.skip(1);
    // The older form names the format by itself.
    if !listed && matches!(name.as_str(), "csv" | "binary") {
        options.format = if name == "csv" {
            CopyFormat::Csv
        } else {
            CopyFormat::Binary
        };
        name = "format".into();
    } else {
        match name.as_str() {
            "format" if listed => options.format = format(cursor)?,
            "header" => options.header = header(cursor, listed)?,
            "delimiter" | "quote" | "escape" | "null" | "encoding" => {
                if !listed {
                    cursor.accept(&["as"]);
                }
                value(cursor, &name, options)?;
            }
            _ => {
                return Err(Fault::Rule {
                    sqlstate: "42601",
                    message: format!("option \"{name}\" not recognized"),
                    hint: suggest(&name, OPTIONS.iter())
                        .map(|near| format!("Perhaps you meant \"{near}\".")),
                    at,
                });
            }
        }
    }
    if seen.contains(&name) {
        return Err(Fault::Rule {
            sqlstate: "42601",
            message: "conflicting or redundant options".into(),
            hint: None,
            at,
        });
    }
    seen.push(name);
    Ok(())
}

fn format(cursor: &mut Cursor) -> Parse<CopyFormat> {
    let at = cursor.place();
    let word = match cursor.token(0) {
        Token::SingleQuotedString(text) => text.to_lowercase(),
        Token::Word(word) => word.value.to_lowercase(),
        _ => return Err(cursor.unexpected("TEXT, CSV or BINARY")),
    };
    cursor.skip(1);
    match word.as_str() {
        "text" => Ok(CopyFormat::Text),
        "csv" => Ok(CopyFormat::Csv),
        "binary" => Ok(CopyFormat::Binary),
        other => Err(Fault::Rule {
            sqlstate: "22023",
            message: format!("COPY format \"{other}\" not recognized"),
            hint: Some("The formats are text, csv and binary.".into()),
            at,
        }),
    }
}

fn header(cursor: &mut Cursor, listed: bool) -> Parse<CopyHeader> {
    if !listed {
        return Ok(CopyHeader::Yes);
    }
    for (words, header) in [
        (["true", "on"], CopyHeader::Yes),
        (["false", "off"], CopyHeader::No),
    ] {
        if words.iter().any(|word| cursor.accept(&[word])) {
            return Ok(header);
        }
    }
    if cursor.accept(&["match"]) {
        return Ok(CopyHeader::Match);
    }
    Ok(CopyHeader::Yes)
}

fn value(cursor: &mut Cursor, name: &str, options: &mut CopyOptions) -> Parse<()> {
    let at = cursor.place();
    if name == "encoding" {
        let encoding = match cursor.token(0) {
            Token::SingleQuotedString(text) => text.clone(),
            Token::Word(word) => word.value.clone(),
            _ => return Err(cursor.unexpected("an encoding")),
        };
        cursor.skip(1);
        let plain: String = encoding
            .chars()
            .filter(char::is_ascii_alphanumeric)
            .collect();
        if plain.eq_ignore_ascii_case("utf8") {
            return Ok(());
        }
        return Err(Fault::Rule {
            sqlstate: "0A000",
            message: format!("encoding \"{encoding}\" is not supported"),
            hint: Some("The encoding is UTF8.".into()),
            at,
        });
    }
    let text = cursor.string()?;
    if name == "null" {
        options.null = Some(text);
        return Ok(());
    }
    let mut characters = text.chars();
    let (Some(character), None) = (characters.next(), characters.next()) else {
        return Err(one_byte(name, at));
    };
    if !character.is_ascii() {
        return Err(one_byte(name, at));
    }
    match name {
        "delimiter" => options.delimiter = Some(character),
        "quote" => options.quote = Some(character),
        _ => options.escape = Some(character),
    }
    Ok(())
}

fn one_byte(name: &str, at: Option<sqlparser::tokenizer::Location>) -> Fault {
    Fault::Rule {
        sqlstate: "22023",
        message: format!("COPY {name} must be a single one-byte character"),
        hint: None,
        at,
    }
}

/// What does not fit together, in Postgres' words.
fn check(options: &CopyOptions) -> Result<(), String> {
    let csv = options.format == CopyFormat::Csv;
    if options.format == CopyFormat::Binary {
        if options.delimiter.is_some() {
            return Err("cannot specify DELIMITER in BINARY mode".into());
        }
        if options.null.is_some() {
            return Err("cannot specify NULL in BINARY mode".into());
        }
        if options.header != CopyHeader::No {
            return Err("cannot specify HEADER in BINARY mode".into());
        }
    }
    if !csv && options.quote.is_some() {
        return Err("COPY quote available only in CSV mode".into());
    }
    if !csv && options.escape.is_some() {
        return Err("COPY escape available only in CSV mode".into());
    }
    let delimiter = options.delimiter.unwrap_or(if csv { ',' } else { '\t' });
    if matches!(delimiter, '\n' | '\r') {
        return Err("COPY delimiter cannot be newline or carriage return".into());
    }
    if !csv && (delimiter.is_ascii_alphanumeric() || matches!(delimiter, '\\' | '.')) {
        return Err(format!("COPY delimiter cannot be \"{delimiter}\""));
    }
    if csv && options.quote.unwrap_or('"') == delimiter {
        return Err("COPY delimiter and quote must be different".into());
    }
    let null = options.null.as_deref().unwrap_or_default();
    if null.contains(['\n', '\r']) {
        return Err("COPY null representation cannot use newline or carriage return".into());
    }
    if null.contains(delimiter) {
        return Err("COPY delimiter must not appear in the NULL specification".into());
    }
    if csv && null.contains(options.quote.unwrap_or('"')) {
        return Err("CSV quote character must not appear in the NULL specification".into());
    }
    Ok(())
}

impl Display for Copy {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let list = |columns: &[ast::Ident]| {
            let names: Vec<String> = columns.iter().map(|c| quote_ident(&c.value)).collect();
            if names.is_empty() {
                String::new()
            } else {
                format!(" ({})", names.join(", "))
            }
        };
        match &self.subject {
            CopySubject::From { table, columns } => {
                write!(f, "COPY {}{} FROM STDIN", object_name(table), list(columns))?;
            }
            CopySubject::Relation { name, columns } => {
                write!(f, "COPY {}{} TO STDOUT", object_name(name), list(columns))?;
            }
            CopySubject::Statement(statement) => write!(f, "COPY ({statement}) TO STDOUT")?,
        }
        let options = self.options.printed();
        if options.is_empty() {
            return Ok(());
        }
        write!(f, " WITH ({})", options.join(", "))
    }
}

impl CopyOptions {
    fn printed(&self) -> Vec<String> {
        let mut out = Vec::new();
        match self.format {
            CopyFormat::Text => {}
            CopyFormat::Csv => out.push("FORMAT csv".to_string()),
            CopyFormat::Binary => out.push("FORMAT binary".to_string()),
        }
        let mut character = |name: &str, value: Option<char>| {
            if let Some(value) = value {
                out.push(format!("{name} {}", quote_literal(&value.to_string())));
            }
        };
        character("DELIMITER", self.delimiter);
        character("QUOTE", self.quote);
        character("ESCAPE", self.escape);
        if let Some(null) = &self.null {
            out.push(format!("NULL {}", quote_literal(null)));
        }
        match self.header {
            CopyHeader::No => {}
            CopyHeader::Yes => out.push("HEADER true".to_string()),
            CopyHeader::Match => out.push("HEADER match".to_string()),
        }
        out
    }
}
