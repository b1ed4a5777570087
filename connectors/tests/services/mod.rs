//! Real servers for tests, by the scripts in `tests/services` of the repository.

use std::path::PathBuf;
use std::process::Command;

/// One of the scripts.
pub(crate) fn script(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../tests/services")
        .join(name)
}

/// Starts a service that stops when this process ends, and gives what it says under `names`; `None` when it cannot be had here.
pub(crate) fn up<const N: usize>(
    service: &str,
    options: &[&str],
    names: [&str; N],
) -> Option<[String; N]> {
    let parent = std::process::id().to_string();
    let up = Command::new(script("up"))
        .arg(service)
        .args(options)
        .args(["--parent-pid", &parent])
        .output();
    let up = up.ok().filter(|up| up.status.success());
    let text = up.map(|up| String::from_utf8_lossy(&up.stdout).into_owned());
    let value = |name: &str| {
        let mut lines = text.as_deref()?.lines();
        lines.find_map(|line| line.strip_prefix(name).map(str::to_owned))
    };
    let found: Option<Vec<String>> = names.into_iter().map(value).collect();
    if found.is_none() {
        assert!(
            std::env::var("THALWEG_REQUIRE_SERVICES").as_deref() != Ok("1"),
            "no {service}, and services are required"
        );
        eprintln!("SKIPPED: no {service} can be started here");
    }
    found?.try_into().ok()
}
