//! Pretraining and instruction tuning (paper section 3.2): one model reads and writes text and
//! pictures. Language model, projector and depth transformer are trained, or what the recipe says.
//!
//! Each sample is [image, text] or [video, text] (captions, questions), [text, image] or [text, video]
//! (generation), with loss on the second part only, a page of both, or text alone.

use std::path::Path;

use burn::module::Module;
use burn::tensor::{Device, Tensor, TensorData};
use vila_u_kernels::dropout_chance;

use super::chunked_depth_loss::ChunkedDepthLoss;
use super::code_cache::CodeCache;
use super::gradient_checkpointing::CheckpointedLayers;
use super::held_out::HeldOut;
use crate::data::SampleKind;
use crate::data::seed::mix;
use crate::generation::visual::VisualOptions;
use crate::model::VilaU;
use crate::sequence::{Sample, SequenceLayout};
use crate::teacher_forcing::{self, Mean, Targets, VisualTokens};
use crate::tower::RqVaeSiglip;
use crate::training::data::samples::{Example, SampleMaker};
use crate::training::optimizer::Gradients;
use crate::training::recipe::{Multimodal, Recipe};
use crate::training::trainer::{BatchLosses, Objective};
use crate::{Error, Result};

/// Losses of text targets, of visual targets, and of these at each depth.
#[derive(Default)]
struct Means {
    text: Mean,
    visual: Mean,
    depths: Vec<Mean>,
}

/// The objective of both stages; they differ in their samples.
pub(crate) struct MultimodalObjective {
    pub(super) samples: SampleMaker,
    settings: Multimodal,
    /// Samples whose losses are computed at once.
    batch_size: usize,
    /// The dropout of the language model's adapters, if it has any.
    lora_dropout: Option<f64>,
    depth_dropout: f64,
    gradient_checkpointing: bool,
    /// None where a stage of the run trains the tower.
    code_cache: Option<CodeCache>,
    device: Device,
    /// How the pictures of sample sheets are generated.
    pub(super) generation: VisualOptions,
    names: DepthNames,
    pub(super) held_out: HeldOut,
}

impl MultimodalObjective {
    /// `evaluates`: held-out samples are needed.
    pub(crate) fn new(
        recipe: &Recipe,
        samples: SampleMaker,
        generation: VisualOptions,
        device: &Device,
        evaluates: bool,
    ) -> Result<Self> {
        let held_out = if evaluates {
            HeldOut::load(&samples, &recipe.data)?
        } else {
            HeldOut::default()
        };
        let settings = samples.objective().cloned();
        let settings =
            settings.ok_or_else(|| Error::failed("samples of an evaluation are not trained on"))?;
        let depth = samples.config.vision_tower.rqtransformer.depth();
        Ok(Self {
            samples,
            settings,
            batch_size: recipe.batch_size,
            lora_dropout: recipe.lora.as_ref().map(|lora| lora.dropout),
            depth_dropout: recipe.depth_dropout,
            gradient_checkpointing: recipe.gradient_checkpointing,
            // Nor does the moving average's tower stay, which follows a stage before.
            code_cache: (!recipe.trains_tower()).then(CodeCache::default),
            device: device.clone(),
            generation,
            names: DepthNames::new(depth),
            held_out,
        })
    }

    /// The batch's samples in rows, and the visual tokens in them.
    fn read(
        &self,
        model: &VilaU,
        batch: &[Example],
        device: &Device,
    ) -> (SequenceLayout, Option<VisualTokens>) {
        let tower = &model.vision_tower.rqvaesiglip;
        let pixels: Vec<f32> = batch
            .iter()
            .flat_map(|example| &example.pixels)
            .copied()
            .collect();
        let visual = (!pixels.is_empty()).then(|| {
            let mut visual = self.encode(tower, pixels, device);
            let visible: Vec<f32> = batch
                .iter()
                .flat_map(|example| &example.visible)
                .copied()
                .collect();
            let tokens = visible.len();
            let visible = TensorData::new(visible, [tokens, 1]);
            let visible = Tensor::from_data(visible, &visual.features.device());
            visual.features = visual.features * visible;
            visual
        });
        let samples: Vec<Sample> = batch.iter().map(|example| example.sample.clone()).collect();
        (self.samples.layout(&samples), visual)
    }

    fn encode(&self, tower: &RqVaeSiglip, pixels: Vec<f32>, device: &Device) -> VisualTokens {
        let size = self.samples.size();
        match &self.code_cache {
            Some(cache) => VisualTokens::of(tower, cache.codes(tower, &pixels, size, device)),
            None => {
                let images = pixels.len() / (3 * size * size);
                let pixels = TensorData::new(pixels, [images, 3, size, size]);
                VisualTokens::encode_with_grad(tower, Tensor::from_data(pixels, device))
            }
        }
    }

