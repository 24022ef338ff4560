//! Samples of the tower's stages: pictures and their captions.

use std::sync::Arc;

use super::dataloader::MakeSample;
use crate::data::nano::{Scene, Split, Video};
use crate::data::seed::mix;
use crate::data::{Pictures, Record};
use crate::media::preprocess::{ResizeMode, normalize, pixels};
use crate::sequence::templates::VIDEO_FRAMES;
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
}

/// Makes captioned pictures of scenes and records.
#[derive(Clone)]
pub(crate) struct CaptionedImageMaker {
    pub tokenizer: Arc<SiglipTokenizer>,
    /// Shares of the nano world's pictures that are of its gallery, and that are frames of its videos.
    gallery: f64,
    frames: f64,
    seed: u64,
    pub size: usize,
}

impl CaptionedImageMaker {
    pub(crate) fn new(recipe: &Recipe, tokenizer: Arc<SiglipTokenizer>, size: usize) -> Self {
        Self {
            tokenizer,
            gallery: recipe.data.gallery,
            frames: recipe.data.frames,
            seed: recipe.seed,
            size,
        }
    }

    /// Picture `index` of a split: a scene, art of the gallery, or a frame of a video.
    pub(crate) fn picture(&self, split: Split, seed: u64, index: u64) -> CaptionedImage {
        // Every so many pictures one is none of a scene, and of these every so many one is of the
        // gallery: exactly the shares, in any stretch.
        let others = self.gallery + self.frames;
        let count = |share: f64, index: u64| (index as f64 * share) as u64;
        let nth = count(others, index);
        if count(others, index + 1) == nth {
            return self.captioned(&Scene::sample(split, seed, index));
        }
        let gallery = self.gallery / others;
        if count(gallery, nth + 1) > count(gallery, nth) {
            return self.captioned(&Scene::sample_gallery(split, seed, index));
        }
        let video = Video::sample(split, seed, index);
        let t = (mix(seed, index) % VIDEO_FRAMES as u64) as f64 / (VIDEO_FRAMES - 1) as f64;
        CaptionedImage {
            pixels: normalize(&video.frame(t, self.size as u32)),
            ids: self.tokenizer.encode(&video.still().caption()),
        }
    }

    fn captioned(&self, scene: &Scene) -> CaptionedImage {
        CaptionedImage {
            pixels: normalize(&scene.render(self.size as u32)),
            ids: self.tokenizer.encode(&scene.caption()),
        }
    }
}

impl MakeSample for CaptionedImageMaker {
    type Sample = CaptionedImage;

    fn scene(&self, n: u64) -> Result<CaptionedImage> {
        Ok(self.picture(Split::Train, self.seed, n))
    }

    /// Its first picture, cropped to a square, and what stands beside it.
    fn record(&self, _n: u64, record: Record) -> Result<CaptionedImage> {
        let caption = record.caption();
        let caption = caption.ok_or_else(|| Error::usage("no text stands beside its picture"))?;
        let (Pictures::Images(images) | Pictures::Frames(images)) = &record.pictures else {
            return Err(Error::usage("a video is no picture with a caption"));
        };
        let image = images.first();
        let image = image
            .ok_or_else(|| Error::usage("has no picture"))?
            .read()?;
        Ok(CaptionedImage {
            pixels: pixels(&image, self.size as u32, ResizeMode::Crop),
            ids: self.tokenizer.encode(caption),
        })
    }
}
