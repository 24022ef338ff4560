//! Products of a few rows with a large weight, output by output: the weight is read once, in order.

use rayon::prelude::*;
use std::ops::Range;

/// Tasks for each thread, so that none waits long for the others.
const TASKS: usize = 8;
/// Outputs of a task come in multiples of this: three of the widest vectors.
const TOGETHER: usize = 48;

/// `y[row][output]`, plus `bias`, where `fill(outputs, part)` computes a range of the outputs for all rows,
/// `part[row][output]`.
pub(crate) fn by_outputs(
    rows: usize,
    outputs: usize,
    bias: Option<&[f32]>,
    fill: impl Fn(Range<usize>, &mut [f32]) + Sync,
) -> Vec<f32> {
    let share = outputs.div_ceil(TASKS * rayon::current_num_threads());
    let share = share.next_multiple_of(TOGETHER);
    let mut parts = vec![0.0; outputs * rows];
    parts
        .par_chunks_mut((share * rows).max(1))
        .enumerate()
        .for_each(|(task, part)| {
            let first = task * share;
            fill(first..first + part.len() / rows, part);
        });
    let mut y = vec![0.0; rows * outputs];
    for (row, y) in y.chunks_exact_mut(outputs.max(1)).enumerate() {
        for (y, part) in y.chunks_mut(share).zip(parts.chunks(share * rows)) {
            y.copy_from_slice(&part[row * y.len()..][..y.len()]);
        }
        if let Some(bias) = bias {
            y.iter_mut().zip(bias).for_each(|(y, bias)| *y += bias);
        }
    }
    y
}
