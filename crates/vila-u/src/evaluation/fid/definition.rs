//! What the network is shown of a picture, as each of the usual implementations of FID has it.

use image::RgbImage;

use crate::{
    Error, Result,
    evaluation::inception::SIZE,
    media::resize::{Filter, columns_first, windows},
};

const SIDE: u32 = SIZE as u32;
const PLANE: usize = SIZE * SIZE;

/// An implementation of FID. They differ in how a picture becomes one of 299 x 299 and in nothing else; all see pictures
/// of 8 bits a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Definition {
    /// <https://github.com/toshas/torch-fidelity>, which repeats the first implementation in TensorFlow 1
    TorchFidelity,
    /// <https://github.com/mseitzer/pytorch-fid>
    PytorchFid,
    /// <https://github.com/GaParmar/clean-fid> in its mode `clean` (arXiv 2104.11222)
    CleanFid,
}

impl Definition {
    pub const ALL: [Self; 3] = [Self::TorchFidelity, Self::PytorchFid, Self::CleanFid];

    pub fn name(self) -> &'static str {
        match self {
            Self::TorchFidelity => "torch-fidelity",
            Self::PytorchFid => "pytorch-fid",
            Self::CleanFid => "clean-fid",
        }
    }

    /// The definition of that name, or a usage error that lists them.
    pub fn parse(name: &str) -> Result<Self> {
        let known = Self::ALL.into_iter().find(|one| one.name() == name);
        known.ok_or_else(|| {
            let names = Self::ALL.map(Self::name).join(", ");
            Error::usage(format!("unknown definition {name}: choose one of {names}"))
        })
    }

    /// It in a sentence.
    pub fn describe(self) -> &'static str {
        match self {
            Self::TorchFidelity => {
                "torch-fidelity: 8-bit RGB, bilinear to 299 x 299 as TensorFlow 1 did it (corners aligned at the top \
                 left, no antialiasing), (x - 128) / 128"
            }
            Self::PytorchFid => {
                "pytorch-fid: 8-bit RGB, bilinear to 299 x 299 as torch's interpolate does it (pixel centres, no \
                 antialiasing), 2 x / 255 - 1"
            }
            Self::CleanFid => {
                "clean-fid, mode clean: 8-bit RGB, bicubic to 299 x 299 with antialiasing as Pillow does it on floats, \
                 not rounded, clipped to 0..255, (x - 128) / 128"
            }
        }
    }

    /// What the network is shown, `[3, 299, 299]`, channels first, about -1..1.
    pub fn prepare(self, image: &RgbImage) -> Vec<f32> {
        let (mut values, scale): (_, fn(f32) -> f32) = match self {
            Self::TorchFidelity => (bilinear(image, 0.0), |x| (x - 128.0) / 128.0),
            Self::PytorchFid => (bilinear(image, 0.5), |x| 2.0 * (x / 255.0) - 1.0),
            Self::CleanFid => (bicubic(image), |x| (x.clamp(0.0, 255.0) - 128.0) / 128.0),
        };
        for value in &mut values {
            *value = scale(*value);
        }
        values
    }
}

/// The two neighbours of a place, and how far it is from the first, 0..1.
struct Between {
    low: usize,
    high: usize,
    part: f32,
}

/// Each of 299 places among `from` pixels. `center`: where a pixel's middle is, 0 or 0.5.
fn places(from: u32, center: f32) -> Vec<Between> {
    let scale = from as f32 / SIZE as f32;
    let last = from as usize - 1;
    (0..SIZE)
        .map(|index| {
            let at = (scale * (index as f32 + center) - center).max(0.0);
            let low = (at as usize).min(last);
            Between {
                low,
                high: (low + 1).min(last),
                part: at - low as f32,
            }
        })
        .collect()
}

