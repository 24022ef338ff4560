//! Byte-level BPE, the vocabulary of GPT-2, SmolLM2 and Llama 3, as their `tokenizer.json` has it.
//!
//! How text is split and merged is Hugging Face's `tokenizers`' work. Pieces spell bytes, each byte as one
//! printable character (`Ġ` is a space), and may begin and end inside a character of the text.

use std::collections::HashMap;

use serde::Deserialize;
use tokenizers::{Model, ModelWrapper, PostProcessorWrapper, Tokenizer as HuggingFace};

use super::vocabulary::{Spelling, Vocabulary};
use crate::{Error, Result, catch_unwind::catch_unwind_silent};

/// How the conversation template spells the end of an answer, whatever the vocabulary calls it.
const END: &str = "</s>";

/// No vocabulary has larger ids; more is refused before memory is taken for them.
const MOST_TOKENS: u32 = 1 << 20;

#[derive(Debug)]
pub(super) struct ByteLevelVocabulary {
    tokenizer: HuggingFace,
    /// By id.
    pieces: Vec<Piece>,
    added: HashMap<String, i64>,
    /// Put before every text.
    begin: Vec<i64>,
    end: i64,
}

#[derive(Clone, Debug, Default)]
struct Piece {
    text: String,
    bytes: Vec<u8>,
    special: bool,
}

impl ByteLevelVocabulary {
    /// From the contents of `tokenizer.json` and `tokenizer_config.json`, which names the token that ends
    /// a text; errors say why they cannot be those.
    pub(super) fn new(json: &[u8], config: Option<&[u8]>) -> Result<Self> {
        let mut tokenizer = library(|| HuggingFace::from_bytes(json))?;
        check_added(json, &tokenizer)?;
        let end = end_token(config)?;
        let end = tokenizer
            .token_to_id(&end)
            .ok_or_else(|| Error::failed(format!("eos_token {end} is not in the vocabulary")))?;

        tokenizer.with_padding(None);
        library(|| tokenizer.with_truncation(None).map(|_| ()))?;
        let sample = library(|| tokenizer.encode("a", true))?;
        let begin = (sample
            .get_ids()
            .iter()
            .zip(sample.get_special_tokens_mask()))
        .take_while(|(_, special)| **special == 1)
        .map(|(id, _)| i64::from(*id))
        .collect();
        // It would also move the starts of tokens past their spaces.
        tokenizer.with_post_processor(None::<PostProcessorWrapper>);

        Ok(Self {
            pieces: pieces(&tokenizer)?,
            added: (tokenizer.get_added_tokens_decoder().into_iter())
                .map(|(id, token)| (token.content, i64::from(id)))
                .collect(),
            begin,
            end: i64::from(end),
            tokenizer,
        })
    }

    /// Ids that every text begins with: none where the base was trained without.
    pub(super) fn begin(&self) -> &[i64] {
        &self.begin
    }

    /// Id that ends every answer.
    pub(super) fn eos_token_id(&self) -> i64 {
        self.end
    }
}

impl Vocabulary for ByteLevelVocabulary {
    fn size(&self) -> usize {
        self.pieces.len()
    }

    fn added_token_id(&self, text: &str) -> Option<i64> {
        self.added.get(text).copied()
    }

    fn id_to_token(&self, id: i64) -> &str {
        let index = usize::try_from(id).unwrap_or(usize::MAX);
        self.pieces.get(index).map_or("", |piece| &piece.text)
    }

    fn canonical(&self, text: &str) -> String {
        text.to_string()
    }

    fn encode(&self, text: &str) -> Vec<(i64, usize)> {
        let mut placed = Vec::new();
        let mut start = 0;
        for (index, part) in text.split(END).enumerate() {
            if index > 0 {
                placed.push((self.end, start - END.len()));
            }
            // It cannot fail: every merge and the unknown token are in the vocabulary.
            if let Ok(encoding) = self.tokenizer.encode(part, false) {
                let ids = encoding.get_ids().iter().zip(encoding.get_offsets());
                placed.extend(ids.map(|(id, (at, _))| (i64::from(*id), start + at)));
            }
            start += part.len() + END.len();
        }
        placed
    }

