//! Matrix products on two or more threads: `c = a b`, with either factor read transposed.
//!
//! Both factors are copied into panels, the left one of a tile's rows and the right one of its width, so
//! that the inner loop reads both in order. The tile's sums stay in registers along the inner
//! dimension, which is cut into stretches that leave the panels in cache.
//! Each thread has a part of the product to itself and packs the right panels of its columns for
//! itself: they stay in its own cache. In mixed precision a panel holds pairs of neighbours along the
//! inner dimension.

use burn::tensor::bf16;
use pulp::{Simd, bytemuck};
use rayon::prelude::*;
use std::{array::from_fn, cell::RefCell, ops::Range};

#[cfg(target_arch = "x86_64")]
use crate::amx;
use crate::math::{registers, simd};
use crate::precision::{MulAdd, Work, dispatch, pair, paired};

/// Calls a function for the rows of a tile and the width of a panel on this machine: as many sums as
/// its registers hold besides the factors.
macro_rules! tiled {
    ($function:ident($($argument:expr),* $(,)?)) => {
        match registers() {
            32.. => $function::<8, 48>($($argument),*),
            _ => $function::<6, 16>($($argument),*),
        }
    };
}

/// Numbers, or pairs, of a right panel in one stretch of the inner dimension: they stay in the
/// first-level cache for all left panels.
const STRETCH: usize = 8 << 10;
/// Right panels packed at once, and numbers of the left panels that pass by them: each half of a usual
/// second-level cache.
const PANELS_AT_ONCE: usize = 16;
const LEFT_AT_ONCE: usize = 48 << 10;
/// Numbers that one thread should pack at least.
const PACKED_TOGETHER: usize = 1 << 15;
/// To pack a right panel takes as long as to use it for so many rows.
const ROWS_TO_PACK: usize = 24;

/// What a matrix is stored as.
pub(crate) trait Number: Copy + Sync {
    fn single(self) -> f32;

    /// The matrix, if it is stored so already.
    fn singles(_matrix: Matrix<Self>) -> Option<Matrix> {
        None
    }
}

impl Number for f32 {
    #[inline(always)]
    fn single(self) -> f32 {
        self
    }

    fn singles(matrix: Matrix<Self>) -> Option<Matrix> {
        Some(matrix)
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
    static RIGHT: RefCell<Packed> = const { RefCell::new(Packed::new()) };
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
    fn whole(inner: usize, paired: bool) -> Self {
        Self {
            from: 0,
            length: inner,
            paired,
        }
    }

    /// Those that make up the whole dimension, for right panels of this width.
    fn of(inner: usize, paired: bool, panel: usize) -> impl Iterator<Item = Self> {
        let longest = STRETCH / panel * if paired { 2 } else { 1 };
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

    /// Numbers or pairs before it.
    fn before(self) -> usize {
        if self.paired {
            self.from / 2
        } else {
            self.from
        }
    }
}

/// `a b`, plus `bias` on every row.
pub(crate) fn product<T: Number>(a: Matrix, b: Matrix<T>, bias: Option<&[f32]>) -> Vec<f32> {
    #[cfg(target_arch = "x86_64")]
    if paired()
        && let Some(b) = T::singles(b)
        && amx::available()
    {
        return amx::product(a, b, bias);
    }
    tiled!(tiled_product(a, b, bias))
}

fn tiled_product<const ROWS: usize, const PANEL: usize>(
    a: Matrix,
    b: Matrix<impl Number>,
    bias: Option<&[f32]>,
) -> Vec<f32> {
    let paired = paired();
    let mut c = vec![0.0; a.rows * b.columns];
    if c.is_empty() {
        return c;
    }
    let whole = Stretch::whole(a.columns, paired);
    let mut left = LEFT.take();
    left_panels::<ROWS>(a, whole, &mut left)
        .par_chunks_mut(whole.depth().max(1))
        .with_min_len(PACKED_TOGETHER.div_ceil(whole.depth().max(1) * ROWS))
        .enumerate()
        .for_each(|panel| pack_left(a, whole, panel));
    let mut parts = parts(&mut c, [a.rows, b.columns], [ROWS, PANEL]);
    parts.par_iter_mut().for_each(|part| {
        RIGHT.with_borrow_mut(|right| {
            if let Some(bias) = bias {
                let bias = &bias[part.columns.clone()];
                part.lines
                    .iter_mut()
                    .for_each(|line| line.copy_from_slice(bias));
            }
            let end = part.columns.end;
            for first in part.columns.clone().step_by(PANELS_AT_ONCE * PANEL) {
                let columns = first..end.min(first + PANELS_AT_ONCE * PANEL);
                for stretch in Stretch::of(a.columns, paired, PANEL) {
                    right.fill::<PANEL>(b, columns.clone(), stretch);
                    let pass = Pass::<ROWS, PANEL> {
                        left: &left[part.row / ROWS * ROWS * whole.depth()..],
                        left_step: ROWS * whole.depth(),
                        left_from: ROWS * stretch.before(),
                        right: &right.panels,
                        right_step: PANEL * stretch.depth(),
                        right_from: 0,
                        depth: stretch.depth(),
                        column: first - part.columns.start,
                        width: columns.len(),
                        lines: &mut part.lines,
                    };
                    dispatch(pass, paired);
                }
            }
        });
    });
    drop(parts);
    LEFT.set(left);
    c
}

/// What one thread computes: a block of the product.
pub(crate) struct Part<'a> {
    /// The first row.
    pub row: usize,
    pub columns: Range<usize>,
    /// These columns of its rows.
    pub lines: Vec<&'a mut [f32]>,
}

/// The product cut into a part for each thread.
pub(crate) fn parts(
    c: &mut [f32],
    [rows, columns]: [usize; 2],
    [tall, wide]: [usize; 2],
) -> Vec<Part<'_>> {
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
    let mut parts = Vec::new();
    for (index, c) in c.chunks_mut(tall * columns).enumerate() {
        let first = parts.len();
        parts.extend((0..columns).step_by(wide).map(|column| Part {
            row: index * tall,
            columns: column..columns.min(column + wide),
            lines: Vec::with_capacity(c.len() / columns),
        }));
        for line in c.chunks_exact_mut(columns) {
            for (part, line) in parts[first..].iter_mut().zip(line.chunks_mut(wide)) {
                part.lines.push(line);
            }
        }
    }
    parts
}

