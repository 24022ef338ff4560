//! A recipe: one TOML file says everything about one training run.
//!
//! Unknown keys are errors, so that a misspelt key never trains the wrong thing. Any key can be set
//! from the command line by its dotted path: `steps=100`, `stages.1.optimizer.learning_rate=3e-4`.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use toml::{Table, Value};

use crate::data::{Form, Format, Source};
use crate::{Error, Result, depth};

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
    /// Samples whose gradients are computed at once.
    pub batch_size: usize,
    /// Compute with bfloat16 factors and float32 sums where a CPU is faster that way.
    #[serde(default)]
    pub mixed_precision: bool,
    /// Batches whose gradients are averaged into one optimizer step.
    #[serde(default = "one")]
    pub accumulation: usize,
    /// Dropout of the depth transformer.
    #[serde(default = "released_dropout")]
    pub dropout: f64,
    /// Steps between checkpoints; the last two are kept.
    pub checkpoint_every: u64,
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

fn one() -> usize {
    1
}

fn released_dropout() -> f64 {
    depth::DROPOUT
}

/// Sizes of the parts that start from random weights, each with the keys of that part's
/// `config.json` in a checkpoint, or as the path of such a file.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ModelRecipe {
    /// Folder with the tokenizers: `siglip/spiece.model`, `llm/tokenizer.model` and companions.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tokenizers: Option<PathBuf>,
    /// Image and text encoder (the SigLIP `config.json`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub siglip: Option<Config>,
    /// Quantizer and pixel decoder (`rqvaesiglip` in `vision_tower/config.json`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rqvaesiglip: Option<Config>,
    /// Depth transformer (`rqtransformer` in `vision_tower/config.json`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rqtransformer: Option<Config>,
    /// Language model (`llm/config.json`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub llm: Option<Config>,
    /// Projector (`mm_projector/config.json`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mm_projector: Option<Config>,
}

/// What the run learns from: files, or, without sources, the nano world.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Data {
    /// Of the nano world: share of pictures with one of the many further emoji at any place and size.
    pub gallery: f64,
    /// Threads that read and prepare samples. Of files, another number gives another order.
    pub workers: usize,
    /// Records of a source that are shuffled together, over all workers.
    pub shuffle: usize,
    /// Records that may be skipped, over the whole run; one more stops it.
    pub max_bad: u64,
    pub sources: Vec<Source>,
}

impl Default for Data {
    fn default() -> Self {
        Self {
            gallery: 0.0,
            workers: 2,
            shuffle: 1000,
            max_bad: 1000,
            sources: Vec::new(),
        }
    }
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(untagged)]
pub enum Config {
    File(PathBuf),
    Inline(Table),
}

impl Config {
    /// The configuration as the part's own type, which fills in its defaults and checks it.
    pub fn read<T: serde::de::DeserializeOwned>(&self, name: &str) -> Result<T> {
        match self {
            Self::File(path) => {
                let text = fs::read_to_string(path).map_err(Error::io(path))?;
                serde_json::from_str(&text).map_err(|error| Error::invalid(path, error.to_string()))
            }
            Self::Inline(table) => T::deserialize(Value::Table(table.clone())).map_err(|error| {
                Error::usage(format!("recipe, [model.{name}]: {}", one_line(&error)))
            }),
        }
    }
}

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

fn whole() -> f64 {
    1.0
}

/// What is trained, and on which losses.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Objective {
    /// Vision and text encoder against each other; stands for starting from aligned weights.
    Align(Align),
    /// Contrastive on quantized features + reconstruction; the text encoder is frozen.
    Tower(Tower),
    /// Next-token prediction on [image, text] and [text, image]; the tower is frozen.
    Pretrain(Mixture),
    /// The same on questions and answers, drawing kept in the mixture.
    Sft(Mixture),
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Align {}

/// Weights of the tower's losses (paper section 3.1): the total is
/// `contrastive * L_contra + reconstruction * (pixel_weight * L_pixel + commitment * L_commit)`.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Tower {
    pub contrastive: f64,
    pub reconstruction: f64,
    #[serde(default = "whole")]
    pub pixel_weight: f64,
    pub commitment: f64,
    pub pixel: PixelLoss,
}

