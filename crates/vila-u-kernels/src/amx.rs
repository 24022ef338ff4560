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

use std::arch::asm;
use std::arch::x86_64::*;
use std::cell::RefCell;
use std::sync::OnceLock;

use rayon::prelude::*;

use crate::matmul::{Matrix, OutputBlock, output_blocks};
use crate::precision::pair;

/// Rows and columns of a block of sums: two by two tiles.
pub(crate) const BLOCK: usize = 32;
/// Rows of a tile, and pairs or sums in a row.
pub(crate) const SIDE: usize = 16;
/// Numbers of the summed dimension in a tile.
pub(crate) const DEPTH: usize = 32;
/// Tiles along the summed dimension after which sums go to memory: two of them for each stay in the first-level cache.
const STRETCH: usize = 16;
/// Rows that one thread should pack at least.
const PACKED_TOGETHER: usize = 512;

/// A row of a tile of factors: sixteen pairs. Tiles are [`SIDE`] of them.
#[repr(C, align(64))]
#[derive(Clone, Copy)]
pub(crate) struct Row([u32; SIDE]);

impl Row {
    pub const ZERO: Self = Self([0; SIDE]);

    /// Pairs of neighbours.
    pub fn of(numbers: [f32; DEPTH]) -> Self {
        Self(std::array::from_fn(|at| {
            pair(numbers[2 * at], numbers[2 * at + 1]).to_bits()
        }))
    }
}

/// Whether this machine has the unit, and the system lets this process use it.
pub(crate) fn available() -> bool {
    static AVAILABLE: OnceLock<bool> = OnceLock::new();
    *AVAILABLE.get_or_init(|| {
        // AMX-BF16 and AMX-TILE, and the state that the system keeps of a thread: tile shapes and tiles.
        const UNIT: u32 = 1 << 22 | 1 << 24;
        const STATE: u64 = 1 << 17 | 1 << 18;
        if !is_x86_feature_detected!("avx512bf16") || !is_x86_feature_detected!("xsave") {
            return false;
        }
        // SAFETY: this leaf is there where AVX-512 is; XGETBV is there with XSAVE.
        let has_unit = __cpuid_count(7, 0).edx & UNIT == UNIT;
        has_unit && unsafe { kept_state() } & STATE == STATE && permitted()
    })
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
pub(crate) struct Shape(());

impl Shape {
    pub fn set() -> Self {
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
        config.row_bytes[..8].fill(64);
        config.rows[..8].fill(16);
        assert!(available(), "no tile unit");
        // SAFETY: the unit is there, and the configuration a valid one.
        unsafe { asm!("ldtilecfg [{}]", in(reg) &config, options(nostack, readonly)) };
        Self(())
    }
}

impl Drop for Shape {
    fn drop(&mut self) {
        // SAFETY: the unit is there, or there would be no shape.
        unsafe { asm!("tilerelease", options(nostack, nomem)) };
    }
}

/// Numbers to become tiles: `count` vectors along the summed dimension, `inner` numbers long.
#[derive(Clone, Copy)]
struct Factor<'a> {
    data: &'a [f32],
    count: usize,
    inner: usize,
    /// Whether a vector is a run of memory; otherwise the vectors' first numbers are, then their second ones.
    runs: bool,
    left: bool,
}

impl<'a> Factor<'a> {
    /// The rows of `a` in `a b`.
    fn left(a: Matrix<'a>) -> Self {
        Self {
            data: a.data,
            count: a.rows,
            inner: a.columns,
            runs: !a.transposed,
            left: true,
        }
    }

    /// The columns of `b` in `a b`.
    fn right(b: Matrix<'a>) -> Self {
        Self {
            data: b.data,
            count: b.columns,
            inner: b.rows,
            runs: b.transposed,
            left: false,
        }
    }

    /// Tiles along the summed dimension.
    fn depth(&self) -> usize {
        self.inner.div_ceil(DEPTH)
    }

