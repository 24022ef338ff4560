//! Replies of text and pictures in one line (paper, section 3.3): the language model writes, opens an
//! image or a video, generates it, and goes on with text.
//!
//! ```text
//! text  text  <image_start>  N visual tokens  <image_end>  text  </s>
//! ```
//!
//! The text head chooses the start token. Then the depth transformer chooses N visual tokens, or N a
//! frame; the end token is put after them, and the text head goes on.
//!
//! Guidance: beside the row that has read everything, question, pictures and the reply so far, one reads
//! the same visual tokens after the prompt that asks for nothing. It is dropped with the last of them.

use std::ops::ControlFlow;

use burn::tensor::{Int, Tensor};

use super::{
    batch::{DecodeBatch, Prompt},
    text::{TextDecoder, TextOptions},
    visual::{CodeGenerator, Progress, VisualOptions, VisualOutput, decode},
};
use crate::{Error, Result, model::VilaU};

/// What the model may open in a reply: an image or a video.
#[derive(Debug, Clone)]
pub struct Modality {
    /// The token with which the model opens it, and the one that ends it.
    pub start: i64,
    pub end: i64,
    /// 1 for an image.
    pub frames: usize,
    /// Token ids of the prompt that asks for nothing, which ends in `start`.
    pub unconditional: Vec<i64>,
}

/// What happens while a reply is made.
pub enum Event<'a> {
    /// A token of the text, the start and end tokens included.
    Token(i64),
    /// A visual token.
    VisualProgress(&'a Progress<'a>),
    /// A whole image or video, of `n = 1`.
    Visual(&'a VisualOutput),
}

/// Replies to the prompt, which is one row; at most `text.max_tokens` tokens of text, in as many positions as
/// the model's context has. A picture for which there is no room is not opened.
///
/// - `modalities`: what may be opened; nothing makes it text alone
/// - `visual`: its `first` numbers the first picture, whose random choices are of its own
/// - `on_event`: [`ControlFlow::Break`] ends the reply, and within an image or a video it is
///   [`crate::Error::Interrupted`]
pub fn generate(
    model: &VilaU,
    prompt: Prompt,
    modalities: &[Modality],
    text: &TextOptions,
    visual: &VisualOptions,
    on_event: &mut dyn FnMut(Event) -> ControlFlow<()>,
) -> Result<()> {
    visual.check()?;
    if modalities.iter().any(|modality| modality.frames == 0) {
        return Err(Error::usage("a video has at least one frame"));
    }
    let llm = &model.llm;
    let mut visual = visual.clone();
    let mut decoder = TextDecoder::new(llm, prompt, text)?;
    let mask = |batch: &DecodeBatch, logits: &mut [f32]| {
        for modality in modalities {
            let needed = modality.frames.saturating_mul(model.image_tokens()) + 2;
            if let Some(logit) = logits.get_mut(modality.start as usize)
                && batch.filled().saturating_add(needed) > llm.context_length()
            {
                *logit = f32::NEG_INFINITY;
            }
        }
    };
    while let Some(tokens) = decoder.next(mask)? {
        let &[(_, token)] = tokens.as_slice() else {
            return Err(Error::usage("a reply is to one prompt at a time"));
        };
        if on_event(Event::Token(token)).is_break() || text.stop.contains(&token) {
            break;
        }
        if let Some(modality) = modalities.iter().find(|modality| modality.start == token) {
            let (batch, left) = (&mut decoder.batch, decoder.left);
            let output = generate_visual(model, batch, modality, left, &visual, on_event)?;
            visual.first += 1;
            decoder.unread = Some(vec![modality.end]);
            // The end token takes a position as well.
            decoder.left = left.min(
                llm.context_length()
                    .saturating_sub(decoder.batch.filled() + 1),
            );
            if on_event(Event::Visual(&output)).is_break()
                || on_event(Event::Token(modality.end)).is_break()
            {
                break;
            }
        }
    }
    Ok(())
}

/// Generates after what `batch` has read and the start token, and lets it read what came of it. It then has room
/// for the end token and `left` more.
fn generate_visual<'m>(
    model: &'m VilaU,
    batch: &mut DecodeBatch<'m>,
    modality: &Modality,
    left: usize,
    options: &VisualOptions,
    on_event: &mut dyn FnMut(Event) -> ControlFlow<()>,
) -> Result<VisualOutput> {
    let total = modality.frames * model.image_tokens();
    let mut hidden = batch.step(embed(model, modality.start));
    let mut rows = if options.guided() {
        let prompt = Prompt::from_ids(&model.llm, std::slice::from_ref(&modality.unconditional))?;
        let (without, unasked) = DecodeBatch::prefill(&model.llm, prompt, 0);
        hidden = Tensor::cat(vec![hidden, unasked], 0);
        batch.concat(&without, total)
    } else {
        batch.fork(&[0], total)
    };
    let mut generator = CodeGenerator::new(model, 1, options);
    let progress = &mut |progress: &Progress| on_event(Event::VisualProgress(progress));
    let features = generator.tokens(&mut rows, hidden, total, progress)?;
    *batch = rows.fork(&[0], left + 2);
    if let Some(last) = features.last() {
        batch.step(model.mm_projector.forward(last.clone()));
    }
    let codes = generator.codes(modality.frames);
    let pixels = decode(model, &features);
    Ok(VisualOutput { codes, pixels })
}

/// What the language model reads of a token, `[1, hidden]`.
fn embed(model: &VilaU, token: i64) -> Tensor<2> {
    let ids: Tensor<1, Int> = Tensor::from_data([token], &model.llm.device());
    model.llm.embed(ids.unsqueeze()).squeeze_dim(1)
}
