//! MP4 (ISO 14496-12) and QuickTime files, whole or in fragments: where the frames of the first H.264
//! track lie, and what their colours mean.
//!
//! A file is untrusted: sizes are checked against the file's before memory is taken, and nothing but
//! boxes is read.

use std::{
    fs::File,
    io::{Read, Seek, SeekFrom},
};

use shiguredo_mp4::{
    BoxHeader, BoxType, Decode,
    aux::SampleTableAccessor,
    boxes::{AvccBox, HdlrBox, SampleEntry, TfhdBox, TrakBox, TrexBox, TrunBox},
};

use super::h264_colours::Colours;
use crate::{Error, Result};

/// Larger indices are refused: hours of video have some megabytes.
const LARGEST_INDEX: u64 = 64 << 20;
/// Longer videos are refused: ten hours at 30 frames a second.
pub(super) const MOST_FRAMES: usize = 1 << 20;
/// Frames, pieces of sound and what else the fragments of a file hold.
const MOST_SAMPLES: usize = 8 << 20;
/// Boxes on the highest level of a file, two for a fragment.
const MOST_BOXES: usize = 1 << 20;

/// Where a coded frame lies in the file.
#[derive(Clone, Copy)]
pub(super) struct ByteRange {
    pub offset: u64,
    pub size: u64,
}

/// The boxes that say where everything is.
pub(super) struct Index {
    /// Content of `moov`.
    moov: Vec<u8>,
    /// ByteRange of every `moof`.
    fragments: Vec<ByteRange>,
}

/// The video track of a file.
pub(super) enum VideoTrack {
    H264(Box<Track>),
    /// What another one is coded with.
    Other(String),
}

/// The track that is shown.
pub(super) struct Track {
    pub trak: TrakBox,
    pub avcc: AvccBox,
    pub colours: Colours,
}

impl Index {
    /// Finds the boxes on the highest level of the file.
    pub(super) fn read(file: &mut File, length: u64) -> Result<Self> {
        let (mut moov, mut fragments, mut at) = (None, Vec::new(), 0);
        for _ in 0..MOST_BOXES {
            if at >= length {
                break;
            }
            let header = read(
                file,
                ByteRange {
                    offset: at,
                    size: 32.min(length - at),
                },
            )?;
            let Ok((header, head)) = BoxHeader::decode(&header) else {
                break;
            };
            let size = match header.box_size.get() {
                0 => length - at,
                size => size,
            };
            let place = ByteRange { offset: at, size };
            let cut = size > length - at;
            match header.box_type {
                BoxType::Normal(kind) if &kind == b"moov" && moov.is_none() => {
                    if cut {
                        break;
                    }
                    moov = Some(read(file, place)?.split_off(head));
                }
                BoxType::Normal(kind) if &kind == b"moof" && !cut => fragments.push(place),
                _ => {}
            }
            at = at.saturating_add(size);
        }
        let moov = moov.ok_or_else(|| {
            Error::failed(
                "cut short: it has no index of its frames (`moov`), without which nothing can be read; get the whole \
                 file",
            )
        })?;
        Ok(Self { moov, fragments })
    }

    /// The first H.264 track, or else what the first video track is coded with.
    pub(super) fn track(&self) -> Result<VideoTrack> {
        let mut other = None;
        for (kind, _, whole) in boxes(&self.moov) {
            let trak = match &kind {
                b"trak" => TrakBox::decode(whole),
                _ => continue,
            };
            // What a box of an unusual layout means, only its writer knows.
            let Ok((trak, _)) = trak else {
                other.get_or_insert("an MP4 of an unusual layout".to_string());
                continue;
            };
            let media = &trak.mdia_box;
            if media.hdlr_box.handler_type != HdlrBox::HANDLER_TYPE_VIDE {
                continue;
            }
            match media.minf_box.stbl_box.stsd_box.entries.first() {
                Some(SampleEntry::Avc1(entry)) => {
                    let colour = entry.unknown_boxes.iter();
                    let mut colour = colour.filter(|b| b.box_type == BoxType::Normal(*b"colr"));
                    let colours = colour.next().map(|colour| Colours::of_box(&colour.payload));
                    let avcc = entry.avcc_box.clone();
                    let sps = avcc.sps_list.first().map_or(&[][..], Vec::as_slice);
                    let colours = colours.unwrap_or_default().and_of_stream(sps);
                    return Ok(VideoTrack::H264(Box::new(Track {
                        avcc,
                        colours,
                        trak,
                    })));
                }
                Some(entry) => drop(other.insert(codec(entry))),
                None => {}
            }
        }
        match other {
            Some(codec) => Ok(VideoTrack::Other(codec)),
            None => Err(Error::failed("no video in this file")),
        }
    }
}

impl Track {
    /// Where its frames lie, in the order of decoding, and how many of them come before what is shown.
    pub(super) fn places(
        &self,
        index: &Index,
        file: &mut File,
        length: u64,
    ) -> Result<(Vec<ByteRange>, usize)> {
        let damaged = |error: &dyn std::fmt::Display| Error::failed(format!("damaged: {error}"));
        let stbl = &self.trak.mdia_box.minf_box.stbl_box;
        let table = SampleTableAccessor::new(stbl).map_err(|error| damaged(&error))?;
        if table.sample_count() as usize > MOST_FRAMES {
            return Err(too_long());
        }
        let mut places = Vec::new();
        let mut hidden = 0;
        let start = self.start();
        for sample in table.samples() {
            places.push(ByteRange {
                offset: sample.data_offset(),
                size: sample.data_size().into(),
            });
            let shown = i128::from(sample.timestamp())
                + i128::from(sample.composition_time_offset().unwrap_or(0));
            hidden += usize::from(shown < start.into());
        }
        let default = index.default_size(self.trak.tkhd_box.track_id);
        let mut samples = 0;
        for fragment in &index.fragments {
            let bytes = read(file, *fragment)?;
            self.fragment(&bytes, fragment.offset, default, &mut samples, &mut places)?;
            let last = places.last();
            if last.is_some_and(|last| last.offset.saturating_add(last.size) > length) {
                break;
            }
        }
        Ok((places, hidden))
    }

