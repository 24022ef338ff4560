//! Pretraining and instruction tuning (paper section 3.2): one model reads and writes text and
//! pictures. The tower is frozen; language model, projector and depth transformer are trained.
//!
//! Each sample is [image, text] (captions, questions) or [text, image] (drawing), with loss on the
//! second part only. Some captions are dropped before drawing, so that guidance has something to
//! steer away from. Of some drawings the model does not see a part of its own visual tokens: most of
//! them follow from their neighbours, and it would learn from the caption late.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use burn::module::Module;
use burn::tensor::{Device, Tensor, TensorData};
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::multimodal::{self, Visual};
use super::prefetch::Reader;
use super::recipe::{Mixture, Recipe};
use super::run::{Losses, Objective, mix};
use super::seen::Seen;
use super::sheet::save_sheet;
use crate::assistant::{draw_prompts, drawing_prompt};
use crate::data::nano::{Question, Scene, Split};
use crate::generation::sampling::Sampling;
use crate::generation::visual::VisualOptions;
use crate::media::preprocess::normalize;
use crate::model::{VilaU, VilaUConfig};
use crate::sequence::{Layout, Sample, form};
use crate::text::Tokenizer;
use crate::text::conversation::Turn;
use crate::{Error, Result};

/// What a caption answers.
const DESCRIBE: &str = "Describe this picture.";
/// Turns of one conversation about a picture.
const MOST_QUESTIONS: usize = 3;
/// Held-out samples of each form that an evaluation looks at.
const EVALUATED: usize = 64;
/// Pictures drawn for a sample sheet, and the guidance they are drawn with.
const SHOWN: usize = 8;
const GUIDANCE: f64 = 3.0;

/// The three forms of sample.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Caption,
    Generation,
    Question,
}

/// Samples, each about one picture.
#[derive(Default)]
pub struct Prepared {
    samples: Vec<Sample>,
    /// `[samples, 3, size, size]` in -1..1
    pixels: Vec<f32>,
    /// `[samples, image_tokens]`, 0 for a visual token that is hidden from the model, otherwise 1
    shown: Vec<f32>,
}

/// Makes samples of the nano world.
#[derive(Clone)]
struct Samples {
    tokenizer: Arc<Tokenizer>,
    size: usize,
    image_tokens: usize,
}

impl Samples {
    /// Sample `index` of a split in the given form; for training, with what that hides of a drawing.
    fn make(
        &self,
        split: Split,
        seed: u64,
        index: u64,
        form: Form,
        training: Option<&Mixture>,
        into: &mut Prepared,
    ) -> Result<()> {
        let mut rng = ChaCha8Rng::seed_from_u64(mix(seed, index));
        let scene = Scene::sample(split, seed, index);
        let turns = match form {
            Form::Generation => {
                let turns = [Turn::human(scene.caption()), Turn::assistant("<image>")];
                match training.is_some_and(|mixture| rng.random_bool(mixture.drop_caption)) {
                    true => form::without_caption(&turns),
                    false => turns.to_vec(),
                }
            }
            Form::Caption => vec![Turn::human(DESCRIBE), Turn::assistant(scene.caption())],
            Form::Question => {
                let mut questions = scene.questions();
                questions.shuffle(&mut rng);
                questions.truncate(MOST_QUESTIONS);
                let turn = |asked| {
                    let Question {
                        question, answer, ..
                    } = asked;
                    [Turn::human(question), Turn::assistant(answer)]
                };
                questions.into_iter().flat_map(turn).collect()
            }
        };
        // A picture to look at stands alone in half of the samples, as people ask, and between its
        // start and end tokens in the others. One frame of a video stands alone.
        let sample = if form == Form::Generation || rng.random() {
            form::chat(&self.tokenizer, &turns, 1, true)?
        } else {
            form::video_chat(&self.tokenizer, &turns, 1, true)?
        };
        let hide = training.filter(|_| form == Form::Generation);
        let part = match hide.is_some_and(|mixture| rng.random_bool(mixture.hide_visual)) {
            true => rng.random(),
            false => 1.0,
        };
        let shown = (0..self.image_tokens).map(|_| f32::from(rng.random_bool(part)));
        into.shown.extend(shown);
        into.samples.push(sample);
        into.pixels
            .extend(normalize(&scene.render(self.size as u32)));
        Ok(())
    }
}