/// `c += a b` on this thread alone, with `paired` factors or not.
pub(crate) fn add_product(a: Matrix, b: Matrix, c: &mut [f32], paired: bool) {
    let mut right = RIGHT.take();
    right.pack(b, paired);
    right.add_product(a, c);
    RIGHT.set(right);
}

/// A matrix laid out to be the right factor of products.
#[derive(Default)]
pub(crate) struct Packed {
    /// `[panel][depth][PANEL]`, and whatever was there before.
    panels: Vec<f32>,
    inner: usize,
    columns: usize,
    paired: bool,
}

impl Packed {
    pub const fn new() -> Self {
        Self {
            panels: Vec::new(),
            inner: 0,
            columns: 0,
            paired: false,
        }
    }

    pub fn pack<T: Number>(&mut self, b: Matrix<T>, paired: bool) {
        let whole = Stretch::whole(b.rows, paired);
        match registers() {
            32.. => self.fill::<48>(b, 0..b.columns, whole),
            _ => self.fill::<16>(b, 0..b.columns, whole),
        }
        (self.inner, self.columns, self.paired) = (b.rows, b.columns, paired);
    }

    /// Takes a stretch of some columns.
    fn fill<const PANEL: usize>(
        &mut self,
        b: Matrix<impl Number>,
        columns: Range<usize>,
        stretch: Stretch,
    ) {
        let size = columns.len().div_ceil(PANEL) * stretch.depth() * PANEL;
        self.panels.resize(size.max(self.panels.len()), 0.0);
        let (panels, _) = self.panels[..size].as_chunks_mut::<PANEL>();
        for (panel, first) in panels
            .chunks_exact_mut(stretch.depth())
            .zip(columns.clone().step_by(PANEL))
        {
            pack(b, first, PANEL.min(columns.end - first), stretch, panel);
        }
    }

    /// `c += a b` on this thread alone.
    pub fn add_product(&self, a: Matrix, c: &mut [f32]) {
        tiled!(add_packed(a, self, c));
    }
}

fn add_packed<const ROWS: usize, const PANEL: usize>(a: Matrix, b: &Packed, c: &mut [f32]) {
    let whole = Stretch::whole(b.inner, b.paired);
    let mut lines: Vec<_> = c.chunks_exact_mut(b.columns).collect();
    LEFT.with_borrow_mut(|left| {
        left_panels::<ROWS>(a, whole, left)
            .chunks_mut(whole.depth().max(1))
            .enumerate()
            .for_each(|panel| pack_left(a, whole, panel));
        for stretch in Stretch::of(b.inner, b.paired, PANEL) {
            let pass = Pass::<ROWS, PANEL> {
                left,
                left_step: ROWS * whole.depth(),
                left_from: ROWS * stretch.before(),
                right: &b.panels,
                right_step: PANEL * whole.depth(),
                right_from: PANEL * stretch.before(),
                depth: stretch.depth(),
                column: 0,
                width: b.columns,
                lines: &mut lines,
            };
            dispatch(pass, b.paired);
        }
    });
}

/// Room for `a` as panels `[panel][depth][ROWS]`.
fn left_panels<'a, const ROWS: usize>(
    a: Matrix,
    whole: Stretch,
    panels: &'a mut Vec<f32>,
) -> &'a mut [[f32; ROWS]] {
    let size = a.rows.div_ceil(ROWS) * whole.depth() * ROWS;
    panels.resize(size.max(panels.len()), 0.0);
    panels[..size].as_chunks_mut::<ROWS>().0
}

