//! Samples of the language model's stages, as the model sees them.
//!
//! Some captions are dropped before generation, for classifier-free guidance. Of some generated images the model
//! does not see a part of its own visual tokens: most of them follow from their neighbours, and it would learn
//! from the caption late.

use std::sync::Arc;

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::dataloader::MakeSample;
use crate::data::seed::mix;
use crate::data::{KindWeights, Pictures, Prepared, Record, Text, prepare};
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
    /// Why pictures of the record are not in it.
    pub left_out: Vec<String>,
}

/// What distinguishes training from evaluation, and pretraining from tuning.
#[derive(Clone)]
struct Training {
    objective: Multimodal,
    /// Videos are described in tuning only.
    describes_videos: bool,
}

/// Makes samples of records.
#[derive(Clone)]
pub(crate) struct SampleMaker {
    pub tokenizer: Arc<Tokenizer>,
    pub config: Arc<VilaUConfig>,
    seed: u64,
    kinds: KindWeights,
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
            kinds: settings.kinds(),
            training: Some(training),
        })
    }

    /// The same of other kinds, without what only training does to samples.
    pub(crate) fn evaluated(&self, kinds: KindWeights) -> Self {
        Self {
            kinds,
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

    fn drops_caption(&self, rng: &mut ChaCha8Rng) -> bool {
        let objective = self.objective();
        objective.is_some_and(|objective| rng.random_bool(objective.cfg_dropout))
    }

    /// Hides a random part of the visual tokens that the sample generates, if it is one of those.
    fn drop_visual_tokens(&self, prepared: Prepared, rng: &mut ChaCha8Rng) -> Example {
        let Prepared {
            sample,
            pixels,
            left_out,
        } = prepared;
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
            left_out,
        }
    }
}

impl MakeSample for SampleMaker {
    type Sample = Example;

    fn kinds(&self) -> KindWeights {
        self.kinds.clone()
    }

    fn make(&self, n: u64, mut record: Record) -> Result<Example> {
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
        let prepared = prepare(&record, &self.tokenizer, &self.config)?;
        let layout = self.layout(std::slice::from_ref(&prepared.sample));
        if layout.text_targets.is_empty() && layout.visual_targets.is_empty() {
            return Err(Error::usage("nothing in it is to be predicted"));
        }
        Ok(self.drop_visual_tokens(prepared, &mut rng))
    }

    fn left_out(sample: &Example) -> &[String] {
        &sample.left_out
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::checkpoint::{Source as Checkpoint, config};
    use crate::data::{SampleKind, Source};
    use crate::training::data::dataloader::first_samples;

    #[test]
    fn only_generated_images_are_hidden_and_only_in_training() {
        let files = Checkpoint::parse("nano").unwrap();
        let files = files.files(|_, _| ()).unwrap();
        let trained = SampleMaker {
            tokenizer: Arc::new(config::tokenizer(&files.join("llm")).unwrap()),
            config: Arc::new(config::read(&files).unwrap()),
            seed: 1,
            kinds: KindWeights::default(),
            training: Some(Training {
                objective: Multimodal {
                    cfg_dropout: 0.1,
                    visual_token_dropout: 0.5,
                    ..Multimodal::default()
                },
                describes_videos: false,
            }),
        };
        let nano: Source = toml::from_str("format = \"nano\"").unwrap();
        let hidden = |kind, samples: &SampleMaker| -> Vec<usize> {
            let maker = SampleMaker {
                kinds: KindWeights::only(kind),
                ..samples.clone()
            };
            let first = first_samples(&maker, std::slice::from_ref(&nano), 1, 0, 100).unwrap();
            let hidden = first.samples.into_iter().map(|loaded| {
                assert_eq!(loaded.sample.visible.len(), 64);
                let visible = loaded.sample.visible.iter();
                visible.filter(|visible| **visible == 0.0).count()
            });
            hidden.collect()
        };
        let evaluated = trained.evaluated(KindWeights::default());
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
