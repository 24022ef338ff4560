//! Videos as frames: a folder of image files, an animated GIF, WebP or PNG, an MP4 with H.264, or
//! whatever an installed `ffmpeg` decodes; and frames as videos.
//!
//! Frames are chosen by their number in the order they are shown in, whatever the time between them.

mod animated_gif;
mod animated_png;
mod animated_webp;
mod animation;
mod canvas;
mod container;
mod ffmpeg;
mod folder;
mod h264;
mod h264_colours;
mod mp4;
mod write;

use std::{
    fs::File,
    io::{Read, Write},
    path::Path,
};

use image::{ImageFormat, RgbImage};
use tempfile::NamedTempFile;

use super::Picture;
use crate::{Error, Result, file_kind};
pub use write::{RATE, VideoFormat, check, encode, save};

const UNREADABLE: &str = "no frame of this video can be read: it is empty, damaged or cut short";

/// Bytes at the beginning of a file in which its kind is looked for.
const HEAD: u64 = 64 << 10;

/// Which frames of a video are seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FrameSampling {
    /// `round(linspace(0, n - 1, count))`: evenly from the first frame to the last. A video of fewer
    /// frames repeats some.
    Inference,
    /// `floor(linspace(0, n - 2, count))`. A video of `count` frames gives them all, and one of fewer
    /// gives black ones first.
    Training,
}

impl FrameSampling {
    /// Which `count` of `total` frames are seen, `None` for a black one.
    pub(crate) fn choose(self, total: usize, count: usize) -> Vec<Option<usize>> {
        let evenly = |last: usize, round: fn(f64) -> f64| {
            let step = last as f64 / count.saturating_sub(1).max(1) as f64;
            let index = move |index: usize| {
                if index > 0 && index + 1 == count {
                    Some(last)
                } else {
                    Some(round(index as f64 * step) as usize)
                }
            };
            (0..count).map(index).collect()
        };
        match self {
            _ if total == 0 => Vec::new(),
            Self::Inference => evenly(total - 1, f64::round_ties_even),
            Self::Training if total > count => evenly(total.saturating_sub(2), f64::floor),
            Self::Training => {
                let black = std::iter::repeat_n(None, count - total);
                black.chain((0..total).map(Some)).collect()
            }
        }
    }
}

/// A video whose frames can be read by their numbers.
trait Video {
    /// How many frames there are to be seen.
    fn total(&mut self) -> Result<usize>;

    /// The frames of these numbers, which ascend.
    fn read(&mut self, wanted: &[usize]) -> Result<FrameRead>;

    /// What it is where no frame can be decoded here, if `ffmpeg` may know better.
    fn unknown(&self) -> Option<&'static str> {
        None
    }
}

/// What reading frames gives.
enum FrameRead {
    All(Vec<Picture>),
    /// The video ends earlier, after so many frames: it is cut short or damaged.
    CutAfter(usize),
}

/// `count` frames of a video.
///
/// Of a video that is cut short, what can be decoded counts as the whole. Frames are upright and
/// have the size of the video.
///
/// Errors when the file cannot be read, is no video, has no frame that can be decoded, or needs an
/// `ffmpeg` that is not there.
///
/// ```no_run
/// use vila_u::media::video::{FrameSampling, frames};
///
/// let frames = frames("clip.mp4".as_ref(), 8, FrameSampling::Inference)?;
/// # Ok::<(), vila_u::Error>(())
/// ```
pub fn frames(path: &Path, count: usize, sampling: FrameSampling) -> Result<Vec<Picture>> {
    let foreign = match open(path)? {
        Opened::Here(mut video) => {
            if let Some(frames) = chosen(&mut *video, count, sampling)? {
                return Ok(frames);
            }
            video.unknown().map(String::from)
        }
        Opened::Foreign(kind) => Some(kind),
    };
    if let Some(kind) = foreign {
        let mut video = ffmpeg::Ffmpeg::open(path, &kind)?;
        if let Some(frames) = chosen(&mut video, count, sampling)? {
            return Ok(frames);
        }
    }
    Err(Error::invalid(path, UNREADABLE))
}

