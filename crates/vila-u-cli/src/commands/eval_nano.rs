//! `vila-u eval nano`: how good a model is at the nano world.

use std::time::Instant;

use vila_u::{
    Result,
    evaluation::{
        benchmarks::nano::{self, Measure, Options},
        record::{EvaluationRecord, Identity},
    },
};

use super::{check_folder, create_folder, files, pipeline, to_json};
use crate::{
    arguments::{EvalNano, Global},
    console::Console,
};

pub fn run(global: &Global, args: &EvalNano, console: &Console) -> Result<()> {
    check_folder(&args.output)?;
    let started = Instant::now();
    let mut checkpoint = pipeline(global, console).build()?.into_checkpoint()?;
    let generation = &mut checkpoint.generation;
    if let Some(guidance) = args.cfg {
        generation.visual_guidance = guidance.into();
    }
    if let Some(temperature) = args.temperature {
        generation.visual_temperature = temperature.into();
    }
    let options = Options {
        split: args.split,
        n: args.n,
        seed: args.seed,
        measures: if args.only.is_empty() {
            Measure::ALL.to_vec()
        } else {
            args.only.clone()
        },
    };
    let report = nano::run(&checkpoint, &options, &mut |what, done, total| {
        console.progress(what, done as u64, total as u64, "");
        !console.stopped()
    })?;
    create_folder(&args.output)?;
    report.save_sheets(&args.output)?;
    let mut record = EvaluationRecord::new("nano");
    record.model = Some(Identity::of_model(
        &global.model,
        &files(&global.model, console)?,
    )?);
    let generation = &checkpoint.generation;
    record
        .set("split", args.split.name())
        .set("n", args.n)
        .set("seed", args.seed)
        .set("cfg", generation.visual_guidance)
        .set("temperature", generation.visual_temperature)
        .set("dtype", global.dtype.name());
    record.metrics = report.metrics();
    record.seconds = started.elapsed().as_secs_f64();
    record.write(&args.output)?;
    console.result(report.to_string(), to_json(&report)?)
}
