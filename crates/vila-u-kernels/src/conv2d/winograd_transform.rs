//! Winograd's transforms to the 36 points and back, of kernels, inputs and outputs.

use pulp::Simd;
use rayon::prelude::*;

use crate::math::simd;

/// Outputs and inputs on the side of a tile.
pub(super) const OUT: usize = 4;
pub(super) const IN: usize = 6;
pub(super) const POINTS: usize = IN * IN;

/// A kernel `[outputs, inputs, 3, 3]` at the points: `[POINTS][outputs / BLOCK][inputs][BLOCK]`. The sums
/// of a block of output channels fill the registers.
pub(super) struct TransformedKernel<const BLOCK: usize> {
    pub weight: Vec<f32>,
    pub inputs: usize,
    pub outputs: usize,
}

impl<const BLOCK: usize> TransformedKernel<BLOCK> {
    /// `transposed`: inputs and outputs swapped and the taps rotated by 180 degrees, as backward needs it.
    pub fn of(weight: &[f32], outputs: usize, inputs: usize, transposed: bool) -> Self {
        let (rows, columns) = if transposed {
            (inputs, outputs)
        } else {
            (outputs, inputs)
        };
        let block = columns * BLOCK;
        let blocks = rows.div_ceil(BLOCK);
        let mut points = vec![0.0; POINTS * blocks * block];
        let mut places: Vec<Vec<&mut [f32]>> = (0..blocks).map(|_| Vec::new()).collect();
        for (index, place) in points.chunks_exact_mut(block).enumerate() {
            places[index % blocks].push(place);
        }
        places
            .par_iter_mut()
            .enumerate()
            .for_each(|(block, places)| {
                simd(
                    #[inline(always)]
                    || {
                        for column in 0..columns {
                            let mut taps = [[0.0; BLOCK]; 9];
                            for (lane, row) in (block * BLOCK..rows).take(BLOCK).enumerate() {
                                let at = if transposed {
                                    column * inputs + row
                                } else {
                                    row * inputs + column
                                };
                                for (tap, number) in weight[at * 9..][..9].iter().enumerate() {
                                    taps[if transposed { 8 - tap } else { tap }][lane] = *number;
                                }
                            }
                            let mut half = [[[0.0; BLOCK]; 3]; IN];
                            for x in 0..3 {
                                let points = transform_kernel([taps[x], taps[3 + x], taps[6 + x]]);
                                for y in 0..IN {
                                    half[y][x] = points[y];
                                }
                            }
                            for y in 0..IN {
                                let points = transform_kernel(half[y]);
                                for x in 0..IN {
                                    let place = &mut places[y * IN + x][column * BLOCK..][..BLOCK];
                                    place.copy_from_slice(&points[x]);
                                }
                            }
                        }
                    },
                );
            });
        Self {
            weight: points,
            inputs: columns,
            outputs: rows,
        }
    }
}

// The 36 points are pairs of six: 0, infinity, and four that keep the numbers near each other.
const NEAR: f32 = std::f32::consts::FRAC_1_SQRT_2;
const FAR: f32 = std::f32::consts::SQRT_2;

/// `G w`
#[inline(always)]
fn transform_kernel<const BLOCK: usize>(w: [[f32; BLOCK]; 3]) -> [[f32; BLOCK]; IN] {
    let mut points = [[0.0; BLOCK]; IN];
    for lane in 0..BLOCK {
        let [a, b, c] = [w[0][lane], w[1][lane], w[2][lane]];
        let (near_even, near_odd) = ((2.0 * a + c) / -3.0, b * (FAR / -3.0));
        let (far_even, far_odd) = ((a + 2.0 * c) / 6.0, b * (FAR / 6.0));
        points[0][lane] = a;
        points[1][lane] = near_even + near_odd;
        points[2][lane] = near_even - near_odd;
        points[3][lane] = far_even + far_odd;
        points[4][lane] = far_even - far_odd;
        points[5][lane] = c;
    }
    points
}

/// `B' x`
#[inline(always)]
pub(super) fn transform_input<S: Simd>(simd: S, x: [S::f32s; IN]) -> [S::f32s; IN] {
    let times = |factor: f32, x, plus| simd.mul_add_e_f32s(simd.splat_f32s(factor), x, plus);
    let (near_even, near_odd) = (times(-2.0, x[2], x[4]), times(-2.0, x[1], x[3]));
    let (far_even, far_odd) = (times(-0.5, x[2], x[4]), times(-0.5, x[1], x[3]));
    [
        times(-2.5, x[2], simd.add_f32s(x[0], x[4])),
        times(NEAR, near_odd, near_even),
        times(-NEAR, near_odd, near_even),
        times(FAR, far_odd, far_even),
        times(-FAR, far_odd, far_even),
        times(-2.5, x[3], simd.add_f32s(x[1], x[5])),
    ]
}

/// `A' y`
#[inline(always)]
pub(super) fn transform_output<S: Simd>(simd: S, y: [S::f32s; IN]) -> [S::f32s; OUT] {
    let by = |factor: f32, y| simd.mul_f32s(simd.splat_f32s(factor), y);
    let times = |factor: f32, y, plus| simd.mul_add_e_f32s(simd.splat_f32s(factor), y, plus);
    let (near_even, near_odd) = (simd.add_f32s(y[1], y[2]), simd.sub_f32s(y[1], y[2]));
    let (far_even, far_odd) = (simd.add_f32s(y[3], y[4]), simd.sub_f32s(y[3], y[4]));
    [
        simd.add_f32s(y[0], simd.add_f32s(near_even, far_even)),
        by(NEAR, times(2.0, far_odd, near_odd)),
        times(2.0, far_even, by(0.5, near_even)),
        times(0.5 * NEAR, near_odd, times(2.0 * FAR, far_odd, y[5])),
    ]
}
