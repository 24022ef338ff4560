//! What the language model reads of a request.

use std::hash::{BuildHasher, RandomState};

use burn::tensor::Tensor;

use super::{
    request::{Chat, Content, Message, Role},
    sequence::ContentIds,
};
use crate::{
    Error, Pipeline, Result,
    media::Picture,
    sequence::{Sample, SequenceLayout},
    text::{
        IMAGE_ID, IMAGE_PLACEHOLDER, Tokenizer, as_words,
        conversation::{self, Reply, Turn, generation_prompt},
    },
};

/// Pictures whose features are kept.
const KEPT_FEATURES: usize = 64;

/// Token ids with the pictures that stand among them, each in the place of an [`IMAGE_ID`].
pub(super) struct Prompt<'r> {
    pub ids: Vec<i64>,
    pub pictures: Vec<Shown<'r>>,
}

/// A picture as it is shown: images to understand and frames of videos are resized in ways of their own.
pub(super) enum Shown<'r> {
    Image(&'r Picture),
    Frame(&'r Picture),
}

impl<'r> Prompt<'r> {
    pub(super) fn text(ids: Vec<i64>) -> Self {
        Self {
            ids,
            pictures: Vec::new(),
        }
    }

    /// A conversation up to where the model replies.
    pub(super) fn chat(pipeline: &Pipeline, tokenizer: &Tokenizer, chat: &'r Chat) -> Result<Self> {
        // What the system says comes first, wherever it stands.
        let (mut system, mut system_pictures) = (None::<String>, Vec::new());
        let (mut turns, mut pictures) = (Vec::<Turn>::new(), Vec::new());
        for message in &*chat.messages {
            let from = match message.role {
                Role::System => {
                    let text = message_text(pipeline, message, &mut system_pictures)?;
                    let system = system.get_or_insert_default();
                    if !system.is_empty() {
                        system.push(' ');
                    }
                    *system += text.trim();
                    continue;
                }
                Role::User => conversation::Role::Human,
                // The template has no place for a reply to nothing.
                Role::Assistant if turns.is_empty() => continue,
                Role::Assistant => conversation::Role::Assistant,
            };
            let value = message_text(pipeline, message, &mut pictures)?;
            match turns.last_mut().filter(|last| last.from == from) {
                Some(last) => {
                    last.value.push('\n');
                    last.value += &value;
                }
                None => turns.push(Turn { from, value }),
            }
        }
        if turns.last().map(|turn| turn.from) != Some(conversation::Role::Human) {
            return Err(Error::usage(
                "the last message of a conversation is the user's: the model replies to it",
            ));
        }
        let own = system.is_none() && chat.options.system_prompt;
        let prompt = generation_prompt(&turns, Reply::Text, own)?;
        system_pictures.extend(pictures);
        Ok(Self {
            ids: tokenizer.encode_prompt(&(system.unwrap_or_default() + &prompt)),
            pictures: system_pictures,
        })
    }

    /// Positions of it in the language model.
    pub(super) fn length(&self, image_tokens: usize) -> usize {
        self.ids.len() + self.pictures.len() * image_tokens.saturating_sub(1)
    }
}

/// The words of a message with a placeholder, which ends a line, for each picture that the model sees of it; these are
/// added to `pictures`.
fn message_text<'r>(
    pipeline: &Pipeline,
    message: &'r Message,
    pictures: &mut Vec<Shown<'r>>,
) -> Result<String> {
    let words = |part: &Content| match part {
        Content::Text(text) => text.matches(IMAGE_PLACEHOLDER).count(),
        _ => 0,
    };
    let images = |part: &&Content| matches!(part, Content::Image(_));
    let videos = message
        .content
        .iter()
        .any(|part| matches!(part, Content::Video(_)));
    // Words that say themselves where the images are, as questions of data sets do.
    let named: usize = message.content.iter().map(words).sum();
    let placed = !videos && named > 0 && named == message.content.iter().filter(images).count();
    let line = format!("{IMAGE_PLACEHOLDER}\n");
    let mut text = String::new();
    for part in in_reading_order(&message.content) {
        match part {
            Content::Text(words) if placed => {
                let between: Vec<_> = words.split(IMAGE_PLACEHOLDER).map(as_words).collect();
                text += &between.join(IMAGE_PLACEHOLDER);
            }
            Content::Text(words) => text += &as_words(words),
            Content::Image(image) => {
                pictures.push(Shown::Image(image));
                text += if placed { "" } else { &line };
            }
            Content::Video(frames) => {
                let seen = pipeline.frames_seen(frames)?;
                text += &line.repeat(seen.len());
                pictures.extend(seen.into_iter().map(Shown::Frame));
            }
        }
    }
    if placed {
        let (placed, _) = conversation::question_about(&text, named, 0, 0)?;
        return Ok(placed);
    }
    Ok(text)
}

