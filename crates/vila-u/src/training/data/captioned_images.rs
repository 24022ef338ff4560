//! Samples of the tower's stages: pictures and their captions.

use std::sync::Arc;

use super::dataloader::MakeSample;
use crate::data::{KindWeights, Layers, Pictures, Record, SampleKind};
use crate::media::preprocess::{ResizeMode, pixels};
use crate::text::SiglipTokenizer;
use crate::training::recipe::Recipe;
use crate::{Error, Result};

/// A picture and its caption, on the host.
#[derive(Clone)]
pub(crate) struct CaptionedImage {
    /// `[3, size, size]` in -1..1
    pub pixels: Vec<f32>,
    /// `[tokens]`
    pub ids: Vec<i64>,
    /// Where they are asked for.
    pub layers: Option<Layers>,
}

/// Makes captioned pictures of records.
#[derive(Clone)]
pub(crate) struct CaptionedImageMaker {
    pub tokenizer: Arc<SiglipTokenizer>,
    /// Width and height of a picture, in pixels.
    pub size: usize,
    /// Whether pictures are needed in layers.
    pub layers: bool,
}

impl CaptionedImageMaker {
    pub(crate) fn new(recipe: &Recipe, tokenizer: SiglipTokenizer, size: usize) -> Self {
        Self {
            tokenizer: Arc::new(tokenizer),
            size,
            layers: recipe.layer_codes().is_some(),
        }
    }
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
        let image = image.ok_or_else(|| Error::usage("has no picture"))?;
        let size = self.size as u32;
        let layers = if self.layers {
            let layers = image.layers(size);
            Some(layers.ok_or_else(|| {
                Error::usage(
                    "objective.layer_codes needs pictures in layers, as format = \"nano\" has them",
                )
            })?)
        } else {
            None
        };
        Ok(CaptionedImage {
            pixels: pixels(&image.read(size)?, size, ResizeMode::Crop),
            ids: self.tokenizer.encode(caption),
            layers,
        })
    }
}