    /// All of it as tiles, `[block of vectors][depth][2]`. Beyond the last vector and the last number are zeros.
    fn pack(self, rows: &mut Vec<Row>) -> &[Row] {
        assert!(available() && self.data.len() == self.count * self.inner);
        let block = BLOCK * self.depth();
        let size = self.count.div_ceil(BLOCK) * block;
        if rows.len() < size {
            rows.resize(size, Row::ZERO);
        }
        let rows = &mut rows[..size];
        let blocks = rows.par_chunks_mut(block);
        let blocks = blocks.with_min_len(PACKED_TOGETHER.div_ceil(block));
        blocks.enumerate().for_each(|(block, rows)| {
            for (at, tile) in rows.as_chunks_mut::<SIDE>().0.iter_mut().enumerate() {
                let first = block * BLOCK + at % 2 * SIDE;
                // SAFETY: the CPU has AVX-512 with BF16, as `available` says.
                unsafe { self.pack_tile(first, at / 2 * DEPTH, tile) };
            }
        });
        rows
    }

    /// # Safety
    /// The CPU has the features named here.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
    unsafe fn pack_tile(self, first: usize, from: usize, tile: &mut [Row; SIDE]) {
        let count = self.count.saturating_sub(first).min(16);
        let length = (self.inner - from).min(DEPTH);
        let mask = |length: usize| ((1_u32 << length.min(16)) - 1) as __mmask16;
        let mut rows = [_mm512_setzero_si512(); 16];
        // SAFETY: what a mask leaves out is not read; the rest is within `data`.
        unsafe {
            if self.runs {
                let (low, high) = (mask(length), mask(length.saturating_sub(16)));
                for (x, row) in rows.iter_mut().enumerate().take(count) {
                    let run = self.data.as_ptr().add((first + x) * self.inner + from);
                    let low = _mm512_maskz_loadu_ps(low, run);
                    let high = _mm512_maskz_loadu_ps(high, run.wrapping_add(16));
                    *row = bits(_mm512_cvtne2ps_pbh(high, low));
                }
            } else {
                let kept = mask(count);
                let at = |k: usize| {
                    let kept = if k < self.inner { kept } else { 0 };
                    _mm512_maskz_loadu_ps(
                        kept,
                        self.data.as_ptr().wrapping_add(k * self.count + first),
                    )
                };
                // Words of the first half and of the second in turn.
                let pairs = _mm512_loadu_si512(PAIRS.as_ptr().cast());
                for (pair, row) in rows.iter_mut().enumerate().take(length.div_ceil(2)) {
                    let k = from + 2 * pair;
                    let both = bits(_mm512_cvtne2ps_pbh(at(k + 1), at(k)));
                    *row = _mm512_permutexvar_epi16(pairs, both);
                }
            }
            if self.runs != self.left {
                transpose(&mut rows);
            }
            for (row, to) in rows.into_iter().zip(tile) {
                _mm512_store_si512(to.0.as_mut_ptr().cast(), row);
            }
        }
    }
}

/// 0, 16, 1, 17, ...
static PAIRS: [u16; 32] = {
    let mut pairs = [0; 32];
    let mut at = 0;
    while at < 32 {
        pairs[at] = (at / 2 + at % 2 * 16) as u16;
        at += 1;
    }
    pairs
};

#[inline(always)]
fn bits(numbers: __m512bh) -> __m512i {
    // SAFETY: both are 64 bytes of plain bits.
    unsafe { std::mem::transmute(numbers) }
}