/// Words before pictures are about these pictures, which the model was trained to see first. Where words follow a picture,
/// all parts stand as they are written.
fn in_reading_order(content: &[Content]) -> impl Iterator<Item = &Content> {
    let is_text = |part: &&Content| matches!(part, Content::Text(_));
    let (words, pictures) = match content.iter().position(|part| !is_text(&part)) {
        Some(first) if !content[first..].iter().any(|part| is_text(&part)) => {
            content.split_at(first)
        }
        _ => (content, [].as_slice()),
    };
    pictures.iter().chain(words)
}

/// Turns prompts into what is read; the features of pictures seen lately are kept.
pub(super) struct PromptReader {
    hasher: RandomState,
    /// Those used longest ago first.
    features: Vec<(u64, Tensor<2>)>,
    /// Pictures that the tower has encoded.
    pub encoded: usize,
}

impl PromptReader {
    pub(super) fn new() -> Self {
        Self {
            // With secret numbers: nobody can make a picture that is taken for another.
            hasher: RandomState::new(),
            features: Vec::new(),
            encoded: 0,
        }
    }

    /// Number and embedding, `[positions, hidden]`, of every position of a prompt.
    pub(super) fn read(
        &mut self,
        pipeline: &Pipeline,
        prompt: &Prompt,
    ) -> Result<(ContentIds, Tensor<2>)> {
        let model = &pipeline.checkpoint()?.model;
        let tokens = model.image_tokens();
        let mut features = Vec::new();
        let mut names = Vec::new();
        for picture in &prompt.pictures {
            let (name, feature) = self.features(pipeline, picture)?;
            names.push(name);
            features.push(feature);
        }
        let mut names = names.into_iter();
        let mut ids = ContentIds::new();
        for id in &prompt.ids {
            if *id == IMAGE_ID {
                let name = names.next().unwrap_or_default();
                ids.extend((0..tokens as u64).map(|position| visual_id(name, position)));
            } else {
                ids.push(*id as u64);
            }
        }
        let features = (!features.is_empty()).then(|| Tensor::cat(features, 0));
        let sample = Sample::prompt(&prompt.ids);
        let layout = SequenceLayout::left_padded(std::slice::from_ref(&sample), tokens);
        Ok((ids, layout.embeddings(&model.llm, features).squeeze_dim(0)))
    }

    /// What the language model sees of a picture, `[tokens, hidden]`, and a number that stands for it.
    fn features(&mut self, pipeline: &Pipeline, shown: &Shown) -> Result<(u64, Tensor<2>)> {
        let (kind, picture) = match shown {
            Shown::Image(picture) => (0, picture),
            Shown::Frame(picture) => (1, picture),
        };
        // Transparent and indexed pictures are resized in ways of their own.
        let format = match picture {
            Picture::Rgb(_) => 0,
            Picture::Rgba(_) => 1,
            Picture::Indexed(_) => 2,
        };
        let bytes = match picture {
            Picture::Rgb(image) | Picture::Indexed(image) => image.as_raw(),
            Picture::Rgba(image) => image.as_raw(),
        };
        let name = (kind, format, picture.dimensions(), bytes);
        let name = self.hasher.hash_one(name);
        let known = self.features.iter().position(|(kept, _)| *kept == name);
        let features = match known {
            Some(index) => self.features.remove(index).1,
            None => {
                let pixels = match shown {
                    Shown::Image(image) => pipeline.image_pixels(image)?,
                    Shown::Frame(frame) => pipeline.frame_pixels(frame)?,
                };
                self.encoded += 1;
                pipeline.checkpoint()?.model.visual_embeds(pixels)
            }
        };
        if self.features.len() == KEPT_FEATURES {
            self.features.remove(0);
        }
        self.features.push((name, features.clone()));
        Ok((name, features))
    }
}

/// The number of a position of a picture; token ids are small.
pub(super) fn visual_id(name: u64, position: u64) -> u64 {
    (1 << 63) | name.wrapping_add(position.wrapping_mul(0x9e37_79b9_7f4a_7c15))
}
