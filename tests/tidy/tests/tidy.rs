//! The house rules that a machine can check: layers, sizes, names, words, paths.
//!
//! Each test prints every breach it finds, not only the first.

use std::collections::{BTreeMap, BTreeSet};

use thalweg_test_tidy::graph::{self, Package};
use thalweg_test_tidy::rust_text::{code, functions};
use thalweg_test_tidy::tree::{self, File};

const FILE_LINES_MAX: usize = 700;
const FUNCTION_LINES_MAX: usize = 100;
/// In tests a long function is a table of cases, which is data.
const TEST_FUNCTION_LINES_MAX: usize = 200;
const FUNCTION_LINES_WATCHED: usize = 70;

/// The graph of the design: crate, folder, what it may see.
const DESIGN: [(&str, &str, &[&str]); 7] = [
    ("thalweg-sql", "sql", &[]),
    ("thalweg-catalog", "catalog", &["thalweg-sql"]),
    (
        "thalweg-planner",
        "planner",
        &["thalweg-sql", "thalweg-catalog"],
    ),
    ("thalweg-connectors", "connectors", &["thalweg-catalog"]),
    ("thalweg-state", "server/state", &[]),
    (
        "thalweg-engine",
        "server/engine",
        &["thalweg-planner", "thalweg-connectors", "thalweg-state"],
    ),
    (
        "thalweg",
        "server",
        &[
            "thalweg-sql",
            "thalweg-catalog",
            "thalweg-planner",
            "thalweg-connectors",
            "thalweg-state",
            "thalweg-engine",
        ],
    ),
];

/// Outside crates that only some of ours may name.
const FENCES: [(&str, &[&str]); 7] = [
    (
        "datafusion",
        &["thalweg-planner", "thalweg-engine", "thalweg", "tests/"],
    ),
    ("rdkafka", &["thalweg-connectors"]),
    ("pgwire", &["thalweg", "thalweg-test-wire"]),
    ("tonic", &["thalweg", "thalweg-test-wire"]),
    ("arrow-flight", &["thalweg", "thalweg-test-wire"]),
    (
        "tokio",
        &["thalweg-connectors", "thalweg-engine", "thalweg", "tests/"],
    ),
    (
        "arrow",
        &[
            "thalweg-connectors",
            "thalweg-state",
            "thalweg-engine",
            "thalweg",
            "tests/",
        ],
    ),
];

/// Files that a program wrote: nobody reads them from top to end, and cutting them would only make their next version differ more.
const GENERATED: [&str; 1] = ["connectors/tests/thrift2/hbase.rs"];

const TOP_LEVEL: [&str; 21] = [
    ".ci",
    ".gitignore",
    "ARCHITECTURE.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "Cargo.lock",
    "Cargo.toml",
    "LICENSE",
    "README.md",
    "catalog",
    "clients",
    "clippy.toml",
    "connectors",
    "deny.toml",
    "docs",
    "examples",
    "planner",
    "rustfmt.toml",
    "server",
    "sql",
    "tests",
];

fn no_breaches(rule: &str, breaches: &[String]) {
    assert!(
        breaches.is_empty(),
        "{rule}: {} breach(es)\n  {}",
        breaches.len(),
        breaches.join("\n  ")
    );
}

fn rust_files() -> Vec<File> {
    tree::files().into_iter().filter(File::is_rust).collect()
}

fn packages() -> BTreeMap<String, Package> {
    graph::packages(&tree::root()).expect("cargo reads the manifests")
}

#[test]
fn the_crate_graph_is_the_design() {
    let packages = packages();
    let design: BTreeMap<&str, Vec<&str>> = DESIGN
        .iter()
        .map(|(name, _, needs)| (*name, needs.to_vec()))
        .collect();
    let ours = |set: &BTreeSet<String>| {
        set.iter()
            .filter(|name| design.contains_key(name.as_str()))
            .cloned()
            .collect::<Vec<_>>()
    };
    let declared: Vec<(&str, Vec<String>)> = packages
        .iter()
        .map(|(name, package)| (name.as_str(), ours(&package.needs)))
        .collect();
    let actual: BTreeMap<&str, Vec<&str>> = declared
        .iter()
        .map(|(name, needs)| (*name, needs.iter().map(String::as_str).collect()))
        .collect();
    let mut breaches = Vec::new();
    for (name, folder, _) in DESIGN {
        let Some(package) = packages.get(name) else {
            breaches.push(format!("{name} is missing"));
            continue;
        };
        if package.folder != folder {
            breaches.push(format!(
                "{name} is in {} and belongs in {folder}",
                package.folder
            ));
        }
        // An arrow means "may see", and what may be seen through another crate may be named too.
        let (may, does) = (
            graph::reachable(&design, name),
            graph::reachable(&actual, name),
        );
        if may != does {
            breaches.push(format!("{name} reaches {does:?}; the design says {may:?}"));
        }
        let tests_see: Vec<String> = ours(&package.tests_need);
        breaches.extend(
            tests_see
                .iter()
                .filter(|need| !may.contains(need.as_str()))
                .map(|need| format!("tests of {name} see {need}")),
        );
    }
    for (name, package) in &packages {
        if !design.contains_key(name.as_str()) && !package.folder.starts_with("tests/") {
            breaches.push(format!("{name} in {} is not in the design", package.folder));
        }
    }
    no_breaches("crate graph", &breaches);
}

