//! One optimizer step: losses and gradients of its batches on every rank, then the update.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use burn::tensor::Tensor;
use vila_u_kernels::{mixed_precision, seed_dropout};

use super::checkpointing::Halt;
use super::objective::{BatchResult, Sample, forward_backward};
use super::stage::StageSteps;
use super::{Objective, Throughput, Trainer};
use crate::data::seed::mix;
use crate::training::data::dataloader::DataLoader;
use crate::training::model::checkpointer::Checkpointer;
use crate::training::optimizer::{Gradients, Norms, Place, Shards, ema, schedule};
use crate::training::run_folder::failure::{Failure, Origin};
use crate::{Error, Result};

/// What the batches of a step come to on one rank.
#[derive(Default)]
struct Accumulated {
    gradients: Gradients,
    /// Of each batch, by name, and not read yet.
    losses: Vec<BTreeMap<&'static str, Tensor<1>>>,
    tokens: usize,
    /// Waited for data.
    waiting: Duration,
    /// Where the samples of each batch are from.
    origins: Vec<Vec<Origin>>,
}

/// What is read of a step once it is computed.
struct Outcome {
    /// The 2-norms of the gradients, the model's and its adversary's.
    norms: [f64; 2],
    /// Of each batch, by name.
    losses: Vec<BTreeMap<String, f64>>,
}

impl Outcome {
    /// In one transfer.
    fn read(norms: Norms, losses: Vec<BTreeMap<&'static str, Tensor<1>>>) -> Result<Self> {
        let tensors = losses.iter().flat_map(BTreeMap::values).cloned().collect();
        let (norms, values) = norms.read_with(tensors)?;
        let mut values = values.into_iter();
        let losses = losses.into_iter().map(|batch| {
            let names = batch.into_keys().map(String::from);
            names.zip(values.by_ref()).collect()
        });
        Ok(Self {
            norms,
            losses: losses.collect(),
        })
    }
}

/// A step that takes longer was not meant.
const LONGEST_STEP: Duration = Duration::from_secs(365 * 24 * 3600);

/// Refuses a step of `count` batches of which the first `done` took so long that it would not end in a year.
fn check_duration(elapsed: Duration, done: usize, count: usize) -> Result<()> {
    let step = elapsed.as_secs_f64() * count as f64 / done as f64;
    let years = step / LONGEST_STEP.as_secs_f64();
    if years < 1.0 {
        return Ok(());
    }
    Err(Error::usage(format!(
        "a step of {count} batches would take about {years:.1} years: lower gradient_accumulation_steps"
    )))
}

