//! The two stages of the vision tower (paper section 3.1).
//!
//! *Align*: image and text encoder learn a common space with the sigmoid contrastive loss. It stands
//! for starting from weights that are already aligned.
//!
//! *Tower*: the text encoder stays as it is, and the quantized features learn to match its texts
//! and to be drawn again: `w_contra L_contra + w_recon (w_pixel L_pixel + w_commit L_commit)`. The codebooks
//! follow the features as running means.

use std::path::Path;
use std::sync::Arc;

use burn::module::Module;
use burn::tensor::{Device, Int, Tensor, TensorData};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use super::prefetch::Reader;
use super::recipe::{self, NanoData, PixelLoss, Recipe};
use super::run::{Losses, Objective, mix};
use super::sheet::save_sheet;
use crate::data::nano::{Scene, Split};
use crate::media::preprocess::normalize;
use crate::text::SiglipTokenizer;
use crate::tower::siglip::{TextModel, normalise};
use crate::tower::{RqVaeSiglip, sigmoid_loss};
use crate::{Error, Result};

/// Held-out pictures an evaluation looks at, and how many of them at once.
const EVALUATED: usize = 128;
const AT_ONCE: usize = 32;
/// Pictures on a sample sheet.
const SHOWN: usize = 16;

/// Pictures and their captions, on the host.
pub struct Captioned {
    /// `[n, 3, size, size]` in -1..1
    pixels: Vec<f32>,
    /// `[n, tokens]`
    ids: Vec<i64>,
}

/// Draws captioned pictures of the nano world.
#[derive(Clone)]
struct Pictures {
    tokenizer: Arc<SiglipTokenizer>,
    data: NanoData,
    size: usize,
}

impl Pictures {
    /// `count` scenes of a split, `first` on.
    fn draw(&self, split: Split, seed: u64, first: u64, count: usize) -> Captioned {
        let mut pixels = Vec::with_capacity(count * 3 * self.size * self.size);
        let mut ids = Vec::new();
        for index in first..first + count as u64 {
            // Every so many scenes one is of the gallery: exactly the share, in any stretch.
            let gallery = |index: u64| (index as f64 * self.data.gallery) as u64;
            let scene = if gallery(index + 1) > gallery(index) {
                Scene::sample_gallery(split, seed, index)
            } else {
                Scene::sample(split, seed, index)
            };
            pixels.extend(normalize(&scene.render(self.size as u32)));
            ids.extend(self.tokenizer.encode(&scene.caption()));
        }
        Captioned { pixels, ids }
    }
}

impl Captioned {
    fn tensors(self, size: usize, device: &Device) -> (Tensor<4>, Tensor<2, Int>) {
        let count = self.pixels.len() / (3 * size * size);
        let tokens = self.ids.len() / count;
        let pixels = TensorData::new(self.pixels, [count, 3, size, size]);
        let ids = TensorData::new(self.ids, [count, tokens]);
        (
            Tensor::from_data(pixels, device),
            Tensor::from_data(ids, device),
        )
    }
}

/// Which of the two stages.
enum Stage {
    Align,
    Tower {
        losses: recipe::Tower,
        /// The frozen text encoder, off the tape.
        texts: Box<TextModel>,
    },
}

/// The objective of both stages.
pub struct TowerObjective {
    stage: Stage,
    pictures: Pictures,
    seed: u64,
    batch_size: usize,
    device: Device,
}

impl TowerObjective {
    pub fn new(
        recipe: &Recipe,
        objective: &recipe::Objective,
        tokenizer: Arc<SiglipTokenizer>,
        size: usize,
        model: &RqVaeSiglip,
        device: &Device,
    ) -> Result<Self> {
        let stage = match objective {
            recipe::Objective::Align(_) => Stage::Align,
            recipe::Objective::Tower(losses) => Stage::Tower {
                losses: losses.clone(),
                texts: Box::new(model.siglip_model.text_model.clone().valid()),
            },
            _ => return Err(Error::usage("recipe: not a stage of the vision tower")),
        };
        Ok(Self {
            stage,
            pictures: Pictures {
                tokenizer,
                data: recipe.data.clone(),
                size,
            },
            seed: recipe.seed,
            batch_size: recipe.batch_size,
            device: device.clone(),
        })
    }

    /// The same held-out pictures every time; part of them is of the gallery's unseen emoji.
    fn held_out(&self, first: usize, count: usize) -> (Tensor<4>, Tensor<2, Int>) {
        let device = self.device.clone().inner();
        let pictures = self.pictures.draw(Split::HeldOut, 0, first as u64, count);
        pictures.tensors(self.pictures.size, &device)
    }

    fn align(&self, model: &RqVaeSiglip, pixels: Tensor<4>, ids: Tensor<2, Int>) -> Losses {
        let images = model.image_embeds(pixels, false);
        let texts = model.text_embeds(ids);
        let contrastive = sigmoid_loss(model.siglip_model.logits_per_image(images, texts));
        Losses {
            total: contrastive.clone(),
            parts: vec![("contrastive", contrastive)],
        }
    }
}

