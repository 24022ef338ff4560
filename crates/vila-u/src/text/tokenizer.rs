//! The language model's tokenizer: text -> token ids and back, whatever kind of vocabulary it has.

use std::path::Path;

use super::{
    IMAGE_PLACEHOLDER, TextStream,
    byte_level::ByteLevelVocabulary,
    llama::LlamaVocabulary,
    sentence_piece::{SPACE, SentencePiece},
    tokenizer_files,
    vocabulary::{Spelling, Vocabulary},
};
use crate::{
    Error, Result,
    checkpoint::{self, Files},
};

/// Stands for an image (or a frame) among token ids; it is not in the vocabulary.
pub const IMAGE_ID: i64 = -200;

/// A SentencePiece vocabulary with LLaMA's rules, or byte-level BPE.
#[derive(Debug)]
pub struct Tokenizer {
    vocabulary: Box<dyn Vocabulary>,
    begin: Vec<i64>,
    end: i64,
}

impl Tokenizer {
    /// From a checkpoint's `llm` folder: `tokenizer.model` with `added_tokens.json` and
    /// `tokenizer_config.json` where there are, otherwise `tokenizer.json`.
    pub fn from_dir(folder: &Path) -> Result<Self> {
        checkpoint::config::tokenizer(&Files::folder(folder))
    }

    /// From the contents of `tokenizer.model`, `added_tokens.json` and `tokenizer_config.json`; errors
    /// say why they cannot be those.
    pub fn from_bytes(
        model: &[u8],
        added_tokens: Option<&[u8]>,
        config: Option<&[u8]>,
    ) -> Result<Self> {
        let mut added = tokenizer_files::added_tokens(added_tokens)?;
        tokenizer_files::override_added(&mut added, config)?;
        Self::llama(LlamaVocabulary::new(
            SentencePiece::from_bytes(model)?,
            added,
        )?)
    }

    /// From the contents of a `tokenizer.json`, with a SentencePiece-style or a byte-level BPE vocabulary,
    /// and of the `tokenizer_config.json` beside it, which a byte-level one needs.
    pub fn from_json(json: &[u8], config: Option<&[u8]>) -> Result<Self> {
        if tokenizer_files::is_byte_level(json)? {
            let vocabulary = ByteLevelVocabulary::new(json, config)?;
            return Ok(Self {
                begin: vocabulary.begin().to_vec(),
                end: vocabulary.eos_token_id(),
                vocabulary: Box::new(vocabulary),
            });
        }
        let (model, added) = tokenizer_files::from_json(json)?;
        Self::llama(LlamaVocabulary::new(model, added)?)
    }

    fn llama(vocabulary: LlamaVocabulary) -> Result<Self> {
        let id = |text: &str| {
            let id = vocabulary.added_token_id(text);
            id.ok_or_else(|| Error::failed(format!("no token {text} in the vocabulary")))
        };
        Ok(Self {
            begin: vec![id("<s>")?],
            end: id("</s>")?,
            vocabulary: Box::new(vocabulary),
        })
    }

    /// Size of the vocabulary with the added tokens.
    pub fn vocab_size(&self) -> usize {
        self.vocabulary.size()
    }

    /// Id of the token that ends every answer, LLaMA's `</s>`.
    pub fn eos_token_id(&self) -> i64 {
        self.end
    }

    /// Id of a token outside the learned vocabulary, such as the one that starts an image.
    pub fn added_token_id(&self, text: &str) -> Option<i64> {
        self.vocabulary.added_token_id(text)
    }

    /// Token ids of a plain text, first those that every text begins with (LLaMA's `<s>`; a base may have
    /// been trained without). An image placeholder in it is ordinary text.
    pub fn encode(&self, text: &str) -> Vec<i64> {
        let text = self.vocabulary.canonical(text);
        let ids = self.vocabulary.encode(&text).into_iter().map(|(id, _)| id);
        self.begin.iter().copied().chain(ids).collect()
    }

    /// Token ids of a prompt as [`Self::encode`] gives them, with [`IMAGE_ID`] for each `<image>`.
    pub fn encode_prompt(&self, prompt: &str) -> Vec<i64> {
        self.encode_segments(&[prompt]).concat()
    }

    /// Token ids of each segment; joined they are those of the joined text as
    /// [`Self::encode_prompt`] gives them. A token belongs to the segment that it begins in.
    pub fn encode_segments(&self, segments: &[impl AsRef<str>]) -> Vec<Vec<i64>> {
        let segments = segments.iter().map(AsRef::as_ref);
        let segments: Vec<String> = segments.map(|s| self.vocabulary.canonical(s)).collect();
        let mut placed = self.place(&segments.concat()).into_iter().peekable();
        let mut end = 0;
        let ids_of = |(index, segment): (usize, &String)| {
            end += segment.len();
            let last = index + 1 == segments.len();
            let own = || placed.next_if(|(_, start)| *start < end || last);
            std::iter::from_fn(own).map(|(id, _)| id).collect()
        };
        segments.iter().enumerate().map(ids_of).collect()
    }

