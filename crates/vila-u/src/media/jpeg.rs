//! Whether a JPEG file is whole. Decoders fill what is missing of one with grey.

/// Start of scan, end of image.
const SCAN: u8 = 0xda;
const END: u8 = 0xd9;

/// Whether the file reaches the marker that ends its image (ITU-T T.81, annex B).
pub(super) fn is_whole(file: &[u8]) -> bool {
    let mut at = 2;
    loop {
        let Some(marker) = next_marker(file, &mut at) else {
            return false;
        };
        match marker {
            END => return true,
            // These stand alone.
            0x01 | 0xd0..=0xd8 => {}
            _ => {
                let Some([high, low]) = file.get(at..).and_then(|rest| rest.first_chunk()) else {
                    return false;
                };
                at += usize::from(u16::from_be_bytes([*high, *low])).max(2);
                if marker == SCAN {
                    at = scan_end(file, at);
                }
            }
        }
    }
}

/// The marker at or after `at`, which moves behind it. Bytes of 255 may stand before it.
fn next_marker(file: &[u8], at: &mut usize) -> Option<u8> {
    let start = file.get(*at..)?.windows(2);
    let (index, pair) = start
        .enumerate()
        .find(|(_, pair)| pair[0] == 0xff && !matches!(pair[1], 0 | 0xff))?;
    *at += index + 2;
    Some(pair[1])
}

/// Where the first marker after coded pixels stands: not one that only restarts the coding.
fn scan_end(file: &[u8], at: usize) -> usize {
    let pairs = file.get(at..).unwrap_or_default().windows(2);
    let ends = |pair: &[u8]| pair[0] == 0xff && !matches!(pair[1], 0 | 0xff | 0xd0..=0xd7);
    let length = pairs.enumerate().find(|(_, pair)| ends(pair));
    length.map_or(file.len(), |(index, _)| at + index)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use image::{RgbImage, codecs::jpeg::JpegEncoder};

    use super::*;

    #[test]
    fn every_cut_is_seen_and_what_follows_the_end_is_not() {
        let image = RgbImage::from_fn(40, 30, |x, y| image::Rgb([(x * y) as u8, 7, y as u8]));
        let mut file = Vec::new();
        JpegEncoder::new(&mut file).encode_image(&image).unwrap();
        assert!(is_whole(&file));
        assert!((0..file.len()).all(|length| !is_whole(&file[..length])));
        // Cameras add previews and more.
        file.extend([0xff, 0xd8, 7, 7]);
        assert!(is_whole(&file));
    }
}