#[derive(Clone, Copy, Debug, Deserialize, Serialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum PixelLoss {
    /// Mean absolute difference.
    L1,
    /// Mean squared difference.
    L2,
}

/// How often each form of sample is drawn (relative; of the nano world only, files have theirs), and
/// the caption dropout that makes classifier-free guidance possible.
#[derive(Clone, Debug, Deserialize, Serialize)]
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
    /// Probability that a generation sample's caption is replaced by the empty prompt.
    pub drop_caption: f64,
    /// Probability that a random part of a generation sample's visual tokens is hidden from the
    /// model, which then has to draw the rest from the caption.
    #[serde(default)]
    pub hide_visual: f64,
}

/// AdamW with warm-up, cosine decay and clipping by the global norm.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Optimizer {
    /// The highest learning rate, reached at the end of the warm-up.
    pub learning_rate: f64,
    /// What is left of it at the end of the stage, as a fraction.
    #[serde(default)]
    pub floor: f64,
    /// Fraction of the stage's steps over which the learning rate rises from zero.
    pub warm_up: f64,
    /// Applied to matrices, convolutions and embeddings; never to biases and norms.
    pub weight_decay: f64,
    pub betas: [f64; 2],
    /// Gradients whose global norm is larger are scaled down to it.
    pub clip: f64,
}

impl Recipe {
    /// Reads a recipe file and applies `key=value` overrides in order.
    ///
    /// # Errors
    /// A missing file, a syntax error, an unknown key or an impossible value, by name.
    pub fn load(path: &Path, overrides: &[String]) -> Result<Self> {
        let text = fs::read_to_string(path).map_err(Error::io(path))?;
        Self::parse(&text, path, overrides)
    }

    /// The recipe `text`, which errors call `path`, with `key=value` overrides applied in order.
    ///
    /// # Errors
    /// A syntax error, an unknown key or an impossible value, by name.
    pub fn parse(text: &str, path: &Path, overrides: &[String]) -> Result<Self> {
        let table: Table =
            toml::from_str(text).map_err(|error| Error::invalid(path, one_line(&error)))?;
        let mut value = Value::Table(table);
        Self::from_value(value.clone()).map_err(|error| Error::invalid(path, error.to_string()))?;
        for setting in overrides {
            set(&mut value, setting)?;
        }
        Self::from_value(value)
    }

    fn from_value(value: Value) -> Result<Self> {
        let recipe = Self::deserialize(value)
            .map_err(|error| Error::usage(format!("recipe: {}", one_line(&error))))?;
        recipe.check()?;
        Ok(recipe)
    }

    fn check(&self) -> Result<()> {
        let must = |holds: bool, what: &str| match holds {
            true => Ok(()),
            false => Err(Error::usage(format!("recipe: {what}"))),
        };
        must(self.steps > 0, "steps must be at least 1")?;
        must(self.batch_size > 0, "batch_size must be at least 1")?;
        must(self.accumulation > 0, "accumulation must be at least 1")?;
        must(
            (0.0..1.0).contains(&self.dropout),
            "dropout must be at least 0 and below 1",
        )?;
        must(
            self.checkpoint_every > 0,
            "checkpoint_every must be at least 1",
        )?;
        must(self.eval_every > 0, "eval_every must be at least 1")?;
        must(self.sample_every > 0, "sample_every must be at least 1")?;
        must(!self.stages.is_empty(), "at least one [[stages]] is needed")?;
        let tower =
            |stage: &Stage| matches!(stage.objective, Objective::Align(_) | Objective::Tower(_));
        must(
            self.stages.iter().all(tower) || !self.stages.iter().any(tower),
            "stages of the tower and of the language model belong in two recipes",
        )?;
        self.check_data()?;
        for stage in &self.stages {
            must(stage.share > 0.0, "a stage's share must be above 0")?;
            let optimizer = &stage.optimizer;
            must(
                optimizer.learning_rate > 0.0 && optimizer.learning_rate.is_finite(),
                "optimizer.learning_rate must be above 0",
            )?;
            let fraction = |value: f64| (0.0..=1.0).contains(&value);
            must(
                fraction(optimizer.floor),
                "optimizer.floor must be between 0 and 1",
            )?;
            must(
                fraction(optimizer.warm_up),
                "optimizer.warm_up must be between 0 and 1",
            )?;
            must(
                optimizer.weight_decay >= 0.0,
                "optimizer.weight_decay must not be negative",
            )?;
            must(optimizer.clip > 0.0, "optimizer.clip must be above 0")?;
            must(
                optimizer.betas.iter().all(|beta| (0.0..1.0).contains(beta)),
                "optimizer.betas must be at least 0 and below 1",
            )?;
            if let Objective::Pretrain(mixture) | Objective::Sft(mixture) = &stage.objective {
                let kinds = [mixture.caption, mixture.generation, mixture.question];
                let sum: f64 = kinds.iter().sum();
                let nano = self.data.sources.is_empty();
                must(
                    !nano || kinds.iter().all(|weight| *weight >= 0.0) && sum > 0.0,
                    "caption, generation and question are weights, and one must be above 0",
                )?;
                must(
                    nano || sum == 0.0,
                    "caption, generation and question weigh the nano world: [[data.sources]] have weights of their own",
                )?;
                must(
                    fraction(mixture.drop_caption),
                    "drop_caption must be between 0 and 1",
                )?;
                must(
                    fraction(mixture.hide_visual),
                    "hide_visual must be between 0 and 1",
                )?;
            }
        }
        Ok(())
    }