/// The stage in which the tower learns to draw and match its codes.
fn tower(
    model: &mut RqVaeSiglip,
    pixels: Tensor<4>,
    texts: Tensor<2>,
    weights: &recipe::Tower,
    restart: &mut ChaCha8Rng,
) -> Losses {
    let features = model.features(pixels.clone());
    let quantized = model.quantizer.forward_train(features, restart);
    let images = model.feature_embeds(quantized.z_q.clone());
    let contrastive = sigmoid_loss(model.siglip_model.logits_per_image(images, texts));
    let difference = model.decode(quantized.z_q) - pixels;
    let pixel = match weights.pixel {
        PixelLoss::L1 => difference.abs().mean(),
        PixelLoss::L2 => difference.square().mean(),
    };
    let commitment = quantized.commitment_loss;
    let reconstruction =
        pixel.clone() * weights.pixel_weight + commitment.clone() * weights.commitment;
    let total = contrastive.clone() * weights.contrastive + reconstruction * weights.reconstruction;
    Losses {
        total,
        parts: vec![
            ("contrastive", contrastive),
            ("pixel", pixel),
            ("commitment", commitment),
        ],
    }
}

impl Objective<RqVaeSiglip> for TowerObjective {
    type Batch = Captioned;

    fn reader(&self) -> Reader<Captioned> {
        let (pictures, seed, count) = (self.pictures.clone(), self.seed, self.batch_size);
        Box::new(move |index| Ok(pictures.draw(Split::Train, seed, index * count as u64, count)))
    }

    fn independent(&self) -> bool {
        // Quantizing moves the codebooks.
        matches!(self.stage, Stage::Align)
    }

    fn trains(&self, path: &str) -> bool {
        match self.stage {
            Stage::Align => path.starts_with("siglip_model."),
            Stage::Tower { .. } => {
                let fixed = ["siglip_model.text_model.", "quantizer."];
                !fixed.iter().any(|part| path.starts_with(part))
            }
        }
    }

    fn losses(&self, model: &mut RqVaeSiglip, batch: Captioned, step: u64) -> Result<Losses> {
        let size = self.pictures.size;
        Ok(match &self.stage {
            Stage::Align => {
                let (pixels, ids) = batch.tensors(size, &self.device);
                self.align(model, pixels, ids)
            }
            Stage::Tower { losses, texts } => {
                let (pixels, ids) = batch.tensors(size, &self.device);
                let texts = Tensor::from_inner(normalise(texts.pooled(ids.inner())));
                let mut restart = ChaCha8Rng::seed_from_u64(mix(self.seed, step));
                tower(model, pixels, texts, losses, &mut restart)
            }
        })
    }

    /// `matching`: how often a picture's own caption fits it best, among those of 32 pictures.
    /// `psnr` in dB; `codes_used`: share of the codebook's rows in use, over all depths.
    fn evaluate(&self, model: &RqVaeSiglip) -> Result<Vec<(&'static str, f64)>> {
        let model = model.clone().valid();
        let quantizes = matches!(self.stage, Stage::Tower { .. });
        let (mut matched, mut psnr) = (0, 0.0);
        let mut used = vec![false; model.quantizer.codes()];
        for first in (0..EVALUATED).step_by(AT_ONCE) {
            let (pixels, ids) = self.held_out(first, AT_ONCE);
            let mut features = model.features(pixels.clone());
            if quantizes {
                let quantized = model.quantize(features);
                for code in quantized.codes.into_data().iter::<i64>() {
                    used[code as usize] = true;
                }
                let drawn = model.decode(quantized.z_q.clone()).clamp(-1.0, 1.0);
                let error: Tensor<2> = (drawn - pixels).square().flatten::<2>(1, 3).mean_dim(1);
                // The values span 2, so the peak signal is 2.
                psnr += error
                    .into_data()
                    .iter::<f32>()
                    .map(|error| 10.0 * (4.0 / f64::from(error)).log10())
                    .sum::<f64>();
                features = quantized.z_q;
            }
            let images = model.feature_embeds(features);
            let logits = images.matmul(model.text_embeds(ids).transpose());
            let best = logits.argmax(1).into_data();
            matched += best
                .iter::<i64>()
                .zip(0..)
                .filter(|(best, own)| best == own)
                .count();
        }
        let count = EVALUATED as f64;
        let mut metrics = vec![("matching", matched as f64 / count)];
        if quantizes {
            let share = used.iter().filter(|used| **used).count() as f64 / used.len() as f64;
            metrics.extend([("psnr", psnr / count), ("codes_used", share)]);
        }
        Ok(metrics)
    }

    /// Held-out pictures, each with its reconstruction below.
    fn sample(&self, model: &RqVaeSiglip, path: &Path) -> Result<()> {
        if matches!(self.stage, Stage::Align) {
            return Ok(());
        }
        let model = model.clone().valid();
        let (pixels, _) = self.held_out(0, SHOWN);
        let drawn = model.decode(model.encode(pixels.clone()).z_q);
        save_sheet(path, pixels, drawn)
    }
}
