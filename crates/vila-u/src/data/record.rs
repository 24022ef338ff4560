//! One sample of a dataset, whatever format it comes from: what is said, and the pictures it is said
//! about.

use std::path::{Path, PathBuf};

use super::formats::Rendering;
use super::layers::Layers;
use super::sample_kind::SampleKind;
use crate::{
    Error, Result,
    media::{self, Picture},
    safe_path,
    text::{
        as_words,
        conversation::{Role, Turn},
    },
};

/// Larger pictures are no training data: a shard that has one is damaged or malicious.
pub(super) const LARGEST_IMAGE: u64 = 64 << 20;

/// What a caption answers.
pub(super) const DESCRIBE: &str = "Describe this picture.";
pub(super) const DESCRIBE_VIDEO: &str = "Describe this video.";

/// One sample of training or evaluation data. Its pictures are not yet decoded.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// As written in the file; its number in the file (from 1) where there is none.
    pub id: String,
    pub text: Text,
    pub pictures: Pictures,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Text {
    /// What a picture or a video shows.
    Caption(String),
    /// A conversation; `<image>` or `<video>` where a picture stands.
    Turns(Vec<Turn>),
    /// A conversation as when the model is asked: its pictures stand before the first question, without their
    /// start and end tokens.
    Asked(Vec<Turn>),
    /// A web page; `<image>` where each of its pictures stands.
    Page(String),
}

#[derive(Clone, Debug, PartialEq)]
pub enum Pictures {
    /// In the order of the `<image>` placeholders.
    Images(Vec<Image>),
    /// The frames of a video, already chosen.
    Frames(Vec<Image>),
    /// A video file, or a folder of frames.
    Video(PathBuf),
}

/// A picture that is not yet decoded.
#[derive(Clone, Debug, PartialEq)]
pub enum Image {
    File(PathBuf),
    /// The content of the file.
    Bytes(Vec<u8>),
    /// None of a file.
    Rendered(Rendering),
    /// Not to be had, and why.
    Missing(String),
}

impl Image {
    /// Decodes it, or renders it with `size` pixels a side; the error names the file, if it is one.
    pub fn read(&self, size: u32) -> Result<Picture> {
        match self {
            Self::File(path) => media::load(path),
            Self::Bytes(bytes) => media::decode(bytes)
                .map_err(|reason| Error::failed(format!("a picture of the record is {reason}"))),
            Self::Rendered(rendering) => Ok(Picture::Rgb(rendering.render(size))),
            Self::Missing(reason) => Err(Error::failed(reason)),
        }
    }

    /// What is cut out and what is behind it, with `size` pixels a side; none where they cannot be told apart.
    pub fn layers(&self, size: u32) -> Option<Layers> {
        match self {
            Self::Rendered(rendering) => Some(rendering.layers(size)),
            Self::File(_) | Self::Bytes(_) | Self::Missing(_) => None,
        }
    }
}

impl Record {
    /// What stands beside the picture, for learning to match them: the description that is given of
    /// it, or that it is generated from.
    pub fn caption(&self) -> Option<&str> {
        match &self.text {
            Text::Caption(caption) => Some(caption.trim()),
            Text::Turns(turns) | Text::Asked(turns) => {
                let generates =
                    |turn: &Turn| turn.from == Role::Assistant && turn.value.contains("<image>");
                let speaker = if turns.iter().any(generates) {
                    Role::Human
                } else {
                    Role::Assistant
                };
                let said = turns.iter().find(|turn| turn.from == speaker)?;
                Some(said.value.trim())
            }
            // The words from the first picture to the next.
            Text::Page(text) => Some(text.split("<image>").nth(1)?.trim()),
        }
        .filter(|caption| !caption.is_empty())
    }

    /// A picture or a video and its caption as a sample of that kind; what is no caption stays.
    pub fn of_kind(mut self, kind: SampleKind) -> Self {
        if let Text::Caption(caption) = self.text {
            let caption = as_words(&caption);
            let (describe, placeholder) = match self.pictures {
                Pictures::Video(_) => (DESCRIBE_VIDEO, "<video>"),
                _ => (DESCRIBE, "<image>"),
            };
            self.text = Text::Turns(if kind.generates() {
                vec![Turn::human(caption), Turn::assistant(placeholder)]
            } else {
                vec![Turn::human(describe), Turn::assistant(caption)]
            });
        }
        self
    }

