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
//! transposed kernel, the gradient of the kernel a dot product of two signals per tap.
//!
//! In mixed precision the product sums over pairs of channels, which share a signal, and the dot
//! product over pairs of positions, which are neighbours in a signal of bfloat16.

use pulp::Simd;
use std::{cell::RefCell, ops::Range};

use crate::math::simd;
use crate::precision::{pair, round};

/// Vectors of positions computed together at most.
pub(super) const VECTORS: usize = 3;
/// The widest vector, in lanes.
pub(super) const MAX_LANES: usize = 16;
pub(super) const TAPS: usize = 9;
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
    pub fn new(batch: usize, height: usize, width: usize) -> Self {
        Self {
            batch,
            height,
            width,
        }
    }

    /// These rows of each image.
    pub fn strip(self, rows: &Range<usize>) -> Self {
        Self {
            height: rows.len(),
            ..self
        }
    }

    /// A row and the zero that ends it.
    pub fn pitch(self) -> usize {
        self.width + 1
    }

    /// From one image to the next: its rows and a row of zeros.
    pub fn image(self) -> usize {
        (self.height + 1) * self.pitch()
    }

    /// Where the first pixel is: after a row of zeros, and one zero to the left.
    pub fn first(self) -> usize {
        self.pitch() + 1
    }

    /// From the first pixel to the last of so many images.
    pub fn positions(self, images: usize) -> usize {
        images * self.image() - self.pitch()
    }

    /// Length of a channel's signal: a row of zeros on both sides and room to read a whole tile
    /// past the end. Never a multiple of 4 KiB, where all channels would share a cache set.
    pub fn signal(self, images: usize) -> usize {
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
    pub fn images_per_task(self) -> usize {
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
        0..geometry.height,
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

/// Copies rows of images `[images, channels, height, width]` into signals `[channels / 2, signal]` of pairs, as if they were
/// all rows, but with those above and below them instead of zeros; a last odd channel is paired with zeros.
pub(super) fn pack_pairs(
    images: &[f32],
    channels: usize,
    geometry: Geometry,
    rows: Range<usize>,
    signals: &mut Vec<f32>,
) {
    let size = geometry.height * geometry.width;
    fill(
        images,
        channels,
        2,
        geometry,
        rows,
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
    rows: Range<usize>,
    signals: &mut Vec<L>,
    copy_row: impl Fn(&[f32], usize, &mut [L]),
) {
    let plane = geometry.height * geometry.width;
    let strip = geometry.strip(&rows);
    let length = strip.signal(images.len() / (channels * plane));
    let beside = rows.start.saturating_sub(1)..geometry.height.min(rows.end + 1);
    signals.clear();
    signals.resize(channels.div_ceil(together) * length, L::default());
    simd(
        #[inline(always)]
        || {
            for (image, planes) in images.chunks_exact(channels * plane).enumerate() {
                let first = strip.first() + image * strip.image();
                let start = first - (rows.start - beside.start) * strip.pitch();
                for (signal, planes) in signals
                    .chunks_exact_mut(length)
                    .zip(planes.chunks(together * plane))
                {
                    let lines = signal[start..].chunks_mut(strip.pitch());
                    for (row, to) in beside.clone().zip(lines) {
                        copy_row(planes, row * geometry.width, &mut to[..geometry.width]);
                    }
                }
            }
        },
    );
}

thread_local! {
    /// Signals of the task at hand; kept, because a fresh allocation costs as much as filling it.
    pub(super) static SIGNALS: RefCell<[Vec<f32>; 2]> = const { RefCell::new([Vec::new(), Vec::new()]) };
    pub(super) static HALVES: RefCell<[Vec<u16>; 2]> = const { RefCell::new([Vec::new(), Vec::new()]) };
}
