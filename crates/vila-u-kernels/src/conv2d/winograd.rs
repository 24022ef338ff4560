//! Convolution tile by tile, with a quarter of the products: Winograd's `F(4x4, 3x3)` (arXiv 1509.09308).
//!
//! A tile of 4 x 4 outputs sees 6 x 6 inputs. Carried over to 36 *points*, where the convolution is a
//! product of numbers, it takes 36 products a channel instead of 144:
//!
//! ```text
//! y = A' (sum over input channels of (G w G') * (B' x B)) A        * point by point
//! ```
//!
//! The sum over input channels, for a block of tiles and all output channels, is a matrix product at
//! each point. A block's points stay in the cache between the steps, so that neither inputs nor
//! outputs are ever spread out in memory. Everything is `f32`, in mixed precision too: fewer products win
//! over shorter ones.

use pulp::Simd;
use rayon::prelude::*;
use std::cell::RefCell;

use super::signals::Geometry;
use super::winograd_transform::{
    IN, OUT, POINTS, TransformedKernel, transform_input, transform_output,
};
use crate::output::{Unwritten, written};
use crate::precision::{MulAdd, VectorLoop, dispatch};

/// Tiles of a block: three of the widest vectors.
const TILES: usize = VECTORS * MAX_LANES;
const VECTORS: usize = 3;
const MAX_LANES: usize = 16;
/// A line of pixels under a block of tiles, and what vectors read beyond it.
const LINE: usize = (TILES + 2 * MAX_LANES) * OUT;

/// Whether this is faster than the direct convolution: transforming the kernel has to be made up for by enough
/// tiles.
pub(super) fn is_faster(geometry: Geometry, inputs: usize, outputs: usize) -> bool {
    let tiles = geometry.batch * geometry.height.div_ceil(OUT) * geometry.width.div_ceil(OUT);
    tiles >= (2 * TILES).max(inputs.min(outputs) / 2)
}

#[inline(always)]
fn load<S: Simd>(from: &[f32]) -> S::f32s {
    S::as_simd_f32s(&from[..S::F32_LANES]).0[0]
}

#[inline(always)]
fn store<S: Simd>(to: &mut [f32], vector: S::f32s) {
    S::as_mut_simd_f32s(&mut to[..S::F32_LANES]).0[0] = vector;
}

/// What a thread works in; kept, because a fresh allocation costs as much as filling it.
struct Scratch {
    /// Inputs at the points, `[POINTS][inputs][TILES]` and a vector.
    x: Vec<f32>,
    /// Outputs at the points, `[POINTS][outputs][TILES]` and a vector.
    y: Vec<f32>,
    /// The pixels under a block of tiles, and every fourth of them from the first, second... on.
    lines: [[f32; LINE]; IN],
    phases: [[[f32; LINE / OUT]; OUT]; IN],
}

thread_local! {
    static SCRATCH: RefCell<Scratch> = const {
        RefCell::new(Scratch {
            x: Vec::new(),
            y: Vec::new(),
            lines: [[0.0; LINE]; IN],
            phases: [[[0.0; LINE / OUT]; OUT]; IN],
        })
    };
}

/// The convolution of `x` `[batch, inputs, height, width]` with a kernel at the points.
pub(super) fn convolve<const BLOCK: usize>(
    x: &[f32],
    points: &TransformedKernel<BLOCK>,
    bias: Option<&[f32]>,
    geometry: Geometry,
) -> Vec<f32> {
    let Geometry {
        batch,
        height,
        width,
    } = geometry;
    let plane = height * width;
    let work = |y: &mut [Unwritten]| {
        // A strip is a row of tiles: its lines of every output channel.
        let down = height.div_ceil(OUT);
        let mut strips: Vec<Vec<&mut [Unwritten]>> =
            (0..batch * down).map(|_| Vec::new()).collect();
        for (index, plane) in y.chunks_exact_mut(plane).enumerate() {
            let first = index / points.outputs * down;
            for (strip, lines) in plane.chunks_mut(OUT * width).enumerate() {
                strips[first + strip].push(lines);
            }
        }
        let across = width.div_ceil(OUT);
        let fair = strips.len().div_ceil(4 * rayon::current_num_threads());
        let share = fair.max(TILES.div_ceil(across));
        strips
            .par_chunks_mut(share)
            .enumerate()
            .for_each(|(task, strips)| {
                SCRATCH.with_borrow_mut(|scratch| {
                    let work = Convolve {
                        x,
                        points,
                        bias,
                        geometry,
                        first: task * share,
                        strips,
                        scratch,
                    };
                    dispatch(work, false);
                });
            });
    };
    // SAFETY: strips are all of it, and their tiles are written whole.
    unsafe { written(batch * points.outputs * plane, work) }
}

