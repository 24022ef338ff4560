//! What SentencePiece does to text before segmenting it: replace characters by a table (mostly
//! Unicode compatibility forms), drop superfluous spaces, write spaces as `▁`.

use super::{SPACE, prefix_among};
use crate::{Error, Result};

#[derive(Debug)]
pub(super) struct Normalizer {
    /// A double-array trie over UTF-8 bytes: text -> offset in `replacements`.
    trie: Vec<u32>,
    /// Replacement texts, each ended by a zero byte.
    replacements: Vec<u8>,
    strip_spaces: bool,
    escape_spaces: bool,
}

impl Default for Normalizer {
    fn default() -> Self {
        Self {
            trie: Vec::new(),
            replacements: Vec::new(),
            strip_spaces: false,
            escape_spaces: true,
        }
    }
}

impl Normalizer {
    /// `table`: the file's `precompiled_charsmap` (empty: nothing is replaced), which is the size
    /// of the trie, the trie, the replacements.
    pub(super) fn new(table: &[u8], strip_spaces: bool, escape_spaces: bool) -> Result<Self> {
        let (trie, replacements) = if table.is_empty() {
            (table, table)
        } else {
            table
                .split_first_chunk()
                .and_then(|(size, rest)| rest.split_at_checked(u32::from_le_bytes(*size) as usize))
                .ok_or_else(|| Error::failed("the normalisation table is cut off"))?
        };
        Ok(Self {
            trie: trie
                .as_chunks()
                .0
                .iter()
                .map(|unit| u32::from_le_bytes(*unit))
                .collect(),
            replacements: replacements.to_vec(),
            strip_spaces,
            escape_spaces,
        })
    }

    /// The normalised text, and for each of its bytes where in `text` it comes from.
    pub(super) fn apply(
        &self,
        text: &str,
        keep_leading: bool,
        user_defined: &[String],
    ) -> (String, Vec<usize>) {
        let mut normalized = String::with_capacity(text.len());
        let mut origin = Vec::with_capacity(text.len());
        let mut after_space = self.strip_spaces && !keep_leading;
        let mut at = 0;
        while at < text.len() {
            let (mut replacement, length) = self.replace_prefix(&text[at..], user_defined);
            if after_space {
                replacement = replacement.trim_start_matches(' ');
            }
            for c in replacement.chars() {
                normalized.push(if c == ' ' && self.escape_spaces {
                    SPACE
                } else {
                    c
                });
                origin.resize(normalized.len(), at);
            }
            if !replacement.is_empty() {
                after_space = self.strip_spaces && replacement.ends_with(' ');
            }
            at += length;
        }
        if self.strip_spaces {
            let space = if self.escape_spaces { SPACE } else { ' ' };
            normalized.truncate(normalized.trim_end_matches(space).len());
            origin.truncate(normalized.len());
        }
        (normalized, origin)
    }

    /// What the start of `text` (not empty) becomes, and how many bytes of `text` that covers.
    fn replace_prefix<'a>(&'a self, text: &'a str, user_defined: &[String]) -> (&'a str, usize) {
        if let Some(piece) = prefix_among(user_defined, text) {
            return (piece, piece.len());
        }
        let unchanged = || {
            let length = text.chars().next().map_or(0, char::len_utf8);
            (&text[..length], length)
        };
        self.longest_rule(text.as_bytes())
            .filter(|(_, length)| text.is_char_boundary(*length))
            .and_then(|(offset, length)| {
                let tail = self.replacements.get(offset..)?;
                let end = tail.iter().position(|&byte| byte == 0)?;
                Some((std::str::from_utf8(&tail[..end]).ok()?, length))
            })
            .unwrap_or_else(unchanged)
    }

    /// Value and length of the longest key of the trie that `text` starts with.
    fn longest_rule(&self, text: &[u8]) -> Option<(usize, usize)> {
        // A unit packs: bits 0-7 label, 8 "a value follows", 9 "offset is shifted by 8", 10-30 offset.
        let offset = |unit: u32| ((unit >> 10) << ((unit & (1 << 9)) >> 6)) as usize;
        let mut longest = None;
        let mut node = offset(*self.trie.first()?);
        for (at, &byte) in text.iter().enumerate() {
            node ^= byte as usize;
            let Some(&unit) = self.trie.get(node) else {
                break;
            };
            if unit & ((1 << 31) | 0xff) != byte as u32 {
                break;
            }
            node ^= offset(unit);
            if unit >> 8 & 1 == 1 {
                let value = self.trie.get(node)? & !(1 << 31);
                longest = Some((value as usize, at + 1));
            }
        }
        longest
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn spaces_are_stripped_and_collapsed_when_asked() {
        let strip = Normalizer::new(&[], true, true).unwrap();
        assert_eq!(strip.apply("  a   b  ", false, &[]).0, "a▁b");
        assert_eq!(strip.apply(" a b", true, &[]).0, "▁a▁b");
        assert_eq!(
            Normalizer::default().apply(" a  b ", false, &[]).0,
            "▁a▁▁b▁"
        );
    }

    #[test]
    fn every_byte_knows_where_it_comes_from() {
        let (text, origin) = Normalizer::default().apply("é b", false, &[]);
        assert_eq!(text, "é▁b");
        assert_eq!(origin, [0, 0, 2, 2, 2, 3]);
    }

    #[test]
    fn a_cut_off_table_is_an_error() {
        assert!(Normalizer::new(&[200, 0, 0, 0, 1], true, true).is_err());
        assert!(Normalizer::new(&[1, 0], true, true).is_err());
    }
}
