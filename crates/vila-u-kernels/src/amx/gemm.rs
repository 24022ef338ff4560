//! Matrix products.

use std::cell::RefCell;

use rayon::prelude::*;

use super::{BLOCK, DEPTH, Row, Shape, Sums, multiply::multiply, pack::Factor};
use crate::matmul::{self, Element, Matrix, OutputBlock, in_blocks};

/// Tiles along the summed dimension that are multiplied at once: a block of these stays in the first-level cache.
const STRETCH: usize = 16;
/// Blocks of the left factor and of the right one whose sums, and those of the left one itself, stay in the
/// second-level cache.
const LEFTS: usize = 16;
const RIGHTS: usize = 8;

thread_local! {
    /// Tiles of the product at hand; kept, because a fresh allocation costs as much as filling it.
    static TILES: RefCell<[Vec<Row>; 2]> = const { RefCell::new([Vec::new(), Vec::new()]) };
    static SUMS: RefCell<Vec<Sums>> = const { RefCell::new(Vec::new()) };
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
    let mut tiles = TILES.with_borrow_mut(|[left, _]| std::mem::take(left));
    let depth = Factor::left(a).depth();
    let left = Factor::left(a).pack_parallel(&mut tiles);
    let compute = |output: &mut OutputBlock| {
        let blocks = |first: usize, count: usize| {
            let first = first / BLOCK;
            BLOCK * depth * first..BLOCK * depth * (first + count.div_ceil(BLOCK))
        };
        let left = &left[blocks(output.row, output.lines.len())];
        let right = &right[blocks(output.columns.start, output.columns.len())];
        if depth == 0 {
            output.start(bias);
            return;
        }
        let first = output.columns.start;
        multiply_blocks(left, right, depth, |[left, right], sums| {
            let lines = output.lines[left * BLOCK..].iter_mut();
            let bias = bias.map(|bias| &bias[first + right * BLOCK..]);
            // SAFETY: the CPU has AVX-512, or there would be no sums.
            unsafe { sums.store(lines, right * BLOCK, bias) };
        });
    };
    // SAFETY: there are sums for every block, or all lines are started.
    let c = unsafe { in_blocks([a.rows, columns], [BLOCK, BLOCK], compute) };
    TILES.with_borrow_mut(|[left, _]| *left = tiles);
    c
}

/// Adds the product of blocks of tiles to lines.
fn add_product(lines: &mut [&mut [f32]], left: &[Row], right: &[Row], depth: usize) {
    multiply_blocks(left, right, depth, |[left, right], sums| {
        let lines = &mut lines[left * BLOCK..];
        let count = lines.len().min(BLOCK);
        // SAFETY: the CPU has AVX-512, or there would be no sums.
        unsafe { sums.add_to(&mut lines[..count], right * BLOCK) };
    });
}

/// `a b` block by block, where threads share the columns of `b`, which may be packed: `take` is given what `start` makes
/// for its thread, the first row and column of a block, and the sums. Returns what becomes of it on each thread.
pub(crate) fn products_with<T: Send>(
    a: Matrix,
    b: Matrix,
    packed: Option<&matmul::Packed>,
    start: impl Fn() -> T + Sync,
    take: impl Fn(&mut T, [usize; 2], &Sums) + Sync,
) -> Vec<T> {
    let mut tiles = TILES.take();
    let [left, right] = &mut tiles;
    let depth = Factor::left(a).depth();
    let left = Factor::left(a).pack_parallel(left);
    let right = match packed {
        Some(packed) => packed.tiles(),
        None => Factor::right(b).pack_parallel(right),
    };
    let blocks = b
        .columns
        .div_ceil(BLOCK)
        .div_ceil(rayon::current_num_threads());
    let found = right
        .par_chunks((blocks * BLOCK * depth).max(1))
        .enumerate()
        .map(|(thread, right)| {
            let mut found = start();
            multiply_blocks(left, right, depth, |[row, column], sums| {
                let column = (thread * blocks + column) * BLOCK;
                take(&mut found, [row * BLOCK, column], sums);
            });
            found
        });
    let found = found.collect();
    TILES.set(tiles);
    found
}

/// Multiplies all blocks of the left factor and all of the right one: `take` is given their numbers and the sums.
fn multiply_blocks(
    left: &[Row],
    right: &[Row],
    depth: usize,
    mut take: impl FnMut([usize; 2], &Sums),
) {
    let block = BLOCK * depth;
    if block == 0 {
        return;
    }
    let shape = Shape::set();
    let mut sums = SUMS.take();
    sums.resize(LEFTS * RIGHTS, Sums::ZERO);
    for (lefts, left) in left.chunks(LEFTS * block).enumerate() {
        for (group, right) in right.chunks(RIGHTS * block).enumerate() {
            for from in (0..depth).step_by(STRETCH) {
                let stretch = BLOCK * from..BLOCK * depth.min(from + STRETCH);
                let share = stretch.len().div_ceil(left.len() / block);
                let rights = right.chunks_exact(block).zip(sums.chunks_exact_mut(LEFTS));
                for (index, (of_block, sums)) in rights.enumerate() {
                    // What comes next is fetched meanwhile, as it may lie far away.
                    let next = right[(index + 1) * block..].get(stretch.clone());
                    let mut next = next.unwrap_or_default().chunks(share);
                    let right = &of_block[stretch.clone()];
                    for (left, sums) in left.chunks_exact(block).zip(sums) {
                        next.next().into_iter().flatten().for_each(Row::prefetch);
                        let left = &left[stretch.clone()];
                        multiply(&shape, left, right, sums, from > 0);
                    }
                }
            }
            let rights = sums.chunks_exact(LEFTS).take(right.len() / block);
            for (index, sums) in rights.enumerate() {
                for (of_left, sums) in sums.iter().take(left.len() / block).enumerate() {
                    take([lefts * LEFTS + of_left, group * RIGHTS + index], sums);
                }
            }
        }
    }
    SUMS.set(sums);
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

    /// The same on all threads.
    pub fn pack_parallel<T: Element>(&mut self, b: Matrix<T>) {
        (self.inner, self.columns) = (b.rows, b.columns);
        Factor::right(b).pack_parallel(&mut self.tiles);
    }

    pub fn tiles(&self) -> &[Row] {
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
        // The last one has more blocks of both factors than are multiplied at once.
        let sizes = [
            [1, 1, 1],
            [33, 401, 53],
            [64, 32, 32],
            [70, 1100, 9],
            [1100, 530, 560],
        ];
        for [rows, inner, columns] in sizes {
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
