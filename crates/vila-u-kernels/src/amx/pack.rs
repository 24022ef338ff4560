//! Factors of a product rounded to bfloat16 and laid out as tiles.

use std::arch::x86_64::*;

use burn::tensor::DType;
use rayon::prelude::*;

use super::{BLOCK, DEPTH, Row, SIDE, available};
use crate::matmul::{Element, Matrix};

/// Rows that one thread should pack at least.
const PACKED_TOGETHER: usize = 512;

/// Numbers to become tiles: `count` vectors along the summed dimension, `inner` numbers long.
#[derive(Clone, Copy)]
pub(super) struct Factor<'a, T> {
    data: &'a [T],
    count: usize,
    inner: usize,
    /// Whether a vector is a run of memory; otherwise the vectors' first numbers are, then their second ones.
    runs: bool,
    left: bool,
}

impl<'a, T: Element> Factor<'a, T> {
    /// The rows of `a` in `a b`.
    pub fn left(a: Matrix<'a, T>) -> Self {
        Self {
            data: a.data,
            count: a.rows,
            inner: a.columns,
            runs: !a.transposed,
            left: true,
        }
    }

    /// The columns of `b` in `a b`.
    pub fn right(b: Matrix<'a, T>) -> Self {
        Self {
            data: b.data,
            count: b.columns,
            inner: b.rows,
            runs: b.transposed,
            left: false,
        }
    }

    /// Tiles along the summed dimension.
    pub fn depth(&self) -> usize {
        self.inner.div_ceil(DEPTH)
    }

    /// All of it as tiles, `[block of vectors][depth][2]`. Beyond the last vector and the last number are zeros.
    pub fn pack(self, rows: &mut Vec<Row>) -> &[Row] {
        let rows = self.room(rows);
        let blocks = rows.chunks_mut((BLOCK * self.depth()).max(1));
        blocks.enumerate().for_each(|block| self.pack_block(block));
        rows
    }

    /// The same on all threads.
    pub fn pack_parallel(self, rows: &mut Vec<Row>) -> &[Row] {
        let rows = self.room(rows);
        let block = (BLOCK * self.depth()).max(1);
        let blocks = rows.par_chunks_mut(block);
        let blocks = blocks.with_min_len(PACKED_TOGETHER.div_ceil(block));
        blocks.enumerate().for_each(|block| self.pack_block(block));
        rows
    }

    fn room(self, rows: &mut Vec<Row>) -> &mut [Row] {
        let size = self.count.div_ceil(BLOCK) * BLOCK * self.depth();
        if rows.len() < size {
            rows.resize(size, Row::ZERO);
        }
        &mut rows[..size]
    }

    fn pack_block(self, (block, rows): (usize, &mut [Row])) {
        assert!(available() && self.data.len() == self.count * self.inner);
        for (at, tile) in rows.as_chunks_mut::<SIDE>().0.iter_mut().enumerate() {
            let first = block * BLOCK + at % 2 * SIDE;
            // SAFETY: the CPU has AVX-512 with BF16, as `available` says.
            unsafe { self.pack_tile(first, at / 2 * DEPTH, tile) };
        }
    }

    /// # Safety
    /// The CPU has the features named here.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
    unsafe fn pack_tile(self, first: usize, from: usize, tile: &mut [Row; SIDE]) {
        let count = self.count.saturating_sub(first).min(16);
        let length = (self.inner - from).min(DEPTH);
        let mut rows = [_mm512_setzero_si512(); 16];
        // SAFETY: what is read is within `data`.
        unsafe {
            if self.runs {
                for (x, row) in rows.iter_mut().enumerate().take(count) {
                    let run = self.data.as_ptr().add((first + x) * self.inner + from);
                    let high = length.saturating_sub(16);
                    *row = bfloat16([run, run.wrapping_add(16)], [length.min(16), high]);
                }
            } else {
                // Words of the first half and of the second in turn.
                let pairs = _mm512_loadu_si512(PAIRS.as_ptr().cast());
                for (pair, row) in rows.iter_mut().enumerate().take(length.div_ceil(2)) {
                    let k = from + 2 * pair;
                    let low = self.data.as_ptr().add(k * self.count + first);
                    let high = if k + 1 < self.inner { count } else { 0 };
                    let both = bfloat16([low, low.wrapping_add(self.count)], [count, high]);
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

/// Twice up to sixteen numbers, rounded; zeros in place of those that are not there.
///
/// # Safety
/// The CPU has the features named here, and memory has as many numbers there as are asked for.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
unsafe fn bfloat16<T: Element>(numbers: [*const T; 2], lengths: [usize; 2]) -> __m512i {
    let [low, high] = lengths.map(|length| ((1_u32 << length) - 1) as __mmask16);
    // SAFETY: what a mask leaves out is not read.
    unsafe {
        if T::DTYPE == DType::BF16 {
            let low = _mm256_maskz_loadu_epi16(low, numbers[0].cast());
            let high = _mm256_maskz_loadu_epi16(high, numbers[1].cast());
            _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1)
        } else {
            let low = _mm512_maskz_loadu_ps(low, numbers[0].cast());
            let high = _mm512_maskz_loadu_ps(high, numbers[1].cast());
            bits(_mm512_cvtne2ps_pbh(high, low))
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
