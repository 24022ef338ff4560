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
}

impl Mixture {
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
