//! The one training loop, for every objective.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{Device, Tensor};
use vila_u_kernels::mixed_precision;

use super::adamw::{AdamW, Gradients};
use super::failure::{Failure, Origin, Recent};
use super::format::Format;
use super::lanes::Lanes;
use super::metrics::Metrics;
use super::prefetch::{Make, Prefetch, Share};
use super::ranks::{Ranks, checksum};
use super::reading::{Place, Reading};
use super::recipe::{Recipe, Stage};
use super::recompute::Recomputed;
use super::state::Best;
use super::{curves, ema, metrics, record, schedule, state};
use crate::data::seed::mix;
use crate::data::stream::Part;
use crate::{Error, Result, atomic};

/// What is trained in a stage: the loop knows nothing about models and data but this.
pub trait Objective<M: Module>: Sync {
    /// Makes the samples, on threads of their own.
    type Make: Make;

    fn make(&self) -> &Self::Make;

    /// How many positions the model reads of a sample.
    fn tokens(&self, sample: &Sample<M, Self>) -> usize;

    /// Whether the parameter at this path is trained.
    fn trains(&self, path: &str) -> bool;

    /// Whether the gradient of the parameter at this path is clipped apart from the others: those of two models
    /// that play against each other have nothing in common.
    fn apart(&self, _path: &str) -> bool {
        false
    }

    /// Whether a step's batches may be computed side by side: `losses` neither changes the model nor
    /// draws from the device.
    fn independent(&self) -> bool;

    /// The losses of a batch. `step` seeds anything random in it.
    fn losses(&self, model: &mut M, batch: Vec<Sample<M, Self>>, step: u64) -> Result<Losses>;

    /// Measures on held-out data.
    fn evaluate(&self, model: &M) -> Result<Vec<(&'static str, f64)>>;

    /// How good the model is by what was recorded of an evaluation (`eval/NAME`): more is better. The sum
    /// of its losses with the sign turned, where there are any.
    fn score(&self, metrics: &BTreeMap<String, f64>) -> Option<f64> {
        let loss = |name: &str| name.starts_with("eval/") && name.ends_with("loss");
        let losses: Vec<f64> = (metrics.iter())
            .filter(|(name, _)| loss(name))
            .map(|(_, value)| *value)
            .collect();
        (!losses.is_empty()).then(|| -losses.iter().sum::<f64>())
    }

    /// Draws a sample sheet into the file `path`.
    fn sample(&self, model: &M, path: &Path) -> Result<()>;
}

/// A sample of an objective.
pub type Sample<M, O> = <<O as Objective<M>>::Make as Make>::Sample;

/// `total` is what is minimised; `parts` are its terms, unweighted, and anything else worth a curve.
pub struct Losses {
    pub total: Tensor<1>,
    pub parts: Vec<(&'static str, Tensor<1>)>,
    /// Gradients of `total` that are known already.
    pub found: Gradients,
    /// Layers below what `total` was recorded through, where they are computed again.
    pub layers: Option<Recomputed>,
}

/// How a run is started.
#[derive(Clone, Debug, Default)]
pub struct Start {
    /// Go on from the newest checkpoint in the run folder.
    pub resume: bool,
    /// The git revision that the program was built from, to be noted in the run folder.
    pub revision: Option<String>,
    /// Those that train together.
    pub ranks: Arc<Ranks>,
}

/// Watches and stops a run.
pub struct Watch {
    /// Called after every step.
    pub progress: Box<dyn FnMut(&Progress)>,
    /// Set it (from a signal handler, say) to save a checkpoint and stop.
    pub stop: Arc<AtomicBool>,
}

/// Where a run stands after a step.
#[derive(Clone, Debug)]
pub struct Progress {
    /// Steps done, of `steps`.
    pub step: u64,
    pub steps: u64,
    /// Index of the stage, from 0.
    pub stage: usize,
    /// Everything recorded for this step: losses by name, learning rate, gradient norm, and the
    /// evaluation if there was one.
    pub metrics: BTreeMap<String, f64>,
    /// Over the last steps, without evaluations, samples and checkpoints.
    pub pace: Pace,
    pub time_left: Duration,
}

/// How fast a step goes, and what of its time it only waits for data.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    pub seconds: f64,
    pub samples: f64,
    /// Positions that the model reads, of text and pictures.
    pub tokens: f64,
    /// Seconds.
    pub waiting: f64,
}

impl Pace {
    pub fn samples_per_second(&self) -> f64 {
        self.samples / self.seconds
    }

