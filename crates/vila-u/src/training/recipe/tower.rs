//! What the tower's stage minimises.

use std::path::PathBuf;

use burn::tensor::Device;
use serde::{Deserialize, Serialize};

use super::{must, whole};
use crate::Result;
use crate::tower::RqVaeSiglipConfig;
use crate::training::losses::{DiscriminatorConfig, Lpips, lpips};

/// Weights of the tower's losses (paper section 3.1):
///
/// ```text
/// L       = contrastive_weight * L_contra + reconstruction_weight * L_recon
/// L_recon = pixel_weight * L_pixel + perceptual.weight * L_lpips + adversarial.weight * L_decoder
///           + commitment_weight * L_commit
/// ```
///
/// With `layer_codes`, an objective of our own, `layer_codes.weight` times its cross-entropy is added to `L`.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Tower {
    pub contrastive_weight: f64,
    #[serde(default)]
    pub contrastive_loss: Contrastive,
    pub reconstruction_weight: f64,
    #[serde(default = "whole")]
    pub pixel_weight: f64,
    pub commitment_weight: f64,
    pub pixel_loss: PixelLoss,
    /// How different a reconstruction looks; without it pixels alone are compared.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub perceptual: Option<Perceptual>,
    /// A discriminator that learns to tell reconstructions from pictures.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub adversarial: Option<Adversarial>,
    /// Teaches codes that tell what is cut out from what is behind it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layer_codes: Option<LayerCodes>,
    /// All of the tower, the text encoder too, begins with random weights and learns both losses at once: what
    /// the paper found to fail.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub from_scratch: bool,
}

/// How pictures and texts are matched.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Contrastive {
    /// Each pair by itself belongs together or not, as in SigLIP.
    #[default]
    Sigmoid,
    /// Each picture chooses among the texts of the batch and each text among the pictures, as in CLIP.
    Softmax,
}

#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum PixelLoss {
    /// Mean absolute difference.
    L1,
    /// Mean squared difference.
    L2,
}

/// The first D - 1 codes say what is cut out of a patch, the last one which colour is behind it, as pictures show that
/// are at hand in layers (format `nano`). The codebooks, one a depth, learn by gradients.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct LayerCodes {
    /// Of the codes' cross-entropy.
    #[serde(default = "whole")]
    pub weight: f64,
    /// Share of a batch's pictures that get a random other background; they take no part in the contrastive loss, as
    /// their captions would be wrong. At least 0 and below 1.
    #[serde(default)]
    pub other_backgrounds: f64,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Perceptual {
    #[serde(default = "whole")]
    pub weight: f64,
    /// What `vila-u convert` makes of VGG16 and LPIPS' linear heads.
    pub weights: PathBuf,
}

#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Adversarial {
    /// Times the adaptive weight, which makes this loss pull as hard as pixels and LPIPS together.
    #[serde(default = "three_quarters")]
    pub weight: f64,
    /// Steps of the stage before both players begin.
    pub start_step: u64,
    /// Of the discriminator: convolutions that halve the picture, and channels of the first.
    #[serde(default = "three")]
    pub layers: usize,
    #[serde(default = "sixty_four")]
    pub width: usize,
}

fn three_quarters() -> f64 {
    0.75
}

fn three() -> usize {
    3
}

fn sixty_four() -> usize {
    64
}

impl Adversarial {
    pub fn discriminator(&self) -> DiscriminatorConfig {
        DiscriminatorConfig {
            layers: self.layers,
            width: self.width,
        }
    }
}

impl Tower {
    /// The network that says how different pictures look, if the recipe names one.
    ///
    /// # Errors
    /// As [`Lpips::load`].
    pub fn lpips(&self, device: &Device) -> Result<Option<Lpips>> {
        let load = |perceptual: &Perceptual| Lpips::load(&perceptual.weights, device);
        self.perceptual.as_ref().map(load).transpose()
    }

    /// Errors when pictures of `size` pixels a side are too small for a loss.
    pub(super) fn check_picture(&self, size: usize) -> Result<()> {
        let least = |name: &str, least: usize| {
            let what =
                format!("objective.{name} needs pictures of at least {least} pixels, not {size}");
            must(size >= least, &what)
        };
        if self.perceptual.is_some() {
            least("perceptual", lpips::SMALLEST)?;
        }
        match &self.adversarial {
            Some(game) => least(
                &format!("adversarial with layers = {}", game.layers),
                game.discriminator().smallest(),
            ),
            None => Ok(()),
        }
    }

    /// Errors when a quantizer of these sizes cannot have the codes that are asked for.
    pub(super) fn check_quantizer(&self, sizes: &RqVaeSiglipConfig) -> Result<()> {
        if self.layer_codes.is_none() {
            return Ok(());
        }
        must(
            !sizes.shared_codebook && sizes.code_shape[2] > 1,
            "objective.layer_codes needs at least two codes per position, and a codebook for each: \
             rqvaesiglip.shared_codebook = false",
        )?;
        must(
            sizes.n_embed > 1 && sizes.code_channels() >= 9,
            "objective.layer_codes needs codebooks of at least 2 rows and 9 channels",
        )
    }

    pub(super) fn check(&self) -> Result<()> {
        if let Some(codes) = &self.layer_codes {
            must(
                (0.0..1.0).contains(&codes.other_backgrounds),
                "objective.layer_codes.other_backgrounds must be at least 0 and below 1",
            )?;
            must(
                self.commitment_weight == 0.0,
                "objective.commitment_weight must be 0 with layer_codes, whose cross-entropy draws features to codes",
            )?;
        }
        let weight = |value: f64| value >= 0.0 && value.is_finite();
        for (name, value) in [
            ("contrastive_weight", self.contrastive_weight),
            ("reconstruction_weight", self.reconstruction_weight),
            ("pixel_weight", self.pixel_weight),
            ("commitment_weight", self.commitment_weight),
            (
                "perceptual.weight",
                self.perceptual.as_ref().map_or(0.0, |p| p.weight),
            ),
            (
                "layer_codes.weight",
                self.layer_codes.map_or(0.0, |codes| codes.weight),
            ),
            (
                "adversarial.weight",
                self.adversarial.map_or(0.0, |a| a.weight),
            ),
        ] {
            must(
                weight(value),
                &format!("objective.{name} must not be negative"),
            )?;
        }
        match &self.adversarial {
            Some(adversarial) => adversarial.discriminator().check(),
            None => Ok(()),
        }
    }
}
