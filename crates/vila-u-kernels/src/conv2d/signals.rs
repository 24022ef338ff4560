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
//!
//! In mixed precision the product sums over pairs of channels, which share a signal, and the dot
//! product over pairs of positions, which are neighbours in a signal of bfloat16.

use pulp::Simd;
use rayon::prelude::*;
use std::cell::RefCell;

use crate::math::{add_up, simd, sum};
use crate::precision::{MulAdd, Work, dispatch, pair, paired, round};

/// Vectors of positions computed together at most.
const VECTORS: usize = 3;
/// The widest vector, in lanes.
const MAX_LANES: usize = 16;
const TAPS: usize = 9;
/// Positions a task should have at least, so that starting one is cheap.
const TASK_POSITIONS: usize = 4096;

/// A batch of images and how it becomes signals.
#[derive(Clone, Copy)]
pub(super) struct Geometry {
    pub batch: usize,
    pub height: usize,
    pub width: usize,
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
    pub(super) fn pitch(self) -> usize {
        self.width + 1
    }

    /// From one image to the next: its rows and a row of zeros.
    fn image(self) -> usize {
        (self.height + 1) * self.pitch()
    }

    /// Where the first pixel is: after a row of zeros, and one zero to the left.
    pub(super) fn first(self) -> usize {
        self.pitch() + 1
    }

    /// From the first pixel to the last of so many images.
    pub(super) fn positions(self, images: usize) -> usize {
        images * self.image() - self.pitch()
    }

    /// Length of a channel's signal: a row of zeros on both sides and room to read a whole tile
    /// past the end. Never a multiple of 4 KiB, where all channels would share a cache set.
    pub(super) fn signal(self, images: usize) -> usize {
        // A multiple of the tile's width and of a vector of bfloat16.
        let tile = 2 * MAX_LANES * VECTORS;
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
    pub(super) fn images_per_task(self) -> usize {
        let enough = TASK_POSITIONS.div_ceil(self.image());
        let fair = self.batch.div_ceil(2 * rayon::current_num_threads());
        enough.min(fair).max(1)
    }
}

/// What a signal is made of.
pub(super) trait Lane: Copy + Default + Send + Sync {
    /// As many as fill a vector.
    type Vector<S: Simd>: Copy;
    /// How many share a lane.
    const SHARING: usize;

    fn from(number: f32) -> Self;
    fn vectors<S: Simd>(lanes: &[Self]) -> &[Self::Vector<S>];
    fn lanes<S: Simd>(vector: Self::Vector<S>) -> S::f32s;
}

impl Lane for f32 {
    type Vector<S: Simd> = S::f32s;
    const SHARING: usize = 1;

    #[inline(always)]
    fn from(number: f32) -> Self {
        number
    }

    #[inline(always)]
    fn vectors<S: Simd>(lanes: &[Self]) -> &[S::f32s] {
        S::as_simd_f32s(lanes).0
    }

    #[inline(always)]
    fn lanes<S: Simd>(vector: S::f32s) -> S::f32s {
        vector
    }
}

/// The bits of a bfloat16.
impl Lane for u16 {
    type Vector<S: Simd> = S::u16s;
    const SHARING: usize = 2;

    #[inline(always)]
    fn from(number: f32) -> Self {
        (round(number) >> 16) as u16
    }

    #[inline(always)]
    fn vectors<S: Simd>(lanes: &[Self]) -> &[S::u16s] {
        S::as_simd_u16s(lanes).0
    }

