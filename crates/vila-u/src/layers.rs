//! Burn's layers through the fused kernels of `vila-u-kernels`.

use burn::{
    module::{Module, Param},
    nn::{GroupNorm, Initializer, Linear},
    tensor::{DType, Device, Tensor},
};
use vila_u_kernels::{group_norm, layer_norm, linear};

/// `layer.forward(x)`: `[.., inputs]` -> `[.., outputs]`.
pub(crate) fn apply<const D: usize>(layer: &Linear, x: Tensor<D>) -> Tensor<D> {
    linear(
        x,
        layer.weight.val(),
        layer.bias.as_ref().map(|bias| bias.val()),
    )
}

/// The dtype that the layer computes in. On the CPU its weight may be held in fewer bits.
pub(crate) fn dtype(layer: &Linear) -> DType {
    match &layer.bias {
        Some(bias) => bias.val().dtype(),
        None => layer.weight.val().dtype(),
    }
}

/// Zeroes a share of the numbers in training, and scales the others so that the mean stays; only on autodiff
/// devices. Burn's own layer keeps a flag among the parameters, which checkpoints do not have.
pub(crate) fn dropout<const D: usize>(x: Tensor<D>, probability: f64) -> Tensor<D> {
    if probability > 0.0 && x.device().is_autodiff() {
        vila_u_kernels::dropout(x, probability)
    } else {
        x
    }
}

/// Normalises the last dimension, then scales and shifts it; Burn's layer of this name does not tell
/// its epsilon.
#[derive(Module, Debug)]
pub struct LayerNorm {
    pub gamma: Param<Tensor<1>>,
    pub beta: Param<Tensor<1>>,
    epsilon: f64,
}

impl LayerNorm {
    pub fn new(width: usize, epsilon: f64, device: &Device) -> Self {
        Self {
            gamma: Initializer::Ones.init([width], device),
            beta: Initializer::Zeros.init([width], device),
            epsilon,
        }
    }

    /// `[.., width]` to the same.
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        layer_norm(x, self.gamma.val(), self.beta.val(), self.epsilon)
    }
}

/// `norm.forward(x)`: `[batch, channels, height, width]` to the same.
pub(crate) fn normalise_groups(norm: &GroupNorm, x: Tensor<4>) -> Tensor<4> {
    match (&norm.gamma, &norm.beta) {
        (Some(gamma), Some(beta)) => {
            group_norm(x, gamma.val(), beta.val(), norm.num_groups, norm.epsilon)
        }
        _ => norm.forward(x),
    }
}
