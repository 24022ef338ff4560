//! Pretraining and instruction tuning (paper section 3.2): one model reads and writes text and
//! pictures. The tower is frozen; language model, projector and depth transformer are trained.
//!
//! Each sample is [image, text] (captions, questions), [text, image] or [text, video] (drawing), with
//! loss on the second part only, a page of both, or text alone. Some captions are dropped before
//! drawing, so that guidance has something to steer away from. Of some drawings the model does not see
//! a part of its own visual tokens: most of them follow from their neighbours, and it would learn from
//! the caption late.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use burn::module::Module;
use burn::tensor::{Device, Tensor, TensorData};
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::multimodal::{self, Visual};
use super::prefetch::{Make, samples};
use super::recipe::{self, Data, Mixture, Recipe};
use super::run::{Losses, Objective};
use super::seen::Seen;
use super::sheet::save_sheet;
use crate::assistant::{draw_prompts, drawing_prompt};
use crate::data::nano::{Question, Scene, Split};
use crate::data::seed::mix;
use crate::data::{self, Pictures, Record, Text, formats::DESCRIBE, prepare};
use crate::generation::sampling::Sampling;
use crate::generation::visual::VisualOptions;
use crate::media::preprocess::normalize;
use crate::model::{VilaU, VilaUConfig};
use crate::sequence::{Layout, Role, Sample, form};
use crate::text::conversation::Turn;
use crate::text::{IMAGE_ID, Tokenizer};
use crate::{Error, Result};

/// Turns of one conversation about a picture.
const MOST_QUESTIONS: usize = 3;
/// Held-out samples that an evaluation looks at; of the nano world, of each form.
const EVALUATED: usize = 64;
/// Pictures drawn for a sample sheet, and the guidance they are drawn with.
const SHOWN: usize = 8;
const GUIDANCE: f64 = 3.0;

/// The three forms of sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Caption,
    Generation,
    Question,
}

/// One sample and its pictures, as the model sees them.
pub struct Example {
    pub sample: Sample,
    /// `[images, 3, size, size]` in -1..1
    pub pixels: Vec<f32>,
    /// `[images, image_tokens]`, 0 for a visual token that is hidden from the model, otherwise 1
    pub shown: Vec<f32>,
}

/// What distinguishes training from evaluation, and pretraining from tuning.
#[derive(Clone)]
struct Training {
    mixture: Mixture,
    /// Videos are described in tuning only.
    describes_videos: bool,
}

/// Makes samples of scenes and records.
#[derive(Clone)]
pub struct Samples {
    pub tokenizer: Arc<Tokenizer>,
    pub config: Arc<VilaUConfig>,
    seed: u64,
    training: Option<Training>,
}

impl Samples {
    /// Of a stage, which draws its captions' dropout and what it hides.
    pub fn of_stage(
        recipe: &Recipe,
        objective: &recipe::Objective,
        tokenizer: Arc<Tokenizer>,
        config: Arc<VilaUConfig>,
    ) -> Result<Self> {
        use recipe::Objective::{Pretrain, Sft};
        let (Pretrain(mixture) | Sft(mixture)) = objective else {
            return Err(Error::usage(
                "recipe: a stage of the tower in a language recipe",
            ));
        };
        let training = Training {
            mixture: mixture.clone(),
            describes_videos: matches!(objective, Sft(_)),
        };
        Ok(Self {
            tokenizer,
            config,
            seed: recipe.seed,
            training: Some(training),
        })
    }

    fn size(&self) -> usize {
        self.config.siglip.vision_config.image_size
    }

    /// Visual tokens of an image.
    pub fn image_tokens(&self) -> usize {
        self.config.vision_tower.rqtransformer.positions()
    }

