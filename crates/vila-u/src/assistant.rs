//! What people ask of the model, in its conversation template: an answer, or pictures.

use std::ops::ControlFlow;

use burn::tensor::Tensor;

use crate::{
    Error, Result,
    generation::{
        reply::{self, Event, Opening},
        rows::Prompt,
        text::TextOptions,
        visual::{self, Drawing, Progress, VisualOptions},
    },
    model::VilaU,
    sequence::{Layout, Sample},
    text::{
        IMAGE_ID, IMAGE_PLACEHOLDER, Tokenizer, VIDEO_PLACEHOLDER,
        conversation::{
            self, IMAGE_END, IMAGE_START, Reply, Turn, VIDEO_END, VIDEO_START, generation_prompt,
            unconditional_prompt,
        },
    },
};

/// An answer and what it took.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Without special tokens and surrounding space; `<image>` and `<video>` where something was drawn.
    pub text: String,
    /// The ids written, the one that ended the answer included; [`IMAGE_ID`] for every image or frame.
    pub tokens: Vec<i64>,
    /// Positions the model read before it wrote, those of images included.
    pub prompt_tokens: usize,
}

/// What a question is about.
#[derive(Default)]
pub struct Shown {
    /// Each `[1, 3, size, size]` in -1..1.
    pub images: Vec<Tensor<4>>,
    /// Each `[frames, 3, size, size]`, all with as many frames.
    pub videos: Vec<Tensor<4>>,
}

/// How a reply is made.
#[derive(Debug, Clone)]
pub struct ReplyOptions {
    pub text: TextOptions,
    pub visual: VisualOptions,
    /// Of a video that is drawn.
    pub frames: usize,
    /// Whether the prompt begins with the system sentence.
    pub system: bool,
}

