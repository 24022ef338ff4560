//! Convolution over images laid out as signals.
//!
//! Images are laid out as one long signal per channel, rows separated by one zero and images by a
//! row of zeros:
//!
//! ```text
//! 0 0 0 0 0 | a a a 0 | a a a 0 | 0 0 0 0 | b b b 0 | b b b 0 | 0 0 0 0
//! ```
//!
//! In it a tap of the kernel is an offset, so convolution is a matrix product whose right rows are
//! shifted views of the signal: nothing is unfolded, borders need no care, and the zeros between
//! rows cost a few percent of wasted work. The gradient of the input is the same product with the
//! kernel turned around, the gradient of the kernel a dot product of two signals per tap.

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;
use std::cell::RefCell;

use crate::math::{simd, sum};

/// Output channels computed together: their accumulators fill the registers.
const BLOCK: usize = 8;
/// Vectors of positions computed together.
const VECTORS: usize = 3;
/// The widest vector, in lanes.
const MAX_LANES: usize = 16;
const TAPS: usize = 9;
/// Positions a task should have at least, so that starting one is cheap.
const TASK_POSITIONS: usize = 4096;

/// A batch of images and how it becomes signals.
#[derive(Clone, Copy)]
pub(super) struct Geometry {
    batch: usize,
    height: usize,
    width: usize,
}

impl Geometry {
    pub(super) fn new(batch: usize, height: usize, width: usize) -> Self {
        Self {
            batch,
            height,
            width,
        }
    }

    /// A row and the zero that ends it.
    fn pitch(self) -> usize {
        self.width + 1
    }

    /// From one image to the next: its rows and a row of zeros.
    fn image(self) -> usize {
        (self.height + 1) * self.pitch()
    }

    /// Where the first pixel is: after a row of zeros, and one zero to the left.
    fn first(self) -> usize {
        self.pitch() + 1
    }

    /// From the first pixel to the last of so many images.
    fn positions(self, images: usize) -> usize {
        images * self.image() - self.pitch()
    }

    /// Length of a channel's signal: a row of zeros on both sides and room to read a whole tile
    /// past the end. Never a multiple of 4 KiB, where all channels would share a cache set.
    fn signal(self, images: usize) -> usize {
        let tile = MAX_LANES * VECTORS;
        let length = self.positions(images).next_multiple_of(tile) + 2 * self.first();
        let length = length.next_multiple_of(MAX_LANES);
        length
            + if length.is_multiple_of(256) {
                MAX_LANES
            } else {
                0
            }
    }

    /// Images per task: enough work in each, and tasks for every thread.
    fn images_per_task(self) -> usize {
        let enough = TASK_POSITIONS.div_ceil(self.image());
        let fair = self.batch.div_ceil(2 * rayon::current_num_threads());
        enough.min(fair).max(1)
    }
}

/// Copies images `[images, channels, height, width]` into signals `[channels, signal]`.
fn pack(images: &[f32], channels: usize, geometry: Geometry, signals: &mut Vec<f32>) {
    let plane = geometry.height * geometry.width;
    let count = images.len() / (channels * plane);
    let length = geometry.signal(count);
    signals.clear();
    signals.resize(channels * length, 0.0);
    simd(
        #[inline(always)]
        || {
            for (image, planes) in images.chunks_exact(channels * plane).enumerate() {
                let start = geometry.first() + image * geometry.image();
                for (signal, plane) in signals
                    .chunks_exact_mut(length)
                    .zip(planes.chunks_exact(plane))
                {
                    let rows = signal[start..].chunks_mut(geometry.pitch());
                    for (to, from) in rows.zip(plane.chunks_exact(geometry.width)) {
                        // Not `copy_from_slice`: a call costs more than a short row.
                        for (to, from) in to.iter_mut().zip(from) {
                            *to = *from;
                        }
                    }
                }
            }
        },
    );
}

/// `[outputs, inputs, 3, 3]` as `[blocks][inputs * 9][BLOCK]`, the last block filled with zeros.
/// `turned` swaps the roles of inputs and outputs and turns the kernel by half a turn.
pub(super) fn pack_weight(weight: &[f32], outputs: usize, inputs: usize, turned: bool) -> Vec<f32> {
    let (rows, columns) = if turned {
        (inputs, outputs)
    } else {
        (outputs, inputs)
    };
    let mut packed = vec![0.0; rows.div_ceil(BLOCK) * columns * TAPS * BLOCK];
    for row in 0..rows {
        let block = &mut packed[row / BLOCK * columns * TAPS * BLOCK..];
        for column in 0..columns {
            for tap in 0..TAPS {
                block[(column * TAPS + tap) * BLOCK + row % BLOCK] = if turned {
                    weight[(column * inputs + row) * TAPS + (TAPS - 1 - tap)]
                } else {
                    weight[(row * inputs + column) * TAPS + tap]
                };
            }
        }
    }
    packed
}