    #[inline(always)]
    fn lanes<S: Simd>(vector: S::u16s) -> S::f32s {
        assert!(size_of::<S::u16s>() == size_of::<S::f32s>());
        // SAFETY: both are of the same size and any bits make an `f32`.
        unsafe { std::mem::transmute_copy(&vector) }
    }
}

/// Copies images `[images, channels, height, width]` into signals `[channels, signal]`.
pub(super) fn pack<L: Lane>(
    images: &[f32],
    channels: usize,
    geometry: Geometry,
    signals: &mut Vec<L>,
) {
    fill(
        images,
        channels,
        1,
        geometry,
        signals,
        #[inline(always)]
        |plane, at, to| {
            // Not `copy_from_slice`: a call costs more than a short row.
            for (to, from) in to.iter_mut().zip(&plane[at..]) {
                *to = L::from(*from);
            }
        },
    );
}

/// Copies images `[images, channels, height, width]` into signals `[channels / 2, signal]` of pairs; a
/// last odd channel is paired with zeros.
pub(super) fn pack_pairs(
    images: &[f32],
    channels: usize,
    geometry: Geometry,
    signals: &mut Vec<f32>,
) {
    let size = geometry.height * geometry.width;
    fill(
        images,
        channels,
        2,
        geometry,
        signals,
        #[inline(always)]
        |planes, at, to| {
            if planes.len() > size {
                let both = planes[at..].iter().zip(&planes[size + at..]);
                for (to, (low, high)) in to.iter_mut().zip(both) {
                    *to = pair(*low, *high);
                }
            } else {
                for (to, low) in to.iter_mut().zip(&planes[at..]) {
                    *to = pair(*low, 0.0);
                }
            }
        },
    );
}

/// Lays out images with `together` channels per signal.
#[inline(always)]
fn fill<L: Lane>(
    images: &[f32],
    channels: usize,
    together: usize,
    geometry: Geometry,
    signals: &mut Vec<L>,
    copy_row: impl Fn(&[f32], usize, &mut [L]),
) {
    let plane = geometry.height * geometry.width;
    let count = images.len() / (channels * plane);
    let length = geometry.signal(count);
    signals.clear();
    signals.resize(channels.div_ceil(together) * length, L::default());
    simd(
        #[inline(always)]
        || {
            for (image, planes) in images.chunks_exact(channels * plane).enumerate() {
                let start = geometry.first() + image * geometry.image();
                for (signal, planes) in signals
                    .chunks_exact_mut(length)
                    .zip(planes.chunks(together * plane))
                {
                    let rows = signal[start..].chunks_mut(geometry.pitch());
                    for (row, to) in rows.take(geometry.height).enumerate() {
                        copy_row(planes, row * geometry.width, &mut to[..geometry.width]);
                    }
                }
            }
        },
    );
}

/// A kernel `[outputs, inputs, 3, 3]` ready for [`convolve`]. The sums of a block of output channels fill
/// the registers.
pub(super) struct Packed<const BLOCK: usize> {
    /// `[blocks][depth * 9][BLOCK]`, the last block filled with zeros.
    weight: Vec<f32>,
    /// Numbers, or pairs of numbers, of the summed dimension.
    depth: usize,
    paired: bool,
}

/// A number of the kernel of a convolution, by its output, its input and its tap. `turned` swaps the roles of the
/// stored kernel's inputs and outputs and turns it by half a turn.
pub(super) fn kernel(
    weight: &[f32],
    [inputs, outputs]: [usize; 2],
    turned: bool,
) -> impl Fn(usize, usize, usize) -> f32 + Sync + '_ {
    move |output, input, tap| {
        if turned {
            weight[(input * outputs + output) * TAPS + (TAPS - 1 - tap)]
        } else {
            weight[(output * inputs + input) * TAPS + tap]
        }
    }
}

/// Packs a kernel. `turned` swaps the roles of inputs and outputs and turns the kernel by half a turn.
pub(super) fn pack_weight<const BLOCK: usize>(
    weight: &[f32],
    outputs: usize,
    inputs: usize,
    turned: bool,
) -> Packed<BLOCK> {
    let (rows, columns) = if turned {
        (inputs, outputs)
    } else {
        (outputs, inputs)
    };
    let kernel = kernel(weight, [columns, rows], turned);
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

thread_local! {
    /// Signals of the task at hand; kept, because a fresh allocation costs as much as filling it.
    static SIGNALS: RefCell<[Vec<f32>; 2]> = const { RefCell::new([Vec::new(), Vec::new()]) };
    static HALVES: RefCell<[Vec<u16>; 2]> = const { RefCell::new([Vec::new(), Vec::new()]) };
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
            let weight = &packed.weight[first / BLOCK * packed.depth * TAPS * BLOCK..];
            let bias = bias.map(|bias| &bias[first..]);
            let outputs = channels.min(outputs - first);
            SIGNALS.with_borrow_mut(|[signals, _]| {
                if packed.paired {
                    pack_pairs(x, inputs, geometry, signals);
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
                    y,
                };
                dispatch(work, packed.paired);
            });
        });
    y
}

/// One task of `convolve`: some images, already signals, into some output channels of `y`.
struct Convolve<'a, const BLOCK: usize> {
    signals: &'a [f32],
    weight: &'a [f32],
    bias: Option<&'a [f32]>,
    geometry: Geometry,
    depth: usize,
    outputs: usize,
    y: &'a mut [f32],
}