/// The objective of both stages; they differ in their mixtures.
pub struct MixtureObjective {
    mixture: Mixture,
    samples: Samples,
    seed: u64,
    batch_size: usize,
    dropout: f64,
    /// Positions of the longest sample.
    max_length: usize,
    seen: Seen,
    device: Device,
}

impl MixtureObjective {
    pub fn new(
        recipe: &Recipe,
        mixture: &Mixture,
        tokenizer: Arc<Tokenizer>,
        config: &VilaUConfig,
        device: &Device,
    ) -> Self {
        Self {
            mixture: mixture.clone(),
            samples: Samples {
                tokenizer,
                size: config.siglip.vision_config.image_size,
                image_tokens: config.vision_tower.rqtransformer.positions(),
            },
            seed: recipe.seed,
            batch_size: recipe.batch_size,
            dropout: recipe.dropout,
            max_length: config.llm.max_length(),
            seen: Seen::default(),
            device: device.clone(),
        }
    }

    fn losses_of(
        &self,
        model: &VilaU,
        batch: Prepared,
        device: &Device,
    ) -> Result<multimodal::Losses> {
        let tower = &model.vision_tower.rqvaesiglip;
        let size = self.samples.size;
        let codes = self.seen.codes(tower, &batch.pixels, size, device);
        let mut visual = Visual::of(tower, codes);
        let tokens = batch.shown.len();
        let shown = TensorData::new(batch.shown, [tokens, 1]);
        let shown = Tensor::from_data(shown, &visual.features.device());
        visual.features = visual.features * shown;
        let image_tokens = self.samples.image_tokens;
        let layout = Layout::packed(&batch.samples, image_tokens, self.max_length, None);
        multimodal::losses(model, &layout, Some(&visual))
    }
}

impl Objective<VilaU> for MixtureObjective {
    type Batch = Prepared;

    fn reader(&self) -> Reader<Prepared> {
        let (mixture, samples) = (self.mixture.clone(), self.samples.clone());
        let (seed, count) = (self.seed, self.batch_size);
        Box::new(move |batch| {
            let mut prepared = Prepared::default();
            for index in batch * count as u64..(batch + 1) * count as u64 {
                let form = mixture.form(index);
                samples.make(
                    Split::Train,
                    seed,
                    index,
                    form,
                    Some(&mixture),
                    &mut prepared,
                )?;
            }
            Ok(prepared)
        })
    }

    fn independent(&self) -> bool {
        self.dropout == 0.0
    }

    fn trains(&self, path: &str) -> bool {
        !path.starts_with("vision_tower.rqvaesiglip.")
    }

    fn losses(&self, model: &mut VilaU, batch: Prepared, _step: u64) -> Result<Losses> {
        let losses = self.losses_of(model, batch, &self.device)?;
        let total = losses
            .total()
            .ok_or_else(|| Error::failed("a batch predicts nothing"))?;
        let text = losses.text_loss().map(|loss| ("text_loss", loss));
        let visual = losses.visual_loss().map(|loss| ("visual_loss", loss));
        Ok(Losses {
            total,
            parts: text.into_iter().chain(visual).collect(),
        })
    }

