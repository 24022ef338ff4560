//! The gradient of the kernel: a dot product of two signals per tap.

use pulp::Simd;
use rayon::prelude::*;

use super::signals::{Geometry, HALVES, Lane, SIGNALS, TAPS, pack};
#[cfg(target_arch = "x86_64")]
use super::tiles;
#[cfg(target_arch = "x86_64")]
use crate::amx;
use crate::math::{add_up, simd, sum};
use crate::precision::{MulAdd, VectorLoop, dispatch, paired};

/// `dw[o, i, k] = sum over batch and positions of dy[o] x[i, . + k]`.
pub(super) fn weight_gradient(
    x: &[f32],
    dy: &[f32],
    geometry: Geometry,
    inputs: usize,
    outputs: usize,
) -> Vec<f32> {
    let paired = paired();
    #[cfg(target_arch = "x86_64")]
    if paired && amx::available() {
        return tiles::weight_gradient(x, dy, geometry, inputs, outputs);
    }
    let plane = geometry.height * geometry.width;
    let images = geometry.images_per_task();
    let length = outputs * inputs * TAPS;
    let parts = (x.par_chunks(images * inputs * plane))
        .zip(dy.par_chunks(images * outputs * plane))
        .map(|(x, dy)| {
            let mut dw = vec![0.0; length];
            let task = WeightGradientTask {
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
struct WeightGradientTask {
    geometry: Geometry,
    images: usize,
    inputs: usize,
    outputs: usize,
}

impl WeightGradientTask {
    fn run<L: Lane>(self, x: &[f32], dy: &[f32], signals: &mut [Vec<L>; 2], dw: &mut [f32]) {
        let [xs, dys] = signals;
        pack(x, self.inputs, self.geometry, xs);
        pack(dy, self.outputs, self.geometry, dys);
        let task = self;
        dispatch(WeightGradient { task, xs, dys, dw }, L::SHARING == 2);
    }
}

struct WeightGradient<'a, L> {
    task: WeightGradientTask,
    xs: &'a [L],
    dys: &'a [L],
    dw: &'a mut [f32],
}

impl<L: Lane> VectorLoop for WeightGradient<'_, L> {
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
        let WeightGradientTask {
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