    pub fn tokens_per_second(&self) -> f64 {
        self.tokens / self.seconds
    }

    /// Share of the time, 0 to 1.
    pub fn waiting(&self) -> f64 {
        self.waiting / self.seconds
    }

    /// What is between both, nearer to the one before.
    fn smooth(before: Self, now: Self) -> Self {
        let smooth = |before: f64, now: f64| 0.95 * before + 0.05 * now;
        Self {
            seconds: smooth(before.seconds, now.seconds),
            samples: smooth(before.samples, now.samples),
            tokens: smooth(before.tokens, now.tokens),
            waiting: smooth(before.waiting, now.waiting),
        }
    }
}

/// One run in progress.
pub struct Run<'a, F: Format> {
    pub recipe: &'a Recipe,
    pub model: F::Model,
    /// The running mean of the model's weights, if the recipe asks for it.
    mean: Option<F::Model>,
    format: F,
    device: Device,
    /// Steps done.
    step: u64,
    optimizer: AdamW,
    ranks: Arc<Ranks>,
    /// The leader's.
    metrics: Option<Metrics>,
    watch: Watch,
    lanes: Lanes,
    /// Smoothed.
    pace: Option<Pace>,
    reading: Reading,
    best: Option<Best>,
    /// Losses of the stage.
    recent: Recent,
    /// Keeps other programs out of the run folder; the leader's.
    _lock: Option<File>,
}

/// Why a step is not taken.
enum Halt {
    /// It could not be computed.
    Error(Error),
    /// What was computed is not to be gone on with.
    Unsound(Failure),
}

impl From<Error> for Halt {
    fn from(error: Error) -> Self {
        Self::Error(error)
    }
}

impl<'a, F: Format> Run<'a, F> {
    /// Opens the run folder. With `resume` the model comes from the newest checkpoint in it,
    /// otherwise from `new`; so it does when the run was cut off before its first checkpoint.
    ///
    /// # Errors
    /// When the folder already holds a run and this is not to resume it, or the other way round.
    pub fn open(
        recipe: &'a Recipe,
        format: F,
        device: &Device,
        start: Start,
        watch: Watch,
        new: impl FnOnce() -> F::Model,
    ) -> Result<Self> {
        let Start {
            resume,
            revision,
            ranks,
        } = start;
        let out = &recipe.out;
        let count = ranks.count();
        let lock = match ranks.leads() {
            true => Some(record::enter(out, resume)?),
            false => None,
        };
        // The others read what the leader has found in order.
        let load = || match state::steps(out).pop() {
            Some(step) => {
                let place = state::place(out, step, &recipe.data)?;
                place.check(&recipe.data, count)?;
                let ema = recipe.ema.is_some();
                let (model, optimizer) = state::load(out, step, &format, ema, device)?;
                Ok((step, model, optimizer, place))
            }
            None => {
                let place = Place::start(&recipe.data, count)?;
                Ok((0, new(), AdamW::default(), place))
            }
        };
        let (step, model, optimizer, place) = ranks.leader_first(load)?;
        ranks.agree("the steps", || step)?;
        ranks.agree("the weights", || checksum(&model))?;
        // Only the leader evaluates and writes.
        let mean = match (recipe.ema.filter(|_| ranks.leads()), step) {
            (None, _) => None,
            (Some(_), 0) => Some(ema::start(&model)),
            (Some(_), step) => Some(state::load_mean(out, step, &format, device)?),
        };
        let metrics = match ranks.leads() {
            false => None,
            true => {
                record::sources(recipe, resume)?;
                let samples = out.join("samples");
                fs::create_dir_all(&samples).map_err(Error::io(&samples))?;
                atomic::write(&out.join("recipe.toml"), recipe.to_toml()?.as_bytes())?;
                record::started(recipe, step, revision.as_deref(), device, count)?;
                Some(Metrics::open(out, step)?)
            }
        };
        // The stage that the next step is in.
        let ends = recipe.stage_ends();
        let first = ends.into_iter().rfind(|end| *end <= step).unwrap_or(0);
        let losses: Vec<f64> = match &metrics {
            None => Vec::new(),
            Some(_) => (metrics::read(out)?.into_iter())
                .filter(|(at, _)| *at > first)
                .filter_map(|(_, values)| values.get("loss").copied())
                .collect(),
        };
        // All ranks judge by the same losses.
        let losses = ranks.gather(losses)?.concat();
        Ok(Self {
            recipe,
            model,
            mean,
            format,
            device: device.clone(),
            step,
            optimizer,
            recent: losses.into_iter().collect(),
            metrics,
            watch,
            lanes: Lanes::new(recipe.accumulation, device)?,
            pace: None,
            reading: Reading::open(out, &recipe.data, place, ranks.clone())?,
            best: state::best(out),
            ranks,
            _lock: lock,
        })
    }

