//! Matrix products on two or more threads: `c = a b`, with either factor read transposed.
//!
//! Both factors are copied into panels, the left one of 8 rows and the right one of 3 vectors'
//! width, so that the inner loop reads both in order. A tile of 8 rows by 3 vectors of sums stays in
//! registers along the inner dimension, which is cut into stretches that leave the panels in cache.
//! In mixed precision a panel holds pairs of neighbours along that dimension.

use burn::tensor::bf16;
use pulp::Simd;
use rayon::prelude::*;
use std::{cell::RefCell, ops::Range};

use crate::math::simd;
use crate::precision::{MulAdd, Work, dispatch, pair, paired};

/// Rows and vectors of a tile: as many sums as 32 registers hold besides the factors.
const ROWS: usize = 8;
const VECTORS: usize = 3;
/// The widest vector, in lanes. Panels are as wide as a tile on such a machine.
const MAX_LANES: usize = 16;
const PANEL: usize = VECTORS * MAX_LANES;
/// Length of a stretch of the inner dimension, in numbers or pairs.
const STRETCH: usize = 384;
/// Panels that one pass over rows uses: with a stretch, half of a usual second-level cache.
const PANELS_AT_ONCE: usize = 7;
/// Numbers that one thread should pack at least.
const PACKED_TOGETHER: usize = 1 << 15;

/// What a matrix is stored as.
pub(crate) trait Number: Copy + Sync {
    fn single(self) -> f32;
}

impl Number for f32 {
    #[inline(always)]
    fn single(self) -> f32 {
        self
    }
}

impl Number for bf16 {
    #[inline(always)]
    fn single(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }
}

/// A matrix stored by rows, or its transpose.
#[derive(Clone, Copy)]
pub(crate) struct Matrix<'a, T = f32> {
    pub data: &'a [T],
    /// Of the matrix as it is used, after transposition.
    pub rows: usize,
    pub columns: usize,
    pub transposed: bool,
}

impl<'a, T> Matrix<'a, T> {
    pub fn new(data: &'a [T], rows: usize, columns: usize) -> Self {
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

/// A stretch of the inner dimension.
#[derive(Clone, Copy)]
struct Stretch {
    from: usize,
    /// In numbers.
    length: usize,
    paired: bool,
}

impl Stretch {
    /// Those that make up the whole dimension.
    fn of(inner: usize, paired: bool) -> impl Iterator<Item = Self> {
        let longest = if paired { 2 * STRETCH } else { STRETCH };
        (0..inner).step_by(longest).map(move |from| Self {
            from,
            length: longest.min(inner - from),
            paired,
        })
    }

    /// Its length in numbers or pairs.
    fn depth(self) -> usize {
        if self.paired {
            self.length.div_ceil(2)
        } else {
            self.length
        }
    }
}

/// `a b`, plus `bias` on every row.
pub(crate) fn product<T: Number>(a: Matrix, b: Matrix<T>, bias: Option<&[f32]>) -> Vec<f32> {
    let paired = paired();
    let (rows, columns) = (a.rows, b.columns);
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
    for stretch in Stretch::of(a.columns, paired) {
        right_panels(b, stretch, &mut right)
            .par_chunks_exact_mut(stretch.depth())
            .with_min_len(PACKED_TOGETHER.div_ceil(stretch.depth() * PANEL))
            .enumerate()
            .for_each(|(index, panel)| pack_right(b, index, stretch, panel));
        c.par_chunks_mut(share * columns)
            .enumerate()
            .for_each(|(task, c)| {
                LEFT.with_borrow_mut(|left| {
                    let rows = task * share..task * share + c.len() / columns;
                    pack_left(a, rows, stretch, left);
                    let pass = Pass {
                        left,
                        right: &right,
                        depth: stretch.depth(),
                        columns,
                        c,
                    };
                    dispatch(pass, paired);
                });
            });
    }
    RIGHT.set(right);
    c
}

/// `c += a b` on this thread alone, with `paired` factors or not.
pub(crate) fn add_product(a: Matrix, b: Matrix, c: &mut [f32], paired: bool) {
    let mut right = RIGHT.take();
    LEFT.with_borrow_mut(|left| {
        for stretch in Stretch::of(a.columns, paired) {
            let panels = right_panels(b, stretch, &mut right);
            for (index, panel) in panels.chunks_exact_mut(stretch.depth()).enumerate() {
                pack_right(b, index, stretch, panel);
            }
            pack_left(a, 0..a.rows, stretch, left);
            let pass = Pass {
                left,
                right: &right,
                depth: stretch.depth(),
                columns: b.columns,
                c,
            };
            dispatch(pass, paired);
        }
    });
    RIGHT.set(right);
}

/// A stretch of some rows of `a` as panels `[panel][depth][ROWS]`, the last filled with zeros.
fn pack_left(a: Matrix, rows: Range<usize>, stretch: Stretch, panels: &mut Vec<f32>) {
    let size = rows.len().div_ceil(ROWS) * stretch.depth() * ROWS;
    panels.resize(size.max(panels.len()), 0.0);
    let (panels, _) = panels[..size].as_chunks_mut::<ROWS>();
    for (panel, first) in panels
        .chunks_exact_mut(stretch.depth())
        .zip(rows.clone().step_by(ROWS))
    {
        // As columns of the transpose, which is stored the other way round.
        let width = ROWS.min(rows.end - first);
        pack(a.transpose(), first, width, stretch, panel);
    }
}

/// Room for a stretch of `b` as panels `[panel][depth][PANEL]`, one after the other.
fn right_panels<'a, T>(
    b: Matrix<T>,
    stretch: Stretch,
    panels: &'a mut Vec<f32>,
) -> &'a mut [[f32; PANEL]] {
    let size = b.columns.div_ceil(PANEL) * stretch.depth() * PANEL;
    panels.resize(size.max(panels.len()), 0.0);
    panels[..size].as_chunks_mut::<PANEL>().0
}

