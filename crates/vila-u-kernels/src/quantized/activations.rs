//! The other factor: rows of numbers, rounded to signed bytes in blocks like those of the weights.

use rayon::prelude::*;

use super::BLOCK;
use crate::math::simd;

/// Numbers that one thread should round at least.
const TOGETHER: usize = 1 << 16;

/// Rows `x`, where `x = scale * q` to within half a step of 1/127 of the block's largest number.
pub(super) struct Activations {
    /// `[rows, blocks, 32]`
    pub q: Vec<i8>,
    /// `[rows, blocks]`
    pub scales: Vec<f32>,
    /// `[rows, blocks]`: the sum of the bytes of each block.
    pub sums: Vec<i32>,
    /// Blocks of a row.
    pub blocks: usize,
}

impl Activations {
    /// Rounds rows of `columns` numbers, a multiple of [`BLOCK`].
    pub fn new(x: &[f32], columns: usize) -> Self {
        let blocks = x.len() / BLOCK;
        let mut rounded = Self {
            q: vec![0; x.len()],
            scales: vec![0.0; blocks],
            sums: vec![0; blocks],
            blocks: columns / BLOCK,
        };
        rounded
            .q
            .par_chunks_mut(columns)
            .zip(rounded.scales.par_chunks_mut(columns / BLOCK))
            .zip(rounded.sums.par_chunks_mut(columns / BLOCK))
            .zip(x.par_chunks(columns))
            .with_min_len(TOGETHER.div_ceil(columns))
            .for_each(|(((q, scales), sums), x)| {
                simd(
                    #[inline(always)]
                    || {
                        let q = q.as_chunks_mut::<BLOCK>().0.iter_mut();
                        let x = x.as_chunks::<BLOCK>().0;
                        for (((q, scale), sum), x) in q.zip(scales).zip(sums).zip(x) {
                            (*scale, *sum) = round(x, q);
                        }
                    },
                );
            });
        rounded
    }

    /// `R` rows from `first` on.
    #[inline(always)]
    pub fn rows<const R: usize>(&self, first: usize) -> [Row<'_>; R] {
        std::array::from_fn(|r| {
            let blocks = (first + r) * self.blocks..(first + r + 1) * self.blocks;
            Row {
                q: &self.q.as_chunks().0[blocks.clone()],
                scales: &self.scales[blocks.clone()],
                sums: &self.sums[blocks],
            }
        })
    }
}

/// A row of them, block by block.
#[derive(Clone, Copy)]
pub(super) struct Row<'a> {
    pub q: &'a [[i8; BLOCK]],
    pub scales: &'a [f32],
    pub sums: &'a [i32],
}

/// The bytes of a block; returns its scale and their sum. The scale is not a number if any of them is none, or infinite.
#[inline(always)]
fn round(x: &[f32; BLOCK], q: &mut [i8; BLOCK]) -> (f32, i32) {
    // In strands: a fold of one number after the other would not vectorise.
    let mut strands = [0.0_f32; 16];
    let mut zeros = [0.0_f32; 16];
    for x in x.as_chunks::<16>().0 {
        for ((strand, zero), x) in strands.iter_mut().zip(&mut zeros).zip(x) {
            *strand = strand.max(x.abs());
            // `max` leaves out what is not a number.
            *zero += x * 0.0;
        }
    }
    let largest = strands.iter().fold(0.0_f32, |m, x| m.max(*x));
    let scale = largest / 127.0 + zeros.iter().sum::<f32>();
    let inverse = if scale > 0.0 { 1.0 / scale } else { 0.0 };
    let mut sum = 0;
    for (q, x) in q.iter_mut().zip(x) {
        // Adding 1.5 * 2^23 rounds to the nearest integer and leaves it in the low bits.
        let integer = (x * inverse + 12_582_912.0).to_bits() as i8;
        sum += i32::from(integer);
        *q = integer;
    }
    (scale, sum)
}
