//! What people ask of the model, in its conversation template: an answer, images or videos.

use std::ops::ControlFlow;

use burn::tensor::Tensor;

use super::{
    batch::Prompt,
    interleaved::{self, Event, Modality},
    text::TextOptions,
    visual::{self, Progress, VisualOptions, VisualOutput},
};
use crate::{
    Error, Result,
    model::VilaU,
    sequence::{Sample, SequenceLayout},
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
    /// Without special tokens and surrounding space; `<image>` and `<video>` where one was generated.
    pub text: String,
    /// The ids generated, the one that ended the answer included; [`IMAGE_ID`] for every image or frame.
    pub tokens: Vec<i64>,
    /// Positions of the prompt, those of images included.
    pub prompt_tokens: usize,
}

/// The images and videos that a question is about.
#[derive(Default)]
pub struct VisualInputs {
    /// Each `[1, 3, size, size]` in -1..1.
    pub images: Vec<Tensor<4>>,
    /// Each `[frames, 3, size, size]`, all with as many frames.
    pub videos: Vec<Tensor<4>>,
}

impl VisualInputs {
    /// A usage error unless every tensor has the shape that it should.
    fn check(&self) -> Result<()> {
        let mut all = self.images.iter().chain(&self.videos);
        let Some([_, sizes @ ..]) = all.next().map(Tensor::dims) else {
            return Ok(());
        };
        let frames = self.videos.first().map_or(1, |video| video.dims()[0]);
        let fits = |tensors: &[Tensor<4>], count: usize| {
            let mut shapes = tensors.iter().map(Tensor::dims);
            count > 0 && shapes.all(|[own, rest @ ..]| own == count && rest == sizes)
        };
        if fits(&self.images, 1) && fits(&self.videos, frames) {
            Ok(())
        } else {
            Err(Error::usage(
                "images to ask about must be of one size, and videos of one number of frames",
            ))
        }
    }
}

/// How a question is answered.
#[derive(Debug, Clone)]
pub struct AnswerOptions {
    pub text: TextOptions,
    pub visual: VisualOptions,
    /// Of a video in the answer.
    pub frames: usize,
    /// Whether the prompt begins with the system sentence.
    pub system: bool,
}

