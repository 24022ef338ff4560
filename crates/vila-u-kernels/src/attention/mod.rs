//! Scaled dot-product attention: `P = softmax(Q K' s + mask)`, `O = P V`.

mod cached;
mod kernel;
mod sequences;

use burn::backend::{BackendTensor, DispatchTensorKind, flex::FlexTensor};
use burn::tensor::{Bool, DType, Tensor, activation};

use crate::bridge::{self, Outcome, dims};
use crate::precision::{composed_factors, paired};
use cached::attend;
use kernel::Attention;

pub use sequences::attention_of_sequences;

/// Fewer queries than this (generation, one position at a time) do not make up for packing the keys.
const MIN_QUERIES: usize = 4;
/// Queries whose scores of all keys are in memory at a time where there is no kernel.
pub const COMPOSED_QUERIES: usize = 512;
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
        return composed(query, key, value, mask, scale);
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
            _ => composed(query, key, value, mask, scale),
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
            composed(query, key, value, mask, scale)
        }
    }
}

/// Attention out of Burn's operations.
fn composed(
    query: Tensor<4>,
    key: Tensor<4>,
    value: Tensor<4>,
    mask: Option<Tensor<4, Bool>>,
    scale: f64,
) -> Tensor<4> {
    let factors = composed_factors(&query);
    composed_of([query, key, value], mask, scale, factors)
}

/// Attention of `factors` of this dtype, some queries at a time; the softmax is `f32`, and the result of the dtype of
/// the query.
fn composed_of(
    [query, key, value]: [Tensor<4>; 3],
    mask: Option<Tensor<4, Bool>>,
    scale: f64,
    factors: DType,
) -> Tensor<4> {
    let [batch, heads, queries, _] = query.dims();
    let [_, _, keys, _] = key.dims();
    let dtype = query.dtype();
    let query = (query * scale).cast(factors);
    let (key, value) = (key.cast(factors).transpose(), value.cast(factors));
    let mask = mask.map(|mask| mask.expand([batch, heads, queries, keys]));
    if queries <= COMPOSED_QUERIES {
        return of_queries(query, key, value, mask).cast(dtype);
    }
    let chunks = (0..queries).step_by(COMPOSED_QUERIES).map(|first| {
        let count = COMPOSED_QUERIES.min(queries - first);
        let query = query.clone().narrow(2, first, count);
        let mask = mask.clone().map(|mask| mask.narrow(2, first, count));
        of_queries(query, key.clone(), value.clone(), mask).cast(dtype)
    });
    Tensor::cat(chunks.collect(), 2)
}

/// Of scaled queries and transposed keys.
fn of_queries(
    query: Tensor<4>,
    key: Tensor<4>,
    value: Tensor<4>,
    mask: Option<Tensor<4, Bool>>,
) -> Tensor<4> {
    let [batch, heads, queries, head_dim] = query.dims();
    let [_, kv_heads, _, keys] = key.dims();
    // Grouped heads become extra query rows of their key head: no key or value is copied.
    let group = heads / kv_heads;
    let grouped = query.reshape([batch, kv_heads, group * queries, head_dim]);
    let scores = grouped.matmul(key).cast(DType::F32);
    let scores = match mask {
        None => scores,
        Some(mask) => {
            let mask = mask.reshape([batch, kv_heads, group * queries, keys]);
            scores.mask_fill(mask, MASKED_SCORE)
        }
    };
    let weights = activation::softmax(scores, 3).cast(value.dtype());
    let out = weights.matmul(value);
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

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, Distribution};

    use super::*;
    use crate::precision::tests::assert_rounded;

    #[test]
    fn bfloat16_factors_and_everything_else_exact() {
        let shapes: [&[usize]; 3] = [&[2, 6, 40, 33], &[2, 3, 50, 33], &[2, 3, 50, 33]];
        assert_rounded(shapes, |[query, key, value], factors| {
            let query = query.reshape([2, 6, 40, 33]);
            let [key, value] = [key, value].map(|list| list.reshape([2, 3, 50, 33]));
            composed_of([query, key, value], None, 0.2, factors).flatten(0, 3)
        });
    }

    #[test]
    fn queries_in_chunks_are_all_queries() {
        let device = Device::flex();
        let queries = COMPOSED_QUERIES + 3;
        let random =
            |shape: [usize; 4]| Tensor::<4>::random(shape, Distribution::Normal(0.0, 1.0), &device);
        let (query, key) = (random([1, 2, queries, 4]), random([1, 1, queries, 4]));
        let mask = Tensor::<4, Bool>::tril_mask([1, 1, queries, queries], 0, &device);
        let chunked = composed(
            query.clone(),
            key.clone(),
            key.clone(),
            Some(mask.clone()),
            0.5,
        );
        let mask = mask.expand([1, 2, queries, queries]);
        let whole = of_queries(query * 0.5, key.clone().transpose(), key, Some(mask));
        assert!((chunked - whole).abs().max().into_scalar::<f32>() < 1e-6);
    }
}
