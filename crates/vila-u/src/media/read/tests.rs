#![allow(clippy::unwrap_used)]
use image::{ColorType, ImageEncoder, Luma, Rgb, codecs::jpeg::JpegEncoder, codecs::png};
use proptest::prelude::*;

use super::*;

fn png(pixels: &[u8], width: u32, height: u32, color: ColorType) -> Vec<u8> {
    let mut file = Vec::new();
    png::PngEncoder::new(&mut file)
        .write_image(pixels, width, height, color.into())
        .unwrap();
    file
}

#[test]
fn sixteen_bits_keep_the_high_byte() {
    let values: Vec<u8> = [0x1234_u16, 0xff00]
        .iter()
        .flat_map(|v| v.to_ne_bytes())
        .collect();
    let gray = decode(&png(&values, 2, 1, ColorType::L16)).unwrap();
    assert_eq!(gray.rgb().into_raw(), [0x12, 0x12, 0x12, 0xff, 0xff, 0xff]);
    let alpha = decode(&png(&values, 1, 1, ColorType::La16)).unwrap();
    assert!(matches!(alpha, Picture::Rgba(image) if image.as_raw() == &[0x12, 0x12, 0x12, 0xff]));
}

#[test]
fn stored_orientation_is_applied() {
    // Orientation 6: the top of the picture is at the right, as of a phone held upright.
    let mut exif = b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0".to_vec();
    exif.extend([0; 4]);
    let image = RgbImage::from_fn(24, 8, |x, _| Rgb([if x < 8 { 255 } else { 0 }; 3]));
    let mut file = Vec::new();
    let mut encoder = JpegEncoder::new_with_quality(&mut file, 100);
    encoder.set_exif_metadata(exif).unwrap();
    encoder.encode_image(&image).unwrap();
    let upright = decode(&file).unwrap().rgb();
    assert_eq!(upright.dimensions(), (8, 24));
    assert!(upright.get_pixel(4, 3)[0] > 250 && upright.get_pixel(4, 12)[0] < 5);
}

#[test]
fn files_that_are_no_images_or_too_large_are_errors() {
    assert!(decode(b"").is_err());
    assert!(
        decode(b"not an image")
            .unwrap_err()
            .to_string()
            .contains("PNG")
    );
    let pointer = decode(b"version https://git-lfs.github.com/spec/v1\n").unwrap_err();
    assert!(pointer.to_string().contains("git lfs pull"), "{pointer}");
    let mut bomb = png(&[0; 3], 1, 1, ColorType::Rgb8);
    bomb[16..24].copy_from_slice(&[0, 0, 0xff, 0xff, 0, 0, 0xff, 0xff]);
    let crc = crc32(&bomb[12..29]).to_be_bytes();
    bomb[29..33].copy_from_slice(&crc);
    let error = decode(&bomb).unwrap_err().to_string();
    assert!(
        error.contains("65535 x 65535") && error.contains("--max-input-memory"),
        "{error}"
    );
    let path = Path::new("no such file.png");
    assert!(
        load(path)
            .unwrap_err()
            .to_string()
            .starts_with("no such file.png")
    );
}

/// As PNG checks its chunks with.
fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = flate2::Crc::new();
    crc.update(bytes);
    crc.sum()
}

#[test]
fn a_jpeg_that_is_cut_short_is_refused() {
    let mut file = Vec::new();
    let image = RgbImage::from_fn(64, 64, |x, y| Rgb([x as u8, y as u8, 0]));
    JpegEncoder::new(&mut file).encode_image(&image).unwrap();
    assert!(decode(&file).is_ok());
    for length in [file.len() / 10, file.len() / 2, file.len() - 1] {
        let error = decode(&file[..length]).unwrap_err().to_string();
        assert!(error.contains("cut short"), "{length}: {error}");
    }
}

fn some_files() -> Vec<Vec<u8>> {
    let gray = image::ImageBuffer::from_fn(9, 7, |x, y| Luma([(x * y) as u8]));
    let image = DynamicImage::from(gray);
    let formats = [
        ImageFormat::Png,
        ImageFormat::Jpeg,
        ImageFormat::Gif,
        ImageFormat::WebP,
        ImageFormat::Bmp,
        ImageFormat::Tiff,
    ];
    let encode = |format| {
        let mut file = Cursor::new(Vec::new());
        image.to_rgb8().write_to(&mut file, format).unwrap();
        file.into_inner()
    };
    formats.into_iter().map(encode).collect()
}

#[test]
fn every_format_is_told_from_its_content() {
    for file in some_files() {
        assert_eq!(decode(&file).unwrap().dimensions(), (9, 7));
    }
}

proptest! {
    #[test]
    fn damaged_files_never_panic(
        file in prop::sample::select(some_files()),
        at in any::<prop::sample::Index>(),
        byte: u8,
        cut: bool,
    ) {
        let mut file = file;
        let at = at.index(file.len());
        file[at] = byte;
        if cut {
            file.truncate(at);
        }
        let _ = decode(&file);
    }
}
