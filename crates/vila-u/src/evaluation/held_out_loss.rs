//! How well a model predicts what a recipe holds out (paper, section 3.2): the losses of training by kind of sample, of
//! words and of the codes at each depth.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc, time::Instant};

use burn::tensor::{Tensor, TensorData};
use serde_json::{Map, json};
use sha2::{Digest, Sha256};

use super::{
    metrics::mean_of_groups,
    record::{EvaluationRecord, Identity, Interval, Metric, hex},
    sample_log::{Sample, SampleLog},
};
use crate::{
    Error, Result,
    checkpoint::{Checkpoint, WeightDtype},
    model::VilaU,
    sequence,
    teacher_forcing::{Score, VisualTokens, losses},
    training::{
        data::{
            dataloader::{FirstSamplesReader, LoadedSample, MakeSample},
            samples::{Example, SampleMaker},
        },
        objectives::held_out::{EVALUATED, HeldOutKind},
        recipe::Recipe,
    },
};

/// Samples of each kind that are looked at unless asked otherwise: as many as training's evaluations look at.
pub const SAMPLES: usize = EVALUATED;

/// What is measured, and on what.
#[derive(Clone, Debug)]
pub struct Options {
    /// What the record calls the model.
    pub model: String,
    /// How its weights were loaded.
    pub dtype: WeightDtype,
    /// What the record calls the recipe.
    pub recipe: String,
    /// The most samples of a kind.
    pub n: usize,
    /// The folder for `result.json` and `samples.jsonl`.
    pub output: PathBuf,
}

/// Gets what is under way, how many samples of it are done, and of how many at most; `false` stops the work.
pub type OnProgress<'a> = &'a mut dyn FnMut(&str, usize, usize) -> bool;

/// The losses of a model on the first `n` held-out samples of each kind that the recipe's last stage trains, and of the
/// sources that have a kind of their own. Writes the record.
///
/// With the model of a run and as many samples, these are the numbers of the run's last evaluation.
///
/// # Errors
/// A usage error of a recipe of the tower, or one that holds nothing out; those of reading the data, as in training;
/// [`Error::Interrupted`] when `on_progress` stops it; a loss that is not a number.
pub fn run(
    checkpoint: Checkpoint,
    recipe: &Recipe,
    options: &Options,
    on_progress: OnProgress,
) -> Result<EvaluationRecord> {
    let started = Instant::now();
    let (tokenizer, config) = (Arc::new(checkpoint.tokenizer), Arc::new(checkpoint.config));
    let stage = recipe.stages.last().filter(|_| !recipe.is_tower());
    let stage = stage.ok_or_else(|| {
        Error::usage(
            "a recipe of the vision tower has no losses of words and codes: measure a tower with `vila-u eval \
             reconstruction` and `vila-u eval zero-shot`",
        )
    })?;
    let maker = SampleMaker::of_stage(recipe, &stage.objective, tokenizer, config)?;
    let kinds = HeldOutKind::all(&maker.kinds(), &recipe.data);
    if kinds.is_empty() || options.n == 0 {
        return Err(Error::usage(format!(
            "{}: nothing to look at: give a source `held_out = true`, and at least one sample",
            options.recipe
        )));
    }
    let mut record = EvaluationRecord::new("loss");
    record.model = Some(Identity::of_model(&options.model, &checkpoint.files)?);
    record
        .set("n", options.n)
        .set("dtype", options.dtype.name());
    define(&mut record);
    let log = SampleLog::create(&options.output)?;
    // Without numbers: those of a run before are not of these samples.
    record.write(&options.output)?;
    let mut evaluation = Evaluation {
        model: &checkpoint.model,
        maker: &maker,
        log,
        hash: Sha256::new(),
        samples: 0,
    };
    for kind in kinds {
        let maker = maker.evaluated(kind.kinds);
        let skipped = recipe.data.max_skipped;
        let mut reader = FirstSamplesReader::new(&maker, &kind.sources, 0, skipped, options.n)?;
        let mut scores = Vec::new();
        loop {
            let mut batch = Vec::new();
            while batch.len() < recipe.batch_size
                && let Some(sample) = reader.next_sample()?
            {
                batch.push(sample);
            }
            if batch.is_empty() {
                break;
            }
            scores.extend(evaluation.score(kind.name, scores.len(), batch)?);
            if !on_progress(kind.name, scores.len(), options.n) {
                return Err(Error::Interrupted);
            }
        }
        record.metrics.extend(metrics(kind.name, &scores));
        for skipped in reader.into_skipped() {
            *record.skipped.entry(skipped.reason).or_insert(0) += 1;
        }
    }
    record.data = vec![Identity {
        name: options.recipe.clone(),
        sha256: hex(evaluation.hash),
        n: Some(evaluation.samples),
    }];
    record.seconds = started.elapsed().as_secs_f64();
    record.write(&options.output)?;
    Ok(record)
}

