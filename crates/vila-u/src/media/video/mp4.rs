//! MP4 files with H.264: frames are decoded one after the other, and those that are wanted are kept.

use std::{
    fs::File,
    io::{Read, Seek, SeekFrom},
    path::{Path, PathBuf},
};

use image::{DynamicImage, metadata::Orientation};
use shiguredo_mp4::bitstream::h264::{LengthSize, length_prefixed_to_annexb, parse_sps};

use super::{
    FrameRead, Video,
    container::{ByteRange, Index, MOST_FRAMES, VideoTrack},
    h264::Decoder,
    h264_colours::Colours,
};
use crate::{
    Error, Result,
    media::{
        Picture,
        memory_limit::check_memory,
        read::{check_size, pixels},
    },
};

/// Bytes a pixel that the decoder takes: the frames that others are coded by, and the one that is shown.
const DECODING: u64 = 12;
/// A frame with more bytes is none.
const LARGEST_FRAME: u64 = 64 << 20;

/// A video that can be decoded here, or what it is coded with.
pub(super) enum Opened {
    H264(Box<Mp4>),
    Other(String),
}

pub(super) struct Mp4 {
    path: PathBuf,
    file: File,
    /// In the order they are decoded in.
    places: Vec<ByteRange>,
    /// Frames before the first one that is shown: an edit list leaves them out.
    hidden: usize,
    /// SPS and PPS, with start codes.
    parameters: Vec<u8>,
    length_size: LengthSize,
    orientation: Orientation,
    colours: Colours,
    width: u32,
    height: u32,
}

/// Whether a file begins as MP4 files do.
pub(super) fn begins(head: &[u8]) -> bool {
    const FIRST: [&[u8]; 7] = [
        b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide", b"pnot",
    ];
    head.get(4..8).is_some_and(|name| FIRST.contains(&name))
}

/// Reads the index of a file.
pub(super) fn open(path: &Path) -> Result<Opened> {
    let mut file = File::open(path).map_err(Error::io(path))?;
    let length = file.metadata().map_err(Error::io(path))?.len();
    let invalid = |reason| Error::invalid(path, reason);
    let index = Index::read(&mut file, length).map_err(Error::in_file(path))?;
    let track = match index.track().map_err(Error::in_file(path))? {
        VideoTrack::H264(track) => track,
        VideoTrack::Other(codec) => return Ok(Opened::Other(codec)),
    };
    let avcc = &track.avcc;
    let length_size = LengthSize::from_length_size_minus_one(avcc.length_size_minus_one.get());
    let length_size = length_size.map_err(|error| invalid(format!("damaged: {error}")))?;
    let sps = avcc.sps_list.first().ok_or("no parameters");
    let sps = sps.and_then(|sps| parse_sps(sps).map_err(|_| "damaged parameters"));
    let sps = sps.map_err(|reason| invalid(format!("its H.264 track has {reason}")))?;
    check_size(sps.width.into(), sps.height.into()).map_err(Error::in_file(path))?;
    if sps.chroma_format_idc != 1 || sps.bit_depth_luma_minus8 > 0 {
        let codec = "H.264 with more than 8 bits or other than 4:2:0 colours";
        return Ok(Opened::Other(codec.into()));
    }
    let mut parameters = Vec::new();
    for unit in avcc.sps_list.iter().chain(&avcc.pps_list) {
        parameters.extend([0, 0, 0, 1]);
        parameters.extend(unit);
    }
    let places = track.places(&index, &mut file, length);
    let (mut places, hidden) = places.map_err(Error::in_file(path))?;
    places.truncate(whole(&places, length));
    if places.len() > MOST_FRAMES {
        return Err(invalid(format!(
            "more than {MOST_FRAMES} frames: cut the video"
        )));
    }
    Ok(Opened::H264(Box::new(Mp4 {
        path: path.into(),
        file,
        places,
        hidden,
        parameters,
        length_size,
        orientation: orientation(&track.trak.tkhd_box.matrix),
        colours: track.colours,
        width: sps.width.into(),
        height: sps.height.into(),
    })))
}

