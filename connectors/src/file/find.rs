//! Which files a pattern names, below the place that it begins with.
//!
//! Invariant: names do not depend on where the place is. A listing that fails anywhere finds nothing rather than some of the files.

use std::path::{Component, Path};

use super::place::{Child, Found, Place, below, in_store, refuse_store_options, scheme};
use crate::error::ConnectorError;
use crate::options::Options;

/// A pattern that matches more is a mistake.
const FILES_MAX: usize = 100_000;
/// Folders that `**` goes down at most.
const DEPTH_MAX: usize = 32;

/// A path below a place, with `*`, `?` and `**` in its parts.
#[derive(Debug)]
pub(super) struct Pattern {
    place: Place,
    text: String,
    parts: Vec<String>,
}

impl Pattern {
    /// Checks option `path`; touches no file and contacts nobody.
    pub(super) fn new(root: &Path, options: Options<'_>) -> Result<Self, ConnectorError> {
        let text = options.required("path")?;
        let (place, parts) = match scheme(text) {
            Some(_) => in_store(options, text)?,
            None => {
                refuse_store_options(options)?;
                (Place::Disk(root.to_owned()), on_disk(root, text)?)
            }
        };
        Ok(Self {
            place,
            text: text.to_owned(),
            parts,
        })
    }

    /// The pattern as written.
    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// Where its files are.
    pub(super) fn place(&self) -> &Place {
        &self.place
    }

    /// The same pattern somewhere else.
    #[cfg(test)]
    pub(super) fn moved(self, place: Place) -> Self {
        Self { place, ..self }
    }

    /// The files that match now, sorted by name.
    pub(super) fn files(&self) -> Result<Vec<Found>, ConnectorError> {
        let mut found = Vec::new();
        let parts: Vec<&str> = self.parts.iter().map(String::as_str).collect();
        walk(&self.place, "", &parts, 0, &mut found)?;
        found.sort_by(|one, other| one.name.cmp(&other.name));
        found.dedup_by(|one, other| one.name == other.name);
        Ok(found)
    }
}

/// The parts of a path below the folder that sources may read.
fn on_disk(root: &Path, text: &str) -> Result<Vec<String>, ConnectorError> {
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
    Ok(parts)
}

fn walk(
    place: &Place,
    folder: &str,
    parts: &[&str],
    depth: usize,
    found: &mut Vec<Found>,
) -> Result<(), ConnectorError> {
    let Some((part, rest)) = parts.split_first() else {
        return Ok(());
    };
    if *part == "**" {
        walk(place, folder, rest, depth, found)?;
    }
    for Child { name, file } in place.children(folder)? {
        if place.hides(&name, part) {
            continue;
        }
        let here = below(folder, &name);
        if *part == "**" {
            if file.is_none() && depth < DEPTH_MAX {
                walk(place, &here, parts, depth + 1, found)?;
            }
        } else if matches(part, &name) {
            match (rest.is_empty(), file) {
                (true, Some(location)) => {
                    let name = place.name_of(here);
                    found.push(Found { name, location });
                }
                (false, None) => walk(place, &here, rest, depth + 1, found)?,
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
    use std::collections::BTreeMap;

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
        let new = |path: &str| {
            let options = BTreeMap::from([("path".to_owned(), path.to_owned())]);
            Pattern::new(Path::new("/srv/data"), Options(&options))
        };
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
            assert!(new(bad).is_err(), "{bad:?}");
        }
        for good in ["a.json", "./a/*.json", "/srv/data/a/**/b?.csv", "a/..b"] {
            assert!(new(good).is_ok(), "{good:?}");
        }
    }
}
