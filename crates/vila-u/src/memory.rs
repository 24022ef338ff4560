//! What the operating system says of memory (Linux only). That of a GPU it does not know.

use std::fs;

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

/// What the control group (of a container, say) has left. Pages of files that it could give back count
/// as free.
fn allowed() -> Option<u64> {
    let group = |folder: &str, limit: &str, used: &str, pages: &str| {
        let read = |name: &str| fs::read_to_string(format!("/sys/fs/cgroup/{folder}{name}")).ok();
        let number = |text: String| text.trim().parse::<u64>().ok();
        let (limit, used) = (number(read(limit)?)?, number(read(used)?)?);
        let statistics = read("memory.stat")?;
        let pages = statistics.lines().find_map(|line| {
            let (name, bytes) = line.split_once(' ')?;
            (name == pages).then(|| bytes.parse::<u64>().ok())?
        });
        Some(limit.saturating_sub(used.saturating_sub(pages.unwrap_or(0))))
    };
    group("", "memory.max", "memory.current", "inactive_file").or_else(|| {
        let files = ["memory.limit_in_bytes", "memory.usage_in_bytes"];
        group("memory/", files[0], files[1], "total_inactive_file")
    })
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