thread_local! {
    /// Signals of the task at hand; kept, because a fresh allocation costs as much as filling it.
    static SIGNALS: RefCell<[Vec<f32>; 2]> = const { RefCell::new([Vec::new(), Vec::new()]) };
}

/// The convolution of `x` `[batch, inputs, height, width]` with a packed kernel.
pub(super) fn convolve(
    x: &[f32],
    packed: &[f32],
    bias: Option<&[f32]>,
    geometry: Geometry,
    inputs: usize,
    outputs: usize,
) -> Vec<f32> {
    let plane = geometry.height * geometry.width;
    let mut y = vec![0.0; geometry.batch * outputs * plane];
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
    y.par_chunks_mut(images * channels * plane)
        .enumerate()
        .for_each(|(task, y)| {
            let (task, split) = (task / splits, task % splits);
            let x = &x[task * images * inputs * plane..];
            let x = &x[..x.len().min(images * inputs * plane)];
            let first = split * channels;
            let packed = &packed[first / BLOCK * inputs * TAPS * BLOCK..];
            let bias = bias.map(|bias| &bias[first..]);
            let outputs = channels.min(outputs - first);
            SIGNALS.with_borrow_mut(|[signals, _]| {
                pack(x, inputs, geometry, signals);
                Arch::new().dispatch(Convolve {
                    signals,
                    packed,
                    bias,
                    geometry,
                    inputs,
                    outputs,
                    y,
                });
            });
        });
    y
}

/// One task of `convolve`: some images, already signals, into some output channels of `y`.
struct Convolve<'a> {
    signals: &'a [f32],
    packed: &'a [f32],
    bias: Option<&'a [f32]>,
    geometry: Geometry,
    inputs: usize,
    outputs: usize,
    y: &'a mut [f32],
}

impl WithSimd for Convolve<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let geometry = self.geometry;
        let plane = geometry.height * geometry.width;
        let images = self.y.len() / (self.outputs * plane);
        let length = geometry.signal(images);
        let offsets: Vec<usize> = (0..self.inputs)
            .flat_map(|input| {
                (0..TAPS).map(move |tap| input * length + tap / 3 * geometry.pitch() + tap % 3)
            })
            .collect();
        let depth = self.inputs * TAPS;
        let tile = S::F32_LANES * VECTORS;
        let mut sums = [[0.0; MAX_LANES * VECTORS]; BLOCK];
        for start in (0..geometry.positions(images)).step_by(tile) {
            for (block, weight) in self.packed.chunks_exact(depth * BLOCK).enumerate() {
                let first = block * BLOCK;
                let Some(live) = self.outputs.checked_sub(first).filter(|live| *live > 0) else {
                    break;
                };
                // Sixteen registers hold half a block.
                if S::REGISTER_COUNT >= 32 && live > BLOCK / 2 {
                    product::<S, BLOCK>(simd, weight, self.signals, start, &offsets, 0, &mut sums);
                } else {
                    const HALF: usize = BLOCK / 2;
                    product::<S, HALF>(simd, weight, self.signals, start, &offsets, 0, &mut sums);
                    if live > HALF {
                        product::<S, HALF>(
                            simd,
                            weight,
                            self.signals,
                            start,
                            &offsets,
                            HALF,
                            &mut sums,
                        );
                    }
                }
                for (row, sums) in sums.iter().enumerate().take(live) {
                    let bias = self.bias.map_or(0.0, |bias| bias[first + row]);
                    store(
                        &sums[..tile],
                        bias,
                        start,
                        geometry,
                        (images, self.outputs, first + row),
                        self.y,
                    );
                }
            }
        }
    }
}

/// `ROWS` output channels at `VECTORS` vectors of positions: the inner loop of everything.
#[inline(always)]
fn product<S: Simd, const ROWS: usize>(
    simd: S,
    weight: &[f32],
    signals: &[f32],
    start: usize,
    offsets: &[usize],
    first_row: usize,
    sums: &mut [[f32; MAX_LANES * VECTORS]; BLOCK],
) {
    let mut acc = [[simd.splat_f32s(0.0); VECTORS]; ROWS];
    let tile = S::F32_LANES * VECTORS;
    for (weight, &offset) in weight.chunks_exact(BLOCK).zip(offsets) {
        let (x, _) = S::as_simd_f32s(&signals[start + offset..][..tile]);
        let x = [x[0], x[1], x[2]];
        for row in 0..ROWS {
            let w = simd.splat_f32s(weight[first_row + row]);
            for vector in 0..VECTORS {
                acc[row][vector] = simd.mul_add_e_f32s(w, x[vector], acc[row][vector]);
            }
        }
    }
    for row in 0..ROWS {
        let (to, _) = S::as_mut_simd_f32s(&mut sums[first_row + row][..tile]);
        for vector in 0..VECTORS {
            to[vector] = acc[row][vector];
        }
    }
}