/// A part of an answer, as soon as it is known.
pub enum AnswerEvent<'a> {
    Text(&'a str),
    /// An image or a video is being generated.
    VisualProgress(&'a Progress<'a>),
    Visual(&'a VisualOutput),
}

/// Answers a question about images and videos, or about none, in words and in images and videos that the
/// model generates where it opens them.
///
/// - `on_event`: gets the answer part by part; [`ControlFlow::Break`] ends it there, and within an image or a
///   video it is [`crate::Error::Interrupted`]
///
/// Errors when the question names another number of images or videos.
pub fn answer(
    model: &VilaU,
    tokenizer: &Tokenizer,
    question: &str,
    inputs: VisualInputs,
    options: &AnswerOptions,
    on_event: &mut dyn FnMut(AnswerEvent) -> ControlFlow<()>,
) -> Result<Answer> {
    let system = options.system;
    let modalities = modalities(tokenizer, options.frames, system)?;
    let image = tokenizer.added_token_id(IMAGE_START);
    let (prompt, prompt_tokens) = question_prompt(model, tokenizer, question, inputs, system)?;
    let mut stream = tokenizer.stream();
    let (mut text, mut tokens) = (String::new(), Vec::new());
    let (words, visual) = (&options.text, &options.visual);
    interleaved::generate(
        model,
        prompt,
        &modalities,
        words,
        visual,
        &mut |event| match event {
            Event::Token(token) => {
                tokens.push(token);
                let piece = stream.push(token);
                text += &piece;
                on_event(AnswerEvent::Text(&piece))
            }
            Event::VisualProgress(progress) => on_event(AnswerEvent::VisualProgress(progress)),
            Event::Visual(output) => {
                let [_, frames, ..] = output.codes.dims();
                text += if tokens.last() == image.as_ref() {
                    IMAGE_PLACEHOLDER
                } else {
                    VIDEO_PLACEHOLDER
                };
                tokens.extend(std::iter::repeat_n(IMAGE_ID, frames));
                on_event(AnswerEvent::Visual(output))
            }
        },
    )?;
    // What the last token left unfinished.
    let rest = stream.finish();
    if !rest.is_empty() {
        text += &rest;
        let _ = on_event(AnswerEvent::Text(&rest));
    }
    Ok(Answer {
        text: text.trim().to_string(),
        tokens,
        prompt_tokens,
    })
}

/// Generates one image for each prompt of [`image_prompt`], each with random choices of its own.
pub(crate) fn generate_images(
    model: &VilaU,
    tokenizer: &Tokenizer,
    prompts: &[Vec<i64>],
    options: &VisualOptions,
    on_progress: &mut dyn FnMut(&Progress) -> ControlFlow<()>,
) -> Result<VisualOutput> {
    let unconditional = tokenizer.encode_prompt(&unconditional_prompt(Reply::Image, true)?);
    visual::generate(model, prompts, &unconditional, 1, options, on_progress)
}

/// Generates one video of `frames` frames for each prompt of [`video_prompt`], each with random choices of its
/// own.
pub(crate) fn generate_videos(
    model: &VilaU,
    tokenizer: &Tokenizer,
    prompts: &[Vec<i64>],
    frames: usize,
    options: &VisualOptions,
    on_progress: &mut dyn FnMut(&Progress) -> ControlFlow<()>,
) -> Result<VisualOutput> {
    let unconditional = tokenizer.encode_prompt(&unconditional_prompt(Reply::Video, true)?);
    visual::generate(model, prompts, &unconditional, frames, options, on_progress)
}

/// The token ids after which the model generates an image of that description.
///
/// A usage error where the model's vocabulary has no `<im_start>`, or the description has a placeholder.
pub(crate) fn image_prompt(tokenizer: &Tokenizer, description: &str) -> Result<Vec<i64>> {
    if tokenizer.added_token_id(IMAGE_START).is_none() {
        return Err(Error::usage(format!(
            "this model generates no images: its vocabulary has no {IMAGE_START}"
        )));
    }
    description_prompt(tokenizer, description, Reply::Image)
}

/// The token ids after which the model generates a video of that description.
///
/// A usage error where the model's vocabulary has no `<vi_start>`, or the description has a placeholder.
pub(crate) fn video_prompt(tokenizer: &Tokenizer, description: &str) -> Result<Vec<i64>> {
    if tokenizer.added_token_id(VIDEO_START).is_none() {
        return Err(Error::usage(format!(
            "this model generates no videos: its vocabulary has no {VIDEO_START}"
        )));
    }
    description_prompt(tokenizer, description, Reply::Video)
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

/// What the model may open in an answer: what its vocabulary has start and end tokens for.
pub(crate) fn modalities(
    tokenizer: &Tokenizer,
    frames: usize,
    system: bool,
) -> Result<Vec<Modality>> {
    let mut modalities = Vec::new();
    for (start, end, frames, reply) in [
        (IMAGE_START, IMAGE_END, 1, Reply::Image),
        (VIDEO_START, VIDEO_END, frames, Reply::Video),
    ] {
        if let (Some(start), Some(end)) = (
            tokenizer.added_token_id(start),
            tokenizer.added_token_id(end),
        ) {
            modalities.push(Modality {
                start,
                end,
                frames,
                unconditional: tokenizer.encode_prompt(&unconditional_prompt(reply, system)?),
            });
        }
    }
    Ok(modalities)
}

/// A question and its images and videos, up to where the answer begins; and its length.
fn question_prompt(
    model: &VilaU,
    tokenizer: &Tokenizer,
    question: &str,
    inputs: VisualInputs,
    system: bool,
) -> Result<(Prompt, usize)> {
    inputs.check()?;
    let VisualInputs { images, videos } = inputs;
    let frames = videos.first().map_or(0, |video| video.dims()[0]);
    let (question, order) =
        conversation::question_about(question, images.len(), videos.len(), frames)?;
    let prompt = generation_prompt(&[Turn::human(question)], Reply::Text, system)?;
    let sample = Sample::prompt(&tokenizer.encode_prompt(&prompt));
    let pixels: Vec<Tensor<4>> = order
        .into_iter()
        .map(|shown| match shown {
            conversation::VisualInput::Image(index) => images[index].clone(),
            conversation::VisualInput::Video(index) => videos[index].clone(),
        })
        .collect();
    let features = (!pixels.is_empty()).then(|| model.visual_embeds(Tensor::cat(pixels, 0)));
    let layout = SequenceLayout::left_padded(std::slice::from_ref(&sample), model.image_tokens());
    let embeds = layout.embeddings(&model.llm, features);
    Ok((Prompt::new(embeds, vec![layout.length])?, layout.length))
}
