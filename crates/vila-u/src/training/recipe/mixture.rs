//! What the language model's stages see.

use serde::{Deserialize, Serialize};

use super::{fraction, must};
use crate::Result;

/// How often each form of sample is drawn (relative; of the nano world only, files have theirs), and
/// the caption dropout that makes classifier-free guidance possible.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
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
    /// [caption, video], loss on the video.
    #[serde(default)]
    pub video: f64,
    /// [video, question, answer], loss on the answer; in fine-tuning only.
    #[serde(default)]
    pub video_question: f64,
    /// [image, caption, image, caption, ...], loss on the captions.
    #[serde(default)]
    pub page: f64,
    /// [two images, what differs], loss on the answer.
    #[serde(default)]
    pub comparison: f64,
    /// [request, words, image, words], loss on all that follows the request.
    #[serde(default)]
    pub reply: f64,
    /// [question, answer] without an image, loss on the answer.
    #[serde(default)]
    pub text: f64,
    /// Probability that a generation sample's caption is replaced by the empty prompt.
    pub drop_caption: f64,
    /// Probability that a random part of a generation sample's visual tokens is hidden from the
    /// model, which then has to draw the rest from the caption.
    #[serde(default)]
    pub hide_visual: f64,
}

impl Mixture {
    /// `nano`: the samples are of the nano world; `pretrains`: the stage is not fine-tuning.
    pub(super) fn check(&self, nano: bool, pretrains: bool) -> Result<()> {
        let weights = [
            ("caption", self.caption),
            ("generation", self.generation),
            ("question", self.question),
            ("video", self.video),
            ("video_question", self.video_question),
            ("page", self.page),
            ("comparison", self.comparison),
            ("reply", self.reply),
            ("text", self.text),
        ];
        for (name, weight) in weights {
            must(
                weight >= 0.0 && weight.is_finite(),
                &format!("{name} is a weight: 0 or above"),
            )?;
            must(
                nano || weight == 0.0,
                &format!(
                    "{name} weighs the nano world: [[data.sources]] have weights of their own"
                ),
            )?;
        }
        must(
            !nano || weights.iter().any(|(_, weight)| *weight > 0.0),
            "a form of sample needs a weight above 0, for example caption = 1.0",
        )?;
        must(
            !pretrains || self.video_question == 0.0,
            "video_question belongs in fine-tuning (kind = \"sft\")",
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
