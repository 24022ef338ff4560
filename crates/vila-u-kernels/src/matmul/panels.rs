//! The factors of a product copied into panels, which the inner loop reads in order.

use std::array::from_fn;

use super::{Element, Matrix};
use crate::math::simd;
use crate::precision::pair;

/// Numbers, or pairs, of a right panel in one block of the inner dimension: they stay in the
/// first-level cache for all left panels.
pub(super) const K_BLOCK: usize = 8 << 10;

/// A block of the inner dimension, k.
#[derive(Clone, Copy)]
pub(super) struct KBlock {
    from: usize,
    /// In numbers.
    length: usize,
    paired: bool,
}

impl KBlock {
    pub fn whole(inner: usize, paired: bool) -> Self {
        Self {
            from: 0,
            length: inner,
            paired,
        }
    }

    /// Those that make up the whole dimension, for right panels of this width.
    pub fn of(inner: usize, paired: bool, panel: usize) -> impl Iterator<Item = Self> {
        let longest = K_BLOCK / panel * if paired { 2 } else { 1 };
        (0..inner).step_by(longest).map(move |from| Self {
            from,
            length: longest.min(inner - from),
            paired,
        })
    }

    /// Its length in numbers or pairs.
    pub fn depth(self) -> usize {
        if self.paired {
            self.length.div_ceil(2)
        } else {
            self.length
        }
    }

    /// Numbers or pairs before it.
    pub fn before(self) -> usize {
        if self.paired {
            self.from / 2
        } else {
            self.from
        }
    }
}

/// Room for `a` as panels `[panel][depth][ROWS]`.
pub(super) fn left_panels<'a, const ROWS: usize>(
    a: Matrix,
    whole: KBlock,
    panels: &'a mut Vec<f32>,
) -> &'a mut [[f32; ROWS]] {
    let size = a.rows.div_ceil(ROWS) * whole.depth() * ROWS;
    panels.resize(size.max(panels.len()), 0.0);
    panels[..size].as_chunks_mut::<ROWS>().0
}

/// Some rows of `a` as a panel, the last one filled with zeros.
pub(super) fn pack_left<const ROWS: usize>(
    a: Matrix,
    whole: KBlock,
    (index, panel): (usize, &mut [[f32; ROWS]]),
) {
    let first = index * ROWS;
    // As columns of the transpose, which is stored the other way round.
    pack(a.transpose(), first, ROWS.min(a.rows - first), whole, panel);
}

/// A block of rows of a matrix, columns `first..first + width` of them, as a panel. Columns beyond
/// these are zeros.
pub(super) fn pack<T: Element, const N: usize>(
    matrix: Matrix<T>,
    first: usize,
    width: usize,
    k_block: KBlock,
    panel: &mut [[f32; N]],
) {
    let KBlock {
        from,
        length,
        paired,
    } = k_block;
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
fn pack_runs<T: Element, const N: usize, const C: usize>(
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
                    Some([low, high]) => pair(low.to_f32(), high.to_f32()),
                    None => pair(rest[0].to_f32(), 0.0),
                };
            }
        }
    } else {
        // In squares, which are transposed in registers.
        let runs = runs.map(|run| run[..panel.len()].as_chunks::<8>());
        let (squares, rest) = panel.as_chunks_mut::<8>();
        for (k, square) in squares.iter_mut().enumerate() {
            let numbers = runs.map(|(squares, _)| squares[k].map(T::to_f32));
            for (j, to) in square.iter_mut().enumerate() {
                if let Some(to) = to[column..].first_chunk_mut::<C>() {
                    *to = numbers.map(|run| run[j]);
                }
            }
        }
        for (k, to) in rest.iter_mut().enumerate() {
            for c in 0..C {
                to[column + c] = runs[c].1[k].to_f32();
            }
        }
    }
    C
}

/// `panel[k][c] = rows[k][first + c]`.
#[inline(always)]
fn pack_rows<T: Element, const N: usize>(
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
                    *to = pair(low.to_f32(), high.to_f32());
                }
            } else {
                for (to, low) in to.iter_mut().zip(low) {
                    *to = pair(low.to_f32(), 0.0);
                }
            }
        }
    } else {
        for (to, row) in panel.iter_mut().zip(rows.chunks_exact(columns)) {
            // A whole array needs no call to copy memory.
            match row[first..].first_chunk::<N>() {
                Some(whole) if width == N => *to = whole.map(T::to_f32),
                _ => {
                    for (to, number) in to.iter_mut().zip(&row[first..first + width]) {
                        *to = number.to_f32();
                    }
                }
            }
        }
    }
}