    /// Trains one stage to its end; does nothing if a resumed run is past it.
    pub fn stage<O: Objective<F::Model>>(&mut self, index: usize, objective: O) -> Result<()> {
        let recipe = self.recipe;
        let ends = recipe.stage_ends();
        let first = if index == 0 { 0 } else { ends[index - 1] };
        let end = ends[index];
        if self.step >= end {
            return Ok(());
        }
        if self.step == first {
            self.optimizer = AdamW::default();
            self.recent.clear();
        }
        self.model = self.model.clone().map(&mut Freeze {
            path: Vec::new(),
            trains: &|path| objective.trains(path),
        });
        let accumulation = recipe.accumulation as u64;
        let mut samples = Prefetch::start(
            objective.make(),
            &recipe.data,
            recipe.seed,
            Share {
                rank: Part {
                    index: self.ranks.index(),
                    of: self.ranks.count(),
                },
                batch: recipe.batch_size,
            },
            &self.reading.place,
            self.step * accumulation * recipe.batch_size as u64,
        );
        while self.step < end {
            let stage = &recipe.stages[index];
            let before = (self.model.clone(), self.reading.place.clone());
            let (metrics, now) = match self.step(&objective, &mut samples, stage, first, end) {
                Ok(taken) => taken,
                Err(halt) => return Err(self.halt(halt, before)),
            };
            drop(before);
            self.step += 1;
            let pace = self.pace.map_or(now, |before| Pace::smooth(before, now));
            self.pace = Some(pace);
            let every = |interval: u64| self.step.is_multiple_of(interval) || self.step == end;
            let (evaluate, sample, save) = (
                every(recipe.eval_every),
                every(recipe.sample_every),
                every(recipe.checkpoint_every),
            );
            let leads = self.ranks.leads();
            let metrics = self
                .record(&objective, metrics, now, evaluate && leads, sample && leads)
                .map_err(|error| self.keep(error))?;
            let score = objective.score(&metrics);
            let best = Best::after(self.best.as_ref(), self.step, index, score);
            // All ranks stop after the same step.
            let stop = self.watch.stop.load(Ordering::Relaxed);
            let stop = self.ranks.any(stop).map_err(|error| self.keep(error))?;
            if save || stop {
                let same = self.ranks.agree("the weights", || checksum(&self.model));
                // Weights that differ are not kept.
                same.map_err(|error| match self.ranks.lost() {
                    true => self.keep(error),
                    false => error,
                })?;
            }
            if leads && (save || stop || best.is_some()) {
                self.save(best)?;
            }
            if leads && (evaluate || save || stop) {
                curves::draw(&recipe.out).map_err(|error| self.keep(error))?;
            }
            (self.watch.progress)(&Progress {
                step: self.step,
                steps: recipe.steps,
                stage: index,
                metrics,
                pace,
                time_left: Duration::from_secs_f64(
                    pace.seconds * (recipe.steps - self.step) as f64,
                ),
            });
            if stop && self.step < recipe.steps {
                return Err(Error::Interrupted);
            }
        }
        Ok(())
    }