    /// When what is shown begins, in the track's time: the start of the first edit that is not a pause.
    fn start(&self) -> i64 {
        let edits = self.trak.edts_box.as_ref();
        let edits = edits.and_then(|edits| edits.elst_box.as_ref());
        let mut edits = edits.iter().flat_map(|list| &list.entries);
        let first = edits.find(|edit| edit.media_time >= 0);
        first.map_or(i64::MIN, |edit| edit.media_time)
    }

    /// Adds the frames of a `moof` that begins at `offset`, and counts the `samples` of all tracks.
    fn fragment(
        &self,
        moof: &[u8],
        offset: u64,
        default: u32,
        samples: &mut usize,
        places: &mut Vec<ByteRange>,
    ) -> Result<()> {
        let damaged = |error: shiguredo_mp4::Error| Error::failed(format!("damaged: {error}"));
        let content = |bytes| {
            boxes(bytes)
                .next()
                .map_or(&[][..], |(_, content, _)| content)
        };
        // Where nothing else is said, data goes on where that of the run before ended.
        let mut at = offset;
        for (kind, traf, _) in boxes(content(moof)) {
            if &kind != b"traf" {
                continue;
            }
            let mut header = None;
            for (kind, run, whole) in boxes(traf) {
                match &kind {
                    b"tfhd" => {
                        let (tfhd, _) = TfhdBox::decode(whole).map_err(damaged)?;
                        match (tfhd.base_data_offset, tfhd.default_base_is_moof) {
                            (Some(base), _) => at = base,
                            (None, true) => at = offset,
                            (None, false) => {}
                        }
                        header = Some((tfhd, at));
                    }
                    b"trun" => {
                        let Some((tfhd, base)) = &header else {
                            return Err(Error::failed("damaged: frames without a header"));
                        };
                        let count = run.get(4..8).and_then(|count| count.first_chunk());
                        let count = count.map_or(0, |count| u32::from_be_bytes(*count));
                        *samples = samples.saturating_add(count as usize);
                        if *samples > MOST_SAMPLES {
                            return Err(too_long());
                        }
                        let (run, _) = TrunBox::decode(whole).map_err(damaged)?;
                        if let Some(from) = run.data_offset {
                            at = base.saturating_add_signed(from.into());
                        }
                        for sample in run.samples {
                            let size = sample.size.or(tfhd.default_sample_size).unwrap_or(default);
                            let size = u64::from(size);
                            if tfhd.track_id == self.trak.tkhd_box.track_id {
                                places.push(ByteRange { offset: at, size });
                            }
                            at = at.saturating_add(size);
                        }
                    }
                    _ => {}
                }
            }
        }
        Ok(())
    }
}

impl Index {
    /// Bytes of a frame in a fragment that does not say.
    fn default_size(&self, track: u32) -> u32 {
        let mvex = boxes(&self.moov).filter(|(kind, ..)| kind == b"mvex");
        let trex = mvex.flat_map(|(_, content, _)| boxes(content));
        let trex = trex.filter_map(|(_, _, whole)| Some(TrexBox::decode(whole).ok()?.0));
        let mut own = trex.filter(|trex| trex.track_id == track);
        own.next().map_or(0, |trex| trex.default_sample_size)
    }
}

/// The boxes that stand one after the other: kind, content and all of it.
fn boxes(mut bytes: &[u8]) -> impl Iterator<Item = ([u8; 4], &[u8], &[u8])> {
    std::iter::from_fn(move || {
        loop {
            let (header, head) = BoxHeader::decode(bytes).ok()?;
            let size = match header.box_size.get() {
                0 => bytes.len(),
                size => usize::try_from(size).ok()?,
            };
            let whole = bytes.get(..size)?;
            bytes = &bytes[size..];
            if let BoxType::Normal(kind) = header.box_type {
                return Some((kind, whole.get(head..)?, whole));
            }
        }
    })
}

fn read(file: &mut File, place: ByteRange) -> Result<Vec<u8>> {
    if place.size > LARGEST_INDEX {
        return Err(Error::failed("damaged: its index is larger than 64 MiB"));
    }
    let mut bytes = vec![0; place.size as usize];
    file.seek(SeekFrom::Start(place.offset))
        .and_then(|_| file.read_exact(&mut bytes))
        .map_err(|error| Error::failed(format!("cannot be read: {error}")))?;
    Ok(bytes)
}

fn too_long() -> Error {
    Error::failed(format!("more than {MOST_FRAMES} frames: cut the video"))
}

/// What people call the codec of a track.
fn codec(entry: &SampleEntry) -> String {
    match entry {
        SampleEntry::Hev1(_) | SampleEntry::Hvc1(_) => "HEVC (H.265)".into(),
        SampleEntry::Vp08(_) => "VP8".into(),
        SampleEntry::Vp09(_) => "VP9".into(),
        SampleEntry::Av01(_) => "AV1".into(),
        SampleEntry::Unknown(unknown) => {
            let name = String::from_utf8_lossy(unknown.box_type.as_bytes());
            let name = name.trim().replace(|c: char| !c.is_ascii_graphic(), "?");
            format!("codec {name:?}")
        }
        _ => "a codec that is not for video".into(),
    }
}