    fn check_data(&self) -> Result<()> {
        let data = &self.data;
        let must = |holds: bool, what: &str| match holds {
            true => Ok(()),
            false => Err(Error::usage(format!("recipe: data.{what}"))),
        };
        must(
            (0.0..=1.0).contains(&data.gallery),
            "gallery must be between 0 and 1",
        )?;
        must(
            (1..=64).contains(&data.workers),
            "workers must be between 1 and 64",
        )?;
        must(data.shuffle > 0, "shuffle must be at least 1")?;
        if data.sources.is_empty() {
            return Ok(());
        }
        must(
            data.gallery == 0.0,
            "gallery is of the nano world, which data.sources take the place of",
        )?;
        let trained = data.sources.iter().filter(|source| !source.held_out);
        must(
            trained.map(|source| source.weight).sum::<f64>() > 0.0,
            "sources: one that is not held_out must have a weight above 0",
        )?;
        let stage = |wanted: fn(&Objective) -> bool| {
            let mut stages = self.stages.iter();
            stages.any(|stage| wanted(&stage.objective))
        };
        let pretrains = stage(|objective| matches!(objective, Objective::Pretrain(_)));
        let language = pretrains || stage(|objective| matches!(objective, Objective::Sft(_)));
        for (index, source) in data.sources.iter().enumerate() {
            let must = |holds: bool, what: &str| must(holds, &format!("sources.{index}: {what}"));
            must(
                source.weight >= 0.0 && source.weight.is_finite(),
                "weight must not be negative",
            )?;
            let video = source.format == Format::OpenVid;
            must(
                language || !video,
                "the tower learns from pictures, not from videos",
            )?;
            must(
                source.form.is_some() || !source.format.captions() || !language,
                "form is needed: \"caption\" or \"generation\"",
            )?;
            must(
                source.form.is_none()
                    || source.format.captions()
                    || source.format == Format::Parquet,
                "form is of captions; conversations and pages have theirs",
            )?;
            must(
                !(video && pretrains && source.form == Some(Form::Caption)),
                "videos are only described in fine-tuning: use form = \"generation\", or kind = \"sft\"",
            )?;
        }
        Ok(())
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

/// `key.path=value`: the value is TOML where it parses as TOML, and a plain string otherwise.
fn set(recipe: &mut Value, setting: &str) -> Result<()> {
    let Some((key, text)) = setting.split_once('=') else {
        return Err(Error::usage(format!(
            "--set {setting}: write it as key=value, for example --set steps=100"
        )));
    };
    let text = text.trim();
    let value = match toml::from_str::<Table>(&format!("value = {text}")) {
        Ok(mut parsed) => parsed.remove("value").unwrap_or(Value::String(text.into())),
        Err(_) => Value::String(text.into()),
    };
    // A misspelt key is caught by name when the whole recipe is read.
    let mut place = recipe;
    let (parents, last) = key.trim().rsplit_once('.').unwrap_or(("", key.trim()));
    for part in parents.split('.').filter(|part| !part.is_empty()) {
        place = child(place, part).ok_or_else(|| no_such(key, part))?;
    }
    *child(place, last).ok_or_else(|| no_such(key, last))? = value;
    Ok(())
}

/// The value under a key; a table that is not there yet is made.
fn child<'a>(value: &'a mut Value, key: &str) -> Option<&'a mut Value> {
    match value {
        Value::Table(table) => Some(table.entry(key).or_insert(Value::Table(Table::new()))),
        Value::Array(items) => items.get_mut(key.parse::<usize>().ok()?),
        _ => None,
    }
}

