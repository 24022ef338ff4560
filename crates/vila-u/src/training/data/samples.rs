//! Samples of the language model's stages, as the model sees them.
//!
//! Some captions are dropped before generation, for classifier-free guidance. Of some generated images the model
//! does not see a part of its own visual tokens: most of them follow from their neighbours, and it would learn
//! from the caption late.

use std::sync::Arc;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::dataloader::MakeSample;
use super::sample_kinds::SampleKind;
use crate::data::nano::Split;
use crate::data::seed::mix;
use crate::data::{Pictures, Prepared, Record, Text, prepare};
use crate::model::VilaUConfig;
use crate::sequence::{Sample, SequenceLayout, templates};
use crate::text::Tokenizer;
use crate::training::recipe::{self, Multimodal, Recipe};
use crate::{Error, Result};

/// One sample and its pictures.
pub(crate) struct Example {
    pub sample: Sample,
    /// `[images, 3, size, size]` in -1..1
    pub pixels: Vec<f32>,
    /// `[images, image_tokens]`, 0 for a visual token that is hidden from the model, otherwise 1
    pub visible: Vec<f32>,
}

/// What distinguishes training from evaluation, and pretraining from tuning.
#[derive(Clone)]
struct Training {
    objective: Multimodal,
    /// Videos are described in tuning only.
    describes_videos: bool,
}

/// Makes samples of scenes and records.
#[derive(Clone)]
pub(crate) struct SampleMaker {
    pub tokenizer: Arc<Tokenizer>,
    pub config: Arc<VilaUConfig>,
    seed: u64,
    training: Option<Training>,
}

impl SampleMaker {
    /// Of a stage, with its dropout of captions and visual tokens.
    pub(crate) fn of_stage(
        recipe: &Recipe,
        objective: &recipe::Objective,
        tokenizer: Arc<Tokenizer>,
        config: Arc<VilaUConfig>,
    ) -> Result<Self> {
        use recipe::Objective::{Pretrain, Sft};
        let (Pretrain(settings) | Sft(settings)) = objective else {
            return Err(Error::usage(
                "recipe: a stage of the tower in a language recipe",
            ));
        };
        let training = Training {
            objective: settings.clone(),
            describes_videos: matches!(objective, Sft(_)),
        };
        Ok(Self {
            tokenizer,
            config,
            seed: recipe.seed,
            training: Some(training),
        })
    }

    /// The same without what only training does to samples.
    pub(crate) fn evaluated(&self) -> Self {
        Self {
            training: None,
            ..self.clone()
        }
    }

    /// What the stage trains; none of samples that are evaluated.
    pub(crate) fn objective(&self) -> Option<&Multimodal> {
        Some(&self.training.as_ref()?.objective)
    }

    /// Width and height of a picture, in pixels.
    pub(crate) fn size(&self) -> usize {
        self.config.siglip.vision_config.image_size
    }

    /// Visual tokens of an image.
    pub(crate) fn image_tokens(&self) -> usize {
        self.config.vision_tower.rqtransformer.positions()
    }

    /// Samples as rows of the language model.
    pub(crate) fn layout(&self, samples: &[Sample]) -> SequenceLayout {
        let max_length = self.config.llm.max_length();
        SequenceLayout::packed(samples, self.image_tokens(), max_length, None)
    }

    /// The kind of sample `n` of the nano world.
    fn kind(&self, n: u64) -> SampleKind {
        let objective = self.objective();
        objective.map_or(SampleKind::Generation, |objective| objective.kind(n))
    }

    pub(super) fn drops_caption(&self, rng: &mut ChaCha8Rng) -> bool {
        let objective = self.objective();
        objective.is_some_and(|objective| rng.random_bool(objective.cfg_dropout))
    }

