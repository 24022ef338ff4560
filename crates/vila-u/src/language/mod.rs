//! The language model: a LLaMA decoder (arXiv 2302.13971) that reads embeddings of text and visual
//! tokens alike.
//!
//! Each layer: `x += attention(rms_norm(x))`, then `x += down(silu(gate(n)) * up(n))` with
//! `n = rms_norm(x)`. No biases; rotary positions; key heads may be shared by groups of query heads.
//!
//! Module fields carry the names of the checkpoint keys.

mod cache;
mod config;
mod linear;
pub mod lora;
mod rope;
#[cfg(test)]
mod tests;

use burn::{
    module::Module,
    nn::{Embedding, EmbeddingConfig, Initializer, LinearConfig, RmsNorm, RmsNormConfig},
    tensor::{Bool, DType, Device, Int, Tensor, TensorData},
};
use vila_u_kernels::{attention_of_sequences, linear, precision_of, rms_norm, silu_mul};

pub use cache::KvCache;
pub use config::LlamaConfig;
pub use linear::Linear;
pub(crate) use rope::RotaryEmbedding;
pub use rope::{Rope, RopeScaling};

use crate::{
    Result,
    attention::{multi_head_attention, split_heads},
    layers::apply,
};

/// The decoder and its text head.
#[derive(Module, Debug)]
pub struct Llama {
    pub model: Decoder,
    /// None where the text head is the embedding table itself (`tie_word_embeddings`).
    pub lm_head: Option<burn::nn::Linear>,
}

#[derive(Module, Debug)]
pub struct Decoder {
    pub embed_tokens: Embedding,
    pub layers: Vec<DecoderLayer>,
    pub norm: RmsNorm,
    #[module(skip)]
    rope: Rope,
    context_length: usize,
}

#[derive(Module, Debug)]
pub struct DecoderLayer {
    pub input_layernorm: RmsNorm,
    pub self_attn: SelfAttention,
    pub post_attention_layernorm: RmsNorm,
    pub mlp: GatedMlp,
}

#[derive(Module, Debug)]
pub struct SelfAttention {
    pub q_proj: Linear,
    pub k_proj: Linear,
    pub v_proj: Linear,
    pub o_proj: Linear,
    head_dim: usize,
}

#[derive(Module, Debug)]
pub struct GatedMlp {
    pub gate_proj: Linear,
    pub up_proj: Linear,
    pub down_proj: Linear,
}

impl LlamaConfig {
    /// A model with random weights, N(0, 0.02) as LLaMA is trained from. The config was checked.
    pub(crate) fn init(&self, device: &Device) -> Llama {
        let normal = Initializer::Normal {
            mean: 0.0,
            std: 0.02,
        };
        let linear = |input, output| Linear::new(input, output, device);
        let hidden = self.hidden_size;
        let norm = || {
            RmsNormConfig::new(hidden)
                .with_epsilon(self.rms_norm_eps)
                .init(device)
        };
        let queries = self.num_attention_heads * self.head_dim();
        let keys = self.kv_heads() * self.head_dim();
        let layer = || DecoderLayer {
            input_layernorm: norm(),
            self_attn: SelfAttention {
                q_proj: linear(hidden, queries),
                k_proj: linear(hidden, keys),
                v_proj: linear(hidden, keys),
                o_proj: linear(queries, hidden),
                head_dim: self.head_dim(),
            },
            post_attention_layernorm: norm(),
            mlp: GatedMlp {
                gate_proj: linear(hidden, self.intermediate_size),
                up_proj: linear(hidden, self.intermediate_size),
                down_proj: linear(self.intermediate_size, hidden),
            },
        };
        let head = || {
            LinearConfig::new(hidden, self.vocab_size)
                .with_bias(false)
                .with_initializer(normal.clone())
                .init(device)
        };
        Llama {
            model: Decoder {
                embed_tokens: EmbeddingConfig::new(self.vocab_size, hidden)
                    .with_initializer(normal.clone())
                    .init(device),
                layers: (0..self.num_hidden_layers).map(|_| layer()).collect(),
                norm: norm(),
                rope: self.rope.clone(),
                context_length: self.context_length(),
            },
            lm_head: (!self.tie_word_embeddings).then(head),
        }
    }
}

impl Llama {
    /// A model with random weights; they are initialised when first used.
    ///
    /// A usage error when [`LlamaConfig::check`] fails.
    pub fn new(config: &LlamaConfig, device: &Device) -> Result<Self> {
        config.check()?;
        Ok(config.init(device))
    }

