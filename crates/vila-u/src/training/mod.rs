//! Training: one loop for every stage, run from a recipe.

mod adamw;
mod events;
pub mod multimodal;
mod prefetch;
pub mod recipe;
pub mod run;
mod schedule;
mod state;
mod tower;

use std::sync::Arc;

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{Device, Tensor};

use crate::text::SiglipTokenizer;
use crate::tower::{SiglipConfig, VisionTowerConfig};
use crate::{Error, Result};
use recipe::{Config, Objective, Recipe};
pub use run::{Progress, Watch};
use tower::TowerObjective;

/// Carries out a recipe. With `resume`, goes on from the newest checkpoint in the run folder,
/// exactly as if the run had never stopped.
///
/// # Errors
/// Anything wrong with the recipe or the files it names; a loss that is no number (the last
/// checkpoint is kept); [`Error::Interrupted`] when stopped through the watch, after saving.
pub fn run(recipe: &Recipe, device: &Device, resume: bool, watch: Watch) -> Result<()> {
    let device = device.clone().autodiff();
    match recipe.stages[0].objective {
        Objective::Align(_) | Objective::Tower(_) => train_tower(recipe, &device, resume, watch),
        Objective::Pretrain(_) | Objective::Sft(_) => Err(Error::usage(
            "recipe: language stages come with the language model",
        )),
    }
}

fn train_tower(recipe: &Recipe, device: &Device, resume: bool, watch: Watch) -> Result<()> {
    let config: VisionTowerConfig = part(&recipe.model.vision_tower, "vision_tower")?;
    let siglip: SiglipConfig = part(&recipe.model.siglip, "siglip")?;
    config
        .check(&siglip)
        .map_err(|reason| Error::usage(format!("recipe, [model]: {reason}")))?;
    let Some(folder) = &recipe.model.siglip_tokenizer else {
        return Err(Error::usage(
            "recipe: [model] needs siglip_tokenizer, a folder with spiece.model",
        ));
    };
    let length = siglip.text_config.max_position_embeddings;
    let tokenizer = Arc::new(SiglipTokenizer::from_dir(folder, length)?);
    let size = siglip.vision_config.image_size;
    device.seed(recipe.seed);
    let model = initialised(config.init(&siglip, device));
    let mut run = run::Run::open(recipe, model, device, resume, watch)?;
    for (index, stage) in recipe.stages.iter().enumerate() {
        let objective = TowerObjective::new(
            recipe,
            &stage.objective,
            tokenizer.clone(),
            size,
            &run.model,
            device,
        )?;
        run.stage(index, objective)?;
    }
    Ok(())
}

fn part<T: serde::de::DeserializeOwned>(config: &Option<Config>, name: &str) -> Result<T> {
    match config {
        Some(config) => config.read(),
        None => Err(Error::usage(format!("recipe: [model] needs {name}"))),
    }
}

/// Draws all weights now and in order: parameters are drawn when first used, and what is used
/// first must not decide what they become.
fn initialised<M: Module>(model: M) -> M {
    struct Touch;
    impl ModuleVisitor for Touch {
        fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
            param.val();
        }
    }
    model.visit(&mut Touch);
    model
}