fn pack_right<T: Number>(b: Matrix<T>, index: usize, stretch: Stretch, panel: &mut [[f32; PANEL]]) {
    let first = index * PANEL;
    pack(b, first, PANEL.min(b.columns - first), stretch, panel);
}

/// A stretch of rows of a matrix, columns `first..first + width` of them, as a panel. Columns beyond
/// these are zeros.
fn pack<T: Number, const N: usize>(
    matrix: Matrix<T>,
    first: usize,
    width: usize,
    stretch: Stretch,
    panel: &mut [[f32; N]],
) {
    let Stretch {
        from,
        length,
        paired,
    } = stretch;
    if width < N {
        panel.fill([0.0; N]);
    }
    simd(
        #[inline(always)]
        || {
            if matrix.transposed {
                // A column is a run of memory: eight of them side by side.
                let run =
                    |column: usize| &matrix.data[(first + column) * matrix.rows + from..][..length];
                let whole = width / 8 * 8;
                for column in (0..whole).step_by(8) {
                    let runs: [&[T]; 8] = std::array::from_fn(|c| run(column + c));
                    pack_runs(panel, column, runs, paired);
                }
                for column in whole..width {
                    pack_runs(panel, column, [run(column)], paired);
                }
            } else {
                let rows = &matrix.data[from * matrix.columns..][..length * matrix.columns];
                pack_rows(panel, rows, matrix.columns, first, width, paired);
            }
        },
    );
}

/// `panel[k][column + c] = runs[c][k]`.
#[inline(always)]
fn pack_runs<T: Number, const N: usize, const C: usize>(
    panel: &mut [[f32; N]],
    column: usize,
    runs: [&[T]; C],
    paired: bool,
) {
    if paired {
        let pairs = runs.map(|run| run.as_chunks::<2>());
        for (k, to) in panel.iter_mut().enumerate() {
            for c in 0..C {
                let (pairs, rest) = pairs[c];
                to[column + c] = match pairs.get(k) {
                    Some([low, high]) => pair(low.single(), high.single()),
                    None => pair(rest[0].single(), 0.0),
                };
            }
        }
    } else {
        let runs = runs.map(|run| &run[..panel.len()]);
        for (k, to) in panel.iter_mut().enumerate() {
            for c in 0..C {
                to[column + c] = runs[c][k].single();
            }
        }
    }
}

