//! A recipe: one TOML file says everything about one training run.
//!
//! Unknown keys are errors, so that a misspelt key never trains the wrong thing. Any key can be set
//! from the command line by its dotted path: `steps=100`, `stages.1.optimizer.learning_rate=3e-4`.

mod data;
mod lora;
mod model;
mod multimodal;
mod objective;
mod optimizer;
mod overrides;
mod renamed;
mod tower;

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use toml::{Table, Value};

use crate::tower::RqVaeSiglipConfig;
use crate::training::losses::DiscriminatorConfig;
use crate::{Error, Result, depth};
pub use data::Data;
pub use lora::Lora;
pub use model::{Config, ModelRecipe};
pub use multimodal::{Multimodal, TrainablePart};
pub use objective::{Align, Objective};
pub use optimizer::Optimizer;
pub use tower::{Adversarial, Contrastive, LayerCodes, Perceptual, PixelLoss, Tower};

/// One training run: a model, data, and the stages it is trained in.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// The run folder: checkpoints, metrics, sample sheets, and the finished model.
    pub out: PathBuf,
    /// Everything random follows from this: initial weights, data, dropout.
    pub seed: u64,
    /// Optimizer steps of the whole run, divided among the stages by their `share`.
    pub steps: u64,
    /// Samples of a forward and backward pass.
    pub batch_size: usize,
    /// Compute products and attention with bfloat16 factors and float32 sums, on a GPU and where a CPU is faster that
    /// way. Weights, gradients, moments, norms and losses are float32 with it as without it.
    #[serde(default)]
    pub mixed_precision: bool,
    /// Keep only the inputs of the language model's layers, and compute the layers again on the way
    /// back; the depth transformer goes both ways for some positions at a time. Much less memory for up to a
    /// third more work.
    #[serde(default)]
    pub gradient_checkpointing: bool,
    /// Batches whose gradients are averaged into one optimizer step.
    #[serde(default = "one")]
    pub gradient_accumulation_steps: usize,
    /// Dropout of the depth transformer.
    #[serde(default = "released_dropout")]
    pub depth_dropout: f64,
    /// Decay of the exponential moving average of all weights, which is what is evaluated and finished. Without
    /// it that is the weights themselves.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ema_decay: Option<f64>,
    /// Train small matrices beside the language model's layers instead of the layers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lora: Option<Lora>,
    /// Steps between checkpoints.
    pub checkpoint_every: u64,
    /// How many of the last checkpoints are kept. The best is kept besides: that with the best evaluation
    /// of its stage, which is saved whenever there is a new one.
    #[serde(default = "two")]
    pub keep_checkpoints: usize,
    /// A run stops at a loss above `loss_spike_factor * (1 + |mean of the last 100 steps|)`.
    #[serde(default = "five")]
    pub loss_spike_factor: f64,
    /// Steps between evaluations on held-out data.
    pub eval_every: u64,
    /// Steps between sample sheets.
    pub sample_every: u64,
    /// What the run starts from: a model as `--model` takes it. Without it the weights are new.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub init: Option<String>,
    /// Sizes of the parts that are new.
    #[serde(default)]
    pub model: ModelRecipe,
    #[serde(default)]
    pub data: Data,
    pub stages: Vec<Stage>,
}

fn whole() -> f64 {
    1.0
}

fn one() -> usize {
    1
}

fn two() -> usize {
    2
}

fn five() -> f64 {
    5.0
}

fn released_dropout() -> f64 {
    depth::DROPOUT
}

/// Steps of a run; more cannot be meant.
const MOST_STEPS: u64 = 1_000_000_000;
/// Samples of a step on one rank; more cannot be meant.
const MOST_SAMPLES: usize = 1 << 22;

/// A stretch of the run with one objective and its own learning-rate schedule.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Stage {
    /// Part of the run's steps, relative to the shares of the other stages.
    #[serde(default = "whole")]
    pub share: f64,
    pub objective: Objective,
    pub optimizer: Optimizer,
}

impl Stage {
    fn check(&self) -> Result<()> {
        must(
            self.share > 0.0 && self.share.is_finite(),
            "a stage's share must be above 0",
        )?;
        self.optimizer.check()?;
        self.objective.check()
    }
}

