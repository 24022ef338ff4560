//! Templates that make training data samples with a role for every token (paper section 3.2):
//! `[image, text]` with loss on the text, `[text, image]` and `[text, video]` with loss on the
//! pictures, pages of both, and text alone.
//!
//! ```text
//! chat              USER: <im_start><image><im_end>\nWhat is it? ASSISTANT: A cat.</s>
//!   without markers USER: <image>\nWhat is it? ASSISTANT: A cat.</s>
//!   generation      USER: A cat. ASSISTANT: <im_start><image><im_end></s>
//! video chat        USER: A cat runs. ASSISTANT: <vi_start><image>...<image><vi_end></s>
//!   about a video   USER: <image>\n...<image>\nWhat is it? ASSISTANT: A cat.</s>
//! document          <image>A cat sleeps. It is old.<image>A dog barks.</s>
//! ```

use super::{Role, Sample};
use crate::{
    Error, Result,
    text::{
        IMAGE_PLACEHOLDER, Tokenizer, VIDEO_PLACEHOLDER,
        conversation::{
            IMAGE_END, IMAGE_START, Role as Speaker, Turn, VIDEO_END, VIDEO_START, question,
            segments, video_reply, wrap_images,
        },
    },
};

/// Frames of a video, where a model's config names no other number.
pub const VIDEO_FRAMES: usize = 8;

/// Id of padding, which is also that of `<unk>`: the authors' code takes it out of training samples.
const PADDING: i64 = 0;

/// A conversation about `images` images, or in which the assistant generates them, or about none.
///
/// Each `<image>` is one image; where no turn has it, the first turn is about all of them. Turns that
/// already name the start and end tokens are taken as they are.
///
/// Errors when the turns name another number of images, or human and assistant do not take turns.
pub fn chat(tokenizer: &Tokenizer, turns: &[Turn], images: usize, system: bool) -> Result<Sample> {
    let markers = [IMAGE_START, IMAGE_END, VIDEO_START, VIDEO_END];
    let marked = |turn: &Turn| markers.iter().any(|marker| turn.value.contains(marker));
    let mut turns = turns.to_vec();
    if images > 0 && !turns.iter().any(names_picture) {
        show_first(&mut turns, images);
    }
    if images > 0 && !turns.iter().any(marked) {
        turns = wrap_images(&turns);
    }
    conversation(tokenizer, &turns, images, system)
}

/// A conversation as it is when the model is asked: images stand where the first question names them,
/// or before it, without their start and end tokens.
///
/// Errors when the first question names another number of images, or human and assistant do not take
/// turns.
pub fn chat_without_markers(
    tokenizer: &Tokenizer,
    turns: &[Turn],
    images: usize,
    system: bool,
) -> Result<Sample> {
    let mut turns = turns.to_vec();
    if let Some(turn) = turns.iter_mut().find(|turn| turn.from == Speaker::Human) {
        turn.value = question(&turn.value, images)?;
    }
    conversation(tokenizer, &turns, images, system)
}

/// A conversation with one video of `frames` frames: `<video>` (or `<image>`) in an assistant's turn
/// is where the assistant makes it, otherwise the first turn is about it.
///
/// Errors when human and assistant do not take turns.
pub fn video_chat(
    tokenizer: &Tokenizer,
    turns: &[Turn],
    frames: usize,
    system: bool,
) -> Result<Sample> {
    let made = turns.iter().position(generates);
    let mut turns = turns.to_vec();
    for (index, turn) in turns.iter_mut().enumerate() {
        let text = turn.value.replace(VIDEO_PLACEHOLDER, IMAGE_PLACEHOLDER);
        turn.value = match text.split_once(IMAGE_PLACEHOLDER) {
            Some((before, after)) if made == Some(index) => {
                without_pictures(before) + &video_reply(frames) + &without_pictures(after)
            }
            _ => without_pictures(&text),
        };
    }
    if made.is_none() {
        show_first(&mut turns, frames);
    }
    conversation(tokenizer, &turns, frames, system)
}

/// Whether the turns of a conversation with a video have the assistant make it.
pub fn makes_video(turns: &[Turn]) -> bool {
    turns.iter().any(generates)
}

/// A web page: `<image>` where its pictures stand, spaces around it do not count. All words are
/// predicted, no pictures.
///
/// Errors when the text names another number of images.
pub fn document(tokenizer: &Tokenizer, text: &str, images: usize) -> Result<Sample> {
    let text = text.replace("<image> ", "<image>");
    let mut ids = tokenizer.encode_prompt(&text.replace(" <image>", "<image>"));
    ids.retain(|&id| id != PADDING);
    ids.push(tokenizer.eos_token_id());
    let sample = Sample::new(&ids, &vec![Role::Document; ids.len()]);
    check_images(&sample, images)?;
    Ok(sample)
}

/// The same turns with empty questions, where the assistant generates images: the unconditional samples of
/// classifier-free guidance. Turns with an image in the question, or in which none is generated, stay.
pub fn without_caption(turns: &[Turn]) -> Vec<Turn> {
    let generated = turns.iter().any(generates);
    let shown = turns
        .iter()
        .any(|turn| turn.from == Speaker::Human && names_picture(turn));
    let mut turns = turns.to_vec();
    for turn in turns.iter_mut().filter(|turn| turn.from == Speaker::Human) {
        if generated && !shown {
            turn.value.clear();
        }
    }
    turns
}

/// Answers are targets, everything else is context.
fn conversation(
    tokenizer: &Tokenizer,
    turns: &[Turn],
    images: usize,
    system: bool,
) -> Result<Sample> {
    let segments = segments(turns, system)?;
    let texts: Vec<&str> = segments
        .iter()
        .map(|segment| segment.text.as_str())
        .collect();
    let (mut ids, mut roles) = (Vec::new(), Vec::new());
    for (segment, tokens) in segments.iter().zip(tokenizer.encode_segments(&texts)) {
        ids.extend(tokens.into_iter().filter(|&id| id != PADDING));
        let role = if segment.answer {
            Role::Target
        } else {
            Role::Context
        };
        roles.resize(ids.len(), role);
    }
    let sample = Sample::new(&ids, &roles);
    check_images(&sample, images)?;
    Ok(sample)
}

fn check_images(sample: &Sample, given: usize) -> Result<()> {
    match sample.images().len() {
        named if named == given => Ok(()),
        named => Err(Error::usage(format!(
            "the text says {IMAGE_PLACEHOLDER} {named} times, and {given} images are given"
        ))),
    }
}

/// Whether the turn says where a picture goes.
fn names_picture(turn: &Turn) -> bool {
    let placeholders = [IMAGE_PLACEHOLDER, VIDEO_PLACEHOLDER];
    placeholders.iter().any(|name| turn.value.contains(name))
}

/// Whether it is a turn in which the assistant makes a picture.
fn generates(turn: &Turn) -> bool {
    turn.from == Speaker::Assistant && names_picture(turn)
}

/// Puts so many images before the first question.
fn show_first(turns: &mut [Turn], images: usize) {
    if let Some(turn) = turns.iter_mut().find(|turn| turn.from == Speaker::Human) {
        turn.value = format!("{IMAGE_PLACEHOLDER}\n").repeat(images) + &turn.value;
    }
}

fn without_pictures(text: &str) -> String {
    let names = ["<image>\n", "\n<image>", "<image>", VIDEO_START, VIDEO_END];
    names
        .iter()
        .fold(text.to_string(), |text, name| text.replace(name, ""))
}
