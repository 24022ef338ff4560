//! Matrix products on two or more threads: `c = a b`, with either factor read transposed.
//!
//! Both factors are copied into panels, the left one of 8 rows and the right one of 3 vectors'
//! width, so that the inner loop reads both in order. A tile of 8 rows by 3 vectors of sums stays in
//! registers along the inner dimension, which is cut into stretches that leave the panels in cache.

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;
use std::{cell::RefCell, ops::Range};

use crate::math::simd;

/// Rows and vectors of a tile: as many sums as 32 registers hold besides the factors.
const ROWS: usize = 8;
const VECTORS: usize = 3;
/// The widest vector, in lanes. Panels are as wide as a tile on such a machine.
const MAX_LANES: usize = 16;
const PANEL: usize = VECTORS * MAX_LANES;
/// Length of a stretch of the inner dimension.
const STRETCH: usize = 384;
/// Panels that one pass over rows uses: with a stretch, half of a usual second-level cache.
const PANELS_AT_ONCE: usize = 7;

/// A matrix stored by rows, or its transpose.
#[derive(Clone, Copy)]
pub(crate) struct Matrix<'a> {
    pub data: &'a [f32],
    /// Of the matrix as it is used, after transposition.
    pub rows: usize,
    pub columns: usize,
    pub transposed: bool,
}

impl<'a> Matrix<'a> {
    pub fn new(data: &'a [f32], rows: usize, columns: usize) -> Self {
        debug_assert_eq!(data.len(), rows * columns);
        Self {
            data,
            rows,
            columns,
            transposed: false,
        }
    }

    pub fn transpose(self) -> Self {
        Self {
            data: self.data,
            rows: self.columns,
            columns: self.rows,
            transposed: !self.transposed,
        }
    }
}

thread_local! {
    /// Panels of the product at hand; kept, because a fresh allocation costs as much as filling it.
    static RIGHT: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
    static LEFT: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
}

/// `a b`, plus `bias` on every row.
pub(crate) fn product(a: Matrix, b: Matrix, bias: Option<&[f32]>) -> Vec<f32> {
    let (rows, columns, inner) = (a.rows, b.columns, a.columns);
    let mut c = match bias {
        Some(bias) => bias.repeat(rows),
        None => vec![0.0; rows * columns],
    };
    if c.is_empty() {
        return c;
    }
    let share = rows.div_ceil(4 * rayon::current_num_threads());
    let share = share.next_multiple_of(ROWS).min(128);
    let mut right = RIGHT.take();
    for from in (0..inner).step_by(STRETCH) {
        let length = STRETCH.min(inner - from);
        right_panels(b, length, &mut right)
            .enumerate()
            .par_bridge()
            .for_each(|(index, panel)| pack_panel(b, index, from, length, panel));
        c.par_chunks_mut(share * columns)
            .enumerate()
            .for_each(|(task, c)| {
                LEFT.with_borrow_mut(|left| {
                    let rows = task * share..task * share + c.len() / columns;
                    pack_left(a, rows, from, length, left);
                    Arch::new().dispatch(Pass {
                        left,
                        right: &right,
                        length,
                        columns,
                        c,
                    });
                });
            });
    }
    RIGHT.set(right);
    c
}

/// `c += a b` on this thread alone.
pub(crate) fn add_product(a: Matrix, b: Matrix, c: &mut [f32]) {
    let mut right = RIGHT.take();
    LEFT.with_borrow_mut(|left| {
        for from in (0..a.columns).step_by(STRETCH) {
            let length = STRETCH.min(a.columns - from);
            for (index, panel) in right_panels(b, length, &mut right).enumerate() {
                pack_panel(b, index, from, length, panel);
            }
            pack_left(a, 0..a.rows, from, length, left);
            Arch::new().dispatch(Pass {
                left,
                right: &right,
                length,
                columns: b.columns,
                c,
            });
        }
    });
    RIGHT.set(right);
}

