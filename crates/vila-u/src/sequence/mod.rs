//! The multi-modal sequence: text tokens and visual tokens in one line, and where loss goes.
//!
//! A [`Sample`] is a list of [`Span`]s. [`templates`] makes samples of conversations and documents, and a
//! [`SequenceLayout`] packs samples in rows and turns these into embeddings, positions, an attention mask and
//! targets. Training, scoring and generation share all of it.
//!
//! Which positions carry loss follows from the role of each span and from nothing else: no other
//! module decides it.

mod layout;
mod packing;
pub mod templates;

#[cfg(test)]
mod tests;

use crate::text::IMAGE_ID;
pub use layout::{SequenceLayout, TextTarget, VisualTarget};

/// What a span of a sequence holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// Token ids of the language model's vocabulary.
    Text(Vec<i64>),
    /// This many images with nothing between them: one for an image, every frame of a video.
    Visual(usize),
}

/// What a span of a sequence is there for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Read, never predicted: the system text, a question, a picture to look at.
    Context,
    /// To be predicted, text and visual tokens alike: an answer, a picture to generate.
    Target,
    /// Part of a web page: its text is predicted, its pictures are only read.
    Document,
}

impl Role {
    /// Whether visual tokens of this role are predicted.
    pub fn predicts_visual(self) -> bool {
        self == Self::Target
    }

    /// Whether text tokens of this role are predicted.
    pub fn predicts_text(self) -> bool {
        self != Self::Context
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    pub content: Content,
    pub role: Role,
}

/// One training sample or prompt: its spans in reading order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Sample {
    pub spans: Vec<Span>,
}

impl Sample {
    /// Groups token ids, where [`IMAGE_ID`] stands for an image, by what they are and their role.
    ///
    /// `roles[i]` is the role of `ids[i]`; the shorter of the two decides the length.
    pub fn new(ids: &[i64], roles: &[Role]) -> Self {
        let mut spans: Vec<Span> = Vec::new();
        for (&id, &role) in ids.iter().zip(roles) {
            match spans.last_mut().filter(|last| last.role == role) {
                Some(Span {
                    content: Content::Text(text),
                    ..
                }) if id != IMAGE_ID => text.push(id),
                Some(Span {
                    content: Content::Visual(images),
                    ..
                }) if id == IMAGE_ID => *images += 1,
                _ => spans.push(Span {
                    content: match id {
                        IMAGE_ID => Content::Visual(1),
                        _ => Content::Text(vec![id]),
                    },
                    role,
                }),
            }
        }
        Self { spans }
    }

    /// A prompt: everything is context.
    pub fn prompt(ids: &[i64]) -> Self {
        Self::new(ids, &vec![Role::Context; ids.len()])
    }

    /// The role of every image, in reading order. An image to generate is cropped to a square before it is
    /// encoded, one that is looked at is squeezed to it.
    pub fn images(&self) -> Vec<Role> {
        let mut roles = Vec::new();
        for span in &self.spans {
            if let Content::Visual(images) = span.content {
                roles.extend(std::iter::repeat_n(span.role, images));
            }
        }
        roles
    }

    /// Positions in the language model, with `visual_tokens` of them per image.
    pub fn length(&self, visual_tokens: usize) -> usize {
        let length = |span: &Span| match &span.content {
            Content::Text(ids) => ids.len(),
            Content::Visual(images) => images * visual_tokens,
        };
        self.spans.iter().map(length).sum()
    }

    /// The token ids, with [`IMAGE_ID`] for every image.
    pub fn ids(&self) -> Vec<i64> {
        let mut ids = Vec::new();
        for span in &self.spans {
            match &span.content {
                Content::Text(text) => ids.extend(text),
                Content::Visual(images) => ids.extend(std::iter::repeat_n(IMAGE_ID, *images)),
            }
        }
        ids
    }
}
