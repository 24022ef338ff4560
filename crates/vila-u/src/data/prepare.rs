//! A record made ready for the model: the sample that it is, and what the vision tower sees of its
//! pictures.

use super::Record;
use crate::{
    Error, Result,
    media::{self, preprocess::Mode, preprocess::pixels, video},
    model::VilaUConfig,
    sequence::{Role, Sample, form},
    text::Tokenizer,
};

/// A sample and its pictures, read and made square.
#[derive(Debug, Clone)]
pub struct Prepared {
    pub sample: Sample,
    /// `[images, 3, size, size]` in -1..1, in reading order.
    pub pixels: Vec<f32>,
}

/// Reads the pictures of a record and puts it in the form that the model is trained with.
///
/// Pictures to look at are squeezed to a square (or padded, where the model's config says so),
/// pictures to draw are cropped to one.
///
/// Errors name the record, or the file that cannot be read.
pub fn prepare(record: &Record, tokenizer: &Tokenizer, config: &VilaUConfig) -> Result<Prepared> {
    let frames = match form::makes_video(&record.turns) {
        true => form::VIDEO_FRAMES,
        false => config.root.num_video_frames,
    };
    let sample = match &record.video {
        Some(_) => form::video_chat(tokenizer, &record.turns, frames, true),
        None => form::chat(tokenizer, &record.turns, record.images.len(), true),
    };
    let sample = sample.map_err(|error| match error {
        Error::Usage(reason) => Error::usage(format!("record {}: {reason}", record.id)),
        error => error,
    })?;
    let looked_at = match config.root.image_aspect_ratio.as_str() {
        "pad" => Mode::Pad,
        _ => Mode::Understanding,
    };
    let size = config.siglip.vision_config.image_size as u32;
    let roles = sample.images();
    let mut values = Vec::new();
    let mut see = |picture: &media::Picture, role: Role| {
        let mode = match role.draws() {
            true => Mode::Generation,
            false => looked_at,
        };
        values.extend(pixels(picture, size, mode));
    };
    match &record.video {
        Some(path) => {
            let pictures = video::frames(path, frames)?;
            pictures
                .iter()
                .zip(roles)
                .for_each(|(picture, role)| see(picture, role));
        }
        None => {
            for (path, role) in record.images.iter().zip(roles) {
                see(&media::load(path)?, role);
            }
        }
    }
    Ok(Prepared {
        sample,
        pixels: values,
    })
}