    /// Hides a random part of the visual tokens that the sample generates, if it is one of those.
    pub(super) fn drop_visual_tokens(
        &self,
        sample: Sample,
        pixels: Vec<f32>,
        rng: &mut ChaCha8Rng,
    ) -> Example {
        let roles = sample.images();
        let generates = roles.iter().any(|role| role.predicts_visual());
        let objective = self.objective().filter(|_| generates);
        let drops =
            objective.is_some_and(|objective| rng.random_bool(objective.visual_token_dropout));
        let share = if drops { rng.random() } else { 1.0 };
        let tokens = self.image_tokens();
        let mut visible = Vec::with_capacity(roles.len() * tokens);
        for role in roles {
            let share = if role.predicts_visual() { share } else { 1.0 };
            visible.extend((0..tokens).map(|_| f32::from(rng.random_bool(share))));
        }
        Example {
            sample,
            pixels,
            visible,
        }
    }
}

impl MakeSample for SampleMaker {
    type Sample = Example;

    fn scene(&self, n: u64) -> Result<Example> {
        self.make(Split::Train, self.seed, n, self.kind(n))
    }

    fn scene_key(&self, n: u64) -> String {
        format!("{:?} {n}", self.kind(n)).to_lowercase()
    }

    fn record(&self, n: u64, mut record: Record) -> Result<Example> {
        let mut rng = ChaCha8Rng::seed_from_u64(mix(self.seed, n));
        if let Text::Turns(turns) = &mut record.text {
            if let Pictures::Video(_) = record.pictures
                && !templates::makes_video(turns)
                && self
                    .training
                    .as_ref()
                    .is_some_and(|training| !training.describes_videos)
            {
                return Err(Error::usage(
                    "is about a video, which belongs in fine-tuning (kind = \"sft\")",
                ));
            }
            if self.drops_caption(&mut rng) {
                *turns = templates::without_caption(turns);
            }
        }
        let Prepared { sample, pixels } = prepare(&record, &self.tokenizer, &self.config)?;
        let layout = self.layout(std::slice::from_ref(&sample));
        if layout.text_targets.is_empty() && layout.visual_targets.is_empty() {
            return Err(Error::usage("nothing in it is to be predicted"));
        }
        Ok(self.drop_visual_tokens(sample, pixels, &mut rng))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::checkpoint::{Source, config};
    use crate::training::recipe::TrainablePart;

    #[test]
    fn only_generated_images_are_hidden_and_only_in_training() {
        let files = Source::parse("nano").unwrap().files(|_, _| ()).unwrap();
        let objective = Multimodal {
            caption: 1.0,
            generation: 1.0,
            question: 1.0,
            cfg_dropout: 0.1,
            visual_token_dropout: 0.5,
            train: vec![TrainablePart::Language],
            ..Multimodal::default()
        };
        let trained = SampleMaker {
            tokenizer: Arc::new(config::tokenizer(&files.join("llm")).unwrap()),
            config: Arc::new(config::read(&files).unwrap()),
            seed: 1,
            training: Some(Training {
                objective,
                describes_videos: false,
            }),
        };
        let hidden = |kind, samples: &SampleMaker| -> Vec<usize> {
            let make = |index| samples.make(Split::Train, 1, index, kind).unwrap();
            let hidden = |example: Example| {
                assert_eq!(example.visible.len(), 64);
                let visible = example.visible.iter();
                visible.filter(|visible| **visible == 0.0).count()
            };
            (0..100).map(make).map(hidden).collect()
        };
        let evaluated = trained.evaluated();
        let generated = hidden(SampleKind::Generation, &trained);
        let touched = generated.iter().filter(|hidden| **hidden > 0).count();
        assert!((30..70).contains(&touched), "{touched}");
        assert!(generated.iter().any(|hidden| *hidden > 48));
        assert!(generated.iter().any(|hidden| (1..16).contains(hidden)));
        for (kind, samples) in [
            (SampleKind::Generation, &evaluated),
            (SampleKind::Caption, &trained),
            (SampleKind::Question, &trained),
        ] {
            assert!(hidden(kind, samples).iter().all(|hidden| *hidden == 0));
        }
    }
}