/// One task of `convolve`: some strips.
struct Convolve<'a, 'y, const BLOCK: usize> {
    x: &'a [f32],
    points: &'a TransformedKernel<BLOCK>,
    bias: Option<&'a [f32]>,
    geometry: Geometry,
    /// Number of the first strip.
    first: usize,
    strips: &'a mut [Vec<&'y mut [Unwritten]>],
    scratch: &'a mut Scratch,
}

/// Neighbouring tiles of a block in one strip.
#[derive(Clone, Copy)]
struct Run {
    /// Number of the strip in its task.
    strip: usize,
    /// The first tile, counted in the strip and in the block.
    column: usize,
    lane: usize,
    tiles: usize,
}

impl<const BLOCK: usize> VectorLoop for Convolve<'_, '_, BLOCK> {
    #[inline(always)]
    fn run<S: Simd, M: MulAdd<S>>(mut self, simd: S, _: M) {
        let across = self.geometry.width.div_ceil(OUT);
        let total = self.strips.len() * across;
        let (inputs, outputs) = (self.points.inputs, self.points.outputs);
        // Not a multiple of 4 KiB, where all points would share a cache set.
        let stride = |channels: usize| channels.next_multiple_of(BLOCK) * TILES + MAX_LANES;
        let sizes = [POINTS * stride(inputs), POINTS * stride(outputs)];
        for (points, size) in [&mut self.scratch.x, &mut self.scratch.y]
            .into_iter()
            .zip(sizes)
        {
            points.resize(size.max(points.len()), 0.0);
        }
        let mut runs = Vec::new();
        for from in (0..total).step_by(TILES) {
            let to = total.min(from + TILES);
            runs.clear();
            let mut tile = from;
            while tile < to {
                let (strip, column) = (tile / across, tile % across);
                let tiles = (across - column).min(to - tile);
                runs.push(Run {
                    strip,
                    column,
                    lane: tile - from,
                    tiles,
                });
                tile += tiles;
            }
            for input in 0..inputs {
                for run in &runs {
                    self.load_tiles(simd, input, *run, stride(inputs));
                }
            }
            let lanes = (to - from).next_multiple_of(S::F32_LANES);
            self.multiply(simd, lanes, [stride(inputs), stride(outputs)]);
            for output in 0..outputs {
                self.store_tiles(simd, output, lanes, &runs, stride(outputs));
            }
        }
    }
}

impl<const BLOCK: usize> Convolve<'_, '_, BLOCK> {
    /// Transforms a run of tiles of one input channel.
    #[inline(always)]
    fn load_tiles<S: Simd>(&mut self, simd: S, input: usize, run: Run, stride: usize) {
        let Geometry { height, width, .. } = self.geometry;
        let Scratch {
            x: points,
            lines,
            phases,
            ..
        } = &mut *self.scratch;
        let down = height.div_ceil(OUT);
        let strip = self.first + run.strip;
        let plane = (strip / down * self.points.inputs + input) * height * width;
        let plane = &self.x[plane..][..height * width];
        // One more tile than there is: its first two columns are seen by the last one.
        let columns = (run.tiles + 1) * OUT;
        // Columns and rows are counted from one before the first.
        let left = run.column * OUT;
        let inside = 1usize.saturating_sub(left)..columns.min(width + 1 - left);
        for (row, line) in lines.iter_mut().enumerate() {
            let y = strip % down * OUT + row;
            let line = &mut line[..columns];
            if (1..=height).contains(&y) {
                let from = (y - 1) * width + left + inside.start - 1;
                line[..inside.start].fill(0.0);
                let pixels = &plane[from..from + inside.len()];
                for (to, pixel) in line[inside.clone()].iter_mut().zip(pixels) {
                    *to = *pixel;
                }
                line[inside.end..].fill(0.0);
            } else {
                line.fill(0.0);
            }
        }
        for at in (0..columns).step_by(S::F32_LANES) {
            let x = std::array::from_fn(|row| load::<S>(&lines[row][at..]));
            let points = transform_input(simd, x);
            for row in 0..IN {
                store::<S>(&mut lines[row][at..], points[row]);
            }
        }
        for (line, [first, second, third, fourth]) in lines.iter().zip(phases.iter_mut()) {
            let (fours, _) = line[..columns].as_chunks::<OUT>();
            let count = fours.len();
            let seconds = second[..count].iter_mut().zip(&mut fourth[..count]);
            let firsts = first[..count].iter_mut().zip(&mut third[..count]);
            for ((four, (a, c)), (b, d)) in fours.iter().zip(firsts).zip(seconds) {
                [*a, *b, *c, *d] = *four;
            }
        }
        for (row, phases) in phases.iter().enumerate() {
            for at in (0..run.tiles).step_by(S::F32_LANES) {
                let x = std::array::from_fn(|x| load::<S>(&phases[x % OUT][at + x / OUT..]));
                for (column, vector) in transform_input(simd, x).into_iter().enumerate() {
                    let offset = (row * IN + column) * stride + input * TILES + run.lane + at;
                    store::<S>(&mut points[offset..], vector);
                }
            }
        }
    }