    /// The losses of each form on held-out scenes: of captions and answers those of their words, of
    /// drawings those of their codes.
    fn evaluate(&self, model: &VilaU) -> Result<Vec<(&'static str, f64)>> {
        let model = model.clone().valid();
        let device = self.device.clone().inner();
        let mut metrics = Vec::new();
        for (name, form) in [
            ("caption_loss", Form::Caption),
            ("generation_loss", Form::Generation),
            ("answer_loss", Form::Question),
        ] {
            let mut prepared = Prepared::default();
            for index in 0..EVALUATED as u64 {
                self.samples
                    .make(Split::HeldOut, 0, index, form, None, &mut prepared)?;
            }
            let losses = self.losses_of(&model, prepared, &device)?;
            let loss = match form {
                Form::Generation => losses.visual_loss(),
                _ => losses.text_loss(),
            };
            if let Some(loss) = loss {
                metrics.push((name, f64::from(loss.into_scalar::<f32>())));
            }
        }
        Ok(metrics)
    }

    /// Held-out pictures, and below each what the model draws from its caption.
    fn sample(&self, model: &VilaU, path: &Path) -> Result<()> {
        let model = model.clone().valid();
        let mut meant = Vec::new();
        let mut prompts = Vec::new();
        for index in 0..SHOWN as u64 {
            let scene = Scene::sample(Split::HeldOut, 0, index);
            meant.extend(normalize(&scene.render(self.samples.size as u32)));
            prompts.push(drawing_prompt(&self.samples.tokenizer, &scene.caption())?);
        }
        let options = VisualOptions {
            guidance: GUIDANCE,
            sampling: Sampling::VISUAL,
            seed: 0,
            first: 0,
        };
        let tokenizer = &self.samples.tokenizer;
        let drawing = draw_prompts(&model, tokenizer, &prompts, &options, &mut |_| {
            ControlFlow::Continue(())
        })?;
        let size = self.samples.size;
        let meant = TensorData::new(meant, [SHOWN, 3, size, size]);
        let meant = Tensor::from_data(meant, &drawing.pixels.device());
        save_sheet(path, meant, drawing.pixels.squeeze_dim(1))
    }
}

impl Mixture {
    /// The form of sample `index`: in the given proportions over any stretch, mixed well.
    fn form(&self, index: u64) -> Form {
        let mut rng = ChaCha8Rng::seed_from_u64(mix(u64::MAX, index));
        let forms = [
            (Form::Caption, self.caption),
            (Form::Generation, self.generation),
            (Form::Question, self.question),
        ];
        let total: f64 = forms.iter().map(|(_, weight)| weight).sum();
        let mut left = rng.random::<f64>() * total;
        for (form, weight) in forms {
            if left < weight {
                return form;
            }
            left -= weight;
        }
        Form::Generation
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::checkpoint::{Source, config};

    #[test]
    fn only_drawings_hide_and_only_in_training() {
        let files = Source::parse("nano").unwrap().files(|_, _| ()).unwrap();
        let samples = Samples {
            tokenizer: Arc::new(config::tokenizer(&files.join("llm")).unwrap()),
            size: 8,
            image_tokens: 64,
        };
        let mixture = Mixture {
            caption: 1.0,
            generation: 1.0,
            question: 1.0,
            drop_caption: 0.1,
            hide_visual: 0.5,
        };
        let hidden = |form, training| -> Vec<usize> {
            let mut prepared = Prepared::default();
            for index in 0..100 {
                samples
                    .make(Split::Train, 1, index, form, training, &mut prepared)
                    .unwrap();
            }
            let pictures = prepared.shown.chunks_exact(64);
            pictures
                .map(|shown| shown.iter().filter(|shown| **shown == 0.0).count())
                .collect()
        };
        let drawings = hidden(Form::Generation, Some(&mixture));
        let touched = drawings.iter().filter(|hidden| **hidden > 0).count();
        assert!((30..70).contains(&touched), "{touched}");
        assert!(drawings.iter().any(|hidden| *hidden > 48));
        assert!(drawings.iter().any(|hidden| (1..16).contains(hidden)));
        for (form, training) in [
            (Form::Generation, None),
            (Form::Caption, Some(&mixture)),
            (Form::Question, Some(&mixture)),
        ] {
            assert!(hidden(form, training).iter().all(|hidden| *hidden == 0));
        }
    }
}