    /// Sample `index` of a split of the nano world in the given form.
    fn make(&self, split: Split, seed: u64, index: u64, form: Form) -> Result<Example> {
        let mut rng = ChaCha8Rng::seed_from_u64(mix(seed, index));
        let scene = Scene::sample(split, seed, index);
        let turns = match form {
            Form::Generation => {
                let turns = [Turn::human(scene.caption()), Turn::assistant("<image>")];
                match self.drops_caption(&mut rng) {
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
        let pixels = normalize(&scene.render(self.size() as u32));
        Ok(self.hide(sample, pixels, &mut rng))
    }

    /// The form of sample `n` of the nano world.
    fn form(&self, n: u64) -> Form {
        let training = self.training.as_ref();
        training.map_or(Form::Generation, |training| training.mixture.form(n))
    }

    fn drops_caption(&self, rng: &mut ChaCha8Rng) -> bool {
        let training = self.training.as_ref();
        training.is_some_and(|training| rng.random_bool(training.mixture.drop_caption))
    }

    /// Hides a part of what the sample draws, if it is its turn.
    fn hide(&self, sample: Sample, pixels: Vec<f32>, rng: &mut ChaCha8Rng) -> Example {
        let roles = sample.images();
        let draws = roles.iter().any(|role| role.draws());
        let hide = self.training.as_ref().filter(|_| draws);
        let part = match hide.is_some_and(|training| rng.random_bool(training.mixture.hide_visual))
        {
            true => rng.random(),
            false => 1.0,
        };
        let tokens = self.image_tokens();
        let mut shown = Vec::with_capacity(roles.len() * tokens);
        for role in roles {
            let part = if role.draws() { part } else { 1.0 };
            shown.extend((0..tokens).map(|_| f32::from(rng.random_bool(part))));
        }
        Example {
            sample,
            pixels,
            shown,
        }
    }
}

impl Make for Samples {
    type Sample = Example;

    fn scene(&self, n: u64) -> Result<Example> {
        self.make(Split::Train, self.seed, n, self.form(n))
    }

    fn scene_key(&self, n: u64) -> String {
        format!("{:?} {n}", self.form(n)).to_lowercase()
    }

    fn record(&self, n: u64, mut record: Record) -> Result<Example> {
        let mut rng = ChaCha8Rng::seed_from_u64(mix(self.seed, n));
        if let Text::Turns(turns) = &mut record.text {
            if let Pictures::Video(_) = record.pictures
                && !form::makes_video(turns)
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
                *turns = form::without_caption(turns);
            }
        }
        let prepared = prepare(&record, &self.tokenizer, &self.config)?;
        let layout = self.layout(std::slice::from_ref(&prepared.sample));
        if layout.text_targets.is_empty() && layout.visual_targets.is_empty() {
            return Err(Error::usage("nothing in it is to be predicted"));
        }
        let data::Prepared { sample, pixels } = prepared;
        Ok(self.hide(sample, pixels, &mut rng))
    }
}

impl Samples {
    /// The same without what only training does to them.
    fn evaluated(&self) -> Self {
        Self {
            training: None,
            ..self.clone()
        }
    }

    /// Samples as rows of the language model.
    pub fn layout(&self, samples: &[Sample]) -> Layout {
        Layout::packed(
            samples,
            self.image_tokens(),
            self.config.llm.max_length(),
            None,
        )
    }
}

/// The objective of both stages; they differ in their mixtures.
pub struct MixtureObjective {
    samples: Samples,
    /// Samples whose losses are computed at once.
    batch_size: usize,
    dropout: f64,
    seen: Seen,
    device: Device,
    /// Of files that are never trained on; none for the nano world, which has a split of its own.
    held_out: Option<Vec<Example>>,
}

impl MixtureObjective {
    pub fn new(recipe: &Recipe, samples: Samples, device: &Device) -> Result<Self> {
        let held_out = held_out(&samples.evaluated(), &recipe.data, EVALUATED)?;
        Ok(Self {
            samples,
            batch_size: recipe.batch_size,
            dropout: recipe.dropout,
            seen: Seen::default(),
            device: device.clone(),
            held_out,
        })
    }

    fn losses_of(
        &self,
        model: &VilaU,
        batch: &[Example],
        device: &Device,
    ) -> Result<multimodal::Losses> {
        let tower = &model.vision_tower.rqvaesiglip;
        let pixels: Vec<f32> = batch
            .iter()
            .flat_map(|made| &made.pixels)
            .copied()
            .collect();
        let visual = (!pixels.is_empty()).then(|| {
            let codes = self.seen.codes(tower, &pixels, self.samples.size(), device);
            let mut visual = Visual::of(tower, codes);
            let shown: Vec<f32> = batch.iter().flat_map(|made| &made.shown).copied().collect();
            let tokens = shown.len();
            let shown = TensorData::new(shown, [tokens, 1]);
            let shown = Tensor::from_data(shown, &visual.features.device());
            visual.features = visual.features * shown;
            visual
        });
        let samples: Vec<Sample> = batch.iter().map(|made| made.sample.clone()).collect();
        let layout = self.samples.layout(&samples);
        multimodal::losses(model, &layout, visual.as_ref())
    }
}

impl Objective<VilaU> for MixtureObjective {
    type Make = Samples;

    fn make(&self) -> &Samples {
        &self.samples
    }

    fn tokens(&self, example: &Example) -> usize {
        let length = example.sample.length(self.samples.image_tokens());
        length.min(self.samples.config.llm.max_length())
    }

    fn independent(&self) -> bool {
        self.dropout == 0.0
    }

    fn trains(&self, path: &str) -> bool {
        !path.starts_with("vision_tower.rqvaesiglip.")
    }

    fn losses(&self, model: &mut VilaU, batch: Vec<Example>, _step: u64) -> Result<Losses> {
        let losses = self.losses_of(model, &batch, &self.device)?;
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
    /// drawings those of their codes. Of files, those of all held-out samples together.
    fn evaluate(&self, model: &VilaU) -> Result<Vec<(&'static str, f64)>> {
        let model = model.clone().valid();
        let device = self.device.clone().inner();
        if let Some(held_out) = &self.held_out {
            return self.evaluate_files(&model, held_out, &device);
        }
        let samples = self.samples.evaluated();
        let mut metrics = Vec::new();
        for (name, form) in [
            ("caption_loss", Form::Caption),
            ("generation_loss", Form::Generation),
            ("answer_loss", Form::Question),
        ] {
            let scene = |index| samples.make(Split::HeldOut, 0, index, form);
            let batch = (0..EVALUATED as u64)
                .map(scene)
                .collect::<Result<Vec<_>>>()?;
            let losses = self.losses_of(&model, &batch, &device)?;
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
        match &self.held_out {
            Some(held_out) => {
                for (prompt, example) in held_out.iter().filter_map(drawing).take(SHOWN) {
                    meant.extend_from_slice(&example.pixels);
                    prompts.push(prompt);
                }
            }
            None => {
                for index in 0..SHOWN as u64 {
                    let scene = Scene::sample(Split::HeldOut, 0, index);
                    meant.extend(normalize(&scene.render(self.samples.size() as u32)));
                    prompts.push(drawing_prompt(&self.samples.tokenizer, &scene.caption())?);
                }
            }
        }
        if prompts.is_empty() {
            return Ok(());
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
        let size = self.samples.size();
        let meant = TensorData::new(meant, [prompts.len(), 3, size, size]);
        let meant = Tensor::from_data(meant, &drawing.pixels.device());
        save_sheet(path, meant, drawing.pixels.squeeze_dim(1))
    }
}

impl MixtureObjective {
    fn evaluate_files(
        &self,
        model: &VilaU,
        held_out: &[Example],
        device: &Device,
    ) -> Result<Vec<(&'static str, f64)>> {
        let mut metrics = vec![("text_loss", 0.0, 0), ("visual_loss", 0.0, 0)];
        for batch in held_out.chunks(self.batch_size) {
            let losses = self.losses_of(model, batch, device)?;
            let visual = losses
                .visual
                .map(|losses| losses.mean_dim(1).squeeze_dim(1));
            for (metric, losses) in metrics.iter_mut().zip([losses.text, visual]) {
                let Some(losses) = losses else {
                    continue;
                };
                let losses = losses.into_data_as::<f32>();
                metric.1 += losses.iter::<f32>().map(f64::from).sum::<f64>();
                metric.2 += losses.num_elements();
            }
        }
        metrics.retain(|(.., count)| *count > 0);
        let mean = |(name, sum, count): (&'static str, f64, usize)| (name, sum / count as f64);
        Ok(metrics.into_iter().map(mean).collect())
    }
}

/// The prompt of a sample that is one drawing from text.
fn drawing(example: &Example) -> Option<(Vec<i64>, &Example)> {
    let ids = example.sample.ids();
    let at = ids.iter().position(|id| *id == IMAGE_ID)?;
    let draws = matches!(example.sample.images()[..], [Role::Target]);
    draws.then(|| (ids[..at].to_vec(), example))
}

/// The first samples of the sources that are held out; none for the nano world.
pub fn held_out<M: Make>(make: &M, data: &Data, count: usize) -> Result<Option<Vec<M::Sample>>> {
    let sources: Vec<_> = data
        .sources
        .iter()
        .filter(|source| source.held_out)
        .cloned()
        .collect();
    Ok(match (data.sources.is_empty(), sources.is_empty()) {
        (true, _) => None,
        (false, true) => Some(Vec::new()),
        (false, false) => {
            let samples = samples(make, &sources, data.max_bad, count)?;
            Some(samples.into_iter().map(|taken| taken.sample).collect())
        }
    })
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
        let mixture = Mixture {
            caption: 1.0,
            generation: 1.0,
            question: 1.0,
            drop_caption: 0.1,
            hide_visual: 0.5,
        };
        let trained = Samples {
            tokenizer: Arc::new(config::tokenizer(&files.join("llm")).unwrap()),
            config: Arc::new(config::read(&files).unwrap()),
            seed: 1,
            training: Some(Training {
                mixture,
                describes_videos: false,
            }),
        };
        let hidden = |form, samples: &Samples| -> Vec<usize> {
            let make = |index| samples.make(Split::Train, 1, index, form).unwrap();
            let hidden = |example: Example| {
                assert_eq!(example.shown.len(), 64);
                example.shown.iter().filter(|shown| **shown == 0.0).count()
            };
            (0..100).map(make).map(hidden).collect()
        };
        let evaluated = trained.evaluated();
        let drawings = hidden(Form::Generation, &trained);
        let touched = drawings.iter().filter(|hidden| **hidden > 0).count();
        assert!((30..70).contains(&touched), "{touched}");
        assert!(drawings.iter().any(|hidden| *hidden > 48));
        assert!(drawings.iter().any(|hidden| (1..16).contains(hidden)));
        for (form, samples) in [
            (Form::Generation, &evaluated),
            (Form::Caption, &trained),
            (Form::Question, &trained),
        ] {
            assert!(hidden(form, samples).iter().all(|hidden| *hidden == 0));
        }
    }
}