    /// Where the model is.
    pub fn device(&self) -> Device {
        self.model.embed_tokens.weight.device()
    }

    /// What the model computes in.
    pub fn dtype(&self) -> DType {
        self.model.norm.gamma.val().dtype()
    }

    /// Rows of the embedding table: the tokens of the vocabulary, the added ones and padding included.
    pub fn vocab_size(&self) -> usize {
        self.model.embed_tokens.weight.dims()[0]
    }

    /// The most positions that the model was made to read and write in one row.
    pub fn context_length(&self) -> usize {
        self.model.context_length
    }

    /// The embeddings `[batch, positions, hidden]` of token ids `[batch, positions]`.
    pub fn embed(&self, ids: Tensor<2, Int>) -> Tensor<3> {
        self.model.embed_tokens.forward(ids).cast(self.dtype())
    }

    /// The embeddings `[positions, hidden]` of token ids.
    pub(crate) fn embed_ids(&self, ids: &[i64]) -> Tensor<2> {
        let ids: Tensor<1, Int> = Tensor::from_data(ids, &self.device());
        self.embed(ids.unsqueeze()).squeeze_dim(0)
    }

    /// Hidden states `[batch, positions, hidden]` after the final norm.
    ///
    /// - `embeds`: `[batch, positions, hidden]`
    /// - `positions`: `[batch, positions]`, counted from 0 in every sample
    /// - `mask`: `[batch, 1, positions, keys]` (or 1 for batch), `true` where a position may *not*
    ///   look. `keys` counts the positions in the cache, then the new ones. None is plain causal
    ///   attention; packed samples and padding need a mask (see [`causal_mask`]).
    /// - `cache`: holds earlier positions and takes in these
    pub fn forward(
        &self,
        embeds: Tensor<3>,
        positions: Tensor<2, Int>,
        mask: Option<Tensor<4, Bool>>,
        mut cache: Option<&mut KvCache>,
    ) -> Tensor<3> {
        let [_, count, _] = embeds.dims();
        let past = cache.as_ref().map_or(0, |c| c.filled());
        let mask = match mask {
            None if count > 1 => Some(causal_mask(count, past + count, &embeds.device())),
            mask => mask,
        };
        let rotation = self.rotation(positions);
        let mut x = embeds.cast(self.dtype());
        for (index, layer) in self.model.layers.iter().enumerate() {
            let cache = cache.as_deref_mut().map(|cache| (cache, index));
            x = layer.forward(x, &rotation, mask.clone(), cache);
        }
        if let Some(cache) = cache {
            cache.advance(count);
        }
        self.normalised(x)
    }

    /// The same for new positions of several sequences at once, each with a cache of its own: hidden states
    /// `[positions, hidden]`.
    ///
    /// - `embeds`: `[positions, hidden]`, the new positions of one sequence after those of the other
    /// - `sequences`: of each, its cache, which takes them in, and how many of the positions are its own
    pub fn forward_sequences(
        &self,
        embeds: Tensor<2>,
        sequences: &mut [(&mut KvCache, usize)],
    ) -> Tensor<2> {
        let positions = sequences.iter().flat_map(|(cache, count)| {
            let start = cache.filled();
            (start..start + count).map(|position| position as i64)
        });
        let positions: Vec<i64> = positions.collect();
        let positions = TensorData::new(positions, [1, embeds.dims()[0]]);
        let rotation = self.rotation(Tensor::from_data(positions, &self.device()));
        let mut x = embeds.unsqueeze::<3>().cast(self.dtype());
        for (index, layer) in self.model.layers.iter().enumerate() {
            x = layer.run(x, &rotation, |query, key, value| {
                let mut start = 0;
                let cached = sequences.iter_mut().map(|(cache, count)| {
                    let new = [&key, &value].map(|new| new.clone().narrow(2, start, *count));
                    start += *count;
                    (*count, cache.append(index, new))
                });
                let cached: Vec<_> = cached.collect();
                let scale = (query.dims()[3] as f64).powf(-0.5);
                attention_of_sequences(query, &cached, scale)
            });
        }
        for (cache, count) in sequences {
            cache.advance(*count);
        }
        self.normalised(x).squeeze_dim(0)
    }

    /// How queries and keys turn at these positions.
    pub(crate) fn rotation(&self, positions: Tensor<2, Int>) -> RotaryEmbedding {
        let decoder = &self.model;
        let head_dim = decoder.layers.first().map_or(2, |l| l.self_attn.head_dim);
        RotaryEmbedding::new(positions, head_dim, &decoder.rope, self.dtype())
    }

