//! `vila-u train`: run a recipe.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use serde_json::json;
use vila_u::{
    Error, Result,
    training::{self, Start, Watch, recipe::Recipe},
};

use super::train_ranks::Group;
use crate::{
    arguments::{Global, Train},
    console::Console,
};

pub fn run(global: &Global, args: &Train, console: &Console) -> Result<()> {
    let Some(path) = &args.recipe else {
        return super::train_compare::run(args, console);
    };
    console.stop_on_termination();
    let recipe = Recipe::load(path, &args.set)?;
    let device = vila_u::device::select(&global.device)?;
    let group = Group::form(global, args, &recipe, console)?;
    let shared = console.clone();
    let last = Arc::new(AtomicU64::new(0));
    let reached = last.clone();
    let watch = Watch {
        progress: Box::new(move |progress| {
            reached.store(progress.step, Ordering::Relaxed);
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
    let start = Start {
        resume: args.resume,
        revision: option_env!("VILA_U_REVISION").map(String::from),
        ranks: group.ranks.clone(),
    };
    let finished = training::run(&recipe, &device, start, watch);
    let ended = group.end();
    match finished {
        Ok(model) => {
            ended?;
            if args.rank.is_some_and(|rank| rank > 0) {
                return Ok(());
            }
            let model = model.display().to_string();
            console.result(&model, json!({"model": model}))
        }
        // To stop when asked to is no failure.
        Err(Error::Interrupted) => {
            console.finish();
            let step = last.load(Ordering::Relaxed);
            console.say(format!(
                "stopped and saved at step {step} of {}: go on with --resume",
                recipe.steps
            ));
            match console.json {
                true => console.result("", json!({"stopped": step})),
                false => Ok(()),
            }
        }
        Err(error) => Err(error),
    }
}
