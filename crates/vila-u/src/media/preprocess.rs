//! A picture -> what the vision tower sees: a square of numbers in [-1, 1].

use std::borrow::Cow;

use image::{RgbImage, imageops};

use super::{Picture, resize};

/// The bars of [`ResizeMode::Pad`].
const GREY: u8 = 127;

/// How a picture becomes a square.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ResizeMode {
    /// Stretched to a square, colours only; how training read images to understand.
    Stretch,
    /// Stretched to a square as the kind of picture it is: transparent colours weigh less, palette
    /// colours are not mixed. How the released model is asked about images.
    StretchNative,
    /// A square cut out of it: the middle of a wide one, the top of a tall one. How training read
    /// images to generate.
    Crop,
    /// Made square by grey bars at both sides.
    Pad,
}

/// The picture as `[3, size, size]` in [-1, 1], channels first.
pub fn pixels(picture: &Picture, size: u32, mode: ResizeMode) -> Vec<f32> {
    normalize(&square(picture, size, mode))
}

/// The picture as a square image of that many pixels. Asked again of the result, in any mode, it changes nothing.
pub fn square(picture: &Picture, size: u32, mode: ResizeMode) -> RgbImage {
    let resize = |image: &RgbImage| resize::bicubic(image, size, size);
    match (mode, picture) {
        (ResizeMode::StretchNative, Picture::Rgba(image)) => {
            resize::bicubic_rgba(image, size, size)
        }
        (ResizeMode::StretchNative, Picture::Indexed(image)) => resize::nearest(image, size, size),
        (ResizeMode::Stretch | ResizeMode::StretchNative, _) => resize(&colours(picture)),
        (ResizeMode::Crop, _) => resize(&crop(&colours(picture))),
        (ResizeMode::Pad, _) => resize::bicubic_padded(&colours(picture), size, GREY),
    }
}

/// The colours of a picture, copied only where it has transparency.
fn colours(picture: &Picture) -> Cow<'_, RgbImage> {
    match picture {
        Picture::Rgb(image) | Picture::Indexed(image) => Cow::Borrowed(image),
        Picture::Rgba(_) => Cow::Owned(picture.rgb()),
    }
}

/// `[3, height, width]` in [-1, 1].
pub(crate) fn normalize(image: &RgbImage) -> Vec<f32> {
    let value = |byte: u8| ((f64::from(byte) * (1.0 / 255.0)) as f32 - 0.5) / 0.5;
    (0..3)
        .flat_map(|channel| image.pixels().map(move |pixel| value(pixel[channel])))
        .collect()
}

fn crop(image: &RgbImage) -> RgbImage {
    let (width, height) = image.dimensions();
    let side = width.min(height);
    // Halves round to even.
    let left = (f64::from(width - side) / 2.0).round_ties_even() as u32;
    imageops::crop_imm(image, left, 0, side, side).to_image()
}

#[cfg(test)]
mod tests {
    use image::Rgb;

    use super::*;

    fn columns(width: u32, height: u32) -> Picture {
        Picture::Rgb(RgbImage::from_fn(width, height, |x, y| {
            Rgb([x as u8, y as u8, 0])
        }))
    }

    #[test]
    fn wide_is_cut_in_the_middle_and_tall_at_the_top() {
        let wide = square(&columns(13, 8), 8, ResizeMode::Crop);
        assert_eq!(wide.get_pixel(0, 0).0, [2, 0, 0]);
        let tall = square(&columns(8, 13), 8, ResizeMode::Crop);
        assert_eq!(tall.get_pixel(0, 7).0, [0, 7, 0]);
    }

    #[test]
    fn bars_are_grey() {
        let padded = square(&columns(8, 5), 8, ResizeMode::Pad);
        assert_eq!(padded.get_pixel(3, 0).0, [127; 3]);
        assert_eq!(padded.get_pixel(3, 1).0, [3, 0, 0]);
        assert_eq!(padded.get_pixel(3, 6).0, [127; 3]);
    }

    #[test]
    fn a_square_of_the_size_stays_as_it_is() {
        let all = [
            ResizeMode::Stretch,
            ResizeMode::StretchNative,
            ResizeMode::Crop,
            ResizeMode::Pad,
        ];
        for mode in all {
            let once = square(&columns(13, 9), 8, mode);
            assert_eq!(square(&once.clone().into(), 8, mode), once, "{mode:?}");
        }
    }

    #[test]
    fn values_are_channels_first_between_minus_one_and_one() {
        let image = RgbImage::from_raw(2, 1, vec![0, 51, 102, 255, 204, 153]).unwrap_or_default();
        let close = |a: &[f32], b: &[f32]| a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-6);
        assert!(close(
            &normalize(&image),
            &[-1.0, 1.0, -0.6, 0.6, -0.2, 0.2]
        ));
    }
}