impl Recipe {
    /// Reads a recipe file and applies `key=value` settings in order.
    ///
    /// # Errors
    /// A missing file, a syntax error, an unknown key or an impossible value, by name.
    pub fn load(path: &Path, settings: &[String]) -> Result<Self> {
        let text = fs::read_to_string(path).map_err(Error::io(path))?;
        Self::parse(&text, path, settings)
    }

    /// The recipe `text`, which errors call `path`, with `key=value` settings applied in order.
    ///
    /// # Errors
    /// A syntax error, an unknown key or an impossible value, by name.
    pub fn parse(text: &str, path: &Path, settings: &[String]) -> Result<Self> {
        let table: Table = toml::from_str(text.trim_start_matches('\u{feff}'))
            .map_err(|error| Error::invalid(path, one_line(&error)))?;
        let file = Value::Table(table);
        let mut value = file.clone();
        for setting in settings {
            overrides::set(&mut value, setting)?;
        }
        // Only with its settings: they may be what the file lacks.
        let recipe = Self::from_value(value).map_err(|error| match Self::from_value(file) {
            Ok(_) => error,
            Err(_) => Error::invalid(path, error.to_string()),
        })?;
        // Only now, as init may be one of the overrides.
        recipe.check_start()?;
        Ok(recipe)
    }

    fn from_value(value: Value) -> Result<Self> {
        renamed::check(&value)?;
        let recipe = Self::deserialize(value)
            .map_err(|error| Error::usage(format!("recipe: {}", one_line(&error))))?;
        recipe.check()?;
        Ok(recipe)
    }

    fn check(&self) -> Result<()> {
        let (batch, accumulated) = (self.batch_size, self.gradient_accumulation_steps);
        must(
            (1..=MOST_STEPS).contains(&self.steps),
            &format!("steps must be between 1 and {MOST_STEPS}"),
        )?;
        must(batch > 0, "batch_size must be at least 1")?;
        must(
            accumulated > 0,
            "gradient_accumulation_steps must be at least 1",
        )?;
        must(
            batch.saturating_mul(accumulated) <= MOST_SAMPLES,
            &format!(
                "batch_size {batch} times gradient_accumulation_steps {accumulated} are more than {MOST_SAMPLES} \
                 samples: so many in a step cannot be meant"
            ),
        )?;
        must(
            (0.0..1.0).contains(&self.depth_dropout),
            "depth_dropout must be at least 0 and below 1",
        )?;
        must(
            self.ema_decay.is_none_or(|ema| (0.0..1.0).contains(&ema)),
            "ema_decay must be at least 0 and below 1",
        )?;
        must(
            self.checkpoint_every > 0,
            "checkpoint_every must be at least 1",
        )?;
        must(
            self.keep_checkpoints > 0,
            "keep_checkpoints must be at least 1",
        )?;
        must(
            self.loss_spike_factor > 1.0,
            "loss_spike_factor must be above 1",
        )?;
        must(self.eval_every > 0, "eval_every must be at least 1")?;
        must(self.sample_every > 0, "sample_every must be at least 1")?;
        must(!self.stages.is_empty(), "at least one [[stages]] is needed")?;
        let tower = |stage: &Stage| stage.objective.is_tower();
        must(
            self.stages.iter().all(tower) || !self.stages.iter().any(tower),
            "stages of the tower and of the language model belong in two recipes",
        )?;
        if let Some(lora) = &self.lora {
            lora.check()?;
            must(
                self.model.llm.is_none(),
                "lora adapts a trained language model, and [model.llm] makes a new one",
            )?;
            let trained = |stage: &Stage| match &stage.objective {
                Objective::Pretrain(objective) | Objective::Sft(objective) => {
                    objective.train.contains(&TrainablePart::Language)
                }
                _ => false,
            };
            must(
                self.stages.iter().any(trained),
                "lora is of the language model, which no stage trains",
            )?;
        }
        must(
            self.model.llm_weights.is_none() || self.model.llm.is_some(),
            "model.llm_weights are of the language model that [model.llm] has the sizes of",
        )?;
        must(
            self.model.generation.is_none() || self.model.llm.is_some(),
            "model.generation is of a new language model, which [model.llm] has the sizes of",
        )?;
        if let Some(defaults) = self.model.generation {
            defaults.check()?;
        }
        must(
            !self.model.no_position_embedding || self.stages.iter().all(tower),
            "model.no_position_embedding is of the vision encoder, which the tower's own recipe trains",
        )?;
        must(
            !(self.gradient_checkpointing && self.stages.iter().any(tower)),
            "gradient_checkpointing is of the language model's layers, which a tower does not have",
        )?;
        for stage in &self.stages {
            stage.check()?;
        }
        self.data.check(&self.stages)
    }