    fn spelling(&self, id: i64) -> Spelling<'_> {
        let index = usize::try_from(id).unwrap_or(usize::MAX);
        match self.pieces.get(index) {
            Some(piece) if !piece.special => Spelling::Bytes(&piece.bytes),
            _ => Spelling::Nothing,
        }
    }
}

/// Every token by its id, and its bytes.
fn pieces(tokenizer: &HuggingFace) -> Result<Vec<Piece>> {
    let added = tokenizer.get_added_tokens_decoder();
    let bytes = bytes_of_characters();
    let mut pieces = Vec::new();
    for (text, id) in tokenizer.get_vocab(true) {
        if id >= MOST_TOKENS {
            return Err(Error::failed(format!(
                "token {text:?} has the id {id}: too large"
            )));
        }
        let index = id as usize;
        if index >= pieces.len() {
            pieces.resize(index + 1, Piece::default());
        }
        let spelled: Option<Vec<u8>> = text.chars().map(|c| bytes.get(&c).copied()).collect();
        if !pieces[index].text.is_empty() {
            return Err(Error::failed(format!("two tokens have the id {id}")));
        }
        pieces[index] = Piece {
            bytes: spelled.unwrap_or_else(|| text.clone().into_bytes()),
            text,
            special: added.get(&id).is_some_and(|token| token.special),
        };
    }
    Ok(pieces)
}

/// The byte that each character of a piece stands for: printable characters of Latin-1 for themselves, those
/// from U+0100 on for the other bytes in order.
fn bytes_of_characters() -> HashMap<char, u8> {
    let mut others = '\u{100}'..;
    (0..=u8::MAX)
        .filter_map(|byte| match byte {
            b'!'..=b'~' | 0xa1..=0xac | 0xae.. => Some((char::from(byte), byte)),
            _ => others.next().map(|c| (c, byte)),
        })
        .collect()
}

/// The library numbers added tokens by itself; what the file says must be the same.
fn check_added(json: &[u8], tokenizer: &HuggingFace) -> Result<()> {
    #[derive(Deserialize)]
    struct File {
        #[serde(default)]
        added_tokens: Vec<Added>,
    }
    #[derive(Deserialize)]
    struct Added {
        id: u32,
        content: String,
    }
    let file: File =
        serde_json::from_slice(json).map_err(|error| Error::failed(error.to_string()))?;
    for Added { id, content } in file.added_tokens {
        if tokenizer.token_to_id(&content) != Some(id) {
            return Err(Error::failed(format!(
                "added token {content:?} has the id {id}, which is neither that of a piece nor the next free one"
            )));
        }
    }
    if let ModelWrapper::BPE(bpe) = tokenizer.get_model()
        && let Some(unknown) = bpe.get_unk_token()
        && bpe.token_to_id(unknown).is_none()
    {
        return Err(Error::failed(format!(
            "unk_token {unknown:?} is not in the vocabulary"
        )));
    }
    Ok(())
}

/// The `eos_token` of a `tokenizer_config.json`.
fn end_token(config: Option<&[u8]>) -> Result<String> {
    #[derive(Deserialize)]
    struct Config {
        eos_token: Option<Token>,
    }
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Token {
        Text(String),
        Added { content: String },
    }
    let config: Option<Config> = config
        .map(serde_json::from_slice)
        .transpose()
        .map_err(|error| Error::failed(format!("tokenizer_config.json: {error}")))?;
    match config.and_then(|config| config.eos_token) {
        Some(Token::Text(text) | Token::Added { content: text }) => Ok(text),
        None => Err(Error::failed(
            "no tokenizer_config.json beside it that names an eos_token",
        )),
    }
}

/// What the library makes of a file, or why it cannot: it takes the sizes in it at their word, and may panic.
fn library<T>(work: impl FnOnce() -> tokenizers::Result<T>) -> Result<T> {
    let reason = match catch_unwind_silent(work) {
        Some(Ok(value)) => return Ok(value),
        Some(Err(error)) => error.to_string(),
        None => "its vocabulary and its merges do not fit".into(),
    };
    let words: Vec<&str> = reason.split_whitespace().collect();
    Err(Error::failed(format!(
        "not a tokenizer.json: {}",
        words.join(" ")
    )))
}
