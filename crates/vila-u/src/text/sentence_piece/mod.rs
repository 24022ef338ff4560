//! SentencePiece (Kudo & Richardson, arXiv 1808.06226): text -> pieces of a learned vocabulary.
//!
//! Reads the `.model` files the library of that name writes and segments exactly as it does:
//! normalise, then byte-pair merges ([`bpe`]) or the best unigram path ([`unigram`]), then pieces
//! outside the vocabulary fall back to their bytes. The dummy prefix the file may ask for is never
//! added: the tokenizers built on top decide where a word starts.

mod bpe;
mod normalizer;
mod unigram;

use std::collections::HashMap;

use sentencepiece_model::{ModelType, SentencePieceModel, Type};

use normalizer::Normalizer;

use crate::{Error, Result};

/// Stands for a space inside pieces.
pub(super) const SPACE: char = '▁';

/// Longer pieces come from no trainer; refusing them bounds the work per character.
const LONGEST_PIECE: usize = 1024;

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Piece {
    pub text: String,
    pub score: f32,
    pub kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Normal,
    /// Stands for everything the vocabulary cannot spell.
    Unknown,
    /// `<s>`, `</s>`: has an id, and text never becomes it.
    Control,
    /// Always kept whole.
    UserDefined,
    /// In the vocabulary and never produced.
    Unused,
    /// `<0x41>`: one byte of a character that is not in the vocabulary.
    Byte(u8),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Algorithm {
    Bpe,
    Unigram,
}

/// One piece of an encoded text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Token {
    pub id: usize,
    /// Where in the text it begins, in bytes.
    pub start: usize,
}

#[derive(Debug)]
pub(super) struct SentencePiece {
    pieces: Vec<Piece>,
    algorithm: Algorithm,
    normalizer: Normalizer,
    /// Ids of the pieces text can become.
    ids: HashMap<String, usize>,
    bytes: Option<[usize; 256]>,
    unknown: usize,
    user_defined: Vec<String>,
}