/// Rows become columns.
#[inline]
#[target_feature(enable = "avx512f")]
fn transpose(rows: &mut [__m512i; 16]) {
    // Pairs of numbers, then pairs of these: four rows at a time inside quarters of the registers.
    for four in rows.as_chunks_mut::<4>().0 {
        let [a, b, c, d] = *four;
        let (ab, cd) = (_mm512_unpacklo_epi32(a, b), _mm512_unpacklo_epi32(c, d));
        let (ef, gh) = (_mm512_unpackhi_epi32(a, b), _mm512_unpackhi_epi32(c, d));
        *four = [
            _mm512_unpacklo_epi64(ab, cd),
            _mm512_unpackhi_epi64(ab, cd),
            _mm512_unpacklo_epi64(ef, gh),
            _mm512_unpackhi_epi64(ef, gh),
        ];
    }
    // Then the quarters themselves.
    for at in 0..4 {
        let [a, b, c, d] = [0, 4, 8, 12].map(|four| rows[four + at]);
        let (ab, cd) = (
            _mm512_shuffle_i32x4(a, b, 0b1000_1000),
            _mm512_shuffle_i32x4(c, d, 0b1000_1000),
        );
        let (ef, gh) = (
            _mm512_shuffle_i32x4(a, b, 0b1101_1101),
            _mm512_shuffle_i32x4(c, d, 0b1101_1101),
        );
        rows[at] = _mm512_shuffle_i32x4(ab, cd, 0b1000_1000);
        rows[8 + at] = _mm512_shuffle_i32x4(ab, cd, 0b1101_1101);
        rows[4 + at] = _mm512_shuffle_i32x4(ef, gh, 0b1000_1000);
        rows[12 + at] = _mm512_shuffle_i32x4(ef, gh, 0b1101_1101);
    }
}

/// A block of sums, by rows.
#[repr(C, align(64))]
pub(crate) struct Sums(pub [[f32; BLOCK]; BLOCK]);

impl Sums {
    pub const ZERO: Self = Self([[0.0; BLOCK]; BLOCK]);

