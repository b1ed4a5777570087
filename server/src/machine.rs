//! What memory the machine gives this process, and how much of it the process has.
//!
//! Invariant: a figure that the system does not give is `None`, never zero.

use std::path::Path;

/// Where the kernel tells of the machine and of the process.
const ROOT: &str = "/";

/// Bytes that this process may have: those of the machine, or of the control group it runs in if that has less.
pub(crate) fn memory_bytes() -> Option<u64> {
    memory_below(Path::new(ROOT))
}

fn memory_below(root: &Path) -> Option<u64> {
    let read = |path: &str| std::fs::read_to_string(root.join(path)).ok();
    let machine = read("proc/meminfo").and_then(|text| kilobytes(&text, "MemTotal:"));
    // In a container the group's own files are at the top; "max" is no number, and means that there is no limit.
    let groups = [
        "sys/fs/cgroup/memory.max",
        "sys/fs/cgroup/memory/memory.limit_in_bytes",
    ];
    let groups = groups
        .iter()
        .filter_map(|path| read(path)?.trim().parse().ok());
    groups.chain(machine).filter(|bytes| *bytes > 0).min()
}

/// Bytes of this process that are in memory now.
pub(crate) fn resident_bytes() -> Option<u64> {
    let text = std::fs::read_to_string(Path::new(ROOT).join("proc/self/status")).ok()?;
    kilobytes(&text, "VmRSS:")
}

/// The bytes that a line of the kernel's tells in kilobytes.
fn kilobytes(text: &str, label: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(label))?;
    let number: u64 = line.split_whitespace().next()?.parse().ok()?;
    number.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smaller_of_machine_and_group_counts() {
        let root = tempfile::tempdir().expect("a folder");
        assert_eq!(memory_below(root.path()), None);
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().expect("a folder")).expect("makes it");
            std::fs::write(path, text).expect("writes");
        };
        write("proc/meminfo", "MemTotal:        1000 kB\nMemFree: 7 kB\n");
        assert_eq!(memory_below(root.path()), Some(1_024_000));
        write("sys/fs/cgroup/memory.max", "max\n");
        assert_eq!(memory_below(root.path()), Some(1_024_000));
        write("sys/fs/cgroup/memory.max", "4096\n");
        assert_eq!(memory_below(root.path()), Some(4_096));
        assert!(resident_bytes().is_some_and(|bytes| bytes > 1 << 20));
    }
}
