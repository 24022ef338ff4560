//! What the operating system says of memory (Linux only). That of a GPU it does not know.

use std::{fs, path::Path};

use burn::tensor::Device;

use crate::device::is_cpu;

/// The most bytes of this process that were resident since the start or [`forget_peak`], if they hold the
/// tensors of `device`.
pub(crate) fn peak(device: &Device) -> Option<u64> {
    held("/proc/self/status", "VmHWM:", device)
}

/// Bytes that are free for tensors of `device`; no more than the group of processes is allowed.
pub(crate) fn free(device: &Device) -> Option<u64> {
    let free = held("/proc/meminfo", "MemAvailable:", device)?;
    Some(allowed().map_or(free, |allowed| free.min(allowed)))
}

/// What the control groups of this process (of a container or a service, say) have left. Each bounds all within it.
fn allowed() -> Option<u64> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let left = groups.lines().filter_map(|group| {
        let mut parts = group.splitn(3, ':').skip(1);
        let (controller, path) = (parts.next()?, parts.next()?);
        let (root, names) = match controller {
            "" => (
                "/sys/fs/cgroup",
                ["memory.max", "memory.current", "inactive_file"],
            ),
            "memory" => (
                "/sys/fs/cgroup/memory",
                [
                    "memory.limit_in_bytes",
                    "memory.usage_in_bytes",
                    "total_inactive_file",
                ],
            ),
            _ => return None,
        };
        let group = Path::new(root).join(path.trim_start_matches('/'));
        let groups = group
            .ancestors()
            .take_while(|group| group.starts_with(root));
        groups.filter_map(|group| left(group, names)).min()
    });
    left.min()
}

/// What a control group has left, given the names of its limit, its use, and in its statistics of pages of files. As
/// it could give these back, they count as free.
fn left(group: &Path, [limit, used, pages]: [&str; 3]) -> Option<u64> {
    let read = |name: &str| fs::read_to_string(group.join(name)).ok();
    let number = |text: String| text.trim().parse::<u64>().ok();
    let (limit, used) = (number(read(limit)?)?, number(read(used)?)?);
    let statistics = read("memory.stat")?;
    let pages = statistics.lines().find_map(|line| {
        let (name, bytes) = line.split_once(' ')?;
        (name == pages).then(|| bytes.parse::<u64>().ok())?
    });
    Some(limit.saturating_sub(used.saturating_sub(pages.unwrap_or(0))))
}

/// Bytes as people read them.
pub fn in_words(bytes: u64) -> String {
    match bytes {
        0..1_000_000 => format!("{:.1} kB", bytes as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} MB", bytes as f64 / 1e6),
        _ => format!("{:.2} GB", bytes as f64 / 1e9),
    }
}

/// Lets [`peak`] count from here, where the system permits it.
pub(crate) fn forget_peak() {
    let _ = fs::write("/proc/self/clear_refs", "5");
}

fn held(file: &str, name: &str, device: &Device) -> Option<u64> {
    if !is_cpu(device) {
        return None;
    }
    let text = fs::read_to_string(file).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(1024 * kilobytes)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_group_has_left_what_it_does_not_use() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
        let names = ["memory.max", "memory.current", "inactive_file"];
        let left = || left(folder.path(), names);
        assert_eq!(left(), None);
        write("memory.current", "700\n");
        write("memory.stat", "anon 500\ninactive_file 200\n");
        for (limit, expected) in [("1000\n", Some(500)), ("100\n", Some(0)), ("max\n", None)] {
            write("memory.max", limit);
            assert_eq!(left(), expected, "{limit}");
        }
    }
}
