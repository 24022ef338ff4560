//! A record made ready for the model: the sample that it is, and what the vision tower sees of its
//! pictures.

use super::{Image, Pictures, Record, SampleKind, Text};
use crate::{
    Error, Result,
    media::{
        Picture,
        preprocess::{ResizeMode, pixels},
        video::{self, FrameSampling},
    },
    model::VilaUConfig,
    sequence::{Role, Sample, templates},
    text::{IMAGE_PLACEHOLDER, Tokenizer},
};

/// A sample and its pictures, read and made square.
#[derive(Debug, Clone)]
pub struct Prepared {
    pub sample: Sample,
    /// `[images, 3, size, size]` in -1..1, in reading order.
    pub pixels: Vec<f32>,
    /// Why pictures of a page are not in it: those that cannot be read.
    pub left_out: Vec<String>,
}

/// Reads the pictures of a record and makes it the sample that the model is trained with. A caption is one to be
/// predicted.
///
/// Pictures to look at are squeezed to a square (or padded, where the model's config says so),
/// pictures to generate are cropped to one. A page goes on without the pictures that cannot be read.
///
/// Errors name the record, or the file that cannot be read.
pub fn prepare(record: &Record, tokenizer: &Tokenizer, config: &VilaUConfig) -> Result<Prepared> {
    let named = |error| match error {
        Error::Usage(reason) => Error::usage(format!("record {}: {reason}", record.id)),
        error => error,
    };
    let looked_at = config.root.training_resize();
    let size = config.siglip.vision_config.image_size as u32;
    let square = |picture: &Picture, role: &Role| {
        if role.predicts_visual() {
            pixels(picture, size, ResizeMode::Crop)
        } else {
            pixels(picture, size, looked_at)
        }
    };
    let read = |images: &[Image], sample: &Sample| -> Result<Vec<f32>> {
        let mut values = Vec::new();
        for (image, role) in images.iter().zip(sample.images()) {
            values.extend(square(&image.read(size)?, &role));
        }
        Ok(values)
    };
    let mut left_out = Vec::new();
    let (sample, pixels) = match (&record.text, &record.pictures) {
        (Text::Turns(turns), Pictures::Images(images)) => {
            let sample = templates::chat(tokenizer, turns, images.len(), true).map_err(named)?;
            let pixels = read(images, &sample)?;
            (sample, pixels)
        }
        (Text::Asked(turns), Pictures::Images(images)) => {
            let sample = templates::chat_without_markers(tokenizer, turns, images.len(), true);
            let sample = sample.map_err(named)?;
            let pixels = read(images, &sample)?;
            (sample, pixels)
        }
        (Text::Turns(turns) | Text::Asked(turns), Pictures::Frames(images)) => {
            let sample =
                templates::video_chat(tokenizer, turns, images.len(), true).map_err(named)?;
            let pixels = read(images, &sample)?;
            (sample, pixels)
        }
        (Text::Turns(turns) | Text::Asked(turns), Pictures::Video(path)) => {
            let frames = config.root.num_video_frames;
            let sample = templates::video_chat(tokenizer, turns, frames, true).map_err(named)?;
            let pictures = video::frames(path, frames, FrameSampling::Training)?;
            let roles = sample.images();
            let squares = pictures.iter().zip(&roles);
            let pixels = squares.flat_map(|(picture, role)| square(picture, role));
            (sample, pixels.collect())
        }
        (Text::Page(text), Pictures::Images(images)) => {
            let mut parts = text.split(IMAGE_PLACEHOLDER);
            let mut text: String = parts.next().unwrap_or_default().into();
            let (mut pixels, mut shown) = (Vec::new(), 0);
            // Of a text that names another number of pictures, the rest is for the template to refuse.
            let mut images = images.iter();
            for part in parts {
                match images.next().map(|image| image.read(size)) {
                    Some(Err(error)) => left_out.push(error.to_string()),
                    Some(Ok(picture)) => {
                        pixels.extend(square(&picture, &Role::Document));
                        shown += 1;
                        text += IMAGE_PLACEHOLDER;
                    }
                    None => text += IMAGE_PLACEHOLDER,
                }
                text += part;
            }
            let given = shown + images.len();
            let sample = templates::document(tokenizer, &text, given).map_err(named)?;
            (sample, pixels)
        }
        (Text::Page(_), Pictures::Frames(_) | Pictures::Video(_)) => {
            return Err(named(Error::usage("a page has pictures, no video")));
        }
        (Text::Caption(_), _) => {
            let described = record.clone().of_kind(SampleKind::Caption);
            return prepare(&described, tokenizer, config);
        }
    };
    Ok(Prepared {
        sample,
        pixels,
        left_out,
    })
}