    /// Records a step that was taken, and what it came to. Returns all that there is to say of it.
    fn record<O: Objective<F::Model>>(
        &mut self,
        objective: &O,
        mut metrics: BTreeMap<String, f64>,
        pace: Pace,
        evaluate: bool,
        sample: bool,
    ) -> Result<BTreeMap<String, f64>> {
        metrics.extend([
            ("seconds".into(), pace.seconds),
            ("samples_per_second".into(), pace.samples_per_second()),
            ("tokens_per_second".into(), pace.tokens_per_second()),
            ("waiting".into(), pace.waiting()),
        ]);
        let evaluated = match evaluate {
            true => objective.evaluate(self.finished()),
            false => Ok(Vec::new()),
        };
        for (name, value) in evaluated.iter().flatten() {
            metrics.insert(format!("eval/{name}"), *value);
        }
        // A step that cannot be evaluated was taken, too.
        if let Some(file) = &mut self.metrics {
            file.write(self.step, &metrics)?;
        }
        evaluated?;
        if sample {
            let name = format!("step-{:08}.png", self.step);
            objective.sample(self.finished(), &self.recipe.out.join("samples").join(name))?;
        }
        Ok(metrics)
    }

    /// What the run has made so far.
    fn finished(&self) -> &F::Model {
        self.mean.as_ref().unwrap_or(&self.model)
    }

    /// Leaves the finished model in the run folder and says where. A model that is there may be that of fewer
    /// steps: it is written again even where nothing was left to train.
    pub fn finish(self) -> Result<PathBuf> {
        let place = self.recipe.out.join("model");
        if self.ranks.leads() {
            self.format.finish(self.finished(), &place)?;
        }
        Ok(place)
    }

    /// Writes a checkpoint, and which is the best; then removes old ones.
    fn save(&mut self, best: Option<Best>) -> Result<()> {
        self.write()?;
        let out = &self.recipe.out;
        if let Some(best) = best {
            state::set_best(out, &best)?;
            self.best = Some(best);
        }
        state::rotate(out, self.recipe.keep, self.best.as_ref())
    }

    /// Writes a checkpoint.
    fn write(&self) -> Result<()> {
        let (out, place) = (&self.recipe.out, &self.reading.place);
        let (model, optimizer) = (&self.model, &self.optimizer);
        if let Some(metrics) = &self.metrics {
            metrics.sync()?;
        }
        let mean = self.mean.as_ref();
        state::save(out, self.step, &self.format, model, mean, optimizer, place)
    }

    /// Keeps the state `before` the step that is not taken, and says why it is not.
    fn halt(&mut self, halt: Halt, before: (F::Model, Place)) -> Error {
        (self.model, self.reading.place) = before;
        let failure = match halt {
            Halt::Error(error) => return self.keep(error),
            Halt::Unsound(failure) => failure,
        };
        if !self.ranks.leads() {
            return Error::failed(failure.reason);
        }
        let out = &self.recipe.out;
        let kept = match self.write_unless_written().and(failure.write(out)) {
            Ok(()) => {
                // The weights may have been ruined before it showed.
                let again = state::instead(out, self.step)
                    .map(|instead| format!(" (if it fails again, {instead})"));
                format!(
                    "the checkpoint of step {} is kept, just before it{}",
                    self.step,
                    again.unwrap_or_default()
                )
            }
            Err(error) => error.to_string(),
        };
        Error::failed(format!(
            "{} at step {}: lower the learning rate or raise the warm-up; {kept}; the samples are in failed.json: {}",
            failure.reason,
            failure.step,
            failure.named()
        ))
    }

