//! Products of bfloat16 factors on AMX, the tile unit of Intel's server CPUs since 2023 (Intel SDM, volume 1, chapter
//! 18).
//!
//! A tile is 16 rows of 64 bytes. `tdpbf16ps` adds to a tile of 16 x 16 sums the product of 16 x 32 and 32 x 16
//! factors, of which the left one lies by rows, and the right one in pairs along the summed dimension. Both factors are
//! rounded to bfloat16 and laid out so, tile after tile in the order in which they are multiplied; sums stay `f32`.
//!
//! The instructions are written out, as their intrinsics are not stable. No value lives in a tile register from one
//! `asm!` block to the next; what does is the shape of the tiles, which every thread sets before it multiplies and
//! gives back before it idles.

mod gemm;
mod multiply;
mod pack;

use std::arch::asm;
use std::arch::x86_64::*;
use std::sync::OnceLock;

use crate::instruction_set::{InstructionSet, allows};
use crate::output::Unwritten;
use crate::precision::pair;

pub(crate) use gemm::{Packed, gemm, products_with};
pub(crate) use multiply::{multiply_along, multiply_block, multiply_signals};
pub(crate) use pack::gather;

/// Rows and columns of a block of sums: two by two tiles.
pub(crate) const BLOCK: usize = 32;
/// Rows of a tile, and pairs or sums in a row.
pub(crate) const SIDE: usize = 16;
/// Numbers of the summed dimension in a tile.
pub(crate) const DEPTH: usize = 32;

/// A row of a tile of factors: sixteen pairs. Tiles are [`SIDE`] of them.
#[repr(C, align(64))]
#[derive(Clone, Copy)]
pub(crate) struct Row([u32; SIDE]);

impl Row {
    pub const ZERO: Self = Self([0; SIDE]);

    /// Brings it into the second-level cache.
    #[inline(always)]
    fn prefetch(&self) {
        // SAFETY: a hint, which reads nothing.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(self.0.as_ptr().cast()) };
    }

    /// Pairs of neighbours.
    pub fn of(numbers: [f32; DEPTH]) -> Self {
        Self(std::array::from_fn(|at| {
            pair(numbers[2 * at], numbers[2 * at + 1]).to_bits()
        }))
    }
}

/// Whether this machine has the unit, and the system lets this process use it.
pub(crate) fn is_here() -> bool {
    // AMX-BF16 and AMX-TILE.
    const UNIT: u32 = 1 << 22 | 1 << 24;
    static AVAILABLE: OnceLock<bool> = OnceLock::new();
    *AVAILABLE.get_or_init(|| is_x86_feature_detected!("avx512bf16") && has(UNIT))
}

/// Whether the kernels may use it.
pub(crate) fn available() -> bool {
    allows(InstructionSet::Amx)
}

/// The same of its products of bytes.
pub(crate) fn multiplies_bytes() -> bool {
    // AMX-INT8 and AMX-TILE.
    const UNIT: u32 = 1 << 25 | 1 << 24;
    static AVAILABLE: OnceLock<bool> = OnceLock::new();
    *AVAILABLE.get_or_init(|| available() && has(UNIT))
}

/// Are these features of the CPU there to be used?
fn has(features: u32) -> bool {
    // What the system keeps of a thread: tile shapes and tiles.
    const STATE: u64 = 1 << 17 | 1 << 18;
    // SAFETY: this leaf is there where AVX-512 is; XGETBV is there with XSAVE.
    __cpuid_count(7, 0).edx & features == features
        && is_x86_feature_detected!("xsave")
        && unsafe { kept_state() } & STATE == STATE
        && permitted()
}

/// # Safety
/// The CPU has XSAVE.
#[target_feature(enable = "xsave")]
unsafe fn kept_state() -> u64 {
    unsafe { _xgetbv(0) }
}

/// Asks Linux for the room that tiles take in every thread's state: `arch_prctl(ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA)`.
#[cfg(target_os = "linux")]
fn permitted() -> bool {
    const ARCH_PRCTL: i64 = 158;
    const ARCH_REQ_XCOMP_PERM: u64 = 0x1023;
    const XFEATURE_XTILEDATA: u64 = 18;
    let mut outcome = ARCH_PRCTL;
    // SAFETY: a system call that changes what this process may do and nothing in its memory.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") outcome,
            in("rdi") ARCH_REQ_XCOMP_PERM,
            in("rsi") XFEATURE_XTILEDATA,
            lateout("rcx") _,
            lateout("r11") _,
            options(nostack)
        );
    }
    outcome == 0
}

#[cfg(not(target_os = "linux"))]
fn permitted() -> bool {
    false
}

/// While it lives, this thread's tiles have 16 rows of 64 bytes.
pub(crate) struct Shape {
    _configured: Configured,
}

