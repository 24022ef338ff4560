//! What one stage takes.

use burn::tensor::Device;
use serde::Serialize;

use super::Resources;
use super::activations;
use super::memory::{self, MemoryNeed};
use super::parameters::{ParameterCount, PartPlan};
use super::samples::SampleLengths;
use crate::model::VilaUConfig;
use crate::sequence::Sample;
use crate::tower::{RqVaeSiglipConfig, SiglipConfig};
use crate::training::model::TowerWithDiscriminator;
use crate::training::model::initial::ModelSizes;
use crate::training::objectives::tower;
use crate::training::recipe::{Multimodal, Objective, Recipe, Stage};

#[derive(Clone, Debug, Serialize)]
pub struct StagePlan {
    pub kind: &'static str,
    pub steps: u64,
    pub parts: Vec<PartPlan>,
    pub trained: u64,
    pub frozen: u64,
    /// Trained parameters that weight decay acts on: matrices, convolutions and embeddings. Biases and
    /// norms are the others.
    pub decayed: u64,
    pub weight_decay: f64,
    /// Samples of a step.
    pub samples: u64,
    /// Positions that the model reads in a step: the mean of the samples looked at, or the most there can
    /// be if none was.
    pub tokens: u64,
    /// How many samples were looked at.
    pub measured: usize,
    /// Share of the positions that are padding, of the samples looked at.
    pub padding: Option<f64>,
    /// Where the model is.
    pub memory: MemoryNeed,
}

/// What follows from the sizes of the model.
#[derive(Default)]
struct Measured {
    count: ParameterCount,
    /// Of the language model.
    layers: usize,
    /// Mean positions of a sample.
    tokens: f64,
    padding: Option<f64>,
    /// Bytes of a batch.
    activations: u64,
}

impl StagePlan {
    /// Of one rank. `samples`: those looked at for their lengths.
    pub(super) fn new(
        recipe: &Recipe,
        stage: &Stage,
        steps: u64,
        sizes: &ModelSizes,
        samples: &[Sample],
        gpu: bool,
    ) -> Self {
        let measured = match (sizes, &stage.objective) {
            (
                ModelSizes::VilaU(config),
                Objective::Pretrain(settings) | Objective::Sft(settings),
            ) => Measured::language(recipe, settings, config, samples, gpu),
            (ModelSizes::Tower(sizes), objective) => {
                let (config, siglip) = &**sizes;
                Measured::tower(recipe, objective, config, siglip, gpu)
            }
            // Stages and sizes are both of the recipe, which does not mix them.
            _ => Measured::default(),
        };
        let Measured {
            count,
            layers,
            activations,
            ..
        } = &measured;
        let per_step = (recipe.batch_size * recipe.gradient_accumulation_steps) as u64;
        Self {
            kind: stage.objective.kind(),
            steps,
            parts: count.parts(),
            trained: count.trained(),
            frozen: count.frozen(),
            decayed: count.decayed,
            weight_decay: stage.optimizer.weight_decay,
            samples: per_step,
            tokens: (measured.tokens * per_step as f64).round() as u64,
            measured: samples.len(),
            padding: measured.padding,
            memory: memory::of_stage(recipe, stage, count, *layers, *activations, gpu),
        }
    }

    /// Of one rank, on all ranks. Each of them takes as many samples of a step; those on one machine share its
    /// memory, and have GPUs of their own.
    pub(super) fn on(mut self, resources: &Resources, gpu: bool) -> Self {
        self.samples *= resources.ranks;
        self.tokens *= resources.ranks;
        // Each keeps the moments of its part.
        self.memory.optimizer = self.memory.optimizer.div_ceil(resources.ranks);
        if !gpu {
            self.memory.times(resources.here);
        }
        self
    }
}

impl Measured {
    fn language(
        recipe: &Recipe,
        settings: &Multimodal,
        config: &VilaUConfig,
        samples: &[Sample],
        gpu: bool,
    ) -> Self {
        let cpu = Device::flex();
        let lora = recipe.lora.as_ref();
        let mut model = config.init(&cpu);
        if let Some(lora) = lora {
            model.llm = model.llm.adapted(&lora.config(), &cpu);
        }
        let lengths = SampleLengths::of(config, samples, recipe.batch_size);
        let (train, largest) = (&settings.train, &lengths.largest);
        Self {
            count: ParameterCount::of(&model, &|path| settings.is_trained(path, lora.is_some())),
            layers: config.llm.num_hidden_layers,
            tokens: lengths.tokens,
            padding: lengths.padding,
            activations: activations::language(recipe, train, config, largest, gpu),
        }
    }

    fn tower(
        recipe: &Recipe,
        objective: &Objective,
        config: &RqVaeSiglipConfig,
        siglip: &SiglipConfig,
        gpu: bool,
    ) -> Self {
        let cpu = Device::flex();
        let model = TowerWithDiscriminator {
            tower: config.init(siglip, &cpu),
            discriminator: recipe.discriminator().map(|sizes| sizes.init(&cpu)),
        };
        let no_positions = recipe.model.no_position_embedding;
        let [rows, columns, _] = config.code_shape;
        let text = siglip.text_config.max_position_embeddings;
        let images = recipe.batch_size as f64;
        Self {
            count: ParameterCount::of(&model, &|path| {
                tower::is_trained(objective, no_positions, path)
            }),
            layers: 0,
            tokens: (rows * columns + text) as f64,
            padding: None,
            activations: activations::tower(config, siglip, objective, images, gpu),
        }
    }
}