    /// Keeps what was trained so far, if anything was, when the run cannot go on.
    fn keep(&self, error: Error) -> Error {
        if self.step == 0 || !self.ranks.leads() || self.write_unless_written().is_err() {
            return error;
        }
        match error {
            Error::Usage(_) | Error::Interrupted => error,
            error => Error::failed(format!(
                "{error}; the checkpoint of step {} is kept",
                self.step
            )),
        }
    }

    /// Old checkpoints stay: the state of a run that fails may be no good.
    fn write_unless_written(&self) -> Result<()> {
        match state::steps(&self.recipe.out).last() == Some(&self.step) {
            true => Ok(()),
            false => self.write(),
        }
    }

    /// One optimizer step: losses and gradients of its batches, then the update.
    fn step<O: Objective<F::Model>>(
        &mut self,
        objective: &O,
        samples: &mut Prefetch<Sample<F::Model, O>>,
        stage: &Stage,
        first: u64,
        end: u64,
    ) -> std::result::Result<(BTreeMap<String, f64>, Pace), Halt> {
        let start = Instant::now();
        let size = self.recipe.batch_size;
        let (mut waiting, mut tokens) = (Duration::ZERO, 0);
        // Dropout draws from the device: seeded by the step, it is the same after a resume.
        let rank = self.ranks.index() as u64;
        let draw = self.step * self.ranks.count() as u64 + rank;
        self.device.seed(mix(self.recipe.seed, draw));
        let count = self.recipe.accumulation;
        let mut gradients = Gradients::default();
        let mut values: BTreeMap<String, Vec<f64>> = BTreeMap::new();
        // Where the samples of each batch are from, and the first batch that is not sound.
        let mut origins: Vec<Vec<Origin>> = Vec::new();
        let mut unsound = None;
        let step = self.step;
        let compute = |model: &mut F::Model, batch| -> Result<Computed> {
            let run = || compute(objective, model, batch, step, count);
            match self.recipe.mixed_precision {
                true => mixed_precision(run),
                false => run(),
            }
        };
        let mut left = count;
        while left > 0 {
            let together = match objective.independent() {
                true => self.lanes.count().min(left),
                false => 1,
            };
            left -= together;
            let asked = Instant::now();
            let first = origins.len();
            let mut batches = Vec::new();
            for _ in 0..together {
                let taken = samples.next(size, &mut self.reading)?.into_iter();
                let (from, batch) = taken.map(|taken| (taken.origin, taken.sample)).unzip();
                origins.push(from);
                let batch: Vec<_> = batch;
                batches.push(batch);
            }
            waiting += asked.elapsed();
            tokens += (batches.iter().flatten())
                .map(|sample| objective.tokens(sample))
                .sum::<usize>();
            let computed = self.lanes.run(&mut self.model, batches, compute)?;
            for ((losses, found), origins) in computed.into_iter().zip(&origins[first..]) {
                for (name, value) in &losses {
                    let failure = || self.unsound(name, *value, f64::INFINITY, &losses, origins);
                    unsound = unsound.or_else(failure);
                    values.entry(name.clone()).or_default().push(*value);
                }
                gradients.add(found);
            }
        }
        gradients.mean(&self.model, &self.ranks)?;
        let apart = |path: &str| objective.apart(path);
        let [norm, other] = gradients.clip(&self.model, stage.optimizer.clip, &apart);
        // What a batch is not sound in is found by its rank, what all of them come to by every rank.
        if let Some(failure) = self.ranks.gather(unsound)?.into_iter().flatten().next() {
            return Err(Halt::Unsound(failure));
        }
        let exchanged = self.ranks.gather((values, tokens, waiting.as_secs_f64()))?;
        let mut all: BTreeMap<String, Vec<f64>> = BTreeMap::new();
        let (mut tokens, mut waiting) = (0, 0.0);
        for (values, read, waited) in exchanged {
            for (name, values) in values {
                all.entry(name).or_default().extend(values);
            }
            tokens += read;
            waiting += waited / self.ranks.count() as f64;
        }
        self.reading.exchange()?;
        // Not every batch has every loss.
        let mean = |values: Vec<f64>| values.iter().sum::<f64>() / values.len() as f64;
        let all = all.into_iter();
        let mut metrics: BTreeMap<_, _> = all.map(|(name, values)| (name, mean(values))).collect();
        let loss = metrics.get("loss").copied().unwrap_or_default();
        let limit = self.recent.limit(self.recipe.explodes);
        for (what, value, limit) in [
            ("gradient norm", norm + other, f64::INFINITY),
            ("loss", loss, limit),
        ] {
            if let Some(mut failure) = self.unsound(what, value, limit, &metrics, &[]) {
                failure.samples = self.ranks.gather(origins.concat())?.concat();
                return Err(Halt::Unsound(failure));
            }
        }
        self.recent.push(loss);
        let rate = schedule::learning_rate(&stage.optimizer, self.step - first, end - first);
        let model = self.model.clone();
        self.model = self
            .optimizer
            .step(model, gradients, rate, &stage.optimizer);
        if let (Some(decay), Some(mean)) = (self.recipe.ema, self.mean.take()) {
            self.mean = Some(ema::follow(mean, &self.model, decay, self.step + 1));
        }
        metrics.insert("gradient_norm".into(), norm);
        metrics.insert("learning_rate".into(), rate);
        let pace = Pace {
            seconds: start.elapsed().as_secs_f64(),
            samples: (size * count * self.ranks.count()) as f64,
            tokens: tokens as f64,
            waiting,
        };
        Ok((metrics, pace))
    }

