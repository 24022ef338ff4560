//! Convolution of signals on the tile unit (see [`crate::amx`]), in mixed precision.
//!
//! Of the product, signals of pairs of channels are the right factor as they lie: a tile of it is sixteen of them, 16
//! positions of each. Of the gradient of the kernel, the signals of `dy` are the left factor as they lie, 32 positions
//! of sixteen of them; those of `x` are turned into pairs of positions first, once from an even position on and once
//! from an odd one, as a tap may be either.

use rayon::prelude::*;
use std::{cell::RefCell, ops::Range};

use super::direct::{kernel, store};
use super::signals::{Geometry, HALVES, SIGNALS, TAPS, pack, pack_pairs};
use crate::amx::{BLOCK, DEPTH, Row, SIDE, Shape, Sums, gather, multiply_along, multiply_signals};
use crate::math::add_up;
use crate::output::{Unwritten, written};

/// Pairs of channels in the signals of a strip: half of a usual second-level cache of such a machine.
const SIGNALS_AT_ONCE: usize = (1 << 20) / size_of::<f32>();
/// Tiles along the summed dimension that are multiplied at once: a block of these stays in the first-level cache.
const STRETCH: usize = 2 * TAPS;
/// Blocks of outputs, and of positions, whose sums stay in the second-level cache.
const BLOCKS: usize = 8;
const STARTS: usize = 16;

thread_local! {
    /// Tiles of the task at hand; kept, because a fresh allocation costs as much as filling it.
    static TILES: RefCell<Vec<Row>> = const { RefCell::new(Vec::new()) };
    static SUMS: RefCell<Vec<Sums>> = const { RefCell::new(Vec::new()) };
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
    let size = geometry.batch * outputs * plane;
    let work = |task: Task| {
        let Task {
            images,
            rows,
            mut planes,
        } = task;
        let strip = geometry.strip(&rows);
        let length = strip.signal(images.len());
        let x = &x[images.start * inputs * plane..images.end * inputs * plane];
        SIGNALS.with_borrow_mut(|[signals, _]| {
            pack_pairs(x, inputs, geometry, rows, signals);
            signals.resize(inputs.div_ceil(DEPTH) * SIDE * length, 0.0);
            let offsets: Vec<usize> = (0..depth)
                .map(|step| {
                    let tap = step % TAPS;
                    step / TAPS * SIDE * length + tap / 3 * strip.pitch() + tap % 3
                })
                .collect();
            let starts = (0..strip.positions(images.len())).step_by(BLOCK);
            multiply_all(
                &tiles,
                signals,
                length,
                &offsets,
                starts,
                |block, start, sums| {
                    let first = block * BLOCK;
                    for (output, sums) in (first..outputs).zip(&sums.0) {
                        let bias = bias.map_or(0.0, |bias| bias[output]);
                        store(sums, bias, start, strip, (outputs, output), &mut planes);
                    }
                },
            );
        });
    };
    // SAFETY: tasks are all of it, and each writes all pixels of its rows.
    unsafe {
        written(size, |y| {
            let tasks = tasks(y, geometry, inputs, outputs);
            tasks.into_par_iter().for_each(work);
        })
    }
}

/// Some images, or some rows of one, on one thread.
struct Task<'a> {
    images: Range<usize>,
    rows: Range<usize>,
    /// These rows of the output, `[image][output]`.
    planes: Vec<&'a mut [Unwritten]>,
}

/// What threads share: small images several at a time, large ones in strips whose signals stay in the second-level cache.
fn tasks(y: &mut [Unwritten], geometry: Geometry, inputs: usize, outputs: usize) -> Vec<Task<'_>> {
    let Geometry {
        batch,
        height,
        width,
    } = geometry;
    let row = inputs.div_ceil(2) * geometry.pitch();
    let most = (SIGNALS_AT_ONCE / row).saturating_sub(2).max(1);
    let threads = rayon::current_num_threads();
    let strips = height
        .div_ceil(most)
        .max(threads.div_ceil(batch.max(1)))
        .min(height);
    let rows = height.div_ceil(strips);
    let images = if strips == 1 {
        geometry.images_per_task()
    } else {
        1
    };
    let mut tasks = Vec::new();
    for (index, y) in y.chunks_mut(images * outputs * height * width).enumerate() {
        let first = tasks.len();
        let images = index * images..(index * images + images).min(batch);
        tasks.extend((0..height).step_by(rows).map(|row| Task {
            images: images.clone(),
            rows: row..(row + rows).min(height),
            planes: Vec::with_capacity(images.len() * outputs),
        }));
        for plane in y.chunks_exact_mut(height * width) {
            for (task, strip) in tasks[first..]
                .iter_mut()
                .zip(plane.chunks_mut(rows * width))
            {
                task.planes.push(strip);
            }
        }
    }
    tasks
}

/// Multiplies blocks of outputs of the kernel with the signals from all starts on: `take` is given the block, the start
/// and the sums.
fn multiply_all(
    tiles: &[Row],
    signals: &[f32],
    length: usize,
    offsets: &[usize],
    starts: impl ExactSizeIterator<Item = usize>,
    mut take: impl FnMut(usize, usize, &Sums),
) {
    let block = offsets.len() * BLOCK;
    let starts: Vec<usize> = starts.collect();
    let groups = starts.len().div_ceil(STARTS).max(1);
    let shape = Shape::set();
    let mut sums = SUMS.take();
    sums.resize(BLOCKS * STARTS, Sums::ZERO);
    for (group, tiles) in tiles.chunks(BLOCKS * block).enumerate() {
        for starts in starts.chunks(starts.len().div_ceil(groups)) {
            for (stretch, offsets) in offsets.chunks(STRETCH).enumerate() {
                let blocks = tiles.chunks_exact(block).zip(sums.chunks_exact_mut(STARTS));
                for (tiles, sums) in blocks {
                    let tiles = &tiles[stretch * STRETCH * BLOCK..][..offsets.len() * BLOCK];
                    for (start, sums) in starts.iter().zip(sums) {
                        let signals = &signals[*start..];
                        let add = stretch > 0;
                        multiply_signals(&shape, tiles, signals, length, offsets, sums, add);
                    }
                }
            }
            let blocks = sums.chunks_exact(STARTS).take(tiles.len() / block);
            for (index, sums) in blocks.enumerate() {
                for (start, sums) in starts.iter().zip(sums) {
                    take(group * BLOCKS + index, *start, sums);
                }
            }
        }
    }
    SUMS.set(sums);
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
            // More than are multiplied at once of everything.
            ([1, 60, 140], [70, 260]),
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
