//! `vila-u eval quantized`: what weights in fewer bits cost.

use std::time::Instant;

use vila_u::{
    Result,
    evaluation::{
        benchmarks::quantized,
        record::{EvaluationRecord, Identity},
    },
};

use super::{check_folder, create_folder, files, to_json};
use crate::{
    arguments::{EvalQuantized, Global},
    console::Console,
};

pub fn run(global: &Global, args: &EvalQuantized, console: &Console) -> Result<()> {
    check_folder(&args.output)?;
    let started = Instant::now();
    let files = files(&global.model, console)?;
    let report = quantized::run(&files, args.n, args.seed, &mut |what, done, total| {
        console.progress(what, done as u64, total as u64, "");
        !console.stopped()
    })?;
    let mut record = EvaluationRecord::new("quantized");
    record.model = Some(Identity::of_model(&global.model, &files)?);
    record.set("n", args.n).set("seed", args.seed);
    record.metrics = report.metrics();
    record.seconds = started.elapsed().as_secs_f64();
    create_folder(&args.output)?;
    record.write(&args.output)?;
    console.result(report.to_string(), to_json(&report)?)
}
