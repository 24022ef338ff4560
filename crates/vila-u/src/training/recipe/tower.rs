//! What the tower's stage minimises.

use serde::{Deserialize, Serialize};

use super::whole;

/// Weights of the tower's losses (paper section 3.1): the total is
/// `contrastive * L_contra + reconstruction * (pixel_weight * L_pixel + commitment * L_commit)`.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Tower {
    pub contrastive: f64,
    pub reconstruction: f64,
    #[serde(default = "whole")]
    pub pixel_weight: f64,
    pub commitment: f64,
    pub pixel: PixelLoss,
}

#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum PixelLoss {
    /// Mean absolute difference.
    L1,
    /// Mean squared difference.
    L2,
}
