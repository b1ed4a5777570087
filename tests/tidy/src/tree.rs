//! The tracked files of the repository.
//!
//! Invariant: paths are relative to the repository root and use `/`.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The repository root, two folders above this crate.
pub fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).unwrap_or(here).to_path_buf()
}

/// One tracked file.
#[derive(Debug)]
pub struct File {
    /// Path below the root.
    pub path: String,
    /// Content; empty when the file is not UTF-8.
    pub text: String,
}

impl File {
    /// The last part of the path, without the extension.
    pub fn stem(&self) -> &str {
        let name = self.path.rsplit('/').next().unwrap_or(&self.path);
        name.split('.').next().unwrap_or(name)
    }

    /// Whether the file is Rust source.
    pub fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }
}

/// All tracked files that exist. Outside a git work tree (an unpacked archive) every file counts that is not built or cached.
pub fn files() -> Vec<File> {
    let root = root();
    let read = |path: String| {
        let raw = std::fs::read(root.join(&path)).ok()?;
        Some(File {
            path,
            text: String::from_utf8(raw).unwrap_or_default(),
        })
    };
    tracked(&root)
        .unwrap_or_else(|| walk(&root))
        .into_iter()
        .filter_map(read)
        .collect()
}

fn tracked(root: &Path) -> Option<Vec<String>> {
    let output = Command::new("git")
        .arg("-C")
        .arg(root)
        .args(["ls-files", "-z"])
        .output()
        .ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let paths: Vec<String> = text
        .split('\0')
        .filter(|path| !path.is_empty())
        .map(str::to_string)
        .collect();
    (output.status.success() && !paths.is_empty()).then_some(paths)
}

fn walk(root: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![root.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            let path = entry.path();
            let name = entry.file_name();
            if path.is_dir() {
                if !["target", ".cache", ".git", "__pycache__"]
                    .iter()
                    .any(|skipped| name == *skipped)
                {
                    folders.push(path);
                }
            } else if let Ok(below) = path.strip_prefix(root) {
                found.push(below.to_string_lossy().replace('\\', "/"));
            }
        }
    }
    found.sort();
    found
}