/// Some rows of `a` as a panel, the last one filled with zeros.
fn pack_left<const ROWS: usize>(
    a: Matrix,
    whole: Stretch,
    (index, panel): (usize, &mut [[f32; ROWS]]),
) {
    let first = index * ROWS;
    // As columns of the transpose, which is stored the other way round.
    pack(a.transpose(), first, ROWS.min(a.rows - first), whole, panel);
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
                // A column is a run of memory: a few of them side by side.
                let run =
                    |column: usize| &matrix.data[(first + column) * matrix.rows + from..][..length];
                let mut column = 0;
                while column < width {
                    let place = &mut *panel;
                    column += match width - column {
                        8.. => pack_runs::<T, N, 8>(
                            place,
                            column,
                            from_fn(|c| run(column + c)),
                            paired,
                        ),
                        6 => pack_runs::<T, N, 6>(
                            place,
                            column,
                            from_fn(|c| run(column + c)),
                            paired,
                        ),
                        _ => pack_runs(place, column, [run(column)], paired),
                    };
                }
            } else {
                let rows = &matrix.data[from * matrix.columns..][..length * matrix.columns];
                pack_rows(panel, rows, matrix.columns, first, width, paired);
            }
        },
    );
}

/// `panel[k][column + c] = runs[c][k]`; returns the number of runs.
#[inline(always)]
fn pack_runs<T: Number, const N: usize, const C: usize>(
    panel: &mut [[f32; N]],
    column: usize,
    runs: [&[T]; C],
    paired: bool,
) -> usize {
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
        // In squares, which are transposed in registers.
        let runs = runs.map(|run| run[..panel.len()].as_chunks::<8>());
        let (squares, rest) = panel.as_chunks_mut::<8>();
        for (k, square) in squares.iter_mut().enumerate() {
            let numbers = runs.map(|(squares, _)| squares[k].map(T::single));
            for (j, to) in square.iter_mut().enumerate() {
                if let Some(to) = to[column..].first_chunk_mut::<C>() {
                    *to = numbers.map(|run| run[j]);
                }
            }
        }
        for (k, to) in rest.iter_mut().enumerate() {
            for c in 0..C {
                to[column + c] = runs[c].1[k].single();
            }
        }
    }
    C
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

/// One stretch of the inner dimension for a block of the product, which it adds to.
struct Pass<'a, 'c, const ROWS: usize, const PANEL: usize> {
    left: &'a [f32],
    right: &'a [f32],
    /// From one panel to the next, and where in each the stretch starts.
    left_step: usize,
    left_from: usize,
    right_step: usize,
    right_from: usize,
    depth: usize,
    /// The block in the lines.
    column: usize,
    width: usize,
    lines: &'a mut [&'c mut [f32]],
}

impl<const ROWS: usize, const PANEL: usize> Work for Pass<'_, '_, ROWS, PANEL> {
    #[inline(always)]
    fn run<S: Simd, M: MulAdd<S>>(self, simd: S, multiply: M) {
        // On machines with narrower vectors a panel is several tiles wide.
        let tile = S::F32_LANES * if ROWS == 8 { 3 } else { 2 };
        let panels = LEFT_AT_ONCE * PANEL / STRETCH / ROWS;
        let left = self.left.chunks(self.left_step * panels);
        for (left, lines) in left.zip(self.lines.chunks_mut(ROWS * panels)) {
            for column in (0..self.width).step_by(tile) {
                let (panel, within) = (column / PANEL, column % PANEL);
                let width = tile.min(self.width - column);
                let right = &self.right[panel * self.right_step + self.right_from..];
                let right = &right[..self.depth * PANEL];
                let left = left.chunks_exact(self.left_step);
                for (left, lines) in left.zip(lines.chunks_mut(ROWS)) {
                    let left = &left[self.left_from..][..self.depth * ROWS];
                    let place = self.column + column..self.column + column + width;
                    block::<S, M, ROWS, PANEL>(simd, multiply, left, right, within, lines, place);
                }
            }
        }
    }
}

/// Adds a tile, or the part of it that exists, to columns of lines.
#[inline(always)]
fn block<S: Simd, M: MulAdd<S>, const ROWS: usize, const PANEL: usize>(
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
                sums::<S, M, $rows, $vectors>(simd, multiply, tile),
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
    match (ROWS, lines.len()) {
        (8, 5..) => tile!(8),
        (8, _) => tile!(4),
        (_, 4..) => tile!(6),
        _ => tile!(3),
    }
}

/// The inner loop of everything: `R` rows by `V` vectors along the stretch.
#[inline(always)]
fn sums<'a, S: Simd, M: MulAdd<S>, const R: usize, const V: usize>(
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