    /// What is wrong with a value that is no number, or above `limit`.
    fn unsound(
        &self,
        what: &str,
        value: f64,
        limit: f64,
        losses: &BTreeMap<String, f64>,
        samples: &[Origin],
    ) -> Option<Failure> {
        if value.is_finite() && value <= limit {
            return None;
        }
        let reason = match value.is_finite() {
            false => format!("the {what} became {value}"),
            true => format!("the {what} exploded to {value:.4} (above {limit:.4}, see `explodes`)"),
        };
        Some(Failure {
            step: self.step + 1,
            reason,
            losses: (losses.iter())
                .map(|(name, value)| (name.clone(), value.to_string()))
                .collect(),
            samples: samples.to_vec(),
        })
    }
}

/// The losses of a batch by name, and a `count`th of its gradients.
type Computed = (BTreeMap<String, f64>, Gradients);

fn compute<M: Module, O: Objective<M>>(
    objective: &O,
    model: &mut M,
    batch: Vec<Sample<M, O>>,
    step: u64,
    count: usize,
) -> Result<Computed> {
    let losses = objective.losses(model, batch, step)?;
    let total = [("loss", losses.total.clone())];
    let values = total
        .into_iter()
        .chain(losses.parts)
        .map(|(name, value)| {
            (
                name.to_string(),
                f64::from(value.inner().into_scalar::<f32>()),
            )
        })
        .collect();
    let mut gradients = losses.found.scaled(1.0 / count as f32);
    // In a batch of text there is no picture for the projector to learn from, say.
    if !losses.total.is_tracked() {
        return Ok((values, gradients));
    }
    let mut tape = (losses.total / count as f64).backward();
    if let Some(layers) = losses.layers {
        let (found, below) = layers.backward(&mut tape);
        gradients.add(found);
        if let Some(below) = below {
            gradients.add(Gradients::of(model, below));
        }
    }
    gradients.add(Gradients::of(model, tape));
    Ok((values, gradients))
}

/// Gradients exactly for the parameters that are trained.
struct Freeze<'a> {
    path: Vec<String>,
    trains: &'a dyn Fn(&str) -> bool,
}

impl ModuleMapper for Freeze<'_> {
    fn enter_module(&mut self, name: &str, _container: &str) {
        self.path.push(name.to_string());
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.pop();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let trains = (self.trains)(&self.path.join("."));
        param.set_require_grad(trains)
    }
}
