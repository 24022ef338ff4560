//! Frames -> video files: MP4 with H.264, animated GIF, animated WebP without loss, or a folder of PNGs.

use std::{collections::HashSet, fs, io::Cursor, num::NonZeroU32, path::Path};

use image::{
    DynamicImage, Frame, ImageFormat, RgbImage,
    codecs::gif::{GifEncoder, Repeat},
};
use shiguredo_mp4::{
    TrackKind,
    bitstream::h264::{
        H264NalUnitType, H264SampleEntryConfig, LengthSize, build_avc1_box_from_annexb,
        parse_annexb_nal_units,
    },
    boxes::SampleEntry,
    mux::{Mp4FileMuxer, Sample},
};

use super::{
    folder::Folder,
    h264::{self, Coded},
};
use crate::{Error, Result, atomic, media::save_png};

/// Frames a second of what a model generates, where nobody asks for another rate: the 8 frames of a video
/// stand for a scene of some seconds.
pub const RATE: NonZeroU32 = NonZeroU32::MIN.saturating_add(3);

/// What a name says a video is to be written as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum VideoFormat {
    Mp4,
    Gif,
    WebP,
    /// 0000.png, 0001.png, ... in a folder.
    Frames,
}

impl VideoFormat {
    /// By the ending of the name; without one, a folder. A usage error for any other ending.
    pub fn of(path: &Path) -> Result<Self> {
        let Some(ending) = path.extension().filter(|_| !path.is_dir()) else {
            return Ok(Self::Frames);
        };
        match ending.to_string_lossy().to_ascii_lowercase().as_str() {
            "mp4" => Ok(Self::Mp4),
            "gif" => Ok(Self::Gif),
            "webp" => Ok(Self::WebP),
            _ => Err(Error::usage(format!(
                "{}: videos are written as .mp4, .gif, .webp or into a folder of frames, whose name has no ending",
                path.display()
            ))),
        }
    }
}

/// What a video of that many frames is written as.
///
/// A usage error for a name that [`VideoFormat::of`] refuses, and for a folder with pictures that the frames do
/// not replace: they would be frames of the video as well.
pub fn check(path: &Path, frames: usize) -> Result<VideoFormat> {
    let output = VideoFormat::of(path)?;
    if output == VideoFormat::Frames && path.is_dir() {
        let written: HashSet<_> = (0..frames)
            .map(|index| path.join(frame_name(index)))
            .collect();
        let pictures = Folder::open(path)?.files;
        if let Some(other) = pictures.iter().find(|picture| !written.contains(*picture)) {
            return Err(Error::usage(format!(
                "{} would be a frame of the video: choose a new folder for it",
                other.display()
            )));
        }
    }
    Ok(output)
}

/// Writes a video of frames of one size, `rate` of them a second; on any failure files are as they
/// were. The last row and column of an MP4 of odd size are written twice, as its chroma needs.
///
/// Errors for what [`check`] refuses, for no frames, and when the file cannot be written.
///
/// ```no_run
/// use vila_u::{image::RgbImage, media::video};
///
/// let frames = vec![RgbImage::new(64, 64); 8];
/// video::save("black.gif".as_ref(), &frames, video::RATE)?;
/// # Ok::<(), vila_u::Error>(())
/// ```
pub fn save(path: &Path, frames: &[RgbImage], rate: NonZeroU32) -> Result<()> {
    let output = check(path, frames.len())?;
    if output == VideoFormat::Frames {
        check_frames(frames)?;
        return save_frames(path, frames);
    }
    let bytes = encode(frames, rate, output).map_err(Error::in_file(path))?;
    atomic::write(path, &bytes)
}

/// The content of the file that [`save`] writes. Errors also for a folder of frames, which is no file.
pub fn encode(frames: &[RgbImage], rate: NonZeroU32, format: VideoFormat) -> Result<Vec<u8>> {
    check_frames(frames)?;
    match format {
        VideoFormat::Mp4 => mp4(frames, rate),
        VideoFormat::Gif => gif(frames, rate),
        VideoFormat::WebP => webp(frames, rate),
        VideoFormat::Frames => Err(Error::usage("a folder of frames is no file")),
    }
}

fn check_frames(frames: &[RgbImage]) -> Result<()> {
    let Some(first) = frames.first() else {
        return Err(Error::usage("a video needs at least one frame"));
    };
    if frames
        .iter()
        .any(|frame| frame.dimensions() != first.dimensions())
    {
        return Err(Error::usage("the frames of a video must be of one size"));
    }
    Ok(())
}

fn save_frames(folder: &Path, frames: &[RgbImage]) -> Result<()> {
    fs::create_dir_all(folder).map_err(Error::io(folder))?;
    for (index, frame) in frames.iter().enumerate() {
        save_png(&folder.join(frame_name(index)), frame)?;
    }
    Ok(())
}

