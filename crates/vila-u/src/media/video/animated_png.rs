//! The frames of an animated PNG (PNG specification, third edition, section 13.2 on APNG).

use image::RgbaImage;

use super::canvas::{CLEAR, Part};
use crate::{Result, media::read::decode_frame};

const SIGNATURE: &[u8] = b"\x89PNG\r\n\x1a\n";

/// An animation and its canvas.
pub(super) struct AnimatedPng<'a> {
    file: &'a [u8],
    pub width: u32,
    pub height: u32,
}

/// What a frame's control chunk (`fcTL`) says of it.
#[derive(Clone, Copy)]
struct Control {
    part: Part,
    disposal: Disposal,
    blends: bool,
}

/// What happens to the part of a frame before the next is drawn.
#[derive(Clone, Copy, PartialEq)]
enum Disposal {
    Keep,
    Clear,
    /// What was there before comes back.
    Restore,
}

impl<'a> AnimatedPng<'a> {
    /// None where the file is no animation.
    pub(super) fn open(file: &'a [u8]) -> Option<Self> {
        let mut all = chunks(file);
        let (_, header) = all.next().filter(|(name, _)| name == b"IHDR")?;
        let animated = all
            .take_while(|(name, _)| name != b"IDAT")
            .any(|(name, _)| &name == b"acTL");
        animated.then_some(Self {
            file,
            width: number(header, 0)?,
            height: number(header, 4)?,
        })
    }

    /// The whole pictures one after the other; one that is cut short or damaged is the last.
    pub(super) fn frames(self) -> impl Iterator<Item = Result<RgbaImage>> + use<'a> {
        let mut canvas = RgbaImage::new(self.width, self.height);
        // The frame before, and what was there before it.
        let mut last: Option<(Control, Option<RgbaImage>)> = None;
        let mut parts = self.parts();
        std::iter::from_fn(move || {
            let (mut control, file) = parts.next()?;
            if last.is_none() && control.disposal == Disposal::Restore {
                control.disposal = Disposal::Clear;
            }
            let picture = match decode_frame(&file) {
                Ok(picture) => picture,
                Err(error) => return Some(Err(error)),
            };
            match last.take() {
                Some((_, Some(before))) => canvas = before,
                Some((last, None)) if last.disposal == Disposal::Clear => {
                    last.part.fill(&mut canvas, CLEAR);
                }
                _ => {}
            }
            let restored = control.disposal == Disposal::Restore;
            last = Some((control, restored.then(|| canvas.clone())));
            let blends = control.blends;
            control.part.draw(&picture, &mut canvas, |above, below, _| {
                if blends { blend(above, below) } else { above }
            });
            Some(Ok(canvas.clone()))
        })
    }

    /// Each frame's control chunk, and its picture as a file of its own.
    fn parts(&self) -> impl Iterator<Item = (Control, Vec<u8>)> + use<'a> {
        let mut all = chunks(self.file).peekable();
        let header = all.next().map_or(&[][..], |(_, content)| content);
        let mut shared = Vec::new();
        while let Some((name, content)) =
            all.next_if(|(name, _)| !matches!(name, b"fcTL" | b"IDAT" | b"IEND"))
        {
            // Colours and what is transparent; the rest says nothing of pixels.
            if matches!(&name, b"PLTE" | b"tRNS") {
                shared.push((name, content));
            }
        }
        std::iter::from_fn(move || {
            // A picture before the first control chunk is shown where no animation is.
            while all.next_if(|(name, _)| name != b"fcTL").is_some() {}
            let control = Control::of(all.next()?.1)?;
            let mut own = header.to_vec();
            own.get_mut(..8)?
                .copy_from_slice(&size(control.part.width, control.part.height));
            let mut file = SIGNATURE.to_vec();
            write(&mut file, *b"IHDR", &own);
            for (name, content) in &shared {
                write(&mut file, *name, content);
            }
            while let Some((name, content)) = all.next_if(|(name, _)| name != b"fcTL") {
                match &name {
                    b"IDAT" => write(&mut file, name, content),
                    b"fdAT" => write(&mut file, *b"IDAT", content.get(4..)?),
                    _ => {}
                }
            }
            write(&mut file, *b"IEND", &[]);
            Some((control, file))
        })
    }
}

impl Control {
    fn of(content: &[u8]) -> Option<Self> {
        let [disposal, blend] = *content.get(24..)?.first_chunk()?;
        Some(Self {
            part: Part {
                width: number(content, 4)?,
                height: number(content, 8)?,
                left: number(content, 12)?,
                top: number(content, 16)?,
            },
            disposal: match disposal {
                1 => Disposal::Clear,
                2 => Disposal::Restore,
                _ => Disposal::Keep,
            },
            blends: blend == 1,
        })
    }
}

