//! Training: one loop for every stage, run from a recipe.

pub mod data;
pub mod distributed;
pub mod losses;
mod model;
pub(crate) mod objectives;
mod optimizer;
pub mod plan;
pub mod recipe;
pub mod run_folder;
mod trainer;

use std::path::PathBuf;
use std::sync::Arc;

use burn::tensor::Device;
use vila_u_kernels::flush_denormals;

use crate::checkpoint::config::GenerationConfig;
use crate::{Error, Result};
use data::captioned_images::CaptionedImageMaker;
use data::samples::SampleMaker;
use model::TowerWithDiscriminator;
use model::initial::{self, initialise};
use model::initial_tower;
use objectives::layer_codes::LayerCodes;
use objectives::multimodal::MultimodalObjective;
use objectives::tower::{Teachers, TowerObjective};
use recipe::{Objective, Recipe, Stage};
use trainer::Trainer;
pub use trainer::{Progress, Start, Throughput, Watch};

/// Carries out a recipe and says where the finished model lies. With `resume`, goes on from the
/// newest checkpoint in the run folder, exactly as if the run had never stopped.
///
/// # Errors
/// Anything wrong with the recipe or the files it names; a loss that is not finite or spikes (the state before
/// it is kept, and `failed.json` names its samples); [`Error::Interrupted`] when stopped through the watch, after
/// saving. Whether there is memory enough says [`plan::check`], before.
pub fn run(recipe: &Recipe, device: &Device, start: Start, watch: Watch) -> Result<PathBuf> {
    flush_denormals();
    rayon::broadcast(|_| flush_denormals());
    let device = device.clone().autodiff();
    let group = start.process_group.clone();
    let same = group.check_same_run(recipe, start.resume);
    let finished = same.and_then(|()| match recipe.is_tower() {
        true => train_tower(recipe, &device, start, watch),
        false => train_vila_u(recipe, &device, start, watch),
    });
    match &finished {
        // What is done last can fail on one rank, too.
        Ok(_) | Err(Error::Interrupted) => group.barrier().and(finished),
        Err(error) => {
            group.abort(&error.to_string());
            finished
        }
    }
}

fn train_tower(recipe: &Recipe, device: &Device, start: Start, watch: Watch) -> Result<PathBuf> {
    // What is wrong with the weights of LPIPS is said before anything long is read.
    let lpips = |stage: &Stage| match &stage.objective {
        Objective::Tower(losses) => losses.lpips(&device.clone().inner()),
        _ => Ok(None),
    };
    let lpips: Vec<_> = recipe.stages.iter().map(lpips).collect::<Result<_>>()?;
    let group = start.process_group.clone();
    let global_batch = recipe.batch_size * group.world_size();
    if global_batch < 2 {
        return Err(Error::usage(
            "recipe: the contrastive loss compares the pictures of a batch: batch_size must be at least 2",
        ));
    }
    // Tokenizers that are missing are made in the run folder, once.
    let (checkpointer, tower, tokenizer) =
        group.main_first(|| initial_tower::tower(recipe, device, global_batch))?;
    let size = checkpointer.siglip.vision_config.image_size;
    recipe.check_tower(size, &checkpointer.config)?;
    let maker = CaptionedImageMaker::new(recipe, tokenizer, size);
    let fit = || LayerCodes::fit(recipe, &maker, &tower.quantizer, &device.clone().inner());
    let layer_codes = recipe.layer_codes().map(|_| fit()).transpose()?;
    let model = TowerWithDiscriminator {
        tower,
        discriminator: checkpointer.discriminator.map(|sizes| sizes.init(device)),
    };
    // Codebooks that `init` has stay as they are.
    let has_codes = model.tower.quantizer.codebooks[0].weight.is_initialized();
    let new = || {
        let mut model = initialise(model, device, recipe.seed);
        if let (Some(codes), false) = (&layer_codes, has_codes) {
            codes.initialise(&mut model.tower.quantizer);
        }
        model
    };
    let mut trainer = Trainer::open(recipe, checkpointer, device, start, watch, new)?;
    for (index, lpips) in lpips.into_iter().enumerate() {
        let (maker, tower, group) = (maker.clone(), &trainer.model.tower, group.clone());
        let teachers = Teachers {
            lpips,
            layer_codes: layer_codes.clone(),
        };
        let objective = TowerObjective::new(recipe, index, teachers, maker, tower, device, group)?;
        trainer.train_stage(index, objective)?;
    }
    trainer.finish()
}

fn train_vila_u(recipe: &Recipe, device: &Device, start: Start, watch: Watch) -> Result<PathBuf> {
    let group = start.process_group.clone();
    let (checkpointer, model, tokenizer) = group.main_first(|| initial::vila_u(recipe, device))?;
    let tokenizer = Arc::new(tokenizer);
    let config = Arc::new(checkpointer.config.clone());
    // How sample sheets are generated is known to be possible before hours are spent.
    let generation = GenerationConfig::read(&checkpointer.files.join("llm"))?.visual(0);
    generation.check()?;
    let new = || initialise(model, device, recipe.seed);
    let mut trainer = Trainer::open(recipe, checkpointer, device, start, watch, new)?;
    let depth = &mut trainer.model.vision_tower.rqtransformer;
    *depth = depth.clone().with_dropout(recipe.depth_dropout);
    for (index, stage) in recipe.stages.iter().enumerate() {
        let (tokenizer, config) = (tokenizer.clone(), config.clone());
        let samples = SampleMaker::of_stage(recipe, &stage.objective, tokenizer, config)?;
        let (generation, evaluates) = (generation.clone(), group.is_main());
        let objective = MultimodalObjective::new(recipe, samples, generation, device, evaluates)?;
        trainer.train_stage(index, objective)?;
    }
    trainer.finish()
}
