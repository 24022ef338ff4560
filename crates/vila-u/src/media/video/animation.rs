//! An animated GIF, WebP or PNG.

use std::path::{Path, PathBuf};

use image::{ImageFormat, RgbaImage};

use super::{
    FrameRead, Video, animated_gif::AnimatedGif, animated_png::AnimatedPng,
    animated_webp::AnimatedWebp,
};
use crate::{
    Error, Result,
    media::{
        Picture,
        memory_limit::check_memory,
        read::{check_size, pixels, read_file},
    },
};

/// Longer animations are refused: counting the frames decodes each.
const MOST_FRAMES: u64 = 10_000;
/// Those of all frames together: a frame has all its pixels, however few of them the file describes.
const MOST_PIXELS: u64 = 1 << 32;
/// Pictures that decoding a frame takes: the canvas, what comes back, the frame alone and whole.
const DECODING: u64 = 4;

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

    /// The frames, for so many of which there must be memory.
    fn frames(&self, kept: usize) -> Result<Box<dyn Iterator<Item = Result<RgbaImage>> + '_>> {
        let check = |(width, height)| {
            check_size(width, height)?;
            let pictures = DECODING + kept as u64;
            let need = pixels(width, height).saturating_mul(4 * pictures);
            let what = format!("frames of {width} x {height} pixels");
            check_memory(&what, need, self.bytes.len() as u64)
        };
        let no_animation = |kind| Error::failed(format!("a {kind} image, not an animation"));
        match self.format {
            ImageFormat::Gif => {
                let gif = AnimatedGif::open(&self.bytes)?;
                check(gif.dimensions())?;
                Ok(Box::new(gif.frames()))
            }
            ImageFormat::Png => {
                let png = AnimatedPng::open(&self.bytes).ok_or_else(|| no_animation("PNG"))?;
                check((png.width, png.height))?;
                Ok(Box::new(png.frames()))
            }
            _ => {
                let webp = AnimatedWebp::open(&self.bytes).ok_or_else(|| no_animation("WebP"))?;
                check((webp.width, webp.height))?;
                Ok(Box::new(webp.frames()))
            }
        }
    }

    /// The frames in their order. An error after the first ends them: the file is cut short there.
    fn decoded(&self, kept: usize) -> Result<impl Iterator<Item = Result<RgbaImage>>> {
        let frames = self.frames(kept).map_err(Error::in_file(&self.path))?;
        let known = |(index, frame): &(usize, Result<RgbaImage>)| *index == 0 || frame.is_ok();
        let frames = frames.enumerate().take_while(known);
        Ok(frames.map(|(_, frame)| frame.map_err(Error::in_file(&self.path))))
    }

    /// How many frames there are; an error if they have more pixels together.
    fn count(&self, most_pixels: u64) -> Result<usize> {
        let mut total = 0;
        for frame in self.decoded(0)? {
            let (width, height) = frame?.dimensions();
            let most = MOST_FRAMES.min(most_pixels / pixels(width, height).max(1));
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
        for (index, frame) in self.decoded(wanted.len())?.enumerate() {
            let frame = frame?;
            if wanted.contains(&index) {
                pictures.push(Picture::Rgba(frame));
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

    use image::{DynamicImage, Frame, codecs::gif::GifEncoder};

    use super::{
        super::{
            FrameSampling, RATE, frames, save,
            tests::{dot, levels, sample},
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

    /// Frames that are put over or in place of what was before, which stays, is cleared or comes back; and what
    /// Pillow 13.0.0 makes of them (`tests/videos/README.md`).
    #[test]
    fn frames_are_put_together_as_pillow_does() {
        let folder = sample("animations");
        let mut seen = 0;
        for entry in fs::read_dir(&folder).unwrap() {
            let expected = entry.unwrap().path();
            let name = expected.file_stem().unwrap().to_str().unwrap();
            if !expected.to_str().unwrap().ends_with(".png") || !name.contains('.') {
                continue;
            }
            let path = folder.join(name);
            let Picture::Rgba(expected) = load(&expected).unwrap() else {
                return assert_eq!(name, "a picture with transparency");
            };
            let frames = frames(&path, 6, FrameSampling::Inference).unwrap();
            // Decoders of lossy frames round otherwise, above all where colours change.
            let most = if name == "lossy.webp" { 12 } else { 0 };
            for (index, frame) in frames.iter().enumerate() {
                let Picture::Rgba(frame) = frame else {
                    return assert_eq!(name, "frames with transparency");
                };
                for (x, y, pixel) in frame.enumerate_pixels() {
                    let expected = expected.get_pixel(x, y + index as u32 * frame.height());
                    let apart = pixel
                        .0
                        .iter()
                        .zip(expected.0)
                        .map(|(a, b)| a.abs_diff(b))
                        .max();
                    // What nobody sees may have any colour.
                    let unseen = pixel[3] == 0 && expected[3] == 0;
                    assert!(
                        unseen || apart <= Some(most),
                        "{name}, frame {index}, {x} {y}: {pixel:?}, not {expected:?}"
                    );
                }
            }
            seen += 1;
        }
        assert_eq!(seen, 15);
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