/// As [`frames`], from the content of a file: an MP4 with H.264, or an animated GIF, WebP or PNG. Nothing is given to
/// `ffmpeg`, so that it is safe to ask this of files of strangers.
///
/// ```
/// use vila_u::media::video::{FrameSampling, decode};
///
/// assert!(decode(b"not a video", 8, FrameSampling::Inference).is_err());
/// ```
pub fn decode(bytes: &[u8], count: usize, sampling: FrameSampling) -> Result<Vec<Picture>> {
    let file = NamedTempFile::new()
        .and_then(|mut file| file.write_all(bytes).map(|()| file))
        .map_err(|error| Error::failed(format!("keeping a video: {error}")))?;
    let seen = match open(file.path()) {
        Ok(Opened::Here(mut video)) => chosen(&mut *video, count, sampling),
        Ok(Opened::Foreign(kind)) => Err(Error::failed(format!(
            "{kind} is not read here: make it an MP4 with H.264"
        ))),
        Err(error) => Err(error),
    };
    match seen {
        Ok(frames) => frames.ok_or_else(|| Error::failed(UNREADABLE)),
        // The name of the file says nothing to who gave its content.
        Err(Error::Invalid { reason, .. }) => Err(Error::failed(reason)),
        Err(Error::Io { source, .. }) => Err(Error::failed(source.to_string())),
        Err(error) => Err(error),
    }
}

/// The frames that are sampled, if any can be decoded.
fn chosen(
    video: &mut dyn Video,
    count: usize,
    sampling: FrameSampling,
) -> Result<Option<Vec<Picture>>> {
    let mut total = video.total()?;
    while total > 0 {
        let chosen = sampling.choose(total, count);
        let mut wanted: Vec<usize> = chosen.iter().flatten().copied().collect();
        wanted.dedup();
        match video.read(&wanted)? {
            FrameRead::All(pictures) => return Ok(Some(arrange(&chosen, &wanted, &pictures))),
            FrameRead::CutAfter(fewer) => total = fewer.min(total - 1),
        }
    }
    Ok(None)
}

/// The pictures of the numbers `wanted`, as often as they are chosen.
fn arrange(chosen: &[Option<usize>], wanted: &[usize], pictures: &[Picture]) -> Vec<Picture> {
    let black = |picture: &Picture| {
        let (width, height) = picture.dimensions();
        Picture::Rgb(RgbImage::new(width, height))
    };
    let place = |index: &Option<usize>| match index {
        None => pictures.first().map(black),
        Some(index) => {
            let place = wanted.iter().position(|wanted| wanted == index)?;
            pictures.get(place).cloned()
        }
    };
    chosen.iter().filter_map(place).collect()
}

/// A video file whose kind is known.
enum Opened {
    Here(Box<dyn Video>),
    /// What only `ffmpeg` decodes, by its name.
    Foreign(String),
}

