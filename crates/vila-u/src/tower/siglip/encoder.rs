//! The transformer that SigLIP's vision and text sides share: pre-norm layers without any mask,
//! `x += attention(norm1(x)); x += mlp(norm2(x))`.

use burn::{
    module::Module,
    nn::{Initializer, Linear},
    tensor::{Device, Tensor},
};
use vila_u_kernels::{gelu, gelu_tanh, precision_of};

use super::config::Activation;
use crate::{
    attention::{multi_head_attention, split_heads},
    layers::{LayerNorm, apply},
};

#[derive(Module, Debug)]
pub struct Encoder {
    pub layers: Vec<EncoderLayer>,
}

#[derive(Module, Debug)]
pub struct EncoderLayer {
    pub layer_norm1: LayerNorm,
    pub self_attn: SelfAttention,
    pub layer_norm2: LayerNorm,
    pub mlp: Mlp,
}

#[derive(Module, Debug)]
pub struct SelfAttention {
    pub q_proj: Linear,
    pub k_proj: Linear,
    pub v_proj: Linear,
    pub out_proj: Linear,
    heads: usize,
}

#[derive(Module, Debug)]
pub struct Mlp {
    pub fc1: Linear,
    pub fc2: Linear,
    #[module(skip)]
    activation: Activation,
}

/// The sizes of an encoder's layers.
#[derive(Clone, Copy)]
pub(super) struct LayerSizes {
    pub hidden: usize,
    pub intermediate: usize,
    pub heads: usize,
    pub activation: Activation,
    pub epsilon: f64,
}

impl LayerSizes {
    pub(super) fn norm(&self, device: &Device) -> LayerNorm {
        LayerNorm::new(self.hidden, self.epsilon, device)
    }

    pub(super) fn mlp(&self, device: &Device) -> Mlp {
        Mlp {
            fc1: linear(self.hidden, self.intermediate, device),
            fc2: linear(self.intermediate, self.hidden, device),
            activation: self.activation,
        }
    }

    pub(super) fn encoder(&self, layers: usize, device: &Device) -> Encoder {
        let layer = |_| EncoderLayer {
            layer_norm1: self.norm(device),
            self_attn: SelfAttention {
                q_proj: linear(self.hidden, self.hidden, device),
                k_proj: linear(self.hidden, self.hidden, device),
                v_proj: linear(self.hidden, self.hidden, device),
                out_proj: linear(self.hidden, self.hidden, device),
                heads: self.heads,
            },
            layer_norm2: self.norm(device),
            mlp: self.mlp(device),
        };
        Encoder {
            layers: (0..layers).map(layer).collect(),
        }
    }
}

impl Encoder {
    /// `[batch, positions, hidden]` through all layers.
    pub fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        self.layers.iter().fold(x, |x, layer| layer.forward(x))
    }
}

impl EncoderLayer {
    /// `[batch, positions, hidden]` to the same.
    pub fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let x = x.clone() + self.self_attn.forward(self.layer_norm1.forward(x));
        x.clone() + self.mlp.forward(self.layer_norm2.forward(x))
    }
}

impl SelfAttention {
    fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let dtype = self.q_proj.weight.val().dtype();
        let query = split_heads(apply(&self.q_proj, x.clone()), self.heads);
        let key = split_heads(apply(&self.k_proj, x.clone()), self.heads);
        let value = split_heads(apply(&self.v_proj, x), self.heads);
        let attended = precision_of(dtype, || multi_head_attention(query, key, value, None));
        apply(&self.out_proj, attended)
    }
}

impl Mlp {
    pub fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let x = apply(&self.fc1, x);
        let x = match self.activation {
            Activation::GeluTanh => gelu_tanh(x),
            Activation::Gelu => gelu(x),
        };
        apply(&self.fc2, x)
    }
}

/// A linear layer initialised as SigLIP's are: Xavier weights, biases 0.
pub(super) fn linear(inputs: usize, outputs: usize, device: &Device) -> Linear {
    Linear {
        weight: Initializer::XavierUniform { gain: 1.0 }.init_with(
            [inputs, outputs],
            Some(inputs),
            Some(outputs),
            device,
        ),
        bias: Some(Initializer::Zeros.init([outputs], device)),
    }
}
