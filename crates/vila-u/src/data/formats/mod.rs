//! The formats that training data comes in. Each file of this module reads one: it opens a shard and
//! yields its records one by one, with no more than a record in memory.
//!
//! Shards are untrusted: sizes are checked before memory is taken, nothing is written, and paths stay
//! inside their folder. What is wrong with one record costs that record; what is wrong with a shard,
//! the rest of the shard.

pub(crate) mod archive;
mod footer;
pub(crate) mod json;
pub(super) mod llava;
pub(super) mod mmc4;
pub(super) mod nano;
pub(super) mod openvid;
pub(super) mod parquet;
mod pickle;
pub(crate) mod pictures;
pub(super) mod vflan;
pub(super) mod webdataset;
mod zipped;

#[cfg(test)]
pub(crate) mod tests {
    pub use super::{
        archive::tests::tar, parquet::tests::labelled, pickle::tests::dumped, zipped::tests::zip,
    };
}

use serde::{Deserialize, Serialize};

pub use llava::read_jsonl;
pub use nano::Rendering;

use super::{record::Record, sample_kind::SampleKind};

/// A record that cannot be used, by whatever names it in its shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Bad {
    pub key: String,
    pub reason: String,
}

/// The records of a shard, in its order. Ends early after one that makes the rest unreadable.
pub(crate) type Records = Box<dyn Iterator<Item = std::result::Result<Record, Bad>> + Send>;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum DatasetFormat {
    /// Tar shards of pictures and captions.
    WebDataset,
    /// Conversations about files, JSON or JSON lines.
    Llava,
    /// Web pages with pictures: JSON lines, zipped or not, or tar shards.
    Mmc4,
    /// A CSV of captions beside videos.
    OpenVid,
    /// Questions and answers about pictures in base64, pickled, JSON or JSON lines.
    Vflan,
    /// Tables with the bytes of pictures.
    Parquet,
    /// The nano world: endless, and no files.
    Nano,
}

impl DatasetFormat {
    /// The kinds of sample among which a recipe chooses for records of this format; none of conversations and
    /// pages, which are of one kind each.
    pub fn kinds(self) -> &'static [SampleKind] {
        match self {
            Self::WebDataset | Self::Parquet => &[SampleKind::Caption, SampleKind::Generation],
            Self::OpenVid => &[SampleKind::VideoGeneration, SampleKind::VideoQuestion],
            Self::Nano => &SampleKind::ALL,
            Self::Llava | Self::Mmc4 | Self::Vflan => &[],
        }
    }

    /// Whether each of its records is of a kind that the recipe has to choose. Tables can have conversations.
    pub fn needs_kind(self) -> bool {
        !self.kinds().is_empty() && self != Self::Parquet
    }
}

/// Before UTF-8 text that some programs write.
const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();
const UTF16: &str = "UTF-16, not UTF-8: convert it (`iconv -f UTF-16 -t UTF-8`)";

/// A text file's content, or why it is none.
fn utf8(bytes: Vec<u8>) -> std::result::Result<String, String> {
    if bytes.starts_with(&[0xfe, 0xff]) || bytes.starts_with(&[0xff, 0xfe]) {
        return Err(UTF16.into());
    }
    let text = String::from_utf8(bytes);
    let text =
        text.map_err(|_| "not UTF-8: convert it (`iconv -f LATIN1 -t UTF-8`, if it is that)")?;
    Ok(text
        .strip_prefix('\u{feff}')
        .map(str::to_string)
        .unwrap_or(text))
}

/// What base64 text holds, or why it is none. Line breaks in it do not count.
fn base64(text: &str) -> std::result::Result<Vec<u8>, String> {
    use base64::{Engine, engine::general_purpose::STANDARD};
    if text.len() as u64 / 4 * 3 > super::record::LARGEST_IMAGE {
        let most = super::record::LARGEST_IMAGE >> 20;
        return Err(format!("a picture larger than {most} MiB"));
    }
    let text: String = text.split_ascii_whitespace().collect();
    let bytes = STANDARD.decode(text);
    bytes.map_err(|error| format!("a picture is not base64: {error}"))
}