/// A pixel over another (section 13.16).
fn blend(above: [u8; 4], below: [u8; 4]) -> [u8; 4] {
    let (own, rest) = (u32::from(above[3]), 255 - u32::from(above[3]));
    let (u, v) = (own * 255, rest * u32::from(below[3]));
    match (own, u + v) {
        (0, _) => below,
        (255, _) => above,
        (_, sum) => {
            let mix = |channel: usize| {
                let sum_of = u32::from(above[channel]) * u + u32::from(below[channel]) * v;
                (sum_of / sum) as u8
            };
            [mix(0), mix(1), mix(2), (sum / 255) as u8]
        }
    }
}

/// The chunks of a file that are whole: name and content.
fn chunks(file: &[u8]) -> impl Iterator<Item = ([u8; 4], &[u8])> {
    let mut rest = file.strip_prefix(SIGNATURE).unwrap_or_default();
    std::iter::from_fn(move || {
        let length = number(rest, 0)? as usize;
        let name = *rest.get(4..)?.first_chunk()?;
        let content = rest.get(8..)?.get(..length)?;
        rest = rest.get(12 + length..).unwrap_or_default();
        Some((name, content))
    })
}

fn write(file: &mut Vec<u8>, name: [u8; 4], content: &[u8]) {
    file.extend((content.len() as u32).to_be_bytes());
    let start = file.len();
    file.extend(name);
    file.extend(content);
    let mut sum = flate2::Crc::new();
    sum.update(&file[start..]);
    file.extend(sum.sum().to_be_bytes());
}

fn size(width: u32, height: u32) -> [u8; 8] {
    let mut bytes = [0; 8];
    bytes[..4].copy_from_slice(&width.to_be_bytes());
    bytes[4..].copy_from_slice(&height.to_be_bytes());
    bytes
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    bytes
        .get(at..)?
        .first_chunk()
        .map(|number| u32::from_be_bytes(*number))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// A picture of one row as the data of a PNG, not packed.
    fn row(pixels: &[[u8; 4]]) -> Vec<u8> {
        use std::io::Write;
        let mut data = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::none());
        data.write_all(&[0]).unwrap();
        data.write_all(pixels.as_flattened()).unwrap();
        data.finish().unwrap()
    }

    /// Frames of one row of four pixels: left, pixels, disposal, blending.
    fn animation(frames: &[(u32, &[[u8; 4]], u8, u8)]) -> Vec<u8> {
        let mut file = SIGNATURE.to_vec();
        write(
            &mut file,
            *b"IHDR",
            &[&size(4, 1)[..], &[8, 6, 0, 0, 0]].concat(),
        );
        write(&mut file, *b"acTL", &size(frames.len() as u32, 0));
        for (index, (left, pixels, disposal, blend)) in frames.iter().enumerate() {
            let mut control = vec![0; 4];
            control.extend(size(pixels.len() as u32, 1));
            control.extend(size(*left, 0));
            control.extend([0, 1, 0, 10, *disposal, *blend]);
            write(&mut file, *b"fcTL", &control);
            match index {
                0 => write(&mut file, *b"IDAT", &row(pixels)),
                _ => write(&mut file, *b"fdAT", &[&[0; 4][..], &row(pixels)].concat()),
            }
        }
        write(&mut file, *b"IEND", &[]);
        file
    }

    const RED: [u8; 4] = [255, 0, 0, 255];
    const BLUE: [u8; 4] = [0, 0, 255, 255];
    const NONE: [u8; 4] = [0; 4];

    #[test]
    fn frames_stay_are_cleared_or_give_way() {
        let file = animation(&[
            (0, &[RED; 4], 0, 0),
            (0, &[BLUE; 2], 2, 0),
            (2, &[NONE, BLUE], 1, 1),
            (0, &[BLUE], 0, 1),
        ]);
        let frames: Vec<_> = AnimatedPng::open(&file).unwrap().frames().collect();
        let pixels = |index: usize| {
            let frame: &RgbaImage = frames[index].as_ref().unwrap();
            frame.pixels().map(|pixel| pixel.0).collect::<Vec<_>>()
        };
        assert_eq!(frames.len(), 4);
        assert_eq!(pixels(0), [RED; 4]);
        assert_eq!(pixels(1), [BLUE, BLUE, RED, RED]);
        assert_eq!(pixels(2), [RED, RED, RED, BLUE]);
        assert_eq!(pixels(3), [BLUE, RED, NONE, NONE]);
        // A first frame that gives way leaves nothing.
        let file = animation(&[(0, &[RED; 4], 2, 0), (1, &[BLUE], 0, 1)]);
        let last = AnimatedPng::open(&file)
            .unwrap()
            .frames()
            .nth(1)
            .unwrap()
            .unwrap();
        let pixels: Vec<_> = last.pixels().map(|pixel| pixel.0).collect();
        assert_eq!(pixels, [NONE, BLUE, NONE, NONE]);
    }

    #[test]
    fn half_of_each_is_seen_where_both_are() {
        assert_eq!(blend([200, 0, 0, 128], [0, 100, 0, 255]), [100, 49, 0, 255]);
        assert_eq!(blend([200, 0, 0, 128], NONE), [200, 0, 0, 128]);
        assert_eq!(blend(NONE, RED), RED);
    }
}