/// Columns `from..from + length` of some rows of `a` as panels `[panel][length][ROWS]`, the last
/// filled with zeros.
fn pack_left(a: Matrix, rows: Range<usize>, from: usize, length: usize, panels: &mut Vec<f32>) {
    let size = rows.len().div_ceil(ROWS) * length * ROWS;
    panels.resize(size.max(panels.len()), 0.0);
    for (panel, first) in panels[..size]
        .chunks_exact_mut(length * ROWS)
        .zip(rows.clone().step_by(ROWS))
    {
        let height = ROWS.min(rows.end - first);
        if height < ROWS {
            panel.fill(0.0);
        }
        let (panel, _) = panel.as_chunks_mut::<ROWS>();
        simd(
            #[inline(always)]
            || {
                if a.transposed {
                    let columns = a.data[from * a.rows..].chunks_exact(a.rows);
                    copy_rows(panel, columns, first, height);
                } else if let Ok(values) = <[&[f32]; ROWS]>::try_from(
                    (first..rows.end.min(first + ROWS))
                        .map(|row| &a.data[row * a.columns + from..][..length])
                        .collect::<Vec<_>>(),
                ) {
                    transpose(panel, values);
                } else {
                    for row in 0..height {
                        let values = &a.data[(first + row) * a.columns + from..][..length];
                        for (to, value) in panel.iter_mut().zip(values) {
                            to[row] = *value;
                        }
                    }
                }
            },
        );
    }
}

/// `to[k][r] = from[r][k]`.
#[inline(always)]
fn transpose<const N: usize>(to: &mut [[f32; N]], from: [&[f32]; N]) {
    let from = from.map(|row| &row[..to.len()]);
    for (k, to) in to.iter_mut().enumerate() {
        *to = std::array::from_fn(|r| from[r][k]);
    }
}

/// Some `width` consecutive numbers of each row; whole arrays where they fill one, which needs no
/// call to copy memory.
#[inline(always)]
fn copy_rows<'a, const N: usize>(
    to: &mut [[f32; N]],
    from: impl Iterator<Item = &'a [f32]>,
    first: usize,
    width: usize,
) {
    for (to, from) in to.iter_mut().zip(from) {
        match from[first..].first_chunk::<N>() {
            Some(whole) if width == N => *to = *whole,
            _ => to[..width].copy_from_slice(&from[first..first + width]),
        }
    }
}

/// Room for rows of `b`, `length` of them, as panels `[panel][length][PANEL]`.
fn right_panels<'a>(
    b: Matrix,
    length: usize,
    panels: &'a mut Vec<f32>,
) -> std::slice::ChunksExactMut<'a, f32> {
    let size = b.columns.div_ceil(PANEL) * length * PANEL;
    panels.resize(size.max(panels.len()), 0.0);
    panels[..size].chunks_exact_mut(length * PANEL)
}

/// Rows `from..from + length` of one panel of `b`; columns beyond the last are zeros.
fn pack_panel(b: Matrix, index: usize, from: usize, length: usize, panel: &mut [f32]) {
    let first = index * PANEL;
    let width = PANEL.min(b.columns - first);
    if width < PANEL {
        panel.fill(0.0);
    }
    let (panel, _) = panel.as_chunks_mut::<PANEL>();
    simd(
        #[inline(always)]
        || {
            if b.transposed {
                let row = |column: usize| &b.data[(first + column) * b.rows + from..][..length];
                let whole = width / ROWS * ROWS;
                for column in (0..whole).step_by(ROWS) {
                    let values: [&[f32]; ROWS] = std::array::from_fn(|c| row(column + c));
                    for (k, to) in panel.iter_mut().enumerate() {
                        for c in 0..ROWS {
                            to[column + c] = values[c][k];
                        }
                    }
                }
                for column in whole..width {
                    for (to, value) in panel.iter_mut().zip(row(column)) {
                        to[column] = *value;
                    }
                }
            } else {
                let rows = b.data[from * b.columns..].chunks_exact(b.columns);
                copy_rows(panel, rows, first, width);
            }
        },
    );
}

