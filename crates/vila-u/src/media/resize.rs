//! Resizing, bit for bit as the Pillow library does it (which made the images the released weights
//! have seen).
//!
//! Each output sample is a weighted sum of the input samples within one (bilinear) or two pixels (bicubic) of it,
//! stretched by the scale when shrinking (so nothing is skipped); along rows and along columns, in
//! fixed-point arithmetic, rounded to a byte after each.

use std::collections::VecDeque;

use image::{ImageBuffer, Pixel, Rgb, RgbImage, RgbaImage, buffer::ConvertBuffer};

/// An image with one byte a channel.
type Bytes<P> = ImageBuffer<P, Vec<u8>>;

/// Fractional bits of the weights: a byte times a weight, and the weights' sum of 1 with its
/// overshoot of at most 2, fit 32 bits.
const PRECISION: u32 = 32 - 8 - 2;

/// How much the pixels around a place count for it.
#[derive(Clone, Copy)]
pub(crate) enum Filter {
    Bilinear,
    /// With a = -1/2.
    Bicubic,
}

/// Pixels that make up one output pixel, with weights in units of 2^-[`PRECISION`] or, where pixels are not rounded,
/// of 1.
pub(crate) struct Window<W = i32> {
    pub start: usize,
    pub weights: Vec<W>,
}

/// [`resize`] with the filter that the released weights know.
pub(crate) fn bicubic<P: Pixel<Subpixel = u8>>(
    image: &Bytes<P>,
    width: u32,
    height: u32,
) -> Bytes<P> {
    resize(image, [width, height], Filter::Bicubic)
}

/// With antialiasing; the same size gives the same image.
pub(crate) fn resize<P: Pixel<Subpixel = u8>>(
    image: &Bytes<P>,
    [width, height]: [u32; 2],
    filter: Filter,
) -> Bytes<P> {
    let rows = |image: &Bytes<P>| along_rows(image, width, filter);
    let columns = |image: &Bytes<P>| along_columns(image, height, filter);
    if columns_first(image.dimensions(), [width, height]) {
        rows(&columns(image))
    } else {
        columns(&rows(image))
    }
}

/// Pillow (since 13) starts with the columns where that leaves much less for the rows; the order shows, as each pass
/// rounds.
pub(crate) fn columns_first(from: (u32, u32), [width, height]: [u32; 2]) -> bool {
    let shrink = |from: u32, to: u32| i64::from(from) - i64::from(to);
    let (narrower, lower) = (shrink(from.0, width), shrink(from.1, height));
    lower > 0 && lower > 2 * narrower
}

/// [`bicubic`] of the image in the middle of a square as long as its longer side, filled up with `fill`. The square
/// itself, which can be a thousand times as large as the image, is never made.
pub(crate) fn bicubic_padded(image: &RgbImage, size: u32, fill: u8) -> RgbImage {
    let (width, height) = image.dimensions();
    let side = width.max(height) as usize;
    let (left, top) = ((side - width as usize) / 2, (side - height as usize) / 2);
    if side == size as usize {
        let mut square = RgbImage::from_pixel(size, size, Rgb([fill; 3]));
        image::imageops::replace(&mut square, image, left as i64, top as i64);
        return square;
    }
    let windows = fixed(side, size as usize, Filter::Bicubic);
    // A row of the square outside of the image stays what it is.
    let bar = vec![fill; 3 * size as usize];
    let narrow = |row: usize| -> Vec<u8> {
        let Some(row) = row.checked_sub(top).filter(|row| *row < height as usize) else {
            return bar.clone();
        };
        let pixels = &image.as_raw()[row * 3 * width as usize..][..3 * width as usize];
        let value = |column: usize, channel: usize| match column.checked_sub(left) {
            Some(column) if column < width as usize => pixels[3 * column + channel],
            _ => fill,
        };
        let pixel = |window: &Window| {
            let columns = window.start..window.start + window.weights.len();
            [0, 1, 2].map(|channel| {
                let samples = columns.clone().map(|column| value(column, channel));
                weigh(samples, &window.weights)
            })
        };
        windows.iter().flat_map(pixel).collect()
    };
    let mut resized = RgbImage::new(size, size);
    // The rows that a window shares with the one before it are narrowed once.
    let mut rows: VecDeque<(usize, Vec<u8>)> = VecDeque::new();
    for (window, output) in windows
        .iter()
        .zip(resized.chunks_exact_mut(3 * size as usize))
    {
        let end = window.start + window.weights.len();
        while rows.front().is_some_and(|(row, _)| *row < window.start) {
            rows.pop_front();
        }
        for row in rows.back().map_or(window.start, |(row, _)| row + 1)..end {
            rows.push_back((row, narrow(row)));
        }
        for (at, output) in output.iter_mut().enumerate() {
            *output = weigh(rows.iter().map(|(_, row)| row[at]), &window.weights);
        }
    }
    resized
}

