//! The text encoder. Every position sees every other, padding included (texts are padded to the
//! full length in training), and the last position's output is the embedding of the text.

use burn::{
    module::Module,
    nn::{Embedding, Linear},
    tensor::{Device, Int, Tensor},
};

use super::{
    config::SiglipTextConfig,
    encoder::{Encoder, LayerSizes, linear},
    vision::embedding,
};
use crate::layers::{LayerNorm, apply};

#[derive(Module, Debug)]
pub struct TextModel {
    pub embeddings: TextEmbeddings,
    pub encoder: Encoder,
    pub final_layer_norm: LayerNorm,
    pub head: Linear,
}

#[derive(Module, Debug)]
pub struct TextEmbeddings {
    pub token_embedding: Embedding,
    pub position_embedding: Embedding,
}

impl SiglipTextConfig {
    /// Untrained; weights are initialised when first used.
    pub fn init(&self, device: &Device) -> TextModel {
        let sizes = LayerSizes {
            hidden: self.hidden_size,
            intermediate: self.intermediate_size,
            heads: self.num_attention_heads,
            activation: self.hidden_act,
            epsilon: self.layer_norm_eps,
        };
        TextModel {
            embeddings: TextEmbeddings {
                token_embedding: embedding(self.vocab_size, self.hidden_size, device),
                position_embedding: embedding(
                    self.max_position_embeddings,
                    self.hidden_size,
                    device,
                ),
            },
            encoder: sizes.encoder(self.num_hidden_layers, device),
            final_layer_norm: sizes.norm(device),
            head: linear(self.hidden_size, self.hidden_size, device),
        }
    }
}

impl TextModel {
    /// Token ids `[batch, tokens]`, at most `max_position_embeddings` tokens ->
    /// `[batch, tokens, hidden]` after the final norm.
    pub fn last_hidden(&self, ids: Tensor<2, Int>) -> Tensor<3> {
        let [_, tokens] = ids.dims();
        let positions = self.embeddings.position_embedding.weight.val();
        let x = self.embeddings.token_embedding.forward(ids)
            + positions.narrow(0, 0, tokens).unsqueeze();
        self.final_layer_norm.forward(self.encoder.forward(x))
    }

    /// The embedding of each text, not normalised: `[batch, tokens]` -> `[batch, hidden]`.
    pub fn pooled(&self, ids: Tensor<2, Int>) -> Tensor<2> {
        let x = self.last_hidden(ids);
        let [batch, tokens, hidden] = x.dims();
        let last = x.narrow(1, tokens - 1, 1).reshape([batch, hidden]);
        apply(&self.head, last)
    }
}
