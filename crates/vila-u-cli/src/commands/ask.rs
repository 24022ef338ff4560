//! `vila-u ask`: a question about images, videos or nothing, answered as it is written, in words and pictures.

use std::{ops::ControlFlow, path::Path};

use serde_json::json;
use vila_u::{
    Error, Result,
    burn::tensor::{Device, Tensor},
    checkpoint::Checkpoint,
    generation::{
        chat::{self, AnswerEvent, AnswerOptions, VisualInputs},
        sampling::Sampling,
        text::TextOptions,
        visual::{VisualOptions, VisualOutput},
    },
    media::{
        self,
        preprocess::ResizeMode,
        video::{self, FrameSampling},
    },
};

use super::{
    check_folder, create_folder, generate::to_frames, load, new_seed, read_pixels, to_tensor,
};
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
    let output = args.output.as_deref().unwrap_or(Path::new("reply"));
    check_folder(output)?;
    let checkpoint = load(global, console)?;
    let inputs = inputs(args, &checkpoint, console)?;
    let seed = args.seed.unwrap_or_else(new_seed);
    let visual = checkpoint.generation.visual(seed);
    let options = AnswerOptions {
        text: TextOptions {
            sampling: sampling(args, &checkpoint),
            seed,
            max_tokens: args.max_tokens,
            stop: vec![checkpoint.tokenizer.end()],
        },
        visual: VisualOptions {
            guidance: args.cfg.map_or(visual.guidance, f64::from),
            sampling: if args.greedy {
                Sampling::GREEDY
            } else {
                visual.sampling
            },
            ..visual
        },
        frames: checkpoint.config.root.num_video_frames,
        system: !args.no_system,
    };
    let mut failure = None;
    let (mut text, mut files) = (String::new(), Vec::new());
    let answer = chat::answer(
        &checkpoint.model,
        &checkpoint.tokenizer,
        &args.question,
        inputs,
        &options,
        &mut |event| {
            let said = match event {
                // An answer begins with a space that belongs to the template.
                AnswerEvent::Text(said) if text.is_empty() => Ok(said.trim_start().to_string()),
                AnswerEvent::Text(said) => Ok(said.to_string()),
                AnswerEvent::VisualProgress(progress) => {
                    console.progress(
                        "generating",
                        progress.done as u64,
                        progress.total as u64,
                        "",
                    );
                    Ok(String::new())
                }
                AnswerEvent::Visual(visual) => save(visual, output, &mut files),
            };
            let printed = said.and_then(|said| {
                text += &said;
                if console.json {
                    Ok(())
                } else {
                    console.print(&said)
                }
            });
            failure = printed.err();
            if console.stopped() || failure.is_some() {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            }
        },
    );
    if let Some(error) = failure {
        return Err(error);
    }
    let answer = answer?;
    if console.json {
        let value = json!({
            "text": text.trim(),
            "tokens": answer.tokens,
            "prompt_tokens": answer.prompt_tokens,
            "files": files,
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

/// Writes what was generated as the next file of the folder; how the answer names it.
fn save(output: &VisualOutput, folder: &Path, files: &mut Vec<String>) -> Result<String> {
    let frames = to_frames(output.pixels.clone())?;
    create_folder(folder)?;
    let file = folder.join(match frames.len() {
        1 => format!("{:04}.png", files.len()),
        _ => format!("{:04}.mp4", files.len()),
    });
    match frames.as_slice() {
        [picture] => media::save_png(&file, picture)?,
        frames => video::save(&file, frames, video::RATE)?,
    }
    files.push(file.display().to_string());
    Ok(format!("[{}]", file.display()))
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

/// What the question is about, as the tower sees it.
fn inputs(args: &Ask, checkpoint: &Checkpoint, console: &Console) -> Result<VisualInputs> {
    let device: Device = checkpoint.model.llm.device();
    let size = checkpoint.config.siglip.vision_config.image_size;
    // The released model's inference resizes pictures as they are stored, and frames as RGB.
    let (picture, frame) = match checkpoint.config.root.image_aspect_ratio.as_str() {
        "pad" => (ResizeMode::Pad, ResizeMode::Pad),
        _ => (ResizeMode::StretchNative, ResizeMode::Stretch),
    };
    let mut inputs = VisualInputs::default();
    for path in &args.image {
        inputs
            .images
            .push(read_pixels(path, size, picture, &device)?);
    }
    for path in &args.video {
        if console.stopped() {
            return Err(Error::Interrupted);
        }
        let frames = checkpoint.config.root.num_video_frames;
        let frames = video::frames(path, frames, FrameSampling::Inference)?;
        let frames = frames.iter().map(|f| to_tensor(f, size, frame, &device));
        inputs.videos.push(Tensor::cat(frames.collect(), 0));
    }
    Ok(inputs)
}
