//! LLaMA's tokenizer with the added image and video markers: text -> token ids and back.
//!
//! The rules are those of the released checkpoints' tokenizer (`LlamaTokenizer`, `legacy = false`):
//! every text gets one leading space `▁`, special tokens are recognised anywhere in a text, no space
//! is added after them, and a lone `▁` before a leading one is dropped.

use std::path::Path;

use super::{
    IMAGE_PLACEHOLDER, Parsed, TextStream,
    sentence_piece::{Kind, SPACE, SentencePiece, Token},
    vocabulary::{self, AddedToken},
};
use crate::{Error, Result};

/// Stands for an image (or a frame) among token ids; it is not in the vocabulary.
pub const IMAGE_ID: i64 = -200;

#[derive(Debug)]
pub struct Tokenizer {
    model: SentencePiece,
    /// Recognised as a whole in any text, and not the model's to produce.
    added: Vec<AddedToken>,
    begin: i64,
    end: i64,
}

/// An id and where in the text it begins, in bytes.
type Placed = (i64, usize);

impl Tokenizer {
    /// From a checkpoint's `llm` folder: `tokenizer.model` with `added_tokens.json` and
    /// `tokenizer_config.json` where there are, otherwise `tokenizer.json`.
    pub fn from_dir(folder: &Path) -> Result<Self> {
        let model = folder.join("tokenizer.model");
        let json = folder.join("tokenizer.json");
        let optional = |name| vocabulary::read_optional(&folder.join(name));
        if let Some(bytes) = vocabulary::read_optional(&model)? {
            let added = optional("added_tokens.json")?;
            let config = optional("tokenizer_config.json")?;
            Self::from_bytes(&bytes, added.as_deref(), config.as_deref())
                .map_err(|reason| Error::invalid(model, reason))
        } else if let Some(bytes) = vocabulary::read_optional(&json)? {
            Self::from_json(&bytes).map_err(|reason| Error::invalid(json, reason))
        } else {
            Err(Error::invalid(
                folder,
                "no tokenizer.model and no tokenizer.json in this folder",
            ))
        }
    }

    /// From the contents of `tokenizer.model`, `added_tokens.json` and `tokenizer_config.json`; the
    /// error is the reason they cannot be those.
    pub fn from_bytes(
        model: &[u8],
        added_tokens: Option<&[u8]>,
        config: Option<&[u8]>,
    ) -> Parsed<Self> {
        let mut added = vocabulary::added_tokens(added_tokens)?;
        vocabulary::override_added(&mut added, config)?;
        Self::new(SentencePiece::from_bytes(model)?, added)
    }

    /// From the content of a `tokenizer.json` that holds a SentencePiece-style BPE vocabulary; the
    /// rules are the same as with `tokenizer.model`.
    pub fn from_json(json: &[u8]) -> Parsed<Self> {
        let (model, added) = vocabulary::from_json(json)?;
        Self::new(model, added)
    }

    fn new(model: SentencePiece, mut added: Vec<AddedToken>) -> Parsed<Self> {
        for (id, piece) in model.pieces().iter().enumerate() {
            if matches!(piece.kind, Kind::Control | Kind::Unknown)
                && !added.iter().any(|token| token.text == piece.text)
            {
                added.push(AddedToken {
                    text: piece.text.clone(),
                    id: id as i64,
                    special: true,
                });
            }
        }
        added.retain(|token| !token.text.is_empty());
        // The longest match wins.
        added.sort_by_key(|token| std::cmp::Reverse(token.text.len()));
        let id = |text: &str| {
            added
                .iter()
                .find(|token| token.text == text)
                .map(|token| token.id)
                .ok_or_else(|| format!("no token {text} in the vocabulary"))
        };
        Ok(Self {
            begin: id("<s>")?,
            end: id("</s>")?,
            model,
            added,
        })
    }

    /// Size of the vocabulary with the added tokens.
    pub fn vocabulary(&self) -> usize {
        let last = self.added.iter().map(|token| token.id as usize + 1).max();
        last.unwrap_or(0).max(self.model.pieces().len())
    }

    /// Id of `<s>`, which every sequence begins with.
    pub fn begin(&self) -> i64 {
        self.begin
    }

    /// Id of `</s>`, which ends every answer.
    pub fn end(&self) -> i64 {
        self.end
    }

    /// Id of a token outside the learned vocabulary, such as the one that starts an image.
    pub fn added(&self, text: &str) -> Option<i64> {
        let mut added = self.added.iter();
        added.find(|token| token.text == text).map(|token| token.id)
    }

    /// Token ids of a plain text, `<s>` first. An image placeholder in it is ordinary text.
    pub fn encode(&self, text: &str) -> Vec<i64> {
        let mut placed = vec![(self.begin, 0)];
        self.encode_chunk(&unify_spaces(text), 0, &mut placed);
        placed.into_iter().map(|(id, _)| id).collect()
    }

    /// Token ids of a prompt, `<s>` first and [`IMAGE_ID`] for each `<image>`.
    pub fn encode_prompt(&self, prompt: &str) -> Vec<i64> {
        self.encode_segments(&[prompt]).concat()
    }

