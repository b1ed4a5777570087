//! A look at Rust source that is just deep enough to measure functions and find words in code.
//!
//! Invariant: `code` keeps line breaks and columns of the source and blanks out comments and literals, so that a brace
//! or a banned word inside a string never counts.

/// One function with its length in lines, signature and braces included.
#[derive(Debug, PartialEq, Eq)]
pub struct Function {
    /// Its name.
    pub name: String,
    /// Line of `fn`, from 1.
    pub line: usize,
    /// Lines from `fn` to the closing brace.
    pub lines: usize,
}

/// The source with comments and the insides of literals replaced by spaces.
pub fn code(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let chars: Vec<char> = source.chars().collect();
    let mut at = 0;
    while at < chars.len() {
        let end = skip(&chars, at);
        if end == at {
            out.push(chars[at]);
            at += 1;
            continue;
        }
        out.extend(
            chars[at..end]
                .iter()
                .map(|c| if *c == '\n' { '\n' } else { ' ' }),
        );
        at = end;
    }
    out
}

/// Where the comment or literal that begins at `at` ends; `at` itself when none begins there.
fn skip(chars: &[char], at: usize) -> usize {
    let next = chars.get(at + 1).copied();
    let before_is_word = at > 0 && (chars[at - 1].is_alphanumeric() || chars[at - 1] == '_');
    match chars[at] {
        '/' if next == Some('/') => (at..chars.len())
            .find(|i| chars[*i] == '\n')
            .unwrap_or(chars.len()),
        '/' if next == Some('*') => block_comment(chars, at),
        '"' => quoted(chars, at + 1, '"'),
        'r' if !before_is_word || chars[at - 1] == 'b' => raw_string(chars, at),
        '\'' if next == Some('\\') => quoted(chars, at + 1, '\''),
        // A lifetime has no closing quote right after its first character.
        '\'' if chars.get(at + 2) == Some(&'\'') => at + 3,
        _ => at,
    }
}

fn block_comment(chars: &[char], at: usize) -> usize {
    let mut depth = 0;
    let mut i = at;
    while i < chars.len() {
        match (chars[i], chars.get(i + 1)) {
            ('/', Some('*')) => {
                depth += 1;
                i += 2;
            }
            ('*', Some('/')) => {
                depth -= 1;
                i += 2;
                if depth == 0 {
                    return i;
                }
            }
            _ => i += 1,
        }
    }
    chars.len()
}

fn quoted(chars: &[char], start: usize, quote: char) -> usize {
    let mut i = start;
    while i < chars.len() {
        match chars[i] {
            '\\' => i += 2,
            c if c == quote => return i + 1,
            _ => i += 1,
        }
    }
    chars.len()
}

fn raw_string(chars: &[char], at: usize) -> usize {
    let hashes = chars[at + 1..].iter().take_while(|c| **c == '#').count();
    if chars.get(at + 1 + hashes) != Some(&'"') {
        return at;
    }
    let body = at + 2 + hashes;
    let closes = |i: &usize| {
        chars[*i] == '"'
            && chars[i + 1..]
                .iter()
                .take(hashes)
                .filter(|c| **c == '#')
                .count()
                == hashes
    };
    (body..chars.len())
        .find(closes)
        .map_or(chars.len(), |i| i + 1 + hashes)
}

/// The functions with a body, nested ones included.
pub fn functions(source: &str) -> Vec<Function> {
    let code = code(source);
    let words = words(&code);
    let mut found = Vec::new();
    for pair in words.windows(2) {
        let ((_, keyword), (start, name)) = (pair[0], pair[1]);
        if keyword != "fn" {
            continue;
        }
        let Some(end) = body_end(&code[start..]) else {
            continue;
        };
        let line = code[..start].matches('\n').count() + 1;
        let lines = code[start..start + end].matches('\n').count() + 1;
        found.push(Function {
            name: name.to_string(),
            line,
            lines,
        });
    }
    found
}

/// Words with their byte offsets.
fn words(code: &str) -> Vec<(usize, &str)> {
    let part = |c: char| c.is_alphanumeric() || c == '_';
    let mut found = Vec::new();
    let mut start = None;
    for (at, c) in code.char_indices().chain([(code.len(), ' ')]) {
        match (part(c), start) {
            (true, None) => start = Some(at),
            (false, Some(from)) => {
                found.push((from, &code[from..at]));
                start = None;
            }
            _ => {}
        }
    }
    found
}

/// Offset after the closing brace of the body; `None` for a declaration without one or a `fn` type.
fn body_end(code: &str) -> Option<usize> {
    let (mut depth, mut round, mut square) = (0i32, 0i32, 0i32);
    for (at, c) in code.char_indices() {
        match c {
            '(' => round += 1,
            ')' => round -= 1,
            '[' => square += 1,
            ']' => square -= 1,
            ';' if depth == 0 && round == 0 && square == 0 => return None,
            '{' => depth += 1,
            '}' => {
                depth -= 1;
                if depth == 0 {
                    return Some(at + 1);
                }
                if depth < 0 {
                    return None;
                }
            }
            _ => {}
        }
        if round < 0 {
            return None;
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_are_measured_without_being_fooled_by_text() {
        let source = r##"
fn short() { "}"; '}'; }
// fn comment() {
fn longer<'a>(x: &'a str) -> &'a str {
    let s = r#"} fn inner() { "#;
    /* } */
    x
}
trait T { fn declared(&self); fn given(&self) {
} }
"##;
        let found: Vec<(String, usize, usize)> = functions(source)
            .into_iter()
            .map(|f| (f.name, f.line, f.lines))
            .collect();
        let expected = [("short", 2, 1), ("longer", 4, 5), ("given", 9, 2)];
        assert_eq!(
            found,
            expected.map(|(name, line, lines)| (name.to_string(), line, lines))
        );
    }

    #[test]
    fn code_keeps_lines_and_drops_literals() {
        let kept = code("let a = \"x\\\"y\"; // z\nlet b = b'\\'';\n'a: loop {}");
        assert_eq!(kept.lines().count(), 3);
        assert!(!kept.contains('x') && !kept.contains('z') && kept.contains("'a: loop"));
    }
}
