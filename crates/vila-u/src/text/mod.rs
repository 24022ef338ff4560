//! Text in and out of the language model: token ids and prompts.
//!
//! [`Tokenizer`] turns text into the language model's token ids and back, [`conversation`] lays out what the
//! model was trained to read, [`SiglipTokenizer`] feeds the vision tower's text encoder.

mod added_tokens;
mod byte_level;
pub mod conversation;
mod llama;
mod sentence_piece;
mod siglip;
mod stream;
mod tokenizer;
mod tokenizer_files;
mod vocabulary;

pub(crate) use added_tokens::{ADDED_TOKENS, add_to_json, files_beside_model};
pub use siglip::SiglipTokenizer;
pub use stream::TextStream;
pub use tokenizer::{IMAGE_ID, Tokenizer};

/// Where an image or a video frame goes in a text.
pub const IMAGE_PLACEHOLDER: &str = "<image>";

/// Where a video goes in a text, in the place of its frames.
pub const VIDEO_PLACEHOLDER: &str = "<video>";

/// What the authors' code strips: Unicode white space, and four ASCII separators.
fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\x1c'..='\x1f').contains(&c)
}

/// `text` without spaces at both ends.
fn strip(text: &str) -> &str {
    text.trim_matches(is_space)
}
