//! Attention of a few new positions over many cached ones: `softmax(q K' s + mask) V`, read where the cache
//! lies.
//!
//! Generation asks this of every layer for every token. Keys and values are read once, and never copied,
//! though they are a part of larger buffers.

use burn::backend::flex::FlexTensor;
use burn::tensor::DType;
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
            let key = |position| key.row(batch, head, position, width);
            let value = |position| value.row(batch, head, position, width);
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
                simd(
                    #[inline(always)]
                    || {
                        for (position, score) in scores.iter_mut().enumerate() {
                            *score = dot(query, key(position)) * scale;
                        }
                        for (score, masked) in scores.iter_mut().zip(mask.unwrap_or_default()) {
                            *score = if *masked == 0 { *score } else { MASKED_SCORE };
                        }
                        softmax(&mut scores);
                        for (position, weight) in scores.iter().enumerate() {
                            for (output, value) in output.iter_mut().zip(value(position)) {
                                *output += weight * value;
                            }
                        }
                    },
                );
            }
        });
    tensor(output, query.layout().shape().clone())
}

/// Can [`attend`] read this where it lies?
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

impl<'a> Cached<'a> {
    fn new(tensor: &'a FlexTensor) -> Self {
        let layout = tensor.layout();
        let strides = layout.strides();
        Self {
            data: &tensor.storage::<f32>()[layout.start_offset()..],
            strides: std::array::from_fn(|dim| strides[dim] as usize),
        }
    }

    #[inline(always)]
    fn row(&self, batch: usize, head: usize, position: usize, width: usize) -> &'a [f32] {
        let [batches, heads, positions] = self.strides;
        &self.data[batch * batches + head * heads + position * positions..][..width]
    }
}