/// How many of the first frames a file of this length holds: of one that is cut short, what is there.
/// Frames do not overlap, so together they are no larger than the file.
fn whole(places: &[ByteRange], length: u64) -> usize {
    let mut left = length;
    let there = |place: &&ByteRange| {
        let end = place.offset.checked_add(place.size);
        let fits = place.size <= LARGEST_FRAME.min(left) && end.is_some_and(|end| end <= length);
        left = left.saturating_sub(place.size);
        fits
    };
    places.iter().take_while(there).count()
}

impl Video for Box<Mp4> {
    fn total(&mut self) -> Result<usize> {
        Ok(self.places.len().saturating_sub(self.hidden))
    }

    /// Decodes from the first frame to the last one wanted. Frames that cannot be decoded are not there.
    fn read(&mut self, wanted: &[usize]) -> Result<FrameRead> {
        let frames = wanted.len() as u64;
        let need = (3 * frames + DECODING) * pixels(self.width, self.height);
        let what = format!("{frames} frames of {} x {} pixels", self.width, self.height);
        let length = self.file.metadata().map_err(Error::io(&self.path))?.len();
        check_memory(&what, need, length).map_err(Error::in_file(&self.path))?;
        let mut decoder = Decoder::new(self.colours).map_err(Error::in_file(&self.path))?;
        // Parameters are checked when the first frame needs them.
        let _ = decoder.decode(&self.parameters);
        let mut found = Vec::with_capacity(wanted.len());
        let mut shown = 0;
        let mut bytes = Vec::new();
        for place in &self.places {
            bytes.resize(place.size as usize, 0);
            self.file
                .seek(SeekFrom::Start(place.offset))
                .and_then(|_| self.file.read_exact(&mut bytes))
                .map_err(Error::io(&self.path))?;
            let Ok(units) = length_prefixed_to_annexb(&bytes, self.length_size) else {
                continue;
            };
            let Some(frame) = decoder.decode(&units) else {
                continue;
            };
            if wanted.get(found.len()).map(|index| index + self.hidden) == Some(shown) {
                found.push(self.picture(frame.rgb()));
            }
            shown += 1;
            if found.len() == wanted.len() {
                return Ok(FrameRead::All(found));
            }
        }
        for frame in decoder.rest() {
            if wanted.get(found.len()).map(|index| index + self.hidden) == Some(shown) {
                found.push(self.picture(frame.rgb()));
            }
            shown += 1;
        }
        Ok(if found.len() == wanted.len() {
            FrameRead::All(found)
        } else {
            FrameRead::CutAfter(shown.saturating_sub(self.hidden))
        })
    }

    fn unknown(&self) -> Option<&'static str> {
        let some = !self.places.is_empty();
        some.then_some("this kind of H.264 (interlaced, if it is not damaged)")
    }
}

impl Mp4 {
    fn picture(&self, frame: image::RgbImage) -> Picture {
        let mut image = DynamicImage::from(frame);
        image.apply_orientation(self.orientation);
        Picture::Rgb(image.into_rgb8())
    }
}

