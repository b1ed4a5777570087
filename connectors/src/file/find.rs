//! Which files a pattern names, under the one folder that sources may read.
//!
//! Invariant: a file that is returned lies under the root after all links are resolved; names do not depend on where the root is.

use std::path::{Component, Path, PathBuf};

use super::{Found, unreadable};
use crate::error::ConnectorError;

/// A pattern that matches more is a mistake.
const FILES_MAX: usize = 100_000;
/// Folders that `**` goes down at most.
const DEPTH_MAX: usize = 32;

/// A path below the root, with `*`, `?` and `**` in its parts.
#[derive(Debug)]
pub(super) struct Pattern {
    root: PathBuf,
    text: String,
    parts: Vec<String>,
}

impl Pattern {
    /// Checks the text; touches no file.
    pub(super) fn new(root: &Path, text: &str) -> Result<Self, ConnectorError> {
        let refused = |reason: &str| {
            ConnectorError::option_hint(
                format!("option \"path\" {reason}"),
                "Write a path below file_root, as 'data/*.json'.",
            )
        };
        if text.contains(['\0', '\\', '%']) {
            return Err(refused(
                "must not contain a NUL, a backslash or a percent sign",
            ));
        }
        if text.contains("://") {
            return Err(ConnectorError::Unsupported {
                what: "a path with a scheme in a file source".into(),
                hint: "Use a local path below file_root.".into(),
            });
        }
        let path = Path::new(text);
        let inside = match path.is_absolute() {
            true => path
                .strip_prefix(root)
                .map_err(|_| refused("must lie below file_root"))?,
            false => path,
        };
        let mut parts = Vec::new();
        for component in inside.components() {
            match component {
                Component::CurDir => {}
                Component::Normal(part) => match part.to_str() {
                    Some(part) => parts.push(part.to_owned()),
                    None => return Err(refused("must be text")),
                },
                _ => return Err(refused("must not leave file_root")),
            }
        }
        if parts.is_empty() || text.ends_with('/') {
            return Err(refused("must name files"));
        }
        Ok(Self {
            root: root.to_owned(),
            text: text.to_owned(),
            parts,
        })
    }

    /// The pattern as written.
    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// The files that match now, sorted by name.
    pub(super) fn files(&self) -> Result<Vec<Found>, ConnectorError> {
        let root = self
            .root
            .canonicalize()
            .map_err(|error| unreadable("file_root", &error))?;
        let mut found = Vec::new();
        let parts: Vec<&str> = self.parts.iter().map(String::as_str).collect();
        walk(&root, "", &parts, 0, &mut found)?;
        found.sort();
        found.dedup();
        Ok(found)
    }
}

fn walk(
    root: &Path,
    name: &str,
    parts: &[&str],
    depth: usize,
    found: &mut Vec<Found>,
) -> Result<(), ConnectorError> {
    let Some((part, rest)) = parts.split_first() else {
        return Ok(());
    };
    if *part == "**" {
        walk(root, name, rest, depth, found)?;
    }
    let folder = root.join(name);
    let entries = match std::fs::read_dir(&folder) {
        Ok(entries) => entries,
        // A folder that is not there holds no files; one that may not be read is said.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::NotADirectory => return Ok(()),
        Err(error) => return Err(unreadable(name, &error)),
    };
    for entry in entries {
        let entry = entry.map_err(|error| unreadable(name, &error))?;
        let Some(here) = entry.file_name().to_str().map(str::to_owned) else {
            continue;
        };
        let hidden = here.starts_with('.') && !part.starts_with('.');
        let below = if name.is_empty() {
            here.clone()
        } else {
            format!("{name}/{here}")
        };
        // What a link leads to must lie below the root as well; a file that went meanwhile is not there.
        let Ok(real) = entry.path().canonicalize() else {
            continue;
        };
        if hidden || !real.starts_with(root) {
            continue;
        }
        let is_folder = real.is_dir();
        if *part == "**" {
            if is_folder && depth < DEPTH_MAX {
                walk(root, &below, parts, depth + 1, found)?;
            }
        } else if matches(part, &here) {
            match (rest.is_empty(), is_folder) {
                (true, false) => found.push((below, real)),
                (false, true) => walk(root, &below, rest, depth + 1, found)?,
                _ => {}
            }
        }
        if found.len() > FILES_MAX {
            return Err(ConnectorError::option_hint(
                format!("option \"path\" matches more than {FILES_MAX} files"),
                "Write a narrower pattern, or several sources.",
            ));
        }
    }
    Ok(())
}

/// `*` is any text and `?` any character; greedy with one step back, so a hostile pattern costs at most pattern x name.
fn matches(pattern: &str, name: &str) -> bool {
    let (pattern, name): (Vec<char>, Vec<char>) =
        (pattern.chars().collect(), name.chars().collect());
    let (mut p, mut n, mut star) = (0, 0, None);
    while n < name.len() {
        match pattern.get(p) {
            Some('*') => {
                star = Some((p, n));
                p += 1;
            }
            Some(c) if *c == '?' || name.get(n) == Some(c) => {
                p += 1;
                n += 1;
            }
            _ => match star {
                Some((at, from)) => {
                    star = Some((at, from + 1));
                    p = at + 1;
                    n = from + 1;
                }
                None => return false,
            },
        }
    }
    pattern
        .get(p..)
        .unwrap_or_default()
        .iter()
        .all(|c| *c == '*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_in_a_shell() {
        for (pattern, name, expected) in [
            ("*.json", "a.json", true),
            ("*.json", "a.jsonl", false),
            ("?-*-b", "1-x-y-b", true),
            ("*a*a*", "banana", true),
            ("a?", "a", false),
            ("", "", true),
            ("*", "", true),
        ] {
            assert_eq!(matches(pattern, name), expected, "{pattern} {name}");
        }
    }

    #[test]
    fn nothing_outside_of_the_root_can_be_named() {
        let root = Path::new("/srv/data");
        for bad in [
            "../x",
            "a/../../x",
            "/etc/passwd",
            "a\\b",
            "%2e%2e/x",
            "a\0b",
            "",
            ".",
            "a/",
            "file:///x",
        ] {
            assert!(Pattern::new(root, bad).is_err(), "{bad:?}");
        }
        for good in ["a.json", "./a/*.json", "/srv/data/a/**/b?.csv", "a/..b"] {
            assert!(Pattern::new(root, good).is_ok(), "{good:?}");
        }
    }
}
