//! Products of a few rows with a matrix, which is read as it lies: they leave no work to make up for packing it.

use pulp::{Simd, WithSimd};
use std::{array::from_fn, ops::Range};

use super::Matrix;
use crate::{gemv::by_outputs, instruction_set::arch};

/// Rows whose sums stay in registers together.
const ROWS: usize = 4;
/// Rows of `b` used before the next ones: so many pages of memory at a time.
const K_BLOCK: usize = 64;

/// `a b`, plus `bias` on every row, for matrices that are both stored by rows.
pub(super) fn few_rows(a: Matrix, b: Matrix, bias: Option<&[f32]>) -> Vec<f32> {
    by_outputs(a.rows, b.columns, bias, |columns, part| {
        arch().dispatch(Share {
            a,
            b,
            columns,
            part,
        });
    })
}

/// Some of the columns, on one thread.
struct Share<'a> {
    a: Matrix<'a>,
    b: Matrix<'a>,
    columns: Range<usize>,
    /// `[rows, columns]`, zeros.
    part: &'a mut [f32],
}

impl WithSimd for Share<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        let width = self.columns.len();
        for from in (0..self.b.rows).step_by(K_BLOCK) {
            let inner = from..self.b.rows.min(from + K_BLOCK);
            let mut column = 0;
            while column < width {
                column += match (width - column) / S::F32_LANES {
                    8.. if self.a.rows < ROWS => self.rows::<S, 1, 8>(simd, inner.clone(), column),
                    3.. => self.rows::<S, ROWS, 3>(simd, inner.clone(), column),
                    1.. => self.rows::<S, ROWS, 1>(simd, inner.clone(), column),
                    0 => self.numbers(inner.clone(), column),
                };
            }
        }
    }
}

impl Share<'_> {
    /// Adds to `V` vectors of all rows, `R` rows at a time; returns the number of columns.
    #[inline(always)]
    fn rows<S: Simd, const R: usize, const V: usize>(
        &mut self,
        simd: S,
        inner: Range<usize>,
        column: usize,
    ) -> usize {
        let whole = self.a.rows / R * R;
        for row in (0..whole).step_by(R) {
            self.tile::<S, R, V>(simd, inner.clone(), row, column);
        }
        for row in whole..self.a.rows {
            self.tile::<S, 1, V>(simd, inner.clone(), row, column);
        }
        V * S::F32_LANES
    }

    #[inline(always)]
    fn tile<S: Simd, const R: usize, const V: usize>(
        &mut self,
        simd: S,
        inner: Range<usize>,
        row: usize,
        column: usize,
    ) {
        let tile = V * S::F32_LANES;
        let a: [&[f32]; R] = from_fn(|r| &self.a.data[(row + r) * self.a.columns..][inner.clone()]);
        let b = &self.b.data[inner.start * self.b.columns + self.columns.start + column..];
        let mut sums = [[simd.splat_f32s(0.0); V]; R];
        for (k, b) in b.chunks(self.b.columns).take(inner.len()).enumerate() {
            let (b, _) = S::as_simd_f32s(&b[..tile]);
            for r in 0..R {
                let a = simd.splat_f32s(a[r][k]);
                for v in 0..V {
                    sums[r][v] = simd.mul_add_e_f32s(a, b[v], sums[r][v]);
                }
            }
        }
        for (r, sums) in sums.iter().enumerate() {
            let part = &mut self.part[(row + r) * self.columns.len() + column..][..tile];
            for (part, sum) in S::as_mut_simd_f32s(part).0.iter_mut().zip(sums) {
                *part = simd.add_f32s(*part, *sum);
            }
        }
    }

    /// Adds to the columns that are left, fewer than a vector; returns their number.
    #[inline(always)]
    fn numbers(&mut self, inner: Range<usize>, column: usize) -> usize {
        let width = self.columns.len();
        for row in 0..self.a.rows {
            let part = &mut self.part[row * width..][column..width];
            for k in inner.clone() {
                let a = self.a.data[row * self.a.columns + k];
                let b = &self.b.data[k * self.b.columns..][self.columns.clone()][column..];
                for (part, b) in part.iter_mut().zip(b) {
                    *part += a * b;
                }
            }
        }
        width - column
    }
}