    /// Adds columns `columns..` of all sums to the lines, as far as there are any.
    ///
    /// # Safety
    /// The CPU has AVX-512.
    #[target_feature(enable = "avx512f")]
    unsafe fn add_to(&self, lines: &mut [&mut [f32]], column: usize) {
        for (line, sums) in lines.iter_mut().zip(&self.0) {
            let line = &mut line[column..];
            for (half, sums) in sums.as_chunks::<16>().0.iter().enumerate() {
                let width = line.len().saturating_sub(16 * half).min(16);
                let mask = ((1_u32 << width) - 1) as __mmask16;
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

/// The product of a block of the left factor and one of the right: `[depth][2]` tiles each.
fn multiply(_: &Shape, left: &[Row], right: &[Row], sums: &mut Sums) {
    assert!(left.len() == right.len() && left.len() >= BLOCK && left.len().is_multiple_of(BLOCK));
    // SAFETY: the shape of the tiles is set; tiles are read within both slices, and sums written within theirs.
    unsafe {
        asm!(
            "tilezero tmm0",
            "tilezero tmm1",
            "tilezero tmm2",
            "tilezero tmm3",
            "2:",
            "tileloadd tmm4, [{left} + {row}]",
            "tileloadd tmm6, [{right} + {row}]",
            "tileloadd tmm7, [{right} + {row} + 1024]",
            "tileloadd tmm5, [{left} + {row} + 1024]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm3, tmm5, tmm7",
            "add {left}, 2048",
            "add {right}, 2048",
            "dec {depth}",
            "jnz 2b",
            "tilestored [{sums} + {line}], tmm0",
            "tilestored [{sums} + {line} + 64], tmm1",
            "tilestored [{sums} + {line} + 2048], tmm2",
            "tilestored [{sums} + {line} + 2112], tmm3",
            left = inout(reg) left.as_ptr() => _,
            right = inout(reg) right.as_ptr() => _,
            depth = inout(reg) left.len() / BLOCK => _,
            sums = in(reg) sums.0.as_mut_ptr(),
            row = in(reg) 64_usize,
            line = in(reg) 128_usize,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack)
        );
    }
}

/// The product of the left factor's tiles `[depth][2]` and of right ones that lie in signals of pairs: from one row of
/// such a tile to the next are `length` pairs, and `offsets` says where they begin.
pub(crate) fn multiply_signals(
    _: &Shape,
    left: &[Row],
    signals: &[f32],
    length: usize,
    offsets: &[usize],
    sums: &mut Sums,
) {
    let last = offsets.iter().max().map_or(0, |last| *last);
    assert!(!offsets.is_empty() && left.len() == BLOCK * offsets.len());
    assert!(last + (SIDE - 1) * length + BLOCK <= signals.len());
    // SAFETY: the shape of the tiles is set; tiles are read within both slices, and sums written within theirs.
    unsafe {
        asm!(
            "tilezero tmm0",
            "tilezero tmm1",
            "tilezero tmm2",
            "tilezero tmm3",
            "2:",
            "mov {right}, [{offsets}]",
            "lea {right}, [{signals} + 4 * {right}]",
            "tileloadd tmm4, [{left} + {row}]",
            "tileloadd tmm6, [{right} + {length}]",
            "tileloadd tmm7, [{right} + {length} + 64]",
            "tileloadd tmm5, [{left} + {row} + 1024]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm3, tmm5, tmm7",
            "add {left}, 2048",
            "add {offsets}, 8",
            "dec {depth}",
            "jnz 2b",
            "tilestored [{sums} + {line}], tmm0",
            "tilestored [{sums} + {line} + 64], tmm1",
            "tilestored [{sums} + {line} + 2048], tmm2",
            "tilestored [{sums} + {line} + 2112], tmm3",
            left = inout(reg) left.as_ptr() => _,
            offsets = inout(reg) offsets.as_ptr() => _,
            depth = inout(reg) offsets.len() => _,
            right = out(reg) _,
            signals = in(reg) signals.as_ptr(),
            length = in(reg) 4 * length,
            sums = in(reg) sums.0.as_mut_ptr(),
            row = in(reg) 64_usize,
            line = in(reg) 128_usize,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack)
        );
    }
}

/// Sums along signals: of the left factor, 32 signals of bfloat16, `length` numbers from one to the next; of the right
/// one, two runs of pairs of numbers, sixteen signals side by side. `depth` tiles of each.
pub(crate) fn multiply_along(
    _: &Shape,
    left: &[u16],
    length: usize,
    right: [&[Row]; 2],
    depth: usize,
    sums: &mut Sums,
) {
    assert!(depth > 0 && (BLOCK - 1) * length + depth * DEPTH <= left.len());
    assert!(right.iter().all(|right| depth * SIDE <= right.len()));
    // SAFETY: the shape of the tiles is set; tiles are read within the slices, and sums written within theirs.
    unsafe {
        asm!(
            "tilezero tmm0",
            "tilezero tmm1",
            "tilezero tmm2",
            "tilezero tmm3",
            "2:",
            "tileloadd tmm4, [{upper} + {length}]",
            "tileloadd tmm6, [{first} + {row}]",
            "tileloadd tmm7, [{second} + {row}]",
            "tileloadd tmm5, [{lower} + {length}]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm3, tmm5, tmm7",
            "add {upper}, 64",
            "add {lower}, 64",
            "add {first}, 1024",
            "add {second}, 1024",
            "dec {depth}",
            "jnz 2b",
            "tilestored [{sums} + {line}], tmm0",
            "tilestored [{sums} + {line} + 64], tmm1",
            "tilestored [{sums} + {line} + 2048], tmm2",
            "tilestored [{sums} + {line} + 2112], tmm3",
            upper = inout(reg) left.as_ptr() => _,
            lower = inout(reg) left[SIDE * length..].as_ptr() => _,
            first = inout(reg) right[0].as_ptr() => _,
            second = inout(reg) right[1].as_ptr() => _,
            depth = inout(reg) depth => _,
            length = in(reg) 2 * length,
            sums = in(reg) sums.0.as_mut_ptr(),
            row = in(reg) 64_usize,
            line = in(reg) 128_usize,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack)
        );
    }
}

/// A tile of 32 numbers of sixteen signals of bfloat16, `length` numbers from one to the next: a row is a pair of
/// neighbours of each.
pub(crate) fn gather(signals: &[u16], length: usize, tile: &mut [Row; SIDE]) {
    assert!(available() && (SIDE - 1) * length + DEPTH <= signals.len());
    // SAFETY: the CPU has AVX-512, as `available` says; what is read is within the signals.
    unsafe {
        let signal = |at: usize| _mm512_loadu_si512(signals.as_ptr().add(at * length).cast());
        let mut rows: [__m512i; SIDE] = std::array::from_fn(signal);
        transpose(&mut rows);
        for (row, to) in rows.into_iter().zip(tile) {
            _mm512_store_si512(to.0.as_mut_ptr().cast(), row);
        }
    }
}

thread_local! {
    /// Tiles of the product at hand; kept, because a fresh allocation costs as much as filling it.
    static TILES: RefCell<[Vec<Row>; 2]> = const { RefCell::new([Vec::new(), Vec::new()]) };
}

/// `a b`, plus `bias` on every row.
pub(crate) fn gemm(a: Matrix, b: Matrix, bias: Option<&[f32]>) -> Vec<f32> {
    let mut c = vec![0.0; a.rows * b.columns];
    if c.is_empty() || a.columns == 0 {
        return c;
    }
    let mut tiles = TILES.take();
    let [left, right] = &mut tiles;
    let depth = Factor::left(a).depth();
    let left = Factor::left(a).pack(left);
    let right = Factor::right(b).pack(right);
    let outputs = output_blocks(&mut c, [a.rows, b.columns], [BLOCK, BLOCK]);
    outputs.into_par_iter().for_each(|output| {
        let blocks = |first: usize, count: usize| {
            let first = first / BLOCK;
            BLOCK * depth * first..BLOCK * depth * (first + count.div_ceil(BLOCK))
        };
        let left = &left[blocks(output.row, output.lines.len())];
        let right = &right[blocks(output.columns.start, output.columns.len())];
        add_product(output, left, right, depth, bias);
    });
    TILES.set(tiles);
    c
}

/// Adds the product to its block of the output, and the bias before.
fn add_product(
    mut output: OutputBlock,
    left: &[Row],
    right: &[Row],
    depth: usize,
    bias: Option<&[f32]>,
) {
    if let Some(bias) = bias {
        let bias = &bias[output.columns.clone()];
        output
            .lines
            .iter_mut()
            .for_each(|line| line.copy_from_slice(bias));
    }
    let shape = Shape::set();
    let mut sums = Sums::ZERO;
    for from in (0..depth).step_by(STRETCH) {
        let stretch = BLOCK * from..BLOCK * depth.min(from + STRETCH);
        for (index, right) in right.chunks_exact(BLOCK * depth).enumerate() {
            let blocks = left.chunks_exact(BLOCK * depth);
            for (left, lines) in blocks.zip(output.lines.chunks_mut(BLOCK)) {
                multiply(
                    &shape,
                    &left[stretch.clone()],
                    &right[stretch.clone()],
                    &mut sums,
                );
                // SAFETY: the CPU has AVX-512, or there would be no shape.
                unsafe { sums.add_to(lines, index * BLOCK) };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::matmul;

    /// Small whole numbers: exact as bfloat16, and so are their sums as `f32`.
    fn numbers(count: usize, step: usize) -> Vec<f32> {
        (0..count).map(|at| (at * step % 17) as f32 - 8.0).collect()
    }

    #[test]
    fn products_are_those_of_vectors() {
        if !available() {
            return;
        }
        for [rows, inner, columns] in [[1, 1, 1], [33, 401, 53], [64, 32, 32], [70, 1100, 9]] {
            let (a, b) = (numbers(rows * inner, 7), numbers(inner * columns, 5));
            let bias = numbers(columns, 3);
            for turned in 0..4 {
                let a = match turned % 2 {
                    0 => Matrix::new(&a, rows, inner),
                    _ => Matrix::new(&a, inner, rows).transpose(),
                };
                let b = match turned / 2 {
                    0 => Matrix::new(&b, inner, columns),
                    _ => Matrix::new(&b, columns, inner).transpose(),
                };
                for bias in [None, Some(bias.as_slice())] {
                    let want = matmul::gemm(a, b, bias);
                    assert!(
                        gemm(a, b, bias) == want,
                        "{rows} {inner} {columns} {turned}"
                    );
                }
            }
        }
    }
}