    /// What comes out of the last layer, normalised.
    pub(crate) fn normalised(&self, x: Tensor<3>) -> Tensor<3> {
        normalise(&self.model.norm, x)
    }

    /// Logits `[batch, positions, vocabulary]` of the next text token.
    pub fn logits(&self, hidden: Tensor<3>) -> Tensor<3> {
        match &self.lm_head {
            Some(head) => apply(head, hidden),
            None => {
                let table = self.model.embed_tokens.weight.val();
                linear(hidden, table.transpose(), None)
            }
        }
    }

    /// Bytes of the keys and values of so many positions.
    pub(crate) fn cache_bytes(&self, positions: usize) -> u64 {
        let layers = self.model.layers.iter();
        let widths = layers.map(|layer| 2 * layer.self_attn.k_proj.weight.dims()[1]);
        (widths.sum::<usize>() * positions * self.dtype().size()) as u64
    }

    /// An empty cache for `batch` rows of up to `capacity` positions.
    pub fn cache(&self, batch: usize, capacity: usize) -> KvCache {
        let layers = &self.model.layers;
        let (kv_heads, head_dim) = layers
            .first()
            .map_or((0, 0), |l| (l.self_attn.kv_heads(), l.self_attn.head_dim));
        let shape = [batch, kv_heads, capacity, head_dim];
        KvCache::new(layers.len(), shape, self.dtype(), &self.device())
    }
}

/// The causal mask `[1, 1, count, keys]` for the last `count` of `keys` positions: `true` on what
/// comes later.
pub fn causal_mask(count: usize, keys: usize, device: &Device) -> Tensor<4, Bool> {
    Tensor::tril_mask([1, 1, count, keys], (keys - count) as i64, device)
}

impl DecoderLayer {
    pub(crate) fn forward(
        &self,
        x: Tensor<3>,
        rotation: &RotaryEmbedding,
        mask: Option<Tensor<4, Bool>>,
        cache: Option<(&mut KvCache, usize)>,
    ) -> Tensor<3> {
        self.run(x, rotation, |query, key, value| {
            let [key, value] = match cache {
                Some((cache, layer)) => cache.append(layer, [key, value]),
                None => [key, value],
            };
            multi_head_attention(query, key, value, mask)
        })
    }

    /// - `attend`: from queries, keys and values of the new positions, `[batch, heads, positions, head_dim]`, to
    ///   `[batch, positions, heads * head_dim]`
    pub(crate) fn run(
        &self,
        x: Tensor<3>,
        rotation: &RotaryEmbedding,
        attend: impl FnOnce(Tensor<4>, Tensor<4>, Tensor<4>) -> Tensor<3>,
    ) -> Tensor<3> {
        let normed = normalise(&self.input_layernorm, x.clone());
        let x = x + self.self_attn.forward(normed, rotation, attend);
        let normed = normalise(&self.post_attention_layernorm, x.clone());
        x + self.mlp.forward(normed)
    }
}

impl SelfAttention {
    fn kv_heads(&self) -> usize {
        self.k_proj.weight.dims()[1] / self.head_dim
    }

    fn forward(
        &self,
        x: Tensor<3>,
        rotation: &RotaryEmbedding,
        attend: impl FnOnce(Tensor<4>, Tensor<4>, Tensor<4>) -> Tensor<3>,
    ) -> Tensor<3> {
        let heads = |linear: &Linear| {
            let y = linear.forward(x.clone());
            let heads = y.dims()[2] / self.head_dim;
            split_heads(y, heads)
        };
        let query = rotation.apply(heads(&self.q_proj));
        let key = rotation.apply(heads(&self.k_proj));
        let value = heads(&self.v_proj);
        let dtype = self.q_proj.weight.val().dtype();
        let attended = precision_of(dtype, || attend(query, key, value));
        self.o_proj.forward(attended)
    }
}

impl GatedMlp {
    fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let gate = self.gate_proj.forward(x.clone());
        let up = self.up_proj.forward(x);
        self.down_proj.forward(silu_mul(gate, up))
    }
}

/// `x / sqrt(mean(x^2) + eps) * weight`, normalised in float32 whatever the weights are.
fn normalise(norm: &RmsNorm, x: Tensor<3>) -> Tensor<3> {
    rms_norm(x, norm.gamma.val(), norm.epsilon)
}