/// One stretch of the inner dimension for some rows of `c`, which it adds to.
struct Pass<'a> {
    left: &'a [f32],
    right: &'a [f32],
    length: usize,
    columns: usize,
    c: &'a mut [f32],
}

impl WithSimd for Pass<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        // On machines with narrower vectors a panel is several tiles wide.
        let tile = S::F32_LANES * VECTORS;
        let mut sums = [[0.0; PANEL]; ROWS];
        let panels = self.columns.div_ceil(PANEL);
        for first in (0..panels).step_by(PANELS_AT_ONCE) {
            let left = self.left.chunks_exact(self.length * ROWS);
            for (left, c) in left.zip(self.c.chunks_mut(ROWS * self.columns)) {
                for panel in first..panels.min(first + PANELS_AT_ONCE) {
                    let right = &self.right[panel * self.length * PANEL..];
                    let right = &right[..self.length * PANEL];
                    for within in (0..PANEL).step_by(tile) {
                        let column = panel * PANEL + within;
                        if column >= self.columns {
                            break;
                        }
                        let width = tile.min(self.columns - column);
                        let rows = c.len() / self.columns;
                        block::<S>(simd, left, right, within, rows, width, &mut sums);
                        for (c, sums) in c.chunks_exact_mut(self.columns).zip(&sums) {
                            let c = &mut c[column..column + width];
                            for (c, sum) in c.iter_mut().zip(sums) {
                                *c += sum;
                            }
                        }
                    }
                }
            }
        }
    }
}

/// A tile, or the part of it that exists, in a shape that fits the registers.
#[inline(always)]
fn block<S: Simd>(
    simd: S,
    left: &[f32],
    right: &[f32],
    within: usize,
    rows: usize,
    width: usize,
    sums: &mut [[f32; PANEL]; ROWS],
) {
    const HALF: usize = ROWS / 2;
    let vectors = width.div_ceil(S::F32_LANES);
    if S::REGISTER_COUNT >= 32 && rows > HALF {
        match vectors {
            1 => tile::<S, ROWS, 1>(simd, left, right, within, 0, sums),
            2 => tile::<S, ROWS, 2>(simd, left, right, within, 0, sums),
            _ => tile::<S, ROWS, VECTORS>(simd, left, right, within, 0, sums),
        }
        return;
    }
    for first in (0..rows).step_by(HALF) {
        match vectors {
            1 => tile::<S, HALF, 1>(simd, left, right, within, first, sums),
            2 => tile::<S, HALF, 2>(simd, left, right, within, first, sums),
            _ => tile::<S, HALF, VECTORS>(simd, left, right, within, first, sums),
        }
    }
}

/// The inner loop of everything: `R` rows by `V` vectors along the stretch.
#[inline(always)]
fn tile<S: Simd, const R: usize, const V: usize>(
    simd: S,
    left: &[f32],
    right: &[f32],
    within: usize,
    first: usize,
    sums: &mut [[f32; PANEL]; ROWS],
) {
    let mut acc = [[simd.splat_f32s(0.0); V]; R];
    for (left, right) in left.chunks_exact(ROWS).zip(right.chunks_exact(PANEL)) {
        let (right, _) = S::as_simd_f32s(&right[within..within + V * S::F32_LANES]);
        let right: [S::f32s; V] = std::array::from_fn(|v| right[v]);
        for r in 0..R {
            let left = simd.splat_f32s(left[first + r]);
            for v in 0..V {
                acc[r][v] = simd.mul_add_e_f32s(left, right[v], acc[r][v]);
            }
        }
    }
    for r in 0..R {
        let (to, _) = S::as_mut_simd_f32s(&mut sums[first + r][..V * S::F32_LANES]);
        for v in 0..V {
            to[v] = acc[r][v];
        }
    }
}
