//! LLaMA's vocabulary: SentencePiece BPE with the added image and video markers.
//!
//! The rules are those of the released checkpoints' tokenizer (`LlamaTokenizer`, `legacy = false`):
//! every text gets one leading space `▁`, special tokens are recognised anywhere in a text, no space
//! is added after them, and a lone `▁` before a leading one is dropped.

use super::{
    sentence_piece::{Kind, SPACE, SentencePiece, Token},
    tokenizer_files::AddedToken,
    vocabulary::{Spelling, Vocabulary},
};
use crate::Result;

#[derive(Debug)]
pub(super) struct LlamaVocabulary {
    model: SentencePiece,
    /// Recognised as a whole in any text, and not the model's to produce. The longest first.
    added: Vec<AddedToken>,
}

impl LlamaVocabulary {
    pub(super) fn new(model: SentencePiece, mut added: Vec<AddedToken>) -> Result<Self> {
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
        added.sort_by_key(|token| std::cmp::Reverse(token.text.len()));
        Ok(Self { model, added })
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
}

impl Vocabulary for LlamaVocabulary {
    fn size(&self) -> usize {
        let last = self.added.iter().map(|token| token.id as usize + 1).max();
        last.unwrap_or(0).max(self.model.pieces().len())
    }

    fn added_token_id(&self, text: &str) -> Option<i64> {
        let mut added = self.added.iter();
        added.find(|token| token.text == text).map(|token| token.id)
    }

    fn id_to_token(&self, id: i64) -> &str {
        if let Some(token) = self.added.iter().find(|token| token.id == id) {
            return &token.text;
        }
        let index = usize::try_from(id).unwrap_or(usize::MAX);
        let piece = self.model.pieces().get(index);
        piece.map_or("", |piece| piece.text.as_str())
    }

    /// `▁` written by a user is a space.
    fn canonical(&self, text: &str) -> String {
        text.replace(SPACE, " ")
    }

    fn encode(&self, text: &str) -> Vec<(i64, usize)> {
        let mut placed = Vec::new();
        if text.is_empty() {
            return placed;
        }
        let text = format!("{SPACE}{text}");
        let place = |start: usize| start.saturating_sub(SPACE.len_utf8());
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
        placed
    }

    fn spelling(&self, id: i64) -> Spelling<'_> {
        if let Some(token) = self.added.iter().find(|token| token.id == id) {
            return if token.special {
                Spelling::Nothing
            } else {
                Spelling::Whole(&token.text)
            };
        }
        let index = usize::try_from(id).unwrap_or(usize::MAX);
        match self.model.pieces().get(index) {
            Some(piece) => match piece.kind {
                Kind::Byte(byte) => Spelling::Byte(byte),
                _ => Spelling::Piece(&piece.text),
            },
            None => Spelling::Nothing,
        }
    }
}
