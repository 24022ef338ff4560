//! The tower's sizes, field by field as `vision_tower/config.json` has them.

use serde::{Deserialize, Deserializer, Serialize};

use super::{pixel_decoder::PixelDecoderConfig, siglip::SiglipConfig};
use crate::{Error, Result, depth::DepthConfig};

/// `vision_tower/config.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct VisionTowerConfig {
    pub rqvaesiglip: RqVaeSiglipConfig,
    pub rqtransformer: DepthConfig,
    /// Width of the visual features, equal to `embed_dim`.
    pub hidden_size: usize,
}

impl VisionTowerConfig {
    /// A usage error that says why no tower can have this config with this encoder, if there is a reason.
    pub fn check(&self, siglip: &SiglipConfig) -> Result<()> {
        self.rqvaesiglip.check(siglip)?;
        self.rqtransformer.check()?;
        let (codes, depth) = (&self.rqvaesiglip, &self.rqtransformer);
        if depth.block_size != codes.code_shape || depth.vocab_size != codes.n_embed {
            return Err(Error::usage(format!(
                "rqtransformer predicts {:?} codes of {}, rqvaesiglip has {:?} of {}",
                depth.block_size, depth.vocab_size, codes.code_shape, codes.n_embed
            )));
        }
        if depth.input_embed_dim_1 != codes.code_channels() || self.hidden_size != codes.embed_dim {
            return Err(Error::usage(format!(
                "rqtransformer.input_embed_dim_1 {} and hidden_size {} are not the widths of codes, {}, and features, {}",
                depth.input_embed_dim_1,
                self.hidden_size,
                codes.code_channels(),
                codes.embed_dim
            )));
        }
        Ok(())
    }
}

/// `rqvaesiglip` of the tower's `config.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RqVaeSiglipConfig {
    /// Hub id or relative folder of the SigLIP model whose `config.json` gives the encoder's sizes.
    #[serde(default = "large")]
    pub pretrained_model: String,
    /// Channels of the latents, equal to the width of the vision encoder.
    pub embed_dim: usize,
    /// Rows of a codebook, K. A list of one number for each codebook is read too.
    #[serde(deserialize_with = "one_or_equal")]
    pub n_embed: usize,
    /// Height, width and channels of the latents.
    pub latent_shape: [usize; 3],
    /// Height and width of the code grid, and codes per position D.
    pub code_shape: [usize; 3],
    #[serde(default)]
    pub shared_codebook: bool,
    #[serde(default)]
    pub restart_unused_codes: bool,
    #[serde(default = "decay", deserialize_with = "one_or_equal")]
    pub decay: f64,
    /// Weight of the commitment loss in training.
    #[serde(default = "latent_loss_weight")]
    pub latent_loss_weight: f64,
    /// Height and width that latents are resized to before they are decoded.
    #[serde(default)]
    pub decoder_latent_shape: Option<[usize; 2]>,
    pub ddconfig: PixelDecoderConfig,
}

/// One number, or a list of equal numbers.
fn one_or_equal<'de, D, T>(input: D) -> std::result::Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + PartialEq,
{
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Numbers<T> {
        One(T),
        Many(Vec<T>),
    }
    let mut numbers = match Numbers::deserialize(input)? {
        Numbers::One(number) => return Ok(number),
        Numbers::Many(numbers) => numbers,
    };
    numbers.dedup();
    match (numbers.pop(), numbers.is_empty()) {
        (Some(number), true) => Ok(number),
        _ => Err(serde::de::Error::custom(
            "codebooks of different kinds are not supported",
        )),
    }
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
    /// Channels of a code vector: those of all latents under one code.
    pub fn code_channels(&self) -> usize {
        let [height, width, channels] = self.latent_shape;
        let [rows, columns, _] = self.code_shape;
        channels * (height / rows) * (width / columns)
    }

    /// A usage error that says why no tower can have this config with this encoder, if there is a reason.
    pub fn check(&self, siglip: &SiglipConfig) -> Result<()> {
        siglip.check()?;
        self.ddconfig.check()?;
        let vision = &siglip.vision_config;
        let grid = vision.grid();
        let [height, width, channels] = self.latent_shape;
        let [rows, columns, depth] = self.code_shape;
        if [height, width, channels] != [grid, grid, vision.hidden_size]
            || self.embed_dim != channels
        {
            return Err(Error::usage(format!(
                "latent_shape {:?} and embed_dim {} are not those of the encoder, {:?}",
                self.latent_shape,
                self.embed_dim,
                [grid, grid, vision.hidden_size]
            )));
        }
        if vision.num_channels != 3 || self.ddconfig.out_ch != 3 {
            return Err(Error::usage(
                "num_channels and out_ch must be 3 (red, green, blue)",
            ));
        }
        let divides = |whole: usize, part: usize| part > 0 && whole.is_multiple_of(part);
        if !divides(height, rows) || !divides(width, columns) {
            return Err(Error::usage(format!(
                "latents of {height}x{width} do not divide into {rows}x{columns} codes"
            )));
        }
        if !(1..=1000).contains(&depth) || !(1..=1 << 24).contains(&self.n_embed) {
            return Err(Error::usage(format!(
                "{depth} codes of {} are out of range",
                self.n_embed
            )));
        }
        if !(0.0..=1.0).contains(&self.decay) {
            return Err(Error::usage(format!(
                "decay {} is not between 0 and 1",
                self.decay
            )));
        }
        if let Some(size) = self.decoder_latent_shape
            && !size.iter().all(|side| (1..=4096).contains(side))
        {
            return Err(Error::usage(format!(
                "decoder_latent_shape {size:?} is out of range"
            )));
        }
        Ok(())
    }
}
