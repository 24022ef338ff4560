//! `vila-u eval reconstruction`: how much of pictures the codes keep.

use std::time::Instant;

use vila_u::{
    Error, Result, checkpoint, device,
    evaluation::{
        ImageSet,
        benchmarks::reconstruction::{self, Options},
        record::{EvaluationRecord, Identity},
    },
    training::losses::Lpips,
};

use super::{check_folder, eval_fid::extractor, files, to_json};
use crate::{
    arguments::{EvalReconstruction, Global},
    console::Console,
};

pub fn run(global: &Global, args: &EvalReconstruction, console: &Console) -> Result<()> {
    let started = Instant::now();
    check_folder(&args.output)?;
    let set = ImageSet::open(&args.data)?;
    let device = device::select(&global.device)?;
    let mut networks = Vec::new();
    let extractor = extractor(&args.network, args.definition, &device, &mut networks)?;
    let lpips = args.lpips.as_deref().map(|path| {
        networks.push(Identity::of_file(path)?);
        Lpips::load(path, &device)
    });
    let options = Options {
        resize: args.resize,
        extractor,
        lpips: lpips.transpose()?,
        batch: args.batch_size as usize,
    };
    if options.extractor.is_none() {
        console.say("no rFID: give --inception the weights of FID's network");
    }
    console.stop_on_termination();
    let files = files(&global.model, console)?;
    let tower = checkpoint::load_tower(&files, &device, global.dtype)?;
    let mut record = EvaluationRecord::new("reconstruction");
    record.model = Some(Identity::of_model(&global.model, &files)?);
    record.data = networks;
    record.set("dtype", global.dtype.name());
    let progress = &mut |done: usize, total: Option<usize>| {
        match total {
            Some(total) => console.progress("pictures", done as u64, total as u64, ""),
            None => console.count("pictures", done as u64),
        }
        !console.stopped()
    };
    let measured = reconstruction::run(&tower, set, &options, record, &args.output, progress);
    console.finish();
    if let Err(Error::Interrupted) = measured {
        console.say("stopped: the same command goes on");
    }
    let mut record = measured?;
    record.seconds = started.elapsed().as_secs_f64();
    record.write(&args.output)?;
    console.result(reconstruction::table(&record), to_json(&record)?)
}
