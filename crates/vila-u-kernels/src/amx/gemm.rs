//! Matrix products.

use std::cell::RefCell;

use rayon::prelude::*;

use super::{BLOCK, DEPTH, Row, Shape, Sums, multiply::multiply, pack::Factor};
use crate::matmul::{Element, Matrix, output_blocks};

/// Tiles along the summed dimension after which sums go to memory: a block of these stays in the first-level cache.
const STRETCH: usize = 16;
/// Blocks of the left factor that pass by those of the right one: as many as stay in the second-level cache.
const LEFT_AT_ONCE: usize = 24;

thread_local! {
    /// Tiles of the product at hand; kept, because a fresh allocation costs as much as filling it.
    static TILES: RefCell<[Vec<Row>; 2]> = const { RefCell::new([Vec::new(), Vec::new()]) };
}

/// `a b`, plus `bias` on every row.
pub(crate) fn gemm<T: Element>(a: Matrix, b: Matrix<T>, bias: Option<&[f32]>) -> Vec<f32> {
    let mut right = TILES.with_borrow_mut(|[_, right]| std::mem::take(right));
    let tiles = Factor::right(b).pack_parallel(&mut right);
    let c = product(a, tiles, b.columns, bias);
    TILES.with_borrow_mut(|[_, kept]| *kept = right);
    c
}

/// `a` times a matrix of so many columns, in tiles.
fn product(a: Matrix, right: &[Row], columns: usize, bias: Option<&[f32]>) -> Vec<f32> {
    let mut c = vec![0.0; a.rows * columns];
    if c.is_empty() {
        return c;
    }
    let mut tiles = TILES.with_borrow_mut(|[left, _]| std::mem::take(left));
    let depth = Factor::left(a).depth();
    let left = Factor::left(a).pack_parallel(&mut tiles);
    let outputs = output_blocks(&mut c, [a.rows, columns], [BLOCK, BLOCK]);
    outputs.into_par_iter().for_each(|mut output| {
        let blocks = |first: usize, count: usize| {
            let first = first / BLOCK;
            BLOCK * depth * first..BLOCK * depth * (first + count.div_ceil(BLOCK))
        };
        let left = &left[blocks(output.row, output.lines.len())];
        let right = &right[blocks(output.columns.start, output.columns.len())];
        output.add_bias(bias);
        add_product(&mut output.lines, left, right, depth);
    });
    TILES.with_borrow_mut(|[left, _]| *left = tiles);
    c
}

/// Adds the product of blocks of tiles to lines.
fn add_product(lines: &mut [&mut [f32]], left: &[Row], right: &[Row], depth: usize) {
    let block = BLOCK * depth;
    if block == 0 {
        return;
    }
    let shape = Shape::set();
    let mut sums = Sums::ZERO;
    for from in (0..depth).step_by(STRETCH) {
        let stretch = BLOCK * from..BLOCK * depth.min(from + STRETCH);
        let lefts = left.chunks(LEFT_AT_ONCE * block);
        for (left, lines) in lefts.zip(lines.chunks_mut(LEFT_AT_ONCE * BLOCK)) {
            for (index, right) in right.chunks_exact(block).enumerate() {
                let right = &right[stretch.clone()];
                let blocks = left.chunks_exact(block).zip(lines.chunks_mut(BLOCK));
                for (left, lines) in blocks {
                    multiply(&shape, &left[stretch.clone()], right, &mut sums);
                    // SAFETY: the CPU has AVX-512, or there would be no shape.
                    unsafe { sums.add_to(lines, index * BLOCK) };
                }
            }
        }
    }
}

/// A matrix laid out to be the right factor of products.
pub(crate) struct Packed {
    tiles: Vec<Row>,
    inner: usize,
    columns: usize,
}

impl Packed {
    pub const fn new() -> Self {
        Self {
            tiles: Vec::new(),
            inner: 0,
            columns: 0,
        }
    }

    /// What it takes in memory.
    pub fn bytes(&self) -> usize {
        size_of_val(self.tiles.as_slice())
    }

    pub fn pack<T: Element>(&mut self, b: Matrix<T>) {
        (self.inner, self.columns) = (b.rows, b.columns);
        Factor::right(b).pack(&mut self.tiles);
    }

    fn tiles(&self) -> &[Row] {
        &self.tiles[..self.columns.div_ceil(BLOCK) * BLOCK * self.inner.div_ceil(DEPTH)]
    }

    /// `a` times it, plus `bias` on every row.
    pub fn gemm(&self, a: Matrix, bias: Option<&[f32]>) -> Vec<f32> {
        product(a, self.tiles(), self.columns, bias)
    }

    /// `c += a b` on this thread alone.
    pub fn gemm_accumulate(&self, a: Matrix, c: &mut [f32]) {
        if self.columns == 0 {
            return;
        }
        let depth = self.inner.div_ceil(DEPTH);
        let right = self.tiles();
        let mut lines: Vec<_> = c.chunks_exact_mut(self.columns).collect();
        TILES.with_borrow_mut(|[left, _]| {
            let left = Factor::left(a).pack(left);
            add_product(&mut lines, left, right, depth);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{amx::available, matmul};

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