/// A part of a reply, as soon as it is known.
pub enum Part<'a> {
    Text(&'a str),
    /// A picture or video is being drawn.
    Drawing(&'a Progress<'a>),
    Drawn(&'a Drawing),
}

/// Answers a question about images and videos, or about none, in words and in pictures and videos that the
/// model draws where it opens them.
///
/// - `on_part`: gets the answer piece by piece; [`ControlFlow::Break`] ends it there, and a drawing with
///   [`crate::Error::Interrupted`]
///
/// Errors when the question names another number of images or videos.
pub fn reply(
    model: &VilaU,
    tokenizer: &Tokenizer,
    question: &str,
    shown: Shown,
    options: &ReplyOptions,
    on_part: &mut dyn FnMut(Part) -> ControlFlow<()>,
) -> Result<Answer> {
    let system = options.system;
    let openings = openings(tokenizer, options.frames, system)?;
    let image = tokenizer.added(IMAGE_START);
    let (prompt, prompt_tokens) = question_prompt(model, tokenizer, question, shown, system)?;
    let mut stream = tokenizer.stream();
    let (mut text, mut tokens) = (String::new(), Vec::new());
    let (words, visual) = (&options.text, &options.visual);
    reply::write(
        model,
        prompt,
        &openings,
        words,
        visual,
        &mut |event| match event {
            Event::Token(token) => {
                tokens.push(token);
                let piece = stream.push(token);
                text += &piece;
                on_part(Part::Text(&piece))
            }
            Event::Visual(progress) => on_part(Part::Drawing(progress)),
            Event::Drawn(drawing) => {
                let [_, frames, ..] = drawing.codes.dims();
                text += match tokens.last() == image.as_ref() {
                    true => IMAGE_PLACEHOLDER,
                    false => VIDEO_PLACEHOLDER,
                };
                tokens.extend(std::iter::repeat_n(IMAGE_ID, frames));
                on_part(Part::Drawn(drawing))
            }
        },
    )?;
    // What the last token left unfinished.
    let rest = stream.finish();
    if !rest.is_empty() {
        text += &rest;
        let _ = on_part(Part::Text(&rest));
    }
    Ok(Answer {
        text: text.trim().to_string(),
        tokens,
        prompt_tokens,
    })
}

/// Draws `n` images of one description, each with random choices of its own.
pub fn draw(
    model: &VilaU,
    tokenizer: &Tokenizer,
    description: &str,
    n: usize,
    options: &VisualOptions,
    on_progress: &mut dyn FnMut(&Progress) -> ControlFlow<()>,
) -> Result<Drawing> {
    let prompt = drawing_prompt(tokenizer, description)?;
    draw_prompts(model, tokenizer, &vec![prompt; n], options, on_progress)
}

/// Draws one image for each prompt of [`drawing_prompt`].
pub fn draw_prompts(
    model: &VilaU,
    tokenizer: &Tokenizer,
    prompts: &[Vec<i64>],
    options: &VisualOptions,
    on_progress: &mut dyn FnMut(&Progress) -> ControlFlow<()>,
) -> Result<Drawing> {
    let unconditional = tokenizer.encode_prompt(&unconditional_prompt(Reply::Image, true)?);
    visual::draw(model, prompts, &unconditional, 1, options, on_progress)
}

/// Draws `n` videos of one description, `frames` frames each, with random choices of their own.
///
/// A usage error where the model's vocabulary has no `<vi_start>`.
pub fn draw_videos(
    model: &VilaU,
    tokenizer: &Tokenizer,
    description: &str,
    n: usize,
    frames: usize,
    options: &VisualOptions,
    on_progress: &mut dyn FnMut(&Progress) -> ControlFlow<()>,
) -> Result<Drawing> {
    let prompts = vec![video_prompt(tokenizer, description)?; n];
    draw_video_prompts(model, tokenizer, &prompts, frames, options, on_progress)
}

/// Draws one video of `frames` frames for each prompt of [`video_prompt`].
pub fn draw_video_prompts(
    model: &VilaU,
    tokenizer: &Tokenizer,
    prompts: &[Vec<i64>],
    frames: usize,
    options: &VisualOptions,
    on_progress: &mut dyn FnMut(&Progress) -> ControlFlow<()>,
) -> Result<Drawing> {
    let unconditional = tokenizer.encode_prompt(&unconditional_prompt(Reply::Video, true)?);
    visual::draw(model, prompts, &unconditional, frames, options, on_progress)
}

/// The token ids after which the model draws a video of that description.
///
/// A usage error where the model's vocabulary has no `<vi_start>`, or the description has a placeholder.
pub fn video_prompt(tokenizer: &Tokenizer, description: &str) -> Result<Vec<i64>> {
    if tokenizer.added(VIDEO_START).is_none() {
        return Err(Error::usage(format!(
            "this model draws no videos: its vocabulary has no {VIDEO_START}"
        )));
    }
    description_prompt(tokenizer, description, Reply::Video)
}

/// The token ids after which the model draws that description; a usage error if it has a placeholder.
pub fn drawing_prompt(tokenizer: &Tokenizer, description: &str) -> Result<Vec<i64>> {
    description_prompt(tokenizer, description, Reply::Image)
}

fn description_prompt(tokenizer: &Tokenizer, description: &str, reply: Reply) -> Result<Vec<i64>> {
    let placeholders = [IMAGE_PLACEHOLDER, VIDEO_PLACEHOLDER];
    if placeholders
        .iter()
        .any(|placeholder| description.contains(placeholder))
    {
        return Err(Error::usage(format!(
            "a description is words alone: {IMAGE_PLACEHOLDER} and {VIDEO_PLACEHOLDER} stand for what is shown \
             with a question"
        )));
    }
    let prompt = generation_prompt(&[Turn::human(description)], reply, true)?;
    Ok(tokenizer.encode_prompt(&prompt))
}

/// What the model may open in a reply: what its vocabulary has start and end tokens for.
fn openings(tokenizer: &Tokenizer, frames: usize, system: bool) -> Result<Vec<Opening>> {
    let mut openings = Vec::new();
    for (start, end, frames, reply) in [
        (IMAGE_START, IMAGE_END, 1, Reply::Image),
        (VIDEO_START, VIDEO_END, frames, Reply::Video),
    ] {
        if let (Some(start), Some(end)) = (tokenizer.added(start), tokenizer.added(end)) {
            openings.push(Opening {
                start,
                end,
                frames,
                unconditional: tokenizer.encode_prompt(&unconditional_prompt(reply, system)?),
            });
        }
    }
    Ok(openings)
}

/// A question and what is shown with it, up to where the answer begins; and its length.
fn question_prompt(
    model: &VilaU,
    tokenizer: &Tokenizer,
    question: &str,
    shown: Shown,
    system: bool,
) -> Result<(Prompt, usize)> {
    let Shown { images, videos } = shown;
    let frames = videos.first().map_or(0, |video| video.dims()[0]);
    let (question, order) =
        conversation::question_about(question, images.len(), videos.len(), frames)?;
    let prompt = generation_prompt(&[Turn::human(question)], Reply::Text, system)?;
    let sample = Sample::prompt(&tokenizer.encode_prompt(&prompt));
    let pixels: Vec<Tensor<4>> = order
        .into_iter()
        .map(|shown| match shown {
            conversation::Shown::Image(index) => images[index].clone(),
            conversation::Shown::Video(index) => videos[index].clone(),
        })
        .collect();
    let features = (!pixels.is_empty()).then(|| visual_embeds(model, Tensor::cat(pixels, 0)));
    let layout = Layout::left_padded(std::slice::from_ref(&sample), model.image_tokens());
    let embeds = layout.embeddings(&model.llm, features);
    Ok((Prompt::new(embeds, vec![layout.length])?, layout.length))
}

/// What the language model reads for images `[images, 3, size, size]`: `[images * tokens, hidden]`.
///
/// Images are encoded one at a time: attention within an image is the largest need of memory.
fn visual_embeds(model: &VilaU, images: Tensor<4>) -> Tensor<2> {
    let tower = &model.vision_tower.rqvaesiglip;
    let features = images.split(1, 0).into_iter().map(|image| {
        let z_q = tower.encode(image).z_q;
        z_q.flatten::<2>(0, 2)
    });
    model
        .mm_projector
        .forward(Tensor::cat(features.collect(), 0))
}
