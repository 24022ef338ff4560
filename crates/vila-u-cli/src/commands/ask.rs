//! `vila-u ask`: a question about images, a video or nothing, answered as it is written.

use std::ops::ControlFlow;

use serde_json::json;
use vila_u::{
    Error, Result, assistant,
    burn::tensor::{Device, Tensor},
    checkpoint::Checkpoint,
    generation::{sampling::Sampling, text::TextOptions},
    media::{preprocess::Mode, video},
};

use super::{load, new_seed, read_pixels, to_tensor};
use crate::{
    arguments::{Ask, Global},
    console::Console,
};

pub fn run(global: &Global, args: &Ask, console: &Console) -> Result<()> {
    if args.max_tokens == 0 {
        return Err(Error::usage("--max-tokens must be at least 1"));
    }
    if args.temperature.is_some_and(|t| t <= 0.0) {
        return Err(Error::usage(
            "--temperature must be above 0; use --greedy for the most probable tokens",
        ));
    }
    let checkpoint = load(global, console)?;
    let images = images(args, &checkpoint)?;
    let options = TextOptions {
        sampling: sampling(args, &checkpoint),
        seed: args.seed.unwrap_or_else(new_seed),
        max_tokens: args.max_tokens,
        stop: vec![checkpoint.tokenizer.end()],
    };
    let mut failure = None;
    let mut started = false;
    let answer = assistant::ask(
        &checkpoint.model,
        &checkpoint.tokenizer,
        &args.question,
        images,
        !args.no_system,
        &options,
        &mut |text| {
            // An answer begins with a space that belongs to the template.
            let text = if started { text } else { text.trim_start() };
            started |= !text.is_empty();
            if !console.json {
                failure = console.print(text).err();
            }
            match console.stopped() || failure.is_some() {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            }
        },
    )?;
    if let Some(error) = failure {
        return Err(error);
    }
    if console.json {
        let value = json!({
            "text": answer.text,
            "tokens": answer.tokens,
            "prompt_tokens": answer.prompt_tokens,
        });
        console.result("", value)?;
    } else {
        console.print("\n")?;
    }
    if console.stopped() {
        return Err(Error::Interrupted);
    }
    Ok(())
}

/// What the options say, and the checkpoint's generation_config.json where they say nothing.
fn sampling(args: &Ask, checkpoint: &Checkpoint) -> Sampling {
    let default = &checkpoint.generation;
    let asked = args.temperature.is_some() || args.top_p.is_some();
    if args.greedy || !(default.do_sample || asked) {
        return Sampling::GREEDY;
    }
    Sampling {
        temperature: args.temperature.map_or(default.temperature, f64::from),
        top_k: (default.top_k > 0).then_some(default.top_k),
        top_p: Some(args.top_p.map_or(default.top_p, f64::from)),
    }
}

/// All images, or the video's frames, `[images, 3, size, size]`.
fn images(args: &Ask, checkpoint: &Checkpoint) -> Result<Option<Tensor<4>>> {
    let device: Device = checkpoint.model.llm.device();
    let size = checkpoint.config.siglip.vision_config.image_size;
    // The released model's inference resizes pictures as they are stored, and frames as RGB.
    let (picture, frame) = match checkpoint.config.root.image_aspect_ratio.as_str() {
        "pad" => (Mode::Pad, Mode::Pad),
        _ => (Mode::UnderstandingNative, Mode::Understanding),
    };
    let mut images = Vec::new();
    for path in &args.image {
        images.push(read_pixels(path, size, picture, &device)?);
    }
    if let Some(path) = &args.video {
        let frames = video::frames(path, checkpoint.config.root.num_video_frames)?;
        images.extend(frames.iter().map(|f| to_tensor(f, size, frame, &device)));
    }
    Ok((!images.is_empty()).then(|| Tensor::cat(images, 0)))
}