impl SentencePiece {
    /// Reads the content of a `.model` file; errors say why it cannot be one.
    pub(super) fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let file = SentencePieceModel::from_slice(bytes)
            .map_err(|error| Error::failed(format!("not a SentencePiece model: {error}")))?;
        let algorithm = match file
            .trainer()
            .map_or(ModelType::Unigram, |t| t.model_type())
        {
            ModelType::Bpe => Algorithm::Bpe,
            ModelType::Unigram => Algorithm::Unigram,
            other => {
                return Err(Error::failed(format!(
                    "a SentencePiece model of type {other:?}: neither BPE nor Unigram"
                )));
            }
        };
        let pieces = file
            .pieces()
            .iter()
            .map(|piece| {
                let text = piece.piece().to_string();
                let kind = match piece.r#type() {
                    Type::Normal => Kind::Normal,
                    Type::Unknown => Kind::Unknown,
                    Type::Control => Kind::Control,
                    Type::UserDefined => Kind::UserDefined,
                    Type::Unused => Kind::Unused,
                    Type::Byte => Kind::Byte(byte_of(&text)?),
                };
                Ok(Piece {
                    text,
                    score: piece.score(),
                    kind,
                })
            })
            .collect::<Result<_>>()?;
        let normalizer = match file.normalizer() {
            Some(spec) => Normalizer::new(
                spec.precompiled_charsmap(),
                spec.remove_extra_whitespaces(),
                spec.escape_whitespaces(),
            )?,
            None => Normalizer::default(),
        };
        Self::new(pieces, algorithm, normalizer)
    }

    /// A BPE vocabulary whose text is not normalised, as LLaMA's.
    pub(super) fn plain_bpe(pieces: Vec<Piece>) -> Result<Self> {
        Self::new(pieces, Algorithm::Bpe, Normalizer::default())
    }

    fn new(pieces: Vec<Piece>, algorithm: Algorithm, normalizer: Normalizer) -> Result<Self> {
        let mut ids = HashMap::with_capacity(pieces.len());
        let mut bytes = [usize::MAX; 256];
        let mut unknown = None;
        let mut user_defined = Vec::new();
        for (id, Piece { text, kind, .. }) in pieces.iter().enumerate() {
            if text.is_empty() || text.len() > LONGEST_PIECE {
                return Err(Error::failed(format!(
                    "piece {id} is {} bytes long",
                    text.len()
                )));
            }
            match kind {
                Kind::Unknown if unknown.is_some() => {
                    return Err(Error::failed("two unknown pieces in the vocabulary"));
                }
                Kind::Unknown => unknown = Some(id),
                Kind::Byte(byte) => bytes[*byte as usize] = id,
                Kind::Control => {}
                Kind::Normal | Kind::UserDefined | Kind::Unused => {
                    if ids.insert(text.clone(), id).is_some() {
                        return Err(Error::failed(format!(
                            "piece {text:?} is in the vocabulary twice"
                        )));
                    }
                    if *kind == Kind::UserDefined {
                        user_defined.push(text.clone());
                    }
                }
            }
        }
        // The longest match wins.
        user_defined.sort_by_key(|text| std::cmp::Reverse(text.len()));
        Ok(Self {
            unknown: unknown.ok_or_else(|| Error::failed("no unknown piece in the vocabulary"))?,
            bytes: (!bytes.contains(&usize::MAX)).then_some(bytes),
            pieces,
            algorithm,
            normalizer,
            ids,
            user_defined,
        })
    }

    /// Pieces by id.
    pub(super) fn pieces(&self) -> &[Piece] {
        &self.pieces
    }

    /// Segments `text`; every byte of it is in exactly one token, unless normalisation drops it.
    ///
    /// `keep_leading`: spaces at the start stay even in a vocabulary that strips them.
    pub(super) fn encode(&self, text: &str, keep_leading: bool) -> Vec<Token> {
        let (text, origin) = self
            .normalizer
            .apply(text, keep_leading, &self.user_defined);
        let segments = match self.algorithm {
            Algorithm::Bpe => bpe::segment(self, &text),
            Algorithm::Unigram => unigram::segment(self, &text),
        };
        let mut tokens = Vec::with_capacity(segments.len());
        let mut after_unknown = false;
        for range in segments {
            let start = range.start;
            let id = self.ids.get(&text[range.clone()]).copied();
            match (id, &self.bytes) {
                (Some(id), _) => tokens.push(Token {
                    id,
                    start: origin[start],
                }),
                (None, Some(bytes)) => tokens.extend(range.map(|at| Token {
                    id: bytes[text.as_bytes()[at] as usize],
                    start: origin[at],
                })),
                // A run of unknown pieces is one token.
                (None, None) if after_unknown => {}
                (None, None) => tokens.push(Token {
                    id: self.unknown,
                    start: origin[start],
                }),
            }
            after_unknown = id.is_none();
        }
        tokens
    }

    /// The user-defined piece that `text` starts with.
    fn user_defined_prefix<'a>(&self, text: &'a str) -> Option<&'a str> {
        prefix_among(&self.user_defined, text)
    }
}

fn prefix_among<'a>(longest_first: &[String], text: &'a str) -> Option<&'a str> {
    longest_first
        .iter()
        .find(|piece| text.starts_with(piece.as_str()))
        .map(|piece| &text[..piece.len()])
}

/// The byte that `<0x41>` spells.
pub(super) fn byte_of(piece: &str) -> Result<u8> {
    piece
        .strip_prefix("<0x")
        .and_then(|rest| rest.strip_suffix('>'))
        .filter(|hex| hex.len() == 2)
        .and_then(|hex| u8::from_str_radix(hex, 16).ok())
        .ok_or_else(|| Error::failed(format!("byte piece {piece:?} is not of the form <0x41>")))
}
