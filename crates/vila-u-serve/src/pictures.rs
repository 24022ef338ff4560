//! Pictures and videos of answers, as files.

use std::io::Cursor;

use base64::{Engine, engine::general_purpose::STANDARD};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use vila_u::{
    image::{
        ExtendedColorType, ImageEncoder, RgbImage,
        codecs::{jpeg::JpegEncoder, png::PngEncoder, webp::WebPEncoder},
        imageops::{self, FilterType},
    },
    media::video::{self, VideoFormat},
};

use crate::{app::Shared, errors::ApiError};

/// Pictures of one request.
pub const MAX_IMAGES: usize = 64;
/// Pixels of all of them.
const MAX_PIXELS: u64 = 1 << 24;
/// Wider or taller pictures are not made.
const MAX_SIDE: u32 = 2048;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum PictureFormat {
    #[default]
    Png,
    #[serde(alias = "jpg")]
    Jpeg,
    /// Without loss.
    Webp,
}

/// The content of a file, for the description of the API.
#[derive(ToSchema)]
#[schema(value_type = String, format = Binary)]
#[allow(dead_code, reason = "read by the macro alone")]
pub struct Binary(Vec<u8>);

/// How a picture is written.
#[derive(Clone, Copy, Default)]
pub struct Output {
    pub format: PictureFormat,
    /// Quality of JPEG, 1 to 100.
    pub quality: Option<u8>,
    /// The model's own size where none is given.
    pub size: Option<[u32; 2]>,
}

impl PictureFormat {
    pub fn mime(self) -> &'static str {
        match self {
            Self::Png => "image/png",
            Self::Jpeg => "image/jpeg",
            Self::Webp => "image/webp",
        }
    }
}

/// `auto` or `WxH`.
pub fn size(text: &str) -> Result<Option<[u32; 2]>, ApiError> {
    if text.eq_ignore_ascii_case("auto") {
        return Ok(None);
    }
    let sides = text.split_once(['x', 'X']);
    let sides = sides.and_then(|(width, height)| Some([width.parse().ok()?, height.parse().ok()?]));
    match sides {
        Some([width, height]) => checked_size(width, height).map(Some),
        None => Err(ApiError::invalid(format!(
            "size is {text:?}: write \"auto\", or width and height as in \"256x256\""
        ))
        .param("size")),
    }
}

pub fn checked_size(width: u32, height: u32) -> Result<[u32; 2], ApiError> {
    if [width, height]
        .iter()
        .all(|side| (1..=MAX_SIDE).contains(side))
    {
        return Ok([width, height]);
    }
    Err(ApiError::invalid(format!(
        "pictures of {width} x {height} pixels are not made: ask for 1 to {MAX_SIDE} each way, or \"auto\""
    ))
    .param("size"))
}

/// Refuses more than one answer should hold.
pub fn check_pixels(count: usize, [width, height]: [u32; 2]) -> Result<(), ApiError> {
    if count as u64 * u64::from(width) * u64::from(height) <= MAX_PIXELS {
        return Ok(());
    }
    Err(ApiError::invalid(format!(
        "{count} pictures of {width} x {height} pixels are too much at once: ask for fewer or smaller ones"
    ))
    .param("size"))
}

/// Runs what encodes pictures on a thread of its own, few at a time.
pub async fn encoding<T: Send + 'static>(
    app: &Shared,
    work: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    let permit = app.codecs.clone().acquire_owned().await;
    let done = tokio::task::spawn_blocking(move || {
        let done = work();
        drop(permit);
        done
    });
    let failed = |_| ApiError::failed("a picture could not be encoded");
    done.await.map_err(failed)?
}

pub async fn encode(app: &Shared, image: RgbImage, output: Output) -> Result<Vec<u8>, ApiError> {
    encoding(app, move || to_file(&image, output)).await
}

pub fn to_file(image: &RgbImage, output: Output) -> Result<Vec<u8>, ApiError> {
    let resized;
    let image = match output.size {
        Some([width, height]) if image.dimensions() != (width, height) => {
            resized = imageops::resize(image, width, height, FilterType::CatmullRom);
            &resized
        }
        _ => image,
    };
    let mut bytes = Cursor::new(Vec::new());
    let (width, height) = image.dimensions();
    let (pixels, rgb) = (image.as_raw(), ExtendedColorType::Rgb8);
    let written = match output.format {
        PictureFormat::Png => PngEncoder::new(&mut bytes).write_image(pixels, width, height, rgb),
        PictureFormat::Jpeg => {
            let quality = output.quality.unwrap_or(90).clamp(1, 100);
            JpegEncoder::new_with_quality(&mut bytes, quality)
                .write_image(pixels, width, height, rgb)
        }
        PictureFormat::Webp => {
            WebPEncoder::new_lossless(&mut bytes).write_image(pixels, width, height, rgb)
        }
    };
    written
        .map_err(|error| ApiError::failed(format!("a picture could not be encoded: {error}")))?;
    Ok(bytes.into_inner())
}

/// An MP4 of frames.
pub fn to_video(frames: &[RgbImage]) -> Result<Vec<u8>, ApiError> {
    Ok(video::encode(frames, video::RATE, VideoFormat::Mp4)?)
}

pub fn base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

pub fn data_url(mime: &str, bytes: &[u8]) -> String {
    format!("data:{mime};base64,{}", base64(bytes))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_bounded() {
        assert_eq!(size("auto").unwrap(), None);
        assert_eq!(size("512X256").unwrap(), Some([512, 256]));
        for text in ["", "x", "0x4", "4096x4", "4x99999999999", "-1x4", "big"] {
            assert!(size(text).is_err(), "{text}");
        }
    }
}
