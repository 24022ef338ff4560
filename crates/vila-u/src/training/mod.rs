//! Training: one loop for every stage, run from a recipe.

mod adamw;
pub mod curves;
mod ema;
mod events;
mod failure;
mod format;
mod forms;
pub mod inspect;
mod lanes;
mod llama;
pub mod losses;
mod metrics;
mod mixture;
pub mod multimodal;
mod pieces;
pub mod plan;
mod prefetch;
pub mod ranks;
mod reading;
pub mod recipe;
mod recompute;
mod record;
pub mod run;
mod schedule;
mod seen;
mod sheet;
mod start;
mod state;
mod tower;
mod trained_tower;

use std::path::PathBuf;
use std::sync::Arc;

use burn::tensor::Device;

use crate::checkpoint::config::GenerationConfig;
use crate::{Error, Result};
use mixture::{MixtureObjective, Samples};
use recipe::{Objective, Recipe, Stage};
use run::Run;
pub use run::{Pace, Progress, Start, Watch};
use tower::{Captions, TowerObjective};
use trained_tower::TrainedTower;

/// Carries out a recipe and says where the finished model lies. With `resume`, goes on from the
/// newest checkpoint in the run folder, exactly as if the run had never stopped.
///
/// # Errors
/// Anything wrong with the recipe or the files it names; a loss that is no number or explodes (the state before
/// it is kept, and `failed.json` names its samples); [`Error::Interrupted`] when stopped through the watch, after
/// saving. Whether there is memory enough says [`plan::check`], before.
pub fn run(recipe: &Recipe, device: &Device, start: Start, watch: Watch) -> Result<PathBuf> {
    let device = device.clone().autodiff();
    let ranks = start.ranks.clone();
    let finished = match recipe.is_tower() {
        true => tower(recipe, &device, start, watch),
        false => vila_u(recipe, &device, start, watch),
    };
    if let Err(error) = &finished
        && !matches!(error, Error::Interrupted)
    {
        ranks.fail(&error.to_string());
    }
    finished
}

fn tower(recipe: &Recipe, device: &Device, start: Start, watch: Watch) -> Result<PathBuf> {
    // What is wrong with the weights of LPIPS is said before anything long is read.
    let lpips = |stage: &Stage| match &stage.objective {
        Objective::Tower(losses) => losses.lpips(&device.clone().inner()),
        _ => Ok(None),
    };
    let lpips: Vec<_> = recipe.stages.iter().map(lpips).collect::<Result<_>>()?;
    let ranks = start.ranks.clone();
    let together = recipe.batch_size * ranks.count();
    if together < 2 {
        return Err(Error::usage(
            "recipe: the contrastive loss compares the pictures of a batch: batch_size must be at least 2",
        ));
    }
    // Tokenizers that are missing are made in the run folder, once.
    let (format, tower, tokenizer) =
        ranks.leader_first(|| start::tower(recipe, device, together))?;
    let size = format.siglip.vision_config.image_size;
    recipe.check_picture(size)?;
    let captions = Captions::new(recipe, Arc::new(tokenizer), size);
    let model = TrainedTower {
        tower,
        discriminator: format.discriminator.map(|sizes| sizes.init(device)),
    };
    let new = || start::drawn(model, device, recipe.seed);
    let mut run = Run::open(recipe, format, device, start, watch, new)?;
    for (index, lpips) in lpips.into_iter().enumerate() {
        let (captions, tower, ranks) = (captions.clone(), &run.model.tower, ranks.clone());
        let objective = TowerObjective::new(recipe, index, lpips, captions, tower, device, ranks)?;
        run.stage(index, objective)?;
    }
    run.finish()
}

fn vila_u(recipe: &Recipe, device: &Device, start: Start, watch: Watch) -> Result<PathBuf> {
    let ranks = start.ranks.clone();
    let (format, model, tokenizer) = ranks.leader_first(|| start::vila_u(recipe, device))?;
    let tokenizer = Arc::new(tokenizer);
    let config = Arc::new(format.config.clone());
    // How samples are drawn is known to be possible before hours are spent.
    let drawing = GenerationConfig::read(&format.files.join("llm"))?.visual(0);
    drawing.check()?;
    let new = || start::drawn(model, device, recipe.seed);
    let mut run = Run::open(recipe, format, device, start, watch, new)?;
    let depth = &mut run.model.vision_tower.rqtransformer;
    *depth = depth.clone().with_dropout(recipe.dropout);
    for (index, stage) in recipe.stages.iter().enumerate() {
        let (tokenizer, config) = (tokenizer.clone(), config.clone());
        let samples = Samples::of_stage(recipe, &stage.objective, tokenizer, config)?;
        let (drawing, leads) = (drawing.clone(), ranks.leads());
        let objective = MixtureObjective::new(recipe, samples, drawing, device, leads)?;
        run.stage(index, objective)?;
    }
    run.finish()
}