/// The turn and flip that a track's matrix `[a b u; c d v; x y w]` is.
fn orientation(matrix: &[i32; 9]) -> Orientation {
    match [matrix[0], matrix[1], matrix[3], matrix[4]].map(i32::signum) {
        [0, 1, -1, 0] => Orientation::Rotate90,
        [-1, 0, 0, -1] => Orientation::Rotate180,
        [0, -1, 1, 0] => Orientation::Rotate270,
        [-1, 0, 0, 1] => Orientation::FlipHorizontal,
        [1, 0, 0, -1] => Orientation::FlipVertical,
        [0, 1, 1, 0] => Orientation::Rotate90FlipH,
        [0, -1, -1, 0] => Orientation::Rotate270FlipH,
        _ => Orientation::NoTransforms,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::fs;

    use image::Rgb;

    use super::super::{
        FrameSampling, frames,
        tests::{levels, sample},
    };
    use super::*;

    /// Frame `n` of the samples is grey with luma 40 + 14 n, and white in its top left quarter.
    fn grey(n: u32) -> u8 {
        ((40.0 + 14.0 * f64::from(n) - 16.0) * 255.0 / 219.0).round() as u8
    }

    #[track_caller]
    fn assert_frames(path: &Path, expected: &[u32]) {
        let seen = levels(&frames(path, expected.len(), FrameSampling::Inference).unwrap());
        assert_eq!(seen.len(), expected.len());
        for (seen, n) in seen.iter().zip(expected) {
            assert!(
                seen.abs_diff(grey(*n)) <= 2,
                "{seen} is not frame {n}: {path:?}"
            );
        }
    }

    #[test]
    fn frames_come_in_the_order_they_are_shown_in() {
        let all: Vec<u32> = (0..12).collect();
        for name in [
            "baseline.mp4",
            "bframes.mp4",
            "fragmented.mp4",
            "fragments_old.mp4",
        ] {
            assert_frames(&sample(name), &all);
        }
        // The sound is the first track.
        assert_frames(&sample("audio.mp4"), &all[..6]);
        // Frames are counted, whatever the time between them.
        assert_frames(&sample("vfr.mp4"), &[0, 1, 2, 4, 5, 8, 11]);
        // Cut by an edit list, which keeps what is needed to decode.
        assert_frames(&sample("trimmed.mp4"), &all[5..]);
    }

    #[test]
    fn some_frames_are_chosen_by_either_rule() {
        let seen = |sampling| levels(&frames(&sample("bframes.mp4"), 4, sampling).unwrap());
        for (sampling, expected) in [
            (FrameSampling::Inference, [0, 4, 7, 11]),
            (FrameSampling::Training, [0, 3, 6, 10]),
        ] {
            let apart = seen(sampling).into_iter().zip(expected);
            for (seen, n) in apart {
                assert!(
                    seen.abs_diff(grey(n)) <= 2,
                    "{sampling:?}: {seen} is not frame {n}"
                );
            }
        }
        let all = levels(&frames(&sample("odd.mp4"), 6, FrameSampling::Training).unwrap());
        assert_eq!(all[..2], [0, 0], "two of six are black");
        assert!(all[2].abs_diff(grey(0)) <= 2 && all[5].abs_diff(grey(3)) <= 2);
    }

    #[test]
    fn frames_are_upright_and_have_their_size() {
        let one = |name| {
            frames(&sample(name), 1, FrameSampling::Inference)
                .unwrap()
                .remove(0)
                .rgb()
        };
        let plain = one("baseline.mp4");
        assert_eq!(plain.dimensions(), (48, 32));
        assert!(plain.get_pixel(2, 2)[0] > 250 && plain.get_pixel(2, 29)[0] < 40);
        let turned = one("rotated.mp4");
        assert_eq!(turned.dimensions(), (32, 48));
        assert!(turned.get_pixel(2, 45)[0] > 250 && turned.get_pixel(2, 2)[0] < 40);
        // No multiple of the 16 pixels that are coded together.
        assert_eq!(one("odd.mp4").dimensions(), (50, 38));
    }

    #[test]
    fn colours_are_what_the_file_says_they_are() {
        let red = frames(&sample("bt709.mp4"), 1, FrameSampling::Inference)
            .unwrap()
            .remove(0)
            .rgb();
        let Rgb([r, g, b]) = *red.get_pixel(9, 9);
        assert!(r > 248 && g < 6 && b < 6, "{r} {g} {b}");
    }

    /// Eight bars of 16 x 16 pixels, coded by either matrix in either range, which the container says, the stream,
    /// both, or neither; and what ffmpeg 7.0.2 makes of each.
    #[test]
    fn colours_are_what_ffmpeg_makes_of_them() {
        type Bars = [[u8; 3]; 8];
        const LIMITED_601: Bars = [
            [234, 20, 19],
            [20, 200, 30],
            [30, 39, 220],
            [240, 240, 240],
            [15, 15, 15],
            [200, 200, 200],
            [249, 200, 10],
            [100, 61, 160],
        ];
        const FULL_601: Bars = [
            [234, 20, 20],
            [20, 200, 30],
            [30, 41, 221],
            [240, 240, 240],
            [15, 15, 15],
            [200, 200, 200],
            [249, 200, 10],
            [100, 60, 159],
        ];
        const LIMITED_709: Bars = [
            [234, 20, 19],
            [20, 200, 29],
            [30, 41, 220],
            [240, 240, 240],
            [15, 15, 15],
            [200, 200, 200],
            [251, 200, 11],
            [101, 60, 160],
        ];
        const FULL_709: Bars = [
            [235, 21, 20],
            [20, 199, 30],
            [31, 40, 220],
            [240, 240, 240],
            [15, 15, 15],
            [200, 200, 200],
            [251, 200, 10],
            [100, 61, 160],
        ];
        let said = ["box", "stream", "both"];
        let files = [
            ("601_tv", LIMITED_601),
            ("601_pc", FULL_601),
            ("709_tv", LIMITED_709),
            ("709_pc", FULL_709),
        ];
        let tagged = files
            .iter()
            .flat_map(|(name, bars)| said.map(|by| (format!("{name}_{by}"), bars)));
        for (name, bars) in tagged.chain([("601_tv_neither".into(), &LIMITED_601)]) {
            let path = sample(&format!("colours/{name}.mp4"));
            let frame = frames(&path, 1, FrameSampling::Inference)
                .unwrap()
                .remove(0)
                .rgb();
            for (x, expected) in (8..).step_by(16).zip(bars) {
                let seen = frame.get_pixel(x, 8).0;
                let apart = seen.iter().zip(expected).map(|(a, b)| a.abs_diff(*b));
                assert!(
                    apart.max() <= Some(2),
                    "{name}: {seen:?} is not {expected:?}"
                );
            }
        }
    }

    #[test]
    fn turns_and_flips_are_told_from_the_matrix() {
        let turn = |[a, b, c, d]: [i32; 4]| {
            let unit = 1 << 16;
            orientation(&[a * unit, b * unit, 0, c * unit, d * unit, 0, 0, 0, 1 << 30])
        };
        assert_eq!(turn([1, 0, 0, 1]), Orientation::NoTransforms);
        assert_eq!(turn([0, 1, -1, 0]), Orientation::Rotate90);
        assert_eq!(turn([-1, 0, 0, -1]), Orientation::Rotate180);
        assert_eq!(turn([0, -1, 1, 0]), Orientation::Rotate270);
        assert_eq!(turn([-1, 0, 0, 1]), Orientation::FlipHorizontal);
    }

    /// A table may say of any number of frames that they lie in the same place.
    #[test]
    fn frames_together_are_no_larger_than_the_file() {
        let place = |offset, size| ByteRange { offset, size };
        assert_eq!(whole(&[place(10, 40), place(50, 50)], 100), 2);
        assert_eq!(whole(&[place(10, 40), place(50, 51)], 100), 1);
        assert_eq!(whole(&[place(10, 40); 1000], 100), 2);
        assert_eq!(whole(&[place(u64::MAX, 40)], 100), 0);
    }

    /// What is there of a file that is cut short is seen; one without an index says so.
    #[test]
    fn files_that_are_cut_short() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cut.mp4");
        let whole = fs::read(sample("baseline.mp4")).unwrap();
        let mut lengths = std::collections::HashSet::new();
        for length in 0..whole.len() {
            fs::write(&path, &whole[..length]).unwrap();
            match frames(&path, 1 << 8, FrameSampling::Inference) {
                Ok(seen) => {
                    let mut seen = levels(&seen);
                    seen.dedup();
                    lengths.insert(seen.len());
                    assert!(seen[0].abs_diff(grey(0)) <= 2);
                }
                Err(error) => {
                    assert!(error.to_string().contains("cut.mp4"), "{error}");
                    assert!(!error.to_string().contains('\n'), "{error}");
                }
            }
        }
        let mut lengths: Vec<usize> = lengths.into_iter().collect();
        lengths.sort();
        assert_eq!(lengths, (1..12).collect::<Vec<_>>());
        // Its index is at the end.
        let whole = fs::read(sample("bframes.mp4")).unwrap();
        fs::write(&path, &whole[..whole.len() - 9]).unwrap();
        let error = frames(&path, 8, FrameSampling::Inference)
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("cut short") && error.contains("whole file"),
            "{error}"
        );
    }

    /// Any byte may be wrong: frames come out or an error, and soon.
    #[test]
    fn damaged_files_do_no_harm() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("damaged.mp4");
        for name in ["bframes.mp4", "fragmented.mp4"] {
            let whole = fs::read(sample(name)).unwrap();
            for at in (0..whole.len()).step_by(23) {
                let mut bytes = whole.clone();
                bytes[at] ^= 0xff;
                fs::write(&path, &bytes).unwrap();
                if let Err(error) = frames(&path, 3, FrameSampling::Inference) {
                    assert!(!error.to_string().contains('\n'), "{error}");
                }
            }
        }
    }
}