impl<const BLOCK: usize> Work for Convolve<'_, BLOCK> {
    #[inline(always)]
    fn run<S: Simd, M: MulAdd<S>>(self, simd: S, multiply: M) {
        let geometry = self.geometry;
        let plane = geometry.height * geometry.width;
        let images = self.y.len() / (self.outputs * plane);
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
                        (images, self.outputs, first + row),
                        self.y,
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

/// Writes the pixels among a tile's positions to their places, the separators to nowhere.
#[inline(always)]
pub(super) fn store(
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
    let paired = paired();
    let length = outputs * inputs * TAPS;
    let parts = (x.par_chunks(images * inputs * plane))
        .zip(dy.par_chunks(images * outputs * plane))
        .map(|(x, dy)| {
            let mut dw = vec![0.0; length];
            let task = Task {
                geometry,
                images: x.len() / (inputs * plane),
                inputs,
                outputs,
            };
            if paired {
                HALVES.with_borrow_mut(|signals| task.run(x, dy, signals, &mut dw));
            } else {
                SIGNALS.with_borrow_mut(|signals| task.run(x, dy, signals, &mut dw));
            }
            dw
        });
    add_up(length, parts)
}

/// Some images' part of a weight gradient.
pub(super) struct Task {
    pub geometry: Geometry,
    pub images: usize,
    pub inputs: usize,
    pub outputs: usize,
}

impl Task {
    fn run<L: Lane>(self, x: &[f32], dy: &[f32], signals: &mut [Vec<L>; 2], dw: &mut [f32]) {
        let [xs, dys] = signals;
        pack(x, self.inputs, self.geometry, xs);
        pack(dy, self.outputs, self.geometry, dys);
        let task = self;
        dispatch(WeightGradient { task, xs, dys, dw }, L::SHARING == 2);
    }
}

struct WeightGradient<'a, L> {
    task: Task,
    xs: &'a [L],
    dys: &'a [L],
    dw: &'a mut [f32],
}

impl<L: Lane> Work for WeightGradient<'_, L> {
    #[inline(always)]
    fn run<S: Simd, M: MulAdd<S>>(mut self, simd: S, multiply: M) {
        let mut output = 0;
        while output < self.task.outputs {
            // Three rows of nine accumulators fill 32 registers.
            if S::REGISTER_COUNT >= 32 && self.task.outputs - output >= 3 {
                self.rows::<S, M, 3>(simd, multiply, output);
                output += 3;
            } else {
                self.rows::<S, M, 1>(simd, multiply, output);
                output += 1;
            }
        }
    }
}

impl<L: Lane> WeightGradient<'_, L> {
    /// The nine taps of `ROWS` output channels and every input channel.
    #[inline(always)]
    fn rows<S: Simd, M: MulAdd<S>, const ROWS: usize>(
        &mut self,
        simd: S,
        multiply: M,
        output: usize,
    ) {
        let Task {
            geometry,
            images,
            inputs,
            ..
        } = self.task;
        let length = geometry.signal(images);
        let step = S::F32_LANES * L::SHARING;
        let span = geometry.positions(images).next_multiple_of(step);
        let dys: [&[L::Vector<S>]; ROWS] = std::array::from_fn(|row| {
            let from = (output + row) * length + geometry.first();
            L::vectors::<S>(&self.dys[from..][..span])
        });
        for input in 0..inputs {
            let xs: [&[L::Vector<S>]; TAPS] = std::array::from_fn(|tap| {
                let from = input * length + tap / 3 * geometry.pitch() + tap % 3;
                L::vectors::<S>(&self.xs[from..][..span])
            });
            let mut acc = [[simd.splat_f32s(0.0); TAPS]; ROWS];
            for at in 0..span / step {
                let dy: [S::f32s; ROWS] = std::array::from_fn(|row| L::lanes::<S>(dys[row][at]));
                for tap in 0..TAPS {
                    let x = L::lanes::<S>(xs[tap][at]);
                    for row in 0..ROWS {
                        acc[row][tap] = multiply.mul_add(simd, dy[row], x, acc[row][tap]);
                    }
                }
            }
            for row in 0..ROWS {
                let to = &mut self.dw[((output + row) * inputs + input) * TAPS..][..TAPS];
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
