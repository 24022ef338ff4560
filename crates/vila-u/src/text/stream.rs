//! Token ids -> text, one id at a time, never half a character.

use super::{Tokenizer, sentence_piece::SPACE, vocabulary::Spelling};

/// Text of a growing sequence of tokens. What [`push`](Self::push) returned, joined, and
/// [`finish`](Self::finish) is what [`Tokenizer::decode`] gives for all ids at once.
#[derive(Debug)]
pub struct TextStream<'a> {
    tokenizer: &'a Tokenizer,
    /// Bytes of a character that is not complete yet.
    pending: Vec<u8>,
    /// Nothing but special tokens so far: the space before the first word is dropped.
    at_start: bool,
    /// Whether the bytes of a character that never becomes complete are one U+FFFD, and not one each.
    broken_together: bool,
}

impl<'a> TextStream<'a> {
    pub(super) fn new(tokenizer: &'a Tokenizer) -> Self {
        Self {
            tokenizer,
            pending: Vec::new(),
            at_start: true,
            broken_together: false,
        }
    }

    /// The text that became complete with this token; may be empty.
    pub fn push(&mut self, id: i64) -> String {
        match self.tokenizer.spelling(id) {
            Spelling::Nothing => String::new(),
            Spelling::Byte(byte) => {
                self.at_start = false;
                self.pending.push(byte);
                self.complete(false)
            }
            Spelling::Bytes(bytes) => {
                self.broken_together = true;
                self.pending.extend_from_slice(bytes);
                self.complete(false)
            }
            Spelling::Piece(piece) => {
                let piece = match piece.strip_prefix(SPACE) {
                    Some(rest) if self.at_start => rest,
                    _ => piece,
                };
                self.at_start = false;
                self.complete(true) + &piece.replace(SPACE, " ")
            }
            Spelling::Whole(text) => {
                self.at_start = true;
                self.complete(true) + text
            }
        }
    }

    /// What is left at the end: bytes that never became a character, as U+FFFD.
    pub fn finish(mut self) -> String {
        self.complete(true)
    }

    /// Takes the complete characters off the pending bytes. What cannot begin one becomes U+FFFD; `all`:
    /// nothing follows, so an incomplete character cannot become complete.
    fn complete(&mut self, all: bool) -> String {
        let mut text = String::new();
        loop {
            let error = match std::str::from_utf8(&self.pending) {
                Ok(valid) => {
                    text.push_str(valid);
                    self.pending.clear();
                    return text;
                }
                Err(error) => error,
            };
            let valid: Vec<u8> = self.pending.drain(..error.valid_up_to()).collect();
            text.push_str(&String::from_utf8_lossy(&valid));
            if error.error_len().is_none() && !all {
                return text;
            }
            let broken = if self.broken_together {
                error.error_len().unwrap_or(self.pending.len())
            } else {
                1
            };
            self.pending.drain(..broken);
            text.push(char::REPLACEMENT_CHARACTER);
        }
    }
}