    /// Bytes of memory, roughly.
    pub fn size(&self) -> usize {
        let text = match &self.text {
            Text::Turns(turns) | Text::Asked(turns) => {
                turns.iter().map(|turn| turn.value.len()).sum()
            }
            Text::Caption(text) | Text::Page(text) => text.len(),
        };
        let pictures = match &self.pictures {
            Pictures::Images(images) | Pictures::Frames(images) => images.as_slice(),
            Pictures::Video(_) => &[],
        };
        let image = |image: &Image| match image {
            Image::File(_) | Image::Rendered(_) | Image::Missing(_) => 0,
            Image::Bytes(bytes) => bytes.len(),
        };
        text + pictures.iter().map(image).sum::<usize>()
    }
}

/// The path in the folder, or why it would leave it. A path from the root may lie in the folder too.
pub(super) fn inside(folder: &Path, path: &str) -> std::result::Result<PathBuf, String> {
    let below_root = || {
        let here = folder.as_os_str().is_empty();
        let whole = std::path::absolute(if here { Path::new(".") } else { folder }).ok()?;
        let path = Path::new(path).strip_prefix(whole).ok()?;
        path.to_str()
    };
    let relative = if Path::new(path).is_absolute() {
        below_root()
    } else {
        Some(path.trim_start_matches("./"))
    };
    match relative.and_then(safe_path::relative) {
        Some(path) => Ok(folder.join(path)),
        None => Err(format!(
            "path {path:?} leaves the folder {}: give it relative to that folder, without `..`",
            folder.display()
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_caption_is_what_describes_the_picture() {
        let record = |text| Record {
            id: "1".into(),
            text,
            pictures: Pictures::Images(Vec::new()),
        };
        let turns = |human: &str, assistant: &str| {
            record(Text::Turns(vec![
                Turn::human(human),
                Turn::assistant(assistant),
            ]))
        };
        let described = turns("<image>\nWhat is it?", "A dog.");
        assert_eq!(described.caption(), Some("A dog."));
        assert_eq!(turns("A cat. ", "<image>").caption(), Some("A cat."));
        assert_eq!(turns("<image>", " ").caption(), None);
        let page = |text: &str| record(Text::Page(text.into()));
        assert_eq!(page("One.<image>Two. <image>3").caption(), Some("Two."));
        assert_eq!(page("One.").caption(), None);
        assert_eq!(
            record(Text::Caption("A cat. ".into())).caption(),
            Some("A cat.")
        );
    }

    #[test]
    fn words_of_a_caption_place_no_picture() {
        let record = Record {
            id: "1".into(),
            text: Text::Caption("a <image> of a cat</s>".into()),
            pictures: Pictures::Images(Vec::new()),
        };
        for (kind, turn) in [(SampleKind::Caption, 1), (SampleKind::Generation, 0)] {
            let Text::Turns(turns) = record.clone().of_kind(kind).text else {
                continue;
            };
            assert_eq!(turns[turn].value, "a <IMAGE> of a cat</S>");
        }
    }

    #[test]
    fn paths_stay_in_their_folder() {
        let folder = Path::new("/data/images");
        let inside = |path| super::inside(folder, path);
        for path in ["a/b.jpg", "./a/b.jpg", "/data/images/a/b.jpg"] {
            assert_eq!(inside(path), Ok(folder.join("a/b.jpg")));
        }
        for path in [
            "../a.jpg",
            "/data/a.jpg",
            "/data/images/../a.jpg",
            "/data/images",
            "",
        ] {
            assert!(
                inside(path).is_err_and(|reason| reason.contains("leaves the folder")),
                "{path}"
            );
        }
        let here = std::path::absolute("a.jpg").unwrap_or_default();
        let here = here.to_str().unwrap_or_default();
        assert_eq!(super::inside(Path::new(""), here), Ok("a.jpg".into()));
    }

    #[test]
    fn a_caption_is_described_or_generated() {
        let record = |pictures| Record {
            id: "1".into(),
            text: Text::Caption("A cat".into()),
            pictures,
        };
        let turns = |human: &str, assistant: &str| {
            Text::Turns(vec![Turn::human(human), Turn::assistant(assistant)])
        };
        let image = || record(Pictures::Images(Vec::new()));
        let video = || record(Pictures::Video("a.mp4".into()));
        for (record, kind, expected) in [
            (image(), SampleKind::Caption, turns(DESCRIBE, "A cat")),
            (image(), SampleKind::Generation, turns("A cat", "<image>")),
            (
                video(),
                SampleKind::VideoQuestion,
                turns(DESCRIBE_VIDEO, "A cat"),
            ),
            (
                video(),
                SampleKind::VideoGeneration,
                turns("A cat", "<video>"),
            ),
        ] {
            let made = record.of_kind(kind);
            assert_eq!(made.text, expected);
            assert_eq!(made.clone().of_kind(SampleKind::Text), made);
        }
    }
}