/// Between the four nearest pixels, in f32, 0..255.
fn bilinear(image: &RgbImage, center: f32) -> Vec<f32> {
    let (width, height) = image.dimensions();
    let (columns, rows) = (places(width, center), places(height, center));
    let mut values = Vec::with_capacity(3 * PLANE);
    for channel in 0..3 {
        for row in &rows {
            for column in &columns {
                let along = |y: usize| {
                    let pixel = |x: usize| {
                        f32::from(image.as_raw()[3 * (y * width as usize + x) + channel])
                    };
                    let (low, high) = (pixel(column.low), pixel(column.high));
                    low + (high - low) * column.part
                };
                let (low, high) = (along(row.low), along(row.high));
                values.push(low + (high - low) * row.part);
            }
        }
    }
    values
}

/// Pillow's on one channel of floats (mode F) after the other: sums in f64, f32 after each pass, which may leave 0..255.
fn bicubic(image: &RgbImage) -> Vec<f32> {
    let (width, height) = image.dimensions();
    let size = [width as usize, height as usize];
    let mut values = Vec::with_capacity(3 * PLANE);
    for channel in 0..3 {
        let plane: Vec<f32> = image
            .pixels()
            .map(|pixel| f32::from(pixel[channel]))
            .collect();
        values.extend(if columns_first(image.dimensions(), [SIDE; 2]) {
            along_rows(&along_columns(&plane, size), size[0])
        } else {
            along_columns(&along_rows(&plane, size[0]), [SIZE, size[1]])
        });
    }
    values
}

/// Rows of `width` values to rows of 299.
fn along_rows(plane: &[f32], width: usize) -> Vec<f32> {
    if width == SIZE {
        return plane.to_vec();
    }
    let windows = windows(width, SIZE, Filter::Bicubic);
    let rows = plane.chunks_exact(width);
    rows.flat_map(|row| {
        windows.iter().map(|window| {
            let values = row[window.start..].iter().zip(&window.weights);
            values
                .map(|(value, weight)| f64::from(*value) * weight)
                .sum::<f64>() as f32
        })
    })
    .collect()
}

/// Columns of `height` values to columns of 299.
fn along_columns(plane: &[f32], [width, height]: [usize; 2]) -> Vec<f32> {
    if height == SIZE {
        return plane.to_vec();
    }
    let mut resized = Vec::with_capacity(width * SIZE);
    for window in windows(height, SIZE, Filter::Bicubic) {
        let mut row = vec![0.0; width];
        for (weight, values) in window
            .weights
            .iter()
            .zip(plane[window.start * width..].chunks_exact(width))
        {
            for (sum, value) in row.iter_mut().zip(values) {
                *sum += f64::from(*value) * weight;
            }
        }
        resized.extend(row.into_iter().map(|sum| sum as f32));
    }
    resized
}

#[cfg(test)]
mod tests {
    use image::Rgb;

    use super::*;

    #[test]
    fn one_colour_stays_one_colour() {
        for (width, height) in [(1, 1), (7, 400), (299, 299), (640, 480)] {
            let image = RgbImage::from_pixel(width, height, Rgb([0, 128, 255]));
            for definition in Definition::ALL {
                let values = definition.prepare(&image);
                assert_eq!(values.len(), 3 * PLANE);
                let highest = match definition {
                    Definition::PytorchFid => 1.0,
                    _ => 127.0 / 128.0,
                };
                for (plane, expected) in values.chunks_exact(PLANE).zip([-1.0, 0.0, highest]) {
                    let close = plane.iter().all(|value| (value - expected).abs() < 0.005);
                    assert!(close, "{definition:?} of {width} x {height}: {}", plane[0]);
                }
            }
        }
    }

    #[test]
    fn names_are_read_back() {
        for definition in Definition::ALL {
            assert_eq!(Definition::parse(definition.name()).ok(), Some(definition));
        }
        let error = Definition::parse("fid").map_err(|error| error.to_string());
        assert!(error.is_err_and(|error| error.contains("clean-fid")));
    }
}