fn frame_name(index: usize) -> String {
    format!("{index:04}.png")
}

fn mp4(frames: &[RgbImage], rate: NonZeroU32) -> Result<Vec<u8>> {
    let coded = h264::encode(frames, rate.get()).map_err(unwritten)?;
    packed(&coded, rate).map_err(unwritten)
}

fn unwritten(reason: impl std::fmt::Display) -> Error {
    Error::failed(format!("cannot be written: {reason}"))
}

/// The coded frames in one file.
fn packed(
    coded: &[Coded],
    rate: NonZeroU32,
) -> std::result::Result<Vec<u8>, Box<dyn std::error::Error>> {
    let length_size = LengthSize::FourBytes;
    let mut muxer = Mp4FileMuxer::new()?;
    let mut file = muxer.initial_boxes_bytes().to_vec();
    for (index, frame) in coded.iter().enumerate() {
        let entry = match index {
            0 => {
                let config = H264SampleEntryConfig { length_size };
                Some(SampleEntry::Avc1(build_avc1_box_from_annexb(
                    &frame.units,
                    &config,
                )?))
            }
            _ => None,
        };
        let data_offset = file.len() as u64;
        for unit in parse_annexb_nal_units(&frame.units)? {
            // The parameters are in the entry.
            if !matches!(
                unit.nal_unit_type,
                H264NalUnitType::Sps | H264NalUnitType::Pps
            ) {
                file.extend((unit.data.len() as u32).to_be_bytes());
                file.extend(unit.data);
            }
        }
        muxer.append_sample(&Sample {
            track_kind: TrackKind::Video,
            sample_entry: entry,
            keyframe: frame.key,
            timescale: rate,
            duration: 1,
            composition_time_offset: None,
            data_offset,
            data_size: file.len() - data_offset as usize,
        })?;
    }
    for (offset, bytes) in muxer.finalize()?.offset_and_bytes_pairs() {
        let (start, end) = (offset as usize, offset as usize + bytes.len());
        file.resize(file.len().max(end), 0);
        file[start..end].copy_from_slice(bytes);
    }
    Ok(file)
}

/// A palette for every frame; GIFs count time in hundredths of a second.
fn gif(frames: &[RgbImage], rate: NonZeroU32) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let mut encoder = GifEncoder::new_with_speed(&mut bytes, 1);
    let delay = image::Delay::from_numer_denom_ms(1000, rate.get());
    let frame = |frame: &RgbImage| {
        let image = DynamicImage::from(frame.clone()).into_rgba8();
        Frame::from_parts(image, 0, 0, delay)
    };
    encoder
        .set_repeat(Repeat::Infinite)
        .and_then(|()| encoder.encode_frames(frames.iter().map(frame)))
        .map_err(unwritten)?;
    drop(encoder);
    Ok(bytes)
}

/// The still WebP images of the frames in the container of an animation (WebP Container
/// Specification, "Animation").
fn webp(frames: &[RgbImage], rate: NonZeroU32) -> Result<Vec<u8>> {
    let [width, height] = match frames.first() {
        Some(frame) => [frame.width(), frame.height()],
        None => return Err(unwritten("no frames")),
    };
    if width.max(height) > 1 << 14 {
        return Err(unwritten(format!(
            "{width} x {height} pixels are too many for WebP"
        )));
    }
    let u24 = |value: u32| [value as u8, (value >> 8) as u8, (value >> 16) as u8];
    let mut content = b"WEBP".to_vec();
    let animated = [2, 0, 0, 0]; // bit 1 of the flags
    let canvas = [u24(width - 1), u24(height - 1)].concat();
    chunk(&mut content, b"VP8X", &[&animated[..], &canvas].concat());
    // Background, and how often it is played: without end.
    chunk(&mut content, b"ANIM", &[0; 6]);
    let moment = |index: usize| (index as u64 * 1000 / u64::from(rate.get())) as u32;
    for (index, frame) in frames.iter().enumerate() {
        let mut still = Cursor::new(Vec::new());
        frame
            .write_to(&mut still, ImageFormat::WebP)
            .map_err(unwritten)?;
        let still = still.into_inner();
        let image = still.get(12..).ok_or_else(|| unwritten("no image"))?; // after "RIFF", a length and "WEBP"
        let place = [u24(0), u24(0)].concat();
        let size = [u24(width - 1), u24(height - 1)].concat();
        let duration = u24(moment(index + 1) - moment(index));
        let replaces = 2; // the frame before, rather than being blended with it
        let frame = [&place, &size, &duration[..], &[replaces], image].concat();
        chunk(&mut content, b"ANMF", &frame);
    }
    let mut file = Vec::new();
    chunk(&mut file, b"RIFF", &content);
    Ok(file)
}

