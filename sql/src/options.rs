//! Option lists: `WITH (name = value, ...)`, `OPTIONS (...)` and `ENCODE x (...)`, uninterpreted; FORMAT and INCLUDE.
//!
//! Invariant: a list never holds the same name twice.

use sqlparser::tokenizer::Token;

use crate::cursor::{Cursor, Parse};
use crate::error::Fault;
use crate::statement::{Format, IncludeColumn, IncludeKind, OptionValue, WithOption};

impl Cursor {
    /// `WITH (...)` when it is there.
    pub(crate) fn with_options(&mut self) -> Parse<Vec<WithOption>> {
        if self.accept(&["with"]) {
            self.option_list()
        } else {
            Ok(Vec::new())
        }
    }

    /// `(name = value, ...)`, possibly empty.
    pub(crate) fn option_list(&mut self) -> Parse<Vec<WithOption>> {
        self.expect_token(&Token::LParen)?;
        let mut options: Vec<WithOption> = Vec::new();
        if self.accept_token(&Token::RParen) {
            return Ok(options);
        }
        loop {
            let at = self.place();
            let name = self.option_name()?;
            self.expect_token(&Token::Eq)?;
            let value = self.option_value()?;
            if options.iter().any(|o| o.name == name) {
                return Err(Fault::Rule {
                    sqlstate: "42601",
                    message: format!("option \"{name}\" is given twice"),
                    hint: None,
                    at,
                });
            }
            options.push(WithOption { name, value });
            if !self.accept_token(&Token::Comma) {
                break;
            }
        }
        self.expect_token(&Token::RParen)?;
        Ok(options)
    }

    /// A dotted name, or any name as a string literal.
    fn option_name(&mut self) -> Parse<String> {
        if let Token::SingleQuotedString(_) = self.token(0) {
            return self.string();
        }
        let mut name = String::new();
        loop {
            let Token::Word(word) = self.token(0) else {
                return Err(self.unexpected("an option name"));
            };
            name.push_str(&word.value);
            self.skip(1);
            if !self.accept_token(&Token::Period) {
                return Ok(name);
            }
            name.push('.');
        }
    }

    fn option_value(&mut self) -> Parse<OptionValue> {
        let value = match self.token(0) {
            Token::SingleQuotedString(text) => OptionValue::String(text.clone()),
            Token::Number(text, _) => OptionValue::Number(text.clone()),
            Token::Minus | Token::Plus => return self.signed_number(),
            Token::Word(word) if word.quote_style.is_some() => {
                OptionValue::Ident(word.value.clone())
            }
            Token::Word(word) if word.value == "true" => OptionValue::Bool(true),
            Token::Word(word) if word.value == "false" => OptionValue::Bool(false),
            Token::Word(word)
                if word.value == "secret" && matches!(self.token(1), Token::Word(_)) =>
            {
                self.skip(1);
                return Ok(OptionValue::Secret(self.plain_name()?));
            }
            Token::Word(word) => OptionValue::Ident(word.value.clone()),
            _ => {
                return Err(
                    self.unexpected("a string, a number, true, false, a name or SECRET name")
                );
            }
        };
        self.skip(1);
        Ok(value)
    }

    fn signed_number(&mut self) -> Parse<OptionValue> {
        let negative = *self.token(0) == Token::Minus;
        self.skip(1);
        let Token::Number(text, _) = self.token(0) else {
            return Err(self.unexpected("a number"));
        };
        let text = if negative {
            format!("-{text}")
        } else {
            text.clone()
        };
        self.skip(1);
        Ok(OptionValue::Number(text))
    }

    /// `FORMAT row ENCODE encoding [(options)] [KEY ENCODE encoding]` when it is there.
    pub(crate) fn format(&mut self) -> Parse<Option<Format>> {
        if !self.accept(&["format"]) {
            return Ok(None);
        }
        let row = self.upper_word("a row format such as PLAIN, UPSERT or DEBEZIUM")?;
        self.expect(&["encode"])?;
        let encode = self.upper_word("an encoding such as JSON, AVRO or CSV")?;
        let options = if *self.token(0) == Token::LParen {
            self.option_list()?
        } else {
            Vec::new()
        };
        let key_encode = if self.accept(&["key"]) {
            self.expect(&["encode"])?;
            Some(self.upper_word("an encoding such as JSON, TEXT or BYTES")?)
        } else {
            None
        };
        Ok(Some(Format {
            row,
            encode,
            options,
            key_encode,
        }))
    }

    fn upper_word(&mut self, expected: &str) -> Parse<String> {
        let Some(word) = self.word(0) else {
            return Err(self.unexpected(expected));
        };
        let word = word.to_ascii_uppercase();
        self.skip(1);
        Ok(word)
    }

    /// `INCLUDE part [AS name]` any number of times.
    pub(crate) fn include(&mut self) -> Parse<Vec<IncludeColumn>> {
        const PARTS: &[&str] = &[
            "key",
            "partition",
            "offset",
            "timestamp",
            "header",
            "headers",
            "payload",
        ];
        let mut columns = Vec::new();
        while self.accept(&["include"]) {
            let kind = match self.expect_one(PARTS)? {
                "key" => IncludeKind::Key,
                "partition" => IncludeKind::Partition,
                "offset" => IncludeKind::Offset,
                "timestamp" => IncludeKind::Timestamp,
                "header" => IncludeKind::Header(self.string()?),
                "headers" => IncludeKind::Headers,
                _ => IncludeKind::Payload,
            };
            let alias = if self.accept(&["as"]) {
                Some(self.ident()?)
            } else {
                None
            };
            columns.push(IncludeColumn { kind, alias });
        }
        Ok(columns)
    }
}
