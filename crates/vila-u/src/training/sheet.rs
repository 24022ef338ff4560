//! Pictures between images and model values, and side by side on a sheet.

use std::io::Cursor;
use std::path::Path;

use image::imageops::replace;
use image::{ImageFormat, Rgb, RgbImage};

use crate::{Error, Result, atomic};

/// The values of a picture, `[3, height, width]` in -1..1.
pub fn pixels_of(picture: &RgbImage) -> impl Iterator<Item = f32> {
    let channel = |channel: usize| {
        let values = picture.pixels().map(move |pixel| pixel[channel]);
        values.map(|value| f32::from(value) / 127.5 - 1.0)
    };
    channel(0).chain(channel(1)).chain(channel(2))
}

/// Writes a PNG with one picture of each of `rows` below the other, `columns` side by side.
///
/// A row holds `[pictures, 3, size, size]` in -1..1.
pub fn save_sheet(path: &Path, size: usize, columns: usize, rows: &[Vec<f32>]) -> Result<()> {
    let plane = size * size;
    let pictures = rows.first().map_or(0, |row| row.len() / (3 * plane));
    let blocks = pictures.div_ceil(columns);
    let side = size as u32;
    let mut sheet = RgbImage::new(columns as u32 * side, (blocks * rows.len()) as u32 * side);
    for (below, row) in rows.iter().enumerate() {
        for (index, values) in row.chunks_exact(3 * plane).enumerate() {
            let picture = RgbImage::from_fn(side, side, |x, y| {
                let at = (y * side + x) as usize;
                Rgb([0, 1, 2].map(|channel| ((values[channel * plane + at] + 1.0) * 127.5) as u8))
            });
            let (x, y) = (index % columns, index / columns * rows.len() + below);
            replace(&mut sheet, &picture, (x * size) as i64, (y * size) as i64);
        }
    }
    let mut png = Cursor::new(Vec::new());
    sheet
        .write_to(&mut png, ImageFormat::Png)
        .map_err(|error| Error::failed(format!("{}: {error}", path.display())))?;
    atomic::write(path, png.get_ref())
}
