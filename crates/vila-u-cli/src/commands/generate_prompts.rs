//! `vila-u generate --prompts`: the pictures and videos that a benchmark scores.

use std::{num::NonZeroU32, ops::ControlFlow, path::PathBuf, time::Instant};

use serde_json::json;
use vila_u::{
    Error, Result,
    evaluation::{
        generation::{self, Outcome, Progress, Settings},
        record::Identity,
    },
    media::video,
};

use super::{check_folder, generate::options, pipeline};
use crate::{
    arguments::{Generate, Global},
    console::Console,
};

pub fn run(global: &Global, args: &Generate, console: &Console) -> Result<()> {
    let (Some(file), Some(layout), Some(folder)) = (&args.prompts, args.layout, &args.output)
    else {
        return Err(Error::usage("--prompts needs --layout and -o"));
    };
    console.stop_on_termination();
    let kind = layout.kind(args.video)?;
    let prompts = layout.prompts(file, kind, args.n.map(|n| n as usize))?;
    check_folder(folder)?;
    let pipeline = pipeline(global, console).build()?;
    let model = Identity::of_model(&global.model, &pipeline.checkpoint()?.files)?;
    // Each guidance weight, and where its files go.
    let runs: Vec<(Option<f64>, PathBuf)> = match args.cfg.as_slice() {
        [] => vec![(None, folder.clone())],
        [cfg] => vec![(Some(*cfg), folder.clone())],
        all => (all.iter())
            .map(|cfg| (Some(*cfg), folder.join(format!("cfg-{cfg}"))))
            .collect(),
    };
    let mut skipped = Vec::new();
    for (cfg, folder) in runs {
        let settings = Settings {
            kind,
            rate: NonZeroU32::new(args.fps).unwrap_or(video::RATE),
            options: options(args, cfg, &pipeline, args.seed.unwrap_or(0))?,
            shard: args.shard.unwrap_or_default(),
            model: model.clone(),
            dtype: global.dtype,
        };
        let started = Instant::now();
        let on_progress = &mut |progress: Progress| {
            let note = format!("{} of {} files", progress.files, progress.all_files);
            console.progress("generating", progress.done, progress.total, &note);
            if console.stopped() {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        };
        let outcome = generation::run(&pipeline, &prompts, &folder, &settings, on_progress)?;
        console.finish();
        let Outcome {
            generated, present, ..
        } = outcome;
        let seconds = started.elapsed().as_secs_f64();
        console.say(format!(
            "{generated} files generated, {present} were there, {seconds:.1} s"
        ));
        let skips: Vec<_> = (outcome.skipped.iter())
            .map(|skipped| json!({"file": skipped.file, "reason": skipped.reason}))
            .collect();
        console.result(
            folder.display().to_string(),
            json!({
                "folder": folder,
                "layout": layout.name(),
                "generated": generated,
                "present": present,
                "skipped": skips,
                "seconds": seconds,
            }),
        )?;
        skipped.extend(outcome.skipped);
    }
    match skipped.first() {
        None => Ok(()),
        Some(first) => Err(Error::failed(format!(
            "{} files could not be generated, the first {}: {}",
            skipped.len(),
            first.file,
            first.reason
        ))),
    }
}
