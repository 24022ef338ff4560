//! Generates the files of many prompts together: all prompts share the steps of one engine, and files are written while
//! the next are generated.

use std::{
    collections::HashSet,
    fs,
    num::NonZeroU32,
    ops::ControlFlow,
    path::Path,
    sync::mpsc::{self, Receiver, SyncSender},
    thread,
};

use image::{RgbImage, codecs::jpeg::JpegEncoder};
use sha2::{Digest, Sha256};

use super::{
    Prompt, Shard,
    manifest::{Entry, Manifest, SampleSettings},
};
use crate::{
    Error, Pipeline, Result, atomic,
    checkpoint::WeightDtype,
    data::seed::mix,
    engine::{Engine, EngineOptions, Event, Generation, Request, VisualKind},
    evaluation::record::{Identity, hex},
    media::{save_png, video},
    pipeline::GenerateOptions,
};

/// Generated pictures that wait to be written at most.
const UNWRITTEN: usize = 64;

/// What Pillow writes where nothing is said, as the benchmarks' own scripts do.
const JPEG_QUALITY: u8 = 75;

/// Seeds are no larger, for programs whose numbers are all doubles.
const SEED_BITS: u32 = 53;

/// How a run generates.
#[derive(Clone, Debug)]
pub struct Settings {
    pub kind: VisualKind,
    /// Frames a second of the videos that are written.
    pub rate: NonZeroU32,
    /// Its seed, 0 if there is none, is that of the whole run.
    pub options: GenerateOptions,
    pub shard: Shard,
    /// What the manifest says of the model, and of the number format of its weights in memory.
    pub model: Identity,
    pub dtype: WeightDtype,
}

/// How far a run is.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    /// Visual tokens sampled, of `total`.
    pub done: u64,
    pub total: u64,
    /// Files generated, of `all_files`.
    pub files: usize,
    pub all_files: usize,
}

/// What a run did.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Files generated now, and those that were there.
    pub generated: usize,
    pub present: usize,
    pub skipped: Vec<Skipped>,
}

/// A file that cannot be: its prompt is too long for the model, say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skipped {
    pub file: String,
    pub reason: String,
}

/// A file that is to be.
struct Sample {
    file: String,
    settings: SampleSettings,
}

/// Generates the files of the prompts into `folder`, those of one shard, and no file that is there already. It can be
/// stopped at any time and run again, with another shard too: a file depends on the settings, its prompt, the index of
/// that and its own number, and on nothing else.
///
/// - `on_progress`: told at every step; [`ControlFlow::Break`] ends it with [`Error::Interrupted`]
///
/// A usage error for options that are out of range, for a folder whose files were made with other settings, and while
/// another run writes there. A prompt that the model cannot read costs its own files, [`Outcome::skipped`]; any other
/// failure, a full disk say, ends the run, and what was generated before is kept.
pub fn run(
    pipeline: &Pipeline,
    prompts: &[Prompt],
    folder: &Path,
    settings: &Settings,
    on_progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
) -> Result<Outcome> {
    let prompts: Vec<&Prompt> = (prompts.iter())
        .filter(|prompt| settings.shard.has(prompt.index))
        .collect();
    let planned = plan(pipeline, &prompts, settings)?;
    fs::create_dir_all(folder).map_err(Error::io(folder))?;
    let (manifest, entries) = Manifest::open(folder, settings.shard)?;
    let mut outcome = Outcome::default();
    let mut missing = Vec::new();
    for sample in planned {
        let entry = entries.get(&sample.file);
        if let Some(other) = entry.and_then(|entry| entry.settings.difference(&sample.settings)) {
            return Err(Error::usage(format!(
                "{} was made with {other}: choose another folder, or remove this one",
                folder.join(&sample.file).display()
            )));
        }
        if entry.is_some() && folder.join(&sample.file).is_file() {
            outcome.present += 1;
        } else {
            missing.push(sample);
        }
    }
    prepare_folders(folder, &prompts, settings.shard)?;
    thread::scope(|scope| {
        let (generated, unwritten) = mpsc::sync_channel(UNWRITTEN);
        let writer = scope.spawn(move || write_files(folder, settings, manifest, unwritten));
        // It ends before everything is generated only where it failed.
        let on_step = &mut |progress| match writer.is_finished() {
            true => ControlFlow::Break(()),
            false => on_progress(progress),
        };
        let ran = generate(pipeline, missing, settings, generated, on_step);
        let written = writer.join();
        // Why the files could not be written is the reason of both.
        written.unwrap_or_else(|_| Err(Error::failed("writing files failed")))?;
        let (generated, skipped) = ran?;
        outcome.generated = generated;
        outcome.skipped = skipped;
        Ok(outcome)
    })
}

/// Every file of the prompts, with what it depends on.
fn plan(pipeline: &Pipeline, prompts: &[&Prompt], settings: &Settings) -> Result<Vec<Sample>> {
    let seed = settings.options.seed.unwrap_or(0);
    let resolved = settings
        .options
        .resolve(&pipeline.checkpoint()?.generation, seed);
    resolved.check()?;
    let mut samples = Vec::new();
    for prompt in prompts {
        let of_prompt = mix(seed, prompt.index as u64);
        for (number, file) in prompt.files.iter().enumerate() {
            let settings = SampleSettings {
                prompt: prompt.text.clone(),
                seed: mix(of_prompt, number as u64) >> (u64::BITS - SEED_BITS),
                cfg: resolved.guidance,
                temperature: resolved.sampling.temperature,
                top_k: resolved.sampling.top_k,
                top_p: resolved.sampling.top_p,
                greedy: settings.options.greedy,
                model_sha256: settings.model.sha256.clone(),
                dtype: settings.dtype.name().into(),
            };
            samples.push(Sample {
                file: file.clone(),
                settings,
            });
        }
    }
    Ok(samples)
}

