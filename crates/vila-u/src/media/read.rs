//! Reading an image file of any usual format, upright.

use std::{fs, io::Cursor, io::Read, path::Path};

use image::{
    DynamicImage, ExtendedColorType, ImageDecoder, ImageError, ImageFormat, ImageReader, Limits,
    RgbImage, RgbaImage, buffer::ConvertBuffer,
};

use super::{jpeg, memory_limit::check_memory, webp};
use crate::{Error, Result, file_kind};

/// What a decoder may take before the size of the image is known: colour profiles are packed.
const HEADER: u64 = 64 << 20;
/// Bytes a pixel that decoders keep beside the decoded ones, and that copies of another kind of pixel take.
const BESIDE: u64 = 9;
/// Larger image files are refused before they are read.
const LARGEST_FILE: u64 = 1 << 30;

/// An image as its file describes it. What differs between the kinds is how they are resized.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Picture {
    /// Colour or grey (three equal channels).
    Rgb(RgbImage),
    /// With transparency.
    Rgba(RgbaImage),
    /// Colours of a palette or black and white, which are never mixed.
    Indexed(RgbImage),
}

impl Picture {
    /// The colours, transparency dropped.
    pub fn rgb(&self) -> RgbImage {
        match self {
            Self::Rgb(image) | Self::Indexed(image) => image.clone(),
            Self::Rgba(image) => image.convert(),
        }
    }

    /// Width and height in pixels.
    pub fn dimensions(&self) -> (u32, u32) {
        match self {
            Self::Rgb(image) | Self::Indexed(image) => image.dimensions(),
            Self::Rgba(image) => image.dimensions(),
        }
    }
}

impl From<RgbImage> for Picture {
    fn from(image: RgbImage) -> Self {
        Self::Rgb(image)
    }
}

impl From<RgbaImage> for Picture {
    fn from(image: RgbaImage) -> Self {
        Self::Rgba(image)
    }
}

/// Of 16-bit channels the high byte is kept. That a file had a palette is known to [`load`] alone.
impl From<DynamicImage> for Picture {
    fn from(image: DynamicImage) -> Self {
        let transparent = image.color().has_alpha();
        let image = high_bytes(image);
        if transparent {
            Self::Rgba(image.into_rgba8())
        } else {
            Self::Rgb(image.into_rgb8())
        }
    }
}

/// Reads an image file; of an animation, the first frame.
///
/// The format is told from the content: PNG, JPEG, GIF, WebP, BMP or TIFF. Of 16-bit channels the
/// high byte is kept. An orientation stored in the file is applied.
///
/// Errors name the file, which cannot be read, is no image or cut short, or takes too much memory
/// ([`super::set_memory_limit`]).
///
/// ```no_run
/// let picture = vila_u::media::load("photo.jpg".as_ref())?;
/// println!("{:?}", picture.dimensions());
/// # Ok::<(), vila_u::Error>(())
/// ```
pub fn load(path: &Path) -> Result<Picture> {
    decode(&read_file(path)?).map_err(Error::in_file(path))
}

/// As [`load`], from the content of a file.
///
/// ```
/// assert!(vila_u::media::decode(b"not an image").is_err());
/// ```
pub fn decode(bytes: &[u8]) -> Result<Picture> {
    let (mut decoder, format) = decoder(bytes)?;
    let bilevel = decoder.original_color_type() == ExtendedColorType::L1;
    let orientation = decoder.orientation().map_err(explain)?;
    let mut image = DynamicImage::from_decoder(decoder).map_err(explain)?;
    image.apply_orientation(orientation);
    let kind = if bilevel {
        Kind::Indexed
    } else {
        kind(bytes, format, image.color().has_alpha())
    };
    let image = high_bytes(image);
    Ok(match kind {
        Kind::Opaque => Picture::Rgb(image.into_rgb8()),
        Kind::Transparent => Picture::Rgba(image.into_rgba8()),
        Kind::Indexed => Picture::Indexed(image.into_rgb8()),
    })
}

/// A frame of an animation as a file of its own: its colours with their transparency, as stored.
pub(super) fn decode_frame(bytes: &[u8]) -> Result<RgbaImage> {
    let (decoder, _) = decoder(bytes)?;
    let image = DynamicImage::from_decoder(decoder).map_err(explain)?;
    Ok(high_bytes(image).into_rgba8())
}

/// A decoder of a whole file for whose pixels there is memory.
fn decoder(bytes: &[u8]) -> Result<(impl ImageDecoder + '_, ImageFormat)> {
    let format = format(bytes)?;
    let cut = match format {
        ImageFormat::Jpeg => !jpeg::is_whole(bytes),
        ImageFormat::WebP => webp::chunks(bytes).any(|chunk| !chunk.whole),
        _ => false,
    };
    if cut {
        return Err(Error::failed("cut short: get the whole file"));
    }
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    reader.limits(limits(HEADER));
    let mut decoder = reader.into_decoder().map_err(explain)?;
    let (width, height) = decoder.dimensions();
    check_size(width, height)?;
    let beside = pixels(width, height).saturating_mul(BESIDE);
    let need = decoder.total_bytes().saturating_add(beside);
    let what = format!("{width} x {height} pixels");
    check_memory(&what, need, bytes.len() as u64)?;
    decoder.set_limits(limits(need)).map_err(explain)?;
    Ok((decoder, format))
}

