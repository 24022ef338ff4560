//! Images through codes and back, beside captions, and made from captions.

use std::ops::ControlFlow;

use burn::tensor::{Int, Tensor, TensorData};
use image::RgbImage;
use rayon::prelude::*;

use super::{Bench, Generated, Quality, fit, right_of};
use crate::{
    Result,
    checkpoint::config::siglip_tokenizer,
    data::nano::{Layout, Scene},
    device::read_ints,
    evaluation::metrics::{Estimate, mean, psnr, ssim},
    generation::chat::{generate_images, image_prompt},
    media::{self, sheet, to_images},
};

/// Captions an image is matched with.
const WAYS: usize = 100;
/// Pictures the model works on at once.
const BATCH: usize = 16;
/// Pictures on a contact sheet, and in one of its rows.
const SHOWN: usize = 48;
const ACROSS: usize = 12;

impl Bench<'_> {
    /// Encodes and decodes every scene; gathers the codes met. Also a contact sheet, originals above what comes back.
    pub(super) fn reconstruct(
        &mut self,
        what: &str,
        scenes: &[Scene],
        codes: &mut Vec<i64>,
    ) -> Result<(Quality, RgbImage)> {
        let tower = &self.checkpoint.model.vision_tower.rqvaesiglip;
        let (mut psnrs, mut ssims, mut rows) = (Vec::new(), Vec::new(), Vec::new());
        for (batch, scenes_now) in scenes.chunks(ACROSS).enumerate() {
            let originals = self.render(scenes_now);
            let quantized = tower.encode(self.pixels(&originals));
            let pictures = to_images(tower.decode(quantized.z_q))?;
            codes.extend(read_ints(quantized.codes)?);
            for (original, picture) in originals.iter().zip(&pictures) {
                let original = resized(original, picture);
                psnrs.extend(psnr(&original, picture));
                ssims.extend(ssim(&original, picture));
            }
            if rows.len() < 2 * SHOWN {
                rows.extend(originals);
                rows.extend(pictures);
            }
            let done = (batch * ACROSS + scenes_now.len()).min(scenes.len());
            self.progress(what, done, scenes.len())?;
        }
        let quality = Quality {
            psnr: mean(&psnrs),
            ssim: mean(&ssims),
        };
        Ok((quality, sheet::grid(&rows, ACROSS)))
    }

    /// Groups of 100 scenes that differ in caption and picture: is the caption nearest to an image
    /// its own?
    pub(super) fn matching(&mut self, n: usize) -> Result<Estimate> {
        let config = &self.checkpoint.config;
        let tokenizer = siglip_tokenizer(
            &self.checkpoint.files,
            &config.vision_tower.rqvaesiglip,
            &config.siglip,
        )?;
        let tower = &self.checkpoint.model.vision_tower.rqvaesiglip;
        let groups = n.div_ceil(WAYS);
        let mut right = Vec::new();
        let mut next = 0;
        for group in 0..groups {
            let (mut captions, mut pictures) = (Vec::new(), Vec::new());
            while captions.len() < WAYS {
                let scene = Scene::sample(self.split, self.seed, next);
                next += 1;
                let (caption, picture) = (scene.caption(), scene.render(self.size as u32));
                if !captions.contains(&caption) && !pictures.contains(&picture) {
                    captions.push(caption);
                    pictures.push(picture);
                }
            }
            let ids: Vec<i64> = captions.iter().flat_map(|c| tokenizer.encode(c)).collect();
            let shape = [WAYS, ids.len() / WAYS];
            let ids = Tensor::<2, Int>::from_data(TensorData::new(ids, shape), &self.device);
            let texts = tower.text_embeds(ids);
            for (batch, pictures) in pictures.chunks(BATCH).enumerate() {
                let images = tower.image_embeds(self.pixels(pictures), true);
                let nearest = images.matmul(texts.clone().transpose()).argmax(1);
                let nearest = read_ints(nearest)?.into_iter();
                right.extend(
                    nearest
                        .zip(batch * BATCH..)
                        .map(|(at, own)| at == own as i64),
                );
                self.progress("matching", group * WAYS + batch * BATCH, groups * WAYS)?;
            }
        }
        Ok(right_of(&right))
    }

    /// Makes images of the captions of `n` scenes of one or several copies of an object, and reads them back. Also a
    /// contact sheet.
    pub(super) fn generation(&mut self, n: usize) -> Result<(Generated, RgbImage)> {
        let (model, tokenizer) = (&self.checkpoint.model, &self.checkpoint.tokenizer);
        let (split, seed) = (self.split, self.seed);
        let wanted: Vec<(Scene, _)> = (0..)
            .map(|index| Scene::sample(split, seed, index))
            .filter_map(|scene| match &scene.layout {
                Layout::Single { object, .. } | Layout::Copies { object, .. } => {
                    let object = *object;
                    Some((scene, object))
                }
                Layout::Pair { .. } | Layout::Free { .. } => None,
            })
            .take(n)
            .collect();
        let mut pictures = Vec::new();
        for (batch, now) in wanted.chunks(BATCH).enumerate() {
            let mut prompts = Vec::new();
            for (scene, _) in now {
                prompts.push(image_prompt(tokenizer, &scene.caption())?);
            }
            let options = self
                .checkpoint
                .generation
                .visual(seed.wrapping_add(batch as u64));
            let on_progress = &mut self.on_progress;
            let made = generate_images(model, tokenizer, &prompts, &options, &mut |progress| {
                let done = batch * BATCH + now.len() * progress.done / progress.total;
                if on_progress("generation", done, n) {
                    ControlFlow::Continue(())
                } else {
                    ControlFlow::Break(())
                }
            })?;
            pictures.extend(to_images(made.pixels.squeeze_dim::<4>(1))?);
        }
        let read: Vec<_> = pictures.par_iter().map(fit::look).collect();
        let share = |right: &dyn Fn(&Scene, fit::Seen) -> bool| -> Estimate {
            let checked = wanted.iter().zip(&read);
            let right: Vec<_> = checked
                .map(|((scene, _), seen)| right(scene, *seen))
                .collect();
            right_of(&right)
        };
        let objects = wanted.iter().zip(&read);
        let objects: Vec<bool> = objects
            .map(|((_, object), seen)| *object == seen.object)
            .collect();
        let generated = Generated {
            object: right_of(&objects),
            background: share(&|scene, seen| seen.background == scene.background),
            count: share(&|scene, seen| seen.count == scene.count()),
        };
        pictures.truncate(SHOWN);
        Ok((generated, sheet::grid(&pictures, ACROSS)))
    }
}

/// The original in the size of what the decoder makes of it.
fn resized(original: &RgbImage, like: &RgbImage) -> RgbImage {
    let (width, height) = like.dimensions();
    media::resize::bicubic(original, width, height)
}