    /// At each point, the product of the kernel and the inputs.
    #[inline(always)]
    fn multiply<S: Simd>(&mut self, simd: S, lanes: usize, [from, to]: [usize; 2]) {
        let TransformedKernel {
            weight,
            inputs,
            outputs,
        } = self.points;
        let weight = weight.chunks_exact(outputs.div_ceil(BLOCK) * inputs * BLOCK);
        let x = self.scratch.x.chunks_exact(from);
        let y = self.scratch.y.chunks_exact_mut(to);
        for ((weight, x), y) in weight.zip(x).zip(y) {
            let blocks = weight.chunks_exact(inputs * BLOCK);
            for (weight, y) in blocks.zip(y.chunks_exact_mut(BLOCK * TILES)) {
                let mut lane = 0;
                while lane < lanes {
                    let most = if BLOCK == 8 { VECTORS } else { 2 };
                    let vectors = ((lanes - lane) / S::F32_LANES).min(most);
                    match vectors {
                        1 => tile::<S, BLOCK, 1>(simd, weight, x, lane, y),
                        2 => tile::<S, BLOCK, 2>(simd, weight, x, lane, y),
                        _ => tile::<S, BLOCK, VECTORS>(simd, weight, x, lane, y),
                    }
                    lane += vectors * S::F32_LANES;
                }
            }
        }
    }

    /// Transforms one output channel back into pixels.
    #[inline(always)]
    fn store_tiles<S: Simd>(
        &mut self,
        simd: S,
        output: usize,
        lanes: usize,
        runs: &[Run],
        stride: usize,
    ) {
        let Geometry { width, .. } = self.geometry;
        let Scratch {
            y: points,
            lines,
            phases,
            ..
        } = &mut *self.scratch;
        let bias = simd.splat_f32s(self.bias.map_or(0.0, |bias| bias[output]));
        for at in (0..lanes).step_by(S::F32_LANES) {
            let mut half = [[simd.splat_f32s(0.0); IN]; OUT];
            for column in 0..IN {
                let points = std::array::from_fn(|row| {
                    load::<S>(&points[(row * IN + column) * stride + output * TILES + at..])
                });
                for (half, vector) in half.iter_mut().zip(transform_output(simd, points)) {
                    half[column] = vector;
                }
            }
            for (phases, half) in phases.iter_mut().zip(half) {
                for (phase, vector) in phases.iter_mut().zip(transform_output(simd, half)) {
                    store::<S>(&mut phase[at..], simd.add_f32s(vector, bias));
                }
            }
        }
        for (line, [first, second, third, fourth]) in lines.iter_mut().zip(phases.iter()).take(OUT)
        {
            let (fours, _) = line[..lanes * OUT].as_chunks_mut::<OUT>();
            let count = fours.len();
            let seconds = second[..count].iter().zip(&fourth[..count]);
            let firsts = first[..count].iter().zip(&third[..count]);
            for ((four, (a, c)), (b, d)) in fours.iter_mut().zip(firsts).zip(seconds) {
                *four = [*a, *b, *c, *d];
            }
        }
        for run in runs {
            let left = run.column * OUT;
            let columns = (run.tiles * OUT).min(width - left);
            let rows = self.strips[run.strip][output].chunks_exact_mut(width);
            for (row, line) in rows.zip(lines.iter()) {
                let pixels = &line[run.lane * OUT..][..columns];
                for (to, pixel) in row[left..left + columns].iter_mut().zip(pixels) {
                    *to = Unwritten::new(*pixel);
                }
            }
        }
    }
}

/// The inner loop of everything: a block of output channels by `V` vectors of tiles, at one point.
#[inline(always)]
fn tile<S: Simd, const BLOCK: usize, const V: usize>(
    simd: S,
    weight: &[f32],
    x: &[f32],
    lane: usize,
    y: &mut [f32],
) {
    let mut sums = [[simd.splat_f32s(0.0); V]; BLOCK];
    for (weight, x) in weight.chunks_exact(BLOCK).zip(x.chunks_exact(TILES)) {
        let (x, _) = S::as_simd_f32s(&x[lane..lane + V * S::F32_LANES]);
        let x: [S::f32s; V] = std::array::from_fn(|v| x[v]);
        for r in 0..BLOCK {
            let weight = simd.splat_f32s(weight[r]);
            for v in 0..V {
                sums[r][v] = simd.mul_add_e_f32s(weight, x[v], sums[r][v]);
            }
        }
    }
    for r in 0..BLOCK {
        let to = &mut y[r * TILES + lane..][..V * S::F32_LANES];
        let (to, _) = S::as_mut_simd_f32s(to);
        for v in 0..V {
            to[v] = sums[r][v];
        }
    }
}
