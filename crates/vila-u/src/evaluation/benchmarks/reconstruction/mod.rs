//! `eval reconstruction`: how much of pictures the tower's codes keep (paper, table 1).
//!
//! Each picture becomes codes, and a picture again from the first code of each position, the first two, and so on to all
//! of them. Pictures are compared one by one (PSNR, SSIM, LPIPS) and as sets (rFID, inception score), after rounding to
//! 8 bits a channel, as a PNG file has them.

mod measured;
mod resize;
mod state;
mod table;

use std::{
    collections::HashSet,
    path::Path,
    thread,
    time::{Duration, Instant},
};

pub use resize::Resize;
pub use table::table;

use measured::Measured;
use state::State;

use crate::{
    Error, Result,
    checkpoint::Tower,
    evaluation::{
        ImageId, ImageSet,
        fid::Extractor,
        record::EvaluationRecord,
        sample_log::{Sample, SampleLog},
    },
    media::Picture,
    training::losses::Lpips,
};

/// What was measured is saved at least this often.
const SAVE_EVERY: Duration = Duration::from_secs(600);

/// What is measured, and how.
#[derive(Debug)]
pub struct Options {
    pub resize: Resize,
    /// For rFID and the inception score; without it there are none.
    pub extractor: Option<Extractor>,
    /// On the tower's device; without it there is no LPIPS.
    pub lpips: Option<Lpips>,
    /// Pictures that go through the networks together.
    pub batch: usize,
}

/// Measures the tower on the pictures of a set.
///
/// - `record`: of this run, with the model, the networks among its data and the settings that matter; comes back with
///   everything but the seconds
/// - `output`: a folder, made if need be. `samples.jsonl` is written into it and, with an extractor, the statistics of the
///   originals and of the reconstructions as `.npz`. A run that was stopped there goes on: it leaves out the pictures that
///   it has measured, if it is the same run
/// - `on_progress` is told how many pictures are done and how many there are, where that is known, and says whether to go
///   on
///
/// # Errors
/// When no picture can be decoded, a file cannot be written, another run was stopped in the folder, or `on_progress` says
/// no.
pub fn run(
    tower: &Tower,
    set: ImageSet,
    options: &Options,
    mut record: EvaluationRecord,
    output: &Path,
    on_progress: &mut dyn FnMut(usize, Option<usize>) -> bool,
) -> Result<EvaluationRecord> {
    options.describe(&mut record);
    let networks = (&record.model, &record.data);
    let run = (set.name(), networks, &record.settings, &record.definitions);
    let run = serde_json::to_string(&run).map_err(|error| Error::failed(error.to_string()))?;
    let mut measured = Measured::new(&tower.model, options);
    let (mut log, before) = begin(output, &run, &mut measured)?;
    let mut n = before.len();

    let total = set.count();
    let size = tower.siglip.vision_config.image_size as u32;
    let prepare = |image: &ImageId, picture: Picture| {
        let square = || options.resize.square(&picture, size);
        (!before.contains(&image.id)).then(square).transpose()
    };
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let (mut passed, mut saved) = (0, Instant::now());
    let summary = set.for_each_batch(options.batch, threads, prepare, |batch| {
        passed += batch.len();
        let new = batch
            .into_iter()
            .filter_map(|(id, square)| Some((id, square?)));
        let (ids, originals): (Vec<_>, Vec<_>) = new.unzip();
        if !originals.is_empty() {
            let samples = measured.add(&tower.model, &originals)?;
            for (image, values) in ids.into_iter().zip(samples) {
                let id = image.id;
                log.append(&Sample { id, values })?;
            }
            n += originals.len();
        }
        let go_on = on_progress(passed, total);
        if !go_on || saved.elapsed() > SAVE_EVERY {
            let sums = measured.sums();
            State { n, sums }.write(output, &run)?;
            saved = Instant::now();
        }
        if go_on {
            Ok(())
        } else {
            Err(Error::Interrupted)
        }
    })?;
    if passed != n {
        return Err(Error::usage(format!(
            "{}: these are not the pictures that the unfinished run in {} had: name another folder with -o",
            summary.identity.name,
            output.display()
        )));
    }
    if n == 0 {
        let reason = summary.skipped.keys().next();
        let reason = reason.map_or("there are none", String::as_str);
        let reason = format!("none of the pictures can be read: {reason}");
        return Err(Error::invalid(&summary.identity.name, reason));
    }
    measured.finish(n, output, &mut record)?;
    State::remove(output)?;
    record.data.insert(0, summary.identity);
    record.skipped = summary.skipped;
    Ok(record)
}

/// Begins a run, or goes on with the one that was stopped in this folder: the ids of the pictures that it has measured.
fn begin(
    output: &Path,
    run: &str,
    measured: &mut Measured,
) -> Result<(SampleLog, HashSet<String>)> {
    let state = State::read(output, run)?;
    // What is there of an earlier run would be of other samples.
    let result = output.join("result.json");
    if result.exists() {
        std::fs::remove_file(&result).map_err(Error::io(&result))?;
    }
    let Some(state) = state else {
        return Ok((SampleLog::create(output)?, HashSet::new()));
    };
    let (mut log, mut samples) = SampleLog::resume(output)?;
    if samples.len() < state.n || measured.restore(&state.sums, &samples[..state.n]).is_none() {
        return Err(Error::invalid(
            output,
            "the unfinished run in it is damaged: remove the folder, and the run begins anew",
        ));
    }
    if samples.len() > state.n {
        // What was measured after the state was written is measured again.
        samples.truncate(state.n);
        drop(log);
        SampleLog::replace(output, &samples)?;
        (log, samples) = SampleLog::resume(output)?;
    }
    Ok((log, samples.into_iter().map(|sample| sample.id).collect()))
}

impl Options {
    fn describe(&self, record: &mut EvaluationRecord) {
        let mut define = |name: &str, text: &str| {
            record.definitions.insert(name.into(), text.into());
        };
        define("resize", self.resize.describe());
        define(
            "reconstruction",
            "8 bits a channel, (x + 1) 127.5 cut off to 0..255 and rounded down",
        );
        define(
            "psnr",
            "10 log10(255^2 / mse) of each picture; what is rebuilt exactly does not count",
        );
        define(
            "ssim",
            "Wang et al. 2004: Gaussian windows of 11 x 11 inside the picture, sigma 1.5, mean of RGB",
        );
        define(
            "codes-used",
            "part of the codebook that occurs at this depth",
        );
        define(
            "perplexity",
            "exp of the entropy of the codes at this depth",
        );
        if self.lpips.is_some() {
            define("lpips", "arXiv 1801.03924, version 0.1, VGG16");
        }
        if let Some(extractor) = &self.extractor {
            define("rfid", extractor.definition.describe());
            define(
                "inception-score",
                "mean of ten parts of every tenth picture; logits without bias",
            );
            let layers: Vec<_> = extractor.layers.iter().map(|layer| layer.name()).collect();
            record.set("fid", extractor.definition.name());
            record.set("layers", layers);
        }
        record.set("resize", self.resize.name());
    }
}
