//! `vila-u train`: run a recipe.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use serde_json::json;
use vila_u::{
    Error, Result,
    memory::in_words,
    training::{
        self, Start, Watch,
        plan::{self, MemoryNeed, Plan, Resources, StagePlan},
        recipe::Recipe,
    },
};

use super::{to_json, train_ranks::Launcher};
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
    let ranks = args.ranks.into();
    let resources = Resources {
        memory: args.memory,
        ranks,
        here: if args.rank.is_none() { ranks } else { 1 },
    };
    if args.plan {
        let plan = Plan::measured(&recipe, &device, &resources)?;
        console.result(describe(&plan), to_json(&plan)?)?;
        return plan.check();
    }
    plan::check(&recipe, &device, &resources)?;
    let launcher = match Launcher::start(global, args, &recipe, console) {
        // Nothing is there yet to be saved.
        Err(Error::Interrupted) => {
            console.say("stopped before the first step");
            return Ok(());
        }
        launcher => launcher?,
    };
    let shared = console.clone();
    let last = Arc::new(AtomicU64::new(0));
    let skipped = Arc::new(AtomicU64::new(0));
    let (reached, counted) = (last.clone(), skipped.clone());
    let watch = Watch {
        progress: Box::new(move |progress| {
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
        process_group: launcher.process_group.clone(),
    };
    let finished = training::run(&recipe, &device, start, watch);
    let ended = launcher.end();
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
            ended?;
            if args.rank.is_some_and(|rank| rank > 0) {
                return Ok(());
            }
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

fn describe(plan: &Plan) -> String {
    let mut lines = Vec::new();
    for stage in &plan.stages {
        stage_lines(stage, &mut lines);
        memory_lines("memory", &stage.memory, plan.free, &mut lines);
        if let Some(host) = &stage.host {
            memory_lines("memory of the host", host, plan.host_free, &mut lines);
        }
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

fn memory_lines(title: &str, memory: &MemoryNeed, free: Option<u64>, lines: &mut Vec<String>) {
    lines.push(title.to_string());
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
