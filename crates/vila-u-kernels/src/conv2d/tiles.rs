//! Convolution of signals on the tile unit (see [`crate::amx`]), in mixed precision.
//!
//! Of the product, signals of pairs of channels are the right factor as they lie: a tile of it is sixteen of them, 16
//! positions of each. Of the gradient of the kernel, the signals of `dy` are the left factor as they lie, 32 positions
//! of sixteen of them; those of `x` are turned into pairs of positions first, once from an even position on and once
//! from an odd one, as a tap may be either.

use rayon::prelude::*;
use std::cell::RefCell;

use super::direct::{kernel, store};
use super::signals::{Geometry, HALVES, SIGNALS, TAPS, pack, pack_pairs};
use crate::amx::{BLOCK, DEPTH, Row, SIDE, Shape, Sums, gather, multiply_along, multiply_signals};
use crate::math::add_up;

/// Rows of tiles of the kernel that all positions pass by: half of a usual second-level cache of such a machine.
const KERNELS_AT_ONCE: usize = (1 << 20) / size_of::<Row>();

thread_local! {
    /// Tiles of the task at hand; kept, because a fresh allocation costs as much as filling it.
    static TILES: RefCell<Vec<Row>> = const { RefCell::new(Vec::new()) };
}

/// The convolution of `x` `[batch, inputs, height, width]` with a kernel `[rows, columns, 3, 3]`; `transposed`: its inputs and
/// outputs swapped and its taps rotated by 180 degrees.
pub(super) fn convolve(
    x: &[f32],
    weight: &[f32],
    bias: Option<&[f32]>,
    geometry: Geometry,
    [inputs, outputs]: [usize; 2],
    transposed: bool,
) -> Vec<f32> {
    let plane = geometry.height * geometry.width;
    let mut y = vec![0.0; geometry.batch * outputs * plane];
    let number = kernel(weight, [inputs, outputs], transposed);
    let depth = inputs.div_ceil(DEPTH) * TAPS;
    // `[block of outputs][block of inputs][tap][2]` tiles, a row an output and 32 inputs.
    let mut tiles = vec![Row::ZERO; outputs.div_ceil(BLOCK) * depth * BLOCK];
    tiles.par_iter_mut().enumerate().for_each(|(at, row)| {
        let (block, step) = (at / BLOCK / depth, at / BLOCK % depth);
        let output = block * BLOCK + at % BLOCK;
        let from = step / TAPS * DEPTH;
        *row = Row::of(std::array::from_fn(|column| {
            if output < outputs && from + column < inputs {
                number(output, from + column, step % TAPS)
            } else {
                0.0
            }
        }));
    });
    let images = geometry.images_per_task();
    // A single image has no other images to share the threads with: split its output channels.
    let threads = if geometry.batch == 1 {
        rayon::current_num_threads()
    } else {
        1
    };
    let channels = outputs.div_ceil(BLOCK).div_ceil(threads) * BLOCK;
    let channels = channels.min(outputs);
    let splits = outputs.div_ceil(channels);
    let at_once = (KERNELS_AT_ONCE / (depth * BLOCK)).max(1);
    y.par_chunks_mut(images * channels * plane)
        .enumerate()
        .for_each(|(task, y)| {
            let (task, first) = (task / splits, task % splits * channels);
            let x = &x[task * images * inputs * plane..];
            let x = &x[..x.len().min(images * inputs * plane)];
            let channels = channels.min(outputs - first);
            let tiles = &tiles[first / BLOCK * depth * BLOCK..];
            let tiles = &tiles[..channels.div_ceil(BLOCK) * depth * BLOCK];
            SIGNALS.with_borrow_mut(|[signals, _]| {
                let images = x.len() / (inputs * plane);
                let length = geometry.signal(images);
                pack_pairs(x, inputs, geometry, signals);
                signals.resize(inputs.div_ceil(DEPTH) * SIDE * length, 0.0);
                let offsets: Vec<usize> = (0..depth)
                    .map(|step| {
                        let tap = step % TAPS;
                        step / TAPS * SIDE * length + tap / 3 * geometry.pitch() + tap % 3
                    })
                    .collect();
                let shape = Shape::set();
                let mut sums = Sums::ZERO;
                for (group, tiles) in tiles.chunks(at_once * depth * BLOCK).enumerate() {
                    for start in (0..geometry.positions(images)).step_by(BLOCK) {
                        for (block, tiles) in tiles.chunks_exact(depth * BLOCK).enumerate() {
                            let signals = &signals[start..];
                            multiply_signals(&shape, tiles, signals, length, &offsets, &mut sums);
                            let output = (group * at_once + block) * BLOCK;
                            for (output, sums) in (output..channels).zip(&sums.0) {
                                let bias = bias.map_or(0.0, |bias| bias[first + output]);
                                store(sums, bias, start, geometry, (images, channels, output), y);
                            }
                        }
                    }
                }
            });
        });
    y
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
    let length = outputs * inputs * TAPS;
    let parts = (x.par_chunks(images * inputs * plane))
        .zip(dy.par_chunks(images * outputs * plane))
        .map(|(x, dy)| {
            let mut dw = vec![0.0; length];
            let images = x.len() / (inputs * plane);
            HALVES.with_borrow_mut(|[xs, dys]| {
                pack(x, inputs, geometry, xs);
                pack(dy, outputs, geometry, dys);
                TILES.with_borrow_mut(|tiles| {
                    let channels = [inputs, outputs];
                    add_weight_gradient(geometry, images, channels, xs, dys, tiles, &mut dw);
                });
            });
            dw
        });
    add_up(length, parts)
}

