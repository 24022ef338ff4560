//! The tokenizer of the vision tower's text encoder (`SiglipTokenizer`): captions without case and
//! punctuation -> a fixed number of token ids.

use std::path::Path;

use super::{
    is_space,
    sentence_piece::{SPACE, SentencePiece},
    strip,
};
use crate::{Error, Result, checkpoint::Files};

#[derive(Debug)]
pub struct SiglipTokenizer {
    model: SentencePiece,
    end: i64,
    /// Length of every encoded text.
    length: usize,
}

impl SiglipTokenizer {
    /// From a folder with a `spiece.model`; `length`: the text encoder's number of positions.
    pub fn from_dir(folder: &Path, length: usize) -> Result<Self> {
        let (folder, name) = (Files::folder(folder), "spiece.model");
        Self::from_bytes(&folder.read(name)?, length).map_err(Error::in_file(folder.path(name)))
    }

    /// From the content of `spiece.model`; errors say why it cannot be one.
    pub fn from_bytes(model: &[u8], length: usize) -> Result<Self> {
        let model = SentencePiece::from_bytes(model)?;
        let end = (model.pieces().iter())
            .position(|piece| piece.text == "</s>")
            .ok_or_else(|| Error::failed("no piece </s> in the vocabulary"))?;
        Ok(Self {
            model,
            end: end as i64,
            length,
        })
    }

    /// How many tokens there are.
    pub fn vocab_size(&self) -> usize {
        self.model.pieces().len()
    }

    /// How the vocabulary spells a token; nothing for an id outside of it.
    pub fn id_to_token(&self, id: i64) -> &str {
        let index = usize::try_from(id).unwrap_or(usize::MAX);
        let piece = self.model.pieces().get(index);
        piece.map_or("", |piece| piece.text.as_str())
    }

    /// Token ids of a caption, ended by `</s>`, cut or filled up with `</s>` to the length the text
    /// encoder was trained with.
    pub fn encode(&self, text: &str) -> Vec<i64> {
        let text = format!("{SPACE}{}", text.replace(SPACE, " "));
        let tokens = self.model.encode(&canonical(&text), true);
        let mut ids: Vec<i64> = tokens.iter().map(|token| token.id as i64).collect();
        ids.truncate(self.length.saturating_sub(1));
        ids.resize(self.length, self.end);
        ids
    }
}

/// Lower case (one character at a time, so without a final sigma), no ASCII punctuation, single
/// spaces.
fn canonical(text: &str) -> String {
    let text: String = (text.chars().flat_map(char::to_lowercase))
        .filter(|c| !c.is_ascii_punctuation())
        .collect();
    let mut spaced = String::with_capacity(text.len());
    for c in strip(&text).chars() {
        match (is_space(c), spaced.ends_with(' ')) {
            (false, _) => spaced.push(c),
            (true, false) => spaced.push(' '),
            (true, true) => {}
        }
    }
    spaced
}

#[cfg(test)]
mod tests {
    use super::canonical;

    #[test]
    fn captions_lose_case_punctuation_and_extra_spaces() {
        assert_eq!(canonical(" A photo,  of a\tDOG!\n"), "a photo of a dog");
    }
}
