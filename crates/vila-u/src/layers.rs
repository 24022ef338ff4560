//! Burn's layers through the fused kernels of `vila-u-kernels`.

use burn::{nn::Linear, tensor::Tensor};
use vila_u_kernels::linear;

/// What `layer.forward(x)` computes: `[.., inputs]` -> `[.., outputs]`.
pub(crate) fn apply<const D: usize>(layer: &Linear, x: Tensor<D>) -> Tensor<D> {
    linear(
        x,
        layer.weight.val(),
        layer.bias.as_ref().map(|bias| bias.val()),
    )
}
