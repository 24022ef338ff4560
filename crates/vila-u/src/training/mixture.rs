//! Pretraining and instruction tuning (paper section 3.2): one model reads and writes text and
//! pictures. Language model, projector and depth transformer are trained, or what the recipe says.
//!
//! Each sample is [image, text] or [video, text] (captions, questions), [text, image] or [text, video]
//! (drawing), with loss on the second part only, a page of both, or text alone. Some captions are dropped before
//! drawing, so that guidance has something to steer away from. Of some drawings the model does not see
//! a part of its own visual tokens: most of them follow from their neighbours, and it would learn from
//! the caption late.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use burn::module::Module;
use burn::tensor::{Device, Distribution, Int, Tensor, TensorData};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::adamw::Gradients;
use super::forms::Form;
use super::multimodal::{self, Mean, Visual};
use super::prefetch::{Make, samples};
use super::recipe::{self, Data, Mixture, Recipe};
use super::run::{Losses, Objective};
use super::seen::Seen;
use super::sheet::save_sheet;
use crate::data::nano::{Scene, Split, Video};
use crate::data::seed::mix;
use crate::data::{self, Pictures, Record, Text, prepare};
use crate::generation::chat::{generate_images, generate_videos, image_prompt, video_prompt};
use crate::generation::visual::VisualOptions;
use crate::media::preprocess::normalize;
use crate::model::{VilaU, VilaUConfig};
use crate::sequence::templates::{self, VIDEO_FRAMES};
use crate::sequence::{Role, Sample, SequenceLayout};
use crate::text::{IMAGE_ID, Tokenizer};
use crate::tower::RqVaeSiglip;
use crate::{Error, Result};

