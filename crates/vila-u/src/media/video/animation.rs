//! An animated GIF or WebP.

use std::{
    io::Cursor,
    path::{Path, PathBuf},
};

use image::{
    AnimationDecoder, Frame, Frames, ImageDecoder, ImageFormat, ImageResult,
    codecs::{gif::GifDecoder, webp::WebPDecoder},
};

use super::{FrameRead, Video};
use crate::{
    Error, Result,
    media::{
        Picture,
        read::{check_size, explain, limits, read_file},
    },
};

/// Longer animations are refused: counting the frames decodes each.
const MOST_FRAMES: u64 = 10_000;
/// Those of all frames together: a frame has all its pixels, however few of them the file describes.
const MOST_PIXELS: u64 = 1 << 32;

pub(super) struct Animation {
    path: PathBuf,
    bytes: Vec<u8>,
    format: ImageFormat,
}

impl Animation {
    pub(super) fn open(path: &Path, format: ImageFormat) -> Result<Self> {
        Ok(Self {
            path: path.into(),
            bytes: read_file(path)?,
            format,
        })
    }

    fn frames(&self) -> Result<Frames<'_>> {
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
        if decoder.has_animation() {
            Ok(decoder.into_frames())
        } else {
            Err(Error::failed("a WebP image, not an animation"))
        }
    }

    /// The frames in their order. An error after the first ends them: the file is cut short there. A WebP that
    /// ends in the description of a frame, its first 32 bytes, is not opened at all.
    fn decoded(&self) -> Result<impl Iterator<Item = Result<Frame>>> {
        let frames = self.frames().map_err(Error::in_file(&self.path))?;
        let known = |(index, frame): &(usize, ImageResult<Frame>)| *index == 0 || frame.is_ok();
        let frames = frames.enumerate().take_while(known);
        Ok(frames
            .map(|(_, frame)| frame.map_err(|error| Error::in_file(&self.path)(explain(error)))))
    }

    /// How many frames there are; an error if they have more pixels together.
    fn count(&self, most_pixels: u64) -> Result<usize> {
        let mut total = 0;
        for frame in self.decoded()? {
            let (width, height) = frame?.buffer().dimensions();
            let pixels = u64::from(width) * u64::from(height);
            let most = MOST_FRAMES.min(most_pixels / pixels.max(1));
            total += 1;
            if total > most {
                return Err(Error::invalid(
                    &self.path,
                    format!(
                        "more than {most} frames of {width} x {height} pixels: cut the video, or make it smaller"
                    ),
                ));
            }
        }
        Ok(total as usize)
    }
}

impl Video for Animation {
    fn total(&mut self) -> Result<usize> {
        self.count(MOST_PIXELS)
    }

    fn read(&mut self, wanted: &[usize]) -> Result<FrameRead> {
        let mut pictures = Vec::with_capacity(wanted.len());
        for (index, frame) in self.decoded()?.enumerate() {
            let frame = frame?;
            if wanted.contains(&index) {
                pictures.push(Picture::Rgba(frame.into_buffer()));
            }
            if pictures.len() == wanted.len() {
                break;
            }
        }
        Ok(FrameRead::All(pictures))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::{
        collections::HashSet,
        fs::{self, File},
    };

    use image::{DynamicImage, codecs::gif::GifEncoder};

    use super::{
        super::{
            FrameSampling, RATE, frames, save,
            tests::{dot, levels},
        },
        *,
    };
    use crate::media::load;

    /// An animation of 12 frames in each format.
    fn animations() -> [(&'static str, Vec<u8>); 2] {
        let folder = tempfile::tempdir().unwrap();
        let levels = (0..12).map(|n| 20 * n);
        let frames: Vec<_> = levels
            .map(|level| DynamicImage::from(dot(level)).into_rgb8())
            .collect();
        ["video.gif", "video.webp"].map(|name| {
            let path = folder.path().join(name);
            save(&path, &frames, RATE).unwrap();
            (name, fs::read(path).unwrap())
        })
    }

    #[test]
    fn of_a_file_that_is_cut_short_the_frames_before_are_seen() {
        let folder = tempfile::tempdir().unwrap();
        for (name, whole) in animations() {
            let path = folder.path().join(name);
            let mut seen = HashSet::new();
            for length in 12..=whole.len() {
                fs::write(&path, &whole[..length]).unwrap();
                if let Ok(frames) = frames(&path, 1 << 8, FrameSampling::Inference) {
                    let mut levels = levels(&frames);
                    levels.dedup();
                    let expected: Vec<u8> = (0..levels.len() as u8).map(|n| 20 * n).collect();
                    assert_eq!(levels, expected, "{name}");
                    seen.insert(levels.len());
                }
            }
            assert_eq!(seen, (1..=12).collect(), "{name}");
        }
    }

    /// A frame of a few pixels takes the room of all.
    #[test]
    fn the_pixels_of_all_frames_are_limited() {
        let [(_, mut bytes), _] = animations();
        bytes[6..10].copy_from_slice(&[100, 0, 50, 0]); // 100 x 50 for frames of 4 x 4
        let animation = Animation {
            path: "large.gif".into(),
            bytes,
            format: ImageFormat::Gif,
        };
        assert_eq!(animation.count(12 * 5000).unwrap(), 12);
        let error = animation.count(12 * 5000 - 1).unwrap_err().to_string();
        assert!(
            error.contains("more than 11 frames of 100 x 50 pixels"),
            "{error}"
        );
    }

    #[test]
    fn an_animation_is_a_video() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("video.gif");
        let mut encoder = GifEncoder::new(File::create(&path).unwrap());
        encoder
            .encode_frames([0, 100, 200].map(|level| Frame::new(dot(level))))
            .unwrap();
        drop(encoder);
        let seen = |count, sampling| levels(&frames(&path, count, sampling).unwrap());
        assert_eq!(seen(3, FrameSampling::Inference), [0, 100, 200]);
        assert_eq!(seen(5, FrameSampling::Inference), [0, 0, 100, 200, 200]);
        assert_eq!(seen(5, FrameSampling::Training), [0, 0, 0, 100, 200]);
        assert_eq!(load(&path).unwrap().dimensions(), (4, 4));
    }
}
