//! The linear layers of the decoder.

use burn::{
    module::{Module, Param},
    nn::Initializer,
    tensor::{Device, Tensor},
};
use vila_u_kernels::linear;

use super::lora::Lora;

/// A linear layer without bias, perhaps with an adapter.
#[derive(Module, Debug)]
pub struct Linear {
    pub weight: Param<Tensor<2>>, // [inputs, outputs]
    pub lora: Option<Lora>,
}

impl Linear {
    pub(super) fn new(inputs: usize, outputs: usize, device: &Device) -> Self {
        let normal = Initializer::Normal {
            mean: 0.0,
            std: 0.02,
        };
        Self {
            weight: normal.init([inputs, outputs], device),
            lora: None,
        }
    }

    /// `[.., inputs]` -> `[.., outputs]`.
    pub(super) fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        match &self.lora {
            None => linear(x, self.weight.val(), None),
            Some(lora) => lora.forward(x.clone()) + linear(x, self.weight.val(), None),
        }
    }
}
