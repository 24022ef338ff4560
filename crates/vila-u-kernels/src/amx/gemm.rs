//! Matrix products.

use std::cell::RefCell;

use rayon::prelude::*;

use super::{BLOCK, Row, Shape, Sums, multiply::multiply, pack::Factor};
use crate::matmul::{Matrix, OutputBlock, output_blocks};

/// Tiles along the summed dimension after which sums go to memory: two of them for each stay in the first-level cache.
const STRETCH: usize = 16;

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
