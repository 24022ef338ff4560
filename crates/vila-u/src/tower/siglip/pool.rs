//! Attention pooling: one learned query attends to all positions, then an MLP with a residual.

use burn::{
    module::{Module, Param},
    nn::{Initializer, Linear},
    tensor::{Device, Tensor},
};
use vila_u_kernels::linear as project;

use super::encoder::{LayerSizes, Mlp, linear};
use crate::{
    attention::{multi_head_attention, split_heads},
    layers::{LayerNorm, apply},
};

#[derive(Module, Debug)]
pub struct AttentionPool {
    /// `[1, 1, hidden]`
    pub probe: Param<Tensor<3>>,
    pub attention: ProbeAttention,
    pub layernorm: LayerNorm,
    pub mlp: Mlp,
}

/// Query, key and value projections stored as one matrix, outputs first (`torch.nn.MultiheadAttention`).
#[derive(Module, Debug)]
pub struct ProbeAttention {
    /// `[3 hidden, hidden]`
    pub in_proj_weight: Param<Tensor<2>>,
    /// `[3 hidden]`
    pub in_proj_bias: Param<Tensor<1>>,
    pub out_proj: Linear,
    heads: usize,
}

impl AttentionPool {
    pub(super) fn new(sizes: &LayerSizes, device: &Device) -> Self {
        let hidden = sizes.hidden;
        let xavier = Initializer::XavierUniform { gain: 1.0 };
        Self {
            probe: xavier.init_with([1, 1, hidden], Some(hidden), Some(hidden), device),
            attention: ProbeAttention {
                in_proj_weight: xavier.init_with(
                    [3 * hidden, hidden],
                    Some(hidden),
                    Some(hidden),
                    device,
                ),
                in_proj_bias: Initializer::Zeros.init([3 * hidden], device),
                out_proj: linear(hidden, hidden, device),
                heads: sizes.heads,
            },
            layernorm: sizes.norm(device),
            mlp: sizes.mlp(device),
        }
    }

    /// `[batch, positions, hidden]` -> `[batch, hidden]`
    pub fn forward(&self, x: Tensor<3>) -> Tensor<2> {
        let x = self.attention.forward(self.probe.val(), x); // [batch, 1, hidden]
        let x = x.clone() + self.mlp.forward(self.layernorm.forward(x));
        x.squeeze_dim(1)
    }
}

impl ProbeAttention {
    fn forward(&self, probe: Tensor<3>, x: Tensor<3>) -> Tensor<3> {
        let [batch, _, hidden] = x.dims();
        let part = |index: usize, input: Tensor<3>| {
            let weight = self.in_proj_weight.val().narrow(0, index * hidden, hidden);
            let bias = self.in_proj_bias.val().narrow(0, index * hidden, hidden);
            project(input, weight.transpose(), Some(bias))
        };
        let query = part(0, probe).expand([batch, 1, hidden]);
        let query = split_heads(query, self.heads);
        let key = split_heads(part(1, x.clone()), self.heads);
        let value = split_heads(part(2, x), self.heads);
        apply(
            &self.out_proj,
            multi_head_attention(query, key, value, None),
        )
    }
}
