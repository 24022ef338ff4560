//! The frames of an animated GIF (GIF89a), put together as Pillow does: where a frame is to be cleared away and
//! has no transparent colour, the background's comes back.

use std::{io::Cursor, num::NonZeroU64};

use gif::{ColorOutput, DecodeOptions, Decoder, DisposalMethod, Frame, MemoryLimit};
use image::{Rgba, RgbaImage};

use super::canvas::Part;
use crate::{Error, Result};

/// Pixels of a frame, which may lie beyond the canvas.
const MOST_PIXELS: NonZeroU64 = NonZeroU64::MIN.saturating_add(1 << 24);

pub(super) struct AnimatedGif<'a> {
    decoder: Decoder<Cursor<&'a [u8]>>,
}

/// What happens before the next frame is drawn.
enum Disposal {
    Fill(Part, [u8; 4]),
    /// What was there before the frame comes back.
    Restore(RgbaImage),
}

impl<'a> AnimatedGif<'a> {
    pub(super) fn open(file: &'a [u8]) -> Result<Self> {
        let mut options = DecodeOptions::new();
        options.set_color_output(ColorOutput::Indexed);
        options.set_memory_limit(MemoryLimit::Bytes(MOST_PIXELS));
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
                let empty = clear.unwrap_or_else(|| colour(0, 255));
                RgbaImage::from_pixel(width, height, Rgba(empty))
            });
            match disposal.take() {
                Some(Disposal::Fill(part, colour)) => part.fill(canvas, colour),
                Some(Disposal::Restore(before)) => *canvas = before,
                None => {}
            }
            // What says nothing of it goes as the frame before.
            if frame.dispose != DisposalMethod::Any {
                method = frame.dispose;
            }
            let part = Part {
                left: frame.left.into(),
                top: frame.top.into(),
                width: frame.width.into(),
                height: frame.height.into(),
            };
            disposal = match method {
                DisposalMethod::Background => {
                    let colour = clear.unwrap_or_else(|| colour(background, 255));
                    Some(Disposal::Fill(part, colour))
                }
                DisposalMethod::Previous if first => {
                    clear.map(|colour| Disposal::Fill(part, colour))
                }
                DisposalMethod::Previous => Some(Disposal::Restore(canvas.clone())),
                _ => None,
            };
            let picture = picture(frame, |index| colour(index, 255));
            part.draw(&picture, canvas, |above, below, _| match above[3] {
                0 => below,
                _ => above,
            });
            Some(Ok(canvas.clone()))
        })
    }
}

/// The colours of a frame; what is transparent has an alpha of 0, all else 255.
fn picture(frame: &Frame, colour: impl Fn(usize) -> [u8; 4]) -> RgbaImage {
    let width = usize::from(frame.width);
    RgbaImage::from_fn(frame.width.into(), frame.height.into(), |x, y| match frame
        .buffer
        .get(y as usize * width + x as usize)
    {
        Some(index) if frame.transparent != Some(*index) => Rgba(colour((*index).into())),
        _ => Rgba([0; 4]),
    })
}

/// Of a file without a palette the numbers are levels of grey; of one with too short a palette, the first colour.
fn colour(palette: &[u8], index: usize, alpha: u8) -> [u8; 4] {
    let entry = |index: usize| palette.get(3 * index..3 * index + 3);
    match entry(index).or(entry(0)) {
        Some(colour) => [colour[0], colour[1], colour[2], alpha],
        None => [index as u8, index as u8, index as u8, alpha],
    }
}

fn explain(error: gif::DecodingError) -> Error {
    Error::failed(format!("cannot be decoded: {error}"))
}