    /// The tower's stage begins with weights that are aligned, or says that it does not.
    fn check_start(&self) -> Result<()> {
        let aligned = self.init.is_some();
        for (index, stage) in self.stages.iter().enumerate() {
            let Objective::Tower(tower) = &stage.objective else {
                continue;
            };
            must(
                tower.from_scratch || aligned || index > 0,
                "the tower's stage would begin with random weights, which the paper found to fail: put a stage \
                 with objective.kind = \"align\" before it, give init, or set objective.from_scratch = true",
            )?;
            must(
                !tower.from_scratch || !aligned && index == 0,
                "objective.from_scratch is for a first stage without init: leave out what comes before it",
            )?;
        }
        must(
            self.discriminators()
                .all(|one| Some(one) == self.discriminator()),
            "objective.adversarial.layers and width must be the same in all stages",
        )
    }

    /// Errors when pictures of `size` pixels a side are too small for a loss of a stage, or a quantizer of these sizes
    /// cannot have its codes.
    pub(crate) fn check_tower(&self, size: usize, quantizer: &RqVaeSiglipConfig) -> Result<()> {
        self.tower_stages().try_for_each(|tower| {
            tower.check_picture(size)?;
            tower.check_quantizer(quantizer)
        })
    }

    /// The stages that train a tower to reconstruct.
    fn tower_stages(&self) -> impl Iterator<Item = &Tower> {
        self.stages
            .iter()
            .filter_map(|stage| match &stage.objective {
                Objective::Tower(tower) => Some(tower),
                _ => None,
            })
    }

    /// The first stage's that asks for codes of layers.
    pub(crate) fn layer_codes(&self) -> Option<LayerCodes> {
        self.tower_stages().find_map(|tower| tower.layer_codes)
    }

    /// Whether its stages are the tower's, as all are or none.
    pub fn is_tower(&self) -> bool {
        self.stages.iter().any(|stage| stage.objective.is_tower())
    }

    /// Whether a stage of a language model trains the tower as well.
    pub fn trains_tower(&self) -> bool {
        let trains = |stage: &Stage| match &stage.objective {
            Objective::Pretrain(objective) | Objective::Sft(objective) => {
                objective.train.contains(&TrainablePart::Tower)
            }
            _ => false,
        };
        self.stages.iter().any(trains)
    }

    /// The sizes of the discriminator, if a stage has one.
    pub fn discriminator(&self) -> Option<DiscriminatorConfig> {
        self.discriminators().next()
    }

    fn discriminators(&self) -> impl Iterator<Item = DiscriminatorConfig> {
        (self.stages.iter()).filter_map(|stage| match &stage.objective {
            Objective::Tower(tower) => Some(tower.adversarial?.discriminator()),
            _ => None,
        })
    }

    /// The step after which each stage ends; the last is `steps`.
    pub fn stage_ends(&self) -> Vec<u64> {
        let total: f64 = self.stages.iter().map(|stage| stage.share).sum();
        let mut sum = 0.0;
        self.stages
            .iter()
            .map(|stage| {
                sum += stage.share;
                (self.steps as f64 * sum / total).round() as u64
            })
            .collect()
    }

    /// The recipe as TOML, with every override in it.
    pub fn to_toml(&self) -> Result<String> {
        toml::to_string_pretty(self).map_err(|error| Error::failed(format!("recipe: {error}")))
    }
}

/// Errors with what must hold, if it does not.
fn must(holds: bool, what: &str) -> Result<()> {
    if holds {
        Ok(())
    } else {
        Err(Error::usage(format!("recipe: {what}")))
    }
}

fn fraction(value: f64) -> bool {
    (0.0..=1.0).contains(&value)
}

fn one_line(error: &dyn std::fmt::Display) -> String {
    let text = error.to_string();
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests;