impl Shape {
    pub fn set() -> Self {
        assert!(available(), "no tile unit");
        Self {
            _configured: Configured::new([16; 8], [64; 8]),
        }
    }
}

/// While it lives, this thread's tiles are those of [`multiply_block`]: 0 has sums, 1 sixteen rows of 32 bytes, and 2
/// four of these of sixteen columns in each row.
pub(crate) struct BlockShape {
    _configured: Configured,
}

impl BlockShape {
    pub fn set() -> Self {
        assert!(multiplies_bytes(), "no tile unit");
        let rows = [16, 16, 8, 0, 0, 0, 0, 0];
        let row_bytes = [64, 32, 64, 0, 0, 0, 0, 0];
        Self {
            _configured: Configured::new(rows, row_bytes),
        }
    }
}

/// The shapes of this thread's eight tiles, until it is dropped.
struct Configured(());

impl Configured {
    /// The rows of every tile, and the bytes in each of them. The unit is there.
    fn new(rows: [u8; 8], row_bytes: [u16; 8]) -> Self {
        #[repr(C, align(64))]
        struct Config {
            palette: u8,
            start_row: u8,
            reserved: [u8; 14],
            row_bytes: [u16; 16],
            rows: [u8; 16],
        }
        let mut config = Config {
            palette: 1,
            start_row: 0,
            reserved: [0; 14],
            row_bytes: [0; 16],
            rows: [0; 16],
        };
        config.row_bytes[..8].copy_from_slice(&row_bytes);
        config.rows[..8].copy_from_slice(&rows);
        // SAFETY: the unit is there, and the configuration a valid one.
        unsafe { asm!("ldtilecfg [{}]", in(reg) &config, options(nostack, readonly)) };
        Self(())
    }
}

impl Drop for Configured {
    fn drop(&mut self) {
        // SAFETY: the unit is there, or there would be no shape.
        unsafe { asm!("tilerelease", options(nostack, nomem)) };
    }
}

/// The first numbers of a vector, as many as there are.
fn mask(count: usize) -> __mmask16 {
    ((1_u32 << count.min(16)) - 1) as __mmask16
}

/// A block of sums, by rows.
#[repr(C, align(64))]
#[derive(Clone)]
pub(crate) struct Sums(pub [[f32; BLOCK]; BLOCK]);

impl Sums {
    pub const ZERO: Self = Self([[0.0; BLOCK]; BLOCK]);

    /// Writes all sums, plus the bias, to lines from a column on, as far as there are any.
    ///
    /// # Safety
    /// The CPU has AVX-512.
    #[target_feature(enable = "avx512f")]
    unsafe fn store<'a, 'b: 'a>(
        &self,
        lines: impl Iterator<Item = &'a mut &'b mut [Unwritten]>,
        column: usize,
        bias: Option<&[f32]>,
    ) {
        let mut biases = [_mm512_setzero_ps(); BLOCK / 16];
        for (half, to) in biases.iter_mut().enumerate() {
            if let Some(bias) = bias.and_then(|bias| bias.get(16 * half..)) {
                // SAFETY: what the mask leaves out is not read.
                *to = unsafe { _mm512_maskz_loadu_ps(mask(bias.len()), bias.as_ptr()) };
            }
        }
        for (line, sums) in lines.zip(&self.0) {
            let line = &mut line[column..];
            for (half, sums) in sums.as_chunks::<16>().0.iter().enumerate() {
                let mask = mask(line.len().saturating_sub(16 * half));
                // SAFETY: what the mask leaves out is not written; the rest is within the line.
                unsafe {
                    let to = line.as_mut_ptr().wrapping_add(16 * half).cast();
                    let sum = _mm512_add_ps(_mm512_loadu_ps(sums.as_ptr()), biases[half]);
                    _mm512_mask_storeu_ps(to, mask, sum);
                }
            }
        }
    }

    /// Adds columns `columns..` of all sums to the lines, as far as there are any.
    ///
    /// # Safety
    /// The CPU has AVX-512.
    #[target_feature(enable = "avx512f")]
    unsafe fn add_to(&self, lines: &mut [&mut [f32]], column: usize) {
        for (line, sums) in lines.iter_mut().zip(&self.0) {
            let line = &mut line[column..];
            for (half, sums) in sums.as_chunks::<16>().0.iter().enumerate() {
                let mask = mask(line.len().saturating_sub(16 * half));
                // SAFETY: what the mask leaves out is neither read nor written; the rest is within the line.
                unsafe {
                    let to = line.as_mut_ptr().wrapping_add(16 * half);
                    let sum = _mm512_loadu_ps(sums.as_ptr());
                    let sum = _mm512_add_ps(_mm512_maskz_loadu_ps(mask, to), sum);
                    _mm512_mask_storeu_ps(to, mask, sum);
                }
            }
        }
    }
}
