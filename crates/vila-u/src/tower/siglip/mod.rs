//! SigLIP (arXiv 2303.15343): an image and a text encoder with a shared embedding space.

pub(crate) mod config;
pub(crate) mod encoder;
pub(crate) mod pool;
pub(crate) mod text;
pub(crate) mod vision;

use burn::{
    module::{Module, Param},
    nn::Initializer,
    tensor::{DType, Device, Int, Tensor},
};

pub use config::{Activation, SiglipConfig, SiglipTextConfig, SiglipVisionConfig};
pub use text::TextModel;
pub use vision::VisionModel;

use crate::Result;

#[derive(Module, Debug)]
pub struct Siglip {
    pub text_model: TextModel,
    pub vision_model: VisionModel,
    /// `[1]`, the logarithm of the scale (inverse temperature) of the cosine similarities.
    pub logit_scale: Param<Tensor<1>>,
    /// `[1]`
    pub logit_bias: Param<Tensor<1>>,
}

impl SiglipConfig {
    /// Untrained, of a config that was checked; weights are initialised when first used.
    pub(crate) fn init(&self, device: &Device) -> Siglip {
        // The paper's start: logits of 10 cos - 10, so that the many negative pairs of a batch do
        // not dominate the first steps.
        let constant = |value: f64| Initializer::Constant { value }.init([1], device);
        Siglip {
            text_model: self.text_config.init(device),
            vision_model: self.vision_config.init(device),
            logit_scale: constant(10f64.ln()),
            logit_bias: constant(-10.0),
        }
    }
}

impl Siglip {
    /// Untrained; weights are initialised when first used.
    ///
    /// A usage error when [`SiglipConfig::check`] fails.
    pub fn new(config: &SiglipConfig, device: &Device) -> Result<Self> {
        config.check()?;
        Ok(config.init(device))
    }

    /// Token ids `[texts, tokens]` -> L2-normalised embeddings `[texts, hidden]`.
    pub fn text_embeds(&self, ids: Tensor<2, Int>) -> Tensor<2> {
        normalise(self.text_model.pooled(ids))
    }

    /// The logits of every image with every text, both given as L2-normalised embeddings `[.., hidden]`:
    /// `cos * exp(logit_scale) + logit_bias`, `[images, texts]`. A sigmoid makes it a probability.
    pub fn logits_per_image(&self, images: Tensor<2>, texts: Tensor<2>) -> Tensor<2> {
        images.matmul(texts.transpose()) * self.logit_scale.val().exp().unsqueeze()
            + self.logit_bias.val().unsqueeze()
    }
}

/// L2 normalisation of each row.
pub fn normalise(x: Tensor<2>) -> Tensor<2> {
    // Squares in f16 would soon be infinite.
    let length = x
        .clone()
        .cast(DType::F32)
        .square()
        .sum_dim(1)
        .sqrt()
        .cast(x.dtype());
    x / length
}
