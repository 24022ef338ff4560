//! Videos as frames: a folder of image files, or an animated GIF or WebP.

use std::{
    cmp::Ordering,
    fs,
    io::Cursor,
    path::{Path, PathBuf},
};

use image::{
    AnimationDecoder, ImageDecoder, ImageFormat,
    codecs::{gif::GifDecoder, webp::WebPDecoder},
};

use super::{
    Picture, load,
    read::{check_size, explain, format, limits, read_file},
};
use crate::{Error, Result};

/// Longer animations are refused: counting the frames decodes each.
const MOST_FRAMES: usize = 10_000;

/// Endings of the files that are taken for frames.
const FRAME_FILES: [&str; 8] = ["png", "jpg", "jpeg", "gif", "webp", "bmp", "tif", "tiff"];

/// `count` frames spread evenly over a video, first and last included. A video with fewer frames
/// repeats some.
pub fn frames(path: &Path, count: usize) -> Result<Vec<Picture>> {
    let pictures = if path.is_dir() {
        let files = frame_files(path)?;
        let picture = |index: &usize| load(&files[*index]);
        sample(files.len(), count).iter().map(picture).collect()
    } else {
        animation(path, count)
    }?;
    match pictures.is_empty() && count > 0 {
        true => Err(Error::invalid(path, "no frames in this video")),
        false => Ok(pictures),
    }
}

/// Which `count` of `total` frames are seen: evenly spaced, rounded (halves to even).
pub fn sample(total: usize, count: usize) -> Vec<usize> {
    let Some(last) = total.checked_sub(1) else {
        return Vec::new();
    };
    let step = last as f64 / count.saturating_sub(1).max(1) as f64;
    (0..count)
        .map(|index| ((index as f64 * step).round_ties_even() as usize).min(last))
        .collect()
}

/// The image files of a folder, numbers in their names in numeric order.
fn frame_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).map_err(Error::io(folder))? {
        let path = entry.map_err(Error::io(folder))?.path();
        let ending = path.extension().unwrap_or_default().to_ascii_lowercase();
        if path.is_file() && FRAME_FILES.iter().any(|&known| ending == known) {
            files.push(path);
        }
    }
    files.sort_by(|a, b| {
        let name = |path: &Path| {
            path.file_name()
                .unwrap_or_default()
                .to_string_lossy()
                .into_owned()
        };
        natural_order(&name(a), &name(b))
    });
    Ok(files)
}

/// "frame2" before "frame10".
fn natural_order(a: &str, b: &str) -> Ordering {
    let digits =
        |text: &str| text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (mut left, mut right) = (a, b);
    while let (Some(x), Some(y)) = (left.chars().next(), right.chars().next()) {
        let (m, n) = (digits(left), digits(right));
        let (order, m, n) = if m > 0 && n > 0 {
            let (p, q) = (
                left[..m].trim_start_matches('0'),
                right[..n].trim_start_matches('0'),
            );
            (p.len().cmp(&q.len()).then_with(|| p.cmp(q)), m, n)
        } else {
            (x.cmp(&y), x.len_utf8(), y.len_utf8())
        };
        if order != Ordering::Equal {
            return order;
        }
        (left, right) = (&left[m..], &right[n..]);
    }
    left.len().cmp(&right.len()).then_with(|| a.cmp(b))
}

/// Decodes the file twice, once to count, so that only the frames asked for are kept.
fn animation(path: &Path, count: usize) -> Result<Vec<Picture>> {
    let bytes = read_file(path)?;
    let invalid = |reason: String| Error::invalid(path, reason);
    let unsupported = || {
        invalid(
            "not a video that can be read: give a folder of frames \
             (`ffmpeg -i video.mp4 frames/%05d.png` makes one), an animated GIF or an animated WebP"
                .into(),
        )
    };
    let format = format(&bytes).map_err(|_| unsupported())?;
    if !matches!(format, ImageFormat::Gif | ImageFormat::WebP) {
        return Err(unsupported());
    }
    let open = || open_animation(&bytes, format).map_err(invalid);

    let mut total = 0;
    for frame in open()? {
        frame.map_err(|error| invalid(explain(error)))?;
        total += 1;
        if total > MOST_FRAMES {
            return Err(invalid(format!(
                "more than {MOST_FRAMES} frames: cut the video"
            )));
        }
    }
    let wanted = sample(total, count);
    let mut pictures = Vec::with_capacity(wanted.len());
    for (index, frame) in open()?.enumerate() {
        let frame = frame.map_err(|error| invalid(explain(error)))?;
        let times = wanted.iter().filter(|&&wanted| wanted == index).count();
        let picture = Picture::Rgba(frame.into_buffer());
        pictures.extend(std::iter::repeat_n(picture, times));
    }
    Ok(pictures)
}

fn open_animation(
    bytes: &[u8],
    format: ImageFormat,
) -> std::result::Result<image::Frames<'_>, String> {
    let cursor = Cursor::new(bytes);
    if format == ImageFormat::Gif {
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use image::{Frame, Rgba, RgbaImage, codecs::gif::GifEncoder};

    use super::*;

    #[test]
    fn frames_are_spread_evenly_and_repeated_when_few() {
        assert_eq!(sample(8, 8), [0, 1, 2, 3, 4, 5, 6, 7]);
        assert_eq!(sample(100, 8), [0, 14, 28, 42, 57, 71, 85, 99]);
        assert_eq!(sample(2, 4), [0, 0, 1, 1]);
        assert_eq!(sample(5, 1), [0]);
        assert_eq!(sample(0, 8), [0; 0]);
    }

    fn dot(level: u8) -> RgbaImage {
        RgbaImage::from_pixel(4, 4, Rgba([level, level, level, 255]))
    }

    fn levels(frames: &[Picture]) -> Vec<u8> {
        frames
            .iter()
            .map(|frame| frame.rgb().get_pixel(0, 0)[0])
            .collect()
    }

    #[test]
    fn a_folder_is_a_video() {
        let folder = tempfile::tempdir().unwrap();
        assert!(frames(folder.path(), 2).is_err());
        for level in [0, 2, 10] {
            let path = folder.path().join(format!("frame{level}.png"));
            dot(level).save(path).unwrap();
        }
        fs::write(folder.path().join("notes.txt"), "not a frame").unwrap();
        assert_eq!(levels(&frames(folder.path(), 3).unwrap()), [0, 2, 10]);
        assert_eq!(levels(&frames(folder.path(), 2).unwrap()), [0, 10]);
    }

    #[test]
    fn an_animation_is_a_video() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("video.gif");
        let mut encoder = GifEncoder::new(fs::File::create(&path).unwrap());
        encoder
            .encode_frames([0, 100, 200].map(|level| Frame::new(dot(level))))
            .unwrap();
        drop(encoder);
        assert_eq!(levels(&frames(&path, 3).unwrap()), [0, 100, 200]);
        assert_eq!(levels(&frames(&path, 5).unwrap()), [0, 0, 100, 200, 200]);
        assert_eq!(load(&path).unwrap().dimensions(), (4, 4));
    }

    #[test]
    fn other_files_say_what_to_do() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let error = frames(file.path(), 8).unwrap_err();
        assert!(error.to_string().contains("ffmpeg"));
    }

    #[test]
    fn numbers_in_names_count() {
        let mut names = ["f10.png", "f2.png", "f02.png", "F1.png", "f1a.png", "f.png"];
        names.sort_by(|a, b| natural_order(a, b));
        assert_eq!(
            names,
            ["F1.png", "f.png", "f1a.png", "f02.png", "f2.png", "f10.png"]
        );
    }
}
