//! How threads share an output.

use rayon::prelude::*;
use std::ops::Range;

use crate::output::{Unwritten, filled, written};

/// To pack a right panel takes as long as to use it for so many rows.
const ROWS_TO_PACK: usize = 24;

/// What one thread computes: a block of the product.
pub(crate) struct OutputBlock<'a> {
    /// The first row.
    pub row: usize,
    pub columns: Range<usize>,
    /// These columns of its rows.
    pub lines: Vec<&'a mut [Unwritten]>,
}

impl<'a> OutputBlock<'a> {
    /// Sets its rows to the bias, or to zeros.
    pub fn start(&mut self, bias: Option<&[f32]>) -> Vec<&'a mut [f32]> {
        let lines = std::mem::take(&mut self.lines).into_iter();
        match bias {
            Some(bias) => {
                let bias = &bias[self.columns.clone()];
                lines.map(|line| line.write_copy_of_slice(bias)).collect()
            }
            None => lines.map(|line| filled(line, 0.0)).collect(),
        }
    }
}

/// An output `[rows, columns]`, of which each thread computes a block, a multiple of `unit` in size.
///
/// # Safety
/// `compute` writes all lines of its block.
pub(crate) unsafe fn in_blocks(
    [rows, columns]: [usize; 2],
    unit: [usize; 2],
    compute: impl Fn(&mut OutputBlock) + Send + Sync,
) -> Vec<f32> {
    // SAFETY: the blocks are all of it, and `compute` writes them.
    unsafe {
        written(rows * columns, |c| {
            if !c.is_empty() {
                let mut blocks = output_blocks(c, [rows, columns], unit);
                blocks.par_iter_mut().for_each(compute);
            }
        })
    }
}

/// The output cut into a block for each thread.
fn output_blocks(
    c: &mut [Unwritten],
    [rows, columns]: [usize; 2],
    [tall, wide]: [usize; 2],
) -> Vec<OutputBlock<'_>> {
    let threads = rayon::current_num_threads();
    let share = |length: usize, parts: usize, unit: usize| length.div_ceil(unit * parts) * unit;
    // As few cuts across the rows as need be, because each packs all right panels again.
    let [tall, wide] = (1..=threads)
        .map(|cuts| {
            [
                share(rows, cuts, tall),
                share(columns, threads / cuts, wide),
            ]
        })
        .min_by_key(|[tall, wide]| (tall + ROWS_TO_PACK) * wide.min(&columns))
        .unwrap_or([rows, columns]);
    let mut blocks = Vec::new();
    for (index, c) in c.chunks_mut(tall * columns).enumerate() {
        let first = blocks.len();
        blocks.extend((0..columns).step_by(wide).map(|column| OutputBlock {
            row: index * tall,
            columns: column..columns.min(column + wide),
            lines: Vec::with_capacity(c.len() / columns),
        }));
        for line in c.chunks_exact_mut(columns) {
            for (block, line) in blocks[first..].iter_mut().zip(line.chunks_mut(wide)) {
                block.lines.push(line);
            }
        }
    }
    blocks
}
