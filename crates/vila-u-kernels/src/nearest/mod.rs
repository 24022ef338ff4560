//! The nearest of many rows: `argmin_k |x - e_k|^2 = argmin_k (|e_k|^2 / 2 - x e_k)`.
//!
//! Products are compared as soon as they are known, so distances are never stored. Rows are many and
//! vectors few: the vectors are laid out in panels, side by side, and every row is read once, where
//! it is.

#[cfg(target_arch = "x86_64")]
mod tiles;

use burn::tensor::{DType, Int, Tensor, TensorData};
use pulp::Simd;
use rayon::prelude::*;

use crate::bridge::{self, dims, values};
use crate::math::dot;
use crate::precision::{MulAdd, VectorLoop, dispatch};

/// Vectors of a panel: three of the widest registers.
const PANEL: usize = 48;
/// Rows that stay in the cache while all panels pass by.
const ROWS_AT_ONCE: usize = 72;
/// Divided by the rows that any machine compares together.
const TOGETHER: usize = 24;
/// Distances held at once, where they have to be (64 MiB of `f32`).
const DISTANCES: usize = 1 << 24;

/// The number of the row nearest to each vector; of equally near ones the first.
///
/// Computed in `f32`, never in mixed precision: which row is nearest is often a matter of the last
/// digits. No gradient passes.
///
/// - `vectors`: `[n, channels]`
/// - `rows`: `[rows, channels]`, of which the first `choices` can be found
///
/// Returns `[n]`.
pub fn nearest(vectors: Tensor<2>, rows: Tensor<2>, choices: usize) -> Tensor<1, Int> {
    let device = vectors.device();
    let on_cpu = |tensor: &Tensor<2>| {
        let tensor = if tensor.device().is_autodiff() {
            tensor.clone().inner()
        } else {
            tensor.clone()
        };
        let tensor = tensor.into_dispatch();
        bridge::is_cpu_f32(&tensor)
            .then(|| bridge::untracked(&tensor))
            .flatten()
            .map(|tensor| tensor.to_contiguous())
    };
    match (on_cpu(&vectors), on_cpu(&rows)) {
        (Some(vectors), Some(rows)) => {
            let [count, channels] = dims(&vectors);
            let codebook = &rows;
            let rows = &values(codebook)[..choices * channels];
            #[cfg(target_arch = "x86_64")]
            if count >= tiles::MIN_VECTORS && channels > 0 && tiles::is_here() {
                let indices = tiles::search(values(&vectors), rows, codebook, channels, count);
                return Tensor::from_data(TensorData::new(indices, [count]), &device);
            }
            let indices = search(values(&vectors), rows, channels, count);
            Tensor::from_data(TensorData::new(indices, [count]), &device)
        }
        _ => fallback(
            vectors.cast(DType::F32),
            rows.narrow(0, 0, choices).cast(DType::F32),
        ),
    }
}

/// Out of Burn's operations.
fn fallback(vectors: Tensor<2>, rows: Tensor<2>) -> Tensor<1, Int> {
    let half_squares = rows.clone().square().sum_dim(1).transpose() * 0.5; // [1, rows]
    let at_once = (DISTANCES / rows.dims()[0]).max(1);
    let rows = rows.transpose();
    let of_chunk = |chunk: Tensor<2>| (half_squares.clone() - chunk.matmul(rows.clone())).argmin(1);
    let indices = vectors.split(at_once, 0).into_iter().map(of_chunk);
    Tensor::cat(indices.collect(), 0).squeeze_dim(1)
}

/// Where the search for a panel's vectors stands.
#[derive(Clone, Copy)]
struct Best {
    /// `|e|^2 / 2 - x e` of the row, and its number.
    distance: [f32; PANEL],
    row: [u32; PANEL],
}

fn search(vectors: &[f32], rows: &[f32], channels: usize, count: usize) -> Vec<i64> {
    let start = Best {
        distance: [f32::INFINITY; PANEL],
        row: [0; PANEL],
    };
    let panels = panels(vectors, channels, count);
    let fair = (rows.len() / channels).div_ceil(8 * rayon::current_num_threads());
    let share = fair.next_multiple_of(TOGETHER);
    let parts: Vec<Vec<Best>> = rows
        .par_chunks(share * channels)
        .enumerate()
        .map(|(part, rows)| {
            let mut best = vec![start; count.div_ceil(PANEL)];
            let search = Search {
                rows,
                first: part * share,
                panels: &panels,
                channels,
                count,
                best: &mut best,
            };
            dispatch(search, false);
            best
        })
        .collect();
    let of_vector = |vector: usize| {
        let (panel, lane) = (vector / PANEL, vector % PANEL);
        let candidates = parts.iter().map(|best| &best[panel]);
        // In the order of rows, so that the first of equals is kept.
        let (_, row) = candidates.fold((f32::INFINITY, 0), |(distance, row), best| {
            if best.distance[lane] < distance {
                (best.distance[lane], best.row[lane])
            } else {
                (distance, row)
            }
        });
        i64::from(row)
    };
    (0..count).map(of_vector).collect()
}

