//! An animated GIF or WebP.

use std::{
    io::Cursor,
    path::{Path, PathBuf},
};

use image::{
    AnimationDecoder, Frames, ImageDecoder, ImageFormat,
    codecs::{gif::GifDecoder, webp::WebPDecoder},
};

use super::{Found, Video};
use crate::{
    Error, Result,
    media::{
        Picture,
        read::{check_size, explain, limits, read_file},
    },
};

/// Longer animations are refused: counting the frames decodes each.
const MOST_FRAMES: usize = 10_000;

pub struct Animation {
    path: PathBuf,
    bytes: Vec<u8>,
    format: ImageFormat,
}

impl Animation {
    pub fn open(path: &Path, format: ImageFormat) -> Result<Self> {
        Ok(Self {
            path: path.into(),
            bytes: read_file(path)?,
            format,
        })
    }

    fn frames(&self) -> std::result::Result<Frames<'_>, String> {
        let cursor = Cursor::new(self.bytes.as_slice());
        if self.format == ImageFormat::Gif {
            let mut decoder = GifDecoder::new(cursor).map_err(explain)?;
            check_size(decoder.dimensions().0, decoder.dimensions().1)?;
            decoder.set_limits(limits()).map_err(explain)?;
            return Ok(decoder.into_frames());
        }
        let mut decoder = WebPDecoder::new(cursor).map_err(explain)?;
        check_size(decoder.dimensions().0, decoder.dimensions().1)?;
        decoder.set_limits(limits()).map_err(explain)?;
        match decoder.has_animation() {
            true => Ok(decoder.into_frames()),
            false => Err("a WebP image, not an animation".into()),
        }
    }

    fn invalid(&self, reason: String) -> Error {
        Error::invalid(&self.path, reason)
    }
}

impl Video for Animation {
    fn total(&mut self) -> Result<usize> {
        let mut total = 0;
        for frame in self.frames().map_err(|reason| self.invalid(reason))? {
            frame.map_err(|error| self.invalid(explain(error)))?;
            total += 1;
            if total > MOST_FRAMES {
                let reason = format!("more than {MOST_FRAMES} frames: cut the video");
                return Err(self.invalid(reason));
            }
        }
        Ok(total)
    }

    fn read(&mut self, wanted: &[usize]) -> Result<Found> {
        let mut pictures = Vec::with_capacity(wanted.len());
        let frames = self.frames().map_err(|reason| self.invalid(reason))?;
        for (index, frame) in frames.enumerate() {
            let frame = frame.map_err(|error| self.invalid(explain(error)))?;
            if wanted.contains(&index) {
                pictures.push(Picture::Rgba(frame.into_buffer()));
            }
            if pictures.len() == wanted.len() {
                break;
            }
        }
        Ok(Found::All(pictures))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::fs::File;

    use image::{Frame, codecs::gif::GifEncoder};

    use super::super::{
        Rule, frames,
        tests::{dot, levels},
    };
    use crate::media::load;

    #[test]
    fn an_animation_is_a_video() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("video.gif");
        let mut encoder = GifEncoder::new(File::create(&path).unwrap());
        encoder
            .encode_frames([0, 100, 200].map(|level| Frame::new(dot(level))))
            .unwrap();
        drop(encoder);
        let seen = |count, rule| levels(&frames(&path, count, rule).unwrap());
        assert_eq!(seen(3, Rule::Inference), [0, 100, 200]);
        assert_eq!(seen(5, Rule::Inference), [0, 0, 100, 200, 200]);
        assert_eq!(seen(5, Rule::Training), [0, 0, 0, 100, 200]);
        assert_eq!(load(&path).unwrap().dimensions(), (4, 4));
    }
}
