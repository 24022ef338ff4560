//! Numbers too small to be held in full precision, below 1.2e-38 ("denormal"). Intel's processors take a hundred times
//! as long for them, and training has many: gradients of words that are known to be wrong. As PyTorch's
//! `set_flush_denormal` does, they can be taken for 0.

/// Lets this thread take numbers below 1.2e-38 for 0, where its processor can: what it computes with and what comes out.
pub fn flush_denormals() {
    #[cfg(target_arch = "x86_64")]
    {
        // Flush to zero, and denormals are zero (Intel SDM, volume 1, section 10.2.3).
        const FLUSH: u32 = 1 << 15 | 1 << 6;
        let mut state = 0_u32;
        // SAFETY: every x86-64 processor has this register; exceptions and rounding stay as they are.
        unsafe {
            std::arch::asm!(
                "stmxcsr [{state}]",
                "or dword ptr [{state}], {flush}",
                "ldmxcsr [{state}]",
                state = in(reg) &mut state,
                flush = const FLUSH,
                options(nostack),
            );
        }
    }
    #[cfg(target_arch = "aarch64")]
    {
        // FZ of FPCR. SAFETY: as above.
        unsafe {
            std::arch::asm!(
                "mrs {state}, fpcr",
                "orr {state}, {state}, #0x1000000",
                "msr fpcr, {state}",
                state = out(reg) _,
                options(nomem, nostack),
            );
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::hint::black_box;

    use super::*;

    #[test]
    fn small_numbers_are_zero_in_this_thread_alone() {
        let half = || black_box(f32::MIN_POSITIVE) * black_box(0.5);
        let flushed = std::thread::spawn(move || {
            let before = half();
            flush_denormals();
            (before, half())
        });
        let (before, after) = flushed.join().unwrap();
        assert!(before > 0.0 && half() > 0.0);
        if cfg!(any(target_arch = "x86_64", target_arch = "aarch64")) {
            assert_eq!(after, 0.0);
        }
    }
}