/// Nearest neighbour, for colours that must not be mixed.
pub(crate) fn nearest(image: &RgbImage, width: u32, height: u32) -> RgbImage {
    // Positions are summed up, not multiplied: rounding decides which of two neighbours is taken.
    let positions = |from: u32, to: u32| -> Vec<u32> {
        let step = f64::from(from) / f64::from(to);
        let position = std::iter::successors(Some(step * 0.5), |at| Some(at + step));
        position
            .take(to as usize)
            .map(|at| (at as u32).min(from - 1))
            .collect()
    };
    let columns = positions(image.width(), width);
    let rows = positions(image.height(), height);
    RgbImage::from_fn(width, height, |x, y| {
        *image.get_pixel(columns[x as usize], rows[y as usize])
    })
}

/// Bicubic on colours weighted by their opacity, so that invisible pixels do not bleed into visible
/// ones; then the transparency is dropped.
pub(crate) fn bicubic_rgba(image: &RgbaImage, width: u32, height: u32) -> RgbImage {
    if image.dimensions() == (width, height) {
        return image.convert();
    }
    let mut weighted = image.clone();
    for pixel in weighted.pixels_mut() {
        let alpha = u32::from(pixel[3]);
        for value in &mut pixel.0[..3] {
            // value * alpha / 255, rounded
            let product = u32::from(*value) * alpha + 128;
            *value = (((product >> 8) + product) >> 8) as u8;
        }
    }
    let mut resized = bicubic(&weighted, width, height);
    for pixel in resized.pixels_mut() {
        let alpha = u32::from(pixel[3]);
        if alpha != 0 && alpha != 255 {
            for value in &mut pixel.0[..3] {
                *value = (255 * u32::from(*value) / alpha).min(255) as u8;
            }
        }
    }
    resized.convert()
}

fn along_rows<P: Pixel<Subpixel = u8>>(image: &Bytes<P>, width: u32, filter: Filter) -> Bytes<P> {
    if width == image.width() {
        return image.clone();
    }
    let channels = usize::from(P::CHANNEL_COUNT);
    let windows = fixed(image.width() as usize, width as usize, filter);
    let mut resized = Bytes::new(width, image.height());
    let stride = channels * image.width() as usize;
    let rows = image.as_raw().chunks_exact(stride);
    for (row, output) in rows.zip(resized.chunks_exact_mut(channels * width as usize)) {
        for (window, output) in windows.iter().zip(output.chunks_exact_mut(channels)) {
            for (channel, output) in output.iter_mut().enumerate() {
                let input = row[window.start * channels + channel..].iter();
                *output = weigh(input.step_by(channels).copied(), &window.weights);
            }
        }
    }
    resized
}

fn along_columns<P: Pixel<Subpixel = u8>>(
    image: &Bytes<P>,
    height: u32,
    filter: Filter,
) -> Bytes<P> {
    if height == image.height() {
        return image.clone();
    }
    let stride = usize::from(P::CHANNEL_COUNT) * image.width() as usize;
    let windows = fixed(image.height() as usize, height as usize, filter);
    let mut resized = Bytes::new(image.width(), height);
    let input = image.as_raw();
    for (window, output) in windows.iter().zip(resized.chunks_exact_mut(stride)) {
        for (x, output) in output.iter_mut().enumerate() {
            let column = input[window.start * stride + x..].iter();
            *output = weigh(column.step_by(stride).copied(), &window.weights);
        }
    }
    resized
}

fn weigh(samples: impl Iterator<Item = u8>, weights: &[i32]) -> u8 {
    let half = 1 << (PRECISION - 1);
    let sum = samples.zip(weights).fold(half, |sum, (sample, weight)| {
        sum + i32::from(sample) * weight
    });
    (sum >> PRECISION).clamp(0, 255) as u8
}

/// [`windows`] in fixed point.
fn fixed(from: usize, to: usize, filter: Filter) -> Vec<Window> {
    let fixed = |weight: &f64| {
        let weight = weight * f64::from(1 << PRECISION);
        (weight + 0.5_f64.copysign(weight)) as i32
    };
    let windows = windows(from, to, filter).into_iter();
    windows
        .map(|window| Window {
            start: window.start,
            weights: window.weights.iter().map(fixed).collect(),
        })
        .collect()
}

