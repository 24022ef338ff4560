//! The tower's sizes, field by field as `vision_tower/config.json` has them.

use serde::{Deserialize, Serialize};

use super::{pixel_decoder::PixelDecoderConfig, siglip::SiglipConfig};
use crate::{Error, Result};

/// `rqvaesiglip` of the tower's `config.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RqVaeSiglipConfig {
    /// Hub id or relative folder of the SigLIP model whose `config.json` gives the encoder's sizes.
    #[serde(default = "large")]
    pub pretrained_model: String,
    /// Channels of the latents, equal to the width of the vision encoder.
    pub embed_dim: usize,
    /// Rows of a codebook, K.
    pub n_embed: usize,
    /// Height, width and channels of the latents.
    pub latent_shape: [usize; 3],
    /// Height and width of the code grid, and codes per position D.
    pub code_shape: [usize; 3],
    pub shared_codebook: bool,
    pub restart_unused_codes: bool,
    #[serde(default = "decay")]
    pub decay: f64,
    /// Weight of the commitment loss in training.
    #[serde(default = "latent_loss_weight")]
    pub latent_loss_weight: f64,
    /// Height and width that latents are resized to before they are decoded.
    #[serde(default)]
    pub decoder_latent_shape: Option<[usize; 2]>,
    pub ddconfig: PixelDecoderConfig,
}

fn large() -> String {
    "google/siglip-large-patch16-256".into()
}

fn decay() -> f64 {
    0.99
}

fn latent_loss_weight() -> f64 {
    0.25
}

impl RqVaeSiglipConfig {
    /// Refuses sizes that fit no tower.
    pub fn validate(&self, siglip: &SiglipConfig) -> Result<()> {
        siglip.validate()?;
        self.ddconfig.validate()?;
        let refuse = |reason: String| Err(Error::usage(format!("rqvaesiglip: {reason}")));

        let vision = &siglip.vision_config;
        let [height, width, channels] = self.latent_shape;
        let [rows, columns, depth] = self.code_shape;
        if [height, width] != [vision.grid(); 2] {
            return refuse(format!(
                "latent_shape is {height}x{width}, the vision encoder's grid {0}x{0}",
                vision.grid()
            ));
        }
        if channels != vision.hidden_size || self.embed_dim != channels {
            return refuse(format!(
                "latent_shape and embed_dim have {channels} and {} channels, the vision encoder {}",
                self.embed_dim, vision.hidden_size
            ));
        }
        if rows == 0
            || columns == 0
            || !height.is_multiple_of(rows)
            || !width.is_multiple_of(columns)
        {
            return refuse(format!(
                "a {height}x{width} latent grid does not divide into {rows}x{columns} codes"
            ));
        }
        if !(1..=1000).contains(&depth) || self.n_embed == 0 {
            return refuse(format!(
                "{depth} codes of {} rows are out of range",
                self.n_embed
            ));
        }
        if !(0.0..=1.0).contains(&self.decay) {
            return refuse(format!("decay {} is not between 0 and 1", self.decay));
        }
        if self.decoder_latent_shape.is_some_and(|s| s.contains(&0)) {
            return refuse("decoder_latent_shape has a zero".into());
        }
        Ok(())
    }
}
