//! How pictures become squares of the size that the tower reads.

use image::{RgbImage, imageops};

use crate::{
    Error, Result,
    media::{
        Picture,
        preprocess::{ResizeMode, square},
        resize::{Filter, resize},
    },
};

/// A picture that is longer than this many times its width would become one of gigabytes.
const LONGEST: u32 = 32;

/// How a picture becomes a square.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resize {
    /// The shorter side resized to the square's, the middle cut out: torchvision's `Resize` (bilinear with antialiasing)
    /// and `CenterCrop`, with which RQ-VAE's and most tokenizers' numbers are measured.
    CenterCrop,
    /// Both sides resized to the square's (bicubic), as the released model is shown pictures that it is asked about.
    Stretch,
}

impl Resize {
    pub const ALL: [Self; 2] = [Self::CenterCrop, Self::Stretch];

    pub fn name(self) -> &'static str {
        match self {
            Self::CenterCrop => "center-crop",
            Self::Stretch => "stretch",
        }
    }

    /// The one of that name, or a usage error that lists them.
    pub fn parse(name: &str) -> Result<Self> {
        let known = Self::ALL.into_iter().find(|one| one.name() == name);
        known.ok_or_else(|| {
            let names = Self::ALL.map(Self::name).join(", ");
            Error::usage(format!(
                "unknown way to resize {name}: choose one of {names}"
            ))
        })
    }

    /// It in a sentence.
    pub fn describe(self) -> &'static str {
        match self {
            Self::CenterCrop => {
                "shorter side to the tower's size (Pillow's bilinear, antialiased), then the middle: torchvision's \
                 Resize and CenterCrop"
            }
            Self::Stretch => "both sides to the tower's size (Pillow's bicubic, antialiased)",
        }
    }

    /// The picture's colours as a square of that many pixels.
    ///
    /// # Errors
    /// When it is far too long for its width.
    pub fn square(self, picture: &Picture, size: u32) -> Result<RgbImage> {
        if self == Self::Stretch {
            return Ok(square(picture, size, ResizeMode::Stretch));
        }
        let image = picture.rgb();
        let (width, height) = image.dimensions();
        let (short, long) = (width.min(height), width.max(height));
        if long / LONGEST > short {
            return Err(Error::failed(format!(
                "more than {LONGEST} times as long as wide"
            )));
        }
        let long = (u64::from(size) * u64::from(long) / u64::from(short)) as u32;
        let sides = if width <= height {
            [size, long]
        } else {
            [long, size]
        };
        let image = resize(&image, sides, Filter::Bilinear);
        // Halves round to even, as in Python.
        let middle = |side: u32| (f64::from(side - size) / 2.0).round_ties_even() as u32;
        let [left, top] = sides.map(middle);
        Ok(imageops::crop_imm(&image, left, top, size, size).to_image())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use image::Rgb;

    use super::*;

    fn columns(width: u32, height: u32) -> Picture {
        RgbImage::from_fn(width, height, |x, y| Rgb([x as u8, y as u8, 0])).into()
    }

    #[test]
    fn the_middle_is_cut_out() {
        let wide = Resize::CenterCrop.square(&columns(13, 8), 8).unwrap();
        // (13 - 8) / 2 = 2.5, which Python rounds to 2.
        assert_eq!(wide.get_pixel(0, 0).0, [2, 0, 0]);
        let tall = Resize::CenterCrop.square(&columns(8, 15), 8).unwrap();
        assert_eq!(tall.get_pixel(0, 0).0, [0, 4, 0]);
        for resize in Resize::ALL {
            let square = resize.square(&columns(30, 20), 8).unwrap();
            assert_eq!(square.dimensions(), (8, 8));
            assert_eq!(Resize::parse(resize.name()).unwrap(), resize);
        }
        assert!(Resize::CenterCrop.square(&columns(400, 3), 8).is_err());
        assert!(Resize::parse("crop").is_err());
    }
}
