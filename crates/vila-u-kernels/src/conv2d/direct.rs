//! The convolution itself: a matrix product of the kernel and shifted views of the signals.

use pulp::Simd;
use rayon::prelude::*;

use super::signals::{Geometry, MAX_LANES, SIGNALS, TAPS, VECTORS, pack, pack_pairs};
use crate::output::{Unwritten, written};
use crate::precision::{MulAdd, VectorLoop, dispatch, pair, paired};

/// A kernel `[outputs, inputs, 3, 3]` ready for [`convolve`]. The sums of a block of output channels fill
/// the registers.
pub(super) struct Packed<const BLOCK: usize> {
    /// `[blocks][depth * 9][BLOCK]`, the last block filled with zeros.
    weight: Vec<f32>,
    /// Numbers, or pairs of numbers, of the summed dimension.
    depth: usize,
    paired: bool,
}

/// A weight of a convolution by its output, its input and its tap. `transposed`: the stored kernel's inputs and outputs
/// swapped and its taps rotated by 180 degrees, as backward needs it.
pub(super) fn kernel(
    weight: &[f32],
    [inputs, outputs]: [usize; 2],
    transposed: bool,
) -> impl Fn(usize, usize, usize) -> f32 + Sync + '_ {
    move |output, input, tap| {
        if transposed {
            weight[(input * outputs + output) * TAPS + (TAPS - 1 - tap)]
        } else {
            weight[(output * inputs + input) * TAPS + tap]
        }
    }
}

/// Packs a kernel. `transposed`: inputs and outputs swapped and the taps rotated by 180 degrees, as backward needs it.
pub(super) fn pack_weight<const BLOCK: usize>(
    weight: &[f32],
    outputs: usize,
    inputs: usize,
    transposed: bool,
) -> Packed<BLOCK> {
    let (rows, columns) = if transposed {
        (inputs, outputs)
    } else {
        (outputs, inputs)
    };
    let kernel = kernel(weight, [columns, rows], transposed);
    let number = |row: usize, column: usize, tap: usize| {
        if column >= columns {
            0.0
        } else {
            kernel(row, column, tap)
        }
    };
    let paired = paired();
    let depth = if paired { columns.div_ceil(2) } else { columns };
    let mut packed = vec![0.0; rows.div_ceil(BLOCK) * depth * TAPS * BLOCK];
    for row in 0..rows {
        let block = &mut packed[row / BLOCK * depth * TAPS * BLOCK..];
        for column in 0..depth {
            for tap in 0..TAPS {
                block[(column * TAPS + tap) * BLOCK + row % BLOCK] = if paired {
                    pair(
                        number(row, 2 * column, tap),
                        number(row, 2 * column + 1, tap),
                    )
                } else {
                    number(row, column, tap)
                };
            }
        }
    }
    Packed {
        weight: packed,
        depth,
        paired,
    }
}

/// The convolution of `x` `[batch, inputs, height, width]` with a packed kernel.
pub(super) fn convolve<const BLOCK: usize>(
    x: &[f32],
    packed: &Packed<BLOCK>,
    bias: Option<&[f32]>,
    geometry: Geometry,
    inputs: usize,
    outputs: usize,
) -> Vec<f32> {
    let plane = geometry.height * geometry.width;
    let images = geometry.images_per_task();
    // A single image has no other images to share the threads with: split its output channels.
    let blocks = outputs.div_ceil(BLOCK);
    let blocks = if geometry.batch == 1 {
        blocks.div_ceil(rayon::current_num_threads())
    } else {
        blocks
    };
    let channels = (blocks * BLOCK).min(outputs);
    let splits = outputs.div_ceil(channels);
    let convolve = |(task, y): (usize, &mut [Unwritten])| {
        let (task, split) = (task / splits, task % splits);
        let x = &x[task * images * inputs * plane..];
        let x = &x[..x.len().min(images * inputs * plane)];
        let first = split * channels;
        let weight = &packed.weight[first / BLOCK * packed.depth * TAPS * BLOCK..];
        let bias = bias.map(|bias| &bias[first..]);
        let outputs = channels.min(outputs - first);
        SIGNALS.with_borrow_mut(|[signals, _]| {
            if packed.paired {
                pack_pairs(x, inputs, geometry, 0..geometry.height, signals);
            } else {
                pack(x, inputs, geometry, signals);
            }
            let work = Convolve::<BLOCK> {
                signals,
                weight,
                bias,
                geometry,
                depth: packed.depth,
                outputs,
                planes: y.chunks_exact_mut(plane).collect(),
            };
            dispatch(work, packed.paired);
        });
    };
    // SAFETY: tasks are all of it, and each writes all pixels of its channels.
    unsafe {
        written(geometry.batch * outputs * plane, |y| {
            let tasks = y.par_chunks_mut(images * channels * plane);
            tasks.enumerate().for_each(convolve);
        })
    }
}