/// Held-out samples that an evaluation looks at; of the nano world, of each form.
const EVALUATED: usize = 64;
/// Pictures and videos drawn for a sample sheet.
const SHOWN: usize = 8;
const SHOWN_VIDEOS: usize = 2;

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

    pub fn size(&self) -> usize {
        self.config.siglip.vision_config.image_size
    }

    /// Visual tokens of an image.
    pub fn image_tokens(&self) -> usize {
        self.config.vision_tower.rqtransformer.positions()
    }

    /// The form of sample `n` of the nano world.
    fn form(&self, n: u64) -> Form {
        let training = self.training.as_ref();
        training.map_or(Form::Generation, |training| training.mixture.form(n))
    }

    pub fn drops_caption(&self, rng: &mut ChaCha8Rng) -> bool {
        let training = self.training.as_ref();
        training.is_some_and(|training| rng.random_bool(training.mixture.drop_caption))
    }

    /// Hides a part of what the sample draws, if it is its turn.
    pub fn hide(&self, sample: Sample, pixels: Vec<f32>, rng: &mut ChaCha8Rng) -> Example {
        let roles = sample.images();
        let draws = roles.iter().any(|role| role.predicts_visual());
        let hide = self.training.as_ref().filter(|_| draws);
        let part = match hide.is_some_and(|training| rng.random_bool(training.mixture.hide_visual))
        {
            true => rng.random(),
            false => 1.0,
        };
        let tokens = self.image_tokens();
        let mut shown = Vec::with_capacity(roles.len() * tokens);
        for role in roles {
            let part = if role.predicts_visual() { part } else { 1.0 };
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
    pub fn layout(&self, samples: &[Sample]) -> SequenceLayout {
        SequenceLayout::packed(
            samples,
            self.image_tokens(),
            self.config.llm.max_length(),
            None,
        )
    }
}

/// Losses of text targets, of visual targets, and of these at each depth.
#[derive(Default)]
struct Means {
    text: Mean,
    visual: Mean,
    depths: Vec<Mean>,
}

/// The objective of both stages; they differ in their mixtures.
pub struct MixtureObjective {
    samples: Samples,
    /// Samples whose losses are computed at once.
    batch_size: usize,
    trains: Mixture,
    /// What the language model's adapters drop, if it has any.
    lora: Option<f64>,
    dropout: f64,
    recompute: bool,
    /// None where a stage of the run trains the tower.
    seen: Option<Seen>,
    device: Device,
    /// How sample sheets are drawn.
    drawing: VisualOptions,
    /// Of the curves of each depth.
    depths: Depths,
    /// Of files that are never trained on; none for the nano world, which has a split of its own.
    held_out: Option<Vec<Example>>,
}

impl MixtureObjective {
    /// `evaluates`: held-out samples are needed.
    pub fn new(
        recipe: &Recipe,
        samples: Samples,
        drawing: VisualOptions,
        device: &Device,
        evaluates: bool,
    ) -> Result<Self> {
        let count = if evaluates { EVALUATED } else { 0 };
        let held_out = held_out(&samples.evaluated(), &recipe.data, count)?;
        let trains = match &samples.training {
            Some(training) => training.mixture.clone(),
            None => return Err(Error::failed("samples of an evaluation are not trained on")),
        };
        let depth = samples.config.vision_tower.rqtransformer.depth();
        Ok(Self {
            samples,
            drawing,
            batch_size: recipe.batch_size,
            // Nor does the running mean's tower stay, which follows a stage before.
            seen: (!recipe.trains_tower()).then(Seen::default),
            trains,
            lora: recipe.lora.as_ref().map(|lora| lora.dropout),
            dropout: recipe.dropout,
            recompute: recipe.recompute,
            device: device.clone(),
            depths: Depths::new(depth),
            held_out,
        })
    }

    /// The batch's samples in rows, and the visual tokens in them.
    fn read(
        &self,
        model: &VilaU,
        batch: &[Example],
        device: &Device,
    ) -> (SequenceLayout, Option<Visual>) {
        let tower = &model.vision_tower.rqvaesiglip;
        let pixels: Vec<f32> = batch
            .iter()
            .flat_map(|made| &made.pixels)
            .copied()
            .collect();
        let visual = (!pixels.is_empty()).then(|| {
            let mut visual = self.encode(tower, pixels, device);
            let shown: Vec<f32> = batch.iter().flat_map(|made| &made.shown).copied().collect();
            let tokens = shown.len();
            let shown = TensorData::new(shown, [tokens, 1]);
            let shown = Tensor::from_data(shown, &visual.features.device());
            visual.features = visual.features * shown;
            visual
        });
        let samples: Vec<Sample> = batch.iter().map(|made| made.sample.clone()).collect();
        (self.samples.layout(&samples), visual)
    }

    fn encode(&self, tower: &RqVaeSiglip, pixels: Vec<f32>, device: &Device) -> Visual {
        let size = self.samples.size();
        match &self.seen {
            Some(seen) => Visual::of(tower, seen.codes(tower, &pixels, size, device)),
            None => {
                let images = pixels.len() / (3 * size * size);
                let pixels = TensorData::new(pixels, [images, 3, size, size]);
                Visual::encode_recorded(tower, Tensor::from_data(pixels, device))
            }
        }
    }

    /// Off the tape.
    fn evaluated(
        &self,
        model: &VilaU,
        batch: &[Example],
        device: &Device,
    ) -> Result<multimodal::Losses> {
        let (layout, visual) = self.read(model, batch, device);
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
        self.dropout == 0.0 && self.lora.is_none_or(|dropout| dropout == 0.0)
    }

    fn trains(&self, path: &str) -> bool {
        self.trains.trains(path, self.lora.is_some())
    }

    fn losses(&self, model: &mut VilaU, batch: Vec<Example>, step: u64) -> Result<Losses> {
        let (layout, visual) = self.read(model, &batch, &self.device);
        let visual = visual.as_ref();
        let (losses, layers, pieces) = match self.recompute {
            true => {
                let chance = self.lora.is_some_and(|dropout| dropout > 0.0);
                let seed = chance.then(|| drawn(&self.device, step));
                let (losses, layers, pieces) =
                    multimodal::recomputed(model, &layout, visual, seed)?;
                (losses, Some(layers), pieces)
            }
            false => (multimodal::losses(model, &layout, visual)?, None, None),
        };
        let mut total = losses
            .total()
            .ok_or_else(|| Error::failed("a batch predicts nothing"))?;
        let mut found = Gradients::default();
        if let Some(pieces) = pieces {
            total = total.autodiff() + pieces.slope;
            found = pieces.gradients;
        }
        let text = losses.text_loss().map(|loss| ("text_loss", loss));
        let visual = losses.visual_loss().map(|loss| ("visual_loss", loss));
        let mut parts: Vec<_> = text.into_iter().chain(visual).collect();
        if let Some(depths) = losses.depth_losses() {
            let single = |depth| depths.clone().narrow(0, depth, 1);
            parts.extend(self.depths.visual.iter().copied().zip((0..).map(single)));
        }
        let padding = TensorData::from([layout.padding() as f32]);
        let padding = Tensor::from_data(padding, &self.device.clone().inner());
        parts.push(("padding", padding));
        Ok(Losses {
            total,
            parts,
            found,
            layers,
        })
    }

    /// The losses of each form that is trained, on held-out samples of it: of captions and answers those
    /// of their words, of drawings those of their codes. Of files, those of all held-out samples together.
    fn evaluate(&self, model: &VilaU) -> Result<Vec<(&'static str, f64)>> {
        let model = model.clone().valid();
        let device = self.device.clone().inner();
        if let Some(held_out) = &self.held_out {
            let means = self.means(&model, held_out, &device)?;
            let both = [means.text, means.visual];
            let metrics = named(&["text_loss", "visual_loss"], &both);
            return Ok(metrics
                .chain(named(&self.depths.visual, &means.depths))
                .collect());
        }
        let forms = self.samples.training.as_ref();
        let forms = forms.map(|training| training.mixture.forms());
        let samples = self.samples.evaluated();
        let mut metrics = Vec::new();
        for (form, weight) in forms.into_iter().flatten() {
            if weight == 0.0 {
                continue;
            }
            let scene = |index| samples.make(Split::Validation, 0, index, form);
            let held_out = (0..EVALUATED as u64).map(scene);
            let held_out = held_out.collect::<Result<Vec<_>>>()?;
            let means = self.means(&model, &held_out, &device)?;
            let loss = if form.draws() {
                means.visual
            } else {
                means.text
            };
            metrics.extend(loss.value().map(|loss| (form.metric(), loss)));
            if form == Form::Generation {
                metrics.extend(named(&self.depths.generation, &means.depths));
            }
        }
        Ok(metrics)
    }

    /// Held-out pictures, and below each what the model draws from its caption; the same of the frames
    /// of videos, if it learns to make them.
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
                    let scene = Scene::sample(Split::Validation, 0, index);
                    meant.extend(normalize(&scene.render(self.samples.size() as u32)));
                    prompts.push(image_prompt(&self.samples.tokenizer, &scene.caption())?);
                }
            }
        }
        if prompts.is_empty() {
            return Ok(());
        }
        let options = &self.drawing;
        let tokenizer = &self.samples.tokenizer;
        let drawing = generate_images(&model, tokenizer, &prompts, options, &mut |_| {
            ControlFlow::Continue(())
        })?;
        let mut drawn: Tensor<4> = drawing.pixels.squeeze_dim(1);
        if let Some((frames, made)) = self.sample_videos(&model, options)? {
            meant.extend(frames);
            drawn = Tensor::cat(vec![drawn, made], 0);
        }
        let size = self.samples.size();
        let meant = TensorData::new(meant, [drawn.dims()[0], 3, size, size]);
        let meant = Tensor::from_data(meant, &drawn.device());
        save_sheet(path, meant, drawn)
    }
}

