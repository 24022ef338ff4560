//! The frames of an animated GIF (GIF89a), put together as Pillow does: where a frame is to be cleared away and
//! has no transparent colour, the background's comes back.

use std::{io::Cursor, num::NonZeroU64};

use gif::{ColorOutput, DecodeOptions, Decoder, DisposalMethod, Frame, MemoryLimit};
use image::{Rgba, RgbaImage};

use crate::{Error, Result};

pub(super) struct AnimatedGif<'a> {
    decoder: Decoder<Cursor<&'a [u8]>>,
}

/// A part of the canvas: left, top, right, bottom.
type Part = [u32; 4];

/// What happens to the part of a frame before the next is drawn.
enum Disposal {
    Fill(Part, Rgba<u8>),
    /// What was there before comes back.
    Restore(Part, RgbaImage),
}

impl<'a> AnimatedGif<'a> {
    /// `memory`: bytes that a frame may take.
    pub(super) fn open(file: &'a [u8], memory: u64) -> Result<Self> {
        let mut options = DecodeOptions::new();
        options.set_color_output(ColorOutput::Indexed);
        options.set_memory_limit(
            NonZeroU64::new(memory).map_or(MemoryLimit::Unlimited, MemoryLimit::Bytes),
        );
        let decoder = options.read_info(Cursor::new(file)).map_err(explain)?;
        Ok(Self { decoder })
    }

    pub(super) fn dimensions(&self) -> (u32, u32) {
        (self.decoder.width().into(), self.decoder.height().into())
    }

    /// The whole pictures one after the other.
    pub(super) fn frames(mut self) -> impl Iterator<Item = Result<RgbaImage>> + use<'a> {
        let (width, height) = self.dimensions();
        let palette = self.decoder.global_palette().unwrap_or_default().to_vec();
        let background = self.decoder.bg_color().unwrap_or(0);
        let mut canvas: Option<RgbaImage> = None;
        let mut method = DisposalMethod::Any;
        let mut disposal = None;
        std::iter::from_fn(move || {
            let frame = match self.decoder.read_next_frame() {
                Ok(frame) => frame?,
                Err(error) => return Some(Err(explain(error))),
            };
            let palette = frame.palette.as_deref().unwrap_or(&palette);
            let colour = |index: usize, alpha| colour(palette, index, alpha);
            let clear = frame.transparent.map(|index| colour(index.into(), 0));
            let first = canvas.is_none();
            let canvas = canvas.get_or_insert_with(|| {
                RgbaImage::from_pixel(width, height, clear.unwrap_or_else(|| colour(0, 255)))
            });
            match disposal.take() {
                Some(Disposal::Fill(part, colour)) => fill(canvas, part, colour),
                Some(Disposal::Restore([left, top, ..], saved)) => {
                    image::imageops::replace(canvas, &saved, left.into(), top.into());
                }
                None => {}
            }
            // What says nothing of it goes as the frame before.
            if frame.dispose != DisposalMethod::Any {
                method = frame.dispose;
            }
            let part = part(frame, width, height);
            disposal = match method {
                DisposalMethod::Background => {
                    let colour = clear.unwrap_or_else(|| colour(background, 255));
                    Some(Disposal::Fill(part, colour))
                }
                DisposalMethod::Previous if first => {
                    clear.map(|colour| Disposal::Fill(part, colour))
                }
                DisposalMethod::Previous => {
                    let [left, top, right, bottom] = part;
                    let saved =
                        image::imageops::crop_imm(canvas, left, top, right - left, bottom - top);
                    Some(Disposal::Restore(part, saved.to_image()))
                }
                _ => None,
            };
            draw(frame, part, canvas, |index| colour(index, 255));
            Some(Ok(canvas.clone()))
        })
    }
}

/// The part of the canvas that the frame covers.
fn part(frame: &Frame, width: u32, height: u32) -> Part {
    let (left, top) = (
        u32::from(frame.left).min(width),
        u32::from(frame.top).min(height),
    );
    let right = (left + u32::from(frame.width)).min(width);
    [
        left,
        top,
        right,
        (top + u32::from(frame.height)).min(height),
    ]
}

fn draw(
    frame: &Frame,
    [left, top, right, bottom]: Part,
    canvas: &mut RgbaImage,
    colour: impl Fn(usize) -> Rgba<u8>,
) {
    let rows = frame.buffer.chunks_exact(usize::from(frame.width).max(1));
    for (y, row) in (top..bottom).zip(rows) {
        for (x, &index) in (left..right).zip(row) {
            if frame.transparent != Some(index) {
                canvas.put_pixel(x, y, colour(index.into()));
            }
        }
    }
}

fn fill(canvas: &mut RgbaImage, [left, top, right, bottom]: Part, colour: Rgba<u8>) {
    for y in top..bottom {
        for x in left..right {
            canvas.put_pixel(x, y, colour);
        }
    }
}

/// Of a file without a palette the numbers are levels of grey; of one with too short a palette, the first colour.
fn colour(palette: &[u8], index: usize, alpha: u8) -> Rgba<u8> {
    let entry = |index: usize| palette.get(3 * index..3 * index + 3);
    match entry(index).or(entry(0)) {
        Some(colour) => Rgba([colour[0], colour[1], colour[2], alpha]),
        None => Rgba([index as u8, index as u8, index as u8, alpha]),
    }
}

fn explain(error: gif::DecodingError) -> Error {
    Error::failed(format!("cannot be decoded: {error}"))
}