/// One task of `convolve`: some images, already signals, into some output channels of `y`.
struct Convolve<'a, const BLOCK: usize> {
    signals: &'a [f32],
    weight: &'a [f32],
    bias: Option<&'a [f32]>,
    geometry: Geometry,
    depth: usize,
    outputs: usize,
    /// `[image][output]`
    planes: Vec<&'a mut [Unwritten]>,
}

impl<const BLOCK: usize> VectorLoop for Convolve<'_, BLOCK> {
    #[inline(always)]
    fn run<S: Simd, M: MulAdd<S>>(mut self, simd: S, multiply: M) {
        let geometry = self.geometry;
        let images = self.planes.len() / self.outputs;
        let length = geometry.signal(images);
        let offsets: Vec<usize> = (0..self.depth)
            .flat_map(|input| {
                (0..TAPS).map(move |tap| input * length + tap / 3 * geometry.pitch() + tap % 3)
            })
            .collect();
        let depth = self.depth * TAPS;
        let vectors = if BLOCK == 8 { VECTORS } else { 2 };
        let width = S::F32_LANES * vectors;
        let mut sums = [[0.0; MAX_LANES * VECTORS]; BLOCK];
        for start in (0..geometry.positions(images)).step_by(width) {
            for (block, weight) in self.weight.chunks_exact(depth * BLOCK).enumerate() {
                let first = block * BLOCK;
                let Some(live) = self.outputs.checked_sub(first).filter(|live| *live > 0) else {
                    break;
                };
                let tile = Tile {
                    weight,
                    signals: self.signals,
                    start,
                    offsets: &offsets,
                };
                match (BLOCK, live) {
                    (8, 5..) => tile.product::<S, M, BLOCK, 8, 3>(simd, multiply, &mut sums),
                    (8, _) => tile.product::<S, M, BLOCK, 4, 3>(simd, multiply, &mut sums),
                    (_, 4..) => tile.product::<S, M, BLOCK, 6, 2>(simd, multiply, &mut sums),
                    _ => tile.product::<S, M, BLOCK, 3, 2>(simd, multiply, &mut sums),
                }
                for (row, sums) in sums.iter().enumerate().take(live) {
                    let bias = self.bias.map_or(0.0, |bias| bias[first + row]);
                    store(
                        &sums[..width],
                        bias,
                        start,
                        geometry,
                        (self.outputs, first + row),
                        &mut self.planes,
                    );
                }
            }
        }
    }
}

/// A block of output channels at some vectors of positions.
struct Tile<'a> {
    weight: &'a [f32],
    signals: &'a [f32],
    start: usize,
    offsets: &'a [usize],
}

impl Tile<'_> {
    /// The inner loop of everything, for the first `R` rows of the block and `V` vectors.
    #[inline(always)]
    fn product<S: Simd, M: MulAdd<S>, const BLOCK: usize, const R: usize, const V: usize>(
        &self,
        simd: S,
        multiply: M,
        sums: &mut [[f32; MAX_LANES * VECTORS]; BLOCK],
    ) {
        let mut acc = [[simd.splat_f32s(0.0); V]; R];
        let width = S::F32_LANES * V;
        for (weight, &offset) in self.weight.chunks_exact(BLOCK).zip(self.offsets) {
            let (x, _) = S::as_simd_f32s(&self.signals[self.start + offset..][..width]);
            let x: [S::f32s; V] = std::array::from_fn(|v| x[v]);
            for row in 0..R {
                let w = simd.splat_f32s(weight[row]);
                for v in 0..V {
                    acc[row][v] = multiply.mul_add(simd, w, x[v], acc[row][v]);
                }
            }
        }
        for row in 0..R {
            let (to, _) = S::as_mut_simd_f32s(&mut sums[row][..width]);
            for v in 0..V {
                to[v] = acc[row][v];
            }
        }
    }
}

/// Writes the pixels among a tile's positions to their places in the planes `[image][output]`, the separators to nowhere.
#[inline(always)]
pub(super) fn store(
    sums: &[f32],
    bias: f32,
    start: usize,
    geometry: Geometry,
    (outputs, output): (usize, usize),
    planes: &mut [&mut [Unwritten]],
) {
    let mut at = 0;
    while at < sums.len() {
        let position = start + at;
        let (image, within) = (position / geometry.image(), position % geometry.image());
        let (row, column) = (within / geometry.pitch(), within % geometry.pitch());
        let Some(plane) = planes.get_mut(image * outputs + output) else {
            return;
        };
        let run = (geometry.pitch() - column).min(sums.len() - at);
        let pixels = run.min(geometry.width - column);
        if row < geometry.height {
            let offset = row * geometry.width + column;
            for (to, sum) in plane[offset..offset + pixels].iter_mut().zip(&sums[at..]) {
                *to = Unwritten::new(sum + bias);
            }
        }
        at += run;
    }
}
