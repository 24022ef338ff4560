//! A stage of a run, step after step: what is recorded, evaluated and saved between them.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use std::time::Duration;

use super::objective::freeze;
use super::{Objective, Progress, Throughput, Trainer};
use crate::data::partition::Partition;
use crate::training::data::dataloader::DataLoader;
use crate::training::distributed::checksum;
use crate::training::model::checkpointer::Checkpointer;
use crate::training::optimizer::AdamW;
use crate::training::run_folder::checkpoints::Best;
use crate::training::run_folder::curves;
use crate::{Error, Result};

/// The steps of a stage.
#[derive(Clone, Copy)]
pub(super) struct StageSteps {
    /// Index of the stage, from 0.
    pub index: usize,
    /// Steps of the run before it.
    pub first: u64,
    /// Steps of the run with it.
    pub end: u64,
}

/// What happens after a step besides recording it.
struct Due {
    evaluate: bool,
    sample: bool,
    save: bool,
}

impl<C: Checkpointer> Trainer<'_, C> {
    /// Trains one stage to its end; does nothing if a resumed run is past it.
    pub(crate) fn train_stage<O: Objective<C::Model>>(
        &mut self,
        index: usize,
        objective: O,
    ) -> Result<()> {
        let ends = self.recipe.stage_ends();
        let stage = StageSteps {
            index,
            first: if index == 0 { 0 } else { ends[index - 1] },
            end: ends[index],
        };
        if self.step >= stage.end {
            return Ok(());
        }
        if self.step == stage.first {
            self.optimizer = AdamW::default();
            self.recent_losses.clear();
        }
        self.model = freeze(self.model.clone(), &|path| objective.is_trained(path));
        let mut samples = self.load_samples(&objective);
        while self.step < stage.end {
            let before = (self.model.clone(), self.data.state.clone());
            let (metrics, throughput) = match self.train_step(&objective, &mut samples, stage) {
                Ok(taken) => taken,
                Err(halt) => return Err(self.halt(halt, before)),
            };
            drop(before);
            self.step += 1;
            let stop = self.after_step(&objective, stage, metrics, throughput)?;
            if stop && self.step < self.recipe.steps {
                return Err(Error::Interrupted);
            }
        }
        Ok(())
    }

    /// Starts the dataloader where the run stands.
    fn load_samples<O: Objective<C::Model>>(
        &self,
        objective: &O,
    ) -> DataLoader<super::objective::Sample<C::Model, O>> {
        let recipe = self.recipe;
        let per_step = recipe.gradient_accumulation_steps as u64 * recipe.batch_size as u64;
        let rank = Partition {
            rank: self.group.rank(),
            ranks: self.group.world_size(),
            batch: recipe.batch_size,
            ..Partition::WHOLE
        };
        DataLoader::start(
            objective.sample_maker(),
            &recipe.data,
            recipe.seed,
            rank,
            &self.data.state,
            self.step * per_step,
        )
    }

    /// Records a step that was taken, and evaluates, samples and saves where it is time to. Returns whether the
    /// run is to stop.
    fn after_step<O: Objective<C::Model>>(
        &mut self,
        objective: &O,
        stage: StageSteps,
        metrics: BTreeMap<String, f64>,
        now: Throughput,
    ) -> Result<bool> {
        let recipe = self.recipe;
        let throughput = self
            .throughput
            .map_or(now, |before| Throughput::average(before, now));
        self.throughput = Some(throughput);
        let is_due = |interval: u64| self.step.is_multiple_of(interval) || self.step == stage.end;
        let is_main = self.group.is_main();
        let due = Due {
            evaluate: is_due(recipe.eval_every),
            sample: is_due(recipe.sample_every) && is_main,
            save: is_due(recipe.checkpoint_every),
        };
        let metrics = self
            .record(objective, metrics, now, due.evaluate && is_main, due.sample)
            .map_err(|error| self.keep(error))?;
        let score = objective.score(&metrics);
        let best = Best::after(self.best.as_ref(), self.step, stage.index, score);
        // All ranks stop after the same step, and save together: each has a part of the optimizer's state.
        let asked = [self.watch.stop.load(Ordering::Relaxed), best.is_some()];
        let asked = self
            .group
            .all_gather(asked)
            .map_err(|error| self.keep(error))?;
        let stop = asked.iter().any(|[stop, _]| *stop);
        if due.save || stop {
            self.check_weights()?;
        }
        if due.save || stop || asked[0][1] {
            self.save(best)?;
        }
        if is_main && (due.evaluate || due.save || stop) {
            curves::plot(&recipe.out).map_err(|error| self.keep(error))?;
        }
        let steps_left = (recipe.steps - self.step) as f64;
        (self.watch.progress)(&Progress {
            step: self.step,
            steps: recipe.steps,
            stage: stage.index,
            metrics,
            throughput,
            time_left: Duration::from_secs_f64(throughput.seconds * steps_left),
        });
        Ok(stop)
    }

    /// Weights that differ between ranks are not saved.
    fn check_weights(&self) -> Result<()> {
        (self.group).check_equal("the weights", || checksum(&self.model))
    }

    /// Records a step that was taken, and what it came to. Returns all that there is to say of it.
    fn record<O: Objective<C::Model>>(
        &mut self,
        objective: &O,
        mut metrics: BTreeMap<String, f64>,
        throughput: Throughput,
        evaluate: bool,
        sample: bool,
    ) -> Result<BTreeMap<String, f64>> {
        metrics.extend([
            ("seconds".into(), throughput.seconds),
            ("samples_per_second".into(), throughput.samples_per_second()),
            ("tokens_per_second".into(), throughput.tokens_per_second()),
            ("waiting".into(), throughput.waiting()),
        ]);
        let data = &self.data.state;
        for (name, count) in [
            ("skipped", data.skipped),
            ("pictures_left_out", data.left_out),
        ] {
            if count > 0 {
                metrics.insert(name.into(), count as f64);
            }
        }
        let evaluation = if evaluate {
            objective.evaluate(self.evaluated_model())
        } else {
            Ok(Vec::new())
        };
        for (name, value) in evaluation.iter().flatten() {
            metrics.insert(format!("eval/{name}"), *value);
        }
        // A step that cannot be evaluated was taken, too.
        if let Some(file) = &mut self.metrics {
            file.write(self.step, &metrics)?;
        }
        evaluation?;
        if sample {
            let name = format!("step-{:08}.png", self.step);
            let path = self.recipe.out.join("samples").join(name);
            objective.save_samples(self.evaluated_model(), &path)?;
        }
        Ok(metrics)
    }
}
