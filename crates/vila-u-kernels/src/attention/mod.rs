//! Scaled dot-product attention: `P = softmax(Q K' s + mask)`, `O = P V`.

mod cached;
mod kernel;
mod sequences;

use burn::backend::{BackendTensor, DispatchTensorKind, flex::FlexTensor};
use burn::tensor::{Bool, DType, Tensor, activation};

use crate::bridge::{self, Outcome, dims};
use crate::precision::paired;
use cached::attend;
use kernel::Attention;

pub use sequences::attention_of_sequences;

/// Fewer queries than this (generation, one position at a time) do not make up for packing the keys.
const MIN_QUERIES: usize = 4;
/// The score of a masked key; finite, so that a query that sees nothing gets the mean of
/// the values.
const MASKED_SCORE: f32 = -1e30;

/// `softmax(Q K' scale + mask) V`.
///
/// - `query`: `[batch, heads, queries, head_dim]`
/// - `key`, `value`: `[batch, kv_heads, keys, head_dim]`; `heads` is a multiple of `kv_heads`,
///   neighbouring query heads share one key head
/// - `mask`: `true` where a query may *not* look, broadcastable to `[batch, heads, queries, keys]`
///
/// A query that may look nowhere gets the mean of the values. The softmax is computed in `f32` whatever the
/// inputs are.
///
/// Returns `[batch, heads, queries, head_dim]`.
pub fn attention(
    query: Tensor<4>,
    key: Tensor<4>,
    value: Tensor<4>,
    mask: Option<Tensor<4, Bool>>,
    scale: f64,
) -> Tensor<4> {
    let [_, _, queries, _] = query.dims();
    let [_, _, keys, _] = key.dims();
    let ready = match &mask {
        None => Some(None),
        Some(mask) => cpu_mask(mask.clone(), queries, keys).map(Some),
    };
    let Some(ready) = ready else {
        return fallback(query, key, value, mask, scale);
    };
    if queries < MIN_QUERIES {
        let inputs = [&query, &key, &value].map(|tensor| {
            let tensor = bridge::untracked(&tensor.clone().into_dispatch());
            tensor.filter(cached::is_readable)
        });
        return match inputs.each_ref().map(Option::as_ref) {
            [Some(query), Some(key), Some(value)] => Tensor::from_dispatch(bridge::dispatch(
                attend(query, [key, value], ready.as_ref(), scale as f32),
            )),
            _ => fallback(query, key, value, mask, scale),
        };
    }
    let kernel = Attention {
        mask: ready,
        scale: scale as f32,
        paired: paired(),
    };
    let inputs = [query, key, value].map(Tensor::into_dispatch);
    match bridge::run(kernel, inputs) {
        Outcome::Done(output) => Tensor::from_dispatch(output),
        Outcome::Unsupported(inputs) => {
            let [query, key, value] = inputs.map(Tensor::from_dispatch);
            fallback(query, key, value, mask, scale)
        }
    }
}

/// Attention out of Burn's operations.
fn fallback(
    query: Tensor<4>,
    key: Tensor<4>,
    value: Tensor<4>,
    mask: Option<Tensor<4, Bool>>,
    scale: f64,
) -> Tensor<4> {
    let [batch, heads, queries, head_dim] = query.dims();
    let [_, kv_heads, keys, _] = key.dims();
    // Grouped heads become extra query rows of their key head: no key or value is copied.
    let group = heads / kv_heads;
    let grouped = query.reshape([batch, kv_heads, group * queries, head_dim]);
    let dtype = value.dtype();
    let scores = (grouped * scale).matmul(key.transpose()).cast(DType::F32);
    let scores = match mask {
        None => scores,
        Some(mask) => {
            let mask = mask.expand([batch, heads, queries, keys]);
            let mask = mask.reshape([batch, kv_heads, group * queries, keys]);
            scores.mask_fill(mask, MASKED_SCORE)
        }
    };
    let out = activation::softmax(scores, 3).cast(dtype).matmul(value);
    out.reshape([batch, heads, queries, head_dim])
}

/// The mask as bytes `[batch or 1, heads or 1, queries, keys]`, if it is on the CPU.
fn cpu_mask(mask: Tensor<4, Bool>, queries: usize, keys: usize) -> Option<FlexTensor> {
    let [batch, heads, ..] = mask.dims();
    let mask = mask.expand([batch, heads, queries, keys]).into_dispatch();
    match mask.kind {
        DispatchTensorKind::Flex(BackendTensor::Bool(mask)) => {
            let mask = mask.to_contiguous();
            let [batch, heads, queries, keys] = dims(&mask);
            (mask.bytes().len() == batch * heads * queries * keys).then_some(mask)
        }
        _ => None,
    }
}