/// Vectors `[count, channels]` as panels `[panel][channels][PANEL]`, the last filled with zeros.
fn panels(vectors: &[f32], channels: usize, count: usize) -> Vec<[f32; PANEL]> {
    let mut panels = vec![[0.0; PANEL]; count.div_ceil(PANEL) * channels];
    panels
        .par_chunks_mut(channels)
        .zip(vectors.par_chunks(PANEL * channels))
        .for_each(|(panel, vectors)| {
            for (lane, vector) in vectors.chunks_exact(channels).enumerate() {
                for (to, number) in panel.iter_mut().zip(vector) {
                    to[lane] = *number;
                }
            }
        });
    panels
}

/// All vectors against some of the rows.
struct Search<'a> {
    rows: &'a [f32],
    /// Number of the first row.
    first: usize,
    panels: &'a [[f32; PANEL]],
    channels: usize,
    count: usize,
    best: &'a mut [Best],
}

impl VectorLoop for Search<'_> {
    #[inline(always)]
    fn run<S: Simd, M: MulAdd<S>>(mut self, simd: S, _: M) {
        // As many rows, and vectors of a panel, as have their products in registers.
        match S::REGISTER_COUNT {
            32.. => self.compare_all::<S, 8, 3>(simd),
            _ => self.compare_all::<S, 6, 2>(simd),
        }
    }
}

impl Search<'_> {
    /// All rows against all panels, `R` rows and `V` vectors at a time.
    #[inline(always)]
    fn compare_all<S: Simd, const R: usize, const V: usize>(&mut self, simd: S) {
        let channels = self.channels;
        for (group, rows) in self.rows.chunks(ROWS_AT_ONCE * channels).enumerate() {
            let first = self.first + group * ROWS_AT_ONCE;
            for panel in 0..self.best.len() {
                for (block, rows) in rows.chunks(R * channels).enumerate() {
                    let first = first + block * R;
                    if rows.len() == R * channels {
                        self.block::<S, R, V>(simd, rows, first, panel);
                    } else {
                        for (row, numbers) in rows.chunks_exact(channels).enumerate() {
                            self.block::<S, 1, V>(simd, numbers, first + row, panel);
                        }
                    }
                }
            }
        }
    }

    /// `R` rows against a panel.
    #[inline(always)]
    fn block<S: Simd, const R: usize, const V: usize>(
        &mut self,
        simd: S,
        rows: &[f32],
        first: usize,
        panel: usize,
    ) {
        let channels = self.channels;
        let rows: [&[f32]; R] = std::array::from_fn(|r| &rows[r * channels..][..channels]);
        let half_squares = rows.map(|row| 0.5 * dot(row, row));
        let width = S::F32_LANES * V;
        let live = PANEL.min(self.count - panel * PANEL);
        let best = &mut self.best[panel];
        let panel = &self.panels[panel * channels..][..channels];
        for at in (0..live).step_by(width) {
            match (live - at).div_ceil(S::F32_LANES) {
                1 => compare::<S, R, 1>(simd, rows, half_squares, first, panel, at, best),
                2 => compare::<S, R, 2>(simd, rows, half_squares, first, panel, at, best),
                _ => compare::<S, R, V>(simd, rows, half_squares, first, panel, at, best),
            }
        }
    }
}

/// The inner loop of everything: `R` rows against `V` vectors' widths of a panel.
#[inline(always)]
fn compare<S: Simd, const R: usize, const V: usize>(
    simd: S,
    rows: [&[f32]; R],
    half_squares: [f32; R],
    first: usize,
    panel: &[[f32; PANEL]],
    at: usize,
    best: &mut Best,
) {
    let rows = rows.map(|row| &row[..panel.len()]);
    let mut products = [[simd.splat_f32s(0.0); V]; R];
    for (channel, x) in panel.iter().enumerate() {
        let (x, _) = S::as_simd_f32s(&x[at..at + V * S::F32_LANES]);
        let x: [S::f32s; V] = std::array::from_fn(|v| x[v]);
        for r in 0..R {
            let number = simd.splat_f32s(rows[r][channel]);
            for v in 0..V {
                products[r][v] = simd.mul_add_e_f32s(number, x[v], products[r][v]);
            }
        }
    }
    let (distances, _) = S::as_mut_simd_f32s(&mut best.distance[at..at + V * S::F32_LANES]);
    let (nearest, _) = S::as_mut_simd_u32s(&mut best.row[at..at + V * S::F32_LANES]);
    for r in 0..R {
        let half_square = simd.splat_f32s(half_squares[r]);
        let number = simd.splat_u32s((first + r) as u32);
        for v in 0..V {
            let distance = simd.sub_f32s(half_square, products[r][v]);
            let nearer = simd.less_than_f32s(distance, distances[v]);
            distances[v] = simd.select_f32s(nearer, distance, distances[v]);
            nearest[v] = simd.select_u32s(nearer, number, nearest[v]);
        }
    }
}
