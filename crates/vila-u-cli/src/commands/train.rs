//! `vila-u train`: run a recipe.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use serde_json::json;
use vila_u::{
    Error, Result,
    burn::tensor::Device,
    device,
    memory::in_words,
    training::{
        Progress, Start,
        plan::{self, MemoryNeed, Plan, Resources, StagePlan},
        recipe::Recipe,
    },
};

use super::{
    to_json,
    train_ranks::{self, Ranks},
};
use crate::{
    arguments::{Global, Train},
    console::Console,
};

pub fn run(global: &Global, args: &Train, console: &Console) -> Result<()> {
    let Some(path) = &args.recipe else {
        return super::train_compare::run(args, console);
    };
    console.stop_on_termination();
    let ranks = Ranks::start(args.ranks)?;
    let outcome = train(global, args, path, &ranks, console);
    ranks.end(outcome)
}

fn train(
    global: &Global,
    args: &Train,
    path: &Path,
    ranks: &Ranks,
    console: &Console,
) -> Result<()> {
    let processes = ranks.processes();
    let ready = processes.agree(prepare(global, args, path, ranks, console))?;
    let Some((recipe, devices)) = ready else {
        return Ok(());
    };
    let shared = console.clone();
    let last = Arc::new(AtomicU64::new(0));
    let skipped = Arc::new(AtomicU64::new(0));
    let (reached, counted) = (last.clone(), skipped.clone());
    let progress = move |progress: &Progress| {
        reached.store(progress.step, Ordering::Relaxed);
        let records = progress.metrics.get("skipped").copied().unwrap_or(0.0);
        counted.store(records as u64, Ordering::Relaxed);
        let loss = progress.metrics.get("loss").copied().unwrap_or(f64::NAN);
        let mut note = format!(
            "loss {loss:.4}, {:.1} samples/s, {:.0} tokens/s, {:.0} % waiting for data",
            progress.throughput.samples_per_second(),
            progress.throughput.tokens_per_second(),
            100.0 * progress.throughput.waiting(),
        );
        if let Some(padding) = progress.metrics.get("padding") {
            note += &format!(", {:.0} % padding", 100.0 * padding);
        }
        shared.progress("training", progress.step, progress.steps, &note);
        let evaluation: Vec<String> = progress
            .metrics
            .iter()
            .filter_map(|(name, value)| Some(format!("{} {value:.4}", name.strip_prefix("eval/")?)))
            .collect();
        if !evaluation.is_empty() {
            shared.say(format!("step {}: {}", progress.step, evaluation.join(", ")));
        }
    };
    let start = Start {
        resume: args.resume,
        revision: option_env!("VILA_U_REVISION").map(String::from),
        process_group: processes.clone(),
    };
    let finished = train_ranks::run(devices, &recipe, &start, console, progress);
    if !processes.is_main() {
        // Rank 0 speaks for all.
        return finished.map(|_| ());
    }
    let skipped = skipped.load(Ordering::Relaxed);
    if skipped > 0 {
        let list = recipe.out.join("skipped.jsonl");
        console.finish();
        console.say(format!(
            "{skipped} records could not be used: {} says why",
            list.display()
        ));
    }
    match finished {
        Ok(model) => {
            let model = model.display().to_string();
            console.result(&model, json!({"model": model, "skipped": skipped}))
        }
        // To stop when asked to is no failure.
        Err(Error::Interrupted) => {
            console.finish();
            let step = last.load(Ordering::Relaxed);
            console.say(format!(
                "stopped and saved at step {step} of {}: go on with --resume",
                recipe.steps
            ));
            if console.json {
                console.result("", json!({"stopped": step}))
            } else {
                Ok(())
            }
        }
        Err(error) => Err(error),
    }
}

/// The recipe and the devices that this process trains on; none where only a plan was asked for.
fn prepare(
    global: &Global,
    args: &Train,
    path: &Path,
    ranks: &Ranks,
    console: &Console,
) -> Result<Option<(Recipe, Vec<Device>)>> {
    let recipe = Recipe::load(path, &args.set)?;
    let devices = ranks.devices(&global.device)?;
    let device = device::select(&devices[0])?;
    let resources = Resources {
        memory: args.memory,
        ranks: ranks.count() as u64,
        here: ranks.here() as u64,
    };
    if args.plan {
        if !ranks.processes().is_main() {
            return Ok(None);
        }
        let plan = Plan::measured(&recipe, &device, &resources)?;
        console.result(describe(&plan), to_json(&plan)?)?;
        return plan.check().map(|()| None);
    }
    plan::check(&recipe, &device, &resources)?;
    let devices = devices.iter().map(|name| device::select(name));
    Ok(Some((recipe, devices.collect::<Result<_>>()?)))
}

fn describe(plan: &Plan) -> String {
    let mut lines = Vec::new();
    for stage in &plan.stages {
        stage_lines(stage, &mut lines);
        memory_lines(&stage.memory, plan.free, &mut lines);
    }
    for (index, (remedy, bytes)) in plan.remedies.iter().enumerate() {
        let and = if index == 0 { "with" } else { "and" };
        lines.push(format!("{and} {remedy}: {} in all", in_words(*bytes)));
    }
    lines.join("\n")
}

fn stage_lines(stage: &StagePlan, lines: &mut Vec<String>) {
    lines.push(format!(
        "{}: {} steps of {} samples",
        stage.kind, stage.steps, stage.samples
    ));
    lines.push(format!(
        "{:20} {:>14} {:>14}",
        "parameters", "trained", "frozen"
    ));
    for part in &stage.parts {
        lines.push(format!(
            "  {:18} {:>14} {:>14}",
            part.name, part.trained, part.frozen
        ));
    }
    lines.push(format!(
        "  {:18} {:>14} {:>14}",
        "all", stage.trained, stage.frozen
    ));
    lines.push(format!(
        "weight decay         {} for {} of those trained, none for {} (biases and norms)",
        stage.weight_decay,
        stage.decayed,
        stage.trained - stage.decayed
    ));
    lines.push(match (stage.measured, stage.padding) {
        (0, _) => format!("tokens a step        at most {}", stage.tokens),
        (measured, padding) => format!(
            "tokens a step        about {}, by {measured} samples; {:.0} % of the positions are padding",
            stage.tokens,
            100.0 * padding.unwrap_or(0.0)
        ),
    });
}

fn memory_lines(memory: &MemoryNeed, free: Option<u64>, lines: &mut Vec<String>) {
    lines.push("memory".to_string());
    for (name, bytes) in [
        ("weights", memory.weights),
        ("gradients", memory.gradients),
        ("optimizer", memory.optimizer),
        ("activations, about", memory.activations),
        ("all", memory.total()),
    ] {
        lines.push(format!("  {name:18} {:>14}", in_words(bytes)));
    }
    lines.push(match free {
        Some(free) => format!("  {:18} {:>14}", "free", in_words(free)),
        None => format!("  {:18} {:>14}", "free", "not known: give --memory"),
    });
}
