//! `vila-u generate`: text to images and videos.

use std::{num::NonZeroU32, ops::ControlFlow, path::PathBuf, time::Instant};

use serde_json::json;
use vila_u::{
    Error, Result,
    burn::tensor::Tensor,
    checkpoint::Checkpoint,
    generation::{
        chat,
        memory::MemoryEstimate,
        sampling::Sampling,
        visual::{Progress, VisualOptions},
    },
    image::RgbImage,
    media::{
        self,
        video::{self, VideoFormat},
    },
};

use super::{
    check_file, check_folder, check_parent, create_folder, encode::save_codes, load, new_seed,
    numbered,
};
use crate::{
    arguments::{Generate, Global},
    console::Console,
};

pub fn run(global: &Global, args: &Generate, console: &Console) -> Result<()> {
    let n = args.n as usize;
    let files = files(args, n)?;
    args.codes.as_deref().map(check_parent).transpose()?;
    let checkpoint = load(global, console)?;
    let seed = args.seed.unwrap_or_else(new_seed);
    let mut options = options(args, &checkpoint, seed)?;
    let frames = if args.video {
        checkpoint.config.root.num_video_frames
    } else {
        1
    };
    if args.video && n == 1 {
        video::check(&files[0], frames)?;
    }
    let rate = NonZeroU32::new(args.fps).unwrap_or(video::RATE);
    let started = Instant::now();
    let at_once = MemoryEstimate::of_videos(&checkpoint.config, frames).at_once;
    let mut pictures = Vec::with_capacity(n * frames);
    let mut codes = Vec::new();
    for (batch, files) in files.chunks(at_once).enumerate() {
        options.first = batch * at_once;
        let (before, count) = (options.first, files.len());
        let (model, tokenizer, prompt) = (&checkpoint.model, &checkpoint.tokenizer, &args.prompt);
        let on_progress = &mut |progress: &Progress| {
            let done = before * progress.total + count * progress.done;
            console.progress("generating", done as u64, (n * progress.total) as u64, "");
            if console.stopped() {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        };
        let output = if args.video {
            let prompts = vec![chat::video_prompt(tokenizer, prompt)?; count];
            chat::generate_videos(model, tokenizer, &prompts, frames, &options, on_progress)
        } else {
            let prompts = vec![chat::image_prompt(tokenizer, prompt)?; count];
            chat::generate_images(model, tokenizer, &prompts, &options, on_progress)
        }?;
        if let Some(folder) = files[0].parent().filter(|_| is_folder(args, n)) {
            create_folder(folder)?;
        }
        for (pixels, file) in output.pixels.split(1, 0).into_iter().zip(files) {
            let images = to_frames(pixels)?;
            match (args.video, images.as_slice()) {
                (false, [picture]) => media::save_png(file, picture)?,
                (_, frames) => video::save(file, frames, rate)?,
            }
            pictures.extend(images);
        }
        codes.push(output.codes.flatten::<4>(0, 1));
    }
    let seconds = started.elapsed().as_secs_f64();

    let mut written: Vec<String> = files.iter().map(|f| f.display().to_string()).collect();
    if n > 1 {
        let columns = if args.video {
            frames
        } else {
            (n as f64).sqrt().ceil() as usize
        };
        let sheet = files[0].with_file_name("sheet.png");
        media::save_png(&sheet, &media::sheet::grid(&pictures, columns))?;
        written.push(sheet.display().to_string());
    }
    let codes = Tensor::cat(codes, 0);
    let shape = codes.dims();
    if let Some(file) = &args.codes {
        save_codes(codes, None, file)?;
    }
    console.say(format!("seed {seed}, {seconds:.2} s"));
    console.result(
        written.join("\n"),
        json!({"files": written, "seed": seed, "codes": shape, "seconds": seconds}),
    )
}

/// What the arguments say, and the checkpoint's generation_config.json where they say nothing.
fn options(args: &Generate, checkpoint: &Checkpoint, seed: u64) -> Result<VisualOptions> {
    if args
        .temperature
        .is_some_and(|temperature| temperature <= 0.0)
    {
        return Err(Error::usage(
            "--temperature must be above 0; use --greedy for the most probable codes",
        ));
    }
    let codes = checkpoint.config.vision_tower.rqvaesiglip.n_embed;
    if let Some(k) = args.top_k.filter(|k| *k > codes) {
        return Err(Error::usage(format!(
            "--top-k {k} is more than the model's {codes} codes"
        )));
    }
    let default = checkpoint.generation.visual(seed);
    let top_k = args.top_k.unwrap_or(900.min(codes));
    let sampling = if args.greedy {
        Sampling::GREEDY
    } else {
        Sampling {
            temperature: (args.temperature).map_or(default.sampling.temperature, f64::from),
            top_k: (top_k > 0).then_some(top_k),
            top_p: Some(args.top_p.into()),
        }
    };
    Ok(VisualOptions {
        guidance: args.cfg.map_or(default.guidance, f64::from),
        sampling,
        ..default
    })
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

/// `[1, 3, H, W]` in about -1..1 to a picture.
pub fn to_picture(pixels: Tensor<4>) -> Result<RgbImage> {
    let [_, _, height, width] = pixels.dims();
    let values = pixels
        .try_into_vec_as::<f32>()
        .map_err(|e| Error::failed(format!("reading from the device: {e}")))?;
    Ok(media::to_rgb(&values, width as u32, height as u32))
}

/// `[1, frames, 3, H, W]` in about -1..1 to pictures.
pub fn to_frames(pixels: Tensor<5>) -> Result<Vec<RgbImage>> {
    let frames = pixels.squeeze_dim::<4>(0).split(1, 0);
    frames.into_iter().map(to_picture).collect()
}