    /// The tokens of a canonical prompt, each with the byte at which it begins.
    fn place(&self, prompt: &str) -> Vec<(i64, usize)> {
        let mut placed: Vec<(i64, usize)> = self.begin.iter().map(|&id| (id, 0)).collect();
        let mut start = 0;
        for (index, chunk) in prompt.split(IMAGE_PLACEHOLDER).enumerate() {
            if index > 0 {
                placed.push((IMAGE_ID, start - IMAGE_PLACEHOLDER.len()));
            }
            let tokens = self.vocabulary.encode(chunk).into_iter();
            placed.extend(tokens.map(|(id, at)| (id, start + at)));
            start += chunk.len() + IMAGE_PLACEHOLDER.len();
        }
        placed
    }

    /// How the vocabulary spells a token, special ones too; nothing for an id outside of it.
    pub fn id_to_token(&self, id: i64) -> &str {
        self.vocabulary.id_to_token(id)
    }

    /// The text of token ids without special tokens and images. Ids outside the vocabulary are
    /// nothing.
    pub fn decode(&self, ids: &[i64]) -> String {
        let mut stream = self.stream();
        let mut text: String = ids.iter().map(|&id| stream.push(id)).collect();
        text.push_str(&stream.finish());
        text
    }

    /// Decodes ids one after another, as they are generated.
    pub fn stream(&self) -> TextStream<'_> {
        TextStream::new(self)
    }

    /// The bytes that a token stands for in a text, which may be a part of a character.
    pub(crate) fn token_bytes(&self, id: i64) -> Vec<u8> {
        match self.spelling(id) {
            Spelling::Nothing => Vec::new(),
            Spelling::Whole(text) => text.into(),
            Spelling::Piece(piece) => piece.replace(SPACE, " ").into_bytes(),
            Spelling::Byte(byte) => vec![byte],
            Spelling::Bytes(bytes) => bytes.to_vec(),
        }
    }

    /// What `id` adds to a text.
    pub(super) fn spelling(&self, id: i64) -> Spelling<'_> {
        self.vocabulary.spelling(id)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use crate::text::{
        sentence_piece::{Kind, Piece},
        tokenizer_files::AddedToken,
    };

    use super::*;

    /// Without bytes to fall back to.
    fn tiny() -> Tokenizer {
        let piece = |text: &str, kind| Piece {
            text: text.into(),
            score: 0.0,
            kind,
        };
        let pieces = vec![
            piece("<unk>", Kind::Unknown),
            piece("<s>", Kind::Control),
            piece("</s>", Kind::Control),
            piece("▁", Kind::Normal),
            piece("a", Kind::Normal),
            piece("▁a", Kind::Normal),
        ];
        let word = AddedToken {
            text: "aa b".into(),
            id: 6,
            special: false,
        };
        let model = SentencePiece::plain_bpe(pieces).unwrap();
        Tokenizer::llama(LlamaVocabulary::new(model, vec![word]).unwrap()).unwrap()
    }

    #[test]
    fn a_lone_space_is_dropped_before_a_special_token_only() {
        let tokenizer = tiny();
        assert_eq!(tokenizer.encode("</s>a"), [1, 2, 4]);
        assert_eq!(tokenizer.encode("b"), [1, 3, 0]);
        assert_eq!(tokenizer.encode("aa b"), [1, 3, 6]);
        assert_eq!(tokenizer.encode("bb a"), [1, 3, 0, 5]);
    }

    #[test]
    fn added_words_are_decoded_and_special_tokens_are_not() {
        let tokenizer = tiny();
        assert_eq!(tokenizer.vocab_size(), 7);
        assert_eq!(tokenizer.decode(&[1, 5, 6, 5, 4, 0, 2]), "aaa baa");
        assert_eq!(tokenizer.decode(&[IMAGE_ID, 99, 5]), "a");
    }

    #[test]
    fn broken_files_are_errors() {
        assert!(Tokenizer::from_bytes(b"no model", None, None).is_err());
        assert!(Tokenizer::from_json(b"{}", None).is_err());
        let other = br#"{"model": {"type": "WordPiece", "vocab": {}}}"#;
        assert!(
            Tokenizer::from_json(other, None)
                .unwrap_err()
                .to_string()
                .contains("WordPiece")
        );
    }
}
