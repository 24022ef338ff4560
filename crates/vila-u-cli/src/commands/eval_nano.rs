//! `vila-u eval nano`: how good a model is at the nano world.

use vila_u::{Result, evaluation::benchmarks::nano};

use super::{check_folder, create_folder, pipeline, to_json};
use crate::{
    arguments::{EvalNano, Global},
    console::Console,
};

pub fn run(global: &Global, args: &EvalNano, console: &Console) -> Result<()> {
    args.output.as_deref().map(check_folder).transpose()?;
    let mut checkpoint = pipeline(global, console).build()?.into_checkpoint()?;
    if let Some(guidance) = args.cfg {
        checkpoint.generation.visual_guidance = guidance.into();
    }
    let report = nano::run(&checkpoint, args.n, args.seed, &mut |what, done, total| {
        console.progress(what, done as u64, total as u64, "");
        !console.stopped()
    })?;
    if let Some(folder) = &args.output {
        create_folder(folder)?;
        report.save_sheets(folder)?;
    }
    console.result(report.to_string(), to_json(&report)?)
}