/// Of some images, which are signals already; `tiles` is room to work in.
fn add_weight_gradient(
    geometry: Geometry,
    images: usize,
    [inputs, outputs]: [usize; 2],
    xs: &mut Vec<u16>,
    dys: &mut Vec<u16>,
    tiles: &mut Vec<Row>,
    dw: &mut [f32],
) {
    let length = geometry.signal(images);
    dys.resize(outputs.next_multiple_of(BLOCK) * length, 0);
    // Room to read 32 positions from the last one on, and from the one after.
    let blocks = inputs.div_ceil(SIDE);
    xs.resize(blocks * SIDE * length + 2 * DEPTH, 0);
    // `[block of inputs][even, odd][depth]` tiles, a row two positions of sixteen inputs.
    let depth = length.div_ceil(DEPTH);
    let size = blocks * 2 * depth * SIDE;
    tiles.resize(size.max(tiles.len()), Row::ZERO);
    let tiles = &mut tiles[..size];
    for (at, tile) in tiles.as_chunks_mut::<SIDE>().0.iter_mut().enumerate() {
        let (block, odd) = (at / depth / 2, at / depth % 2);
        let from = block * SIDE * length + at % depth * DEPTH + odd;
        gather(&xs[from..], length, tile);
    }
    let steps = geometry.positions(images).div_ceil(DEPTH);
    let shape = Shape::set();
    let mut sums = Sums::ZERO;
    let columns = blocks * TAPS;
    // The rows from where a tap of a block of inputs begins.
    let from = |column: usize| {
        let tap = column % TAPS;
        let offset = tap / 3 * geometry.pitch() + tap % 3;
        &tiles[(column / TAPS * 2 + offset % 2) * depth * SIDE + offset / 2..]
    };
    for first in (0..outputs).step_by(BLOCK) {
        let dys = &dys[first * length + geometry.first()..];
        for column in (0..columns).step_by(2) {
            let both = [column, (column + 1).min(columns - 1)];
            multiply_along(&shape, dys, length, both.map(from), steps, &mut sums);
            for (half, column) in both.into_iter().enumerate() {
                if half == 1 && column == both[0] {
                    break;
                }
                let (block, tap) = (column / TAPS, column % TAPS);
                for (row, sums) in sums.0.iter().enumerate().take(outputs - first) {
                    let sums = &sums[half * SIDE..];
                    for (lane, sum) in sums
                        .iter()
                        .enumerate()
                        .take((inputs - block * SIDE).min(SIDE))
                    {
                        dw[((first + row) * inputs + block * SIDE + lane) * TAPS + tap] += sum;
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::amx;
    use crate::conv2d::{direct, weight_gradient as vectors};

    /// Small whole numbers: exact as bfloat16, and so are their sums as `f32`.
    fn numbers(count: usize, step: usize) -> Vec<f32> {
        (0..count).map(|at| (at * step % 17) as f32 - 8.0).collect()
    }

    #[test]
    fn convolutions_are_those_of_vectors() {
        if !amx::available() {
            return;
        }
        for ([batch, height, width], [inputs, outputs]) in [
            ([3, 9, 7], [5, 6]),
            ([1, 4, 4], [33, 35]),
            ([5, 16, 16], [32, 3]),
            ([2, 1, 1], [1, 1]),
        ] {
            let geometry = Geometry::new(batch, height, width);
            let x = numbers(batch * inputs * height * width, 7);
            let dy = numbers(batch * outputs * height * width, 5);
            let weight = numbers(outputs * inputs * TAPS, 3);
            let bias = numbers(outputs, 11);
            for (from, channels, bias, transposed) in [
                (&x, [inputs, outputs], Some(bias.as_slice()), false),
                (&dy, [outputs, inputs], None, true),
            ] {
                let packed = direct::pack_weight::<8>(&weight, outputs, inputs, transposed);
                let [i, o] = channels;
                let want = direct::convolve(from, &packed, bias, geometry, i, o);
                assert!(convolve(from, &weight, bias, geometry, channels, transposed) == want);
            }
            let want = vectors::weight_gradient(&x, &dy, geometry, inputs, outputs);
            assert!(weight_gradient(&x, &dy, geometry, inputs, outputs) == want);
        }
    }
}
