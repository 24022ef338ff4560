//! What a tokenizer is made of: pieces with ids, and the rules by which text becomes them.

use std::fmt::Debug;

/// The kinds of vocabulary that language models have, behind [`Tokenizer`](super::Tokenizer).
pub(super) trait Vocabulary: Debug + Send + Sync {
    /// Number of ids, the added tokens' included.
    fn size(&self) -> usize;

    /// Id of a token outside the learned pieces, which is recognised as a whole.
    fn added_token_id(&self, text: &str) -> Option<i64>;

    /// How the vocabulary spells a token, special ones too; nothing for an id outside of it.
    fn id_to_token(&self, id: i64) -> &str;

    /// `text` in the characters that this vocabulary reads.
    fn canonical(&self, text: &str) -> String;

    /// The tokens of a canonical text, none put first or last, each with the byte at which it begins.
    fn encode(&self, text: &str) -> Vec<(i64, usize)>;

    /// What a token adds to a text.
    fn spelling(&self, id: i64) -> Spelling<'_>;
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Spelling<'a> {
    /// A special token, or no token at all.
    Nothing,
    /// An added token that is ordinary text.
    Whole(&'a str),
    /// A piece, with `▁` for spaces.
    Piece(&'a str),
    /// One byte of a character that is not in the vocabulary.
    Byte(u8),
    /// A piece of a vocabulary whose pieces may begin and end inside a character.
    Bytes(&'a [u8]),
}