/// `panel[k][c] = rows[k][first + c]`.
#[inline(always)]
fn pack_rows<T: Number, const N: usize>(
    panel: &mut [[f32; N]],
    rows: &[T],
    columns: usize,
    first: usize,
    width: usize,
    paired: bool,
) {
    if paired {
        for (to, rows) in panel.iter_mut().zip(rows.chunks(2 * columns)) {
            let low = &rows[first..first + width];
            if let Some(high) = rows.get(columns + first..columns + first + width) {
                for ((to, low), high) in to.iter_mut().zip(low).zip(high) {
                    *to = pair(low.single(), high.single());
                }
            } else {
                for (to, low) in to.iter_mut().zip(low) {
                    *to = pair(low.single(), 0.0);
                }
            }
        }
    } else {
        for (to, row) in panel.iter_mut().zip(rows.chunks_exact(columns)) {
            // A whole array needs no call to copy memory.
            match row[first..].first_chunk::<N>() {
                Some(whole) if width == N => *to = whole.map(T::single),
                _ => {
                    for (to, number) in to.iter_mut().zip(&row[first..first + width]) {
                        *to = number.single();
                    }
                }
            }
        }
    }
}

/// One stretch of the inner dimension for some rows of `c`, which it adds to.
struct Pass<'a> {
    left: &'a [f32],
    right: &'a [f32],
    depth: usize,
    columns: usize,
    c: &'a mut [f32],
}

impl Work for Pass<'_> {
    #[inline(always)]
    fn run<S: Simd, M: MulAdd<S>>(self, simd: S, multiply: M) {
        // On machines with narrower vectors a panel is several tiles wide.
        let tile = S::F32_LANES * VECTORS;
        let mut sums = [[0.0; PANEL]; ROWS];
        let panels = self.columns.div_ceil(PANEL);
        for first in (0..panels).step_by(PANELS_AT_ONCE) {
            let left = self.left.chunks_exact(self.depth * ROWS);
            for (left, c) in left.zip(self.c.chunks_mut(ROWS * self.columns)) {
                for panel in first..panels.min(first + PANELS_AT_ONCE) {
                    let right = &self.right[panel * self.depth * PANEL..];
                    let right = &right[..self.depth * PANEL];
                    for within in (0..PANEL).step_by(tile) {
                        let column = panel * PANEL + within;
                        if column >= self.columns {
                            break;
                        }
                        let width = tile.min(self.columns - column);
                        let rows = c.len() / self.columns;
                        block(simd, multiply, left, right, within, rows, width, &mut sums);
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
#[allow(clippy::too_many_arguments)]
fn block<S: Simd, M: MulAdd<S>>(
    simd: S,
    multiply: M,
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
            1 => tile::<S, M, ROWS, 1>(simd, multiply, left, right, within, 0, sums),
            2 => tile::<S, M, ROWS, 2>(simd, multiply, left, right, within, 0, sums),
            _ => tile::<S, M, ROWS, VECTORS>(simd, multiply, left, right, within, 0, sums),
        }
        return;
    }
    for first in (0..rows).step_by(HALF) {
        match vectors {
            1 => tile::<S, M, HALF, 1>(simd, multiply, left, right, within, first, sums),
            2 => tile::<S, M, HALF, 2>(simd, multiply, left, right, within, first, sums),
            _ => tile::<S, M, HALF, VECTORS>(simd, multiply, left, right, within, first, sums),
        }
    }
}

/// The inner loop of everything: `R` rows by `V` vectors along the stretch.
#[inline(always)]
fn tile<S: Simd, M: MulAdd<S>, const R: usize, const V: usize>(
    simd: S,
    multiply: M,
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
                acc[r][v] = multiply.mul_add(simd, left, right[v], acc[r][v]);
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
