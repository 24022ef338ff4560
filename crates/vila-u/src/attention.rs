//! The one attention of every transformer here: `softmax(Q K^T * scale + mask) V`.

use burn::tensor::{Bool, Tensor, activation::softmax};

/// Scaled dot-product attention.
///
/// - `query`: `[batch, heads, queries, head_dim]`
/// - `key`, `value`: `[batch, kv_heads, keys, head_dim]`; `heads` is a multiple of `kv_heads`
///   (grouped-query attention: neighbouring query heads share one key head)
/// - `mask`: `true` where a query may *not* look, broadcastable to `[batch, heads, queries, keys]`
///
/// A query that may look nowhere (padding) gets the mean of the values rather than NaN.
///
/// Returns `[batch, heads, queries, head_dim]`.
pub fn attention(
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
    let scores = (grouped * scale).matmul(key.transpose());
    let scores = match mask {
        None => scores,
        Some(mask) => {
            let mask = mask.expand([batch, heads, queries, keys]);
            let mask = mask.reshape([batch, kv_heads, group * queries, keys]);
            scores.mask_fill(mask, -1e30)
        }
    };
    let out = softmax(scores, 3).matmul(value);
    out.reshape([batch, heads, queries, head_dim])
}
