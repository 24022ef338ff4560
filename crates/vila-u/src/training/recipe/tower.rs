//! What the tower's stage minimises.

use std::path::PathBuf;

use burn::tensor::Device;
use serde::{Deserialize, Serialize};

use super::{must, whole};
use crate::Result;
use crate::training::losses::{DiscriminatorConfig, Lpips, lpips};

/// Weights of the tower's losses (paper section 3.1):
///
/// ```text
/// L       = contrastive_weight * L_contra + reconstruction_weight * L_recon
/// L_recon = pixel_weight * L_pixel + perceptual.weight * L_lpips + adversarial.weight * L_decoder
///           + commitment_weight * L_commit
/// ```
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

    pub(super) fn check(&self) -> Result<()> {
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
