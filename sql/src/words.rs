//! Which words cannot stand for a name without quotes.
//!
//! Invariant: both lists are sorted, as the lookups search them by halves.

/// Postgres' fully reserved words: never a name.
const RESERVED: &[&str] = &[
    "all",
    "analyse",
    "analyze",
    "and",
    "any",
    "array",
    "as",
    "asc",
    "asymmetric",
    "both",
    "case",
    "cast",
    "check",
    "collate",
    "column",
    "constraint",
    "create",
    "current_catalog",
    "current_date",
    "current_role",
    "current_time",
    "current_timestamp",
    "current_user",
    "default",
    "deferrable",
    "desc",
    "distinct",
    "do",
    "else",
    "end",
    "except",
    "false",
    "fetch",
    "for",
    "foreign",
    "from",
    "grant",
    "group",
    "having",
    "in",
    "initially",
    "intersect",
    "into",
    "lateral",
    "leading",
    "limit",
    "localtime",
    "localtimestamp",
    "not",
    "null",
    "offset",
    "on",
    "only",
    "or",
    "order",
    "placing",
    "primary",
    "references",
    "returning",
    "select",
    "session_user",
    "some",
    "symmetric",
    "system_user",
    "table",
    "then",
    "to",
    "trailing",
    "true",
    "union",
    "unique",
    "user",
    "using",
    "variadic",
    "when",
    "where",
    "window",
    "with",
];

/// Words that are names in most places; printing quotes them so that they are names in all.
const QUOTED: &[&str] = &[
    "authorization",
    "binary",
    "collation",
    "concurrently",
    "cross",
    "current_schema",
    "exists",
    "freeze",
    "full",
    "if",
    "ilike",
    "inner",
    "interval",
    "is",
    "isnull",
    "join",
    "left",
    "like",
    "natural",
    "notnull",
    "outer",
    "overlaps",
    "right",
    "similar",
    "struct",
    "tablesample",
    "trim",
    "values",
    "verbose",
];

/// True for a word that is never a name unless quoted.
pub(crate) fn is_reserved(word: &str) -> bool {
    RESERVED.binary_search(&word).is_ok()
}

/// True for a name that has to be printed in quotes.
pub(crate) fn needs_quotes(name: &str) -> bool {
    let mut characters = name.chars();
    let plain = characters
        .next()
        .is_some_and(|c| c.is_ascii_lowercase() || c == '_' || !c.is_ascii() && c.is_alphabetic())
        && characters.all(|c| {
            c.is_ascii_lowercase()
                || c.is_ascii_digit()
                || c == '_'
                || !c.is_ascii() && c.is_alphanumeric()
        });
    !plain || is_reserved(name) || QUOTED.binary_search(&name).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_sorted() {
        assert!(RESERVED.is_sorted() && QUOTED.is_sorted());
    }

    #[test]
    fn only_plain_unreserved_names_go_bare() {
        for name in ["a", "_x1", "größe", "clicks"] {
            assert!(!needs_quotes(name), "{name}");
        }
        for name in ["", "A", "1a", "a b", "select", "a-b", "x$"] {
            assert!(needs_quotes(name), "{name}");
        }
    }
}