/// Makes the folders of all files and writes the files beside them. Where no other shard can be at work, removes what a
/// killed run left half-written: scorers look at whatever is there.
fn prepare_folders(folder: &Path, prompts: &[&Prompt], shard: Shard) -> Result<()> {
    let files = prompts.iter().flat_map(|prompt| &prompt.files);
    let inner: HashSet<&str> = files
        .map(|file| file.rsplit_once('/').map_or("", |(inner, _)| inner))
        .collect();
    for inner in inner {
        let inner = folder.join(inner);
        fs::create_dir_all(&inner).map_err(Error::io(&inner))?;
        if shard == Shard::WHOLE {
            atomic::clean(&inner)?;
        }
    }
    for (name, content) in prompts.iter().filter_map(|prompt| prompt.sidecar.as_ref()) {
        let path = folder.join(name);
        if fs::read(&path).is_ok_and(|there| there == content.as_bytes()) {
            continue;
        }
        atomic::write(&path, content.as_bytes())?;
    }
    Ok(())
}

/// Generates all samples and hands each over; how many, and those that cannot be.
fn generate(
    pipeline: &Pipeline,
    samples: Vec<Sample>,
    settings: &Settings,
    generated: SyncSender<(Sample, Vec<RgbImage>)>,
    on_progress: &mut dyn FnMut(Progress) -> ControlFlow<()>,
) -> Result<(usize, Vec<Skipped>)> {
    let options = EngineOptions::default();
    let mut engine = Engine::new(pipeline, options)?;
    let [rows, columns, _] = pipeline.code_shape();
    let frames = match settings.kind {
        VisualKind::Image => 1,
        VisualKind::Video => pipeline.video_frames()?,
    };
    let all_files = samples.len();
    let total = (all_files * frames * rows * columns) as u64;
    let (ended, endings) = mpsc::channel();
    let mut left = samples.into_iter();
    let (mut running, mut files, mut skipped) = (0, 0, Vec::new());
    loop {
        // No more than can run together: the others would only wait in another place.
        for sample in left.by_ref().take(options.max_running - running) {
            running += 1;
            let request = request(&sample.settings, settings);
            let (ended, mut sample) = (ended.clone(), Some(sample));
            let on_event = move |event| {
                let outcome = match event {
                    Event::Generated(generated) => Ok(generated.frames),
                    Event::Failed(error) => Err(error),
                    _ => return ControlFlow::Continue(()),
                };
                if let Some(sample) = sample.take() {
                    // Nobody waits for it where everything ends.
                    let _ = ended.send((sample, outcome));
                }
                ControlFlow::Continue(())
            };
            engine.submit(request, Box::new(on_event));
        }
        if running == 0 {
            return Ok((files, skipped));
        }
        engine.step();
        for (sample, outcome) in endings.try_iter() {
            running -= 1;
            match outcome {
                Ok(frames) => {
                    files += 1;
                    if generated.send((sample, frames)).is_err() {
                        return Err(Error::failed("files can no longer be written"));
                    }
                }
                Err(Error::Usage(reason)) => skipped.push(Skipped {
                    file: sample.file,
                    reason,
                }),
                Err(error) => return Err(error),
            }
        }
        let done = engine.statistics().generated_tokens;
        let progress = Progress {
            done,
            total,
            files,
            all_files,
        };
        if on_progress(progress).is_break() {
            return Err(Error::Interrupted);
        }
    }
}

fn request(sample: &SampleSettings, settings: &Settings) -> Request {
    let mut options = settings.options.clone();
    options.seed = Some(sample.seed);
    Request::Generate(Generation {
        prompt: sample.prompt.clone(),
        kind: settings.kind,
        options,
        index: 0,
        previews: 0,
    })
}

/// Writes what is handed over, each file before its line of the manifest.
fn write_files(
    folder: &Path,
    settings: &Settings,
    mut manifest: Manifest,
    unwritten: Receiver<(Sample, Vec<RgbImage>)>,
) -> Result<()> {
    for (sample, frames) in unwritten {
        write_file(&folder.join(&sample.file), &frames, settings.rate)?;
        let mut pixels = Sha256::new();
        frames
            .iter()
            .for_each(|frame| pixels.update(frame.as_raw()));
        manifest.append(&Entry {
            file: sample.file,
            settings: sample.settings,
            model: settings.model.name.clone(),
            version: env!("CARGO_PKG_VERSION").into(),
            pixels_sha256: hex(pixels),
        })?;
    }
    Ok(())
}

/// A picture or a video, as its name says.
fn write_file(path: &Path, frames: &[RgbImage], rate: NonZeroU32) -> Result<()> {
    let ending = path.extension().and_then(|ending| ending.to_str());
    match (ending, frames) {
        (Some("png"), [image]) => save_png(path, image),
        (Some("jpeg"), [image]) => {
            let mut bytes = Vec::new();
            JpegEncoder::new_with_quality(&mut bytes, JPEG_QUALITY)
                .encode_image(image)
                .map_err(|error| Error::invalid(path, format!("cannot be written: {error}")))?;
            atomic::write(path, &bytes)
        }
        _ => video::save(path, frames, rate),
    }
}
