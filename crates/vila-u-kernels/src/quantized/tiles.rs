//! The dot products of many rows on the tile unit (see [`crate::amx`]): a block of sixteen rows with one of sixteen
//! outputs is one instruction, its scales a pass over the sums.

use std::arch::x86_64::*;

use rayon::prelude::*;

use super::{
    BLOCK, BlockFormat,
    activations::Activations,
    packed::{Group, LANES},
};
pub(super) use crate::amx::multiplies_bytes as is_here;
use crate::amx::{BlockShape, multiply_block};

/// Rows that are multiplied together.
pub(super) const ROWS: usize = 16;
/// Groups of outputs that pass by the same rows: as many as stay in the second-level cache.
const GROUPS: usize = 4;
/// Bytes of a block of all outputs of a group.
const BYTES: usize = BLOCK * LANES;

/// Sixteen rows of one block.
struct RowBlock {
    q: [[i8; BLOCK]; ROWS],
    scales: [f32; ROWS],
    sums: [i32; ROWS],
}

/// Rows as tiles, in sixteens; those that are left over are not among them.
pub(super) struct Tiles {
    /// `[sixteen][block]`
    rows: Vec<RowBlock>,
    blocks: usize,
}

impl Tiles {
    pub fn new(x: &Activations) -> Self {
        let rows = x.scales.len() / x.blocks.max(1);
        let q = x.q.as_chunks::<BLOCK>().0;
        let block = |at: usize| {
            let (first, index) = (at / x.blocks * ROWS, at % x.blocks);
            let of = |row: usize| (first + row) * x.blocks + index;
            RowBlock {
                q: std::array::from_fn(|row| q[of(row)]),
                scales: std::array::from_fn(|row| x.scales[of(row)]),
                sums: std::array::from_fn(|row| x.sums[of(row)]),
            }
        };
        Self {
            rows: (0..rows / ROWS * x.blocks)
                .into_par_iter()
                .map(block)
                .collect(),
            blocks: x.blocks,
        }
    }

    /// How many rows there are.
    pub fn count(&self) -> usize {
        self.rows.len() / self.blocks.max(1) * ROWS
    }

    /// The products of all rows with a run of groups: `store(row, group, sums)`.
    pub fn products(
        &self,
        blocks: BlockFormat,
        groups: &[Group],
        mut store: impl FnMut(usize, usize, &[f32; LANES]),
    ) {
        let shape = BlockShape::set();
        let mut bytes = vec![0; GROUPS * self.blocks * BYTES];
        for (chunk, groups) in groups.chunks(GROUPS).enumerate() {
            let unpacked = bytes.chunks_exact_mut(self.blocks * BYTES);
            for (group, bytes) in groups.iter().zip(unpacked) {
                unpack(blocks, *group, bytes);
            }
            for (first, rows) in self.rows.chunks_exact(self.blocks).enumerate() {
                let unpacked = bytes.chunks_exact(self.blocks * BYTES);
                for (index, (group, bytes)) in groups.iter().zip(unpacked).enumerate() {
                    // SAFETY: the CPU has AVX-512, or there would be no shape.
                    let sums = unsafe { product(&shape, rows, *group, bytes, offset(blocks)) };
                    for (row, sums) in sums.iter().enumerate() {
                        store(first * ROWS + row, chunk * GROUPS + index, sums);
                    }
                }
            }
        }
    }
}

/// What weights are stored with on top, to be unsigned.
fn offset(blocks: BlockFormat) -> i32 {
    match blocks {
        BlockFormat::Q8_0 => 128,
        BlockFormat::Q4_0 => 8,
    }
}

/// A group's weights as unsigned bytes, `[block][8][16][4]`.
fn unpack(blocks: BlockFormat, group: Group, bytes: &mut [u8]) {
    for ((_, words), bytes) in group.blocks().zip(bytes.chunks_exact_mut(BYTES)) {
        match blocks {
            BlockFormat::Q8_0 => bytes.copy_from_slice(words),
            BlockFormat::Q4_0 => {
                let (low, high) = bytes.split_at_mut(BYTES / 2);
                for ((low, high), word) in low.iter_mut().zip(high).zip(words) {
                    (*low, *high) = (word & 15, word >> 4);
                }
            }
        }
    }
}

/// The products of sixteen rows and the sixteen outputs of a group.
///
/// # Safety
/// The CPU has AVX-512.
#[target_feature(enable = "avx512f")]
unsafe fn product(
    shape: &BlockShape,
    rows: &[RowBlock],
    group: Group,
    bytes: &[u8],
    offset: i32,
) -> [[f32; LANES]; ROWS] {
    let mut totals = [_mm512_setzero_ps(); ROWS];
    let mut products = [[0; LANES]; ROWS];
    let words = bytes.as_chunks::<BYTES>().0;
    for ((row, words), (scales, _)) in rows.iter().zip(words).zip(group.blocks()) {
        multiply_block(shape, &row.q, words, &mut products);
        // SAFETY: 32 bytes.
        let scales = unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(scales.as_ptr().cast())) };
        for r in 0..ROWS {
            // SAFETY: sixteen numbers.
            let product = unsafe { _mm512_loadu_si512(products[r].as_ptr().cast()) };
            let product = _mm512_sub_epi32(product, _mm512_set1_epi32(offset * row.sums[r]));
            let scale = _mm512_mul_ps(scales, _mm512_set1_ps(row.scales[r]));
            totals[r] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(product), scale, totals[r]);
        }
    }
    let mut sums = [[0.0; LANES]; ROWS];
    for (sums, total) in sums.iter_mut().zip(totals) {
        // SAFETY: sixteen numbers.
        unsafe { _mm512_storeu_ps(sums.as_mut_ptr(), total) };
    }
    sums
}
