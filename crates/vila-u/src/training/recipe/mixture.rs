//! What the language model's stages see.

use serde::{Deserialize, Serialize};

use super::{fraction, must};
use crate::Result;

/// How often each form of sample is drawn (relative; of the nano world only, files have theirs), and
/// the caption dropout that makes classifier-free guidance possible.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Mixture {
    /// [image, caption], loss on the caption.
    #[serde(default)]
    pub caption: f64,
    /// [caption, image], loss on the image.
    #[serde(default)]
    pub generation: f64,
    /// [image, question, answer], loss on the answer.
    #[serde(default)]
    pub question: f64,
    /// Probability that a generation sample's caption is replaced by the empty prompt.
    pub drop_caption: f64,
    /// Probability that a random part of a generation sample's visual tokens is hidden from the
    /// model, which then has to draw the rest from the caption.
    #[serde(default)]
    pub hide_visual: f64,
    /// The parts that are trained.
    #[serde(default = "released")]
    pub train: Vec<Part>,
}

/// A part of the whole model, as far as the language model's stages can train it.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Part {
    /// The vision encoder. Codes are chosen without gradients, which pass straight through them; the
    /// codebooks, the pixel decoder and the text encoder stay as they are.
    Tower,
    Projector,
    /// With LoRA its adapters only.
    Language,
    /// The depth transformer.
    Depth,
}

/// What the released models were trained in.
fn released() -> Vec<Part> {
    vec![Part::Projector, Part::Language, Part::Depth]
}

impl Part {
    /// What the paths of its parameters start with.
    fn prefix(self) -> &'static str {
        match self {
            Self::Tower => "vision_tower.rqvaesiglip.siglip_model.vision_model.",
            Self::Projector => "mm_projector.",
            Self::Language => "llm.",
            Self::Depth => "vision_tower.rqtransformer.",
        }
    }
}

impl Mixture {
    /// Whether the parameter at this path of the whole model is trained; `lora`: the language model has
    /// adapters.
    pub fn trains(&self, path: &str, lora: bool) -> bool {
        let mut parts = self.train.iter();
        let frozen = lora && path.starts_with(Part::Language.prefix()) && !path.contains(".lora.");
        parts.any(|part| path.starts_with(part.prefix())) && !frozen
    }

    pub(super) fn check(&self, nano: bool) -> Result<()> {
        let kinds = [self.caption, self.generation, self.question];
        let sum: f64 = kinds.iter().sum();
        must(
            !nano || kinds.iter().all(|weight| *weight >= 0.0) && sum > 0.0,
            "caption, generation and question are weights, and one must be above 0",
        )?;
        must(
            nano || sum == 0.0,
            "caption, generation and question weigh the nano world: [[data.sources]] have weights of their own",
        )?;
        must(
            !self.train.is_empty(),
            "train must name a part: \"tower\", \"projector\", \"language\" or \"depth\"",
        )?;
        must(
            fraction(self.drop_caption),
            "drop_caption must be between 0 and 1",
        )?;
        must(
            fraction(self.hide_visual),
            "hide_visual must be between 0 and 1",
        )?;
        Ok(())
    }
}
