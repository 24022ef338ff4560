//! Memory for weights, in huge pages where the system has them: reading gigabytes in order is a third faster
//! when a page is 2 MiB, because vectors are fetched ahead within a page only.

use std::io;

use burn::tensor::{AllocationProperty, Bytes};
use memmap2::MmapMut;

/// Less than this is an ordinary allocation.
const LARGE: usize = 4 << 20;

/// `size` bytes of 0.
///
/// # Errors
/// When there is not so much memory.
pub fn zeros(size: usize) -> io::Result<MmapMut> {
    let map = MmapMut::map_anon(size)?;
    // A wish; without huge pages the memory is as good.
    #[cfg(target_os = "linux")]
    let _ = map.advise(memmap2::Advice::HugePage);
    Ok(map)
}

/// `size` bytes, zero before `fill` has written them.
pub fn filled(size: usize, fill: impl FnOnce(&mut [u8])) -> Bytes {
    if size >= LARGE
        && let Ok(mut map) = zeros(size)
    {
        fill(&mut map);
        let bytes = bytes::Bytes::from_owner(map);
        return Bytes::from_shared(bytes, AllocationProperty::Native);
    }
    let mut bytes = vec![0; size];
    fill(&mut bytes);
    Bytes::from_bytes_vec(bytes)
}