    /// Token ids of each segment; joined they are those of the joined text as
    /// [`Self::encode_prompt`] gives them. A token belongs to the segment that it begins in.
    pub fn encode_segments(&self, segments: &[impl AsRef<str>]) -> Vec<Vec<i64>> {
        let segments: Vec<String> = segments.iter().map(|s| unify_spaces(s.as_ref())).collect();
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

    fn place(&self, prompt: &str) -> Vec<Placed> {
        let mut placed = vec![(self.begin, 0)];
        let mut start = 0;
        for (index, chunk) in prompt.split(IMAGE_PLACEHOLDER).enumerate() {
            if index > 0 {
                placed.push((IMAGE_ID, start - IMAGE_PLACEHOLDER.len()));
            }
            self.encode_chunk(chunk, start, &mut placed);
            start += chunk.len() + IMAGE_PLACEHOLDER.len();
        }
        placed
    }

    /// Appends the ids of a text without image placeholders that begins at `offset`.
    fn encode_chunk(&self, chunk: &str, offset: usize, placed: &mut Vec<Placed>) {
        if chunk.is_empty() {
            return;
        }
        let text = format!("{SPACE}{chunk}");
        let place = |start: usize| offset + start.saturating_sub(SPACE.len_utf8());
        let mut start = 0;
        while start < text.len() {
            let (plain, added) = self.until_added(&text[start..]);
            let mut tokens = self.model.encode(plain, plain.starts_with([SPACE, ' ']));
            if start == 0 && added.is_some_and(|token| token.special) && self.is_space(&tokens) {
                tokens.clear();
            }
            placed.extend(
                tokens
                    .iter()
                    .map(|token| (token.id as i64, place(start + token.start))),
            );
            start += plain.len();
            if let Some(token) = added {
                placed.push((token.id, place(start)));
                start += token.text.len();
            }
        }
    }

    /// The start of `text` up to the first added token, and that token.
    fn until_added<'a>(&self, text: &'a str) -> (&'a str, Option<&AddedToken>) {
        text.char_indices()
            .find_map(|(at, _)| {
                let rest = &text[at..];
                let token = self
                    .added
                    .iter()
                    .find(|token| rest.starts_with(&token.text))?;
                Some((&text[..at], Some(token)))
            })
            .unwrap_or((text, None))
    }

    /// A single `▁`.
    fn is_space(&self, tokens: &[Token]) -> bool {
        let spells = |id: usize| self.model.pieces()[id].text.chars().eq([SPACE]);
        matches!(tokens, [token] if spells(token.id))
    }

    /// How the vocabulary spells a token, special ones too; nothing for an id outside of it.
    pub fn piece(&self, id: i64) -> &str {
        let added = self.added.iter().find(|token| token.id == id);
        let own = || {
            Some(
                self.model
                    .pieces()
                    .get(usize::try_from(id).ok()?)?
                    .text
                    .as_str(),
            )
        };
        match added {
            Some(token) => &token.text,
            None => own().unwrap_or_default(),
        }
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

    /// What `id` adds to a text.
    pub(super) fn spelling(&self, id: i64) -> Spelling<'_> {
        if let Some(token) = self.added.iter().find(|token| token.id == id) {
            return match token.special {
                true => Spelling::Nothing,
                false => Spelling::Whole(&token.text),
            };
        }
        match usize::try_from(id)
            .ok()
            .and_then(|id| self.model.pieces().get(id))
        {
            Some(piece) => match piece.kind {
                Kind::Byte(byte) => Spelling::Byte(byte),
                _ => Spelling::Piece(&piece.text),
            },
            None => Spelling::Nothing,
        }
    }
}

pub(super) enum Spelling<'a> {
    /// A special token, or no token at all.
    Nothing,
    /// An added token that is ordinary text.
    Whole(&'a str),
    /// A piece, with `▁` for spaces.
    Piece(&'a str),
    /// One byte of a character.
    Byte(u8),
}

/// `▁` written by a user is a space.
fn unify_spaces(text: &str) -> String {
    text.replace(SPACE, " ")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use crate::text::sentence_piece::{Kind, Piece, SentencePiece};

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
        Tokenizer::new(SentencePiece::plain_bpe(pieces).unwrap(), vec![word]).unwrap()
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
        assert_eq!(tokenizer.vocabulary(), 7);
        assert_eq!(tokenizer.decode(&[1, 5, 6, 5, 4, 0, 2]), "aaa baa");
        assert_eq!(tokenizer.decode(&[IMAGE_ID, 99, 5]), "a");
    }

    #[test]
    fn broken_files_are_errors() {
        assert!(Tokenizer::from_bytes(b"no model", None, None).is_err());
        assert!(Tokenizer::from_json(b"{}").is_err());
        let other = br#"{"model": {"type": "WordPiece", "vocab": {}}}"#;
        assert!(
            Tokenizer::from_json(other)
                .unwrap_err()
                .contains("WordPiece")
        );
    }
}
