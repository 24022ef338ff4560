//! Memory brought nearer before it is needed.

/// Numbers in a line of the caches.
pub(crate) const LINE: usize = 16;

/// Brings the line of a number into the first-level cache, on CPUs where that can be asked for: a hint, which changes no
/// result.
#[inline(always)]
pub(crate) fn prefetch(number: &f32) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a hint, which reads nothing.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(number).cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = number;
}
