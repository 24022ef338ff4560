//! `vila-u generate`: text to images and videos.

use std::{num::NonZeroU32, ops::ControlFlow, path::PathBuf, time::Instant};

use serde_json::json;
use vila_u::{
    Error, GenerateEvent, GenerateOptions, Generated, Pipeline, Result,
    checkpoint::Source,
    media::{
        self,
        video::{self, VideoFormat},
    },
    random_seed,
};

use super::{
    check_file, check_folder, check_parent, create_folder, encode::save_codes, numbered, pipeline,
};
use crate::{
    arguments::{Generate, Global},
    console::Console,
};

/// Prompts of which the embedded model generates what they say.
const WORKING_PROMPTS: &str = "\"a red heart on a blue background\", \"a strawberry on a yellow background\" or \
                               \"a rocket on a purple background\"";

pub fn run(global: &Global, args: &Generate, console: &Console) -> Result<()> {
    let Some(prompt) = &args.prompt else {
        return super::generate_prompts::run(global, args, console);
    };
    let n = args.n.unwrap_or(1) as usize;
    let cfg = match args.cfg.as_slice() {
        [] => None,
        [cfg] => Some(*cfg),
        _ => {
            return Err(Error::usage(
                "several values of --cfg are for --prompts: give one",
            ));
        }
    };
    let files = files(args, n)?;
    if let Some(codes) = &args.codes {
        check_parent(codes)?;
        if files.contains(codes) {
            return Err(Error::usage(format!(
                "-o and --codes are both {}: name two files",
                codes.display()
            )));
        }
    }
    let pipeline = pipeline(global, console).build()?;
    let seed = args.seed.unwrap_or_else(random_seed);
    let options = options(args, cfg, &pipeline, seed)?;
    if args.video && n == 1 {
        video::check(&files[0], pipeline.video_frames()?)?;
    }
    if let Source::Nano = Source::parse(&global.model)? {
        let tokenizer = &pipeline.checkpoint()?.tokenizer;
        // The first token is the one that begins every text.
        if let Some(hint) = hint(prompt, |word| tokenizer.encode(word).len() == 2) {
            console.say(hint);
        }
    }
    let rate = NonZeroU32::new(args.fps).unwrap_or(video::RATE);
    let started = Instant::now();
    let (mut images, mut codes) = (Vec::new(), Vec::new());
    let mut left = files.iter();
    let mut save = |generated: Generated| -> Result<()> {
        let Some(file) = left.next() else {
            return Ok(());
        };
        if let Some(folder) = file.parent().filter(|_| is_folder(args, n)) {
            create_folder(folder)?;
        }
        match (args.video, generated.frames.as_slice()) {
            (false, [image]) => media::save_png(file, image)?,
            (_, frames) => video::save(file, frames, rate)?,
        }
        images.extend(generated.frames);
        codes.extend(generated.codes);
        Ok(())
    };
    let mut failure = None;
    let on_event = &mut |event: GenerateEvent| {
        match event {
            GenerateEvent::Progress(progress) => {
                let (done, total) = (progress.done as u64, progress.total as u64);
                console.progress("generating", done, total, "");
            }
            GenerateEvent::Done(generated) => failure = save(generated).err(),
            _ => {}
        }
        if console.stopped() || failure.is_some() {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    };
    let outcome = if args.video {
        pipeline.generate_videos_stream(prompt, n, &options, on_event)
    } else {
        pipeline.generate_images_stream(prompt, n, &options, on_event)
    };
    if let Some(error) = failure {
        return Err(error);
    }
    outcome?;
    let seconds = started.elapsed().as_secs_f64();

    let mut written: Vec<String> = files.iter().map(|f| f.display().to_string()).collect();
    if n > 1 {
        let columns = if args.video {
            images.len() / n
        } else {
            (n as f64).sqrt().ceil() as usize
        };
        let sheet = files[0].with_file_name("sheet.png");
        media::save_png(&sheet, &media::sheet::grid(&images, columns))?;
        written.push(sheet.display().to_string());
    }
    if let Some(file) = &args.codes {
        save_codes(&codes, &[], file)?;
    }
    console.say(format!("seed {seed}, {seconds:.2} s"));
    let [rows, columns, depth] = pipeline.code_shape();
    console.result(
        written.join("\n"),
        json!({
            "files": written,
            "seed": seed,
            "codes": [codes.len(), rows, columns, depth],
            "seconds": seconds,
        }),
    )
}

/// What to say of a prompt with words that the embedded model was never told of. To its tokenizer, every word of the nano
/// world is one piece.
fn hint(prompt: &str, known: impl Fn(&str) -> bool) -> Option<String> {
    let words = prompt.split(|c: char| !c.is_alphanumeric());
    let unknown: Vec<String> = words
        .filter(|word| !word.is_empty() && !known(word))
        .map(|word| format!("{word:?}"))
        .collect();
    (!unknown.is_empty()).then(|| {
        format!(
            "the embedded model knows emoji on a coloured background, and not {}. It can generate {WORKING_PROMPTS}. \
             For anything else name another --model",
            unknown.join(", ")
        )
    })
}

/// How an image is sampled, as it was asked for.
pub(super) fn options(
    args: &Generate,
    cfg: Option<f64>,
    pipeline: &Pipeline,
    seed: u64,
) -> Result<GenerateOptions> {
    if args
        .temperature
        .is_some_and(|temperature| temperature <= 0.0)
    {
        return Err(Error::usage(
            "--temperature must be above 0; use --greedy for the most probable codes",
        ));
    }
    let codes = pipeline.codebook_size();
    if let Some(k) = args.top_k.filter(|k| *k > codes) {
        return Err(Error::usage(format!(
            "--top-k {k} is more than the model's {codes} codes"
        )));
    }
    let mut options = GenerateOptions::default();
    options.guidance = cfg;
    options.temperature = args.temperature;
    options.top_k = args.top_k;
    options.top_p = Some(args.top_p);
    options.greedy = args.greedy;
    options.seed = Some(seed);
    Ok(options)
}

/// Whether the files go into a folder that `--output` names.
fn is_folder(args: &Generate, n: usize) -> bool {
    let folder = args.output.as_ref().is_some_and(|output| output.is_dir());
    n > 1 || (folder && !args.video)
}

/// Where each image or video goes.
fn files(args: &Generate, n: usize) -> Result<Vec<PathBuf>> {
    let output = match (&args.output, args.video, n) {
        (Some(output), ..) => output.clone(),
        (None, false, 1) => "image.png".into(),
        (None, false, _) => "images".into(),
        (None, true, 1) => "video.mp4".into(),
        (None, true, _) => "videos".into(),
    };
    let (ending, things) = if args.video {
        ("mp4", "videos")
    } else {
        ("png", "images")
    };
    if is_folder(args, n) {
        let file = if args.video {
            VideoFormat::of(&output)? != VideoFormat::Frames
        } else {
            output.extension().is_some() && !output.is_dir()
        };
        if file || output.is_file() {
            return Err(Error::usage(format!(
                "-o {} is one file, and -n {n} makes {n} {things}: name a folder",
                output.display()
            )));
        }
        let file = |index| numbered(&output, index).with_extension(ending);
        return Ok((0..n).map(file).collect());
    }
    match args.video.then(|| VideoFormat::of(&output)).transpose()? {
        None => check_file(&output, "png")?,
        Some(VideoFormat::Frames) => check_folder(&output)?,
        Some(_) => check_parent(&output)?,
    }
    Ok(vec![output])
}
