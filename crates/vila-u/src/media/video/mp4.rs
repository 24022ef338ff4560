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
mod tests;
