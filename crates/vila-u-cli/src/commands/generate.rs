//! `vila-u generate`: text to images.

use std::{ops::ControlFlow, path::PathBuf, time::Instant};

use serde_json::json;
use vila_u::{
    Error, Result, assistant,
    burn::tensor::Tensor,
    checkpoint::Checkpoint,
    generation::{memory::Need, sampling::Sampling, visual::VisualOptions},
    media,
};

use super::{check_png, create_folder, encode::save_codes, load, new_seed, numbered};
use crate::{
    arguments::{Generate, Global},
    console::Console,
};

pub fn run(global: &Global, args: &Generate, console: &Console) -> Result<()> {
    let n = args.n as usize;
    let files = files(args, n)?;
    let checkpoint = load(global, console)?;
    let sampling = sampling(args, &checkpoint)?;
    let seed = args.seed.unwrap_or_else(new_seed);
    let mut options = VisualOptions {
        guidance: args.cfg.into(),
        sampling,
        seed,
        first: 0,
    };
    let started = Instant::now();
    let at_once = Need::of(&checkpoint.config).at_once;
    let mut pictures = Vec::with_capacity(n);
    let mut codes = Vec::new();
    for files in files.chunks(at_once) {
        options.first = pictures.len();
        let (before, count) = (options.first, files.len());
        let drawing = assistant::draw(
            &checkpoint.model,
            &checkpoint.tokenizer,
            &args.prompt,
            count,
            &options,
            &mut |progress| {
                let done = before * progress.total + count * progress.done;
                console.progress("drawing", done as u64, (n * progress.total) as u64, "");
                match console.stopped() {
                    true => ControlFlow::Break(()),
                    false => ControlFlow::Continue(()),
                }
            },
        )?;
        if let Some(folder) = files[0].parent().filter(|_| is_folder(args, n)) {
            create_folder(folder)?;
        }
        let pixels = drawing.pixels.squeeze_dim::<4>(1).split(1, 0);
        for (pixels, file) in pixels.into_iter().zip(files) {
            let picture = to_picture(pixels)?;
            media::save_png(file, &picture)?;
            pictures.push(picture);
        }
        codes.push(drawing.codes.squeeze_dim::<4>(1));
    }
    let seconds = started.elapsed().as_secs_f64();

    let mut written: Vec<String> = files.iter().map(|f| f.display().to_string()).collect();
    if n > 1 {
        let columns = (n as f64).sqrt().ceil() as usize;
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

/// What the options say, and the checkpoint's generation_config.json where they say nothing.
fn sampling(args: &Generate, checkpoint: &Checkpoint) -> Result<Sampling> {
    if args.greedy {
        return Ok(Sampling::GREEDY);
    }
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
    let default = checkpoint.generation.visual();
    let top_k = args.top_k.unwrap_or(900.min(codes));
    Ok(Sampling {
        temperature: args.temperature.map_or(default.temperature, f64::from),
        top_k: (top_k > 0).then_some(top_k),
        top_p: Some(args.top_p.into()),
    })
}

/// Whether `--output` names a folder.
fn is_folder(args: &Generate, n: usize) -> bool {
    n > 1 || args.output.as_ref().is_some_and(|output| output.is_dir())
}

/// Where each image goes.
fn files(args: &Generate, n: usize) -> Result<Vec<PathBuf>> {
    let output = match &args.output {
        Some(output) => output.clone(),
        None if n == 1 => "image.png".into(),
        None => "images".into(),
    };
    if is_folder(args, n) {
        if output.extension().is_some_and(|e| e == "png") {
            return Err(Error::usage(format!(
                "-o {} is one file, and -n {n} makes {n} images: name a folder",
                output.display()
            )));
        }
        return Ok((0..n).map(|index| numbered(&output, index)).collect());
    }
    check_png(&output)?;
    Ok(vec![output])
}

/// `[1, 3, H, W]` in about -1..1 to a picture.
pub fn to_picture(pixels: Tensor<4>) -> Result<vila_u::image::RgbImage> {
    let [_, _, height, width] = pixels.dims();
    let values = pixels
        .try_into_vec_as::<f32>()
        .map_err(|e| Error::failed(format!("reading from the device: {e}")))?;
    Ok(media::to_rgb(&values, width as u32, height as u32))
}
