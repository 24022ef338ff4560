//! The formats that training data comes in. Each file of this module reads one: it opens a shard and
//! yields its records one by one, with no more than a record in memory.
//!
//! Shards are untrusted: sizes are checked before memory is taken, nothing is written, and paths stay
//! inside their folder. What is wrong with one record costs that record; what is wrong with a shard,
//! the rest of the shard.

mod archive;
mod footer;
mod json;
mod llava;
mod mmc4;
mod openvid;
mod parquet;
mod pickle;
mod vflan;
mod webdataset;
mod zipped;

use std::path::Path;

use serde::{Deserialize, Serialize};

pub use llava::read_jsonl;

use super::record::{Pictures, Record, Text};
use crate::{Result, text::conversation::Turn};

/// A record that cannot be used, by whatever names it in its shard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bad {
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
}

/// What a picture and its caption become.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Form {
    /// [picture, caption], loss on the caption.
    Caption,
    /// [caption, picture], loss on the picture.
    Generation,
}

impl DatasetFormat {
    /// Opens a shard. `folder`: where the files that its records name lie.
    ///
    /// Errors when the shard cannot be opened or is of another format altogether.
    pub fn open(self, shard: &Path, folder: &Path, form: Form) -> Result<Records> {
        match self {
            Self::WebDataset => webdataset::open(shard, form),
            Self::Llava => llava::open(shard, folder),
            Self::Mmc4 => mmc4::open(shard, folder),
            Self::OpenVid => openvid::open(shard, folder, form),
            Self::Vflan => vflan::open(shard, folder),
            Self::Parquet => parquet::open(shard, folder, form),
        }
    }

    /// Whether all its records are captions, so that their form has to be chosen.
    pub fn captions(self) -> bool {
        matches!(self, Self::WebDataset | Self::OpenVid)
    }
}

/// What a caption answers.
pub(crate) const DESCRIBE: &str = "Describe this picture.";
pub(crate) const DESCRIBE_VIDEO: &str = "Describe this video.";

impl Form {
    /// One picture or video and its caption as a record.
    fn record(self, id: String, caption: &str, pictures: Pictures) -> Record {
        let (describe, placeholder) = match pictures {
            Pictures::Video(_) => (DESCRIBE_VIDEO, "<video>"),
            _ => (DESCRIBE, "<image>"),
        };
        let turns = match self {
            Self::Caption => vec![Turn::human(describe), Turn::assistant(caption)],
            Self::Generation => vec![Turn::human(caption), Turn::assistant(placeholder)],
        };
        Record {
            id,
            text: Text::Turns(turns),
            pictures,
        }
    }
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