impl MixtureObjective {
    /// Over all examples.
    fn means(&self, model: &VilaU, examples: &[Example], device: &Device) -> Result<Means> {
        let mut means = Means {
            depths: vec![Mean::default(); self.depths.visual.len()],
            ..Means::default()
        };
        for batch in examples.chunks(self.batch_size) {
            let losses = self.evaluated(model, batch, device)?;
            for loss in losses.text.into_iter().flat_map(floats) {
                means.text.add(loss);
            }
            let codes = losses.visual.map(|losses| losses.flatten(0, 1));
            for (code, loss) in codes.into_iter().flat_map(floats).enumerate() {
                let depth = code % means.depths.len();
                means.depths[depth].add(loss);
                means.visual.add(loss);
            }
        }
        Ok(means)
    }

    /// Held-out videos, frame after frame, and those that the model makes of their captions.
    fn sample_videos(
        &self,
        model: &VilaU,
        options: &VisualOptions,
    ) -> Result<Option<(Vec<f32>, Tensor<4>)>> {
        let training = self.samples.training.as_ref();
        if self.held_out.is_some() || training.is_none_or(|training| training.mixture.video == 0.0)
        {
            return Ok(None);
        }
        let size = self.samples.size() as u32;
        let videos =
            (0..SHOWN_VIDEOS as u64).map(|index| Video::sample(Split::Validation, 0, index));
        let videos: Vec<Video> = videos.collect();
        let frames = videos
            .iter()
            .flat_map(|video| video.render(VIDEO_FRAMES, size));
        let meant = frames.flat_map(|frame| normalize(&frame)).collect();
        let tokenizer = &self.samples.tokenizer;
        let prompts = videos
            .iter()
            .map(|video| video_prompt(tokenizer, &video.caption()));
        let prompts = prompts.collect::<Result<Vec<_>>>()?;
        let drawing = generate_videos(
            model,
            tokenizer,
            &prompts,
            VIDEO_FRAMES,
            options,
            &mut |_| ControlFlow::Continue(()),
        )?;
        Ok(Some((meant, drawing.pixels.flatten(0, 1))))
    }
}

