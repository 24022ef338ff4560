//! What people ask of the model, in its conversation template: an answer, or pictures.

use std::ops::ControlFlow;

use burn::tensor::Tensor;

use crate::{
    Result,
    generation::{
        rows::Prompt,
        text::{self, TextOptions},
        visual::{self, Drawing, Progress, VisualOptions},
    },
    model::VilaU,
    sequence::{Layout, Sample, form::VIDEO_FRAMES},
    text::{
        Tokenizer,
        conversation::{self, Reply, Turn, generation_prompt, unconditional_prompt},
    },
};

/// An answer and what it took.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Without special tokens and surrounding space.
    pub text: String,
    /// The ids written, the one that ended the answer included.
    pub tokens: Vec<i64>,
    /// Positions the model read before it wrote, those of images included.
    pub prompt_tokens: usize,
}

/// Answers a question about images (or the frames of a video), or about none.
///
/// - `images`: `[images, 3, size, size]` in -1..1; `<image>` in the question says where each goes,
///   otherwise they come first, in order
/// - `on_text`: gets the answer piece by piece; [`ControlFlow::Break`] ends it there
///
/// Errors when the question names another number of images.
pub fn ask(
    model: &VilaU,
    tokenizer: &Tokenizer,
    question: &str,
    images: Option<Tensor<4>>,
    system: bool,
    options: &TextOptions,
    on_text: &mut dyn FnMut(&str) -> ControlFlow<()>,
) -> Result<Answer> {
    let count = images.as_ref().map_or(0, |images| images.dims()[0]);
    let question = conversation::question(question, count)?;
    let prompt = generation_prompt(&[Turn::human(question)], Reply::Text, system)?;
    let sample = Sample::prompt(&tokenizer.encode_prompt(&prompt));
    let features = images.map(|images| visual_embeds(model, images));
    let layout = Layout::left_padded(std::slice::from_ref(&sample), model.image_tokens());
    let embeds = layout.embeddings(&model.llm, features);
    let prompt_tokens = layout.length;
    let prompt = Prompt::new(embeds, vec![prompt_tokens])?;
    let mut stream = tokenizer.stream();
    let mut tokens = text::write(&model.llm, prompt, options, &mut |_, token| {
        on_text(&stream.push(token))
    })?;
    let tokens = tokens.swap_remove(0);
    // What the last token left unfinished.
    let rest = stream.finish();
    if !rest.is_empty() {
        let _ = on_text(&rest);
    }
    Ok(Answer {
        text: tokenizer.decode(&tokens).trim().to_string(),
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

/// The token ids after which the model draws that description.
pub fn drawing_prompt(tokenizer: &Tokenizer, description: &str) -> Result<Vec<i64>> {
    let prompt = generation_prompt(&[Turn::human(description)], Reply::Image, true)?;
    Ok(tokenizer.encode_prompt(&prompt))
}

/// Makes one video of [`VIDEO_FRAMES`] frames for each prompt of [`video_prompt`].
pub fn draw_video_prompts(
    model: &VilaU,
    tokenizer: &Tokenizer,
    prompts: &[Vec<i64>],
    options: &VisualOptions,
    on_progress: &mut dyn FnMut(&Progress) -> ControlFlow<()>,
) -> Result<Drawing> {
    let unconditional = tokenizer.encode_prompt(&unconditional_prompt(Reply::Video, true)?);
    let frames = VIDEO_FRAMES;
    visual::draw(model, prompts, &unconditional, frames, options, on_progress)
}

/// The token ids after which the model makes a video of that description.
pub fn video_prompt(tokenizer: &Tokenizer, description: &str) -> Result<Vec<i64>> {
    let prompt = generation_prompt(&[Turn::human(description)], Reply::Video, true)?;
    Ok(tokenizer.encode_prompt(&prompt))
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
