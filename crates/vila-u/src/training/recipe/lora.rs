//! Adapters of the language model.

use serde::{Deserialize, Serialize};

use super::must;
use crate::Result;
use crate::language::lora::{LoraConfig, TARGETS};

/// LoRA (Hu et al. 2021): the language model stays as it is, and small matrices beside its linear
/// layers are trained. The finished model has them merged, and they lie beside it in `adapter/`.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Lora {
    /// Inner size of the small matrices.
    pub rank: usize,
    /// What they add is scaled by alpha / rank.
    pub alpha: f64,
    /// Share of their inputs that is dropped.
    #[serde(default)]
    pub dropout: f64,
    /// The linear layers that get them; all seven of a layer if left out.
    #[serde(default = "all")]
    pub target_modules: Vec<String>,
}

fn all() -> Vec<String> {
    TARGETS.map(String::from).to_vec()
}

impl Lora {
    /// For all linear layers, without dropout.
    pub fn all_layers(rank: usize, alpha: f64) -> Self {
        Self {
            rank,
            alpha,
            dropout: 0.0,
            target_modules: all(),
        }
    }

    pub(super) fn check(&self) -> Result<()> {
        let must = |holds: bool, what: &str| must(holds, &format!("lora.{what}"));
        must(
            (1..=65_536).contains(&self.rank),
            "rank must be between 1 and 65536",
        )?;
        must(
            self.alpha > 0.0 && self.alpha.is_finite(),
            "alpha must be above 0",
        )?;
        must(
            (0.0..1.0).contains(&self.dropout),
            "dropout must be at least 0 and below 1",
        )?;
        must(
            !self.target_modules.is_empty(),
            "target_modules must name a layer",
        )?;
        for target in &self.target_modules {
            must(
                TARGETS.contains(&target.as_str()),
                &format!("target_modules: {target} is none of {}", TARGETS.join(", ")),
            )?;
        }
        Ok(())
    }

    /// As the language model takes it.
    pub fn config(&self) -> LoraConfig {
        LoraConfig {
            rank: self.rank,
            alpha: self.alpha,
            dropout: self.dropout,
            targets: self.target_modules.clone(),
        }
    }
}
