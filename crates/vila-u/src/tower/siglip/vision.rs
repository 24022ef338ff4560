//! The vision encoder: an image becomes a grid of patch features.
//!
//! The tower's visual feature is taken *before* the last layer; that layer, the final norm and the
//! pooling head make a (quantized) grid of features the embedding that is compared with texts.

use burn::{
    module::Module,
    nn::{
        Embedding, EmbeddingConfig, Initializer,
        conv::{Conv2d, Conv2dConfig},
    },
    tensor::{Device, Tensor},
};

use super::{
    config::SiglipVisionConfig,
    encoder::{Encoder, LayerSizes},
    pool::AttentionPool,
};
use crate::layers::LayerNorm;

#[derive(Module, Debug)]
pub struct VisionModel {
    pub embeddings: VisionEmbeddings,
    pub encoder: Encoder,
    pub post_layernorm: LayerNorm,
    pub head: AttentionPool,
}

#[derive(Module, Debug)]
pub struct VisionEmbeddings {
    pub patch_embedding: Conv2d,
    pub position_embedding: Embedding,
}

impl SiglipVisionConfig {
    /// Untrained; weights are initialised when first used.
    pub fn init(&self, device: &Device) -> VisionModel {
        let sizes = LayerSizes {
            hidden: self.hidden_size,
            intermediate: self.intermediate_size,
            heads: self.num_attention_heads,
            activation: self.hidden_act,
            epsilon: self.layer_norm_eps,
        };
        let channels = [self.num_channels, self.hidden_size];
        let mut patch_embedding = Conv2dConfig::new(channels, [self.patch_size; 2])
            .with_stride([self.patch_size; 2])
            .with_initializer(Initializer::KaimingNormal {
                gain: 1.0,
                fan_out_only: false,
            })
            .init(device);
        patch_embedding.bias = Some(Initializer::Zeros.init([self.hidden_size], device));
        VisionModel {
            embeddings: VisionEmbeddings {
                patch_embedding,
                position_embedding: embedding(self.grid().pow(2), self.hidden_size, device),
            },
            encoder: sizes.encoder(self.num_hidden_layers, device),
            post_layernorm: sizes.norm(device),
            head: AttentionPool::new(&sizes, device),
        }
    }
}

/// Learned embeddings, initialised at the scale of the hidden states.
pub(super) fn embedding(rows: usize, hidden: usize, device: &Device) -> Embedding {
    EmbeddingConfig::new(rows, hidden)
        .with_initializer(Initializer::Normal {
            mean: 0.0,
            std: (hidden as f64).powf(-0.5),
        })
        .init(device)
}

impl VisionEmbeddings {
    /// `[batch, 3, size, size]` in -1..1 -> `[batch, positions, hidden]`, positions row by row.
    pub fn forward(&self, pixels: Tensor<4>) -> Tensor<3> {
        // Pixels come in f32, whatever the model computes in.
        let pixels = pixels.cast(self.patch_embedding.weight.val().dtype());
        let patches = self.patch_embedding.forward(pixels); // [batch, hidden, rows, columns]
        patches.flatten::<3>(2, 3).swap_dims(1, 2)
            + self.position_embedding.weight.val().unsqueeze()
    }
}

impl VisionModel {
    /// All layers but the last, without any final norm:
    /// `[batch, 3, size, size]` in -1..1 -> `[batch, positions, hidden]`.
    pub fn features(&self, pixels: Tensor<4>) -> Tensor<3> {
        let layers = &self.encoder.layers;
        layers[..layers.len() - 1]
            .iter()
            .fold(self.embeddings.forward(pixels), |x, layer| layer.forward(x))
    }

    /// What [`Self::features`] left out, up to the final norm; both `[batch, positions, hidden]`.
    pub fn last_hidden(&self, features: Tensor<3>) -> Tensor<3> {
        let layers = &self.encoder.layers;
        self.post_layernorm
            .forward(layers[layers.len() - 1].forward(features))
    }

    /// The embedding of an image, not normalised:
    /// features `[batch, positions, hidden]` -> `[batch, hidden]`.
    pub fn pooled(&self, features: Tensor<3>) -> Tensor<2> {
        self.head.forward(self.last_hidden(features))
    }
}
