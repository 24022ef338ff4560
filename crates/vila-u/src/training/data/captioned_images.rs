//! Samples of the tower's stages: pictures and their captions.

use std::sync::Arc;

use super::dataloader::MakeSample;
use crate::data::{KindWeights, Pictures, Record, SampleKind};
use crate::media::preprocess::{ResizeMode, pixels};
use crate::text::SiglipTokenizer;
use crate::{Error, Result};

/// A picture and its caption, on the host.
#[derive(Clone)]
pub(crate) struct CaptionedImage {
    /// `[3, size, size]` in -1..1
    pub pixels: Vec<f32>,
    /// `[tokens]`
    pub ids: Vec<i64>,
}

/// Makes captioned pictures of records.
#[derive(Clone)]
pub(crate) struct CaptionedImageMaker {
    pub tokenizer: Arc<SiglipTokenizer>,
    /// Width and height of a picture, in pixels.
    pub size: usize,
}

impl MakeSample for CaptionedImageMaker {
    type Sample = CaptionedImage;

    fn kinds(&self) -> KindWeights {
        KindWeights::only(SampleKind::Caption)
    }

    /// Its first picture, cropped to a square, and what stands beside it.
    fn make(&self, _n: u64, record: Record) -> Result<CaptionedImage> {
        let caption = record.caption();
        let caption = caption.ok_or_else(|| Error::usage("no text stands beside its picture"))?;
        let (Pictures::Images(images) | Pictures::Frames(images)) = &record.pictures else {
            return Err(Error::usage("a video is no picture with a caption"));
        };
        let image = images.first();
        let image = image
            .ok_or_else(|| Error::usage("has no picture"))?
            .read(self.size as u32)?;
        Ok(CaptionedImage {
            pixels: pixels(&image, self.size as u32, ResizeMode::Crop),
            ids: self.tokenizer.encode(caption),
        })
    }
}
