//! Which crate of ours depends on which, from `cargo metadata`, and which outside crates each one names.
//!
//! Invariant: only what manifests declare is read; nothing is resolved, built or fetched.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Command;

use serde_json::Value;

/// Direct dependencies of one package.
#[derive(Debug, Default)]
pub struct Package {
    /// Folder below the repository root.
    pub folder: String,
    /// Normal and build dependencies by package name.
    pub needs: BTreeSet<String>,
    /// Dependencies of its tests.
    pub tests_need: BTreeSet<String>,
}

/// The packages of the workspace by name.
///
/// # Errors
/// When cargo cannot read the manifests.
pub fn packages(root: &Path) -> Result<BTreeMap<String, Package>, String> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let arguments = [
        "metadata",
        "--no-deps",
        "--offline",
        "--format-version",
        "1",
    ];
    let output = Command::new(cargo)
        .args(arguments)
        .current_dir(root)
        .output()
        .map_err(|error| error.to_string())?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    let metadata: Value =
        serde_json::from_slice(&output.stdout).map_err(|error| error.to_string())?;
    let list = metadata["packages"]
        .as_array()
        .ok_or("metadata lists no packages")?;
    Ok(list
        .iter()
        .map(|package| (text(&package["name"]), read(root, package)))
        .collect())
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_string()
}

fn read(root: &Path, package: &Value) -> Package {
    let manifest = text(&package["manifest_path"]);
    let folder = Path::new(&manifest)
        .parent()
        .and_then(|folder| folder.strip_prefix(root).ok());
    let folder = folder
        .map(|folder| folder.to_string_lossy().replace('\\', "/"))
        .unwrap_or_default();
    let mut read = Package {
        folder,
        ..Package::default()
    };
    for dependency in package["dependencies"].as_array().into_iter().flatten() {
        let name = text(&dependency["name"]);
        if dependency["kind"].as_str() == Some("dev") {
            read.tests_need.insert(name);
        } else {
            read.needs.insert(name);
        }
    }
    read
}

/// Everything reachable from `start`, without `start` itself.
pub fn reachable<'a>(edges: &BTreeMap<&'a str, Vec<&'a str>>, start: &str) -> BTreeSet<&'a str> {
    let mut found = BTreeSet::new();
    let mut open: Vec<&str> = edges.get(start).into_iter().flatten().copied().collect();
    while let Some(name) = open.pop() {
        if let Some((name, _)) = edges.get_key_value(name)
            && found.insert(*name)
        {
            open.extend(edges[name].iter().copied());
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reachability_is_transitive() {
        let edges = BTreeMap::from([("a", vec!["b"]), ("b", vec!["c"]), ("c", vec![])]);
        assert_eq!(reachable(&edges, "a"), BTreeSet::from(["b", "c"]));
        assert_eq!(reachable(&edges, "c"), BTreeSet::new());
    }
}