#[test]
fn outside_crates_stay_behind_their_fences() {
    let mut breaches = Vec::new();
    for (name, package) in &packages() {
        for (outside, allowed) in FENCES {
            let inside = allowed
                .iter()
                .any(|who| who == name || (who.ends_with('/') && package.folder.starts_with(who)));
            // DataFusion spawns tasks while it runs a plan, so tests that run one need a runtime; the crate itself does not.
            let tests_need = outside != "tokio" && package.tests_need.contains(outside);
            if !inside && (package.needs.contains(outside) || tests_need) {
                breaches.push(format!("{name} names {outside}"));
            }
        }
    }
    no_breaches("fences", &breaches);
}

#[test]
fn every_source_file_says_what_it_is() {
    let breaches: Vec<String> = rust_files()
        .iter()
        .filter(|file| !file.text.starts_with("//! "))
        .map(|file| file.path.clone())
        .collect();
    no_breaches("a file opens with //! and its purpose", &breaches);
}

/// Whether a file holds tests only.
fn is_test(path: &str) -> bool {
    path.split('/')
        .any(|part| part == "tests" || part == "tests.rs")
}

#[test]
fn files_and_functions_stay_short() {
    let mut breaches = Vec::new();
    let mut watched = Vec::new();
    let by_hand = |file: &File| !GENERATED.contains(&file.path.as_str());
    for file in rust_files().into_iter().filter(by_hand) {
        let lines = file.text.lines().count();
        if lines > FILE_LINES_MAX {
            breaches.push(format!(
                "{}: {lines} lines, at most {FILE_LINES_MAX}",
                file.path
            ));
        }
        for function in functions(&file.text) {
            let said = format!(
                "{}:{} {}: {} lines",
                file.path, function.line, function.name, function.lines
            );
            let limit = if is_test(&file.path) {
                TEST_FUNCTION_LINES_MAX
            } else {
                FUNCTION_LINES_MAX
            };
            if function.lines > limit {
                breaches.push(format!("{said}, at most {limit}"));
            } else if function.lines > FUNCTION_LINES_WATCHED {
                watched.push(said);
            }
        }
    }
    println!(
        "functions over {FUNCTION_LINES_WATCHED} lines: {}\n  {}",
        watched.len(),
        watched.join("\n  ")
    );
    no_breaches("sizes", &breaches);
}

#[test]
fn names_carry_meaning() {
    let banned = [
        "util", "utils", "common", "helper", "helpers", "manager", "misc",
    ];
    let mut breaches = Vec::new();
    for file in tree::files() {
        let parts = file
            .path
            .split('/')
            .map(|part| part.split('.').next().unwrap_or(part));
        for part in parts {
            let part = part.to_ascii_lowercase();
            let worn = |word: &&str| part.split(['_', '-']).any(|piece| piece == *word);
            if let Some(word) = banned.iter().find(|word| worn(word)) {
                breaches.push(format!("{}: \"{word}\" says nothing", file.path));
            }
        }
    }
    no_breaches("names of files, folders and modules", &breaches);
}

#[test]
fn nothing_is_left_for_later() {
    let mut breaches = Vec::new();
    let marks = [
        concat!("TO", "DO"),
        concat!("FIX", "ME"),
        concat!("XX", "X:"),
    ];
    let calls = [
        concat!("unimplemented", "!("),
        concat!("todo", "!("),
        concat!("#[", "ignore"),
    ];
    for file in rust_files() {
        for (number, line) in file.text.lines().enumerate() {
            if let Some(mark) = marks.iter().find(|mark| line.contains(**mark)) {
                breaches.push(format!("{}:{} {mark}", file.path, number + 1));
            }
        }
        for (number, line) in code(&file.text).lines().enumerate() {
            if let Some(call) = calls.iter().find(|call| line.contains(**call)) {
                breaches.push(format!("{}:{} {call}", file.path, number + 1));
            }
        }
    }
    no_breaches("unfinished code and ignored tests", &breaches);
}

