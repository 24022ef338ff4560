//! Pixels -> image files.

use std::{io::Cursor, path::Path};

use image::{ImageFormat, RgbImage};

use crate::{Error, Result, atomic};

/// The tower's output `[3, height, width]` as an image: -1 is black, 1 is full, what lies outside is
/// cut off.
pub(crate) fn to_rgb(pixels: &[f32], width: u32, height: u32) -> RgbImage {
    let plane = width as usize * height as usize;
    RgbImage::from_fn(width, height, |x, y| {
        let at = y as usize * width as usize + x as usize;
        let byte = |channel: usize| {
            let value = pixels.get(channel * plane + at).copied().unwrap_or(-1.0);
            ((value + 1.0) * 127.5).clamp(0.0, 255.0) as u8
        };
        image::Rgb([byte(0), byte(1), byte(2)])
    })
}

/// Writes a PNG file; on any failure the file at `path` is as it was.
///
/// ```no_run
/// use vila_u::{image::RgbImage, media::save_png};
///
/// save_png("black.png".as_ref(), &RgbImage::new(64, 64))?;
/// # Ok::<(), vila_u::Error>(())
/// ```
pub fn save_png(path: &Path, image: &RgbImage) -> Result<()> {
    let mut bytes = Vec::new();
    image
        .write_to(&mut Cursor::new(&mut bytes), ImageFormat::Png)
        .map_err(|error| Error::invalid(path, format!("cannot be written: {error}")))?;
    atomic::write(path, &bytes)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::media::{load, preprocess::normalize};

    #[test]
    fn what_is_written_is_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.png");
        let image = RgbImage::from_fn(5, 3, |x, y| image::Rgb([x as u8, y as u8, 255]));
        save_png(&path, &image).unwrap();
        assert_eq!(load(&path).unwrap().rgb(), image);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
        assert!(save_png(&folder.path().join("none/a.png"), &image).is_err());
    }

    #[test]
    fn bytes_survive_the_way_through_floats() {
        let image = RgbImage::from_fn(256, 1, |x, _| image::Rgb([x as u8; 3]));
        let back = to_rgb(&normalize(&image), 256, 1);
        let apart = |(a, b): (&u8, &u8)| a.abs_diff(*b);
        assert!(image.iter().zip(back.iter()).map(apart).max() <= Some(1));
        let beyond = to_rgb(&[-7.0, 7.0, f32::NAN], 1, 1);
        assert_eq!(beyond.into_raw(), [0, 255, 0]);
    }
}
