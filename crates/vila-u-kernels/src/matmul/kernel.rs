//! The inner loops of a product over packed panels.

use pulp::{Simd, bytemuck};
use std::{array::from_fn, ops::Range};

use super::panels::K_BLOCK;
use crate::precision::{MulAdd, VectorLoop};
use crate::prefetch::{LINE, prefetch};

/// Numbers of the left panels that pass by the packed right ones: half of a usual second-level cache.
const LEFT_AT_ONCE: usize = 48 << 10;

/// Adds the product over one block of the inner dimension to a block of the output.
pub(super) struct MacroKernel<'a, 'c, const ROWS: usize, const PANEL: usize> {
    pub left: &'a [f32],
    pub right: &'a [f32],
    /// From one panel to the next, and where in each the block of the inner dimension starts.
    pub left_step: usize,
    pub left_from: usize,
    pub right_step: usize,
    pub right_from: usize,
    pub depth: usize,
    /// The block in the lines.
    pub column: usize,
    pub width: usize,
    pub lines: &'a mut [&'c mut [f32]],
}

impl<const ROWS: usize, const PANEL: usize> VectorLoop for MacroKernel<'_, '_, ROWS, PANEL> {
    #[inline(always)]
    fn run<S: Simd, M: MulAdd<S>>(self, simd: S, multiply: M) {
        // On machines with narrower vectors a panel is several tiles wide.
        let tile = S::F32_LANES * if ROWS == 8 { 3 } else { 2 };
        let panels = LEFT_AT_ONCE * PANEL / K_BLOCK / ROWS;
        let left = self.left.chunks(self.left_step * panels);
        for (left, lines) in left.zip(self.lines.chunks_mut(ROWS * panels)) {
            for column in (0..self.width).step_by(tile) {
                let (panel, within) = (column / PANEL, column % PANEL);
                let width = tile.min(self.width - column);
                let from = panel * self.right_step + self.right_from;
                let right = &self.right[from..][..self.depth * PANEL];
                // The next panel comes from far away: a share of it with each tile of this one.
                let next = self.right.get(from + self.right_step..);
                let tiles = lines.len().div_ceil(ROWS).max(1);
                let share = right.len().div_ceil(tiles).max(1);
                let mut next = next.unwrap_or_default().chunks(share);
                let left = left.chunks_exact(self.left_step);
                for (left, lines) in left.zip(lines.chunks_mut(ROWS)) {
                    let lines_of_next = next.next().unwrap_or_default().iter().step_by(LINE);
                    lines_of_next.for_each(prefetch);
                    let left = &left[self.left_from..][..self.depth * ROWS];
                    let columns = self.column + column..self.column + column + width;
                    micro_kernel::<S, M, ROWS, PANEL>(
                        simd, multiply, left, right, within, lines, columns,
                    );
                }
            }
        }
    }
}

/// Adds a tile, or the part of it that exists, to columns of lines.
#[inline(always)]
fn micro_kernel<S: Simd, M: MulAdd<S>, const ROWS: usize, const PANEL: usize>(
    simd: S,
    multiply: M,
    left: &[f32],
    right: &[f32],
    within: usize,
    lines: &mut [&mut [f32]],
    columns: Range<usize>,
) {
    macro_rules! tile {
        ($rows:literal, $vectors:literal) => {{
            let right = right.chunks_exact(PANEL).map(|right| &right[within..]);
            let tile = left.chunks_exact(ROWS).zip(right);
            add_tile(
                simd,
                tile_sums::<S, M, $rows, $vectors>(simd, multiply, tile),
                lines,
                columns,
            )
        }};
        ($rows:literal) => {
            match columns.len().div_ceil(S::F32_LANES) {
                1 => tile!($rows, 1),
                2 => tile!($rows, 2),
                _ => tile!($rows, 3),
            }
        };
    }
    // These sums are added to: they come while the product is computed.
    for line in lines.iter() {
        line[columns.clone()]
            .iter()
            .step_by(LINE)
            .for_each(prefetch);
        prefetch(&line[columns.end - 1]);
    }
    match (ROWS, lines.len()) {
        (8, 5..) => tile!(8),
        (8, _) => tile!(4),
        (_, 4..) => tile!(6),
        _ => tile!(3),
    }
}

/// The inner loop of everything: `R` rows by `V` vectors along a block of the inner dimension.
#[inline(always)]
fn tile_sums<'a, S: Simd, M: MulAdd<S>, const R: usize, const V: usize>(
    simd: S,
    multiply: M,
    factors: impl Iterator<Item = (&'a [f32], &'a [f32])>,
) -> [[S::f32s; V]; R] {
    let mut sums = [[simd.splat_f32s(0.0); V]; R];
    for (left, right) in factors {
        let (right, _) = S::as_simd_f32s(&right[..V * S::F32_LANES]);
        let right: [S::f32s; V] = from_fn(|v| right[v]);
        for r in 0..R {
            let left = simd.splat_f32s(left[r]);
            for v in 0..V {
                sums[r][v] = multiply.mul_add(simd, left, right[v], sums[r][v]);
            }
        }
    }
    sums
}

#[inline(always)]
fn add_tile<S: Simd, const R: usize, const V: usize>(
    simd: S,
    sums: [[S::f32s; V]; R],
    lines: &mut [&mut [f32]],
    columns: Range<usize>,
) {
    for (line, sums) in lines.iter_mut().zip(&sums) {
        let line = &mut line[columns.clone()];
        let (vectors, rest) = S::as_mut_simd_f32s(line);
        for (c, sum) in vectors.iter_mut().zip(sums) {
            *c = simd.add_f32s(*c, *sum);
        }
        let sums = bytemuck::cast_slice::<_, f32>(&sums[vectors.len()..]);
        for (c, sum) in rest.iter_mut().zip(sums) {
            *c += sum;
        }
    }
}