fn no_such(key: &str, part: &str) -> Error {
    Error::usage(format!("--set {key}: the recipe has no `{part}` there"))
}

fn one_line(error: &dyn std::fmt::Display) -> String {
    let text = error.to_string();
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"
        out = "runs/x"
        seed = 1
        steps = 10
        batch_size = 4
        checkpoint_every = 5
        eval_every = 5
        sample_every = 5

        [[stages]]
        share = 1.0
        objective = { kind = "align" }
        optimizer = { learning_rate = 1e-3, warm_up = 0.1, weight_decay = 0.0, betas = [0.9, 0.98], clip = 1.0 }

        [[stages]]
        share = 3.0
        objective = { kind = "tower", contrastive = 1.0, reconstruction = 1.0, commitment = 0.25, pixel = "l1" }
        optimizer = { learning_rate = 1e-3, warm_up = 0.1, weight_decay = 0.0, betas = [0.9, 0.98], clip = 1.0 }
    "#;

    fn load(text: &str, overrides: &[&str]) -> Result<Recipe> {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("recipe.toml");
        fs::write(&path, text).expect("write");
        let overrides: Vec<String> = overrides.iter().map(|text| text.to_string()).collect();
        Recipe::load(&path, &overrides)
    }

    #[test]
    fn overrides_reach_every_level() {
        let recipe = load(
            TEXT,
            &[
                "steps=40",
                "out=/tmp/a b",
                "stages.1.optimizer.learning_rate=3e-4",
                "stages.1.optimizer.betas.1=0.5",
                "stages.1.objective.pixel=l2",
                "model.tokenizers=somewhere",
            ],
        )
        .expect("a recipe");
        assert_eq!(recipe.steps, 40);
        assert_eq!(recipe.out, PathBuf::from("/tmp/a b"));
        assert_eq!(recipe.stages[1].optimizer.learning_rate, 3e-4);
        assert_eq!(recipe.stages[1].optimizer.betas, [0.9, 0.5]);
        assert!(matches!(
            &recipe.stages[1].objective,
            Objective::Tower(Tower {
                pixel: PixelLoss::L2,
                ..
            })
        ));
        assert_eq!(recipe.stage_ends(), [10, 40]);
        let again: Recipe = toml::from_str(&recipe.to_toml().expect("toml")).expect("a recipe");
        assert_eq!(
            again.to_toml().expect("toml"),
            recipe.to_toml().expect("toml")
        );
    }

    #[test]
    fn mistakes_are_named() {
        for (overrides, expected) in [
            (vec!["stpes=1"], "stpes"),
            (vec!["steps=0"], "steps"),
            (vec!["dropout=1"], "dropout"),
            (vec!["steps=many"], "invalid type"),
            (vec!["steps"], "key=value"),
            (vec!["stages.7.share=1"], "`7`"),
            (vec!["modle.llm=1"], "modle"),
            (vec!["steps.more=1"], "`more`"),
            (vec!["stages.0.objective.pixel=l1"], "pixel"),
            (vec!["stages.1.objective.pixel=l3"], "l3"),
            (vec!["stages.0.optimizer.clip=0"], "clip"),
        ] {
            let error = load(TEXT, &overrides).expect_err("an error").to_string();
            assert!(error.contains(expected), "{overrides:?}: {error}");
            assert!(!error.contains('\n'), "{error}");
        }
        let error = load(&TEXT.replace("seed", "sede"), &[]).expect_err("an error");
        assert!(error.to_string().contains("sede"), "{error}");
    }
}
