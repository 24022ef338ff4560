//! What the operating system says of memory (Linux only). That of a GPU it does not know.

use std::fs;

use burn::tensor::Device;

/// The most bytes of this process that were resident since the start or [`forget_peak`], if they hold the
/// tensors of `device`.
pub fn peak(device: &Device) -> Option<u64> {
    held("/proc/self/status", "VmHWM:", device)
}

/// Bytes that are free for tensors of `device`.
pub fn free(device: &Device) -> Option<u64> {
    held("/proc/meminfo", "MemAvailable:", device)
}

/// Lets [`peak`] count from here, where the system permits it.
pub fn forget_peak() {
    let _ = fs::write("/proc/self/clear_refs", "5");
}

fn held(file: &str, name: &str, device: &Device) -> Option<u64> {
    if *device != Device::flex() {
        return None;
    }
    let text = fs::read_to_string(file).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(1024 * kilobytes)
}
