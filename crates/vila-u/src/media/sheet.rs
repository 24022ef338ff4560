//! Several images in one: contact sheets and comparisons.

use image::{Rgb, RgbImage, imageops};

/// White pixels between images.
const GAP: u32 = 2;

/// The images in rows of `columns`, each in the top left corner of its cell.
pub fn grid(images: &[RgbImage], columns: usize) -> RgbImage {
    let columns = columns.clamp(1, images.len().max(1));
    let rows = images.len().div_ceil(columns);
    let width = images.iter().map(RgbImage::width).max().unwrap_or(0);
    let height = images.iter().map(RgbImage::height).max().unwrap_or(0);
    let extent = |size: u32, count: usize| ((size + GAP) * count as u32).saturating_sub(GAP);
    let mut sheet =
        RgbImage::from_pixel(extent(width, columns), extent(height, rows), Rgb([255; 3]));
    for (index, image) in images.iter().enumerate() {
        let (row, column) = ((index / columns) as u32, (index % columns) as u32);
        let (x, y) = (column * (width + GAP), row * (height + GAP));
        imageops::replace(&mut sheet, image, x.into(), y.into());
    }
    sheet
}

/// The images in one row.
pub fn side_by_side(images: &[RgbImage]) -> RgbImage {
    grid(images, images.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_are_apart_and_the_last_row_may_be_short() {
        let dot = |level| RgbImage::from_pixel(3, 2, Rgb([level; 3]));
        let sheet = grid(&[dot(1), dot(2), dot(3)], 2);
        assert_eq!(sheet.dimensions(), (8, 6));
        assert_eq!(sheet.get_pixel(5, 0).0, [2; 3]);
        assert_eq!(sheet.get_pixel(0, 4).0, [3; 3]);
        assert_eq!(sheet.get_pixel(4, 0).0, [255; 3]);
        assert_eq!(grid(&[], 3).dimensions(), (0, 0));
        assert_eq!(side_by_side(&[dot(1), dot(2)]).dimensions(), (8, 2));
    }
}