/// Opens a video as what its content says it is.
fn open(path: &Path) -> Result<Opened> {
    let here = |video| Ok(Opened::Here(video));
    if path.is_dir() {
        return here(Box::new(folder::Folder::open(path)?));
    }
    let mut head = Vec::new();
    File::open(path)
        .and_then(|file| file.take(HEAD).read_to_end(&mut head))
        .map_err(Error::io(path))?;
    let format = image::guess_format(&head);
    if let Ok(format @ (ImageFormat::Gif | ImageFormat::WebP | ImageFormat::Png)) = format {
        return here(Box::new(animation::Animation::open(path, format)?));
    }
    if mp4::begins(&head) {
        return match mp4::open(path)? {
            mp4::Opened::H264(video) => here(Box::new(video)),
            mp4::Opened::Other(codec) => Ok(Opened::Foreign(codec)),
        };
    }
    match ffmpeg::kind(&head) {
        Some(kind) => Ok(Opened::Foreign(kind)),
        None => Err(Error::invalid(
            path,
            match file_kind::mistaken(&head) {
                Some(what) => format!("not a video: {what}"),
                None => "not a video that can be read: give an MP4, an animated GIF, WebP or PNG, a folder of \
                         frames, or what an installed `ffmpeg` decodes (WebM, MKV, AVI, MPEG)"
                    .into(),
            },
        )),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::path::PathBuf;

    use image::{Rgba, RgbaImage};

    use super::*;

    /// A small video; `tests/videos/README.md` says how it was made.
    pub fn sample(name: &str) -> PathBuf {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/videos");
        folder.join(name)
    }

    pub fn dot(level: u8) -> RgbaImage {
        RgbaImage::from_pixel(4, 4, Rgba([level, level, level, 255]))
    }

    /// The grey in the last corner.
    pub fn levels(frames: &[Picture]) -> Vec<u8> {
        let corner = |frame: &Picture| frame.rgb().as_raw().last().copied();
        frames.iter().filter_map(corner).collect()
    }

    fn numbers(sampling: FrameSampling, total: usize, count: usize) -> Vec<i64> {
        let chosen = sampling.choose(total, count);
        let number = |index: &Option<usize>| index.map_or(-1, |index| index as i64);
        chosen.iter().map(number).collect()
    }

    #[test]
    fn frames_to_answer_about_are_spread_to_the_last() {
        let seen = |total, count| numbers(FrameSampling::Inference, total, count);
        assert_eq!(seen(8, 8), [0, 1, 2, 3, 4, 5, 6, 7]);
        assert_eq!(seen(100, 8), [0, 14, 28, 42, 57, 71, 85, 99]);
        assert_eq!(seen(2, 4), [0, 0, 1, 1]);
        assert_eq!(seen(5, 1), [0]);
        assert_eq!(seen(0, 8), [0; 0]);
        assert_eq!(seen(5, 0), [0; 0]);
    }

    #[test]
    fn frames_to_learn_from_leave_the_last_out_and_may_be_black() {
        let seen = |total, count| numbers(FrameSampling::Training, total, count);
        // What numpy's linspace(0, n - 2, count, dtype=int) gives.
        assert_eq!(seen(100, 8), [0, 14, 28, 42, 56, 70, 84, 98]);
        assert_eq!(seen(9, 8), [0, 1, 2, 3, 4, 5, 6, 7]);
        assert_eq!(seen(12, 8), [0, 1, 2, 4, 5, 7, 8, 10]);
        assert_eq!(seen(5, 2), [0, 3]);
        assert_eq!(seen(8, 8), [0, 1, 2, 3, 4, 5, 6, 7]);
        assert_eq!(seen(3, 5), [-1, -1, 0, 1, 2]);
        assert_eq!(seen(1, 1), [0]);
        assert_eq!(seen(0, 8), [0; 0]);
    }

    #[test]
    fn what_strangers_send_is_read_here_or_not_at_all() {
        let bytes = std::fs::read(sample("baseline.mp4")).unwrap();
        let seen = decode(&bytes, 4, FrameSampling::Inference).unwrap();
        let stored = frames(&sample("baseline.mp4"), 4, FrameSampling::Inference).unwrap();
        assert_eq!(levels(&seen), levels(&stored));
        // A WebM file begins so.
        for bytes in [&b"\x1a\x45\xdf\xa3webm"[..], b"", b"words"] {
            let error = decode(bytes, 4, FrameSampling::Inference).unwrap_err();
            assert!(!error.to_string().contains("tmp"), "{error}");
        }
    }

    #[test]
    fn other_files_say_what_to_do() {
        let file = tempfile::NamedTempFile::new().unwrap();
        for (content, expected) in [
            (&b""[..], "empty"),
            (b"<html>", "web page"),
            (b"words", "ffmpeg"),
        ] {
            std::fs::write(file.path(), content).unwrap();
            let error = frames(file.path(), 8, FrameSampling::Inference).unwrap_err();
            assert!(error.to_string().contains(expected), "{error}");
        }
        let error = frames(Path::new("none.mp4"), 8, FrameSampling::Inference).unwrap_err();
        assert!(matches!(error, Error::Io { .. }));
    }
}
