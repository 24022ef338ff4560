//! Multi-head attention: every transformer here splits its projected inputs into heads, attends and puts the
//! heads together again.

use burn::tensor::{Bool, Tensor};
use vila_u_kernels::{attention, contiguous};

/// `[batch, positions, heads * head_dim]` -> `[batch, heads, positions, head_dim]`
pub(crate) fn split_heads(x: Tensor<3>, heads: usize) -> Tensor<4> {
    let [batch, positions, width] = x.dims();
    x.reshape([batch, positions, heads, width / heads])
        .swap_dims(1, 2)
}

/// `softmax(Q K^T / sqrt(head_dim) + mask) V` of split heads, merged: `[batch, positions, heads * head_dim]`.
///
/// - `query`: `[batch, heads, positions, head_dim]`
/// - `key`, `value`: `[batch, key heads, keys, head_dim]`; groups of query heads may share a key head
/// - `mask`: `true` where a position may *not* look, broadcastable to `[batch, heads, positions, keys]`
pub(crate) fn multi_head_attention(
    query: Tensor<4>,
    key: Tensor<4>,
    value: Tensor<4>,
    mask: Option<Tensor<4, Bool>>,
) -> Tensor<3> {
    let [batch, heads, positions, head_dim] = query.dims();
    let scale = (head_dim as f64).powf(-0.5);
    contiguous(attention(query, key, value, mask, scale).swap_dims(1, 2)).reshape([
        batch,
        positions,
        heads * head_dim,
    ])
}
