//! H.264 frames to RGB and back, with OpenH264.
//!
//! A pixel's luma is `Y = kr R + (1 - kr - kb) G + kb B`, its chroma `Cb = (B - Y) / (2 - 2 kb)` and
//! `Cr = (R - Y) / (2 - 2 kr)`, one of each for 2 x 2 pixels (ITU-T H.273, section 8.3).

use image::{Rgb, RgbImage};
use openh264::{
    OpenH264API,
    decoder::{self, DecodedYUV, DecoderConfig, Flush},
    encoder::{
        BitRate, Complexity, Encoder, EncoderConfig, FrameRate, FrameType, QpRange,
        RateControlMode, VuiConfig,
    },
    formats::{RgbSliceU8, YUVBuffer, YUVSource},
};

use super::h264_colours::Colours;
use crate::{Error, Result};

/// Decodes one frame after the other.
pub(super) struct Decoder {
    decoder: decoder::Decoder,
    colours: Colours,
}

/// A decoded frame.
pub(super) struct Frame<'a> {
    planes: DecodedYUV<'a>,
    colours: Colours,
}

impl Decoder {
    pub(super) fn new(colours: Colours) -> Result<Self> {
        // Frames that are decoded before they are shown wait until it is their turn.
        let config = DecoderConfig::new().flush_after_decode(Flush::NoFlush);
        let decoder = decoder::Decoder::with_api_config(OpenH264API::from_source(), config);
        Ok(Self {
            decoder: decoder
                .map_err(|error| Error::failed(format!("no H.264 decoder: {error}")))?,
            colours,
        })
    }

    /// Takes the units of one coded frame, with start codes. Gives the next frame to be shown, if one
    /// is ready; none for what cannot be decoded.
    pub(super) fn decode(&mut self, units: &[u8]) -> Option<Frame<'_>> {
        let planes = self.decoder.decode(units).ok()??;
        Some(Frame {
            planes,
            colours: self.colours,
        })
    }

    /// The frames that still wait.
    pub(super) fn rest(&mut self) -> Vec<Frame<'_>> {
        let colours = self.colours;
        let rest = self.decoder.flush_remaining().unwrap_or_default();
        let frame = |planes| Frame { planes, colours };
        rest.into_iter().map(frame).collect()
    }
}

impl Frame<'_> {
    pub(super) fn rgb(&self) -> RgbImage {
        let (width, height) = self.planes.dimensions();
        let (y_stride, c_stride, _) = self.planes.strides();
        let Colours { weights, full } = self.colours;
        let [kr, kb] = weights;
        let kg = 1.0 - kr - kb;
        let (black, luma, chroma) = if full {
            (0.0, 255.0, 255.0)
        } else {
            (16.0, 219.0, 224.0)
        };
        let at = |plane: &[u8], index: usize| f32::from(plane.get(index).copied().unwrap_or(128));
        let (y, u, v) = (self.planes.y(), self.planes.u(), self.planes.v());
        RgbImage::from_fn(width as u32, height as u32, |column, row| {
            let (column, row) = (column as usize, row as usize);
            let place = row / 2 * c_stride + column / 2;
            let y = (at(y, row * y_stride + column) - black) / luma;
            let cb = (at(u, place) - 128.0) / chroma;
            let cr = (at(v, place) - 128.0) / chroma;
            let red = y + 2.0 * (1.0 - kr) * cr;
            let blue = y + 2.0 * (1.0 - kb) * cb;
            let green = (y - kr * red - kb * blue) / kg;
            Rgb([red, green, blue].map(|value| (value * 255.0).round().clamp(0.0, 255.0) as u8))
        })
    }
}

/// A coded frame, its units with start codes.
pub(super) struct Coded {
    pub units: Vec<u8>,
    /// It can be decoded without those before it.
    pub key: bool,
}

/// Codes frames of one size, so finely that no blocks are seen.
pub(super) fn encode(
    frames: &[RgbImage],
    rate: u32,
) -> std::result::Result<Vec<Coded>, openh264::Error> {
    let config = EncoderConfig::new()
        .rate_control_mode(RateControlMode::Bufferbased)
        .bitrate(BitRate::from_bps(20_000_000))
        .qp(QpRange::new(4, 16))
        .max_frame_rate(FrameRate::from_hz(rate as f32))
        .skip_frames(false)
        .complexity(Complexity::High)
        .num_threads(1)
        .vui(VuiConfig::bt601());
    let mut encoder = Encoder::with_api_config(OpenH264API::from_source(), config)?;
    let mut coded = Vec::with_capacity(frames.len());
    for frame in frames {
        let frame = even(frame);
        let size = (frame.width() as usize, frame.height() as usize);
        let planes = YUVBuffer::from_rgb_source(RgbSliceU8::new(frame.as_raw(), size));
        let stream = encoder.encode(&planes)?;
        coded.push(Coded {
            key: matches!(stream.frame_type(), FrameType::IDR),
            units: stream.to_vec(),
        });
    }
    Ok(coded)
}

/// The chroma of 2 x 2 pixels is one: the last column and row of an odd size are repeated.
fn even(frame: &RgbImage) -> RgbImage {
    let (width, height) = frame.dimensions();
    let even = |size: u32| size + size % 2;
    RgbImage::from_fn(even(width), even(height), |x, y| {
        *frame.get_pixel(x.min(width - 1), y.min(height - 1))
    })
}
