//! `vila-u eval quantized`: what weights in fewer bits cost.

use vila_u::{Result, evaluation::benchmarks::quantized};

use super::{files, to_json};
use crate::{
    arguments::{EvalQuantized, Global},
    console::Console,
};

pub fn run(global: &Global, args: &EvalQuantized, console: &Console) -> Result<()> {
    let files = files(&global.model, console)?;
    let report = quantized::run(&files, args.n, args.seed, &mut |what, done, total| {
        console.progress(what, done as u64, total as u64, "");
        !console.stopped()
    })?;
    console.result(report.to_string(), to_json(&report)?)
}
