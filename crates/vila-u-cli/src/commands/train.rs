//! `vila-u train`: run a recipe.

use serde_json::json;
use vila_u::{
    Result,
    training::{self, Watch, recipe::Recipe},
};

use crate::{
    arguments::{Global, Train},
    console::Console,
};

pub fn run(global: &Global, args: &Train, console: &Console) -> Result<()> {
    let recipe = Recipe::load(&args.recipe, &args.set)?;
    let device = vila_u::device::select(&global.device)?;
    let shared = console.clone();
    let watch = Watch {
        progress: Box::new(move |progress| {
            let loss = progress.metrics.get("loss").copied().unwrap_or(f64::NAN);
            let note = format!(
                "loss {loss:.4}, {:.1} samples/s, {:.0} tokens/s, {:.0} % waiting for data",
                progress.pace.samples_per_second(),
                progress.pace.tokens_per_second(),
                100.0 * progress.pace.waiting(),
            );
            shared.progress("training", progress.step, progress.steps, &note);
            let evaluation: Vec<String> = progress
                .metrics
                .iter()
                .filter_map(|(name, value)| {
                    Some(format!("{} {value:.4}", name.strip_prefix("eval/")?))
                })
                .collect();
            if !evaluation.is_empty() {
                shared.say(format!("step {}: {}", progress.step, evaluation.join(", ")));
            }
        }),
        stop: console.stop_flag(),
    };
    let model = training::run(&recipe, &device, args.resume, watch)?;
    let model = model.display().to_string();
    console.result(&model, json!({"model": model}))
}