impl<C: Checkpointer> Trainer<'_, C> {
    /// Takes a step. Returns its metrics and how fast it was.
    pub(super) fn train_step<O: Objective<C::Model>>(
        &mut self,
        objective: &O,
        samples: &mut DataLoader<Sample<C::Model, O>>,
        stage: StageSteps,
    ) -> std::result::Result<(BTreeMap<String, f64>, Throughput), Halt> {
        let start = Instant::now();
        let recipe = self.recipe;
        let ranks = self.group.world_size();
        // Seeded by the step, dropout is the same after a resume.
        let number = self.step * ranks as u64 + self.group.rank() as u64;
        let seed = mix(recipe.seed, number);
        self.device.seed(seed);
        seed_dropout(seed);
        let mut step = self.accumulate(objective, samples)?;

        let shards = Shards::new(&self.model, &self.group);
        step.gradients.reduce_scatter_mean(&self.model, &shards)?;
        let settings = &recipe.stages[stage.index].optimizer;
        let is_adversary = |path: &str| objective.is_adversary(path);
        let norms = step.gradients.clip_norm(
            &self.model,
            &shards,
            settings.max_grad_norm,
            &is_adversary,
            self.place,
        )?;
        // Nothing before this waits for the device, but for the codes of pictures that were not seen before.
        let Outcome { norms, losses } = Outcome::read(norms, std::mem::take(&mut step.losses))?;
        // A batch that fails is known to its rank, what all of them come to is known to every rank.
        let failure = self
            .group
            .all_gather(self.failure(&losses, &step.origins))?;
        if let Some(failure) = failure.into_iter().flatten().next() {
            return Err(Halt::Failure(failure));
        }
        let (mut metrics, tokens, waiting) = self.reduce(losses, &step)?;
        self.data.exchange()?;
        let loss = metrics.get("loss").copied().unwrap_or_default();
        self.check_step(norms.iter().sum(), loss, &metrics, step.origins)?;
        self.recent_losses.push(loss);

        let (done, steps) = (self.step - stage.first, stage.end - stage.first);
        let learning_rate = schedule::learning_rate(settings, done, steps);
        self.update(step.gradients, learning_rate, stage, &shards)?;
        metrics.insert("gradient_norm".into(), norms[0]);
        metrics.insert("learning_rate".into(), learning_rate);
        let throughput = Throughput {
            seconds: start.elapsed().as_secs_f64(),
            samples: (recipe.batch_size * recipe.gradient_accumulation_steps * ranks) as f64,
            tokens: tokens as f64,
            waiting,
        };
        Ok((metrics, throughput))
    }

    /// Forward and backward passes of this rank's batches of a step.
    fn accumulate<O: Objective<C::Model>>(
        &mut self,
        objective: &O,
        samples: &mut DataLoader<Sample<C::Model, O>>,
    ) -> Result<Accumulated> {
        let (step, count) = (self.step, self.recipe.gradient_accumulation_steps);
        let use_mixed_precision = self.recipe.mixed_precision;
        let compute = |model: &mut C::Model, (batch, sum)| -> Result<BatchResult> {
            let run = || forward_backward(objective, model, batch, sum, step, count);
            if use_mixed_precision {
                mixed_precision(run)
            } else {
                run()
            }
        };
        let parallel = if objective.is_parallel() {
            self.pool.count()
        } else {
            1
        };
        let began = Instant::now();
        let mut all = Accumulated::default();
        while all.origins.len() < count {
            let first = all.origins.len();
            let asked = Instant::now();
            let mut batches = Vec::new();
            for _ in 0..parallel.min(count - first) {
                let loaded = samples.next_batch(self.recipe.batch_size, &mut self.data)?;
                let loaded = loaded.into_iter().map(|one| (one.origin, one.sample));
                let (origins, batch): (_, Vec<_>) = loaded.unzip();
                all.origins.push(origins);
                // A GPU has no room for the gradients of a batch beside their sum. A CPU computes batches in parallel.
                let sum = match self.place {
                    Place::Device => std::mem::take(&mut all.gradients),
                    Place::Host => Gradients::default(),
                };
                batches.push((batch, sum));
            }
            all.waiting += asked.elapsed();
            all.tokens += (batches.iter().flat_map(|(batch, _)| batch))
                .map(|sample| objective.tokens(sample))
                .sum::<usize>();
            let computed = self.pool.run(&mut self.model, batches, compute)?;
            if first == 0 {
                check_duration(began.elapsed(), all.origins.len(), count)?;
            }
            for (losses, gradients) in computed {
                all.losses.push(losses);
                all.gradients.add(gradients);
            }
        }
        Ok(all)
    }

    /// The first batch with a loss that is not finite.
    fn failure(
        &self,
        losses: &[BTreeMap<String, f64>],
        origins: &[Vec<Origin>],
    ) -> Option<Failure> {
        let mut batches = losses.iter().zip(origins);
        batches.find_map(|(losses, origins)| {
            let (name, value) = losses.iter().find(|(_, value)| !value.is_finite())?;
            let reason = format!("the {name} became {value}");
            Some(Failure::new(self.step + 1, reason, losses, origins))
        })
    }

    /// The means of the losses over the batches of all ranks, the tokens of all ranks, and the seconds that a
    /// rank waited for data.
    fn reduce(
        &self,
        losses: Vec<BTreeMap<String, f64>>,
        step: &Accumulated,
    ) -> Result<(BTreeMap<String, f64>, usize, f64)> {
        let mut by_name: BTreeMap<String, Vec<u64>> = BTreeMap::new();
        for (name, value) in losses.into_iter().flatten() {
            // As bits: text would round them.
            by_name.entry(name).or_default().push(value.to_bits());
        }
        let own = (by_name, step.tokens, step.waiting.as_secs_f64());
        let mut all: BTreeMap<String, Vec<f64>> = BTreeMap::new();
        let (mut tokens, mut waiting) = (0, 0.0);
        for (losses, read, waited) in self.group.all_gather(own)? {
            for (name, values) in losses {
                let values = values.into_iter().map(f64::from_bits);
                all.entry(name).or_default().extend(values);
            }
            tokens += read;
            waiting += waited / self.group.world_size() as f64;
        }
        // Not every batch has every loss.
        let mean = |values: Vec<f64>| values.iter().sum::<f64>() / values.len() as f64;
        let means = all.into_iter().map(|(name, values)| (name, mean(values)));
        Ok((means.collect(), tokens, waiting))
    }

    /// Fails a step whose gradient or loss is not finite, or whose loss is a spike.
    fn check_step(
        &self,
        norm: f64,
        loss: f64,
        metrics: &BTreeMap<String, f64>,
        origins: Vec<Vec<Origin>>,
    ) -> std::result::Result<(), Halt> {
        let limit = self
            .recent_losses
            .spike_limit(self.recipe.loss_spike_factor);
        let reason = if !norm.is_finite() {
            format!("the gradient norm became {norm}")
        } else if !loss.is_finite() {
            format!("the loss became {loss}")
        } else if loss > limit {
            format!("the loss spiked to {loss:.4} (above {limit:.4}, see `loss_spike_factor`)")
        } else {
            return Ok(());
        };
        let origins = self.group.all_gather(origins.concat())?.concat();
        let failure = Failure::new(self.step + 1, reason, metrics, &origins);
        Err(Halt::Failure(failure))
    }

    fn update(
        &mut self,
        gradients: Gradients,
        learning_rate: f64,
        stage: StageSteps,
        shards: &Shards,
    ) -> Result<()> {
        let settings = &self.recipe.stages[stage.index].optimizer;
        let model = self.model.clone();
        self.model = self.optimizer.step(
            model,
            gradients,
            learning_rate,
            settings,
            shards,
            self.place,
        )?;
        if let (Some(decay), Some(ema)) = (self.recipe.ema_decay, self.ema.take()) {
            self.ema = Some(ema::update(ema, &self.model, decay, self.step + 1));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_of_more_than_a_year_is_refused() {
        let second = Duration::from_secs(1);
        assert!(check_duration(second, 2, 1 << 22).is_ok());
        let error = check_duration(60 * second, 2, 1 << 22).map_err(|error| error.to_string());
        assert!(error.is_err_and(|error| error.contains("4.0 years")));
    }
}
