//! `vila-u eval zero-shot`: how often a picture's class is the one whose texts fit it best.

use vila_u::{
    Result, checkpoint, device,
    evaluation::zero_shot::{self, Options},
};

use super::{check_folder, files, to_json};
use crate::{
    arguments::{EvalZeroShot, Global},
    console::Console,
};

pub fn run(global: &Global, args: &EvalZeroShot, console: &Console) -> Result<()> {
    console.stop_on_termination();
    check_folder(&args.output)?;
    let device = device::select(&global.device)?;
    let tower = checkpoint::load_tower(&files(&global.model, console)?, &device, global.dtype)?;
    let options = Options {
        model: global.model.clone(),
        dtype: global.dtype,
        data: args.data.clone(),
        classes: args.classes.clone(),
        templates: args.templates.clone(),
        output: args.output.clone(),
    };
    let record = zero_shot::run(&tower, &options, &mut |what, done, total| {
        match total {
            Some(total) => console.progress(what, done as u64, total as u64, ""),
            None => console.count(what, done as u64),
        }
        !console.stopped()
    })?;
    console.finish();
    console.result(record.to_string(), to_json(&record)?)
}