/// One window for each of `to` output pixels over `from` input pixels; its weights add up to 1.
pub(crate) fn windows(from: usize, to: usize, filter: Filter) -> Vec<Window<f64>> {
    let scale = from as f64 / to as f64;
    let stretch = scale.max(1.0);
    let reach = filter.reach() * stretch;
    (0..to)
        .map(|index| {
            let center = (index as f64 + 0.5) * scale;
            let start = (center - reach + 0.5).max(0.0) as usize;
            let end = ((center + reach + 0.5) as usize).min(from);
            // Pillow multiplies by the inverse, which rounds differently from a division.
            let shrink = 1.0 / stretch;
            let weights: Vec<f64> = (start..end)
                .map(|x| filter.weight((x as f64 - center + 0.5) * shrink))
                .collect();
            let sum = weights.iter().fold(0.0, |sum, weight| sum + weight);
            Window {
                start,
                weights: weights.iter().map(|weight| weight / sum).collect(),
            }
        })
        .collect()
}

impl Filter {
    /// In pixels to each side.
    fn reach(self) -> f64 {
        match self {
            Self::Bilinear => 1.0,
            Self::Bicubic => 2.0,
        }
    }

    fn weight(self, x: f64) -> f64 {
        match self {
            Self::Bilinear => (1.0 - x.abs()).max(0.0),
            Self::Bicubic => cubic(x),
        }
    }
}

/// The cubic convolution kernel with a = -1/2.
fn cubic(x: f64) -> f64 {
    const A: f64 = -0.5;
    let x = x.abs();
    if x < 1.0 {
        ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        (((x - 5.0) * x + 8.0) * x - 4.0) * A
    } else {
        0.0
    }
}

#[cfg(test)]
mod tests {
    use image::Rgba;
    use proptest::prelude::*;

    use super::*;

    fn noise(width: u32, height: u32, seed: u32) -> RgbImage {
        RgbImage::from_fn(width, height, |x, y| {
            let hash = (x.wrapping_mul(0x9e37_79b1) ^ y.wrapping_mul(0x85eb_ca77) ^ seed)
                .wrapping_mul(0xc2b2_ae35);
            Rgb([(hash >> 24) as u8, (hash >> 16) as u8, (hash >> 8) as u8])
        })
    }

    proptest! {
        #[test]
        fn the_same_size_is_the_same_image(w in 1u32..40, h in 1u32..40, seed: u32) {
            let image = noise(w, h, seed);
            prop_assert_eq!(&bicubic(&image, w, h), &image);
            prop_assert_eq!(&nearest(&image, w, h), &image);
        }

        #[test]
        fn one_colour_stays_one_colour(
            w in 1u32..40, h in 1u32..40, to_w in 1u32..40, to_h in 1u32..40, level: u8,
        ) {
            let flat = |w, h| RgbImage::from_pixel(w, h, Rgb([level; 3]));
            prop_assert_eq!(bicubic(&flat(w, h), to_w, to_h), flat(to_w, to_h));
        }

        #[test]
        fn opaque_pictures_resize_as_colours(
            w in 1u32..40, h in 1u32..40, to_w in 1u32..40, to_h in 1u32..40, seed: u32,
        ) {
            let image = noise(w, h, seed);
            let opaque: RgbaImage = image.convert();
            prop_assert_eq!(bicubic_rgba(&opaque, to_w, to_h), bicubic(&image, to_w, to_h));
        }

        #[test]
        fn padding_is_as_if_the_square_were_made(
            w in 1u32..40, h in 1u32..40, size in 1u32..40, seed: u32, fill: u8,
        ) {
            let image = noise(w, h, seed);
            let side = w.max(h);
            let mut square = RgbImage::from_pixel(side, side, Rgb([fill; 3]));
            let (left, top) = ((side - w) / 2, (side - h) / 2);
            image::imageops::replace(&mut square, &image, left.into(), top.into());
            prop_assert_eq!(bicubic_padded(&image, size, fill), bicubic(&square, size, size));
        }

        #[test]
        fn nearest_invents_no_colours(w in 1u32..40, h in 1u32..40, to in 1u32..80, seed: u32) {
            let image = noise(w, h, seed);
            let resized = nearest(&image, to, to);
            prop_assert!(resized.pixels().all(|pixel| image.pixels().any(|known| known == pixel)));
        }
    }

    #[test]
    fn invisible_pixels_do_not_bleed() {
        let image = RgbaImage::from_fn(8, 8, |x, _| {
            if x < 4 {
                Rgba([255, 0, 0, 255])
            } else {
                Rgba([0, 255, 0, 0])
            }
        });
        let resized = bicubic_rgba(&image, 5, 5);
        assert!(resized.pixels().all(|pixel| pixel[1] == 0), "{resized:?}");
    }
}
