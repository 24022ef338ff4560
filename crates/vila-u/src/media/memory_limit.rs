//! How much memory an image or a video may take to be read: small files can describe pixels without end.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::{Error, Result, memory::in_words};

/// What the smallest file may take, unless it is set.
const DEFAULT: u64 = 400 << 20;

static LIMIT: AtomicU64 = AtomicU64::new(DEFAULT);
/// What it may take beyond that for each byte of the file; a photograph takes 2 to 30.
static PER_BYTE: AtomicU64 = AtomicU64::new(64);

/// Sets how many bytes of memory a small image or video file may take to be read, 400 MiB unless it is set. A larger
/// file may take 64 bytes more for each of its own. Holds for the whole program.
pub fn set_memory_limit(bytes: u64) {
    LIMIT.store(bytes, Ordering::Relaxed);
}

/// No file may take more than the limit from now on, however large it is: for what strangers send, who can make files
/// as large as they like. Holds for the whole program.
pub fn fix_memory_limit() {
    PER_BYTE.store(0, Ordering::Relaxed);
}

/// Refuses what takes more memory than an input of a file of so many bytes may, before it is taken.
pub(super) fn check_memory(what: &str, need: u64, file: u64) -> Result<()> {
    let limit = LIMIT.load(Ordering::Relaxed);
    let limit = limit.saturating_add(file.saturating_mul(PER_BYTE.load(Ordering::Relaxed)));
    if need <= limit {
        return Ok(());
    }
    Err(Error::usage(format!(
        "{what} take {} of memory, and an input of this size may take {}: make it smaller, or allow more with \
         --max-input-memory",
        in_words(need),
        in_words(limit)
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_files_may_take_more() {
        assert!(check_memory("pixels", 500 << 20, 0).is_err());
        assert!(check_memory("pixels", 500 << 20, 2 << 20).is_ok());
        assert!(check_memory("pixels", u64::MAX, 1 << 40).is_err());
    }
}