fn define(record: &mut EvaluationRecord) {
    let definitions = [
        (
            "text_loss",
            "mean of -log p, in nats, over the words that training predicts, each given all before it",
        ),
        (
            "visual_loss",
            "the same over the codes of the visual tokens that training predicts, all depths alike; /d: those at depth d",
        ),
        (
            "data",
            "SHA-256 over the samples as the model sees them: token ids and pixels, by kind and in order",
        ),
    ];
    let definitions = definitions.map(|(name, what)| (name.to_string(), what.to_string()));
    record.definitions = BTreeMap::from(definitions);
}

struct Evaluation<'a> {
    model: &'a VilaU,
    maker: &'a SampleMaker,
    log: SampleLog,
    hash: Sha256,
    samples: usize,
}

impl Evaluation<'_> {
    /// The scores of a batch, of whose kind `first` came before.
    fn score(
        &mut self,
        kind: &str,
        first: usize,
        batch: Vec<LoadedSample<Example>>,
    ) -> Result<Vec<Score>> {
        let model = self.model;
        let examples = || batch.iter().map(|loaded| &loaded.sample);
        for example in examples() {
            for id in example.sample.ids() {
                self.hash.update(id.to_le_bytes());
            }
            for value in &example.pixels {
                self.hash.update(value.to_le_bytes());
            }
        }
        let pixels: Vec<f32> = examples()
            .flat_map(|example| &example.pixels)
            .copied()
            .collect();
        let size = self.maker.size();
        let visual = (!pixels.is_empty()).then(|| {
            let images = pixels.len() / (3 * size * size);
            let pixels = TensorData::new(pixels, [images, 3, size, size]);
            let pixels = Tensor::from_data(pixels, &model.llm.device());
            VisualTokens::encode(&model.vision_tower.rqvaesiglip, pixels)
        });
        let samples: Vec<sequence::Sample> =
            examples().map(|example| example.sample.clone()).collect();
        let layout = self.maker.layout(&samples);
        let scores = losses(model, &layout, visual.as_ref())?.scores(&layout)?;
        for (number, (loaded, score)) in (first..).zip(batch.iter().zip(&scores)) {
            self.samples += 1;
            // Keys may come more than once.
            let id = format!("{kind}/{number}/{}", loaded.origin.key);
            let values = values(kind, score);
            if let Some((metric, _)) = values.iter().find(|(_, value)| !value.is_finite()) {
                return Err(Error::failed(format!(
                    "{id}: the model's {metric} is not a number"
                )));
            }
            let values = values.into_iter().map(|(name, value)| (name, json!(value)));
            self.log.append(&Sample {
                id,
                values: Map::from_iter(values),
            })?;
        }
        Ok(scores)
    }
}

/// The losses of one sample, by the names of the metrics.
fn values(kind: &str, score: &Score) -> Vec<(String, f64)> {
    let of = |loss: &str, value: Option<f64>| Some((format!("{kind}/{loss}"), value?));
    let depths = score.depth_losses.iter().zip(1..);
    let depths = depths.map(|(loss, depth)| (format!("{kind}/visual_loss/{depth}"), *loss));
    let both = [
        of("text_loss", score.text_loss),
        of("visual_loss", score.visual_loss),
    ];
    both.into_iter().flatten().chain(depths).collect()
}

/// The means over all words and codes of the samples of a kind.
fn metrics(kind: &str, scores: &[Score]) -> Vec<Metric> {
    let mut groups: Vec<(String, Vec<(f64, usize)>)> = Vec::new();
    for score in scores {
        for (metric, value) in values(kind, score) {
            let members = match metric.ends_with("text_loss") {
                true => score.text_tokens,
                false => score.visual_tokens,
            };
            let group = (value * members as f64, members);
            match groups.iter_mut().find(|(known, _)| *known == metric) {
                Some((_, groups)) => groups.push(group),
                None => groups.push((metric, vec![group])),
            }
        }
    }
    let metric = |(metric, groups): (String, Vec<_>)| {
        Metric::estimate(metric, mean_of_groups(&groups), Interval::Bootstrap)
    };
    groups.into_iter().map(metric).collect()
}
