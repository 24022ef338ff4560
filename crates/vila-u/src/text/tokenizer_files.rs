//! Tokenizer files beside `tokenizer.model`: added tokens, and the same vocabulary as
//! `tokenizer.json`.

use std::collections::HashMap;

use serde::Deserialize;
use serde_json::Value;

use super::sentence_piece::{Kind, Piece, SentencePiece, byte_of};
use crate::{Error, Result};

/// A token outside the learned vocabulary, recognised as a whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct AddedToken {
    pub text: String,
    pub id: i64,
    /// Never part of an answer's text.
    pub special: bool,
}

/// `added_tokens.json`: {text: id}.
pub(super) fn added_tokens(json: Option<&[u8]>) -> Result<Vec<AddedToken>> {
    let Some(json) = json else {
        return Ok(Vec::new());
    };
    let ids: HashMap<String, u32> = serde_json::from_slice(json)
        .map_err(|error| Error::failed(format!("added_tokens.json: {error}")))?;
    let token = |(text, id)| AddedToken {
        text,
        id: i64::from(id),
        special: true,
    };
    Ok(ids.into_iter().map(token).collect())
}

/// `tokenizer_config.json`, `added_tokens_decoder`: {id: {content, special}}, which knows more about
/// added tokens than `added_tokens.json` does (older files lack it).
pub(super) fn override_added(added: &mut Vec<AddedToken>, json: Option<&[u8]>) -> Result<()> {
    #[derive(Deserialize)]
    struct Config {
        #[serde(default)]
        added_tokens_decoder: HashMap<String, Token>,
    }
    #[derive(Deserialize)]
    struct Token {
        content: String,
        special: bool,
    }
    let Some(json) = json else {
        return Ok(());
    };
    let config: Config = serde_json::from_slice(json)
        .map_err(|error| Error::failed(format!("tokenizer_config.json: {error}")))?;
    for (id, Token { content, special }) in config.added_tokens_decoder {
        let id: u32 = id.parse().map_err(|_| {
            Error::failed(format!("tokenizer_config.json: {id:?} is not a token id"))
        })?;
        added.retain(|token| token.text != content);
        added.push(AddedToken {
            text: content,
            id: i64::from(id),
            special,
        });
    }
    Ok(())
}

/// Whether a `tokenizer.json` has a byte-level vocabulary: text is split into bytes before anything is merged.
pub(super) fn is_byte_level(json: &[u8]) -> Result<bool> {
    #[derive(Deserialize)]
    struct File {
        pre_tokenizer: Option<PreTokenizer>,
    }
    #[derive(Deserialize)]
    struct PreTokenizer {
        r#type: String,
        /// Those of a sequence.
        #[serde(default)]
        pretokenizers: Vec<PreTokenizer>,
    }
    fn splits_bytes(step: &PreTokenizer) -> bool {
        step.r#type == "ByteLevel" || step.pretokenizers.iter().any(splits_bytes)
    }
    let file: File = serde_json::from_slice(json).map_err(invalid)?;
    Ok(file.pre_tokenizer.as_ref().is_some_and(splits_bytes))
}

fn invalid(error: serde_json::Error) -> Error {
    Error::failed(format!("not a tokenizer.json: {error}"))
}

/// `tokenizer.json` with a BPE vocabulary in the manner of SentencePiece (`▁` for spaces, bytes as
/// `<0x41>`). Its list of merges becomes piece scores: the earlier a piece is made, the better.
pub(super) fn from_json(json: &[u8]) -> Result<(SentencePiece, Vec<AddedToken>)> {
    #[derive(Deserialize)]
    struct File {
        #[serde(default)]
        added_tokens: Vec<Added>,
        model: Value,
    }
    #[derive(Deserialize)]
    struct Added {
        id: u32,
        content: String,
        special: bool,
    }
    #[derive(Deserialize)]
    struct Bpe {
        vocab: HashMap<String, u32>,
        merges: Vec<Merge>,
        unk_token: Option<String>,
    }
    /// "a b" in older files, ["a", "b"] in newer ones.
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Merge {
        Joined(String),
        Pair(String, String),
    }

    let file: File = serde_json::from_slice(json).map_err(invalid)?;
    let kind = file
        .model
        .get("type")
        .and_then(Value::as_str)
        .unwrap_or("BPE");
    if kind != "BPE" || file.model.get("byte_fallback") != Some(&Value::Bool(true)) {
        return Err(Error::failed(format!(
            "a {kind} vocabulary; only BPE of bytes (Llama 3's) or with byte fallback (LLaMA's) works here, \
             or put the tokenizer.model beside it"
        )));
    }
    let bpe: Bpe = serde_json::from_value(file.model).map_err(invalid)?;

    let mut scores = HashMap::new();
    for (rank, merge) in bpe.merges.iter().enumerate() {
        let union = match merge {
            Merge::Joined(pair) => pair.replacen(' ', "", 1),
            Merge::Pair(left, right) => format!("{left}{right}"),
        };
        scores.entry(union).or_insert(-(rank as f32));
    }
    let added: Vec<AddedToken> = file
        .added_tokens
        .into_iter()
        .map(
            |Added {
                 id,
                 content,
                 special,
             }| AddedToken {
                text: content,
                id: i64::from(id),
                special,
            },
        )
        .collect();
    let control = |text: &str| {
        added
            .iter()
            .any(|token| token.special && token.text == text)
    };
    let mut pieces: Vec<Option<Piece>> = vec![None; bpe.vocab.len()];
    for (text, id) in bpe.vocab {
        let kind = match byte_of(&text) {
            Ok(byte) => Kind::Byte(byte),
            Err(_) if bpe.unk_token.as_ref() == Some(&text) => Kind::Unknown,
            Err(_) if control(&text) => Kind::Control,
            Err(_) => Kind::Normal,
        };
        let score = scores.get(&text).copied().unwrap_or(f32::NEG_INFINITY);
        match pieces.get_mut(id as usize) {
            Some(place @ None) => *place = Some(Piece { text, score, kind }),
            _ => {
                return Err(Error::failed(format!(
                    "the ids of the vocabulary are not 0, 1, 2, ... ({id})"
                )));
            }
        }
    }
    let pieces = pieces.into_iter().flatten().collect();
    Ok((SentencePiece::plain_bpe(pieces)?, added))
}
