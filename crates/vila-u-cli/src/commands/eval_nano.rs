//! `vila-u eval nano`: how good a model is at the nano world.

use vila_u::{
    Result,
    evaluation::benchmarks::nano::{self, Measure, Options},
};

use super::{check_folder, create_folder, pipeline, to_json};
use crate::{
    arguments::{EvalNano, Global},
    console::Console,
};

pub fn run(global: &Global, args: &EvalNano, console: &Console) -> Result<()> {
    args.output.as_deref().map(check_folder).transpose()?;
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
    if let Some(folder) = &args.output {
        create_folder(folder)?;
        report.save_sheets(folder)?;
    }
    console.result(report.to_string(), to_json(&report)?)
}
