//! The frames of an animated WebP (RFC 9649, section 2.7), put together as libwebp's `WebPAnimDecoder` does: the
//! background is transparent, whatever the file says of it.

use image::RgbaImage;

use super::canvas::{CLEAR, Part};
use crate::{
    Result,
    media::{
        read::decode_frame,
        webp::{Chunk, chunks, inside},
    },
};

/// `VP8X` flag of an animation.
const ANIMATION: u8 = 0x02;
/// `VP8X` flag of transparency.
const ALPHA: u8 = 0x10;

/// An animation and its canvas.
pub(super) struct AnimatedWebp<'a> {
    file: &'a [u8],
    pub width: u32,
    pub height: u32,
}

/// A frame as the file has it.
struct Frame<'a> {
    part: Part,
    blends: bool,
    disposes: bool,
    /// The chunks of its picture.
    picture: &'a [u8],
}

impl<'a> AnimatedWebp<'a> {
    /// None where the file is no animation.
    pub(super) fn open(file: &'a [u8]) -> Option<Self> {
        let first = chunks(file).next().filter(|chunk| &chunk.name == b"VP8X")?;
        let animated = first.content.first()? & ANIMATION != 0;
        animated.then_some(Self {
            file,
            width: number(first.content, 4)? + 1,
            height: number(first.content, 7)? + 1,
        })
    }

    /// The whole pictures one after the other; one that is cut short or damaged is the last.
    pub(super) fn frames(self) -> impl Iterator<Item = Result<RgbaImage>> + use<'a> {
        let mut canvas = RgbaImage::new(self.width, self.height);
        // The frame before, and whether nothing of those before it was to be seen.
        let mut last: Option<(Frame, bool)> = None;
        let frames = chunks(self.file).filter(|chunk| &chunk.name == b"ANMF");
        frames.map_while(move |chunk| {
            let frame = Frame::of(&chunk)?;
            let picture = match frame.decode() {
                Ok(picture) => picture,
                Err(error) => return Some(Err(error)),
            };
            let cleared = last.as_ref().filter(|(last, _)| last.disposes);
            let opaque = !frame.blends || !frame.transparent();
            let alone = match (&last, cleared) {
                (None, _) => true,
                _ if frame.part.covers(&canvas) && opaque => true,
                (_, Some((last, alone))) => *alone || last.part.covers(&canvas),
                _ => false,
            };
            if alone {
                canvas = RgbaImage::new(canvas.width(), canvas.height());
            } else if let Some((last, _)) = cleared {
                last.part.fill(&mut canvas, CLEAR);
            }
            // Where nothing is left there is nothing to blend with.
            let empty = |x, y| alone || cleared.is_some_and(|(last, _)| last.part.contains(x, y));
            let blends = frame.blends;
            frame
                .part
                .draw(&picture, &mut canvas, |above, below, (x, y)| {
                    if blends && !empty(x, y) {
                        blend(above, below)
                    } else {
                        above
                    }
                });
            last = Some((frame, alone));
            Some(Ok(canvas.clone()))
        })
    }
}

impl<'a> Frame<'a> {
    fn of(chunk: &Chunk<'a>) -> Option<Self> {
        let content = chunk.content;
        let flags = *content.get(15)?;
        chunk.whole.then_some(Self {
            part: Part {
                left: 2 * number(content, 0)?,
                top: 2 * number(content, 3)?,
                width: number(content, 6)? + 1,
                height: number(content, 9)? + 1,
            },
            blends: flags & 2 == 0,
            disposes: flags & 1 != 0,
            picture: &content[16..],
        })
    }

    /// Decodes the picture as a file of its own.
    fn decode(&self) -> Result<RgbaImage> {
        let mut chunks = Vec::new();
        if inside(self.picture).any(|chunk| &chunk.name == b"ALPH") {
            chunks.extend(b"VP8X\x0a\0\0\0");
            chunks.extend([ALPHA, 0, 0, 0]);
            for size in [self.part.width, self.part.height] {
                chunks.extend(&(size - 1).to_le_bytes()[..3]);
            }
        }
        chunks.extend(self.picture);
        let mut file = b"RIFF".to_vec();
        file.extend((4 + chunks.len() as u32).to_le_bytes());
        file.extend(b"WEBP");
        file.extend(chunks);
        decode_frame(&file)
    }

    /// Whether its picture may be seen through: one without loss says so in a bit of its header.
    fn transparent(&self) -> bool {
        inside(self.picture).any(|chunk| match &chunk.name {
            b"ALPH" => true,
            b"VP8L" => chunk.content.get(4).is_some_and(|byte| byte & 0x10 != 0),
            _ => false,
        })
    }
}

/// A pixel over another, in libwebp's whole numbers.
fn blend(above: [u8; 4], below: [u8; 4]) -> [u8; 4] {
    let [.., alpha] = above.map(u32::from);
    match alpha {
        0 => return below,
        255 => return above,
        _ => {}
    }
    let rest = (u32::from(below[3]) * (256 - alpha)) >> 8;
    let opacity = alpha + rest;
    let scale = u64::from((1 << 24) / opacity);
    let mix = |channel: usize| {
        let sum = u32::from(above[channel]) * alpha + u32::from(below[channel]) * rest;
        ((u64::from(sum) * scale) >> 24) as u8
    };
    [mix(0), mix(1), mix(2), opacity as u8]
}

/// Three bytes, little end first.
fn number(bytes: &[u8], at: usize) -> Option<u32> {
    let [a, b, c] = *bytes.get(at..)?.first_chunk()?;
    Some(u32::from_le_bytes([a, b, c, 0]))
}
