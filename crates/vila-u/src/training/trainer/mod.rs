//! The one training loop, for every objective.

mod checkpointing;
pub(crate) mod microbatch_pool;
mod objective;
mod progress;
mod stage;
mod step;

use std::fs::{self, File};
use std::path::PathBuf;

use burn::tensor::Device;

use super::data::dataloader_state::{DataLoaderState, DataProgress};
use super::distributed::{ProcessGroup, checksum};
use super::model::checkpointer::Checkpointer;
use super::optimizer::{AdamW, Place, ema};
use super::recipe::Recipe;
use super::run_folder::checkpoints::{self, Best};
use super::run_folder::failure::RecentLosses;
use super::run_folder::metrics::{self, Metrics};
use super::run_folder::run_record;
use crate::{Error, Result, atomic};
use microbatch_pool::MicrobatchPool;
pub(super) use objective::{BatchLosses, Objective};
pub use progress::{Progress, Start, Throughput, Watch};

/// One run in progress.
pub(super) struct Trainer<'a, C: Checkpointer> {
    pub recipe: &'a Recipe,
    pub model: C::Model,
    /// The moving average of the model's weights, if the recipe asks for it; rank 0's.
    ema: Option<C::Model>,
    checkpointer: C,
    device: Device,
    /// Steps done.
    step: u64,
    optimizer: AdamW,
    /// Where the optimizer computes.
    place: Place,
    group: ProcessGroup,
    /// Rank 0's.
    metrics: Option<Metrics>,
    watch: Watch,
    pool: MicrobatchPool,
    /// A moving average.
    throughput: Option<Throughput>,
    data: DataProgress,
    best: Option<Best>,
    /// Of the stage.
    recent_losses: RecentLosses,
    /// Keeps other programs out of the run folder; rank 0's.
    _lock: Option<File>,
}

/// What a run goes on from.
struct State<M> {
    step: u64,
    model: M,
    optimizer: AdamW,
    data: DataLoaderState,
}

impl<'a, C: Checkpointer> Trainer<'a, C> {
    /// Opens the run folder. With `resume` the model comes from the newest checkpoint in it,
    /// otherwise from `new`; so it does when the run was cut off before its first checkpoint.
    ///
    /// # Errors
    /// When the folder already holds a run and this is not to resume it, or the other way round.
    pub(super) fn open(
        recipe: &'a Recipe,
        checkpointer: C,
        device: &Device,
        start: Start,
        watch: Watch,
        new: impl FnOnce() -> C::Model,
    ) -> Result<Self> {
        let (out, group) = (&recipe.out, start.process_group.clone());
        let lock = if group.is_main() {
            Some(run_record::enter(out, start.resume)?)
        } else {
            None
        };
        // The others read what rank 0 has found in order.
        let load = || State::load(recipe, &checkpointer, device, &group, new);
        let state = group.main_first(load)?;
        group.check_equal("the steps", || state.step)?;
        group.check_equal("the weights", || checksum(&state.model))?;
        // Only rank 0 evaluates and writes.
        let ema = match recipe.ema_decay.filter(|_| group.is_main()) {
            None => None,
            Some(_) if state.step == 0 => Some(ema::start(&state.model)),
            Some(_) => Some(checkpoints::load_ema(
                out,
                state.step,
                &checkpointer,
                device,
            )?),
        };
        let metrics = if group.is_main() {
            Some(open_run_folder(recipe, device, &start, state.step)?)
        } else {
            None
        };
        Ok(Self {
            recipe,
            model: state.model,
            ema,
            checkpointer,
            device: device.clone(),
            step: state.step,
            optimizer: state.optimizer,
            place: Place::of(device),
            recent_losses: recent_losses(recipe, &group, state.step)?,
            metrics,
            watch,
            pool: MicrobatchPool::new(recipe.gradient_accumulation_steps, device)?,
            throughput: None,
            data: DataProgress::open(out, &recipe.data, state.data, group.clone())?,
            best: checkpoints::best(out),
            group,
            _lock: lock,
        })
    }

    /// Leaves the finished model in the run folder and says where. A model that is there may be that of fewer
    /// steps: it is written again even where nothing was left to train.
    pub(super) fn finish(self) -> Result<PathBuf> {
        let path = self.recipe.out.join("model");
        if self.group.is_main() {
            self.checkpointer.finish(self.evaluated_model(), &path)?;
        }
        Ok(path)
    }

    /// What is evaluated and finished: the moving average, where there is one.
    fn evaluated_model(&self) -> &C::Model {
        self.ema.as_ref().unwrap_or(&self.model)
    }
}

impl<M> State<M> {
    /// From the newest checkpoint, or new where there is none.
    fn load<C: Checkpointer<Model = M>>(
        recipe: &Recipe,
        checkpointer: &C,
        device: &Device,
        group: &ProcessGroup,
        new: impl FnOnce() -> M,
    ) -> Result<Self> {
        let (out, ranks) = (&recipe.out, group.world_size());
        let Some(step) = checkpoints::steps(out).pop() else {
            return Ok(Self {
                step: 0,
                model: new(),
                optimizer: AdamW::default(),
                data: DataLoaderState::start(&recipe.data, ranks, recipe.batch_size)?,
            });
        };
        let data = checkpoints::load_data_state(out, step)?;
        let data = data.divided(&recipe.data, ranks, recipe.batch_size)?;
        let has_ema = recipe.ema_decay.is_some();
        let (model, optimizer) =
            checkpoints::load(out, step, checkpointer, has_ema, device, group)?;
        Ok(Self {
            step,
            model,
            optimizer,
            data,
        })
    }
}

/// Notes the start in the run folder, and opens the metrics in it.
fn open_run_folder(recipe: &Recipe, device: &Device, start: &Start, step: u64) -> Result<Metrics> {
    let out = &recipe.out;
    run_record::sources(recipe, start.resume)?;
    let samples = out.join("samples");
    fs::create_dir_all(&samples).map_err(Error::io(&samples))?;
    atomic::write(&out.join("recipe.toml"), recipe.to_toml()?.as_bytes())?;
    let ranks = start.process_group.world_size();
    run_record::started(recipe, step, start.revision.as_deref(), device, ranks)?;
    Metrics::open(out, step)
}

/// The losses of the stage that the step after `step` is in, as rank 0 has recorded them: all ranks judge by
/// the same.
fn recent_losses(recipe: &Recipe, group: &ProcessGroup, step: u64) -> Result<RecentLosses> {
    let ends = recipe.stage_ends();
    let first = ends.into_iter().rfind(|end| *end <= step).unwrap_or(0);
    let losses: Vec<f64> = if group.is_main() {
        (metrics::read(&recipe.out)?.into_iter())
            .filter(|(at, _)| *at > first)
            .filter_map(|(_, values)| values.get("loss").copied())
            .collect()
    } else {
        Vec::new()
    };
    Ok(group.all_gather(losses)?.concat().into_iter().collect())
}
