//! The one training loop, for every objective.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{Device, Tensor};
use serde_json::{Map, Value, json};
use vila_u_kernels::mixed;

use super::adamw::{AdamW, Gradients};
use super::events::Events;
use super::format::Format;
use super::lanes::Lanes;
use super::prefetch::{Make, Prefetch};
use super::reading::{Place, Reading};
use super::recipe::{Recipe, Stage};

use super::recompute::Recomputed;
use super::{ema, schedule, state};
use crate::data::seed::mix;
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
    metrics: Metrics,
    watch: Watch,
    lanes: Lanes,
    /// Smoothed.
    pace: Option<Pace>,
    reading: Reading,
}

impl<'a, F: Format> Run<'a, F> {
    /// Opens the run folder. With `resume` the model comes from the newest checkpoint in it,
    /// otherwise from `new`.
    ///
    /// # Errors
    /// When the folder already holds a run and this is not to resume it, or the other way round.
    pub fn open(
        recipe: &'a Recipe,
        format: F,
        device: &Device,
        resume: bool,
        watch: Watch,
        new: impl FnOnce() -> F::Model,
    ) -> Result<Self> {
        let out = &recipe.out;
        let holds_run = out.join("metrics.jsonl").exists();
        let (step, model, optimizer, place) = match (resume, state::steps(out).pop()) {
            (true, Some(step)) => {
                let place = state::place(out, step)?;
                place.check(&recipe.data)?;
                let (model, optimizer) = state::load(out, step, &format, device)?;
                (step, model, optimizer, place)
            }
            (true, None) => {
                return Err(Error::usage(format!(
                    "{} holds no checkpoint to resume from: run without --resume",
                    out.display()
                )));
            }
            (false, _) if holds_run => {
                return Err(Error::usage(format!(
                    "{} already holds a run: continue it with --resume, or choose another folder \
                     with --set out=FOLDER",
                    out.display()
                )));
            }
            (false, _) => {
                let place = Place::start(&recipe.data)?;
                (0, new(), AdamW::default(), place)
            }
        };
        let mean = match (recipe.ema, resume) {
            (Some(_), true) => state::load_mean(out, step, &format, device)?,
            _ => None,
        };
        let mean = recipe
            .ema
            .map(|_| mean.unwrap_or_else(|| ema::start(&model)));
        let samples = out.join("samples");
        fs::create_dir_all(&samples).map_err(Error::io(&samples))?;
        atomic::write(&out.join("recipe.toml"), recipe.to_toml()?.as_bytes())?;
        Ok(Self {
            recipe,
            model,
            mean,
            format,
            device: device.clone(),
            step,
            optimizer,
            metrics: Metrics::open(out, step)?,
            watch,
            lanes: Lanes::new(recipe.accumulation, device)?,
            pace: None,
            reading: Reading::open(out, &recipe.data, place)?,
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
            recipe.batch_size,
            &self.reading.place,
            self.step * accumulation * recipe.batch_size as u64,
        );
        while self.step < end {
            let stage = &recipe.stages[index];
            let (mut metrics, now) = self.step(&objective, &mut samples, stage, first, end)?;
            metrics.extend([
                ("seconds".into(), now.seconds),
                ("samples_per_second".into(), now.samples_per_second()),
                ("tokens_per_second".into(), now.tokens_per_second()),
                ("waiting".into(), now.waiting()),
            ]);
            self.step += 1;
            let pace = self.pace.map_or(now, |before| Pace::smooth(before, now));
            self.pace = Some(pace);
            let every = |interval: u64| self.step.is_multiple_of(interval) || self.step == end;
            let (evaluate, sample, save) = (
                every(recipe.eval_every),
                every(recipe.sample_every),
                every(recipe.checkpoint_every),
            );
            if evaluate {
                for (name, value) in objective.evaluate(self.finished())? {
                    metrics.insert(format!("eval/{name}"), value);
                }
            }
            self.metrics.write(self.step, &metrics)?;
            if sample {
                let name = format!("step-{:08}.png", self.step);
                objective.sample(self.finished(), &recipe.out.join("samples").join(name))?;
            }
            let stop = self.watch.stop.load(Ordering::Relaxed);
            if save || stop {
                let (model, optimizer) = (&self.model, &self.optimizer);
                let place = &self.reading.place;
                state::save(
                    &recipe.out,
                    self.step,
                    &self.format,
                    model,
                    self.mean.as_ref(),
                    optimizer,
                    place,
                )?;
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

    /// What the run has made so far.
    fn finished(&self) -> &F::Model {
        self.mean.as_ref().unwrap_or(&self.model)
    }

    /// Leaves the finished model in the run folder and says where.
    pub fn finish(self) -> Result<PathBuf> {
        let place = self.recipe.out.join("model");
        // A run that is resumed after its end has nothing left to do.
        if !place.exists() {
            self.format.finish(self.finished(), &place)?;
        }
        Ok(place)
    }

    /// One optimizer step: losses and gradients of its batches, then the update.
    fn step<O: Objective<F::Model>>(
        &mut self,
        objective: &O,
        samples: &mut Prefetch<Sample<F::Model, O>>,
        stage: &Stage,
        first: u64,
        end: u64,
    ) -> Result<(BTreeMap<String, f64>, Pace)> {
        let start = Instant::now();
        let size = self.recipe.batch_size;
        let (mut waiting, mut tokens) = (Duration::ZERO, 0);
        // Dropout draws from the device: seeded by the step, it is the same after a resume.
        self.device.seed(mix(self.recipe.seed, self.step));
        let count = self.recipe.accumulation;
        let mut gradients = Gradients::default();
        let mut values: BTreeMap<_, Vec<f64>> = BTreeMap::new();
        let step = self.step;
        let compute = |model: &mut F::Model, batch| -> Result<Computed> {
            let run = || compute(objective, model, batch, step, count);
            match self.recipe.mixed_precision {
                true => mixed(run),
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
            let batches: Vec<_> = (0..together)
                .map(|_| samples.next(size, &mut self.reading))
                .collect::<Result<_>>()?;
            waiting += asked.elapsed();
            tokens += (batches.iter().flatten())
                .map(|sample| objective.tokens(sample))
                .sum::<usize>();
            for (losses, found) in self.lanes.run(&mut self.model, batches, compute)? {
                for (name, value) in losses {
                    self.finite(name, value)?;
                    values.entry(name).or_default().push(value);
                }
                gradients.add(found);
            }
        }
        let apart = |path: &str| objective.apart(path);
        let [norm, other] = gradients.clip(&self.model, stage.optimizer.clip, &apart);
        self.finite("gradient norm", norm + other)?;
        let rate = schedule::learning_rate(&stage.optimizer, self.step - first, end - first);
        let model = self.model.clone();
        self.model = self
            .optimizer
            .step(model, gradients, rate, &stage.optimizer);
        if let (Some(decay), Some(mean)) = (self.recipe.ema, self.mean.take()) {
            self.mean = Some(ema::follow(mean, &self.model, decay, self.step + 1));
        }
        // Not every batch has every loss.
        let mean = |values: Vec<f64>| values.iter().sum::<f64>() / values.len() as f64;
        let mut metrics: BTreeMap<String, f64> = values
            .into_iter()
            .map(|(name, values)| (name.to_string(), mean(values)))
            .collect();
        metrics.insert("gradient_norm".into(), norm);
        metrics.insert("learning_rate".into(), rate);
        let pace = Pace {
            seconds: start.elapsed().as_secs_f64(),
            samples: (size * count) as f64,
            tokens: tokens as f64,
            waiting: waiting.as_secs_f64(),
        };
        Ok((metrics, pace))
    }

    fn finite(&self, what: &str, value: f64) -> Result<()> {
        if value.is_finite() {
            return Ok(());
        }
        let kept = match state::steps(&self.recipe.out).last() {
            Some(step) => format!("the checkpoint of step {step} is kept"),
            None => "no checkpoint was written yet".to_string(),
        };
        Err(Error::failed(format!(
            "the {what} became {value} at step {}: lower the learning rate or raise the warm-up; {kept}",
            self.step + 1
        )))
    }
}

/// The losses of a batch by name, and a `count`th of its gradients.
type Computed = (Vec<(&'static str, f64)>, Gradients);

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
        .map(|(name, value)| (name, f64::from(value.inner().into_scalar::<f32>())))
        .collect();
    let mut tape = (losses.total / count as f64).backward();
    let mut gradients = losses.found.scaled(1.0 / count as f32);
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

/// `metrics.jsonl` and the TensorBoard file.
struct Metrics {
    path: PathBuf,
    file: File,
    events: Events,
}

impl Metrics {
    /// Continues after `step`: what a run that was cut off wrote beyond its checkpoint goes.
    fn open(out: &Path, step: u64) -> Result<Self> {
        let path = out.join("metrics.jsonl");
        let kept: String = match fs::read_to_string(&path) {
            Err(_) => String::new(),
            Ok(text) => text
                .lines()
                .filter(|line| {
                    let object: Option<Value> = serde_json::from_str(line).ok();
                    object
                        .and_then(|o| o.get("step")?.as_u64())
                        .is_some_and(|at| at <= step)
                })
                .flat_map(|line| [line, "\n"])
                .collect(),
        };
        atomic::write(&path, kept.as_bytes())?;
        let file = OpenOptions::new()
            .append(true)
            .open(&path)
            .map_err(Error::io(&path))?;
        let events = Events::create(out)?;
        Ok(Self { path, file, events })
    }

    fn write(&mut self, step: u64, metrics: &BTreeMap<String, f64>) -> Result<()> {
        let mut object = Map::from_iter([("step".to_string(), json!(step))]);
        object.extend(
            metrics
                .iter()
                .map(|(name, value)| (name.clone(), json!(value))),
        );
        let line = format!("{}\n", Value::Object(object));
        self.file
            .write_all(line.as_bytes())
            .map_err(Error::io(&self.path))?;
        self.events.scalars(
            step,
            metrics.iter().map(|(name, value)| (name.as_str(), *value)),
        )
    }
}
