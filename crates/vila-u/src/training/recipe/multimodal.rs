//! What the language model's stages see.

use serde::{Deserialize, Serialize};

use super::{fraction, must};
use crate::data::KindWeights;
use crate::{Result, parts::ModelPart};

/// How often each kind of sample comes, relative to the others, of sources that have the choice; what is dropped
/// from samples; and what is trained.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Multimodal {
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
    pub video_generation: f64,
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
    /// Probability that the caption of a generated picture or video is replaced by the empty prompt, which makes
    /// classifier-free guidance possible.
    pub cfg_dropout: f64,
    /// Probability that a random part of a generation sample's visual tokens is hidden from the
    /// model, which then has to predict the rest from the caption.
    #[serde(default)]
    pub visual_token_dropout: f64,
    /// The parts that are trained.
    #[serde(default = "released")]
    pub train: Vec<TrainablePart>,
}

/// A part of the whole model, as far as the language model's stages can train it.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum TrainablePart {
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
fn released() -> Vec<TrainablePart> {
    vec![
        TrainablePart::Projector,
        TrainablePart::Language,
        TrainablePart::Depth,
    ]
}

impl TrainablePart {
    fn part(self) -> ModelPart {
        match self {
            Self::Tower => ModelPart::VisionEncoder,
            Self::Projector => ModelPart::Projector,
            Self::Language => ModelPart::LanguageModel,
            Self::Depth => ModelPart::DepthTransformer,
        }
    }
}

impl Multimodal {
    /// Whether the parameter at this path of the whole model is trained; `lora`: the language model has
    /// adapters.
    pub fn is_trained(&self, path: &str, lora: bool) -> bool {
        let part = ModelPart::of(path);
        let frozen = lora && part == Some(ModelPart::LanguageModel) && !path.contains(".lora.");
        !frozen && self.train.iter().any(|one| part == Some(one.part()))
    }

    /// How often each kind of sample comes.
    pub fn kinds(&self) -> KindWeights {
        KindWeights::new([
            self.caption,
            self.generation,
            self.question,
            self.video_generation,
            self.video_question,
            self.page,
            self.comparison,
            self.reply,
            self.text,
        ])
    }

    /// `pretrains`: the stage is not fine-tuning.
    pub(super) fn check(&self, pretrains: bool) -> Result<()> {
        for (kind, weight) in self.kinds().iter() {
            must(
                weight >= 0.0 && weight.is_finite(),
                &format!("{} is a weight: 0 or above", kind.name()),
            )?;
        }
        must(
            !pretrains || self.video_question == 0.0,
            "video_question belongs in fine-tuning (kind = \"sft\")",
        )?;
        must(
            !self.train.is_empty(),
            "train must name a part: \"tower\", \"projector\", \"language\" or \"depth\"",
        )?;
        must(
            fraction(self.cfg_dropout),
            "cfg_dropout must be between 0 and 1",
        )?;
        must(
            fraction(self.visual_token_dropout),
            "visual_token_dropout must be between 0 and 1",
        )?;
        Ok(())
    }
}