    /// The losses of a batch with gradient checkpointing: the language model's layers are left to be computed
    /// again, and visual targets have gone forward and backward already.
    fn checkpointed(
        &self,
        model: &VilaU,
        layout: &SequenceLayout,
        visual: Option<&VisualTokens>,
        step: u64,
    ) -> Result<(
        teacher_forcing::Losses,
        CheckpointedLayers,
        Option<ChunkedDepthLoss>,
    )> {
        let has_dropout = self.lora_dropout.is_some_and(|dropout| dropout > 0.0);
        // Another one for each batch of a step.
        let seed = has_dropout.then(|| mix(step, dropout_chance()));
        let embeds = teacher_forcing::embeddings(model, layout, visual)?;
        let device = model.llm.device();
        let (positions, mask) = (layout.positions(&device), layout.mask(&device));
        let layers = CheckpointedLayers::forward(&model.llm, embeds, positions, mask, seed);
        let hidden = model.llm.normalised(layers.output()).flatten::<2>(0, 1);
        let targets = Targets::of(layout, visual, &device);
        let text = targets.text.map(|(from, ids)| {
            teacher_forcing::text_losses(model, hidden.clone().select(0, from), ids)
        });
        let chunked = targets
            .visual
            .map(|(from, codes)| ChunkedDepthLoss::new(model, hidden.select(0, from), codes));
        let visual = chunked.as_ref().map(|chunked| chunked.losses.clone());
        Ok((teacher_forcing::Losses { text, visual }, layers, chunked))
    }

    /// The means over all targets of the examples, without gradients.
    fn means(&self, model: &VilaU, examples: &[Example], device: &Device) -> Result<Means> {
        let mut means = Means {
            depths: vec![Mean::default(); self.names.visual.len()],
            ..Means::default()
        };
        for batch in examples.chunks(self.batch_size) {
            let (layout, visual) = self.read(model, batch, device);
            let losses = teacher_forcing::losses(model, &layout, visual.as_ref())?;
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
}

impl Objective<VilaU> for MultimodalObjective {
    type Maker = SampleMaker;

    fn sample_maker(&self) -> &SampleMaker {
        &self.samples
    }

    fn tokens(&self, example: &Example) -> usize {
        let length = example.sample.length(self.samples.image_tokens());
        length.min(self.samples.config.llm.max_length())
    }

    fn is_parallel(&self) -> bool {
        self.depth_dropout == 0.0 && self.lora_dropout.is_none_or(|dropout| dropout == 0.0)
    }

    fn is_trained(&self, path: &str) -> bool {
        self.settings.is_trained(path, self.lora_dropout.is_some())
    }

    fn losses(&self, model: &mut VilaU, batch: Vec<Example>, step: u64) -> Result<BatchLosses> {
        let (layout, visual) = self.read(model, &batch, &self.device);
        let visual = visual.as_ref();
        let (losses, checkpointed, chunked) = if self.gradient_checkpointing {
            let (losses, layers, chunked) = self.checkpointed(model, &layout, visual, step)?;
            (losses, Some(layers), chunked)
        } else {
            let losses = teacher_forcing::losses(model, &layout, visual)?;
            (losses, None, None)
        };
        let mut total = losses
            .total()
            .ok_or_else(|| Error::failed("a batch predicts nothing"))?;
        let mut gradients = Gradients::default();
        if let Some(chunked) = chunked {
            total = total.autodiff() + chunked.surrogate;
            gradients = chunked.gradients;
        }
        let text = losses.text_loss().map(|loss| ("text_loss", loss));
        let visual = losses.visual_loss().map(|loss| ("visual_loss", loss));
        let mut parts: Vec<_> = text.into_iter().chain(visual).collect();
        if let Some(depths) = losses.depth_losses() {
            let single = |depth| depths.clone().narrow(0, depth, 1);
            parts.extend(self.names.visual.iter().copied().zip((0..).map(single)));
        }
        let padding = TensorData::from([layout.padding() as f32]);
        let padding = Tensor::from_data(padding, &self.device.clone().inner());
        parts.push(("padding", padding));
        Ok(BatchLosses {
            total,
            parts,
            gradients,
            checkpointed,
        })
    }

    /// The losses of each kind of sample that is trained, on held-out samples of it: of captions and answers
    /// those of their words, of generated images those of their codes. And those of all held-out samples together
    /// that are of their own kind.
    fn evaluate(&self, model: &VilaU) -> Result<Vec<(&'static str, f64)>> {
        let model = model.clone().valid();
        let device = self.device.clone().inner();
        let mut metrics = Vec::new();
        for (kind, examples) in &self.held_out.by_kind {
            let means = self.means(&model, examples, &device)?;
            let loss = if kind.generates() {
                means.visual
            } else {
                means.text
            };
            metrics.extend(loss.value().map(|loss| (kind.metric(), loss)));
            if *kind == SampleKind::Generation {
                metrics.extend(named(&self.names.generation, &means.depths));
            }
        }
        let means = self.means(&model, &self.held_out.others, &device)?;
        let both = [means.text, means.visual];
        metrics.extend(named(&["text_loss", "visual_loss"], &both));
        metrics.extend(named(&self.names.visual, &means.depths));
        Ok(metrics)
    }

    fn save_samples(&self, model: &VilaU, path: &Path) -> Result<()> {
        self.save_sheet(&model.clone().valid(), path)
    }
}

/// Names of the curves of each depth. Curves have names that last as long as the program,
/// and a model has few depths.
struct DepthNames {
    visual: Vec<&'static str>,
    generation: Vec<&'static str>,
}

impl DepthNames {
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
