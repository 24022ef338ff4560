//! How a stage's parameters move.

use serde::{Deserialize, Serialize};

use super::{fraction, must};
use crate::Result;

/// AdamW with linear warm-up, cosine decay and clipping by the global norm.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Optimizer {
    /// The highest learning rate, reached at the end of the warm-up.
    pub learning_rate: f64,
    /// The lowest, reached at the end of the stage, as a fraction of it.
    #[serde(default)]
    pub min_lr_ratio: f64,
    /// Fraction of the stage's steps over which the learning rate rises from zero.
    pub warmup_ratio: f64,
    /// Applied to matrices, convolutions and embeddings; never to biases and norms.
    pub weight_decay: f64,
    pub betas: [f64; 2],
    /// Gradients whose global norm is larger are scaled down to it.
    pub max_grad_norm: f64,
}

impl Optimizer {
    pub(super) fn check(&self) -> Result<()> {
        must(
            self.learning_rate > 0.0 && self.learning_rate.is_finite(),
            "optimizer.learning_rate must be above 0",
        )?;
        must(
            fraction(self.min_lr_ratio),
            "optimizer.min_lr_ratio must be between 0 and 1",
        )?;
        must(
            fraction(self.warmup_ratio),
            "optimizer.warmup_ratio must be between 0 and 1",
        )?;
        must(
            self.weight_decay >= 0.0 && self.weight_decay.is_finite(),
            "optimizer.weight_decay must not be negative",
        )?;
        must(
            self.max_grad_norm > 0.0,
            "optimizer.max_grad_norm must be above 0",
        )?;
        must(
            self.betas.iter().all(|beta| (0.0..1.0).contains(beta)),
            "optimizer.betas must be at least 0 and below 1",
        )?;
        Ok(())
    }
}
