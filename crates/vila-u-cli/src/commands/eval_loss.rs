//! `vila-u eval loss`: how well a model predicts what a recipe holds out.

use vila_u::{
    Result,
    evaluation::held_out_loss::{self, Options},
    training::recipe::Recipe,
};

use super::{check_folder, pipeline, to_json};
use crate::{
    arguments::{EvalLoss, Global},
    console::Console,
};

pub fn run(global: &Global, args: &EvalLoss, console: &Console) -> Result<()> {
    check_folder(&args.output)?;
    let recipe = Recipe::load(&args.recipe, &args.set)?;
    let checkpoint = pipeline(global, console).build()?.into_checkpoint()?;
    let options = Options {
        model: global.model.clone(),
        dtype: global.dtype,
        recipe: args.recipe.display().to_string(),
        n: args.n,
        output: args.output.clone(),
    };
    let record = held_out_loss::run(checkpoint, &recipe, &options, &mut |what, done, total| {
        console.progress(what, done as u64, total as u64, "");
        !console.stopped()
    })?;
    console.finish();
    console.result(record.to_string(), to_json(&record)?)
}
