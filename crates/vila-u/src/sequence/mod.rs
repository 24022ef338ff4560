//! The multi-modal sequence: text tokens and visual tokens in one line, and where loss goes.
//!
//! A [`Sample`] is a list of [`Piece`]s. [`form`] makes samples of conversations and documents,
//! [`packing`] puts samples together in rows, and [`layout`] turns the rows into embeddings,
//! positions, an attention mask and targets. Training, scoring and generation share all of it.
//!
//! Which positions carry loss follows from the role of each piece and from nothing else: no other
//! module decides it.

pub mod form;
pub mod layout;
pub mod packing;

#[cfg(test)]
mod tests;

use crate::text::IMAGE_ID;
pub use layout::{Layout, TextTarget, VisualTarget};

/// What a piece of a sequence holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// Token ids of the language model's vocabulary.
    Text(Vec<i64>),
    /// This many images with nothing between them: one for an image, every frame of a video.
    Visual(usize),
}

/// What a piece of a sequence is there for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Read, never predicted: the system text, a question, a picture to look at.
    Context,
    /// To be predicted, text and visual tokens alike: an answer, a picture to draw.
    Target,
    /// Part of a web page: its text is predicted, its pictures are only read.
    Document,
}

impl Role {
    /// Whether visual tokens of this role are predicted.
    pub fn draws(self) -> bool {
        self == Self::Target
    }

    /// Whether text tokens of this role are predicted.
    pub fn writes(self) -> bool {
        self != Self::Context
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Piece {
    pub content: Content,
    pub role: Role,
}

/// One training sample or prompt: its pieces in reading order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Sample {
    pub pieces: Vec<Piece>,
}

impl Sample {
    /// Groups token ids, where [`IMAGE_ID`] stands for an image, by what they are and their role.
    ///
    /// `roles[i]` is the role of `ids[i]`; the shorter of the two decides the length.
    pub fn new(ids: &[i64], roles: &[Role]) -> Self {
        let mut pieces: Vec<Piece> = Vec::new();
        for (&id, &role) in ids.iter().zip(roles) {
            match pieces.last_mut().filter(|last| last.role == role) {
                Some(Piece {
                    content: Content::Text(text),
                    ..
                }) if id != IMAGE_ID => text.push(id),
                Some(Piece {
                    content: Content::Visual(images),
                    ..
                }) if id == IMAGE_ID => *images += 1,
                _ => pieces.push(Piece {
                    content: match id {
                        IMAGE_ID => Content::Visual(1),
                        _ => Content::Text(vec![id]),
                    },
                    role,
                }),
            }
        }
        Self { pieces }
    }

    /// A prompt: everything is context.
    pub fn prompt(ids: &[i64]) -> Self {
        Self::new(ids, &vec![Role::Context; ids.len()])
    }

    /// The role of every image, in reading order. A drawn image is cropped to a square before it is
    /// encoded, one that is looked at is squeezed to it.
    pub fn images(&self) -> Vec<Role> {
        let mut roles = Vec::new();
        for piece in &self.pieces {
            if let Content::Visual(images) = piece.content {
                roles.extend(std::iter::repeat_n(piece.role, images));
            }
        }
        roles
    }

    /// Positions in the language model, with `visual_tokens` of them per image.
    pub fn length(&self, visual_tokens: usize) -> usize {
        let length = |piece: &Piece| match &piece.content {
            Content::Text(ids) => ids.len(),
            Content::Visual(images) => images * visual_tokens,
        };
        self.pieces.iter().map(length).sum()
    }

    /// The token ids, with [`IMAGE_ID`] for every image.
    pub fn ids(&self) -> Vec<i64> {
        let mut ids = Vec::new();
        for piece in &self.pieces {
            match &piece.content {
                Content::Text(text) => ids.extend(text),
                Content::Visual(images) => ids.extend(std::iter::repeat_n(IMAGE_ID, *images)),
            }
        }
        ids
    }
}
