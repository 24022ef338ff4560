//! `vila-u eval nano`: how good a model is at the nano world.

use vila_u::{Result, evaluation::benchmarks::nano};

use super::{check_folder, create_folder, load, to_json};
use crate::{
    arguments::{EvalNano, Global},
    console::Console,
};

pub fn run(global: &Global, args: &EvalNano, console: &Console) -> Result<()> {
    args.output.as_deref().map(check_folder).transpose()?;
    let checkpoint = load(global, console)?;
    let guidance = args.cfg.into();
    let report = nano::run(
        &checkpoint,
        args.n,
        args.seed,
        guidance,
        &mut |what, done, total| {
            console.progress(what, done as u64, total as u64, "");
            !console.stopped()
        },
    )?;
    if let Some(folder) = &args.output {
        create_folder(folder)?;
        report.save_sheets(folder)?;
    }
    console.result(report.to_string(), to_json(&report)?)
}