/// Writes the pixels among a tile's positions to their places, the separators to nowhere.
#[inline(always)]
fn store(
    sums: &[f32],
    bias: f32,
    start: usize,
    geometry: Geometry,
    (images, outputs, output): (usize, usize, usize),
    y: &mut [f32],
) {
    let mut at = 0;
    while at < sums.len() {
        let position = start + at;
        let (image, within) = (position / geometry.image(), position % geometry.image());
        let (row, column) = (within / geometry.pitch(), within % geometry.pitch());
        if image >= images {
            return;
        }
        let run = (geometry.pitch() - column).min(sums.len() - at);
        let pixels = run.min(geometry.width - column);
        if row < geometry.height {
            let place =
                ((image * outputs + output) * geometry.height + row) * geometry.width + column;
            for (to, sum) in y[place..place + pixels].iter_mut().zip(&sums[at..]) {
                *to = sum + bias;
            }
        }
        at += run;
    }
}

/// `dw[o, i, k] = sum over batch and positions of dy[o] x[i, . + k]`.
pub(super) fn weight_gradient(
    x: &[f32],
    dy: &[f32],
    geometry: Geometry,
    inputs: usize,
    outputs: usize,
) -> Vec<f32> {
    let plane = geometry.height * geometry.width;
    let images = geometry.images_per_task();
    x.par_chunks(images * inputs * plane)
        .zip(dy.par_chunks(images * outputs * plane))
        .fold(
            || vec![0.0; outputs * inputs * TAPS],
            |mut dw, (x, dy)| {
                SIGNALS.with_borrow_mut(|[xs, dys]| {
                    pack(x, inputs, geometry, xs);
                    pack(dy, outputs, geometry, dys);
                    Arch::new().dispatch(WeightGradient {
                        xs,
                        dys,
                        geometry,
                        images: x.len() / (inputs * plane),
                        inputs,
                        outputs,
                        dw: &mut dw,
                    });
                });
                dw
            },
        )
        .reduce(
            || vec![0.0; outputs * inputs * TAPS],
            |mut left, right| {
                left.iter_mut().zip(right).for_each(|(l, r)| *l += r);
                left
            },
        )
}

struct WeightGradient<'a> {
    xs: &'a [f32],
    dys: &'a [f32],
    geometry: Geometry,
    images: usize,
    inputs: usize,
    outputs: usize,
    dw: &'a mut [f32],
}

impl WithSimd for WeightGradient<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        let mut output = 0;
        while output < self.outputs {
            // Three rows of nine accumulators fill 32 registers.
            if S::REGISTER_COUNT >= 32 && self.outputs - output >= 3 {
                self.rows::<S, 3>(simd, output);
                output += 3;
            } else {
                self.rows::<S, 1>(simd, output);
                output += 1;
            }
        }
    }
}

impl WeightGradient<'_> {
    /// The nine taps of `ROWS` output channels and every input channel.
    #[inline(always)]
    fn rows<S: Simd, const ROWS: usize>(&mut self, simd: S, output: usize) {
        let geometry = self.geometry;
        let length = geometry.signal(self.images);
        let span = geometry
            .positions(self.images)
            .next_multiple_of(S::F32_LANES);
        let dys: [&[S::f32s]; ROWS] = std::array::from_fn(|row| {
            let from = (output + row) * length + geometry.first();
            S::as_simd_f32s(&self.dys[from..][..span]).0
        });
        for input in 0..self.inputs {
            let xs: [&[S::f32s]; TAPS] = std::array::from_fn(|tap| {
                let from = input * length + tap / 3 * geometry.pitch() + tap % 3;
                S::as_simd_f32s(&self.xs[from..][..span]).0
            });
            let mut acc = [[simd.splat_f32s(0.0); TAPS]; ROWS];
            for at in 0..span / S::F32_LANES {
                let dy: [S::f32s; ROWS] = std::array::from_fn(|row| dys[row][at]);
                for tap in 0..TAPS {
                    let x = xs[tap][at];
                    for row in 0..ROWS {
                        acc[row][tap] = simd.mul_add_e_f32s(dy[row], x, acc[row][tap]);
                    }
                }
            }
            for row in 0..ROWS {
                let to = &mut self.dw[((output + row) * self.inputs + input) * TAPS..][..TAPS];
                for tap in 0..TAPS {
                    to[tap] += simd.reduce_sum_f32s(acc[row][tap]);
                }
            }
        }
    }
}

/// The sum of each channel of `[batch, channels, plane]`.
pub(super) fn channel_sums(dy: &[f32], channels: usize, plane: usize) -> Vec<f32> {
    let sums: Vec<f32> = dy
        .par_chunks(plane)
        .map(|dy| {
            simd(
                #[inline(always)]
                || sum(dy),
            )
        })
        .collect();
    (0..channels)
        .map(|channel| sums.iter().skip(channel).step_by(channels).sum())
        .collect()
}
