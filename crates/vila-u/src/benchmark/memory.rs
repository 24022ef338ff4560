//! What the operating system says of this process's memory (Linux only).

use std::fs;

/// The most bytes that were resident since the start or [`forget_peak`].
pub fn peak() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(1024 * kilobytes)
}

/// Lets [`peak`] count from here, where the system permits it.
pub fn forget_peak() {
    let _ = fs::write("/proc/self/clear_refs", "5");
}
