//! `vila-u ask`: a question about images, videos or nothing, answered as it is written, in words and pictures.

use std::{ops::ControlFlow, path::Path};

use serde_json::json;
use vila_u::{
    AskEvent, AskOptions, Error, Generated, Question, Result,
    media::{self, video},
};

use super::{check_folder, check_not_input, create_folder, pipeline};
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
    // Pictures of the reply would become frames of the video.
    check_not_input(output, &args.video)?;
    let pipeline = pipeline(global, console).build()?;
    let mut question = Question::new(&args.question);
    for path in &args.image {
        question = question.image(media::load(path)?);
    }
    for path in &args.video {
        if console.stopped() {
            return Err(Error::Interrupted);
        }
        question = question.video(pipeline.load_video(path)?);
    }
    let mut failure = None;
    let (mut text, mut files) = (String::new(), Vec::new());
    let answer = pipeline.ask_stream(question, &options(args), &mut |event| {
        let said = match event {
            // An answer begins with a space that belongs to the template.
            AskEvent::Text(said) if text.is_empty() => Ok(said.trim_start().to_string()),
            AskEvent::Text(said) => Ok(said.to_string()),
            AskEvent::Generated(generated) => save(args, generated, output, &mut files),
            AskEvent::Progress(progress) => {
                let (done, total) = (progress.done as u64, progress.total as u64);
                console.progress("generating", done, total, "");
                Ok(String::new())
            }
            _ => Ok(String::new()),
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
    });
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

fn options(args: &Ask) -> AskOptions {
    let mut options = AskOptions::default();
    options.max_tokens = args.max_tokens;
    options.temperature = args.temperature.map(f64::from);
    options.top_p = args.top_p.map(f64::from);
    options.greedy = args.greedy;
    options.guidance = args.cfg.map(f64::from);
    options.seed = args.seed;
    options.system_prompt = !args.no_system;
    options
}

/// Writes what was generated as the next file of the folder; how the answer names it.
fn save(
    args: &Ask,
    generated: &Generated,
    folder: &Path,
    files: &mut Vec<String>,
) -> Result<String> {
    create_folder(folder)?;
    let inputs = || args.image.iter().chain(&args.video);
    let file = match generated.frames.as_slice() {
        [image] => {
            let file = folder.join(format!("{:04}.png", files.len()));
            check_not_input(&file, inputs())?;
            media::save_png(&file, image)?;
            file
        }
        frames => {
            let file = folder.join(format!("{:04}.mp4", files.len()));
            check_not_input(&file, inputs())?;
            video::save(&file, frames, video::RATE)?;
            file
        }
    };
    files.push(file.display().to_string());
    Ok(format!("[{}]", file.display()))
}
