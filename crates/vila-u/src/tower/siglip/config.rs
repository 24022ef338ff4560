//! SigLIP sizes, as Hugging Face writes them (`model_type` `siglip`): a value that equals the class
//! default is left out of the file.

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// `config.json` of a SigLIP model.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SiglipConfig {
    pub text_config: SiglipTextConfig,
    pub vision_config: SiglipVisionConfig,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SiglipTextConfig {
    pub vocab_size: usize,
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub num_hidden_layers: usize,
    pub num_attention_heads: usize,
    /// Longest text, in tokens.
    pub max_position_embeddings: usize,
    pub hidden_act: Activation,
    pub layer_norm_eps: f64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SiglipVisionConfig {
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub num_hidden_layers: usize,
    pub num_attention_heads: usize,
    pub num_channels: usize,
    /// Height and width of the images, in pixels.
    pub image_size: usize,
    pub patch_size: usize,
    pub hidden_act: Activation,
    pub layer_norm_eps: f64,
}

/// The non-linearity inside the MLPs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Activation {
    /// `x/2 * (1 + tanh(sqrt(2/pi) * (x + 0.044715 x^3)))`
    #[default]
    #[serde(rename = "gelu_pytorch_tanh", alias = "gelu_new")]
    GeluTanh,
    /// `x/2 * (1 + erf(x/sqrt(2)))`
    #[serde(rename = "gelu")]
    Gelu,
}

impl Default for SiglipTextConfig {
    fn default() -> Self {
        Self {
            vocab_size: 32_000,
            hidden_size: 768,
            intermediate_size: 3072,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            max_position_embeddings: 64,
            hidden_act: Activation::GeluTanh,
            layer_norm_eps: 1e-6,
        }
    }
}

impl Default for SiglipVisionConfig {
    fn default() -> Self {
        Self {
            hidden_size: 768,
            intermediate_size: 3072,
            num_hidden_layers: 12,
            num_attention_heads: 12,
            num_channels: 3,
            image_size: 224,
            patch_size: 16,
            hidden_act: Activation::GeluTanh,
            layer_norm_eps: 1e-6,
        }
    }
}

impl SiglipConfig {
    /// The two models that released towers name by hub id and do not describe.
    pub fn preset(hub_id: &str) -> Option<Self> {
        let sizes = |hidden_size, intermediate_size, layers, image_size, patch_size| Self {
            text_config: SiglipTextConfig {
                hidden_size,
                intermediate_size,
                num_hidden_layers: layers,
                num_attention_heads: 16,
                ..Default::default()
            },
            vision_config: SiglipVisionConfig {
                hidden_size,
                intermediate_size,
                num_hidden_layers: layers,
                num_attention_heads: 16,
                image_size,
                patch_size,
                ..Default::default()
            },
        };
        match hub_id {
            "google/siglip-large-patch16-256" => Some(sizes(1024, 4096, 24, 256, 16)),
            "google/siglip-so400m-patch14-384" => Some(sizes(1152, 4304, 27, 384, 14)),
            _ => None,
        }
    }

    /// A usage error that says why no model can have this config, if there is a reason.
    pub fn check(&self) -> Result<()> {
        let (text, vision) = (&self.text_config, &self.vision_config);
        encoder_sizes(
            "text_config",
            [
                text.hidden_size,
                text.intermediate_size,
                text.num_hidden_layers,
                text.num_attention_heads,
            ],
        )?;
        encoder_sizes(
            "vision_config",
            [
                vision.hidden_size,
                vision.intermediate_size,
                vision.num_hidden_layers,
                vision.num_attention_heads,
            ],
        )?;
        if text.vocab_size == 0 || text.max_position_embeddings == 0 || vision.num_channels == 0 {
            return Err(Error::usage(
                "vocab_size, max_position_embeddings and num_channels must not be 0",
            ));
        }
        if vision.patch_size == 0 || vision.image_size < vision.patch_size {
            return Err(Error::usage(format!(
                "image_size {} does not hold one patch of {}",
                vision.image_size, vision.patch_size
            )));
        }
        Ok(())
    }
}

impl SiglipVisionConfig {
    /// Patches along each side of an image; a remainder of pixels at the far edges is not seen.
    pub fn grid(&self) -> usize {
        self.image_size / self.patch_size
    }
}

fn encoder_sizes(part: &str, [hidden, intermediate, layers, heads]: [usize; 4]) -> Result<()> {
    if hidden == 0 || intermediate == 0 || heads == 0 || !hidden.is_multiple_of(heads) {
        return Err(Error::usage(format!(
            "{part}.hidden_size {hidden} does not split into {heads} heads, or a size is 0"
        )));
    }
    if !(1..=1000).contains(&layers) {
        return Err(Error::usage(format!(
            "{part}.num_hidden_layers {layers} is not between 1 and 1000"
        )));
    }
    Ok(())
}