pub(crate) fn read_file(path: &Path) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    fs::File::open(path)
        .and_then(|file| file.take(LARGEST_FILE + 1).read_to_end(&mut bytes))
        .map_err(Error::io(path))?;
    if bytes.len() as u64 > LARGEST_FILE {
        return Err(Error::invalid(
            path,
            "larger than 1 GiB: make the image smaller",
        ));
    }
    Ok(bytes)
}

fn format(bytes: &[u8]) -> Result<ImageFormat> {
    let known = image::guess_format(bytes).ok();
    known.filter(ImageFormat::reading_enabled).ok_or_else(|| {
        let what = file_kind::mistaken(bytes);
        let what = what.unwrap_or("PNG, JPEG, GIF, WebP, BMP and TIFF can be read");
        Error::failed(format!("not an image: {what}"))
    })
}

fn limits(bytes: u64) -> Limits {
    let mut limits = Limits::default();
    limits.max_alloc = Some(bytes);
    limits
}

pub(super) fn pixels(width: u32, height: u32) -> u64 {
    u64::from(width) * u64::from(height)
}

pub(super) fn check_size(width: u32, height: u32) -> Result<()> {
    if width == 0 || height == 0 {
        return Err(Error::usage(format!(
            "an image of {width} x {height} pixels"
        )));
    }
    Ok(())
}

fn explain(error: ImageError) -> Error {
    Error::failed(format!("cannot be decoded: {error}"))
}

enum Kind {
    Opaque,
    Transparent,
    Indexed,
}

/// What the pixels of the file are, which the decoded image no longer shows: a palette is already
/// looked up, and a colour declared transparent already is an alpha channel.
fn kind(bytes: &[u8], format: ImageFormat, alpha: bool) -> Kind {
    match format {
        ImageFormat::Png => match bytes.get(25) {
            Some(3) => Kind::Indexed,
            Some(4 | 6) => Kind::Transparent,
            _ => Kind::Opaque,
        },
        ImageFormat::Gif if gif_is_gray(bytes) => Kind::Opaque,
        ImageFormat::Gif => Kind::Indexed,
        ImageFormat::Bmp if bmp_is_indexed(bytes) => Kind::Indexed,
        _ if alpha => Kind::Transparent,
        _ => Kind::Opaque,
    }
}

/// No palette for all frames, or one that counts 0, 1, 2, ... in grey.
fn gif_is_gray(bytes: &[u8]) -> bool {
    let flags = bytes.get(10).copied().unwrap_or(0);
    let colors = if flags & 0x80 == 0 {
        0
    } else {
        2 << (flags & 7)
    };
    is_ramp(bytes.get(13..).unwrap_or(&[]), 3, colors)
}

fn bmp_is_indexed(bytes: &[u8]) -> bool {
    let field = |at: usize| {
        bytes
            .get(at..)
            .and_then(|tail| tail.first_chunk())
            .map_or(0, |field| u32::from_le_bytes(*field))
    };
    let (header, bits, used) = (field(14), field(28) & 0xffff, field(46));
    let colors = if used == 0 {
        1 << bits.min(8)
    } else {
        used.min(256)
    };
    let palette = bytes.get(14 + header as usize..).unwrap_or(&[]);
    // A header of 12 bytes is the old format, with 16-bit fields and 3 bytes a colour.
    header > 12 && bits <= 8 && !is_ramp(palette, 4, colors as usize)
}

fn is_ramp(palette: &[u8], stride: usize, colors: usize) -> bool {
    let mut entries = palette.chunks_exact(stride).take(colors).enumerate();
    entries.all(|(index, color)| color[..3] == [index as u8; 3])
}

/// 16-bit channels without their low byte.
fn high_bytes(image: DynamicImage) -> DynamicImage {
    let high = |values: Vec<u16>| values.into_iter().map(|value| (value >> 8) as u8).collect();
    let (width, height) = (image.width(), image.height());
    match image {
        DynamicImage::ImageLuma16(_) | DynamicImage::ImageRgb16(_) => {
            RgbImage::from_raw(width, height, high(image.into_rgb16().into_raw()))
                .map(DynamicImage::from)
        }
        DynamicImage::ImageLumaA16(_) | DynamicImage::ImageRgba16(_) => {
            RgbaImage::from_raw(width, height, high(image.into_rgba16().into_raw()))
                .map(DynamicImage::from)
        }
        image => return image,
    }
    .unwrap_or_default()
}

#[cfg(test)]
mod tests;
