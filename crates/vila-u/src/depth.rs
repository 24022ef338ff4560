//! The depth transformer (paper section 3.2, after RQ-Transformer, arXiv 2203.01941): one hidden
//! state of the language model becomes the D residual codes of one visual position.
//!
//! Its sequence, one element per depth, is `in_mlp_2(h), in_mlp_1(e_1), in_mlp_1(e_1 + e_2), ...`
//! plus a learned position; output `d` gives the logits of code `d + 1`. `h` is the hidden state and
//! `e_d` the code vector chosen at depth `d`. Visual positions do not attend to each other here.
//!
//! Module fields carry the names of the checkpoint keys.

use burn::{
    module::{Module, Param},
    nn::{Initializer, Linear},
    tensor::{Bool, Device, Tensor},
};
use serde::{Deserialize, Serialize};
use vila_u_kernels::gelu;

use crate::{
    Error, Result,
    attention::{multi_head_attention, split_heads},
    language::KvCache,
    layers::{LayerNorm, apply, dropout, dtype},
};

/// The `rqtransformer` block of `vision_tower/config.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DepthConfig {
    /// Rows, columns and depth of the codes of one image.
    pub block_size: [usize; 3],
    /// Width of this transformer.
    pub embed_dim: usize,
    /// Width of the code vectors.
    pub input_embed_dim_1: usize,
    /// Width of the language model.
    pub input_embed_dim_2: usize,
    /// Codes per codebook.
    pub vocab_size: usize,
    pub head: HeadConfig,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HeadConfig {
    pub n_layer: usize,
    pub block: BlockConfig,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BlockConfig {
    pub n_head: usize,
}

#[derive(Module, Debug)]
pub struct DepthTransformer {
    pub in_mlp_1: Linear,
    pub in_mlp_2: Linear,
    pub pos_emb_d: Param<Tensor<3>>, // [1, depth, width]
    pub head_transformer: Head,
    pub classifier_mlp: Classifier,
}

#[derive(Module, Debug)]
pub struct Head {
    pub blocks: Vec<Block>,
}

#[derive(Module, Debug)]
pub struct Block {
    pub ln1: LayerNorm,
    pub ln2: LayerNorm,
    pub attn: DepthAttention,
    pub mlp: Vec<Linear>,
    /// Share of the attention and MLP outputs zeroed in training; only on autodiff devices.
    pub dropout: f64,
}

#[derive(Module, Debug)]
pub struct DepthAttention {
    pub key: Linear,
    pub query: Linear,
    pub value: Linear,
    pub proj: Linear,
    heads: usize,
}

#[derive(Module, Debug)]
pub struct Classifier {
    pub layer_norm: LayerNorm,
    pub linear: Linear,
}

/// The dropout that the released models are trained with.
pub(crate) const DROPOUT: f64 = 0.1;

impl DepthConfig {
    /// Codes of one visual position.
    pub fn depth(&self) -> usize {
        self.block_size[2]
    }

    /// Visual positions of one image.
    pub fn positions(&self) -> usize {
        self.block_size[0] * self.block_size[1]
    }

    /// A usage error that says why no model can have this config, if there is a reason.
    pub fn check(&self) -> Result<()> {
        let heads = self.head.block.n_head;
        let sizes = [
            ("rqtransformer.embed_dim", self.embed_dim),
            ("rqtransformer.input_embed_dim_1", self.input_embed_dim_1),
            ("rqtransformer.input_embed_dim_2", self.input_embed_dim_2),
            ("rqtransformer.vocab_size", self.vocab_size),
            ("rqtransformer.head.block.n_head", heads),
        ];
        if let Some((name, _)) = sizes.iter().find(|(_, size)| *size == 0) {
            return Err(Error::usage(format!("{name} must not be 0")));
        }
        if self
            .block_size
            .iter()
            .any(|size| !(1..=4096).contains(size))
        {
            return Err(Error::usage(format!(
                "rqtransformer.block_size {:?} must be three numbers from 1 to 4096",
                self.block_size
            )));
        }
        if !self.embed_dim.is_multiple_of(heads) {
            return Err(Error::usage(format!(
                "rqtransformer.embed_dim {} does not split into {heads} heads",
                self.embed_dim
            )));
        }
        Ok(())
    }

    /// A model with random weights: N(0, 1 / inputs) for linear layers, which keeps the variance of activations through
    /// narrow ones too; N(0, 0.02^2) for positions, biases 0. The config was checked.
    pub(crate) fn init(&self, device: &Device) -> DepthTransformer {
        let width = self.embed_dim;
        let normal = |std| Initializer::Normal { mean: 0.0, std };
        let linear = |input: usize, output: usize| Linear {
            weight: normal((input as f64).powf(-0.5)).init([input, output], device),
            bias: Some(Initializer::Zeros.init([output], device)),
        };
        let norm = || LayerNorm::new(width, 1e-5, device);
        let block = || Block {
            ln1: norm(),
            ln2: norm(),
            attn: DepthAttention {
                key: linear(width, width),
                query: linear(width, width),
                value: linear(width, width),
                proj: linear(width, width),
                heads: self.head.block.n_head,
            },
            mlp: vec![linear(width, 4 * width), linear(4 * width, width)],
            dropout: DROPOUT,
        };
        DepthTransformer {
            in_mlp_1: linear(self.input_embed_dim_1, width),
            in_mlp_2: linear(self.input_embed_dim_2, width),
            pos_emb_d: normal(0.02).init([1, self.depth(), width], device),
            head_transformer: Head {
                blocks: (0..self.head.n_layer).map(|_| block()).collect(),
            },
            classifier_mlp: Classifier {
                layer_norm: norm(),
                linear: linear(width, self.vocab_size),
            },
        }
    }
}

impl DepthTransformer {
    /// Codes of one visual position.
    pub fn depth(&self) -> usize {
        self.pos_emb_d.dims()[1]
    }

    /// The same model with another dropout (0 for none).
    pub fn with_dropout(mut self, dropout: f64) -> Self {
        for block in &mut self.head_transformer.blocks {
            block.dropout = dropout;
        }
        self
    }

    /// Logits `[n, depth, codes]` of all codes of `n` visual positions, given the true ones.
    ///
    /// - `hidden`: `[n, language width]`, the hidden state that predicts each position
    /// - `sums`: `[n, depth - 1, code width]`, element `d` the sum of code vectors `0..=d`. More
    ///   depths than that are ignored, so that all `depth` sums may be given.
    pub fn teacher_forced(&self, hidden: Tensor<2>, sums: Tensor<3>) -> Tensor<3> {
        let depth = self.depth();
        let first = Self::embed(&self.in_mlp_2, hidden).unsqueeze_dim(1);
        let sequence = if depth == 1 {
            first
        } else {
            let rest = Self::embed(&self.in_mlp_1, sums.narrow(1, 0, depth - 1));
            Tensor::cat(vec![first, rest], 1)
        };
        let mask = Tensor::tril_mask([1, 1, depth, depth], 0, &sequence.device());
        let x = sequence + self.pos_emb_d.val();
        self.blocks(x, Some(mask), None)
    }

    /// Logits `[n, codes]` of the first code, given the hidden states `[n, language width]`.
    /// The cache is cleared before.
    pub fn first(&self, hidden: Tensor<2>, cache: &mut KvCache) -> Tensor<2> {
        cache.clear();
        self.step(Self::embed(&self.in_mlp_2, hidden), cache)
    }

    /// Logits `[n, codes]` of the code after those whose vectors add up to `sum`, `[n, code width]`.
    pub fn next(&self, sum: Tensor<2>, cache: &mut KvCache) -> Tensor<2> {
        self.step(Self::embed(&self.in_mlp_1, sum), cache)
    }

    /// The cache of `n` visual positions, to be used for one after the other.
    pub fn cache(&self, n: usize) -> KvCache {
        let positions = self.pos_emb_d.val();
        let [_, depth, width] = positions.dims();
        let blocks = &self.head_transformer.blocks;
        let heads = blocks.first().map_or(1, |block| block.attn.heads);
        let shape = [n, heads, depth, width / heads];
        KvCache::new(blocks.len(), shape, positions.dtype(), &positions.device())
    }

    /// The language model and the codebooks may be of another dtype.
    fn embed<const D: usize>(linear: &Linear, x: Tensor<D>) -> Tensor<D> {
        apply(linear, x.cast(dtype(linear)))
    }

    fn step(&self, input: Tensor<2>, cache: &mut KvCache) -> Tensor<2> {
        let position = self.pos_emb_d.val().narrow(1, cache.filled(), 1);
        let x = input.unsqueeze_dim(1) + position;
        // The newest depth may look at everything in the cache: no mask.
        self.blocks(x, None, Some(cache)).squeeze_dim(1)
    }

    fn blocks(
        &self,
        mut x: Tensor<3>,
        mask: Option<Tensor<4, Bool>>,
        mut cache: Option<&mut KvCache>,
    ) -> Tensor<3> {
        let [_, count, _] = x.dims();
        for (index, block) in self.head_transformer.blocks.iter().enumerate() {
            let cache = cache.as_deref_mut().map(|cache| (cache, index));
            x = block.forward(x, mask.clone(), cache);
        }
        if let Some(cache) = cache {
            cache.advance(count);
        }
        let Classifier { layer_norm, linear } = &self.classifier_mlp;
        apply(linear, layer_norm.forward(x))
    }
}

impl Block {
    fn forward(
        &self,
        x: Tensor<3>,
        mask: Option<Tensor<4, Bool>>,
        cache: Option<(&mut KvCache, usize)>,
    ) -> Tensor<3> {
        let attended = self.attn.forward(self.ln1.forward(x.clone()), mask, cache);
        let x = x + dropout(attended, self.dropout);
        let mut y = self.ln2.forward(x.clone());
        for (index, linear) in self.mlp.iter().enumerate() {
            y = apply(linear, if index == 0 { y } else { gelu(y) });
        }
        x + dropout(y, self.dropout)
    }
}

impl DepthAttention {
    fn forward(
        &self,
        x: Tensor<3>,
        mask: Option<Tensor<4, Bool>>,
        cache: Option<(&mut KvCache, usize)>,
    ) -> Tensor<3> {
        let heads = |linear: &Linear| split_heads(apply(linear, x.clone()), self.heads);
        let new = [heads(&self.key), heads(&self.value)];
        let [key, value] = match cache {
            Some((cache, layer)) => cache.append(layer, new),
            None => new,
        };
        let out = multi_head_attention(heads(&self.query), key, value, mask);
        apply(&self.proj, out)
    }
}