/// Names of the curves of each depth. Curves are told apart by names that last as long as the program,
/// and a model has few depths.
struct Depths {
    visual: Vec<&'static str>,
    generation: Vec<&'static str>,
}

impl Depths {
    fn new(depth: usize) -> Self {
        let names = |of: &str| {
            let name = |depth| &*format!("{of}/{depth}").leak();
            (1..=depth).map(name).collect()
        };
        Self {
            visual: names("visual_loss"),
            generation: names("generation_loss"),
        }
    }
}

/// Means that there are, by name.
fn named<'a>(
    names: &'a [&'static str],
    means: &'a [Mean],
) -> impl Iterator<Item = (&'static str, f64)> + 'a {
    let named = names.iter().zip(means);
    named.filter_map(|(name, mean)| Some((*name, mean.value()?)))
}

fn floats(values: Tensor<1>) -> Vec<f64> {
    let values = values.into_data_as::<f32>();
    values.iter::<f32>().map(f64::from).collect()
}

/// A seed from the device's generator: another one for each batch of a step.
fn drawn(device: &Device, step: u64) -> u64 {
    let range = Distribution::Uniform(0.0, f64::from(i32::MAX));
    let drawn: i64 = Tensor::<1, Int>::random([1], range, device).into_scalar();
    mix(step, drawn as u64)
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
    Ok(
        match (data.sources.is_empty(), sources.is_empty() || count == 0) {
            (true, _) => None,
            (false, true) => Some(Vec::new()),
            (false, false) => {
                let samples = samples(make, &sources, data.max_bad, count)?;
                Some(samples.into_iter().map(|taken| taken.sample).collect())
            }
        },
    )
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::checkpoint::{Source, config};
    use crate::training::recipe::Part;

    #[test]
    fn only_drawings_hide_and_only_in_training() {
        let files = Source::parse("nano").unwrap().files(|_, _| ()).unwrap();
        let mixture = Mixture {
            caption: 1.0,
            generation: 1.0,
            question: 1.0,
            drop_caption: 0.1,
            hide_visual: 0.5,
            train: vec![Part::Language],
            ..Mixture::default()
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
