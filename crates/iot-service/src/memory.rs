//! The memory limit of this process, with which alerts compare its use.

use std::path::Path;

/// The limit in bytes: the smallest of the limits of the control groups (v2 and v1) and
/// the memory of the machine. `None` without `/proc`.
pub(crate) fn limit() -> Option<u64> {
    let own = read("/proc/self/cgroup");
    let groups = own.iter().flat_map(|text| files(text));
    // Inside a container the root is the container's own group.
    let roots = [
        "/sys/fs/cgroup/memory.max",
        "/sys/fs/cgroup/memory/memory.limit_in_bytes",
    ];
    let files = groups.chain(roots.map(str::to_owned));
    let limits = files.filter_map(|file| read(file)?.trim().parse().ok());
    // v1 reports "no limit" as a number near the maximum.
    limits
        .chain(read("/proc/meminfo").and_then(|text| total(&text)))
        .min()
}

fn read(path: impl AsRef<Path>) -> Option<String> {
    std::fs::read_to_string(path).ok()
}

/// The files with the limits of this process's control group and its parents.
fn files(cgroup: &str) -> Vec<String> {
    let group = cgroup.lines().find_map(|line| line.strip_prefix("0::/"));
    let parts: Vec<&str> = group.unwrap_or_default().split('/').collect();
    let path = |count| format!("/sys/fs/cgroup/{}/memory.max", parts[..count].join("/"));
    (1..=parts.len()).map(path).collect()
}

fn total(meminfo: &str) -> Option<u64> {
    let line = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parent_groups_are_included() {
        let expected = ["a.slice/memory.max", "a.slice/b.scope/memory.max"];
        let found = files("1:name=x:/other\n0::/a.slice/b.scope\n");
        assert_eq!(found, expected.map(|file| format!("/sys/fs/cgroup/{file}")));
    }

    #[test]
    fn total_memory_is_parsed() {
        assert_eq!(
            total("MemTotal:       25158656 kB\nMemFree: 1 kB\n"),
            Some(25_762_463_744)
        );
        assert_eq!(total("MemTotal: many kB\n"), None);
        assert!(limit().is_some_and(|bytes| bytes > 1 << 20));
    }
}
