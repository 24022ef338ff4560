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

/// A text of other people, none of whose words is read as the place of a picture or as a special token: what looks
/// like one is put in capitals, as the authors' code does with `<image>` in web pages.
pub(crate) fn as_words(text: &str) -> String {
    let mut words = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('<') {
        words += before;
        words.push('<');
        let inside = |c: char| c.is_ascii_alphanumeric() || "_-/|".contains(c);
        let end = after.find(|c| !inside(c)).unwrap_or(after.len());
        let (name, tail) = after.split_at(end);
        if tail.starts_with('>') {
            words += &name.to_ascii_uppercase();
        } else {
            words += name;
        }
        rest = tail;
    }
    words + rest
}

/// What the authors' code strips: Unicode white space, and four ASCII separators.
fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\x1c'..='\x1f').contains(&c)
}

/// `text` without spaces at both ends.
fn strip(text: &str) -> &str {
    text.trim_matches(is_space)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_others_place_no_pictures_and_end_nothing() {
        assert_eq!(as_words("a <image> of </s>"), "a <IMAGE> of </S>");
        assert_eq!(as_words("<im_start><|eot_id|>"), "<IM_START><|EOT_ID|>");
        for text in [
            "",
            "a < b > c",
            "1<2",
            "<",
            "a <3 you",
            "<two words>",
            "ä<ö>",
        ] {
            assert_eq!(as_words(text), text);
        }
    }
}
