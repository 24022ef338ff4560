//! Replies of text and pictures in one line (paper, section 3.3): the language model writes, opens an
//! image or a video, draws it, and goes on writing.
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
    read_floats,
    rows::{Prompt, Rows},
    sampling::Sampler,
    text::TextOptions,
    visual::{Drawer, Drawing, Progress, VisualOptions, decode},
};
use crate::{Result, model::VilaU};

/// Something that the model may draw in a reply.
#[derive(Debug, Clone)]
pub struct Opening {
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
    Visual(&'a Progress<'a>),
    /// A whole picture or video, of `n = 1`.
    Drawn(&'a Drawing),
}

/// Replies to the prompt, which is one row; at most `text.max_tokens` tokens of text, in as many positions as
/// the model's context has. A picture for which there is no room is not opened.
///
/// - `openings`: what may be drawn; nothing makes it text alone
/// - `visual`: its `first` numbers the first picture, whose random choices are of its own
/// - `on_event`: [`ControlFlow::Break`] ends the reply, and a drawing with [`crate::Error::Interrupted`]
pub fn write(
    model: &VilaU,
    prompt: Prompt,
    openings: &[Opening],
    text: &TextOptions,
    visual: &VisualOptions,
    on_event: &mut dyn FnMut(Event) -> ControlFlow<()>,
) -> Result<()> {
    text.sampling.check()?;
    visual.check()?;
    let llm = &model.llm;
    let mut left = text.max_tokens.min(prompt.room(llm)?);
    if left == 0 {
        return Ok(());
    }
    let (mut rows, mut hidden) = Rows::start(llm, prompt, left);
    let mut sampler = Sampler::new(text.sampling, text.seed, 0);
    let mut visual = visual.clone();
    loop {
        let mut logits = read_floats(llm.logits(hidden.unsqueeze_dim(1)))?;
        for opening in openings {
            let needed = opening.frames.saturating_mul(model.image_tokens()) + 2;
            if let Some(logit) = logits.get_mut(opening.start as usize)
                && rows.filled().saturating_add(needed) > llm.context()
            {
                *logit = f32::NEG_INFINITY;
            }
        }
        let mut token = sampler.draw(&logits)? as i64;
        left -= 1;
        if on_event(Event::Token(token)).is_break() || text.stop.contains(&token) {
            break;
        }
        if let Some(opening) = openings.iter().find(|opening| opening.start == token) {
            let drawing;
            (rows, drawing) = draw(model, rows, opening, left, &visual, on_event)?;
            visual.first += 1;
            token = opening.end;
            // The end token takes a position as well.
            left = left.min(llm.context().saturating_sub(rows.filled() + 1));
            if on_event(Event::Drawn(&drawing)).is_break()
                || on_event(Event::Token(token)).is_break()
            {
                break;
            }
        }
        if left == 0 {
            break;
        }
        hidden = rows.extend(embed(model, token));
    }
    Ok(())
}

/// Draws after the rows and the start token, and reads what was drawn. The rows then have room for the end token
/// and `left` more.
fn draw<'m>(
    model: &'m VilaU,
    mut rows: Rows<'m>,
    opening: &Opening,
    left: usize,
    options: &VisualOptions,
    on_event: &mut dyn FnMut(Event) -> ControlFlow<()>,
) -> Result<(Rows<'m>, Drawing)> {
    let total = opening.frames * model.image_tokens();
    let mut hidden = rows.extend(embed(model, opening.start));
    let mut rows = match options.guided() {
        true => {
            let prompt =
                Prompt::from_ids(&model.llm, std::slice::from_ref(&opening.unconditional))?;
            let (without, unasked) = Rows::start(&model.llm, prompt, 0);
            hidden = Tensor::cat(vec![hidden, unasked], 0);
            rows.beside(&without, total)
        }
        false => rows.fork(&[0], total),
    };
    let mut drawer = Drawer::new(model, 1, options);
    let progress = &mut |progress: &Progress| on_event(Event::Visual(progress));
    let features = drawer.tokens(&mut rows, hidden, total, progress)?;
    let mut rows = rows.fork(&[0], left + 2);
    if let Some(last) = features.last() {
        rows.extend(model.mm_projector.forward(last.clone()));
    }
    let codes = drawer.codes(opening.frames);
    let pixels = decode(model, &features);
    Ok((rows, Drawing { codes, pixels }))
}

/// What the language model reads of a token, `[1, hidden]`.
fn embed(model: &VilaU, token: i64) -> Tensor<2> {
    let ids: Tensor<1, Int> = Tensor::from_data([token], &model.llm.device());
    model.llm.embed(ids.unsqueeze()).squeeze_dim(1)
}
