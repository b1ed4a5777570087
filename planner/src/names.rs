//! Names inside plans: folding, uniqueness and nearest-name hints.
//!
//! Invariant: inside a plan every output name is unique; what follows [`SEPARATOR`] in a name is never shown.

use thalweg_sql::ast;

/// Splits a visible name from the suffix that makes it unique. No identifier can contain it: the lexer refuses control bytes.
pub(crate) const SEPARATOR: char = '\u{1}';

/// The nearest candidate, if one is near enough to be worth a hint.
pub(crate) fn nearest(name: &str, candidates: &[&str]) -> Option<String> {
    thalweg_sql::suggest(name, candidates.iter().filter(|c| !c.contains(SEPARATOR)))
}

/// The identifier as names are compared: folded to lower case unless quoted.
pub(crate) fn fold(ident: &ast::Ident) -> String {
    if ident.quote_style.is_some() {
        ident.value.clone()
    } else {
        ident.value.to_lowercase()
    }
}

/// A quoted identifier, so that nothing folds it again.
pub(crate) fn quoted(name: impl Into<String>) -> ast::Ident {
    ast::Ident::with_quote('"', name)
}

/// The folded last part of a possibly qualified name.
pub(crate) fn last_part(name: &ast::ObjectName) -> String {
    name.0
        .last()
        .and_then(|part| part.as_ident())
        .map(fold)
        .unwrap_or_default()
}
