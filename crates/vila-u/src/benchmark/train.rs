//! Optimizer steps of the nano recipes: the training loop itself, stopped after enough of them.

use std::{
    path::Path,
    sync::{Arc, Mutex, PoisonError, atomic::Ordering},
};

use super::{Bench, Suite};
use crate::{
    Error, Result,
    training::{self, Start, Watch, recipe::Recipe},
};

/// Steps before those that count, and those at least.
const FIRST: usize = 2;
const STEPS: usize = 6;
/// Seconds of counting steps at least.
const SECONDS: f64 = 3.0;

/// Name, recipe, and what the run starts from.
const RECIPES: [(&str, &str, Option<&str>); 2] = [
    (
        "nano_tower",
        include_str!(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../recipes/nano-tower.toml"
        )),
        None,
    ),
    (
        "nano_language",
        include_str!(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../recipes/nano-sft.toml"
        )),
        Some("nano"),
    ),
];

/// Left out: steps are only alike where every sample has one picture.
const OTHERS: [&str; 5] = [
    "video_generation",
    "video_question",
    "comparison",
    "reply",
    "text",
];

pub(super) fn run(bench: &mut Bench) -> Result<()> {
    for (name, text, init) in RECIPES {
        (bench.watch.say)(&format!("train {name}"));
        let folder = tempfile::tempdir().map_err(Error::io(std::env::temp_dir()))?;
        let others = match init {
            Some(_) => OTHERS
                .map(|form| format!("stages.0.objective.{form}=0.0"))
                .to_vec(),
            None => Vec::new(),
        };
        let path = Path::new("the recipe of this benchmark");
        let mut recipe = Recipe::parse(text, path, &others)?;
        recipe.out = folder.path().join("run");
        recipe.init = init.map(String::from);
        // The tower's first stage, a preparation, is left out, and what does not belong to a step.
        recipe.stages.drain(..recipe.stages.len() - 1);
        recipe.eval_every = u64::MAX;
        recipe.sample_every = u64::MAX;
        recipe.checkpoint_every = u64::MAX;
        let seconds = steps(bench, &recipe)?;
        let samples = (recipe.batch_size * recipe.gradient_accumulation_steps) as f64;
        bench.add(Suite::Train, name, &seconds, |seconds| {
            vec![
                ("steps_per_s", 1.0 / seconds),
                ("samples_per_s", samples / seconds),
            ]
        });
    }
    Ok(())
}

/// Seconds of each step.
fn steps(bench: &Bench, recipe: &Recipe) -> Result<Vec<f64>> {
    let measured = Arc::new(Mutex::new(Vec::new()));
    let enough = Arc::<std::sync::atomic::AtomicBool>::default();
    let watch = Watch {
        stop: enough.clone(),
        progress: {
            let (measured, interrupted) = (measured.clone(), bench.watch.stop.clone());
            Box::new(move |progress| {
                let mut measured = measured.lock().unwrap_or_else(PoisonError::into_inner);
                measured.extend(progress.metrics.get("seconds"));
                let counted = measured.get(FIRST..).unwrap_or_default();
                let done = counted.len() >= STEPS && counted.iter().sum::<f64>() >= SECONDS;
                if done || interrupted.load(Ordering::Relaxed) {
                    enough.store(true, Ordering::Relaxed);
                }
            })
        },
    };
    match training::run(recipe, &bench.subject.device, Start::default(), watch) {
        Ok(_) | Err(Error::Interrupted) => bench.watch.check()?,
        Err(error) => return Err(error),
    }
    let measured = measured.lock().unwrap_or_else(PoisonError::into_inner);
    Ok(measured.get(FIRST..).unwrap_or_default().to_vec())
}