/// Adds a chunk of RIFF: name, length, content, and a byte where that is odd.
fn chunk(file: &mut Vec<u8>, name: &[u8; 4], content: &[u8]) {
    file.extend(name);
    file.extend((content.len() as u32).to_le_bytes());
    file.extend(content);
    file.extend(std::iter::repeat_n(0, content.len() % 2));
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use image::Rgb;

    use super::{
        super::{FrameSampling, frames},
        *,
    };

    /// A red square on blue that moves to the right.
    fn scene(width: u32, height: u32) -> Vec<RgbImage> {
        let frame = |index: u32| {
            RgbImage::from_fn(width, height, |x, y| {
                if (4 * index..4 * index + 12).contains(&x) && (8..20).contains(&y) {
                    Rgb([220, 30, 40])
                } else {
                    Rgb([30, 60, 200])
                }
            })
        };
        (0..8).map(frame).collect()
    }

    fn written(name: &str, frames_in: &[RgbImage]) -> Vec<RgbImage> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        save(&path, frames_in, RATE).unwrap();
        let names = fs::read_dir(folder.path()).unwrap().count();
        assert_eq!(names, 1, "something else was written");
        let frames = frames(&path, frames_in.len(), FrameSampling::Inference).unwrap();
        frames.iter().map(|frame| frame.rgb()).collect()
    }

    /// Mean difference of values.
    fn apart(a: &RgbImage, b: &RgbImage) -> f64 {
        let differences = a
            .iter()
            .zip(b.iter())
            .map(|(a, b)| f64::from(a.abs_diff(*b)));
        differences.sum::<f64>() / a.len() as f64
    }

    #[test]
    fn what_is_written_is_seen_again() {
        let scene = scene(64, 48);
        for name in ["a.webp", "folder"] {
            assert_eq!(written(name, &scene), scene, "{name}");
        }
        for (name, most) in [("a.mp4", 1.5), ("a.gif", 1.0)] {
            let seen = written(name, &scene);
            assert_eq!(seen.len(), 8);
            for (seen, frame) in seen.iter().zip(&scene) {
                let apart = apart(seen, frame);
                assert!(apart < most, "{name}: {apart}");
            }
            // Each frame is nearer to its own than to the one before it.
            assert!(apart(&seen[5], &scene[5]) < apart(&seen[5], &scene[4]));
        }
    }

    #[test]
    fn the_last_row_and_column_of_odd_sizes_are_repeated() {
        let scene = scene(33, 21);
        let seen = written("odd.mp4", &scene);
        assert_eq!(seen[0].dimensions(), (34, 22));
        let inner = image::imageops::crop_imm(&seen[3], 0, 0, 33, 21).to_image();
        assert!(apart(&inner, &scene[3]) < 4.0);
        assert_eq!(written("odd.webp", &scene), scene);
    }

    #[test]
    fn a_folder_of_other_pictures_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let scene = scene(16, 16);
        fs::write(folder.path().join("notes.txt"), "no picture").unwrap();
        save(folder.path(), &scene, RATE).unwrap();
        save(folder.path(), &scene, RATE).unwrap();
        // The last frame of the longer video would stay.
        let error = save(folder.path(), &scene[..7], RATE).unwrap_err();
        assert!(matches!(error, Error::Usage(_)));
        let error = error.to_string();
        assert!(
            error.contains("0007.png") && error.contains("new folder"),
            "{error}"
        );
        fs::write(folder.path().join("Holiday.JPG"), "a picture").unwrap();
        assert!(check(folder.path(), 8).is_err());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 10);
    }

    #[test]
    fn the_name_says_what_is_written() {
        let of = |name: &str| VideoFormat::of(Path::new(name));
        assert_eq!(of("a/b.MP4").unwrap(), VideoFormat::Mp4);
        assert_eq!(of("b.gif").unwrap(), VideoFormat::Gif);
        assert_eq!(of("b.webp").unwrap(), VideoFormat::WebP);
        assert_eq!(of("a/b").unwrap(), VideoFormat::Frames);
        for name in ["a.avi", "a.png", "a."] {
            let error = of(name).unwrap_err();
            assert!(matches!(error, Error::Usage(_)), "{name}");
            assert!(error.to_string().contains(".mp4"), "{error}");
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("none/a.mp4");
        assert!(save(&path, &scene(16, 16), RATE).is_err());
        assert!(save(&path, &[], RATE).is_err());
        let two = [RgbImage::new(2, 2), RgbImage::new(4, 4)];
        assert!(save(Path::new("a.gif"), &two, RATE).is_err());
    }
}
