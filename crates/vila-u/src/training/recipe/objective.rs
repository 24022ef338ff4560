//! What a stage trains, and on which losses.

use serde::{Deserialize, Serialize};

use super::{Contrastive, Multimodal, Tower};
use crate::Result;

/// What is trained, and on which losses.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Objective {
    /// Vision and text encoder against each other; stands for starting from aligned weights.
    Align(Align),
    /// Contrastive on quantized features + reconstruction; the text encoder is frozen, unless `from_scratch`.
    Tower(Tower),
    /// Next-token prediction on [image, text], [text, image], [text, video], pages and text.
    Pretrain(Multimodal),
    /// The same on questions and answers, about videos too, with generation kept in the mixture.
    Sft(Multimodal),
}

impl Objective {
    /// As recipes spell it.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Align(_) => "align",
            Self::Tower(_) => "tower",
            Self::Pretrain(_) => "pretrain",
            Self::Sft(_) => "sft",
        }
    }

    /// Whether it trains the tower alone, before there is a language model.
    pub fn is_tower(&self) -> bool {
        matches!(self, Self::Align(_) | Self::Tower(_))
    }

    pub(super) fn check(&self) -> Result<()> {
        match self {
            Self::Align(_) => Ok(()),
            Self::Tower(tower) => tower.check(),
            Self::Pretrain(mixture) => mixture.check(true),
            Self::Sft(mixture) => mixture.check(false),
        }
    }
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Align {
    #[serde(default)]
    pub contrastive_loss: Contrastive,
}