#[test]
fn no_machine_and_no_registry_is_named() {
    let folders = ["work", "root", "home", "tmp", "Users"];
    let hosts = ["crates", "maven", "pythonhosted", "pypi", "npmjs", "golang"];
    let hosts = [
        format!("repo1.{}.org", hosts[1]),
        format!("repo.{}.apache.org", hosts[1]),
        format!("files.{}.org", hosts[2]),
        format!("{}.org/simple", hosts[3]),
        format!("static.{}.io", hosts[0]),
        format!("index.{}.io", hosts[0]),
        format!("registry.{}.org", hosts[4]),
        format!("proxy.{}.org", hosts[5]),
    ];
    let mut breaches = Vec::new();
    for file in tree::files() {
        if file.path == "Cargo.lock" || file.path == "LICENSE" {
            continue;
        }
        for (number, line) in file.text.lines().enumerate() {
            let said = || {
                format!(
                    "{}:{}: {}",
                    file.path,
                    number + 1,
                    line.trim().chars().take(100).collect::<String>()
                )
            };
            let path = folders.iter().any(|folder| names_folder(line, folder));
            if path || hosts.iter().any(|host| line.contains(host)) {
                breaches.push(said());
            }
        }
    }
    no_breaches("absolute paths of a machine and registry hosts", &breaches);
}

/// Whether a line holds an absolute path below a top folder such as the one of temporary files.
fn names_folder(line: &str, folder: &str) -> bool {
    let needle = format!("/{folder}/");
    line.match_indices(&needle).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        !before.is_some_and(|c| c.is_alphanumeric() || "_-.}/)*".contains(c))
    })
}

#[test]
fn every_dependency_says_why_it_is_here() {
    let manifest = tree::files()
        .into_iter()
        .find(|file| file.path == "Cargo.toml")
        .expect("a root manifest");
    let mut breaches = Vec::new();
    let mut inside = false;
    for line in manifest.text.lines() {
        if line.starts_with('[') {
            inside = line == "[workspace.dependencies]";
        }
        let ours = line.contains("path = ");
        if inside && line.contains(" = ") && !line.starts_with('#') && !ours {
            let reason = line
                .rsplit_once(" # ")
                .map_or("", |(_, reason)| reason.trim());
            if reason.is_empty() {
                breaches.push(line.to_string());
            }
        }
    }
    no_breaches("dependencies without a reason", &breaches);
}

#[test]
fn the_architecture_names_every_crate() {
    let map = tree::files()
        .into_iter()
        .find(|file| file.path == "ARCHITECTURE.md")
        .map(|file| file.text)
        .unwrap_or_default();
    let missing = |folder: &&str| {
        !map.contains(&format!("`{folder}/`")) && !map.contains(&format!("`{folder}`"))
    };
    let breaches: Vec<String> = DESIGN
        .iter()
        .map(|(_, folder, _)| *folder)
        .filter(missing)
        .map(str::to_string)
        .collect();
    no_breaches("ARCHITECTURE.md does not name", &breaches);
}

#[test]
fn the_top_level_holds_only_what_the_design_lists() {
    let found: BTreeSet<String> = tree::files()
        .iter()
        .map(|file| file.path.split('/').next().unwrap_or_default().to_string())
        .collect();
    let breaches: Vec<String> = found
        .into_iter()
        .filter(|name| !TOP_LEVEL.contains(&name.as_str()))
        .collect();
    no_breaches("top level", &breaches);
}

#[test]
fn tests_wait_for_conditions() {
    let list = tree::files()
        .into_iter()
        .find(|file| file.path == "tests/tidy/sleeps.txt")
        .expect("the list of allowed sleeps");
    let mut allowed = BTreeMap::new();
    for line in list
        .text
        .lines()
        .filter(|line| !line.starts_with('#') && !line.trim().is_empty())
    {
        let (path, reason) = line.split_once("  ").unwrap_or((line, ""));
        assert!(
            !reason.trim().is_empty(),
            "tests/tidy/sleeps.txt: {path} has no reason"
        );
        allowed.insert(path.to_string(), false);
    }
    let mut breaches = Vec::new();
    for file in rust_files() {
        let code = code(&file.text);
        // Of a source file only the test module at its end counts.
        let all_tests = is_test(&file.path) || file.stem() == "testing";
        let module = code
            .lines()
            .position(|line| line.starts_with("mod tests {"));
        let from = if all_tests {
            0
        } else {
            module.unwrap_or(usize::MAX)
        };
        for (number, line) in code.lines().enumerate() {
            if number >= from && (line.contains("thread::sleep") || line.contains("time::sleep")) {
                match allowed.get_mut(&file.path) {
                    Some(used) => *used = true,
                    None => breaches.push(format!("{}:{}", file.path, number + 1)),
                }
            }
        }
    }
    let unused = allowed
        .iter()
        .filter(|(_, used)| !**used)
        .map(|(path, _)| format!("{path} is listed and does not sleep"));
    breaches.extend(unused);
    no_breaches("tests that sleep", &breaches);
}
