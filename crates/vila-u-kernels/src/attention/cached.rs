//! Attention of a few new positions over many cached ones: `softmax(q K' s + mask) V`, read where the cache
//! lies.
//!
//! Generation asks this of every layer for every token. Keys and values are read once, and never copied,
//! though they are a part of larger buffers.

use burn::backend::flex::FlexTensor;
use burn::tensor::{DType, Shape};
use rayon::prelude::*;

use super::MASKED_SCORE;
use crate::bridge::{dims, tensor, values};
use crate::math::{dot, simd, softmax};

/// Numbers read by a task at least.
const TOGETHER: usize = 1 << 14;

/// As [`crate::attention`], for `f32` tensors of which the last dimension is contiguous; no gradient.
///
/// - `mask`: bytes `[batch or 1, heads or 1, queries, keys]`, not 0 where a query may not look
pub(super) fn attend(
    query: &FlexTensor,
    [key, value]: [&FlexTensor; 2],
    mask: Option<&FlexTensor>,
    scale: f32,
) -> FlexTensor {
    let query = query.to_contiguous();
    let [_, heads, queries, width] = dims(&query);
    let [_, kv_heads, keys, _] = dims(key);
    let group = heads / kv_heads;
    let (key, value) = (Cached::new(key), Cached::new(value));
    let mut output = vec![0.0; values(&query).len()];
    output
        .par_chunks_mut(group * queries * width)
        .zip(values(&query).par_chunks(group * queries * width))
        .with_min_len(TOGETHER.div_ceil(2 * keys * width))
        .enumerate()
        .for_each(|(task, (output, query))| {
            let (batch, head) = (task / kv_heads, task % kv_heads);
            let mut scores = vec![0.0; keys];
            let rows = output
                .chunks_exact_mut(width)
                .zip(query.chunks_exact(width));
            for (row, (output, query)) in rows.enumerate() {
                let mask = mask.map(|mask| {
                    let [batches, mask_heads, ..] = dims::<4>(mask);
                    let head = (head * group + row / queries) % mask_heads;
                    let row = (batch % batches * mask_heads + head) * queries + row % queries;
                    &mask.bytes()[row * keys..][..keys]
                });
                let cached = [&key, &value].map(|cached| cached.head(batch, head));
                attend_row(query, cached, mask, scale, &mut scores, output);
            }
        });
    tensor(output, query.layout().shape().clone())
}

/// One new position of several sequences, each over keys and values of its own: `[1, positions, heads * width]`.
///
/// - `query`: `[1, heads, positions, width]`
/// - `cached`: keys and values of each position, `[1, kv_heads, keys, width]`, not all of one length
pub(super) fn attend_each(
    query: &FlexTensor,
    cached: &[[FlexTensor; 2]],
    scale: f32,
) -> FlexTensor {
    let [_, heads, positions, width] = dims(query);
    let kv_heads = cached.first().map_or(heads, |[key, _]| dims::<4>(key)[1]);
    let group = heads / kv_heads;
    let query = Cached::new(query);
    let keys = |position: usize| dims::<4>(&cached[position][0])[2];
    let total: usize = (0..positions).map(keys).sum();
    let cached_at = |position: usize| cached[position].each_ref().map(Cached::new);
    let mut output = vec![0.0; positions * heads * width];
    output
        .par_chunks_mut(group * width)
        .with_min_len(TOGETHER.div_ceil((2 * total * width).div_ceil(positions)))
        .enumerate()
        .for_each(|(task, output)| {
            let (position, head) = (task / kv_heads, task % kv_heads);
            let cached = cached_at(position);
            let cached = cached.each_ref().map(|cached| cached.head(0, head));
            let mut scores = vec![0.0; keys(position)];
            for (row, output) in output.chunks_exact_mut(width).enumerate() {
                let query = query.head(0, head * group + row).row(position, width);
                attend_row(query, cached, None, scale, &mut scores, output);
            }
        });
    tensor(output, Shape::new([1, positions, heads * width]))
}

/// Attention of one query, added to `output`; `scores` has room for one number a key.
fn attend_row(
    query: &[f32],
    [key, value]: [Head; 2],
    mask: Option<&[u8]>,
    scale: f32,
    scores: &mut [f32],
    output: &mut [f32],
) {
    let width = query.len();
    simd(
        #[inline(always)]
        || {
            for (position, score) in scores.iter_mut().enumerate() {
                *score = dot(query, key.row(position, width)) * scale;
            }
            for (score, masked) in scores.iter_mut().zip(mask.unwrap_or_default()) {
                *score = if *masked == 0 { *score } else { MASKED_SCORE };
            }
            softmax(scores);
            for (position, weight) in scores.iter().enumerate() {
                for (output, value) in output.iter_mut().zip(value.row(position, width)) {
                    *output += weight * value;
                }
            }
        },
    );
}

/// Can this be read where it lies?
pub(super) fn is_readable(tensor: &FlexTensor) -> bool {
    tensor.dtype() == DType::F32
        && tensor.layout().has_positive_strides()
        && tensor.layout().has_contiguous_inner()
}

/// `[batch, heads, positions, width]` in a larger buffer.
struct Cached<'a> {
    data: &'a [f32],
    /// From one batch, head and position to the next.
    strides: [usize; 3],
}

/// `[positions, width]` of one head.
#[derive(Clone, Copy)]
struct Head<'a> {
    data: &'a [f32],
    stride: usize,
}

impl<'a> Cached<'a> {
    fn new(tensor: &'a FlexTensor) -> Self {
        let layout = tensor.layout();
        let strides = layout.strides();
        Self {
            data: &tensor.storage::<f32>()[layout.start_offset()..],
            strides: std::array::from_fn(|dim| strides[dim] as usize),
        }
    }

    fn head(&self, batch: usize, head: usize) -> Head<'a> {
        let [batches, heads, stride] = self.strides;
        Head {
            data: &self.data[batch * batches + head * heads..],
            stride,
        }
    }
}

impl<'a> Head<'a> {
    #[inline(always)]
    fn row(&self, position: usize, width: usize) -> &'a [f32] {
        &self.data[position * self.stride..][..width]
    }
}
