//! How a stage's parameters move.

use serde::{Deserialize, Serialize};

use super::{fraction, must};
use crate::Result;

/// AdamW with warm-up, cosine decay and clipping by the global norm.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Optimizer {
    /// The highest learning rate, reached at the end of the warm-up.
    pub learning_rate: f64,
    /// What is left of it at the end of the stage, as a fraction.
    #[serde(default)]
    pub floor: f64,
    /// Fraction of the stage's steps over which the learning rate rises from zero.
    pub warm_up: f64,
    /// Applied to matrices, convolutions and embeddings; never to biases and norms.
    pub weight_decay: f64,
    pub betas: [f64; 2],
    /// Gradients whose global norm is larger are scaled down to it.
    pub clip: f64,
}

impl Optimizer {
    pub(super) fn check(&self) -> Result<()> {
        must(
            self.learning_rate > 0.0 && self.learning_rate.is_finite(),
            "optimizer.learning_rate must be above 0",
        )?;
        must(
            fraction(self.floor),
            "optimizer.floor must be between 0 and 1",
        )?;
        must(
            fraction(self.warm_up),
            "optimizer.warm_up must be between 0 and 1",
        )?;
        must(
            self.weight_decay >= 0.0 && self.weight_decay.is_finite(),
            "optimizer.weight_decay must not be negative",
        )?;
        must(self.clip > 0.0, "optimizer.clip must be above 0")?;
        must(
            self.betas.iter().all(|beta| (0.0..1.0).contains(beta)),
            "optimizer.betas must be at least 0 and below 1",
        )?;
        Ok(())
    }
}
